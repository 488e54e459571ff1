/* bench_job - a whole model from file to file, int4 in groups of 128, beside the least
 * that any such program does: reading the input once and writing the output once.
 *   bench_job [MIB] [DIRECTORY]       size of the model (default: 256), where the files
 *                                     are made (default: build): twice MIB, for a moment
 *
 * Each run is a process of its own, so that none finds the memory of another. The input
 * is in the page cache. All cases take turns; medians. "No pool" is a pool whose budget
 * is one byte: every buffer goes back to the allocator. Peak private memory (RssAnon) is
 * of a run apart, in which a thread looks each millisecond; the mapped input is not
 * private: the system takes it back at will. Where others use the machine, the processor
 * time says more than the time. */
#include "measure.h"
#include "private_memory.h"

#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BLOCK = 1 << 20 };

static char input[4096], output[4096];

/* What a run reports to the process that started it. */
typedef struct outcome {
    double wall, cpu;
    long faults, peak_kib;
    aq_pool_stats pool;
    int64_t bytes_out;
} outcome;

typedef struct setup {
    const char *name;
    uint32_t threads; /* 0 = the floor: read and write */
    aq_job_mode mode;
    aq_method method;
    bool no_pool, sync, resume;
} setup;

/* Beside the floor, and the floor with fsync. */
static const setup setups[] = {
    {.name = "read + write"},
    {.name = "read + write, fsync", .sync = true},
    {.name = "streaming, 1 thread", .threads = 1},
    {.name = "streaming, 1 thread, no pool", .threads = 1, .no_pool = true},
    {.name = "streaming, 2 threads", .threads = 2},
    {.name = "streaming, 2 threads, no pool", .threads = 2, .no_pool = true},
    {.name = "parallel, 2 threads", .threads = 2, .mode = AQ_JOB_PARALLEL},
    {.name = "parallel, 2 threads, no pool",
     .threads = 2,
     .mode = AQ_JOB_PARALLEL,
     .no_pool = true},
    {.name = "streaming, 1 thread, min-max", .threads = 1, .method = AQ_MINMAX},
    {.name = "streaming, 2 threads, min-max", .threads = 2, .method = AQ_MINMAX},
    {.name = "streaming, 2 threads, journal", .threads = 2, .resume = true},
    {.name = "streaming, 2 threads, fsync", .threads = 2, .sync = true},
    {.name = "streaming, 2 threads, journal, fsync",
     .threads = 2,
     .sync = true,
     .resume = true},
};

#define SETUPS (sizeof setups / sizeof *setups) /* no multiple of 5: see measure_all */
enum { FLOOR, FLOOR_SYNC, STREAM_1, STREAM_2 = 4, JOURNAL = 10, SYNC, BOTH };

static void demand(bool good, const char *what) {
    if (good) return;
    perror(what);
    exit(1);
}

static double cpu_seconds(const struct rusage *u) {
    return (double)(u->ru_utime.tv_sec + u->ru_stime.tv_sec) +
           1e-6 * (double)(u->ru_utime.tv_usec + u->ru_stime.tv_usec);
}

/* ---- models ---- */

/* A safetensors file of `tensors` float32 tensors of 1024 columns, all together of `rows`
 * rows. Ten or more are mixed: sizes of 1 to 4 parts, and every tenth has one dimension
 * and is kept. Not filled: a sparse file of zeros. */
static void make_model(size_t rows, size_t tensors, bool fill) {
    static float weights[1 << 20];
    const size_t row_bytes = 1024 * sizeof(float);
    char *text = calloc(tensors + 1, 160);
    size_t length = 0, at = 0, i;
    uint64_t header;
    int fd = open(input, O_CREAT | O_TRUNC | O_WRONLY, 0666);
    demand(fd >= 0 && text != NULL, input);
    for (i = 0; i < tensors; i++) {
        size_t share = tensors < 10 ? 1 : 1 + i % 4;
        size_t shares = tensors < 10 ? tensors : tensors * 5 / 2;
        size_t n = i + 1 == tensors ? rows - at : rows * share / shares;
        bool flat = tensors >= 10 && i % 10 == 9;
        length += (size_t)sprintf(text + length, "%s\"layer.%03zu\":{\"dtype\":\"F32\",",
                                  i == 0 ? "{" : ",", i);
        length += (size_t)(flat ? sprintf(text + length, "\"shape\":[%zu],", n * 1024)
                                : sprintf(text + length, "\"shape\":[%zu,1024],", n));
        length += (size_t)sprintf(text + length, "\"data_offsets\":[%zu,%zu]}",
                                  at * row_bytes, (at + n) * row_bytes);
        at += n;
    }
    text[length++] = '}';
    while (length % 8 != 0)
        text[length++] = ' ';
    header = length;
    demand(write(fd, &header, sizeof header) == sizeof header, input);
    demand(write(fd, text, length) == (ssize_t)length, input);
    if (fill) fill_weights(weights, 1 << 20);
    for (size_t left = rows * row_bytes; fill && left > 0;) {
        size_t n = left < sizeof weights ? left : sizeof weights;
        demand(write(fd, weights, n) == (ssize_t)n, input);
        left -= n;
    }
    demand(ftruncate(fd, (off_t)(sizeof header + length + rows * row_bytes)) == 0, input);
    demand(fsync(fd) == 0, input); /* its writing must not disturb what is measured */
    close(fd);
    free(text);
}

