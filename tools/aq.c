/* aq.c - the `aq` command: its command line, help and errors. docs/aq.1 is the manual. */
#include "aq.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const cli_command *const commands[] = {
    &command_inspect, &command_schema,   &command_meta,       &command_cat,
    &command_verify,  &command_quantize, &command_dequantize, &command_convert,
    &command_compare, &command_bench,
};
enum { NUM_COMMANDS = sizeof commands / sizeof commands[0] };

/*==========================================================================
 * MARK: - Errors, numbers, memory
 *========================================================================*/

void *cli_resize(void *items, size_t count, size_t item_bytes) {
    void *resized = NULL;
    if (count <= SIZE_MAX / item_bytes) resized = realloc(items, count * item_bytes);
    if (resized == NULL) {
        fputs("aq: out of memory\n", stderr);
        exit(CLI_ERROR);
    }
    return resized;
}

/* One line in one write, so that lines of several processes do not mix. */
static void print_error(const char *subject, const char *format, va_list arguments) {
    buffer line = {NULL, 0, 0};
    char text[1024];
    buffer_print(&line, "%saq:%s ", term_code(stderr, TERM_RED),
                 term_code(stderr, TERM_PLAIN));
    buffer_visible(&line, subject, strlen(subject));
    /* Only values from the command line are longer; their start will do. */
    vsnprintf(text, sizeof text, format, arguments);
    buffer_print(&line, ": ");
    buffer_visible(&line, text, strlen(text));
    buffer_print(&line, "\n");
    term_clear_line();
    fwrite(line.data, 1, line.size, stderr);
    buffer_free(&line);
}

int cli_error(const char *subject, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    print_error(subject, format, arguments);
    va_end(arguments);
    return CLI_ERROR;
}

int cli_failure(const char *subject, const aq_error *err) {
    return cli_error(subject, "%s",
                     err->message[0] != '\0' ? err->message
                                             : aq_status_meaning(err->status));
}

bool cli_parse_number(const char *text, uint32_t min, uint32_t max,
                      uint32_t *out_number) {
    char *end;
    unsigned long number;
    if (*text < '0' || *text > '9') return false; /* strtoul takes blanks and signs */
    errno = 0;
    number = strtoul(text, &end, 10);
    if (errno != 0 || *end != '\0' || number < min || number > max) return false;
    *out_number = (uint32_t)number;
    return true;
}

/*==========================================================================
 * MARK: - Usage and help
 *========================================================================*/

static void put_usage(buffer *out, const cli_command *command) {
    const cli_option *option;
    buffer_print(out, "usage: aq %s%s%s", command->name,
                 command->files[0] != '\0' ? " " : "", command->files);
    for (option = command->options; option->name != NULL; option++) {
        buffer_print(out, " [--%s%s%s]%s", option->name, option->value != NULL ? " " : "",
                     option->value != NULL ? option->value : "",
                     option->repeats ? "..." : "");
    }
    buffer_print(out, "\n");
}

int cli_usage_error(const cli_command *command, const char *format, ...) {
    buffer usage = {NULL, 0, 0};
    va_list arguments;
    va_start(arguments, format);
    print_error(command->name, format, arguments);
    va_end(arguments);
    put_usage(&usage, command);
    fputs(usage.data, stderr);
    buffer_free(&usage);
    return CLI_ERROR;
}

/* The explanation of one option, its further lines under the first. */
static void put_option_help(buffer *out, const cli_option *option) {
    enum { HELP_COLUMN = 24 };
    size_t start = out->size, length;
    const char *line = option->help;
    buffer_print(out, "  --%s %s", option->name,
                 option->value != NULL ? option->value : "");
    if (out->size - start >= HELP_COLUMN) {
        buffer_print(out, "\n");
        start = out->size;
    }
    buffer_print(out, "%*s", HELP_COLUMN - (int)(out->size - start), "");
    for (; line[length = strcspn(line, "\n")] != '\0'; line += length + 1)
        buffer_print(out, "%.*s\n%*s", (int)length, line, HELP_COLUMN, "");
    buffer_print(out, "%s\n", line);
}

static int show_command_help(const cli_command *command) {
    buffer help = {NULL, 0, 0};
    const cli_option *option;
    put_usage(&help, command);
    buffer_print(&help, "\n%s\n", command->details);
    if (command->options->name != NULL) buffer_print(&help, "\n");
    for (option = command->options; option->name != NULL; option++)
        put_option_help(&help, option);
    buffer_show(&help);
    return CLI_GOOD;
}

static void put_help(buffer *out) {
    size_t i;
    buffer_print(out,
                 "usage: aq COMMAND [options]\n"
                 "\n"
                 "Model weights in Parquet: quantize, store, look at and compare them.\n"
                 "\n");
    for (i = 0; i < NUM_COMMANDS; i++)
        buffer_print(out, "  %-12s%s\n", commands[i]->name, commands[i]->summary);
    buffer_print(out,
                 "\n"
                 "  aq COMMAND --help   what a command does, and its options\n"
                 "  aq --version        the version\n"
                 "\n"
                 "Exit status: 0 good; 1 the thing checked is bad; 2 wrong use or\n"
                 "unreadable; 128 + n stopped by signal n, without any output file.\n");
}

static int show_help(void) {
    buffer help = {NULL, 0, 0};
    put_help(&help);
    buffer_show(&help);
    return CLI_GOOD;
}

/*==========================================================================
 * MARK: - Options
 *========================================================================*/

static const cli_option *find_option(const cli_command *command, int id) {
    const cli_option *option = command->options;
    while (option->name != NULL && option->id != id)
        option++;
    return option->name != NULL ? option : NULL;
}

