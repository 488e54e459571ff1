/* diffusion_ranges.h - from the calibration file of train_diffusion.c the scale and zero
 * point that each layer's activations are quantized with: one pair for all timesteps, or
 * one for each group of timesteps. */
#ifndef DIFFUSION_RANGES_H
#define DIFFUSION_RANGES_H

#include <stdlib.h>
#include <string.h>

#include "diffusion.h"

enum { RANGES_BINS = 2048, RANGES_GROUPS = 10 };

/* What a layer was given at each step of the sampler. */
typedef struct ranges {
    float least, greatest; /* of all steps: the span of the bins */
    float min[DIFFUSION_STEPS], max[DIFFUSION_STEPS];
    uint32_t bins[DIFFUSION_STEPS][RANGES_BINS];
} ranges;

/* x is code q = round(x / scale) + zero_point, within [0, most]. */
typedef struct code_range {
    float scale;
    int zero_point, most;
} code_range;

typedef enum grouping { GROUPS_PLAIN, GROUPS_EQUAL, GROUPS_BEST } grouping;

static inline float range_clamp(float value, float low, float high) {
    return value < low ? low : value > high ? high : value;
}

/* Every group has at least the value 0 in its range: then zero points are codes. */
static inline code_range range_of(float min, float max, int bits) {
    code_range r = {0, 0, (1 << bits) - 1};
    r.scale = (max - min) / (float)r.most;
    if (!(r.scale > 0)) r.scale = 1;
    r.zero_point = (int)range_clamp(0.5f - min / r.scale, 0, (float)r.most);
    return r;
}

/* Sum of squared errors of what the bins hold. */
static inline double range_error(const ranges *from, const uint32_t *bins, code_range r) {
    const float width = (from->greatest - from->least) / RANGES_BINS;
    double error = 0;
    for (int i = 0; i < RANGES_BINS; i++) {
        if (bins[i] == 0) continue;
        float x = from->least + width * ((float)i + 0.5f);
        float q = range_clamp(x / r.scale + (float)r.zero_point, 0, (float)r.most);
        float d = (float)((int)(q + 0.5f) - r.zero_point) * r.scale - x;
        error += (double)bins[i] * (double)(d * d);
    }
    return error;
}

/* The range of steps [first, end) with the least squared error: from the least and the
 * greatest value there, each end in turn is moved towards zero. */
static inline code_range range_fit(const ranges *from, int first, int end, int bits,
                                   double *out_error) {
    uint32_t bins[RANGES_BINS] = {0};
    float ends[2] = {0, 0}, best[2];
    for (int step = first; step < end; step++) {
        ends[0] = from->min[step] < ends[0] ? from->min[step] : ends[0];
        ends[1] = from->max[step] > ends[1] ? from->max[step] : ends[1];
        for (int i = 0; i < RANGES_BINS; i++)
            bins[i] += from->bins[step][i];
    }
    best[0] = ends[0];
    best[1] = ends[1];
    double least = range_error(from, bins, range_of(best[0], best[1], bits));
    for (int round = 0; round < 3; round++) {
        for (int cut = 1; cut < 16; cut++) {
            float trial[2] = {best[0], best[1]};
            trial[round % 2] = ends[round % 2] * (1 - (float)cut * 0.05f);
            double error = range_error(from, bins, range_of(trial[0], trial[1], bits));
            if (!(error < least)) continue;
            least = error;
            best[round % 2] = trial[round % 2];
        }
    }
    *out_error = least;
    /* The file has seen few chains, and those of the float model. */
    const float slack = 1 + 1.0f / 16;
    return range_of(best[0] * slack, best[1] * slack, bits);
}

/* Fills out[step] for all steps. GROUPS_BEST: of all ways to cut the steps into groups
 * the one with the least error, by dynamic programming over the end of the last group. */
static inline void ranges_fit(const ranges *from, int bits, grouping how,
                              code_range out[DIFFUSION_STEPS]) {
    enum { STEPS = DIFFUSION_STEPS, GROUPS = RANGES_GROUPS };
    static code_range fits[STEPS][STEPS + 1];
    static double errors[STEPS][STEPS + 1], total[GROUPS + 1][STEPS + 1];
    static int starts[GROUPS + 1][STEPS + 1];
    const int groups = how == GROUPS_PLAIN ? 1 : GROUPS;
    if (how != GROUPS_BEST) {
        for (int g = 0; g < groups; g++) {
            double error;
            int first = g * STEPS / groups, end = (g + 1) * STEPS / groups;
            code_range r = range_fit(from, first, end, bits, &error);
            for (int step = first; step < end; step++)
                out[step] = r;
        }
        return;
    }
    for (int first = 0; first < STEPS; first++)
        for (int end = first + 1; end <= STEPS; end++)
            fits[first][end] = range_fit(from, first, end, bits, &errors[first][end]);
    for (int end = 1; end <= STEPS; end++) {
        total[1][end] = errors[0][end];
        for (int g = 2; g <= GROUPS; g++) {
            total[g][end] = 1e300;
            for (int first = g - 1; first < end; first++) {
                double error = total[g - 1][first] + errors[first][end];
                if (error >= total[g][end]) continue;
                total[g][end] = error;
                starts[g][end] = first;
            }
        }
    }
    for (int g = GROUPS, end = STEPS; g > 0; g--) {
        int first = g == 1 ? 0 : starts[g][end];
        for (int step = first; step < end; step++)
            out[step] = fits[first][end];
        end = first;
    }
}

