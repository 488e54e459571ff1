/* Batches on many threads, also under ThreadSanitizer: the same bytes and the same
 * errors, all threads at work at once, and a progress callback that nobody else is in. */
#include "support.h"

#include <criterion/criterion.h>

#include <math.h>
#include <pthread.h>
#include <sched.h>

enum { SMALL = 100, ARRAYS = SMALL + 2, MAX_THREADS = 16, CALLERS = 4 };

/* A large array and one with a single scale, each of 8 tiles, and many small ones between
 * them. */
static const uint64_t large_shape[2] = {128, 4096}, small_shape[2] = {12, 20};
static float large[128 * 4096], small[SMALL][12 * 20];
static char names[ARRAYS][8];
static aq_array arrays[ARRAYS];

static void make_arrays(void) {
    rng r = {19};
    rng_floats(&r, large, COUNT_OF(large), 1.0f);
    turn_le(large, COUNT_OF(large), sizeof *large);
    for (size_t i = 0; i < ARRAYS; i++) {
        snprintf(names[i], sizeof names[i], "%02zu", i * 37 % ARRAYS);
        arrays[i].name = names[i];
        arrays[i].dtype = AQ_F32;
        arrays[i].num_dims = 2;
        arrays[i].shape = i < SMALL ? small_shape : large_shape;
        arrays[i].data = i < SMALL ? small[i] : large;
        if (i >= SMALL) continue;
        rng_floats(&r, small[i], 12 * 20, 1.0f);
        turn_le(small[i], 12 * 20, sizeof *small[i]);
    }
}

static bool one_scale(void *user, const aq_tensor *array, aq_quant_options *quant) {
    (void)user;
    if (strcmp(array->name, names[ARRAYS - 1]) == 0) quant->granularity = AQ_PER_TENSOR;
    return true;
}

/* What the callback has seen. Not atomic: two calls at a time are a race. */
typedef struct calls {
    size_t count, inside, overlaps, stop_at;
    pthread_t caller;
    bool elsewhere;
} calls;

static bool note(void *user, const aq_progress *p) {
    calls *c = (calls *)user;
    (void)p;
    if (c->inside++ != 0) c->overlaps++;
    if (!pthread_equal(c->caller, pthread_self())) c->elsewhere = true;
    sched_yield();
    c->inside--;
    return ++c->count != c->stop_at;
}

static aq_batch_options options_of(calls *c, const counting_allocator *memory) {
    aq_batch_options o;
    memset(&o, 0, sizeof o);
    memset(c, 0, sizeof *c);
    c->caller = pthread_self();
    o.plan = one_scale;
    o.progress.fn = note;
    o.progress.user = c;
    o.allocator = &memory->hooks;
    return o;
}

static bool same_bytes(const void *a, const void *b, size_t bytes) {
    return (a == NULL) == (b == NULL) &&
           (bytes == 0 || a == NULL || memcmp(a, b, bytes) == 0);
}

static bool same_batch(const aq_batch *a, const aq_batch *b) {
    if (a->num_items != b->num_items || a->num_failed != b->num_failed) return false;
    for (size_t i = 0; i < a->num_items; i++) {
        const aq_batch_item *x = &a->items[i], *y = &b->items[i];
        size_t floats = x->tensor.layout.num_groups * sizeof(float);
        if (strcmp(x->name, y->name) != 0 || x->index != y->index ||
            x->status != y->status || !same_bytes(x->error, y->error, sizeof *x->error) ||
            !same_bytes(&x->metrics, &y->metrics, sizeof x->metrics) ||
            !same_bytes(x->tensor.data, y->tensor.data, x->tensor.data_bytes) ||
            !same_bytes(x->tensor.scales, y->tensor.scales, floats) ||
            !same_bytes(x->tensor.zero_points, y->tensor.zero_points, floats))
            return false;
    }
    return true;
}

/* The batch of one thread; made before others begin. */
static aq_batch expected, expected_values;

