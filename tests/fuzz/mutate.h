/* mutate.h - changes to valid files from a seed: bytes, numbers, blocks; footers and page
 * headers more often than chance would; and repairs of footer length and page checksums,
 * so that a change is not found out before it matters. */
#ifndef FUZZ_MUTATE_H
#define FUZZ_MUTATE_H

#include "fuzz.h"

typedef struct fuzz_mutation {
    uint8_t *data; /* `room` bytes of malloc */
    size_t size, room;
    uint64_t random; /* xorshift64* */
    uint8_t options[32];
    size_t num_options;
} fuzz_mutation;

FUZZ uint64_t mutate_random(fuzz_mutation *m) {
    m->random ^= m->random >> 12;
    m->random ^= m->random << 25;
    m->random ^= m->random >> 27;
    return m->random * 0x2545f4914f6cdd1du;
}

/* In [0, n), n > 0. */
FUZZ size_t mutate_below(fuzz_mutation *m, size_t n) {
    return (size_t)((mutate_random(m) >> 24) % n);
}

/* In [1, most], at most `left` > 0. */
FUZZ size_t mutate_length(fuzz_mutation *m, size_t most, size_t left) {
    size_t n = 1 + mutate_below(m, most);
    return AQI_MIN(n, left);
}

/* A number that programs stumble over. */
FUZZ uint64_t mutate_number(fuzz_mutation *m) {
    static const uint64_t numbers[] = {0,
                                       1,
                                       2,
                                       7,
                                       8,
                                       16,
                                       32,
                                       64,
                                       127,
                                       128,
                                       255,
                                       256,
                                       1000,
                                       0x7fff,
                                       0x8000,
                                       0xffff,
                                       0x10000,
                                       0xffffff,
                                       0x3fffffff,
                                       0x7ffffffe,
                                       0x7fffffff,
                                       0x80000000u,
                                       0xfffffffe,
                                       0xffffffffu,
                                       0x100000000u,
                                       0x7fffffffffffffffu,
                                       0x8000000000000000u,
                                       0xfffffffffffffffeu,
                                       0xffffffffffffffffu};
    uint64_t n = numbers[mutate_below(m, AQI_COUNT(numbers))];
    return mutate_below(m, 4) == 0 ? n + m->size : n;
}

/* Replaces data[at, at + old) by bytes of src, as far as there is room. */
FUZZ void mutate_splice(fuzz_mutation *m, size_t at, size_t old, const uint8_t *src,
                        size_t bytes) {
    uint8_t copy[64];
    bytes = AQI_MIN(bytes, sizeof copy);
    if (m->size - old + bytes > m->room) return;
    memcpy(copy, src, bytes); /* src may lie in data */
    memmove(m->data + at + bytes, m->data + at + old, m->size - at - old);
    memcpy(m->data + at, copy, bytes);
    m->size = m->size - old + bytes;
}

/* A varint at `at` becomes another one, of any length. */
FUZZ void mutate_varint(fuzz_mutation *m, size_t at) {
    uint8_t bytes[10];
    size_t old = 1, n;
    uint64_t value = mutate_number(m);
    if (mutate_below(m, 2) == 0) value = value << 1 ^ (uint64_t)((int64_t)value >> 63);
    while (old < 10 && at + old < m->size && (m->data[at + old - 1] & 0x80) != 0)
        old++;
    n = aqi_encode_varint(value, bytes);
    mutate_splice(m, at, AQI_MIN(old, m->size - at), bytes, n);
}

/* One change inside of data[begin, end), begin < end, that moves nothing. */
FUZZ void mutate_in_place(fuzz_mutation *m, size_t begin, size_t end) {
    size_t at = begin + mutate_below(m, end - begin), bytes;
    uint8_t number[8];
    switch (mutate_below(m, 5)) {
    case 0:
        m->data[at] = (uint8_t)(m->data[at] ^ 1u << mutate_below(m, 8));
        break;
    case 1:
        m->data[at] = (uint8_t)mutate_random(m);
        break;
    case 2:
        m->data[at] = (uint8_t)(m->data[at] + (mutate_below(m, 2) == 0 ? 1 : 0xff));
        break;
    default: /* a number of 4 or 8 bytes */
        aqi_store_le64(number, mutate_number(m));
        bytes = mutate_below(m, 2) == 0 ? 4 : 8;
        bytes = AQI_MIN(bytes, end - at);
        memcpy(m->data + at, number, bytes);
        break;
    }
}

