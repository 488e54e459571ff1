/* test_encodings.c - every encoding of the Parquet writer against the reader: types,
 * nesting, codecs, page versions and sizes, values that are empty, null, single, extreme,
 * repeated and random; what the metadata says of them. */
#include "files.h"

TestSuite(encodings, .init = enter_temp_dir, .fini = leave_temp_dir, .timeout = 300);

/* ---- columns: every type, encoding that fits it, and nesting ---- */

typedef enum shape_of_column { REQUIRED, OPTIONAL, LIST, NUM_SHAPES } shape_of_column;

static const struct {
    aq_physical_type type;
    aq_encoding encoding;
} pairs[] = {
    {AQ_BOOLEAN, AQ_PLAIN},
    {AQ_INT32, AQ_PLAIN},
    {AQ_INT64, AQ_PLAIN},
    {AQ_INT96, AQ_PLAIN},
    {AQ_FLOAT, AQ_PLAIN},
    {AQ_DOUBLE, AQ_PLAIN},
    {AQ_BYTE_ARRAY, AQ_PLAIN},
    {AQ_FIXED_LEN_BYTE_ARRAY, AQ_PLAIN},
    {AQ_INT32, AQ_RLE_DICTIONARY},
    {AQ_INT64, AQ_RLE_DICTIONARY},
    {AQ_INT96, AQ_RLE_DICTIONARY},
    {AQ_FLOAT, AQ_RLE_DICTIONARY},
    {AQ_DOUBLE, AQ_RLE_DICTIONARY},
    {AQ_BYTE_ARRAY, AQ_RLE_DICTIONARY},
    {AQ_FIXED_LEN_BYTE_ARRAY, AQ_RLE_DICTIONARY},
    {AQ_BOOLEAN, AQ_RLE},
    {AQ_INT32, AQ_DELTA_BINARY_PACKED},
    {AQ_INT64, AQ_DELTA_BINARY_PACKED},
    {AQ_BYTE_ARRAY, AQ_DELTA_LENGTH_BYTE_ARRAY},
    {AQ_BYTE_ARRAY, AQ_DELTA_BYTE_ARRAY},
    {AQ_FIXED_LEN_BYTE_ARRAY, AQ_DELTA_BYTE_ARRAY},
    {AQ_INT32, AQ_BYTE_STREAM_SPLIT},
    {AQ_INT64, AQ_BYTE_STREAM_SPLIT},
    {AQ_FLOAT, AQ_BYTE_STREAM_SPLIT},
    {AQ_DOUBLE, AQ_BYTE_STREAM_SPLIT},
    {AQ_FIXED_LEN_BYTE_ARRAY, AQ_BYTE_STREAM_SPLIT},
};

#define NUM_PAIRS COUNT_OF(pairs)
#define NUM_COLUMNS (NUM_PAIRS * NUM_SHAPES)
#define ROWS 400
#define MAX_LEVELS (4 * ROWS)
#define FIXED_BYTES 5

static const uint8_t max_defs[NUM_SHAPES] = {0, 1, 3};

static aq_physical_type type_of(size_t column) { return pairs[column % NUM_PAIRS].type; }
static shape_of_column shape_of(size_t column) {
    return (shape_of_column)(column / NUM_PAIRS);
}

static size_t width_of(aq_physical_type type) {
    static const size_t widths[] = {1, 4, 8, 12, 4, 8, sizeof(aq_bytes), FIXED_BYTES};
    return widths[type];
}

/* What the values of a file look like. */
typedef enum pattern {
    NO_ROWS,
    ALL_NULL, /* required columns: random */
    ONE_ROW,
    EXTREMES,
    FEW_DISTINCT,
    RANDOM,
    ASCENDING,
    NUM_PATTERNS
} pattern;

typedef struct column_data {
    aq_column_values v;
    uint8_t values[MAX_LEVELS * sizeof(aq_bytes)];
    uint8_t text[8192];
    uint8_t def[MAX_LEVELS], rep[MAX_LEVELS];
    int64_t rows;
} column_data;

