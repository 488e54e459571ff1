/* test_duckdb.c - DuckDB makes tables of weights by SQL and takes the results back
 * into SQL, both through the Arrow C Data Interface; all that is exchanged passes a
 * structural check of our own.
 *   test_duckdb                   all tests: a line "ok ..." or "FAIL ..." each
 *   test_duckdb model MODEL       writes a small model
 *   test_duckdb export MODEL      a model by aq_model_export_arrow_stream and SQL, as
 *                                 tab-separated lines */
#include "duckdb.h"
#include "structure.h"

#include <math.h>
#include <unistd.h>

static bool failed; /* of the running test */
static aq_error err;

#define CHECK(good, ...)                                                                 \
    do {                                                                                 \
        if (!(good) && !failed) {                                                        \
            failed = true;                                                               \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #good);                   \
            fprintf(stderr, __VA_ARGS__);                                                \
            fprintf(stderr, "\n");                                                       \
        }                                                                                \
    } while (0)

#define CHECK_STRUCTURE(schema, array, aligned)                                          \
    do {                                                                                 \
        const char *wrong_ = structure_check(schema, array, aligned);                    \
        CHECK(wrong_ == NULL, "%s", wrong_);                                             \
    } while (0)

/* ---- the table, in SQL and here ---- */

/* Layer r is a matrix; every weight is a number of steps of 2^-13, exact in all types. */
#define SQL_ROWS "(1 + r % 5)"
#define SQL_COLS "(16 + 16 * (r % 4))"
#define SQL_NAME "'layer.' || lpad(r::VARCHAR, 5, '0') || '.weight'"
#define SQL_WEIGHTS                                                                      \
    "list_transform(range(" SQL_ROWS " * " SQL_COLS "), lambda i: "                      \
    "(((i * 7919 + r * 104729) % 20011) - 10005) / 8192.0)"
#define SQL_SHAPE "[" SQL_ROWS ", " SQL_COLS "]"

static size_t rows_of(uint64_t r) { return 1 + r % 5; }
static size_t cols_of(uint64_t r) { return 16 + 16 * (r % 4); }

static float *weights_of(uint64_t r) {
    size_t n = rows_of(r) * cols_of(r);
    float *w = (float *)malloc(n * sizeof *w);
    for (uint64_t i = 0; i < n; i++)
        w[i] = (float)((int64_t)((i * 7919 + r * 104729) % 20011) - 10005) / 8192.0f;
    return w;
}

typedef struct expected {
    aq_layout layout;
    aq_quantized dst;
    aq_metrics metrics;
} expected;

/* What aq_quantize_into makes of layer r; rows = 0: as one dimension. */
static expected expect(uint64_t r, bool matrix, const aq_quant_options *quant) {
    size_t rows = matrix ? rows_of(r) : 1, cols = cols_of(r) * rows_of(r) / rows;
    float *w = weights_of(r);
    expected e;
    memset(&e, 0, sizeof e);
    CHECK(aq_layout_init(rows, cols, quant, &e.layout, &err) == AQ_OK, "%s", err.message);
    e.dst.codes = (uint8_t *)malloc(e.layout.code_bytes);
    e.dst.scales = (float *)malloc(e.layout.num_groups * sizeof(float));
    e.dst.zero_points = (float *)malloc(e.layout.num_groups * sizeof(float));
    CHECK(aq_quantize_into(&e.layout, w, AQ_F32, &e.dst, NULL, &e.metrics, &err) == AQ_OK,
          "%s", err.message);
    free(w);
    return e;
}

static void expected_free(expected *e) {
    free(e->dst.codes);
    free(e->dst.scales);
    free(e->dst.zero_points);
}

/* ---- comparing what is in SQL ---- */

static bool same(aq_bytes b, const void *want, size_t bytes) {
    return bytes == 0 || memcmp(b.data, want, bytes) == 0;
}