/* One change inside of data[begin, end), begin < end. */
FUZZ void mutate_once(fuzz_mutation *m, size_t begin, size_t end) {
    size_t at = begin + mutate_below(m, end - begin), from, bytes;
    switch (mutate_below(m, 10)) {
    case 0:
    case 1:
    case 2:
    case 3:
    case 4:
        mutate_in_place(m, begin, end);
        break;
    case 5:
    case 6:
        mutate_varint(m, at);
        break;
    case 7: /* a block from elsewhere */
        from = mutate_below(m, m->size);
        bytes = mutate_length(m, 32, m->size - from);
        mutate_splice(m, at, AQI_MIN(bytes, m->size - at), m->data + from, bytes);
        break;
    case 8: /* one more, or one less */
        from = mutate_below(m, m->size);
        bytes = mutate_length(m, 16, m->size - from);
        mutate_splice(m, at, 0, m->data + from, bytes);
        break;
    default:
        mutate_splice(m, at, mutate_length(m, 16, m->size - at), m->data, 0);
        break;
    }
}

/* ---- Parquet ---- */

FUZZ bool mutate_is_parquet(const fuzz_mutation *m) {
    return m->size >= 12 && memcmp(m->data + m->size - 4, "PAR1", 4) == 0;
}

/* Where the footer begins, by its length; the end of the file if that is nonsense. */
FUZZ size_t mutate_footer(const fuzz_mutation *m) {
    size_t bytes = aqi_load_le32(m->data + m->size - 8);
    return bytes <= m->size - 12 ? m->size - 8 - bytes : m->size - 8;
}

/* A new CRC in the varint of the old one, which may be longer than need be. */
FUZZ void mutate_put_crc(uint8_t *at, const uint8_t *end, uint32_t crc) {
    uint64_t negative = (crc >> 31) != 0 ? UINT32_MAX : 0;
    uint64_t v = (uint32_t)(crc << 1) ^ negative; /* zigzag of 32 bits */
    size_t bytes = 1, i;
    while (at + bytes < end && (at[bytes - 1] & 0x80) != 0)
        bytes++;
    if (bytes < 10 && v >> 7 * bytes != 0) return; /* has no room: the page stays wrong */
    for (i = 0; i < bytes; i++, v >>= 7)
        at[i] = (uint8_t)((v & 0x7f) | (i + 1 < bytes ? 0x80 : 0));
}

/* Checksums of one chunk, where a header has type, sizes and CRC as its first fields. */
FUZZ void mutate_repair_chunk(fuzz_mutation *m, const aq_parquet *file, int32_t group,
                              int32_t column) {
    aq_page_info page;
    aq_column *c;
    aq_error err;
    int pages;
    if (aq_column_open(file, group, column, &c, &err) != AQ_OK) return;
    for (pages = 0; pages < 1000; pages++) {
        uint8_t *at, *end;
        int field;
        if (aq_column_next_page(c, &page, &err) != AQ_OK || page.header_bytes == 0) break;
        at = m->data + page.header_offset;
        end = at + page.header_bytes;
        for (field = 0; field < 3 && at < end && *at == 0x15; field++) {
            at++;
            while (at < end && (*at & 0x80) != 0)
                at++;
            if (at < end) at++;
        }
        if (page.has_crc && field == 3 && at + 1 < end && *at == 0x15)
            mutate_put_crc(at + 1, end,
                           ~aqi_crc32(UINT32_MAX, m->data + page.data_offset,
                                      (size_t)page.compressed_bytes));
    }
    aq_column_close(c);
}

/* The file; NULL when it is none, or its footer takes much. */
FUZZ aq_parquet *mutate_open(const fuzz_mutation *m) {
    aq_parquet_options o;
    aq_parquet *file;
    memset(&o, 0, sizeof o);
    o.max_metadata_bytes = (size_t)4 << 20;
    return aq_parquet_open_memory(m->data, m->size, &o, &file, NULL) == AQ_OK ? file
                                                                              : NULL;
}

FUZZ void mutate_repair(fuzz_mutation *m) {
    aq_parquet *file = mutate_open(m);
    aq_parquet_info info;
    int32_t i, k, chunks = 0;
    if (file == NULL) return;
    aq_parquet_get_info(file, &info);
    for (i = 0; i < info.num_row_groups; i++) {
        for (k = 0; k < info.num_columns && chunks < 200; k++, chunks++)
            mutate_repair_chunk(m, file, i, k);
    }
    aq_parquet_close(file);
}

