/* roundtrip.c - the input is a recipe: schema, encodings, codecs, page sizes, levels and
 * values of a file. It is written, read back in every way, and must be what was written,
 * bit for bit; so must its metadata and its page index. */
#include "chunks.h"

#define FUZZ_MAX_COLUMNS 4
#define FUZZ_MAX_FIELDS (FUZZ_MAX_COLUMNS * 5)
#define FUZZ_MAX_GROUPS 3

/* xorshift64*; a recipe gives its seed. */
static uint64_t fuzz_random(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1du;
}

/* ---- schema ---- */

typedef struct fuzz_schema {
    aq_field_spec fields[FUZZ_MAX_FIELDS];
    size_t num_fields, num_columns;
    size_t leaf[FUZZ_MAX_COLUMNS]; /* its field */
    uint8_t max_def[FUZZ_MAX_COLUMNS], max_rep[FUZZ_MAX_COLUMNS];
    uint8_t rep_def[FUZZ_MAX_COLUMNS][6]; /* of a repetition level, at least */
    bool wild; /* encodings and logical types as the recipe says, right or wrong */
} fuzz_schema;

/* Of column chunks. */
static const aq_key_value fuzz_pairs[] = {{"a", "", 0}, {"", "b\n", 2}, {"c", NULL, 0}};

/* Repetitions from the top down to the leaf. */
static const char *const fuzz_shapes[] = {"q", "o",    "orq", "oro",
                                          "r", "oooo", "qqo", "ororo"};

static const aq_encoding fuzz_encodings[8][4] = {
    {AQ_PLAIN, AQ_RLE, AQ_RLE, AQ_PLAIN},
    {AQ_PLAIN, AQ_RLE_DICTIONARY, AQ_DELTA_BINARY_PACKED, AQ_BYTE_STREAM_SPLIT},
    {AQ_PLAIN, AQ_RLE_DICTIONARY, AQ_DELTA_BINARY_PACKED, AQ_BYTE_STREAM_SPLIT},
    {AQ_PLAIN, AQ_RLE_DICTIONARY, AQ_PLAIN, AQ_RLE_DICTIONARY},
    {AQ_PLAIN, AQ_RLE_DICTIONARY, AQ_PLAIN, AQ_BYTE_STREAM_SPLIT},
    {AQ_PLAIN, AQ_RLE_DICTIONARY, AQ_PLAIN, AQ_BYTE_STREAM_SPLIT},
    {AQ_PLAIN, AQ_RLE_DICTIONARY, AQ_DELTA_LENGTH_BYTE_ARRAY, AQ_DELTA_BYTE_ARRAY},
    {AQ_PLAIN, AQ_RLE_DICTIONARY, AQ_BYTE_STREAM_SPLIT, AQ_DELTA_BYTE_ARRAY},
};

static aq_codec fuzz_codec(fuzz_input *in) {
    static const aq_codec codecs[] = {AQ_UNCOMPRESSED, AQ_SNAPPY, AQ_GZIP,   AQ_BROTLI,
                                      AQ_LZ4,          AQ_ZSTD,   AQ_LZ4_RAW};
    aq_codec codec = codecs[fuzz_below(in, AQI_COUNT(codecs))];
    return aqi_codec_available((int32_t)codec) ? codec : AQ_UNCOMPRESSED;
}

