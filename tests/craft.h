/* craft.h - Parquet files that the writer does not make: pages put together by hand, and
 * footers with changed fields. For tests that include the implementation. */
#ifndef TEST_CRAFT_H
#define TEST_CRAFT_H

#include "files.h"
#include "decode.h"

/* Pages of one column chunk, as they will stand behind "PAR1". */
typedef struct craft {
    uint8_t bytes[1 << 16];
    size_t size;
    size_t dictionary_bytes; /* of the dictionary page, when it comes first */
} craft;

SUPPORT void craft_append(craft *c, const void *data, size_t bytes) {
    cr_assert(bytes <= sizeof c->bytes - c->size);
    if (bytes > 0) memcpy(c->bytes + c->size, data, bytes);
    c->size += bytes;
}

/* Any struct of parquet.thrift in its encoded form. */
SUPPORT file craft_thrift(const aqi_thrift_struct *type, const void *value) {
    aq_allocator malloc_hooks;
    aqi_thrift_writer w;
    file f;
    ASSERT_OK(aqi_allocator_resolve(NULL, &malloc_hooks, &err));
    memset(&w, 0, sizeof w);
    w.allocator = &malloc_hooks;
    aqi_thrift_write(&w, type, value);
    f = file_make(w.out.data, w.out.size);
    aqi_builder_free(&malloc_hooks, &w.out);
    return f;
}

/* A page with this header; sizes not set in it are those of the body. */
SUPPORT void craft_page(craft *c, aqi_page_header *h, const void *body, size_t bytes) {
    file header;
    if (!AQI_HAS(h, aqi_page_header, compressed_page_size))
        AQI_SET(h, aqi_page_header, compressed_page_size, (int32_t)bytes);
    if (!AQI_HAS(h, aqi_page_header, uncompressed_page_size))
        AQI_SET(h, aqi_page_header, uncompressed_page_size, (int32_t)bytes);
    header = craft_thrift(&aqi_page_header_type, h);
    craft_append(c, header.data, header.size);
    craft_append(c, body, bytes);
    file_free(&header);
}

SUPPORT aqi_page_header craft_data_header(int32_t num_values, int32_t encoding) {
    aqi_page_header h;
    memset(&h, 0, sizeof h);
    AQI_SET(&h, aqi_page_header, type, AQI_PAGE_DATA);
    AQI_MARK(&h, aqi_page_header, data_page_header);
    AQI_SET(&h.data_page_header, aqi_data_page, num_values, num_values);
    AQI_SET(&h.data_page_header, aqi_data_page, encoding, encoding);
    AQI_SET(&h.data_page_header, aqi_data_page, definition_level_encoding, AQ_RLE);
    AQI_SET(&h.data_page_header, aqi_data_page, repetition_level_encoding, AQ_RLE);
    return h;
}

SUPPORT void craft_data_page(craft *c, int32_t num_values, int32_t encoding,
                             const void *body, size_t bytes) {
    aqi_page_header h = craft_data_header(num_values, encoding);
    craft_page(c, &h, body, bytes);
}

SUPPORT void craft_data_page_v2(craft *c, const int32_t counts[3], int32_t def_bytes,
                                int32_t rep_bytes, const void *body, size_t bytes) {
    aqi_page_header h;
    aqi_data_page_v2 *p = &h.data_page_header_v2;
    memset(&h, 0, sizeof h);
    AQI_SET(&h, aqi_page_header, type, AQI_PAGE_DATA_V2);
    AQI_MARK(&h, aqi_page_header, data_page_header_v2);
    AQI_SET(p, aqi_data_page_v2, num_values, counts[0]);
    AQI_SET(p, aqi_data_page_v2, num_nulls, counts[1]);
    AQI_SET(p, aqi_data_page_v2, num_rows, counts[2]);
    AQI_SET(p, aqi_data_page_v2, encoding, AQ_PLAIN);
    AQI_SET(p, aqi_data_page_v2, definition_levels_byte_length, def_bytes);
    AQI_SET(p, aqi_data_page_v2, repetition_levels_byte_length, rep_bytes);
    craft_page(c, &h, body, bytes);
}

