/* aq_compare.c - `aq compare`: how far the tensors of two models lie apart. */
#include "aq.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_VALUES = 1 << 20 }; /* converted at a time, from each side */

typedef enum outcome {
    COMPARED,    /* float values: metrics                                             */
    SAME_BYTES,  /* other types                                                       */
    OTHER_BYTES, /* other types: different_bytes                                      */
    OTHER_SHAPE, /* or, where one is not float, another type                          */
    ONLY_IN_A,
    ONLY_IN_B
} outcome;

/* One tensor name of either model. */
typedef struct comparison {
    outcome result;
    aq_tensor a, b; /* descriptions; zero where there is none */
    aq_metrics metrics;
    uint64_t different_bytes;
} comparison;

typedef struct comparer {
    const char *path_a, *path_b;
    aq_model *a, *b;
    const aq_tasks *tasks;
    float *block_a, *block_b;
    size_t block_room; /* values each block can hold */
    comparison *items;
    size_t count;
    aq_metrics total;
    uint64_t bytes_done, bytes_total; /* of A's tensors */
    progress line;
} comparer;

/*==========================================================================
 * MARK: - One tensor
 *========================================================================*/

static bool is_float(const aq_tensor *tensor) {
    return tensor->layout.bits != 0 || aq_dtype_is_float(tensor->dtype);
}

static bool same_shape(const aq_tensor *a, const aq_tensor *b) {
    return a->num_dims == b->num_dims &&
           memcmp(a->shape, b->shape, a->num_dims * sizeof a->shape[0]) == 0 &&
           a->layout.rows == b->layout.rows && a->layout.cols == b->layout.cols;
}

static bool is_comparable(const aq_tensor *a, const aq_tensor *b) {
    if (!same_shape(a, b)) return false;
    return (is_float(a) && is_float(b)) || a->dtype == b->dtype;
}

/* A block is some rows, and one row at least. */
static size_t reserve_rows(comparer *of, size_t cols) {
    size_t rows = cols < BLOCK_VALUES ? BLOCK_VALUES / (cols != 0 ? cols : 1) : 1;
    if (rows * cols > of->block_room) {
        of->block_room = rows * cols;
        of->block_a = (float *)cli_resize(of->block_a, of->block_room, sizeof(float));
        of->block_b = (float *)cli_resize(of->block_b, of->block_room, sizeof(float));
    }
    return rows;
}

static uint64_t part_of(uint64_t bytes, size_t rows_done, size_t rows) {
    return (uint64_t)((double)bytes * (double)rows_done / (double)rows);
}

static int compare_floats(comparer *of, const aq_tensor *a, const aq_tensor *b,
                          aq_metrics *out) {
    size_t row = 0, rows = a->layout.rows, cols = a->layout.cols, step;
    if (a->num_params == 0) return CLI_GOOD; /* any number of rows or columns */
    step = reserve_rows(of, cols);
    for (; row < rows; row += step) {
        size_t n = rows - row < step ? rows - row : step;
        aq_metrics part;
        aq_error err;
        if (aq_tensor_rows_f32(a, row, n, of->block_a, of->tasks, &err) != AQ_OK)
            return cli_failure(of->path_a, &err);
        if (aq_tensor_rows_f32(b, row, n, of->block_b, of->tasks, &err) != AQ_OK)
            return cli_failure(of->path_b, &err);
        if (aq_metrics_of(of->block_a, of->block_b, n * cols, of->tasks, &part, &err) !=
            AQ_OK)
            return cli_failure(of->path_b, &err);
        aq_metrics_add(out, &part);
        progress_step(&of->line, a->name,
                      of->bytes_done + part_of(tensor_bytes(a), row + n, rows),
                      of->bytes_total);
    }
    return CLI_GOOD;
}

static uint64_t count_different_bytes(const aq_tensor *a, const aq_tensor *b) {
    uint64_t different = 0;
    size_t i;
    for (i = 0; i < a->data_bytes; i++)
        different += a->data[i] != b->data[i];
    return different;
}

