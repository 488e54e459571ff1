/* Batches, seen from outside: each array comes out as aq_quantize_into makes it alone, in
 * name order, whatever the threads; and what is wrong is told, array by array. */
#include "quantized.h"

#include <math.h>

static aq_error err;

static bool same_double(double a, double b) { return memcmp(&a, &b, sizeof a) == 0; }

static bool same_metrics(const aq_metrics *a, const aq_metrics *b) {
    return a->count == b->count && same_double(a->sum_aa, b->sum_aa) &&
           same_double(a->sum_bb, b->sum_bb) && same_double(a->sum_ab, b->sum_ab) &&
           same_double(a->sum_dd, b->sum_dd) && same_double(a->mse, b->mse) &&
           same_double(a->max_abs_error, b->max_abs_error) &&
           same_double(a->cosine, b->cosine) && same_double(a->sqnr_db, b->sqnr_db);
}

/* ---- a set of arrays ---- */

#define MAX_ARRAYS 6000
#define MAX_SET_DIMS 4

typedef struct set {
    size_t n;
    aq_array arrays[MAX_ARRAYS];
    aq_quant_options quant[MAX_ARRAYS]; /* of each, by the plan hook */
    uint64_t shapes[MAX_ARRAYS][MAX_SET_DIMS];
    char names[MAX_ARRAYS][32];
    void *data[MAX_ARRAYS];
    size_t offsets[MAX_ARRAYS];
    float *importance[MAX_ARRAYS];
} set;

static set s;

static size_t array_values(const aq_array *a) {
    size_t n = 1;
    for (uint32_t d = 0; d < a->num_dims; d++)
        n *= (size_t)a->shape[d];
    return n;
}

static size_t array_cols(const aq_array *a) {
    size_t n = 1;
    for (uint32_t d = a->num_dims > 1 ? 1 : 0; d < a->num_dims; d++)
        n *= (size_t)a->shape[d];
    return n;
}

/* One more array of values in [-1, 1), the first ones constant now and then. Its memory
 * ends where they end and begins at any address. The first character of its name shuffles
 * the order. */
static aq_array *set_add(rng *r, aq_dtype dtype, const uint64_t *shape,
                         uint32_t num_dims) {
    size_t i = s.n++, values, bytes;
    aq_array *a = &s.arrays[i];
    float *floats;
    memset(a, 0, sizeof *a);
    memset(&s.quant[i], 0, sizeof s.quant[i]);
    s.importance[i] = NULL;
    snprintf(s.names[i], sizeof s.names[i], "%c.%zu", (int)('a' + rng_below(r, 26)), i);
    memcpy(s.shapes[i], shape, num_dims * sizeof *shape);
    a->name = s.names[i];
    a->dtype = dtype;
    a->num_dims = num_dims;
    a->shape = s.shapes[i];
    values = array_values(a);
    bytes = values * aq_dtype_bytes(dtype);
    s.offsets[i] = rng_below(r, 3) == 0 ? rng_below(r, 64) : 0;
    s.data[i] = offset_alloc(s.offsets[i], bytes);
    a->data = s.data[i];
    floats = (float *)offset_alloc(0, values * sizeof(float));
    rng_floats(r, floats, values, 1.0f);
    for (size_t k = 0; k < values && rng_below(r, 8) == 0; k++)
        floats[k] = 0.25f;
    cr_assert_eq(aq_from_f32(floats, values, s.data[i], dtype, NULL), AQ_OK);
    offset_free(floats, 0);
    return a;
}

static void set_free(void) {
    for (size_t i = 0; i < s.n; i++) {
        offset_free(s.data[i], s.offsets[i]);
        free(s.importance[i]);
    }
    s.n = 0;
}

/* Writes a float into an array, as its type has it. */
static void set_value(size_t array, size_t at, float value) {
    aq_dtype dtype = s.arrays[array].dtype;
    uint8_t *p = (uint8_t *)s.data[array] + at * aq_dtype_bytes(dtype);
    cr_assert_eq(aq_from_f32(&value, 1, p, dtype, NULL), AQ_OK);
}

static const aq_dtype float_types[] = {AQ_F32, AQ_F16, AQ_BF16, AQ_F64};
static const uint32_t widths[] = {2, 3, 4, 5, 6, 8};

static void random_quant(rng *r, size_t i) {
    aq_quant_options *q = &s.quant[i];
    size_t cols = array_cols(&s.arrays[i]);
    q->bits = widths[rng_below(r, COUNT_OF(widths))];
    q->group_size = 8 + rng_below(r, 140);
    q->granularity = (aq_granularity)rng_below(r, 3);
    q->symmetric = rng_below(r, 2) != 0;
    q->method = (aq_method)rng_below(r, 3);
    if (q->granularity != AQ_PER_TENSOR) q->params = (aq_params)rng_below(r, 3);
    if (q->granularity != AQ_PER_TENSOR && rng_below(r, 6) == 0) {
        q->codebook = true;
        q->symmetric = false;
        q->params = AQ_PARAMS_U8;
        q->bits = rng_below(r, 2) ? 2 : 4;
    }
    if (rng_below(r, 6) == 0) {
        q->method = AQ_WEIGHTED;
        s.importance[i] = (float *)malloc((cols + 1) * sizeof(float));
        for (size_t c = 0; c < cols; c++)
            s.importance[i][c] = (float)rng_below(r, 9);
        q->importance = s.importance[i];
    }
}

/* An array of any form: one in eight is empty, one in sixty has several tiles. */
static void add_random(rng *r) {
    uint32_t num_dims = (uint32_t)rng_below(r, MAX_SET_DIMS + 1);
    uint64_t shape[MAX_SET_DIMS] = {0};
    for (uint32_t d = 0; d < num_dims; d++)
        shape[d] = 1 + rng_below(r, d == 0 ? 20 : 9);
    if (num_dims > 0 && rng_below(r, 8) == 0) shape[rng_below(r, num_dims)] = 0;
    if (num_dims == 1 && rng_below(r, 3) == 0) shape[0] = 1000 + rng_below(r, 150000);
    if (num_dims == 2 && rng_below(r, 12) == 0) shape[1] = 3000 + rng_below(r, 20000);
    set_add(r, float_types[rng_below(r, 4)], shape, num_dims);
    random_quant(r, s.n - 1);
}

/* The plan hook: the options of the array's number in its name. */
static bool plan_of_set(void *user, const aq_tensor *array, aq_quant_options *quant) {
    size_t i = (size_t)strtoul(array->name + 2, NULL, 10);
    (void)user;
    CHECK(i < s.n && strcmp(s.names[i], array->name) == 0, "%s", array->name);
    CHECK(array->dtype == s.arrays[i].dtype && array->data == s.arrays[i].data, "hook");
    CHECK(array->num_dims == s.arrays[i].num_dims, "hook");
    *quant = s.quant[i];
    return true;
}

/* What each array becomes alone. */
typedef struct alone {
    quantized q;
    aq_metrics metrics;
    aq_status status;
    aq_error error;
} alone;

static alone *each_alone(const aq_tasks *tasks) {
    alone *all = (alone *)calloc(s.n + 1, sizeof *all);
    for (size_t i = 0; i < s.n; i++) {
        const aq_array *a = &s.arrays[i];
        size_t cols = array_cols(a);
        size_t rows = a->num_dims > 1 ? (size_t)a->shape[0] : 1;
        all[i].q = quantized_make(rows, cols, &s.quant[i]);
        all[i].status =
            aq_quantize_into(&all[i].q.layout, a->data, a->dtype, &all[i].q.dst, tasks,
                             &all[i].metrics, &all[i].error);
    }
    return all;
}

