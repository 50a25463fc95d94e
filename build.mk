# Targets that run things: dependencies, the model, tests, checks, load, containers. Included by the Makefile.

# The model of run and demo when MODEL=… is given: none means grist, the one inside the binary. What measures takes SmolLM2.
SMOL  := models/SmolLM2-135M-Instruct.Q4_1.gguf
MODEL :=
VENV  := build/venv

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' Makefile build.mk | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

deps-build:
	@tools/deps.sh build
deps-test:
	@tools/deps.sh test
deps-bench:
	@tools/deps.sh bench
.PHONY: deps-build deps-test deps-bench

# --- run ----------------------------------------------------------------------------------------------------
model: ## fetch SmolLM2-135M-Instruct (GGUF, Q4_1) into models/
	@tools/model.sh

run: all ## build, serve grist (or MODEL=FILE), compare structures in a demonstration, keep serving until Ctrl-C
	@tools/demo.sh build/quern $(MODEL)

demo: all ## the same, and stop after the demonstration
	@QUERN_DEMO_ONCE=1 tools/demo.sh build/quern $(MODEL) </dev/null

quality: all ## held-out quality of every structure of grist (or MODEL=FILE) on the last tenth of TEXT=FILE
	@tools/quality.py $(if $(MODEL),--model $(MODEL)) $(QUALITY_ARGS) build/quern $(TEXT)
.PHONY: quality

# --- test ---------------------------------------------------------------------------------------------------
$(VENV)/ok: tests/requirements.txt
	@test -d $(VENV) || python3 -m venv $(VENV)
	@$(VENV)/bin/pip install -q --disable-pip-version-check -r tests/requirements.txt
	@touch $@

test: deps-test ## all tests that CI runs (installs what is missing; under 20 minutes)
	@tests/run.sh short

test-full: deps-test ## the tests at full length: TSan over everything, long random traces
	@tests/run.sh full

asan: deps-test ## unit, engine and HTTP tests under address and undefined-behaviour sanitizers
	@tests/run.sh asan
ubsan: deps-test ## the same under the undefined-behaviour sanitizer alone, optimised
	@tests/run.sh ubsan
tsan: deps-test ## the same under the thread sanitizer, full length
	@tests/run.sh tsan

fuzz: ## every libFuzzer target for 60 s (SECONDS_EACH=N to change); prints a dated table
	@tools/deps.sh fuzz
	@$(MAKE) --no-print-directory -j2 FLAVOUR=fuzz fuzz-bins
	@tests/fuzz/run.sh $${SECONDS_EACH:-60}

# --- static checks ------------------------------------------------------------------------------------------
check: ## warnings as errors (gcc, clang), clang-tidy, cppcheck, format, layering, symbols, deploy validators
	@tools/deps.sh check
	@tools/check.sh

fmt: ## format every C file
	@tools/deps.sh check
	clang-format -i $$(git ls-files '*.c' '*.h')

# --- measure ------------------------------------------------------------------------------------------------
bench: all model deps-bench ## throughput of the model on this machine, and HTTP beside nginx (tests/bench)
	@tests/bench/run.sh

bench-structures: all ## every structure at two published shapes, and the goals they must meet (20 minutes)
	@tests/bench/structures.sh
.PHONY: bench-structures

# PEER_ARGS='--peer-bench DIR/llama-bench --peer-batched DIR/llama-batched-bench --peer-server DIR/llama-server --models FILE…'
bench-peer: all ## quern beside a llama.cpp given by path: PEER_ARGS='--peer-bench PATH --models FILE…' (tests/bench/peer.sh)
	@tests/bench/peer.sh $(PEER_ARGS)

bench-livez: all model deps-bench ## /livez beside a bare libmicrohttpd loop, and its latency while prompts are read
	@tests/bench/livez.sh $(SMOL)
.PHONY: bench-peer bench-livez

load: all model deps-bench ## wrk scripts of tests/load against a fresh server; one table
	@tests/load/run.sh build/quern $(SMOL)

# --- install ------------------------------------------------------------------------------------------------
# QUERN=FILE installs that binary instead of building one.
PREFIX  ?= /usr/local
DESTDIR ?=
AT      := $(DESTDIR)$(PREFIX)
INSTALLED := $(AT)/bin/quern $(AT)/share/man/man1/quern.1 $(AT)/share/bash-completion/completions/quern
install: $(if $(QUERN),,all) ## install binary, man page and bash completion (PREFIX=/usr/local, DESTDIR=)
	@mkdir -p $(dir $(INSTALLED))
	@install -m 755 $(or $(QUERN),build/quern) $(AT)/bin/quern
	@$(AT)/bin/quern man > $(AT)/share/man/man1/quern.1
	@$(AT)/bin/quern completion bash > $(AT)/share/bash-completion/completions/quern
	@chmod 644 $(wordlist 2,3,$(INSTALLED))
	@printf 'installed %s\n' $(INSTALLED)

uninstall: ## remove them again
	rm -f $(INSTALLED)

docs: all ## write the tables of docs/api.md anew
	@tools/docs.py build/quern
.PHONY: install uninstall docs

docker: ## build the container image from docker/Dockerfile
	docker build -f docker/Dockerfile -t quern:$(VERSION) .

clean: ## remove build/
	rm -rf build
