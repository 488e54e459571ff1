/* test_parquet.c - the Parquet writer and reader against each other and against pages
 * made by hand: types, nesting, codecs, sources, alignment, checksums, levels, hostile
 * pages. Misuse of the writer and what it leaves behind: test_writer.c. */
#define AQ_STATIC
#define ARROWQUANT_IMPLEMENTATION
#include "craft.h"

TestSuite(parquet, .init = enter_temp_dir, .fini = leave_temp_dir, .timeout = 60);

/* ---- round trip ---- */

/* How a leaf is nested. */
typedef enum shape_of_column { REQUIRED, OPTIONAL, LIST, NUM_SHAPES } shape_of_column;

static const uint8_t max_defs[NUM_SHAPES] = {0, 1, 3};
static const aq_codec codecs[] = {AQ_UNCOMPRESSED, AQ_ZSTD, SNAPPY_OR_NONE};

#define NUM_TYPES 8
#define NUM_COLUMNS (NUM_TYPES * NUM_SHAPES * 3)
#define MAX_ROWS 1000
#define MAX_LEVELS (4 * MAX_ROWS)
#define FIXED_BYTES 5

/* The values of one column chunk, owned. */
typedef struct column_data {
    aq_column_values v;
    uint8_t values[MAX_LEVELS * sizeof(aq_bytes)];
    uint8_t text[MAX_LEVELS];
    uint8_t def[MAX_LEVELS], rep[MAX_LEVELS];
    int64_t rows;
} column_data;

static aq_physical_type type_of(int column) {
    return (aq_physical_type)(column % NUM_TYPES);
}

static shape_of_column shape_of(int column) {
    return (shape_of_column)(column / NUM_TYPES % NUM_SHAPES);
}

static aq_codec codec_of(int column) { return codecs[column / NUM_TYPES / NUM_SHAPES]; }

/* All combinations of type, nesting and codec as the columns of one schema. */
static size_t all_fields(aq_field_spec *fields) {
    static char names[NUM_COLUMNS][16];
    size_t n = 0;
    for (int c = 0; c < NUM_COLUMNS; c++) {
        aq_field_spec leaf = {.name = names[c],
                              .type = type_of(c),
                              .write_statistics = true,
                              .codec = codec_of(c)};
        snprintf(names[c], sizeof names[c], "c%d", c);
        if (shape_of(c) != REQUIRED) leaf.repetition = AQ_OPTIONAL;
        if (leaf.type == AQ_FIXED_LEN_BYTE_ARRAY) leaf.type_length = FIXED_BYTES;
        if (shape_of(c) == LIST) {
            leaf.name = "element";
            n += list_spec(fields + n, names[c], AQ_OPTIONAL, leaf);
        } else {
            fields[n++] = leaf;
        }
    }
    return n;
}

static size_t width_of(aq_physical_type type) {
    return aqi_value_bytes(type, FIXED_BYTES);
}

static void add_value(column_data *d, aq_physical_type type, rng *r) {
    size_t width = width_of(type);
    uint8_t *at = d->values + (size_t)d->v.num_values * width;
    aq_bytes b;
    rng_bytes(r, at, width);
    if (type == AQ_BOOLEAN) *at &= 1;
    if (type == AQ_BYTE_ARRAY) {
        b.size = rng_below(r, 20);
        b.data = d->text + rng_below(r, sizeof d->text - 20);
        memcpy(at, &b, sizeof b);
    }
    d->v.num_values++;
}

static void add_level(column_data *d, uint8_t def, uint8_t rep) {
    d->def[d->v.num_levels] = def;
    d->rep[d->v.num_levels++] = rep;
}

/* Rows with nulls, null lists, empty lists and null elements among them. */
static void fill_column(column_data *d, int column, int64_t rows, rng *r) {
    shape_of_column shape = shape_of(column);
    memset(&d->v, 0, sizeof d->v);
    rng_bytes(r, d->text, sizeof d->text);
    d->v.values = d->values;
    d->v.def_levels = shape == REQUIRED ? NULL : d->def;
    d->v.rep_levels = shape == LIST ? d->rep : NULL;
    d->rows = rows;
    for (int64_t row = 0; row < rows; row++) {
        size_t length = shape == LIST ? rng_below(r, 4) : 1;
        if (shape == REQUIRED) {
            add_value(d, type_of(column), r);
        } else if (length == 0) {
            add_level(d, (uint8_t)rng_below(r, 2), 0);
        }
        for (size_t i = 0; i < length && shape != REQUIRED; i++) {
            bool present = rng_below(r, 3) != 0;
            add_level(d, (uint8_t)(max_defs[shape] - !present), i > 0);
            if (present) add_value(d, type_of(column), r);
        }
    }
}

static void write_all(const char *path, column_data *data, const int64_t *rows,
                      int num_row_groups) {
    static aq_field_spec fields[NUM_COLUMNS * 3];
    aq_writer *w;
    rng r = {7};
    ASSERT_OK(aq_writer_open(path, fields, all_fields(fields), NULL, &w, &err));
    for (int g = 0; g < num_row_groups; g++) {
        for (int c = 0; c < NUM_COLUMNS; c++, data++) {
            fill_column(data, c, rows[g], &r);
            ASSERT_OK(aq_writer_put_column(w, &data->v, &err));
        }
        ASSERT_OK(aq_writer_end_row_group(w, rows[g], &err));
    }
    ASSERT_OK(aq_writer_finish(w, &err));
}

static uint8_t level_at(const uint8_t *levels, int64_t i, bool single, uint8_t max) {
    if (levels != NULL) return levels[i];
    return single && i == 0 ? 0 : max;
}

static void expect_values(const aq_span *s, const column_data *d, aq_physical_type type) {
    size_t n = (size_t)s->num_values;
    cr_assert_eq(s->num_values, d->v.num_values);
    if (type != AQ_BYTE_ARRAY) {
        cr_assert(n == 0 || memcmp(s->values, d->values, n * width_of(type)) == 0);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const aq_bytes *got = (const aq_bytes *)s->values + i;
        const aq_bytes *want = (const aq_bytes *)(const void *)d->values + i;
        cr_assert_eq(got->size, want->size);
        cr_assert(want->size == 0 || memcmp(got->data, want->data, want->size) == 0);
    }
}

static void expect_span(const aq_span *s, const column_data *d, int column) {
    shape_of_column shape = shape_of(column);
    int64_t levels = shape == REQUIRED ? d->v.num_values : d->v.num_levels;
    cr_assert_eq(s->num_levels, levels);
    if (levels == 0) {
        cr_assert_null(s->values);
        return;
    }
    cr_assert_eq(s->num_rows, d->rows);
    for (int64_t i = 0; i < levels && shape != REQUIRED; i++) {
        cr_assert_eq(level_at(s->def_levels, i, false, max_defs[shape]), d->def[i]);
        if (shape == LIST)
            cr_assert_eq(level_at(s->rep_levels, i, s->single_list, 1), d->rep[i]);
    }
    expect_values(s, d, type_of(column));
    /* Uncompressed values that need no unpacking are where the file is. */
    if (codec_of(column) != AQ_UNCOMPRESSED) cr_assert(!s->mapped);
}

typedef enum access { NEXT, SPANS, VIEW, VERIFY, PAGES, NUM_ACCESSES } access_way;

