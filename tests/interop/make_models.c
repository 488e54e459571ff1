/* Writes model files and tables with arrowquant.h, and beside each NAME.parquet a NAME.json
 * with the values that went in, for readers that are not arrowquant.h. Usage: make_models DIR,
 * or make_models --table OUT (see make_described.c) */
#define ARROWQUANT_IMPLEMENTATION
#include "emit.h"

/* One tensor to be made. */
typedef struct spec {
    const char *name;
    aq_dtype dtype;
    uint32_t num_dims;
    uint64_t shape[AQ_MAX_DIMS];
    bool quantize;
    aq_quant_options quant;
} spec;

enum {
    LAYER_NAME,
    SHAPE,
    DTYPE,
    DATA,
    NUM_PARAMS,
    QUANT_TYPE,
    SCALES,
    ZERO_POINTS,
    QUANT_AXIS,
    GROUP_SIZE,
    BIT_WIDTH,
    PACKING,
    COSINE,
    SQNR_DB,
    MAX_ABS_ERROR,
    CHUNK_INDEX,
    CHUNK_COUNT,
    GROUP_PARAMS, /* this and those that follow: with small parameters only */
    PARAMS_TYPE,
    CODEBOOK,
    NUM_COLUMNS
};

static const char *const column_text[NUM_COLUMNS][2] = {
    {"layer_name", "\"string\""},
    {"shape", "{\"list\": \"int\"}"},
    {"dtype", "\"string\""},
    {"data", "\"bytes\""},
    {"num_params", "\"int\""},
    {"quant_type", "\"string\""},
    {"scales", "{\"list\": \"f32\"}"},
    {"zero_points", "{\"list\": \"f32\"}"},
    {"quant_axis", "\"int\""},
    {"group_size", "\"int\""},
    {"bit_width", "\"int\""},
    {"packing", "\"string\""},
    {"cosine", "\"f64\""},
    {"sqnr_db", "\"f64\""},
    {"max_abs_error", "\"f64\""},
    {"chunk_index", "\"int\""},
    {"chunk_count", "\"int\""},
    {"group_params", "\"bytes\""},
    {"params_type", "\"string\""},
    {"codebook", "\"bytes\""},
};

/*==========================================================================
 * Tensors
 *========================================================================*/

static uint64_t count_of(const spec *s) {
    uint64_t count = 1;
    for (uint32_t i = 0; i < s->num_dims; i++) {
        count *= s->shape[i];
    }
    return count;
}

static float random_weight(uint64_t *state) {
    return (float)((double)(int64_t)random_u64(state) * 0x1p-63) * 0.25f;
}

/* One element; a float type gets a finite weight, so that it can be quantized. */
static void fill_element(uint8_t *to, aq_dtype dtype, uint64_t *state) {
    const float weight = random_weight(state);
    const double wide = weight;
    const uint64_t bits = random_u64(state);
    uint32_t weight_bits;
    memcpy(&weight_bits, &weight, sizeof weight_bits);
    switch (dtype) {
    case AQ_F32:
        memcpy(to, &weight, 4);
        break;
    case AQ_F64:
        memcpy(to, &wide, 8);
        break;
    case AQ_BF16:
        memcpy(to, (uint8_t *)&weight_bits + 2, 2);
        break;
    case AQ_F16:
        to[0] = (uint8_t)bits;
        to[1] = (uint8_t)((bits >> 8 & 0xbb) | 0x20);
        break;
    case AQ_BOOL:
        to[0] = bits & 1;
        break;
    default:
        memcpy(to, &bits, aq_dtype_bytes(dtype));
        break;
    }
}

