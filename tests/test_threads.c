/* Worker threads, and what several threads may use at a time. Runs under ThreadSanitizer
 * too, where the counts below are smaller. Only the first thread of a test asserts. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

/* The pthread_create() that is `creates_left` calls away fails; -1 = none. */
static int creates_left = -1;

static int create_or_fail(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*start)(void *), void *arg) {
    if (creates_left == 0) return EAGAIN;
    if (creates_left > 0) creates_left--;
    return pthread_create(thread, attributes, start, arg);
}

/* Processors that the machine says it has; 0: as many as it has. */
static long processors;

static long count_processors(int name) {
    return processors > 0 ? processors : sysconf(name);
}

#define pthread_create create_or_fail
#define sysconf count_processors
#define AQ_STATIC
#define ARROWQUANT_IMPLEMENTATION
#include "support.h"

#include <criterion/criterion.h>

#ifdef __SANITIZE_THREAD__
#define POOL_OPERATIONS 10000
#define ROUNDS 40
#else
#define POOL_OPERATIONS 100000
#define ROUNDS 200
#endif

#define MAX_THREADS 16

/* fn on each of n elements of args, all at once, each on a thread of the test. */
static void on_threads(size_t n, void *(*fn)(void *), void *args, size_t arg_bytes) {
    pthread_t threads[MAX_THREADS];
    for (size_t i = 0; i < n; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, fn, (char *)args + i * arg_bytes),
                     0);
    for (size_t i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
}

static aq_threads *make_threads(uint32_t count) {
    aq_threads *threads = NULL;
    cr_assert_eq(aq_threads_create(count, NULL, &threads, NULL), AQ_OK);
    return threads;
}

static void run(const aq_tasks *tasks, size_t n, void (*fn)(void *, size_t), void *arg) {
    tasks->run(tasks->user, n, fn, arg);
}

/* ---- run ---- */

#define MAX_INDICES 1000

/* Not atomic: an index that two threads work on is a race that ThreadSanitizer sees. */
static void count_index(void *arg, size_t index) { ((uint32_t *)arg)[index]++; }

/* The first n were counted `times` times, and no other. */
static bool counted(const uint32_t *counts, size_t n, uint32_t times) {
    for (size_t i = 0; i <= MAX_INDICES; i++)
        if (counts[i] != (i < n ? times : 0)) return false;
    return true;
}

Test(threads, every_index_once) {
    static const size_t sizes[] = {0, 1, 2, 3, 15, 16, 17, 100, MAX_INDICES};
    for (uint32_t count = 1; count <= MAX_THREADS; count++) {
        aq_threads *threads = make_threads(count);
        const aq_tasks *tasks = aq_threads_tasks(threads);
        cr_assert_eq(tasks->width, count);
        for (size_t s = 0; s < COUNT_OF(sizes); s++) {
            uint32_t counts[MAX_INDICES + 1] = {0};
            run(tasks, sizes[s], count_index, counts);
            run(tasks, sizes[s], count_index, counts);
            cr_assert(counted(counts, sizes[s], 2), "%u threads, %zu indices", count,
                      sizes[s]);
        }
        aq_threads_destroy(threads);
    }
}

static void count_slowly(void *arg, size_t index) {
    usleep(1000);
    count_index(arg, index);
}

Test(threads, run_returns_after_the_last_index) {
    aq_threads *threads = make_threads(4);
    for (int round = 0; round < 10; round++) {
        uint32_t counts[MAX_INDICES + 1] = {0};
        run(aq_threads_tasks(threads), 7, count_slowly, counts);
        cr_assert(counted(counts, 7, 1));
    }
    aq_threads_destroy(threads);
}

/* Passes when `wanted` tasks are inside at the same time; gives up after some seconds. */
typedef struct meeting {
    uint32_t wanted, inside, late;
} meeting;

static void meet(void *arg, size_t index) {
    meeting *m = (meeting *)arg;
    double end = aqi_seconds() + 20.0;
    (void)index;
    __atomic_add_fetch(&m->inside, 1, __ATOMIC_RELAXED);
    while (__atomic_load_n(&m->inside, __ATOMIC_RELAXED) < m->wanted) {
        if (aqi_seconds() > end) {
            __atomic_add_fetch(&m->late, 1, __ATOMIC_RELAXED);
            return;
        }
        sched_yield();
    }
}

