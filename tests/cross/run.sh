#!/bin/sh
# Builds and runs the tests for other machines: tests/cross/run.sh ARCH...   (see make cross)
#
# For each ARCH (aarch64, arm, i386, s390x, musl): every tests/test_*.c, with the stand-in for
# Criterion beside this file and no codecs but ZSTD and SNAPPY; and digest.c, whose lines must be
# those that it prints here. What this machine cannot run runs in qemu-user. TESTS="kernels quantize" are
# the only ones then; JOBS is how many at a time. The last line is the total.
set -u
cd "$(dirname "$0")/../.." || exit 1
: "${CC:=gcc}" "${JOBS:=2}" "${TESTS:=$(ls tests/test_*.c | sed 's/.*test_//; s/\.c$//')}"
export CC
out=build/cross
with='-DAQ_WITH_ZSTD -DAQ_WITH_SNAPPY'

# --- Machines -------------------------------------------------------------------------------

# Sets cc, emulator, debian (Debian's name of the machine; none: no library for it), packages.
machine() {
    emulator='' debian='' packages=qemu-user
    case $1 in
    aarch64)
        cc=aarch64-linux-gnu-gcc emulator=qemu-aarch64 debian=arm64
        packages="$packages gcc-aarch64-linux-gnu libc6-dev-arm64-cross" ;;
    arm)
        cc=arm-linux-gnueabihf-gcc emulator=qemu-arm debian=armhf
        packages="$packages gcc-arm-linux-gnueabihf libc6-dev-armhf-cross" ;;
    i386)   # the x87 computes with more bits
        cc='i686-linux-gnu-gcc -msse2 -mfpmath=sse' emulator=qemu-i386 debian=i386
        packages="$packages gcc-i686-linux-gnu libc6-dev-i386-cross" ;;
    s390x)
        cc=s390x-linux-gnu-gcc emulator=qemu-s390x debian=s390x
        packages="$packages gcc-s390x-linux-gnu libc6-dev-s390x-cross" ;;
    musl)
        cc=musl-gcc packages=musl-tools ;;
    *)
        echo "tests/cross/run.sh: no machine '$1'; there are aarch64 arm i386 s390x musl" >&2
        exit 2 ;;
    esac
    # Those of qemu-user-static have names of their own.
    if [ -n "$emulator" ] && ! command -v "$emulator" >/dev/null; then
        emulator=$emulator-static
    fi
    for tool in ${cc%% *} $emulator; do
        command -v "$tool" >/dev/null && continue
        echo "tests/cross/run.sh: no $tool; as root: apt-get install $packages" >&2
        exit 1
    done
}

# Static libraries of another machine, unpacked below build/: nothing is installed, and the
# package lists of this machine stay as they are. SNAPPY is C++.
libraries() {
    root=$PWD/$out/$1/root
    [ -n "$(find "$root" -name 'libstdc++.a' 2>/dev/null)" ] && return
    apt=$root/apt
    mkdir -p "$apt/lists/partial" "$apt/archives/partial"
    : >"$apt/status"
    cat >"$apt/conf" <<END
APT::Architecture "$2"; APT::Architectures { "$2"; }; APT::Sandbox::User "root";
Dir::State "$apt"; Dir::State::status "$apt/status"; Dir::Cache "$apt";
END
    if ! (export APT_CONFIG="$apt/conf" && cd "$apt" &&
          apt-get -q update && apt-get -q download "libzstd-dev:$2" "libsnappy-dev:$2" \
              "libstdc++-$($cc -dumpversion)-dev:$2" &&
          for deb in *.deb; do dpkg -x "$deb" "$root" || exit 1; done) >"$root/log" 2>&1; then
        cat "$root/log" >&2
        echo "tests/cross/run.sh: no libraries of $2 by apt-get download" >&2
        exit 1
    fi
    rm -rf "$apt/lists"
}

# --- One program: step ARCH NAME ----------------------------------------------------------------

# The tests of a machine without libraries: those that do not write with codecs.
without_codecs='dequantize footer kernels metrics model pool quantize refine spans statistics streams
    threads thrift'

build() {
    # No quotes: lists of words.
    # shellcheck disable=SC2086
    $1 -std=gnu11 -Wall -Wextra -Werror -O2 -g1 -static -Itests/cross $codecs "$2" -o "$3" \
        $archive $libs -pthread -lm
}

digest() {
    build "$CC" tests/cross/digest.c "$dir/digest_here" 2>&1 || return 1
    "$dir/digest_here" >"$dir/digest_here.txt" || return 1
    build "$cc" tests/cross/digest.c "$dir/digest" 2>&1 || return 1
    $emulator "$dir/digest" >"$dir/digest.txt" || return 1
    diff "$dir/digest_here.txt" "$dir/digest.txt"
}

if [ "${1:-}" = step ]; then
    arch=$2 name=$3
    machine "$arch"
    dir=$out/$arch codecs='' libs='' archive=''
    if [ "$name" = digest ]; then
        digest >"$dir/$name.log" 2>&1
        status=$?
    else
        archive=$dir/aq_impl.o
        if [ -n "$debian" ]; then
            codecs="$with -I$dir/root/usr/include"
            libs=
            for lib in zstd snappy stdc++; do
                libs="$libs $(find "$dir/root" -name "lib$lib.a" | head -n 1)"
            done
        fi
        { build "$cc" "tests/test_$name.c" "$dir/test_$name" &&
          $emulator "$dir/test_$name"; } >"$dir/$name.log" 2>&1 </dev/null
        status=$?
    fi
    counts=$(grep -E '^[0-9]+ passed, [0-9]+ failed$' "$dir/$name.log" | tail -n 1)
    [ "$name" = digest ] && [ $status -eq 0 ] && counts='1 passed, 0 failed'
    [ "$status" -ne 0 ] && [ "${counts#*, 0}" != "$counts" ] && counts=
    : "${counts:=0 passed, 1 failed}"
    echo "$counts" >"$dir/$name.counts"
    if [ "$status" -eq 0 ]; then
        echo "ok    $arch/$name  $counts"
    else
        { echo "FAIL  $arch/$name  $counts"; sed 's/^/      | /' "$dir/$name.log" | tail -n 60; }
    fi
    exit 0
fi

# --- All --------------------------------------------------------------------------------------

[ $# -gt 0 ] || { sed -n 2p "$0"; exit 2; }
steps=$(mktemp) || exit 1
trap 'rm -f "$steps"' EXIT
for arch; do
    machine "$arch"
    dir=$out/$arch codecs='' names=$TESTS
    mkdir -p "$dir"
    rm -f "$dir"/*.counts
    if [ -n "$debian" ]; then
        libraries "$arch" "$debian"
        codecs="$with -I$dir/root/usr/include"
    else
        names=
        for name in $TESTS; do
            case " $(echo $without_codecs) " in *" $name "*) names="$names $name" ;; esac
        done
    fi
    # shellcheck disable=SC2086
    $cc -std=c99 -Wall -Wextra -Werror -O2 -g1 $codecs -c tools/aq_impl.c -o "$dir/aq_impl.o" || exit 1
    for name in digest $names; do echo "$arch $name" >>"$steps"; done
done
xargs -P "$JOBS" -L 1 sh tests/cross/run.sh step <"$steps"
awk '{ printf "build/cross/%s/%s.counts\n", $1, $2 }' "$steps" | xargs cat |
    awk '{ passed += $1; failed += $3 }
         END { print passed " passed, " failed + 0 " failed"; exit failed > 0 }'