/* One column chunk, read in one of the five ways. */
static void expect_chunk(const aq_parquet *f, int g, int c, const column_data *d,
                         access_way way) {
    const aq_span *spans;
    aq_page_info page;
    aq_span span;
    size_t count;
    aq_column *col;
    ASSERT_OK(aq_column_open(f, g, c, &col, &err));
    if (way == NEXT) {
        ASSERT_OK(aq_column_next(col, &span, &err));
        expect_span(&span, d, c);
        ASSERT_OK(aq_column_next(col, &span, &err));
        cr_assert(span.values == NULL && span.num_levels == 0);
    } else if (way == SPANS) {
        ASSERT_OK(aq_column_spans(col, &spans, &count, &err));
        cr_assert_eq(count, d->rows > 0 ? 1u : 0u);
        if (count > 0) expect_span(&spans[0], d, c);
    } else if (way == VIEW) {
        ASSERT_OK(aq_column_view(col, &span, &err));
        expect_span(&span, d, c);
    } else if (way == VERIFY) {
        ASSERT_OK(aq_column_verify(col, &err));
    } else if (d->rows > 0) {
        ASSERT_OK(aq_column_next_page(col, &page, &err));
        cr_assert_eq(page.num_values,
                     shape_of(c) == REQUIRED ? d->v.num_values : d->v.num_levels);
        cr_assert(page.has_crc && page.type == 0 && page.encoding == AQ_PLAIN);
        cr_assert_eq(page.data_offset, page.header_offset + page.header_bytes);
        ASSERT_OK(aq_column_next_page(col, &page, &err));
        cr_assert_eq(page.header_bytes, 0);
    }
    aq_column_close(col);
}

static void expect_file(const aq_parquet *f, const column_data *data, const int64_t *rows,
                        int num_row_groups) {
    aq_parquet_info info;
    aq_row_group_info group;
    aq_parquet_get_info(f, &info);
    cr_assert_eq(info.num_row_groups, num_row_groups);
    cr_assert_eq(info.num_columns, NUM_COLUMNS);
    for (int g = 0; g < num_row_groups; g++) {
        ASSERT_OK(aq_parquet_get_row_group(f, g, &group, &err));
        cr_assert_eq(group.num_rows, rows[g]);
        for (int c = 0; c < NUM_COLUMNS; c++, data++) {
            for (int way = 0; way < NUM_ACCESSES; way++)
                expect_chunk(f, g, c, data, (access_way)way);
        }
    }
}

static bool read_from_file(void *user, int64_t offset, void *dst, size_t bytes) {
    const file *f = user;
    memcpy(dst, f->data + offset, bytes);
    return true;
}

typedef enum source { MAPPED, POSITIONED, MEMORY, CALLBACK, NUM_SOURCES } source;

static aq_parquet *open_source(const char *path, const file *copy, source from,
                               const aq_allocator *allocator) {
    aq_parquet_options o = {.allocator = allocator};
    aq_reader reader = {read_from_file, (void *)(uintptr_t)copy, (int64_t)copy->size};
    aq_parquet *f = NULL;
    o.io = from == MAPPED ? AQ_IO_MAP : AQ_IO_READ;
    if (from == MEMORY)
        ASSERT_OK(aq_parquet_open_memory(copy->data, copy->size, &o, &f, &err));
    if (from == CALLBACK) ASSERT_OK(aq_parquet_open_reader(&reader, &o, &f, &err));
    if (f == NULL) ASSERT_OK(aq_parquet_open(path, &o, &f, &err));
    return f;
}

/* Every type, nesting and codec; row groups of none, one and many rows; read from each
 * source in each way, with all memory from the hooks and all of it given back. */
Test(parquet, everything_comes_back) {
    static const int64_t rows[] = {0, 1, 7, MAX_ROWS};
    int groups = COUNT_OF(rows);
    column_data *data = calloc(NUM_COLUMNS * COUNT_OF(rows), sizeof *data);
    const char *path = in_dir("all.parquet");
    file copy;
    write_all(path, data, rows, groups);
    copy = file_read(path);
    for (int from = 0; from < NUM_SOURCES; from++) {
        counting_allocator c;
        aq_parquet *f;
        counting_init(&c);
        f = open_source(path, &copy, (source)from, &c.hooks);
        expect_file(f, data, rows, groups);
        aq_parquet_close(f);
        cr_assert(counting_is_clean(&c));
    }
    file_free(&copy);
    free(data);
}

/* A list of structs: two leaves that share their repetition levels. */
Test(parquet, list_of_structs) {
    static const aq_field_spec fields[] = {
        {.name = "points",
         .type = AQ_GROUP,
         .num_children = 1,
         .logical = AQ_LOGICAL_LIST},
        {.name = "list", .repetition = AQ_REPEATED, .type = AQ_GROUP, .num_children = 1},
        {.name = "element", .type = AQ_GROUP, .num_children = 2},
        {.name = "x", .type = AQ_INT32},
        {.name = "y", .repetition = AQ_OPTIONAL, .type = AQ_DOUBLE}};
    static const int32_t x[] = {1, 2, 3};
    static const double y[] = {0.5};
    static const uint8_t rep[] = {0, 1, 0, 0}; /* [(1, .5), (2, -)] [] [(3, -)] */
    static const uint8_t x_def[] = {1, 1, 0, 1}, y_def[] = {2, 1, 0, 1};
    const aq_column_values columns[] = {{x, 3, x_def, rep, .num_levels = 4},
                                        {y, 1, y_def, rep, .num_levels = 4}};
    const char *path = in_dir("structs.parquet");
    aq_parquet *f;
    aq_writer *w;
    ASSERT_OK(aq_writer_open(path, fields, COUNT_OF(fields), NULL, &w, &err));
    for (size_t c = 0; c < 2; c++)
        ASSERT_OK(aq_writer_put_column(w, &columns[c], &err));
    ASSERT_OK(aq_writer_end_row_group(w, 3, &err));
    ASSERT_OK(aq_writer_finish(w, &err));
    ASSERT_OK(aq_parquet_open(path, NULL, &f, &err));
    cr_assert_eq(aq_parquet_find_column(f, "points.list.element.y"), 1);
    cr_assert_eq(aq_parquet_find_column(f, "points.list.element.z"), -1);
    for (int32_t c = 0; c < 2; c++) {
        const aq_column_values *want = &columns[c];
        size_t bytes = (size_t)want->num_values * (c == 0 ? sizeof *x : sizeof *y);
        aq_column *col;
        aq_span s;
        ASSERT_OK(aq_column_open(f, 0, c, &col, &err));
        ASSERT_OK(aq_column_view(col, &s, &err));
        cr_assert(s.num_rows == 3 && s.num_levels == 4);
        cr_assert_arr_eq(s.rep_levels, rep, sizeof rep);
        cr_assert_arr_eq(s.def_levels, want->def_levels, 4);
        cr_assert_eq(s.num_values, want->num_values);
        cr_assert_arr_eq(s.values, want->values, bytes);
        aq_column_close(col);
    }
    aq_parquet_close(f);
}

/* One list in a chunk, the case of every model file, has no levels in memory. */
Test(parquet, single_list_has_no_levels) {
    static const aq_field_spec fields[] = {
        {.name = "l", .type = AQ_GROUP, .num_children = 1, .logical = AQ_LOGICAL_LIST},
        {.name = "list", .repetition = AQ_REPEATED, .type = AQ_GROUP, .num_children = 1},
        {.name = "element", .type = AQ_FLOAT, .align_values = true}};
    enum { N = 100000 };
    static float values[N];
    static uint8_t rep[N], def[N];
    aq_column_values v = {values, N, def, rep, .num_levels = N};
    const char *path = in_dir("list.parquet");
    counting_allocator c;
    aq_parquet_options o = {.allocator = &c.hooks};
    aq_parquet *f;
    aq_column *col;
    aq_writer *w;
    aq_span s;
    memset(rep + 1, 1, N - 1);
    memset(def, 1, N);
    ASSERT_OK(aq_writer_open(path, fields, COUNT_OF(fields), NULL, &w, &err));
    ASSERT_OK(aq_writer_put_column(w, &v, &err));
    ASSERT_OK(aq_writer_end_row_group(w, 1, &err));
    ASSERT_OK(aq_writer_finish(w, &err));
    counting_init(&c);
    ASSERT_OK(aq_parquet_open(path, &o, &f, &err));
    ASSERT_OK(aq_column_open(f, 0, 0, &col, &err));
    ASSERT_OK(aq_column_view(col, &s, &err));
    cr_assert_eq(s.mapped, NUMBERS_IN_PLACE);
    cr_assert(s.single_list && s.num_rows == 1 && s.num_values == N);
    cr_assert(s.rep_levels == NULL && s.def_levels == NULL);
    cr_assert_lt(c.peak_bytes,
                 N / 4 + (NUMBERS_IN_PLACE ? 0 : sizeof values / 4 * 5)); /* a copy */
    aq_column_close(col);
    aq_parquet_close(f);
}

