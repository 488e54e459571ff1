/* aq_layout_init and aq_quantize_into against an oracle in double, written from the
 * formulas of their comments: scales, zero points, codes, packing, error bounds, errors,
 * and that neither threads nor the instruction set change a byte. */
#define NATIVE_SOURCES
#include "quantized.h"

#include <float.h>
#include <math.h>

/* ---- oracle ---- */

/* Rows [row, row_end) and columns [col, col_end) share scale and zero point `slot`. */
typedef struct group {
    size_t row, row_end, col, col_end, slot;
    double min, max, absmax;
    float scale, zero_point;
} group;

/* Outside, float32 arithmetic reaches its limits: there the error bound is all we ask. */
static bool is_ordinary(const group *g) {
    return g->absmax < 1e30 && (g->max - g->min) / 255.0 > 1e-30;
}

static double ulp_of(double magnitude) { return fmax(magnitude * 0x1p-23, 0x1p-149); }

static void check_parameters(const quantized *q, const group *g) {
    double max_code = (1u << q->layout.bits) - 1u, half = 1u << (q->layout.bits - 1);
    bool symmetric = q->layout.symmetric;
    double scale = symmetric ? 2 * g->absmax / max_code : (g->max - g->min) / max_code;
    double zero_point = symmetric ? half : -g->min / scale;
    CHECK(isfinite(g->scale) && g->scale > 0, "%s: scale %g of group %zu",
          quantized_text(q), g->scale, g->slot);
    CHECK(isfinite(g->zero_point), "%s: zero point %g of group %zu", quantized_text(q),
          g->zero_point, g->slot);
    if (symmetric)
        CHECK(g->zero_point == half, "%s: zero point %g", quantized_text(q),
              g->zero_point);
    if (g->min == g->max || !is_ordinary(g)) return;
    CHECK(fabs(g->scale - scale) <= scale * 0x1p-22, "%s: scale %.9g, not %.9g",
          quantized_text(q), g->scale, scale);
    CHECK(fabs(g->zero_point - zero_point) <= fabs(zero_point) * 0x1p-21 + 0x1p-140,
          "%s: zero point %.9g, not %.9g", quantized_text(q), g->zero_point, zero_point);
}

static void check_value(const quantized *q, const group *g, double value, size_t r,
                        size_t c) {
    double max_code = (1u << q->layout.bits) - 1u, half = 1u << (q->layout.bits - 1);
    double code = quantized_code(q, r, c), decoded = quantized_value(q, r, c);
    double bound = g->scale / 2.0 + 6 * ulp_of(g->absmax);
    if (g->min == g->max) bound = 0;
    CHECK(isfinite(decoded) && fabs(decoded - value) <= bound,
          "%s: (%zu, %zu) is %.9g, decoded %.9g, scale %.9g", quantized_text(q), r, c,
          value, decoded, g->scale);
    if (g->min == g->max || !is_ordinary(g)) return;
    /* The nearest code; 1e-4 is what float32 arithmetic may cost at 255. */
    value = q->layout.symmetric ? value / g->scale + half : (value - g->min) / g->scale;
    value = fmin(fmax(value, 0), max_code);
    CHECK(fabs(code - value) <= 0.5 + 1e-4, "%s: (%zu, %zu) is %.9g steps, code %g",
          quantized_text(q), r, c, value, code);
}

static void check_group(const quantized *q, const float *values, group *g) {
    size_t cols = q->layout.cols;
    g->min = INFINITY;
    g->max = -INFINITY;
    for (size_t r = g->row; r < g->row_end; r++) {
        for (size_t c = g->col; c < g->col_end; c++) {
            g->min = fmin(g->min, values[r * cols + c]);
            g->max = fmax(g->max, values[r * cols + c]);
        }
    }
    g->absmax = fmax(fabs(g->min), fabs(g->max));
    g->scale = q->dst.scales[g->slot];
    g->zero_point = q->dst.zero_points[g->slot];
    check_parameters(q, g);
    for (size_t r = g->row; r < g->row_end; r++)
        for (size_t c = g->col; c < g->col_end; c++)
            check_value(q, g, values[r * cols + c], r, c);
}

/* Everything that a quantized tensor has to be. `options` are those of its layout. */
static void check_tensor(const quantized *q, const float *values,
                         const aq_quant_options *options) {
    size_t rows = q->layout.rows, cols = q->layout.cols, slot = 0;
    size_t high = options->granularity == AQ_PER_TENSOR ? rows : 1;
    size_t wide = options->granularity == AQ_PER_GROUP ? options->group_size : cols;
    for (size_t r = 0; r < rows && cols > 0; r += high) {
        for (size_t c = 0; c < cols; c += wide) {
            group g = {r, r + high, c, c + wide < cols ? c + wide : cols, slot++, 0, 0,
                       0, 0,        0};
            check_group(q, values, &g);
        }
    }
    CHECK(slot == q->layout.num_groups, "%s: %zu groups", quantized_text(q), slot);
    for (size_t r = 0; r < rows; r++)
        for (size_t i = cols * q->layout.bits; i < q->layout.row_bytes * 8; i++)
            CHECK(quantized_bit(q, r, i) == 0, "%s: row %zu ends in rubbish",
                  quantized_text(q), r);
}

static void quantize(quantized *q, const void *values, aq_dtype dtype,
                     const aq_tasks *tasks, aq_metrics *metrics) {
    aq_error err;
    aq_status status =
        aq_quantize_into(&q->layout, values, dtype, &q->dst, tasks, metrics, &err);
    CHECK(status == AQ_OK, "%s: %s", quantized_text(q), err.message);
}

/* ---- values ---- */

typedef enum pattern {
    UNIFORM,
    FAR_FROM_ZERO,
    NEGATIVE,
    BELL,
    STEPS, /* few different values: ties */
    SPARSE,
    MAGNITUDES,
    NUM_PATTERNS
} pattern;

