/* aq_verify.c - `aq verify`: is every byte of a file what it should be? */
#include "aq.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* What was looked at in one operand. */
typedef struct survey {
    const char *path;
    bool is_model;
    uint64_t files, tensors, row_groups, pages, bytes;
    uint64_t unchecked; /* columns that are encrypted, or in another file */
    progress line;
} survey;

/* Reports an error: CLI_BAD for bytes that break the rules, CLI_ERROR for bytes that
 * could not be read or are beyond this program. */
static int judge(const survey *of, const char *path, const aq_error *err) {
    cli_failure(path != NULL ? path : of->path, err);
    switch (err->status) {
    case AQ_E_FORMAT:
    case AQ_E_CHECKSUM:
    case AQ_E_TYPE:
    case AQ_E_DUPLICATE:
    case AQ_E_NONFINITE:
        return CLI_BAD;
    default:
        return CLI_ERROR;
    }
}

/*==========================================================================
 * MARK: - Parquet
 *========================================================================*/

/* Files are read, not mapped: a disk error is then an error and not a SIGBUS. */

static aq_status count_pages(const aq_parquet *file, int32_t row_group, int32_t column,
                             uint64_t *pages, aq_error *err) {
    aq_column *reader;
    aq_page_info page;
    aq_status status = aq_column_open(file, row_group, column, &reader, err);
    if (status != AQ_OK) return status;
    while ((status = aq_column_next_page(reader, &page, err)) == AQ_OK &&
           page.header_bytes != 0)
        ++*pages;
    aq_column_close(reader);
    return status;
}

static aq_status verify_chunk(const aq_parquet *file, int32_t row_group, int32_t column,
                              uint64_t *pages, aq_error *err) {
    aq_column *reader;
    aq_status status = aq_column_open(file, row_group, column, &reader, err);
    if (status != AQ_OK) return status;
    status = aq_column_verify(reader, err);
    aq_column_close(reader);
    return status != AQ_OK ? status : count_pages(file, row_group, column, pages, err);
}

/* Lists the columns with chunks that are not there to be checked. */
static void list_unchecked(survey *of, const char *path, const aq_parquet *file) {
    aq_parquet_info info;
    aq_chunk_info chunk;
    aq_error err;
    int32_t row_group, column;
    aq_parquet_get_info(file, &info);
    for (column = 0; column < info.num_columns; column++) {
        for (row_group = 0; row_group < info.num_row_groups; row_group++) {
            if (aq_parquet_get_chunk(file, row_group, column, &chunk, &err) !=
                AQ_E_UNSUPPORTED)
                continue;
            cli_error(path, "%s: not checked", err.message);
            of->unchecked++;
            break;
        }
    }
}

static aq_status verify_chunks(survey *of, const char *path, const aq_parquet *file,
                               aq_error *err) {
    aq_parquet_info info;
    aq_chunk_info chunk;
    int32_t row_group, column;
    uint64_t done = 0;
    bool all = true;
    aq_parquet_get_info(file, &info);
    of->row_groups += (uint64_t)info.num_row_groups;
    of->bytes += (uint64_t)info.file_bytes;
    for (row_group = 0; row_group < info.num_row_groups; row_group++) {
        for (column = 0; column < info.num_columns; column++) {
            aq_status status = aq_parquet_get_chunk(file, row_group, column, &chunk, err);
            if (status == AQ_E_UNSUPPORTED) {
                all = false;
                continue;
            }
            if (status == AQ_OK)
                status = verify_chunk(file, row_group, column, &of->pages, err);
            if (status != AQ_OK) return status;
            done += (uint64_t)chunk.compressed_bytes;
            progress_step(&of->line, path, done, (uint64_t)info.file_bytes);
        }
    }
    if (!all) list_unchecked(of, path, file);
    return AQ_OK;
}

static int verify_parquet(survey *of, const char *path) {
    aq_parquet_options options;
    aq_parquet *file;
    aq_error err;
    aq_status status;
    memset(&options, 0, sizeof options);
    options.io = AQ_IO_READ;
    options.log = cli_log(path);
    of->files++;
    status = aq_parquet_open(path, &options, &file, &err);
    if (status == AQ_OK) {
        status = verify_chunks(of, path, file, &err);
        aq_parquet_close(file);
    }
    return status == AQ_OK ? CLI_GOOD : judge(of, path, &err);
}

