/* aq_value.c - one value of a Parquet column as JSON: as people read it, or as stored. */
#include "aq.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* Decimals beyond these are shown as they are stored; no engine computes with such. */
enum { MAX_DECIMAL_BYTES = 64, MAX_DECIMAL_DIGITS = 155 };

#define NANOS_PER_DAY INT64_C(86400000000000)

/*==========================================================================
 * MARK: - Values in a span
 *========================================================================*/

static int32_t load_i32(const uint8_t *at) {
    int32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static int64_t load_i64(const uint8_t *at) {
    int64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

/* The parts of INT96 and INTERVAL are little-endian on every machine. */
static uint64_t load_little(const uint8_t *at, size_t bytes) {
    uint64_t value = 0;
    while (bytes-- != 0)
        value = value << 8 | at[bytes];
    return value;
}

/*==========================================================================
 * MARK: - Bytes, integers, decimals
 *========================================================================*/

static void buffer_hex(buffer *out, const uint8_t *bytes, size_t size) {
    static const char digits[] = "0123456789abcdef";
    char *to = buffer_reserve(out, 2 * size);
    size_t i;
    for (i = 0; i < size; i++) {
        *to++ = digits[bytes[i] >> 4];
        *to++ = digits[bytes[i] & 15];
    }
    out->size += 2 * size;
}

static void put_hex(json *out, const char *key, aq_bytes bytes) {
    json_member(out, key);
    buffer_put(&out->text, "\"0x", 3);
    buffer_hex(&out->text, bytes.data, bytes.size);
    buffer_put(&out->text, "\"", 1);
}

static bool is_utf8(aq_bytes bytes) {
    const char *text = (const char *)bytes.data;
    size_t i = 0, length;
    while (i < bytes.size && (length = utf8_length(text + i, bytes.size - i)) != 0)
        i += length;
    return i == bytes.size;
}

static void put_text(json *out, const char *key, aq_bytes bytes) {
    if (is_utf8(bytes)) {
        json_bytes(out, key, (const char *)bytes.data, bytes.size);
    } else {
        put_hex(out, key, bytes);
    }
}

/* Decimal digits of a magnitude of `count` 32-bit limbs, lowest first, which it uses up;
 * returns where in `digits` they begin. They end at its end. */
static char *limb_digits(uint32_t *limbs, size_t count,
                         char digits[MAX_DECIMAL_DIGITS + 9]) {
    char *at = digits + MAX_DECIMAL_DIGITS + 9;
    while (count != 0) {
        uint64_t rest = 0;
        size_t i = count;
        int k;
        while (i-- != 0) {
            rest = rest << 32 | limbs[i];
            limbs[i] = (uint32_t)(rest / 1000000000);
            rest %= 1000000000;
        }
        while (count != 0 && limbs[count - 1] == 0)
            count--;
        for (k = 0; k < 9 && (count != 0 || rest != 0); k++, rest /= 10)
            *--at = (char)('0' + rest % 10);
    }
    return at;
}

/* unscaled: two's complement, big-endian. All its digits are shown, as a JSON number. */
static void put_decimal(json *out, const char *key, aq_bytes unscaled, int32_t scale) {
    uint32_t limbs[MAX_DECIMAL_BYTES / 4] = {0};
    char digits[MAX_DECIMAL_DIGITS + 9], *first;
    bool negative = unscaled.size != 0 && unscaled.data[0] >= 0x80;
    uint32_t carry = negative;
    size_t i, count, whole;
    for (i = 0; i < unscaled.size; i++) {
        uint32_t byte = unscaled.data[unscaled.size - 1 - i];
        if (negative) {
            byte = (byte ^ 0xff) + carry;
            carry = byte >> 8;
        }
        limbs[i / 4] |= (byte & 0xff) << i % 4 * 8;
    }
    first = limb_digits(limbs, (unscaled.size + 3) / 4, digits);
    count = (size_t)(digits + sizeof digits - first);
    json_member(out, key);
    if (negative) buffer_put(&out->text, "-", 1);
    whole = count > (size_t)scale ? count - (size_t)scale : 0;
    buffer_put(&out->text, whole != 0 ? first : "0", whole != 0 ? whole : 1);
    if (scale > 0) {
        buffer_put(&out->text, ".", 1);
        for (i = count; i < (size_t)scale; i++)
            buffer_put(&out->text, "0", 1);
        buffer_put(&out->text, first + whole, count - whole);
    }
}

static void put_integer_decimal(json *out, const char *key, int64_t unscaled,
                                int32_t scale) {
    uint8_t big[8];
    aq_bytes bytes;
    int i;
    for (i = 0; i < 8; i++)
        big[i] = (uint8_t)((uint64_t)unscaled >> (56 - 8 * i));
    bytes.data = big;
    bytes.size = sizeof big;
    put_decimal(out, key, bytes, scale);
}

static bool is_decimal(const aq_field *field) {
    return field->logical == AQ_LOGICAL_DECIMAL && field->scale >= 0 &&
           field->scale < MAX_DECIMAL_DIGITS;
}

/*==========================================================================
 * MARK: - Dates and times
 *========================================================================*/

static int64_t floor_divide(int64_t value, int64_t by) {
    return value / by - (value % by < 0);
}

static int64_t floor_remainder(int64_t value, int64_t by) {
    return value % by + (value % by < 0 ? by : 0);
}

/* `width` digits of a number that has no more. */
static void put_digits(buffer *out, uint64_t number, size_t width) {
    char *to = buffer_reserve(out, width);
    size_t i;
    for (i = width; i-- != 0; number /= 10)
        to[i] = (char)('0' + number % 10);
    out->size += width;
}

/* "2024-01-31" of days since 1970-01-01, in the Gregorian calendar for all times. ISO 8601
 * wants a sign on years outside 0 to 9999. */
static void put_date(buffer *out, int64_t days) {
    int64_t era, year;
    unsigned day_of_era, year_of_era, day_of_year, month;
    days += 719468; /* from 0000-03-01 on: years that end with a leap day */
    era = floor_divide(days, 146097);
    day_of_era = (unsigned)floor_remainder(days, 146097);
    year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    month = (5 * day_of_year + 2) / 153; /* 0 = March */
    year = era * 400 + year_of_era + (month >= 10);
    if (year < 0 || year > 9999) {
        buffer_print(out, "%+05" PRId64, year);
    } else {
        put_digits(out, (uint64_t)year, 4);
    }
    buffer_put(out, "-", 1);
    put_digits(out, month < 10 ? month + 3 : month - 9, 2);
    buffer_put(out, "-", 1);
    put_digits(out, day_of_year - (153 * month + 2) / 5 + 1, 2);
}

/* "12:34:56.789", with the digits that the unit has; units >= 0. */
static void put_time(buffer *out, int64_t units, int32_t unit_nanos, bool utc) {
    int64_t per_second = 1000000000 / unit_nanos, seconds = units / per_second;
    if (seconds < 360000) {
        put_digits(out, (uint64_t)(seconds / 3600), 2);
    } else {
        buffer_print(out, "%" PRId64, seconds / 3600);
    }
    buffer_put(out, ":", 1);
    put_digits(out, (uint64_t)(seconds / 60 % 60), 2);
    buffer_put(out, ":", 1);
    put_digits(out, (uint64_t)(seconds % 60), 2);
    buffer_put(out, ".", 1);
    put_digits(out, (uint64_t)(units % per_second),
               unit_nanos == 1000000 ? 3
               : unit_nanos == 1000  ? 6
                                     : 9);
    if (utc) buffer_put(out, "Z", 1);
}

static void put_timestamp(buffer *out, int64_t days, int64_t units, int32_t unit_nanos,
                          bool utc) {
    int64_t per_day = NANOS_PER_DAY / unit_nanos;
    put_date(out, days + floor_divide(units, per_day));
    buffer_put(out, "T", 1);
    put_time(out, floor_remainder(units, per_day), unit_nanos, utc);
}

/* INT96: nanoseconds of a day and its Julian number. Writers disagree about the zone. */
static void put_int96(buffer *out, const uint8_t *at) {
    int64_t nanos = (int64_t)load_little(at, 8);
    int32_t julian = (int32_t)load_little(at + 8, 4);
    put_timestamp(out, (int64_t)julian - 2440588, nanos, 1, false);
}

/* "P14M3DT4.005S": the three numbers of an INTERVAL do not convert into each other. */
static void put_interval(buffer *out, const uint8_t *at) {
    uint64_t millis = load_little(at + 8, 4);
    buffer_print(out, "P%" PRIu64 "M%" PRIu64 "DT%" PRIu64 ".%03" PRIu64 "S",
                 load_little(at, 4), load_little(at + 4, 4), millis / 1000,
                 millis % 1000);
}

static void put_uuid(buffer *out, const uint8_t *at) {
    int i;
    for (i = 0; i < 16; i += 2) {
        if (i >= 4 && i <= 10) buffer_put(out, "-", 1);
        buffer_hex(out, at + i, 2);
    }
}

/* Whether values may be short ASCII text, which has no escapes. */
static bool is_special(const aq_field *field) {
    return field->type == AQ_INT96 || field->logical == AQ_LOGICAL_DATE ||
           field->logical == AQ_LOGICAL_TIME || field->logical == AQ_LOGICAL_TIMESTAMP ||
           field->logical == AQ_LOGICAL_UUID || field->logical == AQ_LOGICAL_INTERVAL;
}

/* That text; false = the value contradicts its logical type. */
static bool put_special(buffer *out, const aq_field *field, const uint8_t *at) {
    bool is_i32 = field->type == AQ_INT32, is_i64 = field->type == AQ_INT64;
    int64_t number = is_i32 ? load_i32(at) : is_i64 ? load_i64(at) : 0;
    bool is_fixed = field->type == AQ_FIXED_LEN_BYTE_ARRAY;
    if (field->type == AQ_INT96) {
        put_int96(out, at);
    } else if (field->logical == AQ_LOGICAL_DATE && is_i32) {
        put_date(out, number);
    } else if (field->logical == AQ_LOGICAL_TIME && (is_i32 || is_i64) && number >= 0 &&
               field->unit_nanos > 0) {
        put_time(out, number, field->unit_nanos, field->utc);
    } else if (field->logical == AQ_LOGICAL_TIMESTAMP && is_i64 &&
               field->unit_nanos > 0) {
        put_timestamp(out, 0, number, field->unit_nanos, field->utc);
    } else if (field->logical == AQ_LOGICAL_UUID && is_fixed &&
               field->type_length == 16) {
        put_uuid(out, at);
    } else if (field->logical == AQ_LOGICAL_INTERVAL && is_fixed &&
               field->type_length == 12) {
        put_interval(out, at);
    } else {
        return false;
    }
    return true;
}

/*==========================================================================
 * MARK: - Any value
 *========================================================================*/

static float half_value(unsigned bits) {
    int exponent = (int)(bits >> 10 & 31);
    unsigned fraction = bits & 1023;
    float magnitude = exponent == 31
                          ? (fraction != 0 ? NAN : INFINITY)
                          : ldexpf((float)(exponent != 0 ? fraction + 1024 : fraction),
                                   (exponent != 0 ? exponent : 1) - 25);
    return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

static void put_bytes(json *out, const char *key, const aq_field *field, aq_bytes bytes,
                      bool raw) {
    if (raw || field->logical == AQ_LOGICAL_BSON) {
        put_hex(out, key, bytes);
    } else if (field->logical == AQ_LOGICAL_FLOAT16 && bytes.size == 2) {
        json_float(out, key, half_value((unsigned)load_little(bytes.data, 2)));
    } else if (is_decimal(field) && bytes.size <= MAX_DECIMAL_BYTES) {
        put_decimal(out, key, bytes, field->scale);
    } else {
        put_text(out, key, bytes);
    }
}

static void put_integer(json *out, const char *key, const aq_field *field, int64_t value,
                        bool raw) {
    bool is_unsigned = !raw && field->logical == AQ_LOGICAL_INTEGER && !field->is_signed;
    if (!raw && is_decimal(field)) {
        put_integer_decimal(out, key, value, field->scale);
    } else if (is_unsigned) {
        json_unsigned(out, key,
                      field->type == AQ_INT32 ? (uint32_t)value : (uint64_t)value);
    } else {
        json_signed(out, key, value);
    }
}

static bool put_special_member(json *out, const char *key, const aq_field *field,
                               const uint8_t *at) {
    const json before = *out;
    json_member(out, key);
    buffer_put(&out->text, "\"", 1);
    if (put_special(&out->text, field, at)) {
        buffer_put(&out->text, "\"", 1);
        return true;
    }
    out->text.size = before.text.size;
    out->comma = before.comma;
    return false;
}

void value_put(json *out, const char *key, const aq_field *field, const void *values,
               size_t index, bool raw) {
    const uint8_t *at = (const uint8_t *)values + index * aq_field_value_bytes(field);
    aq_bytes bytes;
    double number;
    float single;
    if (!raw && is_special(field) && put_special_member(out, key, field, at)) return;
    switch (field->type) {
    case AQ_BOOLEAN:
        json_bool(out, key, *at != 0);
        break;
    case AQ_INT32:
        put_integer(out, key, field, load_i32(at), raw);
        break;
    case AQ_INT64:
        put_integer(out, key, field, load_i64(at), raw);
        break;
    case AQ_FLOAT:
        memcpy(&single, at, sizeof single);
        json_float(out, key, single);
        break;
    case AQ_DOUBLE:
        memcpy(&number, at, sizeof number);
        json_number(out, key, number);
        break;
    case AQ_BYTE_ARRAY:
        memcpy(&bytes, at, sizeof bytes);
        put_bytes(out, key, field, bytes, raw);
        break;
    default:
        bytes.data = at;
        bytes.size = aq_field_value_bytes(field);
        put_bytes(out, key, field, bytes, raw);
    }
}
