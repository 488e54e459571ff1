/* What the library computes and writes, as one CRC-32 a line: the lines are the same on
 * every machine (tests/cross/run.sh compares them). Before a line is printed, every
 * instruction set that this machine has must have given the same. No library but that of
 * C, no Criterion. */
#define AQ_STATIC
#define ARROWQUANT_IMPLEMENTATION
#include "../support.h"

static aq_error err;
static temp_dir dir;

static void fail(const char *what) {
    fprintf(stderr, "digest: %s: %s\n", what, err.message);
    temp_dir_remove(&dir);
    exit(1);
}

static void check(aq_status status, const char *what) {
    if (status != AQ_OK) fail(what);
}

static void require(bool good, const char *what) {
    if (!good) fail(what);
}

/* ---- digests: by the table alone, whatever instruction set is being tested ---- */

static uint32_t add_bytes(uint32_t crc, const void *src, size_t bytes) {
    return aqi_crc32_ref(crc, (const uint8_t *)src, bytes);
}

static uint32_t add_u64(uint32_t crc, uint64_t value) {
    uint8_t bytes[8];
    aqi_store_le64(bytes, value);
    return add_bytes(crc, bytes, sizeof bytes);
}

static uint32_t add_floats(uint32_t crc, const float *src, size_t count) {
    uint8_t bytes[4];
    for (size_t i = 0; i < count; i++) {
        aqi_store_le32(bytes, aqi_float_bits(src[i]));
        crc = add_bytes(crc, bytes, sizeof bytes);
    }
    return crc;
}

static uint32_t add_double(uint32_t crc, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return add_u64(crc, bits);
}

static uint32_t add_file(uint32_t crc, const char *path) {
    uint8_t block[4096];
    size_t n;
    FILE *in = fopen(path, "rb");
    require(in != NULL, path);
    while ((n = fread(block, 1, sizeof block, in)) > 0)
        crc = add_bytes(crc, block, n);
    fclose(in);
    return crc;
}

/* ---- values: little-endian bytes of a float type, all finite ---- */

static const aq_dtype dtypes[] = {AQ_F32, AQ_F16, AQ_BF16, AQ_F64};

/* Exact on every machine: no function of libm. */
static float any_value(rng *r, size_t i) {
    static const float magnitudes[] = {1.0f, 1.0f, 3.0f, 0x1p-140f, 0x1p-60f, 0x1p60f};
    float value = rng_float(r) * magnitudes[i / 192 % COUNT_OF(magnitudes)];
    if (i % 61 == 60) value = 0.0f;
    if (i % 67 == 66) value = -0.0f;
    return i / 96 % 9 == 8 ? 0.375f : value; /* some groups are constant */
}

static void fill(rng *r, aq_dtype dtype, uint8_t *dst, size_t count) {
    size_t bytes = aq_dtype_bytes(dtype);
    for (size_t i = 0; i < count; i++, dst += bytes) {
        uint32_t bits = aqi_float_bits(any_value(r, i));
        uint64_t wide;
        double value = (double)aqi_bits_float(bits) * (1.0 + (double)rng_float(r) / 64);
        memcpy(&wide, &value, sizeof wide);
        if (dtype == AQ_F32) aqi_store_le32(dst, bits);
        if (dtype == AQ_F64) aqi_store_le64(dst, wide);
        if (dtype == AQ_BF16)
            dst[0] = (uint8_t)(bits >> 16), dst[1] = (uint8_t)(bits >> 24);
        if (dtype != AQ_F16) continue;
        rng_bytes(r, dst, 2);
        if ((dst[1] & 0x7c) == 0x7c) dst[1] &= 0xbf;
    }
}

/* ---- kernels in memory ---- */

#define ROWS 13
#define COLS 301       /* of the models */
#define MANY_COLS 1024 /* so that groups are worked on side by side */
#define COUNT (ROWS * MANY_COLS)
#define VECTORS 3

