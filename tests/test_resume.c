/* test_resume.c - jobs that are interrupted: killed at every write, failed writes of
 * every kind, damaged journals, two at a time. Nothing appears under the final name but
 * the file of a job that nobody disturbed, byte for byte; and what is done is not done
 * again. */
#define AQ_STATIC
#define ARROWQUANT_IMPLEMENTATION
#define AQI_CHECKPOINT_BYTES checkpoint_bytes

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static uint64_t checkpoint_bytes = 20000; /* many checkpoints in a small job */

/* What the next calls of the implementation do. Threads may come side by side. */
typedef enum fault_kind {
    FAULT_NONE,
    FAULT_KILL,  /* half of the bytes, then the process is gone */
    FAULT_SHORT, /* one byte less, from then on half of them    */
    FAULT_EINTR, /* every second call is interrupted            */
    FAULT_FULL,  /* ENOSPC after half of the bytes              */
    FAULT_DISK,  /* ENOSPC beyond so many bytes of all files    */
    FAULT_ERROR  /* EIO                                         */
} fault_kind;

static struct faults {
    fault_kind kind;
    long at, count; /* the call that it begins with; calls so far */
    off_t room;     /* FAULT_DISK: what is left                   */
} faults;

enum { KILLED = 77 };

/* Pages of a file that ends there. */
static off_t pages_to(off_t end) { return (end + 4095) / 4096 * 4096; }

/* A disk with so much room: files take whole pages, from their first byte to their last. */
static ssize_t small_disk_pwrite(int fd, const void *src, size_t bytes, off_t offset) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct stat st;
    ssize_t n = -1;
    pthread_mutex_lock(&lock);
    if (fstat(fd, &st) == 0) {
        const off_t end = offset + (off_t)bytes;
        const off_t more =
            end > st.st_size ? pages_to(end) - pages_to(st.st_size) : (off_t)0;
        errno = ENOSPC;
        if (more <= faults.room) n = pwrite(fd, src, bytes, offset);
        if (n >= 0) faults.room -= more;
    }
    pthread_mutex_unlock(&lock);
    return n;
}

static ssize_t faulty_pwrite(int fd, const void *src, size_t bytes, off_t offset) {
    const long call = __atomic_fetch_add(&faults.count, 1, __ATOMIC_RELAXED);
    if (faults.kind == FAULT_NONE || call < faults.at)
        return pwrite(fd, src, bytes, offset);
    switch (faults.kind) {
    case FAULT_DISK:
        return small_disk_pwrite(fd, src, bytes, offset);
    case FAULT_KILL:
        if (call == faults.at && bytes > 1 && pwrite(fd, src, bytes / 2, offset) < 0)
            _exit(1);
        _exit(KILLED);
    case FAULT_SHORT:
        return pwrite(fd, src, bytes > 1 ? bytes / 2 : bytes, offset);
    case FAULT_EINTR:
        errno = EINTR;
        return (call - faults.at) % 2 == 0 ? -1 : pwrite(fd, src, bytes, offset);
    case FAULT_FULL:
        errno = ENOSPC;
        return call == faults.at && bytes > 1 ? pwrite(fd, src, bytes / 2, offset) : -1;
    default:
        errno = EIO;
        return -1;
    }
}

/* Calls that make the rest durable: fsync, ftruncate, rename. */
static long sync_at = -1, sync_count; /* the one that fails, with EIO; or kills */
static bool sync_kills;

static bool sync_faulty(void) {
    if (sync_count++ != sync_at) return false;
    if (sync_kills) _exit(KILLED);
    errno = EIO;
    return true;
}

static int faulty_fsync(int fd) { return sync_faulty() ? -1 : fsync(fd); }
static int faulty_ftruncate(int fd, off_t bytes) {
    struct stat st;
    if (faults.kind == FAULT_DISK && fstat(fd, &st) == 0)
        faults.room += pages_to(st.st_size) - pages_to(bytes);
    return sync_faulty() ? -1 : ftruncate(fd, bytes);
}
static int faulty_rename(const char *from, const char *to) {
    return sync_faulty() ? -1 : rename(from, to);
}

#define pwrite faulty_pwrite
#define fsync faulty_fsync
#define ftruncate faulty_ftruncate
#define rename faulty_rename
#include "../arrowquant.h"
#undef pwrite
#undef fsync
#undef ftruncate
#undef rename

#include "jobs.h"

#include <sys/file.h>
#include <sys/wait.h>

TestSuite(resume, .init = enter_fast_dir, .fini = leave_temp_dir, .timeout = 100);

#ifndef LARGE_TESTS
#define LARGE_TESTS 1 /* emulators take an hour */
#endif

/* The call after call k where a test goes through them; of all but the first, emulators
 * leave out most. */
static long call_after(long k) { return k + (LARGE_TESTS || k < 15 ? 1 : 5); }

/* Of bytes to damage, and of pairs of jobs, the same. */
enum { EVERY = LARGE_TESTS ? 1 : 7 };

/* ---- jobs to interrupt ---- */

enum { TENSORS = 6 };

