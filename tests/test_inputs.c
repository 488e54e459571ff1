/* test_inputs.c - models in other containers than Parquet and one safetensors file:
 * safetensors in shards, by their index or their directory, and NumPy's .npy. Each error
 * by its smallest input; every truncation and every changed byte of an index and of a .npy
 * file; every allocation fails once; what NumPy itself writes and reads. */
#include "files.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

static void enter_fast_dir(void) {
    if (access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 1);
    enter_temp_dir();
}

TestSuite(inputs, .init = enter_fast_dir, .fini = leave_temp_dir, .timeout = 120);

static void put(const char *name, const char *text) {
    file_write(in_dir(name), text, strlen(text));
}

/* A safetensors file: the header, and `bytes` bytes that count up from `first`. */
static void put_shard(const char *name, const char *header, size_t bytes, uint8_t first) {
    uint8_t data[512];
    uint64_t n = strlen(header);
    size_t i;
    cr_assert_lt(8 + n + bytes, sizeof data);
    for (i = 0; i < 8; i++)
        data[i] = (uint8_t)(n >> 8 * i);
    memcpy(data + 8, header, n);
    for (i = 0; i < bytes; i++)
        data[8 + n + i] = (uint8_t)(first + i);
    file_write(in_dir(name), data, 8 + n + bytes);
}

#define U8(name, shape, begin, end)                                                      \
    "\"" name "\":{\"dtype\":\"U8\",\"shape\":[" #shape "],\"data_offsets\":[" #begin    \
    "," #end "]}"
#define META(pairs) "\"__metadata__\":{" pairs "}"

/* Lines of the log. */
typedef struct lines {
    size_t count;
    char last[512];
} lines;

static void keep_line(void *user, const char *text) {
    lines *l = user;
    l->count++;
    snprintf(l->last, sizeof l->last, "%s", text);
}

/* Opens, reads all data, closes; nothing may be left behind. */
static aq_status try_open(const char *path, aq_io io, lines *log) {
    counting_allocator c;
    aq_model_options o = {.allocator = &c.hooks, .io = io};
    aq_model *m = NULL;
    aq_status status;
    volatile uint8_t sum = 0;
    counting_init(&c);
    if (log != NULL) o.log = (aq_log){keep_line, log};
    status = aq_model_open(path, &o, &m, &err);
    CHECK((status == AQ_OK) == (m != NULL), "model without success");
    for (size_t i = 0; m != NULL && i < aq_model_count(m); i++) {
        aq_tensor t;
        aq_error e;
        CHECK(aq_model_tensor(m, i, &t, &e) == AQ_OK, "tensor: %s", e.message);
        for (size_t k = 0; k < t.data_bytes; k++)
            sum ^= t.data[k];
        aq_tensor_release(&t);
    }
    aq_model_close(m);
    CHECK(counting_is_clean(&c), "memory left behind");
    return status;
}

static void expect_refused(const char *what, const char *path, aq_status wanted,
                           const char *part) {
    aq_status got = try_open(path, AQ_IO_AUTO, NULL);
    cr_expect_eq(got, wanted, "%s: %s, not %s: %s", what, aq_status_name(got),
                 aq_status_name(wanted), got == AQ_OK ? "" : err.message);
    if (got == AQ_OK) return;
    EXPECT_MESSAGE(what, part);
    EXPECT_HELPFUL(what);
}

/* ---- shards ---- */

#define INDEX "model.safetensors.index.json"
#define ONE "model-00001-of-00003.safetensors"
#define TWO "model-00002-of-00003.safetensors"
#define THREE "model-00003-of-00003.safetensors"
#define PLACE(tensor, shard) "\"" tensor "\":\"" shard "\""

#define WEIGHT_MAP                                                                       \
    "\"weight_map\":{" PLACE("d", THREE) "," PLACE("b", ONE) "," PLACE(                  \
        "a", ONE) "," PLACE("c", TWO) "}"

static void put_shards(void) {
    put_shard(ONE,
              "{" META("\"format\":\"pt\",\"who\":\"1\"") "," U8("b", 2, 0, 2) "," U8(
                  "a", 3, 2, 5) "}",
              5, 10);
    put_shard(TWO,
              "{" META("\"format\":\"pt\",\"who\":\"2\",\"new\":\"n\"") "," U8("c", 1, 0,
                                                                               1) "}",
              1, 20);
    put_shard(THREE, "{" U8("d", 4, 0, 4) "}", 4, 30);
}

static uint64_t size_of(const char *name) {
    struct stat info;
    cr_assert_eq(stat(in_dir(name), &info), 0);
    return (uint64_t)info.st_size;
}

/* The four tensors, with their bytes. */
static void check_shards(const char *path, aq_io io, uint64_t file_bytes) {
    static const struct {
        const char *name;
        uint8_t first;
        size_t bytes;
    } wanted[] = {{"a", 12, 3}, {"b", 10, 2}, {"c", 20, 1}, {"d", 30, 4}};
    aq_model_options o = {.io = io};
    aq_model *m;
    ASSERT_OK(aq_model_open(path, &o, &m, &err));
    cr_assert_eq(aq_model_get_format(m), AQ_MODEL_SHARDS);
    cr_assert_eq(aq_model_file_bytes(m), file_bytes);
    cr_assert_eq(aq_model_count(m), COUNT_OF(wanted));
    for (size_t i = 0; i < COUNT_OF(wanted); i++) {
        aq_tensor t;
        ASSERT_OK(aq_model_tensor(m, i, &t, &err));
        cr_assert_str_eq(t.name, wanted[i].name);
        cr_assert_eq(t.data_bytes, wanted[i].bytes);
        cr_assert_eq(t.mapped, io != AQ_IO_READ);
        for (size_t k = 0; k < t.data_bytes; k++)
            cr_assert_eq(t.data[k], wanted[i].first + k);
        aq_tensor_release(&t);
    }
    aq_model_close(m);
}

static size_t count_descriptors(void) {
    DIR *all = opendir("/proc/self/fd");
    size_t n = 0;
    cr_assert_not_null(all);
    while (readdir(all) != NULL)
        n++;
    closedir(all);
    return n;
}

Test(inputs, shards_open_by_index_and_by_directory) {
    uint64_t bytes;
    aq_io io;
    put_shards();
    bytes = size_of(ONE) + size_of(TWO) + size_of(THREE);
    for (io = AQ_IO_AUTO; io <= AQ_IO_READ; io++)
        check_shards(here.path, io, bytes);
    put(INDEX, "{" WEIGHT_MAP "}");
    bytes += size_of(INDEX);
    for (io = AQ_IO_AUTO; io <= AQ_IO_READ; io++) {
        check_shards(here.path, io, bytes);
        check_shards(in_dir(INDEX), io, bytes);
    }
    /* The index may have any name, and white space. */
    put("i", "{\n  \"metadata\": {},\n " WEIGHT_MAP " } \n");
    check_shards(in_dir("i"), AQ_IO_AUTO, bytes - size_of(INDEX) + size_of("i"));
    put("i.json", " {" WEIGHT_MAP "}");
    check_shards(in_dir("i.json"), AQ_IO_AUTO,
                 bytes - size_of(INDEX) + size_of("i.json"));
}

