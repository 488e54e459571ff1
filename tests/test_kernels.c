/* Every kernel: the reference against formulas written here, every other instruction set
 * of this machine against the reference, bit for bit. */
#define AQ_STATIC
#define ARROWQUANT_IMPLEMENTATION
#include "support.h"

#include <criterion/criterion.h>

#define MAX_VALUES 300

typedef struct aqi_kernels kernels;

/* ---- inputs ---- */

static const uint32_t edge_bits[] = {
    0x00000000, 0x80000000, /* +0, -0                           */
    0x00000001, 0x80000001, /* smallest subnormals              */
    0x007fffff, 0x00800000, /* largest subnormal, FLT_MIN       */
    0x7f7fffff, 0xff7fffff, /* FLT_MAX, -FLT_MAX                */
    0x3f000000, 0xbf000000, /* 0.5, -0.5                        */
    0x3fc00000, 0x40200000, /* 1.5, 2.5: ties                   */
    0x3f7fffff, 0x3f800001, /* the neighbours of 1              */
    0x437e8000, 0x437f8000, /* 254.5, 255.5                     */
    0x4b000000, 0x4affffff, /* 2^23, below it                   */
    0x7149f2ca,             /* 1e30                             */
};

typedef enum fill { FILL_ORDINARY, FILL_EDGES, FILL_ANY_BITS, NUM_FILLS } fill;

static float any_float(rng *r, fill how) {
    if (how == FILL_ORDINARY) return 4.0f * rng_float(r);
    if (how == FILL_ANY_BITS) return aqi_bits_float((uint32_t)(rng_next(r) >> 32));
    return aqi_bits_float(edge_bits[rng_below(r, COUNT_OF(edge_bits))]);
}

static float *make_floats(rng *r, size_t offset, size_t n, fill how) {
    float *values = offset_alloc(offset, n * sizeof(float));
    for (size_t i = 0; i < n; i++)
        values[i] = any_float(r, how);
    return values;
}

static uint8_t *make_bytes(rng *r, size_t offset, size_t n) {
    uint8_t *bytes = offset_alloc(offset, n);
    rng_bytes(r, bytes, n);
    return bytes;
}

/* NaN is NaN: which payload survives an addition is up to the processor. */
static bool same_float(float a, float b) {
    return aqi_float_bits(a) == aqi_float_bits(b) || (a != a && b != b);
}

static bool same_double(double a, double b) {
    return memcmp(&a, &b, sizeof a) == 0 || (a != a && b != b);
}

/* ---- every instruction set, size and offset ---- */

typedef struct place {
    const kernels *k;
    size_t n, offset; /* the destination has another offset */
    fill how;
    rng *r;
} place;

#define CHECK_AT(at, good)                                                               \
    CHECK(good, "%s, %zu values at offset %zu, fill %d", aq_isa_name((at)->k->isa),      \
          (at)->n, (at)->offset, (int)(at)->how)

/* The offset of a destination: of the same alignment in elements, but another one. */
static size_t other_offset(size_t offset, size_t element) {
    return (offset + 28) / element * element % 64;
}

static void everywhere(size_t least, size_t step, void (*check)(const place *)) {
    rng r = {0x9e3779b97f4a7c15u};
    for (int isa = AQ_ISA_AVX2; isa <= AQ_ISA_NEON; isa++) {
        const kernels *k = aqi_kernels_of((aq_isa)isa);
        if (k == NULL) continue;
        for (size_t n = least; n <= MAX_VALUES; n++) {
            for (size_t offset = 0; offset < 64; offset += step) {
                place at = {k, n, offset, (fill)((n + offset / step) % NUM_FILLS), &r};
                check(&at);
            }
        }
    }
}

/* With NaN or infinity inside, min and max mean nothing. */
static void check_range(const place *at) {
    float *src = make_floats(at->r, at->offset, at->n, at->how);
    aqi_range want, have;
    aqi_range_ref(src, at->n, &want);
    at->k->range(src, at->n, &have);
    CHECK_AT(at, have.absmax_bits == want.absmax_bits);
    if (want.absmax_bits < AQI_INF_BITS) {
        CHECK_AT(at, aqi_float_bits(have.min) == aqi_float_bits(want.min));
        CHECK_AT(at, aqi_float_bits(have.max) == aqi_float_bits(want.max));
    }
    offset_free(src, at->offset);
}

Test(kernels, range) { everywhere(1, sizeof(float), check_range); }

static const aqi_encode encodings[] = {
    {0.0f, 1.0f, 0.0f, 255.0f},      {-4.0f, 31.875f, 0.0f, 255.0f},
    {0.0f, 1.875f, 8.0f, 15.0f},     {-4.0f, 0.375f, 0.0f, 3.0f},
    {3.0f, 0.0f, 9.0f, 15.0f},       {1e30f, 1e-30f, 128.0f, 255.0f},
    {-1e-30f, 1.2e30f, 0.0f, 15.0f}, {0.0f, 0x1p100f, 2.0f, 3.0f},
};