/* ---- what the writer says about the values ---- */

Test(parquet, values_stand_on_their_alignment) {
    static const aq_field_spec fields[] = {
        {.name = "i", .type = AQ_INT32, .align_values = true},
        {.name = "b", .type = AQ_BYTE_ARRAY, .align_values = true},
        {.name = "o", .type = AQ_DOUBLE, .repetition = AQ_OPTIONAL, .align_values = true},
        {.name = "z", .type = AQ_INT64, .align_values = true, .codec = AQ_ZSTD}};
    static const int32_t i32 = 0x12345678;
    static const double f64 = 0.1;
    static const int64_t i64 = 3;
    static const uint8_t one = 1;
    static const aq_bytes text = {(const uint8_t *)"weights", 7};
    const aq_column_values values[] = {{&i32, .num_values = 1},
                                       {&text, .num_values = 1},
                                       {&f64, 1, &one, .num_levels = 1},
                                       {&i64, .num_values = 1}};
    const void *const raw[] = {le_values(&i32, 1, 4), "weights", le_values(&f64, 1, 8)};
    const size_t sizes[] = {4, 7, 8};
    const char *path = in_dir("aligned.parquet");
    for (size_t align = 1; align <= 4096; align *= 2) {
        aq_writer_options o = {.value_alignment = align, .no_sync = true};
        aq_writer *w;
        aq_parquet *f;
        file copy;
        ASSERT_OK(aq_writer_open(path, fields, COUNT_OF(fields), &o, &w, &err));
        for (int group = 0; group < 2; group++) {
            for (size_t c = 0; c < COUNT_OF(values); c++)
                ASSERT_OK(aq_writer_put_column(w, &values[c], &err));
            ASSERT_OK(aq_writer_end_row_group(w, 1, &err));
        }
        ASSERT_OK(aq_writer_finish(w, &err));
        copy = file_read(path);
        ASSERT_OK(aq_parquet_open(path, NULL, &f, &err));
        for (int32_t k = 0; k < 6; k++) {
            aq_page_info page;
            aq_column *col;
            aq_span s;
            int64_t at;
            ASSERT_OK(aq_column_open(f, k / 3, k % 3, &col, &err));
            ASSERT_OK(aq_column_view(col, &s, &err));
            cr_assert_eq(s.mapped, k % 3 == 1 || NUMBERS_IN_PLACE);
            if (s.mapped) cr_assert_geq(s.alignment, align);
            aq_column_close(col);
            ASSERT_OK(aq_column_open(f, k / 3, k % 3, &col, &err));
            ASSERT_OK(aq_column_next_page(col, &page, &err));
            at = page.data_offset + page.uncompressed_bytes - (int64_t)sizes[k % 3];
            if (s.mapped) cr_assert_eq(s.file_offset, at);
            cr_assert_eq(at % (int64_t)align, 0);
            cr_assert_arr_eq(copy.data + at, raw[k % 3], sizes[k % 3]);
            aq_column_close(col);
        }
        aq_parquet_close(f);
        file_free(&copy);
    }
}

/* A field with three values, and the bounds that the footer must give. More of them:
 * test_statistics.c. */
typedef struct bounds_case {
    aq_field_spec field;
    const void *values;
    const void *min, *max;
    size_t bytes;
} bounds_case;

#define BYTES_OF(text)                                                                   \
    { (const uint8_t *)(text), sizeof(text) - 1 }

Test(parquet, statistics) {
    static const int32_t i32[] = {5, -1, 7}, lo32 = -1, hi32 = 7, ulo32 = 5, uhi32 = -1;
    static const int64_t i64[] = {INT64_MIN, 0, INT64_MAX}, zero64 = 0;
    static const aq_bytes text[] = {BYTES_OF("b"), BYTES_OF("\xc3\xa9"), BYTES_OF("aa")};
    const bounds_case cases[] = {
        {{.type = AQ_INT32}, i32, &lo32, &hi32, 4},
        {{.type = AQ_INT32, .logical = AQ_LOGICAL_INTEGER, .bit_width = 32},
         i32,
         &ulo32,
         &uhi32,
         4},
        {{.type = AQ_INT64}, i64, &i64[0], &i64[2], 8},
        {{.type = AQ_INT64, .logical = AQ_LOGICAL_INTEGER, .bit_width = 64},
         i64,
         &zero64,
         &i64[0],
         8},
        {{.type = AQ_BYTE_ARRAY, .logical = AQ_LOGICAL_STRING},
         text,
         "aa",
         "\xc3\xa9",
         2}};
    const char *path = in_dir("statistics.parquet");
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        static const uint8_t def[] = {1, 0, 1, 0, 1};
        const bounds_case *k = &cases[i];
        aq_field_spec field = k->field;
        aq_column_values v = {k->values, 3, def, .num_levels = 5};
        const bool numbers = field.type != AQ_BYTE_ARRAY;
        const void *min, *max;
        aq_chunk_info info;
        aq_parquet *f;
        aq_writer *w;
        field.name = "v";
        field.repetition = AQ_OPTIONAL;
        field.write_statistics = true;
        ASSERT_OK(aq_writer_open(path, &field, 1, NULL, &w, &err));
        ASSERT_OK(aq_writer_put_column(w, &v, &err));
        ASSERT_OK(aq_writer_end_row_group(w, 5, &err));
        ASSERT_OK(aq_writer_finish(w, &err));
        ASSERT_OK(aq_parquet_open(path, NULL, &f, &err));
        ASSERT_OK(aq_parquet_get_chunk(f, 0, 0, &info, &err));
        cr_assert_eq(info.null_count, 2, "case %zu", i);
        cr_assert(info.min_value.size == k->bytes && info.max_value.size == k->bytes);
        min = numbers ? le_values(k->min, 1, k->bytes) : k->min;
        max = numbers ? le_values(k->max, 1, k->bytes) : k->max;
        cr_assert_arr_eq(info.min_value.data, min, k->bytes, "case %zu", i);
        cr_assert_arr_eq(info.max_value.data, max, k->bytes, "case %zu", i);
        aq_parquet_close(f);
    }
}

Test(parquet, key_values) {
    static const char *const pairs[][2] = {
        {"a", "1"}, {"", ""}, {"none", NULL}, {"\xe2\x82\xac", "\xff\x01"}, {"a", "2"}};
    const char *path = in_dir("pairs.parquet");
    aq_writer_options o = {.created_by = "the tests"};
    aq_parquet_info info;
    aq_key_value kv;
    aq_parquet *f;
    aq_writer *w;
    ASSERT_OK(aq_writer_open(path, NULL, 0, &o, &w, &err));
    for (size_t i = 0; i < COUNT_OF(pairs); i++)
        ASSERT_OK(aq_writer_add_key_value(w, pairs[i][0], pairs[i][1], &err));
    ASSERT_STATUS(aq_writer_add_key_value(w, NULL, "x", &err), AQ_E_ARG);
    ASSERT_OK(aq_writer_finish(w, &err));
    ASSERT_OK(aq_parquet_open(path, NULL, &f, &err));
    aq_parquet_get_info(f, &info);
    cr_assert_str_eq(info.created_by, "the tests");
    cr_assert_eq(info.num_key_values, (int32_t)COUNT_OF(pairs));
    for (size_t i = 0; i < COUNT_OF(pairs); i++) {
        cr_assert(aq_parquet_key_value(f, (int32_t)i, &kv));
        cr_assert_str_eq(kv.key, pairs[i][0]);
        cr_assert_eq(kv.value == NULL, pairs[i][1] == NULL);
        if (kv.value != NULL) cr_assert_str_eq(kv.value, pairs[i][1]);
    }
    cr_assert_not(aq_parquet_key_value(f, -1, &kv));
    cr_assert_not(aq_parquet_key_value(f, (int32_t)COUNT_OF(pairs), &kv));
    cr_assert_str_eq(aq_parquet_find_key(f, "a"), "1");
    cr_assert_null(aq_parquet_find_key(f, "b"));
    aq_parquet_close(f);
}