/* A logical type that goes with the leaf, or none. */
static void fuzz_logical(aq_field_spec *f, uint32_t choice) {
    bool wide = f->type == AQ_INT64;
    f->utc = (choice & 8) != 0;
    f->is_signed = (choice & 8) != 0;
    if (f->type == AQ_BYTE_ARRAY && choice % 4 == 1) f->logical = AQ_LOGICAL_STRING;
    if (f->type == AQ_BYTE_ARRAY && choice % 4 == 2) f->logical = AQ_LOGICAL_JSON;
    if ((f->type == AQ_BYTE_ARRAY || f->type == AQ_FIXED_LEN_BYTE_ARRAY) &&
        choice % 8 == 3) {
        f->logical = AQ_LOGICAL_DECIMAL;
        f->precision = 2;
        f->scale = 1;
        return;
    }
    if (f->type == AQ_FIXED_LEN_BYTE_ARRAY && choice % 2 == 1) {
        if (f->type_length == 2) f->logical = AQ_LOGICAL_FLOAT16;
        if (f->type_length == 12) f->logical = AQ_LOGICAL_INTERVAL;
        if (f->type_length == 16) f->logical = AQ_LOGICAL_UUID;
    }
    if (f->type != AQ_INT32 && !wide) return;
    if (choice % 4 == 1) {
        f->logical = AQ_LOGICAL_INTEGER;
        f->bit_width = wide ? 64 : 8 << choice / 16 % 3;
    } else if (choice % 4 == 2) {
        f->logical = AQ_LOGICAL_DECIMAL;
        f->precision = 1 + (int32_t)(choice / 16 % 9);
        f->scale = (int32_t)(choice / 8 % 2);
    } else if (choice % 4 == 3) {
        f->logical = wide ? AQ_LOGICAL_TIMESTAMP : AQ_LOGICAL_DATE;
        f->unit_nanos = choice / 16 % 3 == 0 ? 1 : choice / 16 % 3 == 1 ? 1000 : 1000000;
    }
}

static void fuzz_add_column(fuzz_schema *s, fuzz_input *in) {
    const char *shape = fuzz_shapes[fuzz_below(in, AQI_COUNT(fuzz_shapes))];
    static const char *const names[] = {"a", "list", "element", "key.value", "\xc3\xa9"};
    size_t c = s->num_columns++, i, depth = strlen(shape);
    aq_field_spec *f = NULL;
    uint32_t choice;
    s->max_def[c] = s->max_rep[c] = 0;
    for (i = 0; i < depth; i++) {
        f = &s->fields[s->num_fields++];
        memset(f, 0, sizeof *f);
        f->name = i == 0 ? &"abcd"[c] : names[i];
        f->repetition = shape[i] == 'q'   ? AQ_REQUIRED
                        : shape[i] == 'o' ? AQ_OPTIONAL
                                          : AQ_REPEATED;
        s->max_def[c] = (uint8_t)(s->max_def[c] + (shape[i] != 'q'));
        s->max_rep[c] = (uint8_t)(s->max_rep[c] + (shape[i] == 'r'));
        if (shape[i] == 'r') s->rep_def[c][s->max_rep[c]] = s->max_def[c];
        f->type = AQ_GROUP;
        f->num_children = 1;
        if (i == 0 && depth == 3) f->logical = AQ_LOGICAL_LIST;
    }
    s->leaf[c] = s->num_fields - 1;
    f->logical = AQ_LOGICAL_NONE;
    f->num_children = 0;
    f->type = (aq_physical_type)fuzz_below(in, 8);
    if (f->type == AQ_FIXED_LEN_BYTE_ARRAY) {
        f->type_length = 1 + (int32_t)fuzz_below(in, 20);
        if (f->type_length == 20)
            f->type_length = 200; /* for chunks that are not small */
    }
    f->codec = fuzz_codec(in);
    f->encoding = fuzz_encodings[f->type][fuzz_below(in, 4)];
    choice = fuzz_byte(in);
    f->write_statistics = (choice & 1) != 0;
    f->align_values = (choice & 2) != 0;
    f->field_id = (int32_t)(choice >> 2);
    f->key_values = fuzz_pairs;
    f->num_key_values = (int32_t)(choice >> 6);
    fuzz_logical(f, fuzz_byte(in));
    if (!s->wild) return;
    f->encoding = (aq_encoding)fuzz_below(in, 12);
    f->logical = (aq_logical_type)fuzz_below(in, 18);
    if (f->logical == AQ_LOGICAL_UNKNOWN && f->repetition != AQ_REQUIRED)
        f->logical = AQ_LOGICAL_NONE; /* there will be values */
    f->precision = (int32_t)fuzz_byte(in) - 100;
    f->scale = (int32_t)fuzz_byte(in) - 100;
    f->bit_width = (int32_t)fuzz_byte(in) - 100;
}