static void check_encode(const place *at) {
    size_t dst_offset = other_offset(at->offset, 1);
    float *src = make_floats(at->r, at->offset, at->n, at->how);
    uint8_t *have = offset_alloc(dst_offset, at->n), want[MAX_VALUES];
    for (size_t i = 0; i < COUNT_OF(encodings); i++) {
        aqi_encode_ref(src, at->n, &encodings[i], want);
        at->k->encode(src, at->n, &encodings[i], have);
        CHECK_AT(at, memcmp(have, want, at->n) == 0);
    }
    offset_free(src, at->offset);
    offset_free(have, dst_offset);
}

Test(kernels, encode) { everywhere(0, sizeof(float), check_encode); }

static void check_pack(const place *at) {
    size_t dst_offset = other_offset(at->offset, 1);
    for (uint32_t bits = 1; bits <= 8; bits++) {
        size_t packed_bytes = (at->n * bits + 7) / 8;
        uint8_t *codes = make_bytes(at->r, at->offset, at->n);
        uint8_t *packed = offset_alloc(dst_offset, packed_bytes), want[MAX_VALUES];
        for (size_t i = 0; i < at->n; i++)
            codes[i] &= (uint8_t)((1u << bits) - 1u);
        aqi_pack_ref(codes, at->n, bits, want);
        at->k->pack(codes, at->n, bits, packed);
        CHECK_AT(at, memcmp(packed, want, packed_bytes) == 0);
        /* And back, from the offset of the destination to that of the source. */
        memcpy(want, codes, at->n);
        memset(codes, 0xEE, at->n);
        at->k->unpack(packed, at->n, bits, codes);
        CHECK_AT(at, memcmp(codes, want, at->n) == 0);
        offset_free(codes, at->offset);
        offset_free(packed, dst_offset);
    }
}

Test(kernels, pack_unpack) { everywhere(0, 1, check_pack); }

static const float decodings[][2] = {
    {1.0f, 0.0f},     {0.1f, 7.3f},   {1e-45f, 8.0f},      {3.3e38f, 1.0f},
    {2e-38f, 128.0f}, {1e30f, -1e6f}, {0x1p-126f, 127.5f}, {5.0f, -1.0f},
};

static void check_decode(const place *at) {
    size_t dst_offset = other_offset(at->offset, sizeof(float));
    uint8_t *src = make_bytes(at->r, at->offset, at->n);
    float *have = offset_alloc(dst_offset, at->n * sizeof(float)), want[MAX_VALUES];
    for (size_t i = 0; i < COUNT_OF(decodings); i++) {
        aqi_decode_ref(src, at->n, decodings[i][0], decodings[i][1], want);
        at->k->decode(src, at->n, decodings[i][0], decodings[i][1], have);
        CHECK_AT(at, memcmp(have, want, at->n * sizeof(float)) == 0);
    }
    offset_free(src, at->offset);
    offset_free(have, dst_offset);
}

Test(kernels, decode) { everywhere(0, 1, check_decode); }

static void check_dot(const place *at) {
    size_t b_offset = other_offset(at->offset, sizeof(float));
    float *a = make_floats(at->r, at->offset, at->n, at->how);
    float *b = make_floats(at->r, b_offset, at->n, at->how);
    float want[AQI_DOT_LANES], have[AQI_DOT_LANES];
    rng_floats(at->r, want, AQI_DOT_LANES, 1.0f);
    memcpy(have, want, sizeof have);
    aqi_dot_ref(a, b, at->n, want);
    at->k->dot(a, b, at->n, have);
    for (size_t i = 0; i < AQI_DOT_LANES; i++)
        CHECK_AT(at, same_float(have[i], want[i]));
    offset_free(a, at->offset);
    offset_free(b, b_offset);
}

Test(kernels, dot) { everywhere(0, sizeof(float), check_dot); }

static void check_sums(const place *at) {
    size_t b_offset = other_offset(at->offset, sizeof(float));
    float *a = make_floats(at->r, at->offset, at->n, at->how);
    float *b = make_floats(at->r, b_offset, at->n, at->how);
    enum { NUM_SUMS = sizeof(aqi_sums) / sizeof(double) };
    double want_values[NUM_SUMS], have_values[NUM_SUMS];
    aqi_sums want, have;
    for (size_t i = 0; i < NUM_SUMS; i++)
        want_values[i] = (double)rng_float(at->r) + 1.0;
    memcpy(&want, want_values, sizeof want);
    memcpy(&have, want_values, sizeof have);
    aqi_sums_ref(a, b, at->n, &want);
    at->k->sums(a, b, at->n, &have);
    memcpy(want_values, &want, sizeof want);
    memcpy(have_values, &have, sizeof have);
    for (size_t i = 0; i < NUM_SUMS; i++)
        CHECK_AT(at, same_double(have_values[i], want_values[i]));
    offset_free(a, at->offset);
    offset_free(b, b_offset);
}

