#!/bin/sh
# What the tests reach of arrowquant.h: runs the programs of build/cov, which make coverage
# has built with gcov's counters, and tests/cli; prints lines and branches, and fails below
# the bars, or where a line is not reached that tests/coverage.txt does not account for.
#   tools/coverage.sh            all of it; JOBS programs at a time
#   tools/coverage.sh report     of what the last run counted
#
# What the compiler does not see is not counted: sections for other machines (NEON, other
# byte orders) and other systems. Branches are counted in each copy that the compiler makes
# of an inlined function, also those that a constant of the copy decides.
set -u
cd "$(dirname "$0")/.." || exit 1
: "${JOBS:=2}" "${CC:=gcc}"
least_lines=95 least_branches=85
out=build/cov
export JOBS CC CRITERION_JOBS=1

# --- One program ----------------------------------------------------------------------------

if [ "${1:-}" = run ]; then
    name=$2 start=$(date +%s)
    BUILD=$PWD/$out/run/$name
    export BUILD
    mkdir -p "$BUILD"
    case $name in
    cli) set -- sh tests/cli/run.sh ;;
    *)   set -- "$out/$name" ;;
    esac
    result=ok
    AQ=$PWD/$out/aq "$@" >"$BUILD.log" 2>&1 </dev/null || result=FAIL
    echo "$result  $name, $(($(date +%s) - start)) s"
    [ $result = ok ] && exit
    grep -v '^ok ' "$BUILD.log" | tail -n 40 | sed 's/^/      | /'
    touch "$out/run/failed"
    exit
fi

failed=0
if [ "${1:-}" != report ]; then
    find $out -name '*.gcda' -delete
    rm -rf $out/run
    mkdir -p $out/run
    # The longest first.
    { echo cli; echo test_resume; ls tests/test_*.c; } |
        sed -e 's|^tests/||' -e 's/\.c$//' | awk '!seen[$0]++' |
        xargs -P "$JOBS" -n 1 sh "$0" run
    [ ! -e $out/run/failed ] || failed=1
fi

# --- Figures --------------------------------------------------------------------------------

# Kernels that this machine cannot run are not counted.
skip_from=0 skip_to=0
if [ -r /proc/cpuinfo ] && ! grep -qw avx512_vnni /proc/cpuinfo; then
    skip_from=$(sed -n '/MARK: - .*Kernels: AVX-512/=' arrowquant.h)
    skip_to=$(sed -n '/MARK: - .*Kernels: NEON/=' arrowquant.h)
    echo "not counted, as this machine cannot run it: AVX-512"
fi

gcovr -r . --object-directory $out -f arrowquant.h --exclude-unreachable-branches \
    --json $out/coverage.json $out >$out/gcovr.log 2>&1 || { cat $out/gcovr.log; exit 1; }

# Of each line its number, 1 when it was reached, its branches, those that were taken.
jq -r '.files[] | select(.file == "arrowquant.h") | .lines[]
    | [.line_number, (if ."gcovr/noncode" then "-" elif .count > 0 then 1 else 0 end),
       (.branches | length), ([.branches[] | select(.count > 0)] | length)] | @tsv' \
    $out/coverage.json >$out/lines.tsv || exit 1

# tests/coverage.txt: reasons, below each its functions with the number of their lines.
awk -v least_lines=$least_lines -v least_branches=$least_branches \
    -v branches=$out/branches.txt -v skip_from="$skip_from" -v skip_to="$skip_to" '
    function percent(part, all) { return all == 0 ? 0 : 100 * part / all }
    FILENAME ~ /coverage\.txt$/ {
        if (/^#/ || NF == 0) next
        if (/^ /) { allowed[$1] += $2; reason[$1] = 1 } else reasons++
        next
    }
    FILENAME ~ /lines\.tsv$/ {
        if ($1 > skip_from && $1 < skip_to) next
        if ($2 != "-") { lines++; reached += $2; if (!$2) missed[$1] = 1 }
        all += $3; taken += $4
        if ($4 < $3) untaken[$1] = $3 - $4 " of " $3
        next
    }
    # A definition begins in column 1.
    /^[A-Za-z]/ && match($0, /[ *]aqi?_[a-z0-9_]+\(/) {
        name = substr($0, RSTART + 1, RLENGTH - 2)
    }
    FNR in untaken { print FNR ": " name ": " untaken[FNR] ": " $0 >branches }
    FNR in missed {
        count[name]++
        text[name] = text[name] sprintf("      %d: %s\n", FNR, $0)
    }
    END {
        for (f in count) {
            if (count[f] <= allowed[f]) { known += count[f]; continue }
            printf "not reached, and not in tests/coverage.txt: %s, %d lines\n%s", f, count[f],
                   text[f]
            bad = 1
        }
        for (f in reason) {
            if (!(f in count)) print "in tests/coverage.txt, but reached: " f
        }
        printf "lines     %d of %d, %.1f %%; at least %d %%\n", reached, lines,
               percent(reached, lines), least_lines
        printf "branches  %d of %d, %.1f %%; at least %d %%\n", taken, all,
               percent(taken, all), least_branches
        printf "%d lines are not reached for %d reasons in tests/coverage.txt; branches not " \
               "taken are in %s\n", known, reasons, branches
        print "code for other machines and systems is not compiled here, and not counted"
        if (percent(reached, lines) < least_lines || percent(taken, all) < least_branches) {
            print "too little"
            bad = 1
        }
        exit bad
    }' tests/coverage.txt $out/lines.tsv arrowquant.h || failed=1
exit $failed