static uint32_t digest_metrics(uint32_t crc, const aq_metrics *m) {
    crc = add_u64(crc, m->count);
    crc = add_double(add_double(crc, m->sum_aa), m->sum_bb);
    crc = add_double(add_double(crc, m->sum_ab), m->sum_dd);
    return add_double(add_double(crc, m->max_abs_error), m->cosine);
}

/* Codes, parameters, metrics, values, dot products, of one way to quantize. */
static uint32_t digest_quantized(uint32_t crc, const aq_layout *layout, aq_dtype dtype,
                                 rng *r) {
    static uint8_t src[COUNT * 8], codes[COUNT * 2];
    static float scales[COUNT], zero_points[COUNT], values[COUNT];
    static float x[VECTORS * MANY_COLS], y[VECTORS * ROWS], room[VECTORS * MANY_COLS];
    aq_quantized dst;
    aq_quantized_view view;
    aq_activations activations;
    aq_metrics metrics;
    memset(&dst, 0, sizeof dst);
    memset(&view, 0, sizeof view);
    view.codes = dst.codes = codes;
    view.scales = dst.scales = scales;
    view.zero_points = dst.zero_points = zero_points;
    fill(r, dtype, src, ROWS * layout->cols);
    rng_floats(r, x, VECTORS * layout->cols, 2.0f);
    check(aq_quantize_into(layout, src, dtype, &dst, NULL, &metrics, &err),
          "aq_quantize_into");
    crc = add_bytes(crc, codes, layout->code_bytes);
    crc = add_floats(crc, scales, layout->num_groups);
    crc = add_floats(crc, zero_points, layout->num_groups);
    crc = digest_metrics(crc, &metrics);
    check(aq_dequantize_rows(layout, &view, 0, ROWS, values, NULL, &err),
          "aq_dequantize_rows");
    crc = add_floats(crc, values, ROWS * layout->cols);
    check(aq_matvec(layout, &view, x, y, NULL, &err), "aq_matvec");
    crc = add_floats(crc, y, ROWS);
    check(aq_matmul(layout, &view, x, VECTORS, y, NULL, &err), "aq_matmul");
    crc = add_floats(crc, y, VECTORS * ROWS);
    require(aq_activations_bytes(layout, VECTORS) <= sizeof room, "aq_activations_bytes");
    check(aq_activations_init(layout, x, VECTORS, room, &activations, &err),
          "aq_activations_init");
    check(aq_matmul_i8(layout, &view, &activations, y, NULL, &err), "aq_matmul_i8");
    return add_floats(crc, y, VECTORS * ROWS);
}

/* part: 0, 1, 2 are 2, 4, 8 bits; AQ_REFINE in parts 3, 4, 5. */
static uint32_t digest_quantize(int part) {
    static const size_t group_sizes[] = {8, 9, 32, 64, 128, 301};
    uint32_t crc = 0xffffffffu;
    rng r = {101};
    for (size_t i = 0; i < 2 * (COUNT_OF(group_sizes) + 2); i++) {
        aq_quant_options o;
        size_t g = i / 2;
        memset(&o, 0, sizeof o);
        o.bits = 2u << part % 3;
        o.method = part < 3 ? AQ_MINMAX : AQ_REFINE;
        o.symmetric = i % 2 != 0;
        if (g < COUNT_OF(group_sizes)) o.group_size = group_sizes[g];
        if (g == COUNT_OF(group_sizes)) o.granularity = AQ_PER_CHANNEL;
        if (g > COUNT_OF(group_sizes)) o.granularity = AQ_PER_TENSOR;
        for (size_t d = 0; d < 2 * COUNT_OF(dtypes); d++) {
            aq_layout layout;
            check(aq_layout_init(ROWS, d % 2 == 0 ? COLS : MANY_COLS, &o, &layout, &err),
                  "aq_layout_init");
            crc = digest_quantized(crc, &layout, dtypes[d / 2], &r);
        }
    }
    return crc;
}

