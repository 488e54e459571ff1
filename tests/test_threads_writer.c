/* Pages encoded side by side: the same file for any number of threads, and whether columns
 * are given one by one or together; the same first error. Also under ThreadSanitizer. */
#define AQ_STATIC
#define ARROWQUANT_IMPLEMENTATION
#include "../arrowquant.h"

#include <criterion/criterion.h>

#include "support.h"

enum { ROWS = 6000, GROUPS = 2, COLUMNS = 6, LARGE = 100000 };

static const aq_field_spec fields[] = {
    {.name = "i", .repetition = AQ_OPTIONAL, .type = AQ_INT64, .codec = AQ_ZSTD,
     .encoding = AQ_DELTA_BINARY_PACKED, .write_statistics = true},
    {.name = "f", .type = AQ_FLOAT, .codec = SNAPPY_OR_NONE, .write_statistics = true},
    {.name = "d", .type = AQ_FLOAT, .encoding = AQ_RLE_DICTIONARY, .codec = AQ_ZSTD},
    {.name = "s", .repetition = AQ_OPTIONAL, .type = AQ_BYTE_ARRAY,
     .encoding = AQ_RLE_DICTIONARY, .write_statistics = true},
    {.name = "list", .type = AQ_GROUP, .num_children = 1, .logical = AQ_LOGICAL_LIST},
    {.name = "list", .repetition = AQ_REPEATED, .type = AQ_GROUP, .num_children = 1},
    {.name = "element",
     .type = AQ_INT32,
     .codec = SNAPPY_OR_NONE,
     .write_statistics = true},
    {.name = "plain", .type = AQ_FLOAT, .align_values = true, .write_statistics = true},
};

static aq_error err;
static int64_t ints[ROWS];
static float floats[ROWS];
static aq_bytes texts[ROWS];
static int32_t items[2 * ROWS], offsets[ROWS + 1];
static uint8_t nulls[ROWS], rep[2 * ROWS], ones[2 * ROWS];

/* The columns of a row group. */
static void make_columns(aq_column_values out[COLUMNS]) {
    int64_t present = 0;
    for (int i = 0; i < ROWS; i++) {
        nulls[i] = i % 3 != 0;
        present += nulls[i];
        ints[i] = (int64_t)i * i;
        floats[i] = (float)(i % 50) * 0.25f;
        texts[i].data = (const uint8_t *)"columns side by side" + i % 7;
        texts[i].size = (size_t)(i % 12);
    }
    for (int i = 0; i <= ROWS; i++)
        offsets[i] = 2 * i;
    for (int i = 0; i < 2 * ROWS; i++) {
        items[i] = i * 7;
        rep[i] = i % 2;
        ones[i] = 1;
    }
    out[0] = (aq_column_values){ints, present, nulls, .num_levels = ROWS};
    out[1] = (aq_column_values){floats, .num_values = ROWS};
    out[2] = (aq_column_values){floats, .num_values = ROWS};
    out[3] = (aq_column_values){texts, present, nulls, .num_levels = ROWS};
    out[4] = (aq_column_values){items, 2 * ROWS, ones, rep, .num_levels = 2 * ROWS};
    out[5] = (aq_column_values){floats, .num_values = ROWS};
}

/* Together, the lists come with offsets in place of levels. */
static void put_groups(aq_writer *w, bool together) {
    aq_column_values columns[COLUMNS];
    make_columns(columns);
    if (together)
        columns[4] = (aq_column_values){items, 2 * ROWS, .list_offsets = offsets,
                                        .num_lists = ROWS};
    for (int g = 0; g < GROUPS; g++) {
        for (int c = 0; c < COLUMNS && !together; c++)
            cr_assert_eq(aq_writer_put_column(w, &columns[c], &err), AQ_OK, "%s", err.message);
        if (together)
            cr_assert_eq(aq_writer_put_columns(w, columns, COLUMNS, &err), AQ_OK, "%s",
                         err.message);
        cr_assert_eq(aq_writer_end_row_group(w, ROWS, &err), AQ_OK, "%s", err.message);
    }
}

static size_t write_file(const char *path, const aq_tasks *tasks, bool together, int variant,
                         uint8_t **out) {
    counting_allocator count;
    aq_writer_options o = {.allocator = &count.hooks,
                           .no_sync = true,
                           .page_bytes = variant & 1 ? 700 : 0,
                           .data_page_v2 = (variant & 2) != 0,
                           .page_index = (variant & 4) != 0,
                           .tasks = tasks};
    aq_writer *w;
    counting_init(&count);
    cr_assert_eq(aq_writer_open(path, fields, 8, &o, &w, &err), AQ_OK, "%s", err.message);
    put_groups(w, together);
    cr_assert_eq(aq_writer_finish(w, &err), AQ_OK, "%s", err.message);
    cr_assert(counting_is_clean(&count));
    FILE *f = fopen(path, "rb");
    fseek(f, 0, SEEK_END);
    size_t n = (size_t)ftell(f);
    rewind(f);
    *out = malloc(n);
    cr_assert_eq(fread(*out, 1, n, f), n);
    fclose(f);
    return n;
}

Test(writer_threads, the_same_bytes) {
    static const uint32_t counts[] = {1, 2, 5, 9};
    temp_dir dir;
    char path[512];
    cr_assert(temp_dir_make(&dir));
    snprintf(path, sizeof path, "%s/side_by_side.parquet", dir.path);
    for (int variant = 0; variant < 8; variant++) {
        uint8_t *serial, *parallel;
        size_t n = write_file(path, NULL, false, variant, &serial);
        for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
            aq_threads *threads;
            cr_assert_eq(aq_threads_create(counts[k], NULL, &threads, &err), AQ_OK);
            for (int together = 0; together < 2; together++) {
                size_t m = write_file(path, aq_threads_tasks(threads), together, variant,
                                      &parallel);
                cr_assert(m == n && memcmp(serial, parallel, n) == 0,
                          "variant %d, %u threads, together %d", variant, counts[k],
                          together);
                free(parallel);
            }
            aq_threads_destroy(threads);
        }
        free(serial);
    }
    temp_dir_remove(&dir);
}

