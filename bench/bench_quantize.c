/* bench_quantize - quantize and dequantize 256 MiB of float32, beside memcpy of the same bytes.
 *   bench_quantize [MiB]
 * "of memcpy" is the time that memcpy of the float32 side takes, with the same number of
 * threads, divided by the operation's time: 100 % = as fast as copying. */
#include "measure.h"

#include <string.h>

typedef struct job {
    aq_layout layout;
    const float *src;
    float *back;
    aq_quantized dst;
    aq_metrics *metrics;
    const aq_tasks *tasks;
} job;

static void run_quantize(void *arg) {
    const job *j = arg;
    aq_error err;
    check(aq_quantize_into(&j->layout, j->src, AQ_F32, &j->dst, j->tasks, j->metrics, &err), &err);
}

static void run_dequantize(void *arg) {
    const job *j = arg;
    aq_quantized_view view = {j->dst.codes, j->dst.scales, j->dst.zero_points, NULL};
    aq_error err;
    check(aq_dequantize_rows(&j->layout, &view, 0, j->layout.rows, j->back, j->tasks, &err),
          &err);
}

enum { PARTS = 64 };

static void copy_part(void *arg, size_t i) {
    const job *j = arg;
    size_t n = j->layout.rows * j->layout.cols / PARTS;
    memcpy(j->back + i * n, j->src + i * n, n * sizeof(float));
}

static void run_copy(void *arg) {
    const job *j = arg;
    j->tasks->run(j->tasks->user, PARTS, copy_part, arg);
}

static void report(const char *name, uint32_t threads, double gib, double copy, double seconds) {
    printf("%-28s %7u %9.2f %10.0f %%\n", name, threads, gib / seconds, 100.0 * copy / seconds);
}

int main(int argc, char **argv) {
    size_t mib = argc > 1 ? (size_t)atoi(argv[1]) : 256;
    size_t cols = 4096, rows = mib * 1024 * 1024 / sizeof(float) / cols;
    size_t bytes = rows * cols * sizeof(float);
    double gib = (double)bytes / (1024.0 * 1024.0 * 1024.0);
    float *src = malloc(bytes), *back = malloc(bytes);
    job j = {.src = src, .back = back};
    aq_metrics metrics;
    aq_error err;
    if (src == NULL || back == NULL) return 1;
    fill_weights(src, rows * cols);
    printf("%zu MiB of float32, group 128, %s, median of %d\n", mib,
           aq_isa_name(aq_isa_active()), RUNS);
    printf("%-28s %7s %9s %12s\n", "operation", "threads", "GiB/s", "of memcpy");
    for (uint32_t threads = 1; threads <= 2; threads++) {
        static const uint32_t widths[] = {8, 4, 2};
        aq_threads *pool;
        check(aq_threads_create(threads, NULL, &pool, &err), &err);
        j.tasks = aq_threads_tasks(pool);
        check(aq_layout_init(rows, cols, NULL, &j.layout, &err), &err);
        double copy = median_seconds(run_copy, &j);
        report("memcpy", threads, gib, copy, copy);
        for (size_t k = 0; k < 3; k++) {
            aq_quant_options o = {.bits = widths[k]};
            char name[40];
            check(aq_layout_init(rows, cols, &o, &j.layout, &err), &err);
            j.dst.codes = malloc(j.layout.code_bytes);
            j.dst.scales = malloc(j.layout.num_groups * sizeof(float));
            j.dst.zero_points = malloc(j.layout.num_groups * sizeof(float));
            snprintf(name, sizeof name, "int%u quantize", widths[k]);
            report(name, threads, gib, copy, median_seconds(run_quantize, &j));
            j.metrics = &metrics;
            snprintf(name, sizeof name, "int%u quantize + metrics", widths[k]);
            report(name, threads, gib, copy, median_seconds(run_quantize, &j));
            j.metrics = NULL;
            j.layout.method = AQ_REFINE;
            snprintf(name, sizeof name, "int%u quantize, refine", widths[k]);
            report(name, threads, gib, copy, median_seconds(run_quantize, &j));
            snprintf(name, sizeof name, "int%u dequantize", widths[k]);
            report(name, threads, gib, copy, median_seconds(run_dequantize, &j));
            free(j.dst.codes);
            free(j.dst.scales);
            free(j.dst.zero_points);
        }
        aq_threads_destroy(pool);
    }
    free(src);
    free(back);
    return 0;
}