static void alone_free(alone *all) {
    for (size_t i = 0; i < s.n; i++)
        quantized_free(&all[i].q);
    free(all);
}

static bool is_aligned(const void *p) { return (uintptr_t)p % AQ_ALIGNMENT == 0; }

/* The item is what its array becomes alone, to the bit. */
static bool same_item(const aq_batch_item *item, const alone *want) {
    const aq_array *a = &s.arrays[item->index];
    const aq_tensor *t = &item->tensor;
    const aq_layout *l = &want->q.layout;
    size_t floats = l->params == AQ_PARAMS_F32 ? l->num_groups * sizeof(float) : 0;
    if (item->status != AQ_OK || item->error != NULL) return false;
    if (strcmp(item->name, a->name) != 0 || item->name == a->name) return false;
    if (t->name != item->name || t->dtype != a->dtype || t->num_dims != a->num_dims ||
        memcmp(t->shape, a->shape, a->num_dims * sizeof *a->shape) != 0 ||
        t->num_params != array_values(a) || t->data_bytes != l->code_bytes || t->mapped)
        return false;
    if (t->layout.bits != l->bits || t->layout.rows != l->rows ||
        t->layout.cols != l->cols || t->layout.num_groups != l->num_groups ||
        t->layout.params != l->params || t->layout.codebook != l->codebook ||
        t->layout.params_bytes != l->params_bytes)
        return false;
    if (t->data == NULL || !is_aligned(t->data) || !is_aligned(t->scales) ||
        !is_aligned(t->zero_points) || !is_aligned(t->params))
        return false;
    if ((t->params == NULL) != (l->params == AQ_PARAMS_F32) ||
        (t->scales == NULL) != (l->params != AQ_PARAMS_F32))
        return false;
    return memcmp(t->data, want->q.dst.codes, l->code_bytes) == 0 &&
           (floats == 0 || memcmp(t->scales, want->q.dst.scales, floats) == 0) &&
           (floats == 0 ||
            memcmp(t->zero_points, want->q.dst.zero_points, floats) == 0) &&
           (l->params_bytes == 0 ||
            memcmp(t->params, want->q.dst.params, l->params_bytes) == 0) &&
           same_metrics(&item->metrics, &want->metrics) &&
           same_double(t->cosine, want->metrics.cosine) &&
           same_double(t->sqnr_db, want->metrics.sqnr_db) &&
           same_double(t->max_abs_error, want->metrics.max_abs_error);
}

/* Every array once, in the order of names. */
static bool in_order(const aq_batch *b, size_t n) {
    bool *seen = (bool *)calloc(n + 1, 1);
    bool good = b->num_items == n;
    for (size_t i = 0; good && i < n; i++) {
        size_t index = b->items[i].index;
        good = index < n && !seen[index] &&
               (i == 0 || strcmp(b->items[i - 1].name, b->items[i].name) <= 0);
        if (good) seen[index] = true;
    }
    free(seen);
    return good;
}

static void expect_as_alone(const aq_batch *b, const alone *all) {
    aq_metrics total;
    memset(&total, 0, sizeof total);
    cr_assert(in_order(b, s.n));
    cr_assert_eq(b->num_failed, 0u);
    for (size_t i = 0; i < s.n; i++) {
        const aq_batch_item *item = &b->items[i];
        CHECK(same_item(item, &all[item->index]), "array %zu of %zu: %s", item->index,
              s.n, quantized_text(&all[item->index].q));
        CHECK(aq_batch_find(b, item->name) == item, "find %s", item->name);
        if (item->metrics.count > 0) aq_metrics_add(&total, &item->metrics);
    }
    cr_assert(same_metrics(&b->total, &total));
}

static aq_batch_options planned(const counting_allocator *memory) {
    aq_batch_options o;
    memset(&o, 0, sizeof o);
    o.plan = plan_of_set;
    o.allocator = &memory->hooks;
    return o;
}

static void expect_set(const aq_tasks *tasks, uint32_t threads, const alone *all) {
    counting_allocator memory;
    aq_batch_options o;
    aq_batch b;
    counting_init(&memory);
    o = planned(&memory);
    o.tasks = tasks;
    o.threads = threads;
    cr_assert_eq(aq_quantize_batch(s.arrays, s.n, &o, &b, &err), AQ_OK, "%s",
                 err.message);
    expect_as_alone(&b, all);
    aq_batch_deinit(&b);
    aq_batch_deinit(&b);
    cr_assert(counting_is_clean(&memory));
}

/* ---- the same as each alone ---- */

Test(batch, random_sets_as_each_alone) {
    static const size_t sizes[] = {1, 2, 3, 7, 20, 60, 150, 1500};
    rng r = {77};
    for (size_t k = 0; k < COUNT_OF(sizes); k++) {
        alone *all;
        while (s.n < sizes[k])
            add_random(&r);
        all = each_alone(NULL);
        expect_set(NULL, 1, all);
        expect_set(NULL, 1 + (uint32_t)(k % 4), all);
        expect_set(NULL, 16, all);
        expect_set(&reverse_tasks, 0, all);
        alone_free(all);
        set_free();
    }
}

/* Every width, granularity, parameter form and type, in one batch. */
static void add_every_form(rng *r) {
    for (size_t i = 0; i < 6 * 2 * 3 * 3; i++) {
        aq_quant_options q;
        memset(&q, 0, sizeof q);
        q.bits = widths[i % 6];
        q.symmetric = i / 6 % 2 != 0;
        q.granularity = (aq_granularity)(i / 12 % 3);
        q.params = (aq_params)(i / 36 % 3);
        q.group_size = 32;
        if (q.granularity == AQ_PER_TENSOR && q.params != AQ_PARAMS_F32) continue;
        for (size_t d = 0; d < 4; d++) {
            uint64_t shape[2] = {5, 100 + i};
            set_add(r, float_types[d], shape, 2);
            s.quant[s.n - 1] = q;
            if (q.symmetric || q.params != AQ_PARAMS_U8 || (q.bits != 2 && q.bits != 4))
                continue;
            set_add(r, float_types[d], shape, 2);
            s.quant[s.n - 1] = q;
            s.quant[s.n - 1].codebook = true;
        }
    }
}

Test(batch, every_form_on_every_instruction_set) {
    rng r = {5};
    alone *all;
    add_every_form(&r);
    cr_assert_eq(aq_isa_force(AQ_ISA_REF), AQ_OK);
    all = each_alone(NULL);
    for (int isa = AQ_ISA_REF; isa <= AQ_ISA_NEON; isa++) {
        if (!aq_isa_supported((aq_isa)isa)) continue;
        cr_assert_eq(aq_isa_force((aq_isa)isa), AQ_OK);
        expect_set(NULL, 3, all);
    }
    cr_assert_eq(aq_isa_force(AQ_ISA_AUTO), AQ_OK);
    alone_free(all);
    set_free();
}

/* Tiles by the thousand, rows longer than a tile, and one scale for all of them. */
static void add_large(rng *r) {
    static const uint64_t shapes[][2] = {
        {700, 1000}, {1, 200000}, {3, 70000}, {70001, 3}};
    for (size_t i = 0; i < COUNT_OF(shapes) * 3; i++) {
        set_add(r, i == 2 ? AQ_BF16 : AQ_F32, shapes[i / 3], 2);
        s.quant[s.n - 1].granularity = (aq_granularity)(i % 3);
        s.quant[s.n - 1].method = AQ_MINMAX;
    }
}

Test(batch, large_arrays_as_each_alone) {
    rng r = {9};
    alone *all;
    add_large(&r);
    for (int i = 0; i < 30; i++)
        add_random(&r);
    all = each_alone(&reverse_tasks);
    for (uint32_t threads = 1; threads <= 16; threads += 5)
        expect_set(NULL, threads, all);
    alone_free(all);
    set_free();
}

