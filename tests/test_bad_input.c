/* test_bad_input.c - files that are cut off, damaged or made to harm: a status and a
 * message that helps, no crash, no leak, bounded memory and time. */
#define AQ_STATIC
#define ARROWQUANT_IMPLEMENTATION
#include "craft.h"

#include <time.h>

/* Thousands of files are written: in memory where the system has such a directory. */
static void enter_fast_dir(void) {
    if (access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 1);
    enter_temp_dir();
}

TestSuite(bad_input, .init = enter_fast_dir, .fini = leave_temp_dir, .timeout = 120);

#define MEMORY_LIMIT ((size_t)80 << 20) /* above the file's own size */

/* ---- reading all there is ---- */

/* The first failure of a reading, with its error. */
typedef struct first_failure {
    aq_status status;
    aq_error error;
} first_failure;

static void note(first_failure *first, aq_status status) {
    if (status == AQ_OK || first->status != AQ_OK) return;
    first->status = status;
    first->error = err;
}

static aq_status failed_first(const first_failure *first) {
    if (first->status != AQ_OK) err = first->error;
    return first->status;
}

static volatile unsigned touched;

/* Reads what a span hands out: AddressSanitizer sees what is not the file's. */
static void touch(const aq_span *s, const aq_field *field) {
    size_t width = aqi_value_bytes(field->type, field->type_length);
    const aq_bytes *b = s->values;
    unsigned sum = 0;
    for (int64_t i = 0; i < s->num_levels; i += 1 + s->num_levels / 1000) {
        if (s->def_levels != NULL) sum += s->def_levels[i];
        if (s->rep_levels != NULL) sum += s->rep_levels[i];
    }
    for (int64_t i = 0; i < s->num_values && i < 1000; i++) {
        const uint8_t *p = (const uint8_t *)s->values + (size_t)i * width;
        size_t n = width;
        if (field->type == AQ_BYTE_ARRAY) p = b[i].data;
        if (field->type == AQ_BYTE_ARRAY) n = b[i].size;
        while (n > 0)
            sum += p[--n];
    }
    touched += sum;
}

/* One chunk as a view, verified, and page by page without its values. */
static void read_chunk(const aq_parquet *f, int32_t g, int32_t c, first_failure *first) {
    for (int way = 0; way < 3; way++) {
        aq_column *col = NULL;
        aq_page_info page;
        aq_span span;
        aq_status status = aq_column_open(f, g, c, &col, &err);
        if (status == AQ_OK && way == 0) status = aq_column_view(col, &span, &err);
        if (status == AQ_OK && way == 1) status = aq_column_verify(col, &err);
        note(first, status);
        if (status == AQ_OK && way == 0) touch(&span, aq_parquet_column_field(f, c));
        while (way == 2 && status == AQ_OK) {
            status = aq_column_next_page(col, &page, &err);
            if (page.header_bytes == 0) break;
        }
        aq_column_close(col);
    }
}

/* Footer, every column of every row group, every value: the first failure. */
static aq_status read_parquet(const file *in, const aq_allocator *allocator) {
    aq_parquet_options o = {.allocator = allocator};
    first_failure first = {AQ_OK, {AQ_OK}};
    aq_chunk_info chunk;
    aq_parquet_info info;
    aq_parquet *f;
    aq_status status = aq_parquet_open_memory(in->data, in->size, &o, &f, &err);
    if (status != AQ_OK) return status;
    aq_parquet_get_info(f, &info);
    for (int32_t g = 0; g < info.num_row_groups; g++) {
        for (int32_t c = 0; c < info.num_columns; c++) {
            (void)!aq_parquet_get_chunk(f, g, c, &chunk, NULL);
            read_chunk(f, g, c, &first);
        }
    }
    aq_parquet_close(f);
    return failed_first(&first);
}

/* Every tensor of a model file, and its values as float32. */
static aq_status read_model(const file *in, const aq_allocator *allocator) {
    const char *path = in_dir("model");
    aq_model_options o = {.allocator = allocator, .io = AQ_IO_READ};
    first_failure first = {AQ_OK, {AQ_OK}};
    aq_model *m;
    aq_status status;
    file_write(path, in->data, in->size);
    status = aq_model_open(path, &o, &m, &err);
    if (status != AQ_OK) return status;
    for (size_t i = 0; i < aq_model_count(m); i++) {
        float row[64];
        aq_tensor t;
        status = aq_model_tensor(m, i, &t, &err);
        if (status == AQ_OK && t.layout.rows > 0 && t.layout.cols <= COUNT_OF(row) &&
            (t.layout.bits != 0 || aq_dtype_is_float(t.dtype)))
            status = aq_tensor_rows_f32(&t, t.layout.rows - 1, 1, row, NULL, &err);
        note(&first, status);
        aq_tensor_release(&t);
    }
    aq_model_close(m);
    return failed_first(&first);
}

/* ---- three valid files ---- */

typedef aq_status (*read_function)(const file *in, const aq_allocator *allocator);

static file make_generic(void) {
    static const aq_field_spec fields[] = {
        {.name = "id", .type = AQ_INT32, .codec = AQ_ZSTD, .write_statistics = true},
        {.name = "l",
         .repetition = AQ_OPTIONAL,
         .type = AQ_GROUP,
         .num_children = 1,
         .logical = AQ_LOGICAL_LIST},
        {.name = "list", .repetition = AQ_REPEATED, .type = AQ_GROUP, .num_children = 1},
        {.name = "element",
         .repetition = AQ_OPTIONAL,
         .type = AQ_BYTE_ARRAY,
         .codec = AQ_ZSTD},
        {.name = "o", .repetition = AQ_OPTIONAL, .type = AQ_DOUBLE}};
    static const int32_t id[] = {1, 2, 3};
    static const uint8_t def[] = {3, 2, 0, 3}, rep[] = {0, 1, 0, 0}, o_def[] = {1, 0, 1};
    static const aq_bytes text[] = {{(const uint8_t *)"one", 3},
                                    {(const uint8_t *)"", 0}};
    static const double o[] = {0.25, -1};
    const aq_column_values columns[] = {{id, .num_values = 3},
                                        {text, 2, def, rep, .num_levels = 4},
                                        {o, 2, o_def, .num_levels = 3}};
    aq_writer *w;
    ASSERT_OK(aq_writer_open(in_dir("g"), fields, COUNT_OF(fields), NULL, &w, &err));
    ASSERT_OK(aq_writer_add_key_value(w, "key", "value", &err));
    for (int group = 0; group < 2; group++) {
        for (size_t c = 0; c < COUNT_OF(columns); c++)
            ASSERT_OK(aq_writer_put_column(w, &columns[c], &err));
        ASSERT_OK(aq_writer_end_row_group(w, 3, &err));
    }
    ASSERT_OK(aq_writer_finish(w, &err));
    return file_read(in_dir("g"));
}

