/* chunks.h - everything that can be asked of an open Parquet file, for the fuzz targets
 * page, file and footer: the ways to read a column chunk must agree, and every byte that
 * the library hands out is read. */
#ifndef FUZZ_CHUNKS_H
#define FUZZ_CHUNKS_H

#include "fuzz.h"

/* Small limits, so that an allocation beyond them is the library's fault. A page may take
 * several times max_page_bytes: stored, decompressed, levels, values and their parts. */
#define FUZZ_PAGE_BYTES ((size_t)1 << 20)
#define FUZZ_COLUMN_BYTES ((size_t)4 << 20)
#define FUZZ_METADATA_BYTES ((size_t)4 << 20)

/* What one open file and one or two of its columns may take; the window for a page header
 * that is read, not mapped, is as large as the file at most. */
FUZZ size_t fuzz_memory_bound(size_t file_bytes) {
    return 2 * FUZZ_COLUMN_BYTES + 8 * FUZZ_PAGE_BYTES + FUZZ_METADATA_BYTES +
           4 * file_bytes + (1 << 20);
}

FUZZ aq_parquet_options fuzz_parquet_options(const fuzz_memory *memory) {
    aq_parquet_options o;
    memset(&o, 0, sizeof o);
    o.allocator = &memory->hooks;
    o.max_page_bytes = FUZZ_PAGE_BYTES;
    o.max_column_bytes = FUZZ_COLUMN_BYTES;
    o.max_metadata_bytes = FUZZ_METADATA_BYTES;
    o.max_columns = 5000;
    return o;
}

/* ---- spans ---- */

/* Sums over the spans of a chunk: the same for every way to read it, however pages are
 * cut and in whatever order they come. */
typedef struct fuzz_sum {
    aq_status status;
    uint64_t digest; /* of (place, levels, value) of each level, added up */
    int64_t num_values, num_levels, num_rows;
} fuzz_sum;

static uint64_t fuzz_value_digest(const aq_field *field, const void *values, int64_t i) {
    size_t width = aq_field_value_bytes(field);
    aq_bytes b;
    b.data = (const uint8_t *)values + (size_t)i * width;
    b.size = width;
    if (field->type == AQ_BYTE_ARRAY) b = ((const aq_bytes *)values)[i];
    return fuzz_digest(b.size, b.data, b.size);
}

/* Adds a span that begins first_level levels into its chunk. */
FUZZ void fuzz_span_add(const aq_field *field, const aq_span *s, int64_t first_level,
                        fuzz_sum *sum) {
    int64_t i, rows = 0, values = 0;
    FUZZ_CHECK(s->values != NULL);
    FUZZ_CHECK(s->num_values >= 0 && s->num_values <= s->num_levels && s->num_rows >= 0);
    FUZZ_CHECK(s->alignment > 0 && (s->alignment & (s->alignment - 1)) == 0);
    FUZZ_CHECK(field->type == AQ_BYTE_ARRAY || s->num_values == 0 ||
               (uintptr_t)s->values % s->alignment == 0);
    FUZZ_CHECK(s->rep_levels == NULL || field->max_rep > 0);
    FUZZ_CHECK(s->def_levels == NULL || field->max_def > 0);
    FUZZ_CHECK(!s->single_list || (s->rep_levels == NULL && field->max_rep > 0));
    for (i = 0; i < s->num_levels; i++) {
        uint64_t hash = (uint64_t)(first_level + i) * 0x9e3779b97f4a7c15u;
        uint8_t list = s->single_list && i > 0 ? field->max_rep : 0;
        uint8_t rep = s->rep_levels != NULL ? s->rep_levels[i] : list;
        uint8_t def = s->def_levels != NULL ? s->def_levels[i] : field->max_def;
        FUZZ_CHECK(rep <= field->max_rep && def <= field->max_def);
        rows += rep == 0;
        hash ^= (uint64_t)rep << 8 | def;
        if (def == field->max_def) {
            FUZZ_CHECK(values < s->num_values);
            hash ^= fuzz_value_digest(field, s->values, values++) << 16;
        }
        hash = (hash ^ hash >> 29) * 0xbf58476d1ce4e5b9u;
        sum->digest += hash ^ hash >> 32;
    }
    FUZZ_CHECK(rows == s->num_rows);
    FUZZ_CHECK(values == s->num_values);
    sum->num_values += s->num_values;
    sum->num_levels += s->num_levels;
    sum->num_rows += s->num_rows;
}

