#!/bin/sh
# Other people's Parquet readers on the files of arrowquant.h, and arrowquant.h on theirs.
# Usage: tests/interop/run.sh [--update]     (environment: AQ, the command; CC, the compiler)
# With --update, the tables of docs/PARQUET.md are written instead of compared.
# One test program alone, after that: INTEROP_RUN=DIR node tests/interop/test_tables.mjs
set -eu
cd "$(dirname "$0")/../.."
here=tests/interop
AQ=${AQ:-build/aq}
export AQ
if [ "${1:-}" = --update ]; then export INTEROP_UPDATE=1; fi

skip_all() {
    echo "skip tests/interop: $1"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
}

. $here/packages.sh

# The program that writes our files; with every codec, whatever the build at large has.
compile() {
    [ -x $build/make_models ] && [ -z "$(find arrowquant.h $here/emit.h $here/make_*.c \
        -newer $build/make_models)" ] && return
    ${CC:-cc} -std=c99 -O1 -DAQ_WITH_ZSTD -DAQ_WITH_SNAPPY -DAQ_WITH_ZLIB -DAQ_WITH_LZ4 \
        -DAQ_WITH_BROTLI $here/make_*.c -o $build/make_models -lzstd -lsnappy -lz -llz4 \
        -lbrotlienc -lbrotlidec -pthread -lm
}

# Two runs may start at a time; the second waits for the first one's install and compiler.
prepare() {
    lock_packages
    install_packages
    compile
    unlock_packages
}

# Runs one test program; a program that dies without a FAIL line is a failure too.
run_test() {
    status=0
    node "$1" >"$run/output.txt" 2>&1 || status=$?
    cat "$run/output.txt"
    if [ $status -ne 0 ] && ! grep -q '^FAIL ' "$run/output.txt"; then
        echo "FAIL $1: exit status $status" | tee -a "$run/output.txt"
    fi
    cat "$run/output.txt" >>"$run/all.txt"
}

count() {
    grep -c "^$1 " "$run/all.txt" || true
}

[ -x "$AQ" ] || { echo "$AQ is missing: build it first" >&2; exit 2; }
prepare
run=$(mktemp -d "$PWD/$build/run.XXXXXX")
export INTEROP_RUN="$run"
trap 'rm -rf "$run"' EXIT
trap 'exit 130' INT TERM
mkdir "$run/data"
$build/make_models "$run/data"
for program in "$here"/test_*.mjs; do
    run_test "$program"
done
if [ "$(count FAIL)" -ne 0 ]; then
    trap - EXIT
    echo "The files of this run: $run"
fi
echo "$(count ok) passed, $(count FAIL) failed, $(count skip) skipped"
[ "$(count FAIL)" -eq 0 ]