/* ---- values ---- */

typedef struct fuzz_column {
    aq_column_values v;
    uint8_t *values, *def, *rep, *pool;
} fuzz_column;

static void fuzz_column_free(fuzz_column *c) {
    free(c->values);
    free(c->def);
    free(c->rep);
    free(c->pool);
    memset(c, 0, sizeof *c);
}

/* Levels of `rows` rows: of style 0 every value is there; else nulls are random, or come
 * in runs. A few styles make long lists, which the reader gives spans of their own. */
static void fuzz_make_levels(fuzz_column *c, const fuzz_schema *s, size_t column,
                             size_t rows, uint32_t style, uint64_t *seed) {
    const uint8_t max_def = s->max_def[column], max_rep = s->max_rep[column];
    const uint8_t *rep_def = s->rep_def[column];
    bool long_lists = style % 16 >= 12 && rows <= 6;
    size_t most = max_rep == 0 ? 1 : long_lists ? 3000 : 6, row, k, n = 0;
    int64_t present = 0;
    c->def = (uint8_t *)malloc(rows * most + 1);
    c->rep = (uint8_t *)malloc(rows * most + 1);
    FUZZ_CHECK(c->def != NULL && c->rep != NULL);
    for (row = 0; row < rows; row++) {
        uint64_t r = fuzz_random(seed);
        size_t count = max_rep == 0 ? 1 : style % 4 == 3 ? most : 1 + (r >> 8) % most;
        for (k = 0; k < count; k++, n++) {
            uint64_t q = fuzz_random(seed) >> 20;
            c->rep[n] = k == 0 ? 0 : (uint8_t)(1 + q % max_rep);
            c->def[n] = max_def;
            if (max_def > 0 && (style % 4 == 1 || (style % 4 == 2 && row / 20 % 2 == 0)))
                c->def[n] = (uint8_t)((q >> 10) % (max_def + 1u));
            if (max_def > 0 && style % 8 == 6) c->def[n] = (uint8_t)(style / 8 % max_def);
            /* Only a list that has an element goes on. */
            while (k > 0 && c->rep[n] > 0 && c->def[n - 1] < rep_def[c->rep[n]])
                c->rep[n]--;
            if (k > 0 && c->rep[n] == 0) break;
            c->def[n] = AQI_MAX(c->def[n], k > 0 ? rep_def[c->rep[n]] : (uint8_t)0);
            present += c->def[n] == max_def;
        }
    }
    c->v.num_levels = max_def > 0 || max_rep > 0 ? (int64_t)n : 0;
    c->v.num_values = present;
    c->v.def_levels = max_def > 0 ? c->def : NULL;
    c->v.rep_levels = max_rep > 0 ? c->rep : NULL;
}

/* One number as the style has it; its low bytes become a value. */
static uint64_t fuzz_number(uint32_t style, size_t i, uint64_t *seed, fuzz_input *in) {
    static const uint64_t extremes[] = {0,
                                        UINT64_MAX,
                                        (uint64_t)1 << 63,
                                        ((uint64_t)1 << 63) - 1,
                                        (uint64_t)1 << 31,
                                        0x7fffffff,
                                        0x7fc00000,
                                        0xff800000,
                                        0x7ff8000000000000u,
                                        0x80000000u};
    switch (style % 7) {
    case 0:
        return 0;
    case 1:
        return fuzz_random(seed) >> 61;
    case 2:
        return i * (1 + style / 7);
    case 3:
        return fuzz_random(seed);
    case 4:
        return fuzz_byte(in);
    case 5:
        return extremes[(fuzz_random(seed) >> 32) % AQI_COUNT(extremes)];
    default:
        return fuzz_random(seed) >> (fuzz_random(seed) >> 58);
    }
}

