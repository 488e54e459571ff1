/* AQ_REFINE: in no group a larger squared error than AQ_MINMAX, whatever the values; how
 * much it gains on known distributions; the same bytes on every instruction set and for
 * any number of threads. Errors are computed here, in double, from the codes in memory. */
#define NATIVE_SOURCES
#define AQ_STATIC
#define ARROWQUANT_IMPLEMENTATION
#include "../arrowquant.h"

#include "quantized.h"

#include <math.h>

TestSuite(refine, .timeout = 300);

static aq_error err;

typedef enum values {
    GAUSS,
    LAPLACE,
    TWO_VALUES,
    ONE_VALUE,
    OUTLIER,
    OFFSET,
    TINY,
    SUBNORMAL,
    HUGE_ONES,
    ZEROS_OF_BOTH_SIGNS,
    STEPS,
    NUM_VALUES
} values;

static double gauss(rng *r) {
    double u = (double)(rng_next(r) >> 11) * 0x1p-53 + 0x1p-60;
    double v = (double)(rng_next(r) >> 11) * 0x1p-53;
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

static float value_of(rng *r, values kind, size_t i) {
    double g = gauss(r);
    switch (kind) {
    case LAPLACE:
        return (float)(0.02 * g *
                       sqrt(-2 * log((double)(rng_next(r) >> 11) * 0x1p-53 + 1e-18)));
    case TWO_VALUES:
        return g > 1 ? 0.75f : -0.125f;
    case ONE_VALUE:
        return i / 64 % 2 != 0 ? 0.3f : -7.25f;
    case OUTLIER:
        return i % 97 == 5 ? 1e6f : (float)g;
    case OFFSET:
        return (float)(1000.0 + g);
    case TINY:
        return (float)(g * 1e-30);
    case SUBNORMAL:
        return (float)(g * 1e-40);
    case HUGE_ONES:
        return (float)(g * 1e30);
    case ZEROS_OF_BOTH_SIGNS:
        return g > 0.5 ? 0.0f : g < -0.5 ? -0.0f : (float)g;
    case STEPS:
        return (float)(i % 16);
    default:
        return (float)(0.02 * g);
    }
}

static float *make_values(size_t n, values kind, uint64_t seed) {
    rng r = {seed};
    float *v = (float *)offset_alloc(0, n * sizeof *v);
    for (size_t i = 0; i < n; i++) v[i] = value_of(&r, kind, i);
    return v;
}

static quantized quantize(const float *v, size_t rows, size_t cols, aq_quant_options o,
                          aq_method method, const aq_tasks *tasks) {
    o.method = method;
    quantized q = quantized_make(rows, cols, &o);
    cr_assert_eq(aq_quantize_into(&q.layout, v, AQ_F32, &q.dst, tasks, NULL, &err), AQ_OK,
                 "%s", err.message);
    return q;
}

/* Squared error of each group. */
static double *group_errors(const quantized *q, const float *v) {
    const aq_layout *l = &q->layout;
    double *e = calloc(l->num_groups + 1, sizeof *e);
    for (size_t r = 0; r < l->rows; r++) {
        for (size_t c = 0; c < l->cols; c++) {
            double d = (double)v[r * l->cols + c] - (double)quantized_value(q, r, c);
            e[quantized_slot(q, r, c)] += d * d;
        }
    }
    return e;
}

static void check_never_worse(const float *v, size_t rows, size_t cols,
                              const aq_quant_options *o, values kind) {
    quantized a = quantize(v, rows, cols, *o, AQ_MINMAX, NULL);
    quantized b = quantize(v, rows, cols, *o, AQ_REFINE, NULL);
    double *before = group_errors(&a, v), *after = group_errors(&b, v);
    for (size_t g = 0; g < a.layout.num_groups; g++) {
        /* Sums in another order than the library's: a few units of the last place. */
        cr_expect(after[g] <= before[g] * (1 + 1e-13),
                  "%s, values %d, group %zu: %g, then %g", quantized_text(&b), (int)kind,
                  g, before[g], after[g]);
        cr_expect(isfinite(b.dst.scales[g]) && b.dst.scales[g] > 0 &&
                  isfinite(b.dst.zero_points[g]));
        if (o->symmetric)
            cr_expect_eq(b.dst.zero_points[g], a.dst.zero_points[g]);
    }
    free(before);
    free(after);
    quantized_free(&a);
    quantized_free(&b);
}

Test(refine, never_worse_in_any_group) {
    static const struct {
        size_t rows, cols;
    } shapes[] = {{1, 7}, {3, 40}, {2, 301}, {1, 2100}};
    aq_quant_options o = {0};
    for (size_t s = 0; s < COUNT_OF(shapes); s++) {
        for (values kind = 0; kind < NUM_VALUES; kind++) {
            float *v =
                make_values(shapes[s].rows * shapes[s].cols, kind, s * 100 + kind + 1);
            for (size_t i = 0; quant_options_at(i, &o); i++)
                check_never_worse(v, shapes[s].rows, shapes[s].cols, &o, kind);
            offset_free(v, 0);
        }
    }
}

/* Half a million values in groups of 128: every kind of group that comes up. */
Test(refine, never_worse_in_many_groups) {
    static const uint32_t bits[] = {2, 4, 8};
    for (values kind = GAUSS; kind <= LAPLACE; kind++) {
        float *v = make_values(128 * 2048, kind, 77 + kind);
        for (size_t k = 0; k < 6; k++) {
            aq_quant_options o = {.bits = bits[k % 3], .group_size = 128,
                                  .symmetric = k >= 3};
            check_never_worse(v, 128, 2048, &o, kind);
        }
        offset_free(v, 0);
    }
}

/* Signal to noise in dB; floors a little under what was measured. */
Test(refine, what_it_gains) {
    static const struct {
        uint32_t bits;
        bool symmetric;
        double minmax_most, refine_least;
    } cases[] = {{2, false, 6.2, 9.3}, {2, true, 5.5, 8.1},   {4, false, 20.2, 20.4},
                 {4, true, 19.3, 19.4}, {8, false, 44.8, 44.8}};
    float *v = make_values(256 * 1024, GAUSS, 5);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        double db[2];
        for (int refine = 0; refine < 2; refine++) {
            aq_quant_options o = {.bits = cases[i].bits, .symmetric = cases[i].symmetric,
                                  .method = refine ? AQ_REFINE : AQ_MINMAX};
            quantized q = quantized_make(256, 1024, &o);
            aq_metrics m;
            cr_assert_eq(aq_quantize_into(&q.layout, v, AQ_F32, &q.dst, NULL, &m, &err),
                         AQ_OK);
            db[refine] = m.sqnr_db;
            quantized_free(&q);
        }
        cr_expect(db[0] <= cases[i].minmax_most && db[1] >= cases[i].refine_least,
                  "%u bits, symmetric %d: %.2f dB, then %.2f", cases[i].bits,
                  cases[i].symmetric, db[0], db[1]);
    }
    offset_free(v, 0);
}

