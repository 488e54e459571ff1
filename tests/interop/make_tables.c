/* The tables of make_models: every physical and logical type, required, optional and in lists,
 * in several row groups, in every encoding, codec and form of page. */
#include "emit.h"

enum { ROW_GROUPS = 3, ROWS = 13 /* a row group */, MAX_ROWS = 300 };

/*==========================================================================
 * Kinds of values
 *========================================================================*/

typedef enum kind {
    BOOLEAN,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    I96,
    F32,
    F64,
    F16,
    STRING,
    BYTES,
    FIXED,
    NUM_BASIC,
    DATE = NUM_BASIC,
    TIME_MS,
    TIME_US,
    TIME_NS,
    TIMESTAMP_MS,
    TIMESTAMP_US,
    TIMESTAMP_NS,
    LOCAL_TIMESTAMP_US, /* not in UTC */
    LOCAL_TIMESTAMP_NS,
    DECIMAL_I32,
    DECIMAL_I64,
    DECIMAL_FIXED,
    DECIMAL_BYTES,
    UUID,
    ENUM,
    JSON,
    BSON,
    INTERVAL,
    NOTHING, /* always null */
    NUM_KINDS,
    ALL_BASIC = -1 /* where a kind is asked for: each one before NUM_BASIC */
} kind;

/* How a kind is declared, and how its JSON expectation is named. */
static const struct {
    const char *name, *type;
    aq_physical_type physical;
    aq_logical_type logical;
    int32_t type_length, bit_width;
    bool is_signed;
    int32_t precision, scale, unit_nanos;
    bool utc;
} kinds[NUM_KINDS] = {
    {"bool", "bool", AQ_BOOLEAN, AQ_LOGICAL_NONE, 0, 0, false},
    {"i8", "int", AQ_INT32, AQ_LOGICAL_INTEGER, 0, 8, true},
    {"i16", "int", AQ_INT32, AQ_LOGICAL_INTEGER, 0, 16, true},
    {"i32", "int", AQ_INT32, AQ_LOGICAL_NONE, 0, 0, false},
    {"i64", "int", AQ_INT64, AQ_LOGICAL_NONE, 0, 0, false},
    {"u8", "int", AQ_INT32, AQ_LOGICAL_INTEGER, 0, 8, false},
    {"u16", "int", AQ_INT32, AQ_LOGICAL_INTEGER, 0, 16, false},
    {"u32", "int", AQ_INT32, AQ_LOGICAL_INTEGER, 0, 32, false},
    {"u64", "int", AQ_INT64, AQ_LOGICAL_INTEGER, 0, 64, false},
    {"int96", "timestamp", AQ_INT96, AQ_LOGICAL_NONE, 0, 0, false},
    {"f32", "f32", AQ_FLOAT, AQ_LOGICAL_NONE, 0, 0, false},
    {"f64", "f64", AQ_DOUBLE, AQ_LOGICAL_NONE, 0, 0, false},
    {"f16", "f16", AQ_FIXED_LEN_BYTE_ARRAY, AQ_LOGICAL_FLOAT16, 2, 0, false},
    {"string", "string", AQ_BYTE_ARRAY, AQ_LOGICAL_STRING, 0, 0, false},
    {"bytes", "bytes", AQ_BYTE_ARRAY, AQ_LOGICAL_NONE, 0, 0, false},
    {"fixed", "bytes", AQ_FIXED_LEN_BYTE_ARRAY, AQ_LOGICAL_NONE, 5, 0, false},
    {"date", "date", AQ_INT32, AQ_LOGICAL_DATE},
    {"time_ms", "time", AQ_INT32, AQ_LOGICAL_TIME, .unit_nanos = 1000000, .utc = true},
    {"time_us", "time", AQ_INT64, AQ_LOGICAL_TIME, .unit_nanos = 1000, .utc = true},
    {"time_ns", "time", AQ_INT64, AQ_LOGICAL_TIME, .unit_nanos = 1, .utc = true},
    {"timestamp_ms", "timestamp", AQ_INT64, AQ_LOGICAL_TIMESTAMP, .unit_nanos = 1000000,
     .utc = true},
    {"timestamp_us", "timestamp", AQ_INT64, AQ_LOGICAL_TIMESTAMP, .unit_nanos = 1000,
     .utc = true},
    {"timestamp_ns", "timestamp", AQ_INT64, AQ_LOGICAL_TIMESTAMP, .unit_nanos = 1,
     .utc = true},
    {"local_timestamp_us", "timestamp", AQ_INT64, AQ_LOGICAL_TIMESTAMP,
     .unit_nanos = 1000},
    {"local_timestamp_ns", "timestamp", AQ_INT64, AQ_LOGICAL_TIMESTAMP, .unit_nanos = 1},
    {"decimal_i32", "decimal", AQ_INT32, AQ_LOGICAL_DECIMAL, .precision = 9, .scale = 2},
    {"decimal_i64", "decimal", AQ_INT64, AQ_LOGICAL_DECIMAL, .precision = 18, .scale = 5},
    {"decimal_fixed", "decimal", AQ_FIXED_LEN_BYTE_ARRAY, AQ_LOGICAL_DECIMAL, 16,
     .precision = 38, .scale = 10},
    {"decimal_bytes", "decimal", AQ_BYTE_ARRAY, AQ_LOGICAL_DECIMAL, .precision = 20,
     .scale = 3},
    {"uuid", "uuid", AQ_FIXED_LEN_BYTE_ARRAY, AQ_LOGICAL_UUID, 16},
    {"enum", "string", AQ_BYTE_ARRAY, AQ_LOGICAL_ENUM},
    {"json", "string", AQ_BYTE_ARRAY, AQ_LOGICAL_JSON},
    {"bson", "bytes", AQ_BYTE_ARRAY, AQ_LOGICAL_BSON},
    {"interval", "interval", AQ_FIXED_LEN_BYTE_ARRAY, AQ_LOGICAL_INTERVAL, 12},
    {"null", "null", AQ_INT32, AQ_LOGICAL_UNKNOWN},
};

