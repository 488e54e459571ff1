/* aq_bench.c - `aq bench`: how fast this machine reads and writes memory, and what part
 * of that the kernels of each instruction set reach. */
#include "aq.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

enum { BENCH_SVG = CLI_OPTION_OWN, BENCH_MIB, BENCH_ISA };

enum {
    COLS = 4096,
    ROWS_PER_MIB = 64, /* of COLS float32 */
    GROUP_SIZE = 128,
    BOOK_GROUP_SIZE = 16, /* of a codebook, which has a byte a group */
    BATCH = 8,            /* vectors of a matmul */
    PARTS = 64,           /* tasks of a floor */
    MAX_MIB = sizeof(size_t) > 4 ? 65536 : 512,
    MIN_ROUNDS = 3,
    MAX_ROUNDS = 9
};

/* A slower operation has fewer rows. */
static const double MAX_RUN_SECONDS = 0.06;
static const double BUDGET_SECONDS = 40;

/* What weights are made into. */
typedef enum code_kind { INT2, INT4, INT8, BOOK4, NUM_CODES } code_kind;

typedef struct code_form {
    const char *name;
    uint32_t bits;
    size_t group_size;
    bool codebook;
} code_form;

static const code_form forms[NUM_CODES] = {{"int2", 2, GROUP_SIZE, false},
                                           {"int4", 4, GROUP_SIZE, false},
                                           {"int8", 8, GROUP_SIZE, false},
                                           {"codebook4", 4, BOOK_GROUP_SIZE, true}};

static const aq_isa isas[] = {AQ_ISA_REF, AQ_ISA_AVX2, AQ_ISA_AVX512, AQ_ISA_NEON};
enum { NUM_ISAS = sizeof isas / sizeof isas[0] };

/* The data, and what the operation that runs now is to do with it. */
typedef struct work {
    size_t mib;
    size_t count; /* of values */
    float *values, *back;
    float *x, *y; /* BATCH rows, BATCH columns */
    void *x8;     /* room for BATCH rows as activations of 8 bits */
    aq_quantized quantized[NUM_CODES];
    float sums[PARTS];
    void (*read)(const float *from, size_t count, float *out_sum);
    void (*store)(float *to, size_t count);
    const aq_tasks *tasks; /* NULL = one thread */
    aq_layout layout;
    aq_quantized codes; /* of the form in work */
} work;

/*==========================================================================
 * MARK: - Floors: what the memory allows
 *========================================================================*/

/* The compiler splits a vector where the target has only narrower ones. */
typedef float wide __attribute__((vector_size(64), aligned(64), may_alias));
enum { STEP = 2 * sizeof(wide) / sizeof(float) };

#define INLINE_BODY static inline __attribute__((always_inline))

/* A prefetch 4 KiB ahead reads faster than the hardware's own guesses. */
INLINE_BODY void read_body(const float *from, size_t count, float *out_sum) {
    wide sums[2];
    size_t i;
    memset(sums, 0, sizeof sums);
    for (i = 0; i < count; i += STEP) {
        const wide *at = (const wide *)(from + i);
        __builtin_prefetch((const void *)((uintptr_t)at + 4096));
        __builtin_prefetch((const void *)((uintptr_t)at + 4096 + sizeof(wide)));
        sums[0] += at[0];
        sums[1] += at[1];
    }
    sums[0] += sums[1];
    *out_sum = sums[0][0];
    for (i = 1; i < sizeof(wide) / sizeof(float); i++)
        *out_sum += sums[0][i];
}

/* Not 0, whose stores compilers turn into memset. */
INLINE_BODY void store_body(float *to, size_t count) {
    wide value;
    size_t i;
    for (i = 0; i < sizeof(wide) / sizeof(float); i++)
        value[i] = 0.02f;
    for (i = 0; i < count; i += STEP) {
        wide *at = (wide *)(to + i);
        at[0] = value;
        at[1] = value;
    }
}

#define FLOOR_TIER(name, target)                                                         \
    target static void read_##name(const float *from, size_t count, float *out_sum) {    \
        read_body(from, count, out_sum);                                                 \
    }                                                                                    \
    target static void store_##name(float *to, size_t count) { store_body(to, count); }
FLOOR_TIER(plain, )
#if defined(__x86_64__)
FLOOR_TIER(avx2, __attribute__((target("avx2"))))
FLOOR_TIER(avx512, __attribute__((target("avx512f"))))
#endif

/* The widest that the machine has, whatever tier is measured. */
static void choose_sweeps(work *of) {
    of->read = read_plain;
    of->store = store_plain;
#if defined(__x86_64__)
    if (aq_isa_supported(AQ_ISA_AVX512)) {
        of->read = read_avx512;
        of->store = store_avx512;
    } else if (aq_isa_supported(AQ_ISA_AVX2)) {
        of->read = read_avx2;
        of->store = store_avx2;
    }
#endif
}

/* Past the caches; false where the processor has no such store. */
#if defined(__x86_64__)
#define HAS_STREAM true
static void stream(float *to, size_t count) {
    const __m128 value = _mm_set1_ps(0.02f);
    size_t i;
    for (i = 0; i < count; i += 4)
        _mm_stream_ps(to + i, value);
    _mm_sfence();
}
#elif defined(__aarch64__)
#define HAS_STREAM true
static void stream(float *to, size_t count) {
    typedef float vector __attribute__((vector_size(16)));
    const vector value = {0.02f, 0.02f, 0.02f, 0.02f};
    size_t i;
    for (i = 0; i < count; i += 8)
        __asm__ volatile("stnp %q0, %q0, [%1]" : : "w"(value), "r"(to + i) : "memory");
}
#else
#define HAS_STREAM false
static void stream(float *to, size_t count) { store_plain(to, count); }
#endif

