/* kernels.c - the input is a tensor and how to quantize it: every instruction set of this
 * machine gives what the reference kernels give, to the bit, and stays in its buffers. */
#include "fuzz.h"

#define KERNELS_MOST 4096u    /* values of the tensor                             */
#define KERNELS_BLOCKS 12288u /* where groups are such that 32 of them are a block */

typedef struct kernels_case {
    aq_layout layout;
    aq_dtype dtype;
    size_t count, vectors;
    uint8_t *src;      /* count values in exactly their bytes */
    float *x;          /* vectors */
    float *importance; /* of columns, and their scales; or NULL */
    float *scales;
} kernels_case;

static uint32_t kernels_random;

/* Floats that are finite most of the time: their bits, or small numbers of few digits;
 * behind the end of the input, random ones of these. */
static float kernels_float(fuzz_input *in, bool raw) {
    float f;
    uint32_t bits;
    if (in->size == 0) {
        kernels_random = kernels_random * 1103515245u + 12345u;
        return (float)((int)(kernels_random >> 16) - 32768) / 4096.0f;
    }
    bits = fuzz_u16(in);
    if (!raw) return (float)((int)bits - 32768) / 4096.0f;
    bits |= fuzz_u16(in) << 16;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static float *kernels_columns(fuzz_input *in, size_t cols) {
    float *p = (float *)malloc(AQI_MAX(cols, (size_t)1) * sizeof *p);
    size_t i;
    FUZZ_CHECK(p != NULL);
    for (i = 0; i < cols; i++)
        p[i] = 0.001f + (float)fuzz_byte(in) / 16.0f;
    return p;
}

static aq_status kernels_make(fuzz_input *in, kernels_case *c, aq_error *err) {
    static const uint32_t widths[] = {2, 3, 4, 5, 6, 8};
    static const aq_dtype dtypes[] = {AQ_F32, AQ_F16, AQ_BF16, AQ_F64};
    const uint32_t form = fuzz_u16(in), how = fuzz_byte(in);
    const bool raw = (how & 1) != 0, blocks = (form & 32768) != 0;
    size_t cols = 1 + fuzz_u16(in) % KERNELS_MOST, i;
    const size_t rows_wanted = fuzz_byte(in), group = fuzz_byte(in);
    size_t rows = 1 + rows_wanted % (KERNELS_MOST / cols);
    float *values;
    aq_quant_options o;
    aq_status status;
    kernels_random = form;
    memset(&o, 0, sizeof o);
    o.bits = widths[form % 6];
    o.granularity = (aq_granularity)(form / 6 % 3);
    o.symmetric = (form & 64) != 0;
    o.method = (aq_method)(form / 128 % 5);
    o.params = (aq_params)(form / 1024 % 3);
    if (o.granularity == AQ_PER_TENSOR) o.params = AQ_PARAMS_F32;
    o.codebook = o.params == AQ_PARAMS_U8 && !o.symmetric &&
                 (o.bits == 2 || o.bits == 4) && (form & 8192) != 0;
    o.group_size = 8 * (1 + group % 40) + (how >> 1 & 7);
    if (blocks) {
        o.group_size = 32 * (1 + group % 8);
        cols = o.group_size * (1 + cols % 4);
        rows = 1 + rows_wanted % (KERNELS_BLOCKS / cols);
    }
    c->count = rows * cols;
    c->vectors = 1 + (how >> 4 & 3);
    c->dtype = dtypes[how >> 6];
    if (o.method == AQ_WEIGHTED) o.importance = c->importance = kernels_columns(in, cols);
    if ((form & 16384) != 0) o.column_scales = c->scales = kernels_columns(in, cols);
    status = aq_layout_init(rows, cols, &o, &c->layout, err);
    if (fuzz_status(status, err) != AQ_OK) return status;
    values = (float *)malloc(c->count * sizeof *values);
    c->src = (uint8_t *)malloc(c->count * aq_dtype_bytes(c->dtype));
    c->x = (float *)malloc(c->vectors * cols * sizeof *c->x);
    FUZZ_CHECK(values != NULL && c->src != NULL && c->x != NULL);
    for (i = 0; i < c->vectors * cols; i++)
        c->x[i] = kernels_float(in, false);
    for (i = 0; i < c->count; i++)
        values[i] = kernels_float(in, raw);
    status = aq_from_f32(values, c->count, c->src, c->dtype, err);
    FUZZ_CHECK_ERR(status == AQ_OK, err);
    free(values);
    return AQ_OK;
}

/* Which NaN it is, is no part of the promise. */
static uint64_t kernels_digest(uint64_t hash, const float *p, size_t n) {
    size_t i;
    for (i = 0; i < n; i++) {
        const float f = p[i] != p[i] ? 12345.0f : p[i];
        hash = fuzz_digest(hash, &f, sizeof f);
    }
    return hash;
}

static uint64_t kernels_products(const kernels_case *c, const aq_quantized_view *v,
                                 uint64_t hash) {
    const aq_layout *l = &c->layout;
    const size_t n = l->rows * c->vectors;
    float *y = (float *)malloc(n * sizeof *y), *values;
    void *memory = malloc(AQI_MAX(aq_activations_bytes(l, c->vectors), (size_t)1));
    aq_activations a;
    aq_error err;
    aq_status status;
    values = (float *)malloc(c->count * sizeof *values);
    FUZZ_CHECK(y != NULL && memory != NULL && values != NULL);
    FUZZ_CHECK(aq_dequantize_rows(l, v, 0, l->rows, values, NULL, &err) == AQ_OK);
    hash = kernels_digest(hash, values, c->count);
    FUZZ_CHECK(aq_matmul(l, v, c->x, c->vectors, y, NULL, &err) == AQ_OK);
    hash = kernels_digest(hash, y, n);
    status = aq_activations_init(l, c->x, c->vectors, memory, &a, &err);
    FUZZ_CHECK_ERR(status == AQ_OK || status == AQ_E_UNSUPPORTED || status == AQ_E_LIMIT,
                   &err);
    if (status == AQ_OK) {
        FUZZ_CHECK(aq_matmul_i8(l, v, &a, y, NULL, &err) == AQ_OK);
        hash = kernels_digest(hash, y, n);
    }
    free(values);
    free(memory);
    free(y);
    return hash;
}

/* All that one instruction set makes of the case. */
static uint64_t kernels_run(const kernels_case *c, aq_status *out_status) {
    const aq_layout *l = &c->layout;
    const size_t floats = l->params == AQ_PARAMS_F32 ? l->num_groups : 0;
    aq_quantized dst;
    aq_quantized_view view;
    aq_metrics m;
    aq_error err;
    uint64_t hash = 1;
    dst.codes = (uint8_t *)malloc(AQI_MAX(l->code_bytes, (size_t)1));
    dst.scales = (float *)malloc(AQI_MAX(floats, (size_t)1) * sizeof(float));
    dst.zero_points = (float *)malloc(AQI_MAX(floats, (size_t)1) * sizeof(float));
    dst.params = (uint8_t *)malloc(AQI_MAX(l->params_bytes, (size_t)1));
    FUZZ_CHECK(dst.codes != NULL && dst.scales != NULL && dst.zero_points != NULL &&
               dst.params != NULL);
    *out_status = aq_quantize_into(l, c->src, c->dtype, &dst, NULL, &m, &err);
    if (fuzz_status(*out_status, &err) != AQ_OK) {
        hash = fuzz_digest_text(hash, err.message);
    } else {
        view.codes = dst.codes;
        view.scales = dst.scales;
        view.zero_points = dst.zero_points;
        view.params = dst.params;
        hash = fuzz_digest(hash, dst.codes, l->code_bytes);
        hash = fuzz_digest(hash, dst.scales, floats * sizeof(float));
        hash = fuzz_digest(hash, dst.zero_points, floats * sizeof(float));
        hash = fuzz_digest(hash, dst.params, l->params_bytes);
        hash = fuzz_digest(hash, &m, sizeof m);
        hash = kernels_products(c, &view, hash);
    }
    free(dst.codes);
    free(dst.scales);
    free(dst.zero_points);
    free(dst.params);
    return hash;
}

static void fuzz_kernels(const uint8_t *data, size_t size) {
    static const aq_isa isas[] = {AQ_ISA_AVX2, AQ_ISA_AVX512, AQ_ISA_NEON};
    fuzz_input in = {data, size};
    kernels_case c;
    aq_error err;
    aq_status want, got;
    uint64_t digest;
    size_t i;
    memset(&c, 0, sizeof c);
    fuzz_result = AQ_OK;
    if (kernels_make(&in, &c, &err) == AQ_OK) {
        FUZZ_CHECK(aq_isa_force(AQ_ISA_REF) == AQ_OK);
        digest = kernels_run(&c, &want);
        for (i = 0; i < AQI_COUNT(isas); i++) {
            if (aq_isa_force(isas[i]) != AQ_OK) continue;
            FUZZ_CHECK(kernels_run(&c, &got) == digest);
            FUZZ_CHECK(got == want);
        }
        FUZZ_CHECK(aq_isa_force(AQ_ISA_AUTO) == AQ_OK);
    }
    free(c.src);
    free(c.x);
    free(c.importance);
    free(c.scales);
}