Test(inputs, an_index_opens_from_its_own_directory) {
    put_shards();
    put(INDEX, "{" WEIGHT_MAP "}");
    cr_assert_eq(chdir(here.path), 0);
    ASSERT_OK(try_open(INDEX, AQ_IO_AUTO, NULL));
    ASSERT_OK(try_open(".", AQ_IO_AUTO, NULL));
    ASSERT_OK(try_open("./" INDEX, AQ_IO_AUTO, NULL));
    cr_assert_eq(remove(TWO), 0);
    ASSERT_STATUS(try_open(INDEX, AQ_IO_AUTO, NULL), AQ_E_IO);
    cr_assert_eq(chdir("/"), 0);
}

/* Links are followed: download caches are made of them. */
Test(inputs, shards_may_be_links) {
    put_shards();
    cr_assert_eq(mkdir(in_dir("links"), 0777), 0);
    cr_assert_eq(symlink("../" ONE, in_dir("links/" ONE)), 0);
    cr_assert_eq(symlink("../" TWO, in_dir("links/" TWO)), 0);
    cr_assert_eq(symlink("../" THREE, in_dir("links/" THREE)), 0);
    ASSERT_OK(try_open(in_dir("links"), AQ_IO_AUTO, NULL));
    put("links/" INDEX, "{" WEIGHT_MAP "}");
    ASSERT_OK(try_open(in_dir("links/" INDEX), AQ_IO_AUTO, NULL));
}

/* A mapping needs no descriptor; without one each shard keeps its own. */
Test(inputs, mapped_shards_hold_no_descriptors) {
    aq_model_options o = {.io = AQ_IO_MAP};
    size_t before = count_descriptors();
    aq_model *m;
    put_shards();
    ASSERT_OK(aq_model_open(here.path, &o, &m, &err));
    cr_assert_eq(count_descriptors(), before);
    aq_model_close(m);
    o.io = AQ_IO_READ;
    ASSERT_OK(aq_model_open(here.path, &o, &m, &err));
    cr_assert_eq(count_descriptors(), before + 3);
    aq_model_close(m);
    cr_assert_eq(count_descriptors(), before);
}

static void check_pairs(const char *path, const char *const *wanted) {
    aq_key_value pair;
    aq_model *m;
    size_t i;
    ASSERT_OK(aq_model_open(path, NULL, &m, &err));
    for (i = 0; wanted[2 * i] != NULL; i++) {
        cr_assert(aq_model_metadata(m, i, &pair), "%s: pair %zu", path, i);
        cr_assert_str_eq(pair.key, wanted[2 * i]);
        cr_assert_str_eq(pair.value, wanted[2 * i + 1]);
        cr_assert_eq(pair.value_bytes, strlen(pair.value));
    }
    cr_assert(!aq_model_metadata(m, i, &pair));
    aq_model_close(m);
}

/* Of all its files; of a key that comes again, the first: then a directory is another way
 * to store a model, and nothing of it is lost. */
Test(inputs, metadata_of_a_directory) {
    static const aq_key_value first[] = {{"format", "pt", 2}, {"who", "1", 1}};
    static const aq_key_value second[] = {
        {"who", "2", 1}, {"new", "n", 1}, {"format", "other", 5}};
    static const char *const wanted[] = {
        "arrowquant.format", "1", "format", "pt", "new", "n", "who", "1", NULL};
    static const char *const same[] = {
        "arrowquant.format", "1", "format", "pt", "who", "1", NULL};
    const uint64_t shape[1] = {2};
    const float values[2] = {1, 2};
    aq_model_writer_options o = {.no_sync = true};
    aq_job_options convert = {.operation = AQ_CONVERT, .no_sync = true};
    file was, is;
    aq_tensor t[2];
    t[0] = tensor_of("a", AQ_F32, shape, 1, values);
    t[1] = tensor_of("b", AQ_F32, shape, 1, values);
    cr_assert_eq(mkdir(in_dir("d"), 0777), 0);
    o.metadata = first;
    o.num_metadata = COUNT_OF(first);
    ASSERT_OK(aq_model_save(in_dir("d/a.parquet"), &t[0], 1, &o, &err));
    o.metadata = second;
    o.num_metadata = COUNT_OF(second);
    ASSERT_OK(aq_model_save(in_dir("d/b.parquet"), &t[1], 1, &o, &err));
    check_pairs(in_dir("d"), wanted);
    /* A model to a directory, and back. */
    o.metadata = first;
    o.num_metadata = COUNT_OF(first);
    ASSERT_OK(aq_model_save(in_dir("m.safetensors"), t, 2, &o, &err));
    ASSERT_OK(aq_job_run(in_dir("m.safetensors"), in_dir("all/"), &convert, NULL, &err));
    check_pairs(in_dir("all"), same);
    ASSERT_OK(
        aq_job_run(in_dir("all"), in_dir("back.safetensors"), &convert, NULL, &err));
    was = file_read(in_dir("m.safetensors"));
    is = file_read(in_dir("back.safetensors"));
    cr_assert(file_equal(&was, &is));
    file_free(&was);
    file_free(&is);
}

Test(inputs, metadata_of_shards_comes_once) {
    static const char *const shards[] = {"format", "pt", "new", "n", "who", "1", NULL};
    static const char *const index[] = {
        "a",          "{\"b\": [1, 2.5e-3, true, null, \"\\n\"]}",
        "format",     "other",
        "new",        "n",
        "text",       "t\"t",
        "total_size", "10",
        "who",        "1",
        NULL};
    put_shards();
    check_pairs(here.path, shards);
    put(INDEX,
        "{\"metadata\":{\"total_size\": 10 ,\"a\": {\"b\": [1, 2.5e-3, true, null, "
        "\"\\n\"]},\"text\":\"t\\\"t\",\"format\":\"other\"}," WEIGHT_MAP "}");
    check_pairs(here.path, index);
}

/* A wrong total_size is frequent and harmless: a line of the log, no error. */
Test(inputs, wrong_total_size_is_a_line_of_the_log) {
    static const struct {
        const char *value;
        size_t lines;
    } cases[] = {{"10", 0},  {"10.0", 0}, {"\"10\"", 0}, {"11", 1}, {"1", 1},
                 {"100", 1}, {"10.5", 1}, {"null", 1},   {"1e1", 1}};
    put_shards();
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        lines log = {0, ""};
        char text[512];
        snprintf(text, sizeof text, "{\"metadata\":{\"total_size\":%s}," WEIGHT_MAP "}",
                 cases[i].value);
        put(INDEX, text);
        ASSERT_OK(try_open(here.path, AQ_IO_AUTO, &log));
        cr_expect_eq(log.count, cases[i].lines, "%s: %zu, %s", cases[i].value, log.count,
                     log.last);
        if (log.count > 0) cr_expect_not_null(strstr(log.last, "have 10 bytes"));
    }
}

/* What is left out is in the log. */
Test(inputs, what_an_index_leaves_out_is_logged) {
    lines log = {0, ""};
    put_shards();
    put(INDEX, "{" WEIGHT_MAP ",\"more\":[{},[],-0.5E+7,\"x\",false]}");
    ASSERT_OK(try_open(here.path, AQ_IO_AUTO, &log));
    cr_assert_eq(log.count, 1);
    cr_assert_not_null(strstr(log.last, "\"more\""));
    put(INDEX, "{" WEIGHT_MAP ",\"a\\n\\u001b[2J\":1}");
    ASSERT_OK(try_open(here.path, AQ_IO_AUTO, &log));
    cr_assert_not_null(strstr(log.last, "\"a??[2J\""));
    put(INDEX, "{" WEIGHT_MAP "}");
    put("consolidated.safetensors", "whatever");
    put("other-00001-of-00002.safetensors", "another model");
    log.count = 0;
    ASSERT_OK(try_open(here.path, AQ_IO_AUTO, &log));
    cr_assert_eq(log.count, 2);
}