static int compare_data(comparer *of, comparison *item, const aq_tensor *a,
                        const aq_tensor *b) {
    if (is_float(a)) {
        item->result = COMPARED;
        return compare_floats(of, a, b, &item->metrics);
    }
    item->different_bytes = count_different_bytes(a, b);
    item->result = item->different_bytes == 0 ? SAME_BYTES : OTHER_BYTES;
    return CLI_GOOD;
}

/* Tensor i of A with tensor j of B. */
static int compare_pair(comparer *of, comparison *item, size_t i, size_t j) {
    aq_tensor a, b;
    aq_error err;
    int code = CLI_GOOD;
    if (aq_model_describe(of->b, j, &item->b, &err) != AQ_OK)
        return cli_failure(of->path_b, &err);
    item->result = OTHER_SHAPE;
    if (!is_comparable(&item->a, &item->b)) return CLI_GOOD;
    if (aq_model_tensor(of->a, i, &a, &err) != AQ_OK)
        return cli_failure(of->path_a, &err);
    if (aq_model_tensor(of->b, j, &b, &err) != AQ_OK) {
        code = cli_failure(of->path_b, &err);
    } else {
        code = compare_data(of, item, &a, &b);
        aq_tensor_release(&b);
    }
    aq_tensor_release(&a);
    aq_metrics_add(&of->total, &item->metrics);
    return code;
}

/*==========================================================================
 * MARK: - All tensors
 *========================================================================*/

static comparison *add_item(comparer *of, outcome result) {
    comparison *item;
    of->items = (comparison *)cli_resize(of->items, of->count + 1, sizeof *of->items);
    item = &of->items[of->count++];
    memset(item, 0, sizeof *item);
    item->result = result;
    return item;
}

static int sum_bytes(comparer *of) {
    size_t i, n = aq_model_count(of->a);
    for (i = 0; i < n; i++) {
        aq_tensor tensor;
        aq_error err;
        if (aq_model_describe(of->a, i, &tensor, &err) != AQ_OK)
            return cli_failure(of->path_a, &err);
        of->bytes_total += tensor_bytes(&tensor);
    }
    return CLI_GOOD;
}

/* The tensors of A in their order, then those that only B has. */
static int compare_models(comparer *of) {
    size_t i, num_a = aq_model_count(of->a), num_b = aq_model_count(of->b);
    int code = sum_bytes(of);
    aq_error err;
    for (i = 0; i < num_a && code == CLI_GOOD; i++) {
        comparison *item = add_item(of, ONLY_IN_A);
        size_t j;
        if (aq_model_describe(of->a, i, &item->a, &err) != AQ_OK)
            return cli_failure(of->path_a, &err);
        j = aq_model_index(of->b, item->a.name);
        if (j != SIZE_MAX) code = compare_pair(of, item, i, j);
        of->bytes_done += tensor_bytes(&item->a);
    }
    for (i = 0; i < num_b && code == CLI_GOOD; i++) {
        aq_tensor tensor;
        if (aq_model_describe(of->b, i, &tensor, &err) != AQ_OK)
            return cli_failure(of->path_b, &err);
        if (aq_model_index(of->a, tensor.name) == SIZE_MAX)
            add_item(of, ONLY_IN_B)->b = tensor;
    }
    return code;
}

static size_t count_result(const comparer *of, outcome result) {
    size_t i, n = 0;
    for (i = 0; i < of->count; i++)
        n += of->items[i].result == result;
    return n;
}

/*==========================================================================
 * MARK: - As text
 *========================================================================*/

/* Small errors keep three figures, and their column its width. */
static void add_error_cell(table *rows, double value) {
    char text[TEXT_ROOM];
    if (isnan(value) || isinf(value) || value == 0) {
        table_cell(rows, text_measure(text, value, 0));
        return;
    }
    snprintf(text, sizeof text, "%.2e", value);
    table_cell(rows, text);
}