static float pattern_value(rng *r, pattern p) {
    float u = rng_float(r);
    switch (p) {
    case FAR_FROM_ZERO:
        return 1000.0f + u;
    case NEGATIVE:
        return -5.0f - fabsf(u);
    case BELL:
        return 0.02f * (u + rng_float(r) + rng_float(r) + rng_float(r));
    case STEPS:
        return floorf(u * 16.0f) * 0.25f;
    case SPARSE:
        return rng_below(r, 8) == 0 ? 1000.0f * u : 0.0f;
    case MAGNITUDES:
        return u * powf(10.0f, (float)rng_below(r, 41) - 20.0f);
    default:
        return 2.0f * u;
    }
}

static float *pattern_make(rng *r, pattern p, size_t count) {
    float *values = (float *)offset_alloc(0, count * sizeof(float));
    for (size_t i = 0; i < count; i++)
        values[i] = pattern_value(r, p);
    return values;
}

/* ---- layout ---- */

Test(layout, fields) {
    static const struct {
        size_t rows, cols;
        aq_quant_options options;
        /* group rows, group cols, groups per row, groups, row bytes, code bytes */
        size_t want[6];
    } cases[] = {
        {3,
         300,
         {4, 128, AQ_PER_GROUP, false, AQ_MINMAX, 0, false, 0, NULL, NULL},
         {1, 128, 3, 9, 150, 450}},
        {2,
         9,
         {2, 8, AQ_PER_GROUP, true, AQ_MINMAX, 0, false, 0, NULL, NULL},
         {1, 8, 2, 4, 3, 6}},
        {5,
         7,
         {8, 64, AQ_PER_GROUP, false, AQ_MINMAX, 0, false, 0, NULL, NULL},
         {1, 64, 1, 5, 7, 35}},
        {4,
         10,
         {4, 0, AQ_PER_CHANNEL, false, AQ_MINMAX, 0, false, 0, NULL, NULL},
         {1, 10, 1, 4, 5, 20}},
        {4,
         3,
         {2, 0, AQ_PER_TENSOR, true, AQ_MINMAX, 0, false, 0, NULL, NULL},
         {4, 3, 1, 1, 1, 4}},
        {0,
         10,
         {4, 0, AQ_PER_TENSOR, false, AQ_MINMAX, 0, false, 0, NULL, NULL},
         {1, 10, 1, 0, 5, 0}},
        {6,
         0,
         {4, 0, AQ_PER_CHANNEL, false, AQ_MINMAX, 0, false, 0, NULL, NULL},
         {1, 1, 0, 0, 0, 0}},
        {0,
         0,
         {8, 9, AQ_PER_GROUP, false, AQ_MINMAX, 0, false, 0, NULL, NULL},
         {1, 9, 0, 0, 0, 0}},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const aq_quant_options *o = &cases[i].options;
        aq_layout l;
        cr_assert_eq(aq_layout_init(cases[i].rows, cases[i].cols, o, &l, NULL), AQ_OK);
        size_t have[6] = {l.group_rows, l.group_cols, l.groups_per_row,
                          l.num_groups, l.row_bytes,  l.code_bytes};
        cr_expect(l.bits == o->bits && l.code_bits == o->bits &&
                      l.symmetric == o->symmetric && l.granularity == o->granularity,
                  "case %zu: options", i);
        cr_expect(l.rows == cases[i].rows && l.cols == cases[i].cols, "case %zu", i);
        cr_expect_arr_eq(have, cases[i].want, sizeof have, "case %zu: sizes", i);
    }
}

Test(layout, no_options_are_the_defaults) {
    aq_layout l;
    cr_assert_eq(aq_layout_init(2, 300, NULL, &l, NULL), AQ_OK);
    cr_assert(l.bits == 4 && l.group_cols == 128 && !l.symmetric);
}

Test(layout, refused) {
    static const struct {
        size_t rows, cols;
        aq_quant_options options;
        aq_status want;
    } cases[] = {
        {1, 8, {1, 0, 0, false, AQ_MINMAX, 0, false, 0, NULL, NULL}, AQ_E_ARG},
        {1, 8, {7, 0, 0, false, AQ_MINMAX, 0, false, 0, NULL, NULL}, AQ_E_ARG},
        {1, 8, {9, 0, 0, false, AQ_MINMAX, 0, false, 0, NULL, NULL}, AQ_E_ARG},
        {1, 8, {16, 0, 0, false, AQ_MINMAX, 0, false, 0, NULL, NULL}, AQ_E_ARG},
        {1, 8, {UINT32_MAX, 0, 0, false, AQ_MINMAX, 0, false, 0, NULL, NULL}, AQ_E_ARG},
        {1, 8, {4, 7, 0, false, AQ_MINMAX, 0, false, 0, NULL, NULL}, AQ_E_ARG},
        {1, 8, {4, 1, 0, false, AQ_MINMAX, 0, false, 0, NULL, NULL}, AQ_E_ARG},
        {1,
         8,
         {4, 7, AQ_PER_CHANNEL, false, AQ_MINMAX, 0, false, 0, NULL, NULL},
         AQ_E_ARG},
        {1,
         8,
         {4, 0, (aq_granularity)3, false, AQ_MINMAX, 0, false, 0, NULL, NULL},
         AQ_E_ARG},
        {1,
         8,
         {4, 0, (aq_granularity)-1, false, AQ_MINMAX, 0, false, 0, NULL, NULL},
         AQ_E_ARG},
        {SIZE_MAX, 2, {8, 0, 0, false, AQ_MINMAX, 0, false, 0, NULL, NULL}, AQ_E_LIMIT},
        {2, SIZE_MAX, {8, 0, 0, false, AQ_MINMAX, 0, false, 0, NULL, NULL}, AQ_E_LIMIT},
        {1,
         SIZE_MAX / 2,
         {4, 0, 0, false, AQ_MINMAX, 0, false, 0, NULL, NULL},
         AQ_E_LIMIT},
        {SIZE_MAX,
         SIZE_MAX,
         {2, 0, AQ_PER_TENSOR, false, AQ_MINMAX, 0, false, 0, NULL, NULL},
         AQ_E_LIMIT},
        {SIZE_MAX, 1, {2, 0, 0, false, AQ_MINMAX, 0, false, 0, NULL, NULL}, AQ_E_LIMIT},
        {SIZE_MAX / 4 + 1,
         1,
         {2, 0, AQ_PER_CHANNEL, false, AQ_MINMAX, 0, false, 0, NULL, NULL},
         AQ_E_LIMIT},
    };
    static const aq_layout zero;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        aq_layout l;
        aq_error err;
        aq_status status;
        memset(&l, 0xEE, sizeof l);
        status =
            aq_layout_init(cases[i].rows, cases[i].cols, &cases[i].options, &l, &err);
        cr_expect_eq(status, cases[i].want, "case %zu: %s", i, aq_status_name(status));
        cr_expect_eq(err.status, cases[i].want);
        cr_expect_neq(err.message[0], '\0');
        cr_expect_arr_eq(&l, &zero, sizeof l, "case %zu: layout is not zero", i);
    }
}