/* Table q has `count` layers, in this order, exactly as aq_quantize_into makes them. */
static void check_quantized(uint64_t count, bool matrix, const aq_quant_options *quant) {
    duck_rows r = {duck_query("SELECT layer_name, quantized_data, scales, zero_points, "
                              "shape, bit_width, list_sum(scales::DOUBLE[]), "
                              "octet_length(quantized_data), cosine FROM q"),
                   NULL, 0};
    uint64_t i = 0;
    while (duck_next(&r)) {
        expected e = expect(i, matrix, quant);
        const size_t groups = e.layout.num_groups;
        const int64_t dims[2] = {(int64_t)rows_of(i), (int64_t)cols_of(i)};
        const int64_t one = dims[0] * dims[1];
        aq_bytes name = duck_bytes(&r, 0), codes = duck_bytes(&r, 1);
        aq_bytes scales = duck_elements(&r, 2, 4), zeros = duck_elements(&r, 3, 4);
        aq_bytes shape = duck_elements(&r, 4, 8);
        double sum = 0;
        char text[32];
        snprintf(text, sizeof text, "layer.%05d.weight", (int)i);
        CHECK(name.size == strlen(text) && same(name, text, name.size), "row %d", (int)i);
        CHECK(codes.size == e.layout.code_bytes && same(codes, e.dst.codes, codes.size),
              "codes of %s", text);
        CHECK(scales.size == groups && same(scales, e.dst.scales, groups * 4),
              "scales of %s", text);
        CHECK(zeros.size == groups && same(zeros, e.dst.zero_points, groups * 4),
              "zero points of %s", text);
        CHECK(matrix ? shape.size == 2 && same(shape, dims, sizeof dims)
                     : shape.size == 1 && same(shape, &one, sizeof one),
              "shape of %s", text);
        CHECK(*(const uint8_t *)duck_value(&r, 5, 1) == e.layout.bits, "%s", text);
        for (size_t k = 0; k < groups; k++)
            sum += (double)e.dst.scales[k];
        CHECK(fabs(*(const double *)duck_value(&r, 6, 8) - sum) <= 1e-12 * fabs(sum),
              "sum of scales of %s", text);
        CHECK(*(const int64_t *)duck_value(&r, 7, 8) == (int64_t)e.layout.code_bytes,
              "%s", text);
        CHECK(*(const double *)duck_value(&r, 8, 8) == e.metrics.cosine, "%s", text);
        expected_free(&e);
        i++;
    }
    CHECK(i == count, "%d of %d rows", (int)i, (int)count);
}

/* All batches of a stream to table q; DuckDB releases them. Returns their number. */
static int append_stream(struct ArrowArrayStream *s, bool aligned) {
    struct ArrowSchema schema;
    struct ArrowArray array;
    int batches = 0, status = s->get_schema(s, &schema);
    CHECK(status == 0, "get_schema: %d", status);
    if (status != 0) return 0;
    CHECK_STRUCTURE(&schema, NULL, false);
    duck_create_table("q", &schema);
    for (;; batches++) {
        status = s->get_next(s, &array);
        CHECK(status == 0, "get_next: %d, %s", status, s->get_last_error(s));
        if (status != 0 || array.release == NULL) break;
        CHECK_STRUCTURE(&schema, &array, aligned);
        CHECK(aq_arrow_validate(&schema, &array, &err) == AQ_OK, "%s", err.message);
        duck_append("q", &schema, &array);
    }
    schema.release(&schema);
    return batches;
}

/* The first batch of a query; its schema, too. */
static void first_batch(const char *sql, struct ArrowSchema *schema,
                        struct ArrowArray *array) {
    struct ArrowArrayStream s;
    duck_query_stream(&s, "%s", sql);
    CHECK(s.get_schema(&s, schema) == 0, "schema");
    CHECK(s.get_next(&s, array) == 0, "array");
    s.release(&s);
}

/* ---- tests ---- */

static void test_one_batch(void) {
    const aq_quant_options quant = {.bits = 4};
    struct ArrowSchema schema, out_schema;
    struct ArrowArray array, out;
    first_batch("SELECT layer_name, weights::FLOAT[] AS weights, shape FROM w LIMIT 100",
                &schema, &array);
    CHECK_STRUCTURE(&schema, &array, false); /* of DuckDB */
    CHECK(aq_arrow_validate(&schema, &array, &err) == AQ_OK, "%s", err.message);
    CHECK(array.length == 100, "%lld rows", (long long)array.length);
    CHECK(aq_quantize_arrow(&schema, &array, NULL, &out_schema, &out, &err) == AQ_OK,
          "%s", err.message);
    CHECK(schema.release != NULL && array.release != NULL, "borrowed");
    schema.release(&schema);
    array.release(&array);
    if (failed) return;
    CHECK_STRUCTURE(&out_schema, &out, true);
    duck_create_table("q", &out_schema);
    duck_append("q", &out_schema, &out);
    out_schema.release(&out_schema);
    check_quantized(100, true, &quant);
}

