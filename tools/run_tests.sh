#!/bin/sh
# Runs the tests whose programs the Makefile has built: tools/run_tests.sh all|fast
#
# A step is one program or script. Steps run side by side, each into build/test/STEP.log; a
# step that passes prints one line, one that fails prints its log. The counts of a step are
#   Criterion's "Tested: N | Passing: N | Failing: N | Crashing: N", else
#   a line "N passed, N failed" or "N passed, N failed, N skipped", else
#   one test, by the exit status.
# PLAIN, in the environment, names the tests to run without sanitizers.
# Scripts of a step get, in the environment: CC, CODECS, LIBS, JOBS, BUILD (a directory of
# their own, absolute), and AQ (the command, absolute). The last line printed is the total.
set -u
cd "$(dirname "$0")/.." || exit 1
: "${CC:=gcc}" "${CODECS:=}" "${LIBS:=-pthread -lm}" "${JOBS:=2}"
export CC CODECS LIBS JOBS
# Under AddressSanitizer a refused allocation is NULL, as it is without.
export ASAN_OPTIONS=allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1
# Steps run side by side already; and Criterion's own runner leaks where it has several jobs.
export CRITERION_JOBS=1
export AQ="$PWD/build/aq"
out=build/test

# --- Which steps ----------------------------------------------------------------------------
# Scripts first, they take long, so that the machine is busy to the end.

list() {
    set=$1
    # interop installs the packages that the commands of docs need.
    [ "$set" = fast ] || echo interop
    for script in tests/*/run.sh; do
        name=$(basename "$(dirname "$script")")
        case $name in cross | interop) continue ;; esac # make cross
        case $set-$name in fast-arrow | fast-thrift | fast-docs | fast-fuzz) continue ;; esac
        echo "$name"
    done
    if [ "$set" = all ]; then
        echo fuzz_smoke
        echo cli-asan
        each tsan 'tests/test_threads*.c'
        each asan 'tests/test_*.c'
    fi
    for name in $PLAIN; do echo "plain/$name"; done
    [ "$set" = all ] && each example 'examples/*.c'
    echo check_header
    echo check_header_test
}

each() {
    for file in $2; do
        if [ -f "$file" ]; then echo "$1/$(basename "$file" .c)"; fi
    done
}

# --- One step -------------------------------------------------------------------------------

# A program that did not compile is missing.
built() {
    [ -x "$1" ] || { echo "$1 was not built, see above"; return 1; }
}

program() {
    built "$1" && "$1"
}

# An example runs in an empty directory, by tests/examples/NAME.sh where that exists (with the
# examples in $EXAMPLES), else without arguments. What it prints on stdout is compared with
# examples/NAME.expected.
example() {
    here=$PWD
    export EXAMPLES="$PWD/build/examples"
    rm -rf "$BUILD/run" && mkdir -p "$BUILD/run" && cd "$BUILD/run" || return 1
    if [ -f "$here/tests/examples/$1.sh" ]; then
        sh "$here/tests/examples/$1.sh" >../stdout 2>../stderr
    else
        program "$EXAMPLES/$1" >../stdout 2>../stderr
    fi
    status=$?
    cat ../stdout ../stderr
    if [ -f "$here/examples/$1.expected" ]; then
        diff "$here/examples/$1.expected" ../stdout || status=1
    fi
    return $status
}

# ThreadSanitizer of gcc 12 fails where addresses are randomized widely (vm.mmap_rnd_bits > 28).
no_aslr=
if setarch -R true 2>/dev/null; then no_aslr='setarch -R'; fi

run_step() {
    case $1 in
    plain/* | asan/*) program "build/$1" 2>&1 ;;
    tsan/*)    built "build/$1" && $no_aslr "build/$1" 2>&1 ;;
    example/*) example "${1#example/}" 2>&1 ;;
    cli)       built build/aq && sh tests/cli/run.sh 2>&1 ;;
    cli-asan)  built build/asan/aq && AQ=$PWD/build/asan/aq NO_BROWSER=1 sh tests/cli/run.sh 2>&1 ;;
    fuzz_smoke)        sh tests/fuzz/fuzz.sh 4 2>&1 ;;
    check_header)      sh tools/check_header arrowquant.h 2>&1 ;;
    check_header_test) sh tests/check_header_test.sh 2>&1 ;;
    *)         sh "tests/$1/run.sh" 2>&1 ;;
    esac
}

# Prints "PASSED FAILED SKIPPED" of a finished step.
count() {
    awk -v status="$2" '
        /Synthesis: Tested: [0-9]+ \| Passing:/ {
            sub(/.*Tested: /, ""); split($0, w, /[^0-9]+/)
            pass = w[2]; fail = w[3] + w[4]; counted = 1
        }
        /^[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?$/ {
            pass = $1; fail = $3; skip = $5 + 0; counted = 1
        }
        # Criterion does not see what a sanitizer finds at the exit of a test: a leak.
        /ERROR: [A-Za-z]+Sanitizer|WARNING: ThreadSanitizer|: runtime error: / { sanitizer = 1 }
        END {
            if (!counted) { pass = status == 0; fail = status != 0 }
            else if (pass + fail + skip == 0) fail = 1      # it ran nothing
            else if (fail == 0 && status != 0) fail = 1
            if (fail == 0 && sanitizer) { fail = 1; if (pass > 0) pass-- }
            print pass + 0, fail + 0, skip + 0
        }' "$1"
}

if [ "$1" = step ]; then
    step=$2
    BUILD=$PWD/$out/$step
    export BUILD
    mkdir -p "$BUILD"
    log=$BUILD.log
    start=$(date +%s)
    (run_step "$step") >"$log" </dev/null
    counts=$(count "$log" $?)
    seconds=$(($(date +%s) - start))
    echo "$counts" >"$BUILD.counts"
    # One write a step, so that steps that end together do not mix.
    echo "$counts" | {
        read -r pass fail skip
        text="$pass passed"
        [ "$fail" -ne 0 ] && text="$text, $fail FAILED"
        [ "$skip" -ne 0 ] && text="$text, $skip skipped"
        result=ok
        [ "$fail" -ne 0 ] && result=FAIL
        printf '%-4s  %-32s %s, %s s\n' "$result" "$step" "$text" "$seconds"
        if [ "$fail" -ne 0 ] || [ "$skip" -ne 0 ]; then sed 's/^/      | /' "$log" | head -n 400; fi
    } >"$BUILD.report"
    cat "$BUILD.report"
    exit 0
fi

# --- All steps, and the total -----------------------------------------------------------------

rm -rf "$out"
mkdir -p "$out"
echo "== Tests"
list "$1" >"$out/steps"
xargs -P "$JOBS" -n 1 sh "$0" step <"$out/steps"

passed=0 failed=0 skipped=0
while read -r step; do
    pass=0 fail=1 skip=0
    [ -f "$out/$step.counts" ] && read -r pass fail skip <"$out/$step.counts"
    passed=$((passed + pass)) failed=$((failed + fail)) skipped=$((skipped + skip))
done <"$out/steps"
total="$passed passed, $failed failed"
[ "$skipped" -ne 0 ] && total="$total, $skipped skipped"
echo "$total" | tee "$out/total"
[ "$failed" -eq 0 ] && [ "$passed" -ne 0 ]
