/* test_writer.c - the Parquet writer used wrongly, and what writers leave behind: the
 * whole file, or nothing and the old one untouched. */
#define AQ_STATIC
#define ARROWQUANT_IMPLEMENTATION
#include "files.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>

TestSuite(writer, .init = enter_temp_dir, .fini = leave_temp_dir, .timeout = 60);

static const aq_field_spec int_field = {.name = "v", .type = AQ_INT32};
static const aq_field_spec bytes_field = {.name = "v", .type = AQ_BYTE_ARRAY};
static const aq_field_spec optional_int = {
    .name = "v", .type = AQ_INT32, .repetition = AQ_OPTIONAL};
static const aq_field_spec always_null = {.name = "v",
                                          .type = AQ_INT32,
                                          .repetition = AQ_OPTIONAL,
                                          .logical = AQ_LOGICAL_UNKNOWN};
static const aq_field_spec list_fields[] = {
    {.name = "v", .type = AQ_GROUP, .num_children = 1},
    {.name = "list", .repetition = AQ_REPEATED, .type = AQ_GROUP, .num_children = 1},
    {.name = "element", .type = AQ_INT32}};
static const int32_t two[] = {1, 2};
static const aq_column_values two_values = {two, .num_values = 2};

/* ---- schemas ---- */

static const struct {
    aq_field_spec fields[2];
    size_t count;
    aq_status wanted;
    const char *message;
} schema_cases[] = {
    {{{.name = NULL, .type = AQ_INT32}}, 1, AQ_E_ARG, "without a name"},
    {{{.name = "", .type = AQ_INT32}}, 1, AQ_E_ARG, "without a name"},
    {{{.name = "f", .type = (aq_physical_type)8}}, 1, AQ_E_ARG, "\"f\""},
    {{{.name = "f", .type = (aq_physical_type)-2}}, 1, AQ_E_ARG, "\"f\""},
    {{{.name = "f", .type = AQ_INT32, .repetition = (aq_repetition)3}},
     1,
     AQ_E_ARG,
     "\"f\""},
    {{{.name = "f", .type = AQ_FIXED_LEN_BYTE_ARRAY}}, 1, AQ_E_ARG, "\"f\""},
    {{{.name = "f", .type = AQ_INT32, .type_length = 4}}, 1, AQ_E_ARG, "\"f\""},
    {{{.name = "f", .type = AQ_INT32, .num_children = 1}, {.name = "g"}},
     2,
     AQ_E_ARG,
     "\"f\""},
    {{{.name = "f", .type = AQ_GROUP}}, 1, AQ_E_ARG, "\"f\""},
    {{{.name = "f", .type = AQ_GROUP, .num_children = -1}}, 1, AQ_E_ARG, "\"f\""},
    {{{.name = "f", .type = AQ_GROUP, .num_children = 2}, {.name = "g"}},
     2,
     AQ_E_ARG,
     "lacks 1 of its children"},
    {{{.name = "f", .logical = AQ_LOGICAL_INTEGER, .bit_width = 7, .type = AQ_INT32}},
     1,
     AQ_E_ARG,
     "bit_width"},
    {{{.name = "f", .type = AQ_INT32, .logical = AQ_LOGICAL_DECIMAL}},
     1,
     AQ_E_ARG,
     "\"f\": precision"},
    {{{.name = "f", .type = AQ_INT32, .codec = AQ_LZO}}, 1, AQ_E_UNSUPPORTED, "LZO (3)"},
};

Test(writer, schemas) {
    for (size_t i = 0; i < COUNT_OF(schema_cases); i++) {
        aq_writer *w = (aq_writer *)(uintptr_t)1;
        aq_status got = aq_writer_open(in_dir("f"), schema_cases[i].fields,
                                       schema_cases[i].count, NULL, &w, &err);
        cr_expect_eq(got, schema_cases[i].wanted, "case %zu is %s: %s", i,
                     aq_status_name(got), err.message);
        ASSERT_MESSAGE("schema", schema_cases[i].message);
        cr_assert_null(w);
    }
    cr_assert_eq(temp_dir_entries(here.path), 0);
}

/* ---- paths and options ---- */

static aq_status open_at(const char *path, const aq_writer_options *o) {
    aq_writer *w;
    aq_status status = aq_writer_open(path, &int_field, 1, o, &w, &err);
    cr_assert_eq(w == NULL, status != AQ_OK);
    aq_writer_abort(w);
    return status;
}

Test(writer, options) {
    counting_allocator c;
    aq_writer_options o = {.value_alignment = 3};
    ASSERT_STATUS(open_at(in_dir("f"), &o), AQ_E_ARG);
    o.value_alignment = 8192;
    ASSERT_STATUS(open_at(in_dir("f"), &o), AQ_E_ARG);
    ASSERT_MESSAGE("alignment", "8192");
    o.value_alignment = 0;
    o.page_bytes = (size_t)INT32_MAX + 1;
    ASSERT_STATUS(open_at(in_dir("f"), &o), AQ_E_ARG);
    ASSERT_MESSAGE("page_bytes", "is over 2 GiB - 1");
    o.page_bytes = 0;
    o.dictionary_limit_bytes = (size_t)INT32_MAX + 1;
    ASSERT_STATUS(open_at(in_dir("f"), &o), AQ_E_ARG);
    o.dictionary_limit_bytes = 0;
    o.num_sorting_columns = 1;
    ASSERT_STATUS(open_at(in_dir("f"), &o), AQ_E_ARG);
    ASSERT_MESSAGE("sorting", "sorting_columns missing");
    o.num_sorting_columns = 0;
    counting_init(&c);
    c.hooks.resize = NULL;
    o.allocator = &c.hooks;
    ASSERT_STATUS(open_at(in_dir("f"), &o), AQ_E_ARG);
    ASSERT_MESSAGE("allocator", "2 of 3");
    cr_assert_eq(c.calls, 0);
}

Test(writer, compression_levels) {
    static const struct {
        aq_codec codec;
        int least, most;
    } codecs[] = {{AQ_GZIP, 1, 9}, {AQ_BROTLI, 1, 11}, {AQ_ZSTD, -7, 22}};
    for (size_t i = 0; i < COUNT_OF(codecs); i++) {
        const aq_field_spec fields[] = {
            int_field,
            {.name = "z", .type = AQ_INT32, .codec = codecs[i].codec},
            {.name = "s", .type = AQ_INT32, .codec = SNAPPY_OR_NONE}};
        const int levels[] = {0, codecs[i].least, codecs[i].most, codecs[i].most + 1,
                              codecs[i].codec == AQ_ZSTD ? INT_MIN : -1};
        for (size_t k = 0; k < COUNT_OF(levels); k++) {
            const aq_writer_options o = {.compression_level = levels[k]};
            aq_writer *w;
            aq_status got =
                aq_writer_open(in_dir("f"), fields, COUNT_OF(fields), &o, &w, &err);
            if (got == AQ_E_UNSUPPORTED) break; /* not in this build */
            ASSERT_STATUS(got, k < 3 ? AQ_OK : AQ_E_ARG);
            if (k >= 3) ASSERT_MESSAGE("level", aq_codec_name((int32_t)codecs[i].codec));
            aq_writer_abort(w);
        }
    }
}

