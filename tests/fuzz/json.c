/* json.c - strings, numbers and signs of the JSON in file headers. A string that is read,
 * written again, reads back equal; and what it holds is UTF-8, by a second opinion. */
#include "fuzz.h"

/* From the table of well-formed byte sequences in the Unicode standard (3-7). */
static bool fuzz_utf8_valid(const uint8_t *p, size_t n) {
    size_t i = 0;
    while (i < n) {
        uint8_t a = p[i], low = 0x80, high = 0xbf;
        size_t more = a < 0x80 ? 0 : a < 0xc2 ? 9 : a < 0xe0 ? 1 : a < 0xf0 ? 2 : 3, k;
        if (more == 9 || a > 0xf4 || more > n - i - 1) return false;
        if (a == 0xe0) low = 0xa0;
        if (a == 0xed) high = 0x9f;
        if (a == 0xf0) low = 0x90;
        if (a == 0xf4) high = 0x8f;
        for (k = 1; k <= more; k++) {
            if (p[i + k] < low || p[i + k] > high) return false;
            low = 0x80;
            high = 0xbf;
        }
        i += more + 1;
    }
    return true;
}

static void fuzz_json_again(const aq_allocator *a, aqi_arena *arena, const char *text) {
    aqi_bytes_builder b;
    const char *again = NULL;
    aqi_json j;
    aq_error err;
    memset(&b, 0, sizeof b);
    FUZZ_CHECK(aqi_utf8_valid(text, strlen(text)));
    FUZZ_CHECK(aqi_put_json_string(a, &b, text));
    aqi_error_clear(&err);
    j.in = aqi_cursor_make(b.data, b.size, 0);
    j.arena = arena;
    j.err = &err;
    j.column = false;
    FUZZ_CHECK_ERR(aqi_json_string(&j, &again, &err) == AQ_OK, &err);
    FUZZ_CHECK(strcmp(again, text) == 0 && aqi_remaining(&j.in) == 0);
    aqi_builder_free(a, &b);
}

static aq_status fuzz_json_walk(aqi_json *j, const aq_allocator *a, aq_error *err) {
    const char *text;
    uint64_t number;
    aq_status status = AQ_OK;
    while (status == AQ_OK && aqi_json_peek(j) != 0) {
        const uint8_t *before = j->in.p;
        if (*j->in.p == '"') {
            status = fuzz_status(aqi_json_string(j, &text, err), err);
            if (status == AQ_OK) fuzz_json_again(a, j->arena, text);
        } else if (*j->in.p >= '0' && *j->in.p <= '9') {
            status = fuzz_status(aqi_json_u64(j, &number), err);
        } else {
            FUZZ_CHECK(aqi_json_take(j, (char)*j->in.p));
        }
        FUZZ_CHECK(status != AQ_OK || j->in.p > before);
        FUZZ_CHECK(j->in.p <= j->in.end);
    }
    return status;
}

static void fuzz_json(const uint8_t *data, size_t size) {
    fuzz_memory memory;
    aqi_arena arena;
    aqi_json j;
    aq_error err;
    fuzz_memory_init(&memory, (size_t)64 << 20, (size_t)64 << 20);
    fuzz_result = AQ_OK;
    FUZZ_CHECK(aqi_utf8_valid(data, size) == fuzz_utf8_valid(data, size));
    aqi_error_clear(&err);
    aqi_arena_init(&arena, &memory.hooks);
    j.in = aqi_cursor_make(data, size, 0);
    j.arena = &arena;
    j.err = &err;
    j.column = false;
    fuzz_json_walk(&j, &memory.hooks, &err);
    aqi_arena_deinit(&arena);
    fuzz_memory_check(&memory);
}
