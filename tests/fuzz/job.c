/* job.c - the input is a model file, and behind it FUZZ_JOB_OPTIONS bytes that say what a
 * job does with it. Whatever the way, the job must write the same bytes: in pieces of
 * tensors by one thread; by whole tensors and threads; interrupted, and gone on with, even
 * from a damaged journal; as two shards that are merged. */
#include "model.h"
#include "mutate.h"

#define FUZZ_JOB_OPTIONS 20
#define FUZZ_JOB_VALUES ((uint64_t)1 << 15) /* of a model; more is too much work */
#define FUZZ_JOB_MEMORY ((size_t)256 << 20) /* as jobs take where nothing is said */

/* ---- files ---- */

/* One directory for each process, empty between two inputs; and a calibration of some of
 * the tensors of the seeds. */
static struct {
    pid_t owner;
    char directory[520], out[560], other[560], shards[2][560], journal[600], part[600];
    char calibration_path[560];
    aq_calibration *calibration;
} fuzz_job_files;

/* What is in the directory; when told so, no longer. */
static size_t fuzz_job_entries(bool clear) {
    char path[800];
    struct dirent *entry;
    DIR *all = opendir(fuzz_job_files.directory);
    size_t n = 0;
    FUZZ_CHECK(all != NULL);
    while ((entry = readdir(all)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        snprintf(path, sizeof path, "%s/%s", fuzz_job_files.directory, entry->d_name);
        if (clear) FUZZ_CHECK(remove(path) == 0);
        n++;
    }
    closedir(all);
    return n;
}

static void fuzz_job_remove(void) {
    fuzz_job_entries(true);
    rmdir(fuzz_job_files.directory);
    remove(fuzz_job_files.calibration_path);
    aq_calibration_close(fuzz_job_files.calibration);
}

/* A calibration of two tensors at three timesteps, in two row groups; `counts` has the
 * inputs of first and second tensor at each timestep. */
FUZZ void fuzz_calibration_save(const char *path, const char *const names[2],
                                const int32_t counts[6]) {
    const aq_field_spec fields[] = {
        {.name = "layer_name", .type = AQ_BYTE_ARRAY},
        {.name = "timestep", .type = AQ_INT32},
        FUZZ_LIST("activations", AQ_REQUIRED, .type = AQ_FLOAT),
    };
    static const int32_t times[6] = {80, 80, 40, 40, 0, 0};
    aq_bytes texts[6];
    int32_t offsets[7] = {0};
    float values[1000];
    aq_column_values columns[3] = {{texts, 6, NULL, .num_levels = 0},
                                   {times, 6, NULL, .num_levels = 0},
                                   {values, 0, NULL, .num_levels = 0}};
    aq_writer *w;
    aq_error err;
    int i;
    for (i = 0; i < 6; i++) {
        texts[i].data = (const uint8_t *)names[i % 2];
        texts[i].size = strlen(names[i % 2]);
        offsets[i + 1] = offsets[i] + counts[i];
    }
    FUZZ_CHECK(offsets[6] <= 1000);
    for (i = 0; i < offsets[6]; i++)
        values[i] = (float)(i * 7 % 20) - 8.0f;
    columns[2].num_values = offsets[6];
    columns[2].list_offsets = offsets;
    columns[2].num_lists = 6;
    FUZZ_CHECK_ERR(
        aq_writer_open(path, fields, AQI_COUNT(fields), NULL, &w, &err) == AQ_OK, &err);
    for (i = 0; i < 2; i++) {
        FUZZ_CHECK_ERR(aq_writer_put_columns(w, columns, 3, &err) == AQ_OK, &err);
        FUZZ_CHECK_ERR(aq_writer_end_row_group(w, 6, &err) == AQ_OK, &err);
    }
    FUZZ_CHECK_ERR(aq_writer_finish(w, &err) == AQ_OK, &err);
}

static void fuzz_job_make(void) {
    static const char *const names[2] = {"layer.0.weight", "layer.1.weight"};
    static const int32_t counts[6] = {40, 48, 80, 48, 40, 96};
    aq_calibration_options o;
    aq_error err;
    char *d = fuzz_job_files.directory;
    if (fuzz_job_files.owner == getpid()) return;
    fuzz_job_files.owner = getpid();
    snprintf(d, sizeof fuzz_job_files.directory, "%.500s-job", fuzz_path());
    FUZZ_CHECK(mkdir(d, 0777) == 0 || errno == EEXIST);
    snprintf(fuzz_job_files.shards[0], sizeof fuzz_job_files.shards[0], "%s/0.parquet", d);
    snprintf(fuzz_job_files.shards[1], sizeof fuzz_job_files.shards[1], "%s/1.parquet", d);
    snprintf(fuzz_job_files.calibration_path, sizeof fuzz_job_files.calibration_path,
             "%s-calibration", d);
    fuzz_calibration_save(fuzz_job_files.calibration_path, names, counts);
    memset(&o, 0, sizeof o);
    o.bins = 16;
    FUZZ_CHECK_ERR(aq_calibration_open(fuzz_job_files.calibration_path, &o,
                                       &fuzz_job_files.calibration, &err) == AQ_OK,
                   &err);
    atexit(fuzz_job_remove);
}

/* Outputs of this type, "parquet" or "safetensors". */
static void fuzz_job_names(const char *type) {
    const char *d = fuzz_job_files.directory;
    snprintf(fuzz_job_files.out, sizeof fuzz_job_files.out, "%s/out.%s", d, type);
    snprintf(fuzz_job_files.other, sizeof fuzz_job_files.other, "%s/other.%s", d, type);
    snprintf(fuzz_job_files.journal, sizeof fuzz_job_files.journal,
             "%s/.other.%s.aq-journal", d, type);
    snprintf(fuzz_job_files.part, sizeof fuzz_job_files.part, "%s/.other.%s.aq-part", d,
             type);
}

static bool fuzz_job_exists(const char *path) { return access(path, F_OK) == 0; }

/* One byte of the file is another, or it ends there. */
static void fuzz_job_damage(const char *path, uint32_t at, bool cut) {
    fuzz_whole f;
    if (!fuzz_job_exists(path)) return;
    f = fuzz_file_read(path);
    if (f.size > 0 && cut) f.size = at % f.size;
    if (f.size > 0 && !cut) f.data[at % f.size] ^= (uint8_t)(1u << at % 8);
    fuzz_file_put(path, f.data, f.size);
    free(f.data);
}

/* ---- options ---- */

#define FUZZ_JOB_COLUMNS 256

/* Every tensor by itself: some are kept, some have scales of columns. */
static bool fuzz_job_plan(void *user, const aq_tensor *t, aq_plan *plan) {
    static float scales[FUZZ_JOB_COLUMNS];
    const size_t pick = (uintptr_t)user + strlen(t->name);
    size_t i;
    for (i = 0; i < FUZZ_JOB_COLUMNS; i++)
        scales[i] = (float)(1 + i % 5) / 4;
    if (pick % 4 == 0) plan->keep = true;
    if (pick % 4 == 1 && t->layout.cols <= FUZZ_JOB_COLUMNS)
        plan->quant.column_scales = scales;
    if (pick % 4 == 2) plan->quant.group_size = 8 + pick % 9;
    plan->fixed_bits = pick % 8 == 6;
    return true;
}

/* Only what goes together. */
static void fuzz_job_options(fuzz_input *in, aq_job_options *o) {
    static const uint32_t bits[] = {4, 2, 3, 5, 6, 8};
    static const double cosines[] = {0, 0, 0.9, 0.9999}, targets[] = {0, 0, 0, 5.5};
    static const size_t chunks[] = {0, 0, 64, 1000};
    static const uint64_t memories[] = {0, 0, 5000, 100000};
    static const aq_spatial_options spatial = {true, 0.5f};
    static const aq_smooth_options smooth = {AQ_CUBIC, 1, 0.5};
    uint32_t k = fuzz_below(in, 10);
    memset(o, 0, sizeof *o);
    o->operation = k < 8 ? AQ_QUANTIZE : (aq_operation)(k - 7);
    o->quant.bits = bits[fuzz_below(in, 6)];
    o->quant.group_size = 8 + fuzz_below(in, 64);
    o->quant.granularity = (aq_granularity)fuzz_below(in, 3);
    o->quant.symmetric = fuzz_below(in, 2) == 1;
    o->quant.method = (aq_method)fuzz_below(in, 4);
    o->quant.params = (aq_params)fuzz_below(in, 3);
    if (o->quant.granularity == AQ_PER_TENSOR) o->quant.params = AQ_PARAMS_F32;
    if (o->quant.params == AQ_PARAMS_U8 && o->quant.bits <= 4 && fuzz_below(in, 2) == 1) {
        o->quant.bits &= 6; /* 2 or 4 */
        o->quant.symmetric = false;
        o->quant.codebook = true;
    }
    o->min_cosine = cosines[fuzz_below(in, 4)];
    o->target_bpw = targets[fuzz_below(in, 4)];
    o->fail_fast = fuzz_below(in, 2) == 1;
    o->chunk_bytes = chunks[fuzz_below(in, 4)];
    o->max_memory_bytes = memories[fuzz_below(in, 4)];
    k = fuzz_byte(in);
    if (k % 2 == 1 && o->operation == AQ_QUANTIZE) {
        if ((k & 24) == 0) o->calibration = fuzz_job_files.calibration;
        if ((k & 24) != 0) o->calibration_path = fuzz_job_files.calibration_path;
        o->optimize_groups = (k & 2) != 0;
        if ((k & 4) != 0) o->smooth = &smooth;
        if ((k & 8) != 0) o->spatial = &spatial;
        if ((k & 32) != 0) o->quant.method = AQ_WEIGHTED;
    }
    k = fuzz_byte(in);
    if (k % 2 == 1) {
        o->plan = fuzz_job_plan;
        o->plan_user = (void *)(uintptr_t)(k / 2);
    }
    o->threads = 1;
    o->no_sync = true;
}

/* ---- the other ways ---- */

/* Stops the job at its *left-th report. */
static bool fuzz_job_count(void *user, const aq_progress *progress) {
    uint32_t *left = (uint32_t *)user;
    (void)progress;
    return *left == 0 || --*left > 0;
}

static aq_status fuzz_job_resumed(const char *input, aq_job_options o, fuzz_input *in) {
    uint32_t left = 1 + fuzz_below(in, 12), damage = fuzz_below(in, 8);
    const uint32_t at = fuzz_u16(in);
    aq_error err;
    aq_status status;
    o.resume = true;
    o.progress.fn = fuzz_job_count;
    o.progress.user = &left;
    status = aq_job_run(input, fuzz_job_files.other, &o, NULL, &err);
    if (status != AQ_E_CANCELLED) return fuzz_status(status, &err);
    FUZZ_CHECK(!fuzz_job_exists(fuzz_job_files.other));
    if (damage < 2) fuzz_job_damage(fuzz_job_files.journal, at, damage == 1);
    if (damage == 2) fuzz_job_damage(fuzz_job_files.part, at, true);
    return fuzz_status(aq_job_run(input, fuzz_job_files.other, &o, NULL, &err), &err);
}

static aq_status fuzz_job_shards(const char *input, aq_job_options o) {
    const char *const shards[2] = {fuzz_job_files.shards[1], fuzz_job_files.shards[0]};
    aq_error err;
    aq_status status = AQ_OK;
    o.num_shards = 2;
    for (o.shard = 0; o.shard < 2 && status == AQ_OK; o.shard++)
        status = fuzz_status(
            aq_job_run(input, fuzz_job_files.shards[o.shard], &o, NULL, &err), &err);
    if (status != AQ_OK) return status;
    o.num_shards = 0;
    FUZZ_CHECK_ERR(aq_merge(shards, 2, fuzz_job_files.other, &o, NULL, &err) == AQ_OK,
                   &err);
    return AQ_OK;
}

static aq_status fuzz_job_parallel(const char *input, aq_job_options o) {
    aq_error err;
    o.mode = AQ_JOB_PARALLEL;
    o.threads = 3;
    return fuzz_status(aq_job_run(input, fuzz_job_files.other, &o, NULL, &err), &err);
}

/* ---- what a job says ---- */

/* No option was left out on the way to the codes. */
static void fuzz_job_as_asked(const aq_layout *l, const aq_job_options *o) {
    const aq_quant_options *q = &o->quant;
    const bool other_bits = o->min_cosine > 0 || o->target_bpw > 0;
    FUZZ_CHECK(l->bits == q->bits ||
               (other_bits && (l->bits == 2 || l->bits == 4 || l->bits == 8)));
    FUZZ_CHECK(l->codebook == (q->codebook && l->bits != 8));
    FUZZ_CHECK(l->params == q->params && l->symmetric == q->symmetric);
    FUZZ_CHECK(l->granularity == q->granularity);
    FUZZ_CHECK(l->granularity != AQ_PER_GROUP || o->plan != NULL ||
               l->group_cols == q->group_size);
}

static void fuzz_job_report(const aq_job_report *r, const aq_job_options *o,
                            size_t num_tensors) {
    const double bytes = o->target_bpw * (double)r->num_params / 8;
    size_t i, quantized = 0, failed = 0;
    if (o->operation == AQ_QUANTIZE && o->target_bpw > 0)
        FUZZ_CHECK((double)r->bytes_out <= bytes);
    FUZZ_CHECK(r->num_tensors == num_tensors);
    for (i = 0; i < r->num_tensors; i++) {
        const aq_tensor_report *t = &r->tensors[i];
        FUZZ_CHECK(i == 0 || strcmp(r->tensors[i - 1].name, t->name) < 0);
        FUZZ_CHECK((t->status == AQ_OK) == (t->error == NULL));
        FUZZ_CHECK(t->num_attempts <= AQ_MAX_ATTEMPTS);
        FUZZ_CHECK(t->metrics.count == 0 || t->metrics.count == t->tensor.num_params);
        if (t->metrics.count > 0) fuzz_job_as_asked(&t->tensor.layout, o);
        quantized += o->operation == AQ_QUANTIZE && t->metrics.count > 0;
        failed += t->status != AQ_OK;
    }
    FUZZ_CHECK(o->operation != AQ_QUANTIZE || quantized <= r->num_quantized);
    FUZZ_CHECK(r->num_failed == failed && (failed == 0 || !o->fail_fast));
}

/* The largest difference of a value from what its code stands for, as the report has it. */
static void fuzz_job_error(const aq_tensor *from, const aq_tensor *to,
                           const aq_metrics *metrics) {
    const size_t cols = to->layout.cols;
    float *a = (float *)malloc(2 * cols * sizeof *a), *b = a + cols;
    double worst = 0, e;
    aq_error err;
    size_t r, c;
    FUZZ_CHECK(a != NULL);
    for (r = 0; r < to->layout.rows; r++) {
        FUZZ_CHECK_ERR(aq_tensor_rows_f32(from, r, 1, a, NULL, &err) == AQ_OK, &err);
        FUZZ_CHECK_ERR(aq_tensor_rows_f32(to, r, 1, b, NULL, &err) == AQ_OK, &err);
        for (c = 0; c < cols; c++) {
            e = fabs((double)a[c] - (double)b[c]);
            if (e > worst) worst = e;
        }
    }
    FUZZ_CHECK(worst == metrics->max_abs_error || /* also infinite */
               fabs(worst - metrics->max_abs_error) <= 1e-5 * worst);
    FUZZ_CHECK(to->max_abs_error == metrics->max_abs_error);
    free(a);
}

/* What was dequantized is what the rows of codes are as floats. */
static void fuzz_job_floats(const aq_tensor *from, const aq_tensor *to) {
    const size_t cols = from->layout.cols;
    float *a = (float *)malloc(AQI_MAX(cols, (size_t)1) * 2 * sizeof *a), *b = a + cols;
    aq_error err;
    size_t r;
    FUZZ_CHECK(a != NULL && to->dtype == AQ_F32 && to->num_params == from->num_params);
    for (r = 0; r < from->layout.rows && cols > 0; r++) {
        FUZZ_CHECK_ERR(aq_tensor_rows_f32(from, r, 1, a, NULL, &err) == AQ_OK, &err);
        FUZZ_CHECK_ERR(aq_tensor_rows_f32(to, r, 1, b, NULL, &err) == AQ_OK, &err);
        FUZZ_CHECK(memcmp(a, b, cols * sizeof *a) == 0);
    }
    free(a);
}

/* What was kept, or converted, has the same bytes. */
static void fuzz_job_same(const aq_tensor *from, const aq_tensor *to) {
    aqi_part a[AQI_PARTS], b[AQI_PARTS];
    int k;
    aqi_parts_of(from, a);
    aqi_parts_of(to, b);
    for (k = 0; k < AQI_PARTS; k++)
        FUZZ_CHECK(
            a[k].bytes == b[k].bytes &&
            (a[k].bytes == 0 || memcmp(a[k].values, b[k].values, a[k].bytes) == 0));
}

/* The output is a model that can be read to its end, and what the report says. */
static void fuzz_job_output(const char *input, const aq_job_options *o,
                            const aq_job_report *report) {
    aq_model *before, *m;
    aq_tensor from, t;
    aq_error err;
    size_t i;
    FUZZ_CHECK_ERR(aq_model_open(input, NULL, &before, &err) == AQ_OK, &err);
    FUZZ_CHECK_ERR(aq_model_open(fuzz_job_files.out, NULL, &m, &err) == AQ_OK, &err);
    FUZZ_CHECK(aq_model_count(m) == report->num_tensors);
    for (i = 0; i < report->num_tensors; i++) {
        const aq_tensor_report *r = &report->tensors[i];
        FUZZ_CHECK_ERR(aq_model_find(m, r->name, &t, &err) == AQ_OK, &err);
        FUZZ_CHECK(o->operation != AQ_DEQUANTIZE || t.layout.bits == 0);
        FUZZ_CHECK(t.layout.bits != 0 || t.diffusion == NULL ||
                   t.diffusion->spatial == NULL);
        FUZZ_CHECK_ERR(aq_model_find(before, r->name, &from, &err) == AQ_OK, &err);
        if (t.layout.bits != 0 && from.layout.bits == 0)
            fuzz_job_error(&from, &t, &r->metrics);
        if (t.layout.bits == 0 && from.layout.bits != 0) fuzz_job_floats(&from, &t);
        if (t.layout.bits == from.layout.bits) fuzz_job_same(&from, &t);
        aq_tensor_release(&from);
        aq_tensor_release(&t);
        fuzz_tensor(m, i, 0);
    }
    aq_model_close(m);
    aq_model_close(before);
}

/* Tensors of a model that a job may work on; SIZE_MAX: too much work. Whether it says that
 * it is a shard. */
static size_t fuzz_job_tensors(const char *input, bool *out_shard) {
    aq_key_value pair;
    aq_model *m;
    aq_tensor t;
    aq_error err;
    uint64_t values = 0;
    size_t i, n = 0;
    *out_shard = false;
    if (aq_model_open(input, NULL, &m, &err) != AQ_OK) return 0;
    for (i = 0; aq_model_metadata(m, i, &pair); i++) {
        if (strcmp(pair.key, "arrowquant.shard") == 0) *out_shard = true;
    }
    n = aq_model_count(m);
    for (i = 0; i < n; i++) {
        FUZZ_CHECK(aq_model_describe(m, i, &t, &err) == AQ_OK);
        values += AQI_MIN(t.num_params, FUZZ_JOB_VALUES) + 64;
    }
    aq_model_close(m);
    return values > FUZZ_JOB_VALUES ? SIZE_MAX : n;
}

/* The input as the only shard of a model, and as both. */
static void fuzz_job_merge(const char *input, size_t n) {
    const char *const shards[2] = {input, input};
    aq_job_options o;
    aq_job_report report;
    aq_error err;
    memset(&o, 0, sizeof o);
    o.threads = 1;
    o.no_sync = true;
    if (fuzz_status(aq_merge(shards, 1, fuzz_job_files.out, &o, &report, &err), &err) ==
        AQ_OK) {
        FUZZ_CHECK(report.num_tensors == n);
        o.operation = AQ_CONVERT;
        fuzz_job_output(input, &o, &report);
        aq_job_report_deinit(&report);
    }
    fuzz_job_entries(true);
    FUZZ_CHECK(aq_merge(shards, 2, fuzz_job_files.out, &o, NULL, &err) != AQ_OK);
    FUZZ_CHECK(fuzz_job_entries(false) == 0);
}

static void fuzz_job(const uint8_t *data, size_t size) {
    const size_t bytes = size - AQI_MIN(size, (size_t)FUZZ_JOB_OPTIONS);
    fuzz_input in = {data + bytes, size - bytes};
    const char *input = fuzz_file_write(data, bytes);
    bool shard, safetensors;
    size_t n = fuzz_job_tensors(input, &shard);
    fuzz_memory memory;
    fuzz_whole out, other;
    aq_job_options o;
    aq_job_report report;
    aq_error err;
    aq_status status, again;
    fuzz_result = AQ_OK;
    if (n == SIZE_MAX) return;
    fuzz_job_make();
    fuzz_job_names("parquet");
    if (shard) fuzz_job_merge(input, n);
    fuzz_job_options(&in, &o);
    safetensors = o.operation != AQ_QUANTIZE && fuzz_below(&in, 2) == 1;
    if (safetensors) fuzz_job_names("safetensors");
    fuzz_memory_init(&memory, FUZZ_MODEL_BYTES + FUZZ_JOB_MEMORY,
                     FUZZ_MODEL_BYTES + 2 * FUZZ_JOB_MEMORY + (size << 22));
    o.allocator = &memory.hooks;
    status = fuzz_status(aq_job_run(input, fuzz_job_files.out, &o, &report, &err), &err);
    o.allocator = NULL; /* ours is for one thread */
    FUZZ_CHECK(fuzz_job_entries(false) == (status == AQ_OK));
    if (status == AQ_OK) {
        fuzz_job_report(&report, &o, n);
        fuzz_job_output(input, &o, &report);
        aq_job_report_deinit(&report);
    }
    fuzz_memory_check(&memory);
    switch (fuzz_below(&in, 3)) {
    case 0:
        again = fuzz_job_parallel(input, o);
        break;
    case 1:
        again = fuzz_job_resumed(input, o, &in);
        break;
    default: /* a target is one of the whole model; shards are Parquet */
        again = o.target_bpw > 0 || safetensors ? fuzz_job_parallel(input, o)
                                                : fuzz_job_shards(input, o);
        break;
    }
    if (status == AQ_OK && again == AQ_OK) {
        out = fuzz_file_read(fuzz_job_files.out);
        other = fuzz_file_read(fuzz_job_files.other);
        FUZZ_CHECK(out.size == other.size && memcmp(out.data, other.data, out.size) == 0);
        free(out.data);
        free(other.data);
    }
    /* Memory is the only thing that a way may lack. */
    FUZZ_CHECK((status == AQ_OK) == (again == AQ_OK) || status == AQ_E_LIMIT ||
               again == AQ_E_LIMIT);
    fuzz_job_entries(true);
}
