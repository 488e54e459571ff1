/* aq_dequantize_rows, aq_dot_row and aq_matvec on codes that are any bits at all: they
 * need not come from aq_quantize_into. */
#include "quantized.h"

#include <math.h>

/* ---- tensors ---- */

/* Shapes, and layouts that aq_layout_init makes and such that other writers made: a byte
 * for each code, several rows for a scale. `group_rows` 0 = by aq_layout_init. */
static const struct {
    size_t rows, cols;
    aq_quant_options options;
    uint32_t code_bits;
    size_t group_rows;
} tensors[] = {
    {1,
     1,
     {2, 8, AQ_PER_GROUP, false, AQ_MINMAX, AQ_PARAMS_F32, false, 0, NULL, NULL},
     0,
     0},
    {7,
     103,
     {2, 9, AQ_PER_GROUP, false, AQ_MINMAX, AQ_PARAMS_F32, false, 0, NULL, NULL},
     0,
     0},
    {5,
     64,
     {4, 32, AQ_PER_GROUP, true, AQ_MINMAX, AQ_PARAMS_F32, false, 0, NULL, NULL},
     0,
     0},
    {6,
     1023,
     {4, 100, AQ_PER_GROUP, false, AQ_MINMAX, AQ_PARAMS_F32, false, 0, NULL, NULL},
     0,
     0},
    {3,
     2049,
     {8, 1000, AQ_PER_GROUP, false, AQ_MINMAX, AQ_PARAMS_F32, false, 0, NULL, NULL},
     0,
     0},
    {4,
     1025,
     {2, 0, AQ_PER_CHANNEL, false, AQ_MINMAX, AQ_PARAMS_F32, false, 0, NULL, NULL},
     0,
     0},
    {9,
     33,
     {8, 0, AQ_PER_TENSOR, true, AQ_MINMAX, AQ_PARAMS_F32, false, 0, NULL, NULL},
     0,
     0},
    {300,
     257,
     {4, 13, AQ_PER_GROUP, false, AQ_MINMAX, AQ_PARAMS_F32, false, 0, NULL, NULL},
     0,
     0},
    {2,
     70000,
     {4, 9, AQ_PER_GROUP, false, AQ_MINMAX, AQ_PARAMS_F32, false, 0, NULL, NULL},
     0,
     0},
    {2,
     70000,
     {2, 0, AQ_PER_TENSOR, false, AQ_MINMAX, AQ_PARAMS_F32, false, 0, NULL, NULL},
     0,
     0},
    {10,
     35,
     {4, 0, AQ_PER_CHANNEL, false, AQ_MINMAX, AQ_PARAMS_F32, false, 0, NULL, NULL},
     8,
     4},
    {10,
     35,
     {2, 0, AQ_PER_CHANNEL, false, AQ_MINMAX, AQ_PARAMS_F32, false, 0, NULL, NULL},
     4,
     3},
    {70,
     1100,
     {4, 16, AQ_PER_GROUP, false, AQ_MINMAX, AQ_PARAMS_F32, false, 0, NULL, NULL},
     8,
     64},
    {2,
     70000,
     {2, 0, AQ_PER_CHANNEL, false, AQ_MINMAX, AQ_PARAMS_F32, false, 0, NULL, NULL},
     8,
     2},
};

/* Number i of the tensors, of random bytes and parameters. */
static quantized tensor_make(size_t i, rng *r) {
    aq_layout l;
    quantized q;
    cr_assert_eq(
        aq_layout_init(tensors[i].rows, tensors[i].cols, &tensors[i].options, &l, NULL),
        AQ_OK);
    if (tensors[i].group_rows != 0) {
        l.code_bits = tensors[i].code_bits;
        l.row_bytes = (l.cols * l.code_bits + 7) / 8;
        l.code_bytes = l.rows * l.row_bytes;
        l.group_rows = tensors[i].group_rows;
        l.num_groups = (l.rows + l.group_rows - 1) / l.group_rows * l.groups_per_row;
    }
    q = quantized_of(&l);
    rng_bytes(r, q.dst.codes, l.code_bytes);
    rng_floats(r, q.dst.scales, l.num_groups, 0.1f);
    rng_floats(r, q.dst.zero_points, l.num_groups, 20.0f);
    return q;
}

