#!/bin/sh
# make install and make uninstall, in a temporary root; a program of somebody else that
# finds the header there by pkg-config and by CMake; the manual pages and the completions,
# which have to know the options that aq COMMAND --help shows, and no others.
#
# Needs build/aq. Prints "ok NAME", "FAIL NAME" or "skipped NAME" for each test, and last
# "N passed, N failed, N skipped".
set -u
cd "$(dirname "$0")/../.." || exit 1
: "${CC:=gcc}" "${CXX:=g++}"
export CC CXX
# Under make test, variables of its command line are in here. It is not for CMake's make.
flags=${MAKEFLAGS:-}
unset MAKEFLAGS MFLAGS PKG_CONFIG_PATH PKG_CONFIG_SYSROOT_DIR CMAKE_PREFIX_PATH
here=$PWD/tests/install

w=$(mktemp -d) || exit 1
trap 'rm -rf "$w"' EXIT
trap 'exit 130' INT TERM
. "$here/../harness.sh"

# same FILE: its content is what stands on stdin.
same() {
    difference=$(diff -u - "$1") || fault "$difference"
}

# equal WHAT ACTUAL EXPECTED
equal() { [ "$2" = "$3" ] || fault "$1 is \"$2\", not \"$3\""; }

has() { command -v "$1" >/dev/null 2>&1; }

# run_make TARGET VARIABLE=...: which does not build aq, even where it seems old: the
# other steps of the tests are using it.
run_make() {
    expect 0 env MAKEFLAGS="$flags" make -o build/aq "$@"
}

# --- Files ------------------------------------------------------------------------------

[ -x build/aq ] || { echo 'build/aq was not built'; exit 1; }
version=$(sed -n 's/^#define AQ_VERSION_STRING "\(.*\)"$/\1/p' arrowquant.h)
root=$w/root
prefix=$root/opt/aq

begin 'install: these files, with these modes, whatever the umask'
mkdir -p "$prefix/bin" "$prefix/share/cmake" && echo other >"$prefix/bin/other"
umask 077
run_make install DESTDIR="$root" PREFIX=/opt/aq
umask 022
(cd "$prefix" && find . -type f -exec ls -l {} + | awk '{ print substr($1, 1, 10), $NF }' |
    grep -v /other | LC_ALL=C sort -k 2) >"$w/installed"
same "$w/installed" <<'END'
-rwxr-xr-x ./bin/aq
-rw-r--r-- ./include/arrowquant.h
-rw-r--r-- ./share/bash-completion/completions/aq
-rw-r--r-- ./share/cmake/arrowquant/arrowquantConfig.cmake
-rw-r--r-- ./share/cmake/arrowquant/arrowquantConfigVersion.cmake
-rw-r--r-- ./share/man/man1/aq.1
-rw-r--r-- ./share/man/man3/arrowquant.3
-rw-r--r-- ./share/pkgconfig/arrowquant.pc
-rw-r--r-- ./share/zsh/site-functions/_aq
END
closed=$(cd "$prefix" && find include share/man share/cmake/arrowquant -type d ! -perm 755)
equal 'what others cannot enter' "$closed" ''
cmp -s arrowquant.h "$prefix/include/arrowquant.h" || fault 'the header is another one'
expect 1 grep -rlE '@[A-Z]+@' "$prefix/include" "$prefix/share"
expect 0 "$prefix/bin/aq" --version
equal 'aq --version' "$(cat "$w/out")" "aq $version"

begin 'install: again, over what is there'
run_make install DESTDIR="$root" PREFIX=/opt/aq
expect 0 "$prefix/bin/aq" --version

begin 'install: a PREFIX that is not absolute is refused'
expect 2 env MAKEFLAGS="$flags" make -o build/aq install DESTDIR="$w/" PREFIX=relative
expect 2 env MAKEFLAGS="$flags" make uninstall DESTDIR="$w/" PREFIX=
[ ! -e "$w/relative" ] || fault 'it was made'

aq=$prefix/bin/aq
commands=$("$aq" --help | sed -n 's/^  \([a-z]*\)  .*/\1/p')

# --- Programs that use it ---------------------------------------------------------------

# The example of the manual page.
awk '/^\.Sh EXAMPLES/ { on = 1 } on && /^\.Ed/ { exit } on > 1 { gsub(/\\e/, "\\"); print }
     on && /^\.Bd/ { on = 2 }' docs/arrowquant.3 >"$w/example.c"
