#!/bin/sh
# Compiles the header in every way that is promised. A case passes when its command succeeds
# and prints nothing, or, where it must fail, when the message is the right one.
set -u
cd "$(dirname "$0")" || exit 1
: "${JOBS:=2}"

# --- One case: name TAB expected message (or -) TAB command ------------------------------------

if [ "${1:-}" = case ]; then
    tmp=$2
    name=$(printf '%s\n' "$3" | cut -f1)
    expected=$(printf '%s\n' "$3" | cut -f2)
    command=$(printf '%s\n' "$3" | cut -f3)
    output=$(mktemp "$tmp/output.XXXXXX")
    sh -c "$command" >"$output" 2>&1
    status=$?
    if [ "$expected" = - ]; then
        [ "$status" -eq 0 ] && ! [ -s "$output" ]
    else
        [ "$status" -ne 0 ] && grep -q -- "$expected" "$output"
    fi
    if [ $? -eq 0 ]; then
        echo passed >>"$tmp/results"
    else
        echo failed >>"$tmp/results"
        report=$(echo "failed: $name"; echo "    $command"; head -n 20 "$output" | sed 's/^/    /')
        printf '%s\n' "$report"
    fi
    exit 0
fi

# --- What to compile with ---------------------------------------------------------------------

tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
header=../../arrowquant.h

# compiles NAME COMMAND, refuses NAME MESSAGE COMMAND. One line each in the list.
compiles() { refuses "$1" - "$2"; }
refuses() { printf '%s\t%s\t%s\n' "$1" "$2" "$3" | tr -s '\n ' ' ' >>"$tmp/cases"; echo >>"$tmp/cases"; }

both='-Wall -Wextra -pedantic -Wconversion -Wsign-conversion -Wshadow -Wundef -Wcast-qual -Werror'
c="$both -Wstrict-prototypes -Wmissing-prototypes"

has_header() { echo "#include <$1>" | gcc -E -x c - >/dev/null 2>&1; }

# --- Configurations ---------------------------------------------------------------------------
# A misspelt macro would compile nothing new, so each must occur in the header; and each that
# the header asks for must occur here. Of the codecs, those that the header has.

# Whether the header asks for a macro or defines it.
knows() { grep -Eq "^ *# *(if|elif|ifdef|ifndef|define).*$1([^A-Z0-9_]|\$)" "$header"; }

configurations='AQ_STATIC AQ_NO_MMAP AQ_NO_THREADS AQ_NO_WRITER AQ_NO_DIFFUSION AQ_KERNELS=AQ_KERNEL_REF
    AQ_KERNELS=(AQ_KERNEL_REF|AQ_KERNEL_AVX2) AQ_KERNELS=(AQ_KERNEL_REF|AQ_KERNEL_AVX512)'
libraries='AQ_WITH_ZSTD zstd.h -lzstd
AQ_WITH_SNAPPY snappy-c.h -lsnappy
AQ_WITH_ZLIB zlib.h -lz
AQ_WITH_LZ4 lz4.h -llz4
AQ_WITH_BROTLI brotli/decode.h -lbrotlienc+-lbrotlidec'

passed=0 failed=0 skipped=0
fault() { failed=$((failed + 1)); echo "failed: $1"; }
codecs=$(echo "$libraries" | while read -r macro file flags; do
             if knows "$macro"; then echo "$macro $file $flags"; fi
         done)
known="$configurations $codecs AQ_KERNEL_NEON AQ_API AQ_ASSERT"

for macro in $(echo "$known" | grep -o 'AQ_[A-Z0-9_]*' | sort -u); do
    if knows "$macro"; then
        passed=$((passed + 1))
    else
        fault "macro $macro is not in the header"
    fi