static void fuzz_make_fixed(fuzz_column *c, const aq_field_spec *f, size_t width,
                            uint32_t style, uint64_t *seed, fuzz_input *in) {
    size_t n = (size_t)c->v.num_values, i, k;
    for (i = 0; i < n; i++) {
        uint64_t number = fuzz_number(style, i, seed, in);
        for (k = 0; k < width; k++)
            c->values[i * width + k] = (uint8_t)(number >> 8 * (k % 8));
        if (f->type == AQ_BOOLEAN) c->values[i] &= 1;
    }
}

/* Byte arrays: a common beginning, a number, and a tail of some length. */
static void fuzz_make_bytes(fuzz_column *c, uint32_t style, uint64_t *seed,
                            fuzz_input *in) {
    aq_bytes *out = (aq_bytes *)(void *)c->values;
    size_t n = (size_t)c->v.num_values, i, k;
    uint8_t *at;
    c->pool = (uint8_t *)malloc(n * 128 + 1);
    FUZZ_CHECK(c->pool != NULL);
    for (i = 0, at = c->pool; i < n; i++) {
        uint64_t number = fuzz_number(style, i, seed, in);
        size_t head = style / 7 % 4 * 9, tail = number % (style / 28 % 3 == 0 ? 7 : 90);
        out[i].data = at;
        for (k = 0; k < head; k++)
            *at++ = (uint8_t)("abcdefgh"[k % 8]);
        for (k = 0; k < tail; k++)
            *at++ = (uint8_t)(number >> 8 * (k % 8));
        out[i].size = head + tail;
    }
}

static void fuzz_make_column(fuzz_column *c, const fuzz_schema *s, size_t column,
                             size_t rows, fuzz_input *in) {
    const aq_field_spec *f = &s->fields[s->leaf[column]];
    size_t width = aqi_value_bytes(f->type, f->type_length);
    uint32_t levels = fuzz_byte(in), style = fuzz_byte(in);
    uint64_t seed = 1 + fuzz_u16(in);
    memset(c, 0, sizeof *c);
    fuzz_make_levels(c, s, column, rows, levels, &seed);
    c->values = (uint8_t *)malloc((size_t)c->v.num_values * width + 1);
    FUZZ_CHECK(c->values != NULL);
    c->v.values = c->values;
    if (f->type == AQ_BYTE_ARRAY) {
        fuzz_make_bytes(c, style, &seed, in);
    } else {
        fuzz_make_fixed(c, f, width, style, &seed, in);
    }
}

/* ---- compare ---- */

static void fuzz_same_values(const aq_field *f, const aq_column_values *v,
                             const aq_span *s) {
    const aq_bytes *a = (const aq_bytes *)v->values, *b = (const aq_bytes *)s->values;
    int64_t i;
    FUZZ_CHECK(s->num_values == v->num_values);
    if (f->type != AQ_BYTE_ARRAY) {
        FUZZ_CHECK(s->num_values == 0 ||
                   memcmp(s->values, v->values,
                          (size_t)s->num_values * aq_field_value_bytes(f)) == 0);
        return;
    }
    for (i = 0; i < s->num_values; i++) {
        FUZZ_CHECK(a[i].size == b[i].size);
        FUZZ_CHECK(a[i].size == 0 || memcmp(a[i].data, b[i].data, a[i].size) == 0);
    }
}

static void fuzz_same_levels(const aq_field *f, const aq_column_values *v,
                             const aq_span *s) {
    int64_t n = f->max_def > 0 || f->max_rep > 0 ? v->num_levels : v->num_values, i;
    FUZZ_CHECK(s->num_levels == n);
    for (i = 0; i < n; i++) {
        uint8_t list = s->single_list && i > 0 ? f->max_rep : 0;
        uint8_t rep = s->rep_levels != NULL ? s->rep_levels[i] : list;
        uint8_t def = s->def_levels != NULL ? s->def_levels[i] : f->max_def;
        FUZZ_CHECK(def == (v->def_levels == NULL ? f->max_def : v->def_levels[i]));
        FUZZ_CHECK(rep == (v->rep_levels == NULL ? 0 : v->rep_levels[i]));
    }
}

