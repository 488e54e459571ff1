/* The Arrow C Data Interface from outside: streams of tables, models as streams, the way
 * back to weights, and arrays whose structure lies. */
#include "arrow_read.h"

#include <errno.h>

/* ---- back to weights ---- */

static void dequantize(const table *codes, const aq_arrow_options *o, table *out) {
    ASSERT_OK(aq_dequantize_arrow(&codes->schema, &codes->array, o, &out->schema,
                                  &out->array, &err));
    ASSERT_OK(aq_arrow_validate(&out->schema, &out->array, &err));
}

/* A row has the values that aq_dequantize_rows gives. */
static void expect_values(const table *t, size_t row, const arrow_layer *l,
                          const aq_quant_options *quant, const char *what) {
    quantized q = quantize_layer(l, quant, true, NULL);
    float *values = (float *)offset_alloc(0, l->count * sizeof *values);
    const void *list;
    size_t n;
    cr_assert_eq(
        aq_dequantize_rows(&q.layout, &q.view, 0, q.layout.rows, values, NULL, NULL),
        AQ_OK);
    CHECK(text_is(bytes_at(t, "layer_name", row), l->name), "%s: name of row %zu", what,
          row);
    list = list_at(t, "weights", row, sizeof(float), &n);
    CHECK(n == l->count && memcmp(list, values, n * sizeof *values) == 0,
          "%s: values of row %zu", what, row);
    list = list_at(t, "shape", row, 8, &n);
    CHECK(n == l->dims && memcmp(list, l->shape, n * 8) == 0, "%s: shape", what);
    offset_free(values, 0);
    quantized_free(&q);
}

static void quantize_layers(const aq_arrow_options *o, table *out) {
    arrow_form f;
    table in;
    memset(&f, 0, sizeof f);
    f.shapes = "+l";
    arrow_table(&f, layers, LAYERS, &in.schema, &in.array);
    ASSERT_OK(
        aq_quantize_arrow(&in.schema, &in.array, o, &out->schema, &out->array, &err));
    table_release(&in);
}

Test(arrow_streams, dequantizes_every_kind) {
    static const uint32_t widths[] = {2, 3, 4, 5, 6, 8};
    make_layers();
    for (size_t i = 0; i < 6 * 3 * 3 * 2 * 2; i++) {
        aq_arrow_options o;
        table codes, out;
        char what[80];
        memset(&o, 0, sizeof o);
        o.quant.bits = widths[i % 6];
        o.quant.granularity = (aq_granularity)(i / 6 % 3);
        o.quant.params = (aq_params)(i / 18 % 3);
        o.quant.symmetric = i / 54 % 2 != 0;
        o.quant.group_size = 32;
        if (o.quant.granularity == AQ_PER_TENSOR) o.quant.params = AQ_PARAMS_F32;
        if (i >= 108) { /* codebooks */
            if (o.quant.granularity == AQ_PER_TENSOR) continue;
            o.quant.codebook = true;
            o.quant.params = AQ_PARAMS_U8;
            o.quant.symmetric = false;
            o.quant.bits = i % 2 ? 2 : 4;
        }
        snprintf(what, sizeof what, "options %zu", i);
        quantize_layers(&o, &codes);
        dequantize(&codes, NULL, &out);
        cr_assert_eq(out.array.length, LAYERS);
        cr_assert_eq(out.schema.n_children, 3);
        for (size_t k = 0; k < LAYERS; k++)
            expect_values(&out, k, &layers[k], &o.quant, what);
        table_release(&out);
        table_release(&codes);
    }
    cr_assert_eq(arrow_live, 0);
}

/* Rows [first, first + n) of every column. */
Test(arrow_streams, dequantizes_slices_of_its_own_tables) {
    table codes, out;
    make_layers();
    quantize_layers(NULL, &codes);
    codes.array.offset = 2;
    codes.array.length = 3;
    dequantize(&codes, NULL, &out);
    cr_assert_eq(out.array.length, 3);
    for (size_t k = 0; k < 3; k++)
        expect_values(&out, k, &layers[2 + k], NULL, "slice of the table");
    table_release(&out);
    codes.array.offset = 0;
    for (int64_t c = 0; c < codes.array.n_children; c++) {
        codes.array.children[c]->offset = 1;
        codes.array.children[c]->length = 4;
        if (codes.array.children[c]->null_count > 0) /* it was of all rows */
            codes.array.children[c]->null_count = -1;
    }
    dequantize(&codes, NULL, &out);
    for (size_t k = 0; k < 3; k++)
        expect_values(&out, k, &layers[1 + k], NULL, "slice of the columns");
    table_release(&out);
    table_release(&codes);
}

/* What is changed in a table of codes, and what is said about it. */
typedef struct change {
    const char *column;
    aq_status status;
    const char *message;
} change;

static void *cell_of(const table *t, const char *name, bool item) {
    const struct ArrowArray *a = column(t, name);
    void *p;
    if (item) a = a->children[0];
    memcpy(&p, &a->buffers[a->n_buffers - 1], sizeof p);
    return p;
}

static aq_status dequantize_changed(size_t i, table *codes) {
    table out;
    float nan = (float)NAN;
    uint64_t zero = 0, seven = 7;
    aq_status status;
    uint8_t *bytes;
    switch (i) {
    case 0: /* scales: NaN */
        memcpy(cell_of(codes, "scales", true), &nan, sizeof nan);
        break;
    case 1:
        memcpy(cell_of(codes, "zero_points", true), &nan, sizeof nan);
        break;
    case 2: /* 8 bits: the codes are too few */
        *(uint8_t *)cell_of(codes, "bit_width", false) = 8;
        break;
    case 3:
        *(uint8_t *)cell_of(codes, "bit_width", false) = 7;
        break;
    case 4:
        bytes = (uint8_t *)cell_of(codes, "packing", false);
        bytes[0] = 'm';
        break;
    case 5:
        memcpy(cell_of(codes, "group_size", false), &seven, 8);
        break;
    case 6:
        memcpy(cell_of(codes, "shape", true), &zero, 8);
        break;
    case 7:
        memcpy(cell_of(codes, "quant_type", false), "none", 4);
        break;
    default:
        break;
    }
    status = aq_dequantize_arrow(&codes->schema, &codes->array, NULL, &out.schema,
                                 &out.array, &err);
    if (status == AQ_OK) table_release(&out);
    return status;
}

Test(arrow_streams, codes_that_contradict_themselves) {
    static const change changes[] = {
        {"scales", AQ_E_NONFINITE, "scales hold NaN or infinity at group 0"},
        {"zero_points", AQ_E_NONFINITE, "zero_points hold NaN or infinity"},
        {"bit_width", AQ_E_FORMAT, "disagree"},
        {"bit_width", AQ_E_FORMAT, "disagree"},
        {"packing", AQ_E_UNSUPPORTED, "packing \"msb\""},
        {"group_size", AQ_E_FORMAT, "scales for"},
        {"shape", AQ_E_FORMAT, "scales for 0 groups"},
        {"quant_type", AQ_E_FORMAT, "disagree"}};
    make_layers();
    for (size_t i = 0; i < COUNT_OF(changes); i++) {
        table codes;
        aq_status status;
        quantize_layers(NULL, &codes);
        status = dequantize_changed(i, &codes);
        cr_expect_eq(status, changes[i].status, "%s (%zu): %s: %s", changes[i].column, i,
                     aq_status_name(status), err.message);
        EXPECT_MESSAGE(changes[i].column, changes[i].message);
        EXPECT_MESSAGE(changes[i].column, "row 0");
        table_release(&codes);
    }
}