/* A matrix and a vector; quantized when `bits` is not 0. */
static file make_tensors(const char *name, uint32_t bits) {
    static float values[3 * 20];
    const uint64_t three = 3;
    aq_job_options o = {.quant = {.bits = bits, .group_size = 8}, .threads = 1};
    aq_tensor t[2];
    rng r = {11};
    rng_floats(&r, values, COUNT_OF(values), 1);
    t[0] = matrix_of("fc.weight", 3, 20, values);
    t[1] = tensor_of("fc.bias", AQ_F16, &three, 1, values);
    ASSERT_OK(aq_model_save(in_dir(name), t, 2, NULL, &err));
    if (bits == 0) return file_read(in_dir(name));
    ASSERT_OK(aq_job_run(in_dir(name), in_dir("q.parquet"), &o, NULL, &err));
    return file_read(in_dir("q.parquet"));
}

static file make_model(void) { return make_tensors("m.parquet", 4); }
static file make_safetensors(void) { return make_tensors("m.safetensors", 0); }

static const struct {
    const char *what;
    file (*make)(void);
    read_function read;
} victims[] = {
    {"generic", make_generic, read_parquet},
    {"model as Parquet", make_model, read_parquet},
    {"model", make_model, read_model},
    {"safetensors", make_safetensors, read_model},
};

/* ---- truncation and mutation ---- */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Reads a bad file and checks what holds for any: returns the status. */
static aq_status survive(const file *bad, read_function read, const char *what,
                         size_t number) {
    counting_allocator c;
    double start = now();
    aq_status status;
    counting_init(&c);
    memset(&err, 0x55, sizeof err);
    status = read(bad, &c.hooks);
    cr_assert(counting_is_clean(&c), "%s %zu: memory was not given back", what, number);
    cr_assert_lt(c.peak_bytes, MEMORY_LIMIT + bad->size, "%s %zu: %zu bytes", what,
                 number, c.peak_bytes);
    cr_assert_lt(now() - start, 5.0, "%s %zu: took too long", what, number);
    if (status != AQ_OK) {
        cr_assert_eq(status, err.status, "%s %zu", what, number);
        EXPECT_HELPFUL(what);
    }
    return status;
}

Test(bad_input, every_truncation_is_refused) {
    for (size_t v = 0; v < COUNT_OF(victims); v++) {
        file whole = victims[v].make();
        ASSERT_OK(survive(&whole, victims[v].read, victims[v].what, whole.size));
        for (size_t size = 0; size < whole.size; size++) {
            file cut = file_make(whole.data, size);
            cr_assert_neq(survive(&cut, victims[v].read, victims[v].what, size), AQ_OK,
                          "%s of %zu bytes was accepted", victims[v].what, size);
            file_free(&cut);
        }
        file_free(&whole);
    }
}

static void damage_each_byte(size_t v) {
    file whole = victims[v].make(), bad = file_make(whole.data, whole.size);
    for (size_t i = 0; i < whole.size; i++) {
        const uint8_t old = whole.data[i];
        const uint8_t values[] = {0x00, 0xff, (uint8_t)(old ^ 0x80)};
        for (size_t k = 0; k < COUNT_OF(values); k++) {
            bad.data[i] = values[k];
            (void)survive(&bad, victims[v].read, victims[v].what, i);
        }
        bad.data[i] = old;
    }
    file_free(&whole);
    file_free(&bad);
}

Test(bad_input, every_byte_of_a_generic_file) { damage_each_byte(0); }
Test(bad_input, every_byte_of_a_model_as_parquet) { damage_each_byte(1); }
Test(bad_input, every_byte_of_a_model) { damage_each_byte(2); }
Test(bad_input, every_byte_of_safetensors) { damage_each_byte(3); }

/* Up to 8 changed bytes, most of them in the metadata; blocks moved within the file. */
Test(bad_input, seeded_mutations) {
    rng r = {20260101};
    for (size_t v = 0; v < COUNT_OF(victims); v++) {
        file whole = victims[v].make();
        size_t begin = v == 3 ? 0 : body_bytes_of(&whole);
        size_t end = v == 3 ? 8 + (size_t)aqi_load_le64(whole.data) : whole.size;
        for (size_t round = 0; round < 2000; round++) {
            file bad = file_make(whole.data, whole.size);
            size_t edits = 1 + rng_below(&r, 8);
            for (size_t i = 0; i < edits; i++) {
                size_t at = begin + rng_below(&r, end - begin);
                if (rng_below(&r, 4) == 0) at = rng_below(&r, whole.size);
                bad.data[at] = rng_below(&r, 3) == 0
                                   ? whole.data[rng_below(&r, whole.size)]
                                   : (uint8_t)rng_next(&r);
            }
            if (rng_below(&r, 8) == 0) {
                size_t bytes = 1 + rng_below(&r, 32);
                memmove(bad.data + rng_below(&r, whole.size - bytes),
                        whole.data + rng_below(&r, whole.size - bytes), bytes);
            }
            (void)survive(&bad, victims[v].read, victims[v].what, round);
            file_free(&bad);
        }
        file_free(&whole);
    }
}