/* A change to the first page of a column chunk, be it large or small. */
FUZZ void mutate_page(fuzz_mutation *m) {
    aq_parquet *file = mutate_open(m);
    aq_parquet_info info;
    aq_page_info page;
    aq_column *c;
    int32_t group, column;
    if (file == NULL) return;
    aq_parquet_get_info(file, &info);
    if (info.num_row_groups > 0 && info.num_columns > 0) {
        group = (int32_t)mutate_below(m, (size_t)info.num_row_groups);
        column = (int32_t)mutate_below(m, (size_t)info.num_columns);
        if (aq_column_open(file, group, column, &c, NULL) == AQ_OK) {
            if (aq_column_next_page(c, &page, NULL) == AQ_OK && page.compressed_bytes > 0)
                mutate_in_place(m, (size_t)page.data_offset,
                                (size_t)page.data_offset + (size_t)page.compressed_bytes);
            aq_column_close(c);
        }
    }
    aq_parquet_close(file);
}

/* One change to a Parquet file: in the footer, in a page, or anywhere. */
FUZZ void mutate_parquet(fuzz_mutation *m) {
    size_t footer = mutate_footer(m), tail = m->size - footer, begin, i;
    static const uint8_t header[] = {0x15, 0x00, 0x15}; /* of a data page */
    switch (mutate_below(m, 12)) {
    case 0:
    case 1:
    case 2:
    case 3:
        if (footer >= m->size - 8) break;
        mutate_once(m, footer, m->size - 8);
        if (mutate_is_parquet(m) && mutate_below(m, 8) != 0)
            aqi_store_le32(m->data + m->size - 8, (uint32_t)(m->size - 8 - footer));
        return;
    case 4:
    case 5: /* near what looks like a page header */
        begin = mutate_below(m, m->size);
        for (i = begin; i + 32 < footer; i++) {
            if (memcmp(m->data + i, header, sizeof header) != 0) continue;
            mutate_once(m, i, i + 24);
            return;
        }
        break;
    case 6: /* pages are cut off, the footer stays */
        if (footer < 16 || mutate_below(m, 8) != 0) break;
        begin = 4 + mutate_below(m, footer - 4);
        memmove(m->data + begin, m->data + footer, tail);
        m->size = begin + tail;
        return;
    case 7:
    case 8:
    case 9:
    case 10:
        mutate_page(m);
        return;
    default:
        break;
    }
    mutate_once(m, 0, m->size);
}

/* ---- any file ---- */

/* What is changed is the file, without the last n bytes of the input: the options of a
 * target. They follow it again, sometimes one of them changed. */
FUZZ void mutate_begin(fuzz_mutation *m, size_t n) {
    m->num_options = AQI_MIN(n, m->size);
    FUZZ_CHECK(m->num_options <= sizeof m->options);
    m->size -= m->num_options;
    m->room -= m->num_options;
    memcpy(m->options, m->data + m->size, m->num_options);
}

FUZZ void mutate_end(fuzz_mutation *m) {
    if (m->num_options > 0 && mutate_below(m, 3) == 0)
        m->options[mutate_below(m, m->num_options)] = (uint8_t)mutate_random(m);
    memcpy(m->data + m->size, m->options, m->num_options);
    m->size += m->num_options;
}

/* Changes the file in some places; the seed says how. */
FUZZ void mutate_file(fuzz_mutation *m) {
    size_t n = 1 + mutate_below(m, 4), i;
    bool parquet = mutate_is_parquet(m), pages = parquet && mutate_below(m, 3) == 0;
    for (i = 0; i < n && m->size > 16; i++) {
        if (pages) { /* they alone: what their values say, and not where they are */
            mutate_page(m);
        } else if (parquet && mutate_is_parquet(m)) {
            mutate_parquet(m);
        } else if (mutate_below(m, 2) == 0) { /* headers stand at the begin */
            mutate_once(m, 0, AQI_MIN(m->size, (size_t)512));
        } else {
            mutate_once(m, 0, m->size);
        }
    }
    if (!pages && mutate_below(m, 40) == 0) m->size = mutate_below(m, m->size + 1);
    if (parquet && (pages || mutate_below(m, 2) == 0)) mutate_repair(m);
}

#endif
