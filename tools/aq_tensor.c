/* aq_tensor.c - models and tensors as people and machines see them. */
#include "aq.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

int tensor_open_model(const char *path, const aq_model_options *options,
                      aq_model **out_model) {
    aq_model_options how;
    aq_error err;
    memset(&how, 0, sizeof how);
    if (options != NULL) how = *options;
    how.log = cli_log(path);
    if (aq_model_open(path, &how, out_model, &err) != AQ_OK)
        return cli_failure(path, &err);
    return CLI_GOOD;
}

const char *tensor_format_name(aq_model_format format) {
    switch (format) {
    case AQ_MODEL_PARQUET:
        return "parquet";
    case AQ_MODEL_SAFETENSORS:
        return "safetensors";
    case AQ_MODEL_DIRECTORY:
        return "directory";
    case AQ_MODEL_SHARDS:
        return "shards";
    case AQ_MODEL_NPY:
        return "npy";
    case AQ_MODEL_AUTO:
        break;
    }
    return "unknown";
}

uint64_t tensor_bytes(const aq_tensor *tensor) {
    const aq_layout *layout = &tensor->layout;
    uint64_t parameters = layout->params_bytes;
    if (layout->bits == 0) return tensor->data_bytes;
    if (layout->params == AQ_PARAMS_F32)
        parameters = 2 * sizeof(float) * (uint64_t)layout->num_groups;
    return tensor->data_bytes + parameters;
}

double tensor_bits_per_weight(uint64_t bytes, uint64_t num_params) {
    return num_params != 0 ? 8 * (double)bytes / (double)num_params : (double)NAN;
}

/* How the weights share their scales: "128" in a row, a whole row, rows, the tensor; and
 * how these are stored, unless that is float32 or what a codebook always has. */
static void put_group(buffer *out, const aq_layout *layout) {
    bool small = layout->params != AQ_PARAMS_F32;
    if (layout->bits == 0) {
        buffer_print(out, "-");
    } else if (layout->num_groups <= 1 && !small) {
        buffer_print(out, "tensor");
    } else if (layout->group_rows > 1) {
        buffer_print(out, "%zu rows", layout->group_rows);
    } else if (layout->group_cols >= layout->cols) {
        buffer_print(out, "row");
    } else {
        buffer_print(out, "%zu", layout->group_cols);
    }
    if (layout->bits != 0 && small && !layout->codebook)
        buffer_print(out, layout->params == AQ_PARAMS_F16 ? " f16" : " u8");
}

void tensor_put_shape(buffer *out, const aq_tensor *tensor) {
    uint32_t i;
    if (tensor->num_dims == 0) buffer_print(out, "scalar");
    for (i = 0; i < tensor->num_dims; i++)
        buffer_print(out, "%s%" PRIu64, i != 0 ? "x" : "", tensor->shape[i]);
}

void tensor_cells(table *rows, const aq_tensor *tensor) {
    buffer text = {NULL, 0, 0};
    tensor_put_shape(&text, tensor);
    table_cell(rows, text.data);
    table_cell(rows, aq_dtype_name(tensor->dtype));

    text.size = 0;
    if (tensor->layout.bits != 0) {
        buffer_print(&text, "%s%" PRIu32, tensor->layout.codebook ? "codebook" : "",
                     tensor->layout.bits);
    } else {
        buffer_print(&text, "-");
    }
    table_cell(rows, text.data);

    text.size = 0;
    put_group(&text, &tensor->layout);
    table_cell(rows, text.data);
    buffer_free(&text);
}

void tensor_measure_cell(table *rows, double value, int decimals) {
    char text[TEXT_ROOM];
    table_cell(rows, text_measure(text, value, decimals));
}

void tensor_bytes_cell(table *rows, uint64_t bytes) {
    char text[TEXT_ROOM];
    table_cell(rows, text_bytes(text, bytes));
}

void tensor_json_shape(json *out, const char *key, const aq_tensor *tensor) {
    uint32_t i;
    json_open(out, key, '[');
    for (i = 0; i < tensor->num_dims; i++)
        json_unsigned(out, NULL, tensor->shape[i]);
    json_close(out, ']');
}

void tensor_json_type(json *out, const aq_tensor *tensor) {
    static const char *const params[] = {"float32", "float16", "uint8"};
    static const char *const granularities[] = {"group", "channel", "tensor"};
    char type[TEXT_ROOM] = "none";
    uint32_t bits = tensor->layout.bits;
    if (bits != 0)
        snprintf(type, sizeof type, "%s%" PRIu32,
                 tensor->layout.codebook ? "codebook" : "int", bits);
    json_string(out, "name", tensor->name);
    tensor_json_shape(out, "shape", tensor);
    json_string(out, "dtype", aq_dtype_name(tensor->dtype));
    json_unsigned(out, "num_params", tensor->num_params);
    json_string(out, "quant_type", type);
    json_unsigned(out, "bit_width", bits);
    json_string(out, "granularity",
                bits != 0 ? granularities[tensor->layout.granularity] : NULL);
    if (bits != 0) {
        json_unsigned(out, "group_size", tensor->layout.group_cols);
        json_unsigned(out, "group_rows", tensor->layout.group_rows);
    } else {
        json_null(out, "group_size");
        json_null(out, "group_rows");
    }
    json_string(out, "params_type", bits != 0 ? params[tensor->layout.params] : NULL);
}

static void put_metric(json *out, const char *key, bool measured, double value) {
    if (measured) {
        json_number(out, key, value);
    } else {
        json_null(out, key);
    }
}

void tensor_json_metrics(json *out, const aq_metrics *metrics) {
    bool measured = metrics->count != 0;
    put_metric(out, "cosine", measured, metrics->cosine);
    put_metric(out, "sqnr_db", measured, metrics->sqnr_db);
    put_metric(out, "mse", measured, metrics->mse);
    put_metric(out, "max_abs_error", measured, metrics->max_abs_error);
}
