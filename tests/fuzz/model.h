/* model.h - a whole model file for the fuzz targets model, safetensors, shards and npy:
 * every tensor, its data and some rows of it as numbers. */
#ifndef FUZZ_MODEL_H
#define FUZZ_MODEL_H

#include "../arrow/structure.h"
#include "fuzz.h"

/* What a model may take before it is refused; no request may go far beyond: a page is at
 * most 64 MiB, or 2^17 (brotli: 2^22) times its stored bytes. The list of its tensors is
 * bounded by 64 MiB, or 256 times the file's size; it grows by doubling. */
#define FUZZ_MODEL_BYTES ((size_t)320 << 20)
#define FUZZ_MODEL_LIST(size) (((size_t)128 << 20) + (size)*512)

/* Floats of some rows at the begin, in the middle and at the end. */
FUZZ uint64_t fuzz_tensor_rows(const aq_tensor *t, uint64_t hash) {
    const size_t rows = t->layout.rows, cols = t->layout.cols;
    const size_t first[3] = {0, rows / 2, rows > 0 ? rows - 1 : 0};
    float *out, *x, dot;
    aq_error err;
    aq_status status = AQ_OK;
    size_t i;
    if (rows == 0 || cols == 0 || cols > (size_t)1 << 20) return hash;
    out = (float *)malloc(cols * sizeof *out);
    x = (float *)malloc(cols * sizeof *x);
    FUZZ_CHECK(out != NULL && x != NULL);
    for (i = 0; i < cols; i++)
        x[i] = (float)(i % 7) - 3.0f;
    for (i = 0; i < 3 && status == AQ_OK; i++) {
        status = fuzz_status(aq_tensor_rows_f32(t, first[i], 1, out, NULL, &err), &err);
        FUZZ_CHECK(status == AQ_OK || status == AQ_E_TYPE);
        if (status != AQ_OK) break;
        hash = fuzz_digest(hash, out, cols * sizeof *out);
        FUZZ_CHECK(aq_tensor_dot(t, first[i], x, &dot, &err) == AQ_OK);
    }
    FUZZ_CHECK(aq_tensor_rows_f32(t, rows, 1, out, NULL, &err) != AQ_OK);
    if (status == AQ_OK && rows <= 64) {
        float y[64];
        FUZZ_CHECK(aq_tensor_matvec(t, x, y, NULL, &err) == AQ_OK);
        hash = fuzz_digest(hash, y, rows * sizeof *y);
    }
    free(out);
    free(x);
    return hash;
}

/* Parameters of the first, the middle and the last group; products with 8-bit vectors. */
FUZZ uint64_t fuzz_tensor_quantized(const aq_tensor *t, uint64_t hash) {
    const aq_layout *l = &t->layout;
    const size_t n = l->num_groups, at[3] = {0, n / 2, n - 1};
    const aq_quantized_view view = {t->data, t->scales, t->zero_points, t->params};
    float pair[2], *x, *y;
    aq_activations x8;
    aq_error err;
    aq_status status;
    void *memory;
    size_t i;
    if (l->params == AQ_PARAMS_F32) {
        hash = fuzz_digest(hash, t->scales, n * sizeof(float));
        hash = fuzz_digest(hash, t->zero_points, n * sizeof(float));
    } else {
        FUZZ_CHECK(t->scales == NULL && t->zero_points == NULL);
        hash = fuzz_digest(hash, t->params, l->params_bytes);
    }
    if (n == 0 || l->cols > (size_t)1 << 16 || l->rows > 64) return hash;
    for (i = 0; i < 3; i++) {
        FUZZ_CHECK(aq_params_read(l, &view, at[i], &pair[0], &pair[1], &err) == AQ_OK);
        FUZZ_CHECK(pair[0] - pair[0] == 0 && pair[1] - pair[1] == 0);
    }
    x = (float *)calloc(2 * l->cols, sizeof *x);
    y = (float *)calloc(2 * l->rows, sizeof *y);
    memory = malloc(aq_activations_bytes(l, 2));
    FUZZ_CHECK(x != NULL && y != NULL && memory != NULL);
    for (i = 0; i < 2 * l->cols; i++)
        x[i] = (float)(i % 5) - 2.0f;
    status = fuzz_status(aq_activations_init(l, x, 2, memory, &x8, &err), &err);
    FUZZ_CHECK(status == AQ_OK || status == AQ_E_UNSUPPORTED);
    if (status == AQ_OK) {
        FUZZ_CHECK(aq_tensor_matmul_i8(t, &x8, y, NULL, &err) == AQ_OK);
        hash = fuzz_digest(hash, y, 2 * l->rows * sizeof *y);
    }
    FUZZ_CHECK(aq_tensor_matmul(t, x, 2, y, NULL, &err) == AQ_OK);
    hash = fuzz_digest(hash, y, 2 * l->rows * sizeof *y);
    free(x);
    free(y);
    free(memory);
    return hash;
}

