/* shards.c - the input is an index of safetensors shards; what follows a NUL byte is the
 * file a.safetensors beside it. Two more shards are always the same. */
#include "model.h"

static char fuzz_shards_directory[512];

static const char *fuzz_shards_file(const char *name) {
    static char path[600];
    snprintf(path, sizeof path, "%s/%s", fuzz_shards_directory, name);
    return path;
}

static void fuzz_shards_put(const char *name, const void *data, size_t size) {
    fuzz_file_put(fuzz_shards_file(name), data, size);
}

/* A shard with one float16, 0. */
static void fuzz_shards_put_tensor(const char *name, const char *tensor) {
    char text[160] = {0};
    int n = snprintf(text + 8, sizeof text - 10,
                     "{\"__metadata__\":{\"k\":\"%s\"},\"%s\":{\"dtype\":\"F16\","
                     "\"shape\":[],\"data_offsets\":[0,2]}}",
                     tensor, tensor);
    text[0] = (char)n;
    fuzz_shards_put(name, text, (size_t)n + 10);
}

static void fuzz_shards_remove(void) {
    static const char *const names[] = {"a.safetensors", "b-1-of-2.safetensors",
                                        "b-2-of-2.safetensors", "i.json"};
    size_t i;
    for (i = 0; i < AQI_COUNT(names); i++)
        remove(fuzz_shards_file(names[i]));
    rmdir(fuzz_shards_directory);
}

/* One directory for each process. */
static void fuzz_shards_make(void) {
    static pid_t owner;
    if (owner == getpid()) return;
    owner = getpid();
    snprintf(fuzz_shards_directory, sizeof fuzz_shards_directory, "%.480s-shards",
             fuzz_path());
    FUZZ_CHECK(mkdir(fuzz_shards_directory, 0777) == 0 || errno == EEXIST);
    fuzz_shards_put_tensor("b-1-of-2.safetensors", "y");
    fuzz_shards_put_tensor("b-2-of-2.safetensors", "z");
    atexit(fuzz_shards_remove);
}

static void fuzz_shards(const uint8_t *data, size_t size) {
    const uint8_t *end = size == 0 ? NULL : (const uint8_t *)memchr(data, 0, size);
    const size_t bytes = end == NULL ? size : (size_t)(end - data);
    uint64_t mapped, read;
    aq_status status;
    fuzz_shards_make();
    if (end == NULL) {
        fuzz_shards_put_tensor("a.safetensors", "x");
    } else {
        fuzz_shards_put("a.safetensors", end + 1, size - bytes - 1);
    }
    fuzz_shards_put("i.json", data, bytes);
    fuzz_result = AQ_OK;
    status = fuzz_model_open(fuzz_shards_file("i.json"), AQ_IO_AUTO, size, &mapped);
    if (fuzz_model_open(fuzz_shards_file("i.json"), AQ_IO_READ, size, &read) == AQ_OK &&
        status == AQ_OK)
        FUZZ_CHECK(mapped == read || fuzz_result != AQ_OK);
}
