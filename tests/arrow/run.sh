#!/bin/sh
# Arrow tables in and out of other programs: DuckDB's C library, which npm installs, and
# Python's ctypes.
# Usage: tests/arrow/run.sh      (environment: CC, CODECS, LIBS, BUILD; AQ, the command)
set -eu
cd "$(dirname "$0")/../.."
here=tests/arrow
: "${CC:=cc}" "${CODECS:=}" "${LIBS:=-pthread -lm}" "${BUILD:=$PWD/build/test/arrow}"
: "${AQ:=$PWD/build/aq}"
export BUILD
# Under AddressSanitizer a refused allocation is NULL, as it is without.
export ASAN_OPTIONS=allocator_may_return_null=1
mkdir -p "$BUILD"
results=$BUILD/results.txt
: >"$results"

# Shows lines "ok ...", "FAIL ...", "skip ..." and keeps them.
report() {
    tee -a "$results"
}

count() {
    grep -c "^$1 " "$results" || true
}

finish() {
    echo "$(count ok) passed, $(count FAIL) failed, $(count skip) skipped"
    [ "$(count FAIL)" -eq 0 ]
    exit
}

# A program that dies without a FAIL line is a failure too.
run_test() {
    status=0
    "$@" >"$BUILD/output.txt" 2>"$BUILD/errors.txt" || status=$?
    cat "$BUILD/errors.txt"
    report <"$BUILD/output.txt"
    if [ $status -ne 0 ] && ! grep -q '^FAIL ' "$BUILD/output.txt"; then
        echo "FAIL $*: exit status $status" | report
    fi
}

# --- Python ---------------------------------------------------------------------------------

# As its docstring says. What pyarrow adds comes after the lines that are compared.
python() {
    $CC -O1 -shared -fPIC -x c -DARROWQUANT_IMPLEMENTATION arrowquant.h \
        -o "$BUILD/libarrowquant.so" -pthread -lm
    if python3 examples/arrow_ctypes.py "$BUILD/libarrowquant.so" >"$BUILD/python.txt" &&
            head -n 7 "$BUILD/python.txt" | diff examples/arrow_ctypes.expected -; then
        tail -n 1 "$BUILD/python.txt"
        echo "ok examples/arrow_ctypes.py" | report
    else
        echo "FAIL examples/arrow_ctypes.py" | report
    fi
}

if command -v python3 >/dev/null; then
    python
else
    echo "skip examples/arrow_ctypes.py: there is no python3" | report
fi

# --- DuckDB, the last: skip_all ends the script -----------------------------------------------

skip_all() {
    echo "skip DuckDB: $1" | report
    finish
}

# What aq says about a model, in the words of `test_duckdb export`.
inspect() {
    "$AQ" inspect "$1" --json | jq -r '.tensors[] | [.name, .dtype, .bit_width // 0,
        .data_bytes, .num_params, .quant_type // "none", .group_size // 0,
        "[" + (.shape | map(tostring) | join(", ")) + "]"] | @tsv'
}

. tests/interop/packages.sh
lock_packages
install_packages
unlock_packages
LIBDUCKDB=$PWD/$build/node_modules/@duckdb/node-bindings-linux-x64/libduckdb.so
export LIBDUCKDB

[ -e build/asan/libarrowquant_impl.a ] || {
    echo "FAIL build/asan/libarrowquant_impl.a was not built, see above" | report
    finish
}
# shellcheck disable=SC2086
$CC -std=gnu11 -Wall -Wextra -Werror -O1 -g1 -fsanitize=address,undefined \
    -fno-sanitize-recover=all $CODECS $here/test_duckdb.c -o "$BUILD/test_duckdb" \
    build/asan/libarrowquant_impl.a $LIBS -ldl
run_test "$BUILD/test_duckdb"

# DuckDB's scan of a stream forgets to release a copy of its schema.
model=$BUILD/model.parquet
if "$BUILD/test_duckdb" model "$model" && inspect "$model" >"$BUILD/inspect.txt" &&
        ASAN_OPTIONS=$ASAN_OPTIONS:detect_leaks=0 \
            "$BUILD/test_duckdb" export "$model" >"$BUILD/export.txt" &&
        diff "$BUILD/inspect.txt" "$BUILD/export.txt" && [ -s "$BUILD/export.txt" ]; then
    echo "ok DuckDB sees a model as aq inspect does" | report
else
    echo "FAIL DuckDB sees a model as aq inspect does" | report
fi
finish