/* Beside two files: a.safetensors with "x", b.safetensors with "y". */
static const struct {
    const char *index;
    aq_status status;
    const char *message;
} bad_indexes[] = {
    {"", AQ_E_FORMAT, "no object"},
    {"[", AQ_E_FORMAT, "no object"},
    {"{", AQ_E_FORMAT, "no string"},
    {"{}", AQ_E_FORMAT, "without a weight_map"},
    {"{\"metadata\":{}}", AQ_E_FORMAT, "without a weight_map"},
    {"{\"weight_map\":{}", AQ_E_FORMAT, "without an end"},
    {"{\"weight_map\":{}} x", AQ_E_FORMAT, "something after"},
    {"{\"weight_map\":{},}", AQ_E_FORMAT, "no string"},
    {"{\"weight_map\" {}}", AQ_E_FORMAT, "no colon"},
    {"{\"weight_map\":[]}", AQ_E_FORMAT, "no object"},
    {"{\"weight_map\":{},\"weight_map\":{}}", AQ_E_FORMAT, "twice"},
    {"{\"metadata\":{},\"metadata\":{}}", AQ_E_FORMAT, "twice"},
    {"{\"metadata\":1}", AQ_E_FORMAT, "no object"},
    {"{\"metadata\":{\"a\"}}", AQ_E_FORMAT, "no colon"},
    {"{\"metadata\":{\"a\":1,\"a\":1}}", AQ_E_FORMAT, "twice"},
    {"{\"metadata\":{\"a\":1", AQ_E_FORMAT, "without an end"},
    {"{\"metadata\":{\"a\":01}}", AQ_E_FORMAT, "no value"},
    {"{\"metadata\":{\"a\":1.}}", AQ_E_FORMAT, "no value"},
    {"{\"metadata\":{\"a\":1e}}", AQ_E_FORMAT, "no value"},
    {"{\"metadata\":{\"a\":-}}", AQ_E_FORMAT, "no value"},
    {"{\"metadata\":{\"a\":NaN}}", AQ_E_FORMAT, "no value"},
    {"{\"metadata\":{\"a\":truer}}", AQ_E_FORMAT, "without an end"},
    {"{\"metadata\":{\"a\":[1 2]}}", AQ_E_FORMAT, "without an end"},
    {"{\"metadata\":{\"a\":[1}]}}", AQ_E_FORMAT, "without an end"},
    {"{\"metadata\":{\"a\":{1:2}}}", AQ_E_FORMAT, "no string"},
    {"{\"metadata\":{\"a\":", AQ_E_FORMAT, "no value"},
    {"{\"weight_map\":{\"x\":1}}", AQ_E_FORMAT, "no string"},
    {"{\"weight_map\":{\"x\"}}", AQ_E_FORMAT, "no colon"},
    {"{\"weight_map\":{\"x\":\"a.safetensors\"", AQ_E_FORMAT, "without an end"},
    {"{\"weight_map\":{\"\":\"a.safetensors\"}}", AQ_E_FORMAT, "without a name"},
    {"{\"weight_map\":{\"x\":\"\"}}", AQ_E_FORMAT, "no plain name"},
    {"{\"weight_map\":{\"x\":\"..\"}}", AQ_E_FORMAT, "no plain name"},
    {"{\"weight_map\":{\"x\":\"../a.safetensors\"}}", AQ_E_FORMAT, "no plain name"},
    {"{\"weight_map\":{\"x\":\"/a.safetensors\"}}", AQ_E_FORMAT, "no plain name"},
    {"{\"weight_map\":{\"x\":\"sub/a.safetensors\"}}", AQ_E_FORMAT, "no plain name"},
    {"{\"weight_map\":{\"x\":\"sub\\/a.safetensors\"}}", AQ_E_FORMAT, "no plain name"},
    {"{\"weight_map\":{\"x\":\"sub\\u002fa.safetensors\"}}", AQ_E_FORMAT,
     "no plain name"},
    {"{\"weight_map\":{\"x\":\".a.safetensors\"}}", AQ_E_FORMAT, "no plain name"},
    {"{\"weight_map\":{\"x\":\"a.safetensors\\u0000\"}}", AQ_E_FORMAT, "escape"},
    {"{\"weight_map\":{\"x\":\"pytorch_model.bin\"}}", AQ_E_UNSUPPORTED, "never loaded"},
    {"{\"weight_map\":{\"x\":\"c.safetensors\"}}", AQ_E_IO,
     "c.safetensors, which the index"},
    {"{\"weight_map\":{\"x\":\"c-2-of-3.safetensors\"}}", AQ_E_IO,
     "shard 2 of 3 is missing: c-2-of-3.safetensors"},
    {"{\"weight_map\":{\"x\":\"a.safetensors\",\"x\":\"a.safetensors\"}}", AQ_E_DUPLICATE,
     "weight_map has the tensor twice (tensor \"x\""},
    {"{\"weight_map\":{\"x\":\"b.safetensors\"}}", AQ_E_FORMAT,
     "shard b.safetensors lacks (tensor \"x\""},
    {"{\"weight_map\":{\"x\":\"a.safetensors\",\"z\":\"a.safetensors\"}}", AQ_E_FORMAT,
     "shard a.safetensors lacks (tensor \"z\""},
    {"{\"weight_map\":{\"x\":\"b.safetensors\",\"y\":\"a.safetensors\"}}", AQ_E_FORMAT,
     "of the shard b.safetensors that lies in a.safetensors (tensor \"x\""},
    {"{\"weight_map\":{\"w\":\"a.safetensors\",\"y\":\"b.safetensors\"}}", AQ_E_FORMAT,
     "shard a.safetensors lacks (tensor \"w\""},
    {"{\"weight_map\":{\"y\":\"b.safetensors\",\"z\":\"two.safetensors\"}}", AQ_E_FORMAT,
     "does not name a tensor of the shard two.safetensors (tensor \"v\""},
    {"{\"weight_map\":{\"x\":\"a.safetensors\",\"y\":\"y2.safetensors\","
     "\"x2\":\"y2.safetensors\",\"z\":\"b.safetensors\"}}",
     AQ_E_DUPLICATE, "comes twice, in b.safetensors and y2.safetensors (tensor \"y\""},
    {"{\"weight_map\":{\"x\":\"broken.safetensors\"}}", AQ_E_FORMAT,
     "file broken.safetensors"},
    {"{\"weight_map\":{\"x\":\"folder.safetensors\"}}", AQ_E_IO, "folder.safetensors"},
};