Test(arrow_streams, columns_of_codes_that_are_missing) {
    static const char *const needed[] = {"layer_name",  "quantized_data", "scales",
                                         "zero_points", "shape",          "bit_width"};
    make_layers();
    for (size_t i = 0; i < COUNT_OF(needed); i++) {
        table codes, out;
        char part[64];
        quantize_layers(NULL, &codes);
        codes.schema.children[arrow_column_index(&codes.schema, needed[i])]->name = "x";
        ASSERT_STATUS(aq_dequantize_arrow(&codes.schema, &codes.array, NULL, &out.schema,
                                          &out.array, &err),
                      AQ_E_TYPE);
        snprintf(part, sizeof part, "no column %s; expected struct<", needed[i]);
        ASSERT_MESSAGE(needed[i], part);
        table_release(&codes);
    }
}

/* ---- streams in, streams out ---- */

#define ROWS 40

static arrow_layer stream_layers[ROWS];
static char stream_names[ROWS][16];

static void make_stream(arrow_source *s, size_t rows) {
    make_layers();
    memset(s, 0, sizeof *s);
    for (size_t i = 0; i < ROWS; i++) {
        stream_layers[i] = layers[i % LAYERS];
        snprintf(stream_names[i], sizeof stream_names[i], "layer %zu", i);
        stream_layers[i].name = stream_names[i];
    }
    s->form.shapes = "+l";
    s->layers = stream_layers;
    s->num_layers = ROWS;
    s->rows = rows;
}

/* Takes a whole stream, checks each row, and returns how many batches there were. */
static size_t drain(struct ArrowArrayStream *out, const char *what) {
    struct ArrowSchema schema;
    struct ArrowArray after;
    size_t batches = 0, row = 0;
    cr_assert_eq(out->get_schema(out, &schema), 0, "%s", what);
    for (;; batches++) {
        table t;
        int code = out->get_next(out, &t.array);
        cr_assert_eq(code, 0, "%s: %s", what, out->get_last_error(out));
        if (t.array.release == NULL) break;
        t.schema = schema;
        ASSERT_OK(aq_arrow_validate(&t.schema, &t.array, &err));
        for (int64_t i = 0; i < t.array.length; i++, row++)
            expect_row(&t, (size_t)i, &stream_layers[row], NULL, true, what);
        t.array.release(&t.array);
    }
    cr_assert_eq(row, ROWS);
    cr_assert_eq(out->get_next(out, &after), 0);
    cr_assert_null(after.release, "nothing comes after the end");
    cr_assert_null(out->get_last_error(out));
    schema.release(&schema);
    return batches;
}

Test(arrow_streams, every_batch_of_a_stream) {
    static const size_t rows[] = {1, 7, ROWS, 100};
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        for (size_t k = 0; k < 4; k++) {
            static const char *const formats[] = {"+l", "+L", "+vl", "+vL"};
            struct ArrowArrayStream in, out;
            struct ArrowSchema schema;
            arrow_source s;
            make_stream(&s, rows[i]);
            s.form.weights = formats[k];
            s.form.column_offset = k;
            arrow_stream_make(&in, &s);
            ASSERT_OK(aq_quantize_arrow_stream(&in, NULL, &out, &err));
            cr_assert_null(in.release, "the stream was moved");
            cr_assert_eq(out.get_schema(&out, &schema), 0);
            cr_assert_str_eq(schema.children[1]->format, k == 0 ? "z" : "Z");
            schema.release(&schema);
            cr_assert_eq(drain(&out, formats[k]), (ROWS + rows[i] - 1) / rows[i]);
            cr_assert_eq(s.released, 0);
            out.release(&out);
            cr_assert_null(out.release);
            cr_assert_eq(s.released, 1);
            cr_assert_eq(arrow_live, 0);
        }
    }
}

/* One batch of the input at a time: it is released before the next is asked for. */
Test(arrow_streams, one_batch_in_memory) {
    struct ArrowArrayStream in, out;
    arrow_source s;
    make_stream(&s, 1);
    arrow_stream_make(&in, &s);
    ASSERT_OK(aq_quantize_arrow_stream(&in, NULL, &out, &err));
    drain(&out, "single rows");
    cr_expect_eq(s.live, 6, "%zu: the schema's structs, and none of a batch", s.live);
    out.release(&out);
}

static void expect_stream_error(arrow_source *s, const aq_arrow_options *o, size_t good,
                                int code, const char *message) {
    struct ArrowArrayStream in, out;
    struct ArrowArray a;
    arrow_stream_make(&in, s);
    ASSERT_OK(aq_quantize_arrow_stream(&in, o, &out, &err));
    for (size_t i = 0; i < good; i++) {
        cr_assert_eq(out.get_next(&out, &a), 0);
        cr_assert_not_null(a.release);
        a.release(&a);
    }
    for (int again = 0; again < 2; again++) { /* the error stays */
        const char *text;
        cr_expect_eq(out.get_next(&out, &a), code);
        cr_expect_null(a.release);
        text = out.get_last_error(&out);
        cr_assert_not_null(text);
        cr_expect(strstr(text, message), "no \"%s\" in \"%s\"", message, text);
    }
    out.release(&out);
    cr_expect_eq(s->released, 1);
    cr_expect_eq(arrow_live, 0);
}

static void expect_stream_ends(arrow_source *s) {
    struct ArrowArrayStream in, out;
    struct ArrowArray a;
    arrow_stream_make(&in, s);
    ASSERT_OK(aq_quantize_arrow_stream(&in, NULL, &out, &err));
    do {
        cr_assert_eq(out.get_next(&out, &a), 0);
        if (a.release != NULL) a.release(&a);
    } while (a.length > 0);
    out.release(&out);
}

Test(arrow_streams, a_stream_that_fails_in_the_middle) {
    arrow_source s;
    make_stream(&s, 8);
    s.fail_next = "the disk is on fire";
    s.fail_at = 16;
    s.fail_code = EIO;
    expect_stream_error(&s, NULL, 2, EIO, "the disk is on fire");
    make_stream(&s, 8);
    s.fail_next = "out of memory";
    s.fail_code = ENOMEM;
    expect_stream_error(&s, NULL, 0, ENOMEM, "out of memory");
}

/* Names that were chosen to have one hash are refused. */
Test(arrow_streams, names_with_one_hash) {
    enum { MANY = 600 };
    static arrow_layer many[MANY];
    static char names[MANY][24];
    arrow_source s;
    make_stream(&s, MANY);
    names_of_one_hash(names, MANY);
    for (size_t i = 0; i < MANY; i++) {
        many[i] = layers[1];
        many[i].name = names[i];
    }
    s.layers = many;
    s.num_layers = MANY;
    expect_stream_error(&s, NULL, 0, EINVAL, "over 512 names of layers have one hash");
    make_stream(&s, MANY);
    s.layers = many;
    s.num_layers = 500;
    expect_stream_ends(&s);
}

/* The second batch says that it has more rows than there can be. */
static int second_length_lies(struct ArrowArrayStream *stream, struct ArrowArray *out) {
    const arrow_source *s = (const arrow_source *)stream->private_data;
    const bool second = s->next > 0;
    int code = arrow_source_next(stream, out);
    if (second) out->length = INT64_MAX;
    return code;
}