/* The tensor of a spec, in memory of its own; fills out_metrics when it is quantized. */
static aq_tensor make_tensor(const spec *s, aq_metrics *out_metrics, uint64_t *state) {
    const size_t element = aq_dtype_bytes(s->dtype);
    aq_tensor tensor;
    aq_error err;
    const size_t count = (size_t)count_of(s);
    uint8_t *values = (uint8_t *)need(malloc(count * element + 1));
    for (size_t i = 0; i < count; i++) {
        fill_element(values + i * element, s->dtype, state);
    }
    check(s->name,
          aq_tensor_init(&tensor, s->name, s->dtype, s->shape, s->num_dims, values, &err),
          &err);
    if (!s->quantize) {
        return tensor;
    }
    aq_layout layout;
    aq_quantized to;
    check(
        s->name,
        aq_layout_init(tensor.layout.rows, tensor.layout.cols, &s->quant, &layout, &err),
        &err);
    to.codes = (uint8_t *)need(malloc(layout.code_bytes + 1));
    to.scales = (float *)need(malloc(layout.num_groups * sizeof(float) + 1));
    to.zero_points = (float *)need(malloc(layout.num_groups * sizeof(float) + 1));
    to.params = (uint8_t *)need(malloc(layout.params_bytes + 1));
    check(s->name,
          aq_quantize_into(&layout, values, s->dtype, &to, NULL, out_metrics, &err),
          &err);
    free(values);
    tensor.layout = layout;
    tensor.data = to.codes;
    tensor.data_bytes = layout.code_bytes;
    tensor.scales = to.scales;
    tensor.zero_points = to.zero_points;
    tensor.params = to.params;
    tensor.cosine = out_metrics->cosine;
    tensor.sqnr_db = out_metrics->sqnr_db;
    tensor.max_abs_error = out_metrics->max_abs_error;
    return tensor;
}

static void free_tensor(const spec *s, aq_tensor *tensor) {
    free((void *)(uintptr_t)tensor->data);
    if (s->quantize) {
        free((void *)(uintptr_t)tensor->scales);
        free((void *)(uintptr_t)tensor->zero_points);
        free((void *)(uintptr_t)tensor->params);
    }
}

/*==========================================================================
 * What a reader must find
 *========================================================================*/

static void expect_floats(text *t, const float *values, size_t count) {
    text_add(t, "[");
    for (size_t i = 0; i < count; i++) {
        text_add(t, i == 0 ? "" : ",");
        text_f32(t, values[i]);
    }
    text_add(t, "]");
}

static void expect_shape(text *t, const spec *s) {
    text_add(t, "[");
    for (uint32_t i = 0; i < s->num_dims; i++) {
        text_add(t, i == 0 ? "" : ",");
        text_u64(t, s->shape[i]);
    }
    text_add(t, "]");
}

static void expect_f64_or_null(text *t, bool present, double value) {
    if (present) {
        text_f64(t, value);
    } else {
        text_add(t, "null");
    }
}

static bool is_small(const spec *s) {
    return s->quantize && (s->quant.params != AQ_PARAMS_F32 || s->quant.codebook);
}

/* The columns of small parameters, as far as the file has them. */
static void expect_small(expected_column *columns, const spec *s,
                         const aq_tensor *tensor) {
    const bool small = is_small(s), codebook = small && s->quant.codebook;
    if (small) {
        text_hex(next_value(&columns[GROUP_PARAMS]), tensor->params,
                 tensor->layout.params_bytes);
    } else {
        text_add(next_value(&columns[GROUP_PARAMS]), "null");
    }
    text_add(next_value(&columns[PARAMS_TYPE]), !small ? "null"
                                                : s->quant.params == AQ_PARAMS_F16
                                                    ? "\"float16\""
                                                    : "\"uint8\"");
    if (codebook) {
        text_hex(next_value(&columns[CODEBOOK]), aq_codebook(s->quant.bits),
                 (size_t)1 << s->quant.bits);
    } else {
        text_add(next_value(&columns[CODEBOOK]), "null");
    }
}