/* Products of 8-bit vectors whose parameters are those of a time group. */
FUZZ uint64_t fuzz_tensor_static(const aq_tensor *t, const aq_affine *params,
                                 uint64_t hash) {
    const aq_layout *l = &t->layout;
    float x[512], y[64];
    aq_activations x8;
    aq_error err;
    aq_status status;
    void *memory;
    size_t i;
    if (l->bits == 0 || l->rows > 64 || l->cols > 512 || l->cols == 0) return hash;
    memory = malloc(aq_activations_bytes(l, 1));
    FUZZ_CHECK(memory != NULL);
    for (i = 0; i < l->cols; i++)
        x[i] = (float)(i % 5) - 2.0f;
    FUZZ_CHECK(aq_tensor_scale_input(t, x, 1, x, &err) == AQ_OK);
    status =
        fuzz_status(aq_activations_init_static(l, x, 1, params, memory, &x8, &err), &err);
    FUZZ_CHECK_ERR(status == AQ_OK || status == AQ_E_UNSUPPORTED || status == AQ_E_ARG,
                   &err);
    if (status == AQ_OK) {
        FUZZ_CHECK(aq_tensor_matmul_i8(t, &x8, y, NULL, &err) == AQ_OK);
        hash = fuzz_digest(hash, y, l->rows * sizeof *y);
    }
    free(memory);
    return hash;
}

/* Time groups, and what spatial quantization asks of a tensor. */
FUZZ uint64_t fuzz_tensor_diffusion(const aq_tensor *t, uint64_t hash) {
    static const int64_t timesteps[] = {-1, 0, 60, 99, INT64_MAX};
    const aq_layout *l = &t->layout;
    aq_affine params;
    aq_error err;
    aq_status status;
    size_t i, group;
    float *sums;
    for (i = 0; i < AQI_COUNT(timesteps); i++) {
        status = aq_tensor_time_group(t, timesteps[i], &group, &params, &err);
        FUZZ_CHECK(status == AQ_OK || status == AQ_E_NOT_FOUND || status == AQ_E_ARG);
        if (status != AQ_OK) continue;
        FUZZ_CHECK(group < t->diffusion->time_aware->num_groups);
        FUZZ_CHECK(params.scale > 0.0f && params.scale - params.scale == 0.0f);
        hash = fuzz_tensor_static(t, &params, fuzz_digest(hash, &params, sizeof params));
    }
    if (t->num_params == 0 || t->num_params > (uint64_t)1 << 20) return hash;
    sums = (float *)malloc((l->rows + l->cols) * sizeof *sums);
    FUZZ_CHECK(sums != NULL);
    status = aq_tensor_row_sums(t, sums, NULL, &err);
    FUZZ_CHECK(status == AQ_OK || status == AQ_E_TYPE);
    if (status == AQ_OK) hash = fuzz_digest(hash, sums, l->rows * sizeof *sums);
    status = aq_tensor_column_absmax(t, sums, &err);
    FUZZ_CHECK(status == AQ_OK || status == AQ_E_TYPE || status == AQ_E_NONFINITE);
    if (status == AQ_OK) hash = fuzz_digest(hash, sums, l->cols * sizeof *sums);
    free(sums);
    return hash;
}

FUZZ uint64_t fuzz_tensor(const aq_model *m, size_t i, uint64_t hash) {
    aq_tensor t, described;
    aq_error err;
    aq_status status;
    FUZZ_CHECK(aq_model_describe(m, i, &described, &err) == AQ_OK);
    hash = fuzz_digest_text(hash, described.name);
    FUZZ_CHECK(described.name[0] != '\0' && described.num_dims <= AQ_MAX_DIMS);
    FUZZ_CHECK(aq_model_index(m, described.name) == i);
    FUZZ_CHECK(aq_dtype_bytes(described.dtype) > 0);
    status = fuzz_status(aq_model_tensor(m, i, &t, &err), &err);
    if (status != AQ_OK) {
        FUZZ_CHECK(t.data == NULL && t.owned == NULL);
        return hash ^ status;
    }
    hash = fuzz_digest(hash, t.data, t.data_bytes);
    FUZZ_CHECK(t.num_params == described.num_params);
    if (t.layout.bits != 0) {
        FUZZ_CHECK(t.data_bytes == t.layout.code_bytes);
        hash = fuzz_tensor_quantized(&t, hash);
    } else {
        FUZZ_CHECK(t.data_bytes == t.num_params * aq_dtype_bytes(t.dtype));
    }
    hash = fuzz_tensor_rows(&t, hash);
    hash = fuzz_tensor_diffusion(&t, hash);
    aq_tensor_release(&t);
    return hash;
}

