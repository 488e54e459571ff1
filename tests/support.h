/* support.h - what several tests share: an allocator that counts, fails on demand and
 * checks how it is used; random numbers from a seed; a temporary directory.
 *
 * A test that wants the private functions defines AQ_STATIC and ARROWQUANT_IMPLEMENTATION
 * before it includes this file. */
#ifndef TEST_SUPPORT_H
#define TEST_SUPPORT_H

#include "../arrowquant.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SUPPORT __attribute__((unused)) static
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* An assertion for inner loops: one of Criterion sends a message even when it holds. */
#define CHECK(good, ...)                                                                 \
    do {                                                                                 \
        if (!(good)) cr_assert_fail(__VA_ARGS__);                                        \
    } while (0)

/* ---- counting allocator ---- */

/* Thread-safe. `mistakes` counts blocks freed or resized that are not live or whose size
 * is not the one they were made with. After a test, counting_is_clean(). */
typedef struct counting_allocator {
    aq_allocator hooks; /* hand out &c.hooks */
    size_t calls;       /* of alloc and resize */
    size_t fail_at;     /* the call with this number, from 1, fails; 0 = none */
    size_t live_blocks;
    size_t live_bytes;
    size_t peak_bytes; /* largest live_bytes so far */
    size_t mistakes;
} counting_allocator;

/* Stands right before each block. */
typedef struct counting_header {
    uint64_t magic;
    void *raw;
    size_t bytes;
    size_t unused; /* makes the size a multiple of 16 */
} counting_header;

#define COUNTING_LIVE 0x6c697665626c6f63u

SUPPORT counting_header *counting_header_of(void *block) {
    return (counting_header *)(void *)((uint8_t *)block - sizeof(counting_header));
}

