/* bench_encodings - every encoding of values and levels, page by page, on one thread.
 *   bench_encodings [MiB [NAME [ISA]]]   default: 64 MiB of each, all cases, the best ISA
 * NAME picks the cases whose name has it; ISA is ref or avx2. "of memcpy" is the time that
 * memcpy of the decoded bytes takes, divided by ours: 100 % = as fast as copying. Pages hold
 * 1 MiB decoded; encoded pages come from memory, decoded ones go to one warm page. */
#define AQ_STATIC
#define ARROWQUANT_IMPLEMENTATION
#include "measure.h"

#include <string.h>

enum { PAGE_BYTES = 1 << 20 };

/* --- Values --------------------------------------------------------------------------- */

static uint64_t random_state = 88172645463325252u;

static uint64_t next_random(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * 0x2545f4914f6cdd1du;
}

static uint64_t below(uint64_t n) { return (next_random() >> 32) % n; }

typedef struct spec spec;

/* What a case works on. `values` are all pages, one after the other. */
typedef struct job {
    const spec *s;
    aq_allocator allocator;
    size_t pages, page_values;
    uint8_t *values, *room; /* room: of one decoded page */
    uint8_t *text;          /* what byte arrays point to */
    const void *dictionary;
    aqi_bytes_builder encoded;
    size_t *ends; /* of the encoded pages */
} job;

struct spec {
    const char *name;
    size_t width; /* bytes of a decoded value */
    void (*fill)(job *j);
    bool (*encode)(job *j, const void *values, size_t n);
    bool (*decode)(job *j, aqi_cursor *in, size_t n);
    uint64_t limit; /* for fill: how wide the values spread; for dictionaries: entries */
};

static size_t count_of(const job *j) { return j->pages * j->page_values; }

static void put(job *j, size_t i, uint64_t bits) {
    memcpy(j->values + i * j->s->width, &bits, j->s->width);
}

static void fill_random(job *j) {
    for (size_t i = 0; i < count_of(j); i++)
        put(j, i, j->s->limit == 0 ? next_random() : below(j->s->limit));
}

static void fill_steps(job *j) {
    uint64_t last = 1700000000;
    for (size_t i = 0; i < count_of(j); i++)
        put(j, i, last += below(j->s->limit));
}

/* Zeros and ones in runs of 1 to 100. */
static void fill_runs(job *j) {
    uint64_t value = 0, left = 0;
    for (size_t i = 0; i < count_of(j); i++) {
        if (left == 0) {
            value = below(2);
            left = 1 + below(100);
        }
        put(j, i, value);
        left--;
    }
}

static void fill_tenth(job *j) {
    for (size_t i = 0; i < count_of(j); i++)
        put(j, i, below(10) != 0);
}

/* Definition levels 0 to 3 of short lists, one in ten empty or null. */
static void fill_short_lists(job *j) {
    for (size_t i = 0; i < count_of(j); i++)
        put(j, i, below(10) == 0 ? below(3) : 3);
}

static void fill_one_list(job *j) {
    memset(j->values, 1, count_of(j));
    j->values[0] = 0;
}

/* Paths of limit characters on average, each with the first part of the one before. */
static void fill_strings(job *j) {
    size_t n = count_of(j), at = 0, most = 2 * (size_t)j->s->limit;
    aq_bytes last = {NULL, 0};
    j->text = malloc(n * most + 1);
    for (size_t i = 0; i < n; i++) {
        aq_bytes b = {j->text + at, 1 + below(most - 1)};
        size_t same = below(b.size);
        for (size_t k = 0; k < b.size; k++)
            j->text[at + k] =
                k < same && k < last.size ? last.data[k] : (uint8_t)(97 + below(26));
        memcpy(j->values + i * sizeof b, &b, sizeof b);
        at += b.size;
        last = b;
    }
}

/* --- Encodings ------------------------------------------------------------------------ */

static bool encode_delta(job *j, const void *v, size_t n) {
    return aqi_delta_write(&j->allocator, &j->encoded, v, n, j->s->width);
}

static bool decode_delta(job *j, aqi_cursor *in, size_t n) {
    return aqi_delta_ints(in, j->room, n, j->s->width);
}

/* The values of `fill` are indices, in their low four bytes. */
static bool encode_indices(job *j, const void *v, size_t n) {
    static uint32_t indices[PAGE_BYTES / 4];
    for (size_t i = 0; i < n; i++)
        memcpy(&indices[i], (const uint8_t *)v + i * j->s->width, 4);
    return aqi_indices_write(&j->allocator, &j->encoded, indices, n,
                             aqi_bits_needed(j->s->limit - 1));
}

static bool decode_indices(job *j, aqi_cursor *in, size_t n) {
    return aqi_dictionary_values(in, j->dictionary, j->s->limit, j->s->width, j->room, n);
}

