/* test_jobs.c - jobs: the same bytes for any mode, threads, memory and way of reading,
 * and those of aq_quantize_into; tensors done again; sizes met; directories; shards;
 * damage; and nothing left by what fails. */
#include "cells.h"
#include "jobs.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/statvfs.h>

TestSuite(jobs, .init = enter_fast_dir, .fini = leave_temp_dir, .timeout = 120);

/* ---- the same bytes ---- */

static void sequential_run(void *user, size_t n, void (*fn)(void *, size_t), void *arg) {
    (void)user;
    for (size_t i = 0; i < n; i++)
        fn(arg, i);
}

static const aq_tasks sequential_tasks = {sequential_run, NULL, 5};

/* Ways to run a job, none of which may show in a byte. */
static const struct {
    const char *what;
    aq_job_mode mode;
    uint32_t threads;
    const aq_tasks *tasks;
    uint64_t memory;
    aq_io io;
} ways[] = {
    {"streaming", AQ_JOB_STREAMING, 1, NULL, 0, AQ_IO_AUTO},
    {"parallel", AQ_JOB_PARALLEL, 1, NULL, 0, AQ_IO_AUTO},
    {"3 threads", AQ_JOB_STREAMING, 3, NULL, 0, AQ_IO_AUTO},
    {"parallel, 4 threads", AQ_JOB_PARALLEL, 4, NULL, 0, AQ_IO_MAP},
    {"16 threads", AQ_JOB_STREAMING, 16, NULL, 0, AQ_IO_READ},
    {"parallel, 16 threads", AQ_JOB_PARALLEL, 16, NULL, 0, AQ_IO_READ},
    {"8 MiB", AQ_JOB_STREAMING, 2, NULL, 8 << 20, AQ_IO_READ},
    {"3 MiB", AQ_JOB_STREAMING, 7, NULL, 3 << 20, AQ_IO_AUTO},
    {"parallel, 8 MiB", AQ_JOB_PARALLEL, 5, NULL, 8 << 20, AQ_IO_AUTO},
    {"backwards", AQ_JOB_STREAMING, 0, &reverse_tasks, 0, AQ_IO_AUTO},
    {"one after another", AQ_JOB_PARALLEL, 0, &sequential_tasks, 0, AQ_IO_AUTO},
    {"one after another, 3 MiB", AQ_JOB_STREAMING, 0, &sequential_tasks, 3 << 20,
     AQ_IO_READ},
};

static aq_job_options way_of(const aq_job_options *base, size_t k) {
    aq_job_options o = *base;
    o.mode = ways[k].mode;
    o.threads = ways[k].threads;
    o.tasks = ways[k].tasks;
    o.max_memory_bytes = ways[k].memory;
    o.io = ways[k].io;
    o.no_sync = true;
    return o;
}

static aq_job_options random_options(rng *r) {
    static const uint32_t bits[] = {2, 3, 4, 5, 6, 8};
    aq_job_options o = {.no_sync = true};
    aq_quant_options *q = &o.quant;
    q->bits = bits[rng_below(r, COUNT_OF(bits))];
    q->group_size = 8 + rng_below(r, 200);
    q->granularity = (aq_granularity)rng_below(r, 3);
    q->symmetric = rng_below(r, 2) == 0;
    q->method = (aq_method)rng_below(r, 3);
    if (q->granularity != AQ_PER_TENSOR) q->params = (aq_params)rng_below(r, 3);
    if (q->granularity != AQ_PER_TENSOR && !q->symmetric && rng_below(r, 4) == 0) {
        q->codebook = true;
        q->params = AQ_PARAMS_U8;
        q->bits = rng_below(r, 2) == 0 ? 2 : 4;
    }
    if (rng_below(r, 2) == 0) o.chunk_bytes = 5000 + rng_below(r, 30000);
    if (rng_below(r, 2) == 0) o.min_cosine = 0.9 + 0.0001 * (double)rng_below(r, 1000);
    if (o.min_cosine == 0.0 && rng_below(r, 3) == 0)
        o.target_bpw = 4 + 0.1 * (double)rng_below(r, 120);
    return o;
}

/* Each tensor of the output against the library's own call, and the report. */
static void check_output(const char *in, const char *out, const aq_job_options *o,
                         const aq_job_report *r) {
    aq_model *a, *b;
    ASSERT_OK(aq_model_open(in, NULL, &a, &err));
    ASSERT_OK(aq_model_open(out, NULL, &b, &err));
    cr_assert_eq(aq_model_count(a), aq_model_count(b));
    cr_assert_eq(aq_model_count(a), r->num_tensors);
    for (size_t i = 0; i < r->num_tensors; i++) {
        const aq_tensor_report *k = &r->tensors[i];
        aq_tensor x, y;
        ASSERT_OK(aq_model_tensor(a, i, &x, &err));
        ASSERT_OK(aq_model_tensor(b, i, &y, &err));
        cr_assert_str_eq(x.name, y.name);
        cr_assert_eq(k->tensor.layout.bits, y.layout.bits);
        if (y.layout.bits != 0) {
            expect_quantized(&y, &x, &o->quant, o->chunk_bytes == 0);
            CHECK(y.cosine == k->metrics.cosine && y.sqnr_db == k->metrics.sqnr_db,
                  "%s: the report has another cosine", k->name);
            CHECK(k->status == AQ_OK && k->error == NULL, "%s: %s", k->name, k->error);
        } else {
            CHECK(y.data_bytes == x.data_bytes && y.dtype == x.dtype &&
                      (x.data_bytes == 0 || memcmp(x.data, y.data, x.data_bytes) == 0),
                  "%s: kept otherwise than it came", k->name);
        }
        aq_tensor_release(&x);
        aq_tensor_release(&y);
    }
    aq_model_close(a);
    aq_model_close(b);
}

static bool same_reports(const aq_job_report *a, const aq_job_report *b) {
    if (a->num_tensors != b->num_tensors || a->bytes_out != b->bytes_out ||
        a->num_failed != b->num_failed || a->num_quantized != b->num_quantized ||
        a->worst != b->worst || memcmp(&a->total, &b->total, sizeof a->total) != 0)
        return false;
    for (size_t i = 0; i < a->num_tensors; i++) {
        const aq_tensor_report *x = &a->tensors[i], *y = &b->tensors[i];
        if (strcmp(x->name, y->name) != 0 || x->status != y->status ||
            x->bytes_in != y->bytes_in || x->bytes_out != y->bytes_out ||
            x->num_attempts != y->num_attempts ||
            memcmp(x->attempts, y->attempts, sizeof x->attempts) != 0 ||
            memcmp(&x->metrics, &y->metrics, sizeof x->metrics) != 0 ||
            (x->error == NULL) != (y->error == NULL) ||
            (x->error != NULL && strcmp(x->error, y->error) != 0))
            return false;
    }
    return true;
}

/* One job in every way; its output, or no data when it fails (in every way alike). */
static file run_all_ways(const char *in, const char *out, const aq_job_options *base,
                         bool check) {
    file first = {NULL, 0};
    aq_status wanted = AQ_OK;
    aq_error first_err;
    aq_job_report report, r;
    for (size_t k = 0; k < COUNT_OF(ways); k++) {
        const aq_job_options o = way_of(base, k);
        aq_status status = aq_job_run(in, out, &o, &r, &err);
        file f;
        if (k == 0) wanted = status;
        if (k == 0) first_err = err;
        cr_assert_eq(status, wanted, "%s: %s", ways[k].what, err.message);
        if (status != AQ_OK) {
            cr_assert_str_eq(err.message, first_err.message, "%s", ways[k].what);
            cr_assert_not(exists(out));
            continue;
        }
        f = file_read(out);
        if (k == 0) {
            first = f;
            report = r;
            if (check) check_output(in, out, base, &r);
        } else {
            cr_assert(file_equal(&first, &f), "%s: other bytes", ways[k].what);
            cr_assert(same_reports(&report, &r), "%s: another report", ways[k].what);
            file_free(&f);
            aq_job_report_deinit(&r);
        }
    }
    if (wanted == AQ_OK) aq_job_report_deinit(&report);
    return first;
}

static void random_round(uint64_t seed) {
    rng r = {seed};
    const bool safetensors = rng_below(&r, 2) == 0;
    aq_model_writer_options wo = fast;
    aq_job_options o;
    random_model m;
    char in[512], quantized[512];
    file f;
    random_model_make(&m, &r, true);
    if (rng_below(&r, 3) == 0) wo.chunk_bytes = 1000 + rng_below(&r, 100000);
    o = random_options(&r);
    temp_dir_file(&here, safetensors ? "in.safetensors" : "in.parquet", in, sizeof in);
    temp_dir_file(&here, "q.parquet", quantized, sizeof quantized);
    ASSERT_OK(aq_model_save(in, m.tensors, m.count, &wo, &err));
    f = run_all_ways(in, quantized, &o, true);
    if (f.data != NULL) {
        aq_job_options back = {.operation = AQ_DEQUANTIZE}, convert = {0};
        convert.operation = AQ_CONVERT;
        file_free(&f);
        f = run_all_ways(quantized, in_dir("d.safetensors"), &back, false);
        file_free(&f);
        back.chunk_bytes = 7000;
        f = run_all_ways(quantized, in_dir("d.parquet"), &back, false);
        file_free(&f);
        convert.chunk_bytes = 1000 + rng_below(&r, 20000);
        f = run_all_ways(quantized, in_dir("c.parquet"), &convert, false);
        file_free(&f);
    }
    f = run_all_ways(in, in_dir("c2.safetensors"),
                     &(aq_job_options){.operation = AQ_CONVERT}, false);
    file_free(&f);
    random_model_free(&m);
    temp_path_remove(in);
    temp_path_remove(quantized);
    temp_path_remove(in_dir("d.safetensors"));
    temp_path_remove(in_dir("d.parquet"));
    temp_path_remove(in_dir("c.parquet"));
    temp_path_remove(in_dir("c2.safetensors"));
    cr_assert_eq(temp_dir_entries(here.path), 0);
}

Test(jobs, random_models_a) {
    for (uint64_t seed = 1; seed <= 8; seed++)
        random_round(seed);
}

Test(jobs, random_models_b) {
    for (uint64_t seed = 101; seed <= 108; seed++)
        random_round(seed);
}

/* Values survive the way there and back: floats of a converted model are the same bits,
 * and dequantized ones those of aq_tensor_rows_f32. */
Test(jobs, converted_and_dequantized_values) {
    for (uint64_t seed = 201; seed <= 206; seed++) {
        aq_job_options q = {.no_sync = true}, back = {.operation = AQ_DEQUANTIZE};
        rng r = {seed};
        random_model m;
        aq_model *a, *b;
        random_model_make(&m, &r, false);
        q.chunk_bytes = 3000 * (seed % 3);
        q.quant.params = (aq_params)(seed % 3);
        back.no_sync = true;
        back.max_memory_bytes = 4 << 20;
        ASSERT_OK(aq_model_save(in_dir("m.parquet"), m.tensors, m.count, &fast, &err));
        ASSERT_OK(aq_job_run(in_dir("m.parquet"), in_dir("q.parquet"), &q, NULL, &err));
        ASSERT_OK(
            aq_job_run(in_dir("q.parquet"), in_dir("f.parquet"), &back, NULL, &err));
        ASSERT_OK(aq_model_open(in_dir("q.parquet"), NULL, &a, &err));
        ASSERT_OK(aq_model_open(in_dir("f.parquet"), NULL, &b, &err));
        for (size_t i = 0; i < m.count; i++) {
            aq_tensor x, y;
            float *want;
            ASSERT_OK(aq_model_tensor(a, i, &x, &err));
            ASSERT_OK(aq_model_tensor(b, i, &y, &err));
            cr_assert_eq(y.layout.bits, 0);
            cr_assert(y.num_dims == x.num_dims && y.num_params == x.num_params);
            if (x.layout.bits == 0) {
                cr_assert(x.data_bytes == y.data_bytes && x.dtype == y.dtype);
                if (x.data_bytes > 0) cr_assert_arr_eq(x.data, y.data, x.data_bytes);
            } else {
                want = malloc(y.data_bytes + 1);
                ASSERT_OK(aq_tensor_rows_f32(&x, 0, x.layout.rows, want, NULL, &err));
                turn_le(want, y.data_bytes / sizeof *want, sizeof *want);
                cr_assert_eq(y.dtype, AQ_F32);
                cr_assert_arr_eq(y.data, want, y.data_bytes);
                free(want);
            }
            aq_tensor_release(&x);
            aq_tensor_release(&y);
        }
        aq_model_close(a);
        aq_model_close(b);
        random_model_free(&m);
    }
}

/* Every number of threads, with tensors that are done again. */
Test(jobs, any_number_of_threads) {
    rng r = {77};
    random_model m;
    file first = {NULL, 0};
    random_model_make(&m, &r, true);
    while (m.count < 9) { /* one that has something to do again */
        random_model_free(&m);
        random_model_make(&m, &r, true);
    }
    ASSERT_OK(aq_model_save(in_dir("m.safetensors"), m.tensors, m.count, &fast, &err));
    for (uint32_t threads = 1; threads <= 16; threads++) {
        for (int mode = 0; mode < 2; mode++) {
            aq_job_options o = {.mode = (aq_job_mode)mode, .threads = threads};
            file f;
            o.quant.bits = 2;
            o.min_cosine = 0.95;
            o.no_sync = true;
            f = run_job(in_dir("m.safetensors"), in_dir("q.parquet"), &o, NULL);
            if (first.data == NULL) {
                first = f;
                continue;
            }
            cr_assert(file_equal(&first, &f), "%u threads, mode %d", threads, mode);
            file_free(&f);
        }
    }
    file_free(&first);
    random_model_free(&m);
}

/* ---- memory ---- */

/* The least that an error says to allow. */
static uint64_t allowed_by(const aq_error *e) {
    const char *text = strstr(e->message, "allow ");
    cr_assert_not_null(text, "no minimum in \"%s\"", e->message);
    return strtoull(text + strlen("allow "), NULL, 10);
}

/* One float32 matrix "w". */
static void save_matrix(const char *path, size_t rows, size_t cols) {
    float *values = wave(rows * cols, rows);
    aq_tensor t = matrix_of("w", rows, cols, values);
    ASSERT_OK(aq_model_save(path, &t, 1, &fast, &err));
    free(values);
}

