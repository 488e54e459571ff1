/* test_model.c - models and jobs: tensors come from the mapping without copies, files
 * come back as they were saved, jobs give the same bytes whatever runs them, and what
 * fails or is cancelled leaves nothing. */
#include "files.h"

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
    cr_assert(t.mapped);
    cr_assert(inside(file, t.data, t.data_bytes));
    cr_assert(inside(file, t.scales, t.layout.num_groups * sizeof(float)));
    cr_assert(inside(file, t.zero_points, t.layout.num_groups * sizeof(float)));
    cr_assert_eq((uintptr_t)t.data % AQ_ALIGNMENT, 0);
    cr_assert_eq((uintptr_t)t.scales % AQ_ALIGNMENT, 0);
    cr_assert_eq((uintptr_t)t.zero_points % AQ_ALIGNMENT, 0);
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
    cr_assert(a.mapped && !b.mapped);
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
            cr_assert_arr_eq(f.data, want, f.data_bytes);
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
    const char *what;
    aq_job_options options;
    aq_status wanted;
} job_cases[] = {
    {"7 bits", {.quant = {.bits = 7}}, AQ_E_ARG},
    {"small groups", {.quant = {.group_size = 7}}, AQ_E_ARG},
    {"granularity", {.quant = {.granularity = (aq_granularity)3}}, AQ_E_ARG},
    {"operation", {.operation = (aq_operation)3}, AQ_E_ARG},
    {"io", {.io = (aq_io)3}, AQ_E_ARG},
};

Test(model, job_misuse) {
    make_model(in_dir("m.parquet"));
    for (size_t i = 0; i < COUNT_OF(job_cases); i++) {
        ASSERT_STATUS(aq_job_run(in_dir("m.parquet"), in_dir("q.parquet"),
                                 &job_cases[i].options, NULL, &err),
                      job_cases[i].wanted);
        cr_assert_eq(temp_dir_entries(here.path), 1, "%s", job_cases[i].what);
    }
    ASSERT_STATUS(aq_job_run(NULL, in_dir("q"), NULL, NULL, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_job_run(in_dir("m.parquet"), NULL, NULL, NULL, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_job_run(in_dir("none"), in_dir("q"), NULL, NULL, &err), AQ_E_IO);
}

/* NaN in the last tensor: named with its index, and no output. */
Test(model, nonfinite_values_leave_nothing) {
    float good[16] = {1}, bad[16] = {1};
    aq_tensor t[2];
    bad[5] = (float)NAN;
    t[0] = matrix_of("a", 2, 8, good);
    t[1] = matrix_of("z", 2, 8, bad);
    ASSERT_OK(aq_model_save(in_dir("m.parquet"), t, 2, NULL, &err));
    ASSERT_STATUS(aq_job_run(in_dir("m.parquet"), in_dir("q.parquet"), NULL, NULL, &err),
                  AQ_E_NONFINITE);
    ASSERT_MESSAGE("NaN", "tensor \"z\"");
    ASSERT_MESSAGE("NaN", "5");
    cr_assert_eq(temp_dir_entries(here.path), 1);
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

/* ---- every allocation can fail ---- */

static aq_status open_and_find(const aq_allocator *allocator) {
    aq_model_options o = {.allocator = allocator, .io = AQ_IO_READ};
    aq_status status;
    aq_model *m;
    aq_tensor t;
    status = aq_model_open(in_dir("input.parquet"), &o, &m, &err);
    if (status != AQ_OK) return status;
    for (size_t i = 0; i < aq_model_count(m) && status == AQ_OK; i++) {
        status = aq_model_tensor(m, i, &t, &err);
        aq_tensor_release(&t);
    }
    aq_model_close(m);
    return status;
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

static const struct {
    const char *what;
    aq_status (*run)(const aq_allocator *allocator);
    size_t files; /* that it leaves on success */
} allocating[] = {{"open", open_and_find, 0},
                  {"save Parquet", save_parquet, 1},
                  {"save safetensors", save_json, 1},
                  {"job", run_job, 1}};

Test(model, every_allocation_fails) {
    static const float values[16] = {1, 2, 3};
    aq_tensor t[2] = {matrix_of("a", 2, 8, values), matrix_of("b", 2, 8, values)};
    ASSERT_OK(aq_model_save(in_dir("f.parquet"), t, 2, &no_sync, &err));
    for (size_t i = 0; i < COUNT_OF(allocating); i++) {
        aq_job_options o = {.operation = i == 0 ? AQ_QUANTIZE : AQ_CONVERT};
        size_t k = 0, before;
        aq_status status;
        temp_path_remove(in_dir("input.parquet"));
        ASSERT_OK(
            aq_job_run(in_dir("f.parquet"), in_dir("input.parquet"), &o, NULL, &err));
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