/* All halves; doubles of any bits, but no NaN: which payload stays is up to the
 * processor. */
static uint32_t digest_to_f32(int part) {
    static uint8_t src[65536 * 8];
    static float values[65536];
    aq_dtype dtype = dtypes[part];
    rng r = {103};
    for (uint32_t i = 0; i < 65536; i++) {
        if (dtype == AQ_F64) {
            uint64_t bits = rng_next(&r);
            if ((bits >> 52 & 0x7ff) == 0x7ff) bits &= ~((uint64_t)1 << 62);
            if (i % 2 != 0)
                bits = (bits & ~((uint64_t)0x7ff << 52)) | (uint64_t)(860 + i / 2 % 320)
                                                               << 52;
            aqi_store_le64(src + 8 * i, bits);
        } else {
            src[2 * i] = (uint8_t)i;
            src[2 * i + 1] = (uint8_t)(i >> 8);
        }
    }
    check(aq_to_f32(src, dtype, 65536, values, &err), "aq_to_f32");
    return add_floats(0xffffffffu, values, 65536);
}

/* ---- files ---- */

static void path_of(const char *name, char *out) { temp_dir_file(&dir, name, out, 512); }

#define NUM_TENSORS 6

/* A Parquet model of every float type, and one of integers. */
static void save_model(const char *path) {
    static const char *const names[NUM_TENSORS] = {"a.f32", "b.f16",  "c.bf16",
                                                   "d.f64", "e.bias", "f.i16"};
    static uint8_t data[NUM_TENSORS][ROWS * COLS * 8];
    const uint64_t shape[2] = {ROWS, COLS};
    aq_tensor tensors[NUM_TENSORS];
    rng r = {107};
    for (size_t i = 0; i < NUM_TENSORS; i++) {
        aq_dtype dtype = i < COUNT_OF(dtypes) ? dtypes[i] : i == 4 ? AQ_F32 : AQ_I16;
        if (dtype == AQ_I16) rng_bytes(&r, data[i], ROWS * COLS * 2);
        if (dtype != AQ_I16) fill(&r, dtype, data[i], ROWS * COLS);
        check(aq_tensor_init(&tensors[i], names[i], dtype, i == 4 ? shape + 1 : shape,
                             i == 4 ? 1 : 2, data[i], &err),
              "aq_tensor_init");
    }
    check(aq_model_save(path, tensors, NUM_TENSORS, NULL, &err), "aq_model_save");
}

/* Values and products of all tensors that have float values. */
static uint32_t digest_model(uint32_t crc, const char *path) {
    static float values[COUNT], x[COLS], y[ROWS];
    aq_model *model;
    rng r = {109};
    rng_floats(&r, x, COLS, 1.0f);
    check(aq_model_open(path, NULL, &model, &err), "aq_model_open");
    for (size_t i = 0; i < aq_model_count(model); i++) {
        aq_tensor t;
        check(aq_model_tensor(model, i, &t, &err), "aq_model_tensor");
        crc = add_bytes(crc, t.name, strlen(t.name));
        if (aq_dtype_is_float(t.dtype)) {
            check(aq_tensor_rows_f32(&t, 0, t.layout.rows, values, NULL, &err),
                  "aq_tensor_rows_f32");
            crc = add_floats(crc, values, t.layout.rows * t.layout.cols);
            check(aq_tensor_matvec(&t, x, y, NULL, &err), "aq_tensor_matvec");
            crc = add_floats(crc, y, t.layout.rows);
        } else {
            crc = add_bytes(crc, t.data, t.data_bytes);
        }
        aq_tensor_release(&t);
    }
    aq_model_close(model);
    return crc;
}

/* The file as bytes, then what it means; part 0: as saved, 1, 2, 3: quantized to 2, 4, 8
 * bits, 4: quantized and back, 5: as safetensors. */
