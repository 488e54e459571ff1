/* Rows of codes: dequantized and multiplied without a buffer between; aq_matmul and
 * aq_matmul_i8 against sums that are made here, in double, from the codes in memory. */
#define NATIVE_SOURCES
#define AQ_STATIC
#define ARROWQUANT_IMPLEMENTATION
#include "../arrowquant.h"

#include "quantized.h"

#include <math.h>

TestSuite(rows, .timeout = 300);
TestSuite(matmul, .timeout = 300);

static aq_error err;

/* ---- kernels against the reference, to the bit ---- */

typedef struct row_case {
    aqi_row row;
    size_t groups;
    uint8_t *codes;
    float *scales, *zero_points, *x;
} row_case;

static row_case row_make(rng *r, size_t offset, size_t n, uint32_t bits, size_t group,
                         size_t skip) {
    row_case c;
    size_t bytes = (n * bits + 7) / 8;
    c.groups = (skip + n + group - 1) / group;
    c.codes = offset_alloc(offset, bytes);
    c.scales = offset_alloc(offset / 4 * 4, c.groups * sizeof(float));
    c.zero_points = offset_alloc(0, c.groups * sizeof(float));
    c.x = offset_alloc(offset / 4 * 4, n * sizeof(float));
    rng_bytes(r, c.codes, bytes);
    rng_floats(r, c.scales, c.groups, 0.1f);
    rng_floats(r, c.zero_points, c.groups, 20.0f);
    rng_floats(r, c.x, n, 3.0f);
    c.row = (aqi_row){c.codes, c.scales, c.zero_points, NULL, n, group, skip, bits};
    return c;
}

static void row_free(row_case *c, size_t offset) {
    offset_free(c->codes, offset);
    offset_free(c->scales, offset / 4 * 4);
    offset_free(c->zero_points, 0);
    offset_free(c->x, offset / 4 * 4);
}

static void check_row(const struct aqi_kernels *k, const row_case *c) {
    size_t n = c->row.n;
    float *want = offset_alloc(0, n * sizeof *want),
          *have = offset_alloc(4, n * sizeof *have);
    float a[AQI_DOT_LANES] = {0.25f}, b[AQI_DOT_LANES] = {0.25f};
    aqi_expand_ref(&c->row, want);
    k->expand(&c->row, have);
    cr_expect(memcmp(want, have, n * sizeof *want) == 0,
              "%s: expand %zu values of %u bits, group %zu, skip %zu",
              aq_isa_name(k->isa), n, c->row.bits, c->row.group, c->row.skip);
    aqi_dot_row_ref(&c->row, c->x, a);
    k->dot_row(&c->row, c->x, b);
    cr_expect(memcmp(a, b, sizeof a) == 0,
              "%s: dot_row of %zu values of %u bits, group %zu, skip %zu",
              aq_isa_name(k->isa), n, c->row.bits, c->row.group, c->row.skip);
    offset_free(want, 0);
    offset_free(have, 4);
}

Test(rows, the_same_bits_everywhere) {
    static const size_t groups[] = {8, 9, 16, 32, 33, 48, 64, 96, 128, 1000, 100000};
    static const uint8_t levels[256] = {200, 7, 133, 128, 0,  255, 90,
                                        91,  4, 180, 13,  66, 1};
    rng r = {11};
    for (int isa = AQ_ISA_AVX2; isa <= AQ_ISA_NEON; isa++) {
        const struct aqi_kernels *k = aqi_kernels_of((aq_isa)isa);
        for (size_t n = 0; n <= 300 && k != NULL; n++) {
            for (uint32_t bits = 1; bits <= 8; bits++) {
                size_t group = groups[(n + bits) % COUNT_OF(groups)];
                size_t skip = n % 3 == 0 ? group / 2 / 8 * 8 : 0;
                row_case c = row_make(&r, (n * 7 + bits) % 64, n, bits, group, skip);
                if (n % 2 != 0) c.row.levels = levels;
                check_row(k, &c);
                row_free(&c, (n * 7 + bits) % 64);
            }
        }
        for (size_t n = 1000; n <= 5000 && k != NULL; n += 331) {
            for (size_t i = 0; i < 3 * COUNT_OF(groups); i++) {
                row_case c =
                    row_make(&r, i, n, (uint32_t[]){2, 4, 8}[i % 3], groups[i / 3], 0);
                check_row(k, &c);
                c.row.levels = levels;
                check_row(k, &c);
                row_free(&c, i);
            }
        }
    }
}

