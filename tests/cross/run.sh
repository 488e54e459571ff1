#!/bin/sh
# Builds and runs the tests for other machines: tests/cross/run.sh ARCH...   (see make cross)
#
# For each ARCH (aarch64, arm, i386, s390x, musl): digest.c, whose lines must be those that it
# prints here; and every tests/test_*.c that can pass there, with the stand-in for Criterion beside
# this file and no codecs but ZSTD and SNAPPY. What this machine cannot run itself runs in
# qemu-user.
# ONLY="kernels quantize": only these; JOBS: how many at a time. The last line is the total.
set -u
cd "$(dirname "$0")/../.." || exit 1
: "${CC:=gcc}" "${JOBS:=2}" "${ONLY:=$(ls tests/test_*.c | sed 's/.*test_//; s/\.c$//' | tr '\n' ' ')}"
export CC

# --- Machines -------------------------------------------------------------------------------

# Sets, for $1: cc, emulator, packages (where cc and emulator are), debian (Debian's name of the
# machine, for its libraries), codecs (of these libraries), tests (that can pass), dir.
machine() {
    emulator='' debian='' codecs='' tests=$ONLY dir=build/cross/$1
    case $1 in
    aarch64)
        cc=aarch64-linux-gnu-gcc emulator=qemu-aarch64 debian=arm64 codecs='zstd snappy'
        packages='qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross' ;;
    arm)    # long double, the oracle of test_metrics.c, is double
        cc=arm-linux-gnueabihf-gcc emulator=qemu-arm debian=armhf codecs='zstd snappy'
        packages='qemu-user gcc-arm-linux-gnueabihf libc6-dev-armhf-cross'
        tests=$(echo " $ONLY " | sed 's/ metrics / /') ;;
    i386)   # the x87 computes with more bits
        cc='i686-linux-gnu-gcc -msse2 -mfpmath=sse' debian=i386 codecs='zstd snappy'
        emulator=qemu-i386
        packages='qemu-user gcc-i686-linux-gnu libc6-dev-i386-cross' ;;
    s390x)  # big-endian: other tests take native values for little-endian ones; and libsnappy
            # 1.1.9 does not give back what it compressed
        cc='s390x-linux-gnu-gcc -fexcess-precision=fast' emulator=qemu-s390x debian=s390x codecs=zstd
        packages='qemu-user gcc-s390x-linux-gnu libc6-dev-s390x-cross'
        ;;
    musl)   # another libc on this machine; the tests that do not write with codecs
        cc=musl-gcc
        packages=musl-tools
        only dequantize footer kernels metrics model pool quantize refine spans statistics \
            streams threads thrift ;;
    *)
        echo "tests/cross/run.sh: no machine '$1'; there are aarch64 arm i386 s390x musl" >&2
        exit 2 ;;
    esac
    # Those of qemu-user-static have names of their own.
    if [ -n "$emulator" ] && ! command -v "$emulator" >/dev/null; then
        emulator=$emulator-static
    fi
}

only() {
    tests=
    for name; do
        case " $ONLY " in *" $name "*) tests="$tests $name" ;; esac
    done
}

need_tools() {
    for tool in ${cc%% *} $emulator; do
        command -v "$tool" >/dev/null && continue
        echo "tests/cross/run.sh: no $tool; as root: apt-get install $packages" >&2
        exit 1
    done
}

# Static libraries of another machine, unpacked below build/: nothing is installed, and the
# package lists of this machine stay as they are. SNAPPY is C++.
need_libraries() {
    [ -n "$codecs" ] || return
    [ -n "$(find "$dir/root" -name 'libstdc++.a' 2>/dev/null)" ] && return
    root=$PWD/$dir/root
    apt=$root/apt
    mkdir -p "$apt/lists/partial" "$apt/archives/partial"
    : >"$apt/status"
    cat >"$apt/conf" <<END
APT::Architecture "$debian"; APT::Architectures { "$debian"; }; APT::Sandbox::User "root";
Dir::State "$apt"; Dir::State::status "$apt/status"; Dir::Cache "$apt";
END
    # One list of several that fails leaves the others; what is downloaded is verified by them.
    if ! (export APT_CONFIG="$apt/conf" && cd "$apt" && { apt-get -q update || true; } &&
          apt-get -q download "libzstd-dev:$debian" "libsnappy-dev:$debian" \
              "libstdc++-$(${cc%% *} -dumpversion)-dev:$debian" &&
          for deb in *.deb; do dpkg -x "$deb" "$root" || exit 1; done) >"$root/log" 2>&1; then
        cat "$root/log" >&2
        echo "tests/cross/run.sh: no libraries of $debian by apt-get download" >&2
        exit 1
    fi
    rm -rf "$apt/lists"
}

