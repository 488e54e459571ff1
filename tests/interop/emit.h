/* What both halves of make_models share: a pseudo-random sequence, and growing text that
 * becomes the JSON beside each file. Values in it have the canonical form of readers.mjs. */
#ifndef AQ_INTEROP_EMIT_H
#define AQ_INTEROP_EMIT_H

#include "../../arrowquant.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Write to `dir`: tables of every physical and logical type; a table of nested groups. */
void write_tables(const char *dir);
void write_nested(const char *dir);
/* Writes to the file `path` the table that stdin describes. */
void write_described(const char *path);

static inline void fail(const char *what, const char *why) {
    fprintf(stderr, "make_models: %s: %s\n", what, why);
    exit(2);
}

static inline void check(const char *what, aq_status status, const aq_error *err) {
    if (status != AQ_OK) {
        fail(what, err->message);
    }
}

static inline void *need(void *ptr) {
    if (ptr == NULL) {
        fail("memory", "out of memory");
    }
    return ptr;
}

/* splitmix64 */
static inline uint64_t random_u64(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

typedef struct text {
    char *data;
    size_t size, room;
} text;

static inline char *text_room(text *t, size_t more) {
    if (t->room - t->size < more) {
        t->room = (t->room + more) * 2;
        t->data = (char *)need(realloc(t->data, t->room));
    }
    return t->data + t->size;
}

static inline void text_add(text *t, const char *format, ...) {
    va_list args;
    char *at = text_room(t, 256);
    va_start(args, format);
    t->size += (size_t)vsnprintf(at, 256, format, args);
    va_end(args);
}

/* A JSON string of `size` bytes of UTF-8. */
static inline void text_string(text *t, const void *bytes, size_t size) {
    const unsigned char *at = (const unsigned char *)bytes;
    text_add(t, "\"");
    for (size_t i = 0; i < size; i++) {
        const bool plain = at[i] >= 0x20 && at[i] != '"' && at[i] != '\\';
        text_add(t, plain ? "%c" : "\\u%04x", at[i]);
    }
    text_add(t, "\"");
}

static inline void text_hex(text *t, const void *bytes, size_t size) {
    static const char digits[] = "0123456789abcdef";
    const unsigned char *from = (const unsigned char *)bytes;
    char *to = text_room(t, 2 * size + 2);
    *to++ = '"';
    for (size_t i = 0; i < size; i++) {
        *to++ = digits[from[i] >> 4];
        *to++ = digits[from[i] & 15];
    }
    *to = '"';
    t->size += 2 * size + 2;
}

static inline void text_f32(text *t, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    text_add(t, "\"%08x\"", value == value ? (unsigned)bits : 0x7fc00000u);
}

static inline void text_f64(text *t, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    text_add(t, "\"%016llx\"",
             value == value ? (unsigned long long)bits : 0x7ff8000000000000u);
}

static inline void text_u64(text *t, uint64_t value) {
    text_add(t, "\"%llu\"", (unsigned long long)value);
}

static inline void text_i64(text *t, int64_t value) {
    text_add(t, "\"%lld\"", (long long)value);
}

/* One column of the expectation: its type as JSON, and its values, comma-separated. */
typedef struct expected_column {
    char name[64];
    char type[128];
    text values;
} expected_column;

/* The place for the next value of a column. */
static inline text *next_value(expected_column *column) {
    if (column->values.size != 0) {
        text_add(&column->values, ",");
    }
    return &column->values;
}

/* Writes dir/name.json: {"NAME": {"type": TYPE, "values": [...]}, ...}; frees the values. */
static inline void write_expected(const char *dir, const char *name,
                                  expected_column *columns, size_t count) {
    char path[1024];
    FILE *file;
    snprintf(path, sizeof path, "%s/%s.json", dir, name);
    file = fopen(path, "wb");
    if (file == NULL) {
        fail(path, "cannot write");
    }
    for (size_t i = 0; i < count; i++) {
        fprintf(file, "%s\"%s\": {\"type\": %s, \"values\": [", i == 0 ? "{" : ",\n",
                columns[i].name, columns[i].type);
        if (columns[i].values.size != 0) {
            fwrite(columns[i].values.data, 1, columns[i].values.size, file);
        }
        fprintf(file, "]}");
        free(columns[i].values.data);
    }
    fprintf(file, "}\n");
    if (fclose(file) != 0) {
        fail(path, "cannot write");
    }
}

#endif /* AQ_INTEROP_EMIT_H */
