/* input.c - names of cases, and the values that go into their files. */
#include "peers.h"

enum { DISTINCT = 4096 };

bool job_parse(job *j, const char *name) {
    char rest;
    j->writer[0] = '\0';
    int n = sscanf(name, "%15[a-z].%15[a-z0-9].%15[a-z0-9].%15[a-z0-9]%c", j->operation,
                   j->data, j->how, j->writer, &rest);
    return n == 3 || n == 4;
}

bool job_writes(const job *j) { return is(j->operation, "write"); }

aq_codec job_codec(const job *j) {
    if (is(j->how, "snappy")) return AQ_SNAPPY;
    if (is(j->how, "zstd")) return AQ_ZSTD;
    return AQ_UNCOMPRESSED;
}

static uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* A walk: steps of 11 bits, as of timestamps or offsets. */
static void fill_walk(const input *in) {
    uint64_t state = 88172645463325252u;
    int64_t at = 0;
    for (int64_t i = 0; i < in->num_values; i++) {
        at += (int64_t)(next_random(&state) & 2047) - 1000;
        if (in->width == 4) ((int32_t *)in->values)[i] = (int32_t)at;
        if (in->width == 8) ((int64_t *)in->values)[i] = at;
    }
}

static void fill_distinct(const input *in) {
    uint64_t state = 88172645463325252u;
    for (int64_t i = 0; i < in->num_values; i++) {
        int64_t k = (int64_t)(next_random(&state) >> 20) % DISTINCT;
        if (in->type == AQ_FLOAT) ((float *)in->values)[i] = (float)k * 0.25f - 512.0f;
        if (in->type == AQ_DOUBLE) ((double *)in->values)[i] = (double)k * 0.25 - 512.0;
        if (in->type == AQ_INT32) ((int32_t *)in->values)[i] = (int32_t)(k * 1000003);
        if (in->type == AQ_INT64) ((int64_t *)in->values)[i] = k * 1000003;
    }
}

/* Names as of tensors: sorted, each much like the one before; or few of them. */
static void fill_strings(input *in, bool distinct) {
    enum { ROOM = 48 };
    aq_bytes *strings = in->values;
    uint64_t state = 88172645463325252u;
    size_t used = 0;
    for (int64_t i = 0; i < in->num_values; i++) {
        int64_t k = distinct ? (int64_t)(next_random(&state) >> 20) % DISTINCT : i;
        char *at = (char *)in->bytes + used;
        int n = snprintf(at, ROOM, "model.layers.%lld.weight.%0*lld",
                         (long long)(k / 1000), (int)(k % 5 + 1), (long long)(k % 1000));
        strings[i] = (aq_bytes){(const uint8_t *)at, (size_t)n};
        used += (size_t)n;
    }
    in->plain_bytes = used;
}

static input make_weights_input(const job *j) {
    weights w = make_weights(j->mib);
    input in = {.type = AQ_FLOAT, .width = 4, .values = w.values};
    in.num_values = in.num_rows = (int64_t)w.count;
    in.plain_bytes = w.count * sizeof(float);
    if (is(j->data, "list")) {
        in.offsets = must_alloc(sizeof w.offsets);
        memcpy(in.offsets, w.offsets, sizeof w.offsets);
        in.num_rows = ROWS;
    }
    if (is(j->data, "blob")) {
        in.type = AQ_BYTE_ARRAY;
        in.width = 0;
        in.bytes = (uint8_t *)w.values;
        in.values = must_alloc(sizeof w.blobs);
        memcpy(in.values, w.blobs, sizeof w.blobs);
        in.num_values = in.num_rows = ROWS;
    }
    return in;
}

static input make_string_input(const job *j) {
    enum { MEAN = 28 };
    input in = {.type = AQ_BYTE_ARRAY};
    in.num_values = in.num_rows = (int64_t)(j->mib * 1024 * 1024 / MEAN);
    in.values = must_alloc((size_t)in.num_values * sizeof(aq_bytes));
    in.bytes = must_alloc((size_t)in.num_values * 40 + 64);
    fill_strings(&in, is(j->how, "dict"));
    return in;
}

static void fill_doubles(const input *in) {
    weights w = make_weights(in->plain_bytes / 2 / 1024 / 1024);
    for (size_t i = 0; i < w.count; i++)
        ((double *)in->values)[i] = (double)w.values[i];
    free_weights(&w);
}

/* Weights, or what the encoding is for. */
input make_input(const job *j) {
    static const struct {
        const char *name;
        aq_physical_type type;
        size_t width;
    } types[] = {{"int32", AQ_INT32, 4},
                 {"int64", AQ_INT64, 8},
                 {"double", AQ_DOUBLE, 8},
                 {"float", AQ_FLOAT, 4}};
    input in = {.width = 0};
    if (is(j->data, "string")) return make_string_input(j);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (!is(j->data, types[i].name)) continue;
        in.type = types[i].type;
        in.width = types[i].width;
    }
    if (in.width == 0 || (is(j->data, "float") && is(j->how, "bss")))
        return make_weights_input(j);
    in.plain_bytes = j->mib * 1024 * 1024;
    in.num_values = in.num_rows = (int64_t)(in.plain_bytes / in.width);
    in.values = must_alloc(in.plain_bytes);
    if (is(j->how, "dict"))
        fill_distinct(&in);
    else if (is(j->how, "delta"))
        fill_walk(&in);
    else
        fill_doubles(&in);
    return in;
}
