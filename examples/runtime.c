/* runtime.c - run a network of two layers from the 4-bit codes of a mapped model, on the
 * program's own threads, with float32 activations and with int8 ones.
 *
 *   cc -O2 runtime.c -o runtime -pthread -lm
 *   ./runtime */
#define ARROWQUANT_IMPLEMENTATION
#include "../arrowquant.h"

#include <pthread.h>
#include <stdio.h>

enum { IN = 512, HIDDEN = 1536, OUT = 3, WORKERS = 2 };

typedef struct share {
    void (*fn)(void *arg, size_t index);
    void *arg;
    size_t next, n;
} share;

static void *take(void *user) {
    share *s = (share *)user;
    size_t i;
    while ((i = __atomic_fetch_add(&s->next, 1, __ATOMIC_RELAXED)) < s->n)
        s->fn(s->arg, i);
    return NULL;
}

/* The tasks hook: fn(arg, i) for each i < n, back after the last. A runtime has threads
 * that wait for work; these are started anew each time. */
static void run(void *user, size_t n, void (*fn)(void *, size_t), void *arg) {
    share s = {fn, arg, 0, n};
    pthread_t threads[WORKERS];
    size_t started = 0;
    while (started < WORKERS && pthread_create(&threads[started], NULL, take, &s) == 0)
        started++;
    take(&s);
    while (started > 0)
        pthread_join(threads[--started], NULL);
    *(size_t *)user += 1;
}

/* Made-up weights, saved as float32 and from there quantized to 4 bits. */
static aq_status make_model(aq_error *err) {
    static float w[HIDDEN * IN + OUT * HIDDEN];
    const uint64_t first[2] = {HIDDEN, IN}, second[2] = {OUT, HIDDEN};
    aq_tensor t[2];
    for (uint32_t i = 0, state = 1; i < HIDDEN * IN + OUT * HIDDEN; i++) {
        state = state * 1664525u + 1013904223u;
        w[i] = (float)(state >> 8) * 0x1p-27f - 0.0625f;
    }
    if (aq_tensor_init(&t[0], "first", AQ_F32, first, 2, w, err) ||
        aq_tensor_init(&t[1], "second", AQ_F32, second, 2, w + HIDDEN * IN, err) ||
        aq_model_save("net.parquet", t, 2, NULL, err))
        return err->status;
    return aq_job_run("net.parquet", "net4.parquet", NULL, NULL, err);
}

/* y = layer x. With memory for it, x is quantized too, to 8 bits. */
static aq_status multiply(const aq_tensor *layer, void *memory, const float *x, float *y,
                          const aq_tasks *tasks, aq_error *err) {
    const aq_layout *layout = &layer->layout;
    aq_quantized_view codes = {layer->data, layer->scales, layer->zero_points, NULL};
    aq_activations x8;
    if (memory == NULL) return aq_matvec(layout, &codes, x, y, tasks, err);
    aq_status status = aq_activations_init(layout, x, 1, memory, &x8, err);
    if (status != AQ_OK) return status;
    return aq_matmul_i8(layout, &codes, &x8, y, tasks, err);
}

int main(void) {
    static uint32_t room[1024]; /* what aq_activations_bytes asks for, and more */
    size_t runs = 0;
    const aq_tasks tasks = {run, &runs, WORKERS + 1};
    float x[IN], hidden[HIDDEN], y[OUT];
    aq_tensor t[2];
    aq_model *model;
    aq_error err;
    if (make_model(&err) || aq_model_open("net4.parquet", NULL, &model, &err) ||
        aq_model_find(model, "first", &t[0], &err) ||
        aq_model_find(model, "second", &t[1], &err))
        return fprintf(stderr, "runtime: %s\n", err.message), 1;
    for (int i = 0; i < 4; i++) {
        uint32_t *memory = i % 2 ? room : NULL;
        for (int c = 0; c < IN; c++)
            x[c] = (float)(c * (i / 2 + 3) % 17) / 16;
        if (multiply(&t[0], memory, x, hidden, &tasks, &err)) break;
        for (int r = 0; r < HIDDEN; r++)
            hidden[r] = hidden[r] > 0 ? hidden[r] : 0; /* ReLU */
        if (multiply(&t[1], memory, hidden, y, &tasks, &err)) break;
        printf("input %d as %s %.4f %.4f %.4f\n", i / 2,
               i % 2 ? "int8:   " : "float32:", (double)y[0], (double)y[1], (double)y[2]);
    }
    if (err.status != AQ_OK) fprintf(stderr, "runtime: %s\n", err.message);
    printf("mapped: %d, by own threads: %zu\n", t[0].mapped && t[1].mapped, runs);
    aq_tensor_release(&t[0]);
    aq_tensor_release(&t[1]);
    aq_model_close(model);
    return err.status == AQ_OK ? 0 : 1;
}