static void put_value(column_data *d, aq_physical_type type, pattern p, rng *r) {
    static const uint64_t edges[] = {0,
                                     1,
                                     (uint64_t)1 << 63,
                                     UINT64_MAX,
                                     INT64_MAX,
                                     0x80000000u,
                                     0x7fffffff,
                                     0x7ff0000000000000u,
                                     0x8000000080000000u,
                                     0x7fc000007fc00000u};
    size_t width = width_of(type), k = (size_t)d->v.num_values;
    uint8_t *at = d->values + k * width;
    uint64_t bits = rng_next(r);
    aq_bytes b;
    if (p == EXTREMES) bits = edges[rng_below(r, COUNT_OF(edges))];
    if (p == FEW_DISTINCT) bits = rng_below(r, 8) < 6 ? 3 : rng_below(r, 5) << 20;
    if (p == ASCENDING) bits = 1000000 + k * 3;
    memset(at, (int)(bits & 0xff), width);
    memcpy(at, &bits, width < 8 ? width : 8);
    if (type == AQ_BOOLEAN) *at &= 1;
    if (type == AQ_BYTE_ARRAY) {
        b.size = p == EXTREMES ? rng_below(r, 3) * 300 : bits % 20;
        b.data = d->text + (p == RANDOM ? rng_below(r, sizeof d->text - 600) : bits % 97);
        memcpy(at, &b, sizeof b);
    }
    d->v.num_values++;
}

static void put_level(column_data *d, uint8_t def, uint8_t rep) {
    d->def[d->v.num_levels] = def;
    d->rep[d->v.num_levels++] = rep;
}

static void fill_column(column_data *d, size_t column, pattern p, rng *r) {
    shape_of_column shape = shape_of(column);
    memset(&d->v, 0, sizeof d->v);
    rng_bytes(r, d->text, sizeof d->text);
    d->v.values = d->values;
    d->v.def_levels = shape == REQUIRED ? NULL : d->def;
    d->v.rep_levels = shape == LIST ? d->rep : NULL;
    d->rows = p == NO_ROWS ? 0 : p == ONE_ROW ? 1 : ROWS;
    for (int64_t row = 0; row < d->rows; row++) {
        size_t length = shape == LIST ? rng_below(r, 4) : 1;
        if (shape == REQUIRED) put_value(d, type_of(column), p, r);
        if (length == 0) put_level(d, (uint8_t)rng_below(r, 2), 0);
        for (size_t i = 0; i < length && shape != REQUIRED; i++) {
            bool present = p != ALL_NULL && (p == ONE_ROW || rng_below(r, 3) != 0);
            put_level(d, (uint8_t)(max_defs[shape] - !present), i > 0);
            if (present) put_value(d, type_of(column), p, r);
        }
    }
}

