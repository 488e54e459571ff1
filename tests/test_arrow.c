/* The Arrow C Data Interface, seen from outside: tables in every form that a producer may
 * give, what comes out of them to the bit, who owns it, and what is wrong with others. */
#include "arrow_read.h"

static void quantize(const arrow_form *form, size_t n, const aq_arrow_options *options,
                     table *out) {
    table in;
    arrow_table(form, layers, n, &in.schema, &in.array);
    ASSERT_OK(aq_arrow_validate(&in.schema, &in.array, &err));
    ASSERT_OK(aq_quantize_arrow(&in.schema, &in.array, options, &out->schema, &out->array,
                                &err));
    table_release(&in);
    ASSERT_OK(aq_arrow_validate(&out->schema, &out->array, &err));
}

static void expect_table(const arrow_form *form, const aq_arrow_options *options,
                         const char *what) {
    table out;
    quantize(form, LAYERS, options, &out);
    cr_assert_eq(out.array.length, LAYERS);
    for (size_t i = 0; i < LAYERS; i++)
        expect_row(&out, i, &layers[i], options == NULL ? NULL : &options->quant,
                   form->shapes != NULL, what);
    table_release(&out);
    cr_assert_eq(arrow_live, 0);
}

/* ---- every form ---- */

static const char *const name_formats[] = {"u", "U", "vu"};
static const char *const list_formats[] = {"+l", "+L", "+vl", "+vL", "+w:240"};
static const char float_items[] = "feg", dim_items[] = "cCsSiIlL";

/* Offsets, alignment, validity and null counts from the bits of a number. */
static void slice_form(arrow_form *f, size_t bits) {
    f->table_offset = bits & 1 ? 3 : 0;
    f->column_offset = bits & 2 ? 5 : 0;
    f->item_offset = bits & 4 ? 11 : 0;
    f->misalign = bits & 8 ? 3 : 0;
    f->bitmaps = (bits & 16) != 0;
    f->rows_after = bits & 32 ? 2 : 0;
    f->unknown_null_count = (bits & 64) != 0;
    f->reversed = (bits & 128) != 0;
}

Test(arrow, every_form_of_weights) {
    for (size_t l = 0; l < COUNT_OF(list_formats); l++) {
        for (size_t item = 0; item < 3; item++) {
            for (size_t bits = 0; bits < 256; bits += 1 + bits % 3) {
                arrow_form f;
                char what[80];
                memset(&f, 0, sizeof f);
                if (l == 4 && bits % 2 == 0) make_equal_layers();
                if (l != 4 || bits % 2 != 0) make_layers();
                if (l == 4 && bits % 2 != 0) make_equal_layers();
                f.weights = list_formats[l];
                f.item = float_items[item];
                if (bits % 5 != 0) f.shapes = list_formats[(bits + l) % 4];
                slice_form(&f, bits);
                snprintf(what, sizeof what, "%s of %c, form %zu", f.weights, f.item,
                         bits);
                expect_table(&f, NULL, what);
            }
        }
    }
}

Test(arrow, every_form_of_names) {
    make_layers();
    for (size_t n = 0; n < COUNT_OF(name_formats); n++) {
        for (size_t index = 0; index <= strlen(dim_items); index++) {
            for (size_t bits = 0; bits < 256; bits += 17) {
                arrow_form f;
                char what[80];
                memset(&f, 0, sizeof f);
                f.names = name_formats[n];
                f.index = dim_items[index]; /* at last 0: none */
                slice_form(&f, bits);
                snprintf(what, sizeof what, "names %s through '%c', form %zu", f.names,
                         f.index != 0 ? f.index : '-', bits);
                expect_table(&f, NULL, what);
            }
        }
    }
}

Test(arrow, every_form_of_shapes) {
    for (size_t l = 0; l < COUNT_OF(list_formats) - 1; l++) {
        for (size_t d = 0; d < strlen(dim_items); d++) {
            for (size_t bits = 0; bits < 256; bits += 15) {
                arrow_form f;
                char what[80];
                memset(&f, 0, sizeof f);
                make_layers();
                if (strchr("cC", dim_items[d])) layers[1].count = 120; /* fits int8 */
                if (strchr("cC", dim_items[d])) layers[1].shape = &shapes[3][2];
                layers[1].count = layers[1].shape == shapes[1] ? 240 : 12;
                if (strchr("cC", dim_items[d])) layers[5].shape = shapes[3];
                if (strchr("cC", dim_items[d])) layers[5].dims = 3;
                f.shapes = list_formats[l];
                f.dim = dim_items[d];
                slice_form(&f, bits);
                snprintf(what, sizeof what, "shapes %s of %c, form %zu", f.shapes, f.dim,
                         bits);
                expect_table(&f, NULL, what);
            }
        }
    }
}