Test(kernels, sums) { everywhere(0, sizeof(float), check_sums); }

typedef void (*widen)(const uint8_t *src, size_t n, float *dst);

static void check_widen(const place *at, widen ref, widen other) {
    size_t dst_offset = other_offset(at->offset, sizeof(float));
    uint8_t *src = make_bytes(at->r, at->offset, 2 * at->n);
    float *have = offset_alloc(dst_offset, at->n * sizeof(float)), want[MAX_VALUES];
    ref(src, at->n, want);
    other(src, at->n, have);
    CHECK_AT(at, memcmp(have, want, at->n * sizeof(float)) == 0);
    offset_free(src, at->offset);
    offset_free(have, dst_offset);
}

static void check_from_f16(const place *at) {
    check_widen(at, aqi_from_f16_ref, at->k->from_f16);
}

static void check_from_bf16(const place *at) {
    check_widen(at, aqi_from_bf16_ref, at->k->from_bf16);
}

Test(kernels, from_f16) { everywhere(0, 1, check_from_f16); }
Test(kernels, from_bf16) { everywhere(0, 1, check_from_bf16); }

static void check_crc32(const place *at) {
    uint8_t *src = make_bytes(at->r, at->offset, at->n);
    uint32_t state = (uint32_t)rng_next(at->r);
    CHECK_AT(at, at->k->crc32(state, src, at->n) == aqi_crc32_ref(state, src, at->n));
    offset_free(src, at->offset);
}

Test(kernels, crc32) { everywhere(0, 1, check_crc32); }

static void check_steps(const place *at) {
    float *src = make_floats(at->r, at->offset, at->n, at->how);
    uint16_t have[MAX_VALUES], want[MAX_VALUES];
    aqi_range range = {0, 0, 0};
    float inverse;
    if (at->n > 0) aqi_range_ref(src, at->n, &range);
    inverse = range.max > range.min ? 28905.0f / (range.max - range.min) : 0.0f;
    if (range.absmax_bits < AQI_INF_BITS && inverse < 1e30f) { /* as its caller sees to */
        int64_t a = aqi_steps_ref(src, at->n, range.min, inverse, 1927, want);
        int64_t b = at->k->steps(src, at->n, range.min, inverse, 1927, have);
        CHECK_AT(at, a == b && memcmp(have, want, 2 * at->n) == 0);
    }
    offset_free(src, at->offset);
}

Test(kernels, steps) { everywhere(0, sizeof(float), check_steps); }

static void check_refit(const place *at) {
    uint16_t *src = (uint16_t *)(void *)make_bytes(at->r, at->offset, 2 * at->n);
    aqi_fine how = {(uint16_t)(rng_next(at->r) % 32768), (uint16_t)rng_next(at->r), 9,
                    15};
    aqi_fine_sums want = {1, 2, 3}, have = want, sums = want;
    uint8_t have_codes[MAX_VALUES], want_codes[MAX_VALUES];
    for (size_t i = 0; i < at->n; i++) src[i] &= 0x7fff;
    if (at->n % 2 != 0) how.shift = 4;
    if (at->n % 2 != 0) how.max_code = 255;
    aqi_refit_ref(src, at->n, &how, &want, want_codes);
    at->k->refit(src, at->n, &how, &have, have_codes);
    CHECK_AT(at, have.q == want.q && have.qq == want.qq && have.qu == want.qu &&
                     memcmp(have_codes, want_codes, at->n) == 0);
    at->k->refit(src, at->n, &how, &sums, NULL);
    CHECK_AT(at, sums.q == want.q && sums.qq == want.qq && sums.qu == want.qu);
    offset_free(src, at->offset);
}

Test(kernels, refit) { everywhere(0, 2, check_refit); }

static void check_squares(const place *at) {
    float *src = make_floats(at->r, at->offset, at->n, at->how);
    uint8_t *codes = make_bytes(at->r, at->offset, at->n);
    aqi_decode how = {0.037f, 7.3f};
    double want[AQI_SUM_LANES] = {0.5}, have[AQI_SUM_LANES] = {0.5};
    aqi_squares_ref(src, codes, at->n, &how, want);
    at->k->squares(src, codes, at->n, &how, have);
    for (size_t i = 0; i < AQI_SUM_LANES; i++)
        CHECK_AT(at, memcmp(&have[i], &want[i], sizeof want[i]) == 0 ||
                         (want[i] != want[i] && have[i] != have[i]));
    offset_free(codes, at->offset);
    offset_free(src, at->offset);
}

Test(kernels, squares) { everywhere(0, sizeof(float), check_squares); }

static void check_moments(const place *at) {
    float *src = make_floats(at->r, at->offset, at->n, at->how);
    double want[2 * AQI_SUM_LANES] = {0.5}, have[2 * AQI_SUM_LANES] = {0.5};
    aqi_moments_ref(src, at->n, 0.7, want);
    at->k->moments(src, at->n, 0.7, have);
    for (size_t i = 0; i < 2 * AQI_SUM_LANES; i++)
        CHECK_AT(at, memcmp(&have[i], &want[i], sizeof want[i]) == 0 ||
                         (want[i] != want[i] && have[i] != have[i]));
    offset_free(src, at->offset);
}

