/* files.h - files and errors in tests: whole files as blocks of memory, assertions that
 * show the library's message, and small tensors to write. Beside support.h. */
#ifndef TEST_FILES_H
#define TEST_FILES_H

#include "support.h"

#include <criterion/criterion.h>

/* Filled by the calls below; a test runs in a process of its own. */
static aq_error err;

#define ASSERT_STATUS(call, wanted)                                                      \
    do {                                                                                 \
        aq_status got_ = (call), wanted_ = (wanted);                                     \
        cr_assert_eq(got_, wanted_, "%s is %s, not %s: %s", #call, aq_status_name(got_), \
                     aq_status_name(wanted_), got_ == AQ_OK ? "" : err.message);         \
    } while (0)
#define ASSERT_OK(call) ASSERT_STATUS(call, AQ_OK)

/* An error that helps: one line, and a place or a name. */
#define EXPECT_HELPFUL(what)                                                             \
    do {                                                                                 \
        cr_expect(err.message[0] != '\0' && strchr(err.message, '\n') == NULL,           \
                  "%s: message \"%s\"", what, err.message);                              \
        cr_expect(err.file_offset >= 0 || err.name[0] != '\0' ||                         \
                      strpbrk(err.message, "0123456789\"") != NULL ||                    \
                      strstr(err.message, "column ") != NULL ||                          \
                      strstr(err.message, "footer") != NULL,                             \
                  "%s: neither place nor name in \"%s\"", what, err.message);            \
    } while (0)

#define ASSERT_MESSAGE(what, part)                                                       \
    cr_assert(strstr(err.message, part) != NULL, "%s: no \"%s\" in \"%s\"", what, part,  \
              err.message)

/* For tables: the cases after this one still run. */
#define EXPECT_MESSAGE(what, part)                                                       \
    cr_expect(strstr(err.message, part) != NULL, "%s: no \"%s\" in \"%s\"", what, part,  \
              err.message)

/* The three fields of a list of elements; returns 3. */
SUPPORT size_t list_spec(aq_field_spec *at, const char *name, aq_repetition repetition,
                         aq_field_spec element) {
    const aq_field_spec list = {.name = name,
                                .repetition = repetition,
                                .type = AQ_GROUP,
                                .num_children = 1,
                                .logical = AQ_LOGICAL_LIST};
    const aq_field_spec repeated = {
        .name = "list", .repetition = AQ_REPEATED, .type = AQ_GROUP, .num_children = 1};
    at[0] = list;
    at[1] = repeated;
    at[2] = element;
    return 3;
}

typedef struct file {
    uint8_t *data; /* exactly `size` bytes of malloc: AddressSanitizer guards both ends */
    size_t size;
} file;

SUPPORT file file_make(const void *data, size_t size) {
    file f = {malloc(size > 0 ? size : 1), size};
    cr_assert_not_null(f.data);
    if (size > 0) memcpy(f.data, data, size);
    return f;
}

SUPPORT file file_read(const char *path) {
    FILE *in = fopen(path, "rb");
    struct stat info;
    file f;
    cr_assert_not_null(in, "%s", path);
    cr_assert_eq(fstat(fileno(in), &info), 0);
    f.size = (size_t)info.st_size;
    f.data = malloc(f.size > 0 ? f.size : 1);
    cr_assert_not_null(f.data);
    cr_assert_eq(fread(f.data, 1, f.size, in), f.size);
    fclose(in);
    return f;
}

/* Bytes of a Parquet file before its footer. */
SUPPORT size_t body_bytes_of(const file *f) {
    const uint8_t *p = f->data + f->size - 8;
    return f->size - 8 -
           (p[0] | (size_t)p[1] << 8 | (size_t)p[2] << 16 | (size_t)p[3] << 24);
}

SUPPORT void file_write(const char *path, const void *data, size_t size) {
    FILE *out = fopen(path, "wb");
    cr_assert_not_null(out, "%s", path);
    cr_assert_eq(fwrite(data, 1, size, out), size);
    cr_assert_eq(fclose(out), 0);
}

SUPPORT void file_free(file *f) {
    free(f->data);
    f->data = NULL;
    f->size = 0;
}

SUPPORT bool file_equal(const file *a, const file *b) {
    return a->size == b->size && memcmp(a->data, b->data, a->size) == 0;
}

/* The directory of the running test, and a path in it. */
static temp_dir here;

SUPPORT void enter_temp_dir(void) { cr_assert(temp_dir_make(&here)); }
SUPPORT void leave_temp_dir(void) { temp_dir_remove(&here); }

/* Ends a test that cannot be here; nothing after it is run, so its directory goes first. */
#define SKIP_TEST(...)                                                                   \
    do {                                                                                 \
        leave_temp_dir();                                                                \
        cr_skip_test(__VA_ARGS__);                                                       \
    } while (0)

/* Writes the file with one bit of a byte changed, which is then as it was. */
SUPPORT void file_write_damaged(const char *path, file *f, size_t at) {
    f->data[at] ^= 0x10;
    file_write(path, f->data, f->size);
    f->data[at] ^= 0x10;
}

/* Two paths at a time may be in use. */
SUPPORT const char *in_dir(const char *name) {
    static char paths[4][512];
    static unsigned next;
    return temp_dir_file(&here, name, paths[next++ % 4], sizeof paths[0]);
}

/* ---- tensors ---- */

/* A tensor of num_dims dimensions that borrows `data`. */
SUPPORT aq_tensor tensor_of(const char *name, aq_dtype dtype, const uint64_t *shape,
                            uint32_t num_dims, const void *data) {
    aq_tensor t;
    ASSERT_OK(aq_tensor_init(&t, name, dtype, shape, num_dims, data, &err));
    return t;
}

/* Of native floats; on a big-endian machine a copy of what they are now. */
SUPPORT aq_tensor matrix_of(const char *name, uint64_t rows, uint64_t cols,
                            const float *data) {
    const uint64_t shape[2] = {rows, cols};
    return tensor_of(name, AQ_F32, shape, 2, le_floats(data, (size_t)(rows * cols)));
}

/* Opens a model and takes all its tensors; the first error. */
SUPPORT aq_status model_read_all(const char *path, const aq_model_options *options) {
    aq_model *m;
    aq_tensor t;
    aq_status status = aq_model_open(path, options, &m, &err);
    if (status != AQ_OK) return status;
    for (size_t i = 0; i < aq_model_count(m) && status == AQ_OK; i++) {
        status = aq_model_tensor(m, i, &t, &err);
        aq_tensor_release(&t);
    }
    aq_model_close(m);
    return status;
}

#endif