static void expect_minimum(const char *in, const char *out, aq_job_options o) {
    uint64_t least = 1;
    file unbounded, f;
    o.max_memory_bytes = 0;
    unbounded = run_job(in, out, &o, NULL);
    temp_path_remove(out);
    o.max_memory_bytes = least;
    ASSERT_STATUS(aq_job_run(in, out, &o, NULL, &err), AQ_E_LIMIT);
    ASSERT_MESSAGE("memory", "tensor \"w\"");
    cr_assert_not(exists(out));
    least = allowed_by(&err);
    cr_assert_gt(least, 1);
    o.max_memory_bytes = least - 1;
    ASSERT_STATUS(aq_job_run(in, out, &o, NULL, &err), AQ_E_LIMIT);
    cr_assert_eq(allowed_by(&err), least);
    o.max_memory_bytes = least;
    f = run_job(in, out, &o, NULL);
    cr_assert(file_equal(&unbounded, &f), "other bytes with %llu bytes of memory",
              (unsigned long long)least);
    file_free(&f);
    file_free(&unbounded);
}

/* Too little memory is an error that says how much is enough; so much is enough. */
Test(jobs, least_memory) {
    static const size_t shapes[][2] = {{40, 300}, {3, 90000}, {2000, 7}};
    static const aq_quant_options quants[] = {
        {.bits = 4}, {.bits = 2, .params = AQ_PARAMS_U8}, {.granularity = AQ_PER_TENSOR}};
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        save_matrix(in_dir("m.safetensors"), shapes[i][0], shapes[i][1]);
        for (size_t k = 0; k < COUNT_OF(quants); k++) {
            aq_job_options o = {.quant = quants[k], .no_sync = true};
            for (uint32_t threads = 1; threads <= 4; threads += 3) {
                o.operation = AQ_QUANTIZE;
                o.threads = threads;
                o.io = AQ_IO_READ;
                expect_minimum(in_dir("m.safetensors"), in_dir("q.parquet"), o);
                o.io = AQ_IO_AUTO;
                expect_minimum(in_dir("m.safetensors"), in_dir("q.parquet"), o);
                o.operation = AQ_DEQUANTIZE;
                expect_minimum(in_dir("q.parquet"), in_dir("d.safetensors"), o);
            }
        }
    }
}

/* The memory that a job takes from its allocator stays near max_memory_bytes, whatever
 * the size of a tensor: 16 MiB here. */
Test(jobs, memory_is_bounded) {
    enum { BUDGET = 1 << 20 };
    static const aq_io ios[] = {AQ_IO_MAP, AQ_IO_READ};
    save_matrix(in_dir("m.safetensors"), 4096, 1024);
    for (size_t i = 0; i < COUNT_OF(ios); i++) {
        for (uint32_t threads = 1; threads <= 8; threads *= 2) {
            aq_job_options o = {.threads = threads, .io = ios[i], .no_sync = true};
            counting_allocator c;
            counting_init(&c);
            o.allocator = &c.hooks;
            o.max_memory_bytes = BUDGET;
            ASSERT_OK(
                aq_job_run(in_dir("m.safetensors"), in_dir("q.parquet"), &o, NULL, &err));
            cr_assert(counting_is_clean(&c));
            /* Beside the pieces: the output's buffer, reports of tiles, the threads. */
            cr_expect_lt(c.peak_bytes, BUDGET + (1 << 20), "%zu bytes, %u threads",
                         c.peak_bytes, threads);
        }
    }
}

/* ---- tensors that are done again ---- */

/* Has a tensor that 2 bits suit (two values a group), noise, and noise whose groups are
 * spoiled by one large value each. */
static void save_gate_model(const char *path) {
    enum { ROWS = 24, COLS = 256 };
    static float easy[ROWS * COLS], noise[ROWS * COLS], hard[ROWS * COLS];
    rng r = {31};
    aq_tensor t[4];
    for (size_t i = 0; i < COUNT_OF(easy); i++)
        easy[i] = (i * 7 / 3) % 2 == 0 ? 1.0f : -2.0f;
    rng_floats(&r, noise, COUNT_OF(noise), 1.0f);
    rng_floats(&r, hard, COUNT_OF(hard), 0.001f);
    for (size_t i = 0; i < COUNT_OF(hard); i += 64)
        hard[i] = 1.0f;
    t[0] = matrix_of("easy", ROWS, COLS, easy);
    t[1] = matrix_of("hard", ROWS, COLS, hard);
    t[2] = matrix_of("noise", ROWS, COLS, noise);
    t[3] = matrix_of("noise2", COLS, ROWS, noise);
    ASSERT_OK(aq_model_save(path, t, 4, &fast, &err));
}

/* Cosine of a tensor at a width, by the library's own call. */
static double cosine_at(const aq_tensor *t, const aq_quant_options *options,
                        uint32_t bits) {
    aq_quant_options q = *options;
    aq_layout l;
    aq_quantized d;
    aq_metrics m;
    q.bits = bits;
    if (bits == 8) q.codebook = false;
    ASSERT_OK(aq_layout_init(t->layout.rows, t->layout.cols, &q, &l, &err));
    d.codes = malloc(l.code_bytes + 1);
    d.scales = malloc(l.num_groups * sizeof(float) + 1);
    d.zero_points = malloc(l.num_groups * sizeof(float) + 1);
    d.params = malloc(l.params_bytes + 1);
    ASSERT_OK(aq_quantize_into(&l, t->data, t->dtype, &d, NULL, &m, &err));
    free(d.codes);
    free(d.scales);
    free(d.zero_points);
    free(d.params);
    return m.cosine;
}

/* The steps that a tensor must go: from the first width up until it is good enough, and
 * kept (0 bits) where 8 are not. */
static uint32_t expect_attempts(const aq_tensor_report *r, const aq_tensor *t,
                                const aq_job_options *o) {
    uint32_t bits = o->quant.bits, n = 0;
    for (;;) {
        const double cosine = cosine_at(t, &o->quant, bits);
        cr_assert_lt(n, r->num_attempts, "%s", r->name);
        cr_assert_eq(r->attempts[n].bits, bits, "%s", r->name);
        cr_assert(r->attempts[n].cosine == cosine, "%s: %.17g, not %.17g", r->name,
                  r->attempts[n].cosine, cosine);
        n++;
        if (cosine >= o->min_cosine) break;
        if (bits == 8) bits = 0;
        if (bits == 0) break;
        bits = bits < 4 ? 4 : 8;
    }
    cr_assert_eq(r->num_attempts, n, "%s", r->name);
    return bits;
}

/* Raises a threshold over all that can happen: each tensor ends at the width that its own
 * measurements ask for, and is stored as they say. */
Test(jobs, min_cosine) {
    static const double least[] = {0.5,      0.9,       0.95,         0.99,
                                   0.995,    0.999,     0.9995,       0.99995,
                                   0.999999, 0.9999999, 0.9999999999, 1};
    static const aq_quant_options quants[] = {
        {.bits = 2},
        {.bits = 2, .codebook = true, .params = AQ_PARAMS_U8},
        {.bits = 3, .granularity = AQ_PER_CHANNEL},
        {.bits = 5},
        {.bits = 8},
        {.bits = 2, .granularity = AQ_PER_TENSOR}};
    bool seen[9] = {false};
    aq_model *m;
    save_gate_model(in_dir("m.safetensors"));
    ASSERT_OK(aq_model_open(in_dir("m.safetensors"), NULL, &m, &err));
    for (size_t q = 0; q < COUNT_OF(quants); q++) {
        for (size_t k = 0; k < COUNT_OF(least); k++) {
            aq_job_options o = {.quant = quants[q], .no_sync = true};
            aq_job_report r;
            o.min_cosine = least[k];
            o.threads = 1 + (uint32_t)(k % 4);
            o.mode = (aq_job_mode)(q % 2);
            ASSERT_OK(
                aq_job_run(in_dir("m.safetensors"), in_dir("q.parquet"), &o, &r, &err));
            check_output(in_dir("m.safetensors"), in_dir("q.parquet"), &o, &r);
            cr_assert_eq(r.num_failed, 0);
            for (size_t i = 0; i < r.num_tensors; i++) {
                aq_tensor t;
                uint32_t bits;
                ASSERT_OK(aq_model_tensor(m, i, &t, &err));
                bits = expect_attempts(&r.tensors[i], &t, &o);
                cr_assert_eq(r.tensors[i].tensor.layout.bits, bits, "%s", t.name);
                cr_assert(bits == 0 || r.tensors[i].metrics.cosine >= least[k]);
                cr_assert_eq(r.tensors[i].metrics.count, bits == 0 ? 0 : t.num_params);
                seen[bits] = true;
                aq_tensor_release(&t);
            }
            aq_job_report_deinit(&r);
        }
    }
    aq_model_close(m);
    cr_assert(seen[0] && seen[2] && seen[3] && seen[4] && seen[5] && seen[8]);
}

/* Two of the tensors miss: the first of them, by name, is the error. */
Test(jobs, min_cosine_fail_fast) {
    save_gate_model(in_dir("m.safetensors"));
    for (size_t k = 0; k < COUNT_OF(ways); k++) {
        aq_job_options base = {.quant = {.bits = 2}, .min_cosine = 0.97}, o;
        base.fail_fast = true;
        o = way_of(&base, k);
        ASSERT_STATUS(
            aq_job_run(in_dir("m.safetensors"), in_dir("q.parquet"), &o, NULL, &err),
            AQ_E_QUALITY);
        cr_assert_str_eq(err.name, "noise", "%s: %s", ways[k].what, err.message);
        ASSERT_MESSAGE("quality", "with 2 bits");
        cr_assert_eq(temp_dir_entries(here.path), 1);
        o.min_cosine = 0.3; /* none misses it */
        ASSERT_OK(
            aq_job_run(in_dir("m.safetensors"), in_dir("q.parquet"), &o, NULL, &err));
        temp_path_remove(in_dir("q.parquet"));
    }
}

/* ---- tensors that hold NaN ---- */

typedef struct nan_place {
    size_t tensor, row, col;
} nan_place;

enum { NAN_TENSORS = 5, NAN_ROWS = 30, NAN_COLS = 2500 };

/* A NaN, or an infinity of a tensor with an odd number, at each place. */
static void save_nan_model(const char *path, const nan_place *places, size_t n) {
    static const aq_dtype dtypes[NAN_TENSORS] = {AQ_F32, AQ_F16, AQ_BF16, AQ_F64, AQ_F32};
    static const uint64_t shape[2] = {NAN_ROWS, NAN_COLS};
    static const char *const names[NAN_TENSORS] = {"a", "b", "c", "d", "e"};
    uint8_t *data[NAN_TENSORS];
    aq_tensor t[NAN_TENSORS];
    rng r = {5};
    for (size_t i = 0; i < NAN_TENSORS; i++) {
        data[i] = random_values(&r, dtypes[i], NAN_ROWS * NAN_COLS, 1);
        t[i] = tensor_of(names[i], dtypes[i], shape, 2, data[i]);
        for (size_t k = 0; k < n; k++) {
            const float bad = i % 2 == 0 ? (float)NAN : (float)-INFINITY;
            size_t at = places[k].row * NAN_COLS + places[k].col;
            if (places[k].tensor == i)
                ASSERT_OK(aq_from_f32(&bad, 1, data[i] + at * aq_dtype_bytes(dtypes[i]),
                                      dtypes[i], &err));
        }
    }
    ASSERT_OK(aq_model_save(path, t, NAN_TENSORS, &fast, &err));
    for (size_t i = 0; i < NAN_TENSORS; i++)
        free(data[i]);
}

/* The first bad value of a tensor, in row order; false: it has none. */
static bool first_bad(const nan_place *places, size_t n, size_t tensor, nan_place *out) {
    bool found = false;
    for (size_t k = 0; k < n; k++) {
        if (places[k].tensor != tensor) continue;
        if (!found ||
            places[k].row * NAN_COLS + places[k].col < out->row * NAN_COLS + out->col)
            *out = places[k];
        found = true;
    }
    return found;
}

static const struct {
    size_t n;
    nan_place places[4];
} nan_cases[] = {
    {1, {{0, 0, 0}}},
    {1, {{4, NAN_ROWS - 1, NAN_COLS - 1}}},
    {2, {{2, 17, 2400}, {2, 3, 1}}},
    {3, {{1, 29, 0}, {3, 0, NAN_COLS - 1}, {4, 12, 345}}},
    {4, {{0, 9, 9}, {1, 8, 8}, {2, 7, 7}, {3, 6, 6}}},
};

/* It is kept and reported, with its place in the whole tensor; or it is the error. */
Test(jobs, nonfinite_tensors) {
    for (size_t c = 0; c < COUNT_OF(nan_cases); c++) {
        const nan_place *places = nan_cases[c].places;
        const size_t n = nan_cases[c].n;
        save_nan_model(in_dir("m.safetensors"), places, n);
        for (size_t k = 0; k < COUNT_OF(ways); k++) {
            aq_job_options base = {.quant = {.granularity = (aq_granularity)(k % 3)}}, o;
            aq_job_report r;
            nan_place bad;
            char text[64];
            size_t failed = 0, first = SIZE_MAX;
            o = way_of(&base, k);
            ASSERT_OK(
                aq_job_run(in_dir("m.safetensors"), in_dir("q.parquet"), &o, &r, &err));
            check_output(in_dir("m.safetensors"), in_dir("q.parquet"), &o, &r);
            for (size_t i = 0; i < NAN_TENSORS; i++) {
                const aq_tensor_report *t = &r.tensors[i];
                const bool is_bad = first_bad(places, n, i, &bad);
                cr_assert_eq(t->status, is_bad ? AQ_E_NONFINITE : AQ_OK);
                cr_assert_eq(t->tensor.layout.bits, is_bad ? 0u : 4u);
                cr_assert_eq(t->metrics.count, is_bad ? 0 : NAN_ROWS * NAN_COLS);
                cr_assert_eq(t->bytes_out == t->bytes_in, is_bad);
                if (!is_bad) continue;
                failed++;
                if (first == SIZE_MAX) first = i;
                snprintf(text, sizeof text, "row %zu, column %zu", bad.row, bad.col);
                cr_assert(strstr(t->error, text) != NULL, "%s: no \"%s\" in \"%s\"",
                          ways[k].what, text, t->error);
            }
            cr_assert_eq(r.num_failed, failed);
            cr_assert_eq(r.num_quantized, NAN_TENSORS - failed);
            aq_job_report_deinit(&r);
            temp_path_remove(in_dir("q.parquet"));
            o.fail_fast = true;
            ASSERT_STATUS(
                aq_job_run(in_dir("m.safetensors"), in_dir("q.parquet"), &o, NULL, &err),
                AQ_E_NONFINITE);
            first_bad(places, n, first, &bad);
            snprintf(text, sizeof text, "row %zu, column %zu", bad.row, bad.col);
            ASSERT_MESSAGE(ways[k].what, text);
            cr_assert(err.name[0] == "abcde"[first] && err.name[1] == '\0');
            cr_assert_eq(temp_dir_entries(here.path), 1);
        }
    }
}