said=$(sed -n '/^\.Sh EXAMPLES/,$ s/^\.Dl //p' docs/arrowquant.3)
mkdir "$w/run"

# runs PROGRAM: in an empty directory; it prints what the page says.
runs() {
    [ -x "$1" ] || { fault "$1 was not built"; return; }
    rm -f "$w/run/"*
    (cd "$w/run" && "$1") >"$w/out" 2>&1 || fault "$1: exit status $?"
    equal "output of $1" "$(cat "$w/out")" "$said"
}

begin 'pkg-config: in a root that is not the system, then at home, then moved'
if has pkg-config; then
    in_root() {
        PKG_CONFIG_PATH=$prefix/share/pkgconfig PKG_CONFIG_SYSROOT_DIR=$root pkg-config "$@"
    }
    equal 'the version' "$(in_root --modversion arrowquant)" "$version"
    equal 'the prefix' "$(in_root --variable=prefix arrowquant | sed "s|^$root||")" /opt/aq
    expect 0 in_root --exists "arrowquant >= $version"
    # No quotes: lists of words.
    # shellcheck disable=SC2046,SC2086
    expect 0 $CC "$w/example.c" -o "$w/example" $(in_root --cflags --libs arrowquant)
    runs "$w/example"
    run_make install DESTDIR= PREFIX="$w/home"
    # shellcheck disable=SC2086
    at_home() {
        PKG_CONFIG_PATH=$w/$1/share/pkgconfig pkg-config $2 arrowquant | sed 's/ *$//'
    }
    equal '--cflags' "$(at_home home --cflags)" "-I$w/home/include -pthread"
    equal '--libs' "$(at_home home --libs)" '-pthread -lm'
    mv "$w/home" "$w/moved"
    equal '--cflags when moved' "$(at_home moved "--define-prefix --cflags")" \
        "-I$w/moved/include -pthread"
    expect 0 env MAKEFLAGS="$flags" make uninstall DESTDIR= PREFIX="$w/moved"
    equal 'what is left' "$(find "$w/moved" -type f)" ''
else
    skip 'no pkg-config'
fi

begin 'CMake: a C and a C++ program, from where it was not installed to'
if has cmake; then
    mkdir "$w/consumer" && cp "$here/CMakeLists.txt" "$w/example.c" "$w/consumer"
    cp "$w/example.c" "$w/consumer/example.cpp"
    expect 0 cmake -S "$w/consumer" -B "$w/consumer/build" -DCMAKE_PREFIX_PATH="$prefix" \
        -DVERSION="$version"
    equal found "$(sed -n 's/^-- found //p' "$w/out")" "$version in $prefix/include"
    expect 0 cmake --build "$w/consumer/build" --parallel 2
    runs "$w/consumer/build/in_c"
    runs "$w/consumer/build/in_cxx"
else
    skip 'no cmake'
fi

begin 'CMake: versions that it stands for'
if has cmake; then
    template=$PWD/tools/install/arrowquantConfigVersion.cmake.in
    expect 0 cmake -DTEMPLATE="$template" -DOUT="$w" -P "$here/versions.cmake"
    equal 'what is wrong' "$(cat "$w/err")" ''
else
    skip 'no cmake'
fi

# --- Options: what aq says of itself ----------------------------------------------------
# Lines "COMMAND --option", and "COMMAND --option WORD" for the words that are its values.

for command in $commands; do
    "$aq" "$command" --help | awk -v command="$command" '
        /^  --/ {
            negatable = sub(/\[no-\]/, "", $1)
            print command, $1
            if (negatable) print command, "--no-" substr($1, 3)
            # "2|4|8", but not "SIZE" or "the".
            if ($2 ~ /\|/) {
                n = split($2, words, "|")
                for (i = 1; i <= n; i++)
                    if (words[i] ~ /^[a-z0-9]+$/) print command, $1, words[i]
            }
        }'
done | LC_ALL=C sort >"$w/options"
[ "$(wc -l <"$w/options")" -gt 60 ] || { echo 'the help of aq has another form'; exit 1; }

# --- Manual pages -----------------------------------------------------------------------

begin 'manual pages: no warning of mandoc or groff'
if has mandoc; then
    expect 0 mandoc -T lint -W warning docs/aq.1 docs/arrowquant.3
elif has groff && groff -mandoc -z /dev/null 2>/dev/null; then
    expect 0 groff -mandoc -ww -z -T utf8 docs/aq.1 docs/arrowquant.3
    equal 'what groff says' "$(cat "$w/err")" ''
