/* bench_quality - how good weights are after quantization, at how many bits: each method,
 * width, group size and kind of parameters on values of three distributions, and on real
 * models.
 *   bench_quality [MI_VALUES [MODEL...]]
 * MI_VALUES: 2^20 values of each distribution, 64 by default. MODEL: by default what is
 * in ../shared/models.
 *   SQNR: 10 log10(sum w^2 / sum (w - w')^2) of what aq_dequantize_rows gives back.
 *   bpw: bits per weight of codes and all parameters, exact.
 * AQ_SEARCH is slow: of each distribution it gets the first 2^22 values at most. */
#include "measure.h"

#include <glob.h>
#include <math.h>
#include <string.h>

/* --- Configurations ----------------------------------------------------------------- */

typedef struct config {
    uint32_t bits;
    size_t group;
    aq_method method; /* AQ_METHOD_AUTO = codebook */
    bool symmetric;
    aq_params params;
} config;

#define F32 AQ_PARAMS_F32
#define F16 AQ_PARAMS_F16
#define U8 AQ_PARAMS_U8
#define BOOK AQ_METHOD_AUTO

static const config configs[] = {
    {8, 32, AQ_MINMAX, false, F32},  {8, 64, AQ_MINMAX, false, F32},
    {8, 128, AQ_MINMAX, false, F32}, {8, 128, AQ_REFINE, false, F32},
    {8, 128, AQ_SEARCH, false, F32}, {8, 128, AQ_REFINE, true, F32},
    {8, 256, AQ_REFINE, false, F32}, {8, 128, AQ_REFINE, false, F16},
    {8, 64, AQ_REFINE, false, F16},  {8, 32, AQ_REFINE, false, U8},
    {8, 64, AQ_REFINE, false, U8},   {8, 32, AQ_REFINE, true, U8},
    {4, 32, AQ_MINMAX, false, F32},  {4, 32, AQ_REFINE, false, F32},
    {4, 64, AQ_MINMAX, false, F32},  {4, 64, AQ_REFINE, false, F32},
    {4, 128, AQ_MINMAX, false, F32}, {4, 128, AQ_REFINE, false, F32},
    {4, 128, AQ_SEARCH, false, F32}, {4, 128, AQ_REFINE, true, F32},
    {4, 256, AQ_MINMAX, false, F32}, {4, 256, AQ_REFINE, false, F32},
    {4, 64, AQ_REFINE, false, F16},  {4, 128, AQ_REFINE, false, F16},
    {4, 32, AQ_MINMAX, false, U8},   {4, 32, AQ_REFINE, false, U8},
    {4, 32, AQ_SEARCH, false, U8},   {4, 64, AQ_REFINE, false, U8},
    {4, 16, AQ_REFINE, true, U8},    {4, 32, AQ_REFINE, true, U8},
    {4, 16, BOOK, false, U8},        {4, 32, BOOK, false, U8},
    {4, 64, BOOK, false, U8},        {2, 32, AQ_REFINE, false, F32},
    {2, 64, AQ_REFINE, false, F32},  {2, 128, AQ_MINMAX, false, F32},
    {2, 128, AQ_REFINE, false, F32}, {2, 128, AQ_SEARCH, false, F32},
    {2, 128, AQ_REFINE, true, F32},  {2, 256, AQ_REFINE, false, F32},
    {2, 64, AQ_REFINE, false, F16},  {2, 128, AQ_REFINE, false, F16},
    {2, 32, AQ_REFINE, false, U8},   {2, 64, AQ_REFINE, false, U8},
    {2, 128, AQ_REFINE, false, U8},  {2, 16, BOOK, false, U8},
    {2, 32, BOOK, false, U8},
};
enum { NUM_CONFIGS = sizeof configs / sizeof configs[0] };