/* ---- checksums ---- */

/* A damaged value byte, and who must notice. */
typedef struct crc_case {
    const char *what;
    aq_codec codec;
    aq_io io;
    bool skip, verify;
    aq_status wanted;
} crc_case;

Test(parquet, checksums) {
    static const crc_case cases[] = {
        {"decoded", AQ_ZSTD, AQ_IO_MAP, false, false, AQ_E_CHECKSUM},
        {"read", AQ_UNCOMPRESSED, AQ_IO_READ, false, false, AQ_E_CHECKSUM},
        {"read, not asked", AQ_UNCOMPRESSED, AQ_IO_READ, true, false, AQ_OK},
        {"mapped", AQ_UNCOMPRESSED, AQ_IO_MAP, false, false, AQ_OK},
        {"mapped, verified", AQ_UNCOMPRESSED, AQ_IO_MAP, false, true, AQ_E_CHECKSUM},
        {"skipped, verified", AQ_UNCOMPRESSED, AQ_IO_MAP, true, true, AQ_E_CHECKSUM},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const crc_case *k = &cases[i];
        aq_field_spec field = {.name = "v", .type = AQ_INT32, .codec = k->codec};
        aq_parquet_options o = {.io = k->io, .skip_checksums = k->skip};
        const char *path = in_dir("damaged.parquet");
        int32_t values[100];
        aq_column_values v = {values, .num_values = 100};
        aq_page_info page;
        aq_parquet *f;
        aq_column *col;
        aq_writer *w;
        aq_span span;
        file copy;
        rng r = {9};
        rng_bytes(&r, values, sizeof values);
        ASSERT_OK(aq_writer_open(path, &field, 1, NULL, &w, &err));
        ASSERT_OK(aq_writer_put_column(w, &v, &err));
        ASSERT_OK(aq_writer_end_row_group(w, 100, &err));
        ASSERT_OK(aq_writer_finish(w, &err));
        ASSERT_OK(aq_parquet_open(path, &o, &f, &err));
        ASSERT_OK(aq_column_open(f, 0, 0, &col, &err));
        ASSERT_OK(aq_column_next_page(col, &page, &err));
        aq_column_close(col);
        aq_parquet_close(f);

        copy = file_read(path);
        copy.data[page.data_offset + page.compressed_bytes - 1] ^= 1;
        file_write(path, copy.data, copy.size);
        file_free(&copy);
        ASSERT_OK(aq_parquet_open(path, &o, &f, &err));
        ASSERT_OK(aq_column_open(f, 0, 0, &col, &err));
        ASSERT_STATUS(k->verify ? aq_column_verify(col, &err)
                                : aq_column_next(col, &span, &err),
                      k->wanted);
        if (k->wanted != AQ_OK) {
            ASSERT_MESSAGE(k->what, "CRC-32");
            cr_assert(err.column == 0 && err.row_group == 0, "%s", k->what);
            cr_assert_eq(err.file_offset, page.data_offset, "%s", k->what);
        }
        aq_column_close(col);
        aq_parquet_close(f);
    }
}

/* ---- RLE / bit-packed hybrid ---- */

static bool read_runs(aqi_rle *r, uint32_t *dst, size_t n) {
    for (size_t part; n > 0; n -= part, dst += part) {
        part = aqi_rle_take(r, n);
        if (part == 0) return false;
        if (r->packed) aqi_k()->unpack32(&r->codes, part, dst);
        for (size_t i = 0; i < part && !r->packed; i++)
            dst[i] = r->value;
    }
    return true;
}

Test(parquet, levels_come_back) {
    aq_allocator a;
    rng r = {3};
    ASSERT_OK(aqi_allocator_resolve(NULL, &a, &err));
    for (int round = 0; round < 4000; round++) {
        uint32_t width = 1 + (uint32_t)rng_below(&r, 8), got[700];
        size_t n = rng_below(&r, COUNT_OF(got)), run = 1 + rng_below(&r, 40);
        uint32_t max = (1u << width) - 1;
        uint8_t levels[COUNT_OF(got)], back[COUNT_OF(got)], value = 0;
        aqi_bytes_builder b = {NULL, 0, 0};
        aqi_level_counts counts;
        int64_t zeros = 0, maxima = 0;
        aqi_rle d;
        file exact;
        for (size_t i = 0; i < n; i++) {
            if (rng_below(&r, run) == 0) value = (uint8_t)(rng_next(&r) >> 40 & max);
            levels[i] = value;
            zeros += value == 0;
            maxima += value == max;
        }
        cr_assert(aqi_rle_write(&a, &b, levels, n, width));
        exact = file_make(b.data, b.size);
        aqi_builder_free(&a, &b);
        aqi_rle_init(&d, exact.data, exact.size, width);
        cr_assert(read_runs(&d, got, n));
        for (size_t i = 0; i < n; i++)
            cr_assert_eq(got[i], levels[i], "width %u, %zu of %zu", width, i, n);
        cr_assert(
            aqi_levels_scan(exact.data, exact.size, max, (int64_t)n, back, &counts));
        cr_assert_arr_eq(back, levels, n);
        cr_assert(counts.zeros == zeros && counts.maxima == maxima);
        cr_assert(n == 0 || counts.first == levels[0]);
        file_free(&exact);
    }
}

/* Random bytes as runs: refused or decoded, never read past, never above the maximum. */
Test(parquet, random_levels_do_no_harm) {
    rng r = {5};
    for (int round = 0; round < 20000; round++) {
        uint8_t noise[40], out[300];
        size_t n = rng_below(&r, sizeof noise);
        uint32_t max = 1 + (uint32_t)rng_below(&r, 255), indices[300];
        aqi_level_counts counts;
        aqi_rle d;
        file exact;
        rng_bytes(&r, noise, n);
        if (n > 0 && round % 2 == 0) noise[0] &= 0x0f; /* short runs get further */
        exact = file_make(noise, n);
        if (aqi_levels_scan(exact.data, n, max, sizeof out, out, &counts)) {
            for (size_t i = 0; i < sizeof out; i++)
                cr_assert_leq(out[i], max);
        }
        aqi_rle_init(&d, exact.data, n, (uint32_t)rng_below(&r, 33));
        (void)read_runs(&d, indices, COUNT_OF(indices));
        file_free(&exact);
    }
}

/* ---- pages of other writers ---- */

static const aq_field_spec int_field = {.name = "v", .type = AQ_INT32};
static const aq_field_spec optional_int = {
    .name = "v", .type = AQ_INT32, .repetition = AQ_OPTIONAL};
static const aq_field_spec text_field = {.name = "v", .type = AQ_BYTE_ARRAY};
static const aq_field_spec list_fields[] = {
    {.name = "v", .type = AQ_GROUP, .num_children = 1, .logical = AQ_LOGICAL_LIST},
    {.name = "list", .repetition = AQ_REPEATED, .type = AQ_GROUP, .num_children = 1},
    {.name = "element", .type = AQ_INT32}};