Test(kernels, moments) { everywhere(0, sizeof(float), check_moments); }

static void check_to_halves(const place *at) {
    float *src = make_floats(at->r, at->offset, at->n, at->how);
    uint8_t *have = offset_alloc(at->offset, 2 * at->n), want[2 * MAX_VALUES];
    aqi_to_f16_ref(src, at->n, want);
    at->k->to_f16(src, at->n, have);
    CHECK_AT(at, memcmp(have, want, 2 * at->n) == 0);
    aqi_to_bf16_ref(src, at->n, want);
    at->k->to_bf16(src, at->n, have);
    CHECK_AT(at, memcmp(have, want, 2 * at->n) == 0);
    offset_free(have, at->offset);
    offset_free(src, at->offset);
}

Test(kernels, to_halves) { everywhere(0, sizeof(float), check_to_halves); }

/* Every half comes back; between two neighbours it goes to the nearer one, from middles
 * to the even one. */
Test(kernels, halves_round_to_the_nearest) {
    for (uint32_t half = 0; half < 0x7c00; half++) {
        uint8_t two[4] = {(uint8_t)half, (uint8_t)(half >> 8), (uint8_t)(half + 1),
                          (uint8_t)((half + 1) >> 8)};
        float f[2], between;
        aqi_from_f16_ref(two, 2, f);
        if (half == 0x7bff) f[1] = 65536.0f;
        CHECK(aqi_f16_of(f[0]) == half && aqi_f16_of(-f[0]) == (half | 0x8000u), "%x",
              half);
        between = f[0] + (f[1] - f[0]) * 0.5f;
        CHECK(aqi_f16_of(between) == half + (half & 1u), "%x", half);
        CHECK(aqi_f16_of(nextafterf(between, 0)) == half, "%x", half);
        CHECK(aqi_f16_of(nextafterf(between, INFINITY)) == half + 1, "%x", half);
    }
}

/* The largest sums that a piece can have. */
Test(kernels, refit_does_not_overflow) {
    const aqi_fine how = {0, 65535, 0, 255};
    uint16_t src[1024];
    for (int i = 0; i < 1024; i++) src[i] = 32767;
    for (int isa = AQ_ISA_REF; isa <= AQ_ISA_NEON; isa++) {
        aqi_fine_sums sums = {0, 0, 0};
        if (aqi_kernels_of((aq_isa)isa) == NULL) continue;
        aqi_kernels_of((aq_isa)isa)->refit(src, 1024, &how, &sums, NULL);
        CHECK(sums.q == 1024 * 255 && sums.qq == 1024 * 255 * 255 &&
                  sums.qu == (int64_t)1024 * 255 * 32767,
              "%s", aq_isa_name((aq_isa)isa));
    }
}

/* ---- formulas, for the reference and every other instruction set ---- */

static const kernels *kernels_at(int isa) { return aqi_kernels_of((aq_isa)isa); }

/* k: the kernels of each instruction set of this machine, the reference first. */
#define FOR_EACH_ISA(k)                                                                  \
    for (int isa_ = AQ_ISA_REF; isa_ <= AQ_ISA_NEON; isa_++)                             \
        for (const kernels *k = kernels_at(isa_); k != NULL; k = NULL)

/* The one largest, smallest or not finite value is found wherever it stands. */
Test(kernels, range_at_every_position) {
    static const size_t sizes[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 100};
    static const float specials[] = {9.0f, -9.0f, NAN, INFINITY, -INFINITY};
    float values[100];
    FOR_EACH_ISA(k) {
        for (size_t s = 0; s < COUNT_OF(sizes) * COUNT_OF(specials); s++) {
            size_t n = sizes[s / COUNT_OF(specials)];
            float special = specials[s % COUNT_OF(specials)];
            for (size_t i = 0; i < n; i++) {
                aqi_range r;
                for (size_t j = 0; j < n; j++)
                    values[j] = j % 2 == 0 ? 1.0f : -1.0f;
                values[i] = special;
                k->range(values, n, &r);
                CHECK(r.absmax_bits == (aqi_float_bits(special) & 0x7fffffffu),
                      "%s: %f at %zu of %zu", aq_isa_name(k->isa), special, i, n);
                CHECK(special != 9.0f || r.max == 9.0f, "max at %zu of %zu", i, n);
                CHECK(special != -9.0f || r.min == -9.0f, "min at %zu of %zu", i, n);
            }
        }
    }
}

