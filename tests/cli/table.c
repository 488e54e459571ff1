/* table.c - writes a small Parquet file to stdout that no other writer here would write, for
 * the tests of `aq cat`: logical types, the lists and maps of old writers, contradictions.
 *
 *   table types | numbers | lists | fixed | contradiction | surplus
 *
 * One row group; a PLAIN page for each column. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BOOL, I32, I64, I96, F32, F64, BYTES, FIXED, GROUP = -1 };
enum { REQUIRED, OPTIONAL, REPEATED };

/* An element of the schema, and if it is a leaf also what is in the column. */
typedef struct element {
    const char *name;
    int repetition, type;
    int size;            /* of FIXED; or children of a GROUP                           */
    int converted;       /* ConvertedType; -1 = none                                   */
    const char *logical; /* LogicalType in Thrift, in hexadecimal; NULL = none         */
    const char *values;  /* between blanks: numbers, or bytes in hexadecimal           */
    const char *def, *rep; /* a digit a level; NULL = the column has none              */
} element;

#define STRING "1c0000"
#define MAP "2c0000"
#define LIST "3c0000"
#define DECIMAL(scale, precision) "5c15" scale "15" precision "0000" /* zigzag */
#define DATE "6c0000"
#define TIME_MILLIS_UTC "7c111c1c00000000"
#define TIMESTAMP_MICROS "8c121c2c00000000"
#define TIMESTAMP_NANOS_UTC "8c111c3c00000000"
#define UNSIGNED(bits) "ac13" bits "120000"
#define BSON "dc0000"
#define UUID "ec0000"
#define FLOAT16 "fc0000"
enum { NONE = -1, MAP_KEY_VALUE = 2, INTERVAL = 21 };

/* Three rows. */
static const element types[] = {
    {"bool", REQUIRED, BOOL, 0, NONE, NULL, "1 0 1", NULL, NULL},
    {"date", REQUIRED, I32, 0, NONE, DATE, "19753 -1 2932897", NULL, NULL},
    {"time", REQUIRED, I32, 0, NONE, TIME_MILLIS_UTC, "45296789 0 -1", NULL, NULL},
    {"micros", REQUIRED, I64, 0, NONE, TIMESTAMP_MICROS,
     "1706704496789000 -1 -9223372036854775808", NULL, NULL},
    {"nanos", REQUIRED, I64, 0, NONE, TIMESTAMP_NANOS_UTC,
     "1706704496000000001 0 -86400000000001", NULL, NULL},
    {"int96", REQUIRED, I96, 0, NONE, NULL,
     "000000000000000000000000 00ba61e6672c00004f8b2500 ffffffffffffffff8c3d2500", NULL,
     NULL},
    {"money", REQUIRED, I32, 0, NONE, DECIMAL("04", "0a"), "12345 -5 0", NULL, NULL},
    {"long", OPTIONAL, FIXED, 16, NONE, DECIMAL("14", "4c"),
     "4b3b4ca85a86c47a098a223fffffffff fffffffffffffffffffffffffffffffe", "110", NULL},
    {"any", REQUIRED, BYTES, 0, NONE, DECIMAL("06", "0a"), "80 - 00ff", NULL, NULL},
    {"absurd", REQUIRED, I32, 0, NONE, DECIMAL("feffffff0f", "0a"), "1 2 3", NULL, NULL},
    {"u32", REQUIRED, I32, 0, NONE, UNSIGNED("20"), "-1 0 1", NULL, NULL},
    {"u64", REQUIRED, I64, 0, NONE, UNSIGNED("40"), "-1 0 1", NULL, NULL},
    {"i64", REQUIRED, I64, 0, NONE, NULL,
     "-9223372036854775808 9223372036854775807 9007199254740993", NULL, NULL},
    {"f16", REQUIRED, FIXED, 2, NONE, FLOAT16, "003c 007e 0180", NULL, NULL},
    {"f32", REQUIRED, F32, 0, NONE, NULL, "0.1 nan 16777216", NULL, NULL},
    {"f64", REQUIRED, F64, 0, NONE, NULL, "0.1 -inf -0", NULL, NULL},
    {"uuid", REQUIRED, FIXED, 16, NONE, UUID,
     "00112233445566778899aabbccddeeff 00000000000000000000000000000000 "
     "ffffffffffffffffffffffffffffffff",
     NULL, NULL},
    {"interval", REQUIRED, FIXED, 12, INTERVAL, NULL,
     "0e00000003000000a50f0000 000000000000000000000000 ffffffffffffffffffffffff", NULL,
     NULL},
    {"text", OPTIONAL, BYTES, 0, NONE, STRING, "c3a4220a c3", "101", NULL},
    {"bytes", REQUIRED, BYTES, 0, NONE, NULL, "616263 ff00 -", NULL, NULL},
    {"bson", REQUIRED, BYTES, 0, NONE, BSON, "0500000000 - 61", NULL, NULL},
};