static bool encode_split(job *j, const void *v, size_t n) {
    if (!aqi_builder_reserve(&j->allocator, &j->encoded, n * j->s->width)) return false;
    aqi_byte_stream_split(v, n, j->s->width, 1, j->encoded.data + j->encoded.size);
    j->encoded.size += n * j->s->width;
    return true;
}

static bool decode_split(job *j, aqi_cursor *in, size_t n) {
    aqi_byte_stream_join(in->p, n, j->s->width, j->room);
    return true;
}

static bool encode_booleans(job *j, const void *v, size_t n) {
    return aqi_booleans_write(&j->allocator, &j->encoded, v, n);
}

static bool decode_booleans(job *j, aqi_cursor *in, size_t n) {
    return aqi_rle_booleans(in, j->room, n);
}

static bool encode_bits(job *j, const void *v, size_t n) {
    if (!aqi_builder_reserve(&j->allocator, &j->encoded, n / 8)) return false;
    aqi_k()->pack(v, n, 1, j->encoded.data + j->encoded.size);
    j->encoded.size += n / 8;
    return true;
}

static bool decode_bits(job *j, aqi_cursor *in, size_t n) {
    return aqi_plain_booleans(in, j->room, n);
}

static bool encode_levels(job *j, const void *v, size_t n) {
    return aqi_rle_write(&j->allocator, &j->encoded, v, n, aqi_bits_needed(j->s->limit));
}

/* Counted, and kept where they are not all the same. */
static bool decode_levels(job *j, aqi_cursor *in, size_t n) {
    aqi_level_counts counts;
    uint32_t max = (uint32_t)j->s->limit;
    bool ok = aqi_levels_scan(in->p, aqi_remaining(in), max, (int64_t)n, NULL, &counts);
    if (counts.maxima == (int64_t)n || counts.maxima == (int64_t)n - 1) return ok;
    return ok &&
           aqi_levels_scan(in->p, aqi_remaining(in), max, (int64_t)n, j->room, &counts);
}

static bool encode_lengths(job *j, const void *v, size_t n) {
    return aqi_delta_lengths_write(&j->allocator, &j->encoded, v, n);
}

static bool decode_lengths(job *j, aqi_cursor *in, size_t n) {
    return aqi_delta_byte_arrays(in, (aq_bytes *)(void *)j->room, n);
}

static bool encode_prefixed(job *j, const void *v, size_t n) {
    return aqi_prefixed_write(&j->allocator, &j->encoded, v, n, 0);
}

static bool decode_prefixed(job *j, aqi_cursor *in, size_t n) {
    static uint8_t text[8 * PAGE_BYTES];
    static aq_bytes prefix[PAGE_BYTES / sizeof(aq_bytes)],
        suffix[PAGE_BYTES / sizeof(aq_bytes)];
    if (!aqi_delta_sizes(in, prefix, n) || !aqi_delta_byte_arrays(in, suffix, n))
        return false;
    if (aqi_prefixed_bytes(prefix, suffix, n) > sizeof text) return false;
    aqi_prefixed_join(prefix, suffix, n, text, (aq_bytes *)(void *)j->room);
    return true;
}

static bool encode_plain(job *j, const void *v, size_t n) {
    const aq_bytes *b = v;
    uint8_t size[4];
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++) {
        aqi_store_le32(size, (uint32_t)b[i].size);
        ok = aqi_builder_append(&j->allocator, &j->encoded, size, sizeof size) &&
             aqi_builder_append(&j->allocator, &j->encoded, b[i].data, b[i].size);
    }
    return ok;
}

static bool decode_plain(job *j, aqi_cursor *in, size_t n) {
    return aqi_plain_byte_arrays(in, (aq_bytes *)(void *)j->room, n);
}