Test(batch, defaults) {
    rng r = {3};
    alone *all;
    aq_batch b;
    for (int i = 0; i < 20; i++) {
        add_random(&r);
        memset(&s.quant[s.n - 1], 0, sizeof s.quant[0]);
    }
    all = each_alone(NULL);
    cr_assert_eq(aq_quantize_batch(s.arrays, s.n, NULL, &b, NULL), AQ_OK);
    expect_as_alone(&b, all);
    aq_batch_deinit(&b);
    alone_free(all);
    set_free();
}

Test(batch, without_metrics) {
    rng r = {4};
    counting_allocator memory;
    aq_batch_options o;
    aq_batch b;
    alone *all;
    counting_init(&memory);
    o = planned(&memory);
    o.no_metrics = true;
    for (int i = 0; i < 100; i++)
        add_random(&r);
    all = each_alone(NULL);
    cr_assert_eq(aq_quantize_batch(s.arrays, s.n, &o, &b, &err), AQ_OK, "%s",
                 err.message);
    for (size_t i = 0; i < s.n; i++) {
        aq_batch_item *item = &b.items[i];
        const alone *want = &all[item->index];
        cr_expect(item->metrics.count == 0 && isnan(item->tensor.cosine) &&
                  isnan(item->tensor.sqnr_db) && isnan(item->tensor.max_abs_error));
        item->metrics = want->metrics;
        item->tensor.cosine = want->metrics.cosine;
        item->tensor.sqnr_db = want->metrics.sqnr_db;
        item->tensor.max_abs_error = want->metrics.max_abs_error;
        cr_expect(same_item(item, want));
    }
    cr_expect_eq(b.total.count, 0u);
    aq_batch_deinit(&b);
    cr_assert(counting_is_clean(&memory));
    alone_free(all);
    set_free();
}

/* ---- how the work is spread ---- */

typedef struct runs {
    size_t calls, tasks, largest;
} runs;

static void count_run(void *user, size_t n, void (*fn)(void *arg, size_t index),
                      void *arg) {
    runs *c = (runs *)user;
    c->calls++;
    c->tasks += n;
    c->largest = n > c->largest ? n : c->largest;
    reverse_run(NULL, n, fn, arg);
}

/* A large array of 32 tiles and 100 small ones, in the middle of their names: all of them
 * are offered to the threads at once. */
Test(batch, a_large_array_does_not_serialize) {
    for (int tensor = 0; tensor < 2; tensor++) {
        static const uint64_t large[2] = {512, 4096}, small[2] = {10, 10};
        runs c = {0, 0, 0};
        const aq_tasks tasks = {count_run, &c, 16};
        aq_batch_options o;
        aq_batch b;
        rng r = {6};
        memset(&o, 0, sizeof o);
        o.tasks = &tasks;
        o.quant.method = AQ_MINMAX;
        o.quant.granularity = tensor ? AQ_PER_TENSOR : AQ_PER_GROUP;
        for (int i = 0; i < 101; i++)
            set_add(&r, AQ_F32, i == 50 ? large : small, 2);
        cr_assert_eq(aq_quantize_batch(s.arrays, s.n, &o, &b, &err), AQ_OK);
        aq_batch_deinit(&b);
        set_free();
        cr_expect_eq(c.largest, 132u);
        cr_expect_eq(c.calls, tensor ? 2u : 1u); /* the large one's range comes first */
        cr_expect_eq(c.tasks, tensor ? 164u : 132u);
    }
}

/* Waves of many small arrays are longer, and of large ones are as long as in one call. */
Test(batch, waves) {
    static const uint64_t small[2] = {3, 4}, tall[2] = {300, 65536};
    runs c = {0, 0, 0};
    const aq_tasks tasks = {count_run, &c, 16};
    aq_batch_options o;
    aq_batch b;
    rng r = {6};
    memset(&o, 0, sizeof o);
    o.tasks = &tasks;
    for (int i = 0; i < 5000; i++)
        set_add(&r, AQ_F32, small, 2);
    cr_assert_eq(aq_quantize_batch(s.arrays, s.n, &o, &b, &err), AQ_OK);
    aq_batch_deinit(&b);
    cr_expect_eq(c.tasks, 5000u);
    cr_expect_eq(c.calls, 5u);
    set_free();

    memset(&c, 0, sizeof c);
    o.quant.method = AQ_MINMAX;
    o.no_metrics = true;
    set_add(&r, AQ_F16, tall, 2);
    cr_assert_eq(aq_quantize_batch(s.arrays, s.n, &o, &b, &err), AQ_OK);
    aq_batch_deinit(&b);
    cr_expect_eq(c.tasks, 300u);
    cr_expect_eq(c.largest, 256u);
    cr_expect_eq(c.calls, 2u);
    set_free();
}

/* ---- names ---- */

Test(batch, names_in_byte_order) {
    static const char *const names[] = {
        "b",  "a", "B", "a.b", "\xc3\xa4", "a\x01", "ab",  "a/../..",
        "..", "~", "0", "10",  "9",        "z z",   "a;b", "\xf0\x9f\x98\x80"};
    static const char *const sorted[] = {
        "..",      "0",   "10", "9", "B",   "a", "a\x01",    "a.b",
        "a/../..", "a;b", "ab", "b", "z z", "~", "\xc3\xa4", "\xf0\x9f\x98\x80"};
    static const float value[1] = {1.5f};
    aq_array arrays[COUNT_OF(names) + 1];
    char name[5000];
    aq_batch b;
    memset(arrays, 0, sizeof arrays);
    for (size_t i = 0; i < COUNT_OF(arrays); i++) {
        arrays[i].name = i < COUNT_OF(names) ? names[i] : name;
        arrays[i].data = le_floats(value, 1);
        arrays[i].dtype = AQ_F32;
    }
    memset(name, 'x', sizeof name - 1); /* between "b" and "z z" */
    name[sizeof name - 1] = '\0';
    cr_assert_eq(aq_quantize_batch(arrays, COUNT_OF(arrays), NULL, &b, &err), AQ_OK);
    cr_assert_eq(b.num_failed, 0u);
    for (size_t i = 0; i < COUNT_OF(arrays); i++) {
        const char *want = i < 12 ? sorted[i] : i == 12 ? name : sorted[i - 1];
        cr_expect_str_eq(b.items[i].name, want);
        cr_expect_str_eq(b.items[i].name, arrays[b.items[i].index].name);
        cr_expect_eq(b.items[i].tensor.scales[0], 1.5f);
    }
    cr_expect_null(aq_batch_find(&b, "aa"));
    cr_expect_null(aq_batch_find(&b, ""));
    cr_expect_null(aq_batch_find(&b, "\xff"));
    cr_expect_eq(aq_batch_find(&b, name), &b.items[12]);
    aq_batch_deinit(&b);
}

static bool is_zero(const aq_batch *b) {
    return b->items == NULL && b->num_items == 0 && b->num_failed == 0 &&
           b->owned == NULL;
}

Test(batch, a_name_twice) {
    static const float value[1] = {1};
    aq_array arrays[5];
    aq_batch_options o;
    memset(&o, 0, sizeof o);
    memset(arrays, 0, sizeof arrays);
    for (size_t i = 0; i < 5; i++) {
        static const char *const names[] = {"w", "q", "x", "w", "a"};
        arrays[i].name = names[i];
        arrays[i].data = value;
        arrays[i].dtype = AQ_F32;
    }
    for (int fast = 0; fast < 2; fast++) {
        aq_batch b = {0};
        o.fail_fast = fast != 0;
        b.num_items = 7;
        cr_expect_eq(aq_quantize_batch(arrays, 5, &o, &b, &err), AQ_E_DUPLICATE);
        cr_expect_str_eq(err.name, "w");
        cr_expect_str_eq(err.message, "inputs 0 and 3 have the same name (tensor \"w\")");
        cr_expect(is_zero(&b));
        cr_expect_eq(aq_quantize_batch(arrays, 5, &o, &b, NULL), AQ_E_DUPLICATE);
    }
}

