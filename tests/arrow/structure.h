/* structure.h - whether an ArrowSchema and an ArrowArray are what the specification of
 * the C Data Interface demands, written from that page alone: formats, flags,
 * metadata, numbers of buffers and children, NULL buffers, offsets, lengths of
 * children, null counts, dictionaries, ends of runs, and that what is released is not
 * used. Knows every format but unions. */
#ifndef ARROW_STRUCTURE_H
#define ARROW_STRUCTURE_H

#include "../../arrowquant.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STRUCTURE __attribute__((unused)) static

/* What a format demands. */
typedef struct structure_type {
    int64_t num_buffers;  /* -1: views, at least 3                           */
    int64_t num_children; /* -1: any                                         */
    int offset_bits;      /* of variable-size binaries, lists and list views */
    int64_t width_bits;   /* of the values in buffer 1                       */
    int64_t fixed_list;   /* children for each element                       */
    bool view;            /* utf8_view, binary_view                          */
    bool list_view;
    bool runs;
    bool integer; /* may be the index of a dictionary                */
} structure_type;

/* What is wrong; the first thing found stays. */
typedef struct structure_report {
    char text[256];
    bool aligned; /* demand buffers on 64 bytes, as the specification recommends */
    bool loose; /* leave out what a reader of values need not look at: metadata, prefixes
                     of views, list views that are null, where empty values lie, and the
                     buffers of no values: producers of nothing often have none */
} structure_report;

STRUCTURE bool structure_fail(structure_report *r, const char *path, const char *format,
                              ...) __attribute__((format(printf, 3, 4)));
STRUCTURE bool structure_fail(structure_report *r, const char *path, const char *format,
                              ...) {
    va_list arguments;
    int n;
    if (r->text[0] != '\0') return false;
    n = snprintf(r->text, sizeof r->text, "%s: ", path);
    va_start(arguments, format);
    vsnprintf(r->text + n, sizeof r->text - (size_t)n, format, arguments);
    va_end(arguments);
    return false;
}

/* ---- schemas ---- */

STRUCTURE structure_type structure_fixed(int64_t bits) {
    structure_type t = {.num_buffers = 2, .width_bits = bits};
    return t;
}

/* A number to the end of the text, or to a comma; -1 = none. */
STRUCTURE int64_t structure_number(const char *text) {
    char *end;
    long long n = strtoll(text, &end, 10);
    return end == text || (*end != '\0' && *end != ',') || n < 0 ? -1 : n;
}

STRUCTURE bool structure_nested(const char *f, structure_type *t) {
    if (strcmp(f, "+s") == 0) {
        t->num_buffers = 1;
        t->num_children = -1;
        return true;
    }
    if (strcmp(f, "+r") == 0) {
        t->num_children = 2;
        t->runs = true;
        return true;
    }
    t->num_children = 1;
    if (strncmp(f, "+w:", 3) == 0) {
        t->num_buffers = 1;
        t->fixed_list = structure_number(f + 3);
        return t->fixed_list >= 0;
    }
    t->list_view = f[1] == 'v';
    t->num_buffers = t->list_view ? 3 : 2;
    f += t->list_view ? 2 : 1;
    t->offset_bits = f[0] == 'L' ? 64 : 32;
    return (f[0] == 'l' || f[0] == 'L' || (f[0] == 'm' && !t->list_view)) && f[1] == '\0';
}

STRUCTURE bool structure_parse(const char *f, structure_type *t) {
    static const char letters[] = "bcCsSiIlLefg";
    static const int bits[] = {1, 8, 8, 16, 16, 32, 32, 64, 64, 16, 32, 64};
    const char *at;
    memset(t, 0, sizeof *t);
    if (f[0] == '+') return structure_nested(f, t);
    if (f[0] == 'd' || f[0] == 't') { /* decimals, dates, times */
        int64_t wide = 128;
        const char *comma = strrchr(f, ',');
        if (f[0] == 'd' && f[1] == ':') {
            if (strchr(f, ',') == NULL) return false;
            if (comma != strchr(f, ',')) wide = structure_number(comma + 1);
            *t = structure_fixed(wide);
            return wide > 0;
        }
        *t = structure_fixed(strcmp(f, "tdD") == 0 || strcmp(f, "tts") == 0 ||
                                     strcmp(f, "ttm") == 0 || strcmp(f, "tiM") == 0
                                 ? 32
                                 : 64);
        if (strcmp(f, "tin") == 0) t->width_bits = 128;
        return f[0] == 't' && strlen(f) >= 3;
    }
    if (strncmp(f, "w:", 2) == 0) {
        *t = structure_fixed(structure_number(f + 2) * 8);
        return t->width_bits >= 0;
    }
    if (strcmp(f, "n") == 0) return true;
    if (strcmp(f, "vu") == 0 || strcmp(f, "vz") == 0) {
        t->num_buffers = -1;
        t->view = true;
        return true;
    }
    if (f[0] == '\0' || f[1] != '\0') return false;
    if (strchr("zuZU", f[0]) != NULL) {
        t->num_buffers = 3;
        t->offset_bits = f[0] == 'Z' || f[0] == 'U' ? 64 : 32;
        return true;
    }
    at = strchr(letters, f[0]);
    if (at == NULL) return false;
    *t = structure_fixed(bits[at - letters]);
    t->integer = strchr("cCsSiIlL", f[0]) != NULL;
    return true;
}