static uint32_t digest_job(int part) {
    char saved[512], quantized[512], out[512];
    const char *path = out;
    aq_job_options o;
    uint32_t crc;
    memset(&o, 0, sizeof o);
    path_of("saved.parquet", saved);
    path_of("quantized.parquet", quantized);
    path_of(part == 5 ? "out.safetensors" : "out.parquet", out);
    save_model(saved);
    o.quant.bits = part >= 1 && part <= 3 ? 1u << part : 8;
    if (part == 0) path = saved;
    if (part >= 1 && part <= 4)
        check(aq_job_run(saved, quantized, &o, NULL, &err), "aq_job_run: quantize");
    if (part >= 1 && part <= 3) path = quantized;
    if (part >= 4) {
        o.operation = part == 4 ? AQ_DEQUANTIZE : AQ_CONVERT;
        check(aq_job_run(part == 4 ? quantized : saved, out, &o, NULL, &err),
              "aq_job_run");
    }
    crc = add_file(0xffffffffu, path);
    return digest_model(crc, path);
}

/* ---- Parquet: a column for each type with each encoding ---- */

static const struct {
    aq_physical_type type;
    aq_encoding encoding;
} columns[] = {
    {AQ_BOOLEAN, AQ_PLAIN},
    {AQ_BOOLEAN, AQ_RLE},
    {AQ_INT32, AQ_PLAIN},
    {AQ_INT32, AQ_RLE_DICTIONARY},
    {AQ_INT32, AQ_DELTA_BINARY_PACKED},
    {AQ_INT32, AQ_BYTE_STREAM_SPLIT},
    {AQ_INT64, AQ_PLAIN},
    {AQ_INT64, AQ_RLE_DICTIONARY},
    {AQ_INT64, AQ_DELTA_BINARY_PACKED},
    {AQ_INT64, AQ_BYTE_STREAM_SPLIT},
    {AQ_INT96, AQ_PLAIN},
    {AQ_FLOAT, AQ_PLAIN},
    {AQ_FLOAT, AQ_BYTE_STREAM_SPLIT},
    {AQ_DOUBLE, AQ_PLAIN},
    {AQ_DOUBLE, AQ_RLE_DICTIONARY},
    {AQ_DOUBLE, AQ_BYTE_STREAM_SPLIT},
    {AQ_BYTE_ARRAY, AQ_PLAIN},
    {AQ_BYTE_ARRAY, AQ_RLE_DICTIONARY},
    {AQ_BYTE_ARRAY, AQ_DELTA_LENGTH_BYTE_ARRAY},
    {AQ_BYTE_ARRAY, AQ_DELTA_BYTE_ARRAY},
    {AQ_FIXED_LEN_BYTE_ARRAY, AQ_PLAIN},
    {AQ_FIXED_LEN_BYTE_ARRAY, AQ_DELTA_BYTE_ARRAY},
    {AQ_FIXED_LEN_BYTE_ARRAY, AQ_BYTE_STREAM_SPLIT},
};

#define NUM_COLUMNS COUNT_OF(columns)
#define NUM_ROWS 3000

typedef struct cells {
    uint8_t values[NUM_ROWS * 16], def_levels[NUM_ROWS]; /* 16: an aq_bytes, or less */
    aq_column_values v;
} cells;

static size_t width_of(aq_physical_type type) {
    static const size_t widths[] = {1, 4, 8, 12, 4, 8, sizeof(aq_bytes), 5};
    return widths[type];
}

