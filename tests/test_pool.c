/* The buffer pool, seen from outside, with an allocator that counts. */
#include "support.h"

#include <criterion/criterion.h>
#include <pthread.h>

#define KIB ((size_t)1024)

/* A pool on a counting allocator; finish() checks that everything was given back. */
typedef struct bench {
    counting_allocator memory;
    aq_pool *pool;
} bench;

static void start(bench *b, size_t max_buffers, size_t min_bytes, size_t max_idle_bytes) {
    aq_pool_options options = {&b->memory.hooks, max_buffers, min_bytes, max_idle_bytes};
    counting_init(&b->memory);
    cr_assert_eq(aq_pool_create(&options, &b->pool, NULL), AQ_OK);
}

static void finish(bench *b) {
    aq_pool_destroy(b->pool);
    cr_assert(counting_is_clean(&b->memory));
}

static aq_buffer take(bench *b, size_t bytes) {
    aq_buffer buffer;
    cr_assert_eq(aq_pool_acquire(b->pool, bytes, &buffer, NULL), AQ_OK);
    cr_assert_not_null(buffer.data);
    cr_assert_geq(buffer.bytes, bytes);
    cr_assert_eq(buffer.pool, b->pool);
    cr_assert_eq((uintptr_t)buffer.data % AQ_ALIGNMENT, 0u);
    memset(buffer.data, 0x5A, buffer.bytes); /* all of it can be written */
    return buffer;
}

static aq_pool_stats stats_of(bench *b) {
    aq_pool_stats stats;
    memset(&stats, 0xEE, sizeof stats);
    aq_pool_get_stats(b->pool, &stats);
    return stats;
}

/* Fills the pool with one idle buffer of each size, in this order. */
static void leave_idle(bench *b, const size_t *sizes, size_t count) {
    aq_buffer buffers[16];
    for (size_t i = 0; i < count; i++)
        buffers[i] = take(b, sizes[i]);
    for (size_t i = 0; i < count; i++)
        aq_buffer_release(&buffers[i]);
}

/* ---- which buffer ---- */

/* Idle: 4, 8, 16 and 64 KiB. */
Test(pool, takes_the_smallest_that_fits_and_is_at_most_twice_as_large) {
    static const struct {
        size_t ask, get;
        bool hit;
    } cases[] = {
        {4 * KIB, 4 * KIB, true},    {4 * KIB - 1, 4 * KIB, true},
        {2 * KIB, 4 * KIB, true},    {5 * KIB, 8 * KIB, true},
        {8 * KIB, 8 * KIB, true},    {9 * KIB, 16 * KIB, true},
        {16 * KIB, 16 * KIB, true},  {32 * KIB, 64 * KIB, true},
        {17 * KIB, 18 * KIB, false}, {1 * KIB, 1 * KIB, false},
        {30 * KIB, 30 * KIB, false}, {64 * KIB + 1, 72 * KIB, false},
    };
    static const size_t idle[] = {16 * KIB, 4 * KIB, 64 * KIB, 8 * KIB};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        bench b;
        aq_buffer buffer;
        start(&b, 0, 1, 0);
        leave_idle(&b, idle, COUNT_OF(idle));
        aq_pool_reset_stats(b.pool);
        buffer = take(&b, cases[i].ask);
        cr_expect_eq(buffer.bytes, cases[i].get, "%zu bytes: %zu", cases[i].ask,
                     buffer.bytes);
        cr_expect_eq(stats_of(&b).hits, (uint64_t)cases[i].hit, "%zu bytes",
                     cases[i].ask);
        aq_buffer_release(&buffer);
        finish(&b);
    }
}

/* Whatever is asked: a new buffer is at most an eighth larger, and equal sizes meet
 * again. */
