/* peers - arrowquant.h beside DuckDB, polars and hyparquet, and beside the floor: the
 * same work, each engine in a process of its own, their runs in turn.
 *   peers [--mib N] [--case GLOB]... [--threads 1|2] [--runs N] [--engines A,B] [--keep]
 *         [--cpu] [--json] [--list]
 * Default: 256 MiB of values, every case, 1 and 2 threads, 5 runs after one that does not
 * count. Ratios are medians of the runs' ratios: what the other took over what ours took.
 * --cpu takes the CPU time of an engine's process instead of the clock's, where
 * others use the machine too; on one thread that is what the clock says on one at rest.
 * Memory is the most private memory (resident, no file behind it) of the engine's process
 * over what it held before its first run. Files are made in build/peers, each when a case
 * needs it, by the engine that the case names; --keep leaves them there. */
#include "worker.h"

#include <fnmatch.h>
#include <signal.h>
#include <sys/stat.h>

#define DIRECTORY "build/peers"

/* OURS1: on one thread, beside two, for how it scales. */
enum { OURS, OURS1, FLOOR, DUCKDB, DUCKDB2, POLARS, POLARS2, HYPARQUET, ENGINES };
enum { MAX_PEER_RUNS = 64, MAX_GLOBS = 16, MAX_BARS = 6 };

static const char *const engine_names[ENGINES] = {
    "ours", "ours1", "floor", "duckdb", "duckdb2", "polars", "polars2", "hyparquet"};

/* What must be reached: of_floor is the floor's time over ours. `either`: of_floor or
 * over_peers is enough. */
typedef struct case_spec {
    const char *name;
    double of_floor;    /* 0 = no bar, here and below                                 */
    double over_duckdb; /* DuckDB's time over ours                                    */
    double over_peers;  /* of DuckDB and polars, the faster one's                     */
    double scaling;     /* our time on one thread over that on two                    */
    bool either;
} case_spec;

