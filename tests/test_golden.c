/* test_golden.c - files of every feature of the formats, written once and kept in
 * tests/golden: this version reads from them what the first one did. `digests` has a line
 * for each: its name and the digest of all that is in it.
 *
 * A new feature gets a new file: GOLDEN_MAKE=1 build/plain/test_golden writes those that
 * are missing and appends their digests. What is there is never written again. */
#include "cells.h"
#include "jobs.h"

/* A sum over all values is not enough: order and names count. FNV-1a. */
static uint64_t digest_add(uint64_t hash, const void *data, size_t n) {
    const uint8_t *p = (const uint8_t *)data;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ p[i]) * 0x100000001b3u;
    return hash;
}

static uint64_t digest_number(uint64_t hash, uint64_t v) {
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(v >> 8 * i);
    return digest_add(hash, bytes, sizeof bytes);
}

/* Floats as the bytes that a file has. */
static uint64_t digest_floats(uint64_t hash, const float *p, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &p[i], sizeof bits);
        hash = digest_number(hash, bits);
    }
    return hash;
}

static uint64_t digest_text(uint64_t hash, const char *text) {
    return text == NULL ? digest_number(hash, UINT64_MAX)
                        : digest_add(hash, text, strlen(text) + 1);
}

static uint64_t digest_diffusion(uint64_t hash, const aq_diffusion *d) {
    if (d == NULL) return digest_number(hash, 0);
    hash = digest_text(hash, d->modality);
    for (size_t i = 0; d->time_aware != NULL && i < d->time_aware->num_groups; i++) {
        const aq_time_group *g = &d->time_aware->groups[i];
        hash = digest_number(hash, (uint64_t)g->start);
        hash = digest_number(hash, (uint64_t)g->end);
        hash = digest_floats(hash, &g->params.scale, 1);
        hash = digest_floats(hash, &g->params.zero_point, 1);
        hash = digest_number(hash, g->params.bits);
    }
    if (d->spatial != NULL)
        hash = digest_floats(hash, d->spatial->scales, d->spatial->num_scales);
    if (d->stats != NULL) {
        hash = digest_floats(hash, d->stats->mean, d->stats->count);
        hash = digest_floats(hash, d->stats->std, d->stats->count);
        hash = digest_floats(hash, d->stats->min, d->stats->count);
        hash = digest_floats(hash, d->stats->max, d->stats->count);
    }
    return hash;
}

static uint64_t digest_tensor(uint64_t hash, const aq_tensor *t) {
    const aq_layout *l = &t->layout;
    hash = digest_text(hash, t->name);
    hash = digest_text(hash, aq_dtype_name(t->dtype));
    for (uint32_t i = 0; i < t->num_dims; i++)
        hash = digest_number(hash, t->shape[i]);
    hash = digest_number(hash, l->bits);
    hash = digest_add(hash, t->data, t->data_bytes);
    hash = digest_diffusion(hash, t->diffusion);
    if (!aq_dtype_is_float(t->dtype) || l->rows == 0 || l->cols == 0) return hash;
    float *row = malloc(l->cols * sizeof *row);
    for (size_t r = 0; r < l->rows; r++) {
        ASSERT_OK(aq_tensor_rows_f32(t, r, 1, row, NULL, &err));
        hash = digest_floats(hash, row, l->cols);
    }
    free(row);
    return hash;
}

static uint64_t digest_model(const char *path) {
    uint64_t hash = 0xcbf29ce484222325u;
    aq_model *m;
    ASSERT_OK(aq_model_open(path, NULL, &m, &err));
    for (size_t i = 0; i < aq_model_count(m); i++) {
        aq_tensor t;
        ASSERT_OK(aq_model_tensor(m, i, &t, &err));
        hash = digest_tensor(hash, &t);
        aq_tensor_release(&t);
    }
    aq_model_close(m);
    return hash;
}

/* ---- how they were made ---- */

typedef struct golden {
    const char *name;
    aq_job_options options; /* the job over source.safetensors that wrote it */
} golden;

static const aq_time_options six_bits = {.groups = 3, .bits = 6, .timesteps = 100};
static const aq_spatial_options equalized = {.equalize = true};

static const golden files[] = {
    {"source.safetensors", {.operation = AQ_CONVERT}},
    {"float.parquet", {.operation = AQ_CONVERT}},
    {"int2.parquet", {.quant = {.bits = 2, .group_size = 32}}},
    {"int3.parquet", {.quant = {.bits = 3, .group_size = 32}}},
    {"int4.parquet", {.quant = {.bits = 4}}},
    {"int5.parquet", {.quant = {.bits = 5, .group_size = 40}}},
    {"int6.parquet", {.quant = {.bits = 6, .group_size = 64}}},
    {"int8.parquet", {.quant = {.bits = 8, .group_size = 64}}},
    {"symmetric.parquet", {.quant = {.bits = 4, .symmetric = true}}},
    {"channel.parquet", {.quant = {.bits = 8, .granularity = AQ_PER_CHANNEL}}},
    {"tensor.parquet", {.quant = {.bits = 4, .granularity = AQ_PER_TENSOR}}},
    {"f16.parquet", {.quant = {.bits = 4, .params = AQ_PARAMS_F16}}},
    {"u8.parquet", {.quant = {.bits = 4, .group_size = 32, .params = AQ_PARAMS_U8}}},
    {"codebook2.parquet", {.quant = {.bits = 2, .group_size = 16, .codebook = true}}},
    {"codebook4.parquet", {.quant = {.bits = 4, .group_size = 32, .codebook = true}}},
    {"chunks.parquet", {.quant = {.bits = 8}, .chunk_bytes = 300}},
    {"time.parquet", {.quant = {.bits = 8}, .time = &six_bits, .modality = "image"}},
    {"scaled.parquet", {.quant = {.bits = 8}, .time = &six_bits, .spatial = &equalized}},
};