static struct option *make_long_options(const cli_command *command) {
    struct option *longs;
    size_t n = 0, i;
    while (command->options[n].name != NULL)
        n++;
    longs = (struct option *)cli_resize(NULL, n + 2, sizeof *longs);
    memset(longs, 0, (n + 2) * sizeof *longs);
    for (i = 0; i < n; i++) {
        longs[i].name = command->options[i].name;
        longs[i].has_arg =
            command->options[i].value != NULL ? required_argument : no_argument;
        longs[i].val = command->options[i].id;
    }
    longs[n].name = "help";
    longs[n].val = CLI_HELP;
    return longs;
}

bool cli_has(const cli_args *args, int id) {
    size_t i;
    for (i = 0; i < args->num_settings; i++) {
        if (args->settings[i].id == id) return true;
    }
    return false;
}

static int add_setting(cli_args *args, int id, const char *value) {
    const cli_option *option = find_option(args->command, id);
    if (option->value != NULL && !option->repeats && cli_has(args, id))
        return cli_usage_error(args->command, "option --%s is given twice", option->name);
    args->settings = (cli_setting *)cli_resize(args->settings, args->num_settings + 1,
                                               sizeof *args->settings);
    args->settings[args->num_settings].id = id;
    args->settings[args->num_settings++].value = value;
    if (id == CLI_JSON) args->json = true;
    if (id == CLI_THREADS && !cli_parse_number(value, 1, 1024, &args->threads))
        return cli_usage_error(
            args->command, "--threads takes a number from 1 to 1024, not \"%s\"", value);
    return CLI_GOOD;
}

/* What getopt_long stumbled over. */
static int reject_option(const cli_args *args, int found, const char *argument) {
    const cli_option *option = find_option(args->command, optopt);
    if (found == ':')
        return cli_usage_error(args->command, "option --%s needs a value (%s)",
                               option->name, option->value);
    if (option != NULL || optopt == CLI_HELP)
        return cli_usage_error(args->command, "option %s takes no value", argument);
    if (optopt != 0) return cli_usage_error(args->command, "unknown option -%c", optopt);
    return cli_usage_error(args->command, "unknown option %s", argument);
}

static void add_file(cli_args *args, char *file) {
    args->files =
        (char **)cli_resize(args->files, args->num_files + 1, sizeof *args->files);
    args->files[args->num_files++] = file;
}

/* Options may stand before, between and behind the files. */
static int parse_options(cli_args *args, int argc, char **argv,
                         const struct option *longs) {
    int found, code = CLI_GOOD;
    opterr = 0;
    /* "-": a file comes as option 1, whatever POSIXLY_CORRECT says; ":" tells a missing
     * value from an unknown option. */
    while (code == CLI_GOOD &&
           (found = getopt_long(argc, argv, "-:h", longs, NULL)) != -1) {
        if (found == 1) {
            add_file(args, optarg);
        } else if (found == 'h' || found == CLI_HELP) {
            args->help = true;
            return CLI_GOOD;
        } else if (found == '?' || found == ':') {
            code = reject_option(args, found, argv[optind - 1]);
        } else {
            code = add_setting(args, found, optarg);
        }
    }
    while (optind < argc)
        add_file(args, argv[optind++]); /* behind "--" */
    return code;
}

static int parse_arguments(cli_args *args, int argc, char **argv) {
    const cli_command *command = args->command;
    struct option *longs = make_long_options(command);
    int code = parse_options(args, argc, argv, longs);
    free(longs);
    if (code != CLI_GOOD || args->help) return code;
    if (args->num_files < command->min_files)
        return cli_usage_error(command, "missing operand");
    if (args->num_files > command->max_files)
        return cli_usage_error(command, "unexpected operand \"%s\"",
                               args->files[command->max_files]);
    return CLI_GOOD;
}

/*==========================================================================
 * MARK: - main
 *========================================================================*/

/* A model must not be written to what everybody takes for stdout or stderr. */
static void occupy_standard_streams(void) {
    int fd;
    for (fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) < 0 &&
            open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) < 0)
            exit(CLI_ERROR);
    }
}

/* Output that did not arrive is a failure, whatever the command made of its work. */
static int close_stdout(int code) {
    bool failed = ferror(stdout) != 0;
    if (fflush(stdout) == 0 && !failed) return code;
    if (errno == EPIPE) return CLI_ERROR; /* the reader has left: nobody to tell */
    return cli_error("standard output", "%s", strerror(errno));
}

static int run_command(const cli_command *command, int argc, char **argv) {
    cli_args args;
    int code;
    memset(&args, 0, sizeof args);
    args.command = command;
    code = parse_arguments(&args, argc, argv);
    if (args.help) {
        code = show_command_help(command);
    } else if (code == CLI_GOOD) {
        code = command->run(&args);
    }
    free(args.files);
    free(args.settings);
    return code;
}

static int run(int argc, char **argv) {
    size_t i;
    if (argc < 2) {
        buffer help = {NULL, 0, 0};
        put_help(&help);
        fputs(help.data, stderr);
        buffer_free(&help);
        return CLI_ERROR;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) return show_help();
    if (strcmp(argv[1], "--version") == 0) {
        printf("aq %s\n", aq_version());
        return CLI_GOOD;
    }
    for (i = 0; i < NUM_COMMANDS; i++) {
        if (strcmp(argv[1], commands[i]->name) == 0)
            return run_command(commands[i], argc - 1, argv + 1);
    }
    return cli_error(argv[1], "no such command; try aq --help");
}

int main(int argc, char **argv) {
    occupy_standard_streams();
    return close_stdout(run(argc, argv));
}
