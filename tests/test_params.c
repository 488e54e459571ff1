/* Small group parameters, codebooks, AQ_SEARCH and AQ_WEIGHTED. What stored bytes mean is
 * computed here from the text of docs/FORMAT.md, "Small parameters". */
#define NATIVE_SOURCES
#include "quantized.h"

#include <math.h>

TestSuite(params, .timeout = 300);
TestSuite(methods, .timeout = 300);

static aq_error err;

/* ---- values ---- */

static double uniform(rng *r) { return ((double)(rng_next(r) >> 11) + 0.5) * 0x1p-53; }

static double gauss(rng *r) {
    double u = uniform(r), v = uniform(r);
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

typedef enum values {
    GAUSS,
    LAPLACE,
    STUDENT,
    OFFSET,
    OUTLIER,
    ZERO_GROUPS,
    CONSTANT,
    SMALL,
    LARGE,
    SUBNORMAL,
    NUM_VALUES
} values;

static float value_of(rng *r, values kind, size_t i) {
    double g = gauss(r);
    switch (kind) {
    case LAPLACE:
        return (float)((g < 0 ? 0.014 : -0.014) * log(uniform(r)));
    case STUDENT:
        return (float)(0.014 * g / sqrt(-0.5 * log(uniform(r) * uniform(r))));
    case OFFSET:
        return (float)(1000.0 + g);
    case OUTLIER:
        return i % 197 == 5 ? 1e6f : (float)g;
    case ZERO_GROUPS:
        return i / 64 % 2 != 0 ? 0.0f : (float)g;
    case CONSTANT:
        return i / 32 % 3 == 0 ? -0.7f : i / 32 % 3 == 1 ? 3.25f : (float)g;
    case SMALL:
        return (float)(g * 1e-30);
    case LARGE:
        return (float)(g * 1e30);
    case SUBNORMAL:
        return (float)(g * 1e-41);
    default:
        return (float)(0.02 * g);
    }
}

static float *make_values(size_t n, values kind, uint64_t seed) {
    rng r = {seed};
    float *v = offset_alloc(0, n * sizeof *v);
    for (size_t i = 0; i < n; i++) v[i] = value_of(&r, kind, i);
    return v;
}

/* ---- what the bytes mean ---- */

static float f32_at(const uint8_t *p) {
    uint32_t bits =
        p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static float f16_at(const uint8_t *p) {
    int half = p[0] | p[1] << 8, exponent = half >> 10 & 31;
    double f = exponent == 0 ? ldexp(half & 1023, -24)
                             : ldexp(1024 + (half & 1023), exponent - 25);
    return (float)(half & 0x8000 ? -f : f);
}

/* Scale and zero point of a group, and the base of a codebook's levels. */
static void stored_params(const quantized *q, size_t slot, float *scale,
                          float *zero_point) {
    const aq_layout *l = &q->layout;
    const uint8_t *p = q->dst.params;
    bool second = !l->symmetric && !l->codebook;
    size_t factors = l->params == AQ_PARAMS_U8 && second ? 2 : 1;
    size_t each = l->params == AQ_PARAMS_F16 ? 2 : 1;
    const uint8_t *row = p + slot / l->groups_per_row * factors * 4;
    const uint8_t *scales = p + l->rows * factors * 4,
                  *seconds = scales + each * l->num_groups;
    cr_assert_eq(l->params_bytes,
                 l->rows * factors * 4 + each * l->num_groups * (second ? 2 : 1));
    *zero_point = l->codebook ? 0.0f : (float)(1 << (l->bits - 1));
    if (l->params == AQ_PARAMS_F16) {
        *scale = f32_at(row) * f16_at(scales + 2 * slot);
        if (second) *zero_point = f16_at(seconds + 2 * slot);
    } else if (l->codebook) {
        *scale = f32_at(row) * (float)(int8_t)scales[slot];
    } else {
        *scale = f32_at(row) * (float)scales[slot];
        if (second) {
            volatile float minimum = f32_at(row + 4) * (float)(int8_t)seconds[slot];
            *zero_point = *scale > 0 ? (0.0f - minimum) / *scale : 0.0f;
        }
    }
}

static float value_at(const quantized *q, size_t r, size_t c) {
    float scale, zero_point, code = (float)quantized_code(q, r, c);
    if (q->layout.params == AQ_PARAMS_F32) return quantized_value(q, r, c);
    stored_params(q, quantized_slot(q, r, c), &scale, &zero_point);
    if (q->layout.codebook) code = (float)aq_codebook(q->layout.bits)[(int)code];
    volatile float steps = code - zero_point, value = steps * scale;
    return value;
}

static double *group_errors(const quantized *q, const float *v, const float *importance) {
    const aq_layout *l = &q->layout;
    double *e = calloc(l->num_groups + 1, sizeof *e);
    for (size_t r = 0; r < l->rows; r++) {
        for (size_t c = 0; c < l->cols; c++) {
            double d = (double)v[r * l->cols + c] - (double)value_at(q, r, c);
            e[quantized_slot(q, r, c)] +=
                d * d * (importance ? (double)importance[c] : 1);
        }
    }
    return e;
}

static quantized quantize(const float *v, size_t rows, size_t cols,
                          const aq_quant_options *o, const aq_tasks *tasks) {
    quantized q = quantized_make(rows, cols, o);
    cr_assert_eq(aq_quantize_into(&q.layout, v, AQ_F32, &q.dst, tasks, NULL, &err), AQ_OK,
                 "%s", err.message);
    return q;
}

/* Number i of the forms that parameters can have; false after the last. */
static bool form_at(size_t i, aq_quant_options *o) {
    static const aq_quant_options forms[] = {
        {.bits = 4, .params = AQ_PARAMS_F16},
        {.bits = 2, .params = AQ_PARAMS_F16, .symmetric = true},
        {.bits = 8, .params = AQ_PARAMS_F16},
        {.bits = 4, .params = AQ_PARAMS_U8},
        {.bits = 2, .params = AQ_PARAMS_U8},
        {.bits = 8, .params = AQ_PARAMS_U8},
        {.bits = 4, .params = AQ_PARAMS_U8, .symmetric = true},
        {.bits = 4, .params = AQ_PARAMS_U8, .codebook = true},
        {.bits = 2, .params = AQ_PARAMS_U8, .codebook = true}};
    static const size_t groups[] = {32, 16, 8, 13, 64, 0};
    if (i >= COUNT_OF(forms) * COUNT_OF(groups)) return false;
    *o = forms[i % COUNT_OF(forms)];
    o->group_size = groups[i / COUNT_OF(forms)];
    if (o->group_size == 0) o->granularity = AQ_PER_CHANNEL;
    return true;
}

/* ---- reading ---- */

static void check_reading(const quantized *q, const float *v, const char *what) {
    const aq_layout *l = &q->layout;
    float *back = offset_alloc(0, l->rows * l->cols * sizeof *back);
    aq_metrics metrics, again;
    cr_assert_eq(aq_dequantize_rows(l, &q->view, 0, l->rows, back, NULL, &err), AQ_OK);
    for (size_t i = 0; i < l->rows * l->cols; i++) {
        float want = value_at(q, i / l->cols, i % l->cols);
        cr_expect(memcmp(&back[i], &want, 4) == 0, "%s, %s: value %zu is %.9g, not %.9g",
                  quantized_text(q), what, i, (double)back[i], (double)want);
        if (memcmp(&back[i], &want, 4) != 0) break;
    }
    for (size_t g = 0; g < l->num_groups && l->params != AQ_PARAMS_F32; g++) {
        float scale, zero_point, want_scale, want_zero;
        stored_params(q, g, &want_scale, &want_zero);
        cr_assert_eq(aq_params_read(l, &q->view, g, &scale, &zero_point, &err), AQ_OK);
        cr_expect(scale == want_scale && zero_point == want_zero);
        cr_expect(isfinite(scale) && isfinite(zero_point));
    }
    cr_assert_eq(aq_quantize_into(l, v, AQ_F32, &q->dst, NULL, &metrics, &err), AQ_OK);
    cr_assert_eq(aq_metrics_of(v, back, l->rows * l->cols, NULL, &again, &err), AQ_OK);
    cr_expect(metrics.sum_dd <= again.sum_dd * (1 + 1e-9) &&
                  metrics.sum_dd >= again.sum_dd * (1 - 1e-9),
              "%s, %s: measured %g, is %g", quantized_text(q), what, metrics.sum_dd,
              again.sum_dd);
    offset_free(back, 0);
}

Test(params, stored_bytes_mean_what_the_format_says) {
    enum { ROWS = 3, COLS = 1030 };
    aq_quant_options o;
    for (size_t i = 0; form_at(i, &o); i++) {
        for (values kind = 0; kind < NUM_VALUES; kind++) {
            float *v = make_values(ROWS * COLS, kind, i * 100 + kind);
            quantized q = quantize(v, ROWS, COLS, &o, NULL);
            char what[80];
            snprintf(what, sizeof what, "params %d, codebook %d, values %d",
                     (int)o.params, o.codebook, (int)kind);
            check_reading(&q, v, what);
            quantized_free(&q);
            offset_free(v, 0);
        }
    }
}

/* More groups in a row than are read at a time; products from small parameters are those
 * from the values. */
Test(params, long_rows_and_products) {
    enum { ROWS = 2, COLS = 20000 };
    aq_quant_options o;
    float *v = make_values(ROWS * COLS, GAUSS, 3), *x = make_values(COLS, GAUSS, 4),
          y[ROWS], y8[ROWS];
    for (size_t i = 0; form_at(i, &o); i++) {
        quantized q = quantize(v, ROWS, COLS, &o, NULL);
        aq_activations a;
        void *memory = malloc(aq_activations_bytes(&q.layout, 1));
        check_reading(&q, v, "long rows");
        cr_assert_eq(aq_matvec(&q.layout, &q.view, x, y, NULL, &err), AQ_OK);
        cr_assert_eq(aq_activations_init(&q.layout, x, 1, memory, &a, &err), AQ_OK);
        cr_assert_eq(aq_matmul_i8(&q.layout, &q.view, &a, y8, NULL, &err), AQ_OK);
        for (size_t r = 0; r < ROWS; r++) {
            double want = 0, size = 0;
            for (size_t c = 0; c < COLS; c++) {
                double w = (double)value_at(&q, r, c);
                want += w * (double)x[c];
                size += fabs(w * (double)x[c]);
            }
            cr_expect(fabs(want - (double)y[r]) <= 1e-5 * size, "%s", quantized_text(&q));
            cr_expect(fabs(want - (double)y8[r]) <= 5e-3 * size, "%s: %g, not %g",
                      quantized_text(&q), (double)y8[r], want);
        }
        free(memory);
        quantized_free(&q);
    }
    offset_free(v, 0);
    offset_free(x, 0);
}

/* ---- quality ---- */

/* In no group a larger error with `better` than with `o`; by importance, unless NULL. */
static void expect_no_worse(const float *v, size_t rows, size_t cols,
                            const aq_quant_options *o, const aq_quant_options *better,
                            int kind) {
    const float *weights = better->importance;
    quantized a = quantize(v, rows, cols, o, NULL);
    quantized b = quantize(v, rows, cols, better, NULL);
    double *before = group_errors(&a, v, weights), *after = group_errors(&b, v, weights);
    for (size_t g = 0; g < a.layout.num_groups; g++)
        cr_expect(after[g] <= before[g] * (1 + 1e-12),
                  "%s, params %d, method %d, values %d, group %zu: %g, then %g",
                  quantized_text(&b), (int)o->params, (int)better->method, kind, g,
                  before[g], after[g]);
    free(before);
    free(after);
    quantized_free(&a);
    quantized_free(&b);
}

Test(methods, in_no_group_worse_than_min_max) {
    enum { ROWS = 4, COLS = 520 };
    static const aq_method methods[] = {AQ_REFINE, AQ_SEARCH, AQ_WEIGHTED};
    rng r = {5};
    float importance[COLS];
    for (size_t c = 0; c < COLS; c++)
        importance[c] = c % 11 == 3 ? 0.0f : (float)fabs(gauss(&r));
    for (size_t i = 0; i < 36 * NUM_VALUES; i++) {
        values kind = (values)(i / 36);
        aq_quant_options o = {.bits = (uint32_t[]){2, 4, 8}[i % 3],
                              .symmetric = i / 3 % 2 != 0,
                              .params = (aq_params)(i / 6 % 3),
                              .group_size = i / 18 % 2 ? 32 : 40};
        float *v = make_values(ROWS * COLS, kind, i);
        for (size_t m = 0; m < COUNT_OF(methods); m++) {
            aq_quant_options better = o;
            o.method = AQ_MINMAX;
            better.method = methods[m];
            if (methods[m] == AQ_WEIGHTED) better.importance = importance;
            expect_no_worse(v, ROWS, COLS, &o, &better, (int)kind);
        }
        offset_free(v, 0);
    }
}

/* The sum of all groups, of parameters rounded to 8 bits: searching gains nowhere less
 * than refining does. */
Test(methods, search_is_no_worse_than_refine) {
    enum { ROWS = 4, COLS = 512 };
    for (size_t i = 0; i < 36 * NUM_VALUES; i++) {
        values kind = (values)(i / 36);
        aq_quant_options o = {.bits = (uint32_t[]){2, 3, 4, 5, 6, 8}[i % 6],
                              .symmetric = i / 6 % 2 != 0,
                              .params = i / 12 % 2 ? AQ_PARAMS_U8 : AQ_PARAMS_F16,
                              .group_size = 32};
        float *v = make_values(ROWS * COLS, kind, i);
        aq_quant_options better = o;
        better.method = AQ_SEARCH;
        expect_no_worse(v, ROWS, COLS, &o, &better, (int)kind);
        offset_free(v, 0);
    }
}

/* The squared error of n values in codes of a scale, of which the first is `least`. */
static double error_of_codes(const float *v, size_t n, double scale, double least,
                             uint32_t bits) {
    double error = 0;
    for (size_t i = 0; i < n; i++) {
        double q = rint(((double)v[i] - least) / scale);
        q = fmin(fmax(q, 0), (double)((1u << bits) - 1));
        error += pow((double)v[i] - (least + q * scale), 2);
    }
    return error;
}

/* The least squared error of symmetric codes of n values, over 4000 scales. */
static double least_of_sweep(const float *v, size_t n, uint32_t bits) {
    double least = INFINITY, half = (double)(1u << (bits - 1)), most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)v[i]));
    for (int k = 1; k <= 4000; k++) {
        double scale = most / half * 1.2 * k / 4000;
        least = fmin(least, error_of_codes(v, n, scale, -half * scale, bits));
    }
    return least;
}