static const char *golden_path(const char *name) {
    static char paths[2][600];
    static unsigned next;
    char *p = paths[next++ % 2];
    const char *slash = strrchr(__FILE__, '/');
    const int n = slash == NULL ? 0 : (int)(slash - __FILE__) + 1;
    snprintf(p, sizeof paths[0], "%.*sgolden/%s", n, __FILE__, name);
    return p;
}

/* Tensors of every type that a model holds; floats with a few digits. */
static void make_source(const char *path) {
    static float w[24 * 96];
    static const aq_dtype dtypes[] = {AQ_F32, AQ_F16, AQ_BF16, AQ_F64, AQ_I32, AQ_U8};
    static char names[COUNT_OF(dtypes) + 1][32];
    static uint8_t data[COUNT_OF(dtypes)][24 * 96 * 8];
    aq_tensor t[COUNT_OF(dtypes) + 1];
    rng r = {2026};
    for (size_t i = 0; i < COUNT_OF(dtypes); i++) {
        const uint64_t shape[2] = {24, i == 0 ? 96 : 40};
        const size_t n = (size_t)(shape[0] * shape[1]);
        for (size_t k = 0; k < n; k++)
            w[k] = (float)((int)rng_below(&r, 2001) - 1000) / 1024.0f;
        for (size_t k = 0; k < n && i == 0; k += 16)
            w[k] /= 16.0f; /* columns that scales help */
        if (aq_dtype_is_float(dtypes[i]))
            ASSERT_OK(aq_from_f32(w, n, data[i], dtypes[i], &err));
        else
            rng_bytes(&r, data[i], n * aq_dtype_bytes(dtypes[i]));
        snprintf(names[i], sizeof names[i], "%s.weight", aq_dtype_name(dtypes[i]));
        t[i] = tensor_of(names[i], dtypes[i], shape, 2, data[i]);
    }
    t[COUNT_OF(dtypes)] = tensor_of("scalar", AQ_F32, NULL, 0, data[0]);
    ASSERT_OK(aq_model_save(path, t, COUNT_OF(dtypes) + 1, &fast, &err));
}

static void make_calibration(const char *path) {
    static float x[2 * 96];
    rng r = {7};
    aq_writer *t = open_calibration(path);
    for (int32_t step = 0; step < 60; step += 10) {
        for (size_t i = 0; i < 2 * 96; i++)
            x[i] = (float)((int)rng_below(&r, 2001) - 1000) / 1024.0f *
                   (float)(1 + step / 10) * (i % 96 % 16 == 0 ? 8 : 1);
        put_activations(t, "float32.weight", step, x, 2 * 96);
    }
    ASSERT_OK(aq_writer_finish(t, &err));
}

static void make_missing(void) {
    char source[600], calibration[600];
    FILE *digests = fopen(golden_path("digests"), "a");
    cr_assert_not_null(digests);
    snprintf(source, sizeof source, "%s", golden_path("source.safetensors"));
    snprintf(calibration, sizeof calibration, "%s", golden_path("calibration.parquet"));
    if (access(calibration, F_OK) != 0) make_calibration(calibration);
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        const char *path = golden_path(files[i].name);
        aq_job_options o = files[i].options;
        if (access(path, F_OK) == 0) continue;
        if (o.time != NULL) o.calibration_path = calibration;
        if (i == 0)
            make_source(path);
        else
            ASSERT_OK(aq_job_run(source, path, &o, NULL, &err));
        fprintf(digests, "%s %016llx\n", files[i].name,
                (unsigned long long)digest_model(path));
    }
    fclose(digests);
}

/* ---- the test ---- */

Test(golden, files_are_read_as_ever) {
    char line[128], name[64];
    unsigned long long want;
    size_t count = 0;
    if (getenv("GOLDEN_MAKE") != NULL) make_missing();
    FILE *digests = fopen(golden_path("digests"), "r");
    cr_assert_not_null(digests, "%s", golden_path("digests"));
    while (fgets(line, sizeof line, digests) != NULL) {
        cr_assert_eq(sscanf(line, "%63s %llx", name, &want), 2, "%s", line);
        cr_expect_eq(digest_model(golden_path(name)), want, "%s", name);
        count++;
    }
    fclose(digests);
    cr_assert_eq(count, COUNT_OF(files), "each has a digest");
}

/* What the files were made for is in them. */
Test(golden, features_are_there) {
    aq_model *m;
    aq_tensor t;
    ASSERT_OK(aq_model_open(golden_path("scaled.parquet"), NULL, &m, &err));
    ASSERT_OK(aq_model_find(m, "float32.weight", &t, &err));
    cr_assert(t.diffusion != NULL && t.diffusion->spatial != NULL &&
              t.diffusion->spatial->num_scales == 96);
    cr_assert_eq(t.diffusion->time_aware->num_groups, 3);
    aq_tensor_release(&t);
    aq_model_close(m);
    ASSERT_OK(aq_model_open(golden_path("codebook4.parquet"), NULL, &m, &err));
    ASSERT_OK(aq_model_find(m, "float32.weight", &t, &err));
    cr_assert(t.layout.codebook && t.layout.params == AQ_PARAMS_U8);
    aq_tensor_release(&t);
    aq_model_close(m);
    ASSERT_OK(aq_model_open(golden_path("chunks.parquet"), NULL, &m, &err));
    ASSERT_OK(aq_model_find(m, "float32.weight", &t, &err));
    cr_assert(!t.mapped, "joined from chunks");
    aq_tensor_release(&t);
    aq_model_close(m);
}