static void add_row(table *rows, const comparison *item) {
    const aq_metrics *metrics = &item->metrics;
    bool measured = metrics->count != 0;
    table_name(rows, item->a.name);
    tensor_cells(rows, &item->b);
    if (item->result == SAME_BYTES) {
        table_cell(rows, "equal");
    } else {
        tensor_measure_cell(rows, measured ? metrics->cosine : (double)NAN, 6);
    }
    tensor_measure_cell(rows, measured ? metrics->sqnr_db : (double)NAN, 2);
    add_error_cell(rows, measured ? metrics->mse : (double)NAN);
    add_error_cell(rows, measured ? metrics->max_abs_error : (double)NAN);
}

/* A line for each tensor that is not a good pair. */
static void put_mismatch(buffer *out, const comparison *item) {
    const char *name = item->result == ONLY_IN_B ? item->b.name : item->a.name;
    buffer line = {NULL, 0, 0};
    switch (item->result) {
    case OTHER_BYTES:
        buffer_print(&line, "%" PRIu64 " bytes differ", item->different_bytes);
        break;
    case OTHER_SHAPE:
        buffer_print(&line, "%s ", aq_dtype_name(item->a.dtype));
        tensor_put_shape(&line, &item->a);
        buffer_print(&line, " in A, %s ", aq_dtype_name(item->b.dtype));
        tensor_put_shape(&line, &item->b);
        buffer_print(&line, " in B");
        break;
    case ONLY_IN_A:
        buffer_print(&line, "only in A");
        break;
    case ONLY_IN_B:
        buffer_print(&line, "only in B");
        break;
    case COMPARED:
    case SAME_BYTES:
        return;
    }
    buffer_visible(out, name, strlen(name));
    buffer_print(out, ": %s\n", line.data);
    buffer_free(&line);
}

static void show_text(const comparer *of) {
    const aq_metrics *total = &of->total;
    size_t pairs = count_result(of, COMPARED), equal = count_result(of, SAME_BYTES), i;
    buffer text = {NULL, 0, 0};
    char cosine[TEXT_ROOM], sqnr[TEXT_ROOM];
    table rows;
    table_init(&rows, "name|" TENSOR_HEADINGS "|cosine|SQNR|MSE|max error",
               "l" TENSOR_ALIGN "rrrr");
    for (i = 0; i < of->count; i++) {
        if (of->items[i].result <= SAME_BYTES) add_row(&rows, &of->items[i]);
    }
    table_show(&rows, &text);
    table_free(&rows);
    for (i = 0; i < of->count; i++)
        put_mismatch(&text, &of->items[i]);
    buffer_print(&text, "%zu float tensor%s compared", pairs, text_plural(pairs));
    if (equal != 0) buffer_print(&text, "; %zu of other types, equal", equal);
    if (pairs + equal != of->count)
        buffer_print(&text, "; %zu do not match", of->count - pairs - equal);
    buffer_print(&text, "\n");
    if (total->count != 0)
        buffer_print(&text, "total: cosine %s, SQNR %s dB, MSE %.3e, max error %.3e\n",
                     text_measure(cosine, total->cosine, 6),
                     text_measure(sqnr, total->sqnr_db, 2), total->mse,
                     total->max_abs_error);
    buffer_show(&text);
}

/*==========================================================================
 * MARK: - As JSON
 *========================================================================*/

static void put_pair(json *out, const comparison *item) {
    json_open(out, NULL, '{');
    tensor_json_type(out, &item->b);
    if (item->result == COMPARED) {
        tensor_json_metrics(out, &item->metrics);
    } else {
        json_unsigned(out, "different_bytes", item->different_bytes);
    }
    json_close(out, '}');
}

static void put_names(json *out, const char *key, const comparer *of, outcome result) {
    size_t i;
    json_open(out, key, '[');
    for (i = 0; i < of->count; i++) {
        const comparison *item = &of->items[i];
        if (item->result == result)
            json_string(out, NULL, result == ONLY_IN_B ? item->b.name : item->a.name);
    }
    json_close(out, ']');
}