/* With the zero point fixed there is one number to find: the search finds it. */
Test(methods, symmetric_search_against_a_sweep) {
    enum { ROWS = 40, COLS = 128 };
    for (uint32_t bits = 2; bits <= 4; bits++) {
        for (values kind = GAUSS; kind <= STUDENT; kind++) {
            aq_quant_options o = {.bits = bits, .symmetric = true, .method = AQ_SEARCH};
            float *v = make_values(ROWS * COLS, kind, bits);
            quantized q = quantize(v, ROWS, COLS, &o, NULL);
            double *found = group_errors(&q, v, NULL), sum = 0, least = 0;
            for (size_t r = 0; r < ROWS; r++) {
                sum += found[r];
                least += least_of_sweep(v + r * COLS, COLS, bits);
            }
            cr_expect(10 * log10(sum / least) < 0.03, "%s, values %d: %.3f dB more",
                      quantized_text(&q), (int)kind, 10 * log10(sum / least));
            free(found);
            quantized_free(&q);
            offset_free(v, 0);
        }
    }
}

/* Bits a weight and dB of signal to noise; what ggml's formats have on these values:
 * Q4_K 4.5: 22.9 21.5 21.2, Q2_K 2.625: 10.6 9.3 9.3, Q8_0 8.5: 45.4 43.4 42.7. */