static void test_stream_of_many_chunks(void) {
    const aq_quant_options quant = {.bits = 8, .group_size = 32};
    const aq_arrow_options o = {.quant = quant};
    struct ArrowArrayStream in, out;
    int batches;
    duck_query_stream(&in,
                      "SELECT layer_name, weights::FLOAT[] AS weights, shape FROM w");
    CHECK(aq_quantize_arrow_stream(&in, &o, &out, &err) == AQ_OK, "%s", err.message);
    CHECK(in.release == NULL, "not taken");
    batches = append_stream(&out, true);
    out.release(&out);
    CHECK(batches == 3, "%d batches of 5000 rows", batches);
    check_quantized(5000, true, &quant);
}

/* What DuckDB hands over under other settings, and of other types. */
static void test_all_types(void) {
    static const struct {
        const char *settings, *name, *weights, *shape; /* NULL: none */
        const char *name_format, *weights_format;
    } cases[] = {
        {"SELECT 1", SQL_NAME, "weights::FLOAT[]", SQL_SHAPE, "u", "+l"},
        {"SELECT 1", SQL_NAME, "weights::DOUBLE[]", SQL_SHAPE, "u", "+l"},
        {"SET arrow_large_buffer_size = true", SQL_NAME, "weights::FLOAT[]", SQL_SHAPE,
         "U", "+L"},
        {"SET arrow_output_version = '1.4'; SET arrow_output_list_view = true", SQL_NAME,
         "weights::FLOAT[]", SQL_SHAPE, "u", "+vl"},
        {"SET arrow_output_version = '1.4'; SET arrow_output_list_view = true; SET "
         "arrow_large_buffer_size = true",
         SQL_NAME, "weights::FLOAT[]", SQL_SHAPE, "U", "+vL"},
        {"SET arrow_output_version = '1.4'; SET produce_arrow_string_view = true",
         SQL_NAME, "weights::FLOAT[]", SQL_SHAPE, "vu", "+l"},
        {"SELECT 1", "layer_name::layer", "weights::FLOAT[]", SQL_SHAPE, "C", "+l"},
        {"SELECT 1", SQL_NAME, "weights::FLOAT[]",
         "[" SQL_ROWS ", " SQL_COLS "]::INTEGER[]", "u", "+l"},
        {"SELECT 1", SQL_NAME, "weights::FLOAT[]",
         "[" SQL_ROWS ", " SQL_COLS "]::UTINYINT[]", "u", "+l"},
        {"SELECT 1", SQL_NAME, "weights::FLOAT[]",
         "[" SQL_ROWS ", " SQL_COLS "]::BIGINT[2]", "u", "+l"},
        {"SELECT 1", SQL_NAME, "weights::FLOAT[]", NULL, "u", "+l"},
        {"SELECT 1", SQL_NAME, "weights::FLOAT[]", "NULL::BIGINT[]", "u", "+l"}};
    const aq_quant_options quant = {.bits = 4};
    duck_run("CREATE OR REPLACE TYPE layer AS ENUM (SELECT layer_name FROM w LIMIT 200)");
    for (size_t i = 0; i < sizeof cases / sizeof *cases && !failed; i++) {
        const char *shape = cases[i].shape;
        bool matrix = shape != NULL && strncmp(shape, "NULL", 4) != 0;
        struct ArrowArrayStream in, out;
        struct ArrowSchema schema;
        struct ArrowArray array;
        duck_settings = cases[i].settings;
        duck_run("RESET arrow_large_buffer_size; RESET arrow_output_list_view; "
                 "RESET produce_arrow_string_view; RESET arrow_output_version");
        for (int k = 0; k < 2; k++) /* columns in another order, beside others */
            duck_query_stream(
                k == 0 ? &out : &in,
                "SELECT r AS id, %s AS weights, {'a': r, 'b': [r]} AS extra, "
                "%s %s %s AS layer_name FROM w WHERE r < 200",
                cases[i].weights, shape == NULL ? "" : shape,
                shape == NULL ? "" : "AS shape, ", cases[i].name);
        CHECK(out.get_schema(&out, &schema) == 0 && out.get_next(&out, &array) == 0, "-");
        out.release(&out);
        CHECK_STRUCTURE(&schema, &array, false);
        CHECK(aq_arrow_validate(&schema, &array, &err) == AQ_OK, "%s", err.message);
        CHECK(strcmp(schema.children[1]->format, cases[i].weights_format) == 0,
              "case %d: %s", (int)i, schema.children[1]->format);
        CHECK(strcmp(schema.children[schema.n_children - 1]->format,
                     cases[i].name_format) == 0,
              "case %d: %s", (int)i, schema.children[schema.n_children - 1]->format);
        schema.release(&schema);
        array.release(&array);
        CHECK(aq_quantize_arrow_stream(&in, NULL, &out, &err) == AQ_OK, "%d: %s", (int)i,
              err.message);
        if (failed) return;
        CHECK(append_stream(&out, true) == 1, "one batch");
        out.release(&out);
        check_quantized(200, matrix, &quant);
        if (failed) fprintf(stderr, "that was case %d\n", (int)i);
    }
    duck_settings = "RESET arrow_large_buffer_size; RESET arrow_output_list_view; "
                    "RESET produce_arrow_string_view; RESET arrow_output_version";
}

