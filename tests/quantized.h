/* quantized.h - for tests of section [30]: a quantized tensor with its memory, and what
 * its bytes mean, computed here from the comment of aq_layout. */
#ifndef TEST_QUANTIZED_H
#define TEST_QUANTIZED_H

#include "support.h"

#include <criterion/criterion.h>

/* Each array has exactly its bytes, so that AddressSanitizer sees one too far. */
typedef struct quantized {
    aq_layout layout;
    aq_quantized dst;
    aq_quantized_view view;
} quantized;

/* Buffers for a layout, filled with a byte that is not what will be written. */
SUPPORT quantized quantized_of(const aq_layout *layout) {
    size_t parameter_bytes = layout->num_groups * sizeof(float);
    quantized q;
    q.layout = *layout;
    q.dst.codes = (uint8_t *)offset_alloc(0, layout->code_bytes);
    q.dst.scales = (float *)offset_alloc(0, parameter_bytes);
    q.dst.zero_points = (float *)offset_alloc(0, parameter_bytes);
    memset(q.dst.codes, 0xEE, layout->code_bytes);
    memset(q.dst.scales, 0xEE, parameter_bytes);
    memset(q.dst.zero_points, 0xEE, parameter_bytes);
    q.dst.params = (uint8_t *)offset_alloc(0, layout->params_bytes);
    memset(q.dst.params, 0xEE, layout->params_bytes);
    q.view.params = q.dst.params;
    q.view.codes = q.dst.codes;
    q.view.scales = q.dst.scales;
    q.view.zero_points = q.dst.zero_points;
    return q;
}

SUPPORT quantized quantized_make(size_t rows, size_t cols,
                                 const aq_quant_options *options) {
    aq_layout layout;
    cr_assert_eq(aq_layout_init(rows, cols, options, &layout, NULL), AQ_OK);
    return quantized_of(&layout);
}

SUPPORT void quantized_free(quantized *q) {
    offset_free(q->dst.codes, 0);
    offset_free(q->dst.scales, 0);
    offset_free(q->dst.zero_points, 0);
    offset_free(q->dst.params, 0);
}

SUPPORT bool quantized_same(const quantized *a, const quantized *b) {
    size_t parameter_bytes = a->layout.num_groups * sizeof(float);
    return memcmp(a->dst.params, b->dst.params, a->layout.params_bytes) == 0 &&
           memcmp(a->dst.codes, b->dst.codes, a->layout.code_bytes) == 0 &&
           memcmp(a->dst.scales, b->dst.scales, parameter_bytes) == 0 &&
           memcmp(a->dst.zero_points, b->dst.zero_points, parameter_bytes) == 0;
}

/* Bit i of row r; a row begins on a byte. */
SUPPORT unsigned quantized_bit(const quantized *q, size_t r, size_t i) {
    return q->dst.codes[r * q->layout.row_bytes + i / 8] >> i % 8 & 1u;
}

SUPPORT unsigned quantized_code(const quantized *q, size_t r, size_t c) {
    unsigned code = 0;
    for (uint32_t bit = 0; bit < q->layout.code_bits; bit++)
        code |= quantized_bit(q, r, c * q->layout.code_bits + bit) << bit;
    return code;
}

/* Index of the scale and zero point of (r, c). */
SUPPORT size_t quantized_slot(const quantized *q, size_t r, size_t c) {
    const aq_layout *l = &q->layout;
    return r / l->group_rows * l->groups_per_row + c / l->group_cols;
}

/* w' in float32, without a fused multiply-add. */
SUPPORT float quantized_value(const quantized *q, size_t r, size_t c) {
    size_t slot = quantized_slot(q, r, c);
    volatile float steps = (float)quantized_code(q, r, c) - q->dst.zero_points[slot];
    volatile float value = steps * q->dst.scales[slot];
    return value;
}

/* ---- options ---- */

/* Number i of all combinations of bits, symmetry and group form; false after the last. */
SUPPORT bool quant_options_at(size_t i, aq_quant_options *out) {
    static const struct {
        aq_granularity granularity;
        size_t group_size;
    } groups[] = {{AQ_PER_GROUP, 8},   {AQ_PER_GROUP, 9},   {AQ_PER_GROUP, 13},
                  {AQ_PER_GROUP, 32},  {AQ_PER_GROUP, 63},  {AQ_PER_GROUP, 128},
                  {AQ_PER_GROUP, 300}, {AQ_PER_CHANNEL, 0}, {AQ_PER_TENSOR, 0}};
    static const uint32_t bits[] = {2, 4, 8};
    memset(out, 0, sizeof *out);
    out->bits = bits[i % 3];
    out->symmetric = i / 3 % 2 != 0;
    out->method = AQ_MINMAX;
    i /= 6;
    if (i >= COUNT_OF(groups)) return false;
    out->granularity = groups[i].granularity;
    out->group_size = groups[i].group_size;
    return true;
}

/* "4 bits, symmetric, group 9, 3 x 17" for messages. */
SUPPORT const char *quantized_text(const quantized *q) {
    static char text[160];
    const aq_layout *l = &q->layout;
    snprintf(text, sizeof text, "%u bits, %s, group %zu x %zu, %zu x %zu", l->bits,
             l->symmetric ? "symmetric" : "asymmetric", l->group_rows, l->group_cols,
             l->rows, l->cols);
    return text;
}

#endif
