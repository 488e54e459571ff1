/* arrow_build.h - makes arrays and streams as other producers of the Arrow C Data
 * Interface do: any format, slices at every level, validity, memory that begins at any
 * address and ends where it must, and counts of what is not released yet.
 *
 *   arrow_schema_make, arrow_array_make      one struct, with room for children
 *   arrow_buffer, arrow_validity             its buffers, copied
 *   arrow_table                              a table of layers in any form
 *   arrow_stream_make                        a stream of such tables
 *
 * A wrong use (released twice) ends the program. Needs no test framework. */
#ifndef TEST_ARROW_BUILD_H
#define TEST_ARROW_BUILD_H

#include "support.h"

#include <math.h>

/* Structs that have been made and not released. Atomic. */
static size_t arrow_live __attribute__((unused));

/* What a struct owns. */
typedef struct arrow_memory {
    void *blocks[32];
    size_t num_blocks;
} arrow_memory;

SUPPORT void *arrow_alloc(arrow_memory *m, size_t bytes, size_t misalign) {
    uint8_t *p;
    if (m->num_blocks == COUNT_OF(m->blocks)) abort();
    if (posix_memalign((void **)&p, 64, misalign + bytes + (misalign + bytes == 0)) != 0)
        abort();
    m->blocks[m->num_blocks++] = p;
    return p + misalign;
}

SUPPORT arrow_memory *arrow_memory_make(void) {
    arrow_memory *m = (arrow_memory *)calloc(1, sizeof *m);
    if (m == NULL) abort();
    __atomic_add_fetch(&arrow_live, 1, __ATOMIC_RELAXED);
    return m;
}

SUPPORT void arrow_memory_free(arrow_memory *m) {
    for (size_t i = 0; i < m->num_blocks; i++)
        free(m->blocks[i]);
    free(m);
    if (__atomic_fetch_sub(&arrow_live, 1, __ATOMIC_RELAXED) == 0) abort();
}

/* ---- schemas ---- */

SUPPORT void arrow_schema_release(struct ArrowSchema *s) {
    if (s->release == NULL) abort();
    for (int64_t i = 0; i < s->n_children; i++) {
        if (s->children[i]->release != NULL) s->children[i]->release(s->children[i]);
    }
    if (s->dictionary != NULL && s->dictionary->release != NULL)
        s->dictionary->release(s->dictionary);
    arrow_memory_free((arrow_memory *)s->private_data);
    s->release = NULL;
}

SUPPORT char *arrow_text(arrow_memory *m, const char *text) {
    return (char *)memcpy(arrow_alloc(m, strlen(text) + 1, 0), text, strlen(text) + 1);
}

/* Children are to be made by the caller. */
SUPPORT void arrow_schema_make(struct ArrowSchema *s, const char *format,
                               const char *name, size_t num_children) {
    arrow_memory *m = arrow_memory_make();
    memset(s, 0, sizeof *s);
    s->format = arrow_text(m, format);
    s->name = arrow_text(m, name);
    s->flags = ARROW_FLAG_NULLABLE;
    s->n_children = (int64_t)num_children;
    if (num_children > 0)
        s->children =
            (struct ArrowSchema **)arrow_alloc(m, num_children * sizeof *s->children, 0);
    for (size_t i = 0; i < num_children; i++)
        s->children[i] =
            (struct ArrowSchema *)memset(arrow_alloc(m, sizeof *s, 0), 0, sizeof *s);
    s->release = arrow_schema_release;
    s->private_data = m;
}

/* Room for a dictionary, to be made by the caller. */
SUPPORT struct ArrowSchema *arrow_schema_dictionary(struct ArrowSchema *s) {
    s->dictionary =
        (struct ArrowSchema *)arrow_alloc((arrow_memory *)s->private_data, sizeof *s, 0);
    return s->dictionary;
}

