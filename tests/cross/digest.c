/* What the library computes and writes, as one CRC-32 a line: the lines are the same on
 * every machine (tests/cross/run.sh compares them). Before a line is printed, every
 * instruction set that this machine has must have given the same. No library but that of
 * C, no Criterion. Argument: only digests of this name; or save MODEL CALIBRATION: writes
 * those of "calibrated". */
#define AQ_STATIC
#define ARROWQUANT_IMPLEMENTATION
#include "../arrow_build.h"

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
    static uint8_t src[COUNT * 8], codes[COUNT * 2], params[COUNT * 8];
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
    view.params = dst.params = params;
    require(layout->params_bytes <= sizeof params, "params_bytes");
    fill(r, dtype, src, ROWS * layout->cols);
    rng_floats(r, x, VECTORS * layout->cols, 2.0f);
    check(aq_quantize_into(layout, src, dtype, &dst, NULL, &metrics, &err),
          "aq_quantize_into");
    crc = add_bytes(crc, codes, layout->code_bytes);
    crc = add_bytes(crc, params, layout->params_bytes);
    for (size_t i = 0; i < layout->num_groups; i++) {
        float pair[2];
        check(aq_params_read(layout, &view, i, &pair[0], &pair[1], &err),
              "aq_params_read");
        crc = add_floats(crc, pair, 2);
    }
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

/* Small parameters, every width, the slower methods; part: F16, U8, codebooks, search,
 * importance, scales of columns. */