Test(arrow_streams, a_length_that_lies_is_not_added) {
    struct ArrowArrayStream in, out;
    struct ArrowArray a;
    arrow_source s;
    make_stream(&s, 8);
    arrow_stream_make(&in, &s);
    in.get_next = second_length_lies;
    ASSERT_OK(aq_quantize_arrow_stream(&in, NULL, &out, &err));
    cr_assert_eq(out.get_next(&out, &a), 0);
    a.release(&a);
    cr_expect_eq(out.get_next(&out, &a), EINVAL);
    cr_expect(strstr(out.get_last_error(&out), "length 9223372036854775807") != NULL);
    out.release(&out);
    cr_expect_eq(arrow_live, 0);
}

Test(arrow_streams, names_are_unique_in_the_whole_stream) {
    arrow_source s;
    make_stream(&s, 8);
    stream_layers[30].name = stream_names[3];
    expect_stream_error(&s, NULL, 3, EINVAL, "table rows 3 and 30 have the same name");
}

Test(arrow_streams, a_fault_ends_a_stream_or_is_reported) {
    static float bad[400];
    struct ArrowArrayStream in, out;
    aq_arrow_report report;
    aq_arrow_options o;
    arrow_source s;
    struct ArrowArray a;
    size_t rows = 0;
    make_stream(&s, 8);
    memcpy(bad, pool[0], sizeof bad);
    bad[13] = (float)NAN;
    stream_layers[18].values = bad;
    expect_stream_error(
        &s, NULL, 2, EINVAL,
        "index 13 (row 0, column 13) (tensor \"layer 18\", table row 18)");
    make_stream(&s, 8);
    stream_layers[18].values = bad;
    stream_layers[33].values = NULL;
    memset(&o, 0, sizeof o);
    memset(&report, 0, sizeof report);
    o.report = &report;
    arrow_stream_make(&in, &s);
    ASSERT_OK(aq_quantize_arrow_stream(&in, &o, &out, &err));
    for (;;) {
        cr_assert_eq(out.get_next(&out, &a), 0);
        if (a.release == NULL) break;
        rows += (size_t)a.length;
        a.release(&a);
    }
    out.release(&out);
    cr_expect_eq(rows, ROWS - 2);
    cr_assert_eq(report.num_failures, 2);
    cr_expect_eq(report.num_rows, ROWS);
    cr_expect_eq(report.failures[0].row, 18);
    cr_expect_eq(report.failures[1].row, 33);
    cr_assert_str_eq(report.failures[1].name, "layer 33");
    aq_arrow_report_deinit(&report);
}