/* Whichever zero an instruction set calls less, the bounds are +0. */
Test(kernels, range_of_zeros_is_positive_zero) {
    FOR_EACH_ISA(k) {
        for (size_t n = 1; n <= 40; n++) {
            for (size_t i = 0; i <= n; i++) {
                float values[40];
                aqi_range r;
                for (size_t j = 0; j < n; j++)
                    values[j] = j < i ? -0.0f : 0.0f;
                k->range(values, n, &r);
                CHECK(aqi_float_bits(r.min) == 0 && aqi_float_bits(r.max) == 0 &&
                          r.absmax_bits == 0,
                      "%s: %zu of %zu negative", aq_isa_name(k->isa), i, n);
            }
        }
    }
}

/* Quarter steps over and beyond the codes: halves go to the even neighbour. */
Test(kernels, encode_rounds_half_to_even) {
    static const float limits[] = {3.0f, 15.0f, 255.0f};
    enum { N = 4 * 300 };
    float values[N];
    uint8_t codes[N];
    for (int i = 0; i < N; i++)
        values[i] = (float)(i - 80) * 0.25f;
    FOR_EACH_ISA(k) {
        for (size_t m = 0; m < COUNT_OF(limits); m++) {
            aqi_encode how = {0.0f, 1.0f, 0.0f, limits[m]};
            k->encode(values, N, &how, codes);
            for (int i = 0; i < N; i++) {
                float want = nearbyintf(fminf(fmaxf(values[i], 0.0f), limits[m]));
                CHECK((float)codes[i] == want, "%s: %f to %d of %.0f",
                      aq_isa_name(k->isa), values[i], codes[i], limits[m]);
            }
        }
    }
}

/* Code i occupies bits [i * bits, (i + 1) * bits) of the stream, low bits first; what is
 * left of the last byte is zero. */
Test(kernels, pack_is_least_significant_bit_first) {
    rng r = {7};
    FOR_EACH_ISA(k) {
        for (uint32_t bits = 1; bits <= 8; bits++) {
            for (size_t n = 0; n <= 130; n++) {
                uint8_t codes[130], have[130], want[130] = {0};
                rng_bytes(&r, codes, n);
                for (size_t i = 0; i < n; i++) {
                    codes[i] &= (uint8_t)((1u << bits) - 1u);
                    for (uint32_t b = 0; b < bits; b++) {
                        size_t at = i * bits + b;
                        want[at / 8] |= (uint8_t)((codes[i] >> b & 1u) << at % 8);
                    }
                }
                k->pack(codes, n, bits, have);
                CHECK(memcmp(have, want, (n * bits + 7) / 8) == 0, "%s: %zu of %u bits",
                      aq_isa_name(k->isa), n, bits);
                /* Bits behind the last code mean nothing. */
                if (n * bits % 8 != 0)
                    want[n * bits / 8] |= (uint8_t)(0xff << n * bits % 8);
                k->unpack(want, n, bits, have);
                CHECK(memcmp(have, codes, n) == 0, "%s: back, %zu of %u bits",
                      aq_isa_name(k->isa), n, bits);
            }
        }
    }
}

/* Code i of a stream, bit by bit. */
static uint64_t slow_code(const uint8_t *src, size_t i, uint32_t bits) {
    uint64_t code = 0;
    for (size_t b = 0, at = i * bits; b < bits; b++, at++)
        code |= (uint64_t)(src[at / 8] >> at % 8 & 1u) << b;
    return code;
}

/* n codes at `offset`, `slack` more readable bytes, then the end of the memory. */
static aqi_codes make_codes(rng *r, size_t offset, size_t n, uint32_t bits,
                            size_t slack) {
    aqi_codes c = {NULL, (n * bits + 7) / 8 + slack, bits};
    c.src = make_bytes(r, offset, c.readable);
    return c;
}

static void free_codes(const aqi_codes *c, size_t offset) {
    offset_free((void *)(uintptr_t)c->src, offset);
}

static const size_t slacks[] = {0, 1, 7, 8, 9, 15, 16, 17, 24, 31, 40};

static void check_codes(const kernels *k, uint32_t bits, size_t n, rng *r) {
    size_t offset = (n * 7 + bits) % 64, slack = slacks[(n + bits) % COUNT_OF(slacks)];
    aqi_codes c = make_codes(r, offset, n, bits, slack);
    uint32_t *narrow = offset_alloc(0, n * 4), least32 = (uint32_t)rng_next(r);
    uint64_t *wide = offset_alloc(0, n * 8), least = rng_next(r), first = rng_next(r);
    uint64_t last = first, codes[MAX_VALUES];
    uint32_t last32 = (uint32_t)first, largest = 0;
    for (size_t i = 0; i < n; i++)
        codes[i] = slow_code(c.src, i, bits);
    if (bits <= 32) {
        uint32_t most = k->unpack32(&c, n, narrow);
        for (size_t i = 0; i < n; i++) {
            CHECK(narrow[i] == codes[i], "%s: code %zu of %zu, %u bits, slack %zu",
                  aq_isa_name(k->isa), i, n, bits, slack);
            if (narrow[i] > largest) largest = narrow[i];
        }
        CHECK(most == largest, "%s: largest of %zu, %u bits", aq_isa_name(k->isa), n,
              bits);
    }
    uint32_t end32 = k->delta32(&c, n, least32, (uint32_t)first, narrow);
    uint64_t end = k->delta64(&c, n, least, first, wide);
    for (size_t i = 0; i < n; i++) {
        last32 += least32 + (uint32_t)codes[i];
        last += least + codes[i];
        CHECK(narrow[i] == last32 && wide[i] == last,
              "%s: sum %zu of %zu, %u bits, slack %zu", aq_isa_name(k->isa), i, n, bits,
              slack);
    }
    CHECK(end32 == last32 && end == last, "%s: last sum of %zu, %u bits",
          aq_isa_name(k->isa), n, bits);
    free_codes(&c, offset);
    offset_free(narrow, 0);
    offset_free(wide, 0);
}

