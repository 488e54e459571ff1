/* test_diffusion.c - calibration files and what becomes of them: statistics against plain
 * loops, groups of timesteps against all ways to split, integer products bit by bit,
 * transitions against numbers worked out by hand. */
#define NATIVE_SOURCES
#include "files.h"
#include "quantized.h"

#include <float.h>
#include <math.h>

static void enter_fast_dir(void) {
    if (access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 1);
    enter_temp_dir();
}

TestSuite(diffusion, .init = enter_fast_dir, .fini = leave_temp_dir, .timeout = 120);

/* ---- calibration files ---- */

/* A row; `count` activations from `values` on. */
typedef struct calib_row {
    const char *name;
    int64_t timestep;
    const float *values;
    size_t count;
} calib_row;

typedef struct calib_file {
    bool wide;     /* timestep INT64            */
    bool nullable; /* optional columns and lists, as pyarrow has them */
    size_t per_group, page_bytes;
    aq_encoding encoding; /* of the activations   */
    int64_t null_row;     /* and 1: this row's list is null; negative: its timestep */
} calib_file;

static void put_rows(aq_writer *w, const calib_file *f, const calib_row *rows, size_t n,
                     size_t first) {
    size_t values = 0, levels = 0;
    for (size_t i = 0; i < n; i++)
        values += rows[i].count;
    aq_bytes *names = calloc(n, sizeof *names);
    int64_t *wide = calloc(n, sizeof *wide);
    int32_t *narrow = calloc(n, sizeof *narrow);
    float *all = calloc(values + 1, sizeof *all);
    uint8_t *def = calloc(values + n, 1), *rep = calloc(values + n, 1),
            *ones = calloc(n, 1);
    size_t at = 0, times = 0;
    const uint8_t most = f->nullable ? 3 : 1;
    for (size_t i = 0; i < n; i++) {
        const bool no_list = f->null_row == (int64_t)(first + i) + 1;
        const bool no_time = f->null_row == -(int64_t)(first + i) - 1;
        names[i].data = (const uint8_t *)rows[i].name;
        names[i].size = strlen(rows[i].name);
        ones[i] = !no_time;
        if (!no_time) {
            wide[times] = rows[i].timestep;
            narrow[times++] = (int32_t)rows[i].timestep;
        }
        if (rows[i].count == 0 || no_list) {
            def[levels++] = no_list ? 0 : most - (f->nullable ? 2 : 1);
            continue;
        }
        for (size_t k = 0; k < rows[i].count; k++, levels++) {
            def[levels] = most;
            rep[levels] = k > 0;
            all[at++] = rows[i].values[k];
        }
    }
    uint8_t *all_ones = malloc(n);
    memset(all_ones, 1, n);
    aq_column_values v = {.values = names, .num_values = (int64_t)n};
    if (f->nullable) v.def_levels = all_ones, v.num_levels = (int64_t)n;
    ASSERT_OK(aq_writer_put_column(w, &v, &err));
    aq_column_values t = {.values = f->wide ? (const void *)wide : narrow,
                          .num_values = (int64_t)times};
    if (f->nullable) t.def_levels = ones, t.num_levels = (int64_t)n;
    ASSERT_OK(aq_writer_put_column(w, &t, &err));
    aq_column_values a = {.values = all,
                          .num_values = (int64_t)at,
                          .def_levels = def,
                          .rep_levels = rep,
                          .num_levels = (int64_t)levels};
    ASSERT_OK(aq_writer_put_column(w, &a, &err));
    ASSERT_OK(aq_writer_end_row_group(w, (int64_t)n, &err));
    free(names), free(wide), free(narrow), free(all), free(def), free(rep), free(ones),
        free(all_ones);
}

static void write_rows(const char *path, const calib_file *how, const calib_row *rows,
                       size_t n) {
    static const calib_file plain;
    const calib_file *f = how == NULL ? &plain : how;
    const aq_repetition some = f->nullable ? AQ_OPTIONAL : AQ_REQUIRED;
    const aq_field_spec fields[] = {
        {.name = "layer_name",
         .repetition = some,
         .type = AQ_BYTE_ARRAY,
         .logical = AQ_LOGICAL_STRING},
        {.name = "timestep", .repetition = some, .type = f->wide ? AQ_INT64 : AQ_INT32},
        {.name = "activations",
         .repetition = some,
         .type = AQ_GROUP,
         .num_children = 1,
         .logical = AQ_LOGICAL_LIST},
        {.name = "list", .repetition = AQ_REPEATED, .type = AQ_GROUP, .num_children = 1},
        {.name = "element",
         .repetition = some,
         .type = AQ_FLOAT,
         .encoding = f->encoding},
    };
    aq_writer_options o = {.no_sync = true, .page_bytes = f->page_bytes};
    size_t per_group = f->per_group == 0 ? n : f->per_group, at;
    aq_writer *w;
    ASSERT_OK(aq_writer_open(path, fields, COUNT_OF(fields), &o, &w, &err));
    for (at = 0; at < n; at += per_group)
        put_rows(w, f, rows + at, n - at < per_group ? n - at : per_group, at);
    ASSERT_OK(aq_writer_finish(w, &err));
}

/* ---- statistics ---- */

enum { LAYERS = 2, STEPS = 7, ROWS = 3, MOST = 24 };

/* Layer "b" of 8 columns and "a" of 3, at timesteps that fall, several rows each; a row
 * has one to three vectors. */
typedef struct scene {
    calib_row rows[LAYERS * STEPS * ROWS];
    float values[LAYERS * STEPS * ROWS][MOST];
    size_t count;
} scene;

static size_t scene_cols(size_t layer) { return layer == 0 ? 8 : 3; }

static void scene_make(scene *s, uint64_t seed) {
    rng r = {seed};
    s->count = 0;
    for (size_t step = 0; step < STEPS; step++) {
        for (size_t layer = 0; layer < LAYERS; layer++) {
            for (size_t k = 0; k < ROWS; k++) {
                calib_row *row = &s->rows[s->count];
                float *v = s->values[s->count++];
                row->name = layer == 0 ? "b" : "a";
                row->timestep = (int64_t)(STEPS - step) * 40;
                row->count =
                    scene_cols(layer) * (step == 0 && k == 0 ? 1 : 1 + (k + step) % 3);
                row->values = v;
                rng_floats(&r, v, row->count, (float)(step + 1));
                v[0] += (float)layer;
            }
        }
    }
}

/* What plain loops say of a layer at a timestep. */
static void expect_step(const scene *s, const aq_calibrated *t, const aq_step_stats *g) {
    double sum = 0, squares = 0;
    float min = INFINITY, max = -INFINITY;
    uint64_t count = 0, binned = 0;
    uint32_t *bins = calloc(t->num_bins, sizeof *bins);
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < s->count; i++) {
            const calib_row *row = &s->rows[i];
            if (strcmp(row->name, t->name) != 0 || row->timestep != g->timestep) continue;
            for (size_t k = 0; k < row->count; k++) {
                const float v = row->values[k];
                if (pass == 0) {
                    sum += (double)v;
                    count++;
                    min = v < min ? v : min;
                    max = v > max ? v : max;
                    continue;
                }
                const double d = (double)v - sum / (double)count;
                squares += d * d;
                double bin = ((double)v - (double)t->min) *
                             ((double)t->num_bins / ((double)t->max - (double)t->min));
                bins[bin < t->num_bins - 1 ? (size_t)bin : t->num_bins - 1]++;
            }
        }
    }
    cr_assert_eq(g->count, count);
    cr_assert_eq(g->min, min);
    cr_assert_eq(g->max, max);
    cr_assert_eq(g->mean, sum / (double)count);
    cr_assert_eq(g->std, sqrt(squares / (double)count));
    for (uint32_t i = 0; i < t->num_bins; i++)
        binned += g->bins[i];
    cr_assert_eq(binned, count);
    cr_assert_arr_eq(g->bins, bins, t->num_bins * sizeof *bins);
    free(bins);
}

static void expect_columns(const scene *s, const aq_calibrated *t) {
    for (size_t c = 0; c < t->cols; c++) {
        double sum = 0;
        float most = 0;
        size_t vectors = 0;
        for (size_t i = 0; i < s->count; i++) {
            const calib_row *row = &s->rows[i];
            if (strcmp(row->name, t->name) != 0) continue;
            for (size_t k = c; k < row->count; k += t->cols, vectors++) {
                sum += (double)row->values[k] * (double)row->values[k];
                if (fabsf(row->values[k]) > most) most = fabsf(row->values[k]);
            }
        }
        cr_assert_eq(t->mean_square[c], (float)(sum / (double)vectors));
        cr_assert_eq(t->absmax[c], most);
    }
}

static void expect_scene(const scene *s, const aq_calibration *c) {
    cr_assert_eq(aq_calibration_count(c), LAYERS);
    cr_assert_null(aq_calibration_tensor(c, LAYERS));
    cr_assert_null(aq_calibration_find(c, "c"));
    for (size_t i = 0; i < LAYERS; i++) {
        const aq_calibrated *t = aq_calibration_tensor(c, i);
        cr_assert_str_eq(t->name, i == 0 ? "a" : "b");
        cr_assert_eq(aq_calibration_find(c, t->name), t);
        cr_assert_eq(t->cols, scene_cols(1 - i));
        cr_assert_eq(t->num_steps, STEPS);
        for (size_t k = 0; k < STEPS; k++) {
            cr_assert_eq(t->steps[k].timestep, (int64_t)(k + 1) * 40);
            expect_step(s, t, &t->steps[k]);
        }
        expect_columns(s, t);
    }
}

/* Any way to write it, in any pieces, is read to the same statistics. */
Test(diffusion, statistics_are_those_of_plain_loops) {
    static scene s;
    const calib_file files[] = {
        {0},
        {.wide = true},
        {.nullable = true},
        {.per_group = 5},
        {.per_group = 1},
        {.per_group = 1, .nullable = true},
        {.page_bytes = 64},
        {.page_bytes = 64, .nullable = true, .encoding = AQ_RLE_DICTIONARY},
        {.wide = true,
         .per_group = 11,
         .page_bytes = 100,
         .encoding = AQ_BYTE_STREAM_SPLIT},
    };
    const char *path = in_dir("calib.parquet");
    scene_make(&s, 1);
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        for (int io = 0; io < 2; io++) {
            counting_allocator a;
            aq_calibration_options o = {.io = io == 0 ? AQ_IO_MAP : AQ_IO_READ,
                                        .allocator = &a.hooks,
                                        .bins = i == 0 ? 0 : 64};
            aq_calibration *c;
            counting_init(&a);
            write_rows(path, &files[i], s.rows, s.count);
            ASSERT_OK(aq_calibration_open(path, &o, &c, &err));
            expect_scene(&s, c);
            aq_calibration_close(c);
            cr_assert(counting_is_clean(&a));
        }
    }
    aq_calibration_close(NULL);
}

/* The memory is that of the statistics, whatever the size of the file. */
Test(diffusion, a_large_file_takes_no_more_memory) {
    enum { COLS = 64, FEW = 40, MANY = 4000 };
    static float values[16][COLS];
    static calib_row rows[MANY];
    const calib_file f = {.per_group = 500, .page_bytes = 16384};
    size_t peak[2];
    rng r = {2};
    rng_floats(&r, values[0], COUNT_OF(values) * COLS, 1);
    for (size_t i = 0; i < MANY; i++)
        rows[i] = (calib_row){"w", (int64_t)(i % 8), values[i % 16], COLS};
    for (int k = 0; k < 2; k++) {
        counting_allocator a;
        aq_calibration_options o = {.allocator = &a.hooks, .bins = 16};
        aq_calibration *c;
        const char *path = in_dir("large.parquet");
        counting_init(&a);
        write_rows(path, &f, rows, k == 0 ? FEW : MANY);
        ASSERT_OK(aq_calibration_open(path, &o, &c, &err));
        cr_assert_eq(aq_calibration_tensor(c, 0)->count, (k == 0 ? FEW : MANY) * COLS);
        aq_calibration_close(c);
        peak[k] = a.peak_bytes;
    }
    cr_assert_lt(peak[1], peak[0] + 65536, "%zu, then %zu bytes", peak[0], peak[1]);
}

static void expect_refused(const char *what, const calib_file *f, const calib_row *rows,
                           size_t n, const aq_calibration_options *o, aq_status wanted,
                           const char *part) {
    const char *path = in_dir("bad.parquet");
    aq_calibration *c = (aq_calibration *)&err;
    write_rows(path, f, rows, n);
    cr_expect_eq(aq_calibration_open(path, o, &c, &err), wanted, "%s: %s", what,
                 err.message);
    cr_expect_null(c);
    EXPECT_HELPFUL(what);
    EXPECT_MESSAGE(what, part);
}

/* Files that are wrong say where. */
Test(diffusion, bad_calibration_files_are_refused) {
    static const float good[4] = {1, 2, 3, 4};
    const float nan[4] = {1, 2, NAN, 4}, inf[4] = {1, -INFINITY, 3, 4};
    const calib_row first = {"w", 5, good, 4};
    const calib_file nullable = {.nullable = true},
                     null_list = {.nullable = true, .null_row = 2},
                     null_time = {.nullable = true, .null_row = -2};
    calib_row rows[2] = {first, {"w", 3, nan, 4}};
    expect_refused("NaN", NULL, rows, 2, NULL, AQ_E_NONFINITE,
                   "activation 2 at timestep 3 is NaN or infinite");
    EXPECT_MESSAGE("NaN", "tensor \"w\"");
    rows[1].values = inf;
    expect_refused("infinity", NULL, rows, 2, NULL, AQ_E_NONFINITE, "activation 1 at");
    rows[1] = (calib_row){"w", 3, good, 3};
    expect_refused("no whole vector", NULL, rows, 2, NULL, AQ_E_FORMAT,
                   "3 activations at timestep 3 are no whole vectors of 4");
    rows[1].count = 0;
    expect_refused("empty list", NULL, rows, 2, NULL, AQ_E_FORMAT, "null or empty");
    expect_refused("empty list", &nullable, rows, 2, NULL, AQ_E_FORMAT, "null or empty");
    rows[1] = (calib_row){"w", 3, good, 4};
    expect_refused("null list", &null_list, rows, 2, NULL, AQ_E_FORMAT, "null or empty");
    expect_refused("null timestep", &null_time, rows, 2, NULL, AQ_E_FORMAT,
                   "timestep is null");
    rows[1].timestep = -1;
    expect_refused("timestep -1", NULL, rows, 2, NULL, AQ_E_FORMAT, "timestep -1");
    rows[1] = (calib_row){"", 3, good, 4};
    expect_refused("empty name", NULL, rows, 2, NULL, AQ_E_FORMAT, "layer_name is empty");
    rows[1] = (calib_row){"\xff", 3, good, 4};
    expect_refused("no text", NULL, rows, 2, NULL, AQ_E_FORMAT, "layer_name is no text");
    expect_refused("no rows", NULL, rows, 0, NULL, AQ_E_FORMAT, "without rows");
    const aq_calibration_options little = {.max_bytes = 20000};
    static calib_row many[50];
    for (size_t i = 0; i < COUNT_OF(many); i++)
        many[i] = (calib_row){"w", (int64_t)i, good, 4};
    expect_refused("max_bytes", NULL, many, COUNT_OF(many), &little, AQ_E_LIMIT,
                   "max_bytes");
}

static uint64_t hash_of_step(int64_t timestep) {
    uint64_t h = ((uint64_t)timestep << 20) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 32;
}

/* Names or timesteps that were chosen to have one hash are refused: a table of millions of
 * them would take hours. */
Test(diffusion, calibrations_with_one_hash) {
    enum { MANY = 600 };
    static const float value[1] = {1};
    static calib_row rows[MANY];
    static char names[MANY][24];
    int64_t timestep = 0;
    names_of_one_hash(names, MANY);
    for (size_t i = 0; i < MANY; i++)
        rows[i] = (calib_row){names[i], 5, value, 1};
    expect_refused("names", NULL, rows, MANY, NULL, AQ_E_LIMIT,
                   "over 512 names of layers have one hash");
    for (size_t i = 0; i < MANY; i++, timestep++) {
        while (hash_of_step(timestep) % 2048 != 77)
            timestep++;
        rows[i] = (calib_row){"w", timestep, value, 1};
    }
    expect_refused("timesteps", NULL, rows, MANY, NULL, AQ_E_LIMIT,
                   "over 512 timesteps have one hash");
    for (size_t i = 0; i < MANY; i++)
        rows[i] = (calib_row){names[i % 300], rows[i % 290].timestep, value, 1};
    aq_calibration *c;
    write_rows(in_dir("c.parquet"), NULL, rows, MANY);
    ASSERT_OK(aq_calibration_open(in_dir("c.parquet"), NULL, &c, &err));
    cr_expect_eq(aq_calibration_count(c), 300);
    aq_calibration_close(c);
}