else
    skip 'no mandoc and no groff'
fi

begin 'aq(1): the synopsis has the options of each command'
# "settings of quantize" are those up to --config; that order is the one of the usage.
awk '
    function put(command, option) {
        if (sub(/\[no-\]/, "", option)) print command, "--no-" substr(option, 3)
        print command, option
    }
    /^\.Sh/ { on = $2 == "SYNOPSIS" }
    !on { next }
    /^\.Nm/ { command = "" }
    /^\.Cm/ && command == "" { command = $2 }
    /^\.Op settings of Cm quantize$/ {
        for (i = 1; i <= n && !(i > 1 && settings[i - 1] == "--config"); i++)
            if (settings[i] != "--config") put(command, settings[i])
    }
    command != "" {
        for (i = 1; i < NF; i++) {
            if ($i != "Fl" && $i != ".Fl") continue
            put(command, "-" $(i + 1))
            if (command == "quantize") settings[++n] = "-" $(i + 1)
        }
    }' docs/aq.1 | LC_ALL=C sort >"$w/page"
awk 'NF == 2' "$w/options" | same "$w/page"

begin 'aq(1): each option and each value is explained'
awk '
    /^\.Sh/ { on = $2 == "OPTIONS" }
    on && /^\.It Fl/ {
        for (i = 2; i < NF; i++) {
            if ($i == "Fl") {
                option = "-" $(i + 1)
                sub(/^--no-/, "--", option)
                print option
            }
            if ($i == "Cm") print option, $(i + 1)
        }
    }' docs/aq.1 | LC_ALL=C sort -u >"$w/page"
awk '{ sub(/^--no-/, "--", $2); print $2 (NF == 3 ? " " $3 : "") }' "$w/options" |
    LC_ALL=C sort -u | same "$w/page"

begin 'aq(1): explains the commands of aq --help, in their order'
awk '/^\.Sh/ { on = $2 == "DESCRIPTION" } on && /^\.It Cm/ { print $3 }' docs/aq.1 >"$w/page"
printf '%s\n' "$commands" | same "$w/page"

begin 'arrowquant(3): the macros of the header, and functions that there are'
sed -n '/^   Options: define them before/,/^   ("implementation"/p' arrowquant.h |
    grep -oE '^ +(ARROWQUANT|AQ)_[A-Z_0-9]+' | tr -d ' ' | LC_ALL=C sort >"$w/macros"
[ -s "$w/macros" ] || fault 'no table of options in the header'
awk '/^\.It Dv/ { for (i = 3; i <= NF; i++) if ($i ~ /^A[A-Z]*Q[A-Z]*_/) print $i }' \
    docs/arrowquant.3 | LC_ALL=C sort >"$w/page"
same "$w/page" <"$w/macros"
grep -oE '\baq_[a-z0-9_]+|\bAQ_[A-Z0-9_]+' docs/arrowquant.3 | sort -u |
while read -r word; do
    sed '/MARK: - \[50\]/,$d' arrowquant.h | grep -qw "$word" || echo "$word"
done >"$w/unknown"
equal 'what the header does not have' "$(cat "$w/unknown")" ''
grep -oE 'MARK: - \[[0-9]+\] .*\(public\)' arrowquant.h | grep -oE '\[[0-9]+\]' >"$w/sections"
grep -oE '^\.It \[[0-9]+\]' docs/arrowquant.3 | grep -oE '\[[0-9]+\]' | same "$w/sections"

# --- Completion: bash -------------------------------------------------------------------

completion=$prefix/share/bash-completion/completions/aq

begin 'bash: options and values are those of aq COMMAND --help'
if has bash; then
    # reply WORD... is what the last word can become.
    cat >"$w/replies" <<'END'