/* ---- a size to meet ---- */

enum { FIT_TENSORS = 6, RATES = 4 };

static const uint32_t rate_bits[RATES] = {2, 4, 8, 0};

/* What each tensor takes and loses at each width, by the library's own calls. */
typedef struct curve {
    uint64_t bytes[RATES];
    double loss[RATES];
} curve;

static curve curve_of(const aq_tensor *t, const aq_quant_options *how) {
    curve c = {{0}, {0}};
    c.bytes[RATES - 1] = t->data_bytes;
    for (int k = 0; k < RATES - 1; k++) {
        aq_quant_options q = *how;
        aq_layout l;
        aq_metrics m;
        aq_quantized d;
        q.bits = rate_bits[k];
        if (q.bits == 8) q.codebook = false;
        ASSERT_OK(aq_layout_init(t->layout.rows, t->layout.cols, &q, &l, &err));
        d.codes = malloc(l.code_bytes);
        d.scales = malloc(l.num_groups * sizeof(float));
        d.zero_points = malloc(l.num_groups * sizeof(float));
        d.params = malloc(l.params_bytes + 1);
        ASSERT_OK(aq_quantize_into(&l, t->data, t->dtype, &d, NULL, &m, &err));
        c.bytes[k] =
            l.code_bytes + (l.params != AQ_PARAMS_F32 ? l.params_bytes
                                                      : 2 * sizeof(float) * l.num_groups);
        c.loss[k] = m.sum_dd / m.sum_aa * (double)m.count;
        free(d.codes);
        free(d.scales);
        free(d.zero_points);
        free(d.params);
    }
    return c;
}

/* Matrices of several sizes, types and spreads, a vector that is always kept. */
static void save_fit_model(const char *path, uint64_t seed, const aq_quant_options *how,
                           curve *curves, uint64_t *out_fixed) {
    static const char *const names[FIT_TENSORS] = {"a", "b", "c", "d", "e", "f"};
    rng r = {seed};
    uint8_t *data[FIT_TENSORS + 1];
    aq_tensor t[FIT_TENSORS + 1];
    const uint64_t vector[1] = {50};
    for (size_t i = 0; i < FIT_TENSORS; i++) {
        const aq_dtype dtype = rng_below(&r, 3) == 0 ? AQ_F16 : AQ_F32;
        const uint64_t shape[2] = {1 + rng_below(&r, 40), 8 + rng_below(&r, 300)};
        const size_t n = (size_t)(shape[0] * shape[1]);
        data[i] = random_values(&r, dtype, n, 1);
        if (rng_below(&r, 2) == 0) { /* most of it small: few bits lose much */
            const float big = 20;
            for (size_t k = 0; k < n; k += 1 + rng_below(&r, 40))
                ASSERT_OK(aq_from_f32(&big, 1, data[i] + k * aq_dtype_bytes(dtype), dtype,
                                      &err));
        }
        t[i] = tensor_of(names[i], dtype, shape, 2, data[i]);
        curves[i] = curve_of(&t[i], how);
    }
    data[FIT_TENSORS] = random_values(&r, AQ_F32, 50, 1);
    t[FIT_TENSORS] = tensor_of("z", AQ_F32, vector, 1, data[FIT_TENSORS]);
    *out_fixed = t[FIT_TENSORS].data_bytes;
    ASSERT_OK(aq_model_save(path, t, FIT_TENSORS + 1, &fast, &err));
    for (size_t i = 0; i <= FIT_TENSORS; i++)
        free(data[i]);
}

static double assignment_loss(const curve *curves, const int *rates, uint64_t *bytes) {
    double loss = 0;
    *bytes = 0;
    for (size_t i = 0; i < FIT_TENSORS; i++) {
        loss += curves[i].loss[rates[i]];
        *bytes += curves[i].bytes[rates[i]];
    }
    return loss;
}

/* The least loss of all 4^6 assignments that fit; -1: none does. */
static double best_loss(const curve *curves, uint64_t target, uint64_t *out_bytes) {
    double best = -1;
    for (unsigned code = 0; code < 1u << 2 * FIT_TENSORS; code++) {
        int rates[FIT_TENSORS];
        uint64_t bytes;
        double loss;
        for (size_t i = 0; i < FIT_TENSORS; i++)
            rates[i] = (int)(code >> 2 * i & 3);
        loss = assignment_loss(curves, rates, &bytes);
        if (bytes > target || (best >= 0 && loss >= best)) continue;
        best = loss;
        *out_bytes = bytes;
    }
    return best;
}

/* The assignment that is best when a byte costs `price`. */
static double priced(const curve *curves, double price, uint64_t *bytes) {
    int rates[FIT_TENSORS];
    for (size_t i = 0; i < FIT_TENSORS; i++) {
        rates[i] = 0;
        for (int k = 1; k < RATES; k++) {
            const curve *c = &curves[i];
            if (c->loss[k] + price * (double)c->bytes[k] <
                c->loss[rates[i]] + price * (double)c->bytes[rates[i]])
                rates[i] = k;
        }
    }
    return assignment_loss(curves, rates, bytes);
}

/* The result of a job; checks that it is what its bits say. */
static double job_loss(const aq_job_report *r, const aq_quant_options *how,
                       const curve *curves, uint64_t *bytes) {
    int rates[FIT_TENSORS];
    for (size_t i = 0; i < FIT_TENSORS; i++) {
        rates[i] = 0;
        while (rate_bits[rates[i]] != r->tensors[i].tensor.layout.bits)
            rates[i]++;
        cr_assert_eq(r->tensors[i].bytes_out, curves[i].bytes[rates[i]]);
        cr_assert_eq(r->tensors[i].tensor.layout.codebook,
                     how->codebook && rate_bits[rates[i]] % 8 != 0);
        cr_assert_eq(r->tensors[i].num_attempts, rates[i] == RATES - 1 ? 3 : 4);
        for (uint32_t k = 0; k < 3; k++)
            cr_assert_eq(r->tensors[i].attempts[k].bits, rate_bits[k]);
    }
    return assignment_loss(curves, rates, bytes);
}

static void expect_best(const curve *curves, uint64_t fixed, uint64_t target,
                        aq_job_options o) {
    uint64_t bytes, other, best_bytes = 0;
    double loss, best, step = 0;
    aq_job_report r;
    o.no_sync = true;
    ASSERT_OK(aq_job_run(in_dir("m.safetensors"), in_dir("q.parquet"), &o, &r, &err));
    check_output(in_dir("m.safetensors"), in_dir("q.parquet"), &o, &r);
    loss = job_loss(&r, &o.quant, curves, &bytes);
    cr_assert_eq(bytes + fixed, r.bytes_out);
    cr_assert_leq(bytes, target, "%llu bytes are over %llu", (unsigned long long)bytes,
                  (unsigned long long)target);
    /* No price a byte leads to an assignment that fits and loses less. */
    for (double price = 1e2; price > 1e-14; price *= 0.93) {
        const double at = priced(curves, price, &other);
        CHECK(other > target || loss <= at * (1 + 1e-12) + 1e-12,
              "target %llu: %g lost; %g with %llu bytes", (unsigned long long)target,
              loss, at, (unsigned long long)other);
        if (other == bytes && at <= loss) step = -1; /* it is one of them */
    }
    best = best_loss(curves, target, &best_bytes);
    if (step < 0) /* so no other of its size, or smaller, loses less */
        CHECK(loss <= best_loss(curves, bytes, &other) * (1 + 1e-12) + 1e-12,
              "not the best of its size");
    /* And it is within the one step that did not fit of the best of all. */
    for (size_t i = 0; i < FIT_TENSORS; i++)
        step = fmax(step, curves[i].loss[0]);
    CHECK(loss <= best + step, "%g lost; %g is possible", loss, best);
    aq_job_report_deinit(&r);
}

Test(jobs, target_sizes) {
    static const aq_quant_options hows[] = {{0},
                                            {.codebook = true, .params = AQ_PARAMS_U8},
                                            {.symmetric = true},
                                            {.params = AQ_PARAMS_U8, .group_size = 32}};
    for (uint64_t seed = 1; seed <= 8; seed++) {
        const aq_quant_options *how = &hows[seed % COUNT_OF(hows)];
        curve curves[FIT_TENSORS];
        uint64_t fixed, least = 0, most = 0;
        save_fit_model(in_dir("m.safetensors"), seed, how, curves, &fixed);
        for (size_t i = 0; i < FIT_TENSORS; i++) {
            least += curves[i].bytes[0];
            most += curves[i].bytes[RATES - 1];
        }
        for (int k = 0; k <= 12; k++) {
            const uint64_t target = least + (most - least) * (uint64_t)k / 12;
            aq_job_options o = {.quant = *how, .target_bytes = target + fixed};
            o.threads = 1 + (uint32_t)k % 4;
            o.mode = (aq_job_mode)(k % 2);
            expect_best(curves, fixed, target, o);
        }
    }
}

/* Bits a weight are bytes over all weights, the kept ones too. */
Test(jobs, target_bits_per_weight) {
    curve curves[FIT_TENSORS];
    uint64_t fixed;
    aq_job_report r;
    const aq_quant_options how = {0};
    save_fit_model(in_dir("m.safetensors"), 9, &how, curves, &fixed);
    for (double bpw = 5; bpw < 34; bpw += 1.7) {
        aq_job_options o = {.target_bpw = bpw, .no_sync = true};
        double got;
        ASSERT_OK(aq_job_run(in_dir("m.safetensors"), in_dir("q.parquet"), &o, &r, &err));
        got = 8.0 * (double)r.bytes_out / (double)r.num_params;
        cr_assert_leq(got, bpw, "%g bits a weight are over %g", got, bpw);
        expect_best(curves, fixed, (uint64_t)(bpw * (double)r.num_params / 8.0) - fixed,
                    o);
        aq_job_report_deinit(&r);
    }
}

/* Bits of tensors that the hook has chosen; 0: kept. */
typedef struct pins {
    uint32_t bits[FIT_TENSORS];
    bool pinned[FIT_TENSORS];
} pins;

static bool plan_pins(void *user, const aq_tensor *t, aq_plan *plan) {
    const pins *p = (const pins *)user;
    const size_t i = (size_t)(t->name[0] - 'a');
    if (i >= FIT_TENSORS || !p->pinned[i]) return true;
    plan->keep = p->bits[i] == 0;
    plan->fixed_bits = !plan->keep;
    if (!plan->keep) plan->quant.bits = p->bits[i];
    if (p->bits[i] == 8) plan->quant.codebook = false;
    return true;
}

/* With a cosine to reach there is a least size; from there on the target is met, and so is
 * the cosine. Fixed bits that do not reach it give way. */
Test(jobs, target_with_min_cosine) {
    static const aq_quant_options hows[] = {
        {0}, {.codebook = true, .params = AQ_PARAMS_U8}, {.granularity = AQ_PER_TENSOR}};
    for (uint64_t seed = 1; seed <= 6; seed++) {
        curve curves[FIT_TENSORS];
        uint64_t fixed, done = 0, refused = 0;
        save_fit_model(in_dir("m.safetensors"), seed, &hows[seed % COUNT_OF(hows)],
                       curves, &fixed);
        for (uint64_t target = 1000; target < 120000; target += 7000) {
            pins p = {{2, 8}, {seed % 2 != 0, seed % 2 != 0}};
            aq_job_options o = {.quant = hows[seed % COUNT_OF(hows)],
                                .target_bytes = target,
                                .min_cosine = 0.99,
                                .plan = plan_pins,
                                .plan_user = &p,
                                .no_sync = true};
            aq_job_report r;
            aq_status status =
                aq_job_run(in_dir("m.safetensors"), in_dir("q.parquet"), &o, &r, &err);
            if (status != AQ_OK) {
                ASSERT_STATUS(status, AQ_E_QUALITY);
                ASSERT_MESSAGE("target", "with the fewest bits that min_cosine allows");
                refused++;
                continue;
            }
            done++;
            cr_assert_leq(r.bytes_out, target);
            for (size_t i = 0; i < r.num_tensors; i++)
                cr_assert(r.tensors[i].metrics.count == 0 ||
                              r.tensors[i].metrics.cosine >= 0.99,
                          "seed %d, %d bytes: %s has %g", (int)seed, (int)target,
                          r.tensors[i].name, r.tensors[i].metrics.cosine);
            aq_job_report_deinit(&r);
        }
        cr_assert(done > 0 && refused > 0, "seed %d: %d done, %d refused", (int)seed,
                  (int)done, (int)refused);
    }
}

/* Tensors with bits that are fixed keep them; the others get what they get where those are
 * not there, and the target is so much less. */
