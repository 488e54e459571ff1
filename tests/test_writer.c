/* test_writer.c - the Parquet writer used wrongly, and what writers leave behind: the
 * whole file, or nothing and the old one untouched. */
#include "files.h"

#include <errno.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>

TestSuite(writer, .init = enter_temp_dir, .fini = leave_temp_dir, .timeout = 60);

static const aq_field_spec int_field = {.name = "v", .type = AQ_INT32};
static const aq_field_spec bool_field = {.name = "v", .type = AQ_BOOLEAN};
static const aq_field_spec optional_int = {
    .name = "v", .type = AQ_INT32, .repetition = AQ_OPTIONAL};
static const aq_field_spec list_fields[] = {
    {.name = "v", .type = AQ_GROUP, .num_children = 1},
    {.name = "list", .repetition = AQ_REPEATED, .type = AQ_GROUP, .num_children = 1},
    {.name = "element", .type = AQ_INT32}};
static const int32_t two[] = {1, 2};
static const aq_column_values two_values = {two, 2, NULL, NULL, 0};

/* ---- schemas ---- */

static const struct {
    aq_field_spec fields[2];
    size_t count;
    aq_status wanted;
    const char *message;
} schema_cases[] = {
    {{{.name = NULL, .type = AQ_INT32}}, 1, AQ_E_ARG, "without a name"},
    {{{.name = "", .type = AQ_INT32}}, 1, AQ_E_ARG, "without a name"},
    {{{.name = "f", .type = (aq_physical_type)8}}, 1, AQ_E_ARG, "\"f\""},
    {{{.name = "f", .type = (aq_physical_type)-2}}, 1, AQ_E_ARG, "\"f\""},
    {{{.name = "f", .type = AQ_INT32, .repetition = (aq_repetition)3}},
     1,
     AQ_E_ARG,
     "\"f\""},
    {{{.name = "f", .type = AQ_FIXED_LEN_BYTE_ARRAY}}, 1, AQ_E_ARG, "\"f\""},
    {{{.name = "f", .type = AQ_INT32, .type_length = 4}}, 1, AQ_E_ARG, "\"f\""},
    {{{.name = "f", .type = AQ_INT32, .num_children = 1}, {.name = "g"}},
     2,
     AQ_E_ARG,
     "\"f\""},
    {{{.name = "f", .type = AQ_GROUP}}, 1, AQ_E_ARG, "\"f\""},
    {{{.name = "f", .type = AQ_GROUP, .num_children = -1}}, 1, AQ_E_ARG, "\"f\""},
    {{{.name = "f", .type = AQ_GROUP, .num_children = 2}, {.name = "g"}},
     2,
     AQ_E_ARG,
     "lacks 1 of its children"},
    {{{.name = "f", .logical = AQ_LOGICAL_INTEGER, .bit_width = 7, .type = AQ_INT32}},
     1,
     AQ_E_ARG,
     "bit_width"},
    {{{.name = "f", .type = AQ_INT32, .logical = AQ_LOGICAL_DECIMAL}},
     1,
     AQ_E_ARG,
     "\"f\": precision"},
    {{{.name = "f", .type = AQ_INT32, .codec = AQ_LZO}}, 1, AQ_E_UNSUPPORTED, "LZO (3)"},
};

Test(writer, schemas) {
    for (size_t i = 0; i < COUNT_OF(schema_cases); i++) {
        aq_writer *w = (aq_writer *)(uintptr_t)1;
        aq_status got = aq_writer_open(in_dir("f"), schema_cases[i].fields,
                                       schema_cases[i].count, NULL, &w, &err);
        cr_expect_eq(got, schema_cases[i].wanted, "case %zu is %s: %s", i,
                     aq_status_name(got), err.message);
        ASSERT_MESSAGE("schema", schema_cases[i].message);
        cr_assert_null(w);
    }
    cr_assert_eq(temp_dir_entries(here.path), 0);
}

/* ---- paths and options ---- */