Test(methods, what_they_reach) {
    enum { ROWS = 128, COLS = 4096 };
    static const struct {
        aq_quant_options o;
        double most_bits, least[3];
    } cases[] = {
        {{.bits = 4, .group_size = 16, .codebook = true}, 4.55, {23.6, 22.8, 22.5}},
        {{.bits = 4, .group_size = 32, .codebook = true}, 4.28, {22.5, 21.2, 20.7}},
        {{.bits = 4, .group_size = 32, .params = AQ_PARAMS_U8}, 4.52, {22.7, 21.2, 20.9}},
        {{.bits = 4, .group_size = 128, .params = AQ_PARAMS_F16},
         4.26,
         {20.4, 18.0, 17.0}},
        {{.bits = 4, .method = AQ_SEARCH}, 4.5, {20.8, 18.4, 17.3}},
        {{.bits = 2, .group_size = 128}, 2.5, {9.4, 7.4, 6.4}},
        {{.bits = 2, .group_size = 16, .codebook = true}, 2.63, {10.65, 10.2, 10.0}},
        {{.bits = 8, .group_size = 64, .params = AQ_PARAMS_U8}, 8.5, {45.5, 43.5, 42.8}}};
    for (values kind = GAUSS; kind <= STUDENT; kind++) {
        float *v = make_values(ROWS * COLS, kind, 50 + kind);
        for (size_t i = 0; i < COUNT_OF(cases); i++) {
            quantized q = quantized_make(ROWS, COLS, &cases[i].o);
            size_t parameters = q.layout.params == AQ_PARAMS_F32 ? 8 * q.layout.num_groups
                                                                 : q.layout.params_bytes;
            double bits =
                8.0 * (double)(q.layout.code_bytes + parameters) / (ROWS * COLS);
            aq_metrics m;
            cr_assert_eq(aq_quantize_into(&q.layout, v, AQ_F32, &q.dst, NULL, &m, &err),
                         AQ_OK);
            cr_expect(bits <= cases[i].most_bits && m.sqnr_db >= cases[i].least[kind],
                      "case %zu, values %d: %.3f bits, %.2f dB", i, (int)kind, bits,
                      m.sqnr_db);
            quantized_free(&q);
        }
        offset_free(v, 0);
    }
}

