#!/bin/sh
# Targets under libFuzzer, one after the other: tests/fuzz/fuzz.sh SECONDS [TARGET...]
# (see make fuzz; `build/fuzz/replay list` names them; without a name, all)
#
# What a target learns stays in build/fuzz/corpus/TARGET; an input that fails is written to
# build/fuzz/TARGET-crash-..., and the exit status is not 0. Last line: "N passed, N failed".
set -eu
cd "$(dirname "$0")/../.."
seconds=$1
shift
here=tests/fuzz
shared=../shared/parquet-testing
out=build/fuzz

for program in replay libfuzzer; do
    [ -x $out/$program ] || { echo "$out/$program was not built, see above"; exit 1; }
done
# shellcheck disable=SC2046  # a list of words
[ $# -gt 0 ] || set -- $($out/replay list)
mkdir -p $out/tmp
scratch=$(mktemp -d $out/tmp/fuzz.XXXXXX)
trap 'rm -rf "$scratch"' EXIT
$out/replay seeds "$scratch/seeds"

# Other writers' files, where they are: small ones, by links.
mkdir "$scratch/shared"
if [ -d $shared ]; then
    find "$PWD/$shared" -name '*.parquet*' -size -64k -exec ln -sf {} "$scratch/shared/" \;
fi

export TMPDIR="$scratch"
[ ! -w /dev/shm ] || export TMPDIR=/dev/shm
export ASAN_OPTIONS=allocator_may_return_null=1:quarantine_size_mb=32
export UBSAN_OPTIONS=print_stacktrace=1

# More memory or time than this, no input may ask for; the time is the clock's, and others may
# use the machine.
run() {
    length=65536
    case $1 in
    roundtrip | json | thrift | arrow | kernels) length=4096 ;;
    page) length=16384 ;;
    esac
    corpus=$out/corpus/$1
    mkdir -p "$corpus"
    set -- "$1" "$corpus" "$scratch/seeds/$1"
    [ ! -d $here/regressions/"$1" ] || set -- "$@" $here/regressions/"$1"
    [ "$1" != file ] || set -- "$@" "$scratch/shared"
    # What a recipe compares says nothing about the library.
    [ "$1" != roundtrip ] || set -- "$@" -use_cmp=0
    export FUZZ_TARGET="$1"
    shift
    $out/libfuzzer "$@" -max_total_time="$seconds" -timeout=30 -rss_limit_mb=512 \
        -malloc_limit_mb=256 -max_len=$length -dict=$here/tokens.dict \
        -artifact_prefix="$out/$FUZZ_TARGET-" -print_final_stats=1 \
        >"$out/$FUZZ_TARGET.log" 2>&1
}

passed=0 failed=0
for target in "$@"; do
    echo "== $target, $seconds s"
    if run "$target"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "failed: see $out/$target.log"
    fi
    grep -E 'INITED|DONE|stat::number|ERROR|SUMMARY|runtime error|does not hold|Test unit' \
        "$out/$target.log" || true
done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
