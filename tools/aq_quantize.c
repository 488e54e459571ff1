/* aq_quantize.c - `aq quantize`: its options, and which tensor gets which bits. */
#include "aq.h"

#include <regex.h>
#include <stdlib.h>
#include <string.h>

enum {
    QUANTIZE_BITS = CLI_OPTION_OWN,
    QUANTIZE_GROUP_SIZE,
    QUANTIZE_GRANULARITY,
    QUANTIZE_SYMMETRIC,
    QUANTIZE_METHOD,
    QUANTIZE_SCALES,
    QUANTIZE_CODEBOOK,
    QUANTIZE_TENSOR,
    QUANTIZE_KEEP,
    QUANTIZE_DRY_RUN
};

/*==========================================================================
 * MARK: - Rules: --tensor and --keep
 *========================================================================*/

typedef struct rule {
    const cli_setting *from;
    regex_t names;
    uint32_t bits; /* 0 = keep */
    bool used;     /* it has matched a tensor */
} rule;

typedef struct rules {
    rule *items;
    size_t count;
} rules;

static bool parse_bits(const char *text, uint32_t *out_bits) {
    return cli_parse_number(text, 2, 8, out_bits) &&
           (*out_bits == 2 || *out_bits == 4 || *out_bits == 8);
}

static void free_rules(rules *of) {
    size_t i;
    for (i = 0; i < of->count; i++)
        regfree(&of->items[i].names);
    free(of->items);
}

/* Compiles the regular expression text[0..length). */
static int compile_names(const cli_command *command, const char *text, size_t length,
                         regex_t *out) {
    buffer pattern = {NULL, 0, 0};
    char why[128];
    int failed;
    buffer_put(&pattern, text, length);
    failed = regcomp(out, pattern.data, REG_EXTENDED | REG_NOSUB);
    if (failed != 0) {
        regerror(failed, out, why, sizeof why);
        cli_usage_error(command, "regular expression \"%s\": %s", pattern.data, why);
    }
    buffer_free(&pattern);
    return failed != 0 ? CLI_ERROR : CLI_GOOD;
}

static int add_rule(const cli_args *args, const cli_setting *setting, rules *out) {
    size_t length = strlen(setting->value);
    rule next;
    int code;
    memset(&next, 0, sizeof next);
    next.from = setting;
    if (setting->id == QUANTIZE_TENSOR) {
        const char *equals = strrchr(setting->value, '=');
        if (equals == NULL || !parse_bits(equals + 1, &next.bits))
            return cli_usage_error(
                args->command,
                "--tensor takes REGEX=BITS with 2, 4 or 8 bits, not \"%s\"",
                setting->value);
        length = (size_t)(equals - setting->value);
    }
    code = compile_names(args->command, setting->value, length, &next.names);
    if (code != CLI_GOOD) return code;
    out->items = (rule *)cli_resize(out->items, out->count + 1, sizeof *out->items);
    out->items[out->count++] = next;
    return CLI_GOOD;
}

/* A tensor that can be quantized at all. */
static bool is_quantizable(const aq_tensor *tensor) {
    return aq_dtype_is_float(tensor->dtype) && tensor->num_params != 0;
}

/* --keep wins over --tensor; of several --tensor that match, the last wins. */
static bool plan_tensor(void *user, const aq_tensor *tensor, aq_plan *plan) {
    rules *of = (rules *)user;
    bool keep = false;
    uint32_t bits = 0;
    size_t i;
    for (i = 0; i < of->count; i++) {
        rule *item = &of->items[i];
        if (item->bits != 0 && !is_quantizable(tensor)) continue;
        if (regexec(&item->names, tensor->name, 0, NULL, 0) != 0) continue;
        item->used = true;
        if (item->bits != 0) {
            bits = item->bits;
        } else {
            keep = true;
        }
    }
    if (keep) {
        plan->keep = true;
    } else if (bits != 0) {
        plan->keep = false;
        plan->quant.bits = bits;
        if (bits == 8) plan->quant.codebook = false;
    }
    return true;
}

/* Goes through the names once before anything is written: a rule that concerns no tensor
 * is a mistake. */