/* A changed byte before the footer is found, or says nothing. */
Test(diffusion, damaged_calibrations) {
    static const float inputs[4] = {1, 2, 3, 4};
    const calib_row rows[2] = {{"w", 5, inputs, 4}, {"w", 9, inputs, 4}};
    const aq_calibration_options o = {.io = AQ_IO_MAP};
    aq_calibration *c;
    size_t found = 0;
    file f;
    write_rows(in_dir("c"), NULL, rows, 2);
    ASSERT_OK(aq_calibration_open(in_dir("c"), &o, &c, &err));
    aq_calibration_close(c);
    f = file_read(in_dir("c"));
    for (size_t at = 4; at < body_bytes_of(&f); at++) {
        file_write_damaged(in_dir("d"), &f, at);
        if (aq_calibration_open(in_dir("d"), &o, &c, &err) != AQ_OK) {
            found += err.status == AQ_E_CHECKSUM;
            continue;
        }
        cr_assert_eq(aq_calibration_count(c), 1, "byte %zu", at);
        const aq_calibrated *t = aq_calibration_tensor(c, 0);
        cr_assert(strcmp(t->name, "w") == 0 && t->count == 8 && t->min == 1 &&
                      t->max == 4 && t->steps[0].timestep == 5 && t->steps[0].mean == 2.5 &&
                      t->steps[1].timestep == 9 && t->steps[1].mean == 2.5,
                  "byte %zu", at);
        aq_calibration_close(c);
    }
    cr_assert_gt(found, 40);
    file_free(&f);
}

static const float *no_scales(void *user, const char *layer_name) {
    (void)user, (void)layer_name;
    return NULL;
}

/* A column of a calibration that has another type. */
Test(diffusion, other_columns_are_no_calibration) {
    static const struct {
        aq_physical_type name, time, values;
        const char *message;
    } cases[] = {{AQ_INT32, AQ_INT32, AQ_FLOAT, "column layer_name is not"},
                 {AQ_BYTE_ARRAY, AQ_FLOAT, AQ_FLOAT, "column timestep is not"},
                 {AQ_BYTE_ARRAY, AQ_INT64, AQ_DOUBLE, "column activations is not"},
                 {AQ_BYTE_ARRAY, AQ_INT32, AQ_GROUP, "column activations is not"}};
    const aq_calibration_options scales = {.input_scales = no_scales};
    aq_calibration *c;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const bool flat = cases[i].values == AQ_GROUP;
        const aq_field_spec fields[] = {{.name = "layer_name", .type = cases[i].name},
                                        {.name = "timestep", .type = cases[i].time},
                                        {.name = "activations",
                                         .type = flat ? AQ_FLOAT : AQ_GROUP,
                                         .num_children = !flat},
                                        {.name = "list",
                                         .repetition = AQ_REPEATED,
                                         .type = AQ_GROUP,
                                         .num_children = 1},
                                        {.name = "element", .type = cases[i].values}};
        aq_writer *w;
        ASSERT_OK(aq_writer_open(in_dir("c"), fields, flat ? 3 : 5, NULL, &w, &err));
        ASSERT_OK(aq_writer_finish(w, &err));
        ASSERT_STATUS(aq_calibration_open(in_dir("c"), NULL, &c, &err), AQ_E_TYPE);
        EXPECT_MESSAGE("type", cases[i].message);
    }
    ASSERT_STATUS(aq_calibration_open(in_dir("c"), &scales, &c, &err), AQ_E_ARG);
    ASSERT_MESSAGE("scales", "input_scales need the model");
}

/* Against a model: names and columns. */
Test(diffusion, calibration_of_another_model_is_refused) {
    static const float w[12] = {1, 2, 3};
    const aq_tensor t = matrix_of("w", 3, 4, w);
    const aq_model_writer_options fast = {.no_sync = true};
    aq_calibration_options o = {0};
    calib_row rows[2] = {{"w", 5, w, 8}, {"w", 3, w, 4}};
    aq_model *m;
    aq_calibration *c;
    const char *path = in_dir("calib.parquet");
    ASSERT_OK(aq_model_save(in_dir("m.parquet"), &t, 1, &fast, &err));
    ASSERT_OK(aq_model_open(in_dir("m.parquet"), NULL, &m, &err));
    o.model = m;
    write_rows(path, NULL, rows, 2);
    ASSERT_OK(aq_calibration_open(path, &o, &c, &err)); /* 8 are two vectors of 4 */
    cr_assert_eq(aq_calibration_tensor(c, 0)->cols, 4);
    aq_calibration_close(c);
    rows[1].name = "other";
    expect_refused("name", NULL, rows, 2, &o, AQ_E_NOT_FOUND, "no such tensor");
    EXPECT_MESSAGE("name", "\"other\"");
    rows[1] = (calib_row){"w", 3, w, 6};
    expect_refused("columns", NULL, rows, 2, &o, AQ_E_FORMAT, "vectors of 4");
    aq_model_close(m);
    /* A model is no calibration, and what is no Parquet neither. */
    ASSERT_STATUS(aq_calibration_open(in_dir("m.parquet"), NULL, &c, &err), AQ_E_TYPE);
    ASSERT_MESSAGE("model", "timestep");
    file_write(in_dir("text"), "hello, world", 12);
    ASSERT_STATUS(aq_calibration_open(in_dir("text"), NULL, &c, &err), AQ_E_FORMAT);
    ASSERT_STATUS(aq_calibration_open(in_dir("none"), NULL, &c, &err), AQ_E_IO);
    ASSERT_STATUS(aq_calibration_open(NULL, NULL, &c, &err), AQ_E_ARG);
    o.bins = 15;
    ASSERT_STATUS(aq_calibration_open(path, &o, &c, &err), AQ_E_ARG);
}

/* No allocation may fail without an error, and none leaks. */
Test(diffusion, every_failed_allocation_is_an_error) {
    static scene s;
    const char *path = in_dir("calib.parquet");
    counting_allocator a;
    aq_calibration_options o = {.allocator = &a.hooks, .bins = 16};
    const aq_time_options t = {.groups = 2};
    aq_time_group groups[2];
    scene_make(&s, 3);
    write_rows(path, NULL, s.rows, s.count);
    for (size_t fail = 1;; fail++) {
        aq_calibration *c;
        aq_status status;
        counting_init(&a);
        a.fail_at = fail;
        status = aq_calibration_open(path, &o, &c, &err);
        if (status == AQ_OK) {
            status =
                aq_time_groups_make(c, aq_calibration_tensor(c, 0), &t, groups, &err);
            aq_calibration_close(c);
        }
        cr_assert(counting_is_clean(&a));
        if (status == AQ_OK) {
            cr_assert_gt(fail, 10);
            return;
        }
        cr_assert_eq(status, AQ_E_NOMEM, "%s", err.message);
    }
}

/* ---- time groups ---- */

/* A calibration of one tensor "w" of 16 columns: at step i, timestep i * every, values
 * spread over +-sizes[i]. */
static aq_calibration *spread(const float *sizes, size_t steps, int64_t every,
                              size_t vectors, float shift) {
    enum { COLS = 16 };
    const char *path = in_dir("spread.parquet");
    float *values = malloc(steps * vectors * COLS * sizeof *values);
    calib_row *rows = calloc(steps, sizeof *rows);
    const aq_calibration_options o = {.bins = 512};
    aq_calibration_options with = o;
    static const float w[COLS];
    const aq_tensor t = matrix_of("w", 1, COLS, w);
    const aq_model_writer_options fast = {.no_sync = true};
    aq_calibration *c;
    aq_model *m;
    rng r = {77};
    for (size_t i = 0; i < steps; i++) {
        float *v = values + i * vectors * COLS;
        for (size_t k = 0; k < vectors * COLS; k++) /* bell-shaped */
            v[k] = shift + sizes[i] * (rng_float(&r) + rng_float(&r) + rng_float(&r) +
                                       rng_float(&r) - 2.0f);
        rows[i] = (calib_row){"w", (int64_t)(steps - 1 - i) * every, v, vectors * COLS};
    }
    write_rows(path, NULL, rows, steps);
    ASSERT_OK(aq_model_save(in_dir("w.parquet"), &t, 1, &fast, &err));
    ASSERT_OK(aq_model_open(in_dir("w.parquet"), NULL, &m, &err));
    with.model = m;
    ASSERT_OK(aq_calibration_open(path, &with, &c, &err));
    aq_model_close(m);
    free(values);
    free(rows);
    return c;
}

static void expect_cover(const aq_time_group *g, size_t n, int64_t end) {
    cr_assert_eq(g[0].start, 0);
    cr_assert_eq(g[n - 1].end, end);
    for (size_t i = 0; i < n; i++) {
        cr_assert_lt(g[i].start, g[i].end);
        if (i > 0) cr_assert_eq(g[i].start, g[i - 1].end);
        cr_assert_gt(g[i].params.scale, 0);
        cr_assert_eq(g[i].params.zero_point, rintf(g[i].params.zero_point));
        cr_assert(g[i].params.zero_point >= 0 &&
                  g[i].params.zero_point <= (float)((1 << g[i].params.bits) - 1));
    }
}

Test(diffusion, groups_of_equal_width) {
    static const float sizes[10] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    aq_calibration *c = spread(sizes, 10, 1, 1, 0);
    const aq_calibrated *t = aq_calibration_tensor(c, 0);
    aq_time_options o = {.groups = 3, .split = AQ_SPLIT_EQUAL, .bits = 4};
    aq_time_group g[10];
    ASSERT_OK(aq_time_groups_make(c, t, &o, g, &err));
    expect_cover(g, 3, 10); /* floor(i * 10 / 3), as the reference has them */
    cr_assert_eq(g[1].start, 3);
    cr_assert_eq(g[2].start, 6);
    o.groups = 10;
    o.timesteps = 1000;
    ASSERT_OK(aq_time_groups_make(c, t, &o, g, &err));
    expect_cover(g, 10, 1000);
    aq_calibration_close(c);
    c = spread(sizes, 10, 40, 1, 0); /* 0, 40, ..., 360: boundaries in the middle */
    o.groups = 2;
    ASSERT_OK(aq_time_groups_make(c, aq_calibration_tensor(c, 0), &o, g, &err));
    expect_cover(g, 2, 1000);
    cr_assert_eq(g[1].start, 180);
    aq_calibration_close(c);
}

/* min-max: the extremes come back within half a step, and nothing is clipped. */
Test(diffusion, minmax_ranges_hold_all_values) {
    static const float sizes[6] = {3, 1, 2, 0.5f, 4, 1};
    for (int shift = -3; shift <= 3; shift++) {
        aq_calibration *c = spread(sizes, 6, 10, 3, (float)shift);
        const aq_calibrated *t = aq_calibration_tensor(c, 0);
        for (uint32_t bits = 4; bits <= 8; bits++) {
            const aq_time_options o = {
                .groups = 3, .rule = AQ_RANGE_MINMAX, .bits = bits};
            aq_time_group g[3];
            ASSERT_OK(aq_time_groups_make(c, t, &o, g, &err));
            expect_cover(g, 3, 51);
            for (size_t i = 0; i < t->num_steps; i++) {
                const aq_time_group *in = g;
                while (t->steps[i].timestep >= in->end)
                    in++;
                const float ends[2] = {t->steps[i].min, t->steps[i].max};
                for (int k = 0; k < 2; k++) {
                    float u = ends[k] / in->params.scale + in->params.zero_point;
                    float q = fminf(fmaxf(rintf(u), 0), (float)((1 << bits) - 1));
                    cr_assert_leq(fabsf(u - q), 0.501f);
                }
            }
        }
        aq_calibration_close(c);
    }
}

/* The least error over all ways to split, each way's from aq_time_groups_make with one
 * group over just these steps. */
Test(diffusion, similar_groups_are_the_best_of_all) {
    enum { N = 9 };
    static const float sizes[N] = {5, 4.5f, 1, 1.2f, 1.1f, 0.3f, 0.25f, 0.2f, 2};
    for (int rule = 0; rule < 2; rule++) {
        aq_calibration *c = spread(sizes, N, 5, 40, 0);
        const aq_calibrated *t = aq_calibration_tensor(c, 0);
        double cost[N][N]; /* exact for min-max: scale^2 / 12 of each value */
        aq_time_options o = {.groups = 1, .bits = 6, .rule = AQ_RANGE_MINMAX};
        if (rule == 1) o.rule = AQ_RANGE_MSE;
        for (size_t i = 0; i < N; i++) {
            for (size_t k = i; k < N; k++) {
                aq_calibrated part = *t;
                aq_time_group g;
                part.steps = t->steps + i;
                part.num_steps = k - i + 1;
                ASSERT_OK(aq_time_groups_make(c, &part, &o, &g, &err));
                ASSERT_OK(aq_time_groups_error(&part, &g, 1, &cost[i][k], NULL, &err));
                if (o.rule != AQ_RANGE_MINMAX) continue;
                uint64_t count = 0;
                double low = 0, high = 0;
                for (size_t s = i; s <= k; s++) {
                    count += t->steps[s].count;
                    low = fmin(low, (double)t->steps[s].min);
                    high = fmax(high, (double)t->steps[s].max);
                }
                cost[i][k] = pow((high - low) / 63, 2) / 12 * (double)count;
            }
        }
        double best = INFINITY;
        for (unsigned mask = 0; mask < 1u << (N - 1); mask++) {
            double sum = 0;
            size_t first = 0;
            if (__builtin_popcount(mask) != 3) continue;
            for (size_t k = 0; k < N; k++) {
                if (k < N - 1 && !(mask >> k & 1)) continue;
                sum += cost[first][k];
                first = k + 1;
            }
            best = fmin(best, sum);
        }
        aq_time_group g[4];
        double sum = 0;
        o.groups = 4;
        ASSERT_OK(aq_time_groups_make(c, t, &o, g, &err));
        expect_cover(g, 4, 41);
        for (size_t i = 0, first = 0; i < 4; i++) {
            size_t end = first;
            while (end < N && t->steps[end].timestep < g[i].end)
                end++;
            cr_assert_gt(end, first);
            sum += cost[first][end - 1];
            first = end;
        }
        /* Clipped ranges are split by what is expected, and compared by the quantizer. */
        cr_assert_leq(sum, best * (rule == 0 ? 1 + 1e-12 : 1.03), "%g, the best %g", sum,
                      best);
        aq_calibration_close(c);
    }
}

/* The measured error is that of the quantizer, value by value. */
Test(diffusion, the_measured_error_is_the_quantizers) {
    static const float sizes[5] = {1, 2, 3, 2, 1};
    aq_calibration *c = spread(sizes, 5, 1, 4000, 0.5f);
    const aq_calibrated *t = aq_calibration_tensor(c, 0);
    for (uint32_t bits = 4; bits <= 8; bits += 2) {
        const aq_time_options o = {.groups = 2, .bits = bits};
        aq_time_group g[2];
        double mse, errors[2], sum = 0;
        uint64_t count = 0;
        rng r = {77};
        ASSERT_OK(aq_time_groups_make(c, t, &o, g, &err));
        ASSERT_OK(aq_time_groups_error(t, g, 2, errors, &mse, &err));
        for (size_t i = 0; i < 5; i++) {
            const aq_affine *p = &g[(int64_t)(4 - i) >= g[1].start].params;
            const double most = (double)((1 << bits) - 1);
            for (size_t k = 0; k < 4000 * 16; k++, count++) {
                double x =
                    (double)(0.5f + sizes[i] * (rng_float(&r) + rng_float(&r) +
                                                rng_float(&r) + rng_float(&r) - 2.0f));
                double q = fmin(
                    fmax(rint(x / (double)p->scale + (double)p->zero_point), 0), most);
                double d = x - (q - (double)p->zero_point) * (double)p->scale;
                sum += d * d;
            }
        }
        cr_assert_eq(count, t->count);
        cr_assert_float_eq((errors[0] + errors[1]) / (double)count, mse, mse * 1e-12);
        cr_assert_float_eq(mse, sum / (double)count, 0.02 * mse, "%u bits: %g, %g", bits,
                           mse, sum / (double)count);
    }
    aq_calibration_close(c);
}

/* Clipping never makes the measured error larger, helps at 4 bits on bell shapes, and 8
 * bits of few values clip none. */