/* ---- errors of arrays ---- */

/* A bad array: how it differs from a good one of 4 x 6 float32, and what is said. */
typedef struct bad_case {
    const char *name;
    aq_dtype dtype;
    uint32_t num_dims;
    uint64_t shape[3];
    int64_t strides[3];
    int hint; /* 1: no data; 2: no shape; 3: with strides; 4: no name */
    aq_status status;
    const char *message;
} bad_case;

static const bad_case bad[] = {
    {"nodata", AQ_F32, 2, {4, 6}, {0}, 1, AQ_E_ARG, "24 values, but no data"},
    {"noshape", AQ_F32, 2, {4, 6}, {0}, 2, AQ_E_ARG, "2 dimensions, but no shape"},
    {"noname", AQ_F32, 2, {4, 6}, {0}, 4, AQ_E_ARG, "tensor name missing or not UTF-8"},
    {"", AQ_F32, 2, {4, 6}, {0}, 0, AQ_E_ARG, "tensor name missing or not UTF-8"},
    {"bad\xff", AQ_F32, 2, {4, 6}, {0}, 0, AQ_E_ARG, "tensor name missing or not UTF-8"},
    {"int8", AQ_I8, 2, {4, 6}, {0}, 0, AQ_E_TYPE, "int8 values cannot be quantized"},
    {"bool", AQ_BOOL, 2, {4, 6}, {0}, 0, AQ_E_TYPE, "bool values cannot be quantized"},
    {"f8", AQ_F8_E4M3, 2, {4, 6}, {0}, 0, AQ_E_TYPE, "float8_e4m3fn values cannot be"},
    {"none", AQ_DTYPE_NONE, 2, {4, 6}, {0}, 0, AQ_E_TYPE, "dtype 0 is none of aq_dtype"},
    {"unknown", (aq_dtype)99, 2, {4, 6}, {0}, 0, AQ_E_TYPE, "dtype 99 is none"},
    {"dims", AQ_F32, 17, {4, 6}, {0}, 0, AQ_E_ARG, "tensor \"dims\": 17 dimensions"},
    {"huge", AQ_F32, 2, {UINT64_MAX, 6}, {0}, 0, AQ_E_LIMIT, "shape has over 2^64"},
    {"large", AQ_F32, 1, {UINT64_MAX / 8 + 1}, {0}, 0, AQ_E_LIMIT, "too large for this"},
    {"row", AQ_F32, 2, {4, 6}, {8, 1}, 3, AQ_E_ARG, "stride 8 of dimension 0 is not 6"},
    {"turned",
     AQ_F32,
     2,
     {4, 6},
     {1, 4},
     3,
     AQ_E_ARG,
     "stride 4 of dimension 1 is not 1"},
    {"back",
     AQ_F32,
     2,
     {4, 6},
     {-6, 1},
     3,
     AQ_E_ARG,
     "stride -6 of dimension 0 is not 6"},
    {"still", AQ_F32, 2, {4, 6}, {0, 1}, 3, AQ_E_ARG, "stride 0 of dimension 0 is not 6"},
    {"3d",
     AQ_F32,
     3,
     {2, 2, 6},
     {12, 5, 1},
     3,
     AQ_E_ARG,
     "stride 5 of dimension 1 is not"},
};

static const float good_values[24] = {1, 2, 3, 4, 5, 6, 7, 8};
static const uint64_t good_shape[2] = {4, 6};

static aq_array good_array(const char *name) {
    aq_array a;
    memset(&a, 0, sizeof a);
    a.name = name;
    a.data = good_values;
    a.dtype = AQ_F32;
    a.num_dims = 2;
    a.shape = good_shape;
    return a;
}

static aq_array bad_array(const bad_case *c) {
    aq_array a = good_array(c->name);
    a.dtype = c->dtype;
    a.num_dims = c->num_dims;
    a.shape = c->shape;
    if (c->hint == 1) a.data = NULL;
    if (c->hint == 2) a.shape = NULL;
    if (c->hint == 3) a.strides = c->strides;
    if (c->hint == 4) a.name = NULL;
    return a;
}

static void expect_bad(const aq_batch_item *item, const bad_case *c) {
    char where[40];
    snprintf(where, sizeof where, "input %zu)", item->index);
    cr_expect_eq(item->status, c->status, "%s", c->name);
    cr_assert_not_null(item->error);
    cr_expect_eq(item->error->status, c->status);
    cr_expect_not_null(strstr(item->error->message, c->message), "%s",
                       item->error->message);
    cr_expect_not_null(strstr(item->error->message, where), "%s", item->error->message);
    cr_expect_str_eq(item->error->name, c->hint == 4 ? "" : c->name);
    cr_expect_str_eq(item->name, c->hint == 4 ? "" : c->name);
    cr_expect(item->tensor.data == NULL && item->metrics.count == 0);
}

/* Every bad one is listed, and the good ones between them are all there. */
Test(batch, errors_are_collected) {
    aq_array arrays[2 * COUNT_OF(bad)];
    char names[COUNT_OF(bad)][16];
    counting_allocator memory;
    aq_batch_options o;
    aq_batch b, one;
    size_t good = 0;
    counting_init(&memory);
    memset(&o, 0, sizeof o);
    o.allocator = &memory.hooks;
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        snprintf(names[i], sizeof names[i], "%c%zu", (int)('a' + i * 7 % 26), i);
        arrays[2 * i] = bad_array(&bad[i]);
        arrays[2 * i + 1] = good_array(names[i]);
    }
    arrays[0].data = NULL;
    cr_assert_eq(aq_quantize_batch(&arrays[1], 1, &o, &one, &err), AQ_OK);
    for (uint32_t threads = 1; threads <= 16; threads *= 4) {
        o.threads = threads;
        good = 0;
        cr_assert_eq(aq_quantize_batch(arrays, COUNT_OF(arrays), &o, &b, &err), AQ_OK);
        cr_expect_eq(b.num_failed, COUNT_OF(bad));
        cr_expect(in_order(&b, COUNT_OF(arrays)));
        for (size_t i = 0; i < b.num_items; i++) {
            const aq_batch_item *item = &b.items[i];
            if (item->index % 2 == 0) {
                expect_bad(item, &bad[item->index / 2]);
                continue;
            }
            good++;
            cr_expect(item->status == AQ_OK && item->error == NULL);
            cr_expect_eq(memcmp(item->tensor.data, one.items[0].tensor.data, 12), 0);
        }
        cr_expect_eq(good, COUNT_OF(bad));
        aq_batch_deinit(&b);
    }
    /* Fail fast: the first in name order, which are the two without a name. */
    o.fail_fast = true;
    cr_expect_eq(aq_quantize_batch(arrays, COUNT_OF(arrays), &o, &b, &err), AQ_E_ARG);
    cr_expect_str_eq(err.message, "tensor name missing or not UTF-8 (input 4)");
    cr_expect(is_zero(&b));
    cr_expect_eq(aq_quantize_batch(arrays + 8, COUNT_OF(arrays) - 8, &o, &b, &err),
                 AQ_E_ARG);
    cr_expect_str_eq(err.name, "3d");
    cr_expect_not_null(strstr(err.message, "(tensor \"3d\", input 26); copy"), "%s",
                       err.message);
    aq_batch_deinit(&one);
    cr_assert(counting_is_clean(&memory));
}