Test(jobs, target_with_fixed_bits) {
    static const aq_quant_options hows[] = {
        {0}, {.codebook = true, .params = AQ_PARAMS_U8}, {.granularity = AQ_PER_TENSOR}};
    for (uint64_t seed = 1; seed <= 6; seed++) {
        const aq_quant_options *how = &hows[seed % COUNT_OF(hows)];
        curve curves[FIT_TENSORS];
        uint64_t fixed;
        save_fit_model(in_dir("m.safetensors"), seed, how, curves, &fixed);
        for (uint64_t target = 12000; target < 90000; target += 13000) {
            pins p = {{8, 0, 2, 0, 4, 0}, {true, false, true, false, false, false}};
            aq_job_options o = {.quant = *how, .plan = plan_pins, .plan_user = &p};
            aq_job_report r, rest;
            uint64_t all = 0;
            o.no_sync = true;
            o.target_bytes = target;
            ASSERT_OK(
                aq_job_run(in_dir("m.safetensors"), in_dir("q.parquet"), &o, &r, &err));
            cr_assert_leq(r.bytes_out, target);
            for (size_t i = 0; i < FIT_TENSORS; i++) {
                all += r.tensors[i].bytes_out;
                if (!p.pinned[i]) continue;
                cr_assert_eq(r.tensors[i].tensor.layout.bits, p.bits[i]);
                cr_assert_eq(r.tensors[i].num_attempts, 2); /* measured, and stored */
                o.target_bytes += r.tensors[i].bytes_in - r.tensors[i].bytes_out;
                p.bits[i] = 0;
            }
            cr_assert_eq(all + fixed, r.bytes_out);
            ASSERT_OK(aq_job_run(in_dir("m.safetensors"), in_dir("k.parquet"), &o, &rest,
                                 &err));
            for (size_t i = 0; i < FIT_TENSORS; i++)
                if (!p.pinned[i])
                    cr_assert_eq(rest.tensors[i].tensor.layout.bits,
                                 r.tensors[i].tensor.layout.bits, "seed %d, %d: %s",
                                 (int)seed, (int)target, r.tensors[i].name);
            cr_assert_eq(rest.bytes_out, r.bytes_out + (o.target_bytes - target));
            aq_job_report_deinit(&rest);
            aq_job_report_deinit(&r);
        }
    }
}

/* A tensor that cannot be stored with its fixed bits takes more, which others must save. */
Test(jobs, target_with_fixed_bits_that_fail) {
    const uint64_t shape[2] = {16, 64};
    const pins p = {{2}, {true}};
    aq_job_options o = {.plan = plan_pins, .plan_user = (void *)(uintptr_t)&p};
    float *values[3];
    aq_tensor t[3];
    aq_job_report r;
    for (size_t i = 0; i < 3; i++) {
        values[i] = wave(16 * 64, i);
        turn_le(values[i], 16 * 64, sizeof *values[i]);
        t[i] = tensor_of(i == 0 ? "a" : i == 1 ? "b" : "c", AQ_F32, shape, 2, values[i]);
    }
    ASSERT_OK(aq_model_save(in_dir("m.safetensors"), t, 3, &fast, &err));
    o.no_sync = true;
    o.target_bytes = 4096 + 1024;
    ASSERT_OK(aq_job_run(in_dir("m.safetensors"), in_dir("q.parquet"), &o, &r, &err));
    cr_assert_eq(r.tensors[0].tensor.layout.bits, 2);
    cr_assert_eq(r.tensors[1].tensor.layout.bits, 8);
    aq_job_report_deinit(&r);
    values[0][5] = NAN;
    turn_le(&values[0][5], 1, sizeof *values[0]);
    ASSERT_OK(aq_model_save(in_dir("m.safetensors"), t, 3, &fast, &err));
    ASSERT_OK(aq_job_run(in_dir("m.safetensors"), in_dir("q.parquet"), &o, &r, &err));
    cr_assert_eq(r.tensors[0].status, AQ_E_NONFINITE);
    cr_assert_eq(r.tensors[0].bytes_out, 4096);
    cr_assert_eq(r.tensors[1].tensor.layout.bits, 2);
    cr_assert_leq(r.bytes_out, o.target_bytes);
    aq_job_report_deinit(&r);
    for (size_t i = 0; i < 3; i++)
        free(values[i]);
}

/* One byte less than 2 bits everywhere is an error that says how much that is. */
Test(jobs, target_out_of_reach) {
    curve curves[FIT_TENSORS];
    uint64_t fixed, least;
    char text[40];
    aq_job_options o = {.target_bytes = 1, .no_sync = true};
    save_fit_model(in_dir("m.safetensors"), 3, &o.quant, curves, &fixed);
    least = fixed;
    for (size_t i = 0; i < FIT_TENSORS; i++)
        least += curves[i].bytes[0];
    snprintf(text, sizeof text, "take %llu", (unsigned long long)least);
    for (int k = 0; k < 2; k++) {
        ASSERT_STATUS(
            aq_job_run(in_dir("m.safetensors"), in_dir("q.parquet"), &o, NULL, &err),
            AQ_E_QUALITY);
        ASSERT_MESSAGE("target", text);
        cr_assert_eq(temp_dir_entries(here.path), 1);
        o.target_bytes = least - 1;
    }
    o.target_bytes = 0;
    o.target_bpw = 0.001;
    ASSERT_STATUS(
        aq_job_run(in_dir("m.safetensors"), in_dir("q.parquet"), &o, NULL, &err),
        AQ_E_QUALITY);
    o.target_bpw = 0;
    o.target_bytes = least;
    ASSERT_OK(aq_job_run(in_dir("m.safetensors"), in_dir("q.parquet"), &o, NULL, &err));
}

/* Tensors of a model are contiguous: rows that are further apart would not be theirs. */
Test(jobs, rows_apart) {
    aq_job_options o = {.quant = {.src_stride = 1 << 20}, .no_sync = true};
    save_gate_model(in_dir("m.safetensors"));
    for (int dry = 0; dry < 2; dry++) {
        o.dry_run = dry != 0;
        ASSERT_STATUS(
            aq_job_run(in_dir("m.safetensors"), in_dir("q.parquet"), &o, NULL, &err),
            AQ_E_ARG);
        ASSERT_MESSAGE("stride", "rows 1048576 apart");
        cr_assert_eq(temp_dir_entries(here.path), 1);
    }
    o.operation = AQ_CONVERT;
    o.dry_run = false;
    ASSERT_OK(aq_job_run(in_dir("m.safetensors"), in_dir("q.parquet"), &o, NULL, &err));
}

/* ---- progress ---- */

/* Not atomic: calls at the same time would be seen, here or by ThreadSanitizer. */
typedef struct watcher {
    size_t calls, stop_at, inside; /* stop_at: 0 = never */
    bool again;                    /* tensors may be done again */
    char last_name[32];
    aq_progress last;
    size_t finished; /* calls with no name */
} watcher;

static bool watch(void *user, const aq_progress *p) {
    watcher *w = user;
    CHECK(w->inside++ == 0, "two calls at a time");
    CHECK(p->tensors_done >= w->last.tensors_done, "a tensor is undone");
    CHECK(p->bytes_done <= p->bytes_total, "more bytes than there are");
    CHECK((p->name == NULL) == (p->tensors_done == p->tensors_total), "%zu of %zu: %s",
          p->tensors_done, p->tensors_total, p->name);
    if (!w->again) CHECK(p->bytes_done >= w->last.bytes_done, "bytes are undone");
    if (w->calls > 0) CHECK(p->bytes_total == w->last.bytes_total, "another total");
    CHECK(w->finished == 0, "a call after the last");
    w->finished += p->name == NULL;
    w->last = *p;
    for (int i = 0; i < 100; i++)
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
    CHECK(w->inside-- == 1, "two calls at a time");
    return ++w->calls != w->stop_at;
}

/* The last call has no name and all bytes; whichever call says stop, nothing is left. */
static void expect_cancellable(const char *in, const char *out, aq_job_options o,
                               bool again) {
    const size_t before = temp_dir_entries(here.path);
    watcher all = {.again = again};
    o.progress.fn = watch;
    o.progress.user = &all;
    o.no_sync = true;
    ASSERT_OK(aq_job_run(in, out, &o, NULL, &err));
    cr_assert(all.last.name == NULL && all.finished == 1);
    cr_assert_eq(all.last.bytes_done, all.last.bytes_total);
    cr_assert_gt(all.calls, all.last.tensors_total);
    temp_path_remove(out);
    for (size_t stop = 1; stop <= all.calls; stop++) {
        watcher some = {.stop_at = stop, .again = again};
        o.progress.user = &some;
        ASSERT_STATUS(aq_job_run(in, out, &o, NULL, &err), AQ_E_CANCELLED);
        cr_assert_eq(some.calls, stop);
        cr_assert_eq(temp_dir_entries(here.path), before, "stopped at call %zu", stop);
    }
}

Test(jobs, progress_and_cancel) {
    static const char *const outs[] = {"q.parquet", "q/"};
    save_nan_model(in_dir("nan.safetensors"), nan_cases[3].places, nan_cases[3].n);
    save_nan_model(in_dir("good.safetensors"), NULL, 0);
    for (uint32_t threads = 1; threads <= 16; threads += 15) {
        for (size_t i = 0; i < COUNT_OF(outs); i++) {
            aq_job_options o = {.threads = threads, .chunk_bytes = 40000 * (threads % 2)};
            o.max_memory_bytes = 600000; /* many pieces */
            expect_cancellable(in_dir("good.safetensors"), in_dir(outs[i]), o, false);
            expect_cancellable(in_dir("nan.safetensors"), in_dir(outs[i]), o, true);
            o.operation = AQ_CONVERT;
            expect_cancellable(in_dir("good.safetensors"), in_dir(outs[i]), o, false);
        }
    }
}

/* ---- dry run ---- */

Test(jobs, dry_run_writes_nothing) {
    static const aq_job_options jobs[] = {
        {.quant = {.bits = 2}},        {.min_cosine = 0.99}, {.target_bpw = 7},
        {.num_shards = 3, .shard = 1}, {.resume = true},     {.operation = AQ_CONVERT}};
    save_gate_model(in_dir("m.safetensors"));
    for (size_t i = 0; i < COUNT_OF(jobs); i++) {
        aq_job_options o = jobs[i];
        aq_job_report dry, real;
        o.dry_run = true;
        ASSERT_OK(aq_job_run(in_dir("m.safetensors"), NULL, &o, &dry, &err));
        cr_assert_eq(dry.file_bytes_out, 0);
        aq_job_report_deinit(&dry);
        ASSERT_OK(aq_job_run(in_dir("m.safetensors"), in_dir("q/"),
                             &(aq_job_options){.dry_run = true}, NULL, &err));
        ASSERT_OK(
            aq_job_run(in_dir("m.safetensors"), in_dir("q.parquet"), &o, &dry, &err));
        cr_assert_eq(temp_dir_entries(here.path), 1);
        o.dry_run = false;
        o.min_cosine = 0; /* is seen only when it is done */
        ASSERT_OK(
            aq_job_run(in_dir("m.safetensors"), in_dir("q.parquet"), &o, &real, &err));
        cr_assert(dry.bytes_out == real.bytes_out && dry.bytes_in == real.bytes_in);
        cr_assert_eq(dry.num_quantized, real.num_quantized);
        aq_job_report_deinit(&dry);
        aq_job_report_deinit(&real);
        temp_path_remove(in_dir("q.parquet"));
    }
}

/* ---- directories ---- */

/* All entries of a directory, in one line each, with the bytes of files; sorted. */
static file directory_read(const char *path) {
    struct dirent **entries;
    int n = scandir(path, &entries, NULL, alphasort);
    file all = {NULL, 0};
    cr_assert_geq(n, 0, "%s", path);
    for (int i = 0; i < n; i++) {
        const char *name = entries[i]->d_name;
        char inner[1024];
        file f;
        if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0) {
            snprintf(inner, sizeof inner, "%s/%s", path, name);
            f = file_read(inner);
            all.data = realloc(all.data, all.size + strlen(name) + 1 + f.size);
            memcpy(all.data + all.size, name, strlen(name) + 1);
            if (f.size > 0)
                memcpy(all.data + all.size + strlen(name) + 1, f.data, f.size);
            all.size += strlen(name) + 1 + f.size;
            file_free(&f);
        }
        free(entries[i]);
    }
    free(entries);
    return all;
}

/* Names that are no file names, or one to careless eyes. */
Test(jobs, directory_of_odd_names) {
    enum { LONG = 4096 };
    static char longs[4][LONG + 1];
    static const float values[64] = {1, 2, 3, -4};
    const char *const names[] = {"a/b",
                                 "../../up",
                                 "..",
                                 ".",
                                 ".hidden",
                                 "/",
                                 "a",
                                 "A",
                                 "AA",
                                 "aA",
                                 "a b",
                                 "\xc3\xa9t\xc3\xa9",
                                 "e\xcc\x81te\xcc\x81",
                                 "%2e",
                                 "a%2fb",
                                 "~",
                                 "con",
                                 "nul.txt",
                                 "a\nb",
                                 "\x01",
                                 "-rf",
                                 "*",
                                 "a.parquet",
                                 "a.parquet.parquet",
                                 longs[0],
                                 longs[1],
                                 longs[2],
                                 longs[3]};
    aq_tensor t[COUNT_OF(names)];
    aq_job_options o = {.no_sync = true};
    file first = {NULL, 0};
    aq_model *m, *single;
    for (size_t i = 0; i < COUNT_OF(longs); i++) { /* differ at the end only */
        memset(longs[i], i % 2 == 0 ? 'x' : '/', LONG);
        longs[i][LONG - 1] = (char)('a' + i / 2);
    }
    for (size_t i = 0; i < COUNT_OF(names); i++)
        t[i] = matrix_of(names[i], 2, 32, values);
    ASSERT_OK(aq_model_save(in_dir("m.safetensors"), t, COUNT_OF(names), &fast, &err));
    ASSERT_OK(aq_job_run(in_dir("m.safetensors"), in_dir("q.parquet"), &o, NULL, &err));
    for (size_t k = 0; k < COUNT_OF(ways); k++) {
        aq_job_options way = way_of(&o, k);
        file f;
        ASSERT_OK(aq_job_run(in_dir("m.safetensors"), in_dir("q/"), &way, NULL, &err));
        cr_assert_eq(temp_dir_entries(here.path), 3);
        cr_assert_eq(temp_dir_entries(in_dir("q")), COUNT_OF(names));
        f = directory_read(in_dir("q"));
        if (k == 0) {
            first = f;
        } else {
            cr_assert(file_equal(&first, &f), "%s: other files", ways[k].what);
            file_free(&f);
        }
        if (k + 1 < COUNT_OF(ways)) temp_path_remove(in_dir("q"));
    }
    ASSERT_OK(aq_model_open(in_dir("q"), NULL, &m, &err));
    ASSERT_OK(aq_model_open(in_dir("q.parquet"), NULL, &single, &err));
    cr_assert_eq(aq_model_count(m), COUNT_OF(names));
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        aq_tensor a, b;
        ASSERT_OK(aq_model_find(m, names[i], &a, &err));
        ASSERT_OK(aq_model_find(single, names[i], &b, &err));
        cr_assert(a.data_bytes == b.data_bytes && a.cosine == b.cosine);
        cr_assert_arr_eq(a.data, b.data, a.data_bytes);
        aq_tensor_release(&a);
        aq_tensor_release(&b);
    }
    aq_model_close(m);
    aq_model_close(single);
    file_free(&first);
}

