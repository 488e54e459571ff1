/* Every decoder of values and levels on streams made here, bit by bit: every width, counts
 * around runs and blocks, memory that ends where the stream ends, streams cut off, values
 * out of bounds; every encoder read bit by bit. On each instruction set of this machine. */
#define AQ_STATIC
#define ARROWQUANT_IMPLEMENTATION
#include "support.h"

#include <criterion/criterion.h>

/* ---- streams made here ---- */

/* Bits appended one by one, and what a decoder must make of them. */
typedef struct stream {
    uint8_t bytes[65536];
    size_t size, bits;
    uint64_t values[8192];
    size_t n;
    size_t needed; /* bytes up to the last value that counts */
} stream;

static void put_byte(stream *s, uint8_t byte) { s->bytes[s->size++] = byte; }

static void put_varint(stream *s, uint64_t v) {
    for (; v >= 0x80; v >>= 7)
        put_byte(s, (uint8_t)(v | 0x80));
    put_byte(s, (uint8_t)v);
}

static void put_zigzag(stream *s, uint64_t v) {
    put_varint(s, v << 1 ^ (v >> 63 ? UINT64_MAX : 0));
}

static void put_bits(stream *s, uint64_t v, uint32_t width) {
    for (uint32_t b = 0; b < width; b++, s->bits++) {
        if (s->bits % 8 == 0) put_byte(s, 0);
        s->bytes[s->size - 1] |= (uint8_t)((v >> b & 1) << s->bits % 8);
    }
}

/* A copy that ends where the memory ends. */
static aqi_cursor exact_copy(const uint8_t *bytes, size_t size, size_t offset) {
    uint8_t *copy = offset_alloc(offset, size);
    if (size > 0) memcpy(copy, bytes, size);
    return aqi_cursor_make(copy, size, 0);
}

static void exact_free(const aqi_cursor *c, size_t offset) {
    offset_free((void *)(uintptr_t)c->start, offset);
}

#define FOR_EACH_ISA(isa)                                                                \
    for (int isa = AQ_ISA_REF; isa <= AQ_ISA_NEON; isa++)                                \
        if (aq_isa_force((aq_isa)isa) == AQ_OK)

/* ---- the hybrid of runs: dictionary indices, levels, booleans ---- */

/* Runs of values of `width` bits, each below `below`, until there are n. A packed run at
 * the end may lack the padding of its last group. */
static void put_runs(stream *s, rng *r, size_t n, uint32_t width, uint64_t below) {
    while (s->n < n) {
        size_t kind = rng_below(r, 16), count = rng_below(r, kind < 2 ? 2500 : 30);
        bool packed = kind % 2 == 0;
        uint64_t v = rng_next(r) % below;
        if (packed) count = aqi_round_up(count, 8);
        put_varint(s, packed ? (uint64_t)count / 8 << 1 | 1 : (uint64_t)count << 1);
        s->bits = 0;
        if (!packed) put_bits(s, v, (width + 7) / 8 * 8);
        for (size_t i = 0; i < count; i++) {
            if (packed && s->n >= n && kind >= 8) break; /* no padding */
            if (packed) put_bits(s, v = rng_next(r) % below, width);
            s->values[s->n++] = v;
            if (s->n == n) s->needed = s->size;
        }
    }
    s->n = n;
}

static void check_indices(const stream *s, uint32_t width, size_t entries, rng *r) {
    static const size_t sizes[] = {1, 2, 4, 5, 8, 12, 16, 33};
    size_t bytes = sizes[rng_below(r, COUNT_OF(sizes))], offset = rng_below(r, 64);
    aqi_cursor in = exact_copy(s->bytes, s->size, offset), cut;
    uint8_t *dictionary = offset_alloc(0, entries * bytes);
    uint8_t *dst = offset_alloc(0, s->n * bytes);
    uint64_t largest = 0;
    rng_bytes(r, dictionary, entries * bytes);
    cut = in;
    CHECK(aqi_dictionary_values(&in, dictionary, entries, bytes, dst, s->n),
          "width %u, %zu values", width, s->n);
    for (size_t i = 0; i < s->n; i++) {
        CHECK(!memcmp(dst + i * bytes, dictionary + s->values[i] * bytes, bytes),
              "width %u, value %zu of %zu", width, i, s->n);
        if (s->values[i] > largest) largest = s->values[i];
    }
    /* A dictionary that lacks the largest index; a stream that ends too early. */
    in = cut;
    CHECK(!aqi_dictionary_values(&in, dictionary, largest, bytes, dst, s->n),
          "width %u, %zu values", width, s->n);
    in = cut;
    in.end = in.start + s->needed - 1;
    CHECK(!aqi_dictionary_values(&in, dictionary, entries, bytes, dst, s->n),
          "width %u, %zu values, cut", width, s->n);
    exact_free(&cut, offset);
    offset_free(dictionary, 0);
    offset_free(dst, 0);
}

Test(streams, indices_of_every_width) {
    static stream s;
    rng r = {31};
    FOR_EACH_ISA(isa) {
        for (uint32_t width = 0; width <= 32; width++) {
            for (size_t n = 1; n <= 2100; n += n < 80 ? 1 : 101) {
                size_t entries = 1 + rng_below(&r, 700);
                if (width < 10) entries = AQI_MIN(entries, (size_t)1 << width);
                memset(&s, 0, sizeof s);
                put_byte(&s, (uint8_t)width);
                put_runs(&s, &r, n, width, entries);
                check_indices(&s, width, entries, &r);
            }
        }
    }
}

