/* test_statistics.c - what the Parquet writer says of columns: least and greatest values
 * in the order of each type, shortened bounds, null counts, logical types. */
#define AQ_STATIC
#define ARROWQUANT_IMPLEMENTATION
#include "files.h"

#include <math.h>

TestSuite(statistics, .init = enter_temp_dir, .fini = leave_temp_dir, .timeout = 60);

/* One column of n values, in pages of a row or in one; the file stays open. */
static aq_parquet *write_column(aq_field_spec field, const void *values, int64_t n,
                                size_t page_bytes, aq_chunk_info *out) {
    const aq_writer_options o = {.no_sync = true, .page_bytes = page_bytes};
    const aq_column_values v = {values, .num_values = n};
    aq_parquet *f;
    aq_writer *w;
    field.name = "v";
    field.write_statistics = true;
    ASSERT_OK(aq_writer_open(in_dir("f"), &field, 1, &o, &w, &err));
    ASSERT_OK(aq_writer_put_column(w, &v, &err));
    ASSERT_OK(aq_writer_end_row_group(w, n, &err));
    ASSERT_OK(aq_writer_finish(w, &err));
    ASSERT_OK(aq_parquet_open(in_dir("f"), NULL, &f, &err));
    ASSERT_OK(aq_parquet_get_chunk(f, 0, 0, out, &err));
    return f;
}

static aq_bytes bytes_of(const void *data, size_t size) {
    aq_bytes b = {(const uint8_t *)data, size};
    return b;
}

/* A bound as the file has it: of numbers, little-endian. */
static aq_bytes bound_of(const aq_field_spec *field, aq_bytes value) {
    if (field->type == AQ_BYTE_ARRAY || field->type == AQ_FIXED_LEN_BYTE_ARRAY)
        return value;
    return bytes_of(le_values(value.data, value.size != 0, value.size), value.size);
}

/* min and max are values as those that are written. */
static void expect_bounds(aq_field_spec field, const void *values, int64_t n,
                          aq_bytes min, aq_bytes max) {
    min = bound_of(&field, min);
    max = bound_of(&field, max);
    for (size_t page_bytes = 0; page_bytes < 2; page_bytes++) {
        aq_chunk_info info;
        aq_parquet *f = write_column(field, values, n, page_bytes, &info);
        cr_expect_eq(info.null_count, 0);
        cr_assert_eq(info.min_value.data == NULL, min.data == NULL);
        cr_assert_eq(info.max_value.data == NULL, max.data == NULL);
        cr_assert(info.min_value.size == min.size && info.max_value.size == max.size,
                  "%zu, %zu", info.min_value.size, info.max_value.size);
        cr_expect(min.size == 0 || memcmp(info.min_value.data, min.data, min.size) == 0);
        cr_expect(max.size == 0 || memcmp(info.max_value.data, max.data, max.size) == 0);
        aq_parquet_close(f);
    }
}

#define VALUE(array, i) bytes_of(&(array)[i], sizeof(array)[0])
#define NOTHING bytes_of(NULL, 0)

/* Values at `lo` and `hi` are the bounds. */
#define EXPECT(field, array, lo, hi)                                                     \
    expect_bounds(field, array, COUNT_OF(array), VALUE(array, lo), VALUE(array, hi))

Test(statistics, numbers) {
    static const int32_t ints[] = {5, -1, INT32_MIN, 7, INT32_MAX};
    static const int64_t longs[] = {5, INT64_MAX, -1, INT64_MIN};
    static const uint8_t bools[] = {1, 0, 1}, trues[] = {1, 1};
    aq_field_spec field = {.type = AQ_INT32};
    EXPECT(field, ints, 2, 4);
    field.logical = AQ_LOGICAL_INTEGER;
    field.bit_width = 32;
    EXPECT(field, ints, 0, 1);
    field.is_signed = true;
    EXPECT(field, ints, 2, 4);
    field.bit_width = 64;
    field.type = AQ_INT64;
    EXPECT(field, longs, 3, 1);
    field.is_signed = false;
    EXPECT(field, longs, 0, 2);
    field.logical = AQ_LOGICAL_NONE;
    field.type = AQ_BOOLEAN;
    EXPECT(field, bools, 1, 0);
    EXPECT(field, trues, 0, 0);
}