SUPPORT void craft_dictionary(craft *c, int32_t entries, const void *body, size_t bytes) {
    aqi_page_header h;
    memset(&h, 0, sizeof h);
    AQI_SET(&h, aqi_page_header, type, AQI_PAGE_DICTIONARY);
    AQI_MARK(&h, aqi_page_header, dictionary_page_header);
    AQI_SET(&h.dictionary_page_header, aqi_dictionary_page, num_values, entries);
    AQI_SET(&h.dictionary_page_header, aqi_dictionary_page, encoding, AQ_PLAIN);
    craft_page(c, &h, body, bytes);
    if (c->dictionary_bytes == 0) c->dictionary_bytes = c->size;
}

/* ---- footers ---- */

/* The footer of a file, to be changed in place. */
typedef struct footer {
    aq_parquet *parquet;
    aqi_file_meta *meta;
    aqi_arena lists; /* of meta */
} footer;

SUPPORT aqi_row_group *footer_row_group(const footer *f, int32_t row_group) {
    /* The items are memory of `lists`; only their pointer is const. */
    uintptr_t items = (uintptr_t)f->meta->row_groups.items;
    return (aqi_row_group *)items + row_group;
}

SUPPORT aqi_column_chunk *footer_chunk(const footer *f, int32_t row_group,
                                       int32_t column) {
    uintptr_t items = (uintptr_t)footer_row_group(f, row_group)->columns.items;
    return (aqi_column_chunk *)items + column;
}

SUPPORT aqi_schema_element *footer_schema(const footer *f, int32_t element) {
    uintptr_t items = (uintptr_t)f->meta->schema.items;
    return (aqi_schema_element *)items + element;
}

/* Borrows the file until footer_close. */
SUPPORT footer footer_open(const file *in) {
    footer f;
    ASSERT_OK(aq_parquet_open_memory(in->data, in->size, NULL, &f.parquet, &err));
    f.meta = &f.parquet->meta;
    aqi_arena_init(&f.lists, &f.parquet->allocator);
    decode_lists(&aqi_file_meta_type, f.meta, &f.lists);
    return f;
}

/* `body` (PAR1 and pages) with the changed footer behind it. Closes the footer. */
SUPPORT file footer_close(footer *f, const void *body, size_t body_bytes) {
    file meta = craft_thrift(&aqi_file_meta_type, f->meta), out;
    out = file_make(NULL, 0);
    free(out.data);
    out.size = body_bytes + meta.size + 8;
    out.data = malloc(out.size);
    cr_assert_not_null(out.data);
    memcpy(out.data, body, body_bytes);
    memcpy(out.data + body_bytes, meta.data, meta.size);
    aqi_store_le32(out.data + out.size - 8, (uint32_t)meta.size);
    memcpy(out.data + out.size - 4, "PAR1", 4);
    file_free(&meta);
    aqi_arena_deinit(&f->lists);
    aq_parquet_close(f->parquet);
    return out;
}

/* A file whose only column chunk consists of the crafted pages. */
SUPPORT file craft_file(const craft *c, const aq_field_spec *fields, size_t num_fields,
                        int64_t num_values, int64_t num_rows) {
    aq_column_values none = {NULL, .num_values = 0};
    aqi_column_meta *m;
    aq_writer *w;
    footer f;
    file template, out;
    uint8_t body[4 + sizeof c->bytes] = "PAR1";
    memcpy(body + 4, c->bytes, c->size);
    ASSERT_OK(aq_writer_open(in_dir("template"), fields, num_fields, NULL, &w, &err));
    ASSERT_OK(aq_writer_put_column(w, &none, &err));
    ASSERT_OK(aq_writer_end_row_group(w, 0, &err));
    ASSERT_OK(aq_writer_finish(w, &err));
    template = file_read(in_dir("template"));
    f = footer_open(&template);
    m = &footer_chunk(&f, 0, 0)->meta_data;
    m->num_values = num_values;
    m->data_page_offset = 4 + (int64_t)c->dictionary_bytes;
    m->total_compressed_size = (int64_t)c->size;
    m->total_uncompressed_size = (int64_t)c->size;
    if (c->dictionary_bytes > 0) AQI_SET(m, aqi_column_meta, dictionary_page_offset, 4);
    footer_row_group(&f, 0)->num_rows = num_rows;
    f.meta->num_rows = num_rows;
    out = footer_close(&f, body, 4 + c->size);
    file_free(&template);
    return out;
}

#endif