/* A wrong file in the form that the library's own errors have. */
static inline aq_status ranges_fail(aq_error *err, const char *path, const char *what) {
    snprintf(err->message, sizeof err->message, "%s: %s; make it with train_diffusion",
             path, what);
    err->status = AQ_E_FORMAT;
    return err->status;
}

/* Adds the values of one row group, which is about one layer and timestep: first to the
 * span of the bins, then to the bins. NULL, or what is wrong. */
static inline const char *ranges_add(ranges all[DIFFUSION_LAYERS], const aq_span spans[3],
                                     bool to_bins) {
    const aq_bytes *layer_name = (const aq_bytes *)spans[0].values;
    int layer = -1, step = -1;
    int32_t time;
    if (spans[0].num_values == 0 || spans[1].num_values != spans[0].num_values)
        return "a row group without rows, or with nulls";
    memcpy(&time, spans[1].values, sizeof time);
    for (int i = 0; i < DIFFUSION_LAYERS; i++) {
        char name[32];
        diffusion_layer_name(name, sizeof name, i);
        if (layer_name->size == strlen(name) &&
            memcmp(layer_name->data, name, layer_name->size) == 0)
            layer = i;
    }
    for (int i = 0; i < DIFFUSION_STEPS; i++)
        if (diffusion_time(i) == time) step = i;
    if (layer < 0 || step < 0) return "a layer or timestep of another model";
    ranges *r = &all[layer];
    for (int64_t v = 0; v < spans[2].num_values; v++) {
        float x;
        memcpy(&x, (const uint8_t *)spans[2].values + 4 * v, sizeof x);
        if (!isfinite(x)) return "NaN or infinity among the activations";
        if (to_bins) {
            float bin = (x - r->least) / (r->greatest - r->least) * RANGES_BINS;
            r->bins[step][(int)range_clamp(bin, 0, RANGES_BINS - 1)]++;
            continue;
        }
        r->min[step] = x < r->min[step] ? x : r->min[step];
        r->max[step] = x > r->max[step] ? x : r->max[step];
        r->least = x < r->least ? x : r->least;
        r->greatest = x > r->greatest ? x : r->greatest;
    }
    return NULL;
}

/* Reads the file twice, a row group at a time. */
static inline aq_status ranges_read(const char *path, ranges all[DIFFUSION_LAYERS],
                                    aq_error *err) {
    static const char *const columns[3] = {"layer_name", "timestep",
                                           "activations.list.element"};
    static const aq_physical_type types[3] = {AQ_BYTE_ARRAY, AQ_INT32, AQ_FLOAT};
    aq_parquet_info info;
    aq_parquet *file;
    const char *wrong = NULL;
    aq_status status = aq_parquet_open(path, NULL, &file, err);
    if (status != AQ_OK) return status;
    aq_parquet_get_info(file, &info);
    for (int i = 0; i < 3; i++) {
        const int32_t column = aq_parquet_find_column(file, columns[i]);
        if (column < 0 || aq_parquet_column_field(file, column)->type != types[i])
            wrong = "no calibration file: a column is missing or of another type";
    }
    for (int32_t i = 0; i < 2 * info.num_row_groups && wrong == NULL; i++) {
        aq_column *open[3] = {NULL, NULL, NULL};
        aq_span spans[3];
        for (int c = 0; c < 3 && status == AQ_OK; c++) {
            status =
                aq_column_open(file, i % info.num_row_groups,
                               aq_parquet_find_column(file, columns[c]), &open[c], err);
            if (status == AQ_OK) status = aq_column_view(open[c], &spans[c], err);
        }
        if (status == AQ_OK) wrong = ranges_add(all, spans, i >= info.num_row_groups);
        for (int c = 0; c < 3; c++)
            aq_column_close(open[c]);
        if (status != AQ_OK) break;
    }
    for (int i = 0; i < DIFFUSION_LAYERS * DIFFUSION_STEPS && wrong == NULL; i++) {
        const ranges *r = &all[i / DIFFUSION_STEPS];
        const int step = i % DIFFUSION_STEPS;
        if (status == AQ_OK && !(r->max[step] > r->min[step]))
            wrong = "a layer lacks a timestep, or is given zeros there";
    }
    aq_parquet_close(file);
    return wrong != NULL ? ranges_fail(err, path, wrong) : status;
}

#endif /* DIFFUSION_RANGES_H */