/* Pairs of texts: key, value, key, value, ... */
SUPPORT void arrow_schema_metadata(struct ArrowSchema *s, const char *const *texts,
                                   int32_t num_pairs) {
    size_t bytes = sizeof num_pairs;
    uint8_t *p;
    for (int32_t i = 0; i < 2 * num_pairs; i++)
        bytes += sizeof(int32_t) + strlen(texts[i]);
    p = (uint8_t *)arrow_alloc((arrow_memory *)s->private_data, bytes, 0);
    s->metadata = (const char *)p;
    memcpy(p, &num_pairs, sizeof num_pairs);
    p += sizeof num_pairs;
    for (int32_t i = 0; i < 2 * num_pairs; i++) {
        int32_t n = (int32_t)strlen(texts[i]);
        memcpy(p, &n, sizeof n);
        memcpy(p + sizeof n, texts[i], (size_t)n);
        p += sizeof n + (size_t)n;
    }
}

/* ---- arrays ---- */

SUPPORT void arrow_array_release(struct ArrowArray *a) {
    if (a->release == NULL) abort();
    for (int64_t i = 0; i < a->n_children; i++) {
        if (a->children[i]->release != NULL) a->children[i]->release(a->children[i]);
    }
    if (a->dictionary != NULL && a->dictionary->release != NULL)
        a->dictionary->release(a->dictionary);
    arrow_memory_free((arrow_memory *)a->private_data);
    a->release = NULL;
}

/* Buffers are NULL, children are to be made by the caller. */
SUPPORT void arrow_array_make(struct ArrowArray *a, size_t length, size_t num_buffers,
                              size_t num_children) {
    arrow_memory *m = arrow_memory_make();
    memset(a, 0, sizeof *a);
    a->length = (int64_t)length;
    a->n_buffers = (int64_t)num_buffers;
    a->n_children = (int64_t)num_children;
    a->buffers = (const void **)memset(arrow_alloc(m, num_buffers * sizeof(void *), 0), 0,
                                       num_buffers * sizeof(void *));
    if (num_children > 0)
        a->children =
            (struct ArrowArray **)arrow_alloc(m, num_children * sizeof *a->children, 0);
    for (size_t i = 0; i < num_children; i++)
        a->children[i] =
            (struct ArrowArray *)memset(arrow_alloc(m, sizeof *a, 0), 0, sizeof *a);
    a->release = arrow_array_release;
    a->private_data = m;
}

SUPPORT struct ArrowArray *arrow_array_dictionary(struct ArrowArray *a) {
    a->dictionary =
        (struct ArrowArray *)arrow_alloc((arrow_memory *)a->private_data, sizeof *a, 0);
    return a->dictionary;
}

/* Room for a buffer, `misalign` bytes after a multiple of 64; to be filled. */
SUPPORT void *arrow_buffer_room(struct ArrowArray *a, size_t index, size_t bytes,
                                size_t misalign) {
    void *p = arrow_alloc((arrow_memory *)a->private_data, bytes, misalign);
    a->buffers[index] = p;
    return p;
}

SUPPORT void *arrow_buffer(struct ArrowArray *a, size_t index, const void *data,
                           size_t bytes, size_t misalign) {
    void *p = arrow_buffer_room(a, index, bytes, misalign);
    if (bytes > 0) memcpy(p, data, bytes);
    return p;
}

/* A bitmap of the `places` bits that a->offset + a->length needs; null_count is set. */
SUPPORT void arrow_validity(struct ArrowArray *a, const bool *valid, size_t misalign) {
    size_t places = (size_t)(a->offset + a->length);
    uint8_t *p = (uint8_t *)arrow_buffer_room(a, 0, (places + 7) / 8, misalign);
    memset(p, 0, (places + 7) / 8);
    a->null_count = 0;
    for (size_t i = 0; i < places; i++) {
        if (valid[i]) p[i / 8] = (uint8_t)(p[i / 8] | 1u << i % 8);
        if (!valid[i] && i >= (size_t)a->offset) a->null_count++;
    }
}

/* ---- columns ---- */

/* Stores an integer of `bytes` bytes at place i. */
SUPPORT void arrow_put_int(void *dst, size_t i, size_t bytes, int64_t value) {
    uint8_t *p = (uint8_t *)dst + i * bytes;
    int8_t b = (int8_t)value;
    int16_t s = (int16_t)value;
    int32_t w = (int32_t)value;
    if (bytes == 1) memcpy(p, &b, 1);
    if (bytes == 2) memcpy(p, &s, 2);
    if (bytes == 4) memcpy(p, &w, 4);
    if (bytes == 8) memcpy(p, &value, 8);
}