/* Eight rows: the least and the greatest, what is not between its neighbours in the middle, and
 * what the form of the number turns on. */
static const element numbers[] = {
    {"f32", REQUIRED, F32, 0, NONE, NULL,
     "1e-45 1.17549435e-38 3.4028235e38 -9.8607613e-32 1000000 16777216 1e-4 1e-5", NULL,
     NULL},
    {"f64", REQUIRED, F64, 0, NONE, NULL,
     "5e-324 2.2250738585072014e-308 1.7976931348623157e308 5.684341886080802e-14 "
     "1e15 123456789012345678 -9007199254740993 1e23",
     NULL, NULL},
};

/* Two rows: one with elements, and one without or null. */
static const element lists[] = {
    {"rule1", OPTIONAL, GROUP, 1, NONE, LIST, NULL, NULL, NULL},
    {"element", REPEATED, I32, 0, NONE, NULL, "1 2", "220", "010"},
    {"rule2", OPTIONAL, GROUP, 1, NONE, LIST, NULL, NULL, NULL},
    {"element", REPEATED, GROUP, 2, NONE, NULL, NULL, NULL, NULL},
    {"str", REQUIRED, BYTES, 0, NONE, STRING, "61 62", "221", "010"},
    {"num", OPTIONAL, I32, 0, NONE, NULL, "1", "321", "010"},
    {"rule3", OPTIONAL, GROUP, 1, NONE, LIST, NULL, NULL, NULL},
    {"array", REPEATED, GROUP, 1, NONE, LIST, NULL, NULL, NULL},
    {"array", REPEATED, I32, 0, NONE, NULL, "1 2 3", "33320", "02110"},
    {"rule4", OPTIONAL, GROUP, 1, NONE, LIST, NULL, NULL, NULL},
    {"rule4_tuple", REPEATED, GROUP, 1, NONE, NULL, NULL, NULL, NULL},
    {"str", REQUIRED, BYTES, 0, NONE, STRING, "61", "20", "00"},
    {"rule5", REQUIRED, GROUP, 1, NONE, LIST, NULL, NULL, NULL},
    {"element", REPEATED, GROUP, 1, NONE, NULL, NULL, NULL, NULL},
    {"str", OPTIONAL, BYTES, 0, NONE, STRING, "61", "210", "010"},
    {"old_map", OPTIONAL, GROUP, 1, MAP_KEY_VALUE, NULL, NULL, NULL, NULL},
    {"map", REPEATED, GROUP, 2, NONE, NULL, NULL, NULL, NULL},
    {"str", REQUIRED, BYTES, 0, NONE, STRING, "61 62", "221", "010"},
    {"num", OPTIONAL, I32, 0, NONE, NULL, "7", "231", "010"},
    {"set", REQUIRED, GROUP, 1, NONE, MAP, NULL, NULL, NULL},
    {"key_value", REPEATED, GROUP, 1, NONE, NULL, NULL, NULL, NULL},
    {"key", REQUIRED, I32, 0, NONE, NULL, "5 6", "110", "010"},
    {"group", REPEATED, GROUP, 2, NONE, NULL, NULL, NULL, NULL},
    {"a", REQUIRED, I32, 0, NONE, NULL, "1 2", "110", "010"},
    {"b", REPEATED, I32, 0, NONE, NULL, "3 4", "2210", "0210"},
    {"no list", REQUIRED, GROUP, 2, NONE, LIST, NULL, NULL, NULL},
    {"a", REQUIRED, I32, 0, NONE, NULL, "1 2", NULL, NULL},
    {"b.c", OPTIONAL, I32, 0, NONE, NULL, "3", "10", NULL},
};

