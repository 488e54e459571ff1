/* aq_diffusion.c - what files and jobs say of diffusion models: `aq inspect --time`, and
 * the time groups in the report of a job. */
#include "aq.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const severities[] = {"none", "low", "medium", "high"};

const aq_time_aware *diffusion_groups(const aq_tensor *tensor) {
    const aq_time_aware *of =
        tensor->diffusion != NULL ? tensor->diffusion->time_aware : NULL;
    return of != NULL && of->enabled && of->num_groups != 0 ? of : NULL;
}

/* The factors that the input of a tensor has to be multiplied by; NULL. */
static const aq_spatial *input_scales(const aq_tensor *tensor) {
    const aq_spatial *of = tensor->diffusion != NULL ? tensor->diffusion->spatial : NULL;
    bool used =
        of != NULL && of->enabled && of->num_scales != 0 && tensor->layout.bits != 0;
    return used ? of : NULL;
}

/* How the groups of a tensor go over into each other; all 0 without any. What a file or a
 * job has can be checked: what cannot be was an error before.
 *   out_transitions  out  one less than there are groups, to be freed; may be NULL */
static int check_groups(const aq_tensor *tensor, aq_transition **out_transitions,
                        aq_smoothness *out) {
    const aq_time_aware *of = diffusion_groups(tensor);
    aq_transition *transitions = NULL;
    aq_error err;
    memset(out, 0, sizeof *out);
    if (out_transitions != NULL) *out_transitions = NULL;
    if (of == NULL) return CLI_GOOD;
    if (out_transitions != NULL)
        *out_transitions = transitions =
            (aq_transition *)cli_resize(NULL, of->num_groups, sizeof *transitions);
    if (aq_time_groups_check(of->groups, of->num_groups, 0, transitions, out, &err) ==
        AQ_OK)
        return CLI_GOOD;
    free(transitions);
    if (out_transitions != NULL) *out_transitions = NULL;
    return cli_error(tensor->name, "%s", err.message);
}

/* What the model file has recorded, else what names and metadata sound like. */
const char *diffusion_modality(const aq_model *model, const aq_tensor *tensors) {
    size_t i, n = aq_model_count(model);
    for (i = 0; i < n; i++) {
        const aq_diffusion *of = tensors[i].diffusion;
        if (of != NULL && of->modality != NULL) return of->modality;
    }
    return aq_model_modality(model);
}

/*==========================================================================
 * MARK: - `aq inspect --time` as text
 *========================================================================*/

/* Lowest and highest of some numbers. */
typedef struct range {
    float low, high;
} range;

static range range_of(const float *values, size_t count) {
    range of = {values[0], values[0]};
    size_t i;
    for (i = 1; i < count; i++) {
        if (values[i] < of.low) of.low = values[i];
        if (values[i] > of.high) of.high = values[i];
    }
    return of;
}

/* "0-199": both ends belong to it. */
static void put_timesteps(buffer *out, const aq_time_group *group) {
    buffer_print(out, "%" PRId64, group->start);
    if (group->end - group->start > 1) buffer_print(out, "-%" PRId64, group->end - 1);
}

static void put_groups(buffer *out, const aq_time_aware *of,
                       const aq_transition *transitions) {
    table rows;
    buffer text = {NULL, 0, 0};
    char number[TEXT_ROOM];
    size_t i;
    table_init(&rows, "group|timesteps|scale|zero point|bits|scale jump|score|severity",
               "rrrrrrrl");
    for (i = 0; i < of->num_groups; i++) {
        const aq_time_group *group = &of->groups[i];
        const aq_transition *next = i + 1 < of->num_groups ? &transitions[i] : NULL;
        snprintf(number, sizeof number, "%zu", i);
        table_cell(&rows, number);
        text.size = 0;
        put_timesteps(&text, group);
        table_cell(&rows, text.data);
        snprintf(number, sizeof number, "%.6g", (double)group->params.scale);
        table_cell(&rows, number);
        snprintf(number, sizeof number, "%.6g", (double)group->params.zero_point);
        table_cell(&rows, number);
        snprintf(number, sizeof number, "%" PRIu32, group->params.bits);
        table_cell(&rows, number);
        table_cell(&rows, next != NULL ? text_measure(number, next->scale_jump, 3) : "-");
        table_cell(&rows, next != NULL ? text_measure(number, next->score, 3) : "-");
        table_cell(&rows, next != NULL ? severities[next->severity] : "-");
    }
    table_show(&rows, out);
    table_free(&rows);
    buffer_free(&text);
}

