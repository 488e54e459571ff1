/* ours.c - arrowquant.h as an engine. */
#include "peers.h"

enum { ITEM_VALUES = 1 << 18, GROUPS = 100000, GROUP_ROWS = 4 };

static struct {
    input input;
    aq_threads *threads;
    const aq_tasks *tasks; /* NULL on one thread */
} self;

/* --- Writing ------------------------------------------------------------------------ */

static aq_encoding encoding_of(const job *j) {
    static const struct {
        const char *how;
        aq_encoding encoding;
    } names[] = {{"delta", AQ_DELTA_BINARY_PACKED},
                 {"dict", AQ_RLE_DICTIONARY},
                 {"bss", AQ_BYTE_STREAM_SPLIT},
                 {"dlba", AQ_DELTA_LENGTH_BYTE_ARRAY},
                 {"dba", AQ_DELTA_BYTE_ARRAY}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (is(j->how, names[i].how)) return names[i].encoding;
    return AQ_PLAIN;
}

/* The schema that every engine writes for list<float>; other columns REQUIRED. */
static size_t fields_of(const job *j, aq_field_spec fields[3]) {
    bool list = is(j->data, "list");
    size_t n = make_fields(list ? LIST : FLAT, job_codec(j), fields);
    aq_field_spec *leaf = &fields[n - 1];
    leaf->type = self.input.type;
    leaf->encoding = encoding_of(j);
    leaf->align_values = leaf->encoding == AQ_PLAIN && leaf->codec == AQ_UNCOMPRESSED;
    if (is(j->data, "string")) leaf->logical = AQ_LOGICAL_STRING;
    return n;
}

/* One row group, of pages as the writer makes them. */
static void write_column(const job *j) {
    const input *in = &self.input;
    aq_column_values column = {.values = in->values,
                               .num_values = in->num_values,
                               .large_list_offsets = in->offsets};
    aq_writer_options options = {.no_sync = true, .tasks = self.tasks};
    aq_field_spec fields[3];
    aq_writer *writer;
    aq_error err;
    size_t n = fields_of(j, fields);
    if (in->offsets != NULL) column.num_lists = in->num_rows;
    check(aq_writer_open(j->out, fields, n, &options, &writer, &err), &err);
    check(aq_writer_put_column(writer, &column, &err), &err);
    check(aq_writer_end_row_group(writer, in->num_rows, &err), &err);
    check(aq_writer_finish(writer, &err), &err);
}

/* One column of many small row groups. */
static void write_groups(const job *j) {
    const int32_t values[GROUP_ROWS] = {-7, 100000, 3, 12};
    const aq_column_values column = {.values = values, .num_values = GROUP_ROWS};
    const aq_field_spec field = {.name = "v", .type = AQ_INT32, .write_statistics = true};
    aq_writer_options options = {.no_sync = true};
    aq_writer *writer;
    aq_error err;
    check(aq_writer_open(j->out, &field, 1, &options, &writer, &err), &err);
    for (int g = 0; g < GROUPS; g++) {
        check(aq_writer_put_column(writer, &column, &err), &err);
        check(aq_writer_end_row_group(writer, GROUP_ROWS, &err), &err);
    }
    check(aq_writer_finish(writer, &err), &err);
}

/* --- Reading ------------------------------------------------------------------------ */

/* Adds values; of strings, their lengths; of blobs, the floats in them. */
static double sum_values(const void *values, int64_t count, const job *j,
                         aq_physical_type type) {
    const aq_span span = {.values = values, .num_values = count};
    const aq_bytes *strings = values;
    const uint8_t *p = values;
    double sum = 0.0, value;
    size_t bytes = 0;
    if (is(j->data, "string")) {
        for (int64_t i = 0; i < count; i++)
            bytes += strings[i].size;
        return (double)bytes;
    }
    if (type != AQ_DOUBLE) return sum_span(&span, type);
    for (int64_t i = 0; i < count; i++) {
        memcpy(&value, p + (size_t)i * sizeof value, sizeof value);
        sum += value;
    }
    return sum;
}

/* Page after page: a decoded one is added while it is in the cache. */
static double read_row_group(const job *j, const aq_parquet *file, int32_t group) {
    aq_physical_type type = aq_parquet_column_field(file, 0)->type;
    aq_column *column;
    aq_span span;
    double sum = 0.0;
    aq_error err;
    check(aq_column_open(file, group, 0, &column, &err), &err);
    do {
        check(aq_column_next(column, &span, &err), &err);
        if (span.num_values > 0) sum += sum_values(span.values, span.num_values, j, type);
    } while (span.values != NULL);
    aq_column_close(column);
    return sum;
}

typedef struct item {
    const void *values;
    int64_t count;
    double sum;
} item;

typedef struct parallel {
    const job *j;
    const aq_parquet *file;
    aq_physical_type type;
    item *items;
    size_t num_items;
    double visited; /* sum of pages, added by any thread */
} parallel;

static void read_group_task(void *arg, size_t index) {
    parallel *p = arg;
    p->items[index].sum = read_row_group(p->j, p->file, (int32_t)index);
}

static void sum_item_task(void *arg, size_t index) {
    parallel *p = arg;
    item *it = &p->items[index];
    it->sum = sum_values(it->values, it->count, p->j, p->type);
}

static double run_items(parallel *p, void (*fn)(void *, size_t)) {
    double sum = 0.0;
    self.tasks->run(self.tasks->user, p->num_items, fn, p);
    for (size_t i = 0; i < p->num_items; i++)
        sum += p->items[i].sum;
    free(p->items);
    return sum;
}

/* Splits the values of a span into items that threads add. */
static void add_items(parallel *p, const aq_span *span, size_t width) {
    const uint8_t *values = span->values;
    int64_t step = is(p->j->data, "blob") ? 1 : ITEM_VALUES;
    for (int64_t at = 0; at < span->num_values; at += step) {
        int64_t left = span->num_values - at;
        p->items = realloc(p->items, (p->num_items + 1) * sizeof *p->items);
        p->items[p->num_items++] =
            (item){values + (size_t)at * width, left < step ? left : step, 0.0};
    }
}

static bool sum_page(void *user, size_t column, int64_t first_level, const aq_span *span) {
    parallel *p = user;
    double sum = sum_values(span->values, span->num_values, p->j, p->type), old, new;
    (void)column;
    (void)first_level;
    do {
        __atomic_load(&p->visited, &old, __ATOMIC_RELAXED);
        new = old + sum;
    } while (!__atomic_compare_exchange(&p->visited, &old, &new, false, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED));
    return true;
}

/* Pages of few chunks, each decoded and added by a thread. */
static double visit_pages(parallel *p, int32_t groups) {
    aq_column **columns = calloc((size_t)groups, sizeof *columns);
    aq_error err;
    for (int32_t g = 0; g < groups; g++)
        check(aq_column_open(p->file, g, 0, &columns[g], &err), &err);
    check(aq_columns_visit(columns, (size_t)groups, self.tasks, sum_page, p, &err), &err);
    for (int32_t g = 0; g < groups; g++)
        aq_column_close(columns[g]);
    free(columns);
    return p->visited;
}

/* All pages of few chunks side by side, then their values: for pages that are mapped, or
 * too few to share. */
static double read_pages_side_by_side(parallel *p, int32_t groups) {
    aq_column **columns = calloc((size_t)groups, sizeof *columns);
    size_t width = aq_field_value_bytes(aq_parquet_column_field(p->file, 0));
    const aq_span *spans;
    size_t count;
    aq_error err;
    for (int32_t g = 0; g < groups; g++)
        check(aq_column_open(p->file, g, 0, &columns[g], &err), &err);
    check(aq_columns_decode(columns, (size_t)groups, self.tasks, &err), &err);
    for (int32_t g = 0; g < groups; g++) {
        check(aq_column_spans(columns[g], &spans, &count, &err), &err);
        for (size_t i = 0; i < count; i++)
            add_items(p, &spans[i], width);
    }
    double sum = run_items(p, sum_item_task);
    for (int32_t g = 0; g < groups; g++)
        aq_column_close(columns[g]);
    free(columns);
    return sum;
}

static double read_parallel(const job *j, const aq_parquet *file, int32_t groups) {
    parallel p = {.j = j, .file = file};
    aq_chunk_info chunk;
    aq_error err;
    p.type = aq_parquet_column_field(file, 0)->type;
    check(aq_parquet_get_chunk(file, 0, 0, &chunk, &err), &err);
    if (groups < 8 * (int32_t)j->threads && chunk.codec != AQ_UNCOMPRESSED)
        return visit_pages(&p, groups);
    if (groups < 8 * (int32_t)j->threads) return read_pages_side_by_side(&p, groups);
    p.num_items = (size_t)groups;
    p.items = calloc(p.num_items, sizeof *p.items);
    return run_items(&p, read_group_task);
}

static double read_column(const job *j) {
    aq_parquet_info info;
    aq_parquet *file;
    double sum = 0.0;
    aq_error err;
    check(aq_parquet_open(j->in, NULL, &file, &err), &err);
    aq_parquet_get_info(file, &info);
    if (self.tasks != NULL)
        sum = read_parallel(j, file, info.num_row_groups);
    else
        for (int32_t g = 0; g < info.num_row_groups; g++)
            sum += read_row_group(j, file, g);
    aq_parquet_close(file);
    return sum;
}

/* --- Footers ------------------------------------------------------------------------ */

/* Counts what is held. */
typedef struct counter {
    size_t live, peak;
} counter;

static void *counted_alloc(void *user, size_t bytes, size_t alignment) {
    counter *c = user;
    void *p = NULL;
    if (posix_memalign(&p, alignment < sizeof(void *) ? sizeof(void *) : alignment,
                       bytes))
        return NULL;
    c->live += bytes;
    if (c->live > c->peak) c->peak = c->live;
    return p;
}

static void counted_free(void *user, void *p, size_t bytes) {
    if (p != NULL) ((counter *)user)->live -= bytes;
    free(p);
}

static void *counted_resize(void *user, void *p, size_t old_bytes, size_t bytes,
                            size_t alignment) {
    void *q = counted_alloc(user, bytes, alignment);
    if (q == NULL) return NULL;
    memcpy(q, p, old_bytes < bytes ? old_bytes : bytes);
    counted_free(user, p, old_bytes);
    return q;
}

/* Opens; of a file of many row groups, reads a value of the middle one. */
static outcome read_footer(const job *j) {
    counter memory = {0, 0};
    aq_allocator allocator = {counted_alloc, counted_resize, counted_free, &memory};
    aq_parquet_options options = {.allocator = &allocator};
    aq_parquet_info info;
    aq_parquet *file;
    outcome out = {.sum = NAN};
    aq_error err;
    check(aq_parquet_open(j->in, &options, &file, &err), &err);
    aq_parquet_get_info(file, &info);
    if (is(j->data, "groups")) out.sum = read_row_group(j, file, info.num_row_groups / 2);
    out.memory = (double)memory.peak;
    out.count = (double)info.num_columns * (double)info.num_row_groups;
    out.bytes = (double)info.footer_bytes;
    aq_parquet_close(file);
    return out;
}

/* ------------------------------------------------------------------------------------ */

static void start(const job *j) {
    aq_error err;
    if (job_writes(j) && !is(j->data, "groups")) self.input = make_input(j);
    if (j->threads == 1) return;
    check(aq_threads_create(j->threads, NULL, &self.threads, &err), &err);
    self.tasks = aq_threads_tasks(self.threads);
}

static outcome run(const job *j) {
    outcome out = {NAN, NAN, NAN, NAN};
    if (is(j->operation, "footer")) return read_footer(j);
    if (!job_writes(j))
        out.sum = read_column(j);
    else if (is(j->data, "groups"))
        write_groups(j);
    else
        write_column(j);
    return out;
}

const engine engine_ours = {"ours", start, run};