Test(pool, sizes_of_new_buffers) {
    rng r = {3};
    bench b;
    start(&b, 0, 1, 0);
    for (size_t i = 0; i < 2000; i++) {
        size_t bytes = rng_below(&r, (size_t)1 << (1 + rng_below(&r, 20)));
        size_t largest = bytes + bytes / 8 + 64;
        aq_buffer first = take(&b, bytes), second;
        CHECK(first.bytes <= largest, "%zu for %zu bytes", first.bytes, bytes);
        second = first;
        aq_buffer_release(&first);
        first = take(&b, bytes);
        CHECK(first.data == second.data, "%zu bytes were not found again", bytes);
        aq_buffer_release(&first);
        aq_pool_clear(b.pool);
    }
    finish(&b);
}

/* Of equal ones the buffer released last comes first: caches may still have it. */
Test(pool, equal_buffers_come_last_in_first_out) {
    bench b;
    aq_buffer buffers[6];
    uint8_t *order[COUNT_OF(buffers)];
    start(&b, 0, 1, 0);
    for (size_t i = 0; i < COUNT_OF(buffers); i++)
        buffers[i] = take(&b, 4 * KIB);
    for (size_t i = 0; i < COUNT_OF(buffers); i++) {
        order[i] = buffers[i].data;
        aq_buffer_release(&buffers[i]);
    }
    for (size_t i = COUNT_OF(buffers); i-- > 0;) {
        buffers[i] = take(&b, 3 * KIB); /* not the very size */
        cr_expect_eq(buffers[i].data, order[i]);
    }
    for (size_t i = 0; i < COUNT_OF(buffers); i++)
        aq_buffer_release(&buffers[i]);
    finish(&b);
}

Test(pool, least_size) {
    static const struct {
        size_t option, least;
    } cases[] = {{0, KIB * KIB}, {64, 64}, {4096, 4096}, {5000, 5120}};
    static const size_t asked[] = {0, 1, 63, 64};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        bench b;
        start(&b, 0, cases[i].option, 0);
        for (size_t k = 0; k < COUNT_OF(asked); k++) {
            aq_buffer buffer = take(&b, asked[k]);
            cr_expect_eq(buffer.bytes, cases[i].least, "%zu bytes of at least %zu: %zu",
                         asked[k], cases[i].option, buffer.bytes);
            aq_buffer_release(&buffer);
        }
        finish(&b);
    }
}

Test(pool, zero_bytes_are_a_buffer_like_others) {
    bench b;
    aq_buffer one, two;
    start(&b, 0, 64, 0);
    one = take(&b, 0);
    two = take(&b, 0);
    cr_assert_neq(one.data, two.data);
    aq_buffer_release(&one);
    aq_buffer_release(&two);
    cr_assert_eq(stats_of(&b).buffers_idle, 2u);
    finish(&b);
}

/* ---- trimming ---- */

/* Takes every idle buffer, of these sizes, largest first; then the pool is empty. */
static void expect_idle(bench *b, const size_t *sizes, size_t count) {
    aq_buffer buffers[16];
    aq_pool_stats before = stats_of(b);
    cr_assert_eq(before.buffers_idle, count);
    for (size_t i = 0; i < count; i++) {
        buffers[i] = take(b, sizes[i]);
        cr_assert_eq(buffers[i].bytes, sizes[i]);
    }
    cr_assert_eq(stats_of(b).hits, before.hits + count);
    cr_assert_eq(stats_of(b).buffers_idle, 0u);
    for (size_t i = 0; i < count; i++)
        aq_buffer_release(&buffers[i]);
}

/* Three may stay: of five, those released last. */
Test(pool, keeps_at_most_max_buffers) {
    static const size_t released[] = {16 * KIB, 1 * KIB, 4 * KIB, 64 * KIB, 2 * KIB};
    static const size_t left[] = {64 * KIB, 4 * KIB, 2 * KIB};
    bench b;
    start(&b, 3, 1, 0);
    leave_idle(&b, released, COUNT_OF(released));
    expect_idle(&b, left, COUNT_OF(left));
    finish(&b);
}

