/* aq_number.c - the shortest decimal that reads back as the same floating-point number.
 *
 * By Raffaello Giulietti's algorithm ("The Schubfach way to render doubles", 2020): scale the
 * ends of the interval that rounds to the number by a power of ten, in which at most one
 * multiple of ten and one of one lie; take that, or else what is nearest to the number. */
#include "aq.h"

#include <string.h>

/*==========================================================================
 * MARK: - Powers of ten
 *========================================================================*/

enum { MIN_POWER = -292, MAX_POWER = 324, LIMBS = 36 }; /* of 32 bits */

/* 10^k, rounded up to 128 bits of which the highest is set. */
typedef struct power {
    uint64_t high, low;
} power;

/* The highest 128 bits of a number, lowest limb first, plus one if `up`, or if others are set. */
static power top_bits(const uint32_t *limbs, bool up) {
    uint64_t words[4];
    power result;
    int top = LIMBS - 1, shift = 0, i;
    while (limbs[top] == 0)
        top--;
    while ((limbs[top] << shift & 0x80000000u) == 0)
        shift++;
    for (i = 0; i < 4; i++) { /* three limbs make one word that is shifted */
        uint64_t high = top - i >= 0 ? limbs[top - i] : 0;
        uint64_t low = top - i >= 1 ? limbs[top - i - 1] : 0;
        words[i] = (high << 32 | low) << shift >> 32;
    }
    if (top >= 4 && (uint32_t)(limbs[top - 4] << shift) != 0) up = true;
    for (i = 0; i < top - 4; i++)
        up = up || limbs[i] != 0;
    result.high = words[0] << 32 | words[1];
    result.low = (words[2] << 32 | words[3]) + up;
    return result;
}

static void multiply_by_10(uint32_t *limbs) {
    uint64_t carry = 0;
    int i;
    for (i = 0; i < LIMBS; i++) {
        carry += (uint64_t)limbs[i] * 10;
        limbs[i] = (uint32_t)carry;
        carry >>= 32;
    }
}

static void divide_by_10(uint32_t *limbs) {
    uint64_t rest = 0;
    int i;
    for (i = LIMBS; i-- != 0;) {
        rest = rest << 32 | limbs[i];
        limbs[i] = (uint32_t)(rest / 10);
        rest %= 10;
    }
}

/* 10^324 has 1077 bits; 2^1151 / 10^292 more than 128. */
static void make_powers(power *powers) {
    uint32_t limbs[LIMBS] = {1};
    int k;
    for (k = 0; k <= MAX_POWER; k++) {
        powers[k - MIN_POWER] = top_bits(limbs, false);
        multiply_by_10(limbs);
    }
    memset(limbs, 0, sizeof limbs);
    limbs[LIMBS - 1] = 0x80000000u;
    for (k = -1; k >= MIN_POWER; k--) {
        divide_by_10(limbs);
        powers[k - MIN_POWER] = top_bits(limbs, true);
    }
}

static power power_of_10(int k) {
    static power powers[MAX_POWER - MIN_POWER + 1];
    if (powers[0].high == 0) make_powers(powers);
    return powers[k - MIN_POWER];
}

/*==========================================================================
 * MARK: - Digits
 *========================================================================*/

/* The high half of the product, to the low half of which `add` is added first. */
static uint64_t multiply(uint64_t a, uint64_t b, uint64_t add, uint64_t *out_low) {
    uint64_t a0 = (uint32_t)a, a1 = a >> 32, b0 = (uint32_t)b, b1 = b >> 32;
    uint64_t low = a0 * b0, mid = a1 * b0 + (low >> 32), mid2 = a0 * b1 + (uint32_t)mid;
    uint64_t high = a1 * b1 + (mid >> 32) + (mid2 >> 32);
    *out_low = (mid2 << 32 | (uint32_t)low) + add;
    return high + (*out_low < add);
}

/* c * g / 2^128; the lowest bit is set too if anything below it is. */
static uint64_t scale(power g, uint64_t c) {
    uint64_t low, high = multiply(g.low, c, 0, &low);
    high = multiply(g.high, c, high, &low);
    return high | (low > 1);
}