Test(writer, paths) {
    char inside[600], long_name[1024];
    ASSERT_STATUS(open_at(NULL, NULL), AQ_E_ARG);
    ASSERT_STATUS(open_at("", NULL), AQ_E_ARG);
    ASSERT_STATUS(open_at(here.path, NULL), AQ_E_ARG);
    ASSERT_STATUS(open_at("/dev/null", NULL), AQ_E_ARG);
    cr_assert_str_eq(err.name, "/dev/null");
    ASSERT_STATUS(open_at(in_dir("missing/f"), NULL), AQ_E_IO);
    cr_assert_eq(err.os_errno, ENOENT);
    file_write(in_dir("plain"), "x", 1);
    snprintf(inside, sizeof inside, "%s/f", in_dir("plain"));
    ASSERT_STATUS(open_at(inside, NULL), AQ_E_IO);
    cr_assert_eq(err.os_errno, ENOTDIR);
    memset(inside, 'n', 300); /* known now, not when the file is renamed to it */
    inside[300] = '\0';
    snprintf(long_name, sizeof long_name, "%s/%s", here.path, inside);
    ASSERT_STATUS(open_at(long_name, NULL), AQ_E_IO);
    cr_assert_eq(err.os_errno, ENAMETOOLONG);
    ASSERT_MESSAGE("path", strerror(ENAMETOOLONG));
    cr_assert_eq(strncmp(err.name, here.path, 8), 0, "%s", err.name);
    if (geteuid() != 0) { /* root may write everywhere */
        cr_assert_eq(mkdir(in_dir("sealed"), 0555), 0);
        ASSERT_STATUS(open_at(in_dir("sealed/f"), NULL), AQ_E_IO);
        cr_assert_eq(err.os_errno, EACCES);
    }
    cr_assert_eq(temp_dir_entries(here.path), geteuid() != 0 ? 2u : 1u);
}

/* ---- columns ---- */

static const uint8_t levels_01[] = {0, 1}, levels_12[] = {1, 2}, levels_11[] = {1, 1};
static const uint8_t levels_02[] = {0, 2}, levels_20[] = {2, 0};
static const uint8_t no_list[] = {0};
static const int32_t offsets_012[] = {0, 1, 2}, offsets_021[] = {0, 2, 1};
static const int32_t offsets_03[] = {0, 3}, offsets_3[] = {3}, negative[] = {-1, 1};
static const int64_t large_012[] = {0, 1, 2}, large_021[] = {0, 2, 1};
static const int64_t large_long[] = {0, 1 << 30};
static const aq_bytes too_long[] = {{no_list, (size_t)INT32_MAX - 10}};
static const int64_t large_far[] = {0, (int64_t)1 << 40}, large_most[] = {0, INT64_MAX};
static const aq_field_spec list_of_lists[] = {
    {.name = "v", .repetition = AQ_REPEATED, .type = AQ_GROUP, .num_children = 1},
    {.name = "w", .repetition = AQ_REPEATED, .type = AQ_INT32}};
static const aq_field_spec nullable_list[] = {
    {.name = "v", .repetition = AQ_OPTIONAL, .type = AQ_GROUP, .num_children = 1},
    {.name = "list", .repetition = AQ_REPEATED, .type = AQ_GROUP, .num_children = 1},
    {.name = "element", .type = AQ_INT32}};

#define LISTED list_fields, COUNT_OF(list_fields)
#define ONE(field) &field, 1