/* The checksum and bounds of a large page are found while it is written. */
Test(writer_threads, a_large_page_is_that_of_small_ones) {
    static float values[LARGE];
    static const aq_field_spec field = {.name = "v", .type = AQ_FLOAT, .align_values = true,
                                        .write_statistics = true};
    const aq_column_values v = {values, .num_values = LARGE};
    temp_dir dir;
    char path[512];
    aq_chunk_info chunk;
    aq_parquet *f;
    aq_column *c;
    aq_span span;
    cr_assert(temp_dir_make(&dir));
    snprintf(path, sizeof path, "%s/large.parquet", dir.path);
    for (uint32_t seed = 0; seed < 40; seed++) {
        aq_writer_options o = {.no_sync = true, .page_index = seed % 2 == 1};
        aq_writer *w;
        int32_t low = (int32_t)(seed * 7919u % LARGE), high = (low + LARGE / 2) % LARGE;
        for (int i = 0; i < LARGE; i++) values[i] = (float)(i % 1000 + (int)seed);
        values[low] = -3.5f;
        values[high] = 5000.0f;
        if (seed % 3 == 0) values[(low + 1) % LARGE] = NAN;
        cr_assert_eq(aq_writer_open(path, &field, 1, &o, &w, &err), AQ_OK);
        cr_assert_eq(aq_writer_put_column(w, &v, &err), AQ_OK, "%s", err.message);
        cr_assert_eq(aq_writer_end_row_group(w, LARGE, &err), AQ_OK);
        cr_assert_eq(aq_writer_finish(w, &err), AQ_OK);
        cr_assert_eq(aq_parquet_open(path, NULL, &f, &err), AQ_OK, "%s", err.message);
        cr_assert_eq(aq_parquet_get_chunk(f, 0, 0, &chunk, &err), AQ_OK);
        cr_assert_eq(chunk.min_value.data == NULL, seed % 3 == 0);
        cr_assert_eq(chunk.max_value.data == NULL, seed % 3 == 0);
        if (seed % 3 != 0) {
            cr_assert_eq(memcmp(chunk.min_value.data, le_floats(&values[low], 1), 4), 0);
            cr_assert_eq(memcmp(chunk.max_value.data, le_floats(&values[high], 1), 4), 0);
        }
        cr_assert_eq(aq_column_open(f, 0, 0, &c, &err), AQ_OK);
        cr_assert_eq(aq_column_verify(c, &err), AQ_OK, "%s", err.message);
        aq_column_close(c);
        cr_assert_eq(aq_column_open(f, 0, 0, &c, &err), AQ_OK);
        cr_assert_eq(aq_column_view(c, &span, &err), AQ_OK, "%s", err.message);
        cr_assert_eq(span.mapped, NUMBERS_IN_PLACE);
        if (span.mapped) cr_assert_geq(span.alignment, 64);
        cr_assert_eq(span.num_values, LARGE);
        cr_assert_eq(memcmp(span.values, values, sizeof values), 0);
        aq_column_close(c);
        aq_parquet_close(f);
    }
    temp_dir_remove(&dir);
}

Test(writer_threads, the_first_bad_column_gives_the_error) {
    static const uint8_t bad[2] = {0, 9};
    aq_column_values columns[COLUMNS];
    temp_dir dir;
    char path[512];
    cr_assert(temp_dir_make(&dir));
    snprintf(path, sizeof path, "%s/bad.parquet", dir.path);
    for (uint32_t count = 1; count <= 8; count *= 2) {
        aq_writer_options o = {.no_sync = true};
        aq_threads *threads;
        aq_writer *w;
        cr_assert_eq(aq_threads_create(count, NULL, &threads, &err), AQ_OK);
        o.tasks = aq_threads_tasks(threads);
        cr_assert_eq(aq_writer_open(path, fields, 8, &o, &w, &err), AQ_OK);
        make_columns(columns);
        columns[3] = (aq_column_values){texts, 1, bad, .num_levels = 2};
        columns[4].rep_levels = ones;
        cr_assert_eq(aq_writer_put_columns(w, columns, COLUMNS, &err), AQ_E_ARG);
        cr_assert_eq(err.column, 3);
        cr_assert(strstr(err.message, "level 1 is above") != NULL, "%s", err.message);
        cr_assert_eq(aq_writer_finish(w, &err), AQ_E_STATE);
        cr_assert_eq(aq_writer_open(path, fields, 8, &o, &w, &err), AQ_OK);
        make_columns(columns);
        columns[4].num_levels = columns[4].num_values = ROWS; /* half of the lists */
        cr_assert_eq(aq_writer_put_columns(w, columns, COLUMNS, &err), AQ_E_ARG);
        cr_assert(strstr(err.message, "3000 rows, the ones before it 6000") != NULL, "%s",
                  err.message);
        cr_assert_eq(err.column, 4);
        aq_writer_abort(w);
        cr_assert_eq(aq_writer_open(path, fields, 8, &o, &w, &err), AQ_OK);
        make_columns(columns);
        cr_assert_eq(aq_writer_put_columns(w, columns, 5, &err), AQ_OK);
        cr_assert_eq(aq_writer_put_columns(w, columns, 2, &err), AQ_E_STATE);
        aq_writer_abort(w);
        aq_threads_destroy(threads);
    }
    temp_dir_remove(&dir);
}
