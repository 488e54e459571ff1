/* aq_text.c - text in memory and to a file, and figures for people. */
#include "aq.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/*==========================================================================
 * MARK: - Buffer
 *========================================================================*/

char *buffer_grow(buffer *out, size_t size) {
    size_t room = out->room < 256 ? 256 : out->room;
    while (room - out->size <= size) {
        if (room > SIZE_MAX / 2) cli_resize(NULL, SIZE_MAX, 2); /* exits */
        room *= 2;
    }
    out->data = (char *)cli_resize(out->data, room, 1);
    out->room = room;
    return out->data + out->size;
}

void buffer_print(buffer *out, const char *format, ...) {
    va_list arguments;
    int size;
    va_start(arguments, format);
    size = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (size < 0) return;
    va_start(arguments, format);
    vsnprintf(buffer_reserve(out, (size_t)size), (size_t)size + 1, format, arguments);
    va_end(arguments);
    out->size += (size_t)size;
}

void buffer_free(buffer *text) {
    free(text->data);
    memset(text, 0, sizeof *text);
}

void buffer_show(buffer *text) {
    if (text->size != 0) fwrite(text->data, 1, text->size, stdout);
    buffer_free(text);
}

/*==========================================================================
 * MARK: - UTF-8
 *========================================================================*/

size_t utf8_length(const char *text, size_t size) {
    const unsigned char *s = (const unsigned char *)text;
    size_t length, i;
    if (size == 0) return 0;
    if (s[0] < 0x80) return 1;
    if (s[0] < 0xc2 || s[0] > 0xf4) return 0; /* continuation, overlong, above U+10FFFF */
    length = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    if (size < length) return 0;
    for (i = 1; i < length; i++) {
        if ((s[i] & 0xc0) != 0x80) return 0;
    }
    if (s[0] == 0xe0 && s[1] < 0xa0) return 0; /* overlong */
    if (s[0] == 0xed && s[1] > 0x9f) return 0; /* surrogate */
    if (s[0] == 0xf0 && s[1] < 0x90) return 0; /* overlong */
    if (s[0] == 0xf4 && s[1] > 0x8f) return 0; /* above U+10FFFF */
    return length;
}

/* Characters that act on the terminal or reorder what is shown: C0 and C1 controls, line
 * and paragraph separators, marks, overrides and isolates of the writing direction. */
static bool is_acting(const char *text, size_t length) {
    const unsigned char *s = (const unsigned char *)text;
    if (length == 1) return s[0] < 0x20 || s[0] == 0x7f;
    if (length == 2) return s[0] == 0xc2 && s[1] < 0xa0;
    if (length != 3 || s[0] != 0xe2) return false;
    if (s[1] == 0x80)
        return s[2] == 0x8e || s[2] == 0x8f || (s[2] >= 0xa8 && s[2] <= 0xae);
    return s[1] == 0x81 && s[2] >= 0xa6 && s[2] <= 0xa9;
}

void buffer_visible(buffer *out, const char *text, size_t size) {
    size_t i = 0;
    buffer_reserve(out, 0)[0] = '\0';
    while (i < size) {
        size_t length = utf8_length(text + i, size - i),
               escaped = length == 0 ? 1 : length;
        if (length != 0 && !is_acting(text + i, length)) {
            buffer_put(out, text + i, length);
            i += length;
            continue;
        }
        for (; escaped != 0; escaped--, i++)
            buffer_print(out, "\\x%02x", (unsigned)(unsigned char)text[i]);
    }
}

/* Columns of a terminal that a character takes: marks on the one before it take none, those
 * of East Asia and pictures two. (wcwidth() would ask for a locale.) */
static size_t character_columns(uint32_t c) {
    static const struct {
        uint32_t first, last, columns;
    } ranges[] = {{0x300, 0x36f, 0},     {0x1100, 0x115f, 2},   {0x200b, 0x200d, 0},
                  {0x20d0, 0x20ff, 0},   {0x2e80, 0x303e, 2},   {0x3041, 0xa4cf, 2},
                  {0xac00, 0xd7a3, 2},   {0xf900, 0xfaff, 2},   {0xfe00, 0xfe0f, 0},
                  {0xfe20, 0xfe2f, 0},   {0xfe30, 0xfe6f, 2},   {0xff00, 0xff60, 2},
                  {0xffe0, 0xffe6, 2},   {0x1f300, 0x1f64f, 2}, {0x1f680, 0x1f6ff, 2},
                  {0x1f900, 0x1faff, 2}, {0x20000, 0x3fffd, 2}};
    size_t i;
    for (i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        if (c >= ranges[i].first && c <= ranges[i].last) return ranges[i].columns;
    }
    return 1;
}

/* The columns of the character at `at`, which is well-formed, and its bytes. */
static size_t next_columns(const char *at, size_t *out_bytes) {
    const unsigned char *s = (const unsigned char *)at;
    size_t length = s[0] < 0x80 ? 1 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4, i;
    uint32_t c = length == 1 ? s[0] : s[0] & (0x7fu >> length);
    for (i = 1; i < length; i++)
        c = c << 6 | (s[i] & 0x3fu);
    *out_bytes = length;
    return character_columns(c);
}

size_t text_columns(const char *visible) {
    size_t columns = 0, length;
    for (; *visible != '\0'; visible += length)
        columns += next_columns(visible, &length);
    return columns;
}

/* Bytes of the characters that fit into so many columns. */
static size_t prefix_bytes(const char *visible, size_t columns) {
    size_t at = 0, length, used = 0;
    for (; visible[at] != '\0'; at += length) {
        used += next_columns(visible + at, &length);
        if (used > columns) break;
    }
    return at;
}