static void check_level_stream(const stream *s, uint32_t max, rng *r) {
    size_t offset = rng_below(r, 64);
    aqi_cursor in = exact_copy(s->bytes, s->size, offset);
    uint8_t *dst = offset_alloc(0, s->n);
    aqi_level_counts have, kept, want = {0, 0, (uint32_t)s->values[0]};
    uint64_t largest = 0;
    for (size_t i = 0; i < s->n; i++) {
        want.zeros += s->values[i] == 0;
        want.maxima += s->values[i] == max;
        if (s->values[i] > largest) largest = s->values[i];
    }
    CHECK(aqi_levels_scan(in.p, s->size, max, (int64_t)s->n, NULL, &have), "%zu", s->n);
    CHECK(aqi_levels_scan(in.p, s->size, max, (int64_t)s->n, dst, &kept), "%zu", s->n);
    CHECK(have.zeros == want.zeros && have.maxima == want.maxima &&
              have.first == want.first && memcmp(&have, &kept, sizeof have) == 0,
          "%zu levels up to %u", s->n, max);
    for (size_t i = 0; i < s->n; i++)
        CHECK(dst[i] == s->values[i], "level %zu of %zu, up to %u", i, s->n, max);
    /* The width stays the same, the largest level is too large. */
    if (largest > 0 && aqi_bits_needed(largest - 1) == aqi_bits_needed(max)) {
        CHECK(!aqi_levels_scan(in.p, s->size, (uint32_t)largest - 1, (int64_t)s->n, NULL,
                               &have),
              "%zu levels up to %u", s->n, max);
        CHECK(!aqi_levels_scan(in.p, s->size, (uint32_t)largest - 1, (int64_t)s->n, dst,
                               &have),
              "%zu levels up to %u", s->n, max);
    }
    CHECK(!aqi_levels_scan(in.p, s->needed - 1, max, (int64_t)s->n, dst, &have), "%zu",
          s->n);
    exact_free(&in, offset);
    offset_free(dst, 0);
}

Test(streams, levels_of_every_maximum) {
    static stream s;
    rng r = {37};
    FOR_EACH_ISA(isa) {
        for (uint32_t max = 1; max <= 255; max += max < 20 ? 1 : 47) {
            for (size_t n = 1; n <= 4200; n += n < 80 ? 1 : 211) {
                memset(&s, 0, sizeof s);
                put_runs(&s, &r, n, aqi_bits_needed(max), max + 1);
                check_level_stream(&s, max, &r);
            }
        }
    }
}

/* A run so long that it is one step, of a level that is too large. */
Test(streams, long_run_above_the_maximum) {
    static const uint8_t runs[] = {4, 2, 0xe0, 0x5d, 3, 2, 1}; /* 2, 2; 6000 of 3; 1 */
    uint8_t dst[6003];
    aqi_level_counts counts;
    for (int keep = 0; keep < 2; keep++) {
        uint8_t *to = keep ? dst : NULL;
        cr_assert(aqi_levels_scan(runs, sizeof runs, 3, 6003, to, &counts));
        cr_assert(counts.maxima == 6000 && counts.zeros == 0 && counts.first == 2);
        cr_assert_not(aqi_levels_scan(runs, sizeof runs, 2, 6003, to, &counts));
        cr_assert_not(aqi_levels_scan(runs, sizeof runs, 2, 4000, to, &counts));
        cr_assert(aqi_levels_scan(runs, sizeof runs, 2, 2, to, &counts));
    }
}

Test(streams, booleans_in_runs) {
    static stream s;
    rng r = {41};
    FOR_EACH_ISA(isa) {
        for (size_t n = 1; n <= 4200; n += n < 200 ? 1 : 13) {
            uint8_t *dst = offset_alloc(0, n);
            aqi_cursor in, cut;
            memset(&s, 0, sizeof s);
            s.size = 4;
            put_runs(&s, &r, n, 1, 2);
            aqi_store_le32(s.bytes, (uint32_t)s.size - 4);
            in = exact_copy(s.bytes, s.size, n % 64);
            cut = in;
            CHECK(aqi_rle_booleans(&in, dst, n), "%zu", n);
            for (size_t i = 0; i < n; i++)
                CHECK(dst[i] == s.values[i], "%zu of %zu", i, n);
            in = cut;
            in.end--;
            CHECK(!aqi_rle_booleans(&in, dst, n), "%zu, cut", n);
            exact_free(&cut, n % 64);
            s.size = s.needed - 1;
            aqi_store_le32(s.bytes, (uint32_t)s.size - 4);
            in = exact_copy(s.bytes, s.size, 0);
            CHECK(!aqi_rle_booleans(&in, dst, n), "%zu, shorter", n);
            exact_free(&in, 0);
            offset_free(dst, 0);
        }
    }
}

/* Runs of no values at all, one after the other, end. */
Test(streams, empty_runs_make_progress) {
    static uint8_t zeros[100000];
    uint8_t dst[8], levels[8];
    aqi_level_counts counts;
    for (int packed = 0; packed < 2; packed++) {
        aqi_cursor in = aqi_cursor_make(zeros, sizeof zeros, 0);
        memset(zeros, packed, sizeof zeros);
        zeros[0] = 8;
        cr_assert_not(aqi_dictionary_values(&in, "abcdefgh", 8, 1, dst, 8));
        cr_assert_not(
            aqi_levels_scan(zeros + 1, sizeof zeros - 1, 3, 8, levels, &counts));
    }
}

