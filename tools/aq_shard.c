/* aq_shard.c - parts of a job on several machines: which one this process has, what its
 * output is called, and whether all are there to be merged. */
#include "aq.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SHARDS = 99999 }; /* as many as five digits of a name count */

/*==========================================================================
 * MARK: - What a scheduler says
 *========================================================================*/

/* A variable of the environment as a number; *out keeps its value where there is none. */
static int read_variable(const char *name, uint32_t *out) {
    const char *text = getenv(name);
    if (text == NULL || cli_parse_number(text, 0, UINT32_MAX, out)) return CLI_GOOD;
    return cli_error(name, "is \"%s\", no number; say --shard I/N", text);
}

/* The tasks of an array count from any number, in any step; all of them are needed. */
static int read_slurm(uint32_t *out_index, uint32_t *out_count) {
    uint32_t id = 0, first = 0, last, step = 1;
    int code = read_variable("SLURM_ARRAY_TASK_ID", &id);
    if (code == CLI_GOOD) code = read_variable("SLURM_ARRAY_TASK_MIN", &first);
    if (code == CLI_GOOD) code = read_variable("SLURM_ARRAY_TASK_STEP", &step);
    if (code == CLI_GOOD) code = read_variable("SLURM_ARRAY_TASK_COUNT", out_count);
    if (code != CLI_GOOD) return code;
    if (*out_count == 0 || step == 0)
        return cli_error("SLURM_ARRAY_TASK_COUNT",
                         "is missing or 0, as SLURM_ARRAY_TASK_STEP must not be; say "
                         "--shard I/N");
    last = first + (*out_count - 1) * step;
    code = read_variable("SLURM_ARRAY_TASK_MAX", &last);
    if (code != CLI_GOOD) return code;
    if (id < first || (id - first) % step != 0 || (id - first) / step >= *out_count ||
        last - first != (uint64_t)(*out_count - 1) * step)
        return cli_error("SLURM_ARRAY_TASK_ID",
                         "is %" PRIu32 " of %" PRIu32 " tasks from %" PRIu32
                         " to %" PRIu32 ", which are not evenly spaced; say --shard I/N",
                         id, *out_count, first, last);
    *out_index = (id - first) / step;
    return CLI_GOOD;
}

static int read_open_mpi(uint32_t *out_index, uint32_t *out_count) {
    int code = read_variable("OMPI_COMM_WORLD_RANK", out_index);
    if (code == CLI_GOOD) code = read_variable("OMPI_COMM_WORLD_SIZE", out_count);
    if (code == CLI_GOOD && *out_index >= *out_count)
        return cli_error("OMPI_COMM_WORLD_RANK",
                         "is %" PRIu32 " of OMPI_COMM_WORLD_SIZE=%" PRIu32
                         "; say --shard I/N",
                         *out_index, *out_count);
    return code;
}

static int read_scheduler(const cli_args *args, const cli_setting *setting,
                          uint32_t *out_index, uint32_t *out_count) {
    bool slurm = getenv("SLURM_ARRAY_TASK_ID") != NULL;
    bool open_mpi = getenv("OMPI_COMM_WORLD_RANK") != NULL;
    if (slurm && open_mpi)
        return cli_setting_error(args, setting,
                                 "auto finds both SLURM_ARRAY_TASK_ID and "
                                 "OMPI_COMM_WORLD_RANK; say I/N");
    if (slurm) return read_slurm(out_index, out_count);
    if (open_mpi) return read_open_mpi(out_index, out_count);
    return cli_setting_error(args, setting,
                             "auto needs SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT, "
                             "as in a job array of Slurm, or OMPI_COMM_WORLD_RANK and "
                             "OMPI_COMM_WORLD_SIZE, as under Open MPI's mpirun");
}

/*==========================================================================
 * MARK: - --shard
 *========================================================================*/

/* "2/4" */
static bool parse_part(const char *text, uint32_t *out_index, uint32_t *out_count) {
    const char *slash = strchr(text, '/');
    buffer first = {NULL, 0, 0};
    bool good;
    if (slash == NULL || !cli_parse_number(slash + 1, 1, MAX_SHARDS, out_count))
        return false;
    buffer_put(&first, text, (size_t)(slash - text));
    good = cli_parse_number(first.data, 1, *out_count, out_index);
    buffer_free(&first);
    *out_index -= good ? 1 : 0;
    return good;
}