static const spec specs[] = {
    {"delta int32, steps of 1", 4, fill_steps, encode_delta, decode_delta, 1},
    {"delta int32, steps below 100", 4, fill_steps, encode_delta, decode_delta, 100},
    {"delta int32, below 2^20", 4, fill_random, encode_delta, decode_delta, 1 << 20},
    {"delta int32, any", 4, fill_random, encode_delta, decode_delta, 0},
    {"delta int64, steps of 1", 8, fill_steps, encode_delta, decode_delta, 1},
    {"delta int64, steps below 100", 8, fill_steps, encode_delta, decode_delta, 100},
    {"delta int64, below 2^31", 8, fill_random, encode_delta, decode_delta, 1ull << 31},
    {"delta int64, any", 8, fill_random, encode_delta, decode_delta, 0},
    {"dictionary of 2, runs of 50", 4, fill_runs, encode_indices, decode_indices, 2},
    {"dictionary of 16, 4 bytes", 4, fill_random, encode_indices, decode_indices, 16},
    {"dictionary of 1000, 4 bytes", 4, fill_random, encode_indices, decode_indices, 1000},
    {"dictionary of 60000, 4 bytes", 4, fill_random, encode_indices, decode_indices,
     60000},
    {"dictionary of 1000, 8 bytes", 8, fill_random, encode_indices, decode_indices, 1000},
    {"dictionary of 1000, strings", 16, fill_random, encode_indices, decode_indices,
     1000},
    {"byte stream split, 2 bytes", 2, fill_random, encode_split, decode_split, 0},
    {"byte stream split, 4 bytes", 4, fill_random, encode_split, decode_split, 0},
    {"byte stream split, 8 bytes", 8, fill_random, encode_split, decode_split, 0},
    {"byte stream split, 7 bytes", 7, fill_random, encode_split, decode_split, 0},
    {"booleans PLAIN", 1, fill_random, encode_bits, decode_bits, 2},
    {"booleans RLE, random", 1, fill_random, encode_booleans, decode_booleans, 2},
    {"booleans RLE, runs of 50", 1, fill_runs, encode_booleans, decode_booleans, 2},
    {"levels, one list", 1, fill_one_list, encode_levels, decode_levels, 1},
    {"levels, a tenth is null", 1, fill_tenth, encode_levels, decode_levels, 1},
    {"levels, runs of 50", 1, fill_runs, encode_levels, decode_levels, 1},
    {"levels 0-3, short lists", 1, fill_short_lists, encode_levels, decode_levels, 3},
    {"strings of 10, PLAIN", 16, fill_strings, encode_plain, decode_plain, 10},
    {"strings of 10, DELTA_LENGTH", 16, fill_strings, encode_lengths, decode_lengths, 10},
    {"strings of 10, DELTA", 16, fill_strings, encode_prefixed, decode_prefixed, 10},
    {"strings of 50, DELTA", 16, fill_strings, encode_prefixed, decode_prefixed, 50},
};

/* --- Measuring ------------------------------------------------------------------------ */

static void need(bool ok) {
    if (ok) return;
    fprintf(stderr, "bench: encoding or decoding failed\n");
    exit(1);
}

static void encode_all(void *arg) {
    job *j = arg;
    size_t page = j->page_values * j->s->width;
    j->encoded.size = 0;
    for (size_t i = 0; i < j->pages; i++) {
        need(j->s->encode(j, j->values + i * page, j->page_values));
        j->ends[i] = j->encoded.size;
    }
}

static void decode_all(void *arg) {
    job *j = arg;
    for (size_t i = 0; i < j->pages; i++) {
        size_t from = i == 0 ? 0 : j->ends[i - 1];
        aqi_cursor in =
            aqi_cursor_make(j->encoded.data + from, j->ends[i] - from, (int64_t)from);
        need(j->s->decode(j, &in, j->page_values));
    }
}

static void copy_all(void *arg) {
    job *j = arg;
    size_t page = j->page_values * j->s->width;
    for (size_t i = 0; i < j->pages; i++)
        memcpy(j->room, j->values + i * page, page);
}

static void report(const job *j, const char *what, const duel_result *r) {
    double n = (double)count_of(j);
    printf("%-30s %-7s %6.2f %9.0f %8.2f %8.0f %%\n", j->s->name, what,
           8.0 * (double)j->encoded.size / n, 1e-6 * n / r->ours,
           1e-9 * n * (double)j->s->width / r->ours, 100.0 * r->ratio);
    fflush(stdout);
}

static void run_spec(const spec *s, size_t mib) {
    job j = {.s = s, .pages = mib, .page_values = PAGE_BYTES / s->width / 8 * 8};
    duel decode = {decode_all, copy_all, NULL, &j},
         encode = {encode_all, copy_all, NULL, &j};
    duel_result result;
    need(aqi_allocator_resolve(NULL, &j.allocator, NULL) == AQ_OK);
    j.values = malloc(count_of(&j) * s->width);
    j.room = calloc(PAGE_BYTES, 1);
    j.ends = malloc(j.pages * sizeof *j.ends);
    j.dictionary = calloc(s->limit < 1 << 20 ? s->limit + 1 : 1, s->width);
    if (j.values == NULL || j.room == NULL || j.ends == NULL || j.dictionary == NULL)
        exit(1);
    s->fill(&j);
    result = run_duel(&encode);
    report(&j, "encode", &result);
    result = run_duel(&decode);
    report(&j, "decode", &result);
    aqi_builder_free(&j.allocator, &j.encoded);
    free((void *)(uintptr_t)j.dictionary);
    free(j.ends);
    free(j.room);
    free(j.text);
    free(j.values);
}

int main(int argc, char **argv) {
    size_t mib = argc > 1 ? (size_t)atoi(argv[1]) : 64;
    if (argc > 3 && aq_isa_force(argv[3][0] == 'r' ? AQ_ISA_REF : AQ_ISA_AVX2) != AQ_OK)
        return 1;
    printf("%zu MiB decoded, %s, median of %d\n", mib, aq_isa_name(aq_isa_active()),
           RUNS);
    printf("%-30s %-7s %6s %9s %8s %10s\n", "case", "", "bits", "M/s", "GB/s",
           "of memcpy");
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        if (argc > 2 && strstr(specs[i].name, argv[2]) == NULL) continue;
        run_spec(&specs[i], mib);
    }
    return 0;
}