static void put_input(buffer *out, const aq_activation_stats *of) {
    range mean, std, low, high;
    int64_t first = 0, last;
    if (of == NULL || of->count == 0) return;
    last = (int64_t)of->count - 1;
    if (of->timesteps != NULL) {
        first = of->timesteps[0];
        last = of->timesteps[of->count - 1];
    }
    mean = range_of(of->mean, of->count);
    std = range_of(of->std, of->count);
    low = range_of(of->min, of->count);
    high = range_of(of->max, of->count);
    buffer_print(
        out,
        "input   %.4g to %.4g, mean %.4g to %.4g, deviation %.4g to %.4g, at %zu "
        "timestep",
        (double)low.low, (double)high.high, (double)mean.low, (double)mean.high,
        (double)std.low, (double)std.high, of->count);
    if (of->count > 1) {
        buffer_print(out, "s from %" PRId64 " to %" PRId64 "\n", first, last);
    } else {
        buffer_print(out, " %" PRId64 "\n", first);
    }
}

static void put_scaled(buffer *out, const aq_tensor *tensor) {
    const aq_spatial *of = input_scales(tensor);
    range factors;
    if (of == NULL) {
        buffer_print(out, "scaled  no\n");
        return;
    }
    factors = range_of(of->scales, of->num_scales);
    buffer_print(out, "scaled  by %zu factors from %.4g to %.4g", of->num_scales,
                 (double)factors.low, (double)factors.high);
    if (of->channel_equalization || of->activation_smoothing)
        buffer_print(out, " (%s%s%s)", of->channel_equalization ? "equalization" : "",
                     of->channel_equalization && of->activation_smoothing ? ", " : "",
                     of->activation_smoothing ? "smoothing" : "");
    buffer_print(out, "\n");
}

/* "w: 5 time groups, smoothness 0.912, worst score 0.750, 1 violation" */
static void put_title(buffer *out, const aq_tensor *tensor, const aq_smoothness *check) {
    const aq_time_aware *of = diffusion_groups(tensor);
    char smoothness[TEXT_ROOM], worst[TEXT_ROOM];
    buffer_visible(out, tensor->name, strlen(tensor->name));
    if (of == NULL) {
        buffer_print(out, ": no time groups\n");
        return;
    }
    buffer_print(out,
                 ": %zu time group%s, smoothness %s, worst score %s, %zu violation%s\n",
                 of->num_groups, text_plural(of->num_groups),
                 text_measure(smoothness, check->smoothness, 3),
                 text_measure(worst, check->worst_score, 3), check->num_violations,
                 text_plural(check->num_violations));
}

static int put_tensor(buffer *out, const aq_tensor *tensor, size_t *violations) {
    aq_transition *transitions;
    aq_smoothness check;
    int code = check_groups(tensor, &transitions, &check);
    if (code != CLI_GOOD) return code;
    put_title(out, tensor, &check);
    if (diffusion_groups(tensor) != NULL)
        put_groups(out, diffusion_groups(tensor), transitions);
    put_input(out, tensor->diffusion->stats);
    put_scaled(out, tensor);
    buffer_print(out, "\n");
    *violations += check.num_violations;
    free(transitions);
    return CLI_GOOD;
}

