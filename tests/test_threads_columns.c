/* Columns decoded side by side: the same spans for any number of threads, the same error, and
 * nothing left behind. Also under ThreadSanitizer. */
#define AQ_STATIC
#define ARROWQUANT_IMPLEMENTATION
#include "../arrowquant.h"

#include <criterion/criterion.h>

#include "support.h"

#include <pthread.h>

enum { ROWS = 3000, GROUPS = 5, COLUMNS = 4 };

static const aq_field_spec fields[] = {
    {.name = "i", .repetition = AQ_OPTIONAL, .type = AQ_INT64, .codec = AQ_ZSTD},
    {.name = "f", .repetition = AQ_REQUIRED, .type = AQ_FLOAT},
    {.name = "s",
     .repetition = AQ_OPTIONAL,
     .type = AQ_BYTE_ARRAY,
     .codec = SNAPPY_OR_NONE},
    {.name = "list", .type = AQ_GROUP, .num_children = 1, .logical = AQ_LOGICAL_LIST},
    {.name = "list", .repetition = AQ_REPEATED, .type = AQ_GROUP, .num_children = 1},
    {.name = "element", .type = AQ_INT32, .codec = AQ_ZSTD},
};

static aq_error err;

static void write_file(const char *path) {
    static int64_t ints[ROWS];
    static float floats[ROWS];
    static aq_bytes texts[ROWS];
    static int32_t items[ROWS];
    static uint8_t nulls[ROWS], first[ROWS], ones[ROWS];
    int64_t present = 0;
    aq_writer *w;
    for (int i = 0; i < ROWS; i++) {
        nulls[i] = i % 3 != 0;
        present += nulls[i];
        ints[i] = (int64_t)i * i;
        floats[i] = (float)i;
        texts[i].data = (const uint8_t *)"columns side by side" + i % 7;
        texts[i].size = (size_t)(i % 12);
        items[i] = i;
        first[i] = 0; /* one element a list */
        ones[i] = 1;
    }
    cr_assert_eq(aq_writer_open(path, fields, 6, NULL, &w, &err), AQ_OK, "%s", err.message);
    for (int g = 0; g < GROUPS; g++) {
        const aq_column_values columns[COLUMNS] = {
            {ints, present, nulls, .num_levels = ROWS},
            {floats, .num_values = ROWS},
            {texts, present, nulls, .num_levels = ROWS},
            {items, ROWS, ones, first, .num_levels = ROWS},
        };
        for (int c = 0; c < COLUMNS; c++)
            cr_assert_eq(aq_writer_put_column(w, &columns[c], &err), AQ_OK, "%s", err.message);
        cr_assert_eq(aq_writer_end_row_group(w, ROWS, &err), AQ_OK, "%s", err.message);
    }
    cr_assert_eq(aq_writer_finish(w, &err), AQ_OK, "%s", err.message);
}

static bool same_bytes(const void *a, const void *b, size_t n) {
    return (a == NULL) == (b == NULL) && (a == NULL || memcmp(a, b, n) == 0);
}

/* Equal in everything but where decoded bytes lie. */
static bool same_span(const aq_field *field, const aq_span *a, const aq_span *b) {
    size_t levels = (size_t)a->num_levels;
    if (a->num_values != b->num_values || a->num_levels != b->num_levels ||
        a->num_rows != b->num_rows || a->mapped != b->mapped ||
        a->file_offset != b->file_offset || a->single_list != b->single_list ||
        !same_bytes(a->def_levels, b->def_levels, levels) ||
        !same_bytes(a->rep_levels, b->rep_levels, levels))
        return false;
    if (field->type != AQ_BYTE_ARRAY)
        return same_bytes(a->values, b->values,
                          (size_t)a->num_values * aqi_value_bytes(field->type, 0));
    for (int64_t i = 0; i < a->num_values; i++) {
        const aq_bytes *x = (const aq_bytes *)a->values + i, *y = (const aq_bytes *)b->values + i;
        if (x->size != y->size || memcmp(x->data, y->data, x->size) != 0) return false;
    }
    return true;
}

/* Opens every chunk of the file. */
static void open_all(const aq_parquet *f, aq_column **out) {
    for (int i = 0; i < GROUPS * COLUMNS; i++) {
        cr_assert_eq(aq_column_open(f, i / COLUMNS, i % COLUMNS, &out[i], &err), AQ_OK);
        aq_column_prefetch(out[i]);
    }
}

