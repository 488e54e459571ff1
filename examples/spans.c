/* spans.c - pointers into a mapped Parquet file: numbers, lists of numbers and blobs; and a
 * column that has to be decoded, each page a task for one of several threads.
 *
 *   cc spans.c -o spans -pthread -lm && ./spans */
#define ARROWQUANT_IMPLEMENTATION
#include "../arrowquant.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 1024, LIST = 4 };
static aq_error err;
static void check(aq_status status) {
    if (status == AQ_OK) return;
    fprintf(stderr, "spans: %s\n", err.message);
    exit(1);
}

/* Every value in order: 0, 1, 2... A blob is the bytes of LIST floats. */
static void write_sample(const char *path) {
    static const aq_field_spec fields[6] = {
        {.name = "weight", .type = AQ_FLOAT, .align_values = true},
        {.name = "v", .type = AQ_GROUP, .num_children = 1, .logical = AQ_LOGICAL_LIST},
        {.name = "list", .type = AQ_GROUP, .num_children = 1, .repetition = AQ_REPEATED},
        {.name = "element", .type = AQ_FLOAT, .align_values = true},
        {.name = "blob", .type = AQ_BYTE_ARRAY},
        {.name = "split", .type = AQ_FLOAT, .encoding = AQ_BYTE_STREAM_SPLIT},
    };
    static float f[ROWS * LIST];
    static uint8_t def[ROWS * LIST], rep[ROWS * LIST];
    static aq_bytes blobs[ROWS];
    const aq_writer_options options = {.page_bytes = 8000}; /* the first is aligned */
    const aq_column_values columns[4] = {
        {f, .num_values = ROWS},
        {f, ROWS * LIST, def, rep, .num_levels = ROWS * LIST},
        {blobs, .num_values = ROWS},
        {f, .num_values = ROWS}};
    aq_writer *writer;
    for (size_t i = 0; i < ROWS * LIST; i++) {
        f[i] = (float)i;
        def[i] = 1;             /* an element */
        rep[i] = i % LIST != 0; /* of a new list, or of the one before */
        blobs[i / LIST].data = (const uint8_t *)&f[i - i % LIST];
        blobs[i / LIST].size = LIST * sizeof(float);
    }
    check(aq_writer_open(path, fields, 6, &options, &writer, &err));
    for (int i = 0; i < 4; i++)
        check(aq_writer_put_column(writer, &columns[i], &err));
    check(aq_writer_end_row_group(writer, ROWS, &err));
    check(aq_writer_finish(writer, &err));
}

/* The first float of a span, from where it lies. That is any address, unless span.alignment says
 * more: hence memcpy. Of blobs the values are aq_bytes, which point to where they lie. */
static double first(aq_physical_type type, const aq_span *span) {
    const bool blob = type == AQ_BYTE_ARRAY;
    float x;
    memcpy(&x, blob ? ((const aq_bytes *)span->values)->data : span->values, sizeof x);
    return (double)x;
}

static void show(const aq_parquet *file, int32_t number, aq_column *column) {
    const aq_span *spans;
    size_t count;
    check(aq_column_spans(column, &spans, &count, &err));
    for (const aq_span *s = spans; s < spans + count; s++)
        printf("%-15s %4d values %s byte %5d, %s for floats; first %g\n",
               aq_parquet_column_path(file, number), (int)s->num_values,
               s->mapped ? "mapped at   " : "decoded from", (int)s->file_offset,
               s->alignment >= sizeof(float) ? "aligned" : "not aligned",
               first(aq_parquet_column_field(file, number)->type, s));
}

int main(void) {
    aq_parquet *file;
    aq_threads *threads;
    aq_column *columns[4];
    write_sample("spans.parquet");
    check(aq_parquet_open("spans.parquet", NULL, &file, &err));
    check(aq_threads_create(0, NULL, &threads, &err)); /* 0: one for each processor */
    for (int32_t c = 0; c < 4; c++)
        check(aq_column_open(file, 0, c, &columns[c], &err));
    /* What is mapped costs nothing here; all pages of "split" are decoded side by side. */
    check(aq_columns_decode(columns, 4, aq_threads_tasks(threads), &err));
    for (int32_t c = 0; c < 4; c++) {
        show(file, c, columns[c]);
        aq_column_close(columns[c]); /* decoded spans die here, mapped ones with file */
    }
    /* Mapped pages have not been read: their checksums are verified on request. */
    for (int32_t c = 0; c < 4; c++) {
        check(aq_column_open(file, 0, c, &columns[c], &err));
        check(aq_column_verify(columns[c], &err));
        aq_column_close(columns[c]);
    }
    printf("every checksum is right\n");
    aq_threads_destroy(threads);
    aq_parquet_close(file);
    return 0;
}