/* Matrices, one of them of a single long row, one with a NaN; a vector. */
static void save_waves(const char *path) {
    static const char *const names[TENSORS] = {"t0", "t1", "t2", "t3", "t4", "t5"};
    float *values[TENSORS];
    aq_tensor t[TENSORS];
    for (size_t i = 0; i < TENSORS; i++) {
        uint64_t shape[2] = {60 + 30 * i, 120};
        uint32_t dims = i == 4 ? 1 : 2;
        if (i == 3) shape[0] = 1, shape[1] = 70000;
        values[i] = wave((size_t)(shape[0] * shape[dims - 1]), i);
        if (i == 2) values[i][777] = (float)NAN;
        turn_le(values[i], (size_t)(shape[0] * shape[dims - 1]), sizeof *values[i]);
        t[i] = tensor_of(names[i], AQ_F32, shape, dims, values[i]);
    }
    ASSERT_OK(aq_model_save(path, t, TENSORS, &fast, &err));
    for (size_t i = 0; i < TENSORS; i++)
        free(values[i]);
}

typedef struct variant {
    const char *what;
    bool quantized; /* the input is made by a job before */
    const char *out, *part, *journal;
    aq_job_options options;
} variant;

#define PARQUET "out.parquet", ".out.parquet.aq-part", ".out.parquet.aq-journal"
#define SAFETENSORS                                                                      \
    "out.safetensors", ".out.safetensors.aq-part", ".out.safetensors.aq-journal"
#define SMALL .max_memory_bytes = 300000, .no_sync = true, .resume = true

static const variant variants[] = {
    {"plain", false, PARQUET, {.threads = 1, .quant = {.bits = 2}, SMALL}},
    {"min_cosine",
     false,
     PARQUET,
     {.threads = 1, .quant = {.bits = 2}, .min_cosine = 0.99, SMALL}},
    {"4 threads",
     false,
     PARQUET,
     {.threads = 4, .quant = {.bits = 2}, .min_cosine = 0.98, SMALL}},
    {"one scale",
     false,
     PARQUET,
     {.threads = 1, .quant = {.bits = 4, .granularity = AQ_PER_TENSOR}, SMALL}},
    {"target", false, PARQUET, {.threads = 1, .target_bpw = 14, SMALL}},
    {"chunked",
     false,
     PARQUET,
     {.threads = 1, .quant = {.params = AQ_PARAMS_U8}, .chunk_bytes = 9000, SMALL}},
    {"parallel", false, PARQUET, {.threads = 3, .mode = AQ_JOB_PARALLEL, SMALL}},
    {"shard", false, PARQUET, {.threads = 1, .shard = 1, .num_shards = 2, SMALL}},
    {"dequantize", true, SAFETENSORS, {.threads = 1, .operation = AQ_DEQUANTIZE, SMALL}},
    {"dequantize, 4 threads",
     true,
     SAFETENSORS,
     {.threads = 4, .operation = AQ_DEQUANTIZE, SMALL}},
    {"convert",
     true,
     PARQUET,
     {.threads = 1, .operation = AQ_CONVERT, .chunk_bytes = 5000, SMALL}},
    {"one scale, chunked",
     false,
     PARQUET,
     {.threads = 1,
      .quant = {.bits = 4, .granularity = AQ_PER_TENSOR},
      .chunk_bytes = 9000,
      SMALL}},
};

/* The input and what a job that nobody disturbs makes of it. */
static char input[512], output[512], part[512], journal[512];

static file begin(const variant *v) {
    aq_job_options o = v->options;
    file want;
    memset(&faults, 0, sizeof faults);
    temp_dir_file(&here, v->out, output, sizeof output);
    temp_dir_file(&here, v->part, part, sizeof part);
    temp_dir_file(&here, v->journal, journal, sizeof journal);
    temp_dir_file(&here, "in.safetensors", input, sizeof input);
    if (!exists(input)) save_waves(input);
    if (v->quantized) {
        const aq_job_options q = {.quant = {.bits = 4}, .no_sync = true};
        char from[512];
        memcpy(from, input, sizeof from);
        temp_dir_file(&here, "in.parquet", input, sizeof input);
        ASSERT_OK(aq_job_run(from, input, &q, NULL, &err));
    }
    o.resume = false;
    want = run_job(input, output, &o, NULL);
    remove(output);
    return want;
}

static void remove_all(void) {
    remove(output);
    remove(part);
    remove(journal);
}

/* A run from where the last one stopped; it must end with the right bytes and leave
 * nothing else. Tensors that were done before. */
static size_t finish(const variant *v, const file *want, const char *what, long k) {
    aq_job_report r;
    file got;
    size_t resumed;
    faults.kind = FAULT_NONE;
    ASSERT_OK(aq_job_run(input, output, &v->options, &r, &err));
    resumed = r.num_resumed;
    aq_job_report_deinit(&r);
    got = file_read(output);
    CHECK(file_equal(want, &got), "%s, %s %ld: other bytes", v->what, what, k);
    CHECK(!exists(part) && !exists(journal), "%s, %s %ld: left over", v->what, what, k);
    file_free(&got);
    remove(output);
    return resumed;
}

