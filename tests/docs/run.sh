#!/bin/sh
# Runs what the documents show, and compares it with what they say comes out.
# Usage: tests/docs/run.sh [--update] [FILE.md...]
#        (environment: CC, the compiler; BUILD, a directory)
# With --update, what a command prints replaces other output in the document.
#
# Of README.md, docs/GUIDE.md, docs/FORMAT.md, docs/PARQUET.md and the program in the top comment
# of arrowquant.h, in the order of the page, in one scratch directory a document that holds
# arrowquant.h and examples/, with build/aq, build/examples and $CC as cc in PATH:
#
#   ```sh         Lines that begin with "$ " are commands (one that ends in a backslash goes
#                 on in the next line), the lines under each what it prints on stdout and
#                 stderr. Each has a shell of its own and must succeed; one that is meant to
#                 fail is shown as "command; echo $?". A block without "$ " is a script: it
#                 must succeed, what it prints is not compared.
#   ```c NAME     A file of that name. Without NAME, a program (with "int main") is the first
#                 .c file that the next command names; other C must compile by itself.
#   ```js NAME    A file too, as is any other language with a NAME.
#   ```text       Not run, as is any other language.
#
# A command that begins with "node" is skipped where the packages of tests/interop are not
# installed; what needs its files has to be in the same command.
# In what a command prints, "..." stands for anything in a line, and as a line of its own for
# any number of lines. Times and rates ("0.02 s", "130 MB/s") are not compared.
set -u
cd "$(dirname "$0")/../.." || exit 1
here=$PWD/tests/docs
work=${BUILD:-$PWD/build/docs}
modules=$PWD/build/interop/node_modules
passed=0 failed=0 skipped=0
update=no
if [ "${1:-}" = --update ]; then update=yes && shift; fi

# Cuts a document into NNNN/{where,command,expected,...}, a directory for each command:
# extract NAME FILE STEPS
extract() {
    rm -rf "$3" && mkdir -p "$3" && awk -v out="$3" -v name="$1" -f "$here/extract.awk" "$2"
}

# The program and its compile line in the top comment of the header, as a document.
header_program() {
    awk '
        /^\*\// || /\*\/ *$/ { exit }
        !program && /^ *#include "arrowquant.h"/ {
            # "Do this", a few lines above, says so.
            program = 1
            print "```c\n#define ARROWQUANT_IMPLEMENTATION"
        }
        program == 1 { sub(/^       /, ""); print }
        program == 1 && /^}/ { print "```"; program = 2 }
        program == 2 && /^ *cc .*\.c / {
            sub(/^ */, "")
            sub(/   .*/, "")
            print "```sh\n$ " $0 (/\.\// ? "" : " && ./a.out") "\n...\n```"
            exit
        }' "$1"
}

# The packages of tests/interop, for commands that begin with "node"; that test installs them.
link_packages() {
    if [ -e build/interop/lock ] && command -v flock >/dev/null; then
        flock build/interop/lock true
    fi
    if [ -d "$modules/@duckdb/node-api" ] && [ -d "$modules/nodejs-polars" ]; then
        ln -s "$modules" "$1/node_modules"
    fi
}

lacks_packages() {
    case $(cat "$1/command") in
    node\ *) [ ! -e "$2/node_modules" ] || ! command -v node >/dev/null ;;
    *) false ;;
    esac
}

# One command: run_step STEP SCRATCH
run_step() {
    if [ -d "$1/files" ]; then cp "$1"/files/* "$2"/; fi
    if lacks_packages "$1" "$2"; then
        echo "skip $(cat "$1/where"): the packages of tests/interop are not installed"
        skipped=$((skipped + 1))
        return
    fi
    (cd "$2" && sh "$1/command") >"$1/actual" 2>&1 </dev/null
    status=$?
    problem=
    [ $status -eq 0 ] || problem="exit status $status"
    if [ -f "$1/expected" ] &&
       ! awk -f "$here/compare.awk" "$1/expected" "$1/actual" >"$1/difference"; then
        problem="${problem:+$problem; }other output: $(cat "$1/difference")"
    fi
    if [ "$update" = yes ] && [ $status -eq 0 ] && [ -n "$problem" ]; then
        touch "$1/update"
    fi
    if [ -z "$problem" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL $(cat "$1/where"): $problem"
        sed 's/^/    $ /' "$1/command"
        sed 's/^/    /' "$1/actual"
    fi
}

# Puts the output of the steps that ask for it into the document: update_document FILE STEPS
update_document() {
    for step in "$2"/*/; do
        if [ -e "$step/update" ]; then
            echo "$(cat "$step/shown") ${step}actual"
        fi
    done >"$2.changes"
    [ -s "$2.changes" ] || return
    awk '
        NR == FNR { first[$1] = $2; actual[$1] = $3; next }
        FNR in first {
            drop = first[FNR]
            while ((getline text < actual[FNR]) > 0) print text
        }
        FNR > drop' "$2.changes" "$1" >"$2.new"
    cat "$2.new" >"$1"
    echo "updated $1"
}

# run_document NAME FILE
run_document() {
    base=$work/$(echo "$1" | tr '/' '_')
    if ! extract "$1" "$2" "$base/steps"; then
        echo "FAIL $1: see above"
        failed=$((failed + 1))
        return
    fi
    rm -rf "$base/scratch" && mkdir -p "$base/scratch"
    cp arrowquant.h "$base/scratch/"
    ln -s "$PWD/examples" "$base/scratch/examples"
    link_packages "$base/scratch"
    for step in "$base"/steps/*/; do
        if [ -d "$step" ]; then run_step "${step%/}" "$base/scratch"; fi
    done
    if [ "$update" = yes ]; then update_document "$2" "$base/steps"; fi
}

# Programs of an earlier run would hide those of build/examples; a compiler called cc, if
# not named by its path, would call itself.
rm -rf "$work/bin"
mkdir -p "$work/bin"
compiler=${CC:-gcc}
[ "$compiler" != cc ] || compiler=$(command -v cc)
printf '#!/bin/sh\nexec %s "$@"\n' "$compiler" >"$work/bin/cc"
chmod +x "$work/bin/cc"
PATH=$work/bin:$PWD/build:$PWD/build/examples:$PATH
NO_COLOR=1
export PATH NO_COLOR
for program in train_digits run_digits quantize_array; do
    [ -x build/examples/$program ] ||
        cc -O2 examples/$program.c -o "$work/bin/$program" -pthread -lm
done

if [ $# -eq 0 ]; then
    set -- README.md docs/GUIDE.md docs/FORMAT.md docs/PARQUET.md
    header_program arrowquant.h >"$work/header.md"
    before=$((passed + failed))
    run_document top-comment-of-arrowquant.h "$work/header.md"
    if [ $((passed + failed)) -eq "$before" ]; then
        echo "FAIL arrowquant.h: no program with its compile line in the top comment"
        failed=$((failed + 1))
    fi
fi
for document in "$@"; do
    if [ -f "$document" ]; then
        run_document "$document" "$document"
    else
        echo "skip $document: there is no such file"
        skipped=$((skipped + 1))
    fi
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ $((passed + skipped)) -ne 0 ]