/* Rounded down, for all exponents of a double. */
static int log10_of_power_of_2(int e) { return (int)((e * INT64_C(1262611)) >> 22); }
static int log2_of_power_of_10(int e) { return (int)((e * INT64_C(1741647)) >> 19); }

/* The shortest digits of c * 2^q; *out_exponent is the power of ten of the last one.
 * near_below: the number below is half as far as the one above. */
static uint64_t shortest(uint64_t c, int q, bool near_below, int *out_exponent) {
    int k = near_below ? (int)((q * INT64_C(1262611) - 524031) >> 22)
                       : log10_of_power_of_2(q);
    int h = q + log2_of_power_of_10(-k) + 1;
    bool odd = c % 2 != 0, down, up;
    power g = power_of_10(-k);
    uint64_t lower = scale(g, (4 * c - 2 + near_below) << h) + odd;
    uint64_t value = scale(g, 4 * c << h);
    uint64_t upper = scale(g, (4 * c + 2) << h) - odd;
    uint64_t s = value / 4, tens = s / 10;
    if (s >= 10) {
        down = lower <= 40 * tens;
        up = 40 * tens + 40 <= upper;
        if (down != up) {
            *out_exponent = k + 1;
            return tens + up;
        }
    }
    down = lower <= 4 * s;
    up = 4 * s + 4 <= upper;
    *out_exponent = k;
    if (down != up) return s + up;
    return s + (value > 4 * s + 2 || (value == 4 * s + 2 && s % 2 != 0));
}

/*==========================================================================
 * MARK: - Text
 *========================================================================*/

/* As printf's %g with the least precision that shows all digits, but `least` at least. */
static size_t put_decimal(char *out, uint64_t digits, int exponent, int least) {
    char text[20];
    int n = 0, first = (int)sizeof text, i;
    char *at = out;
    while (digits % 10 == 0 && digits != 0) {
        digits /= 10;
        exponent++;
    }
    do {
        text[--first] = (char)('0' + digits % 10);
        digits /= 10;
        n++;
    } while (digits != 0);
    exponent += n - 1; /* of the first digit now */
    if (exponent < -4 || exponent >= (n > least ? n : least)) {
        for (i = 0; i < n; i++) {
            if (i == 1) *at++ = '.';
            *at++ = text[first + i];
        }
        return (size_t)(at - out) + (size_t)sprintf(at, "e%+03d", exponent);
    }
    for (i = exponent; i < 0; i++) { /* 0.000 before the digits */
        *at++ = '0';
        if (i == exponent) *at++ = '.';
    }
    for (i = 0; i < n || i <= exponent; i++) {
        if (i == exponent + 1 && i > 0) *at++ = '.';
        *at++ = i < n ? text[first + i] : '0';
    }
    return (size_t)(at - out);
}

/* A finite number of `bits` fraction bits, its exponent with the bias that makes it that of
 * the last fraction bit. */
static size_t put_number(char *out, uint64_t fraction, int biased, int bits, int bias,
                         int least) {
    uint64_t c = biased != 0 ? fraction | UINT64_C(1) << bits : fraction;
    int q = (biased != 0 ? biased : 1) - bias, exponent = 0;
    if (c == 0) return put_decimal(out, 0, 0, least);
    if (q <= 0 && q >= -bits && (c & ((UINT64_C(1) << -q) - 1)) == 0) {
        c >>= -q; /* an integer */
    } else {
        c = shortest(c, q, fraction == 0 && biased > 1, &exponent);
    }
    return put_decimal(out, c, exponent, least);
}

size_t number_put_double(char out[NUMBER_ROOM], double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    *out = '-';
    return (size_t)(bits >> 63) + put_number(out + (bits >> 63),
                                             bits & UINT64_C(0xfffffffffffff),
                                             (int)(bits >> 52 & 0x7ff), 52, 1075, 15);
}

size_t number_put_float(char out[NUMBER_ROOM], float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    *out = '-';
    return (size_t)(bits >> 31) + put_number(out + (bits >> 31), bits & 0x7fffff,
                                             (int)(bits >> 23 & 0xff), 23, 150, 6);
}