/* Native int32 counts and lengths, none negative. */
STRUCTURE bool structure_metadata(structure_report *r, const char *path,
                                  const char *metadata) {
    int32_t n, length;
    if (metadata == NULL) return true;
    memcpy(&n, metadata, sizeof n);
    metadata += sizeof n;
    if (n <= 0) return structure_fail(r, path, "metadata of %d pairs", (int)n);
    for (int64_t i = 0; i < 2 * (int64_t)n; i++) {
        memcpy(&length, metadata, sizeof length);
        metadata += sizeof length;
        if (length < 0)
            return structure_fail(r, path, "metadata with a length of %d", (int)length);
        metadata += length;
    }
    return true;
}

STRUCTURE bool structure_schema_at(structure_report *r, const struct ArrowSchema *s,
                                   const char *path) {
    structure_type t;
    char inner[128];
    if (s == NULL) return structure_fail(r, path, "no schema");
    if (s->release == NULL) return structure_fail(r, path, "released");
    if (s->format == NULL || !structure_parse(s->format, &t))
        return structure_fail(r, path, "format %s", s->format == NULL ? "-" : s->format);
    if ((s->flags & ~(int64_t)7) != 0) return structure_fail(r, path, "flags");
    if ((s->flags & ARROW_FLAG_DICTIONARY_ORDERED) != 0 && s->dictionary == NULL)
        return structure_fail(r, path, "ordered dictionary without one");
    if (!r->loose && !structure_metadata(r, path, s->metadata)) return false;
    if (s->n_children < 0 || (t.num_children >= 0 && s->n_children != t.num_children))
        return structure_fail(r, path, "%lld children", (long long)s->n_children);
    if (s->n_children > 0 && s->children == NULL)
        return structure_fail(r, path, "children without an array of them");
    if (s->dictionary != NULL) {
        if (!t.integer)
            return structure_fail(r, path, "dictionary of no integers: %s", s->format);
        snprintf(inner, sizeof inner, "%.100s.(dictionary)", path);
        if (!structure_schema_at(r, s->dictionary, inner)) return false;
    }
    for (int64_t i = 0; i < s->n_children; i++) {
        const struct ArrowSchema *c = s->children[i];
        snprintf(inner, sizeof inner, "%.60s.%.60s", path,
                 c == NULL || c->name == NULL ? "?" : c->name);
        if (!structure_schema_at(r, c, inner)) return false;
    }
    return true;
}

/* ---- arrays ---- */

STRUCTURE int64_t structure_offset(const void *offsets, int bits, int64_t i) {
    int32_t narrow;
    int64_t wide;
    if (bits == 64) {
        memcpy(&wide, (const char *)offsets + i * 8, sizeof wide);
        return wide;
    }
    memcpy(&narrow, (const char *)offsets + i * 4, sizeof narrow);
    return narrow;
}

STRUCTURE bool structure_is_valid(const struct ArrowArray *a, int64_t i) {
    const uint8_t *bits = (const uint8_t *)(a->n_buffers > 0 ? a->buffers[0] : NULL);
    int64_t at = a->offset + i;
    return bits == NULL || (bits[at / 8] >> at % 8 & 1) != 0;
}

STRUCTURE bool structure_nulls(structure_report *r, const char *path,
                               const struct ArrowArray *a, const structure_type *t) {
    int64_t nulls = 0;
    if (a->null_count < -1 || a->null_count > a->length)
        return structure_fail(r, path, "null_count %lld", (long long)a->null_count);
    if (t->num_buffers == 0) return true; /* all are null, or its values know */
    if (a->buffers[0] == NULL && a->null_count > 0)
        return structure_fail(r, path, "nulls without a bitmap");
    for (int64_t i = 0; i < a->length && a->buffers[0] != NULL; i++)
        nulls += !structure_is_valid(a, i);
    if (a->null_count >= 0 && nulls != a->null_count)
        return structure_fail(r, path, "null_count %lld, bitmap has %lld",
                              (long long)a->null_count, (long long)nulls);
    return true;
}

