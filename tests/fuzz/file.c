/* file.c - the input is a whole Parquet file: metadata, then every column chunk in every
 * way, from memory and through a reader. */
#include "chunks.h"
#include "mutate.h"

typedef struct fuzz_block {
    const uint8_t *data;
    size_t size;
} fuzz_block;

static bool fuzz_block_read(void *user, int64_t offset, void *dst, size_t bytes) {
    const fuzz_block *b = (const fuzz_block *)user;
    FUZZ_CHECK(offset >= 0 && bytes > 0 && bytes <= b->size &&
               (size_t)offset <= b->size - bytes);
    memcpy(dst, b->data + offset, bytes);
    return true;
}

#define FUZZ_MAX_WORK 2000000

/* The chunks of the file; `mapped` is the same file in memory, to compare, or NULL. */
static void fuzz_file_chunks(const aq_parquet *file, const aq_parquet *mapped) {
    aq_parquet_info info;
    int32_t i, k;
    aq_parquet_get_info(file, &info);
    for (i = 0; i < info.num_row_groups; i++) {
        for (k = 0; k < info.num_columns && fuzz_work < FUZZ_MAX_WORK; k++) {
            fuzz_sum a, b;
            if (mapped == NULL) {
                fuzz_read_chunk_all(file, i, k);
                continue;
            }
            a = fuzz_read_chunk(mapped, i, k, FUZZ_NEXT);
            b = fuzz_read_chunk(file, i, k, FUZZ_NEXT);
            fuzz_sums_agree(&a, &b);
            fuzz_work += 10 + a.num_levels + b.num_levels;
        }
    }
}

static void fuzz_file(const uint8_t *data, size_t size) {
    fuzz_block block = {data, size};
    aq_reader reader = {fuzz_block_read, &block, (int64_t)size};
    fuzz_memory memory;
    aq_parquet_options o;
    aq_parquet *mapped, *read;
    aq_parquet_info info;
    aq_error err;
    aq_status status;
    fuzz_memory_init(&memory, SIZE_MAX, 2 * fuzz_memory_bound(size));
    o = fuzz_parquet_options(&memory);
    fuzz_result = AQ_OK;
    fuzz_work = 0;
    status = fuzz_status(aq_parquet_open_memory(data, size, &o, &mapped, &err), &err);
    FUZZ_CHECK((status == AQ_OK) == (mapped != NULL));
    FUZZ_CHECK(aq_parquet_open_reader(&reader, &o, &read, &err) == status);
    if (status == AQ_OK) {
        fuzz_walk_metadata(mapped, &info);
        fuzz_file_chunks(mapped, NULL);
        fuzz_work /= 2;
        fuzz_file_chunks(read, mapped);
    }
    aq_parquet_close(read);
    aq_parquet_close(mapped);
    /* Once more without checksums: they keep most changed bytes from the decoders. */
    if (status == AQ_OK && fuzz_result == AQ_E_CHECKSUM) {
        o.skip_checksums = true;
        fuzz_work = 0;
        FUZZ_CHECK(aq_parquet_open_memory(data, size, &o, &mapped, &err) == AQ_OK);
        fuzz_file_chunks(mapped, NULL);
        aq_parquet_close(mapped);
    }
    fuzz_memory_check(&memory);
}
