/* test_table_model.c - Parquet tables of layer_name, weights, and perhaps shape, as
 * models: any float type, nullability, codec and page size, lists in place or from
 * several pages, shapes that are missing, and what is refused. */
#define AQ_STATIC
#define ARROWQUANT_IMPLEMENTATION
#include "craft.h"

#include <math.h>

static void enter_fast_dir(void) {
    if (access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 1);
    enter_temp_dir();
}

TestSuite(table_model, .init = enter_fast_dir, .fini = leave_temp_dir, .timeout = 60);

/* ---- tables ---- */

enum { MAX_ROWS = 8, MAX_DIMS = 3 };

typedef struct row {
    const char *name;
    int64_t num_weights;
    int32_t num_dims; /* -1: null */
    int64_t shape[MAX_DIMS];
} row;

/* How a table is written. */
typedef struct table {
    const row *rows;
    size_t num_rows;
    aq_dtype dtype;
    bool optional, no_shape;
    aq_codec codec;
    aq_encoding encoding;
    size_t page_bytes;
    size_t group_rows; /* rows of a row group; 0 = all */
} table;

static const row layers[] = {{"d", 96, 2, {8, 12}},     {"a", 600, 3, {2, 3, 100}},
                             {"empty", 0, 2, {0, 5}},   {"scalar", 1, 0, {0}},
                             {"c", 5000, 2, {50, 100}}, {"b", 7, 1, {7}}};
static const row untold[] = {
    {"x", 100, -1, {0}}, {"y", 24, 2, {4, 6}}, {"none", 0, -1, {0}}, {"z", 1, -1, {0}}};

static int64_t count_weights(const row *rows, size_t n) {
    int64_t sum = 0;
    for (; n > 0; n--)
        sum += rows[n - 1].num_weights > 0 ? rows[n - 1].num_weights : 0;
    return sum;
}

/* The i-th weight of a test: exact in all types. */
static float weight(int64_t i) {
    return (float)((i * 37 + i / 100 * 11) % 251 - 125) / 64.0f;
}

/* A float of the form of weight() as float16. */
static uint16_t half_of(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if ((bits & 0x7fffffff) == 0) return (uint16_t)(bits >> 16);
    return (uint16_t)((bits >> 16 & 0x8000) | ((bits >> 23 & 0xff) - 112) << 10 |
                      (bits >> 13 & 0x3ff));
}

/* Weights [first, first + n) as the values of a column, in memory of malloc: float16 is
 * bytes of the file, all others are native. */
static void *weights_of(aq_dtype dtype, int64_t first, int64_t n) {
    size_t width = aq_dtype_bytes(dtype);
    uint8_t *out = malloc((size_t)n * width + 1);
    cr_assert_not_null(out);
    for (int64_t i = 0; i < n; i++) {
        float f = weight(first + i);
        double d = (double)f;
        uint16_t h = half_of(f);
        turn_le(&h, 1, sizeof h);
        const void *from = dtype == AQ_F32   ? (void *)&f
                           : dtype == AQ_F64 ? (void *)&d
                                             : (void *)&h;
        memcpy(out + (size_t)i * width, from, width);
    }
    return out;
}

/* The same as a tensor has them. */
static void *le_weights_of(aq_dtype dtype, int64_t first, int64_t n) {
    void *weights = weights_of(dtype, first, n);
    return dtype == AQ_F16 ? weights : turn_le(weights, (size_t)n, aq_dtype_bytes(dtype));
}