Test(refine, the_same_bytes_everywhere) {
    aq_quant_options o = {0};
    aq_threads *threads;
    float *v = make_values(7 * 3000, LAPLACE, 9);
    cr_assert_eq(aq_threads_create(3, NULL, &threads, &err), AQ_OK);
    for (size_t i = 0; quant_options_at(i, &o); i++) {
        cr_assert_eq(aq_isa_force(AQ_ISA_REF), AQ_OK);
        quantized want = quantize(v, 7, 3000, o, AQ_REFINE, NULL);
        for (int isa = AQ_ISA_AVX2; isa <= AQ_ISA_NEON; isa++) {
            if (!aq_isa_supported((aq_isa)isa)) continue;
            cr_assert_eq(aq_isa_force((aq_isa)isa), AQ_OK);
            quantized have =
                quantize(v, 7, 3000, o, AQ_REFINE, aq_threads_tasks(threads));
            cr_expect(quantized_same(&want, &have), "%s on %s", quantized_text(&want),
                      aq_isa_name((aq_isa)isa));
            quantized_free(&have);
        }
        quantized_free(&want);
    }
    aq_threads_destroy(threads);
    offset_free(v, 0);
}

/* Blocks of groups that adjoin: 16 groups at a time, a rest, rows of a part of a block;
 * every special case among them. */