static void check_x8(const struct aqi_kernels *k, rng *r, const row_case *c,
                     size_t segment, bool levels) {
    uint8_t table[256];
    size_t n = c->row.n, segments = (n + segment - 1) / segment;
    size_t room = aqi_x8_room(c->row.bits, n);
    int8_t *codes = offset_alloc(0, room);
    float *scales = offset_alloc(4, segments * sizeof(float));
    float *sums = offset_alloc(0, segments * sizeof(float));
    float a[2 * AQI_X8_LANES] = {1.5f}, b[2 * AQI_X8_LANES] = {1.5f};
    aqi_row row = c->row;
    aqi_x8 x = {codes, scales, sums, segment};
    rng_bytes(r, table, sizeof table);
    memset(codes, 0, room);
    for (size_t i = 0; i < n; i++) {
        int8_t code = (int8_t)rng_next(r);
        codes[aqi_x8_place(row.bits, i)] = code == -128 ? 127 : code;
    }
    rng_floats(r, scales, segments, 0.5f);
    rng_floats(r, sums, segments, 9.0f);
    if (levels) row.levels = table;
    aqi_dot_x8_ref(&row, &x, a);
    k->dot_x8(&row, &x, b);
    cr_expect(memcmp(a, b, sizeof a) == 0,
              "%s: dot_x8 of %zu values of %u bits, group %zu, segment %zu, levels %d",
              aq_isa_name(k->isa), n, row.bits, row.group, segment, levels);
    offset_free(codes, 0);
    offset_free(scales, 4);
    offset_free(sums, 0);
}

Test(rows, integer_products_are_the_same_bits_everywhere) {
    static const size_t groups[][2] = {{8, 8},     {9, 9},     {16, 16},   {32, 32},
                                       {33, 33},   {64, 64},   {96, 96},   {128, 128},
                                       {256, 256}, {512, 128}, {1000, 8},  {6000, 128},
                                       {70000, 70000}};
    rng r = {12};
    for (int isa = AQ_ISA_AVX2; isa <= AQ_ISA_NEON; isa++) {
        const struct aqi_kernels *k = aqi_kernels_of((aq_isa)isa);
        for (size_t n = 1; n <= 6000 && k != NULL; n += n < 300 ? 1 : 487) {
            for (size_t i = 0; i < 8 * COUNT_OF(groups); i++) {
                size_t g = i / 8;
                row_case c;
                if (n < 300 && (n + g) % 4 != 0) continue;
                c = row_make(&r, n % 64, n, (uint32_t)(i % 8 + 1), groups[g][0], 0);
                check_x8(k, &r, &c, groups[g][1], n % 5 == 0);
                row_free(&c, n % 64);
            }
        }
    }
}

/* The largest sums that a segment can have. */
Test(rows, integer_products_do_not_overflow) {
    enum { N = 65536 };
    uint8_t *codes = malloc(N);
    int8_t *x8 = malloc(N);
    float scale = 1, zero_point = 0, sum = 0;
    memset(codes, 255, N);
    for (int sign = -1; sign <= 1; sign += 2) {
        memset(x8, 127 * sign, N);
        for (int isa = AQ_ISA_REF; isa <= AQ_ISA_NEON; isa++) {
            const struct aqi_kernels *k = aqi_kernels_of((aq_isa)isa);
            for (uint32_t bits = 2; bits <= 8 && k != NULL; bits *= 2) {
                float lanes[2 * AQI_X8_LANES] = {0};
                size_t n = N * 8 / bits < N ? N * 8 / bits : N;
                aqi_row row = {codes, &scale, &zero_point, NULL, n, n, 0, bits};
                aqi_x8 x = {x8, &scale, &sum, n};
                float want = (float)(((1 << bits) - 1) * 127 * (int)(n / 16) * sign);
                k->dot_x8(&row, &x, lanes);
                for (size_t i = 0; i < AQI_X8_LANES; i++)
                    cr_expect_eq(lanes[i], want, "%s, %u bits: %g", aq_isa_name(k->isa),
                                 bits, (double)lanes[i]);
            }
        }
    }
    free(codes);
    free(x8);
}

/* ---- products ---- */

static quantized random_tensor(rng *r, size_t rows, size_t cols,
                               const aq_quant_options *o) {
    float *v = offset_alloc(0, rows * cols * sizeof *v);
    quantized q = quantized_make(rows, cols, o);
    rng_floats(r, v, rows * cols, 0.05f);
    cr_assert_eq(aq_quantize_into(&q.layout, v, AQ_F32, &q.dst, NULL, NULL, &err), AQ_OK);
    offset_free(v, 0);
    return q;
}

/* Column c of vector v, from its code and scale. */
static double activation(const aq_activations *a, size_t v, size_t c) {
    size_t per = 8 / a->code_bits, block = per * 64; /* as the comment of aqi_x8 says */
    size_t place = c / block * block + c % per * 64 + c % block / per;
    return (double)a->codes[v * a->room + place] *
           (double)a->scales[v * a->segments + c / a->segment];
}