/* Only ever the whole file under its name. */
static void expect_whole_or_none(const variant *v, const file *want, long k) {
    file got;
    if (!exists(output)) return;
    got = file_read(output);
    CHECK(file_equal(want, &got), "%s, call %ld: a part under the name", v->what, k);
    file_free(&got);
}

/* The job in a process of its own; true: it was killed. */
static bool run_to_kill(const variant *v, long at) {
    int status;
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        faults.kind = FAULT_KILL;
        faults.at = at;
        faults.count = 0;
        _exit(aq_job_run(input, output, &v->options, NULL, &err) == AQ_OK ? 0 : 5);
    }
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == KILLED, "%s, kill %ld: %d",
          v->what, at, WEXITSTATUS(status));
    return WEXITSTATUS(status) == KILLED;
}

/* ---- killed ---- */

/* Killed at every write; then once more a little later; then it ends well. */
static void kill_at_every_write(const variant *v) {
    file want = begin(v);
    size_t most = 0, resumed;
    long k;
    for (k = 0;; k = call_after(k)) {
        const bool killed = run_to_kill(v, k);
        expect_whole_or_none(v, &want, k);
        if (!killed) break;
        CHECK(!exists(output), "%s, kill %ld: killed, and there is an output", v->what,
              k);
        run_to_kill(v, k % 7);
        expect_whole_or_none(v, &want, k);
        remove(output);
        resumed = finish(v, &want, "killed at", k);
        if (resumed > most) most = resumed;
    }
    remove_all();
    cr_assert_gt(k, 8, "%s: %ld writes", v->what, k);
    /* Of threads, one may be far behind the others when all are killed. */
    cr_assert_geq(most, v->options.num_shards > 0 || v->options.threads > 1 ? 1 : 4,
                  "%s: at most %zu resumed", v->what, most);
    file_free(&want);
}

Test(resume, killed_at_every_write) {
    for (size_t i = 0; i < COUNT_OF(variants); i++)
        kill_at_every_write(&variants[i]);
}

/* Killed at every fsync, ftruncate and rename, with syncing. */
Test(resume, killed_at_every_sync) {
    for (size_t i = 0; i < COUNT_OF(variants); i++) {
        variant v = variants[i];
        file want = begin(&v);
        bool killed = true;
        if (v.options.threads > 1) {
            file_free(&want);
            continue;
        }
        v.options.no_sync = false;
        for (long k = 0; killed; k++) {
            int status;
            pid_t child = fork();
            cr_assert_geq(child, 0);
            if (child == 0) {
                sync_at = k;
                sync_kills = true;
                sync_count = 0;
                _exit(aq_job_run(input, output, &v.options, NULL, &err) == AQ_OK ? 0 : 5);
            }
            cr_assert_eq(waitpid(child, &status, 0), child);
            killed = WIFEXITED(status) && WEXITSTATUS(status) == KILLED;
            cr_assert(killed || (WIFEXITED(status) && WEXITSTATUS(status) == 0));
            if (killed && !exists(output)) finish(&v, &want, "killed at sync", k);
            expect_whole_or_none(&v, &want, k);
            if (!killed) cr_assert_gt(k, 5, "%s: %ld syncs", v.what, k);
            remove_all();
        }
        file_free(&want);
    }
}

/* ---- writes that fail ---- */

/* A disk that is full, or broken, from any write on: an error that says so, nothing under
 * the name, and the next run goes on. */
Test(resume, failing_writes) {
    static const fault_kind kinds[] = {FAULT_FULL, FAULT_ERROR};
    for (size_t i = 0; i < COUNT_OF(variants); i++) {
        const variant *v = &variants[i];
        file want = begin(v);
        for (size_t f = 0; f < COUNT_OF(kinds); f++) {
            aq_status status = AQ_E_IO;
            for (long k = 0; status != AQ_OK; k = call_after(k)) {
                faults.kind = kinds[f];
                faults.at = k;
                faults.count = 0;
                status = aq_job_run(input, output, &v->options, NULL, &err);
                faults.kind = FAULT_NONE;
                if (status == AQ_OK) {
                    cr_assert_gt(k, 8);
                    expect_whole_or_none(v, &want, k);
                    break;
                }
                cr_assert_eq(status, AQ_E_IO, "%s, write %ld: %s", v->what, k,
                             err.message);
                cr_assert_eq(err.os_errno, kinds[f] == FAULT_FULL ? ENOSPC : EIO);
                ASSERT_MESSAGE(v->what, kinds[f] == FAULT_FULL ? "No space" : "error");
                CHECK(!exists(output), "%s, write %ld failed, and there is an output",
                      v->what, k);
                finish(v, &want, "write failed", k);
            }
            remove_all();
        }
        file_free(&want);
    }
}

/* The disk is full before the first checkpoint: the journal has taken its room, and what is
 * whole is kept. In safetensors the first tensors may come last. */
