/* aq.h - what the source files of the `aq` command share: the command line, text and
 * JSON output, the terminal, tensors as people and machines see them. */
#ifndef AQ_TOOL_H
#define AQ_TOOL_H

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L /* isatty, sigaction, regcomp, opendir, clock_gettime */
#endif
#if defined(__APPLE__) && !defined(_DARWIN_C_SOURCE)
#define _DARWIN_C_SOURCE /* TIOCGWINSZ */
#endif

#include <stdio.h>
#include <string.h>

#include "../arrowquant.h"

/* Exit codes of every command; a job stopped by a signal exits with 128 + its number. */
enum { CLI_GOOD = 0, CLI_BAD = 1, CLI_ERROR = 2 };

/*==========================================================================
 * MARK: - Command line (aq.c)
 *========================================================================*/

/* Options that several commands have. Those of one command count from CLI_OPTION_OWN. */
enum {
    CLI_HELP = 256,
    CLI_VERSION,
    CLI_JSON,
    CLI_THREADS,
    CLI_EVENTS,
    CLI_CONFIG,
    CLI_PROFILE,
    CLI_MAX_MEMORY,
    CLI_STREAMING,
    CLI_CHUNK_SIZE,
    CLI_IO,
    CLI_RESUME,
    CLI_OPTION_OWN
};

typedef struct cli_option {
    const char *name;  /* without the dashes; NULL ends a list                         */
    const char *value; /* what its value is called; NULL = a flag                      */
    int id;
    bool repeats;
    const char *help; /* further lines after \n                                        */
} cli_option;

/* Where a setting comes from; each wins over those before it. */
typedef enum cli_origin { CLI_FROM_PROFILE, CLI_FROM_FILE, CLI_FROM_FLAG } cli_origin;

/* An option as it was given. */
typedef struct cli_setting {
    int id;
    const char *value; /* NULL for a flag                                              */
    bool off;          /* a flag that is taken back: --no-NAME, or NAME: false         */
    cli_origin origin;
    size_t line; /* in the configuration file                                    */
    char *owned; /* the value where it has memory of its own                     */
} cli_setting;

typedef struct cli_args {
    const struct cli_command *command;
    char **files;
    size_t num_files;
    cli_setting *settings; /* the weakest origin first, then in the order given        */
    size_t num_settings;
    const char *config;  /* the configuration file; NULL = none                       */
    const char *profile; /* its name; NULL = none                                     */
    bool help, json, events;
    uint32_t threads; /* 0 = not given */
} cli_args;

typedef struct cli_command {
    const char *name;
    const char *files;   /* the operands in the usage line                             */
    const char *summary; /* one line, for `aq --help`                                  */
    const char *details; /* for `aq COMMAND --help`                                    */
    const cli_option *options;
    const cli_option *settings; /* options of which flags can be taken back, and that
                                   quantize also has from a configuration; NULL        */
    size_t min_files, max_files;
    int (*run)(const cli_args *args);
} cli_command;

#define CLI_OPTION_JSON                                                                  \
    { "json", NULL, CLI_JSON, false, "one JSON document on stdout" }
#define CLI_OPTION_THREADS                                                               \
    { "threads", "N", CLI_THREADS, false, "threads (default: one per processor)" }
#define CLI_OPTION_EVENTS                                                                \
    {                                                                                    \
        "events", NULL, CLI_EVENTS, false,                                               \
            "a JSON object on a line of stdout for each event, the\n"                    \
            "report in the last"                                                         \
    }
#define CLI_OPTION_CONFIG                                                                \
    {                                                                                    \
        "config", "FILE", CLI_CONFIG, false,                                             \
            "settings from a YAML file; options win over it"                             \
    }
#define CLI_OPTION_MAX_MEMORY                                                            \
    { "max-memory", "SIZE", CLI_MAX_MEMORY, false, "memory for buffers (default: 256M)" }
#define CLI_OPTION_STREAMING                                                             \
    {                                                                                    \
        "streaming", NULL, CLI_STREAMING, false,                                         \
            "pieces of tensors in that memory (default);\n"                              \
            "--no-streaming: whole tensors side by side"                                 \
    }
#define CLI_OPTION_CHUNK_SIZE                                                            \
    {                                                                                    \
        "chunk-size", "SIZE", CLI_CHUNK_SIZE, false,                                     \
            "store a larger tensor in several rows of the Parquet\n"                     \
            "file (default: from 2 GiB on)"                                              \
    }
