/* arrow_read.h - reads the tables that the library gives out, and compares their rows
 * with what the other functions make of the same layers. Beside arrow_build.h. */
#ifndef TEST_ARROW_READ_H
#define TEST_ARROW_READ_H

#include "arrow_build.h"
#include "files.h"
#include "quantized.h"

#include <math.h>

/* ---- reading what comes out ---- */

/* A table that the library made. */
typedef struct table {
    struct ArrowSchema schema;
    struct ArrowArray array;
} table;

SUPPORT void table_release(table *t) {
    t->schema.release(&t->schema);
    t->array.release(&t->array);
    cr_assert_null(t->schema.release);
    cr_assert_null(t->array.release);
}

SUPPORT const struct ArrowArray *column(const table *t, const char *name) {
    const struct ArrowArray *a = arrow_column(&t->schema, &t->array, name);
    cr_assert_not_null(a, "no column %s", name);
    return a;
}

SUPPORT const char *format_of(const table *t, const char *name) {
    size_t i = arrow_column_index(&t->schema, name);
    cr_assert_neq(i, SIZE_MAX, "no column %s", name);
    return t->schema.children[i]->format;
}

SUPPORT bool is_null(const struct ArrowArray *a, size_t row) {
    const uint8_t *bits = (const uint8_t *)a->buffers[0];
    return bits != NULL && (bits[row / 8] >> row % 8 & 1) == 0;
}

SUPPORT int64_t offset_at(const table *t, const char *name, size_t i) {
    const char *format = format_of(t, name);
    const void *offsets = column(t, name)->buffers[1];
    int32_t narrow;
    int64_t wide;
    if (format[strlen(format) - 1] == 'L' || format[0] == 'Z') {
        memcpy(&wide, (const uint8_t *)offsets + i * 8, 8);
        return wide;
    }
    memcpy(&narrow, (const uint8_t *)offsets + i * 4, 4);
    return narrow;
}

/* Bytes of a cell of a binary or text column; size SIZE_MAX = null. */
SUPPORT aq_bytes bytes_at(const table *t, const char *name, size_t row) {
    const struct ArrowArray *a = column(t, name);
    int64_t first = offset_at(t, name, row), end = offset_at(t, name, row + 1);
    aq_bytes b = {(const uint8_t *)a->buffers[2] + first, (size_t)(end - first)};
    if (is_null(a, row)) b.size = SIZE_MAX;
    return b;
}

/* Values of a list; *n is how many. */
SUPPORT const void *list_at(const table *t, const char *name, size_t row, size_t width,
                            size_t *n) {
    const struct ArrowArray *a = column(t, name);
    int64_t first = offset_at(t, name, row);
    *n = (size_t)(offset_at(t, name, row + 1) - first);
    return (const uint8_t *)a->children[0]->buffers[1] + (size_t)first * width;
}

SUPPORT double f64_at(const table *t, const char *name, size_t row) {
    double d;
    memcpy(&d, (const uint8_t *)column(t, name)->buffers[1] + row * 8, 8);
    return is_null(column(t, name), row) ? (double)NAN : d;
}

SUPPORT uint64_t u64_at(const table *t, const char *name, size_t row) {
    uint64_t v;
    memcpy(&v, (const uint8_t *)column(t, name)->buffers[1] + row * 8, 8);
    return is_null(column(t, name), row) ? UINT64_MAX : v;
}

SUPPORT bool text_is(aq_bytes b, const char *text) {
    if (text == NULL) return b.size == SIZE_MAX;
    return b.size == strlen(text) && memcmp(b.data, text, b.size) == 0;
}

SUPPORT bool same_double(double a, double b) {
    return (a != a && b != b) || memcmp(&a, &b, sizeof a) == 0;
}

SUPPORT bool little_endian(void) {
    const uint16_t one = 1;
    return *(const uint8_t *)&one == 1;
}

/* ---- layers ---- */

#define MOST_VALUES 4096
#define LAYERS 6

SUPPORT float pool[LAYERS][MOST_VALUES];
SUPPORT const int64_t shapes[LAYERS][3] = {{4, 100},    {240}, {3, 0, 5},
                                           {2, 10, 12}, {},    {1, 240}};
SUPPORT const size_t dims[LAYERS] = {2, 1, 3, 3, 0, 2};
SUPPORT const char *const names[LAYERS] = {
    "encoder.0.weight", "b",      "an empty layer",
    "conv\xc3\xa9",     "scalar", "a name that is longer than a view holds"};
SUPPORT arrow_layer layers[LAYERS];

SUPPORT size_t product(const int64_t *shape, size_t n) {
    size_t values = 1;
    for (size_t i = 0; i < n; i++)
        values *= (size_t)shape[i];
    return values;
}