/* Directories whose tensors are done again, in chunks, too. */
Test(jobs, directory_of_a_job_that_goes_back) {
    file first = {NULL, 0};
    save_nan_model(in_dir("m.safetensors"), nan_cases[3].places, nan_cases[3].n);
    for (size_t k = 0; k < COUNT_OF(ways); k++) {
        const aq_job_options base = {
            .quant = {.bits = 2}, .min_cosine = 0.97, .chunk_bytes = 20000};
        aq_job_options o = way_of(&base, k);
        file f;
        ASSERT_OK(aq_job_run(in_dir("m.safetensors"), in_dir("q/"), &o, NULL, &err));
        f = directory_read(in_dir("q"));
        if (k == 0) first = f;
        cr_assert(file_equal(&first, &f), "%s: other files", ways[k].what);
        if (k > 0) file_free(&f);
        temp_path_remove(in_dir("q"));
        cr_assert_eq(temp_dir_entries(here.path), 1);
    }
    file_free(&first);
}

/* Only an empty directory is taken; one with files, or another job's, stays as it is. */
Test(jobs, directories_in_the_way) {
    aq_job_options o = {.no_sync = true};
    char in[512];
    file before, after;
    snprintf(in, sizeof in, "%s", in_dir("m.safetensors"));
    save_gate_model(in);
    cr_assert_eq(mkdir(in_dir("q"), 0700), 0);
    ASSERT_OK(aq_job_run(in, in_dir("q/"), &o, NULL, &err));
    before = directory_read(in_dir("q"));
    ASSERT_STATUS(aq_job_run(in, in_dir("q/"), &o, NULL, &err), AQ_E_IO);
    cr_assert_eq(err.os_errno, EEXIST);
    ASSERT_STATUS(aq_job_run(in_dir("q"), in_dir("q/"),
                             &(aq_job_options){.operation = AQ_CONVERT}, NULL, &err),
                  AQ_E_IO);
    ASSERT_STATUS(aq_job_run(in, in_dir("q"), &o, NULL, &err), AQ_E_ARG); /* no '/' */
    after = directory_read(in_dir("q"));
    cr_assert(file_equal(&before, &after));
    cr_assert_eq(temp_dir_entries(here.path), 2);
    file_free(&before);
    file_free(&after);
    file_write(in_dir("f"), "x", 1);
    ASSERT_STATUS(aq_job_run(in, in_dir("f/"), &o, NULL, &err), AQ_E_IO);
    ASSERT_STATUS(aq_job_run(in, in_dir("none/q/"), &o, NULL, &err), AQ_E_IO);
    ASSERT_STATUS(aq_job_run(in, in_dir("none/q.parquet"), &o, NULL, &err), AQ_E_IO);
    cr_assert_eq(mkdir(in_dir(".r.aq-tmp"), 0700), 0); /* of a job that was killed */
    file_write(in_dir(".r.aq-tmp/file"), "x", 1);
    ASSERT_STATUS(aq_job_run(in, in_dir("r/"), &o, NULL, &err), AQ_E_IO);
    cr_assert_eq(err.os_errno, EEXIST);
    cr_assert_not_null(strstr(err.name, ".r.aq-tmp"), "%s", err.name);
    cr_assert(exists(in_dir(".r.aq-tmp/file")));
    cr_assert_not(exists(in_dir("r")));
    o.resume = true;
    ASSERT_STATUS(aq_job_run(in, in_dir("s/"), &o, NULL, &err), AQ_E_UNSUPPORTED);
    cr_assert_eq(temp_dir_entries(here.path), 4);
}

/* An output over a file of the input; a failure leaves an older output as it was. */
Test(jobs, output_over_input_or_older_output) {
    aq_job_options o = {.no_sync = true}, convert = {.operation = AQ_CONVERT};
    char in[512], out[512];
    file before, after;
    snprintf(in, sizeof in, "%s", in_dir("m.safetensors"));
    snprintf(out, sizeof out, "%s", in_dir("q.parquet"));
    save_gate_model(in);
    before = file_read(in);
    for (int resume = 0; resume < 2; resume++) {
        o.resume = convert.resume = resume != 0;
        ASSERT_STATUS(aq_job_run(in, in, &convert, NULL, &err), AQ_E_ARG);
        cr_assert_eq(symlink(in, in_dir("link")), 0);
        ASSERT_STATUS(aq_job_run(in, in_dir("link"), &o, NULL, &err), AQ_E_ARG);
        ASSERT_STATUS(aq_job_run(in_dir("link"), in, &convert, NULL, &err), AQ_E_ARG);
        remove(in_dir("link"));
        cr_assert_eq(temp_dir_entries(here.path), 1);
    }
    after = file_read(in);
    cr_assert(file_equal(&before, &after));
    file_free(&before);
    file_free(&after);
    o.resume = false;
    before = run_job(in, out, &o, NULL);
    o.quant.bits = 2;
    o.min_cosine = 0.999999;
    o.fail_fast = true;
    ASSERT_STATUS(aq_job_run(in, out, &o, NULL, &err), AQ_E_QUALITY);
    after = file_read(out);
    cr_assert(file_equal(&before, &after));
    cr_assert_eq(temp_dir_entries(here.path), 2);
    file_free(&before);
    file_free(&after);
}

/* ---- damaged input ---- */

/* A flipped bit in any stored value must not become the values of a file with valid
 * checksums, whatever reads it. */
Test(jobs, damage_does_not_pass) {
    static float w[40 * 128];
    aq_job_options q = {.no_sync = true, .threads = 1};
    aq_tensor t;
    for (size_t i = 0; i < COUNT_OF(w); i++)
        w[i] = (float)((i * 7919) % 1000) * 0.01f;
    t = matrix_of("w", 40, 128, w);
    ASSERT_OK(aq_model_save(in_dir("m.safetensors"), &t, 1, &fast, &err));
    for (int form = 0; form < 3; form++) { /* plain, small parameters, chunks */
        const float *scales = NULL, *zero_points = NULL; /* as the file has them */
        aq_tensor in;
        aq_model *m;
        size_t places[3] = {0}, num_places = 0;
        file whole;
        q.quant.params = form == 1 ? AQ_PARAMS_U8 : AQ_PARAMS_F32;
        q.chunk_bytes = form == 2 ? 700 : 0;
        ASSERT_OK(
            aq_job_run(in_dir("m.safetensors"), in_dir("q.parquet"), &q, NULL, &err));
        whole = file_read(in_dir("q.parquet"));
        ASSERT_OK(aq_model_open(in_dir("q.parquet"), NULL, &m, &err));
        ASSERT_OK(aq_model_tensor(m, 0, &in, &err));
        if (form != 1) {
            scales = le_floats(in.scales, 2);
            zero_points = le_floats(in.zero_points, 2);
        }
        for (size_t i = 0; i + 64 < whole.size; i++) { /* where the values lie */
            if (num_places == 0 && memcmp(whole.data + i, in.data, 64) == 0)
                places[num_places++] = i + 60;
            if (num_places == 1 && form != 1 && memcmp(whole.data + i, scales, 8) == 0)
                places[num_places++] = i;
            if (num_places == 2 && form != 1 &&
                memcmp(whole.data + i, zero_points, 8) == 0)
                places[num_places++] = i;
            if (num_places == 1 && form == 1 && memcmp(whole.data + i, in.params, 8) == 0)
                places[num_places++] = i;
        }
        cr_assert_eq(num_places, form == 1 ? 2 : 3);
        aq_tensor_release(&in);
        aq_model_close(m);
        for (size_t p = 0; p < num_places; p++) {
            for (int k = 0; k < 8; k++) {
                aq_job_options o = {.no_sync = true, .threads = (uint32_t)k / 4 + 1};
                o.operation = k % 2 ? AQ_CONVERT : AQ_DEQUANTIZE;
                o.mode = k / 2 % 2 ? AQ_JOB_PARALLEL : AQ_JOB_STREAMING;
                whole.data[places[p]] ^= 1;
                file_write(in_dir("q.parquet"), whole.data, whole.size);
                cr_assert_eq(
                    aq_job_run(in_dir("q.parquet"), in_dir("o.parquet"), &o, NULL, &err),
                    AQ_E_CHECKSUM, "form %d, place %zu, %d: %s", form, p, k, err.message);
                whole.data[places[p]] ^= 1;
            }
        }
        file_free(&whole);
    }
}

/* ---- no tensors ---- */

Test(jobs, no_tensors) {
    static const char *const ins[] = {"m.safetensors", "m.parquet"};
    static const char *const outs[] = {"o.parquet", "o.safetensors", "o/"};
    for (size_t i = 0; i < COUNT_OF(ins); i++) {
        ASSERT_OK(aq_model_save(in_dir(ins[i]), NULL, 0, &fast, &err));
        for (size_t k = 0; k < COUNT_OF(outs) * 3; k++) {
            for (int resume = 0; resume < 2; resume++) {
                watcher w = {0};
                aq_job_options o = {.operation = (aq_operation)(k % 3), .no_sync = true};
                const char *out = outs[k / 3];
                aq_job_report r;
                aq_model *m;
                if (resume && k / 3 == 2) continue;
                o.resume = resume != 0;
                o.progress.fn = watch;
                o.progress.user = &w;
                if (k % 3 == 0) o.target_bpw = 4;
                if (k / 3 == 2) { /* a directory of no files could not be opened */
                    cr_assert_eq(aq_job_run(in_dir(ins[i]), in_dir(out), &o, &r, &err),
                                 AQ_E_UNSUPPORTED);
                    cr_assert_eq(temp_dir_entries(here.path), i + 1, "%s", out);
                    continue;
                }
                ASSERT_OK(aq_job_run(in_dir(ins[i]), in_dir(out), &o, &r, &err));
                cr_assert(r.num_tensors == 0 && r.worst == SIZE_MAX && r.bytes_out == 0);
                cr_assert_gt(w.finished, 0);
                aq_job_report_deinit(&r);
                ASSERT_OK(aq_model_open(in_dir(out), NULL, &m, &err));
                cr_assert_eq(aq_model_count(m), 0);
                aq_model_close(m);
                temp_path_remove(in_dir(out));
                temp_path_remove(in_dir("o"));
                cr_assert_eq(temp_dir_entries(here.path), i + 1, "%s", out);
            }
        }
    }
}

/* ---- chunks that do not fit together ---- */

/* A row of a model file, with values of zeros. */
typedef struct row {
    const char *name, *dtype;
    int64_t shape[3]; /* the first 0 ends it */
    int64_t num_params, chunk, chunks;
    int32_t bits; /* 0: not quantized; else groups of 8 */
    int64_t group;
    size_t short_by; /* bytes that the data lacks */
} row;

static void save_rows(const char *path, const row *rows, size_t n) {
    static const aq_field_spec specs[] = {
        CELL_LEAF("layer_name", AQ_BYTE_ARRAY), CELL_LIST("shape", AQ_INT64),
        CELL_LEAF("dtype", AQ_BYTE_ARRAY),      CELL_LEAF("data", AQ_BYTE_ARRAY),
        CELL_LEAF("num_params", AQ_INT64),      CELL_LEAF("bit_width", AQ_INT32),
        CELL_LEAF("packing", AQ_BYTE_ARRAY),    CELL_LEAF("group_size", AQ_INT64),
        CELL_LIST("scales", AQ_FLOAT),          CELL_LIST("zero_points", AQ_FLOAT),
        CELL_LEAF("chunk_index", AQ_INT64),     CELL_LEAF("chunk_count", AQ_INT64)};
    static const uint8_t zeros[4096];
    static const float ones[64] = {1, 1, 1, 1, 1, 1, 1, 1};
    aq_writer *w;
    ASSERT_OK(aq_writer_open(path, specs, COUNT_OF(specs), NULL, &w, &err));
    for (size_t i = 0; i < n; i++) {
        const row *r = &rows[i];
        /* Numbers that make no sense come with a little of everything. */
        const bool odd = r->num_params < 0 || r->num_params > 1000;
        const int64_t params = odd ? 16 : r->num_params;
        const int64_t scales = r->bits == 0 ? 0 : params / r->group;
        size_t bytes = (size_t)params * 4;
        aq_bytes data;
        int64_t dims = 0;
        while (dims < 3 && r->shape[dims] != 0)
            dims++;
        if (strcmp(r->dtype, "float16") == 0) bytes /= 2;
        if (r->bits != 0) bytes = (size_t)(params * r->bits / 8);
        data.data = zeros;
        data.size = bytes - r->short_by;
        put_text(w, r->name);
        put_list(w, r->shape, dims);
        put_text(w, r->dtype);
        put_cell(w, &data);
        put_cell(w, &r->num_params);
        put_cell(w, &r->bits);
        put_text(w, r->bits == 0 ? NULL : "lsb");
        put_cell(w, r->bits == 0 ? NULL : &r->group);
        put_list(w, ones, scales);
        put_list(w, ones, scales);
        put_cell(w, &r->chunk);
        put_cell(w, &r->chunks);
        ASSERT_OK(aq_writer_end_row_group(w, 1, &err));
    }
    ASSERT_OK(aq_writer_finish(w, &err));
}

/* clang-format off */
#define F32 "w", "float32"
#define S {4, 8}
#define NO_BITS 0, 0, 0