/* There and back again: the same bytes as one thread has made. */
static bool as_expected(const aq_batch_options *o) {
    aq_tensor tensors[ARRAYS];
    aq_batch_options back = *o;
    aq_batch b, values;
    bool good;
    if (aq_quantize_batch(arrays, ARRAYS, o, &b, NULL) != AQ_OK) return false;
    for (size_t i = 0; i < ARRAYS; i++)
        tensors[i] = b.items[ARRAYS - 1 - i].tensor;
    back.plan = NULL;
    good = same_batch(&b, &expected) &&
           aq_dequantize_batch(tensors, ARRAYS, &back, &values, NULL) == AQ_OK;
    if (good) {
        good = same_batch(&values, &expected_values);
        aq_batch_deinit(&values);
    }
    aq_batch_deinit(&b);
    return good;
}

static void begin(void) {
    static aq_tensor tensors[ARRAYS];
    aq_batch_options o;
    make_arrays();
    memset(&o, 0, sizeof o);
    o.plan = one_scale;
    o.threads = 1;
    cr_assert_eq(aq_quantize_batch(arrays, ARRAYS, &o, &expected, NULL), AQ_OK);
    for (size_t i = 0; i < ARRAYS; i++)
        tensors[i] = expected.items[ARRAYS - 1 - i].tensor;
    cr_assert_eq(aq_dequantize_batch(tensors, ARRAYS, &o, &expected_values, NULL), AQ_OK);
}

static void end(void) {
    aq_batch_deinit(&expected);
    aq_batch_deinit(&expected_values);
}

Test(threads_batch, any_number_of_threads) {
    begin();
    for (uint32_t threads = 1; threads <= MAX_THREADS; threads++) {
        counting_allocator memory;
        calls c;
        aq_batch_options o;
        counting_init(&memory);
        o = options_of(&c, &memory);
        o.threads = threads;
        cr_assert(as_expected(&o));
        cr_assert(c.count == 5 && c.overlaps == 0 && !c.elsewhere); /* 3 and 2 */
        cr_assert(counting_is_clean(&memory));
    }
    end();
}

Test(threads_batch, cancelled_at_every_call) {
    begin();
    for (size_t stop = 1; stop <= 3; stop++) {
        counting_allocator memory;
        calls c;
        aq_batch b;
        aq_batch_options o;
        counting_init(&memory);
        o = options_of(&c, &memory);
        o.threads = MAX_THREADS;
        c.stop_at = stop;
        cr_assert_eq(aq_quantize_batch(arrays, ARRAYS, &o, &b, NULL), AQ_E_CANCELLED);
        cr_assert(c.count == stop && c.overlaps == 0 && b.items == NULL);
        cr_assert(counting_is_clean(&memory));
    }
    end();
}

/* The same error from each number of threads, with bad values in three arrays. */
Test(threads_batch, errors) {
    float saved[3];
    float *at[3] = {&small[5][100], &small[60][0], &large[128 * 4096 - 1]};
    aq_batch_options o;
    aq_batch one, b;
    aq_error err;
    begin();
    memset(&o, 0, sizeof o);
    o.plan = one_scale;
    for (int i = 0; i < 3; i++) {
        saved[i] = *at[i];
        *at[i] = HUGE_VALF;
        turn_le(at[i], 1, sizeof *at[i]);
    }
    o.threads = 1;
    cr_assert_eq(aq_quantize_batch(arrays, ARRAYS, &o, &one, NULL), AQ_OK);
    cr_assert_eq(one.num_failed, 4u); /* two are the large values */
    for (uint32_t threads = 2; threads <= MAX_THREADS; threads += 7) {
        o.threads = threads;
        o.fail_fast = false;
        cr_assert_eq(aq_quantize_batch(arrays, ARRAYS, &o, &b, NULL), AQ_OK);
        cr_assert(same_batch(&one, &b));
        aq_batch_deinit(&b);
        o.fail_fast = true;
        cr_assert_eq(aq_quantize_batch(arrays, ARRAYS, &o, &b, &err), AQ_E_NONFINITE);
        for (size_t i = 0; i < ARRAYS; i++) {
            if (one.items[i].status == AQ_OK) continue;
            cr_assert_eq(memcmp(one.items[i].error, &err, sizeof err), 0);
            break;
        }
    }
    for (int i = 0; i < 3; i++)
        *at[i] = saved[i];
    aq_batch_deinit(&one);
    end();
}

