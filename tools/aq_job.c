/* aq_job.c - `aq dequantize`, `aq convert`, and how every job runs and is reported. */
#include "aq.h"

#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <string.h>

/*==========================================================================
 * MARK: - Signals and progress
 *========================================================================*/

static volatile sig_atomic_t stop_signal;

static void on_stop_signal(int number) { stop_signal = number; }

/* The first signal lets the job clean up; a second one, while it does, is the default. */
static void catch_stop_signals(void) {
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    size_t i;
    for (i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        struct sigaction action;
        if (sigaction(numbers[i], NULL, &action) != 0 || action.sa_handler == SIG_IGN)
            continue; /* nohup: the caller's wish */
        memset(&action, 0, sizeof action);
        action.sa_handler = on_stop_signal;
        action.sa_flags = (int)((unsigned)SA_RESTART | (unsigned)SA_RESETHAND);
        sigaction(numbers[i], &action, NULL);
    }
}

static bool on_progress(void *user, const aq_progress *at) {
    progress_step_job((progress *)user, at);
    return stop_signal == 0;
}

/* What could not be quantized is there, but as it came. */
static int tell_kept(const cli_args *args, const aq_job_report *report) {
    size_t i;
    for (i = 0; i < report->num_tensors; i++) {
        const aq_tensor_report *line = &report->tensors[i];
        if (line->status == AQ_OK) continue;
        cli_error(args->files[0], "tensor \"%s\" is kept as it came: %s", line->name,
                  line->error != NULL ? line->error : aq_status_meaning(line->status));
    }
    return report->num_failed != 0 ? CLI_BAD : CLI_GOOD;
}

/*==========================================================================
 * MARK: - The report as text
 *========================================================================*/

/* "2.55 MiB -> 745 KiB (28.5 %), 16.00 -> 4.57 bits per weight" */
static void put_sizes(buffer *out, const aq_job_report *report) {
    uint64_t in = report->bytes_in, written = report->bytes_out;
    char text_in[TEXT_ROOM], text_out[TEXT_ROOM];
    buffer_print(out, "%s -> %s", text_bytes(text_in, in), text_bytes(text_out, written));
    if (in == 0) return;
    buffer_print(
        out, " (%.1f %%), %s -> %s bits per weight", 100 * (double)written / (double)in,
        text_measure(text_in, tensor_bits_per_weight(in, report->num_params), 2),
        text_measure(text_out, tensor_bits_per_weight(written, report->num_params), 2));
}

static void put_plan(buffer *out, const aq_job_report *report) {
    table rows;
    size_t i;
    table_init(&rows, "name|" TENSOR_HEADINGS "|bytes in|bytes out|bpw",
               "l" TENSOR_ALIGN "rrr");
    for (i = 0; i < report->num_tensors; i++) {
        const aq_tensor_report *line = &report->tensors[i];
        table_name(&rows, line->name);
        tensor_cells(&rows, &line->tensor);
        tensor_bytes_cell(&rows, line->bytes_in);
        tensor_bytes_cell(&rows, line->bytes_out);
        tensor_measure_cell(
            &rows, tensor_bits_per_weight(line->bytes_out, line->tensor.num_params), 2);
    }
    table_show(&rows, out);
    table_free(&rows);
}

void job_put_attempts(buffer *out, const aq_tensor_report *line) {
    uint32_t i;
    for (i = 0; i < line->num_attempts; i++)
        buffer_print(out, "%s %" PRIu32 " bits %.4f", i == 0 ? ":" : ",",
                     line->attempts[i].bits, line->attempts[i].cosine);
    if (line->metrics.count == 0) buffer_print(out, ", kept");
}

/* "layers.0.w: 2 bits 0.8312, 4 bits 0.9921" for the first few tensors that were below the
 * bound. */
