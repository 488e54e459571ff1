#!/bin/sh
# Builds and runs the tests for other machines: tests/cross/run.sh ARCH...   (see make cross)
#
# For each ARCH (aarch64, arm, i386, s390x, musl): digest.c, whose lines must be those that it
# prints here; the command aq, whose files must be those that it writes here; and every
# tests/test_*.c that can pass there, with the stand-in for Criterion beside this file and no
# codecs but ZSTD and SNAPPY. What this machine cannot run itself runs in qemu-user. "optimizers"
# is this machine by gcc and by clang with -O0 to -O3 and -march=native, which has fused
# multiply-add, and the tests of numbers.
# ONLY="kernels quantize": only these; JOBS: how many at a time. The last line is the total.
# Many lists of words have no quotes.
# shellcheck disable=SC2046,SC2086
set -u
cd "$(dirname "$0")/../.." || exit 1
: "${CC:=gcc}" "${JOBS:=2}" "${ONLY:=$(ls tests/test_*.c | sed 's/.*test_//; s/\.c$//' | tr '\n' ' ')}"
export CC

# --- Machines -------------------------------------------------------------------------------

# Sets, for $1: cc, emulator, packages (where cc and emulator are), debian (Debian's name of the
# machine, for its libraries), codecs (of these libraries), tests (that can pass), extra (options
# for the tests, not for the library), dir.
machine() {
    emulator='' debian='' codecs='' tests=$ONLY extra='' dir=build/cross/$1 optimize=-O2
    case $1 in
    aarch64)    # gcc 12 has internal errors when it vectorizes loops with fmax()
        extra=-fno-tree-vectorize
        cc=aarch64-linux-gnu-gcc emulator=qemu-aarch64 debian=arm64 codecs='zstd snappy'
        packages='qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross' ;;
    arm)    # long double, the oracle of test_metrics.c, is double
        cc=arm-linux-gnueabihf-gcc emulator=qemu-arm debian=armhf codecs='zstd snappy'
        packages='qemu-user gcc-arm-linux-gnueabihf libc6-dev-armhf-cross'
        not metrics ;;
    i386)   # the x87 computes with more bits
        cc='i686-linux-gnu-gcc -msse2 -mfpmath=sse' debian=i386 codecs='zstd snappy'
        emulator=qemu-i386
        packages='qemu-user gcc-i686-linux-gnu libc6-dev-i386-cross' ;;
    s390x)  # big-endian; there libsnappy 1.1.9 does not give back what it compressed
        cc='s390x-linux-gnu-gcc -fexcess-precision=fast' emulator=qemu-s390x debian=s390x codecs=zstd
        packages='qemu-user gcc-s390x-linux-gnu libc6-dev-s390x-cross' ;;
    musl)   # another libc on this machine, without codecs, which these tests write with
        cc=musl-gcc
        packages=musl-tools
        not bad_input encodings parquet status table_model threads_columns threads_writer writer ;;
    gcc-* | clang-*)
        cc=${1%-*} optimize=-${1#*-} packages='gcc clang'
        [ "$optimize" = -native ] && optimize='-O2 -march=native'
        only diffusion kernels matmul params quantize ;;
    *)
        echo "tests/cross/run.sh: no machine '$1'; there are aarch64 arm i386 s390x musl optimizers" >&2
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

not() {
    for name; do tests=$(echo " $tests " | sed "s/ $name / /"); done
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
flags='-Wall -Wextra -Werror -Wno-unknown-warning-option -Wno-maybe-uninitialized
    -g1 -D_FILE_OFFSET_BITS=64'

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

# Whether programs of the machine run here as they are: those of i386 do on most of x86-64.
runs_here() {
    echo 'int main(void) { return 0; }' | $cc -static -x c - -o "$dir/nothing" && "$dir/nothing"
} 2>/dev/null

# The library must not fuse multiplications with additions where gcc may, as it does by default
# without -std=c99; what the tests compute to compare with must be exact.
build_library() {
    case $cc in *gcc*) contract=-ffp-contract=fast ;; *) contract='' ;; esac
    $cc -std=c99 $optimize $flags $contract $(codec_flags) -c tools/aq_impl.c -o "$dir/aq_impl.o"
}

