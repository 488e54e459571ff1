#!/bin/sh
# What the tests reach of arrowquant.h: builds nothing, runs the programs in build/cov and
# those of tests/cli by gcov's build, and prints lines, branches and what is not reached.
#   tools/coverage.sh
set -u
cd "$(dirname "$0")/.." || exit 1
out=build/cov
find $out -name '*.gcda' -delete
export CRITERION_JOBS=1 BUILD="$PWD/$out/run"
mkdir -p "$BUILD"
failed=0
for program in $out/test_*; do
    case $program in *.*) continue ;; esac
    echo "  run $program"
    "$program" >"$BUILD/log" 2>&1 || { tail -n 5 "$BUILD/log"; failed=1; }
done
echo '  run tests/cli'
AQ="$PWD/$out/aq" sh tests/cli/run.sh >"$BUILD/log" 2>&1 || { tail -n 5 "$BUILD/log"; failed=1; }

# Not counted: branches that the compiler makes out of no condition of the source.
gcovr -r . --object-directory $out -f arrowquant.h --exclude-unreachable-branches \
    --exclude-throw-branches \
    --txt $out/coverage.txt -b --json $out/coverage.json >/dev/null || exit 1