/* ---- the ways to read a chunk ---- */

typedef enum fuzz_way {
    FUZZ_NEXT,
    FUZZ_SPANS,
    FUZZ_VIEW,
    FUZZ_DECODE,
    FUZZ_VISIT,
    FUZZ_VERIFY,
    FUZZ_PAGES,
    FUZZ_WAYS
} fuzz_way;

FUZZ void fuzz_run_backwards(void *user, size_t n, void (*fn)(void *arg, size_t index),
                             void *arg) {
    (void)user;
    while (n > 0)
        fn(arg, --n);
}

FUZZ aq_status fuzz_read_next(aq_column *c, const aq_field *f, fuzz_sum *sum,
                              aq_error *err) {
    aq_span span;
    for (;;) {
        aq_status status = fuzz_status(aq_column_next(c, &span, err), err);
        if (status != AQ_OK || span.values == NULL) {
            FUZZ_CHECK(span.num_levels == 0 && span.values == NULL);
            return status;
        }
        fuzz_span_add(f, &span, sum->num_levels, sum);
    }
}

FUZZ aq_status fuzz_read_spans(aq_column *c, const aq_field *f, fuzz_sum *sum,
                               aq_error *err) {
    const aq_span *spans;
    size_t count, i;
    aq_status status = fuzz_status(aq_column_spans(c, &spans, &count, err), err);
    for (i = 0; i < count; i++)
        fuzz_span_add(f, &spans[i], sum->num_levels, sum);
    return status;
}

FUZZ aq_status fuzz_read_view(aq_column *c, const aq_field *f, fuzz_sum *sum,
                              aq_error *err) {
    aq_span span;
    aq_status status = fuzz_status(aq_column_view(c, &span, err), err);
    if (status == AQ_OK && span.values != NULL)
        fuzz_span_add(f, &span, sum->num_levels, sum);
    return status;
}

typedef struct fuzz_visitor {
    const aq_field *field;
    fuzz_sum *sum;
} fuzz_visitor;

FUZZ bool fuzz_visit(void *user, size_t column, int64_t first_level,
                     const aq_span *span) {
    const fuzz_visitor *v = (const fuzz_visitor *)user;
    FUZZ_CHECK(column == 0);
    fuzz_span_add(v->field, span, first_level, v->sum);
    return true;
}

/* Headers only: they ascend, and end. */
FUZZ aq_status fuzz_read_pages(aq_column *c, aq_error *err) {
    aq_page_info page;
    int64_t last = -1;
    aq_status status;
    for (;;) {
        status = fuzz_status(aq_column_next_page(c, &page, err), err);
        if (status != AQ_OK || page.header_bytes == 0) return status;
        FUZZ_CHECK(page.header_offset > last);
        FUZZ_CHECK(page.data_offset == page.header_offset + page.header_bytes);
        FUZZ_CHECK(page.compressed_bytes >= 0 && page.num_values >= 0);
        last = page.header_offset;
    }
}