/* Weights of important columns come out better than without importance. */
Test(methods, importance_counts) {
    enum { ROWS = 64, COLS = 512 };
    float importance[COLS], *v = make_values(ROWS * COLS, GAUSS, 8);
    double sums[2] = {0, 0};
    for (size_t c = 0; c < COLS; c++) importance[c] = c % 8 == 0 ? 100.0f : 1.0f;
    for (int weighted = 0; weighted < 2; weighted++) {
        aq_quant_options o = {.bits = 2, .method = weighted ? AQ_WEIGHTED : AQ_REFINE,
                              .importance = weighted ? importance : NULL};
        quantized q = quantize(v, ROWS, COLS, &o, NULL);
        double *e = group_errors(&q, v, importance);
        for (size_t g = 0; g < q.layout.num_groups; g++) sums[weighted] += e[g];
        free(e);
        quantized_free(&q);
    }
    cr_expect(sums[1] < 0.8 * sums[0], "%g, then %g", sums[0], sums[1]);
    offset_free(v, 0);
}

/* ---- the same bytes ---- */

Test(methods, threads_and_instruction_sets_change_nothing) {
    enum { ROWS = 9, COLS = 1040 };
    aq_quant_options o;
    aq_threads *threads;
    float *v = make_values(ROWS * COLS, LAPLACE, 9), importance[COLS];
    for (size_t c = 0; c < COLS; c++) importance[c] = 1.0f + (float)(c % 5);
    cr_assert_eq(aq_threads_create(3, NULL, &threads, &err), AQ_OK);
    for (size_t i = 0; i < 12 || form_at(i - 12, &o); i++) {
        if (i < 12)
            o = (aq_quant_options){.bits = (uint32_t[]){2, 4, 8}[i % 3],
                                   .group_size = 32,
                                   .symmetric = i / 3 % 2 != 0,
                                   .method = i < 6 ? AQ_SEARCH : AQ_WEIGHTED,
                                   .importance = i < 6 ? NULL : importance};
        cr_assert_eq(aq_isa_force(AQ_ISA_REF), AQ_OK);
        quantized want = quantize(v, ROWS, COLS, &o, NULL);
        for (int isa = AQ_ISA_AVX2; isa <= AQ_ISA_NEON; isa++) {
            if (!aq_isa_supported((aq_isa)isa)) continue;
            cr_assert_eq(aq_isa_force((aq_isa)isa), AQ_OK);
            quantized have = quantize(v, ROWS, COLS, &o, aq_threads_tasks(threads));
            float a[ROWS * COLS], b[ROWS * COLS];
            cr_expect(quantized_same(&want, &have), "%s, params %d, method %d on %s",
                      quantized_text(&want), (int)o.params, (int)o.method,
                      aq_isa_name((aq_isa)isa));
            cr_assert_eq(
                aq_dequantize_rows(&have.layout, &have.view, 0, ROWS, a, NULL, &err),
                AQ_OK);
            cr_assert_eq(aq_isa_force(AQ_ISA_REF), AQ_OK);
            cr_assert_eq(
                aq_dequantize_rows(&have.layout, &have.view, 0, ROWS, b, NULL, &err),
                AQ_OK);
            cr_expect(memcmp(a, b, sizeof a) == 0);
            quantized_free(&have);
        }
        quantized_free(&want);
    }
    aq_threads_destroy(threads);
    offset_free(v, 0);
}