SUPPORT void counting_add_live(counting_allocator *c, size_t bytes) {
    size_t live = __atomic_add_fetch(&c->live_bytes, bytes, __ATOMIC_RELAXED);
    size_t peak = __atomic_load_n(&c->peak_bytes, __ATOMIC_RELAXED);
    __atomic_add_fetch(&c->live_blocks, 1, __ATOMIC_RELAXED);
    while (live > peak &&
           !__atomic_compare_exchange_n(&c->peak_bytes, &peak, live, true,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        continue;
}

/* Fresh memory is filled with 0xA5, so that nobody relies on zeros. The block ends where
 * the memory of malloc ends, so that AddressSanitizer sees every byte too far. */
SUPPORT void *counting_alloc(void *user, size_t bytes, size_t align) {
    counting_allocator *c = (counting_allocator *)user;
    size_t call = __atomic_add_fetch(&c->calls, 1, __ATOMIC_RELAXED);
    size_t front = align < sizeof(counting_header) ? sizeof(counting_header) : align;
    counting_header *header;
    void *raw;
    uint8_t *block;
    if (call == c->fail_at || bytes > SIZE_MAX - front) return NULL;
    /* Refuses an alignment that is no power of 2. */
    if (posix_memalign(&raw, align < 16 ? 16 : align, front + bytes) != 0) return NULL;
    block = (uint8_t *)raw + front;
    header = counting_header_of(block);
    header->magic = COUNTING_LIVE;
    header->raw = raw;
    header->bytes = bytes;
    memset(block, 0xA5, bytes);
    counting_add_live(c, bytes);
    return block;
}

SUPPORT void counting_free(void *user, void *block, size_t bytes) {
    counting_allocator *c = (counting_allocator *)user;
    counting_header *header;
    if (block == NULL) return;
    header = counting_header_of(block);
    if (header->magic != COUNTING_LIVE || header->bytes != bytes)
        __atomic_add_fetch(&c->mistakes, 1, __ATOMIC_RELAXED);
    if (header->magic != COUNTING_LIVE) return;
    header->magic = 0;
    __atomic_sub_fetch(&c->live_bytes, header->bytes, __ATOMIC_RELAXED);
    __atomic_sub_fetch(&c->live_blocks, 1, __ATOMIC_RELAXED);
    free(header->raw);
}

/* Always moves, so that nobody keeps the old address. */
SUPPORT void *counting_resize(void *user, void *block, size_t old_bytes, size_t new_bytes,
                              size_t align) {
    void *moved = counting_alloc(user, new_bytes, align);
    if (moved == NULL || block == NULL) return moved;
    memcpy(moved, block, old_bytes < new_bytes ? old_bytes : new_bytes);
    counting_free(user, block, old_bytes);
    return moved;
}

SUPPORT void counting_init(counting_allocator *c) {
    memset(c, 0, sizeof *c);
    c->hooks.alloc = counting_alloc;
    c->hooks.resize = counting_resize;
    c->hooks.free = counting_free;
    c->hooks.user = c;
}

/* Everything was given back, each block with its size. */
SUPPORT bool counting_is_clean(const counting_allocator *c) {
    return c->mistakes == 0 && c->live_blocks == 0 && c->live_bytes == 0;
}

/* ---- random numbers ---- */

/* xorshift64*; the state is the seed, not 0. */
typedef struct rng {
    uint64_t state;
} rng;

SUPPORT uint64_t rng_next(rng *r) {
    r->state ^= r->state >> 12;
    r->state ^= r->state << 25;
    r->state ^= r->state >> 27;
    return r->state * 0x2545f4914f6cdd1du;
}

/* In [0, n). */
SUPPORT size_t rng_below(rng *r, size_t n) { return (size_t)((rng_next(r) >> 32) % n); }

/* In [-1, 1), 24 bits. */
SUPPORT float rng_float(rng *r) {
    return (float)(int32_t)((rng_next(r) >> 40) - 0x800000) * 0x1p-23f;
}

SUPPORT void rng_bytes(rng *r, void *dst, size_t bytes) {
    uint8_t *p = (uint8_t *)dst;
    size_t i;
    for (i = 0; i < bytes; i++)
        p[i] = (uint8_t)(rng_next(r) >> 56);
}

SUPPORT void rng_floats(rng *r, float *dst, size_t count, float magnitude) {
    size_t i;
    for (i = 0; i < count; i++)
        dst[i] = magnitude * rng_float(r);
}

/* ---- memory at an offset ---- */

/* `bytes` bytes that begin `offset` bytes after a multiple of 64 and end where the memory
 * of malloc ends. */
SUPPORT void *offset_alloc(size_t offset, size_t bytes) {
    void *raw;
    if (posix_memalign(&raw, 64, offset + bytes + (offset + bytes == 0)) != 0) abort();
    return (uint8_t *)raw + offset;
}

SUPPORT void offset_free(void *block, size_t offset) { free((uint8_t *)block - offset); }

/* ---- little-endian values ---- */

/* The library reads and writes values of files little-endian; those that a test computes
 * are native. On most machines it is the same, and nothing is done. */

/* Whether it is the same: spans of numbers then lie in the mapping, and pages are written
 * from the caller's values. Elsewhere they must be copies. */
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define NUMBERS_IN_PLACE false
#else
#define NUMBERS_IN_PLACE true
#endif

/* `count` values of `width` bytes, turned round on a big-endian machine, in place. */
SUPPORT void *turn_le(void *values, size_t count, size_t width) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    uint8_t *p = (uint8_t *)values;
    for (size_t i = 0; i < count; i++, p += width) {
        for (size_t k = 0; k < width / 2; k++) {
            uint8_t b = p[k];
            p[k] = p[width - 1 - k];
            p[width - 1 - k] = b;
        }
    }
#endif
    (void)count, (void)width;
    return values;
}

/* The low `bytes` bytes of `bits` as a native value. */
SUPPORT void put_native(void *dst, uint64_t bits, size_t bytes) {
    memcpy(dst, turn_le(&bits, 1, sizeof bits), bytes);
    turn_le(dst, 1, bytes);
}

/* SNAPPY where it is built in, for tests of other things. On big-endian machines Debian's
 * libsnappy 1.1.9 does not give back what it compressed. */
#ifdef AQ_WITH_SNAPPY
#define SNAPPY_OR_NONE AQ_SNAPPY
#else
#define SNAPPY_OR_NONE AQ_UNCOMPRESSED
#endif

/* Values little-endian, as a copy that lives as long as the process of the test. */
SUPPORT const void *le_values(const void *values, size_t count, size_t width) {
    void *copy;
    if (NUMBERS_IN_PLACE || count == 0) return values;
    copy = malloc(count * width);
    if (copy == NULL) abort();
    return turn_le(memcpy(copy, values, count * width), count, width);
}

SUPPORT const float *le_floats(const float *values, size_t count) {
    return (const float *)le_values(values, count, sizeof *values);
}

/* For tests of which no source is little-endian: the functions below take native ones. */
#if defined(NATIVE_SOURCES) && defined(__BYTE_ORDER__) &&                                \
    __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
static void *native_copy(const void *src, size_t count, aq_dtype dtype) {
    const size_t width = aq_dtype_bytes(dtype);
    void *copy = malloc(count * width + 1);
    if (copy == NULL) abort();
    return turn_le(memcpy(copy, src, count * width), count, width);
}

/* First as it is, for what does not depend on values: arguments, places that overlap. */
SUPPORT aq_status native_quantize_into(const aq_layout *layout, const void *src,
                                       aq_dtype dtype, const aq_quantized *dst,
                                       const aq_tasks *tasks, aq_metrics *metrics,
                                       aq_error *e) {
    aq_status status = aq_quantize_into(layout, src, dtype, dst, tasks, metrics, e);
    size_t stride;
    void *copy;
    if (status == AQ_E_ARG || src == NULL || layout->rows == 0) return status;
    stride = layout->src_stride != 0 ? layout->src_stride : layout->cols;
    copy = native_copy(src, (layout->rows - 1) * stride + layout->cols, dtype);
    status = aq_quantize_into(layout, copy, dtype, dst, tasks, metrics, e);
    free(copy);
    return status;
}

SUPPORT aq_status native_to_f32(const void *src, aq_dtype dtype, size_t count, float *dst,
                                aq_error *e) {
    aq_status status = aq_to_f32(src, dtype, count, dst, e);
    void *copy;
    if (status != AQ_OK || src == NULL) return status;
    copy = native_copy(src, count, dtype);
    status = aq_to_f32(copy, dtype, count, dst, e);
    free(copy);
    return status;
}

SUPPORT aq_status native_moments_of(const void *src, aq_dtype dtype, size_t count,
                                    const aq_tasks *tasks, aq_moments *out, aq_error *e) {
    aq_status status = aq_moments_of(src, dtype, count, tasks, out, e);
    void *copy;
    if (status == AQ_E_ARG || src == NULL) return status;
    copy = native_copy(src, count, dtype);
    status = aq_moments_of(copy, dtype, count, tasks, out, e);
    free(copy);
    return status;
}

#define aq_quantize_into native_quantize_into
#define aq_to_f32 native_to_f32
#define aq_moments_of native_moments_of
#endif

/* ---- tasks ---- */

SUPPORT void reverse_run(void *user, size_t n, void (*fn)(void *arg, size_t index),
                         void *arg) {
    (void)user;
    while (n > 0)
        fn(arg, --n);
}

/* A caller's own tasks hook: on this thread, the last index first. */
static const aq_tasks reverse_tasks __attribute__((unused)) = {reverse_run, NULL, 0};

/* ---- names that were chosen ---- */

/* Makes n names that fall on one place of a table of 2048: the header takes FNV-1a, its
 * halves together, as one knows it who has read the source. */
SUPPORT void names_of_one_hash(char (*names)[24], size_t n) {
    unsigned tried = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t hash;
        do {
            hash = 0xcbf29ce484222325u;
            snprintf(names[i], sizeof names[i], "layer %u", tried++);
            for (const char *p = names[i]; *p != '\0'; p++)
                hash = (hash ^ (uint8_t)*p) * 0x100000001b3u;
        } while ((hash ^ hash >> 32) % 2048 != 77);
    }
}

