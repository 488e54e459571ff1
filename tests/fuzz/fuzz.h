/* fuzz.h - what the fuzz targets share: the header with all its private functions, an
 * allocator that knows what a file may ask for, checks of errors, and bytes taken from an
 * input one by one.
 *
 * A target is a file NAME.c with a function fuzz_NAME, and a line of targets.h, which
 * libfuzzer.c and replay.c run. The arrowquant.h meant here
 * is build/fuzz/arrowquant.h, made by the Makefile: the same, but every allocation of an
 * arena is a block of its own, so that AddressSanitizer sees a byte too far in it. */
#ifndef FUZZ_H
#define FUZZ_H

#define AQ_STATIC
#define ARROWQUANT_IMPLEMENTATION
#include "arrowquant.h"

#include <sys/stat.h>
#include <unistd.h>

#define FUZZ __attribute__((unused)) static

FUZZ void fuzz_fail(const char *file, int line, const char *what, const char *more) {
    fprintf(stderr, "%s:%d: this does not hold: %s\n%s%s", file, line, what, more,
            more[0] == '\0' ? "" : "\n");
    abort();
}

#define FUZZ_CHECK_ERR(good, err)                                                        \
    ((good) ? (void)0 : fuzz_fail(__FILE__, __LINE__, #good, (err)->message))
#define FUZZ_CHECK(good) ((good) ? (void)0 : fuzz_fail(__FILE__, __LINE__, #good, ""))

/* How the last input ended: AQ_OK, or the first status that refused it. */
static aq_status fuzz_result;

/* Every failure has one line of words, its status, and nothing else does. */
FUZZ aq_status fuzz_status(aq_status status, const aq_error *err) {
    FUZZ_CHECK((int)status >= AQ_OK && status <= AQ_E_QUALITY);
    FUZZ_CHECK_ERR(err->status == status, err);
    FUZZ_CHECK_ERR((status == AQ_OK) == (err->message[0] == '\0'), err);
    FUZZ_CHECK_ERR(strpbrk(err->message, "\n\r\033") == NULL, err);
    FUZZ_CHECK_ERR(strlen(err->message) < sizeof err->message, err);
    FUZZ_CHECK_ERR(strlen(err->name) < sizeof err->name, err);
    if (fuzz_result == AQ_OK) fuzz_result = status;
    return status;
}

/* ---- memory ---- */

/* A block that would take more than `refuse` bytes in all is not given. One that would
 * take more than `fail` is a defect: the input dictates memory that no rule allows; so is
 * a block that grows beyond `grown`. */
typedef struct fuzz_memory {
    aq_allocator hooks;
    size_t refuse, fail, grown;
    size_t bytes, blocks;
} fuzz_memory;

FUZZ void *fuzz_alloc(void *user, size_t bytes, size_t align) {
    fuzz_memory *m = (fuzz_memory *)user;
    void *block = NULL;
    size_t total = m->bytes + bytes;
    FUZZ_CHECK(bytes > 0 && align > 0 && (align & (align - 1)) == 0);
    FUZZ_CHECK(total >= bytes && total <= m->fail);
    if (total > m->refuse) return NULL;
    /* Ends where the memory of malloc ends; its content is not zero. */
    if (posix_memalign(&block, AQI_MAX(align, (size_t)16), bytes) != 0) return NULL;
    if (bytes <= 4096) memset(block, 0xA5, bytes);
    m->bytes = total;
    m->blocks++;
    return block;
}

FUZZ void fuzz_free(void *user, void *block, size_t bytes) {
    fuzz_memory *m = (fuzz_memory *)user;
    if (block == NULL) return;
    FUZZ_CHECK(m->blocks > 0 && m->bytes >= bytes);
    m->bytes -= bytes;
    m->blocks--;
    free(block);
}

FUZZ void *fuzz_resize(void *user, void *block, size_t old_bytes, size_t new_bytes,
                       size_t align) {
    void *moved;
    FUZZ_CHECK(new_bytes <= ((fuzz_memory *)user)->grown);
    moved = fuzz_alloc(user, new_bytes, align);
    if (moved == NULL || block == NULL) return moved;
    memcpy(moved, block, AQI_MIN(old_bytes, new_bytes));
    fuzz_free(user, block, old_bytes);
    return moved;
}

FUZZ void fuzz_memory_init(fuzz_memory *m, size_t refuse, size_t fail) {
    memset(m, 0, sizeof *m);
    m->hooks.alloc = fuzz_alloc;
    m->hooks.resize = fuzz_resize;
    m->hooks.free = fuzz_free;
    m->hooks.user = m;
    m->refuse = refuse;
    m->fail = fail;
    m->grown = fail;
}

/* Everything was given back, with the sizes it was asked for. */
FUZZ void fuzz_memory_check(const fuzz_memory *m) {
    FUZZ_CHECK(m->blocks == 0 && m->bytes == 0);
}

/* ---- schemas ---- */

/* The three fields of a list; behind the repetition of the list those of its element. */
#define FUZZ_LIST(list_name, list_repetition, ...)                                       \
    {.name = (list_name),                                                                \
     .repetition = (list_repetition),                                                    \
     .type = AQ_GROUP,                                                                   \
     .num_children = 1,                                                                  \
     .logical = AQ_LOGICAL_LIST},                                                        \
        {.name = "list",                                                                 \
         .repetition = AQ_REPEATED,                                                      \
         .type = AQ_GROUP,                                                               \
         .num_children = 1},                                                             \
    {                                                                                    \
        .name = "element", __VA_ARGS__                                                   \
    }

/* ---- digests ---- */

/* Reads every byte: what lies outside is seen by the sanitizer. */
FUZZ uint64_t fuzz_digest(uint64_t hash, const void *data, size_t bytes) {
    const uint8_t *p = (const uint8_t *)data;
    uint64_t word;
    for (; bytes >= 8; bytes -= 8, p += 8) {
        memcpy(&word, p, 8);
        hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 32;
    }
    for (; bytes > 0; bytes--)
        hash = (hash ^ *p++) * 0x100000001b3u;
    return hash;
}

FUZZ uint64_t fuzz_digest_text(uint64_t hash, const char *text) {
    FUZZ_CHECK(text != NULL);
    return fuzz_digest(hash, text, strlen(text) + 1);
}

/* ---- bytes of an input ---- */

typedef struct fuzz_input {
    const uint8_t *data;
    size_t size;
} fuzz_input;

/* The next byte; 0 after the last. */
FUZZ uint32_t fuzz_byte(fuzz_input *in) {
    if (in->size == 0) return 0;
    in->size--;
    return *in->data++;
}

/* In [0, n), from a byte; n <= 256. */
FUZZ uint32_t fuzz_below(fuzz_input *in, uint32_t n) { return fuzz_byte(in) % n; }

FUZZ uint32_t fuzz_u16(fuzz_input *in) {
    uint32_t low = fuzz_byte(in);
    return low | fuzz_byte(in) << 8;
}

FUZZ uint64_t fuzz_u64(fuzz_input *in) {
    uint64_t value = 0; /* byte by byte: compilers differ in the order of operands */
    int shift;
    for (shift = 0; shift < 64; shift += 8)
        value |= (uint64_t)fuzz_byte(in) << shift;
    return value;
}

/* Up to `bytes` bytes, as a view. */
FUZZ fuzz_input fuzz_take(fuzz_input *in, size_t bytes) {
    fuzz_input part;
    part.data = in->data;
    part.size = AQI_MIN(bytes, in->size);
    in->data += part.size;
    in->size -= part.size;
    return part;
}

/* ---- a file from bytes ---- */

static char fuzz_path_made[512];

FUZZ void fuzz_path_remove(void) { remove(fuzz_path_made); }

/* Path of the one file that this process writes again and again, in $TMPDIR or /tmp. */
FUZZ const char *fuzz_path(void) {
    char *path = fuzz_path_made;
    static pid_t owner;
    const char *base = getenv("TMPDIR");
    if (owner == getpid()) return path;
    owner = getpid();
    if (base == NULL || base[0] == '\0') base = "/tmp";
    FUZZ_CHECK(snprintf(path, sizeof fuzz_path_made, "%s/fuzz-%ld", base, (long)owner) <
               (int)sizeof fuzz_path_made);
    atexit(fuzz_path_remove);
    return path;
}

FUZZ void fuzz_file_put(const char *path, const void *data, size_t size) {
    FILE *out = fopen(path, "wb");
    FUZZ_CHECK(out != NULL);
    FUZZ_CHECK(fwrite(data, 1, size, out) == size);
    FUZZ_CHECK(fclose(out) == 0);
}

/* Makes it hold these bytes. */
FUZZ const char *fuzz_file_write(const uint8_t *data, size_t size) {
    fuzz_file_put(fuzz_path(), data, size);
    return fuzz_path();
}

/* A file in exactly its bytes of malloc, to be freed. */
typedef struct fuzz_whole {
    uint8_t *data;
    size_t size;
} fuzz_whole;

FUZZ fuzz_whole fuzz_file_read(const char *path) {
    FILE *in = fopen(path, "rb");
    fuzz_whole f = {NULL, 0};
    struct stat st;
    if (in == NULL) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        exit(2);
    }
    FUZZ_CHECK(fstat(fileno(in), &st) == 0);
    f.size = (size_t)st.st_size;
    f.data = (uint8_t *)malloc(AQI_MAX(f.size, (size_t)1));
    FUZZ_CHECK(f.data != NULL && fread(f.data, 1, f.size, in) == f.size);
    fclose(in);
    return f;
}

#endif