static bool is_parquet_name(const char *name) {
    static const char ending[] = ".parquet";
    size_t length = strlen(name);
    return name[0] != '.' && length >= sizeof ending &&
           strcmp(name + length - (sizeof ending - 1), ending) == 0;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The Parquet files of a directory, sorted; free each and the array. */
static int list_directory(const char *path, char ***out_names, size_t *out_count) {
    DIR *directory = opendir(path);
    struct dirent *entry;
    char **names = NULL;
    size_t n = 0;
    *out_names = NULL;
    *out_count = 0;
    if (directory == NULL) return cli_error(path, "cannot open: %s", strerror(errno));
    while ((entry = readdir(directory)) != NULL) {
        buffer file = {NULL, 0, 0};
        if (!is_parquet_name(entry->d_name)) continue;
        buffer_print(&file, "%s/%s", path, entry->d_name);
        names = (char **)cli_resize(names, n + 1, sizeof *names);
        names[n++] = file.data;
    }
    closedir(directory);
    if (n > 1) qsort(names, n, sizeof *names, compare_names);
    *out_names = names;
    *out_count = n;
    return CLI_GOOD;
}

static int verify_directory(survey *of) {
    char **names;
    size_t n, i;
    int code = list_directory(of->path, &names, &n);
    if (code != CLI_GOOD) return code;
    for (i = 0; i < n; i++) {
        if (code == CLI_GOOD) code = verify_parquet(of, names[i]);
        free(names[i]);
    }
    free(names);
    return code;
}

/*==========================================================================
 * MARK: - Tensors
 *========================================================================*/

static int verify_parameters(const survey *of, const aq_tensor *tensor) {
    aq_quantized_view view;
    aq_error err;
    float scale, zero_point;
    size_t i;
    view.codes = tensor->data;
    view.scales = tensor->scales;
    view.zero_points = tensor->zero_points;
    view.params = tensor->params;
    for (i = 0; i < tensor->layout.num_groups; i++) {
        if (aq_params_read(&tensor->layout, &view, i, &scale, &zero_point, &err) != AQ_OK)
            return judge(of, NULL, &err);
        if (isfinite(scale) && isfinite(zero_point)) continue;
        cli_error(of->path, "%s %zu is not a finite number (tensor \"%s\")",
                  isfinite(scale) ? "zero point" : "scale", i, tensor->name);
        return CLI_BAD;
    }
    return CLI_GOOD;
}

static int verify_tensors(survey *of, const aq_model *model) {
    size_t n = aq_model_count(model), i;
    uint64_t done = 0;
    int code = CLI_GOOD;
    for (i = 0; i < n && code == CLI_GOOD; i++) {
        aq_tensor tensor;
        aq_error err;
        if (aq_model_tensor(model, i, &tensor, &err) != AQ_OK)
            return judge(of, NULL, &err);
        if (tensor.layout.bits != 0) code = verify_parameters(of, &tensor);
        done += tensor_bytes(&tensor);
        progress_step(&of->line, tensor.name, done, aq_model_file_bytes(model));
        aq_tensor_release(&tensor);
    }
    of->is_model = true;
    of->tensors = n;
    return code;
}

/*==========================================================================
 * MARK: - Command
 *========================================================================*/

static void show_verdict(const survey *of) {
    buffer text = {NULL, 0, 0};
    char bytes[TEXT_ROOM], groups[TEXT_ROOM], pages[TEXT_ROOM], tensors[TEXT_ROOM];
    buffer_visible(&text, of->path, strlen(of->path));
    buffer_print(&text, ": %sok%s", term_code(stdout, TERM_GREEN),
                 term_code(stdout, TERM_PLAIN));
    if (of->unchecked != 0)
        buffer_print(&text, " but for %s column%s not checked",
                     text_count(tensors, of->unchecked), text_plural(of->unchecked));
    buffer_print(&text, " (");
    if (of->is_model)
        buffer_print(&text, "%s tensor%s, ", text_count(tensors, of->tensors),
                     text_plural(of->tensors));
    if (of->files > 1) buffer_print(&text, "%" PRIu64 " files, ", of->files);
    if (of->files != 0)
        buffer_print(&text, "%s row group%s, %s page%s, ",
                     text_count(groups, of->row_groups), text_plural(of->row_groups),
                     text_count(pages, of->pages), text_plural(of->pages));
    buffer_print(&text, "%s)\n", text_bytes(bytes, of->bytes));
    buffer_show(&text);
}

static int verify_pages_of(survey *of) {
    struct stat info;
    if (stat(of->path, &info) != 0)
        return cli_error(of->path, "cannot open: %s", strerror(errno));
    return S_ISDIR(info.st_mode) ? verify_directory(of) : verify_parquet(of, of->path);
}

static bool is_parquet_model(const aq_model *model) {
    const aq_model_format format = aq_model_get_format(model);
    return format == AQ_MODEL_PARQUET || format == AQ_MODEL_DIRECTORY;
}

static int verify_file(survey *of) {
    aq_model_options options;
    aq_model *model;
    aq_error err;
    aq_status status;
    int code = CLI_GOOD;
    memset(&options, 0, sizeof options);
    options.io = AQ_IO_READ;
    options.log = cli_log(of->path);
    status = aq_model_open(of->path, &options, &model, &err);
    if (status == AQ_E_TYPE) return verify_pages_of(of); /* Parquet, but no model */
    if (status != AQ_OK) return judge(of, NULL, &err);
    if (is_parquet_model(model)) {
        code = verify_pages_of(of);
    } else {
        of->bytes = aq_model_file_bytes(model);
    }
    if (code == CLI_GOOD) code = verify_tensors(of, model);
    aq_model_close(model);
    return code;
}

static int verify(const cli_args *args) {
    size_t i;
    int worst = CLI_GOOD;
    for (i = 0; i < args->num_files; i++) {
        survey of;
        int code;
        memset(&of, 0, sizeof of);
        of.path = args->files[i];
        fault_guard(of.path, "the file", false, false);
        progress_start(&of.line, "verifying");
        code = verify_file(&of);
        progress_end(&of.line);
        if (code == CLI_GOOD) show_verdict(&of);
        if (code == CLI_GOOD && of.unchecked != 0) code = CLI_ERROR;
        fflush(stdout); /* keep the order of verdicts and errors */
        if (code > worst) worst = code;
    }
    return worst;
}

static const cli_option options[] = {CLI_OPTIONS_END};

const cli_command command_verify = {
    .name = "verify",
    .files = "FILE...",
    .summary = "check every checksum, page, level, value and tensor",
    .details =
        "Reads each FILE (Parquet with or without a model in it, model directory,\n"
        "safetensors or the index of its shards, .npy) from end to end: checksums,\n"
        "levels, values and counts of every page, sizes and scales of every tensor.\n"
        "Prints a line for each, and lists encrypted columns, which it cannot check.\n"
        "Status 1 when one is bad, 2 when one, or a column of it, is unreadable.",
    .options = options,
    .min_files = 1,
    .max_files = SIZE_MAX,
    .run = verify,
};