FUZZ fuzz_sum fuzz_read_chunk(const aq_parquet *file, int32_t row_group, int32_t column,
                              fuzz_way way) {
    static const aq_tasks backwards = {fuzz_run_backwards, NULL, 3};
    const aq_field *field = aq_parquet_column_field(file, column);
    fuzz_visitor visitor;
    fuzz_sum sum;
    aq_column *c;
    aq_error err;
    memset(&sum, 0, sizeof sum);
    sum.status = fuzz_status(aq_column_open(file, row_group, column, &c, &err), &err);
    FUZZ_CHECK((sum.status == AQ_OK) == (c != NULL));
    if (sum.status != AQ_OK) return sum;
    aq_column_prefetch(c);
    switch (way) {
    case FUZZ_NEXT:
        sum.status = fuzz_read_next(c, field, &sum, &err);
        break;
    case FUZZ_SPANS:
        sum.status = fuzz_read_spans(c, field, &sum, &err);
        break;
    case FUZZ_VIEW:
        sum.status = fuzz_read_view(c, field, &sum, &err);
        break;
    case FUZZ_DECODE:
        sum.status = fuzz_status(aq_columns_decode(&c, 1, &backwards, &err), &err);
        if (sum.status == AQ_OK) sum.status = fuzz_read_view(c, field, &sum, &err);
        break;
    case FUZZ_VISIT:
        visitor.field = field;
        visitor.sum = &sum;
        sum.status = fuzz_status(
            aq_columns_visit(&c, 1, &backwards, fuzz_visit, &visitor, &err), &err);
        break;
    case FUZZ_VERIFY:
        sum.status = fuzz_status(aq_column_verify(c, &err), &err);
        break;
    default:
        sum.status = fuzz_read_pages(c, &err);
        break;
    }
    aq_column_close(c);
    return sum;
}

/* The same chunk in two ways. Only a limit of memory may part them, or a checksum that
 * one of them had no reason to look at. */
FUZZ void fuzz_sums_agree(const fuzz_sum *a, const fuzz_sum *b) {
    bool limit = a->status == AQ_E_LIMIT || a->status == AQ_E_NOMEM ||
                 b->status == AQ_E_LIMIT || b->status == AQ_E_NOMEM;
    bool checksum = a->status == AQ_E_CHECKSUM || b->status == AQ_E_CHECKSUM;
    if (limit || checksum) return;
    FUZZ_CHECK(a->status == b->status);
    if (a->status != AQ_OK) return;
    FUZZ_CHECK(a->num_rows == b->num_rows);
    FUZZ_CHECK(a->num_values == b->num_values && a->num_levels == b->num_levels);
    FUZZ_CHECK(a->digest == b->digest);
}

/* Values and levels that were handed out for this input: what bounds the work, since many
 * chunks of a file may lie on the same bytes. */
static int64_t fuzz_work;

/* Reads a chunk in every way, and on every instruction set that there is; each must say
 * the same. */
FUZZ fuzz_sum fuzz_read_chunk_all(const aq_parquet *file, int32_t row_group,
                                  int32_t column) {
    fuzz_sum first = fuzz_read_chunk(file, row_group, column, FUZZ_NEXT), other;
    fuzz_way way;
    aq_isa isa;
    for (isa = AQ_ISA_REF; isa <= AQ_ISA_NEON; isa = (aq_isa)(isa + 1)) {
        if (!aq_isa_supported(isa) || isa == aq_isa_active()) continue;
        FUZZ_CHECK(aq_isa_force(isa) == AQ_OK);
        other = fuzz_read_chunk(file, row_group, column, FUZZ_NEXT);
        FUZZ_CHECK(aq_isa_force(AQ_ISA_AUTO) == AQ_OK);
        fuzz_sums_agree(&first, &other);
        fuzz_work += other.num_levels;
    }
    for (way = FUZZ_SPANS; way <= FUZZ_VISIT; way = (fuzz_way)(way + 1)) {
        other = fuzz_read_chunk(file, row_group, column, way);
        fuzz_sums_agree(&first, &other);
        fuzz_work += other.num_levels;
    }
    other = fuzz_read_chunk(file, row_group, column, FUZZ_VERIFY);
    FUZZ_CHECK(other.status != AQ_OK || first.status == AQ_OK);
    other = fuzz_read_chunk(file, row_group, column, FUZZ_PAGES);
    FUZZ_CHECK(first.status != AQ_OK || other.status == AQ_OK);
    fuzz_work += 10 + first.num_levels;
    return first;
}

/* ---- metadata ---- */