/* ---- Parquet files made to harm ---- */

static void put_u32(file *f, size_t from_end, uint32_t value) {
    aqi_store_le32(f->data + f->size - from_end, value);
}

static void put_text(file *f, size_t at, const char *text) {
    memcpy(f->data + at, text, strlen(text));
}

static void wrong_head(file *f) { put_text(f, 0, "PAR2"); }
static void wrong_tail(file *f) { put_text(f, f->size - 4, "1RAP"); }
static void encrypted(file *f) { put_text(f, f->size - 4, "PARE"); }
static void footer_too_long(file *f) { put_u32(f, 8, (uint32_t)f->size - 11); }
static void footer_of_4_gib(file *f) { put_u32(f, 8, UINT32_MAX); }
static void footer_of_nothing(file *f) { put_u32(f, 8, 0); }
static void footer_of_zeros(file *f) {
    size_t begin = body_bytes_of(f);
    memset(f->data + begin, 0, f->size - 8 - begin);
}
static void only_magic(file *f) { f->size = 4; }
static void nothing(file *f) { f->size = 0; }

static const struct {
    void (*edit)(file *f);
    aq_status wanted;
    const char *message;
} file_cases[] = {
    {wrong_head, AQ_E_FORMAT, "no PAR1 at its start"},
    {wrong_tail, AQ_E_FORMAT, "no PAR1 at the end"},
    {encrypted, AQ_E_UNSUPPORTED, "encrypted"},
    {footer_too_long, AQ_E_FORMAT, "does not fit"},
    {footer_of_4_gib, AQ_E_FORMAT, "4294967295"},
    {footer_of_nothing, AQ_E_FORMAT, "footer of 0 bytes"},
    {footer_of_zeros, AQ_E_FORMAT, "lacks its field"},
    {only_magic, AQ_E_FORMAT, "4 bytes are too few"},
    {nothing, AQ_E_FORMAT, "0 bytes are too few"},
};

Test(bad_input, parquet_files) {
    for (size_t i = 0; i < COUNT_OF(file_cases); i++) {
        file f = make_generic(), exact;
        file_cases[i].edit(&f);
        exact = file_make(f.data, f.size);
        ASSERT_STATUS(survive(&exact, read_parquet, "file", i), file_cases[i].wanted);
        EXPECT_MESSAGE(file_cases[i].message, file_cases[i].message);
        file_free(&exact);
        file_free(&f);
    }
}

/* Changes of the footer of make_generic(), whose column 0 is "id". */
static void other_type(footer *f) { footer_chunk(f, 0, 0)->meta_data.type = AQ_DOUBLE; }
static void negative_values(footer *f) {
    footer_chunk(f, 0, 0)->meta_data.num_values = -1;
}
static void outside(footer *f) {
    footer_chunk(f, 0, 0)->meta_data.data_page_offset = f->parquet->data_end;
}
static void into_the_magic(footer *f) {
    footer_chunk(f, 0, 0)->meta_data.data_page_offset = 3;
}
static void past_the_end(footer *f) {
    footer_chunk(f, 0, 0)->meta_data.total_compressed_size = INT64_MAX;
}
static void no_values_nowhere(footer *f) {
    footer_chunk(f, 0, 0)->meta_data.num_values = 0;
    footer_chunk(f, 0, 0)->meta_data.data_page_offset = INT64_MAX;
}
static void overlapping(footer *f) {
    aqi_column_meta *m = &footer_chunk(f, 0, 1)->meta_data;
    m->data_page_offset -= 1;
    m->total_compressed_size += 1;
}
static void a_column_short(footer *f) { footer_row_group(f, 1)->columns.count--; }
static void negative_rows(footer *f) { footer_row_group(f, 0)->num_rows = -1; }
static void rows_overflow(footer *f) {
    footer_row_group(f, 0)->num_rows = footer_row_group(f, 1)->num_rows = INT64_MAX;
}
static void no_repetition(footer *f) { footer_schema(f, 1)->repetition_type = 3; }
static void no_such_type(footer *f) { footer_schema(f, 1)->type = 8; }
static void type_and_children(footer *f) {
    AQI_SET(footer_schema(f, 1), aqi_schema_element, num_children, 1);
}
static void negative_children(footer *f) { footer_schema(f, 2)->num_children = -1; }
static void too_many_children(footer *f) { footer_schema(f, 0)->num_children = 1000; }
static void too_few_children(footer *f) { footer_schema(f, 0)->num_children = 1; }
static void negative_length(footer *f) {
    footer_schema(f, 1)->type = AQ_FIXED_LEN_BYTE_ARRAY;
    AQI_SET(footer_schema(f, 1), aqi_schema_element, type_length, -1);
}
static void unknown_codec(footer *f) { footer_chunk(f, 0, 0)->meta_data.codec = 99; }
static void encrypted_chunk(footer *f) {
    AQI_MARK(footer_chunk(f, 0, 0), aqi_column_chunk, crypto_metadata);
}
static void chunk_elsewhere(footer *f) {
    aqi_slice path = {(const uint8_t *)"/etc/passwd", 11};
    AQI_SET(footer_chunk(f, 0, 0), aqi_column_chunk, file_path, path);
}