Test(columns, any_number_of_threads_gives_the_same_spans) {
    static const uint32_t counts[] = {1, 2, 3, 8};
    aq_column *parallel[GROUPS * COLUMNS], *serial[GROUPS * COLUMNS];
    counting_allocator count;
    aq_parquet_options o = {.allocator = &count.hooks};
    aq_parquet *f;
    temp_dir dir;
    char path[512];
    cr_assert(temp_dir_make(&dir));
    snprintf(path, sizeof path, "%s/columns.parquet", dir.path);
    write_file(path);
    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
        aq_threads *threads;
        counting_init(&count);
        cr_assert_eq(aq_threads_create(counts[k], NULL, &threads, &err), AQ_OK);
        cr_assert_eq(aq_parquet_open(path, &o, &f, &err), AQ_OK, "%s", err.message);
        open_all(f, parallel);
        open_all(f, serial);
        cr_assert_eq(aq_columns_decode(parallel, GROUPS * COLUMNS, aq_threads_tasks(threads),
                                       &err),
                     AQ_OK, "%s", err.message);
        /* A second time there is nothing left to do. */
        cr_assert_eq(aq_columns_decode(parallel, GROUPS * COLUMNS, NULL, &err), AQ_OK);
        for (int i = 0; i < GROUPS * COLUMNS; i++) {
            const aq_span *a, *b;
            size_t n, m;
            cr_assert_eq(aq_column_spans(parallel[i], &a, &n, &err), AQ_OK);
            cr_assert_eq(aq_column_spans(serial[i], &b, &m, &err), AQ_OK);
            cr_assert_eq(n, m);
            for (size_t s = 0; s < n; s++)
                cr_assert(same_span(aq_parquet_column_field(f, i % COLUMNS), &a[s], &b[s]));
            aq_column_close(parallel[i]);
            aq_column_close(serial[i]);
        }
        aq_parquet_close(f);
        aq_threads_destroy(threads);
        cr_assert(counting_is_clean(&count));
    }
    temp_dir_remove(&dir);
}

static bool go_on(void *user, size_t column, int64_t first_level, const aq_span *span) {
    (void)user;
    (void)column;
    (void)first_level;
    return span->values != NULL;
}

Test(columns, the_first_bad_page_gives_the_error) {
    aq_column *all[GROUPS * COLUMNS];
    temp_dir dir;
    char path[512], first[sizeof err.message] = "";
    aq_parquet *f;
    aq_chunk_info chunk;
    cr_assert(temp_dir_make(&dir));
    snprintf(path, sizeof path, "%s/columns.parquet", dir.path);
    write_file(path);
    /* Damage the last byte of a chunk in the middle and of one near the end. */
    cr_assert_eq(aq_parquet_open(path, NULL, &f, &err), AQ_OK);
    for (int g = 1; g < GROUPS; g += 2) {
        FILE *raw = fopen(path, "r+b");
        cr_assert_eq(aq_parquet_get_chunk(f, g, 0, &chunk, &err), AQ_OK);
        fseek(raw, (long)(chunk.start_offset + chunk.compressed_bytes - 1), SEEK_SET);
        fputc(0x55, raw);
        fclose(raw);
    }
    aq_parquet_close(f);
    for (uint32_t count = 1; count <= 8; count *= 2) {
        aq_threads *threads;
        cr_assert_eq(aq_threads_create(count, NULL, &threads, &err), AQ_OK);
        cr_assert_eq(aq_parquet_open(path, NULL, &f, &err), AQ_OK);
        open_all(f, all);
        cr_assert_eq(aq_columns_decode(all, GROUPS * COLUMNS, aq_threads_tasks(threads), &err),
                     AQ_E_CHECKSUM, "%s", err.message);
        cr_assert_eq(err.row_group, 1);
        if (count == 1) memcpy(first, err.message, sizeof first);
        cr_assert_str_eq(err.message, first);
        for (int i = 0; i < GROUPS * COLUMNS; i++) aq_column_close(all[i]);
        open_all(f, all);
        cr_assert_eq(aq_columns_visit(all, GROUPS * COLUMNS, aq_threads_tasks(threads), go_on,
                                      NULL, &err),
                     AQ_E_CHECKSUM, "%s", err.message);
        cr_assert_str_eq(err.message, first);
        for (int i = 0; i < GROUPS * COLUMNS; i++) aq_column_close(all[i]);
        aq_parquet_close(f);
        aq_threads_destroy(threads);
    }
    temp_dir_remove(&dir);
}

Test(columns, a_column_half_read_is_refused) {
    aq_column *c;
    aq_span span;
    temp_dir dir;
    char path[512];
    aq_parquet *f;
    cr_assert(temp_dir_make(&dir));
    snprintf(path, sizeof path, "%s/columns.parquet", dir.path);
    write_file(path);
    cr_assert_eq(aq_parquet_open(path, NULL, &f, &err), AQ_OK);
    cr_assert_eq(aq_column_open(f, 0, 0, &c, &err), AQ_OK);
    cr_assert_eq(aq_column_next(c, &span, &err), AQ_OK);
    cr_assert_eq(aq_columns_decode(&c, 1, NULL, &err), AQ_E_STATE);
    aq_column_close(c);
    aq_parquet_close(f);
    temp_dir_remove(&dir);
}

