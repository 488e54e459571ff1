/* test_model.c - models and jobs: tensors come from the mapping without copies, files
 * come back as they were saved, jobs give the same bytes whatever runs them, and what
 * fails or is cancelled leaves nothing. */
#include "cells.h"

#include <math.h>

/* Files are many and small: in memory where the system has such a directory. */
static void enter_fast_dir(void) {
    if (access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 1);
    enter_temp_dir();
}

TestSuite(model, .init = enter_fast_dir, .fini = leave_temp_dir, .timeout = 60);

static const aq_model_writer_options no_sync = {.no_sync = true};

static float *random_floats(size_t count, uint64_t seed) {
    float *values = malloc(count * sizeof *values);
    rng r = {seed};
    cr_assert_not_null(values);
    rng_floats(&r, values, count, 2);
    return values;
}

/* A model of one rows x cols matrix "w", quantized to 4 bits. */
static void make_quantized(const char *path, size_t rows, size_t cols) {
    float *values = random_floats(rows * cols, 5);
    aq_tensor t = matrix_of("w", rows, cols, values);
    aq_job_options o = {.threads = 1, .no_sync = true};
    ASSERT_OK(aq_model_save(in_dir("float.parquet"), &t, 1, &no_sync, &err));
    ASSERT_OK(aq_job_run(in_dir("float.parquet"), path, &o, NULL, &err));
    free(values);
}

/* ---- no copies ---- */

typedef struct range {
    uintptr_t begin, end;
} range;

/* Where the system says that a file is mapped. */
static range mapping_of(const char *path) {
    FILE *maps = fopen("/proc/self/maps", "r");
    range r = {0, 0};
    char line[1024];
    cr_assert_not_null(maps);
    while (fgets(line, sizeof line, maps) != NULL) {
        unsigned long begin, end;
        if (strstr(line, path) == NULL) continue;
        cr_assert_eq(sscanf(line, "%lx-%lx", &begin, &end), 2);
        r.begin = begin;
        r.end = end;
    }
    fclose(maps);
    return r;
}

static bool inside(range r, const void *p, size_t bytes) {
    uintptr_t at = (uintptr_t)p;
    return at >= r.begin && at < r.end && bytes <= r.end - at;
}

/* Bytes from the allocator for opening a model, and for finding its tensor. */
static void count_bytes(const char *path, size_t *out_open, size_t *out_find) {
    counting_allocator c;
    aq_model_options o = {.allocator = &c.hooks, .io = AQ_IO_MAP};
    aq_model *m;
    aq_tensor t;
    range file;
    counting_init(&c);
    ASSERT_OK(aq_model_open(path, &o, &m, &err));
    *out_open = c.peak_bytes;
    c.peak_bytes = c.live_bytes;
    *out_find = c.live_bytes;
    ASSERT_OK(aq_model_find(m, "w", &t, &err));
    file = mapping_of(path);
    cr_assert_eq(t.mapped, NUMBERS_IN_PLACE);
    cr_assert(inside(file, t.data, t.data_bytes));
    cr_assert_eq(inside(file, t.scales, t.layout.num_groups * sizeof(float)),
                 NUMBERS_IN_PLACE);
    cr_assert_eq(inside(file, t.zero_points, t.layout.num_groups * sizeof(float)),
                 NUMBERS_IN_PLACE);
    cr_assert_eq((uintptr_t)t.data % AQ_ALIGNMENT, 0);
    if (NUMBERS_IN_PLACE) {
        cr_assert_eq((uintptr_t)t.scales % AQ_ALIGNMENT, 0);
        cr_assert_eq((uintptr_t)t.zero_points % AQ_ALIGNMENT, 0);
    }
    aq_tensor_release(&t);
    *out_find = c.peak_bytes - *out_find;
    aq_model_close(m);
    cr_assert_eq(mapping_of(path).begin, 0); /* unmapped */
    cr_assert(counting_is_clean(&c));
}

Test(model, tensors_lie_in_the_mapping) {
    size_t small_open, small_find, large_open, large_find;
    char small[512], large[512];
    snprintf(small, sizeof small, "%s", in_dir("small.parquet"));
    snprintf(large, sizeof large, "%s", in_dir("large.parquet"));
    make_quantized(small, 128, 128);   /* 64 KiB of float32 */
    make_quantized(large, 4096, 4096); /* 64 MiB           */
    count_bytes(small, &small_open, &small_find);
    count_bytes(large, &large_open, &large_find);
    if (!NUMBERS_IN_PLACE) return; /* scales and zero points are copied */
    cr_assert_eq(small_find, large_find);
    /* The footer has a few bytes more of larger numbers. */
    cr_assert_lt(large_open, small_open + 1024, "%zu, %zu", small_open, large_open);
    cr_assert_lt(large_open + large_find, 128u << 10, "%zu, %zu", large_open, large_find);
}

/* Products from the codes in the mapping are those of the dequantized rows, and reading
 * instead of mapping gives the same bytes. */
Test(model, mapped_and_read_tensors_compute_the_same) {
    enum { ROWS = 33, COLS = 300 };
    const char *path = in_dir("q.parquet");
    aq_model_options read = {.io = AQ_IO_READ};
    float *x = random_floats(COLS, 3), *w = malloc(ROWS * COLS * sizeof *w), y[ROWS], dot;
    aq_model *mapped, *copied;
    aq_tensor a, b;
    make_quantized(path, ROWS, COLS);
    ASSERT_OK(aq_model_open(path, NULL, &mapped, &err));
    ASSERT_OK(aq_model_open(path, &read, &copied, &err));
    ASSERT_OK(aq_model_find(mapped, "w", &a, &err));
    ASSERT_OK(aq_model_find(copied, "w", &b, &err));
    cr_assert(a.mapped == NUMBERS_IN_PLACE && !b.mapped);
    cr_assert(a.data_bytes == b.data_bytes && a.layout.bits == 4);
    cr_assert_arr_eq(a.data, b.data, a.data_bytes);
    cr_assert_arr_eq(a.scales, b.scales, a.layout.num_groups * sizeof(float));
    cr_assert_arr_eq(a.zero_points, b.zero_points, a.layout.num_groups * sizeof(float));
    ASSERT_OK(aq_tensor_rows_f32(&a, 0, ROWS, w, NULL, &err));
    ASSERT_OK(aq_tensor_matvec(&a, x, y, NULL, &err));
    for (size_t r = 0; r < ROWS; r++) {
        double sum = 0, magnitude = 0;
        for (size_t c = 0; c < COLS; c++) {
            sum += (double)w[r * COLS + c] * (double)x[c];
            magnitude += fabs((double)w[r * COLS + c] * (double)x[c]);
        }
        ASSERT_OK(aq_tensor_dot(&a, r, x, &dot, &err));
        cr_assert_eq(dot, y[r]);
        cr_assert_lt(fabs(sum - (double)y[r]), 1e-6 * magnitude);
    }
    aq_tensor_release(&a);
    aq_tensor_release(&b);
    aq_tensor_release(&b); /* harmless */
    aq_model_close(mapped);
    aq_model_close(copied);
    free(x);
    free(w);
}

/* ---- save and open ---- */

static const char *const formats[] = {"m.parquet", "m.safetensors"};

static const aq_dtype dtypes[] = {
#define DTYPE(enumerator, value, name, bytes, safetensors) enumerator,
    AQ_DTYPE_LIST(DTYPE)
#undef DTYPE
};

static const char *const odd_names[] = {"a/b.c",
                                        "with \"quotes\" and \\",
                                        "\xe6\xa8\xa1\xe5\x9e\x8b",
                                        "\xf0\x9f\x90\xa2",
                                        "line\nfeed",
                                        "\x01\x1f control",
                                        " ",
                                        "__metadata",
                                        ".hidden",
                                        "a",
                                        "\x7f"};

#define NUM_DTYPES COUNT_OF(dtypes)
#define NUM_TENSORS (NUM_DTYPES + AQ_MAX_DIMS + 1 + COUNT_OF(odd_names))

