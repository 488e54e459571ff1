/* Arrow tables and many threads, also under ThreadSanitizer: the same table from any
 * number of threads, and parts of arrays that are released by all of them at once. */
#include "arrow_build.h"

#include <criterion/criterion.h>

#include <pthread.h>
#include <sched.h>

enum { ROWS = 60, VALUES = 4096, LARGE = 400000, MAX_THREADS = 16 };

static float values[LARGE];
static arrow_layer layers[ROWS];
static char names[ROWS][8];

static void make_layers(void) {
    rng r = {23};
    rng_floats(&r, values, LARGE, 1.0f);
    for (size_t i = 0; i < ROWS; i++) {
        memset(&layers[i], 0, sizeof layers[i]);
        snprintf(names[i], sizeof names[i], "%02zu", i * 37 % ROWS);
        layers[i].name = names[i];
        layers[i].values = values + i;
        layers[i].count = i % 20 == 7 ? LARGE - ROWS : VALUES - i;
    }
}

typedef struct table {
    struct ArrowSchema schema;
    struct ArrowArray array;
} table;

static aq_status quantize(const aq_arrow_options *o, table *out) {
    arrow_form f;
    table in;
    aq_status status;
    memset(&f, 0, sizeof f);
    arrow_table(&f, layers, ROWS, &in.schema, &in.array);
    status = aq_quantize_arrow(&in.schema, &in.array, o, &out->schema, &out->array, NULL);
    in.schema.release(&in.schema);
    in.array.release(&in.array);
    return status;
}

/* Codes and scales of two tables. */
static bool same_table(const table *a, const table *b) {
    for (int c = 1; c < 4; c++) {
        const struct ArrowArray *x = a->array.children[c], *y = b->array.children[c];
        const int32_t *ends = (const int32_t *)x->buffers[1];
        size_t bytes = (size_t)ends[x->length];
        if (x->length != y->length ||
            memcmp(ends, y->buffers[1], ((size_t)x->length + 1) * 4) != 0)
            return false;
        if (c > 1) x = x->children[0];
        if (c > 1) y = y->children[0];
        if (c > 1) bytes *= sizeof(float);
        if (memcmp(x->buffers[x->n_buffers - 1], y->buffers[y->n_buffers - 1], bytes))
            return false;
    }
    return true;
}

Test(threads_arrow, any_number_of_threads) {
    aq_arrow_options o;
    table one, many;
    memset(&o, 0, sizeof o);
    make_layers();
    o.threads = 1;
    cr_assert_eq(quantize(&o, &one), AQ_OK);
    for (o.threads = 2; o.threads <= MAX_THREADS; o.threads++) {
        counting_allocator memory;
        counting_init(&memory);
        o.allocator = &memory.hooks;
        cr_assert_eq(quantize(&o, &many), AQ_OK);
        cr_assert(same_table(&one, &many));
        many.schema.release(&many.schema);
        many.array.release(&many.array);
        cr_assert(counting_is_clean(&memory));
    }
    one.schema.release(&one.schema);
    one.array.release(&one.array);
    cr_assert_eq(arrow_live, 0);
}

/* ---- released by many at once ---- */

/* What a thread releases. */
typedef struct part {
    struct ArrowArray array;
    struct ArrowSchema schema;
    const int *go;
    size_t sum;
} part;

static void *release_part(void *arg) {
    part *p = (part *)arg;
    while (!__atomic_load_n(p->go, __ATOMIC_ACQUIRE))
        sched_yield();
    p->sum = (size_t)p->array.length;
    if (p->array.n_buffers == 3 && p->array.length == 1) /* the last byte of its data */
        p->sum += ((const uint8_t *)p->array.buffers[2])[0];
    p->array.release(&p->array);
    if (p->schema.release != NULL) p->schema.release(&p->schema);
    return NULL;
}

/* Each child to a thread of its own, the rest to one more, all let go at a time. */
static void release_by_threads(struct ArrowArray *array, struct ArrowSchema *schema) {
    static part parts[32];
    pthread_t threads[32];
    int go = 0;
    size_t n = (size_t)array->n_children;
    cr_assert_lt(n, 31);
    memset(parts, 0, sizeof parts);
    for (size_t i = 0; i < n; i++) {
        parts[i].array = *array->children[i];
        array->children[i]->release = NULL;
        if (schema == NULL) continue;
        parts[i].schema = *schema->children[i];
        schema->children[i]->release = NULL;
    }
    parts[n].array = *array;
    array->release = NULL;
    if (schema != NULL) {
        parts[n].schema = *schema;
        schema->release = NULL;
    }
    for (size_t i = 0; i <= n; i++) {
        parts[i].go = &go;
        cr_assert_eq(pthread_create(&threads[i], NULL, release_part, &parts[i]), 0);
    }
    __atomic_store_n(&go, 1, __ATOMIC_RELEASE);
    for (size_t i = 0; i <= n; i++)
        pthread_join(threads[i], NULL);
}

Test(threads_arrow, columns_released_at_once) {
    make_layers();
    for (int round = 0; round < 10; round++) {
        counting_allocator memory;
        aq_arrow_options o;
        table out;
        memset(&o, 0, sizeof o);
        counting_init(&memory);
        o.allocator = &memory.hooks;
        o.threads = 2;
        cr_assert_eq(quantize(&o, &out), AQ_OK);
        release_by_threads(&out.array, &out.schema);
        cr_assert(counting_is_clean(&memory));
    }
}

#ifndef AQ_NO_WRITER

/* The columns of a model's tensor share it and the mapped file. */
Test(threads_arrow, a_model_released_at_once) {
    static const uint64_t shape[2] = {16, 256};
    aq_quant_options quant;
    aq_batch_options bo;
    aq_array arrays[3];
    aq_batch batch;
    aq_tensor tensors[3];
    temp_dir dir;
    char path[300];
    memset(&quant, 0, sizeof quant);
    memset(&bo, 0, sizeof bo);
    memset(arrays, 0, sizeof arrays);
    make_layers();
    for (size_t i = 0; i < 3; i++) {
        arrays[i].name = names[i];
        arrays[i].dtype = AQ_F32;
        arrays[i].num_dims = 2;
        arrays[i].shape = shape;
        arrays[i].data = values + i;
    }
    cr_assert(temp_dir_make(&dir));
    temp_dir_file(&dir, "m.parquet", path, sizeof path);
    cr_assert_eq(aq_quantize_batch(arrays, 3, &bo, &batch, NULL), AQ_OK);
    for (size_t i = 0; i < 3; i++)
        tensors[i] = batch.items[i].tensor;
    cr_assert_eq(aq_model_save(path, tensors, 3, NULL, NULL), AQ_OK);
    aq_batch_deinit(&batch);
    for (int round = 0; round < 10; round++) {
        struct ArrowArrayStream stream;
        struct ArrowArray array;
        counting_allocator memory;
        aq_model_options mo;
        aq_model *model;
        memset(&mo, 0, sizeof mo);
        counting_init(&memory);
        mo.allocator = &memory.hooks;
        cr_assert_eq(aq_model_open(path, &mo, &model, NULL), AQ_OK);
        cr_assert_eq(aq_model_export_arrow_stream(model, &stream, NULL), AQ_OK);
        aq_model_close(model);
        for (size_t i = 0; i < 3; i++) {
            cr_assert_eq(stream.get_next(&stream, &array), 0);
            if (i == 2) stream.release(&stream); /* the last arrays hold the file */
            release_by_threads(&array, NULL);
        }
        cr_assert(counting_is_clean(&memory));
    }
    temp_dir_remove(&dir);
}

#endif