static const struct {
    void (*edit)(footer *f);
    aq_status wanted;
    const char *message;
} footer_cases[] = {
    {other_type, AQ_E_FORMAT, "another type than the schema says (column id"},
    {negative_values, AQ_E_FORMAT, "negative size (column id"},
    {outside, AQ_E_FORMAT, "outside the file (column id"},
    {into_the_magic, AQ_E_FORMAT, "outside the file (column id"},
    {past_the_end, AQ_E_FORMAT, "outside the file (column id"},
    {no_values_nowhere, AQ_E_FORMAT, "rows"},
    {overlapping, AQ_E_FORMAT, "overlaps the one before it (column l.list.element"},
    {a_column_short, AQ_E_FORMAT, "row group 1 has 2 column chunks"},
    {negative_rows, AQ_E_FORMAT, "row group 0"},
    {rows_overflow, AQ_E_FORMAT, "row group 1"},
    {no_repetition, AQ_E_FORMAT, "\"id\""},
    {no_such_type, AQ_E_FORMAT, "\"id\""},
    {type_and_children, AQ_E_FORMAT, "\"id\""},
    {negative_children, AQ_E_FORMAT, "\"l\""},
    {too_many_children, AQ_E_FORMAT, "lacks 997 of its children"},
    {too_few_children, AQ_E_FORMAT, "fields outside the tree"},
    {negative_length, AQ_E_FORMAT, "\"id\""},
    {unknown_codec, AQ_E_UNSUPPORTED, "(99)"},
    {encrypted_chunk, AQ_E_UNSUPPORTED, "encrypted (column id"},
    {chunk_elsewhere, AQ_E_UNSUPPORTED, "in another file (column id"},
};

Test(bad_input, parquet_footers) {
    for (size_t i = 0; i < COUNT_OF(footer_cases); i++) {
        file good = make_generic(), bad;
        footer f = footer_open(&good);
        footer_cases[i].edit(&f);
        bad = footer_close(&f, good.data, body_bytes_of(&good));
        ASSERT_STATUS(survive(&bad, read_parquet, "footer", i), footer_cases[i].wanted);
        EXPECT_MESSAGE(footer_cases[i].message, footer_cases[i].message);
        file_free(&bad);
        file_free(&good);
    }
}

/* Groups in groups, deeper than the reader goes. */
Test(bad_input, deep_schema) {
    enum { DEPTH = 100 };
    aq_field_spec fields[DEPTH];
    aq_writer *w;
    for (size_t i = 0; i < DEPTH; i++) {
        aq_field_spec group = {.name = "g", .type = AQ_GROUP, .num_children = 1};
        fields[i] = group;
    }
    fields[DEPTH - 1].type = AQ_INT32;
    fields[DEPTH - 1].num_children = 0;
    ASSERT_STATUS(aq_writer_open(in_dir("deep"), fields, DEPTH, NULL, &w, &err),
                  AQ_E_LIMIT);
    ASSERT_MESSAGE("deep", "deeper than 64");
    cr_assert_eq(temp_dir_entries(here.path), 0);
}

/* ---- safetensors files made to harm ---- */

/* JSON of an entry of n bytes from `begin`. */
#define F32(begin, end)                                                                  \
    "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[" #begin "," #end "]"
#define T(name, body) "\"" name "\":{" body "}"

typedef struct json_case {
    const char *json;
    size_t data_bytes;
    aq_status wanted;
    const char *message;
} json_case;

/* clang-format off */
static const json_case json_cases[] = {
    {"{" T("t", F32(0, 4)) "}", 4, AQ_OK, ""},
    {"{}", 0, AQ_OK, ""},
    {"{ \"s\" : {\"dtype\":\"I8\",\"shape\":[],\"data_offsets\":[0,1]} }", 1, AQ_OK, ""},
    {"{\"e\":{\"dtype\":\"F64\",\"shape\":[0,7],\"data_offsets\":[0,0]}}", 0, AQ_OK, ""},
    {"{\"__metadata__\":{\"a\":\"1\"}," T("t", F32(0, 4)) "}   ", 4, AQ_OK, ""},
    /* places */
    {"{" T("t", F32(0, 4)) "}", 5, AQ_E_FORMAT, "data ends at offset"},
    {"{" T("t", F32(0, 4)) "}", 3, AQ_E_FORMAT, "tensor \"t\""},
    {"{" T("t", F32(4, 8)) "}", 8, AQ_E_FORMAT, "with a hole"},
    {"{" T("t", F32(0, 4)) "," T("u", F32(2, 6)) "}", 6, AQ_E_FORMAT, "overlapping"},
    {"{" T("t", F32(4, 0)) "}", 4, AQ_E_FORMAT, "tensor \"t\""},
    {"{" T("t", F32(0, 18446744073709551615)) "}", 4, AQ_E_FORMAT, "tensor \"t\""},
    {"{" T("t", F32(0, 18446744073709551616)) "}", 4, AQ_E_FORMAT, "over 64 bits"},
    {"{" T("t", F32(-4, 0)) "}", 4, AQ_E_FORMAT, "no whole number"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, AQ_E_FORMAT,
     "need 8 bytes"},
    /* shapes */
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],"
     "\"data_offsets\":[0,0]}}", 0, AQ_E_LIMIT, "tensor \"t\""},
    {"{\"t\":{\"dtype\":\"F64\",\"shape\":[2305843009213693952],"
     "\"data_offsets\":[0,0]}}", 0, AQ_E_LIMIT, "tensor \"t\""},
    {"{\"t\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"
     "\"data_offsets\":[0,1]}}", 1, AQ_E_LIMIT, "over 16 dimensions"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[1,],\"data_offsets\":[0,4]}}", 4, AQ_E_FORMAT,
     "offset"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4, AQ_E_FORMAT,
     "offset"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[01],\"data_offsets\":[0,4]}}", 4, AQ_E_FORMAT,
     "leading 0"},
    /* names and keys */
    {"{" T("t", F32(0, 4)) "," T("t", F32(4, 8)) "}", 8, AQ_E_DUPLICATE, "tensor \"t\""},
    {"{" T("t", "\"dtype\":\"F32\"," F32(0, 4)) "}", 4, AQ_E_FORMAT, "repeated key"},
    {"{" T("t", F32(0, 4) ",\"color\":\"red\"") "}", 4, AQ_E_FORMAT, "unexpected"},
    {"{" T("t", "\"dtype\":\"F32\",\"shape\":[]") "}", 0, AQ_E_FORMAT, "lacks"},
    {"{\"__metadata__\":{},\"__metadata__\":{}," T("t", F32(0, 4)) "}", 4, AQ_E_FORMAT,
     "twice"},
    {"{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}," T("t", F32(0, 4)) "}", 4, AQ_E_FORMAT,
     "twice"},
    {"{\"__metadata__\":{\"a\":1}," T("t", F32(0, 4)) "}", 4, AQ_E_FORMAT, "offset"},
    {"{" T("", F32(0, 4)) "}", 4, AQ_E_FORMAT, "without a name"},
    {"{" T("a\\u0000b", F32(0, 4)) "}", 4, AQ_E_FORMAT, "escape"},
    {"{" T("\xff", F32(0, 4)) "}", 4, AQ_E_FORMAT, "UTF-8"},
    {"{" T("\xc0\x80", F32(0, 4)) "}", 4, AQ_E_FORMAT, "UTF-8"},
    {"{" T("\xed\xa0\x80", F32(0, 4)) "}", 4, AQ_E_FORMAT, "UTF-8"},
    {"{" T("a\nb", F32(0, 4)) "}", 4, AQ_E_FORMAT, "UTF-8"},
    {"{" T("\\x", F32(0, 4)) "}", 4, AQ_E_FORMAT, "escape"},
    {"{" T("\\u12g4", F32(0, 4)) "}", 4, AQ_E_FORMAT, "escape"},
    {"{" T("\\ud800", F32(0, 4)) "}", 4, AQ_E_FORMAT, "escape"},
    {"{" T("\\udc00", F32(0, 4)) "}", 4, AQ_E_FORMAT, "escape"},
    {"{" T("\\ud83dabcdef", F32(0, 4)) "}", 4, AQ_E_FORMAT, "escape"},
    {"{" T("\\ud83d\\n12345", F32(0, 4)) "}", 4, AQ_E_FORMAT, "escape"},
    {"{" T("\\ud83d\\u0041", F32(0, 4)) "}", 4, AQ_E_FORMAT, "escape"},
    {"{" T("\\ud83d\\ue000", F32(0, 4)) "}", 4, AQ_E_FORMAT, "escape"},
    {"{" T("\\ud83d\\ude0g", F32(0, 4)) "}", 4, AQ_E_FORMAT, "escape"},
    {"{" T("\\uG000", F32(0, 4)) "}", 4, AQ_E_FORMAT, "escape"},
    {"{\"\\u12\"", 0, AQ_E_FORMAT, "escape"},
    {"{\"\\ud83d\\\"", 0, AQ_E_FORMAT, "string without an end"},
    {"{\"\\ud83d\\u\":1", 0, AQ_E_FORMAT, "escape"},
    {"{\"t\":{\"dtype\":\"Q4\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
     AQ_E_UNSUPPORTED, "\"Q4\""},
    /* JSON */
    {"{" T("t", F32(0, 4)) ",}", 4, AQ_E_FORMAT, "no string"},
    {"{" T("t", F32(0, 4)) "} x", 4, AQ_E_FORMAT, "after the header"},
    {"{" T("t", F32(0, 4)), 4, AQ_E_FORMAT, "without an end"},
    {"[]", 0, AQ_E_FORMAT, "neither"},
    {" {}", 0, AQ_E_FORMAT, "neither"},
    {"{\"t\":[]}", 0, AQ_E_FORMAT, "tensor \"t\""},
    {"{\"t", 0, AQ_E_FORMAT, "string without an end"},
    {"{\"t\\", 0, AQ_E_FORMAT, "string without an end"},
};
/* clang-format on */