static aq_quant_options options_of(const config *c) {
    aq_quant_options options = {.bits = c->bits, .group_size = c->group,
                                .symmetric = c->symmetric, .method = c->method,
                                .params = c->params, .codebook = c->method == BOOK};
    return options;
}

/* Bytes of all parameters: what a file has to hold to give the weights back. */
static size_t parameter_bytes(const aq_layout *layout) {
    /* float32: a scale and a zero point, also where that is the same in all. */
    return layout->params == AQ_PARAMS_F32 ? 2 * sizeof(float) * layout->num_groups
                                           : layout->params_bytes;
}

static const char *method_name(aq_method method) {
    switch (method) {
    case AQ_METHOD_AUTO: return "codebook";
    case AQ_MINMAX: return "minmax";
    case AQ_REFINE: return "refine";
    case AQ_SEARCH: return "search";
    case AQ_WEIGHTED: return "weighted";
    }
    return "?";
}

static const char *params_name(aq_params params) {
    return params == F32 ? "f32" : params == F16 ? "f16" : "u8";
}

/* --- What to compare with ----------------------------------------------------------- */

typedef enum distribution { GAUSS, LAPLACE, STUDENT_T4, NUM_DISTRIBUTIONS } distribution;

static const char *const distribution_names[] = {"Gauss", "Laplace", "t4"};

/* Formats of ggml: published figures, quoted, not measured here. */
typedef struct reference {
    const char *name;
    double bpw, sqnr_db[NUM_DISTRIBUTIONS];
} reference;

static const reference q4_0 = {"Q4_0", 4.5, {21.3, 19.4, 18.7}};
static const reference q4_k = {"Q4_K", 4.5, {22.9, 21.5, 21.2}};
static const reference q4_1 = {"Q4_1", 5.0, {22.1, 20.8, 20.6}};
static const reference q2_k = {"Q2_K", 2.625, {10.6, 9.3, 9.3}};
static const reference q8_0 = {"Q8_0", 8.5, {45.4, 43.4, 42.7}};
static const reference *const references[] = {&q8_0, &q4_1, &q4_k, &q4_0, &q2_k};

/* What a configuration of these bits, group (0 = any) and size is to reach. */
typedef struct bar {
    char letter;
    const char *text;
    uint32_t bits;
    size_t group;
    double max_bpw;
    double gauss_db;        /* at least                            */
    const reference *above; /* on each distribution; NULL = nobody */
} bar;

static const bar bars[] = {
    {'a', "8 bits, <= 8.50 bpw: above Q8_0 on all three", 8, 0, 8.5, 0, &q8_0},
    {'b', "4 bits, <= 4.55 bpw: Gauss >= 23.6, above Q4_K on all three", 4, 0, 4.55, 23.6,
     &q4_k},
    {'c', "4 bits, <= 4.28 bpw: Gauss >= 22.5", 4, 0, 4.28, 22.5, NULL},
    {'d', "2 bits, group 128: Gauss >= 9.4", 2, 128, INFINITY, 9.4, NULL},
    {'e', "2 bits, <= 2.63 bpw: above Q2_K on all three", 2, 0, 2.63, 0, &q2_k},
};
enum { NUM_BARS = sizeof bars / sizeof bars[0] };

typedef struct result {
    double bpw, sqnr_db[NUM_DISTRIBUTIONS];
} result;

static bool concerns(const bar *b, const config *c, const result *r) {
    return c->bits == b->bits && (b->group == 0 || c->group == b->group) &&
           r->bpw <= b->max_bpw;
}

static bool passes(const bar *b, const result *r) {
    if (!(r->sqnr_db[GAUSS] >= b->gauss_db)) return false;
    for (int d = 0; d < NUM_DISTRIBUTIONS && b->above != NULL; d++) {
        if (!(r->sqnr_db[d] > b->above->sqnr_db[d])) return false;
    }
    return true;
}

/* --- Random values ------------------------------------------------------------------ */

/* xoshiro256**, its state filled by splitmix64. */
typedef struct rng {
    uint64_t s[4];
} rng;