Test(arrow_streams, streams_that_cannot_begin) {
    struct ArrowArrayStream in, out;
    aq_arrow_options o;
    arrow_source s;
    make_stream(&s, 8);
    s.fail_schema = "no schema today";
    s.fail_code = EIO;
    arrow_stream_make(&in, &s);
    ASSERT_STATUS(aq_quantize_arrow_stream(&in, NULL, &out, &err), AQ_E_IO);
    ASSERT_MESSAGE("schema", "no schema today");
    cr_expect_eq(err.os_errno, EIO);
    cr_expect_null(out.release);
    cr_assert_not_null(in.release, "it is still the caller's");
    s.fail_schema = NULL;
    memset(&o, 0, sizeof o);
    o.quant.bits = 9;
    ASSERT_STATUS(aq_quantize_arrow_stream(&in, &o, &out, &err), AQ_E_ARG);
    in.release(&in);
    ASSERT_STATUS(aq_quantize_arrow_stream(&in, NULL, &out, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_quantize_arrow_stream(NULL, NULL, &out, &err), AQ_E_ARG);
    cr_expect_eq(s.released, 1);
    cr_assert_eq(arrow_live, 0);
}

Test(arrow_streams, every_failed_allocation) {
    size_t at = 1;
    bool whole = false;
    for (; !whole && at < 3000; at++) {
        struct ArrowArrayStream in, out;
        struct ArrowSchema schema;
        struct ArrowArray a;
        counting_allocator memory;
        aq_arrow_options o;
        arrow_source s;
        aq_status status;
        make_stream(&s, 8);
        counting_init(&memory);
        memory.fail_at = at;
        memset(&o, 0, sizeof o);
        o.allocator = &memory.hooks;
        o.threads = 1;
        arrow_stream_make(&in, &s);
        status = aq_quantize_arrow_stream(&in, &o, &out, &err);
        cr_assert(status == AQ_OK || status == AQ_E_NOMEM);
        if (status == AQ_OK) {
            int code = out.get_schema(&out, &schema);
            if (code == 0) schema.release(&schema);
            cr_assert(code == 0 || code == ENOMEM);
            if (code != 0) cr_assert_not_null(out.get_last_error(&out));
            whole = code == 0;
            for (;;) {
                code = out.get_next(&out, &a);
                if (code != 0 || a.release == NULL) break;
                a.release(&a);
            }
            whole = whole && code == 0;
            out.release(&out);
        } else {
            in.release(&in);
        }
        cr_assert_eq(s.released, 1);
        cr_assert(counting_is_clean(&memory), "call %zu", at);
        cr_assert_eq(arrow_live, 0);
    }
    cr_assert_gt(at, 100);
    cr_assert(whole);
}

/* ---- models as streams ---- */

#ifndef AQ_NO_WRITER

/* Layers of every kind of tensor in one file. */
static void write_model(const char *path, quantized *q) {
    aq_tensor t[5];
    uint64_t shape[2] = {4, 100};
    for (int i = 0; i < 5; i++) {
        static const char *const model_names[] = {"a.f32", "b.int4", "c.u8", "d.i64",
                                                  "e.empty"};
        aq_quant_options o;
        const void *data = pool[i];
        memset(&o, 0, sizeof o);
        if (i == 2) o.params = AQ_PARAMS_U8;
        if (i == 4) shape[0] = 0;
        if (i == 3) shape[1] = 3;
        ASSERT_OK(aq_tensor_init(&t[i], model_names[i], i == 3 ? AQ_I64 : AQ_F32, shape,
                                 2, data, &err));
        if (i == 3) shape[1] = 100;
        if (i != 1 && i != 2) continue;
        q[i] = quantized_make(4, 100, &o);
        ASSERT_OK(
            aq_quantize_into(&q[i].layout, pool[i], AQ_F32, &q[i].dst, NULL, NULL, &err));
        t[i].layout = q[i].layout;
        t[i].data = q[i].dst.codes;
        t[i].data_bytes = q[i].layout.code_bytes;
        if (i == 1) t[i].scales = q[i].dst.scales;
        if (i == 1) t[i].zero_points = q[i].dst.zero_points;
        if (i == 2) t[i].params = q[i].dst.params;
        t[i].cosine = 0.5 + i;
    }
    ASSERT_OK(aq_model_save(path, t, 5, NULL, &err));
}

static void expect_tensor(const table *batch, const aq_tensor *t, bool mapped) {
    size_t n;
    aq_bytes b = bytes_at(batch, "data", 0);
    const void *list;
    char type[16] = "none";
    cr_assert_eq(batch->array.length, 1);
    cr_expect(text_is(bytes_at(batch, "layer_name", 0), t->name));
    cr_expect(text_is(bytes_at(batch, "dtype", 0), aq_dtype_name(t->dtype)));
    if (t->layout.bits != 0) snprintf(type, sizeof type, "int%u", t->layout.bits);
    cr_expect(text_is(bytes_at(batch, "quant_type", 0), type));
    cr_expect(text_is(bytes_at(batch, "packing", 0), t->layout.bits ? "lsb" : NULL));
    cr_expect_eq(u64_at(batch, "num_params", 0), t->num_params);
    cr_expect(same_double(f64_at(batch, "cosine", 0), t->cosine));
    cr_expect(same_double(f64_at(batch, "sqnr_db", 0), t->sqnr_db));
    list = list_at(batch, "shape", 0, 8, &n);
    cr_expect(n == t->num_dims && memcmp(list, t->shape, n * 8) == 0);
    cr_expect(b.size == t->data_bytes && memcmp(b.data, t->data, b.size) == 0, "%s",
              t->name);
    list = list_at(batch, "scales", 0, sizeof(float), &n);
    cr_expect_eq(n, t->scales != NULL ? t->layout.num_groups : 0);
    cr_expect(n == 0 || memcmp(list, t->scales, n * sizeof(float)) == 0);
    cr_expect(!mapped || n == 0 || list == t->scales, "scales lie in the mapping");
    cr_expect(!mapped || b.size == 0 || b.data == t->data, "data lie in the mapping");
    b = bytes_at(batch, "group_params", 0);
    cr_expect_eq(b.size, t->params != NULL ? t->layout.params_bytes : SIZE_MAX);
    cr_expect(t->params == NULL || memcmp(b.data, t->params, b.size) == 0);
    cr_expect(!mapped || t->params == NULL || b.data == t->params);
}

/* The same from a mapping and by reads; closed before, during and after. */
Test(arrow_streams, models_without_a_copy) {
    temp_dir dir;
    char path[300];
    quantized q[5];
    make_layers();
    cr_assert(temp_dir_make(&dir));
    temp_dir_file(&dir, "m.parquet", path, sizeof path);
    write_model(path, q);
    for (int k = 0; k < 4; k++) {
        aq_model_options mo;
        aq_model *model, *same;
        struct ArrowArrayStream stream;
        struct ArrowSchema schema;
        table kept[5];
        counting_allocator memory;
        size_t n = 0;
        memset(&mo, 0, sizeof mo);
        counting_init(&memory);
        mo.allocator = &memory.hooks;
        mo.io = k % 2 ? AQ_IO_READ : AQ_IO_AUTO;
        ASSERT_OK(aq_model_open(path, &mo, &model, &err));
        ASSERT_OK(aq_model_open(path, NULL, &same, &err));
        ASSERT_OK(aq_model_export_arrow_stream(model, &stream, &err));
        cr_assert_eq(stream.get_schema(&stream, &schema), 0);
        for (;; n++) {
            aq_tensor t;
            struct ArrowArray a;
            cr_assert_eq(stream.get_next(&stream, &a), 0);
            if (a.release == NULL) break;
            cr_assert_lt(n, 5);
            kept[n].array = a;
            kept[n].schema = schema;
            ASSERT_OK(aq_arrow_validate(&schema, &a, &err));
            ASSERT_OK(aq_model_tensor(model, n, &t, &err));
            expect_tensor(&kept[n], &t, k % 2 == 0 && t.mapped);
            aq_tensor_release(&t);
        }
        cr_assert_eq(n, 5);
        if (k < 2) aq_model_close(model); /* before the arrays are done */
        if (k < 2) stream.release(&stream);
        for (size_t i = 0; i < n; i++) {
            aq_tensor t;
            ASSERT_OK(aq_model_tensor(same, i, &t, &err));
            expect_tensor(&kept[i], &t, false);
            aq_tensor_release(&t);
        }
        for (size_t i = 0; i < n; i++) {
            struct ArrowArray moved = *kept[i].array.children[3]; /* data */
            kept[i].array.children[3]->release = NULL;
            kept[i].array.release(&kept[i].array);
            if (moved.length == 1) moved.release(&moved);
        }
        schema.release(&schema);
        if (k >= 2) stream.release(&stream);
        if (k >= 2) aq_model_close(model);
        aq_model_close(same);
        cr_assert(counting_is_clean(&memory));
    }
    quantized_free(&q[1]);
    quantized_free(&q[2]);
    temp_dir_remove(&dir);
}

/* A model's table is dequantized like any other, but for its integers. */
Test(arrow_streams, models_to_weights) {
    static const aq_status wanted[] = {AQ_OK, AQ_OK, AQ_OK, AQ_E_TYPE, AQ_OK};
    struct ArrowArrayStream stream;
    temp_dir dir;
    char path[300];
    quantized q[5];
    aq_model *model;
    table t, out;
    make_layers();
    cr_assert(temp_dir_make(&dir));
    temp_dir_file(&dir, "m.parquet", path, sizeof path);
    write_model(path, q);
    ASSERT_OK(aq_model_open(path, NULL, &model, &err));
    ASSERT_OK(aq_model_export_arrow_stream(model, &stream, &err));
    aq_model_close(model);
    cr_assert_eq(stream.get_schema(&stream, &t.schema), 0);
    cr_assert_not_null(t.schema.metadata, "the model's own key-value metadata");
    for (size_t i = 0; i < 5; i++) {
        float values[400];
        size_t n;
        cr_assert_eq(stream.get_next(&stream, &t.array), 0);
        ASSERT_STATUS(
            aq_dequantize_arrow(&t.schema, &t.array, NULL, &out.schema, &out.array, &err),
            wanted[i]);
        t.array.release(&t.array);
        if (wanted[i] != AQ_OK) continue;
        if (i == 0) /* the file has them as if they were little-endian */
            ASSERT_OK(aq_to_f32(pool[0], AQ_F32, 400, values, &err));
        if (i == 1 || i == 2)
            ASSERT_OK(
                aq_dequantize_rows(&q[i].layout, &q[i].view, 0, 4, values, NULL, &err));
        cr_expect_eq(memcmp(list_at(&out, "weights", 0, 4, &n), values,
                            i == 4 ? 0 : sizeof values),
                     0, "tensor %zu", i);
        cr_expect_eq(n, i == 4 ? 0 : 400);
        table_release(&out);
    }
    stream.release(&stream);
    t.schema.release(&t.schema);
    quantized_free(&q[1]);
    quantized_free(&q[2]);
    temp_dir_remove(&dir);
}

Test(arrow_streams, models_with_every_failed_allocation) {
    temp_dir dir;
    char path[300];
    quantized q[5];
    size_t failures = 0, from = 0;
    make_layers();
    cr_assert(temp_dir_make(&dir));
    temp_dir_file(&dir, "m.parquet", path, sizeof path);
    write_model(path, q);
    for (size_t at = 1;; at++) {
        aq_model_options mo;
        aq_model *model;
        struct ArrowArrayStream stream;
        struct ArrowSchema schema;
        struct ArrowArray a;
        counting_allocator memory;
        aq_status status;
        int code = 0;
        memset(&mo, 0, sizeof mo);
        counting_init(&memory);
        mo.allocator = &memory.hooks;
        ASSERT_OK(aq_model_open(path, &mo, &model, &err));
        from = memory.calls;
        memory.fail_at = from + at;
        status = aq_model_export_arrow_stream(model, &stream, &err);
        cr_assert(status == AQ_OK || status == AQ_E_NOMEM);
        aq_model_close(model);
        if (status == AQ_OK) {
            code = stream.get_schema(&stream, &schema);
            if (code == 0) schema.release(&schema);
            for (int i = 0; code == 0 && i < 6; i++) {
                code = stream.get_next(&stream, &a);
                if (code == 0 && a.release != NULL) a.release(&a);
            }
            cr_assert(code == 0 || code == ENOMEM, "%d", code);
            if (code != 0) cr_assert_not_null(stream.get_last_error(&stream));
            stream.release(&stream);
        }
        cr_assert(counting_is_clean(&memory), "call %zu", at);
        if (status == AQ_OK && code == 0) break;
        failures++;
    }
    cr_assert_gt(failures, 100);
    quantized_free(&q[1]);
    quantized_free(&q[2]);
    temp_dir_remove(&dir);
}

#endif

/* ---- structures that lie ---- */

/* Formats that stand by themselves: what the library knows, and what nobody does. */
Test(arrow_streams, formats_that_are_known) {
    static const char *const known[] = {
        "n",           "b",   "c",   "C",   "s",   "S",   "i",       "I",
        "l",           "L",   "e",   "f",   "g",   "z",   "Z",       "u",
        "U",           "vz",  "vu",  "w:3", "w:0", "tdD", "d:19,10", "d:9,2,32",
        "d:76,10,256", "tdm", "tts", "ttm", "ttu", "ttn", "tss:",    "tsn:UTC",
        "tDs",         "tDn", "tiM", "tiD", "tin"};
    static const char *const unknown[] = {"",    "x",  "ff",   "w:",   "w:-1",   "d:",
                                          "d:9", "ts", "tsx:", "+x",   "+w:",    "+w:x",
                                          "v",   "vx", "tdx",  "w:3x", "d:9,2,x"};
    static const uint8_t zeros[64] = {0};
    for (size_t i = 0; i < COUNT_OF(known) + COUNT_OF(unknown); i++) {
        const bool good = i < COUNT_OF(known);
        const char *f = good ? known[i] : unknown[i - COUNT_OF(known)];
        const bool bytes = strchr("zuZU", f[0]) && f[0] != '\0', view = f[0] == 'v';
        struct ArrowSchema s;
        struct ArrowArray a;
        aq_status status;
        arrow_schema_make(&s, f, "x", 0);
        arrow_array_make(&a, 1, f[0] == 'n' ? 0 : bytes || view ? 3 : 2, 0);
        if (f[0] != 'n') arrow_buffer(&a, 1, zeros, 64, 0);
        if (f[0] == 'n') a.null_count = 1;
        status = aq_arrow_validate(&s, &a, &err);
        cr_expect_eq(status, good ? AQ_OK : AQ_E_UNSUPPORTED, "%s: %s", f, err.message);
        s.release(&s);
        a.release(&a);
    }
}

/* Any number of a table that is not what it was: an error, or a table that is good. */
static void break_struct(table *in, struct ArrowSchema *s, struct ArrowArray *a,
                         const char *what) {
    static const int64_t lies[] = {-2, -1,  0,         1,         2,        3,
                                   5,  100, INT32_MAX, INT64_MAX, INT64_MIN};
    int64_t *const numbers[] = {&a->length, &a->null_count, &a->offset, &a->n_buffers,
                                &a->n_children};
    for (size_t k = 0; k < COUNT_OF(numbers); k++) {
        for (size_t i = 0; i < COUNT_OF(lies); i++) {
            int64_t was = *numbers[k];
            aq_status status, again;
            table out;
            /* More buffers, and null bits or values beyond the memory, cannot be seen. */
            if (k == 3 && lies[i] > was && strchr("v", s->format[0])) continue;
            if (k == 1 && a->null_count == 0 && lies[i] > 0 && a->buffers[0] != NULL)
                continue;
            if ((k == 0 || k == 2) && lies[i] > was && lies[i] <= INT32_MAX &&
                s->n_children == 0)
                continue;
            if ((k == 0 || k == 2) && lies[i] > was && lies[i] <= INT32_MAX &&
                strncmp(s->format, "+s", 2) != 0)
                continue;
            *numbers[k] = lies[i];
            status = aq_arrow_validate(&in->schema, &in->array, &err);
            again = aq_quantize_arrow(&in->schema, &in->array, NULL, &out.schema,
                                      &out.array, &err);
            if (again == AQ_OK) table_release(&out);
            if (lies[i] < -1 || lies[i] >= INT32_MAX)
                CHECK(status == AQ_E_FORMAT && (again != AQ_OK || k == 1),
                      "%s: number %zu is %lld: %s, %s", what, k, (long long)lies[i],
                      aq_status_name(status), aq_status_name(again));
            *numbers[k] = was;
        }
    }
}

static void break_parts(table *in, struct ArrowSchema *s, struct ArrowArray *a,
                        const char *what) {
    void (*release)(struct ArrowArray *) = a->release;
    void (*schema_release)(struct ArrowSchema *) = s->release;
    const char *format = s->format;
    aq_status status;
    break_struct(in, s, a, what);
    a->release = NULL;
    CHECK(aq_arrow_validate(&in->schema, &in->array, &err) == AQ_E_ARG, "%s: %s", what,
          err.message);
    a->release = release;
    s->release = NULL;
    CHECK(aq_arrow_validate(&in->schema, &in->array, &err) == AQ_E_ARG, "%s", what);
    s->release = schema_release;
    s->format = NULL;
    CHECK(aq_arrow_validate(&in->schema, &in->array, &err) == AQ_E_FORMAT, "%s", what);
    s->format = format;
    for (int64_t i = 1; i < a->n_buffers && strchr("v", format[0]) == NULL; i++) {
        const void *was = a->buffers[i];
        table out;
        a->buffers[i] = NULL;
        CHECK(aq_arrow_validate(&in->schema, &in->array, &err) == AQ_E_FORMAT,
              "%s: buffer %d", what, (int)i);
        status = aq_quantize_arrow(&in->schema, &in->array, NULL, &out.schema, &out.array,
                                   &err);
        CHECK(status == AQ_E_FORMAT, "%s: buffer %d: %s", what, (int)i,
              aq_status_name(status));
        a->buffers[i] = was;
    }
    if (a->n_children > 0) {
        struct ArrowArray **was = a->children, *child = a->children[0];
        a->children = NULL;
        CHECK(aq_arrow_validate(&in->schema, &in->array, &err) == AQ_E_FORMAT, "%s",
              what);
        a->children = was;
        a->children[0] = NULL;
        CHECK(aq_arrow_validate(&in->schema, &in->array, &err) == AQ_E_FORMAT, "%s",
              what);
        a->children[0] = child;
        for (int64_t i = 0; i < a->n_children; i++)
            break_parts(in, s->children[i], a->children[i], s->children[i]->name);
    }
    if (a->dictionary != NULL)
        break_parts(in, s->dictionary, a->dictionary, "dictionary");
}

Test(arrow_streams, structures_that_lie) {
    make_equal_layers();
    for (size_t i = 0; i < 16; i++) {
        static const char *const lists[] = {"+l", "+L", "+vl", "+w:240"};
        static const char *const texts[] = {"u", "U", "vu", "u"};
        arrow_form f;
        table in;
        memset(&f, 0, sizeof f);
        f.weights = lists[i % 4];
        f.names = texts[i / 4];
        f.index = i / 4 == 3 ? 'i' : 0;
        f.shapes = "+l";
        arrow_table(&f, layers, LAYERS, &in.schema, &in.array);
        ASSERT_OK(aq_arrow_validate(&in.schema, &in.array, &err));
        break_parts(&in, &in.schema, &in.array, "table");
        ASSERT_OK(aq_arrow_validate(&in.schema, &in.array, &err));
        table_release(&in);
    }
    cr_assert_eq(arrow_live, 0);
}

/* Offsets that fall, reach too far, or begin below 0; sizes, indices and views too. */
Test(arrow_streams, offsets_that_lie) {
    static const struct {
        arrow_form form;
        const char *column;
        int buffer, at, width;
        int64_t value;
        const char *message;
    } cases[] = {
        {{.weights = "+l"}, "weights", 1, 0, 4, -1, "offsets begin at -1"},
        {{.weights = "+l"}, "weights", 1, 2, 4, 0, "offsets fall"},
        {{.weights = "+l"}, "weights", 1, 6, 4, 1000000, "offsets reach 1000000"},
        {{.weights = "+L"}, "weights", 1, 6, 8, INT64_MAX, "offsets reach"},
        {{.weights = "+L"}, "weights", 1, 3, 8, INT64_MIN, "offsets fall"},
        {{.weights = "+vl"}, "weights", 1, 2, 4, -5, "from -5 on"},
        {{.weights = "+vl"}, "weights", 2, 2, 4, -5, "has -5 values"},
        {{.weights = "+vL"}, "weights", 2, 2, 8, INT64_MAX, "values from"},
        {{.names = "u"}, "layer_name", 1, 0, 4, -1, "offsets begin at -1"},
        {{.names = "u"}, "layer_name", 1, 3, 4, 0, "offsets fall"},
        {{.names = "U"}, "layer_name", 1, 6, 8, INT64_MAX, "offsets reach"},
        {{.names = "vu"}, "layer_name", 1, 0, 4, -1, "row 0 has -1 bytes"},
        {{.names = "vu"}, "layer_name", 1, 2, 4, -1, "in buffer -1"},
        {{.names = "vu"}, "layer_name", 1, 2, 4, 2, "in buffer 2 of 2"},
        {{.names = "vu"}, "layer_name", 1, 3, 4, 100000, "from 100000 on"},
        {{.names = "vu"}, "layer_name", 1, 3, 4, -1, "from -1 on"},
        {{.index = 'i'}, "layer_name", 1, 2, 4, 12, "row 2 is index 12 of 12"},
        {{.index = 'i'}, "layer_name", 1, 2, 4, -1, "row 2 is index -1"},
        {{.index = 'L'}, "layer_name", 1, 2, 8, -1, "row 2 is index -1"},
        {{.shapes = "+l"}, "shape", 1, 4, 4, 0, "offsets fall"}};
    make_layers();
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        table in, out;
        aq_status status;
        void *p;
        arrow_table(&cases[i].form, layers, LAYERS, &in.schema, &in.array);
        memcpy(&p, &column(&in, cases[i].column)->buffers[cases[i].buffer], sizeof p);
        arrow_put_int(p, (size_t)cases[i].at, (size_t)cases[i].width, cases[i].value);
        status = aq_arrow_validate(&in.schema, &in.array, &err);
        cr_expect_eq(status, AQ_E_FORMAT, "case %zu: %s", i, aq_status_name(status));
        EXPECT_MESSAGE("offsets", cases[i].message);
        EXPECT_MESSAGE("offsets", cases[i].column);
        status =
            aq_quantize_arrow(&in.schema, &in.array, NULL, &out.schema, &out.array, &err);
        cr_expect_eq(status, AQ_E_FORMAT, "case %zu: %s", i, aq_status_name(status));
        EXPECT_MESSAGE("offsets", cases[i].message);
        EXPECT_MESSAGE("offsets", cases[i].column);
        table_release(&in);
    }
}