/* ---- what is written, read bit by bit ---- */

static uint64_t take_varint(const uint8_t **p) {
    uint64_t v = 0;
    for (uint32_t shift = 0;; shift += 7) {
        v |= (uint64_t)(**p & 0x7f) << shift;
        if (*(*p)++ < 0x80) return v;
    }
}

/* Reads the hybrid; returns the number of runs. */
static size_t slow_runs(const uint8_t *p, const uint8_t *end, uint32_t width,
                        uint32_t *dst, size_t n) {
    size_t done = 0, runs = 0;
    for (; p < end; runs++) {
        uint64_t header = take_varint(&p), count = header >> 1;
        const uint8_t *bits = p;
        bool packed = header & 1;
        if (packed) count *= 8;
        for (uint64_t i = 0; i < count; i++) {
            uint32_t v = 0;
            for (uint32_t b = 0; b < width; b++) {
                uint64_t at = (packed ? i : 0) * width + b;
                v |= (uint32_t)(bits[at / 8] >> at % 8 & 1) << b;
            }
            if (done < n)
                dst[done++] = v;
            else
                CHECK(packed && v == 0, "padding of %zu values", n);
        }
        p = bits + (packed ? count / 8 * width : (width + 7) / 8);
    }
    CHECK(p == end && done == n, "%zu of %zu", done, n);
    return runs;
}

/* The same bytes when the values come as counts, of equal ones together or not. */
static void check_repeats(const aq_allocator *a, const aqi_bytes_builder *want,
                          const uint8_t *levels, size_t n, uint32_t width, rng *r) {
    aqi_bytes_builder out = {NULL, 0, 0};
    aqi_rle_writer w;
    aqi_rle_begin(&w, a, &out, width);
    for (size_t i = 0, count; i < n; i += count) {
        size_t most = 1 + rng_below(r, rng_below(r, 4) == 0 ? 3 : 2000);
        for (count = 1; count < most && i + count < n;) {
            if (levels[i + count] != levels[i]) break;
            count++;
        }
        aqi_rle_repeat(&w, levels[i], count);
    }
    cr_assert(aqi_rle_end(&w));
    CHECK(out.size == want->size && memcmp(out.data, want->data, out.size) == 0,
          "width %u, %zu counted", width, n);
    aqi_builder_free(a, &out);
}

Test(streams, runs_that_are_written) {
    static uint32_t values[3000], back[3000];
    static uint8_t levels[3000], kept[3000];
    rng r = {43};
    aq_allocator a;
    cr_assert_eq(aqi_allocator_resolve(NULL, &a, NULL), AQ_OK);
    FOR_EACH_ISA(isa) {
        for (uint32_t width = 1; width <= 32; width++) {
            for (size_t n = 1; n <= 3000; n += n < 100                          ? 1
                                               : (n + 70) % AQI_RLE_BATCH < 140 ? 3
                                                                                : 67) {
                size_t longest = 1 + rng_below(&r, 80), runs, same = 1, long_runs = 0;
                aqi_bytes_builder out = {NULL, 0, 0};
                for (size_t i = 0, left = 0; i < n; i++) {
                    values[i] = (uint32_t)(rng_next(&r) >> 32) >> (32 - width);
                    if (left > 0) values[i] = values[i - 1];
                    left = left > 0 ? left - 1 : rng_below(&r, longest);
                    levels[i] = (uint8_t)values[i];
                    same = i > 0 && values[i] == values[i - 1] ? same + 1 : 1;
                    long_runs += same == (width == 1 ? 32 : width < 4 ? 16 : 8);
                }
                cr_assert(aqi_indices_write(&a, &out, values, n, width));
                cr_assert_eq(out.data[0], width);
                runs = slow_runs(out.data + 1, out.data + out.size, width, back, n);
                CHECK(memcmp(back, values, n * 4) == 0, "width %u, %zu", width, n);
                /* Only a long run is one, beside the last values. */
                CHECK(runs <= 2 * long_runs + 2, "width %u, %zu: %zu", width, n, runs);
                out.size = 0;
                if (width == 1) {
                    for (size_t i = 0; i < n; i++) /* any byte but 0 is true */
                        kept[i] = levels[i] ? (uint8_t)(1 + rng_below(&r, 255)) : 0;
                    cr_assert(aqi_booleans_write(&a, &out, kept, n));
                    CHECK(aqi_load_le32(out.data) == out.size - 4, "%zu", n);
                    slow_runs(out.data + 4, out.data + out.size, 1, back, n);
                    CHECK(memcmp(back, values, n * 4) == 0, "%zu booleans", n);
                    out.size = 0;
                }
                if (width <= 8) {
                    cr_assert(aqi_rle_write(&a, &out, levels, n, width));
                    runs = slow_runs(out.data, out.data + out.size, width, back, n);
                    CHECK(memcmp(back, values, n * 4) == 0, "width %u, %zu", width, n);
                    CHECK(runs <= 2 * long_runs + 2, "width %u, %zu", width, n);
                    CHECK(out.size <= (n + 7) / 8 * width + 2 + 2 * (runs > 1), "%zu", n);
                    check_repeats(&a, &out, levels, n, width, &r);
                    out.size = 0;
                    memset(levels, 1, n); /* a run, even a short one */
                    cr_assert(aqi_rle_write(&a, &out, levels, n, width));
                    CHECK(out.size == (n < 64 ? 2u : 3u), "width %u, %zu", width, n);
                }
                aqi_builder_free(&a, &out);
            }
        }
    }
}