SUPPORT size_t arrow_int_bytes(char format) {
    return strchr("cC", format)   ? 1
           : strchr("sS", format) ? 2
           : strchr("iI", format) ? 4
                                  : 8;
}

/* Where an array begins and whether its memory is aligned. */
typedef struct arrow_slice {
    size_t offset;   /* places before the first */
    size_t misalign; /* bytes                   */
    bool bitmap;     /* also where nothing is null */
} arrow_slice;

/* u U vu z Z vz: `n` places, offset included; NULL = null. */
SUPPORT void arrow_bytes_array(struct ArrowArray *a, const char *format,
                               const char *const *texts, size_t n, arrow_slice slice) {
    bool *valid = (bool *)malloc(n + 1), nulls = slice.bitmap;
    const bool view = format[0] == 'v';
    const size_t width = format[0] == 'U' || format[0] == 'Z' ? 8 : 4;
    size_t total = 0, at = 0;
    uint8_t *offsets, *bytes;
    for (size_t i = 0; i < n; i++) {
        valid[i] = texts[i] != NULL;
        nulls = nulls || !valid[i];
        if (valid[i] && (!view || strlen(texts[i]) > 12)) total += strlen(texts[i]);
    }
    arrow_array_make(a, n - slice.offset, view ? 5 : 3, 0);
    a->offset = (int64_t)slice.offset;
    if (nulls) arrow_validity(a, valid, slice.misalign);
    free(valid);
    if (view) { /* an empty buffer first, then the bytes, then their sizes */
        int64_t sizes[2] = {0, (int64_t)total};
        uint8_t *views = (uint8_t *)arrow_buffer_room(a, 1, n * 16, slice.misalign);
        arrow_buffer(a, 4, sizes, sizeof sizes, 0);
        arrow_buffer_room(a, 2, 0, 0);
        bytes = (uint8_t *)arrow_buffer_room(a, 3, total, slice.misalign);
        memset(views, 0, n * 16);
        for (size_t i = 0; i < n; i++) {
            size_t length = texts[i] == NULL ? 0 : strlen(texts[i]);
            arrow_put_int(views + i * 16, 0, 4, (int64_t)length);
            if (length <= 12) {
                if (length > 0) memcpy(views + i * 16 + 4, texts[i], length);
                continue;
            }
            memcpy(views + i * 16 + 4, texts[i], 4);
            arrow_put_int(views + i * 16, 2, 4, 1);
            arrow_put_int(views + i * 16, 3, 4, (int64_t)at);
            memcpy(bytes + at, texts[i], length);
            at += length;
        }
        return;
    }
    offsets = (uint8_t *)arrow_buffer_room(a, 1, (n + 1) * width, slice.misalign);
    bytes = (uint8_t *)arrow_buffer_room(a, 2, total, slice.misalign);
    for (size_t i = 0; i < n; i++) {
        size_t length = texts[i] == NULL ? 0 : strlen(texts[i]);
        arrow_put_int(offsets, i, width, (int64_t)at);
        if (length > 0) memcpy(bytes + at, texts[i], length);
        at += length;
    }
    arrow_put_int(offsets, n, width, (int64_t)at);
}

/* The places of lists in their child, for +l +L +vl +vL and +w:N (then all of N values).
 * counts[i] < 0 = null. Lists of views lie last to first with a gap before each. Fills
 * first[i], and returns how many values the child must have. */
