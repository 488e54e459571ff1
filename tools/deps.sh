#!/bin/sh
# Installs what a make target needs and the machine lacks:
#   tools/deps.sh demo|peers|test|fuzz|coverage|analyze
#
# Says nothing and changes nothing when all is there. Else it asks apt-get, as root or
# through sudo; without apt-get or rights it prints what to run and fails. What a test can do
# without, it tries to install and says so where that fails.
set -u
cd "$(dirname "$0")/.." || exit 1

missing=
wanted=

# want PACKAGE COMMAND     a test is skipped without the command
want() {
    command -v "$2" >/dev/null 2>&1 || wanted="$wanted $1"
}

# need PACKAGE COMMAND     the command exists
need() {
    command -v "$2" >/dev/null 2>&1 || missing="$missing $1"
}

# need_file PACKAGE FILE   the file exists below a directory that compilers search
need_file() {
    for dir in /usr/include /usr/include/*-linux-gnu /usr/local/include \
               /usr/lib /usr/lib/*-linux-gnu /usr/local/lib; do
        [ -e "$dir/$2" ] && return
    done
    missing="$missing $1"
}

# codec MACRO PACKAGE FILE   a library that is needed when the header has the codec
codec() {
    if grep -q "$1" arrowquant.h; then need_file "$2" "$3"; fi
}

# libFuzzer and the sanitizers, which the package of clang only recommends
need_libfuzzer() {
    [ -n "$(find /usr/lib/llvm-*/lib/clang -name 'libclang_rt.fuzzer-*.a' 2>/dev/null)" ] ||
        missing="$missing libclang-rt-dev"
}

need gcc "${CC:-gcc}"
need_file libc6-dev stdio.h
need_file libzstd-dev zstd.h
need_file libsnappy-dev snappy-c.h

case ${1:-} in
demo) ;;
peers)
    need nodejs node                # other Parquet engines, by npm
    need npm npm
    need_file ca-certificates ../../etc/ssl/certs/ca-certificates.crt
    ;;
test)
    need g++ g++                    # compile tests, and libstdc++.a for the static aq
    need clang clang                # compile tests, fuzz targets
    need_libfuzzer
    need_file libcriterion-dev criterion/criterion.h
    need jq jq                      # tests of the command's JSON
    need libxml2-utils xmllint      # tests of the pages that it writes
    need_file libyaml-dev yaml.h    # configurations of the command
    want chromium chromium          # opens such a page
    want openmpi-bin mpirun         # runs parts of a job
    want pkgconf pkg-config         # find what is installed
    want cmake cmake
    want mandoc mandoc              # checks the manual pages
    want zsh zsh                    # completes what is installed
    codec AQ_WITH_ZLIB zlib1g-dev zlib.h
    codec AQ_WITH_LZ4 liblz4-dev lz4.h
    codec AQ_WITH_BROTLI libbrotli-dev brotli/decode.h
    if [ -e tests/thrift ]; then    # a second Thrift reader
        need_file libthrift-dev thrift/Thrift.h
        need_file libboost-dev boost/version.hpp
        need thrift-compiler thrift
    fi
    if [ -e tests/interop ] || [ -e tests/thrift ]; then    # other Parquet readers, by npm
        need nodejs node
        need npm npm
        need_file ca-certificates ../../etc/ssl/certs/ca-certificates.crt
    fi
    ;;
analyze)
    need clang clang
    need cppcheck cppcheck
    need valgrind valgrind
    need_file libcriterion-dev criterion/criterion.h
    ;;
coverage)
    need gcovr gcovr
    need jq jq                      # reads what gcovr writes, and tests of the command's JSON
    need libxml2-utils xmllint
    need_file libcriterion-dev criterion/criterion.h
    need_file libyaml-dev yaml.h
    want openmpi-bin mpirun
    codec AQ_WITH_ZLIB zlib1g-dev zlib.h
    codec AQ_WITH_LZ4 liblz4-dev lz4.h
    codec AQ_WITH_BROTLI libbrotli-dev brotli/decode.h
    ;;
fuzz)
    need clang clang
    codec AQ_WITH_ZLIB zlib1g-dev zlib.h
    codec AQ_WITH_LZ4 liblz4-dev lz4.h
    codec AQ_WITH_BROTLI libbrotli-dev brotli/decode.h
    need_libfuzzer
    ;;
*)
    echo "usage: tools/deps.sh demo|peers|test|fuzz|coverage|analyze" >&2
    exit 2
    ;;
esac

[ -z "$missing$wanted" ] && exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    [ -z "$missing" ] && exit 0
    echo "tools/deps.sh: missing (Debian names):$missing" >&2
    exit 1
fi
as_root=
if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null 2>&1; then
        as_root=sudo
    elif [ -z "$missing" ]; then
        exit 0
    else
        echo "tools/deps.sh: as root, run: apt-get update && apt-get install$missing" >&2
        exit 1
    fi
fi

# install PACKAGE...
install() {
    $as_root apt-get update -qq &&
        $as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends "$@"
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Lists of words: no quotes.
# shellcheck disable=SC2086
if [ -n "$missing" ]; then
    echo "Installing$missing"
    if ! install $missing >"$log" 2>&1; then
        cat "$log" >&2
        echo "tools/deps.sh: that failed. By hand: apt-get install$missing" >&2
        exit 1
    fi
fi
# shellcheck disable=SC2086
if [ -n "$wanted" ]; then
    echo "Installing$wanted"
    install $wanted >"$log" 2>&1 || echo "tools/deps.sh: no$wanted; its tests are skipped"
fi