/* The levels of old writers: packed from the most significant bit, without a length. */
Test(streams, levels_that_are_only_packed) {
    uint8_t levels[3000], back[3000], bits[3001];
    rng r = {44};
    FOR_EACH_ISA(isa) {
        for (uint32_t max = 1; max <= 255; max += max < 20 ? 1 : 47) {
            uint32_t width = aqi_bits_needed(max);
            for (size_t n = 1; n <= 3000; n += n < 40 ? 1 : 241) {
                size_t bytes = (n * width + 7) / 8, zeros = 0, maxima = 0;
                aqi_level_counts counts;
                memset(bits, 0, sizeof bits);
                for (size_t i = 0; i < n; i++) {
                    levels[i] = (uint8_t)rng_below(&r, max + 1);
                    zeros += levels[i] == 0;
                    maxima += levels[i] == max;
                    for (uint32_t k = 0; k < width; k++) {
                        size_t at = i * width + k;
                        bits[at / 8] |=
                            (uint8_t)((levels[i] >> (width - 1 - k) & 1) << (7 - at % 8));
                    }
                }
                uint8_t *exact = malloc(bytes);
                memcpy(exact, bits, bytes);
                cr_assert(
                    aqi_levels_scan_packed(exact, bytes, max, (int64_t)n, back, &counts));
                CHECK(memcmp(back, levels, n) == 0, "max %u, %zu", max, n);
                CHECK(counts.zeros == (int64_t)zeros &&
                          counts.maxima == (int64_t)maxima && counts.first == levels[0],
                      "max %u, %zu", max, n);
                CHECK(!aqi_levels_scan_packed(exact, (n * width - 1) / 8, max, (int64_t)n,
                                              back, &counts),
                      "max %u, %zu: too short", max, n);
                if (max + 1 < 1u << width) { /* one level is above */
                    size_t i = rng_below(&r, n);
                    for (size_t at = i * width; at < (i + 1) * width; at++)
                        exact[at / 8] |= (uint8_t)(0x80 >> at % 8);
                }
                CHECK(aqi_levels_scan_packed(exact, bytes, max, (int64_t)n, NULL,
                                             &counts) == (max + 1 == 1u << width),
                      "max %u, %zu: above", max, n);
                free(exact);
            }
        }
    }
}

/* ---- DELTA_BINARY_PACKED ---- */

typedef struct blocks {
    size_t size, minis; /* values in a block, miniblocks in it */
} blocks;

static const blocks block_sizes[] = {{128, 4}, {8, 1},  {16, 2},   {32, 1},  {64, 8},
                                     {256, 1}, {24, 3}, {1024, 4}, {2048, 8}};

/* n integers that need `width` bits, or fewer, in each miniblock; the last miniblock, of
 * which `padding` is left out, ends the stream. */
static void put_delta(stream *s, rng *r, size_t n, blocks b, uint32_t width,
                      bool padding) {
    size_t mini = b.size / b.minis, left = n - 1;
    uint64_t v = rng_next(r) >> rng_below(r, 64);
    put_varint(s, b.size);
    put_varint(s, b.minis);
    put_varint(s, n);
    put_zigzag(s, v);
    s->values[s->n++] = v;
    while (left > 0) {
        uint64_t least = rng_next(r) >> rng_below(r, 64);
        if (rng_below(r, 2) == 0) least = 0 - least;
        put_zigzag(s, least);
        size_t widths = s->size;
        for (size_t m = 0; m < b.minis; m++) /* those without values mean nothing */
            put_byte(s, (uint8_t)(m * mini < left ? width : 255));
        for (size_t m = 0; m < b.minis && left > 0; m++) {
            uint32_t bits = m % 3 == 1 ? (uint32_t)rng_below(r, width + 1) : width;
            s->bytes[widths + m] = (uint8_t)bits;
            s->bits = 0;
            for (size_t i = 0; i < mini && (left > 0 || padding); i++) {
                uint64_t code = bits == 0 ? 0 : rng_next(r) >> (64 - bits);
                put_bits(s, code, bits);
                if (left == 0) continue;
                s->values[s->n++] = v += least + code;
                left--;
            }
        }
    }
}

static void check_delta(const stream *s, uint32_t width, rng *r) {
    size_t offset = rng_below(r, 64);
    aqi_cursor in = exact_copy(s->bytes, s->size, offset), again = in;
    uint32_t *narrow = offset_alloc(0, 4 * s->n);
    uint64_t *wide = offset_alloc(0, 8 * s->n);
    CHECK(aqi_delta_ints(&in, wide, s->n, 8) && in.p == in.end, "width %u", width);
    in = again;
    CHECK(aqi_delta_ints(&in, narrow, s->n, 4) && in.p == in.end, "width %u", width);
    for (size_t i = 0; i < s->n; i++)
        CHECK(wide[i] == s->values[i] && narrow[i] == (uint32_t)s->values[i],
              "width %u, %zu of %zu", width, i, s->n);
    in = again; /* another count than the header's */
    CHECK(!aqi_delta_ints(&in, wide, s->n + 1, 8), "width %u", width);
    exact_free(&again, offset);
    offset_free(narrow, 0);
    offset_free(wide, 0);
}