/* Statistics of integers: the least and the greatest that were written. */
static void fuzz_same_statistics(const aq_field *f, const aq_field_spec *spec,
                                 const aq_column_values *v, const aq_chunk_info *chunk) {
    size_t width = aq_field_value_bytes(f), n = (size_t)v->num_values, i;
    bool is_unsigned = f->logical == AQ_LOGICAL_INTEGER && !f->is_signed;
    uint64_t sign = width == 4 ? 0x80000000u : (uint64_t)1 << 63;
    uint64_t flip = is_unsigned ? 0 : sign;
    uint64_t least = UINT64_MAX, most = 0;
    if (!spec->write_statistics) {
        FUZZ_CHECK(chunk->null_count == -1 && chunk->min_value.data == NULL);
        return;
    }
    FUZZ_CHECK(chunk->null_count ==
               (v->num_levels > 0 ? v->num_levels - v->num_values : 0));
    if ((f->type != AQ_INT32 && f->type != AQ_INT64) || n == 0) return;
    for (i = 0; i < n; i++) {
        uint64_t key = aqi_int_bits(v->values, i, width) ^ flip;
        least = AQI_MIN(least, key);
        most = AQI_MAX(most, key);
    }
    FUZZ_CHECK(chunk->min_value.size == width && chunk->max_value.size == width);
    FUZZ_CHECK((aqi_int_bits(chunk->min_value.data, 0, width) ^ flip) == least);
    FUZZ_CHECK((aqi_int_bits(chunk->max_value.data, 0, width) ^ flip) == most);
}

/* The OffsetIndex of a chunk says where its data pages are. */
static void fuzz_same_offsets(const aq_parquet *file, int32_t group, int32_t column) {
    aqi_column_chunk chunk;
    aqi_page_location at;
    aqi_thrift_reader r;
    aqi_offset_index index;
    aq_column *pages, *spans;
    aq_page_info page;
    aq_span span;
    aq_error err;
    int64_t rows = 0;
    uint32_t i;
    aqi_chunk_at(file, group, column, &chunk);
    r.in = aqi_cursor_make(file->source.map + chunk.offset_index_offset,
                           (size_t)chunk.offset_index_length, 0);
    r.err = &err;
    FUZZ_CHECK_ERR(aqi_thrift_read(&r, &aqi_offset_index_type, &index) == AQ_OK, &err);
    FUZZ_CHECK(aqi_remaining(&r.in) == 0);
    r.in.p = (const uint8_t *)index.page_locations.items;
    FUZZ_CHECK(aq_column_open(file, group, column, &pages, &err) == AQ_OK);
    FUZZ_CHECK(aq_column_open(file, group, column, &spans, &err) == AQ_OK);
    for (i = 0; i < index.page_locations.count; i++) {
        FUZZ_CHECK(aqi_thrift_read(&r, &aqi_page_location_type, &at) == AQ_OK);
        /* A chunk without values has one empty page, which a reader does not come to. */
        if (chunk.meta_data.num_values == 0) continue;
        do {
            FUZZ_CHECK_ERR(aq_column_next_page(pages, &page, &err) == AQ_OK, &err);
        } while (page.header_bytes > 0 && page.type == AQI_PAGE_DICTIONARY);
        FUZZ_CHECK(at.offset == page.header_offset);
        FUZZ_CHECK(at.compressed_page_size == page.header_bytes + page.compressed_bytes);
        /* A page is one span, or one for each of its lists. */
        for (; rows < at.first_row_index; rows += span.num_rows) {
            FUZZ_CHECK_ERR(aq_column_next(spans, &span, &err) == AQ_OK, &err);
            FUZZ_CHECK(span.values != NULL);
        }
        FUZZ_CHECK(at.first_row_index == rows);
    }
    FUZZ_CHECK(aq_column_next_page(pages, &page, &err) == AQ_OK);
    FUZZ_CHECK(page.header_bytes == 0);
    aq_column_close(pages);
    aq_column_close(spans);
}

