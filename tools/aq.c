/* aq.c - the `aq` command: its command line, help and errors. docs/aq.1 is the manual. */
#include "aq.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const cli_command *const commands[] = {
    &command_inspect, &command_schema,   &command_meta,    &command_cat,
    &command_verify,  &command_quantize, &command_config,  &command_dequantize,
    &command_convert, &command_merge,    &command_compare, &command_bench,
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

void cli_set_error(aq_error *out, aq_status status, const char *format, ...) {
    va_list arguments;
    memset(out, 0, sizeof *out);
    out->status = status;
    va_start(arguments, format);
    vsnprintf(out->message, sizeof out->message, format, arguments);
    va_end(arguments);
}

/* Notes of the library, each once. */
enum { MAX_NOTES = 20 };
static struct {
    pthread_mutex_t lock;
    struct {
        char *subject, *text; /* in one block */
    } lines[MAX_NOTES];
    size_t count;
    bool more;
} notes = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void take_note(void *user, const char *message) {
    const char *subject = (const char *)user;
    const size_t subject_bytes = strlen(subject) + 1, bytes = strlen(message) + 1;
    char *copy;
    size_t i = 0;
    pthread_mutex_lock(&notes.lock);
    while (i < notes.count && (strcmp(notes.lines[i].subject, subject) != 0 ||
                               strcmp(notes.lines[i].text, message) != 0))
        i++;
    notes.more = notes.more || i == MAX_NOTES;
    if (i == notes.count && i < MAX_NOTES) {
        copy = (char *)cli_resize(NULL, subject_bytes + bytes, 1);
        memcpy(copy, subject, subject_bytes);
        memcpy(copy + subject_bytes, message, bytes);
        notes.lines[i].subject = copy;
        notes.lines[i].text = copy + subject_bytes;
        notes.count++;
    }
    pthread_mutex_unlock(&notes.lock);
}

aq_log cli_log(const char *subject) {
    aq_log log;
    log.fn = take_note;
    memcpy(&log.user, &subject, sizeof subject); /* it is only given back */
    return log;
}

static void show_notes(void) {
    size_t i;
    for (i = 0; i < notes.count; i++)
        cli_error(notes.lines[i].subject, "note: %s", notes.lines[i].text);
    if (notes.more) cli_error(notes.lines[0].subject, "note: and more of the kind");
    while (notes.count > 0)
        free(notes.lines[--notes.count].subject);
}

bool cli_parse_count(const char *text, uint64_t max, uint64_t *out_number) {
    char *end;
    unsigned long long number;
    if (*text < '0' || *text > '9') return false; /* strtoull takes blanks and signs */
    errno = 0;
    number = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0' || number > max) return false;
    *out_number = number;
    return true;
}

bool cli_parse_number(const char *text, uint32_t min, uint32_t max,
                      uint32_t *out_number) {
    uint64_t number;
    if (!cli_parse_count(text, max, &number) || number < min) return false;
    *out_number = (uint32_t)number;
    return true;
}

/* A decimal number; *out_end is what follows it. */
static bool parse_real(const char *text, double *out_number, char **out_end) {
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || text[digits] == 'x' || text[digits] == 'X') return false;
    errno = 0;
    *out_number = strtod(text, out_end);
    return errno == 0;
}

bool cli_parse_real(const char *text, double min, double max, double *out_number) {
    double number;
    char *end;
    if (!parse_real(text, &number, &end) || *end != '\0') return false;
    if (!(number >= min && number <= max)) return false;
    *out_number = number;
    return true;
}

bool cli_parse_size(const char *text, uint64_t *out_bytes) {
    static const struct {
        const char *name;
        double bytes;
    } units[] = {{"", 1},     {"K", 1024.0},          {"KiB", 1024.0},
                 {"KB", 1e3}, {"M", 1048576.0},       {"MiB", 1048576.0},
                 {"MB", 1e6}, {"G", 1073741824.0},    {"GiB", 1073741824.0},
                 {"GB", 1e9}, {"T", 1099511627776.0}, {"TiB", 1099511627776.0},
                 {"TB", 1e12}};
    double number;
    char *end;
    size_t i;
    if (!parse_real(text, &number, &end)) return false;
    for (i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(end, units[i].name) != 0) continue;
        number *= units[i].bytes;
        if (!(number >= 1 && number < 9e18)) return false;
        *out_bytes = (uint64_t)number;
        return true;
    }
    return false;
}