static size_t table_fields(const table *t, aq_field_spec *f) {
    const aq_repetition repetition = t->optional ? AQ_OPTIONAL : AQ_REQUIRED;
    const aq_field_spec name = {
        .name = "layer_name", .type = AQ_BYTE_ARRAY, .logical = AQ_LOGICAL_STRING};
    const aq_field_spec dim = {.name = "element", .type = AQ_INT64};
    aq_field_spec value = {.name = "element",
                           .repetition = repetition,
                           .type = AQ_FLOAT,
                           .codec = t->codec,
                           .encoding = t->encoding};
    size_t n = 0;
    if (t->dtype == AQ_F64) value.type = AQ_DOUBLE;
    if (t->dtype == AQ_F16) {
        value.type = AQ_FIXED_LEN_BYTE_ARRAY;
        value.type_length = 2;
        value.logical = AQ_LOGICAL_FLOAT16;
    }
    n += list_spec(f, "weights", repetition, value);
    f[n++] = name;
    if (!t->no_shape) n += list_spec(f + n, "shape", AQ_OPTIONAL, dim);
    return n;
}

/* A list column: levels and counts of `n` rows with the lengths given; -1 = null. */
typedef struct levels {
    uint8_t *def, *rep;
    int64_t count;
} levels;

static levels levels_of(const int64_t *lengths, size_t n, uint8_t empty, uint8_t full) {
    levels l = {NULL, NULL, 0};
    int64_t total = 0;
    for (size_t i = 0; i < n; i++)
        total += lengths[i] > 0 ? lengths[i] : 1;
    l.def = malloc((size_t)total);
    l.rep = malloc((size_t)total);
    for (size_t i = 0; i < n; i++) {
        for (int64_t k = 0; k < (lengths[i] > 0 ? lengths[i] : 1); k++) {
            l.rep[l.count] = k > 0;
            l.def[l.count++] = lengths[i] > 0    ? full
                               : lengths[i] == 0 ? empty
                                                 : (uint8_t)(empty - 1);
        }
    }
    return l;
}

static void put_list(aq_writer *w, const void *values, const int64_t *lengths, size_t n,
                     uint8_t empty, uint8_t full) {
    levels l = levels_of(lengths, n, empty, full);
    aq_column_values v = {.values = values,
                          .def_levels = l.def,
                          .rep_levels = l.rep,
                          .num_levels = l.count};
    for (size_t i = 0; i < n; i++)
        v.num_values += lengths[i] > 0 ? lengths[i] : 0;
    ASSERT_OK(aq_writer_put_column(w, &v, &err));
    free(l.def);
    free(l.rep);
}

static void put_rows(aq_writer *w, const table *t, size_t first, size_t n) {
    const row *rows = t->rows + first;
    const uint8_t optional = t->optional;
    void *weights =
        weights_of(t->dtype, count_weights(t->rows, first), count_weights(rows, n));
    int64_t lengths[MAX_ROWS], dims[MAX_ROWS], shape[MAX_ROWS * MAX_DIMS], num_dims = 0;
    aq_bytes names[MAX_ROWS];
    for (size_t i = 0; i < n; i++) {
        names[i].data = (const uint8_t *)rows[i].name;
        names[i].size = strlen(rows[i].name);
        lengths[i] = rows[i].num_weights;
        dims[i] = rows[i].num_dims;
        for (int32_t k = 0; k < rows[i].num_dims; k++)
            shape[num_dims++] = rows[i].shape[k];
    }
    put_list(w, weights, lengths, n, optional, (uint8_t)(1 + 2 * optional));
    ASSERT_OK(aq_writer_put_column(
        w, &(aq_column_values){names, .num_values = (int64_t)n}, &err));
    if (!t->no_shape) put_list(w, shape, dims, n, 1, 2);
    ASSERT_OK(aq_writer_end_row_group(w, (int64_t)n, &err));
    free(weights);
}

/* The weights of all rows follow each other in weight(). */
static void write_table(const char *path, const table *t) {
    aq_writer_options o = {.no_sync = true, .page_bytes = t->page_bytes};
    size_t group = t->group_rows > 0 ? t->group_rows : t->num_rows;
    aq_field_spec fields[8];
    aq_writer *w;
    ASSERT_OK(aq_writer_open(path, fields, table_fields(t, fields), &o, &w, &err));
    for (size_t i = 0; i < t->num_rows; i += group)
        put_rows(w, t, i, group < t->num_rows - i ? group : t->num_rows - i);
    ASSERT_OK(aq_writer_finish(w, &err));
}

