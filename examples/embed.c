/* embed.c - arrowquant.h in a program of your own: open a model, take a tensor's codes,
 * scales and zero points where they lie in the mapped file, and multiply with them.
 *
 *   cc embed.c -o embed -pthread -lm
 *   ./embed */
#define ARROWQUANT_IMPLEMENTATION
#include "../arrowquant.h"

#include <stdio.h>
#include <stdlib.h>

enum { ROWS = 4, COLS = 128 };

static aq_error err;

static void check(aq_status status) {
    if (status != AQ_OK) {
        fprintf(stderr, "embed: %s\n", err.message);
        exit(1);
    }
}

/* Row r holds the numbers r to r + 15 over and over: 4 bits are enough for them. */
static const char *make_model(void) {
    static float weights[ROWS * COLS];
    const uint64_t shape[2] = {ROWS, COLS};
    const aq_job_options job = {.operation = AQ_QUANTIZE, .quant = {.bits = 4}};
    aq_tensor tensor;
    for (int i = 0; i < ROWS * COLS; i++)
        weights[i] = (float)(i / COLS + i % 16);
    check(aq_tensor_init(&tensor, "matrix", AQ_F32, shape, 2, weights, &err));
    check(aq_model_save("embed-f32.parquet", &tensor, 1, NULL, &err));
    check(aq_job_run("embed-f32.parquet", "embed-int4.parquet", &job, NULL, &err));
    return "embed-int4.parquet";
}

static const char *place(const aq_tensor *tensor, const void *data) {
    bool aligned = (uintptr_t)data % AQ_ALIGNMENT == 0;
    return !tensor->mapped ? "a copy" : aligned ? "mapped, 64-byte aligned" : "mapped";
}

int main(void) {
    aq_model *model;
    aq_tensor w;
    check(aq_model_open(make_model(), NULL, &model, &err));
    check(aq_model_find(model, "matrix", &w, &err));
    printf("%zu x %zu, %u bits\n", w.layout.rows, w.layout.cols, (unsigned)w.layout.bits);
    printf("codes        %s: 0x%02x ...\n", place(&w, w.data), w.data[0]);
    printf("scales       %s: %g ...\n", place(&w, w.scales), w.scales[0]);
    printf("zero points  %s: %g ...\n", place(&w, w.zero_points), w.zero_points[0]);

    float x[COLS] = {0}, dot, y[ROWS];
    x[0] = x[COLS - 1] = 1; /* adds the first and the last weight of a row */
    check(aq_tensor_dot(&w, 2, x, &dot, &err));
    check(aq_tensor_matvec(&w, x, y, NULL, &err));
    printf("row 2 times x: %g; all rows: %g %g %g %g\n", dot, y[0], y[1], y[2], y[3]);

    aq_tensor_release(&w);
    aq_model_close(model);
    return 0;
}