/* FLOAT[48], arrays of fixed size: one dimension, or the shape given. */
static void test_fixed_size_lists(void) {
    for (int told = 0; told < 2; told++) {
        aq_quant_options quant = {.bits = 4, .group_size = 16};
        aq_arrow_options o = {.quant = quant};
        struct ArrowArrayStream in, out;
        struct ArrowSchema schema;
        duck_query_stream(&in,
                          "SELECT layer_name, weights::FLOAT[48] AS weights%s FROM w "
                          "WHERE r %% 4 = 2 AND r %% 5 = 0",
                          told ? ", [2, 24] AS shape" : "");
        CHECK(in.get_schema(&in, &schema) == 0, "-");
        CHECK(strcmp(schema.children[1]->format, "+w:48") == 0, "%s",
              schema.children[1]->format);
        schema.release(&schema);
        CHECK(aq_quantize_arrow_stream(&in, &o, &out, &err) == AQ_OK, "%s", err.message);
        if (failed) return;
        append_stream(&out, true);
        out.release(&out);
        CHECK(duck_number("SELECT count(*) FROM q") == 250, "rows");
        CHECK(duck_number(
                  "SELECT count(*) FROM q WHERE octet_length(quantized_data) = 24 "
                  "AND len(scales) = (CASE len(shape) WHEN 1 THEN 3 ELSE 4 END)") == 250,
              "sizes");
        CHECK(duck_number(told ? "SELECT count(*) FROM q WHERE shape = [2, 24]"
                               : "SELECT count(*) FROM q WHERE shape = [48]") == 250,
              "shapes");
        for (uint64_t r = 10; r < 5000 && !told; r += 20) { /* r % 4 = 2, r % 5 = 0 */
            expected e = expect(r, false, &quant);
            duck_rows rows = {duck_query("SELECT quantized_data, scales FROM q WHERE "
                                         "layer_name = 'layer.%05d.weight'",
                                         (int)r),
                              NULL, 0};
            int found = 0;
            for (; duck_next(&rows); found++) {
                CHECK(same(duck_bytes(&rows, 0), e.dst.codes, e.layout.code_bytes), "r");
                CHECK(same(duck_elements(&rows, 1, 4), e.dst.scales, 12), "scales");
            }
            CHECK(found == 1, "layer %d: %d", (int)r, found);
            expected_free(&e);
        }
    }
}