Test(resume, full_disk) {
    for (size_t i = 0; i < COUNT_OF(variants); i++) {
        const variant *v = &variants[i];
        file want = begin(v);
        size_t runs = 0, kept = 0;
        off_t room;
        checkpoint_bytes = UINT64_MAX;
        /* There is room for the first tensor in any form, not for all. */
        for (room = 65536; room < (off_t)want.size; room += 8192, runs++) {
            faults.kind = FAULT_DISK;
            faults.at = 0;
            faults.room = room;
            ASSERT_STATUS(aq_job_run(input, output, &v->options, NULL, &err), AQ_E_IO);
            ASSERT_MESSAGE(v->what, "No space");
            kept += finish(v, &want, "room", (long)room) > 0;
        }
        if (v->options.operation == AQ_DEQUANTIZE) {
            cr_expect_gt(kept, 0, "%s: nothing was kept", v->what);
        } else {
            cr_expect_eq(kept, runs, "%s: %zu of %zu runs kept something", v->what, kept,
                         runs);
        }
        remove_all();
        file_free(&want);
    }
}

/* The same without resume: the temporary files vanish, of a directory, too. */
Test(resume, failing_writes_without_resume) {
    for (size_t i = 0; i <= COUNT_OF(variants); i++) {
        variant v = variants[i % COUNT_OF(variants)];
        file want = begin(&v);
        size_t before;
        aq_status status = AQ_E_IO;
        if (i == COUNT_OF(variants)) temp_dir_file(&here, "out/", output, sizeof output);
        before = temp_dir_entries(here.path);
        v.options.resume = false;
        for (long k = 0; status != AQ_OK; k = call_after(k)) {
            faults.kind = k % 2 == 0 ? FAULT_FULL : FAULT_ERROR;
            faults.at = k;
            faults.count = 0;
            status = aq_job_run(input, output, &v.options, NULL, &err);
            faults.kind = FAULT_NONE;
            cr_assert(status == AQ_OK || status == AQ_E_IO, "%s, write %ld: %s", v.what,
                      k, err.message);
            if (status != AQ_OK)
                cr_assert_eq(temp_dir_entries(here.path), before, "%s, write %ld", v.what,
                             k);
        }
        output[strlen(output) - (i == COUNT_OF(variants))] = '\0';
        temp_path_remove(output);
        file_free(&want);
    }
}

/* Short and interrupted writes are no failures. */
Test(resume, short_and_interrupted_writes) {
    static const fault_kind kinds[] = {FAULT_SHORT, FAULT_EINTR};
    for (size_t i = 0; i < COUNT_OF(variants); i++) {
        file want = begin(&variants[i]);
        for (size_t f = 0; f < COUNT_OF(kinds); f++) {
            for (int resume = 0; resume < 2; resume++) {
                aq_job_options o = variants[i].options;
                file got;
                o.resume = resume != 0;
                faults.kind = kinds[f];
                faults.at = 0;
                faults.count = 0;
                got = run_job(input, output, &o, NULL);
                faults.kind = FAULT_NONE;
                cr_assert_gt(faults.count, 8);
                cr_assert(file_equal(&want, &got), "%s", variants[i].what);
                cr_assert(!exists(part) && !exists(journal));
                file_free(&got);
                remove(output);
            }
        }
        file_free(&want);
    }
}

/* An fsync, ftruncate or rename that fails. */
Test(resume, failing_syncs) {
    for (size_t i = 0; i < COUNT_OF(variants); i++) {
        variant v = variants[i];
        file want = begin(&v);
        aq_status status = AQ_E_IO;
        v.options.no_sync = false;
        for (long k = 0; status != AQ_OK; k++) {
            sync_at = k;
            sync_count = 0;
            status = aq_job_run(input, output, &v.options, NULL, &err);
            sync_at = -1;
            expect_whole_or_none(&v, &want, k);      /* whole: of the directory's sync */
            if (status == AQ_OK && sync_count > k) { /* one that may be missed */
                remove_all();
                status = AQ_E_IO;
                continue;
            }
            if (status == AQ_OK) break;
            cr_assert(status == AQ_E_IO && err.os_errno == EIO, "%s, sync %ld: %s",
                      v.what, k, err.message);
            if (exists(output)) {
                cr_assert(!exists(part));
                remove_all();
            } else {
                finish(&v, &want, "sync failed", k);
            }
        }
        remove_all();
        file_free(&want);
    }
}

/* ---- stopped ---- */

static bool stop_at(void *user, const aq_progress *p) {
    (void)p;
    return --*(long *)user > 0;
}

static aq_status run_until(const variant *v, long calls) {
    aq_job_options o = v->options;
    o.progress.fn = stop_at;
    o.progress.user = &calls;
    return aq_job_run(input, output, &o, NULL, &err);
}

/* Stopped by the progress hook at each of its calls, as a signal would be: what is done
 * stays, and is not done again. */