/* Three rows of arrays of fixed size, [[1, 2], null, []], null and [], from a writer that gives
 * an absent one the levels of its elements. */
static const element fixed[] = {
    {"x", OPTIONAL, GROUP, 1, NONE, LIST, NULL, NULL, NULL},
    {"list", REPEATED, GROUP, 1, NONE, NULL, NULL, NULL, NULL},
    {"element", OPTIONAL, GROUP, 1, NONE, LIST, NULL, NULL, NULL},
    {"list", REPEATED, GROUP, 2, NONE, NULL, NULL, NULL, NULL},
    {"a", OPTIONAL, I32, 0, NONE, NULL, "1 2", "552233000011", "021212021201"},
    {"b", REQUIRED, I32, 0, NONE, NULL, "3 4", "44223300011", "02121202101"},
};

/* Three rows; in the second, the columns of a list have different lengths. */
static const element contradiction[] = {
    {"group", REPEATED, GROUP, 2, NONE, NULL, NULL, NULL, NULL},
    {"a", REQUIRED, I32, 0, NONE, NULL, "1 2 3 4", "1111", "0010"},
    {"b", REQUIRED, I32, 0, NONE, NULL, "1 2 3 4", "1111", "0001"},
};

/* Three rows; after the last one, a column goes on. */
static const element surplus[] = {
    {"group", REPEATED, GROUP, 2, NONE, NULL, NULL, NULL, NULL},
    {"a", REQUIRED, I32, 0, NONE, NULL, "1 2 3", "111", "000"},
    {"b", REQUIRED, I32, 0, NONE, NULL, "1 2 3 4", "1111", "0001"},
};

static const struct {
    const char *name;
    const element *elements;
    int num_elements, num_columns, num_members, num_rows;
} tables[] = {
    {"types", types, sizeof types / sizeof *types, 21, 21, 3},
    {"numbers", numbers, 2, 2, 2, 8},
    {"lists", lists, sizeof lists / sizeof *lists, 13, 9, 2},
    {"fixed", fixed, sizeof fixed / sizeof *fixed, 2, 1, 3},
    {"contradiction", contradiction, 3, 2, 1, 3},
    {"surplus", surplus, 3, 2, 1, 3},
};

/* --- Bytes and Thrift ------------------------------------------------------------------- */

typedef struct bytes {
    uint8_t data[1 << 14];
    size_t size;
} bytes;

static void put(bytes *out, const void *data, size_t size) {
    if (size > sizeof out->data - out->size) abort();
    memcpy(out->data + out->size, data, size);
    out->size += size;
}

static void put_byte(bytes *out, unsigned byte) {
    uint8_t b = (uint8_t)byte;
    put(out, &b, 1);
}

static void put_little(bytes *out, uint64_t value, int size) {
    for (; size != 0; size--, value >>= 8)
        put_byte(out, value & 255);
}

static void put_hex(bytes *out, const char *text, size_t size) {
    size_t i;
    for (i = 0; i + 1 < size; i += 2) {
        char pair[3] = {text[i], text[i + 1], '\0'};
        put_byte(out, (unsigned)strtoul(pair, NULL, 16));
    }
}

static void put_varint(bytes *out, uint64_t value) {
    for (; value >= 128; value >>= 7)
        put_byte(out, (value & 127) | 128);
    put_byte(out, (unsigned)value);
}

enum {
    THRIFT_I32 = 5,
    THRIFT_I64 = 6,
    THRIFT_STRING = 8,
    THRIFT_LIST = 9,
    THRIFT_STRUCT = 12
};