static file make_json(const char *json, uint64_t header_bytes, size_t data_bytes) {
    size_t n = strlen(json);
    uint8_t bytes[1024] = {0};
    aqi_store_le64(bytes, header_bytes);
    memcpy(bytes + 8, json, n);
    return file_make(bytes, 8 + n + data_bytes);
}

Test(bad_input, safetensors_headers) {
    for (size_t i = 0; i < COUNT_OF(json_cases); i++) {
        const json_case *k = &json_cases[i];
        file f = make_json(k->json, strlen(k->json), k->data_bytes);
        aq_status got = survive(&f, read_model, k->json, i);
        cr_expect_eq(got, k->wanted, "%s is %s, not %s: %s", k->json, aq_status_name(got),
                     aq_status_name(k->wanted), got == AQ_OK ? "" : err.message);
        if (got == k->wanted && got != AQ_OK) EXPECT_MESSAGE(k->json, k->message);
        file_free(&f);
    }
}

/* Escapes are undone, surrogates joined. */
Test(bad_input, safetensors_names) {
    static const struct {
        const char *json, *name;
    } cases[] = {{"\\ud83d\\uDE00", "\xf0\x9f\x98\x80"},
                 {"\\udbff\\udfff", "\xf4\x8f\xbf\xbf"},
                 {"\\u00e9\\u20AC\\u0041", "\xc3\xa9\xe2\x82\xac\x41"},
                 {"\\ue000", "\xee\x80\x80"},
                 {"\\\"\\\\\\/\\b\\f\\n\\r\\t", "\"\\/\b\f\n\r\t"}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const char *path = in_dir("names.safetensors");
        char json[200];
        file f;
        aq_model *m;
        aq_tensor t;
        snprintf(json, sizeof json, "{" T("%s", F32(0, 4)) "}", cases[i].json);
        f = make_json(json, strlen(json), 4);
        file_write(path, f.data, f.size);
        ASSERT_OK(aq_model_open(path, NULL, &m, &err));
        ASSERT_OK(aq_model_describe(m, 0, &t, &err));
        cr_expect_str_eq(t.name, cases[i].name);
        aq_model_close(m);
        file_free(&f);
    }
}

Test(bad_input, safetensors_header_length) {
    static const struct {
        uint64_t bytes;
        aq_status wanted;
    } cases[] = {{3, AQ_E_FORMAT},          {(uint64_t)1 << 63, AQ_E_FORMAT},
                 {UINT64_MAX, AQ_E_FORMAT}, {UINT64_MAX - 7, AQ_E_FORMAT},
                 {0, AQ_E_FORMAT},          {2, AQ_OK}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        file f = make_json("{}", cases[i].bytes, 0);
        ASSERT_STATUS(survive(&f, read_model, "length", i), cases[i].wanted);
        file_free(&f);
    }
}