#define CLI_OPTION_IO                                                                    \
    {                                                                                    \
        "io", "map|read", CLI_IO, false,                                                 \
            "map the input into memory (default) or read it: for\n"                      \
            "files that others may shorten meanwhile"                                    \
    }
#define CLI_OPTION_RESUME                                                                \
    {                                                                                    \
        "resume", NULL, CLI_RESUME, false,                                               \
            "keep what is done when interrupted; the same command\n"                     \
            "again goes on there"                                                        \
    }
#define CLI_OPTIONS_END                                                                  \
    { NULL, NULL, 0, false, NULL }

extern const cli_command command_inspect, command_schema, command_meta, command_verify,
    command_cat, command_quantize, command_config, command_dequantize, command_convert,
    command_merge, command_compare, command_bench;

/* cli_error - prints "aq: SUBJECT: message" as one line to stderr; returns CLI_ERROR. */
int cli_error(const char *subject, const char *format, ...) AQ_PRINTF(2, 3);
/* cli_usage_error - the same for wrong use of a command, with its usage line. */
int cli_usage_error(const cli_command *command, const char *format, ...) AQ_PRINTF(2, 3);
/* cli_failure - the same for an error of the library. */
int cli_failure(const char *subject, const aq_error *err);
/* cli_set_error - an error that is told elsewhere, as the library has them. */
void cli_set_error(aq_error *out, aq_status status, const char *format, ...)
    AQ_PRINTF(3, 4);
/* cli_log - takes what the library tolerates in a file, for lines "aq: SUBJECT: note: ..."
 * on stderr at the end. From any thread; the subject lives while the file is open. */
aq_log cli_log(const char *subject);
/* cli_parse_number - a whole decimal number in [min, max]. */
bool cli_parse_number(const char *text, uint32_t min, uint32_t max, uint32_t *out_number);
/* cli_parse_count - one from 0 to max, in 64 bits. */
bool cli_parse_count(const char *text, uint64_t max, uint64_t *out_number);
/* cli_parse_real - a decimal number in [min, max]. */
bool cli_parse_real(const char *text, double min, double max, double *out_number);
/* cli_parse_size - bytes, or with a unit: M and MiB are 2^20, MB is 10^6. Not 0. */
bool cli_parse_size(const char *text, uint64_t *out_bytes);
/* cli_setting_error - the same for a setting: the message stands behind its name, and
 * where it came from a file, behind that and the line. */
int cli_setting_error(const cli_args *args, const cli_setting *setting,
                      const char *format, ...) AQ_PRINTF(3, 4);
/* cli_find - the setting that counts, of several with this id; NULL = not given. */
const cli_setting *cli_find(const cli_args *args, int id);
bool cli_has(const cli_args *args, int id);
/* cli_option_at - the i-th option of a command, its settings first; NULL at the end. */
const cli_option *cli_option_at(const cli_command *command, size_t index);
const cli_option *cli_find_option(const cli_command *command, int id);
/* cli_resize - realloc for count items; exits when there is no memory. */
void *cli_resize(void *items, size_t count, size_t item_bytes);

/*==========================================================================
 * MARK: - Text (aq_text.c)
 *========================================================================*/

/* Text in the making: NUL-terminated once anything was put. Starts from {0}. */
typedef struct buffer {
    char *data;
    size_t size, room;
} buffer;

char *buffer_grow(buffer *out, size_t size);

/* buffer_reserve - where `size` more bytes and the NUL may go. */
static inline char *buffer_reserve(buffer *out, size_t size) {
    return size < out->room - out->size ? out->data + out->size : buffer_grow(out, size);
}

static inline void buffer_put(buffer *out, const char *bytes, size_t size) {
    char *to = buffer_reserve(out, size);
    if (size != 0) memcpy(to, bytes, size); /* bytes may be NULL then */
    to[size] = '\0';
    out->size += size;
}

void buffer_print(buffer *out, const char *format, ...) AQ_PRINTF(2, 3);
/* buffer_visible - text from a file for people: whatever is not printable UTF-8 as \xNN,
 * so that a hostile name cannot drive the terminal. */
void buffer_visible(buffer *out, const char *text, size_t size);
void buffer_free(buffer *text);
/* buffer_show - writes the text to stdout and frees it. */
void buffer_show(buffer *text);