Test(inputs, bad_indexes) {
    put_shard("a.safetensors", "{" U8("x", 1, 0, 1) "}", 1, 1);
    put_shard("b.safetensors", "{" U8("y", 1, 0, 1) "}", 1, 1);
    put_shard("two.safetensors", "{" U8("z", 1, 0, 1) "," U8("v", 1, 1, 2) "}", 2, 1);
    put_shard("y2.safetensors", "{" U8("y", 1, 0, 1) "," U8("x2", 1, 1, 2) "}", 2, 1);
    put("broken.safetensors", "0123456789");
    cr_assert_eq(mkdir(in_dir("folder.safetensors"), 0777), 0);
    for (size_t i = 0; i < COUNT_OF(bad_indexes); i++) {
        put("i.json", bad_indexes[i].index);
        expect_refused(bad_indexes[i].index, in_dir("i.json"), bad_indexes[i].status,
                       bad_indexes[i].message);
        if (bad_indexes[i].status == AQ_E_IO && strstr(err.message, "is missing") != NULL)
            cr_expect_eq(err.os_errno, ENOENT);
    }
    put("i.json", "{\"weight_map\":{}}");
    ASSERT_OK(try_open(in_dir("i.json"), AQ_IO_AUTO, NULL));
    put("i.json", "{\"weight_map\":{\"x\":\"a.safetensors\",\"y\":\"b.safetensors\"}}");
    ASSERT_OK(try_open(in_dir("i.json"), AQ_IO_AUTO, NULL));
}

/* Nesting of 64 is read, 65 refused; a million is no matter of the stack. */
Test(inputs, deep_indexes) {
    enum { DEEP = 1000000 };
    char *text = malloc(DEEP + 64);
    cr_assert_not_null(text);
    for (int depth = 64; depth <= 65; depth++) {
        int n = snprintf(text, 64, "{\"weight_map\":{},\"m\":");
        memset(text + n, '[', (size_t)depth);
        memset(text + n + depth, ']', (size_t)depth);
        memcpy(text + n + 2 * depth, "}", 2);
        put("i.json", text);
        ASSERT_STATUS(try_open(in_dir("i.json"), AQ_IO_AUTO, NULL),
                      depth == 64 ? AQ_OK : AQ_E_LIMIT);
    }
    memset(text + 21, '[', DEEP);
    text[21 + DEEP] = '\0';
    put("i.json", text);
    ASSERT_STATUS(try_open(in_dir("i.json"), AQ_IO_AUTO, NULL), AQ_E_LIMIT);
    free(text);
}

/* Sparse: over the limit, nothing of it is read. */
Test(inputs, huge_indexes) {
    put("i.json", " ");
    cr_assert_eq(truncate(in_dir("i.json"), 100000001), 0);
    expect_refused("huge", in_dir("i.json"), AQ_E_LIMIT, "100,000,000");
}

/* Shard files that are there, without or with an index, each with one tensor that is
 * named after the first letter of the file. */
static const struct {
    const char *files[5];
    const char *index; /* NULL = none */
    aq_status status;
    const char *message;
} series[] = {
    {{"m-1-of-1"}, NULL, AQ_OK, ""},
    {{"m-00001-of-00002", "n-00002-of-00002"},
     NULL,
     AQ_E_IO,
     "shard 2 of 2 is missing: m-"},
    {{"m-1-of-2"}, NULL, AQ_E_IO, "shard 2 of 2 is missing: m-2-of-2.safetensors"},
    {{"m-2-of-2"}, NULL, AQ_E_IO, "shard 1 of 2 is missing: m-1-of-2.safetensors"},
    {{"m-001-of-003", "n-003-of-003"},
     NULL,
     AQ_E_IO,
     "shard 2 of 3 is missing: m-002-of-003"},
    /* These are just names. */
    {{"m-0-of-2", "n-3-of-2", "o-01-of-2", "p-of-2", "-1-of-2"},
     NULL,
     AQ_E_IO,
     "-2-of-2"},
    {{"m-0-of-2", "n-3-of-2", "o-01-of-2", "p-of-2", "q-1-of-x"}, NULL, AQ_OK, ""},
    {{"m-0-of-0", "n", "1-of-2", "o-1-of2", "p1-of-2"}, NULL, AQ_OK, ""},
    {{"m-1-of-00000000000000000002", "n-99999999999999999999-of-99999999999999999999"},
     NULL,
     AQ_OK,
     ""},
    /* The index lacks a shard that is there, or of which there is no trace. */
    {{"m-1-of-2", "n-2-of-2"},
     "{" PLACE("m", "m-1-of-2.safetensors") "}",
     AQ_E_IO,
     "shard 2 of 2 is missing: m-2-of-2"},
    {{"m-1-of-2", "m-2-of-2"},
     "{" PLACE("m", "m-1-of-2.safetensors") "}",
     AQ_E_FORMAT,
     "does not name the shard m-2-of-2.safetensors"},
    {{"m-1-of-1", "m-2-of-2", "m-1-of-2"},
     "{" PLACE("m", "m-1-of-1.safetensors") "}",
     AQ_E_FORMAT,
     "does not name the shard m-1-of-2.safetensors"},
    {{"a", "m-1-of-2"}, "{" PLACE("a", "a.safetensors") "}", AQ_OK, ""},
    {{"a", "model-1-of-1"},
     "{" PLACE("a", "a.safetensors") "}",
     AQ_E_FORMAT,
     "does not name the shard model-1-of-1.safetensors"},
    {{"a", "b"}, "{" PLACE("a", "a.safetensors") "}", AQ_OK, ""},
};

Test(inputs, series_of_shards) {
    for (size_t i = 0; i < COUNT_OF(series); i++) {
        char directory[64], name[128], text[256], what[64];
        snprintf(directory, sizeof directory, "d%zu", i);
        snprintf(what, sizeof what, "series %zu, %s", i, series[i].files[0]);
        cr_assert_eq(mkdir(in_dir(directory), 0777), 0);
        for (size_t k = 0; k < 5 && series[i].files[k] != NULL; k++) {
            snprintf(name, sizeof name, "%s/%s.safetensors", directory,
                     series[i].files[k]);
            snprintf(text, sizeof text,
                     "{\"%c\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}",
                     series[i].files[k][0]);
            put_shard(name, text, 1, 1);
        }
        if (series[i].index != NULL) {
            snprintf(name, sizeof name, "%s/" INDEX, directory);
            snprintf(text, sizeof text, "{\"weight_map\":%s}", series[i].index);
            put(name, text);
        }
        expect_refused(what, in_dir(directory), series[i].status, series[i].message);
    }
}

Test(inputs, bad_directories) {
    expect_refused("empty", here.path, AQ_E_NOT_FOUND, "no .safetensors file");
    put_shard("a.safetensors", "{" U8("x", 1, 0, 1) "}", 1, 1);
    put_shard(".hidden.safetensors", "{", 1, 1);
    ASSERT_OK(try_open(here.path, AQ_IO_AUTO, NULL));
    put_shard("b.safetensors", "{" U8("x", 1, 0, 1) "}", 1, 1);
    expect_refused("twice", here.path, AQ_E_DUPLICATE,
                   "comes twice, in a.safetensors and b.safetensors (tensor \"x\"");
    put_shard("b.safetensors", "{" U8("y", 1, 0, 1) "}", 2, 1);
    expect_refused("damaged", here.path, AQ_E_FORMAT, "file b.safetensors");
    put("p.parquet", "PAR1");
    expect_refused("mixed", here.path, AQ_E_FORMAT, "mixes .parquet and .safetensors");
    cr_assert_eq(remove(in_dir("a.safetensors")), 0);
    cr_assert_eq(remove(in_dir("b.safetensors")), 0);
    put(INDEX, "{}");
    expect_refused("mixed", here.path, AQ_E_FORMAT, "mixes .parquet and .safetensors");
    cr_assert_eq(remove(in_dir("p.parquet")), 0);
    expect_refused("index alone", here.path, AQ_E_FORMAT, "weight_map");
    put("model.safetensors.index.fp16.json", "{}");
    expect_refused("indexes", here.path, AQ_E_FORMAT, "2 indexes");
}