/* The largest group is a legal one. */
Test(layout, group_larger_than_the_row) {
    static const aq_quant_options options = {.bits = 4,
                                             .group_size = SIZE_MAX,
                                             .granularity = AQ_PER_GROUP,
                                             .method = AQ_MINMAX};
    aq_layout l;
    cr_assert_eq(aq_layout_init(3, 20, &options, &l, NULL), AQ_OK);
    cr_assert_eq(l.num_groups, 3u);
}

/* ---- small tensors: every option ---- */

Test(quantize, every_option_shape_and_pattern) {
    static const size_t shapes[][2] = {{0, 0},  {0, 5},   {5, 0},  {1, 1},  {1, 7},
                                       {3, 1},  {2, 8},   {3, 9},  {5, 17}, {4, 31},
                                       {7, 65}, {3, 130}, {2, 301}};
    rng r = {101};
    aq_quant_options options;
    for (size_t i = 0; quant_options_at(i, &options); i++) {
        for (size_t s = 0; s < COUNT_OF(shapes) * NUM_PATTERNS; s++) {
            const size_t *shape = shapes[s / NUM_PATTERNS];
            quantized q = quantized_make(shape[0], shape[1], &options);
            float *values =
                pattern_make(&r, (pattern)(s % NUM_PATTERNS), shape[0] * shape[1]);
            quantize(&q, values, AQ_F32, NULL, NULL);
            check_tensor(&q, values, &options);
            offset_free(values, 0);
            quantized_free(&q);
        }
    }
}

/* A scale of 1 makes each half a tie, above and below an even code. */
Test(quantize, ties_go_to_the_even_code) {
    static const uint32_t bits[] = {2, 4, 8};
    for (size_t b = 0; b < COUNT_OF(bits); b++) {
        aq_quant_options options = {
            .bits = bits[b], .granularity = AQ_PER_CHANNEL, .method = AQ_MINMAX};
        size_t max_code = ((size_t)1 << bits[b]) - 1, cols = 2 * max_code + 1;
        quantized q = quantized_make(1, cols, &options);
        float values[511];
        for (size_t i = 0; i < cols; i++)
            values[i] = (float)i * 0.5f;
        quantize(&q, values, AQ_F32, NULL, NULL);
        cr_assert_eq(q.dst.scales[0], 1.0f);
        cr_assert_eq(q.dst.zero_points[0], 0.0f);
        for (size_t i = 0; i < cols; i++) {
            size_t below = i / 2, even = (below + 1) / 2 * 2;
            cr_expect_eq(quantized_code(&q, 0, i), i % 2 == 0 ? below : even,
                         "%u bits: %.1f has code %u", bits[b], values[i],
                         quantized_code(&q, 0, i));
        }
        quantized_free(&q);
    }
}

/* A small tensor, by hand: 3 rows of 5 values at 2 bits. */
Test(quantize, bytes_of_a_small_tensor) {
    static const aq_quant_options options = {
        .bits = 2, .group_size = 8, .granularity = AQ_PER_GROUP, .method = AQ_MINMAX};
    static const float values[3][5] = {
        {0, 1, 2, 3, 0}, {-3, -1, 1, 3, -3}, {7, 7, 7, 7, 7}};
    static const uint8_t codes[6] = {0xE4, 0x00, 0xE4, 0x00, 0x00, 0x00};
    static const float scales[3] = {1, 2, 7}, zero_points[3] = {0, 1.5f, -1};
    quantized q = quantized_make(3, 5, &options);
    quantize(&q, values, AQ_F32, NULL, NULL);
    cr_expect_arr_eq(q.dst.codes, codes, sizeof codes);
    cr_expect_arr_eq(q.dst.scales, scales, sizeof scales);
    cr_expect_arr_eq(q.dst.zero_points, zero_points, sizeof zero_points);
    quantized_free(&q);
}

Test(quantize, constant_groups_are_exact) {
    static const float constants[] = {1.0f,  -1.0f,   0.0f,     -0.0f,   0.1f,
                                      -0.7f, 1e-45f,  -1e-45f,  FLT_MIN, -1e-39f,
                                      3e38f, FLT_MAX, -FLT_MAX, 1e30f,   1.0000001f};
    enum { ROWS = 3, COLS = 20 };
    aq_quant_options options;
    for (size_t i = 0; quant_options_at(i, &options); i++) {
        for (size_t k = 0; k < COUNT_OF(constants); k++) {
            quantized q = quantized_make(ROWS, COLS, &options);
            float values[ROWS * COLS];
            aq_metrics m;
            for (size_t j = 0; j < ROWS * COLS; j++)
                values[j] = constants[k];
            /* Zeros of both signs are a constant too. */
            if (constants[k] == 0.0f) values[5] = -constants[k];
            quantize(&q, values, AQ_F32, NULL, &m);
            check_tensor(&q, values, &options);
            CHECK(m.sum_dd == 0 && m.max_abs_error == 0 && m.cosine == 1.0 &&
                      m.sqnr_db == INFINITY,
                  "%s: metrics of the constant %g", quantized_text(&q), constants[k]);
            quantized_free(&q);
        }
    }
}

