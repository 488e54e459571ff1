/* private_memory.h - peak private memory, for the benches. */
#ifndef PRIVATE_MEMORY_H
#define PRIVATE_MEMORY_H

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* RssAnon: pages of this process that no file backs. */
static inline long private_kib(void) {
    char line[256];
    long kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, "RssAnon:", 8) == 0) kib = atol(line + 8);
    }
    if (f != NULL) fclose(f);
    return kib;
}

/* A thread that looks each millisecond, from memory_watch to memory_peak. */
typedef struct memory_watcher {
    pthread_t thread;
    bool watching;
    long before, peak; /* KiB */
} memory_watcher;

static inline void *memory_look(void *arg) {
    memory_watcher *w = arg;
    while (__atomic_load_n(&w->watching, __ATOMIC_RELAXED)) {
        long now = private_kib();
        if (now > w->peak) w->peak = now;
        usleep(1000);
    }
    return NULL;
}

/* False where the system gave no thread. */
static inline bool memory_watch(memory_watcher *w) {
    w->before = w->peak = private_kib();
    w->watching = true;
    return pthread_create(&w->thread, NULL, memory_look, w) == 0;
}

/* The most there was above what was there at first, in KiB. */
static inline long memory_peak(memory_watcher *w) {
    __atomic_store_n(&w->watching, false, __ATOMIC_RELAXED);
    pthread_join(w->thread, NULL);
    return w->peak - w->before;
}

#endif