static const struct {
    const aq_field_spec *fields;
    size_t num_fields;
    aq_column_values v;
    aq_status wanted;
    const char *message;
} column_cases[] = {
    {ONE(int_field), {NULL, .num_values = 2}, AQ_E_ARG, "values missing"},
    {ONE(int_field), {two, .num_values = -1}, AQ_E_ARG, "values missing"},
    {ONE(int_field), {two, 2, .num_levels = 3}, AQ_E_ARG, "with levels"},
    {ONE(bytes_field), {too_long, .num_values = 1}, AQ_E_LIMIT, "2 GiB less its header"},
    {LISTED,
     {two, (int64_t)1 << 30, .large_list_offsets = large_long, .num_lists = 1},
     AQ_E_LIMIT,
     "2 GiB"},
    {LISTED,
     {two, (int64_t)1 << 40, .large_list_offsets = large_far, .num_lists = 1},
     AQ_E_LIMIT,
     "2^31"},
    {ONE(optional_int), {two, 2, .num_levels = 2}, AQ_E_ARG, "needs levels"},
    {ONE(optional_int),
     {two, 2, levels_01, .num_levels = 2},
     AQ_E_ARG,
     "levels say 1 values"},
    {ONE(optional_int),
     {two, 1, levels_12, .num_levels = 2},
     AQ_E_ARG,
     "level 1 is above"},
    {ONE(optional_int), {two, 2, levels_11, .num_levels = -2}, AQ_E_ARG, "needs levels"},
    {ONE(always_null),
     {two, 1, levels_01, .num_levels = 2},
     AQ_E_ARG,
     "1 values of UNKNOWN"},
    {LISTED, {two, 2, levels_11, .num_levels = 2}, AQ_E_ARG, "needs levels"},
    {LISTED,
     {two, 2, levels_11, levels_12, .num_levels = 2},
     AQ_E_ARG,
     "level 1 is above"},
    {LISTED,
     {two, 2, levels_11, levels_11, .num_levels = 2},
     AQ_E_ARG,
     "first repetition level"},
    {nullable_list,
     3,
     {two, 1, levels_02, levels_01, .num_levels = 2},
     AQ_E_ARG,
     "level 1 goes on with a list (repetition 1) that is null or empty"},
    {nullable_list,
     3,
     {two, 1, levels_20, levels_01, .num_levels = 2},
     AQ_E_ARG,
     "level 1 goes on with a list"},
    {list_of_lists,
     2,
     {two, 1, levels_12, levels_02, .num_levels = 2},
     AQ_E_ARG,
     "level 1 goes on with a list (repetition 2)"},
    {LISTED,
     {two, 2, .list_offsets = offsets_021, .num_lists = 2},
     AQ_E_ARG,
     "list 1 is from offset 2 to 1, of 2 values"},
    {LISTED,
     {two, 2, .large_list_offsets = large_021, .num_lists = 2},
     AQ_E_ARG,
     "list 1 is from offset 2 to 1, of 2 values"},
    {LISTED,
     {two, 2, .list_offsets = offsets_03, .num_lists = 1},
     AQ_E_ARG,
     "list 0 is from offset 0 to 3, of 2 values"},
    {LISTED,
     {two, 1, .list_offsets = offsets_012, .first_list = 1, .num_lists = 1},
     AQ_E_ARG,
     "list 1 is from offset 1 to 2, of 1 values"},
    {LISTED,
     {two, 2, .large_list_offsets = large_far, .num_lists = 1},
     AQ_E_ARG,
     "to 1099511627776, of 2 values"},
    {LISTED, {two, 2, .list_offsets = offsets_3}, AQ_E_ARG, "offset 0 is 3, of 2 values"},
    {LISTED,
     {two, 2, .list_offsets = negative, .num_lists = 1},
     AQ_E_ARG,
     "list offset 0 is -1"},
    {LISTED,
     {two, -2, .list_offsets = offsets_012, .num_lists = 2},
     AQ_E_ARG,
     "values missing"},
    {LISTED,
     {NULL, 2, .list_offsets = offsets_012, .num_lists = 2},
     AQ_E_ARG,
     "values missing"},
    {LISTED,
     {two, 2, levels_11, levels_01, 2, offsets_012, .num_lists = 2},
     AQ_E_ARG,
     "levels and list offsets"},
    {LISTED,
     {two, 2, levels_11, .list_offsets = offsets_012, .num_lists = 2},
     AQ_E_ARG,
     "levels and list offsets"},
    {LISTED,
     {two, 2, .rep_levels = levels_01, .list_offsets = offsets_012, .num_lists = 2},
     AQ_E_ARG,
     "levels and list offsets"},
    {LISTED,
     {two, 2, .num_levels = 2, .list_offsets = offsets_012, .num_lists = 2},
     AQ_E_ARG,
     "levels and list offsets"},
    {LISTED,
     {two, 2, NULL, NULL, 0, offsets_012, large_012, .num_lists = 2},
     AQ_E_ARG,
     "32 bits and of 64"},
    {LISTED,
     {two, 2, levels_11, levels_01, 2, .num_lists = 2},
     AQ_E_ARG,
     "num_lists 2 without"},
    {ONE(int_field),
     {two, 2, .list_offsets = offsets_012, .num_lists = 2},
     AQ_E_ARG,
     "no list"},
    {ONE(optional_int),
     {two, 2, .list_offsets = offsets_012, .num_lists = 2},
     AQ_E_ARG,
     "no list"},
    {list_of_lists,
     2,
     {two, 2, .list_offsets = offsets_012, .num_lists = 2},
     AQ_E_ARG,
     "lists of lists"},
    {LISTED,
     {two, 2, .list_offsets = offsets_012, .num_lists = -1},
     AQ_E_ARG,
     "-1 lists"},
    {LISTED,
     {two, 2, .list_offsets = offsets_012, .num_lists = INT64_MAX},
     AQ_E_ARG,
     "9223372036854775807 lists"},
    {LISTED,
     {two, 2, .list_offsets = offsets_012, .first_list = -1, .num_lists = 1},
     AQ_E_ARG,
     "from list -1 on"},
    {LISTED,
     {two, 2, .list_offsets = offsets_012, .first_list = INT64_MAX, .num_lists = 1},
     AQ_E_ARG,
     "from list 9223372036854775807 on"},
    {LISTED,
     {two, INT64_MAX, .large_list_offsets = large_most, .num_lists = 1},
     AQ_E_ARG,
     "1 lists of 9223372036854775807 values"},
    {LISTED,
     {two, 2, .list_offsets = offsets_012, .list_validity = no_list, .num_lists = 2},
     AQ_E_ARG,
     "list 0 is null, and no list may be"},
    {nullable_list,
     3,
     {two, 2, .list_offsets = offsets_012, .list_validity = no_list, .num_lists = 2},
     AQ_E_UNSUPPORTED,
     "list 0 is null and has values"},
};

Test(writer, columns) {
    const aq_writer_options one_page = {.page_bytes = INT32_MAX};
    for (size_t i = 0; i < COUNT_OF(column_cases); i++) {
        aq_writer *w;
        ASSERT_OK(aq_writer_open(in_dir("f"), column_cases[i].fields,
                                 column_cases[i].num_fields, &one_page, &w, &err));
        ASSERT_STATUS(aq_writer_put_column(w, &column_cases[i].v, &err),
                      column_cases[i].wanted);
        ASSERT_MESSAGE("column", column_cases[i].message);
        cr_assert(err.column == 0 && err.row_group == 0);
        ASSERT_MESSAGE("column", "column v");
        /* The file cannot become whole any more, and says so. */
        ASSERT_STATUS(aq_writer_put_column(w, &two_values, &err), AQ_E_STATE);
        ASSERT_STATUS(aq_writer_end_row_group(w, 2, &err), AQ_E_STATE);
        ASSERT_STATUS(aq_writer_add_key_value(w, "k", "v", &err), AQ_E_STATE);
        ASSERT_STATUS(aq_writer_finish(w, &err), AQ_E_STATE);
        cr_assert_eq(temp_dir_entries(here.path), 0);
    }
}

/* [[], [1]]: the outer list goes on after an empty inner one. */
Test(writer, lists_go_on_after_empty_ones) {
    const aq_column_values v = {two, 1, levels_12, levels_01, .num_levels = 2};
    aq_writer *w;
    ASSERT_OK(aq_writer_open(in_dir("f"), list_of_lists, 2, NULL, &w, &err));
    ASSERT_OK(aq_writer_put_column(w, &v, &err));
    ASSERT_OK(aq_writer_end_row_group(w, 1, &err));
    ASSERT_OK(aq_writer_finish(w, &err));
}

/* ---- list offsets ---- */

enum { MAX_LISTS = 3000, MAX_ITEMS = 40000 };

/* Lists, as levels and as offsets, at random places of their arrays. */
static struct {
    int32_t items[MAX_ITEMS];
    aq_bytes texts[MAX_ITEMS];
    uint8_t def[MAX_ITEMS + MAX_LISTS], rep[MAX_ITEMS + MAX_LISTS];
    int32_t offsets[MAX_LISTS + 9];
    int64_t large_offsets[MAX_LISTS + 9];
    uint8_t validity[(MAX_LISTS + 9) / 8 + 1];
    aq_column_values by_levels, by_offsets;
} lists;