static aq_status open_at(const char *path, const aq_writer_options *o) {
    aq_writer *w;
    aq_status status = aq_writer_open(path, &int_field, 1, o, &w, &err);
    cr_assert_eq(w == NULL, status != AQ_OK);
    aq_writer_abort(w);
    return status;
}

Test(writer, options) {
    counting_allocator c;
    aq_writer_options o = {.value_alignment = 3};
    ASSERT_STATUS(open_at(in_dir("f"), &o), AQ_E_ARG);
    o.value_alignment = 8192;
    ASSERT_STATUS(open_at(in_dir("f"), &o), AQ_E_ARG);
    ASSERT_MESSAGE("alignment", "8192");
    o.value_alignment = 0;
    counting_init(&c);
    c.hooks.resize = NULL;
    o.allocator = &c.hooks;
    ASSERT_STATUS(open_at(in_dir("f"), &o), AQ_E_ARG);
    ASSERT_MESSAGE("allocator", "2 of 3");
    cr_assert_eq(c.calls, 0);
}

Test(writer, paths) {
    char inside[600];
    ASSERT_STATUS(open_at(NULL, NULL), AQ_E_ARG);
    ASSERT_STATUS(open_at("", NULL), AQ_E_ARG);
    ASSERT_STATUS(open_at(here.path, NULL), AQ_E_ARG);
    ASSERT_STATUS(open_at("/dev/null", NULL), AQ_E_ARG);
    cr_assert_str_eq(err.name, "/dev/null");
    ASSERT_STATUS(open_at(in_dir("missing/f"), NULL), AQ_E_IO);
    cr_assert_eq(err.os_errno, ENOENT);
    file_write(in_dir("plain"), "x", 1);
    snprintf(inside, sizeof inside, "%s/f", in_dir("plain"));
    ASSERT_STATUS(open_at(inside, NULL), AQ_E_IO);
    cr_assert_eq(err.os_errno, ENOTDIR);
    if (geteuid() != 0) { /* root may write everywhere */
        cr_assert_eq(mkdir(in_dir("sealed"), 0555), 0);
        ASSERT_STATUS(open_at(in_dir("sealed/f"), NULL), AQ_E_IO);
        cr_assert_eq(err.os_errno, EACCES);
    }
    cr_assert_eq(temp_dir_entries(here.path), geteuid() != 0 ? 2u : 1u);
}

/* ---- columns ---- */

static const uint8_t levels_01[] = {0, 1}, levels_12[] = {1, 2}, levels_11[] = {1, 1};

#define LISTED list_fields, COUNT_OF(list_fields)
#define ONE(field) &field, 1

static const struct {
    const aq_field_spec *fields;
    size_t num_fields;
    aq_column_values v;
    aq_status wanted;
    const char *message;
} column_cases[] = {
    {ONE(int_field), {NULL, 2, NULL, NULL, 0}, AQ_E_ARG, "values missing"},
    {ONE(int_field), {two, -1, NULL, NULL, 0}, AQ_E_ARG, "values missing"},
    {ONE(int_field), {two, 2, NULL, NULL, 3}, AQ_E_ARG, "with levels"},
    {ONE(int_field), {two, (int64_t)1 << 30, NULL, NULL, 0}, AQ_E_LIMIT, "2 GiB"},
    {ONE(int_field), {two, INT64_MAX, NULL, NULL, 0}, AQ_E_LIMIT, "2 GiB"},
    {ONE(bool_field), {two, INT64_MAX, NULL, NULL, 0}, AQ_E_LIMIT, "2^31"},
    {ONE(optional_int), {two, 2, NULL, NULL, 2}, AQ_E_ARG, "needs levels"},
    {ONE(optional_int), {two, 2, levels_01, NULL, 2}, AQ_E_ARG, "levels say 1 values"},
    {ONE(optional_int), {two, 1, levels_12, NULL, 2}, AQ_E_ARG, "level 1 is above"},
    {ONE(optional_int), {two, 2, levels_11, NULL, -2}, AQ_E_ARG, "needs levels"},
    {LISTED, {two, 2, levels_11, NULL, 2}, AQ_E_ARG, "needs levels"},
    {LISTED, {two, 2, levels_11, levels_12, 2}, AQ_E_ARG, "level 1 is above"},
    {LISTED, {two, 2, levels_11, levels_11, 2}, AQ_E_ARG, "first repetition level"},
};