Test(arrow_streams, views_without_sizes_of_their_buffers) {
    const arrow_form f = {.names = "vu"};
    struct ArrowArray *a;
    const void *sizes;
    table in;
    make_layers();
    arrow_table(&f, layers, LAYERS, &in.schema, &in.array);
    a = in.array.children[arrow_column_index(&in.schema, "layer_name")];
    sizes = a->buffers[a->n_buffers - 1];
    a->buffers[a->n_buffers - 1] = NULL;
    ASSERT_STATUS(aq_arrow_validate(&in.schema, &in.array, &err), AQ_E_FORMAT);
    ASSERT_MESSAGE("sizes", "no sizes of its 2 buffers");
    a->buffers[a->n_buffers - 1] = sizes;
    ASSERT_OK(aq_arrow_validate(&in.schema, &in.array, &err));
    table_release(&in);
}

/* ---- columns of other kinds ---- */

/* A table of one column of `length` rows, whose buffers and children are to be made. */
static struct ArrowArray *odd_column(table *t, const char *name, const char *format,
                                     size_t length, size_t buffers, size_t children) {
    arrow_schema_make(&t->schema, "+s", "", 1);
    arrow_schema_make(t->schema.children[0], format, name, children);
    arrow_array_make(&t->array, length, 1, 1);
    arrow_array_make(t->array.children[0], length, buffers, children);
    return t->array.children[0];
}

