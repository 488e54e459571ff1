/* bench_memory - peak private memory of quantizing 64 MiB and 1 GiB of weights: it must not
 * grow with the model. The mapped input is not private: the system takes it back at will.
 *   bench_memory [DIRECTORY]          where the files are made (default: build) */
#include "measure.h"
#include "private_memory.h"

#include <string.h>
#include <unistd.h>

enum { SIDE = 1024 };

static long peak_kib;

static bool watch(void *user, const aq_progress *progress) {
    long now = private_kib();
    (void)user;
    (void)progress;
    if (now > peak_kib) peak_kib = now;
    return true;
}

static void make_model(const char *path, int tensors) {
    float *weights = malloc((size_t)SIDE * SIDE * sizeof(float));
    aq_tensor *list = calloc((size_t)tensors, sizeof *list);
    char(*names)[32] = calloc((size_t)tensors, sizeof *names);
    const uint64_t shape[2] = {SIDE, SIDE};
    aq_model_writer_options options = {.no_sync = true};
    aq_error err;
    fill_weights(weights, (size_t)SIDE * SIDE);
    for (int i = 0; i < tensors; i++) {
        snprintf(names[i], sizeof names[i], "layer.%04d", i);
        check(aq_tensor_init(&list[i], names[i], AQ_F32, shape, 2, weights, &err), &err);
    }
    check(aq_model_save(path, list, (size_t)tensors, &options, &err), &err);
    free(weights);
    free(list);
    free(names);
}

int main(int argc, char **argv) {
    const char *dir = argc > 1 ? argv[1] : "build";
    char in[4096], out[4096];
    snprintf(in, sizeof in, "%s/bench_memory.safetensors", dir);
    snprintf(out, sizeof out, "%s/bench_memory.parquet", dir);
    for (int mib = 64; mib <= 1024; mib *= 16) {
        aq_job_options options = {.progress = {watch, NULL}, .no_sync = true};
        aq_job_report report;
        aq_error err;
        make_model(in, mib / 4);
        peak_kib = 0;
        long before = private_kib();
        check(aq_job_run(in, out, &options, &report, &err), &err);
        printf("%4d MiB of float32 in %3d tensors: peak private memory %ld KiB above the start, "
               "pool hit rate %.1f %%, %.2f s\n",
               mib, mib / 4, peak_kib - before, 100.0 * report.pool.hit_rate, report.seconds);
        aq_job_report_deinit(&report);
        unlink(in);
        unlink(out);
    }
    return 0;
}
