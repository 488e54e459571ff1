/* aq_metrics_of, aq_metrics_add and the metrics of aq_quantize_into against an oracle in
 * long double; the private aqi_log10 against that of the C library. */
#define NATIVE_SOURCES
#define AQ_STATIC
#define ARROWQUANT_IMPLEMENTATION
#include "quantized.h"

#include <math.h>

/* ---- oracle ---- */

static bool is_near(double have, long double want, double relative) {
    return fabsl(have - want) <= fabsl(want) * relative;
}

/* Cosine and SQNR as the comments of aq_metrics have them; both values are expected
 * finite and different. */
static void check_metrics(const aq_metrics *m, const float *a, const float *b,
                          size_t count, const char *what) {
    long double aa = 0, bb = 0, ab = 0, dd = 0, magnitude = 0, max = 0;
    for (size_t i = 0; i < count; i++) {
        long double x = a[i], y = b[i], d = x - y;
        aa += x * x;
        bb += y * y;
        ab += x * y;
        magnitude += fabsl(x * y);
        dd += d * d;
        max = fmaxl(max, fabsl(d));
    }
    CHECK(m->count == count, "%s: count", what);
    CHECK(is_near(m->sum_aa, aa, 1e-12), "%s: sum_aa %.17g", what, m->sum_aa);
    CHECK(is_near(m->sum_bb, bb, 1e-12), "%s: sum_bb %.17g", what, m->sum_bb);
    /* The products of ab cancel each other: relative to what was added. */
    CHECK(fabsl(m->sum_ab - ab) <= magnitude * 1e-12L, "%s: sum_ab %.17g", what,
          m->sum_ab);
    CHECK(is_near(m->sum_dd, dd, 1e-12), "%s: sum_dd %.17g", what, m->sum_dd);
    CHECK(m->max_abs_error == (double)max, "%s: max %.17g", what, m->max_abs_error);
    CHECK(is_near(m->mse, dd / count, 1e-12), "%s: mse %.17g", what, m->mse);
    CHECK(fabsl(m->cosine - ab / sqrtl(aa * bb)) <= 1e-12L, "%s: cosine %.17g", what,
          m->cosine);
    CHECK(fabsl(m->sqnr_db - 10 * log10l(aa / dd)) <= 1e-11L, "%s: sqnr %.17g", what,
          m->sqnr_db);
}

static aq_metrics metrics_of(const float *a, const float *b, size_t count,
                             const aq_tasks *tasks) {
    aq_metrics m;
    cr_assert_eq(aq_metrics_of(a, b, count, tasks, &m, NULL), AQ_OK);
    return m;
}

static float *make_floats(rng *r, size_t count, float magnitude) {
    float *values = (float *)offset_alloc(0, count * sizeof(float));
    rng_floats(r, values, count, magnitude);
    return values;
}

/* ---- metrics_of ---- */

Test(metrics, against_long_double) {
    static const size_t counts[] = {1,    2,     7,     8,     9,      63,     1000,
                                    4097, 65535, 65536, 65537, 131072, 200001, 300000};
    static const float magnitudes[] = {1.0f, 3e38f, 1e-38f, 1e-44f, 1e10f};
    rng r = {307};
    for (size_t i = 0; i < COUNT_OF(counts); i++) {
        for (size_t k = 0; k < COUNT_OF(magnitudes); k++) {
            float *a = make_floats(&r, counts[i], magnitudes[k]);
            float *b = make_floats(&r, counts[i], magnitudes[k]);
            char what[60];
            aq_metrics m;
            a[0] = magnitudes[k];
            b[0] = magnitudes[k] / 2;
            /* Half of the time b is near a, as after a quantization. */
            for (size_t j = 0; i % 2 == 0 && j < counts[i]; j++)
                b[j] = a[j] * 0.9f;
            m = metrics_of(a, b, counts[i], NULL);
            snprintf(what, sizeof what, "%zu values of %g", counts[i], magnitudes[k]);
            check_metrics(&m, a, b, counts[i], what);
            offset_free(a, 0);
            offset_free(b, 0);
        }
    }
}