Test(kernels, codes_of_every_width) {
    rng r = {21};
    FOR_EACH_ISA(k) {
        for (uint32_t bits = 0; bits <= 64; bits++) {
            for (size_t n = 0; n <= 140; n++)
                check_codes(k, bits, n, &r);
        }
    }
}

/* The one largest code is found wherever it stands. */
Test(kernels, largest_code_at_every_position) {
    FOR_EACH_ISA(k) {
        for (size_t n = 1; n <= 70; n++) {
            for (uint32_t bits = 1; bits <= 32; bits++) {
                for (size_t i = 0; i < n; i++) {
                    uint8_t bytes[70 * 4 + 16] = {0};
                    uint32_t dst[70];
                    aqi_codes c = {bytes, sizeof bytes, bits};
                    size_t at = (i + 1) * bits - 1; /* its highest bit */
                    bytes[at / 8] = (uint8_t)(1u << at % 8);
                    CHECK(k->unpack32(&c, n, dst) == 1u << (bits - 1),
                          "%s: %zu of %zu, %u bits", aq_isa_name(k->isa), i, n, bits);
                }
            }
        }
    }
}

static void check_streams(const kernels *k, size_t n, size_t width, rng *r) {
    size_t offset = (n + 5 * width) % 64, to = (3 * n + width) % 64;
    uint8_t *streams = make_bytes(r, offset, n * width);
    uint8_t *values = offset_alloc(to, n * width),
            *back = offset_alloc(offset, n * width);
    k->join(streams, n, width, values);
    for (size_t i = 0; i < n; i++) {
        for (size_t b = 0; b < width; b++)
            CHECK(values[i * width + b] == streams[b * n + i],
                  "%s: byte %zu of value %zu of %zu", aq_isa_name(k->isa), b, i, n);
    }
    k->split(values, n, width, back);
    CHECK(memcmp(back, streams, n * width) == 0, "%s: %zu values of %zu bytes",
          aq_isa_name(k->isa), n, width);
    offset_free(streams, offset);
    offset_free(values, to);
    offset_free(back, offset);
}

Test(kernels, byte_streams_of_every_width) {
    static const size_t sizes[] = {1007, 1008, 1023, 1024, 1025, 1040, 2047, 2080};
    rng r = {23};
    FOR_EACH_ISA(k) {
        for (size_t width = 0; width <= 34; width++) {
            for (size_t n = 0; n <= 70; n++)
                check_streams(k, n, width, &r);
            for (size_t i = 0; i < COUNT_OF(sizes); i++)
                check_streams(k, sizes[i], width, &r);
        }
    }
}

Test(kernels, run_ends_at_every_position) {
    FOR_EACH_ISA(k) {
        for (size_t n = 0; n <= 200; n++) {
            uint8_t *bytes = offset_alloc(n % 64, n);
            for (size_t i = n > 0; i <= n; i++) {
                memset(bytes, 0xfe, n);
                if (i < n) bytes[i] = 0xff;
                if (i + 1 < n) bytes[n - 1] = (uint8_t)i;
                CHECK(k->run(bytes, n) == i, "%s: run of %zu of %zu", aq_isa_name(k->isa),
                      i, n);
            }
            offset_free(bytes, n % 64);
        }
    }
}

/* Also beyond 255 times 32, where a counter of one byte would wrap. */
Test(kernels, levels_are_counted) {
    static const size_t sizes[] = {8159, 8160, 8161, 8192, 8223, 16320, 16500};
    static const uint32_t maxima[] = {1, 2, 3, 127, 128, 255};
    rng r = {29};
    FOR_EACH_ISA(k) {
        for (size_t s = 0; s < 140 + COUNT_OF(sizes); s++) {
            size_t n = s < 140 ? s : sizes[s - 140];
            for (size_t m = 0; m < 3 * COUNT_OF(maxima); m++) {
                uint32_t max = maxima[m / 3], largest = 0, most;
                uint8_t *levels = make_bytes(&r, n % 64, n);
                aqi_level_counts have = {5, 7, 9}, want = {5, 7, 9};
                for (size_t i = 0; i < n; i++) {
                    if (m % 3 == 0) levels[i] = (uint8_t)(levels[i] % (max + 1));
                    if (m % 3 == 1) levels[i] = (uint8_t)max;
                    if (m % 3 == 2) levels[i] = (uint8_t)(levels[i] < 2 ? 255 : 0);
                    want.zeros += levels[i] == 0;
                    want.maxima += levels[i] == max;
                    if (levels[i] > largest) largest = levels[i];
                }
                most = k->levels(levels, n, max, &have);
                CHECK(most == largest && have.zeros == want.zeros &&
                          have.maxima == want.maxima && have.first == 9,
                      "%s: %zu levels up to %u", aq_isa_name(k->isa), n, max);
                offset_free(levels, n % 64);
            }
        }
    }
}

