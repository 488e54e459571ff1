#!/bin/sh
# One target under libFuzzer: tests/fuzz/fuzz.sh TARGET SECONDS       (see make fuzz)
#
# What it learns stays in build/fuzz/corpus/TARGET; an input that fails is written to
# build/fuzz/TARGET-crash-..., and the exit status is not 0.
set -eu
cd "$(dirname "$0")/../.."
target=$1 seconds=$2
here=tests/fuzz
shared=../shared/parquet-testing
out=build/fuzz
corpus=$out/corpus/$target

mkdir -p "$corpus" $out/tmp
rm -rf $out/seeds
$out/replay seeds $out/seeds
set -- "$corpus" "$out/seeds/$target"
[ ! -d "$here/regressions/$target" ] || set -- "$@" "$here/regressions/$target"

# Other writers' files, where they are: small ones, by links.
if [ "$target" = file ] && [ -d $shared ]; then
    rm -rf $out/shared
    mkdir $out/shared
    find "$PWD/$shared" -name '*.parquet*' -size -64k -exec ln -sf {} $out/shared/ \;
    set -- "$@" $out/shared
fi

length=65536
case $target in roundtrip | json | thrift | arrow | kernels) length=4096 ;; page) length=16384 ;; esac
export TMPDIR=$out/tmp
[ ! -w /dev/shm ] || export TMPDIR=/dev/shm
export ASAN_OPTIONS=allocator_may_return_null=1:quarantine_size_mb=32
export UBSAN_OPTIONS=print_stacktrace=1

# More memory or time than this, no input may ask for; the time is the clock's, and others may
# use the machine.
echo "== $target, $seconds s"
status=0
$out/"$target" "$@" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=512 \
    -malloc_limit_mb=256 -max_len=$length -dict=$here/tokens.dict \
    -artifact_prefix="$out/$target-" -print_final_stats=1 >"$out/$target.log" 2>&1 || status=$?
grep -E 'INITED|DONE|stat::number|ERROR|SUMMARY|runtime error|does not hold|Test unit' \
    "$out/$target.log" || true
[ $status -eq 0 ] || echo "failed: see $out/$target.log"
exit $status