static void put_attempts(buffer *out, const aq_job_report *report) {
    enum { MAX_SHOWN = 5 };
    size_t i, n = 0;
    for (i = 0; i < report->num_tensors; i++) {
        const aq_tensor_report *line = &report->tensors[i];
        if (line->num_attempts == 0 ||
            (line->num_attempts == 1 && line->metrics.count != 0))
            continue;
        if (n++ >= MAX_SHOWN) continue;
        buffer_print(out, "again    ");
        buffer_visible(out, line->name, strlen(line->name));
        job_put_attempts(out, line);
        buffer_print(out, "\n");
    }
    if (n > MAX_SHOWN) buffer_print(out, "again    and %zu more\n", n - MAX_SHOWN);
}

static void put_quality(buffer *out, const aq_job_report *report) {
    const aq_tensor_report *worst;
    char cosine[TEXT_ROOM], sqnr[TEXT_ROOM], largest[TEXT_ROOM];
    buffer_print(out, "error    cosine %s, SQNR %s dB, largest %s\n",
                 text_measure(cosine, report->total.cosine, 6),
                 text_measure(sqnr, report->total.sqnr_db, 2),
                 text_measure(largest, report->total.max_abs_error, 6));
    if (report->worst == SIZE_MAX) return;
    worst = &report->tensors[report->worst];
    buffer_print(out, "worst    ");
    buffer_visible(out, worst->name, strlen(worst->name));
    buffer_print(out, ": cosine %s, SQNR %s dB\n",
                 text_measure(cosine, worst->metrics.cosine, 6),
                 text_measure(sqnr, worst->metrics.sqnr_db, 2));
}

static void put_heading(buffer *out, const aq_job_options *options,
                        const aq_job_report *report) {
    size_t n = report->num_tensors, quantized = report->num_quantized;
    if (options->operation == AQ_QUANTIZE) {
        buffer_print(out, "%s %zu of %zu tensor%s; %zu kept as %s\n",
                     options->dry_run ? "would quantize" : "quantized", quantized, n,
                     text_plural(n), n - quantized,
                     n - quantized == 1 ? "it is" : "they are");
    } else {
        buffer_print(out, "%s %zu tensor%s\n",
                     options->operation == AQ_DEQUANTIZE ? "dequantized" : "converted", n,
                     text_plural(n));
    }
}

static void show_text(const cli_args *args, const aq_job_options *options,
                      const aq_job_report *report) {
    buffer text = {NULL, 0, 0};
    const char *path = args->files[1];
    char bytes[TEXT_ROOM], seconds[TEXT_ROOM], rate[TEXT_ROOM];
    if (options->dry_run) put_plan(&text, report);
    put_heading(&text, options, report);
    buffer_print(&text, "tensors  ");
    put_sizes(&text, report);
    buffer_print(&text, "\n");
    if (!options->dry_run) {
        if (report->total.count != 0) put_quality(&text, report);
        if (options->min_cosine > 0) put_attempts(&text, report);
        buffer_print(&text, "file     ");
        buffer_visible(&text, path, strlen(path));
        buffer_print(&text, ", %s\n", text_bytes(bytes, report->file_bytes_out));
        buffer_print(&text, "time     %s s", text_measure(seconds, report->seconds, 2));
        if (report->seconds > 0 && report->bytes_in != 0)
            buffer_print(&text, ", %s",
                         text_rate(rate, (double)report->bytes_in / report->seconds));
        buffer_print(&text, "\n");
    }
    buffer_show(&text);
}

/*==========================================================================
 * MARK: - The report as JSON
 *========================================================================*/

static void put_tensor_json(json *out, const aq_tensor_report *line) {
    uint32_t i;
    json_open(out, NULL, '{');
    tensor_json_type(out, &line->tensor);
    json_unsigned(out, "bytes_in", line->bytes_in);
    json_unsigned(out, "bytes_out", line->bytes_out);
    json_measure(out, "bits_per_weight",
                 tensor_bits_per_weight(line->bytes_out, line->tensor.num_params));
    tensor_json_metrics(out, &line->metrics);
    json_open(out, "attempts", '[');
    for (i = 0; i < line->num_attempts; i++) {
        json_open(out, NULL, '{');
        json_unsigned(out, "bits", line->attempts[i].bits);
        json_number(out, "cosine", line->attempts[i].cosine);
        json_number(out, "sqnr_db", line->attempts[i].sqnr_db);
        json_close(out, '}');
    }
    json_close(out, ']');
    json_string(out, "error", line->error);
    json_close(out, '}');
}

