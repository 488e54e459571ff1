/* The tables of arrowquant.h: the C structs that they describe to and from trees. */
#ifndef TESTS_THRIFT_TABLES_H
#define TESTS_THRIFT_TABLES_H

#include "value.h"

#define AQ_STATIC
#define ARROWQUANT_IMPLEMENTATION
#include "arrowquant.h"

#include "../decode.h"

#include <algorithm>

/* What libthrift calls a type of the wire. */
inline TType type_of(int wire) {
    static const TType types[] = {T_STOP, T_BOOL, T_BOOL,   T_BYTE,   T_I16,
                                  T_I32,  T_I64,  T_DOUBLE, T_STRING, T_LIST,
                                  T_SET,  T_MAP,  T_STRUCT};
    return types[wire];
}

/* Of a field, and of the elements of a list. */
inline TType type_of(const aqi_thrift_field &f) { return type_of(f.kind & 15); }
inline TType element_of(const aqi_thrift_field &f) { return type_of(f.kind >> 4); }

inline const aqi_thrift_field *field_of(const aqi_thrift_struct *table, int16_t id) {
    const aqi_thrift_field *end = table->fields + table->num_fields;
    const aqi_thrift_field *found = std::find_if(
        table->fields, end, [id](const aqi_thrift_field &f) { return f.id == id; });
    return found == end ? NULL : found;
}

/* The part of a tree that the tables know. */
inline Value known(const Value &v, const aqi_thrift_struct *table) {
    Value out = v;
    if (table == NULL) return out; // a list of something other than structs
    out.children.clear();
    for (const Value &child : v.children) {
        const aqi_thrift_field *f = field_of(table, child.id);
        if (v.type == T_LIST) {
            out.children.push_back(known(child, table));
        } else if (f != NULL) {
            bool nested = child.type == T_STRUCT || child.type == T_LIST;
            out.children.push_back(nested ? known(child, f->type) : child);
        }
    }
    return out;
}

/*==========================================================================
 * Memory that lasts for one tree
 *========================================================================*/

class Memory {
  public:
    Memory() {
        aqi_allocator_resolve(NULL, &allocator, NULL);
        aqi_arena_init(&arena, &allocator);
    }
    ~Memory() { aqi_arena_deinit(&arena); }
    Memory(const Memory &) = delete;
    Memory &operator=(const Memory &) = delete;

    void *zeroed(size_t bytes) {
        void *p;
        if (aqi_arena_alloc(&arena, bytes, &p, NULL) != AQ_OK) throw std::bad_alloc();
        return p;
    }

    aq_allocator allocator;
    aqi_arena arena;
};

/*==========================================================================
 * Reading and writing of the header
 *========================================================================*/

inline std::string write_struct(const Memory &memory, const aqi_thrift_struct *table,
                                const void *src) {
    aqi_thrift_writer w;
    memset(&w, 0, sizeof w);
    w.allocator = &memory.allocator;
    aqi_thrift_write(&w, table, src);
    std::string bytes(reinterpret_cast<char *>(w.out.data), w.out.size);
    aqi_builder_free(w.allocator, &w.out);
    if (w.failed) throw std::bad_alloc();
    return bytes;
}

/* The struct that stands at the start of `bytes`, and how many bytes it takes. Throws the
 * error's message. */
inline void *read_struct(Memory &memory, const aqi_thrift_struct *table,
                         const std::string &bytes, size_t *out_used) {
    aqi_thrift_reader r;
    aq_error err;
    void *dst = memory.zeroed(table->size);
    r.in =
        aqi_cursor_make(reinterpret_cast<const uint8_t *>(bytes.data()), bytes.size(), 0);
    r.err = &err;
    if (aqi_thrift_read(&r, table, dst) != AQ_OK) throw std::runtime_error(err.message);
    decode_lists(table, dst, &memory.arena);
    *out_used = static_cast<size_t>(aqi_offset(&r.in));
    return dst;
}

/*==========================================================================
 * C struct to tree
 *========================================================================*/

inline Value tree_of(const aqi_thrift_struct *table, const void *src, int16_t id = 0);