/* ---- extreme values ---- */

/* Two values for a group; the others lie between them. */
static const float extremes[][2] = {
    {0, 1e-45f},           {1e-45f, 3e-45f},     {-1e-45f, 1e-45f},
    {0, 4e-43f},           {1e-40f, 2e-40f},     {-1e-38f, 1e-44f},
    {FLT_MIN, 1.2e-38f},   {0, FLT_MIN},         {-FLT_MIN, FLT_MIN},
    {1e-35f, 1.0001e-35f}, {0, 2e-28f},          {-1e-30f, 1e-30f},
    {7.8e-31f, 2e-28f},    {0, 1e-29f},          {0, 1e30f},
    {-1e30f, 1},           {1, 1.0000001f},      {-1.27e30f, 1.26e30f},
    {0, 1.2677e30f},       {0, 1e38f},           {1e-45f, 1e38f},
    {-2e38f, 1e38f},       {3.3e38f, 3.4e38f},   {0, FLT_MAX},
    {-1, FLT_MAX},         {-FLT_MAX, 1e-45f},   {-FLT_MAX, 3e38f},
    {-FLT_MAX, FLT_MAX},   {-3.4e38f, -3.3e38f}, {16777216, 16777218},
    {-8388609, -8388608},
};

static void check_extreme(const float *ends, bool negated,
                          const aq_quant_options *options) {
    enum { ROWS = 2, COLS = 21 };
    quantized q = quantized_make(ROWS, COLS, options);
    float values[ROWS * COLS], sign = negated ? -1.0f : 1.0f;
    for (int i = 0; i < ROWS * COLS; i++) {
        double part = i % 5 / 4.0;
        values[i] = sign * (float)(ends[0] * (1 - part) + ends[1] * part);
    }
    quantize(&q, values, AQ_F32, NULL, NULL);
    check_tensor(&q, values, options);
    quantized_free(&q);
}

Test(quantize, extreme_values) {
    aq_quant_options options;
    for (size_t i = 0; quant_options_at(i, &options); i++) {
        for (size_t e = 0; e < COUNT_OF(extremes); e++) {
            check_extreme(extremes[e], false, &options);
            check_extreme(extremes[e], true, &options);
        }
    }
}

/* One value dwarfs all others: its group has a wide bound, the others keep theirs. */
Test(quantize, one_outlier) {
    static const float outliers[] = {1e30f, -1e30f, 1e38f, FLT_MAX, 1e6f};
    enum { ROWS = 3, COLS = 50 };
    rng r = {103};
    aq_quant_options options;
    for (size_t i = 0; quant_options_at(i, &options); i++) {
        for (size_t k = 0; k < COUNT_OF(outliers); k++) {
            quantized q = quantized_make(ROWS, COLS, &options);
            float values[ROWS * COLS];
            rng_floats(&r, values, ROWS * COLS, 1.0f);
            values[rng_below(&r, ROWS * COLS)] = outliers[k];
            quantize(&q, values, AQ_F32, NULL, NULL);
            check_tensor(&q, values, &options);
            quantized_free(&q);
        }
    }
}

/* Any finite bit patterns. */
Test(quantize, any_finite_bits) {
    enum { ROWS = 3, COLS = 40 };
    rng r = {107};
    aq_quant_options options;
    for (size_t i = 0; quant_options_at(i, &options); i++) {
        for (int round = 0; round < 20; round++) {
            quantized q = quantized_make(ROWS, COLS, &options);
            float values[ROWS * COLS];
            for (size_t k = 0; k < ROWS * COLS; k++) {
                do
                    rng_bytes(&r, &values[k], sizeof values[k]);
                while (!isfinite(values[k]));
            }
            quantize(&q, values, AQ_F32, NULL, NULL);
            check_tensor(&q, values, &options);
            quantized_free(&q);
        }
    }
}

/* ---- types and alignment of the source ---- */

/* Writes `value` as the type, little-endian, and returns what it has become as float32.
 * The halves are truncated: any value will do. */
static float store_as(aq_dtype dtype, float value, double fraction, uint8_t *dst) {
    double wide = value + fraction;
    uint32_t bits;
    uint16_t half;
    memcpy(&bits, &value, sizeof bits);
    switch (dtype) {
    case AQ_F64:
        memcpy(dst, &wide, sizeof wide);
        return (float)wide;
    case AQ_BF16:
        half = (uint16_t)(bits >> 16);
        memcpy(dst, &half, sizeof half);
        bits &= 0xffff0000u;
        memcpy(&value, &bits, sizeof value);
        return value;
    case AQ_F16: /* 1/8 <= |value| < 4 */
        half =
            (uint16_t)((bits >> 16 & 0x8000u) | ((bits >> 13 & 0x3ffffu) - (112u << 10)));
        memcpy(dst, &half, sizeof half);
        bits &= 0xffffe000u;
        memcpy(&value, &bits, sizeof value);
        return value;
    default:
        memcpy(dst, &value, sizeof value);
        return value;
    }
}

static const aq_dtype float_types[] = {AQ_F32, AQ_F16, AQ_BF16, AQ_F64};

