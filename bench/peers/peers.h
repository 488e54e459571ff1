/* peers.h - what the files of the program peers share: the case, and an engine's part in
 * it. A case is operation.data.how[.writer], for example read.list.zstd.duckdb. */
#ifndef PEERS_H
#define PEERS_H

#include "../parquet_data.h"

#include <math.h>
#include <stdarg.h>

enum { PART_BYTES = 16, PATH_BYTES = 4096 };

typedef struct job {
    char operation[PART_BYTES]; /* write, read, decode, footer                       */
    char data[PART_BYTES];      /* flat, list, blob; int32, int64, float, double,
                                   string; wide, groups                              */
    char how[PART_BYTES];       /* none, snappy, zstd; delta, dict, bss, dlba, dba   */
    char writer[PART_BYTES];    /* of the file that is read                          */
    char in[PATH_BYTES];        /* the file; when writing, one with the same values  */
    char out[PATH_BYTES];       /* when writing                                      */
    unsigned threads;
    size_t mib; /* of plain values */
} job;

/* What a run found out, beside its time. NAN: not known. */
typedef struct outcome {
    double sum;    /* of all values: must be the same for all engines                */
    double memory; /* footers: bytes held, by the engine's own count                 */
    double count;  /* footers: column chunks                                         */
    double bytes;  /* footers: of the footer                                         */
} outcome;

/* An engine lives in a process of its own: start once, run many times. */
typedef struct engine {
    const char *name;
    void (*start)(const job *j);
    outcome (*run)(const job *j);
} engine;

extern const engine engine_ours, engine_floor, engine_duckdb_sql, engine_duckdb_fetch;

static inline bool is(const char *a, const char *b) { return strcmp(a, b) == 0; }

/* Prints why and ends this process; the driver shows it in place of a time. */
_Noreturn void give_up(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Splits the name of a case; false when it is none. */
bool job_parse(job *j, const char *name);
bool job_writes(const job *j);
aq_codec job_codec(const job *j);

/* The values of a case, made anew in the same way each time. */
typedef struct input {
    aq_physical_type type;
    size_t width;       /* of a value; 0 = BYTE_ARRAY                                */
    void *values;       /* aq_bytes for BYTE_ARRAY                                   */
    int64_t *offsets;   /* lists only: num_rows + 1                                  */
    int64_t num_values, num_rows;
    uint8_t *bytes;     /* of BYTE_ARRAY                                             */
    size_t plain_bytes; /* of all values, without lengths                            */
} input;

input make_input(const job *j);

#endif