static const case_spec cases[] = {
    {"write.flat.none", 0.7, 1.0, 0, 0, false},
    {"write.flat.snappy", 0.9, 1.0, 0, 0, false},
    {"write.flat.zstd", 0.9, 1.0, 0, 0, false},
    {"write.list.none", 0, 0, 8.0, 0, false},
    {"write.list.snappy", 0.9, 0, 8.0, 0, true},
    {"write.list.zstd", 0.9, 0, 8.0, 0, true},
    {"write.blob.none", 0, 0, 0, 0, false},
    {"write.blob.zstd", 0, 0, 0, 0, false},
    {"read.flat.none.ours", 0.9, 0, 0, 0, false},
    {"read.flat.none.duckdb", 0.9, 0, 0, 0, false},
    {"read.flat.none.polars", 0.9, 0, 0, 0, false},
    {"read.flat.snappy.ours", 0.9, 1.0, 0, 1.8, false},
    {"read.flat.snappy.duckdb", 0.9, 1.0, 0, 1.8, false},
    {"read.flat.snappy.polars", 0.9, 1.0, 0, 1.8, false},
    {"read.flat.zstd.ours", 0.9, 1.0, 0, 1.8, false},
    {"read.flat.zstd.duckdb", 0.9, 1.0, 0, 1.8, false},
    {"read.flat.zstd.polars", 0.9, 1.0, 0, 1.8, false},
    {"read.list.none.ours", 0, 0, 8.0, 0, false},
    {"read.list.none.duckdb", 0, 0, 8.0, 0, false},
    {"read.list.none.polars", 0, 0, 8.0, 0, false},
    {"read.list.none.arrowrs", 0, 0, 8.0, 0, false},
    {"read.list.snappy.ours", 0.9, 0, 3.0, 0, true},
    {"read.list.snappy.duckdb", 0.9, 0, 3.0, 0, true},
    {"read.list.snappy.polars", 0.9, 0, 3.0, 0, true},
    {"read.list.zstd.ours", 0.9, 0, 3.0, 0, true},
    {"read.list.zstd.duckdb", 0.9, 0, 3.0, 0, true},
    {"read.list.zstd.polars", 0.9, 0, 3.0, 0, true},
    {"read.blob.none.ours", 0.97, 0, 0, 0, false},
    {"read.blob.none.duckdb", 0, 0, 0, 0, false},
    {"read.blob.none.polars", 0, 0, 0, 0, false},
    {"read.blob.zstd.ours", 0, 0, 0, 0, false},
    {"read.blob.zstd.duckdb", 0, 0, 0, 0, false},
    {"read.blob.zstd.polars", 0, 0, 0, 0, false},
    {"decode.int32.delta.ours", 0, 0, 1.0, 0, false},
    {"decode.int32.delta.duckdb", 0, 0, 1.0, 0, false},
    {"decode.int32.delta.arrowrs", 0, 0, 1.0, 0, false},
    {"decode.int64.delta.ours", 0, 0, 1.0, 0, false},
    {"decode.int64.delta.duckdb", 0, 0, 1.0, 0, false},
    {"decode.int64.delta.arrowrs", 0, 0, 1.0, 0, false},
    {"decode.float.dict.ours", 0, 0, 1.0, 0, false},
    {"decode.float.dict.duckdb", 0, 0, 1.0, 0, false},
    {"decode.float.dict.polars", 0, 0, 1.0, 0, false},
    {"decode.int64.dict.ours", 0, 0, 1.0, 0, false},
    {"decode.int64.dict.duckdb", 0, 0, 1.0, 0, false},
    {"decode.int64.dict.polars", 0, 0, 1.0, 0, false},
    {"decode.string.dict.ours", 0, 0, 1.0, 0, false},
    {"decode.string.dict.duckdb", 0, 0, 1.0, 0, false},
    {"decode.string.dict.polars", 0, 0, 1.0, 0, false},
    {"decode.float.bss.ours", 0, 0, 1.0, 0, false},
    {"decode.float.bss.duckdb", 0, 0, 1.0, 0, false},
    {"decode.float.bss.arrowrs", 0, 0, 1.0, 0, false},
    {"decode.double.bss.ours", 0, 0, 1.0, 0, false},
    {"decode.double.bss.duckdb", 0, 0, 1.0, 0, false},
    {"decode.string.dlba.ours", 0, 0, 1.0, 0, false},
    {"decode.string.dlba.duckdb", 0, 0, 1.0, 0, false},
    {"decode.string.dba.ours", 0, 0, 1.0, 0, false},
    {"decode.string.dba.arrowrs", 0, 0, 1.0, 0, false},
    {"footer.wide.none.duckdb", 0, 0, 0, 0, false},
    {"footer.groups.none.ours", 0, 0, 0, 0, false},
};

enum { CASES = sizeof cases / sizeof *cases };

static const double max_nanos_per_chunk = 150, max_memory_per_footer_byte = 3;

/* One engine in one case. */
typedef struct score {
    bool ran;
    int runs;
    double wall[MAX_PEER_RUNS], cpu[MAX_PEER_RUNS];
    double times[MAX_PEER_RUNS]; /* one of them                                       */
    double seconds; /* median                                                         */
    double ratio;   /* median of its time over ours                                   */
    double peak;
    outcome last;
    char error[256];
} score;

typedef struct bar {
    const char *what;
    double value, limit;
    bool passed;
} bar;

typedef struct result {
    const case_spec *spec;
    unsigned threads;
    score scores[ENGINES]; /* the better of two variants in DUCKDB, POLARS            */
    bar bars[MAX_BARS];
    int num_bars;
    bool has_limits, all_passed;
    char note[128]; /* the file is not what the case is about                         */
} result;

static struct {
    size_t mib;
    unsigned threads; /* 0 = 1 and 2 */
    int runs;
    const char *globs[MAX_GLOBS];
    int num_globs;
    bool wanted[ENGINES];
    bool keep, json, list, cpu;
    FILE *table;
    result *results;
    int num_results;
} self = {.mib = 256, .runs = 5};

/* --- Files -------------------------------------------------------------------------- */

static void file_path(char *path, const job *j, const char *writer) {
    snprintf(path, PATH_BYTES, DIRECTORY "/%s_%s_%s.parquet", j->data, j->how, writer);
}