/* volatile: no fused multiply-add, whatever the compiler may do elsewhere. */
static float times(float a, float b) {
    volatile float product = a * b;
    return product;
}

Test(kernels, decode_of_every_code) {
    uint8_t codes[256];
    float values[256];
    for (int i = 0; i < 256; i++)
        codes[i] = (uint8_t)i;
    FOR_EACH_ISA(k) {
        for (size_t d = 0; d < COUNT_OF(decodings); d++) {
            k->decode(codes, 256, decodings[d][0], decodings[d][1], values);
            for (int i = 0; i < 256; i++)
                CHECK(values[i] == times((float)i - decodings[d][1], decodings[d][0]),
                      "%s: code %d, scale %g, zero point %g", aq_isa_name(k->isa), i,
                      decodings[d][0], decodings[d][1]);
        }
    }
}

/* Lane l takes the products l, l + 32, l + 64, ... in order, each rounded by itself. */
Test(kernels, dot_lanes) {
    rng r = {11};
    FOR_EACH_ISA(k) {
        for (size_t n = 0; n <= MAX_VALUES; n++) {
            float a[MAX_VALUES], b[MAX_VALUES], lanes[32] = {0};
            rng_floats(&r, a, n, 3.0f);
            rng_floats(&r, b, n, 5.0f);
            k->dot(a, b, n, lanes);
            for (size_t lane = 0; lane < 32; lane++) {
                float sum = 0.0f;
                for (size_t i = lane; i < n; i += 32)
                    sum += times(a[i], b[i]);
                CHECK(sum == lanes[lane], "%s: lane %zu of %zu", aq_isa_name(k->isa),
                      lane, n);
            }
        }
    }
}

/* The same for the eight lanes of the metrics, in double. */
Test(kernels, sums_lanes) {
    rng r = {13};
    FOR_EACH_ISA(k) {
        for (size_t n = 0; n <= MAX_VALUES; n++) {
            float a[MAX_VALUES], b[MAX_VALUES];
            aqi_sums s = {{0}, {0}, {0}, {0}, {0}};
            rng_floats(&r, a, n, 3.0f);
            rng_floats(&r, b, n, 5.0f);
            k->sums(a, b, n, &s);
            for (size_t lane = 0; lane < 8; lane++) {
                double aa = 0, bb = 0, ab = 0, dd = 0, max = 0;
                for (size_t i = lane; i < n; i += 8) {
                    volatile double x = a[i], y = b[i], d = x - y, xx = x * x, yy = y * y,
                                    xy = x * y, d2 = d * d;
                    aa += xx;
                    bb += yy;
                    ab += xy;
                    dd += d2;
                    max = fmax(max, fabs(d));
                }
                CHECK(aa == s.aa[lane] && bb == s.bb[lane] && ab == s.ab[lane] &&
                          dd == s.dd[lane] && max == s.max_abs[lane],
                      "%s: lane %zu of %zu", aq_isa_name(k->isa), lane, n);
            }
        }
    }
}

/* All 65536 patterns of two bytes, little-endian. */
static const uint8_t *all_halves(void) {
    static uint8_t bytes[2 * 65536];
    for (size_t i = 0; i < 65536; i++) {
        bytes[2 * i] = (uint8_t)i;
        bytes[2 * i + 1] = (uint8_t)(i >> 8);
    }
    return bytes;
}

Test(kernels, every_f16) {
    const uint8_t *halves = all_halves();
    static float values[65536];
    FOR_EACH_ISA(k) {
        k->from_f16(halves, 65536, values);
        for (uint32_t i = 0; i < 65536; i++) {
            int exponent = (int)(i >> 10 & 31), fraction = (int)(i & 1023);
            uint32_t want, sign = i >> 15 << 31;
            if (exponent == 31) {
                /* A NaN keeps its payload and becomes quiet. */
                want = 0x7f800000u | (uint32_t)fraction << 13;
                if (fraction != 0) want |= 0x00400000u;
            } else if (exponent == 0) {
                want = aqi_float_bits(ldexpf((float)fraction, -24));
            } else {
                want = aqi_float_bits(ldexpf((float)(1024 + fraction), exponent - 25));
            }
            CHECK(aqi_float_bits(values[i]) == (sign | want), "%s: %04x",
                  aq_isa_name(k->isa), i);
        }
    }
}