/*==========================================================================
 * MARK: - Usage and help
 *========================================================================*/

const cli_option *cli_option_at(const cli_command *command, size_t index) {
    const cli_option *option;
    for (option = command->settings; option != NULL && option->name != NULL; option++) {
        if (index-- == 0) return option;
    }
    for (option = command->options; option->name != NULL; option++) {
        if (index-- == 0) return option;
    }
    return NULL;
}

const cli_option *cli_find_option(const cli_command *command, int id) {
    const cli_option *option;
    size_t i;
    for (i = 0; (option = cli_option_at(command, i)) != NULL; i++) {
        if (option->id == id) break;
    }
    return option;
}

/* A flag that is a setting can be taken back: a configuration may have set it, or it is the
 * default. */
static bool is_negatable(const cli_command *command, const cli_option *option) {
    const cli_option *setting = command->settings;
    if (setting == NULL || option->value != NULL) return false;
    while (setting->name != NULL && setting != option)
        setting++;
    return setting == option;
}

/* --name VALUE */
static void put_option(buffer *out, const cli_command *command,
                       const cli_option *option) {
    buffer_print(out, "--%s%s%s%s", is_negatable(command, option) ? "[no-]" : "",
                 option->name, option->value != NULL ? " " : "",
                 option->value != NULL ? option->value : "");
}

