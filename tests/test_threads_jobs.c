/* Jobs on many threads, also under ThreadSanitizer: the same bytes with tensors that are
 * done again, stopped and resumed jobs, a shared pool; and a progress callback that
 * nobody else is in. */
#include "jobs.h"

#include <pthread.h>
#include <sched.h>

enum { TENSORS = 40, MAX_THREADS = 16, CALLERS = 4 };

/* Small matrices, with a large one, one of a long row, and NaN among them. */
static void save_model(const char *path) {
    static char names[TENSORS][8];
    float *values[TENSORS];
    aq_tensor t[TENSORS];
    for (size_t i = 0; i < TENSORS; i++) {
        uint64_t rows = 5 + i, cols = 90;
        if (i == 20) rows = 700, cols = 500;
        if (i == 30) rows = 2, cols = 80000;
        snprintf(names[i], sizeof names[i], "%02zu", i);
        values[i] = wave((size_t)(rows * cols), i);
        if (i % 9 == 4) values[i][i] = (float)NAN;
        if (i == 30) values[i][rows * cols - 1] = (float)INFINITY;
        t[i] = matrix_of(names[i], rows, cols, values[i]);
    }
    ASSERT_OK(aq_model_save(path, t, TENSORS, &fast, &err));
    for (size_t i = 0; i < TENSORS; i++)
        free(values[i]);
}

/* What the callback has seen. Not atomic: two calls at a time are a race. */
typedef struct calls {
    size_t count, inside, overlaps, stop_at;
    size_t tensors_done;
    bool undone;
} calls;

static bool note(void *user, const aq_progress *p) {
    calls *c = (calls *)user;
    if (c->inside++ != 0) c->overlaps++;
    if (p->tensors_done < c->tensors_done) c->undone = true;
    c->tensors_done = p->tensors_done;
    sched_yield();
    c->inside--;
    return ++c->count != c->stop_at;
}

/* Many pieces; some tensors miss the cosine with 2 bits, and with 4. */
static aq_job_options options_of(calls *c) {
    aq_job_options o;
    memset(&o, 0, sizeof o);
    memset(c, 0, sizeof *c);
    o.quant.bits = 2;
    o.min_cosine = 0.985;
    o.max_memory_bytes = 1 << 20;
    o.no_sync = true;
    o.progress.fn = note;
    o.progress.user = c;
    return o;
}

static char input[512];
static file expected; /* of one thread */

static void begin(void) {
    calls c;
    aq_job_options o = options_of(&c);
    enter_fast_dir();
    temp_dir_file(&here, "m.safetensors", input, sizeof input);
    save_model(input);
    o.threads = 1;
    expected = run_job(input, in_dir("expected.parquet"), &o, NULL);
}

static void end(void) {
    file_free(&expected);
    leave_temp_dir();
}

static bool as_expected(const char *path) {
    file f = file_read(path);
    const bool same = file_equal(&expected, &f);
    file_free(&f);
    return same;
}

Test(threads_jobs, any_number_of_threads) {
    begin();
    for (uint32_t threads = 2; threads <= MAX_THREADS; threads += 7) {
        for (int k = 0; k < 4; k++) {
            calls c;
            aq_job_options o = options_of(&c);
            aq_job_report r;
            o.threads = threads;
            o.mode = (aq_job_mode)(k % 2);
            o.io = k < 2 ? AQ_IO_AUTO : AQ_IO_READ;
            ASSERT_OK(aq_job_run(input, in_dir("q.parquet"), &o, &r, &err));
            cr_assert(as_expected(in_dir("q.parquet")));
            cr_assert_eq(r.num_failed, 5); /* 4, 13, 22, 30, 31 */
            cr_assert(c.overlaps == 0 && !c.undone && c.tensors_done == TENSORS);
            aq_job_report_deinit(&r);
        }
    }
    end();
}

/* Stopped, and resumed by another number of threads. */
Test(threads_jobs, stopped_and_resumed) {
    begin();
    for (size_t stop = 1; stop < 60; stop += 6) {
        calls c;
        aq_job_options o = options_of(&c);
        aq_job_report r;
        o.threads = MAX_THREADS;
        o.resume = true;
        c.stop_at = stop;
        if (aq_job_run(input, in_dir("q.parquet"), &o, NULL, &err) == AQ_OK) {
            cr_assert_lt(c.count, stop);
            break;
        }
        cr_assert_eq(err.status, AQ_E_CANCELLED);
        cr_assert_eq(c.count, stop);
        cr_assert_not(exists(in_dir("q.parquet")));
        o = options_of(&c);
        o.resume = true;
        o.threads = 1 + (uint32_t)stop % 8;
        o.mode = AQ_JOB_PARALLEL;
        ASSERT_OK(aq_job_run(input, in_dir("q.parquet"), &o, &r, &err));
        cr_assert(as_expected(in_dir("q.parquet")));
        cr_assert_eq(c.overlaps, 0);
        aq_job_report_deinit(&r);
        remove(in_dir("q.parquet"));
        cr_assert_eq(temp_dir_entries(here.path), 2);
    }
    end();
}