/* What visits have seen of each chunk: sums that no order changes. */
typedef struct seen {
    pthread_mutex_t lock;
    const aq_parquet *file;
    int64_t levels[GROUPS * COLUMNS], values[GROUPS * COLUMNS], firsts[GROUPS * COLUMNS];
    uint64_t digest[GROUPS * COLUMNS];
    int calls, stop_after;
} seen;

static uint64_t digest_of(const aq_field *field, const aq_span *s) {
    uint64_t h = 0;
    for (int64_t i = 0; i < s->num_values; i++) {
        const aq_bytes *b = (const aq_bytes *)s->values + i;
        size_t n = field->type == AQ_BYTE_ARRAY ? b->size : aqi_value_bytes(field->type, 0);
        const uint8_t *p = field->type == AQ_BYTE_ARRAY
                               ? b->data
                               : (const uint8_t *)s->values + (size_t)i * n;
        uint64_t one = 1469598103934665603u;
        for (size_t k = 0; k < n; k++) one = (one ^ p[k]) * 1099511628211u;
        h += one * one;
    }
    return h;
}

static bool note(void *user, size_t column, int64_t first_level, const aq_span *span) {
    seen *s = user;
    const aq_field *field = aq_parquet_column_field(s->file, (int32_t)(column % COLUMNS));
    uint64_t digest = digest_of(field, span);
    bool go_on;
    pthread_mutex_lock(&s->lock);
    s->levels[column] += span->num_levels;
    s->values[column] += span->num_values;
    s->firsts[column] += first_level;
    s->digest[column] += digest;
    go_on = ++s->calls != s->stop_after;
    pthread_mutex_unlock(&s->lock);
    return go_on;
}

static aq_status visit(const aq_parquet *f, uint32_t count, int stop_after, seen *out) {
    aq_column *all[GROUPS * COLUMNS];
    aq_threads *threads = NULL;
    aq_span span;
    aq_status status;
    memset(out, 0, sizeof *out);
    pthread_mutex_init(&out->lock, NULL);
    out->file = f;
    out->stop_after = stop_after;
    open_all(f, all);
    if (count > 0) cr_assert_eq(aq_threads_create(count, NULL, &threads, &err), AQ_OK);
    status = aq_columns_visit(all, GROUPS * COLUMNS,
                              count > 0 ? aq_threads_tasks(threads) : NULL, note, out, &err);
    if (status == AQ_OK) {
        const aq_span *spans;
        size_t n;
        cr_assert_eq(aq_column_next(all[3], &span, &err), AQ_OK);
        cr_assert_eq(span.values, NULL);
        cr_assert_eq(aq_column_spans(all[3], &spans, &n, &err), AQ_E_STATE);
    }
    for (int i = 0; i < GROUPS * COLUMNS; i++) aq_column_close(all[i]);
    aq_threads_destroy(threads);
    pthread_mutex_destroy(&out->lock);
    return status;
}

Test(columns, visits_see_every_page_once) {
    counting_allocator count;
    aq_parquet_options o = {.allocator = &count.hooks};
    temp_dir dir;
    char path[512];
    aq_parquet *f;
    seen want, have;
    cr_assert(temp_dir_make(&dir));
    snprintf(path, sizeof path, "%s/columns.parquet", dir.path);
    write_file(path);
    counting_init(&count);
    cr_assert_eq(aq_parquet_open(path, &o, &f, &err), AQ_OK);
    cr_assert_eq(visit(f, 0, 0, &want), AQ_OK, "%s", err.message);
    for (int i = 0; i < GROUPS * COLUMNS; i++) {
        aq_column *c;
        aq_span span;
        uint64_t digest = 0;
        cr_assert_eq(aq_column_open(f, i / COLUMNS, i % COLUMNS, &c, &err), AQ_OK);
        for (;;) {
            cr_assert_eq(aq_column_next(c, &span, &err), AQ_OK);
            if (span.values == NULL) break;
            digest += digest_of(aq_parquet_column_field(f, i % COLUMNS), &span);
        }
        cr_assert(digest == want.digest[i] && want.levels[i] == ROWS);
        aq_column_close(c);
    }
    for (uint32_t threads = 1; threads <= 8; threads *= 2) {
        cr_assert_eq(visit(f, threads, 0, &have), AQ_OK, "%s", err.message);
        cr_assert_eq(memcmp(have.levels, want.levels, sizeof want.levels), 0);
        cr_assert_eq(memcmp(have.values, want.values, sizeof want.values), 0);
        cr_assert_eq(memcmp(have.firsts, want.firsts, sizeof want.firsts), 0);
        cr_assert_eq(memcmp(have.digest, want.digest, sizeof want.digest), 0);
        cr_assert_eq(visit(f, threads, 7, &have), AQ_E_CANCELLED);
    }
    aq_parquet_close(f);
    cr_assert(counting_is_clean(&count));
    temp_dir_remove(&dir);
}