/* Budget 40 KiB: 32 KiB displaces the two oldest, not the smallest nor the largest. */
Test(pool, keeps_at_most_max_idle_bytes) {
    static const size_t released[] = {16 * KIB, 8 * KIB, 4 * KIB, 32 * KIB};
    static const size_t left[] = {32 * KIB, 4 * KIB};
    bench b;
    start(&b, 0, 1, 40 * KIB);
    leave_idle(&b, released, COUNT_OF(released));
    cr_assert_eq(stats_of(&b).bytes_idle, 36 * KIB);
    expect_idle(&b, left, COUNT_OF(left));
    finish(&b);
}

/* The age of a buffer counts from its last release. */
Test(pool, use_makes_a_buffer_young) {
    static const size_t released[] = {4 * KIB, 16 * KIB};
    static const size_t left[] = {64 * KIB, 4 * KIB};
    bench b;
    aq_buffer again, large;
    start(&b, 2, 1, 0);
    leave_idle(&b, released, COUNT_OF(released));
    again = take(&b, 4 * KIB);
    aq_buffer_release(&again);
    large = take(&b, 64 * KIB);
    aq_buffer_release(&large);
    expect_idle(&b, left, COUNT_OF(left));
    finish(&b);
}

/* One larger than the budget goes back to the allocator and displaces nothing. */
Test(pool, does_not_keep_what_is_over_the_budget) {
    static const size_t kept[] = {8 * KIB, 4 * KIB};
    bench b;
    aq_buffer large;
    start(&b, COUNT_OF(kept), 1, 16 * KIB);
    leave_idle(&b, kept, COUNT_OF(kept));
    large = take(&b, 17 * KIB);
    aq_buffer_release(&large);
    expect_idle(&b, kept, COUNT_OF(kept));
    finish(&b);
}

/* A budget that no buffer fits in: the pool is a passage to the allocator. */
Test(pool, budget_smaller_than_any_buffer_keeps_none) {
    bench b;
    start(&b, 0, 64, 1);
    for (size_t i = 0; i < 5; i++) {
        aq_buffer one = take(&b, 64), two = take(&b, KIB);
        aq_buffer_release(&one);
        aq_buffer_release(&two);
        cr_assert_eq(stats_of(&b).buffers_idle, 0u);
    }
    cr_assert_eq(stats_of(&b).hits, 0u);
    cr_assert_eq(stats_of(&b).allocations, 10u);
    cr_assert_eq(aq_pool_clear(b.pool), 0u);
    finish(&b);
}

/* A model of the pool beside the pool: kept buffers in the order of their release, and the
 * rules of the header. Each acquire must give the very buffer that the model says. */
enum { MODEL_ROOM = 12, MODEL_HELD = 20 };

typedef struct model_pool {
    aq_buffer idle[MODEL_ROOM + 1];
    size_t count, bytes, max_bytes;
} model_pool;

static void model_drop(model_pool *m, size_t i) {
    m->bytes -= m->idle[i].bytes;
    for (m->count--; i < m->count; i++)
        m->idle[i] = m->idle[i + 1];
}

static void model_release(model_pool *m, const aq_buffer *buffer) {
    if (buffer->bytes > m->max_bytes) return;
    while (m->count == MODEL_ROOM || m->bytes + buffer->bytes > m->max_bytes)
        model_drop(m, 0);
    m->idle[m->count++] = *buffer;
    m->bytes += buffer->bytes;
}

/* What acquire must give; NULL = a new one. */
static uint8_t *model_acquire(model_pool *m, size_t bytes, size_t rounded) {
    size_t best = m->count;
    uint8_t *data;
    for (size_t i = 0; i < m->count; i++) {
        if (m->idle[i].bytes < bytes || m->idle[i].bytes > 2 * rounded + 1) continue;
        if (best == m->count || m->idle[i].bytes <= m->idle[best].bytes) best = i;
    }
    if (best == m->count) return NULL;
    data = m->idle[best].data;
    model_drop(m, best);
    return data;
}

/* The size of a new buffer: an eighth of the power of two is the step. */
static size_t model_round(size_t bytes) {
    size_t step = 64;
    if (bytes < 64) bytes = 64;
    while (step * 16 <= bytes)
        step *= 2;
    return (bytes + step - 1) / step * step;
}