/* Makes the file of the case, if it is not there, and first the one it is made from. */
static bool make_file(const job *wanted, const char *writer, char *error) {
    char name[128], temporary[PATH_BYTES], path[PATH_BYTES];
    job j = *wanted;
    worker w;
    duration time;
    file_path(path, &j, writer);
    if (access(path, R_OK) == 0) return true;
    bool shape = is(j.data, "flat") || is(j.data, "list") || is(j.data, "blob");
    if (!is(writer, "ours") && !is(j.data, "wide")) {
        if (shape) snprintf(j.how, sizeof j.how, "none");
        if (!make_file(&j, "ours", error)) return false;
    }
    file_path(j.in, &j, "ours");
    snprintf(name, sizeof name, "write.%s.%s", wanted->data, wanted->how);
    snprintf(temporary, sizeof temporary, "%.4000s.new", path);
    memcpy(j.out, temporary, sizeof temporary);
    j.threads = is(writer, "ours") ? 1 : 2;
    worker_start(&w, writer, &j, name);
    bool ok = worker_run(&w, &time) && rename(temporary, path) == 0;
    worker_stop(&w);
    snprintf(error, 256, "%.60s cannot write it: %.150s", writer, w.error);
    return ok;
}

/* Engines choose encodings by themselves: says so when the file has not the one that the
 * case is about. */
static void note_encoding(result *r, const job *j) {
    static const struct {
        const char *how;
        aq_encoding encoding;
    } names[] = {{"delta", AQ_DELTA_BINARY_PACKED},
                 {"dict", AQ_RLE_DICTIONARY},
                 {"bss", AQ_BYTE_STREAM_SPLIT},
                 {"dlba", AQ_DELTA_LENGTH_BYTE_ARRAY},
                 {"dba", AQ_DELTA_BYTE_ARRAY}};
    aq_encoding expected = AQ_PLAIN;
    aq_chunk_info chunk;
    aq_parquet *file;
    aq_error err;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (is(j->how, names[i].how)) expected = names[i].encoding;
    check(aq_parquet_open(j->in, NULL, &file, &err), &err);
    check(aq_parquet_get_chunk(file, 0, 0, &chunk, &err), &err);
    aq_parquet_close(file);
    uint32_t dictionary = 1u << AQ_RLE_DICTIONARY | 1u << AQ_PLAIN_DICTIONARY;
    uint32_t wanted = expected == AQ_RLE_DICTIONARY ? dictionary : 1u << expected;
    if ((chunk.encodings & wanted) == 0)
        snprintf(r->note, sizeof r->note, "the file has no %s",
                 aq_encoding_name((int32_t)expected));
    else if (expected == AQ_PLAIN && (chunk.encodings & dictionary) != 0)
        snprintf(r->note, sizeof r->note, "the file has a dictionary");
}

/* Files are of one size: those of another are dropped. */
static void check_directory(void) {
    size_t mib = 0;
    mkdir("build", 0777);
    mkdir(DIRECTORY, 0777);
    FILE *file = fopen(DIRECTORY "/mib", "r");
    if (file != NULL) {
        if (fscanf(file, "%zu", &mib) != 1) mib = 0;
        fclose(file);
    }
    if (mib == self.mib) return;
    if (system("rm -f " DIRECTORY "/*.parquet") != 0) exit(2);
    file = fopen(DIRECTORY "/mib", "w");
    if (file == NULL) {
        perror("peers: " DIRECTORY);
        exit(2);
    }
    fprintf(file, "%zu\n", self.mib);
    fclose(file);
}

/* --- Measuring ---------------------------------------------------------------------- */

static double median(const double *values, int n) {
    double sorted[MAX_PEER_RUNS];
    if (n == 0) return NAN;
    memcpy(sorted, values, (size_t)n * sizeof *values);
    qsort(sorted, (size_t)n, sizeof *sorted, compare_doubles);
    return sorted[n / 2];
}

static bool takes_part(int e, const case_spec *spec, const job *j) {
    bool writes = job_writes(j), footer = is(j->operation, "footer");
    if (e == OURS) return true;
    if (e == OURS1) return spec->scaling > 0 && j->threads == 2 && !self.cpu;
    if (!self.wanted[e]) return false;
    if (e == FLOOR) return !footer && !is(j->operation, "decode");
    if (e == HYPARQUET) return !writes && j->threads == 1;
    if (e == POLARS2) return !footer;
    return true;
}

static double measured(const duration *time) { return self.cpu ? time->cpu : time->wall; }