/* ---- other widths, other types, other forms ---- */

Test(params, widths_of_three_five_and_six_bits) {
    enum { ROWS = 5, COLS = 333 };
    static const double least[] = {0, 0, 0, 12, 0, 25, 31};
    float *v = make_values(ROWS * COLS, GAUSS, 12), back[ROWS * COLS];
    for (size_t i = 0; i < 36; i++) {
        aq_quant_options o = {.bits = (uint32_t[]){3, 5, 6}[i % 3],
                              .group_size = (size_t[]){32, 13, 64}[i / 3 % 3],
                              .params = (aq_params)(i / 9 % 2 * 2),
                              .method = i < 18 ? AQ_REFINE : AQ_SEARCH};
        cr_assert_eq(aq_isa_force(AQ_ISA_REF), AQ_OK);
        quantized want = quantize(v, ROWS, COLS, &o, NULL);
        cr_assert_eq(want.layout.row_bytes, (COLS * o.bits + 7) / 8);
        cr_assert_eq(aq_isa_force(AQ_ISA_AUTO), AQ_OK);
        quantized have = quantize(v, ROWS, COLS, &o, NULL);
        aq_metrics m;
        cr_expect(quantized_same(&want, &have), "%s", quantized_text(&want));
        check_reading(&have, v, "odd widths");
        cr_assert_eq(
            aq_dequantize_rows(&have.layout, &have.view, 0, ROWS, back, NULL, &err),
            AQ_OK);
        cr_assert_eq(aq_metrics_of(v, back, ROWS * COLS, NULL, &m, &err), AQ_OK);
        cr_expect(m.sqnr_db > least[o.bits], "%s: %.2f", quantized_text(&have),
                  m.sqnr_db);
        quantized_free(&want);
        quantized_free(&have);
    }
    offset_free(v, 0);
}

/* Halves are what the float32 values round to. */
Test(params, dequantized_to_other_types) {
    enum { ROWS = 3, COLS = 2100 };
    float *v = make_values(ROWS * COLS, GAUSS, 13), back[ROWS * COLS];
    aq_quant_options o;
    for (size_t i = 0; form_at(i, &o); i += 5) {
        quantized q = quantize(v, ROWS, COLS, &o, NULL);
        cr_assert_eq(aq_dequantize_rows(&q.layout, &q.view, 1, 2, back, NULL, &err),
                     AQ_OK);
        for (aq_dtype dtype = AQ_F32; dtype <= AQ_F64; dtype++) {
            aq_rows rows = {1, 2, dtype};
            size_t bytes = 2 * COLS * aq_dtype_bytes(dtype);
            uint8_t *have = offset_alloc(1, bytes), *want = malloc(bytes);
            cr_assert_eq(aq_from_f32(back, 2 * COLS, want, dtype, &err), AQ_OK);
            cr_assert_eq(aq_dequantize_as(&q.layout, &q.view, &rows, have, NULL, &err),
                         AQ_OK);
            cr_expect(memcmp(have, want, bytes) == 0, "%s to %s", quantized_text(&q),
                      aq_dtype_name(dtype));
            offset_free(have, 1);
            free(want);
        }
        quantized_free(&q);
    }
    aq_rows rows = {0, 1, AQ_I8};
    quantized q = quantized_make(1, 8, NULL);
    cr_expect_eq(aq_dequantize_as(&q.layout, &q.view, &rows, back, NULL, &err), AQ_E_ARG);
    cr_expect_eq(aq_from_f32(v, 1, back, AQ_U8, &err), AQ_E_ARG);
    quantized_free(&q);
    offset_free(v, 0);
}