/* In native order, as the writer takes them. kind: runs, ascending, few, many bits. */
static void put_cell(cells *c, aq_physical_type type, rng *r, size_t row) {
    static const char text[] = "the quick brown fox jumps over the lazy dog, twice";
    uint8_t *at = c->values + (size_t)c->v.num_values++ * width_of(type);
    uint64_t bits = rng_next(r);
    size_t kind = row / 500 % 4;
    if (kind == 0) bits = row / 170;
    if (kind == 1) bits = (uint64_t)row * 3 - 4000;
    if (kind == 2) bits = bits >> 61;
    if (type == AQ_BOOLEAN) *at = (uint8_t)(bits & 1);
    if (type == AQ_INT32) {
        uint32_t narrow = (uint32_t)bits;
        memcpy(at, &narrow, sizeof narrow);
    } else if (type == AQ_INT64) {
        memcpy(at, &bits, sizeof bits);
    } else if (type == AQ_FLOAT) {
        float value = (float)(int32_t)bits / 8;
        memcpy(at, &value, sizeof value);
    } else if (type == AQ_DOUBLE) {
        double value = (double)(int64_t)bits / 8;
        memcpy(at, &value, sizeof value);
    } else if (type == AQ_INT96 || type == AQ_FIXED_LEN_BYTE_ARRAY) {
        memset(at, (int)(bits >> 40 & 0x7f), width_of(type));
        at[1] = (uint8_t)bits;
    } else if (type == AQ_BYTE_ARRAY) {
        aq_bytes b;
        b.data = (const uint8_t *)text + bits % 7;
        b.size = bits % 40;
        memcpy(at, &b, sizeof b);
    }
}

static void fill_cells(cells *c, size_t column, bool nulls, rng *r) {
    memset(&c->v, 0, sizeof c->v);
    c->v.values = c->values;
    c->v.num_levels = NUM_ROWS;
    for (size_t row = 0; row < NUM_ROWS; row++) {
        c->def_levels[row] =
            (uint8_t)(!nulls || (row / 300 % 2 == 0 || rng_below(r, 3) > 0));
        if (c->def_levels[row] != 0) put_cell(c, columns[column].type, r, row);
    }
    if (nulls) c->v.def_levels = c->def_levels;
}

static void write_parquet(const char *path, cells *all, bool nulls, bool v2) {
    static char names[NUM_COLUMNS][16];
    aq_field_spec fields[NUM_COLUMNS];
    aq_writer_options o;
    aq_writer *w;
    memset(fields, 0, sizeof fields);
    memset(&o, 0, sizeof o);
    o.page_bytes = 2000;
    o.data_page_v2 = v2;
    o.page_index = true;
    for (size_t i = 0; i < NUM_COLUMNS; i++) {
        snprintf(names[i], sizeof names[i], "column_%u", (unsigned)i);
        fields[i].name = names[i];
        fields[i].repetition = nulls ? AQ_OPTIONAL : AQ_REQUIRED;
        fields[i].type = columns[i].type;
        fields[i].encoding = columns[i].encoding;
        fields[i].type_length = columns[i].type == AQ_FIXED_LEN_BYTE_ARRAY
                                    ? (int32_t)width_of(columns[i].type)
                                    : 0;
        fields[i].write_statistics = columns[i].type != AQ_INT96;
    }
    check(aq_writer_open(path, fields, NUM_COLUMNS, &o, &w, &err), "aq_writer_open");
    for (size_t i = 0; i < NUM_COLUMNS; i++)
        check(aq_writer_put_column(w, &all[i].v, &err), "aq_writer_put_column");
    check(aq_writer_end_row_group(w, NUM_ROWS, &err), "aq_writer_end_row_group");
    check(aq_writer_finish(w, &err), "aq_writer_finish");
}

static bool same_values(const aq_span *span, const cells *c, aq_physical_type type) {
    const aq_bytes *a = (const aq_bytes *)span->values;
    const aq_bytes *b = (const aq_bytes *)(const void *)c->values;
    if (span->num_values != c->v.num_values) return false;
    if (type != AQ_BYTE_ARRAY)
        return memcmp(span->values, c->values,
                      (size_t)span->num_values * width_of(type)) == 0;
    for (int64_t i = 0; i < span->num_values; i++) {
        if (a[i].size != b[i].size || memcmp(a[i].data, b[i].data, a[i].size) != 0)
            return false;
    }
    return true;
}