/* Offsets of binaries and lists; the values that they need to *out_end. */
STRUCTURE bool structure_offsets(structure_report *r, const char *path,
                                 const struct ArrowArray *a, const structure_type *t,
                                 int64_t *out_end) {
    const void *offsets = a->buffers[1];
    int64_t first = a->offset, last = a->offset + a->length;
    *out_end = 0;
    if (offsets == NULL)
        return last == 0 || (r->loose && a->length == 0) ||
               structure_fail(r, path, "no buffer of offsets");
    for (int64_t i = first; i < last; i++) {
        int64_t begin = structure_offset(offsets, t->offset_bits, i), end;
        if (t->list_view && r->loose && !structure_is_valid(a, i - a->offset)) continue;
        end = t->list_view ? begin + structure_offset(a->buffers[2], t->offset_bits, i)
                           : structure_offset(offsets, t->offset_bits, i + 1);
        if (t->list_view && begin == end && begin == 0) continue;
        if (begin < 0 || end < begin)
            return structure_fail(r, path, "offsets %lld, %lld at %lld", (long long)begin,
                                  (long long)end, (long long)i);
        if (end > *out_end && !(r->loose && begin == end)) *out_end = end;
    }
    return true;
}

/* 16 bytes each: length, and up to 12 bytes or prefix, buffer and offset. */
STRUCTURE bool structure_views(structure_report *r, const char *path,
                               const struct ArrowArray *a) {
    int64_t variadic = a->n_buffers - 3;
    const int64_t *lengths = (const int64_t *)a->buffers[a->n_buffers - 1];
    if (variadic > 0 && lengths == NULL && !(r->loose && a->length == 0))
        return structure_fail(r, path, "no lengths of buffers");
    for (int64_t i = a->offset; i < a->offset + a->length; i++) {
        int32_t view[4];
        if (!structure_is_valid(a, i - a->offset)) continue;
        memcpy(view, (const char *)a->buffers[1] + i * 16, sizeof view);
        if (view[0] < 0) return structure_fail(r, path, "view of %d bytes", (int)view[0]);
        if (view[0] <= 12) continue;
        if (view[2] < 0 || view[2] >= variadic || view[3] < 0 ||
            (int64_t)view[3] + view[0] > lengths[view[2]] ||
            (!r->loose &&
             memcmp((const char *)a->buffers[2 + view[2]] + view[3], &view[1], 4) != 0))
            return structure_fail(r, path, "view %lld", (long long)i);
    }
    return true;
}

STRUCTURE bool structure_array_at(structure_report *r, const struct ArrowSchema *s,
                                  const struct ArrowArray *a, const char *path);

STRUCTURE bool structure_buffers(structure_report *r, const char *path,
                                 const struct ArrowArray *a, const structure_type *t) {
    int64_t i, values = a->length + a->offset, n = a->n_buffers;
    if (r->loose && a->length == 0) values = 0;
    if (t->num_buffers >= 0 ? n != t->num_buffers : n < 3)
        return structure_fail(r, path, "%lld buffers", (long long)n);
    if (n > 0 && a->buffers == NULL) return structure_fail(r, path, "no buffers");
    for (i = 0; i < n; i++) {
        if (r->aligned && (uintptr_t)a->buffers[i] % 64 != 0)
            return structure_fail(r, path, "buffer %lld is not aligned", (long long)i);
    }
    if (values > 0 && t->width_bits > 0 && a->buffers[1] == NULL)
        return structure_fail(r, path, "no values");
    if (values > 0 && t->list_view && a->buffers[2] == NULL)
        return structure_fail(r, path, "no sizes");
    return true;
}

STRUCTURE bool structure_children(structure_report *r, const struct ArrowSchema *s,
                                  const struct ArrowArray *a, const char *path,
                                  int64_t need) {
    char inner[128];
    for (int64_t i = 0; i < a->n_children; i++) {
        snprintf(inner, sizeof inner, "%.60s.%.60s", path,
                 s->children[i]->name == NULL ? "?" : s->children[i]->name);
        if (a->children[i] == NULL || a->children[i]->length < need)
            return structure_fail(
                r, inner, "%lld elements; its parent needs %lld",
                a->children[i] == NULL ? -1LL : (long long)a->children[i]->length,
                (long long)need);
        if (!structure_array_at(r, s->children[i], a->children[i], inner)) return false;
    }
    return true;
}