/* Strides that are as good as none. */
Test(batch, contiguous_strides) {
    static const uint64_t shape[4] = {4, 1, 6, 1};
    static const uint64_t empty[4] = {4, 0, 6, 1};
    static const int64_t strides[][4] = {
        {6, 6, 1, 1}, {6, 99, 1, -5}, {6, 0, 1, 0}, {6, INT64_MIN, 1, INT64_MAX}};
    aq_array arrays[8];
    char names[8][4];
    aq_batch b;
    for (size_t i = 0; i < 8; i++) {
        snprintf(names[i], sizeof names[i], "%zu", i);
        arrays[i] = good_array(names[i]);
        arrays[i].num_dims = 4;
        arrays[i].shape = i < 4 ? shape : empty;
        arrays[i].strides = strides[i % 4];
        if (i >= 4) arrays[i].data = NULL;
    }
    arrays[7].strides = (const int64_t[4]){-1, -2, -3, -4};
    cr_assert_eq(aq_quantize_batch(arrays, 8, NULL, &b, &err), AQ_OK);
    cr_expect_eq(b.num_failed, 0u);
    for (size_t i = 1; i < 4; i++) {
        cr_expect_eq(b.items[i].tensor.data_bytes, 12u);
        cr_expect_eq(memcmp(b.items[i].tensor.data, b.items[0].tensor.data, 12), 0);
    }
    cr_expect(b.items[5].tensor.data_bytes == 0 && b.items[5].tensor.cosine == 1.0);
    aq_batch_deinit(&b);
}

Test(batch, sums_of_sizes_that_overflow) {
    static const uint64_t shape[1] = {UINT64_MAX / 16};
    aq_array arrays[3];
    counting_allocator memory;
    aq_batch_options o;
    aq_batch b;
    counting_init(&memory);
    memset(&o, 0, sizeof o);
    o.allocator = &memory.hooks;
    for (size_t i = 0; i < 3; i++) {
        static const char *const names[] = {"a", "b", "c"};
        arrays[i] = good_array(names[i]);
        arrays[i].num_dims = 1;
        arrays[i].shape = shape;
        arrays[i].dtype = AQ_F64;
    }
    if (SIZE_MAX < UINT64_MAX) { /* each is too large */
        cr_assert_eq(aq_quantize_batch(arrays, 3, &o, &b, &err), AQ_OK);
        cr_expect_eq(b.num_failed, 3u);
        aq_batch_deinit(&b);
    } else {
        cr_expect_eq(aq_quantize_batch(arrays, 3, &o, &b, &err), AQ_E_LIMIT);
        cr_expect_not_null(strstr(err.message, "2^64"), "%s", err.message);
        /* Two fit the sum, but no memory. */
        cr_expect_eq(aq_quantize_batch(arrays, 2, &o, &b, &err), AQ_E_NOMEM);
        cr_expect(is_zero(&b));
    }
    cr_expect_eq(aq_quantize_batch(arrays, SIZE_MAX / 2, &o, &b, &err), AQ_E_NOMEM);
    cr_assert(counting_is_clean(&memory));
}

/* ---- values that cannot be quantized ---- */

/* The error of an item begins as that of aq_quantize_into, and says which one it is. */
static bool same_error(const aq_batch_item *item, const alone *want) {
    char where[80];
    snprintf(where, sizeof where, " (tensor \"%s\", input %zu)%s", item->name,
             item->index, want->error.message + want->error.what_bytes);
    return item->status == want->status && item->error != NULL &&
           item->error->status == want->status &&
           strcmp(item->error->name, item->name) == 0 &&
           strncmp(item->error->message, want->error.message, want->error.what_bytes) ==
               0 &&
           strcmp(item->error->message + want->error.what_bytes, where) == 0 &&
           item->tensor.data == NULL && item->tensor.scales == NULL &&
           item->metrics.count == 0 && item->metrics.sum_aa == 0.0;
}

/* Puts something bad into one in three arrays that have values. */
static size_t spoil(rng *r) {
    static const float values[] = {NAN, INFINITY, -INFINITY};
    size_t count = 0;
    for (size_t i = 0; i < s.n; i++) {
        size_t n = array_values(&s.arrays[i]);
        if (n == 0 || rng_below(r, 3) != 0) continue;
        for (size_t k = 1 + rng_below(r, 3); k > 0; k--)
            set_value(i, rng_below(r, n), values[rng_below(r, 3)]);
        count++;
    }
    return count;
}

static void expect_spoiled(const alone *all, size_t num_bad, uint32_t threads) {
    counting_allocator memory;
    aq_batch_options o;
    aq_batch b;
    const aq_batch_item *first = NULL;
    size_t i;
    counting_init(&memory);
    o = planned(&memory);
    o.threads = threads;
    cr_assert_eq(aq_quantize_batch(s.arrays, s.n, &o, &b, &err), AQ_OK, "%s",
                 err.message);
    cr_assert(in_order(&b, s.n));
    cr_expect_eq(b.num_failed, num_bad);
    for (i = 0; i < s.n; i++) {
        const aq_batch_item *item = &b.items[i];
        const alone *want = &all[item->index];
        CHECK(want->status == AQ_OK ? same_item(item, want) : same_error(item, want),
              "%s: %s; alone: %s", item->name,
              item->error == NULL ? "ok" : item->error->message, want->error.message);
        if (first == NULL && item->status != AQ_OK) first = item;
    }
    if (first != NULL) {
        aq_batch none;
        o.fail_fast = true;
        cr_assert_eq(aq_quantize_batch(s.arrays, s.n, &o, &none, &err), first->status);
        cr_expect_eq(memcmp(&err, first->error, sizeof err), 0, "%s", err.message);
        cr_expect(is_zero(&none));
    }
    aq_batch_deinit(&b);
    cr_assert(counting_is_clean(&memory));
}

Test(batch, bad_values_are_told_as_of_each_alone) {
    rng r = {21};
    for (int round = 0; round < 12; round++) {
        alone *all;
        size_t num_bad;
        for (int i = 0; i < 1 + round * 10; i++)
            add_random(&r);
        if (round % 3 == 2) add_large(&r);
        num_bad = spoil(&r);
        all = each_alone(NULL);
        for (uint32_t threads = 1; threads <= 16; threads *= 4)
            expect_spoiled(all, num_bad, threads);
        alone_free(all);
        set_free();
    }
}

Test(batch, values_too_large_for_small_parameters) {
    static const uint64_t shape[2] = {30, 30};
    rng r = {2};
    alone *all;
    for (int i = 0; i < 6; i++) {
        set_add(&r, AQ_F32, shape, 2);
        s.quant[i].params = (aq_params)(i % 3);
        if (i < 3) set_value((size_t)i, 77, 3e37f);
    }
    all = each_alone(NULL);
    cr_assert(all[0].status == AQ_OK && all[1].status == AQ_E_LIMIT &&
              all[2].status == AQ_E_LIMIT);
    expect_spoiled(all, 2, 2);
    alone_free(all);
    set_free();
}

/* Fail fast, where the passes meet bad arrays in another order than that of names: "b"
 * and "d" have one scale, for which all values are looked at first. */