/* Every type from every offset gives what its values give as aligned float32. */
Test(quantize, types_and_offsets) {
    enum { ROWS = 3, COLS = 1100 };
    rng r = {109};
    aq_quant_options options;
    for (size_t i = 0; quant_options_at(i, &options); i += 4) {
        for (size_t k = 0; k < COUNT_OF(float_types) * 9; k++) {
            aq_dtype dtype = float_types[k / 9];
            size_t offset = k % 9, bytes = aq_dtype_bytes(dtype);
            uint8_t *src = (uint8_t *)offset_alloc(offset, ROWS * COLS * bytes);
            static float values[ROWS * COLS], converted[ROWS * COLS];
            quantized q = quantized_make(ROWS, COLS, &options);
            quantized want = quantized_make(ROWS, COLS, &options);
            aq_metrics m, want_m;
            for (size_t j = 0; j < ROWS * COLS; j++) {
                float u = rng_float(&r);
                float value = u < 0 ? -0.125f + 3 * u : 0.125f + 3 * u;
                values[j] =
                    store_as(dtype, value, rng_float(&r) * 0x1p-24, src + j * bytes);
            }
            cr_assert_eq(aq_to_f32(src, dtype, ROWS * COLS, converted, NULL), AQ_OK);
            CHECK(memcmp(converted, values, sizeof values) == 0, "%s at offset %zu",
                  aq_dtype_name(dtype), offset);
            quantize(&want, values, AQ_F32, NULL, &want_m);
            quantize(&q, src, dtype, NULL, &m);
            CHECK(quantized_same(&q, &want) && memcmp(&m, &want_m, sizeof m) == 0,
                  "%s at offset %zu: %s", aq_dtype_name(dtype), offset,
                  quantized_text(&q));
            offset_free(src, offset);
            quantized_free(&q);
            quantized_free(&want);
        }
    }
}

/* ---- NaN and infinity ---- */

/* Refused, with the place of the first bad value in the message. */
static void check_nonfinite(quantized *q, const void *values, aq_dtype dtype,
                            const aq_tasks *tasks, size_t index, const char *what) {
    aq_metrics m;
    aq_error err;
    char where[100];
    size_t cols = q->layout.cols;
    aq_status status =
        aq_quantize_into(&q->layout, values, dtype, &q->dst, tasks, &m, &err);
    snprintf(where, sizeof where, "%s at index %zu (row %zu, column %zu)", what, index,
             index / cols, index % cols);
    CHECK(status == AQ_E_NONFINITE && err.status == status, "%s: %s: %s",
          quantized_text(q), where, aq_status_name(status));
    CHECK(strstr(err.message, where) != NULL, "%s: not \"%s\" but \"%s\"",
          quantized_text(q), where, err.message);
}

Test(nonfinite, every_position) {
    static const struct {
        float value;
        const char *what;
    } bad[] = {{NAN, "NaN"}, {INFINITY, "+infinity"}, {-INFINITY, "-infinity"}};
    enum { ROWS = 3, COLS = 21 };
    aq_quant_options options;
    rng r = {113};
    for (size_t i = 0; quant_options_at(i, &options); i++) {
        quantized q = quantized_make(ROWS, COLS, &options);
        for (size_t k = 0; k < COUNT_OF(bad) * ROWS * COLS; k++) {
            size_t index = k / COUNT_OF(bad);
            float values[ROWS * COLS];
            rng_floats(&r, values, ROWS * COLS, 1.0f);
            values[index] = bad[k % COUNT_OF(bad)].value;
            /* Another one behind it changes nothing. */
            if (k % 2 != 0) values[ROWS * COLS - 1] = values[index];
            check_nonfinite(&q, values, AQ_F32, NULL, index, bad[k % COUNT_OF(bad)].what);
        }
        quantized_free(&q);
    }
}

/* Negative and signalling NaNs, and those of the other types. */
Test(nonfinite, types) {
    static const struct {
        aq_dtype dtype;
        uint64_t bits;
        const char *what;
    } cases[] = {
        {AQ_F32, 0xffc00000u, "NaN"},
        {AQ_F32, 0x7f800001u, "NaN"},
        {AQ_F32, 0xff800001u, "NaN"},
        {AQ_F32, 0x7fffffffu, "NaN"},
        {AQ_F16, 0x7c00u, "+infinity"},
        {AQ_F16, 0xfc00u, "-infinity"},
        {AQ_F16, 0x7c01u, "NaN"},
        {AQ_F16, 0xfe00u, "NaN"},
        {AQ_BF16, 0x7f80u, "+infinity"},
        {AQ_BF16, 0xff80u, "-infinity"},
        {AQ_BF16, 0x7f81u, "NaN"},
        {AQ_BF16, 0xffffu, "NaN"},
        {AQ_F64, 0x7ff8000000000000u, "NaN"},
        {AQ_F64, 0x7ff0000000000001u, "NaN"},
        {AQ_F64, 0x47efffffe0000000u, NULL}, /* FLT_MAX */
        {AQ_F64, 0x47efffffefffffffu, NULL}, /* the last that rounds to FLT_MAX */
        {AQ_F64, 0x47effffff0000000u,
         "+infinity in float32"}, /* the first that does not */
        {AQ_F64, 0xc7effffff0000000u, "-infinity in float32"},
        {AQ_F64, 0x7fefffffffffffffu, "+infinity in float32"}, /* DBL_MAX */
    };
    static const aq_quant_options options = {
        .bits = 8, .group_size = 8, .granularity = AQ_PER_GROUP, .method = AQ_MINMAX};
    enum { COLS = 30 };
    quantized q = quantized_make(1, COLS, &options);
    for (size_t i = 0; i < COUNT_OF(cases) * COLS; i++) {
        size_t bytes = aq_dtype_bytes(cases[i / COLS].dtype), index = i % COLS;
        uint8_t src[COLS * 8] = {0};
        put_native(src + index * bytes, cases[i / COLS].bits, bytes);
        if (cases[i / COLS].what != NULL)
            check_nonfinite(&q, src, cases[i / COLS].dtype, NULL, index,
                            cases[i / COLS].what);
        else
            quantize(&q, src, cases[i / COLS].dtype, NULL, NULL);
    }
    quantized_free(&q);
}

