# compare.awk - compare what a document shows with what a command printed.
# awk -f compare.awk EXPECTED ACTUAL; "...", times and rates are described in run.sh. Prints
# the first line that differs and fails.

# What is not compared gets one form; a document may write [time] or [rate] itself.
function plain(line) {
    sub(/[ \t]+$/, "", line)
    line = line " "
    gsub(/[0-9][0-9.,]* [A-Za-z]+\/s /, "[rate] ", line)
    gsub(/[0-9][0-9.,]* [A-Za-z]+\/s,/, "[rate],", line)
    gsub(/[0-9][0-9.,]* (ns|us|ms|s) /, "[time] ", line)
    gsub(/[0-9][0-9.,]* (ns|us|ms|s),/, "[time],", line)
    sub(/ $/, "", line)
    return line
}

# "..." matches any text: its parts must occur in order, the first and last at the ends.
function same(pattern, line,    n, part, i, at) {
    n = split_dots(pattern, part)
    if (n == 1) return pattern == line
    if (substr(line, 1, length(part[1])) != part[1]) return 0
    line = substr(line, length(part[1]) + 1)
    for (i = 2; i < n; i++) {
        at = index(line, part[i])
        if (part[i] != "" && at == 0) return 0
        if (part[i] != "") line = substr(line, at + length(part[i]))
    }
    return length(line) >= length(part[n]) &&
           substr(line, length(line) - length(part[n]) + 1) == part[n]
}

function split_dots(text, part,    n, at) {
    for (n = 1; (at = index(text, "...")) > 0; n++) {
        part[n] = substr(text, 1, at - 1)
        text = substr(text, at + 3)
    }
    part[n] = text
    return n
}

# Whether the expected lines from e on match the actual lines from a on.
function match_lines(e, a,    i) {
    for (; e <= num_expected && expected[e] != "..."; e++) {
        if (a > num_actual || !same(expected[e], actual[a++])) {
            if (e > furthest) furthest = e
            return 0
        }
    }
    if (e > num_expected) {
        if (a <= num_actual) furthest = e
        return a > num_actual
    }
    for (i = a; i <= num_actual + 1; i++)
        if (match_lines(e + 1, i)) return 1
    return 0
}

FILENAME == ARGV[1] { expected[++num_expected] = plain($0); next }
{ actual[++num_actual] = plain($0) }

END {
    # A blank line before the end of a block is for the reader.
    while (num_expected > 0 && expected[num_expected] == "") num_expected--
    while (num_actual > 0 && actual[num_actual] == "") num_actual--
    if (match_lines(1, 1)) exit 0
    print (furthest > num_expected ? "more lines than shown" \
                                   : "no \"" expected[furthest] "\"")
    exit 1
}