/* ---- temporary directory ---- */

typedef struct temp_dir {
    char path[256];
} temp_dir;

/* A new directory below $TMPDIR or /tmp; false when there can be none. */
SUPPORT bool temp_dir_make(temp_dir *dir) {
    const char *base = getenv("TMPDIR");
    int n = snprintf(dir->path, sizeof dir->path, "%s/arrowquant-test-XXXXXX",
                     base != NULL && base[0] != '\0' ? base : "/tmp");
    return n > 0 && (size_t)n < sizeof dir->path && mkdtemp(dir->path) != NULL;
}

/* "<dir>/<name>" into out; returns out. */
SUPPORT char *temp_dir_file(const temp_dir *dir, const char *name, char *out,
                            size_t bytes) {
    int n = snprintf(out, bytes, "%s/%s", dir->path, name);
    if (n < 0 || (size_t)n >= bytes) abort();
    return out;
}

SUPPORT size_t temp_dir_entries(const char *path) {
    DIR *d = opendir(path);
    size_t n = 0;
    if (d == NULL) return 0;
    while (readdir(d) != NULL)
        n++;
    closedir(d);
    return n - 2; /* . and .. */
}

SUPPORT void temp_path_remove(const char *path) {
    struct stat info;
    struct dirent *entry;
    DIR *d;
    if (lstat(path, &info) != 0) return;
    d = S_ISDIR(info.st_mode) ? opendir(path) : NULL;
    while (d != NULL && (entry = readdir(d)) != NULL) {
        char inner[1024];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        snprintf(inner, sizeof inner, "%s/%s", path, entry->d_name);
        temp_path_remove(inner);
    }
    if (d != NULL) closedir(d);
    remove(path);
}

SUPPORT void temp_dir_remove(temp_dir *dir) {
    temp_path_remove(dir->path);
    dir->path[0] = '\0';
}

#endif