/* The columns that say how a tensor was quantized. */
static void expect_quantization(expected_column *columns, const spec *s,
                                const aq_tensor *tensor) {
    const aq_quant_options *quant = &s->quant;
    const bool per_group = s->quantize && quant->granularity == AQ_PER_GROUP;
    const bool per_channel = s->quantize && quant->granularity == AQ_PER_CHANNEL;
    text *group_size = next_value(&columns[GROUP_SIZE]);
    text *quant_type = next_value(&columns[QUANT_TYPE]);
    const size_t floats = is_small(s) ? 0 : tensor->layout.num_groups;
    if (s->quantize) {
        text_add(quant_type, "\"%s%u\"", quant->codebook ? "codebook" : "int",
                 (unsigned)quant->bits);
    } else {
        text_add(quant_type, "\"none\"");
    }
    if (per_group) {
        text_u64(group_size, quant->group_size);
    } else {
        text_add(group_size, "null");
    }
    text_add(next_value(&columns[QUANT_AXIS]), per_channel ? "\"0\"" : "null");
    text_u64(next_value(&columns[BIT_WIDTH]), s->quantize ? quant->bits : 0);
    text_add(next_value(&columns[PACKING]), s->quantize ? "\"lsb\"" : "null");
    expect_floats(next_value(&columns[SCALES]), tensor->scales, floats);
    expect_floats(next_value(&columns[ZERO_POINTS]), tensor->zero_points, floats);
    expect_small(columns, s, tensor);
}

static void expect_tensor(expected_column *columns, const spec *s,
                          const aq_tensor *tensor, const aq_metrics *metrics) {
    text_string(next_value(&columns[LAYER_NAME]), s->name, strlen(s->name));
    expect_shape(next_value(&columns[SHAPE]), s);
    text_add(next_value(&columns[DTYPE]), "\"%s\"", aq_dtype_name(s->dtype));
    text_hex(next_value(&columns[DATA]), tensor->data, tensor->data_bytes);
    text_u64(next_value(&columns[NUM_PARAMS]), count_of(s));
    expect_quantization(columns, s, tensor);
    expect_f64_or_null(next_value(&columns[COSINE]), s->quantize, metrics->cosine);
    expect_f64_or_null(next_value(&columns[SQNR_DB]), s->quantize, metrics->sqnr_db);
    expect_f64_or_null(next_value(&columns[MAX_ABS_ERROR]), s->quantize,
                       metrics->max_abs_error);
    text_u64(next_value(&columns[CHUNK_INDEX]), 0);
    text_u64(next_value(&columns[CHUNK_COUNT]), 1);
}

static void write_model(const char *dir, const char *file_name, const spec *specs,
                        size_t count) {
    static uint64_t state = 1;
    char path[1024];
    aq_error err;
    aq_model_writer_options options = {0};
    expected_column columns[NUM_COLUMNS] = {{{0}, {0}, {0}}};
    size_t num_columns = GROUP_PARAMS;
    aq_tensor *tensors = (aq_tensor *)need(calloc(count + 1, sizeof *tensors));
    for (size_t i = 0; i < NUM_COLUMNS; i++) {
        snprintf(columns[i].name, sizeof columns[i].name, "%s", column_text[i][0]);
        snprintf(columns[i].type, sizeof columns[i].type, "%s", column_text[i][1]);
    }
    for (size_t i = 0; i < count; i++) {
        aq_metrics metrics = {0};
        tensors[i] = make_tensor(&specs[i], &metrics, &state);
        expect_tensor(columns, &specs[i], &tensors[i], &metrics);
        if (is_small(&specs[i])) num_columns = NUM_COLUMNS;
    }
    snprintf(path, sizeof path, "%s/%s.parquet", dir, file_name);
    options.no_sync = true;
    check(path, aq_model_save(path, tensors, count, &options, &err), &err);
    write_expected(dir, file_name, columns, num_columns);
    for (size_t i = 0; i < count; i++) {
        free_tensor(&specs[i], &tensors[i]);
    }
    free(tensors);
}

/*==========================================================================
 * The models
 *========================================================================*/

#define GROUPS(bits, size)                                                               \
    true, { bits, size, AQ_PER_GROUP, false }
#define CHANNELS(bits)                                                                   \
    true, { bits, 0, AQ_PER_CHANNEL, false }
#define WHOLE(bits)                                                                      \
    true, { bits, 0, AQ_PER_TENSOR, false }