/* Tables that are refused, with the words that help. */
static void test_errors(void) {
    static const struct {
        const char *sql;
        aq_status status;
        const char *words[3];
    } cases[] = {
        {"SELECT * FROM (VALUES ('a', [1.5]::FLOAT[]), ('b', NULL)) "
         "t(layer_name, weights)",
         AQ_E_FORMAT,
         {"\"b\"", "null", "1"}},
        {"SELECT 'a' AS layer_name, [1.5, NULL, 2]::FLOAT[] AS weights",
         AQ_E_FORMAT,
         {"\"a\"", "null", "1"}},
        {"SELECT NULL::VARCHAR AS layer_name, [1.5]::FLOAT[] AS weights",
         AQ_E_FORMAT,
         {"layer_name", "null", "0"}},
        {"SELECT 'a' AS layer_name, [1.5]::FLOAT[] AS weights FROM range(2)",
         AQ_E_DUPLICATE,
         {"a", "0", "1"}},
        {"SELECT 'a' AS layer_name, [1.5, 2, 3]::FLOAT[] AS weights, [2, 2] AS shape",
         AQ_E_FORMAT,
         {"\"a\"", "[2, 2]", "3"}},
        {"SELECT 'a' AS layer_name, [1, 2]::FLOAT[] AS weight",
         AQ_E_TYPE,
         {"weights", "layer_name", ""}},
        {"SELECT 'a' AS name, [1, 2]::FLOAT[] AS weights",
         AQ_E_TYPE,
         {"layer_name", "weights", ""}},
        {"SELECT 'a' AS layer_name, [1, 2]::INTEGER[] AS weights",
         AQ_E_TYPE,
         {"weights", "int32", ""}},
        {"SELECT 'a' AS layer_name, 1.5::FLOAT AS weights",
         AQ_E_TYPE,
         {"weights", "float", ""}},
        {"SELECT 7 AS layer_name, [1.5]::FLOAT[] AS weights",
         AQ_E_TYPE,
         {"layer_name", "int32", ""}},
        {"SELECT 'a' AS layer_name, [1.5]::FLOAT[] AS weights, 'x' AS shape",
         AQ_E_TYPE,
         {"shape", "", ""}},
        {"SELECT 'a' AS layer_name, ['1.5', 'nan', '2']::FLOAT[] AS weights",
         AQ_E_NONFINITE,
         {"\"a\"", "1", "NaN"}},
        {"SELECT 'a' AS layer_name, ['1.5', '1', '-inf']::FLOAT[] AS weights",
         AQ_E_NONFINITE,
         {"\"a\"", "2", "nf"}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct ArrowSchema schema, out_schema;
        struct ArrowArray array, out;
        aq_status status;
        first_batch(cases[i].sql, &schema, &array);
        status = aq_quantize_arrow(&schema, &array, NULL, &out_schema, &out, &err);
        CHECK(status == cases[i].status, "case %d: %s: %s", (int)i,
              aq_status_name(status), status == AQ_OK ? "" : err.message);
        for (int k = 0; k < 3 && status != AQ_OK; k++)
            CHECK(strstr(err.message, cases[i].words[k]) != NULL, "case %d: no %s in %s",
                  (int)i, cases[i].words[k], err.message);
        CHECK(status == AQ_OK || (out_schema.release == NULL && out.release == NULL),
              "case %d: outputs", (int)i);
        schema.release(&schema);
        array.release(&array);
    }
}

/* Bad layers among good ones: left out and listed, in the order of the rows. */
static void test_report(void) {
    aq_arrow_report report;
    aq_arrow_options o = {.report = &report};
    struct ArrowArrayStream in, out;
    memset(&report, 0, sizeof report);
    duck_query_stream(&in,
                      "SELECT layer_name, CASE WHEN r %% 1000 = 7 THEN NULL WHEN "
                      "r %% 1000 = 8 THEN ['nan']::FLOAT[] ELSE weights::FLOAT[] END "
                      "AS weights FROM w");
    CHECK(aq_quantize_arrow_stream(&in, &o, &out, &err) == AQ_OK, "%s", err.message);
    if (failed) return;
    append_stream(&out, true);
    out.release(&out);
    CHECK(report.num_failures == 10 && report.num_rows == 5000, "%zu of %lld",
          report.num_failures, (long long)report.num_rows);
    for (size_t i = 0; i < report.num_failures; i++) {
        const aq_arrow_failure *f = &report.failures[i];
        char name[32];
        int row = (int)(i / 2 * 1000 + 7 + i % 2);
        snprintf(name, sizeof name, "layer.%05d.weight", row);
        CHECK(f->row == row && strcmp(f->name, name) == 0, "%s, row %lld", f->name,
              (long long)f->row);
        CHECK(f->status == (i % 2 ? AQ_E_NONFINITE : AQ_E_FORMAT), "%s", f->message);
    }
    CHECK(duck_number("SELECT count(*) FROM q WHERE layer_name[7:11]::INT % 1000 NOT IN "
                      "(7, 8)") == 4990,
          "rows");
    CHECK(duck_number("SELECT count(*) FROM q") == 4990, "rows");
    aq_arrow_report_deinit(&report);
}

/* DuckDB's own message comes through; again and again. */
static void test_failing_stream(void) {
    struct ArrowArrayStream in, out;
    struct ArrowArray array;
    int status = 0, batches = 0;
    duck_settings = "SET streaming_buffer_size = '1KB'";
    duck_query_stream(&in, "SELECT layer_name, CASE WHEN r = 4999 THEN "
                           "error('disk on fire') ELSE weights::FLOAT[] END AS weights "
                           "FROM w");
    CHECK(aq_quantize_arrow_stream(&in, NULL, &out, &err) == AQ_OK, "%s", err.message);
    if (failed) return;
    for (; batches < 10; batches++) {
        status = out.get_next(&out, &array);
        if (status != 0 || array.release == NULL) break;
        array.release(&array);
    }
    CHECK(status != 0, "no error");
    for (int i = 0; i < 2 && !failed; i++) {
        const char *message = out.get_last_error(&out);
        CHECK(message != NULL && strstr(message, "disk on fire") != NULL, "%s",
              message == NULL ? "-" : message);
        CHECK(out.get_next(&out, &array) == status, "another status");
    }
    out.release(&out);
    duck_settings = "RESET streaming_buffer_size";
}

/* Quantized rows that DuckDB has stored and hands out are dequantized to what
 * aq_dequantize_rows makes; back into SQL. */
static void test_dequantize(void) {
    const aq_quant_options quant = {.bits = 4};
    struct ArrowArrayStream in, out;
    struct ArrowSchema schema, out_schema;
    struct ArrowArray array, result;
    uint64_t i = 0;
    duck_query_stream(&in, "SELECT layer_name, weights::FLOAT[] AS weights, shape FROM w "
                           "WHERE r < 500");
    CHECK(aq_quantize_arrow_stream(&in, NULL, &out, &err) == AQ_OK, "%s", err.message);
    if (failed) return;
    append_stream(&out, true);
    out.release(&out);
    first_batch("SELECT * FROM q ORDER BY layer_name", &schema, &array);
    CHECK(aq_dequantize_arrow(&schema, &array, NULL, &out_schema, &result, &err) == AQ_OK,
          "%s", err.message);
    schema.release(&schema);
    array.release(&array);
    if (failed) return;
    CHECK_STRUCTURE(&out_schema, &result, true);
    duck_create_table("d", &out_schema);
    duck_append("d", &out_schema, &result);
    out_schema.release(&out_schema);
    CHECK(duck_number("SELECT count(*) FROM d JOIN w USING (layer_name) WHERE d.shape = "
                      "w.shape AND len(d.weights) = len(w.weights)") == 500,
          "rows");
    duck_rows r = {duck_query("SELECT weights FROM d ORDER BY layer_name"), NULL, 0};
    for (; duck_next(&r); i++) {
        expected e = expect(i, true, &quant);
        const aq_quantized_view view = {.codes = e.dst.codes,
                                        .scales = e.dst.scales,
                                        .zero_points = e.dst.zero_points};
        size_t n = e.layout.rows * e.layout.cols;
        float *want = (float *)malloc(n * sizeof *want);
        aq_bytes got = duck_elements(&r, 0, sizeof(float));
        CHECK(aq_dequantize_rows(&e.layout, &view, 0, e.layout.rows, want, NULL, &err) ==
                  AQ_OK,
              "%s", err.message);
        CHECK(got.size == n && same(got, want, n * sizeof *want), "layer %d", (int)i);
        free(want);
        expected_free(&e);
    }
    CHECK(i == 500, "rows");
}

/* Empty: no rows, and a stream of no batches; an empty layer. */
static void test_empty(void) {
    struct ArrowArrayStream in, out;
    duck_query_stream(&in, "SELECT layer_name, weights::FLOAT[] AS weights FROM w "
                           "WHERE r < 0");
    CHECK(aq_quantize_arrow_stream(&in, NULL, &out, &err) == AQ_OK, "%s", err.message);
    if (failed) return;
    append_stream(&out, true);
    out.release(&out);
    CHECK(duck_number("SELECT count(*) FROM q") == 0, "rows");
    duck_query_stream(&in, "SELECT 'e' AS layer_name, []::FLOAT[] AS weights, [0, 3] AS "
                           "shape UNION ALL SELECT 'f', [2.5], []");
    CHECK(aq_quantize_arrow_stream(&in, NULL, &out, &err) == AQ_OK, "%s", err.message);
    if (failed) return;
    append_stream(&out, true);
    out.release(&out);
    CHECK(duck_number("SELECT count(*) FROM q WHERE layer_name = 'e' AND shape = [0, 3] "
                      "AND octet_length(quantized_data) = 0 AND len(scales) = 0") == 1,
          "an empty layer");
    CHECK(duck_number("SELECT count(*) FROM q WHERE layer_name = 'f' AND len(shape) = 0 "
                      "AND len(scales) = 1") == 1,
          "a scalar");
}

/* ---- models ---- */

/* Where the system says that a file is mapped. */
static bool in_mapping(const char *path, const void *p, size_t bytes) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[1024];
    bool found = false;
    while (maps != NULL && fgets(line, sizeof line, maps) != NULL) {
        unsigned long begin, end;
        if (strstr(line, path) == NULL || sscanf(line, "%lx-%lx", &begin, &end) != 2)
            continue;
        found = found || ((uintptr_t)p >= begin && (uintptr_t)p < end &&
                          bytes <= end - (uintptr_t)p);
    }
    if (maps != NULL) fclose(maps);
    return found;
}

