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

/* Two ways to the same result, run in turn so that both meet the same machine. */
typedef struct duel {
    void (*ours)(void *arg);
    void (*floor)(void *arg);
    void (*before)(void *arg); /* each run of either, not timed; may be NULL */
    void *arg;
} duel;

typedef struct duel_result {
    double ours, floor; /* median seconds                          */
    double ratio;       /* median over the runs of floor over ours */
} duel_result;

static inline double timed_run(const duel *d, void (*fn)(void *)) {
    if (d->before != NULL) d->before(d->arg);
    double start = seconds_now();
    fn(d->arg);
    return seconds_now() - start;
}

static inline duel_result run_duel(const duel *d) {
    double ours[RUNS], floor[RUNS], ratio[RUNS];
    timed_run(d, d->ours);
    timed_run(d, d->floor);
    for (int i = 0; i < RUNS; i++) {
        ours[i] = timed_run(d, d->ours);
        floor[i] = timed_run(d, d->floor);
        ratio[i] = floor[i] / ours[i];
    }
    qsort(ours, RUNS, sizeof *ours, compare_doubles);
    qsort(floor, RUNS, sizeof *floor, compare_doubles);
    qsort(ratio, RUNS, sizeof *ratio, compare_doubles);
    return (duel_result){ours[RUNS / 2], floor[RUNS / 2], ratio[RUNS / 2]};
}

static inline void check(aq_status status, const aq_error *err) {
    if (status == AQ_OK) return;
    fprintf(stderr, "bench: %s\n", err->message);
    exit(1);
}

/* Weights-like values: a sum of uniforms, near to normal, of standard deviation 0.02, with
 * mantissas as random as those of trained weights. */
static inline void fill_weights(float *dst, size_t n) {
    uint64_t state = 88172645463325252u;
    for (size_t i = 0; i < n; i++) {
        float sum = 0.0f;
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        for (int k = 0; k < 8; k++) sum += (float)(state >> (8 * k) & 255) - 127.5f;
        sum += (float)(state * 0x9E3779B97F4A7C15u >> 40) * 0x1p-24f - 0.5f; /* low bits */
        dst[i] = sum * (0.02f / 209.0f);
    }
}

#endif