Test(pool, a_random_sequence_follows_the_rules) {
    static const size_t budgets[] = {1, 4 * KIB, 24 * KIB, 100 * KIB, KIB * KIB};
    for (size_t k = 0; k < COUNT_OF(budgets); k++) {
        bench b;
        model_pool m = {.max_bytes = budgets[k]};
        aq_buffer held[MODEL_HELD] = {{NULL, 0, NULL}};
        rng r = {k + 1};
        size_t hits = 0;
        start(&b, MODEL_ROOM, 64, budgets[k]);
        for (size_t i = 0; i < 20000; i++) {
            aq_buffer *buffer = &held[rng_below(&r, MODEL_HELD)];
            aq_pool_stats stats;
            if (buffer->pool != NULL) {
                model_release(&m, buffer);
                aq_buffer_release(buffer);
            } else {
                size_t bytes = rng_below(&r, (size_t)1 << (1 + rng_below(&r, 15)));
                size_t rounded = model_round(bytes);
                uint8_t *want = model_acquire(&m, bytes, rounded);
                *buffer = take(&b, bytes);
                hits += want != NULL;
                CHECK(want == NULL ? buffer->bytes == rounded : buffer->data == want,
                      "operation %zu, %zu bytes, budget %zu", i, bytes, budgets[k]);
            }
            stats = stats_of(&b);
            CHECK(stats.hits == hits && stats.buffers_idle == m.count &&
                      stats.bytes_idle == m.bytes && stats.bytes_idle <= budgets[k],
                  "operation %zu, budget %zu", i, budgets[k]);
        }
        cr_expect(k == 0 ? hits == 0 : hits > 0, "budget %zu: %zu hits", budgets[k],
                  hits);
        for (size_t i = 0; i < MODEL_HELD; i++)
            aq_buffer_release(&held[i]);
        finish(&b);
    }
}

/* ---- counters ---- */

static void expect_stats(bench *b, int line, const aq_pool_stats *want) {
    aq_pool_stats have = stats_of(b);
    cr_expect_eq(have.acquires, want->acquires, "acquires, line %d", line);
    cr_expect_eq(have.hits, want->hits, "hits, line %d", line);
    cr_expect_eq(have.allocations, want->allocations, "allocations, line %d", line);
    cr_expect_eq(have.bytes_saved, want->bytes_saved, "bytes_saved, line %d", line);
    cr_expect_eq(have.buffers_idle, want->buffers_idle, "buffers_idle, line %d", line);
    cr_expect_eq(have.buffers_in_use, want->buffers_in_use, "in use, line %d", line);
    cr_expect_eq(have.bytes_idle, want->bytes_idle, "bytes_idle, line %d", line);
    cr_expect_eq(have.bytes_in_use, want->bytes_in_use, "bytes_in_use, line %d", line);
    cr_expect_eq(have.peak_bytes, want->peak_bytes, "peak_bytes, line %d", line);
    cr_expect_eq(have.hit_rate, want->hit_rate, "hit_rate, line %d", line);
    cr_expect_eq(have.allocation_reduction,
                 (double)want->acquires /
                     (double)(want->allocations == 0 ? 1 : want->allocations),
                 "allocation_reduction, line %d", line);
}

/* Order of the fields: acquires, hits, allocations, bytes saved, buffers idle, in use,
 * bytes idle, in use, peak, hit rate. The allocation reduction follows from them. */
#define EXPECT_STATS(bench, ...)                                                         \
    expect_stats(bench, __LINE__, &(const aq_pool_stats){__VA_ARGS__, 0.0})