/* The same bytes and metrics as by way of a buffer. */
Test(params, requantized) {
    enum { ROWS = 7, COLS = 1030 };
    aq_quant_options from, to;
    float *v = make_values(ROWS * COLS, LAPLACE, 14), back[ROWS * COLS];
    for (size_t i = 0; form_at(i, &from) && form_at(i * 7 % 54, &to); i++) {
        quantized q = quantize(v, ROWS, COLS, &from, NULL);
        quantized have = quantized_make(ROWS, COLS, &to);
        aq_metrics m, n;
        if (i % 2 != 0) to.params = AQ_PARAMS_F32, to.codebook = false;
        quantized_free(&have);
        have = quantized_make(ROWS, COLS, &to);
        cr_assert_eq(aq_dequantize_rows(&q.layout, &q.view, 0, ROWS, back, NULL, &err),
                     AQ_OK);
        quantized want = quantize(back, ROWS, COLS, &to, NULL);
        cr_assert_eq(
            aq_quantize_into(&want.layout, back, AQ_F32, &want.dst, NULL, &n, &err),
            AQ_OK);
        cr_assert_eq(
            aq_requantize(&q.layout, &q.view, &have.layout, &have.dst, NULL, &m, &err),
            AQ_OK, "%s", err.message);
        cr_expect(quantized_same(&want, &have), "%s", quantized_text(&have));
        cr_expect(memcmp(&m, &n, sizeof m) == 0);
        quantized_free(&q);
        quantized_free(&have);
        quantized_free(&want);
    }
    quantized a = quantized_make(2, 8, NULL), b = quantized_make(1, 16, NULL);
    cr_expect_eq(aq_requantize(&a.layout, &a.view, &b.layout, &b.dst, NULL, NULL, &err),
                 AQ_E_ARG);
    quantized_free(&a);
    quantized_free(&b);
    offset_free(v, 0);
}

/* Rows apart: the same bytes as from rows that follow each other. */
Test(params, strides) {
    enum { ROWS = 40, COLS = 128, STRIDE = 160 };
    aq_quant_options o;
    aq_layout l;
    float *v = make_values(ROWS * STRIDE, GAUSS, 15), packed[ROWS * COLS];
    for (size_t r = 0; r < ROWS; r++)
        memcpy(packed + r * COLS, v + r * STRIDE, COLS * sizeof *v);
    for (size_t r = 0; r + 1 < ROWS; r++) v[r * STRIDE + COLS + 3] = NAN; /* not read */
    for (size_t i = 0; i < 3 || form_at(i - 3, &o); i++) {
        if (i < 3)
            o = (aq_quant_options){.group_size = 32, .granularity = (aq_granularity)i};
        aq_metrics m, n;
        quantized want = quantize(packed, ROWS, COLS, &o, NULL);
        cr_assert_eq(
            aq_quantize_into(&want.layout, packed, AQ_F32, &want.dst, NULL, &m, &err),
            AQ_OK);
        o.src_stride = STRIDE;
        quantized have = quantize(v, ROWS, COLS, &o, NULL);
        cr_assert_eq(aq_quantize_into(&have.layout, v, AQ_F32, &have.dst, NULL, &n, &err),
                     AQ_OK);
        cr_expect(quantized_same(&want, &have), "%s", quantized_text(&have));
        cr_expect(memcmp(&m, &n, sizeof m) == 0);
        quantized_free(&want);
        quantized_free(&have);
    }
    o = (aq_quant_options){.src_stride = 7};
    cr_expect_eq(aq_layout_init(1, 8, &o, &l, &err), AQ_E_ARG);
    offset_free(v, 0);
}

/* A source that shares a byte with any part of the destination is refused. */
Test(params, overlap) {
    aq_quant_options forms[] = {{.bits = 8, .group_size = 8},
                                {.bits = 8, .group_size = 8, .params = AQ_PARAMS_U8}};
    for (size_t i = 0; i < 2; i++) {
        quantized q = quantized_make(4, 64, &forms[i]);
        float *memory = calloc(2000, sizeof *memory), *v = memory + 500;
        uint8_t *end = (uint8_t *)(v + 256);
        aq_quantized d[6] = {q.dst, q.dst, q.dst, q.dst, q.dst, q.dst};
        d[1].codes = end - 1;
        d[2].codes = (uint8_t *)v - q.layout.code_bytes + 1;
        d[3].scales = v + 255;
        d[4].zero_points = v - q.layout.num_groups + 1;
        d[5].params = end - 1;
        for (size_t k = 0; k < 6; k++) {
            bool shared = k == 1 || k == 2 || (i == 0 ? k == 3 || k == 4 : k == 5);
            cr_expect_eq(aq_quantize_into(&q.layout, v, AQ_F32, &d[k], NULL, NULL, &err),
                         shared ? AQ_E_ARG : AQ_OK, "form %zu, case %zu", i, k);
        }
        d[0].codes = end; /* side by side */
        cr_expect_eq(aq_quantize_into(&q.layout, v, AQ_F32, &d[0], NULL, NULL, &err),
                     AQ_OK);
        cr_expect_eq(
            aq_requantize(&q.layout, &q.view, &q.layout, &q.dst, NULL, NULL, &err),
            AQ_E_ARG);
        free(memory);
        quantized_free(&q);
    }
}

/* ---- the ends of the range ---- */