done
for macro in $(grep -E '^ *# *(if|elif|ifdef|ifndef)' "$header" |
               grep -o 'AQ_\(NO\|WITH\|STATIC\|KERNEL\)[A-Z0-9_]*' | sort -u); do
    if echo "$known" | grep -Eq "$macro([^A-Z0-9_]|\$)"; then
        passed=$((passed + 1))
    else
        fault "macro $macro of the header is not tested"
    fi
    # The bits of AQ_KERNELS are explained where they are defined.
    case $macro in AQ_KERNEL_*) continue ;; esac
    if sed -n '1,/\*\//p' "$header" | grep -q "$macro"; then
        passed=$((passed + 1))
    else
        fault "macro $macro is not in the top comment of the header"
    fi
done

libs='' with=''
while read -r macro file flags; do
    if has_header "$file"; then
        configurations="$configurations $macro"
        with="$with -D$macro"
        libs="$libs $(echo "$flags" | tr + ' ')"
    elif [ -n "$macro" ]; then
        skipped=$((skipped + 1))
        echo "skipped: $macro, <$file> is not installed"
    fi
done <<END
$codecs
END

# --- Languages, both parts, all warnings --------------------------------------------------------
# The optimizer of gcc finds more to warn about; more of it below.

compiles "g++ c++11 -O1" "g++ -x c++ -std=c++11 $both $with -O1 -c implementation.c -o /dev/null"
for cc in gcc clang; do
    for std in c99 c11 c17 gnu17; do
        compiles "$cc $std" "$cc -std=$std $c $with -fsyntax-only implementation.c"
        compiles "$cc $std, public part" "$cc -std=$std $c -fsyntax-only public.c"
    done
    compiles "$cc, system headers first" "$cc -std=c99 $c $with -O0 stdio_first.c -o $tmp/first-$cc $libs -pthread -lm"
    compiles "$cc, included again" "$cc -std=c99 $c twice.c -o $tmp/twice-$cc -pthread -lm && $tmp/twice-$cc"
done
for cxx in g++ clang++; do
    for std in c++11 c++17; do
        compiles "$cxx $std" "$cxx -x c++ -std=$std $both $with -fsyntax-only implementation.c"
        compiles "$cxx $std, public part" "$cxx -x c++ -std=$std $both -fsyntax-only public.c"
    done
    compiles "$cxx, static" "$cxx -x c++ -std=c++11 $both -DAQ_STATIC -O0 -c implementation.c -o /dev/null"
done

# --- A user's command lines ---------------------------------------------------------------------
# Without the optimizer, and with most of it: the Makefile has -O2 of gcc.

for cc in gcc clang; do
    compiles "$cc program.c" "$cc program.c -o $tmp/program-$cc -pthread -lm && $tmp/program-$cc"
    out=$tmp/files-$cc
    compiles "$cc, two files" "
        $cc -c implementation.c -o $out.1.o && $cc -DTWO_FILES -c program.c -o $out.2.o &&
        $cc $out.1.o $out.2.o -o $out -pthread -lm && $out"
    compiles "$cc, static in two files" "
        $cc -DAQ_STATIC -c implementation.c -o $out.3.o && $cc -DAQ_STATIC -c program.c -o $out.4.o &&
        $cc $out.3.o $out.4.o -o $out.static -pthread -lm && $out.static"
    compiles "$cc, all codecs -O3" "$cc -std=c99 $c $with -O3 program.c -o $out.codecs $libs -pthread -lm && $out.codecs"
    compiles "$cc, with -D_GNU_SOURCE" "$cc -std=c99 $c -D_GNU_SOURCE -fsyntax-only implementation.c"
    compiles "$cc, with -march=native" "$cc -march=native program.c -o $out.native -pthread -lm && $out.native"
done
compiles "C++ program, C implementation" "
    gcc -c implementation.c -o $tmp/c.o && g++ -x c++ -DTWO_FILES -c program.c -o $tmp/cxx.o &&
    g++ $tmp/c.o $tmp/cxx.o -o $tmp/mixed -pthread -lm && $tmp/mixed"