/* The tensor of a row, with the shape that it must have. */
static void check_row(const aq_model *m, const table *t, size_t i, bool mapped) {
    const row *r = &t->rows[i];
    void *want = le_weights_of(t->dtype, count_weights(t->rows, i), r->num_weights);
    bool told = !t->no_shape && r->num_dims >= 0;
    aq_tensor got, described;
    ASSERT_OK(aq_model_find(m, r->name, &got, &err));
    ASSERT_OK(aq_model_describe(m, aq_model_index(m, r->name), &described, &err));
    cr_assert(got.dtype == t->dtype && got.layout.bits == 0);
    cr_assert_eq(got.num_params, (uint64_t)r->num_weights);
    cr_assert_eq(got.num_dims, told ? (uint32_t)r->num_dims : 1u);
    for (uint32_t k = 0; k < got.num_dims; k++)
        cr_assert_eq(got.shape[k], (uint64_t)(told ? r->shape[k] : r->num_weights));
    cr_assert_eq(got.data_bytes, (size_t)r->num_weights * aq_dtype_bytes(t->dtype));
    cr_assert(described.num_params == got.num_params &&
              described.data_bytes == got.data_bytes && described.data == NULL);
    if (r->num_weights > 0) {
        cr_assert_arr_eq(got.data, want, got.data_bytes);
        cr_assert_eq(got.mapped, mapped, "%s", r->name);
    }
    aq_tensor_release(&got);
    free(want);
}

static void check_table(const char *path, const table *t, bool mapped) {
    const aq_model_options read = {.io = AQ_IO_READ};
    aq_model *m;
    for (int k = 0; k < 2; k++) {
        ASSERT_OK(aq_model_open(path, k == 0 ? NULL : &read, &m, &err));
        cr_assert_eq(aq_model_count(m), t->num_rows);
        cr_assert_eq(aq_model_get_format(m), AQ_MODEL_PARQUET);
        for (size_t i = 0; i < t->num_rows; i++)
            check_row(m, t, i, mapped && k == 0);
        aq_model_close(m);
    }
}

/* ---- what is read ---- */

Test(table_model, all_types_codecs_pages_and_row_groups) {
    static const aq_dtype dtypes[] = {AQ_F32, AQ_F64, AQ_F16};
    static const aq_codec codecs[] = {AQ_UNCOMPRESSED, AQ_ZSTD, SNAPPY_OR_NONE};
    static const size_t pages[] = {0, 1000};
    for (size_t i = 0; i < 3 * 3 * 2 * 2 * 2 * 2; i++) {
        const table t = {.rows = i % 2 ? untold : layers,
                         .num_rows = i % 2 ? COUNT_OF(untold) : COUNT_OF(layers),
                         .dtype = dtypes[i / 2 % 3],
                         .codec = codecs[i / 6 % 3],
                         .page_bytes = pages[i / 18 % 2],
                         .optional = i / 36 % 2,
                         .group_rows = i / 72 % 2 ? 1 : 0};
        write_table(in_dir("t.parquet"), &t);
        check_table(in_dir("t.parquet"), &t,
                    t.codec == AQ_UNCOMPRESSED &&
                        (NUMBERS_IN_PLACE || t.dtype == AQ_F16));
    }
}

Test(table_model, dictionary_and_split_streams) {
    static const aq_encoding encodings[] = {AQ_RLE_DICTIONARY, AQ_BYTE_STREAM_SPLIT};
    for (size_t i = 0; i < COUNT_OF(encodings); i++) {
        const table t = {layers, COUNT_OF(layers), AQ_F32, .encoding = encodings[i],
                         .page_bytes = 1000};
        write_table(in_dir("t.parquet"), &t);
        check_table(in_dir("t.parquet"), &t, false);
    }
}