/* Nobody writes to the FIFO: to open it would be to wait. */
Test(inputs, a_fifo_is_no_file) {
    aq_parquet *f;
    cr_assert_eq(mkfifo(in_dir("w.parquet"), 0600), 0);
    ASSERT_STATUS(aq_parquet_open(in_dir("w.parquet"), NULL, &f, &err), AQ_E_IO);
    ASSERT_MESSAGE("fifo", "not a regular file");
    expect_refused("fifo", here.path, AQ_E_IO, "not a regular file");
}

Test(inputs, no_path) {
    aq_parquet *f;
    aq_model *m;
    ASSERT_STATUS(aq_parquet_open(NULL, NULL, &f, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_model_open(NULL, NULL, &m, &err), AQ_E_ARG);
}

/* ---- npy ---- */

/* Writes a .npy file; the header as it is, then `bytes` bytes that count up. */
static void put_npy(const char *name, int version, const char *header, size_t bytes) {
    uint8_t data[1024] = "\x93NUMPY";
    size_t n = strlen(header), at = version == 1 ? 10 : 12, i;
    cr_assert_lt(at + n + bytes, sizeof data);
    data[6] = (uint8_t)version;
    for (i = 8; i < at; i++)
        data[i] = (uint8_t)(n >> 8 * (i - 8));
    memcpy(data + at, header, n);
    for (i = 0; i < bytes; i++)
        data[at + n + i] = (uint8_t)i;
    file_write(in_dir(name), data, at + n + bytes);
}

#define NPY(descr, fortran, shape)                                                       \
    "{'descr': '" descr "', 'fortran_order': " fortran ", 'shape': " shape ", }\n"

static const struct {
    const char *descr;
    aq_dtype dtype;
} npy_types[] = {
    {"<f4", AQ_F32}, {"<f2", AQ_F16}, {"<f8", AQ_F64}, {"|i1", AQ_I8},  {"<i1", AQ_I8},
    {">i1", AQ_I8},  {"|u1", AQ_U8},  {"<u1", AQ_U8},  {"<i2", AQ_I16}, {"<u2", AQ_U16},
    {"<i4", AQ_I32}, {"<u4", AQ_U32}, {"<i8", AQ_I64}, {"<u8", AQ_U64}, {"|b1", AQ_BOOL},
};

Test(inputs, npy_of_every_type_and_version) {
    static const aq_io modes[] = {AQ_IO_MAP, AQ_IO_READ};
    for (size_t i = 0; i < COUNT_OF(npy_types) * 6; i++) {
        size_t bytes = 6 * aq_dtype_bytes(npy_types[i / 6].dtype);
        aq_model_options o = {.io = modes[i % 2]};
        char header[128];
        aq_model *m;
        aq_key_value pair;
        aq_tensor t;
        snprintf(header, sizeof header, NPY("%s", "False", "(2, 3)"),
                 npy_types[i / 6].descr);
        put_npy("some.name.npy", 1 + (int)(i % 3), header, bytes);
        ASSERT_OK(aq_model_open(in_dir("some.name.npy"), &o, &m, &err));
        cr_assert_eq(aq_model_get_format(m), AQ_MODEL_NPY);
        cr_assert_eq(aq_model_file_bytes(m), size_of("some.name.npy"));
        cr_assert_eq(aq_model_count(m), 1);
        cr_assert(!aq_model_metadata(m, 0, &pair));
        ASSERT_OK(aq_model_find(m, "some.name", &t, &err));
        cr_assert(t.dtype == npy_types[i / 6].dtype && t.data_bytes == bytes);
        cr_assert(t.num_dims == 2 && t.shape[0] == 2 && t.shape[1] == 3);
        cr_assert_eq(t.mapped, o.io == AQ_IO_MAP);
        for (size_t k = 0; k < bytes; k++)
            cr_assert_eq(t.data[k], k);
        aq_tensor_release(&t);
        aq_model_close(m);
    }
}

/* Other forms of a good header, and shapes. */
static const struct {
    const char *header;
    uint32_t num_dims;
    uint64_t num_params;
} good_headers[] = {
    {NPY("|u1", "False", "()"), 0, 1},
    {NPY("|u1", "False", "(3,)"), 1, 3},
    {NPY("|u1", "True", "(3,)"), 1, 3}, /* of one dimension, the order is no matter */
    {NPY("|u1", "True", "()"), 0, 1},
    {NPY("|u1", "False", "(0,)"), 1, 0},
#if SIZE_MAX == UINT64_MAX
    {NPY("|u1", "False", "(0, 18446744073709551615)"), 2, 0},
#endif
    {NPY("|u1", "False", "(2, 3,)"), 2, 6},
    {NPY("|u1", "False", "(1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2)"), 16, 2},
    {"{'shape':(2,3),'descr':'|u1','fortran_order':False}", 2, 6},
    {" { \"shape\" : ( 2 , 3 ) , \"fortran_order\":False,\n\t\"descr\":\"|u1\"}  \n", 2,
     6},
};

Test(inputs, npy_headers_in_other_forms) {
    for (size_t i = 0; i < COUNT_OF(good_headers); i++) {
        aq_model *m;
        aq_tensor t;
        put_npy("x.npy", 1, good_headers[i].header, (size_t)good_headers[i].num_params);
        ASSERT_OK(aq_model_open(in_dir("x.npy"), NULL, &m, &err));
        ASSERT_OK(aq_model_find(m, "x", &t, &err));
        cr_expect(t.num_dims == good_headers[i].num_dims &&
                      t.num_params == good_headers[i].num_params,
                  "%s: %u dimensions", good_headers[i].header, t.num_dims);
        aq_tensor_release(&t);
        aq_model_close(m);
    }
}

/* With 6 bytes of data. */
static const struct {
    const char *header;
    aq_status status;
    const char *message;
} bad_headers[] = {
    {"", AQ_E_FORMAT, "no {"},
    {"{", AQ_E_FORMAT, "no string"},
    {"{}", AQ_E_FORMAT, "no descr, fortran_order or shape"},
    {"{,}", AQ_E_FORMAT, "no string"},
    {"{'descr'}", AQ_E_FORMAT, "no colon"},
    {"{'descr", AQ_E_FORMAT, "without an end"},
    {"{'descr\\x41':", AQ_E_FORMAT, "unexpected text"},
    {"{'descr': 1", AQ_E_FORMAT, "no string"},
    {"{'a_very_long_key_of_nobody'", AQ_E_FORMAT, "unexpected text"},
    {"{'d': 1}", AQ_E_FORMAT, "unexpected or repeated key"},
    {"{'descr': '|u1', 'descr': '|u1'}", AQ_E_FORMAT, "unexpected or repeated key"},
    {"{'fortran_order': False, 'fortran_order': False}", AQ_E_FORMAT, "repeated key"},
    {"{'shape': (), 'shape': ()}", AQ_E_FORMAT, "repeated key"},
    {"{'descr': '|u1' 'shape'", AQ_E_FORMAT, "header without an end"},
    {"{'descr': '|u1', 'shape': (6,)}", AQ_E_FORMAT, "no descr, fortran_order or shape"},
    {"{'fortran_order': false", AQ_E_FORMAT, "neither True nor False"},
    {"{'fortran_order': Tru", AQ_E_FORMAT, "neither True nor False"},
    {"{'fortran_order': 0", AQ_E_FORMAT, "neither True nor False"},
    {"{'shape': 6", AQ_E_FORMAT, "no tuple"},
    {"{'shape': [6]", AQ_E_FORMAT, "no tuple"},
    {"{'shape': (6)", AQ_E_FORMAT, "no comma"},
    {"{'shape': (6", AQ_E_FORMAT, "no comma"},
    {"{'shape': (,)", AQ_E_FORMAT, "no whole number"},
    {"{'shape': (6,,)", AQ_E_FORMAT, "no whole number"},
    {"{'shape': (-6,)", AQ_E_FORMAT, "no whole number"},
    {"{'shape': (2 3)", AQ_E_FORMAT, "no comma"},
    {"{'shape': (06,)", AQ_E_FORMAT, "leading 0"},
    {"{'shape': (18446744073709551616,)", AQ_E_FORMAT, "over 64 bits"},
    {"{'shape': (1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,6)", AQ_E_LIMIT, "over 16 dimensions"},
    {NPY("|u1", "False", "(6,)") "x", AQ_E_FORMAT, "something after"},
    {NPY("|u1", "False", "(18446744073709551615, 2)"), AQ_E_LIMIT, "elements"},
    {NPY("<f8", "False", "(2305843009213693952,)"), AQ_E_LIMIT, "elements"},
    {NPY("|u1", "False", "(5,)"), AQ_E_FORMAT, "need 5 bytes, 6 follow"},
    {NPY("|u1", "False", "(7,)"), AQ_E_FORMAT, "need 7 bytes, 6 follow"},
    {NPY("|u1", "True", "(2, 3)"), AQ_E_UNSUPPORTED, "numpy.ascontiguousarray(array)"},
    {NPY(">f4", "False", "(6,)"), AQ_E_UNSUPPORTED, "big-endian; save array.astype"},
    {NPY("=f4", "False", "(6,)"), AQ_E_UNSUPPORTED, "byte order"},
    {NPY("|f4", "False", "(6,)"), AQ_E_UNSUPPORTED, "byte order"},
    {NPY("f4", "False", "(6,)"), AQ_E_UNSUPPORTED, "byte order"},
    {NPY("", "False", "(6,)"), AQ_E_UNSUPPORTED, "\"\" is not known"},
    {NPY("<", "False", "(6,)"), AQ_E_UNSUPPORTED, "\"<\" is not known"},
    {NPY("<f16", "False", "(6,)"), AQ_E_UNSUPPORTED, "\"<f16\" is not known"},
    {NPY("<c8", "False", "(6,)"), AQ_E_UNSUPPORTED, "\"<c8\" is not known"},
    {NPY("<U3", "False", "(6,)"), AQ_E_UNSUPPORTED, "\"<U3\" is not known"},
    {NPY("|V2", "False", "(6,)"), AQ_E_UNSUPPORTED, "\"|V2\" is not known"},
    {NPY("|O", "False", "(6,)"), AQ_E_UNSUPPORTED, "pickled objects are never loaded"},
    {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6,)}", AQ_E_UNSUPPORTED,
     "structures"},
    {"{'descr': ('<f4', (2,)), 'fortran_order': False, 'shape': (6,)}", AQ_E_UNSUPPORTED,
     "structures"},
};