/* Around the lengths at which runs of levels are packed or repeated; some long, some 0. */
static int64_t random_length(rng *r, size_t kind) {
    static const int64_t around[] = {1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64};
    size_t any = rng_below(r, 100);
    if (kind == 0) return any < 70 ? 0 : (int64_t)rng_below(r, 3);
    if (kind == 1) return 1;
    if (kind == 2) return (int64_t)rng_below(r, 5);
    if (kind == 3) return around[rng_below(r, 11)];
    if (kind == 4) return any < 2 ? 3000 : (int64_t)rng_below(r, 2);
    return any < 40 ? (int64_t)rng_below(r, 3) : around[rng_below(r, 11)];
}

/* max_def of an element and of a list; a null list has the level below. */
static void make_random_lists(rng *r, const aq_field_spec *leaf, uint8_t max_def,
                              uint8_t empty_def, bool nulls) {
    size_t wanted = rng_below(r, 20) == 0 ? 0 : rng_below(r, MAX_LISTS), n = 0;
    size_t kind = rng_below(r, 6);
    int64_t first = (int64_t)rng_below(r, 9), at = (int64_t)rng_below(r, 5), begin = at;
    aq_column_values *l = &lists.by_levels, *o = &lists.by_offsets;
    size_t width = leaf->type == AQ_INT32     ? 4
                   : leaf->type == AQ_BOOLEAN ? 1
                   : leaf->type_length > 0    ? (size_t)leaf->type_length
                                              : sizeof(aq_bytes);
    const void *values = leaf->type == AQ_BYTE_ARRAY ? (const void *)lists.texts
                                                     : (const void *)lists.items;
    memset(l, 0, sizeof *l);
    memset(o, 0, sizeof *o);
    memset(lists.validity, 0xff, sizeof lists.validity);
    for (int64_t i = 0; i < first; i++) /* of no meaning */
        lists.offsets[i] = (int32_t)(lists.large_offsets[i] = 77 - i);
    for (;; n++) {
        int64_t length = random_length(r, kind), i = first + (int64_t)n;
        bool null = nulls && rng_below(r, 4) == 0;
        if (null) length = 0;
        lists.offsets[i] = (int32_t)(lists.large_offsets[i] = at);
        if (n == wanted || at + length > MAX_ITEMS - 10) break;
        if (null) lists.validity[i / 8] &= (uint8_t) ~(1 << i % 8);
        for (int64_t k = 0; k < length || k == 0; k++, l->num_levels++) {
            lists.rep[l->num_levels] = k > 0;
            lists.def[l->num_levels] = length > 0 ? max_def : (uint8_t)(empty_def - null);
        }
        at += length;
    }
    l->values = (const uint8_t *)values + (size_t)begin * width;
    l->num_values = at - begin;
    l->def_levels = lists.def;
    l->rep_levels = lists.rep;
    o->values = values;
    o->num_values = at + (int64_t)rng_below(r, 3);
    if (rng_below(r, 2) == 0) o->list_offsets = lists.offsets;
    if (o->list_offsets == NULL) o->large_list_offsets = lists.large_offsets;
    if (nulls || rng_below(r, 2) == 0) o->list_validity = lists.validity;
    o->first_list = first;
    o->num_lists = (int64_t)n;
}

static file write_column(const aq_field_spec *fields, size_t n,
                         const aq_writer_options *o, const aq_column_values *v,
                         int64_t rows) {
    aq_writer *w;
    ASSERT_OK(aq_writer_open(in_dir("f"), fields, n, o, &w, &err));
    for (int group = 0; group < 2; group++) {
        ASSERT_OK(aq_writer_put_column(w, v, &err));
        ASSERT_OK(aq_writer_end_row_group(w, rows, &err));
    }
    ASSERT_OK(aq_writer_finish(w, &err));
    return file_read(in_dir("f"));
}

/* Offsets are levels said otherwise: the file is the same, whatever its pages are. */
Test(writer, offsets_write_what_levels_write) {
    static const aq_field_spec leaves[] = {
        {.name = "e", .type = AQ_INT32},
        {.name = "e",
         .type = AQ_INT32,
         .repetition = AQ_OPTIONAL,
         .codec = SNAPPY_OR_NONE},
        {.name = "e", .type = AQ_INT32, .encoding = AQ_DELTA_BINARY_PACKED},
        {.name = "e", .type = AQ_BYTE_ARRAY, .repetition = AQ_OPTIONAL},
        {.name = "e", .type = AQ_BYTE_ARRAY, .encoding = AQ_RLE_DICTIONARY},
        {.name = "e", .type = AQ_BOOLEAN, .codec = AQ_ZSTD},
        {.name = "e", .type = AQ_BOOLEAN, .encoding = AQ_RLE},
        {.name = "e", .type = AQ_FIXED_LEN_BYTE_ARRAY, .type_length = 3}};
    static const size_t pages[] = {0, 1, 40, 300, 5000, 100000};
    rng r = {20};
    aq_threads *threads;
    ASSERT_OK(aq_threads_create(3, NULL, &threads, &err));
    for (int i = 0; i < MAX_ITEMS; i++) {
        lists.items[i] = i % 77 * 0x01010101;
        lists.texts[i] =
            (aq_bytes){(const uint8_t *)"lists by offsets" + i % 9, (size_t)(i % 7)};
    }
    for (int round = 0; round < 1500; round++) {
        aq_field_spec fields[5];
        size_t n = 0;
        size_t shape = rng_below(&r, 4); /* bare, list, list or null, list in a struct */
        uint8_t empty_def = (uint8_t)(shape == 2 ? 1 : shape == 3 ? 2 : 0), max_def;
        aq_writer_options o = {.no_sync = true,
                               .page_bytes = pages[rng_below(&r, 6)],
                               .data_page_v2 = rng_below(&r, 2) == 0,
                               .page_index = rng_below(&r, 2) == 0};
        file a, b;
        memset(fields, 0, sizeof fields);
        if (shape == 3)
            fields[n++] = (aq_field_spec){.name = "s",
                                          .repetition = AQ_OPTIONAL,
                                          .type = AQ_GROUP,
                                          .num_children = 1};
        if (shape > 0)
            fields[n++] =
                (aq_field_spec){.name = "v",
                                .repetition = shape == 1 ? AQ_REQUIRED : AQ_OPTIONAL,
                                .type = AQ_GROUP,
                                .num_children = 1,
                                .logical = AQ_LOGICAL_LIST};
        fields[n++] = (aq_field_spec){.name = "list",
                                      .repetition = AQ_REPEATED,
                                      .type = AQ_GROUP,
                                      .num_children = 1};
        fields[n] = leaves[rng_below(&r, COUNT_OF(leaves))];
        max_def = (uint8_t)(empty_def + 1 + (fields[n].repetition == AQ_OPTIONAL));
        if (shape == 0 && fields[n].repetition == AQ_REQUIRED && rng_below(&r, 2) == 0) {
            fields[0] = fields[1]; /* the leaf itself is repeated */
            fields[0].repetition = AQ_REPEATED;
            n = 0;
        }
        fields[n].write_statistics = rng_below(&r, 2) == 0;
        fields[n].align_values = rng_below(&r, 2) == 0;
        make_random_lists(&r, &fields[n], max_def, empty_def,
                          shape >= 2 && rng_below(&r, 2) == 0);
        a = write_column(fields, n + 1, &o, &lists.by_levels, lists.by_offsets.num_lists);
        if (rng_below(&r, 2) == 0) o.tasks = aq_threads_tasks(threads);
        b = write_column(fields, n + 1, &o, &lists.by_offsets,
                         lists.by_offsets.num_lists);
        cr_assert(a.size == b.size && memcmp(a.data, b.data, a.size) == 0,
                  "round %d: %zu and %zu bytes", round, a.size, b.size);
        file_free(&a);
        file_free(&b);
    }
    aq_threads_destroy(threads);
}

