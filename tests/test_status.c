/* test_status.c - each status, from the smallest input that causes it. */
#include "files.h"

#include <math.h>

TestSuite(status, .init = enter_temp_dir, .fini = leave_temp_dir, .timeout = 30);

static const aq_field_spec one_int = {.name = "v", .type = AQ_INT32};
static const int32_t number = 7;
static const aq_column_values one_value = {&number, .num_values = 1};

/* A Parquet file "f" of one integer; ZSTD, so that reading decodes and checks it. */
static void make_table(void) {
    aq_field_spec field = one_int;
    aq_writer *w;
    field.codec = AQ_ZSTD;
    ASSERT_OK(aq_writer_open(in_dir("f"), &field, 1, NULL, &w, &err));
    ASSERT_OK(aq_writer_put_column(w, &one_value, &err));
    ASSERT_OK(aq_writer_end_row_group(w, 1, &err));
    ASSERT_OK(aq_writer_finish(w, &err));
}

/* A model "m.parquet" of one matrix with this first value. */
static void make_matrix(float first) {
    const float values[16] = {first};
    aq_tensor t = matrix_of("w", 2, 8, values);
    ASSERT_OK(aq_model_save(in_dir("m.parquet"), &t, 1, NULL, &err));
}

static aq_status open_bytes(const char *bytes, size_t size) {
    aq_parquet *f;
    return aq_parquet_open_memory(bytes, size, NULL, &f, &err);
}

static aq_status quantize_matrix(const aq_job_options *o) {
    return aq_job_run(in_dir("m.parquet"), in_dir("q.parquet"), o, NULL, &err);
}

static bool always_stop(void *user, const aq_progress *progress) {
    (void)user;
    (void)progress;
    return false;
}

static aq_status success(void) {
    aq_pool *pool;
    aq_status status = aq_pool_create(NULL, &pool, &err);
    aq_pool_destroy(pool);
    return status;
}

static aq_status bad_argument(void) {
    aq_tensor t;
    return aq_tensor_init(&t, "", AQ_F32, NULL, 0, NULL, &err);
}

static aq_status no_memory(void) {
    counting_allocator c;
    aq_pool_options o = {.allocator = &c.hooks};
    aq_pool *pool;
    counting_init(&c);
    c.fail_at = 1;
    return aq_pool_create(&o, &pool, &err);
}

static aq_status missing_file(void) {
    aq_parquet *f;
    return aq_parquet_open(in_dir("missing"), NULL, &f, &err);
}

static aq_status no_parquet(void) { return open_bytes("PAR2", 4); }
static aq_status encrypted(void) { return open_bytes("PAR1\0\0\0\0PARE", 12); }

static aq_status too_much_metadata(void) {
    aq_parquet_options o = {.max_metadata_bytes = 1};
    aq_parquet *f;
    make_table();
    return aq_parquet_open(in_dir("f"), &o, &f, &err);
}

static aq_status damaged_page(void) {
    aq_page_info page;
    aq_status status;
    aq_column *c;
    aq_parquet *p;
    aq_span span;
    file f;
    make_table();
    f = file_read(in_dir("f"));
    ASSERT_OK(aq_parquet_open_memory(f.data, f.size, NULL, &p, &err));
    ASSERT_OK(aq_column_open(p, 0, 0, &c, &err));
    ASSERT_OK(aq_column_next_page(c, &page, &err));
    aq_column_close(c);
    f.data[page.data_offset] ^= 1;
    ASSERT_OK(aq_column_open(p, 0, 0, &c, &err));
    status = aq_column_next(c, &span, &err);
    aq_column_close(c);
    aq_parquet_close(p);
    file_free(&f);
    return status;
}

static aq_status table_as_model(void) {
    aq_model *m;
    make_table();
    return aq_model_open(in_dir("f"), NULL, &m, &err);
}

static aq_status unknown_tensor(void) {
    aq_status status;
    aq_tensor t;
    aq_model *m;
    make_matrix(1);
    ASSERT_OK(aq_model_open(in_dir("m.parquet"), NULL, &m, &err));
    status = aq_model_find(m, "v", &t, &err);
    aq_model_close(m);
    return status;
}