/* Integers whose low bits are the extremes of every width. */
static const uint64_t edge_integers[] = {0,
                                         1,
                                         0x7f,
                                         0x80,
                                         0xff,
                                         0x7fff,
                                         0x8000,
                                         0xffff,
                                         0x7fffffff,
                                         0x80000000u,
                                         0xffffffffu,
                                         0x7fffffffffffffffu,
                                         0x8000000000000000u,
                                         0xffffffffffffffffu};
static const uint32_t edge_floats[] = {0x00000000, 0x80000000, 0x7f800000, 0xff800000,
                                       0x7fc00000, 0x00000001, 0x7f7fffff, 0xff7fffff,
                                       0x3f800000, 0xbf99999a};
static const uint16_t edge_halves[] = {0x0000, 0x8000, 0x7c00, 0xfc00, 0x7e00,
                                       0x0001, 0x7bff, 0xfbff, 0x3c00, 0xbe66};
/* The same values: written down, since a converter of halves could be wrong in both places. */
static const uint32_t edge_halves_as_f32[] = {
    0x00000000, 0x80000000, 0x7f800000, 0xff800000, 0x7fc00000,
    0x33800000, 0x477fe000, 0xc77fe000, 0x3f800000, 0xbfccc000};
static const char *const edge_strings[] = {
    "",          "a",  "\xc3\xa4",     "\xf0\x9f\xa7\xae", "a\"b\\c",
    "tab\there", "zz", "\xef\xbf\xbd", "line\nbreak"};
static const int32_t edge_days[] = {0, 1, -1, 19723, -719162, 2932896, 719468};
/* Nanoseconds of a day: of each unit the least, and the last of the day. */
static const uint64_t edge_times[] = {
    0, 1, 1001, 1001001, 86399999999999u, 45296789012345u, 3599999999999u};
/* Before and after 1970, and the years 1 and 9999. The last two are for milliseconds and
 * microseconds only. */
static const int64_t edge_seconds[] = {0,           1704711296,   -1,          9223372035,
                                       -9223372036, 253402300799, -62135596800};
static const char *const edge_decimals[] = {"0",
                                            "1",
                                            "-1",
                                            "128",
                                            "-128",
                                            "-129",
                                            "999999999",
                                            "-999999999",
                                            "123456789012345678",
                                            "-999999999999999999",
                                            "99999999999999999999",
                                            "-18446744073709551616",
                                            "12345678901234567890123456789012345678",
                                            "-99999999999999999999999999999999999999"};
static const char *const edge_json[] = {"{\"a\": [1, 2.5, null]}", "[]", "null",
                                        "\"\xc3\xa4\"", "-1e3"};