/* What is checked of a chunk beside its values. */
static void fuzz_same_chunk(const aq_parquet *file, int32_t group, int32_t column,
                            const aq_field_spec *spec, const aq_column_values *v,
                            const aq_writer_options *o) {
    const aq_field *f = aq_parquet_column_field(file, column);
    aq_chunk_info chunk;
    aq_key_value pair;
    aq_column *c;
    aq_span span;
    aq_error err;
    fuzz_sum sum;
    int32_t i;
    size_t align = o->value_alignment == 0 ? AQ_ALIGNMENT : o->value_alignment;
    FUZZ_CHECK(aq_parquet_get_chunk(file, group, column, &chunk, &err) == AQ_OK);
    FUZZ_CHECK(chunk.codec == spec->codec);
    FUZZ_CHECK(chunk.num_key_values == spec->num_key_values);
    for (i = 0; i < spec->num_key_values; i++) {
        FUZZ_CHECK(aq_parquet_chunk_key_value(file, group, column, i, &pair));
        FUZZ_CHECK(strcmp(pair.key, fuzz_pairs[i].key) == 0);
        FUZZ_CHECK((pair.value == NULL) == (fuzz_pairs[i].value == NULL));
        FUZZ_CHECK(pair.value == NULL || strcmp(pair.value, fuzz_pairs[i].value) == 0);
    }
    fuzz_same_statistics(f, spec, v, &chunk);
    FUZZ_CHECK(aq_column_open(file, group, column, &c, &err) == AQ_OK);
    FUZZ_CHECK_ERR(aq_column_view(c, &span, &err) == AQ_OK, &err);
    fuzz_same_levels(f, v, &span);
    fuzz_same_values(f, v, &span);
    aq_column_close(c);
    sum = fuzz_read_chunk_all(file, group, column);
    FUZZ_CHECK(sum.status == AQ_OK && sum.num_values == v->num_values);
    if (o->page_index) fuzz_same_offsets(file, group, column);
    if (!spec->align_values || spec->codec != AQ_UNCOMPRESSED ||
        spec->encoding != AQ_PLAIN || spec->type == AQ_BOOLEAN)
        return;
    FUZZ_CHECK(aq_column_open(file, group, column, &c, &err) == AQ_OK);
    FUZZ_CHECK(aq_column_next(c, &span, &err) == AQ_OK);
    FUZZ_CHECK(span.num_values == 0 ||
               (span.mapped && span.file_offset % (int64_t)align == 0));
    aq_column_close(c);
}

static void fuzz_same_schema(const aq_parquet *file, const fuzz_schema *s) {
    size_t i;
    for (i = 0; i < s->num_fields; i++) {
        const aq_field *f = aq_parquet_field(file, (int32_t)i + 1);
        const aq_field_spec *spec = &s->fields[i];
        FUZZ_CHECK(strcmp(f->name, spec->name) == 0 && f->type == spec->type);
        FUZZ_CHECK(f->repetition == spec->repetition);
        FUZZ_CHECK(f->type_length == spec->type_length && f->logical == spec->logical);
        FUZZ_CHECK(f->field_id == (spec->field_id == 0 ? -1 : spec->field_id));
        if (f->logical == AQ_LOGICAL_INTEGER)
            FUZZ_CHECK(f->bit_width == spec->bit_width &&
                       f->is_signed == spec->is_signed);
        if (f->logical == AQ_LOGICAL_DECIMAL)
            FUZZ_CHECK(f->precision == spec->precision && f->scale == spec->scale);
        if (f->logical == AQ_LOGICAL_TIMESTAMP)
            FUZZ_CHECK(f->unit_nanos == spec->unit_nanos && f->utc == spec->utc);
    }
}