Test(inputs, bad_npy_headers) {
    for (size_t i = 0; i < COUNT_OF(bad_headers); i++) {
        put_npy("x.npy", 1, bad_headers[i].header, 6);
        /* The header ends the file: nothing may be read behind it. */
        expect_refused(bad_headers[i].header, in_dir("x.npy"), bad_headers[i].status,
                       bad_headers[i].message);
    }
}

Test(inputs, bad_npy_files) {
    static const struct {
        const char *bytes;
        size_t size;
        aq_status status;
        const char *message;
    } cases[] = {
        {"", 0, AQ_E_FORMAT, "not a .npy file"},
        {"\x93NUMPX\1\0\0\0", 10, AQ_E_FORMAT, "not a .npy file"},
        {"\x93NUMPY", 6, AQ_E_FORMAT, "not a .npy file"},
        {"\x93NUMPY\1\0\0", 9, AQ_E_FORMAT, "not a .npy file"},
        {"\x93NUMPY\0\0\0\0", 10, AQ_E_UNSUPPORTED, "version 0.0"},
        {"\x93NUMPY\4\0\0\0", 10, AQ_E_UNSUPPORTED, "version 4.0"},
        {"\x93NUMPY\1\1\0\0", 10, AQ_E_UNSUPPORTED, "version 1.1"},
        {"\x93NUMPY\1\0\0\0", 10, AQ_E_FORMAT, "no {"},
        {"\x93NUMPY\1\0\1\0", 10, AQ_E_FORMAT, "header of 1 bytes in a file of 10"},
        {"\x93NUMPY\2\0\0\0", 10, AQ_E_FORMAT, "cut off"},
        {"\x93NUMPY\2\0\0\0\0", 11, AQ_E_FORMAT, "cut off"},
        {"\x93NUMPY\2\0\0\0\0\0", 12, AQ_E_FORMAT, "no {"},
        {"\x93NUMPY\3\0\377\377\377\377", 12, AQ_E_FORMAT, "header of 4294967295 bytes"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char what[32];
        snprintf(what, sizeof what, "file %zu", i);
        file_write(in_dir("x.npy"), cases[i].bytes, cases[i].size);
        expect_refused(what, in_dir("x.npy"), cases[i].status, cases[i].message);
    }
    file_write(in_dir("x.npy"), "\x93NUMPY\2\0\1\0\20\0", 12);
    cr_assert_eq(truncate(in_dir("x.npy"), 2 << 20), 0);
    expect_refused("large", in_dir("x.npy"), AQ_E_LIMIT, "the limit is 1,048,576");
    file_write(in_dir("x.npy"), "\x93NUMPY\2\0\0\0\20\0", 12); /* 1 MiB: no { */
    cr_assert_eq(truncate(in_dir("x.npy"), 2 << 20), 0);
    expect_refused("large", in_dir("x.npy"), AQ_E_FORMAT, "no {");
}

/* The magic decides, not the ending; the tensor has the file's name. */
Test(inputs, npy_names) {
    static const struct {
        const char *file, *tensor;
    } names[] = {{"w.npy", "w"},
                 {"w", "w"},
                 {"w.parquet", "w.parquet"},
                 {"a b.npy.npy", "a b.npy"},
                 {".npy", ".npy"},
                 {"\303\244.npy", "\303\244"},
                 {"x.safetensors", "x.safetensors"}};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        aq_model *m;
        aq_tensor t;
        put_npy(names[i].file, 1, NPY("|u1", "False", "(2,)"), 2);
        ASSERT_OK(aq_model_open(in_dir(names[i].file), NULL, &m, &err));
        ASSERT_OK(aq_model_describe(m, 0, &t, &err));
        cr_assert_str_eq(t.name, names[i].tensor);
        aq_model_close(m);
    }
    put_npy("\344.npy", 1, NPY("|u1", "False", "(2,)"), 2);
    expect_refused("Latin-1", in_dir("\344.npy"), AQ_E_FORMAT, "not UTF-8; rename");
    put("other", "something else");
    expect_refused("other", in_dir("other"), AQ_E_FORMAT, ".npy");
}