/* Months, days, milliseconds. */
static const uint32_t edge_intervals[][3] = {
    {0, 0, 0}, {14, 3, 4005}, {0, 400000, 0}, {1200, 0, 1}, {1, 1, 2147483647}};
#define PICK(array, i) ((array)[(i) % (sizeof(array) / sizeof((array)[0]))])

/*==========================================================================
 * Columns
 *========================================================================*/

/* A leaf with the values of the current row group, and its expectation so far. */
typedef struct leaf {
    kind kind;
    text values; /* in the form of aq_column_values                     */
    uint8_t def[MAX_ROWS * 16], rep[MAX_ROWS * 16];
    int64_t num_values, num_levels;
    size_t rows; /* of a row group */
} leaf;

static void put_level(leaf *l, uint8_t def, uint8_t rep) {
    l->def[l->num_levels] = def;
    l->rep[l->num_levels] = rep;
    l->num_levels++;
}

static void put_raw(leaf *l, const void *bytes, size_t size) {
    memcpy(text_room(&l->values, size), bytes, size);
    l->values.size += size;
    l->num_values++;
}

static void put_integer(leaf *l, text *expect, uint64_t bits) {
    const int32_t narrow = (int32_t)(uint32_t)bits;
    int32_t stored = narrow;
    switch (l->kind) {
    case I8:
        stored = (int8_t)bits;
        break;
    case I16:
        stored = (int16_t)bits;
        break;
    case U8:
        stored = (uint8_t)bits;
        break;
    case U16:
        stored = (uint16_t)bits;
        break;
    default:
        break;
    }
    if (l->kind == U64) {
        text_u64(expect, bits);
        put_raw(l, &bits, 8);
    } else if (l->kind == I64) {
        text_i64(expect, (int64_t)bits);
        put_raw(l, &bits, 8);
    } else {
        text_i64(expect, l->kind == U32 ? (int64_t)(uint32_t)bits : stored);
        put_raw(l, &stored, 4);
    }
}

/* INT96 is a timestamp to readers: nanoseconds of the day, then the Julian day. */
static void put_timestamp(leaf *l, text *expect, uint64_t seed) {
    const uint64_t micros_of_day = seed * 0x9e3779b97f4a7c15u % 86400000000u;
    const uint64_t nanos = micros_of_day * 1000;
    const uint32_t days = (uint32_t)(seed * 977 % 30000);
    const uint32_t julian_day = days + 2440588;
    uint8_t bytes[12];
    memcpy(bytes, &nanos, 8);
    memcpy(bytes + 8, &julian_day, 4);
    put_raw(l, bytes, sizeof bytes);
    text_add(expect, "\"%llu.%09llu\"",
             (unsigned long long)(days * UINT64_C(86400) + micros_of_day / 1000000),
             (unsigned long long)(nanos % 1000000000));
}

static void put_float(leaf *l, text *expect, size_t i) {
    float value;
    double wide;
    memcpy(&value, &PICK(edge_floats, i), 4);
    wide = (double)value * (i % 2 == 0 ? 1.0 : 1.1);
    switch (l->kind) {
    case F32:
        text_f32(expect, value);
        put_raw(l, &value, 4);
        break;
    case F64:
        text_f64(expect, wide);
        put_raw(l, &wide, 8);
        break;
    default:
        memcpy(&value, &PICK(edge_halves_as_f32, i), 4);
        text_f32(expect, value);
        put_raw(l, &PICK(edge_halves, i), 2);
        break;
    }
}

static void put_text(leaf *l, text *expect, const char *string) {
    const aq_bytes bytes = {(const uint8_t *)string, strlen(string)};
    text_string(expect, bytes.data, bytes.size);
    put_raw(l, &bytes, sizeof bytes);
}

static void put_bytes(leaf *l, text *expect, size_t i) {
    static const uint8_t zeros_and_ones[] = {
        0,    0xff, 0,    1,    0x80, 0x7f, 0x0a, 0x0d, 0xc3, 0x28, 0x22, 0x5c,
        0x41, 0xfe, 0xed, 0xfa, 0xce, 0x00, 0xff, 0xff, 0x10, 0x20, 0x30, 0x40};
    const uint8_t *from = zeros_and_ones + i % 8;
    const size_t size = l->kind == BYTES ? i % 16 : (size_t)kinds[l->kind].type_length;
    const aq_bytes bytes = {from, size};
    text_hex(expect, from, size);
    if (l->kind == BYTES) {
        put_raw(l, &bytes, sizeof bytes);
    } else {
        put_raw(l, from, size);
    }
}