Test(threads, all_threads_work) {
    for (uint32_t count = 1; count <= 8; count *= 2) {
        aq_threads *threads = make_threads(count);
        for (int round = 0; round < 3; round++) {
            meeting m = {count, 0, 0};
            run(aq_threads_tasks(threads), count, meet, &m);
            cr_assert_eq(m.late, 0u);
        }
        aq_threads_destroy(threads);
    }
}

Test(threads, zero_is_one_for_each_processor) {
    aq_threads *threads = make_threads(0);
    cr_assert_eq(aq_threads_tasks(threads)->width,
                 (uint32_t)sysconf(_SC_NPROCESSORS_ONLN));
    aq_threads_destroy(threads);
}

/* More than there may be threads. */
Test(threads, zero_on_a_large_machine) {
    aq_threads *threads;
    aq_error err;
    aq_status status;
    processors = 4096;
    creates_left = 3; /* it is enough to see that it begins */
    status = aq_threads_create(0, NULL, &threads, &err);
    processors = 0;
    creates_left = -1;
    cr_assert_eq(status, AQ_E_IO, "%s", err.message);
    cr_assert_eq(err.os_errno, EAGAIN);
}

/* ---- run() meets run() ---- */

enum { BRANCHES = 6, DEPTH = 3 };

typedef struct tree {
    const aq_tasks *tasks;
    uint32_t leaves, depth;
} tree;

static void grow(void *arg, size_t index) {
    tree *t = (tree *)arg;
    tree below = {t->tasks, 0, t->depth - 1};
    (void)index;
    if (t->depth == 1) {
        __atomic_add_fetch(&t->leaves, 1, __ATOMIC_RELAXED);
        return;
    }
    run(t->tasks, BRANCHES, grow, &below);
    __atomic_add_fetch(&t->leaves, below.leaves, __ATOMIC_RELAXED);
}

Test(threads, run_inside_run) {
    for (uint32_t count = 1; count <= 5; count++) {
        aq_threads *threads = make_threads(count);
        for (int round = 0; round < 20; round++) {
            tree root = {aq_threads_tasks(threads), 0, DEPTH};
            run(root.tasks, BRANCHES, grow, &root);
            cr_assert_eq(root.leaves, (uint32_t)(BRANCHES * BRANCHES * BRANCHES));
        }
        aq_threads_destroy(threads);
    }
}

typedef struct runner {
    const aq_tasks *tasks;
    uint32_t counts[MAX_INDICES + 1];
} runner;

static void *run_often(void *arg) {
    runner *r = (runner *)arg;
    for (size_t i = 0; i < ROUNDS; i++)
        run(r->tasks, 64, count_index, r->counts);
    return NULL;
}

Test(threads, run_beside_run) {
    static runner runners[5];
    aq_threads *threads = make_threads(4);
    memset(runners, 0, sizeof runners);
    for (size_t i = 0; i < COUNT_OF(runners); i++)
        runners[i].tasks = aq_threads_tasks(threads);
    on_threads(COUNT_OF(runners), run_often, runners, sizeof runners[0]);
    for (size_t i = 0; i < COUNT_OF(runners); i++)
        cr_assert(counted(runners[i].counts, 64, ROUNDS), "runner %zu", i);
    aq_threads_destroy(threads);
}

/* ---- life and death ---- */

Test(threads, create_and_destroy_repeatedly) {
    counting_allocator memory;
    counting_init(&memory);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        aq_threads *threads;
        uint32_t counts[MAX_INDICES + 1] = {0};
        cr_assert_eq(aq_threads_create(1 + i % 8, &memory.hooks, &threads, NULL), AQ_OK);
        /* Also at once, before the workers have come up. */
        if (i % 3 != 0) run(aq_threads_tasks(threads), i, count_index, counts);
        cr_assert(counted(counts, i % 3 != 0 ? i : 0, 1));
        aq_threads_destroy(threads);
    }
    aq_threads_destroy(NULL);
    cr_assert(counting_is_clean(&memory));
}