Test(pool, counters_of_a_scripted_sequence) {
    bench b;
    aq_buffer small, large;
    start(&b, 0, 1, 20 * KIB);
    EXPECT_STATS(&b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0);
    small = take(&b, 2 * KIB);
    EXPECT_STATS(&b, 1, 0, 1, 0, 0, 1, 0, 2 * KIB, 2 * KIB, 0.0);
    large = take(&b, 16 * KIB);
    EXPECT_STATS(&b, 2, 0, 2, 0, 0, 2, 0, 18 * KIB, 18 * KIB, 0.0);
    aq_buffer_release(&small);
    EXPECT_STATS(&b, 2, 0, 2, 0, 1, 1, 2 * KIB, 16 * KIB, 18 * KIB, 0.0);
    small = take(&b, KIB);
    EXPECT_STATS(&b, 3, 1, 2, 2 * KIB, 0, 2, 0, 18 * KIB, 18 * KIB, 1.0 / 3.0);
    aq_buffer_release(&large);
    aq_buffer_release(&small);
    EXPECT_STATS(&b, 3, 1, 2, 2 * KIB, 2, 0, 18 * KIB, 0, 18 * KIB, 1.0 / 3.0);
    large = take(&b, 10 * KIB);
    EXPECT_STATS(&b, 4, 2, 2, 18 * KIB, 1, 1, 2 * KIB, 16 * KIB, 18 * KIB, 0.5);
    aq_buffer_release(&large);
    large = take(&b, 40 * KIB); /* over the budget: not kept */
    EXPECT_STATS(&b, 5, 2, 3, 18 * KIB, 2, 1, 18 * KIB, 40 * KIB, 58 * KIB, 0.4);
    aq_buffer_release(&large);
    EXPECT_STATS(&b, 5, 2, 3, 18 * KIB, 2, 0, 18 * KIB, 0, 58 * KIB, 0.4);
    finish(&b);
}

Test(pool, reset_keeps_the_buffers) {
    bench b;
    aq_buffer one, two;
    start(&b, 0, 1, 0);
    one = take(&b, 64 * KIB); /* a peak that the reset forgets */
    aq_buffer_release(&one);
    aq_pool_clear(b.pool);
    one = take(&b, 4 * KIB);
    two = take(&b, 8 * KIB);
    aq_buffer_release(&one);
    one = take(&b, 4 * KIB);
    aq_buffer_release(&two);
    aq_pool_reset_stats(b.pool);
    EXPECT_STATS(&b, 0, 0, 0, 0, 1, 1, 8 * KIB, 4 * KIB, 12 * KIB, 0.0);
    two = take(&b, 8 * KIB);
    EXPECT_STATS(&b, 1, 1, 0, 8 * KIB, 0, 2, 0, 12 * KIB, 12 * KIB, 1.0);
    aq_buffer_release(&one);
    aq_buffer_release(&two);
    finish(&b);
}

Test(pool, clear_frees_the_idle_ones) {
    static const size_t idle[] = {4 * KIB, 8 * KIB};
    bench b;
    aq_buffer used;
    size_t empty_bytes;
    start(&b, 0, 1, 0);
    empty_bytes = b.memory.live_bytes;
    leave_idle(&b, idle, COUNT_OF(idle));
    used = take(&b, 16 * KIB);
    cr_assert_eq(aq_pool_clear(b.pool), 12 * KIB);
    cr_assert_eq(b.memory.live_bytes, empty_bytes + 16 * KIB);
    EXPECT_STATS(&b, 3, 0, 3, 0, 0, 1, 0, 16 * KIB, 28 * KIB, 0.0);
    cr_assert_eq(aq_pool_clear(b.pool), 0u);
    aq_buffer_release(&used);
    finish(&b);
}

/* clear and reset together: nothing tells the pool from a new one. */
Test(pool, cleared_and_reset_is_as_new) {
    static const size_t idle[] = {4 * KIB, 8 * KIB};
    bench b;
    size_t new_bytes;
    start(&b, 0, 1, 0);
    new_bytes = b.memory.live_bytes;
    leave_idle(&b, idle, COUNT_OF(idle));
    aq_pool_clear(b.pool);
    aq_pool_reset_stats(b.pool);
    EXPECT_STATS(&b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0);
    cr_assert_eq(b.memory.live_bytes, new_bytes);
    finish(&b);
}