Test(resume, stopped_at_every_call) {
    for (size_t i = 0; i < COUNT_OF(variants); i++) {
        const variant *v = &variants[i];
        file want = begin(v);
        size_t before = 0, resumed;
        for (long k = 1;; k++) {
            const aq_status status = run_until(v, k);
            if (status == AQ_OK) break;
            cr_assert_eq(status, AQ_E_CANCELLED, "%s: %s", v->what, err.message);
            CHECK(!exists(output), "%s, stopped at %ld: there is an output", v->what, k);
            resumed = finish(v, &want, "stopped at", k);
            cr_assert_geq(resumed, before, "%s, call %ld: %zu, then %zu resumed", v->what,
                          k, before, resumed);
            before = resumed;
        }
        /* All are there when the last call, with no name, says stop. */
        cr_assert_eq(before, v->options.num_shards > 0 ? before : TENSORS, "%s: %zu",
                     v->what, before);
        remove_all();
        file_free(&want);
    }
}

/* Stopped again and again, a call later each time: it comes to its end. */
Test(resume, little_by_little) {
    for (size_t i = 0; i < COUNT_OF(variants); i++) {
        const variant *v = &variants[i];
        file want = begin(v), got;
        long runs = 1;
        /* What is measured for a target is measured in one go. */
        while (run_until(v, 3 + (v->options.target_bpw > 0 ? runs : 0)) != AQ_OK) {
            cr_assert_eq(err.status, AQ_E_CANCELLED, "%s: %s", v->what, err.message);
            cr_assert_lt(++runs, 1000, "%s does not come forward", v->what);
        }
        cr_assert_gt(runs, 1, "%s: %ld runs", v->what, runs);
        got = file_read(output);
        cr_assert(file_equal(&want, &got), "%s", v->what);
        cr_assert(!exists(part) && !exists(journal));
        file_free(&got);
        file_free(&want);
        remove_all();
    }
}

/* The report of a resumed job says what that of an undisturbed one says. */
Test(resume, report_of_a_resumed_job) {
    const variant *v = &variants[1];
    file want = begin(v), got;
    for (long k = 1; k < 40; k += 3) {
        aq_job_report a, b;
        aq_job_options o = v->options;
        o.resume = false;
        got = run_job(input, output, &o, &a);
        file_free(&got);
        remove(output);
        if (run_until(v, k) == AQ_OK) {
            aq_job_report_deinit(&a);
            break;
        }
        got = run_job(input, output, &v->options, &b);
        cr_assert(file_equal(&want, &got));
        cr_assert(a.bytes_out == b.bytes_out && a.num_failed == b.num_failed &&
                  a.num_quantized == b.num_quantized && a.worst == b.worst);
        cr_assert_eq(memcmp(&a.total, &b.total, sizeof a.total), 0);
        for (size_t i = 0; i < TENSORS; i++) {
            const aq_tensor_report *x = &a.tensors[i], *y = &b.tensors[i];
            cr_assert_eq(x->status, y->status);
            cr_assert_eq(x->error == NULL, y->error == NULL);
            if (x->error != NULL) cr_assert_str_eq(x->error, y->error);
            cr_assert_eq(x->num_attempts, y->num_attempts, "%s", x->name);
            cr_assert_arr_eq(x->attempts, y->attempts, sizeof x->attempts);
        }
        aq_job_report_deinit(&a);
        aq_job_report_deinit(&b);
        file_free(&got);
        remove(output);
    }
    remove_all();
    file_free(&want);
}

/* ---- journals ---- */

/* Stops a job after so many eighths of its calls, before the last. */
static void stop_after(const variant *v, long eighths) {
    long calls, at;
    remove_all();
    for (calls = 1; run_until(v, calls) != AQ_OK; calls++)
        remove_all();
    remove_all();
    at = calls * eighths / 8 + 1;
    ASSERT_STATUS(run_until(v, at < calls ? at : calls - 1), AQ_E_CANCELLED);
    cr_assert(exists(part) && exists(journal) && !exists(output));
}

/* The same after half of them; of what comes after the measuring for a target. */
static void stop_half_way(const variant *v) {
    stop_after(v, v->options.target_bpw > 0 ? 7 : 4);
}

/* What it has left. */
typedef struct left {
    file part, journal;
} left;

static left left_now(void) {
    left l = {file_read(part), file_read(journal)};
    cr_assert_gt(l.journal.size, 0);
    return l;
}

static left left_half_way(const variant *v) {
    stop_half_way(v);
    return left_now();
}

static void put_back(const left *l) {
    file_write(part, l->part.data, l->part.size);
    file_write(journal, l->journal.data, l->journal.size);
}

static void left_free(left *l) {
    file_free(&l->part);
    file_free(&l->journal);
}

static void damage_journal(const variant *v, size_t step) {
    file want = begin(v);
    left l = left_half_way(v);
    size_t most = 0, least = SIZE_MAX, resumed;
    for (size_t at = 0; at < l.journal.size; at += step * EVERY) {
        l.journal.data[at] ^= (uint8_t)(1 << at % 8);
        put_back(&l);
        l.journal.data[at] ^= (uint8_t)(1 << at % 8);
        resumed = finish(v, &want, "journal damaged at", (long)at);
        if (resumed < least) least = resumed;
        put_back(&l);
        cr_assert_eq(truncate(journal, (off_t)at), 0);
        resumed = finish(v, &want, "journal cut at", (long)at);
        if (resumed > most) most = resumed;
    }
    cr_assert_eq(least, 0); /* its first record */
    cr_assert_geq(most, 1, "%s", v->what);
    left_free(&l);
    file_free(&want);
}