static const struct ArrowArray *child_of(const struct ArrowSchema *s,
                                         const struct ArrowArray *a, const char *name) {
    for (int64_t i = 0; i < s->n_children; i++)
        if (strcmp(s->children[i]->name, name) == 0) return a->children[i];
    CHECK(false, "no column %s", name);
    return NULL;
}

/* data, and the values of scales, lie in the file's mapping. */
static void check_mapped(const char *path, const struct ArrowSchema *s,
                         const struct ArrowArray *a) {
    const struct ArrowArray *data = child_of(s, a, "data"),
                            *scales = child_of(s, a, "scales");
    const int64_t *offsets;
    const float *values;
    int64_t n;
    if (failed) return;
    offsets = (const int64_t *)data->buffers[1] + data->offset;
    CHECK(in_mapping(path, (const char *)data->buffers[2] + offsets[0],
                     (size_t)(offsets[a->length] - offsets[0])),
          "data is a copy");
    n = scales->children[0]->length;
    values = (const float *)scales->children[0]->buffers[1];
    CHECK(n == 0 || in_mapping(path, values + scales->children[0]->offset,
                               (size_t)n * sizeof *values),
          "scales are a copy");
}

static void save_model(const char *path) {
    static float w[64 * 96];
    const uint64_t shape[3] = {64, 96}, bias[1] = {96};
    aq_job_options o = {.quant = {.group_size = 32}, .no_sync = true};
    aq_model_writer_options no_sync = {.no_sync = true};
    char plain[600];
    aq_tensor t[6];
    for (size_t i = 0; i < sizeof w / sizeof *w; i++)
        w[i] = sinf((float)i);
    for (int i = 0; i < 6; i++) {
        static const char *const names[] = {"f.weight", "a.weight", "b.bias",
                                            "c.weight", "d.steps",  "e.scalar"};
        CHECK(aq_tensor_init(&t[i], names[i],
                             i == 4   ? AQ_I64
                             : i == 3 ? AQ_BF16
                                      : AQ_F32,
                             i == 2 || i == 4 ? bias : shape,
                             i == 5             ? 0
                             : i == 2 || i == 4 ? 1
                                                : 2,
                             w, &err) == AQ_OK,
              "%s", err.message);
    }
    for (size_t i = 0; i < 64 * 96 / 2;
         i++) /* bfloat16 and int64 see finite values, too */
        w[i] = (float)(i % 100);
    snprintf(plain, sizeof plain, "%s.plain.parquet", path);
    CHECK(aq_model_save(plain, t, 6, &no_sync, &err) == AQ_OK, "%s", err.message);
    CHECK(aq_job_run(plain, path, &o, NULL, &err) == AQ_OK, "%s", err.message);
    unlink(plain);
}