static int check_rules(const cli_args *args, rules *of) {
    const char *path = args->files[0];
    aq_model *model;
    size_t i, n;
    int code = tensor_open_model(path, &model);
    if (code != CLI_GOOD) return code;
    n = aq_model_count(model);
    for (i = 0; i < n && code == CLI_GOOD; i++) {
        aq_tensor tensor;
        aq_plan unused;
        aq_error err;
        memset(&unused, 0, sizeof unused);
        if (aq_model_describe(model, i, &tensor, &err) != AQ_OK) {
            code = cli_failure(path, &err);
        } else {
            plan_tensor(of, &tensor, &unused);
        }
    }
    aq_model_close(model);
    for (i = 0; i < of->count && code == CLI_GOOD; i++) {
        const rule *item = &of->items[i];
        if (item->used) continue;
        code = cli_error(path, "no %stensor has a name that matches %s %s",
                         item->bits != 0 ? "float " : "",
                         item->bits != 0 ? "--tensor" : "--keep", item->from->value);
    }
    return code;
}

/*==========================================================================
 * MARK: - Options
 *========================================================================*/

/* Position of a word in a list that ends with NULL; -1 = it is not there. */
static int find_word(const char *text, const char *const *words) {
    int i;
    for (i = 0; words[i] != NULL; i++) {
        if (strcmp(text, words[i]) == 0) return i;
    }
    return -1;
}

static bool parse_granularity(const char *text, aq_granularity *out) {
    static const char *const names[] = {"group", "channel", "tensor", NULL};
    int i = find_word(text, names);
    *out = (aq_granularity)i;
    return i >= 0;
}

static bool parse_scales(const char *text, aq_params *out) {
    static const char *const names[] = {"f32", "f16", "u8", NULL};
    int i = find_word(text, names);
    *out = (aq_params)i;
    return i >= 0;
}

static int parse_method(const cli_args *args, const char *text, aq_method *out) {
    static const char *const names[] = {"auto",   "minmax",   "refine",
                                        "search", "weighted", NULL};
    int i = find_word(text, names);
    *out = (aq_method)i;
    if (i <= 0)
        return cli_usage_error(
            args->command,
            "--method takes minmax, refine, search or weighted, not \"%s\"", text);
    if (*out == AQ_WEIGHTED)
        return cli_usage_error(args->command,
                               "--method weighted needs the importance of each column, "
                               "from --calibration, which this version does not have");
    return CLI_GOOD;
}

static int apply_setting(const cli_args *args, const cli_setting *setting,
                         aq_job_options *options, rules *of) {
    aq_quant_options *quant = &options->quant;
    const char *value = setting->value;
    uint32_t number;
    switch (setting->id) {
    case QUANTIZE_BITS:
        if (parse_bits(value, &quant->bits)) break;
        return cli_usage_error(args->command, "--bits takes 2, 4 or 8, not \"%s\"",
                               value);
    case QUANTIZE_GROUP_SIZE:
        if (!cli_parse_number(value, AQ_MIN_GROUP_SIZE, UINT32_MAX, &number))
            return cli_usage_error(args->command,
                                   "--group-size takes a number from %d, not \"%s\"",
                                   AQ_MIN_GROUP_SIZE, value);
        quant->group_size = number;
        break;
    case QUANTIZE_GRANULARITY:
        if (parse_granularity(value, &quant->granularity)) break;
        return cli_usage_error(args->command,
                               "--granularity takes group, channel or tensor, not \"%s\"",
                               value);
    case QUANTIZE_SYMMETRIC:
        quant->symmetric = true;
        break;
    case QUANTIZE_METHOD:
        return parse_method(args, value, &quant->method);
    case QUANTIZE_SCALES:
        if (parse_scales(value, &quant->params)) break;
        return cli_usage_error(args->command, "--scales takes f32, f16 or u8, not \"%s\"",
                               value);
    case QUANTIZE_CODEBOOK:
        quant->codebook = true;
        break;
    case QUANTIZE_DRY_RUN:
        options->dry_run = true;
        break;
    case QUANTIZE_TENSOR:
    case QUANTIZE_KEEP:
        return add_rule(args, setting, of);
    default:
        break;
    }
    return CLI_GOOD;
}