/* Child k of that column: `length` int32, or what has their size. */
static struct ArrowArray *odd_child(table *t, size_t k, const char *format,
                                    const int32_t *values, size_t length) {
    struct ArrowArray *a = t->array.children[0]->children[k];
    arrow_schema_make(t->schema.children[0]->children[k], format, "child", 0);
    arrow_array_make(a, length, 2, 0);
    arrow_buffer(a, 1, values, length * sizeof *values, 0);
    return a;
}

static const int32_t counted[8] = {0, 1, 2, 3, 4, 5, 6, 7};

Test(arrow_streams, runs_that_lie) {
    static const struct {
        const char *format;
        int32_t ends[2];
        size_t offset, length, values;
        int null_at;
        const char *message; /* NULL = it is good */
    } cases[] = {{"i", {2, 5}, 0, 5, 2, -1, NULL},
                 {"i", {2, 5}, 2, 3, 3, -1, NULL},
                 {"f", {2, 5}, 0, 5, 2, -1, "run ends are not int16, int32 or int64"},
                 {"I", {2, 5}, 0, 5, 2, -1, "run ends are not int16, int32 or int64"},
                 {"i", {0, 5}, 0, 5, 2, -1, "run ends do not rise at 0"},
                 {"i", {2, 2}, 0, 5, 2, -1, "run ends do not rise at 1"},
                 {"i", {2, 5}, 0, 5, 2, 1, "run ends do not rise at 1"},
                 {"i", {2, 4}, 0, 5, 2, -1, "runs end at 4, the array at 5"},
                 {"i", {2, 5}, 3, 3, 2, -1, "runs end at 5, the array at 6"},
                 {"i", {2, 5}, 0, 5, 1, -1, "runs end at 5"}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        table t;
        aq_status status;
        struct ArrowArray *a = odd_column(&t, "x", "+r", cases[i].length, 0, 2), *ends;
        a->offset = (int64_t)cases[i].offset;
        ends = odd_child(&t, 0, cases[i].format, cases[i].ends, 2);
        if (cases[i].null_at >= 0) {
            const bool valid[2] = {cases[i].null_at != 0, cases[i].null_at != 1};
            arrow_validity(ends, valid, 0);
        }
        odd_child(&t, 1, "i", counted, cases[i].values);
        status = aq_arrow_validate(&t.schema, &t.array, &err);
        cr_expect_eq(status, cases[i].message == NULL ? AQ_OK : AQ_E_FORMAT,
                     "case %zu: %s", i, err.message);
        if (cases[i].message != NULL) {
            EXPECT_MESSAGE("runs", cases[i].message);
            EXPECT_MESSAGE("runs", "column x");
        }
        table_release(&t);
    }
    cr_assert_eq(arrow_live, 0);
}