static void run_once(worker *w, score *s) {
    duration time;
    s->ran = worker_run(w, &time);
    if (!s->ran) return;
    s->wall[s->runs] = time.wall;
    s->cpu[s->runs] = time.cpu;
    s->times[s->runs++] = measured(&time);
}

/* Of the two variants of an engine the slower one is left after its first run, when it is
 * slower by far. */
static void leave_slower(worker *w, score *s, const double *first, int a) {
    int b = a + 1;
    if (!s[a].ran || !s[b].ran) return;
    int slower = first[a] > first[b] ? a : b, faster = slower == a ? b : a;
    if (first[slower] < 1.25 * first[faster]) return;
    s[slower].ran = false;
    worker_stop(&w[slower]);
}

static void start_workers(worker *w, result *r, const job *j) {
    double first[ENGINES] = {0};
    duration time = {0.0, 0.0};
    for (int e = 0; e < ENGINES; e++) {
        score *s = &r->scores[e];
        memset(&w[e], 0, sizeof w[e]);
        if (!takes_part(e, r->spec, j)) continue;
        job own = *j;
        if (e == OURS1) own.threads = 1;
        snprintf(own.out, sizeof own.out, DIRECTORY "/out_%s", engine_names[e]);
        worker_start(&w[e], engine_names[e], &own, r->spec->name);
        s->ran = worker_run(&w[e], &time);
        first[e] = measured(&time);
    }
    leave_slower(w, r->scores, first, DUCKDB);
    leave_slower(w, r->scores, first, POLARS);
}

static void measure(result *r, const job *j) {
    worker workers[ENGINES];
    double ratios[MAX_PEER_RUNS];
    int runs = is(j->operation, "footer") ? 5 * self.runs : self.runs;
    if (runs > MAX_PEER_RUNS) runs = MAX_PEER_RUNS;
    start_workers(workers, r, j);
    for (int i = 0; i < runs; i++)
        for (int e = 0; e < ENGINES; e++)
            if (r->scores[e].ran) run_once(&workers[e], &r->scores[e]);
    for (int e = 0; e < ENGINES; e++) {
        score *s = &r->scores[e];
        char out[PATH_BYTES];
        s->seconds = median(s->times, s->runs);
        for (int i = 0; i < s->runs; i++)
            ratios[i] = s->times[i] / r->scores[OURS].times[i];
        s->ratio = median(ratios, s->runs);
        s->peak = workers[e].peak - workers[e].base;
        s->last = workers[e].last;
        memcpy(s->error, workers[e].error, sizeof s->error);
        worker_stop(&workers[e]);
        snprintf(out, sizeof out, DIRECTORY "/out_%s", engine_names[e]);
        unlink(out);
    }
}

/* Sums of floats depend on the order; those of weights are near to 0. */
static void check_sums(result *r) {
    const score *ours = &r->scores[OURS];
    bool floats =
        strstr(r->spec->name, "int") == NULL && strstr(r->spec->name, "string") == NULL;
    for (int e = 1; e < ENGINES; e++) {
        score *s = &r->scores[e];
        double difference = s->last.sum - ours->last.sum;
        double room = 1e-6 * (ours->last.sum < 0 ? -ours->last.sum : ours->last.sum);
        if (floats) room += 1e-4 * (double)self.mib;
        if (!s->ran || !(difference > room || -difference > room)) continue;
        s->ran = false;
        snprintf(s->error, sizeof s->error, "the sum is %.9g, ours %.9g", s->last.sum,
                 ours->last.sum);
    }
}

/* The better variant stands for the engine. */
static void merge_variants(result *r, int a) {
    score *first = &r->scores[a], *second = &r->scores[a + 1];
    if (second->ran && (!first->ran || second->seconds < first->seconds))
        *first = *second;
    second->ran = false;
}

/* --- Bars --------------------------------------------------------------------------- */

static void add_bar(result *r, const char *what, double value, double limit,
                    bool passed) {
    if (isnan(value)) return;
    r->bars[r->num_bars++] = (bar){what, value, limit, passed || limit == 0};
    if (limit > 0) r->has_limits = true;
    if (limit > 0 && !passed) r->all_passed = false;
}

static double ratio_of(const result *r, int e) {
    return r->scores[e].ran ? r->scores[e].ratio : NAN;
}