Test(matmul, every_form_against_sums_in_double) {
    enum { ROWS = 5, COLS = 1100, VECTORS = 3 };
    aq_quant_options o;
    rng r = {21};
    float *x = offset_alloc(4, VECTORS * COLS * sizeof *x);
    float *y = offset_alloc(0, VECTORS * ROWS * sizeof *y),
          *y8 = offset_alloc(0, VECTORS * ROWS * sizeof *y8);
    rng_floats(&r, x, VECTORS * COLS, 2.0f);
    for (size_t i = 0; quant_options_at(i, &o); i++) {
        quantized q = random_tensor(&r, ROWS, COLS, &o);
        size_t bytes = aq_activations_bytes(&q.layout, VECTORS);
        void *memory = offset_alloc(4, bytes);
        aq_activations a;
        cr_assert_eq(aq_matmul(&q.layout, &q.view, x, VECTORS, y, NULL, &err), AQ_OK);
        cr_assert_eq(aq_activations_init(&q.layout, x, VECTORS, memory, &a, &err), AQ_OK,
                     "%s", err.message);
        cr_assert_eq(aq_matmul_i8(&q.layout, &q.view, &a, y8, NULL, &err), AQ_OK);
        for (size_t v = 0; v < VECTORS; v++) {
            for (size_t row = 0; row < ROWS; row++) {
                double exact = 0, exact8 = 0, size = 0, error = 0;
                for (size_t c = 0; c < COLS; c++) {
                    double w = (double)quantized_value(&q, row, c);
                    double zero =
                        fabs((double)q.dst.zero_points[quantized_slot(&q, row, c)] *
                             (double)q.dst.scales[quantized_slot(&q, row, c)]);
                    exact += w * (double)x[v * COLS + c];
                    exact8 += w * activation(&a, v, c);
                    size += (fabs(w) + zero) * fabs((double)x[v * COLS + c]);
                    error += fabs(w) *
                             (double)a.scales[v * a.segments + c / a.segment] * 0.5;
                }
                cr_expect(fabs(exact - (double)y[v * ROWS + row]) <= 1e-5 * size,
                          "%s: %.9g, not %.9g", quantized_text(&q),
                          (double)y[v * ROWS + row], exact);
                cr_expect(fabs(exact8 - (double)y8[v * ROWS + row]) <= 1e-5 * size,
                          "%s: %.9g, not %.9g", quantized_text(&q),
                          (double)y8[v * ROWS + row], exact8);
                cr_expect(fabs(exact - exact8) <= error * 1.001);
            }
        }
        offset_free(memory, 4);
        quantized_free(&q);
    }
    offset_free(x, 4);
    offset_free(y, 0);
    offset_free(y8, 0);
}

Test(matmul, threads_and_instruction_sets_change_nothing) {
    enum { ROWS = 700, COLS = 2048, VECTORS = 2 };
    aq_quant_options o = {.bits = 4, .group_size = 32};
    rng r = {22};
    quantized q = random_tensor(&r, ROWS, COLS, &o);
    float *x = malloc(VECTORS * COLS * sizeof *x);
    float *want = malloc(2 * VECTORS * ROWS * sizeof *want);
    float *have = malloc(2 * VECTORS * ROWS * sizeof *have);
    void *memory = malloc(aq_activations_bytes(&q.layout, VECTORS));
    rng_floats(&r, x, VECTORS * COLS, 2.0f);
    for (int isa = AQ_ISA_REF; isa <= AQ_ISA_NEON; isa++) {
        if (!aq_isa_supported((aq_isa)isa)) continue;
        cr_assert_eq(aq_isa_force((aq_isa)isa), AQ_OK);
        for (uint32_t count = 1; count <= 5; count += 2) {
            aq_activations a;
            aq_threads *threads;
            const aq_tasks *tasks;
            cr_assert_eq(aq_threads_create(count, NULL, &threads, &err), AQ_OK);
            tasks = aq_threads_tasks(threads);
            cr_assert_eq(aq_activations_init(&q.layout, x, VECTORS, memory, &a, &err),
                         AQ_OK);
            cr_assert_eq(aq_matmul(&q.layout, &q.view, x, VECTORS, have, tasks, &err),
                         AQ_OK);
            cr_assert_eq(
                aq_matmul_i8(&q.layout, &q.view, &a, have + VECTORS * ROWS, tasks, &err),
                AQ_OK);
            if (isa == AQ_ISA_REF && count == 1)
                memcpy(want, have, 2 * VECTORS * ROWS * sizeof *want);
            cr_expect(memcmp(want, have, 2 * VECTORS * ROWS * sizeof *want) == 0,
                      "%s, %u threads", aq_isa_name((aq_isa)isa), count);
            aq_threads_destroy(threads);
        }
    }
    cr_assert_eq(aq_isa_force(AQ_ISA_AUTO), AQ_OK);
    free(x);
    free(want);
    free(have);
    free(memory);
    quantized_free(&q);
}

