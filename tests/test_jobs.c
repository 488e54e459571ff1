/* test_jobs.c - jobs: the same bytes for any mode, threads, memory and way of reading, and
 * those of aq_quantize_into; tensors done again; sizes met; directories; shards; damage;
 * and nothing left by what fails. */
#include "jobs.h"

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
    for (uint64_t seed = 1; seed <= 12; seed++)
        random_round(seed);
}

Test(jobs, random_models_b) {
    for (uint64_t seed = 101; seed <= 112; seed++)
        random_round(seed);
}

/* Values survive the way there and back: floats of a converted model are the same bits, and
 * dequantized ones those of aq_tensor_rows_f32. */
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

/* The memory that a job takes from its allocator stays near max_memory_bytes, whatever the
 * size of a tensor: 16 MiB here. */
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

enum { NAN_TENSORS = 5, NAN_ROWS = 30, NAN_COLS = 9000 };

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
    {2, {{2, 17, 8000}, {2, 3, 1}}},
    {3, {{1, 29, 0}, {3, 0, 8999}, {4, 12, 345}}},
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

static curve curve_of(const aq_tensor *t) {
    curve c = {{0}, {0}};
    c.bytes[RATES - 1] = t->data_bytes;
    for (int k = 0; k < RATES - 1; k++) {
        const aq_quant_options q = {.bits = rate_bits[k]};
        aq_layout l;
        aq_metrics m;
        aq_quantized d;
        ASSERT_OK(aq_layout_init(t->layout.rows, t->layout.cols, &q, &l, &err));
        d.codes = malloc(l.code_bytes);
        d.scales = malloc(l.num_groups * sizeof(float));
        d.zero_points = malloc(l.num_groups * sizeof(float));
        d.params = NULL;
        ASSERT_OK(aq_quantize_into(&l, t->data, t->dtype, &d, NULL, &m, &err));
        c.bytes[k] = l.code_bytes + 2 * sizeof(float) * l.num_groups;
        c.loss[k] = m.sum_dd / m.sum_aa * (double)m.count;
        free(d.codes);
        free(d.scales);
        free(d.zero_points);
    }
    return c;
}

/* Matrices of several sizes, types and spreads, a vector that is always kept. */
static void save_fit_model(const char *path, uint64_t seed, curve *curves,
                           uint64_t *out_fixed) {
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
        curves[i] = curve_of(&t[i]);
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
static double job_loss(const aq_job_report *r, const curve *curves, uint64_t *bytes) {
    int rates[FIT_TENSORS];
    for (size_t i = 0; i < FIT_TENSORS; i++) {
        rates[i] = 0;
        while (rate_bits[rates[i]] != r->tensors[i].tensor.layout.bits)
            rates[i]++;
        cr_assert_eq(r->tensors[i].bytes_out, curves[i].bytes[rates[i]]);
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
    loss = job_loss(&r, curves, &bytes);
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
    for (uint64_t seed = 1; seed <= 6; seed++) {
        curve curves[FIT_TENSORS];
        uint64_t fixed, least = 0, most = 0;
        save_fit_model(in_dir("m.safetensors"), seed, curves, &fixed);
        for (size_t i = 0; i < FIT_TENSORS; i++) {
            least += curves[i].bytes[0];
            most += curves[i].bytes[RATES - 1];
        }
        for (int k = 0; k <= 12; k++) {
            const uint64_t target = least + (most - least) * (uint64_t)k / 12;
            aq_job_options o = {.target_bytes = target + fixed};
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
    save_fit_model(in_dir("m.safetensors"), 9, curves, &fixed);
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

/* One byte less than 2 bits everywhere is an error that says how much that is. */
Test(jobs, target_out_of_reach) {
    curve curves[FIT_TENSORS];
    uint64_t fixed, least;
    char text[40];
    aq_job_options o = {.target_bytes = 1, .no_sync = true};
    save_fit_model(in_dir("m.safetensors"), 3, curves, &fixed);
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
            o.max_memory_bytes = 2 << 20; /* many pieces */
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