static void put_pool_json(json *out, const aq_pool_stats *pool) {
    json_open(out, "pool", '{');
    json_unsigned(out, "acquires", pool->acquires);
    json_unsigned(out, "hits", pool->hits);
    json_number(out, "hit_rate", pool->hit_rate);
    json_unsigned(out, "bytes_saved", pool->bytes_saved);
    json_unsigned(out, "peak_bytes", pool->peak_bytes);
    json_close(out, '}');
}

static const char *const operations[] = {"quantize", "dequantize", "convert"};

static void put_report_json(json *out, const char *key, const cli_args *args,
                            const aq_job_options *options, const aq_job_report *report) {
    double per_second = (double)report->bytes_in / report->seconds;
    size_t i;
    json_open(out, key, '{');
    json_string(out, "operation", operations[options->operation]);
    json_string(out, "input", args->files[0]);
    json_string(out, "output", args->files[1]);
    json_bool(out, "dry_run", options->dry_run);
    json_unsigned(out, "num_tensors", report->num_tensors);
    json_unsigned(out, "num_quantized", report->num_quantized);
    json_unsigned(out, "num_failed", report->num_failed);
    json_unsigned(out, "num_params", report->num_params);
    json_unsigned(out, "bytes_in", report->bytes_in);
    json_unsigned(out, "bytes_out", report->bytes_out);
    json_unsigned(out, "file_bytes_in", report->file_bytes_in);
    if (options->dry_run) {
        json_null(out, "file_bytes_out");
    } else {
        json_unsigned(out, "file_bytes_out", report->file_bytes_out);
    }
    json_measure(out, "bits_per_weight",
                 tensor_bits_per_weight(report->bytes_out, report->num_params));
    tensor_json_metrics(out, &report->total);
    json_string(out, "worst",
                report->worst != SIZE_MAX ? report->tensors[report->worst].name : NULL);
    json_number(out, "seconds", report->seconds);
    json_measure(out, "bytes_per_second", report->seconds > 0 ? per_second : (double)NAN);
    put_pool_json(out, &report->pool);
    json_open(out, "tensors", '[');
    for (i = 0; i < report->num_tensors; i++)
        put_tensor_json(out, &report->tensors[i]);
    json_close(out, ']');
    json_close(out, '}');
}

/*==========================================================================
 * MARK: - Errors
 *========================================================================*/

/* Whether the error's name is this path or lies below it; a long name has "..." inside. */
static bool names_path(const aq_error *err, const char *path) {
    size_t length = strlen(path);
    return strncmp(err->name, path, length < 64 ? length : 64) == 0;
}

/* The file that an error is about. What the system refuses while a tensor is in work
 * concerns the output. */
static const char *failed_file(const cli_args *args, const aq_error *err) {
    if (names_path(err, args->files[0]) || names_path(err, args->files[1]))
        return err->name;
    return args->files[err->status == AQ_E_IO ? 1 : 0];
}

/*==========================================================================
 * MARK: - Events
 *========================================================================*/

static void open_event(json *out, const char *what) {
    memset(out, 0, sizeof *out);
    out->depth = JSON_ONE_LINE;
    json_open(out, NULL, '{');
    json_string(out, "event", what);
}

static void close_event(json *out) {
    json_close(out, '}');
    json_show(out);
    fflush(stdout);
}

static void tell_start(const cli_args *args, const aq_job_options *options) {
    json event;
    open_event(&event, "started");
    json_string(&event, "operation", operations[options->operation]);
    json_string(&event, "input", args->files[0]);
    json_string(&event, "output", args->files[1]);
    close_event(&event);
}