int diffusion_text(const aq_model *model, const aq_tensor *tensors) {
    const char *modality = diffusion_modality(model, tensors);
    buffer text = {NULL, 0, 0};
    size_t i, n = aq_model_count(model), timed = 0, violations = 0;
    int code = CLI_GOOD;
    for (i = 0; i < n && code == CLI_GOOD; i++) {
        const aq_diffusion *of = tensors[i].diffusion;
        if (diffusion_groups(&tensors[i]) != NULL) timed++;
        if (of == NULL ||
            (of->time_aware == NULL && of->spatial == NULL && of->stats == NULL))
            continue;
        code = put_tensor(&text, &tensors[i], &violations);
    }
    buffer_print(&text, "modality: ");
    if (modality == NULL) modality = "not known";
    buffer_visible(&text, modality, strlen(modality));
    buffer_print(&text, "\n");
    if (timed == 0) {
        buffer_print(&text, "no tensor has time groups\n");
    } else {
        buffer_print(&text, "%zu of %zu tensor%s %s time groups, %zu violation%s\n",
                     timed, n, text_plural(n), timed == 1 ? "has" : "have", violations,
                     text_plural(violations));
    }
    if (code == CLI_GOOD) {
        buffer_show(&text);
    } else {
        buffer_free(&text);
    }
    return code;
}

/*==========================================================================
 * MARK: - The same as JSON
 *========================================================================*/

static void put_smoothness_json(json *out, const aq_smoothness *check) {
    json_number(out, "smoothness", check->smoothness);
    json_number(out, "worst_score", check->worst_score);
    json_unsigned(out, "num_violations", check->num_violations);
}

/* The jumps are those to the next group. */
static void put_group_json(json *out, const aq_time_group *group,
                           const aq_transition *next) {
    json_open(out, NULL, '{');
    json_signed(out, "start", group->start);
    json_signed(out, "end", group->end);
    json_float(out, "scale", group->params.scale);
    json_float(out, "zero_point", group->params.zero_point);
    json_unsigned(out, "bits", group->params.bits);
    json_unsigned(out, "group_size", group->group_size);
    if (next != NULL) {
        json_number(out, "scale_jump", next->scale_jump);
        json_number(out, "zero_point_jump", next->zero_point_jump);
        json_number(out, "score", next->score);
        json_string(out, "severity", severities[next->severity]);
    } else {
        json_null(out, "scale_jump");
        json_null(out, "zero_point_jump");
        json_null(out, "score");
        json_null(out, "severity");
    }
    json_close(out, '}');
}

static void put_groups_json(json *out, const aq_time_aware *of,
                            const aq_transition *transitions,
                            const aq_smoothness *check) {
    size_t i;
    if (of == NULL) {
        json_null(out, "time");
        return;
    }
    json_open(out, "time", '{');
    json_unsigned(out, "num_groups", of->num_groups);
    put_smoothness_json(out, check);
    json_open(out, "groups", '[');
    for (i = 0; i < of->num_groups; i++)
        put_group_json(out, &of->groups[i],
                       i + 1 < of->num_groups ? &transitions[i] : NULL);
    json_close(out, ']');
    json_close(out, '}');
}

static void put_input_json(json *out, const aq_tensor *tensor) {
    const aq_spatial *of = input_scales(tensor);
    range factors;
    if (of == NULL) {
        json_null(out, "input_scales");
        return;
    }
    factors = range_of(of->scales, of->num_scales);
    json_open(out, "input_scales", '{');
    json_bool(out, "equalization", of->channel_equalization);
    json_bool(out, "smoothing", of->activation_smoothing);
    json_unsigned(out, "count", of->num_scales);
    json_float(out, "min", factors.low);
    json_float(out, "max", factors.high);
    json_close(out, '}');
}

static void put_floats(json *out, const char *key, const float *values, size_t count) {
    size_t i;
    json_open(out, key, '[');
    for (i = 0; i < count; i++)
        json_float(out, NULL, values[i]);
    json_close(out, ']');
}