Test(arrow_streams, unions_that_lie) {
    static const uint8_t types[4] = {0, 1, 0, 1};
    static const struct {
        const char *format;
        size_t buffers, filled, values;
        const char *message;
    } cases[] = {{"+us:0,1", 1, 1, 4, NULL},
                 {"+ud:0,1", 2, 2, 2, NULL},
                 {"+us:0,1", 1, 1, 3, "child 0 has 3 elements, 4 needed"},
                 {"+us:0,1", 1, 0, 4, "buffer 0 missing"},
                 {"+ud:0,1", 1, 1, 4, "1 buffers in place of 2"},
                 {"+ud:0,1", 2, 1, 4, "buffer 1 missing"},
                 {"+us:0,1", 2, 2, 4, "2 buffers in place of 1"}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        table t;
        aq_status status;
        struct ArrowArray *a =
            odd_column(&t, "x", cases[i].format, 4, cases[i].buffers, 2);
        if (cases[i].filled > 0) arrow_buffer(a, 0, types, sizeof types, 0);
        if (cases[i].filled > 1) arrow_buffer(a, 1, counted, 4 * sizeof counted[0], 0);
        odd_child(&t, 0, "i", counted, cases[i].values);
        odd_child(&t, 1, "f", counted, cases[i].values);
        status = aq_arrow_validate(&t.schema, &t.array, &err);
        cr_expect_eq(status, cases[i].message == NULL ? AQ_OK : AQ_E_FORMAT,
                     "case %zu: %s", i, err.message);
        if (cases[i].message != NULL) EXPECT_MESSAGE("union", cases[i].message);
        table_release(&t);
    }
    cr_assert_eq(arrow_live, 0);
}

/* What contradicts itself before any value is looked at. */
Test(arrow_streams, columns_that_lie) {
    static const char *const messages[] = {"the array has a dictionary, the schema none",
                                           "the schema has a dictionary, the array none",
                                           "indices of a dictionary that are no integers",
                                           "null_count 1, but 2 nulls",
                                           "null_count 1, but no validity bitmap",
                                           "buffers missing",
                                           "1 children in place of 0",
                                           "the schema has -1 children",
                                           "child 0 missing",
                                           "children missing",
                                           "child 0 has 4 elements, "};
    static const bool valid[4] = {true, false, false, true};
    for (size_t i = 0; i < COUNT_OF(messages); i++) {
        table t, dictionary;
        struct ArrowSchema *no_child[1] = {NULL};
        const bool nested = i >= 6;
        struct ArrowArray *a = odd_column(&t, "x",
                                          i == 10  ? "+w:2147483647"
                                          : i == 2 ? "f"
                                                   : "i",
                                          4, i == 10 ? 1 : 2, nested ? 1 : 0);
        struct ArrowSchema *s = t.schema.children[0], **schemas = s->children;
        odd_column(&dictionary, "x", "i", 4, 2, 0);
        arrow_buffer(dictionary.array.children[0], 1, counted, 4 * sizeof counted[0], 0);
        if (i != 10) arrow_buffer(a, 1, counted, 4 * sizeof counted[0], 0);
        if (nested) odd_child(&t, 0, "i", counted, 4);
        if (i == 0 || i == 2) a->dictionary = dictionary.array.children[0];
        if (i == 1 || i == 2) s->dictionary = dictionary.schema.children[0];
        if (i == 3) arrow_validity(a, valid, 0);
        if (i == 3 || i == 4) a->null_count = 1;
        if (i == 5) a->buffers = NULL;
        if (i == 7) s->n_children = a->n_children = -1;
        if (i == 8) s->children = no_child;
        if (i == 9) s->children = NULL;
        if (i == 10) a->length = t.array.length = (int64_t)(SIZE_MAX / 64);
        ASSERT_STATUS(aq_arrow_validate(&t.schema, &t.array, &err), AQ_E_FORMAT);
        EXPECT_MESSAGE("column", messages[i]);
        EXPECT_MESSAGE("column", "column x");
        a->dictionary = NULL;
        s->dictionary = NULL;
        s->children = schemas;
        s->n_children = a->n_children = nested;
        table_release(&dictionary);
        table_release(&t);
    }
    cr_assert_eq(arrow_live, 0);
}

Test(arrow_streams, nesting_has_a_limit) {
    for (int64_t depth = 62; depth <= 65; depth++) {
        table t;
        struct ArrowArray *a = odd_column(&t, "x", "+s", 0, 1, 1);
        struct ArrowSchema *s = t.schema.children[0];
        for (int64_t i = 1; i < depth; i++) {
            arrow_schema_make(s->children[0], "+s", "deeper", 1);
            arrow_array_make(a->children[0], 0, 1, 1);
            s = s->children[0];
            a = a->children[0];
        }
        arrow_schema_make(s->children[0], "n", "end", 0);
        arrow_array_make(a->children[0], 0, 0, 0);
        ASSERT_STATUS(aq_arrow_validate(&t.schema, &t.array, &err),
                      depth < 64 ? AQ_OK : AQ_E_LIMIT);
        if (depth >= 64) ASSERT_MESSAGE("depth", "nested over 64 deep");
        table_release(&t);
    }
}

/* A column of weights of any other type is refused by the type's name. */
Test(arrow_streams, types_have_names) {
    static const struct {
        const char *format;
        size_t buffers;
        const char *child, *name;
    } cases[] = {{"n", 0, NULL, "null"},
                 {"b", 2, NULL, "bool"},
                 {"c", 2, NULL, "int8"},
                 {"C", 2, NULL, "uint8"},
                 {"s", 2, NULL, "int16"},
                 {"S", 2, NULL, "uint16"},
                 {"i", 2, NULL, "int32"},
                 {"I", 2, NULL, "uint32"},
                 {"l", 2, NULL, "int64"},
                 {"L", 2, NULL, "uint64"},
                 {"e", 2, NULL, "float16"},
                 {"f", 2, NULL, "float32"},
                 {"g", 2, NULL, "float64"},
                 {"u", 3, NULL, "utf8"},
                 {"U", 3, NULL, "large_utf8"},
                 {"vu", 3, NULL, "utf8_view"},
                 {"z", 3, NULL, "binary"},
                 {"Z", 3, NULL, "large_binary"},
                 {"vz", 3, NULL, "binary_view"},
                 {"tdD", 2, NULL, "tdD"},
                 {"+s", 1, NULL, "struct"},
                 {"+s", 1, "i", "struct<int32>"},
                 {"+m", 2, "f", "map<float32>"},
                 {"+l", 2, "l", "list<int64>"},
                 {"+L", 2, "b", "large_list<bool>"},
                 {"+vl", 3, "C", "list_view<uint8>"},
                 {"+vL", 3, "I", "large_list_view<uint32>"},
                 {"+w:3", 1, "tdD", "fixed_size_list<tdD>"},
                 {"+us:0", 1, "i", "+us:0<int32>"}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        table t, out;
        char text[80];
        odd_column(&t, "weights", cases[i].format, 0, cases[i].buffers,
                   cases[i].child != NULL);
        if (cases[i].child != NULL) odd_child(&t, 0, cases[i].child, counted, 0);
        ASSERT_STATUS(
            aq_quantize_arrow(&t.schema, &t.array, NULL, &out.schema, &out.array, &err),
            AQ_E_TYPE);
        snprintf(text, sizeof text, "column weights is %s; it must be", cases[i].name);
        EXPECT_MESSAGE(cases[i].format, text);
        table_release(&t);
    }
    cr_assert_eq(arrow_live, 0);
}