/* ---- all changes of small files, and no memory ---- */

#define SMALL_INDEX                                                                      \
    "{\"metadata\":{\"total_size\":2},\"weight_map\":{\"x\":\"a.safetensors\","          \
    "\"y\":\"b-1-of-1.safetensors\"}}"

static void put_small_index(const char *name) {
    put_shard("a.safetensors", "{" META("\"k\":\"v\"") "," U8("x", 1, 0, 1) "}", 1, 1);
    put_shard("b-1-of-1.safetensors", "{" META("\"k\":\"v\"") "," U8("y", 1, 0, 1) "}", 1,
              1);
    put(name, SMALL_INDEX);
}

/* Every truncation is refused; every changed byte is refused with words, or harmless.
 * Returns how many changes were harmless. */
static size_t change_every_byte(const char *name, aq_status for_cut,
                                size_t *out_changes) {
    file f = file_read(in_dir(name));
    size_t harmless = 0;
    char what[64];
    ASSERT_OK(try_open(in_dir(name), AQ_IO_READ, NULL));
    for (size_t n = 0; n < f.size; n++) {
        aq_status status;
        file_write(in_dir(name), f.data, n);
        status = try_open(in_dir(name), AQ_IO_READ, NULL);
        cr_assert_eq(status, for_cut, "%s: first %zu bytes: %s", name, n, err.message);
    }
    for (size_t i = 0; i < f.size; i++) {
        uint8_t old = f.data[i];
        for (unsigned v = 0; v < 256; v++) {
            if (v == old) continue;
            f.data[i] = (uint8_t)v;
            file_write(in_dir(name), f.data, f.size);
            snprintf(what, sizeof what, "byte %zu is %u", i, v);
            if (try_open(in_dir(name), AQ_IO_READ, NULL) == AQ_OK) {
                harmless++;
            } else {
                CHECK(err.message[0] != '\0' && strchr(err.message, '\n') == NULL, "%s",
                      what);
            }
        }
        f.data[i] = old;
    }
    *out_changes = f.size * 255;
    file_free(&f);
    return harmless;
}

Test(inputs, every_change_of_an_index) {
    size_t changes, harmless;
    put_small_index("i.json");
    harmless = change_every_byte("i.json", AQ_E_FORMAT, &changes);
    /* The name and the value of total_size, mostly. */
    cr_assert(harmless > 100 && harmless < changes / 2, "%zu of %zu", harmless, changes);
}

Test(inputs, every_change_of_a_npy_file) {
    size_t changes, harmless;
    put_npy("x.npy", 1, NPY("|u1", "False", "(2, 3)"), 6);
    harmless = change_every_byte("x.npy", AQ_E_FORMAT, &changes);
    /* Data may be anything; shape (3, 2) or (2, 3) has one way to be written. */
    cr_assert(harmless >= 6 * 255 && harmless < 6 * 255 + 100, "%zu of %zu", harmless,
              changes);
}

static void fail_every_allocation(const char *path) {
    counting_allocator c;
    aq_model_options o = {.allocator = &c.hooks};
    aq_model *m;
    size_t calls;
    counting_init(&c);
    ASSERT_OK(aq_model_open(path, &o, &m, &err));
    aq_model_close(m);
    calls = c.calls;
    cr_assert_gt(calls, 2);
    for (size_t k = 1; k <= calls; k++) {
        counting_init(&c);
        c.fail_at = k;
        ASSERT_STATUS(aq_model_open(path, &o, &m, &err), AQ_E_NOMEM);
        cr_assert_null(m);
        cr_assert(counting_is_clean(&c), "%s: call %zu", path, k);
    }
}

Test(inputs, every_allocation_fails_once) {
    put_small_index(INDEX);
    fail_every_allocation(here.path);
    fail_every_allocation(in_dir(INDEX));
    cr_assert_eq(remove(in_dir(INDEX)), 0);
    fail_every_allocation(here.path);
    put_npy("x.npy", 1, NPY("|u1", "False", "(2, 3)"), 6);
    fail_every_allocation(in_dir("x.npy"));
}

/* ---- jobs ---- */

/* Equal codes, scales and zero points. */
static void check_same_tensors(const char *path_a, const char *path_b, size_t count) {
    aq_model *a, *b;
    ASSERT_OK(aq_model_open(path_a, NULL, &a, &err));
    ASSERT_OK(aq_model_open(path_b, NULL, &b, &err));
    cr_assert(aq_model_count(a) == count && aq_model_count(b) == count);
    for (size_t i = 0; i < count; i++) {
        aq_tensor x, y;
        ASSERT_OK(aq_model_tensor(a, i, &x, &err));
        ASSERT_OK(aq_model_tensor(b, i, &y, &err));
        cr_assert_str_eq(x.name, y.name);
        cr_assert(x.layout.bits == 4 && y.layout.bits == 4);
        cr_assert(x.data_bytes > 0 && x.data_bytes == y.data_bytes);
        cr_assert_arr_eq(x.data, y.data, x.data_bytes);
        cr_assert_arr_eq(x.scales, y.scales, x.layout.num_groups * sizeof(float));
        cr_assert_arr_eq(x.zero_points, y.zero_points,
                         x.layout.num_groups * sizeof(float));
        aq_tensor_release(&x);
        aq_tensor_release(&y);
    }
    aq_model_close(a);
    aq_model_close(b);
}

/* What comes of shards is what comes of the same tensors in one file. */
Test(inputs, a_job_reads_shards_and_npy) {
    enum { ROWS = 8, COLS = 64 };
    aq_job_options o = {.threads = 1, .no_sync = true};
    aq_model_writer_options w = {.no_sync = true};
    float values[2][ROWS * COLS];
    aq_tensor t[2];
    rng r = {7};
    rng_floats(&r, values[0], ROWS * COLS, 2);
    rng_floats(&r, values[1], ROWS * COLS, 2);
    t[0] = matrix_of("p", ROWS, COLS, values[0]);
    t[1] = matrix_of("q", ROWS, COLS, values[1]);
    cr_assert_eq(mkdir(in_dir("two"), 0777), 0);
    ASSERT_OK(aq_model_save(in_dir("one.safetensors"), t, 2, &w, &err));
    ASSERT_OK(aq_model_save(in_dir("two/a-1-of-2.safetensors"), t + 1, 1, &w, &err));
    ASSERT_OK(aq_model_save(in_dir("two/a-2-of-2.safetensors"), t, 1, &w, &err));
    put("two/" INDEX, "{\"weight_map\":{" PLACE("p", "a-2-of-2.safetensors") "," PLACE(
                          "q", "a-1-of-2.safetensors") "}}");
    ASSERT_OK(
        aq_job_run(in_dir("one.safetensors"), in_dir("one.parquet"), &o, NULL, &err));
    ASSERT_OK(aq_job_run(in_dir("two/" INDEX), in_dir("two.parquet"), &o, NULL, &err));
    check_same_tensors(in_dir("one.parquet"), in_dir("two.parquet"), 2);
    put_npy("n.npy", 1, NPY("<f4", "False", "(2, 16)"), 128);
    ASSERT_OK(aq_job_run(in_dir("n.npy"), in_dir("n.parquet"), &o, NULL, &err));
    ASSERT_OK(try_open(in_dir("n.parquet"), AQ_IO_AUTO, NULL));
}