static rng rng_seed(uint64_t seed) {
    rng g;
    for (int i = 0; i < 4; i++) {
        uint64_t z = seed += 0x9E3779B97F4A7C15u;
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
        z = (z ^ z >> 27) * 0x94D049BB133111EBu;
        g.s[i] = z ^ z >> 31;
    }
    return g;
}

static uint64_t rotate(uint64_t x, int k) { return x << k | x >> (64 - k); }

static uint64_t rng_next(rng *g) {
    uint64_t *s = g->s, out = rotate(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate(s[3], 45);
    return out;
}

/* In (0, 1]. */
static double rng_unit(rng *g) { return (double)((rng_next(g) >> 11) + 1) * 0x1p-53; }

/* Box and Muller: two independent values of N(0, 1). */
static void rng_normals(rng *g, double out[2]) {
    const double turn = 6.283185307179586;
    double radius = sqrt(-2 * log(rng_unit(g))), angle = turn * rng_unit(g);
    out[0] = radius * cos(angle);
    out[1] = radius * sin(angle);
}

/* The standard deviation is 0.02 in each; sqrt(1/2) is that of a Laplace value of scale
 * 1/2 and half that of a Student-t value with 4 degrees of freedom. */
static double rng_laplace(rng *g) {
    double magnitude = -log(rng_unit(g));
    return (rng_next(g) >> 63 ? magnitude : -magnitude) * 0.02 * sqrt(0.5);
}

/* A normal value over the root of a quarter of a chi-squared one with 4 degrees of
 * freedom, which is the sum of two exponential ones. */
static double rng_t4(rng *g, double normal) {
    double chi_squared = -2 * log(rng_unit(g)) - 2 * log(rng_unit(g));
    return normal / sqrt(chi_squared / 4) * 0.02 * sqrt(0.5);
}

enum {
    COLS = 4096,
    BLOCK = 64 * COLS, /* has a seed of its own */
    SEARCH_MI = 4,
    SEARCH_ROWS = SEARCH_MI * (1024 * 1024 / COLS)
};

typedef struct filling {
    float *values;
    distribution kind;
} filling;

static void fill_block(void *arg, size_t block) {
    const filling *f = arg;
    float *values = f->values + block * BLOCK;
    rng g = rng_seed((uint64_t)f->kind << 32 | block);
    for (size_t i = 0; i < BLOCK; i += 2) {
        double pair[2];
        if (f->kind != LAPLACE) rng_normals(&g, pair);
        for (int k = 0; k < 2; k++) {
            values[i + (size_t)k] = (float)(f->kind == GAUSS     ? 0.02 * pair[k]
                                            : f->kind == LAPLACE ? rng_laplace(&g)
                                                                 : rng_t4(&g, pair[k]));
        }
    }
}

/* --- Measuring ---------------------------------------------------------------------- */

static void *must_alloc(size_t bytes) {
    void *p = malloc(bytes != 0 ? bytes : 1);
    if (p != NULL) return p;
    fprintf(stderr, "bench: %zu bytes of memory are not to be had\n", bytes);
    exit(1);
}

/* Quantizes a matrix and compares what comes back; adds to *metrics and *bytes. */
static void measure_config(const config *c, const float *values, size_t rows, size_t cols,
                           const aq_tasks *tasks, aq_metrics *metrics, double *bytes) {
    aq_quant_options options = options_of(c);
    aq_metrics part;
    aq_layout layout;
    aq_error err;
    check(aq_layout_init(rows, cols, &options, &layout, &err), &err);
    float *back = must_alloc(rows * cols * sizeof *back);
    aq_quantized q = {must_alloc(layout.code_bytes),
                      must_alloc(layout.num_groups * sizeof(float)),
                      must_alloc(layout.num_groups * sizeof(float)),
                      must_alloc(layout.params_bytes)};
    aq_quantized_view view = {q.codes, q.scales, q.zero_points, q.params};
    check(aq_quantize_into(&layout, values, AQ_F32, &q, tasks, NULL, &err), &err);
    check(aq_dequantize_rows(&layout, &view, 0, rows, back, tasks, &err), &err);
    check(aq_metrics_of(values, back, rows * cols, tasks, &part, &err), &err);
    aq_metrics_add(metrics, &part);
    *bytes += (double)(layout.code_bytes + parameter_bytes(&layout));
    free(q.codes);
    free(q.scales);
    free(q.zero_points);
    free(q.params);
    free(back);
}

static size_t rows_of(const config *c, size_t rows) {
    return c->method == AQ_SEARCH && rows > SEARCH_ROWS ? SEARCH_ROWS : rows;
}

static void measure_distribution(distribution kind, float *values, size_t rows,
                                 const aq_tasks *tasks, result *results) {
    filling f = {values, kind};
    tasks->run(tasks->user, rows * COLS / BLOCK, fill_block, &f);
    for (size_t i = 0; i < NUM_CONFIGS; i++) {
        aq_metrics metrics = {0};
        double bytes = 0;
        measure_config(&configs[i], values, rows_of(&configs[i], rows), COLS, tasks,
                       &metrics, &bytes);
        results[i].sqnr_db[kind] = metrics.sqnr_db;
        results[i].bpw = 8 * bytes / (double)metrics.count;
    }
}

/* --- Output ------------------------------------------------------------------------- */

static void print_config(const config *c) {
    printf("int%u %-8s %4zu %4s %4s", c->bits, method_name(c->method), c->group,
           c->symmetric ? "sym" : "", params_name(c->params));
}

static void print_results(const result *results) {
    printf("%-29s %7s", "method, group, parameters", "bpw");
    for (int d = 0; d < NUM_DISTRIBUTIONS; d++) printf(" %8s", distribution_names[d]);
    printf("  bars\n");
    for (size_t i = 0; i < NUM_CONFIGS; i++) {
        print_config(&configs[i]);
        printf("   %7.4f", results[i].bpw);
        for (int d = 0; d < NUM_DISTRIBUTIONS; d++)
            printf(" %8.2f", results[i].sqnr_db[d]);
        for (size_t b = 0; b < NUM_BARS; b++) {
            if (!concerns(&bars[b], &configs[i], &results[i])) continue;
            printf("  %c %s", bars[b].letter,
                   passes(&bars[b], &results[i]) ? "pass" : "miss");
        }
        printf("\n");
    }
    for (size_t i = 0; i < sizeof references / sizeof *references; i++) {
        const reference *r = references[i];
        printf("ggml %-24s %7.4f", r->name, r->bpw);
        for (int d = 0; d < NUM_DISTRIBUTIONS; d++) printf(" %8.1f", r->sqnr_db[d]);
        printf("  quoted\n");
    }
}

/* Each bar, and the configuration that passes it, or else comes nearest on Gauss. */
static void print_bars(const result *results) {
    for (size_t b = 0; b < NUM_BARS; b++) {
        size_t best = NUM_CONFIGS;
        for (size_t i = 0; i < NUM_CONFIGS; i++) {
            if (!concerns(&bars[b], &configs[i], &results[i])) continue;
            const result *r = &results[i], *top = &results[best % NUM_CONFIGS];
            bool passed = passes(&bars[b], r);
            bool had = best != NUM_CONFIGS && passes(&bars[b], top);
            if (best == NUM_CONFIGS || passed > had ||
                (passed == had && r->sqnr_db[GAUSS] > top->sqnr_db[GAUSS]))
                best = i;
        }
        printf("%c  %-62s ", bars[b].letter, bars[b].text);
        if (best == NUM_CONFIGS) {
            printf("miss: no such configuration\n");
            continue;
        }
        printf("%s: int%u %s, group %zu, %s\n",
               passes(&bars[b], &results[best]) ? "pass" : "miss", configs[best].bits,
               method_name(configs[best].method), configs[best].group,
               params_name(configs[best].params));
    }
}

/* --- Real models -------------------------------------------------------------------- */

/* As a job chooses: float tensors of two dimensions or more. */
static bool is_weight(const aq_tensor *t) {
    return aq_dtype_is_float(t->dtype) && t->num_dims >= 2 && t->num_params != 0;
}

static void measure_tensor(const aq_model *model, size_t index, const aq_tasks *tasks,
                           aq_metrics *metrics, double *bytes) {
    aq_tensor t;
    aq_error err;
    check(aq_model_tensor(model, index, &t, &err), &err);
    if (is_weight(&t)) {
        size_t rows = t.layout.rows, cols = t.layout.cols;
        float *values = must_alloc(rows * cols * sizeof *values);
        check(aq_tensor_rows_f32(&t, 0, rows, values, tasks, &err), &err);
        for (size_t i = 0; i < NUM_CONFIGS; i++)
            measure_config(&configs[i], values, rows, cols, tasks, &metrics[i],
                           &bytes[i]);
        free(values);
    }
    aq_tensor_release(&t);
}

static void measure_model(const char *path, const aq_tasks *tasks) {
    aq_metrics metrics[NUM_CONFIGS] = {{0}};
    double bytes[NUM_CONFIGS] = {0};
    const char *name = strrchr(path, '/');
    aq_model *model;
    aq_error err;
    check(aq_model_open(path, NULL, &model, &err), &err);
    for (size_t i = 0; i < aq_model_count(model); i++)
        measure_tensor(model, i, tasks, metrics, bytes);
    aq_model_close(model);
    printf("\n%s: %llu weights, all tensors together\n", name != NULL ? name + 1 : path,
           (unsigned long long)metrics[0].count);
    printf("%-29s %7s %8s\n", "method, group, parameters", "bpw", "SQNR");
    for (size_t i = 0; i < NUM_CONFIGS; i++) {
        print_config(&configs[i]);
        printf("   %7.4f %8.2f\n", 8 * bytes[i] / (double)metrics[i].count,
               metrics[i].sqnr_db);
    }
}

static void measure_shared_models(const aq_tasks *tasks) {
    const char *pattern = "../shared/models/*.safetensors";
    glob_t found;
    if (glob(pattern, 0, NULL, &found) != 0) {
        printf("\nskipped real models: no %s\n", pattern);
        return;
    }
    for (size_t i = 0; i < found.gl_pathc; i++) measure_model(found.gl_pathv[i], tasks);
    globfree(&found);
}

int main(int argc, char **argv) {
    long mi = argc > 1 ? atol(argv[1]) : 64;
    result results[NUM_CONFIGS];
    aq_threads *threads;
    aq_error err;
    if (mi < 1 || mi > 4096) {
        fprintf(stderr, "usage: bench_quality [MI_VALUES [MODEL...]]\n");
        return 1;
    }
    size_t rows = (size_t)mi * (1024 * 1024 / COLS);
    float *values = must_alloc(rows * COLS * sizeof *values);
    check(aq_threads_create(0, NULL, &threads, &err), &err);
    const aq_tasks *tasks = aq_threads_tasks(threads);
    for (int d = 0; d < NUM_DISTRIBUTIONS; d++)
        measure_distribution((distribution)d, values, rows, tasks, results);
    printf("SQNR in dB, %ld Mi values of each distribution (search: %ld), rows of %d\n",
           mi, mi < SEARCH_MI ? mi : (long)SEARCH_MI, COLS);
    print_results(results);
    printf("\n");
    print_bars(results);
    free(values);
    if (argc > 2) {
        for (int i = 2; i < argc; i++) measure_model(argv[i], tasks);
    } else {
        measure_shared_models(tasks);
    }
    aq_threads_destroy(threads);
    return 0;
}
