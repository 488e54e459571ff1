/* Values and sizes that quantization must refuse or survive, on every instruction set and
 * with every method and kind of parameters: NaN and infinity at each position, denormals,
 * zeros of both signs, equal values, outliers, short rows, nothing at all, sizes that
 * overflow, an instruction set that is not there. */
#define NATIVE_SOURCES
#include "quantized.h"

#include <float.h>
#include <math.h>

TestSuite(nonfinite, .timeout = 300);
TestSuite(odd_values, .timeout = 300);

static aq_error err;

/* ---- options ---- */

enum { LENGTH = 201, BLOCK_GROUPS = 32, MOST = BLOCK_GROUPS * 128 };

/* Of columns: 0 too. */
static float importance[MOST];

static const aq_quant_options forms[] = {
    {.method = AQ_MINMAX},
    {.method = AQ_MINMAX, .symmetric = true},
    {.method = AQ_REFINE},
    {.method = AQ_REFINE, .symmetric = true},
    {.method = AQ_SEARCH},
    {.method = AQ_WEIGHTED, .importance = importance},
    {.params = AQ_PARAMS_F16},
    {.params = AQ_PARAMS_F16, .symmetric = true, .method = AQ_MINMAX},
    {.params = AQ_PARAMS_U8},
    {.params = AQ_PARAMS_U8, .method = AQ_SEARCH},
    {.params = AQ_PARAMS_U8, .symmetric = true},
    {.codebook = true}};

static const size_t groups[] = {32, 128, 13};

/* Number i of all combinations; false after the last. */
static bool options_at(size_t i, aq_quant_options *o) {
    static const uint32_t bits[] = {2, 3, 4, 5, 6, 8};
    size_t form = i / COUNT_OF(bits) / COUNT_OF(groups);
    if (form >= COUNT_OF(forms)) return false;
    *o = forms[form];
    o->bits = bits[i % COUNT_OF(bits)];
    o->group_size = groups[i / COUNT_OF(bits) % COUNT_OF(groups)];
    if (o->codebook) o->bits = o->bits < 4 ? 2 : 4;
    return true;
}

static const char *text_of(const quantized *q) {
    static char text[300];
    const aq_layout *l = &q->layout;
    snprintf(text, sizeof text, "%s: %s, method %d, params %d, codebook %d",
             aq_isa_name(aq_isa_active()), quantized_text(q), (int)l->method,
             (int)l->params, l->codebook);
    return text;
}

static void set_importance(void) {
    for (size_t c = 0; c < MOST; c++)
        importance[c] = (float)(c % 5);
}

/* Runs what follows on each instruction set; `isa` is the one in use. */
#define EACH_ISA(isa)                                                                    \
    for (int isa = AQ_ISA_REF; isa <= AQ_ISA_NEON; isa++)                                \
        if (aq_isa_force((aq_isa)isa) == AQ_OK)

/* ---- NaN and infinity ---- */

static const struct {
    float value;
    const char *what;
} bad[] = {{NAN, "NaN"}, {INFINITY, "+infinity"}, {-INFINITY, "-infinity"}};

static void check_refused(const quantized *q, const void *v, aq_dtype dtype, size_t index,
                          const char *what) {
    char where[100];
    size_t cols = q->layout.cols;
    aq_status status = aq_quantize_into(&q->layout, v, dtype, &q->dst, NULL, NULL, &err);
    snprintf(where, sizeof where, "%s at index %zu (row %zu, column %zu);", what, index,
             index / cols, index % cols);
    CHECK(status == AQ_E_NONFINITE && err.status == status, "%s: %s: %s", text_of(q),
          where, aq_status_name(status));
    CHECK(strstr(err.message, where) == err.message, "%s: not \"%s\" but \"%s\"",
          text_of(q), where, err.message);
}

/* Rows whose groups do not adjoin, where a bad value stands in either; and a row of 32
 * groups, which go side by side, where it stands from both ends. */