/* ---- what NumPy writes, and reads ---- */

/* A python that has numpy; NULL = none. */
static const char *find_numpy(void) {
    static const char *const pythons[] = {"python3", "/usr/bin/python3"};
    char command[128];
    for (size_t i = 0; i < COUNT_OF(pythons); i++) {
        snprintf(command, sizeof command, "%s -c 'import numpy' 2>/dev/null", pythons[i]);
        if (system(command) == 0) return pythons[i];
    }
    return NULL;
}

static void run_python(const char *python, const char *script) {
    char command[1200];
    put("script.py", script);
    snprintf(command, sizeof command, "cd '%s' && %s script.py", here.path, python);
    cr_assert_eq(system(command), 0);
}

/* Arrays of all types, dimensions and versions, with their raw bytes and a line about
 * each; and arrays that must be refused. */
static const char write_arrays[] =
    "import numpy as np\n"
    "from numpy.lib import format\n"
    "import warnings\n"
    "warnings.simplefilter('ignore')\n"
    "out = open('list', 'w')\n"
    "r = np.random.default_rng(1)\n"
    "shapes = [(), (1,), (7,), (0,), (3, 4), (2, 0, 3), (2, 3, 4, 5), (1,) * 16]\n"
    "n = 0\n"
    "for name in 'float32 float16 float64 int8 uint8 int16 uint16 int32 uint32 int64 "
    "'\\\n"
    "            'uint64 bool'.split():\n"
    "    for shape in shapes:\n"
    "        a = np.asarray((r.standard_normal(shape) * 100)).astype(name)\n"
    "        for version in ((1, 0), (2, 0), (3, 0)):\n"
    "            with open('a%d.npy' % n, 'wb') as f:\n"
    "                format.write_array(f, a, version)\n"
    "            open('a%d.bin' % n, 'wb').write(a.tobytes())\n"
    "            print(n, name, len(shape), *shape, file=out)\n"
    "            n += 1\n"
    "bad = [np.zeros((2, 3), '>f4'), np.zeros((2, 3), order='F'), np.zeros(2, 'c8'),\n"
    "       np.zeros(2, 'U3'), np.zeros(2, 'S3'), np.zeros(2, 'M8[s]'),\n"
    "       np.zeros(2, 'f4,i4'), np.array([{}, None], object), np.zeros(2, 'g')]\n"
    "for i, a in enumerate(bad):\n"
    "    np.save('bad%d.npy' % i, a)\n"
    "print(-1, len(bad), 0, file=out)\n";

static void check_array(int n, const char *dtype, FILE *list, unsigned num_dims) {
    char name[32];
    aq_model *m;
    aq_tensor t;
    file raw;
    snprintf(name, sizeof name, "a%d.npy", n);
    ASSERT_OK(aq_model_open(in_dir(name), NULL, &m, &err));
    ASSERT_OK(aq_model_tensor(m, 0, &t, &err));
    cr_assert_str_eq(aq_dtype_name(t.dtype), dtype);
    cr_assert_eq(t.num_dims, num_dims);
    for (unsigned d = 0; d < num_dims; d++) {
        unsigned side;
        cr_assert_eq(fscanf(list, "%u", &side), 1);
        cr_assert_eq(t.shape[d], side);
    }
    snprintf(name, sizeof name, "a%d.bin", n);
    raw = file_read(in_dir(name));
    cr_assert_eq(raw.size, t.data_bytes);
    if (raw.size > 0) cr_assert_arr_eq(raw.data, t.data, raw.size);
    file_free(&raw);
    aq_tensor_release(&t);
    aq_model_close(m);
}

Test(inputs, what_numpy_writes) {
    const char *python = find_numpy();
    char dtype[32], name[32];
    unsigned num_dims;
    FILE *list;
    int n, arrays = 0;
    if (python == NULL) {
        printf("skipped: no python3 with numpy\n");
        SKIP_TEST("no python3 with numpy");
    }
    run_python(python, write_arrays);
    list = fopen(in_dir("list"), "r");
    cr_assert_not_null(list);
    while (fscanf(list, "%d %31s %u", &n, dtype, &num_dims) == 3 && n >= 0) {
        check_array(n, dtype, list, num_dims);
        arrays++;
    }
    fclose(list);
    cr_assert_eq(n, -1);
    cr_assert_eq(arrays, 12 * 8 * 3);
    cr_assert_eq(atoi(dtype), 9);
    for (int i = 0; i < 9; i++) {
        snprintf(name, sizeof name, "bad%d.npy", i);
        ASSERT_STATUS(try_open(in_dir(name), AQ_IO_AUTO, NULL), AQ_E_UNSUPPORTED);
    }
}

/* Loads what the list names, and compares. */
static const char load_arrays[] =
    "import numpy as np, sys\n"
    "n = 0\n"
    "for line in open('list'):\n"
    "    name, dtype, *shape = line.split()\n"
    "    a = np.load(name)\n"
    "    if a.dtype != np.dtype(dtype) or a.shape != tuple(map(int, shape)):\n"
    "        sys.exit('%s: %s %s, not %s' % (name, a.dtype, a.shape, line))\n"
    "    n += 1\n"
    "sys.exit(n < 20)\n";

/* Every header with one byte changed that is accepted here is so by NumPy, and means the
 * same. */
Test(inputs, what_is_accepted_numpy_accepts) {
    const char *python = find_numpy();
    file f;
    FILE *list;
    if (python == NULL) {
        printf("skipped: no python3 with numpy\n");
        SKIP_TEST("no python3 with numpy");
    }
    put_npy("x.npy", 1, NPY("<i2", "False", "(2, 3)"), 12);
    f = file_read(in_dir("x.npy"));
    list = fopen(in_dir("list"), "w");
    cr_assert_not_null(list);
    for (size_t i = 0; i < (f.size - 12) * 256; i++) {
        uint8_t old = f.data[i / 256];
        char name[32];
        aq_model *m;
        aq_tensor t;
        snprintf(name, sizeof name, "m%zu.npy", i);
        f.data[i / 256] = (uint8_t)(i % 256);
        file_write(in_dir(name), f.data, f.size);
        f.data[i / 256] = old;
        if (aq_model_open(in_dir(name), NULL, &m, &err) != AQ_OK) {
            remove(in_dir(name));
            continue;
        }
        ASSERT_OK(aq_model_describe(m, 0, &t, &err));
        fprintf(list, "%s %s", name, aq_dtype_name(t.dtype));
        for (uint32_t d = 0; d < t.num_dims; d++)
            fprintf(list, " %llu", (unsigned long long)t.shape[d]);
        fprintf(list, "\n");
        aq_model_close(m);
    }
    fclose(list);
    file_free(&f);
    run_python(python, load_arrays);
}