/* ---- one file ---- */

typedef struct fuzz_trip {
    fuzz_schema schema;
    aq_writer_options options;
    aq_sorting_column sorting;
    fuzz_column columns[FUZZ_MAX_GROUPS][FUZZ_MAX_COLUMNS];
    size_t rows[FUZZ_MAX_GROUPS], num_groups;
    char value[32];
} fuzz_trip;

static void fuzz_trip_options(fuzz_trip *t, fuzz_input *in) {
    static const size_t pages[] = {0, 0, 1, 7, 64, 500, 4096, 100};
    static const size_t limits[] = {0, 16, 300, 5000};
    static const size_t aligns[] = {0, 1, 2, 8, 64, 4096};
    aq_writer_options *o = &t->options;
    uint32_t flags = fuzz_byte(in);
    t->schema.wild = (flags & 7) == 7;
    o->data_page_v2 = (flags & 16) != 0;
    o->page_index = (flags & 32) != 0;
    o->skip_checksums = (flags & 64) != 0;
    o->no_sync = true;
    o->page_bytes = pages[fuzz_below(in, AQI_COUNT(pages))];
    o->dictionary_limit_bytes = limits[fuzz_below(in, AQI_COUNT(limits))];
    o->value_alignment = aligns[fuzz_below(in, AQI_COUNT(aligns))];
    o->compression_level = (flags & 128) != 0 ? 3 : 0;
    o->sorting_columns = &t->sorting;
    o->num_sorting_columns = (flags & 8) != 0;
}

/* Rows of a group, few where each may be a page. */
static size_t fuzz_rows(const aq_writer_options *o, uint32_t choice) {
    if (o->page_bytes > 0 && o->page_bytes < 64) return choice % 20;
    if (o->page_bytes > 0) return choice % 60;
    return choice > 250 ? choice * 8 : choice % 50;
}

/* Levels and values of all row groups. */
static void fuzz_trip_fill(fuzz_trip *t, fuzz_input *in) {
    size_t g, c;
    for (g = 0; g < t->num_groups; g++) {
        t->rows[g] = fuzz_rows(&t->options, fuzz_byte(in));
        for (c = 0; c < t->schema.num_columns; c++)
            fuzz_make_column(&t->columns[g][c], &t->schema, c, t->rows[g], in);
    }
    snprintf(t->value, sizeof t->value, "%zu bytes", in->size);
}

static void fuzz_trip_free(fuzz_trip *t) {
    size_t g, c;
    for (g = 0; g < FUZZ_MAX_GROUPS; g++) {
        for (c = 0; c < FUZZ_MAX_COLUMNS; c++)
            fuzz_column_free(&t->columns[g][c]);
    }
}

/* The columns of a row group, one by one or at once. */
static aq_status fuzz_trip_put(const fuzz_trip *t, size_t g, bool at_once, aq_writer *w,
                               aq_error *err) {
    aq_column_values all[FUZZ_MAX_COLUMNS];
    aq_status status = AQ_OK;
    size_t c, n = t->schema.num_columns;
    for (c = 0; c < n; c++)
        all[c] = t->columns[g][c].v;
    if (at_once) return aq_writer_put_columns(w, all, n, err);
    for (c = 0; c < n && status == AQ_OK; c++)
        status = aq_writer_put_column(w, &all[c], err);
    return status;
}