int shard_parse(const cli_args *args, const cli_setting *setting,
                aq_job_options *options) {
    uint32_t index = 0, count = 0;
    if (strcmp(setting->value, "auto") == 0) {
        int code = read_scheduler(args, setting, &index, &count);
        if (code != CLI_GOOD) return code;
        if (count > MAX_SHARDS)
            return cli_setting_error(args, setting,
                                     "auto finds %" PRIu32 " parts, more than %d", count,
                                     MAX_SHARDS);
    } else if (!parse_part(setting->value, &index, &count)) {
        return cli_setting_error(args, setting,
                                 "takes I/N with I from 1 to N, at most %d, or auto, not "
                                 "\"%s\"",
                                 MAX_SHARDS, setting->value);
    }
    options->shard = index;
    options->num_shards = count;
    return CLI_GOOD;
}

char *shard_path(const char *path, const aq_job_options *options) {
    buffer out = {NULL, 0, 0};
    const char *slash = strrchr(path, '/');
    const char *name = slash != NULL ? slash + 1 : path, *dot = strrchr(name, '.');
    if (dot == NULL || dot == name) dot = name + strlen(name);
    buffer_put(&out, path, (size_t)(dot - path));
    buffer_print(&out, "-%05" PRIu32 "-of-%05" PRIu32 "%s", options->shard + 1,
                 options->num_shards, dot);
    return out.data;
}

/*==========================================================================
 * MARK: - Whether all shards are there
 *========================================================================*/

/* Which part a file says that it is, from 0. */
static int read_part(const cli_args *args, const char *path, unsigned *out_index,
                     unsigned *out_count) {
    aq_parquet_options options;
    aq_parquet *file;
    aq_key_value pair;
    aq_error err;
    int32_t i;
    bool found = false;
    memset(&options, 0, sizeof options);
    options.io = job_io(args);
    if (aq_parquet_open(path, &options, &file, &err) != AQ_OK)
        return job_refuse(args, path, &err);
    for (i = 0; !found && aq_parquet_key_value(file, i, &pair); i++)
        found =
            strcmp(pair.key, "arrowquant.shard") == 0 && pair.value != NULL &&
            sscanf(pair.value, "{\"index\":%u,\"count\":%u", out_index, out_count) == 2 &&
            *out_index < *out_count && *out_count <= MAX_SHARDS;
    aq_parquet_close(file);
    if (found) return CLI_GOOD;
    return job_error(args, path, AQ_E_ARG,
                     "is no shard of a job: aq quantize --shard makes such");
}

/* "shards 2, 3 and 7 of 8 are missing", of many the first ones. */
static int tell_missing(const cli_args *args, const size_t *holders, size_t count) {
    enum { MAX_SHOWN = 10 };
    buffer list = {NULL, 0, 0};
    size_t i, n = 0, missing = 0;
    int code;
    for (i = 0; i < count; i++)
        missing += holders[i] == 0;
    if (missing == 0) return CLI_GOOD;
    for (i = 0; i < count && n < MAX_SHOWN; i++) {
        if (holders[i] != 0) continue;
        n++;
        buffer_print(&list, "%s%zu", n == 1 ? "" : n == missing ? " and " : ", ", i + 1);
    }
    if (missing > MAX_SHOWN) buffer_print(&list, " and %zu more", missing - MAX_SHOWN);
    code = job_error(args, args->files[args->num_files - 1], AQ_E_ARG,
                     "shard%s %s of %zu %s missing", text_plural(missing), list.data,
                     count, missing == 1 ? "is" : "are");
    buffer_free(&list);
    return code;
}

int shard_check(const cli_args *args) {
    size_t i, n = args->num_files - 1, *holders = NULL; /* file + 1; 0 = none */
    unsigned index, count, of = 0;
    int code = CLI_GOOD;
    for (i = 0; i < n && code == CLI_GOOD; i++) {
        code = read_part(args, args->files[i], &index, &count);
        if (code != CLI_GOOD) break;
        if (i == 0) {
            of = count;
            holders = (size_t *)cli_resize(NULL, of, sizeof *holders);
            memset(holders, 0, of * sizeof *holders);
        }
        if (count != of) {
            code = job_error(args, args->files[i], AQ_E_ARG,
                             "is shard %u of %u, but %s is one of %u", index + 1, count,
                             args->files[0], of);
        } else if (holders[index] != 0) {
            code = job_error(args, args->files[i], AQ_E_DUPLICATE,
                             "is shard %u of %u, as is %s", index + 1, count,
                             args->files[holders[index] - 1]);
        } else {
            holders[index] = i + 1;
        }
    }
    if (code == CLI_GOOD) code = tell_missing(args, holders, of);
    free(holders);
    return code;
}