static void check_positions(const aq_quant_options *o, float *v) {
    quantized two = quantized_make(2, LENGTH, o);
    quantized block = quantized_make(1, BLOCK_GROUPS * o->group_size, o);
    size_t length = block.layout.cols;
    for (size_t at = 0; at < LENGTH; at++) {
        size_t kind = at % COUNT_OF(bad), index = at % 2 * LENGTH + at;
        float before = v[index];
        v[index] = bad[kind].value;
        check_refused(&two, v, AQ_F32, index, bad[kind].what);
        v[index] = before;
        index = at / 2 % 2 != 0 ? length - 1 - at : at;
        before = v[index];
        v[index] = bad[kind].value;
        check_refused(&block, v, AQ_F32, index, bad[kind].what);
        v[index] = before;
    }
    cr_assert_eq(aq_quantize_into(&two.layout, v, AQ_F32, &two.dst, NULL, NULL, &err),
                 AQ_OK);
    quantized_free(&two);
    quantized_free(&block);
}

Test(nonfinite, at_every_position_of_a_row) {
    aq_quant_options o;
    rng r = {301};
    float *v = (float *)offset_alloc(4, MOST * sizeof *v);
    rng_floats(&r, v, MOST, 1.0f);
    set_importance();
    EACH_ISA(isa) {
        for (size_t i = 0; options_at(i, &o); i++)
            check_positions(&o, v);
    }
    offset_free(v, 4);
}

/* The index is that of the tensor; what stands between rows is not read. */
Test(nonfinite, in_rows_apart) {
    enum { STRIDE = LENGTH + 59 };
    aq_quant_options o;
    float *v = (float *)offset_alloc(4, (STRIDE + LENGTH) * sizeof *v);
    set_importance();
    EACH_ISA(isa) {
        for (size_t i = 0; options_at(i, &o); i++) {
            quantized q;
            o.src_stride = STRIDE;
            q = quantized_make(2, LENGTH, &o);
            for (size_t k = 0; k < STRIDE + LENGTH; k++)
                v[k] = k < LENGTH ? 0.5f : NAN;
            check_refused(&q, v, AQ_F32, LENGTH, "NaN");
            for (size_t k = 0; k < LENGTH; k++)
                v[STRIDE + k] = -0.25f;
            cr_assert_eq(aq_quantize_into(&q.layout, v, AQ_F32, &q.dst, NULL, NULL, &err),
                         AQ_OK);
            for (size_t k = 0; k < LENGTH; k += 40) {
                v[STRIDE + k] = INFINITY;
                check_refused(&q, v, AQ_F32, LENGTH + k, "+infinity");
                v[STRIDE + k] = -0.25f;
            }
            quantized_free(&q);
        }
    }
    offset_free(v, 4);
}

/* The halves and doubles are 1, but the bad one. */
Test(nonfinite, at_every_position_of_other_types) {
    static const struct {
        aq_dtype dtype;
        uint64_t one, bad[3];
    } types[] = {{AQ_F16, 0x3c00, {0x7e00, 0x7c00, 0xfc00}},
                 {AQ_BF16, 0x3f80, {0x7fc0, 0x7f80, 0xff80}},
                 {AQ_F64,
                  0x3ff0000000000000,
                  {0x7ff8000000000000, 0x7ff0000000000000, 0xfff0000000000000}}};
    static const aq_quant_options some[] = {
        {.bits = 2, .group_size = 32, .method = AQ_MINMAX},
        {.bits = 4, .group_size = 13},
        {.bits = 8, .group_size = 128, .method = AQ_SEARCH},
        {.bits = 4, .group_size = 32, .params = AQ_PARAMS_F16},
        {.bits = 8, .group_size = 32, .params = AQ_PARAMS_U8},
        {.bits = 4, .group_size = 16, .codebook = true}};
    EACH_ISA(isa) {
        for (size_t i = 0; i < COUNT_OF(types) * COUNT_OF(some); i++) {
            aq_dtype dtype = types[i / COUNT_OF(some)].dtype;
            size_t bytes = aq_dtype_bytes(dtype), k;
            const uint64_t one = types[i / COUNT_OF(some)].one;
            uint8_t *v = (uint8_t *)offset_alloc(1, LENGTH * bytes);
            quantized q = quantized_make(1, LENGTH, &some[i % COUNT_OF(some)]);
            for (k = 0; k < LENGTH; k++)
                put_native(v + k * bytes, one, bytes);
            for (k = 0; k < LENGTH * COUNT_OF(bad); k++) {
                size_t at = k / COUNT_OF(bad);
                char what[40];
                snprintf(what, sizeof what, "%s%s", bad[k % COUNT_OF(bad)].what,
                         dtype == AQ_F64 && k % COUNT_OF(bad) > 0 ? " in float32" : "");
                put_native(v + at * bytes,
                           types[i / COUNT_OF(some)].bad[k % COUNT_OF(bad)], bytes);
                check_refused(&q, v, dtype, at, what);
                put_native(v + at * bytes, one, bytes);
            }
            offset_free(v, 1);
            quantized_free(&q);
        }
    }
}