Test(table_model, no_column_shape_is_one_dimension) {
    for (int compressed = 0; compressed < 2; compressed++) {
        const table t = {layers,
                         COUNT_OF(layers),
                         AQ_F32,
                         .no_shape = true,
                         .codec = compressed ? AQ_ZSTD : AQ_UNCOMPRESSED,
                         .page_bytes = 1000,
                         .group_rows = 4};
        write_table(in_dir("t.parquet"), &t);
        check_table(in_dir("t.parquet"), &t, !compressed && NUMBERS_IN_PLACE);
    }
}

/* All the memory that opening and one tensor take does not grow with the weights. */
Test(table_model, weights_in_the_mapping_are_not_copied) {
    size_t peak[2];
    for (size_t k = 0; k < 2; k++) {
        const int64_t n = k == 0 ? 1000 : 4000000;
        const row rows[] = {{"v", n, -1, {0}}, {"w", n, 2, {n / 100, 100}}};
        const table t = {rows, 2, AQ_F32, .optional = true};
        counting_allocator c;
        aq_model_options o = {.allocator = &c.hooks, .io = AQ_IO_MAP};
        aq_tensor a, b;
        aq_model *m;
        write_table(in_dir("t.parquet"), &t);
        counting_init(&c);
        ASSERT_OK(aq_model_open(in_dir("t.parquet"), &o, &m, &err));
        ASSERT_OK(aq_model_find(m, "w", &a, &err));
        ASSERT_OK(aq_model_find(m, "v", &b, &err));
        if (NUMBERS_IN_PLACE) {
            cr_assert(a.mapped && b.mapped);
            cr_assert_eq(a.data, b.data + b.data_bytes); /* as in the page */
        }
        aq_tensor_release(&a);
        aq_tensor_release(&b);
        aq_model_close(m);
        cr_assert(counting_is_clean(&c));
        peak[k] = c.peak_bytes;
    }
    /* Levels of lists of this length are runs: a byte for each weight is not stored. */
    if (NUMBERS_IN_PLACE)
        cr_assert_lt(peak[1], peak[0] + 4096, "%zu, %zu", peak[0], peak[1]);
}

/* Replaces the pages of `weights` (column 0) behind those of a valid file. */
static void replace_weights(const char *path, const craft *c, int64_t num_values) {
    file f = file_read(path), out;
    size_t body = body_bytes_of(&f);
    uint8_t *bytes = malloc(body + c->size);
    footer meta = footer_open(&f);
    aqi_column_meta *m = &footer_chunk(&meta, 0, 0)->meta_data;
    memcpy(bytes, f.data, body);
    memcpy(bytes + body, c->bytes, c->size);
    m->num_values = num_values;
    m->data_page_offset = (int64_t)body;
    m->total_compressed_size = (int64_t)c->size;
    m->total_uncompressed_size = (int64_t)c->size;
    out = footer_close(&meta, bytes, body + c->size);
    file_write(path, out.data, out.size);
    file_free(&out);
    file_free(&f);
    free(bytes);
}

/* A page of floats of a list of required floats: rep and def levels as given. */
static void craft_list_page(craft *c, const uint8_t *rep, const uint8_t *def, int32_t n,
                            float first) {
    uint8_t body[256];
    size_t size = 0;
    for (int k = 0; k < 2; k++) { /* bit-packed levels of one bit, 8 at a time */
        const uint8_t *levels_at = k == 0 ? rep : def;
        uint8_t groups = (uint8_t)((n + 7) / 8);
        aqi_store_le32(body + size, 1u + groups);
        size += 4;
        body[size++] = (uint8_t)(groups << 1 | 1);
        memset(body + size, 0, groups);
        for (int32_t i = 0; i < n; i++)
            body[size + (size_t)i / 8] |= (uint8_t)(levels_at[i] << i % 8);
        size += groups;
    }
    for (int32_t i = 0; i < n; i++) {
        uint32_t bits;
        if (!def[i]) continue;
        memcpy(&bits, &first, sizeof bits);
        aqi_store_le32(body + size, bits);
        size += 4;
        first += 1;
    }
    craft_data_page(c, n, AQ_PLAIN, body, size);
}