/* A row is in one page, however long: its values pass the bounds of a page. */
Test(writer, offsets_of_huge_lists) {
    enum { LIST = 3 << 20 };
    const int64_t offsets[] = {5, 5, 5 + LIST, 6 + LIST, 6 + LIST};
    const int64_t n = LIST + 3;
    uint8_t *def = malloc((size_t)n), *rep = calloc((size_t)n, 1);
    int32_t *values = calloc(LIST + 6, 4);
    const aq_column_values by_levels = {values + 5, LIST + 1, def, rep, .num_levels = n};
    const aq_column_values by_offsets = {values, LIST + 6, .large_list_offsets = offsets,
                                         .num_lists = 4};
    memset(def, 1, (size_t)n);
    memset(rep + 2, 1, LIST - 1);
    def[0] = def[n - 1] = 0;
    for (int i = 0; i < LIST + 6; i++)
        values[i] = i;
    for (int v2 = 0; v2 < 2; v2++) {
        for (size_t page_bytes = 0; page_bytes < 3 << 20; page_bytes += 1 << 20) {
            aq_writer_options o = {
                .no_sync = true, .data_page_v2 = v2 != 0, .page_bytes = page_bytes};
            file a = write_column(LISTED, &o, &by_levels, 4);
            file b = write_column(LISTED, &o, &by_offsets, 4);
            cr_assert(a.size == b.size && memcmp(a.data, b.data, a.size) == 0);
            file_free(&a);
            file_free(&b);
        }
    }
    free(def);
    free(rep);
    free(values);
}

/* No memory that grows with the values: some buffers, and the levels as stored. */
Test(writer, offsets_take_no_memory) {
    enum { VALUES = 8 << 20, SHORT = 5 };
    int32_t *values = calloc(VALUES, 4), *offsets = malloc((VALUES / SHORT + 2) * 4);
    for (int shape = 0; shape < 2; shape++) {
        counting_allocator c;
        aq_writer_options o = {.allocator = &c.hooks, .no_sync = true};
        aq_column_values v = {values, VALUES, .list_offsets = offsets};
        size_t most = shape == 0 ? 3u << 20 : 5u << 20;
        aq_writer *w;
        for (int at = 0; at < VALUES; at += shape == 0 ? VALUES / 8 : SHORT)
            offsets[v.num_lists++] = at;
        offsets[v.num_lists] = VALUES;
        if (!NUMBERS_IN_PLACE) most += 2 * VALUES * sizeof *values; /* the page */
        counting_init(&c);
        ASSERT_OK(aq_writer_open(in_dir("f"), LISTED, &o, &w, &err));
        ASSERT_OK(aq_writer_put_column(w, &v, &err));
        cr_assert_lt(c.peak_bytes, most, "%zu", c.peak_bytes);
        ASSERT_OK(aq_writer_end_row_group(w, v.num_lists, &err));
        ASSERT_OK(aq_writer_finish(w, &err));
    }
    free(values);
    free(offsets);
}