static aq_threads *make_threads(uint32_t count) {
    aq_threads *threads;
    cr_assert_eq(aq_threads_create(count, NULL, &threads, NULL), AQ_OK);
    return threads;
}

static float *make_floats(size_t count) {
    float *values = (float *)offset_alloc(0, count * sizeof(float));
    memset(values, 0xEE, count * sizeof(float));
    return values;
}

static void dequantize(const quantized *q, size_t first, size_t count, float *dst,
                       const aq_tasks *tasks) {
    CHECK(aq_dequantize_rows(&q->layout, &q->view, first, count, dst, tasks, NULL) ==
              AQ_OK,
          "%s: rows %zu + %zu", quantized_text(q), first, count);
}

/* ---- dequantize ---- */

Test(dequantize, values) {
    rng r = {211};
    for (size_t i = 0; i < COUNT_OF(tensors); i++) {
        quantized q = tensor_make(i, &r);
        size_t rows = q.layout.rows, cols = q.layout.cols;
        float *have = make_floats(rows * cols);
        dequantize(&q, 0, rows, have, NULL);
        for (size_t k = 0; k < rows * cols; k++) {
            float want = quantized_value(&q, k / cols, k % cols);
            CHECK(have[k] == want, "%s: (%zu, %zu) is %g, not %g", quantized_text(&q),
                  k / cols, k % cols, have[k], want);
        }
        offset_free(have, 0);
        quantized_free(&q);
    }
}

/* Any part is the same part of the whole; the first rows and the last of long tensors. */
Test(dequantize, any_rows) {
    rng r = {223};
    for (size_t i = 0; i < COUNT_OF(tensors); i++) {
        quantized q = tensor_make(i, &r);
        size_t rows = q.layout.rows, cols = q.layout.cols;
        float *whole = make_floats(rows * cols);
        dequantize(&q, 0, rows, whole, NULL);
        for (size_t first = 0; first <= rows; first += first < 10 ? 1 : 97) {
            for (size_t count = 0; count <= rows - first; count += count < 10 ? 1 : 97) {
                float *part = make_floats(count * cols);
                dequantize(&q, first, count, part, NULL);
                CHECK(memcmp(part, whole + first * cols, count * cols * sizeof(float)) ==
                          0,
                      "%s: rows %zu + %zu", quantized_text(&q), first, count);
                offset_free(part, 0);
            }
        }
        offset_free(whole, 0);
        quantized_free(&q);
    }
}

/* ---- dot, matvec ---- */

/* 32 lanes, c mod 32, each in order; then the halves are added: 16 + 16, 8 + 8, ... */
static float dot_oracle(const float *w, const float *x, size_t count) {
    float lanes[32] = {0};
    for (size_t c = 0; c < count; c++) {
        volatile float product = w[c] * x[c]; /* rounded by itself */
        lanes[c % 32] += product;
    }
    for (size_t width = 16; width > 0; width /= 2)
        for (size_t i = 0; i < width; i++)
            lanes[i] += lanes[i + width];
    return lanes[0];
}

Test(dot, order_of_the_sum) {
    rng r = {227};
    for (size_t i = 0; i < COUNT_OF(tensors); i++) {
        quantized q = tensor_make(i, &r);
        size_t rows = q.layout.rows, cols = q.layout.cols;
        float *w = make_floats(rows * cols), *x = make_floats(cols);
        rng_floats(&r, x, cols, 3.0f);
        dequantize(&q, 0, rows, w, NULL);
        for (size_t row = 0; row < rows; row++) {
            float have, want = dot_oracle(w + row * cols, x, cols);
            CHECK(aq_dot_row(&q.layout, &q.view, row, x, &have, NULL) == AQ_OK, "row %zu",
                  row);
            CHECK(memcmp(&have, &want, sizeof have) == 0, "%s: row %zu: %.9g, not %.9g",
                  quantized_text(&q), row, have, want);
        }
        offset_free(w, 0);
        offset_free(x, 0);
        quantized_free(&q);
    }
}

