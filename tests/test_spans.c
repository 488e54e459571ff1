/* test_spans.c - a page of long lists is handed out list by list, without levels, from the
 * mapping where it can be; pages that are not such stay whole. */
#include "files.h"

TestSuite(spans, .init = enter_temp_dir, .fini = leave_temp_dir, .timeout = 60);

enum { MAX_LISTS = 12, MAX_LEVELS = 60000 };

static const aq_field_spec required_lists[] = {
    {.name = "l", .type = AQ_GROUP, .num_children = 1, .logical = AQ_LOGICAL_LIST},
    {.name = "list", .repetition = AQ_REPEATED, .type = AQ_GROUP, .num_children = 1},
    {.name = "element", .type = AQ_FLOAT},
};

/* Lists of the given lengths; -1 is a null, inside a list of one. */
typedef struct lists {
    float values[MAX_LEVELS];
    uint8_t def[MAX_LEVELS], rep[MAX_LEVELS];
    aq_bytes texts[MAX_LEVELS];
    aq_column_values v;
    int64_t rows;
} lists;

static lists data;

static void add_level(uint8_t rep, uint8_t def, uint8_t max_def) {
    data.rep[data.v.num_levels] = rep;
    data.def[data.v.num_levels++] = def;
    if (def == max_def) {
        data.values[data.v.num_values] = (float)data.v.num_values;
        data.texts[data.v.num_values].data = (const uint8_t *)"long lists of text";
        data.texts[data.v.num_values].size = (size_t)(data.v.num_values % 7);
        data.v.num_values++;
    }
}

static void make_lists(const int *lengths, size_t n, uint8_t max_def) {
    memset(&data.v, 0, sizeof data.v);
    for (size_t i = 0; i < n; i++) {
        if (lengths[i] <= 0) add_level(0, (uint8_t)(max_def - 1), max_def);
        for (int k = 0; k < lengths[i]; k++) add_level(k > 0, max_def, max_def);
    }
    data.v.values = data.values;
    data.v.rep_levels = data.rep;
    data.v.def_levels = data.def;
    data.rows = (int64_t)n;
}

static const char *write_lists(const aq_field_spec *fields, const aq_writer_options *o) {
    aq_writer *w;
    const char *path = in_dir("lists");
    ASSERT_OK(aq_writer_open(path, fields, 3, o, &w, &err));
    ASSERT_OK(aq_writer_put_column(w, &data.v, &err));
    ASSERT_OK(aq_writer_end_row_group(w, data.rows, &err));
    ASSERT_OK(aq_writer_finish(w, &err));
    return path;
}

/* All levels and values of some spans are those of `data`. */
static void check_spans(const aq_span *spans, size_t n) {
    int64_t level = 0, value = 0, rows = 0;
    for (size_t i = 0; i < n; i++) {
        const aq_span *s = &spans[i];
        for (int64_t k = 0; k < s->num_levels; k++, level++) {
            uint8_t rep = s->single_list ? k > 0 : s->rep_levels[k];
            uint8_t def = s->def_levels == NULL ? 1 : s->def_levels[k];
            cr_assert(rep == data.rep[level] && def == data.def[level], "level %d",
                      (int)level);
        }
        cr_assert_eq(memcmp(s->values, data.values + value, (size_t)s->num_values * 4),
                     0);
        value += s->num_values;
        rows += s->num_rows;
    }
    cr_assert(level == data.v.num_levels && value == data.v.num_values &&
              rows == data.rows);
}

static size_t read_all(const char *path, aq_io io, aq_span *out, bool one_by_one) {
    static aq_parquet *f;
    static aq_column *c;
    const aq_parquet_options o = {.io = io};
    const aq_span *spans;
    size_t n = 0;
    aq_column_close(c);
    aq_parquet_close(f);
    ASSERT_OK(aq_parquet_open(path, &o, &f, &err));
    ASSERT_OK(aq_column_open(f, 0, 0, &c, &err));
    if (one_by_one) {
        for (;; n++) {
            ASSERT_OK(aq_column_next(c, &out[n], &err));
            if (out[n].values == NULL) return n;
        }
    }
    ASSERT_OK(aq_column_spans(c, &spans, &n, &err));
    memcpy(out, spans, n * sizeof *spans);
    return n;
}

static const struct {
    int lengths[MAX_LISTS];
    size_t num_lists;
    size_t wanted; /* spans of one page */
} list_cases[] = {
    {{5000}, 1, 1},
    {{1024, 1024}, 2, 2},
    {{3000, 1, 2, 9000}, 4, 4},
    {{1, 1, 1, 20000, 1, 8, 7, 9, 15, 16, 17, 20000}, 12, 12},
    {{1023, 1023}, 2, 1},       /* not long */
    {{10, 20, 30}, 3, 1},
    {{30000, 0, 20000}, 3, 1},  /* an empty list needs definition levels */
    {{0}, 1, 1},
};