static void put_usage(buffer *out, const cli_command *command) {
    const cli_option *option;
    size_t i;
    buffer_print(out, "usage: aq %s%s%s", command->name,
                 command->files[0] != '\0' ? " " : "", command->files);
    for (i = 0; (option = cli_option_at(command, i)) != NULL; i++) {
        buffer_print(out, " [");
        put_option(out, command, option);
        buffer_print(out, "]%s", option->repeats ? "..." : "");
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

int cli_setting_error(const cli_args *args, const cli_setting *setting,
                      const char *format, ...) {
    const char *name = cli_find_option(args->command, setting->id)->name;
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (setting->origin == CLI_FROM_FILE)
        return cli_error(args->config, "line %zu: %s %s", setting->line, name, text);
    return cli_usage_error(args->command, "--%s %s", name, text);
}

/* The explanation of one option, its further lines under the first. */
static void put_option_help(buffer *out, const cli_command *command,
                            const cli_option *option) {
    enum { HELP_COLUMN = 24 };
    size_t start = out->size, length;
    const char *line = option->help;
    buffer_print(out, "  ");
    put_option(out, command, option);
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
    size_t i;
    put_usage(&help, command);
    buffer_print(&help, "\n%s\n", command->details);
    for (i = 0; (option = cli_option_at(command, i)) != NULL; i++) {
        if (i == 0) buffer_print(&help, "\n");
        put_option_help(&help, command, option);
    }
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

/* In what getopt_long returns: the flag is taken back. */
enum { FLAG_OFF = 1 << 16 };

static struct option *make_long_options(const cli_command *command) {
    struct option *longs;
    buffer name = {NULL, 0, 0};
    const cli_option *option;
    size_t n = 0, i, at = 0;
    while (cli_option_at(command, n) != NULL)
        n++;
    longs = (struct option *)cli_resize(NULL, 2 * n + 2, sizeof *longs);
    memset(longs, 0, (2 * n + 2) * sizeof *longs);
    for (i = 0; i < n; i++) {
        option = cli_option_at(command, i);
        longs[at].name = option->name;
        longs[at].has_arg = option->value != NULL ? required_argument : no_argument;
        longs[at++].val = option->id;
        if (!is_negatable(command, option)) continue;
        memset(&name, 0, sizeof name);
        buffer_print(&name, "no-%s", option->name);
        longs[at].name = name.data;
        longs[at++].val = option->id | FLAG_OFF;
    }
    longs[at].name = "help";
    longs[at].val = CLI_HELP;
    return longs;
}

static void free_long_options(struct option *longs) {
    size_t i;
    for (i = 0; longs[i].name != NULL; i++) {
        if ((longs[i].val & FLAG_OFF) != 0) free((void *)(uintptr_t)longs[i].name);
    }
    free(longs);
}

const cli_setting *cli_find(const cli_args *args, int id) {
    size_t i = args->num_settings;
    while (i != 0) {
        if (args->settings[--i].id == id) return &args->settings[i];
    }
    return NULL;
}

bool cli_has(const cli_args *args, int id) { return cli_find(args, id) != NULL; }

static int add_setting(cli_args *args, int found, const char *value) {
    int id = found & ~FLAG_OFF;
    const cli_option *option = cli_find_option(args->command, id);
    cli_setting *setting;
    if (option->value != NULL && !option->repeats && cli_find(args, id) != NULL)
        return cli_usage_error(args->command, "option --%s is given twice", option->name);
    args->settings = (cli_setting *)cli_resize(args->settings, args->num_settings + 1,
                                               sizeof *args->settings);
    setting = &args->settings[args->num_settings++];
    memset(setting, 0, sizeof *setting);
    setting->id = id;
    setting->value = value;
    setting->off = (found & FLAG_OFF) != 0;
    setting->origin = CLI_FROM_FLAG;
    return CLI_GOOD;
}

/* The options that several commands have. */
static int apply_settings(cli_args *args) {
    const cli_setting *threads = cli_find(args, CLI_THREADS);
    args->json = cli_find(args, CLI_JSON) != NULL;
    args->events = cli_find(args, CLI_EVENTS) != NULL;
    if (args->json && args->events)
        return cli_usage_error(args->command, "--events and --json exclude each other");
    if (threads != NULL && !cli_parse_number(threads->value, 1, 1024, &args->threads))
        return cli_setting_error(
            args, threads, "takes a number from 1 to 1024, not \"%s\"", threads->value);
    return CLI_GOOD;
}

/* No option, or one that is shortened too much. */
static int unknown_option(const cli_args *args, const char *argument,
                          const struct option *longs) {
    const size_t length = strcspn(argument, "=");
    buffer names = {NULL, 0, 0};
    int code;
    for (; longs->name != NULL && length > 2; longs++) {
        if (strncmp(longs->name, argument + 2, length - 2) == 0)
            buffer_print(&names, "%s--%s", names.size != 0 ? ", " : "", longs->name);
    }
    if (names.size != 0) {
        code = cli_usage_error(args->command, "option %.*s could be %s", (int)length,
                               argument, names.data);
    } else {
        code = cli_usage_error(args->command, "unknown option %s", argument);
    }
    buffer_free(&names);
    return code;
}

/* What getopt_long stumbled over. */
static int reject_option(const cli_args *args, int found, const char *argument,
                         const struct option *longs) {
    const cli_option *option = cli_find_option(args->command, optopt & ~FLAG_OFF);
    if (found == ':')
        return cli_usage_error(args->command, "option --%s needs a value (%s)",
                               option->name, option->value);
    if (option != NULL || optopt == CLI_HELP)
        return cli_usage_error(args->command, "option %s takes no value", argument);
    if (optopt != 0) return cli_usage_error(args->command, "unknown option -%c", optopt);
    return unknown_option(args, argument, longs);
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
            code = reject_option(args, found, argv[optind - 1], longs);
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
    free_long_options(longs);
    if (code != CLI_GOOD || args->help) return code;
    if (args->num_files < command->min_files)
        return cli_usage_error(command, "missing operand");
    if (args->num_files > command->max_files)
        return cli_usage_error(command, "unexpected operand \"%s\"",
                               args->files[command->max_files]);
    if (cli_find_option(command, CLI_CONFIG) != NULL) code = config_resolve(args);
    return code == CLI_GOOD ? apply_settings(args) : code;
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

/* Most commands map their files. Jobs know better what they read, and say so. */
static void guard_files(const cli_args *args) {
    if (args->num_files == 1) fault_guard(args->files[0], "the file", false, false);
    if (args->num_files > 1)
        fault_guard(args->command->name, "one of the files", false, false);
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
        guard_files(&args);
        code = command->run(&args);
        show_notes();
    }
    while (args.num_settings != 0)
        free(args.settings[--args.num_settings].owned);
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