/* Cut off anywhere, it is refused. */
static void check_cut_delta(const stream *s, uint32_t width) {
    uint64_t *wide = offset_alloc(0, 8 * s->n);
    for (size_t size = 0; size < s->size;
         size += size < 40 || s->size - size < 40 ? 1 : 17) {
        aqi_cursor in = exact_copy(s->bytes, size, size % 64), again = in;
        CHECK(!aqi_delta_ints(&in, wide, s->n, 8), "width %u, %zu of %zu bytes", width,
              size, s->size);
        exact_free(&again, size % 64);
    }
    offset_free(wide, 0);
}

Test(streams, deltas_of_every_width) {
    static stream s;
    rng r = {47};
    FOR_EACH_ISA(isa) {
        for (uint32_t width = 0; width <= 64; width++) {
            for (size_t k = 0; k < COUNT_OF(block_sizes); k++) {
                for (size_t n = 1; n <= 2 * block_sizes[k].size + 3 && n < 700; n++) {
                    size_t in_block = (n - 1) % block_sizes[k].size;
                    bool at_edge = in_block < 3 || in_block + 3 > block_sizes[k].size;
                    if (!at_edge && rng_below(&r, 10) != 0) continue;
                    memset(&s, 0, sizeof s);
                    put_delta(&s, &r, n, block_sizes[k], width, n % 2 == 0);
                    check_delta(&s, width, &r);
                    if (n % 2 == 1 && n < 100 && width > 0) check_cut_delta(&s, width);
                }
            }
        }
    }
}

Test(streams, delta_headers_have_limits) {
    static const struct {
        uint64_t block, minis;
        uint8_t width;
        bool good;
    } headers[] = {
        {128, 4, 8, true},      {128, 4, 65, false},       {128, 4, 255, false},
        {0, 4, 8, false},       {128, 0, 8, false},        {128, 3, 8, false},
        {36, 3, 8, false},      {4, 1, 8, false},          {1 << 24, 4, 8, true},
        {1 << 25, 4, 8, false}, {UINT64_MAX, 1, 8, false}, {8, 8, 8, false},
    };
    for (size_t k = 0; k < COUNT_OF(headers); k++) {
        static stream s;
        uint64_t values[5];
        memset(&s, 0, sizeof s);
        put_varint(&s, headers[k].block);
        put_varint(&s, headers[k].minis);
        put_varint(&s, 5);
        for (size_t i = 0; i < 2; i++) /* the first value, the least delta */
            put_zigzag(&s, 1);
        for (size_t i = 0; i < headers[k].minis && i < 8; i++)
            put_byte(&s, headers[k].width);
        for (size_t i = 0; i < 4; i++)
            put_byte(&s, 0);
        aqi_cursor in = aqi_cursor_make(s.bytes, s.size, 0);
        cr_assert_eq(aqi_delta_ints(&in, values, 5, 8), headers[k].good, "header %zu", k);
    }
}

static void check_delta_written(const aq_allocator *a, const void *src, size_t n,
                                size_t width) {
    aqi_bytes_builder out = {NULL, 0, 0};
    void *back = offset_alloc(0, n * width);
    cr_assert(aqi_delta_write(a, &out, src, n, width));
    aqi_cursor in = exact_copy(out.data, out.size, 0), again = in;
    CHECK(aqi_delta_ints(&in, back, n, width) && in.p == in.end, "%zu of %zu", n, width);
    CHECK(memcmp(back, src, n * width) == 0, "%zu of %zu", n, width);
    exact_free(&again, 0);
    offset_free(back, 0);
    aqi_builder_free(a, &out);
}

Test(streams, deltas_that_are_written) {
    static uint64_t wide[600];
    static uint32_t narrow[600];
    rng r = {53};
    aq_allocator a;
    cr_assert_eq(aqi_allocator_resolve(NULL, &a, NULL), AQ_OK);
    FOR_EACH_ISA(isa) {
        for (uint32_t bits = 0; bits <= 64; bits++) {
            for (size_t n = 1; n <= 600; n += n < 140 ? 1 : 41) {
                uint64_t last = rng_next(&r);
                for (size_t i = 0; i < n; i++) {
                    last += bits == 0 ? 3 : rng_next(&r) >> (64 - bits);
                    wide[i] = last;
                    narrow[i] = (uint32_t)last;
                }
                check_delta_written(&a, wide, n, 8);
                if (bits <= 32) check_delta_written(&a, narrow, n, 4);
            }
        }
    }
}

/* ---- byte arrays ---- */

typedef enum strings { SHORT, LONG, EMPTY, SAME, GROWING, NUM_STRINGS } strings;

/* n strings in `text`, many of which begin as the one before. */
static void make_strings(rng *r, strings kind, size_t n, uint8_t *text, aq_bytes *dst) {
    for (size_t i = 0; i < n; i++) {
        size_t size = rng_below(r, kind == LONG ? 200 : 20),
               same = rng_below(r, size + 1);
        if (kind == EMPTY && rng_below(r, 3) != 0) size = 0;
        if (kind == SAME) size = same = 13;
        if (kind == GROWING) size = same = i;
        rng_bytes(r, text, size);
        if (i > 0) same = AQI_MIN(same, AQI_MIN(dst[i - 1].size, size));
        if (i > 0 && same > 0) memcpy(text, dst[i - 1].data, same);
        dst[i].data = text;
        dst[i].size = size;
        text += size;
    }
}

static bool same_strings(const aq_bytes *a, const aq_bytes *b, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (a[i].size != b[i].size) return false;
        if (a[i].size > 0 && memcmp(a[i].data, b[i].data, a[i].size) != 0) return false;
    }
    return true;
}