/* Of several in different tiles the first is named, in whatever order tiles run. */
Test(nonfinite, first_of_many_tiles) {
    enum { ROWS = 40, COLS = 9000 };
    static const size_t bad[][2] = {{359999, 70000}, {200000, 199999}, {5, 300000}};
    float *values = (float *)calloc(ROWS * COLS, sizeof(float));
    aq_threads *threads;
    cr_assert_eq(aq_threads_create(4, NULL, &threads, NULL), AQ_OK);
    for (size_t i = 0; i < COUNT_OF(bad) * 3; i++) {
        aq_quant_options options = {.bits = 4,
                                    .group_size = 64,
                                    .granularity = (aq_granularity)(i % 3),
                                    .method = AQ_MINMAX};
        const size_t *two = bad[i / 3];
        size_t first = two[0] < two[1] ? two[0] : two[1];
        quantized q = quantized_make(ROWS, COLS, &options);
        values[two[0]] = values[two[1]] = NAN;
        check_nonfinite(&q, values, AQ_F32, NULL, first, "NaN");
        check_nonfinite(&q, values, AQ_F32, &reverse_tasks, first, "NaN");
        check_nonfinite(&q, values, AQ_F32, aq_threads_tasks(threads), first, "NaN");
        values[two[0]] = values[two[1]] = 0;
        quantized_free(&q);
    }
    aq_threads_destroy(threads);
    free(values);
}

/* ---- wrong arguments ---- */

Test(arguments, missing_pointers_and_wrong_types) {
    static const aq_quant_options options = {
        .bits = 4, .group_size = 8, .granularity = AQ_PER_GROUP, .method = AQ_MINMAX};
    static const aq_dtype wrong_types[] = {AQ_DTYPE_NONE, AQ_I8,       AQ_U64,
                                           AQ_BOOL,       AQ_F8_E4M3,  AQ_F8_E5M2,
                                           (aq_dtype)99,  (aq_dtype)-1};
    float values[32] = {0};
    quantized q = quantized_make(2, 16, &options);
    for (int missing = 0; missing < 6; missing++) {
        aq_quantized dst = q.dst;
        aq_error err;
        if (missing == 2) dst.codes = NULL;
        if (missing == 3) dst.scales = NULL;
        if (missing == 4) dst.zero_points = NULL;
        cr_expect_eq(aq_quantize_into(missing == 0 ? NULL : &q.layout,
                                      missing == 1 ? NULL : values, AQ_F32,
                                      missing == 5 ? NULL : &dst, NULL, NULL, &err),
                     AQ_E_ARG, "pointer %d", missing);
        cr_expect_eq(err.status, AQ_E_ARG);
    }
    for (size_t i = 0; i < COUNT_OF(wrong_types); i++) {
        cr_expect_eq(
            aq_quantize_into(&q.layout, values, wrong_types[i], &q.dst, NULL, NULL, NULL),
            AQ_E_ARG, "type %d", (int)wrong_types[i]);
        cr_expect_eq(aq_to_f32(values, wrong_types[i], 1, values, NULL), AQ_E_ARG);
    }
    cr_expect_eq(aq_to_f32(NULL, AQ_F32, 1, values, NULL), AQ_E_ARG);
    cr_expect_eq(aq_to_f32(values, AQ_F32, 1, NULL, NULL), AQ_E_ARG);
    cr_expect_eq(aq_to_f32(NULL, AQ_F32, 0, NULL, NULL), AQ_OK);
    quantized_free(&q);
}

/* Groups of rows, as another writer's model has them: consistent, but not for writing. */
Test(arguments, layout_with_groups_of_rows) {
    static const aq_quant_options options = {
        .bits = 8, .granularity = AQ_PER_CHANNEL, .method = AQ_MINMAX};
    static const float values[6 * 10];
    quantized q = quantized_make(6, 10, &options);
    q.layout.group_rows = 2;
    q.layout.num_groups = 3;
    cr_assert_eq(aq_quantize_into(&q.layout, values, AQ_F32, &q.dst, NULL, NULL, NULL),
                 AQ_E_ARG);
    quantized_free(&q);
}

/* Without values nothing has to be there. */
Test(arguments, empty_tensors) {
    static const size_t shapes[][2] = {{0, 5}, {5, 0}, {0, 0}};
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        aq_layout l;
        aq_metrics m;
        memset(&m, 0xEE, sizeof m);
        cr_assert_eq(aq_layout_init(shapes[i][0], shapes[i][1], NULL, &l, NULL), AQ_OK);
        cr_assert_eq(aq_quantize_into(&l, NULL, AQ_F32, NULL, NULL, &m, NULL), AQ_OK);
        cr_assert(m.count == 0 && m.sum_aa == 0 && m.mse == 0 && m.cosine == 1.0);
    }
}

/* Another value for one field of a layout, little-endian. */
typedef struct change {
    const char *name;
    size_t offset, bytes;
    uint64_t value;
} change;

