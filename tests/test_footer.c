/* test_footer.c - what a Parquet footer says and what it may not say: large ones, none of
 * something, statistics and key-values of column chunks, odd orders, claims, and the place
 * in messages. Damaged bytes: test_thrift.c, test_bad_input.c. */
#define AQ_STATIC
#define ARROWQUANT_IMPLEMENTATION
#include "craft.h"

TestSuite(footer, .init = enter_temp_dir, .fini = leave_temp_dir, .timeout = 60);

static const aq_writer_options no_sync = {.no_sync = true};

/* Columns "c0", "c1", ... of one INT64 in each row group: its number. */
static file write_grid(int32_t columns, int64_t row_groups) {
    aq_field_spec *fields = calloc((size_t)columns, sizeof *fields);
    char(*names)[16] = calloc((size_t)columns, sizeof *names);
    aq_writer *w;
    for (int32_t c = 0; c < columns; c++) {
        snprintf(names[c], sizeof names[c], "c%d", c);
        fields[c] =
            (aq_field_spec){.name = names[c], .type = AQ_INT64, .write_statistics = true};
    }
    ASSERT_OK(
        aq_writer_open(in_dir("grid"), fields, (size_t)columns, &no_sync, &w, &err));
    for (int64_t cell = 0; cell < columns * row_groups; cell++) {
        const aq_column_values v = {&cell, .num_values = 1};
        ASSERT_OK(aq_writer_put_column(w, &v, &err));
        if (cell % columns == columns - 1) ASSERT_OK(aq_writer_end_row_group(w, 1, &err));
    }
    ASSERT_OK(aq_writer_finish(w, &err));
    free(fields);
    free(names);
    return file_read(in_dir("grid"));
}

static aq_parquet *open_file(const file *in, const aq_allocator *allocator) {
    const aq_parquet_options o = {.allocator = allocator};
    aq_parquet *f;
    ASSERT_OK(aq_parquet_open_memory(in->data, in->size, &o, &f, &err));
    return f;
}

static aq_status open_status(const file *in) {
    aq_parquet *f;
    aq_status status = aq_parquet_open_memory(in->data, in->size, NULL, &f, &err);
    cr_assert_eq(f == NULL, status != AQ_OK);
    aq_parquet_close(f);
    return status;
}

static int64_t value_of(const aq_parquet *f, int32_t row_group, int32_t column) {
    int64_t value;
    aq_column *col;
    aq_span span;
    ASSERT_OK(aq_column_open(f, row_group, column, &col, &err));
    ASSERT_OK(aq_column_view(col, &span, &err));
    cr_assert_eq(span.num_values, 1);
    memcpy(&value, span.values, sizeof value);
    aq_column_close(col);
    return value;
}

/* ---- large ---- */

/* Chunks are found, of many row groups some; memory is in proportion to the footer. */
static void expect_grid(int32_t columns, int32_t row_groups, double most_memory) {
    file whole = write_grid(columns, row_groups);
    counting_allocator memory;
    aq_row_group_info group;
    aq_parquet_info info;
    aq_parquet *f;
    counting_init(&memory);
    f = open_file(&whole, &memory.hooks);
    aq_parquet_get_info(f, &info);
    cr_assert(info.num_row_groups == row_groups && info.num_rows == row_groups);
    cr_assert(info.num_columns == columns && info.num_fields == columns + 1);
    cr_assert_lt((double)memory.peak_bytes / (double)info.footer_bytes, most_memory);
    for (int32_t g = 0; g < row_groups; g += 1 + row_groups / 9973) {
        ASSERT_OK(aq_parquet_get_row_group(f, g, &group, &err));
        cr_assert_eq(group.num_rows, 1);
        for (int32_t c = 0; c < columns; c++) {
            const int64_t want = (int64_t)g * columns + c;
            aq_chunk_info chunk;
            ASSERT_OK(aq_parquet_get_chunk(f, g, c, &chunk, &err));
            cr_assert_eq(chunk.min_value.size, sizeof want);
            cr_assert_eq((int64_t)aqi_load_le64(chunk.min_value.data), want);
            if (want % 97 == 0) cr_assert_eq(value_of(f, g, c), want);
        }
    }
    aq_parquet_close(f);
    cr_assert(counting_is_clean(&memory));
    file_free(&whole);
}