Test(statistics, floats) {
    static const float all[] = {1, -INFINITY, 2, INFINITY}, nans[] = {NAN, NAN};
    static const float some_nan[] = {1, NAN, 2};
    static const float zeros[] = {0.0f, 0.0f}, minus[] = {-0.0f}, both[] = {-0.0f, 0.0f};
    static const double doubles[] = {3, -3, -0.0}, double_nan[] = {3, -3, NAN};
    static const uint8_t halves[][2] = {{0, 0x3c}, {0, 0xbc}, {1, 0x80}, {0xff, 0x7b}};
    static const uint8_t half_zeros[2][2], half_nan[][2] = {{0, 0x3c}, {1, 0x7e}};
    static const uint8_t half_wanted[][2] = {{0, 0x80}, {0, 0}};
    aq_field_spec field = {.type = AQ_FLOAT};
    EXPECT(field, all, 1, 3);
    /* Readers that hold all values to lie within the bounds would lose a NaN. */
    expect_bounds(field, nans, 2, NOTHING, NOTHING);
    expect_bounds(field, some_nan, 3, NOTHING, NOTHING);
    expect_bounds(field, zeros, 2, VALUE(both, 0), VALUE(both, 1));
    expect_bounds(field, minus, 1, VALUE(both, 0), VALUE(both, 1));
    EXPECT(field, both, 0, 1);
    field.type = AQ_DOUBLE;
    EXPECT(field, doubles, 1, 0);
    expect_bounds(field, double_nan, 3, NOTHING, NOTHING);
    field.type = AQ_FIXED_LEN_BYTE_ARRAY;
    field.type_length = 2;
    field.logical = AQ_LOGICAL_FLOAT16;
    EXPECT(field, halves, 1, 3);
    expect_bounds(field, half_zeros, 2, VALUE(half_wanted, 0), VALUE(half_wanted, 1));
    expect_bounds(field, half_nan, 2, NOTHING, NOTHING);
}

Test(statistics, bytes) {
    static const uint8_t fixed[][2] = {{0x7f, 0xff}, {0x80, 0}, {0, 1}, {0xff, 0}};
    static const uint8_t interval[12] = {1}, int96[12] = {1};
    const aq_bytes decimals[] = {bytes_of("\x01", 1), bytes_of("\xff\x00", 2),
                                 bytes_of("\xff", 1), bytes_of("\x00\x7f", 2),
                                 bytes_of("", 0)};
    aq_field_spec field = {.type = AQ_FIXED_LEN_BYTE_ARRAY, .type_length = 2};
    EXPECT(field, fixed, 2, 3);
    field.logical = AQ_LOGICAL_DECIMAL;
    field.precision = 4;
    EXPECT(field, fixed, 1, 0);
    field.type = AQ_BYTE_ARRAY;
    field.type_length = 0;
    expect_bounds(field, decimals, 5, decimals[1], decimals[3]);
    field.logical = AQ_LOGICAL_NONE;
    expect_bounds(field, decimals, 4, decimals[3], decimals[1]);
    field.type = AQ_FIXED_LEN_BYTE_ARRAY;
    field.logical = AQ_LOGICAL_INTERVAL;
    field.type_length = 12;
    expect_bounds(field, interval, 1, NOTHING, NOTHING);
    field.type = AQ_INT96;
    field.logical = AQ_LOGICAL_NONE;
    field.type_length = 0;
    expect_bounds(field, int96, 1, NOTHING, NOTHING);
}

/* By definition: byte by byte from the first that one of them has, signs extended. */
static int compare_decimals(aq_bytes x, aq_bytes y) {
    bool x_negative = x.size > 0 && x.data[0] >= 0x80;
    bool y_negative = y.size > 0 && y.data[0] >= 0x80;
    if (x_negative != y_negative) return x_negative ? -1 : 1;
    for (size_t i = AQI_MAX(x.size, y.size); i > 0; i--) {
        uint8_t fill = x_negative ? 0xff : 0;
        uint8_t a = i > x.size ? fill : x.data[x.size - i];
        uint8_t b = i > y.size ? fill : y.data[y.size - i];
        if (a != b) return a < b ? -1 : 1;
    }
    return 0;
}