Test(refine, the_same_bytes_in_blocks) {
    static const size_t groups[] = {32, 64, 96, 128, 256, 288, 512, 1024};
    for (size_t s = 0; s < COUNT_OF(groups) * 18; s++) {
        size_t n = groups[s / 18], cols = n * (1 + s % 3 * 2), rows = 40960 / cols;
        aq_quant_options o = {.bits = s % 9 < 3 ? 2 : s % 9 < 6 ? 4 : 8,
                              .group_size = n, .symmetric = s / 9 % 2 != 0};
        float *v = make_values(rows * cols, GAUSS, s + 1);
        rng r = {s};
        for (size_t g = 0; g < rows * cols / n; g++) { /* most blocks have no odd group */
            values kind = (values)(rng_next(&r) % (NUM_VALUES * 16));
            for (size_t i = 0; i < n && kind < NUM_VALUES; i++)
                v[g * n + i] = value_of(&r, kind, i);
        }
        for (aq_method method = AQ_MINMAX; method <= AQ_REFINE; method++) {
            cr_assert_eq(aq_isa_force(AQ_ISA_REF), AQ_OK);
            quantized want = quantize(v, rows, cols, o, method, NULL);
            for (int isa = AQ_ISA_AVX2; isa <= AQ_ISA_NEON; isa++) {
                if (!aq_isa_supported((aq_isa)isa)) continue;
                cr_assert_eq(aq_isa_force((aq_isa)isa), AQ_OK);
                quantized have = quantize(v, rows, cols, o, method, NULL);
                cr_expect(quantized_same(&want, &have), "%s, method %d on %s",
                          quantized_text(&want), (int)method, aq_isa_name((aq_isa)isa));
                quantized_free(&have);
            }
            quantized_free(&want);
        }
        check_never_worse(v, rows, cols, &o, GAUSS);
        offset_free(v, 0);
    }
}

/* From halves the same as from their values in float32. */
Test(refine, of_halves) {
    enum { N = 4 * 600 };
    uint16_t halves[N];
    float v[N];
    rng r = {31};
    for (int i = 0; i < N; i++)
        halves[i] = (uint16_t)(rng_next(&r) % 0x7800 | rng_next(&r) << 15);
    for (int type = AQ_F16; type <= AQ_BF16; type++) {
        aq_quant_options o = {.bits = 4, .group_size = 100, .method = AQ_REFINE};
        if (type == AQ_BF16)
            for (int i = 0; i < N; i++)
                halves[i] = (uint16_t)(0x3c00 + halves[i] % 0x300);
        quantized a = quantized_make(4, 600, &o), b = quantized_make(4, 600, &o);
        cr_assert_eq(aq_to_f32(halves, (aq_dtype)type, N, v, &err), AQ_OK);
        cr_assert_eq(
            aq_quantize_into(&a.layout, halves, (aq_dtype)type, &a.dst, NULL, NULL, &err),
            AQ_OK, "%s", err.message);
        cr_assert_eq(aq_quantize_into(&b.layout, v, AQ_F32, &b.dst, NULL, NULL, &err),
                     AQ_OK);
        cr_expect(quantized_same(&a, &b));
        quantized_free(&a);
        quantized_free(&b);
    }
}

Test(refine, methods_that_are_none) {
    aq_quant_options o = {.method = (aq_method)5};
    aq_layout l;
    cr_assert_eq(aq_layout_init(1, 8, &o, &l, &err), AQ_E_ARG);
    cr_assert(strstr(err.message, "method 5") != NULL, "%s", err.message);
    o.method = (aq_method)-1;
    cr_assert_eq(aq_layout_init(1, 8, &o, &l, &err), AQ_E_ARG);
    o.method = AQ_METHOD_AUTO;
    cr_assert_eq(aq_layout_init(1, 8, &o, &l, &err), AQ_OK);
    cr_assert_eq(l.method, AQ_REFINE);
}

/* The grids divide by their unit exactly: at the start the codes are those of min-max. */
Test(refine, grids) {
    for (size_t k = 0; k < COUNT_OF(aqi_grids); k++) {
        const aqi_grid *g = &aqi_grids[k];
        uint32_t unit = (uint32_t)g->unit, codes = 1u << g->bits;
        cr_assert_leq((codes + 1) * unit, 32767u);
        for (uint32_t x = 0; x < 32768; x++)
            cr_assert_eq((x * g->slope >> 16) >> g->shift, x / unit, "%u bits, %u",
                         g->bits, x);
    }
}
