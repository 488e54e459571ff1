# arrowquant.h needs no build: copy the header. This file builds what stands beside it
# (the aq command, examples, benches) and runs the tests. All output goes to build/.
#
#   make            build/aq and build/examples/*
#   make install    the header, aq and their manual pages
#   make help       every target
#
# Variables: CC, AR, CFLAGS (replaces -O2 -g), EXTRA_CFLAGS (added), JOBS, V=1 (show commands).

CC           = gcc
CFLAGS       = -O2 -g
EXTRA_CFLAGS =
JOBS        := $(shell nproc 2>/dev/null || echo 2)

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

# A command is shown as one word and its output, or in full with V=1.
ifeq ($(V),1)
  say = @:
  run =
else
  say = @echo ' ' $1 $@
  run = @
endif

# --- Warnings -------------------------------------------------------------------------
# The header and what ships with it obey all of them. Tests do not have to obey the second
# line, which the macros of Criterion break.

WARN_ALL  := -Wall -Wextra -Werror
WARN_MORE := -pedantic -Wconversion -Wsign-conversion -Wshadow -Wstrict-prototypes \
             -Wmissing-prototypes -Wundef -Wcast-qual
STRICT    := -std=c99 $(WARN_MORE) $(WARN_ALL)

# --- Codecs ---------------------------------------------------------------------------
# ZSTD and Snappy always; the others when the header has them and their library is installed.

has = $(shell grep -q $1 arrowquant.h && echo '\#include <$2>' | $(CC) -E -x c - \
              >/dev/null 2>&1 && echo yes)

CODECS := -DAQ_WITH_ZSTD -DAQ_WITH_SNAPPY
LIBS   := -lzstd -lsnappy
ifeq ($(call has,AQ_WITH_ZLIB,zlib.h),yes)
  CODECS += -DAQ_WITH_ZLIB
  LIBS   += -lz
endif
ifeq ($(call has,AQ_WITH_LZ4,lz4.h),yes)
  CODECS += -DAQ_WITH_LZ4
  LIBS   += -llz4
endif
ifeq ($(call has,AQ_WITH_BROTLI,brotli/decode.h),yes)
  CODECS += -DAQ_WITH_BROTLI
  LIBS   += -lbrotlienc -lbrotlidec -lbrotlicommon
endif
LIBS += -pthread -lm

# The command reads configurations with libyaml, where that is installed.
ifeq ($(call has,AQ_API,yaml.h),yes)
  AQ_FLAGS := -DAQ_WITH_YAML
  AQ_LIBS  := -lyaml
endif

# build/flags changes when a codec or a flag does, and with it everything is rebuilt.
FLAGS := $(CC) $(CFLAGS) $(EXTRA_CFLAGS) $(CODECS) $(AQ_FLAGS)
ifneq ($(FLAGS),$(file <build/flags))
  $(shell mkdir -p build)
  $(file >build/flags,$(FLAGS))
endif

# --- The implementation as an archive, once for each configuration -------------------------
# build/plain, build/asan (AddressSanitizer and UBSan), build/tsan (ThreadSanitizer), build/cov
# (gcov).

CFLAGS_plain = $(CFLAGS)
CFLAGS_asan  = -O1 -g1 -fno-omit-frame-pointer -fsanitize=address,undefined \
               -fno-sanitize-recover=all
CFLAGS_tsan  = -O1 -g1 -fsanitize=thread
CFLAGS_cov   = -O0 -g1 --coverage -fprofile-update=atomic