Test(threads, refused_arguments) {
    counting_allocator memory;
    aq_threads *threads = (aq_threads *)&memory;
    aq_error err;
    counting_init(&memory);
    cr_assert_eq(aq_threads_create(1025, NULL, &threads, &err), AQ_E_ARG);
    cr_assert_null(threads);
    cr_assert_eq(err.status, AQ_E_ARG);
    memory.hooks.resize = NULL;
    threads = (aq_threads *)&memory;
    cr_assert_eq(aq_threads_create(2, &memory.hooks, &threads, &err), AQ_E_ARG);
    cr_assert_null(threads);
    cr_assert_eq(memory.calls, 0u);
}

Test(threads, every_allocation_may_fail) {
    size_t k;
    for (k = 1;; k++) {
        counting_allocator memory;
        aq_threads *threads;
        aq_status status;
        counting_init(&memory);
        memory.fail_at = k;
        status = aq_threads_create(3, &memory.hooks, &threads, NULL);
        cr_assert_eq(status, memory.calls < k ? AQ_OK : AQ_E_NOMEM);
        cr_assert_eq(threads != NULL, status == AQ_OK);
        aq_threads_destroy(threads);
        cr_assert(counting_is_clean(&memory), "allocation %zu", k);
        if (memory.calls < k) break;
    }
    cr_assert_gt(k, 1u);
}

Test(threads, every_thread_may_fail_to_start) {
    for (int k = 0; k < 4; k++) {
        counting_allocator memory;
        aq_threads *threads;
        aq_error err;
        counting_init(&memory);
        creates_left = k;
        cr_assert_eq(aq_threads_create(5, &memory.hooks, &threads, &err), AQ_E_IO);
        creates_left = -1;
        cr_assert_null(threads);
        cr_assert_eq(err.status, AQ_E_IO);
        cr_assert_eq(err.os_errno, EAGAIN);
        cr_assert(counting_is_clean(&memory), "thread %d", k);
    }
}

/* ---- one pool, many threads ---- */

enum { POOL_USERS = 8, HELD = 4 };

typedef struct pool_user {
    aq_pool *pool;
    uint64_t seed;
    size_t mistakes; /* failed calls, bytes that another thread has written */
} pool_user;

/* Marks the ends of a buffer, or looks whether they still have the mark. */
static void mark(const aq_buffer *buffer, uint8_t value) {
    memset(buffer->data, value, 8);
    memset(buffer->data + buffer->bytes - 8, value, 8);
}

static bool has_mark(const aq_buffer *buffer, uint8_t value) {
    uint8_t want[8];
    memset(want, value, sizeof want);
    return memcmp(buffer->data, want, 8) == 0 &&
           memcmp(buffer->data + buffer->bytes - 8, want, 8) == 0;
}

static void *use_pool(void *arg) {
    pool_user *user = (pool_user *)arg;
    uint8_t value = (uint8_t)user->seed;
    aq_buffer held[HELD];
    rng r = {user->seed};
    memset(held, 0, sizeof held);
    for (size_t i = 0; i < POOL_OPERATIONS; i++) {
        aq_buffer *buffer = &held[rng_below(&r, HELD)];
        if (buffer->pool == NULL) {
            if (aq_pool_acquire(user->pool, rng_below(&r, 8192), buffer, NULL) != AQ_OK)
                user->mistakes++;
            else
                mark(buffer, value);
        } else {
            user->mistakes += !has_mark(buffer, value);
            aq_buffer_release(buffer);
        }
        if (i % 1000 == 999) aq_pool_clear(user->pool);
    }
    for (size_t i = 0; i < HELD; i++)
        aq_buffer_release(&held[i]);
    return NULL;
}

Test(threads, pool_of_many_threads) {
    counting_allocator memory;
    aq_pool_options options = {&memory.hooks, 8, 64, 20000};
    pool_user users[POOL_USERS];
    aq_pool_stats stats;
    aq_pool *pool;
    counting_init(&memory);
    cr_assert_eq(aq_pool_create(&options, &pool, NULL), AQ_OK);
    for (size_t i = 0; i < POOL_USERS; i++)
        users[i] = (pool_user){pool, i + 1, 0};
    on_threads(POOL_USERS, use_pool, users, sizeof users[0]);
    for (size_t i = 0; i < POOL_USERS; i++)
        cr_assert_eq(users[i].mistakes, 0u);
    aq_pool_get_stats(pool, &stats);
    cr_assert_eq(stats.acquires, stats.hits + stats.allocations);
    cr_assert_gt(stats.hits, 0u);
    cr_assert_eq(stats.buffers_in_use, 0u);
    cr_assert_eq(stats.bytes_in_use, 0u);
    cr_assert_leq(stats.buffers_idle, 8u);
    cr_assert_leq(stats.bytes_idle, 20000u);
    aq_pool_destroy(pool);
    cr_assert(counting_is_clean(&memory));
}