/* utf8_length - bytes of the well-formed UTF-8 character at text; 0 = it is not one. */
size_t utf8_length(const char *text, size_t size);
/* text_columns - columns that buffer_visible's output takes on a terminal. */
size_t text_columns(const char *visible);
/* buffer_elided - visible text in at most max_columns, "..." in its middle if need be. */
void buffer_elided(buffer *out, const char *visible, size_t max_columns);

/* Figures for people, written to a caller's array, which they return. */
enum { TEXT_ROOM = 48 };
const char *text_count(char out[TEXT_ROOM], uint64_t count);   /* "1,338,499"           */
const char *text_bytes(char out[TEXT_ROOM], uint64_t bytes);   /* "36.0 KiB"            */
const char *text_rate(char out[TEXT_ROOM], double per_second); /* "1.24 GB/s"           */
/* text_measure - a measured figure; "-" for NaN (not recorded), "inf". */
const char *text_measure(char out[TEXT_ROOM], double value, int decimals);
/* text_plural - "s" unless there is one. */
const char *text_plural(uint64_t count);

/* file_save - the file appears when it is whole, in place of a regular one; an empty text
 * only tries whether one can appear. */
bool file_save(const char *path, const buffer *text, aq_error *err);
/* file_same - whether two paths are of one file, which need not be there yet. */
bool file_same(const char *a, const char *b);

/*==========================================================================
 * MARK: - Floating-point numbers (aq_number.c)
 *========================================================================*/

/* The shortest digits that read back as the same finite number, as printf's %g writes such;
 * returns their number. There is no NUL. */
enum { NUMBER_ROOM = 32 };
size_t number_put_double(char out[NUMBER_ROOM], double value);
size_t number_put_float(char out[NUMBER_ROOM], float value);

/*==========================================================================
 * MARK: - JSON (aq_json.c)
 *========================================================================*/

/* One document in the making. It reaches stdout whole or, after an error, not at all.
 * One that starts at depth JSON_ONE_LINE is a line. */
enum { JSON_ONE_LINE = 3 };
typedef struct json {
    buffer text;
    int depth;
    bool comma; /* the next member follows another */
} json;

/* json_member - what stands before a value; the caller puts that to out->text, as JSON. */
void json_member(json *out, const char *key);
/* Each call writes a member, `key` being NULL inside an array. Starts from {0}. */
void json_open(json *out, const char *key, char bracket);
void json_close(json *out, char bracket);
void json_string(json *out, const char *key, const char *text); /* NULL = null         */
void json_bytes(json *out, const char *key, const char *text, size_t size);
void json_unsigned(json *out, const char *key, uint64_t value);
void json_signed(json *out, const char *key, int64_t value);
void json_bool(json *out, const char *key, bool value);
void json_null(json *out, const char *key);
/* json_verbatim - a value that is JSON already. */
void json_verbatim(json *out, const char *key, const char *text, size_t size);
/* json_number - shortest digits that read back as the same double; "NaN", "Infinity". */
void json_number(json *out, const char *key, double value);
/* json_float - the same for a float32: 0.1, not 0.10000000149011612. */
void json_float(json *out, const char *key, float value);
/* json_measure - the same, with null for NaN: not recorded. */
void json_measure(json *out, const char *key, double value);
/* json_show - writes the document to stdout and frees it. */
void json_show(json *out);

/*==========================================================================
 * MARK: - Terminal: colour, tables, progress (aq_term.c)
 *========================================================================*/

typedef enum term_style { TERM_PLAIN, TERM_BOLD, TERM_RED, TERM_GREEN } term_style;

/* term_code - the escape sequence; "" unless the stream is a terminal with colour. */
const char *term_code(FILE *stream, term_style style);

/* A table whose columns are as wide as their widest cell. On a terminal that is too
 * narrow the first column is elided. */
typedef struct table {
    const char *align; /* a letter a column: l or r */
    size_t columns;
    char **cells; /* row by row, the headings first */
    size_t num_cells;
} table;

/* table_init - headings: separated by '|'. */
void table_init(table *out, const char *headings, const char *align);
void table_cell(table *rows, const char *visible);
/* table_name - a cell with text from a file. */
void table_name(table *rows, const char *name);
/* table_show - puts the table as text. */
void table_show(const table *rows, buffer *out);
void table_free(table *rows);

