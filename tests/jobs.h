/* jobs.h - for the tests of jobs: random models, whole jobs whose output is compared byte
 * for byte, and what a job may have left behind. */
#ifndef TEST_JOBS_H
#define TEST_JOBS_H

#include "files.h"

#include <math.h>

static const aq_model_writer_options fast __attribute__((unused)) = {.no_sync = true};

/* Files are many and small: in memory where the system has such a directory. */
SUPPORT void enter_fast_dir(void) {
    if (access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 1);
    enter_temp_dir();
}

/* ---- models ---- */

enum { MAX_TENSORS = 16 };

typedef struct random_model {
    size_t count;
    aq_tensor tensors[MAX_TENSORS];
    char names[MAX_TENSORS][32];
    uint8_t *data[MAX_TENSORS];
} random_model;

SUPPORT void random_model_free(random_model *m) {
    for (size_t i = 0; i < m->count; i++)
        free(m->data[i]);
    memset(m, 0, sizeof *m);
}

/* Scalars, vectors, empty tensors, rows longer than a tile (65,536 values). */
SUPPORT uint32_t random_shape(rng *r, uint64_t shape[3]) {
    static const size_t most[4] = {1, 5000, 700, 36};
    const uint32_t dims = (uint32_t)rng_below(r, 4);
    for (uint32_t k = 0; k < dims; k++)
        shape[k] = rng_below(r, rng_below(r, 8) == 0 ? 3 : most[dims]);
    if (dims == 2 && rng_below(r, 10) == 0) {
        shape[0] %= 5;
        shape[1] = 100000 + rng_below(r, 30000);
    }
    return dims;
}

/* Values of any type; floats between -mag and mag. */
SUPPORT uint8_t *random_values(rng *r, aq_dtype dtype, size_t n, float mag) {
    const size_t bytes = n * aq_dtype_bytes(dtype);
    uint8_t *data = malloc(bytes > 0 ? bytes : 1);
    float *values = malloc((n > 0 ? n : 1) * sizeof *values);
    cr_assert(data != NULL && values != NULL);
    if (aq_dtype_is_float(dtype)) {
        rng_floats(r, values, n, mag);
        ASSERT_OK(aq_from_f32(values, n, data, dtype, &err));
    } else {
        rng_bytes(r, data, bytes);
    }
    free(values);
    return data;
}

SUPPORT void put_nan(aq_tensor *t, uint8_t *data, size_t at) {
    const float nan_value = (float)NAN;
    const size_t bytes = aq_dtype_bytes(t->dtype);
    ASSERT_OK(aq_from_f32(&nan_value, 1, data + at * bytes, t->dtype, &err));
}

SUPPORT void random_model_make(random_model *m, rng *r, bool nans) {
    static const aq_dtype dtypes[] = {AQ_F32, AQ_F32, AQ_F16, AQ_BF16,
                                      AQ_F64, AQ_I32, AQ_U8};
    memset(m, 0, sizeof *m);
    m->count = 1 + rng_below(r, 11);
    for (size_t i = 0; i < m->count; i++) {
        const aq_dtype dtype = dtypes[rng_below(r, COUNT_OF(dtypes))];
        aq_tensor *t = &m->tensors[i];
        uint64_t shape[3];
        uint32_t dims = random_shape(r, shape);
        snprintf(m->names[i], sizeof m->names[i], "t%02zu.%s", i * 7 % MAX_TENSORS,
                 rng_below(r, 2) == 0 ? "weight" : "bias");
        *t = tensor_of(m->names[i], dtype, shape, dims, NULL);
        m->data[i] = random_values(r, dtype, (size_t)t->num_params, 0.5f + (float)i);
        t->data = m->data[i];
        if (nans && rng_below(r, 9) == 0 && t->num_params > 0 && aq_dtype_is_float(dtype))
            put_nan(t, m->data[i], rng_below(r, (size_t)t->num_params));
    }
}

/* Smooth rows that differ from tensor to tensor; 1 scale off the others. */
SUPPORT float *wave(size_t n, size_t seed) {
    float *values = malloc((n > 0 ? n : 1) * sizeof *values);
    cr_assert_not_null(values);
    for (size_t k = 0; k < n; k++)
        values[k] = sinf((float)k * 0.1f * (float)(seed + 1)) * (float)(k % 17);
    return values;
}

/* ---- jobs ---- */

/* Runs a job that must succeed; its output. */
SUPPORT file run_job(const char *in, const char *out, const aq_job_options *o,
                     aq_job_report *report) {
    ASSERT_OK(aq_job_run(in, out, o, report, &err));
    return file_read(out);
}

SUPPORT bool exists(const char *path) { return access(path, F_OK) == 0; }

/* The same bytes for a tensor and what the library's own call makes of the original. */
SUPPORT void expect_quantized(const aq_tensor *got, const aq_tensor *original,
                              const aq_quant_options *options, bool same_metrics) {
    aq_quant_options q = *options;
    const aq_layout *l;
    aq_layout layout;
    aq_quantized d;
    aq_metrics m;
    size_t floats;
    q.bits = got->layout.bits;
    if (q.bits == 8) q.codebook = false;
    ASSERT_OK(
        aq_layout_init(original->layout.rows, original->layout.cols, &q, &layout, &err));
    l = &layout;
    floats = l->params == AQ_PARAMS_F32 ? l->num_groups * sizeof(float) : 0;
    d.codes = malloc(l->code_bytes + 1);
    d.scales = malloc(floats + 1);
    d.zero_points = malloc(floats + 1);
    d.params = malloc(l->params_bytes + 1);
    ASSERT_OK(aq_quantize_into(l, original->data, original->dtype, &d, NULL, &m, &err));
    cr_assert_eq(got->data_bytes, l->code_bytes);
    CHECK(memcmp(got->data, d.codes, l->code_bytes) == 0, "%s: codes", got->name);
    CHECK(floats == 0 || (memcmp(got->scales, d.scales, floats) == 0 &&
                          memcmp(got->zero_points, d.zero_points, floats) == 0),
          "%s: scales", got->name);
    CHECK(l->params_bytes == 0 || memcmp(got->params, d.params, l->params_bytes) == 0,
          "%s: parameters", got->name);
    if (same_metrics) {
        CHECK(got->cosine == m.cosine && got->sqnr_db == m.sqnr_db &&
                  got->max_abs_error == m.max_abs_error,
              "%s: %.17g, not %.17g", got->name, got->cosine, m.cosine);
    } else { /* sums of other pieces: the last digits */
        CHECK(fabs(got->cosine - m.cosine) < 1e-12 &&
                  got->max_abs_error == m.max_abs_error,
              "%s: %.17g, not %.17g", got->name, got->cosine, m.cosine);
    }
    free(d.codes);
    free(d.scales);
    free(d.zero_points);
    free(d.params);
}

#endif
