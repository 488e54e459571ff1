/* page.c - a column chunk made of the input: a few bytes choose the leaf, the codec and
 * the counts, the rest is pages. Either raw, or as a recipe of headers and bodies, which
 * are then compressed and given their right sizes and checksum, so that the bytes reach
 * the decoders. */
#include "chunks.h"

/* ---- leaves ---- */

static const uint8_t fuzz_repetitions[][4] = {
    {AQ_REQUIRED, 9, 9, 9},
    {AQ_OPTIONAL, 9, 9, 9},
    {AQ_OPTIONAL, AQ_REPEATED, AQ_REQUIRED, 9},
    {AQ_OPTIONAL, AQ_REPEATED, AQ_OPTIONAL, 9},
    {AQ_REPEATED, 9, 9, 9},
    {AQ_OPTIONAL, AQ_OPTIONAL, AQ_OPTIONAL, AQ_OPTIONAL},
    {AQ_REPEATED, AQ_REPEATED, AQ_REPEATED, AQ_OPTIONAL},
    {AQ_REQUIRED, AQ_REPEATED, AQ_REQUIRED, 9},
};

static const int32_t fuzz_codecs[] = {AQ_UNCOMPRESSED, AQ_UNCOMPRESSED, AQ_SNAPPY,
                                      AQ_GZIP,         AQ_BROTLI,       AQ_LZ4,
                                      AQ_ZSTD,         AQ_LZ4_RAW,      AQ_LZO};

typedef struct fuzz_leaf {
    aqi_schema_element elements[5]; /* root, and the way to the leaf */
    uint32_t num_elements;
    int32_t type, codec;
} fuzz_leaf;

static void fuzz_leaf_init(fuzz_leaf *leaf, uint32_t shape, int32_t type,
                           int32_t length) {
    uint32_t i, n = 0;
    memset(leaf, 0, sizeof *leaf);
    while (n < 4 && fuzz_repetitions[shape][n] != 9)
        n++;
    leaf->num_elements = n + 1;
    leaf->type = type;
    for (i = 0; i <= n; i++) {
        aqi_schema_element *e = &leaf->elements[i];
        e->name.data = (const uint8_t *)"abcde" + i;
        e->name.size = 1;
        AQI_MARK(e, aqi_schema_element, name);
        if (i < n) AQI_SET(e, aqi_schema_element, num_children, 1);
        if (i > 0)
            AQI_SET(e, aqi_schema_element, repetition_type,
                    fuzz_repetitions[shape][i - 1]);
    }
    AQI_SET(&leaf->elements[n], aqi_schema_element, type, type);
    AQI_SET(&leaf->elements[n], aqi_schema_element, type_length, length);
}

/* ---- pages of a recipe ---- */

typedef struct fuzz_pages {
    const aq_allocator *allocator;
    aqi_thrift_writer out; /* the chunk */
    int64_t dictionary_bytes;
} fuzz_pages;

/* Compressed form; what a codec cannot do stays as it is. */
static bool fuzz_compress(const fuzz_pages *p, int32_t codec, fuzz_input body,
                          aqi_bytes_builder *out) {
    size_t room = aqi_codec_available(codec) ? aqi_compress_bound(codec, body.size) : 0;
    out->size = 0;
    if (room == 0) return false;
    FUZZ_CHECK(aqi_builder_reserve(p->allocator, out, room));
    out->size = aqi_compress(codec, 1, body.data, body.size, out->data, room);
    return out->size > 0;
}

static void fuzz_header_v1(aqi_page_header *h, fuzz_input *in) {
    aqi_data_page *d = &h->data_page_header;
    AQI_MARK(h, aqi_page_header, data_page_header);
    AQI_SET(d, aqi_data_page, num_values, (int32_t)fuzz_u16(in));
    AQI_SET(d, aqi_data_page, encoding, (int32_t)fuzz_below(in, 11));
    AQI_SET(d, aqi_data_page, definition_level_encoding, 3 + (int32_t)fuzz_below(in, 2));
    AQI_SET(d, aqi_data_page, repetition_level_encoding, 3 + (int32_t)fuzz_below(in, 2));
}

