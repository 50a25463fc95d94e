# Targets that run things: dependencies, the model, tests, checks, load, containers. Included by the Makefile.

MODEL := models/SmolLM2-135M-Instruct.Q4_1.gguf
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

run: all model ## build, serve the model, send a demonstration request, keep serving until Ctrl-C
	@tools/demo.sh build/quern $(MODEL)

demo: all model ## the same, and stop after the demonstration
	@QUERN_DEMO_ONCE=1 tools/demo.sh build/quern $(MODEL) </dev/null

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

load: all model deps-bench ## wrk scripts of tests/load against a fresh server; one table
	@tests/load/run.sh build/quern $(MODEL)

docker: ## build the container image from docker/Dockerfile
	docker build -f docker/Dockerfile -t quern:$(VERSION) .

clean: ## remove build/
	rm -rf build