/* ---- one run ---- */

/* As many bytes as a job has written, from the input's. */
static void read_and_write(const setup *s, int64_t bytes_out) {
    static uint8_t block[BLOCK];
    ssize_t n;
    int in = open(input, O_RDONLY),
        out = open(output, O_CREAT | O_TRUNC | O_WRONLY, 0666);
    demand(in >= 0 && out >= 0, output);
    while ((n = read(in, block, sizeof block)) > 0) {
        /* spread over the input, as a job writes */
        if (n > bytes_out) n = (ssize_t)bytes_out;
        if (n > (ssize_t)sizeof block / 7) n = (ssize_t)sizeof block / 7;
        demand(write(out, block, (size_t)n) == n, output);
        bytes_out -= n;
    }
    for (; bytes_out > 0; bytes_out -= n) {
        n = bytes_out < BLOCK ? (ssize_t)bytes_out : BLOCK;
        demand(write(out, block, (size_t)n) == n, output);
    }
    demand(!s->sync || fsync(out) == 0, output);
    close(in);
    close(out);
}

static void run_job(const setup *s, uint64_t max_memory, outcome *out) {
    aq_pool_options none = {.min_buffer_bytes = (size_t)64 << 10, .max_idle_bytes = 1};
    aq_job_options o = {.mode = s->mode,
                        .quant = {.bits = 4, .group_size = 128, .method = s->method},
                        .max_memory_bytes = max_memory,
                        .threads = s->threads,
                        .resume = s->resume,
                        .no_sync = !s->sync};
    aq_job_report report;
    aq_error err;
    if (s->no_pool) check(aq_pool_create(&none, &o.pool, &err), &err);
    check(aq_job_run(input, output, &o, &report, &err), &err);
    out->pool = report.pool;
    out->bytes_out = (int64_t)report.file_bytes_out;
    aq_job_report_deinit(&report);
    aq_pool_destroy(o.pool);
}

/* The run, in this process. */
static outcome run_here(const setup *s, uint64_t max_memory, int64_t bytes_out,
                        bool look) {
    struct rusage before, after;
    outcome out = {.bytes_out = bytes_out};
    memory_watcher memory;
    if (look) demand(memory_watch(&memory), "thread");
    getrusage(RUSAGE_SELF, &before);
    out.wall = seconds_now();
    if (s->threads == 0) {
        read_and_write(s, bytes_out);
    } else {
        run_job(s, max_memory, &out);
    }
    out.wall = seconds_now() - out.wall;
    getrusage(RUSAGE_SELF, &after);
    if (look) out.peak_kib = memory_peak(&memory);
    out.cpu = cpu_seconds(&after) - cpu_seconds(&before);
    out.faults = after.ru_minflt - before.ru_minflt;
    return out;
}

/* The run, in a process of its own. */
static outcome run_apart(const setup *s, uint64_t max_memory, int64_t bytes_out,
                         bool look) {
    outcome out;
    int ends[2], state;
    pid_t child;
    unlink(output);
    fflush(stdout);
    demand(pipe(ends) == 0, "pipe");
    child = fork();
    demand(child >= 0, "fork");
    if (child == 0) {
        out = run_here(s, max_memory, bytes_out, look);
        demand(write(ends[1], &out, sizeof out) == sizeof out, "pipe");
        _exit(0);
    }
    close(ends[1]);
    demand(read(ends[0], &out, sizeof out) == sizeof out, "a run has failed");
    close(ends[0]);
    waitpid(child, &state, 0);
    return out;
}

/* ---- the table ---- */

static double median(double *values) {
    qsort(values, RUNS, sizeof *values, compare_doubles);
    return values[RUNS / 2];
}

typedef struct column {
    double wall[RUNS], cpu[RUNS], share[RUNS], cpu_share[RUNS];
    outcome last;
    long peak_kib;
} column;

static column columns[SETUPS];