typedef enum floor_kind {
    FLOOR_COPY,
    FLOOR_READ,
    FLOOR_STORE,
    FLOOR_STREAM,
    NUM_FLOORS
} floor_kind;

static const char *const floor_names[NUM_FLOORS] = {"memcpy", "read", "store",
                                                    "non-temporal store"};

typedef struct sweep {
    work *of;
    floor_kind kind;
} sweep;

static void sweep_part(void *arg, size_t part) {
    const sweep *sw = (const sweep *)arg;
    work *of = sw->of;
    size_t count = of->count / PARTS;
    const float *from = of->values + part * count;
    float *to = of->back + part * count;
    switch (sw->kind) {
    case FLOOR_COPY:
        memcpy(to, from, count * sizeof *to);
        break;
    case FLOOR_READ:
        of->read(from, count, &of->sums[part]);
        break;
    case FLOOR_STORE:
        of->store(to, count);
        break;
    default:
        stream(to, count);
        break;
    }
}

static void run_floor(work *of, floor_kind kind) {
    sweep sw;
    size_t i;
    sw.of = of;
    sw.kind = kind;
    if (of->tasks != NULL) {
        of->tasks->run(of->tasks->user, PARTS, sweep_part, &sw);
    } else {
        for (i = 0; i < PARTS; i++)
            sweep_part(&sw, i);
    }
}

/*==========================================================================
 * MARK: - Operations
 *========================================================================*/

static aq_quantized_view view_of(const work *of) {
    aq_quantized_view view;
    view.codes = of->codes.codes;
    view.scales = of->codes.scales;
    view.zero_points = of->codes.zero_points;
    view.params = of->codes.params;
    return view;
}

static aq_status run_quantize(work *of, aq_error *err) {
    return aq_quantize_into(&of->layout, of->values, AQ_F32, &of->codes, of->tasks, NULL,
                            err);
}

static aq_status run_dequantize(work *of, aq_error *err) {
    aq_quantized_view view = view_of(of);
    return aq_dequantize_rows(&of->layout, &view, 0, of->layout.rows, of->back, of->tasks,
                              err);
}

static aq_status run_matvec(work *of, aq_error *err) {
    aq_quantized_view view = view_of(of);
    return aq_matvec(&of->layout, &view, of->x, of->y, of->tasks, err);
}

static aq_status run_matmul(work *of, aq_error *err) {
    aq_quantized_view view = view_of(of);
    return aq_matmul(&of->layout, &view, of->x, BATCH, of->y, of->tasks, err);
}

/* With the quantization of the vectors, as a runtime has to do it. */
static aq_status multiply_i8(work *of, size_t count, aq_error *err) {
    aq_quantized_view view = view_of(of);
    aq_activations x;
    aq_status status = aq_activations_init(&of->layout, of->x, count, of->x8, &x, err);
    if (status != AQ_OK) return status;
    return aq_matmul_i8(&of->layout, &view, &x, of->y, of->tasks, err);
}

static aq_status run_matvec_i8(work *of, aq_error *err) {
    return multiply_i8(of, 1, err);
}

static aq_status run_matmul_i8(work *of, aq_error *err) {
    return multiply_i8(of, BATCH, err);
}

enum {
    ALL_INTS = 1 << INT2 | 1 << INT4 | 1 << INT8,
    ALL_CODES = ALL_INTS | 1 << BOOK4,
    INT4_ONLY = 1 << INT4,
    INT4_AND_8 = 1 << INT4 | 1 << INT8
};

/* What is measured, each with some forms of codes and every instruction set and number of
 * threads. */
typedef struct operation {
    const char *name, *variant;
    aq_status (*run)(work *of, aq_error *err);
    aq_method method; /* for the layout */
    floor_kind floor;
    size_t vectors; /* that are multiplied; 0 = no product */
    unsigned codes; /* which forms: 1 << code_kind */
} operation;

static const operation operations[] = {
    {"quantize", "minmax", run_quantize, AQ_MINMAX, FLOOR_READ, 0, ALL_INTS},
    {"quantize", "refine", run_quantize, AQ_REFINE, FLOOR_READ, 0, ALL_INTS},
    {"dequantize", "float32", run_dequantize, AQ_MINMAX, FLOOR_STORE, 0, ALL_CODES},
    {"matvec", "float32", run_matvec, AQ_MINMAX, FLOOR_READ, 1, ALL_INTS},
    {"matvec", "int8", run_matvec_i8, AQ_MINMAX, FLOOR_READ, 1, ALL_CODES},
    {"matmul 8", "float32", run_matmul, AQ_MINMAX, FLOOR_READ, BATCH, INT4_ONLY},
    {"matmul 8", "int8", run_matmul_i8, AQ_MINMAX, FLOOR_READ, BATCH, INT4_AND_8},
};
enum { NUM_OPERATIONS = sizeof operations / sizeof operations[0] };

/* Percent of the floor that one thread is to reach on the best instruction set, for each
 * form of codes, and on AVX2 where that is not the best, for all; 0 = nothing is set. */
static const struct {
    uint8_t best[NUM_CODES], avx2;
} bars[NUM_OPERATIONS] = {
    {{75, 75, 68, 0}, 65}, /* quantize minmax    */
    {{0, 60, 0, 0}, 0},    /* quantize refine    */
    {{85, 85, 85, 85}, 0}, /* dequantize float32 */
    {{0, 0, 0, 0}, 0},     /* matvec float32     */
    {{65, 80, 90, 0}, 0},  /* matvec int8        */
    {{0, 0, 0, 0}, 0},     /* matmul float32     */
    {{0, 0, 0, 0}, 0},     /* matmul int8        */
};

