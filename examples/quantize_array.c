/* quantize_array.c - quantize a matrix in memory to 8, 4 and 2 bits, see what each costs,
 * and save the 4-bit one as a model file.
 *
 *   cc quantize_array.c -o quantize_array -pthread -lm
 *   ./quantize_array [matrix.parquet] */
#define ARROWQUANT_IMPLEMENTATION
#include "../arrowquant.h"

#include <stdio.h>
#include <stdlib.h>

enum { ROWS = 64, COLS = 256 };

/* Bell-shaped like weights: a sum of three uniform numbers. */
static void fill(float *weights, size_t count) {
    uint32_t state = 1;
    for (size_t i = 0; i < count; i++) {
        weights[i] = 0;
        for (int k = 0; k < 3; k++) {
            state = state * 1664525u + 1013904223u;
            weights[i] += (float)(state >> 8) / 16777216.0f - 0.5f;
        }
    }
}

static aq_status save(const char *path, const aq_layout *layout, const aq_quantized *q,
                      const aq_metrics *metrics, aq_error *err) {
    const uint64_t shape[2] = {ROWS, COLS};
    aq_tensor tensor;
    aq_status status = aq_tensor_init(&tensor, "matrix", AQ_F32, shape, 2, q->codes, err);
    if (status != AQ_OK) return status;
    /* From here on the data are codes: say how they lie, and where their scales are. */
    tensor.layout = *layout;
    tensor.data_bytes = layout->code_bytes;
    tensor.scales = q->scales;
    tensor.zero_points = q->zero_points;
    tensor.cosine = metrics->cosine;
    tensor.sqnr_db = metrics->sqnr_db;
    tensor.max_abs_error = metrics->max_abs_error;
    return aq_model_save(path, &tensor, 1, NULL, err);
}

static aq_status quantize(const float *weights, uint32_t bits, const char *path,
                          aq_error *err) {
    aq_quant_options options = {.bits = bits, .group_size = 64};
    aq_layout layout;
    aq_status status = aq_layout_init(ROWS, COLS, &options, &layout, err);
    if (status != AQ_OK) return status;

    aq_metrics metrics;
    aq_quantized q = {(uint8_t *)malloc(layout.code_bytes),
                      (float *)malloc(layout.num_groups * sizeof(float)),
                      (float *)malloc(layout.num_groups * sizeof(float)), NULL};
    if (q.codes == NULL || q.scales == NULL || q.zero_points == NULL) status = AQ_E_NOMEM;
    if (status == AQ_OK)
        status = aq_quantize_into(&layout, weights, AQ_F32, &q, NULL, &metrics, err);
    if (status == AQ_OK) {
        printf("%u bits: %5zu bytes of codes, %zu groups, cosine %.4f, SQNR %4.1f dB\n",
               (unsigned)bits, layout.code_bytes, layout.num_groups, metrics.cosine,
               metrics.sqnr_db);
        if (path != NULL) status = save(path, &layout, &q, &metrics, err);
    }
    free(q.codes);
    free(q.scales);
    free(q.zero_points);
    return status;
}

int main(int argc, char **argv) {
    static float weights[ROWS * COLS];
    const char *path = argc > 1 ? argv[1] : "matrix.parquet";
    aq_error err = {0};

    fill(weights, ROWS * COLS);
    aq_status status = quantize(weights, 8, NULL, &err);
    if (status == AQ_OK) status = quantize(weights, 4, path, &err);
    if (status == AQ_OK) status = quantize(weights, 2, NULL, &err);
    if (status != AQ_OK) {
        fprintf(stderr, "quantize_array: %s: %s\n", aq_status_name(status), err.message);
        return 1;
    }
    printf("wrote %s with the 4-bit codes\n", path);
    return 0;
}