Test(pool, allocation_reduction) {
    bench b;
    start(&b, 0, 1, 0);
    for (int i = 0; i < 300; i++) {
        aq_buffer buffer = take(&b, KIB);
        aq_buffer_release(&buffer);
    }
    cr_assert_eq(stats_of(&b).allocation_reduction, 300.0);
    aq_pool_reset_stats(b.pool);
    cr_assert_eq(stats_of(&b).allocation_reduction, 0.0);
    finish(&b);
}

/* ---- release ---- */

Test(pool, release_twice_is_harmless) {
    bench b;
    aq_buffer buffer, empty = {NULL, 0, NULL};
    start(&b, 0, 1, 0);
    buffer = take(&b, KIB);
    aq_buffer_release(&buffer);
    cr_assert(buffer.data == NULL && buffer.bytes == 0 && buffer.pool == NULL);
    aq_buffer_release(&buffer);
    aq_buffer_release(&empty);
    aq_buffer_release(NULL);
    EXPECT_STATS(&b, 1, 0, 1, 0, 1, 0, KIB, 0, KIB, 0.0);
    finish(&b);
}

Test(pool, scoped_buffer_is_released_at_the_end_of_its_block) {
    bench b;
    start(&b, 0, 1, 0);
    for (int i = 0; i < 3; i++) {
        AQ_SCOPED_BUFFER(buffer);
        AQ_SCOPED_BUFFER(never_used);
        cr_assert_null(never_used.data);
        cr_assert_eq(aq_pool_acquire(b.pool, KIB, &buffer, NULL), AQ_OK);
        cr_assert_eq(stats_of(&b).buffers_in_use, 1u);
        if (i == 1) continue; /* leaves the block as well */
    }
    EXPECT_STATS(&b, 3, 2, 1, 2 * KIB, 1, 0, KIB, 0, KIB, 2.0 / 3.0);
    finish(&b);
}

/* ---- errors ---- */

Test(pool, destroy_of_nothing) { aq_pool_destroy(NULL); }

Test(pool, defaults) {
    aq_pool *pool;
    aq_buffer buffers[20];
    aq_pool_stats stats;
    cr_assert_eq(aq_pool_create(NULL, &pool, NULL), AQ_OK);
    for (size_t i = 0; i < COUNT_OF(buffers); i++)
        cr_assert_eq(aq_pool_acquire(pool, 1, &buffers[i], NULL), AQ_OK);
    for (size_t i = 0; i < COUNT_OF(buffers); i++)
        aq_buffer_release(&buffers[i]);
    aq_pool_get_stats(pool, &stats);
    cr_assert_eq(stats.buffers_idle, 16u);
    cr_assert_eq(stats.bytes_idle, 16 * KIB * KIB);
    aq_pool_destroy(pool);
}

/* Every proper part of the three hooks is refused; then nothing was allocated. */
Test(pool, hooks_are_all_or_none) {
    for (int set = 0; set < 8; set++) {
        counting_allocator memory;
        aq_pool_options options = {NULL, 0, 64, 0};
        aq_pool *pool = (aq_pool *)&memory;
        aq_error err;
        aq_status status, want = set == 0 || set == 7 ? AQ_OK : AQ_E_ARG;
        counting_init(&memory);
        options.allocator = &memory.hooks;
        if ((set & 1) == 0) memory.hooks.alloc = NULL;
        if ((set & 2) == 0) memory.hooks.resize = NULL;
        if ((set & 4) == 0) memory.hooks.free = NULL;
        status = aq_pool_create(&options, &pool, &err);
        cr_expect_eq(status, want, "set %d: %s", set, aq_status_name(status));
        cr_expect_eq(err.status, want);
        cr_expect_eq(memory.calls != 0, set == 7);
        cr_expect_eq(pool != NULL, want == AQ_OK);
        aq_pool_destroy(pool);
        cr_expect(counting_is_clean(&memory));
    }
}