/* A dictionary, a V1 and a V2 page, joined by the view. */
Test(parquet, pages_join) {
    static const uint8_t dictionary[] = {10, 0, 0, 0, 20, 0, 0, 0};
    /* indices of 1 bit: packed 0 1 1 0 0 0 0 0, then a run of 2 times 1 */
    static const uint8_t indices[] = {1, 0x03, 0x06, 0x04, 0x01};
    /* V2: definition levels 1 0 1 packed, then two values */
    static const uint8_t v2[] = {0x03, 0x05, 30, 0, 0, 0, 40, 0, 0, 0};
    static const int32_t v2_counts[] = {3, 1, 3};
    static const int32_t want[] = {10, 20, 20, 10, 10, 10, 10, 10, 20, 20, 30, 40};
    uint8_t with_levels[32] = {2, 0, 0, 0, 20, 1}; /* 10 times defined */
    aq_column *col;
    aq_parquet *f;
    aq_span s;
    craft *c = calloc(1, sizeof *c);
    file made;
    memcpy(with_levels + 6, indices, sizeof indices);
    craft_dictionary(c, 2, dictionary, sizeof dictionary);
    craft_data_page(c, 10, AQ_RLE_DICTIONARY, with_levels, 6 + sizeof indices);
    craft_data_page_v2(c, v2_counts, 2, 0, v2, sizeof v2);
    made = craft_file(c, &optional_int, 1, 13, 13);
    ASSERT_OK(aq_parquet_open_memory(made.data, made.size, NULL, &f, &err));
    ASSERT_OK(aq_column_open(f, 0, 0, &col, &err));
    ASSERT_OK(aq_column_view(col, &s, &err));
    cr_assert(s.num_levels == 13 && s.num_values == 12 && !s.mapped);
    cr_assert_arr_eq(s.values, want, sizeof want);
    for (int i = 0; i < 13; i++)
        cr_assert_eq(s.def_levels[i], i != 11);
    aq_column_close(col);
    aq_parquet_close(f);
    file_free(&made);
    free(c);
}

/* The deprecated BIT_PACKED levels: from the most significant bit on, without a length. */
Test(parquet, levels_packed_bit_by_bit) {
    static const uint8_t body[] = {0xac, 0xc0, 10, 0, 0, 0,  20, 0, 0, 0,  30, 0, 0,
                                   0,    40,   0,  0, 0, 50, 0,  0, 0, 60, 0,  0, 0};
    static const uint8_t levels[10] = {1, 0, 1, 0, 1, 1, 0, 0, 1, 1};
    static const int32_t values[6] = {10, 20, 30, 40, 50, 60};
    craft *c = calloc(1, sizeof *c);
    for (size_t bytes = 0; bytes <= sizeof body; bytes++) {
        aqi_page_header h = craft_data_header(10, AQ_PLAIN);
        aq_status status;
        aq_column *col;
        aq_parquet *f;
        aq_span s;
        file made;
        c->size = 0;
        AQI_SET(&h.data_page_header, aqi_data_page, definition_level_encoding,
                AQ_BIT_PACKED);
        craft_page(c, &h, body, bytes);
        made = craft_file(c, &optional_int, 1, 10, 10);
        ASSERT_OK(aq_parquet_open_memory(made.data, made.size, NULL, &f, &err));
        ASSERT_OK(aq_column_open(f, 0, 0, &col, &err));
        status = aq_column_view(col, &s, &err);
        cr_assert_eq(status, bytes == sizeof body ? AQ_OK : AQ_E_FORMAT, "%zu", bytes);
        if (bytes < 2) EXPECT_MESSAGE("cut", "definition levels cut off");
        if (status == AQ_OK) {
            cr_assert(s.num_levels == 10 && s.num_values == 6);
            cr_assert_arr_eq(s.def_levels, levels, sizeof levels);
            cr_assert_arr_eq(s.values, values, sizeof values);
        }
        aq_column_close(col);
        aq_parquet_close(f);
        file_free(&made);
    }
    free(c);
}

Test(parquet, dictionary_in_another_encoding) {
    static const uint8_t body[8] = {10, 0, 0, 0, 20, 0, 0, 0}, indices[] = {1, 4, 1};
    craft *c = calloc(1, sizeof *c);
    for (int i = 0; i < 3; i++) { /* the two names that stand for plain values, and RLE */
        aqi_page_header h;
        aq_column *col;
        aq_parquet *f;
        aq_span s;
        file made;
        c->size = c->dictionary_bytes = 0;
        memset(&h, 0, sizeof h);
        AQI_SET(&h, aqi_page_header, type, AQI_PAGE_DICTIONARY);
        AQI_MARK(&h, aqi_page_header, dictionary_page_header);
        AQI_SET(&h.dictionary_page_header, aqi_dictionary_page, num_values, 2);
        AQI_SET(&h.dictionary_page_header, aqi_dictionary_page, encoding,
                i == 0   ? AQ_PLAIN
                : i == 1 ? AQ_PLAIN_DICTIONARY
                         : AQ_RLE);
        craft_page(c, &h, body, sizeof body);
        c->dictionary_bytes = c->size;
        craft_data_page(c, 2, i == 1 ? AQ_PLAIN_DICTIONARY : AQ_RLE_DICTIONARY, indices,
                        sizeof indices);
        made = craft_file(c, &int_field, 1, 2, 2);
        ASSERT_OK(aq_parquet_open_memory(made.data, made.size, NULL, &f, &err));
        ASSERT_OK(aq_column_open(f, 0, 0, &col, &err));
        ASSERT_STATUS(aq_column_view(col, &s, &err), i == 2 ? AQ_E_FORMAT : AQ_OK);
        if (i == 2) ASSERT_MESSAGE("RLE", "dictionary page with encoding RLE");
        if (i < 2) cr_assert_eq(((const int32_t *)s.values)[0], 20);
        aq_column_close(col);
        aq_parquet_close(f);
        file_free(&made);
    }
    free(c);
}

/* Encoded values that end early, or have another size than the type. */
Test(parquet, encoded_values_cut_off) {
    /* Prefixes 0 0, suffixes of 2 bytes each: "ab" "cd". */
    static const uint8_t prefixed[] = {0x80, 1, 4, 2, 0, 0, 0, 0, 0,  0,  0x80, 1,
                                       4,    2, 4, 0, 0, 0, 0, 0, 97, 98, 99,   100};
    static const uint8_t split[] = {0, 0, 0, 0, 0x80, 0, 0x3f, 0x40}; /* 1 and 2 */
    static const struct {
        aq_field_spec field;
        int32_t encoding;
        const uint8_t *body;
        size_t size;
        bool good;
    } cases[] = {{{.name = "v", .type = AQ_BYTE_ARRAY},
                  AQ_DELTA_BYTE_ARRAY,
                  prefixed,
                  sizeof prefixed,
                  true},
                 {{.name = "v", .type = AQ_FIXED_LEN_BYTE_ARRAY, .type_length = 2},
                  AQ_DELTA_BYTE_ARRAY,
                  prefixed,
                  sizeof prefixed,
                  true},
                 {{.name = "v", .type = AQ_FIXED_LEN_BYTE_ARRAY, .type_length = 3},
                  AQ_DELTA_BYTE_ARRAY,
                  prefixed,
                  sizeof prefixed,
                  false},
                 {{.name = "v", .type = AQ_FLOAT},
                  AQ_BYTE_STREAM_SPLIT,
                  split,
                  sizeof split,
                  true}};
    craft *c = calloc(1, sizeof *c);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        for (size_t bytes = 0; bytes <= cases[i].size; bytes++) {
            const bool good = cases[i].good && bytes == cases[i].size;
            aq_column *col;
            aq_parquet *f;
            aq_span s;
            file made;
            c->size = 0;
            craft_data_page(c, 2, cases[i].encoding, cases[i].body, bytes);
            made = craft_file(c, &cases[i].field, 1, 2, 2);
            ASSERT_OK(aq_parquet_open_memory(made.data, made.size, NULL, &f, &err));
            ASSERT_OK(aq_column_open(f, 0, 0, &col, &err));
            ASSERT_STATUS(aq_column_view(col, &s, &err), good ? AQ_OK : AQ_E_FORMAT);
            if (!good) EXPECT_MESSAGE("cut", "2 values");
            if (good && i == 0) {
                const aq_bytes *v = (const aq_bytes *)s.values;
                cr_assert(v[0].size == 2 && memcmp(v[0].data, "ab", 2) == 0);
                cr_assert(v[1].size == 2 && memcmp(v[1].data, "cd", 2) == 0);
            }
            if (good && i == 1) cr_assert(memcmp(s.values, "abcd", 4) == 0);
            if (good && i == 3) {
                const float want[2] = {1, 2};
                cr_assert_arr_eq(s.values, want, sizeof want);
            }
            aq_column_close(col);
            aq_parquet_close(f);
            file_free(&made);
        }
    }
    free(c);
}