static void put_stats_json(json *out, const aq_activation_stats *of) {
    size_t i;
    if (of == NULL) {
        json_null(out, "activations");
        return;
    }
    json_open(out, "activations", '{');
    json_open(out, "timesteps", '[');
    for (i = 0; i < of->count; i++)
        json_signed(out, NULL, of->timesteps != NULL ? of->timesteps[i] : (int64_t)i);
    json_close(out, ']');
    put_floats(out, "mean", of->mean, of->count);
    put_floats(out, "std", of->std, of->count);
    put_floats(out, "min", of->min, of->count);
    put_floats(out, "max", of->max, of->count);
    json_close(out, '}');
}

int diffusion_json(json *out, const aq_tensor *tensor) {
    aq_transition *transitions;
    aq_smoothness check;
    int code = check_groups(tensor, &transitions, &check);
    if (code != CLI_GOOD) return code;
    put_groups_json(out, diffusion_groups(tensor), transitions, &check);
    put_input_json(out, tensor);
    put_stats_json(out, tensor->diffusion != NULL ? tensor->diffusion->stats : NULL);
    free(transitions);
    return CLI_GOOD;
}

/*==========================================================================
 * MARK: - Reports of jobs
 *========================================================================*/

void diffusion_count_cell(table *rows, const aq_tensor *tensor) {
    const aq_time_aware *of = diffusion_groups(tensor);
    char number[TEXT_ROOM] = "-";
    if (of != NULL) snprintf(number, sizeof number, "%zu", of->num_groups);
    table_cell(rows, number);
}

/* All calibrated tensors of a report. */
typedef struct summary {
    size_t tensors, fewest, most; /* time groups                          */
    size_t violations, scaled;
    size_t steps, smoothed, refused;
    const char *roughest; /* the name of the lowest smoothness            */
    double smoothness;
    const aq_tensor_report *input, *output; /* of the lowest SQNR; NULL   */
} summary;

/* Whether a measured figure is worse than the worst so far. */
static bool is_worse(double sqnr_db, bool any, double worst) {
    return !isnan(sqnr_db) && (!any || sqnr_db < worst);
}

static void sum_tuning(summary *to, const aq_tensor_report *line) {
    const aq_time_report *of = line->time;
    if (of == NULL) return;
    to->scaled += of->scaled;
    to->steps += of->optimized.changed;
    to->smoothed += of->smoothed.changed;
    to->refused += of->smoothed.refused;
    if (is_worse(of->input_sqnr_db, to->input != NULL,
                 to->input != NULL ? to->input->time->input_sqnr_db : 0))
        to->input = line;
    if (is_worse(of->output_sqnr_db, to->output != NULL,
                 to->output != NULL ? to->output->time->output_sqnr_db : 0))
        to->output = line;
}

static void sum_groups(summary *to, const aq_tensor_report *line) {
    const aq_time_aware *of = diffusion_groups(&line->tensor);
    aq_smoothness check;
    if (of == NULL || check_groups(&line->tensor, NULL, &check) != CLI_GOOD) return;
    if (to->tensors == 0 || of->num_groups < to->fewest) to->fewest = of->num_groups;
    if (of->num_groups > to->most) to->most = of->num_groups;
    if (to->tensors++ == 0 || check.smoothness < to->smoothness) {
        to->smoothness = check.smoothness;
        to->roughest = line->name;
    }
    to->violations += check.num_violations;
    sum_tuning(to, line);
}

static void put_worst(buffer *out, const char *label, const char *name, double sqnr_db) {
    char text[TEXT_ROOM];
    buffer_print(out, "%-9sworst ", label);
    buffer_visible(out, name, strlen(name));
    buffer_print(out, ": SQNR %s dB", text_measure(text, sqnr_db, 2));
}