Test(diffusion, clipping_helps_or_is_left) {
    static const float sizes[4] = {1, 3, 1, 2};
    aq_calibration *c = spread(sizes, 4, 1, 1000, 0);
    const aq_calibrated *t = aq_calibration_tensor(c, 0);
    for (uint32_t bits = 4; bits <= 8; bits++) {
        for (uint32_t groups = 1; groups <= 4; groups++) {
            aq_time_options o = {.groups = groups, .bits = bits};
            aq_time_group mse[4], minmax[4];
            double a, b;
            ASSERT_OK(aq_time_groups_make(c, t, &o, mse, &err));
            o.rule = AQ_RANGE_MINMAX;
            ASSERT_OK(aq_time_groups_make(c, t, &o, minmax, &err));
            for (uint32_t i = 0; i < groups; i++) { /* the same groups */
                minmax[i].start = mse[i].start;
                minmax[i].end = mse[i].end;
            }
            ASSERT_OK(aq_time_groups_error(t, mse, groups, NULL, &a, &err));
            if (groups == 1 || groups == 4) {
                ASSERT_OK(aq_time_groups_error(t, minmax, groups, NULL, &b, &err));
                cr_assert_leq(a, b);
                if (bits == 4 && groups == 4) cr_assert_lt(a, 0.9 * b, "%g, %g", a, b);
            }
        }
    }
    aq_calibration_close(c);
    c = spread(sizes, 4, 1, 3, 0); /* 48 values a step */
    t = aq_calibration_tensor(c, 0);
    aq_time_options o = {.groups = 4, .bits = 8};
    aq_time_group mse[4], minmax[4];
    ASSERT_OK(aq_time_groups_make(c, t, &o, mse, &err));
    o.rule = AQ_RANGE_MINMAX;
    ASSERT_OK(aq_time_groups_make(c, t, &o, minmax, &err));
    for (int i = 0; i < 4; i++)
        cr_assert_eq(mse[i].params.scale, minmax[i].params.scale);
    aq_calibration_close(c);
}

/* More groups are never worse, and much better where ranges differ. */
Test(diffusion, groups_of_their_own_beat_one_for_all) {
    static const float sizes[8] = {8, 6, 4, 2, 1, 0.5f, 0.25f, 0.12f};
    aq_calibration *c = spread(sizes, 8, 1, 500, 0);
    const aq_calibrated *t = aq_calibration_tensor(c, 0);
    double last = INFINITY, plain = 0;
    for (uint32_t groups = 1; groups <= 8; groups++) {
        const aq_time_options o = {.groups = groups, .bits = 4};
        aq_time_group g[8];
        double mse;
        ASSERT_OK(aq_time_groups_make(c, t, &o, g, &err));
        ASSERT_OK(aq_time_groups_error(t, g, groups, NULL, &mse, &err));
        cr_assert_leq(mse, last * 1.01, "%u groups: %g, before %g", groups, mse, last);
        last = mse;
        if (groups == 1) plain = mse;
    }
    cr_assert_lt(last, plain / 2, "%g, %g", plain, last);
    aq_calibration_close(c);
}

/* Over 256 calibrated timesteps the boundaries lie between blocks. */
Test(diffusion, many_timesteps) {
    static float sizes[1000];
    for (size_t i = 0; i < 1000; i++) /* a step at 500 */
        sizes[i] = i < 500 ? 4 : 1;
    aq_calibration *c = spread(sizes, 1000, 1, 1, 0);
    const aq_time_options o = {.groups = 2};
    aq_time_group g[2];
    ASSERT_OK(aq_time_groups_make(c, aq_calibration_tensor(c, 0), &o, g, &err));
    expect_cover(g, 2, 1000);
    cr_assert(g[0].end >= 496 && g[0].end <= 504, "%lld", (long long)g[0].end);
    aq_calibration_close(c);
}

Test(diffusion, degenerate_calibrations) {
    static const float zero[4] = {0, 0, 0, 0}, five[4] = {5, 5, 5, 5},
                       minus[4] = {-5, -5, -5, -5}, tiny[4] = {1e-42f, 0, 0, 1e-44f},
                       huge[4] = {FLT_MAX, -FLT_MAX, FLT_MAX, 1};
    static const float *const cases[] = {zero, five, minus, tiny, huge};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const calib_row row = {"w", 7, cases[i], 4}; /* a single timestep */
        const char *path = in_dir("one.parquet");
        aq_calibration *c;
        aq_time_options o = {.groups = 1};
        aq_time_group g[2];
        write_rows(path, NULL, &row, 1);
        if (cases[i] == huge) { /* the squares are no float */
            ASSERT_STATUS(aq_calibration_open(path, NULL, &c, &err), AQ_E_LIMIT);
            continue;
        }
        ASSERT_OK(aq_calibration_open(path, NULL, &c, &err));
        for (o.bits = 4; o.bits <= 8; o.bits++) {
            for (int rule = 0; rule < 2; rule++) {
                double mse;
                o.rule = (aq_range_rule)rule;
                ASSERT_OK(
                    aq_time_groups_make(c, aq_calibration_tensor(c, 0), &o, g, &err));
                expect_cover(g, 1, 8);
                ASSERT_OK(aq_time_groups_error(aq_calibration_tensor(c, 0), g, 1, NULL,
                                               &mse, &err));
                cr_assert_lt(mse, 1e-10);
            }
        }
        if (cases[i] == zero) {
            cr_assert_eq(g[0].params.scale, 1);
            cr_assert_eq(g[0].params.zero_point, 0);
        }
        o = (aq_time_options){.groups = 2};
        ASSERT_STATUS(aq_time_groups_make(c, aq_calibration_tensor(c, 0), &o, g, &err),
                      AQ_E_ARG);
        ASSERT_MESSAGE("groups", "2 time groups for 1 calibrated");
        o = (aq_time_options){.groups = 1, .timesteps = 7};
        ASSERT_STATUS(aq_time_groups_make(c, aq_calibration_tensor(c, 0), &o, g, &err),
                      AQ_E_ARG);
        o = (aq_time_options){.groups = 1, .bits = 3};
        ASSERT_STATUS(aq_time_groups_make(c, aq_calibration_tensor(c, 0), &o, g, &err),
                      AQ_E_ARG);
        aq_calibration_close(c);
    }
}

/* ---- integer products ---- */

/* A plain reference of aq_matmul_i8 with static activations, from the parameters. */
static void expect_product(const quantized *q, const aq_affine *p, const float *x,
                           size_t count) {
    const aq_layout *l = &q->layout;
    aq_tensor t = {.name = "w",
                   .data = q->dst.codes,
                   .layout = *l,
                   .num_params = 1,
                   .scales = q->dst.scales,
                   .zero_points = q->dst.zero_points,
                   .params = q->dst.params,
                   .data_bytes = l->code_bytes};
    void *memory = malloc(aq_activations_bytes(l, count) + 1);
    float *y = malloc(count * l->rows * sizeof *y),
          *sums = malloc(l->rows * sizeof *sums);
    const float inverse = 1.0f / p->scale;
    aq_activations a;
    ASSERT_OK(aq_activations_init_static(l, x, count, p, memory, &a, &err));
    ASSERT_OK(aq_tensor_matmul_i8(&t, &a, y, NULL, &err));
    ASSERT_OK(aq_tensor_row_sums(&t, sums, NULL, &err));
    for (size_t r = 0; r < l->rows; r++) {
        double row = 0;
        for (size_t c = 0; c < l->cols; c++)
            row += (double)quantized_value(q, r, c);
        cr_assert_eq(sums[r], (float)row);
        for (size_t v = 0; v < count; v++) {
            double want = 0, whole = 0;
            for (size_t c = 0; c < l->cols; c++) {
                float u = x[v * l->cols + c] * inverse + p->zero_point;
                float code = rintf(fminf(fmaxf(u, 0), (float)((1 << p->bits) - 1)));
                double back = (double)(code - p->zero_point) * (double)p->scale;
                want += back * (double)quantized_value(q, r, c);
                whole += fabs(back * (double)quantized_value(q, r, c)) +
                         fabs((double)p->scale * 128 * (double)quantized_value(q, r, c));
            }
            double got = (double)y[v * l->rows + r] +
                         (double)aq_affine_offset(p) * (double)sums[r];
            cr_assert_float_eq(got, want, whole * 1e-5 + 1e-12, "%g, not %g", got, want);
        }
    }
    free(memory), free(y), free(sums);
}

Test(diffusion, static_activations_multiply_as_their_values) {
    rng r = {9};
    for (uint32_t wbits = 2; wbits <= 8; wbits++) {
        if (wbits == 7) continue;
        for (uint32_t bits = 4; bits <= 8; bits++) {
            enum { W_ROWS = 5, W_COLS = 200, COUNT = 3 };
            const aq_quant_options o = {.bits = wbits, .group_size = 32};
            float w[W_ROWS * W_COLS], x[COUNT * W_COLS];
            rng_floats(&r, w, W_ROWS * W_COLS, 1);
            rng_floats(&r, x, COUNT * W_COLS, 4);
            quantized q = quantized_make(W_ROWS, W_COLS, &o);
            ASSERT_OK(aq_quantize_into(&q.layout, w, AQ_F32, &q.dst, NULL, NULL, &err));
            for (int zero = 0; zero < 3; zero++) {
                const float most = (float)((1 << bits) - 1);
                const aq_affine p = {6.0f / most,
                                     zero == 0   ? 0
                                     : zero == 1 ? most
                                                 : rintf(most / 3),
                                     bits};
                expect_product(&q, &p, x, COUNT);
            }
            quantized_free(&q);
        }
    }
}

/* Bit by bit: one scale for all weights, one segment, whole numbers: no rounding at all.
 * On every instruction set; codes from -128 to 127. */
Test(diffusion, static_activations_are_exact_in_integers) {
    enum { W_ROWS = 4, W_COLS = 128 };
    static const aq_isa sets[] = {AQ_ISA_REF, AQ_ISA_AVX2, AQ_ISA_AVX512, AQ_ISA_NEON};
    rng r = {10};
    for (size_t k = 0; k < COUNT_OF(sets); k++) {
        if (!aq_isa_supported(sets[k])) continue;
        ASSERT_OK(aq_isa_force(sets[k]));
        for (uint32_t wbits = 2; wbits <= 8; wbits++) {
            if (wbits == 7) continue;
            for (uint32_t bits = 4; bits <= 8; bits++) {
                const aq_quant_options o = {.bits = wbits, .group_size = 128};
                const int32_t half = bits == 8 ? 128 : 1 << (bits - 1);
                const aq_affine p = {1.0f, (float)half, bits};
                quantized q = quantized_make(W_ROWS, W_COLS, &o);
                float x[W_COLS], y[W_ROWS];
                char memory[4096] __attribute__((aligned(4)));
                aq_activations a;
                aq_tensor t = {.name = "w",
                               .data = q.dst.codes,
                               .layout = q.layout,
                               .scales = q.dst.scales,
                               .zero_points = q.dst.zero_points};
                cr_assert_leq(aq_activations_bytes(&q.layout, 1), sizeof memory);
                rng_bytes(&r, q.dst.codes, q.layout.code_bytes);
                for (size_t g = 0; g < q.layout.num_groups; g++) {
                    q.dst.scales[g] = 1;
                    q.dst.zero_points[g] = (float)(1 << (wbits - 1));
                }
                for (size_t c = 0; c < W_COLS; c++) /* beyond the ends too */
                    x[c] = (float)((int)rng_below(&r, 400) - 200);
                if (bits == 8) {
                    memset(q.dst.codes, 0xff, q.layout.row_bytes);
                    for (size_t c = 0; c < W_COLS; c += 2)
                        x[c] = -1000; /* code -128 beside the largest weights */
                }
                ASSERT_OK(
                    aq_activations_init_static(&q.layout, x, 1, &p, memory, &a, &err));
                ASSERT_OK(aq_tensor_matmul_i8(&t, &a, y, NULL, &err));
                for (size_t row = 0; row < W_ROWS; row++) {
                    int64_t sum = 0;
                    for (size_t c = 0; c < W_COLS; c++) {
                        int32_t code = (int32_t)x[c];
                        if (code < -half) code = -half;
                        if (code > (1 << bits) - 1 - half) code = (1 << bits) - 1 - half;
                        sum += code *
                               ((int32_t)quantized_code(&q, row, c) - (1 << (wbits - 1)));
                    }
                    cr_assert_eq(y[row], (float)sum, "%u x %u bits: %g, not %lld", wbits,
                                 bits, (double)y[row], (long long)sum);
                }
                quantized_free(&q);
            }
        }
    }
}

