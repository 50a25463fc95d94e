# quern: build, run, test. `make help` lists the targets. Output goes to build/<flavour>/; the plain binary is
# build/quern. Flavours: release (default), asan (address + undefined), ubsan, tsan, clang, fuzz (libFuzzer).

FLAVOUR ?= release
JOBS    ?= $(shell nproc)
# V=1 shows whole commands.
ifneq ($(V),1)
Q    := @
SAY   = @printf '  %-5s %s\n'
else
SAY   = @true
endif
ifeq ($(origin CC),default)
CC      := gcc
endif
B       := build/$(FLAVOUR)

# --- what is compiled -------------------------------------------------------------------------------------
LIB_SRC  := $(wildcard api/*.c model/*.c model/*/*.c kernels/*.c kernels/ref/*.c)
SRV_SRC  := $(filter-out server/main.c,$(wildcard server/*.c))
ifneq ($(filter x86_64 amd64,$(shell uname -m)),)
LIB_SRC  += $(wildcard kernels/x86/*.c)
endif

# --- flags ------------------------------------------------------------------------------------------------
PKGS      := libmicrohttpd libuv jansson libutf8proc
PKG_CFLAGS = $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKG_LIBS   = $(shell pkg-config --libs $(PKGS) 2>/dev/null)
BLAS_DIR  := $(firstword $(wildcard /usr/lib/*/openblas-pthread))
BLAS_INC  := $(firstword $(wildcard /usr/include/*/openblas-pthread))

VERSION   := 0.1.0
GIT_REV   := $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)

WARN      := -Wall -Wextra -Wconversion -Wshadow -Wvla -Walloca -Werror -Wstrict-prototypes -Wmissing-prototypes \
             -Wpointer-arith -Wundef
HARDEN    := -fPIE -fstack-protector-strong -fstack-clash-protection -D_FORTIFY_SOURCE=3
ifneq ($(filter x86_64 amd64,$(shell uname -m)),)
HARDEN    += -fcf-protection
endif
OPT       := -O3 -g -fno-math-errno -fno-trapping-math -ffp-contract=off
LDFLAGS   := -pie -Wl,-z,relro,-z,now -Wl,-z,noexecstack
SAN       :=
ifeq ($(FLAVOUR),asan)
OPT       := -O1 -g -fno-omit-frame-pointer -fno-math-errno -fno-trapping-math -ffp-contract=off
HARDEN    := -fPIE
SAN       := -fsanitize=address,undefined -fno-sanitize-recover=all
endif
ifeq ($(FLAVOUR),ubsan)
HARDEN    := -fPIE
SAN       := -fsanitize=undefined -fno-sanitize-recover=all
endif
ifeq ($(FLAVOUR),tsan)
OPT       := -O1 -g -fno-omit-frame-pointer -fno-math-errno -fno-trapping-math -ffp-contract=off
HARDEN    := -fPIE
SAN       := -fsanitize=thread
endif
ifeq ($(FLAVOUR),fuzz)
CC        := clang
OPT       := -O1 -g -fno-omit-frame-pointer -fno-math-errno -fno-trapping-math -ffp-contract=off
HARDEN    := -fPIE
SAN       := -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all
endif
ifeq ($(FLAVOUR),clang)
CC        := clang
endif
CFLAGS     = -std=c11 -D_GNU_SOURCE -I. $(WARN) $(HARDEN) $(OPT) $(SAN) -DQN_VERSION='"$(VERSION)"' \
             -isystem $(BLAS_INC)
LIBS       = $(PKG_LIBS) $(BLAS_DIR)/libopenblas.so -lm -lpthread

# Files of kernels/x86 carry their instruction set in their name and get its flags; nothing else does.
isa_flags = $(if $(findstring _avx512bf16.,$(1)),-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx512bf16 -mfma -mf16c,\
            $(if $(findstring _avx512vnni.,$(1)),-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mfma -mf16c,\
            $(if $(findstring _avx512.,$(1)),-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c,\
            $(if $(findstring _avx2.,$(1)),-mavx2 -mfma -mf16c,))))

# Files of kernels/x86 and kernels/ref walk arrays with size_t and intrinsics; all warnings stay on there too.
obj = $(patsubst %.c,$(B)/obj/%.o,$(1))
LIB_OBJ := $(call obj,$(LIB_SRC))
# The built-in model's files become part of quern itself (model/zoo/zoo.c) when they are in the tree. Test programs and
# fuzz targets are linked without them: dozens of copies of 24 MiB.
GRIST := $(wildcard model/zoo/grist/config.json model/zoo/grist/*.safetensors model/zoo/grist/tok*.json)
WITH_GRIST := $(if $(filter %.safetensors,$(GRIST)),$(B)/obj/model/zoo/zoo_grist.o,$(B)/obj/model/zoo/zoo.o)
FULL_OBJ := $(filter-out $(B)/obj/model/zoo/zoo.o,$(LIB_OBJ)) $(WITH_GRIST)
SRV_OBJ := $(call obj,$(SRV_SRC))
MAIN_OBJ := $(B)/obj/server/main.o
BIN := $(B)/quern

.PHONY: all run demo test test-full check fmt asan ubsan tsan bench load docker clean help model fuzz FORCE
.DEFAULT_GOAL := all
.SECONDARY: # objects are kept, also those that only a test needed

# A make of its own: what deps-build installed must be seen by the variables above.
all: deps-build ## build build/quern (installs missing build packages first)
	@$(MAKE) --no-print-directory -j$(JOBS) build/quern

ifeq ($(FLAVOUR),release)
build/quern: $(BIN)
	@cp -f $(BIN) $@
endif

# A change of revision or version rebuilds only what prints it.
$(B)/rev.h: FORCE
	@mkdir -p $(@D)
	@printf '#define QN_REVISION "%s"\n' '$(GIT_REV)' > $@.tmp
	@cmp -s $@.tmp $@ || cp $@.tmp $@
	@rm -f $@.tmp
FORCE:

# Fuzzing is about parsers: instrumenting the unrolled kernels would only take minutes of compile time.
ifeq ($(FLAVOUR),fuzz)
$(B)/obj/kernels/x86/%.o: SAN :=
endif

$(B)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(SAY) CC $<
	$(Q)$(CC) $(CFLAGS) -I$(B) $(PKG_CFLAGS) $(call isa_flags,$<) -MMD -MP -c $< -o $@
$(call obj,$(shell grep -l '"rev.h"' server/*.c)): | $(B)/rev.h
# The page's files, and the charts of Debian's package, become part of the binary.
CHART_JS := /usr/share/javascript/chart.js/chart.min.js
$(B)/obj/server/page.o: $(wildcard server/page/*) $(CHART_JS)
$(B)/obj/server/page.o: PKG_CFLAGS += -DQN_CHART_JS='"$(CHART_JS)"'
$(B)/obj/model/zoo/zoo_grist.o: model/zoo/zoo.c $(GRIST)
	@mkdir -p $(@D)
	$(SAY) CC "$< (with grist)"
	$(Q)$(CC) $(CFLAGS) -DQN_ZOO_GRIST='"model/zoo/grist"' -MMD -MP -c $< -o $@

$(BIN): $(MAIN_OBJ) $(SRV_OBJ) $(FULL_OBJ)
	$(SAY) LINK $@
	$(Q)$(CC) $(SAN) $(LDFLAGS) $^ $(LIBS) -o $@

# --- tests: every *_test.c below tests/ is a program of its own ---------------------------------------------
TEST_SRC     := $(shell find tests/unit tests/kernels tests/bad tests/oom tests/golden tests/engine -name '*_test.c' 2>/dev/null)
STUB_TEST_SRC := $(filter tests/engine/stub/%,$(TEST_SRC))
REAL_TEST_SRC := $(filter-out $(STUB_TEST_SRC),$(TEST_SRC))
REAL_TESTS   := $(patsubst tests/%_test.c,$(B)/tests/%_test,$(REAL_TEST_SRC))
STUB_TESTS   := $(patsubst tests/%_test.c,$(B)/tests/%_test,$(STUB_TEST_SRC))
SUPPORT_OBJ  := $(call obj,$(wildcard tests/support/*.c))
# server/ and api/ with a fake model.h in place of model/ and the kernels: scheduler, engine and HTTP tests.
STUB_OBJ     := $(call obj,$(wildcard api/*.c) $(wildcard tests/stub/*.c model/constrain/*.c) model/err.c kernels/mem.c kernels/cpu.c kernels/pool.c kernels/probe.c $(wildcard kernels/x86/cpuid.c kernels/x86/probe_*.c))
WRAP_ALLOC   := -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=posix_memalign,--wrap=aligned_alloc

ZOO_TEST := $(B)/tests/unit/model/zoo_test
$(ZOO_TEST): $(FULL_OBJ)
$(filter-out $(ZOO_TEST),$(REAL_TESTS)): $(LIB_OBJ)
$(REAL_TESTS): $(B)/tests/%_test: $(B)/obj/tests/%_test.o $(SUPPORT_OBJ) $(SRV_OBJ)
	@mkdir -p $(@D)
	$(SAY) LINK $@
	$(Q)$(CC) $(SAN) $(LDFLAGS) $(if $(findstring /oom/,$@),$(WRAP_ALLOC)) $^ -lcmocka $(LIBS) -o $@

$(STUB_TESTS): $(B)/tests/%_test: $(B)/obj/tests/%_test.o $(SRV_OBJ) $(STUB_OBJ)
	@mkdir -p $(@D)
	$(SAY) LINK $@
	$(Q)$(CC) $(SAN) $(LDFLAGS) $^ -lcmocka $(PKG_LIBS) -lm -lpthread -o $@

$(B)/tests/stub_server: $(B)/obj/tests/http/stub_server.o $(SRV_OBJ) $(STUB_OBJ)
	@mkdir -p $(@D)
	$(SAY) LINK $@
	$(Q)$(CC) $(SAN) $(LDFLAGS) $^ $(PKG_LIBS) -lm -lpthread -o $@

$(B)/bench/%: $(B)/obj/tests/bench/%.o $(SRV_OBJ) $(LIB_OBJ)
	@mkdir -p $(@D)
	$(SAY) LINK $@
	$(Q)$(CC) $(SAN) $(LDFLAGS) $^ $(LIBS) -o $@

# --- fuzz targets (FLAVOUR=fuzz, clang) -------------------------------------------------------------------
FUZZ_BIN := $(patsubst tests/fuzz/%_fuzz.c,$(B)/fuzz/%_fuzz,$(wildcard tests/fuzz/*_fuzz.c))
$(B)/fuzz/%_fuzz: $(B)/obj/tests/fuzz/%_fuzz.o $(LIB_OBJ)
	@mkdir -p $(@D)
	$(SAY) LINK $@
	$(Q)$(CC) -fsanitize=fuzzer,address,undefined $(LDFLAGS) $^ $(LIBS) -o $@

.PHONY: objects unit-bins fuzz-bins
objects: $(LIB_OBJ) $(WITH_GRIST) $(SRV_OBJ) $(MAIN_OBJ)
unit-bins: $(REAL_TESTS) $(STUB_TESTS)
fuzz-bins: $(FUZZ_BIN)

-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)
include build.mk