Test(statistics, decimals) {
    static const uint8_t likely[] = {0, 0xff, 0, 0xff, 1, 0x7f, 0x80, 0xfe};
    aq_field field = {.type = AQ_BYTE_ARRAY, .logical = AQ_LOGICAL_DECIMAL};
    uint8_t bytes[20][8];
    aq_bytes values[20];
    rng r = {9};
    for (int round = 0; round < 20000; round++) {
        aqi_extremes range = {NULL, NULL, false};
        size_t n = 1 + rng_below(&r, 20), min = 0, max = 0;
        for (size_t i = 0; i < n; i++) {
            for (size_t k = 0; k < sizeof bytes[i]; k++)
                bytes[i][k] = likely[rng_below(&r, COUNT_OF(likely))];
            values[i] = bytes_of(bytes[i], rng_below(&r, sizeof bytes[i] + 1));
            if (compare_decimals(values[i], values[min]) < 0) min = i;
            if (compare_decimals(values[i], values[max]) > 0) max = i;
        }
        aqi_extremes_add(&field, values, n / 2, &range);
        aqi_extremes_add(&field, values + n / 2, n - n / 2, &range);
        CHECK(range.min == (const uint8_t *)&values[min] &&
                  range.max == (const uint8_t *)&values[max],
              "round %d", round);
        for (size_t i = 0; i < n; i++) {
            int want = compare_decimals(values[i], values[0]);
            int got = aqi_order_compare(AQI_ORDER_DECIMAL, 0, (const uint8_t *)&values[i],
                                        (const uint8_t *)&values[0]);
            CHECK((want > 0) - (want < 0) == (got > 0) - (got < 0), "round %d", round);
        }
    }
}

/* A long value is not looked through again for each of the others: that took minutes. */
Test(statistics, long_decimal) {
    enum { COUNT = 100000, LONG = 4 << 20 };
    const aq_field_spec field = {
        .type = AQ_BYTE_ARRAY, .logical = AQ_LOGICAL_DECIMAL, .precision = 20};
    aq_bytes *values = malloc(COUNT * sizeof *values);
    aq_chunk_info info;
    for (size_t i = 0; i < COUNT; i++)
        values[i] = bytes_of("\x05\x06" + i % 2, 1);
    values[0] = bytes_of(calloc(LONG, 1), LONG); /* 0 */
    aq_parquet_close(write_column(field, values, COUNT, 0, &info));
    cr_assert_null(info.min_value.data, "too long to be a bound");
    free((void *)(uintptr_t)values[0].data);
    free(values);
}

/* A value of 1024 bytes is its own bound; of a longer one 1024 bytes are, and the last
 * character or byte that can be raised is, for the greatest. */
Test(statistics, long_bytes) {
    enum { LIMIT = 1024 };
    static const struct {
        const char *end; /* what stands from LIMIT - strlen(cut) on */
        const char *cut, *raised;
        bool text;
        size_t before; /* bytes of 'a' before `end` */
    } cases[] = {
        {"bcd", "b", "c", false, LIMIT - 1},
        {"\xff\xff", "\xff", NULL, false, LIMIT - 1},
        {"\xff\xff\xff", "\xff\xff", NULL, false, LIMIT - 2},
        {"zz", "z", "{", true, LIMIT - 1},
        {"\xc3\xa4z", "\xc3\xa4", "\xc3\xa5", true, LIMIT - 2},
        {"\xc3\xa4z", "", NULL, true, LIMIT - 1},
        {"\x7fz", "\x7f", NULL, true, LIMIT - 1}, /* "\xc2\x80" is too long */
        {"\x7f\xc3\xa4", "\x7f", "\xc2\x80", true, LIMIT - 2},
        {"\xed\x9f\xbfz", "\xed\x9f\xbf", "\xee\x80\x80", true, LIMIT - 3},
        {"\xf0\x9f\xa7\xaez", "", NULL, true, LIMIT - 3},
        {"\xf4\x8f\xbf\xbfz", "\xf4\x8f\xbf\xbf", NULL, true, LIMIT - 4},
        {"\xdf\xbfz", "\xdf\xbf", NULL, true, LIMIT - 2},
        {"\xdf\xbf\xc3\xa4", "\xdf\xbf", "\xe0\xa0\x80", true, LIMIT - 3},
        {"\xffz", "\xff", NULL, true, LIMIT - 1},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char value[LIMIT + 16], min[LIMIT + 16], max[LIMIT + 16];
        size_t n = cases[i].before;
        const aq_field_spec field = {
            .type = AQ_BYTE_ARRAY,
            .logical = cases[i].text ? AQ_LOGICAL_STRING : AQ_LOGICAL_NONE};
        aq_bytes v;
        memset(value, 'a', sizeof value);
        memcpy(min, value, sizeof value);
        memcpy(max, value, sizeof value);
        strcpy(value + n, cases[i].end);
        strcpy(min + n, cases[i].cut);
        strcpy(max + n, cases[i].raised != NULL ? cases[i].raised : "");
        if (cases[i].raised == NULL) max[n - 1] = 'b';
        v = bytes_of(value, strlen(value));
        if (v.size == LIMIT) v.size++; /* the NUL */
        expect_bounds(field, &v, 1, bytes_of(min, strlen(min)),
                      bytes_of(max, strlen(max)));
        v.size = LIMIT;
        expect_bounds(field, &v, 1, v, v);
    }
    /* Nothing short is greater than these. */
    {
        const aq_field_spec field = {.type = AQ_BYTE_ARRAY};
        char most[LIMIT + 1];
        aq_bytes v = bytes_of(most, sizeof most);
        memset(most, 0xff, sizeof most);
        expect_bounds(field, &v, 1, NOTHING, NOTHING);
    }
}