SUPPORT size_t arrow_list_array(struct ArrowArray *a, const char *format,
                                const int64_t *counts, size_t n, int64_t *first,
                                arrow_slice slice) {
    const bool fixed = format[1] == 'w', view = format[1] == 'v';
    const size_t width = format[1 + view] == 'L' ? 8 : 4;
    const int64_t size = fixed ? strtoll(format + 3, NULL, 10) : 0;
    bool *valid = (bool *)malloc(n + 1), nulls = slice.bitmap;
    int64_t at = fixed ? 0 : 3; /* values that belong to no list */
    uint8_t *offsets = NULL, *sizes = NULL;
    for (size_t i = 0; i < n; i++) {
        valid[i] = counts[i] >= 0;
        nulls = nulls || !valid[i];
    }
    arrow_array_make(a, n - slice.offset, fixed ? 1 : view ? 3 : 2, 1);
    a->offset = (int64_t)slice.offset;
    if (nulls) arrow_validity(a, valid, slice.misalign);
    free(valid);
    if (!fixed)
        offsets = (uint8_t *)arrow_buffer_room(a, 1, (n + !view) * width, slice.misalign);
    if (view) sizes = (uint8_t *)arrow_buffer_room(a, 2, n * width, slice.misalign);
    for (size_t k = 0; k < n; k++) {
        size_t i = view ? n - 1 - k : k;
        int64_t count = fixed ? size : counts[i] < 0 ? 0 : counts[i];
        if (view) at += 2;
        first[i] = at;
        if (!fixed) arrow_put_int(offsets, i, width, at);
        if (view) arrow_put_int(sizes, i, width, count);
        at += count;
    }
    if (!fixed && !view) arrow_put_int(offsets, n, width, at);
    return (size_t)at;
}

/* A dictionary of texts, with unused entries, under integers of `index` format. */
SUPPORT void arrow_dictionary_array(struct ArrowArray *a, char index, const char *format,
                                    const char *const *texts, size_t n,
                                    arrow_slice slice) {
    const char **entries = (const char **)malloc((2 * n + 2) * sizeof *entries);
    arrow_slice inner = {2, slice.misalign, false};
    bool *valid = (bool *)malloc(n + 1);
    uint8_t *indices;
    entries[0] = entries[1] = "before the dictionary";
    for (size_t i = 0; i < n; i++) { /* entry n - 1 - i, and one that nobody uses */
        entries[2 + 2 * (n - 1 - i)] = texts[i] != NULL ? texts[i] : "null";
        entries[3 + 2 * (n - 1 - i)] = "unused";
        valid[i] = texts[i] != NULL;
    }
    arrow_array_make(a, n - slice.offset, 2, 0);
    a->offset = (int64_t)slice.offset;
    arrow_validity(a, valid, slice.misalign);
    indices =
        (uint8_t *)arrow_buffer_room(a, 1, n * arrow_int_bytes(index), slice.misalign);
    for (size_t i = 0; i < n; i++)
        arrow_put_int(indices, i, arrow_int_bytes(index),
                      valid[i] ? (int64_t)(2 * (n - 1 - i)) : 77);
    arrow_bytes_array(arrow_array_dictionary(a), format, entries, 2 * n + 2, inner);
    free(valid);
    free(entries);
}

/* ---- a table of layers ---- */

typedef struct arrow_layer {
    const char *name;     /* NULL = null                                   */
    const float *values;  /* NULL = null weights                           */
    size_t count;         /* of values                                     */
    size_t null_at;       /* a value that is null, from 1 on; 0 = none     */
    const int64_t *shape; /* NULL = null shape                             */
    size_t dims;
    size_t null_dim; /* a dimension that is null, from 1 on; 0 = none */
} arrow_layer;

/* How the producer has them. {0} = utf8, list<float32>, no shape. */
typedef struct arrow_form {
    const char *names;    /* "u" "U" "vu"                                       */
    char index;           /* names through a dictionary of this index; 0 = none */
    const char *weights;  /* "+l" "+L" "+vl" "+vL" "+w:N"                       */
    char item;            /* 'f' 'e' 'g'                                        */
    const char *shapes;   /* list format of a shape column; NULL = none         */
    char dim;             /* 'l' 'i' 'L' ...                                    */
    size_t table_offset;  /* rows before the first, in the table                */
    size_t column_offset; /* in every column                                    */
    size_t item_offset;   /* in the children of lists                           */
    size_t rows_after;
    size_t misalign;
    bool bitmaps;            /* also where nothing is null                         */
    bool unknown_null_count; /* -1 everywhere                                      */
    bool reversed;           /* order of the columns, with others between them     */
    size_t null_row;         /* a row that is null as a whole, from 1 on; 0 = none */
} arrow_form;

#define ARROW_MOST_ROWS 1100