source "$1"
reply() {
    COMP_WORDS=(aq "$@") COMP_CWORD=$#
    _aq
    ((${#COMPREPLY[@]} == 0)) || printf '%s\n' "${COMPREPLY[@]}"
}
for command in $2; do
    for option in $(reply "$command" --); do
        [[ $option == --help ]] && continue
        echo "$command $option"
        for value in $(reply "$command" "$option" ''; reply "$command" "$option" = '';
                       reply "$command" "$option" =); do
            [[ $value == --* ]] || echo "$command $option $value"
        done
    done
    [[ $(reply "$command" --help) == --help ]] || echo "$command lacks --help"
    [[ -z $(reply "$command" -- --) ]] || echo "$command has options behind --"
done
reply '' >"$3"
END
    expect 0 bash --norc "$w/replies" "$completion" "$commands" "$w/words"
    LC_ALL=C sort -u "$w/out" >"$w/page"
    same "$w/page" <"$w/options"
    equal 'what bash says' "$(cat "$w/err")" ''
    printf '%s\n' "$commands" --help --version | same "$w/words"
else
    skip 'no bash'
fi

begin 'bash: at the keyboard: commands, options, values, names of files'
if has bash; then
    mkdir "$w/keys" && : >"$w/keys/model.safetensors" && : >"$w/keys/my file"
    # typed KEYS EXPECTED: what aq gets.
    typed() {
        printf 'source %s\naq() { printf "<%%s>" "$@"; echo; }\n%b\n' "$completion" "$1" |
            (cd "$w/keys" && INPUTRC=/dev/null TERM=dumb HISTFILE='' bash --norc -i 2>"$w/err") |
            grep '^<' >"$w/out"
        equal "of $1" "$(cat "$w/out")" "$2"
    }
    typed 'aq qu\t mod\t my\t --ti' '<quantize><model.safetensors><my file><--ti>'
    typed 'aq bench --sv\t mo\t --js\t' '<bench><--svg><model.safetensors><--json>'
    typed 'aq convert mod\t --io\t r\t --th\t mod\t' \
        '<convert><model.safetensors><--io><read><--threads><mod>'
    typed 'aq quantize --granularity=ch\t --config=mod\t' \
        '<quantize><--granularity=channel><--config=model.safetensors>'
    typed 'aq con\tv\t -- mod\t' '<convert><--><model.safetensors>'
else
    skip 'no bash'
fi

# --- Completion: zsh --------------------------------------------------------------------

completion=$prefix/share/zsh/site-functions/_aq

begin 'zsh: options and values are those of aq COMMAND --help'
awk -v quote="'" '
    /^    [a-z]+=\($/ { group = $1; sub(/=.*/, "", group); next }
    /^    [a-z |]+\)$/ { group = $0; gsub(/[ )]/, "", group); next }
    $0 ~ "^ +" quote "[a-z]+:" && group == "commands" { next }
    /^ +\$[a-z]+$/ { specs[group] = specs[group] specs[substr($1, 2)]; next }
    $0 ~ "^ +" quote {
        option = $0
        sub(/^ +./, "", option)
        sub(/^(\*|\([^)]*\))/, "", option)
        if (option !~ /^--/) next
        values = option
        sub(/[^a-z0-9-].*/, "", option)
        specs[group] = specs[group] " " option
        if (values !~ /:\([^()]*\).$/) next
        sub(/.*:\(/, "", values)
        sub(/\).*/, "", values)
        gsub(/ /, "|", values)
        specs[group] = specs[group] "=" values
    }
    END {
        for (group in specs) {
            n = split(group, names, "|")
            for (k = 1; k <= n; k++) {
                m = split(specs[group], options, " ")
                for (i = 1; i <= m; i++) {
                    v = split(options[i], words, /[=|]/)
                    print names[k], words[1]
                    for (j = 2; j <= v; j++) print names[k], words[1], words[j]
                }
            }
        }
    }' "$completion" | grep -vE '^(json|threads|memory|job|settings) ' | LC_ALL=C sort >"$w/page"
same "$w/page" <"$w/options"
sed -n "/^    commands=(/,/^    )/ s/^ *'\([a-z]*\):.*/\1/p" "$completion" >"$w/page"
printf '%s\n' "$commands" | same "$w/page"

begin 'zsh: at the keyboard'
if has zsh; then
    expect 0 zsh -n "$completion"
    expect 0 timeout 60 zsh -f "$here/keys.zsh" "${completion%/*}" "$w/keys"
    same "$w/out" <<'END'
<quantize><model.safetensors><my file>
<bench><--svg><model.safetensors><--json>
<convert><model.safetensors><--io><read><--threads><mod>
<quantize><--granularity=channel><--config=model.safetensors>
<verify><model.safetensors><--help>
END
else
    skip 'no zsh'
fi

# --- Away again -------------------------------------------------------------------------

begin 'uninstall: all of it, and nothing else'
run_make uninstall DESTDIR="$root" PREFIX=/opt/aq
(cd "$prefix" && find . ! -type d) >"$w/out"
echo ./bin/other | same "$w/out"
[ ! -e "$prefix/share/cmake/arrowquant" ] || fault 'its own directory is left'
run_make uninstall DESTDIR="$root" PREFIX=/opt/aq

end
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