/* A null shape is as none; a fixed-size list of dimensions is a list like any other. */
Test(arrow, shapes_that_are_null_or_fixed) {
    arrow_form f;
    table out;
    memset(&f, 0, sizeof f);
    make_layers();
    layers[0].shape = NULL;
    f.shapes = "+l";
    quantize(&f, LAYERS, NULL, &out);
    expect_row(&out, 0, &layers[0], NULL, false, "null shape");
    expect_row(&out, 3, &layers[3], NULL, true, "beside a null shape");
    table_release(&out);
    make_layers();
    layers[0] = layers[3];
    f.shapes = "+w:3";
    quantize(&f, 1, NULL, &out);
    expect_row(&out, 0, &layers[3], NULL, true, "fixed-size shape");
    table_release(&out);
    cr_assert_eq(arrow_live, 0);
}

Test(arrow, every_kind_of_quantization) {
    static const uint32_t widths[] = {2, 3, 4, 5, 6, 8};
    arrow_form f;
    memset(&f, 0, sizeof f);
    f.shapes = "+l";
    make_layers();
    for (size_t i = 0; i < 6 * 3 * 3 * 2; i++) {
        aq_arrow_options o;
        char what[80];
        memset(&o, 0, sizeof o);
        o.quant.bits = widths[i % 6];
        o.quant.granularity = (aq_granularity)(i / 6 % 3);
        o.quant.params = (aq_params)(i / 18 % 3);
        o.quant.symmetric = i / 54 % 2 != 0;
        o.quant.group_size = 32;
        if (o.quant.granularity == AQ_PER_TENSOR) o.quant.params = AQ_PARAMS_F32;
        snprintf(what, sizeof what, "options %zu", i);
        expect_table(&f, &o, what);
    }
}

/* ---- arrow.fixed_shape_tensor ---- */

static aq_status quantize_with(const char *weights, const char *const *pairs,
                               int32_t num_pairs, table *out) {
    arrow_form f;
    table in;
    aq_status status;
    memset(&f, 0, sizeof f);
    make_equal_layers();
    f.weights = weights;
    arrow_table(&f, layers, 2, &in.schema, &in.array);
    arrow_schema_metadata(in.schema.children[1], pairs, num_pairs);
    status =
        aq_quantize_arrow(&in.schema, &in.array, NULL, &out->schema, &out->array, &err);
    table_release(&in);
    return status;
}

static aq_status quantize_tensor(const char *weights, const char *metadata, table *out) {
    const char *pairs[] = {"ARROW:extension:name", "arrow.fixed_shape_tensor",
                           "ARROW:extension:metadata", metadata};
    return quantize_with(weights, pairs, 2, out);
}

Test(arrow, fixed_shape_tensors) {
    static const char *const good[] = {
        "{\"shape\":[24,10]}", " { \"dim_names\" : [\"a\",\"b\"], \"shape\":[24,10] } ",
        "{\"shape\":[24,10],\"permutation\":[0,1]}",
        "{\"permutation\":null,\"shape\":[24,10],\"other\":{\"x\":[1,-2.5]}}"};
    static const struct {
        const char *weights, *metadata;
        aq_status status;
        const char *message;
    } bad[] = {{"+w:240", "{\"shape\":[24,10],\"permutation\":[1,0]}", AQ_E_UNSUPPORTED,
                "permuted"},
               {"+w:240", "{\"shape\":[24,10],\"permutation\":[0]}", AQ_E_FORMAT,
                "permutation of other"},
               {"+w:240", "{\"shape\":[24,11]}", AQ_E_FORMAT, "264 values"},
               {"+l", "{\"shape\":[24,10]}", AQ_E_FORMAT, "240 values in list"},
               {"+w:240", "{}", AQ_E_FORMAT, "metadata of arrow.fixed_shape_tensor"},
               {"+w:240", "{\"dim_names\":[]}", AQ_E_FORMAT, "no shape"},
               {"+w:240", "", AQ_E_FORMAT, "no object"},
               {"+w:240", "{\"shape\":[24,10]", AQ_E_FORMAT, "offset"},
               {"+w:240", "{\"shape\":[24,1.5]}", AQ_E_FORMAT, "offset"},
               {"+w:240", "{\"shape\":[99999999999,99999999999]}", AQ_E_FORMAT, "values"},
               {"+w:240", "{\"shape\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,240]}", AQ_E_LIMIT,
                "16 dimensions"},
               {"+w:240", "{\"shape\":5}", AQ_E_FORMAT, "no list"},
               {"+w:240", "{\"shape\":[24 10]}", AQ_E_FORMAT, "list without an end"}};
    static const char *const other[] = {"comment", "weights", "unit", "none"};
    static const int64_t flat = 240;
    table out;
    for (size_t i = 0; i < COUNT_OF(good); i++) {
        ASSERT_OK(quantize_tensor("+w:240", good[i], &out));
        for (size_t k = 0; k < 2; k++) {
            layers[k].shape = layers[0].shape;
            layers[k].dims = 2;
            expect_row(&out, k, &layers[k], NULL, true, good[i]);
        }
        table_release(&out);
    }
    ASSERT_OK(quantize_with("+l", other, 2, &out)); /* says nothing of a shape */
    for (size_t k = 0; k < 2; k++) {
        layers[k].shape = &flat;
        layers[k].dims = 1;
        expect_row(&out, k, &layers[k], NULL, true, "other metadata");
    }
    table_release(&out);
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        aq_status status = quantize_tensor(bad[i].weights, bad[i].metadata, &out);
        cr_expect_eq(status, bad[i].status, "%s: %s: %s", bad[i].metadata,
                     aq_status_name(status), err.message);
        EXPECT_MESSAGE(bad[i].metadata, bad[i].message);
        cr_expect_null(out.schema.release);
        cr_expect_null(out.array.release);
    }
    cr_assert_eq(arrow_live, 0);
}