/* Indices that are not null lie in the dictionary. */
STRUCTURE bool structure_dictionary(structure_report *r, const struct ArrowSchema *s,
                                    const struct ArrowArray *a, const char *path,
                                    const structure_type *t) {
    const size_t width = (size_t)t->width_bits / 8;
    const bool is_signed = strchr("csil", s->format[0]) != NULL;
    char inner[128];
    if (s->dictionary == NULL) return true;
    snprintf(inner, sizeof inner, "%.100s.(dictionary)", path);
    if (!structure_array_at(r, s->dictionary, a->dictionary, inner)) return false;
    for (int64_t i = 0; i < a->length; i++) {
        uint8_t raw[8];
        int64_t index = 0;
        if (!structure_is_valid(a, i)) continue;
        memcpy(raw, (const uint8_t *)a->buffers[1] + (size_t)(a->offset + i) * width,
               width);
        for (size_t k = 0; k < width; k++) /* little-endian machines */
            index |= (int64_t)((uint64_t)raw[k] << 8 * k);
        if ((is_signed && raw[width - 1] >= 0x80) || index < 0 ||
            index >= a->dictionary->length)
            return structure_fail(r, path, "index %lld", (long long)index);
    }
    return true;
}

/* Signed numbers, all there and rising, the last not before the end; a value for each. */
STRUCTURE bool structure_runs(structure_report *r, const char *path,
                              const struct ArrowSchema *s, const struct ArrowArray *a) {
    const char *format = s->children[0]->format;
    const struct ArrowArray *ends = a->children[0];
    const size_t width = format[0] == 's' ? 2 : format[0] == 'i' ? 4 : 8;
    int64_t last = 0, i;
    if (strchr("sil", format[0]) == NULL || format[1] != '\0' ||
        s->children[0]->dictionary != NULL)
        return structure_fail(r, path, "ends of runs are %s", format);
    if (a->null_count > 0 && !r->loose) return structure_fail(r, path, "runs with nulls");
    for (i = 0; i < ends->length; i++) {
        const uint8_t *at =
            (const uint8_t *)ends->buffers[1] + (size_t)(ends->offset + i) * width;
        int64_t end = 0;
        memcpy(&end, at, width); /* little-endian machines; of negative ones below */
        if (width < 8 && at[width - 1] >= 0x80) end = -1;
        if (!structure_is_valid(ends, i) || end <= last)
            return structure_fail(r, path, "run %lld ends at %lld", (long long)i,
                                  (long long)end);
        last = end;
    }
    return (last >= a->offset + a->length && a->children[1]->length >= ends->length) ||
           structure_fail(r, path, "runs to %lld", (long long)last);
}

STRUCTURE bool structure_array_at(structure_report *r, const struct ArrowSchema *s,
                                  const struct ArrowArray *a, const char *path) {
    structure_type t;
    int64_t need = 0, most = INT64_MAX / 64;
    if (a == NULL || a->release == NULL) return structure_fail(r, path, "released");
    structure_parse(s->format, &t);
    if (a->length < 0 || a->offset < 0 || a->length > most || a->offset > most)
        return structure_fail(r, path, "length %lld, offset %lld", (long long)a->length,
                              (long long)a->offset);
    if (!structure_buffers(r, path, a, &t) || !structure_nulls(r, path, a, &t))
        return false;
    if (a->n_children != s->n_children || (a->n_children > 0 && a->children == NULL))
        return structure_fail(r, path, "%lld children", (long long)a->n_children);
    if ((a->dictionary == NULL) != (s->dictionary == NULL))
        return structure_fail(r, path, "a dictionary here, none there");
    if (t.offset_bits > 0 && !structure_offsets(r, path, a, &t, &need)) return false;
    if (t.offset_bits > 0 && a->n_children == 0 && need > 0 && a->buffers[2] == NULL)
        return structure_fail(r, path, "no bytes");
    if (t.view && !structure_views(r, path, a)) return false;
    if (t.offset_bits == 0) /* a struct's child has its elements, too */
        need =
            (a->offset + a->length) * (strcmp(s->format, "+s") == 0 ? 1 : t.fixed_list);
    return structure_children(r, s, a, path, need) &&
           (!t.runs || a->length == 0 || structure_runs(r, path, s, a)) &&
           structure_dictionary(r, s, a, path, &t);
}

/* NULL: as it should be; else what is wrong, until the next call. */
STRUCTURE const char *structure_check_as(const struct ArrowSchema *schema,
                                         const struct ArrowArray *array, bool aligned,
                                         bool loose) {
    static structure_report r;
    memset(&r, 0, sizeof r);
    r.aligned = aligned;
    r.loose = loose;
    if (!structure_schema_at(&r, schema, "(root)")) return r.text;
    if (array != NULL && !structure_array_at(&r, schema, array, "(root)")) return r.text;
    return NULL;
}

STRUCTURE const char *structure_check(const struct ArrowSchema *schema,
                                      const struct ArrowArray *array, bool aligned) {
    return structure_check_as(schema, array, aligned, false);
}

#endif