/* "-62135596800.000000000": seconds, rounded down, and nanoseconds. */
static void put_instant(leaf *l, text *expect, size_t i) {
    const int64_t unit = kinds[l->kind].unit_nanos, per_second = 1000000000 / unit;
    const size_t count = sizeof edge_seconds / sizeof edge_seconds[0];
    const int64_t seconds = edge_seconds[i % (unit == 1 ? count - 2 : count)];
    const int64_t fraction = (int64_t)(i * 123456789 % 1000000000) / unit;
    const int64_t value = seconds * per_second + fraction;
    text_add(expect, "\"%lld.%09lld\"", (long long)seconds, (long long)(fraction * unit));
    put_raw(l, &value, 8);
}

static void put_day(leaf *l, text *expect, size_t i) {
    const uint64_t unit = (uint64_t)kinds[l->kind].unit_nanos;
    if (l->kind == DATE) {
        text_i64(expect, PICK(edge_days, i));
        put_raw(l, &PICK(edge_days, i), 4);
    } else {
        const uint64_t value = PICK(edge_times, i) / unit;
        const uint32_t narrow = (uint32_t)value;
        text_u64(expect, value * unit);
        put_raw(l, unit == 1000000 ? (const void *)&narrow : &value,
                unit == 1000000 ? 4 : 8);
    }
}

/* Two's complement, big-endian, `size` bytes of it. */
static void bytes_of_decimal(const char *digits, uint8_t *to, size_t size) {
    const bool negative = digits[0] == '-';
    memset(to, 0, size);
    for (digits += negative; *digits != '\0'; digits++) {
        unsigned carry = (unsigned)(*digits - '0');
        for (size_t k = size; k-- > 0; carry >>= 8) {
            carry += to[k] * 10u;
            to[k] = (uint8_t)carry;
        }
    }
    for (size_t k = size, carry = 1; negative && k-- > 0; carry >>= 8) {
        carry += (uint8_t)~to[k];
        to[k] = (uint8_t)carry;
    }
}

/* The expectation is the number without its decimal point. A BYTE_ARRAY has no byte more
 * than it needs. */
static void put_decimal(leaf *l, text *expect, size_t i) {
    enum { COUNT = sizeof edge_decimals / sizeof edge_decimals[0] };
    static uint8_t stored[COUNT][16]; /* BYTE_ARRAY values point here */
    size_t count = COUNT;
    const char *digits;
    long long number;
    aq_bytes view;
    while (strlen(edge_decimals[count - 1]) > (size_t)kinds[l->kind].precision + 1) {
        count--;
    }
    digits = edge_decimals[i % count];
    text_string(expect, digits, strlen(digits));
    number = strtoll(digits, NULL, 10);
    view.data = stored[i % count];
    view.size = sizeof stored[0];
    bytes_of_decimal(digits, stored[i % count], view.size);
    switch (kinds[l->kind].physical) {
    case AQ_INT32:
        put_raw(l, &(int32_t){(int32_t)number}, 4);
        break;
    case AQ_INT64:
        put_raw(l, &number, 8);
        break;
    case AQ_FIXED_LEN_BYTE_ARRAY:
        put_raw(l, view.data, view.size);
        break;
    default:
        while (view.size > 1 && view.data[0] == (view.data[1] & 0x80 ? 0xff : 0)) {
            view.data++;
            view.size--;
        }
        put_raw(l, &view, sizeof view);
        break;
    }
}

static void put_uuid(leaf *l, text *expect, size_t i) {
    uint64_t state = i, halves[2];
    halves[0] = random_u64(&state);
    halves[1] = random_u64(&state);
    text_hex(expect, halves, sizeof halves);
    put_raw(l, halves, sizeof halves);
}

static void put_interval(leaf *l, text *expect, size_t i) {
    const uint32_t *parts = PICK(edge_intervals, i);
    text_add(expect, "\"%u %u %u\"", (unsigned)parts[0], (unsigned)parts[1],
             (unsigned)parts[2]);
    put_raw(l, parts, 12);
}