/* ---- order, plans, reports ---- */

static bool bits_by_name(void *user, const aq_tensor *layer, aq_quant_options *quant) {
    const void **seen = (const void **)user;
    if (strcmp(layer->name, "b") == 0) quant->bits = 8;
    if (strcmp(layer->name, "scalar") == 0) quant->params = AQ_PARAMS_U8;
    if (strcmp(layer->name, "conv\xc3\xa9") == 0) {
        quant->codebook = true;
        quant->params = AQ_PARAMS_U8;
    }
    if (seen != NULL && strcmp(layer->name, names[0]) == 0) *seen = layer->data;
    return true;
}

Test(arrow, plans_and_metadata) {
    aq_arrow_options o;
    arrow_form f;
    table out;
    aq_quant_options q;
    const char *m;
    memset(&o, 0, sizeof o);
    memset(&f, 0, sizeof f);
    make_layers();
    o.plan = bits_by_name;
    quantize(&f, LAYERS, &o, &out);
    for (size_t i = 0; i < LAYERS; i++) {
        aq_tensor t;
        memset(&t, 0, sizeof t);
        memset(&q, 0, sizeof q);
        t.name = names[i];
        bits_by_name(NULL, &t, &q);
        expect_row(&out, i, &layers[i], &q, false, "planned");
        cr_expect_eq(is_null(column(&out, "group_params"), i), q.params == AQ_PARAMS_F32);
        cr_expect(text_is(bytes_at(&out, "quant_type", i), i == 1   ? "int8"
                                                           : i == 3 ? "codebook4"
                                                                    : "int4"));
        cr_expect_eq(bytes_at(&out, "codebook", i).size, i == 3 ? 16 : SIZE_MAX);
    }
    cr_expect_eq(column(&out, "codebook")->null_count, LAYERS - 1);
    m = out.schema.metadata;
    cr_assert_not_null(m);
    cr_expect_eq(*(const int32_t *)(const void *)m, 2);
    cr_expect_eq(memcmp(m + 8, "arrowquant.version", 18), 0);
    table_release(&out);
}

Test(arrow, rows_by_name) {
    aq_arrow_options o;
    arrow_form f;
    table out;
    static const size_t order[LAYERS] = {5, 2, 1, 3, 0, 4};
    memset(&o, 0, sizeof o);
    memset(&f, 0, sizeof f);
    make_layers();
    o.sort_by_name = true;
    quantize(&f, LAYERS, &o, &out);
    for (size_t i = 0; i < LAYERS; i++)
        expect_row(&out, i, &layers[order[i]], NULL, false, "sorted");
    table_release(&out);
}

Test(arrow, no_metrics_are_null) {
    aq_arrow_options o;
    arrow_form f;
    table out;
    memset(&o, 0, sizeof o);
    memset(&f, 0, sizeof f);
    make_layers();
    o.no_metrics = true;
    quantize(&f, LAYERS, &o, &out);
    cr_expect_eq(column(&out, "cosine")->null_count, LAYERS);
    cr_expect_eq(column(&out, "sqnr_db")->null_count, LAYERS);
    cr_expect_eq(column(&out, "max_abs_error")->null_count, LAYERS);
    table_release(&out);
}

