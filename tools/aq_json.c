/* aq_json.c - a JSON document, valid whatever bytes the names in a file are made of. */
#include "aq.h"

#include <math.h>
#include <string.h>

/* Members down to this depth have a line each; deeper ones share their parent's line. */
enum { MAX_LINE_DEPTH = JSON_ONE_LINE - 1 };

static void new_line(json *out) {
    if (out->depth <= MAX_LINE_DEPTH)
        buffer_print(&out->text, "\n%*s", 2 * out->depth, "");
}

/* Bytes at the start of the text that need no look: printable ASCII but for " and \. */
static size_t plain_length(const char *text, size_t size) {
    size_t i = 0;
    while (i < size && text[i] >= 0x20 && text[i] < 0x7f && text[i] != '"' &&
           text[i] != '\\')
        i++;
    return i;
}

/* What follows a plain beginning: escapes, and what is not UTF-8. */
static void put_escaped(json *out, const char *text, size_t size) {
    size_t i = 0, length;
    for (; i < size; i += length) {
        unsigned char c = (unsigned char)text[i];
        if ((length = plain_length(text + i, size - i)) != 0) {
            buffer_put(&out->text, text + i, length);
            continue;
        }
        length = utf8_length(text + i, size - i);
        if (length == 0) {
            buffer_print(&out->text, "\\ufffd"); /* U+FFFD REPLACEMENT CHARACTER */
            length = 1;
        } else if (c == '"' || c == '\\') {
            buffer_print(&out->text, "\\%c", c);
        } else if (c < 0x20 || c == 0x7f) {
            buffer_print(&out->text, "\\u%04x", (unsigned)c);
        } else if (c == 0xc2 && (unsigned char)text[i + 1] < 0xa0) { /* C1 controls */
            buffer_print(&out->text, "\\u%04x", (unsigned)(unsigned char)text[i + 1]);
        } else {
            buffer_put(&out->text, text + i, length);
        }
    }
}

static void put_quoted(json *out, const char *text, size_t size) {
    size_t plain = plain_length(text, size);
    char *to = buffer_reserve(&out->text, plain + 2);
    to[0] = '"';
    if (plain != 0) memcpy(to + 1, text, plain); /* text may be NULL then */
    out->text.size += plain + 1;
    if (plain != size) put_escaped(out, text + plain, size - plain);
    buffer_put(&out->text, "\"", 1);
}

void json_member(json *out, const char *key) {
    if (out->comma) buffer_put(&out->text, ",", 1);
    if (out->depth != 0) {
        new_line(out);
        if (out->depth > MAX_LINE_DEPTH && out->comma) buffer_put(&out->text, " ", 1);
    }
    if (key != NULL) {
        put_quoted(out, key, strlen(key));
        buffer_put(&out->text, ": ", 2);
    }
    out->comma = true;
}

void json_open(json *out, const char *key, char bracket) {
    json_member(out, key);
    buffer_put(&out->text, &bracket, 1);
    out->depth++;
    out->comma = false;
}

void json_close(json *out, char bracket) {
    bool empty = !out->comma;
    out->depth--;
    if (!empty && out->depth < MAX_LINE_DEPTH) new_line(out);
    buffer_put(&out->text, &bracket, 1);
    out->comma = true;
}

void json_bytes(json *out, const char *key, const char *text, size_t size) {
    json_member(out, key);
    put_quoted(out, text, size);
}

void json_string(json *out, const char *key, const char *text) {
    if (text == NULL) {
        json_null(out, key);
    } else {
        json_bytes(out, key, text, strlen(text));
    }
}

void json_verbatim(json *out, const char *key, const char *text, size_t size) {
    json_member(out, key);
    buffer_put(&out->text, text, size);
}

static void put_integer(json *out, const char *key, uint64_t magnitude, bool negative) {
    char digits[21], *at = digits + sizeof digits;
    do {
        *--at = (char)('0' + magnitude % 10);
        magnitude /= 10;
    } while (magnitude != 0);
    if (negative) *--at = '-';
    json_verbatim(out, key, at, (size_t)(digits + sizeof digits - at));
}

void json_unsigned(json *out, const char *key, uint64_t value) {
    put_integer(out, key, value, false);
}

void json_signed(json *out, const char *key, int64_t value) {
    put_integer(out, key, value < 0 ? 0 - (uint64_t)value : (uint64_t)value, value < 0);
}

void json_bool(json *out, const char *key, bool value) {
    json_member(out, key);
    buffer_put(&out->text, value ? "true" : "false", value ? 4 : 5);
}

void json_null(json *out, const char *key) {
    json_member(out, key);
    buffer_put(&out->text, "null", 4);
}

void json_number(json *out, const char *key, double value) {
    char digits[NUMBER_ROOM];
    if (isfinite(value)) {
        json_verbatim(out, key, digits, number_put_double(digits, value));
    } else {
        json_string(out, key,
                    isnan(value) ? "NaN"
                    : value > 0  ? "Infinity"
                                 : "-Infinity");
    }
}

void json_float(json *out, const char *key, float value) {
    char digits[NUMBER_ROOM];
    if (isfinite(value)) {
        json_verbatim(out, key, digits, number_put_float(digits, value));
    } else {
        json_number(out, key, (double)value);
    }
}

void json_measure(json *out, const char *key, double value) {
    if (isnan(value)) {
        json_null(out, key);
    } else {
        json_number(out, key, value);
    }
}

void json_show(json *out) {
    buffer_put(&out->text, "\n", 1);
    buffer_show(&out->text);
    memset(out, 0, sizeof *out);
}