#define SYMMETRIC(bits, size)                                                            \
    true, { bits, size, AQ_PER_GROUP, true }
#define SMALL(bits, size, params)                                                        \
    true, { bits, size, AQ_PER_GROUP, false, AQ_METHOD_AUTO, params, false, NULL }
#define SMALL_SYMMETRIC(bits, size, params)                                              \
    true, { bits, size, AQ_PER_GROUP, true, AQ_METHOD_AUTO, params, false, NULL }
#define LEVELS(bits, size)                                                               \
    true, { bits, size, AQ_PER_GROUP, false, AQ_METHOD_AUTO, AQ_PARAMS_U8, true, NULL }
#define KEPT                                                                             \
    false, { 0, 0, AQ_PER_GROUP, false }
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const spec widths[] = {
    {"eight", AQ_F32, 2, {24, 256}, GROUPS(8, 128)},
    {"four", AQ_F32, 2, {24, 256}, GROUPS(4, 128)},
    {"two", AQ_F32, 2, {24, 256}, GROUPS(2, 128)},
    {"from f16", AQ_F16, 2, {16, 64}, GROUPS(4, 32)},
    {"from bf16", AQ_BF16, 2, {16, 64}, GROUPS(4, 32)},
    {"from f64", AQ_F64, 2, {16, 64}, GROUPS(4, 32)},
    {"bias", AQ_F32, 1, {24}, KEPT},
};

static const spec granularities[] = {
    {"channel 8", AQ_F32, 2, {9, 70}, CHANNELS(8)},
    {"channel 4", AQ_F32, 2, {9, 71}, CHANNELS(4)},
    {"channel 2", AQ_F32, 4, {5, 3, 3, 3}, CHANNELS(2)},
    {"tensor 8", AQ_F32, 2, {9, 70}, WHOLE(8)},
    {"tensor 4", AQ_F32, 2, {9, 71}, WHOLE(4)},
    {"tensor 2", AQ_F32, 2, {9, 73}, WHOLE(2)},
    {"symmetric 8", AQ_F32, 2, {9, 70}, SYMMETRIC(8, 32)},
    {"symmetric 4", AQ_F32, 2, {9, 71}, SYMMETRIC(4, 32)},
    {"symmetric 2", AQ_F32, 2, {9, 73}, SYMMETRIC(2, 32)},
};

static const spec odd_sizes[] = {
    {"one column", AQ_F32, 2, {5, 1}, GROUPS(4, 8)},
    {"one row", AQ_F32, 2, {1, 77}, GROUPS(2, 9)},
    {"one value", AQ_F32, 2, {1, 1}, GROUPS(8, 8)},
    {"short group", AQ_F32, 2, {3, 129}, GROUPS(4, 128)},
    {"prime group", AQ_F32, 2, {7, 101}, GROUPS(4, 13)},
    {"prime group, 2 bits", AQ_F32, 2, {7, 103}, GROUPS(2, 11)},
    {"group of more than a row", AQ_F32, 2, {4, 30}, GROUPS(4, 4096)},
    {"a row only", AQ_F32, 1, {333}, GROUPS(4, 64)},
};

static const spec small_params[] = {
    {"f16 8", AQ_F32, 2, {9, 70}, SMALL(8, 32, AQ_PARAMS_F16)},
    {"f16 4", AQ_F32, 2, {9, 71}, SMALL(4, 32, AQ_PARAMS_F16)},
    {"f16 2", AQ_F16, 2, {9, 73}, SMALL(2, 13, AQ_PARAMS_F16)},
    {"f16 symmetric", AQ_F32, 2, {9, 73}, SMALL_SYMMETRIC(4, 16, AQ_PARAMS_F16)},
    {"u8 8", AQ_F32, 2, {9, 70}, SMALL(8, 32, AQ_PARAMS_U8)},
    {"u8 4", AQ_BF16, 4, {9, 7, 1, 10}, SMALL(4, 32, AQ_PARAMS_U8)},
    {"u8 2", AQ_F32, 2, {9, 73}, SMALL(2, 16, AQ_PARAMS_U8)},
    {"u8 symmetric", AQ_F32, 2, {9, 73}, SMALL_SYMMETRIC(8, 16, AQ_PARAMS_U8)},
    {"codebook 4", AQ_F32, 2, {24, 256}, LEVELS(4, 16)},
    {"codebook 2", AQ_F32, 2, {9, 73}, LEVELS(2, 8)},
    {"u8 row",
     AQ_F32,
     2,
     {9, 71},
     true,
     {4, 0, AQ_PER_CHANNEL, false, AQ_METHOD_AUTO, AQ_PARAMS_U8, false, NULL}},
    {"u8 one row", AQ_F32, 1, {77}, SMALL(4, 32, AQ_PARAMS_U8)},
    {"f32", AQ_F32, 2, {9, 70}, GROUPS(4, 32)},
    {"kept", AQ_F32, 1, {24}, KEPT},
};

