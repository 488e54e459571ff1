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

/* A list that was read is where its elements are in the input. */
static bool fuzz_lists_equal(const aqi_list *a, const aqi_list *b) {
    return a->count == b->count && a->encoded_bytes == b->encoded_bytes &&
           (a->encoded_bytes == 0 || memcmp(a->items, b->items, a->encoded_bytes) == 0);
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
        return memcmp(a, b, 8) == 0;
    case AQI_KIND_BYTES:
        return fuzz_slices_equal((const aqi_slice *)a, (const aqi_slice *)b);
    case AQI_KIND_STRUCT:
        return fuzz_thrift_equal(f->type, a, b);
    default:
        return fuzz_lists_equal((const aqi_list *)a, (const aqi_list *)b);
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

/* Big enough for any of the structs. */
typedef union fuzz_thrift_value {
    aqi_file_meta file;
    aqi_page_header page;
    aqi_row_group group;
    aqi_column_chunk chunk;
    aqi_schema_element element;
    aqi_column_chunk_out chunk_out;
} fuzz_thrift_value;

/* Reads a struct; on success *in is what follows it. */
static aq_status fuzz_thrift_parse(const aqi_thrift_struct *type, fuzz_input *in,
                                   fuzz_thrift_value *value) {
    aqi_thrift_reader r;
    aq_error err;
    aq_status status;
    FUZZ_CHECK(type->size <= sizeof *value);
    aqi_error_clear(&err);
    r.in = aqi_cursor_make(in->data, in->size, 0);
    r.err = &err;
    status = fuzz_status(aqi_thrift_read(&r, type, value), &err);
    FUZZ_CHECK(r.in.p >= in->data && aqi_remaining(&r.in) <= in->size);
    if (status == AQ_OK) fuzz_take(in, in->size - aqi_remaining(&r.in));
    return status;
}

/* To skip a struct is to pass over the same bytes as to read it. */
static void fuzz_thrift_skip(fuzz_input in, const fuzz_input *after) {
    aqi_thrift_reader r;
    aq_error err;
    aq_status status;
    aqi_error_clear(&err);
    r.in = aqi_cursor_make(in.data, in.size, 0);
    r.err = &err;
    status = aqi_thrift_skip(&r, AQI_T_STRUCT, 1);
    FUZZ_CHECK_ERR(status == AQ_OK || status == AQ_E_LIMIT, &err);
    FUZZ_CHECK(status != AQ_OK || aqi_remaining(&r.in) == after->size);
}

static void fuzz_thrift_again(const aqi_thrift_struct *type, const void *value,
                              const aq_allocator *a);

/* The elements of a list were checked when it was read: each of them reads, and together
 * they are the list. */
static void fuzz_thrift_elements(const aqi_thrift_struct *type, const aqi_list *list,
                                 const aq_allocator *a) {
    fuzz_input in;
    fuzz_thrift_value value;
    uint32_t i;
    in.data = (const uint8_t *)list->items;
    in.size = list->encoded_bytes;
    for (i = 0; i < list->count; i++) {
        FUZZ_CHECK(fuzz_thrift_parse(type, &in, &value) == AQ_OK);
        if (i < 20) fuzz_thrift_again(type, &value, a);
    }
    FUZZ_CHECK(in.size == 0);
}

/* Writes a struct, reads it back; then what is inside of it. */
static void fuzz_thrift_again(const aqi_thrift_struct *type, const void *value,
                              const aq_allocator *a) {
    fuzz_thrift_value second;
    aqi_thrift_writer w;
    fuzz_input in;
    uint32_t has;
    size_t k;
    memset(&w, 0, sizeof w);
    w.allocator = a;
    aqi_thrift_write(&w, type, value);
    FUZZ_CHECK(!w.failed);
    in.data = w.out.data;
    in.size = w.out.size;
    FUZZ_CHECK(fuzz_thrift_parse(type, &in, &second) == AQ_OK);
    FUZZ_CHECK(in.size == 0);
    FUZZ_CHECK(fuzz_thrift_equal(type, value, &second));
    memcpy(&has, value, sizeof has);
    for (k = 0; k < type->num_fields; k++) {
        const aqi_thrift_field *f = &type->fields[k];
        const void *member = (const uint8_t *)value + f->offset;
        if ((has >> k & 1u) == 0) continue;
        if (f->kind == AQI_KIND_STRUCT) fuzz_thrift_again(f->type, member, a);
        if (f->kind == AQI_KIND_LIST_STRUCT)
            fuzz_thrift_elements(f->type, (const aqi_list *)member, a);
    }
    aqi_builder_free(a, &w.out);
}

static void fuzz_thrift(const uint8_t *data, size_t size) {
    fuzz_input in = {data, size}, after;
    const aqi_thrift_struct *type =
        fuzz_thrift_types[fuzz_below(&in, AQI_COUNT(fuzz_thrift_types))];
    fuzz_thrift_value value;
    fuzz_memory memory;
    fuzz_memory_init(&memory, (size_t)16 << 20, (size_t)16 << 20);
    fuzz_result = AQ_OK;
    after = in;
    if (fuzz_thrift_parse(type, &after, &value) == AQ_OK) {
        fuzz_thrift_skip(in, &after);
        fuzz_thrift_again(type, &value, &memory.hooks);
    }
    fuzz_memory_check(&memory);
}