static aq_status name_twice(void) {
    const float one = 1;
    const aq_tensor t = tensor_of("t", AQ_F32, NULL, 0, &one), both[2] = {t, t};
    return aq_model_save(in_dir("m.parquet"), both, 2, NULL, &err);
}

static aq_status not_a_number(void) {
    const aq_job_options o = {.fail_fast = true};
    make_matrix((float)NAN);
    return quantize_matrix(&o);
}

static aq_status too_far_off(void) {
    const aq_job_options o = {
        .fail_fast = true, .min_cosine = 1, .quant = {.bits = 2}};
    const float values[16] = {1, 2, 4, 7, 11, 16, 22, 29};
    aq_tensor t = matrix_of("w", 2, 8, values);
    ASSERT_OK(aq_model_save(in_dir("m.parquet"), &t, 1, NULL, &err));
    return quantize_matrix(&o);
}

static aq_status out_of_order(void) {
    aq_writer *w;
    ASSERT_OK(aq_writer_open(in_dir("f"), &one_int, 1, NULL, &w, &err));
    ASSERT_OK(aq_writer_put_column(w, &one_value, &err));
    return aq_writer_finish(w, &err);
}

static aq_status stopped(void) {
    aq_job_options o = {.progress = {always_stop, NULL}};
    make_matrix(1);
    return quantize_matrix(&o);
}

/* In the order of the numbers. */
static aq_status (*const causes[])(void) = {
    success,    bad_argument,      no_memory,    missing_file,   no_parquet,
    encrypted,  too_much_metadata, damaged_page, table_as_model, unknown_tensor,
    name_twice, not_a_number,      out_of_order, stopped,        too_far_off};

static const struct {
    aq_status status;
    int value;
    const char *name, *meaning;
} list[] = {
#define ROW(enumerator, value, name, meaning) {enumerator, value, name, meaning},
    AQ_STATUS_LIST(ROW)
#undef ROW
};

Test(status, each_has_a_cause) {
    cr_assert_eq(COUNT_OF(causes), COUNT_OF(list));
    for (size_t i = 0; i < COUNT_OF(list); i++) {
        memset(&err, 0x55, sizeof err);
        ASSERT_STATUS(causes[i](), list[i].status);
        cr_assert_eq(err.status, list[i].status, "%s", list[i].name);
        if (list[i].status == AQ_OK) continue;
        cr_assert(err.message[0] != '\0', "%s", list[i].name);
        cr_assert_eq(err.os_errno != 0, list[i].status == AQ_E_IO, "%s", list[i].name);
        cr_assert_neq(err.message[strlen(err.message) - 1], '.', "%s", err.message);
    }
}

Test(status, names_and_meanings) {
    for (size_t i = 0; i < COUNT_OF(list); i++) {
        cr_assert(list[i].value == (int)i && list[i].status == (aq_status)i);
        cr_assert_str_eq(aq_status_name(list[i].status), list[i].name);
        cr_assert_str_eq(aq_status_meaning(list[i].status), list[i].meaning);
        for (size_t k = 0; k < i; k++)
            cr_assert_str_neq(list[i].name, list[k].name);
    }
    cr_assert_str_eq(aq_status_name((aq_status)COUNT_OF(list)), "unknown");
    cr_assert_str_eq(aq_status_name((aq_status)-1), "unknown");
    cr_assert_gt(strlen(aq_status_meaning((aq_status)-1)), 0);
}

/* A name that does not fit keeps both of its ends. */
Test(status, long_names) {
    static char name[1001];
    const float value = 1;
    aq_tensor t[2];
    memset(name, 'x', 1000);
    memcpy(name, "first", 5);
    memcpy(name + 996, "last", 4);
    t[0] = t[1] = tensor_of(name, AQ_F32, NULL, 0, &value);
    ASSERT_STATUS(aq_model_save(in_dir("m"), t, 2, NULL, &err), AQ_E_DUPLICATE);
    cr_assert(strncmp(err.name, "first", 5) == 0 && strstr(err.name, "...") != NULL);
    cr_assert_str_eq(err.name + strlen(err.name) - 4, "last");
    ASSERT_MESSAGE("long", "first");
    /* Every call takes NULL for the error. */
    cr_assert_eq(aq_model_save(in_dir("m"), t, 2, NULL, NULL), AQ_E_DUPLICATE);
}
