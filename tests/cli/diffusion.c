/* diffusion.c - writes what the tests of the command need of diffusion models.
 *
 *   diffusion calibration FILE NAME COLUMNS TIMESTEPS FILL ...
 *   diffusion model FILE TIME SPATIAL STATS
 *
 * A calibration has a row of four vectors for each of TIMESTEPS, 0,40,20 for example, of
 * each tensor. FILL: grow (random, the larger the later), columns (the same, and column 7
 * of 8 the largest), constant, zero, or nan: grow with a NaN as value 3 of the last row.
 *
 * A model has the tensor w of 2 x 3 values, and the texts, where they are not "-", as its
 * columns about diffusion, whatever they are. */
#define ARROWQUANT_IMPLEMENTATION
#include "../../arrowquant.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VECTORS = 4, MAX_ROWS = 4096, MAX_VALUES = 1 << 20 };

static aq_error err;

static void check(aq_status status) {
    if (status == AQ_OK) return;
    fprintf(stderr, "diffusion: %s\n", err.message);
    exit(2);
}

static void fail(const char *what) {
    fprintf(stderr, "diffusion: %s\n", what);
    exit(2);
}

/* ---- calibration ---- */

typedef struct rows {
    aq_bytes names[MAX_ROWS];
    int32_t timesteps[MAX_ROWS];
    int32_t offsets[MAX_ROWS + 1];
    float values[MAX_VALUES];
    int32_t count, num_values;
} rows;

static float random_value(void) {
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (float)(state >> 40) / 8388608.0f - 1;
}

static void add_row(rows *to, const char *name, int32_t columns, int32_t timestep,
                    const char *fill) {
    int32_t i, n = columns * VECTORS;
    if (to->count == MAX_ROWS || n > MAX_VALUES - to->num_values) fail("too much");
    to->names[to->count].data = (const uint8_t *)name;
    to->names[to->count].size = strlen(name);
    to->timesteps[to->count++] = timestep;
    for (i = 0; i < n; i++) {
        float value = random_value() * (1 + (float)timestep / 50);
        if (strcmp(fill, "columns") == 0) value *= (float)(1 << i % 8);
        if (strcmp(fill, "constant") == 0) value = 0.5f;
        if (strcmp(fill, "zero") == 0) value = 0;
        to->values[to->num_values++] = value;
    }
    to->offsets[to->count] = to->num_values;
}

/* NAME COLUMNS TIMESTEPS FILL */
static void add_tensor(rows *to, char **argv) {
    int32_t columns = atoi(argv[1]);
    char *at = argv[2];
    while (*at != '\0') {
        add_row(to, argv[0], columns, (int32_t)strtol(at, &at, 10), argv[3]);
        if (*at == ',') at++;
    }
    if (strcmp(argv[3], "nan") == 0) to->values[to->offsets[to->count - 1] + 3] = NAN;
}

static void write_calibration(const char *path, char **argv) {
    static rows of;
    aq_field_spec fields[5];
    aq_column_values columns[3];
    aq_writer *writer;
    int i;
    memset(fields, 0, sizeof fields);
    memset(columns, 0, sizeof columns);
    fields[0].name = "layer_name";
    fields[0].type = AQ_BYTE_ARRAY;
    fields[1].name = "timestep";
    fields[1].type = AQ_INT32;
    fields[2].name = "activations";
    fields[2].type = AQ_GROUP;
    fields[2].num_children = 1;
    fields[2].logical = AQ_LOGICAL_LIST;
    fields[3].name = "list";
    fields[3].repetition = AQ_REPEATED;
    fields[3].type = AQ_GROUP;
    fields[3].num_children = 1;
    fields[4].name = "element";
    fields[4].type = AQ_FLOAT;
    for (i = 0; argv[i] != NULL && argv[i + 1] != NULL && argv[i + 2] != NULL &&
                argv[i + 3] != NULL;
         i += 4)
        add_tensor(&of, argv + i);
    columns[0].values = of.names;
    columns[1].values = of.timesteps;
    columns[0].num_values = columns[1].num_values = of.count;
    columns[2].values = of.values;
    columns[2].num_values = of.num_values;
    columns[2].list_offsets = of.offsets;
    columns[2].num_lists = of.count;
    check(aq_writer_open(path, fields, 5, NULL, &writer, &err));
    check(aq_writer_put_columns(writer, columns, 3, &err));
    check(aq_writer_end_row_group(writer, of.count, &err));
    check(aq_writer_finish(writer, &err));
}

/* ---- model ---- */

static void write_model(const char *path, char **texts) {
    static const char *const names[] = {"time_aware_quant_json", "spatial_quant_json",
                                        "activation_stats_json"};
    static const float w[6] = {1, 2, 3, 4, 5, 6};
    static const uint64_t shape[2] = {2, 3};
    static const int64_t offsets[2] = {0, 2};
    aq_field_spec fields[8];
    aq_bytes text = {(const uint8_t *)"w", 1};
    aq_column_values values;
    aq_writer *writer;
    int i;
    memset(fields, 0, sizeof fields);
    fields[0].name = "layer_name";
    fields[1].name = "shape";
    fields[1].type = AQ_GROUP;
    fields[1].num_children = 1;
    fields[1].logical = AQ_LOGICAL_LIST;
    fields[2].name = "list";
    fields[2].repetition = AQ_REPEATED;
    fields[2].type = AQ_GROUP;
    fields[2].num_children = 1;
    fields[3].name = "item";
    fields[3].type = AQ_INT64;
    fields[4].name = "data";
    for (i = 0; i < 3; i++) {
        fields[5 + i].name = names[i];
        fields[5 + i].repetition = AQ_OPTIONAL;
    }
    for (i = 0; i < 8; i++) {
        if (fields[i].type != AQ_GROUP && i != 3) fields[i].type = AQ_BYTE_ARRAY;
    }
    check(aq_writer_open(path, fields, 8, NULL, &writer, &err));
    memset(&values, 0, sizeof values);
    values.values = &text;
    values.num_values = 1;
    check(aq_writer_put_column(writer, &values, &err));
    values.values = shape;
    values.num_values = 2;
    values.large_list_offsets = offsets;
    values.num_lists = 1;
    check(aq_writer_put_column(writer, &values, &err));
    memset(&values, 0, sizeof values);
    values.values = &text;
    values.num_values = 1;
    text.data = (const uint8_t *)w;
    text.size = sizeof w;
    check(aq_writer_put_column(writer, &values, &err));
    for (i = 0; i < 3; i++) {
        uint8_t there = strcmp(texts[i], "-") != 0;
        text.data = (const uint8_t *)texts[i];
        text.size = strlen(texts[i]);
        values.num_values = there;
        values.def_levels = &there;
        values.num_levels = 1;
        check(aq_writer_put_column(writer, &values, &err));
    }
    check(aq_writer_end_row_group(writer, 1, &err));
    check(aq_writer_finish(writer, &err));
}

int main(int argc, char **argv) {
    if (argc >= 3 && strcmp(argv[1], "calibration") == 0) {
        write_calibration(argv[2], argv + 3);
    } else if (argc == 6 && strcmp(argv[1], "model") == 0) {
        write_model(argv[2], argv + 3);
    } else {
        fail("wrong arguments");
    }
    return 0;
}
