# extract.awk - cut a document into its commands; run.sh says what a block means.
# -v out=DIRECTORY -v name=NAME: writes out/0001/command, the line of the document (where),
# expected (what it prints), shown (the first and last line of that in the document) and
# files/ (to be there before it), and so on.

function fail(line, text) {
    print name ":" line ": " text
    bad = 1
}

function add_file(file, text) {
    num_waiting++
    waiting_name[num_waiting] = file
    waiting_text[num_waiting] = text
}

function write_step(dir, file, text) {
    print text > (dir "/" file)
    close(dir "/" file)
}

# The files since the last command, and the program that this one names.
function begin_step(line, command,    dir, i, word) {
    dir = sprintf("%s/%04d", out, ++num_steps)
    system("mkdir -p '" dir "/files'")
    if (program != "") {
        if (match(command, /[A-Za-z0-9_]+\.c( |$)/)) {
            word = substr(command, RSTART, RLENGTH)
            sub(/ $/, "", word)
            add_file(word, program)
        } else {
            fail(program_line, "the next command does not compile this program")
        }
        program = ""
    }
    for (i = 1; i <= num_waiting; i++) {
        printf "%s", waiting_text[i] > (dir "/files/" waiting_name[i])
        close(dir "/files/" waiting_name[i])
    }
    if (num_waiting == 0) system("rmdir '" dir "/files'")
    num_waiting = 0
    write_step(dir, "where", name ":" line)
    return dir
}

# The lines of a block, of which the first one is a command. `above` is the line before them.
function transcript(n, above,    i, command, expected, dir, shown) {
    for (i = 1; i <= n;) {
        command = substr(lines[i], 3)
        dir = begin_step(above + i, command)
        while (lines[i] ~ /\\$/ && i < n)
            command = command "\n" lines[++i]
        shown = ++i
        expected = ""
        for (; i <= n && substr(lines[i], 1, 2) != "$ "; i++)
            expected = expected lines[i] "\n"
        write_step(dir, "command", command)
        write_step(dir, "expected", expected)
        write_step(dir, "shown", (above + shown) " " (above + i - 1))
    }
}

function end_block(    text, i, dir) {
    for (i = 1; i <= count; i++)
        text = text lines[i] "\n"
    if (language == "sh" && lines[1] ~ /^\$ /) {
        transcript(count, start)
    } else if (language == "sh") {
        dir = begin_step(start, text)
        write_step(dir, "command", "set -e\n" text)
    } else if (file != "") {
        add_file(file, text)
    } else if (language == "c" && text ~ /int main/) {
        if (program != "") fail(program_line, "no command compiles this program")
        program = text
        program_line = start
    } else if (language == "c") {
        add_file("fragment.c", text)
        dir = begin_step(start, "fragment.c")
        write_step(dir, "command", "cc -fsyntax-only fragment.c")
    }
}

/^ *```/ && !inside {
    inside = 1
    start = NR
    count = 0
    sub(/^ *```/, "")
    language = $1
    file = $2
    if (file ~ /\//) fail(start, "a name without directories, please")
    next
}
/^ *```/ {
    inside = 0
    end_block()
    next
}
inside { lines[++count] = $0 }

END {
    if (inside) fail(start, "this block does not end")
    if (program != "") fail(program_line, "no command compiles this program")
    if (num_waiting != 0) fail(NR, "no command uses " waiting_name[1])
    exit bad
}