/* Bounds are values of the column, but for those that were shortened. */
Test(statistics, exact_bounds) {
    const aq_field_spec field = {.type = AQ_BYTE_ARRAY};
    char text[1100];
    aq_bytes values[2] = {{(const uint8_t *)text, 2}, {(const uint8_t *)text, 1}};
    memset(text, 'a', sizeof text);
    for (size_t size = 2; size <= sizeof text; size += sizeof text - 2) {
        aq_chunk_info info;
        aq_parquet *f;
        values[0].size = size;
        f = write_column(field, values, 2, 0, &info);
        cr_expect(info.min_is_exact && info.max_is_exact == (size == 2), "%zu", size);
        cr_expect_eq(info.distinct_count, -1);
        aq_parquet_close(f);
    }
}

/* ---- page index ---- */

enum { UNORDERED, ASCENDING, DESCENDING };

/* What a ColumnIndex says of the order of its pages, of which each has one of n < 15
 * values. It ends so: boundary_order, the list of null counts, which are 0, and a stop. */
static int boundary_order_of(aq_logical_type logical, const aq_bytes *values, size_t n) {
    const aq_field_spec field = {
        .name = "v", .type = AQ_BYTE_ARRAY, .logical = logical, .write_statistics = true};
    const aq_writer_options o = {.no_sync = true, .page_bytes = 1, .page_index = true};
    const aq_column_values v = {values, .num_values = (int64_t)n};
    const uint8_t *end;
    int order;
    aq_writer *w;
    ASSERT_OK(aq_writer_open(in_dir("f"), &field, 1, &o, &w, &err));
    ASSERT_OK(aq_writer_put_column(w, &v, &err));
    end = w->column_indexes.out.data + w->column_indexes.out.size;
    cr_assert(end[-1] == 0 && end[-2 - (int)n] == (n << 4 | 6), "the null counts");
    order = end[-4 - (int)n] / 2;
    aq_writer_abort(w);
    return order;
}

/* The order is that of the bounds as they are stored: at most 64 bytes, of text whole
 * characters, so that one that was cut may be before, or behind, a lesser value's. */
Test(statistics, boundary_order) {
    char cut[80], whole[80], text[80];
    aq_bytes values[3] = {bytes_of("a", 1), bytes_of("b", 1), bytes_of("c", 1)};
    cr_assert_eq(boundary_order_of(AQ_LOGICAL_STRING, values, 3), ASCENDING);
    values[0].data = (const uint8_t *)"d";
    cr_assert_eq(boundary_order_of(AQ_LOGICAL_STRING, values, 3), UNORDERED);
    values[1] = bytes_of("ca", 2);
    cr_assert_eq(boundary_order_of(AQ_LOGICAL_STRING, values, 3), DESCENDING);
    memset(cut, 'x', sizeof cut);
    memcpy(whole, cut, sizeof cut);
    memcpy(text, cut, sizeof cut);
    memcpy(whole + 62, "cd", 2);
    memcpy(cut + 62, "\xe2\x82\xac", 3);
    memcpy(text + 62, "\xf0\x9f\xa7\xae", 4);
    values[0] = bytes_of(whole, 64);
    values[1] = bytes_of(cut, 70);
    cr_assert_eq(boundary_order_of(AQ_LOGICAL_STRING, values, 2), UNORDERED);
    cr_assert_eq(boundary_order_of(AQ_LOGICAL_NONE, values, 2), ASCENDING);
    /* Both are cut to the same. */
    values[0] = bytes_of(cut, 70);
    values[1] = bytes_of(text, 70);
    cr_assert_eq(boundary_order_of(AQ_LOGICAL_STRING, values, 2), ASCENDING);
}