FUZZ void fuzz_walk_schema(const aq_parquet *file, const aq_parquet_info *info) {
    int32_t i, leaves = 0;
    FUZZ_CHECK(aq_parquet_field(file, -1) == NULL);
    FUZZ_CHECK(aq_parquet_field(file, info->num_fields) == NULL);
    for (i = 0; i < info->num_fields; i++) {
        const aq_field *f = aq_parquet_field(file, i), *parent;
        fuzz_digest_text(0, f->name);
        FUZZ_CHECK(f->parent < i && (f->parent >= 0) == (i > 0));
        FUZZ_CHECK(f->num_children >= 0 && f->num_children < info->num_fields);
        FUZZ_CHECK((f->column >= 0) == (i > 0 && f->type != AQ_GROUP));
        FUZZ_CHECK(f->type == AQ_GROUP || f->num_children == 0);
        if (f->column >= 0) {
            FUZZ_CHECK(f->column == leaves++);
            FUZZ_CHECK(aq_parquet_column_field(file, f->column) == f);
            fuzz_digest_text(0, aq_parquet_column_path(file, f->column));
        }
        if (i == 0) continue;
        parent = aq_parquet_field(file, f->parent);
        FUZZ_CHECK(f->max_def == parent->max_def + (f->repetition != AQ_REQUIRED));
        FUZZ_CHECK(f->max_rep == parent->max_rep + (f->repetition == AQ_REPEATED));
    }
    FUZZ_CHECK(leaves == info->num_columns);
    for (i = 0; i < info->num_columns && i < 20; i++)
        FUZZ_CHECK(aq_parquet_find_column(file, aq_parquet_column_path(file, i)) <= i);
}

FUZZ void fuzz_walk_chunk_info(const aq_parquet *file, int32_t row_group, int32_t column,
                               const aq_parquet_info *info) {
    aq_chunk_info chunk;
    aq_key_value pair;
    aq_error err;
    int32_t i;
    if (fuzz_status(aq_parquet_get_chunk(file, row_group, column, &chunk, &err), &err) !=
        AQ_OK)
        return;
    fuzz_digest(0, chunk.min_value.data, chunk.min_value.size);
    fuzz_digest(0, chunk.max_value.data, chunk.max_value.size);
    FUZZ_CHECK(chunk.num_values >= 0 && chunk.compressed_bytes >= 0);
    FUZZ_CHECK(chunk.num_values == 0 ||
               (chunk.start_offset >= 4 &&
                chunk.compressed_bytes <= info->file_bytes - chunk.start_offset));
    fuzz_digest_text(0, aq_codec_name((int32_t)chunk.codec));
    for (i = 0; aq_parquet_chunk_key_value(file, row_group, column, i, &pair); i++) {
        fuzz_digest_text(0, pair.key);
        if (pair.value != NULL) fuzz_digest(0, pair.value, pair.value_bytes + 1);
    }
    FUZZ_CHECK(i == chunk.num_key_values);
}

FUZZ void fuzz_walk_metadata(const aq_parquet *file, aq_parquet_info *info) {
    int64_t rows = 0, asked = 0;
    aq_row_group_info group;
    aq_key_value pair;
    aq_error err;
    int32_t i, k;
    aq_parquet_get_info(file, info);
    fuzz_digest_text(0, info->created_by);
    fuzz_walk_schema(file, info);
    for (i = 0; i < info->num_row_groups; i++) {
        FUZZ_CHECK(aq_parquet_get_row_group(file, i, &group, &err) == AQ_OK);
        FUZZ_CHECK(group.num_rows >= 0);
        rows += group.num_rows;
        for (k = 0; k < info->num_columns && asked < 2000; k++, asked++)
            fuzz_walk_chunk_info(file, i, k, info);
    }
    FUZZ_CHECK(rows == info->num_rows);
    FUZZ_CHECK(aq_parquet_get_row_group(file, i, &group, &err) == AQ_E_ARG);
    for (i = 0; aq_parquet_key_value(file, i, &pair); i++) {
        fuzz_digest_text(0, pair.key);
        if (i == 0) FUZZ_CHECK(aq_parquet_find_key(file, pair.key) == pair.value);
        if (pair.value == NULL) continue;
        fuzz_digest(0, pair.value, pair.value_bytes + 1);
        FUZZ_CHECK(pair.value[pair.value_bytes] == '\0');
    }
    FUZZ_CHECK(i == info->num_key_values);
}

#endif