/* ---- model files made to harm ---- */

/* A row of a model file; every column can be wrong on its own. */
typedef struct model_row {
    aq_bytes name, dtype, data, quant_type, packing;
    uint64_t shape[20];
    int64_t num_dims, num_params, group_size;
    float scales[8], zero_points[8];
    int64_t num_scales, num_zero_points;
    int32_t bit_width;
    const char *drop[2]; /* top-level columns that are left out          */
    const char *as_int;  /* a top-level column that is INT32 instead     */
} model_row;

static aq_bytes bytes_of(const char *text) {
    aq_bytes b = {(const uint8_t *)text, strlen(text)};
    return b;
}

/* 2 x 8 values of 4 bits in groups of 4. */
static model_row good_row(void) {
    model_row r = {.shape = {2, 8},
                   .num_dims = 2,
                   .num_params = 16,
                   .group_size = 4,
                   .scales = {1, 2, 3, 4},
                   .num_scales = 4,
                   .num_zero_points = 4,
                   .bit_width = 4};
    r.name = bytes_of("fc.weight");
    r.dtype = bytes_of("float32");
    r.data = bytes_of("\x10\x32\x54\x76\x98\xba\xdc\xfe");
    r.quant_type = bytes_of("int4");
    r.packing = bytes_of("lsb");
    return r;
}

typedef struct model_column {
    const char *name;
    aq_physical_type type;
    const void *values;
    int64_t count;
    bool list;
} model_column;

static void put_model_column(aq_writer *w, const model_column *c) {
    uint8_t levels[2][32];
    int64_t n = c->count > 0 ? c->count : 1;
    aq_column_values v = {c->values, .num_values = c->count};
    memset(levels, 1, sizeof levels);
    levels[0][0] = 0;
    if (c->count == 0) levels[1][0] = 0;
    if (c->list) {
        v.rep_levels = levels[0];
        v.def_levels = levels[1];
        v.num_levels = n;
    }
    ASSERT_OK(aq_writer_put_column(w, &v, &err));
}

/* `times` row groups of the same row. */
static file make_model_file(const model_row *r, int times) {
    const model_column columns[] = {
        {"layer_name", AQ_BYTE_ARRAY, &r->name, 1, false},
        {"shape", AQ_INT64, r->shape, r->num_dims, true},
        {"dtype", AQ_BYTE_ARRAY, &r->dtype, 1, false},
        {"data", AQ_BYTE_ARRAY, &r->data, 1, false},
        {"num_params", AQ_INT64, &r->num_params, 1, false},
        {"quant_type", AQ_BYTE_ARRAY, &r->quant_type, 1, false},
        {"scales", AQ_FLOAT, r->scales, r->num_scales, true},
        {"zero_points", AQ_FLOAT, r->zero_points, r->num_zero_points, true},
        {"group_size", AQ_INT64, &r->group_size, 1, false},
        {"bit_width", AQ_INT32, &r->bit_width, 1, false},
        {"packing", AQ_BYTE_ARRAY, &r->packing, 1, false}};
    aq_field_spec fields[COUNT_OF(columns) * 3];
    model_column used[COUNT_OF(columns)];
    size_t n = 0, num_used = 0;
    static const int32_t zero;
    aq_writer *w;
    for (size_t i = 0; i < COUNT_OF(columns); i++) {
        model_column c = columns[i];
        aq_field_spec leaf = {.name = c.name};
        if (r->drop[0] != NULL && strcmp(r->drop[0], c.name) == 0) continue;
        if (r->drop[1] != NULL && strcmp(r->drop[1], c.name) == 0) continue;
        if (r->as_int != NULL && strcmp(r->as_int, c.name) == 0) {
            model_column wrong = {c.name, AQ_INT32, &zero, 1, false};
            c = wrong;
        }
        if (c.list) {
            aq_field_spec group = {.name = c.name, .type = AQ_GROUP, .num_children = 1};
            fields[n++] = group;
            group.name = "list";
            group.repetition = AQ_REPEATED;
            fields[n++] = group;
            leaf.name = "element";
        }
        leaf.type = c.type;
        fields[n++] = leaf;
        used[num_used++] = c;
    }
    ASSERT_OK(aq_writer_open(in_dir("rows"), fields, n, NULL, &w, &err));
    for (int k = 0; k < times; k++) {
        for (size_t i = 0; i < num_used; i++)
            put_model_column(w, &used[i]);
        ASSERT_OK(aq_writer_end_row_group(w, 1, &err));
    }
    ASSERT_OK(aq_writer_finish(w, &err));
    return file_read(in_dir("rows"));
}