Test(params, nothing_flushes_to_zero) {
    enum { N = 256 };
    static const values kinds[] = {SMALL, LARGE, SUBNORMAL};
    aq_quant_options o;
    for (size_t k = 0; k < COUNT_OF(kinds); k++) {
        for (size_t i = 0; form_at(i, &o); i++) {
            float *v = make_values(N, kinds[k], k + 1);
            quantized q = quantized_make(1, N, &o);
            aq_metrics m;
            cr_assert_eq(aq_quantize_into(&q.layout, v, AQ_F32, &q.dst, NULL, &m, &err),
                         AQ_OK);
            cr_expect(m.sqnr_db > (o.bits == 2   ? 2.5
                                   : o.bits == 4 ? 14
                                                 : 30),
                      "%s, params %d, codebook %d, values %d: %.2f dB",
                      quantized_text(&q), (int)o.params, o.codebook, (int)kinds[k],
                      m.sqnr_db);
            quantized_free(&q);
            offset_free(v, 0);
        }
    }
}

Test(params, zeros_stay_zeros) {
    aq_quant_options o;
    float v[128], back[128];
    for (size_t i = 0; form_at(i, &o); i++) {
        for (size_t c = 0; c < 128; c++) v[c] = c < 64 ? 0.0f : c % 2 ? 0.5f : -0.25f;
        quantized q = quantize(v, 2, 64, &o, NULL);
        cr_assert_eq(aq_dequantize_rows(&q.layout, &q.view, 0, 2, back, NULL, &err),
                     AQ_OK);
        for (size_t c = 0; c < 64; c++) cr_expect_eq(back[c], 0.0f);
        quantized_free(&q);
    }
}

/* Groups of a row differ by up to 200 times, so that a scale which is rounded down clips
 * the small ones. No group comes out worse than with the next scale that spans its
 * range. */
Test(params, min_max_spans_the_range) {
    enum { COLS = 640, GROUP = 32 };
    rng r = {12};
    for (size_t i = 0; i < 36; i++) {
        aq_quant_options o = {.bits = (uint32_t[]){2, 3, 4, 5, 6, 8}[i % 6],
                              .symmetric = i / 6 % 2 != 0,
                              .params = AQ_PARAMS_U8,
                              .method = AQ_MINMAX,
                              .group_size = GROUP};
        double max_code = (double)((1u << o.bits) - 1);
        float v[COLS];
        for (size_t c = 0; c < COLS; c++) {
            double x = gauss(&r) * (c < GROUP ? 100 : 0.5 + (double)(c / GROUP) / 6);
            v[c] = (float)(i / 12 == 0 ? x : i / 12 == 1 ? fabs(x) : -fabs(x));
            if (i / 12 != 0 && c % GROUP == 7) v[c] = 0;
        }
        quantized q = quantize(v, 1, COLS, &o, NULL);
        double *errors = group_errors(&q, v, NULL);
        double factor = (double)f32_at(q.dst.params), unit = 0;
        if (!o.symmetric) unit = (double)f32_at(q.dst.params + 4);
        for (size_t g = 0; g < COLS / GROUP; g++) {
            const float *p = v + g * GROUP;
            double least = INFINITY, most = -INFINITY, scale, span;
            for (size_t c = 0; c < GROUP; c++) {
                least = fmin(least, (double)p[c]);
                most = fmax(most, (double)p[c]);
            }
            if (o.symmetric) {
                scale = ceil(2 * fmax(most, -least) / max_code / factor) * factor;
                least = -scale * (double)(1u << (o.bits - 1));
            } else {
                least = unit > 0 ? floor(least / unit) * unit : 0;
                scale = ceil((most - least) / max_code / factor) * factor;
            }
            span = error_of_codes(p, GROUP, scale, least, o.bits);
            cr_expect(errors[g] <= 1.001 * span + 1e-6, "%s, group %zu: %g, not %g",
                      quantized_text(&q), g, errors[g], span);
        }
        free(errors);
        quantized_free(&q);
    }
}

/* No level of codebook2 is 0: of a group far below the row's others, none is nearer. */
Test(params, codebook_of_values_near_zero) {
    enum { COLS = 64 };
    float v[COLS];
    aq_quant_options o = {.bits = 2, .group_size = 16, .codebook = true};
    for (size_t c = 0; c < COLS; c++)
        v[c] = (float)((c < 32 ? 1.0 : 1e-5) * sin(1.0 + (double)c));
    quantized q = quantize(v, 1, COLS, &o, NULL);
    for (size_t c = 32; c < COLS; c++)
        cr_expect(value_at(&q, 0, c) == 0.0f, "column %zu: %g", c,
                  (double)value_at(&q, 0, c));
    quantized_free(&q);
}

/* A scale whose reciprocal is infinite. */
Test(params, a_subnormal_among_zeros) {
    enum { COLS = 64 };
    float v[COLS] = {0}, back[COLS];
    for (uint32_t bits = 2; bits <= 8; bits *= 2) {
        for (size_t i = 0; i < 4; i++) {
            aq_quant_options o = {.bits = bits,
                                  .group_size = 32,
                                  .symmetric = i % 2 != 0,
                                  .params = i / 2 ? AQ_PARAMS_U8 : AQ_PARAMS_F16};
            v[5] = 0x1p-90f;
            v[40] = 3e-45f;
            quantized q = quantize(v, 1, COLS, &o, NULL);
            cr_assert_eq(aq_dequantize_rows(&q.layout, &q.view, 0, 1, back, NULL, &err),
                         AQ_OK);
            for (size_t c = 32; c < COLS; c++)
                cr_expect(fabs((double)back[c]) <= 3e-45, "%s, column %zu: %g",
                          quantized_text(&q), c, (double)back[c]);
            quantized_free(&q);
        }
    }
}