Test(nonfinite, at_every_position_of_activations) {
    float x[2 * LENGTH];
    uint32_t memory[2 * LENGTH];
    rng r = {302};
    rng_floats(&r, x, COUNT_OF(x), 1.0f);
    EACH_ISA(isa) {
        for (size_t i = 0; i < COUNT_OF(groups) * COUNT_OF(x) * COUNT_OF(bad); i++) {
            size_t at = i / COUNT_OF(bad) % COUNT_OF(x);
            aq_quant_options o = {.bits = (uint32_t[]){2, 4, 8}[at % 3],
                                  .group_size = groups[i / COUNT_OF(bad) / COUNT_OF(x)]};
            float before = x[at];
            aq_activations a;
            aq_layout l;
            char where[100];
            cr_assert_eq(aq_layout_init(3, LENGTH, &o, &l, &err), AQ_OK);
            CHECK(aq_activations_bytes(&l, 2) <= sizeof memory, "group %zu",
                  o.group_size);
            snprintf(where, sizeof where, "vector %zu: value %zu is ", at / LENGTH,
                     at % LENGTH);
            x[at] = bad[i % COUNT_OF(bad)].value;
            CHECK(aq_activations_init(&l, x, 2, memory, &a, &err) == AQ_E_NONFINITE &&
                      strstr(err.message, where) == err.message && a.codes == NULL,
                  "%s: group %zu: not \"%s\" but \"%s\"", aq_isa_name((aq_isa)isa),
                  o.group_size, where, err.message);
            x[at] = before;
        }
    }
}

/* ---- odd values ---- */

typedef enum oddity {
    DENORMALS,
    NEGATIVE_ZEROS,
    BOTH_ZEROS,
    EQUAL_GROUPS,
    EQUAL_DENORMALS,
    OUTLIER,
    NEGATIVE_OUTLIER,
    NUM_ODDITIES
} oddity;

typedef struct oddness {
    oddity kind;
    size_t cols, group, outlier;
} oddness;

static float odd_value(rng *r, const oddness *odd, size_t i) {
    float u = rng_float(r);
    switch (odd->kind) {
    case DENORMALS:
        return u * 1e-40f;
    case NEGATIVE_ZEROS:
        return -0.0f;
    case BOTH_ZEROS:
        return u < 0 ? -0.0f : 0.0f;
    case EQUAL_GROUPS:
        return (float)(i % odd->cols / odd->group % 3) - 1.25f;
    case EQUAL_DENORMALS:
        return -3e-41f;
    case OUTLIER:
        return i == odd->outlier ? 1e30f : u;
    default:
        return i == odd->outlier ? -1e30f : u;
    }
}

/* What comes out of a tensor in each way. */
typedef struct products {
    float *back;   /* rows * cols */
    float *y, *y8; /* 2 * rows */
    uint32_t *x8;  /* activations of x, x8_bytes */
    size_t x8_bytes;
} products;