/* Every length around the lanes and the pieces. */
Test(dot, every_length) {
    static const aq_quant_options options = {
        4, 8, AQ_PER_GROUP, false, AQ_MINMAX, AQ_PARAMS_F32, false, 0, NULL, NULL};
    rng r = {229};
    for (size_t cols = 1; cols <= 2100; cols += cols < 140 ? 1 : 53) {
        quantized q = quantized_make(1, cols, &options);
        float *w = make_floats(cols), *x = make_floats(cols), have, want;
        rng_floats(&r, w, cols, 1.0f);
        rng_floats(&r, x, cols, 1.0f);
        cr_assert_eq(aq_quantize_into(&q.layout, w, AQ_F32, &q.dst, NULL, NULL, NULL),
                     AQ_OK);
        dequantize(&q, 0, 1, w, NULL);
        want = dot_oracle(w, x, cols);
        cr_assert_eq(aq_dot_row(&q.layout, &q.view, 0, x, &have, NULL), AQ_OK);
        CHECK(memcmp(&have, &want, sizeof have) == 0, "%zu columns", cols);
        offset_free(w, 0);
        offset_free(x, 0);
        quantized_free(&q);
    }
}

static void matvec(const quantized *q, const float *x, float *y, const aq_tasks *tasks) {
    cr_assert_eq(aq_matvec(&q->layout, &q->view, x, y, tasks, NULL), AQ_OK);
}

Test(matvec, is_the_dot_of_each_row) {
    rng r = {233};
    for (size_t i = 0; i < COUNT_OF(tensors); i++) {
        quantized q = tensor_make(i, &r);
        float *x = make_floats(q.layout.cols), *y = make_floats(q.layout.rows);
        rng_floats(&r, x, q.layout.cols, 3.0f);
        matvec(&q, x, y, NULL);
        for (size_t row = 0; row < q.layout.rows; row++) {
            float dot;
            cr_assert_eq(aq_dot_row(&q.layout, &q.view, row, x, &dot, NULL), AQ_OK);
            CHECK(memcmp(&dot, &y[row], sizeof dot) == 0, "%s: row %zu",
                  quantized_text(&q), row);
        }
        offset_free(x, 0);
        offset_free(y, 0);
        quantized_free(&q);
    }
}

/* ---- threads, instruction sets ---- */

/* Both functions by other ways give the same bytes as on this thread. */
static void check_same(const quantized *q, const float *x, const float *want_w,
                       const float *want_y, const aq_tasks *tasks, const char *way) {
    size_t count = q->layout.rows * q->layout.cols;
    float *w = make_floats(count), *y = make_floats(q->layout.rows);
    dequantize(q, 0, q->layout.rows, w, tasks);
    matvec(q, x, y, tasks);
    CHECK(memcmp(w, want_w, count * sizeof(float)) == 0, "%s: values, %s",
          quantized_text(q), way);
    CHECK(memcmp(y, want_y, q->layout.rows * sizeof(float)) == 0, "%s: products, %s",
          quantized_text(q), way);
    offset_free(w, 0);
    offset_free(y, 0);
}

Test(tasks, threads_and_instruction_sets_change_nothing) {
    rng r = {239};
    for (size_t i = 0; i < COUNT_OF(tensors); i++) {
        quantized q = tensor_make(i, &r);
        float *x = make_floats(q.layout.cols), *y = make_floats(q.layout.rows);
        float *w = make_floats(q.layout.rows * q.layout.cols);
        rng_floats(&r, x, q.layout.cols, 1.0f);
        dequantize(&q, 0, q.layout.rows, w, NULL);
        matvec(&q, x, y, NULL);
        check_same(&q, x, w, y, &reverse_tasks, "last index first");
        for (uint32_t count = 1; count <= 16; count += 3) {
            aq_threads *threads = make_threads(count);
            check_same(&q, x, w, y, aq_threads_tasks(threads), "threads");
            aq_threads_destroy(threads);
        }
        for (int isa = AQ_ISA_REF; isa <= AQ_ISA_NEON; isa++) {
            if (aq_isa_force((aq_isa)isa) == AQ_OK)
                check_same(&q, x, w, y, NULL, aq_isa_name((aq_isa)isa));
        }
        cr_assert_eq(aq_isa_force(AQ_ISA_AUTO), AQ_OK);
        offset_free(w, 0);
        offset_free(x, 0);
        offset_free(y, 0);
        quantized_free(&q);
    }
}