# --- Programs ---------------------------------------------------------------------------------

# 64 bits also for readdir() of the tests: directories of this machine have such offsets.
# What gcc believes to be unset depends on what it inlines, which differs with the machine.
flags='-Wall -Wextra -Werror -Wno-maybe-uninitialized -O2 -g1 -D_FILE_OFFSET_BITS=64'

codec_flags() {
    for codec in $codecs; do
        echo "-DAQ_WITH_$(echo "$codec" | tr '[:lower:]' '[:upper:]') -I$dir/root/usr/include"
    done
}

codec_libraries() {
    for name in $codecs ${codecs:+stdc++}; do
        find "$dir/root" -name "lib$name.a" | head -n 1
    done
}

# No quotes in what follows: lists of words.
# shellcheck disable=SC2046,SC2086

# Whether programs of the machine run here as they are: those of i386 do on most of x86-64.
runs_here() {
    echo 'int main(void) { return 0; }' | $cc -static -x c - -o "$dir/nothing" && "$dir/nothing"
} 2>/dev/null

build_library() {
    $cc -std=c99 $flags $(codec_flags) -c tools/aq_impl.c -o "$dir/aq_impl.o"
}

run_test() {
    guard=
    [ "$1" = kernels ] && guard='tests/cross/guard.c -Wl,--wrap=posix_memalign,--wrap=free'
    $cc -std=gnu11 $flags -static -Itests/cross $(codec_flags) "tests/test_$1.c" $guard \
        -o "$dir/test_$1" "$dir/aq_impl.o" $(codec_libraries) -pthread -lm &&
        $emulator "$dir/test_$1"
}

run_digest() {
    $CC -std=gnu11 $flags tests/cross/digest.c -o "$dir/digest_here" -pthread -lm &&
        $cc -std=gnu11 $flags -static tests/cross/digest.c -o "$dir/digest" -pthread -lm &&
        "$dir/digest_here" >"$dir/digest_here.txt" && $emulator "$dir/digest" >"$dir/digest.txt" &&
        diff "$dir/digest_here.txt" "$dir/digest.txt" && echo '1 passed, 0 failed'
}

# One step; its counts are the last line that it prints, or one failure.
if [ "${1:-}" = step ]; then
    machine "$2"
    if runs_here; then emulator=''; fi
    log=$dir/$3.log
    start=$(date +%s)
    if [ "$3" = digest ]; then run_digest; else run_test "$3"; fi >"$log" 2>&1 </dev/null
    status=$?
    counts=$(tail -n 1 "$log" | grep -E '^[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?$')
    case "$status $counts," in
    '0 '*' 0 failed,'*) ;;
    0* | *' 0 failed,'* | *' ,') counts='0 passed, 1 failed' ;;
    esac
    echo "$counts" >"$dir/$3.counts"
    case $counts, in
    *' 0 failed,'*) echo "ok    $2/$3  $counts, $(($(date +%s) - start)) s" ;;
    *) report=$(echo "FAIL  $2/$3  $counts"; sed 's/^/      | /' "$log" | tail -n 60)
       echo "$report" ;;
    esac
    exit 0
fi

# --- All --------------------------------------------------------------------------------------

[ $# -gt 0 ] || { sed -n 2p "$0"; exit 2; }
for arch; do
    machine "$arch"
    need_tools
done
steps=$(mktemp) || exit 1
trap 'rm -f "$steps"' EXIT
for arch; do
    machine "$arch"
    need_libraries
    mkdir -p "$dir"
    rm -f "$dir"/*.counts
    build_library || exit 1
    for name in digest $tests; do echo "$arch $name"; done >>"$steps"
done
xargs -P "$JOBS" -L 1 sh tests/cross/run.sh step <"$steps"
while read -r arch name; do cat "build/cross/$arch/$name.counts"; done <"$steps" |
    awk '{ passed += $1; failed += $3; skipped += $5 }
         END { print passed + 0 " passed, " failed + 0 " failed" (skipped ? ", " skipped " skipped" : "")
               exit failed > 0 || passed == 0 }'
