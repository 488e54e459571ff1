/* `make_models --table OUT`: a table of flat columns that a test describes on stdin, a word at a
 * time: page_bytes version; number of columns, and of each its name, type, logical type,
 * type_length, bit_width, is_signed, precision, scale, unit_nanos, utc, encoding, codec; number
 * of row groups, and of each the number of its rows and, column by column, the values: the
 * bytes of PLAIN (of a byte array without its length) in hexadecimal after an "x", or "-" for
 * null. Numbers are those of the enums of arrowquant.h. */
#include "emit.h"

enum { MAX_COLUMNS = 100, WORD = 20000 };

static char word[WORD];

static const char *next_word(void) {
    if (scanf("%19999s", word) != 1) {
        fail("the description of a table", "is cut off");
    }
    return word;
}

static int64_t next_number(void) { return strtoll(next_word(), NULL, 10); }

static void read_column(aq_field_spec *to) {
    char *name = strcpy((char *)need(malloc(strlen(next_word()) + 1)), word);
    memset(to, 0, sizeof *to);
    to->name = name;
    to->repetition = AQ_OPTIONAL;
    to->type = (aq_physical_type)next_number();
    to->logical = (aq_logical_type)next_number();
    to->type_length = (int32_t)next_number();
    to->bit_width = (int32_t)next_number();
    to->is_signed = next_number() != 0;
    to->precision = (int32_t)next_number();
    to->scale = (int32_t)next_number();
    to->unit_nanos = (int32_t)next_number();
    to->utc = next_number() != 0;
    to->encoding = (aq_encoding)next_number();
    to->codec = (aq_codec)next_number();
    to->write_statistics = true;
}

/* Returns the number of bytes of the word after its "x". */
static size_t unhex(uint8_t *to) {
    size_t n = 0;
    for (const char *at = word + 1; *at != '\0'; at += 2) {
        const char pair[3] = {at[0], at[1], '\0'};
        to[n++] = (uint8_t)strtoul(pair, NULL, 16);
    }
    return n;
}

static void put_column(const aq_field_spec *column, size_t rows, aq_writer *writer) {
    uint8_t *def = (uint8_t *)need(malloc(rows + 1));
    aq_bytes *arrays = (aq_bytes *)need(malloc((rows + 1) * sizeof *arrays));
    const uint8_t *at;
    aq_column_values values = {NULL, 0, def, .num_levels = (int64_t)rows};
    text bytes = {need(malloc(1)), 0, 1};
    aq_error err;
    for (size_t i = 0; i < rows; i++) {
        def[i] = next_word()[0] == 'x';
        if (def[i]) {
            aq_bytes *array = &arrays[values.num_values++];
            array->size = unhex((uint8_t *)text_room(&bytes, WORD));
            bytes.size += array->size;
        }
    }
    at = (const uint8_t *)bytes.data;
    for (int64_t i = 0; i < values.num_values; at += arrays[i++].size) {
        arrays[i].data = at;
    }
    values.values = column->type == AQ_BYTE_ARRAY ? (void *)arrays : bytes.data;
    check(column->name, aq_writer_put_column(writer, &values, &err), &err);
    free(bytes.data);
    free(arrays);
    free(def);
}

void write_described(const char *path) {
    static aq_field_spec columns[MAX_COLUMNS];
    aq_writer_options options = {.no_sync = true, .page_index = true};
    aq_writer *writer;
    aq_error err;
    size_t num_columns, groups;
    options.page_bytes = (size_t)next_number();
    options.data_page_v2 = next_number() == 2;
    num_columns = (size_t)next_number();
    if (num_columns > MAX_COLUMNS) {
        fail(path, "too many columns");
    }
    for (size_t i = 0; i < num_columns; i++) {
        read_column(&columns[i]);
    }
    check(path, aq_writer_open(path, columns, num_columns, &options, &writer, &err),
          &err);
    for (groups = (size_t)next_number(); groups > 0; groups--) {
        const size_t rows = (size_t)next_number();
        for (size_t i = 0; i < num_columns; i++) {
            put_column(&columns[i], rows, writer);
        }
        check(path, aq_writer_end_row_group(writer, (int64_t)rows, &err), &err);
    }
    check(path, aq_writer_finish(writer, &err), &err);
    for (size_t i = 0; i < num_columns; i++) {
        free((char *)(uintptr_t)columns[i].name);
    }
}