/* How far work is: on a terminal a line that is drawn again and again, elsewhere on
 * stderr a line every few seconds; with events, also JSON on stdout. */
typedef struct progress {
    const char *verb;
    bool terminal, events;
    double interval;       /* seconds between two lines; 0 = none */
    double started, drawn; /* seconds                             */
    double told;           /* when the last event was             */
    size_t told_tensors;   /* tensors done, in the last event     */
    uint64_t total;        /* bytes to do; 0 = not known yet      */
    uint64_t found;        /* of them done when it became known   */
    double since;          /* when it became known                */
} progress;

/* progress_start - of a command that only looks: on a terminal or not at all. */
void progress_start(progress *line, const char *verb);
void progress_start_job(progress *line, const char *verb, bool events);
void progress_step(progress *line, const char *name, uint64_t done, uint64_t total);
void progress_step_job(progress *line, const aq_progress *at);
void progress_end(progress *line);
/* term_clear_line - takes a progress line off the screen before other text. */
void term_clear_line(void);

/*==========================================================================
 * MARK: - Values of Parquet columns (aq_value.c)
 *========================================================================*/

/* value_put - writes value `index` of aq_span.values; raw: without its logical type. */
void value_put(json *out, const char *key, const aq_field *field, const void *values,
               size_t index, bool raw);

/*==========================================================================
 * MARK: - Tensors (aq_tensor.c)
 *========================================================================*/

/* tensor_open_model - options: NULL = defaults. */
int tensor_open_model(const char *path, const aq_model_options *options,
                      aq_model **out_model);
const char *tensor_format_name(aq_model_format format);
/* tensor_bytes - of data and the parameters of its groups. */
uint64_t tensor_bytes(const aq_tensor *tensor);
/* tensor_bits_per_weight - NaN without a weight. */
double tensor_bits_per_weight(uint64_t bytes, uint64_t num_params);
/* tensor_put_shape - "64x32x3x3", "scalar". */
void tensor_put_shape(buffer *out, const aq_tensor *tensor);
/* tensor_cells - shape, dtype, bits, group of a table row; tensor_headings names them. */
#define TENSOR_HEADINGS "shape|dtype|bits|group"
#define TENSOR_ALIGN "llrr"
void tensor_cells(table *rows, const aq_tensor *tensor);
void tensor_measure_cell(table *rows, double value, int decimals);
void tensor_bytes_cell(table *rows, uint64_t bytes);
void tensor_json_shape(json *out, const char *key, const aq_tensor *tensor);
/* tensor_json_type - name, shape, dtype, num_params, quant_type, bit_width, granularity,
 * group_size, group_rows, params_type */
void tensor_json_type(json *out, const aq_tensor *tensor);
/* tensor_json_metrics - cosine, sqnr_db, mse, max_abs_error; null where not measured. */
void tensor_json_metrics(json *out, const aq_metrics *metrics);

/*==========================================================================
 * MARK: - Diffusion (aq_diffusion.c)
 *========================================================================*/

/* diffusion_groups - the time groups of a tensor that has some in force; NULL. */
const aq_time_aware *diffusion_groups(const aq_tensor *tensor);
/* diffusion_text, diffusion_json - what `aq inspect --time` shows of all tensors, and what
 * --json has of one; diffusion_modality: of the model, NULL = not known. */
int diffusion_text(const aq_model *model, const aq_tensor *tensors);
int diffusion_json(json *out, const aq_tensor *tensor);
const char *diffusion_modality(const aq_model *model, const aq_tensor *tensors);
/* diffusion_put_report - lines of the report of a job, where it has time groups. */
void diffusion_put_report(buffer *out, const aq_job_options *options,
                          const aq_job_report *report);
void diffusion_report_json(json *out, const aq_tensor_report *line);
/* diffusion_count_cell - how many groups; "-" without any. */
void diffusion_count_cell(table *rows, const aq_tensor *tensor);

/*==========================================================================
 * MARK: - Jobs (aq_job.c)
 *========================================================================*/

/* job_run - runs *options with a progress line, and shows the report, also as a page under
 * page_path unless that is NULL. It sets the hook for progress and signals, and the number
 * of threads. args->files are what it reads, and last what it writes. CLI_BAD: a tensor
 * could not be quantized and is kept. */