Test(metrics, zeros_and_equals) {
    static const struct {
        float a[2], b[2];
        size_t count;
        double cosine, sqnr_db;
    } cases[] = {
        {{0, 0}, {0, 0}, 0, 1, INFINITY},
        {{0, 0}, {0, 0}, 2, 1, INFINITY},
        {{1, 2}, {1, 2}, 2, 1, INFINITY},
        {{1, 2}, {0, 0}, 2, 0, 0},
        {{0, 0}, {1, 2}, 2, 0, -INFINITY},
        {{1, 0}, {0, 1}, 2, 0, -3.0102999566398120},
        {{3, 4}, {-3, -4}, 2, -1, -6.0205999132796239},
        {{0.0f, 1}, {-0.0f, 1}, 2, 1, INFINITY},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        aq_metrics m = metrics_of(cases[i].a, cases[i].b, cases[i].count, NULL);
        cr_expect_eq(m.count, cases[i].count);
        cr_expect_eq(m.cosine, cases[i].cosine, "case %zu: cosine %g", i, m.cosine);
        cr_expect(m.sqnr_db == cases[i].sqnr_db ||
                      fabs(m.sqnr_db - cases[i].sqnr_db) < 1e-14,
                  "case %zu: sqnr %.17g", i, m.sqnr_db);
        cr_expect(!isnan(m.mse));
    }
}

/* NaN and infinities are no huge number of decibels, and no angle. */
Test(metrics, values_that_are_not_finite) {
    const float good[] = {1, 2}, nan[] = {1, NAN}, infinite[] = {1, INFINITY};
    cr_expect(isnan(metrics_of(nan, good, 2, NULL).sqnr_db));
    cr_expect(isnan(metrics_of(good, nan, 2, NULL).sqnr_db));
    cr_expect(isnan(metrics_of(infinite, good, 2, NULL).sqnr_db));
    cr_expect_eq(metrics_of(good, infinite, 2, NULL).sqnr_db, -INFINITY);
    cr_expect(isnan(metrics_of(infinite, infinite, 2, NULL).sqnr_db));
    cr_expect(isnan(metrics_of(nan, good, 2, NULL).cosine));
    cr_expect(isnan(metrics_of(good, nan, 2, NULL).cosine));
    cr_expect(isnan(metrics_of(infinite, good, 2, NULL).cosine));
    cr_expect(isnan(metrics_of(good, infinite, 2, NULL).cosine));
}

/* The cosine never leaves [-1, 1] by rounding. */
Test(metrics, cosine_stays_in_range) {
    rng r = {311};
    for (size_t i = 0; i < 3000; i++) {
        float a[5], b[5];
        aq_metrics m;
        rng_floats(&r, a, 5, 1.0f);
        for (size_t k = 0; k < 5; k++)
            b[k] = (i % 2 == 0 ? 1.0f : -1.0f) * a[k] * 0.5f;
        m = metrics_of(a, b, 5, NULL);
        CHECK(fabs(m.cosine) <= 1.0, "%.17g", m.cosine);
        CHECK(fabs(m.cosine) >= 1.0 - 1e-15, "%.17g", m.cosine);
    }
}

Test(metrics, threads_and_instruction_sets_change_nothing) {
    enum { COUNT = 300001 };
    rng r = {313};
    float *a = make_floats(&r, COUNT, 1.0f), *b = make_floats(&r, COUNT, 1.0f);
    aq_metrics want = metrics_of(a, b, COUNT, NULL), have;
    have = metrics_of(a, b, COUNT, &reverse_tasks);
    cr_assert_arr_eq(&have, &want, sizeof want);
    for (uint32_t count = 1; count <= 16; count++) {
        aq_threads *threads;
        cr_assert_eq(aq_threads_create(count, NULL, &threads, NULL), AQ_OK);
        have = metrics_of(a, b, COUNT, aq_threads_tasks(threads));
        aq_threads_destroy(threads);
        cr_assert_arr_eq(&have, &want, sizeof want, "%u threads", count);
    }
    for (int isa = AQ_ISA_REF; isa <= AQ_ISA_NEON; isa++) {
        if (aq_isa_force((aq_isa)isa) != AQ_OK) continue;
        have = metrics_of(a, b, COUNT, NULL);
        cr_assert_arr_eq(&have, &want, sizeof want, "%s", aq_isa_name((aq_isa)isa));
    }
    offset_free(a, 0);
    offset_free(b, 0);
}