static void put_document(leaf *l, text *expect, size_t i) {
    static const uint8_t documents[][12] = {{5}, /* empty; then {"a": an int32} */
                                            {12, 0, 0, 0, 0x10, 'a', 0, 1},
                                            {12, 0, 0, 0, 0x10, 'a', 0, 0xff, 0xff}};
    aq_bytes bytes;
    bytes.data = PICK(documents, i);
    bytes.size = bytes.data[0];
    text_hex(expect, bytes.data, bytes.size);
    put_raw(l, &bytes, sizeof bytes);
}

/* A value of the leaf's kind. A row group has few of them, so that its statistics tell it
 * from the others. */
static void put_value(leaf *l, text *expect, size_t row) {
    const size_t i = row / l->rows * 5 + row % 5;
    const uint8_t bit = i % 3 != 0;
    switch (l->kind) {
    case BOOLEAN:
        text_add(expect, bit ? "\"true\"" : "\"false\"");
        put_raw(l, &bit, 1);
        break;
    case I96:
        put_timestamp(l, expect, i);
        break;
    case F32:
    case F64:
    case F16:
        put_float(l, expect, i);
        break;
    case STRING:
        put_text(l, expect, PICK(edge_strings, i));
        break;
    case BYTES:
    case FIXED:
        put_bytes(l, expect, i);
        break;
    case DATE:
    case TIME_MS:
    case TIME_US:
    case TIME_NS:
        put_day(l, expect, i);
        break;
    case TIMESTAMP_MS:
    case TIMESTAMP_US:
    case TIMESTAMP_NS:
    case LOCAL_TIMESTAMP_US:
    case LOCAL_TIMESTAMP_NS:
        put_instant(l, expect, i);
        break;
    case DECIMAL_I32:
    case DECIMAL_I64:
    case DECIMAL_FIXED:
    case DECIMAL_BYTES:
        put_decimal(l, expect, i);
        break;
    case UUID:
        put_uuid(l, expect, i);
        break;
    case ENUM:
        put_text(l, expect, PICK(edge_strings, i));
        break;
    case JSON:
        put_text(l, expect, PICK(edge_json, i));
        break;
    case BSON:
        put_document(l, expect, i);
        break;
    case INTERVAL:
        put_interval(l, expect, i);
        break;
    default:
        put_integer(l, expect, PICK(edge_integers, i));
        break;
    }
}

static void put_required(leaf *l, text *expect, size_t row) {
    put_level(l, 0, 0);
    put_value(l, expect, row);
}

static void put_optional(leaf *l, text *expect, size_t row) {
    const bool present = l->kind != NOTHING && row % 4 != 1;
    put_level(l, present, 0);
    if (present) {
        put_value(l, expect, row);
    } else {
        text_add(expect, "null");
    }
}

/* A required list of required elements, as in model files. */
static void put_list(leaf *l, text *expect, size_t row) {
    const size_t count = row % 5;
    text_add(expect, "[");
    for (size_t i = 0; i < count; i++) {
        text_add(expect, i == 0 ? "" : ",");
        put_level(l, 1, i != 0);
        put_value(l, expect, row + i);
    }
    if (count == 0) {
        put_level(l, 0, 0);
    }
    text_add(expect, "]");
}

/* An optional list of optional elements: definition level 0 no list, 1 empty, 2 null, 3 value. */
static void put_optional_list(leaf *l, text *expect, size_t row) {
    const size_t count = row % 4;
    if (row % 7 == 2) {
        put_level(l, 0, 0);
        text_add(expect, "null");
        return;
    }
    text_add(expect, "[");
    for (size_t i = 0; i < count; i++) {
        const bool present = l->kind != NOTHING && (row + i) % 3 != 0;
        text_add(expect, i == 0 ? "" : ",");
        put_level(l, present ? 3 : 2, i != 0);
        if (present) {
            put_value(l, expect, row + i);
        } else {
            text_add(expect, "null");
        }
    }
    if (count == 0) {
        put_level(l, 1, 0);
    }
    text_add(expect, "]");
}