compiles "C++ program" "g++ -x c++ program.c -o $tmp/cxx -pthread -lm && $tmp/cxx"

# The public part brings in no system header but these.
compiles "headers of the public part" "
    gcc -M basics.c | grep -o '/[^ ]*\.h' | sort -u >$tmp/headers.1 &&
    gcc -M public.c | grep -o '/[^ ]*\.h' | grep -v arrowquant | sort -u >$tmp/headers.2 &&
    cmp $tmp/headers.1 $tmp/headers.2"

# --- Configurations, alone and in pairs -----------------------------------------------------------
# gcc finds an unused private function only when it compiles, clang when it parses. What is
# left out is run without.

set -- $configurations
while [ $# -gt 0 ]; do
    out=$tmp/one-$#
    case $1 in
    AQ_NO_* | *=AQ_KERNEL_REF)
        compiles "gcc $1" "gcc -std=c99 $c '-D$1' -O0 program.c -o $out -pthread -lm && $out" ;;
    *)
        compiles "gcc $1" "gcc -std=c99 $c '-D$1' -O0 -c implementation.c -o /dev/null" ;;
    esac
    compiles "clang $1" "clang -std=c99 $c '-D$1' -fsyntax-only implementation.c"
    first=$1
    shift
    for second; do
        # Two sets of kernels are no pair; codecs do not know of each other.
        [ "${first%%=*}" = "${second%%=*}" ] && continue
        case $first+$second in AQ_WITH_*+AQ_WITH_*) continue ;; esac
        compiles "clang $first $second" "
            clang -std=c99 $c '-D$first' '-D$second' -fsyntax-only implementation.c"
    done
done

# --- Other machines: types and warnings, without their libraries -----------------------------------
# With the system headers of this machine; files of ours stand in for those that differ.

if [ "$(uname -m)" = x86_64 ]; then
    mkdir -p "$tmp/32/gnu" "$tmp/64/gnu" "$tmp/64/bits"
    : >"$tmp/32/gnu/stubs-32.h"
    : >"$tmp/64/gnu/stubs-32.h"
    { echo '#define __WORDSIZE 64'; echo '#define __WORDSIZE_TIME64_COMPAT32 1'; } \
        >"$tmp/64/bits/wordsize.h"
    headers="-isystem /usr/include/$(gcc -print-multiarch)"
    compiles "gcc -m32" "
        gcc -m32 -msse2 -mfpmath=sse -std=c99 $c -isystem $tmp/32 $headers -O0 -c implementation.c -o /dev/null"
    for target in aarch64-linux-gnu s390x-linux-gnu; do
        compiles "clang $target" "
            clang --target=$target -std=c99 $c -isystem $tmp/64 $headers \
                '-D__regparm__(n)=__unused__' -O0 -c implementation.c -o /dev/null"
    done
fi

# --- What must be refused, and with which words ------------------------------------------------------

for cc in gcc clang; do
    refuses "$cc -ffast-math" 'error:.*fast-math' "$cc -ffast-math -fsyntax-only implementation.c"
    refuses "$cc AQ_STATIC and AQ_API" 'error:.*not both' "$cc -DAQ_STATIC -DAQ_API=extern -fsyntax-only public.c"
    refuses "$cc AQ_KERNELS=0" 'error:.*AQ_KERNELS' "$cc -DAQ_KERNELS=0 -fsyntax-only implementation.c"
done

# --- Run ------------------------------------------------------------------------------------------

: >"$tmp/results"
xargs -P "$JOBS" -d '\n' -n 1 sh ./run.sh case "$tmp" <"$tmp/cases"
passed=$((passed + $(grep -c passed "$tmp/results")))
failed=$((failed + $(grep -c failed "$tmp/results")))
total="$passed passed, $failed failed"
[ "$skipped" -ne 0 ] && total="$total, $skipped skipped"
echo "$total"
[ "$failed" -eq 0 ]