/* ---- arguments ---- */

Test(matmul, arguments) {
    aq_quant_options o = {.bits = 4, .group_size = 32},
                     other = {.bits = 4, .group_size = 64};
    rng r = {23};
    quantized q = random_tensor(&r, 3, 100, &o), p = random_tensor(&r, 3, 100, &other);
    float x[200] = {0}, y[6];
    uint32_t memory[1000];
    aq_activations a;
    cr_assert_leq(aq_activations_bytes(&q.layout, 2), sizeof memory);
    cr_assert_eq(aq_activations_bytes(&q.layout, 0), 0);
    cr_assert_eq(aq_activations_bytes(&q.layout, SIZE_MAX / 8), 0);
    x[150] = NAN;
    cr_expect_eq(aq_activations_init(&q.layout, x, 2, memory, &a, &err), AQ_E_NONFINITE);
    cr_expect(strstr(err.message, "vector 1: value 50") != NULL, "%s", err.message);
    cr_expect(a.codes == NULL);
    x[150] = 0;
    cr_expect_eq(aq_activations_init(&q.layout, NULL, 2, memory, &a, &err), AQ_E_ARG);
    cr_expect_eq(aq_activations_init(&q.layout, x, 2, NULL, &a, &err), AQ_E_ARG);
    cr_expect_eq(aq_activations_init(&q.layout, x, 2, (char *)memory + 1, &a, &err),
                 AQ_E_ARG);
    cr_expect_eq(aq_activations_init(&q.layout, x, SIZE_MAX / 8, memory, &a, &err),
                 AQ_E_LIMIT);
    cr_assert_eq(aq_activations_init(&q.layout, x, 2, memory, &a, &err), AQ_OK);
    cr_expect_eq(aq_matmul_i8(&p.layout, &p.view, &a, y, NULL, &err), AQ_E_ARG);
    cr_expect(strstr(err.message, "another width, group size") != NULL, "%s",
              err.message);
    cr_expect_eq(aq_matmul_i8(&q.layout, &q.view, NULL, y, NULL, &err), AQ_E_ARG);
    cr_expect_eq(aq_matmul_i8(&q.layout, &q.view, &a, NULL, NULL, &err), AQ_E_ARG);
    cr_expect_eq(aq_matmul(&q.layout, &q.view, NULL, 2, y, NULL, &err), AQ_E_ARG);
    cr_expect_eq(aq_matmul(&q.layout, &q.view, x, 2, NULL, NULL, &err), AQ_E_ARG);
    cr_expect_eq(aq_matmul(&q.layout, NULL, x, 2, y, NULL, &err), AQ_E_ARG);
    cr_expect_eq(aq_matmul(&q.layout, &q.view, NULL, 0, NULL, NULL, &err), AQ_OK);
    cr_assert_eq(aq_matmul_i8(&q.layout, &q.view, &a, y, NULL, &err), AQ_OK);
    for (int i = 0; i < 6; i++) cr_expect_eq(y[i], 0.0f);
    quantized_free(&q);
    quantized_free(&p);
}

/* Values so small that their scale would be denormal are taken for 0; the largest floats
 * come through. */
Test(matmul, ends_of_the_range) {
    aq_quant_options o = {.bits = 8, .group_size = 16};
    float v[16], x[16], y;
    uint32_t memory[100];
    aq_activations a;
    for (int i = 0; i < 16; i++) v[i] = i % 2 ? 1.0f : -1.0f;
    quantized q = quantized_make(1, 16, &o);
    cr_assert_eq(aq_quantize_into(&q.layout, v, AQ_F32, &q.dst, NULL, NULL, &err), AQ_OK);
    for (int i = 0; i < 16; i++) x[i] = i % 2 ? 1e-39f : 0.0f;
    cr_assert_eq(aq_activations_init(&q.layout, x, 1, memory, &a, &err), AQ_OK);
    cr_assert_eq(aq_matmul_i8(&q.layout, &q.view, &a, &y, NULL, &err), AQ_OK);
    cr_expect_eq(y, 0.0f);
    for (int i = 0; i < 16; i++) x[i] = i % 2 ? 1e37f : 0.0f;
    cr_assert_eq(aq_activations_init(&q.layout, x, 1, memory, &a, &err), AQ_OK);
    cr_assert_eq(aq_matmul_i8(&q.layout, &q.view, &a, &y, NULL, &err), AQ_OK);
    cr_expect(fabs((double)y - 8e37) < 1e33, "%g", (double)y);
    for (int i = 0; i < 16; i++) x[i] = 3e38f;
    cr_assert_eq(aq_activations_init(&q.layout, x, 1, memory, &a, &err), AQ_E_LIMIT);
    cr_expect(strstr(err.message, "vector 0: values from 0") != NULL, "%s", err.message);
    quantized_free(&q);
}
