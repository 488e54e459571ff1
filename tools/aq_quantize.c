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
    QUANTIZE_MIN_COSINE,
    QUANTIZE_TARGET_BPW,
    QUANTIZE_TARGET_SIZE,
    QUANTIZE_FAIL_FAST,
    QUANTIZE_CALIBRATION,
    QUANTIZE_TIME_GROUPS,
    QUANTIZE_TIME_SPLIT,
    QUANTIZE_ACTIVATION_BITS,
    QUANTIZE_OPTIMIZE_GROUPS,
    QUANTIZE_SMOOTH_GROUPS,
    QUANTIZE_SMOOTH_WINDOW,
    QUANTIZE_EQUALIZE,
    QUANTIZE_SMOOTH_INPUT,
    QUANTIZE_MODALITY,
    QUANTIZE_SHARD,
    QUANTIZE_DRY_RUN,
    QUANTIZE_REPORT
};

enum { MAX_TIME_GROUPS = 256, MAX_SMOOTH_WINDOW = 20 };

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

/* Compiles the regular expression that the first `length` bytes of the value are. */
static int compile_names(const cli_args *args, const cli_setting *setting, size_t length,
                         regex_t *out) {
    buffer pattern = {NULL, 0, 0};
    char why[128];
    int failed;
    buffer_put(&pattern, setting->value, length);
    failed = regcomp(out, pattern.data, REG_EXTENDED | REG_NOSUB);
    if (failed != 0) {
        regerror(failed, out, why, sizeof why);
        cli_setting_error(args, setting, "takes a regular expression, not \"%s\": %s",
                          pattern.data, why);
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
        bool good = equals != NULL && parse_bits(equals + 1, &next.bits);
        if (!good && equals != NULL && setting->origin == CLI_FROM_FILE)
            return cli_setting_error(args, setting,
                                     "takes REGEX: BITS with 2, 4 or 8 bits, not \"%s\"",
                                     equals + 1);
        if (!good)
            return cli_setting_error(args, setting,
                                     "takes REGEX=BITS with 2, 4 or 8 bits, not \"%s\"",
                                     setting->value);
        length = (size_t)(equals - setting->value);
    }
    code = compile_names(args, setting, length, &next.names);
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
        plan->fixed_bits = true;
        plan->quant.bits = bits;
        if (bits == 8) plan->quant.codebook = false;
    }
    return true;
}

static int unused_rule(const cli_args *args, const rule *item) {
    const char *what = item->bits != 0 ? "float " : "";
    const char *key = item->bits != 0 ? "tensor" : "keep";
    if (item->from->origin == CLI_FROM_FILE)
        return job_error(args, args->config, AQ_E_NOT_FOUND,
                         "line %zu: no %stensor of the model has a name that "
                         "matches %s %s",
                         item->from->line, what, key, item->from->value);
    return job_error(args, args->files[0], AQ_E_NOT_FOUND,
                     "no %stensor has a name that matches --%s %s", what, key,
                     item->from->value);
}

/* Goes through the names once before anything is written: a rule that concerns no tensor
 * is a mistake. */