/* The layer of a place in a column; what is not of the table is a trap. */
SUPPORT arrow_layer arrow_layer_at(const arrow_form *f, const arrow_layer *layers,
                                   size_t n, size_t place) {
    static const float trap_values[1] = {(float)NAN};
    static const int64_t trap_shape[3] = {7, 7, 7};
    arrow_layer trap;
    size_t before = f->column_offset + f->table_offset;
    memset(&trap, 0, sizeof trap);
    trap.name = place % 2 != 0 ? "a row that is not of the table" : NULL;
    trap.values = trap_values;
    trap.count = 1;
    trap.shape = trap_shape;
    trap.dims = 3;
    return place >= before && place < before + n ? layers[place - before] : trap;
}

/* A list's child with values by `put`, all others traps. */
SUPPORT void *arrow_items_array(struct ArrowArray *a, size_t count, size_t bytes,
                                const arrow_form *f, bool *valid) {
    uint8_t *p;
    arrow_array_make(a, count, 2, 0);
    a->offset = (int64_t)f->item_offset;
    for (size_t i = 0; i < f->item_offset; i++)
        valid[i] = false;
    arrow_validity(a, valid, f->misalign);
    if (a->null_count == 0 && !f->bitmaps) a->buffers[0] = NULL;
    p = (uint8_t *)arrow_buffer_room(a, 1, (f->item_offset + count) * bytes, f->misalign);
    memset(p, 0xff, (f->item_offset + count) * bytes); /* NaN */
    return p + f->item_offset * bytes;
}

/* Native order from the library's little-endian. */
SUPPORT void arrow_native(uint8_t *p, size_t count, size_t width) {
    const uint16_t one = 1;
    if (*(const uint8_t *)&one == 1) return;
    for (size_t i = 0; i < count; i++, p += width) {
        for (size_t k = 0; k < width / 2; k++) {
            uint8_t b = p[k];
            p[k] = p[width - 1 - k];
            p[width - 1 - k] = b;
        }
    }
}

SUPPORT void arrow_weights_column(struct ArrowArray *a, const arrow_form *f,
                                  const arrow_layer *layers, size_t n, size_t places) {
    static int64_t counts[ARROW_MOST_ROWS], first[ARROW_MOST_ROWS];
    arrow_slice slice = {f->column_offset, f->misalign, f->bitmaps};
    const char *format = f->weights != NULL ? f->weights : "+l";
    aq_dtype dtype = f->item == 'e' ? AQ_F16 : f->item == 'g' ? AQ_F64 : AQ_F32;
    size_t width = aq_dtype_bytes(dtype), total;
    bool *valid;
    uint8_t *values;
    for (size_t i = 0; i < places; i++) {
        arrow_layer l = arrow_layer_at(f, layers, n, i);
        counts[i] = l.values == NULL ? -1 : (int64_t)l.count;
    }
    total = arrow_list_array(a, format, counts, places, first, slice);
    valid = (bool *)malloc(f->item_offset + total + 1);
    memset(valid, true, f->item_offset + total);
    for (size_t i = 0; i < places; i++) {
        arrow_layer l = arrow_layer_at(f, layers, n, i);
        if (l.null_at > 0)
            valid[f->item_offset + (size_t)first[i] + l.null_at - 1] = false;
    }
    values = (uint8_t *)arrow_items_array(a->children[0], total, width, f, valid);
    free(valid);
    for (size_t i = 0; i < places; i++) {
        arrow_layer l = arrow_layer_at(f, layers, n, i);
        uint8_t *dst = values + (size_t)first[i] * width;
        if (l.values == NULL || l.count == 0) continue;
        if (aq_from_f32(l.values, l.count, dst, dtype, NULL) != AQ_OK) abort();
        arrow_native(dst, l.count, width);
    }
}