Test(parquet, more_columns_than_allowed) {
    static const aq_field_spec fields[3] = {{.name = "a", .type = AQ_INT32},
                                            {.name = "b", .type = AQ_INT32},
                                            {.name = "c", .type = AQ_INT32}};
    for (uint32_t most = 2; most <= 3; most++) {
        const aq_parquet_options o = {.max_columns = most};
        aq_parquet *f;
        aq_writer *w;
        ASSERT_OK(aq_writer_open(in_dir("f"), fields, 3, NULL, &w, &err));
        ASSERT_OK(aq_writer_finish(w, &err));
        ASSERT_STATUS(aq_parquet_open(in_dir("f"), &o, &f, &err),
                      most == 2 ? AQ_E_LIMIT : AQ_OK);
        if (most == 2)
            ASSERT_MESSAGE("columns", "schema has over 2 columns; raise max_columns");
        aq_parquet_close(f);
    }
}

/* Lists so long that they are handed out one by one. */
typedef struct visited {
    const float *values;
    int64_t seen, lists, stop_after;
} visited;

static bool visit_list(void *user, size_t column, int64_t first_level, const aq_span *s) {
    visited *v = (visited *)user;
    cr_assert_eq(column, 0);
    cr_assert_eq(first_level, v->seen);
    cr_assert(s->single_list && s->num_rows == 1 && s->num_levels == s->num_values);
    cr_assert(memcmp(s->values, v->values + v->seen,
                     (size_t)s->num_values * sizeof(float)) == 0);
    v->seen += s->num_levels;
    return ++v->lists != v->stop_after;
}

Test(parquet, visits_of_long_lists) {
    enum { LIST = 5000 };
    static const aq_field_spec fields[] = {
        {.name = "v", .type = AQ_GROUP, .num_children = 1},
        {.name = "list", .repetition = AQ_REPEATED, .type = AQ_GROUP, .num_children = 1},
        {.name = "element", .type = AQ_FLOAT}};
    static float values[3 * LIST];
    static const int32_t offsets[] = {0, LIST, 2 * LIST + 7, 3 * LIST};
    const aq_column_values put = {.values = values,
                                  .num_values = 3 * LIST,
                                  .list_offsets = offsets,
                                  .num_lists = 3};
    aq_parquet *f;
    aq_writer *w;
    rng r = {4};
    rng_floats(&r, values, 3 * LIST, 1);
    ASSERT_OK(aq_writer_open(in_dir("f"), fields, 3, NULL, &w, &err));
    ASSERT_OK(aq_writer_put_column(w, &put, &err));
    ASSERT_OK(aq_writer_end_row_group(w, 3, &err));
    ASSERT_OK(aq_writer_finish(w, &err));
    ASSERT_OK(aq_parquet_open(in_dir("f"), NULL, &f, &err));
    for (int64_t stop = 0; stop <= 3; stop++) {
        visited v = {values, 0, 0, stop};
        aq_column *col;
        ASSERT_OK(aq_column_open(f, 0, 0, &col, &err));
        ASSERT_STATUS(aq_columns_visit(&col, 1, NULL, visit_list, &v, &err),
                      stop == 0 ? AQ_OK : AQ_E_CANCELLED);
        cr_assert_eq(v.lists, stop == 0 ? 3 : stop);
        cr_assert_eq(v.seen, offsets[v.lists]);
        aq_column_close(col);
    }
    aq_parquet_close(f);
}

Test(parquet, a_list_goes_on_in_the_next_page) {
    /* levels: one run each; [1 2] then 3 more elements of the same list */
    static const uint8_t first[] = {3, 0, 0, 0, 0x03, 0x02, 0, 2, 0, 0, 0,
                                    4, 1, 1, 0, 0,    0,    2, 0, 0, 0};
    static const uint8_t rest[] = {2, 0, 0, 0, 6, 1, 2, 0, 0, 0, 6, 1,
                                   3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0};
    static const int32_t want[] = {1, 2, 3, 4, 5};
    static const uint8_t want_rep[] = {0, 1, 1, 1, 1};
    craft *c = calloc(1, sizeof *c);
    const aq_span *spans;
    aq_column *col;
    aq_parquet *f;
    size_t count;
    aq_span s;
    file made;
    craft_data_page(c, 2, AQ_PLAIN, first, sizeof first);
    craft_data_page(c, 3, AQ_PLAIN, rest, sizeof rest);
    made = craft_file(c, list_fields, COUNT_OF(list_fields), 5, 1);
    ASSERT_OK(aq_parquet_open_memory(made.data, made.size, NULL, &f, &err));
    ASSERT_OK(aq_column_open(f, 0, 0, &col, &err));
    ASSERT_OK(aq_column_spans(col, &spans, &count, &err));
    cr_assert_eq(count, 2);
    cr_assert(spans[0].num_rows == 1 && spans[1].num_rows == 0);
    ASSERT_OK(aq_column_view(col, &s, &err));
    cr_assert(s.num_rows == 1 && s.num_values == 5);
    cr_assert_arr_eq(s.values, want, sizeof want);
    for (int i = 0; i < 5; i++)
        cr_assert_eq(level_at(s.rep_levels, i, s.single_list, 1), want_rep[i]);
    aq_column_close(col);
    aq_parquet_close(f);
    file_free(&made);
    free(c);
}

/* ---- hostile pages ---- */

/* One column of one page, optionally behind a dictionary of two integers. */
typedef struct page_case {
    const char *what;
    const aq_field_spec *fields;
    size_t num_fields;
    int32_t page_values;
    int32_t encoding;
    bool dictionary;
    uint8_t body[24];
    size_t bytes;
    int64_t chunk_values;
    aq_status wanted;
    const char *message;
} page_case;

#define ONE(field) &field, 1
#define LISTED list_fields, COUNT_OF(list_fields)

/* clang-format off */
static const page_case page_cases[] = {
    {"good", ONE(int_field), 2, AQ_PLAIN, false, {1, 0, 0, 0, 2}, 8, 2, AQ_OK, ""},
    {"fewer values than claimed", ONE(int_field), 3, AQ_PLAIN, false, {1, 0, 0, 0, 2}, 8,
     3, AQ_E_FORMAT, "3 values"},
    {"chunk claims more", ONE(int_field), 2, AQ_PLAIN, false, {1}, 8, 1000, AQ_E_FORMAT,
     "column chunk"},
    {"chunk claims fewer", ONE(int_field), 2, AQ_PLAIN, false, {1}, 8, 1, AQ_E_FORMAT,
     "more values"},
    {"negative count", ONE(int_field), -2, AQ_PLAIN, false, {1}, 8, 2, AQ_E_FORMAT,
     "negative"},
    {"unknown encoding", ONE(int_field), 2, 99, false, {1}, 8, 2, AQ_E_UNSUPPORTED, "99"},
    {"string longer than its page", ONE(text_field), 1, AQ_PLAIN, false, {9, 0, 0, 0,
     'a'}, 5, 1, AQ_E_FORMAT, "1 values"},
    {"string of 4 GiB", ONE(text_field), 1, AQ_PLAIN, false, {255, 255, 255, 255, 'a'}, 5,
     1, AQ_E_FORMAT, "1 values"},
    {"string length cut off", ONE(text_field), 1, AQ_PLAIN, false, {1, 0}, 2, 1,
     AQ_E_FORMAT, "1 values"},
    {"indices without a dictionary", ONE(int_field), 2, AQ_RLE_DICTIONARY, false, {1, 4,
     0}, 3, 2, AQ_E_FORMAT, "without a dictionary"},
    {"index outside", ONE(int_field), 2, AQ_RLE_DICTIONARY, true, {2, 4, 2}, 3, 2,
     AQ_E_FORMAT, "outside its dictionary"},
    {"index of 33 bits", ONE(int_field), 2, AQ_RLE_DICTIONARY, true, {33, 4, 0, 0, 0, 0,
     0}, 7, 2, AQ_E_FORMAT, "2 indices"},
    {"indices cut off", ONE(int_field), 2, AQ_RLE_DICTIONARY, true, {2, 2, 0}, 3, 2,
     AQ_E_FORMAT, "2 indices"},
    {"no index width", ONE(int_field), 2, AQ_RLE_DICTIONARY, true, {0}, 0, 2, AQ_E_FORMAT,
     "2 indices"},
    {"levels length cut off", ONE(optional_int), 2, AQ_PLAIN, false, {2, 0}, 2, 2,
     AQ_E_FORMAT, "definition levels"},
    {"levels longer than the page", ONE(optional_int), 2, AQ_PLAIN, false, {9, 0, 0, 0, 4,
     1}, 6, 2, AQ_E_FORMAT, "definition levels"},
    {"levels of 4 GiB", ONE(optional_int), 2, AQ_PLAIN, false, {255, 255, 255, 255, 4, 1},
     6, 2, AQ_E_FORMAT, "definition levels"},
    {"too few levels", ONE(optional_int), 2, AQ_PLAIN, false, {2, 0, 0, 0, 2, 0, 0, 0, 0,
     0}, 10, 2, AQ_E_FORMAT, "definition levels"},
    {"level above the maximum", ONE(optional_int), 2, AQ_PLAIN, false, {2, 0, 0, 0, 4, 2},
     14, 2, AQ_E_FORMAT, "definition levels"},
    {"run of no levels", ONE(optional_int), 2, AQ_PLAIN, false, {4, 0, 0, 0, 0, 0, 0, 0},
     8, 2, AQ_E_FORMAT, "definition levels"},
    {"run count of 10 bytes", ONE(optional_int), 2, AQ_PLAIN, false, {11, 0, 0, 0, 255,
     255, 255, 255, 255, 255, 255, 255, 255, 1, 1}, 23, 2, AQ_E_FORMAT,
     "definition levels"},
    {"first repetition level not 0", LISTED, 2, AQ_PLAIN, false, {2, 0, 0, 0, 4, 1, 2, 0,
     0, 0, 4, 1, 1}, 20, 2, AQ_E_FORMAT, "repetition level"},
};
/* clang-format on */

