/* bench_arrow - Arrow tables of DuckDB in, models out to DuckDB.
 *   64 layers of 2^20 float32: aq_quantize_arrow over aq_quantize_into, with output from
 *   a pool over memory that is there already, and with new memory for both
 *   a model of 1 GiB: as an Arrow stream read by this program and by DuckDB, with the
 *   peak of private memory; beside it DuckDB's own reader on the same file
 * Needs DuckDB's C library: see tests/arrow/duckdb.h.
 *   bench_arrow [DIRECTORY]           where the model is made (default: build) */
#include "measure.h"
#include "private_memory.h"
#include "../tests/arrow/duckdb.h"

#include <sys/wait.h>
#include <unistd.h>

enum { LAYERS = 64, SIDE = 1024, TENSORS = 256 };

/* ---- quantizing ---- */

typedef struct input {
    struct ArrowSchema schema;
    struct ArrowArray array;
    aq_arrow_options options;
    aq_layout layout;
    aq_quantized dst[LAYERS];
    const float *weights[LAYERS];
    const aq_tasks *tasks;
} input;

static void quantize_table(void *arg) {
    const input *in = (const input *)arg;
    struct ArrowSchema schema;
    struct ArrowArray array;
    aq_error err;
    check(aq_quantize_arrow(&in->schema, &in->array, &in->options, &schema, &array, &err),
          &err);
    array.release(&array);
    schema.release(&schema);
}

static void take_output(input *in) {
    for (int i = 0; i < LAYERS; i++) {
        in->dst[i].codes = malloc(in->layout.code_bytes);
        in->dst[i].scales = malloc(in->layout.num_groups * sizeof(float));
        in->dst[i].zero_points = malloc(in->layout.num_groups * sizeof(float));
    }
}

static void free_output(input *in) {
    for (int i = 0; i < LAYERS; i++) {
        free(in->dst[i].codes);
        free(in->dst[i].scales);
        free(in->dst[i].zero_points);
    }
}

/* The kernels alone, on output that is there already. */
static void quantize_layers(void *arg) {
    const input *in = (const input *)arg;
    aq_metrics metrics;
    aq_error err;
    for (int i = 0; i < LAYERS; i++)
        check(aq_quantize_into(&in->layout, in->weights[i], AQ_F32, &in->dst[i],
                               in->tasks, in->options.no_metrics ? NULL : &metrics, &err),
              &err);
}

/* The same to memory that is taken for it, as every caller's is once. */
static void quantize_to_new(void *arg) {
    input in = *(const input *)arg;
    take_output(&in);
    quantize_layers(&in);
    free_output(&in);
}

static void make_table(input *in) {
    struct ArrowArrayStream s;
    const struct ArrowArray *lists;
    aq_error err;
    double start = seconds_now();
    duck_run("CREATE TABLE w AS SELECT 'layer.' || i AS layer_name, "
             "list((random() - 0.5)::FLOAT) AS weights, [%d, %d] AS shape "
             "FROM range(%d) t(i), range(%d) GROUP BY i",
             SIDE, SIDE, LAYERS, SIDE * SIDE);
    printf("DuckDB makes %d layers of %d float32: %.2f s\n", LAYERS, SIDE * SIDE,
           seconds_now() - start);
    start = seconds_now();
    duck_query_stream(&s, "FROM w");
    if (s.get_schema(&s, &in->schema) != 0 || s.get_next(&s, &in->array) != 0 ||
        in->array.length != LAYERS)
        duck_give_up("the table", "is not one batch");
    s.release(&s);
    printf("DuckDB hands them over as Arrow: %.2f s\n", seconds_now() - start);
    lists = in->array.children[1];
    check(aq_layout_init(SIDE, SIDE, NULL, &in->layout, &err), &err);
    for (int i = 0; i < LAYERS; i++) {
        const int32_t *offsets = (const int32_t *)lists->buffers[1] + lists->offset;
        in->weights[i] = (const float *)lists->children[0]->buffers[1] +
                         lists->children[0]->offset + offsets[i];
    }
    take_output(in);
}

static void bench_quantize(void) {
    static input in;
    aq_pool *buffers;
    aq_error err;
    make_table(&in);
    check(aq_pool_create(NULL, &buffers, &err), &err);
    for (unsigned threads = 1; threads <= 2; threads++) {
        aq_threads *pool;
        check(aq_threads_create(threads, NULL, &pool, &err), &err);
        in.tasks = aq_threads_tasks(pool);
        in.options.tasks = in.tasks;
        for (int measured = 0; measured < 2; measured++) {
            const duel d = {quantize_table, quantize_layers, NULL, &in};
            const duel e = {quantize_table, quantize_to_new, NULL, &in};
            duel_result r, s;
            in.options.no_metrics = !measured;
            in.options.pool = buffers;
            r = run_duel(&d);
            in.options.pool = NULL;
            s = run_duel(&e);
            printf("%u thread%s, %s metrics: table from a pool %.1f ms, kernels to "
                   "used memory %.1f ms, ratio %.3f; table %.1f ms, kernels to new "
                   "memory %.1f ms, ratio %.3f\n",
                   threads, threads == 1 ? " " : "s", measured ? "with   " : "without",
                   1e3 * r.ours, 1e3 * r.floor, 1.0 / r.ratio, 1e3 * s.ours,
                   1e3 * s.floor, 1.0 / s.ratio);
        }
        aq_threads_destroy(pool);
    }
    aq_pool_destroy(buffers);
    free_output(&in);
    in.schema.release(&in.schema);
    in.array.release(&in.array);
}

