/* aq_job.c - `aq dequantize`, `aq convert`, `aq merge`, and how every job runs and is
 * reported. */
#include "aq.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/*==========================================================================
 * MARK: - Signals and progress
 *========================================================================*/

static const int stop_signals[] = {SIGINT, SIGTERM, SIGHUP};
enum { NUM_STOP_SIGNALS = sizeof stop_signals / sizeof stop_signals[0] };
static volatile sig_atomic_t stop_signal;

static void on_stop_signal(int number) { stop_signal = number; }

/* The first signal lets the job clean up; a second one, while it does, is the default.
 * What cannot be written, by a reader that has left or a limit on the size of files, is an
 * error, which leaves no temporary file behind. */
static void catch_stop_signals(void) {
    size_t i;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    for (i = 0; i < NUM_STOP_SIGNALS; i++) {
        struct sigaction action;
        if (sigaction(stop_signals[i], NULL, &action) != 0 ||
            action.sa_handler == SIG_IGN)
            continue; /* nohup: the caller's wish */
        memset(&action, 0, sizeof action);
        action.sa_handler = on_stop_signal;
        action.sa_flags = (int)((unsigned)SA_RESTART | (unsigned)SA_RESETHAND);
        sigaction(stop_signals[i], &action, NULL);
    }
}

/* The output is there: from now on a signal ends the command as any other; one that came
 * too late for the job as well, where a page would still take its time. */
static void release_stop_signals(bool has_page) {
    size_t i;
    for (i = 0; i < NUM_STOP_SIGNALS; i++) {
        struct sigaction action;
        if (sigaction(stop_signals[i], NULL, &action) == 0 &&
            action.sa_handler == on_stop_signal)
            signal(stop_signals[i], SIG_DFL);
    }
    if (has_page && stop_signal != 0) raise((int)stop_signal);
}

/* How far a job is. */
typedef struct job_state {
    progress line;
    size_t done, total; /* tensors */
    uint64_t bytes_total;
    bool measuring; /* what is done is not written yet */
} job_state;

/* To meet a target, every tensor is measured at three widths: three times the bytes. */
static bool on_progress(void *user, const aq_progress *at) {
    job_state *state = (job_state *)user;
    if (state->bytes_total > at->bytes_total) state->measuring = false;
    state->bytes_total = at->bytes_total;
    state->done = at->tensors_done;
    state->total = at->tensors_total;
    progress_step_job(&state->line, at);
    return stop_signal == 0;
}

/*==========================================================================
 * MARK: - What a job reads and writes
 *========================================================================*/

static const char *output_of(const cli_args *args) {
    return args->files[args->num_files - 1];
}

static bool is_merge(const cli_args *args) { return args->command == &command_merge; }

/* What an error without a file is about. */
static const char *subject_of(const cli_args *args) {
    return is_merge(args) ? output_of(args) : args->files[0];
}

static const char *shrunk_file(const cli_args *args) {
    return is_merge(args) ? "a shard" : "the file";
}

static const char *operation_name(const cli_args *args) { return args->command->name; }

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

static bool has_time_groups(const aq_job_report *report) {
    size_t i;
    for (i = 0; i < report->num_tensors; i++) {
        if (diffusion_groups(&report->tensors[i].tensor) != NULL) return true;
    }
    return false;
}