static void tell_failure(const char *file, const aq_error *err) {
    json event;
    open_event(&event, "failed");
    json_string(&event, "file", file);
    json_string(&event, "status", aq_status_name(err->status));
    json_string(&event, "name", err->name[0] != '\0' ? err->name : NULL);
    json_string(&event, "message",
                err->message[0] != '\0' ? err->message : aq_status_meaning(err->status));
    close_event(&event);
}

static void tell_cancelled(void) {
    json event;
    open_event(&event, "cancelled");
    json_signed(&event, "signal", stop_signal);
    close_event(&event);
}

/*==========================================================================
 * MARK: - Run
 *========================================================================*/

static void show_report(const cli_args *args, const aq_job_options *options,
                        const aq_job_report *report) {
    json document = {{NULL, 0, 0}, 0, false};
    if (args->json) {
        put_report_json(&document, NULL, args, options, report);
        json_show(&document);
    } else if (args->events) {
        open_event(&document, "finished");
        put_report_json(&document, "report", args, options, report);
        close_event(&document);
    } else {
        show_text(args, options, report);
    }
}

static int job_failed(const cli_args *args, const aq_error *err) {
    const char *file = failed_file(args, err);
    if (err->status == AQ_E_CANCELLED && stop_signal != 0) {
        if (args->events) tell_cancelled();
        cli_error(args->files[1], "interrupted; nothing was written");
        return 128 + (int)stop_signal;
    }
    if (args->events) tell_failure(file, err);
    return cli_failure(file, err);
}

int job_run(const cli_args *args, aq_job_options *options, const char *page_path) {
    static const char *const verbs[] = {"quantizing", "dequantizing", "converting"};
    aq_job_report report;
    aq_error err;
    aq_status status;
    progress line;
    int code;
    if (args->events) tell_start(args, options);
    progress_start_job(&line, verbs[options->operation], args->events);
    catch_stop_signals();
    options->progress.fn = on_progress;
    options->progress.user = &line;
    options->threads = args->threads;
    status = aq_job_run(args->files[0], args->files[1], options, &report, &err);
    progress_end(&line);
    if (status != AQ_OK) return job_failed(args, &err);
    code = tell_kept(args, &report);
    if (page_path != NULL && page_write(args, options, &report, page_path) != CLI_GOOD)
        code = CLI_ERROR;
    show_report(args, options, &report);
    aq_job_report_deinit(&report);
    return code;
}

static int run_operation(const cli_args *args, aq_operation operation) {
    aq_job_options options;
    memset(&options, 0, sizeof options);
    options.operation = operation;
    return job_run(args, &options, NULL);
}

static int dequantize(const cli_args *args) { return run_operation(args, AQ_DEQUANTIZE); }

static int convert(const cli_args *args) { return run_operation(args, AQ_CONVERT); }

static const cli_option plain_options[] = {CLI_OPTION_THREADS, CLI_OPTION_EVENTS,
                                           CLI_OPTION_JSON, CLI_OPTIONS_END};

const cli_command command_dequantize = {
    .name = "dequantize",
    .files = "IN OUT",
    .summary = "write a model with its weights as float32 again",
    .details =
        "Writes the model IN to OUT with quantized tensors as float32 and all others\n"
        "as they are. OUT is safetensors when its name ends in .safetensors, else\n"
        "Parquet. It appears under its name when it is whole.",
    .options = plain_options,
    .min_files = 2,
    .max_files = 2,
    .run = dequantize,
};

const cli_command command_convert = {
    .name = "convert",
    .files = "IN OUT",
    .summary = "write the same tensors to another container",
    .details =
        "Writes the tensors of the model IN, unchanged, to OUT: safetensors when its\n"
        "name ends in .safetensors, else Parquet. Quantized tensors can only go to\n"
        "Parquet. OUT appears under its name when it is whole.",
    .options = plain_options,
    .min_files = 2,
    .max_files = 2,
    .run = convert,
};