Test(params, over_the_scale_of_a_column) {
    const float scales[4] = {1, 1, 1e-3f, 1}, v[8] = {0, 1, 2, 3, 4, 5, 3e38f, 7};
    aq_quant_options o = {.column_scales = scales, .group_size = 32};
    quantized q = quantized_make(2, 4, &o);
    cr_expect_eq(aq_quantize_into(&q.layout, v, AQ_F32, &q.dst, NULL, NULL, &err),
                 AQ_E_LIMIT);
    cr_expect_str_eq(err.message,
                     "3e+38 at index 6 (row 1, column 2) over the scale 0.001 of its "
                     "column is beyond float32; choose a larger scale");
    quantized_free(&q);
}

/* A layout changed by hand: levels for codes of 8 bits there are none. */
Test(params, codebook_without_its_parameters) {
    aq_quant_options o = {.bits = 2, .codebook = true, .group_size = 32};
    quantized q = quantized_make(2, 64, &o);
    float back[128];
    q.layout.params = AQ_PARAMS_F32;
    q.layout.params_bytes = 0;
    cr_expect_eq(aq_dequantize_rows(&q.layout, &q.view, 0, 2, back, NULL, &err),
                 AQ_E_ARG);
    quantized_free(&q);
}

Test(params, too_large_or_not_finite) {
    aq_quant_options o;
    float v[200] = {0};
    for (size_t i = 0; form_at(i, &o); i++) {
        quantized q = quantized_make(2, 100, &o);
        v[137] = 2e36f;
        cr_expect_eq(aq_quantize_into(&q.layout, v, AQ_F32, &q.dst, NULL, NULL, &err),
                     AQ_E_LIMIT);
        cr_expect(strstr(err.message, "index 137 (row 1, column 37)") != NULL, "%s",
                  err.message);
        v[137] = NAN;
        cr_expect_eq(aq_quantize_into(&q.layout, v, AQ_F32, &q.dst, NULL, NULL, &err),
                     AQ_E_NONFINITE);
        cr_expect(strstr(err.message, "index 137") != NULL, "%s", err.message);
        v[137] = 0;
        q.dst.params = NULL;
        cr_expect_eq(aq_quantize_into(&q.layout, v, AQ_F32, &q.dst, NULL, NULL, &err),
                     AQ_E_ARG);
        q.dst.params = (uint8_t *)(uintptr_t)q.view.params;
        q.view.params = NULL;
        cr_expect_eq(aq_dequantize_rows(&q.layout, &q.view, 0, 2, v, NULL, &err),
                     AQ_E_ARG);
        quantized_free(&q);
    }
}

/* ---- options ---- */

Test(params, options) {
    static const float importance[8] = {0};
    const struct {
        aq_quant_options o;
        const char *message;
    } cases[] = {
        {{.method = AQ_WEIGHTED}, "importance of columns and AQ_WEIGHTED"},
        {{.importance = importance}, "importance of columns and AQ_WEIGHTED"},
        {{.params = (aq_params)3}, "parameters 3"},
        {{.params = (aq_params)-1}, "parameters -1"},
        {{.params = AQ_PARAMS_U8, .granularity = AQ_PER_TENSOR},
         "small parameters are for"},
        {{.codebook = true, .bits = 8}, "a codebook has"},
        {{.codebook = true, .symmetric = true}, "a codebook has"},
        {{.codebook = true, .params = AQ_PARAMS_F16}, "a codebook has"},
    };
    aq_layout l;
    float scale, zero_point;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        cr_expect_eq(aq_layout_init(1, 8, &cases[i].o, &l, &err), AQ_E_ARG);
        cr_expect(strstr(err.message, cases[i].message) != NULL, "%s", err.message);
    }
    for (int i = 0; i < 3; i++) {
        static const float bad[] = {NAN, INFINITY, -1.0f};
        float weights[8] = {1, 1, 1, 1, 1, bad[i], 1, 1}, v[8] = {1, 2};
        aq_quant_options weighted = {.method = AQ_WEIGHTED, .importance = weights};
        quantized w = quantized_make(1, 8, &weighted);
        cr_expect_eq(aq_quantize_into(&w.layout, v, AQ_F32, &w.dst, NULL, NULL, &err),
                     AQ_E_ARG);
        cr_expect(strstr(err.message, "column 5") != NULL, "%s", err.message);
        quantized_free(&w);
    }
    cr_expect_eq(aq_codebook(8), NULL);
    cr_expect_eq(aq_codebook(4)[8], 0);
    aq_quant_options o = {.codebook = true};
    quantized q = quantized_make(1, 8, &o);
    cr_expect_eq(q.layout.params, AQ_PARAMS_U8);
    cr_expect_eq(aq_params_read(&q.layout, &q.view, 1, &scale, &zero_point, &err),
                 AQ_E_ARG);
    q.layout.params_bytes++;
    cr_expect_eq(aq_params_read(&q.layout, &q.view, 0, &scale, &zero_point, &err),
                 AQ_E_ARG);
    quantized_free(&q);
}