/* ---- logical types ---- */

static const struct {
    aq_field_spec spec;
    int32_t converted; /* -1 = none */
} logical_cases[] = {
    {{.type = AQ_BYTE_ARRAY, .logical = AQ_LOGICAL_STRING}, 0},
    {{.type = AQ_BYTE_ARRAY, .logical = AQ_LOGICAL_ENUM}, 4},
    {{.type = AQ_BYTE_ARRAY, .logical = AQ_LOGICAL_JSON}, 19},
    {{.type = AQ_BYTE_ARRAY, .logical = AQ_LOGICAL_BSON}, 20},
    {{.type = AQ_INT32, .logical = AQ_LOGICAL_DATE}, 6},
    {{.type = AQ_INT32, .logical = AQ_LOGICAL_DECIMAL, .precision = 9, .scale = 2}, 5},
    {{.type = AQ_INT64, .logical = AQ_LOGICAL_DECIMAL, .precision = 18, .scale = 18}, 5},
    {{.type = AQ_BYTE_ARRAY, .logical = AQ_LOGICAL_DECIMAL, .precision = 70}, 5},
    {{.type = AQ_FIXED_LEN_BYTE_ARRAY,
      .type_length = 16,
      .logical = AQ_LOGICAL_DECIMAL,
      .precision = 38,
      .scale = 3},
     5},
    {{.type = AQ_INT32, .logical = AQ_LOGICAL_TIME, .unit_nanos = 1000000, .utc = true},
     7},
    {{.type = AQ_INT64, .logical = AQ_LOGICAL_TIME, .unit_nanos = 1000, .utc = true}, 8},
    {{.type = AQ_INT64, .logical = AQ_LOGICAL_TIME, .unit_nanos = 1}, -1},
    {{.type = AQ_INT64,
      .logical = AQ_LOGICAL_TIMESTAMP,
      .unit_nanos = 1000000,
      .utc = true},
     9},
    {{.type = AQ_INT64, .logical = AQ_LOGICAL_TIMESTAMP, .unit_nanos = 1000, .utc = true},
     10},
    {{.type = AQ_INT64, .logical = AQ_LOGICAL_TIMESTAMP, .unit_nanos = 1000}, -1},
    {{.type = AQ_INT64, .logical = AQ_LOGICAL_TIMESTAMP, .unit_nanos = 1, .utc = true},
     -1},
    {{.type = AQ_INT32, .logical = AQ_LOGICAL_INTEGER, .bit_width = 8}, 11},
    {{.type = AQ_INT64,
      .logical = AQ_LOGICAL_INTEGER,
      .bit_width = 64,
      .is_signed = true},
     18},
    {{.type = AQ_INT32, .repetition = AQ_OPTIONAL, .logical = AQ_LOGICAL_UNKNOWN}, -1},
    {{.type = AQ_FIXED_LEN_BYTE_ARRAY, .type_length = 16, .logical = AQ_LOGICAL_UUID},
     -1},
    {{.type = AQ_FIXED_LEN_BYTE_ARRAY, .type_length = 2, .logical = AQ_LOGICAL_FLOAT16},
     -1},
    {{.type = AQ_FIXED_LEN_BYTE_ARRAY, .type_length = 12, .logical = AQ_LOGICAL_INTERVAL},
     21},
};

