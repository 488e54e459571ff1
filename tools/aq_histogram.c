/* aq_histogram.c - how weights and the errors of their codes are distributed, read from
 * the input and the output of a job. */
#include "aq.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Weights that are looked at, of all tensors and of one: of larger ones, rows at even
 * distances. A row must fit into memory twice. */
enum {
    ALL_WEIGHTS = 1 << 26,
    MIN_WEIGHTS = 1 << 16,
    MAX_WEIGHTS = 1 << 22,
    MAX_ROW_WEIGHTS = 1 << 24
};

/* Root mean squares that a histogram shows on each side. */
static const double span = 5;

typedef struct sample {
    float *weights, *back; /* as they were, and as they come back from the codes */
    size_t room, count, limit;
} sample;

static void reserve_sample(sample *of, size_t weights) {
    if (weights <= of->room) return;
    of->weights = (float *)cli_resize(of->weights, weights, sizeof *of->weights);
    of->back = (float *)cli_resize(of->back, weights, sizeof *of->back);
    of->room = weights;
}

/* Rows of the same tensor of both models. */
static aq_status read_rows(const aq_tensor *in, const aq_tensor *out, sample *of,
                           aq_error *err) {
    size_t rows = out->layout.rows, cols = out->layout.cols, step = 1, row;
    aq_status status = AQ_OK;
    of->count = 0;
    if (cols == 0 || cols > MAX_ROW_WEIGHTS) return AQ_OK;
    if (rows * cols > of->limit) step = rows * cols / of->limit + 1;
    reserve_sample(of, ((rows - 1) / step + 1) * cols);
    if (step == 1) {
        of->count = rows * cols;
        status = aq_tensor_rows_f32(in, 0, rows, of->weights, NULL, err);
        if (status == AQ_OK)
            status = aq_tensor_rows_f32(out, 0, rows, of->back, NULL, err);
        return status;
    }
    for (row = 0; row < rows && status == AQ_OK; row += step) {
        status = aq_tensor_rows_f32(in, row, 1, of->weights + of->count, NULL, err);
        if (status == AQ_OK)
            status = aq_tensor_rows_f32(out, row, 1, of->back + of->count, NULL, err);
        of->count += cols;
    }
    return status;
}

static void count_value(histogram *of, double value) {
    double at = (value - of->low) / (of->high - of->low) * HISTOGRAM_BINS;
    size_t bin = 0;
    if (at >= HISTOGRAM_BINS) {
        bin = HISTOGRAM_BINS - 1;
    } else if (at > 0) {
        bin = (size_t)at;
    }
    of->counts[bin]++;
}

/* The bins cover [low, high], but no more than `span` root mean squares. */
static void set_bins(histogram *of, double low, double high, double rms) {
    memset(of, 0, sizeof *of);
    of->low = fmax(low, -span * rms);
    of->high = fmin(high, span * rms);
    if (of->low < of->high) return;
    of->low = low - 1; /* all the same, or all beyond */
    of->high = high + 1;
}

static void measure_one(const sample *of, distribution *out) {
    double least = of->weights[0], greatest = least, largest = 0, squares = 0, errors = 0;
    size_t i;
    memset(out, 0, sizeof *out);
    for (i = 0; i < of->count; i++) {
        double weight = of->weights[i], error = of->back[i] - weight;
        least = fmin(least, weight);
        greatest = fmax(greatest, weight);
        largest = fmax(largest, fabs(error));
        squares += weight * weight;
        errors += error * error;
    }
    out->counted = of->count;
    out->least = least;
    out->greatest = greatest;
    set_bins(&out->weights, least, greatest, sqrt(squares / (double)of->count));
    set_bins(&out->error, -largest, largest, sqrt(errors / (double)of->count));
    for (i = 0; i < of->count; i++) {
        count_value(&out->weights, of->weights[i]);
        count_value(&out->error, (double)of->back[i] - (double)of->weights[i]);
    }
}

/* In units of the tensor's own root mean squares; a tensor without an error has none. */
static void add_to_total(const sample *of, const aq_metrics *metrics,
                         distribution *total) {
    double rms = sqrt(metrics->sum_aa / (double)metrics->count);
    double error_rms = sqrt(metrics->sum_dd / (double)metrics->count);
    size_t i;
    if (!(rms > 0) || !(error_rms > 0)) return;
    total->counted += of->count;
    for (i = 0; i < of->count; i++) {
        double weight = of->weights[i], error = of->back[i] - weight;
        count_value(&total->weights, weight / rms);
        count_value(&total->error, error / error_rms);
    }
}

static int read_tensor(const char *path, const aq_model *model, const char *name,
                       aq_tensor *out) {
    aq_error err;
    memset(out, 0, sizeof *out);
    return aq_model_find(model, name, out, &err) == AQ_OK ? CLI_GOOD
                                                          : cli_failure(path, &err);
}

static int read_pair(const cli_args *args, aq_model *const *models,
                     const aq_tensor_report *line, sample *out) {
    aq_tensor tensors[2];
    aq_error err;
    int code;
    memset(tensors, 0, sizeof tensors);
    code = read_tensor(args->files[0], models[0], line->name, &tensors[0]);
    if (code == CLI_GOOD)
        code = read_tensor(args->files[1], models[1], line->name, &tensors[1]);
    if (code == CLI_GOOD && tensors[0].num_params != tensors[1].num_params)
        code = cli_error(args->files[0], "has changed since the job read it");
    if (code == CLI_GOOD && read_rows(&tensors[0], &tensors[1], out, &err) != AQ_OK)
        code = cli_failure(args->files[0], &err);
    aq_tensor_release(&tensors[0]);
    aq_tensor_release(&tensors[1]);
    return code;
}

/* The job has checked the checksums of what it read. */
static int open_model(const cli_args *args, size_t file, aq_model **out) {
    aq_model_options options;
    memset(&options, 0, sizeof options);
    options.skip_checksums = true;
    options.io = job_io(args);
    return tensor_open_model(args->files[file], &options, out);
}

int distributions_read(const cli_args *args, const aq_job_report *report,
                       distribution *const *of, distribution *total) {
    aq_model *models[2] = {NULL, NULL};
    sample values = {NULL, NULL, 0, 0, ALL_WEIGHTS};
    size_t i;
    int code = open_model(args, 0, &models[0]);
    if (code == CLI_GOOD) code = open_model(args, 1, &models[1]);
    if (report->num_quantized != 0) values.limit /= report->num_quantized;
    if (values.limit < MIN_WEIGHTS) values.limit = MIN_WEIGHTS;
    if (values.limit > MAX_WEIGHTS) values.limit = MAX_WEIGHTS;
    memset(total, 0, sizeof *total);
    set_bins(&total->weights, -span, span, 1);
    set_bins(&total->error, -span, span, 1);
    for (i = 0; i < report->num_tensors && code == CLI_GOOD; i++) {
        const aq_tensor_report *line = &report->tensors[i];
        if (line->metrics.count == 0) continue;
        code = read_pair(args, models, line, &values);
        if (code != CLI_GOOD || values.count == 0) continue;
        if (of[i] != NULL) measure_one(&values, of[i]);
        add_to_total(&values, &line->metrics, total);
    }
    free(values.weights);
    free(values.back);
    aq_model_close(models[0]);
    aq_model_close(models[1]);
    return code;
}