Test(writer, order_of_calls) {
    static const aq_field_spec fields[] = {{.name = "a", .type = AQ_INT32},
                                           {.name = "b", .type = AQ_INT32}};
    static const aq_column_values one_value = {two, .num_values = 1};
    aq_writer *w;
    ASSERT_OK(aq_writer_open(in_dir("f"), fields, 2, NULL, &w, &err));
    ASSERT_OK(aq_writer_put_column(w, &two_values, &err));
    ASSERT_STATUS(aq_writer_end_row_group(w, 2, &err), AQ_E_STATE);
    ASSERT_OK(aq_writer_put_column(w, &two_values, &err));
    ASSERT_STATUS(aq_writer_put_column(w, &two_values, &err), AQ_E_STATE);
    ASSERT_STATUS(aq_writer_end_row_group(w, 3, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_writer_end_row_group(w, -1, &err), AQ_E_ARG);
    ASSERT_OK(aq_writer_end_row_group(w, 2, &err));
    ASSERT_OK(aq_writer_put_column(w, &two_values, &err));
    ASSERT_STATUS(aq_writer_put_column(w, &one_value, &err), AQ_E_ARG);
    ASSERT_MESSAGE("rows", "column has 1 rows, the ones before it 2 (column b");
    ASSERT_STATUS(aq_writer_finish(w, &err), AQ_E_STATE);
    ASSERT_OK(aq_writer_open(in_dir("f"), fields, 2, NULL, &w, &err));
    ASSERT_OK(aq_writer_put_column(w, &two_values, &err));
    ASSERT_STATUS(aq_writer_finish(w, &err), AQ_E_STATE);
    aq_writer_abort(NULL);
    cr_assert_eq(temp_dir_entries(here.path), 0);
}

/* What no reader would take is not written. */
Test(writer, limits_of_the_footer) {
    aq_writer *w;
    ASSERT_OK(aq_writer_open(in_dir("f"), NULL, 0, NULL, &w, &err));
    ASSERT_OK(aq_writer_end_row_group(w, INT64_MAX, &err));
    ASSERT_STATUS(aq_writer_end_row_group(w, 1, &err), AQ_E_LIMIT);
    ASSERT_MESSAGE("rows", "over 2^63 - 1 rows");
    for (int i = 0; i < 1000000; i++)
        ASSERT_OK(aq_writer_add_key_value(w, "k", NULL, &err));
    ASSERT_STATUS(aq_writer_add_key_value(w, "k", NULL, &err), AQ_E_LIMIT);
    ASSERT_MESSAGE("pairs", "over 1000000 metadata pairs");
    aq_writer_abort(w);
}

Test(writer, long_strings) {
    const size_t n = 100000001;
    char *text = malloc(n + 1);
    const aq_field_spec named = {.name = text, .type = AQ_INT32};
    const aq_writer_options o = {.created_by = text};
    aq_writer *w;
    memset(text, 'n', n);
    text[n] = '\0';
    ASSERT_STATUS(open_at(in_dir("f"), &o), AQ_E_ARG);
    ASSERT_MESSAGE("created_by", "created_by is over 100,000,000 bytes");
    ASSERT_STATUS(aq_writer_open(in_dir("f"), &named, 1, NULL, &w, &err), AQ_E_ARG);
    ASSERT_MESSAGE("name", "of over 100,000,000 bytes");
    text[n - 1] = '\0';
    ASSERT_OK(open_at(in_dir("f"), &o));
    free(text);
}

/* Each column took 1 KiB for its path, however short. */
Test(writer, many_columns_take_little_memory) {
    enum { COLUMNS = 10000 };
    aq_field_spec *fields = calloc(COLUMNS, sizeof *fields);
    counting_allocator c;
    const aq_writer_options o = {.allocator = &c.hooks, .no_sync = true};
    aq_writer *w;
    for (int i = 0; i < COLUMNS; i++)
        fields[i] = int_field;
    counting_init(&c);
    ASSERT_OK(aq_writer_open(in_dir("f"), fields, COLUMNS, &o, &w, &err));
    cr_assert_lt(c.peak_bytes / COLUMNS, 1024, "%zu", c.peak_bytes);
    aq_writer_abort(w);
    free(fields);
}

/* ---- what is left behind ---- */

static uint8_t bulk[4 << 20];

/* A row group larger than the writer's buffer, so that bytes have reached the disk. */
static aq_status put_bulk(aq_writer *w) {
    aq_column_values v = {bulk, .num_values = sizeof bulk / 4};
    aq_status status = aq_writer_put_column(w, &v, &err);
    if (status != AQ_OK) return status;
    return aq_writer_end_row_group(w, v.num_values, &err);
}

static aq_writer *begin_bulk(const char *path) {
    aq_writer *w;
    ASSERT_OK(aq_writer_open(path, &int_field, 1, NULL, &w, &err));
    return w;
}

static void expect_old(const char *path) {
    file f = file_read(path);
    cr_assert(f.size == 3 && memcmp(f.data, "old", 3) == 0);
    file_free(&f);
}

Test(writer, abort_leaves_the_old_file) {
    aq_writer *w;
    file_write(in_dir("f"), "old", 3);
    w = begin_bulk(in_dir("f"));
    ASSERT_OK(put_bulk(w));
    cr_assert_eq(temp_dir_entries(here.path), 2);
    expect_old(in_dir("f"));
    aq_writer_abort(w);
    cr_assert_eq(temp_dir_entries(here.path), 1);
    expect_old(in_dir("f"));
    w = begin_bulk(in_dir("f"));
    ASSERT_OK(put_bulk(w));
    ASSERT_OK(aq_writer_finish(w, &err));
    cr_assert_eq(temp_dir_entries(here.path), 1);
}

Test(writer, killed_half_way_leaves_the_old_file) {
    static const int deaths[] = {0, SIGKILL};
    for (size_t i = 0; i < COUNT_OF(deaths); i++) {
        aq_parquet *f;
        aq_writer *w;
        pid_t child;
        int state;
        file_write(in_dir("f"), "old", 3);
        child = fork();
        if (child == 0) {
            if (aq_writer_open(in_dir("f"), &int_field, 1, NULL, &w, NULL) == AQ_OK &&
                put_bulk(w) == AQ_OK && deaths[i] != 0)
                kill(getpid(), deaths[i]);
            _exit(7);
        }
        cr_assert_eq(waitpid(child, &state, 0), child);
        cr_assert(deaths[i] == 0 ? WIFEXITED(state) : WIFSIGNALED(state));
        expect_old(in_dir("f"));
        /* What the dead left does not stand in the way. */
        w = begin_bulk(in_dir("f"));
        ASSERT_OK(put_bulk(w));
        ASSERT_OK(aq_writer_finish(w, &err));
        ASSERT_OK(aq_parquet_open(in_dir("f"), NULL, &f, &err));
        aq_parquet_close(f);
    }
}

static void expect_disk_error(const char *path, int code) {
    aq_writer *w = begin_bulk(path);
    aq_status status = put_bulk(w);
    int first = status == AQ_OK ? 0 : err.os_errno;
    if (status != AQ_OK) {
        cr_assert_eq(status, AQ_E_IO, "%s", err.message);
        ASSERT_STATUS(aq_writer_finish(w, &err), AQ_E_STATE);
    } else {
        ASSERT_STATUS(aq_writer_finish(w, &err), AQ_E_IO);
        first = err.os_errno;
    }
    cr_assert_eq(first, code, "errno %d", first);
}

/* The limit on a file's size stands for a full disk where nothing can be mounted. */
Test(writer, disk_full) {
    const struct rlimit small = {1 << 20, 1 << 20};
    file_write(in_dir("f"), "old", 3);
    signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
    expect_disk_error(in_dir("f"), EFBIG);
    cr_assert_eq(temp_dir_entries(here.path), 1);
    expect_old(in_dir("f"));
}

Test(writer, mounted_disk_full) {
    char mounted[512];
    snprintf(mounted, sizeof mounted, "%s", in_dir("disk"));
    cr_assert_eq(mkdir(mounted, 0700), 0);
    if (mount("tmpfs", mounted, "tmpfs", 0, "size=1m") != 0) return; /* not allowed */
    file_write(in_dir("disk/f"), "old", 3);
    expect_disk_error(in_dir("disk/f"), ENOSPC);
    cr_expect_eq(temp_dir_entries(mounted), 1);
    expect_old(in_dir("disk/f"));
    cr_assert_eq(umount(mounted), 0);
}

/* ---- every allocation can fail ---- */

static aq_status write_small(const aq_allocator *allocator) {
    aq_field_spec fields[COUNT_OF(list_fields) + 1];
    aq_writer_options o = {.allocator = allocator, .no_sync = true};
    aq_column_values list = {two, 2, levels_11, levels_01, .num_levels = 2},
                     by_offsets = {two, 2, .list_offsets = offsets_012 + 1,
                                   .num_lists = 1},
                     one = {two, .num_values = 1};
    aq_status status;
    aq_writer *w;
    memcpy(fields, list_fields, sizeof list_fields);
    fields[2].codec = AQ_ZSTD;
    fields[COUNT_OF(list_fields)] = int_field;
    status = aq_writer_open(in_dir("f"), fields, COUNT_OF(fields), &o, &w, &err);
    if (status != AQ_OK) return status;
    status = aq_writer_add_key_value(w, "k", "v", &err);
    if (status == AQ_OK) status = aq_writer_put_column(w, &list, &err);
    if (status == AQ_OK) status = aq_writer_put_column(w, &one, &err);
    if (status == AQ_OK) status = aq_writer_end_row_group(w, 1, &err);
    if (status == AQ_OK) status = aq_writer_put_column(w, &by_offsets, &err);
    if (status == AQ_OK) status = aq_writer_put_column(w, &one, &err);
    if (status == AQ_OK) status = aq_writer_end_row_group(w, 1, &err);
    if (status == AQ_OK) return aq_writer_finish(w, &err);
    aq_writer_abort(w);
    return status;
}

Test(writer, every_allocation_fails) {
    counting_allocator c;
    size_t k = 0;
    aq_status status;
    do {
        counting_init(&c);
        c.fail_at = ++k;
        status = write_small(&c.hooks);
        cr_assert(status == AQ_OK || status == AQ_E_NOMEM, "call %zu: %s", k,
                  err.message);
        cr_assert(counting_is_clean(&c), "call %zu", k);
        cr_assert_eq(temp_dir_entries(here.path), status == AQ_OK);
    } while (status != AQ_OK);
    cr_assert_gt(k, 10);
}

/* Metadata of a column stands in each of its chunks; the strings were copied. */
Test(writer, column_key_values) {
    char changing[] = "first";
    aq_key_value pairs[] = {{.key = "unit", .value = "mV"},
                            {.key = "", .value = ""},
                            {.key = "no value"},
                            {.key = "copied", .value = changing},
                            {.key = "with a NUL", .value = "a\0b", .value_bytes = 3},
                            {.key = "not ended", .value = "cut", .value_bytes = 2}};
    const aq_field_spec fields[] = {
        {.name = "plain", .type = AQ_INT32},
        {.name = "v", .type = AQ_INT32, .key_values = pairs, .num_key_values = 6}};
    aq_key_value pair;
    aq_parquet *f;
    aq_writer *w;
    aq_chunk_info chunk;
    ASSERT_OK(aq_writer_open(in_dir("f"), fields, 2, NULL, &w, &err));
    memset(changing, 'x', 5);
    pairs[0].key = NULL;
    for (int g = 0; g < 2; g++) {
        for (int c = 0; c < 2; c++)
            ASSERT_OK(aq_writer_put_column(w, &two_values, &err));
        ASSERT_OK(aq_writer_end_row_group(w, 2, &err));
    }
    ASSERT_OK(aq_writer_finish(w, &err));
    ASSERT_OK(aq_parquet_open(in_dir("f"), NULL, &f, &err));
    for (int g = 0; g < 2; g++) {
        ASSERT_OK(aq_parquet_get_chunk(f, g, 0, &chunk, &err));
        cr_assert_eq(chunk.num_key_values, 0);
        ASSERT_OK(aq_parquet_get_chunk(f, g, 1, &chunk, &err));
        cr_assert_eq(chunk.num_key_values, 6);
        cr_assert(aq_parquet_chunk_key_value(f, g, 1, 0, &pair));
        cr_assert_str_eq(pair.key, "unit");
        cr_assert_str_eq(pair.value, "mV");
        cr_assert(aq_parquet_chunk_key_value(f, g, 1, 1, &pair));
        cr_assert(pair.key[0] == '\0' && pair.value[0] == '\0');
        cr_assert(aq_parquet_chunk_key_value(f, g, 1, 2, &pair));
        cr_assert(pair.value == NULL);
        cr_assert(aq_parquet_chunk_key_value(f, g, 1, 3, &pair));
        cr_assert_str_eq(pair.value, "first");
        cr_assert(aq_parquet_chunk_key_value(f, g, 1, 4, &pair));
        cr_assert(pair.value_bytes == 3 && memcmp(pair.value, "a\0b", 4) == 0);
        cr_assert(aq_parquet_chunk_key_value(f, g, 1, 5, &pair));
        cr_assert(pair.value_bytes == 2 && strcmp(pair.value, "cu") == 0);
        cr_assert(!aq_parquet_chunk_key_value(f, g, 1, 6, &pair));
    }
    aq_parquet_close(f);
}

Test(writer, column_key_values_refused) {
    static const aq_key_value no_key = {.value = "v"}, pair = {.key = "k", .value = "v"};
    aq_field_spec field = {.name = "v", .type = AQ_INT32, .num_key_values = 1};
    aq_writer *w;
    ASSERT_STATUS(aq_writer_open(in_dir("f"), &field, 1, NULL, &w, &err), AQ_E_ARG);
    field.key_values = &no_key;
    ASSERT_STATUS(aq_writer_open(in_dir("f"), &field, 1, NULL, &w, &err), AQ_E_ARG);
    ASSERT_MESSAGE("key", "metadata key missing");
    field.key_values = &pair;
    field.num_key_values = -1;
    ASSERT_STATUS(aq_writer_open(in_dir("f"), &field, 1, NULL, &w, &err), AQ_E_ARG);
    cr_assert_eq(temp_dir_entries(here.path), 0);
}

/* What the writer writes by default, the reader reads by default: 80 million nulls are a few
 * bytes, which may not become any number of levels. */
Test(writer, many_nulls) {
    static const aq_field_spec field = {
        .name = "v", .repetition = AQ_OPTIONAL, .type = AQ_INT32};
    const int64_t n = 80000000;
    uint8_t *nulls = calloc((size_t)n, 1);
    const aq_column_values v = {two, 0, nulls, .num_levels = n};
    int64_t levels = 0;
    aq_parquet *f;
    aq_column *c;
    aq_writer *w;
    aq_span span;
    ASSERT_OK(aq_writer_open(in_dir("f"), &field, 1, NULL, &w, &err));
    ASSERT_OK(aq_writer_put_column(w, &v, &err));
    ASSERT_OK(aq_writer_end_row_group(w, n, &err));
    ASSERT_OK(aq_writer_finish(w, &err));
    ASSERT_OK(aq_parquet_open(in_dir("f"), NULL, &f, &err));
    ASSERT_OK(aq_column_open(f, 0, 0, &c, &err));
    for (;;) {
        ASSERT_OK(aq_column_next(c, &span, &err));
        if (span.values == NULL) break;
        cr_assert(span.num_values == 0 && span.def_levels[span.num_levels - 1] == 0);
        levels += span.num_levels;
    }
    cr_assert_eq(levels, n);
    aq_column_close(c);
    aq_parquet_close(f);
    free(nulls);
}

/* Values that are all the same, in pages as long as may be, which are a few bytes. */
Test(writer, many_equal_values) {
    static const struct {
        aq_physical_type type;
        aq_encoding encoding;
        aq_codec codec;
        int64_t n; /* over 64 MiB when read */
    } cases[] = {
        {AQ_BOOLEAN, AQ_PLAIN, AQ_ZSTD, 67200000},
        {AQ_BOOLEAN, AQ_RLE, AQ_UNCOMPRESSED, 67200000},
        {AQ_INT64, AQ_RLE_DICTIONARY, AQ_UNCOMPRESSED, 8400000},
        {AQ_INT64, AQ_DELTA_BINARY_PACKED, AQ_ZSTD, 8400000},
        {AQ_BYTE_ARRAY, AQ_RLE_DICTIONARY, AQ_UNCOMPRESSED, 4200000},
        {AQ_BYTE_ARRAY, AQ_DELTA_LENGTH_BYTE_ARRAY, AQ_ZSTD, 4200000},
        {AQ_BYTE_ARRAY, AQ_DELTA_BYTE_ARRAY, AQ_ZSTD, 50}, /* of 1.5 MB */
    };
    const size_t bytes = 68 << 20, longest = 1500000;
    const aq_writer_options o = {.no_sync = true, .page_bytes = INT32_MAX};
    uint8_t *values = calloc(bytes, 1), *text = calloc(longest, 1);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const aq_field_spec field = {.name = "v",
                                     .type = cases[i].type,
                                     .encoding = cases[i].encoding,
                                     .codec = cases[i].codec};
        const aq_column_values v = {values, .num_values = cases[i].n};
        bool prefixed = cases[i].encoding == AQ_DELTA_BYTE_ARRAY;
        int64_t n = 0;
        aq_parquet *f;
        aq_column *c;
        aq_writer *w;
        aq_span span;
        for (int64_t k = 0; cases[i].type == AQ_BYTE_ARRAY && k < cases[i].n; k++)
            ((aq_bytes *)(void *)values)[k] = (aq_bytes){text, prefixed ? longest : 1};
        ASSERT_OK(aq_writer_open(in_dir("f"), &field, 1, &o, &w, &err));
        ASSERT_OK(aq_writer_put_column(w, &v, &err));
        ASSERT_OK(aq_writer_end_row_group(w, v.num_values, &err));
        ASSERT_OK(aq_writer_finish(w, &err));
        ASSERT_OK(aq_parquet_open(in_dir("f"), NULL, &f, &err));
        ASSERT_OK(aq_column_open(f, 0, 0, &c, &err));
        do {
            aq_status status = aq_column_next(c, &span, &err);
            cr_assert_eq(status, AQ_OK, "case %zu: %s", i, err.message);
            n += span.num_values;
        } while (span.values != NULL);
        cr_assert_eq(n, v.num_values);
        aq_column_close(c);
        aq_parquet_close(f);
    }
    free(values);
    free(text);
}