static products products_make(const quantized *q, const float *x) {
    const aq_layout *l = &q->layout;
    products p;
    aq_activations a;
    p.x8_bytes = aq_activations_bytes(l, 2);
    p.back = (float *)offset_alloc(0, l->rows * l->cols * sizeof(float));
    p.y = (float *)offset_alloc(0, 2 * l->rows * sizeof(float));
    p.y8 = (float *)offset_alloc(0, 2 * l->rows * sizeof(float));
    p.x8 = (uint32_t *)offset_alloc(0, p.x8_bytes);
    cr_assert_eq(aq_dequantize_rows(l, &q->view, 0, l->rows, p.back, NULL, &err), AQ_OK);
    cr_assert_eq(aq_matmul(l, &q->view, x, 2, p.y, NULL, &err), AQ_OK);
    cr_assert_eq(aq_activations_init(l, x, 2, p.x8, &a, &err), AQ_OK);
    cr_assert_eq(aq_matmul_i8(l, &q->view, &a, p.y8, NULL, &err), AQ_OK);
    return p;
}

static void products_free(products *p) {
    offset_free(p->back, 0);
    offset_free(p->y, 0);
    offset_free(p->y8, 0);
    offset_free(p->x8, 0);
}

static bool products_same(const products *a, const products *b, const aq_layout *l) {
    return memcmp(a->back, b->back, l->rows * l->cols * sizeof(float)) == 0 &&
           memcmp(a->y, b->y, 2 * l->rows * sizeof(float)) == 0 &&
           memcmp(a->x8, b->x8, a->x8_bytes) == 0 &&
           memcmp(a->y8, b->y8, 2 * l->rows * sizeof(float)) == 0;
}

/* The product of two outliers is infinite. */
static void check_finite(const quantized *q, const products *p, bool of_products) {
    const aq_layout *l = &q->layout;
    for (size_t g = 0; g < l->num_groups; g++) {
        float scale, zero_point;
        CHECK(aq_params_read(l, &q->view, g, &scale, &zero_point, &err) == AQ_OK &&
                  isfinite(scale) && isfinite(zero_point),
              "%s: group %zu: scale %g, zero point %g", text_of(q), g, scale, zero_point);
    }
    for (size_t i = 0; i < l->rows * l->cols; i++)
        CHECK(isfinite(p->back[i]), "%s: value %zu is %g", text_of(q), i, p->back[i]);
    for (size_t i = 0; i < 2 * l->rows && of_products; i++)
        CHECK(isfinite(p->y[i]) && isfinite(p->y8[i]), "%s: product %zu is %g, %g",
              text_of(q), i, p->y[i], p->y8[i]);
}

/* Least signal to noise that must be left of values that are not 0, in dB. */
static double least_db(const aq_layout *l) {
    return l->bits == 2 ? 2.5 : l->bits == 3 ? 8 : l->bits < 8 ? 14 : 30;
}

static void check_values(const quantized *q, const float *v, const products *p,
                         oddity kind) {
    const aq_layout *l = &q->layout;
    bool constant =
        kind == NEGATIVE_ZEROS || kind == BOTH_ZEROS ||
        ((kind == EQUAL_GROUPS || kind == EQUAL_DENORMALS) && l->params == AQ_PARAMS_F32);
    aq_metrics m;
    for (size_t i = 0; i < l->rows * l->cols && constant; i++)
        CHECK(p->back[i] == v[i], "%s: constant %g is %g", text_of(q), v[i], p->back[i]);
    cr_assert_eq(aq_metrics_of(v, p->back, l->rows * l->cols, NULL, &m, &err), AQ_OK);
    CHECK(constant || m.sqnr_db >= least_db(l), "%s, oddity %d: %.2f dB", text_of(q),
          (int)kind, m.sqnr_db);
}

