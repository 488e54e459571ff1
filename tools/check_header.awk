# Rules on the text of arrowquant.h; tools/check_header runs this. Reads the file once, line by
# line, for rules on lines; a small scanner drops comments and strings and joins what is left
# into declarations at file scope, for the rules on code. Rule names stand in parentheses.

function fault(line, what, rule) {
    printf "%s:%d: %s (%s)\n", file, line, what, rule
    faults++
}

# "(public)" and "(private)" belong to the banner, not to the title.
function title_of(text) {
    sub(/ \((public|private)\)$/, "", text)
    return text
}

# --- Lines ----------------------------------------------------------------------------------

{
    lines = NR
    if (length($0) > columns) fault(NR, "line of " length($0) " columns", "columns")
    if ($0 ~ /\t/) fault(NR, "tab", "tab")
    if ($0 ~ /[ \r]$/) fault(NR, "blank at the end of the line", "blank")
    if ($0 ~ /[^\t\r -~]/) fault(NR, "a byte that is not ASCII", "ascii")
    if ($0 ~ /(TODO|FIXME|XXX)/) fault(NR, "unfinished work", "todo")
}

# --- Top comment: version, length, contents -------------------------------------------------

NR == 1 {
    in_top = $0 ~ /^\/\*/
    if (!in_top) fault(1, "the file does not begin with its comment", "top-comment")
    first_line = $0
}

in_top {
    # An entry begins a line: [10] Title, more of them after two blanks.
    text = $0
    sub(/^[ *\/]*/, "", text)
    if (text ~ /^\[[0-9]+\] /) {
        n = split(text, part, /  +/)
        for (i = 1; i <= n; i++) {
            if (part[i] !~ /^\[[0-9]+\] /) continue
            entries++
            entry[entries] = title_of(part[i])
            entry_line[entries] = NR
        }
    }
    if ($0 ~ /\*\//) {
        in_top = 0
        if (NR > 150) fault(NR, "top comment of " NR " lines, at most 150", "top-comment")
    }
}

$0 ~ /^#define AQ_VERSION_STRING / { version = $3; gsub(/"/, "", version) }

# --- Banners --------------------------------------------------------------------------------

$0 ~ /MARK: - / {
    text = $0
    sub(/^.*MARK: - /, "", text)
    if ($0 !~ /^ \* MARK: - \[[0-9]+\] ./) fault(NR, "banner is not ' * MARK: - [NN] Title'", "contents")
    banners++
    banner[banners] = title_of(text)
    banner_line[banners] = NR
    number = substr(text, 2) + 0
    if (number <= section) fault(NR, "section " number " after " section, "ascending")
    section = number
}

$0 ~ /^#if.*ARROWQUANT_IMPLEMENTATION/ && !implementation { implementation = NR }

# --- Names of macros ------------------------------------------------------------------------
# Beside our own prefixes: the Arrow C Data Interface, the macros that system headers read, and
# the two functions whose result clang's analyzer is told.

$0 ~ /^ *# *define / {
    name = $0
    sub(/^ *# *define +/, "", name)
    sub(/[^A-Za-z0-9_].*$/, "", name)
    if (name !~ /^(AQ_|AQI_|ARROWQUANT_|ARROW_C_|ARROW_FLAG_)/ &&
        name !~ /^(_POSIX_C_SOURCE|_DEFAULT_SOURCE|_DARWIN_C_SOURCE|_FILE_OFFSET_BITS|aqi_fail|aqi_fail_at)$/)
        fault(NR, "macro '" name "' without AQ_ or AQI_", "name-macro")
}

# --- Code: declarations at file scope -------------------------------------------------------

# Text without comments, strings and character constants. Keeps in_comment over lines.
function code_of(text,    out, end) {
    out = ""
    while (text != "") {
        if (in_comment) {
            end = index(text, "*/")
            if (!end) return out
            in_comment = 0
            text = substr(text, end + 2)
        } else if (match(text, /\/\*|"([^"\\]|\\.)*"|'([^'\\]|\\.)*'/)) {
            out = out substr(text, 1, RSTART - 1)
            if (substr(text, RSTART, 2) == "/*") {
                in_comment = 1
                text = substr(text, RSTART + 2)
            } else {
                out = out "\"\""
                text = substr(text, RSTART + RLENGTH)
            }
        } else {
            return out text
        }
    }
    return out
}

# The name before the parameter list: the last name before a "(" outside of attributes.
function function_of(decl,    name) {
    gsub(/__attribute__ *\(\(([^()]|\([^()]*\))*\)\)/, " ", decl)
    gsub(/AQI?_[A-Z0-9_]+ *\([^()]*\)/, " ", decl)
    if (!match(decl, /[A-Za-z_][A-Za-z0-9_]* *\(/)) return ""
    name = substr(decl, RSTART, RLENGTH - 1)
    gsub(/ /, "", name)
    return name
}

# Commas between the parentheses of the parameter list, those of nested lists left out.
function parameters_of(decl, name) {
    sub("^.*[^A-Za-z0-9_]" name " *\\(", "", decl)
    sub(/\)[^)]*$/, "", decl)
    while (gsub(/\([^()]*\)/, "", decl)) continue
    return gsub(/,/, "", decl) + 1
}

# A comment is the documentation of the declarations that follow it without an empty line.
# It must name each: in full, or by its last words: "aq_a_name / _bytes".
function documented(name,    rest) {
    if (index(doc " ", name)) return 1
    rest = name
    while (match(rest, /_[a-z0-9]+/)) {
        rest = substr(rest, RSTART)
        if (doc ~ ("[ /]" rest "([^a-z0-9_]|$)")) return 1
        rest = substr(rest, 2)
    }
    return 0
}