/* A journal with any byte changed, or cut anywhere: the same file in the end. */
Test(resume, damaged_journal) {
    float values[3 * 64] = {1, 2, -3, 0.5f};
    aq_tensor t[3];
    t[0] = matrix_of("a", 8, 8, values);
    t[1] = matrix_of("b", 8, 8, values + 64);
    t[2] = matrix_of("c", 8, 8, values + 128);
    values[70] = (float)INFINITY;
    ASSERT_OK(aq_model_save(in_dir("in.safetensors"), t, 3, &fast, &err));
    damage_journal(&variants[0], 1);
    damage_journal(&variants[8], 3);
}

/* The same with records of tensors that are half done. */
Test(resume, damaged_journal_of_pieces) {
    static const size_t which[] = {1, 3, 4, 5, 8};
    for (size_t i = 0; i < COUNT_OF(which); i++)
        damage_journal(&variants[which[i]], 47);
}

/* One run with a journal that lies; what it says of metrics and checksums goes into the
 * file. */
static void run_forged(const variant *v, const left *l) {
    put_back(l);
    faults.kind = FAULT_NONE;
    if (aq_job_run(input, output, &v->options, NULL, &err) == AQ_OK) {
        cr_expect(exists(output));
    } else {
        cr_expect_neq(err.message[0], '\0');
    }
    remove_all();
}

/* Runs with each number of a record changed; its checksum is right again, so that what the
 * number says must be checked. */
static void forge_record(const variant *v, const left *l, size_t at) {
    uint8_t *record = l->journal.data + at, *body = record + sizeof(aqi_record_head);
    aqi_record_head head, forged;
    memcpy(&head, record, sizeof head);
    forged = head;
    for (size_t k = 0; k + 4 <= head.bytes; k += 4 * EVERY) {
        for (int how = 0; how < 6; how++) {
            uint32_t was, now[] = {1, 0x100, 0x10000, 0x01000000, UINT32_MAX, 0};
            memcpy(&was, body + k, sizeof was);
            if (how < 4) now[how] ^= was;
            memcpy(body + k, &now[how], sizeof was);
            forged.crc = ~aqi_crc32(UINT32_MAX, body, head.bytes);
            memcpy(record, &forged, sizeof forged);
            run_forged(v, l);
            memcpy(body + k, &was, sizeof was);
        }
    }
    memcpy(record, &head, sizeof head);
}

Test(resume, forged_journal) {
    static const size_t which[] = {2, 4, 5, 8, 11};
    for (size_t i = 0; i < COUNT_OF(which); i++) {
        const variant *v = &variants[which[i]];
        file want = begin(v);
        size_t records = 0; /* the first is compared whole */
        aqi_record_head head;
        left l;
        stop_after(v, 7);
        l = left_now();
        for (size_t at = 0; at + sizeof head <= l.journal.size; records++) {
            memcpy(&head, l.journal.data + at, sizeof head);
            if (head.bytes > l.journal.size - at - sizeof head) break;
            if (records > 0) forge_record(v, &l, at);
            at += sizeof head;
            cr_assert_eq(~aqi_crc32(UINT32_MAX, l.journal.data + at, head.bytes),
                         head.crc);
            at += head.bytes;
        }
        cr_assert_geq(records, 2, "%s", v->what);
        left_free(&l);
        file_free(&want);
    }
}

/* A part that is shorter than the journal says, or gone; or a journal that is. */
Test(resume, damaged_part) {
    static const size_t which[] = {0, 3, 5, 8};
    for (size_t i = 0; i < COUNT_OF(which); i++) {
        const variant *v = &variants[which[i]];
        file want = begin(v);
        left l = left_half_way(v);
        for (size_t bytes = 0; bytes < l.part.size;
             bytes += 1 + l.part.size / 100 * EVERY) {
            put_back(&l);
            cr_assert_eq(truncate(part, (off_t)bytes), 0);
            finish(v, &want, "part cut at", (long)bytes);
        }
        put_back(&l);
        remove(part);
        cr_assert_eq(finish(v, &want, "part removed", 0), 0);
        put_back(&l);
        remove(journal);
        cr_assert_eq(finish(v, &want, "journal removed", 0), 0);
        put_back(&l);
        cr_assert_eq(truncate(part, 10000000), 0); /* longer */
        finish(v, &want, "part longer", 0);
        remove(part);
        file_write(part, want.data, want.size); /* and of no journal */
        cr_assert_eq(truncate(part, 5000000), 0);
        finish(v, &want, "a part alone", 0);
        left_free(&l);
        file_free(&want);
    }
}

/* What another job left is not used: of other options, of an input that has changed, of
 * another input; and the output is what it would be without. */