static void measure_all(void) {
    int64_t bytes_out = run_apart(&setups[STREAM_2], 0, 0, false).bytes_out;
    for (size_t k = 0; k < SETUPS; k++)
        columns[k].peak_kib = run_apart(&setups[k], 0, bytes_out, true).peak_kib;
    for (int i = 0; i < RUNS; i++) {
        for (size_t n = 0; n < SETUPS; n++) { /* each round in another order */
            size_t k = (n * 5 + (size_t)i) % SETUPS;
            columns[k].last = run_apart(&setups[k], 0, bytes_out, false);
        }
        for (size_t k = 0; k < SETUPS; k++) {
            column *c = &columns[k];
            const outcome *floor = &columns[setups[k].sync ? FLOOR_SYNC : FLOOR].last;
            c->wall[i] = c->last.wall;
            c->cpu[i] = c->last.cpu;
            c->share[i] = c->wall[i] / floor->wall;
            c->cpu_share[i] = c->cpu[i] / floor->cpu;
        }
    }
    unlink(output);
}

/* Median over the rounds of what a setup takes more than another, as a share of it. */
static void print_overhead(const char *what, const double *with, const double *without) {
    double more[RUNS];
    for (int i = 0; i < RUNS; i++)
        more[i] = 100.0 * (with[i] / without[i] - 1.0);
    printf("%s: %+.1f %% (median of %d rounds)\n", what, median(more), RUNS);
}

/* Before print_table, which sorts. */
static void print_overheads(void) {
    const column *c = columns;
    print_overhead("pool, streaming, 1 thread, time of no pool against pool",
                   c[STREAM_1 + 1].wall, c[STREAM_1].wall);
    print_overhead("pool, streaming, 1 thread, the same in processor time",
                   c[STREAM_1 + 1].cpu, c[STREAM_1].cpu);
    print_overhead("journal", c[JOURNAL].wall, c[STREAM_2].wall);
    print_overhead("journal, processor time", c[JOURNAL].cpu, c[STREAM_2].cpu);
    print_overhead("fsync", c[SYNC].wall, c[STREAM_2].wall);
    print_overhead("journal and fsync, over fsync", c[BOTH].wall, c[SYNC].wall);
    print_overhead("journal and fsync", c[BOTH].wall, c[STREAM_2].wall);
}

static void print_table(void) {
    printf("%-37s %7s %6s %7s %6s %8s %9s %6s %9s %6s\n", "", "s", "/floor", "cpu s",
           "/floor", "faults", "peak KiB", "hits", "saved MiB", "fewer");
    for (size_t k = 0; k < SETUPS; k++) {
        column *c = &columns[k];
        const aq_pool_stats *p = &c->last.pool;
        printf("%-37s %7.3f %6.2f %7.3f %6.2f %8ld %9ld", setups[k].name, median(c->wall),
               median(c->share), median(c->cpu), median(c->cpu_share), c->last.faults,
               c->peak_kib);
        if (setups[k].threads > 0)
            printf(" %5.1f%% %9.1f %5.1fx", 100.0 * p->hit_rate,
                   (double)p->bytes_saved / 0x1p20, p->allocation_reduction);
        printf("\n");
    }
}

/* Peak private memory with a budget of 64 MiB. Zeros in a sparse file: what a value is
 * makes no difference to memory. */
static void print_memory(size_t mib) {
    for (int k = 1; k <= 8; k *= 8) {
        make_model((size_t)k * mib * 256, 4, false);
        for (uint32_t threads = 1; threads <= 2; threads++) {
            setup s = {.threads = threads};
            outcome out = run_apart(&s, (uint64_t)64 << 20, 0, true);
            printf("%5zu MiB of zeros in 4 tensors, budget 64 MiB, %u thread%s: peak "
                   "private "
                   "memory %ld KiB above the start\n",
                   (size_t)k * mib, threads, threads == 1 ? "" : "s", out.peak_kib);
        }
        unlink(output);
    }
}

int main(int argc, char **argv) {
    static const size_t tensors[] = {300, 4};
    long mib = argc > 1 ? atol(argv[1]) : 256;
    const char *dir = argc > 2 ? argv[2] : "build";
    if (mib < 8) {
        fprintf(stderr, "bench_job: at least 8 MiB\n");
        return 1;
    }
    snprintf(input, sizeof input, "%s/bench_job.safetensors", dir);
    snprintf(output, sizeof output, "%s/bench_job.parquet", dir);
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        make_model((size_t)mib * 256, tensors[i], true);
        measure_all();
        printf("%ld MiB of float32 in %zu tensors; output %.1f MiB\n", mib, tensors[i],
               (double)columns[STREAM_2].last.bytes_out / 0x1p20);
        print_overheads();
        print_table();
    }
    print_memory((size_t)mib);
    unlink(input);
    return 0;
}