static void put_shape_differences(json *out, const comparer *of) {
    size_t i;
    json_open(out, "shape_differs", '[');
    for (i = 0; i < of->count; i++) {
        const comparison *item = &of->items[i];
        if (item->result != OTHER_SHAPE) continue;
        json_open(out, NULL, '{');
        json_string(out, "name", item->a.name);
        tensor_json_shape(out, "shape_a", &item->a);
        json_string(out, "dtype_a", aq_dtype_name(item->a.dtype));
        tensor_json_shape(out, "shape_b", &item->b);
        json_string(out, "dtype_b", aq_dtype_name(item->b.dtype));
        json_close(out, '}');
    }
    json_close(out, ']');
}

static void show_json(const comparer *of) {
    json document = {{NULL, 0, 0}, 0, false};
    size_t i;
    json_open(&document, NULL, '{');
    json_string(&document, "a", of->path_a);
    json_string(&document, "b", of->path_b);
    json_open(&document, "tensors", '[');
    for (i = 0; i < of->count; i++) {
        if (of->items[i].result <= OTHER_BYTES) put_pair(&document, &of->items[i]);
    }
    json_close(&document, ']');
    put_shape_differences(&document, of);
    put_names(&document, "only_in_a", of, ONLY_IN_A);
    put_names(&document, "only_in_b", of, ONLY_IN_B);
    if (of->total.count != 0) {
        json_open(&document, "total", '{');
        json_unsigned(&document, "num_params", of->total.count);
        tensor_json_metrics(&document, &of->total);
        json_close(&document, '}');
    } else {
        json_null(&document, "total");
    }
    json_close(&document, '}');
    json_show(&document);
}

/*==========================================================================
 * MARK: - Command
 *========================================================================*/

static int run_comparer(comparer *of, bool as_json) {
    int code;
    progress_start(&of->line, "comparing");
    code = compare_models(of);
    progress_end(&of->line);
    if (code != CLI_GOOD) return code;
    if (as_json) {
        show_json(of);
    } else {
        show_text(of);
    }
    return count_result(of, COMPARED) + count_result(of, SAME_BYTES) == of->count
               ? CLI_GOOD
               : CLI_BAD;
}

static int compare(const cli_args *args) {
    comparer of;
    aq_threads *threads = NULL;
    aq_error err;
    int code;
    memset(&of, 0, sizeof of);
    of.path_a = args->files[0];
    of.path_b = args->files[1];
    code = tensor_open_model(of.path_a, NULL, &of.a);
    if (code == CLI_GOOD) code = tensor_open_model(of.path_b, NULL, &of.b);
    if (code == CLI_GOOD && aq_threads_create(0, NULL, &threads, &err) != AQ_OK)
        code = cli_failure("compare", &err);
    if (code == CLI_GOOD) {
        of.tasks = aq_threads_tasks(threads);
        code = run_comparer(&of, args->json);
    }
    free(of.items);
    free(of.block_a);
    free(of.block_b);
    aq_threads_destroy(threads);
    aq_model_close(of.b);
    aq_model_close(of.a);
    return code;
}

static const cli_option options[] = {CLI_OPTION_JSON, CLI_OPTIONS_END};

const cli_command command_compare = {
    .name = "compare",
    .files = "A B",
    .summary = "cosine, SQNR and errors of each tensor against an original",
    .details =
        "Compares each tensor of the model B with the tensor of that name in the\n"
        "original A, as float32: cosine, SQNR in dB, mean squared error, largest\n"
        "error. The table shows the tensors as B has them. Tensors of types that are\n"
        "not float are compared byte by byte. Status 1 when a tensor is missing on\n"
        "one side, has another shape, or has other bytes.",
    .options = options,
    .min_files = 2,
    .max_files = 2,
    .run = compare,
};