/* A list of lists, all required: definition level 0 empty, 1 empty inner list, 2 value. */
static void put_nested_list(leaf *l, text *expect, size_t row) {
    const size_t outer = row % 3;
    text_add(expect, "[");
    for (size_t i = 0; i < outer; i++) {
        const size_t inner = (row + i) % 3;
        text_add(expect, i == 0 ? "[" : ",[");
        for (size_t j = 0; j < inner; j++) {
            text_add(expect, j == 0 ? "" : ",");
            put_level(l, 2, j != 0 ? 2 : i != 0);
            put_value(l, expect, row + i + j);
        }
        if (inner == 0) {
            put_level(l, 1, i != 0);
        }
        text_add(expect, "]");
    }
    if (outer == 0) {
        put_level(l, 0, 0);
    }
    text_add(expect, "]");
}

/* An optional struct of one optional field. */
static void put_struct(leaf *l, text *expect, size_t row) {
    const uint8_t def = (uint8_t)((row + 2) % (l->kind == NOTHING ? 2 : 3));
    put_level(l, def, 0);
    text_add(expect, def == 0 ? "null" : def == 1 ? "[null]" : "[");
    if (def == 2) {
        put_value(l, expect, row);
        text_add(expect, "]");
    }
}

/*==========================================================================
 * Schemas
 *========================================================================*/

/* The shapes a column can have. */
typedef struct column_shape {
    const char *prefix;
    const char *type; /* JSON, %s = the leaf's                              */
    aq_repetition outer, leaf;
    int lists;
    bool in_struct;
    void (*put)(leaf *l, text *expect, size_t row);
} column_shape;

static const column_shape column_shapes[] = {
    {"required", "\"%s\"", AQ_REQUIRED, AQ_REQUIRED, 0, false, put_required},
    {"optional", "\"%s\"", AQ_REQUIRED, AQ_OPTIONAL, 0, false, put_optional},
    {"list", "{\"list\": \"%s\"}", AQ_REQUIRED, AQ_REQUIRED, 1, false, put_list},
    {"optional_list", "{\"list\": \"%s\"}", AQ_OPTIONAL, AQ_OPTIONAL, 1, false,
     put_optional_list},
    {"nested_list", "{\"list\": {\"list\": \"%s\"}}", AQ_REQUIRED, AQ_REQUIRED, 2, false,
     put_nested_list},
    {"struct", "{\"struct\": {\"value\": \"%s\"}}", AQ_OPTIONAL, AQ_OPTIONAL, 0, true,
     put_struct},
};

enum {
    NUM_SHAPES = sizeof column_shapes / sizeof column_shapes[0],
    NUM_LEAVES = NUM_SHAPES * NUM_KINDS
};

typedef struct table {
    aq_codec codec;
    aq_encoding encoding;
    bool statistics;
    int only;                             /* the one kind of leaf, or ALL_BASIC */
    size_t rows;                          /* of a row group */
    aq_field_spec fields[NUM_LEAVES * 5]; /* at most two lists around a leaf */
    size_t num_fields;
    leaf leaves[NUM_LEAVES];
    expected_column expected[NUM_LEAVES];
} table;

static aq_field_spec *add_field(table *t, const char *name, aq_repetition repetition) {
    aq_field_spec *field = &t->fields[t->num_fields++];
    memset(field, 0, sizeof *field);
    field->name = name;
    field->repetition = repetition;
    field->type = AQ_GROUP;
    field->num_children = 1;
    return field;
}

static void add_column(table *t, const char *name, const column_shape *shape, kind k) {
    const char *leaf_name = name;
    if (shape->in_struct) {
        add_field(t, name, shape->outer);
        leaf_name = "value";
    }
    for (int i = 0; i < shape->lists; i++) {
        add_field(t, leaf_name, shape->outer)->logical = AQ_LOGICAL_LIST;
        add_field(t, "list", AQ_REPEATED);
        leaf_name = "element";
    }
    aq_field_spec *field = add_field(t, leaf_name, shape->leaf);
    field->num_children = 0;
    field->type = kinds[k].physical;
    field->logical = kinds[k].logical;
    field->type_length = kinds[k].type_length;
    field->bit_width = kinds[k].bit_width;
    field->is_signed = kinds[k].is_signed;
    field->precision = kinds[k].precision;
    field->scale = kinds[k].scale;
    field->unit_nanos = kinds[k].unit_nanos;
    field->utc = kinds[k].utc;
    field->align_values = true;
    field->write_statistics = t->statistics;
    field->codec = t->codec;
    field->encoding = t->encoding;
}