static void put_tuning(buffer *out, const aq_job_options *options, const summary *of) {
    if (!options->optimize_groups && options->smooth == NULL) return;
    buffer_print(out, "tuned    ");
    if (options->optimize_groups)
        buffer_print(out, "%zu step%s of scale or zero point%s", of->steps,
                     text_plural(of->steps), options->smooth != NULL ? "; " : "");
    if (options->smooth != NULL)
        buffer_print(out, "%zu %s smoothed, %zu left alone as the error would rise",
                     of->smoothed, of->smoothed == 1 ? "boundary" : "boundaries",
                     of->refused);
    buffer_print(out, "\n");
}

/* "groups   3 tensors with 5 time groups, 2 violations; least smooth w, 0.812", and what
 * was measured with the calibration. */
void diffusion_put_report(buffer *out, const aq_job_options *options,
                          const aq_job_report *report) {
    char text[TEXT_ROOM];
    summary of;
    size_t i;
    memset(&of, 0, sizeof of);
    for (i = 0; i < report->num_tensors; i++)
        sum_groups(&of, &report->tensors[i]);
    if (of.tensors == 0) return;
    buffer_print(out, "groups   %zu tensor%s with ", of.tensors, text_plural(of.tensors));
    if (of.fewest != of.most) buffer_print(out, "%zu to ", of.fewest);
    buffer_print(out, "%zu time group%s, %zu violation%s; least smooth ", of.most,
                 text_plural(of.most), of.violations, text_plural(of.violations));
    buffer_visible(out, of.roughest, strlen(of.roughest));
    buffer_print(out, ", %s\n", text_measure(text, of.smoothness, 3));
    put_tuning(out, options, &of);
    if (of.input != NULL) {
        put_worst(out, "inputs", of.input->name, of.input->time->input_sqnr_db);
        if (options->spatial != NULL)
            buffer_print(out, "; %zu of %zu scaled", of.scaled, of.tensors);
        buffer_print(out, "\n");
    }
    if (of.output != NULL) {
        put_worst(out, "outputs", of.output->name, of.output->time->output_sqnr_db);
        buffer_print(out, ", %s with exact inputs\n",
                     text_measure(text, of.output->time->weights_sqnr_db, 2));
    }
}

/* null where nothing was to be done. */
static void put_tuning_json(json *out, const char *key, const aq_tuning *of) {
    if (of == NULL || (of->mse_before == 0 && of->changed == 0 && of->refused == 0)) {
        json_null(out, key);
        return;
    }
    json_open(out, key, '{');
    json_number(out, "mse_before", of->mse_before);
    json_number(out, "mse_after", of->mse_after);
    json_unsigned(out, "changed", of->changed);
    json_unsigned(out, "refused", of->refused);
    json_close(out, '}');
}

void diffusion_report_json(json *out, const aq_tensor_report *line) {
    const aq_time_aware *of = diffusion_groups(&line->tensor);
    const aq_time_report *time = line->time;
    aq_smoothness check;
    if (of == NULL || check_groups(&line->tensor, NULL, &check) != CLI_GOOD) {
        json_null(out, "time");
        return;
    }
    json_open(out, "time", '{');
    json_unsigned(out, "num_groups", of->num_groups);
    put_smoothness_json(out, &check);
    put_tuning_json(out, "optimized", time != NULL ? &time->optimized : NULL);
    put_tuning_json(out, "smoothed", time != NULL ? &time->smoothed : NULL);
    json_bool(out, "scaled", input_scales(&line->tensor) != NULL);
    json_measure(out, "input_sqnr_db", time != NULL ? time->input_sqnr_db : (double)NAN);
    json_measure(out, "output_sqnr_db",
                 time != NULL ? time->output_sqnr_db : (double)NAN);
    json_measure(out, "weights_sqnr_db",
                 time != NULL ? time->weights_sqnr_db : (double)NAN);
    json_close(out, '}');
}