static void read_parquet(const char *path, const cells *all) {
    aq_parquet *file;
    check(aq_parquet_open(path, NULL, &file, &err), "aq_parquet_open");
    for (size_t i = 0; i < NUM_COLUMNS; i++) {
        aq_column *column;
        aq_span span;
        check(aq_column_open(file, 0, (int32_t)i, &column, &err), "aq_column_open");
        check(aq_column_view(column, &span, &err), "aq_column_view");
        require(same_values(&span, &all[i], columns[i].type),
                "a column came back changed");
        aq_column_close(column);
    }
    aq_parquet_close(file);
}

/* part: bit 0 = with nulls, bit 1 = data pages V2. */
static uint32_t digest_parquet(int part) {
    static cells all[NUM_COLUMNS];
    char path[512];
    rng r = {113};
    for (size_t i = 0; i < NUM_COLUMNS; i++)
        fill_cells(&all[i], i, (part & 1) != 0, &r);
    path_of("columns.parquet", path);
    write_parquet(path, all, (part & 1) != 0, (part & 2) != 0);
    read_parquet(path, all);
    return add_file(0xffffffffu, path);
}

/* ---- all ---- */

/* The tables of kernels that this machine can use, the reference first. */
static size_t find_tables(const struct aqi_kernels **out) {
    size_t n = 0;
    for (int isa = AQ_ISA_REF; isa <= AQ_ISA_NEON; isa++) {
        const struct aqi_kernels *k = aqi_kernels_of((aq_isa)isa);
        if (k != NULL) out[n++] = k;
    }
#ifdef AQI_HAVE_NEON
    /* The best was among them; the others are for lesser machines. */
    out[n++] = &aqi_kernels_neon;
    if ((aqi_hwcap() & AQI_HWCAP_CRC32) != 0) out[n++] = &aqi_kernels_neon_crc;
    if ((aqi_hwcap() & AQI_HWCAP_PMULL) != 0) out[n++] = &aqi_kernels_neon_pmull;
#endif
    return n;
}

/* Sizes around those at which the fast ways begin and end. */
static uint32_t digest_crc32(int part) {
    static uint8_t bytes[5000];
    uint32_t crc = 0xffffffffu;
    rng r = {127};
    rng_bytes(&r, bytes, sizeof bytes);
    for (size_t n = 0; n <= sizeof bytes - 64; n += n < 1100 ? 1 : 61)
        crc = add_u64(crc, aqi_crc32((uint32_t)n + (uint32_t)part, bytes + n % 64, n));
    return crc;
}

static const struct {
    const char *name;
    int parts;
    uint32_t (*digest)(int part);
} digests[] = {
    {"crc32", 1, digest_crc32},     {"quantize", 6, digest_quantize},
    {"to_f32", 4, digest_to_f32},   {"job", 6, digest_job},
    {"parquet", 4, digest_parquet},
};

static uint32_t digest_with(const struct aqi_kernels *k, size_t i, int part) {
    aqi_active_kernels = k;
    return ~digests[i].digest(part);
}

int main(void) {
    const struct aqi_kernels *tables[8];
    size_t num_tables = find_tables(tables);
    require(temp_dir_make(&dir), "no temporary directory");
    for (size_t i = 0; i < COUNT_OF(digests); i++) {
        for (int part = 0; part < digests[i].parts; part++) {
            uint32_t want = digest_with(tables[0], i, part);
            for (size_t k = 1; k < num_tables; k++) {
                uint32_t have = digest_with(tables[k], i, part);
                if (have == want) continue;
                fprintf(stderr, "digest: %s.%d: %08x with %s (table %u)\n",
                        digests[i].name, part, (unsigned)have,
                        aq_isa_name(tables[k]->isa), (unsigned)k);
                fail("instruction sets differ");
            }
            printf("%s.%d %08x\n", digests[i].name, part, (unsigned)want);
        }
    }
    temp_dir_remove(&dir);
    return 0;
}