/* The layers with a fault, and what is said about each. */
static const struct {
    size_t row;
    aq_status status;
    const char *message;
} faults[] = {{0, AQ_E_FORMAT, "layer_name is null (table row 0)"},
              {2, AQ_E_FORMAT, "weights are null"},
              {3, AQ_E_FORMAT, "weights hold a null at index 4"},
              {4, AQ_E_NONFINITE, "index 17"},
              {6, AQ_E_FORMAT, "shape [3, 5] does not fit 16 weights"},
              {7, AQ_E_FORMAT, "shape holds a null at index 1"},
              {8, AQ_E_FORMAT, "dimension 0"},
              {9, AQ_E_FORMAT, "layer_name is empty"},
              {10, AQ_E_NONFINITE, "index 0"},
              {11, AQ_E_FORMAT, "the row is null (table row 11)"},
              {12, AQ_E_FORMAT, "UTF-8"},
              {13, AQ_E_LIMIT, "17 dimensions"},
              {14, AQ_E_FORMAT, "does not fit"}};
#define FAULTY 16

static arrow_layer faulty[FAULTY];

static void make_faulty(arrow_form *f) {
    static const int64_t wrong[2] = {3, 5}, right[2] = {4, 4}, negative[2] = {-4, -4},
                         huge[3] = {INT64_MAX, INT64_MAX, 4},
                         many[17] = {16, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    static char text[FAULTY][8];
    static float values[FAULTY][20];
    rng r = {8};
    memset(f, 0, sizeof *f);
    f->shapes = "+l";
    f->null_row = 12;
    for (size_t i = 0; i < FAULTY; i++) {
        arrow_layer *l = &faulty[i];
        memset(l, 0, sizeof *l);
        rng_floats(&r, values[i], 20, 1.0f);
        snprintf(text[i], sizeof text[i], "%c", (int)('z' - i));
        l->name = text[i];
        l->values = values[i];
        l->count = 16;
        l->shape = right;
        l->dims = 2;
    }
    faulty[0].name = NULL;
    faulty[2].values = NULL;
    faulty[3].null_at = 5;
    faulty[4].count = 20;
    faulty[4].shape = NULL;
    values[4][17] = (float)NAN;
    faulty[6].shape = wrong;
    faulty[7].null_dim = 2;
    faulty[8].shape = negative;
    faulty[9].name = "";
    values[10][0] = (float)INFINITY;
    faulty[12].name = "\xff";
    faulty[13].shape = many;
    faulty[13].dims = 17;
    faulty[14].shape = huge;
    faulty[14].dims = 3;
}

static void expect_faults(const aq_arrow_report *report, int64_t first) {
    for (size_t i = 0; i < COUNT_OF(faults); i++) {
        const aq_arrow_failure *fail = &report->failures[i];
        const char *name = faulty[faults[i].row].name;
        char row[32];
        snprintf(row, sizeof row, "table row %lld", (long long)fail->row);
        cr_expect_eq(fail->row, (int64_t)faults[i].row + first);
        cr_expect_eq(fail->status, faults[i].status, "row %zu: %s", faults[i].row,
                     fail->message);
        if (first == 0)
            cr_expect(strstr(fail->message, faults[i].message), "\"%s\": %s",
                      faults[i].message, fail->message);
        cr_expect(strstr(fail->message, row), "\"%s\": %s", row, fail->message);
        if (faults[i].row == 9 || faults[i].row == 11 || faults[i].row == 12 ||
            name == NULL) {
            cr_assert_str_eq(fail->name, "");
        } else {
            cr_assert_str_eq(fail->name, name);
            cr_expect(strstr(fail->message, "tensor \""), "%s", fail->message);
        }
    }
}

Test(arrow, faults_are_reported_in_order) {
    static const size_t good[] = {1, 5, 15};
    aq_arrow_report report;
    aq_arrow_options o;
    arrow_form f;
    table in, out;
    memset(&o, 0, sizeof o);
    memset(&report, 0, sizeof report);
    make_faulty(&f);
    o.report = &report;
    for (int sorted = 0; sorted < 2; sorted++) {
        o.sort_by_name = sorted != 0;
        arrow_table(&f, faulty, FAULTY, &in.schema, &in.array);
        ASSERT_OK(
            aq_quantize_arrow(&in.schema, &in.array, &o, &out.schema, &out.array, &err));
        ASSERT_OK(aq_arrow_validate(&out.schema, &out.array, &err));
        cr_assert_eq(out.array.length, (int64_t)COUNT_OF(good));
        for (size_t i = 0; i < COUNT_OF(good); i++) /* names run from z to a */
            expect_row(&out, i, &faulty[good[sorted ? COUNT_OF(good) - 1 - i : i]], NULL,
                       true, "among faulty layers");
        cr_assert_eq(report.num_failures, COUNT_OF(faults) * (size_t)(1 + sorted));
        cr_expect_eq(report.num_rows, FAULTY * (1 + sorted));
        cr_expect_eq(report.total.count, 3 * 16 * (uint64_t)(1 + sorted));
        expect_faults(&report, 0);
        table_release(&out);
        table_release(&in);
    }
    aq_arrow_report_deinit(&report);
    cr_expect_null(report.failures);
    aq_arrow_report_deinit(&report);
    cr_assert_eq(arrow_live, 0);
}

/* Without a report each of them fails the call. */
Test(arrow, a_fault_without_a_report_is_an_error) {
    for (size_t i = 0; i < COUNT_OF(faults); i++) {
        arrow_form f;
        table in, out;
        aq_status status;
        make_faulty(&f);
        if (faults[i].row != 11) f.null_row = 0;
        if (faults[i].row == 11) f.null_row = 2;
        faulty[1] = faulty[faults[i].row];
        faulty[0] = faulty[5];
        arrow_table(&f, faulty, 2, &in.schema, &in.array);
        status =
            aq_quantize_arrow(&in.schema, &in.array, NULL, &out.schema, &out.array, &err);
        cr_expect_eq(status, faults[i].status, "row %zu: %s", faults[i].row, err.message);
        EXPECT_MESSAGE("fault", "table row 1");
        cr_expect_null(out.schema.release);
        cr_expect_null(out.array.release);
        table_release(&in);
        cr_assert_eq(arrow_live, 0);
    }
}

Test(arrow, all_layers_may_fail) {
    aq_arrow_report report;
    aq_arrow_options o;
    arrow_form f;
    table in, out;
    memset(&o, 0, sizeof o);
    memset(&report, 0, sizeof report);
    make_faulty(&f);
    f.null_row = 0;
    o.report = &report;
    arrow_table(&f, faulty, 1, &in.schema, &in.array);
    ASSERT_OK(
        aq_quantize_arrow(&in.schema, &in.array, &o, &out.schema, &out.array, &err));
    cr_expect_eq(out.array.length, 0);
    cr_expect_eq(report.num_failures, 1);
    ASSERT_OK(aq_arrow_validate(&out.schema, &out.array, &err));
    table_release(&out);
    table_release(&in);
    aq_arrow_report_deinit(&report);
}

Test(arrow, duplicate_names) {
    arrow_form f;
    table in, out;
    memset(&f, 0, sizeof f);
    make_layers();
    layers[4].name = layers[1].name;
    arrow_table(&f, layers, LAYERS, &in.schema, &in.array);
    ASSERT_STATUS(
        aq_quantize_arrow(&in.schema, &in.array, NULL, &out.schema, &out.array, &err),
        AQ_E_DUPLICATE);
    cr_assert_str_eq(err.message, "table rows 1 and 4 have the same name (tensor \"b\")");
    table_release(&in);
}

/* ---- wrong tables ---- */

Test(arrow, missing_and_mistyped_columns) {
    static const struct {
        arrow_form form;
        const char *rename, *to, *message;
    } cases[] = {
        {{.names = "u"}, "layer_name", "name", "no column layer_name; expected struct<"},
        {{.names = "u"}, "weights", "w", "no column weights; expected struct<"},
        {{.names = "z"}, NULL, NULL, "column layer_name is binary; it must be utf8"},
        {{.index = 'i', .names = "z"},
         NULL,
         NULL,
         "column layer_name is dictionary<int32, binary>; it must be utf8"},
        {{.weights = "+l", .item = 'i'},
         NULL,
         NULL,
         "column weights is list<int32>; it must be a list of float32"},
        {{.weights = "+w:16", .item = 'C'}, NULL, NULL, "fixed_size_list<uint8>"},
        {{.shapes = "+l", .dim = 'f'},
         NULL,
         NULL,
         "column shape is list<float32>; it must be a list of integers"},
        {{.shapes = "+l"}, "shape", "weights", "two columns weights"}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        table in, out;
        aq_status status;
        arrow_form f = cases[i].form;
        make_layers();
        if (f.item == 'i' || f.item == 'C') { /* the values do not matter */
            f.item = 'f';
            arrow_table(&f, layers, 0, &in.schema, &in.array);
            *(char *)(uintptr_t)in.schema.children[1]->children[0]->format =
                cases[i].form.item;
        } else {
            arrow_table(&f, layers, f.dim == 'f' ? 0 : 2, &in.schema, &in.array);
        }
        if (cases[i].rename != NULL) {
            size_t k = arrow_column_index(&in.schema, cases[i].rename);
            in.schema.children[k]->name = cases[i].to;
        }
        status =
            aq_quantize_arrow(&in.schema, &in.array, NULL, &out.schema, &out.array, &err);
        cr_expect_eq(status, AQ_E_TYPE, "case %zu: %s: %s", i, aq_status_name(status),
                     err.message);
        EXPECT_MESSAGE("columns", cases[i].message);
        table_release(&in);
    }
}

Test(arrow, no_struct_no_options_no_table) {
    arrow_form f;
    table in, out;
    aq_arrow_options o;
    aq_allocator half;
    memset(&f, 0, sizeof f);
    memset(&o, 0, sizeof o);
    memset(&half, 0, sizeof half);
    make_layers();
    arrow_table(&f, layers, LAYERS, &in.schema, &in.array);
    ASSERT_STATUS(aq_quantize_arrow(in.schema.children[0], in.array.children[0], NULL,
                                    &out.schema, &out.array, &err),
                  AQ_E_TYPE);
    ASSERT_MESSAGE("no struct", "a table is a struct, this is utf8");
    ASSERT_STATUS(aq_quantize_arrow(NULL, &in.array, NULL, &out.schema, &out.array, &err),
                  AQ_E_ARG);
    ASSERT_STATUS(
        aq_quantize_arrow(&in.schema, NULL, NULL, &out.schema, &out.array, &err),
        AQ_E_ARG);
    o.quant.bits = 7;
    ASSERT_STATUS(
        aq_quantize_arrow(&in.schema, &in.array, &o, &out.schema, &out.array, &err),
        AQ_E_ARG);
    ASSERT_MESSAGE("bits", "7 bits; choose 2, 3, 4, 5, 6 or 8");
    o.quant.bits = 4;
    o.quant.src_stride = 10;
    ASSERT_STATUS(
        aq_quantize_arrow(&in.schema, &in.array, &o, &out.schema, &out.array, &err),
        AQ_E_ARG);
    o.quant.src_stride = 0;
    half.alloc = counting_alloc;
    o.allocator = &half;
    ASSERT_STATUS(
        aq_quantize_arrow(&in.schema, &in.array, &o, &out.schema, &out.array, &err),
        AQ_E_ARG);
    table_release(&in);
    ASSERT_STATUS(
        aq_quantize_arrow(&in.schema, &in.array, NULL, &out.schema, &out.array, &err),
        AQ_E_ARG);
    ASSERT_MESSAGE("released", "has been released");
}

static bool stop_plan(void *user, const aq_tensor *layer, aq_quant_options *quant) {
    (void)user, (void)layer, (void)quant;
    return false;
}

static bool stop_progress(void *user, const aq_progress *p) {
    (void)user, (void)p;
    return false;
}

Test(arrow, cancelled_by_plan_or_progress) {
    for (int i = 0; i < 2; i++) {
        arrow_form f;
        table in, out;
        aq_arrow_options o;
        memset(&f, 0, sizeof f);
        memset(&o, 0, sizeof o);
        make_layers();
        if (i == 0) o.plan = stop_plan;
        if (i == 1) o.progress.fn = stop_progress;
        arrow_table(&f, layers, LAYERS, &in.schema, &in.array);
        ASSERT_STATUS(
            aq_quantize_arrow(&in.schema, &in.array, &o, &out.schema, &out.array, &err),
            AQ_E_CANCELLED);
        table_release(&in);
    }
}

/* ---- sizes ---- */

Test(arrow, empty_tables) {
    arrow_form f;
    table out, back;
    memset(&f, 0, sizeof f);
    make_layers();
    for (size_t bits = 0; bits < 256; bits += 5) {
        slice_form(&f, bits);
        quantize(&f, 0, NULL, &out);
        cr_assert_eq(out.array.length, 0);
        ASSERT_OK(aq_dequantize_arrow(&out.schema, &out.array, NULL, &back.schema,
                                      &back.array, &err));
        cr_assert_eq(back.array.length, 0);
        table_release(&back);
        table_release(&out);
    }
    cr_assert_eq(arrow_live, 0);
}

Test(arrow, a_thousand_layers) {
    static arrow_layer many[1000];
    static char text[1000][8];
    arrow_form f;
    table in, out;
    memset(&f, 0, sizeof f);
    make_layers();
    f.shapes = "+l";
    for (size_t i = 0; i < 1000; i++) {
        many[i] = layers[i % LAYERS];
        snprintf(text[i], sizeof text[i], "%zu", i * 7919 % 1000);
        many[i].name = text[i];
    }
    arrow_table(&f, many, 1000, &in.schema, &in.array);
    ASSERT_OK(
        aq_quantize_arrow(&in.schema, &in.array, NULL, &out.schema, &out.array, &err));
    ASSERT_OK(aq_arrow_validate(&out.schema, &out.array, &err));
    for (size_t i = 0; i < 1000; i++)
        expect_row(&out, i, &many[i], NULL, true, "one of a thousand");
    table_release(&out);
    table_release(&in);
}

/* ---- in place ---- */

/* The plan hook sees the addresses that the kernels read: the producer's. */
Test(arrow, weights_are_read_in_place) {
    for (size_t misalign = 0; misalign < 4; misalign++) {
        const void *seen = NULL;
        const uint8_t *values;
        aq_arrow_options o;
        arrow_form f;
        table in, out;
        memset(&o, 0, sizeof o);
        memset(&f, 0, sizeof f);
        make_layers();
        f.misalign = misalign;
        f.column_offset = 2;
        o.plan = bits_by_name;
        o.plan_user = &seen;
        arrow_table(&f, layers, LAYERS, &in.schema, &in.array);
        ASSERT_OK(
            aq_quantize_arrow(&in.schema, &in.array, &o, &out.schema, &out.array, &err));
        values = (const uint8_t *)in.array.children[1]->children[0]->buffers[1];
        if (little_endian())
            cr_expect_eq(seen, values + 5 * sizeof(float)); /* 3 and 2 traps before */
        table_release(&out);
        table_release(&in);
    }
}

static size_t big_calls(size_t count, size_t *out_peak) {
    counting_allocator memory;
    aq_arrow_options o;
    arrow_form f;
    arrow_layer l;
    table in, out;
    float *values = (float *)malloc(count * sizeof *values);
    rng r = {1};
    counting_init(&memory);
    memset(&o, 0, sizeof o);
    memset(&f, 0, sizeof f);
    memset(&l, 0, sizeof l);
    rng_floats(&r, values, count, 1.0f);
    l.name = "layer";
    l.values = values;
    l.count = count;
    o.allocator = &memory.hooks;
    o.threads = 1;
    arrow_table(&f, &l, 1, &in.schema, &in.array);
    ASSERT_OK(
        aq_quantize_arrow(&in.schema, &in.array, &o, &out.schema, &out.array, &err));
    table_release(&in);
    table_release(&out);
    cr_assert(counting_is_clean(&memory));
    free(values);
    *out_peak = memory.peak_bytes;
    return memory.calls;
}

Test(arrow, allocations_do_not_grow_with_the_weights) {
    const size_t count = (size_t)64 << 20; /* a layer of 256 MiB */
    size_t small_peak, large_peak, small = big_calls(1000, &small_peak);
    size_t large = big_calls(count, &large_peak);
    cr_expect_eq(small, large, "%zu and %zu allocations", small, large);
    /* 4 bits and 64 of parameters a group of 128: 4.5 bits a weight; a copy is 32. */
    if (little_endian()) /* others copy: the kernels read little-endian values */
        cr_assert_lt(large_peak, count / 8 * 5 + 1000000);
}

/* ---- memory ---- */

/* Buffers go back to the pool when the array is released, and come again. */
Test(arrow, output_from_a_pool) {
    aq_pool_options po;
    aq_pool_stats stats;
    aq_arrow_options o;
    arrow_form f;
    table out;
    memset(&po, 0, sizeof po);
    memset(&o, 0, sizeof o);
    memset(&f, 0, sizeof f);
    po.min_buffer_bytes = AQ_ALIGNMENT;
    f.shapes = "+l";
    make_layers();
    ASSERT_OK(aq_pool_create(&po, &o.pool, &err));
    for (uint64_t round = 1; round <= 3; round++) {
        quantize(&f, LAYERS, &o, &out);
        for (size_t i = 0; i < LAYERS; i++)
            expect_row(&out, i, &layers[i], NULL, true, "from a pool");
        aq_pool_get_stats(o.pool, &stats);
        cr_expect_eq(stats.buffers_in_use, 3); /* codes, scales, zero points */
        table_release(&out);
        aq_pool_get_stats(o.pool, &stats);
        cr_expect_eq(stats.buffers_in_use, 0);
        cr_expect_eq(stats.acquires, 4 * round);
        cr_expect_eq(stats.allocations, 4);
    }
    aq_pool_destroy(o.pool);
}

/* Everything at once, with memory that ends at any point. */
static aq_status round_trip(const aq_allocator *allocator) {
    aq_pool_options po;
    aq_arrow_report report;
    aq_arrow_options o;
    arrow_form f;
    table in, out, back;
    aq_status status;
    memset(&po, 0, sizeof po);
    memset(&o, 0, sizeof o);
    memset(&report, 0, sizeof report);
    make_faulty(&f);
    po.min_buffer_bytes = AQ_ALIGNMENT;
    po.allocator = allocator;
    status = aq_pool_create(&po, &o.pool, &err);
    if (status != AQ_OK) return status;
    o.report = &report;
    o.allocator = allocator;
    o.threads = 1;
    o.plan = bits_by_name;
    arrow_table(&f, faulty, FAULTY, &in.schema, &in.array);
    status = aq_quantize_arrow(&in.schema, &in.array, &o, &out.schema, &out.array, &err);
    table_release(&in);
    if (status == AQ_OK) {
        status = aq_dequantize_arrow(&out.schema, &out.array, &o, &back.schema,
                                     &back.array, &err);
        table_release(&out);
    }
    if (status == AQ_OK) table_release(&back);
    aq_arrow_report_deinit(&report);
    aq_pool_destroy(o.pool);
    return status;
}

Test(arrow, every_failed_allocation) {
    size_t at = 1;
    counting_allocator memory;
    aq_status status = AQ_E_NOMEM;
    for (; status != AQ_OK && at < 1000; at++) {
        counting_init(&memory);
        memory.fail_at = at;
        status = round_trip(&memory.hooks);
        cr_assert(status == AQ_OK || status == AQ_E_NOMEM, "call %zu: %s", at,
                  err.message);
        cr_assert(counting_is_clean(&memory), "call %zu: %zu blocks left", at,
                  memory.live_blocks);
        cr_assert_eq(arrow_live, 0);
    }
    cr_assert_gt(at, 60);
    cr_assert_lt(at, 1000);
}

/* Children that were moved live on, and are not released again with their parent. */
Test(arrow, moved_children) {
    counting_allocator memory;
    aq_arrow_options o;
    arrow_form f;
    table in, out;
    struct ArrowArray moved, item;
    struct ArrowSchema moved_schema;
    size_t blocks;
    make_layers();
    counting_init(&memory);
    memset(&o, 0, sizeof o);
    memset(&f, 0, sizeof f);
    o.allocator = &memory.hooks;
    o.threads = 1;
    arrow_table(&f, layers, LAYERS, &in.schema, &in.array);
    for (int64_t c = 0; c < 12; c++) {
        ASSERT_OK(
            aq_quantize_arrow(&in.schema, &in.array, &o, &out.schema, &out.array, &err));
        cr_assert_lt(c, out.array.n_children);
        moved = *out.array.children[c];
        out.array.children[c]->release = NULL;
        moved_schema = *out.schema.children[c];
        out.schema.children[c]->release = NULL;
        table_release(&out);
        blocks = memory.live_blocks;
        ASSERT_OK(aq_arrow_validate(&moved_schema, &moved, &err));
        memset(&item, 0, sizeof item);
        if (moved.n_children > 0) {
            item = *moved.children[0];
            moved.children[0]->release = NULL;
        }
        moved.release(&moved);
        moved_schema.release(&moved_schema);
        cr_assert_lt(memory.live_blocks, blocks);
        if (item.release != NULL) {
            volatile float sum = 0.0f;
            if (c == 2 || c == 3)
                for (int64_t i = 0; i < item.length; i++)
                    sum += ((const float *)item.buffers[1])[i];
            item.release(&item);
        }
        cr_assert(counting_is_clean(&memory), "column %d", (int)c);
    }
    table_release(&in);
    cr_assert_eq(arrow_live, 0);
}

/* The array outlives its schema, and the other way round; buffers are aligned. */
Test(arrow, schema_and_array_are_apart) {
    arrow_form f;
    table out;
    memset(&f, 0, sizeof f);
    make_layers();
    quantize(&f, LAYERS, NULL, &out);
    for (int64_t c = 0; c < out.array.n_children; c++) {
        const struct ArrowArray *a = out.array.children[c];
        for (int64_t b = 0; b < a->n_buffers; b++)
            cr_expect_eq((uintptr_t)a->buffers[b] % AQ_ALIGNMENT, 0);
    }
    out.schema.release(&out.schema);
    cr_expect_eq(((const uint8_t *)out.array.children[5]->buffers[1])[0], 4);
    out.array.release(&out.array);
    quantize(&f, LAYERS, NULL, &out);
    out.array.release(&out.array);
    cr_assert_str_eq(out.schema.children[1]->name, "quantized_data");
    cr_assert_str_eq(out.schema.children[1]->format, "z");
    out.schema.release(&out.schema);
}