static void check_oddity(const aq_quant_options *o, size_t rows, size_t cols,
                         oddity kind) {
    rng r = {303 + (uint64_t)kind};
    size_t count = rows * cols;
    /* The activations are as odd as the weights. */
    oddness odd = {kind, cols, o->group_size, rng_below(&r, count)};
    oddness odd_x = {kind, cols, o->group_size, cols / 2};
    float *v = (float *)offset_alloc(4, count * sizeof *v);
    float *x = (float *)offset_alloc(4, 2 * cols * sizeof *x);
    quantized want = quantized_make(rows, cols, o), have = quantized_make(rows, cols, o);
    products p = {NULL, NULL, NULL, NULL, 0};
    for (size_t i = 0; i < count; i++)
        v[i] = odd_value(&r, &odd, i);
    for (size_t i = 0; i < 2 * cols; i++)
        x[i] = odd_value(&r, &odd_x, i);
    EACH_ISA(isa) {
        quantized *q = isa == AQ_ISA_REF ? &want : &have;
        products own;
        CHECK(aq_quantize_into(&q->layout, v, AQ_F32, &q->dst, NULL, NULL, &err) == AQ_OK,
              "%s, oddity %d: %s", text_of(q), (int)kind, err.message);
        own = products_make(q, x);
        if (isa == AQ_ISA_REF) {
            p = own;
            check_values(q, v, &p, kind);
            check_finite(q, &p, kind < OUTLIER);
            continue;
        }
        CHECK(quantized_same(&want, &have), "%s, oddity %d: other codes", text_of(q),
              (int)kind);
        CHECK(products_same(&p, &own, &q->layout), "%s, oddity %d: other products",
              text_of(q), (int)kind);
        products_free(&own);
    }
    products_free(&p);
    quantized_free(&want);
    quantized_free(&have);
    offset_free(v, 4);
    offset_free(x, 4);
}

/* Rows of groups and a rest, a row of 32 groups, and rows shorter than most groups. */
Test(odd_values, survive_and_are_the_same_everywhere) {
    aq_quant_options o;
    set_importance();
    for (size_t i = 0; options_at(i, &o); i++) {
        for (int kind = 0; kind < NUM_ODDITIES; kind++) {
            check_oddity(&o, 3, LENGTH, (oddity)kind);
            check_oddity(&o, 1, BLOCK_GROUPS * o.group_size, (oddity)kind);
            check_oddity(&o, 5, 7, (oddity)kind);
        }
    }
}

/* With float32 parameters an outlier spoils its own group only. */
Test(odd_values, an_outlier_stays_in_its_group) {
    aq_quant_options o;
    rng r = {304};
    float *v = (float *)offset_alloc(4, MOST * sizeof *v);
    rng_floats(&r, v, MOST, 1.0f);
    set_importance();
    EACH_ISA(isa) {
        for (size_t i = 0; options_at(i, &o) && o.params == AQ_PARAMS_F32; i++) {
            size_t length = BLOCK_GROUPS * o.group_size, at = rng_below(&r, length);
            size_t group = at / o.group_size;
            quantized a = quantized_make(1, length, &o),
                      b = quantized_make(1, length, &o);
            float before = v[at];
            cr_assert_eq(aq_quantize_into(&a.layout, v, AQ_F32, &a.dst, NULL, NULL, &err),
                         AQ_OK);
            v[at] = i % 2 != 0 ? -1e30f : 1e30f;
            cr_assert_eq(aq_quantize_into(&b.layout, v, AQ_F32, &b.dst, NULL, NULL, &err),
                         AQ_OK);
            CHECK(fabsf(quantized_value(&b, 0, at) / v[at] - 1) < 0.34f, "%s: %g is %g",
                  text_of(&b), v[at], quantized_value(&b, 0, at));
            v[at] = before;
            for (size_t g = 0; g < BLOCK_GROUPS; g++)
                CHECK(g == group || (a.dst.scales[g] == b.dst.scales[g] &&
                                     a.dst.zero_points[g] == b.dst.zero_points[g]),
                      "%s: group %zu, outlier in %zu", text_of(&b), g, group);
            for (size_t c = 0; c < length; c++)
                CHECK(c / o.group_size == group ||
                          quantized_code(&a, 0, c) == quantized_code(&b, 0, c),
                      "%s: code %zu, outlier in group %zu", text_of(&b), c, group);
            quantized_free(&a);
            quantized_free(&b);
        }
    }
    offset_free(v, 4);
}

