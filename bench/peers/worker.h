/* worker.h - an engine in a fresh process, which is told to run as often as is wanted. */
#ifndef WORKER_H
#define WORKER_H

#include "peers.h"

#include <sys/types.h>

typedef struct duration {
    double wall;
    double cpu; /* of all threads of the process */
} duration;

typedef struct worker {
    const char *name;
    pid_t pid;
    FILE *to, *from;
    int runs;
    double base, peak; /* private bytes before the first run; the most since */
    outcome last;
    char error[256]; /* why it cannot run */
} worker;

/* Never fails: a worker that cannot run says why in `error`. */
void worker_start(worker *w, const char *name, const job *j, const char *case_name);
bool worker_run(worker *w, duration *out_time);
void worker_stop(worker *w);

/* The other side: what main() is in the engine's process. */
int worker_main(const engine *e, const job *j);

#endif
