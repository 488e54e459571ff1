#!/bin/sh
# The fuzz targets without libFuzzer: inputs that once found a defect, the seeds, and changed
# copies of valid inputs, under AddressSanitizer and UBSan.
#
# Environment: COUNT, changed copies of each file (2000); SEED, the first one's (1).
set -u
cd "$(dirname "$0")/../.." || exit 1
: "${COUNT:=2000}" "${SEED:=1}" "${BUILD:=$PWD/build/test/fuzz}"
replay=build/fuzz/replay
seeds=$BUILD/seeds
export TMPDIR="$BUILD" FUZZ_OUT=build/fuzz
# A refused allocation is NULL, as it is without the sanitizer.
export ASAN_OPTIONS=allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1

[ -x $replay ] || { echo "$replay was not built, see above"; exit 1; }
rm -rf "$seeds"
mkdir -p "$BUILD" || exit 1
$replay seeds "$seeds" || exit 1

passed=0 failed=0

# step ARGUMENT...: adds up what a run of replay passed and failed.
step() {
    $replay "$@" >"$BUILD/step.log" 2>&1
    status=$?
    counts=$(tail -n 1 "$BUILD/step.log")
    case $counts in
    *' passed, '*' failed')
        sed '$d' "$BUILD/step.log"
        passed=$((passed + ${counts%% *}))
        counts=${counts#*, }
        failed=$((failed + ${counts%% *}))
        ;;
    *)
        cat "$BUILD/step.log"
        echo "replay $*: exit status $status"
        failed=$((failed + 1))
        ;;
    esac
}

for target in $($replay list); do
    step run $target "$seeds/$target"
    [ ! -d tests/fuzz/regressions/$target ] || step run $target tests/fuzz/regressions/$target
done
step run file "$seeds/large"
step mutate file "$seeds/file/flat" "$COUNT" "$SEED"
step mutate file "$seeds/file/nested" "$COUNT" "$SEED"
step mutate file "$seeds/file/zstd_v2" "$COUNT" "$SEED"
step mutate model "$seeds/model/int4_0" "$COUNT" "$SEED"
step mutate model "$seeds/model/u8" "$COUNT" "$SEED"
step mutate safetensors "$seeds/safetensors/plain0.safetensors" "$COUNT" "$SEED"
step mutate shards "$seeds/shards/index" "$COUNT" "$SEED"
step mutate npy "$seeds/npy/array" "$COUNT" "$SEED"
step mutate arrow "$seeds/arrow/recipe0" "$COUNT" "$SEED"
step mutate arrow "$seeds/arrow/recipe63" "$COUNT" "$SEED"
step mutate calibration "$seeds/calibration/rows" "$COUNT" "$SEED"
step mutate calibration "$seeds/calibration/time" "$COUNT" "$SEED"
step mutate model "$seeds/model/diffusion" "$COUNT" "$SEED"
step mutate kernels "$seeds/kernels/tensor77" "$COUNT" "$SEED"
step mutate job "$seeds/job/plain0_0" "$COUNT" "$SEED"
step mutate job "$seeds/job/calibrated_1" "$COUNT" "$SEED"

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