/* ---- nothing ---- */

Test(empty, every_operation) {
    static const size_t shapes[][2] = {{0, 9}, {3, 0}, {0, 0}};
    aq_quant_options o;
    set_importance();
    EACH_ISA(isa) {
        for (size_t i = 0; options_at(i, &o); i++) {
            for (size_t s = 0; s < COUNT_OF(shapes); s++) {
                float x[2 * 9] = {0}, y[6] = {7, 7, 7, 7, 7, 7},
                            y8[6] = {7, 7, 7, 7, 7, 7};
                size_t rows = shapes[s][0], cols = shapes[s][1], k;
                uint32_t memory[300];
                aq_activations a;
                aq_metrics m;
                aq_layout l;
                cr_assert_eq(aq_layout_init(rows, cols, &o, &l, &err), AQ_OK);
                cr_assert_leq(aq_activations_bytes(&l, 2), sizeof memory);
                CHECK(l.num_groups == 0 && l.code_bytes == 0, "%zu x %zu", rows, cols);
                CHECK(aq_quantize_into(&l, NULL, AQ_F32, NULL, NULL, &m, &err) == AQ_OK &&
                          m.count == 0,
                      "%zu x %zu: quantize", rows, cols);
                CHECK(aq_dequantize_rows(&l, NULL, 0, rows, NULL, NULL, &err) == AQ_OK,
                      "%zu x %zu: dequantize", rows, cols);
                CHECK(aq_matmul(&l, NULL, x, 2, y, NULL, &err) == AQ_OK,
                      "%zu x %zu: matmul", rows, cols);
                CHECK(aq_activations_init(&l, x, 2, memory, &a, &err) == AQ_OK &&
                          aq_matmul_i8(&l, NULL, &a, y8, NULL, &err) == AQ_OK,
                      "%zu x %zu: int8 activations: %s", rows, cols, err.message);
                for (k = 0; k < 6; k++)
                    CHECK(y[k] == (k < 2 * rows ? 0 : 7) && y8[k] == y[k],
                          "%zu x %zu: product %zu is %g, %g", rows, cols, k, y[k], y8[k]);
            }
        }
    }
}

/* ---- sizes that overflow ---- */

Test(sizes, small_parameters_overflow_alone) {
    static const struct {
        size_t rows, cols;
        aq_quant_options options;
    } cases[] = {
        /* The codes have room, also with the parameters in float32; factors do not. */
        {SIZE_MAX / 4, 1, {.bits = 8, .params = AQ_PARAMS_F16, .symmetric = true}},
        {SIZE_MAX / 8, 4, {.bits = 2, .params = AQ_PARAMS_U8}},
        {SIZE_MAX / 4, 4, {.bits = 2, .codebook = true}},
        {SIZE_MAX / 8 + 1, 8, {.bits = 4, .group_size = 8, .params = AQ_PARAMS_F16}},
    };
    static const aq_layout zero;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        aq_layout l;
        aq_quant_options o = {.bits = cases[i].options.bits,
                              .group_size = cases[i].options.group_size};
        cr_expect_eq(aq_layout_init(cases[i].rows, cases[i].cols, &o, &l, &err), AQ_OK,
                     "case %zu: float32", i);
        memset(&l, 0xEE, sizeof l);
        cr_expect_eq(
            aq_layout_init(cases[i].rows, cases[i].cols, &cases[i].options, &l, &err),
            AQ_E_LIMIT, "case %zu", i);
        cr_expect_arr_eq(&l, &zero, sizeof l, "case %zu: layout is not zero", i);
    }
}

/* A layout that is legal but has no room in memory: its activations have none either. */
Test(sizes, activations) {
    static const aq_quant_options o = {.bits = 2, .granularity = AQ_PER_CHANNEL};
    aq_activations a;
    aq_layout l;
    float x = 0;
    uint32_t memory;
    cr_assert_eq(aq_layout_init(1, SIZE_MAX / 4, &o, &l, &err), AQ_OK);
    cr_expect_eq(aq_activations_bytes(&l, 5), 0);
    cr_expect_eq(aq_activations_init(&l, &x, 5, &memory, &a, &err), AQ_E_LIMIT);
    cr_expect(a.codes == NULL && a.count == 0);
}