/* The hooks are copied: the caller's struct may go. */
Test(pool, hooks_are_copied) {
    counting_allocator memory;
    aq_allocator hooks;
    aq_pool_options options = {&hooks, 0, 64, 0};
    aq_pool *pool;
    aq_buffer buffer;
    counting_init(&memory);
    hooks = memory.hooks;
    cr_assert_eq(aq_pool_create(&options, &pool, NULL), AQ_OK);
    memset(&hooks, 0, sizeof hooks);
    cr_assert_eq(aq_pool_acquire(pool, 100, &buffer, NULL), AQ_OK);
    aq_buffer_release(&buffer);
    aq_pool_destroy(pool);
    cr_assert_gt(memory.calls, 0u);
    cr_assert(counting_is_clean(&memory));
}

/* The k-th allocation fails, for every k that create and two acquires reach. */
Test(pool, every_allocation_may_fail) {
    size_t k, failures = 0;
    for (k = 1;; k++) {
        counting_allocator memory;
        aq_pool_options options = {NULL, 0, 64, 0};
        aq_pool *pool = NULL;
        aq_buffer buffers[2] = {{NULL, 0, NULL}, {NULL, 0, NULL}};
        aq_error err;
        aq_status status;
        counting_init(&memory);
        memory.fail_at = k;
        options.allocator = &memory.hooks;
        status = aq_pool_create(&options, &pool, &err);
        cr_expect_eq(pool != NULL, status == AQ_OK);
        for (size_t i = 0; i < 2 && status == AQ_OK; i++) {
            memset(&buffers[i], 0xEE, sizeof buffers[i]);
            status = aq_pool_acquire(pool, 1000, &buffers[i], &err);
            cr_expect_eq(buffers[i].data != NULL, status == AQ_OK);
            cr_expect_eq(buffers[i].pool != NULL, status == AQ_OK);
        }
        cr_expect_eq(err.status, status);
        if (status != AQ_OK) {
            cr_expect_eq(status, AQ_E_NOMEM, "allocation %zu: %s", k, err.message);
            failures++;
        }
        aq_buffer_release(&buffers[0]);
        aq_buffer_release(&buffers[1]);
        aq_pool_destroy(pool);
        cr_expect(counting_is_clean(&memory), "allocation %zu", k);
        if (memory.calls < k) break;
    }
    cr_assert_geq(failures, 3u);
    cr_assert_eq(failures, k - 1);
}

/* A failed acquire changes no counter, and the pool goes on. */
Test(pool, failed_acquire_leaves_no_trace) {
    bench b;
    aq_buffer buffer;
    start(&b, 0, 64, 0);
    b.memory.fail_at = b.memory.calls + 1;
    cr_assert_eq(aq_pool_acquire(b.pool, KIB, &buffer, NULL), AQ_E_NOMEM);
    EXPECT_STATS(&b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0);
    buffer = take(&b, KIB);
    aq_buffer_release(&buffer);
    finish(&b);
}

Test(pool, sizes_that_no_memory_has) {
    static const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 63, SIZE_MAX / 2 + 1,
                                   SIZE_MAX / 2};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        aq_pool *pool;
        aq_buffer buffer;
        aq_error err;
        cr_assert_eq(aq_pool_create(NULL, &pool, NULL), AQ_OK);
        cr_expect_eq(aq_pool_acquire(pool, sizes[i], &buffer, &err), AQ_E_NOMEM);
        cr_expect_eq(err.status, AQ_E_NOMEM);
        cr_expect_null(buffer.data);
        aq_pool_destroy(pool);
    }
}

Test(pool, too_many_buffers) {
    aq_pool_options options = {NULL, SIZE_MAX, 0, 0};
    aq_pool *pool;
    cr_assert_eq(aq_pool_create(&options, &pool, NULL), AQ_E_ARG);
    cr_assert_null(pool);
}

/* ---- a million operations on each of eight threads ---- */

enum { USERS = 8, USER_HELD = 6, USER_OPERATIONS = 1000000 };
enum { USER_BUFFERS = 10, USER_BUDGET = 60000, LARGEST = 16384 };

typedef struct user {
    aq_pool *pool;
    uint64_t number;     /* from 1 */
    uint64_t operations; /* done */
    uint64_t acquires, refused, mistakes;
} user;