/* Every dtype, 0 to 16 dimensions, and names that files can trip over. */
static size_t odd_tensors(aq_tensor *tensors, const uint8_t *data) {
    static char names[NUM_TENSORS][16];
    const uint64_t shape[AQ_MAX_DIMS] = {2, 3, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    size_t n = 0;
    for (size_t i = 0; i < NUM_DTYPES; i++, n++) {
        snprintf(names[n], sizeof names[n], "dtype%zu", i);
        tensors[n] = tensor_of(names[n], dtypes[i], shape, 2, data + i);
    }
    for (uint32_t dims = 0; dims <= AQ_MAX_DIMS; dims++, n++) {
        snprintf(names[n], sizeof names[n], "dims%u", dims);
        tensors[n] = tensor_of(names[n], AQ_F32, shape, dims, data);
    }
    for (size_t i = 0; i < COUNT_OF(odd_names); i++, n++)
        tensors[n] = tensor_of(odd_names[i], AQ_U8, shape, i % 2 == 0 ? 1 : 2, data + i);
    return n;
}

static void expect_tensor(const aq_model *m, const aq_tensor *want) {
    aq_tensor got, described;
    size_t index = aq_model_index(m, want->name);
    cr_assert_neq(index, SIZE_MAX, "%s", want->name);
    ASSERT_OK(aq_model_describe(m, index, &described, &err));
    ASSERT_OK(aq_model_find(m, want->name, &got, &err));
    cr_assert_str_eq(got.name, want->name);
    cr_assert_str_eq(described.name, want->name);
    cr_assert(described.data == NULL && described.data_bytes == want->data_bytes);
    cr_assert(got.dtype == want->dtype && got.num_dims == want->num_dims, "%s", got.name);
    cr_assert_arr_eq(got.shape, want->shape, sizeof got.shape);
    cr_assert(got.num_params == want->num_params && got.layout.bits == 0);
    cr_assert(got.layout.rows == want->layout.rows &&
              got.layout.cols == want->layout.cols);
    cr_assert_eq(got.data_bytes, want->data_bytes, "%s", got.name);
    cr_assert_arr_eq(got.data, want->data, want->data_bytes, "%s", got.name);
    cr_assert(got.mapped && isnan(got.cosine) && isnan(got.sqnr_db));
    cr_assert_eq((uintptr_t)got.data % aq_dtype_bytes(got.dtype), 0);
    aq_tensor_release(&got);
}

Test(model, everything_comes_back) {
    static const aq_key_value pairs[] = {
        {"license", "MIT", 3}, {"quote", "\"\\\n", 3}, {"\xc3\xa4", "\xe2\x82\xac", 3}};
    uint8_t data[256];
    aq_tensor tensors[NUM_TENSORS];
    rng r = {8};
    size_t n;
    rng_bytes(&r, data, sizeof data);
    n = odd_tensors(tensors, data);
    for (size_t f = 0; f < COUNT_OF(formats); f++) {
        aq_model_writer_options o = {.metadata = pairs, .num_metadata = COUNT_OF(pairs)};
        size_t found = 0;
        aq_key_value kv;
        aq_tensor t;
        aq_model *m;
        ASSERT_OK(aq_model_save(in_dir(formats[f]), tensors, n, &o, &err));
        ASSERT_OK(aq_model_open(in_dir(formats[f]), NULL, &m, &err));
        cr_assert_eq(aq_model_count(m), n);
        cr_assert_eq(aq_model_get_format(m),
                     f == 0 ? AQ_MODEL_PARQUET : AQ_MODEL_SAFETENSORS);
        for (size_t i = 0; i < n; i++)
            expect_tensor(m, &tensors[i]);
        for (size_t i = 0; aq_model_metadata(m, i, &kv); i++) {
            for (size_t k = 0; k < COUNT_OF(pairs); k++)
                found += strcmp(kv.key, pairs[k].key) == 0 &&
                         strcmp(kv.value, pairs[k].value) == 0;
        }
        cr_assert_eq(found, COUNT_OF(pairs));
        for (size_t i = 1; i < n; i++) { /* name order */
            aq_tensor before;
            ASSERT_OK(aq_model_describe(m, i - 1, &before, &err));
            ASSERT_OK(aq_model_describe(m, i, &t, &err));
            cr_assert_lt(strcmp(before.name, t.name), 0);
        }
        ASSERT_STATUS(aq_model_describe(m, n, &t, &err), AQ_E_ARG);
        ASSERT_STATUS(aq_model_find(m, "dtype", &t, &err), AQ_E_NOT_FOUND);
        ASSERT_MESSAGE("nearest", "\"dtype0\"");
        aq_model_close(m);
    }
}

/* What is saved can be opened: metadata that JSON cannot hold is refused at once. */
Test(model, odd_metadata) {
    enum { MANY = 5000 };
    static aq_key_value many[MANY];
    static char keys[MANY][8];
    static const aq_key_value cases[][2] = {{{"k", "\xff", 1}, {"l", "", 0}},
                                            {{"\xff", "v", 1}, {"l", "", 0}},
                                            {{"k", "1", 1}, {"k", "2", 1}},
                                            {{NULL, "v", 1}, {"l", "", 0}}};
    const float one = 1;
    aq_tensor t = tensor_of("t", AQ_F32, NULL, 0, &one);
    for (size_t i = 0; i <= COUNT_OF(cases); i++) {
        aq_model_writer_options o = {.metadata = many, .num_metadata = MANY};
        aq_status status;
        aq_model *m;
        for (size_t k = 0; k < MANY; k++) {
            snprintf(keys[k], sizeof keys[k], "%u", (unsigned)k % 100000u);
            many[k].key = keys[k];
            many[k].value = "v";
        }
        if (i < COUNT_OF(cases)) {
            o.metadata = cases[i];
            o.num_metadata = 2;
        }
        status = aq_model_save(in_dir("m.safetensors"), &t, 1, &o, &err);
        if (status != AQ_OK) {
            cr_assert(status == AQ_E_ARG || status == AQ_E_DUPLICATE, "%zu", i);
            continue;
        }
        status = aq_model_open(in_dir("m.safetensors"), NULL, &m, &err);
        cr_expect_eq(status, AQ_OK, "saved but cannot be opened: %s", err.message);
        if (status == AQ_OK) aq_model_close(m);
    }
}

Test(model, a_bin_file_beside) {
    static const float values[] = {1, 2, 3, 4};
    static const char *const fields[] = {"layer_name", "shape", "data"};
    static const int64_t shape[] = {2, 2};
    static const uint8_t rep[] = {0, 1}, def[] = {1, 1};
    static const aq_bytes name = {(const uint8_t *)"t", 1}, none = {NULL, 0};
    const aq_column_values columns[] = {{&name, .num_values = 1},
                                        {shape, 2, def, rep, .num_levels = 2},
                                        {&none, .num_values = 1}};
    const aq_field_spec specs[] = {
        {.name = fields[0], .type = AQ_BYTE_ARRAY},
        {.name = fields[1], .type = AQ_GROUP, .num_children = 1},
        {.name = "list", .type = AQ_GROUP, .repetition = AQ_REPEATED, .num_children = 1},
        {.name = "element", .type = AQ_INT64},
        {.name = fields[2], .type = AQ_BYTE_ARRAY}};
    aq_writer *w;
    aq_model *m;
    aq_tensor t;
    ASSERT_OK(
        aq_writer_open(in_dir("m.parquet"), specs, COUNT_OF(specs), NULL, &w, &err));
    for (size_t c = 0; c < COUNT_OF(columns); c++)
        ASSERT_OK(aq_writer_put_column(w, &columns[c], &err));
    ASSERT_OK(aq_writer_end_row_group(w, 1, &err));
    ASSERT_OK(aq_writer_finish(w, &err));
    ASSERT_OK(aq_model_open(in_dir("m.parquet"), NULL, &m, &err));
    ASSERT_STATUS(aq_model_find(m, "t", &t, &err), AQ_E_IO);
    ASSERT_MESSAGE("missing", "m.bin");
    file_write(in_dir("m.bin"), values, sizeof values - 1);
    ASSERT_STATUS(aq_model_find(m, "t", &t, &err), AQ_E_FORMAT);
    ASSERT_MESSAGE("short", "15 bytes");
    file_write(in_dir("m.bin"), values, sizeof values);
    ASSERT_OK(aq_model_find(m, "t", &t, &err));
    cr_assert(t.mapped && t.data_bytes == sizeof values);
    cr_assert_arr_eq(t.data, values, sizeof values);
    aq_tensor_release(&t);
    aq_model_close(m);
}

/* ---- jobs ---- */

enum { NUM_LAYERS = 5 };

/* Matrices, a vector and integers; the third matrix is constant. */
static void make_model(const char *path) {
    float *values = random_floats(64 * 200, 9);
    const uint64_t three[] = {8, 5, 5}, vector[] = {64}, indices[] = {4, 2};
    static const int64_t integers[8] = {1, -2};
    aq_tensor t[NUM_LAYERS];
    t[0] = matrix_of("a.weight", 64, 200, values);
    t[1] = tensor_of("b.kernel", AQ_F32, three, 3, values);
    t[2] = tensor_of("c.bias", AQ_F32, vector, 1, values);
    t[3] = tensor_of("d.indices", AQ_I64, indices, 2, integers);
    t[4] = matrix_of("e.weight", 10, 33, values + 100);
    ASSERT_OK(aq_model_save(path, t, NUM_LAYERS, &no_sync, &err));
    free(values);
}

static void run_serial(void *user, size_t n, void (*fn)(void *, size_t), void *arg) {
    (void)user;
    while (n > 0) /* backwards: order must not matter */
        fn(arg, --n);
}

/* The same file, byte for byte, for any threads, tasks, way of reading and kernels. */
Test(model, jobs_give_the_same_file) {
    static const aq_isa isas[] = {AQ_ISA_AUTO, AQ_ISA_REF, AQ_ISA_AVX2, AQ_ISA_AVX512};
    const aq_tasks backwards = {run_serial, NULL, 1};
    file first = {NULL, 0};
    make_model(in_dir("m.safetensors"));
    for (size_t i = 0; i < COUNT_OF(isas); i++) {
        if (!aq_isa_supported(isas[i]) && isas[i] != AQ_ISA_AUTO) continue;
        ASSERT_OK(aq_isa_force(isas[i]));
        for (uint32_t threads = 0; threads <= 8; threads++) {
            aq_job_options o = {.threads = threads, .no_sync = true};
            file out;
            o.io = threads % 2 == 0 ? AQ_IO_AUTO : AQ_IO_READ;
            if (threads == 0) o.tasks = &backwards;
            ASSERT_OK(
                aq_job_run(in_dir("m.safetensors"), in_dir("q.parquet"), &o, NULL, &err));
            out = file_read(in_dir("q.parquet"));
            if (first.data == NULL) {
                first = out;
                continue;
            }
            cr_assert(file_equal(&first, &out), "%s, %u threads", aq_isa_name(isas[i]),
                      threads);
            file_free(&out);
        }
    }
    file_free(&first);
}

Test(model, report_adds_up) {
    aq_job_options o = {.threads = 1, .no_sync = true};
    aq_job_report r;
    uint64_t in = 0, out = 0, params = 0, count = 0;
    struct stat info;
    aq_tensor t;
    aq_model *m;
    make_model(in_dir("m.parquet"));
    ASSERT_OK(aq_job_run(in_dir("m.parquet"), in_dir("q.parquet"), &o, &r, &err));
    cr_assert(r.num_tensors == NUM_LAYERS && r.num_quantized == 3);
    ASSERT_OK(aq_model_open(in_dir("q.parquet"), NULL, &m, &err));
    for (size_t i = 0; i < r.num_tensors; i++) {
        const aq_tensor_report *k = &r.tensors[i];
        bool quantized = k->tensor.layout.bits != 0;
        ASSERT_OK(aq_model_tensor(m, i, &t, &err));
        cr_assert_str_eq(k->name, t.name);
        cr_assert_eq(k->bytes_out,
                     t.data_bytes + (quantized ? 8 * t.layout.num_groups : 0));
        cr_assert_eq(k->bytes_in, k->tensor.num_params * aq_dtype_bytes(k->tensor.dtype));
        cr_assert_eq(k->metrics.count, quantized ? t.num_params : 0);
        if (quantized) {
            cr_assert(t.cosine == k->metrics.cosine && t.sqnr_db == k->metrics.sqnr_db);
            cr_assert_geq(k->metrics.sqnr_db, r.tensors[r.worst].metrics.sqnr_db);
            cr_assert_gt(k->metrics.sqnr_db, 15);
        }
        in += k->bytes_in;
        out += k->bytes_out;
        params += k->tensor.num_params;
        count += k->metrics.count;
        aq_tensor_release(&t);
    }
    aq_model_close(m);
    cr_assert(r.bytes_in == in && r.bytes_out == out && r.num_params == params);
    cr_assert_eq(r.total.count, count);
    cr_assert_eq(stat(in_dir("m.parquet"), &info), 0);
    cr_assert_eq(r.file_bytes_in, (uint64_t)info.st_size);
    cr_assert_eq(stat(in_dir("q.parquet"), &info), 0);
    cr_assert_eq(r.file_bytes_out, (uint64_t)info.st_size);
    aq_job_report_deinit(&r);
    aq_job_report_deinit(&r); /* harmless */
}

/* 8 bits for one tensor by the hook, another kept, the vector quantized against habit. */
static bool plan_three(void *user, const aq_tensor *t, aq_plan *plan) {
    ++*(int *)user;
    cr_assert_null(t->data);
    cr_assert_eq(plan->keep, t->num_dims < 2 || t->dtype == AQ_I64);
    if (t->name[0] == 'a') plan->quant.bits = 8;
    if (t->name[0] == 'b') plan->keep = true;
    if (t->name[0] == 'c') plan->keep = false;
    return true;
}

static bool plan_stops(void *user, const aq_tensor *t, aq_plan *plan) {
    (void)user;
    (void)plan;
    return t->name[0] != 'b';
}

static bool plan_quantizes_all(void *user, const aq_tensor *t, aq_plan *plan) {
    (void)user;
    (void)t;
    plan->keep = false;
    return true;
}

Test(model, plan_hook) {
    static const uint32_t want_bits[NUM_LAYERS] = {8, 0, 2, 0, 2};
    int calls = 0;
    aq_job_options o = {.quant = {.bits = 2}, .plan = plan_three, .plan_user = &calls};
    aq_model *m;
    aq_tensor t;
    make_model(in_dir("m.parquet"));
    ASSERT_OK(aq_job_run(in_dir("m.parquet"), in_dir("q.parquet"), &o, NULL, &err));
    cr_assert_eq(calls, NUM_LAYERS);
    ASSERT_OK(aq_model_open(in_dir("q.parquet"), NULL, &m, &err));
    for (size_t i = 0; i < NUM_LAYERS; i++) {
        ASSERT_OK(aq_model_describe(m, i, &t, &err));
        cr_assert_eq(t.layout.bits, want_bits[i], "%s", t.name);
    }
    aq_model_close(m);
    o.plan = plan_stops;
    ASSERT_STATUS(aq_job_run(in_dir("m.parquet"), in_dir("p.parquet"), &o, NULL, &err),
                  AQ_E_CANCELLED);
    o.plan = plan_quantizes_all; /* integers cannot be */
    ASSERT_STATUS(aq_job_run(in_dir("m.parquet"), in_dir("p.parquet"), &o, NULL, &err),
                  AQ_E_TYPE);
    ASSERT_MESSAGE("integers", "tensor \"d.indices\"");
    /* What is quantized is not quantized again. */
    ASSERT_STATUS(aq_job_run(in_dir("q.parquet"), in_dir("p.parquet"), NULL, NULL, &err),
                  AQ_E_TYPE);
    ASSERT_MESSAGE("again", "tensor \"a.weight\"");
    cr_assert_eq(temp_dir_entries(here.path), 2);
}

/* Quantized, back to float32, and through the other container. */
Test(model, dequantize_and_convert) {
    aq_job_options back = {.operation = AQ_DEQUANTIZE},
                   convert = {.operation = AQ_CONVERT};
    aq_model *quantized, *floats, *converted, *original;
    float *want = malloc(64 * 200 * sizeof *want);
    make_model(in_dir("m.parquet"));
    ASSERT_OK(aq_job_run(in_dir("m.parquet"), in_dir("q.parquet"), NULL, NULL, &err));
    ASSERT_OK(
        aq_job_run(in_dir("q.parquet"), in_dir("f.safetensors"), &back, NULL, &err));
    ASSERT_OK(
        aq_job_run(in_dir("m.parquet"), in_dir("c.safetensors"), &convert, NULL, &err));
    ASSERT_OK(aq_model_open(in_dir("m.parquet"), NULL, &original, &err));
    ASSERT_OK(aq_model_open(in_dir("q.parquet"), NULL, &quantized, &err));
    ASSERT_OK(aq_model_open(in_dir("f.safetensors"), NULL, &floats, &err));
    ASSERT_OK(aq_model_open(in_dir("c.safetensors"), NULL, &converted, &err));
    for (size_t i = 0; i < NUM_LAYERS; i++) {
        aq_tensor o, q, f;
        ASSERT_OK(aq_model_tensor(original, i, &o, &err));
        expect_tensor(converted, &o);
        ASSERT_OK(aq_model_tensor(quantized, i, &q, &err));
        ASSERT_OK(aq_model_tensor(floats, i, &f, &err));
        if (q.layout.bits == 0) {
            expect_tensor(floats, &o);
        } else {
            cr_assert(f.dtype == AQ_F32 && f.layout.bits == 0);
            ASSERT_OK(aq_tensor_rows_f32(&q, 0, q.layout.rows, want, NULL, &err));
            cr_assert_arr_eq(f.data, le_floats(want, (size_t)f.num_params), f.data_bytes);
        }
        aq_tensor_release(&o);
        aq_tensor_release(&q);
        aq_tensor_release(&f);
    }
    aq_model_close(original);
    aq_model_close(quantized);
    aq_model_close(floats);
    aq_model_close(converted);
    free(want);
    /* Codes have no place in safetensors. */
    ASSERT_STATUS(
        aq_job_run(in_dir("q.parquet"), in_dir("x.safetensors"), &convert, NULL, &err),
        AQ_E_UNSUPPORTED);
    cr_assert_eq(temp_dir_entries(here.path), 4);
}

typedef struct watcher {
    size_t calls, stop_at; /* 0 = never */
    aq_progress last;
} watcher;

static bool watch(void *user, const aq_progress *p) {
    watcher *w = user;
    cr_assert(p->tensors_done >= w->last.tensors_done && p->tensors_total == NUM_LAYERS);
    cr_assert(p->bytes_done >= w->last.bytes_done && p->bytes_done <= p->bytes_total);
    w->last = *p;
    return ++w->calls != w->stop_at;
}

Test(model, progress_and_cancel) {
    watcher all = {0};
    aq_job_options o = {.progress = {watch, &all}, .threads = 2};
    make_model(in_dir("m.parquet"));
    ASSERT_OK(aq_job_run(in_dir("m.parquet"), in_dir("q.parquet"), &o, NULL, &err));
    cr_assert_geq(all.calls, NUM_LAYERS + 1);
    cr_assert(all.last.name == NULL && all.last.tensors_done == NUM_LAYERS);
    cr_assert_eq(all.last.bytes_done, all.last.bytes_total);
    for (size_t stop = 1; stop <= all.calls; stop++) {
        watcher some = {.stop_at = stop};
        o.progress.user = &some;
        ASSERT_STATUS(
            aq_job_run(in_dir("m.parquet"), in_dir("x.parquet"), &o, NULL, &err),
            AQ_E_CANCELLED);
        cr_assert_eq(some.calls, stop);
        cr_assert_eq(temp_dir_entries(here.path), 2);
    }
}

Test(model, dry_run_writes_nothing) {
    aq_job_options o = {.dry_run = true};
    aq_job_report dry, real;
    make_model(in_dir("m.parquet"));
    ASSERT_OK(aq_job_run(in_dir("m.parquet"), NULL, &o, &dry, &err));
    ASSERT_OK(aq_job_run(in_dir("m.parquet"), in_dir("q.parquet"), &o, NULL, &err));
    cr_assert_eq(temp_dir_entries(here.path), 1);
    o.dry_run = false;
    ASSERT_OK(aq_job_run(in_dir("m.parquet"), in_dir("q.parquet"), &o, &real, &err));
    cr_assert(dry.bytes_out == real.bytes_out && dry.bytes_in == real.bytes_in);
    cr_assert(dry.num_quantized == real.num_quantized && dry.file_bytes_out == 0);
    aq_job_report_deinit(&dry);
    aq_job_report_deinit(&real);
}

/* The output is never the input: not by name, by link, or as a file of a directory. */
Test(model, output_is_input) {
    char input[512], linked[512], directory[512], member[512];
    snprintf(input, sizeof input, "%s", in_dir("m.parquet"));
    snprintf(linked, sizeof linked, "%s", in_dir("linked.parquet"));
    snprintf(directory, sizeof directory, "%s", in_dir("dir"));
    snprintf(member, sizeof member, "%s", in_dir("dir/m.parquet"));
    make_model(input);
    ASSERT_STATUS(aq_job_run(input, input, NULL, NULL, &err), AQ_E_ARG);
    cr_assert_eq(symlink(input, linked), 0);
    ASSERT_STATUS(aq_job_run(input, linked, NULL, NULL, &err), AQ_E_ARG);
    cr_assert_eq(remove(linked), 0);
    cr_assert_eq(link(input, linked), 0);
    ASSERT_STATUS(aq_job_run(input, linked, NULL, NULL, &err), AQ_E_ARG);
    cr_assert_eq(mkdir(directory, 0700), 0);
    ASSERT_STATUS(aq_job_run(input, directory, NULL, NULL, &err), AQ_E_ARG);
    make_model(member);
    ASSERT_STATUS(aq_job_run(directory, member, NULL, NULL, &err), AQ_E_ARG);
    ASSERT_OK(aq_job_run(directory, in_dir("q.parquet"), NULL, NULL, &err));
}

static const struct {
    const char *message;
    aq_job_options options;
} job_cases[] = {
    {"7 bits", {.quant = {.bits = 7}}},
    {"group size 7; choose", {.quant = {.group_size = 7}}},
    {"granularity 3", {.quant = {.granularity = (aq_granularity)3}}},
    {"operation 3", {.operation = (aq_operation)3}},
    {"operation -1", {.operation = (aq_operation)-1}},
    {"io mode 3 is none", {.io = (aq_io)3}},
    {"io mode -1 is none", {.io = (aq_io)-1}},
    {"mode 4 is none of", {.mode = (aq_job_mode)4}},
    {"mode -1 is none of", {.mode = (aq_job_mode)-1}},
    {"min_cosine -0.1 or", {.min_cosine = -0.1}},
    {"min_cosine 1.5 or", {.min_cosine = 1.5}},
    {"is out of range", {.min_cosine = NAN}},
    {"target_bpw -1 is", {.target_bpw = -1}},
    {"target_bpw 64.5 is", {.target_bpw = 64.5}},
    {"is out of range", {.target_bpw = NAN}},
    {"exclude each other", {.target_bpw = 4, .target_bytes = 1000}},
    {"met by a shard alone", {.target_bpw = 4, .num_shards = 2}},
    {"met by a shard alone", {.target_bytes = 1000, .num_shards = 2}},
    {"for quantizing only", {.operation = AQ_DEQUANTIZE, .calibration_path = "c"}},
    {"for quantizing only", {.operation = AQ_CONVERT, .calibration_path = "c"}},
};

Test(model, job_misuse) {
    make_model(in_dir("m.parquet"));
    for (size_t i = 0; i < COUNT_OF(job_cases); i++) {
        ASSERT_STATUS(aq_job_run(in_dir("m.parquet"), in_dir("q.parquet"),
                                 &job_cases[i].options, NULL, &err),
                      AQ_E_ARG);
        EXPECT_MESSAGE("options", job_cases[i].message);
        cr_assert_eq(temp_dir_entries(here.path), 1, "%s", job_cases[i].message);
    }
    ASSERT_STATUS(aq_job_run(in_dir("m.parquet"), in_dir("q/"),
                             &(aq_job_options){.resume = true}, NULL, &err),
                  AQ_E_UNSUPPORTED);
    ASSERT_MESSAGE("resume", "a job that writes a directory cannot be resumed");
    ASSERT_STATUS(aq_job_run(NULL, in_dir("q"), NULL, NULL, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_job_run(in_dir("m.parquet"), NULL, NULL, NULL, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_job_run(in_dir("none"), in_dir("q"), NULL, NULL, &err), AQ_E_IO);
}

/* NaN in the last tensor: it is kept and named with its place; where that is to be an
 * error, there is no output. */
Test(model, nonfinite_values) {
    float good[16] = {1}, bad[16] = {1};
    aq_job_options o = {.fail_fast = true};
    aq_job_report r;
    aq_model *m;
    aq_tensor t[2], got;
    bad[5] = (float)NAN;
    t[0] = matrix_of("a", 2, 8, good);
    t[1] = matrix_of("z", 2, 8, bad);
    ASSERT_OK(aq_model_save(in_dir("m.parquet"), t, 2, NULL, &err));
    ASSERT_STATUS(aq_job_run(in_dir("m.parquet"), in_dir("q.parquet"), &o, NULL, &err),
                  AQ_E_NONFINITE);
    ASSERT_MESSAGE("NaN", "tensor \"z\"");
    ASSERT_MESSAGE("NaN", "row 0, column 5");
    cr_assert_eq(temp_dir_entries(here.path), 1);
    ASSERT_OK(aq_job_run(in_dir("m.parquet"), in_dir("q.parquet"), NULL, &r, &err));
    cr_assert(r.num_failed == 1 && r.num_quantized == 1);
    cr_assert(r.tensors[0].status == AQ_OK && r.tensors[0].error == NULL);
    cr_assert_eq(r.tensors[1].status, AQ_E_NONFINITE);
    cr_assert_not_null(strstr(r.tensors[1].error, "row 0, column 5"));
    aq_job_report_deinit(&r);
    ASSERT_OK(aq_model_open(in_dir("q.parquet"), NULL, &m, &err));
    ASSERT_OK(aq_model_find(m, "a", &got, &err));
    cr_assert_eq(got.layout.bits, 4);
    aq_tensor_release(&got);
    ASSERT_OK(aq_model_find(m, "z", &got, &err));
    cr_assert(got.layout.bits == 0 && got.dtype == AQ_F32);
    cr_assert_arr_eq(got.data, t[1].data, sizeof bad);
    aq_tensor_release(&got);
    aq_model_close(m);
    cr_assert_eq(temp_dir_entries(here.path), 2);
}

/* ---- the model writer ---- */

Test(model, model_writer_misuse) {
    static const float values[16] = {1};
    aq_tensor t[2] = {matrix_of("a", 2, 8, values), matrix_of("b", 2, 8, values)}, other;
    for (size_t f = 0; f < COUNT_OF(formats); f++) {
        const char *path = in_dir(formats[f]);
        aq_model_writer *w;
        ASSERT_OK(aq_model_writer_open(path, t, 2, NULL, &w, &err));
        ASSERT_OK(aq_model_writer_put(w, &t[0], &err));
        ASSERT_STATUS(aq_model_writer_finish(w, &err), AQ_E_STATE);
        ASSERT_MESSAGE("unfinished", "1 of its 2");
        ASSERT_OK(aq_model_writer_open(path, t, 2, NULL, &w, &err));
        ASSERT_STATUS(aq_model_writer_put(w, &t[1], &err), AQ_E_ARG); /* not its turn */
        ASSERT_STATUS(aq_model_writer_put(w, &t[0], &err), AQ_E_STATE);
        aq_model_writer_abort(w);
        ASSERT_OK(aq_model_writer_open(path, t, 1, NULL, &w, &err));
        other = t[0];
        other.data_bytes--;
        ASSERT_STATUS(aq_model_writer_put(w, &other, &err), AQ_E_ARG);
        aq_model_writer_abort(w);
        other = t[0];
        other.name = "a";
        t[1].name = "a";
        ASSERT_STATUS(aq_model_writer_open(path, t, 2, NULL, &w, &err), AQ_E_DUPLICATE);
        t[1].name = "";
        ASSERT_STATUS(aq_model_writer_open(path, t, 2, NULL, &w, &err), AQ_E_ARG);
        t[1].name = "b\xff";
        ASSERT_STATUS(aq_model_writer_open(path, t, 2, NULL, &w, &err), AQ_E_ARG);
        t[1].name = "b";
    }
    aq_model_writer_abort(NULL);
    cr_assert_eq(temp_dir_entries(here.path), 0);
}

Test(model, model_writer_bad_arguments) {
    static const float values[16] = {1};
    const aq_tensor t = matrix_of("a", 2, 8, values);
    const aq_model_writer_options npy = {.format = AQ_MODEL_NPY},
                                  below = {.format = (aq_model_format)-1};
    aq_model_writer *w;
    ASSERT_STATUS(aq_model_writer_open(NULL, &t, 1, NULL, &w, &err), AQ_E_ARG);
    ASSERT_MESSAGE("path", "path or tensors missing");
    ASSERT_STATUS(aq_model_writer_open(in_dir("x"), NULL, 1, NULL, &w, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_model_writer_open(in_dir("x"), &t, SIZE_MAX, NULL, &w, &err),
                  AQ_E_ARG);
    ASSERT_STATUS(aq_model_writer_open(in_dir("x"), &t, 1, &npy, &w, &err), AQ_E_ARG);
    ASSERT_MESSAGE("format", "model format 5 cannot be written");
    ASSERT_STATUS(aq_model_writer_open(in_dir("x"), &t, 1, &below, &w, &err), AQ_E_ARG);
    cr_assert_eq(temp_dir_entries(here.path), 0);
}

/* A tensor that is not the one announced, or lacks a part; after it the writer is of no
 * more use. */
Test(model, other_tensors_than_announced) {
    static const float values[16] = {1}, scales[4] = {1, 1, 1, 1};
    static const uint8_t codes[16] = {0};
    const aq_diffusion says = {"image", NULL, NULL, NULL};
    const aq_quant_options u8 = {.bits = 4, .group_size = 8, .params = AQ_PARAMS_U8},
                           f32 = {.bits = 8, .granularity = AQ_PER_CHANNEL};
    const char *const announced = "differs from the one announced, \"a\"";
    aq_tensor plain = matrix_of("a", 2, 8, values), quantized = plain, small = plain;
    ASSERT_OK(aq_layout_init(2, 8, &f32, &quantized.layout, &err));
    ASSERT_OK(aq_layout_init(2, 8, &u8, &small.layout, &err));
    quantized.data = small.data = codes;
    quantized.data_bytes = quantized.layout.code_bytes;
    small.data_bytes = small.layout.code_bytes;
    quantized.scales = quantized.zero_points = scales;
    small.params = codes;
    for (int i = 0; i < 15; i++) {
        const aq_tensor right = i < 9 ? plain : i < 13 ? quantized : small;
        aq_tensor t = right;
        const char *message = announced;
        aq_model_writer *w;
        if (i == 0) t.name = NULL;
        if (i == 1) t.name = "b";
        if (i == 2) t.dtype = AQ_I32;
        if (i == 3) t.num_dims = 1;
        if (i == 4) t.shape[0] = 4, t.shape[1] = 4;
        if (i == 5) t.layout = quantized.layout;
        if (i == 6) t.diffusion = &says;
        if (i == 7)
            t.data = NULL, message = "0 bytes of data (tensor \"a\"); it needs 64";
        if (i == 8)
            t.data_bytes = 60, message = "60 bytes of data (tensor \"a\"); it needs 64";
        if (i == 9) t.scales = NULL, message = "quantized tensor without scales";
        if (i == 10) t.zero_points = NULL, message = "quantized tensor without scales";
        if (i == 11) t.layout.code_bytes--, message = "layout";
        if (i == 12) t.data_bytes--, message = "it needs 16";
        if (i == 13) t.params = NULL, message = "quantized tensor without scales";
        if (i == 14) t.layout.params = AQ_PARAMS_F16;
        ASSERT_OK(aq_model_writer_open(in_dir("m.parquet"), &right, 1, NULL, &w, &err));
        ASSERT_STATUS(aq_model_writer_put(w, &t, &err), AQ_E_ARG);
        EXPECT_MESSAGE("tensor", message);
        ASSERT_STATUS(aq_model_writer_put(w, &right, &err), AQ_E_STATE);
        aq_model_writer_abort(w);
    }
    cr_assert_eq(temp_dir_entries(here.path), 0);
}

Test(model, tensors_that_cannot_be) {
    static const uint64_t shape[17] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    static const float values[6] = {1, 2, 3, 4, 5, 6};
    static const struct {
        const char *name;
        int dtype;
        bool no_shape;
        uint32_t dims;
        const char *message;
    } cases[] = {{NULL, AQ_F32, false, 1, "tensor name missing or not UTF-8"},
                 {"", AQ_F32, false, 1, "tensor name missing or not UTF-8"},
                 {"\xc3", AQ_F32, false, 1, "tensor name missing or not UTF-8"},
                 {"t", 0, false, 1, "dtype 0 is none of aq_dtype"},
                 {"t", 99, false, 1, "dtype 99 is none of aq_dtype"},
                 {"t", AQ_F32, false, 17, "17 dimensions; at most 16"},
                 {"t", AQ_F32, true, 1, "1 dimensions; at most 16"}};
    const aq_model_writer_options no_pairs = {.num_metadata = 1};
    aq_tensor t, m;
    float x[3] = {1, 1, 1}, y[4] = {0};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        ASSERT_STATUS(aq_tensor_init(&t, cases[i].name, (aq_dtype)cases[i].dtype,
                                     cases[i].no_shape ? NULL : shape, cases[i].dims,
                                     values, &err),
                      AQ_E_ARG);
        EXPECT_MESSAGE("tensor", cases[i].message);
        cr_expect_null(t.name);
    }
    m = matrix_of("m", 2, 3, values);
    ASSERT_STATUS(aq_tensor_rows_f32(&m, 3, 0, y, NULL, &err), AQ_E_ARG);
    ASSERT_MESSAGE("rows", "rows 3 to 3 of 2");
    ASSERT_STATUS(aq_tensor_rows_f32(&m, 1, 2, y, NULL, &err), AQ_E_ARG);
    ASSERT_MESSAGE("rows", "rows 1 to 3 of 2");
    ASSERT_STATUS(aq_tensor_dot(&m, 2, x, y, &err), AQ_E_ARG);
    ASSERT_MESSAGE("row", "row 2 of 2");
    ASSERT_STATUS(aq_tensor_dot(&m, 0, NULL, y, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_tensor_matmul(&m, NULL, 1, y, NULL, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_tensor_matmul(&m, x, 1, NULL, NULL, &err), AQ_E_ARG);
    ASSERT_MESSAGE("vector", "vector missing");
    ASSERT_OK(aq_tensor_matmul(&m, NULL, 0, NULL, NULL, &err));
    ASSERT_STATUS(aq_tensor_time_group(NULL, 0, NULL, NULL, &err), AQ_E_ARG);
    ASSERT_MESSAGE("time group", "tensor missing");
    m.data = NULL;
    ASSERT_STATUS(aq_tensor_matvec(&m, x, y, NULL, &err), AQ_E_ARG);
    ASSERT_MESSAGE("data", "tensor has no data; use aq_model_tensor");
    m.data = (const uint8_t *)values;
    ASSERT_STATUS(aq_model_save(in_dir("m.parquet"), &m, 1, &no_pairs, &err), AQ_E_ARG);
    ASSERT_MESSAGE("pairs", "metadata missing");
    m.name = "__metadata__";
    ASSERT_STATUS(aq_model_save(in_dir("m.safetensors"), &m, 1, NULL, &err), AQ_E_ARG);
    ASSERT_MESSAGE("name", "safetensors reserves the name __metadata__");
    ASSERT_OK(aq_model_save(in_dir("m.parquet"), &m, 1, NULL, &err));
}

Test(model, no_file_to_open) {
    aq_model *m;
    ASSERT_STATUS(aq_model_open("/dev/null", NULL, &m, &err), AQ_E_IO);
    ASSERT_MESSAGE("device", "not a regular file");
    ASSERT_STATUS(aq_model_open(in_dir("none"), NULL, &m, &err), AQ_E_IO);
    ASSERT_MESSAGE("nothing", "cannot open");
    cr_assert_null(m);
}

/* One group of the whole tensor, which lies in several rows of the file: of some rows of
 * the matrix, or of one. */
static void expect_one_group(size_t chunk_bytes) {
    enum { G_ROWS = 40, G_COLS = 30 };
    const aq_quant_options q = {.bits = 5, .granularity = AQ_PER_TENSOR};
    const aq_model_writer_options chunks = {.chunk_bytes = chunk_bytes};
    static float w[G_ROWS * G_COLS], back[G_ROWS * G_COLS], want[G_ROWS * G_COLS];
    static uint8_t codes[G_ROWS * G_COLS];
    float scale, zero;
    const aq_quantized dst = {codes, &scale, &zero, NULL};
    const aq_quantized_view view = {codes, &scale, &zero, NULL};
    aq_tensor t = matrix_of("t", G_ROWS, G_COLS, w), got;
    aq_parquet_info info;
    aq_parquet *f;
    aq_model *m;
    rng r = {12};
    rng_floats(&r, w, G_ROWS * G_COLS, 3);
    ASSERT_OK(aq_layout_init(G_ROWS, G_COLS, &q, &t.layout, &err));
    ASSERT_OK(aq_quantize_into(&t.layout, le_floats(w, G_ROWS * G_COLS), AQ_F32, &dst,
                               NULL, NULL, &err));
    ASSERT_OK(aq_dequantize_rows(&t.layout, &view, 0, G_ROWS, want, NULL, &err));
    t.data = codes;
    t.data_bytes = t.layout.code_bytes;
    t.scales = &scale;
    t.zero_points = &zero;
    ASSERT_OK(aq_model_save(in_dir("m.parquet"), &t, 1, &chunks, &err));
    ASSERT_OK(aq_parquet_open(in_dir("m.parquet"), NULL, &f, &err));
    aq_parquet_get_info(f, &info);
    cr_assert_gt(info.num_rows, 1);
    aq_parquet_close(f);
    ASSERT_OK(aq_model_open(in_dir("m.parquet"), NULL, &m, &err));
    cr_assert_eq(aq_model_count(m), 1);
    ASSERT_OK(aq_model_find(m, "t", &got, &err));
    cr_assert(got.layout.granularity == AQ_PER_TENSOR && got.layout.num_groups == 1);
    cr_assert_eq(got.layout.group_rows, G_ROWS);
    cr_assert(got.scales[0] == scale && got.zero_points[0] == zero);
    ASSERT_OK(aq_tensor_rows_f32(&got, 0, G_ROWS, back, NULL, &err));
    cr_assert_arr_eq(back, want, sizeof want);
    aq_tensor_release(&got);
    aq_model_close(m);
}

Test(model, one_group_in_chunks) {
    expect_one_group(100);
    expect_one_group(19);
}

/* A changed byte of a mapped model before its footer: found, unless it is of weights or of
 * their parameters, or says nothing. */
Test(model, damaged_descriptions) {
    aq_model_options map = {.io = AQ_IO_MAP};
    aq_tensor want, got;
    aq_model *m, *whole;
    size_t found = 0;
    file f;
    make_quantized(in_dir("q.parquet"), 8, 64);
    f = file_read(in_dir("q.parquet"));
    ASSERT_OK(aq_model_open(in_dir("q.parquet"), &map, &whole, &err));
    ASSERT_OK(aq_model_describe(whole, 0, &want, &err));
    for (size_t at = 4; at < body_bytes_of(&f); at++) {
        file_write_damaged(in_dir("d.parquet"), &f, at);
        if (aq_model_open(in_dir("d.parquet"), &map, &m, &err) != AQ_OK) {
            found += err.status == AQ_E_CHECKSUM;
            continue;
        }
        ASSERT_OK(aq_model_describe(m, 0, &got, &err));
        cr_assert(strcmp(got.name, want.name) == 0 && got.dtype == want.dtype &&
                      got.num_params == want.num_params && got.cosine == want.cosine &&
                      got.layout.bits == want.layout.bits &&
                      got.layout.group_cols == want.layout.group_cols &&
                      got.max_abs_error == want.max_abs_error,
                  "byte %zu", at);
        aq_model_close(m);
    }
    aq_model_close(whole);
    cr_assert_gt(found, 60);
    file_free(&f);
}

/* Chunks of 8 x 8 codes whose parameters make no whole; a type that is not known. */
Test(model, parameters_of_chunks_that_do_not_join) {
    static const aq_field_spec specs[] = {
        CELL_LEAF("layer_name", AQ_BYTE_ARRAY), CELL_LIST("shape", AQ_INT64),
        CELL_LEAF("dtype", AQ_BYTE_ARRAY),      CELL_LEAF("data", AQ_BYTE_ARRAY),
        CELL_LEAF("num_params", AQ_INT64),      CELL_LEAF("bit_width", AQ_INT32),
        CELL_LEAF("group_size", AQ_INT64),      CELL_LIST("scales", AQ_FLOAT),
        CELL_LIST("zero_points", AQ_FLOAT),     CELL_LEAF("chunk_index", AQ_INT64),
        CELL_LEAF("chunk_count", AQ_INT64)};
    static const int64_t shape[2] = {8, 8}, params = 32, two = 2;
    static const float scales[4] = {1, 2, 3, 4};
    static const uint8_t codes_of_chunk[32];
    static const int32_t bits = 8;
    static const aq_status wanted[4] = {AQ_OK, AQ_E_FORMAT, AQ_E_UNSUPPORTED,
                                        AQ_E_UNSUPPORTED};
    const aq_bytes data = {codes_of_chunk, sizeof codes_of_chunk};
    for (int i = 0; i < 4; i++) {
        const int64_t groups = i == 2 ? 2 : 1;
        aq_writer *w;
        ASSERT_OK(
            aq_writer_open(in_dir("m.parquet"), specs, COUNT_OF(specs), NULL, &w, &err));
        for (int64_t chunk = 0; chunk < 2; chunk++) {
            put_text(w, "t");
            put_list(w, shape, 2);
            put_text(w, i == 3 ? "a type of a name longer than any" : NULL);
            put_cell(w, &data);
            put_cell(w, &params);
            put_cell(w, &bits);
            put_cell(w, i == 2 ? &two : NULL); /* groups of two rows */
            put_list(w, scales + (i == 1) * chunk, groups);
            put_list(w, scales, groups);
            put_cell(w, &chunk);
            put_cell(w, &two);
            ASSERT_OK(aq_writer_end_row_group(w, 1, &err));
        }
        ASSERT_OK(aq_writer_finish(w, &err));
        ASSERT_STATUS(model_read_all(in_dir("m.parquet"), NULL), wanted[i]);
        if (i == 1) EXPECT_MESSAGE("scale", "chunk 1 has another scale");
        for (int op = AQ_DEQUANTIZE; i == 1 && op <= AQ_CONVERT; op++) {
            const aq_job_options o = {.operation = (aq_operation)op, .no_sync = true};
            ASSERT_STATUS(
                aq_job_run(in_dir("m.parquet"), in_dir("o.parquet"), &o, NULL, &err),
                AQ_E_FORMAT);
            EXPECT_MESSAGE("scale in a job", "chunk 1 has another scale");
        }
        if (i == 2) EXPECT_MESSAGE("groups", "groups of rows in chunks");
        if (i == 3) EXPECT_MESSAGE("dtype", "dtype \"a type of a name");
    }
}

/* A description with numbers that are not those of its shape would be a file that nobody
 * can read; one without a type would be divided by 0. */
Test(model, descriptions_that_cannot_be) {
    static const float values[16] = {1};
    const aq_tensor good = matrix_of("a", 2, 8, values);
    for (size_t k = 0; k < COUNT_OF(formats) * 5; k++) {
        const char *path = in_dir(formats[k / 5]),
                   *message = "are not those of the shape";
        aq_tensor t = good;
        if (k % 5 == 0) t.num_params = 15, t.data_bytes = 60;
        if (k % 5 == 1) t.layout.rows = 1;
        if (k % 5 == 2) t.layout.cols = 16;
        if (k % 5 == 3) t.dtype = AQ_DTYPE_NONE, t.data_bytes = 0;
        if (k % 5 == 4) t.num_dims = AQ_MAX_DIMS + 1;
        if (k % 5 > 2) message = "none of aq_dtype, or over 16 dimensions";
        ASSERT_STATUS(aq_model_save(path, &t, 1, &no_sync, &err), AQ_E_ARG);
        EXPECT_MESSAGE("description", message);
        EXPECT_MESSAGE("description", "tensor \"a\"");
    }
    cr_assert_eq(temp_dir_entries(here.path), 0);
}

/* Where the announcement says nothing of bytes, the header of safetensors does. */
Test(model, announced_without_bytes) {
    static const float values[16] = {1};
    const aq_tensor t = matrix_of("a", 2, 8, values);
    aq_tensor announced = t;
    aq_model_writer *w;
    announced.data = NULL;
    announced.data_bytes = 0;
    ASSERT_OK(
        aq_model_writer_open(in_dir("m.safetensors"), &announced, 1, &no_sync, &w, &err));
    ASSERT_OK(aq_model_writer_put(w, &t, &err));
    ASSERT_OK(aq_model_writer_finish(w, &err));
    ASSERT_OK(model_read_all(in_dir("m.safetensors"), NULL));
}

/* Of more bytes than a file can have. */
Test(model, too_many_bytes_announced) {
    const uint64_t shape[1] = {(uint64_t)1 << (sizeof(size_t) == 8 ? 60 : 28)};
    static aq_tensor t[9];
    static char names[9][2];
    aq_model_writer *w;
    if (sizeof(size_t) < 8) SKIP_TEST("32 bits: tensors of 2 GiB");
    for (size_t i = 0; i < COUNT_OF(t); i++) {
        names[i][0] = (char)('a' + i);
        ASSERT_OK(aq_tensor_init(&t[i], names[i], AQ_F64, shape, 1, NULL, &err));
    }
    ASSERT_STATUS(
        aq_model_writer_open(in_dir("m.safetensors"), t, COUNT_OF(t), &no_sync, &w, &err),
        AQ_E_LIMIT);
    ASSERT_MESSAGE("bytes", "over 2^63 bytes");
    cr_assert_eq(temp_dir_entries(here.path), 0);
}

/* The nearest name is that which begins most alike. */
Test(model, names_that_are_not_there) {
    static const float values[4] = {1};
    aq_tensor t[3] = {matrix_of("blk.1.attn", 2, 2, values),
                      matrix_of("blk.2.attn", 2, 2, values),
                      matrix_of("output", 2, 2, values)},
              got;
    static const struct {
        const char *name, *message;
    } cases[] = {
        {"blk.1.attnx", "no tensor \"blk.1.attnx\"; the nearest name is \"blk.1.attn\""},
        {"blk.2", "the nearest name is \"blk.2.attn\""},
        {"blk.2.x", "the nearest name is \"blk.2.attn\""},
        {"outputs", "the nearest name is \"output\""},
        {"o", "the nearest name is \"output\""},
        {"a", "no tensor \"a\""},
        {"z", "no tensor \"z\""},
        {"c", "no tensor \"c\""}};
    aq_model *m;
    ASSERT_OK(aq_model_save(in_dir("m.parquet"), t, 3, NULL, &err));
    ASSERT_OK(aq_model_open(in_dir("m.parquet"), NULL, &m, &err));
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        ASSERT_STATUS(aq_model_find(m, cases[i].name, &got, &err), AQ_E_NOT_FOUND);
        EXPECT_MESSAGE(cases[i].name, cases[i].message);
        if (i >= 5)
            cr_expect_null(strstr(err.message, "nearest"), "%s: %s", cases[i].name,
                           err.message);
        cr_expect_null(got.name);
    }
    aq_model_close(m);
    ASSERT_OK(aq_model_save(in_dir("e.parquet"), NULL, 0, NULL, &err));
    ASSERT_OK(aq_model_open(in_dir("e.parquet"), NULL, &m, &err));
    ASSERT_STATUS(aq_model_find(m, "a", &got, &err), AQ_E_NOT_FOUND);
    ASSERT_MESSAGE("empty", "no tensor \"a\": the model is empty");
    aq_model_close(m);
}

/* ---- small parameters ---- */

static const struct {
    const char *name, *quant_type;
    aq_quant_options o;
} forms[] = {
    {"codebook2", "codebook2", {.bits = 2, .group_size = 16, .codebook = true}},
    {"codebook4", "codebook4", {.bits = 4, .group_size = 16, .codebook = true}},
    {"codebook4 row",
     "codebook4",
     {.bits = 4, .codebook = true, .granularity = AQ_PER_CHANNEL}},
    {"f16", "int4", {.bits = 4, .group_size = 32, .params = AQ_PARAMS_F16}},
    {"f16 row",
     "int8",
     {.bits = 8, .granularity = AQ_PER_CHANNEL, .params = AQ_PARAMS_F16}},
    {"f16 symmetric",
     "int2",
     {.bits = 2, .group_size = 13, .params = AQ_PARAMS_F16, .symmetric = true}},
    {"f32", "int4", {.bits = 4, .group_size = 32}},
    {"f32 six", "int6", {.bits = 6, .group_size = 40}},
    {"u3", "int3", {.bits = 3, .group_size = 32, .params = AQ_PARAMS_U8}},
    {"u5", "int5", {.bits = 5, .group_size = 16, .params = AQ_PARAMS_F16}},
    {"u8", "int4", {.bits = 4, .group_size = 32, .params = AQ_PARAMS_U8}},
    {"u8 eight", "int8", {.bits = 8, .group_size = 64, .params = AQ_PARAMS_U8}},
    {"u8 row",
     "int2",
     {.bits = 2, .granularity = AQ_PER_CHANNEL, .params = AQ_PARAMS_U8}},
    {"u8 symmetric",
     "int8",
     {.bits = 8, .group_size = 64, .params = AQ_PARAMS_U8, .symmetric = true}},
};

enum { NUM_FORMS = COUNT_OF(forms) };

/* `values` quantized in memory; frees by free_form. */
static aq_tensor make_form(size_t i, size_t rows, size_t cols, const float *values) {
    aq_tensor t = matrix_of(forms[i].name, rows, cols, values);
    aq_quantized dst = {0};
    ASSERT_OK(aq_layout_init(rows, cols, &forms[i].o, &t.layout, &err));
    dst.codes = malloc(t.layout.code_bytes + 1);
    dst.scales = malloc(t.layout.num_groups * sizeof(float) + 1);
    dst.zero_points = malloc(t.layout.num_groups * sizeof(float) + 1);
    dst.params = malloc(t.layout.params_bytes + 1);
    ASSERT_OK(aq_quantize_into(&t.layout, le_floats(values, rows * cols), AQ_F32, &dst,
                               NULL, NULL, &err));
    t.data = dst.codes;
    t.data_bytes = t.layout.code_bytes;
    t.scales = dst.scales;
    t.zero_points = dst.zero_points;
    t.params = dst.params;
    return t;
}

static void free_form(aq_tensor *t) {
    free((void *)(uintptr_t)t->data);
    free((void *)(uintptr_t)t->scales);
    free((void *)(uintptr_t)t->zero_points);
    free((void *)(uintptr_t)t->params);
}

static bool same_bytes(const void *a, const void *b, size_t bytes) {
    return bytes == 0 || memcmp(a, b, bytes) == 0;
}

/* The bytes that were saved, nothing of the other kind, and the layout that goes with
 * them. */
static void expect_form(const aq_tensor *got, const aq_tensor *want) {
    const aq_layout *a = &got->layout, *b = &want->layout;
    cr_assert_str_eq(got->name, want->name);
    cr_assert(a->bits == b->bits && a->code_bits == b->code_bits &&
                  a->granularity == b->granularity && a->params == b->params &&
                  a->codebook == b->codebook && a->group_rows == b->group_rows &&
                  a->group_cols == b->group_cols && a->params_bytes == b->params_bytes,
              "%s", want->name);
    /* It shows in the size of small parameters, where there are any. */
    if (a->params != AQ_PARAMS_F32 && a->num_groups > 0)
        cr_assert_eq(a->symmetric, b->symmetric, "%s", want->name);
    cr_assert_eq(got->data_bytes, want->data_bytes);
    cr_assert(same_bytes(got->data, want->data, want->data_bytes), "%s", want->name);
    if (a->params != AQ_PARAMS_F32) {
        cr_assert(got->scales == NULL && got->zero_points == NULL);
        cr_assert(same_bytes(got->params, want->params, a->params_bytes), "%s",
                  want->name);
        return;
    }
    cr_assert(got->params == NULL && a->params_bytes == 0);
    cr_assert(same_bytes(got->scales, want->scales, a->num_groups * sizeof(float)), "%s",
              want->name);
    cr_assert(
        same_bytes(got->zero_points, want->zero_points, a->num_groups * sizeof(float)),
        "%s", want->name);
}

/* Rows and products are those from memory, bit by bit. */
static void expect_products(const aq_tensor *got, const aq_tensor *want) {
    enum { COUNT = 3 };
    const aq_layout *l = &want->layout;
    const aq_quantized_view view = {want->data, want->scales, want->zero_points,
                                    want->params};
    size_t rows = l->rows, cols = l->cols;
    float *x = random_floats(COUNT * cols, 6), *a = calloc(rows * cols, sizeof *a),
          *b = calloc(rows * cols, sizeof *b), *y = calloc(COUNT * rows, sizeof *y),
          *z = calloc(COUNT * rows, sizeof *z);
    void *memory = malloc(aq_activations_bytes(l, COUNT));
    aq_activations x8;
    ASSERT_OK(aq_dequantize_rows(l, &view, 0, rows, a, NULL, &err));
    ASSERT_OK(aq_tensor_rows_f32(got, 0, rows, b, NULL, &err));
    cr_assert(same_bytes(a, b, rows * cols * sizeof *a), "%s", want->name);
    ASSERT_OK(aq_matmul(l, &view, x, COUNT, y, NULL, &err));
    ASSERT_OK(aq_tensor_matmul(got, x, COUNT, z, NULL, &err));
    cr_assert(same_bytes(y, z, COUNT * rows * sizeof *y), "%s", want->name);
    memset(z, 0, COUNT * rows * sizeof *z);
    ASSERT_OK(aq_tensor_matvec(got, x, z, NULL, &err));
    cr_assert(same_bytes(y, z, rows * sizeof *y), "%s", want->name);
    for (size_t r = 0; r < rows; r++) {
        ASSERT_OK(aq_tensor_dot(got, r, x + cols, &z[0], &err));
        cr_assert_eq(z[0], y[rows + r], "%s", want->name);
    }
    ASSERT_OK(aq_activations_init(&got->layout, x, COUNT, memory, &x8, &err));
    ASSERT_OK(aq_matmul_i8(l, &view, &x8, y, NULL, &err));
    ASSERT_OK(aq_tensor_matmul_i8(got, &x8, z, NULL, &err));
    cr_assert(same_bytes(y, z, COUNT * rows * sizeof *y), "%s", want->name);
    free(memory);
    free(x);
    free(a);
    free(b);
    free(y);
    free(z);
}

Test(model, small_parameters_come_back) {
    static const size_t sizes[][2] = {{33, 300}, {1, 8}, {5, 1}, {0, 64}, {3, 0}};
    const char *path = in_dir("forms.parquet");
    float *values = random_floats(33 * 300, 12);
    for (size_t s = 0; s < COUNT_OF(sizes); s++) {
        aq_tensor want[NUM_FORMS];
        for (size_t i = 0; i < NUM_FORMS; i++)
            want[i] = make_form(i, sizes[s][0], sizes[s][1], values);
        ASSERT_OK(aq_model_save(path, want, NUM_FORMS, &no_sync, &err));
        for (int io = AQ_IO_MAP; io <= AQ_IO_READ; io++) {
            aq_model_options o = {.io = (aq_io)io};
            aq_model *m;
            ASSERT_OK(aq_model_open(path, &o, &m, &err));
            cr_assert_eq(aq_model_count(m), NUM_FORMS);
            for (size_t i = 0; i < NUM_FORMS; i++) {
                aq_tensor got;
                ASSERT_OK(aq_model_tensor(m, i, &got, &err));
                expect_form(&got, &want[i]);
                expect_products(&got, &want[i]);
                if (s == 0)
                    cr_assert_eq(got.mapped,
                                 io == AQ_IO_MAP &&
                                     (got.params != NULL || NUMBERS_IN_PLACE),
                                 "%s", got.name);
                if (s == 0 && got.mapped && got.params != NULL) {
                    range file = mapping_of(path);
                    cr_assert(inside(file, got.params, got.layout.params_bytes));
                    cr_assert_eq((uintptr_t)got.params % AQ_ALIGNMENT, 0);
                }
                aq_tensor_release(&got);
                cr_assert_null(got.params);
            }
            aq_model_close(m);
        }
        for (size_t i = 0; i < NUM_FORMS; i++)
            free_form(&want[i]);
    }
    free(values);
}

Test(model, products_of_float_tensors) {
    enum { ROWS = 37, COLS = 1100, COUNT = 5 };
    float *values = random_floats(ROWS * COLS, 16), *x = random_floats(COUNT * COLS, 17);
    float y[COUNT * ROWS], dot;
    aq_tensor t = matrix_of("w", ROWS, COLS, values);
    aq_threads *threads;
    ASSERT_OK(aq_threads_create(2, NULL, &threads, &err));
    ASSERT_OK(aq_tensor_matmul(&t, x, COUNT, y, aq_threads_tasks(threads), &err));
    for (size_t i = 0; i < COUNT * ROWS; i++) {
        ASSERT_OK(aq_tensor_dot(&t, i % ROWS, x + i / ROWS * COLS, &dot, &err));
        cr_assert_eq(y[i], dot, "vector %zu, row %zu", i / ROWS, i % ROWS);
    }
    ASSERT_OK(aq_tensor_matmul(&t, NULL, 0, NULL, NULL, &err));
    ASSERT_STATUS(aq_tensor_matmul(&t, NULL, 1, y, NULL, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_tensor_matmul(&t, x, 1, NULL, NULL, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_tensor_matmul_i8(&t, NULL, y, NULL, &err), AQ_E_TYPE);
    ASSERT_MESSAGE("float", "\"w\" is not quantized");
    t.dtype = AQ_I32;
    ASSERT_STATUS(aq_tensor_matmul(&t, x, 1, y, NULL, &err), AQ_E_TYPE);
    aq_threads_destroy(threads);
    free(values);
    free(x);
}

/* A job makes the same bytes as aq_quantize_into, for any threads, counts them, and takes
 * them on. */
Test(model, jobs_with_small_parameters) {
    enum { ROWS = 40, COLS = 700 };
    float *values = random_floats(ROWS * COLS, 13), *w = malloc(ROWS * COLS * sizeof *w);
    aq_tensor source = matrix_of("w", ROWS, COLS, values);
    ASSERT_OK(aq_model_save(in_dir("f.parquet"), &source, 1, &no_sync, &err));
    for (size_t i = 0; i < NUM_FORMS; i++) {
        aq_job_options o = {.quant = forms[i].o, .threads = 1, .no_sync = true};
        aq_job_options back = {.operation = AQ_DEQUANTIZE},
                       on = {.operation = AQ_CONVERT};
        aq_tensor want = make_form(i, ROWS, COLS, values), got, floats;
        size_t parameters = want.layout.params_bytes;
        aq_job_report r;
        aq_model *m;
        file once, again;
        if (want.layout.params == AQ_PARAMS_F32) parameters = 8 * want.layout.num_groups;
        ASSERT_OK(aq_job_run(in_dir("f.parquet"), in_dir("q.parquet"), &o, &r, &err));
        cr_assert_eq(r.bytes_out, want.data_bytes + parameters);
        cr_assert_gt(r.total.sqnr_db, 4, "%s", forms[i].name);
        aq_job_report_deinit(&r);
        once = file_read(in_dir("q.parquet"));
        o.threads = 5;
        ASSERT_OK(aq_job_run(in_dir("f.parquet"), in_dir("q.parquet"), &o, NULL, &err));
        again = file_read(in_dir("q.parquet"));
        cr_assert(file_equal(&once, &again), "%s", forms[i].name);
        ASSERT_OK(aq_job_run(in_dir("q.parquet"), in_dir("c.parquet"), &on, NULL, &err));
        ASSERT_OK(
            aq_job_run(in_dir("c.parquet"), in_dir("b.safetensors"), &back, NULL, &err));
        want.name = "w";
        ASSERT_OK(aq_model_open(in_dir("c.parquet"), NULL, &m, &err));
        ASSERT_OK(aq_model_tensor(m, 0, &got, &err));
        expect_form(&got, &want);
        ASSERT_OK(aq_tensor_rows_f32(&got, 0, ROWS, w, NULL, &err));
        aq_tensor_release(&got);
        aq_model_close(m);
        ASSERT_OK(aq_model_open(in_dir("b.safetensors"), NULL, &m, &err));
        ASSERT_OK(aq_model_tensor(m, 0, &floats, &err));
        cr_assert_arr_eq(floats.data, le_floats(w, ROWS * COLS), sizeof *w * ROWS * COLS,
                         "%s", forms[i].name);
        aq_tensor_release(&floats);
        aq_model_close(m);
        file_free(&once);
        file_free(&again);
        free_form(&want);
    }
    free(values);
    free(w);
}

/* Files without them have no columns for them; programs that do not know codebooks see
 * that in quant_type. */
Test(model, columns_of_small_parameters) {
    enum { QUANT_TYPE = 5 };
    float *values = random_floats(64, 14);
    for (size_t i = 0; i < NUM_FORMS; i++) {
        aq_tensor t = make_form(i, 2, 32, values);
        const aq_bytes *type;
        aq_parquet *p;
        aq_parquet_info info;
        aq_column *column;
        aq_span span;
        ASSERT_OK(aq_model_save(in_dir("m.parquet"), &t, 1, &no_sync, &err));
        ASSERT_OK(aq_parquet_open(in_dir("m.parquet"), NULL, &p, &err));
        aq_parquet_get_info(p, &info);
        cr_assert_eq(info.num_columns, t.layout.params == AQ_PARAMS_F32 ? 17 : 20, "%s",
                     t.name);
        ASSERT_OK(aq_column_open(p, 0, QUANT_TYPE, &column, &err));
        ASSERT_OK(aq_column_view(column, &span, &err));
        type = span.values;
        cr_assert(type->size == strlen(forms[i].quant_type) &&
                      memcmp(type->data, forms[i].quant_type, type->size) == 0,
                  "%s", t.name);
        aq_column_close(column);
        aq_parquet_close(p);
        free_form(&t);
    }
    free(values);
}

/* What is put must have the parameters that were announced. */
Test(model, other_parameters_than_announced) {
    float *values = random_floats(64, 15);
    aq_tensor t[NUM_FORMS], bad;
    for (size_t i = 0; i < NUM_FORMS; i++) {
        t[i] = make_form(i, 2, 32, values);
        t[i].name = "w";
    }
    for (size_t i = 0; i < NUM_FORMS; i++) {
        for (size_t k = 0; k <= NUM_FORMS; k++) {
            aq_model_writer *w;
            aq_status status;
            bool fits = k < NUM_FORMS && t[k].layout.bits == t[i].layout.bits &&
                        t[k].layout.params == t[i].layout.params &&
                        t[k].layout.codebook == t[i].layout.codebook;
            bad = t[k < NUM_FORMS ? k : i];
            if (k == NUM_FORMS) bad.params = NULL, bad.scales = NULL;
            ASSERT_OK(
                aq_model_writer_open(in_dir("m.parquet"), &t[i], 1, &no_sync, &w, &err));
            status = aq_model_writer_put(w, &bad, &err);
            cr_expect_eq(status, fits ? AQ_OK : AQ_E_ARG, "%s, then %s", forms[i].name,
                         k < NUM_FORMS ? forms[k].name : "without parameters");
            aq_model_writer_abort(w);
        }
    }
    for (size_t i = 0; i < NUM_FORMS; i++)
        free_form(&t[i]);
    free(values);
}

/* ---- rows of a model that contradict themselves ---- */

/* Cells of a row; NULL = null. */
typedef struct cells {
    const char *quant_type, *packing, *params_type;
    int32_t bit_width;
    int64_t group_size, quant_axis; /* -1 = null */
    aq_bytes params, codebook;
    int64_t num_scales, num_zero_points;
} cells;

/* A tensor "odd" of 2 x 32 with these cells and codes of zeros. */
static void save_cells(const char *path, const cells *c) {
    static const aq_field_spec specs[] = {CELL_LEAF("layer_name", AQ_BYTE_ARRAY),
                                          CELL_LIST("shape", AQ_INT64),
                                          CELL_LEAF("data", AQ_BYTE_ARRAY),
                                          CELL_LEAF("quant_type", AQ_BYTE_ARRAY),
                                          CELL_LEAF("bit_width", AQ_INT32),
                                          CELL_LEAF("packing", AQ_BYTE_ARRAY),
                                          CELL_LEAF("group_size", AQ_INT64),
                                          CELL_LEAF("quant_axis", AQ_INT64),
                                          CELL_LIST("scales", AQ_FLOAT),
                                          CELL_LIST("zero_points", AQ_FLOAT),
                                          CELL_LEAF("group_params", AQ_BYTE_ARRAY),
                                          CELL_LEAF("params_type", AQ_BYTE_ARRAY),
                                          CELL_LEAF("codebook", AQ_BYTE_ARRAY)};
    static const int64_t shape[2] = {2, 32};
    static const float floats[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    static const uint8_t zeros[256];
    const size_t bits = (size_t)(c->packing == NULL ? 8 : c->bit_width);
    const aq_bytes data = {zeros, c->bit_width == 0 ? 256 : 64 * bits / 8};
    aq_writer *w;
    ASSERT_OK(aq_writer_open(path, specs, COUNT_OF(specs), NULL, &w, &err));
    put_text(w, "odd");
    put_list(w, shape, 2);
    put_cell(w, &data);
    put_text(w, c->quant_type);
    put_cell(w, &c->bit_width);
    put_text(w, c->packing);
    put_cell(w, c->group_size < 0 ? NULL : &c->group_size);
    put_cell(w, c->quant_axis < 0 ? NULL : &c->quant_axis);
    put_list(w, floats, c->num_scales);
    put_list(w, floats, c->num_zero_points);
    put_cell(w, c->params.data == NULL ? NULL : &c->params);
    put_text(w, c->params_type);
    put_cell(w, c->codebook.data == NULL ? NULL : &c->codebook);
    ASSERT_OK(aq_writer_end_row_group(w, 1, &err));
    ASSERT_OK(aq_writer_finish(w, &err));
}

static aq_status read_cells(const cells *c) {
    aq_model *m;
    aq_tensor t;
    aq_status status;
    save_cells(in_dir("odd.parquet"), c);
    status = aq_model_open(in_dir("odd.parquet"), NULL, &m, &err);
    if (status != AQ_OK) return status;
    status = aq_model_tensor(m, 0, &t, &err);
    aq_tensor_release(&t);
    aq_model_close(m);
    return status;
}

/* Parameters of 2 rows x 2 groups, and what to make of them. */
static aq_bytes params_of(float factor, float second, const uint8_t *rest, size_t n) {
    static uint8_t room[64];
    size_t at = 0;
    for (int row = 0; row < 2; row++) {
        memcpy(room + at, le_floats(&factor, 1), 4);
        at += 4;
        if (second != -1) memcpy(room + at, le_floats(&second, 1), 4);
        if (second != -1) at += 4;
    }
    memcpy(room + at, rest, n);
    return (aq_bytes){room, at + n};
}

static const uint8_t codes[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 1, 1, 1, 1, 1, 1};

static cells u8_cells(void) {
    cells c = {.quant_type = "int4",
               .packing = "lsb",
               .params_type = "uint8",
               .bit_width = 4,
               .group_size = 16,
               .quant_axis = -1};
    c.params = params_of(0.5f, 0.25f, codes, 8);
    return c;
}

static cells codebook_cells(void) {
    cells c = u8_cells();
    c.quant_type = "codebook4";
    c.codebook = (aq_bytes){(const uint8_t *)aq_codebook(4), 16};
    c.params = params_of(-0.5f, -1, codes, 4);
    return c;
}

static cells f16_cells(void) {
    static const uint8_t halves[16] = {0, 60, 0, 60, 0, 60, 0, 60,
                                       0, 60, 0, 60, 0, 60, 0, 60};
    cells c = u8_cells();
    c.params_type = "float16";
    c.params = params_of(0.5f, -1, halves, 16);
    return c;
}

/* An error says `message` and names the tensor. */
static void expect_cells(const cells *c, aq_status wanted, const char *message) {
    aq_status status = read_cells(c);
    cr_expect_eq(status, wanted, "%s: %s, not %s: %s", message, aq_status_name(status),
                 aq_status_name(wanted), status == AQ_OK ? "" : err.message);
    if (status == AQ_OK) return;
    EXPECT_MESSAGE(message, message);
    EXPECT_MESSAGE(message, "tensor \"odd\"");
}

Test(model, small_parameters_that_contradict_their_row) {
    uint8_t levels[16];
    cells c = u8_cells();
    expect_cells(&c, AQ_OK, "as it should be");
    c = codebook_cells();
    expect_cells(&c, AQ_OK, "as it should be");
    c = f16_cells();
    expect_cells(&c, AQ_OK, "as it should be");
    c.group_size = -1, c.quant_axis = 0; /* a group a row */
    c.params.size = 8 + 8;
    expect_cells(&c, AQ_OK, "as it should be");

    for (size_t size = 0; size <= 40; size++) {
        c = u8_cells();
        c.params.size = size;
        expect_cells(&c, size == 24 || size == 12 ? AQ_OK : AQ_E_FORMAT,
                     "group_params has ");
        c = f16_cells();
        c.params.size = size;
        expect_cells(&c, size == 24 || size == 16 ? AQ_OK : AQ_E_FORMAT,
                     "group_params has ");
        c = codebook_cells();
        c.params.size = size;
        expect_cells(&c, size == 12 ? AQ_OK : AQ_E_FORMAT, "group_params has ");
    }
    c = u8_cells();
    c.params.data = NULL;
    expect_cells(&c, AQ_E_FORMAT, "group_params has 0 bytes");
    c = u8_cells();
    c.params_type = "uint9";
    expect_cells(&c, AQ_E_UNSUPPORTED, "params_type \"uint9\" is not known");
    c.params_type = "";
    expect_cells(&c, AQ_E_UNSUPPORTED, "params_type \"\" is not known");
    c.params_type = NULL;
    expect_cells(&c, AQ_E_FORMAT, "disagree");
    c.params.data = NULL;
    expect_cells(&c, AQ_E_FORMAT, "0 scales for 4 groups");
    c = u8_cells();
    c.num_scales = 4;
    expect_cells(&c, AQ_E_FORMAT, "4 scales beside group_params");
    c = u8_cells();
    c.num_zero_points = 4;
    expect_cells(&c, AQ_E_FORMAT, "4 zero points beside group_params");
    c = u8_cells();
    c.packing = NULL;
    expect_cells(&c, AQ_E_FORMAT, "without packing");
    c = u8_cells();
    c.packing = NULL, c.quant_type = "int8", c.bit_width = 8;
    expect_cells(&c, AQ_E_FORMAT, "without packing");
    c = u8_cells();
    c.group_size = -1;
    expect_cells(&c, AQ_E_FORMAT, "neither group_size");
    c = u8_cells();
    c.bit_width = 8;
    expect_cells(&c, AQ_E_FORMAT, "quant_type and bit_width");
    c = u8_cells();
    c.quant_type = "none", c.bit_width = 0;
    expect_cells(&c, AQ_E_FORMAT, "of a tensor that is not quantized");

    c = codebook_cells();
    c.quant_type = "int4";
    expect_cells(&c, AQ_E_FORMAT, "disagree");
    c = codebook_cells();
    c.codebook.data = NULL;
    expect_cells(&c, AQ_E_FORMAT, "disagree");
    c = codebook_cells();
    c.params_type = NULL, c.params.data = NULL;
    expect_cells(&c, AQ_E_FORMAT, "disagree");
    c = codebook_cells();
    c.params_type = "float16";
    expect_cells(&c, AQ_E_UNSUPPORTED, "a codebook with other");
    memcpy(levels, aq_codebook(4), 16);
    for (size_t i = 0; i < 16; i++) {
        c = codebook_cells();
        levels[i] ^= 1;
        c.codebook.data = levels;
        expect_cells(&c, AQ_E_UNSUPPORTED, "a codebook with other");
        levels[i] ^= 1;
    }
    c = codebook_cells();
    c.codebook.size = 15;
    expect_cells(&c, AQ_E_UNSUPPORTED, "a codebook with other");
    c = codebook_cells();
    c.quant_type = "codebook8", c.bit_width = 8;
    expect_cells(&c, AQ_E_UNSUPPORTED, "a codebook with other");
    c = codebook_cells();
    c.quant_type = "codebook2";
    expect_cells(&c, AQ_E_FORMAT, "quant_type and bit_width");
    c = codebook_cells();
    c.quant_type = "codeboom4";
    expect_cells(&c, AQ_E_FORMAT, "quant_type and bit_width");
}

Test(model, small_parameters_that_are_no_numbers) {
    static const float factors[] = {(float)NAN, (float)INFINITY, -(float)INFINITY};
    uint8_t halves[16];
    cells c;
    for (size_t i = 0; i < COUNT_OF(factors); i++) {
        c = u8_cells();
        c.params = params_of(factors[i], 0.25f, codes, 8);
        expect_cells(&c, AQ_E_NONFINITE, "NaN or infinity at row 0");
        c = u8_cells();
        c.params = params_of(0.5f, factors[i], codes, 8);
        expect_cells(&c, AQ_E_NONFINITE, "NaN or infinity at row 0");
        c = codebook_cells();
        c.params = params_of(factors[i], -1, codes, 4);
        expect_cells(&c, AQ_E_NONFINITE, "NaN or infinity at row 0");
        c = f16_cells();
        c.params = params_of(factors[i], -1, c.params.data + 8, 16);
        expect_cells(&c, AQ_E_NONFINITE, "NaN or infinity at row 0");
    }
    c = u8_cells();
    c.params = params_of(-0.5f, 0.25f, codes, 8);
    expect_cells(&c, AQ_E_FORMAT, "below 0 at row 0");
    c.params = params_of(0.5f, -0.25f, codes, 8);
    expect_cells(&c, AQ_E_FORMAT, "below 0 at row 0");
    c.params = params_of(-0.5f, -1, codes, 4); /* symmetric */
    expect_cells(&c, AQ_E_FORMAT, "below 0 at row 0");
    c = u8_cells(); /* 4 * 1e38 overflows */
    c.params = params_of(1e38f, 0.25f, codes, 8);
    expect_cells(&c, AQ_E_NONFINITE, "NaN or infinity at group 3");
    c.params = params_of(1e-38f, 1e30f, codes, 8); /* so does minimum / scale */
    expect_cells(&c, AQ_E_NONFINITE, "NaN or infinity at group 0");
    for (size_t i = 0; i < 8; i++) { /* 4 scales, 4 zero points */
        char message[64];
        c = f16_cells();
        memcpy(halves, c.params.data + 8, 16);
        halves[2 * i] = (uint8_t)(i % 2);
        halves[2 * i + 1] = 0x7c; /* infinity, NaN */
        c.params = params_of(0.5f, -1, halves, 16);
        snprintf(message, sizeof message, "NaN or infinity at group %zu", i % 4);
        expect_cells(&c, AQ_E_NONFINITE, message);
    }
}

/* ---- every allocation can fail ---- */

static aq_status open_and_find(const aq_allocator *allocator) {
    aq_model_options o = {.allocator = allocator, .io = AQ_IO_READ};
    return model_read_all(in_dir("input.parquet"), &o);
}

static aq_status save_two(const aq_allocator *allocator, const char *name) {
    static const float values[16] = {1};
    const aq_key_value pair = {"k", "v", 1};
    aq_model_writer_options o = {
        .allocator = allocator, .metadata = &pair, .num_metadata = 1, .no_sync = true};
    aq_tensor t[2] = {matrix_of("a", 2, 8, values), matrix_of("b", 2, 8, values)};
    return aq_model_save(in_dir(name), t, 2, &o, &err);
}

static aq_status save_parquet(const aq_allocator *a) { return save_two(a, "o.parquet"); }
static aq_status save_json(const aq_allocator *a) { return save_two(a, "o.safetensors"); }

static aq_status run_job(const aq_allocator *allocator) {
    aq_job_options o = {.allocator = allocator, .threads = 2, .no_sync = true};
    aq_job_report r;
    aq_status status =
        aq_job_run(in_dir("input.parquet"), in_dir("o.parquet"), &o, &r, &err);
    if (status == AQ_OK) aq_job_report_deinit(&r);
    return status;
}

static aq_status run_small_job(const aq_allocator *allocator) {
    aq_job_options o = {.quant = {.codebook = true}, .allocator = allocator};
    o.threads = 1;
    o.no_sync = true;
    return aq_job_run(in_dir("input.parquet"), in_dir("o.parquet"), &o, NULL, &err);
}

static const struct {
    const char *what;
    aq_status (*run)(const aq_allocator *allocator);
    size_t files;         /* that it leaves on success */
    aq_job_options input; /* makes the input           */
} allocating[] = {{"open", open_and_find, 0, {.operation = AQ_QUANTIZE}},
                  {"open small", open_and_find, 0, {.quant = {.params = AQ_PARAMS_U8}}},
                  {"save Parquet", save_parquet, 1, {.operation = AQ_CONVERT}},
                  {"save safetensors", save_json, 1, {.operation = AQ_CONVERT}},
                  {"job", run_job, 1, {.operation = AQ_CONVERT}},
                  {"job to small", run_small_job, 1, {.operation = AQ_CONVERT}}};

Test(model, every_allocation_fails) {
    static const float values[16] = {1, 2, 3};
    aq_tensor t[2] = {matrix_of("a", 2, 8, values), matrix_of("b", 2, 8, values)};
    ASSERT_OK(aq_model_save(in_dir("f.parquet"), t, 2, &no_sync, &err));
    for (size_t i = 0; i < COUNT_OF(allocating); i++) {
        const aq_job_options *o = &allocating[i].input;
        size_t k = 0, before;
        aq_status status;
        temp_path_remove(in_dir("input.parquet"));
        ASSERT_OK(
            aq_job_run(in_dir("f.parquet"), in_dir("input.parquet"), o, NULL, &err));
        before = temp_dir_entries(here.path);
        do {
            counting_allocator c;
            counting_init(&c);
            c.fail_at = ++k;
            status = allocating[i].run(&c.hooks);
            cr_assert(status == AQ_OK || status == AQ_E_NOMEM, "%s, call %zu: %s",
                      allocating[i].what, k, err.message);
            cr_assert(counting_is_clean(&c), "%s, call %zu", allocating[i].what, k);
            cr_assert_eq(temp_dir_entries(here.path),
                         before + (status == AQ_OK ? allocating[i].files : 0), "%s, %zu",
                         allocating[i].what, k);
        } while (status != AQ_OK);
        cr_assert_gt(k, 5, "%s", allocating[i].what);
        temp_path_remove(in_dir("o.parquet"));
        temp_path_remove(in_dir("o.safetensors"));
    }
}