/* ---- a model of 1 GiB ---- */

static void make_model(const char *path) {
    float *weights = malloc((size_t)SIDE * SIDE * sizeof(float));
    aq_tensor *list = calloc(TENSORS, sizeof *list);
    char(*names)[32] = calloc(TENSORS, sizeof *names);
    const uint64_t shape[2] = {SIDE, SIDE};
    aq_model_writer_options options = {.no_sync = true};
    aq_error err;
    fill_weights(weights, (size_t)SIDE * SIDE);
    for (int i = 0; i < TENSORS; i++) {
        snprintf(names[i], sizeof names[i], "layer.%04d", i);
        check(aq_tensor_init(&list[i], names[i], AQ_F32, shape, 2, weights, &err), &err);
    }
    check(aq_model_save(path, list, TENSORS, &options, &err), &err);
    free(weights);
    free(list);
    free(names);
}

static void open_stream(const char *path, struct ArrowArrayStream *s) {
    aq_model *m;
    aq_error err;
    check(aq_model_open(path, NULL, &m, &err), &err);
    check(aq_model_export_arrow_stream(m, s, &err), &err);
    aq_model_close(m);
}

/* The sum of all floats of the column `data`, by this program. */
static void sum_stream(const char *path) {
    struct ArrowArrayStream s;
    struct ArrowArray a;
    double sum = 0;
    open_stream(path, &s);
    while (s.get_next(&s, &a) == 0 && a.release != NULL) {
        const struct ArrowArray *data = a.children[3];
        const int64_t *offsets = (const int64_t *)data->buffers[1];
        const float *v = (const float *)((const char *)data->buffers[2] + offsets[0]);
        size_t n = (size_t)(offsets[a.length] - offsets[0]) / sizeof *v;
        float lanes[16] = {0};
        for (size_t i = 0; i + 16 <= n; i += 16)
            for (size_t k = 0; k < 16; k++)
                lanes[k] += v[i + k];
        for (size_t k = 0; k < 16; k++)
            sum += (double)lanes[k];
        a.release(&a);
    }
    s.release(&s);
    if (sum == 0) printf("the sum is 0\n");
}

/* DuckDB reads every byte of the data. All columns are asked for: its scan believes that
 * a stream has no other columns than those of the query. */
#define QUERY                                                                            \
    "SELECT sum(octet_length(data)), bit_xor(hash(data)), count(COLUMNS(*)) FROM "

static void duck_stream_sum(const char *path) {
    struct ArrowArrayStream s;
    open_stream(path, &s);
    if (duck.arrow_scan(duck_connection, "model", &s) != 0) duck_give_up("scan", "-");
    duck_run(QUERY "model");
    if (s.release != NULL) s.release(&s);
}

static void duck_own_sum(const char *path) { duck_run(QUERY "read_parquet('%s')", path); }

/* Three times in a process of its own: the median, and how much memory came on top. */
static void run_apart(const char *what, void (*fn)(const char *path), const char *path,
                      bool duckdb) {
    pid_t child;
    fflush(stdout);
    child = fork();
    if (child == 0) {
        double times[3];
        memory_watcher memory;
        if (duckdb) duck_start();
        if (!memory_watch(&memory)) exit(1);
        for (int i = 0; i < 3; i++) {
            double start = seconds_now();
            fn(path);
            times[i] = seconds_now() - start;
        }
        qsort(times, 3, sizeof *times, compare_doubles);
        printf("%-44s %.3f s, %.1f MiB of private memory\n", what, times[1],
               (double)memory_peak(&memory) / 1024);
        fflush(stdout);
        _exit(0);
    }
    if (child > 0) waitpid(child, NULL, 0);
}

int main(int argc, char **argv) {
    char path[4096];
    snprintf(path, sizeof path, "%s/bench_arrow.parquet", argc > 1 ? argv[1] : "build");
    if (access(duck_path(), R_OK) != 0) {
        printf("skip: DuckDB's library is not installed (make bench-peers does)\n");
        return 0;
    }
    make_model(path);
    run_apart("1 GiB as a stream, summed here:", sum_stream, path, false);
    run_apart("1 GiB as a stream, hashed by DuckDB:", duck_stream_sum, path, true);
    run_apart("1 GiB of Parquet, read and hashed by DuckDB:", duck_own_sum, path, true);
    unlink(path);
    duck_start();
    bench_quantize();
    duck_stop();
    return 0;
}