/* The owner's number and the operation, at both ends and in the middle. */
static void stamp(const aq_buffer *b, uint64_t value) {
    memcpy(b->data, &value, sizeof value);
    memcpy(b->data + b->bytes / 2, &value, sizeof value);
    memcpy(b->data + b->bytes - sizeof value, &value, sizeof value);
}

static bool has_stamp(const aq_buffer *b, uint64_t value) {
    return memcmp(b->data, &value, sizeof value) == 0 &&
           memcmp(b->data + b->bytes / 2, &value, sizeof value) == 0 &&
           memcmp(b->data + b->bytes - sizeof value, &value, sizeof value) == 0;
}

static void user_look(user *u) {
    aq_pool_stats s;
    aq_pool_get_stats(u->pool, &s);
    u->mistakes += s.bytes_idle > USER_BUDGET || s.buffers_idle > USER_BUFFERS;
    u->mistakes += s.acquires != s.hits + s.allocations;
    u->mistakes += s.buffers_in_use > USERS * USER_HELD;
    u->mistakes += s.bytes_in_use + s.bytes_idle > s.peak_bytes;
}

static void *use_pool(void *arg) {
    user *u = (user *)arg;
    aq_buffer held[USER_HELD] = {{NULL, 0, NULL}};
    uint64_t stamps[USER_HELD] = {0};
    rng r = {u->number};
    for (u->operations = 0; u->operations < USER_OPERATIONS; u->operations++) {
        size_t i = rng_below(&r, USER_HELD);
        size_t bytes = rng_below(&r, (size_t)1 << (1 + rng_below(&r, 14)));
        if (held[i].pool != NULL) {
            u->mistakes += !has_stamp(&held[i], stamps[i]);
            aq_buffer_release(&held[i]);
        } else if (aq_pool_acquire(u->pool, bytes, &held[i], NULL) != AQ_OK) {
            u->refused++;
        } else {
            u->acquires++;
            u->mistakes += held[i].bytes < bytes || held[i].bytes > LARGEST * 9 / 4;
            stamps[i] = u->operations << 8 | u->number;
            stamp(&held[i], stamps[i]);
        }
        if (u->operations % 1000 == 0) user_look(u);
        if (u->operations % 50000 == 0) aq_pool_clear(u->pool);
    }
    for (size_t i = 0; i < USER_HELD; i++)
        aq_buffer_release(&held[i]);
    return NULL;
}

/* No buffer is handed out twice, the budget holds at any time, and it ends. One allocation
 * fails meanwhile, and one acquire with it. */
Test(pool, eight_threads_a_million_operations_each, .timeout = 300) {
    bench b;
    user users[USERS];
    pthread_t threads[USERS];
    aq_pool_stats stats;
    uint64_t acquires = 0, refused = 0;
    start(&b, USER_BUFFERS, 64, USER_BUDGET);
    b.memory.fail_at = b.memory.calls + 1000;
    for (size_t i = 0; i < USERS; i++) {
        users[i] = (user){.pool = b.pool, .number = i + 1};
        cr_assert_eq(pthread_create(&threads[i], NULL, use_pool, &users[i]), 0);
    }
    for (size_t i = 0; i < USERS; i++)
        pthread_join(threads[i], NULL);
    for (size_t i = 0; i < USERS; i++) {
        cr_expect_eq(users[i].operations, (uint64_t)USER_OPERATIONS);
        cr_expect_eq(users[i].mistakes, 0u, "thread %zu: %llu mistakes", i,
                     (unsigned long long)users[i].mistakes);
        acquires += users[i].acquires;
        refused += users[i].refused;
    }
    stats = stats_of(&b);
    cr_expect_eq(stats.acquires, acquires);
    cr_expect_eq(refused, 1u);
    cr_expect_gt(stats.hits, acquires / 4);
    cr_expect_eq(stats.buffers_in_use, 0u);
    cr_expect_eq(stats.bytes_in_use, 0u);
    cr_expect_leq(stats.bytes_idle, (size_t)USER_BUDGET);
    finish(&b);
}