/* Values that float16 holds too, so that the types of one table give the same codes. */
SUPPORT void make_layers(void) {
    rng r = {4};
    for (size_t i = 0; i < LAYERS; i++) {
        uint16_t half[MOST_VALUES];
        memset(&layers[i], 0, sizeof layers[i]);
        rng_floats(&r, pool[i], MOST_VALUES, 1.0f);
        cr_assert_eq(aq_from_f32(pool[i], MOST_VALUES, half, AQ_F16, NULL), AQ_OK);
        cr_assert_eq(aq_to_f32(half, AQ_F16, MOST_VALUES, pool[i], NULL), AQ_OK);
        layers[i].name = names[i];
        layers[i].values = pool[i];
        layers[i].shape = shapes[i];
        layers[i].dims = dims[i];
        layers[i].count = product(shapes[i], dims[i]);
    }
}

/* All with 240 values, as fixed-size lists need. */
SUPPORT void make_equal_layers(void) {
    static const int64_t forms[LAYERS][3] = {{24, 10},    {240},    {3, 80},
                                             {2, 10, 12}, {240, 1}, {1, 240}};
    static const size_t forms_dims[LAYERS] = {2, 1, 2, 3, 2, 2};
    make_layers();
    for (size_t i = 0; i < LAYERS; i++) {
        layers[i].count = 240;
        layers[i].shape = forms[i];
        layers[i].dims = forms_dims[i];
    }
}

SUPPORT size_t rows_of(const arrow_layer *l, bool has_shape) {
    return has_shape && l->dims > 1 ? (size_t)l->shape[0] : 1;
}

/* What aq_quantize_into, which takes little-endian values, makes of a layer. */
SUPPORT quantized quantize_layer(const arrow_layer *l, const aq_quant_options *quant,
                                 bool has_shape, aq_metrics *out_metrics) {
    size_t rows = rows_of(l, has_shape), cols = l->count;
    float *values = (float *)offset_alloc(0, l->count * sizeof *values);
    quantized q;
    if (has_shape && l->dims > 1) cols = product(l->shape + 1, l->dims - 1);
    q = quantized_make(rows, cols, quant);
    cr_assert_eq(aq_from_f32(l->values, l->count, values, AQ_F32, NULL), AQ_OK);
    cr_assert_eq(
        aq_quantize_into(&q.layout, values, AQ_F32, &q.dst, NULL, out_metrics, NULL),
        AQ_OK);
    offset_free(values, 0);
    return q;
}

/* A row is what aq_quantize_into makes of the layer. */
SUPPORT void expect_row(const table *t, size_t row, const arrow_layer *l,
                        const aq_quant_options *quant, bool has_shape, const char *what) {
    aq_metrics metrics;
    quantized q = quantize_layer(l, quant, has_shape, &metrics);
    aq_bytes b;
    const void *list;
    size_t n;
    CHECK(text_is(bytes_at(t, "layer_name", row), l->name), "%s: name of row %zu", what,
          row);
    b = bytes_at(t, "quantized_data", row);
    CHECK(b.size == q.layout.code_bytes && memcmp(b.data, q.dst.codes, b.size) == 0,
          "%s: codes of row %zu", what, row);
    n = q.layout.params == AQ_PARAMS_F32 ? q.layout.num_groups : 0;
    for (int k = 0; k < 2; k++) {
        size_t have;
        list = list_at(t, k == 0 ? "scales" : "zero_points", row, sizeof(float), &have);
        CHECK(have == n && memcmp(list, k == 0 ? q.dst.scales : q.dst.zero_points,
                                  n * sizeof(float)) == 0,
              "%s: parameters of row %zu", what, row);
    }
    list = list_at(t, "shape", row, 8, &n);
    if (has_shape) {
        CHECK(n == l->dims && memcmp(list, l->shape, n * 8) == 0, "%s: shape", what);
    } else {
        int64_t length = (int64_t)l->count;
        CHECK(n == 1 && memcmp(list, &length, 8) == 0, "%s: shape of row %zu", what, row);
    }
    CHECK(((const uint8_t *)column(t, "bit_width")->buffers[1])[row] == q.layout.bits,
          "%s: bit_width", what);
    CHECK(u64_at(t, "group_size", row) ==
              (q.layout.granularity == AQ_PER_GROUP ? q.layout.group_cols : UINT64_MAX),
          "%s: group_size", what);
    CHECK(u64_at(t, "quant_axis", row) ==
              (q.layout.granularity == AQ_PER_CHANNEL ? 0 : UINT64_MAX),
          "%s: quant_axis", what);
    CHECK(text_is(bytes_at(t, "packing", row), "lsb"), "%s: packing", what);
    CHECK(same_double(f64_at(t, "cosine", row), metrics.cosine) &&
              same_double(f64_at(t, "sqnr_db", row), metrics.sqnr_db) &&
              same_double(f64_at(t, "max_abs_error", row), metrics.max_abs_error),
          "%s: metrics of row %zu", what, row);
    if (q.layout.params != AQ_PARAMS_F32) {
        b = bytes_at(t, "group_params", row);
        CHECK(b.size == q.layout.params_bytes &&
                  memcmp(b.data, q.dst.params, b.size) == 0,
              "%s: group_params of row %zu", what, row);
        CHECK(text_is(bytes_at(t, "params_type", row),
                      q.layout.params == AQ_PARAMS_F16 ? "float16" : "uint8"),
              "%s: params_type", what);
    }
    quantized_free(&q);
}

#endif
