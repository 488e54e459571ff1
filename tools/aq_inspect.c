/* aq_inspect.c - `aq inspect`: the tensors of a model. */
#include "aq.h"

#include <stdlib.h>
#include <string.h>

enum { INSPECT_TIME = CLI_OPTION_OWN };

/* All tensors together. */
typedef struct totals {
    uint64_t params, bytes;
} totals;

static int read_tensors(const char *path, const aq_model *model, aq_tensor *tensors,
                        totals *sum) {
    size_t i, n = aq_model_count(model);
    aq_error err;
    memset(sum, 0, sizeof *sum);
    for (i = 0; i < n; i++) {
        if (aq_model_describe(model, i, &tensors[i], &err) != AQ_OK)
            return cli_failure(path, &err);
        sum->params += tensors[i].num_params;
        sum->bytes += tensor_bytes(&tensors[i]);
    }
    return CLI_GOOD;
}

static void show_text(const aq_model *model, const aq_tensor *tensors,
                      const totals *sum) {
    buffer text = {NULL, 0, 0};
    table rows;
    size_t i, n = aq_model_count(model);
    char params[TEXT_ROOM], bytes[TEXT_ROOM], file_bytes[TEXT_ROOM], bpw[TEXT_ROOM];
    table_init(&rows, "name|" TENSOR_HEADINGS "|bytes|bpw|cosine|SQNR",
               "l" TENSOR_ALIGN "rrrr");
    for (i = 0; i < n; i++) {
        const aq_tensor *tensor = &tensors[i];
        uint64_t tensor_size = tensor_bytes(tensor);
        table_name(&rows, tensor->name);
        tensor_cells(&rows, tensor);
        tensor_bytes_cell(&rows, tensor_size);
        tensor_measure_cell(&rows,
                            tensor_bits_per_weight(tensor_size, tensor->num_params), 2);
        tensor_measure_cell(&rows, tensor->cosine, 5);
        tensor_measure_cell(&rows, tensor->sqnr_db, 1);
    }
    table_show(&rows, &text);
    table_free(&rows);
    buffer_print(&text, "%zu tensor%s, %s parameters, %s bits per weight\n", n,
                 text_plural(n), text_count(params, sum->params),
                 text_measure(bpw, tensor_bits_per_weight(sum->bytes, sum->params), 2));
    buffer_print(&text, "%s in tensors, %s on disk (%s)\n", text_bytes(bytes, sum->bytes),
                 text_bytes(file_bytes, aq_model_file_bytes(model)),
                 tensor_format_name(aq_model_get_format(model)));
    buffer_show(&text);
}

static void put_metadata(json *out, const aq_model *model) {
    aq_key_value pair;
    size_t i;
    json_open(out, "metadata", '{');
    for (i = 0; aq_model_metadata(model, i, &pair); i++) {
        if (pair.value != NULL) {
            json_bytes(out, pair.key, pair.value, pair.value_bytes);
        } else {
            json_null(out, pair.key);
        }
    }
    json_close(out, '}');
}

static int put_tensor(json *out, const aq_tensor *tensor, bool timed) {
    uint64_t bytes = tensor_bytes(tensor);
    int code = CLI_GOOD;
    json_open(out, NULL, '{');
    tensor_json_type(out, tensor);
    json_unsigned(out, "data_bytes", tensor->data_bytes);
    json_unsigned(out, "bytes", bytes);
    json_measure(out, "bits_per_weight",
                 tensor_bits_per_weight(bytes, tensor->num_params));
    json_measure(out, "cosine", tensor->cosine);
    json_measure(out, "sqnr_db", tensor->sqnr_db);
    json_measure(out, "max_abs_error", tensor->max_abs_error);
    if (timed) code = diffusion_json(out, tensor);
    json_close(out, '}');
    return code;
}

static int show_json(const cli_args *args, const aq_model *model,
                     const aq_tensor *tensors, const totals *sum) {
    json document = {{NULL, 0, 0}, 0, false};
    bool timed = cli_has(args, INSPECT_TIME);
    size_t i, n = aq_model_count(model);
    int code = CLI_GOOD;
    json_open(&document, NULL, '{');
    json_string(&document, "file", args->files[0]);
    json_string(&document, "format", tensor_format_name(aq_model_get_format(model)));
    json_unsigned(&document, "file_bytes", aq_model_file_bytes(model));
    json_unsigned(&document, "num_tensors", n);
    json_unsigned(&document, "num_params", sum->params);
    json_unsigned(&document, "tensor_bytes", sum->bytes);
    json_measure(&document, "bits_per_weight",
                 tensor_bits_per_weight(sum->bytes, sum->params));
    if (timed) json_string(&document, "modality", diffusion_modality(model, tensors));
    put_metadata(&document, model);
    json_open(&document, "tensors", '[');
    for (i = 0; i < n && code == CLI_GOOD; i++)
        code = put_tensor(&document, &tensors[i], timed);
    json_close(&document, ']');
    json_close(&document, '}');
    if (code == CLI_GOOD) {
        json_show(&document);
    } else {
        buffer_free(&document.text);
    }
    return code;
}

static int inspect(const cli_args *args) {
    const char *path = args->files[0];
    aq_model *model;
    aq_tensor *tensors;
    totals sum;
    int code = tensor_open_model(path, NULL, &model);
    if (code != CLI_GOOD) return code;
    tensors = (aq_tensor *)cli_resize(NULL, aq_model_count(model) + 1, sizeof *tensors);
    code = read_tensors(path, model, tensors, &sum);
    if (code == CLI_GOOD) {
        if (args->json) {
            code = show_json(args, model, tensors, &sum);
        } else if (cli_has(args, INSPECT_TIME)) {
            code = diffusion_text(model, tensors);
        } else {
            show_text(model, tensors, &sum);
        }
    }
    free(tensors);
    aq_model_close(model);
    return code;
}

static const cli_option options[] = {
    {"time", NULL, INSPECT_TIME, false,
     "of a diffusion model: the groups of timesteps of each\n"
     "tensor, with scale and zero point of its input's codes"},
    CLI_OPTION_JSON,
    CLI_OPTIONS_END};

const cli_command command_inspect = {
    .name = "inspect",
    .files = "MODEL",
    .summary = "the tensors of a model: types, sizes, recorded errors",
    .details =
        "Shows each tensor of MODEL (Parquet model file or directory, safetensors, the\n"
        "index or the directory of its shards, .npy): name, shape, original type, bits\n"
        "of a code (of a codebook: codebook4), weights that share a scale (with u8 or\n"
        "f16 where its parameters are that small), bytes with scales and zero points,\n"
        "bits per weight, and cosine and SQNR (dB) against the original where they are\n"
        "recorded.\n"
        "With --time, of each tensor that a calibration has said something about: its\n"
        "groups of timesteps; how far the scale jumps to that of the next one, as a\n"
        "share, the score of both jumps (1: none), and over 30 % the severity of this\n"
        "violation; the range of its input, and factors that scale it.",
    .options = options,
    .min_files = 1,
    .max_files = 1,
    .run = inspect,
};