Test(kernels, every_bf16) {
    const uint8_t *halves = all_halves();
    static float values[65536];
    FOR_EACH_ISA(k) {
        k->from_bf16(halves, 65536, values);
        for (uint32_t i = 0; i < 65536; i++)
            CHECK(aqi_float_bits(values[i]) == i << 16, "%s: %04x", aq_isa_name(k->isa),
                  i);
    }
}

/* One bit at a time, from the polynomial. */
static uint32_t slow_crc32(uint32_t state, const uint8_t *src, size_t n) {
    for (size_t i = 0; i < n; i++) {
        state ^= src[i];
        for (int bit = 0; bit < 8; bit++)
            state = (state & 1u) != 0 ? state >> 1 ^ 0xedb88320u : state >> 1;
    }
    return state;
}

Test(kernels, crc32_is_that_of_gzip) {
    static const struct {
        const char *text;
        uint32_t crc;
    } known[] = {
        {"", 0x00000000u},
        {"a", 0xe8b7be43u},
        {"abc", 0x352441c2u},
        {"123456789", 0xcbf43926u},
        {"The quick brown fox jumps over the lazy dog", 0x414fa339u},
        {"1234567890123456789012345678901234567890123456789012345678901234567890123456789"
         "0",
         0x7ca94a72u},
    };
    rng r = {17};
    uint8_t bytes[1000];
    rng_bytes(&r, bytes, sizeof bytes);
    FOR_EACH_ISA(k) {
        for (size_t i = 0; i < COUNT_OF(known); i++) {
            const uint8_t *text = (const uint8_t *)known[i].text;
            uint32_t crc = ~k->crc32(0xffffffffu, text, strlen(known[i].text));
            CHECK(crc == known[i].crc, "%s: %08x of \"%s\"", aq_isa_name(k->isa), crc,
                  known[i].text);
        }
        for (size_t n = 0; n <= sizeof bytes; n++)
            CHECK(k->crc32(0x12345678u, bytes, n) == slow_crc32(0x12345678u, bytes, n),
                  "%s: %zu bytes", aq_isa_name(k->isa), n);
    }
}

/* A state goes on where the last call left it. */
Test(kernels, crc32_in_two_parts) {
    rng r = {19};
    uint8_t bytes[500];
    rng_bytes(&r, bytes, sizeof bytes);
    FOR_EACH_ISA(k) {
        uint32_t whole = k->crc32(0xffffffffu, bytes, sizeof bytes);
        for (size_t cut = 0; cut <= sizeof bytes; cut++) {
            uint32_t state = k->crc32(0xffffffffu, bytes, cut);
            CHECK(k->crc32(state, bytes + cut, sizeof bytes - cut) == whole,
                  "%s: cut at %zu", aq_isa_name(k->isa), cut);
        }
    }
}

/* ---- choosing an instruction set ---- */

Test(isa, force_each) {
    size_t refused = 0;
    cr_assert(aq_isa_supported(AQ_ISA_AUTO));
    cr_assert(aq_isa_supported(AQ_ISA_REF));
    for (int i = AQ_ISA_REF; i <= AQ_ISA_NEON; i++) {
        aq_isa isa = (aq_isa)i, before = aq_isa_active();
        if (aq_isa_supported(isa)) {
            cr_assert_eq(aq_isa_force(isa), AQ_OK);
            cr_assert_eq(aq_isa_active(), isa);
        } else {
            refused++;
            cr_assert_eq(aq_isa_force(isa), AQ_E_UNSUPPORTED);
            cr_assert_eq(aq_isa_active(), before);
        }
    }
    /* No machine has both NEON and AVX2. */
    cr_assert_gt(refused, 0u);
}

Test(isa, auto_is_the_best) {
    aq_isa best = aq_isa_active();
    cr_assert_eq(aq_isa_force(AQ_ISA_REF), AQ_OK);
    cr_assert_eq(aq_isa_active(), AQ_ISA_REF);
    cr_assert_eq(aq_isa_force(AQ_ISA_AUTO), AQ_OK);
    cr_assert_eq(aq_isa_active(), best);
    if (aq_isa_supported(AQ_ISA_AVX2)) cr_assert_neq(best, AQ_ISA_REF);
}

Test(isa, unknown_numbers) {
    static const int numbers[] = {-1, 5, 99};
    for (size_t i = 0; i < COUNT_OF(numbers); i++) {
        aq_isa isa = (aq_isa)numbers[i];
        cr_assert_not(aq_isa_supported(isa));
        cr_assert_eq(aq_isa_force(isa), AQ_E_UNSUPPORTED);
        cr_assert_str_eq(aq_isa_name(isa), "unknown");
    }
}

Test(isa, names) {
    static const char *const names[] = {"auto", "ref", "avx2", "avx512", "neon"};
    for (int i = AQ_ISA_AUTO; i <= AQ_ISA_NEON; i++)
        cr_assert_str_eq(aq_isa_name((aq_isa)i), names[i]);
}