static void fuzz_header_v2(aqi_page_header *h, fuzz_input *in) {
    aqi_data_page_v2 *d = &h->data_page_header_v2;
    AQI_MARK(h, aqi_page_header, data_page_header_v2);
    AQI_SET(d, aqi_data_page_v2, num_values, (int32_t)fuzz_u16(in));
    AQI_SET(d, aqi_data_page_v2, encoding, (int32_t)fuzz_below(in, 11));
    AQI_SET(d, aqi_data_page_v2, num_rows, (int32_t)fuzz_u16(in));
    AQI_SET(d, aqi_data_page_v2, num_nulls, (int32_t)fuzz_byte(in));
    AQI_SET(d, aqi_data_page_v2, definition_levels_byte_length, (int32_t)fuzz_byte(in));
    AQI_SET(d, aqi_data_page_v2, repetition_levels_byte_length, (int32_t)fuzz_byte(in));
}

static void fuzz_header_dictionary(aqi_page_header *h, fuzz_input *in) {
    aqi_dictionary_page *d = &h->dictionary_page_header;
    AQI_MARK(h, aqi_page_header, dictionary_page_header);
    AQI_SET(d, aqi_dictionary_page, num_values, (int32_t)fuzz_u16(in));
    AQI_SET(d, aqi_dictionary_page, encoding, AQ_PLAIN);
}

/* One page: kind, counts, sizes, body. */
static void fuzz_put_page(fuzz_pages *p, int32_t codec, fuzz_input *in) {
    uint32_t kind = fuzz_byte(in), skip = 0;
    aqi_bytes_builder packed;
    aqi_page_header h;
    fuzz_input body, rest;
    memset(&packed, 0, sizeof packed);
    memset(&h, 0, sizeof h);
    AQI_SET(&h, aqi_page_header, type, (int32_t)(kind & 3));
    if (h.type == AQI_PAGE_DATA) fuzz_header_v1(&h, in);
    if (h.type == AQI_PAGE_DICTIONARY) fuzz_header_dictionary(&h, in);
    if (h.type == AQI_PAGE_DATA_V2) {
        fuzz_header_v2(&h, in);
        skip = (uint32_t)h.data_page_header_v2.definition_levels_byte_length +
               (uint32_t)h.data_page_header_v2.repetition_levels_byte_length;
        if ((kind & 64) != 0)
            AQI_SET(&h.data_page_header_v2, aqi_data_page_v2, is_compressed, false);
    }
    body = fuzz_take(in, fuzz_u16(in) & 0xfff);
    rest = body;
    fuzz_take(&rest, skip);
    if ((kind & 64) != 0 || !fuzz_compress(p, codec, rest, &packed)) {
        packed.size = 0;
        skip = (uint32_t)body.size;
    }
    skip = AQI_MIN(skip, (uint32_t)body.size);
    AQI_SET(&h, aqi_page_header, uncompressed_page_size, (int32_t)body.size);
    if ((kind & 32) != 0) h.uncompressed_page_size += (int32_t)fuzz_byte(in) - 128;
    AQI_SET(&h, aqi_page_header, compressed_page_size, (int32_t)(skip + packed.size));
    if ((kind & 16) != 0) {
        uint32_t crc = aqi_crc32(UINT32_MAX, body.data, skip);
        crc = ~aqi_crc32(crc, packed.data, packed.size);
        memcpy(&h.crc, &crc, sizeof crc);
        AQI_MARK(&h, aqi_page_header, crc);
    }
    aqi_thrift_write(&p->out, &aqi_page_header_type, &h);
    aqi_thrift_put(&p->out, body.data, skip);
    aqi_thrift_put(&p->out, packed.data, packed.size);
    aqi_builder_free(p->allocator, &packed);
    if (h.type == AQI_PAGE_DICTIONARY && p->dictionary_bytes == 0)
        p->dictionary_bytes = (int64_t)p->out.out.size;
}

/* ---- the file around it ---- */