/* Writes the file; false when the recipe was refused, with the reason. */
static bool fuzz_trip_write(fuzz_trip *t, const char *path, bool with_tasks,
                            const fuzz_memory *memory) {
    static const aq_tasks backwards = {fuzz_run_backwards, NULL, 3};
    const fuzz_schema *s = &t->schema;
    aq_writer *w;
    aq_error err;
    aq_status status;
    size_t g;
    t->options.allocator = &memory->hooks;
    t->options.tasks = with_tasks ? &backwards : NULL;
    status = fuzz_status(
        aq_writer_open(path, s->fields, s->num_fields, &t->options, &w, &err), &err);
    FUZZ_CHECK_ERR(status == AQ_OK || (s->wild && status == AQ_E_ARG), &err);
    if (status != AQ_OK) return false;
    for (g = 0; g < t->num_groups; g++) {
        FUZZ_CHECK_ERR(fuzz_trip_put(t, g, with_tasks, w, &err) == AQ_OK, &err);
        status = aq_writer_end_row_group(w, (int64_t)t->rows[g], &err);
        FUZZ_CHECK_ERR(status == AQ_OK, &err);
    }
    FUZZ_CHECK(aq_writer_add_key_value(w, "left", t->value, &err) == AQ_OK);
    FUZZ_CHECK_ERR(aq_writer_finish(w, &err) == AQ_OK, &err);
    return true;
}

static void fuzz_trip_read(const fuzz_trip *t, const char *path,
                           const fuzz_memory *memory) {
    const fuzz_schema *s = &t->schema;
    aq_parquet_options o = fuzz_parquet_options(memory);
    aq_parquet_info info;
    aq_parquet *file;
    aq_error err;
    int64_t rows = 0;
    size_t g, c;
    o.io = AQ_IO_MAP;
    o.max_page_bytes = 0; /* the file is our own */
    o.max_column_bytes = 0;
    FUZZ_CHECK_ERR(aq_parquet_open(path, &o, &file, &err) == AQ_OK, &err);
    fuzz_walk_metadata(file, &info);
    fuzz_same_schema(file, s);
    FUZZ_CHECK((size_t)info.num_row_groups == t->num_groups);
    FUZZ_CHECK(strcmp(aq_parquet_find_key(file, "left"), t->value) == 0);
    for (g = 0; g < t->num_groups; g++) {
        rows += (int64_t)t->rows[g];
        for (c = 0; c < s->num_columns; c++)
            fuzz_same_chunk(file, (int32_t)g, (int32_t)c, &s->fields[s->leaf[c]],
                            &t->columns[g][c].v, &t->options);
    }
    FUZZ_CHECK(info.num_rows == rows);
    aq_parquet_close(file);
}

/* With tasks, all columns at once, on the reference kernels, the bytes are the same. */
static void fuzz_trip_again(fuzz_trip *t, const char *path, const fuzz_memory *memory) {
    fuzz_whole first = fuzz_file_read(path), second;
    FUZZ_CHECK(aq_isa_force(AQ_ISA_REF) == AQ_OK);
    FUZZ_CHECK(fuzz_trip_write(t, path, true, memory));
    FUZZ_CHECK(aq_isa_force(AQ_ISA_AUTO) == AQ_OK);
    second = fuzz_file_read(path);
    FUZZ_CHECK(first.size == second.size &&
               memcmp(first.data, second.data, first.size) == 0);
    free(first.data);
    free(second.data);
}

static void fuzz_roundtrip(const uint8_t *data, size_t size) {
    fuzz_input in = {data, size};
    const char *path = fuzz_path();
    fuzz_memory memory;
    fuzz_trip t;
    uint32_t choice;
    size_t n;
    memset(&t, 0, sizeof t);
    fuzz_memory_init(&memory, SIZE_MAX, (size_t)200 << 20);
    fuzz_result = AQ_OK;
    fuzz_work = 0;
    fuzz_trip_options(&t, &in);
    choice = fuzz_byte(&in);
    n = 1 + choice % FUZZ_MAX_COLUMNS;
    while (t.schema.num_columns < n)
        fuzz_add_column(&t.schema, &in);
    t.num_groups = fuzz_below(&in, FUZZ_MAX_GROUPS + 1);
    fuzz_trip_fill(&t, &in);
    if (fuzz_trip_write(&t, path, false, &memory)) {
        fuzz_trip_read(&t, path, &memory);
        if (choice >= 128) fuzz_trip_again(&t, path, &memory);
    }
    fuzz_trip_free(&t);
    fuzz_memory_check(&memory);
}