/* More tiles than one wave holds; only a few values are not 0. */
Test(metrics, more_than_a_wave) {
    static const size_t places[] = {0, 65536, 10000000, 16777215, 16777216, 17000000};
    const size_t count = 17000001;
    float *a = (float *)calloc(count, sizeof(float));
    aq_metrics m;
    for (size_t i = 0; i < COUNT_OF(places); i++)
        a[places[i]] = (float)(i + 1);
    m = metrics_of(a, a, count, NULL);
    cr_assert(m.count == count && m.sum_aa == 91 && m.sum_ab == 91 && m.sum_dd == 0);
    free(a);
}

Test(metrics, missing_values) {
    float values[2] = {1, 2};
    aq_metrics m;
    aq_error err;
    cr_assert_eq(aq_metrics_of(NULL, values, 2, NULL, &m, &err), AQ_E_ARG);
    cr_assert_eq(err.status, AQ_E_ARG);
    cr_assert_eq(aq_metrics_of(values, NULL, 2, NULL, &m, &err), AQ_E_ARG);
    cr_assert_eq(aq_metrics_of(NULL, NULL, 0, NULL, &m, &err), AQ_OK);
    cr_assert_eq(err.status, AQ_OK);
}

/* ---- metrics_add ---- */

Test(metrics_add, parts_make_the_whole) {
    enum { COUNT = 10000 };
    static const size_t cuts[] = {0, 1, 9, 1000, 1000, 5555, COUNT};
    rng r = {317};
    float *a = make_floats(&r, COUNT, 1.0f), *b = make_floats(&r, COUNT, 1.0f);
    aq_metrics total;
    memset(&total, 0, sizeof total);
    for (size_t i = 0; i + 1 < COUNT_OF(cuts); i++) {
        aq_metrics part =
            metrics_of(a + cuts[i], b + cuts[i], cuts[i + 1] - cuts[i], NULL);
        aq_metrics_add(&total, &part);
    }
    check_metrics(&total, a, b, COUNT, "sum of the parts");
    offset_free(a, 0);
    offset_free(b, 0);
}

/* The derived fields come from the sums, never from those of the part. */
Test(metrics_add, derives_anew) {
    aq_metrics total, part;
    memset(&total, 0, sizeof total);
    memset(&part, 0, sizeof part);
    part.count = 4;
    part.sum_aa = 16;
    part.sum_bb = 4;
    part.sum_ab = 4;
    part.sum_dd = 0.16;
    part.max_abs_error = 0.5;
    part.mse = part.cosine = part.sqnr_db = 12345;
    aq_metrics_add(&total, &part);
    cr_assert(total.count == 4 && total.mse == 0.04 && total.cosine == 0.5);
    cr_assert_lt(fabs(total.sqnr_db - 20), 1e-12);
    part.max_abs_error = 0.25;
    aq_metrics_add(&total, &part);
    cr_assert(total.count == 8 && total.max_abs_error == 0.5 && total.sum_aa == 32);
}

/* ---- of a quantization ---- */

/* They are those of comparing the source with what dequantizing gives. */
Test(metrics, of_quantize_into) {
    enum { ROWS = 70, COLS = 1234 };
    rng r = {331};
    float *values = make_floats(&r, ROWS * COLS, 1.0f);
    float *back = make_floats(&r, ROWS * COLS, 0.0f);
    aq_quant_options options;
    for (size_t i = 0; quant_options_at(i, &options); i++) {
        quantized q = quantized_make(ROWS, COLS, &options);
        aq_metrics m;
        cr_assert_eq(aq_quantize_into(&q.layout, values, AQ_F32, &q.dst, NULL, &m, NULL),
                     AQ_OK);
        cr_assert_eq(aq_dequantize_rows(&q.layout, &q.view, 0, ROWS, back, NULL, NULL),
                     AQ_OK);
        check_metrics(&m, values, back, ROWS * COLS, quantized_text(&q));
        quantized_free(&q);
    }
    offset_free(values, 0);
    offset_free(back, 0);
}

/* ---- log10 ---- */

static void check_log10(double x) {
    CHECK(is_near(aqi_log10(x), log10l(x), 1e-14), "log10(%a) = %.17g", x, aqi_log10(x));
}

Test(log10, all_exponents) {
    rng r = {337};
    for (int e = -1074; e <= 1023; e++) {
        check_log10(ldexp(1.0, e));
        for (int i = 0; i < 40; i++)
            check_log10(ldexp(1.5 + 0.5 * (double)rng_float(&r), e));
    }
    check_log10(DBL_MAX);
}