static void put_plan(buffer *out, const aq_job_report *report) {
    bool timed = has_time_groups(report);
    table rows;
    size_t i;
    if (timed) {
        table_init(&rows, "name|" TENSOR_HEADINGS "|bytes in|bytes out|bpw|time groups",
                   "l" TENSOR_ALIGN "rrrr");
    } else {
        table_init(&rows, "name|" TENSOR_HEADINGS "|bytes in|bytes out|bpw",
                   "l" TENSOR_ALIGN "rrr");
    }
    for (i = 0; i < report->num_tensors; i++) {
        const aq_tensor_report *line = &report->tensors[i];
        table_name(&rows, line->name);
        tensor_cells(&rows, &line->tensor);
        tensor_bytes_cell(&rows, line->bytes_in);
        tensor_bytes_cell(&rows, line->bytes_out);
        tensor_measure_cell(
            &rows, tensor_bits_per_weight(line->bytes_out, line->tensor.num_params), 2);
        if (timed) diffusion_count_cell(&rows, &line->tensor);
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

static void put_heading(buffer *out, const cli_args *args, const aq_job_options *options,
                        const aq_job_report *report) {
    size_t n = report->num_tensors, quantized = report->num_quantized;
    if (options->operation == AQ_QUANTIZE) {
        buffer_print(out, "%s %zu of %zu tensor%s; %zu kept as %s\n",
                     options->dry_run ? "would quantize" : "quantized", quantized, n,
                     text_plural(n), n - quantized,
                     n - quantized == 1 ? "it is" : "they are");
    } else if (is_merge(args)) {
        buffer_print(out, "merged %zu shard%s, %zu tensor%s\n", args->num_files - 1,
                     text_plural(args->num_files - 1), n, text_plural(n));
    } else {
        buffer_print(out, "%s %zu tensor%s\n",
                     options->operation == AQ_DEQUANTIZE ? "dequantized" : "converted", n,
                     text_plural(n));
    }
}

/* A run that found something done has not read all that it reports. */
bool job_has_rate(const aq_job_report *report) {
    return report->seconds > 0 && report->num_resumed == 0;
}

static void show_text(const cli_args *args, const aq_job_options *options,
                      const aq_job_report *report) {
    buffer text = {NULL, 0, 0};
    const char *path = output_of(args);
    char bytes[TEXT_ROOM], seconds[TEXT_ROOM], rate[TEXT_ROOM];
    if (options->dry_run) put_plan(&text, report);
    put_heading(&text, args, options, report);
    if (options->num_shards != 0)
        buffer_print(&text, "shard    %" PRIu32 " of %" PRIu32 "\n", options->shard + 1,
                     options->num_shards);
    if (report->num_resumed != 0)
        buffer_print(&text, "resumed  %zu of %zu tensors were done\n",
                     report->num_resumed, report->num_tensors);
    buffer_print(&text, "tensors  ");
    put_sizes(&text, report);
    buffer_print(&text, "\n");
    diffusion_put_report(&text, options, report);
    if (!options->dry_run) {
        if (report->total.count != 0) put_quality(&text, report);
        if (options->min_cosine > 0) put_attempts(&text, report);
        buffer_print(&text, "file     ");
        buffer_visible(&text, path, strlen(path));
        buffer_print(&text, ", %s\n", text_bytes(bytes, report->file_bytes_out));
        buffer_print(&text, "time     %s s", text_measure(seconds, report->seconds, 2));
        if (job_has_rate(report) && report->bytes_in != 0)
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
    diffusion_report_json(out, line);
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

/* "operation", "input" (of a merge "inputs") and "output". */
static void put_job_json(json *out, const cli_args *args) {
    size_t i;
    json_string(out, "operation", operation_name(args));
    if (is_merge(args)) {
        json_open(out, "inputs", '[');
        for (i = 0; i + 1 < args->num_files; i++)
            json_string(out, NULL, args->files[i]);
        json_close(out, ']');
    } else {
        json_string(out, "input", args->files[0]);
    }
    json_string(out, "output", output_of(args));
}

static void put_shard_json(json *out, const aq_job_options *options) {
    if (options->num_shards == 0) {
        json_null(out, "shard");
        return;
    }
    json_open(out, "shard", '{');
    json_unsigned(out, "index", options->shard + 1);
    json_unsigned(out, "count", options->num_shards);
    json_close(out, '}');
}

static void put_report_json(json *out, const char *key, const cli_args *args,
                            const aq_job_options *options, const aq_job_report *report) {
    double per_second = (double)report->bytes_in / report->seconds;
    size_t i;
    json_open(out, key, '{');
    put_job_json(out, args);
    json_bool(out, "dry_run", options->dry_run);
    put_shard_json(out, options);
    json_unsigned(out, "num_tensors", report->num_tensors);
    json_unsigned(out, "num_resumed", report->num_resumed);
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
    json_measure(out, "bytes_per_second",
                 job_has_rate(report) ? per_second : (double)NAN);
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

/* Whether the error's name begins so; a long one has "..." inside. */
static bool name_begins(const aq_error *err, const char *start, size_t length) {
    return strncmp(err->name, start, length < 64 ? length : 64) == 0;
}

/* Whether the error's name is that of a tensor: then the message has it so. */
static bool names_tensor(const aq_error *err) {
    buffer quoted = {NULL, 0, 0};
    bool named;
    buffer_print(&quoted, "tensor \"%s\"", err->name);
    named = strstr(err->message, quoted.data) != NULL;
    buffer_free(&quoted);
    return named;
}

/* Whether the error's name is this path or lies below it. */
static bool names_path(const aq_error *err, const char *path) {
    size_t length = strlen(path);
    if (!name_begins(err, path, length) || names_tensor(err)) return false;
    return length == 0 || length >= 64 || path[length - 1] == '/' ||
           err->name[length] == '\0' || err->name[length] == '/';
}

/* Whether the input could not be read: by the system, or because it ended early. */
static bool is_read_error(const aq_error *err) {
    static const char start[] = "read failed";
    return err->os_errno == 0 || strncmp(err->message, start, sizeof start - 1) == 0;
}

/* How the names of the files begin that the library has beside an output while a job is
 * at it, but for those of a single run without --resume: "folder/.model.parquet.aq-". */
static void put_hidden(buffer *out, const char *output) {
    size_t length = strlen(output), start;
    while (length > 1 && output[length - 1] == '/')
        length--;
    for (start = length; start != 0 && output[start - 1] != '/';)
        start--;
    buffer_put(out, output, start);
    buffer_print(out, ".%.*s.aq-", (int)(length - start), output + start);
}

static bool names_hidden(const aq_error *err, const char *output) {
    buffer path = {NULL, 0, 0};
    bool same;
    put_hidden(&path, output);
    same = name_begins(err, path.data, path.size);
    buffer_free(&path);
    return same;
}

/* The file that an error is about. What else the system refuses while a tensor is in work
 * concerns the output. */
static const char *failed_file(const cli_args *args, const aq_error *err) {
    size_t i;
    for (i = 0; i < args->num_files; i++) {
        if (names_path(err, args->files[i])) return err->name;
    }
    if (names_hidden(err, output_of(args))) return err->name;
    if (err->status != AQ_E_IO || is_read_error(err)) return subject_of(args);
    return output_of(args);
}

/* The output could not be written, but not because another job does. */
static bool is_write_error(const cli_args *args, const aq_error *err, const char *file) {
    return err->status == AQ_E_IO && err->os_errno != EBUSY &&
           (file == output_of(args) || names_path(err, output_of(args)));
}

/* Whether a job with --resume has left something to go on with. */
static bool is_kept(const char *output) {
    buffer path = {NULL, 0, 0};
    bool kept;
    put_hidden(&path, output);
    buffer_print(&path, "part");
    kept = access(path.data, F_OK) == 0;
    buffer_free(&path);
    return kept;
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

static void tell_start(const cli_args *args) {
    json event;
    open_event(&event, "started");
    put_job_json(&event, args);
    close_event(&event);
}

/* "name" is that of a tensor or column, if the error is about one. */
static void tell_failure(const char *file, const aq_error *err) {
    bool named = err->name[0] != '\0' && !names_path(err, file);
    json event;
    open_event(&event, "failed");
    json_string(&event, "file", file);
    json_string(&event, "status", aq_status_name(err->status));
    json_string(&event, "name", named ? err->name : NULL);
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

int job_refuse(const cli_args *args, const char *file, const aq_error *err) {
    if (args->events) {
        tell_start(args);
        tell_failure(file, err);
    }
    return cli_failure(file, err);
}

int job_error(const cli_args *args, const char *file, aq_status status,
              const char *format, ...) {
    aq_error err;
    char message[sizeof err.message];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    cli_set_error(&err, status, "%s", message);
    return job_refuse(args, file, &err);
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

static int interrupted(const cli_args *args, const aq_job_options *options,
                       const job_state *state) {
    const char *output = output_of(args);
    if (args->events) tell_cancelled();
    if (!options->resume) {
        cli_error(output, "interrupted; nothing was written");
    } else if (state->measuring) {
        cli_error(output, "interrupted; the bits of the tensors were not chosen yet; run "
                          "the same command again");
    } else {
        cli_error(output,
                  "interrupted; %zu of %zu tensors are done; run the same command again "
                  "to go on",
                  state->done, state->total);
    }
    return 128 + (int)stop_signal;
}

/* A mapped file has become shorter. The library sees it between two pieces and names its
 * own option; in the middle of one the system does, and fault_guard speaks, or a write from
 * there fails: EFAULT. */
static bool is_shrunk(const aq_error *err) {
    return err->status == AQ_E_IO &&
           (err->os_errno == EFAULT ||
            strstr(err->message, "while it was mapped") != NULL);
}

static int job_failed(const cli_args *args, const aq_job_options *options,
                      const job_state *state, aq_error *err) {
    const char *file = failed_file(args, err);
    const bool shrunk = is_shrunk(err); /* it is another input: nothing goes on */
    if (shrunk) {
        if (err->os_errno == EFAULT) file = subject_of(args); /* not the output */
        fault_explain(err->message, sizeof err->message, shrunk_file(args), true);
    }
    if (err->status == AQ_E_CANCELLED && stop_signal != 0)
        return interrupted(args, options, state);
    if (args->events) tell_failure(file, err);
    if (!options->resume || shrunk || !is_write_error(args, err, file) ||
        !is_kept(output_of(args)))
        return cli_failure(file, err);
    return cli_error(file, "%s; what is done is kept: the same command again goes on",
                     err->message);
}

static aq_status run_job(const cli_args *args, const aq_job_options *options,
                         aq_job_report *report, aq_error *err) {
    if (!is_merge(args))
        return aq_job_run(args->files[0], output_of(args), options, report, err);
    return aq_merge((const char *const *)args->files, args->num_files - 1,
                    output_of(args), options, report, err);
}

/* Safetensors have no place for what is known of the inputs of tensors: a note says so. */
static void drop_lost(const char *output, aq_job_report *report) {
    const char *ending = strrchr(output, '.');
    size_t i;
    if (ending == NULL || strcmp(ending, ".safetensors") != 0) return;
    for (i = 0; i < report->num_tensors; i++)
        report->tensors[i].tensor.diffusion = NULL;
}

int job_run(const cli_args *args, aq_job_options *options, const char *page_path) {
    static const char *const verbs[] = {"quantizing", "dequantizing", "converting"};
    aq_job_report report;
    aq_error err;
    aq_status status;
    job_state state;
    char verb[48];
    int code;
    memset(&state, 0, sizeof state);
    state.measuring = options->target_bpw > 0 || options->target_bytes != 0;
    snprintf(verb, sizeof verb, "%s",
             is_merge(args) ? "merging" : verbs[options->operation]);
    if (options->num_shards != 0)
        snprintf(verb, sizeof verb, "%s %" PRIu32 "/%" PRIu32, verbs[options->operation],
                 options->shard + 1, options->num_shards);
    if (args->events) tell_start(args);
    progress_start_job(&state.line, verb, args->events);
    catch_stop_signals();
    fault_guard(subject_of(args), shrunk_file(args), true, args->events);
    options->progress.fn = on_progress;
    options->progress.user = &state;
    options->threads = args->threads;
    options->log = cli_log(subject_of(args));
    status = run_job(args, options, &report, &err);
    progress_end(&state.line);
    if (status != AQ_OK) return job_failed(args, options, &state, &err);
    release_stop_signals(page_path != NULL);
    drop_lost(output_of(args), &report);
    code = tell_kept(args, &report);
    if (page_path != NULL && page_write(args, options, &report, page_path) != CLI_GOOD)
        code = CLI_ERROR;
    show_report(args, options, &report);
    aq_job_report_deinit(&report);
    return code;
}

/*==========================================================================
 * MARK: - Options of all jobs
 *========================================================================*/

aq_io job_io(const cli_args *args) {
    const cli_setting *setting = cli_find(args, CLI_IO);
    if (setting == NULL) return AQ_IO_AUTO;
    return setting->value[0] == 'r' ? AQ_IO_READ : AQ_IO_MAP;
}

int job_apply(const cli_args *args, const cli_setting *setting, aq_job_options *options) {
    const char *value = setting->value;
    uint64_t chunk;
    switch (setting->id) {
    case CLI_MAX_MEMORY:
        if (cli_parse_size(value, &options->max_memory_bytes)) break;
        return cli_setting_error(
            args, setting, "takes a size such as 512M or 1.5GiB, not \"%s\"", value);
    case CLI_CHUNK_SIZE:
        if (!cli_parse_size(value, &chunk) || chunk > SIZE_MAX)
            return cli_setting_error(
                args, setting, "takes a size such as 512M or 1.5GiB, not \"%s\"", value);
        options->chunk_bytes = (size_t)chunk;
        break;
    case CLI_STREAMING:
        options->mode = setting->off ? AQ_JOB_PARALLEL : AQ_JOB_STREAMING;
        break;
    case CLI_IO:
        if (strcmp(value, "map") != 0 && strcmp(value, "read") != 0)
            return cli_setting_error(args, setting, "takes map or read, not \"%s\"",
                                     value);
        options->io = job_io(args);
        break;
    case CLI_RESUME:
        options->resume = true;
        break;
    default:
        break;
    }
    return CLI_GOOD;
}

int job_check(const cli_args *args, const aq_job_options *options) {
    const char *output = output_of(args);
    size_t length = strlen(output);
    bool folder = length != 0 && output[length - 1] == '/';
    if (options->resume && folder)
        return cli_usage_error(args->command,
                               "--resume needs one file as output, not the folder %s",
                               output);
    return CLI_GOOD;
}

/*==========================================================================
 * MARK: - dequantize, convert, merge
 *========================================================================*/

static int read_options(const cli_args *args, aq_operation operation,
                        aq_job_options *out) {
    size_t i;
    int code = CLI_GOOD;
    memset(out, 0, sizeof *out);
    out->operation = operation;
    for (i = 0; i < args->num_settings && code == CLI_GOOD; i++)
        code = job_apply(args, &args->settings[i], out);
    return code == CLI_GOOD ? job_check(args, out) : code;
}

static int run_operation(const cli_args *args, aq_operation operation) {
    aq_job_options options;
    int code = read_options(args, operation, &options);
    return code == CLI_GOOD ? job_run(args, &options, NULL) : code;
}

static int dequantize(const cli_args *args) { return run_operation(args, AQ_DEQUANTIZE); }

static int convert(const cli_args *args) { return run_operation(args, AQ_CONVERT); }

/* OUT comes first, as behind a pattern for the shards it would be easy to forget; elsewhere
 * the output is the last. */
static int merge(const cli_args *args) {
    cli_args turned = *args;
    aq_job_options options;
    char *output = args->files[0];
    size_t n = args->num_files - 1;
    int code;
    turned.files = (char **)cli_resize(NULL, args->num_files, sizeof *turned.files);
    memcpy(turned.files, args->files + 1, n * sizeof *turned.files);
    turned.files[n] = output;
    code = read_options(&turned, AQ_CONVERT, &options);
    if (code == CLI_GOOD) code = shard_check(&turned);
    if (code == CLI_GOOD) code = job_run(&turned, &options, NULL);
    free(turned.files);
    return code;
}

static const cli_option plain_settings[] = {CLI_OPTION_MAX_MEMORY, CLI_OPTION_STREAMING,
                                            CLI_OPTION_CHUNK_SIZE, CLI_OPTION_IO,
                                            CLI_OPTION_THREADS,    CLI_OPTIONS_END};

static const cli_option plain_options[] = {CLI_OPTION_RESUME, CLI_OPTION_EVENTS,
                                           CLI_OPTION_JSON, CLI_OPTIONS_END};

static const cli_option merge_options[] = {CLI_OPTION_EVENTS, CLI_OPTION_JSON,
                                           CLI_OPTIONS_END};

const cli_command command_dequantize = {
    .name = "dequantize",
    .files = "IN OUT",
    .summary = "write a model with its weights as float32 again",
    .details =
        "Writes the model IN to OUT with quantized tensors as float32 and all others\n"
        "as they are. OUT is safetensors when its name ends in .safetensors, a new\n"
        "folder with a Parquet file for each tensor when it ends in /, else Parquet.\n"
        "It appears under its name when it is whole.",
    .options = plain_options,
    .settings = plain_settings,
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
        "name ends in .safetensors, a new folder with a Parquet file for each tensor\n"
        "when it ends in /, else Parquet. Quantized tensors can only go to Parquet.\n"
        "OUT appears under its name when it is whole.",
    .options = plain_options,
    .settings = plain_settings,
    .min_files = 2,
    .max_files = 2,
    .run = convert,
};

const cli_command command_merge = {
    .name = "merge",
    .files = "OUT SHARD...",
    .summary = "join what aq quantize --shard wrote to one model",
    .details =
        "Writes the Parquet model OUT from all SHARDs of one job, in any order: the\n"
        "bytes that aq quantize writes without --shard. A --chunk-size of the shards\n"
        "has to be given again. OUT appears under its name when it is whole.",
    .options = merge_options,
    .settings = plain_settings,
    .min_files = 2,
    .max_files = SIZE_MAX,
    .run = merge,
};
