/* write_parquet.c - write a Parquet file: three columns, two row groups, a key.
 *
 *   cc write_parquet.c -o write_parquet -pthread -lm
 *   ./write_parquet [cities.parquet] */
#define ARROWQUANT_IMPLEMENTATION
#include "../arrowquant.h"

#include <stdio.h>
#include <string.h>

enum { ROWS = 3 };

/* Column by column, as Parquet stores them. */
static const char *const names[2][ROWS] = {{"Oslo", "Lima", "Quito"},
                                           {"Bern", "Accra", "Apia"}};
static const int32_t metres[2][ROWS] = {{23, 154, 2850}, {540, 61, 2}};

/* Rainy days in the year, not known everywhere: values without gaps, and for each row a
 * definition level, 1 where there is a value and 0 for null. */
static const double rain[2][ROWS] = {{113.5, 4.25}, {136.25}};
static const int64_t rain_count[2] = {2, 1};
static const uint8_t rain_levels[2][ROWS] = {{1, 1, 0}, {1, 0, 0}};

static aq_status write_row_group(aq_writer *writer, int group, aq_error *err) {
    aq_bytes strings[ROWS];
    for (int i = 0; i < ROWS; i++) {
        strings[i].data = (const uint8_t *)names[group][i];
        strings[i].size = strlen(names[group][i]);
    }
    const aq_column_values columns[3] = {
        {.values = strings, .num_values = ROWS, .num_levels = ROWS},
        {.values = metres[group], .num_values = ROWS, .num_levels = ROWS},
        {.values = rain[group],
         .num_values = rain_count[group],
         .def_levels = rain_levels[group],
         .num_levels = ROWS},
    };
    for (int i = 0; i < 3; i++) {
        aq_status status = aq_writer_put_column(writer, &columns[i], err);
        if (status != AQ_OK) return status;
    }
    return aq_writer_end_row_group(writer, ROWS, err);
}

int main(int argc, char **argv) {
    const char *path = argc > 1 ? argv[1] : "cities.parquet";
    const aq_field_spec fields[3] = {
        {.name = "city",
         .type = AQ_BYTE_ARRAY,
         .logical = AQ_LOGICAL_STRING,
         .write_statistics = true},
        {.name = "metres", .type = AQ_INT32, .write_statistics = true},
        {.name = "rainy_days", .type = AQ_DOUBLE, .repetition = AQ_OPTIONAL},
    };
    aq_writer *writer = NULL;
    aq_error err = {0};

    aq_status status = aq_writer_open(path, fields, 3, NULL, &writer, &err);
    if (status == AQ_OK)
        status = aq_writer_add_key_value(writer, "source", "write_parquet.c", &err);
    for (int group = 0; group < 2 && status == AQ_OK; group++)
        status = write_row_group(writer, group, &err);
    /* The file appears here, whole; after an error nothing has appeared. */
    if (status == AQ_OK)
        status = aq_writer_finish(writer, &err);
    else
        aq_writer_abort(writer);
    if (status != AQ_OK) {
        fprintf(stderr, "write_parquet: %s: %s\n", path, err.message);
        return 1;
    }
    printf("wrote %s: 2 row groups of %d rows\n", path, ROWS);
    return 0;
}