/* A field's value, or an element of its list. */
inline Value tree_of_value(const aqi_thrift_field &f, TType type, int16_t id,
                           const void *at) {
    Value v;
    if (type == T_STRUCT) return tree_of(f.type, at, id);
    v.type = type;
    v.id = id;
    switch (type) {
    case T_BOOL:
        v.number = *static_cast<const bool *>(at);
        break;
    case T_BYTE:
        v.number = *static_cast<const int8_t *>(at);
        break;
    case T_I16:
        v.number = *static_cast<const int16_t *>(at);
        break;
    case T_I32:
        v.number = *static_cast<const int32_t *>(at);
        break;
    case T_I64:
        v.number = *static_cast<const int64_t *>(at);
        break;
    case T_STRING: {
        auto *slice = static_cast<const aqi_slice *>(at);
        v.bytes.assign(reinterpret_cast<const char *>(slice->data), slice->size);
        break;
    }
    default: {
        auto *list = static_cast<const aqi_list *>(at);
        auto *items = static_cast<const uint8_t *>(list->items);
        v.element = element_of(f);
        for (uint32_t i = 0; i < list->count; i++)
            v.children.push_back(
                tree_of_value(f, v.element, 0, items + i * aqi_thrift_element_size(&f)));
    }
    }
    return v;
}

inline Value tree_of(const aqi_thrift_struct *table, const void *src, int16_t id) {
    uint32_t has;
    Value v;
    v.type = T_STRUCT;
    v.id = id;
    memcpy(&has, src, sizeof has);
    for (size_t k = 0; k < table->num_fields; k++) {
        const aqi_thrift_field &f = table->fields[k];
        const uint8_t *at = static_cast<const uint8_t *>(src) + f.offset;
        if (has >> k & 1)
            v.children.push_back(
                tree_of_value(f, type_of(f), static_cast<int16_t>(f.id), at));
    }
    return v;
}

/*==========================================================================
 * Tree to C struct, which points to the bytes of the tree
 *========================================================================*/

inline void fill_value(Memory &memory, const aqi_thrift_field &f, const Value &v,
                       void *at);

/* Every list of structs with an odd length is given as encoded bytes, as the writer of
 * Parquet files gives those that it has collected. */
inline void fill_list(Memory &memory, const aqi_thrift_field &f, const Value &v,
                      aqi_list *list) {
    size_t size = aqi_thrift_element_size(&f);
    uint8_t *items = static_cast<uint8_t *>(memory.zeroed(v.children.size() * size));
    std::string encoded;
    list->items = items;
    list->count = static_cast<uint32_t>(v.children.size());
    for (size_t i = 0; i < v.children.size(); i++)
        fill_value(memory, f, v.children[i], items + i * size);
    if (v.element != T_STRUCT || list->count % 2 == 0) return;
    for (size_t i = 0; i < v.children.size(); i++)
        encoded += write_struct(memory, f.type, items + i * size);
    list->encoded_bytes = encoded.size();
    list->items = memcpy(memory.zeroed(encoded.size()), encoded.data(), encoded.size());
}

inline void fill(Memory &memory, const aqi_thrift_struct *table, const Value &v,
                 void *dst) {
    uint32_t has = 0;
    for (const Value &child : v.children) {
        const aqi_thrift_field *f = field_of(table, child.id);
        fill_value(memory, *f, child, static_cast<uint8_t *>(dst) + f->offset);
        has |= 1u << (f - table->fields);
    }
    memcpy(dst, &has, sizeof has);
}

inline void fill_value(Memory &memory, const aqi_thrift_field &f, const Value &v,
                       void *at) {
    switch (v.type) {
    case T_BOOL:
        *static_cast<bool *>(at) = v.number != 0;
        break;
    case T_BYTE:
        *static_cast<int8_t *>(at) = static_cast<int8_t>(v.number);
        break;
    case T_I16:
        *static_cast<int16_t *>(at) = static_cast<int16_t>(v.number);
        break;
    case T_I32:
        *static_cast<int32_t *>(at) = static_cast<int32_t>(v.number);
        break;
    case T_I64:
        *static_cast<int64_t *>(at) = v.number;
        break;
    case T_STRING: {
        auto *slice = static_cast<aqi_slice *>(at);
        slice->data = reinterpret_cast<const uint8_t *>(v.bytes.data());
        slice->size = static_cast<uint32_t>(v.bytes.size());
        break;
    }
    case T_STRUCT:
        fill(memory, f.type, v, at);
        break;
    default:
        fill_list(memory, f, v, static_cast<aqi_list *>(at));
    }
}

#endif