/*==========================================================================
 * MARK: - Data
 *========================================================================*/

/* Makes the layout of an operation on the first `rows` rows. Small parameters of fewer rows
 * than were quantized are read from another place: any of them do for measuring. */
static aq_status set_layout(work *of, const operation *op, size_t codes, size_t rows,
                            aq_error *err) {
    aq_quant_options options;
    memset(&options, 0, sizeof options);
    options.bits = forms[codes].bits;
    options.group_size = forms[codes].group_size;
    options.codebook = forms[codes].codebook;
    options.method = op->method;
    of->codes = of->quantized[codes];
    return aq_layout_init(rows, COLS, &options, &of->layout, err);
}

/* Near to normal, with mantissas as random as those of trained weights. */
static void fill_weights(float *to, size_t count) {
    uint64_t state = 88172645463325252u;
    size_t i;
    for (i = 0; i < count; i++) {
        uint64_t sum;
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        sum = (state & 0xffff) + (state >> 16 & 0xffff) + (state >> 32 & 0xffff) +
              (state >> 48);
        to[i] = ((float)sum - 131070.0f) * (0.02f / 37837.0f);
    }
}

static bool allocate(void **out, size_t bytes) {
    *out = NULL;
    return posix_memalign(out, AQ_ALIGNMENT, bytes != 0 ? bytes : 1) == 0;
}

static bool allocate_floats(float **out, size_t count) {
    void *memory;
    bool good = allocate(&memory, count * sizeof(float));
    *out = (float *)memory;
    return good;
}

static bool allocate_codes(aq_quantized *out, const aq_layout *layout) {
    bool small = layout->params != AQ_PARAMS_F32;
    void *codes, *params = NULL;
    bool good = allocate(&codes, layout->code_bytes);
    out->codes = (uint8_t *)codes;
    if (good && small) good = allocate(&params, layout->params_bytes);
    out->params = (uint8_t *)params;
    if (!good || small) return good;
    return allocate_floats(&out->scales, layout->num_groups) &&
           allocate_floats(&out->zero_points, layout->num_groups);
}

static void work_deinit(work *of) {
    size_t i;
    for (i = 0; i < NUM_CODES; i++) {
        free(of->quantized[i].codes);
        free(of->quantized[i].scales);
        free(of->quantized[i].zero_points);
        free(of->quantized[i].params);
    }
    free(of->x8);
    free(of->y);
    free(of->x);
    free(of->back);
    free(of->values);
}

/* Makes codes of a form, and room for activations of it in *io_bytes. */
static int prepare_codes(work *of, size_t codes, size_t *io_bytes) {
    size_t bytes;
    aq_error err;
    /* The first operation is a quantization. */
    if (set_layout(of, &operations[0], codes, of->count / COLS, &err) != AQ_OK)
        return cli_failure("bench", &err);
    if (!allocate_codes(&of->quantized[codes], &of->layout))
        return cli_error("bench", "not enough memory; try a smaller --mib");
    of->codes = of->quantized[codes];
    if (run_quantize(of, &err) != AQ_OK) return cli_failure("bench", &err);
    bytes = aq_activations_bytes(&of->layout, BATCH);
    if (bytes > *io_bytes) *io_bytes = bytes;
    return CLI_GOOD;
}

/* Every page is written once, so that no run pays for its first use. */
static int work_init(work *of, const aq_tasks *tasks) {
    size_t rows = of->mib * ROWS_PER_MIB, x8_bytes = 0, i;
    int code = CLI_GOOD;
    of->count = rows * COLS;
    choose_sweeps(of);
    if (!allocate_floats(&of->values, of->count) ||
        !allocate_floats(&of->back, of->count) ||
        !allocate_floats(&of->x, BATCH * COLS) || !allocate_floats(&of->y, BATCH * rows))
        return cli_error("bench", "not enough memory; try a smaller --mib");
    fill_weights(of->values, of->count);
    fill_weights(of->x, BATCH * COLS);
    memset(of->back, 1, of->count * sizeof *of->back);
    memset(of->y, 1, BATCH * rows * sizeof *of->y);
    of->tasks = tasks;
    for (i = 0; i < NUM_CODES && code == CLI_GOOD; i++)
        code = prepare_codes(of, i, &x8_bytes);
    if (code == CLI_GOOD && !allocate(&of->x8, x8_bytes))
        code = cli_error("bench", "not enough memory; try a smaller --mib");
    return code;
}

/*==========================================================================
 * MARK: - Measuring
 *========================================================================*/

/* Figures of the runs of one thing, in GB/s or as a ratio. */
typedef struct samples {
    double *items;
    size_t count;
} samples;

typedef struct measurement {
    const operation *op;
    size_t codes;   /* of forms */
    size_t isa;     /* of isas */
    size_t pool;    /* of bench.threads */
    size_t row;     /* the instruction sets that are measured before */
    size_t line;    /* the operations and forms before */
    size_t rows;    /* of a run */
    double seconds; /* of a run with its floor, about */
    samples rates, ratios;
    double flops_per_byte;
    double bar; /* for the ratio; NaN = none is set */
} measurement;

typedef struct bench {
    work data;
    aq_threads *pool;    /* of threads[1]; NULL when there is one thread only */
    uint32_t threads[2]; /* 1, and N */
    size_t num_pools;
    samples floors[NUM_FLOORS][2];
    measurement *items;
    size_t count, lines, rounds;
    bool isa_wanted[NUM_ISAS];
    aq_isa best;   /* of the machine, measured or not */
    char cpu[128]; /* "" = not known */
    progress line;
    uint64_t steps_done, steps_total; /* in bytes of the floors, for the progress line */
} bench;