Test(resume, journal_of_another_job) {
    for (size_t from = 0; from < COUNT_OF(variants); from++) {
        for (size_t to = 0; to < COUNT_OF(variants); to++) {
            const variant *a = &variants[from], *b = &variants[to];
            file want;
            if (strcmp(a->out, b->out) != 0 || from == to) continue;
            if ((3 * from + to) % EVERY != 0) continue;
            want = begin(a);
            file_free(&want);
            want = begin(b);
            temp_dir_file(&here, a->quantized ? "in.parquet" : "in.safetensors", input,
                          sizeof input);
            stop_half_way(a);
            temp_dir_file(&here, b->quantized ? "in.parquet" : "in.safetensors", input,
                          sizeof input);
            /* Threads and modes are the only options that a job may change on its way. */
            if (strcmp(a->what, "dequantize") == 0 || strcmp(b->what, "dequantize") == 0)
                finish(b, &want, "after the other", (long)from);
            else
                cr_assert_eq(finish(b, &want, "after another", (long)from), 0, "%s, %s",
                             a->what, b->what);
            remove_all();
            file_free(&want);
        }
    }
}

/* Options that change a byte of the output, one at a time. */
Test(resume, journal_of_other_options) {
    const variant *v = &variants[0];
    static const aq_job_options others[] = {
        {.quant = {.bits = 3}},
        {.quant = {.bits = 2, .group_size = 64}},
        {.quant = {.bits = 2, .symmetric = true}},
        {.quant = {.bits = 2, .method = AQ_MINMAX}},
        {.quant = {.bits = 2, .granularity = AQ_PER_CHANNEL}},
        {.quant = {.bits = 2, .params = AQ_PARAMS_U8}},
        {.quant = {.bits = 2, .params = AQ_PARAMS_F16}},
        {.quant = {.bits = 2, .codebook = true, .params = AQ_PARAMS_U8}},
        {.quant = {.bits = 2}, .min_cosine = 0.97},
        {.quant = {.bits = 2}, .chunk_bytes = 5000},
        {.quant = {.bits = 2}, .target_bpw = 12},
        {.quant = {.bits = 2}, .target_bytes = 150000},
        {.quant = {.bits = 2}, .num_shards = 1},
        {.operation = AQ_CONVERT}};
    for (size_t i = 0; i < COUNT_OF(others); i++) {
        variant b = *v;
        file want = begin(v);
        file_free(&want);
        b.options = others[i];
        b.options.threads = 1;
        b.options.no_sync = true;
        want = begin(&b);
        b.options.resume = true;
        stop_half_way(v);
        cr_assert_eq(finish(&b, &want, "after other options", (long)i), 0);
        file_free(&want);
    }
}

/* Another model under the input's name; and the same one after a change. */
Test(resume, journal_of_another_input) {
    const variant *v = &variants[0];
    for (int k = 0; k < 3; k++) {
        file want = begin(v), model = file_read(input);
        struct timespec times[2] = {{0, UTIME_NOW}, {1000000, 0}};
        file_free(&want);
        stop_half_way(v);
        if (k == 0) { /* a file of the same size takes its place */
            float x = 3;
            memcpy(model.data + model.size - 5000, &x, sizeof x);
            file_write(in_dir("new"), model.data, model.size);
            cr_assert_eq(rename(in_dir("new"), input), 0);
        } else if (k == 1) { /* it is longer */
            float more[64] = {1};
            aq_tensor t = matrix_of("a", 8, 8, more);
            ASSERT_OK(aq_model_save(input, &t, 1, &fast, &err));
        } else { /* written to, at another time */
            model.data[model.size - 5000] ^= 1;
            file_write(input, model.data, model.size);
            cr_assert_eq(utimensat(AT_FDCWD, input, times, 0), 0);
        }
        temp_dir_file(&here, "other.parquet", output, sizeof output);
        want = run_job(input, output, &v->options, NULL);
        remove(output);
        temp_dir_file(&here, v->out, output, sizeof output);
        cr_assert_eq(finish(v, &want, "after another input", k), 0);
        file_free(&want);
        file_free(&model);
        remove(input);
    }
}

/* A large safetensors output that was not finished, then a small one of the same name. */
Test(resume, part_of_a_larger_job) {
    const variant *v = &variants[8];
    float values[64] = {1, 2, 3};
    aq_tensor t = matrix_of("a", 8, 8, values);
    file want = begin(v);
    file_free(&want);
    stop_half_way(v);
    remove(input);
    ASSERT_OK(aq_model_save(input, &t, 1, &fast, &err));
    temp_dir_file(&here, "other.safetensors", output, sizeof output);
    want = run_job(input, output, &v->options, NULL);
    temp_dir_file(&here, v->out, output, sizeof output);
    cr_assert_eq(finish(v, &want, "after a larger one", 0), 0);
    file_free(&want);
}

/* ---- two at a time ---- */

/* What another process would see, between two pieces of the first job. */
typedef struct second {
    const variant *v;
    size_t tried;
} second;

static bool run_second(void *user, const aq_progress *p) {
    second *s = user;
    aq_error e;
    (void)p;
    cr_assert_eq(aq_job_run(input, output, &s->v->options, NULL, &e), AQ_E_IO);
    cr_assert_eq(e.os_errno, EBUSY);
    cr_assert(strstr(e.message, "another job") != NULL, "%s", e.message);
    s->tried++;
    return true;
}

