/* read_parquet.c - print the numbers and strings of a Parquet file, and which columns lie
 * in the mapped file as they are.
 *
 *   cc read_parquet.c -o read_parquet -pthread -lm
 *   ./read_parquet [cities.parquet]      (without a name: a file made here) */
#define ARROWQUANT_IMPLEMENTATION
#include "../arrowquant.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static aq_error err;

static void check(aq_status status) {
    if (status != AQ_OK) {
        fprintf(stderr, "read_parquet: %s\n", err.message);
        exit(1);
    }
}

/* Heights of three towers. The second is not known: its definition level is 0. */
static const char *write_sample(void) {
    static const aq_field_spec field = {
        .name = "metres", .type = AQ_DOUBLE, .repetition = AQ_OPTIONAL};
    static const double metres[2] = {381, 828};
    static const uint8_t levels[3] = {1, 0, 1};
    const aq_column_values column = {metres, 2, levels, .num_levels = 3};
    aq_writer *writer;
    check(aq_writer_open("towers.parquet", &field, 1, NULL, &writer, &err));
    check(aq_writer_put_column(writer, &column, &err));
    check(aq_writer_end_row_group(writer, 3, &err));
    check(aq_writer_finish(writer, &err));
    return "towers.parquet";
}

/* Strings come as aq_bytes. Numbers lie as the file has them, at any address: memcpy,
 * unless span.alignment says that a pointer will do. */
static void print_value(aq_physical_type type, const void *values, int64_t i) {
    const aq_bytes *text = (const aq_bytes *)values;
    const uint8_t *at = (const uint8_t *)values;
    union {
        int32_t i32;
        int64_t i64;
        float f32;
        double f64;
    } v;
    if (type == AQ_BOOLEAN) printf(" %d", at[i]);
    if (type == AQ_INT32 || type == AQ_FLOAT) memcpy(&v, at + 4 * i, 4);
    if (type == AQ_INT64 || type == AQ_DOUBLE) memcpy(&v, at + 8 * i, 8);
    if (type == AQ_INT32) printf(" %" PRId32, v.i32);
    if (type == AQ_INT64) printf(" %" PRId64, v.i64);
    if (type == AQ_FLOAT) printf(" %g", (double)v.f32);
    if (type == AQ_DOUBLE) printf(" %g", v.f64);
    if (type == AQ_BYTE_ARRAY)
        printf(" %.*s", (int)text[i].size, (const char *)text[i].data);
}

/* A span is a page: its values, and a definition level a row where rows may be null. (For
 * a column of lists, rep_levels would say where each list begins.) */
static void print_span(const aq_field *field, const aq_span *span) {
    int64_t value = 0;
    for (int64_t i = 0; i < span->num_levels; i++) {
        if (span->def_levels != NULL && span->def_levels[i] < field->max_def)
            printf(" null");
        else
            print_value(field->type, span->values, value++);
    }
    printf(span->mapped ? "   (in the mapped file)\n" : "   (decoded)\n");
}

static void print_column(const aq_parquet *file, int32_t group, int32_t number) {
    aq_column *column;
    aq_span span;
    check(aq_column_open(file, group, number, &column, &err));
    printf("row group %d, %s:", (int)group, aq_parquet_column_path(file, number));
    for (;;) {
        check(aq_column_next(column, &span, &err));
        if (span.num_levels == 0) break;
        print_span(aq_parquet_column_field(file, number), &span);
    }
    aq_column_close(column);
}

int main(int argc, char **argv) {
    aq_parquet *file;
    aq_parquet_info info;
    check(aq_parquet_open(argc > 1 ? argv[1] : write_sample(), NULL, &file, &err));
    aq_parquet_get_info(file, &info);
    printf("%" PRId64 " rows\n", info.num_rows);
    for (int32_t group = 0; group < info.num_row_groups; group++)
        for (int32_t column = 0; column < info.num_columns; column++)
            print_column(file, group, column);
    aq_parquet_close(file);
    return 0;
}