static const struct {
    const char *what;
    aq_status wanted;
    const char *message;
    size_t n;
    row rows[4];
} chunk_cases[] = {
    {"good", AQ_OK, "", 2, {{F32, S, 16, 0, 2, NO_BITS}, {F32, S, 16, 1, 2, NO_BITS}}},
    {"any order",
     AQ_OK,
     "",
     2,
     {{F32, S, 20, 1, 2, NO_BITS}, {F32, S, 12, 0, 2, NO_BITS}}},
    {"good codes",
     AQ_OK,
     "",
     2,
     {{F32, S, 8, 0, 2, 4, 8, 0}, {F32, S, 24, 1, 2, 4, 8, 0}}},
    {"two tensors",
     AQ_OK,
     "",
     4,
     {{F32, S, 31, 0, 2, NO_BITS},
      {"v", "float32", S, 16, 1, 2, NO_BITS},
      {F32, S, 1, 1, 2, NO_BITS},
      {"v", "float32", S, 16, 0, 2, NO_BITS}}},
    {"the first is missing",
     AQ_E_FORMAT,
     "chunk 0 of 2 is missing",
     1,
     {{F32, S, 16, 1, 2, NO_BITS}}},
    {"the last is missing",
     AQ_E_FORMAT,
     "chunk 1 of 2 is missing",
     1,
     {{F32, S, 16, 0, 2, NO_BITS}}},
    {"one between",
     AQ_E_FORMAT,
     "chunk 1 of 3",
     3,
     {{F32, S, 16, 0, 3, NO_BITS},
      {F32, S, 16, 2, 3, NO_BITS},
      {"x", "float32", S, 32, 0, 1, NO_BITS}}},
    {"another tensor's",
     AQ_E_FORMAT,
     "chunk 1 of 2",
     2,
     {{F32, S, 16, 0, 2, NO_BITS}, {"x", "float32", S, 16, 1, 2, NO_BITS}}},
    {"the first twice",
     AQ_E_FORMAT,
     "chunk 1 of 2",
     2,
     {{F32, S, 16, 0, 2, NO_BITS}, {F32, S, 16, 0, 2, NO_BITS}}},
    {"the last twice",
     AQ_E_DUPLICATE,
     "twice",
     3,
     {{F32, S, 16, 0, 2, NO_BITS},
      {F32, S, 16, 1, 2, NO_BITS},
      {F32, S, 16, 1, 2, NO_BITS}}},
    {"whole, and in chunks",
     AQ_E_DUPLICATE,
     "twice",
     3,
     {{F32, S, 32, 0, 1, NO_BITS},
      {F32, S, 16, 1, 2, NO_BITS},
      {F32, S, 16, 0, 2, NO_BITS}}},
    {"counts",
     AQ_E_FORMAT,
     "chunk 1 of 2",
     2,
     {{F32, S, 16, 0, 2, NO_BITS}, {F32, S, 16, 1, 3, NO_BITS}}},
    {"dtypes",
     AQ_E_FORMAT,
     "chunk 1 of 2",
     2,
     {{F32, S, 16, 0, 2, NO_BITS}, {"w", "float16", S, 16, 1, 2, NO_BITS}}},
    {"shapes",
     AQ_E_FORMAT,
     "chunk 1 of 2",
     2,
     {{F32, S, 16, 0, 2, NO_BITS}, {F32, {8, 4}, 16, 1, 2, NO_BITS}}},
    {"dimensions",
     AQ_E_FORMAT,
     "chunk 1 of 2",
     2,
     {{F32, S, 16, 0, 2, NO_BITS}, {F32, {4, 8, 1}, 16, 1, 2, NO_BITS}}},
    {"bits",
     AQ_E_FORMAT,
     "chunk 1 of 2",
     2,
     {{F32, S, 16, 0, 2, 4, 8, 0}, {F32, S, 16, 1, 2, 8, 8, 0}}},
    {"quantized and not",
     AQ_E_FORMAT,
     "chunk 1 of 2",
     2,
     {{F32, S, 16, 0, 2, 4, 8, 0}, {F32, S, 16, 1, 2, NO_BITS}}},
    {"group sizes",
     AQ_E_FORMAT,
     "chunk 1 of 2",
     2,
     {{F32, {2, 16}, 16, 0, 2, 4, 8, 0}, {F32, {2, 16}, 16, 1, 2, 4, 16, 0}}},
    {"too short",
     AQ_E_FORMAT,
     "do not make up its shape",
     2,
     {{F32, S, 16, 0, 2, NO_BITS}, {F32, S, 15, 1, 2, NO_BITS}}},
    {"too long",
     AQ_E_FORMAT,
     "do not make up its shape",
     2,
     {{F32, S, 16, 0, 2, NO_BITS}, {F32, S, 17, 1, 2, NO_BITS}}},
    {"codes too short",
     AQ_E_FORMAT,
     "do not make up its shape",
     2,
     {{F32, S, 8, 0, 2, 4, 8, 0}, {F32, S, 16, 1, 2, 4, 8, 0}}},
    {"codes too long",
     AQ_E_FORMAT,
     "do not make up its shape",
     2,
     {{F32, S, 24, 0, 2, 4, 8, 0}, {F32, S, 16, 1, 2, 4, 8, 0}}},
    {"no whole rows",
     AQ_E_FORMAT,
     "no whole rows",
     2,
     {{F32, {2, 16}, 8, 0, 2, 4, 8, 0}, {F32, {2, 16}, 24, 1, 2, 4, 8, 0}}},
    {"elements: none",
     AQ_E_FORMAT,
     "num_params 0",
     2,
     {{F32, S, 0, 0, 2, NO_BITS}, {F32, S, 32, 1, 2, NO_BITS}}},
    {"elements: more than there are",
     AQ_E_FORMAT,
     "num_params 33",
     2,
     {{F32, S, 33, 0, 2, NO_BITS}, {F32, S, 1, 1, 2, NO_BITS}}},
    {"elements: negative",
     AQ_E_FORMAT,
     "num_params -4",
     1,
     {{F32, S, -4, 0, 2, NO_BITS}}},
    {"elements: most negative",
     AQ_E_FORMAT,
     "num_params -9223372036854775808",
     1,
     {{F32, S, INT64_MIN, 0, 2, 4, 8, 0}}},
    {"elements: most",
     AQ_E_FORMAT,
     "num_params 9223372036854775807",
     1,
     {{F32, S, INT64_MAX, 0, 2, NO_BITS}}},
    {"a whole of other elements",
     AQ_E_FORMAT,
     "num_params 31",
     1,
     {{F32, S, 31, 0, 1, NO_BITS}}},
    {"count 0",
     AQ_E_FORMAT,
     "chunk_index 0 of chunk_count 0",
     1,
     {{F32, S, 32, 0, 0, NO_BITS}}},
    {"count -1", AQ_E_FORMAT, "chunk_count -1", 1, {{F32, S, 32, 0, -1, NO_BITS}}},
    {"index past the end",
     AQ_E_FORMAT,
     "chunk_index 2 of chunk_count 2",
     1,
     {{F32, S, 16, 2, 2, NO_BITS}}},
    {"index negative", AQ_E_FORMAT, "chunk_index -1", 1, {{F32, S, 16, -1, 2, NO_BITS}}},
    {"index of a whole",
     AQ_E_FORMAT,
     "chunk_index 1 of chunk_count 1",
     1,
     {{F32, S, 32, 1, 1, NO_BITS}}},
    {"most chunks",
     AQ_E_FORMAT,
     "chunk 1 of 2147483647",
     1,
     {{F32, S, 1, 0, INT32_MAX, NO_BITS}}},
    {"more than most",
     AQ_E_FORMAT,
     "chunk_count 2147483648",
     1,
     {{F32, S, 1, 0, (int64_t)INT32_MAX + 1, NO_BITS}}},
    {"2^32 + 2 chunks",
     AQ_E_FORMAT,
     "chunk_count 4294967298",
     2,
     {{F32, S, 16, 0, 4294967298, NO_BITS}, {F32, S, 16, 1, 4294967298, NO_BITS}}},
    {"index 2^32",
     AQ_E_FORMAT,
     "chunk_index 4294967296",
     2,
     {{F32, S, 16, 4294967296, 2, NO_BITS}, {F32, S, 16, 1, 2, NO_BITS}}},
    {"no elements",
     AQ_E_FORMAT,
     "num_params",
     2,
     {{F32, {0}, 2, 0, 2, NO_BITS}, {F32, {0}, 2, 1, 2, NO_BITS}}},
    {"data is short",
     AQ_E_FORMAT,
     "60 bytes",
     2,
     {{F32, S, 16, 0, 2, NO_BITS}, {F32, S, 16, 1, 2, 0, 0, 4}}},
};
/* clang-format on */

Test(jobs, chunks_that_contradict_each_other) {
    for (size_t i = 0; i < COUNT_OF(chunk_cases); i++) {
        const char *what = chunk_cases[i].what;
        save_rows(in_dir("m.parquet"), chunk_cases[i].rows, chunk_cases[i].n);
        for (int k = 0; k < 7; k++) {
            aq_job_options o = {.operation = (aq_operation)(k % 3), .no_sync = true};
            aq_status status;
            o.mode = (aq_job_mode)(k / 3);
            if (k < 6 && k % 3 == 0 && chunk_cases[i].rows[0].bits != 0) continue;
            status = k == 6 ? model_read_all(in_dir("m.parquet"), NULL)
                            : aq_job_run(in_dir("m.parquet"), in_dir("o.parquet"), &o,
                                         NULL, &err);
            cr_expect_eq(status, chunk_cases[i].wanted, "%s: %s", what, err.message);
            if (status != AQ_OK) {
                EXPECT_MESSAGE(what, chunk_cases[i].message);
                EXPECT_HELPFUL(what);
            }
            cr_expect_eq(exists(in_dir("o.parquet")), k < 6 && status == AQ_OK);
            temp_path_remove(in_dir("o.parquet"));
            cr_expect_eq(temp_dir_entries(here.path), 1, "%s", what);
        }
    }
}

/* Chunks of one tensor in two files of a directory are one; the same chunk in two is an
 * error. */
Test(jobs, chunks_in_several_files) {
    static const row first = {F32, S, 20, 0, 2, NO_BITS},
                     second = {F32, S, 12, 1, 2, NO_BITS};
    aq_model *m;
    aq_tensor t;
    cr_assert_eq(mkdir(in_dir("d"), 0700), 0);
    save_rows(in_dir("d/2.parquet"), &first, 1);
    save_rows(in_dir("d/1.parquet"), &second, 1);
    ASSERT_OK(aq_model_open(in_dir("d"), NULL, &m, &err));
    cr_assert_eq(aq_model_count(m), 1);
    ASSERT_OK(aq_model_find(m, "w", &t, &err));
    cr_assert_eq(t.data_bytes, 128);
    aq_tensor_release(&t);
    aq_model_close(m);
    save_rows(in_dir("d/3.parquet"), &second, 1);
    ASSERT_STATUS(aq_model_open(in_dir("d"), NULL, &m, &err), AQ_E_DUPLICATE);
    save_rows(in_dir("d/3.parquet"), &first, 1);
    ASSERT_STATUS(aq_model_open(in_dir("d"), NULL, &m, &err), AQ_E_FORMAT);
}

/* A changed byte of a chunked file is found when a job reads it; or the output is that of
 * the file as it was: not all bytes of page headers, and none of padding, say anything. */
Test(jobs, damaged_chunks) {
    aq_job_options q = {.chunk_bytes = 700, .no_sync = true};
    file f, good[2];
    size_t found = 0;
    save_matrix(in_dir("m.safetensors"), 40, 128);
    f = run_job(in_dir("m.safetensors"), in_dir("q.parquet"), &q, NULL);
    for (int k = 0; k < 2; k++) {
        const aq_job_options o = {.operation = k == 0 ? AQ_DEQUANTIZE : AQ_CONVERT};
        good[k] = run_job(in_dir("q.parquet"), in_dir("o.parquet"), &o, NULL);
    }
    temp_path_remove(in_dir("o.parquet"));
    for (size_t at = 4; at + 8 < f.size; at += 31) {
        temp_path_remove(in_dir("q.parquet"));
        file_write_damaged(in_dir("q.parquet"), &f, at);
        for (int k = 0; k < 8; k++) {
            aq_job_options o = {.operation = k % 2 == 0 ? AQ_DEQUANTIZE : AQ_CONVERT};
            o.mode = (aq_job_mode)(k / 2 % 2);
            o.io = k < 4 ? AQ_IO_READ : AQ_IO_MAP;
            o.no_sync = true;
            if (aq_job_run(in_dir("q.parquet"), in_dir("o.parquet"), &o, NULL, &err) ==
                AQ_OK) {
                file out = file_read(in_dir("o.parquet"));
                cr_assert(file_equal(&out, &good[k % 2]), "byte %zu", at);
                file_free(&out);
                temp_path_remove(in_dir("o.parquet"));
            } else {
                found++;
                EXPECT_HELPFUL("damage");
            }
            cr_assert_eq(temp_dir_entries(here.path), 2, "byte %zu", at);
        }
    }
    cr_assert_gt(found, 600);
    file_free(&f);
    file_free(&good[0]);
    file_free(&good[1]);
}

/* ---- shards ---- */

/* Runs every shard of a job; paths to `paths`, in another order than their numbers. */
static void run_shards(const char *in, aq_job_options o, uint32_t n, char (*names)[512],
                       const char **paths) {
    o.num_shards = n;
    for (uint32_t i = 0; i < n; i++) {
        char name[32];
        snprintf(name, sizeof name, "s%u.parquet", i);
        temp_dir_file(&here, name, names[i], sizeof names[i]);
        paths[(i * 7 + 3) % n == i ? i : n - 1 - i] = names[i];
        o.shard = i;
        o.mode = (aq_job_mode)(i % 2);
        o.threads = 1 + i % 3;
        ASSERT_OK(aq_job_run(in, names[i], &o, NULL, &err));
    }
    for (uint32_t i = 0; i < n; i++)
        paths[i] = names[n - 1 - i];
}

enum { MAX_SHARDS = 20 };

/* Shards, joined, are the file of one run, for any number of them (more than there are
 * tensors, too), with small parameters, chunks, NaN, tensors done again. */