Test(statistics, logical_types_come_back) {
    aq_field_spec fields[COUNT_OF(logical_cases)];
    char names[COUNT_OF(logical_cases)][8];
    aq_parquet *f;
    aq_writer *w;
    for (size_t i = 0; i < COUNT_OF(logical_cases); i++) {
        fields[i] = logical_cases[i].spec;
        snprintf(names[i], sizeof names[i], "c%zu", i);
        fields[i].name = names[i];
        fields[i].field_id = i % 2 == 0 ? (int32_t)i * 7 - 70 : 0;
    }
    ASSERT_OK(aq_writer_open(in_dir("f"), fields, COUNT_OF(fields), NULL, &w, &err));
    ASSERT_OK(aq_writer_finish(w, &err));
    ASSERT_OK(aq_parquet_open(in_dir("f"), NULL, &f, &err));
    for (size_t i = 0; i < COUNT_OF(logical_cases); i++) {
        const aq_field_spec *want = &fields[i];
        const aq_field *got = aq_parquet_column_field(f, (int32_t)i);
        cr_expect_eq(got->logical, want->logical, "case %zu: %d", i, got->logical);
        cr_expect_eq(got->converted, logical_cases[i].converted, "case %zu: %d", i,
                     got->converted);
        cr_expect(got->precision == want->precision && got->scale == want->scale,
                  "case %zu", i);
        cr_expect(got->bit_width == want->bit_width && got->is_signed == want->is_signed,
                  "case %zu", i);
        cr_expect(got->unit_nanos == want->unit_nanos && got->utc == want->utc,
                  "case %zu", i);
        cr_expect_eq(got->field_id, want->field_id != 0 ? want->field_id : -1);
    }
    aq_parquet_close(f);
}

Test(statistics, wrong_logical_types_name_the_field) {
    static const aq_field_spec wrong[] = {
        {.type = AQ_INT32, .logical = AQ_LOGICAL_STRING},
        {.type = AQ_INT64, .logical = AQ_LOGICAL_DATE},
        {.type = AQ_INT32, .logical = AQ_LOGICAL_TIMESTAMP, .unit_nanos = 1000},
        {.type = AQ_INT64, .logical = AQ_LOGICAL_TIMESTAMP},
        {.type = AQ_INT64, .logical = AQ_LOGICAL_TIME, .unit_nanos = 1000000},
        {.type = AQ_INT32, .logical = AQ_LOGICAL_TIME, .unit_nanos = 1},
        {.type = AQ_FLOAT, .logical = AQ_LOGICAL_DECIMAL, .precision = 3},
        {.type = AQ_INT32, .logical = AQ_LOGICAL_DECIMAL, .precision = 10},
        {.type = AQ_INT64, .logical = AQ_LOGICAL_DECIMAL, .precision = 19},
        {.type = AQ_INT64, .logical = AQ_LOGICAL_DECIMAL, .precision = 3, .scale = 4},
        {.type = AQ_INT64, .logical = AQ_LOGICAL_DECIMAL, .precision = 3, .scale = -1},
        {.type = AQ_FIXED_LEN_BYTE_ARRAY,
         .type_length = 2,
         .logical = AQ_LOGICAL_DECIMAL,
         .precision = 5},
        {.type = AQ_FIXED_LEN_BYTE_ARRAY, .type_length = 15, .logical = AQ_LOGICAL_UUID},
        {.type = AQ_FIXED_LEN_BYTE_ARRAY,
         .type_length = 4,
         .logical = AQ_LOGICAL_FLOAT16},
        {.type = AQ_INT32, .logical = AQ_LOGICAL_INTEGER, .bit_width = 64},
        {.type = AQ_INT64, .logical = AQ_LOGICAL_INTEGER, .bit_width = 32},
        {.type = AQ_INT32, .logical = AQ_LOGICAL_LIST},
        {.type = AQ_INT32, .logical = AQ_LOGICAL_MAP},
        {.type = AQ_INT32, .logical = AQ_LOGICAL_UNKNOWN},
        {.type = AQ_INT32, .logical = AQ_LOGICAL_OTHER},
        {.type = AQ_INT32, .logical = (aq_logical_type)99},
    };
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        aq_field_spec field = wrong[i];
        aq_writer *w;
        field.name = "the field";
        cr_expect_eq(aq_writer_open(in_dir("f"), &field, 1, NULL, &w, &err), AQ_E_ARG,
                     "case %zu", i);
        EXPECT_MESSAGE("logical type", "\"the field\"");
        aq_writer_abort(w);
    }
}