static const spec dtypes[] = {
#define KEPT_OF(enumerator, value, name, bytes, safetensors)                             \
    {name, enumerator, 2, {5, 7}, KEPT},
    AQ_DTYPE_LIST(KEPT_OF)
#undef KEPT_OF
};

static const spec shapes[] = {
    {"scalar", AQ_F32, 0, {0}, KEPT},
    {"empty", AQ_F32, 1, {0}, KEPT},
    {"empty in the middle", AQ_F16, 3, {4, 0, 3}, KEPT},
    {"five", AQ_F32, 5, {2, 3, 1, 4, 5}, KEPT},
    {"five, quantized", AQ_F32, 5, {4, 2, 3, 4, 5}, GROUPS(4, 40)},
    {"sixteen", AQ_F32, 16, {2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1}, KEPT},
};

static const spec names[] = {
    {"a/b\\c:d*e?f\"g<h>i|j.k_l", AQ_F32, 1, {3}, KEPT},
    {"it's", AQ_F32, 1, {3}, KEPT},
    {"\xc3\xa4\xc3\xb6\xc3\xbc.\xe9\x87\x8d\xe3\x81\xbf.\xf0\x9f\xa7\xae",
     AQ_F32,
     2,
     {4, 32},
     GROUPS(4, 16)},
    {"model.layers.0.a_name_so_long_that_statistics_of_some_writers_would_be_cut_off_"
     "somewhere_inside_of_it.q_proj.weight",
     AQ_F32,
     2,
     {4, 32},
     GROUPS(4, 16)},
};

static void write_many(const char *dir) {
    enum { MANY = 400 };
    static char many_names[MANY][32];
    static spec many[MANY];
    for (uint32_t i = 0; i < MANY; i++) {
        const spec kept = {many_names[i], AQ_BF16, 1, {i % 7}, KEPT};
        const spec quantized = {
            many_names[i], AQ_F32, 2, {i % 5 + 1, i % 90 + 1}, GROUPS(4, 32)};
        snprintf(many_names[i], sizeof many_names[i], "layers.%03u.weight", i);
        many[i] = i % 3 == 0 ? kept : quantized;
    }
    write_model(dir, "model_many", many, MANY);
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "--table") == 0) {
        write_described(argv[2]);
        return 0;
    }
    if (argc != 2) {
        fail("usage", "make_models DIR");
    }
    write_model(argv[1], "model_widths", widths, COUNT(widths));
    write_model(argv[1], "model_granularities", granularities, COUNT(granularities));
    write_model(argv[1], "model_odd_sizes", odd_sizes, COUNT(odd_sizes));
    write_model(argv[1], "model_small_params", small_params, COUNT(small_params));
    write_model(argv[1], "model_dtypes", dtypes, COUNT(dtypes));
    write_model(argv[1], "model_shapes", shapes, COUNT(shapes));
    write_model(argv[1], "model_names", names, COUNT(names));
    write_model(argv[1], "model_one", widths, 1);
    write_model(argv[1], "model_of_nothing", widths, 0);
    write_many(argv[1]);
    write_tables(argv[1]);
    write_nested(argv[1]);
    return 0;
}