static uint32_t digest_params(int part) {
    static const uint32_t widths[] = {2, 3, 4, 5, 6, 8};
    static float factors[MANY_COLS];
    uint32_t crc = 0xffffffffu;
    rng r = {131};
    for (size_t c = 0; c < MANY_COLS; c++)
        factors[c] = 1.5f + rng_float(&r);
    for (size_t i = 0; i < 4 * COUNT_OF(widths); i++) {
        aq_layout layout;
        aq_quant_options o;
        memset(&o, 0, sizeof o);
        o.bits = widths[i / 4];
        o.group_size = i / 2 % 2 == 0 ? 32 : 9;
        o.symmetric = i % 2 != 0;
        o.params = part == 0 ? AQ_PARAMS_F16 : part <= 2 ? AQ_PARAMS_U8 : AQ_PARAMS_F32;
        o.codebook = part == 2;
        if (part == 3) o.method = AQ_SEARCH;
        if (part == 4) o.method = AQ_WEIGHTED;
        if (part == 4) o.importance = factors;
        if (part == 5) o.column_scales = factors;
        if (o.codebook && (aq_codebook(o.bits) == NULL || o.symmetric)) continue;
        check(aq_layout_init(ROWS, i / 2 % 2 == 0 ? 256 : COLS, &o, &layout, &err),
              "aq_layout_init");
        for (size_t d = 0; d < 2; d++)
            crc = digest_quantized(crc, &layout, dtypes[d], &r);
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

/* ---- calibrated jobs ---- */

#define STEPS 24
#define CALIBRATED 4 /* tensors, one of each float type */

static const char *const layers[CALIBRATED] = {"a.f32", "b.f16", "c.bf16", "d.f64"};

/* Columns that scales can make more even, in weights and inputs. */
static float any_input(rng *r, size_t col, float magnitude) {
    return magnitude * rng_float(r) *
           (col % 37 == 5   ? 9.0f
            : col % 11 == 3 ? 0.125f
                            : 1.0f);
}

static void save_layers(const char *path) {
    static uint8_t data[CALIBRATED][ROWS * COLS * 8];
    static float values[ROWS * COLS];
    const uint64_t shape[2] = {ROWS, COLS};
    aq_tensor tensors[CALIBRATED];
    rng r = {137};
    for (size_t i = 0; i < CALIBRATED; i++) {
        for (size_t k = 0; k < ROWS * COLS; k++)
            values[k] = any_input(&r, k % COLS + i, 0.25f);
        check(aq_from_f32(values, ROWS * COLS, data[i], dtypes[i], &err), "aq_from_f32");
        check(aq_tensor_init(&tensors[i], layers[i], dtypes[i], shape, 2, data[i], &err),
              "aq_tensor_init");
    }
    check(aq_model_save(path, tensors, CALIBRATED, NULL, &err), "aq_model_save");
}

/* A row group for each timestep: two vectors of inputs for every tensor. */
static void save_calibration(const char *path) {
    static float x[CALIBRATED * 2 * COLS];
    static const int32_t offsets[] = {0, 2 * COLS, 4 * COLS, 6 * COLS, 8 * COLS};
    aq_field_spec fields[5];
    aq_writer *w;
    rng r = {139};
    memset(fields, 0, sizeof fields);
    fields[0].name = "layer_name";
    fields[0].type = AQ_BYTE_ARRAY;
    fields[1].name = "timestep";
    fields[1].type = AQ_INT32;
    fields[2].name = "activations";
    fields[2].type = fields[3].type = AQ_GROUP;
    fields[2].num_children = fields[3].num_children = 1;
    fields[2].logical = AQ_LOGICAL_LIST;
    fields[3].name = "list";
    fields[3].repetition = AQ_REPEATED;
    fields[4].name = "element";
    fields[4].type = AQ_FLOAT;
    check(aq_writer_open(path, fields, COUNT_OF(fields), NULL, &w, &err),
          "aq_writer_open");
    for (int32_t step = 0; step < STEPS; step++) {
        aq_bytes names[CALIBRATED];
        int32_t steps[CALIBRATED];
        aq_column_values v[3];
        memset(v, 0, sizeof v);
        for (size_t i = 0; i < CALIBRATED; i++) {
            names[i].data = (const uint8_t *)layers[i];
            names[i].size = strlen(layers[i]);
            steps[i] = 7 * step;
        }
        for (size_t k = 0; k < COUNT_OF(x); k++)
            x[k] = any_input(&r, k % COLS, 1.0f + (float)step * 0.25f) + 0.3f;
        v[0].values = names;
        v[1].values = steps;
        v[2].values = x;
        v[2].list_offsets = offsets;
        v[2].num_lists = CALIBRATED;
        v[0].num_values = v[1].num_values = CALIBRATED;
        v[2].num_values = COUNT_OF(x);
        for (size_t c = 0; c < 3; c++)
            check(aq_writer_put_column(w, &v[c], &err), "aq_writer_put_column");
        check(aq_writer_end_row_group(w, CALIBRATED, &err), "aq_writer_end_row_group");
    }
    check(aq_writer_finish(w, &err), "aq_writer_finish");
}

static uint32_t digest_tuning(uint32_t crc, const aq_tuning *t) {
    crc = add_double(add_double(crc, t->mse_before), t->mse_after);
    return add_u64(add_u64(crc, t->changed), t->refused);
}

/* Numbers that no file has. */
static uint32_t digest_report(uint32_t crc, const aq_job_report *report) {
    for (size_t i = 0; i < report->num_tensors; i++) {
        const aq_time_report *t = report->tensors[i].time;
        crc = digest_metrics(crc, &report->tensors[i].metrics);
        require(t != NULL, "a tensor was not calibrated");
        crc = add_double(crc, t->smoothness.smoothness);
        crc = add_double(crc, t->smoothness.worst_score);
        crc = digest_tuning(digest_tuning(crc, &t->optimized), &t->smoothed);
        crc = add_double(crc, t->input_sqnr_db);
        crc = add_double(add_double(crc, t->output_sqnr_db), t->weights_sqnr_db);
        crc = add_u64(crc, t->scaled);
    }
    return crc;
}

/* Products in integers, with the parameters of every group of timesteps. */
static uint32_t digest_static(uint32_t crc, const char *path) {
    static float x[COLS], room[2 * COLS], y[ROWS];
    aq_model *model;
    rng r = {149};
    for (size_t c = 0; c < COLS; c++)
        x[c] = any_input(&r, c, 2.0f) + 0.3f;
    check(aq_model_open(path, NULL, &model, &err), "aq_model_open");
    for (size_t i = 0; i < aq_model_count(model); i++) {
        aq_activations activations;
        aq_affine params;
        aq_tensor t;
        float scaled[COLS];
        check(aq_model_tensor(model, i, &t, &err), "aq_model_tensor");
        if (t.layout.bits != 0) {
            require(aq_activations_bytes(&t.layout, 1) <= sizeof room, "room");
            check(aq_tensor_row_sums(&t, y, NULL, &err), "aq_tensor_row_sums");
            crc = add_floats(crc, y, t.layout.rows);
            check(aq_tensor_scale_input(&t, x, 1, scaled, &err), "aq_tensor_scale_input");
        }
        for (int64_t step = 0; t.layout.bits != 0 && step < 7 * STEPS - 6; step += 9) {
            check(aq_tensor_time_group(&t, step, NULL, &params, &err),
                  "aq_tensor_time_group");
            check(aq_activations_init_static(&t.layout, scaled, 1, &params, room,
                                             &activations, &err),
                  "aq_activations_init_static");
            check(aq_tensor_matmul_i8(&t, &activations, y, NULL, &err),
                  "aq_tensor_matmul_i8");
            crc = add_floats(crc, y, t.layout.rows);
        }
        aq_tensor_release(&t);
    }
    aq_model_close(model);
    return crc;
}

/* part: 0, 1: smoothed by sigmoid; 2: small parameters, no boundary may be worse; 3: bits
 * for a size. */
static uint32_t digest_calibrated(int part) {
    static const aq_interpolation curves[] = {AQ_SIGMOID, AQ_SIGMOID, AQ_CUBIC,
                                              AQ_LINEAR};
    char saved[512], quantized[512], calibration[512];
    aq_spatial_options spatial;
    aq_smooth_options smooth;
    aq_time_options time;
    aq_job_options o;
    aq_job_report report;
    uint32_t crc;
    memset(&o, 0, sizeof o);
    memset(&spatial, 0, sizeof spatial);
    memset(&smooth, 0, sizeof smooth);
    memset(&time, 0, sizeof time);
    path_of("layers.parquet", saved);
    path_of("calibration.parquet", calibration);
    path_of("quantized.parquet", quantized);
    save_layers(saved);
    save_calibration(calibration);
    spatial.equalize = part != 1;
    spatial.alpha = part == 2 ? 0.0f : 0.5f;
    smooth.interpolation = curves[part];
    smooth.window = 1u + (uint32_t)part;
    smooth.max_rise = part == 0 ? 2.0 : part == 1 ? 0.125 : 0.0;
    time.groups = part == 1 ? 5 : 0;
    time.bits = part == 1 ? 5 : 8;
    time.split = part == 1 ? AQ_SPLIT_EQUAL : AQ_SPLIT_SIMILAR;
    time.rule = part == 1 ? AQ_RANGE_MINMAX : AQ_RANGE_MSE;
    o.calibration_path = calibration;
    o.spatial = &spatial;
    o.smooth = &smooth;
    o.time = &time;
    o.optimize_groups = part != 1;
    o.quant.bits = 4;
    o.quant.group_size = 64;
    if (part == 2) o.quant.params = AQ_PARAMS_U8;
    if (part == 3) o.target_bpw = 9.0;
    o.modality = "image";
    check(aq_job_run(saved, quantized, &o, &report, &err), "aq_job_run: calibrated");
    crc = add_file(0xffffffffu, quantized);
    crc = digest_report(crc, &report);
    aq_job_report_deinit(&report);
    crc = digest_model(crc, quantized);
    return digest_static(crc, quantized);
}

/* ---- batches ---- */

#define BATCH 5

static uint32_t digest_batch_items(uint32_t crc, const aq_batch *b) {
    for (size_t i = 0; i < b->num_items; i++) {
        const aq_batch_item *item = &b->items[i];
        const aq_tensor *t = &item->tensor;
        crc = add_bytes(crc, item->name, strlen(item->name));
        crc = add_u64(add_u64(crc, (uint64_t)item->status), item->index);
        if (item->status != AQ_OK) {
            crc = add_bytes(crc, item->error->message, strlen(item->error->message));
            continue;
        }
        crc = add_bytes(crc, t->data, t->data_bytes);
        if (t->scales != NULL) crc = add_floats(crc, t->scales, t->layout.num_groups);
        if (t->scales != NULL)
            crc = add_floats(crc, t->zero_points, t->layout.num_groups);
        crc = add_bytes(crc, t->params, t->params == NULL ? 0 : t->layout.params_bytes);
        crc = digest_metrics(crc, &item->metrics);
    }
    return digest_metrics(crc, &b->total);
}

/* Arrays of every float type, one of them with an infinity; there and back. part: 0:
 * float32 parameters, 1: float16, 2: a codebook, 3: one scale for all. */
static uint32_t digest_batch(int part) {
    static const char *const names[BATCH] = {"e", "c", "a", "d", "b"};
    static const uint64_t shape[2] = {ROWS, COLS};
    static uint8_t data[BATCH][ROWS * COLS * 8];
    aq_array arrays[BATCH];
    aq_tensor tensors[BATCH];
    aq_batch_options o;
    aq_batch codes, back;
    size_t n = 0;
    uint32_t crc = 0xffffffffu;
    rng r = {151};
    memset(arrays, 0, sizeof arrays);
    memset(&o, 0, sizeof o);
    for (size_t i = 0; i < BATCH; i++) {
        arrays[i].name = names[i];
        arrays[i].data = data[i];
        arrays[i].dtype = dtypes[i % COUNT_OF(dtypes)];
        arrays[i].num_dims = 2;
        arrays[i].shape = shape;
        fill(&r, arrays[i].dtype, data[i], ROWS * COLS);
    }
    aqi_store_le32(data[BATCH - 1] + 4 * 1234, AQI_INF_BITS);
    o.quant.bits = part == 2 ? 2 : 4;
    o.quant.group_size = 32;
    if (part == 1) o.quant.params = AQ_PARAMS_F16;
    if (part == 2) o.quant.params = AQ_PARAMS_U8;
    o.quant.codebook = part == 2;
    if (part == 3) o.quant.granularity = AQ_PER_TENSOR;
    o.threads = 2;
    check(aq_quantize_batch(arrays, BATCH, &o, &codes, &err), "aq_quantize_batch");
    require(codes.num_failed == 1, "one array has an infinity");
    crc = digest_batch_items(crc, &codes);
    for (size_t i = 0; i < codes.num_items; i++) {
        if (codes.items[i].status == AQ_OK) tensors[n++] = codes.items[i].tensor;
    }
    check(aq_dequantize_batch(tensors, n, &o, &back, &err), "aq_dequantize_batch");
    require(back.num_failed == 0, "aq_dequantize_batch");
    crc = digest_batch_items(crc, &back);
    aq_batch_deinit(&back);
    aq_batch_deinit(&codes);
    return crc;
}

/* ---- Arrow ---- */

/* Values in native order; none of those that are null. */
static uint32_t digest_fixed(uint32_t crc, const struct ArrowArray *a, size_t row,
                             size_t width) {
    uint8_t bytes[8];
    aqi_copy_le(bytes, (const uint8_t *)a->buffers[1] + row * width, 1, width);
    return add_bytes(crc, bytes, width);
}

static int64_t offset_of(const struct ArrowArray *a, bool large, size_t i) {
    return large ? ((const int64_t *)a->buffers[1])[i]
                 : ((const int32_t *)a->buffers[1])[i];
}

/* Rows [first, end) of any column that this library gives out. */
static uint32_t digest_column(uint32_t crc, const struct ArrowSchema *s,
                              const struct ArrowArray *a, size_t first, size_t end) {
    const bool list = s->format[0] == '+';
    const char type = s->format[list ? 1 : 0];
    const bool large = type == 'L' || type == 'U' || type == 'Z';
    crc = add_bytes(crc, s->name, strlen(s->name));
    crc = add_bytes(crc, s->format, strlen(s->format));
    require(a->offset == 0, "an offset");
    for (size_t row = first; row < end; row++) {
        const uint8_t *valid = a->n_buffers > 0 ? (const uint8_t *)a->buffers[0] : NULL;
        const bool null = valid != NULL && (valid[row / 8] >> row % 8 & 1) == 0;
        crc = add_u64(crc, null);
        if (null) continue;
        if (!list && strchr("uUzZ", type) == NULL) {
            crc = digest_fixed(crc, a, row, type == 'C' ? 1 : type == 'f' ? 4 : 8);
        } else if (list && type == 's') {
            for (int64_t c = 0; c < s->n_children; c++)
                crc = digest_column(crc, s->children[c], a->children[c], row, row + 1);
        } else {
            const size_t from = (size_t)offset_of(a, large, row);
            const size_t to = (size_t)offset_of(a, large, row + 1);
            crc = add_u64(crc, to - from);
            if (list) crc = digest_column(crc, s->children[0], a->children[0], from, to);
            if (!list)
                crc = add_bytes(crc, (const uint8_t *)a->buffers[2] + from, to - from);
        }
    }
    return crc;
}

static uint32_t digest_table(uint32_t crc, const struct ArrowSchema *s,
                             const struct ArrowArray *a) {
    crc = add_u64(add_u64(crc, (uint64_t)a->length), (uint64_t)s->n_children);
    return digest_column(crc, s, a, 0, (size_t)a->length);
}

/* A model as a stream. */
static uint32_t digest_export(uint32_t crc) {
    char saved[512], quantized[512];
    struct ArrowArrayStream stream;
    struct ArrowSchema schema;
    struct ArrowArray array;
    aq_job_options o;
    aq_model *model;
    memset(&o, 0, sizeof o);
    o.quant.params = AQ_PARAMS_U8;
    path_of("saved.parquet", saved);
    path_of("quantized.parquet", quantized);
    save_model(saved);
    check(aq_job_run(saved, quantized, &o, NULL, &err), "aq_job_run: to export");
    check(aq_model_open(quantized, NULL, &model, &err), "aq_model_open");
    check(aq_model_export_arrow_stream(model, &stream, &err),
          "aq_model_export_arrow_stream");
    aq_model_close(model);
    require(stream.get_schema(&stream, &schema) == 0, "get_schema");
    for (;;) {
        require(stream.get_next(&stream, &array) == 0, "get_next");
        if (array.release == NULL) break;
        crc = digest_table(crc, &schema, &array);
        array.release(&array);
    }
    schema.release(&schema);
    stream.release(&stream);
    return crc;
}

/* Tables of weights there and back; part: float32, float16, float64, a model. */
static uint32_t digest_arrow(int part) {
    static const char items[] = {'f', 'e', 'g'};
    static float values[BATCH][ROWS * COLS];
    static const char *const names[BATCH] = {"q", "k", "v", "o", "a longer name"};
    static const int64_t shape[2] = {ROWS, COLS};
    struct ArrowSchema in_schema, codes_schema, back_schema;
    struct ArrowArray in, codes, back;
    aq_arrow_options o;
    arrow_layer rows[BATCH];
    arrow_form form;
    uint32_t crc = 0xffffffffu;
    rng r = {157};
    if (part == 3) return digest_export(crc);
    memset(&form, 0, sizeof form);
    memset(rows, 0, sizeof rows);
    memset(&o, 0, sizeof o);
    form.item = items[part];
    form.weights = part == 1 ? "+L" : "+l";
    form.shapes = "+l";
    form.dim = part == 1 ? 'i' : 'l';
    form.reversed = part == 2;
    form.item_offset = (size_t)part;
    for (size_t i = 0; i < BATCH; i++) {
        rng_floats(&r, values[i], ROWS * COLS, 1.0f + (float)i);
        rows[i].name = names[i];
        rows[i].values = values[i];
        rows[i].count = ROWS * COLS;
        rows[i].shape = i == 3 ? NULL : shape;
        rows[i].dims = 2;
    }
    arrow_table(&form, rows, BATCH, &in_schema, &in);
    o.quant.bits = part == 1 ? 3 : 4;
    o.quant.group_size = 32;
    if (part == 1) o.quant.params = AQ_PARAMS_F16;
    if (part == 2) o.quant.params = AQ_PARAMS_U8;
    o.quant.codebook = part == 2;
    check(aq_quantize_arrow(&in_schema, &in, &o, &codes_schema, &codes, &err),
          "aq_quantize_arrow");
    crc = digest_table(crc, &codes_schema, &codes);
    check(aq_dequantize_arrow(&codes_schema, &codes, NULL, &back_schema, &back, &err),
          "aq_dequantize_arrow");
    crc = digest_table(crc, &back_schema, &back);
    in_schema.release(&in_schema);
    in.release(&in);
    codes_schema.release(&codes_schema);
    codes.release(&codes);
    back_schema.release(&back_schema);
    back.release(&back);
    return crc;
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
    {"params", 6, digest_params},   {"to_f32", 4, digest_to_f32},
    {"job", 6, digest_job},         {"calibrated", 4, digest_calibrated},
    {"batch", 4, digest_batch},     {"arrow", 4, digest_arrow},
    {"parquet", 4, digest_parquet},
};

static uint32_t digest_with(const struct aqi_kernels *k, size_t i, int part) {
    aqi_active_kernels = k;
    return ~digests[i].digest(part);
}

int main(int argc, char **argv) {
    const struct aqi_kernels *tables[8];
    size_t num_tables = find_tables(tables);
    if (argc == 4 && strcmp(argv[1], "save") == 0) {
        save_layers(argv[2]);
        save_calibration(argv[3]);
        return 0;
    }
    require(temp_dir_make(&dir), "no temporary directory");
    for (size_t i = 0; i < COUNT_OF(digests); i++) {
        if (argc > 1 && strcmp(argv[1], digests[i].name) != 0) continue;
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