/* Around 1 the result nears 0; around sqrt(2) its formula changes. */
Test(log10, hard_places) {
    static const double centers[] = {1.0, 1.4142135623730951, 0.70710678118654757, 10.0};
    for (size_t i = 0; i < COUNT_OF(centers); i++) {
        double above = centers[i], below = centers[i];
        for (int k = 0; k < 50; k++) {
            check_log10(above);
            check_log10(below);
            check_log10(centers[i] * (1 + ldexp(1.0, -k)));
            check_log10(centers[i] * (1 - ldexp(1.0, -k - 1)));
            above = nextafter(above, INFINITY);
            below = nextafter(below, 0);
        }
    }
    cr_assert_eq(aqi_log10(1.0), 0.0);
}

/* ---- moments ---- */

static aq_error err;

Test(moments, against_sums_in_long_double) {
    static const size_t counts[] = {1,    2,    7,     8,     9,     1023,
                                    1024, 1025, 65536, 65537, 300001};
    static const double offsets[] = {0, 1e4, -3e-5};
    aq_threads *threads;
    cr_assert_eq(aq_threads_create(3, NULL, &threads, &err), AQ_OK);
    for (size_t k = 0; k < COUNT_OF(counts) * COUNT_OF(offsets); k++) {
        size_t n = counts[k / COUNT_OF(offsets)];
        double offset = offsets[k % COUNT_OF(offsets)];
        float *v = offset_alloc(4, n * sizeof *v), min, max;
        long double sum = 0, squares = 0;
        aq_moments m, again;
        rng r = {k + 1};
        rng_floats(&r, v, n, 1.0f);
        for (size_t i = 0; i < n; i++) v[i] = (float)((double)v[i] + offset);
        min = max = v[0];
        for (size_t i = 0; i < n; i++) {
            sum += (long double)v[i];
            min = v[i] < min ? v[i] : min;
            max = v[i] > max ? v[i] : max;
        }
        sum /= (long double)n;
        for (size_t i = 0; i < n; i++)
            squares += ((long double)v[i] - sum) * ((long double)v[i] - sum);
        squares /= (long double)n;
        cr_assert_eq(aq_moments_of(v, AQ_F32, n, NULL, &m, &err), AQ_OK);
        cr_assert_eq(aq_isa_force(AQ_ISA_REF), AQ_OK);
        cr_assert_eq(
            aq_moments_of(v, AQ_F32, n, aq_threads_tasks(threads), &again, &err), AQ_OK);
        cr_assert_eq(aq_isa_force(AQ_ISA_AUTO), AQ_OK);
        cr_expect(memcmp(&m, &again, sizeof m) == 0);
        cr_expect(m.count == n && m.min == min && m.max == max);
        cr_expect(m.absmax == (-min > max ? -min : max));
        cr_expect(fabsl((long double)m.mean - sum) <= 1e-14L * (1 + fabsl(sum)),
                  "%zu values: %.17g, not %.17Lg", n, m.mean, sum);
        cr_expect(fabsl((long double)m.variance - squares) <= 1e-12L * squares + 1e-18L,
                  "%zu values: %.17g, not %.17Lg", n, m.variance, squares);
        offset_free(v, 4);
    }
    aq_threads_destroy(threads);
}

Test(moments, arguments) {
    static float v[70000];
    uint16_t halves[3] = {0x3c00, 0xc000, 0x0000}; /* 1, -2, 0 */
    aq_moments m;
    cr_expect_eq(aq_moments_of(NULL, AQ_F32, 0, NULL, &m, &err), AQ_OK);
    cr_expect(m.count == 0 && m.mean == 0 && m.variance == 0);
    cr_expect_eq(aq_moments_of(NULL, AQ_F32, 1, NULL, &m, &err), AQ_E_ARG);
    cr_expect_eq(aq_moments_of(v, AQ_I32, 1, NULL, &m, &err), AQ_E_ARG);
    cr_expect_eq(aq_moments_of(halves, AQ_F16, 3, NULL, &m, &err), AQ_OK);
    cr_expect(m.min == -2 && m.max == 1 && m.absmax == 2 &&
              fabs(m.mean + 1.0 / 3) < 1e-15);
    v[66000] = -INFINITY;
    v[67000] = NAN;
    cr_expect_eq(aq_moments_of(v, AQ_F32, 70000, NULL, &m, &err), AQ_E_NONFINITE);
    cr_expect(strstr(err.message, "value 66000") != NULL, "%s", err.message);
}