/* ---- limits ---- */

Test(arguments, rows_outside_the_tensor) {
    static const size_t ranges[][2] = {
        {0, 8},        {8, 0},        {7, 1},        {1, 7},
        {SIZE_MAX, 1}, {1, SIZE_MAX}, {SIZE_MAX, 2}, {SIZE_MAX, SIZE_MAX}};
    rng r = {241};
    quantized q = tensor_make(1, &r); /* 7 rows */
    float *dst = make_floats(7 * 103), x[103] = {0}, dot;
    for (size_t i = 0; i < COUNT_OF(ranges); i++) {
        aq_error err;
        cr_expect_eq(aq_dequantize_rows(&q.layout, &q.view, ranges[i][0], ranges[i][1],
                                        dst, NULL, &err),
                     AQ_E_ARG, "range %zu", i);
        cr_expect_eq(err.status, AQ_E_ARG);
    }
    dot = 5.0f;
    cr_expect_eq(aq_dot_row(&q.layout, &q.view, 7, x, &dot, NULL), AQ_E_ARG);
    cr_expect_eq(dot, 0.0f);
    cr_expect_eq(aq_dot_row(&q.layout, &q.view, SIZE_MAX, x, &dot, NULL), AQ_E_ARG);
    offset_free(dst, 0);
    quantized_free(&q);
}

Test(arguments, missing_pointers) {
    rng r = {251};
    quantized q = tensor_make(1, &r);
    float *dst = make_floats(7 * 103), x[103] = {0}, y[7];
    for (int missing = 0; missing < 6; missing++) {
        const aq_layout *layout = missing == 0 ? NULL : &q.layout;
        aq_quantized_view view = q.view;
        const aq_quantized_view *src = missing == 1 ? NULL : &view;
        const float *in = missing == 5 ? NULL : x;
        if (missing == 2) view.codes = NULL;
        if (missing == 3) view.scales = NULL;
        if (missing == 4) view.zero_points = NULL;
        cr_expect_eq(
            aq_dequantize_rows(layout, src, 0, 7, missing == 5 ? NULL : dst, NULL, NULL),
            AQ_E_ARG, "pointer %d", missing);
        cr_expect_eq(aq_dot_row(layout, src, 0, in, y, NULL), AQ_E_ARG, "pointer %d",
                     missing);
        cr_expect_eq(aq_matvec(layout, src, in, y, NULL, NULL), AQ_E_ARG, "pointer %d",
                     missing);
    }
    cr_expect_eq(aq_matvec(&q.layout, &q.view, x, NULL, NULL, NULL), AQ_E_ARG);
    offset_free(dst, 0);
    quantized_free(&q);
}

/* No rows: nothing is touched. No columns: products are 0. */
Test(arguments, empty_tensors) {
    float y[3] = {7, 7, 7}, dot = 7;
    aq_layout no_rows, no_cols;
    cr_assert_eq(aq_layout_init(0, 5, NULL, &no_rows, NULL), AQ_OK);
    cr_assert_eq(aq_layout_init(3, 0, NULL, &no_cols, NULL), AQ_OK);
    cr_expect_eq(aq_dequantize_rows(&no_rows, NULL, 0, 0, NULL, NULL, NULL), AQ_OK);
    cr_expect_eq(aq_dequantize_rows(&no_cols, NULL, 0, 3, NULL, NULL, NULL), AQ_OK);
    cr_expect_eq(aq_matvec(&no_rows, NULL, NULL, NULL, NULL, NULL), AQ_OK);
    cr_expect_eq(aq_dot_row(&no_rows, NULL, 0, NULL, &dot, NULL), AQ_E_ARG);
    dot = 7;
    cr_expect_eq(aq_dot_row(&no_cols, NULL, 2, NULL, &dot, NULL), AQ_OK);
    cr_expect_eq(dot, 0.0f);
    cr_expect_eq(aq_matvec(&no_cols, NULL, NULL, y, NULL, NULL), AQ_OK);
    cr_expect(y[0] == 0 && y[1] == 0 && y[2] == 0);
}