static double now_seconds(void) {
    struct timespec now;
    if (clock_gettime(CLOCK_MONOTONIC, &now) != 0) return 0;
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Never 0, which a coarse clock would give. */
static double seconds_since(double start) {
    double seconds = now_seconds() - start;
    return seconds > 1e-9 ? seconds : 1e-9;
}

static void add_sample(samples *to, double sample) {
    to->items = (double *)cli_resize(to->items, to->count + 1, sizeof *to->items);
    to->items[to->count++] = sample;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts them; NaN of none. */
static double median(const samples *of) {
    size_t half = of->count / 2;
    if (of->count == 0) return (double)NAN;
    qsort(of->items, of->count, sizeof *of->items, compare_doubles);
    return of->count % 2 != 0 ? of->items[half]
                              : (of->items[half - 1] + of->items[half]) / 2;
}

static bool reaches_bar(const measurement *item) {
    return median(&item->ratios) >= item->bar;
}

static void use_pool(bench *of, size_t pool) {
    of->data.tasks = pool != 0 ? aq_threads_tasks(of->pool) : NULL;
}

/* GB/s of one run. */
static double measure_floor(bench *of, floor_kind kind, size_t pool) {
    double start, rate;
    use_pool(of, pool);
    start = now_seconds();
    run_floor(&of->data, kind);
    rate = 1e-9 * (double)of->data.count * sizeof(float) / seconds_since(start);
    add_sample(&of->floors[kind][pool], rate);
    of->steps_done += of->data.count * sizeof(float);
    return rate;
}

/* Seconds of one run on the first `rows` rows; negative: an error, which is shown. */
static double time_operation(bench *of, const measurement *item, size_t rows) {
    aq_error err;
    double start;
    use_pool(of, item->pool);
    if (aq_isa_force(isas[item->isa]) != AQ_OK ||
        set_layout(&of->data, item->op, item->codes, rows, &err) != AQ_OK) {
        cli_error("bench", "%s cannot be measured", aq_isa_name(isas[item->isa]));
        return -1;
    }
    start = now_seconds();
    if (item->op->run(&of->data, &err) != AQ_OK) {
        cli_failure("bench", &err);
        return -1;
    }
    return seconds_since(start);
}

/* Bytes that count, of the layout in work: values, or for products what they are stored
 * as. */
static double bytes_of(const work *of, const operation *op) {
    const aq_layout *layout = &of->layout;
    if (op->vectors == 0)
        return (double)layout->rows * (double)layout->cols * (double)sizeof(float);
    if (layout->params != AQ_PARAMS_F32)
        return (double)layout->code_bytes + (double)layout->params_bytes;
    return (double)layout->code_bytes + 2.0 * sizeof(float) * (double)layout->num_groups;
}

/* A product and a sum for each weight and vector; 0 where nothing is multiplied. */
static double flops_of(const work *of, const operation *op) {
    const aq_layout *layout = &of->layout;
    return 2.0 * (double)op->vectors * (double)layout->rows * (double)layout->cols;
}

static void show_step(bench *of, const measurement *item) {
    char name[96];
    snprintf(name, sizeof name, "%s: %s %s %s", aq_isa_name(isas[item->isa]),
             item->op->name, item->op->variant, forms[item->codes].name);
    progress_step(&of->line, name, of->steps_done, of->steps_total);
}

/* One run after one of its floor: both meet the same machine, and the floor, which goes
 * over all values, leaves little of the codes in the caches. */
static int measure(bench *of, measurement *item) {
    double floor_rate = measure_floor(of, item->op->floor, item->pool), rate, bytes;
    double seconds = time_operation(of, item, item->rows);
    if (seconds < 0) return CLI_ERROR;
    bytes = bytes_of(&of->data, item->op);
    rate = 1e-9 * bytes / seconds;
    item->flops_per_byte = flops_of(&of->data, item->op) / bytes;
    add_sample(&item->rates, rate);
    add_sample(&item->ratios, rate / floor_rate);
    show_step(of, item);
    return CLI_GOOD;
}

/* A first run, not counted, on a part of the rows: how many rows a run can have. */
static int prepare(bench *of, measurement *item) {
    size_t all = of->data.mib * ROWS_PER_MIB;
    size_t few = all / 64 > ROWS_PER_MIB ? all / 64 : ROWS_PER_MIB;
    double seconds = time_operation(of, item, few), wanted, floor_start = now_seconds();
    if (seconds < 0) return CLI_ERROR;
    wanted = MAX_RUN_SECONDS / seconds * (double)few;
    item->rows = wanted < (double)all ? (size_t)wanted : all;
    if (item->rows < few) item->rows = few;
    run_floor(&of->data, item->op->floor);
    item->seconds =
        seconds_since(floor_start) + seconds * ((double)item->rows / (double)few);
    show_step(of, item);
    return CLI_GOOD;
}

/* What one thread is to reach; NaN where nothing is set. `best`: the instruction set that
 * the library takes by itself. */
static double bar_of(size_t op, size_t codes, aq_isa isa, aq_isa best) {
    unsigned percent = 0;
    if (isa == best)
        percent = bars[op].best[codes];
    else if (isa == AQ_ISA_AVX2)
        percent = bars[op].avx2;
    return percent != 0 ? percent / 100.0 : (double)NAN;
}

static void add_measurements(bench *of, size_t isa, size_t row, size_t pool) {
    size_t op, codes, line = 0;
    for (op = 0; op < NUM_OPERATIONS; op++) {
        for (codes = 0; codes < NUM_CODES; codes++) {
            measurement *item;
            if ((operations[op].codes >> codes & 1) == 0) continue;
            of->items =
                (measurement *)cli_resize(of->items, of->count + 1, sizeof *of->items);
            item = &of->items[of->count++];
            memset(item, 0, sizeof *item);
            item->op = &operations[op];
            item->codes = codes;
            item->isa = isa;
            item->pool = pool;
            item->row = row;
            item->line = line++;
            item->bar = pool == 0 ? bar_of(op, codes, isas[isa], of->best) : (double)NAN;
        }
    }
    of->lines = line;
}

/* The reference is slow, and of little interest. */
static size_t runs_of(const measurement *item, size_t rounds) {
    return isas[item->isa] == AQ_ISA_REF ? MIN_ROUNDS : rounds;
}

/* An odd number of rounds, as many as there is time for. */
static size_t choose_rounds(const bench *of) {
    size_t rounds, i;
    for (rounds = MAX_ROUNDS; rounds > MIN_ROUNDS; rounds -= 2) {
        double seconds = 0;
        for (i = 0; i < of->count; i++)
            seconds += of->items[i].seconds * (double)runs_of(&of->items[i], rounds);
        if (seconds <= BUDGET_SECONDS) break;
    }
    return rounds;
}

/* All that the progress line counts: a floor with each run, and those at the start of a
 * round. */
static uint64_t count_steps(const bench *of, size_t rounds) {
    uint64_t floors = NUM_FLOORS * of->num_pools * rounds;
    size_t i;
    for (i = 0; i < of->count; i++)
        floors += runs_of(&of->items[i], rounds);
    return floors * of->data.count * sizeof(float);
}

/* Round after round, so that a disturbance meets one run of many things instead of many
 * runs of one. */
static int measure_all(bench *of) {
    size_t round, pool, kind, i;
    int code = CLI_GOOD;
    progress_start(&of->line, "measuring");
    of->steps_total = count_steps(of, MAX_ROUNDS);
    for (i = 0; i < of->count && code == CLI_GOOD; i++)
        code = prepare(of, &of->items[i]);
    of->rounds = choose_rounds(of);
    of->steps_total = count_steps(of, of->rounds);
    for (round = 0; round < of->rounds && code == CLI_GOOD; round++) {
        for (pool = 0; pool < of->num_pools; pool++) {
            for (kind = 0; kind < NUM_FLOORS; kind++) {
                if (kind != FLOOR_STREAM || HAS_STREAM)
                    measure_floor(of, (floor_kind)kind, pool);
            }
        }
        for (i = 0; i < of->count && code == CLI_GOOD; i++) {
            if (round < runs_of(&of->items[i], of->rounds))
                code = measure(of, &of->items[i]);
        }
    }
    progress_end(&of->line);
    return code;
}

/*==========================================================================
 * MARK: - As text
 *========================================================================*/

static const char *threads_text(char out[TEXT_ROOM], uint32_t threads) {
    snprintf(out, TEXT_ROOM, "%u thread%s", (unsigned)threads, text_plural(threads));
    return out;
}

static void add_measure(table *rows, double value, int decimals) {
    char text[TEXT_ROOM];
    table_cell(rows, text_measure(text, value, decimals));
}

static void add_percent(table *rows, double ratio) {
    char text[TEXT_ROOM];
    snprintf(text, sizeof text, "%.0f %%", 100 * ratio);
    table_cell(rows, text);
}

static void put_floors(const bench *of, buffer *out) {
    char one[TEXT_ROOM], all[TEXT_ROOM];
    buffer headings = {NULL, 0, 0};
    table rows;
    size_t kind, pool;
    buffer_print(&headings, "GB/s|%s", threads_text(one, 1));
    if (of->num_pools > 1)
        buffer_print(&headings, "|%s", threads_text(all, of->threads[1]));
    table_init(&rows, headings.data, of->num_pools > 1 ? "lrr" : "lr");
    for (kind = 0; kind < NUM_FLOORS; kind++) {
        table_cell(&rows, floor_names[kind]);
        for (pool = 0; pool < of->num_pools; pool++)
            add_measure(&rows, median(&of->floors[kind][pool]), 2);
    }
    table_show(&rows, out);
    table_free(&rows);
    buffer_free(&headings);
}

/* The same operation with all threads, or NULL. */
static const measurement *find_twin(const bench *of, const measurement *item) {
    size_t i;
    for (i = 0; i < of->count; i++) {
        const measurement *twin = &of->items[i];
        if (twin->pool == 1 && twin->line == item->line && twin->isa == item->isa)
            return twin;
    }
    return NULL;
}

/* "85 %", and whether it is reached. */
static void add_bar(table *rows, const measurement *item) {
    char text[TEXT_ROOM] = "";
    if (!isnan(item->bar))
        snprintf(text, sizeof text, "%.0f %% %s", 100 * item->bar,
                 reaches_bar(item) ? "met" : "not");
    table_cell(rows, text);
}

static void put_operation(const bench *of, const measurement *item, table *rows) {
    const measurement *twin = find_twin(of, item);
    double rate = median(&item->rates);
    table_cell(rows, aq_isa_name(isas[item->isa]));
    table_cell(rows, item->op->name);
    table_cell(rows, item->op->variant);
    table_cell(rows, forms[item->codes].name);
    table_cell(rows, floor_names[item->op->floor]);
    add_measure(rows, rate, 2);
    add_percent(rows, median(&item->ratios));
    add_bar(rows, item);
    if (twin == NULL) return;
    add_measure(rows, median(&twin->rates), 2);
    add_percent(rows, median(&twin->ratios));
    add_measure(rows, median(&twin->rates) / rate, 2);
}

static void put_operations(const bench *of, buffer *out) {
    char one[TEXT_ROOM], all[TEXT_ROOM];
    buffer headings = {NULL, 0, 0};
    table rows;
    size_t i;
    buffer_print(&headings, "isa|operation||codes|floor|%s|of floor|bar",
                 threads_text(one, 1));
    if (of->num_pools > 1)
        buffer_print(&headings, "|%s|of floor|times", threads_text(all, of->threads[1]));
    table_init(&rows, headings.data, of->num_pools > 1 ? "lllllrrrrrr" : "lllllrrr");
    for (i = 0; i < of->count; i++) {
        if (of->items[i].pool == 0) put_operation(of, &of->items[i], &rows);
    }
    table_show(&rows, out);
    table_free(&rows);
    buffer_free(&headings);
}

static void put_machine(const bench *of, buffer *out) {
    if (of->cpu[0] != '\0') {
        buffer_visible(out, of->cpu, strlen(of->cpu));
        buffer_print(out, "; ");
    }
    buffer_print(out,
                 "%zu MiB of float32, groups of %d (codebook: %d), medians of %zu runs",
                 of->data.mib, GROUP_SIZE, BOOK_GROUP_SIZE, of->rounds);
    if (isas[of->items[0].isa] == AQ_ISA_REF && of->rounds != MIN_ROUNDS)
        buffer_print(out, " (ref: %d)", MIN_ROUNDS);
}

static void show_text(const bench *of) {
    buffer text = {NULL, 0, 0};
    put_machine(of, &text);
    buffer_print(&text, "\n\n");
    put_floors(of, &text);
    buffer_print(&text, "\nGB/s of float32; in matvec and matmul of codes and their "
                        "parameters. Bar: part of the floor\nthat one thread is to reach "
                        "on the best instruction set, and AVX2 where it is not that\n");
    put_operations(of, &text);
    buffer_show(&text);
}

/*==========================================================================
 * MARK: - As JSON
 *========================================================================*/

static void put_json_floors(const bench *of, json *out) {
    size_t kind, pool;
    json_open(out, "floors", '[');
    for (kind = 0; kind < NUM_FLOORS; kind++) {
        for (pool = 0; pool < of->num_pools; pool++) {
            json_open(out, NULL, '{');
            json_string(out, "name", floor_names[kind]);
            json_unsigned(out, "threads", of->threads[pool]);
            json_measure(out, "gb_per_second", median(&of->floors[kind][pool]));
            json_close(out, '}');
        }
    }
    json_close(out, ']');
}

static void put_json_operation(const bench *of, const measurement *item, json *out) {
    const code_form *form = &forms[item->codes];
    double rate = median(&item->rates);
    json_open(out, NULL, '{');
    json_string(out, "isa", aq_isa_name(isas[item->isa]));
    json_string(out, "operation", item->op->name);
    json_string(out, "variant", item->op->variant);
    json_string(out, "codes", form->name);
    json_unsigned(out, "bits", form->bits);
    json_unsigned(out, "group_size", form->group_size);
    json_unsigned(out, "threads", of->threads[item->pool]);
    json_string(out, "floor", floor_names[item->op->floor]);
    json_measure(out, "gb_per_second", rate);
    json_measure(out, "gflop_per_second",
                 item->op->vectors != 0 ? rate * item->flops_per_byte : (double)NAN);
    json_measure(out, "ratio", median(&item->ratios));
    json_measure(out, "bar", item->bar);
    json_unsigned(out, "runs", item->ratios.count);
    json_close(out, '}');
}

static void show_json(const bench *of) {
    json document = {{NULL, 0, 0}, 0, false};
    size_t i;
    json_open(&document, NULL, '{');
    json_string(&document, "version", aq_version());
    json_string(&document, "cpu", of->cpu[0] != '\0' ? of->cpu : NULL);
    json_unsigned(&document, "mib", of->data.mib);
    json_unsigned(&document, "cols", COLS);
    put_json_floors(of, &document);
    json_open(&document, "operations", '[');
    for (i = 0; i < of->count; i++)
        put_json_operation(of, &of->items[i], &document);
    json_close(&document, ']');
    json_close(&document, '}');
    json_show(&document);
}

/*==========================================================================
 * MARK: - As SVG
 *========================================================================*/

enum { LABEL_WIDTH = 205, PANEL_WIDTH = 330, BAR = 9, HEAD = 110, FOOT = 30 };

/* Colours that stand out on white and on black. */
static const char *const isa_colours[NUM_ISAS] = {"#8b949e", "#3b82f6", "#e8742c",
                                                  "#2da05a"};

static void put_xml(buffer *out, const char *text) {
    for (; *text != '\0'; text++) {
        if (*text == '&')
            buffer_print(out, "&amp;");
        else if (*text == '<')
            buffer_print(out, "&lt;");
        else
            buffer_put(out, text, 1);
    }
}

static void put_svg_text(buffer *out, int x, int y, const char *attributes,
                         const char *text) {
    buffer_print(out, "<text x=\"%d\" y=\"%d\"%s>", x, y, attributes);
    put_xml(out, text);
    buffer_print(out, "</text>\n");
}

/* How many of the instruction sets are measured. */
static int count_isas(const bench *of) {
    size_t i;
    int n = 0;
    for (i = 0; i < NUM_ISAS; i++)
        n += of->isa_wanted[i];
    return n;
}

static int panel_left(size_t pool) {
    return LABEL_WIDTH + (int)pool * (PANEL_WIDTH + 56);
}

/* The end of the axis: 100 %, or up to 200 % where bars need it. */
static double axis_end(const bench *of) {
    double end = 1;
    size_t i;
    for (i = 0; i < of->count; i++) {
        while (end < 2 && median(&of->items[i].ratios) > end)
            end += 0.25;
    }
    return end;
}

/* "read (12.9 GB/s on one thread) for quantize, matvec; store (...) for dequantize" */
static void put_floor_legend(const bench *of, buffer *out) {
    size_t kind, op;
    buffer_print(out, "in %% of");
    for (kind = 0; kind < NUM_FLOORS; kind++) {
        const char *last = "";
        for (op = 0; op < NUM_OPERATIONS; op++) {
            const char *name = operations[op].name;
            if (operations[op].floor != (floor_kind)kind || strcmp(name, last) == 0)
                continue;
            if (last[0] == '\0')
                buffer_print(out, "%s %s (%.1f GB/s on one thread) for %s",
                             out->data[out->size - 1] == 'f' ? "" : ";",
                             floor_names[kind], median(&of->floors[kind][0]), name);
            else
                buffer_print(out, ", %s", name);
            last = name;
        }
    }
}

static void put_svg_head(const bench *of, buffer *out, int width, int height) {
    buffer machine = {NULL, 0, 0}, floors = {NULL, 0, 0};
    size_t i;
    int x = LABEL_WIDTH;
    buffer_print(out,
                 "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" "
                 "width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"12\" "
                 "role=\"img\">\n<title>aq bench: kernels against memory "
                 "bandwidth</title>\n",
                 width, height, width, height);
    buffer_print(out, "<style>text{fill:#1f2328}.grid{stroke:#d0d7de}.back{fill:#fff}"
                      "@media(prefers-color-scheme:dark){text{fill:#e6edf3}"
                      ".grid{stroke:#3d444d}.back{fill:#0d1117}}</style>\n");
    buffer_print(out, "<rect class=\"back\" width=\"%d\" height=\"%d\"/>\n", width,
                 height);
    put_svg_text(out, 10, 22, " font-size=\"16\" font-weight=\"bold\"",
                 "aq bench: kernels against memory bandwidth");
    put_machine(of, &machine);
    put_svg_text(out, 10, 41, "", machine.data);
    put_floor_legend(of, &floors);
    put_svg_text(out, 10, 58, "", floors.data);
    buffer_free(&floors);
    buffer_free(&machine);
    for (i = 0; i < NUM_ISAS; i++) {
        if (!of->isa_wanted[i]) continue;
        buffer_print(out,
                     "<rect x=\"%d\" y=\"69\" width=\"11\" height=\"11\" fill=\"%s\"/>\n",
                     x, isa_colours[i]);
        put_svg_text(out, x + 16, 79, "", aq_isa_name(isas[i]));
        x += 80;
    }
}

static void put_svg_axes(const bench *of, buffer *out, int height, double end) {
    char text[TEXT_ROOM];
    size_t pool;
    int i, last = (int)(end * 4);
    for (pool = 0; pool < of->num_pools; pool++) {
        put_svg_text(out, panel_left(pool), HEAD - 8, " font-weight=\"bold\"",
                     threads_text(text, of->threads[pool]));
        for (i = 0; i <= last; i++) {
            int x = panel_left(pool) + (int)(PANEL_WIDTH * i / last);
            buffer_print(out,
                         "<path class=\"grid\" d=\"M%d %dV%d\" stroke-width=\"%d\"/>\n",
                         x, HEAD, height - FOOT, i == 4 ? 2 : 1);
            snprintf(text, sizeof text, "%d %%", 25 * i);
            put_svg_text(out, x, height - FOOT + 16, " text-anchor=\"middle\"", text);
        }
    }
}

/* The bars of an operation and width stand together, one for each instruction set. */
static void put_svg_bars(const bench *of, buffer *out, int group_height, double end) {
    char text[2 * TEXT_ROOM];
    size_t i;
    int num_isas = count_isas(of);
    for (i = 0; i < of->count; i++) {
        const measurement *item = &of->items[i];
        int top = HEAD + 6 + (int)item->line * group_height;
        int left = panel_left(item->pool);
        double ratio = median(&item->ratios);
        double length = (ratio < end ? ratio : end) / end * PANEL_WIDTH;
        if (item->row == 0 && item->pool == 0) {
            snprintf(text, sizeof text, "%s %s %s", item->op->name, item->op->variant,
                     forms[item->codes].name);
            put_svg_text(out, LABEL_WIDTH - 8, top + num_isas * BAR / 2 + 4,
                         " text-anchor=\"end\"", text);
        }
        top += (int)item->row * BAR;
        buffer_print(
            out, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/>\n",
            left, top, length, BAR - 1, isa_colours[item->isa]);
        snprintf(text, sizeof text, "%.0f", 100 * ratio);
        put_svg_text(out, left + (int)length + 3, top + BAR - 1, " font-size=\"9\"",
                     text);
    }
}

static void put_svg(const bench *of, buffer *out) {
    int group_height = count_isas(of) * BAR + 8;
    int height = HEAD + 6 + (int)of->lines * group_height + FOOT;
    int width = panel_left(of->num_pools - 1) + PANEL_WIDTH + 40;
    double end = axis_end(of);
    put_svg_head(of, out, width, height);
    put_svg_axes(of, out, height, end);
    put_svg_bars(of, out, group_height, end);
    buffer_print(out, "</svg>\n");
}

/*==========================================================================
 * MARK: - Command
 *========================================================================*/

/* The name of the processor, where the system tells it as Linux does on x86. */
static void read_cpu_name(char *out, size_t room) {
    static const char key[] = "model name";
    char line[512];
    FILE *file = fopen("/proc/cpuinfo", "r");
    out[0] = '\0';
    if (file == NULL) return;
    while (out[0] == '\0' && fgets(line, sizeof line, file) != NULL) {
        const char *value = strchr(line, ':');
        if (strncmp(line, key, sizeof key - 1) != 0 || value == NULL) continue;
        value += 1 + strspn(value + 1, " \t");
        snprintf(out, room, "%.*s", (int)strcspn(value, "\n"), value);
    }
    fclose(file);
}

static int want_isa(const cli_args *args, const char *name, bench *of) {
    size_t i;
    for (i = 0; i < NUM_ISAS; i++) {
        if (strcmp(name, aq_isa_name(isas[i])) != 0) continue;
        if (!aq_isa_supported(isas[i]))
            return cli_error("bench", "%s is not supported here", name);
        of->isa_wanted[i] = true;
        return CLI_GOOD;
    }
    return cli_usage_error(args->command,
                           "--isa takes ref, avx2, avx512 or neon, not \"%s\"", name);
}

static int read_settings(const cli_args *args, bench *of, const char **out_svg) {
    size_t i;
    int code = CLI_GOOD;
    uint32_t number;
    of->data.mib = 256;
    for (i = 0; i < args->num_settings && code == CLI_GOOD; i++) {
        const char *value = args->settings[i].value;
        switch (args->settings[i].id) {
        case BENCH_MIB:
            if (!cli_parse_number(value, 1, MAX_MIB, &number))
                return cli_usage_error(args->command,
                                       "--mib takes a number from 1 to %d, not \"%s\"",
                                       MAX_MIB, value);
            of->data.mib = number;
            break;
        case BENCH_ISA:
            code = want_isa(args, value, of);
            break;
        case BENCH_SVG:
            *out_svg = value;
            break;
        default:
            break;
        }
    }
    for (i = 0; i < NUM_ISAS && !cli_has(args, BENCH_ISA); i++)
        of->isa_wanted[i] = aq_isa_supported(isas[i]);
    return code;
}

/* Without --threads there is a thread for each processor. */
static int make_threads(bench *of, uint32_t wanted) {
    aq_error err;
    of->threads[0] = of->threads[1] = 1;
    of->num_pools = 1;
    if (wanted == 1) return CLI_GOOD;
    if (aq_threads_create(wanted, NULL, &of->pool, &err) != AQ_OK)
        return cli_failure("bench", &err);
    of->threads[1] = aq_threads_tasks(of->pool)->width;
    if (of->threads[1] > 1) of->num_pools = 2;
    return CLI_GOOD;
}

static int run_bench(const cli_args *args, bench *of) {
    const buffer nothing = {NULL, 0, 0};
    buffer chart = {NULL, 0, 0};
    const char *svg = NULL;
    size_t i, pool, row = 0;
    aq_error err;
    int code = read_settings(args, of, &svg);
    if (code == CLI_GOOD && svg != NULL && !file_save(svg, &nothing, &err))
        code = cli_failure(svg, &err);
    if (code == CLI_GOOD) code = make_threads(of, args->threads);
    if (code == CLI_GOOD)
        code = work_init(&of->data, of->pool != NULL ? aq_threads_tasks(of->pool) : NULL);
    if (code != CLI_GOOD) return code;
    read_cpu_name(of->cpu, sizeof of->cpu);
    of->best = aq_isa_active();
    for (i = 0; i < NUM_ISAS; i++) {
        if (!of->isa_wanted[i]) continue;
        for (pool = 0; pool < of->num_pools; pool++)
            add_measurements(of, i, row, pool);
        row++;
    }
    code = measure_all(of);
    if (code == CLI_GOOD && svg != NULL) {
        put_svg(of, &chart);
        if (!file_save(svg, &chart, &err)) code = cli_failure(svg, &err);
        buffer_free(&chart);
    }
    if (code != CLI_GOOD) return code;
    if (args->json) {
        show_json(of);
    } else {
        show_text(of);
    }
    return CLI_GOOD;
}

static int bench_command(const cli_args *args) {
    bench of;
    size_t i, pool;
    int code;
    memset(&of, 0, sizeof of);
    code = run_bench(args, &of);
    for (i = 0; i < of.count; i++) {
        free(of.items[i].rates.items);
        free(of.items[i].ratios.items);
    }
    for (i = 0; i < NUM_FLOORS; i++) {
        for (pool = 0; pool < 2; pool++)
            free(of.floors[i][pool].items);
    }
    free(of.items);
    work_deinit(&of.data);
    aq_threads_destroy(of.pool);
    return code;
}

static const cli_option options[] = {
    {"mib", "N", BENCH_MIB, false,
     "MiB of float32 (default: 256; the memory taken is\n"
     "2.7 times that)"},
    {"isa", "ref|avx2|avx512|neon", BENCH_ISA, true,
     "only this instruction set (default: all that the\n"
     "machine has)"},
    {"svg", "FILE", BENCH_SVG, false, "also draw the ratios as a bar chart"},
    {"threads", "N", CLI_THREADS, false,
     "measure one thread and N (default: one for each\n"
     "processor)"},
    CLI_OPTION_JSON,
    CLI_OPTIONS_END};

const cli_command command_bench = {
    .name = "bench",
    .files = "",
    .summary = "measure this machine: kernels against memory bandwidth",
    .details =
        "Measures how fast this machine copies, reads and writes memory, then how fast\n"
        "each instruction set it has quantizes and dequantizes weights and multiplies\n"
        "a matrix of codes that is in no cache with one vector and with eight, of\n"
        "float32 and of int8: in GB/s, and as a part of the memory's speed with as\n"
        "many threads. That takes about a minute.",
    .options = options,
    .min_files = 0,
    .max_files = 0,
    .run = bench_command,
};