/* Batches outlive model and stream; DuckDB reads them; then the file is unmapped. */
static void test_model_export(void) {
    char path[512];
    struct ArrowArrayStream s;
    struct ArrowSchema schema;
    struct ArrowArray arrays[8];
    int n = 0, i;
    aq_model *m;
    snprintf(path, sizeof path, "%s/export.parquet", getenv("BUILD"));
    save_model(path);
    CHECK(aq_model_open(path, NULL, &m, &err) == AQ_OK, "%s", err.message);
    if (failed) return;
    CHECK(aq_model_export_arrow_stream(m, &s, &err) == AQ_OK, "%s", err.message);
    aq_model_close(m);
    if (failed) return;
    CHECK(s.get_schema(&s, &schema) == 0, "schema");
    for (; n < 8 && !failed; n++) {
        CHECK(s.get_next(&s, &arrays[n]) == 0, "%s", s.get_last_error(&s));
        if (failed || arrays[n].release == NULL) break;
        CHECK_STRUCTURE(&schema, &arrays[n], false);
        CHECK(aq_arrow_validate(&schema, &arrays[n], &err) == AQ_OK, "%s", err.message);
        check_mapped(path, &schema, &arrays[n]);
    }
    s.release(&s);
    CHECK(n == 6, "%d batches", n);
    if (failed) return;
    duck_create_table("m", &schema);
    for (i = 0; i < n; i++)
        duck_append("m", &schema, &arrays[n - 1 - i]); /* in any order */
    schema.release(&schema);
    CHECK(!in_mapping(path, &n, 0) && duck_number("SELECT count(*) FROM m") == 6, "rows");
    CHECK(duck_number("SELECT count(*) FROM m WHERE bit_width = 4 AND "
                      "octet_length(data) = 64 * 48 AND len(scales) = 64 * 3 AND "
                      "shape = [64, 96] AND cosine > 0.9") == 3,
          "quantized tensors");
    CHECK(duck_number("SELECT sum(octet_length(data)) FROM m WHERE bit_width IS NULL OR "
                      "bit_width = 0") == 96 * 4 + 96 * 8 + 4,
          "others");
    unlink(path);
}

