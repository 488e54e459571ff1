/* batch.c - quantize the arrays of a program in one call: wider codes for one of them, a
 * bad one among them. Save the good ones as a model, and bring them back to float32.
 *
 *   cc batch.c -o batch -pthread -lm
 *   ./batch [model.parquet] */
#define ARROWQUANT_IMPLEMENTATION
#include "../arrowquant.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { LAYERS = 6, ROWS = 96, COLS = 256 };

/* Called once an array, before any is quantized: the last layer gets 8 bits. */
static bool plan(void *user, const aq_tensor *array, aq_quant_options *quant) {
    (void)user;
    if (strcmp(array->name, "head.weight") == 0) quant->bits = 8;
    return true;
}

/* Never called concurrently; false would cancel. */
static bool progress(void *user, const aq_progress *p) {
    (void)user;
    if (p->name == NULL)
        printf("%zu of %zu arrays, %llu of %llu bytes\n", p->tensors_done,
               p->tensors_total, (unsigned long long)p->bytes_done,
               (unsigned long long)p->bytes_total);
    return true;
}

/* The tensors of the items that came out, for other functions. */
static size_t good_tensors(const aq_batch *batch, aq_tensor *tensors) {
    size_t n = 0;
    for (size_t i = 0; i < batch->num_items; i++)
        if (batch->items[i].status == AQ_OK) tensors[n++] = batch->items[i].tensor;
    return n;
}

int main(int argc, char **argv) {
    static const char *const names[LAYERS] = {"layer.2.weight", "layer.0.weight",
                                              "layer.1.weight", "layer.3.weight",
                                              "head.weight",    "embed.weight"};
    static float weights[LAYERS][ROWS * COLS];
    const uint64_t shape[2] = {ROWS, COLS};
    const char *path = argc > 1 ? argv[1] : "batch.parquet";
    aq_array arrays[LAYERS];
    aq_tensor tensors[LAYERS];
    for (size_t i = 0; i < LAYERS; i++) {
        const aq_array array = {names[i], weights[i], AQ_F32, 2, shape, NULL};
        arrays[i] = array;
        for (size_t k = 0; k < ROWS * COLS; k++)
            weights[i][k] = (float)((k * (2 * i + 7919)) % 1009) / 1009.0f - 0.5f;
    }
    weights[2][1000] = NAN;

    const aq_batch_options options = {.quant = {.bits = 4, .group_size = 64},
                                      .plan = plan,
                                      .progress = {progress, NULL}};
    aq_batch batch, values;
    aq_error err;
    aq_status status = aq_quantize_batch(arrays, LAYERS, &options, &batch, &err);
    if (status != AQ_OK) {
        fprintf(stderr, "batch: %s: %s\n", aq_status_name(status), err.message);
        return 1;
    }
    for (size_t i = 0; i < batch.num_items; i++) {
        const aq_batch_item *item = &batch.items[i];
        if (item->status == AQ_OK) {
            printf("%-14s  array %zu, %u bits, SQNR %.1f dB\n", item->name, item->index,
                   (unsigned)item->tensor.layout.bits, item->metrics.sqnr_db);
        } else {
            printf("%-14s  %s\n", item->name, item->error->message);
        }
    }

    size_t n = good_tensors(&batch, tensors);
    status = aq_model_save(path, tensors, n, NULL, &err);
    if (status == AQ_OK) status = aq_dequantize_batch(tensors, n, NULL, &values, &err);
    if (status == AQ_OK) {
        const aq_batch_item *head = aq_batch_find(&values, "head.weight");
        printf("saved %zu; %s[0] was %.4f, is %.4f\n", n, head->name,
               (double)weights[4][0],
               (double)*(const float *)(const void *)head->tensor.data);
        aq_batch_deinit(&values);
    } else {
        fprintf(stderr, "batch: %s: %s\n", aq_status_name(status), err.message);
    }
    aq_batch_deinit(&batch);
    return status != AQ_OK;
}