Test(batch, fail_fast_takes_the_first_name) {
    static const uint64_t shape[2] = {50, 3000};
    rng r = {8};
    for (unsigned which = 1; which < 32; which++) {
        aq_batch_options o;
        aq_batch b;
        char first[2] = "?";
        for (size_t i = 0; i < 5; i++) {
            set_add(&r, AQ_F32, shape, 2);
            snprintf(s.names[i], sizeof s.names[i], "%c.%zu", "cebda"[i], i);
            s.quant[i].granularity = i == 2 || i == 3 ? AQ_PER_TENSOR : AQ_PER_GROUP;
            if ((which >> i & 1) == 0) continue;
            set_value(i, 149999, NAN);
            if (first[0] > s.names[i][0] || first[0] == '?') first[0] = s.names[i][0];
        }
        memset(&o, 0, sizeof o);
        o.plan = plan_of_set;
        o.fail_fast = true;
        o.threads = 1 + which % 4;
        cr_expect_eq(aq_quantize_batch(s.arrays, s.n, &o, &b, &err), AQ_E_NONFINITE);
        cr_expect_eq(err.name[0], first[0], "%s", err.message);
        /* What the arguments show comes first. */
        s.arrays[1].dtype = AQ_I32;
        cr_expect_eq(aq_quantize_batch(s.arrays, s.n, &o, &b, &err), AQ_E_TYPE);
        cr_expect_eq(err.name[0], 'e');
        s.arrays[1].dtype = AQ_F32;
        set_free();
    }
}

/* ---- options ---- */

typedef struct plans {
    size_t calls, stop_at;
    char last[32];
    aq_quant_options put;
} plans;

static bool plan_noted(void *user, const aq_tensor *array, aq_quant_options *quant) {
    plans *p = (plans *)user;
    cr_expect(strcmp(p->last, array->name) < 0, "in name order");
    cr_expect(quant->bits == 3 && quant->group_size == 16, "begins with the options");
    cr_expect(array->layout.bits == 0 && array->layout.rows == 4 && array->data != NULL);
    snprintf(p->last, sizeof p->last, "%s", array->name);
    if (strcmp(array->name, "m") == 0) *quant = p->put;
    return ++p->calls != p->stop_at;
}

Test(batch, plan_hook) {
    static const float importance[6] = {1, 2, 3, -1, 2, 2};
    aq_array arrays[4] = {good_array("x"), good_array("m"), good_array("a"),
                          good_array("c")};
    aq_batch_options o;
    plans p;
    aq_batch b;
    memset(&o, 0, sizeof o);
    memset(&p, 0, sizeof p);
    o.quant.bits = 3;
    o.quant.group_size = 16;
    o.plan = plan_noted;
    o.plan_user = &p;
    arrays[3].dtype = AQ_I64; /* not asked about */
    p.put.bits = 8;
    cr_assert_eq(aq_quantize_batch(arrays, 4, &o, &b, &err), AQ_OK);
    cr_expect_eq(p.calls, 3u);
    cr_expect_eq(aq_batch_find(&b, "m")->tensor.layout.bits, 8u);
    cr_expect_eq(aq_batch_find(&b, "x")->tensor.layout.bits, 3u);
    cr_expect_eq(aq_batch_find(&b, "c")->status, AQ_E_TYPE);
    aq_batch_deinit(&b);
    for (int bad_plan = 0; bad_plan < 4; bad_plan++) {
        static const char *const words[] = {"7 bits", "rows 6 apart", "go together",
                                            "importance of column 3"};
        memset(&p, 0, sizeof p);
        p.put.bits = bad_plan == 0 ? 7 : 4;
        p.put.src_stride = bad_plan == 1 ? 6 : 0;
        if (bad_plan >= 2) p.put.method = AQ_WEIGHTED;
        if (bad_plan == 3) p.put.importance = importance;
        cr_assert_eq(aq_quantize_batch(arrays, 3, &o, &b, &err), AQ_OK);
        cr_expect_eq(b.num_failed, 1u);
        cr_expect_eq(aq_batch_find(&b, "m")->status, AQ_E_ARG);
        cr_expect_not_null(
            strstr(aq_batch_find(&b, "m")->error->message, words[bad_plan]));
        cr_expect_not_null(strstr(aq_batch_find(&b, "m")->error->message, "input 1"));
        aq_batch_deinit(&b);
    }
    for (size_t stop = 1; stop <= 3; stop++) {
        memset(&p, 0, sizeof p);
        p.stop_at = stop;
        cr_expect_eq(aq_quantize_batch(arrays, 4, &o, &b, &err), AQ_E_CANCELLED);
        cr_expect_eq(p.calls, stop);
        cr_expect_not_null(strstr(err.message, "plan hook"));
        cr_expect(is_zero(&b));
    }
}

Test(batch, options_that_are_wrong) {
    aq_array a = good_array("a");
    aq_allocator half;
    aq_batch_options o;
    aq_batch b;
    memset(&o, 0, sizeof o);
    o.quant.bits = 7;
    cr_expect_eq(aq_quantize_batch(&a, 1, &o, &b, &err), AQ_E_ARG);
    cr_expect_eq(aq_quantize_batch(NULL, 0, &o, &b, &err), AQ_E_ARG);
    o.quant.bits = 4;
    o.quant.column_scales = &(float){1};
    o.fail_fast = true;
    cr_expect_eq(aq_quantize_batch(&a, 1, &o, &b, &err), AQ_E_ARG);
    cr_expect_not_null(strstr(err.message, "a batch has no place for scales of columns"));
    o.quant.column_scales = NULL;
    o.fail_fast = false;
    cr_expect_eq(aq_quantize_batch(NULL, 1, &o, &b, &err), AQ_E_ARG);
    cr_expect_eq(aq_dequantize_batch(NULL, 1, &o, &b, &err), AQ_E_ARG);
    memset(&half, 0, sizeof half);
    half.free = counting_free;
    o.allocator = &half;
    cr_expect_eq(aq_quantize_batch(&a, 1, &o, &b, &err), AQ_E_ARG);
    cr_expect(is_zero(&b));
}

Test(batch, empty) {
    counting_allocator memory;
    aq_batch_options o;
    aq_batch b;
    counting_init(&memory);
    memset(&o, 0, sizeof o);
    o.allocator = &memory.hooks;
    for (int i = 0; i < 4; i++) {
        const aq_array a = good_array("a");
        const aq_tensor t = {.name = "t"};
        aq_status status = i < 2
                               ? aq_quantize_batch(i == 0 ? NULL : &a, 0, &o, &b, &err)
                               : aq_dequantize_batch(i == 2 ? NULL : &t, 0, &o, &b, &err);
        cr_expect_eq(status, AQ_OK);
        cr_expect(b.num_items == 0 && b.num_failed == 0 && b.total.count == 0);
        cr_expect_null(aq_batch_find(&b, "a"));
        aq_batch_deinit(&b);
        aq_batch_deinit(&b);
        cr_expect(is_zero(&b) && counting_is_clean(&memory));
    }
    aq_batch_deinit(NULL);
}

/* ---- progress ---- */

typedef struct steps {
    size_t calls, stop_at;
    aq_progress last;
    char name[32];
    bool good;
} steps;

static bool note_progress(void *user, const aq_progress *p) {
    steps *n = (steps *)user;
    n->calls++;
    n->good = n->good && p->tensors_done >= n->last.tensors_done &&
              p->bytes_done >= n->last.bytes_done && p->bytes_done <= p->bytes_total &&
              p->tensors_done <= p->tensors_total &&
              (p->name != NULL) == (p->tensors_done < p->tensors_total);
    n->last = *p;
    if (p->name != NULL) snprintf(n->name, sizeof n->name, "%s", p->name);
    return n->calls != n->stop_at;
}

/* 12 large arrays, of which each fourth has one scale, some bad, and many small ones. */
static void add_progress_set(rng *r) {
    static const uint64_t large[2] = {201, 30000}, small[2] = {5, 5};
    for (size_t i = 0; i < 12; i++) {
        set_add(r, AQ_F16, large, 2);
        s.quant[i].granularity = i % 4 == 0 ? AQ_PER_TENSOR : AQ_PER_GROUP;
        s.quant[i].method = AQ_MINMAX;
        if (i == 4 || i == 5) set_value(i, 201 * 30000 - 1, NAN);
    }
    for (size_t i = 0; i < 2000; i++)
        set_add(r, AQ_F32, small, 2);
}