Test(spans, long_lists) {
    aq_span spans[MAX_LISTS + 1];
    for (size_t i = 0; i < COUNT_OF(list_cases); i++) {
        make_lists(list_cases[i].lengths, list_cases[i].num_lists, 1);
        for (int variant = 0; variant < 8; variant++) {
            aq_writer_options o = {.no_sync = true, .data_page_v2 = (variant & 1) != 0};
            const char *path = write_lists(required_lists, &o);
            size_t n = read_all(path, variant & 2 ? AQ_IO_READ : AQ_IO_AUTO, spans,
                                (variant & 4) != 0);
            cr_assert_eq(n, list_cases[i].wanted, "case %zu, variant %d: %zu spans", i,
                         variant, n);
            /* The memory of decoded pages and levels is used again. */
            if ((variant & 4) != 0 && ((variant & 2) != 0 || n == 1)) continue;
            check_spans(spans, n);
            for (size_t k = 0; k < n && n > 1; k++) {
                cr_assert(spans[k].single_list && spans[k].num_rows == 1);
                cr_assert_eq(spans[k].mapped, !(variant & 2) && NUMBERS_IN_PLACE);
                cr_assert(spans[k].rep_levels == NULL && spans[k].def_levels == NULL);
                cr_assert_eq((uintptr_t)spans[k].values % spans[k].alignment, 0);
                if (k > 0 && spans[k].mapped)
                    cr_assert_eq(spans[k].file_offset - spans[0].file_offset,
                                 (const char *)spans[k].values -
                                     (const char *)spans[0].values);
            }
        }
    }
}

/* Joined again, mapped values stay where they are and have their levels. */
Test(spans, view_of_long_lists) {
    static const int lengths[] = {4000, 1, 6000};
    aq_parquet *f;
    aq_column *c;
    aq_span view;
    make_lists(lengths, 3, 1);
    ASSERT_OK(aq_parquet_open(write_lists(required_lists, NULL), NULL, &f, &err));
    ASSERT_OK(aq_column_open(f, 0, 0, &c, &err));
    ASSERT_OK(aq_column_view(c, &view, &err));
    cr_assert(view.mapped == NUMBERS_IN_PLACE && !view.single_list &&
              view.rep_levels != NULL);
    check_spans(&view, 1);
    aq_column_close(c);
    aq_parquet_close(f);
}

/* What pointers of 64 lists cost does not grow with the lists. */
Test(spans, memory_of_long_lists) {
    counting_allocator count;
    aq_parquet_options o = {.allocator = &count.hooks};
    size_t used[2];
    for (int k = 0; k < 2; k++) {
        int lengths[MAX_LISTS];
        const aq_span *spans;
        aq_parquet *f;
        aq_column *c;
        size_t n;
        for (int i = 0; i < MAX_LISTS; i++) lengths[i] = k == 0 ? 1100 : 4700;
        make_lists(lengths, MAX_LISTS, 1);
        counting_init(&count);
        ASSERT_OK(aq_parquet_open(write_lists(required_lists, NULL), &o, &f, &err));
        ASSERT_OK(aq_column_open(f, 0, 0, &c, &err));
        ASSERT_OK(aq_column_spans(c, &spans, &n, &err));
        cr_assert_eq(n, MAX_LISTS);
        used[k] = count.live_bytes;
        aq_column_close(c);
        aq_parquet_close(f);
        cr_assert(counting_is_clean(&count));
    }
    if (!NUMBERS_IN_PLACE) /* copies, in memory with room to grow */
        used[0] += MAX_LISTS * (4700 - 1100) * sizeof(float) / 4 * 5;
    cr_assert_leq(used[1], used[0] + 64, "%zu, then %zu bytes", used[0], used[1]);
}

Test(spans, lists_of_text) {
    static const aq_field_spec fields[] = {
        {.name = "l", .type = AQ_GROUP, .num_children = 1, .logical = AQ_LOGICAL_LIST},
        {.name = "list", .repetition = AQ_REPEATED, .type = AQ_GROUP, .num_children = 1},
        {.name = "element", .type = AQ_BYTE_ARRAY},
    };
    static const int lengths[] = {2000, 5, 3000};
    aq_span spans[MAX_LISTS];
    make_lists(lengths, 3, 1);
    data.v.values = data.texts;
    size_t n = read_all(write_lists(fields, NULL), AQ_IO_AUTO, spans, false), value = 0;
    cr_assert_eq(n, 3);
    for (size_t i = 0; i < n; i++) {
        const aq_bytes *b = spans[i].values;
        cr_assert(spans[i].mapped && spans[i].num_values == lengths[i]);
        cr_assert_eq(spans[i].file_offset - spans[0].file_offset,
                     b[0].data - ((const aq_bytes *)spans[0].values)[0].data);
        for (int64_t k = 0; k < spans[i].num_values; k++, value++)
            cr_assert(b[k].size == data.texts[value].size &&
                      memcmp(b[k].data, data.texts[value].data, b[k].size) == 0);
    }
}