static double ratio_of_peers(const result *r) {
    double a = ratio_of(r, DUCKDB), b = ratio_of(r, POLARS);
    return isnan(b) || a < b ? a : b;
}

static bool is_wide(const case_spec *c) { return strstr(c->name, ".wide") != NULL; }

/* Of many row groups the figures are only said: no limit. */
static void add_footer_bars(result *r) {
    const outcome *o = &r->scores[OURS].last;
    double nanos = 1e9 * r->scores[OURS].seconds / o->count;
    double memory = o->memory / o->bytes;
    double max_nanos = is_wide(r->spec) ? max_nanos_per_chunk : 0;
    double max_memory = is_wide(r->spec) ? max_memory_per_footer_byte : 0;
    add_bar(r, "ns per column chunk", nanos, max_nanos, nanos < max_nanos);
    add_bar(r, "memory over footer", memory, max_memory, memory < max_memory);
}

static void add_bars(result *r) {
    const case_spec *c = r->spec;
    double of_floor = ratio_of(r, FLOOR), peers = ratio_of_peers(r);
    double duckdb = ratio_of(r, DUCKDB);
    bool floor_passed = of_floor >= c->of_floor, peers_passed = peers >= c->over_peers;
    r->all_passed = true;
    if (strncmp(c->name, "footer", 6) == 0) add_footer_bars(r);
    if (c->either) floor_passed = peers_passed = floor_passed || peers_passed;
    if (c->of_floor > 0) add_bar(r, "of floor", of_floor, c->of_floor, floor_passed);
    if (c->over_peers > 0) add_bar(r, "over peers", peers, c->over_peers, peers_passed);
    if (c->over_duckdb > 0)
        add_bar(r, "over duckdb", duckdb, c->over_duckdb, duckdb >= c->over_duckdb);
    if (c->scaling > 0 && r->threads == 2 && !self.cpu) {
        double scaling = ratio_of(r, OURS1);
        add_bar(r, "scaling", scaling, c->scaling, scaling >= c->scaling);
    }
}

/* --- Output ------------------------------------------------------------------------- */

static void print_head(void) {
    fprintf(self.table, "%zu MiB of values, medians of %d runs, in turn%s\n", self.mib,
            self.runs, self.cpu ? "; CPU time" : "");
    fprintf(self.table, "%-27s %1s %9s %7s %6s %7s %7s %7s | %6s %6s %6s %6s |\n", "", "",
            "ours", "", "floor", "duckdb", "polars", "hyparq", "ours", "duckdb", "polars",
            "hyparq");
    fprintf(self.table, "%-27s %1s %9s %7s %6s %7s %7s %7s | %27s | bar\n", "case", "t",
            "ms", "GiB/s", "/ours", "/ours", "/ours", "/ours", "private memory, MiB");
}

static void print_ratio(const result *r, int e, int width) {
    const score *s = &r->scores[e];
    if (s->ran)
        fprintf(self.table, " %*.*f", width, s->ratio < 10 ? 2 : 1, s->ratio);
    else
        fprintf(self.table, " %*s", width, s->error[0] != '\0' ? "fails" : "-");
}

static void print_memory(const result *r, int e) {
    const score *s = &r->scores[e];
    if (s->ran)
        fprintf(self.table, " %6.0f", s->peak / 1048576.0);
    else
        fprintf(self.table, " %6s", "-");
}

static void print_bar(const bar *b, bool first) {
    fprintf(self.table, "%s%s %.3g", first ? " " : ", ", b->what, b->value);
    if (b->limit > 0) fprintf(self.table, " (%.3g)%s", b->limit, b->passed ? "" : " !");
}

static void print_result(const result *r) {
    double seconds = r->scores[OURS].ran ? r->scores[OURS].seconds : NAN;
    fprintf(self.table, "%-27s %u %9.2f %7.2f", r->spec->name, r->threads, 1e3 * seconds,
            (double)self.mib / 1024.0 / seconds);
    print_ratio(r, FLOOR, 6);
    for (int e = DUCKDB; e < ENGINES; e++)
        if (e != DUCKDB2 && e != POLARS2) print_ratio(r, e, 7);
    fprintf(self.table, " |");
    print_memory(r, OURS);
    for (int e = DUCKDB; e < ENGINES; e++)
        if (e != DUCKDB2 && e != POLARS2) print_memory(r, e);
    fprintf(self.table, " |");
    if (r->has_limits) fprintf(self.table, r->all_passed ? " pass" : " BELOW");
    for (int i = 0; i < r->num_bars; i++)
        print_bar(&r->bars[i], i == 0);
    fprintf(self.table, "\n");
    for (int e = 0; e < ENGINES; e++)
        if (!r->scores[e].ran && r->scores[e].error[0] != '\0')
            fprintf(self.table, "    %s: %.150s\n", engine_names[e], r->scores[e].error);
    if (r->note[0] != '\0') fprintf(self.table, "    %s\n", r->note);
    fflush(self.table);
}