Test(jobs, shards_and_merge) {
    static const aq_job_options jobs[] = {
        {.quant = {.bits = 4}},
        {.quant = {.params = AQ_PARAMS_U8}},
        {.quant = {.bits = 2, .params = AQ_PARAMS_F16}, .min_cosine = 0.98},
        {.quant = {.bits = 2, .codebook = true, .params = AQ_PARAMS_U8},
         .min_cosine = 0.97,
         .chunk_bytes = 9000},
        {.operation = AQ_CONVERT, .chunk_bytes = 3000}};
    for (uint64_t seed = 301; seed <= 306; seed++) {
        rng r = {seed};
        random_model m;
        char in[512];
        random_model_make(&m, &r, seed % 2 == 0);
        snprintf(in, sizeof in, "%s", in_dir("m.safetensors"));
        ASSERT_OK(aq_model_save(in, m.tensors, m.count, &fast, &err));
        for (size_t k = 0; k < COUNT_OF(jobs); k++) {
            static const uint32_t counts[] = {1, 2, 3, 7, MAX_SHARDS};
            aq_job_options o = jobs[k], merge = {.chunk_bytes = jobs[k].chunk_bytes};
            file one;
            o.no_sync = merge.no_sync = true;
            one = run_job(in, in_dir("one.parquet"), &o, NULL);
            for (size_t i = 0; i < COUNT_OF(counts); i++) {
                char names[MAX_SHARDS][512];
                const char *paths[MAX_SHARDS];
                size_t tensors;
                aq_job_report report;
                aq_model *whole;
                file f;
                run_shards(in, o, counts[i], names, paths);
                merge.threads = (uint32_t)i;
                merge.mode = (aq_job_mode)(i % 2);
                ASSERT_OK(aq_merge(paths, counts[i], in_dir("all.parquet"), &merge,
                                   &report, &err));
                tensors = report.num_tensors;
                aq_job_report_deinit(&report);
                f = file_read(in_dir("all.parquet"));
                cr_assert(file_equal(&one, &f), "%u shards, options %zu", counts[i], k);
                ASSERT_OK(aq_model_open(in_dir("one.parquet"), NULL, &whole, &err));
                cr_assert_eq(tensors, aq_model_count(whole));
                aq_model_close(whole);
                file_free(&f);
                for (uint32_t n = 0; n < counts[i]; n++)
                    remove(names[n]);
            }
            file_free(&one);
        }
        random_model_free(&m);
    }
}

static bool plan_scales(void *user, const aq_tensor *t, aq_plan *plan) {
    (void)t;
    plan->quant.column_scales = (const float *)user;
    return true;
}

/* Also when the only tensor with small parameters, or with scales of its columns, has been
 * kept; and whatever else the options say, that is not for a merge. */
Test(jobs, merge_of_what_was_kept) {
    float scales[16] = {2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1};
    float values[4 * 16] = {NAN};
    const uint64_t shape[2] = {4, 16};
    const char *const names[2] = {"a", "b"};
    aq_tensor t[2];
    for (int i = 0; i < 2; i++)
        ASSERT_OK(aq_tensor_init(&t[i], names[i], AQ_F32, shape, 2, le_floats(values, 64), &err));
    ASSERT_OK(aq_model_save(in_dir("m.safetensors"), t, 2, &fast, &err));
    for (int k = 0; k < 2; k++) {
        aq_job_options o = {.quant = {.bits = 8}, .no_sync = true};
        char paths[2][512];
        const char *shards[2] = {paths[0], paths[1]};
        aq_tensor kept;
        aq_model *m;
        file one, all;
        if (k == 0) o.quant.params = AQ_PARAMS_U8;
        if (k == 1) o.plan = plan_scales;
        if (k == 1) o.plan_user = scales;
        one = run_job(in_dir("m.safetensors"), in_dir("one.parquet"), &o, NULL);
        ASSERT_OK(aq_model_open(in_dir("one.parquet"), NULL, &m, &err));
        ASSERT_OK(aq_model_find(m, "a", &kept, &err));
        cr_assert(kept.layout.bits == 0 &&
                  (kept.diffusion == NULL || kept.diffusion->spatial == NULL));
        aq_tensor_release(&kept);
        aq_model_close(m);
        run_shards(in_dir("m.safetensors"), o, 2, paths, shards);
        o.target_bpw = 4;
        o.calibration_path = "none";
        o.operation = AQ_DEQUANTIZE;
        ASSERT_OK(aq_merge(shards, 2, in_dir("all.parquet"), &o, NULL, &err));
        all = file_read(in_dir("all.parquet"));
        cr_assert(file_equal(&one, &all), "%d: other bytes", k);
        file_free(&one);
        file_free(&all);
    }
}

/* Shards get about the same number of bytes each: none over its part by more than one
 * tensor. */
Test(jobs, shards_are_of_equal_size) {
    enum { TENSORS = 60, SHARDS = 7 };
    static const float values[64 * 100];
    static char names[TENSORS][8];
    aq_tensor t[TENSORS];
    uint64_t total = 0, seen = 0, largest = 0;
    rng r = {3};
    for (size_t i = 0; i < TENSORS; i++) {
        snprintf(names[i], sizeof names[i], "%02zu", i);
        t[i] = matrix_of(names[i], 1 + rng_below(&r, 64), 100, values);
        total += t[i].data_bytes;
        if (t[i].data_bytes > largest) largest = t[i].data_bytes;
    }
    ASSERT_OK(aq_model_save(in_dir("m.safetensors"), t, TENSORS, &fast, &err));
    for (uint32_t i = 0; i < SHARDS; i++) {
        const aq_job_options o = {.dry_run = true, .shard = i, .num_shards = SHARDS};
        aq_job_report report;
        ASSERT_OK(aq_job_run(in_dir("m.safetensors"), NULL, &o, &report, &err));
        cr_assert_leq(report.bytes_in, total / SHARDS + 1 + largest);
        cr_assert_geq(report.bytes_in + largest, total / SHARDS);
        seen += report.bytes_in;
        aq_job_report_deinit(&report);
    }
    cr_assert_eq(seen, total);
}

static void expect_no_merge(const char *const *paths, size_t n, aq_status wanted,
                            const char *message) {
    const size_t before = temp_dir_entries(here.path);
    ASSERT_STATUS(aq_merge(paths, n, in_dir("all.parquet"), NULL, NULL, &err), wanted);
    ASSERT_MESSAGE("merge", message);
    EXPECT_HELPFUL("merge");
    cr_assert_eq(temp_dir_entries(here.path), before);
}