/* ---- one set of workers, one pool, many tensors ---- */

enum { ROWS = 90, COLS = 1500 };

typedef struct quantizer {
    const aq_layout *layout;
    const float *values;
    const aq_tasks *tasks;
    aq_pool *pool;
    const uint8_t *want; /* codes, scales, zero points */
    size_t bytes;
    const aq_metrics *want_metrics;
    size_t mistakes;
} quantizer;

static aq_status quantize(const quantizer *q, uint8_t *bytes, aq_metrics *metrics) {
    size_t parameters = q->layout->num_groups * sizeof(float);
    aq_quantized dst;
    dst.scales = (float *)(void *)bytes;
    dst.zero_points = (float *)(void *)(bytes + parameters);
    dst.codes = bytes + 2 * parameters;
    memset(metrics, 0, sizeof *metrics);
    return aq_quantize_into(q->layout, q->values, AQ_F32, &dst, q->tasks, metrics, NULL);
}

static void *quantize_often(void *arg) {
    quantizer *q = (quantizer *)arg;
    for (size_t i = 0; i < ROUNDS / 10; i++) {
        aq_metrics metrics;
        AQ_SCOPED_BUFFER(buffer);
        if (aq_pool_acquire(q->pool, q->bytes, &buffer, NULL) != AQ_OK ||
            quantize(q, buffer.data, &metrics) != AQ_OK ||
            memcmp(buffer.data, q->want, q->bytes) != 0 ||
            memcmp(&metrics, q->want_metrics, sizeof metrics) != 0)
            q->mistakes++;
    }
    return NULL;
}

Test(threads, quantize_on_many_threads) {
    static const aq_quant_options options = {.bits = 4, .group_size = 100,
                                             .method = AQ_MINMAX};
    static float values[ROWS * COLS];
    quantizer q, each[4];
    aq_threads *threads = make_threads(3);
    aq_layout layout;
    aq_metrics metrics;
    uint8_t *want;
    rng r = {23};
    rng_floats(&r, values, ROWS * COLS, 2.0f);
    cr_assert_eq(aq_layout_init(ROWS, COLS, &options, &layout, NULL), AQ_OK);
    memset(&q, 0, sizeof q);
    q.layout = &layout;
    q.values = values;
    q.bytes = 2 * layout.num_groups * sizeof(float) + layout.code_bytes;
    want = (uint8_t *)malloc(q.bytes);
    cr_assert_eq(quantize(&q, want, &metrics), AQ_OK);
    q.want = want;
    q.want_metrics = &metrics;
    q.tasks = aq_threads_tasks(threads);
    cr_assert_eq(aq_pool_create(NULL, &q.pool, NULL), AQ_OK);
    for (size_t i = 0; i < COUNT_OF(each); i++)
        each[i] = q;
    on_threads(COUNT_OF(each), quantize_often, each, sizeof each[0]);
    for (size_t i = 0; i < COUNT_OF(each); i++)
        cr_assert_eq(each[i].mistakes, 0u);
    aq_pool_destroy(q.pool);
    aq_threads_destroy(threads);
    free(want);
}

/* ---- the dispatch pointer ---- */

static void *find_kernels(void *arg) {
    *(aq_isa *)arg = aq_isa_active();
    return NULL;
}

/* The first use, by several threads at once. */
Test(threads, first_use_of_the_kernels) {
    aq_isa isas[MAX_THREADS];
    __atomic_store_n(&aqi_active_kernels, NULL, __ATOMIC_RELEASE);
    on_threads(MAX_THREADS, find_kernels, isas, sizeof isas[0]);
    for (size_t i = 0; i < MAX_THREADS; i++)
        cr_assert_eq(isas[i], aq_isa_active());
}