/* Options that exclude each other. */
static int check_settings(const cli_args *args, aq_quant_options *quant) {
    const cli_command *command = args->command;
    if (quant->granularity != AQ_PER_GROUP && cli_has(args, QUANTIZE_GROUP_SIZE))
        return cli_usage_error(
            command, "--group-size has a meaning with --granularity group only");
    if (quant->codebook && (quant->bits == 8 || quant->symmetric))
        return cli_usage_error(command, "--codebook is for 2 or 4 bits, not %s",
                               quant->symmetric ? "--symmetric" : "8");
    if (quant->codebook && cli_has(args, QUANTIZE_SCALES) &&
        quant->params != AQ_PARAMS_U8)
        return cli_usage_error(command, "--codebook has --scales u8 only");
    if (quant->codebook) quant->params = AQ_PARAMS_U8;
    if (quant->params != AQ_PARAMS_F32 && quant->granularity == AQ_PER_TENSOR)
        return cli_usage_error(command,
                               "--granularity tensor has --scales f32 only, and no "
                               "--codebook");
    return CLI_GOOD;
}

static int read_settings(const cli_args *args, aq_job_options *options, rules *of) {
    size_t i;
    int code;
    for (i = 0; i < args->num_settings; i++) {
        code = apply_setting(args, &args->settings[i], options, of);
        if (code != CLI_GOOD) return code;
    }
    code = check_settings(args, &options->quant);
    if (code != CLI_GOOD) return code;
    return of->count != 0 ? check_rules(args, of) : CLI_GOOD;
}

static int quantize(const cli_args *args) {
    aq_job_options options;
    rules of = {NULL, 0};
    int code;
    memset(&options, 0, sizeof options);
    options.operation = AQ_QUANTIZE;
    options.plan = plan_tensor;
    options.plan_user = &of;
    code = read_settings(args, &options, &of);
    if (code == CLI_GOOD) code = job_run(args, &options);
    free_rules(&of);
    return code;
}

static const cli_option quantize_options[] = {
    {"bits", "2|4|8", QUANTIZE_BITS, false, "bits of a code (default: 4)"},
    {"group-size", "N", QUANTIZE_GROUP_SIZE, false,
     "weights of a row that share a scale (default: 128)"},
    {"granularity", "group|channel|tensor", QUANTIZE_GRANULARITY, false,
     "a scale for each group (default), row or tensor"},
    {"symmetric", NULL, QUANTIZE_SYMMETRIC, false,
     "zero point in the middle of the codes"},
    {"method", "minmax|refine|search|weighted", QUANTIZE_METHOD, false,
     "how scales of even steps are chosen: refine (the\n"
     "default) loses less than minmax, search least, and\n"
     "is by far the slowest; weighted needs a calibration\n"
     "and is not there yet"},
    {"scales", "f32|f16|u8", QUANTIZE_SCALES, false,
     "how scale and zero point of a group are stored: in\n"
     "64 bits (default), 32 or 16; with --symmetric f16\n"
     "and u8 take half of that"},
    {"codebook", NULL, QUANTIZE_CODEBOOK, false,
     "instead of even steps 4 or 16 levels that lie closer\n"
     "around zero, and 8 bits a group; tensors of 8 bits\n"
     "have even steps with --scales u8"},
    {"tensor", "REGEX=BITS", QUANTIZE_TENSOR, true,
     "bits of the float tensors whose name matches, also\n"
     "those kept by default; the last match counts"},
    {"keep", "REGEX", QUANTIZE_KEEP, true,
     "keep tensors whose name matches as they are,\n"
     "whatever --tensor says"},
    {"dry-run", NULL, QUANTIZE_DRY_RUN, false,
     "show the plan and the sizes; write nothing"},
    CLI_OPTION_THREADS,
    CLI_OPTION_JSON,
    CLI_OPTIONS_END};

const cli_command command_quantize = {
    .name = "quantize",
    .files = "IN OUT",
    .summary = "write a model with 2, 4 or 8 bits a weight",
    .details =
        "Quantizes the float tensors of the model IN (safetensors, the index or the\n"
        "directory of its shards, Parquet model file or directory, .npy) into the\n"
        "Parquet model OUT, which appears under its name when it is whole. Tensors of\n"
        "one dimension, empty ones and those that are not float are kept as they are.\n"
        "REGEX is a POSIX extended regular expression, found anywhere in a name; one\n"
        "that matches no tensor is an error.",
    .options = quantize_options,
    .min_files = 2,
    .max_files = 2,
    .run = quantize,
};