static void good(model_row *r) { (void)r; }
static void without_packing(model_row *r) {
    static const uint8_t codes[16];
    r->drop[0] = "packing"; /* then a code takes a byte, and groups are of rows */
    r->data.data = codes;
    r->data.size = sizeof codes;
    r->group_size = 1;
    r->num_scales = r->num_zero_points = 2;
}
static void no_data_column(model_row *r) { r->drop[0] = "data"; }
static void no_name_column(model_row *r) { r->drop[0] = "layer_name"; }
static void no_shape_column(model_row *r) { r->drop[0] = "shape"; }
static void integer_data(model_row *r) { r->as_int = "data"; }
static void integer_scales(model_row *r) { r->as_int = "scales"; }
static void no_name(model_row *r) { r->name.size = 0; }
static void name_with_nul(model_row *r) {
    r->name.data = (const uint8_t *)"a\0b";
    r->name.size = 3;
}
static void name_not_utf8(model_row *r) { r->name = bytes_of("a\xfe"); }
static void dims_17(model_row *r) { r->num_dims = 17; }
static void shape_overflow(model_row *r) { r->shape[0] = r->shape[1] = 1ull << 33; }
static void huge_shape(model_row *r) { r->shape[0] = UINT64_MAX; }
static void unknown_dtype(model_row *r) { r->dtype = bytes_of("complex64"); }
static void endless_dtype(model_row *r) {
    r->dtype = bytes_of("float32float32float32float32float32");
}
static void wrong_params(model_row *r) { r->num_params = 17; }
static void unknown_packing(model_row *r) { r->packing = bytes_of("msb"); }
static void unknown_quant(model_row *r) { r->quant_type = bytes_of("fp4"); }
static void other_width(model_row *r) { r->bit_width = 8; }
static void width_300(model_row *r) {
    without_packing(r);
    r->drop[1] = "quant_type";
    r->bit_width = 300;
}
static void negative_width(model_row *r) { r->bit_width = -4; }
static void seven_bits(model_row *r) {
    r->quant_type = bytes_of("int7");
    r->bit_width = 7;
}
static void negative_group(model_row *r) { r->group_size = -1; }
static void a_scale_less(model_row *r) { r->num_scales = 3; }
static void a_scale_more(model_row *r) { r->num_scales = 5; }
static void a_zero_point_less(model_row *r) { r->num_zero_points = 3; }
static void nan_scale(model_row *r) { r->scales[2] = (float)NAN; }
static void infinite_zero_point(model_row *r) { r->zero_points[3] = (float)INFINITY; }
static void short_data(model_row *r) { r->data.size--; }
static void long_data(model_row *r) {
    r->data.data = (const uint8_t *)"123456789";
    r->data.size = 9;
}
static void no_codes(model_row *r) { r->data.size = 0; }

static const struct {
    void (*edit)(model_row *r);
    aq_status wanted;
    const char *message;
} row_cases[] = {
    {good, AQ_OK, ""},
    {without_packing, AQ_OK, ""},
    {no_data_column, AQ_E_TYPE, "no column data"},
    {no_name_column, AQ_E_TYPE, "no column layer_name"},
    {no_shape_column, AQ_E_TYPE, "no column shape"},
    {integer_data, AQ_E_TYPE, "column data "},
    {integer_scales, AQ_E_TYPE, "column scales "},
    {no_name, AQ_E_FORMAT, "layer_name of row 0 in row group 0"},
    {name_with_nul, AQ_E_FORMAT, "layer_name of row 0"},
    {name_not_utf8, AQ_E_FORMAT, "layer_name of row 0"},
    {dims_17, AQ_E_LIMIT, "17 dimensions"},
    {shape_overflow, AQ_E_LIMIT, "tensor \"fc.weight\""},
    {huge_shape, AQ_E_LIMIT, "tensor \"fc.weight\""},
    {unknown_dtype, AQ_E_UNSUPPORTED, "\"complex64\""},
    {endless_dtype, AQ_E_UNSUPPORTED, "tensor \"fc.weight\""},
    {wrong_params, AQ_E_FORMAT, "num_params 17"},
    {unknown_packing, AQ_E_UNSUPPORTED, "\"msb\""},
    {unknown_quant, AQ_E_FORMAT, "tensor \"fc.weight\""},
    {other_width, AQ_E_FORMAT, "tensor \"fc.weight\""},
    {width_300, AQ_E_FORMAT, "tensor \"fc.weight\""},
    {negative_width, AQ_E_FORMAT, "tensor \"fc.weight\""},
    {seven_bits, AQ_E_UNSUPPORTED, "7 bits"},
    {negative_group, AQ_E_FORMAT, "group_size -1"},
    {a_scale_less, AQ_E_FORMAT, "3 scales for 4 groups"},
    {a_scale_more, AQ_E_FORMAT, "5 scales for 4 groups"},
    {a_zero_point_less, AQ_E_FORMAT, "3 zero points for 4 groups"},
    {nan_scale, AQ_E_NONFINITE, "group 2"},
    {infinite_zero_point, AQ_E_NONFINITE, "group 3"},
    {short_data, AQ_E_FORMAT, "data has 7 bytes"},
    {long_data, AQ_E_FORMAT, "data has 9 bytes"},
    {no_codes, AQ_E_FORMAT, "data has 0 bytes"},
};

Test(bad_input, model_rows) {
    for (size_t i = 0; i < COUNT_OF(row_cases); i++) {
        model_row r = good_row();
        aq_status got;
        file f;
        row_cases[i].edit(&r);
        f = make_model_file(&r, 1);
        got = survive(&f, read_model, "row", i);
        cr_expect_eq(got, row_cases[i].wanted, "case %zu (%s) is %s: %s", i,
                     row_cases[i].message, aq_status_name(got), err.message);
        if (got == row_cases[i].wanted && got != AQ_OK)
            EXPECT_MESSAGE(row_cases[i].message, row_cases[i].message);
        file_free(&f);
    }
}

/* Any column of a model, known by its name, of a type that it cannot have. */
Test(bad_input, model_columns_of_other_types) {
    static const char *const columns[] = {"layer_name",
                                          "shape",
                                          "dtype",
                                          "data",
                                          "num_params",
                                          "quant_type",
                                          "scales",
                                          "zero_points",
                                          "quant_axis",
                                          "group_size",
                                          "bit_width",
                                          "packing",
                                          "cosine",
                                          "sqnr_db",
                                          "max_abs_error",
                                          "chunk_index",
                                          "chunk_count",
                                          "group_params",
                                          "params_type",
                                          "codebook",
                                          "modality",
                                          "is_diffusion_model",
                                          "time_aware_quant_json",
                                          "spatial_quant_json",
                                          "activation_stats_json"};
    for (size_t i = 0; i < COUNT_OF(columns); i++) {
        aq_field_spec fields[] = {{.name = "layer_name", .type = AQ_BYTE_ARRAY},
                                  {.name = "shape", .type = AQ_INT64},
                                  {.name = "data", .type = AQ_BYTE_ARRAY},
                                  {.name = columns[i], .type = AQ_BOOLEAN}};
        const bool flag = strcmp(columns[i], "is_diffusion_model") == 0;
        size_t n = 4;
        char text[80];
        aq_model *m;
        aq_writer *w;
        for (size_t k = 0; k < 3; k++) {
            if (strcmp(columns[i], fields[k].name) != 0) continue;
            fields[k].type = AQ_BOOLEAN;
            n = 3;
        }
        if (flag) fields[3].type = AQ_FLOAT;
        ASSERT_OK(aq_writer_open(in_dir("columns"), fields, n, NULL, &w, &err));
        ASSERT_OK(aq_writer_finish(w, &err));
        ASSERT_STATUS(aq_model_open(in_dir("columns"), NULL, &m, &err), AQ_E_TYPE);
        snprintf(text, sizeof text, "column %s has another type than", columns[i]);
        EXPECT_MESSAGE(columns[i], text);
    }
}