/* A column of lists is none where the lists are the values of a dictionary. */
Test(arrow_streams, lists_behind_a_dictionary) {
    table t, lists, out;
    struct ArrowArray *a = odd_column(&t, "weights", "i", 0, 2, 0);
    a->dictionary = odd_column(&lists, "x", "+l", 0, 2, 1);
    t.schema.children[0]->dictionary = lists.schema.children[0];
    odd_child(&lists, 0, "f", counted, 0);
    ASSERT_STATUS(
        aq_quantize_arrow(&t.schema, &t.array, NULL, &out.schema, &out.array, &err),
        AQ_E_TYPE);
    ASSERT_MESSAGE("weights", "column weights is dictionary<int32, list>; it must be");
    a->dictionary = NULL;
    t.schema.children[0]->dictionary = NULL;
    table_release(&lists);
    table_release(&t);
    cr_assert_eq(arrow_live, 0);
}

/* ---- codes of other producers ---- */

/* Each column of codes under the name of another that has another type. */
Test(arrow_streams, columns_of_codes_of_a_wrong_type) {
    static const char *const columns[] = {
        "layer_name", "quantized_data", "data",         "shape",       "bit_width",
        "scales",     "zero_points",    "dtype",        "quant_type",  "group_size",
        "quant_axis", "packing",        "group_params", "params_type", "codebook"};
    make_layers();
    for (size_t i = 0; i < COUNT_OF(columns); i++) {
        const bool list = strstr(columns[i], "scales") != NULL || i == 6;
        const char *donor = list ? "layer_name" : "scales";
        table codes, out;
        char text[80];
        size_t at;
        quantize_layers(NULL, &codes);
        at = arrow_column_index(&codes.schema, columns[i]);
        if (at != SIZE_MAX) codes.schema.children[at]->name = "was";
        codes.schema.children[arrow_column_index(&codes.schema, donor)]->name =
            columns[i];
        ASSERT_STATUS(aq_dequantize_arrow(&codes.schema, &codes.array, NULL, &out.schema,
                                          &out.array, &err),
                      AQ_E_TYPE);
        snprintf(text, sizeof text, "column %s is ", columns[i]);
        EXPECT_MESSAGE(columns[i], text);
        table_release(&codes);
    }
}

/* Row 0 is null, or an element of its list. */
static void make_null(struct ArrowArray *a, const uint8_t *bits) {
    a->buffers[0] = bits;
    a->null_count = -1;
}

static struct ArrowArray *codes_column(table *t, const char *name) {
    return t->array.children[arrow_column_index(&t->schema, name)];
}

/* One byte or value less in row 0. */
static void shorten(table *t, const char *name) {
    void *offsets;
    memcpy(&offsets, &codes_column(t, name)->buffers[1], sizeof offsets);
    arrow_put_int(offsets, 1, strchr("LZ", format_of(t, name)[0]) ? 8 : 4,
                  offset_at(t, name, 1) - 1);
}

Test(arrow_streams, codes_that_are_not_whole) {
    static const uint8_t no_first[8] = {0xfe, 255, 255, 255, 255, 255, 255, 255};
    static const struct {
        const char *column, *message;
    } cases[] = {{"quantized_data", "quantized_data is null (tensor"},
                 {"shape", "shape is null (tensor"},
                 {"bit_width", "bit_width is null (tensor"},
                 {"scales", "scales hold a null at group 0 (tensor"},
                 {"zero_points", "zero_points hold a null at group 0 (tensor"},
                 {"quantized_data", "its shape and type need"},
                 {"zero_points", "zero points (tensor"}};
    make_layers();
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        table codes, out;
        struct ArrowArray *a;
        const void *validity;
        quantize_layers(NULL, &codes);
        a = codes_column(&codes, cases[i].column);
        if (i == 3 || i == 4) a = a->children[0];
        validity = a->buffers[0];
        if (i < 5) make_null(a, no_first);
        if (i >= 5) shorten(&codes, cases[i].column);
        ASSERT_STATUS(aq_dequantize_arrow(&codes.schema, &codes.array, NULL, &out.schema,
                                          &out.array, &err),
                      AQ_E_FORMAT);
        EXPECT_MESSAGE(cases[i].column, cases[i].message);
        a->buffers[0] = validity;
        table_release(&codes);
    }
}

/* Scales that do not lie on multiples of 4 give the same values. */
Test(arrow_streams, scales_on_odd_addresses) {
    table codes, out;
    uint8_t *moved[2];
    const void *was[2];
    make_layers();
    quantize_layers(NULL, &codes);
    for (int k = 0; k < 2; k++) {
        struct ArrowArray *a = codes_column(&codes, k == 0 ? "scales" : "zero_points");
        const size_t bytes = (size_t)a->children[0]->length * sizeof(float);
        was[k] = a->children[0]->buffers[1];
        moved[k] = malloc(bytes + 1);
        cr_assert_not_null(moved[k]);
        memcpy(moved[k] + 1, was[k], bytes);
        a->children[0]->buffers[1] = moved[k] + 1;
    }
    dequantize(&codes, NULL, &out);
    for (size_t k = 0; k < LAYERS; k++)
        expect_values(&out, k, &layers[k], NULL, "odd addresses");
    for (int k = 0; k < 2; k++) {
        codes_column(&codes, k == 0 ? "scales" : "zero_points")->children[0]->buffers[1] =
            was[k];
        free(moved[k]);
    }
    table_release(&out);
    table_release(&codes);
}

/* ---- producers that say little ---- */

static int released_schema(struct ArrowArrayStream *stream, struct ArrowSchema *out) {
    (void)stream;
    memset(out, 0, sizeof *out);
    return 0;
}

static void release_without_children(struct ArrowSchema *s) {
    s->n_children = 0;
    arrow_schema_release(s);
}

static int schema_without_children(struct ArrowArrayStream *stream,
                                   struct ArrowSchema *out) {
    (void)stream;
    arrow_schema_make(out, "+s", "", 0);
    out->n_children = 2;
    out->release = release_without_children;
    return 0;
}

Test(arrow_streams, producers_that_say_little) {
    struct ArrowArrayStream in, out;
    arrow_source s;
    make_stream(&s, 8);
    s.fail_schema = "nobody asks";
    s.fail_code = EIO;
    arrow_stream_make(&in, &s);
    in.get_last_error = NULL;
    ASSERT_STATUS(aq_quantize_arrow_stream(&in, NULL, &out, &err), AQ_E_IO);
    ASSERT_MESSAGE("no text", strerror(EIO));
    cr_assert_eq(err.os_errno, EIO);
    ASSERT_STATUS(aq_quantize_arrow_stream(&in, NULL, &out, NULL), AQ_E_IO);
    s.fail_schema = NULL;
    in.get_schema = released_schema;
    ASSERT_STATUS(aq_quantize_arrow_stream(&in, NULL, &out, &err), AQ_E_FORMAT);
    ASSERT_MESSAGE("released", "the input stream gave no schema");
    in.get_schema = schema_without_children;
    ASSERT_STATUS(aq_quantize_arrow_stream(&in, NULL, &out, &err), AQ_E_FORMAT);
    ASSERT_MESSAGE("no children", "children missing");
    cr_assert_not_null(in.release, "it is still the caller's");
    in.release(&in);
    cr_assert_eq(arrow_live, 0);
}