int job_run(const cli_args *args, aq_job_options *options, const char *page_path);
/* job_apply - puts a setting that all jobs have into the options; no other has an effect. */
int job_apply(const cli_args *args, const cli_setting *setting, aq_job_options *options);
/* job_check - whether what was put there goes together with the output. */
int job_check(const cli_args *args, const aq_job_options *options);
/* job_refuse - an error before the job could start, told as one of it; job_error: one that
 * is not of the library. */
int job_refuse(const cli_args *args, const char *file, const aq_error *err);
int job_error(const cli_args *args, const char *file, aq_status status,
              const char *format, ...) AQ_PRINTF(4, 5);
/* job_io - how --io says that the input is read. */
aq_io job_io(const cli_args *args);
/* job_has_rate - whether bytes and seconds of the report are of the same work. */
bool job_has_rate(const aq_job_report *report);
/* job_put_attempts - ": 2 bits 0.8312, 4 bits 0.9921" */
void job_put_attempts(buffer *out, const aq_tensor_report *line);

/*==========================================================================
 * MARK: - Parts of a job (aq_shard.c)
 *========================================================================*/

/* shard_parse - "2/4", or "auto": what a scheduler has set for this process. */
int shard_parse(const cli_args *args, const cli_setting *setting,
                aq_job_options *options);
/* shard_path - "model-00002-of-00004.parquet" for part 2 of 4 of "model.parquet"; to be
 * freed. */
char *shard_path(const char *path, const aq_job_options *options);
/* shard_check - whether the files but the last are all shards of one job; where not, which
 * are missing. */
int shard_check(const cli_args *args);

/*==========================================================================
 * MARK: - Mapped files that shrink (aq_fault.c)
 *========================================================================*/

/* fault_guard - from now on, a mapped file that became shorter, or cannot be read, ends the
 * command with a line about it and status 2, in place of a signal.
 *   subject  in  the file; what  "the file"; events  whether an event is due too */
void fault_guard(const char *subject, const char *what, bool has_io, bool events);
/* fault_explain - what the line says behind the subject. */
void fault_explain(char *out, size_t room, const char *what, bool has_io);

/*==========================================================================
 * MARK: - Configuration (aq_config.c) and the settings of `aq quantize`
 *========================================================================*/

extern const cli_option quantize_settings[];
/* quantize_check - whether their values are right and go together. */
int quantize_check(const cli_args *args);

/* config_resolve - puts the settings of the profile and of the configuration file before
 * those of the command line. */
int config_resolve(cli_args *args);
/* config_put - the settings in force, as a configuration file; returns NULL, or an option
 * with a value that is not UTF-8, and stands there as it is. resolved: the profile and what
 * it sets; else that is a comment. */
const cli_option *config_put(buffer *out, const cli_args *args, bool resolved);

/*==========================================================================
 * MARK: - Distributions of weights and of their error (aq_histogram.c)
 *========================================================================*/

enum { HISTOGRAM_BINS = 64 };

/* Counts in bins of equal width; the outermost hold what lies beyond them too. */
typedef struct histogram {
    double low, high;
    uint64_t counts[HISTOGRAM_BINS];
} histogram;

typedef struct distribution {
    histogram weights, error;
    double least, greatest; /* of the weights that were counted                       */
    uint64_t counted;       /* weights; 0 = none, the rows are too long               */
} distribution;

/* distributions_read - reads input and output of a job again.
 *   of[i]      out  of report->tensors[i]; NULL = of no interest; {0} where not quantized
 *   total      out  over all tensors, each in units of its own root mean squares */
int distributions_read(const cli_args *args, const aq_job_report *report,
                       distribution *const *of, distribution *total);

/*==========================================================================
 * MARK: - The report as a page (aq_page.c, aq_page_parts.c)
 *========================================================================*/

/* page_check - before a job: whether the page may appear there. */
int page_check(const cli_args *args, const char *path);
/* page_write - reads input and output of the job again, and writes the page. */
int page_write(const cli_args *args, const aq_job_options *options,
               const aq_job_report *report, const char *path);

/* page_text - text from a file, visible and with the signs of HTML escaped. */
void page_text(buffer *out, const char *text);
/* page_style, page_script - what stands in the head and at the end. */
void page_style(buffer *out);
void page_script(buffer *out);
/* page_histogram - the counts as a figure that is as wide as there is room; kind: w for
 * weights, e for errors; caption: HTML. */
void page_histogram(buffer *out, const histogram *of, char kind, const char *caption);

#endif /* AQ_TOOL_H */