/* The model as a stream of Arrow tables, up to its end or its error. */
FUZZ void fuzz_model_stream(aq_model *m) {
    struct ArrowArrayStream stream;
    struct ArrowSchema schema;
    struct ArrowArray array;
    const char *wrong;
    aq_error err;
    size_t n = 0;
    if (fuzz_status(aq_model_export_arrow_stream(m, &stream, &err), &err) != AQ_OK)
        return;
    if (stream.get_schema(&stream, &schema) == 0) {
        while (n < 200 && stream.get_next(&stream, &array) == 0 &&
               array.release != NULL) {
            FUZZ_CHECK(array.length == 1);
            wrong = structure_check(&schema, &array, false);
            if (wrong != NULL) fuzz_fail(__FILE__, __LINE__, "the stream is right", wrong);
            array.release(&array);
            n++;
        }
        FUZZ_CHECK(n <= aq_model_count(m));
        if (n < aq_model_count(m) && n < 200)
            FUZZ_CHECK(stream.get_last_error(&stream) != NULL);
        schema.release(&schema);
    }
    stream.release(&stream);
}

/* Digest of all that the model says. */
FUZZ uint64_t fuzz_model_walk(const aq_model *m) {
    aq_key_value pair;
    aq_tensor t;
    aq_error err;
    uint64_t hash = aq_model_count(m) + aq_model_file_bytes(m);
    size_t i;
    if (aq_model_modality(m) != NULL)
        hash = fuzz_digest_text(hash, aq_model_modality(m));
    FUZZ_CHECK(aq_model_get_format(m) != AQ_MODEL_AUTO &&
               aq_model_get_format(m) != AQ_MODEL_DIRECTORY &&
               aq_model_get_format(m) <= AQ_MODEL_NPY);
    for (i = 0; aq_model_metadata(m, i, &pair); i++) {
        hash = fuzz_digest_text(hash, pair.key);
        if (pair.value != NULL)
            hash = fuzz_digest(hash, pair.value, pair.value_bytes + 1);
    }
    for (i = 0; i < aq_model_count(m) && i < 200; i++)
        hash = fuzz_tensor(m, i, hash);
    FUZZ_CHECK(aq_model_describe(m, aq_model_count(m), &t, &err) == AQ_E_ARG);
    FUZZ_CHECK(aq_model_find(m, "no such tensor", &t, &err) != AQ_OK ||
               aq_model_index(m, "no such tensor") != SIZE_MAX);
    aq_tensor_release(&t);
    return hash;
}

FUZZ aq_status fuzz_model_open(const char *path, aq_io io, size_t size, uint64_t *hash) {
    fuzz_memory memory;
    aq_model_options o;
    aq_model *m;
    aq_error err;
    aq_status status;
    *hash = 0;
    fuzz_memory_init(&memory, FUZZ_MODEL_BYTES,
                     FUZZ_MODEL_BYTES + ((size_t)256 << 20) + (size << 22));
    memory.grown = FUZZ_MODEL_LIST(size);
    memset(&o, 0, sizeof o);
    o.allocator = &memory.hooks;
    o.io = io;
    status = fuzz_status(aq_model_open(path, &o, &m, &err), &err);
    FUZZ_CHECK((status == AQ_OK) == (m != NULL));
    if (status == AQ_OK) *hash = fuzz_model_walk(m);
    if (status == AQ_OK) fuzz_model_stream(m);
    aq_model_close(m);
    fuzz_memory_check(&memory);
    return status;
}

/* Mapped, then read: a mapping ends with a page of zeros, which hides a byte too far. */
FUZZ void fuzz_model_bytes(const uint8_t *data, size_t size) {
    const char *path = fuzz_file_write(data, size);
    uint64_t mapped, read;
    aq_status status;
    fuzz_result = AQ_OK;
    status = fuzz_model_open(path, AQ_IO_MAP, size, &mapped);
    if (size == 0) return; /* nothing can be mapped: another error */
    if (fuzz_model_open(path, AQ_IO_READ, size, &read) == AQ_OK && status == AQ_OK)
        FUZZ_CHECK(mapped == read || fuzz_result != AQ_OK);
}

#endif