static void print_missed(void) {
    int passed = 0, missed = 0;
    for (int i = 0; i < self.num_results; i++) {
        const result *r = &self.results[i];
        for (int k = 0; k < r->num_bars; k++) {
            const bar *b = &r->bars[k];
            if (b->limit == 0) continue;
            passed += b->passed;
            missed += !b->passed;
            if (!b->passed)
                fprintf(self.table, "below: %s, %u thread%s: %s %.3g, not %.3g\n",
                        r->spec->name, r->threads, r->threads == 1 ? "" : "s", b->what,
                        b->value, b->limit);
        }
    }
    fprintf(self.table, "%d bars reached, %d missed\n", passed, missed);
}

static void print_json_text(const char *key, const char *text) {
    printf("\"%s\": \"", key);
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\') putchar('\\');
        if ((unsigned char)*text >= 32) putchar(*text);
    }
    putchar('"');
}

static void print_json_runs(const char *key, const double *seconds, int n) {
    printf(", \"%s\": [", key);
    for (int i = 0; i < n; i++)
        printf("%s%.9g", i == 0 ? "" : ", ", seconds[i]);
    printf("]");
}

static void print_json_score(const char *name, const score *s) {
    printf("\n    \"%s\": {", name);
    if (!s->ran) {
        print_json_text("error", s->error);
        printf("}");
        return;
    }
    printf("\"seconds\": %.9g, \"over_ours\": %.6g, \"private_bytes\": %.0f", s->seconds,
           s->ratio, s->peak);
    print_json_runs("clock", s->wall, s->runs);
    print_json_runs("cpu", s->cpu, s->runs);
    printf("}");
}

static void print_json_result(const result *r, bool first) {
    bool comma = false;
    printf("%s\n  {\"case\": \"%s\", \"threads\": %u, \"mib\": %zu, \"engines\": {",
           first ? "" : ",", r->spec->name, r->threads, self.mib);
    for (int e = 0; e < ENGINES; e++) {
        const score *s = &r->scores[e];
        if (!s->ran && s->error[0] == '\0') continue;
        if (comma) putchar(',');
        print_json_score(engine_names[e], s);
        comma = true;
    }
    printf("},\n   \"bars\": [");
    for (int i = 0; i < r->num_bars; i++)
        printf("%s{\"what\": \"%s\", \"value\": %.6g, \"limit\": %.6g, \"passed\": %s}",
               i == 0 ? "" : ", ", r->bars[i].what, r->bars[i].value, r->bars[i].limit,
               r->bars[i].passed ? "true" : "false");
    printf("]}");
    fflush(stdout);
}

/* ------------------------------------------------------------------------------------ */

static void run_case(const case_spec *spec, unsigned threads) {
    result *r = &self.results[self.num_results];
    job j = {.threads = threads, .mib = self.mib};
    char error[256] = "";
    r->spec = spec;
    r->threads = threads;
    if (!job_parse(&j, spec->name)) exit(2);
    bool made = true;
    if (!job_writes(&j)) {
        file_path(j.in, &j, j.writer);
        made = make_file(&j, j.writer, error);
    } else {
        job source = j;
        snprintf(source.how, sizeof source.how, "none");
        file_path(j.in, &source, "ours");
        made = make_file(&source, "ours", error);
    }
    if (made && !job_writes(&j) && !is(j.operation, "footer")) note_encoding(r, &j);
    if (made)
        measure(r, &j);
    else
        memcpy(r->scores[OURS].error, error, sizeof error);
    check_sums(r);
    merge_variants(r, DUCKDB);
    merge_variants(r, POLARS);
    if (r->scores[OURS].ran) add_bars(r);
    print_result(r);
    if (self.json) print_json_result(r, self.num_results == 0);
    self.num_results++;
}