/* step: from the number of the field before. */
static void put_field(bytes *out, int step, int type) {
    put_byte(out, (unsigned)(step << 4 | type));
}

static void put_int(bytes *out, int step, int type, uint64_t value) {
    put_field(out, step, type);
    put_varint(out, value << 1);
}

static void put_name(bytes *out, const char *name) {
    put_varint(out, strlen(name));
    put(out, name, strlen(name));
}

static void put_list(bytes *out, int step, int type, int count) {
    put_field(out, step, THRIFT_LIST);
    put_byte(out, (unsigned)((count < 15 ? count : 15) << 4 | type));
    if (count >= 15) put_varint(out, (uint64_t)count);
}

/* --- Pages -------------------------------------------------------------------------------- */

/* A run of length 1 for each level. */
static void put_levels(bytes *out, const char *levels) {
    if (levels == NULL) return;
    put_little(out, 2 * strlen(levels), 4);
    for (; *levels != '\0'; levels++) {
        put_byte(out, 1 << 1);
        put_byte(out, (unsigned)(*levels - '0'));
    }
}

static void put_value(bytes *out, const element *of, const char *text, size_t size) {
    double number = strtod(text, NULL);
    float single = (float)number;
    switch (of->type) {
    case I32:
        put_little(out, (uint64_t)strtoll(text, NULL, 10), 4);
        break;
    case I64:
        put_little(out, (uint64_t)strtoll(text, NULL, 10), 8);
        break;
    case F32:
        put(out, &single, sizeof single);
        break;
    case F64:
        put(out, &number, sizeof number);
        break;
    case BYTES: /* "-" is none */
        put_little(out, size / 2, 4);
        put_hex(out, text, size);
        break;
    default:
        put_hex(out, text, size);
    }
}

/* Returns the number of values. */
static int put_values(bytes *out, const element *of) {
    const char *text = of->values;
    unsigned bits = 0;
    int count = 0;
    for (; *text != '\0'; count++) {
        size_t size = strcspn(text, " ");
        if (of->type == BOOL) {
            bits |= (unsigned)(*text == '1') << count;
        } else {
            put_value(out, of, text, size);
        }
        text += size + strspn(text + size, " ");
    }
    if (of->type == BOOL) put_byte(out, bits);
    return count;
}

/* Appends the page; returns its number of levels. */
static int put_page(bytes *out, const element *of) {
    bytes body = {{0}, 0};
    int count;
    put_levels(&body, of->rep);
    put_levels(&body, of->def);
    count = put_values(&body, of);
    if (of->def != NULL) count = (int)strlen(of->def);
    put_int(out, 1, THRIFT_I32, 0);
    put_int(out, 1, THRIFT_I32, body.size);
    put_int(out, 1, THRIFT_I32, body.size);
    put_field(out, 2, THRIFT_STRUCT);
    put_int(out, 1, THRIFT_I32, (uint64_t)count);
    put_int(out, 1, THRIFT_I32, 0); /* PLAIN */
    put_int(out, 1, THRIFT_I32, 3); /* RLE */
    put_int(out, 1, THRIFT_I32, 3);
    put_byte(out, 0);
    put_byte(out, 0);
    put(out, body.data, body.size);
    return count;
}

/* --- Footer ------------------------------------------------------------------------------- */

static void put_element(bytes *out, const element *of) {
    int last = 4;
    if (of->type != GROUP) put_int(out, 1, THRIFT_I32, (uint64_t)of->type);
    if (of->type == FIXED) put_int(out, 1, THRIFT_I32, (uint64_t)of->size);
    put_int(out,
            of->type == GROUP   ? 3
            : of->type == FIXED ? 1
                                : 2,
            THRIFT_I32, (uint64_t)of->repetition);
    put_field(out, 1, THRIFT_STRING);
    put_name(out, of->name);
    if (of->type == GROUP) {
        put_int(out, 1, THRIFT_I32, (uint64_t)of->size);
        last = 5;
    }
    if (of->converted != NONE) {
        put_int(out, 6 - last, THRIFT_I32, (uint64_t)of->converted);
        last = 6;
    }
    if (of->logical != NULL) {
        put_field(out, 10 - last, THRIFT_STRUCT);
        put_hex(out, of->logical, strlen(of->logical));
    }
    put_byte(out, 0);
}