/* ---- all threads at once ---- */

/* Runs tasks on threads of the library, but the first of each run wait until as many are
 * inside as there are threads. */
typedef struct gathering {
    const aq_tasks *inner;
    uint32_t wanted, inside, late;
    void (*fn)(void *arg, size_t index);
    void *arg;
    size_t runs;
} gathering;

static void gather(void *arg, size_t index) {
    gathering *g = (gathering *)arg;
    uint64_t turns = 0;
    __atomic_add_fetch(&g->inside, 1, __ATOMIC_RELAXED);
    while (__atomic_load_n(&g->inside, __ATOMIC_RELAXED) < g->wanted) {
        if (++turns > 50000000) {
            __atomic_add_fetch(&g->late, 1, __ATOMIC_RELAXED);
            break;
        }
        sched_yield();
    }
    g->fn(g->arg, index);
}

static void gathering_run(void *user, size_t n, void (*fn)(void *arg, size_t index),
                          void *arg) {
    gathering *g = (gathering *)user;
    g->fn = fn;
    g->arg = arg;
    g->inside = 0;
    g->runs++;
    g->inner->run(g->inner->user, n, gather, g);
}

Test(threads_batch, all_threads_work_at_once) {
    counting_allocator memory;
    aq_threads *threads;
    gathering g;
    aq_tasks tasks;
    aq_batch_options o;
    calls c;
    begin();
    counting_init(&memory);
    memset(&g, 0, sizeof g);
    cr_assert_eq(aq_threads_create(MAX_THREADS, NULL, &threads, NULL), AQ_OK);
    g.inner = aq_threads_tasks(threads);
    g.wanted = 8; /* the pass of ranges has no more tiles */
    tasks.run = gathering_run;
    tasks.user = &g;
    tasks.width = MAX_THREADS;
    o = options_of(&c, &memory);
    o.tasks = &tasks;
    cr_assert(as_expected(&o));
    cr_assert_eq(g.late, 0u);
    cr_assert_eq(g.runs, 3u);
    o.plan = NULL;
    g.wanted = MAX_THREADS;
    for (int i = 0; i < 5; i++) {
        aq_batch b;
        cr_assert_eq(aq_quantize_batch(arrays, ARRAYS, &o, &b, NULL), AQ_OK);
        aq_batch_deinit(&b);
    }
    cr_assert(g.late == 0 && g.runs == 8);
    aq_threads_destroy(threads);
    cr_assert(counting_is_clean(&memory));
    end();
}

/* ---- several batches at a time ---- */

static void *one_of_many(void *arg) {
    const aq_tasks *tasks = (const aq_tasks *)arg;
    counting_allocator memory;
    aq_batch_options o;
    calls c;
    bool good = true;
    counting_init(&memory);
    o = options_of(&c, &memory);
    o.tasks = tasks;
    for (int i = 0; i < 3; i++)
        good = as_expected(&o) && good;
    return good && c.count == 15 && c.overlaps == 0 && !c.elsewhere &&
                   counting_is_clean(&memory)
               ? arg
               : NULL;
}

Test(threads_batch, several_batches_share_threads) {
    pthread_t callers[CALLERS];
    aq_threads *threads;
    begin();
    cr_assert_eq(aq_threads_create(4, NULL, &threads, NULL), AQ_OK);
    for (int i = 0; i < CALLERS; i++) {
        int code = pthread_create(&callers[i], NULL, one_of_many,
                                  (void *)(uintptr_t)aq_threads_tasks(threads));
        cr_assert_eq(code, 0);
    }
    for (int i = 0; i < CALLERS; i++) {
        void *good = NULL;
        pthread_join(callers[i], &good);
        cr_assert_not_null(good);
    }
    aq_threads_destroy(threads);
    end();
}