TESTS         := $(patsubst tests/%.c,%,$(wildcard tests/test_*.c))
THREAD_TESTS  := $(filter test_threads%,$(TESTS))
EXAMPLES      := $(patsubst %.c,build/%,$(wildcard examples/*.c))
BENCHES       := $(patsubst %.c,build/%,$(wildcard bench/*.c))

# tools/aq_impl.c is the file that compiles the implementation.
AQ_OBJECTS    := $(patsubst tools/%.c,%.o,$(filter-out tools/aq_impl.c,$(wildcard tools/aq*.c)))

# A test either links the archive or defines AQ_STATIC and ARROWQUANT_IMPLEMENTATION itself.
# tests/tsan/ has a stand-in for Criterion, whose processes ThreadSanitizer cannot follow.
CRITERION_plain = -lcriterion
CRITERION_asan  = -lcriterion
CRITERION_cov   = -lcriterion
CRITERION_tsan  =
INCLUDE_tsan    = -Itests/tsan

define configuration
build/$1/%.o: tools/%.c build/flags
	$$(call say,cc  )
	@mkdir -p $$(@D)
	$$(run)$$(CC) $$(STRICT) $$(CFLAGS_$1) $$(EXTRA_CFLAGS) $$(CODECS) $$(AQ_FLAGS) -MMD -MP \
	    -c $$< -o $$@

build/$1/libarrowquant_impl.a: build/$1/aq_impl.o
	@rm -f $$@
	@$$(AR) rcs $$@ $$<

build/$1/test_%: tests/test_%.c build/$1/libarrowquant_impl.a build/flags
	$$(call say,cc  )
	@rm -f $$@
	$$(run)$$(CC) -std=gnu11 $$(WARN_ALL) $$(INCLUDE_$1) $$(CFLAGS_$1) $$(EXTRA_CFLAGS) $$(CODECS) \
	    -MMD -MP $$< -o $$@ build/$1/libarrowquant_impl.a $$(CRITERION_$1) $$(LIBS)

# The command, dynamic; with sanitizers for its own tests.
build/$1/aq: $(AQ_OBJECTS:%=build/$1/%) build/$1/libarrowquant_impl.a
	$$(call say,link)
	$$(run)$$(CC) $$(CFLAGS_$1) $$(EXTRA_CFLAGS) $$^ -o $$@ $$(AQ_LIBS) $$(LIBS)
endef
$(foreach name,plain asan tsan cov,$(eval $(call configuration,$(name))))

# What has the implementation in itself compiles in half the time with -O1. The archive, which
# most tests link, has $(CFLAGS), and so have the tests of kernels. With sanitizers it is -O1
# anyway, so that make test runs the others with sanitizers alone.
quicker   = $(subst -O2,-O1,$(CFLAGS))
OWN_TESTS := $(patsubst tests/%.c,%,$(shell grep -lE '^ *\# *define +ARROWQUANT_IMPLEMENTATION' \
                                      $(wildcard tests/test_*.c)))
O1_TESTS  := $(filter-out test_kernels test_matmul,$(OWN_TESTS))
$(O1_TESTS:%=build/plain/%): private CFLAGS_plain = $(quicker)

# --- The aq command, examples, benches --------------------------------------------------

DEMO := $(addprefix build/examples/,train_digits run_digits train_diffusion tiny_diffusion)

.PHONY: all aq examples demo bench bench-peers
all: aq examples
aq: build/aq ;
examples: $(EXAMPLES) ;

# One static file where the static libraries are installed (libsnappy.a needs libstdc++.a,
# which comes with g++), else dynamic.
build/aq: $(AQ_OBJECTS:%=build/plain/%) build/plain/libarrowquant_impl.a
	@$(CC) $(CFLAGS) $(EXTRA_CFLAGS) -static $^ -o $@ $(AQ_LIBS) $(LIBS) -lstdc++ 2>build/aq.log \
	    && echo '  link $@ (static)' \
	    || { $(CC) $(CFLAGS) $(EXTRA_CFLAGS) $^ -o $@ $(AQ_LIBS) $(LIBS) && echo '  link $@ (dynamic)'; }

# Examples define ARROWQUANT_IMPLEMENTATION themselves, as a user's program does.
$(filter-out $(DEMO),$(EXAMPLES)): private CFLAGS := $(quicker)
build/examples/%: examples/%.c build/flags
	$(call say,cc  )
	@mkdir -p $(@D)
	$(run)$(CC) $(STRICT) $(CFLAGS) $(EXTRA_CFLAGS) $(CODECS) -I. -MMD -MP $< -o $@ $(LIBS)

build/bench/%: bench/%.c build/plain/libarrowquant_impl.a build/flags
	$(call say,cc  )
	@mkdir -p $(@D)
	$(run)$(CC) -std=gnu11 $(WARN_ALL) $(CFLAGS) $(EXTRA_CFLAGS) $(CODECS) -MMD -MP \
	    $< -o $@ build/plain/libarrowquant_impl.a $(LIBS)

# One program of several files, with an engine in each.
PEERS := $(wildcard bench/peers/*.c)
build/bench/peers: $(PEERS) $(wildcard bench/*.h bench/peers/*.h) \
                   build/plain/libarrowquant_impl.a build/flags
	$(call say,cc  )
	@mkdir -p $(@D)
	$(run)$(CC) -std=gnu11 $(WARN_ALL) $(CFLAGS) $(EXTRA_CFLAGS) $(CODECS) \
	    $(PEERS) -o $@ build/plain/libarrowquant_impl.a $(LIBS) -ldl

-include $(wildcard build/*.d build/*/*.d)

# The recursive make sees what deps.sh has installed.
demo:
	@sh tools/deps.sh demo
	@$(MAKE) -j $(JOBS) build/aq $(DEMO)
	@CC='$(CC)' sh tools/demo.sh

# bench_quality takes two minutes with its default of 64 Mi values.
BENCH_RUNS := $(filter-out build/bench/bench_quality,$(BENCHES)) \
              'build/bench/bench_quality 4' 'build/aq bench'
bench:
	@sh tools/deps.sh demo
	@$(MAKE) -j $(JOBS) build/aq $(BENCHES)
	@set -e; for b in $(BENCH_RUNS); do echo "== $$b"; $$b; done

# ARGS: arguments of build/bench/peers, for example ARGS='--mib 64 --case read.list'.
bench-peers:
	@sh tools/deps.sh peers
	@$(MAKE) -j $(JOBS) build/bench/peers
	@sh bench/peers/run.sh $(ARGS)

# --- Tests --------------------------------------------------------------------------------

.PHONY: test check test-programs check-programs run-tests run-check
test:
	@sh tools/deps.sh test
	@$(MAKE) run-tests

check:
	@sh tools/deps.sh test
	@$(MAKE) run-check

PLAIN_TESTS    := $(filter-out $(O1_TESTS),$(TESTS))
CHECK_PROGRAMS := build/aq $(TESTS:%=build/plain/%)
TEST_PROGRAMS  := $(THREAD_TESTS:%=build/tsan/%) $(TESTS:%=build/asan/%) build/asan/aq \
                  build/fuzz/replay build/fuzz/libfuzzer build/aq \
                  $(PLAIN_TESTS:%=build/plain/%) $(EXAMPLES)
check-programs: $(CHECK_PROGRAMS)
test-programs: $(TEST_PROGRAMS)

# What does not build fails in run_tests.sh, as one step of many. A program of an earlier build
# must not stand in for it.
RUN = CC='$(CC)' CODECS='$(CODECS)' LIBS='$(LIBS)' JOBS='$(JOBS)' sh tools/run_tests.sh
drop_stale = for p in $1; do $(MAKE) -q $$p >/dev/null 2>&1 || rm -f $$p; done
run-tests:
	@$(MAKE) -k -j $(JOBS) test-programs || $(call drop_stale,$(TEST_PROGRAMS))
	@PLAIN='$(PLAIN_TESTS)' $(RUN) all
run-check:
	@$(MAKE) -k -j $(JOBS) check-programs || $(call drop_stale,$(CHECK_PROGRAMS))
	@PLAIN='$(TESTS)' $(RUN) fast

# --- Fuzzing ------------------------------------------------------------------------------
# The targets of tests/fuzz/targets.h: build/fuzz/libfuzzer by clang's libFuzzer,
# build/fuzz/replay without it.

.PHONY: fuzz fuzz-smoke
FUZZ_CC      := clang
TARGET       := file
SECONDS      := 60

# The header, but each allocation from an arena is a block of its own, so that
# AddressSanitizer sees its end. Fails when one of the two lines is not as it was.
build/fuzz/arrowquant.h: arrowquant.h
	@mkdir -p $(@D)
	@sed -e 's/^    need &= ~(size_t)15;$$/    need = AQI_MAX(bytes, (size_t)1), arena->free_bytes = 0;/' \
	    -e 's/^        if (!aqi_arena_afford(arena, block_bytes)) {$$/        block_bytes = need; &/' \
	    $< >$@
	@[ $$(diff $< $@ | grep -c '^>') = 2 ] || { rm $@; echo 'Makefile: aqi_arena_take has changed' >&2; exit 1; }

build/fuzz/replay: tests/fuzz/replay.c build/fuzz/arrowquant.h build/flags
	$(call say,cc  )
	$(run)$(CC) -std=gnu11 $(WARN_ALL) $(CFLAGS_asan) $(EXTRA_CFLAGS) $(CODECS) -Ibuild/fuzz \
	    -MMD -MP $< -o $@ $(LIBS)

build/fuzz/libfuzzer: tests/fuzz/libfuzzer.c build/fuzz/arrowquant.h build/flags
	$(call say,cc  )
	$(run)$(FUZZ_CC) -std=gnu11 $(WARN_ALL) $(CFLAGS_asan) -fsanitize=fuzzer $(EXTRA_CFLAGS) \
	    $(CODECS) -Ibuild/fuzz -MMD -MP $< -o $@ $(LIBS)

# The recursive make sees what deps.sh has installed.
fuzz:
	@sh tools/deps.sh fuzz
	@$(MAKE) -j $(JOBS) build/fuzz/replay build/fuzz/libfuzzer
	@sh tests/fuzz/fuzz.sh $(SECONDS) $(TARGET)

fuzz-smoke:
	@sh tools/deps.sh fuzz
	@$(MAKE) -j $(JOBS) build/fuzz/replay build/fuzz/libfuzzer
	@sh tests/fuzz/fuzz.sh 4

# --- Analysers ----------------------------------------------------------------------------
# Over the header; each must have nothing to say of it. In clang's own headers it may.

.PHONY: analyze analyze-clang analyze-cppcheck analyze-sanitizers analyze-valgrind
analyze:
	@sh tools/deps.sh analyze
	@$(MAKE) analyze-cppcheck analyze-clang analyze-sanitizers analyze-valgrind

analyze-clang:
	@echo '  clang --analyze'
	@mkdir -p build
	@$(FUZZ_CC) --analyze -Xclang -analyzer-opt-analyze-headers -Xclang -analyzer-output=text \
	    -std=c99 $(CODECS) tools/aq_impl.c >build/analyze.log 2>&1 || { cat build/analyze.log; exit 1; }
	@! grep -A20 'arrowquant.h:[0-9:]* warning:' build/analyze.log

# cppcheck sees one configuration. What it gets wrong is marked in the header.
analyze-cppcheck:
	@echo '  cppcheck'
	@cppcheck --quiet --std=c99 --max-configs=1 --error-exitcode=1 --inline-suppr \
	    --enable=warning,portability,performance --suppress=missingIncludeSystem \
	    -DARROWQUANT_IMPLEMENTATION $(CODECS) \
	    $(shell $(CC) -dM -E -x c /dev/null | sed -n 's/^.define \(__[A-Z0-9_]*__\|__x86_64__\|__linux__\) \([0-9]*\)$$/-D\1=\2/p') \
	    tools/aq_impl.c

# What clang's sanitizers know and gcc's do not: pointers from NULL, conversions that lose
# values; with the tests of what computes most.
SANITIZED := quantize dequantize params diffusion jobs batch model arrow writer encodings statistics
analyze-sanitizers: $(SANITIZED:%=build/clang/test_%)
	@set -e; for t in $^; do echo "  run $$t"; CRITERION_JOBS=1 \
	    ASAN_OPTIONS=allocator_may_return_null=1 $$t >build/clang/log 2>&1 && \
	    ! grep -q 'runtime error' build/clang/log || { tail -n 20 build/clang/log; exit 1; }; done

CFLAGS_clang := -O1 -g1 -fno-sanitize-recover=all \
                -fsanitize=address,undefined,implicit-conversion,float-cast-overflow,local-bounds
build/clang/impl.o: tools/aq_impl.c arrowquant.h build/flags
	@mkdir -p $(@D)
	$(run)$(FUZZ_CC) -std=gnu11 $(CFLAGS_clang) $(CODECS) -c $< -o $@
build/clang/test_%: tests/test_%.c build/clang/impl.o
	$(run)$(FUZZ_CC) -std=gnu11 -g1 -w -fsanitize=address,undefined $(CODECS) $^ -o $@ -lcriterion $(LIBS)

# Values that were never written, which the sanitizers do not see. valgrind has no AVX-512: the
# kernels are those of AVX2.
VALGRIND_TESTS := thrift footer model params
analyze-valgrind: $(VALGRIND_TESTS:%=build/plain/test_%)
	@set -e; for t in $^; do echo "  valgrind $$t"; CRITERION_JOBS=1 valgrind -q \
	    --trace-children=yes --error-exitcode=9 $$t --timeout 600 >build/valgrind.log 2>&1 && \
	    ! grep -q '^==[0-9]*== ' build/valgrind.log || { tail -n 30 build/valgrind.log; exit 1; }; done

# --- Coverage -----------------------------------------------------------------------------
# Lines and branches of the header that the tests reach, by gcov; fails below the bars of
# tools/coverage.sh.

.PHONY: coverage coverage-programs
COVERAGE_PROGRAMS := $(TESTS:%=build/cov/%) build/cov/aq
coverage-programs: $(COVERAGE_PROGRAMS)
coverage:
	@sh tools/deps.sh coverage
	@$(MAKE) -j $(JOBS) coverage-programs
	@CC='$(CC)' JOBS='$(JOBS)' sh tools/coverage.sh

# --- Other machines -----------------------------------------------------------------------
# The unit tests, and what this machine computes and writes, bit for bit, under qemu-user.
# Needs cross compilers, which it names where they are missing; no part of make test.

.PHONY: cross
ARCHES := aarch64
cross:
	@CC='$(CC)' JOBS='$(JOBS)' sh tests/cross/run.sh $(ARCHES)

# --- Install ------------------------------------------------------------------------------
# Into $(DESTDIR)$(PREFIX), for programs to find in $(PREFIX). All of it is the same on every
# machine but aq itself, so that it goes to share/. No blanks in the names of directories.

.PHONY: install uninstall
PREFIX  = /usr/local
DESTDIR =
INSTALL = install

# SOURCE:WHERE, below PREFIX. In a SOURCE.in the version and the prefix are filled in.
INSTALLED := arrowquant.h:include/arrowquant.h \
    build/aq:bin/aq \
    docs/aq.1:share/man/man1/aq.1 \
    docs/arrowquant.3:share/man/man3/arrowquant.3 \
    tools/install/arrowquant.pc.in:share/pkgconfig/arrowquant.pc \
    tools/install/arrowquantConfig.cmake:share/cmake/arrowquant/arrowquantConfig.cmake \
    tools/install/arrowquantConfigVersion.cmake.in:share/cmake/arrowquant/arrowquantConfigVersion.cmake \
    tools/install/aq.bash:share/bash-completion/completions/aq \
    tools/install/_aq:share/zsh/site-functions/_aq

VERSION = $(shell sed -n 's/^\#define AQ_VERSION_STRING "\(.*\)"$$/\1/p' arrowquant.h)
prefix_is_absolute = case '$(PREFIX)' in /*) ;; \
    *) echo 'make $@: PREFIX must begin with /, not be "$(PREFIX)"' >&2; exit 1 ;; esac

install: build/aq
	@$(prefix_is_absolute)
	@set -e; for file in $(INSTALLED); do \
	    from=$${file%%:*} to='$(DESTDIR)$(PREFIX)'/$${file#*:} mode=644; \
	    if [ $$from = build/aq ]; then mode=755; fi; \
	    echo "  install $$to"; \
	    $(INSTALL) -d "$${to%/*}"; \
	    rm -f "$$to"; \
	    case $$from in \
	    *.in) sed -e 's|@VERSION@|$(VERSION)|' -e 's|@PREFIX@|$(PREFIX)|' $$from >"$$to"; \
	          chmod $$mode "$$to" ;; \
	    *)    $(INSTALL) -m $$mode $$from "$$to" ;; \
	    esac; \
	done

# Directories stay: others use them too, but for one.
uninstall:
	@$(prefix_is_absolute)
	@set -e; for file in $(INSTALLED); do \
	    at='$(DESTDIR)$(PREFIX)'/$${file#*:}; \
	    echo "  remove $$at"; \
	    rm -f "$$at"; \
	done
	@rmdir '$(DESTDIR)$(PREFIX)'/share/cmake/arrowquant 2>/dev/null || true

# --- Rest ---------------------------------------------------------------------------------

.PHONY: clean help
clean:
	rm -rf build

help:
	@echo 'make            build/aq and the examples'
	@echo 'make aq         the command alone'
	@echo 'make demo       a short tour of the command'
	@echo 'make test       everything: installs what is missing, builds, runs all tests'
	@echo 'make check      the fast part: header rules, compile tests, tests without sanitizers'
	@echo 'make bench      measure this machine'
	@echo 'make fuzz TARGET=file SECONDS=600'
	@echo '                libFuzzer on a target: build/fuzz/replay list names them'
	@echo 'make fuzz-smoke all of these, a minute together'
	@echo 'make analyze    the analyzer of clang, cppcheck, sanitizers of clang, valgrind'
	@echo 'make coverage   lines and branches of the header that the tests reach'
	@echo 'make bench-peers ARGS="--mib 64 --case read.list"'
	@echo '                beside DuckDB, polars and hyparquet, from npm'
	@echo 'make cross ARCHES="aarch64 arm i386 s390x musl optimizers"'
	@echo '                the tests for other machines, under qemu-user; for other compilers'
	@echo 'make install PREFIX=/usr/local DESTDIR='
	@echo '                header, aq, manual pages, pkg-config, CMake, completions'
	@echo 'make uninstall PREFIX=/usr/local DESTDIR='
	@echo '                remove these files'
	@echo 'make clean      remove build/'
	@echo 'make build/asan/aq build/asan/test_NAME build/tsan/test_threads'
	@echo '                one program with sanitizers'