function declaration(text,    name) {
    gsub(/  +/, " ", text)
    name = function_of(text)
    if (text ~ /^ ?AQ_API / && text ~ /;$/) {
        if (!documented(name))
            fault(start, "public function '" name "' has no comment that names it", "documented")
        public[name] = start
        return
    }
    if (text ~ /\{$/ && name != "" && text !~ /^ ?(typedef|struct|union|enum) / && text !~ /=/) {
        body_name = name
        body_start = start
        if (implementation) {
            defined[name] = start
            defined_section[name] = section
        }
        if (parameters_of(text, name) > 7)
            fault(start, "'" name "' has more than 7 parameters", "parameters")
        return
    }
    if (implementation && text ~ /;$/ && name ~ /^aqi_/ && text !~ /^ ?typedef / && text !~ /=/) {
        forward[name] = start
        forward_section[name] = section
        if (doc !~ /[Rr]ecurs/)
            fault(start, "forward declaration of '" name "' without a comment on a recursion", \
                  "forward-declaration")
    }
}

function type_name(text) {
    # struct NAME { / } NAME; / typedef ... NAME;
    if (match(text, /^ ?(typedef )?(struct|union|enum) [A-Za-z_][A-Za-z0-9_]* \{$/)) {
        sub(/ \{$/, "", text)
    } else if (text ~ /^ ?typedef .*;$/) {
        if (text ~ /\( ?\*/) {
            sub(/^.*\( ?\* ?/, "", text)
            sub(/\).*$/, "", text)
        }
        sub(/ ?(\[[^\]]*\])*;$/, "", text)
    } else {
        return
    }
    sub(/^.*[^A-Za-z0-9_]/, "", text)
    if (text !~ /^(aq_|aqi_|Arrow)/) fault(start, "type '" text "' without aq_ or aqi_", "name-type")
}

{
    was_comment = in_comment
    code = code_of($0)
    # Documentation: a comment that begins a line at file scope.
    if (depth == 0) {
        if (!was_comment && $0 ~ /^\/\*/) doc = $0
        else if (was_comment) doc = doc " " $0
        else if ($0 ~ /^$/) doc = ""
    }
    if (code ~ /^ *#/ || in_directive) {
        in_directive = code ~ /\\$/
        next
    }
    # Uses of public functions, for the layers.
    if (implementation) {
        text = depth > 0 ? code : substr(code, index(code "{", "{"))
        while (match(text, /aq_[a-z0-9_]+ *\(/)) {
            name = substr(text, RSTART, RLENGTH - 1)
            before = RSTART > 1 ? substr(text, RSTART - 1, 1) : ""
            sub(/ +$/, "", name)
            if (before !~ /[A-Za-z0-9_]/) {
                uses++
                use_name[uses] = name
                use_line[uses] = NR
                use_section[uses] = section
            }
            text = substr(text, RSTART + RLENGTH)
        }
    }
    n = length(code)
    for (i = 1; i <= n; i++) {
        c = substr(code, i, 1)
        if (depth == 0) {
            if (statement == "" && c == " ") continue
            if (statement == "") start = NR
            statement = statement c
            if (c == "{") {
                # extern "C" { is no depth
                if (statement ~ /^extern ""/) { statement = ""; continue }
                declaration(statement)
                type_name(statement)
                kept = statement ~ /^typedef / ? "typedef" : ""
                statement = ""
                depth = 1
            } else if (c == ";") {
                if (kept != "") { statement = kept " " statement; kept = "" }
                declaration(statement)
                type_name(statement)
                statement = ""
            } else if (c == "}") {
                statement = "" # closes extern "C"
            }
        } else if (c == "{") {
            depth++
        } else if (c == "}") {
            depth--
            if (depth == 0 && body_name != "") {
                if (NR - body_start + 1 > 100)
                    fault(body_start, "'" body_name "' is " (NR - body_start + 1) \
                          " lines long, at most 100", "length")
                body_name = ""
            }
        }
    }
    if (statement != "") statement = statement " "
}

# --- End ------------------------------------------------------------------------------------

END {
    if (version == "" || index(first_line, "arrowquant.h - v" version " - ") == 0)
        fault(1, "line 1 is not 'arrowquant.h - v" version " - ...'", "version")
    for (i = 1; i <= entries || i <= banners; i++) {
        if (entry[i] != banner[i]) {
            fault(i <= entries ? entry_line[i] : 1, "contents list has '" entry[i] \
                  "' where the banner is '" banner[i] "', line " banner_line[i], "contents")
            break
        }
    }
    if (banners == 0) fault(1, "no banner", "contents")
    if (!implementation)
        fault(lines, "no '#if... ARROWQUANT_IMPLEMENTATION'", "implementation")
    for (name in public)
        if (!(name in defined)) fault(public[name], "public function '" name "' is not defined", "defined")
    for (i = 1; i <= uses; i++)
        if (use_name[i] in defined && use_section[i] < defined_section[use_name[i]])
            fault(use_line[i], "section " use_section[i] " calls '" use_name[i] "' of section " \
                  defined_section[use_name[i]], "layers")
    # Functions that call each other need a forward declaration. Inside one section it does not
    # hide a use of a later section.
    for (name in forward)
        if (forward_section[name] != defined_section[name])
            fault(forward[name], "'" name "' is defined in another section, " \
                  defined_section[name], "forward-declaration")
    if (depth != 0) fault(lines, "braces do not balance", "compiles")
    exit faults > 0
}