Test(diffusion, bad_static_parameters_are_refused) {
    static const aq_affine bad[] = {
        {0, 0, 8},    {-1, 0, 8}, {NAN, 0, 8}, {INFINITY, 0, 8},
        {1, 0.5f, 8}, {1, -1, 8}, {1, 256, 8}, {1, 16, 4},
        {1, NAN, 8},  {1, 0, 3},  {1, 0, 9},   {1e-39f, 0, 8},
    };
    const aq_affine good = {1, 0, 8};
    float x[64] = {0};
    char memory[1024] __attribute__((aligned(4)));
    aq_layout l;
    aq_activations a;
    ASSERT_OK(aq_layout_init(2, 64, NULL, &l, &err));
    for (size_t i = 0; i < COUNT_OF(bad); i++)
        ASSERT_STATUS(aq_activations_init_static(&l, x, 1, &bad[i], memory, &a, &err),
                      AQ_E_ARG);
    ASSERT_STATUS(aq_activations_init_static(&l, x, 1, NULL, memory, &a, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_activations_init_static(&l, NULL, 1, &good, memory, &a, &err),
                  AQ_E_ARG);
    x[33] = NAN;
    ASSERT_STATUS(aq_activations_init_static(&l, x, 1, &good, memory, &a, &err),
                  AQ_E_NONFINITE);
    ASSERT_MESSAGE("NaN", "value 33");
}

/* Sizes and memory that do not fit; nothing to do is no error. */
Test(diffusion, static_activations_of_odd_sizes) {
    const aq_affine p = {1, 8, 4}, coarse = {FLT_MAX, 0, 8};
    const aq_quant_options rows = {.granularity = AQ_PER_CHANNEL};
    static float x[4000];
    static char memory[16384] __attribute__((aligned(4)));
    aq_layout l, wide, none;
    aq_activations a;
    ASSERT_OK(aq_layout_init(2, 64, NULL, &l, &err));
    ASSERT_STATUS(aq_activations_init_static(&l, x, 1, &p, NULL, &a, &err), AQ_E_ARG);
    ASSERT_MESSAGE("memory", "vectors or their memory missing");
    ASSERT_STATUS(aq_activations_init_static(&l, x, 1, &p, memory + 2, &a, &err),
                  AQ_E_ARG);
    ASSERT_MESSAGE("alignment", "not aligned to 4");
    ASSERT_STATUS(aq_activations_init_static(&l, x, SIZE_MAX / 2, &p, memory, &a, &err),
                  AQ_E_LIMIT);
    ASSERT_MESSAGE("count", "too many for this machine");
    x[0] = x[1] = FLT_MAX; /* two codes of 255 */
    ASSERT_STATUS(aq_activations_init_static(&l, x, 1, &coarse, memory, &a, &err),
                  AQ_E_LIMIT);
    ASSERT_MESSAGE("sum", "too large to add codes up");
    l.code_bytes++;
    ASSERT_STATUS(aq_activations_init_static(&l, x, 1, &p, memory, &a, &err), AQ_E_ARG);
    ASSERT_OK(
        aq_layout_init(2, 4000, &(aq_quant_options){.group_size = 2000}, &wide, &err));
    ASSERT_STATUS(aq_activations_init_static(&wide, x, 1, &p, memory, &a, &err),
                  AQ_E_UNSUPPORTED);
    ASSERT_MESSAGE("groups", "groups of 2000 elements; use aq_matmul");
    ASSERT_STATUS(aq_activations_init(&wide, x, 1, memory, &a, &err), AQ_E_UNSUPPORTED);
    ASSERT_MESSAGE("groups", "groups of 2000 elements; use aq_matmul");
    ASSERT_OK(aq_layout_init(2, 0, &rows, &none, &err));
    ASSERT_OK(aq_activations_init_static(&none, NULL, 0, &p, NULL, &a, &err));
    cr_assert(a.codes == NULL && a.scales == NULL && a.sums == NULL && a.count == 0);
}

/* ---- transitions ---- */

static aq_time_group group_of(int64_t start, int64_t end, float scale, float zero,
                              uint32_t bits) {
    aq_time_group g = {start, end, {scale, zero, bits}, 1};
    return g;
}

/* Worked out by hand from the formulas. */
Test(diffusion, scores_of_transitions) {
    aq_time_group g[4] = {
        group_of(0, 1, 1.0f, 0, 8),
        group_of(1, 2, 1.25f, 51, 8),   /* scale 0.25, zero 0.2: score 0.775       */
        group_of(2, 3, 0.625f, 51, 8),  /* scale 0.5, zero 0: score 0.75, medium   */
        group_of(3, 4, 3.125f, 255, 8), /* scale 4, zero 0.8: mean 2.4, score 0    */
    };
    aq_transition t[3];
    aq_smoothness s;
    ASSERT_OK(aq_time_groups_check(g, 4, 0, t, &s, &err));
    cr_assert_float_eq(t[0].scale_jump, 0.25, 1e-12);
    cr_assert_float_eq(t[0].zero_point_jump, 0.2, 1e-12);
    cr_assert_float_eq(t[0].score, 0.775, 1e-12);
    cr_assert_eq(t[0].severity, AQ_SEVERITY_NONE);
    cr_assert_float_eq(t[1].scale_jump, 0.5, 1e-12);
    cr_assert_float_eq(t[1].score, 0.75, 1e-12);
    cr_assert_eq(t[1].severity, AQ_SEVERITY_MEDIUM);
    cr_assert_float_eq(t[2].scale_jump, 4, 1e-12);
    cr_assert_float_eq(t[2].zero_point_jump, 0.8, 1e-12);
    cr_assert_eq(t[2].score, 0);
    cr_assert_eq(t[2].severity, AQ_SEVERITY_HIGH);
    cr_assert_eq(s.num_violations, 2);
    cr_assert_eq(s.worst_score, 0);
    /* (0.45 + 0.5 + 4.8) / 6 = 0.9583 */
    cr_assert_float_eq(s.smoothness, 1 - 5.75 / 6, 1e-12);
    ASSERT_OK(aq_time_groups_check(g, 2, 0.2, t, &s, &err));
    cr_assert_eq(t[0].severity, AQ_SEVERITY_LOW);
    cr_assert_float_eq(s.smoothness, 1 - 0.45 / 2, 1e-12);
    g[1].params.zero_point = 255; /* zero points alone are no violation */
    ASSERT_OK(aq_time_groups_check(g, 2, 0, t, &s, &err));
    cr_assert_eq(s.num_violations, 0);
    ASSERT_OK(aq_time_groups_check(g, 1, 0, NULL, &s, &err));
    cr_assert(s.smoothness == 1 && s.worst_score == 1 && s.num_violations == 0);
    g[0].params.scale = 0;
    ASSERT_STATUS(aq_time_groups_check(g, 2, 0, t, &s, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_time_groups_check(g, 0, 0, t, &s, &err), AQ_E_ARG);
}

/* Two groups, window 1: the first is a third of the way, the second two thirds. */
Test(diffusion, smoothing_interpolates) {
    static const float sizes[2] = {1, 1};
    aq_calibration *c = spread(sizes, 2, 1, 10, 0);
    const aq_calibrated *t = aq_calibration_tensor(c, 0);
    const double cubic = 3.0 / 9 - 2.0 / 27, sigmoid = 1 / (1 + exp(10.0 / 6));
    const double at[3] = {1.0 / 3, cubic, sigmoid};
    for (int how = 0; how < 3; how++) {
        aq_smooth_options o = {.interpolation = (aq_interpolation)how, .max_rise = 1e9};
        aq_time_group g[2] = {group_of(0, 1, 1, 0, 8), group_of(1, 2, 4, 90, 8)};
        aq_tuning r;
        ASSERT_OK(aq_time_groups_smooth(t, g, 2, &o, &r, &err));
        cr_assert_eq(r.changed, 1);
        cr_assert_float_eq(g[0].params.scale, 1 + 3 * at[how], 1e-6);
        cr_assert_float_eq(g[1].params.scale, 4 - 3 * at[how], 1e-6);
        cr_assert_eq(g[0].params.zero_point, (float)rint(90 * at[how]));
        cr_assert_eq(g[1].params.zero_point, (float)rint(90 * (1 - at[how])));
    }
    aq_calibration_close(c);
}

/* Good parameters are not smoothed away: refused, and untouched to the bit. */
Test(diffusion, smoothing_that_costs_is_refused) {
    static const float sizes[6] = {8, 8, 2, 2, 0.5f, 0.5f};
    aq_calibration *c = spread(sizes, 6, 1, 300, 0);
    const aq_calibrated *t = aq_calibration_tensor(c, 0);
    const aq_time_options o = {.groups = 3, .bits = 6};
    for (int how = 0; how < 3; how++) {
        for (uint32_t window = 1; window <= 20; window += 6) {
            const aq_smooth_options so = {.interpolation = (aq_interpolation)how,
                                          .window = window};
            aq_time_group g[3], before[3];
            aq_tuning r;
            ASSERT_OK(aq_time_groups_make(c, t, &o, g, &err));
            memcpy(before, g, sizeof g);
            ASSERT_OK(aq_time_groups_smooth(t, g, 3, &so, &r, &err));
            cr_assert_eq(r.refused, 2);
            cr_assert_eq(r.mse_before, r.mse_after);
            cr_assert_arr_eq(before, g, sizeof g);
        }
    }
    /* Where the parameters are poor, smoothing may help, and is then taken. */
    aq_time_group g[3];
    aq_tuning r;
    ASSERT_OK(aq_time_groups_make(c, t, &o, g, &err));
    g[1].params.scale *= 50;
    ASSERT_OK(aq_time_groups_smooth(t, g, 3, NULL, &r, &err));
    cr_assert_geq(r.changed, 1);
    cr_assert_lt(r.mse_after, r.mse_before);
    const aq_smooth_options bad = {.window = 21};
    ASSERT_STATUS(aq_time_groups_smooth(t, g, 3, &bad, NULL, &err), AQ_E_ARG);
    aq_calibration_close(c);
}

/* Whatever it starts from, the optimizer does not raise the error of any group. */
Test(diffusion, the_optimizer_is_monotone) {
    static const float sizes[5] = {4, 3, 1, 0.5f, 0.2f};
    aq_calibration *c = spread(sizes, 5, 1, 200, 0.3f);
    const aq_calibrated *t = aq_calibration_tensor(c, 0);
    rng r = {5};
    for (int round = 0; round < 20; round++) {
        const uint32_t bits = 4 + (uint32_t)round % 5;
        const aq_time_options o = {.groups = 5, .bits = bits};
        aq_time_group g[5];
        double before[5], after[5];
        aq_tuning tuning;
        ASSERT_OK(aq_time_groups_make(c, t, &o, g, &err));
        for (int i = 0; i < 5 && round >= 5; i++) {
            g[i].params.scale *= 0.3f + 3 * fabsf(rng_float(&r));
            g[i].params.zero_point = (float)rng_below(&r, 1u << bits);
        }
        ASSERT_OK(aq_time_groups_error(t, g, 5, before, NULL, &err));
        ASSERT_OK(aq_time_groups_optimize(t, g, 5, &tuning, &err));
        ASSERT_OK(aq_time_groups_error(t, g, 5, after, NULL, &err));
        expect_cover(g, 5, 5);
        cr_assert_leq(tuning.mse_after, tuning.mse_before);
        for (int i = 0; i < 5; i++)
            cr_assert_leq(after[i], before[i]);
        if (round >= 5) cr_assert_gt(tuning.changed, 0);
    }
    aq_calibration_close(c);
}

/* What no file and no calibration can have. */
Test(diffusion, groups_that_cannot_be) {
    static const float sizes[4] = {1, 2, 3, 4};
    aq_calibration *c = spread(sizes, 4, 100, 4, 0);
    const aq_calibrated *t = aq_calibration_tensor(c, 0);
    static const struct {
        aq_time_options o;
        const char *message;
    } options[] = {{{.bits = 3}, "activations of 3 bits"},
                   {{.bits = 9}, "activations of 9 bits"},
                   {{.groups = 257}, "257 time groups"},
                   {{.split = (aq_time_split)2}, "no such split or rule"},
                   {{.split = (aq_time_split)-1}, "no such split or rule"},
                   {{.rule = (aq_range_rule)9}, "no such split or rule"},
                   {{.rule = (aq_range_rule)-1}, "no such split or rule"}};
    const aq_time_group good[2] = {group_of(0, 200, 1, 8, 4),
                                   group_of(200, 400, 1, 8, 4)};
    aq_time_group g[16];
    aq_transition moves[1];
    aq_smoothness smooth;
    double mse;
    for (size_t i = 0; i < COUNT_OF(options); i++) {
        ASSERT_STATUS(aq_time_groups_make(c, t, &options[i].o, g, &err), AQ_E_ARG);
        EXPECT_MESSAGE("options", options[i].message);
        cr_expect_str_eq(err.name, "w");
    }
    ASSERT_STATUS(aq_time_groups_make(NULL, t, NULL, g, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_time_groups_make(c, NULL, NULL, g, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_time_groups_make(c, t, NULL, NULL, &err), AQ_E_ARG);
    ASSERT_MESSAGE("groups", "missing");
    for (int i = 0; i < 7; i++) {
        static const char *const messages[] = {"time group 1 does not follow",
                                               "time group 0 does not follow",
                                               "whole zero point",
                                               "outside all groups",
                                               "outside all groups",
                                               "tensor or groups missing",
                                               "tensor or groups missing"};
        memcpy(g, good, sizeof good);
        if (i == 0) g[1].start = 201;
        if (i == 1) g[0].end = 0;
        if (i == 2) g[1].params.zero_point = 0.5f;
        if (i == 3) g[0].start = 1;
        if (i == 4) g[1].end = 300;
        ASSERT_STATUS(
            aq_time_groups_error(i == 5 ? NULL : t, g, i == 6 ? 0 : 2, NULL, &mse, &err),
            AQ_E_ARG);
        EXPECT_MESSAGE("groups", messages[i]);
        ASSERT_STATUS(
            aq_time_groups_optimize(i == 5 ? NULL : t, g, i == 6 ? 0 : 2, NULL, &err),
            AQ_E_ARG);
    }
    ASSERT_STATUS(aq_time_groups_error(t, NULL, 2, NULL, NULL, &err), AQ_E_ARG);
    for (int i = 0; i < 4; i++) {
        memcpy(g, good, sizeof good);
        if (i == 0) g[1].params.scale = 0;
        if (i == 1) g[1].params.scale = INFINITY;
        if (i == 2) g[1].params.zero_point = NAN;
        ASSERT_STATUS(aq_time_groups_check(i == 3 ? NULL : g, 2, 0, moves, &smooth, &err),
                      AQ_E_ARG);
    }
    ASSERT_STATUS(aq_time_groups_check(good, 2, -1, moves, &smooth, &err), AQ_E_ARG);
    ASSERT_MESSAGE("threshold", "a threshold below 0");
    for (int i = 0; i < 4; i++) {
        aq_smooth_options o = {.window = 1};
        if (i == 0) o.window = 21;
        if (i == 1) o.max_rise = NAN;
        if (i == 2) o.interpolation = (aq_interpolation)3;
        if (i == 3) o.interpolation = (aq_interpolation)-1;
        memcpy(g, good, sizeof good);
        ASSERT_STATUS(aq_time_groups_smooth(t, g, 2, &o, NULL, &err), AQ_E_ARG);
        ASSERT_MESSAGE("smooth", "a window of over 20 groups");
        cr_assert(memcmp(g, good, sizeof good) == 0);
    }
    ASSERT_OK(aq_time_groups_smooth(t, g, 2, NULL, NULL, &err));
    ASSERT_OK(aq_time_groups_optimize(t, g, 2, NULL, &err));
    aq_calibration_close(c);
}

/* ---- spatial ---- */

Test(diffusion, equalization_scales) {
    const float w[5] = {4, 1, 0, 9, 2}, x[5] = {1, 4, 3, 0, 2};
    aq_spatial_options o = {.equalize = true};
    float s[5];
    ASSERT_OK(aq_spatial_scales(w, x, 5, &o, s, &err));
    cr_assert_eq(s[0], 2);
    cr_assert_eq(s[1], 0.5f);
    cr_assert_eq(s[2], 1); /* no weights   */
    cr_assert_eq(s[3], 1); /* never active */
    cr_assert_eq(s[4], 1);
    o.equalize = false; /* alpha 0: identity */
    ASSERT_OK(aq_spatial_scales(w, x, 5, &o, s, &err));
    for (int i = 0; i < 5; i++)
        cr_assert_eq(s[i], 1);
    o.alpha = 1; /* all live inputs as large as their geometric mean, 2 */
    ASSERT_OK(aq_spatial_scales(w, x, 5, &o, s, &err));
    cr_assert_float_eq(s[0], 2, 1e-6);
    cr_assert_float_eq(s[1], 0.5f, 1e-6);
    cr_assert(s[2] == 1 && s[3] == 1);
    cr_assert_float_eq(s[4], 1, 1e-6);
    o.alpha = 0.5f;
    ASSERT_OK(aq_spatial_scales(w, x, 5, &o, s, &err));
    cr_assert_float_eq(s[0], sqrtf(2), 1e-6);
    const float far[2] = {FLT_MAX, FLT_MIN}, away[2] = {FLT_MIN, FLT_MAX};
    o = (aq_spatial_options){.equalize = true, .alpha = 0.3f};
    ASSERT_OK(aq_spatial_scales(far, away, 2, &o, s, &err));
    cr_assert(s[0] <= 1048576 && s[1] >= 1.0f / 1048576 && isfinite(s[0]) && s[1] > 0);
    o.alpha = 1.5f;
    ASSERT_STATUS(aq_spatial_scales(w, x, 5, &o, s, &err), AQ_E_ARG);
    o.alpha = 0;
    const float nan[1] = {NAN}, below[2] = {1, -1};
    ASSERT_STATUS(aq_spatial_scales(nan, x, 1, &o, s, &err), AQ_E_NONFINITE);
    ASSERT_STATUS(aq_spatial_scales(x, nan, 1, &o, s, &err), AQ_E_NONFINITE);
    ASSERT_STATUS(aq_spatial_scales(below, x, 2, &o, s, &err), AQ_E_NONFINITE);
    ASSERT_MESSAGE("below", "the magnitude of column 1 is below 0");
    ASSERT_STATUS(aq_spatial_scales(x, below, 2, &o, s, &err), AQ_E_NONFINITE);
    ASSERT_STATUS(aq_spatial_scales(NULL, x, 5, &o, s, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_spatial_scales(w, NULL, 5, &o, s, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_spatial_scales(w, x, 5, &o, NULL, &err), AQ_E_ARG);
    ASSERT_MESSAGE("missing", "magnitudes or scales missing");
    o.alpha = NAN;
    ASSERT_STATUS(aq_spatial_scales(w, x, 5, &o, s, &err), AQ_E_ARG);
    ASSERT_OK(aq_spatial_scales(NULL, NULL, 0, NULL, NULL, &err));
    ASSERT_OK(aq_spatial_scales(w, x, 5, NULL, s, &err)); /* identity */
    for (int i = 0; i < 5; i++)
        cr_assert_eq(s[i], 1);
    o.alpha = 1; /* not a column is live */
    ASSERT_OK(aq_spatial_scales(w + 2, x + 2, 2, &o, s, &err));
    cr_assert(s[0] == 1 && s[1] == 1);
}

/* Inputs of a tensor without scales are copied; what has no columns needs no memory. */
Test(diffusion, inputs_without_scales) {
    static const float w[6] = {1, -2, 3, 4, 5, -6};
    const float x[6] = {1, 2, 3, 4, 5, 6};
    aq_tensor t = matrix_of("w", 2, 3, w), none = matrix_of("e", 2, 0, NULL),
              no_rows = matrix_of("r", 0, 3, NULL), codes = t, whole;
    static const int32_t numbers[6] = {0};
    float y[6] = {0}, sums[2], most[3];
    aq_quant_options q8 = {.bits = 8};
    whole = tensor_of("i", AQ_I32, (const uint64_t[]){2, 3}, 2, numbers);
    ASSERT_OK(aq_tensor_scale_input(&t, x, 2, y, &err));
    cr_assert_arr_eq(y, x, sizeof x);
    ASSERT_STATUS(aq_tensor_scale_input(&t, NULL, 2, y, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_tensor_scale_input(&t, x, 2, NULL, &err), AQ_E_ARG);
    ASSERT_MESSAGE("vector", "vector missing");
    ASSERT_OK(aq_tensor_scale_input(&t, NULL, 0, NULL, &err));
    ASSERT_OK(aq_tensor_scale_input(&none, NULL, 2, NULL, &err));
    ASSERT_OK(aq_tensor_row_sums(&t, sums, NULL, &err));
    cr_assert(sums[0] == 2 && sums[1] == 3);
    ASSERT_STATUS(aq_tensor_row_sums(&t, NULL, NULL, &err), AQ_E_ARG);
    ASSERT_MESSAGE("sums", "sums missing");
    ASSERT_OK(aq_tensor_row_sums(&no_rows, NULL, NULL, &err));
    ASSERT_STATUS(aq_tensor_row_sums(&whole, sums, NULL, &err), AQ_E_TYPE);
    ASSERT_STATUS(aq_tensor_column_absmax(&whole, most, &err), AQ_E_TYPE);
    ASSERT_STATUS(aq_tensor_column_absmax(&t, NULL, &err), AQ_E_ARG);
    ASSERT_MESSAGE("magnitudes", "magnitudes missing");
    ASSERT_OK(aq_tensor_column_absmax(&none, NULL, &err));
    ASSERT_OK(aq_layout_init(2, 3, &q8, &codes.layout, &err));
    codes.scales = NULL;
    ASSERT_STATUS(aq_tensor_column_absmax(&codes, most, &err), AQ_E_ARG);
    ASSERT_STATUS(aq_tensor_row_sums(&codes, sums, NULL, &err), AQ_E_ARG);
}

/* Magnitudes of codes are those of their values. */
Test(diffusion, column_magnitudes_of_codes) {
    enum { Q_ROWS = 6, Q_COLS = 300 };
    static float w[Q_ROWS * Q_COLS];
    float most[Q_COLS];
    const aq_quant_options o = {.bits = 3, .group_size = 70};
    quantized q = quantized_make(Q_ROWS, Q_COLS, &o);
    aq_tensor t;
    rng r = {8};
    rng_floats(&r, w, Q_ROWS * Q_COLS, 3);
    ASSERT_OK(aq_quantize_into(&q.layout, w, AQ_F32, &q.dst, NULL, NULL, &err));
    t = matrix_of("w", Q_ROWS, Q_COLS, w);
    t.layout = q.layout;
    t.data = q.dst.codes;
    t.data_bytes = q.layout.code_bytes;
    t.scales = q.dst.scales;
    t.zero_points = q.dst.zero_points;
    ASSERT_OK(aq_tensor_column_absmax(&t, most, &err));
    for (size_t c = 0; c < Q_COLS; c++) {
        float want = 0;
        for (size_t row = 0; row < Q_ROWS; row++)
            want = fmaxf(want, fabsf((float)quantized_value(&q, row, c)));
        cr_assert_eq(most[c], want, "%zu", c);
    }
    /* Scales of other columns than these are no reason to leave the values as they are. */
    static float scales[3] = {1, 2, 3}, back[Q_ROWS * Q_COLS];
    aq_spatial spatial = {.enabled = true, .scales = scales, .num_scales = 3};
    aq_diffusion d = {.spatial = &spatial};
    const aq_batch_options first = {.fail_fast = true};
    aq_batch b;
    t.diffusion = &d;
    ASSERT_STATUS(aq_tensor_rows_f32(&t, 0, Q_ROWS, back, NULL, &err), AQ_E_ARG);
    ASSERT_MESSAGE("rows", "3 equalization scales for 300 columns");
    ASSERT_STATUS(aq_dequantize_batch(&t, 1, &first, &b, &err), AQ_E_ARG);
    ASSERT_MESSAGE("batch", "3 equalization scales for 300 columns");
    quantized_free(&q);
}

Test(diffusion, column_magnitudes) {
    enum { C_ROWS = 7, C_COLS = 2100 };
    float *w = malloc(C_ROWS * C_COLS * sizeof *w), *most = malloc(C_COLS * sizeof *most);
    rng r = {3};
    rng_floats(&r, w, C_ROWS * C_COLS, 5);
    aq_tensor t = matrix_of("w", C_ROWS, C_COLS, w);
    ASSERT_OK(aq_tensor_column_absmax(&t, most, &err));
    for (size_t c = 0; c < C_COLS; c++) {
        float want = 0;
        for (size_t row = 0; row < C_ROWS; row++)
            want = fmaxf(want, fabsf(w[row * C_COLS + c]));
        cr_assert_eq(most[c], want);
    }
    w[3 * C_COLS + 5] = NAN;
    t = matrix_of("w", C_ROWS, C_COLS, w);
    ASSERT_STATUS(aq_tensor_column_absmax(&t, most, &err), AQ_E_NONFINITE);
    free(w), free(most);
}

/* ---- in the model file ---- */

static const aq_model_writer_options fast = {.no_sync = true};

typedef struct described {
    aq_time_group groups[3];
    aq_time_aware time;
    float scales[300];
    aq_spatial spatial;
    int64_t timesteps[2];
    float mean[2], std[2], min[2], max[2];
    aq_activation_stats stats;
    aq_diffusion all;
} described;

/* Floats that 9 digits are needed for. */
static void described_make(described *d, size_t cols) {
    rng r = {cols};
    memset(d, 0, sizeof *d);
    for (int i = 0; i < 3; i++) {
        d->groups[i] = group_of(i * 100, i * 100 + 100, 0.1f / (float)(i + 3),
                                (float)(7 * i), (uint32_t)(4 + 2 * i));
        d->groups[i].group_size = 64;
    }
    d->groups[1].params.scale = FLT_MIN;
    d->groups[2].params.scale = 3.4e37f;
    d->time = (aq_time_aware){true, d->groups, 3};
    for (size_t i = 0; i < cols; i++)
        d->scales[i] = 0.5f + fabsf(rng_float(&r)) * 1.7f;
    d->spatial = (aq_spatial){true, true, false, d->scales, cols};
    d->timesteps[0] = 40;
    d->timesteps[1] = 999;
    rng_floats(&r, d->mean, 2, 1e-20f);
    rng_floats(&r, d->min, 2, 1e30f);
    rng_floats(&r, d->max, 2, 5);
    d->min[1] = 1e-44f;
    d->std[0] = FLT_MAX;
    d->stats = (aq_activation_stats){d->timesteps, d->mean, d->std, d->min, d->max, 2};
    d->all = (aq_diffusion){"image", &d->time, &d->spatial, &d->stats};
}

static void expect_described(const aq_diffusion *got, const aq_diffusion *want) {
    cr_assert_not_null(got);
    cr_assert_eq(got->modality == NULL, want->modality == NULL);
    if (want->modality != NULL) cr_assert_str_eq(got->modality, want->modality);
    cr_assert_eq(got->time_aware == NULL, want->time_aware == NULL);
    if (want->time_aware != NULL) {
        cr_assert_eq(got->time_aware->enabled, want->time_aware->enabled);
        cr_assert_eq(got->time_aware->num_groups, want->time_aware->num_groups);
        for (size_t i = 0; i < want->time_aware->num_groups; i++) {
            const aq_time_group *a = &got->time_aware->groups[i],
                                *b = &want->time_aware->groups[i];
            cr_assert(a->start == b->start && a->end == b->end &&
                      a->group_size == b->group_size && a->params.bits == b->params.bits);
            cr_assert_eq(a->params.scale, b->params.scale);
            cr_assert_eq(a->params.zero_point, b->params.zero_point);
        }
    }
    cr_assert_eq(got->spatial == NULL, want->spatial == NULL);
    if (want->spatial != NULL) {
        const aq_spatial *a = got->spatial, *b = want->spatial;
        cr_assert(a->enabled == b->enabled &&
                  a->channel_equalization == b->channel_equalization &&
                  a->activation_smoothing == b->activation_smoothing);
        cr_assert_eq(a->num_scales, b->num_scales);
        cr_assert_arr_eq(a->scales, b->scales, b->num_scales * sizeof(float));
    }
    cr_assert_eq(got->stats == NULL, want->stats == NULL);
    if (want->stats != NULL) {
        const aq_activation_stats *a = got->stats, *b = want->stats;
        cr_assert_eq(a->count, b->count);
        cr_assert_arr_eq(a->timesteps, b->timesteps, b->count * sizeof(int64_t));
        cr_assert_arr_eq(a->mean, b->mean, b->count * sizeof(float));
        cr_assert_arr_eq(a->std, b->std, b->count * sizeof(float));
        cr_assert_arr_eq(a->min, b->min, b->count * sizeof(float));
        cr_assert_arr_eq(a->max, b->max, b->count * sizeof(float));
    }
}

/* A quantized matrix "w" whose columns were divided by d's scales, at `path`; its values
 * to w. Beside it a plain matrix "v". */
static void save_described(const char *path, const described *d, size_t rows, size_t cols,
                           float *w, size_t chunk_bytes) {
    aq_model_writer_options o = {.no_sync = true, .chunk_bytes = chunk_bytes};
    const aq_quant_options q8 = {.bits = 8};
    float *folded = malloc(rows * cols * sizeof *folded);
    quantized q = quantized_make(rows, cols, &q8);
    aq_tensor t[2];
    rng r = {rows};
    rng_floats(&r, w, rows * cols, 2);
    memcpy(folded, w, rows * cols * sizeof *folded);
    aq_spatial_fold(folded, rows, cols, d->scales);
    ASSERT_OK(aq_quantize_into(&q.layout, folded, AQ_F32, &q.dst, NULL, NULL, &err));
    t[0] = matrix_of("v", rows, cols, w);
    t[1] = matrix_of("w", rows, cols, folded);
    t[1].layout = q.layout;
    t[1].data = q.dst.codes;
    t[1].data_bytes = q.layout.code_bytes;
    t[1].scales = q.dst.scales;
    t[1].zero_points = q.dst.zero_points;
    t[1].diffusion = &d->all;
    ASSERT_OK(aq_model_save(path, t, 2, &o, &err));
    quantized_free(&q);
    free(folded);
}

Test(diffusion, descriptions_come_back) {
    enum { D_ROWS = 9, D_COLS = 300 };
    static described d;
    static float w[D_ROWS * D_COLS];
    const char *names[] = {"one.parquet", "chunks.parquet", "directory/"};
    const char *path;
    described_make(&d, D_COLS);
    for (int i = 0; i < 3; i++) {
        aq_model *m;
        aq_tensor t;
        size_t group;
        aq_affine p;
        path = in_dir(names[i]);
        save_described(path, &d, D_ROWS, D_COLS, w, i == 1 ? 700 : 0);
        ASSERT_OK(aq_model_open(path, NULL, &m, &err));
        ASSERT_OK(aq_model_find(m, "v", &t, &err));
        cr_assert_null(t.diffusion);
        ASSERT_STATUS(aq_tensor_time_group(&t, 0, &group, &p, &err), AQ_E_NOT_FOUND);
        aq_tensor_release(&t);
        ASSERT_OK(aq_model_find(m, "w", &t, &err));
        expect_described(t.diffusion, &d.all);
        for (int64_t at = 0; at < 300; at++) {
            ASSERT_OK(aq_tensor_time_group(&t, at, &group, &p, &err));
            cr_assert_eq(group, (size_t)(at / 100));
            cr_assert_eq(p.scale, d.groups[group].params.scale);
        }
        ASSERT_STATUS(aq_tensor_time_group(&t, 300, &group, &p, &err), AQ_E_ARG);
        ASSERT_MESSAGE("timestep", "tensor \"w\"");
        ASSERT_STATUS(aq_tensor_time_group(&t, -1, NULL, NULL, &err), AQ_E_ARG);
        aq_tensor_release(&t);
        aq_model_close(m);
    }
}

/* The dequantizer, the products and the jobs give what approximates the weights. */
Test(diffusion, equalized_columns_are_undone) {
    enum { D_ROWS = 9, D_COLS = 300 };
    static described d;
    static float w[D_ROWS * D_COLS], back[D_ROWS * D_COLS], x[2 * D_COLS], sx[2 * D_COLS];
    const char *path = in_dir("m.parquet");
    float y[2 * D_ROWS], want[2 * D_ROWS], dot;
    aq_model *m;
    aq_tensor t, codes;
    aq_metrics metrics;
    aq_batch batch;
    rng r = {12};
    described_make(&d, D_COLS);
    save_described(path, &d, D_ROWS, D_COLS, w, 700);
    ASSERT_OK(aq_model_open(path, NULL, &m, &err));
    ASSERT_OK(aq_model_find(m, "w", &t, &err));
    ASSERT_OK(aq_tensor_rows_f32(&t, 0, D_ROWS, back, NULL, &err));
    ASSERT_OK(aq_metrics_of(w, back, D_ROWS * D_COLS, NULL, &metrics, &err));
    cr_assert_gt(metrics.sqnr_db, 30, "%g", metrics.sqnr_db);
    ASSERT_OK(aq_dequantize_batch(&t, 1, NULL, &batch, &err));
    cr_assert_arr_eq(batch.items[0].tensor.data, le_floats(back, D_ROWS * D_COLS),
                     sizeof back);
    aq_batch_deinit(&batch);
    /* Products: those of the codes with x * s, to the bit. */
    rng_floats(&r, x, 2 * D_COLS, 1);
    ASSERT_OK(aq_tensor_scale_input(&t, x, 2, sx, &err));
    for (int i = 0; i < 2 * D_COLS; i++)
        cr_assert_eq(sx[i], x[i] * d.scales[i % D_COLS]);
    codes = t;
    codes.diffusion = NULL;
    ASSERT_OK(aq_tensor_matmul(&t, x, 2, y, NULL, &err));
    ASSERT_OK(aq_tensor_matmul(&codes, sx, 2, want, NULL, &err));
    cr_assert_arr_eq(y, want, sizeof y);
    for (size_t row = 0; row < D_ROWS; row++) {
        double plain = 0;
        ASSERT_OK(aq_tensor_dot(&t, row, x, &dot, &err));
        cr_assert_eq(dot, y[row]);
        for (size_t c = 0; c < D_COLS; c++)
            plain += (double)back[row * D_COLS + c] * (double)x[c];
        cr_assert_float_eq(dot, plain, 1e-3);
    }
    ASSERT_STATUS(aq_tensor_dot(&t, D_ROWS, x, &dot, &err), AQ_E_ARG);
    aq_tensor_release(&t);
    aq_model_close(m);
    /* A table of codes could not say it. */
    struct ArrowArrayStream stream;
    struct ArrowArray array;
    ASSERT_OK(aq_model_open(path, NULL, &m, &err));
    ASSERT_OK(aq_model_export_arrow_stream(m, &stream, &err));
    aq_model_close(m);
    cr_assert_eq(stream.get_next(&stream, &array), 0); /* "v" */
    array.release(&array);
    cr_assert_neq(stream.get_next(&stream, &array), 0);
    cr_assert_not_null(strstr(stream.get_last_error(&stream), "equalized"));
    cr_assert_not_null(strstr(stream.get_last_error(&stream), "\"w\""));
    stream.release(&stream);
    for (int op = 0; op < 2; op++) { /* dequantize, convert */
        aq_job_options o = {.operation = op == 0 ? AQ_DEQUANTIZE : AQ_CONVERT,
                            .no_sync = true,
                            .threads = 1};
        aq_job_report report;
        ASSERT_OK(aq_job_run(path, in_dir("out.parquet"), &o, &report, &err));
        ASSERT_OK(aq_model_open(in_dir("out.parquet"), NULL, &m, &err));
        ASSERT_OK(aq_model_find(m, "w", &t, &err));
        static float again[D_ROWS * D_COLS];
        ASSERT_OK(aq_tensor_rows_f32(&t, 0, D_ROWS, again, NULL, &err));
        cr_assert_arr_eq(again, back, sizeof back);
        aq_diffusion left = d.all;
        if (op == 0) left.spatial = NULL; /* the values are plain ones */
        expect_described(t.diffusion, &left);
        expect_described(report.tensors[1].tensor.diffusion,
                         &left); /* the report's own */
        cr_assert_null(report.tensors[0].tensor.diffusion);
        aq_tensor_release(&t);
        aq_model_close(m);
        aq_job_report_deinit(&report);
    }
}

/* Files without such tensors are what they were. */
Test(diffusion, plain_models_have_no_such_columns) {
    static const float w[64];
    const aq_tensor t = matrix_of("w", 8, 8, w);
    const aq_diffusion nothing = {0};
    aq_tensor n = t;
    aq_parquet *f;
    ASSERT_OK(aq_model_save(in_dir("m.parquet"), &t, 1, &fast, &err));
    ASSERT_OK(aq_parquet_open(in_dir("m.parquet"), NULL, &f, &err));
    cr_assert_eq(aq_parquet_find_column(f, "is_diffusion_model"), -1);
    aq_parquet_close(f);
    n.diffusion = &nothing;
    ASSERT_OK(aq_model_save(in_dir("n.parquet"), &n, 1, &fast, &err));
    ASSERT_OK(aq_parquet_open(in_dir("n.parquet"), NULL, &f, &err));
    cr_assert_geq(aq_parquet_find_column(f, "is_diffusion_model"), 0);
    cr_assert_eq(aq_parquet_find_column(f, "group_params"), -1);
    aq_parquet_close(f);
    aq_model *m;
    ASSERT_OK(aq_model_open(in_dir("n.parquet"), NULL, &m, &err));
    aq_tensor got;
    ASSERT_OK(aq_model_describe(m, 0, &got, &err));
    expect_described(got.diffusion, &nothing);
    aq_model_close(m);
}

static const char *text_of_modality = "image";

/* A model with the five columns as texts, by the Parquet writer: files of others. */
static aq_status open_texts(const char *time, const char *spatial, const char *stats,
                            aq_model **out) {
    const char *path = in_dir("texts.parquet");
    static const float w[6] = {1, 2, 3, 4, 5, 6};
    const uint64_t shape[2] = {2, 3};
    const char *texts[] = {"w", NULL, NULL, text_of_modality, time, spatial, stats};
    const aq_field_spec fields[] = {
        {.name = "layer_name", .type = AQ_BYTE_ARRAY, .logical = AQ_LOGICAL_STRING},
        {.name = "shape",
         .type = AQ_GROUP,
         .num_children = 1,
         .logical = AQ_LOGICAL_LIST},
        {.name = "list", .repetition = AQ_REPEATED, .type = AQ_GROUP, .num_children = 1},
        {.name = "item", .type = AQ_INT64},
        {.name = "data", .type = AQ_BYTE_ARRAY},
        {.name = "is_diffusion_model", .type = AQ_BOOLEAN},
        {.name = "modality", .repetition = AQ_OPTIONAL, .type = AQ_BYTE_ARRAY},
        {.name = "time_aware_quant_json",
         .repetition = AQ_OPTIONAL,
         .type = AQ_BYTE_ARRAY,
         .encoding = AQ_RLE_DICTIONARY},
        {.name = "spatial_quant_json", .repetition = AQ_OPTIONAL, .type = AQ_BYTE_ARRAY},
        {.name = "activation_stats_json",
         .repetition = AQ_OPTIONAL,
         .type = AQ_BYTE_ARRAY},
    };
    const aq_writer_options o = {.no_sync = true};
    const int64_t offsets[2] = {0, 2};
    const uint8_t yes = 1;
    aq_writer *f;
    ASSERT_OK(aq_writer_open(path, fields, COUNT_OF(fields), &o, &f, &err));
    for (int i = 0; i < 7; i++) {
        const uint8_t def = texts[i] != NULL;
        aq_bytes b = {(const uint8_t *)w, sizeof w};
        aq_column_values v = {.values = &b, .num_values = 1};
        if (texts[i] != NULL) {
            b.data = (const uint8_t *)texts[i];
            b.size = strlen(texts[i]);
        }
        if (i == 1) {
            aq_column_values s = {.values = shape,
                                  .num_values = 2,
                                  .large_list_offsets = offsets,
                                  .num_lists = 1};
            ASSERT_OK(aq_writer_put_column(f, &s, &err));
        }
        if (i == 2) {
            ASSERT_OK(aq_writer_put_column(f, &v, &err));
            v.values = &yes;
        }
        if (i == 1) continue;
        if (i > 2) {
            v.num_values = def;
            v.def_levels = &def;
            v.num_levels = 1;
        }
        ASSERT_OK(aq_writer_put_column(f, &v, &err));
    }
    ASSERT_OK(aq_writer_end_row_group(f, 1, &err));
    ASSERT_OK(aq_writer_finish(f, &err));
    return aq_model_open(path, NULL, out, &err);
}

#define TIME_GROUP(range, more)                                                          \
    "{\"time_range\":" range                                                             \
    ",\"scale\":0.05,\"zero_point\":127.5,\"group_size\":256" more "}"
#define TIME_AWARE(n, groups)                                                            \
    "{\"enabled\":true,\"num_time_groups\":" n ",\"time_group_params\":[" groups "]}"
#define SPATIAL(scales)                                                                  \
    "{\"enabled\":true,\"channel_equalization\":false,\"activation_smoothing\":false,"   \
    "\"equalization_scales\":" scales "}"

/* As the reference system writes them: no bits, zero points that are not whole. */
Test(diffusion, columns_of_the_reference_system_are_read) {
    aq_model *m;
    aq_tensor t;
    aq_affine p;
    ASSERT_OK(
        open_texts(TIME_AWARE("2", TIME_GROUP("[0,500]", "") "," TIME_GROUP(
                                       " [ 500 , 1000 ] ", ",\"more\":{\"a\":[1,null]}")),
                   SPATIAL("[]"),
                   "{\"mean\":[0.0,1e0],\"std\":[1.0,0.5E-1],\"min\":[-1.0,-2],"
                   "\"max\":[1,2]}",
                   &m));
    ASSERT_OK(aq_model_describe(m, 0, &t, &err));
    cr_assert_str_eq(t.diffusion->modality, "image");
    ASSERT_OK(aq_tensor_time_group(&t, 700, NULL, &p, &err));
    cr_assert(p.scale == 0.05f && p.zero_point == 127.5f && p.bits == 8);
    cr_assert_eq(t.diffusion->time_aware->groups[1].group_size, 256);
    cr_assert_eq(t.diffusion->spatial->num_scales, 0);
    cr_assert_eq(t.diffusion->stats->count, 2);
    cr_assert_null(t.diffusion->stats->timesteps);
    cr_assert_eq(t.diffusion->stats->std[1], 0.05f);
    aq_model_close(m);
    /* Not enabled: no group at run time. */
    ASSERT_OK(open_texts("{\"enabled\":false,\"num_time_groups\":0,"
                         "\"time_group_params\":[]}",
                         NULL, NULL, &m));
    ASSERT_OK(aq_model_describe(m, 0, &t, &err));
    ASSERT_STATUS(aq_tensor_time_group(&t, 0, NULL, NULL, &err), AQ_E_NOT_FOUND);
    aq_model_close(m);
}

/* What is no time group takes no memory of one. */
Test(diffusion, braces_are_no_time_groups) {
    enum { BRACES = 1 << 20 };
    static const char begin[] = "{\"enabled\":true,\"num_time_groups\":0,"
                                "\"time_group_params\":[],\"more\":\"";
    char *text = malloc(sizeof begin + BRACES + 3);
    counting_allocator a;
    aq_model_options o = {.allocator = &a.hooks};
    aq_model *m;
    memcpy(text, begin, sizeof begin);
    memset(text + sizeof begin - 1, '{', BRACES);
    strcpy(text + sizeof begin - 1 + BRACES, "\"}");
    ASSERT_OK(open_texts(text, NULL, NULL, &m));
    aq_model_close(m);
    counting_init(&a);
    ASSERT_OK(aq_model_open(in_dir("texts.parquet"), &o, &m, &err));
    aq_model_close(m);
    cr_assert_lt(a.peak_bytes, 8 * BRACES, "%zu bytes", a.peak_bytes);
    free(text);
}

Test(diffusion, a_modality_that_is_no_text) {
    aq_model *m;
    text_of_modality = "im\xff";
    ASSERT_STATUS(open_texts(NULL, NULL, NULL, &m), AQ_E_FORMAT);
    ASSERT_MESSAGE("modality", "modality is no text");
    cr_assert_null(m);
    text_of_modality = "anything";
    ASSERT_OK(open_texts(NULL, NULL, NULL, &m));
    aq_model_close(m);
}

/* Floats as anyone may write them: the value of strtof. */
Test(diffusion, numbers_in_json) {
    static const char *const numbers[] = {
        "0",
        "-0.0",
        "1e22",
        "-1e-30",
        "1.5e38",
        "3.4028234663852886e38",
        "1E+2",
        "123456789012345678901234567890",
        "12345678901234567890.5e-10",
        "0e999",
        "0.00000000000000000000000000000000000000000001401298464324817",
        "1e-400",
        "16777217",
        "0.1",
        "1.17549435e-38",
        "100000000000000000000000000000000000e-35"};
    char list[800] = "[", json[4000];
    aq_model *m;
    aq_tensor t;
    for (size_t i = 0; i < COUNT_OF(numbers); i++) {
        strcat(list, i > 0 ? "," : "");
        strcat(list, numbers[i]);
    }
    strcat(list, "]");
    snprintf(json, sizeof json, "{\"mean\":%s,\"std\":%s,\"min\":%s,\"max\":%s}", list,
             list, list, list);
    ASSERT_OK(open_texts(NULL, NULL, json, &m));
    ASSERT_OK(aq_model_describe(m, 0, &t, &err));
    cr_assert_eq(t.diffusion->stats->count, COUNT_OF(numbers));
    for (size_t i = 0; i < COUNT_OF(numbers); i++)
        cr_expect_eq(t.diffusion->stats->mean[i], strtof(numbers[i], NULL), "%s: %.9g",
                     numbers[i], (double)t.diffusion->stats->mean[i]);
    aq_model_close(m);
}

Test(diffusion, damaged_json_is_an_error_that_names_the_tensor) {
    static const struct {
        const char *time, *spatial, *stats, *message;
    } bad[] = {
        {"", NULL, NULL, "no object"},
        {"[]", NULL, NULL, "no object"},
        {"{}", NULL, NULL, "no string"},
        {"{\"enabled\":true", NULL, NULL, "missing"},
        {TIME_AWARE("1", TIME_GROUP("[0,5]", "")) "x", NULL, NULL, "something after"},
        {TIME_AWARE("2", TIME_GROUP("[0,5]", "")), NULL, NULL, "num_time_groups is not"},
        {TIME_AWARE("1", TIME_GROUP("[5,5]", "")), NULL, NULL, "cannot be"},
        {TIME_AWARE("1", TIME_GROUP("[0,5]", ",\"bits\":9")), NULL, NULL, "cannot be"},
        {TIME_AWARE("1", TIME_GROUP("[0,5]", ",\"scale\":1")), NULL, NULL, "twice"},
        {TIME_AWARE("1", TIME_GROUP("[-1,5]", "")), NULL, NULL, "no whole number"},
        {TIME_AWARE(
             "2", TIME_GROUP("[0,4]", "") "," TIME_GROUP("[5,9223372036854775807]", "")),
         NULL, NULL, "cannot be"},
        {TIME_AWARE(
             "2", TIME_GROUP("[0,9223372036854775807]", "") "," TIME_GROUP("[5,6]", "")),
         NULL, NULL, "cannot be"},
        {TIME_AWARE("2", TIME_GROUP("[0,5]", "") "," TIME_GROUP("[7,8]", "")), NULL, NULL,
         "does not begin where"},
        {TIME_AWARE("2", TIME_GROUP("[0,5]", "") "," TIME_GROUP("[4,8]", "")), NULL, NULL,
         "does not begin where"},
        {TIME_AWARE("1", "{\"time_range\":[0,5],\"scale\":null,\"zero_point\":0,"
                         "\"group_size\":1}"),
         NULL, NULL, "no number"},
        {TIME_AWARE("1", "{\"time_range\":[0,5],\"scale\":1e39,\"zero_point\":0,"
                         "\"group_size\":1}"),
         NULL, NULL, "beyond float32"},
        {TIME_AWARE("1", "{\"time_range\":[0,5],\"scale\":1e999999999999,"
                         "\"zero_point\":0,\"group_size\":1}"),
         NULL, NULL, "too large"},
        {TIME_AWARE("1", "{\"time_range\":[0,5],\"scale\":-1,\"zero_point\":0,"
                         "\"group_size\":1}"),
         NULL, NULL, "cannot be"},
        {TIME_AWARE("1", "{\"time_range\":[0,5],\"scale\":1}"), NULL, NULL, "lacks"},
        {"{\"enabled\":1,\"num_time_groups\":0,\"time_group_params\":[]}", NULL, NULL,
         "neither true nor false"},
        {NULL, SPATIAL("[1,2]"), NULL, "one for each column"},
        {NULL, SPATIAL("[1,2,0]"), NULL, "not above 0"},
        {NULL, SPATIAL("[1,2,3"), NULL, "list without an end"},
        {NULL, "{\"enabled\":true}", NULL, "missing"},
        {NULL, NULL, "{\"mean\":[1],\"std\":[1],\"min\":[1],\"max\":[]}", "lengths"},
        {NULL, NULL, "{\"mean\":[1],\"std\":[1],\"min\":[1]}", "missing"},
        {NULL, NULL, "{\"mean\":[NaN],\"std\":[1],\"min\":[1],\"max\":[1]}", "no number"},
        {NULL, NULL,
         "{\"mean\":[1,2],\"std\":[1,2],\"min\":[1,2],\"max\":[1,2],\"timesteps\":[3,3]}",
         "do not rise"},
        {TIME_AWARE("1", "5"), NULL, NULL, "no time group"},
        {TIME_AWARE("1", TIME_GROUP("[0,5]", "") ","), NULL, NULL, "no time group"},
        {TIME_AWARE("1", TIME_GROUP("5", "")), NULL, NULL, "no time_range"},
        {TIME_AWARE("1", TIME_GROUP("[0 5]", "")), NULL, NULL, "no comma"},
        {TIME_AWARE("1", TIME_GROUP("[0,5", "")), NULL, NULL,
         "time_range without an end"},
        {TIME_AWARE("1", TIME_GROUP("[0,5]", "") "{"), NULL, NULL,
         "time groups without an end"},
        {TIME_AWARE("1", TIME_GROUP("[0,5]", ":")), NULL, NULL,
         "time group without an end"},
        {TIME_AWARE("1", TIME_GROUP("[0,5]", ",\"bits\":0")), NULL, NULL, "cannot be"},
        {TIME_AWARE("1", TIME_GROUP("[0,9223372036854775808]", "")), NULL, NULL,
         "over 63 bits"},
        {"{\"enabled\":true,\"num_time_groups\":1,\"time_group_params\":1}", NULL, NULL,
         "no list of time groups"},
        {TIME_AWARE("0", "") "}", NULL, NULL, "something after"},
        {"{\"enabled\":true,\"num_time_groups\":0,\"time_group_params\":[]]", NULL, NULL,
         "no end"},
        {NULL, SPATIAL("1"), NULL, "no list"},
        {NULL, SPATIAL("[1,2,-3]"), NULL, "not above 0"},
        {NULL, "{\"enabled\":true,\"x\":[1,{\"y\":[", NULL, "no value"},
        {NULL, NULL, "{\"mean\":[1],\"std\":[],\"min\":[1],\"max\":[1]}", "lengths"},
        {NULL, NULL, "{\"mean\":[1],\"std\":[1],\"min\":[],\"max\":[1]}", "lengths"},
        {NULL, NULL, "{\"mean\":[1],\"mean\":[1]}", "twice"},
        {NULL, NULL,
         "{\"mean\":[1],\"std\":[1],\"min\":[1],\"max\":[1],\"timesteps\":[]}",
         "lengths"},
        {NULL, NULL, "{\"timesteps\":7}", "no list"},
        {NULL, NULL, "{\"timesteps\":[7,8", "list without an end"},
        {NULL, NULL, "{\"timesteps\":[7 8]}", "list without an end"},
        {NULL, NULL, "{\"timesteps\":[7,x]}", "no whole number"},
        {NULL, NULL, "{\"other\":[7,{\"x\":nul}]}", "no value"},
    };
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        char what[32];
        aq_model *m;
        snprintf(what, sizeof what, "case %zu", i);
        cr_expect_eq(open_texts(bad[i].time, bad[i].spatial, bad[i].stats, &m),
                     AQ_E_FORMAT, "%s: %s", what, err.message);
        cr_expect_null(m);
        EXPECT_MESSAGE(what, bad[i].message);
        EXPECT_MESSAGE(what, "tensor \"w\"");
        EXPECT_MESSAGE(what, bad[i].time != NULL      ? "column time_aware_quant_json"
                             : bad[i].spatial != NULL ? "column spatial_quant_json"
                                                      : "column activation_stats_json");
        cr_expect_str_eq(err.name, "w");
    }
}

/* What could not be read back is not written. */
Test(diffusion, bad_descriptions_are_not_written) {
    static described d;
    static const float w[6];
    aq_tensor t = matrix_of("w", 2, 3, w);
    for (int i = 0; i < 19; i++) {
        described_make(&d, 3);
        t.diffusion = &d.all;
        if (i == 0) d.groups[0].params.scale = 0;
        if (i == 1) d.groups[1].params.zero_point = NAN;
        if (i == 2) d.groups[1].start = 101;
        if (i == 3) d.groups[0].start = -1;
        if (i == 4) d.spatial.num_scales = 2;
        if (i == 5) d.scales[1] = INFINITY;
        if (i == 6) d.mean[0] = INFINITY;
        if (i == 7) d.timesteps[1] = 40;
        if (i == 8) d.all.modality = "\xff";
        if (i == 9) d.groups[2].end = d.groups[2].start;
        if (i == 10) d.groups[0].params.scale = INFINITY;
        if (i == 11) d.groups[0].params.bits = 0;
        if (i == 12) d.groups[0].params.bits = 9;
        if (i == 13) d.scales[0] = 0;
        if (i == 14) d.std[1] = NAN;
        if (i == 15) d.min[1] = -INFINITY;
        if (i == 16) d.max[0] = NAN;
        if (i == 17) d.timesteps[0] = -1;
        if (i == 18) d.groups[2].params.zero_point = -INFINITY;
        cr_assert_neq(aq_model_save(in_dir("x.parquet"), &t, 1, &fast, &err), AQ_OK, "%d",
                      i);
        cr_assert_str_eq(err.name, "w");
    }
    described_make(&d, 3);
    ASSERT_OK(aq_model_save(in_dir("x.parquet"), &t, 1, &fast, &err));
}

/* ---- jobs ---- */

enum { J_ROWS = 24, J_COLS = 96, J_STEPS = 12 };

/* "a.weight" and "b.weight" with a calibration in which few columns matter much, and
 * "c.weight" without. */
static void job_inputs(const char *model, const char *calib) {
    static float w[3][J_ROWS * J_COLS], x[2 * J_STEPS][8 * J_COLS];
    static calib_row rows[2 * J_STEPS];
    aq_tensor t[3];
    rng r = {31};
    for (int i = 0; i < 3; i++) {
        static const char *const names[] = {"a.weight", "b.weight", "c.weight"};
        rng_floats(&r, w[i], J_ROWS * J_COLS, 1);
        t[i] = matrix_of(names[i], J_ROWS, J_COLS, w[i]);
    }
    for (int i = 0; i < 2 * J_STEPS; i++) {
        for (size_t k = 0; k < 8 * J_COLS; k++)
            x[i][k] =
                rng_float(&r) * (float)(1 + i / 2) * (k % J_COLS % 16 == 0 ? 8 : 0.1f);
        rows[i] = (calib_row){t[i % 2].name, (int64_t)(J_STEPS - 1 - i / 2) * 50, x[i],
                              8 * J_COLS};
    }
    ASSERT_OK(aq_model_save(model, t, 3, &fast, &err));
    write_rows(calib, NULL, rows, 2 * J_STEPS);
}

/* Squared error of the outputs over the calibration's columns: that of the weights, where
 * each column counts by its mean square. */
static double output_error(const char *model, const char *quantized_path,
                           const char *name, const aq_calibrated *c) {
    static float a[J_ROWS * J_COLS], b[J_ROWS * J_COLS];
    double sum = 0;
    for (int i = 0; i < 2; i++) {
        aq_model *m;
        aq_tensor t;
        ASSERT_OK(aq_model_open(i == 0 ? model : quantized_path, NULL, &m, &err));
        ASSERT_OK(aq_model_find(m, name, &t, &err));
        ASSERT_OK(aq_tensor_rows_f32(&t, 0, J_ROWS, i == 0 ? a : b, NULL, &err));
        aq_tensor_release(&t);
        aq_model_close(m);
    }
    for (size_t i = 0; i < J_ROWS * J_COLS; i++)
        sum += (double)c->mean_square[i % J_COLS] * pow((double)(a[i] - b[i]), 2);
    return sum;
}

Test(diffusion, jobs_take_a_calibration) {
    char model[512], calib[512], plain[512], with[512];
    const aq_time_options time = {.groups = 4, .bits = 6, .timesteps = 1000};
    aq_job_options o = {.no_sync = true, .threads = 1, .quant = {.bits = 3}};
    aq_model *m;
    aq_calibration *c;
    aq_job_report report;
    snprintf(model, sizeof model, "%s", in_dir("model.parquet"));
    snprintf(calib, sizeof calib, "%s", in_dir("calib.parquet"));
    snprintf(plain, sizeof plain, "%s", in_dir("plain.parquet"));
    snprintf(with, sizeof with, "%s", in_dir("with.parquet"));
    job_inputs(model, calib);
    ASSERT_OK(aq_job_run(model, plain, &o, NULL, &err));
    o.calibration_path = calib;
    o.time = &time;
    o.modality = "image";
    ASSERT_OK(aq_job_run(model, with, &o, &report, &err));
    ASSERT_OK(aq_model_open(with, NULL, &m, &err));
    const aq_calibration_options co = {.model = m};
    ASSERT_OK(aq_calibration_open(calib, &co, &c, &err));
    for (size_t i = 0; i < 2; i++) {
        const aq_calibrated *t = aq_calibration_tensor(c, i);
        aq_time_group g[4];
        aq_tensor got;
        ASSERT_OK(aq_time_groups_make(c, t, &time, g, &err));
        ASSERT_OK(aq_model_describe(m, i, &got, &err));
        const aq_time_aware want = {true, g, 4};
        cr_assert_eq(got.diffusion->stats->count, J_STEPS);
        for (size_t k = 0; k < J_STEPS; k++) {
            cr_assert_eq(got.diffusion->stats->timesteps[k], t->steps[k].timestep);
            cr_assert_eq(got.diffusion->stats->min[k], t->steps[k].min);
            cr_assert_eq(got.diffusion->stats->std[k], (float)t->steps[k].std);
        }
        const aq_diffusion all = {"image", &want, NULL, got.diffusion->stats};
        expect_described(got.diffusion, &all);
        expect_described(report.tensors[i].tensor.diffusion, &all);
        /* What the layer gives is nearer to what it gave. */
        const double before = output_error(model, plain, t->name, t);
        const double after = output_error(model, with, t->name, t);
        cr_assert_lt(after, 0.9 * before, "%s: %g, before %g", t->name, after, before);
    }
    aq_tensor none;
    ASSERT_OK(aq_model_describe(m, 2, &none, &err));
    cr_assert_null(none.diffusion);
    aq_model_close(m);
    /* An open calibration gives the same file; so do all ways to run. */
    file first = file_read(with), second;
    o.calibration_path = NULL;
    o.calibration = c;
    o.mode = AQ_JOB_PARALLEL;
    o.threads = 2;
    ASSERT_OK(aq_job_run(model, with, &o, NULL, &err));
    second = file_read(with);
    cr_assert(file_equal(&first, &second));
    file_free(&second);
    o.mode = AQ_JOB_STREAMING;
    o.chunk_bytes = 400;
    ASSERT_OK(aq_job_run(model, plain, &o, NULL, &err)); /* in chunks: read back */
    ASSERT_OK(aq_model_open(plain, NULL, &m, &err));
    ASSERT_OK(aq_model_describe(m, 0, &none, &err));
    expect_described(none.diffusion, report.tensors[0].tensor.diffusion);
    aq_model_close(m);
    o.chunk_bytes = 0;
    /* Shards, merged, are the file of one run. */
    const char *shards[2] = {in_dir("shard0.parquet"), in_dir("shard1.parquet")};
    o.num_shards = 2;
    for (o.shard = 0; o.shard < 2; o.shard++)
        ASSERT_OK(aq_job_run(model, shards[o.shard], &o, NULL, &err));
    const aq_job_options merge = {.no_sync = true, .threads = 1};
    ASSERT_OK(aq_merge(shards, 2, plain, &merge, NULL, &err));
    second = file_read(plain);
    cr_assert(file_equal(&first, &second));
    file_free(&second);
    file_free(&first);
    aq_job_report_deinit(&report);
    aq_calibration_close(c);
}

Test(diffusion, jobs_refuse_what_does_not_fit) {
    char model[512], calib[512];
    aq_job_options o = {.no_sync = true, .threads = 1};
    aq_calibration *c;
    snprintf(model, sizeof model, "%s", in_dir("model.parquet"));
    snprintf(calib, sizeof calib, "%s", in_dir("calib.parquet"));
    const char *out = in_dir("out.parquet");
    job_inputs(model, calib);
    const aq_time_options many = {.groups = J_STEPS + 1};
    o.calibration_path = calib;
    o.time = &many;
    ASSERT_STATUS(aq_job_run(model, out, &o, NULL, &err), AQ_E_ARG);
    ASSERT_MESSAGE("groups", "13 time groups for 12 calibrated");
    ASSERT_MESSAGE("groups", "tensor \"a.weight\"");
    /* Where they may be fewer, each tensor has its own number. */
    const aq_time_options fewer = {.groups = J_STEPS + 1, .fewer = true};
    aq_job_report report;
    o.time = &fewer;
    ASSERT_OK(aq_job_run(model, out, &o, &report, &err));
    cr_assert_eq(report.tensors[0].time->num_groups, J_STEPS);
    aq_job_report_deinit(&report);
    cr_assert_eq(unlink(out), 0);
    /* The calibration is an input. */
    ASSERT_STATUS(aq_job_run(model, calib, &o, NULL, &err), AQ_E_ARG);
    /* What is about one waits for none. */
    o.calibration_path = NULL;
    ASSERT_STATUS(aq_job_run(model, out, &o, NULL, &err), AQ_E_ARG);
    ASSERT_MESSAGE("groups", "time groups and a modality need a calibration");
    o.time = NULL;
    o.modality = "image";
    ASSERT_STATUS(aq_job_run(model, out, &o, NULL, &err), AQ_E_ARG);
    ASSERT_MESSAGE("modality", "time groups and a modality need a calibration");
    o.modality = NULL;
    o.calibration_path = calib;
    o.operation = AQ_CONVERT;
    ASSERT_STATUS(aq_job_run(model, out, &o, NULL, &err), AQ_E_ARG);
    o.operation = AQ_QUANTIZE;
    o.calibration_path = in_dir("none");
    ASSERT_STATUS(aq_job_run(model, out, &o, NULL, &err), AQ_E_IO);
    static const float x[J_COLS] = {1};
    const calib_row other = {"other", 3, x, J_COLS}, narrow = {"a.weight", 3, x, 5};
    write_rows(calib, NULL, &other, 1);
    o.calibration_path = calib;
    ASSERT_STATUS(aq_job_run(model, out, &o, NULL, &err), AQ_E_NOT_FOUND);
    ASSERT_OK(aq_calibration_open(calib, NULL, &c, &err));
    o.calibration = c;
    ASSERT_STATUS(aq_job_run(model, out, &o, NULL, &err), AQ_E_ARG); /* both */
    o.calibration_path = NULL;
    ASSERT_STATUS(aq_job_run(model, out, &o, NULL, &err), AQ_E_NOT_FOUND);
    aq_calibration_close(c);
    write_rows(calib, NULL, &narrow, 1);
    ASSERT_OK(aq_calibration_open(calib, NULL, &c, &err));
    o.calibration = c;
    ASSERT_STATUS(aq_job_run(model, out, &o, NULL, &err), AQ_E_FORMAT);
    ASSERT_MESSAGE("columns", "5 columns, the model's tensor has 96");
    cr_assert_neq(access(out, F_OK), 0);
    aq_calibration_close(c);
    /* A single timestep is one group; inputs that are all 0 weigh nothing. */
    static const float zero[J_COLS];
    const calib_row one = {"a.weight", 3, zero, J_COLS};
    write_rows(calib, NULL, &one, 1);
    o.calibration = NULL;
    o.calibration_path = calib;
    ASSERT_OK(aq_job_run(model, out, &o, NULL, &err));
}

/* A hook's scales for the columns of "a.weight". */
static bool scale_first(void *user, const aq_tensor *tensor, aq_plan *plan) {
    if (strcmp(tensor->name, "a.weight") == 0)
        plan->quant.column_scales = (const float *)user;
    return true;
}

/* The product of the first row of a tensor with x, by integers. */
static void integer_products(const char *path, const float *x, int64_t timestep,
                             float *out) {
    aq_model *m;
    aq_tensor t;
    aq_affine p;
    aq_activations a;
    float scaled[J_COLS], sums[J_ROWS];
    ASSERT_OK(aq_model_open(path, NULL, &m, &err));
    ASSERT_OK(aq_model_find(m, "a.weight", &t, &err));
    ASSERT_OK(aq_tensor_time_group(&t, timestep, NULL, &p, &err));
    ASSERT_OK(aq_tensor_scale_input(&t, x, 1, scaled, &err));
    void *memory = malloc(aq_activations_bytes(&t.layout, 1));
    ASSERT_OK(aq_activations_init_static(&t.layout, scaled, 1, &p, memory, &a, &err));
    const aq_quantized_view view = {t.data, t.scales, t.zero_points, t.params};
    ASSERT_OK(aq_matmul_i8(&t.layout, &view, &a, out, NULL, &err));
    ASSERT_OK(aq_tensor_row_sums(&t, sums, NULL, &err));
    for (size_t i = 0; i < J_ROWS; i++)
        out[i] += aq_affine_offset(&p) * sums[i];
    free(memory);
    aq_tensor_release(&t);
    aq_model_close(m);
}

/* Scales of columns: the metrics are those of the weights that come back, the integer
 * product is the product, and nothing but the file says so. */
Test(diffusion, jobs_scale_columns) {
    char model[512], calib[512], out[512];
    const aq_spatial_options both = {.equalize = true, .alpha = 0.5f};
    const aq_time_options coarse = {.bits = 4};
    aq_job_options o = {.no_sync = true, .threads = 1, .quant = {.bits = 8}};
    aq_job_report report;
    aq_model *m, *original;
    aq_calibration *c;
    snprintf(model, sizeof model, "%s", in_dir("model.parquet"));
    snprintf(calib, sizeof calib, "%s", in_dir("calib.parquet"));
    snprintf(out, sizeof out, "%s", in_dir("scaled.parquet"));
    job_inputs(model, calib);
    o.calibration_path = calib;
    o.spatial = &both;
    o.time = &coarse;
    ASSERT_OK(aq_job_run(model, out, &o, &report, &err));
    ASSERT_OK(aq_model_open(model, NULL, &original, &err));
    ASSERT_OK(aq_model_open(out, NULL, &m, &err));
    const aq_calibration_options co = {.model = m};
    ASSERT_OK(aq_calibration_open(calib, &co, &c, &err));
    cr_assert_null(report.tensors[2].time);
    for (size_t i = 0; i < 2; i++) {
        static float a[J_ROWS * J_COLS], b[J_ROWS * J_COLS];
        float absmax[J_COLS], scales[J_COLS], y[J_ROWS];
        const aq_time_report *time = report.tensors[i].time;
        aq_metrics metrics;
        aq_tensor t, w;
        ASSERT_OK(aq_model_tensor(m, i, &t, &err));
        ASSERT_OK(aq_model_tensor(original, i, &w, &err));
        cr_assert(time->scaled, "few columns matter: scales help");
        cr_assert_eq(time->num_groups, 10);
        const aq_spatial *s = t.diffusion->spatial;
        cr_assert(s->enabled && s->channel_equalization && s->activation_smoothing);
        ASSERT_OK(aq_tensor_column_absmax(&w, absmax, &err));
        ASSERT_OK(aq_spatial_scales(absmax, aq_calibration_tensor(c, i)->absmax, J_COLS,
                                    &both, scales, &err));
        cr_assert_arr_eq(s->scales, scales, sizeof scales);
        ASSERT_OK(aq_tensor_rows_f32(&w, 0, J_ROWS, a, NULL, &err));
        ASSERT_OK(aq_tensor_rows_f32(&t, 0, J_ROWS, b, NULL, &err));
        ASSERT_OK(aq_metrics_of(a, b, J_ROWS * J_COLS, NULL, &metrics, &err));
        cr_assert_eq(metrics.max_abs_error, report.tensors[i].metrics.max_abs_error);
        cr_assert_float_eq(metrics.sqnr_db, report.tensors[i].metrics.sqnr_db, 1e-9);
        /* By hand: the noise of the weights' codes in the product. */
        double noise = 0, power = 0;
        for (size_t k = 0; k < J_ROWS * J_COLS; k++) {
            const double x = (double)aq_calibration_tensor(c, i)->mean_square[k % J_COLS];
            noise += x * pow((double)(a[k] - b[k]), 2);
            power += x * pow((double)a[k], 2);
        }
        cr_assert_float_eq(time->weights_sqnr_db, 10 * log10(power / noise), 1e-4);
        cr_assert_lt(time->output_sqnr_db, time->weights_sqnr_db);
        if (i == 0) {
            float x[J_COLS];
            double error = 0, size = 0;
            rng r = {5};
            for (size_t k = 0; k < J_COLS; k++)
                x[k] = rng_float(&r) * (k % 16 == 0 ? 8.0f : 0.1f);
            integer_products(out, x, 550, y);
            for (size_t row = 0; row < J_ROWS; row++) {
                double want = 0;
                for (size_t k = 0; k < J_COLS; k++)
                    want += (double)b[row * J_COLS + k] * (double)x[k];
                error += pow((double)y[row] - want, 2);
                size += want * want;
            }
            cr_assert_lt(error, 0.01 * size, "%g of %g", error, size);
        }
        aq_tensor_release(&t);
        aq_tensor_release(&w);
    }
    file first = file_read(out), second;
    aq_job_report_deinit(&report);
    o.mode = AQ_JOB_PARALLEL;
    o.threads = 2;
    ASSERT_OK(aq_job_run(model, out, &o, NULL, &err));
    second = file_read(out);
    cr_assert(file_equal(&first, &second));
    file_free(&second);
    file_free(&first);
    aq_calibration_close(c);
    aq_model_close(m);
    aq_model_close(original);
}

/* Scales are left where they would make it worse, for kept tensors, and for a NaN. */
Test(diffusion, jobs_without_scales) {
    enum { ROWS_64 = 64, MANY = 64 * 64 };
    static float w[MANY], x[4][8 * 64], scales[64];
    static calib_row rows[4];
    char model[512], calib[512], out[512];
    const aq_spatial_options equal = {.equalize = true};
    aq_job_options o = {.no_sync = true, .threads = 1};
    aq_job_report report;
    rng r = {7};
    snprintf(model, sizeof model, "%s", in_dir("model.parquet"));
    snprintf(calib, sizeof calib, "%s", in_dir("calib.parquet"));
    snprintf(out, sizeof out, "%s", in_dir("scaled.parquet"));
    /* Half of the columns have one large weight. By it they get scales, which make the
     * inputs of the other columns coarser for nothing. */
    rng_floats(&r, w, MANY, 1);
    for (size_t i = 0; i < 64; i += 2)
        w[i] = 6;
    for (size_t i = 0; i < 64; i++)
        scales[i] = 1.0f + (float)(i % 4);
    for (int i = 0; i < 4; i++) {
        rng_floats(&r, x[i], 8 * 64, 1);
        rows[i] = (calib_row){"a.weight", i, x[i], 8 * 64};
    }
    write_rows(calib, NULL, rows, 4);
    o.calibration_path = calib;
    o.spatial = &equal;
    o.quant.bits = 8;
    const aq_time_options coarse = {.bits = 4};
    o.time = &coarse;
    for (int kind = 0; kind < 5; kind++) {
        aq_model *m;
        if (kind == 3) w[70] = NAN;
        aq_tensor t = matrix_of("a.weight", ROWS_64, 64, w);
        ASSERT_OK(aq_model_save(model, &t, 1, &fast, &err));
        w[70] = 1;
        o.plan = kind == 0 ? NULL : scale_first;
        o.plan_user = scales;
        o.spatial = kind == 0 || kind == 3 ? &equal : NULL;
        if (kind == 3) o.plan = NULL;
        o.min_cosine = kind == 2 ? 1.0 : 0.0;
        o.calibration_path = kind == 4 ? NULL : calib;
        o.time = kind == 4 ? NULL : &coarse;
        ASSERT_OK(aq_job_run(model, out, &o, &report, &err));
        ASSERT_OK(aq_model_open(out, NULL, &m, &err));
        ASSERT_OK(aq_model_describe(m, 0, &t, &err));
        const aq_spatial *s = t.diffusion == NULL ? NULL : t.diffusion->spatial;
        const aq_time_report *time = report.tensors[0].time;
        cr_assert_eq(s != NULL, kind == 1 || kind == 4, "%d", kind);
        cr_assert_eq(time == NULL, kind == 4, "%d", kind);
        if (s != NULL) cr_assert_arr_eq(s->scales, scales, sizeof scales);
        if (time != NULL) {
            cr_assert_eq(time->scaled, kind == 1);
            cr_assert_eq(isnan(time->output_sqnr_db) != 0, kind >= 2, "%d", kind);
        }
        cr_assert_eq(t.layout.bits == 0, kind == 2 || kind == 3, "%d", kind);
        aq_model_close(m);
        aq_job_report_deinit(&report);
    }
    scales[3] = 0; /* what a hook may not do */
    o.calibration_path = NULL;
    ASSERT_STATUS(aq_job_run(model, out, &o, NULL, &err), AQ_E_ARG);
    ASSERT_MESSAGE("zero", "scale of column 3 is 0");
    scales[3] = 1;
    aq_calibration *c;
    aq_model *m;
    ASSERT_OK(aq_model_open(model, NULL, &m, &err));
    const aq_calibration_options co = {.model = m};
    ASSERT_OK(aq_calibration_open(calib, &co, &c, &err));
    o.calibration = c;
    ASSERT_STATUS(aq_job_run(model, out, &o, NULL, &err), AQ_E_ARG);
    ASSERT_MESSAGE("opened", "calibration_path");
    o.calibration = NULL;
    aq_calibration_close(c);
    aq_model_close(m);
    o.plan = NULL;
    o.spatial = &equal;
    ASSERT_STATUS(aq_job_run(model, out, &o, NULL, &err), AQ_E_ARG);
    o.spatial = NULL;
    o.optimize_groups = true;
    ASSERT_STATUS(aq_job_run(model, out, &o, NULL, &err), AQ_E_ARG);
}

/* Scales with which a tensor cannot be quantized are worse than none. */
Test(diffusion, jobs_without_scales_that_do_not_fit) {
    enum { ROWS_8 = 8, COLS_64 = 64 };
    static float w[ROWS_8 * COLS_64], x[4][8 * COLS_64];
    static calib_row rows[4];
    char model[512], calib[512], out[512];
    const aq_spatial_options smooth = {.alpha = 0.5f};
    aq_job_options o = {.no_sync = true, .threads = 1, .spatial = &smooth};
    aq_job_report report;
    rng r = {11};
    snprintf(model, sizeof model, "%s", in_dir("model.parquet"));
    snprintf(calib, sizeof calib, "%s", in_dir("calib.parquet"));
    snprintf(out, sizeof out, "%s", in_dir("scaled.parquet"));
    rng_floats(&r, w, ROWS_8 * COLS_64, 1e34f);
    for (int i = 0; i < 4; i++) {
        for (size_t k = 0; k < 8 * COLS_64; k++)
            x[i][k] = rng_float(&r) * (k % COLS_64 == 0 ? 1e9f : 1e-3f);
        rows[i] = (calib_row){"a.weight", i, x[i], 8 * COLS_64};
    }
    aq_tensor t = matrix_of("a.weight", ROWS_8, COLS_64, w);
    ASSERT_OK(aq_model_save(model, &t, 1, &fast, &err));
    write_rows(calib, NULL, rows, 4);
    o.calibration_path = calib;
    ASSERT_OK(aq_job_run(model, out, &o, &report, &err)); /* column 0: 1e34 / 1e-6 */
    cr_expect_eq(report.tensors[0].status, AQ_OK, "%s", report.tensors[0].error);
    cr_expect_eq(report.tensors[0].tensor.layout.bits, 4);
    cr_expect_not(report.tensors[0].time->scaled);
    aq_job_report_deinit(&report);
}

/* Smoothing and the optimizer are those of the functions, in the report and the file. */
Test(diffusion, jobs_tune_groups) {
    char model[512], calib[512], out[512];
    const aq_smooth_options cubic = {AQ_CUBIC, 2, 0.5};
    const aq_time_options time = {.groups = 6, .bits = 5};
    aq_job_options o = {.no_sync = true, .threads = 1, .time = &time, .smooth = &cubic};
    aq_calibration *c;
    snprintf(model, sizeof model, "%s", in_dir("model.parquet"));
    snprintf(calib, sizeof calib, "%s", in_dir("calib.parquet"));
    snprintf(out, sizeof out, "%s", in_dir("tuned.parquet"));
    job_inputs(model, calib);
    ASSERT_OK(aq_calibration_open(calib, NULL, &c, &err));
    o.calibration_path = calib;
    for (int optimize = 0; optimize < 2; optimize++) {
        aq_job_report report;
        aq_time_group g[6];
        aq_smoothness smooth;
        aq_tuning tuning;
        double mse;
        const aq_calibrated *t = aq_calibration_tensor(c, 0);
        aq_time_options cover = time;
        cover.timesteps = (J_STEPS - 1) * 50 + 1;
        o.optimize_groups = optimize;
        ASSERT_OK(aq_job_run(model, out, &o, &report, &err));
        const aq_time_report *r = report.tensors[0].time;
        ASSERT_OK(aq_time_groups_make(c, t, &cover, g, &err));
        if (optimize) {
            ASSERT_OK(aq_time_groups_optimize(t, g, 6, &tuning, &err));
            cr_assert_eq(r->optimized.changed, tuning.changed);
            cr_assert_leq(r->optimized.mse_after, r->optimized.mse_before);
        }
        ASSERT_OK(aq_time_groups_smooth(t, g, 6, &cubic, &tuning, &err));
        ASSERT_OK(aq_time_groups_check(g, 6, 0, NULL, &smooth, &err));
        ASSERT_OK(aq_time_groups_error(t, g, 6, NULL, &mse, &err));
        cr_assert_eq(r->smoothed.changed, tuning.changed);
        cr_assert_eq(r->smoothed.mse_after, mse);
        cr_assert_eq(r->smoothness.smoothness, smooth.smoothness);
        for (size_t i = 0; i < 6; i++)
            cr_assert_eq(
                report.tensors[0].tensor.diffusion->time_aware->groups[i].params.scale,
                g[i].params.scale);
        aq_job_report_deinit(&report);
    }
    aq_calibration_close(c);
}

/* Bits for a size go where the product gains by them. Half of the columns of both tensors
 * are exact with 2 bits; the others are larger in "a", but only in "b" have they inputs. */
Test(diffusion, a_target_counts_products) {
    static float w[2][32 * 64], x[2][4 * 64];
    static calib_row rows[2];
    char model[512], calib[512], out[512];
    aq_job_options o = {.no_sync = true, .threads = 1, .target_bpw = 5};
    uint32_t bits[2][2];
    aq_tensor t[2];
    rng r = {9};
    snprintf(model, sizeof model, "%s", in_dir("model.parquet"));
    snprintf(calib, sizeof calib, "%s", in_dir("calib.parquet"));
    snprintf(out, sizeof out, "%s", in_dir("mixed.parquet"));
    for (int k = 0; k < 2; k++) {
        for (size_t i = 0; i < 32 * 64; i++)
            w[k][i] = i % 64 >= 32 ? (i % 3 != 0 ? 1.0f : -1.0f)
                      : k == 0     ? rng_float(&r)
                                   : 0.3f * rng_float(&r);
        for (size_t i = 0; i < 4 * 64; i++)
            x[k][i] = (i % 64 >= 32) == (k == 0) ? rng_float(&r) : 0;
        t[k] = matrix_of(k == 0 ? "a.weight" : "b.weight", 32, 64, w[k]);
        rows[k] = (calib_row){t[k].name, 0, x[k], 4 * 64};
    }
    o.quant.group_size = 32;
    ASSERT_OK(aq_model_save(model, t, 2, &fast, &err));
    write_rows(calib, NULL, rows, 2);
    for (int with = 0; with < 2; with++) {
        aq_job_report report;
        o.calibration_path = with ? calib : NULL;
        ASSERT_OK(aq_job_run(model, out, &o, &report, &err));
        for (int k = 0; k < 2; k++)
            bits[with][k] = report.tensors[k].tensor.layout.bits;
        aq_job_report_deinit(&report);
    }
    cr_assert_gt(bits[0][0], bits[0][1], "by weights: %u, %u", bits[0][0], bits[0][1]);
    cr_assert_lt(bits[1][0], bits[1][1], "by products: %u, %u", bits[1][0], bits[1][1]);
    /* A tensor without a calibration still loses what its weights lose. */
    aq_job_report report;
    write_rows(calib, NULL, &rows[1], 1);
    o.target_bpw = 7;
    ASSERT_OK(aq_job_run(model, out, &o, &report, &err));
    cr_assert_eq(report.tensors[0].tensor.layout.bits, 4);
    cr_assert_eq(report.tensors[1].tensor.layout.bits, 4);
    aq_job_report_deinit(&report);
}

/* An interrupted job with one calibration does not go on with another. */
static bool cancel_last(void *user, const aq_progress *p) {
    (void)user;
    return p->tensors_done < 2;
}

Test(diffusion, resume_knows_the_calibration) {
    char model[512], calib[512], out[512];
    aq_job_options o = {.no_sync = true, .threads = 1, .resume = true};
    const aq_time_options three = {.groups = 3};
    snprintf(model, sizeof model, "%s", in_dir("model.parquet"));
    snprintf(calib, sizeof calib, "%s", in_dir("calib.parquet"));
    snprintf(out, sizeof out, "%s", in_dir("out.parquet"));
    job_inputs(model, calib);
    o.calibration_path = calib;
    o.progress.fn = cancel_last;
    for (int same = 0; same < 2; same++) {
        aq_job_report report;
        o.progress.fn = cancel_last;
        o.time = NULL;
        ASSERT_STATUS(aq_job_run(model, out, &o, NULL, &err), AQ_E_CANCELLED);
        o.progress.fn = NULL;
        if (same == 0) o.time = &three;
        ASSERT_OK(aq_job_run(model, out, &o, &report, &err));
        cr_assert_eq(report.num_resumed > 0, same == 1, "%zu", report.num_resumed);
        aq_job_report_deinit(&report);
        file resumed = file_read(out), whole;
        o.resume = false;
        ASSERT_OK(aq_job_run(model, out, &o, NULL, &err));
        o.resume = true;
        whole = file_read(out);
        cr_assert(file_equal(&resumed, &whole));
        file_free(&resumed);
        file_free(&whole);
    }
}

/* Stops where all is measured and one tensor is written. */
static bool cancel_writing(void *user, const aq_progress *p) {
    const uint64_t *bytes = user;
    return p->bytes_total != *bytes || p->tensors_done == 0;
}

/* A plan that an earlier run has measured is taken over, or the job fails. */
Test(diffusion, resume_with_a_target_and_failed_allocations) {
    char model[512], calib[512], out[512];
    aq_job_options o = {.no_sync = true, .threads = 1, .resume = true, .target_bpw = 5};
    counting_allocator a;
    aq_job_report report;
    file whole, resumed;
    uint64_t bytes;
    bool done = false;
    snprintf(model, sizeof model, "%s", in_dir("model.parquet"));
    snprintf(calib, sizeof calib, "%s", in_dir("calib.parquet"));
    snprintf(out, sizeof out, "%s", in_dir("out.parquet"));
    job_inputs(model, calib);
    o.calibration_path = calib;
    ASSERT_OK(aq_job_run(model, out, &o, &report, &err));
    bytes = report.bytes_in;
    aq_job_report_deinit(&report);
    whole = file_read(out);
    for (size_t fail = 1; !done; fail++) {
        aq_status status;
        remove(out);
        o.allocator = NULL;
        o.progress.fn = cancel_writing;
        o.progress.user = &bytes;
        ASSERT_STATUS(aq_job_run(model, out, &o, NULL, &err), AQ_E_CANCELLED);
        counting_init(&a);
        a.fail_at = fail;
        o.allocator = &a.hooks;
        o.progress.fn = NULL;
        status = aq_job_run(model, out, &o, NULL, &err);
        cr_assert(counting_is_clean(&a));
        done = a.calls < fail;
        cr_assert_eq(status, done ? AQ_OK : AQ_E_NOMEM, "%zu: %s", fail, err.message);
    }
    resumed = file_read(out);
    cr_assert(file_equal(&resumed, &whole));
    file_free(&resumed);
    file_free(&whole);
}

Test(diffusion, modality_of_a_model) {
    static const struct {
        const char *tensor, *key, *value, *want;
    } cases[] = {
        {"w", "modality", "audio", "audio"},
        {"w", "modality", "smell", NULL},
        {"w", "architecture", "UNet2DConditionModel", "image"},
        {"w", "model_type", "codegen-gpt", "code"},
        {"w", "architecture", "LlamaForCausalLM", "text"},
        {"w", "architecture", "WhisperModel", "audio"},
        {"model.embed_tokens.weight", NULL, NULL, "text"},
        {"down_blocks.0.conv.weight", NULL, NULL, "image"},
        {"w", "architecture", "Perceptron", NULL},
        {"w", NULL, NULL, NULL},
    };
    static const float w[4];
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const aq_tensor t = matrix_of(cases[i].tensor, 2, 2, w);
        const aq_key_value pair = {.key = cases[i].key, .value = cases[i].value};
        const aq_model_writer_options o = {
            .no_sync = true, .metadata = &pair, .num_metadata = cases[i].key != NULL};
        aq_model *m;
        ASSERT_OK(aq_model_save(in_dir("m.parquet"), &t, 1, &o, &err));
        ASSERT_OK(aq_model_open(in_dir("m.parquet"), NULL, &m, &err));
        const char *got = aq_model_modality(m);
        cr_expect(got == NULL ? cases[i].want == NULL
                              : cases[i].want != NULL && strcmp(got, cases[i].want) == 0,
                  "case %zu: %s", i, got == NULL ? "none" : got);
        aq_model_close(m);
    }
}