/* Opens the only column and verifies it. */
static aq_status verify_memory(const file *f, const aq_parquet_options *o) {
    aq_column *col = NULL;
    aq_parquet *p;
    aq_status status = aq_parquet_open_memory(f->data, f->size, o, &p, &err);
    if (status != AQ_OK) return status;
    status = aq_column_open(p, 0, 0, &col, &err);
    if (status == AQ_OK) status = aq_column_verify(col, &err);
    aq_column_close(col);
    aq_parquet_close(p);
    return status;
}

static void expect_refused(const craft *c, const page_case *k) {
    int64_t rows = k->num_fields > 1 ? 1 : k->chunk_values;
    file made = craft_file(c, k->fields, k->num_fields, k->chunk_values, rows);
    aq_status got = verify_memory(&made, NULL);
    cr_assert_eq(got, k->wanted, "%s: %s: %s", k->what, aq_status_name(got), err.message);
    if (got != AQ_OK) {
        ASSERT_MESSAGE(k->what, k->message);
        cr_assert(err.column == 0 && err.name[0] == 'v', "%s", k->what);
        ASSERT_MESSAGE(k->what, "column v");
    }
    file_free(&made);
}

Test(parquet, hostile_pages) {
    static const uint8_t dictionary[] = {10, 0, 0, 0, 20, 0, 0, 0};
    craft *c = calloc(1, sizeof *c);
    for (size_t i = 0; i < COUNT_OF(page_cases); i++) {
        const page_case *k = &page_cases[i];
        c->size = 0;
        c->dictionary_bytes = 0;
        if (k->dictionary) craft_dictionary(c, 2, dictionary, sizeof dictionary);
        craft_data_page(c, k->page_values, k->encoding, k->body, k->bytes);
        expect_refused(c, k);
    }
    free(c);
}

/* Page headers that lie about sizes, kinds and order. */
Test(parquet, hostile_page_headers) {
    static const uint8_t body[8] = {1, 0, 0, 0, 2, 0, 0, 0};
    static const struct {
        const char *what;
        int32_t type, stored, plain;
        const char *message;
        aq_status wanted;
    } cases[] = {
        {"negative size", AQI_PAGE_DATA, -1, 8, "negative size", AQ_E_FORMAT},
        {"negative plain size", AQI_PAGE_DATA, 8, -8, "negative size", AQ_E_FORMAT},
        {"two sizes", AQI_PAGE_DATA, 8, 9, "two different sizes", AQ_E_FORMAT},
        {"longer than the chunk", AQI_PAGE_DATA, 4000, 4000, "longer than", AQ_E_FORMAT},
        {"2 GiB", AQI_PAGE_DATA, INT32_MAX, INT32_MAX, "longer than", AQ_E_FORMAT},
        {"V2 without its header", AQI_PAGE_DATA_V2, 8, 8, "without its header",
         AQ_E_FORMAT},
        {"dictionary without its header", AQI_PAGE_DICTIONARY, 8, 8,
         "without a valid header", AQ_E_FORMAT},
        {"only an index page", AQI_PAGE_INDEX, 8, 8, "column chunk ends", AQ_E_FORMAT},
    };
    craft *c = calloc(1, sizeof *c);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        page_case k = {cases[i].what,   ONE(int_field),  2, 0, false, {0}, 0, 2,
                       cases[i].wanted, cases[i].message};
        aqi_page_header h = craft_data_header(2, AQ_PLAIN);
        h.type = cases[i].type;
        AQI_SET(&h, aqi_page_header, compressed_page_size, cases[i].stored);
        AQI_SET(&h, aqi_page_header, uncompressed_page_size, cases[i].plain);
        c->size = 0;
        craft_page(c, &h, body, sizeof body);
        expect_refused(c, &k);
    }
    free(c);
}

Test(parquet, hostile_v2_levels) {
    static const uint8_t body[12] = {4, 1, 1, 0, 0, 0, 2, 0, 0, 0};
    static const struct {
        const char *what;
        int32_t counts[3], def_bytes, rep_bytes;
        const char *message;
        aq_status wanted;
    } cases[] = {
        {"good", {2, 0, 2}, 2, 0, "", AQ_OK},
        {"negative level bytes", {2, 0, 2}, -2, 0, "negative size", AQ_E_FORMAT},
        {"levels larger than the page",
         {2, 0, 2},
         100,
         0,
         "smaller than its levels",
         AQ_E_FORMAT},
        {"sum of levels over 2 GiB",
         {2, 0, 2},
         INT32_MAX,
         INT32_MAX,
         "smaller than its levels",
         AQ_E_FORMAT},
        {"wrong rows", {2, 0, 1}, 2, 0, "claims 1 rows", AQ_E_FORMAT},
        {"no level bytes", {2, 0, 2}, 0, 0, "definition levels", AQ_E_FORMAT},
    };
    craft *c = calloc(1, sizeof *c);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        page_case k = {cases[i].what,   ONE(optional_int), 2, 0, false, {0}, 0, 2,
                       cases[i].wanted, cases[i].message};
        c->size = 0;
        craft_data_page_v2(c, cases[i].counts, cases[i].def_bytes, cases[i].rep_bytes,
                           body, 10);
        expect_refused(c, &k);
    }
    free(c);
}

Test(parquet, hostile_dictionaries) {
    static const uint8_t body[8] = {10, 0, 0, 0, 20, 0, 0, 0}, indices[] = {1, 4, 0};
    static const struct {
        const char *what;
        int32_t entries;
        bool again, late;
        const char *message;
    } cases[] = {
        {"negative count", -1, false, false, "valid header"},
        {"count of 2^31", INT32_MAX, false, false, "values"},
        {"one entry too many", 3, false, false, "3 values"},
        {"two dictionaries", 2, true, false, "not the first"},
        {"after the data", 2, false, true, "without a dictionary"},
    };
    craft *c = calloc(1, sizeof *c);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        page_case k = {cases[i].what, ONE(int_field),  2, 0, false, {0}, 0, 2,
                       AQ_E_FORMAT,   cases[i].message};
        c->size = 0;
        c->dictionary_bytes = 0;
        if (!cases[i].late) craft_dictionary(c, cases[i].entries, body, sizeof body);
        if (cases[i].again) craft_dictionary(c, cases[i].entries, body, sizeof body);
        craft_data_page(c, 2, AQ_RLE_DICTIONARY, indices, sizeof indices);
        if (cases[i].late) craft_dictionary(c, cases[i].entries, body, sizeof body);
        if (cases[i].late) c->dictionary_bytes = 0;
        expect_refused(c, &k);
    }
    free(c);
}

