/* A table of make_models whose groups have several leaves: a map, a list of structs with a list
 * inside, a struct, and a repeated field without a LIST around it. */
#include "emit.h"

enum { GROUPS = 2, ROWS = 50 };

/* The columns of the expectation, and the leaves. */
enum { MAP, RECORDS, PAIR, REPEATED, NUM_COLUMNS };
enum { KEY, VALUE, NUMBER, NAME, X, Y, BARE, NUM_LEAVES };

static const aq_field_spec fields[] = {
    {.name = "map",
     .type = AQ_GROUP,
     .repetition = AQ_OPTIONAL,
     .num_children = 1,
     .logical = AQ_LOGICAL_MAP},
    {.name = "key_value", .type = AQ_GROUP, .repetition = AQ_REPEATED, .num_children = 2},
    {.name = "key", .type = AQ_BYTE_ARRAY, .logical = AQ_LOGICAL_STRING},
    {.name = "value", .type = AQ_INT32, .repetition = AQ_OPTIONAL},
    {.name = "records",
     .type = AQ_GROUP,
     .repetition = AQ_OPTIONAL,
     .num_children = 1,
     .logical = AQ_LOGICAL_LIST},
    {.name = "list", .type = AQ_GROUP, .repetition = AQ_REPEATED, .num_children = 1},
    {.name = "element", .type = AQ_GROUP, .repetition = AQ_OPTIONAL, .num_children = 2},
    {.name = "number", .type = AQ_INT64, .repetition = AQ_OPTIONAL},
    {.name = "names", .type = AQ_GROUP, .num_children = 1, .logical = AQ_LOGICAL_LIST},
    {.name = "list", .type = AQ_GROUP, .repetition = AQ_REPEATED, .num_children = 1},
    {.name = "element", .type = AQ_BYTE_ARRAY, .logical = AQ_LOGICAL_STRING},
    {.name = "pair", .type = AQ_GROUP, .num_children = 2},
    {.name = "x", .type = AQ_DOUBLE},
    {.name = "y", .type = AQ_BOOLEAN, .repetition = AQ_OPTIONAL},
    {.name = "repeated", .type = AQ_INT32, .repetition = AQ_REPEATED},
};
static const size_t value_bytes[NUM_LEAVES] = {
    sizeof(aq_bytes), 4, 8, sizeof(aq_bytes), 8, 1, 4};
static const char *const words[] = {"alpha", "", "\xc3\xa4", "delta", "epsilon \"5\""};

typedef struct leaf {
    uint8_t def[ROWS * 12], rep[ROWS * 12], values[ROWS * 12 * 16];
    int64_t num_levels, num_values;
} leaf;

/* One level; with a value unless it is NULL. */
static void put(leaf *leaves, int which, int def, int rep, const void *value) {
    leaf *l = &leaves[which];
    l->def[l->num_levels] = (uint8_t)def;
    l->rep[l->num_levels++] = (uint8_t)rep;
    if (value != NULL) {
        memcpy(l->values + (size_t)l->num_values++ * value_bytes[which], value,
               value_bytes[which]);
    }
}

static void put_word(leaf *leaves, int which, int def, int rep, size_t i, text *expect) {
    const char *word = words[i % 5];
    const aq_bytes bytes = {(const uint8_t *)word, strlen(word)};
    text_string(expect, word, bytes.size);
    put(leaves, which, def, rep, &bytes);
}

/* Null, or 0 to 3 entries; definition levels 0 null, 1 empty, 2 an entry, 3 its value. */
static void put_map(leaf *leaves, size_t row, text *expect) {
    const size_t count = row % 4;
    if (row % 6 == 5 || count == 0) {
        const int def = row % 6 != 5;
        put(leaves, KEY, def, 0, NULL);
        put(leaves, VALUE, def, 0, NULL);
        text_add(expect, def == 0 ? "null" : "[]");
        return;
    }
    text_add(expect, "[");
    for (size_t i = 0; i < count; i++) {
        const int32_t value = (int32_t)(row * 1000 + i);
        const bool present = (row + i) % 3 != 0;
        text_add(expect, i == 0 ? "[" : ",[");
        put_word(leaves, KEY, 2, i != 0, row + i, expect);
        put(leaves, VALUE, present ? 3 : 2, i != 0, present ? &value : NULL);
        text_add(expect, present ? ",\"%d\"]" : ",null]", (int)value);
    }
    text_add(expect, "]");
}