static int check_rules(const cli_args *args, rules *of) {
    const char *path = args->files[0];
    aq_model_options options;
    aq_model *model;
    aq_error err;
    size_t i, n;
    int code = CLI_GOOD;
    memset(&options, 0, sizeof options);
    options.io = job_io(args);
    options.log = cli_log(path);
    if (aq_model_open(path, &options, &model, &err) != AQ_OK)
        return job_refuse(args, path, &err);
    n = aq_model_count(model);
    for (i = 0; i < n && code == CLI_GOOD; i++) {
        aq_tensor tensor;
        aq_plan unused;
        memset(&unused, 0, sizeof unused);
        if (aq_model_describe(model, i, &tensor, &err) != AQ_OK) {
            code = job_refuse(args, path, &err);
        } else {
            plan_tensor(of, &tensor, &unused);
        }
    }
    aq_model_close(model);
    for (i = 0; i < of->count && code == CLI_GOOD; i++) {
        if (!of->items[i].used) code = unused_rule(args, &of->items[i]);
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

/* weighted is checked when it is known whether there is a calibration. */
static int parse_method(const cli_args *args, const cli_setting *setting,
                        aq_method *out) {
    static const char *const names[] = {"auto",   "minmax",   "refine",
                                        "search", "weighted", NULL};
    int i = find_word(setting->value, names);
    *out = (aq_method)i;
    if (i <= 0)
        return cli_setting_error(args, setting,
                                 "takes minmax, refine, search or weighted, not \"%s\"",
                                 setting->value);
    return CLI_GOOD;
}

/* What the settings come to. */
typedef struct request {
    aq_job_options options;
    rules of;
    const char *calibration_path; /* NULL = none */
    aq_calibration *calibration;
    aq_time_options time;
    aq_smooth_options smooth;
    aq_spatial_options spatial;
    bool smooths, optimizes;
    const char *modality; /* NULL = found */
} request;

static void free_request(request *job) {
    free_rules(&job->of);
    aq_calibration_close(job->calibration);
}

/* What changes groups of timesteps, and scales inputs. */
static int apply_tuning(const cli_args *args, const cli_setting *setting, request *job) {
    static const char *const curves[] = {"linear", "cubic", "sigmoid", NULL};
    const char *value = setting->value;
    double alpha;
    int i;
    switch (setting->id) {
    case QUANTIZE_OPTIMIZE_GROUPS:
        job->optimizes = !setting->off;
        break;
    case QUANTIZE_SMOOTH_GROUPS:
        i = find_word(value, curves);
        if (i < 0)
            return cli_setting_error(args, setting,
                                     "takes linear, cubic or sigmoid, not \"%s\"", value);
        job->smooth.interpolation = (aq_interpolation)i;
        job->smooths = true;
        break;
    case QUANTIZE_SMOOTH_WINDOW:
        if (cli_parse_number(value, 1, MAX_SMOOTH_WINDOW, &job->smooth.window)) break;
        return cli_setting_error(args, setting, "takes a number from 1 to %d, not \"%s\"",
                                 MAX_SMOOTH_WINDOW, value);
    case QUANTIZE_EQUALIZE:
        job->spatial.equalize = !setting->off;
        break;
    case QUANTIZE_SMOOTH_INPUT:
        if (!cli_parse_real(value, 0, 1, &alpha))
            return cli_setting_error(args, setting,
                                     "takes a number from 0 to 1, not \"%s\"", value);
        job->spatial.alpha = (float)alpha;
        break;
    default:
        break;
    }
    return CLI_GOOD;
}

/* How a calibration is used. */
static int apply_calibration(const cli_args *args, const cli_setting *setting,
                             request *job) {
    static const char *const splits[] = {"similar", "equal", NULL};
    static const char *const modalities[] = {"text", "code", "image", "audio", NULL};
    const char *value = setting->value;
    int i;
    switch (setting->id) {
    case QUANTIZE_CALIBRATION:
        job->calibration_path = value;
        break;
    case QUANTIZE_TIME_GROUPS:
        if (cli_parse_number(value, 1, MAX_TIME_GROUPS, &job->time.groups)) break;
        return cli_setting_error(args, setting, "takes a number from 1 to %d, not \"%s\"",
                                 MAX_TIME_GROUPS, value);
    case QUANTIZE_ACTIVATION_BITS:
        if (cli_parse_number(value, 4, 8, &job->time.bits)) break;
        return cli_setting_error(args, setting, "takes a number from 4 to 8, not \"%s\"",
                                 value);
    case QUANTIZE_TIME_SPLIT:
        i = find_word(value, splits);
        if (i < 0)
            return cli_setting_error(args, setting, "takes similar or equal, not \"%s\"",
                                     value);
        job->time.split = (aq_time_split)i;
        break;
    case QUANTIZE_MODALITY:
        if (find_word(value, modalities) < 0)
            return cli_setting_error(
                args, setting, "takes text, code, image or audio, not \"%s\"", value);
        job->modality = value;
        break;
    default:
        return apply_tuning(args, setting, job);
    }
    return CLI_GOOD;
}

/* Bounds on quality and size, and what all jobs have. */
static int apply_limit(const cli_args *args, const cli_setting *setting,
                       aq_job_options *options) {
    const char *value = setting->value;
    switch (setting->id) {
    case QUANTIZE_MIN_COSINE:
        if (cli_parse_real(value, 0, 1, &options->min_cosine)) break;
        return cli_setting_error(args, setting, "takes a number from 0 to 1, not \"%s\"",
                                 value);
    case QUANTIZE_TARGET_BPW:
        if (cli_parse_real(value, 1, 64, &options->target_bpw)) break;
        return cli_setting_error(args, setting, "takes a number from 1 to 64, not \"%s\"",
                                 value);
    case QUANTIZE_TARGET_SIZE:
        if (cli_parse_size(value, &options->target_bytes)) break;
        return cli_setting_error(
            args, setting, "takes a size such as 512M or 1.5GiB, not \"%s\"", value);
    case QUANTIZE_FAIL_FAST:
        options->fail_fast = !setting->off;
        break;
    case QUANTIZE_SHARD:
        return shard_parse(args, setting, options);
    default:
        return job_apply(args, setting, options);
    }
    return CLI_GOOD;
}

static int apply_setting(const cli_args *args, const cli_setting *setting, request *job) {
    aq_quant_options *quant = &job->options.quant;
    const char *value = setting->value;
    uint32_t number;
    switch (setting->id) {
    case QUANTIZE_BITS:
        if (parse_bits(value, &quant->bits)) break;
        return cli_setting_error(args, setting, "takes 2, 4 or 8, not \"%s\"", value);
    case QUANTIZE_GROUP_SIZE:
        if (!cli_parse_number(value, AQ_MIN_GROUP_SIZE, UINT32_MAX, &number))
            return cli_setting_error(args, setting, "takes a number from %d, not \"%s\"",
                                     AQ_MIN_GROUP_SIZE, value);
        quant->group_size = number;
        break;
    case QUANTIZE_GRANULARITY:
        if (parse_granularity(value, &quant->granularity)) break;
        return cli_setting_error(args, setting,
                                 "takes group, channel or tensor, not \"%s\"", value);
    case QUANTIZE_SYMMETRIC:
        quant->symmetric = !setting->off;
        break;
    case QUANTIZE_METHOD:
        return parse_method(args, setting, &quant->method);
    case QUANTIZE_SCALES:
        if (parse_scales(value, &quant->params)) break;
        return cli_setting_error(args, setting, "takes f32, f16 or u8, not \"%s\"",
                                 value);
    case QUANTIZE_CODEBOOK:
        quant->codebook = !setting->off;
        break;
    case QUANTIZE_DRY_RUN:
        job->options.dry_run = true;
        break;
    case QUANTIZE_TENSOR:
    case QUANTIZE_KEEP:
        return add_rule(args, setting, &job->of);
    case QUANTIZE_CALIBRATION:
    case QUANTIZE_TIME_GROUPS:
    case QUANTIZE_ACTIVATION_BITS:
    case QUANTIZE_TIME_SPLIT:
    case QUANTIZE_OPTIMIZE_GROUPS:
    case QUANTIZE_SMOOTH_GROUPS:
    case QUANTIZE_SMOOTH_WINDOW:
    case QUANTIZE_EQUALIZE:
    case QUANTIZE_SMOOTH_INPUT:
    case QUANTIZE_MODALITY:
        return apply_calibration(args, setting, job);
    default:
        return apply_limit(args, setting, &job->options);
    }
    return CLI_GOOD;
}

/* Options that exclude each other. */
static int check_settings(const cli_args *args, aq_quant_options *quant) {
    const cli_setting *codebook = cli_find(args, QUANTIZE_CODEBOOK);
    if (quant->granularity != AQ_PER_GROUP && cli_has(args, QUANTIZE_GROUP_SIZE))
        return cli_setting_error(args, cli_find(args, QUANTIZE_GROUP_SIZE),
                                 "has a meaning with --granularity group only");
    if (cli_has(args, QUANTIZE_TARGET_BPW) && cli_has(args, QUANTIZE_TARGET_SIZE))
        return cli_setting_error(args, cli_find(args, QUANTIZE_TARGET_SIZE),
                                 "and --target-bpw exclude each other");
    if (quant->codebook && (quant->bits == 8 || quant->symmetric))
        return cli_setting_error(args, codebook, "is for 2 or 4 bits, not %s",
                                 quant->symmetric ? "--symmetric" : "8");
    if (quant->codebook && cli_has(args, QUANTIZE_SCALES) &&
        quant->params != AQ_PARAMS_U8)
        return cli_setting_error(args, codebook, "has --scales u8 only");
    if (quant->codebook) quant->params = AQ_PARAMS_U8;
    if (quant->params != AQ_PARAMS_F32 && quant->granularity == AQ_PER_TENSOR)
        return cli_setting_error(args, cli_find(args, QUANTIZE_GRANULARITY),
                                 "tensor has --scales f32 only, and no --codebook");
    if (cli_has(args, QUANTIZE_SMOOTH_WINDOW) && !cli_has(args, QUANTIZE_SMOOTH_GROUPS))
        return cli_setting_error(args, cli_find(args, QUANTIZE_SMOOTH_WINDOW),
                                 "has a meaning with --smooth-groups only");
    return CLI_GOOD;
}

static int read_settings(const cli_args *args, request *job) {
    size_t i;
    int code;
    for (i = 0; i < args->num_settings; i++) {
        code = apply_setting(args, &args->settings[i], job);
        if (code != CLI_GOOD) return code;
    }
    return check_settings(args, &job->options.quant);
}

int quantize_check(const cli_args *args) {
    request job;
    int code;
    memset(&job, 0, sizeof job);
    code = read_settings(args, &job);
    free_request(&job);
    return code;
}

/*==========================================================================
 * MARK: - Calibration
 *========================================================================*/

/* What a profile or a file says of a calibration waits for one; the command line is about
 * this job. */
static int check_uncalibrated(const cli_args *args, const request *job) {
    static const int ids[] = {
        QUANTIZE_TIME_GROUPS,     QUANTIZE_TIME_SPLIT,    QUANTIZE_ACTIVATION_BITS,
        QUANTIZE_OPTIMIZE_GROUPS, QUANTIZE_SMOOTH_GROUPS, QUANTIZE_SMOOTH_WINDOW,
        QUANTIZE_EQUALIZE,        QUANTIZE_SMOOTH_INPUT,  QUANTIZE_MODALITY};
    size_t i;
    if (job->options.quant.method == AQ_WEIGHTED)
        return cli_setting_error(args, cli_find(args, QUANTIZE_METHOD),
                                 "weighted needs a calibration, which says how much each "
                                 "column counts: give --calibration FILE");
    for (i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        const cli_setting *setting = cli_find(args, ids[i]);
        if (setting != NULL && setting->origin == CLI_FROM_FLAG && !setting->off)
            return cli_setting_error(args, setting,
                                     "has a meaning with --calibration FILE only");
    }
    return CLI_GOOD;
}

/* A profile's number of groups is for as many timesteps; a number that somebody has chosen
 * has to fit. */
static int fit_groups(const cli_args *args, request *job) {
    const cli_setting *setting = cli_find(args, QUANTIZE_TIME_GROUPS);
    size_t i, n = aq_calibration_count(job->calibration);
    job->time.fewer = setting != NULL && setting->origin == CLI_FROM_PROFILE;
    for (i = 0; i < n && setting != NULL && !job->time.fewer; i++) {
        const aq_calibrated *of = aq_calibration_tensor(job->calibration, i);
        aq_time_group unused;
        aq_error err;
        if (job->time.groups > of->num_steps &&
            aq_time_groups_make(job->calibration, of, &job->time, &unused, &err) != AQ_OK)
            return job_refuse(args, job->calibration_path, &err);
    }
    return CLI_GOOD;
}

/* Before the job, so that an error names the file that it is about. */
static int open_calibration(const cli_args *args, request *job) {
    aq_calibration_options options;
    aq_model_options model_options;
    aq_model *model;
    aq_error err;
    int code = CLI_GOOD;
    memset(&options, 0, sizeof options);
    memset(&model_options, 0, sizeof model_options);
    options.io = model_options.io = job_io(args);
    if (aq_model_open(args->files[0], &model_options, &model, &err) != AQ_OK)
        return job_refuse(args, args->files[0], &err);
    options.model = model;
    options.log = cli_log(job->calibration_path);
    if (aq_calibration_open(job->calibration_path, &options, &job->calibration, &err) !=
        AQ_OK)
        code = job_refuse(args, job->calibration_path, &err);
    aq_model_close(model);
    if (code == CLI_GOOD) code = fit_groups(args, job);
    job->options.time = &job->time;
    job->options.smooth = job->smooths ? &job->smooth : NULL;
    job->options.optimize_groups = job->optimizes;
    job->options.modality = job->modality;
    if (job->spatial.equalize || job->spatial.alpha > 0) {
        job->options.spatial = &job->spatial;
        job->options.calibration_path = job->calibration_path; /* read again, scaled */
    } else {
        job->options.calibration = job->calibration;
    }
    return code;
}

/* The calibration and the configuration are inputs too. */
static int check_output(const cli_args *args, const request *job) {
    const char *output = args->files[1], *what = NULL;
    if (job->calibration_path != NULL && file_same(job->calibration_path, output))
        what = "calibration";
    if (args->config != NULL && file_same(args->config, output)) what = "configuration";
    if (what == NULL) return CLI_GOOD;
    return job_error(args, output, AQ_E_ARG,
                     "cannot write: it is the %s; choose another name", what);
}

/*==========================================================================
 * MARK: - The command
 *========================================================================*/

/* Only a Parquet file says of itself which part it is, for aq merge. */
static int check_shard(const cli_args *args) {
    const char *output = args->files[1], *ending = strrchr(output, '.');
    size_t length = strlen(output);
    if (cli_has(args, QUANTIZE_TARGET_BPW) || cli_has(args, QUANTIZE_TARGET_SIZE))
        return cli_usage_error(args->command,
                               "--shard and --target-bpw, --target-size exclude each "
                               "other: a part does not know the others");
    if ((length != 0 && output[length - 1] == '/') ||
        (ending != NULL && strcmp(ending, ".safetensors") == 0))
        return cli_usage_error(args->command, "--shard needs a Parquet file as output");
    return CLI_GOOD;
}

/* Only the job itself holds tensors to the bound. */
static void note_bound(const cli_args *args, const aq_job_options *options) {
    const aq_log log = cli_log(args->files[0]);
    if (options->dry_run && options->min_cosine > 0 && options->target_bpw == 0 &&
        options->target_bytes == 0)
        log.fn(log.user, "the plan is without --min-cosine: tensors below it may become "
                         "larger");
}

static int run_job(const cli_args *args, request *job, const char *page) {
    int code = job->of.count != 0 ? check_rules(args, &job->of) : CLI_GOOD;
    if (code == CLI_GOOD) code = check_output(args, job);
    if (code == CLI_GOOD && page != NULL) code = page_check(args, page);
    if (code == CLI_GOOD && job->calibration_path != NULL)
        code = open_calibration(args, job);
    if (code == CLI_GOOD) code = job_run(args, &job->options, page);
    if (code == CLI_GOOD) note_bound(args, &job->options);
    return code;
}

/* Each part of a job has files of its own. */
static int run_shard(const cli_args *args, request *job, const char *page) {
    cli_args own = *args;
    char *files[2], *own_page = page != NULL ? shard_path(page, &job->options) : NULL;
    int code;
    files[0] = args->files[0];
    files[1] = shard_path(args->files[1], &job->options);
    own.files = files;
    code = run_job(&own, job, own_page);
    free(files[1]);
    free(own_page);
    return code;
}

static int quantize(const cli_args *args) {
    const cli_setting *setting = cli_find(args, QUANTIZE_REPORT);
    const char *page = setting != NULL ? setting->value : NULL;
    request job;
    int code;
    memset(&job, 0, sizeof job);
    job.options.operation = AQ_QUANTIZE;
    job.options.plan = plan_tensor;
    job.options.plan_user = &job.of;
    code = read_settings(args, &job);
    if (code == CLI_GOOD && job.calibration_path == NULL)
        code = check_uncalibrated(args, &job);
    if (code == CLI_GOOD && page != NULL && job.options.dry_run)
        code = cli_setting_error(args, setting, "needs what --dry-run does not make");
    if (code == CLI_GOOD) code = job_check(args, &job.options);
    if (code == CLI_GOOD && job.options.num_shards != 0) code = check_shard(args);
    if (code == CLI_GOOD)
        code = job.options.num_shards != 0 ? run_shard(args, &job, page)
                                           : run_job(args, &job, page);
    free_request(&job);
    return code;
}

/* Each is a key of a configuration too. */
const cli_option quantize_settings[] = {
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
     "is by far the slowest; weighted (the default with a\n"
     "calibration) keeps columns best whose input is large"},
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
    {"min-cosine", "X", QUANTIZE_MIN_COSINE, false,
     "do a tensor whose cosine is lower again with 4 bits,\n"
     "then 8, else keep it"},
    {"target-bpw", "X", QUANTIZE_TARGET_BPW, false,
     "choose the bits of each tensor that no --tensor is\n"
     "about so that all lose least with X bits per weight;\n"
     "does each three times"},
    {"target-size", "SIZE", QUANTIZE_TARGET_SIZE, false,
     "the same for tensors of SIZE together (700M, 2GiB)"},
    {"fail-fast", NULL, QUANTIZE_FAIL_FAST, false,
     "stop at a tensor with NaN or below --min-cosine\n"
     "instead of keeping it"},
    {"calibration", "FILE", QUANTIZE_CALIBRATION, false,
     "Parquet file with inputs of tensors of a diffusion\n"
     "model (layer_name, timestep, activations): ranges for\n"
     "groups of timesteps, and the importance of columns"},
    {"time-groups", "N", QUANTIZE_TIME_GROUPS, false,
     "groups of timesteps of a tensor; 1: one for all\n"
     "(default: 10, or as many as there are timesteps)"},
    {"time-split", "similar|equal", QUANTIZE_TIME_SPLIT, false,
     "groups of least error (default), or of equally many\n"
     "timesteps"},
    {"activation-bits", "4..8", QUANTIZE_ACTIVATION_BITS, false,
     "bits of the codes of inputs (default: 8)"},
    {"optimize-groups", NULL, QUANTIZE_OPTIMIZE_GROUPS, false,
     "search the scales and zero points of least error"},
    {"smooth-groups", "linear|cubic|sigmoid", QUANTIZE_SMOOTH_GROUPS, false,
     "let scales and zero points go over into those of the\n"
     "next group, where that does not make the error larger"},
    {"smooth-window", "N", QUANTIZE_SMOOTH_WINDOW, false,
     "groups on each side of a boundary (default: 1)"},
    {"equalize", NULL, QUANTIZE_EQUALIZE, false,
     "scale columns of weights and inputs to one range,\n"
     "where that makes the error of the output less"},
    {"smooth-input", "ALPHA", QUANTIZE_SMOOTH_INPUT, false,
     "the same to make the columns of inputs alike: from 0,\n"
     "not at all (default), to 1, all of one range"},
    {"modality", "text|code|image|audio", QUANTIZE_MODALITY, false,
     "what the model makes (default: by metadata and names)"},
    CLI_OPTION_MAX_MEMORY,
    CLI_OPTION_STREAMING,
    CLI_OPTION_CHUNK_SIZE,
    CLI_OPTION_IO,
    {"profile", "edge|local|cloud", CLI_PROFILE, false,
     "settings for small devices, one machine or servers;\n"
     "aq config --profile shows them"},
    CLI_OPTION_THREADS,
    CLI_OPTIONS_END};

static const cli_option quantize_options[] = {
    CLI_OPTION_CONFIG,
    {"shard", "I/N|auto", QUANTIZE_SHARD, false,
     "only part I (from 1) of N, to OUT with -I-of-N in its\n"
     "name, for aq merge; auto: as a Slurm array or Open\n"
     "MPI's mpirun says"},
    CLI_OPTION_RESUME,
    {"dry-run", NULL, QUANTIZE_DRY_RUN, false,
     "show the plan and the sizes; write nothing"},
    {"report", "FILE.html", QUANTIZE_REPORT, false,
     "also write a page with the error of each tensor,\n"
     "histograms and totals"},
    CLI_OPTION_EVENTS,
    CLI_OPTION_JSON,
    CLI_OPTIONS_END};

const cli_command command_quantize = {
    .name = "quantize",
    .files = "IN OUT",
    .summary = "write a model with 2, 4 or 8 bits a weight",
    .details =
        "Quantizes the float tensors of the model IN (safetensors, the index or the\n"
        "directory of its shards, Parquet model file or directory, .npy) into the\n"
        "Parquet model OUT, a new folder with a file for each tensor when its name ends\n"
        "in /. It appears under its name when it is whole. Tensors of one dimension,\n"
        "empty ones and those that are not float are kept as they are.\n"
        "REGEX is a POSIX extended regular expression, found anywhere in a name; one\n"
        "that matches no tensor is an error.",
    .options = quantize_options,
    .settings = quantize_settings,
    .min_files = 2,
    .max_files = 2,
    .run = quantize,
};