/* Refused before the first vector is read. */
Test(sizes, vectors) {
    static const aq_quant_options o = {.bits = 4, .group_size = 32};
    quantized q = quantized_make(2, 64, &o);
    float x[64] = {0}, y[2] = {7, 7};
    cr_assert_eq(
        aq_quantize_into(&q.layout, (float[128]){0}, AQ_F32, &q.dst, NULL, NULL, &err),
        AQ_OK);
    cr_expect_eq(aq_matmul(&q.layout, &q.view, x, SIZE_MAX / 4 + 1, y, NULL, &err),
                 AQ_E_LIMIT);
    cr_expect_eq(aq_matmul(&q.layout, &q.view, x, SIZE_MAX / 256 + 1, y, NULL, &err),
                 AQ_E_LIMIT);
    cr_expect(y[0] == 7 && y[1] == 7);
    quantized_free(&q);
}

/* No vectors, and no memory for them. */
Test(empty, no_activations) {
    static const aq_quant_options o = {.bits = 4, .group_size = 32};
    aq_activations a;
    quantized q = quantized_make(2, 64, &o);
    float y = 7;
    cr_expect_eq(aq_activations_init(&q.layout, NULL, 0, NULL, &a, &err), AQ_OK);
    cr_expect_eq(aq_matmul_i8(&q.layout, &q.view, &a, &y, NULL, &err), AQ_OK);
    cr_expect_eq(y, 7);
    quantized_free(&q);
}

/* A layout whose method was changed to the one that needs more. */
Test(layout, weighted_without_importance) {
    static const aq_quant_options o = {.bits = 4, .group_size = 32};
    quantized q = quantized_make(1, 64, &o);
    float v[64] = {1};
    q.layout.method = AQ_WEIGHTED;
    cr_expect_eq(aq_quantize_into(&q.layout, v, AQ_F32, &q.dst, NULL, NULL, &err),
                 AQ_E_ARG);
    quantized_free(&q);
}

/* ---- an instruction set that is not there ---- */

/* Refused, and everything goes on as before. */
Test(isa, refused_and_nothing_changes) {
    static const int none[] = {AQ_ISA_NEON, AQ_ISA_AVX2, AQ_ISA_AVX512, 5, -1};
    aq_quant_options o = {.bits = 4, .group_size = 32};
    float v[3 * LENGTH], x[2 * LENGTH];
    size_t refused = 0;
    rng r = {305};
    rng_floats(&r, v, COUNT_OF(v), 1.0f);
    rng_floats(&r, x, COUNT_OF(x), 1.0f);
    quantized want = quantized_make(3, LENGTH, &o), have = quantized_make(3, LENGTH, &o);
    cr_assert_eq(aq_quantize_into(&want.layout, v, AQ_F32, &want.dst, NULL, NULL, &err),
                 AQ_OK);
    products p = products_make(&want, x);
    for (size_t i = 0; i < COUNT_OF(none); i++) {
        aq_isa before = aq_isa_active();
        products own;
        if (aq_isa_supported((aq_isa)none[i])) continue;
        refused++;
        cr_expect_eq(aq_isa_force((aq_isa)none[i]), AQ_E_UNSUPPORTED);
        cr_expect_eq(aq_isa_active(), before);
        cr_assert_eq(
            aq_quantize_into(&have.layout, v, AQ_F32, &have.dst, NULL, NULL, &err),
            AQ_OK);
        own = products_make(&have, x);
        cr_expect(quantized_same(&want, &have) && products_same(&p, &own, &want.layout),
                  "after isa %d", none[i]);
        products_free(&own);
    }
    cr_expect_geq(refused, 3u); /* NEON or AVX2, and the numbers that are none */
    products_free(&p);
    quantized_free(&want);
    quantized_free(&have);
}