#define CHANGE(field, value)                                                             \
    { #field, offsetof(aq_layout, field), sizeof(((aq_layout *)0)->field), value }

/* Each field changed by itself is noticed, so that nothing is written outside. */
Test(arguments, tampered_layout) {
    static const change changes[] = {
        CHANGE(bits, 0),           CHANGE(bits, 5),        CHANGE(code_bits, 2),
        CHANGE(code_bits, 3),      CHANGE(code_bits, 8),   CHANGE(code_bits, 16),
        CHANGE(rows, 5),           CHANGE(rows, 7),        CHANGE(rows, SIZE_MAX),
        CHANGE(cols, 23 - 8),      CHANGE(cols, 25),       CHANGE(cols, SIZE_MAX),
        CHANGE(group_rows, 0),     CHANGE(group_rows, 2),  CHANGE(group_cols, 0),
        CHANGE(group_cols, 4),     CHANGE(group_cols, 12), CHANGE(group_cols, SIZE_MAX),
        CHANGE(groups_per_row, 4), CHANGE(num_groups, 0),  CHANGE(num_groups, 17),
        CHANGE(row_bytes, 11),     CHANGE(row_bytes, 13),  CHANGE(code_bytes, 1),
    };
    static const aq_quant_options options = {
        .bits = 4, .group_size = 8, .granularity = AQ_PER_GROUP, .method = AQ_MINMAX};
    static float values[6 * 24];
    quantized q = quantized_make(6, 23, &options);
    for (size_t i = 0; i < COUNT_OF(changes); i++) {
        aq_layout l = q.layout;
        aq_error err;
        float y[6], x[24] = {0};
        memcpy((uint8_t *)&l + changes[i].offset, &changes[i].value, changes[i].bytes);
        cr_expect_eq(aq_quantize_into(&l, values, AQ_F32, &q.dst, NULL, NULL, &err),
                     AQ_E_ARG, "%s %zu", changes[i].name, (size_t)changes[i].value);
        cr_expect_eq(err.status, AQ_E_ARG);
        cr_expect_eq(aq_dequantize_rows(&l, &q.view, 0, 1, values, NULL, NULL), AQ_E_ARG,
                     "%s %zu", changes[i].name, (size_t)changes[i].value);
        cr_expect_eq(aq_dot_row(&l, &q.view, 0, x, y, NULL), AQ_E_ARG);
        cr_expect_eq(aq_matvec(&l, &q.view, x, y, NULL, NULL), AQ_E_ARG);
    }
    quantized_free(&q);
}

/* ---- large tensors: threads, instruction sets, tiles ---- */

/* Quantizes again by other ways: the same bytes, of the metrics too. */
static void check_same_everywhere(const quantized *want, const aq_metrics *want_metrics,
                                  const void *values, aq_dtype dtype) {
    static const aq_isa isas[] = {AQ_ISA_REF, AQ_ISA_AVX2, AQ_ISA_AVX512, AQ_ISA_NEON};
    quantized q = quantized_of(&want->layout);
    aq_metrics m;
    for (uint32_t count = 0; count <= 16; count++) {
        aq_threads *threads = NULL;
        if (count > 0)
            cr_assert_eq(aq_threads_create(count, NULL, &threads, NULL), AQ_OK);
        quantize(&q, values, dtype,
                 count > 0 ? aq_threads_tasks(threads) : &reverse_tasks, &m);
        aq_threads_destroy(threads);
        CHECK(quantized_same(&q, want), "%s: %u threads", quantized_text(&q), count);
        CHECK(memcmp(&m, want_metrics, sizeof m) == 0, "%s: metrics of %u threads",
              quantized_text(&q), count);
    }
    for (size_t i = 0; i < COUNT_OF(isas); i++) {
        if (aq_isa_force(isas[i]) != AQ_OK) continue;
        quantize(&q, values, dtype, NULL, &m);
        CHECK(quantized_same(&q, want) && memcmp(&m, want_metrics, sizeof m) == 0,
              "%s: %s", quantized_text(&q), aq_isa_name(isas[i]));
    }
    cr_assert_eq(aq_isa_force(AQ_ISA_AUTO), AQ_OK);
    quantized_free(&q);
}

Test(tiles, threads_and_instruction_sets_change_nothing) {
    static const struct {
        size_t rows, cols;
        aq_quant_options options;
    } cases[] = {
        {300, 700, {4, 64, AQ_PER_GROUP, false, AQ_MINMAX, 0, false, 0, NULL, NULL}},
        {1, 300000, {4, 128, AQ_PER_GROUP, false, AQ_MINMAX, 0, false, 0, NULL, NULL}},
        {1, 300000, {2, 9, AQ_PER_GROUP, true, AQ_MINMAX, 0, false, 0, NULL, NULL}},
        {1, 300000, {8, 0, AQ_PER_CHANNEL, false, AQ_MINMAX, 0, false, 0, NULL, NULL}},
        {1, 300000, {8, 9001, AQ_PER_GROUP, false, AQ_MINMAX, 0, false, 0, NULL, NULL}},
        {3, 70001, {2, 1001, AQ_PER_GROUP, false, AQ_MINMAX, 0, false, 0, NULL, NULL}},
        {50000, 3, {8, 0, AQ_PER_CHANNEL, true, AQ_MINMAX, 0, false, 0, NULL, NULL}},
        {512, 513, {4, 0, AQ_PER_TENSOR, false, AQ_MINMAX, 0, false, 0, NULL, NULL}},
        {100001, 2, {2, 0, AQ_PER_TENSOR, true, AQ_MINMAX, 0, false, 0, NULL, NULL}},
        {2, 150000, {8, 0, AQ_PER_TENSOR, false, AQ_MINMAX, 0, false, 0, NULL, NULL}},
    };
    rng r = {127};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        size_t count = cases[i].rows * cases[i].cols;
        float *values = pattern_make(&r, i % 2 == 0 ? BELL : UNIFORM, count);
        quantized q = quantized_make(cases[i].rows, cases[i].cols, &cases[i].options);
        aq_metrics m;
        quantize(&q, values, AQ_F32, NULL, &m);
        check_tensor(&q, values, &cases[i].options);
        cr_assert_eq(m.count, count);
        check_same_everywhere(&q, &m, values, AQ_F32);
        offset_free(values, 0);
        quantized_free(&q);
    }
}

/* More tiles than one wave holds: the least value is in the first, the largest last. */
Test(tiles, more_than_a_wave) {
    static const aq_quant_options options = {
        .bits = 2, .granularity = AQ_PER_TENSOR, .method = AQ_MINMAX};
    enum { ROWS = 260, COLS = 65536, COUNT = ROWS * COLS };
    uint16_t *values = (uint16_t *)calloc(COUNT, sizeof *values); /* bfloat16 */
    quantized q = quantized_make(ROWS, COLS, &options);
    aq_metrics m;
    values[1] = 0xbf80;         /* -1 */
    values[COUNT - 1] = 0x4000; /* 2 */
    quantize(&q, values, AQ_BF16, NULL, &m);
    cr_assert_eq(q.dst.scales[0], 1.0f);
    cr_assert_eq(q.dst.zero_points[0], 1.0f);
    cr_assert_eq(quantized_code(&q, 0, 0), 1u);
    cr_assert_eq(quantized_code(&q, 0, 1), 0u);
    cr_assert_eq(quantized_code(&q, ROWS - 1, COLS - 1), 3u);
    cr_assert(m.count == COUNT && m.sum_aa == 5.0 && m.sum_bb == 5.0 && m.sum_dd == 0);
    values[COUNT - 1] = 0x7f80;
    check_nonfinite(&q, values, AQ_BF16, NULL, COUNT - 1, "+infinity");
    free(values);
    quantized_free(&q);
}