Test(jobs, merge_errors) {
    char names[3][512], others[4][512];
    const char *paths[4], *mixed[4];
    aq_job_options o = {.no_sync = true};
    char in[512], one[512], other[512];
    aq_job_report r;
    snprintf(in, sizeof in, "%s", in_dir("m.safetensors"));
    snprintf(one, sizeof one, "%s", in_dir("one.parquet"));
    snprintf(other, sizeof other, "%s", in_dir("n.safetensors"));
    save_gate_model(in);
    save_nan_model(other, NULL, 0);
    ASSERT_OK(aq_job_run(in, one, &o, NULL, &err));
    run_shards(in, o, 3, names, paths);
    ASSERT_OK(aq_merge(paths, 3, in_dir("all.parquet"), NULL, NULL, &err));
    remove(in_dir("all.parquet"));
    /* Missing, twice, too many, none. */
    expect_no_merge(paths, 2, AQ_E_ARG, "2 were given");
    mixed[0] = paths[0], mixed[1] = paths[1], mixed[2] = paths[1], mixed[3] = paths[2];
    expect_no_merge(mixed, 3, AQ_E_DUPLICATE, "twice");
    expect_no_merge(mixed, 4, AQ_E_DUPLICATE, "twice");
    ASSERT_STATUS(aq_merge(paths, 0, in_dir("all.parquet"), NULL, &r, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_merge(NULL, 3, in_dir("all.parquet"), NULL, &r, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_merge(paths, 3, NULL, NULL, &r, &err), AQ_E_ARG);
    mixed[1] = NULL;
    ASSERT_STATUS(aq_merge(mixed, 2, in_dir("all.parquet"), NULL, &r, &err), AQ_E_ARG);
    /* No shards. */
    mixed[0] = one;
    expect_no_merge(mixed, 1, AQ_E_FORMAT, "no shard");
    mixed[0] = paths[0], mixed[1] = paths[1], mixed[2] = in_dir("none");
    expect_no_merge(mixed, 3, AQ_E_IO, "No such file");
    mixed[2] = in;
    ASSERT_STATUS(aq_merge(mixed, 3, in_dir("all.parquet"), NULL, NULL, &err),
                  AQ_E_FORMAT);
    /* Numbers that no shard has. */
    for (size_t i = 0; i < 2; i++) {
        static const char *const numbers[] = {
            "{\"index\":4294967296,\"count\":1,\"input_bytes\":5}",
            "{\"index\":0,\"count\":4294967297,\"input_bytes\":5}"};
        static const char source[] = "{\"file\":\"m\",\"tensors_crc32\":\"00000000\"}";
        const aq_key_value pairs[] = {
            {"arrowquant.shard", numbers[i], strlen(numbers[i])},
            {"arrowquant.source", source, sizeof source - 1}};
        aq_model_writer_options w = {.metadata = pairs, .num_metadata = 2};
        ASSERT_OK(aq_model_save(in_dir("odd.parquet"), NULL, 0, &w, &err));
        mixed[0] = in_dir("odd.parquet");
        expect_no_merge(mixed, 1, AQ_E_FORMAT, "no shard");
        remove(in_dir("odd.parquet"));
    }
    /* Onto one of them. */
    ASSERT_STATUS(aq_merge(paths, 3, names[1], NULL, NULL, &err), AQ_E_ARG);
    ASSERT_OK(aq_merge(paths, 3, in_dir("all.parquet"), NULL, NULL, &err));
    remove(in_dir("all.parquet"));
    /* Of a merge that resumes, or has a shard of its own. */
    o.resume = true;
    ASSERT_STATUS(aq_merge(paths, 3, in_dir("all.parquet"), &o, NULL, &err), AQ_E_ARG);
    o.resume = false;
    o.num_shards = 2;
    ASSERT_STATUS(aq_merge(paths, 3, in_dir("all.parquet"), &o, NULL, &err), AQ_E_ARG);
    o.num_shards = 3;
    o.shard = 3; /* they count from 0 */
    ASSERT_STATUS(aq_job_run(in, in_dir("x.parquet"), &o, NULL, &err), AQ_E_ARG);
    o.shard = 0;
    o.target_bpw = 5;
    ASSERT_STATUS(aq_job_run(in, in_dir("x.parquet"), &o, NULL, &err), AQ_E_ARG);
    o.target_bpw = 0;
    /* Another job's: options, model, number of shards. */
    for (size_t i = 0; i < 4; i++) {
        const char *const from = i == 1 ? other : in;
        snprintf(others[i], sizeof others[i], "%s", in_dir("other.parquet"));
        o.quant.bits = i == 0 ? 8 : 0;
        o.num_shards = i == 2 ? 2 : 3;
        o.min_cosine = i == 3 ? 0.5 : 0.0;
        for (o.shard = 0; o.shard < o.num_shards; o.shard++) {
            mixed[0] = names[0], mixed[1] = names[1], mixed[2] = names[2];
            ASSERT_OK(aq_job_run(from, others[i], &o, NULL, &err));
            mixed[o.shard] = others[i];
            if (i == 2) { /* whichever is seen first: it has a tensor of its neighbour */
                const size_t entries = temp_dir_entries(here.path);
                aq_status status =
                    aq_merge(mixed, 3, in_dir("all.parquet"), NULL, NULL, &err);
                cr_assert(status == AQ_E_ARG || status == AQ_E_DUPLICATE, "%s",
                          err.message);
                cr_assert_eq(temp_dir_entries(here.path), entries);
            } else {
                expect_no_merge(mixed, 3, AQ_E_ARG, "shard of another model");
            }
            remove(others[i]);
        }
    }
}

/* ---- every allocation can fail ---- */

static bool stop_at_third(void *user, const aq_progress *p) {
    (void)p;
    return ++*(size_t *)user < 3;
}

static size_t open_files(void) { return temp_dir_entries("/proc/self/fd"); }

/* What the directory holds before each try, and a run with an allocator. */
typedef struct allocating {
    const char *what, *out;
    aq_job_options options;
    bool stopped; /* an earlier run was: there is something to resume */
    bool merge;
} allocating;

static const allocating allocating_jobs[] = {
    {"quantize", "o.parquet", {.min_cosine = 0.98, .quant = {.bits = 2}}, false, false},
    {"chunks", "o.parquet", {.chunk_bytes = 900}, false, false},
    {"parallel", "o.parquet", {.mode = AQ_JOB_PARALLEL, .io = AQ_IO_READ}, false, false},
    {"target", "o.parquet", {.target_bpw = 24}, false, false},
    {"convert", "o.safetensors", {.operation = AQ_CONVERT}, false, false},
    {"directory", "o/", {.quant = {.params = AQ_PARAMS_U8}}, false, false},
    {"resumable", "o.parquet", {.resume = true}, false, false},
    {"resumed", "o.parquet", {.resume = true, .target_bpw = 24}, true, false},
    {"resumed again", "o.parquet", {.resume = true, .chunk_bytes = 900}, true, false},
    {"merge", "o.parquet", {.threads = 1}, false, true},
};

static aq_status run_allocating(const allocating *a, const aq_allocator *allocator,
                                const char *const *shards) {
    aq_job_options o = a->options;
    aq_job_report r;
    aq_status status;
    o.allocator = allocator;
    o.threads = 1;
    o.no_sync = true;
    status = a->merge ? aq_merge(shards, 3, in_dir(a->out), &o, &r, &err)
                      : aq_job_run(in_dir("m.safetensors"), in_dir(a->out), &o, &r, &err);
    if (status == AQ_OK) aq_job_report_deinit(&r);
    return status;
}

static file read_output(const char *out) {
    return out[1] == '/' ? directory_read(in_dir("o")) : file_read(in_dir(out));
}

static void remove_output(const char *out) {
    temp_path_remove(out[1] == '/' ? in_dir("o") : in_dir(out));
}

Test(jobs, every_allocation_fails, .timeout = 240) {
    static const float values[4][300] = {{1, 2, -3}, {0}, {(float)NAN}, {5, 6}};
    char names[3][512];
    const char *shards[3];
    aq_tensor t[4];
    size_t before, files;
    t[0] = matrix_of("a", 10, 30, values[0]);
    t[1] = matrix_of("b", 30, 10, values[1]);
    t[2] = matrix_of("c", 20, 15, values[2]);
    t[3] = matrix_of("d", 15, 20, values[3]);
    ASSERT_OK(aq_model_save(in_dir("m.safetensors"), t, 4, &fast, &err));
    run_shards(in_dir("m.safetensors"), (aq_job_options){.no_sync = true}, 3, names,
               shards);
    before = temp_dir_entries(here.path);
    files = open_files();
    for (size_t i = 0; i < COUNT_OF(allocating_jobs); i++) {
        const allocating *a = &allocating_jobs[i];
        size_t k = 0;
        aq_status status;
        bool failed; /* the allocation was one of the job's */
        file want;
        ASSERT_OK(run_allocating(a, NULL, shards));
        want = read_output(a->out);
        remove_output(a->out);
        do {
            counting_allocator c;
            if (a->stopped) {
                aq_job_options o = a->options;
                size_t calls = 0;
                o.no_sync = true;
                o.threads = 1;
                o.progress.fn = stop_at_third;
                o.progress.user = &calls;
                ASSERT_STATUS(
                    aq_job_run(in_dir("m.safetensors"), in_dir(a->out), &o, NULL, &err),
                    AQ_E_CANCELLED);
            }
            counting_init(&c);
            c.fail_at = ++k;
            status = run_allocating(a, &c.hooks, shards);
            failed = c.calls >= k;
            cr_assert(status == AQ_OK || (failed && status == AQ_E_NOMEM),
                      "%s, call %zu: %s, %s", a->what, k, aq_status_name(status),
                      err.message);
            cr_assert(counting_is_clean(&c), "%s, call %zu", a->what, k);
            cr_assert_eq(open_files(), files, "%s, call %zu", a->what, k);
            if (status == AQ_OK || a->options.resume) {
                file got;
                if (status != AQ_OK) { /* and what it left is good */
                    cr_assert_not(exists(in_dir(a->out)));
                    ASSERT_OK(run_allocating(a, NULL, shards));
                }
                got = read_output(a->out);
                cr_assert(file_equal(&want, &got), "%s, call %zu", a->what, k);
                file_free(&got);
                remove_output(a->out);
            }
            cr_assert_eq(temp_dir_entries(here.path), before, "%s, call %zu", a->what, k);
        } while (failed);
        cr_assert_gt(k, 30, "%s", a->what);
        file_free(&want);
    }
}

/* ---- the pool ---- */

/* A pool that is handed in does the work, and has it all back. */
Test(jobs, pool_of_the_caller) {
    aq_pool_options po = {.min_buffer_bytes = 1 << 16};
    aq_pool *pool;
    aq_pool_stats s, again;
    aq_job_options o = {.threads = 2, .io = AQ_IO_READ, .no_sync = true};
    counting_allocator c;
    counting_init(&c);
    po.allocator = &c.hooks;
    save_gate_model(in_dir("m.safetensors"));
    ASSERT_OK(aq_pool_create(&po, &pool, &err));
    o.pool = pool;
    for (int mode = 0; mode < 2; mode++) {
        aq_job_report r;
        o.mode = (aq_job_mode)mode;
        aq_pool_reset_stats(pool);
        ASSERT_OK(aq_job_run(in_dir("m.safetensors"), in_dir("q.parquet"), &o, &r, &err));
        aq_pool_get_stats(pool, &s);
        cr_assert_geq(s.acquires, 8); /* values in, codes out, of 4 tensors */
        cr_assert(s.buffers_in_use == 0 && s.bytes_in_use == 0);
        cr_assert_eq(r.pool.acquires, s.acquires);
        cr_assert_eq(r.pool.hits, s.hits);
        aq_job_report_deinit(&r);
    }
    aq_pool_reset_stats(pool); /* warm by now */
    ASSERT_OK(aq_job_run(in_dir("m.safetensors"), in_dir("q.parquet"), &o, NULL, &err));
    aq_pool_get_stats(pool, &again);
    cr_assert_gt(again.hits, 0);
    o.fail_fast = true;
    o.min_cosine = 1;
    ASSERT_STATUS(
        aq_job_run(in_dir("m.safetensors"), in_dir("q.parquet"), &o, NULL, &err),
        AQ_E_QUALITY);
    aq_pool_get_stats(pool, &s);
    cr_assert_eq(s.buffers_in_use, 0);
    aq_pool_destroy(pool);
    cr_assert(counting_is_clean(&c));
}

/* 300 tensors of many sizes: over 9 of 10 buffers are ones that were used before. */
Test(jobs, hit_rate) {
    enum { TENSORS = 300 };
    static char names[TENSORS][8];
    static float values[128 * 384];
    aq_tensor t[TENSORS];
    rng r = {8};
    rng_floats(&r, values, COUNT_OF(values), 1);
    for (size_t i = 0; i < TENSORS; i++) {
        snprintf(names[i], sizeof names[i], "%03zu", i);
        t[i] =
            matrix_of(names[i], 1 + rng_below(&r, 128), 1 + rng_below(&r, 384), values);
    }
    ASSERT_OK(aq_model_save(in_dir("m.safetensors"), t, TENSORS, &fast, &err));
    for (int k = 0; k < 8; k++) {
        aq_job_options o = {.threads = 1 + 3 * (uint32_t)(k / 4), .no_sync = true};
        aq_job_report report;
        o.mode = (aq_job_mode)(k % 2);
        if (k % 4 >= 2) o.io = AQ_IO_READ;
        ASSERT_OK(
            aq_job_run(in_dir("m.safetensors"), in_dir("q.parquet"), &o, &report, &err));
        cr_assert_geq(report.pool.acquires, TENSORS);
        cr_assert_gt(report.pool.hit_rate, 0.9, "%g, %u threads, mode %d",
                     report.pool.hit_rate, o.threads, k % 2);
        aq_job_report_deinit(&report);
    }
}

/* ---- a file that shrinks, and one that is large ---- */

typedef struct shrinking {
    const char *path;
    long bytes, at; /* at this call it is cut to so many bytes */
} shrinking;

static bool shrink(void *user, const aq_progress *p) {
    shrinking *s = user;
    (void)p;
    if (s->at-- == 0) cr_assert_eq(truncate(s->path, s->bytes), 0);
    return true;
}

/* The input becomes shorter while a job reads it: an error, and nothing appears. It has
 * more pieces than threads can be ahead. */
Test(jobs, input_that_shrinks) {
    char in[512];
    snprintf(in, sizeof in, "%s", in_dir("m.safetensors"));
    for (int k = 0; k < 12; k++) {
        aq_job_options o = {.threads = 1 + 2 * (uint32_t)(k / 6), .no_sync = true};
        shrinking s = {in, 4096, k % 3};
        save_matrix(in, 2048, 1024);
        o.mode = (aq_job_mode)(k / 3 % 2);
        o.io = AQ_IO_READ;
        o.max_memory_bytes = 1 << 20;
        o.progress.fn = shrink;
        o.progress.user = &s;
        ASSERT_STATUS(aq_job_run(in, in_dir("q.parquet"), &o, NULL, &err), AQ_E_IO);
        ASSERT_MESSAGE("shrunk", "shorter");
        cr_assert_eq(temp_dir_entries(here.path), 1);
    }
}

/* Room for files with holes of this size, which come to be whole in the page cache. */
static bool room_for(const char *path, uint64_t bytes) {
    struct statvfs fs;
    const long pages = sysconf(_SC_AVPHYS_PAGES);
    return statvfs(path, &fs) == 0 && (uint64_t)fs.f_bavail * fs.f_frsize > 2 * bytes &&
           (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE) > bytes;
}

/* A .npy file of one tensor that is all zeros but the few values that are put into it. */
static FILE *begin_npy(const char *path, const char *descr, const char *shape,
                       uint64_t bytes) {
    char head[128];
    FILE *f = fopen(path, "w+b");
    cr_assert_not_null(f);
    memset(head, ' ', sizeof head);
    memcpy(head, "\x93NUMPY\x01\x00\x76\x00", 10);
    head[10 + snprintf(head + 10, sizeof head - 10,
                       "{'descr': '%s', 'fortran_order': False, 'shape': %s, }", descr,
                       shape)] = ' ';
    head[sizeof head - 1] = '\n';
    cr_assert_eq(fwrite(head, 1, sizeof head, f), sizeof head);
    cr_assert_eq(ftruncate(fileno(f), (off_t)(sizeof head + bytes)), 0);
    return f;
}

#ifdef LARGE_TESTS /* by the command line */
#elif SIZE_MAX < UINT64_MAX
#define LARGE_TESTS 0 /* 2 GiB are too large for the machine */
#elif defined(__SANITIZE_ADDRESS__)
#define LARGE_TESTS 0 /* minutes */
#else
#define LARGE_TESTS 1
#endif

/* 2.25 GiB of float32, in 2 MiB of memory: to 2 bits, and what is not zero is there. */
Test(jobs, over_2_gib_in_bounded_memory) {
    enum { ROWS = 9, COLS = 64 << 20 };
    const uint64_t bytes = (uint64_t)ROWS * COLS * 4;
    const float values[4] = {1, -2, 1, 0};
    aq_job_options o = {.quant = {.bits = 2, .group_size = 4096}, .no_sync = true};
    counting_allocator c;
    aq_model *m;
    aq_tensor t;
    aq_layout l;
    float row[4096];
    FILE *f;
    if (!LARGE_TESTS || !room_for(here.path, bytes))
        SKIP_TEST("no room, a sanitizer, an emulator, or 32 bits");
    f = begin_npy(in_dir("w.npy"), "<f4", "(9, 67108864)", bytes);
    cr_assert_eq(fseeko(f, (off_t)(128 + bytes - sizeof values), SEEK_SET), 0);
    cr_assert_eq(fwrite(values, 1, sizeof values, f), sizeof values);
    cr_assert_eq(fclose(f), 0);
    counting_init(&c);
    o.allocator = &c.hooks;
    o.max_memory_bytes = 2 << 20;
    o.io = AQ_IO_READ;
    ASSERT_OK(aq_job_run(in_dir("w.npy"), in_dir("q.parquet"), &o, NULL, &err));
    cr_assert(counting_is_clean(&c));
    cr_assert_lt(c.peak_bytes, 4 << 20, "%zu bytes", c.peak_bytes);
    ASSERT_OK(aq_model_open(in_dir("q.parquet"), NULL, &m, &err));
    ASSERT_OK(aq_model_tensor(m, 0, &t, &err));
    cr_assert(t.num_params == (uint64_t)ROWS * COLS && t.layout.bits == 2);
    l = t.layout;
    l.rows = 1; /* the last group alone */
    ASSERT_OK(aq_layout_init(1, 4096, &o.quant, &l, &err));
    {
        const aq_quantized_view last = {t.data + t.data_bytes - 1024,
                                        t.scales + t.layout.num_groups - 1,
                                        t.zero_points + t.layout.num_groups - 1, NULL};
        ASSERT_OK(aq_dequantize_rows(&l, &last, 0, 1, row, NULL, &err));
    }
    cr_assert(row[4092] == 1 && row[4093] == -2 && row[4094] == 1 && row[4095] == 0);
    cr_assert(row[0] == 0 && row[4091] == 0);
    for (size_t i = 0; i + 1 < t.data_bytes / 1024; i += 997)
        cr_assert_eq(t.scales[i] * (float)(t.data[i * 1024] & 3),
                     t.scales[i] * t.zero_points[i]);
    aq_tensor_release(&t);
    aq_model_close(m);
}

/* 1 MiB over 2 GiB of int8, kept: the format demands chunks, and each value is at its
 * place. */
Test(jobs, over_2_gib_kept_in_chunks) {
    const uint64_t bytes = (uint64_t)2049 << 20;
    static const uint64_t marks[] = {0,
                                     1,
                                     (1u << 30) - 1,
                                     1u << 30,
                                     (1u << 31) - 1,
                                     1u << 31,
                                     ((uint64_t)2049 << 20) - 1};
    const aq_job_options o = {.io = AQ_IO_READ, .no_sync = true};
    aq_parquet *p;
    aq_parquet_info info;
    uint64_t first = 0, found = 0;
    int32_t column = -1;
    FILE *f;
    if (!LARGE_TESTS || !room_for(here.path, bytes))
        SKIP_TEST("no room, a sanitizer, an emulator, or 32 bits");
    f = begin_npy(in_dir("w.npy"), "|i1", "(2049, 1048576)", bytes);
    for (size_t i = 0; i < COUNT_OF(marks); i++) {
        cr_assert_eq(fseeko(f, (off_t)(128 + marks[i]), SEEK_SET), 0);
        cr_assert_neq(fputc((int)i + 1, f), EOF);
    }
    cr_assert_eq(fclose(f), 0);
    ASSERT_OK(aq_job_run(in_dir("w.npy"), in_dir("q.parquet"), &o, NULL, &err));
    ASSERT_OK(aq_parquet_open(in_dir("q.parquet"), NULL, &p, &err));
    aq_parquet_get_info(p, &info);
    cr_assert_eq(info.num_row_groups, 3); /* of 1 GiB */
    for (int32_t i = 0; i < info.num_columns; i++) {
        if (strcmp(aq_parquet_column_field(p, i)->name, "data") == 0) column = i;
    }
    for (int32_t g = 0; g < info.num_row_groups; g++) {
        aq_column *c;
        aq_span span;
        const aq_bytes *data;
        ASSERT_OK(aq_column_open(p, g, column, &c, &err));
        ASSERT_OK(aq_column_view(c, &span, &err));
        data = span.values;
        for (size_t i = 0; i < COUNT_OF(marks); i++) {
            if (marks[i] < first || marks[i] - first >= data->size) continue;
            cr_assert_eq(data->data[marks[i] - first], i + 1);
            found++;
        }
        first += data->size;
        aq_column_close(c);
    }
    cr_assert_eq(first, bytes);
    cr_assert_eq(found, COUNT_OF(marks));
    aq_parquet_close(p);
}
