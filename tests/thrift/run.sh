#!/bin/sh
# The Thrift reader and writer of arrowquant.h against libthrift: random structs in both
# directions, and the metadata of real files.
# Usage: tests/thrift/run.sh        (environment: CXX, the compiler; SEED and COUNT, see oracle.cpp)
set -eu
cd "$(dirname "$0")/../.."
here=tests/thrift
build=build/thrift
: "${CXX:=g++}" "${SEED:=1}" "${COUNT:=3000}"

skip_all() {
    echo "skip tests/thrift: $1"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
}

# parquet.thrift, out of the archive of a package: npm would also install all that it needs.
package=@dsnp/parquetjs@1.8.8
checksum=4395c258350f7f109801c328cbd3fba94596a5bd77664ab85231b05146a9bac9
is_right() {
    echo "$checksum  $build/parquet.thrift" | sha256sum --check --status 2>/dev/null
}
get_parquet_thrift() {
    is_right && return
    command -v npm >/dev/null || skip_all "there is no npm"
    if ! (cd $build && npm pack $package --fetch-retries=1 --fetch-retry-mintimeout=1000) \
            >$build/npm.log 2>&1; then
        if grep -qE 'ENOTFOUND|EAI_AGAIN|ECONN|E(NET|HOST)UNREACH|TIMEDOUT|TIMEOUT' $build/npm.log
        then
            skip_all "the package registry cannot be reached"
        fi
        cat $build/npm.log >&2
        exit 2
    fi
    tar -xzf $build/dsnp-parquetjs-*.tgz -C $build --strip-components=1 package/parquet.thrift
    is_right || { echo "$package has another parquet.thrift than expected" >&2; exit 2; }
}

# An optional field with a default would come back from libthrift where it was absent.
generate() {
    sed 's/^\( *[0-9]*: optional .*\) = .*;/\1;/' $build/parquet.thrift >$build/gen/parquet.thrift
    thrift --gen cpp:no_skeleton --out $build/gen $build/gen/parquet.thrift
    thrift --gen json --out $build/gen $build/gen/parquet.thrift
    jq -r -f $here/schema.jq $build/gen/parquet.json >$build/gen/schema.inc
    # Generated code: no warnings, and not worth optimizing.
    "$CXX" -std=c++17 -w -c $build/gen/parquet_types.cpp -o $build/parquet_types.o
}

# Whether $1 exists and is newer than the other arguments.
is_newer() {
    [ -e "$1" ] && [ -z "$(find "$@" -newer "$1")" ]
}

mkdir -p $build/gen
get_parquet_thrift
is_newer $build/parquet_types.o $build/parquet.thrift $here/schema.jq $here/run.sh || generate
is_newer $build/oracle $build/parquet_types.o $here/*.h tests/decode.h $here/oracle.cpp arrowquant.h ||
    "$CXX" -std=c++17 -O1 -g -Wall -Wextra -Werror -I. -isystem $build/gen $here/oracle.cpp \
        $build/parquet_types.o -o $build/oracle -lthrift -pthread -lm
$build/oracle "$SEED" "$COUNT" ../shared/parquet-testing/data