/* Null, or up to 4 elements, each null or a number and up to 2 names. */
static void put_records(leaf *leaves, size_t row, text *expect) {
    const size_t count = (row + 1) % 5;
    if (row % 7 == 3 || count == 0) {
        const int def = row % 7 != 3;
        put(leaves, NUMBER, def, 0, NULL);
        put(leaves, NAME, def, 0, NULL);
        text_add(expect, def == 0 ? "null" : "[]");
        return;
    }
    text_add(expect, "[");
    for (size_t i = 0; i < count; i++) {
        const int64_t number = -(int64_t)(row * 7 + i);
        const bool present = (row + i) % 2 == 0;
        text_add(expect, i == 0 ? "" : ",");
        if ((row + i) % 5 == 4) {
            put(leaves, NUMBER, 2, i != 0, NULL);
            put(leaves, NAME, 2, i != 0, NULL);
            text_add(expect, "null");
            continue;
        }
        put(leaves, NUMBER, present ? 4 : 3, i != 0, present ? &number : NULL);
        text_add(expect, present ? "[\"%lld\",[" : "[null,[", (long long)number);
        for (size_t k = 0; k < (row + i) % 3; k++) {
            text_add(expect, k == 0 ? "" : ",");
            put_word(leaves, NAME, 4, k != 0 ? 2 : i != 0, row + i + k, expect);
        }
        if ((row + i) % 3 == 0) {
            put(leaves, NAME, 3, i != 0, NULL);
        }
        text_add(expect, "]]");
    }
    text_add(expect, "]");
}

static void put_pair(leaf *leaves, size_t row, text *expect) {
    const double x = (double)row / 4;
    const uint8_t y = row % 2;
    put(leaves, X, 0, 0, &x);
    put(leaves, Y, row % 3 != 0, 0, row % 3 != 0 ? &y : NULL);
    text_add(expect, "[");
    text_f64(expect, x);
    text_add(expect, row % 3 == 0 ? ",null]" : y ? ",\"true\"]" : ",\"false\"]");
}

static void put_repeated(leaf *leaves, size_t row, text *expect) {
    const size_t count = row % 3;
    text_add(expect, "[");
    for (size_t i = 0; i < count; i++) {
        const int32_t value = (int32_t)(row * 10 + i);
        text_add(expect, i == 0 ? "\"%d\"" : ",\"%d\"", (int)value);
        put(leaves, BARE, 1, i != 0, &value);
    }
    if (count == 0) {
        put(leaves, BARE, 0, 0, NULL);
    }
    text_add(expect, "]");
}

static void put_row_group(aq_writer *writer, size_t first_row, expected_column *columns) {
    static leaf leaves[NUM_LEAVES];
    aq_error err;
    memset(leaves, 0, sizeof leaves);
    for (size_t row = first_row; row < first_row + ROWS; row++) {
        put_map(leaves, row, next_value(&columns[MAP]));
        put_records(leaves, row, next_value(&columns[RECORDS]));
        put_pair(leaves, row, next_value(&columns[PAIR]));
        put_repeated(leaves, row, next_value(&columns[REPEATED]));
    }
    for (int i = 0; i < NUM_LEAVES; i++) {
        const leaf *l = &leaves[i];
        const aq_column_values values = {l->values, l->num_values, l->def, l->rep,
                                         .num_levels =
                                             i == X ? l->num_values : l->num_levels};
        check("nested", aq_writer_put_column(writer, &values, &err), &err);
    }
    check("nested", aq_writer_end_row_group(writer, ROWS, &err), &err);
}

void write_nested(const char *dir) {
    for (int version = 1; version <= 2; version++) {
        static const expected_column empty[NUM_COLUMNS] = {
            {.name = "map", .type = "{\"map\": [\"string\", \"int\"]}"},
            {.name = "records",
             .type = "{\"list\": {\"struct\": {\"number\": \"int\", "
                     "\"names\": {\"list\": \"string\"}}}}"},
            {.name = "pair", .type = "{\"struct\": {\"x\": \"f64\", \"y\": \"bool\"}}"},
            {.name = "repeated", .type = "{\"list\": \"int\"}"},
        };
        const aq_writer_options options = {.page_bytes = version == 1 ? 0 : 60,
                                           .data_page_v2 = version == 2,
                                           .page_index = true,
                                           .no_sync = true};
        expected_column columns[NUM_COLUMNS];
        char name[64], path[1024];
        aq_writer *writer;
        aq_error err;
        memcpy(columns, empty, sizeof columns);
        snprintf(name, sizeof name, "nested-PLAIN-groups-V%d-UNCOMPRESSED", version);
        snprintf(path, sizeof path, "%s/%s.parquet", dir, name);
        check(path,
              aq_writer_open(path, fields, sizeof fields / sizeof fields[0], &options,
                             &writer, &err),
              &err);
        for (size_t group = 0; group < GROUPS; group++) {
            put_row_group(writer, group * ROWS, columns);
        }
        check(path, aq_writer_finish(writer, &err), &err);
        write_expected(dir, name, columns, NUM_COLUMNS);
    }
}