static const column_shape *shape_of(size_t leaf_index) {
    return &column_shapes[leaf_index / NUM_KINDS];
}

static bool has_leaf(const table *t, size_t leaf_index) {
    const int k = (int)(leaf_index % NUM_KINDS);
    if (k == NOTHING && shape_of(leaf_index)->leaf == AQ_REQUIRED) {
        return false;
    }
    return t->only == ALL_BASIC ? k < NUM_BASIC : k == t->only;
}

static void init_table(table *t) {
    for (size_t i = 0; i < NUM_LEAVES; i++) {
        expected_column *column = &t->expected[i];
        const column_shape *shape = shape_of(i);
        if (!has_leaf(t, i)) {
            continue;
        }
        t->leaves[i].kind = (kind)(i % NUM_KINDS);
        t->leaves[i].rows = t->rows;
        snprintf(column->name, sizeof column->name, "%s_%s", shape->prefix,
                 kinds[t->leaves[i].kind].name);
        snprintf(column->type, sizeof column->type, shape->type,
                 kinds[t->leaves[i].kind].type);
        add_column(t, column->name, shape, t->leaves[i].kind);
    }
}

/* Hands the rows [first_row, first_row + t->rows) of one leaf to the writer. */
static void put_leaf(table *t, size_t leaf_index, size_t first_row, aq_writer *writer) {
    leaf *l = &t->leaves[leaf_index];
    expected_column *column = &t->expected[leaf_index];
    aq_column_values values = {.num_values = 0};
    aq_error err;
    l->values.size = 0;
    l->num_values = l->num_levels = 0;
    for (size_t row = first_row; row < first_row + t->rows; row++) {
        shape_of(leaf_index)->put(l, next_value(column), row);
    }
    values.values = l->values.data;
    values.num_values = l->num_values;
    values.def_levels = l->def;
    values.rep_levels = l->rep;
    values.num_levels = l->num_levels;
    check(column->name, aq_writer_put_column(writer, &values, &err), &err);
}

/* Writes what `like` says: codec, encoding, statistics, kinds. */
static void write_table(const char *dir, const char *name, const table *like,
                        size_t row_groups, aq_writer_options options) {
    table *t = (table *)need(malloc(sizeof *t));
    size_t num_expected = 0;
    char path[1024];
    aq_error err;
    aq_writer *writer;
    memcpy(t, like, sizeof *t);
    init_table(t);
    snprintf(path, sizeof path, "%s/%s.parquet", dir, name);
    options.no_sync = true;
    check(path, aq_writer_open(path, t->fields, t->num_fields, &options, &writer, &err),
          &err);
    check(path, aq_writer_add_key_value(writer, "note", "\xc3\xa4 = a umlaut", &err),
          &err);
    for (size_t group = 0; group < row_groups; group++) {
        for (size_t i = 0; i < NUM_LEAVES; i++) {
            if (has_leaf(t, i)) {
                put_leaf(t, i, group * t->rows, writer);
            }
        }
        check(path, aq_writer_end_row_group(writer, (int64_t)t->rows, &err), &err);
    }
    check(path, aq_writer_finish(writer, &err), &err);
    for (size_t i = 0; i < NUM_LEAVES; i++) {
        free(t->leaves[i].values.data);
        if (has_leaf(t, i)) {
            t->expected[num_expected++] = t->expected[i];
        }
    }
    write_expected(dir, name, t->expected, num_expected);
    free(t);
}

static void write_all_kinds(const char *dir, const char *name, aq_codec codec,
                            bool statistics, size_t row_groups) {
    static table like;
    const aq_writer_options options = {0};
    like.codec = codec;
    like.statistics = statistics;
    like.only = ALL_BASIC;
    like.rows = ROWS;
    write_table(dir, name, &like, row_groups, options);
}

static const struct {
    aq_encoding encoding;
    const char *name;
} encodings[] = {{AQ_PLAIN, "PLAIN"},
                 {AQ_RLE_DICTIONARY, "RLE_DICTIONARY"},
                 {AQ_RLE, "RLE"},
                 {AQ_DELTA_BINARY_PACKED, "DELTA_BINARY_PACKED"},
                 {AQ_DELTA_LENGTH_BYTE_ARRAY, "DELTA_LENGTH_BYTE_ARRAY"},
                 {AQ_DELTA_BYTE_ARRAY, "DELTA_BYTE_ARRAY"},
                 {AQ_BYTE_STREAM_SPLIT, "BYTE_STREAM_SPLIT"}};