/* [1 2 | 3 4 | 5] [6] [] | [7 8]: the first list is in three pages. */
Test(table_model, a_list_in_two_pages_is_joined) {
    static const row rows[] = {
        {"a", 5, -1, {0}}, {"b", 1, -1, {0}}, {"c", 0, -1, {0}}, {"d", 2, 2, {2, 1}}};
    static const struct {
        uint8_t rep[4], def[4];
        int32_t levels;
        float first;
    } pages[] = {{{0, 1}, {1, 1}, 2, 1},
                 {{1, 1}, {1, 1}, 2, 3},
                 {{1, 0, 0}, {1, 1, 0}, 3, 5},
                 {{0, 1}, {1, 1}, 2, 7}};
    const table t = {.rows = rows, .num_rows = COUNT_OF(rows), .dtype = AQ_F32};
    const char *names[] = {"a", "b", "c", "d"};
    float want = 1;
    craft *c = calloc(1, sizeof *c);
    aq_model *m;
    aq_tensor got;
    for (size_t i = 0; i < COUNT_OF(pages); i++)
        craft_list_page(c, pages[i].rep, pages[i].def, pages[i].levels, pages[i].first);
    write_table(in_dir("t.parquet"), &t);
    replace_weights(in_dir("t.parquet"), c, 9);
    ASSERT_OK(aq_model_open(in_dir("t.parquet"), NULL, &m, &err));
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        ASSERT_OK(aq_model_find(m, names[i], &got, &err));
        cr_assert_eq(got.num_params, (uint64_t)rows[i].num_weights);
        cr_assert_eq(got.mapped, i > 0 && (i == 2 || NUMBERS_IN_PLACE));
        for (size_t k = 0; k < got.num_params; k++, want += 1)
            cr_assert_eq(aqi_load_f32(got.data + 4 * k), want);
        aq_tensor_release(&got);
    }
    aq_model_close(m);
    free(c);
}

/* Columns of a model file mean nothing beside weights; with data they do. */
Test(table_model, other_columns_are_left_alone) {
    static const aq_field_spec extra[] = {{.name = "bit_width", .type = AQ_INT32},
                                          {.name = "scales", .type = AQ_BYTE_ARRAY},
                                          {.name = "dtype", .type = AQ_INT32}};
    static const int64_t lengths[] = {3, 0};
    static const float weights[] = {1, 2, 3};
    static const int32_t ints[] = {4, 4};
    const aq_bytes names[] = {{(const uint8_t *)"p", 1}, {(const uint8_t *)"q", 1}};
    aq_field_spec fields[8];
    const table t = {.dtype = AQ_F32, .no_shape = true};
    size_t n = table_fields(&t, fields);
    aq_tensor got;
    aq_model *m;
    aq_writer *w;
    memcpy(fields + n, extra, sizeof extra);
    ASSERT_OK(aq_writer_open(in_dir("t.parquet"), fields, n + 3, NULL, &w, &err));
    put_list(w, weights, lengths, 2, 0, 1);
    for (int i = 0; i < 4; i++) {
        bool bytes = i % 2 == 0;
        aq_column_values v = {bytes ? (const void *)names : ints, .num_values = 2};
        ASSERT_OK(aq_writer_put_column(w, &v, &err));
    }
    ASSERT_OK(aq_writer_end_row_group(w, 2, &err));
    ASSERT_OK(aq_writer_finish(w, &err));
    ASSERT_OK(aq_model_open(in_dir("t.parquet"), NULL, &m, &err));
    ASSERT_OK(aq_model_find(m, "p", &got, &err));
    cr_assert(got.layout.bits == 0 && got.dtype == AQ_F32 && got.num_params == 3);
    aq_tensor_release(&got);
    aq_model_close(m);
}

/* ---- jobs ---- */