Test(batch, progress_and_cancel_at_every_call) {
    counting_allocator memory;
    aq_batch_options o;
    aq_batch b;
    steps n;
    rng r = {12};
    size_t calls;
    counting_init(&memory);
    o = planned(&memory);
    o.progress.fn = note_progress;
    o.progress.user = &n;
    o.no_metrics = true;
    o.threads = 2;
    add_progress_set(&r);
    memset(&n, 0, sizeof n);
    n.good = true;
    cr_assert_eq(aq_quantize_batch(s.arrays, s.n, &o, &b, &err), AQ_OK, "%s",
                 err.message);
    cr_expect_eq(b.num_failed, 2u);
    aq_batch_deinit(&b);
    cr_expect(n.good && n.last.tensors_done == s.n && n.last.tensors_total == s.n);
    cr_expect_eq(n.last.bytes_total, 12u * 201 * 30000 * 2 + 2000 * 100);
    cr_expect_eq(n.last.bytes_done, n.last.bytes_total);
    calls = n.calls;
    cr_expect_geq(calls, 7u);
    for (size_t k = 1; k <= calls; k++) {
        memset(&n, 0, sizeof n);
        n.good = true;
        n.stop_at = k;
        cr_expect_eq(aq_quantize_batch(s.arrays, s.n, &o, &b, &err), AQ_E_CANCELLED);
        cr_expect_eq(n.calls, k);
        cr_expect(n.good && is_zero(&b) && counting_is_clean(&memory));
    }
    set_free();
}

/* Bytes of the first calls. */
typedef struct byte_steps {
    size_t calls;
    uint64_t done[8];
} byte_steps;

static bool note_bytes(void *user, const aq_progress *p) {
    byte_steps *n = (byte_steps *)user;
    if (n->calls < COUNT_OF(n->done)) n->done[n->calls] = p->bytes_done;
    n->calls++;
    return true;
}

/* One scale for 300 tiles of 2^17 bytes: a pass for the range and one for the codes, each a
 * half, in waves of 256. */
Test(batch, progress_of_two_passes) {
    static const uint64_t shape[2] = {300, 65536};
    static const uint64_t tiles[] = {0, 256, 300, 556, 600};
    aq_batch_options o;
    aq_batch b;
    byte_steps n;
    rng r = {16};
    memset(&n, 0, sizeof n);
    memset(&o, 0, sizeof o);
    o.quant.granularity = AQ_PER_TENSOR;
    o.progress.fn = note_bytes;
    o.progress.user = &n;
    o.no_metrics = true;
    set_add(&r, AQ_F16, shape, 2);
    cr_assert_eq(aq_quantize_batch(s.arrays, s.n, &o, &b, &err), AQ_OK);
    aq_batch_deinit(&b);
    set_free();
    cr_assert_eq(n.calls, 5u);
    for (size_t i = 0; i < 5; i++)
        cr_expect_eq(n.done[i], tiles[i] * 65536);
}

Test(batch, progress_of_an_empty_batch) {
    aq_batch_options o;
    aq_batch b;
    steps n;
    memset(&o, 0, sizeof o);
    memset(&n, 0, sizeof n);
    n.good = true;
    o.progress.fn = note_progress;
    o.progress.user = &n;
    cr_assert_eq(aq_quantize_batch(NULL, 0, &o, &b, &err), AQ_OK);
    cr_expect(n.calls == 1 && n.good && n.last.name == NULL && n.last.bytes_total == 0);
    aq_batch_deinit(&b);
}

/* ---- memory ---- */

/* Every allocation fails once; what was made before is given back. */
Test(batch, out_of_memory_everywhere) {
    counting_allocator memory;
    aq_batch_options o;
    aq_batch b;
    rng r = {14};
    aq_status status = AQ_E_NOMEM;
    size_t k = 0;
    for (int i = 0; i < 40; i++)
        add_random(&r);
    spoil(&r);
    while (status == AQ_E_NOMEM) {
        counting_init(&memory);
        memory.fail_at = ++k;
        o = planned(&memory);
        o.threads = 2;
        status = aq_quantize_batch(s.arrays, s.n, &o, &b, &err);
        if (status == AQ_OK) break;
        cr_assert_eq(status, AQ_E_NOMEM);
        cr_assert_eq(err.status, AQ_E_NOMEM);
        cr_assert(is_zero(&b) && counting_is_clean(&memory), "allocation %zu", k);
    }
    cr_expect_eq(status, AQ_OK);
    cr_expect_gt(k, 30u);
    aq_batch_deinit(&b);
    cr_assert(counting_is_clean(&memory));
    set_free();
}

/* Beside the results, a kilobyte an array and 256 KiB. */
Test(batch, memory_beside_the_results) {
    static const uint64_t small[2] = {8, 16};
    counting_allocator memory;
    aq_batch_options o;
    aq_batch b;
    rng r = {15};
    size_t results = 0;
    counting_init(&memory);
    memset(&o, 0, sizeof o);
    o.allocator = &memory.hooks;
    o.threads = 1;
    for (int i = 0; i < 4000; i++)
        set_add(&r, AQ_F32, small, 2);
    cr_assert_eq(aq_quantize_batch(s.arrays, s.n, &o, &b, &err), AQ_OK);
    results = s.n * 3 * 64; /* 64 bytes of codes; 8 scales and zero points, each in 64 */
    cr_expect_leq(memory.peak_bytes, results + s.n * 1024 + (256 << 10), "%zu",
                  memory.peak_bytes);
    aq_batch_deinit(&b);
    cr_assert(counting_is_clean(&memory));
    set_free();
}

/* ---- back to float32 ---- */

static aq_batch restored; /* quantized tensors to begin with */

/* Values as aq_tensor_rows_f32 makes them. */
static void expect_values(const aq_tensor *tensors, size_t n, uint32_t threads) {
    counting_allocator memory;
    aq_batch_options o;
    aq_batch b;
    counting_init(&memory);
    memset(&o, 0, sizeof o);
    o.allocator = &memory.hooks;
    o.threads = threads;
    cr_assert_eq(aq_dequantize_batch(tensors, n, &o, &b, &err), AQ_OK, "%s", err.message);
    cr_assert(in_order(&b, n) && b.num_failed == 0);
    for (size_t i = 0; i < n; i++) {
        const aq_batch_item *item = &b.items[i];
        const aq_tensor *in = &tensors[item->index], *t = &item->tensor;
        size_t bytes = (size_t)in->num_params * sizeof(float);
        float *want = (float *)offset_alloc(0, bytes);
        cr_assert_eq(aq_tensor_rows_f32(in, 0, in->layout.rows, want, NULL, NULL), AQ_OK);
        CHECK(strcmp(item->name, in->name) == 0 && t->dtype == AQ_F32 &&
                  t->num_dims == in->num_dims && t->layout.bits == 0 &&
                  memcmp(t->shape, in->shape, sizeof t->shape) == 0 &&
                  t->layout.rows == in->layout.rows && t->data_bytes == bytes &&
                  is_aligned(t->data) && t->data != NULL && isnan(t->cosine) &&
                  t->scales == NULL && t->params == NULL && item->metrics.count == 0,
              "%s", item->name);
        turn_le(want, bytes / sizeof *want, sizeof *want);
        CHECK(memcmp(t->data, want, bytes) == 0, "values of %s", item->name);
        offset_free(want, 0);
    }
    aq_batch_deinit(&b);
    cr_assert(counting_is_clean(&memory));
}

