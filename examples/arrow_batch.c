/* arrow_batch.c - a table of weights as other libraries hand it over, by the Arrow C Data
 * Interface, becomes a table of codes, and weights again. One layer of it is bad.
 *
 *   cc arrow_batch.c -o arrow_batch -pthread -lm && ./arrow_batch */
#define ARROWQUANT_IMPLEMENTATION
#include "../arrowquant.h"

#include <math.h>
#include <stdio.h>

enum { LAYERS = 4, COLS = 256, TOTAL = (8 + 1 + 4 + 2) * COLS };

/* What pyarrow, polars, DuckDB, ... would own: struct<layer_name: utf8, weights:
 * list<float32>, shape: list<int32>>, here in static memory, with nothing to free. */
static const char names[] = "encoder.weightencoder.biasdecoder.weighthead.weight";
static const int32_t name_ends[LAYERS + 1] = {0, 14, 26, 40, 51};
static float weights[TOTAL];
static const int32_t weight_ends[] = {0, 8 * COLS, 9 * COLS, 13 * COLS, 15 * COLS};
static const int32_t dims[] = {8, COLS, COLS, 4, 2, COLS / 2, 2, COLS};
static const int32_t dim_ends[LAYERS + 1] = {0, 2, 3, 6, 8};

static void release_schema(struct ArrowSchema *s) { s->release = NULL; }
static void release_array(struct ArrowArray *a) { a->release = NULL; }
static struct ArrowSchema schema_of(const char *format, const char *name, int64_t n,
                                    struct ArrowSchema **children) {
    const struct ArrowSchema s = {format,   name, NULL,           0,   n,
                                  children, NULL, release_schema, NULL};
    return s;
}

static struct ArrowArray array_of(int64_t length, int64_t num_buffers,
                                  const void **buffers, int64_t n,
                                  struct ArrowArray **children) {
    const struct ArrowArray a = {length,  0,        0,    num_buffers,   n,
                                 buffers, children, NULL, release_array, NULL};
    return a;
}

/* Quantizes, and prints what came out. */
static aq_status quantize(const struct ArrowSchema *schema,
                          const struct ArrowArray *array, struct ArrowSchema *out_schema,
                          struct ArrowArray *out, aq_error *err) {
    aq_arrow_report report = {0}; /* with it, a bad layer does not fail the call */
    const aq_arrow_options options = {.quant = {.bits = 4, .group_size = 64},
                                      .report = &report};
    aq_status status = aq_quantize_arrow(schema, array, &options, out_schema, out, err);
    for (size_t i = 0; i < report.num_failures; i++)
        printf("left out: %s\n", report.failures[i].message);
    for (int64_t row = 0; status == AQ_OK && row < out->length; row++) {
        const int32_t *name = (const int32_t *)out->children[0]->buffers[1] + row;
        const int32_t *data = (const int32_t *)out->children[1]->buffers[1] + row;
        const double *sqnr = (const double *)out->children[11]->buffers[1] + row;
        printf("%-14.*s  %4d bytes, SQNR %.1f dB\n", name[1] - name[0],
               (const char *)out->children[0]->buffers[2] + name[0], data[1] - data[0],
               *sqnr);
    }
    aq_arrow_report_deinit(&report);
    return status;
}

int main(void) {
    for (size_t i = 0; i < TOTAL; i++)
        weights[i] = (float)(i * 7919 % 1009) / 1009.0f - 0.5f;
    weights[13 * COLS + 5] = NAN;
    struct ArrowSchema items[2] = {schema_of("f", "item", 0, NULL),
                                   schema_of("i", "item", 0, NULL)};
    struct ArrowSchema *item[2] = {&items[0], &items[1]};
    struct ArrowSchema columns[3] = {schema_of("u", "layer_name", 0, NULL),
                                     schema_of("+l", "weights", 1, &item[0]),
                                     schema_of("+l", "shape", 1, &item[1])};
    struct ArrowSchema *column[3] = {&columns[0], &columns[1], &columns[2]};
    const struct ArrowSchema schema = schema_of("+s", "", 3, column);
    const void *buffers[6][3] = {{NULL, name_ends, names}, {NULL, weight_ends, NULL},
                                 {NULL, dim_ends, NULL},   {NULL, weights, NULL},
                                 {NULL, dims, NULL},       {NULL, NULL, NULL}};
    struct ArrowArray values[2] = {array_of(TOTAL, 2, buffers[3], 0, NULL),
                                   array_of(8, 2, buffers[4], 0, NULL)};
    struct ArrowArray *value[2] = {&values[0], &values[1]};
    struct ArrowArray parts[3] = {array_of(LAYERS, 3, buffers[0], 0, NULL),
                                  array_of(LAYERS, 2, buffers[1], 1, &value[0]),
                                  array_of(LAYERS, 2, buffers[2], 1, &value[1])};
    struct ArrowArray *part[3] = {&parts[0], &parts[1], &parts[2]};
    const struct ArrowArray array = array_of(LAYERS, 1, buffers[5], 3, part);

    struct ArrowSchema codes_schema, back_schema;
    struct ArrowArray codes, back;
    aq_error err;
    if (quantize(&schema, &array, &codes_schema, &codes, &err) ||
        aq_dequantize_arrow(&codes_schema, &codes, NULL, &back_schema, &back, &err))
        return fprintf(stderr, "arrow_batch: %s\n", err.message), 1;
    const float *first = (const float *)back.children[1]->children[0]->buffers[1];
    printf("weights of %s: %.4f was %.4f\n", back_schema.children[1]->format,
           (double)first[1], (double)weights[1]);
    codes.release(&codes); /* whoever gets an array calls its release, once */
    codes_schema.release(&codes_schema);
    back.release(&back);
    back_schema.release(&back_schema);
    return 0;
}