/* More than the 16-bit ordinal of a row group counts. */
Test(footer, row_groups_200000) { expect_grid(1, 200000, 1.5); }
Test(footer, columns_12000) { expect_grid(12000, 1, 3.5); }
Test(footer, columns_1000_row_groups_10) { expect_grid(1000, 10, 1.5); }

Test(footer, columns_12000_by_name) {
    file whole = write_grid(12000, 1);
    aq_parquet *f = open_file(&whole, NULL);
    cr_assert_eq(aq_parquet_find_column(f, "c11999"), 11999);
    cr_assert_eq(aq_parquet_find_column(f, "c12000"), -1);
    cr_assert_str_eq(aq_parquet_column_path(f, 11999), "c11999");
    cr_assert_eq(value_of(f, 0, 11999), 11999);
    aq_parquet_close(f);
    file_free(&whole);
}

/* ---- nothing ---- */

static void expect_counts(const file *in, int32_t row_groups, int32_t columns,
                          int64_t rows) {
    aq_chunk_info chunk;
    aq_parquet_info info;
    aq_parquet *f = open_file(in, NULL);
    aq_parquet_get_info(f, &info);
    cr_assert(info.num_row_groups == row_groups && info.num_columns == columns);
    cr_assert_eq(info.num_rows, rows);
    ASSERT_STATUS(aq_parquet_get_chunk(f, row_groups, 0, &chunk, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_parquet_get_chunk(f, 0, columns, &chunk, &err), AQ_E_ARG);
    aq_parquet_close(f);
}

Test(footer, no_row_groups_no_columns) {
    aqi_row_group groups[3];
    file none = write_grid(0, 0), made;
    footer foot = footer_open(&none);
    expect_counts(&none, 0, 0, 0);
    /* Rows of no columns, as a count may leave them. */
    memset(groups, 0, sizeof groups);
    for (int g = 0; g < 3; g++) {
        AQI_MARK(&groups[g], aqi_row_group, columns);
        AQI_MARK(&groups[g], aqi_row_group, total_byte_size);
        AQI_SET(&groups[g], aqi_row_group, num_rows, 5);
    }
    foot.meta->row_groups.items = groups;
    foot.meta->row_groups.count = 3;
    made = footer_close(&foot, none.data, body_bytes_of(&none));
    expect_counts(&made, 3, 0, 15);
    file_free(&made);
    file_free(&none);
}

Test(footer, no_row_groups) {
    file none = write_grid(3, 0);
    expect_counts(&none, 0, 3, 0);
    file_free(&none);
}

Test(footer, no_rows) {
    static const aq_field_spec field = {.name = "v", .type = AQ_INT64};
    const aq_column_values nothing = {NULL, .num_values = 0};
    aq_parquet *f;
    aq_column *col;
    aq_writer *w;
    aq_span span;
    file whole;
    ASSERT_OK(aq_writer_open(in_dir("f"), &field, 1, &no_sync, &w, &err));
    ASSERT_OK(aq_writer_put_column(w, &nothing, &err));
    ASSERT_OK(aq_writer_end_row_group(w, 0, &err));
    ASSERT_OK(aq_writer_finish(w, &err));
    whole = file_read(in_dir("f"));
    expect_counts(&whole, 1, 1, 0);
    f = open_file(&whole, NULL);
    ASSERT_OK(aq_column_open(f, 0, 0, &col, &err));
    ASSERT_OK(aq_column_next(col, &span, &err));
    cr_assert(span.num_levels == 0 && span.values == NULL);
    aq_column_close(col);
    aq_parquet_close(f);
    file_free(&whole);
}

/* ---- column chunks ---- */

/* Changes the metadata of both columns of two row groups. */
typedef void edit_chunk(footer *f, aqi_column_meta *m);

static file edited(edit_chunk *edit) {
    file whole = write_grid(2, 2), made;
    footer f = footer_open(&whole);
    edit(&f, &footer_chunk(&f, 1, 0)->meta_data);
    made = footer_close(&f, whole.data, body_bytes_of(&whole));
    file_free(&whole);
    return made;
}

static void set_pairs(footer *f, aqi_column_meta *m) {
    static const aqi_slice texts[] = {
        {(const uint8_t *)"key", 3}, {(const uint8_t *)"a\0b", 3}, {NULL, 0}};
    static aqi_key_value pairs[3];
    aqi_list list = {pairs, 3, 0};
    AQI_SET(&pairs[0], aqi_key_value, key, texts[0]);
    AQI_SET(&pairs[0], aqi_key_value, value, texts[1]);
    AQI_SET(&pairs[1], aqi_key_value, key, texts[0]); /* again, without a value */
    AQI_SET(&pairs[2], aqi_key_value, key, texts[2]);
    AQI_SET(&pairs[2], aqi_key_value, value, texts[2]);
    AQI_SET(m, aqi_column_meta, key_value_metadata, list);
    list.count = 1;
    m = &footer_chunk(f, 0, 1)->meta_data;
    AQI_SET(m, aqi_column_meta, key_value_metadata, list);
    m = &footer_chunk(f, 1, 1)->meta_data;
    AQI_SET(m, aqi_column_meta, key_value_metadata, list);
}

Test(footer, key_values_of_a_chunk) {
    static const int32_t counts[2][2] = {{0, 1}, {3, 1}};
    file made = edited(set_pairs);
    aq_parquet *f = open_file(&made, NULL);
    aq_chunk_info chunk;
    aq_key_value pair;
    for (int32_t g = 0; g < 2; g++) {
        for (int32_t c = 0; c < 2; c++) {
            const int32_t count = counts[g][c];
            ASSERT_OK(aq_parquet_get_chunk(f, g, c, &chunk, &err));
            cr_assert_eq(chunk.num_key_values, count);
            for (int32_t i = -1; i <= count; i++)
                cr_assert_eq(aq_parquet_chunk_key_value(f, g, c, i, &pair),
                             i >= 0 && i < count, "%d %d %d", g, c, i);
            cr_assert_null(pair.key);
        }
    }
    cr_assert(aq_parquet_chunk_key_value(f, 1, 0, 0, &pair));
    cr_assert_str_eq(pair.key, "key");
    cr_assert(pair.value_bytes == 3 && memcmp(pair.value, "a\0b", 4) == 0);
    cr_assert(aq_parquet_chunk_key_value(f, 1, 0, 1, &pair));
    cr_assert(pair.value == NULL && pair.value_bytes == 0);
    cr_assert(aq_parquet_chunk_key_value(f, 1, 0, 2, &pair));
    cr_assert_str_eq(pair.key, "");
    cr_assert_str_eq(pair.value, "");
    cr_assert_not(aq_parquet_chunk_key_value(f, 2, 0, 0, &pair));
    cr_assert_not(aq_parquet_chunk_key_value(f, 0, -1, 0, &pair));
    aq_parquet_close(f);
    file_free(&made);
}

/* The array that holds them grows. */
Test(footer, key_values_of_many_chunks) {
    static const aqi_slice text = {(const uint8_t *)"key", 3};
    enum { COLUMNS = 100 };
    aqi_key_value pairs[COLUMNS];
    file whole = write_grid(COLUMNS, 1), made;
    footer foot = footer_open(&whole);
    aq_key_value pair;
    aq_parquet *f;
    memset(pairs, 0, sizeof pairs);
    for (uint32_t c = 0; c < COLUMNS; c++) {
        const aqi_list list = {pairs, c, 0};
        aqi_column_meta *m = &footer_chunk(&foot, 0, (int32_t)c)->meta_data;
        AQI_SET(&pairs[c], aqi_key_value, key, text);
        if (c % 3 != 0) AQI_SET(m, aqi_column_meta, key_value_metadata, list);
    }
    made = footer_close(&foot, whole.data, body_bytes_of(&whole));
    f = open_file(&made, NULL);
    for (int32_t c = 0; c < COLUMNS; c++) {
        const bool has = c % 3 != 0;
        cr_assert_eq(aq_parquet_chunk_key_value(f, 0, c, c - 1, &pair), has, "%d", c);
        cr_assert_not(aq_parquet_chunk_key_value(f, 0, c, c, &pair), "%d", c);
    }
    aq_parquet_close(f);
    file_free(&made);
    file_free(&whole);
}

static void no_statistics(footer *f, aqi_column_meta *m) {
    (void)f;
    m->has &= ~(1u << aqi_column_meta_field_statistics);
}

static void only_min(footer *f, aqi_column_meta *m) {
    (void)f;
    m->statistics.has = 1u << aqi_statistics_field_min_value |
                        1u << aqi_statistics_field_is_min_value_exact;
}

static void only_max(footer *f, aqi_column_meta *m) {
    (void)f;
    m->statistics.has = 1u << aqi_statistics_field_max_value;
}

static void all_there_is(footer *f, aqi_column_meta *m) {
    (void)f;
    AQI_SET(&m->statistics, aqi_statistics, distinct_count, 7);
    AQI_SET(&m->statistics, aqi_statistics, is_max_value_exact, false);
    AQI_SET(m, aqi_column_meta, bloom_filter_offset, 1234);
    AQI_SET(m, aqi_column_meta, bloom_filter_length, 99);
}

static aq_chunk_info chunk_of(edit_chunk *edit, aq_parquet **out, file *made) {
    aq_chunk_info info;
    *made = edited(edit);
    *out = open_file(made, NULL);
    ASSERT_OK(aq_parquet_get_chunk(*out, 1, 0, &info, &err));
    return info;
}

Test(footer, each_bound_alone) {
    static const uint8_t two[8] = {2};
    aq_parquet *f;
    file made;
    aq_chunk_info info = chunk_of(no_statistics, &f, &made);
    cr_assert(info.min_value.data == NULL && info.max_value.data == NULL);
    cr_assert(info.null_count == -1 && info.distinct_count == -1);
    cr_assert(!info.min_is_exact && !info.max_is_exact);
    cr_assert(info.bloom_filter_offset == -1 && info.bloom_filter_bytes == -1);
    aq_parquet_close(f);
    file_free(&made);

    info = chunk_of(only_min, &f, &made);
    cr_assert_eq(info.min_value.size, sizeof two);
    cr_assert_arr_eq(info.min_value.data, two, sizeof two);
    cr_assert(info.max_value.data == NULL && info.max_value.size == 0);
    cr_assert(info.min_is_exact && !info.max_is_exact && info.null_count == -1);
    aq_parquet_close(f);
    file_free(&made);

    info = chunk_of(only_max, &f, &made);
    cr_assert_eq(info.max_value.size, sizeof two);
    cr_assert_arr_eq(info.max_value.data, two, sizeof two);
    cr_assert(info.min_value.data == NULL && !info.min_is_exact && !info.max_is_exact);
    aq_parquet_close(f);
    file_free(&made);

    info = chunk_of(all_there_is, &f, &made);
    cr_assert(info.null_count == 0 && info.distinct_count == 7);
    cr_assert(info.min_is_exact && !info.max_is_exact);
    cr_assert(info.bloom_filter_offset == 1234 && info.bloom_filter_bytes == 99);
    aq_parquet_close(f);
    file_free(&made);
}

/* ---- what is refused ---- */

static void another_path(footer *f, aqi_column_meta *m) {
    m->path_in_schema = footer_chunk(f, 1, 1)->meta_data.path_in_schema;
}

static void path_of_two(footer *f, aqi_column_meta *m) {
    static const aqi_slice parts[] = {{(const uint8_t *)"c0", 2},
                                      {(const uint8_t *)"", 0}};
    const aqi_list list = {parts, 2, 0};
    (void)f;
    m->path_in_schema = list;
}

static void path_in_parts(footer *f, aqi_column_meta *m) {
    static const aqi_slice parts[] = {{(const uint8_t *)"", 0},
                                      {(const uint8_t *)"0", 1}};
    const aqi_list list = {parts, 2, 0};
    (void)f;
    m->path_in_schema = list;
}

static void path_too_short(footer *f, aqi_column_meta *m) {
    static const aqi_slice part = {(const uint8_t *)"c", 1};
    const aqi_list list = {&part, 1, 0};
    (void)f;
    m->path_in_schema = list;
}

static void path_too_long(footer *f, aqi_column_meta *m) {
    static const aqi_slice part = {(const uint8_t *)"c01", 3};
    const aqi_list list = {&part, 1, 0};
    (void)f;
    m->path_in_schema = list;
}

static void no_path(footer *f, aqi_column_meta *m) {
    (void)f;
    m->path_in_schema.count = 0;
}

static void nul_in_name(footer *f, aqi_column_meta *m) {
    static const aqi_slice name = {(const uint8_t *)"c\0", 2};
    (void)m;
    footer_schema(f, 1)->name = name;
}

static void too_wide(footer *f, aqi_column_meta *m) {
    static aqi_schema_element leaves[30];
    (void)m;
    for (size_t i = 0; i < COUNT_OF(leaves); i++)
        leaves[i] = *footer_schema(f, 1);
    leaves[0] = *footer_schema(f, 0);
    leaves[0].num_children = (int32_t)COUNT_OF(leaves) - 1;
    f->meta->schema.items = leaves;
    f->meta->schema.count = COUNT_OF(leaves);
}

static const struct {
    edit_chunk *edit;
    aq_status wanted;
    const char *message;
} chunk_cases[] = {
    {another_path, AQ_E_FORMAT,
     "another path than the schema says (column c0, row group 1"},
    {path_of_two, AQ_E_FORMAT, "another path than the schema says (column c0"},
    {path_in_parts, AQ_E_FORMAT, "another path than the schema says (column c0"},
    {path_too_short, AQ_E_FORMAT, "another path than the schema says (column c0"},
    {path_too_long, AQ_E_FORMAT, "another path than the schema says (column c0"},
    {no_path, AQ_OK, NULL},
    {nul_in_name, AQ_E_FORMAT, "field \"c\" has a NUL byte in its name (offset "},
    {too_wide, AQ_E_FORMAT,
     "row group 0 has 2 column chunks, the schema has 29 (offset "},
};

Test(footer, chunks_and_schema_agree) {
    for (size_t i = 0; i < COUNT_OF(chunk_cases); i++) {
        file made = edited(chunk_cases[i].edit);
        cr_expect_eq(open_status(&made), chunk_cases[i].wanted, "case %zu: %s", i,
                     err.message);
        if (chunk_cases[i].message != NULL)
            cr_expect(strstr(err.message, chunk_cases[i].message) != NULL,
                      "case %zu: \"%s\"", i, err.message);
        file_free(&made);
    }
}

/* The path of nested columns, in one part for each level. */
Test(footer, nested_paths) {
    static const aq_field_spec fields[] = {
        {.name = "a", .type = AQ_GROUP, .num_children = 1},
        {.name = "b", .type = AQ_GROUP, .num_children = 2},
        {.name = "c.d", .type = AQ_INT64},
        {.name = "e", .type = AQ_INT64}};
    static const char *const paths[] = {"a.b.c.d", "a.b.e"};
    static const int64_t one = 1;
    const aq_column_values v = {&one, .num_values = 1};
    aq_parquet *f;
    aq_writer *w;
    ASSERT_OK(aq_writer_open(in_dir("f"), fields, COUNT_OF(fields), &no_sync, &w, &err));
    for (int c = 0; c < 2; c++)
        ASSERT_OK(aq_writer_put_column(w, &v, &err));
    ASSERT_OK(aq_writer_end_row_group(w, 1, &err));
    ASSERT_OK(aq_writer_finish(w, &err));
    ASSERT_OK(aq_parquet_open(in_dir("f"), NULL, &f, &err));
    for (int32_t c = 0; c < 2; c++) {
        cr_assert_str_eq(aq_parquet_column_path(f, c), paths[c]);
        cr_assert_eq(value_of(f, 0, c), 1);
    }
    aq_parquet_close(f);
}

/* ---- the order of the footer's fields ---- */

/* A file whose footer is these fields of FileMetaData, each with its header in the long
 * form, whatever its id. */
static file footer_of(const file *whole, const int16_t *ids, size_t n) {
    footer foot = footer_open(whole);
    const aq_allocator hooks = foot.parquet->allocator;
    const size_t body = body_bytes_of(whole);
    aqi_thrift_writer w;
    file made;
    memset(&w, 0, sizeof w);
    w.allocator = &hooks;
    aqi_thrift_put(&w, whole->data, body);
    for (size_t i = 0; i < n; i++) {
        aqi_file_meta one = *foot.meta;
        uint8_t head[8] = {0};
        file field;
        for (size_t k = 0; k < aqi_file_meta_num_fields; k++) {
            if (aqi_file_meta_fields[k].id != ids[i]) continue;
            one.has = foot.meta->has & 1u << k;
            head[0] = aqi_file_meta_fields[k].kind & 15;
        }
        field = craft_thrift(&aqi_file_meta_type, &one); /* header, value, stop */
        head[1] = (uint8_t)(ids[i] * 2);
        aqi_thrift_put(&w, head, 2);
        aqi_thrift_put(&w, field.data + 1, field.size - 2);
        file_free(&field);
    }
    aqi_thrift_put_byte(&w, AQI_T_STOP);
    made = file_make(NULL, 0);
    free(made.data);
    made.size = w.out.size + 8;
    made.data = malloc(made.size);
    memcpy(made.data, w.out.data, w.out.size);
    aqi_store_le32(made.data + w.out.size, (uint32_t)(w.out.size - body));
    memcpy(made.data + w.out.size + 4, "PAR1", 4);
    aqi_builder_free(&hooks, &w.out);
    aqi_arena_deinit(&foot.lists);
    aq_parquet_close(foot.parquet);
    return made;
}

static const struct {
    int16_t ids[8];
    size_t n;
    const char *message; /* NULL = it opens */
} order_cases[] = {
    {{1, 2, 3, 4, 6, 7}, 6, NULL},
    {{7, 6, 4, 3, 2, 1}, 6, NULL},
    {{4, 2, 1, 3}, 4, NULL},
    {{4, 4, 2, 1, 3}, 5, NULL},
    {{2, 4, 3, 3, 1}, 5, NULL},
    {{1, 2, 3}, 3, "lacks its field row_groups (offset "},
    {{1, 4, 3}, 3, "lacks its field schema (offset "},
    {{1, 2, 2, 3, 4}, 5, "field schema twice (offset "},
    {{1, 2, 3, 4, 2}, 5, "field schema twice (offset "},
    {{1, 2, 3, 4, 4}, 5, "field row_groups twice (offset "},
    {{1, 4, 2, 3, 4}, 5, "field row_groups twice (offset "},
};

Test(footer, fields_in_any_order) {
    file whole = write_grid(3, 4);
    for (size_t i = 0; i < COUNT_OF(order_cases); i++) {
        file made = footer_of(&whole, order_cases[i].ids, order_cases[i].n);
        if (order_cases[i].message == NULL) {
            aq_parquet *f = open_file(&made, NULL);
            for (int32_t cell = 0; cell < 12; cell++)
                cr_assert_eq(value_of(f, cell / 3, cell % 3), cell, "case %zu", i);
            aq_parquet_close(f);
        } else {
            cr_expect_eq(open_status(&made), AQ_E_FORMAT, "case %zu", i);
            EXPECT_MESSAGE("order", order_cases[i].message);
        }
        file_free(&made);
    }
    file_free(&whole);
}

/* ---- claims ---- */

/* A file without pages, with a footer of `bytes`: `head`, then zeros. */
static file claim(const char *head, size_t head_bytes, size_t bytes) {
    file f = file_make(NULL, 0);
    free(f.data);
    f.size = 4 + bytes + 8;
    f.data = calloc(1, f.size);
    memcpy(f.data, "PAR1", 4);
    memcpy(f.data + 4, head, head_bytes);
    aqi_store_le32(f.data + f.size - 8, (uint32_t)bytes);
    memcpy(f.data + f.size - 4, "PAR1", 4);
    return f;
}

#define BYTES(text) text, sizeof(text) - 1

/* Lists that claim about as many elements as can follow, or more. */
static const struct {
    const char *what, *head;
    size_t head_bytes;
    const char *message;
} claims[] = {
    {"schema", BYTES("\x29\xfc\xd5\xaa\x04"), "lacks its field name"},
    {"schema of under 3 bytes a field", BYTES("\x29\xfc\x90\xbf\x05"), "list longer"},
    {"schema of 2^31", BYTES("\x29\xfc\xff\xff\xff\xff\x07"), "list longer"},
    {"row groups",
     BYTES("\x29\x2c\x48\x01r\x15\x02\x00\x15\x02\x25\x00\x18\x01"
           "c\x00\x29\xfc\x80\xa0\x02"),
     "lacks its field columns"},
    {"row groups that are too many",
     BYTES("\x29\x2c\x48\x01r\x15\x02\x00\x15\x02\x25\x00\x18\x01"
           "c\x00\x29\xfc\xff\xff\x0f"),
     "list longer"},
    {"pairs", BYTES("\x59\xfc\xd5\xaa\x04"), "lacks its field key"},
};

/* Memory is asked for what can be in the footer. */
Test(footer, claims) {
    enum { BYTES_OF_FOOTER = 260000 };
    for (size_t i = 0; i < COUNT_OF(claims); i++) {
        file made = claim(claims[i].head, claims[i].head_bytes, BYTES_OF_FOOTER);
        counting_allocator memory;
        aq_parquet_options o = {.allocator = &memory.hooks};
        aq_parquet *f;
        counting_init(&memory);
        cr_expect_eq(aq_parquet_open_memory(made.data, made.size, &o, &f, &err),
                     AQ_E_FORMAT, "%s", claims[i].what);
        EXPECT_MESSAGE(claims[i].what, claims[i].message);
        cr_expect_leq(memory.peak_bytes, 40 * made.size, "%s: %zu bytes", claims[i].what,
                      memory.peak_bytes);
        cr_assert(counting_is_clean(&memory));
        file_free(&made);
    }
}

/* Row groups times columns: more chunks than the footer has bytes for. */
Test(footer, row_groups_of_many_columns) {
    file whole = write_grid(2000, 0), made;
    footer foot = footer_open(&whole);
    aqi_row_group groups[3000];
    counting_allocator memory;
    aq_parquet_options o = {.allocator = &memory.hooks};
    aq_parquet *f;
    memset(groups, 0, sizeof groups);
    for (size_t g = 0; g < COUNT_OF(groups); g++) {
        AQI_MARK(&groups[g], aqi_row_group, columns);
        AQI_MARK(&groups[g], aqi_row_group, total_byte_size);
        AQI_MARK(&groups[g], aqi_row_group, num_rows);
    }
    foot.meta->row_groups.items = groups;
    foot.meta->row_groups.count = COUNT_OF(groups);
    made = footer_close(&foot, whole.data, body_bytes_of(&whole));
    counting_init(&memory);
    ASSERT_STATUS(aq_parquet_open_memory(made.data, made.size, &o, &f, &err),
                  AQ_E_FORMAT);
    EXPECT_MESSAGE("chunks", "3000 row groups of 2000 columns do not fit");
    cr_expect_leq(memory.peak_bytes, 10 * made.size);
    file_free(&made);
    file_free(&whole);
}

/* ---- messages ---- */

/* The offset is in the error and in its message; names cannot move it. */
Test(footer, offset_in_the_message) {
    file whole = write_grid(2, 2);
    const size_t begin = body_bytes_of(&whole);
    char offset[64];
    for (size_t at = begin; at < whole.size - 8; at++) {
        const uint8_t old = whole.data[at];
        whole.data[at] = 0xff;
        if (open_status(&whole) == AQ_E_FORMAT) {
            cr_assert_geq(err.file_offset, 0, "%zu: \"%s\"", at, err.message);
            snprintf(offset, sizeof offset, "offset %lld)", (long long)err.file_offset);
            cr_assert(strstr(err.message, offset) != NULL, "%zu: \"%s\"", at,
                      err.message);
        }
        whole.data[at] = old;
    }
    ASSERT_OK(open_status(&whole));
    file_free(&whole);
}

Test(footer, names_do_not_move_the_place) {
    static const char name[] = "a; b) (c; d)";
    static const char tensor[] = "t; u\n)";
    (void)aqi_fail_at(&err, AQ_E_FORMAT, 5, "field \"%s\" is bad; raise %s", name,
                      "x; y");
    (void)aqi_error_in_column(&err, AQ_E_FORMAT, 1, 2, name);
    cr_assert_str_eq(err.message, "field \"a; b) (c; d)\" is bad (column a; b) (c; d), "
                                  "row group 1, offset 5); raise x; y");
    (void)aqi_error_in_tensor(&err, AQ_E_FORMAT, tensor);
    cr_assert_str_eq(err.message,
                     "field \"a; b) (c; d)\" is bad (column a; b) (c; d), "
                     "row group 1, offset 5, tensor \"t; u?)\"); raise x; y");
    (void)aqi_fail(&err, AQ_E_FORMAT, "no such %s", name);
    (void)aqi_error_in_tensor(&err, AQ_E_FORMAT, "t");
    cr_assert_str_eq(err.message, "no such a; b) (c; d) (tensor \"t\")");
    (void)aqi_fail(&err, AQ_E_FORMAT, "%s", "");
    (void)aqi_error_in_tensor(&err, AQ_E_FORMAT, "t");
    cr_assert_str_eq(err.message, " (tensor \"t\")");
}

/* C0 and C1, as bytes of UTF-8; not other characters of the same bytes. */
Test(footer, controls_in_messages) {
    (void)aqi_fail(&err, AQ_E_FORMAT, "\x1f %s \x7f", "\xc2\x80 \xc2\x9b \xc2\x9f");
    cr_assert_str_eq(err.message, "? ?? ?? ?? ?");
    (void)aqi_fail(&err, AQ_E_FORMAT, "%s", "\xc2\xa0 \xc3\x80 \xe0\xa0\x80 \xc2");
    cr_assert_str_eq(err.message, "\xc2\xa0 \xc3\x80 \xe0\xa0\x80 \xc2");
}

/* A name that leaves no room for the place, or for its own end. */
Test(footer, long_names_in_messages) {
    char name[600];
    memset(name, 'n', sizeof name);
    for (size_t n = 480; n < sizeof name; n++) {
        size_t length;
        name[n] = '\0';
        (void)aqi_fail(&err, AQ_E_FORMAT, "%s is bad; leave it", name);
        length = strlen(err.message);
        (void)aqi_error_in_tensor(&err, AQ_E_FORMAT, "t");
        cr_assert_lt(strlen(err.message), sizeof err.message);
        if (strlen(err.message) > length)
            cr_assert(strstr(err.message, "bad (tensor \"t\"); leave it") != NULL, "%s",
                      err.message);
        name[n] = 'n';
    }
}
