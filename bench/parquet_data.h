/* parquet_data.h - the data of the Parquet benches, written and read by arrowquant.h: weights
 * as a flat column, as 64 lists and as 64 blobs. */
#ifndef PARQUET_DATA_H
#define PARQUET_DATA_H

#include "measure.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ROWS 64 /* lists, blobs */

typedef enum shape { FLAT, LIST, BLOB } shape;

static const char *const shape_names[] = {"flat", "list", "blob"};

typedef struct codec_case {
    const char *name;
    aq_codec codec;
} codec_case;

static const codec_case codec_cases[] = {
    {"none", AQ_UNCOMPRESSED}, {"snappy", AQ_SNAPPY}, {"zstd", AQ_ZSTD}};

enum { CODEC_CASES = sizeof codec_cases / sizeof *codec_cases };

typedef struct weights {
    float *values;
    size_t count;    /* a multiple of ROWS */
    int64_t offsets[ROWS + 1]; /* of the lists */
    aq_bytes blobs[ROWS];
} weights;

static inline void *must_alloc(size_t bytes) {
    void *p = malloc(bytes);
    if (p != NULL) return p;
    fprintf(stderr, "bench: %zu bytes of memory are not to be had\n", bytes);
    exit(1);
}

/* Rows of 4096 weights, each with a scale of its own, 1/4 to 4. */
static inline void scale_rows(float *values, size_t count) {
    uint32_t state = 1;
    float scale = 1.0f;
    for (size_t i = 0; i < count; i++) {
        if (i % 4096 == 0) {
            state = state * 1664525u + 1013904223u;
            scale = 0.25f + (float)(state >> 8) * (3.75f / 16777216.0f);
        }
        values[i] *= scale;
    }
}

static inline weights make_weights(size_t mib) {
    weights w = {.count = mib * 1024 * 1024 / sizeof(float)};
    w.values = must_alloc(w.count * sizeof(float));
    fill_weights(w.values, w.count);
    scale_rows(w.values, w.count);
    for (size_t i = 0; i <= ROWS; i++) w.offsets[i] = (int64_t)(i * (w.count / ROWS));
    for (size_t i = 0; i < ROWS; i++) {
        w.blobs[i].data = (const uint8_t *)(w.values + i * (w.count / ROWS));
        w.blobs[i].size = w.count / ROWS * sizeof(float);
    }
    return w;
}

static inline void free_weights(weights *w) { free(w->values); }

/* The schema that every engine writes for list<float>; flat and blob columns REQUIRED. */
static inline size_t make_fields(shape s, aq_codec codec, aq_field_spec fields[3]) {
    aq_field_spec leaf = {.name = "v", .type = s == BLOB ? AQ_BYTE_ARRAY : AQ_FLOAT,
                          .codec = codec, .align_values = true};
    if (s != LIST) {
        fields[0] = leaf;
        return 1;
    }
    fields[0] = (aq_field_spec){.name = "v", .repetition = AQ_OPTIONAL, .type = AQ_GROUP,
                                .num_children = 1, .logical = AQ_LOGICAL_LIST};
    fields[1] = (aq_field_spec){.name = "list", .repetition = AQ_REPEATED, .type = AQ_GROUP,
                                .num_children = 1};
    fields[2] = leaf;
    fields[2].name = "element";
    fields[2].repetition = AQ_OPTIONAL;
    return 3;
}

/* All weights as one row group, not synced. */
static inline void write_weights(const char *path, shape s, aq_codec codec,
                                 const weights *w) {
    aq_column_values column = {.values = w->values, .num_values = (int64_t)w->count};
    aq_writer_options options = {.no_sync = true};
    int64_t rows = s == FLAT ? (int64_t)w->count : ROWS;
    aq_field_spec fields[3];
    aq_writer *writer;
    aq_error err;
    size_t n = make_fields(s, codec, fields);
    if (s == BLOB) {
        column.values = w->blobs;
        column.num_values = ROWS;
    } else if (s == LIST) {
        column.large_list_offsets = w->offsets;
        column.num_lists = ROWS;
    }
    check(aq_writer_open(path, fields, n, &options, &writer, &err), &err);
    check(aq_writer_put_column(writer, &column, &err), &err);
    check(aq_writer_end_row_group(writer, rows, &err), &err);
    check(aq_writer_finish(writer, &err), &err);
}

/* A sum at the speed of memory: sixteen lanes. */
static inline double sum_floats(const void *data, size_t count) {
    enum { LANES = 16 };
    const uint8_t *p = data;
    float lanes[LANES] = {0}, part[LANES];
    double sum = 0.0;
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        memcpy(part, p + i * sizeof(float), sizeof part);
        for (int k = 0; k < LANES; k++) lanes[k] += part[k];
    }
    for (; i < count; i++) {
        memcpy(part, p + i * sizeof(float), sizeof(float));
        sum += (double)part[0];
    }
    for (int k = 0; k < LANES; k++) sum += (double)lanes[k];
    return sum;
}

static inline double sum_integers(const aq_span *span, size_t width) {
    const uint8_t *p = span->values;
    int64_t sum = 0;
    for (int64_t i = 0; i < span->num_values; i++) {
        int32_t narrow;
        int64_t wide;
        if (width == 4) memcpy(&narrow, p + 4 * i, 4);
        if (width == 8) memcpy(&wide, p + 8 * i, 8);
        sum += width == 4 ? narrow : wide;
    }
    return (double)sum;
}

static inline double sum_span(const aq_span *span, aq_physical_type type) {
    const aq_bytes *blobs = span->values;
    double sum = 0.0;
    if (type == AQ_FLOAT) return sum_floats(span->values, (size_t)span->num_values);
    if (type == AQ_INT32) return sum_integers(span, 4);
    if (type == AQ_INT64) return sum_integers(span, 8);
    for (int64_t i = 0; i < span->num_values; i++)
        sum += sum_floats(blobs[i].data, blobs[i].size / sizeof(float));
    return sum;
}

/* Opens a file, reads its column 0 page by page, adds all values. */
static inline double read_and_sum(const char *path) {
    aq_parquet_info info;
    aq_parquet *file;
    double sum = 0.0;
    aq_error err;
    check(aq_parquet_open(path, NULL, &file, &err), &err);
    aq_parquet_get_info(file, &info);
    aq_physical_type type = aq_parquet_column_field(file, 0)->type;
    for (int32_t g = 0; g < info.num_row_groups; g++) {
        aq_column *column;
        aq_span span;
        check(aq_column_open(file, g, 0, &column, &err), &err);
        do {
            check(aq_column_next(column, &span, &err), &err);
            sum += sum_span(&span, type);
        } while (span.values != NULL);
        aq_column_close(column);
    }
    aq_parquet_close(file);
    return sum;
}

#endif