/* Small pages that stand for many levels: what one column may make us allocate is
 * bounded, not only what one page may. */
Test(parquet, small_pages_of_many_levels_stay_small) {
    uint8_t body[16] = {0};
    enum { LEVELS = 30000000, PAGES = 20 };
    size_t bytes = 4 + aqi_encode_varint((uint64_t)LEVELS << 1, body + 4) + 1;
    const aq_span *spans;
    counting_allocator count;
    aq_parquet_options o = {.allocator = &count.hooks};
    craft *c = calloc(1, sizeof *c);
    aq_parquet *f;
    aq_column *col;
    size_t n;
    file made;
    body[0] = (uint8_t)(bytes - 4);
    for (int i = 0; i < PAGES; i++)
        craft_data_page(c, LEVELS, AQ_PLAIN, body, bytes);
    made =
        craft_file(c, &optional_int, 1, (int64_t)LEVELS * PAGES, (int64_t)LEVELS * PAGES);
    counting_init(&count);
    ASSERT_OK(aq_parquet_open_memory(made.data, made.size, &o, &f, &err));
    ASSERT_OK(aq_column_open(f, 0, 0, &col, &err));
    ASSERT_STATUS(aq_column_spans(col, &spans, &n, &err), AQ_E_LIMIT);
    EXPECT_HELPFUL("many levels");
    cr_assert_lt(count.peak_bytes, (size_t)256 << 20);
    aq_column_close(col);
    aq_parquet_close(f);
    cr_assert(counting_is_clean(&count));
    file_free(&made);
    free(c);
}

/* Footers with sizes near 2^63, pages with negative counts: no overflow on the way. */
Test(parquet, hostile_chunk_sizes) {
    static const int64_t sizes[] = {INT64_MAX, INT64_MIN, -1, 0};
    static const int64_t counts[] = {0, 1, INT64_MAX};
    craft *c = calloc(1, sizeof *c);
    craft_data_page(c, -64, AQ_PLAIN, "", 0);
    for (size_t i = 0; i < COUNT_OF(sizes) * COUNT_OF(sizes) * COUNT_OF(counts); i++) {
        file base = craft_file(c, &int_field, 1, 0, 0), made;
        footer foot = footer_open(&base);
        aqi_column_meta *m = &footer_chunk(&foot, 0, 0)->meta_data;
        aq_page_info page;
        aq_parquet *f;
        aq_column *col;
        aq_span span;
        if (i % 4 != 3) m->data_page_offset = sizes[i % 4]; /* else where it is */
        if (i / 4 % 4 != 3) m->total_compressed_size = sizes[i / 4 % 4];
        m->num_values = counts[i / 16];
        made = footer_close(&foot, base.data, body_bytes_of(&base));
        if (aq_parquet_open_memory(made.data, made.size, NULL, &f, &err) == AQ_OK) {
            if (aq_column_open(f, 0, 0, &col, &err) == AQ_OK) {
                aq_status status = aq_column_next(col, &span, &err);
                cr_assert(status != AQ_OK || span.values == NULL);
                aq_column_close(col);
            }
            if (aq_column_open(f, 0, 0, &col, &err) == AQ_OK) {
                for (int k = 0; k < 3; k++)
                    (void)!aq_column_next_page(col, &page, &err);
                aq_column_close(col);
            }
            aq_parquet_close(f);
        }
        file_free(&made);
        file_free(&base);
    }
    free(c);
}

/* ---- misuse of the reader ---- */

static bool never_reads(void *user, int64_t offset, void *dst, size_t bytes) {
    (void)user, (void)offset, (void)dst, (void)bytes;
    return false;
}

static bool never_visits(void *user, size_t column, int64_t first_level,
                         const aq_span *span) {
    (void)user, (void)column, (void)first_level, (void)span;
    cr_assert_fail("nothing is to be visited");
    return true;
}

Test(parquet, reader_misuse) {
    static const uint8_t body[8] = {1, 0, 0, 0, 2, 0, 0, 0};
    aq_parquet_options one_column = {.max_columns = 1},
                       small = {.max_metadata_bytes = 64};
    aq_reader broken = {NULL, NULL, 100}, below = {never_reads, NULL, -1},
              silent = {never_reads, NULL, 100};
    aq_row_group_info group;
    craft *c = calloc(1, sizeof *c);
    const aq_span *spans;
    aq_parquet *f = (aq_parquet *)c;
    aq_column *col;
    aq_span span;
    size_t n;
    file made;
    craft_data_page(c, 2, AQ_PLAIN, body, sizeof body);
    made = craft_file(c, &int_field, 1, 2, 2);
    ASSERT_STATUS(aq_parquet_open_reader(&broken, NULL, &f, &err), AQ_E_ARG);
    cr_assert_null(f);
    ASSERT_STATUS(aq_parquet_open_reader(NULL, NULL, &f, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_parquet_open_reader(&below, NULL, &f, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_parquet_open_reader(&silent, NULL, &f, &err), AQ_E_IO);
    ASSERT_MESSAGE("reader", "the caller's reader failed at offset");
    ASSERT_STATUS(aq_parquet_open_memory(NULL, 100, NULL, &f, &err), AQ_E_FORMAT);
    ASSERT_STATUS(aq_parquet_open_memory(made.data, made.size, &small, &f, &err),
                  AQ_E_LIMIT);
    ASSERT_MESSAGE("small", "max_metadata_bytes");
    ASSERT_STATUS(aq_parquet_open(in_dir("missing"), NULL, &f, &err), AQ_E_IO);
    cr_assert_eq(err.os_errno, ENOENT);
    ASSERT_STATUS(aq_parquet_open(here.path, NULL, &f, &err), AQ_E_IO);
    ASSERT_OK(aq_parquet_open_memory(made.data, made.size, &one_column, &f, &err));
    ASSERT_STATUS(aq_column_open(f, 1, 0, &col, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_column_open(f, -1, 0, &col, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_column_open(f, 0, 1, &col, &err), AQ_E_ARG);
    cr_assert_null(col);
    ASSERT_OK(aq_column_open(f, 0, 0, &col, &err));
    ASSERT_STATUS(aq_columns_visit(&col, 1, NULL, NULL, NULL, &err), AQ_E_ARG);
    ASSERT_MESSAGE("visit", "visit without a function");
    ASSERT_OK(aq_columns_decode(NULL, 0, NULL, &err));
    ASSERT_OK(aq_columns_visit(NULL, 0, NULL, never_visits, NULL, &err));
    ASSERT_OK(aq_column_next(col, &span, &err));
    ASSERT_STATUS(aq_column_spans(col, &spans, &n, &err), AQ_E_STATE);
    aq_column_close(col);
    ASSERT_OK(aq_column_open(f, 0, 0, &col, &err));
    ASSERT_OK(aq_column_spans(col, &spans, &n, &err));
    ASSERT_STATUS(aq_columns_visit(&col, 1, NULL, never_visits, NULL, &err), AQ_E_STATE);
    cr_assert_null(aq_parquet_field(f, -1));
    cr_assert_null(aq_parquet_field(f, 1000));
    cr_assert_str_eq(aq_parquet_column_path(f, -1), "");
    cr_assert_str_eq(aq_parquet_column_path(f, 1), "");
    ASSERT_STATUS(aq_parquet_get_row_group(f, -1, &group, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_parquet_get_row_group(f, 1, &group, &err), AQ_E_ARG);
    ASSERT_MESSAGE("row group", "row group 1 of 1");
    aq_column_close(col);
    aq_column_close(NULL);
    aq_parquet_close(f);
    aq_parquet_close(NULL);
    file_free(&made);
    free(c);
}