/* ---- scales of columns ---- */

/* The codes are those of values divided before; the metrics are of the values that come
 * back times the scales: all kinds of groups, parameters, methods and sources. */
Test(column_scales, as_if_divided_before) {
    enum { ROWS = 9, COLS = 300, COUNT = ROWS * COLS };
    static float importance[COLS], scales[COLS];
    static const size_t groups[] = {8, 32, 100, 128, 300};
    rng r = {41};
    aq_error err;
    for (size_t c = 0; c < COLS; c++) {
        importance[c] = 0.1f + fabsf(rng_float(&r));
        scales[c] = exp2f(4 * rng_float(&r)) * 1.1f;
    }
    for (int kind = 0; kind < 200; kind++) {
        aq_quant_options o = {.bits = kind % 3 == 0   ? 2
                                      : kind % 3 == 1 ? 4
                                                      : 8,
                              .group_size = groups[kind % COUNT_OF(groups)],
                              .granularity = (aq_granularity)(kind / 2 % 3),
                              .symmetric = kind / 3 % 2 != 0,
                              .method = (aq_method)(1 + kind / 4 % 4),
                              .params = (aq_params)(kind / 5 % 3)};
        const aq_dtype dtype = kind % 7 == 0 ? AQ_F16 : AQ_F32;
        if (o.granularity == AQ_PER_TENSOR) o.params = AQ_PARAMS_F32;
        if (o.method == AQ_WEIGHTED) o.importance = importance;
        o.codebook = o.params == AQ_PARAMS_U8 && o.bits != 8 && !o.symmetric && kind % 2;
        float *values = pattern_make(&r, BELL, COUNT), divided[COUNT], back[COUNT];
        uint16_t half[COUNT];
        quantized want = quantized_make(ROWS, COLS, &o), q;
        aq_metrics m, all;
        cr_assert_eq(aq_from_f32(values, COUNT, half, AQ_F16, &err), AQ_OK);
        turn_le(half, COUNT, sizeof *half);
        if (dtype == AQ_F16)
            cr_assert_eq(aq_to_f32(half, AQ_F16, COUNT, values, &err), AQ_OK);
        for (size_t i = 0; i < COUNT; i++)
            divided[i] = values[i] / scales[i % COLS];
        cr_assert_eq(
            aq_quantize_into(&want.layout, divided, AQ_F32, &want.dst, NULL, NULL, &err),
            AQ_OK, "%s", err.message);
        o.column_scales = scales;
        q = quantized_make(ROWS, COLS, &o);
        cr_assert_eq(aq_quantize_into(&q.layout, dtype == AQ_F16 ? (void *)half : values,
                                      dtype, &q.dst, NULL, &m, &err),
                     AQ_OK, "%s", err.message);
        cr_assert(quantized_same(&q, &want), "kind %d", kind);
        cr_assert_eq(aq_dequantize_rows(&q.layout, &q.view, 0, ROWS, back, NULL, &err),
                     AQ_OK);
        for (size_t i = 0; i < COUNT; i++)
            back[i] *= scales[i % COLS];
        cr_assert_eq(aq_metrics_of(values, back, COUNT, NULL, &all, &err), AQ_OK);
        cr_assert_eq(m.max_abs_error, all.max_abs_error, "kind %d", kind);
        cr_assert_float_eq(m.sum_dd, all.sum_dd, 1e-9 * all.sum_dd, "kind %d", kind);
        cr_assert_float_eq(m.sum_ab, all.sum_ab, 1e-9 * fabs(all.sum_ab));
        offset_free(values, 0);
        quantized_free(&q);
        quantized_free(&want);
    }
}

/* The same bytes in tiles, by threads and instruction sets; and from codes. */
Test(column_scales, the_same_everywhere) {
    enum { ROWS = 40, COLS = 7000, COUNT = ROWS * COLS };
    static float scales[COLS];
    rng r = {43};
    float *values = pattern_make(&r, BELL, COUNT);
    for (size_t c = 0; c < COLS; c++)
        scales[c] = 0.5f + (float)(c % 5);
    for (int kind = 0; kind < 3; kind++) {
        const aq_quant_options o = {.bits = 4,
                                    .group_size = kind == 0 ? 100 : 128,
                                    .granularity =
                                        kind == 2 ? AQ_PER_TENSOR : AQ_PER_GROUP,
                                    .column_scales = scales};
        quantized q = quantized_make(ROWS, COLS, &o);
        aq_metrics m;
        quantize(&q, values, AQ_F32, NULL, &m);
        check_same_everywhere(&q, &m, values, AQ_F32);
        quantized_free(&q);
    }
    offset_free(values, 0);
}

Test(column_scales, are_checked) {
    static const float bad[] = {0, -1, NAN, INFINITY};
    float scales[8] = {1, 1, 1, 1, 1, 1, 1, 1}, values[8] = {0};
    const aq_quant_options o = {.group_size = 8, .column_scales = scales};
    quantized q = quantized_make(1, 8, &o);
    aq_error err;
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        scales[5] = bad[i];
        cr_expect_eq(
            aq_quantize_into(&q.layout, values, AQ_F32, &q.dst, NULL, NULL, &err),
            AQ_E_ARG);
        cr_expect(strstr(err.message, "scale of column 5") != NULL, "%s", err.message);
    }
    quantized_free(&q);
}