/* A page of nulls has no first value: its place is that of the page. */
Test(spans, place_of_no_values) {
    static const uint8_t nulls[3];
    static const aq_physical_type types[] = {AQ_INT32, AQ_BYTE_ARRAY};
    const aq_column_values v = {.def_levels = nulls, .num_levels = 3};
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        const aq_field_spec field = {
            .name = "v", .type = types[i], .repetition = AQ_OPTIONAL};
        aq_chunk_info chunk;
        aq_column *c;
        aq_parquet *f;
        aq_span span;
        aq_writer *w;
        ASSERT_OK(aq_writer_open(in_dir("f"), &field, 1, NULL, &w, &err));
        ASSERT_OK(aq_writer_put_column(w, &v, &err));
        ASSERT_OK(aq_writer_end_row_group(w, 3, &err));
        ASSERT_OK(aq_writer_finish(w, &err));
        ASSERT_OK(aq_parquet_open(in_dir("f"), NULL, &f, &err));
        ASSERT_OK(aq_parquet_get_chunk(f, 0, 0, &chunk, &err));
        ASSERT_OK(aq_column_open(f, 0, 0, &c, &err));
        ASSERT_OK(aq_column_next(c, &span, &err));
        cr_assert(span.num_values == 0 && span.num_levels == 3);
        cr_expect_eq(span.file_offset, chunk.data_page_offset, "%s values: %lld",
                     i == 0 ? "INT32" : "BYTE_ARRAY", (long long)span.file_offset);
        aq_column_close(c);
        aq_parquet_close(f);
    }
}

/* ---- stored bytes that are hardly smaller ---- */

/* Weights: the CRC-32 of SNAPPY is taken on the way, mapped or read. */
Test(spans, snappy_of_weights) {
    enum { N = 200000 };
    static float values[N];
    const aq_field_spec field = {.name = "v", .type = AQ_FLOAT, .codec = AQ_SNAPPY};
    const aq_column_values v = {.values = values, .num_values = N};
    aq_page_info page;
    aq_column *column;
    aq_parquet *f;
    aq_span span;
    aq_writer *w;
    rng r = {11};
#ifndef AQ_WITH_SNAPPY
    SKIP_TEST("no SNAPPY in this build");
#endif
    rng_floats(&r, values, N, 0.02f);
    ASSERT_OK(aq_writer_open(in_dir("weights.parquet"), &field, 1, NULL, &w, &err));
    ASSERT_OK(aq_writer_put_column(w, &v, &err));
    ASSERT_OK(aq_writer_end_row_group(w, N, &err));
    ASSERT_OK(aq_writer_finish(w, &err));
    ASSERT_OK(aq_parquet_open(in_dir("weights.parquet"), NULL, &f, &err));
    ASSERT_OK(aq_column_open(f, 0, 0, &column, &err));
    ASSERT_OK(aq_column_next_page(column, &page, &err));
    cr_assert(page.has_crc && page.compressed_bytes >= page.uncompressed_bytes);
    aq_column_close(column);
    aq_parquet_close(f);
    /* Undamaged, then the size, the first tag, a value and the last byte damaged. */
    const int64_t damaged[] = {-1, 0, 3, 1000, page.compressed_bytes - 1};
    for (size_t k = 0; k < 2 * COUNT_OF(damaged); k++) {
        aq_parquet_options o = {.io = k % 2 == 0 ? AQ_IO_MAP : AQ_IO_READ};
        int64_t at = damaged[k / 2] < 0 ? -1 : page.data_offset + damaged[k / 2];
        file copy = file_read(in_dir("weights.parquet"));
        if (at >= 0) copy.data[at] ^= 0x10;
        file_write(in_dir("copy.parquet"), copy.data, copy.size);
        file_free(&copy);
        ASSERT_OK(aq_parquet_open(in_dir("copy.parquet"), &o, &f, &err));
        ASSERT_OK(aq_column_open(f, 0, 0, &column, &err));
        if (at >= 0) {
            ASSERT_STATUS(aq_column_next(column, &span, &err), AQ_E_CHECKSUM);
            cr_assert_eq(err.file_offset, page.data_offset);
        } else {
            ASSERT_OK(aq_column_view(column, &span, &err));
            cr_assert(span.num_values == N);
            cr_assert_eq(memcmp(span.values, values, sizeof values), 0);
        }
        aq_column_close(column);
        aq_parquet_close(f);
    }
}