/* Bytes before the characters that fit into the last so many columns. */
static size_t suffix_start(const char *visible, size_t columns) {
    size_t at = 0, length, left = text_columns(visible);
    for (; left > columns; at += length)
        left -= next_columns(visible + at, &length);
    return at;
}

void buffer_elided(buffer *out, const char *visible, size_t max_columns) {
    size_t kept = max_columns > 3 ? max_columns - 3 : 0;
    if (text_columns(visible) <= max_columns) {
        buffer_put(out, visible, strlen(visible));
        return;
    }
    buffer_put(out, visible, prefix_bytes(visible, kept - kept / 2));
    buffer_put(out, "...", max_columns < 3 ? max_columns : 3);
    visible += suffix_start(visible, kept / 2);
    buffer_put(out, visible, strlen(visible));
}

/*==========================================================================
 * MARK: - Figures
 *========================================================================*/

const char *text_count(char out[TEXT_ROOM], uint64_t count) {
    char digits[TEXT_ROOM];
    size_t n = (size_t)snprintf(digits, sizeof digits, "%" PRIu64, count), i, at = 0;
    for (i = 0; i < n; i++) {
        if (i != 0 && (n - i) % 3 == 0) out[at++] = ',';
        out[at++] = digits[i];
    }
    out[at] = '\0';
    return out;
}

/* Three figures and the unit that suits them. */
static const char *scaled(char out[TEXT_ROOM], double value, double step,
                          const char *const *units, size_t num_units) {
    size_t unit = 0;
    /* 999.5 and more would be shown with four figures */
    while (unit + 1 < num_units && value >= (step > 1000 ? 1023.5 : 999.5)) {
        value /= step;
        unit++;
    }
    snprintf(out, TEXT_ROOM, "%.*f %s",
             value < 9.995   ? 2
             : value < 99.95 ? 1
                             : 0,
             value, units[unit]);
    return out;
}

const char *text_bytes(char out[TEXT_ROOM], uint64_t bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    if (bytes < 1024) {
        snprintf(out, TEXT_ROOM, "%" PRIu64 " B", bytes);
        return out;
    }
    return scaled(out, (double)bytes, 1024, units, sizeof units / sizeof units[0]);
}

const char *text_rate(char out[TEXT_ROOM], double per_second) {
    static const char *const units[] = {"MB/s", "GB/s", "TB/s"};
    return scaled(out, per_second / 1e6, 1000, units, sizeof units / sizeof units[0]);
}

const char *text_measure(char out[TEXT_ROOM], double value, int decimals) {
    if (isnan(value)) {
        snprintf(out, TEXT_ROOM, "-");
    } else if (isinf(value)) {
        snprintf(out, TEXT_ROOM, value > 0 ? "inf" : "-inf");
    } else if (fabs(value) < 1e15) {
        snprintf(out, TEXT_ROOM, "%.*f", decimals, value);
    } else {
        snprintf(out, TEXT_ROOM, "%.*e", decimals, value);
    }
    return out;
}

const char *text_plural(uint64_t count) { return count == 1 ? "" : "s"; }

/*==========================================================================
 * MARK: - Files
 *========================================================================*/

/* A regular file or none yet: anything else, such as a device, must not be replaced. */
static bool check_path(const char *path, aq_error *err) {
    struct stat info;
    if (stat(path, &info) != 0 || S_ISREG(info.st_mode)) return true;
    cli_set_error(err, AQ_E_IO, "cannot write: not a regular file");
    return false;
}

/* Writes text to a new file, and to the disk. */
static bool write_text(const char *path, const buffer *text) {
    FILE *file = fopen(path, "wbx");
    bool good;
    if (file == NULL) return false;
    good = text->size == 0 || fwrite(text->data, 1, text->size, file) == text->size;
    good = fflush(file) == 0 && good && fsync(fileno(file)) == 0;
    return fclose(file) == 0 && good;
}

bool file_save(const char *path, const buffer *text, aq_error *err) {
    buffer temporary = {NULL, 0, 0};
    bool good;
    if (!check_path(path, err)) return false;
    buffer_print(&temporary, "%s.%ld.tmp", path, (long)getpid());
    good = write_text(temporary.data, text);
    if (good && text->size != 0) good = rename(temporary.data, path) == 0;
    if (!good) cli_set_error(err, AQ_E_IO, "cannot write: %s", strerror(errno));
    if (!good || text->size == 0) unlink(temporary.data);
    buffer_free(&temporary);
    return good;
}

static bool same_file(const char *a, const char *b) {
    struct stat of_a, of_b;
    return stat(a, &of_a) == 0 && stat(b, &of_b) == 0 && of_a.st_dev == of_b.st_dev &&
           of_a.st_ino == of_b.st_ino;
}

/* The folder of a path and the name in it, also of a folder that ends in slashes; to be
 * freed. */
static void split_path(const char *path, buffer *out_folder, buffer *out_name) {
    size_t length = strlen(path), start;
    while (length > 1 && path[length - 1] == '/')
        length--;
    for (start = length; start != 0 && path[start - 1] != '/';)
        start--;
    buffer_put(out_folder, start != 0 ? path : "./", start != 0 ? start : 2);
    buffer_put(out_name, path + start, length - start);
}

bool file_same(const char *a, const char *b) {
    buffer folders[2] = {{NULL, 0, 0}, {NULL, 0, 0}};
    buffer names[2] = {{NULL, 0, 0}, {NULL, 0, 0}};
    bool same;
    int i;
    split_path(a, &folders[0], &names[0]);
    split_path(b, &folders[1], &names[1]);
    same = strcmp(names[0].data, names[1].data) == 0 &&
           same_file(folders[0].data, folders[1].data);
    for (i = 0; i < 2; i++) {
        buffer_free(&folders[i]);
        buffer_free(&names[i]);
    }
    return same || same_file(a, b);
}
