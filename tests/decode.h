/* decode.h - lists that the Thrift reader has left as they are encoded, as arrays in C. For
 * tests that include the implementation, in C or C++. */
#ifndef TEST_DECODE_H
#define TEST_DECODE_H

/* The lists of a struct that was read, at all depths; arrays go to `arena`. */
static void decode_lists(const aqi_thrift_struct *type, void *object, aqi_arena *arena);

/* The list was checked when it was read: only memory can be missing. */
static void decode_list(const aqi_thrift_field *f, aqi_list *list, aqi_arena *arena) {
    const size_t size = aqi_thrift_element_size(f);
    aqi_thrift_reader r;
    void *items;
    uint8_t *at;
    r.err = NULL;
    r.in = aqi_cursor_make((const uint8_t *)list->items, list->encoded_bytes, 0);
    if (aqi_arena_alloc(arena, list->count * size, &items, NULL) != AQ_OK) abort();
    at = (uint8_t *)items;
    for (uint32_t i = 0; i < list->count; i++, at += size) {
        bool read = true;
        if (f->type != NULL) {
            read = aqi_thrift_read(&r, f->type, at) == AQ_OK;
            decode_lists(f->type, at, arena);
        } else if (f->kind == AQI_KIND_LIST_BYTES) {
            read = aqi_read_slice(&r.in, (aqi_slice *)(void *)at);
        } else {
            int64_t number = 0;
            read = aqi_read_zigzag(&r.in, &number);
            *(int32_t *)(void *)at = (int32_t)number;
        }
        if (!read) abort();
    }
    if (aqi_remaining(&r.in) != 0) abort();
    list->items = items;
    list->encoded_bytes = 0;
}

static void decode_lists(const aqi_thrift_struct *type, void *object, aqi_arena *arena) {
    uint32_t has;
    memcpy(&has, object, sizeof has);
    for (size_t k = 0; k < type->num_fields; k++) {
        const aqi_thrift_field *f = &type->fields[k];
        void *at = (uint8_t *)object + f->offset;
        if ((has >> k & 1u) == 0) continue;
        if (f->kind == AQI_KIND_STRUCT) {
            decode_lists(f->type, at, arena);
        } else if ((f->kind & 15) == AQI_T_LIST) {
            decode_list(f, (aqi_list *)at, arena);
        }
    }
}

#endif
