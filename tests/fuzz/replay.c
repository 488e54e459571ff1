/* replay.c - the fuzz targets without libFuzzer.
 *
 *   replay list                             names of the targets
 *   replay seeds DIR                        makes DIR/TARGET/..., small valid inputs
 *   replay run TARGET PATH...               each file, or each in a directory, once
 *   replay mutate TARGET FILE COUNT SEED    COUNT changed copies of a valid file
 *
 * Inputs run in a child process, so that one that kills it is counted, named and kept in
 * $FUZZ_OUT (build/fuzz), and the next one follows. Last line: "N passed, N failed". */
#include "targets.h"

#include "make_seeds.c"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define REPLAY_SECONDS 5 /* of the processor, for one input: more is a hang */
#define REPLAY_MAX_FAILURES 20

/* What the child tells the parent. */
typedef struct replay_shared {
    size_t current; /* input at work; the number of inputs when all are done */
    size_t results[AQ_E_QUALITY + 1];
} replay_shared;

typedef struct replay {
    const fuzz_target *target;
    size_t count;
    char **paths; /* of run; else a file and its changes: */
    fuzz_whole original;
    const char *name;
    uint64_t seed;
    replay_shared *shared;
} replay;

/* Input number i, in exactly its bytes of malloc. */
static fuzz_whole replay_input(const replay *r, size_t i) {
    fuzz_mutation m;
    fuzz_whole f;
    if (r->paths != NULL) return fuzz_file_read(r->paths[i]);
    m.room = r->original.size * 2 + 256;
    m.size = r->original.size;
    m.random = (r->seed + i) * 0x9e3779b97f4a7c15u | 1;
    m.data = (uint8_t *)malloc(m.room);
    FUZZ_CHECK(m.data != NULL);
    memcpy(m.data, r->original.data, m.size);
    mutate_begin(&m, r->target->options);
    mutate_file(&m);
    mutate_end(&m);
    f.size = m.size;
    f.data = (uint8_t *)malloc(AQI_MAX(f.size, (size_t)1));
    FUZZ_CHECK(f.data != NULL);
    memcpy(f.data, m.data, f.size);
    free(m.data);
    return f;
}

/* The child: inputs from `first` on. */
static void replay_work(const replay *r, size_t first) {
    const struct itimerval limit = {{0, 0}, {REPLAY_SECONDS, 0}};
    size_t i;
    for (i = first; i < r->count; i++) {
        fuzz_whole f = replay_input(r, i);
        r->shared->current = i;
        setitimer(ITIMER_PROF, &limit, NULL); /* SIGPROF ends the process */
        alarm(60 * REPLAY_SECONDS);           /* and this one when it sleeps */
        r->target->run(f.data, f.size);
        r->shared->results[fuzz_result]++;
        free(f.data);
    }
    r->shared->current = r->count;
    alarm(0);
    exit(0); /* leaks are looked for now */
}

