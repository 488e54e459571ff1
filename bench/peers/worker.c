/* worker.c - an engine in a process of its own: the engine's side, and the driver's. */
#include "worker.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/wait.h>

/* --- In the engine's process -------------------------------------------------------- */

void give_up(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    printf("error ");
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
    fflush(stdout);
    exit(1);
}

/* Of all threads of this process. */
static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int worker_main(const engine *e, const job *j) {
    char line[16];
    setvbuf(stdout, NULL, _IOLBF, 0);
    e->start(j);
    printf("ready\n");
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (job_writes(j)) unlink(j->out);
        double start = seconds_now(), cpu_start = cpu_seconds();
        outcome out = e->run(j);
        double seconds = seconds_now() - start;
        printf("%.9f %.9f %.17g %g %g %g\n", seconds, cpu_seconds() - cpu_start, out.sum,
               out.memory, out.count, out.bytes);
    }
    return 0;
}

/* --- In the driver's process -------------------------------------------------------- */

static bool runs_in_node(const char *name) {
    return is(name, "polars") || is(name, "polars2") || is(name, "hyparquet") ||
           is(name, "arrowrs");
}

static void become_engine(const worker *w, const job *j, const char *case_name) {
    char threads[16], mib[32];
    snprintf(threads, sizeof threads, "%u", j->threads);
    snprintf(mib, sizeof mib, "%zu", j->mib);
    setenv("POLARS_MAX_THREADS", threads, 1);
    if (runs_in_node(w->name))
        execlp("node", "node", "--max-old-space-size=12000", "bench/peers/worker.mjs",
               w->name, case_name, j->in, j->out, (char *)NULL);
    else
        execl("/proc/self/exe", "peers", "--worker", w->name, case_name, j->in, j->out,
              threads, mib, (char *)NULL);
    give_up("%s does not start", w->name);
}

/* Resident bytes that no file is behind. */
static double private_bytes(const worker *w) {
    char path[64];
    unsigned long long size, resident = 0, shared = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)w->pid);
    FILE *file = fopen(path, "r");
    if (file == NULL) return 0.0;
    if (fscanf(file, "%llu %llu %llu", &size, &resident, &shared) != 3) resident = shared;
    fclose(file);
    return (double)(resident - shared) * (double)sysconf(_SC_PAGESIZE);
}

static void fail(worker *w, const char *message) {
    snprintf(w->error, sizeof w->error, "%.200s", message);
    w->error[strcspn(w->error, "\n")] = '\0';
}

/* A line of the worker; meanwhile its memory is looked at. */
static bool read_answer(worker *w, int sample_ms, char *line, int room) {
    struct pollfd wait = {fileno(w->from), POLLIN, 0};
    while (sample_ms > 0 && poll(&wait, 1, sample_ms) == 0) {
        double bytes = private_bytes(w);
        if (bytes > w->peak) w->peak = bytes;
    }
    if (fgets(line, room, w->from) == NULL) {
        fail(w, "its process died");
        return false;
    }
    if (strncmp(line, "error ", 6) == 0) {
        fail(w, line + 6);
        return false;
    }
    return true;
}

void worker_start(worker *w, const char *name, const job *j, const char *case_name) {
    int to[2], from[2];
    char line[512];
    memset(w, 0, sizeof *w);
    w->name = name;
    if (pipe(to) != 0 || pipe(from) != 0 || (w->pid = fork()) < 0) {
        fail(w, strerror(errno));
        return;
    }
    if (w->pid == 0) {
        dup2(to[0], STDIN_FILENO);
        dup2(from[1], STDOUT_FILENO);
        for (int i = 3; i < 64; i++)
            close(i);
        become_engine(w, j, case_name);
    }
    close(to[0]);
    close(from[1]);
    w->to = fdopen(to[1], "w");
    w->from = fdopen(from[0], "r");
    if (read_answer(w, 0, line, sizeof line)) w->base = w->peak = private_bytes(w);
}

bool worker_run(worker *w, duration *out_time) {
    char line[512];
    outcome *o = &w->last;
    if (w->error[0] != '\0') return false;
    fputs("run\n", w->to);
    fflush(w->to);
    if (!read_answer(w, w->runs++ == 0 ? 1 : 5, line, sizeof line)) return false;
    o->sum = o->memory = o->count = o->bytes = NAN;
    if (sscanf(line, "%lf %lf %lf %lf %lf %lf", &out_time->wall, &out_time->cpu, &o->sum,
               &o->memory, &o->count, &o->bytes) >= 3)
        return true;
    fail(w, line);
    return false;
}

void worker_stop(worker *w) {
    if (w->to != NULL) fclose(w->to);
    if (w->from != NULL) fclose(w->from);
    if (w->pid > 0) waitpid(w->pid, NULL, 0);
    w->to = w->from = NULL;
    w->pid = 0;
}