Test(writer, columns) {
    const aq_writer_options one_page = {.page_bytes = INT32_MAX};
    for (size_t i = 0; i < COUNT_OF(column_cases); i++) {
        aq_writer *w;
        ASSERT_OK(aq_writer_open(in_dir("f"), column_cases[i].fields,
                                 column_cases[i].num_fields, &one_page, &w, &err));
        ASSERT_STATUS(aq_writer_put_column(w, &column_cases[i].v, &err),
                      column_cases[i].wanted);
        ASSERT_MESSAGE("column", column_cases[i].message);
        cr_assert(err.column == 0 && err.row_group == 0);
        ASSERT_MESSAGE("column", "column v");
        /* The file cannot become whole any more, and says so. */
        ASSERT_STATUS(aq_writer_put_column(w, &two_values, &err), AQ_E_STATE);
        ASSERT_STATUS(aq_writer_end_row_group(w, 2, &err), AQ_E_STATE);
        ASSERT_STATUS(aq_writer_add_key_value(w, "k", "v", &err), AQ_E_STATE);
        ASSERT_STATUS(aq_writer_finish(w, &err), AQ_E_STATE);
        cr_assert_eq(temp_dir_entries(here.path), 0);
    }
}

Test(writer, order_of_calls) {
    static const aq_field_spec fields[] = {{.name = "a", .type = AQ_INT32},
                                           {.name = "b", .type = AQ_INT32}};
    static const aq_column_values one_value = {two, 1, NULL, NULL, 0};
    aq_writer *w;
    ASSERT_OK(aq_writer_open(in_dir("f"), fields, 2, NULL, &w, &err));
    ASSERT_OK(aq_writer_put_column(w, &two_values, &err));
    ASSERT_STATUS(aq_writer_end_row_group(w, 2, &err), AQ_E_STATE);
    ASSERT_OK(aq_writer_put_column(w, &two_values, &err));
    ASSERT_STATUS(aq_writer_put_column(w, &two_values, &err), AQ_E_STATE);
    ASSERT_STATUS(aq_writer_end_row_group(w, 3, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_writer_end_row_group(w, -1, &err), AQ_E_ARG);
    ASSERT_OK(aq_writer_end_row_group(w, 2, &err));
    ASSERT_OK(aq_writer_put_column(w, &two_values, &err));
    ASSERT_STATUS(aq_writer_put_column(w, &one_value, &err), AQ_E_ARG);
    ASSERT_MESSAGE("rows", "column has 1 rows, the ones before it 2 (column b");
    ASSERT_STATUS(aq_writer_finish(w, &err), AQ_E_STATE);
    ASSERT_OK(aq_writer_open(in_dir("f"), fields, 2, NULL, &w, &err));
    ASSERT_OK(aq_writer_put_column(w, &two_values, &err));
    ASSERT_STATUS(aq_writer_finish(w, &err), AQ_E_STATE);
    aq_writer_abort(NULL);
    cr_assert_eq(temp_dir_entries(here.path), 0);
}

/* ---- what is left behind ---- */

static uint8_t bulk[4 << 20];

/* A row group larger than the writer's buffer, so that bytes have reached the disk. */
static aq_status put_bulk(aq_writer *w) {
    aq_column_values v = {bulk, sizeof bulk / 4, NULL, NULL, 0};
    aq_status status = aq_writer_put_column(w, &v, &err);
    if (status != AQ_OK) return status;
    return aq_writer_end_row_group(w, v.num_values, &err);
}

static aq_writer *begin_bulk(const char *path) {
    aq_writer *w;
    ASSERT_OK(aq_writer_open(path, &int_field, 1, NULL, &w, &err));
    return w;
}

static void expect_old(const char *path) {
    file f = file_read(path);
    cr_assert(f.size == 3 && memcmp(f.data, "old", 3) == 0);
    file_free(&f);
}

Test(writer, abort_leaves_the_old_file) {
    aq_writer *w;
    file_write(in_dir("f"), "old", 3);
    w = begin_bulk(in_dir("f"));
    ASSERT_OK(put_bulk(w));
    cr_assert_eq(temp_dir_entries(here.path), 2);
    expect_old(in_dir("f"));
    aq_writer_abort(w);
    cr_assert_eq(temp_dir_entries(here.path), 1);
    expect_old(in_dir("f"));
    w = begin_bulk(in_dir("f"));
    ASSERT_OK(put_bulk(w));
    ASSERT_OK(aq_writer_finish(w, &err));
    cr_assert_eq(temp_dir_entries(here.path), 1);
}

Test(writer, killed_half_way_leaves_the_old_file) {
    static const int deaths[] = {0, SIGKILL};
    for (size_t i = 0; i < COUNT_OF(deaths); i++) {
        aq_parquet *f;
        aq_writer *w;
        pid_t child;
        int state;
        file_write(in_dir("f"), "old", 3);
        child = fork();
        if (child == 0) {
            if (aq_writer_open(in_dir("f"), &int_field, 1, NULL, &w, NULL) == AQ_OK &&
                put_bulk(w) == AQ_OK && deaths[i] != 0)
                kill(getpid(), deaths[i]);
            _exit(7);
        }
        cr_assert_eq(waitpid(child, &state, 0), child);
        cr_assert(deaths[i] == 0 ? WIFEXITED(state) : WIFSIGNALED(state));
        expect_old(in_dir("f"));
        /* What the dead left does not stand in the way. */
        w = begin_bulk(in_dir("f"));
        ASSERT_OK(put_bulk(w));
        ASSERT_OK(aq_writer_finish(w, &err));
        ASSERT_OK(aq_parquet_open(in_dir("f"), NULL, &f, &err));
        aq_parquet_close(f);
    }
}

static void expect_disk_error(const char *path, int code) {
    aq_writer *w = begin_bulk(path);
    aq_status status = put_bulk(w);
    int first = status == AQ_OK ? 0 : err.os_errno;
    if (status != AQ_OK) {
        cr_assert_eq(status, AQ_E_IO, "%s", err.message);
        ASSERT_STATUS(aq_writer_finish(w, &err), AQ_E_STATE);
    } else {
        ASSERT_STATUS(aq_writer_finish(w, &err), AQ_E_IO);
        first = err.os_errno;
    }
    cr_assert_eq(first, code, "errno %d", first);
}

/* The limit on a file's size stands for a full disk where nothing can be mounted. */
Test(writer, disk_full) {
    const struct rlimit small = {1 << 20, 1 << 20};
    file_write(in_dir("f"), "old", 3);
    signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
    expect_disk_error(in_dir("f"), EFBIG);
    cr_assert_eq(temp_dir_entries(here.path), 1);
    expect_old(in_dir("f"));
}

Test(writer, mounted_disk_full) {
    char mounted[512];
    snprintf(mounted, sizeof mounted, "%s", in_dir("disk"));
    cr_assert_eq(mkdir(mounted, 0700), 0);
    if (mount("tmpfs", mounted, "tmpfs", 0, "size=1m") != 0) return; /* not allowed */
    file_write(in_dir("disk/f"), "old", 3);
    expect_disk_error(in_dir("disk/f"), ENOSPC);
    cr_expect_eq(temp_dir_entries(mounted), 1);
    expect_old(in_dir("disk/f"));
    cr_assert_eq(umount(mounted), 0);
}

/* ---- every allocation can fail ---- */

static aq_status write_small(const aq_allocator *allocator) {
    aq_field_spec fields[COUNT_OF(list_fields) + 1];
    aq_writer_options o = {.allocator = allocator, .no_sync = true};
    aq_column_values list = {two, 2, levels_11, levels_01, 2},
                     one = {two, 1, NULL, NULL, 0};
    aq_status status;
    aq_writer *w;
    memcpy(fields, list_fields, sizeof list_fields);
    fields[2].codec = AQ_ZSTD;
    fields[COUNT_OF(list_fields)] = int_field;
    status = aq_writer_open(in_dir("f"), fields, COUNT_OF(fields), &o, &w, &err);
    if (status != AQ_OK) return status;
    status = aq_writer_add_key_value(w, "k", "v", &err);
    if (status == AQ_OK) status = aq_writer_put_column(w, &list, &err);
    if (status == AQ_OK) status = aq_writer_put_column(w, &one, &err);
    if (status == AQ_OK) status = aq_writer_end_row_group(w, 1, &err);
    if (status == AQ_OK) return aq_writer_finish(w, &err);
    aq_writer_abort(w);
    return status;
}

Test(writer, every_allocation_fails) {
    counting_allocator c;
    size_t k = 0;
    aq_status status;
    do {
        counting_init(&c);
        c.fail_at = ++k;
        status = write_small(&c.hooks);
        cr_assert(status == AQ_OK || status == AQ_E_NOMEM, "call %zu: %s", k,
                  err.message);
        cr_assert(counting_is_clean(&c), "call %zu", k);
        cr_assert_eq(temp_dir_entries(here.path), status == AQ_OK);
    } while (status != AQ_OK);
    cr_assert_gt(k, 10);
}

/* Metadata of a column stands in each of its chunks; the strings were copied. */
Test(writer, column_key_values) {
    char changing[] = "first";
    aq_key_value pairs[] = {{.key = "unit", .value = "mV"},
                            {.key = "", .value = ""},
                            {.key = "no value"},
                            {.key = "copied", .value = changing}};
    const aq_field_spec fields[] = {
        {.name = "plain", .type = AQ_INT32},
        {.name = "v", .type = AQ_INT32, .key_values = pairs, .num_key_values = 4}};
    aq_key_value pair;
    aq_parquet *f;
    aq_writer *w;
    aq_chunk_info chunk;
    ASSERT_OK(aq_writer_open(in_dir("f"), fields, 2, NULL, &w, &err));
    memset(changing, 'x', 5);
    pairs[0].key = NULL;
    for (int g = 0; g < 2; g++) {
        for (int c = 0; c < 2; c++) ASSERT_OK(aq_writer_put_column(w, &two_values, &err));
        ASSERT_OK(aq_writer_end_row_group(w, 2, &err));
    }
    ASSERT_OK(aq_writer_finish(w, &err));
    ASSERT_OK(aq_parquet_open(in_dir("f"), NULL, &f, &err));
    for (int g = 0; g < 2; g++) {
        ASSERT_OK(aq_parquet_get_chunk(f, g, 0, &chunk, &err));
        cr_assert_eq(chunk.num_key_values, 0);
        ASSERT_OK(aq_parquet_get_chunk(f, g, 1, &chunk, &err));
        cr_assert_eq(chunk.num_key_values, 4);
        cr_assert(aq_parquet_chunk_key_value(f, g, 1, 0, &pair));
        cr_assert_str_eq(pair.key, "unit");
        cr_assert_str_eq(pair.value, "mV");
        cr_assert(aq_parquet_chunk_key_value(f, g, 1, 1, &pair));
        cr_assert(pair.key[0] == '\0' && pair.value[0] == '\0');
        cr_assert(aq_parquet_chunk_key_value(f, g, 1, 2, &pair));
        cr_assert(pair.value == NULL);
        cr_assert(aq_parquet_chunk_key_value(f, g, 1, 3, &pair));
        cr_assert_str_eq(pair.value, "first");
        cr_assert(!aq_parquet_chunk_key_value(f, g, 1, 4, &pair));
    }
    aq_parquet_close(f);
}

Test(writer, column_key_values_refused) {
    static const aq_key_value no_key = {.value = "v"}, pair = {.key = "k", .value = "v"};
    aq_field_spec field = {.name = "v", .type = AQ_INT32, .num_key_values = 1};
    aq_writer *w;
    ASSERT_STATUS(aq_writer_open(in_dir("f"), &field, 1, NULL, &w, &err), AQ_E_ARG);
    field.key_values = &no_key;
    ASSERT_STATUS(aq_writer_open(in_dir("f"), &field, 1, NULL, &w, &err), AQ_E_ARG);
    ASSERT_MESSAGE("key", "metadata key missing");
    field.key_values = &pair;
    field.num_key_values = -1;
    ASSERT_STATUS(aq_writer_open(in_dir("f"), &field, 1, NULL, &w, &err), AQ_E_ARG);
    cr_assert_eq(temp_dir_entries(here.path), 0);
}

/* What the writer writes by default, the reader reads by default: 80 million nulls are a few
 * bytes, which may not become any number of levels. */
Test(writer, many_nulls) {
    static const aq_field_spec field = {
        .name = "v", .repetition = AQ_OPTIONAL, .type = AQ_INT32};
    const int64_t n = 80000000;
    uint8_t *nulls = calloc((size_t)n, 1);
    const aq_column_values v = {two, 0, nulls, NULL, n};
    int64_t levels = 0;
    aq_parquet *f;
    aq_column *c;
    aq_writer *w;
    aq_span span;
    ASSERT_OK(aq_writer_open(in_dir("f"), &field, 1, NULL, &w, &err));
    ASSERT_OK(aq_writer_put_column(w, &v, &err));
    ASSERT_OK(aq_writer_end_row_group(w, n, &err));
    ASSERT_OK(aq_writer_finish(w, &err));
    ASSERT_OK(aq_parquet_open(in_dir("f"), NULL, &f, &err));
    ASSERT_OK(aq_column_open(f, 0, 0, &c, &err));
    for (;;) {
        ASSERT_OK(aq_column_next(c, &span, &err));
        if (span.values == NULL) break;
        cr_assert(span.num_values == 0 && span.def_levels[span.num_levels - 1] == 0);
        levels += span.num_levels;
    }
    cr_assert_eq(levels, n);
    aq_column_close(c);
    aq_parquet_close(f);
    free(nulls);
}

/* Also of a column whose pages were taken. */
Test(writer, verify_begins_anew) {
    aq_parquet *f;
    aq_chunk_info chunk;
    aq_column *c;
    aq_writer *w;
    const aq_span *spans;
    size_t n;
    ASSERT_OK(aq_writer_open(in_dir("f"), &int_field, 1, NULL, &w, &err));
    ASSERT_OK(aq_writer_put_column(w, &two_values, &err));
    ASSERT_OK(aq_writer_end_row_group(w, 2, &err));
    ASSERT_OK(aq_writer_finish(w, &err));
    ASSERT_OK(aq_parquet_open(in_dir("f"), NULL, &f, &err));
    ASSERT_OK(aq_parquet_get_chunk(f, 0, 0, &chunk, &err));
    aq_parquet_close(f);
    FILE *raw = fopen(in_dir("f"), "r+b");
    fseek(raw, (long)(chunk.start_offset + chunk.compressed_bytes - 1), SEEK_SET);
    fputc(0x55, raw);
    fclose(raw);
    ASSERT_OK(aq_parquet_open(in_dir("f"), NULL, &f, &err));
    ASSERT_OK(aq_column_open(f, 0, 0, &c, &err));
    ASSERT_OK(aq_column_spans(c, &spans, &n, &err));
    ASSERT_STATUS(aq_column_verify(c, &err), AQ_E_CHECKSUM);
    ASSERT_OK(aq_column_spans(c, &spans, &n, &err));
    aq_column_close(c);
    aq_parquet_close(f);
}