Test(resume, two_jobs_on_one_output) {
    for (size_t i = 0; i < COUNT_OF(variants); i++) {
        const variant *v = &variants[i];
        file want = begin(v), got;
        second s = {v, 0};
        aq_job_options o = v->options;
        o.progress.fn = run_second;
        o.progress.user = &s;
        got = run_job(input, output, &o, NULL);
        cr_assert(file_equal(&want, &got), "%s", v->what);
        cr_assert_gt(s.tried, 2);
        cr_assert(!exists(part) && !exists(journal));
        file_free(&got);
        file_free(&want);
        remove(output);
    }
}

/* The journal or the part alone is held by somebody. */
Test(resume, locked_files) {
    const variant *v = &variants[0];
    file want = begin(v);
    for (int k = 0; k < 2; k++) {
        int fd;
        stop_half_way(v);
        fd = open(k == 0 ? journal : part, O_RDWR);
        cr_assert_geq(fd, 0);
        cr_assert_eq(flock(fd, LOCK_EX), 0);
        ASSERT_STATUS(aq_job_run(input, output, &v->options, NULL, &err), AQ_E_IO);
        cr_assert_eq(err.os_errno, EBUSY);
        cr_assert(exists(part) && exists(journal) && !exists(output));
        close(fd);
        cr_assert_gt(finish(v, &want, "was locked", k), 0);
    }
    file_free(&want);
}

/* ---- what is left ---- */

/* A tensor that is not good enough is the same error each time, also where it was the
 * last thing that the run before has seen. */
Test(resume, the_same_error_again) {
    variant v = variants[1];
    file want = begin(&v);
    const size_t before = temp_dir_entries(here.path);
    aq_error first;
    file_free(&want);
    v.options.fail_fast = true;
    for (uint32_t threads = 1; threads <= 4; threads += 3) {
        for (int k = 0; k < 4; k++) {
            v.options.threads = threads;
            v.options.min_cosine = 0.9999;
            ASSERT_STATUS(aq_job_run(input, output, &v.options, NULL, &err),
                          AQ_E_QUALITY);
            if (k == 0) first = err;
            cr_assert_str_eq(err.message, first.message);
            cr_assert_not(exists(output));
        }
        remove_all();
        for (int k = 0; k < 4; k++) { /* the NaN of t2 */
            v.options.min_cosine = 0;
            ASSERT_STATUS(aq_job_run(input, output, &v.options, NULL, &err),
                          AQ_E_NONFINITE);
            if (k == 0) first = err;
            cr_assert_str_eq(err.message, first.message);
            cr_assert_not(exists(output));
        }
        remove_all();
        cr_assert_eq(temp_dir_entries(here.path), before);
    }
}

/* Errors that come before anything was done leave nothing, of a resumable job, too. */
Test(resume, errors_that_leave_nothing) {
    const variant *v = &variants[0];
    file want = begin(v);
    aq_job_options o = v->options;
    const size_t before = temp_dir_entries(here.path);
    o.target_bytes = 1;
    ASSERT_STATUS(aq_job_run(input, output, &o, NULL, &err), AQ_E_QUALITY);
    cr_assert_eq(temp_dir_entries(here.path), before);
    o = v->options;
    ASSERT_STATUS(aq_job_run(input, input, &o, NULL, &err), AQ_E_ARG);
    cr_assert_eq(temp_dir_entries(here.path), before);
    o.max_memory_bytes = 100;
    ASSERT_STATUS(aq_job_run(input, output, &o, NULL, &err), AQ_E_LIMIT);
    cr_assert_not(exists(output));
    remove_all();
    cr_assert_eq(mkdir(output, 0700), 0);
    ASSERT_STATUS(aq_job_run(input, output, &v->options, NULL, &err), AQ_E_ARG);
    cr_assert_eq(temp_dir_entries(here.path), before + 1);
    cr_assert_eq(rmdir(output), 0);
    /* An error leaves what an earlier run has done. */
    stop_half_way(v);
    o = v->options;
    o.max_memory_bytes = 100; /* an option that no byte depends on */
    ASSERT_STATUS(aq_job_run(input, output, &o, NULL, &err), AQ_E_LIMIT);
    cr_assert_gt(finish(v, &want, "after an error", 0), 1);
    file_free(&want);
}

/* An output of an earlier job is replaced when the new one is whole, not before. */
Test(resume, older_output) {
    const variant *v = &variants[0];
    file want = begin(v), old, got;
    stop_half_way(v);
    file_write(output, "old", 3);
    ASSERT_STATUS(run_until(v, 1), AQ_E_CANCELLED);
    old = file_read(output);
    cr_assert(old.size == 3 && memcmp(old.data, "old", 3) == 0);
    got = run_job(input, output, &v->options, NULL);
    cr_assert(file_equal(&want, &got));
    file_free(&old);
    file_free(&got);
    file_free(&want);
}