SUPPORT void arrow_shapes_column(struct ArrowArray *a, const arrow_form *f,
                                 const arrow_layer *layers, size_t n, size_t places) {
    static int64_t counts[ARROW_MOST_ROWS], first[ARROW_MOST_ROWS];
    arrow_slice slice = {f->column_offset, f->misalign, f->bitmaps};
    size_t width = arrow_int_bytes(f->dim), total;
    bool *valid;
    void *dims;
    for (size_t i = 0; i < places; i++) {
        arrow_layer l = arrow_layer_at(f, layers, n, i);
        counts[i] = l.shape == NULL ? -1 : (int64_t)l.dims;
    }
    total = arrow_list_array(a, f->shapes, counts, places, first, slice);
    valid = (bool *)malloc(f->item_offset + total + 1);
    memset(valid, true, f->item_offset + total);
    for (size_t i = 0; i < places; i++) {
        arrow_layer l = arrow_layer_at(f, layers, n, i);
        if (l.null_dim > 0)
            valid[f->item_offset + (size_t)first[i] + l.null_dim - 1] = false;
    }
    dims = arrow_items_array(a->children[0], total, width, f, valid);
    free(valid);
    for (size_t i = 0; i < places; i++) {
        arrow_layer l = arrow_layer_at(f, layers, n, i);
        for (size_t k = 0; l.shape != NULL && k < l.dims; k++)
            arrow_put_int(dims, (size_t)first[i] + k, width, l.shape[k]);
    }
}

SUPPORT void arrow_names_column(struct ArrowArray *a, const arrow_form *f,
                                const arrow_layer *layers, size_t n, size_t places) {
    static const char *texts[ARROW_MOST_ROWS];
    arrow_slice slice = {f->column_offset, f->misalign, f->bitmaps};
    const char *format = f->names != NULL ? f->names : "u";
    for (size_t i = 0; i < places; i++)
        texts[i] = arrow_layer_at(f, layers, n, i).name;
    if (f->index != 0) {
        arrow_dictionary_array(a, f->index, format, texts, places, slice);
    } else {
        arrow_bytes_array(a, format, texts, places, slice);
    }
}

/* A column of no interest, with nothing that could be read. */
SUPPORT void arrow_other_column(struct ArrowArray *a, const arrow_form *f,
                                size_t places) {
    arrow_array_make(a, places - f->column_offset, 0, 0);
    a->offset = (int64_t)f->column_offset;
    a->null_count = a->length;
}

SUPPORT void arrow_forget_null_counts(struct ArrowArray *a) {
    if (a->null_count == 0) a->null_count = -1;
    for (int64_t i = 0; i < a->n_children; i++)
        arrow_forget_null_counts(a->children[i]);
    if (a->dictionary != NULL) arrow_forget_null_counts(a->dictionary);
}

/* Reversed, every third column is another one. */
SUPPORT size_t arrow_table_columns(const arrow_form *f) {
    if (f->shapes != NULL) return f->reversed ? 5 : 3;
    return f->reversed ? 3 : 2;
}

/* The schema of such tables. */
SUPPORT void arrow_table_schema(const arrow_form *f, struct ArrowSchema *schema) {
    size_t columns = arrow_table_columns(f), k = 0;
    const char item[2] = {f->item != 0 ? f->item : 'f', '\0'};
    const char dim[2] = {f->dim != 0 ? f->dim : 'l', '\0'};
    const char index[2] = {f->index, '\0'}, *names = f->names != NULL ? f->names : "u";
    struct ArrowSchema *s;
    arrow_schema_make(schema, "+s", "", columns);
    for (size_t c = 0; c < columns; c++) {
        s = schema->children[f->reversed ? columns - 1 - c : c];
        if (f->reversed && c % 3 == 1) {
            arrow_schema_make(s, "n", "other", 0);
            continue;
        }
        if (k == 0) arrow_schema_make(s, f->index != 0 ? index : names, "layer_name", 0);
        if (k == 0 && f->index != 0)
            arrow_schema_make(arrow_schema_dictionary(s), names, "", 0);
        if (k == 1) {
            arrow_schema_make(s, f->weights != NULL ? f->weights : "+l", "weights", 1);
            arrow_schema_make(s->children[0], item, "any name", 0);
        }
        if (k == 2) {
            arrow_schema_make(s, f->shapes, "shape", 1);
            arrow_schema_make(s->children[0], dim, "element", 0);
        }
        k++;
    }
}