static void replay_failure(const replay *r, int status) {
    const char *out = getenv("FUZZ_OUT");
    size_t i = r->shared->current;
    char name[64];
    fuzz_whole f;
    if (WIFSIGNALED(status) &&
        (WTERMSIG(status) == SIGPROF || WTERMSIG(status) == SIGALRM)) {
        printf("FAIL: over %d s\n", REPLAY_SECONDS);
    } else {
        printf("FAIL: %s %d\n", WIFSIGNALED(status) ? "signal" : "exit status",
               WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    }
    if (i >= r->count) {
        printf("  after the last input: see the leak above\n");
        return;
    }
    if (r->paths != NULL) {
        printf("  replay run %s %s\n", r->target->name, r->paths[i]);
        return;
    }
    f = replay_input(r, i);
    snprintf(name, sizeof name, "failed-%s-%llu", r->target->name,
             (unsigned long long)(r->seed + i));
    seeds_put(out != NULL ? out : "build/fuzz", name, f.data, f.size);
    printf("  replay mutate %s %s 1 %llu\n  the input is in %s/%s\n", r->target->name,
           r->name, (unsigned long long)(r->seed + i), out != NULL ? out : "build/fuzz",
           name);
    free(f.data);
}

static void replay_summary(const replay *r, size_t failed) {
    size_t i;
    printf("%s %s: %zu inputs", r->target->name, r->name, r->count);
    if (r->paths == NULL) printf(" from seed %llu", (unsigned long long)r->seed);
    printf(", %zu accepted", r->shared->results[AQ_OK]);
    for (i = 1; i <= AQ_E_QUALITY; i++) {
        if (r->shared->results[i] > 0)
            printf(", %zu %s", r->shared->results[i], aq_status_name((aq_status)i));
    }
    printf("\n%zu passed, %zu failed\n", r->count - failed, failed);
}

/* Exit status: 0 when nothing failed. */
static int replay_run(replay *r) {
    size_t failed = 0, first = 0;
    void *p = mmap(NULL, sizeof *r->shared, PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    FUZZ_CHECK(p != MAP_FAILED);
    r->shared = (replay_shared *)p;
    while (first < r->count && failed < REPLAY_MAX_FAILURES) {
        int status = 0;
        pid_t child;
        r->shared->current = first;
        fflush(NULL);
        child = fork();
        FUZZ_CHECK(child >= 0);
        if (child == 0) replay_work(r, first);
        while (waitpid(child, &status, 0) < 0 && errno == EINTR)
            continue;
        if (status != 0) {
            replay_failure(r, status);
            failed++;
        }
        first = r->shared->current + 1;
    }
    if (failed == REPLAY_MAX_FAILURES) {
        printf("that is enough\n");
        r->count = AQI_MIN(r->count, first);
    }
    replay_summary(r, AQI_MIN(failed, r->count));
    return failed > 0;
}

/* ---- command line ---- */

static int replay_compare_paths(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void replay_add_path(replay *r, const char *directory, const char *name) {
    char path[1024];
    FUZZ_CHECK(snprintf(path, sizeof path, "%s%s%s", directory,
                        directory[0] == '\0' ? "" : "/", name) < (int)sizeof path);
    r->paths = (char **)realloc(r->paths, (r->count + 1) * sizeof *r->paths);
    FUZZ_CHECK(r->paths != NULL);
    r->paths[r->count++] = strdup(path);
}

static int replay_paths(replay *r, char **paths, int n) {
    int i, status;
    r->name = n == 1 ? paths[0] : "files";
    for (i = 0; i < n; i++) {
        struct dirent *entry;
        DIR *directory = opendir(paths[i]);
        if (directory == NULL) {
            replay_add_path(r, "", paths[i]);
            continue;
        }
        while ((entry = readdir(directory)) != NULL) {
            if (entry->d_name[0] != '.') replay_add_path(r, paths[i], entry->d_name);
        }
        closedir(directory);
    }
    if (r->count > 0) qsort(r->paths, r->count, sizeof *r->paths, replay_compare_paths);
    status = replay_run(r);
    while (r->count > 0)
        free(r->paths[--r->count]);
    free(r->paths);
    return status;
}

int main(int argc, char **argv) {
    replay r;
    size_t i;
    memset(&r, 0, sizeof r);
    if (argc == 3 && strcmp(argv[1], "seeds") == 0) {
        seeds_write(argv[2]);
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "list") == 0) {
        for (i = 0; i < AQI_COUNT(fuzz_targets); i++)
            printf("%s\n", fuzz_targets[i].name);
        return 0;
    }
    if (argc >= 4) r.target = fuzz_find_target(argv[2]);
    if (r.target != NULL && strcmp(argv[1], "run") == 0)
        return replay_paths(&r, argv + 3, argc - 3);
    if (r.target != NULL && argc == 6 && strcmp(argv[1], "mutate") == 0) {
        int status;
        r.name = argv[3];
        r.original = fuzz_file_read(argv[3]);
        r.count = (size_t)strtoull(argv[4], NULL, 10);
        r.seed = strtoull(argv[5], NULL, 10);
        status = replay_run(&r);
        free(r.original.data);
        return status;
    }
    fprintf(stderr, "usage: replay list | seeds DIR | run TARGET PATH... | "
                    "mutate TARGET FILE COUNT SEED\n");
    return 2;
}