run_test() {
    guard=
    large=$([ -z "$emulator" ] || echo -DLARGE_TESTS=0) # they take minutes where they are fast
    [ "$1" = kernels ] && guard='tests/cross/guard.c -Wl,--wrap=posix_memalign,--wrap=free'
    $cc -std=gnu11 $optimize $flags $large $extra -ffp-contract=off -static -Itests/cross \
        $(codec_flags) "tests/test_$1.c" $guard \
        -o "$dir/test_$1" "$dir/aq_impl.o" $(codec_libraries) -pthread -lm &&
        $emulator "$dir/test_$1"
}

run_digest() {
    $cc -std=gnu11 $optimize $flags -static tests/cross/digest.c -o "$dir/digest" -pthread -lm &&
        $emulator "$dir/digest" >"$dir/digest.txt" &&
        diff $here/digest.txt "$dir/digest.txt" && echo '1 passed, 0 failed'
}

# The command without codecs, which other machines may not have, as one program: $1 is the
# compiler with its options, $2 the program.
build_aq() {
    $1 -std=c99 $flags tools/aq*.c -o "$2" -pthread -lm
}

# What the command "$@" makes of the model and the calibration of digest.c, into its directory.
aq_files() {
    files=$1
    shift
    rm -rf "$files" && mkdir -p "$files" && cd "$files" &&
        "$@" quantize "$model" 4.parquet --group-size 64 >/dev/null &&
        "$@" quantize "$model" 2.parquet --bits 2 --codebook --no-streaming >/dev/null &&
        "$@" quantize "$model" time.parquet --calibration "$calibration" --optimize-groups \
            --smooth-groups sigmoid --equalize --smooth-input 0.5 --target-bpw 9 >/dev/null &&
        "$@" dequantize 4.parquet 4.safetensors >/dev/null &&
        "$@" convert "$model" model.safetensors >/dev/null &&
        "$@" inspect --json time.parquet >time.json &&
        "$@" compare --json "$model" 2.parquet >compare.json &&
        "$@" verify ./*.parquet >/dev/null
}

run_aq() {
    build_aq "$cc $optimize -static" "$dir/aq" &&
        (aq_files "$dir/files" $emulator "$PWD/$dir/aq") &&
        diff -r $here/files "$dir/files" && echo '1 passed, 0 failed'
}

# The same of this machine.
build_here() {
    mkdir -p $here &&
        $CC -std=gnu11 -O2 $flags tests/cross/digest.c -o $here/digest -pthread -lm &&
        $here/digest >$here/digest.txt && $here/digest save "$model" "$calibration" &&
        build_aq "$CC -O2" $here/aq && (aq_files $here/files "$PWD/$here/aq")
}

here=build/cross/here
model=$PWD/$here/layers.parquet calibration=$PWD/$here/calibration.parquet

# One step; its counts are the last line that it prints, or one failure.
if [ "${1:-}" = step ]; then
    machine "$2"
    if runs_here; then emulator=''; fi
    log=$dir/$3.log
    start=$(date +%s)
    case $3 in
    digest) run_digest ;;
    aq)     run_aq ;;
    *)      run_test "$3" ;;
    esac >"$log" 2>&1 </dev/null
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
    shift
    if [ "$arch" != optimizers ]; then set -- "$@" "$arch"; continue; fi
    for option in O0 O1 O2 O3 native; do set -- "$@" "gcc-$option" "clang-$option"; done
done
for arch; do
    machine "$arch"
    need_tools
done
build_here || exit 1
steps=$(mktemp) || exit 1
trap 'rm -f "$steps"' EXIT
for arch; do
    machine "$arch"
    need_libraries
    mkdir -p "$dir"
    rm -f "$dir"/*.counts
    build_library || exit 1
    command=aq
    case $arch in gcc-* | clang-*) command='' ;; esac # the tests of the compiler's numbers
    for name in digest $command $tests; do echo "$arch $name"; done >>"$steps"
done
xargs -P "$JOBS" -L 1 sh tests/cross/run.sh step <"$steps"
while read -r arch name; do cat "build/cross/$arch/$name.counts"; done <"$steps" |
    awk '{ passed += $1; failed += $3; skipped += $5 }
         END { print passed + 0 " passed, " failed + 0 " failed" (skipped ? ", " skipped " skipped" : "")
               exit failed > 0 || passed == 0 }'