/* The groups around an element, and itself. */
typedef struct branch {
    const element *at[8];
    int left[8]; /* children of a group that are still to come */
    int depth;
} branch;

/* To an element, in the order of the schema. */
static void branch_step(branch *b, const element *of) {
    while (b->depth > 0 &&
           (b->at[b->depth - 1]->type != GROUP || b->left[b->depth - 1] == 0))
        b->depth--;
    if (b->depth > 0) b->left[b->depth - 1]--;
    b->at[b->depth] = of;
    b->left[b->depth++] = of->size;
}

static void put_chunk(bytes *out, const branch *path, size_t start, size_t size,
                      int count) {
    int i;
    put_int(out, 2, THRIFT_I64, start);
    put_field(out, 1, THRIFT_STRUCT);
    put_int(out, 1, THRIFT_I32, (uint64_t)path->at[path->depth - 1]->type);
    put_list(out, 1, THRIFT_I32, 0);
    put_list(out, 1, THRIFT_STRING, path->depth);
    for (i = 0; i < path->depth; i++)
        put_name(out, path->at[i]->name);
    put_int(out, 1, THRIFT_I32, 0); /* UNCOMPRESSED */
    put_int(out, 1, THRIFT_I64, (uint64_t)count);
    put_int(out, 1, THRIFT_I64, size);
    put_int(out, 1, THRIFT_I64, size);
    put_int(out, 2, THRIFT_I64, start);
    put_byte(out, 0);
    put_byte(out, 0);
}

int main(int argc, char **argv) {
    static bytes file, footer;
    branch path = {{NULL}, {0}, 0};
    size_t t, footer_start;
    int i;
    for (t = 0; argc == 2 && t < sizeof tables / sizeof *tables - 1 &&
                strcmp(tables[t].name, argv[1]) != 0;)
        t++;
    if (argc != 2 || strcmp(tables[t].name, argv[1]) != 0) {
        fputs("usage: table types|numbers|lists|fixed|contradiction|surplus\n", stderr);
        return 2;
    }
    put(&file, "PAR1", 4);
    put_int(&footer, 1, THRIFT_I32, 1);
    put_list(&footer, 1, THRIFT_STRUCT, tables[t].num_elements + 1);
    put_hex(&footer, "4804726f6f74", 12); /* name: root */
    put_int(&footer, 1, THRIFT_I32, (uint64_t)tables[t].num_members);
    put_byte(&footer, 0);
    for (i = 0; i < tables[t].num_elements; i++)
        put_element(&footer, &tables[t].elements[i]);
    put_int(&footer, 1, THRIFT_I64, (uint64_t)tables[t].num_rows);
    put_list(&footer, 1, THRIFT_STRUCT, 1);
    put_list(&footer, 1, THRIFT_STRUCT, tables[t].num_columns);
    for (i = 0; i < tables[t].num_elements; i++) {
        const element *of = &tables[t].elements[i];
        size_t start = file.size;
        int count;
        branch_step(&path, of);
        if (of->type == GROUP) continue;
        count = put_page(&file, of);
        put_chunk(&footer, &path, start, file.size - start, count);
    }
    put_int(&footer, 1, THRIFT_I64, file.size);
    put_int(&footer, 1, THRIFT_I64, (uint64_t)tables[t].num_rows);
    put_byte(&footer, 0);
    put_byte(&footer, 0);
    footer_start = file.size;
    put(&file, footer.data, footer.size);
    put_little(&file, file.size - footer_start, 4);
    put(&file, "PAR1", 4);
    return fwrite(file.data, 1, file.size, stdout) == file.size && fflush(stdout) == 0
               ? 0
               : 2;
}