Test(batch, dequantize_as_each_alone) {
    static aq_tensor tensors[2 * MAX_ARRAYS];
    counting_allocator memory;
    aq_batch_options o;
    rng r = {31};
    counting_init(&memory);
    for (int round = 0; round < 6; round++) {
        size_t n;
        for (int i = 0; i < 1 + 40 * round; i++)
            add_random(&r);
        if (round == 3) add_large(&r);
        o = planned(&memory);
        cr_assert_eq(aq_quantize_batch(s.arrays, s.n, &o, &restored, &err), AQ_OK);
        n = restored.num_items;
        for (size_t i = 0; i < n; i++) {
            const aq_batch_item *item = &restored.items[i];
            const aq_array *a = &s.arrays[item->index];
            tensors[n - 1 - i] = item->tensor;
            if (i % 3 == 0)
                cr_assert_eq(aq_tensor_init(&tensors[n - 1 - i], item->name, a->dtype,
                                            a->shape, a->num_dims, a->data, NULL),
                             AQ_OK);
        }
        expect_values(tensors, n, 1);
        expect_values(tensors, n, 3);
        expect_values(tensors, n, 16);
        aq_batch_deinit(&restored);
        set_free();
    }
    cr_assert(counting_is_clean(&memory));
}

Test(batch, dequantize_keeps_nan_and_infinity) {
    static const float values[4] = {NAN, INFINITY, -INFINITY, -0.0f};
    static const uint64_t shape[1] = {4};
    aq_tensor t;
    aq_batch b;
    cr_assert_eq(aq_tensor_init(&t, "t", AQ_F32, shape, 1, values, NULL), AQ_OK);
    cr_assert_eq(aq_dequantize_batch(&t, 1, NULL, &b, &err), AQ_OK);
    cr_expect(b.num_failed == 0 && memcmp(b.items[0].tensor.data, values, 16) == 0);
    aq_batch_deinit(&b);
}

/* Tensors that are wrong in one way each, from a good quantized and a good float one. */
Test(batch, dequantize_errors) {
    static const struct {
        aq_status status;
        const char *message;
    } want[] = {
        {AQ_E_ARG, "name missing"},
        {AQ_E_ARG, "codes, scales or zero points missing"},
        {AQ_E_ARG, "codes, scales or"},
        {AQ_E_ARG, "layout was changed"},
        {AQ_E_ARG, "do not agree"},
        {AQ_E_ARG, "do not agree"},
        {AQ_E_TYPE, "int16 values are no"},
        {AQ_E_TYPE, "none values are no floats"},
        {AQ_E_ARG, "no data"},
        {AQ_E_ARG, "do not agree"},
        {AQ_E_LIMIT, "over 2^64"},
    };
    const aq_array a = good_array("a");
    aq_tensor tensors[COUNT_OF(want) + 2], quantized_one, float_one;
    char names[COUNT_OF(want) + 2][8];
    aq_batch_options o;
    aq_batch made, b;
    cr_assert_eq(aq_quantize_batch(&a, 1, NULL, &made, &err), AQ_OK);
    quantized_one = made.items[0].tensor;
    cr_assert_eq(
        aq_tensor_init(&float_one, "f", AQ_F32, good_shape, 2, good_values, NULL), AQ_OK);
    for (size_t i = 0; i < COUNT_OF(tensors); i++) {
        tensors[i] = i < 6 || i == COUNT_OF(want) ? quantized_one : float_one;
        snprintf(names[i], sizeof names[i], "t%02zu", 50 - i); /* the other way round */
        tensors[i].name = names[i];
    }
    tensors[0].name = NULL;
    tensors[1].data = NULL;
    tensors[2].scales = NULL;
    tensors[3].layout.row_bytes++;
    tensors[4].shape[0] = 5;
    tensors[5].data_bytes--;
    tensors[6].dtype = AQ_I16;
    tensors[7].dtype = AQ_DTYPE_NONE;
    tensors[8].data = NULL;
    tensors[9].data_bytes--;
    tensors[10].shape[0] = UINT64_MAX;
    cr_assert_eq(aq_dequantize_batch(tensors, COUNT_OF(tensors), NULL, &b, &err), AQ_OK);
    cr_expect(in_order(&b, COUNT_OF(tensors)));
    cr_expect_eq(b.num_failed, COUNT_OF(want));
    for (size_t i = 0; i < b.num_items; i++) {
        const aq_batch_item *item = &b.items[i];
        char where[32];
        if (item->index >= COUNT_OF(want)) {
            cr_expect_eq(item->status, AQ_OK);
            continue;
        }
        snprintf(where, sizeof where, "input %zu)", item->index);
        cr_expect_eq(item->status, want[item->index].status, "%zu", item->index);
        cr_assert_not_null(item->error);
        cr_expect_not_null(strstr(item->error->message, want[item->index].message),
                           "%zu: %s", item->index, item->error->message);
        cr_expect_not_null(strstr(item->error->message, where), "%s",
                           item->error->message);
    }
    aq_batch_deinit(&b);
    memset(&o, 0, sizeof o);
    o.fail_fast = true;
    cr_expect_eq(aq_dequantize_batch(tensors + 1, 10, &o, &b, &err), AQ_E_LIMIT);
    cr_expect_str_eq(err.name, "t40");
    tensors[2].name = tensors[1].name;
    cr_expect_eq(aq_dequantize_batch(tensors, 5, &o, &b, &err), AQ_E_DUPLICATE);
    cr_expect_not_null(strstr(err.message, "inputs 1 and 2"));
    aq_batch_deinit(&made);
}

Test(batch, dequantize_without_memory_and_cancelled) {
    static aq_tensor tensors[MAX_ARRAYS];
    counting_allocator memory;
    aq_batch_options o;
    aq_batch b;
    rng r = {41};
    steps n;
    size_t k = 0, calls;
    aq_status status = AQ_E_NOMEM;
    for (int i = 0; i < 1300; i++) {
        static const uint64_t shape[2] = {7, 9};
        set_add(&r, AQ_F32, shape, 2);
    }
    cr_assert_eq(aq_quantize_batch(s.arrays, s.n, NULL, &restored, &err), AQ_OK);
    for (size_t i = 0; i < s.n; i++)
        tensors[i] = restored.items[i].tensor;
    while (status == AQ_E_NOMEM) {
        counting_init(&memory);
        memory.fail_at = ++k;
        memset(&o, 0, sizeof o);
        o.allocator = &memory.hooks;
        o.threads = 2;
        status = aq_dequantize_batch(tensors, 20, &o, &b, &err);
        if (status != AQ_OK) cr_assert(is_zero(&b) && counting_is_clean(&memory));
    }
    cr_assert_eq(status, AQ_OK);
    cr_expect_gt(k, 22u);
    aq_batch_deinit(&b);
    counting_init(&memory);
    memset(&n, 0, sizeof n);
    n.good = true;
    o.progress.fn = note_progress;
    o.progress.user = &n;
    cr_assert_eq(aq_dequantize_batch(tensors, s.n, &o, &b, &err), AQ_OK);
    calls = n.calls;
    cr_expect(calls == 3 && n.good && n.last.bytes_done == n.last.bytes_total);
    cr_expect_eq(n.last.bytes_total, s.n * (7 * 5 + 2 * 7 * 4));
    aq_batch_deinit(&b);
    for (k = 1; k <= calls; k++) {
        memset(&n, 0, sizeof n);
        n.good = true;
        n.stop_at = k;
        cr_expect_eq(aq_dequantize_batch(tensors, s.n, &o, &b, &err), AQ_E_CANCELLED);
        cr_expect(n.good && n.calls == k && is_zero(&b) && counting_is_clean(&memory));
    }
    aq_batch_deinit(&restored);
    set_free();
}