static size_t make_fields(aq_field_spec *fields, aq_codec codec) {
    static char names[NUM_COLUMNS][16];
    size_t n = 0;
    for (size_t c = 0; c < NUM_COLUMNS; c++) {
        aq_field_spec leaf = {.name = names[c],
                              .type = type_of(c),
                              .encoding = pairs[c % NUM_PAIRS].encoding,
                              .align_values = c % 2 == 0,
                              .write_statistics = true,
                              .codec = codec};
        snprintf(names[c], sizeof names[c], "c%zu", c);
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

/* ---- writing and reading a file of them ---- */

static column_data data[NUM_COLUMNS];

static aq_status write_file(aq_codec codec, pattern p, const aq_writer_options *o) {
    static aq_field_spec fields[NUM_COLUMNS * 3];
    aq_writer *w;
    rng r = {42 + (uint64_t)p};
    aq_status status =
        aq_writer_open(in_dir("f"), fields, make_fields(fields, codec), o, &w, &err);
    if (status != AQ_OK) return status;
    for (size_t c = 0; c < NUM_COLUMNS && status == AQ_OK; c++) {
        fill_column(&data[c], c, p, &r);
        status = aq_writer_put_column(w, &data[c].v, &err);
    }
    if (status == AQ_OK) status = aq_writer_end_row_group(w, data[0].rows, &err);
    if (status == AQ_OK) return aq_writer_finish(w, &err);
    aq_writer_abort(w);
    return status;
}

static bool same_values(const aq_span *s, const column_data *d, int64_t first,
                        aq_physical_type type) {
    const uint8_t *want = d->values + (size_t)first * width_of(type);
    size_t n = (size_t)s->num_values;
    if (type != AQ_BYTE_ARRAY)
        return n == 0 || memcmp(s->values, want, n * width_of(type)) == 0;
    for (size_t i = 0; i < n; i++) {
        const aq_bytes *a = (const aq_bytes *)s->values + i;
        const aq_bytes *b = (const aq_bytes *)(const void *)want + i;
        if (a->size != b->size || (a->size > 0 && memcmp(a->data, b->data, a->size) != 0))
            return false;
    }
    return true;
}

/* All pages of a chunk, one after the other. Returns their number. */
static size_t expect_chunk(const aq_parquet *f, size_t c, const char *what) {
    const column_data *d = &data[c];
    shape_of_column shape = shape_of(c);
    int64_t value = 0, level = 0, rows = 0;
    size_t pages = 0;
    aq_column *column;
    aq_span s;
    ASSERT_OK(aq_column_open(f, 0, (int32_t)c, &column, &err));
    for (;; pages++) {
        ASSERT_OK(aq_column_next(column, &s, &err));
        if (s.num_levels == 0) break;
        cr_assert(value + s.num_values <= d->v.num_values, "%s, column %zu", what, c);
        cr_assert(same_values(&s, d, value, type_of(c)), "%s, column %zu", what, c);
        for (int64_t i = 0; i < s.num_levels && shape != REQUIRED; i++) {
            uint8_t def = s.def_levels != NULL ? s.def_levels[i] : max_defs[shape];
            uint8_t rep = s.rep_levels != NULL ? s.rep_levels[i] : s.single_list && i > 0;
            cr_assert(def == d->def[level + i] &&
                          (shape != LIST || rep == d->rep[level + i]),
                      "%s, column %zu", what, c);
        }
        value += s.num_values;
        level += s.num_levels;
        rows += s.num_rows;
    }
    cr_assert(value == d->v.num_values && rows == d->rows, "%s, column %zu", what, c);
    cr_assert_eq(level, shape == REQUIRED ? d->v.num_values : d->v.num_levels);
    aq_column_close(column);
    ASSERT_OK(aq_column_open(f, 0, (int32_t)c, &column, &err));
    ASSERT_OK(aq_column_verify(column, &err));
    aq_column_close(column);
    return pages;
}

static bool is_built_in(aq_codec codec) {
    const aq_field_spec field = {.name = "v", .type = AQ_INT32, .codec = codec};
    aq_writer *w;
    aq_status status = aq_writer_open(in_dir("probe"), &field, 1, NULL, &w, &err);
    aq_writer_abort(w);
    return status == AQ_OK;
}

/* A page for each value only where a codec is quick to begin. */
static void every_file_of(aq_codec codec) {
    static const size_t page_bytes[] = {0, 300, 1 << 20, 1};
    const int sizes = codec == AQ_UNCOMPRESSED || codec == AQ_SNAPPY ? 4 : 3;
    for (int p = 0; p < NUM_PATTERNS; p++) {
        for (int k = 0; k < 2 * sizes; k++) {
            aq_writer_options o = {.no_sync = true,
                                   .data_page_v2 = k % 2 != 0,
                                   .page_index = p % 2 == 0,
                                   .page_bytes = page_bytes[k / 2]};
            size_t pages = 0;
            char what[128];
            aq_parquet *f;
            snprintf(what, sizeof what, "codec %d, pattern %d, pages V%d of %zu", codec,
                     p, 1 + k % 2, o.page_bytes);
            ASSERT_OK(write_file(codec, (pattern)p, &o));
            ASSERT_OK(aq_parquet_open(in_dir("f"), NULL, &f, &err));
            for (size_t c = 0; c < NUM_COLUMNS; c++)
                pages += expect_chunk(f, c, what);
            if (p == NO_ROWS) cr_assert_eq(pages, 0);
            if (p > ONE_ROW && o.page_bytes == 0) cr_assert_eq(pages, NUM_COLUMNS);
            if (p > ONE_ROW && o.page_bytes == 300) cr_assert_gt(pages, 2 * NUM_COLUMNS);
            aq_parquet_close(f);
        }
    }
}

Test(encodings, uncompressed) { every_file_of(AQ_UNCOMPRESSED); }

Test(encodings, every_codec) {
    static const aq_codec codecs[] = {AQ_SNAPPY, AQ_GZIP, AQ_BROTLI,
                                      AQ_LZ4,    AQ_ZSTD, AQ_LZ4_RAW};
    for (size_t i = 0; i < COUNT_OF(codecs); i++)
        if (is_built_in(codecs[i])) every_file_of(codecs[i]);
}

/* ---- what does not go together ---- */

Test(encodings, wrong_combinations_name_the_field) {
    for (int type = AQ_GROUP; type <= AQ_FIXED_LEN_BYTE_ARRAY; type++) {
        for (int encoding = -1; encoding < 12; encoding++) {
            aq_field_spec fields[2] = {{.name = "the field",
                                        .type = (aq_physical_type)type,
                                        .encoding = (aq_encoding)encoding},
                                       {.name = "child", .type = AQ_INT32}};
            bool fits = encoding == AQ_PLAIN;
            aq_writer *w;
            aq_status status;
            if (type == AQ_GROUP) fields[0].num_children = 1;
            if (type == AQ_FIXED_LEN_BYTE_ARRAY) fields[0].type_length = 4;
            for (size_t k = 0; k < NUM_PAIRS; k++)
                fits |= (int)pairs[k].type == type && (int)pairs[k].encoding == encoding;
            status = aq_writer_open(in_dir("f"), fields, type == AQ_GROUP ? 2 : 1, NULL,
                                    &w, &err);
            cr_assert_eq(status, fits ? AQ_OK : AQ_E_ARG, "type %d, encoding %d", type,
                         encoding);
            if (!fits) ASSERT_MESSAGE("encoding", "\"the field\"");
            aq_writer_abort(w);
        }
    }
}

/* ---- what the metadata and the pages say ---- */

static aq_chunk_info write_ints(const int32_t *values, int64_t n, aq_encoding encoding,
                                const aq_writer_options *o, aq_encoding *out_page) {
    const aq_field_spec field = {.name = "v", .type = AQ_INT32, .encoding = encoding};
    const aq_column_values v = {values, .num_values = n};
    aq_chunk_info info;
    aq_page_info page = {0};
    aq_column *column;
    aq_parquet *f;
    aq_writer *w;
    ASSERT_OK(aq_writer_open(in_dir("f"), &field, 1, o, &w, &err));
    ASSERT_OK(aq_writer_put_column(w, &v, &err));
    ASSERT_OK(aq_writer_end_row_group(w, n, &err));
    ASSERT_OK(aq_writer_finish(w, &err));
    ASSERT_OK(aq_parquet_open(in_dir("f"), NULL, &f, &err));
    ASSERT_OK(aq_parquet_get_chunk(f, 0, 0, &info, &err));
    ASSERT_OK(aq_column_open(f, 0, 0, &column, &err));
    do {
        ASSERT_OK(aq_column_next_page(column, &page, &err));
    } while (page.type == 2);
    *out_page = page.encoding;
    aq_column_close(column);
    aq_parquet_close(f);
    return info;
}

Test(encodings, dictionary_gives_way) {
    static int32_t values[100000];
    const uint32_t plain = 1u << AQ_PLAIN, both = plain | 1u << AQ_RLE_DICTIONARY;
    aq_writer_options o = {.no_sync = true, .dictionary_limit_bytes = 4000};
    aq_encoding page;
    aq_chunk_info info;
    for (int i = 0; i < 100000; i++)
        values[i] = i % 1000;
    /* 1000 entries of 4 bytes: just within the limit, then just not. */
    info = write_ints(values, 100000, AQ_RLE_DICTIONARY, &o, &page);
    cr_assert(info.encodings == both && page == AQ_RLE_DICTIONARY);
    cr_assert(info.dictionary_page_offset == 4 && info.start_offset == 4);
    cr_assert_lt(info.compressed_bytes, 100000 * 10 / 8 + 4000 + 1000);
    o.dictionary_limit_bytes = 3999;
    info = write_ints(values, 100000, AQ_RLE_DICTIONARY, &o, &page);
    cr_assert(info.encodings == plain && page == AQ_PLAIN);
    cr_assert_eq(info.dictionary_page_offset, -1);
    /* All different: the dictionary would be as large as the values. */
    o.dictionary_limit_bytes = 0;
    info = write_ints(values, 1000, AQ_RLE_DICTIONARY, &o, &page);
    cr_assert(info.encodings == plain && page == AQ_PLAIN);
    /* The default limit of 1 MiB. */
    info = write_ints(values, 0, AQ_RLE_DICTIONARY, NULL, &page);
    cr_assert(info.encodings == plain && page == AQ_PLAIN);
}

/* The hash of 4 bytes, as one knows it who has read the source. */
static uint32_t hash_of(int32_t value) {
    const uint64_t odd = 0x9e3779b97f4a7c15u;
    uint64_t h = (5 * odd ^ (uint32_t)value) * odd;
    return (uint32_t)((h ^ h >> 32) * odd >> 32);
}

/* Values that were chosen to have one hash do not make a writer slow: no dictionary. */
Test(encodings, dictionary_of_values_with_one_hash) {
    enum { ENTRIES = 700, REPEATS = 20 };
    static int32_t values[ENTRIES * REPEATS];
    aq_encoding page;
    int32_t value = 0;
    for (size_t i = 0; i < ENTRIES; i++, value++) {
        while (hash_of(value) % 4096 != 0)
            value++;
        for (size_t k = 0; k < REPEATS; k++)
            values[i + k * ENTRIES] = value;
    }
    write_ints(values, ENTRIES * REPEATS, AQ_RLE_DICTIONARY, NULL, &page);
    cr_expect_eq(page, AQ_PLAIN);
    for (size_t i = 0; i < ENTRIES * REPEATS; i++)
        values[i] = values[i % 400];
    write_ints(values, ENTRIES * REPEATS, AQ_RLE_DICTIONARY, NULL, &page);
    cr_expect_eq(page, AQ_RLE_DICTIONARY);
}

Test(encodings, each_is_named) {
    static int32_t values[1000];
    static const aq_encoding encodings[] = {AQ_PLAIN, AQ_RLE_DICTIONARY,
                                            AQ_DELTA_BINARY_PACKED, AQ_BYTE_STREAM_SPLIT};
    for (size_t i = 0; i < COUNT_OF(encodings); i++) {
        aq_encoding page;
        aq_chunk_info info = write_ints(values, 1000, encodings[i], NULL, &page);
        uint32_t also = encodings[i] == AQ_RLE_DICTIONARY ? 1u << AQ_PLAIN : 0;
        cr_assert_eq(info.encodings, 1u << encodings[i] | also);
        cr_assert_eq(page, encodings[i]);
    }
}

/* ---- every allocation can fail ---- */

Test(encodings, every_allocation_fails) {
    counting_allocator c;
    size_t k = 0, step = 1;
    aq_status status;
    do {
        aq_writer_options o = {.no_sync = true, .page_bytes = 300, .page_index = true};
        counting_init(&c);
        c.fail_at = k += step;
        o.allocator = &c.hooks;
        status = write_file(AQ_ZSTD, FEW_DISTINCT, &o);
        cr_assert(status == AQ_OK || status == AQ_E_NOMEM, "call %zu: %s", k,
                  err.message);
        cr_assert(counting_is_clean(&c), "call %zu", k);
        cr_assert_eq(temp_dir_entries(here.path), status == AQ_OK);
    } while (status != AQ_OK);
    cr_assert_gt(k, 50);
}

/* ---- sorting columns ---- */

Test(encodings, sorting_columns_are_checked) {
    const aq_field_spec field = {.name = "v", .type = AQ_INT32};
    const aq_sorting_column good = {0, true, false},
                            bad[] = {{1, false, false}, {-1, false, false}};
    aq_writer_options o = {.sorting_columns = &good, .num_sorting_columns = 1};
    aq_writer *w;
    ASSERT_OK(aq_writer_open(in_dir("f"), &field, 1, &o, &w, &err));
    aq_writer_abort(w);
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        o.sorting_columns = &bad[i];
        ASSERT_STATUS(aq_writer_open(in_dir("f"), &field, 1, &o, &w, &err), AQ_E_ARG);
        ASSERT_MESSAGE("sorting column", "the schema has 1");
    }
    o.sorting_columns = NULL;
    ASSERT_STATUS(aq_writer_open(in_dir("f"), &field, 1, &o, &w, &err), AQ_E_ARG);
}
