#!/bin/sh
# Other people's Parquet readers on the files of arrowquant.h, and arrowquant.h on theirs.
# Usage: tests/interop/run.sh        (environment: AQ, the command; CC, the compiler)
set -eu
cd "$(dirname "$0")/../.."
here=tests/interop
build=build/interop
AQ=${AQ:-build/aq}
export AQ

skip_all() {
    echo "skip tests/interop: $1"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
}

# Installs the pinned packages, unless the last install was of this very lock file.
install_packages() {
    cmp -s $here/package-lock.json $build/installed-lock.json && return
    rm -f $build/installed-lock.json
    cp $here/package.json $here/package-lock.json $build/
    # The engine warning is about the declared minimum of one package; it runs on older ones.
    if ! (cd $build && npm ci --ignore-scripts --no-audit --no-fund --prefer-offline \
            --fetch-retries=1 --fetch-retry-mintimeout=1000) >$build/npm.log 2>&1; then
        if grep -qE 'ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|E(NET|HOST)UNREACH|TIMEDOUT|TIMEOUT' \
                $build/npm.log; then
            skip_all "the package registry cannot be reached"
        fi
        cat $build/npm.log >&2
        exit 2
    fi
    cp $here/package-lock.json $build/installed-lock.json
}

# The files that this project writes, each with the values that went in.
make_files() {
    sources="$here/make_models.c $here/make_tables.c"
    # shellcheck disable=SC2086
    if [ -z "$(find $build/make_models -newer arrowquant.h -newer $here/emit.h \
            -newer $here/make_models.c -newer $here/make_tables.c 2>/dev/null)" ]; then
        ${CC:-cc} -std=c99 -O1 -DAQ_WITH_ZSTD -DAQ_WITH_SNAPPY $sources -o $build/make_models \
            -lzstd -lsnappy -pthread -lm
    fi
    rm -rf $build/data
    mkdir $build/data
    $build/make_models $build/data
}

# Runs one test program; a program that dies without a FAIL line is a failure too.
run_test() {
    status=0
    node "$1" >$build/output.txt 2>&1 || status=$?
    cat $build/output.txt
    if [ $status -ne 0 ] && ! grep -q '^FAIL ' $build/output.txt; then
        echo "FAIL $1: exit status $status" | tee -a $build/output.txt
    fi
    cat $build/output.txt >>$build/all.txt
}

count() {
    grep -c "^$1 " $build/all.txt || true
}

command -v node >/dev/null && command -v npm >/dev/null || skip_all "there is no node or npm"
# The lock file pins readers that are compiled for this platform.
[ "$(node -p 'process.platform + process.arch')" = linuxx64 ] ||
    skip_all "the readers are pinned for Linux on x86-64"
[ -x "$AQ" ] || { echo "$AQ is missing: build it first" >&2; exit 2; }
mkdir -p $build
install_packages
make_files
: >$build/all.txt
for program in $here/test_*.mjs; do
    run_test "$program"
done
echo "$(count ok) passed, $(count FAIL) failed, $(count skip) skipped"
[ "$(count FAIL)" -eq 0 ]
