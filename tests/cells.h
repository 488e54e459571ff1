/* cells.h - model files that are written cell by cell, to hold what the library would not
 * write. Beside files.h. */
#ifndef TEST_CELLS_H
#define TEST_CELLS_H

#include "files.h"

#define CELL_LEAF(n, t)                                                                  \
    { .name = n, .repetition = AQ_OPTIONAL, .type = t }
#define CELL_LIST(n, t)                                                                  \
    {.name = n, .type = AQ_GROUP, .num_children = 1},                                    \
        {.name = "list",                                                                 \
         .type = AQ_GROUP,                                                               \
         .repetition = AQ_REPEATED,                                                      \
         .num_children = 1},                                                             \
    {                                                                                    \
        .name = "element", .type = t                                                     \
    }

/* NULL = null. */
SUPPORT void put_cell(aq_writer *w, const void *value) {
    uint8_t def = value != NULL;
    aq_column_values v = {value, value != NULL, &def, .num_levels = 1};
    ASSERT_OK(aq_writer_put_column(w, &v, &err));
}

SUPPORT void put_text(aq_writer *w, const char *text) {
    aq_bytes b = {(const uint8_t *)text, text == NULL ? 0 : strlen(text)};
    put_cell(w, text == NULL ? NULL : &b);
}

SUPPORT void put_list(aq_writer *w, const void *values, int64_t count) {
    const int64_t offsets[2] = {0, count};
    aq_column_values v = {.values = values, .num_values = count};
    v.large_list_offsets = offsets;
    v.num_lists = 1;
    ASSERT_OK(aq_writer_put_column(w, &v, &err));
}

/* A calibration file; then rows, each a row group. */
SUPPORT aq_writer *open_calibration(const char *path) {
    const aq_field_spec fields[] = {CELL_LEAF("layer_name", AQ_BYTE_ARRAY),
                                    CELL_LEAF("timestep", AQ_INT32),
                                    CELL_LIST("activations", AQ_FLOAT)};
    aq_writer *w;
    ASSERT_OK(
        aq_writer_open(path, fields, sizeof fields / sizeof *fields, NULL, &w, &err));
    return w;
}

SUPPORT void put_activations(aq_writer *w, const char *name, int32_t timestep,
                             const float *x, size_t count) {
    put_text(w, name);
    put_cell(w, &timestep);
    put_list(w, x, (int64_t)count);
    ASSERT_OK(aq_writer_end_row_group(w, 1, &err));
}

#endif