enum { NUM_ENCODINGS = sizeof encodings / sizeof encodings[0] };

static bool encoding_fits(const char *dir, aq_encoding encoding, int k) {
    const aq_field_spec probe = {.name = "v",
                                 .type = kinds[k].physical,
                                 .type_length = kinds[k].type_length,
                                 .encoding = encoding};
    aq_writer *writer;
    aq_error err;
    char name[1024];
    snprintf(name, sizeof name, "%s/probe", dir);
    if (aq_writer_open(name, &probe, 1, NULL, &writer, &err) != AQ_OK) {
        return false;
    }
    aq_writer_abort(writer);
    return true;
}

/* SET-ENCODING-KIND-VERSION-CODEC */
static void write_one_kind(const char *dir, const char *set, size_t e, int k,
                           aq_codec codec, aq_writer_options options) {
    static table like;
    char name[128];
    like.statistics = true;
    like.only = k;
    like.codec = codec;
    like.encoding = encodings[e].encoding;
    like.rows = strcmp(set, "codec") == 0 ? MAX_ROWS : ROWS;
    options.page_index = true;
    snprintf(name, sizeof name, "%s-%s-%s-V%d-%s", set, encodings[e].name, kinds[k].name,
             options.data_page_v2 ? 2 : 1, aq_codec_name((int32_t)codec));
    write_table(dir, name, &like, ROW_GROUPS, options);
}

/* Each kind of value without a logical type to speak of, in each encoding that it fits and
 * both forms of pages, which are small. */
static void write_encodings(const char *dir) {
    for (size_t e = 0; e < NUM_ENCODINGS; e++) {
        for (int k = 0; k < NUM_BASIC; k++) {
            if (encoding_fits(dir, encodings[e].encoding, k)) {
                aq_writer_options options = {.page_bytes = 24};
                write_one_kind(dir, "encoding", e, k, AQ_UNCOMPRESSED, options);
                options.data_page_v2 = true;
                write_one_kind(dir, "encoding", e, k, AQ_ZSTD, options);
            }
        }
    }
}

/* Each codec in both forms of pages, which are large enough to be compressed, with a kind of
 * value for each encoding. */
static void write_codecs(const char *dir) {
    static const aq_codec codecs[] = {AQ_UNCOMPRESSED, AQ_SNAPPY, AQ_GZIP,   AQ_BROTLI,
                                      AQ_LZ4,          AQ_ZSTD,   AQ_LZ4_RAW};
    static const int kind_of[NUM_ENCODINGS] = {BYTES,  STRING, BOOLEAN, I64,
                                               STRING, BYTES,  F64};
    for (size_t c = 0; c < sizeof codecs / sizeof codecs[0]; c++) {
        for (size_t e = 0; e < NUM_ENCODINGS; e++) {
            aq_writer_options options = {.page_bytes = 1000};
            write_one_kind(dir, "codec", e, kind_of[e], codecs[c], options);
            options.data_page_v2 = true;
            write_one_kind(dir, "codec", e, kind_of[e], codecs[c], options);
        }
    }
}

/* Each logical type, PLAIN and with a dictionary. */
static void write_logical_types(const char *dir) {
    for (int k = NUM_BASIC; k < NUM_KINDS; k++) {
        aq_writer_options options = {.page_bytes = 24};
        write_one_kind(dir, "logical", 0, k, AQ_UNCOMPRESSED, options);
        options.data_page_v2 = true;
        write_one_kind(dir, "logical", 1, k, AQ_ZSTD, options);
    }
}

void write_tables(const char *dir) {
    write_all_kinds(dir, "table_plain", AQ_UNCOMPRESSED, false, ROW_GROUPS);
    write_all_kinds(dir, "table_statistics", AQ_UNCOMPRESSED, true, ROW_GROUPS);
    write_all_kinds(dir, "table_zstd", AQ_ZSTD, true, ROW_GROUPS);
    write_all_kinds(dir, "table_snappy", AQ_SNAPPY, true, ROW_GROUPS);
    write_all_kinds(dir, "table_no_rows", AQ_UNCOMPRESSED, true, 0);
    write_encodings(dir);
    write_codecs(dir);
    write_logical_types(dir);
}