static bool join_strings(aqi_cursor *in, size_t n, const aq_bytes *want) {
    aq_bytes *prefix = offset_alloc(0, n * sizeof *prefix);
    aq_bytes *suffix = offset_alloc(0, n * sizeof *prefix);
    aq_bytes *dst = offset_alloc(0, n * sizeof *prefix);
    bool ok = aqi_delta_sizes(in, prefix, n) && aqi_delta_byte_arrays(in, suffix, n);
    size_t total = ok ? aqi_prefixed_bytes(prefix, suffix, n) : SIZE_MAX;
    ok = total != SIZE_MAX;
    if (ok) {
        uint8_t *room = offset_alloc(n % 64, total);
        aqi_prefixed_join(prefix, suffix, n, room, dst);
        ok = same_strings(dst, want, n);
        offset_free(room, n % 64);
    }
    offset_free(prefix, 0);
    offset_free(suffix, 0);
    offset_free(dst, 0);
    return ok;
}

Test(streams, byte_arrays) {
    static uint8_t text[200 * 300];
    static aq_bytes values[300], back[300];
    rng r = {59};
    aq_allocator a;
    cr_assert_eq(aqi_allocator_resolve(NULL, &a, NULL), AQ_OK);
    FOR_EACH_ISA(isa) {
        for (int kind = 0; kind < NUM_STRINGS; kind++) {
            for (size_t n = 1; n <= 300; n += n < 40 ? 1 : 23) {
                aqi_bytes_builder out = {NULL, 0, 0};
                aqi_cursor in, again;
                make_strings(&r, (strings)kind, n, text, values);
                cr_assert(aqi_delta_lengths_write(&a, &out, values, n));
                in = again = exact_copy(out.data, out.size, n % 64);
                CHECK(aqi_delta_byte_arrays(&in, back, n) && in.p == in.end &&
                          same_strings(back, values, n),
                      "kind %d, %zu", kind, n);
                in = again;
                in.end--;
                CHECK(!aqi_delta_byte_arrays(&in, back, n), "kind %d, %zu", kind, n);
                exact_free(&again, n % 64);
                out.size = 0;
                cr_assert(aqi_prefixed_write(&a, &out, values, n, 0));
                in = again = exact_copy(out.data, out.size, n % 64);
                CHECK(join_strings(&in, n, values), "kind %d, %zu", kind, n);
                in = again;
                in.end--;
                CHECK(!join_strings(&in, n, values), "kind %d, %zu, cut", kind, n);
                exact_free(&again, n % 64);
                aqi_builder_free(&a, &out);
            }
        }
    }
}

/* Lengths below 0, above INT32_MAX, and together longer than the page. */
Test(streams, lengths_have_limits) {
    static const uint64_t first[] = {3,          4,           UINT64_MAX,       INT32_MAX,
                                     0x80000000, 0x100000001, (uint64_t)1 << 63};
    for (size_t k = 0; k < COUNT_OF(first); k++) {
        for (size_t n = 1; n <= 3; n += 2) {
            static stream s;
            aq_bytes values[3];
            memset(&s, 0, sizeof s);
            put_varint(&s, 128);
            put_varint(&s, 4);
            put_varint(&s, n);
            put_zigzag(&s, first[k]);
            put_zigzag(&s, 0); /* all the same */
            for (size_t i = 0; i < 4; i++)
                put_byte(&s, 0);
            if (n == 1) s.size -= 5;
            s.size += 3 * n; /* bytes of n strings of 3 */
            aqi_cursor in = exact_copy(s.bytes, s.size, 0), again = in;
            cr_assert_eq(aqi_delta_byte_arrays(&in, values, n), k == 0, "%zu, %zu", k, n);
            in = again;
            cr_assert_eq(aqi_delta_sizes(&in, values, n), first[k] <= INT32_MAX);
            exact_free(&again, 0);
        }
    }
}

/* PLAIN: each with its length before. */
Test(streams, plain_byte_arrays) {
    static uint8_t text[200 * 300];
    static aq_bytes values[300], back[300];
    static stream s;
    rng r = {61};
    for (int kind = 0; kind < NUM_STRINGS; kind++) {
        for (size_t n = 0; n <= 300; n += n < 40 ? 1 : 23) {
            memset(&s, 0, sizeof s);
            make_strings(&r, (strings)kind, n, text, values);
            for (size_t i = 0; i < n; i++) {
                aqi_store_le32(s.bytes + s.size, (uint32_t)values[i].size);
                if (values[i].size > 0)
                    memcpy(s.bytes + s.size + 4, values[i].data, values[i].size);
                s.size += 4 + values[i].size;
            }
            aqi_cursor in = exact_copy(s.bytes, s.size, n % 64), again = in;
            CHECK(aqi_plain_byte_arrays(&in, back, n) && in.p == in.end &&
                      same_strings(back, values, n),
                  "kind %d, %zu", kind, n);
            in = again;
            in.end -= n > 0;
            CHECK(aqi_plain_byte_arrays(&in, back, n) == (n == 0), "kind %d, %zu", kind,
                  n);
            exact_free(&again, n % 64);
        }
    }
}

/* ---- SNAPPY with the CRC-32 on the way ---- */

#ifdef AQ_WITH_SNAPPY
enum { SNAPPY_ROOM = 1 << 17 };

/* Elements made here, and what they stand for. */
typedef struct snappy_case {
    uint8_t bytes[2 * SNAPPY_ROOM], plain[SNAPPY_ROOM];
    size_t size, n;
} snappy_case;

