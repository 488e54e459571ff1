/* footer.c - the input is the Thrift footer of a file whose other bytes are zeros:
 * schema, row groups, chunks, statistics, key-values. First byte: how many zeros. */
#include "chunks.h"

typedef struct fuzz_footer_file {
    int64_t body; /* zeros, PAR1 before them */
    fuzz_input footer;
} fuzz_footer_file;

static bool fuzz_footer_read(void *user, int64_t offset, void *dst, size_t bytes) {
    const fuzz_footer_file *f = (const fuzz_footer_file *)user;
    uint8_t *out = (uint8_t *)dst, tail[8];
    int64_t at = f->body + (int64_t)f->footer.size, i;
    aqi_store_le32(tail, (uint32_t)f->footer.size);
    memcpy(tail + 4, "PAR1", 4);
    FUZZ_CHECK(offset >= 0 && bytes > 0);
    FUZZ_CHECK((uint64_t)bytes <= (uint64_t)(at + 8 - offset));
    for (i = offset; i < offset + (int64_t)bytes; i++) {
        *out++ = i < 4         ? (uint8_t) "PAR1"[i]
                 : i < f->body ? 0
                 : i < at      ? f->footer.data[i - f->body]
                               : tail[i - at];
    }
    return true;
}

static void fuzz_footer(const uint8_t *data, size_t size) {
    fuzz_input in = {data, size};
    fuzz_footer_file f;
    fuzz_memory memory;
    aq_reader reader = {fuzz_footer_read, &f, 0};
    aq_parquet_options o;
    aq_parquet_info info;
    aq_parquet *file;
    aq_error err;
    aq_status status;
    int32_t i;
    f.body = 4 + ((int64_t)1 << fuzz_below(&in, 40));
    f.footer = in;
    reader.file_bytes = f.body + (int64_t)in.size + 8;
    fuzz_memory_init(&memory, SIZE_MAX, fuzz_memory_bound(size));
    o = fuzz_parquet_options(&memory);
    fuzz_result = AQ_OK;
    fuzz_work = 0;
    status = fuzz_status(aq_parquet_open_reader(&reader, &o, &file, &err), &err);
    FUZZ_CHECK((status == AQ_OK) == (file != NULL));
    if (status == AQ_OK) {
        fuzz_walk_metadata(file, &info);
        /* The page headers of zeros are malformed, but empty chunks are fine. */
        for (i = 0; i < info.num_columns && i < 8 && info.num_row_groups > 0; i++)
            fuzz_read_chunk(file, info.num_row_groups - 1, i, FUZZ_NEXT);
    }
    aq_parquet_close(file);
    fuzz_memory_check(&memory);
}