static bool is_chosen(const char *name) {
    for (int i = 0; i < self.num_globs; i++) {
        char longer[160];
        snprintf(longer, sizeof longer, "%s.*", self.globs[i]);
        if (fnmatch(self.globs[i], name, 0) == 0 || fnmatch(longer, name, 0) == 0)
            return true;
    }
    return self.num_globs == 0;
}

static void run_cases(void) {
    self.results = calloc(2 * CASES, sizeof *self.results);
    check_directory();
    self.table = self.json ? stderr : stdout;
    if (self.json) printf("[");
    print_head();
    for (int i = 0; i < CASES; i++) {
        bool footer = strncmp(cases[i].name, "footer", 6) == 0;
        if (!is_chosen(cases[i].name)) continue;
        if (self.threads != 2 || footer) run_case(&cases[i], 1);
        if (self.threads != 1 && !footer) run_case(&cases[i], 2);
        job j = {.threads = 1};
        char path[PATH_BYTES];
        if (self.keep || !job_parse(&j, cases[i].name) || j.writer[0] == '\0') continue;
        file_path(path, &j, j.writer);
        if (!is(j.writer, "ours")) unlink(path);
    }
    if (self.json) printf("\n]\n");
    print_missed();
    if (!self.keep && system("rm -rf " DIRECTORY) != 0) exit(2);
}

static void usage(void) {
    fprintf(stderr, "usage: peers [--mib N] [--case GLOB]... [--threads 1|2] [--runs N] "
                    "[--engines A,B] [--keep] [--cpu] [--json] [--list]\n");
    exit(2);
}

static void choose_engines(const char *names) {
    for (int e = 0; e < ENGINES; e++) {
        char base[PART_BYTES];
        snprintf(base, sizeof base, "%s", engine_names[e]);
        base[strcspn(base, "2")] = '\0'; /* variants of an engine */
        self.wanted[e] = names == NULL || strstr(names, base) != NULL;
    }
}

static void take_option(const char *name, const char *value) {
    if (value == NULL) usage();
    if (is(name, "--mib"))
        self.mib = (size_t)atoi(value);
    else if (is(name, "--threads"))
        self.threads = (unsigned)atoi(value);
    else if (is(name, "--runs"))
        self.runs = atoi(value);
    else if (is(name, "--engines"))
        choose_engines(value);
    else if (is(name, "--case") && self.num_globs < MAX_GLOBS)
        self.globs[self.num_globs++] = value;
    else
        usage();
}

static int run_worker(char **arguments) {
    static const engine *const engines[] = {&engine_ours, &engine_floor,
                                            &engine_duckdb_sql, &engine_duckdb_fetch};
    const char *name = is(arguments[0], "ours1") ? "ours" : arguments[0];
    job j = {.threads = 1};
    if (!job_parse(&j, arguments[1])) return 2;
    snprintf(j.in, sizeof j.in, "%s", arguments[2]);
    snprintf(j.out, sizeof j.out, "%s", arguments[3]);
    j.threads = (unsigned)atoi(arguments[4]);
    j.mib = (size_t)atoi(arguments[5]);
    for (size_t i = 0; i < sizeof engines / sizeof *engines; i++)
        if (is(engines[i]->name, name)) return worker_main(engines[i], &j);
    return 2;
}

int main(int argc, char **argv) {
    if (argc == 8 && is(argv[1], "--worker")) return run_worker(argv + 2);
    choose_engines(NULL);
    for (int i = 1; i < argc; i++) {
        if (is(argv[i], "--cpu"))
            self.cpu = true;
        else if (is(argv[i], "--keep"))
            self.keep = true;
        else if (is(argv[i], "--json"))
            self.json = true;
        else if (is(argv[i], "--list"))
            self.list = true;
        else {
            take_option(argv[i], i + 1 < argc ? argv[i + 1] : NULL);
            i++;
        }
    }
    if (self.mib < 1 || self.runs < 1 || self.runs > MAX_PEER_RUNS) usage();
    for (int i = 0; i < CASES && self.list; i++)
        printf("%s\n", cases[i].name);
    signal(SIGPIPE, SIG_IGN);
    if (!self.list) run_cases();
    return 0;
}
