/* measure.h - medians of repeated runs, for the benches. Ratios within one run are what they
 * report: machines differ and are shared. */
#ifndef MEASURE_H
#define MEASURE_H

#include "../arrowquant.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define RUNS 7

static inline double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median seconds of RUNS calls after one that is not counted. */
static inline double median_seconds(void (*fn)(void *), void *arg) {
    double times[RUNS];
    fn(arg);
    for (int i = 0; i < RUNS; i++) {
        double start = seconds_now();
        fn(arg);
        times[i] = seconds_now() - start;
    }
    qsort(times, RUNS, sizeof *times, compare_doubles);
    return times[RUNS / 2];
}

static inline void check(aq_status status, const aq_error *err) {
    if (status == AQ_OK) return;
    fprintf(stderr, "bench: %s\n", err->message);
    exit(1);
}

/* Weights-like values: a sum of uniforms, near to normal, of standard deviation 0.02. */
static inline void fill_weights(float *dst, size_t n) {
    uint64_t state = 88172645463325252u;
    for (size_t i = 0; i < n; i++) {
        float sum = 0.0f;
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        for (int k = 0; k < 8; k++) sum += (float)(state >> (8 * k) & 255) - 127.5f;
        dst[i] = sum * (0.02f / 209.0f);
    }
}

#endif