static void put_number(snappy_case *s, size_t number, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        s->bytes[s->size++] = (uint8_t)(number >> 8 * i);
}

static void put_literal(snappy_case *s, rng *r, size_t n, size_t number_bytes) {
    size_t high = number_bytes == 0 ? n - 1 : 59 + number_bytes;
    put_number(s, high << 2, 1);
    put_number(s, n - 1, number_bytes);
    rng_bytes(r, s->plain + s->n, n);
    memcpy(s->bytes + s->size, s->plain + s->n, n);
    s->size += n;
    s->n += n;
}

/* kind 1, 2, 3: offsets of 11, 16 and 32 bits. */
static void put_copy(snappy_case *s, size_t kind, size_t n, size_t offset) {
    if (kind == 1) {
        put_number(s, (offset >> 8) << 5 | (n - 4) << 2 | 1, 1);
        put_number(s, offset & 255, 1);
    } else {
        put_number(s, (n - 1) << 2 | kind, 1);
        put_number(s, offset, kind == 2 ? 2 : 4);
    }
    for (size_t i = 0; i < n; i++, s->n++)
        s->plain[s->n] = s->plain[s->n - offset];
}

static void put_element(snappy_case *s, rng *r, size_t longest) {
    size_t kind = s->n == 0 ? 0 : rng_below(r, 4), n, far;
    if (kind == 0) {
        size_t number_bytes = rng_below(r, 5);
        n = 1 + rng_below(r, longest);
        if (number_bytes == 1 && n > 256) n = 256;
        if (number_bytes == 2 && n > 65536) n = 65536;
        if (number_bytes == 0 && n > 60) n = 60;
        put_literal(s, r, n, number_bytes);
        return;
    }
    far = kind == 1 ? 2047 : kind == 2 ? 65535 : SNAPPY_ROOM;
    n = kind == 1 ? 4 + rng_below(r, 8) : 1 + rng_below(r, 64);
    put_copy(s, kind, n, 1 + rng_below(r, s->n < far ? s->n : far));
}

/* `n` = the size that is asked for; the library's answer is the one wanted. */
static bool same_as_snappy(const snappy_case *s, size_t size, size_t n) {
    aqi_cursor in = exact_copy(s->bytes, size, 0);
    uint8_t *have = offset_alloc(0, n), *want = offset_alloc(0, n);
    uint32_t crc = 123, all = aqi_crc32(123, in.start, size);
    size_t written = n;
    bool wanted = snappy_uncompress((const char *)in.start, size, (char *)want,
                                    &written) == SNAPPY_OK;
    bool ok = aqi_unsnap(in.start, size, have, n, &crc) == wanted;
    if (wanted) ok = ok && crc == all && memcmp(have, want, n) == 0;
    offset_free(have, 0);
    offset_free(want, 0);
    exact_free(&in, 0);
    return ok;
}

Test(streams, snappy_as_the_library) {
    static snappy_case s, broken;
    rng r = {71};
    for (size_t k = 0; k < 400; k++) {
        size_t longest = k % 2 == 0 ? 100 : 40000, goal = k % 4 == 3 ? 80000 : k, header;
        s.size = s.n = 0;
        put_number(&s, 0, 3); /* the size, written again below */
        header = s.size;
        while (s.n < goal)
            put_element(&s, &r, longest);
        for (size_t i = 0; i < 3; i++)
            s.bytes[i] = (uint8_t)((s.n >> 7 * i & 127) | (i < 2 ? 128 : 0));
        CHECK(same_as_snappy(&s, s.size, s.n), "%zu", k);
        uint32_t crc = 0;
        CHECK(aqi_unsnap(s.bytes, s.size, broken.plain, s.n, &crc) &&
                  memcmp(broken.plain, s.plain, s.n) == 0,
              "%zu", k);
        for (size_t m = 0; m < 20 && s.size > header; m++) {
            size_t at = header + rng_below(&r, s.size - header);
            memcpy(broken.bytes, s.bytes, s.size);
            broken.bytes[at] ^= (uint8_t)(1u << rng_below(&r, 8));
            CHECK(same_as_snappy(&broken, s.size, s.n), "%zu, byte %zu", k, at);
            CHECK(same_as_snappy(&s, at, s.n), "%zu, cut at %zu", k, at);
        }
    }
}

/* Its length is 0 in 32 bits; the library takes it for empty, on any machine. */
Test(streams, snappy_literal_of_2_to_the_32) {
    static const uint8_t bytes[] = {1, 0, 'a', 63 << 2, 255, 255, 255, 255};
    uint32_t crc = 0;
    uint8_t plain;
    cr_assert_not(aqi_unsnap(bytes, sizeof bytes, &plain, 1, &crc));
    cr_assert(aqi_unsnap(bytes, 3, &plain, 1, &crc) && plain == 'a');
}
#endif

/* ---- whole codecs ---- */

static const int32_t codecs[] = {AQ_SNAPPY, AQ_GZIP, AQ_BROTLI,
                                 AQ_LZ4,    AQ_ZSTD, AQ_LZ4_RAW};

enum { CODEC_BYTES = 5000 };

/* Runs and noise, so that there is something to leave out and something to keep. */
static void make_plain(uint8_t *plain) {
    rng r = {9};
    rng_bytes(&r, plain, CODEC_BYTES);
    for (size_t i = 0; i < CODEC_BYTES; i++)
        if (i / 100 % 3 != 0) plain[i] = (uint8_t)(i / 300);
}

/* What was compressed comes back; into other sizes, cut off, or where the compressed
 * bytes have too little room, it is an error. */
