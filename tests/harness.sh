# harness.sh - for tests that are shell scripts: named tests that end where the next begins, and
# counts. Sourced; $w is a directory of the script's own.

passed=0 failed=0 skipped=0 name=''

# begin NAME: a test starts, and the one before it ends.
begin() {
    end
    name=$1
    : >"$w/faults"
}

end() {
    [ -n "$name" ] || return 0
    if [ ! -s "$w/faults" ]; then
        echo "ok $name"
        passed=$((passed + 1))
    else
        echo "FAIL $name"
        sed 's/^/    /' "$w/faults"
        failed=$((failed + 1))
    fi
    name=
}

# skip WHY: instead of the rest of the test, unless it has failed by then.
skip() {
    if [ -s "$w/faults" ]; then
        end
        return
    fi
    echo "skipped $name: $1"
    skipped=$((skipped + 1))
    name=
}

# fault WHAT: into a file, as the end of a pipe is a shell of its own.
fault() { printf '%s\n' "$1" >>"$w/faults"; }

# expect EXIT COMMAND...: runs it; its output goes to the files out and err.
expect() {
    wanted=$1
    shift
    "$@" >"$w/out" 2>"$w/err" </dev/null
    got=$?
    [ "$got" -eq "$wanted" ] && return
    fault "$*: exit $got, not $wanted"
    fault "$(tail -n 20 "$w/out" "$w/err" | head -c 1200)"
}