SUPPORT void arrow_table_array(const arrow_form *form, const arrow_layer *layers,
                               size_t n, struct ArrowArray *array) {
    arrow_form f = *form;
    size_t columns = arrow_table_columns(&f), k = 0;
    size_t places = f.column_offset + f.table_offset + n + f.rows_after;
    static bool valid[ARROW_MOST_ROWS];
    if (places > ARROW_MOST_ROWS) abort();
    if (f.dim == 0) f.dim = 'l';
    arrow_array_make(array, n, 1, columns);
    array->offset = (int64_t)f.table_offset;
    if (f.null_row > 0) {
        memset(valid, true, sizeof valid);
        valid[f.table_offset + f.null_row - 1] = false;
        arrow_validity(array, valid, f.misalign);
    }
    for (size_t c = 0; c < columns; c++) {
        struct ArrowArray *a = array->children[f.reversed ? columns - 1 - c : c];
        if (f.reversed && c % 3 == 1) {
            arrow_other_column(a, &f, places);
            continue;
        }
        if (k == 0) arrow_names_column(a, &f, layers, n, places);
        if (k == 1) arrow_weights_column(a, &f, layers, n, places);
        if (k == 2) arrow_shapes_column(a, &f, layers, n, places);
        k++;
    }
    if (f.unknown_null_count) arrow_forget_null_counts(array);
}

SUPPORT void arrow_table(const arrow_form *form, const arrow_layer *layers, size_t n,
                         struct ArrowSchema *schema, struct ArrowArray *array) {
    arrow_table_schema(form, schema);
    arrow_table_array(form, layers, n, array);
}

/* The column of that name; NULL when there is none. */
SUPPORT size_t arrow_column_index(const struct ArrowSchema *schema, const char *name) {
    for (int64_t i = 0; i < schema->n_children; i++) {
        if (strcmp(schema->children[i]->name, name) == 0) return (size_t)i;
    }
    return SIZE_MAX;
}

SUPPORT struct ArrowArray *arrow_column(const struct ArrowSchema *schema,
                                        const struct ArrowArray *array,
                                        const char *name) {
    size_t i = arrow_column_index(schema, name);
    return i == SIZE_MAX ? NULL : array->children[i];
}

/* ---- streams ---- */

/* Batches of `rows` layers each. A call fails where the message is set. */
typedef struct arrow_source {
    arrow_form form;
    const arrow_layer *layers;
    size_t num_layers, rows, next;
    const char *fail_schema; /* get_schema says this                             */
    const char *fail_next;   /* get_next says this at layer fail_at              */
    size_t fail_at;
    int fail_code;
    const char *last_error;
    size_t released; /* how often release was called                             */
    size_t live;     /* largest number of structs alive when a batch was asked for */
} arrow_source;

SUPPORT int arrow_source_schema(struct ArrowArrayStream *stream,
                                struct ArrowSchema *out) {
    arrow_source *s = (arrow_source *)stream->private_data;
    s->last_error = s->fail_schema;
    if (s->fail_schema != NULL) return s->fail_code;
    arrow_table_schema(&s->form, out);
    return 0;
}

SUPPORT int arrow_source_next(struct ArrowArrayStream *stream, struct ArrowArray *out) {
    arrow_source *s = (arrow_source *)stream->private_data;
    size_t n = s->num_layers - s->next, live = __atomic_load_n(&arrow_live, 0);
    if (live > s->live) s->live = live;
    if (s->fail_next != NULL && s->next >= s->fail_at) {
        s->last_error = s->fail_next;
        return s->fail_code;
    }
    memset(out, 0, sizeof *out);
    if (n == 0) return 0;
    if (n > s->rows) n = s->rows;
    arrow_table_array(&s->form, s->layers + s->next, n, out);
    s->next += n;
    return 0;
}

SUPPORT const char *arrow_source_error(struct ArrowArrayStream *stream) {
    return ((const arrow_source *)stream->private_data)->last_error;
}

SUPPORT void arrow_source_release(struct ArrowArrayStream *stream) {
    if (stream->release == NULL) abort();
    ((arrow_source *)stream->private_data)->released++;
    stream->release = NULL;
}

SUPPORT void arrow_stream_make(struct ArrowArrayStream *stream, arrow_source *source) {
    stream->get_schema = arrow_source_schema;
    stream->get_next = arrow_source_next;
    stream->get_last_error = arrow_source_error;
    stream->release = arrow_source_release;
    stream->private_data = source;
}

#endif
