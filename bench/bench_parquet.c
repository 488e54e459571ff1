/* bench_parquet - write and read Parquet, one thread, beside the floor: plain write(), the
 * codec called directly, the sum of a raw mapping.
 *   bench_parquet [MiB [DIRECTORY]]     default: 256 MiB of float32; files go to build
 * "of floor" is the floor's time divided by ours: 100 % = nothing is lost. Files of other
 * writers are read where `make bench-peers ARGS=--keep` has left them in build/peers. */
#include "parquet_data.h"

#include <snappy-c.h>
#include <zstd.h>

static volatile double sink;

typedef struct mapping {
    const uint8_t *data;
    size_t bytes;
} mapping;

static mapping map_file(const char *path) {
    mapping m = {NULL, 0};
    int fd = open(path, O_RDONLY);
    off_t size = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
    if (size > 0) {
        m.bytes = (size_t)size;
        m.data = mmap(NULL, m.bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    }
    if (fd >= 0) close(fd);
    return m;
}

static void unmap(mapping m) {
    munmap((void *)(uintptr_t)m.data, m.bytes);
}

static void report(const char *name, double gib, duel_result r) {
    printf("%-34s %8.1f ms %7.2f GiB/s %9.1f ms %7.0f %%\n", name, 1e3 * r.ours,
           gib / r.ours, 1e3 * r.floor, 100.0 * r.ratio);
    fflush(stdout);
}

/* --- Writing ------------------------------------------------------------------------ */

typedef struct write_case {
    char path[4096], temporary[4110];
    shape shape;
    aq_codec codec;
    const weights *w;
    uint8_t *packed; /* the codec's output, its pages touched before */
    size_t capacity;
} write_case;

static void remove_output(void *arg) {
    unlink(((write_case *)arg)->path);
}

static void write_ours(void *arg) {
    const write_case *c = arg;
    write_weights(c->path, c->shape, c->codec, c->w);
}

static size_t compress_weights(const write_case *c) {
    size_t n = c->capacity, bytes = c->w->count * sizeof(float);
    if (c->codec == AQ_ZSTD) return ZSTD_compress(c->packed, n, c->w->values, bytes, 1);
    if (snappy_compress((const char *)c->w->values, bytes, (char *)c->packed, &n) !=
        SNAPPY_OK)
        exit(1);
    return n;
}

static void write_all(int fd, const uint8_t *p, size_t bytes) {
    while (bytes > 0) {
        ssize_t n = write(fd, p, bytes);
        if (n <= 0) {
            perror("bench: write");
            exit(1);
        }
        p += n;
        bytes -= (size_t)n;
    }
}

/* The same bytes by the same steps: a temporary file, renamed. */
static void write_floor(void *arg) {
    const write_case *c = arg;
    const uint8_t *p = (const uint8_t *)c->w->values;
    size_t bytes = c->w->count * sizeof(float);
    int fd = open(c->temporary, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (c->codec != AQ_UNCOMPRESSED) {
        bytes = compress_weights(c);
        p = c->packed;
    }
    write_all(fd, p, bytes);
    close(fd);
    if (rename(c->temporary, c->path) != 0) exit(1);
}

static void bench_write(const char *dir, shape s, const weights *w) {
    for (size_t k = 0; k < CODEC_CASES; k++) {
        write_case c = {.shape = s, .codec = codec_cases[k].codec, .w = w};
        duel d = {write_ours, write_floor, remove_output, &c};
        char name[64];
        c.capacity = w->count * sizeof(float) * 5 / 4 + 65536;
        c.packed = must_alloc(c.capacity);
        memset(c.packed, 1, c.capacity);
        snprintf(c.path, sizeof c.path, "%s/bench_parquet_write", dir);
        snprintf(c.temporary, sizeof c.temporary, "%s.new", c.path);
        snprintf(name, sizeof name, "write %s %s", shape_names[s], codec_cases[k].name);
        report(name, (double)(w->count * sizeof(float)) / (1 << 30), run_duel(&d));
        remove_output(&c);
        free(c.packed);
    }
}

/* --- Reading ------------------------------------------------------------------------ */

typedef struct page {
    int64_t offset;
    size_t stored, plain;
} page;

typedef struct read_case {
    char path[4096];
    aq_codec codec;
    page *pages; /* all pages with values, where the file has them */
    size_t num_pages, plain_bytes;
    uint8_t *room; /* for the largest page, touched before */
} read_case;

static void note_page(read_case *c, const aq_page_info *info, size_t *largest) {
    page p = {info->data_offset, (size_t)info->compressed_bytes,
              (size_t)info->uncompressed_bytes};
    c->pages = realloc(c->pages, (c->num_pages + 1) * sizeof *c->pages);
    c->pages[c->num_pages++] = p;
    c->plain_bytes += p.plain;
    if (p.plain > *largest) *largest = p.plain;
}

/* Finds the pages of column 0, so that the floor has only to decompress and add. */
static void find_pages(read_case *c) {
    aq_parquet_info info;
    aq_chunk_info chunk;
    aq_page_info page_info;
    aq_parquet *file;
    size_t largest = 1;
    aq_error err;
    check(aq_parquet_open(c->path, NULL, &file, &err), &err);
    aq_parquet_get_info(file, &info);
    for (int32_t g = 0; g < info.num_row_groups; g++) {
        aq_column *column;
        check(aq_parquet_get_chunk(file, g, 0, &chunk, &err), &err);
        c->codec = chunk.codec;
        check(aq_column_open(file, g, 0, &column, &err), &err);
        for (;;) {
            check(aq_column_next_page(column, &page_info, &err), &err);
            if (page_info.header_bytes == 0) break;
            note_page(c, &page_info, &largest);
        }
        aq_column_close(column);
    }
    aq_parquet_close(file);
    c->room = must_alloc(largest);
    memset(c->room, 1, largest);
}

static void read_ours(void *arg) {
    sink = read_and_sum(((read_case *)arg)->path);
}

static const uint8_t *unpack_page(const read_case *c, const page *p, const uint8_t *stored) {
    size_t n = p->plain;
    if (c->codec == AQ_ZSTD && ZSTD_decompress(c->room, n, stored, p->stored) == n)
        return c->room;
    if (c->codec == AQ_SNAPPY && snappy_uncompress((const char *)stored, p->stored,
                                                   (char *)c->room, &n) == SNAPPY_OK)
        return c->room;
    if (c->codec != AQ_UNCOMPRESSED) exit(1);
    return stored;
}

static void read_floor(void *arg) {
    const read_case *c = arg;
    mapping m = map_file(c->path);
    double sum = 0.0;
    for (size_t i = 0; i < c->num_pages; i++) {
        const page *p = &c->pages[i];
        sum += sum_floats(unpack_page(c, p, m.data + p->offset), p->plain / sizeof(float));
    }
    unmap(m);
    sink = sum;
}

static void bench_read(const char *name, read_case *c) {
    duel d = {read_ours, read_floor, NULL, c};
    find_pages(c);
    report(name, (double)c->plain_bytes / (1 << 30), run_duel(&d));
    free(c->pages);
    free(c->room);
}

static void bench_read_own(const char *dir, shape s, const weights *w) {
    for (size_t k = 0; k < CODEC_CASES; k++) {
        read_case c = {.num_pages = 0};
        char name[64];
        if (s == BLOB && codec_cases[k].codec != AQ_UNCOMPRESSED) continue;
        snprintf(c.path, sizeof c.path, "%s/bench_parquet_read", dir);
        snprintf(name, sizeof name, "read %s %s", shape_names[s], codec_cases[k].name);
        write_weights(c.path, s, codec_cases[k].codec, w);
        bench_read(name, &c);
        unlink(c.path);
    }
}

static void bench_read_others(void) {
    static const char *const writers[] = {"duckdb", "polars"};
    for (size_t i = 0; i < 2; i++) {
        for (size_t k = 0; k < CODEC_CASES; k++) {
            read_case c = {.num_pages = 0};
            char name[64];
            snprintf(c.path, sizeof c.path, "build/peers/list_%s_%s.parquet",
                     codec_cases[k].name, writers[i]);
            if (access(c.path, R_OK) != 0) continue;
            snprintf(name, sizeof name, "read list %s, by %s", codec_cases[k].name,
                     writers[i]);
            bench_read(name, &c);
        }
    }
}

/* --- Metadata ----------------------------------------------------------------------- */

/* Counts what is held and what was asked for. */
typedef struct counter {
    size_t live, peak, total;
} counter;

static void *counted_alloc(void *user, size_t bytes, size_t alignment) {
    counter *c = user;
    void *p = NULL;
    if (posix_memalign(&p, alignment < sizeof(void *) ? sizeof(void *) : alignment, bytes))
        return NULL;
    c->live += bytes;
    c->total += bytes;
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

typedef struct meta_case {
    char path[4096];
    int32_t columns, row_groups;
    counter memory;
    aq_allocator allocator;
    aq_parquet *file;
    int64_t footer_bytes;
} meta_case;

static meta_case meta_case_make(const char *dir, int32_t columns, int32_t row_groups) {
    meta_case c = {.columns = columns, .row_groups = row_groups};
    snprintf(c.path, sizeof c.path, "%s/bench_parquet_meta", dir);
    return c;
}

static void open_counted(meta_case *c) {
    aq_parquet_options options = {.allocator = &c->allocator};
    aq_parquet_info info;
    aq_error err;
    c->allocator =
        (aq_allocator){counted_alloc, counted_resize, counted_free, &c->memory};
    check(aq_parquet_open(c->path, &options, &c->file, &err), &err);
    aq_parquet_get_info(c->file, &info);
    c->footer_bytes = info.footer_bytes;
    c->columns = info.num_columns;
    c->row_groups = info.num_row_groups;
}

static void touch_column(meta_case *c, int32_t row_group) {
    const aq_span *spans;
    aq_column *column;
    size_t count;
    aq_error err;
    check(aq_column_open(c->file, row_group, 0, &column, &err), &err);
    check(aq_column_spans(column, &spans, &count, &err), &err);
    for (size_t i = 0; i < count; i++) sink = *(const float *)spans[i].values;
    aq_column_close(column);
}

/* Pointers of the one column of an open file. */
static void hand_out_pointers(void *arg) {
    touch_column(arg, 0);
}

static void bench_pointers(const char *dir, const weights *w) {
    meta_case c = meta_case_make(dir, 1, 1);
    write_weights(c.path, FLAT, AQ_UNCOMPRESSED, w);
    open_counted(&c);
    size_t before = c.memory.total;
    hand_out_pointers(&c);
    size_t bytes = c.memory.total - before;
    double seconds = median_seconds(hand_out_pointers, &c);
    printf("pointers of a column of %zu MiB: %.1f us, %zu bytes allocated\n",
           w->count * sizeof(float) >> 20, 1e6 * seconds, bytes);
    aq_parquet_close(c.file);
    unlink(c.path);
}

/* Columns of int32 with statistics, four rows in each row group. */
static void write_wide(const meta_case *c) {
    const int32_t values[4] = {-7, 100000, 3, 12};
    const aq_column_values column = {.values = values, .num_values = 4};
    aq_field_spec *fields = calloc((size_t)c->columns, sizeof *fields);
    char(*names)[24] = calloc((size_t)c->columns, sizeof *names);
    aq_writer_options options = {.no_sync = true};
    aq_writer *writer;
    aq_error err;
    for (int32_t i = 0; i < c->columns; i++) {
        snprintf(names[i], sizeof names[i], "column%d", (int)i);
        fields[i] = (aq_field_spec){.name = names[i], .type = AQ_INT32,
                                    .write_statistics = true};
    }
    check(aq_writer_open(c->path, fields, (size_t)c->columns, &options, &writer, &err),
          &err);
    for (int32_t g = 0; g < c->row_groups; g++) {
        for (int32_t i = 0; i < c->columns; i++)
            check(aq_writer_put_column(writer, &column, &err), &err);
        check(aq_writer_end_row_group(writer, 4, &err), &err);
    }
    check(aq_writer_finish(writer, &err), &err);
    free(fields);
    free(names);
}

static void open_and_close(void *arg) {
    meta_case *c = arg;
    open_counted(c);
    aq_parquet_close(c->file);
}

static void open_and_read_one(void *arg) {
    meta_case *c = arg;
    open_counted(c);
    touch_column(c, c->row_groups / 2);
    aq_parquet_close(c->file);
}

static void report_footer(const char *name, meta_case *c, void (*fn)(void *)) {
    double seconds = median_seconds(fn, c);
    double chunks = (double)c->columns * (double)c->row_groups;
    printf("%s, %d columns x %d row groups: %.0f us, %.0f ns per column chunk, "
           "%.1f bytes of memory per footer byte (%lld)\n",
           name, (int)c->columns, (int)c->row_groups, 1e6 * seconds, 1e9 * seconds / chunks,
           (double)c->memory.peak / (double)c->footer_bytes, (long long)c->footer_bytes);
}

static void bench_footers(const char *dir) {
    meta_case c = meta_case_make(dir, 1000, 10);
    write_wide(&c);
    report_footer("open", &c, open_and_close);
    unlink(c.path);
    c = meta_case_make(dir, 1, 100000);
    write_wide(&c);
    report_footer("open and one tensor", &c, open_and_read_one);
    unlink(c.path);
    c = meta_case_make(dir, 0, 0);
    snprintf(c.path, sizeof c.path, "build/peers/wide_none_duckdb.parquet");
    if (access(c.path, R_OK) == 0) report_footer("open, by duckdb", &c, open_and_close);
}

int main(int argc, char **argv) {
    size_t mib = argc > 1 ? (size_t)atoi(argv[1]) : 256;
    const char *dir = argc > 2 ? argv[2] : "build";
    weights w = make_weights(mib);
    printf("%zu MiB of float32, median of %d\n", mib, RUNS);
    printf("%-34s %11s %13s %12s %9s\n", "case", "ours", "", "floor", "of floor");
    for (int s = FLAT; s <= BLOB; s++) bench_write(dir, (shape)s, &w);
    for (int s = FLAT; s <= BLOB; s++) bench_read_own(dir, (shape)s, &w);
    bench_read_others();
    bench_pointers(dir, &w);
    bench_footers(dir);
    free_weights(&w);
    return 0;
}