/* Rows of the page that the writer makes of n values of a required column. */
static int64_t first_page_of(const aq_field *field, const void *values, int64_t n) {
    aqi_chunk_writer c;
    aqi_page_slot page;
    memset(&c, 0, sizeof c);
    c.field = field;
    c.v.values = values;
    c.v.num_values = c.num_levels = c.num_rows = n;
    c.page_bytes = (size_t)1 << 30;
    aqi_page_cut(&c, &page);
    return page.num_rows;
}

/* 16 bytes each when read, of 4 bytes in the file: in memory that is only looked at, which
 * is zeros. */
Test(writer, many_byte_arrays) {
    const aq_field field = {.type = AQ_BYTE_ARRAY};
    const int64_t n = 68 << 20;
    void *values = mmap(NULL, (size_t)n * sizeof(aq_bytes), PROT_READ,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    cr_assert(values != MAP_FAILED);
    cr_assert_eq(first_page_of(&field, values, n), 64 << 20);
    munmap(values, (size_t)n * sizeof(aq_bytes));
}

/* Rows that fit a page each, but not one together. */
Test(writer, long_byte_arrays) {
    const aq_field field = {.type = AQ_BYTE_ARRAY};
    const aq_bytes values[] = {{NULL, 1000000000}, {NULL, 1200000000}, {NULL, 100}};
    cr_assert_eq(first_page_of(&field, values, 3), 1);
    cr_assert_eq(first_page_of(&field, values + 1, 2), 1);
    cr_assert_eq(first_page_of(&field, values + 2, 1), 1);
}

/* Also of a column whose pages were taken. */
Test(writer, verify_begins_anew) {
    aq_parquet *f;
    aq_chunk_info chunk;
    aq_column *c;
    aq_writer *w;
    const aq_span *spans;
    size_t n;
    ASSERT_OK(aq_writer_open(in_dir("f"), &int_field, 1, NULL, &w, &err));
    ASSERT_OK(aq_writer_put_column(w, &two_values, &err));
    ASSERT_OK(aq_writer_end_row_group(w, 2, &err));
    ASSERT_OK(aq_writer_finish(w, &err));
    ASSERT_OK(aq_parquet_open(in_dir("f"), NULL, &f, &err));
    ASSERT_OK(aq_parquet_get_chunk(f, 0, 0, &chunk, &err));
    aq_parquet_close(f);
    FILE *raw = fopen(in_dir("f"), "r+b");
    fseek(raw, (long)(chunk.start_offset + chunk.compressed_bytes - 1), SEEK_SET);
    fputc(0x55, raw);
    fclose(raw);
    ASSERT_OK(aq_parquet_open(in_dir("f"), NULL, &f, &err));
    ASSERT_OK(aq_column_open(f, 0, 0, &c, &err));
    ASSERT_OK(aq_column_spans(c, &spans, &n, &err));
    ASSERT_STATUS(aq_column_verify(c, &err), AQ_E_CHECKSUM);
    ASSERT_OK(aq_column_spans(c, &spans, &n, &err));
    aq_column_close(c);
    aq_parquet_close(f);
}
