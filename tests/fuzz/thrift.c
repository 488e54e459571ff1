/* thrift.c - every struct of parquet.thrift through the reader of tables: what is read,
 * written again, reads back equal. First byte: which struct. */
#include "fuzz.h"

static const aqi_thrift_struct *const fuzz_thrift_types[] = {
    &aqi_file_meta_type,
    &aqi_page_header_type,
    &aqi_row_group_type,
    &aqi_column_chunk_type,
    &aqi_column_meta_type,
    &aqi_schema_element_type,
    &aqi_logical_type,
    &aqi_statistics_type,
    &aqi_key_value_type,
    &aqi_data_page_type,
    &aqi_data_page_v2_type,
    &aqi_dictionary_page_type,
    &aqi_time_type,
    &aqi_time_unit_type,
    &aqi_decimal_type,
    &aqi_integer_type,
    &aqi_sorting_column_type,
    &aqi_column_order_type,
    &aqi_empty_type,
    &aqi_page_encoding_stats_type,
    &aqi_column_meta_out_type,
    &aqi_column_chunk_out_type,
    &aqi_page_location_type,
    &aqi_offset_index_type};

static bool fuzz_thrift_equal(const aqi_thrift_struct *type, const void *a,
                              const void *b);

static bool fuzz_slices_equal(const aqi_slice *a, const aqi_slice *b) {
    return a->size == b->size && (a->size == 0 || memcmp(a->data, b->data, a->size) == 0);
}

static bool fuzz_lists_equal(const aqi_thrift_field *f, const aqi_list *a,
                             const aqi_list *b) {
    const uint8_t *x = (const uint8_t *)a->items, *y = (const uint8_t *)b->items;
    size_t size = aqi_kind_info[f->kind].size, i;
    if (f->kind == AQI_KIND_LIST_STRUCT) size = f->type->size;
    if (a->count != b->count) return false;
    for (i = 0; i < a->count; i++, x += size, y += size) {
        bool same = f->kind == AQI_KIND_LIST_STRUCT ? fuzz_thrift_equal(f->type, x, y)
                    : f->kind == AQI_KIND_LIST_BYTES
                        ? fuzz_slices_equal((const aqi_slice *)(const void *)x,
                                            (const aqi_slice *)(const void *)y)
                        : memcmp(x, y, size) == 0;
        if (!same) return false;
    }
    return true;
}

static bool fuzz_values_equal(const aqi_thrift_field *f, const void *a, const void *b) {
    switch ((aqi_kind)f->kind) {
    case AQI_KIND_BOOL:
        return *(const bool *)a == *(const bool *)b;
    case AQI_KIND_I8:
        return memcmp(a, b, 1) == 0;
    case AQI_KIND_I16:
        return memcmp(a, b, 2) == 0;
    case AQI_KIND_I32:
        return memcmp(a, b, 4) == 0;
    case AQI_KIND_I64:
    case AQI_KIND_DOUBLE:
        return memcmp(a, b, 8) == 0;
    case AQI_KIND_BYTES:
        return fuzz_slices_equal((const aqi_slice *)a, (const aqi_slice *)b);
    case AQI_KIND_STRUCT:
        return fuzz_thrift_equal(f->type, a, b);
    default:
        return fuzz_lists_equal(f, (const aqi_list *)a, (const aqi_list *)b);
    }
}

static bool fuzz_thrift_equal(const aqi_thrift_struct *type, const void *a,
                              const void *b) {
    uint32_t has_a, has_b;
    size_t k;
    memcpy(&has_a, a, sizeof has_a);
    memcpy(&has_b, b, sizeof has_b);
    if (has_a != has_b) return false;
    for (k = 0; k < type->num_fields; k++) {
        const aqi_thrift_field *f = &type->fields[k];
        if ((has_a >> k & 1u) != 0 &&
            !fuzz_values_equal(f, (const uint8_t *)a + f->offset,
                               (const uint8_t *)b + f->offset))
            return false;
    }
    return true;
}

/* One reading of a struct; `value` is big enough for any of them. */
typedef struct fuzz_thrift_reading {
    aqi_arena arena;
    aqi_thrift_reader reader;
    aq_error err;
    union {
        aqi_file_meta file;
        aqi_page_header page;
        aqi_row_group group;
        aqi_column_chunk chunk;
        aqi_schema_element element;
        aqi_column_chunk_out chunk_out;
    } value;
} fuzz_thrift_reading;

static aq_status fuzz_thrift_parse(fuzz_thrift_reading *r, const aq_allocator *a,
                                   const aqi_thrift_struct *type, fuzz_input in) {
    memset(r, 0, sizeof *r);
    FUZZ_CHECK(type->size <= sizeof r->value);
    aqi_error_clear(&r->err);
    aqi_arena_init(&r->arena, a);
    aqi_arena_limit(&r->arena, (size_t)4 << 20, "max_metadata_bytes");
    r->reader.in = aqi_cursor_make(in.data, in.size, 0);
    r->reader.arena = &r->arena;
    r->reader.err = &r->err;
    return fuzz_status(aqi_thrift_read(&r->reader, type, &r->value), &r->err);
}

/* To skip a struct is to pass over the same bytes as to read it. */
static void fuzz_thrift_skip(const fuzz_thrift_reading *read, fuzz_input in) {
    aqi_thrift_reader r = read->reader;
    aq_error err;
    aq_status status;
    aqi_error_clear(&err);
    r.in = aqi_cursor_make(in.data, in.size, 0);
    r.arena = NULL;
    r.err = &err;
    status = aqi_thrift_skip(&r, AQI_T_STRUCT, 1);
    FUZZ_CHECK_ERR(status == AQ_OK || status == AQ_E_LIMIT, &err);
    FUZZ_CHECK(status != AQ_OK || r.in.p == read->reader.in.p);
}

static void fuzz_thrift(const uint8_t *data, size_t size) {
    fuzz_input in = {data, size}, again;
    const aqi_thrift_struct *type =
        fuzz_thrift_types[fuzz_below(&in, AQI_COUNT(fuzz_thrift_types))];
    fuzz_thrift_reading first, second;
    aqi_thrift_writer w;
    fuzz_memory memory;
    fuzz_memory_init(&memory, (size_t)16 << 20, (size_t)16 << 20);
    memset(&w, 0, sizeof w);
    w.allocator = &memory.hooks;
    fuzz_result = AQ_OK;
    if (fuzz_thrift_parse(&first, &memory.hooks, type, in) == AQ_OK) {
        fuzz_thrift_skip(&first, in);
        aqi_thrift_write(&w, type, &first.value);
        FUZZ_CHECK(!w.failed);
        again.data = w.out.data;
        again.size = w.out.size;
        FUZZ_CHECK(fuzz_thrift_parse(&second, &memory.hooks, type, again) == AQ_OK);
        FUZZ_CHECK(aqi_remaining(&second.reader.in) == 0);
        FUZZ_CHECK(fuzz_thrift_equal(type, &first.value, &second.value));
        aqi_arena_deinit(&second.arena);
    }
    aqi_arena_deinit(&first.arena);
    aqi_builder_free(&memory.hooks, &w.out);
    fuzz_memory_check(&memory);
}

FUZZ_TARGET(fuzz_thrift)