/* A job that stops while others are in their pieces leaves nothing, and no lock. */
Test(threads_jobs, errors_in_the_middle) {
    begin();
    for (size_t k = 0; k < 12; k++) {
        calls c;
        aq_job_options o = options_of(&c);
        aq_status status;
        o.threads = MAX_THREADS;
        if (k % 3 == 0) o.fail_fast = true;
        if (k % 3 == 1) c.stop_at = 2 + k;
        if (k % 3 == 2) o.max_memory_bytes = 30000; /* not for the long row */
        status = aq_job_run(input, in_dir(k < 6 ? "q.parquet" : "q/"), &o, NULL, &err);
        cr_assert(status == AQ_E_NONFINITE || status == AQ_E_QUALITY ||
                  status == AQ_E_CANCELLED || status == AQ_E_LIMIT);
        cr_assert_eq(temp_dir_entries(here.path), 2);
    }
    end();
}

/* ---- jobs side by side ---- */

typedef struct caller {
    pthread_t thread;
    size_t number;
    aq_pool *pool;
    const aq_tasks *tasks;
    bool good;
} caller;

static void *run_caller(void *arg) {
    caller *me = (caller *)arg;
    char name[32], out[512];
    me->good = true;
    for (int k = 0; k < 3; k++) {
        calls c;
        aq_error e;
        aq_job_options o = options_of(&c);
        snprintf(name, sizeof name, "q%zu.parquet", me->number);
        temp_dir_file(&here, name, out, sizeof out);
        o.pool = me->pool;
        o.tasks = me->tasks;
        o.resume = k == 1;
        if (aq_job_run(input, out, &o, NULL, &e) != AQ_OK || !as_expected(out))
            me->good = false;
    }
    return NULL;
}

/* Jobs of one process, one input, one pool, one set of threads. */
Test(threads_jobs, jobs_side_by_side) {
    caller callers[CALLERS];
    aq_threads *threads;
    aq_pool *pool;
    begin();
    ASSERT_OK(aq_pool_create(NULL, &pool, &err));
    ASSERT_OK(aq_threads_create(4, NULL, &threads, &err));
    for (size_t i = 0; i < CALLERS; i++) {
        callers[i].number = i;
        callers[i].pool = pool;
        callers[i].tasks = aq_threads_tasks(threads);
        cr_assert_eq(pthread_create(&callers[i].thread, NULL, run_caller, &callers[i]),
                     0);
    }
    for (size_t i = 0; i < CALLERS; i++) {
        cr_assert_eq(pthread_join(callers[i].thread, NULL), 0);
        cr_assert(callers[i].good);
    }
    aq_threads_destroy(threads);
    aq_pool_destroy(pool);
    end();
}

/* What is read back on many threads: dequantized, converted, shards joined. */
Test(threads_jobs, back_again) {
    file one[2] = {{NULL, 0}, {NULL, 0}};
    begin();
    for (uint32_t threads = 1; threads <= MAX_THREADS; threads += 5) {
        for (int k = 0; k < 2; k++) {
            calls c;
            aq_job_options o = options_of(&c);
            file f;
            o.operation = k == 0 ? AQ_DEQUANTIZE : AQ_CONVERT;
            o.chunk_bytes = 9000;
            o.min_cosine = 0;
            o.threads = threads;
            f = run_job(in_dir("expected.parquet"), in_dir("b.parquet"), &o, NULL);
            cr_assert_eq(c.overlaps, 0);
            if (threads == 1) one[k] = f;
            cr_assert(file_equal(&one[k], &f));
            if (threads != 1) file_free(&f);
        }
    }
    file_free(&one[0]);
    file_free(&one[1]);
    end();
}

Test(threads_jobs, shards) {
    static const char *const names[3] = {"s0.parquet", "s1.parquet", "s2.parquet"};
    const char *paths[3];
    char room[3][512];
    calls c;
    aq_job_options o = options_of(&c), merge = options_of(&c);
    begin();
    for (uint32_t i = 0; i < 3; i++) {
        o.num_shards = 3;
        o.shard = i;
        o.threads = MAX_THREADS;
        c.tensors_done = 0;
        paths[i] = temp_dir_file(&here, names[i], room[i], sizeof room[i]);
        ASSERT_OK(aq_job_run(input, paths[i], &o, NULL, &err));
    }
    merge.threads = MAX_THREADS;
    ASSERT_OK(aq_merge(paths, 3, in_dir("all.parquet"), &merge, NULL, &err));
    cr_assert(as_expected(in_dir("all.parquet")));
    end();
}