static void fuzz_put_footer(aqi_thrift_writer *w, const fuzz_leaf *leaf,
                            int64_t chunk_bytes, int64_t dictionary_bytes,
                            const int64_t counts[2]) {
    aqi_file_meta meta;
    aqi_row_group group;
    aqi_column_chunk chunk;
    aqi_column_meta *m = &chunk.meta_data;
    size_t begin = w->out.size;
    uint8_t tail[8];
    memset(&meta, 0, sizeof meta);
    memset(&group, 0, sizeof group);
    memset(&chunk, 0, sizeof chunk);
    AQI_SET(m, aqi_column_meta, type, leaf->type);
    AQI_MARK(m, aqi_column_meta, encodings);
    AQI_MARK(m, aqi_column_meta, path_in_schema);
    AQI_SET(m, aqi_column_meta, codec, leaf->codec);
    AQI_SET(m, aqi_column_meta, num_values, counts[0]);
    AQI_SET(m, aqi_column_meta, total_uncompressed_size, chunk_bytes);
    AQI_SET(m, aqi_column_meta, total_compressed_size, chunk_bytes);
    AQI_SET(m, aqi_column_meta, data_page_offset, 4 + dictionary_bytes);
    if (dictionary_bytes > 0) AQI_SET(m, aqi_column_meta, dictionary_page_offset, 4);
    AQI_SET(&chunk, aqi_column_chunk, file_offset, 0);
    AQI_MARK(&chunk, aqi_column_chunk, meta_data);
    group.columns.items = &chunk;
    group.columns.count = 1;
    AQI_MARK(&group, aqi_row_group, columns);
    AQI_SET(&group, aqi_row_group, total_byte_size, chunk_bytes);
    AQI_SET(&group, aqi_row_group, num_rows, counts[1]);
    AQI_SET(&meta, aqi_file_meta, version, 1);
    meta.schema.items = leaf->elements;
    meta.schema.count = leaf->num_elements;
    AQI_MARK(&meta, aqi_file_meta, schema);
    AQI_SET(&meta, aqi_file_meta, num_rows, counts[1]);
    meta.row_groups.items = &group;
    meta.row_groups.count = 1;
    AQI_MARK(&meta, aqi_file_meta, row_groups);
    aqi_thrift_write(w, &aqi_file_meta_type, &meta);
    aqi_store_le32(tail, (uint32_t)(w->out.size - begin));
    memcpy(tail + 4, "PAR1", 4);
    aqi_thrift_put(w, tail, sizeof tail);
}

static void fuzz_page_read(const uint8_t *data, size_t size, bool skip_checksums,
                           const fuzz_memory *memory) {
    aq_parquet_options o = fuzz_parquet_options(memory);
    aq_parquet *file;
    aq_error err;
    o.skip_checksums = skip_checksums;
    /* An empty chunk of some counts lies outside: the only thing that can be wrong. */
    if (fuzz_status(aq_parquet_open_memory(data, size, &o, &file, &err), &err) == AQ_OK)
        fuzz_read_chunk_all(file, 0, 0);
    aq_parquet_close(file);
}

static void fuzz_page(const uint8_t *data, size_t size) {
    fuzz_input in = {data, size};
    uint32_t how = fuzz_byte(&in), shape = fuzz_below(&in, AQI_COUNT(fuzz_repetitions));
    int32_t type = (int32_t)fuzz_below(&in, 8), length = (int32_t)fuzz_below(&in, 20);
    fuzz_leaf leaf;
    int64_t counts[2];
    fuzz_memory memory;
    fuzz_pages pages;
    uint8_t *exact;
    fuzz_leaf_init(&leaf, shape, type, length);
    leaf.codec = fuzz_codecs[fuzz_below(&in, AQI_COUNT(fuzz_codecs))];
    counts[0] = fuzz_u16(&in);
    counts[1] = fuzz_u16(&in);
    if ((how & 2) != 0) counts[1] = counts[0]; /* as it is in most flat columns */
    fuzz_memory_init(&memory, SIZE_MAX, fuzz_memory_bound(20 * size + 4096));
    memset(&pages, 0, sizeof pages);
    pages.allocator = &memory.hooks;
    pages.out.allocator = &memory.hooks;
    fuzz_result = AQ_OK;
    fuzz_work = 0;
    aqi_thrift_put(&pages.out, "PAR1", 4);
    if ((how & 1) != 0) {
        while (in.size > 0)
            fuzz_put_page(&pages, leaf.codec, &in);
    } else {
        aqi_thrift_put(&pages.out, in.data, in.size);
    }
    if (pages.dictionary_bytes > 0) pages.dictionary_bytes -= 4;
    fuzz_put_footer(&pages.out, &leaf, (int64_t)pages.out.out.size - 4,
                    pages.dictionary_bytes, counts);
    exact = (uint8_t *)malloc(pages.out.out.size); /* so that its end is seen */
    FUZZ_CHECK(exact != NULL && !pages.out.failed);
    memcpy(exact, pages.out.out.data, pages.out.out.size);
    fuzz_page_read(exact, pages.out.out.size, (how & 4) != 0, &memory);
    free(exact);
    aqi_builder_free(&memory.hooks, &pages.out.out);
    fuzz_memory_check(&memory);
}