Test(streams, codecs_take_the_whole_or_nothing) {
    static uint8_t plain[CODEC_BYTES], packed[2 * CODEC_BYTES];
    make_plain(plain);
    for (size_t k = 0; k < COUNT_OF(codecs); k++) {
        const int32_t codec = codecs[k];
        const char *name = aq_codec_name(codec);
        const size_t room = aqi_compress_bound(codec, CODEC_BYTES);
        uint8_t *out = offset_alloc(0, CODEC_BYTES),
                *more = offset_alloc(0, CODEC_BYTES + 1);
        size_t n, cut;
        if (!aqi_codec_available(codec)) continue;
        cr_assert(room >= 8 && room <= sizeof packed, "%s", name);
        n = aqi_compress(codec, 1, plain, CODEC_BYTES, packed, room);
        cr_assert(n > 0 && n < CODEC_BYTES, "%s: %zu", name, n);
        cr_assert(aqi_decompress(codec, packed, n, out, CODEC_BYTES), "%s", name);
        cr_assert_arr_eq(out, plain, CODEC_BYTES, "%s", name);
        cr_expect_not(aqi_decompress(codec, packed, n, out, CODEC_BYTES - 1), "%s", name);
        cr_expect_not(aqi_decompress(codec, packed, n, more, CODEC_BYTES + 1), "%s",
                      name);
        for (cut = 0; cut < n; cut += 1 + cut / 7)
            cr_expect_not(aqi_decompress(codec, packed, cut, out, CODEC_BYTES),
                          "%s: %zu of %zu bytes", name, cut, n);
        if (codec == AQ_SNAPPY) { /* its library demands room for the worst case */
            cr_expect_eq(aqi_compress(codec, 1, plain, CODEC_BYTES, packed, n), 0);
        } else {
            cr_expect_eq(aqi_compress(codec, 1, plain, CODEC_BYTES, packed, n / 2), 0,
                         "%s", name);
            cr_expect_eq(aqi_compress(codec, 1, plain, CODEC_BYTES, packed, 7), 0, "%s",
                         name);
        }
        offset_free(out, 0);
        offset_free(more, 0);
    }
    cr_assert_eq(aqi_compress(3, 1, plain, CODEC_BYTES, packed, sizeof packed),
                 0); /* LZO */
    cr_assert_not(aqi_decompress(3, packed, 100, plain, CODEC_BYTES));
    cr_assert_not(aqi_codec_available(3));
}

#ifdef AQ_WITH_ZLIB
Test(streams, gzip_members) {
    static uint8_t plain[CODEC_BYTES], packed[2 * CODEC_BYTES], out[CODEC_BYTES];
    size_t first, n;
    make_plain(plain);
    first = aqi_compress(AQ_GZIP, 1, plain, 2000, packed, sizeof packed);
    n = first + aqi_compress(AQ_GZIP, 9, plain + 2000, CODEC_BYTES - 2000, packed + first,
                             sizeof packed - first);
    cr_assert(first > 0 && n > first);
    cr_assert(aqi_decompress(AQ_GZIP, packed, n, out, CODEC_BYTES));
    cr_assert_arr_eq(out, plain, CODEC_BYTES);
    packed[first] ^= 1; /* what follows is no member */
    cr_assert_not(aqi_decompress(AQ_GZIP, packed, n, out, CODEC_BYTES));
    cr_assert_not(aqi_decompress(AQ_GZIP, packed, first, out, CODEC_BYTES));
    cr_assert(aqi_decompress(AQ_GZIP, packed, first, out, 2000));
    packed[0] ^= 1;
    cr_assert_not(aqi_decompress(AQ_GZIP, packed, first, out, 2000));
}
#endif

#ifdef AQ_WITH_LZ4
/* Blocks in Hadoop's framing, and the bare block that some writers call by that name. */
Test(streams, lz4_blocks) {
    static uint8_t plain[CODEC_BYTES], packed[2 * CODEC_BYTES], out[CODEC_BYTES];
    size_t first, n;
    make_plain(plain);
    first = aqi_compress(AQ_LZ4, 1, plain, 2000, packed, sizeof packed);
    n = first + aqi_compress(AQ_LZ4, 1, plain + 2000, CODEC_BYTES - 2000, packed + first,
                             sizeof packed - first);
    cr_assert(first > 8 && n > first + 8);
    cr_assert(aqi_decompress(AQ_LZ4, packed, n, out, CODEC_BYTES));
    cr_assert_arr_eq(out, plain, CODEC_BYTES);
    cr_assert_not(aqi_decompress(AQ_LZ4, packed, n - 1, out, CODEC_BYTES));
    cr_assert_not(aqi_decompress(AQ_LZ4, packed, n, out, CODEC_BYTES - 1));
    cr_assert_not(aqi_decompress(AQ_LZ4, packed, first, out, CODEC_BYTES));
    cr_assert_not(aqi_decompress(AQ_LZ4, packed, first + 4, out, 2000));
    packed[first + 3]++; /* the size of the second block */
    cr_assert_not(aqi_decompress(AQ_LZ4, packed, n, out, CODEC_BYTES));
    packed[first + 4] = 0xff; /* its compressed size */
    cr_assert_not(aqi_decompress(AQ_LZ4, packed, n, out, CODEC_BYTES));
    cr_assert(aqi_decompress(AQ_LZ4, packed + 8, first - 8, out, 2000));
    cr_assert_arr_eq(out, plain, 2000);
}
#endif