/* A job on a table writes the pages that it writes for a model of the same tensors. */
Test(table_model, a_job_writes_what_it_does_for_a_model) {
    static const aq_dtype dtypes[] = {AQ_F32, AQ_F64, AQ_F16};
    for (size_t k = 0; k < 3 * 2 * 2 * 2; k++) {
        const table t = {layers,
                         COUNT_OF(layers),
                         dtypes[k / 8],
                         .codec = k & 1 ? SNAPPY_OR_NONE : AQ_UNCOMPRESSED,
                         .optional = k >> 1 & 1,
                         .page_bytes = 1000,
                         .group_rows = 4};
        aq_job_options o = {.quant = {.group_size = 32},
                            .mode = k & 4 ? AQ_JOB_PARALLEL : AQ_JOB_STREAMING,
                            .threads = 2,
                            .no_sync = true};
        const aq_model_writer_options no_sync = {.no_sync = true};
        aq_tensor tensors[COUNT_OF(layers)];
        file got, want;
        for (size_t i = 0; i < COUNT_OF(layers); i++) {
            uint64_t shape[MAX_DIMS];
            for (int32_t d = 0; d < layers[i].num_dims; d++)
                shape[d] = (uint64_t)layers[i].shape[d];
            tensors[i] = tensor_of(
                layers[i].name, t.dtype, shape, (uint32_t)layers[i].num_dims,
                le_weights_of(t.dtype, count_weights(layers, i), layers[i].num_weights));
        }
        ASSERT_OK(aq_model_save(in_dir("in.parquet"), tensors, COUNT_OF(layers), &no_sync,
                                &err));
        ASSERT_OK(aq_job_run(in_dir("in.parquet"), in_dir("m.q"), &o, NULL, &err));
        write_table(in_dir("in.parquet"), &t); /* the output has the input's name */
        ASSERT_OK(aq_job_run(in_dir("in.parquet"), in_dir("t.q"), &o, NULL, &err));
        want = file_read(in_dir("m.q"));
        got = file_read(in_dir("t.q"));
        got.size = body_bytes_of(&got); /* the footer has the size of the input */
        want.size = body_bytes_of(&want);
        cr_assert(file_equal(&got, &want), "case %zu", k);
        file_free(&got);
        file_free(&want);
        for (size_t i = 0; i < COUNT_OF(layers); i++)
            free((void *)(uintptr_t)tensors[i].data);
    }
}

/* Jobs verify the pages of weights that are mapped, which opening does not. */
Test(table_model, a_job_finds_a_changed_weight) {
    const table t = {layers, COUNT_OF(layers), AQ_F32, .page_bytes = 1000};
    const float weights[] = {weight(count_weights(layers, COUNT_OF(layers)) - 1)};
    const float *last = le_floats(weights, 1);
    for (int k = 0; k < 4; k++) {
        const aq_job_options o = {.mode = k % 2 ? AQ_JOB_PARALLEL : AQ_JOB_STREAMING,
                                  .operation = k / 2 ? AQ_CONVERT : AQ_QUANTIZE,
                                  .no_sync = true};
        file f;
        size_t at;
        write_table(in_dir("t.parquet"), &t);
        ASSERT_OK(aq_job_run(in_dir("t.parquet"), in_dir("o.parquet"), &o, NULL, &err));
        f = file_read(in_dir("t.parquet"));
        for (at = (size_t)body_bytes_of(&f) - sizeof *last;
             memcmp(f.data + at, last, sizeof *last) != 0; at--)
            cr_assert_gt(at, 0);
        f.data[at] ^= 1;
        temp_path_remove(in_dir("t.parquet"));
        file_write(in_dir("t.parquet"), f.data, f.size);
        file_free(&f);
        ASSERT_STATUS(
            aq_job_run(in_dir("t.parquet"), in_dir("o.parquet"), &o, NULL, &err),
            AQ_E_CHECKSUM);
    }
}

/* ---- errors ---- */