/* A model as lines, in the order of its tensors. */
static int export_lines(const char *path) {
    struct ArrowArrayStream s;
    aq_model *m;
    if (aq_model_open(path, NULL, &m, &err) != AQ_OK ||
        aq_model_export_arrow_stream(m, &s, &err) != AQ_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    aq_model_close(m);
    if (duck.arrow_scan(duck_connection, "model", &s) != 0) return 1;
    /* A query of some columns only would get wrong ones: DuckDB believes that the stream
     * then has no others. */
    duck_run("CREATE TABLE tensors AS FROM model");
    duck_rows r = {duck_query("SELECT concat_ws(chr(9), layer_name, dtype, "
                              "coalesce(bit_width, 0), octet_length(data), num_params, "
                              "coalesce(quant_type, 'none'), coalesce(group_size, 0), "
                              "shape::VARCHAR) FROM tensors"),
                   NULL, 0};
    while (duck_next(&r)) {
        aq_bytes b = duck_bytes(&r, 0);
        printf("%.*s\n", (int)b.size, (const char *)b.data);
    }
    if (s.release != NULL) s.release(&s);
    return 0;
}

/* ------------------------------------------------------------------------------------ */

static const struct {
    const char *name;
    void (*run)(void);
} tests[] = {{"one batch", test_one_batch},
             {"a stream of many chunks", test_stream_of_many_chunks},
             {"all types that DuckDB hands over", test_all_types},
             {"fixed-size lists", test_fixed_size_lists},
             {"errors", test_errors},
             {"a report of bad layers", test_report},
             {"a stream that fails", test_failing_stream},
             {"dequantize", test_dequantize},
             {"empty tables and layers", test_empty},
             {"a model as a stream", test_model_export}};

int main(int argc, char **argv) {
    int failures = 0, status = 0;
    if (argc == 3 && strcmp(argv[1], "model") == 0) {
        save_model(argv[2]);
        return failed;
    }
    duck_start();
    if (argc == 3 && strcmp(argv[1], "export") == 0) {
        status = export_lines(argv[2]);
        duck_stop();
        return status;
    }
    duck_run("%s", "CREATE TABLE w AS SELECT r, " SQL_NAME " AS layer_name, " SQL_WEIGHTS
                   " AS weights, " SQL_SHAPE " AS shape FROM range(5000) t(r)");
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        failed = false;
        tests[i].run();
        if (duck_live_arrays != 0 && !failed) {
            fprintf(stderr, "%d arrays of DuckDB are not released\n", duck_live_arrays);
            failed = true;
        }
        duck_live_arrays = 0;
        printf("%s DuckDB: %s\n", failed ? "FAIL" : "ok", tests[i].name);
        failures += failed;
    }
    duck_stop();
    return failures != 0;
}