Test(bad_input, a_null_inside_a_shape) {
    static const aq_field_spec fields[] = {
        {.name = "layer_name", .type = AQ_BYTE_ARRAY},
        {.name = "shape", .type = AQ_GROUP, .num_children = 1},
        {.name = "list", .repetition = AQ_REPEATED, .type = AQ_GROUP, .num_children = 1},
        {.name = "element", .repetition = AQ_OPTIONAL, .type = AQ_INT64},
        {.name = "data", .type = AQ_BYTE_ARRAY}};
    static const int64_t dims[2] = {1, 1};
    static const uint8_t whole[2] = {2, 2}, null_inside[2] = {2, 1}, rep[2] = {0, 1};
    for (int broken = 0; broken < 2; broken++) {
        const aq_bytes name = bytes_of("a"), data = bytes_of("1234");
        const aq_column_values columns[] = {
            {&name, .num_values = 1},
            {dims, 2 - broken, broken ? null_inside : whole, rep, .num_levels = 2},
            {&data, .num_values = 1}};
        aq_writer *w;
        ASSERT_OK(aq_writer_open(in_dir("m"), fields, COUNT_OF(fields), NULL, &w, &err));
        for (size_t i = 0; i < COUNT_OF(columns); i++)
            ASSERT_OK(aq_writer_put_column(w, &columns[i], &err));
        ASSERT_OK(aq_writer_end_row_group(w, 1, &err));
        ASSERT_OK(aq_writer_finish(w, &err));
        ASSERT_STATUS(model_read_all(in_dir("m"), NULL), broken ? AQ_E_FORMAT : AQ_OK);
        if (broken) ASSERT_MESSAGE("null", "null inside the list at value 1");
    }
}

Test(bad_input, a_name_in_two_row_groups) {
    model_row r = good_row();
    file f = make_model_file(&r, 2);
    ASSERT_STATUS(survive(&f, read_model, "twice", 0), AQ_E_DUPLICATE);
    ASSERT_MESSAGE("twice", "tensor \"fc.weight\"");
    file_free(&f);
}

/* What is empty or has no dimensions is legal. */
Test(bad_input, empty_is_legal) {
    static const struct {
        uint64_t shape[2];
        int64_t num_dims, num_params;
        const char *data;
    } cases[] = {
        {{0, 5}, 2, 0, ""}, {{0}, 0, 1, "abcd"}, {{3, 0}, 2, 0, ""}, {{0}, 1, 0, ""}};
    file none;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        model_row r = good_row();
        file f;
        memcpy(r.shape, cases[i].shape, sizeof cases[i].shape);
        r.num_dims = cases[i].num_dims;
        r.num_params = cases[i].num_params;
        r.data = bytes_of(cases[i].data);
        r.quant_type = bytes_of("none");
        r.bit_width = 0;
        r.num_scales = r.num_zero_points = 0;
        f = make_model_file(&r, 1);
        ASSERT_OK(survive(&f, read_model, "empty", i));
        file_free(&f);
    }
    ASSERT_OK(aq_model_save(in_dir("none.parquet"), NULL, 0, NULL, &err));
    none = file_read(in_dir("none.parquet"));
    ASSERT_OK(survive(&none, read_model, "no tensors", 0));
    file_free(&none);
}

/* Many tensors in one row group, as other tools write: opening must not take the square
 * of their number. */
Test(bad_input, many_rows_in_a_row_group, .timeout = 60) {
    enum { ROWS = 60000 };
    static const aq_field_spec fields[] = {
        {.name = "layer_name", .type = AQ_BYTE_ARRAY},
        {.name = "shape", .type = AQ_GROUP, .num_children = 1},
        {.name = "list", .repetition = AQ_REPEATED, .type = AQ_GROUP, .num_children = 1},
        {.name = "element", .type = AQ_INT64},
        {.name = "data", .type = AQ_BYTE_ARRAY}};
    static aq_bytes names[ROWS], data[ROWS];
    static char text[ROWS][8];
    static int64_t shape[ROWS];
    static uint8_t rep[ROWS], def[ROWS];
    const aq_column_values columns[] = {{names, .num_values = ROWS},
                                        {shape, ROWS, def, rep, .num_levels = ROWS},
                                        {data, .num_values = ROWS}};
    aq_model *m;
    aq_writer *w;
    double start;
    for (size_t i = 0; i < ROWS; i++) {
        snprintf(text[i], sizeof text[i], "%07u", (unsigned)i % 10000000u);
        names[i] = bytes_of(text[i]);
        data[i] = bytes_of("1234");
        shape[i] = 1;
        def[i] = 1;
    }
    ASSERT_OK(aq_writer_open(in_dir("many"), fields, COUNT_OF(fields), NULL, &w, &err));
    for (size_t c = 0; c < COUNT_OF(columns); c++)
        ASSERT_OK(aq_writer_put_column(w, &columns[c], &err));
    ASSERT_OK(aq_writer_end_row_group(w, ROWS, &err));
    ASSERT_OK(aq_writer_finish(w, &err));
    start = now();
    ASSERT_OK(aq_model_open(in_dir("many"), NULL, &m, &err));
    cr_assert_lt(now() - start, 2.0, "%.1f s", now() - start);
    cr_assert_eq(aq_model_count(m), ROWS);
    aq_model_close(m);
}
