/* diffusion_measure.h - how far samples are from fresh data, and what tiny_diffusion.c
 * measures of each setting. */
#ifndef DIFFUSION_MEASURE_H
#define DIFFUSION_MEASURE_H

#include <stdlib.h>
#include <string.h>

#include "diffusion.h"

/* --- Distances ------------------------------------------------------------------- */

/* Mean distance between a point of x and one of y; in one set, between two different
 * ones. */
static inline double mean_distance(const float *x, const float *y, size_t count) {
    double total = 0;
    for (size_t i = 0; i < count; i++) {
        float sum = 0;
        for (size_t j = 0; j < count; j++) {
            const float a = x[2 * i] - y[2 * j], b = x[2 * i + 1] - y[2 * j + 1];
            sum += sqrtf(a * a + b * b);
        }
        total += (double)sum;
    }
    return total / ((double)count * (double)(x == y ? count - 1 : count));
}

/* Energy distance: 0 on average between two draws of one distribution. */
static inline double energy_distance(const float *x, const float *y, size_t count) {
    return 2 * mean_distance(x, y, count) - mean_distance(x, x, count) -
           mean_distance(y, y, count);
}

static inline int compare_floats(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Sliced Wasserstein distance: how far, on average over 16 directions, points must move
 * along the direction until both sets are one. */
static inline double sliced_distance(const float *x, const float *y, size_t count) {
    enum { DIRECTIONS = 16 };
    float *lines = (float *)malloc(2 * count * sizeof *lines);
    double total = 0;
    if (lines == NULL) abort();
    for (int d = 0; d < DIRECTIONS; d++) {
        const float turns = 0.5f * (float)d / DIRECTIONS;
        const float dx = diffusion_cos(turns), dy = diffusion_sin(turns);
        for (size_t i = 0; i < count; i++) {
            lines[i] = x[2 * i] * dx + x[2 * i + 1] * dy;
            lines[count + i] = y[2 * i] * dx + y[2 * i + 1] * dy;
        }
        qsort(lines, count, sizeof *lines, compare_floats);
        qsort(lines + count, count, sizeof *lines, compare_floats);
        for (size_t i = 0; i < count; i++)
            total += fabs((double)lines[i] - (double)lines[count + i]);
    }
    free(lines);
    return total / (double)count / DIRECTIONS;
}

/* Mean distance between points that were made from the same noise. */
static inline double shift_distance(const float *x, const float *y, size_t count) {
    double total = 0;
    for (size_t i = 0; i < count; i++) {
        const float a = x[2 * i] - y[2 * i], b = x[2 * i + 1] - y[2 * i + 1];
        total += (double)sqrtf(a * a + b * b);
    }
    return total / (double)count;
}

/* Mean of one number a seed, and half the width of its 95 % confidence interval. */
typedef struct estimate {
    double mean, half;
} estimate;

static inline estimate estimate_of(const double *values, int count) {
    estimate e = {0, 0};
    double squares = 0, freedom = count - 1;
    for (int i = 0; i < count; i++)
        e.mean += values[i] / count;
    for (int i = 0; i < count; i++)
        squares += (values[i] - e.mean) * (values[i] - e.mean);
    if (count < 2) return e;
    /* Student's t, within 0.01 from 6 degrees of freedom on. */
    const double t = 1.96 + 2.37 / freedom + 2.82 / (freedom * freedom);
    e.half = t * sqrt(squares / freedom / count);
    return e;
}

/* --- Settings -------------------------------------------------------------------- */

enum { MAX_SEEDS = 64, MAX_SETTINGS = 32 };

/* What parameters the activations of a layer have: one scale and zero point for all
 * timesteps, or one for each of DIFFUSION_GROUPS groups of them. */
typedef enum grouping { GROUPS_ONE, GROUPS_EQUAL, GROUPS_SIMILAR } grouping;

static const char *const grouping_names[] = {"one range", "groups, equal",
                                             "groups, similar"};
static const char *const grouping_words[] = {"one", "equal", "similar"};
enum { DIFFUSION_GROUPS = 10 };
static const int weight_widths[3] = {8, 4, 2}, activation_widths[3] = {8, 6, 4};

/* A model file, and samples of it; bits 0 = float32. */
typedef struct setting {
    int weight_bits, activation_bits;
    grouping how;
    double sliced[MAX_SEEDS], energy[MAX_SEEDS], moved[MAX_SEEDS];
    double against_one[MAX_SEEDS];
    estimate distance, energy_distance, shift, difference;
    aq_affine codes[DIFFUSION_LAYERS][DIFFUSION_STEPS]; /* of activations, by the file */
    uint64_t bytes; /* of the model file                */
    double rate;    /* points made in a second          */
    float *points;  /* of the first seed                */
} setting;

typedef struct results {
    setting fresh;                  /* data against data */
    setting settings[MAX_SETTINGS]; /* the first is float32 */
    int num_settings, seeds;
    size_t count; /* points of a seed */
} results;

static inline const char *bits_name(int bits) {
    static const char *const names[] = {"float32", "",       "2 bits", "",      "4 bits",
                                        "",        "6 bits", "",       "8 bits"};
    return names[bits];
}

static inline const setting *find_setting(const results *r, int weights, int activations,
                                          grouping how) {
    for (int i = 0; i < r->num_settings; i++) {
        const setting *s = &r->settings[i];
        if (s->weight_bits == weights && s->activation_bits == activations &&
            s->how == how)
            return s;
    }
    return NULL;
}

/* Against one range, by the interval of the difference seed by seed: -1 nearer to the
 * data, 1 farther, 0 neither. */
static inline int verdict_of(const setting *s) {
    const estimate d = s->difference;
    if (d.mean + d.half < 0) return -1;
    return d.mean - d.half > 0;
}

static const char *const verdict_names[] = {"nearer", "no clear difference", "farther"};

/* --- Text ------------------------------------------------------------------------ */

static inline void print_head(void) {
    printf("%-8s %-8s %-19s %-17s  %-19s %-18s %s\n", "weights", "activ.", "ranges",
           "sliced distance", "energy distance", "moved from float32",
           "sliced, to one range");
}

static inline void print_setting(const results *r, const setting *s) {
    if (s == &r->fresh)
        printf("%-37s", "fresh data");
    else
        printf("%-8s %-8s %-19s", bits_name(s->weight_bits),
               bits_name(s->activation_bits),
               s->activation_bits != 0 ? grouping_names[s->how] : "-");
    printf(" %.4f +- %.4f  %8.5f +- %.5f", s->distance.mean, s->distance.half,
           s->energy_distance.mean, s->energy_distance.half);
    if (s != &r->fresh) printf("  %.4f +- %.4f", s->shift.mean, s->shift.half);
    if (s->how != GROUPS_ONE)
        printf("  %+.4f +- %.4f", s->difference.mean, s->difference.half);
    printf("\n");
    fflush(stdout);
}

/* What groups of similar timesteps change, what they cost, and how fast each is. */
static inline void print_verdicts(const results *r) {
    printf(
        "\n%d groups of similar timesteps beside one range. Nearer, farther: the 95 %% "
        "interval\nof the difference, seed by seed, does not hold 0.\n"
        "%-8s %-8s %-20s %7s %7s  %9s %7s  %13s %7s\n",
        DIFFUSION_GROUPS, "weights", "activ.", "to fresh data", "moved", "groups", "KiB",
        "groups", "points/s", "groups");
    for (int i = 0; i < r->num_settings; i++) {
        const setting *one = &r->settings[i];
        const setting *time =
            find_setting(r, one->weight_bits, one->activation_bits, GROUPS_SIMILAR);
        if (one->how != GROUPS_ONE) continue;
        printf("%-8s %-8s %-20s %7.4f ", bits_name(one->weight_bits),
               bits_name(one->activation_bits),
               time != NULL ? verdict_names[verdict_of(time) + 1] : "-", one->shift.mean);
        if (time != NULL)
            printf("%7.4f  %9.1f %7.1f  %13.0f %7.0f\n", time->shift.mean,
                   (double)one->bytes / 1024, (double)time->bytes / 1024, one->rate,
                   time->rate);
        else
            printf("%7s  %9.1f %7s  %13.0f %7s\n", "-", (double)one->bytes / 1024, "-",
                   one->rate, "-");
    }
}

#endif /* DIFFUSION_MEASURE_H */