Test(table_model, every_failed_allocation_is_an_error) {
    const table t = {untold, COUNT_OF(untold), AQ_F32, .codec = AQ_ZSTD,
                     .page_bytes = 100};
    size_t n = 0;
    aq_status status;
    write_table(in_dir("t.parquet"), &t);
    do {
        counting_allocator c;
        const aq_model_options o = {.allocator = &c.hooks};
        counting_init(&c);
        c.fail_at = ++n;
        status = model_read_all(in_dir("t.parquet"), &o);
        cr_assert(counting_is_clean(&c));
        cr_assert(status == AQ_OK || status == AQ_E_NOMEM, "%s", err.message);
        cr_assert(status == AQ_E_NOMEM || c.calls < n);
    } while (status != AQ_OK);
    cr_assert_gt(n, 10);
}

/* Rows that are wrong in themselves. */
Test(table_model, bad_rows_are_refused) {
    static const struct {
        row rows[2];
        aq_status status;
        const char *message;
    } cases[] = {
        {{{"a", 6, 2, {2, 3}}, {"b", 6, 2, {2, 4}}}, AQ_E_FORMAT, "6 weights"},
        {{{"a", 6, 0, {0}}, {"b", 1, 0, {0}}}, AQ_E_FORMAT, "6 weights"},
        {{{"a", 6, 1, {-6}}, {"b", 1, 0, {0}}}, AQ_E_LIMIT, "elements"},
        {{{"a", 6, 2, {-1, -1}}, {"b", 1, 0, {0}}}, AQ_E_LIMIT, "elements"},
        {{{"a", 6, -1, {0}}, {"", 1, 0, {0}}}, AQ_E_FORMAT, "layer_name"},
        {{{"a", 6, -1, {0}}, {"\xff", 1, 0, {0}}}, AQ_E_FORMAT, "layer_name"},
        {{{"a", 6, -1, {0}}, {"a", 1, 0, {0}}}, AQ_E_DUPLICATE, "\"a\""},
        {{{"a", -1, -1, {0}}, {"b", 1, 0, {0}}}, AQ_E_FORMAT, "row 0 are null"},
        {{{"a", 0, 1, {0}}, {"b", -1, 1, {0}}}, AQ_E_FORMAT, "row 1 are null"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const table t = {cases[i].rows, 2, AQ_F32, .optional = true};
        row rows[2];
        memcpy(rows, cases[i].rows, sizeof rows);
        write_table(in_dir("t.parquet"), &t);
        ASSERT_STATUS(model_read_all(in_dir("t.parquet"), NULL), cases[i].status);
        EXPECT_MESSAGE("a bad row", cases[i].message);
        EXPECT_HELPFUL("a bad row");
    }
}

/* Null in one of two lists, and in the only list of a page. */
Test(table_model, null_inside_is_refused) {
    static const float weights[] = {1, 2, 3, 4};
    static const uint8_t def[] = {3, 3, 3, 2, 3}, rep[] = {0, 1, 0, 1, 1};
    const aq_bytes names[] = {{(const uint8_t *)"p", 1}, {(const uint8_t *)"q", 1}};
    const table t = {.dtype = AQ_F32, .no_shape = true, .optional = true};
    for (int64_t first = 0; first < 2; first++) {
        const aq_column_values columns[] = {{weights, 4 - 2 * first, def + 2 * first,
                                             rep + 2 * first,
                                             .num_levels = 5 - 2 * first},
                                            {names, .num_values = 2 - first}};
        aq_field_spec fields[8];
        aq_writer *w;
        ASSERT_OK(aq_writer_open(in_dir("t.parquet"), fields, table_fields(&t, fields),
                                 NULL, &w, &err));
        for (int i = 0; i < 2; i++)
            ASSERT_OK(aq_writer_put_column(w, &columns[i], &err));
        ASSERT_OK(aq_writer_end_row_group(w, 2 - first, &err));
        ASSERT_OK(aq_writer_finish(w, &err));
        ASSERT_STATUS(model_read_all(in_dir("t.parquet"), NULL), AQ_E_FORMAT);
        ASSERT_MESSAGE("null inside", first == 0 ? "null inside the weights of row 1"
                                                 : "null inside the weights of row 0");
    }
}

/* The element of a list may be a group that is null. */
Test(table_model, a_null_group_inside_a_shape_is_refused) {
    static const float weights[] = {1, 2, 3};
    static const int64_t dims[] = {3, 1}, lengths[] = {0, 3};
    static const uint8_t def[2][2] = {{4, 4}, {4, 2}}, rep[] = {0, 1};
    const aq_bytes name = {(const uint8_t *)"w", 1};
    const table t = {.dtype = AQ_F32, .no_shape = true};
    for (int null = 0; null < 2; null++) {
        const aq_column_values columns[] = {
            {weights, 3, .large_list_offsets = lengths, .num_lists = 1},
            {&name, .num_values = 1},
            {dims, 2 - null, def[null], rep, .num_levels = 2}};
        aq_field_spec fields[12];
        size_t n = table_fields(&t, fields);
        aq_writer *w;
        n += list_spec(fields + n, "shape", AQ_OPTIONAL,
                       (aq_field_spec){.name = "element",
                                       .repetition = AQ_OPTIONAL,
                                       .type = AQ_GROUP,
                                       .num_children = 1});
        fields[n++] =
            (aq_field_spec){.name = "side", .repetition = AQ_OPTIONAL, .type = AQ_INT64};
        ASSERT_OK(aq_writer_open(in_dir("t.parquet"), fields, n, NULL, &w, &err));
        for (size_t i = 0; i < COUNT_OF(columns); i++)
            ASSERT_OK(aq_writer_put_column(w, &columns[i], &err));
        ASSERT_OK(aq_writer_end_row_group(w, 1, &err));
        ASSERT_OK(aq_writer_finish(w, &err));
        ASSERT_STATUS(model_read_all(in_dir("t.parquet"), NULL),
                      null ? AQ_E_FORMAT : AQ_OK);
        if (null) ASSERT_MESSAGE("null", "null inside the list at value 1");
    }
}

/* Schemas that are no table; of a file without rows. */
Test(table_model, other_schemas_are_refused) {
    static const aq_field_spec name = {.name = "layer_name", .type = AQ_BYTE_ARRAY};
    static const aq_field_spec ints = {.name = "element", .type = AQ_INT32};
    static const aq_field_spec floats = {.name = "element", .type = AQ_FLOAT};
    static const aq_field_spec flat = {.name = "weights", .type = AQ_FLOAT};
    static const aq_field_spec two = {
        .name = "element", .type = AQ_FIXED_LEN_BYTE_ARRAY, .type_length = 2};
    static const char *const messages[] = {"no column layer_name",
                                           "weights has another type",
                                           "weights has another type",
                                           "weights has another type",
                                           "layer_name has another type",
                                           "shape has another type",
                                           "no column"};
    for (size_t i = 0; i < COUNT_OF(messages); i++) {
        aq_field_spec f[8];
        size_t n = 0;
        aq_writer *w;
        if (i != 0) f[n++] = name;
        if (i == 4) f[0].type = AQ_DOUBLE;
        if (i == 1) n += list_spec(f + n, "weights", AQ_OPTIONAL, ints);
        if (i == 2) f[n++] = flat;
        if (i == 3) n += list_spec(f + n, "weights", AQ_OPTIONAL, two);
        if (i == 0 || i == 4 || i == 5)
            n += list_spec(f + n, "weights", AQ_OPTIONAL, floats);
        if (i == 5) n += list_spec(f + n, "shape", AQ_OPTIONAL, floats);
        ASSERT_OK(aq_writer_open(in_dir("t.parquet"), f, n, NULL, &w, &err));
        ASSERT_OK(aq_writer_finish(w, &err));
        ASSERT_STATUS(model_read_all(in_dir("t.parquet"), NULL), AQ_E_TYPE);
        EXPECT_MESSAGE("another schema", messages[i]);
    }
}

/* A table without rows is an empty model. */
Test(table_model, no_rows) {
    const table t = {layers, 0, AQ_F32, .optional = true};
    write_table(in_dir("t.parquet"), &t);
    check_table(in_dir("t.parquet"), &t, false);
}
