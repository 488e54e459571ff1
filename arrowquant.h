/* arrowquant.h - v0.1.0 - model weights in Parquet, quantized, run with no copies - MIT

   Do this:
       #define ARROWQUANT_IMPLEMENTATION
   before you include this file in *one* C or C++ file to create the implementation.

   A program: quantize a matrix, save it as a model, multiply from the mapped file.

       #define ARROWQUANT_IMPLEMENTATION
       #include "arrowquant.h"
       #include <stdio.h>
       int main(void) {
           static float w[64 * 256], x[256], y[64];
           const uint64_t shape[2] = {64, 256};
           aq_error err;
           aq_tensor t;
           aq_model *m;
           for (int i = 0; i < 64 * 256; i++) w[i] = (float)(i % 97) / 97.0f - 0.5f;
           for (int i = 0; i < 256; i++) x[i] = 1.0f;
           if (aq_tensor_init(&t, "fc.weight", AQ_F32, shape, 2, w, &err) ||
               aq_model_save("fc.parquet", &t, 1, NULL, &err) ||
               aq_job_run("fc.parquet", "fc4.parquet", NULL, NULL, &err) ||
               aq_model_open("fc4.parquet", NULL, &m, &err) ||
               aq_model_find(m, "fc.weight", &t, &err) ||
               aq_tensor_matvec(&t, x, y, NULL, &err))
               return fprintf(stderr, "%s\n", err.message), 1;
           printf("%u bits, mapped: %d, y[0] = %.3f\n", t.layout.bits, t.mapped, y[0]);
           aq_tensor_release(&t);
           aq_model_close(m);
           return 0;
       }

       cc program.c -pthread -lm        (and -lzstd -lsnappy for codecs that are on)

   What it does NOT do: train; run a network; read .pt files; use a GPU; encrypt. The
   Parquet reader and writer know every encoding and, where they are switched on, every
   codec but LZO; encrypted columns and what they do not know are AQ_E_UNSUPPORTED, by
   name. Bloom filters are neither read nor written; the page index is not used.

   Limits: 16 dimensions; 2 GiB - 1 bytes of codes or values in one tensor of a Parquet
   model; Thrift nesting 64, strings of 100,000,000 bytes, lists of 1,000,000 elements;
   safetensors headers of 100,000,000 bytes. A limit that is hit is AQ_E_LIMIT.

   Contents (grep MARK: finds each):
       [10] Version, linkage, configuration (public)
       [11] Status and error (public)
       [12] Allocator, tasks, log, progress (public)
       [13] Buffer pool and threads (public)
       [20] Parquet: schema, reader, column views (public)
       [21] Parquet: writer (public)
       [30] Quantization, dequantization, dot (public)
       [40] Tensors and models (public)
       [41] Jobs: a whole model in, a whole model out (public)
       [42] Batches: many arrays in one call (public)
       [50] Platform (private)
       [51] Errors, log (private)
       [52] Checked sizes, byte cursor (private)
       [53] Allocator, growing bytes, arena, buffer pool (private)
       [54] Threads, tasks (private)
       [55] Files, mapping, atomic output (private)
       [60] Kernels: reference (private)
       [61] Kernels: AVX2 (private)
       [62] Kernels: AVX-512 (private)
       [63] Kernels: NEON (private)
       [64] Kernel dispatch (private)
       [70] Thrift compact protocol (private)
       [71] Parquet metadata (private)
       [72] Levels and RLE / bit-packed hybrid (private)
       [73] Value encodings (private)
       [74] Compression codecs (private)
       [75] Parquet reader: file, footer, schema (private)
       [76] Parquet reader: pages and column chunks (private)
       [77] Parquet writer (private)
       [80] Quantization, dequantization, dot, metrics (private)
       [82] JSON (private)
       [83] Tensors (private)
       [84] Models: reading (private)
       [85] Models: writing (private)
       [86] Jobs (private)
       [87] Batches (private)
       [90] End of the implementation

   Options: define them before the include.
       macro                      default  effect                         same everywhere?
       ARROWQUANT_IMPLEMENTATION  off      the implementation goes here   no: in one file
       AQ_STATIC                  off      all functions are static       yes
       AQ_API                     extern   linkage of public functions    yes
       AQ_WITH_ZSTD               off      codec ZSTD, needs -lzstd       implementation
       AQ_WITH_SNAPPY             off      codec SNAPPY, needs -lsnappy   implementation
       AQ_WITH_ZLIB               off      codec GZIP, needs -lz          implementation
       AQ_WITH_LZ4                off      codecs LZ4_RAW, LZ4: -llz4     implementation
       AQ_WITH_BROTLI             off      codec BROTLI, needs            implementation
                                           -lbrotlienc -lbrotlidec
       AQ_NO_MMAP                 off      always read, never map         implementation
       AQ_NO_THREADS              off      no pthreads                    implementation
       AQ_NO_WRITER               off      nothing that writes files      yes
       AQ_KERNELS                 all      or'ed AQ_KERNEL_ bits          implementation
       AQ_ASSERT(x)               assert   facts the code itself ensures  implementation
   ("implementation": it matters in the file with ARROWQUANT_IMPLEMENTATION only.)

   Memory: everything comes from the allocator given, or malloc. Objects are closed by
   their own function; what a call hands out says in its comment how long it lives. Views
   into a mapping live until the file or model is closed, and the file must not be changed
   meanwhile (AQ_IO_READ is for files that may be).

   Threads: no hidden ones. Functions that can use several take an aq_tasks, from
   aq_threads or of the caller's own. Any function may run in any thread, on different
   objects; open files and models may be shared. Results are the same bytes for any number
   of threads and on any instruction set.

   Errors: every function that can fail returns an aq_status and fills the optional
   aq_error. No errno to ask, nothing printed, no exit. Outputs are set on success only.

   Licence: MIT, at the end of this file. History: CHANGELOG.md. */

#ifndef ARROWQUANT_H
#define ARROWQUANT_H

#ifdef ARROWQUANT_IMPLEMENTATION
/* Ask for POSIX; without effect where a system header came before (see [50]). */
#if !defined(_POSIX_C_SOURCE) && !defined(_GNU_SOURCE) && !defined(_DEFAULT_SOURCE)
#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE 1
#define _DARWIN_C_SOURCE 1
#endif
#ifndef _FILE_OFFSET_BITS
#define _FILE_OFFSET_BITS 64
#endif
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*==========================================================================
 * MARK: - [10] Version, linkage, configuration (public)
 *========================================================================*/

#define AQ_VERSION_MAJOR 0
#define AQ_VERSION_MINOR 1
#define AQ_VERSION_PATCH 0
#define AQ_VERSION_NUMBER                                                                \
    (AQ_VERSION_MAJOR * 10000 + AQ_VERSION_MINOR * 100 + AQ_VERSION_PATCH)
#define AQ_VERSION_STRING "0.1.0"

#if defined(AQ_STATIC) && defined(AQ_API)
#error "arrowquant.h: define AQ_STATIC or AQ_API, not both"
#endif
#ifdef AQ_STATIC
#if defined(__GNUC__) || defined(__clang__)
#define AQ_API __attribute__((unused)) static
#else
#define AQ_API static
#endif
#elif !defined(AQ_API)
#define AQ_API extern
#endif

#if defined(__GNUC__) || defined(__clang__)
#define AQ_CHECKED __attribute__((warn_unused_result))
#define AQ_PRINTF(format_index, first_arg)                                               \
    __attribute__((format(printf, format_index, first_arg)))
#else
#define AQ_CHECKED
#define AQ_PRINTF(format_index, first_arg)
#endif

/* Bits of AQ_KERNELS: the instruction sets to compile in. Default: all that fit the
 * target. */
#define AQ_KERNEL_REF 1
#define AQ_KERNEL_AVX2 2
#define AQ_KERNEL_AVX512 4
#define AQ_KERNEL_NEON 8

#define AQ_MAX_DIMS 16       /* dimensions of a tensor                          */
#define AQ_ALIGNMENT 64      /* bytes; of buffers, and of values in model files */
#define AQ_MIN_GROUP_SIZE 8  /* elements                                        */

#ifdef __cplusplus
extern "C" {
#endif

/* aq_version - the version the implementation was compiled from, for example "0.1.0". */
AQ_API const char *aq_version(void);

/*==========================================================================
 * MARK: - [11] Status and error (public)
 *========================================================================*/

/* X(enumerator, value, name, what it means) */
#define AQ_STATUS_LIST(X)                                                                \
    X(AQ_OK, 0, "ok", "success")                                                         \
    X(AQ_E_ARG, 1, "argument", "an argument or option is out of its range")              \
    X(AQ_E_NOMEM, 2, "memory", "an allocation failed")                                   \
    X(AQ_E_IO, 3, "io", "the operating system refused a file operation")                 \
    X(AQ_E_FORMAT, 4, "format", "the bytes break the rules of their format")             \
    X(AQ_E_UNSUPPORTED, 5, "unsupported", "valid, but not handled by this build")        \
    X(AQ_E_LIMIT, 6, "limit", "a limit of the options was reached")                      \
    X(AQ_E_CHECKSUM, 7, "checksum", "stored and computed checksums differ")              \
    X(AQ_E_TYPE, 8, "type", "a column or tensor has another type than asked for")        \
    X(AQ_E_NOT_FOUND, 9, "not_found", "no tensor of that name, or an empty directory")   \
    X(AQ_E_DUPLICATE, 10, "duplicate", "a name that must be unique came twice")          \
    X(AQ_E_NONFINITE, 11, "nonfinite", "NaN or infinity where a finite value must be")   \
    X(AQ_E_STATE, 12, "state", "the calls came in an order that is not allowed")         \
    X(AQ_E_CANCELLED, 13, "cancelled", "the progress callback asked to stop")            \
    X(AQ_E_QUALITY, 14, "quality", "a tensor came out worse than was asked for")

typedef enum aq_status {
#define AQ_X(enumerator, value, name, meaning) enumerator = value,
    AQ_STATUS_LIST(AQ_X)
#undef AQ_X
} aq_status;

/* What went wrong, where. Filled by the first failing step; untouched on success except
 * that entry points clear it. Every function with an `err` parameter accepts NULL. */
typedef struct aq_error {
    aq_status status;
    int os_errno;        /* 0 when no system call failed                            */
    int64_t file_offset; /* -1 when the place is not a byte of a file               */
    int32_t row_group;   /* -1 when not inside a row group                          */
    int32_t column;      /* leaf column; -1 when not inside a column                */
    char name[160];      /* tensor, column or file; a long one has "..." inside     */
    char message[512];   /* what (where); what to do: one line, no final full stop  */
    uint16_t what_bytes; /* of message: where its "what" ends                       */
    uint16_t advice_at;  /* of message: where "; what to do" begins, or its end     */
} aq_error;

/* aq_status_name - short stable name ("checksum"); "unknown" for other numbers. */
AQ_API const char *aq_status_name(aq_status status);
/* aq_status_meaning - one English sentence for the status, without details. */
AQ_API const char *aq_status_meaning(aq_status status);

/*==========================================================================
 * MARK: - [12] Allocator, tasks, log, progress (public)
 *========================================================================*/

/* Memory hooks: all three functions or none (then malloc and free). They must be
 * thread-safe. Objects copy the struct at creation and free through that same copy. */
typedef struct aq_allocator {
    void *(*alloc)(void *user, size_t bytes, size_t align); /* align: a power of 2  */
    void *(*resize)(void *user, void *ptr, size_t old_bytes, size_t new_bytes,
                    size_t align);
    void (*free)(void *user, void *ptr, size_t bytes);
    void *user;
} aq_allocator;

/* The caller's own threads: run() calls fn(arg, i) once for each i in [0, n), in any
 * order, on any threads, and returns after the last. NULL tasks = on the calling thread.
 * Results never depend on how the indices are spread. */
typedef struct aq_tasks {
    void (*run)(void *user, size_t n, void (*fn)(void *arg, size_t index), void *arg);
    void *user;
    uint32_t width; /* threads that run() uses, a hint; 0 = unknown                 */
} aq_tasks;

/* Rare notes for people: an input oddity that was tolerated. May come from any thread
 * that uses the object. */
typedef struct aq_log {
    void (*fn)(void *user, const char *message);
    void *user;
} aq_log;

typedef struct aq_progress {
    const char *name;     /* of the tensor in work; NULL at the end                 */
    size_t tensors_done;
    size_t tensors_total;
    uint64_t bytes_done;  /* of the input's tensor data                             */
    uint64_t bytes_total;
} aq_progress;

/* Returns false to cancel. Never called concurrently. */
typedef struct aq_progress_hook {
    bool (*fn)(void *user, const aq_progress *progress);
    void *user;
} aq_progress_hook;

/*==========================================================================
 * MARK: - [13] Buffer pool and threads (public)
 *========================================================================*/

typedef struct aq_pool aq_pool;

typedef struct aq_pool_options {
    const aq_allocator *allocator; /* NULL = malloc                                 */
    size_t max_buffers;            /* kept for reuse; 0 = 16                        */
    size_t min_buffer_bytes;       /* smallest buffer ever made; 0 = 1 MiB          */
    size_t max_idle_bytes;         /* budget of kept buffers; 0 = 256 MiB. Over it those
                                      released longest ago go; a buffer larger than it is
                                      not kept, so that 1 keeps none                */
} aq_pool_options;

typedef struct aq_pool_stats {
    uint64_t acquires;        /* successful ones                                    */
    uint64_t hits;            /* served from a kept buffer                          */
    uint64_t allocations;     /* served by the allocator                            */
    uint64_t bytes_saved;     /* sum of the sizes of the hits' buffers              */
    size_t buffers_idle;
    size_t buffers_in_use;
    size_t bytes_idle;
    size_t bytes_in_use;
    size_t peak_bytes;        /* largest idle + in use so far                       */
    double hit_rate;          /* hits / acquires; 0 before the first                */
    double allocation_reduction; /* acquires / allocations, of which at least 1 is
                                    counted; 0 before the first acquire             */
} aq_pool_stats;

/* A block handed out by aq_pool_acquire. data is AQ_ALIGNMENT-aligned, uninitialised. */
typedef struct aq_buffer {
    uint8_t *data;
    size_t bytes;  /* usable, at least what was asked for */
    aq_pool *pool; /* NULL = empty                        */
} aq_buffer;

/* aq_pool_create - make an empty pool of reusable buffers.
 *   Threads  every aq_pool_ call on one pool may come from any thread.
 *   Returns  AQ_OK; AQ_E_ARG (half-set allocator); AQ_E_NOMEM. */
AQ_API AQ_CHECKED aq_status aq_pool_create(const aq_pool_options *options,
                                           aq_pool **out_pool, aq_error *err);
/* aq_pool_destroy - free the pool and its idle buffers. Buffers still in use must have
 * been released before: they return to the pool. NULL is allowed. */
AQ_API void aq_pool_destroy(aq_pool *pool);
/* aq_pool_acquire - a buffer of at least `bytes`: the smallest idle one that fits and
 * is at most twice what a new one would be, of equals the one released last; else a new
 * one, at most an eighth larger, or of min_buffer_bytes. bytes = 0 is legal.
 *   Returns  AQ_OK; AQ_E_NOMEM, the pool is as before.
 *   Cost     one lock; a look at max_buffers sizes at most. */
AQ_API AQ_CHECKED aq_status aq_pool_acquire(aq_pool *pool, size_t bytes,
                                            aq_buffer *out_buffer, aq_error *err);
/* aq_buffer_release - give a buffer back to its pool and zero the struct; harmless
 * twice. */
AQ_API void aq_buffer_release(aq_buffer *buffer);
/* aq_pool_get_stats - a snapshot of the counters. */
AQ_API void aq_pool_get_stats(aq_pool *pool, aq_pool_stats *out_stats);
/* aq_pool_reset_stats - counters to zero; buffers stay. With aq_pool_clear a pool is as
 * new. */
AQ_API void aq_pool_reset_stats(aq_pool *pool);
/* aq_pool_clear - free all idle buffers; returns the bytes freed. */
AQ_API size_t aq_pool_clear(aq_pool *pool);

/* AQ_SCOPED_BUFFER(b); declares an empty aq_buffer that is released at the end of its
 * block. */
#if defined(__GNUC__) || defined(__clang__)
#define AQ_SCOPED_BUFFER(name)                                                           \
    __attribute__((cleanup(aq_buffer_release))) aq_buffer name = {NULL, 0, NULL}
#endif

typedef struct aq_threads aq_threads;

/* aq_threads_create - start a set of worker threads (the caller of run() is one of them).
 *   count  in  threads in all; 0 = as many as the machine has processors, 1 = no worker
 *   Returns  AQ_OK; AQ_E_NOMEM; AQ_E_IO (the system gave no thread). */
AQ_API AQ_CHECKED aq_status aq_threads_create(uint32_t count,
                                              const aq_allocator *allocator,
                                              aq_threads **out_threads, aq_error *err);
/* aq_threads_destroy - join and free; no run() may be under way. NULL is allowed. */
AQ_API void aq_threads_destroy(aq_threads *threads);
/* aq_threads_tasks - the tasks hook of this set. One run() at a time has the workers;
 * another that comes meanwhile, also from inside a task, works on its own thread. */
AQ_API const aq_tasks *aq_threads_tasks(const aq_threads *threads);

/* Instruction sets that kernels exist for; results are the same bytes on each. */
typedef enum aq_isa {
    AQ_ISA_AUTO = 0,
    AQ_ISA_REF = 1,
    AQ_ISA_AVX2 = 2,
    AQ_ISA_AVX512 = 3,
    AQ_ISA_NEON = 4
} aq_isa;

/* aq_isa_active - what the kernels run on now. */
AQ_API aq_isa aq_isa_active(void);
/* aq_isa_supported - compiled in, and the machine and its system can run it. */
AQ_API bool aq_isa_supported(aq_isa isa);
/* aq_isa_force - for tests and benches: use this one in the whole process; AQ_ISA_AUTO
 * returns to the best. Returns AQ_OK; AQ_E_UNSUPPORTED. */
AQ_API AQ_CHECKED aq_status aq_isa_force(aq_isa isa);
/* aq_isa_name - "avx2"; "unknown" for other numbers. */
AQ_API const char *aq_isa_name(aq_isa isa);

/*==========================================================================
 * MARK: - [20] Parquet: schema, reader, column views (public)
 *========================================================================*/

/* The numbers of the enums of this section are those of parquet.thrift. */
typedef enum aq_physical_type {
    AQ_BOOLEAN = 0,
    AQ_INT32 = 1,
    AQ_INT64 = 2,
    AQ_INT96 = 3,
    AQ_FLOAT = 4,
    AQ_DOUBLE = 5,
    AQ_BYTE_ARRAY = 6,
    AQ_FIXED_LEN_BYTE_ARRAY = 7,
    AQ_GROUP = -1 /* not a leaf */
} aq_physical_type;

typedef enum aq_repetition {
    AQ_REQUIRED = 0,
    AQ_OPTIONAL = 1,
    AQ_REPEATED = 2
} aq_repetition;

typedef enum aq_encoding {
    AQ_PLAIN = 0,
    AQ_PLAIN_DICTIONARY = 2,
    AQ_RLE = 3,
    AQ_BIT_PACKED = 4,
    AQ_DELTA_BINARY_PACKED = 5,
    AQ_DELTA_LENGTH_BYTE_ARRAY = 6,
    AQ_DELTA_BYTE_ARRAY = 7,
    AQ_RLE_DICTIONARY = 8,
    AQ_BYTE_STREAM_SPLIT = 9
} aq_encoding;

typedef enum aq_codec {
    AQ_UNCOMPRESSED = 0,
    AQ_SNAPPY = 1,
    AQ_GZIP = 2,
    AQ_LZO = 3,
    AQ_BROTLI = 4,
    AQ_LZ4 = 5,
    AQ_ZSTD = 6,
    AQ_LZ4_RAW = 7
} aq_codec;

/* What the bytes mean. Read from LogicalType, else from the older ConvertedType. */
typedef enum aq_logical_type {
    AQ_LOGICAL_NONE = 0,
    AQ_LOGICAL_STRING,
    AQ_LOGICAL_MAP,
    AQ_LOGICAL_LIST,
    AQ_LOGICAL_ENUM,
    AQ_LOGICAL_DECIMAL,   /* precision, scale                                */
    AQ_LOGICAL_DATE,      /* days since 1970-01-01                           */
    AQ_LOGICAL_TIME,      /* unit_nanos, utc                                 */
    AQ_LOGICAL_TIMESTAMP, /* unit_nanos, utc                                 */
    AQ_LOGICAL_INTEGER,   /* bit_width, is_signed                            */
    AQ_LOGICAL_UNKNOWN,   /* always null                                     */
    AQ_LOGICAL_JSON,
    AQ_LOGICAL_BSON,
    AQ_LOGICAL_UUID,
    AQ_LOGICAL_FLOAT16,
    AQ_LOGICAL_INTERVAL,
    AQ_LOGICAL_OTHER      /* a newer one: the physical type still reads      */
} aq_logical_type;

/* One node of the schema tree, in depth-first order; node 0 is the root. */
typedef struct aq_field {
    const char *name;          /* NUL-terminated                                     */
    int32_t parent;            /* index of the parent node; -1 for the root          */
    int32_t num_children;      /* 0 for a leaf                                       */
    int32_t column;            /* leaf: its column number; group: -1                 */
    aq_repetition repetition;
    aq_physical_type type;     /* AQ_GROUP for a group                               */
    int32_t type_length;       /* bytes of a FIXED_LEN_BYTE_ARRAY value, else 0      */
    aq_logical_type logical;
    int32_t precision, scale;  /* AQ_LOGICAL_DECIMAL                                 */
    int32_t bit_width;         /* AQ_LOGICAL_INTEGER                                 */
    bool is_signed;            /* AQ_LOGICAL_INTEGER                                 */
    int32_t unit_nanos;        /* TIME, TIMESTAMP: 1000000, 1000 or 1                */
    bool utc;                  /* TIME, TIMESTAMP                                    */
    int32_t converted;         /* ConvertedType as stored; -1 = absent               */
    int32_t field_id;          /* -1 = absent                                        */
    uint8_t max_def, max_rep;  /* definition and repetition levels at this node      */
} aq_field;

typedef struct aq_bytes {
    const uint8_t *data;
    size_t size;
} aq_bytes;

typedef struct aq_key_value {
    const char *key;
    const char *value; /* NULL when absent */
    size_t value_bytes;
} aq_key_value;

/* How the bytes of a file are reached. */
typedef enum aq_io {
    AQ_IO_AUTO = 0, /* map; where the system cannot map, read                        */
    AQ_IO_MAP = 1,  /* map or fail                                                   */
    AQ_IO_READ = 2  /* positioned reads: for files that others may shorten           */
} aq_io;

/* A caller's source of bytes. read() fills exactly `bytes` at `offset`, or returns
 * false. It may be called from several threads at a time. */
typedef struct aq_reader {
    bool (*read)(void *user, int64_t offset, void *dst, size_t bytes);
    void *user;
    int64_t file_bytes;
} aq_reader;

typedef struct aq_parquet aq_parquet;

typedef struct aq_parquet_options {
    const aq_allocator *allocator; /* NULL = malloc                                  */
    aq_log log;
    aq_io io;
    bool skip_checksums;           /* do not verify the CRC-32 of decoded pages      */
    size_t max_page_bytes;         /* one decoded page; 0 = what its stored bytes can
                                      become, at least 64 MiB, at most 2 GiB - 1     */
    size_t max_column_bytes;       /* decoded pages held by one aq_column; 0 = 128 MiB,
                                      or 131,072 times the stored size if that is more */
    size_t max_metadata_bytes;     /* heap that a footer may ask for; 0 = 1 GiB      */
    uint32_t max_columns;          /* leaves; 0 = 100,000                            */
} aq_parquet_options;

typedef struct aq_parquet_info {
    int64_t file_bytes;
    int64_t num_rows;
    int32_t num_row_groups;
    int32_t num_columns;    /* leaves                                                */
    int32_t num_fields;     /* schema nodes, the root included                       */
    int32_t num_key_values;
    int32_t format_version; /* FileMetaData.version                                  */
    int64_t footer_bytes;   /* of the Thrift footer                                  */
    const char *created_by; /* "" when absent                                        */
    bool mapped;            /* bytes come from a mapping or the caller's memory      */
} aq_parquet_info;

typedef struct aq_chunk_info {
    int64_t num_values;         /* levels, nulls included                            */
    int64_t data_page_offset;
    int64_t dictionary_page_offset; /* -1 = none                                     */
    int64_t start_offset;       /* of the first page header                          */
    int64_t compressed_bytes;   /* page headers included                             */
    int64_t uncompressed_bytes;
    aq_codec codec;
    uint32_t encodings;         /* bit (1 << aq_encoding) for each one listed        */
    int64_t null_count;         /* -1 = not recorded                                 */
    int64_t distinct_count;     /* -1 = not recorded                                 */
    aq_bytes min_value, max_value; /* PLAIN bytes; data = NULL: not recorded         */
    aq_bytes deprecated_min;    /* min and max of old writers, all types compared as */
    aq_bytes deprecated_max;    /* signed: bounds only where that is the order       */
    bool min_is_exact;          /* recorded: the bound is a value of the chunk, not  */
    bool max_is_exact;          /* one that is below or above them all               */
    int64_t bloom_filter_offset; /* as recorded; -1 = none                           */
    int32_t bloom_filter_bytes; /* -1 = not recorded                                 */
    int32_t num_key_values;     /* see aq_parquet_chunk_key_value                    */
} aq_chunk_info;

typedef struct aq_row_group_info {
    int64_t num_rows;
    int64_t total_bytes;        /* RowGroup.total_byte_size                          */
} aq_row_group_info;

/* aq_codec_name, aq_encoding_name - "ZSTD", "DELTA_BINARY_PACKED"; "unknown" for numbers
 * that parquet.thrift does not have. */
AQ_API const char *aq_codec_name(int32_t codec);
AQ_API const char *aq_encoding_name(int32_t encoding);
/* aq_field_value_bytes - bytes of one value in aq_span.values; 0 for a group. */
AQ_API size_t aq_field_value_bytes(const aq_field *field);

/* aq_parquet_open - open a Parquet file for reading; parses and checks the footer.
 *   path     in   stays open (and mapped) until aq_parquet_close
 *   options  in   NULL = defaults            err  out  may be NULL
 * Returns  AQ_OK; AQ_E_IO; AQ_E_FORMAT; AQ_E_UNSUPPORTED (encrypted); AQ_E_LIMIT;
 * AQ_E_NOMEM.
 * Threads  an open aq_parquet is immutable: any number of threads may read from it.
 * Cost     one pass over the footer, about 0.1 us for each column chunk; nothing else is
 *          read. Memory: the footer's bytes, the schema, 4 bytes for each chunk. */
AQ_API AQ_CHECKED aq_status aq_parquet_open(const char *path,
                                            const aq_parquet_options *options,
                                            aq_parquet **out_file, aq_error *err);
/* aq_parquet_open_memory - the same from a block that outlives the aq_parquet
 * (borrowed). */
AQ_API AQ_CHECKED aq_status aq_parquet_open_memory(const void *data, size_t bytes,
                                                   const aq_parquet_options *options,
                                                   aq_parquet **out_file, aq_error *err);
/* aq_parquet_open_reader - the same from a callback, which must stay valid until
 * close. */
AQ_API AQ_CHECKED aq_status aq_parquet_open_reader(const aq_reader *reader,
                                                   const aq_parquet_options *options,
                                                   aq_parquet **out_file, aq_error *err);
/* aq_parquet_close - NULL-safe. Spans into the mapping die here. */
AQ_API void aq_parquet_close(aq_parquet *file);

/* aq_parquet_get_info - facts of the whole file. */
AQ_API void aq_parquet_get_info(const aq_parquet *file, aq_parquet_info *out_info);
/* aq_parquet_field / _column_field - schema node by index, leaf by column number; NULL
 * when out of range. Borrowed from `file`, as are all strings. */
AQ_API const aq_field *aq_parquet_field(const aq_parquet *file, int32_t index);
AQ_API const aq_field *aq_parquet_column_field(const aq_parquet *file, int32_t column);
/* aq_parquet_column_path - "a.list.element" of a leaf; "" when out of range. */
AQ_API const char *aq_parquet_column_path(const aq_parquet *file, int32_t column);
/* aq_parquet_find_column - leaf by its dotted path; -1 when there is none. */
AQ_API int32_t aq_parquet_find_column(const aq_parquet *file, const char *path);
/* aq_parquet_get_row_group, aq_parquet_get_chunk - facts of a row group or column chunk.
 * Bounds of its values point into `file`.
 * Returns  AQ_OK; AQ_E_ARG (no such one); AQ_E_UNSUPPORTED (an encrypted chunk).
 * Cost     no allocation; about 0.1 us: a chunk's metadata is read again. */
AQ_API AQ_CHECKED aq_status aq_parquet_get_row_group(const aq_parquet *file,
                                                     int32_t row_group,
                                                     aq_row_group_info *out_info,
                                                     aq_error *err);
AQ_API AQ_CHECKED aq_status aq_parquet_get_chunk(const aq_parquet *file,
                                                 int32_t row_group, int32_t column,
                                                 aq_chunk_info *out_info, aq_error *err);
/* aq_parquet_key_value - i-th metadata pair; false when out of range. */
AQ_API bool aq_parquet_key_value(const aq_parquet *file, int32_t index,
                                 aq_key_value *out_pair);
/* aq_parquet_chunk_key_value - i-th metadata pair of a column chunk; false when out of
 * range. */
AQ_API bool aq_parquet_chunk_key_value(const aq_parquet *file, int32_t row_group,
                                       int32_t column, int32_t index,
                                       aq_key_value *out_pair);
/* aq_parquet_find_key - value of a key, NUL-terminated; NULL when absent. */
AQ_API const char *aq_parquet_find_key(const aq_parquet *file, const char *key);

/* The values of one data page; of a page of long lists without nulls those of one list,
 * which needs no levels.
 *   BOOLEAN: one byte each. INT32, INT64, FLOAT, DOUBLE: native, packed. INT96: 12
 *   bytes each.
 *   FIXED_LEN_BYTE_ARRAY: type_length bytes each. BYTE_ARRAY: aq_bytes[num_values]; the
 *   structs are the column's, the bytes point into the file's mapping or a decoded page.
 * A span is `mapped` when its value bytes lie in the mapping: nothing was copied. */
typedef struct aq_span {
    const void *values;
    int64_t num_values;        /* not null                                           */
    int64_t num_levels;        /* nulls and empty lists included                     */
    const uint8_t *def_levels; /* num_levels; NULL: all are max_def (nothing is null) */
    const uint8_t *rep_levels; /* num_levels; NULL when max_rep is 0 or single_list  */
    bool single_list;          /* all of one list: levels 0, max_rep, max_rep, ...   */
    int64_t num_rows;          /* rows that begin in this page                       */
    int64_t file_offset;       /* mapped: of the first value byte; else of the page  */
    size_t alignment;          /* bytes; power of 2 that divides the values' address */
    bool mapped;
} aq_span;

/* One page as the file has it, for tools. */
typedef struct aq_page_info {
    int64_t header_offset;
    int64_t data_offset;       /* of the first byte after the page header            */
    int32_t header_bytes;
    int32_t compressed_bytes;
    int32_t uncompressed_bytes;
    int32_t num_values;        /* levels; entries for a dictionary page              */
    int32_t type;              /* 0 data page, 1 index, 2 dictionary, 3 data page V2 */
    aq_encoding encoding;
    bool has_crc;
    uint32_t crc;
} aq_page_info;

typedef struct aq_column aq_column;

/* aq_column_open - start reading one column chunk.
 * Threads  one aq_column belongs to one thread at a time; many may be open on one
 * file. */
AQ_API AQ_CHECKED aq_status aq_column_open(const aq_parquet *file, int32_t row_group,
                                           int32_t column, aq_column **out_column,
                                           aq_error *err);
/* aq_column_close - NULL-safe. Spans that were decoded die here. */
AQ_API void aq_column_close(aq_column *column);
/* aq_column_next - the next data page. At the end: AQ_OK and out_span->num_levels == 0
 * with values == NULL. The span of decoded pages lives until the next call; mapped
 * values live as long as the file. */
AQ_API AQ_CHECKED aq_status aq_column_next(aq_column *column, aq_span *out_span,
                                           aq_error *err);
/* aq_column_spans - all pages at once. Array and spans live until aq_column_close. */
AQ_API AQ_CHECKED aq_status aq_column_spans(aq_column *column, const aq_span **out_spans,
                                            size_t *out_count, aq_error *err);
/* aq_column_view - the chunk as one span: its only page's, or all pages joined in a
 * buffer (then not mapped). */
AQ_API AQ_CHECKED aq_status aq_column_view(aq_column *column, aq_span *out_span,
                                           aq_error *err);
/* aq_columns_decode - decode all pages of several columns now, side by side: a page is a
 * task. After it aq_column_spans and aq_column_view return what is there.
 *   columns  in  opened, no page taken yet; of one file or several
 * Returns  AQ_OK, or the error of the first bad page in the order of columns and pages,
 *          whatever the number of threads.
 * Memory   all decoded pages of all columns, until each is closed. */
AQ_API AQ_CHECKED aq_status aq_columns_decode(aq_column *const *columns, size_t count,
                                              const aq_tasks *tasks, aq_error *err);
/* Takes a span that begins `first_level` levels into the chunk of columns[column]. The
 * span lives until it returns; false stops the visit. */
typedef bool (*aq_span_fn)(void *user, size_t column, int64_t first_level,
                           const aq_span *span);
/* aq_columns_visit - decode all pages of several columns side by side and hand each span
 * to `fn`, in the thread that has decoded it: several calls run at once, in no order.
 *   columns  in  opened, no page taken yet; afterwards at their end
 * Returns  AQ_OK; AQ_E_CANCELLED when fn stopped it; or the error of the first bad page
 *          in the order of columns and pages. Others may have been handed out by then.
 * Memory   two decoded pages a thread, used again and again. */
AQ_API AQ_CHECKED aq_status aq_columns_visit(aq_column *const *columns, size_t count,
                                             const aq_tasks *tasks, aq_span_fn fn,
                                             void *user, aq_error *err);
/* aq_column_next_page - walk the pages without decoding; out_page->header_bytes == 0
 * at the end. Do not mix with the calls above on one aq_column. */
AQ_API AQ_CHECKED aq_status aq_column_next_page(aq_column *column, aq_page_info *out_page,
                                                aq_error *err);
/* aq_column_prefetch - tell the system that the chunk's bytes will be wanted soon: it can
 * read them while other work is done. A hint: nothing is said when it has no effect.
 * Cost  a system call, and for a chunk in memory one look at each of its pages. */
AQ_API void aq_column_prefetch(const aq_column *column);
/* aq_column_verify - read every page of the chunk: checksums (mapped pages too), levels,
 * values and counts. */
AQ_API AQ_CHECKED aq_status aq_column_verify(aq_column *column, aq_error *err);

/*==========================================================================
 * MARK: - [21] Parquet: writer (public)
 *========================================================================*/

#ifndef AQ_NO_WRITER

/* A schema node to be written. List them depth first; a group says how many of the nodes
 * after it are its children. The root is implied. */
typedef struct aq_field_spec {
    const char *name;
    aq_repetition repetition;
    aq_physical_type type;     /* AQ_GROUP for a group                               */
    int32_t num_children;      /* groups only                                        */
    int32_t type_length;       /* FIXED_LEN_BYTE_ARRAY only                          */
    aq_logical_type logical;
    int32_t bit_width;         /* AQ_LOGICAL_INTEGER                                 */
    bool is_signed;            /* AQ_LOGICAL_INTEGER                                 */
    bool align_values;         /* leaf: first value byte on value_alignment          */
    bool write_statistics;     /* leaf: min, max and null count                      */
    aq_codec codec;            /* leaf; zero = AQ_UNCOMPRESSED                       */
    aq_encoding encoding;      /* leaf; zero = AQ_PLAIN. See aq_writer_open          */
    int32_t precision, scale;  /* AQ_LOGICAL_DECIMAL                                 */
    int32_t unit_nanos;        /* TIME, TIMESTAMP: 1000000, 1000 or 1                */
    bool utc;                  /* TIME, TIMESTAMP                                    */
    int32_t field_id;          /* 0 = none                                           */
    const aq_key_value *key_values; /* leaf: metadata of each of its chunks; copied  */
    int32_t num_key_values;
} aq_field_spec;

typedef struct aq_writer aq_writer;

/* Says how the rows of each row group are sorted; the writer does not check it. */
typedef struct aq_sorting_column {
    int32_t column;
    bool descending, nulls_first;
} aq_sorting_column;

typedef struct aq_writer_options {
    const aq_allocator *allocator; /* NULL = malloc                                  */
    size_t value_alignment;        /* power of 2 in 1..4096; 0 = AQ_ALIGNMENT        */
    int compression_level;         /* of ZSTD, GZIP, BROTLI; 0 = 1                   */
    bool skip_checksums;           /* write pages without CRC-32                     */
    bool no_sync;                  /* rename without fsync: faster, not durable      */
    const char *created_by;        /* NULL = "arrowquant.h version 0.1.0"            */
    size_t page_bytes;             /* a page ends with the row that brings it to so many
                                      bytes before encoding; 0 = 1 GiB where PLAIN values
                                      are stored as they are, else 1 MiB             */
    size_t dictionary_limit_bytes; /* of a dictionary's values; 0 = 1 MiB            */
    bool data_page_v2;             /* data pages V2 instead of V1                    */
    bool page_index;               /* OffsetIndex, and ColumnIndex of leaves with
                                      write_statistics, before the footer            */
    const aq_sorting_column *sorting_columns; /* the first is the main one           */
    size_t num_sorting_columns;
    const aq_tasks *tasks;         /* encode and compress pages side by side; NULL = on
                                      the calling thread. Must outlive the writer    */
} aq_writer_options;

/* The values of one column chunk. Values as in aq_span; BYTE_ARRAY: aq_bytes[].
 *
 * Levels are needed where max_def or max_rep is not 0; num_levels counts them.
 *
 * A column of lists (max_rep 1) of which no element is null may have Arrow's offsets in
 * their place: the same file for less memory and work. List i is values[offsets[i]] up to
 * values[offsets[i + 1]]; the chunk is num_lists of them from first_list on, and
 * num_values says how many values there are, also before and after those lists. */
typedef struct aq_column_values {
    const void *values;
    int64_t num_values;
    const uint8_t *def_levels;
    const uint8_t *rep_levels;
    int64_t num_levels;
    const int32_t *list_offsets;       /* first_list + num_lists + 1; or, not both: */
    const int64_t *large_list_offsets;
    const uint8_t *list_validity; /* bit i % 8 of byte i / 8 is 0: list i is null, and
                                          empty. NULL: none is null */
    int64_t first_list;
    int64_t num_lists;
} aq_column_values;

/* aq_writer_open - begin a Parquet file beside `path`, which appears, whole, at finish.
 * Encodings beside PLAIN: RLE_DICTIONARY (not BOOLEAN; a chunk of which the dictionary
 * would pass dictionary_limit_bytes, or saves nothing, is PLAIN), RLE (BOOLEAN),
 * DELTA_BINARY_PACKED (INT32, INT64), DELTA_LENGTH_BYTE_ARRAY (BYTE_ARRAY),
 * DELTA_BYTE_ARRAY (BYTE_ARRAY, FIXED_LEN_BYTE_ARRAY), BYTE_STREAM_SPLIT (INT32, INT64,
 * FLOAT, DOUBLE, FIXED_LEN_BYTE_ARRAY). align_values is for uncompressed PLAIN chunks,
 * the first page of each.
 * Returns  AQ_OK; AQ_E_ARG (schema, options, path); AQ_E_UNSUPPORTED; AQ_E_IO;
 * AQ_E_NOMEM.
 * Owns     a temporary file in the directory of `path`. Threads: one at a time. */
AQ_API AQ_CHECKED aq_status aq_writer_open(const char *path, const aq_field_spec *fields,
                                           size_t num_fields,
                                           const aq_writer_options *options,
                                           aq_writer **out_writer, aq_error *err);
/* aq_writer_add_key_value - file metadata; both strings are copied. Before finish. */
AQ_API AQ_CHECKED aq_status aq_writer_add_key_value(aq_writer *writer, const char *key,
                                                    const char *value, aq_error *err);
/* aq_writer_put_column - the next column chunk of the current row group, in schema
 * order. */
AQ_API AQ_CHECKED aq_status aq_writer_put_column(aq_writer *writer,
                                                 const aq_column_values *values,
                                                 aq_error *err);
/* aq_writer_put_columns - the next `count` column chunks at once: with tasks, those that
 * are too short to fill all threads share them. The same bytes as one by one. */
AQ_API AQ_CHECKED aq_status aq_writer_put_columns(aq_writer *writer,
                                                  const aq_column_values *columns,
                                                  size_t count, aq_error *err);
/* aq_writer_end_row_group - after the last column. Every column must hold num_rows
 * rows. */
AQ_API AQ_CHECKED aq_status aq_writer_end_row_group(aq_writer *writer, int64_t num_rows,
                                                    aq_error *err);
/* aq_writer_finish - footer, fsync, rename, fsync of the directory; frees the writer on
 * success AND on failure (then nothing appears under `path`). */
AQ_API AQ_CHECKED aq_status aq_writer_finish(aq_writer *writer, aq_error *err);
/* aq_writer_abort - drop everything written; NULL is allowed. */
AQ_API void aq_writer_abort(aq_writer *writer);

#endif /* AQ_NO_WRITER */

/*==========================================================================
 * MARK: - [30] Quantization, dequantization, dot (public)
 * Layout, formulas and packing: docs/FORMAT.md, "Codes".
 *========================================================================*/

/* Types of tensor elements. */
#define AQ_DTYPE_LIST(X)                                                                 \
    X(AQ_F32, 1, "float32", 4, "F32")                                                    \
    X(AQ_F16, 2, "float16", 2, "F16")                                                    \
    X(AQ_BF16, 3, "bfloat16", 2, "BF16")                                                 \
    X(AQ_F64, 4, "float64", 8, "F64")                                                    \
    X(AQ_I8, 5, "int8", 1, "I8")                                                         \
    X(AQ_U8, 6, "uint8", 1, "U8")                                                        \
    X(AQ_I16, 7, "int16", 2, "I16")                                                      \
    X(AQ_U16, 8, "uint16", 2, "U16")                                                     \
    X(AQ_I32, 9, "int32", 4, "I32")                                                      \
    X(AQ_U32, 10, "uint32", 4, "U32")                                                    \
    X(AQ_I64, 11, "int64", 8, "I64")                                                     \
    X(AQ_U64, 12, "uint64", 8, "U64")                                                    \
    X(AQ_BOOL, 13, "bool", 1, "BOOL")                                                    \
    X(AQ_F8_E4M3, 14, "float8_e4m3fn", 1, "F8_E4M3")                                     \
    X(AQ_F8_E5M2, 15, "float8_e5m2", 1, "F8_E5M2")

typedef enum aq_dtype {
    AQ_DTYPE_NONE = 0,
#define AQ_X(enumerator, value, name, bytes, safetensors) enumerator = value,
    AQ_DTYPE_LIST(AQ_X)
#undef AQ_X
} aq_dtype;

/* aq_dtype_name / _bytes / _is_float - "float32", 4, true (F32, F16, BF16, F64: the types
 * that can be quantized); "none", 0, false for other numbers. */
AQ_API const char *aq_dtype_name(aq_dtype dtype);
AQ_API size_t aq_dtype_bytes(aq_dtype dtype);
AQ_API bool aq_dtype_is_float(aq_dtype dtype);

typedef enum aq_granularity {
    AQ_PER_GROUP = 0,   /* one scale for group_size elements of a row                */
    AQ_PER_CHANNEL = 1, /* one scale a row                                           */
    AQ_PER_TENSOR = 2   /* one scale                                                 */
} aq_granularity;

/* How scale and zero point of a group are chosen. In no group does one of the others give
 * a larger squared error than AQ_MINMAX (AQ_WEIGHTED: a larger weighted one).
 * AQ_PER_TENSOR: all as AQ_MINMAX. */
typedef enum aq_method {
    AQ_METHOD_AUTO = 0, /* AQ_REFINE                                                 */
    AQ_MINMAX = 1,      /* the least and the greatest value are codes                */
    AQ_REFINE = 2,      /* from there by least squares on the codes, twice: 0.5 dB
                           more at 4 bits, 3 dB at 2                                 */
    AQ_SEARCH = 3,      /* the same from 36 narrower ranges: the best of them; some
                           50 times slower                                           */
    AQ_WEIGHTED = 4     /* least squares where errors count by the importance of their
                           column                                                    */
} aq_method;

/* How the parameters of groups are stored. The smaller ones are for AQ_PER_GROUP and
 * AQ_PER_CHANNEL: each row has float32 factors of its own. */
typedef enum aq_params {
    AQ_PARAMS_F32 = 0, /* scale and zero point: 64 bits a group                      */
    AQ_PARAMS_F16 = 1, /* both as float16 under a power of two a row: 32 bits        */
    AQ_PARAMS_U8 = 2   /* an 8-bit scale (and minimum, where not symmetric) under one
                          float32 of each a row: 8 (16) bits                         */
} aq_params;

typedef struct aq_quant_options {
    uint32_t bits;              /* 2, 3, 4, 5, 6 or 8; 0 = 4                         */
    size_t group_size;          /* elements, >= AQ_MIN_GROUP_SIZE; 0 = 128           */
    aq_granularity granularity;
    bool symmetric;             /* zero point fixed at 2^(bits-1)                    */
    aq_method method;
    aq_params params;
    bool codebook;              /* 2 or 4 bits: codes of fixed levels that lie closer
                                   around zero; AQ_PARAMS_U8, a signed scale. More
                                   exact than even steps on weights around zero, at 8
                                   bits a group; the method does not matter          */
    size_t src_stride;          /* elements from a row of the source to the next,
                                   >= cols; 0 = cols                                 */
    const float *importance;    /* AQ_WEIGHTED: cols floats >= 0, for example the mean
                                   square of each input channel's activations; lives
                                   as long as layouts made with it quantize          */
} aq_quant_options;

/* Where each code and each scale of a rows x cols tensor lies.
 *   Code of (r, c): code_bits bits at bit (c * code_bits) of the row_bytes bytes of
 *   row r, least significant bit first. Its parameters: index (r / group_rows) *
 *   groups_per_row + c / group_cols. */
typedef struct aq_layout {
    uint32_t bits;         /* information in a code: 2, 3, 4, 5, 6, 8                */
    uint32_t code_bits;    /* room a code takes; = bits unless another writer made it */
    aq_granularity granularity;
    bool symmetric;
    aq_method method;      /* of aq_quantize_into; nothing to who reads              */
    const float *importance; /* the same                                             */
    size_t src_stride;       /* the same; 0 = cols                                   */
    aq_params params;
    bool codebook;
    size_t rows, cols;
    size_t group_rows, group_cols;
    size_t groups_per_row;
    size_t num_groups;
    size_t row_bytes;
    size_t code_bytes;     /* rows * row_bytes                                       */
    size_t params_bytes;   /* of small parameters; 0 with AQ_PARAMS_F32              */
} aq_layout;

/* aq_layout_init - lay out a rows x cols tensor; either may be 0.
 * Returns  AQ_OK; AQ_E_ARG (bits, group size); AQ_E_LIMIT (sizes overflow size_t). */
AQ_API AQ_CHECKED aq_status aq_layout_init(size_t rows, size_t cols,
                                           const aq_quant_options *options,
                                           aq_layout *out_layout, aq_error *err);

/* Buffers of a quantized tensor; sizes from its aq_layout. No alignment needed. */
typedef struct aq_quantized {
    uint8_t *codes;      /* code_bytes                                               */
    float *scales;       /* num_groups with AQ_PARAMS_F32, else unused               */
    float *zero_points;  /* the same                                                 */
    uint8_t *params;     /* params_bytes; unused with AQ_PARAMS_F32                  */
} aq_quantized;

typedef struct aq_quantized_view {
    const uint8_t *codes;
    const float *scales;
    const float *zero_points;
    const uint8_t *params;
} aq_quantized_view;

/* aq_codebook - the 2^bits levels of a codebook, -128..127: a code's value is level *
 * scale of its group. NULL for other widths than 2 and 4. */
AQ_API const int8_t *aq_codebook(uint32_t bits);
/* aq_params_read - scale and zero point of a group as float32, whatever they are stored
 * as: w' = (q - zero_point) * scale; with a codebook level[q] * scale, zero_point 0.
 * Returns AQ_OK; AQ_E_ARG. */
AQ_API AQ_CHECKED aq_status aq_params_read(const aq_layout *layout,
                                           const aq_quantized_view *src, size_t group,
                                           float *out_scale, float *out_zero_point,
                                           aq_error *err);

/* Of an approximation b against the original a; sums in double, in an order of their own
 * that no thread count changes. */
typedef struct aq_metrics {
    uint64_t count;
    double sum_aa, sum_bb, sum_ab, sum_dd; /* d = a - b */
    double max_abs_error;
    double mse;
    double cosine;  /* 1 when both are all zero, 0 when one is                       */
    double sqnr_db; /* 10 log10(sum_aa / sum_dd); +Inf when nothing differs          */
} aq_metrics;

/* aq_quantize_into - quantize a row-major, contiguous tensor.
 *   src          in   layout->rows * layout->cols elements of src_dtype (a float type),
 *                     little-endian, any alignment, not overlapping dst; rows are
 *                     layout->src_stride apart, where that is not 0
 *   tasks        in   NULL = this thread          err  out  may be NULL
 *   out_metrics  out  NULL = not measured (about twice as fast)
 * Returns  AQ_OK; AQ_E_ARG; AQ_E_NONFINITE (the message has the index); AQ_E_LIMIT (a
 *          magnitude over 2^120 with small parameters). dst is undefined on error.
 * Numeric  w' = (q - zero_point) * scale in float32. Asymmetric: scale = (max - min) /
 *          (2^bits - 1), zero_point = -min / scale. Symmetric: scale =
 *          2 absmax / (2^bits - 1). The other methods start there.
 *          Half to even; |w - w'| <= scale / 2 + a few ulp of max(|w|); a constant group
 *          comes back exactly.
 * Threads  re-entrant.   Cost  no allocation; some 64 KiB of stack. */
AQ_API AQ_CHECKED aq_status aq_quantize_into(const aq_layout *layout, const void *src,
                                             aq_dtype src_dtype, const aq_quantized *dst,
                                             const aq_tasks *tasks,
                                             aq_metrics *out_metrics, aq_error *err);
/* Rows [first, first + count), and what their values shall be. */
typedef struct aq_rows {
    size_t first, count;
    aq_dtype dtype; /* a float type */
} aq_rows;

/* aq_dequantize_rows - float32 values of rows [first_row, first_row + num_rows) to dst
 * (num_rows * cols floats). Returns AQ_OK; AQ_E_ARG. */
AQ_API AQ_CHECKED aq_status aq_dequantize_rows(const aq_layout *layout,
                                               const aq_quantized_view *src,
                                               size_t first_row, size_t num_rows,
                                               float *dst, const aq_tasks *tasks,
                                               aq_error *err);
/* aq_dequantize_as - the same as little-endian elements of a float type. */
AQ_API AQ_CHECKED aq_status aq_dequantize_as(const aq_layout *layout,
                                             const aq_quantized_view *src,
                                             const aq_rows *rows, void *dst,
                                             const aq_tasks *tasks, aq_error *err);
/* aq_requantize - quantize what a quantized tensor stands for, in another form, without a
 * buffer for its values. dst_layout has the rows and columns of src_layout.
 * Returns  as aq_quantize_into; out_metrics compare with what src stands for. */
AQ_API AQ_CHECKED aq_status aq_requantize(const aq_layout *src_layout,
                                          const aq_quantized_view *src,
                                          const aq_layout *dst_layout,
                                          const aq_quantized *dst, const aq_tasks *tasks,
                                          aq_metrics *out_metrics, aq_error *err);
/* aq_dot_row - sum over c of w'[row][c] * x[c]. float32; 32 lanes (c mod 32), each
 * summed in order, then halved: lane i + lane i + 16, then + 8, 4, 2, 1. The same bits on
 * every machine. */
AQ_API AQ_CHECKED aq_status aq_dot_row(const aq_layout *layout,
                                       const aq_quantized_view *src, size_t row,
                                       const float *x, float *out_dot, aq_error *err);
/* aq_matvec - y[r] = aq_dot_row(r) for every row; x has cols floats, y rows. */
AQ_API AQ_CHECKED aq_status aq_matvec(const aq_layout *layout,
                                      const aq_quantized_view *src, const float *x,
                                      float *y, const aq_tasks *tasks, aq_error *err);
/* aq_matmul - y[b * rows + r] = aq_dot_row(r) with vector b, for `count` vectors of cols
 * floats that follow each other. A row's codes are read once. */
AQ_API AQ_CHECKED aq_status aq_matmul(const aq_layout *layout,
                                      const aq_quantized_view *src, const float *x,
                                      size_t count, float *y, const aq_tasks *tasks,
                                      aq_error *err);

/* Vectors quantized to 8 bits for integer dot products with tensors of one width, group
 * size and number of columns. Made by aq_activations_init; the memory is the caller's. */
typedef struct aq_activations {
    size_t count, cols;
    uint32_t code_bits;    /* of the tensors; the order of codes goes by it           */
    size_t segment;        /* elements of one scale                                   */
    size_t segments, room; /* of one vector: scales; bytes of codes                   */
    const int8_t *codes;
    const float *scales;
    const float *sums;     /* scale * sum of the codes of a segment                   */
} aq_activations;

/* aq_activations_bytes - room that `count` vectors take; 0 when it overflows size_t. */
AQ_API size_t aq_activations_bytes(const aq_layout *layout, size_t count);
/* aq_activations_init - quantize vectors for tensors of this layout.
 *   x       in   count * layout->cols floats
 *   memory  out  aq_activations_bytes(layout, count) bytes, aligned to 4; lives as long
 *                as the activations are used
 * Returns  AQ_OK; AQ_E_ARG; AQ_E_NONFINITE (the message has the index); AQ_E_LIMIT (a sum
 *          of values beyond float32); AQ_E_UNSUPPORTED (groups of over 1024 elements that
 *          128 does not divide).
 * Numeric  code = x / scale half to even, scale = absmax / 127 of a segment: a group of
 *          the layout of at most 256 elements, else 128 elements where that divides it.
 * Threads  re-entrant.   Cost  one pass. */
AQ_API AQ_CHECKED aq_status aq_activations_init(const aq_layout *layout, const float *x,
                                                size_t count, void *memory,
                                                aq_activations *out_activations,
                                                aq_error *err);
/* aq_matmul_i8 - as aq_matmul, from the codes of both sides: exact integer products, then
 * float32 in a fixed order: the same bits on every machine. Faster than aq_matmul, and as
 * exact as 8-bit activations are. */
AQ_API AQ_CHECKED aq_status aq_matmul_i8(const aq_layout *layout,
                                         const aq_quantized_view *src,
                                         const aq_activations *x, float *y,
                                         const aq_tasks *tasks, aq_error *err);
/* aq_to_f32 - little-endian elements of a float type to float32, round half to even. */
AQ_API AQ_CHECKED aq_status aq_to_f32(const void *src, aq_dtype src_dtype, size_t count,
                                      float *dst, aq_error *err);
/* aq_from_f32 - the reverse: half to even; what float16 cannot hold becomes infinity. */
AQ_API AQ_CHECKED aq_status aq_from_f32(const float *src, size_t count, void *dst,
                                        aq_dtype dst_dtype, aq_error *err);
/* Of values of a float type; sums in double, in an order that no thread count
 * changes. */
typedef struct aq_moments {
    uint64_t count;
    float min, max, absmax;
    double mean, variance; /* of all, not of a sample; variance >= 0 */
} aq_moments;

/* aq_moments_of - least, largest, largest magnitude, mean and variance; all 0 of no
 * values. Returns AQ_OK; AQ_E_ARG; AQ_E_NONFINITE (the message has the index). */
AQ_API AQ_CHECKED aq_status aq_moments_of(const void *src, aq_dtype src_dtype,
                                             size_t count, const aq_tasks *tasks,
                                             aq_moments *out_moments,
                                             aq_error *err);
/* aq_metrics_of - compare count values of b with the original a. */
AQ_API AQ_CHECKED aq_status aq_metrics_of(const float *a, const float *b, size_t count,
                                          const aq_tasks *tasks, aq_metrics *out_metrics,
                                          aq_error *err);
/* aq_metrics_add - total += part, and the derived fields anew. Starts from {0}. */
AQ_API void aq_metrics_add(aq_metrics *total, const aq_metrics *part);

/*==========================================================================
 * MARK: - [40] Tensors and models (public)
 *========================================================================*/

/* A tensor, as a view. `data` holds packed codes when layout.bits != 0, else the original
 * little-endian values. */
typedef struct aq_tensor {
    const char *name;             /* NUL-terminated UTF-8                             */
    aq_dtype dtype;               /* of the original values                           */
    uint32_t num_dims;            /* 0 = scalar                                       */
    uint64_t shape[AQ_MAX_DIMS];
    uint64_t num_params;          /* product of shape                                 */
    const uint8_t *data;
    size_t data_bytes;
    aq_layout layout;             /* rows and cols always; the rest when quantized    */
    const float *scales;          /* layout.num_groups; NULL with small parameters    */
    const float *zero_points;     /* the same                                         */
    const uint8_t *params;        /* layout.params_bytes: small parameters            */
    double cosine;                /* against the original; NaN when not recorded      */
    double sqnr_db;
    double max_abs_error;
    bool mapped;                  /* data and parameters lie in the mapping           */
    void *owned;                  /* private: what aq_tensor_release gives back       */
} aq_tensor;

typedef enum aq_model_format {
    AQ_MODEL_AUTO = 0,        /* by the path's ending or the file's first bytes       */
    AQ_MODEL_PARQUET = 1,     /* docs/FORMAT.md                                       */
    AQ_MODEL_SAFETENSORS = 2,
    AQ_MODEL_DIRECTORY = 3,   /* Parquet files of one directory, one per tensor       */
    AQ_MODEL_SHARDS = 4,      /* safetensors in several files (read only)             */
    AQ_MODEL_NPY = 5          /* one NumPy array (read only)                          */
} aq_model_format;

typedef struct aq_model aq_model;

typedef struct aq_model_options {
    const aq_allocator *allocator; /* NULL = malloc                                   */
    aq_log log;
    aq_io io;
    bool skip_checksums;
} aq_model_options;

/* aq_model_open - open a model: a Parquet model file (ours or the "Parquet V2" schema
 * of other tools), a directory of such files, a safetensors file, safetensors in shards
 * (the path of their model.safetensors.index.json, or of their directory), or a .npy file
 * (one tensor, with the file's name). What index and shards disagree on is an error; a
 * wrong total_size of the index is a line of the log.
 * Returns  AQ_OK; AQ_E_IO (a shard is missing: os_errno ENOENT); AQ_E_FORMAT; AQ_E_TYPE
 *          (Parquet, no model); AQ_E_DUPLICATE; AQ_E_UNSUPPORTED; AQ_E_LIMIT; AQ_E_NOMEM;
 *          AQ_E_NOT_FOUND (an empty directory).
 * Cost     reads the metadata of every tensor, none of its weights. Every file stays
 *          mapped; with AQ_IO_READ, or where it cannot be mapped, it stays open: one
 *          descriptor for each until aq_model_close.
 * Threads  an open model is immutable: any number of threads may use it. */
AQ_API AQ_CHECKED aq_status aq_model_open(const char *path,
                                          const aq_model_options *options,
                                          aq_model **out_model, aq_error *err);
/* aq_model_close - NULL-safe. Release all tensors first: their names, and the data of
 * mapped ones, die here. */
AQ_API void aq_model_close(aq_model *model);
/* aq_model_count, aq_model_get_format - number of tensors; what kind of model it is. */
AQ_API size_t aq_model_count(const aq_model *model);
AQ_API aq_model_format aq_model_get_format(const aq_model *model);
/* aq_model_describe - i-th tensor in name order, without data and parameters (NULL):
 * nothing to release. Returns AQ_OK; AQ_E_ARG. */
AQ_API AQ_CHECKED aq_status aq_model_describe(const aq_model *model, size_t index,
                                              aq_tensor *out_tensor, aq_error *err);
/* aq_model_tensor - i-th tensor in name order with its data: pointers into the mapping
 * where the file allows (out_tensor->mapped), else decoded buffers. Give it to
 * aq_tensor_release.
 * Returns  AQ_OK; AQ_E_ARG; AQ_E_FORMAT; AQ_E_CHECKSUM; AQ_E_NOMEM; AQ_E_UNSUPPORTED.
 * Cost     no copy and a bounded allocation when mapped. */
AQ_API AQ_CHECKED aq_status aq_model_tensor(const aq_model *model, size_t index,
                                            aq_tensor *out_tensor, aq_error *err);
/* aq_model_find - the same by name; AQ_E_NOT_FOUND names the nearest name there is. */
AQ_API AQ_CHECKED aq_status aq_model_find(const aq_model *model, const char *name,
                                          aq_tensor *out_tensor, aq_error *err);
/* aq_model_index - position of a name; SIZE_MAX when there is none. */
AQ_API size_t aq_model_index(const aq_model *model, const char *name);
/* aq_model_metadata - i-th key-value pair of the model file; false when out of range. Of
 * shards: the index's "metadata" (what is no string there as its JSON text), then each
 * shard's; of a key that comes again, the first. */
AQ_API bool aq_model_metadata(const aq_model *model, size_t index,
                              aq_key_value *out_pair);
/* aq_model_file_bytes - size on disk of all files of the model. */
AQ_API uint64_t aq_model_file_bytes(const aq_model *model);
/* aq_tensor_release - free what aq_model_tensor decoded, and zero the struct; harmless
 * twice. */
AQ_API void aq_tensor_release(aq_tensor *tensor);

/* aq_tensor_rows_f32 - rows [first_row, first_row + num_rows) as float32, dequantized or
 * converted, to dst (num_rows * layout.cols floats).
 * Returns  AQ_OK; AQ_E_ARG; AQ_E_TYPE (an integer tensor). */
AQ_API AQ_CHECKED aq_status aq_tensor_rows_f32(const aq_tensor *tensor, size_t first_row,
                                               size_t num_rows, float *dst,
                                               const aq_tasks *tasks, aq_error *err);
/* aq_tensor_dot / _matvec - aq_dot_row and aq_matvec on a tensor, quantized or float. */
AQ_API AQ_CHECKED aq_status aq_tensor_dot(const aq_tensor *tensor, size_t row,
                                          const float *x, float *out_dot, aq_error *err);
AQ_API AQ_CHECKED aq_status aq_tensor_matvec(const aq_tensor *tensor, const float *x,
                                             float *y, const aq_tasks *tasks,
                                             aq_error *err);
/* aq_tensor_matmul - aq_matmul on a tensor, quantized or float: y[b * rows + r] is
 * aq_tensor_dot of row r and vector b. */
AQ_API AQ_CHECKED aq_status aq_tensor_matmul(const aq_tensor *tensor, const float *x,
                                             size_t count, float *y,
                                             const aq_tasks *tasks, aq_error *err);
/* aq_tensor_matmul_i8 - aq_matmul_i8 on a quantized tensor; x from aq_activations_init
 * with its layout. AQ_E_TYPE where it is not quantized. */
AQ_API AQ_CHECKED aq_status aq_tensor_matmul_i8(const aq_tensor *tensor,
                                                const aq_activations *x, float *y,
                                                const aq_tasks *tasks, aq_error *err);
/* aq_tensor_init - describe values in memory: a float or integer tensor that borrows
 * name and data (num_params * aq_dtype_bytes(dtype) bytes). Returns AQ_OK; AQ_E_ARG;
 * AQ_E_LIMIT. */
AQ_API AQ_CHECKED aq_status aq_tensor_init(aq_tensor *out_tensor, const char *name,
                                           aq_dtype dtype, const uint64_t *shape,
                                           uint32_t num_dims, const void *data,
                                           aq_error *err);

#ifndef AQ_NO_WRITER

typedef struct aq_model_writer aq_model_writer;

typedef struct aq_model_writer_options {
    const aq_allocator *allocator; /* NULL = malloc                                   */
    aq_model_format format;        /* AUTO: ".safetensors"; a directory where the path
                                      ends in "/"; else Parquet                       */
    const char *input_path;        /* a file that must not be the output; may be NULL */
    const aq_key_value *metadata;  /* copied                                          */
    size_t num_metadata;
    bool no_sync;                  /* see aq_writer_options                           */
    size_t chunk_bytes;            /* a tensor with more bytes of codes, values or scales
                                      is several rows of the file; 0 = only where the
                                      format demands it, from 2 GiB on                */
} aq_model_writer_options;

/* aq_model_writer_open - begin a model file that appears, whole, at finish.
 *   tensors  in  descriptions of all tensors in the order they will be put (their data
 *                and parameters are not read); names unique; borrowed until finish
 * Returns  AQ_OK; AQ_E_ARG; AQ_E_DUPLICATE; AQ_E_UNSUPPORTED (a quantized tensor for a
 *          safetensors file); AQ_E_IO; AQ_E_NOMEM. */
AQ_API AQ_CHECKED aq_status aq_model_writer_open(
    const char *path, const aq_tensor *tensors, size_t num_tensors,
    const aq_model_writer_options *options, aq_model_writer **out_writer, aq_error *err);
/* aq_model_writer_put - the next tensor, with its data. It must match its description in
 * name, dtype, shape and layout; the metrics may be new. */
AQ_API AQ_CHECKED aq_status aq_model_writer_put(aq_model_writer *writer,
                                                const aq_tensor *tensor, aq_error *err);
/* aq_model_writer_finish - make the file durable and visible; frees the writer in any
 * case. */
AQ_API AQ_CHECKED aq_status aq_model_writer_finish(aq_model_writer *writer,
                                                   aq_error *err);
/* aq_model_writer_abort - drop everything written; NULL is allowed. */
AQ_API void aq_model_writer_abort(aq_model_writer *writer);
/* aq_model_save - write tensors that are all in memory: open, put each, finish. */
AQ_API AQ_CHECKED aq_status aq_model_save(const char *path, const aq_tensor *tensors,
                                          size_t num_tensors,
                                          const aq_model_writer_options *options,
                                          aq_error *err);

/*==========================================================================
 * MARK: - [41] Jobs: a whole model in, a whole model out (public)
 *========================================================================*/

typedef enum aq_operation {
    AQ_QUANTIZE = 0,
    AQ_DEQUANTIZE = 1, /* quantized tensors to float32; others as they are            */
    AQ_CONVERT = 2     /* another container, the same tensors                         */
} aq_operation;

/* What quantization will do with one tensor. The hook may change it. */
typedef struct aq_plan {
    bool keep; /* store as it came: 1-D, scalar, empty, integer by default */
    aq_quant_options quant;
} aq_plan;

/* How a job goes through the model. The bytes that it writes are the same. */
typedef enum aq_job_mode {
    AQ_JOB_STREAMING = 0, /* pieces of tensors, from a mapped file: the memory is
                             max_memory_bytes, whatever the size of the model           */
    AQ_JOB_PARALLEL = 1   /* whole tensors side by side, by standard reads              */
} aq_job_mode;

typedef struct aq_job_options {
    aq_operation operation;
    aq_job_mode mode;
    aq_quant_options quant;        /* of every tensor that is not kept                */
    uint64_t max_memory_bytes;     /* of buffers; 0 = 256 MiB; with AQ_JOB_PARALLEL no
                                      bound. Compressed Parquet takes its tensor more */
    /* Quality. A tensor whose cosine comes out below min_cosine is quantized again with 4
     * bits, then 8, then kept, also where a target is exceeded so. With a target (one of
     * the two; of the tensors' bytes) each tensor gets 2, 4 or 8 bits or is kept,
     * whichever loses least in all at that size: every one is quantized at each width
     * before. */
    double min_cosine;             /* 0 = any                                         */
    double target_bpw;             /* bits per weight; 0 = none                       */
    uint64_t target_bytes;         /* 0 = none                                        */
    bool fail_fast; /* a tensor that cannot be quantized (NaN), or is below min_cosine, is
                       an error; else it is kept, and its report says why               */
    uint32_t shard, num_shards;    /* only the shard-th (from 0) of num_shards parts of
                                      equal size; 0 shards = all                      */
    size_t chunk_bytes;            /* see aq_model_writer_options                     */
    bool resume;                   /* keep what is done when interrupted, and go on there
                                      the next time                                   */
    /* Called once a tensor, in name order, before any is written; may be NULL. Returns
     * false to stop the job with AQ_E_CANCELLED. */
    bool (*plan)(void *user, const aq_tensor *tensor, aq_plan *plan);
    void *plan_user;
    aq_progress_hook progress;
    const aq_allocator *allocator; /* NULL = malloc                                   */
    aq_pool *pool;                 /* NULL = one of the job's own                     */
    const aq_tasks *tasks;         /* NULL = threads of the job's own                 */
    uint32_t threads;              /* when tasks is NULL; 0 = one per processor       */
    aq_log log;
    aq_io io;
    bool dry_run;                  /* plan and report sizes; write nothing            */
    bool no_sync;
} aq_job_options;

#define AQ_MAX_ATTEMPTS 8

/* A way in which a tensor was quantized on trial or for good. */
typedef struct aq_attempt {
    uint32_t bits;
    double cosine, sqnr_db;
} aq_attempt;

/* One tensor of a job, in name order. */
typedef struct aq_tensor_report {
    const char *name;
    aq_tensor tensor;     /* as written; data and parameters are NULL                  */
    uint64_t bytes_in;    /* of the input's data and parameters                        */
    uint64_t bytes_out;
    aq_metrics metrics;   /* count = 0 when the tensor was not quantized               */
    aq_attempt attempts[AQ_MAX_ATTEMPTS];
    uint32_t num_attempts;
    aq_status status;     /* not AQ_OK: why it was kept in place of being quantized    */
    const char *error;    /* the same as text; NULL                                    */
} aq_tensor_report;

typedef struct aq_job_report {
    aq_tensor_report *tensors;
    size_t num_tensors;
    size_t num_quantized;
    size_t num_resumed;   /* tensors that an interrupted run had done                  */
    size_t num_failed;    /* tensors that could not be quantized, and are kept         */
    uint64_t num_params;
    uint64_t bytes_in, bytes_out;       /* of tensors                                  */
    uint64_t file_bytes_in, file_bytes_out; /* of files; out = 0 after a dry run       */
    aq_metrics total;                   /* over all quantized tensors                  */
    size_t worst;                       /* index of the lowest SQNR; SIZE_MAX = none   */
    double seconds;
    aq_pool_stats pool;
    aq_allocator allocator;             /* private */
    void *arena;                        /* private */
} aq_job_report;

/* aq_job_run - read the model at `input`, write the model at `output`, tensors sorted
 * by name.
 *   report  out  may be NULL; give it to aq_job_report_deinit after success
 * Returns  what opening, quantizing and writing return; AQ_E_CANCELLED. Nothing appears
 *          under `output` unless AQ_OK.
 * Memory   max_memory_bytes, and descriptions of the tensors.
 * Threads  the hooks are called from one thread at a time, the progress hook from any.
 * Numeric  the same file for any mode, number of threads and instruction set. */
AQ_API AQ_CHECKED aq_status aq_job_run(const char *input, const char *output,
                                       const aq_job_options *options,
                                       aq_job_report *out_report, aq_error *err);
AQ_API void aq_job_report_deinit(aq_job_report *report);
/* aq_merge - join the outputs of all shards of a job, in any order, to the file that the
 * job would have written without shards, byte for byte. Of the options those of running
 * count, and chunk_bytes.
 * Returns  as aq_job_run; AQ_E_ARG (shards are missing, or of different jobs);
 *          AQ_E_DUPLICATE (a shard, or a tensor of two); AQ_E_FORMAT (no shard). */
AQ_API AQ_CHECKED aq_status aq_merge(const char *const *shards, size_t num_shards,
                                     const char *output, const aq_job_options *options,
                                     aq_job_report *out_report, aq_error *err);

#endif /* AQ_NO_WRITER */

/*==========================================================================
 * MARK: - [42] Batches: many arrays in one call (public)
 *========================================================================*/

/* Values in memory, row-major, borrowed for the call. Rows and columns are those of
 * aq_tensor: [d0][product of the rest]; a scalar and a vector are one row. */
typedef struct aq_array {
    const char *name;       /* NUL-terminated UTF-8, not empty, unique in the call    */
    const void *data;       /* little-endian, any alignment; NULL where it is empty   */
    aq_dtype dtype;         /* a float type                                           */
    uint32_t num_dims;      /* 0 = scalar                                             */
    const uint64_t *shape;  /* num_dims                                               */
    const int64_t *strides; /* in elements, of each dimension: must be those of
                               contiguous values (of dimensions of 1, and where the
                               array is empty, any). NULL = contiguous                */
} aq_array;

typedef struct aq_batch_options {
    aq_quant_options quant;        /* of every array; src_stride must be 0            */
    /* Called once an array, in name order, before any is quantized; may be NULL. It may
     * change quant for this array; false stops the call with AQ_E_CANCELLED. */
    bool (*plan)(void *user, const aq_tensor *array, aq_quant_options *quant);
    void *plan_user;
    bool no_metrics;               /* do not measure: about twice as fast             */
    bool fail_fast;                /* false: the other arrays go on where one fails   */
    aq_progress_hook progress;     /* called on the calling thread, between tiles     */
    const aq_allocator *allocator; /* NULL = malloc                                   */
    const aq_tasks *tasks;         /* NULL = threads of the call's own                */
    uint32_t threads;              /* when tasks is NULL; 0 = one per processor       */
} aq_batch_options;

/* One array of a batch. */
typedef struct aq_batch_item {
    const char *name;      /* the batch's own copy; "" where the input had none       */
    size_t index;          /* in the input                                            */
    aq_status status;
    const aq_error *error; /* NULL with AQ_OK; has the name, and index in its message */
    aq_tensor tensor;      /* AQ_OK: the result; needs no aq_tensor_release           */
    aq_metrics metrics;    /* AQ_OK, and measured; else count = 0                     */
} aq_batch_item;

typedef struct aq_batch {
    aq_batch_item *items;   /* in name order, byte by byte                            */
    size_t num_items;
    size_t num_failed;      /* items with another status than AQ_OK                   */
    aq_metrics total;       /* over the measured ones                                 */
    aq_allocator allocator; /* private */
    void *owned;            /* private */
} aq_batch;

/* aq_quantize_batch - quantize n arrays, in parallel over arrays and over their rows.
 *   arrays     in   n of them, in any order; n = 0 gives an empty batch
 *   options    in   NULL = defaults             err  out  may be NULL
 *   out_batch  out  an item for each array; give it to aq_batch_deinit after success
 * Returns  AQ_OK, also where arrays failed: see num_failed. Each of those has an error:
 *          AQ_E_ARG (name, dimensions, strides, options, data missing); AQ_E_TYPE (no
 *          float type); AQ_E_LIMIT; AQ_E_NONFINITE (the message has the index).
 *          With fail_fast the error of one of them, and no batch: of the first in name
 *          order that the arguments alone show to be wrong; where there is none, of the
 *          first in name order with values that cannot be quantized.
 *          In both: AQ_E_DUPLICATE (a name came twice; the message has both indices);
 *          AQ_E_CANCELLED; AQ_E_NOMEM; AQ_E_LIMIT (over 2^64 bytes in all); AQ_E_ARG (the
 *          options); AQ_E_IO (the system gave no thread).
 * Numeric  each array as aq_quantize_into does it alone, metrics included, for any number
 *          of threads and on any instruction set.
 * Owns     codes, scales, zero points and params are the batch's, AQ_ALIGNMENT-aligned.
 * Memory   the results; beside them under 1 KiB for an array with its name and, where it
 *          failed, another for its error; 256 KiB in all. */
AQ_API AQ_CHECKED aq_status aq_quantize_batch(const aq_array *arrays, size_t n,
                                              const aq_batch_options *options,
                                              aq_batch *out_batch, aq_error *err);
/* aq_dequantize_batch - the reverse, by the same rules: n tensors, quantized or of a
 * float type, to float32 (little-endian). NaN and infinity among floats stay what they
 * are. quant, plan and no_metrics of the options do not matter; nothing is measured. */
AQ_API AQ_CHECKED aq_status aq_dequantize_batch(const aq_tensor *tensors, size_t n,
                                                const aq_batch_options *options,
                                                aq_batch *out_batch, aq_error *err);
/* aq_batch_find - the item of that name; NULL when there is none. */
AQ_API const aq_batch_item *aq_batch_find(const aq_batch *batch, const char *name);
/* aq_batch_deinit - free what the items hold, and zero the struct; harmless twice. */
AQ_API void aq_batch_deinit(aq_batch *batch);

#ifdef __cplusplus
}
#endif

#endif /* ARROWQUANT_H */

#if defined(ARROWQUANT_IMPLEMENTATION) && !defined(AQI_IMPLEMENTATION_DONE)
#define AQI_IMPLEMENTATION_DONE

/*==========================================================================
 * MARK: - [50] Platform (private)
 * System headers, compiler differences, the few POSIX calls that -std=c99 hides.
 *========================================================================*/

#ifdef __FAST_MATH__
#error "arrowquant.h: -ffast-math would change results; compile without it"
#endif
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0 && __FLT_EVAL_METHOD__ != 16
/* x86: -msse2 -mfpmath=sse; s390x: -fexcess-precision=fast */
#error "arrowquant.h: excess precision would change results; compile without it"
#endif

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>
#include <dirent.h>
#ifndef AQ_NO_MMAP
#include <sys/mman.h>
#endif
#ifndef AQ_NO_THREADS
#include <pthread.h>
#endif
#ifdef AQ_WITH_ZSTD
#include <zstd.h>
#endif
#ifdef AQ_WITH_SNAPPY
#include <snappy-c.h>
#endif
#ifdef AQ_WITH_ZLIB
#include <zlib.h>
#endif
#ifdef AQ_WITH_LZ4
#include <lz4.h>
#endif
#ifdef AQ_WITH_BROTLI
#include <brotli/decode.h>
#ifndef AQ_NO_WRITER
#include <brotli/encode.h>
#endif
#endif

#ifndef AQ_ASSERT
#include <assert.h>
#define AQ_ASSERT(condition) assert(condition)
#endif

#if defined(__GNUC__) || defined(__clang__)
#define AQ_RESTRICT __restrict__
#define AQI_INLINE static inline __attribute__((always_inline))
#define AQI_UNUSED __attribute__((unused))
#define AQI_LIKELY(x) __builtin_expect(!!(x), 1)
#else
#error "arrowquant.h: needs gcc or clang (atomics, target attributes)"
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define AQI_BIG_ENDIAN 1
#else
#define AQI_BIG_ENDIAN 0
#endif

/* A system header that came first under -std=c99 has hidden these; glibc has them. */
#if defined(__GLIBC__) && !defined(__USE_XOPEN2K8) && !defined(__cplusplus)
extern ssize_t pread64(int fd, void *dst, size_t bytes, int64_t offset);
extern ssize_t pwrite64(int fd, const void *src, size_t bytes, int64_t offset);
extern int fsync(int fd);
#define AQI_PREAD pread64
#define AQI_PWRITE pwrite64
#else
#define AQI_PREAD pread
#define AQI_PWRITE pwrite
#endif

#ifdef O_CLOEXEC
#define AQI_O_CLOEXEC O_CLOEXEC
#else
#define AQI_O_CLOEXEC 0
#endif

#define AQI_MIN(a, b) ((a) < (b) ? (a) : (b))
#define AQI_MAX(a, b) ((a) > (b) ? (a) : (b))
#define AQI_COUNT(array) (sizeof(array) / sizeof((array)[0]))

AQI_UNUSED static double aqi_seconds(void) {
#ifdef CLOCK_MONOTONIC
    struct timespec t;
    if (clock_gettime(CLOCK_MONOTONIC, &t) == 0)
        return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
#endif
    {
        struct timeval v;
        gettimeofday(&v, NULL);
        return (double)v.tv_sec + 1e-6 * (double)v.tv_usec;
    }
}

/* Little-endian loads and stores from any address. */
AQI_INLINE uint32_t aqi_load_le32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
           (uint32_t)p[3] << 24;
}

AQI_INLINE uint64_t aqi_load_le64(const uint8_t *p) {
    return (uint64_t)aqi_load_le32(p) | (uint64_t)aqi_load_le32(p + 4) << 32;
}

AQI_INLINE void aqi_store_le16(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

AQI_INLINE void aqi_store_le32(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
    p[2] = (uint8_t)(v >> 16);
    p[3] = (uint8_t)(v >> 24);
}

AQI_INLINE void aqi_store_le64(uint8_t *p, uint64_t v) {
    aqi_store_le32(p, (uint32_t)v);
    aqi_store_le32(p + 4, (uint32_t)(v >> 32));
}

/* Copies `count` little-endian values of `width` bytes to native order (or back). */
static void aqi_copy_le(void *dst, const void *src, size_t count, size_t width) {
    if (count == 0) return;
    memcpy(dst, src, count * width);
    if (AQI_BIG_ENDIAN && width > 1) {
        uint8_t *p = (uint8_t *)dst;
        size_t i, k;
        for (i = 0; i < count; i++, p += width) {
            for (k = 0; k < width / 2; k++) {
                uint8_t swap = p[k];
                p[k] = p[width - 1 - k];
                p[width - 1 - k] = swap;
            }
        }
    }
}

const char *aq_version(void) { return AQ_VERSION_STRING; }

/*==========================================================================
 * MARK: - [51] Errors, log (private)
 * A message is written as "what is wrong; what to do". Outer layers insert where.
 *========================================================================*/

const char *aq_status_name(aq_status status) {
    switch (status) {
#define AQ_X(enumerator, value, name, meaning)                                           \
    case enumerator:                                                                     \
        return name;
        AQ_STATUS_LIST(AQ_X)
#undef AQ_X
    }
    return "unknown";
}

const char *aq_status_meaning(aq_status status) {
    switch (status) {
#define AQ_X(enumerator, value, name, meaning)                                           \
    case enumerator:                                                                     \
        return meaning;
        AQ_STATUS_LIST(AQ_X)
#undef AQ_X
    }
    return "not a status of this library";
}

static void aqi_error_clear(aq_error *err) {
    if (err == NULL) return;
    memset(err, 0, sizeof *err);
    err->file_offset = -1;
    err->row_group = -1;
    err->column = -1;
}

/* Copies a name; one that does not fit keeps both ends around "...". */
static void aqi_error_set_name(aq_error *err, const char *name) {
    size_t n = strlen(name), cap = sizeof err->name, half = (cap - 4) / 2;
    if (n < cap) {
        memcpy(err->name, name, n + 1);
        return;
    }
    memcpy(err->name, name, half);
    memcpy(err->name + half, "...", 3);
    memcpy(err->name + half + 3, name + n - half, half + 1);
}

/* Names from a file stay inside the line, and cannot speak to a terminal. */
static void aqi_make_printable(char *text) {
    for (; *text != '\0'; text++) {
        if ((unsigned char)*text < 0x20 || *text == 0x7f) *text = '?';
    }
}

/* How long the part of `format` before "; " becomes. Names among the arguments may have
 * a "; " of their own. */
static size_t aqi_what_bytes(const char *format, va_list args) {
    const char *advice = strstr(format, "; ");
    char what[256];
    int n;
    if (advice == NULL || (size_t)(advice - format) >= sizeof what) return SIZE_MAX;
    memcpy(what, format, (size_t)(advice - format));
    what[advice - format] = '\0';
    n = vsnprintf(NULL, 0, what, args);
    return n < 0 ? SIZE_MAX : (size_t)n;
}

static void aqi_error_vset(aq_error *err, aq_status status, int64_t offset,
                           const char *format, va_list args) {
    va_list again;
    size_t what;
    int n;
    aqi_error_clear(err);
    err->status = status;
    err->file_offset = offset;
    va_copy(again, args);
    n = vsnprintf(err->message, sizeof err->message, format, args);
    what = aqi_what_bytes(format, again);
    va_end(again);
    if (n < 0) memcpy(err->message, "?", 2);
    if (n >= (int)sizeof err->message)
        memcpy(err->message + sizeof err->message - 4, "...", 4);
    aqi_make_printable(err->message);
    err->what_bytes = (uint16_t)AQI_MIN(what, strlen(err->message));
    err->advice_at = err->what_bytes;
}

/* Records a failure and returns its status: `return aqi_fail(err, AQ_E_ARG, "...")`. */
AQ_PRINTF(3, 4)
static aq_status aqi_fail(aq_error *err, aq_status status, const char *format, ...) {
    if (err != NULL) {
        va_list args;
        va_start(args, format);
        aqi_error_vset(err, status, -1, format, args);
        va_end(args);
    }
    return status;
}

AQ_PRINTF(4, 5)
static aq_status aqi_fail_at(aq_error *err, aq_status status, int64_t offset,
                             const char *format, ...) {
    if (err != NULL) {
        va_list args;
        va_start(args, format);
        aqi_error_vset(err, status, offset, format, args);
        va_end(args);
    }
    return status;
}

/* Names the file in an error that names nothing yet. */
static aq_status aqi_error_in_file(aq_error *err, aq_status status, const char *path) {
    if (err != NULL && status != AQ_OK && err->name[0] == '\0')
        aqi_error_set_name(err, path);
    return status;
}

/* A failed system call: `what` and the system's words for `code`. */
static aq_status aqi_fail_os(aq_error *err, int code, const char *what,
                             const char *path) {
    aqi_fail(err, AQ_E_IO, "%s: %s", what, strerror(code));
    if (err != NULL) {
        err->os_errno = code;
        aqi_error_set_name(err, path);
    }
    return AQ_E_IO;
}

/* Inline, so that the compiler sees that it never returns AQ_OK: gcc warns otherwise. */
AQI_INLINE aq_status aqi_fail_nomem(aq_error *err, size_t bytes) {
    aqi_fail(err, AQ_E_NOMEM, "out of memory asking for %zu bytes", bytes);
    return AQ_E_NOMEM;
}

/* Inserts " (where)" between what is wrong and what to do; the next one makes it
 * " (where, where)". Called once a layer at most. */
AQ_PRINTF(2, 3) static void aqi_error_locate(aq_error *err, const char *format, ...) {
    char where[256], text[sizeof where + 4];
    size_t n, at;
    va_list args;
    if (err == NULL || err->status == AQ_OK) return;
    va_start(args, format);
    if (vsnprintf(where, sizeof where, format, args) < 0) where[0] = '\0';
    va_end(args);
    aqi_make_printable(where);
    at = err->advice_at;
    if (at > err->what_bytes) at--; /* before the ")" */
    snprintf(text, sizeof text, at == err->what_bytes ? " (%s)" : ", %s", where);
    n = strlen(text);
    if (strlen(err->message) + n >= sizeof err->message) return;
    memmove(err->message + at + n, err->message + at, strlen(err->message + at) + 1);
    memcpy(err->message + at, text, n);
    err->advice_at = (uint16_t)(err->advice_at + n);
}

/* Adds the row group and column to an error that has none. */
static aq_status aqi_error_in_column(aq_error *err, aq_status status, int32_t row_group,
                                     int32_t column, const char *path) {
    if (err == NULL || status == AQ_OK || err->column >= 0) return status;
    if (status == AQ_E_IO && err->name[0] != '\0') return status; /* names the file */
    err->row_group = row_group;
    err->column = column;
    aqi_error_set_name(err, path);
    if (err->file_offset >= 0) {
        aqi_error_locate(err, "column %s, row group %d, offset %lld", err->name,
                         (int)row_group, (long long)err->file_offset);
    } else {
        aqi_error_locate(err, "column %s, row group %d", err->name, (int)row_group);
    }
    return status;
}

/* Adds the tensor's name to an error. */
static aq_status aqi_error_in_tensor(aq_error *err, aq_status status, const char *name) {
    char before[sizeof err->name];
    if (err == NULL || status == AQ_OK) return status;
    if (status == AQ_E_IO && err->name[0] != '\0') return status; /* names the file */
    memcpy(before, err->name, sizeof before);
    aqi_error_set_name(err, name);
    if (strcmp(before, err->name) == 0) return status; /* it is located already */
    aqi_error_locate(err, "tensor \"%s\"", err->name);
    return status;
}

AQ_PRINTF(2, 3) static void aqi_log(const aq_log *log, const char *format, ...) {
    char text[512];
    va_list args;
    if (log == NULL || log->fn == NULL) return;
    va_start(args, format);
    if (vsnprintf(text, sizeof text, format, args) >= 0) log->fn(log->user, text);
    va_end(args);
}

/*==========================================================================
 * MARK: - [52] Checked sizes, byte cursor (private)
 *========================================================================*/

AQI_INLINE bool aqi_mul_size(size_t a, size_t b, size_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}

AQI_INLINE bool aqi_add_size(size_t a, size_t b, size_t *out) {
    return !__builtin_add_overflow(a, b, out);
}

/* int64_t to size_t; false when it does not fit (negative, or 32-bit size_t). */
AQI_INLINE bool aqi_to_size(int64_t value, size_t *out) {
    *out = (size_t)value;
    return value >= 0 && (uint64_t)value <= (uint64_t)SIZE_MAX;
}

AQI_INLINE size_t aqi_round_up(size_t value, size_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

/* Largest power of two, at most 4096, that divides the address. */
static size_t aqi_alignment_of(const void *p) {
    uintptr_t a = (uintptr_t)p | 4096;
    return (size_t)(a & (~a + 1));
}

/* Untrusted bytes [p, end). `start` and `base` turn positions into file offsets. */
typedef struct aqi_cursor {
    const uint8_t *p;
    const uint8_t *end;
    const uint8_t *start;
    int64_t base;
} aqi_cursor;

static aqi_cursor aqi_cursor_make(const uint8_t *data, size_t bytes, int64_t base) {
    aqi_cursor c;
    c.p = data;
    c.start = data;
    c.end = data == NULL ? data : data + bytes;
    c.base = base;
    return c;
}

AQI_INLINE size_t aqi_remaining(const aqi_cursor *c) { return (size_t)(c->end - c->p); }

AQI_INLINE int64_t aqi_offset(const aqi_cursor *c) { return c->base + (c->p - c->start); }

/* ULEB128 of at most 64 bits. False, and the cursor stays, when it is cut off or too
 * long. */
AQI_INLINE bool aqi_read_varint(aqi_cursor *c, uint64_t *out) {
    const uint8_t *p = c->p;
    uint64_t value = 0;
    unsigned shift = 0;
    if (AQI_LIKELY(p < c->end && *p < 0x80)) {
        *out = *p;
        c->p = p + 1;
        return true;
    }
    while (p < c->end && shift < 64) {
        uint8_t byte = *p++;
        if (shift == 63 && byte > 1) return false;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *out = value;
            c->p = p;
            return true;
        }
        shift += 7;
    }
    return false;
}

AQI_INLINE uint32_t aqi_bits_needed(uint64_t max_value) {
    return max_value == 0 ? 0u : (uint32_t)(64 - __builtin_clzll(max_value));
}

/*==========================================================================
 * MARK: - [53] Allocator, growing bytes, arena, buffer pool (private)
 *========================================================================*/

#define AQI_HUGE_PAGE ((size_t)2 << 20)

static void aqi_want_huge_pages(void *p, size_t bytes) {
#if !defined(AQ_NO_MMAP) && defined(MADV_HUGEPAGE)
    int code = errno;
    if (madvise(p, bytes, MADV_HUGEPAGE) != 0) errno = code; /* slower is all it is */
#else
    (void)p;
    (void)bytes;
#endif
}

/* malloc gives 16-byte alignment at most; the real address stands before the block. Large
 * blocks ask for huge pages: one page fault in place of 512. */
static void *aqi_default_alloc(void *user, size_t bytes, size_t align) {
    bool large = bytes >= 2 * AQI_HUGE_PAGE;
    size_t total;
    uint8_t *raw, *p;
    (void)user;
    if (align < sizeof(void *)) align = sizeof(void *);
    if (large) align = AQI_MAX(align, AQI_HUGE_PAGE);
    if (!aqi_add_size(bytes, align + sizeof(void *), &total)) return NULL;
    raw = (uint8_t *)malloc(total);
    if (raw == NULL) return NULL;
    p = raw + sizeof(void *);
    p += (align - (uintptr_t)p % align) % align;
    memcpy(p - sizeof(void *), &raw, sizeof raw);
    if (large) aqi_want_huge_pages(p, bytes & ~(AQI_HUGE_PAGE - 1));
    return p;
}

static void aqi_default_free(void *user, void *ptr, size_t bytes) {
    void *raw;
    (void)user;
    (void)bytes;
    if (ptr == NULL) return;
    memcpy(&raw, (uint8_t *)ptr - sizeof(void *), sizeof raw);
    free(raw);
}

static void *aqi_default_resize(void *user, void *ptr, size_t old_bytes, size_t new_bytes,
                                size_t align) {
    void *p = aqi_default_alloc(user, new_bytes, align);
    if (p == NULL) return NULL;
    if (ptr != NULL) memcpy(p, ptr, AQI_MIN(old_bytes, new_bytes));
    aqi_default_free(user, ptr, old_bytes);
    return p;
}

/* The caller's hooks, or malloc; half a set of hooks is an error. */
static aq_status aqi_allocator_resolve(const aq_allocator *in, aq_allocator *out,
                                       aq_error *err) {
    int set;
    memset(out, 0, sizeof *out);
    set =
        in == NULL ? 0 : (in->alloc != NULL) + (in->resize != NULL) + (in->free != NULL);
    if (set == 3) {
        *out = *in;
        return AQ_OK;
    }
    out->alloc = aqi_default_alloc;
    out->resize = aqi_default_resize;
    out->free = aqi_default_free;
    if (set == 0) return AQ_OK;
    return aqi_fail(err, AQ_E_ARG, "allocator with %d of 3 functions; set all or none",
                    set);
}

static void *aqi_alloc(const aq_allocator *a, size_t bytes) {
    return a->alloc(a->user, bytes == 0 ? 1 : bytes, 16);
}

static void aqi_free(const aq_allocator *a, void *ptr, size_t bytes) {
    if (ptr != NULL) a->free(a->user, ptr, bytes == 0 ? 1 : bytes);
}

/* Bytes that grow; zero-initialised is empty. Failure leaves the content as it was. */
typedef struct aqi_bytes_builder {
    uint8_t *data;
    size_t size, capacity;
} aqi_bytes_builder;

static bool aqi_builder_reserve(const aq_allocator *a, aqi_bytes_builder *b,
                                size_t extra) {
    size_t need, capacity;
    void *p;
    if (!aqi_add_size(b->size, extra, &need)) return false;
    if (need <= b->capacity) return true;
    capacity = b->capacity < 256 ? 256 : b->capacity;
    while (capacity < need) {
        if (!aqi_mul_size(capacity, 2, &capacity)) return false;
    }
    p = b->data == NULL ? a->alloc(a->user, capacity, 16)
                        : a->resize(a->user, b->data, b->capacity, capacity, 16);
    if (p == NULL) return false;
    b->data = (uint8_t *)p;
    b->capacity = capacity;
    return true;
}

static bool aqi_builder_append(const aq_allocator *a, aqi_bytes_builder *b,
                               const void *src, size_t bytes) {
    if (!aqi_builder_reserve(a, b, bytes)) return false;
    if (bytes > 0) memcpy(b->data + b->size, src, bytes);
    b->size += bytes;
    return true;
}

AQI_UNUSED static void aqi_builder_free(const aq_allocator *a, aqi_bytes_builder *b) {
    aqi_free(a, b->data, b->capacity);
    memset(b, 0, sizeof *b);
}

/* Zeroed memory that is freed all at once: metadata. `budget` bounds what a file can
 * ask. */
typedef struct aqi_arena_block {
    struct aqi_arena_block *next;
    size_t bytes;
} aqi_arena_block;

typedef struct aqi_arena {
    aq_allocator allocator;
    aqi_arena_block *blocks;
    uint8_t *free_begin;
    size_t free_bytes;
    size_t total_bytes;
    size_t next_bytes; /* of the next block at least: what was needed before a reset */
    size_t budget_bytes;       /* 0 = none                                           */
    size_t used_bytes;         /* of the budget; atomic: arenas that share it add up */
    const char *budget_option; /* what the user may raise                            */
    struct aqi_arena *budget_of; /* NULL = its own                                   */
} aqi_arena;

static void aqi_arena_init(aqi_arena *arena, const aq_allocator *allocator) {
    memset(arena, 0, sizeof *arena);
    arena->allocator = *allocator;
}

static void aqi_arena_limit(aqi_arena *arena, size_t bytes, const char *option) {
    arena->budget_bytes = bytes;
    arena->budget_option = option;
}

/* Counts what `arena` takes against the budget of another one, from any thread. */
static void aqi_arena_share(aqi_arena *arena, aqi_arena *budget_of) {
    arena->budget_of = budget_of;
}

/* Takes over what another arena holds. */
static void aqi_arena_absorb(aqi_arena *arena, aqi_arena *from) {
    aqi_arena_block *last = from->blocks;
    if (last == NULL) return;
    while (last->next != NULL) last = last->next;
    last->next = arena->blocks;
    arena->blocks = from->blocks;
    arena->total_bytes += from->total_bytes;
    from->blocks = NULL;
    from->free_bytes = 0;
    from->total_bytes = 0;
}

static void aqi_arena_deinit(aqi_arena *arena) {
    aqi_arena_block *block = arena->blocks;
    while (block != NULL) {
        aqi_arena_block *next = block->next;
        aqi_free(&arena->allocator, block, block->bytes);
        block = next;
    }
    arena->blocks = NULL;
    arena->free_begin = NULL;
    arena->free_bytes = 0;
    arena->total_bytes = 0;
    arena->used_bytes = 0;
}

/* Forgets what it holds but not the memory: the next round of the same size finds it in
 * one block. */
static void aqi_arena_reset(aqi_arena *arena) {
    const size_t header = aqi_round_up(sizeof(aqi_arena_block), 16);
    aqi_arena_block *block = arena->blocks;
    size_t total = arena->total_bytes;
    if (block != NULL && block->next == NULL) {
        arena->free_begin = (uint8_t *)block + header;
        arena->free_bytes = block->bytes - header;
        return;
    }
    aqi_arena_deinit(arena);
    arena->next_bytes = total;
}

/* Takes from the budget, if there is one. */
static bool aqi_arena_afford(aqi_arena *arena, size_t bytes) {
    aqi_arena *owner = arena->budget_of != NULL ? arena->budget_of : arena;
    size_t used;
    if (owner->budget_bytes == 0) return true;
    if (bytes > owner->budget_bytes) return false;
    used = __atomic_add_fetch(&owner->used_bytes, bytes, __ATOMIC_RELAXED);
    if (used <= owner->budget_bytes) return true;
    __atomic_sub_fetch(&owner->used_bytes, bytes, __ATOMIC_RELAXED);
    return false;
}

/* 16-byte aligned, not zeroed, never NULL; AQ_E_LIMIT when the budget is used up. */
static aq_status aqi_arena_take(aqi_arena *arena, size_t bytes, void **out,
                                aq_error *err) {
    const size_t header = aqi_round_up(sizeof(aqi_arena_block), 16);
    /* At most a quarter more than is used; the blocks are few all the same. */
    size_t growth = AQI_MIN(AQI_MAX(arena->total_bytes / 4, 1008), (size_t)1 << 20);
    size_t need, block_bytes;
    aqi_arena_block *block;
    *out = NULL;
    if (!aqi_add_size(AQI_MAX(bytes, (size_t)1), 15, &need))
        return aqi_fail_nomem(err, bytes);
    need &= ~(size_t)15;
    if (need > arena->free_bytes) {
        /* A large piece has a block of its own: the rest of the last one stays in use. */
        bool own = need > growth / 2 && arena->next_bytes == 0;
        block_bytes = own ? need : AQI_MAX(AQI_MAX(need, growth), arena->next_bytes);
        arena->next_bytes = 0;
        if (!aqi_arena_afford(arena, block_bytes)) {
            const aqi_arena *owner = arena->budget_of != NULL ? arena->budget_of : arena;
            return aqi_fail(
                err, AQ_E_LIMIT,
                "more than %zu bytes of memory needed; raise %s if the file is to be "
                "trusted",
                owner->budget_bytes, owner->budget_option);
        }
        if (!aqi_add_size(block_bytes, header, &block_bytes))
            return aqi_fail_nomem(err, bytes);
        block = (aqi_arena_block *)aqi_alloc(&arena->allocator, block_bytes);
        if (block == NULL) return aqi_fail_nomem(err, block_bytes);
        block->next = arena->blocks;
        block->bytes = block_bytes;
        arena->blocks = block;
        arena->total_bytes += block_bytes;
        *out = (uint8_t *)block + header;
        if (own) return AQ_OK;
        arena->free_begin = (uint8_t *)block + header;
        arena->free_bytes = block_bytes - header;
    }
    *out = arena->free_begin;
    arena->free_begin += need;
    arena->free_bytes -= need;
    return AQ_OK;
}

static aq_status aqi_arena_alloc(aqi_arena *arena, size_t bytes, void **out,
                                 aq_error *err) {
    aq_status status = aqi_arena_take(arena, bytes, out, err);
    if (status == AQ_OK && bytes > 0) memset(*out, 0, bytes);
    return status;
}

/* A NUL-terminated copy. */
static aq_status aqi_arena_string(aqi_arena *arena, const void *text, size_t bytes,
                                  char **out, aq_error *err) {
    void *p = NULL;
    aq_status status = aqi_arena_alloc(arena, bytes + 1, &p, err);
    *out = (char *)p;
    if (status == AQ_OK && bytes > 0 && text != NULL) memcpy(p, text, bytes);
    return status;
}

#ifdef AQ_NO_THREADS
typedef int aqi_mutex;
AQI_INLINE bool aqi_mutex_init(aqi_mutex *m) {
    *m = 0;
    return true;
}
AQI_INLINE void aqi_mutex_deinit(aqi_mutex *m) { (void)m; }
AQI_INLINE void aqi_mutex_lock(aqi_mutex *m) { (void)m; }
AQI_INLINE void aqi_mutex_unlock(aqi_mutex *m) { (void)m; }
typedef int aqi_cond;
AQI_INLINE bool aqi_cond_init(aqi_cond *c) {
    *c = 0;
    return true;
}
AQI_INLINE void aqi_cond_deinit(aqi_cond *c) { (void)c; }
AQI_INLINE void aqi_cond_wait(aqi_cond *c, aqi_mutex *m) {
    (void)c;
    (void)m;
    AQ_ASSERT(false); /* nobody else could end the wait */
}
AQI_INLINE void aqi_cond_wake_all(aqi_cond *c) { (void)c; }
#else
typedef pthread_mutex_t aqi_mutex;
AQI_INLINE bool aqi_mutex_init(aqi_mutex *m) { return pthread_mutex_init(m, NULL) == 0; }
AQI_INLINE void aqi_mutex_deinit(aqi_mutex *m) { pthread_mutex_destroy(m); }
AQI_INLINE void aqi_mutex_lock(aqi_mutex *m) { pthread_mutex_lock(m); }
AQI_INLINE void aqi_mutex_unlock(aqi_mutex *m) { pthread_mutex_unlock(m); }
typedef pthread_cond_t aqi_cond;
AQI_INLINE bool aqi_cond_init(aqi_cond *c) { return pthread_cond_init(c, NULL) == 0; }
AQI_INLINE void aqi_cond_deinit(aqi_cond *c) { pthread_cond_destroy(c); }
AQI_INLINE void aqi_cond_wait(aqi_cond *c, aqi_mutex *m) { pthread_cond_wait(c, m); }
AQI_INLINE void aqi_cond_wake_all(aqi_cond *c) { pthread_cond_broadcast(c); }
#endif

typedef struct aqi_idle_buffer {
    uint8_t *data;
    size_t bytes;
} aqi_idle_buffer;

struct aq_pool {
    aq_allocator allocator;
    size_t max_buffers, min_buffer_bytes, max_idle_bytes;
    aqi_mutex lock; /* guards all below */
    aqi_idle_buffer *idle; /* the one released longest ago first */
    size_t num_idle;
    aq_pool_stats stats; /* the ratios are computed when asked for */
};

aq_status aq_pool_create(const aq_pool_options *options, aq_pool **out_pool,
                         aq_error *err) {
    aq_pool_options o;
    aq_allocator a;
    aq_pool *pool;
    size_t idle_bytes;
    aq_status status;
    aqi_error_clear(err);
    *out_pool = NULL;
    memset(&o, 0, sizeof o);
    if (options != NULL) o = *options;
    if (o.max_buffers == 0) o.max_buffers = 16;
    if (o.min_buffer_bytes == 0) o.min_buffer_bytes = (size_t)1 << 20;
    if (o.max_idle_bytes == 0) o.max_idle_bytes = (size_t)256 << 20;
    status = aqi_allocator_resolve(o.allocator, &a, err);
    if (status != AQ_OK) return status;
    if (o.max_buffers > 65536)
        return aqi_fail(err, AQ_E_ARG, "max_buffers %zu; at most 65536", o.max_buffers);
    idle_bytes = o.max_buffers * sizeof(aqi_idle_buffer);
    pool = (aq_pool *)aqi_alloc(&a, sizeof *pool);
    if (pool == NULL) return aqi_fail_nomem(err, sizeof *pool);
    memset(pool, 0, sizeof *pool);
    pool->allocator = a;
    pool->max_buffers = o.max_buffers;
    pool->min_buffer_bytes = o.min_buffer_bytes;
    pool->max_idle_bytes = o.max_idle_bytes;
    pool->idle = (aqi_idle_buffer *)aqi_alloc(&a, idle_bytes);
    if (pool->idle == NULL || !aqi_mutex_init(&pool->lock)) {
        aqi_free(&a, pool->idle, idle_bytes);
        aqi_free(&a, pool, sizeof *pool);
        return aqi_fail_nomem(err, idle_bytes);
    }
    *out_pool = pool;
    return AQ_OK;
}

/* Takes idle buffer i out of the list. The lock is held. */
static aqi_idle_buffer aqi_pool_take(aq_pool *pool, size_t i) {
    aqi_idle_buffer taken = pool->idle[i];
    pool->num_idle--;
    memmove(&pool->idle[i], &pool->idle[i + 1], (pool->num_idle - i) * sizeof taken);
    pool->stats.bytes_idle -= taken.bytes;
    return taken;
}

size_t aq_pool_clear(aq_pool *pool) {
    size_t freed = 0;
    for (;;) {
        aqi_idle_buffer b;
        aqi_mutex_lock(&pool->lock);
        if (pool->num_idle == 0) break;
        b = aqi_pool_take(pool, pool->num_idle - 1);
        aqi_mutex_unlock(&pool->lock);
        pool->allocator.free(pool->allocator.user, b.data, b.bytes);
        freed += b.bytes;
    }
    aqi_mutex_unlock(&pool->lock);
    return freed;
}

void aq_pool_destroy(aq_pool *pool) {
    aq_allocator a;
    if (pool == NULL) return;
    aq_pool_clear(pool);
    a = pool->allocator;
    aqi_mutex_deinit(&pool->lock);
    aqi_free(&a, pool->idle, pool->max_buffers * sizeof(aqi_idle_buffer));
    aqi_free(&a, pool, sizeof *pool);
}

/* Sizes are rounded to an eighth of their power of two, so that near sizes share
 * buffers. */
static bool aqi_pool_round(const aq_pool *pool, size_t bytes, size_t *out) {
    size_t step;
    bytes = AQI_MAX(bytes, pool->min_buffer_bytes);
    step = (size_t)1 << (aqi_bits_needed(bytes) > 10 ? aqi_bits_needed(bytes) - 4 : 6);
    if (!aqi_add_size(bytes, step - 1, out)) return false;
    *out &= ~(step - 1);
    return true;
}

/* Smallest idle buffer of at least `wanted` bytes, at most twice as large; of equals the
 * one released last, which caches may still have; num_idle = none. */
static size_t aqi_pool_best_fit(const aq_pool *pool, size_t wanted) {
    size_t i, best = pool->num_idle;
    for (i = pool->num_idle; i-- > 0;) {
        size_t have = pool->idle[i].bytes;
        if (have < wanted || have / 2 > wanted) continue;
        if (best == pool->num_idle || have < pool->idle[best].bytes) best = i;
        if (have == wanted) break;
    }
    return best;
}

/* Counts a buffer that was handed out. The lock is held. */
static void aqi_pool_count(aq_pool *pool, const aqi_idle_buffer *b) {
    aq_pool_stats *s = &pool->stats;
    s->acquires++;
    s->buffers_in_use++;
    s->bytes_in_use += b->bytes;
    s->peak_bytes = AQI_MAX(s->peak_bytes, s->bytes_in_use + s->bytes_idle);
}

aq_status aq_pool_acquire(aq_pool *pool, size_t bytes, aq_buffer *out_buffer,
                          aq_error *err) {
    aqi_idle_buffer b;
    size_t i;
    aqi_error_clear(err);
    memset(out_buffer, 0, sizeof *out_buffer);
    b.data = NULL;
    if (!aqi_pool_round(pool, bytes, &b.bytes)) return aqi_fail_nomem(err, bytes);
    aqi_mutex_lock(&pool->lock);
    i = aqi_pool_best_fit(pool, b.bytes);
    if (i < pool->num_idle) {
        b = aqi_pool_take(pool, i);
        aqi_pool_count(pool, &b);
        pool->stats.hits++;
        pool->stats.bytes_saved += b.bytes;
    }
    aqi_mutex_unlock(&pool->lock);
    if (b.data == NULL) { /* the allocator may be slow: not under the lock */
        b.data =
            (uint8_t *)pool->allocator.alloc(pool->allocator.user, b.bytes, AQ_ALIGNMENT);
        if (b.data == NULL) return aqi_fail_nomem(err, b.bytes);
        aqi_mutex_lock(&pool->lock);
        aqi_pool_count(pool, &b);
        pool->stats.allocations++;
        aqi_mutex_unlock(&pool->lock);
    }
    out_buffer->data = b.data;
    out_buffer->bytes = b.bytes;
    out_buffer->pool = pool;
    return AQ_OK;
}

void aq_buffer_release(aq_buffer *buffer) {
    aq_pool *pool;
    aqi_idle_buffer mine, victim;
    if (buffer == NULL || buffer->pool == NULL) return;
    pool = buffer->pool;
    mine.data = buffer->data;
    mine.bytes = buffer->bytes;
    memset(buffer, 0, sizeof *buffer);
    aqi_mutex_lock(&pool->lock);
    pool->stats.buffers_in_use--;
    pool->stats.bytes_in_use -= mine.bytes;
    /* Over the budget the oldest idle buffers go; one larger than the budget goes
     * itself. */
    while (mine.bytes <= pool->max_idle_bytes &&
           (pool->num_idle == pool->max_buffers ||
            pool->stats.bytes_idle > pool->max_idle_bytes - mine.bytes)) {
        victim = aqi_pool_take(pool, 0);
        aqi_mutex_unlock(&pool->lock);
        pool->allocator.free(pool->allocator.user, victim.data, victim.bytes);
        aqi_mutex_lock(&pool->lock);
    }
    if (mine.bytes <= pool->max_idle_bytes) {
        pool->idle[pool->num_idle++] = mine;
        pool->stats.bytes_idle += mine.bytes;
        mine.data = NULL;
    }
    aqi_mutex_unlock(&pool->lock);
    if (mine.data != NULL)
        pool->allocator.free(pool->allocator.user, mine.data, mine.bytes);
}

void aq_pool_get_stats(aq_pool *pool, aq_pool_stats *out_stats) {
    aqi_mutex_lock(&pool->lock);
    *out_stats = pool->stats;
    out_stats->buffers_idle = pool->num_idle;
    aqi_mutex_unlock(&pool->lock);
    out_stats->hit_rate =
        (double)out_stats->hits / (double)AQI_MAX(out_stats->acquires, (uint64_t)1);
    out_stats->allocation_reduction =
        (double)out_stats->acquires /
        (double)AQI_MAX(out_stats->allocations, (uint64_t)1);
}

void aq_pool_reset_stats(aq_pool *pool) {
    aqi_mutex_lock(&pool->lock);
    pool->stats.acquires = 0;
    pool->stats.hits = 0;
    pool->stats.allocations = 0;
    pool->stats.bytes_saved = 0;
    pool->stats.peak_bytes = pool->stats.bytes_in_use + pool->stats.bytes_idle;
    aqi_mutex_unlock(&pool->lock);
}

/*==========================================================================
 * MARK: - [54] Threads, tasks (private)
 * One run() at a time has the workers; another that comes meanwhile, also from inside a
 * task, does its work on its own thread, so that nothing can wait for itself. A worker
 * that comes late is not waited for: the gate is closed by then. Whoever waits looks
 * again for some 50 us before it sleeps, which matters to products that take 100 us.
 *========================================================================*/

#ifdef AQ_NO_THREADS

struct aq_threads {
    aq_allocator allocator;
    aq_tasks tasks;
};

static void aqi_threads_run(void *user, size_t n, void (*fn)(void *, size_t), void *arg) {
    size_t i;
    (void)user;
    for (i = 0; i < n; i++) fn(arg, i);
}

aq_status aq_threads_create(uint32_t count, const aq_allocator *allocator,
                            aq_threads **out_threads, aq_error *err) {
    aq_allocator a;
    aq_status status;
    (void)count;
    aqi_error_clear(err);
    *out_threads = NULL;
    status = aqi_allocator_resolve(allocator, &a, err);
    if (status != AQ_OK) return status;
    *out_threads = (aq_threads *)aqi_alloc(&a, sizeof **out_threads);
    if (*out_threads == NULL) return aqi_fail_nomem(err, sizeof **out_threads);
    (*out_threads)->allocator = a;
    (*out_threads)->tasks.run = aqi_threads_run;
    (*out_threads)->tasks.user = *out_threads;
    (*out_threads)->tasks.width = 1;
    return AQ_OK;
}

void aq_threads_destroy(aq_threads *threads) {
    aq_allocator a;
    if (threads == NULL) return;
    a = threads->allocator;
    aqi_free(&a, threads, sizeof *threads);
}

#else

#define AQI_GATE_OPEN 0x80000000u /* the bits below count who is inside */
#define AQI_GATE_INSIDE 0x7fffffffu
#define AQI_SPINS 1000

struct aq_threads {
    aq_allocator allocator;
    aq_tasks tasks;
    uint32_t num_workers;
    pthread_t *workers;
    pthread_mutex_t run_lock; /* held by the run() that has the workers      */
    pthread_mutex_t lock;     /* guards stop, and sleeping until gate changes */
    pthread_cond_t wake, idle;
    uint64_t gate; /* atomic: number of the run in the upper half, open, who is inside */
    bool stop;
    void (*fn)(void *arg, size_t index);
    void *arg;
    size_t n;
    size_t next; /* atomic */
};

static void aqi_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static uint64_t aqi_gate(const aq_threads *t) {
    return __atomic_load_n(&t->gate, __ATOMIC_ACQUIRE);
}

static void aqi_threads_work(aq_threads *t) {
    for (;;) {
        size_t i = __atomic_fetch_add(&t->next, 1, __ATOMIC_RELAXED);
        if (i >= t->n) return;
        t->fn(t->arg, i);
    }
}

/* Waits for another run than `seen`; false to stop. */
static bool aqi_threads_await(aq_threads *t, uint64_t seen) {
    bool stop;
    int i;
    for (i = 0; i < AQI_SPINS; i++) {
        if (aqi_gate(t) >> 32 != seen) return true;
        aqi_pause();
    }
    pthread_mutex_lock(&t->lock);
    while (aqi_gate(t) >> 32 == seen && !t->stop) pthread_cond_wait(&t->wake, &t->lock);
    stop = t->stop;
    pthread_mutex_unlock(&t->lock);
    return !stop;
}

/* Goes in where the gate is open; what the run set before it opened is visible then. */
static bool aqi_threads_enter(aq_threads *t, uint64_t *seen) {
    uint64_t gate = aqi_gate(t);
    for (;;) {
        *seen = gate >> 32;
        if ((gate & AQI_GATE_OPEN) == 0) return false;
        if (__atomic_compare_exchange_n(&t->gate, &gate, gate + 1, false,
                                        __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
            return true;
    }
}

static void *aqi_threads_main(void *arg) {
    aq_threads *t = (aq_threads *)arg;
    uint64_t seen = 0;
    while (aqi_threads_await(t, seen)) {
        if (!aqi_threads_enter(t, &seen)) continue;
        aqi_threads_work(t);
        if (((__atomic_sub_fetch(&t->gate, 1, __ATOMIC_ACQ_REL)) &
             (AQI_GATE_OPEN | AQI_GATE_INSIDE)) == 0) {
            pthread_mutex_lock(&t->lock);
            pthread_cond_signal(&t->idle);
            pthread_mutex_unlock(&t->lock);
        }
    }
    return NULL;
}

static void aqi_threads_run(void *user, size_t n, void (*fn)(void *, size_t), void *arg) {
    aq_threads *t = (aq_threads *)user;
    int i;
    if (n < 2 || t->num_workers == 0 || pthread_mutex_trylock(&t->run_lock) != 0) {
        size_t k;
        for (k = 0; k < n; k++) fn(arg, k);
        return;
    }
    t->fn = fn;
    t->arg = arg;
    t->n = n;
    t->next = 0;
    pthread_mutex_lock(&t->lock);
    __atomic_store_n(&t->gate, ((aqi_gate(t) >> 32) + 1) << 32 | AQI_GATE_OPEN,
                     __ATOMIC_RELEASE);
    pthread_cond_broadcast(&t->wake);
    pthread_mutex_unlock(&t->lock);
    aqi_threads_work(t);
    __atomic_fetch_and(&t->gate, ~(uint64_t)AQI_GATE_OPEN, __ATOMIC_ACQ_REL);
    for (i = 0; i < AQI_SPINS && (aqi_gate(t) & AQI_GATE_INSIDE) != 0; i++) aqi_pause();
    if ((aqi_gate(t) & AQI_GATE_INSIDE) != 0) {
        pthread_mutex_lock(&t->lock);
        while ((aqi_gate(t) & AQI_GATE_INSIDE) != 0)
            pthread_cond_wait(&t->idle, &t->lock);
        pthread_mutex_unlock(&t->lock);
    }
    pthread_mutex_unlock(&t->run_lock);
}

void aq_threads_destroy(aq_threads *threads) {
    aq_allocator a;
    uint32_t i;
    if (threads == NULL) return;
    pthread_mutex_lock(&threads->lock);
    threads->stop = true;
    pthread_cond_broadcast(&threads->wake);
    pthread_mutex_unlock(&threads->lock);
    for (i = 0; i < threads->num_workers; i++) pthread_join(threads->workers[i], NULL);
    pthread_cond_destroy(&threads->idle);
    pthread_cond_destroy(&threads->wake);
    pthread_mutex_destroy(&threads->lock);
    pthread_mutex_destroy(&threads->run_lock);
    a = threads->allocator;
    aqi_free(&a, threads->workers, (threads->tasks.width - 1) * sizeof(pthread_t));
    aqi_free(&a, threads, sizeof *threads);
}

aq_status aq_threads_create(uint32_t count, const aq_allocator *allocator,
                            aq_threads **out_threads, aq_error *err) {
    aq_allocator a;
    aq_threads *t;
    uint32_t i;
    int code;
    aq_status status;
    aqi_error_clear(err);
    *out_threads = NULL;
    status = aqi_allocator_resolve(allocator, &a, err);
    if (status != AQ_OK) return status;
    if (count == 0) {
        long n = sysconf(_SC_NPROCESSORS_ONLN);
        count = n > 0 ? (uint32_t)n : 1;
    }
    if (count > 1024) return aqi_fail(err, AQ_E_ARG, "%u threads; at most 1024", count);
    t = (aq_threads *)aqi_alloc(&a, sizeof *t);
    if (t == NULL) return aqi_fail_nomem(err, sizeof *t);
    memset(t, 0, sizeof *t);
    t->allocator = a;
    t->tasks.run = aqi_threads_run;
    t->tasks.user = t;
    t->tasks.width = count;
    t->workers = (pthread_t *)aqi_alloc(&a, (count - 1) * sizeof(pthread_t));
    if (t->workers == NULL) {
        aqi_free(&a, t, sizeof *t);
        return aqi_fail_nomem(err, (count - 1) * sizeof(pthread_t));
    }
    /* With default attributes these cannot fail on the systems supported. */
    pthread_mutex_init(&t->run_lock, NULL);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->wake, NULL);
    pthread_cond_init(&t->idle, NULL);
    for (i = 0; i + 1 < count; i++) {
        code = pthread_create(&t->workers[i], NULL, aqi_threads_main, t);
        if (code != 0) {
            aq_threads_destroy(t);
            return aqi_fail_os(err, code, "cannot start a thread", "");
        }
        t->num_workers++;
    }
    *out_threads = t;
    return AQ_OK;
}

#endif /* AQ_NO_THREADS */

const aq_tasks *aq_threads_tasks(const aq_threads *threads) { return &threads->tasks; }

/* fn(arg, i) for i in [0, n): through the tasks hook, or here. */
static void aqi_run(const aq_tasks *tasks, size_t n, void (*fn)(void *, size_t),
                    void *arg) {
    size_t i;
    if (tasks != NULL && tasks->run != NULL && n > 1) {
        tasks->run(tasks->user, n, fn, arg);
        return;
    }
    for (i = 0; i < n; i++) fn(arg, i);
}

/*==========================================================================
 * MARK: - [55] Files, mapping, atomic output (private)
 *========================================================================*/

/* Bytes to read: a mapping, the caller's block (both: map != NULL), a descriptor, or a
 * callback. */
typedef struct aqi_source {
    const uint8_t *map;
    int64_t bytes;
    bool unmap;
    int fd; /* -1 = none */
    aq_reader reader;
} aqi_source;

static void aqi_source_init(aqi_source *s) {
    memset(s, 0, sizeof *s);
    s->fd = -1;
}

static void aqi_source_close(aqi_source *s) {
#ifndef AQ_NO_MMAP
    if (s->unmap) {
        void *p;
        memcpy(&p, &s->map, sizeof p); /* munmap takes a pointer to non-const */
        munmap(p, (size_t)s->bytes);
    }
#endif
    if (s->fd >= 0) close(s->fd);
    aqi_source_init(s);
}

static int aqi_open_read(const char *path) {
    int fd;
    do {
        fd = open(path, O_RDONLY | AQI_O_CLOEXEC);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

static aq_status aqi_source_open(aqi_source *s, const char *path, aq_io io,
                                 aq_error *err) {
    struct stat st;
    size_t size;
    aqi_source_init(s);
    if ((int)io < AQ_IO_AUTO || io > AQ_IO_READ)
        return aqi_fail(err, AQ_E_ARG, "io mode %d is none of aq_io", (int)io);
    s->fd = aqi_open_read(path);
    if (s->fd < 0) return aqi_fail_os(err, errno, "cannot open", path);
    if (fstat(s->fd, &st) != 0) {
        aq_status status = aqi_fail_os(err, errno, "cannot stat", path);
        aqi_source_close(s);
        return status;
    }
    if (!S_ISREG(st.st_mode)) {
        aqi_source_close(s);
        return aqi_fail_os(err, S_ISDIR(st.st_mode) ? EISDIR : EINVAL,
                           "not a regular file", path);
    }
    s->bytes = (int64_t)st.st_size;
#ifndef AQ_NO_MMAP
    if (io != AQ_IO_READ && s->bytes > 0 && aqi_to_size(s->bytes, &size)) {
        void *p = mmap(NULL, size, PROT_READ, MAP_PRIVATE, s->fd, 0);
        if (p != MAP_FAILED) {
            s->map = (const uint8_t *)p;
            s->unmap = true;
            close(s->fd); /* a directory of many files must not use up the descriptors */
            s->fd = -1;
            return AQ_OK;
        }
        if (io == AQ_IO_MAP) {
            aq_status status = aqi_fail_os(err, errno, "cannot map", path);
            aqi_source_close(s);
            return status;
        }
    }
#else
    (void)size;
    if (io == AQ_IO_MAP) {
        aqi_source_close(s);
        return aqi_fail(err, AQ_E_UNSUPPORTED,
                        "this build has AQ_NO_MMAP; use AQ_IO_READ");
    }
#endif
    return AQ_OK;
}

/* Pointer to [offset, offset + bytes) where the source is in memory; else NULL. The range
 * lies inside the file: the caller checked. */
AQI_INLINE const uint8_t *aqi_source_view(const aqi_source *s, int64_t offset) {
    return s->map == NULL ? NULL : s->map + offset;
}

static aq_status aqi_pread_all(int fd, int64_t offset, void *dst, size_t bytes,
                               aq_error *err) {
    uint8_t *p = (uint8_t *)dst;
    while (bytes > 0) {
        size_t part = AQI_MIN(bytes, (size_t)1 << 30);
        ssize_t n = AQI_PREAD(fd, p, part, offset);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            int code = errno;
            aqi_fail_at(err, AQ_E_IO, offset, "read failed at offset %lld: %s",
                        (long long)offset, strerror(code));
            if (err != NULL) err->os_errno = code;
            return AQ_E_IO;
        }
        if (n == 0)
            return aqi_fail_at(err, AQ_E_IO, offset,
                               "the file became shorter while open");
        p += n;
        offset += n;
        bytes -= (size_t)n;
    }
    return AQ_OK;
}

/* Asks the system to read a range ahead. */
static void aqi_source_prefetch(const aqi_source *s, int64_t offset, int64_t bytes) {
    int code = errno;
    if (bytes <= 0) return;
#if !defined(AQ_NO_MMAP) && defined(MADV_WILLNEED)
    if (s->unmap) {
        size_t page = (size_t)sysconf(_SC_PAGESIZE), skip = (size_t)offset % page;
        void *p;
        const uint8_t *at = s->map + offset - skip;
        memcpy(&p, &at, sizeof p); /* madvise takes a pointer to non-const */
        if (madvise(p, (size_t)bytes + skip, MADV_WILLNEED) != 0) errno = code;
        return;
    }
#endif
#ifdef POSIX_FADV_WILLNEED
    if (s->fd >= 0 && posix_fadvise(s->fd, offset, bytes, POSIX_FADV_WILLNEED) != 0)
        errno = code;
#endif
    (void)s;
    (void)offset;
    (void)code;
}

#ifndef AQ_NO_WRITER

/* Takes the whole pages of a mapped range from the process; the system's cache may keep
 * them. */
static void aqi_source_release(const aqi_source *s, const uint8_t *p, size_t bytes) {
#if !defined(AQ_NO_MMAP) && defined(MADV_DONTNEED)
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t begin, end;
    const uint8_t *at;
    void *pages;
    int code = errno;
    if (!s->unmap || p == NULL || p < s->map || p >= s->map + s->bytes) return;
    begin = ((size_t)(p - s->map) + page - 1) / page * page;
    end = ((size_t)(p - s->map) + bytes) / page * page;
    if (end <= begin) return;
    at = s->map + begin;
    memcpy(&pages, &at, sizeof pages); /* madvise takes a pointer to non-const */
    if (madvise(pages, end - begin, MADV_DONTNEED) != 0) errno = code;
#else
    (void)s;
    (void)p;
    (void)bytes;
#endif
}

/* Whether files of so many bytes would fill most of the machine's memory. */
static bool aqi_exceeds_memory(uint64_t bytes) {
#ifdef _SC_PHYS_PAGES
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    return pages > 0 && page > 0 && bytes / (uint64_t)page > (uint64_t)pages / 2;
#else
    (void)bytes;
    return false;
#endif
}

/* Lets the system forget what it has cached of a file; bytes = 0: to its end. */
static void aqi_forget_cached(int fd, int64_t offset, int64_t bytes) {
#ifdef POSIX_FADV_DONTNEED
    int code = errno;
    if (fd >= 0 && posix_fadvise(fd, offset, bytes, POSIX_FADV_DONTNEED) != 0)
        errno = code; /* slower for others is all it is */
#else
    (void)fd;
    (void)offset;
    (void)bytes;
#endif
}

#endif /* AQ_NO_WRITER */

/* Fills dst with [offset, offset + bytes), or says that the file does not have them. */
static aq_status aqi_source_read(const aqi_source *s, int64_t offset, void *dst,
                                 size_t bytes, aq_error *err) {
    if (offset < 0 || offset > s->bytes || bytes > (uint64_t)(s->bytes - offset))
        return aqi_fail_at(err, AQ_E_FORMAT, offset,
                           "%zu bytes at offset %lld lie outside the file of %lld bytes",
                           bytes, (long long)offset, (long long)s->bytes);
    if (bytes == 0) return AQ_OK;
    if (s->map != NULL) {
        memcpy(dst, s->map + offset, bytes);
        return AQ_OK;
    }
    if (s->fd >= 0) return aqi_pread_all(s->fd, offset, dst, bytes, err);
    if (s->reader.read(s->reader.user, offset, dst, bytes)) return AQ_OK;
    return aqi_fail_at(err, AQ_E_IO, offset, "the caller's reader failed at offset %lld",
                       (long long)offset);
}

#ifndef AQ_NO_WRITER

/* A file that appears under its name only when it is whole: written to a temporary
 * name in the same directory, synced, renamed, and the directory synced. */
typedef struct aqi_output {
    aq_allocator allocator;
    int fd;
    int64_t offset;  /* file position of the next byte, the buffered ones included */
    char *path;      /* final name */
    char *temp_path; /* NULL before it exists and after the rename */
    size_t path_bytes, temp_bytes; /* allocated */
    uint8_t *buffer;
    size_t buffered;
    bool no_sync;
    bool counting; /* there is no file: only `offset` moves                        */
    bool keep;     /* the temporary file stays when the output is given up         */
} aqi_output;

#define AQI_OUTPUT_BUFFER ((size_t)256 << 10)

static void aqi_output_abort(aqi_output *o) {
    if (o->fd >= 0) close(o->fd);
    if (o->temp_path != NULL && !o->keep) unlink(o->temp_path);
    aqi_free(&o->allocator, o->temp_path, o->temp_bytes);
    aqi_free(&o->allocator, o->path, o->path_bytes);
    aqi_free(&o->allocator, o->buffer, AQI_OUTPUT_BUFFER);
    memset(o, 0, sizeof *o);
    o->fd = -1;
}

/* The output must not be the input under another name, a directory, or a device. */
static aq_status aqi_output_check(const char *path, const char *input_path,
                                  aq_error *err) {
    struct stat out, in;
    if (path == NULL || path[0] == '\0')
        return aqi_fail(err, AQ_E_ARG, "empty output path");
    if (stat(path, &out) != 0) return AQ_OK;
    if (!S_ISREG(out.st_mode)) {
        aqi_fail(err, AQ_E_ARG,
                 "output exists and is not a regular file; choose another name");
        if (err != NULL) aqi_error_set_name(err, path);
        return AQ_E_ARG;
    }
    if (input_path == NULL || stat(input_path, &in) != 0) return AQ_OK;
    if (in.st_dev != out.st_dev || in.st_ino != out.st_ino) return AQ_OK;
    aqi_fail(err, AQ_E_ARG, "output is the input file itself; choose another name");
    if (err != NULL) aqi_error_set_name(err, path);
    return AQ_E_ARG;
}

static size_t aqi_directory_length(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash == NULL ? 0 : (size_t)(slash - path) + 1;
}

/* "DIR/.NAME.suffix" for "DIR/NAME"; NULL = no memory. */
static char *aqi_hidden_path(const aq_allocator *a, const char *path, const char *suffix,
                             size_t *out_bytes) {
    size_t dir = aqi_directory_length(path), name = strlen(path) - dir;
    char *p;
    *out_bytes = dir + name + strlen(suffix) + 3;
    p = (char *)aqi_alloc(a, *out_bytes);
    if (p == NULL) return NULL;
    memcpy(p, path, dir);
    p[dir] = '.';
    memcpy(p + dir + 1, path + dir, name);
    p[dir + 1 + name] = '.';
    strcpy(p + dir + 2 + name, suffix);
    return p;
}

/* A temporary file under a name that the next run will find, of which one process at a
 * time is the owner; it stays when the output is given up. */
static aq_status aqi_output_open_part(aqi_output *o, aq_error *err) {
    size_t bytes;
    char *path = aqi_hidden_path(&o->allocator, o->path, "aq-part", &bytes);
    aq_status status = AQ_OK;
    if (path == NULL) return aqi_fail_nomem(err, strlen(o->path));
    o->fd = open(path, O_RDWR | O_CREAT | AQI_O_CLOEXEC, 0666);
    if (o->fd < 0) {
        status = aqi_fail_os(err, errno, "cannot create the part file", path);
    } else if (flock(o->fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        status = aqi_fail_os(err, EBUSY, "another job is writing this output", o->path);
    }
    if (status != AQ_OK) {
        aqi_free(&o->allocator, path, bytes);
        return status;
    }
    o->temp_path = path;
    o->temp_bytes = bytes;
    o->keep = true;
    return AQ_OK;
}

/* O_EXCL finds a free name; the number only makes the first try likely to succeed. */
static aq_status aqi_output_create_temp(aqi_output *o, aq_error *err) {
    size_t dir = aqi_directory_length(o->path);
    uint64_t number = (uint64_t)getpid() << 20 ^ (uint64_t)(aqi_seconds() * 1e6);
    char *temp = (char *)aqi_alloc(&o->allocator, dir + 48);
    int attempt;
    if (temp == NULL) return aqi_fail_nomem(err, dir + 48);
    memcpy(temp, o->path, dir);
    for (attempt = 0; attempt < 100; attempt++) {
        snprintf(temp + dir, 48, ".aq-%016llx.tmp", (unsigned long long)(number++));
        o->fd = open(temp, O_RDWR | O_CREAT | O_EXCL | AQI_O_CLOEXEC, 0666);
        if (o->fd >= 0) {
            o->temp_path = temp;
            o->temp_bytes = dir + 48;
            return AQ_OK;
        }
        if (errno != EEXIST && errno != EINTR) break;
    }
    aqi_fail_os(err, errno, "cannot create a file in the output's directory", o->path);
    aqi_free(&o->allocator, temp, dir + 48);
    return AQ_E_IO;
}

/* How an output is opened. */
typedef struct aqi_output_options {
    const char *input_path; /* a file that the output must not be; may be NULL */
    bool no_sync, part, counting;
} aqi_output_options;

static aq_status aqi_output_open(aqi_output *o, const char *path,
                                 const aqi_output_options *options,
                                 const aq_allocator *allocator, aq_error *err) {
    const char *input_path = options->input_path;
    aq_status status;
    memset(o, 0, sizeof *o);
    o->fd = -1;
    o->allocator = *allocator;
    o->no_sync = options->no_sync;
    o->counting = options->counting;
    if (o->counting) return AQ_OK;
    status = aqi_output_check(path, input_path, err);
    if (status != AQ_OK) return status;
    o->path_bytes = strlen(path) + 1;
    o->path = (char *)aqi_alloc(allocator, o->path_bytes);
    o->buffer = (uint8_t *)aqi_alloc(allocator, AQI_OUTPUT_BUFFER);
    if (o->path == NULL || o->buffer == NULL) {
        status = aqi_fail_nomem(err, AQI_OUTPUT_BUFFER);
    } else {
        memcpy(o->path, path, o->path_bytes);
        status = options->part ? aqi_output_open_part(o, err)
                               : aqi_output_create_temp(o, err);
    }
    if (status != AQ_OK) aqi_output_abort(o);
    return status;
}

static aq_status aqi_output_pwrite(aqi_output *o, int64_t offset, const uint8_t *src,
                                   size_t bytes, aq_error *err) {
    while (bytes > 0 && !o->counting) {
        ssize_t n = AQI_PWRITE(o->fd, src, AQI_MIN(bytes, (size_t)1 << 30), offset);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0)
            return aqi_fail_os(err, n == 0 ? EIO : errno, "cannot write", o->path);
        src += n;
        offset += n;
        bytes -= (size_t)n;
    }
    return AQ_OK;
}

static aq_status aqi_output_flush(aqi_output *o, aq_error *err) {
    aq_status status = aqi_output_pwrite(o, o->offset - (int64_t)o->buffered, o->buffer,
                                         o->buffered, err);
    o->buffered = 0;
    return status;
}

/* Appends. Large blocks go straight from the caller's memory to the file. */
static aq_status aqi_output_write(aqi_output *o, const void *src, size_t bytes,
                                  aq_error *err) {
    aq_status status = AQ_OK;
    if (bytes == 0) return AQ_OK;
    if (o->counting) {
        o->offset += (int64_t)bytes;
        return AQ_OK;
    }
    if (bytes > AQI_OUTPUT_BUFFER - o->buffered) {
        status = aqi_output_flush(o, err);
        if (status != AQ_OK) return status;
    }
    if (bytes >= AQI_OUTPUT_BUFFER / 2) {
        status = aqi_output_flush(o, err);
        if (status == AQ_OK)
            status = aqi_output_pwrite(o, o->offset, (const uint8_t *)src, bytes, err);
    } else {
        memcpy(o->buffer + o->buffered, src, bytes);
        o->buffered += bytes;
    }
    o->offset += (int64_t)bytes;
    return status;
}

/* Goes on at another offset. What lies between reads as zeros, unless it was written. */
static aq_status aqi_output_seek(aqi_output *o, int64_t offset, aq_error *err) {
    aq_status status = o->offset == offset ? AQ_OK : aqi_output_flush(o, err);
    o->offset = offset;
    return status;
}

/* Drops what was written from `offset` on, and goes on there. */
static aq_status aqi_output_rewind(aqi_output *o, int64_t offset, aq_error *err) {
    aq_status status = aqi_output_seek(o, offset, err);
    if (status == AQ_OK && !o->counting && ftruncate(o->fd, (off_t)offset) != 0)
        status = aqi_fail_os(err, errno, "cannot shorten", o->path);
    return status;
}

/* Puts bytes over others that were written before. */
static aq_status aqi_output_patch(aqi_output *o, int64_t offset, const void *src,
                                  size_t bytes, aq_error *err) {
    aq_status status = aqi_output_flush(o, err);
    if (status != AQ_OK) return status;
    return aqi_output_pwrite(o, offset, (const uint8_t *)src, bytes, err);
}

static aq_status aqi_output_zeros(aqi_output *o, size_t bytes, aq_error *err) {
    static const uint8_t zeros[256] = {0};
    aq_status status = AQ_OK;
    while (bytes > 0 && status == AQ_OK) {
        size_t part = AQI_MIN(bytes, sizeof zeros);
        status = aqi_output_write(o, zeros, part, err);
        bytes -= part;
    }
    return status;
}

/* The rename is durable only when the directory is. Some filesystems cannot sync one. */
static aq_status aqi_sync_directory(const char *path, aq_error *err) {
    char dir[4096];
    size_t n = aqi_directory_length(path);
    int fd, code = 0;
    if (n >= sizeof dir) return aqi_fail_os(err, ENAMETOOLONG, "cannot sync", path);
    memcpy(dir, path, n);
    memcpy(dir + n, n == 0 ? "." : "", n == 0 ? 2 : 1);
    fd = aqi_open_read(dir);
    if (fd < 0) return AQ_OK; /* a directory that may be written but not read */
    if (fsync(fd) != 0 && errno != EINVAL && errno != ENOTSUP) code = errno;
    close(fd);
    return code == 0 ? AQ_OK
                     : aqi_fail_os(err, code, "cannot sync the directory of", path);
}

/* Makes the file visible; on any failure it is gone. Frees the output in any case. */
static aq_status aqi_output_commit(aqi_output *o, aq_error *err) {
    aq_status status = aqi_output_flush(o, err);
    int fd = o->fd;
    if (status == AQ_OK && !o->no_sync && fsync(fd) != 0)
        status = aqi_fail_os(err, errno, "cannot sync", o->path);
    o->fd = -1;
    if (close(fd) != 0 && status == AQ_OK && errno != EINTR)
        status = aqi_fail_os(err, errno, "cannot close", o->path);
    if (status == AQ_OK && rename(o->temp_path, o->path) != 0)
        status = aqi_fail_os(err, errno, "cannot rename to", o->path);
    if (status == AQ_OK) {
        aqi_free(&o->allocator, o->temp_path, o->temp_bytes);
        o->temp_path = NULL;
        if (!o->no_sync) status = aqi_sync_directory(o->path, err);
    }
    aqi_output_abort(o);
    return status;
}

#endif /* AQ_NO_WRITER */

/*==========================================================================
 * MARK: - [60] Kernels: reference (private)
 * Plain scalar C: the definition of every result. Other instruction sets give the same
 * bits: no fused multiply-add, a fixed lane order in sums, round half to even.
 *========================================================================*/

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#endif

#define AQI_DOT_LANES 32
#define AQI_SUM_LANES 8
#define AQI_PIECE 1024u /* values worked on at a time: they stay in the L1 cache */

/* Of finite values min and max; of any values the largest magnitude as bits, which is at
 * least AQI_INF_BITS when a NaN or infinity is among them (then min and max mean
 * nothing). */
typedef struct aqi_range {
    float min, max;
    uint32_t absmax_bits;
} aqi_range;

#define AQI_INF_BITS 0x7f800000u

/* q = round((w - base) * inverse + bias), clamped to [0, max_code]. */
typedef struct aqi_encode {
    float base, inverse, bias, max_code;
} aqi_encode;

typedef struct aqi_decode {
    float scale, zero_point;
} aqi_decode;

/* Sums of a metrics pass, lane = index mod AQI_SUM_LANES. */
typedef struct aqi_sums {
    double aa[AQI_SUM_LANES], bb[AQI_SUM_LANES], ab[AQI_SUM_LANES], dd[AQI_SUM_LANES];
    double max_abs[AQI_SUM_LANES];
} aqi_sums;

/* Codes of `bits` bits each, packed from the least significant bit of src on. `readable`
 * bytes may be read: at least those that the codes take. */
typedef struct aqi_codes {
    const uint8_t *src;
    size_t readable;
    uint32_t bits;
} aqi_codes;

/* Codes of a row from a byte on, and the parameters of their groups. The value of a code
 * is ((levels == NULL ? q : levels[q]) - zero_point) * scale. */
typedef struct aqi_row {
    const uint8_t *codes;
    const float *scales, *zero_points;
    const uint8_t *levels;
    size_t n, group; /* values                                        */
    size_t skip;     /* values of the first group that lie before them */
    uint32_t bits;
} aqi_row;

/* A vector of one-byte codes, in the order of aqi_x8_place. A segment is a part of it
 * that has one scale, and lies in one group of the row's. */
typedef struct aqi_x8 {
    const int8_t *codes;
    const float *scales;
    const float *sums; /* scale * sum of its codes */
    size_t segment;
} aqi_x8;

/* What levels hold. */
typedef struct aqi_level_counts {
    int64_t zeros, maxima;
    uint32_t first;
} aqi_level_counts;

/* Values of a group as steps of a fine grid, for least squares in integers: the sums are
 * exact, so that their order does not matter. A code is ((step - base) * slope >> 16) >>
 * shift, within 0..max_code; step - base is 0 at least. */
typedef struct aqi_fine {
    uint16_t base, slope, shift, max_code;
} aqi_fine;

/* Over the codes q of steps u. */
typedef struct aqi_fine_sums {
    int64_t q, qq, qu;
} aqi_fine_sums;

#define AQI_BLOCK 32u         /* groups that are worked on side by side */
#define AQI_BLOCK_VALUES 256u /* at most in a group of them             */
#define AQI_BLOCK_NONE 0xffffffffu

/* The fine grid of a width: steps a code, and the slope and shift that divide by them
 * exactly. Two codes more than there are fit into it. */
typedef struct aqi_grid {
    uint32_t bits;
    double unit; /* steps between codes; also the step of the least value */
    uint16_t slope, shift;
} aqi_grid;

/* How groups of n values are quantized. */
typedef struct aqi_quantizer {
    uint32_t bits;
    bool symmetric, refine;
    size_t n;
    size_t ahead; /* block: bytes a pass prefetches for each group */
    float max_code, half;
    aqi_grid grid;
    double values, per_value; /* n, 1 / n */
    double center;            /* the step of code `half`, which a symmetric group keeps */
    double sure;              /* a gain, in squared steps, that needs no proof */
} aqi_quantizer;

/* Groups side by side. A loop over them takes the vectors of the function that it is
 * inlined into. */
typedef struct aqi_block {
    float min[AQI_BLOCK], max[AQI_BLOCK];
    uint32_t absmax_bits[AQI_BLOCK];
    float scale[AQI_BLOCK], zero_point[AQI_BLOCK];
    float base[AQI_BLOCK], inverse[AQI_BLOCK], bias[AQI_BLOCK]; /* of aqi_encode */
} aqi_block;

/* Where the codes and parameters of a block go; those of min-max, and a bit of `unsure`
 * for each group that may be better off with them, of `worse` for each that is. */
typedef struct aqi_block_out {
    uint8_t *codes;
    float *scales, *zero_points;
    aqi_block minmax;
    uint32_t unsure, worse; /* worse is a part of unsure; both 0 at first */
} aqi_block_out;

/* X(name, result type, parameters). n counts values and may be 0; no alignment needed.
 *   range    min, max and magnitude of n > 0 values, into *out
 *   encode   codes of n values, one byte each
 *   pack     n one-byte codes to bits-wide codes, least significant bit first; the last
 *            byte is filled with zero bits
 *   unpack   the reverse
 *   unpack32 codes of 0..32 bits to integers; returns the largest, 0 of none
 *   delta32, delta64   codes of 0..64 bits to sums that wrap: each code and `least` are
 *            added to the last sum; returns the last one
 *   join     value i of `width` bytes from the i-th byte of each of `width` streams
 *   split    the reverse
 *   run      how many of n bytes, from the first on, are equal
 *   levels   adds the zeros and those that are max to *out; returns the largest
 *   steps    round((w - base) * inverse) + offset, at most 32767; returns their sum
 *   refit    adds the sums of at most 1024 steps to *out; codes may be NULL
 *   block    quantizes AQI_BLOCK groups that follow each other, of a multiple of 32 and
 *            at most AQI_BLOCK_VALUES values; returns a bit for each that it left undone:
 *            those with a special case, and all where it has no fast way
 *   squares  lanes[i % 8] += (src - (q - zero_point) * scale) squared, in double
 *   decode   dst = (q - zero_point) * scale
 *   expand   the values of a row
 *   dot      lanes[i % 32] += a[i] * b[i]
 *   dot_row  the same with the values of a row for a
 *   dot_x8   with x for b, by segments: the products of codes are summed up exactly in
 *            16 lanes, of a code in the k-th 32-bit word of the row: k % 16; then
 *            lanes[i] += sum i * (scale * x's scale), and
 *            lanes[16 + segment % 16] += (scale * zero_point) * x's sum
 *   sums     the sums of aq_metrics, added to *out
 *   moments  lanes[i % 8] += a[i] - shift, lanes[8 + i % 8] += its square, in double
 *   from_f16, from_bf16   little-endian halves to float32; NaNs of f16 become quiet
 *   to_f16, to_bf16   the reverse, half to even; NaNs become quiet
 *   crc32    of gzip, over a state that starts as 0xffffffff and ends inverted */
#define AQI_KERNELS(X)                                                                   \
    X(range, void, (const float *src, size_t n, aqi_range *out))                         \
    X(encode, void, (const float *src, size_t n, const aqi_encode *how, uint8_t *dst))   \
    X(pack, void, (const uint8_t *src, size_t n, uint32_t bits, uint8_t *dst))           \
    X(unpack, void, (const uint8_t *src, size_t n, uint32_t bits, uint8_t *dst))         \
    X(unpack32, uint32_t, (const aqi_codes *src, size_t n, uint32_t *dst))               \
    X(delta32, uint32_t,                                                                 \
      (const aqi_codes *src, size_t n, uint32_t least, uint32_t last, uint32_t *dst))    \
    X(delta64, uint64_t,                                                                 \
      (const aqi_codes *src, size_t n, uint64_t least, uint64_t last, uint64_t *dst))    \
    X(join, void, (const uint8_t *src, size_t n, size_t width, uint8_t *dst))            \
    X(split, void, (const uint8_t *src, size_t n, size_t width, uint8_t *dst))           \
    X(run, size_t, (const uint8_t *src, size_t n))                                       \
    X(levels, uint32_t,                                                                  \
      (const uint8_t *src, size_t n, uint32_t max, aqi_level_counts *out))               \
    X(steps, int64_t,                                                                    \
      (const float *src, size_t n, float base, float inverse, uint32_t offset,           \
       uint16_t *dst))                                                                   \
    X(refit, void,                                                                       \
      (const uint16_t *src, size_t n, const aqi_fine *how, aqi_fine_sums *out,           \
       uint8_t *codes))                                                                  \
    X(block, uint32_t,                                                                   \
      (const float *src, const aqi_quantizer *z, aqi_block_out *out))                    \
    X(squares, void,                                                                     \
      (const float *src, const uint8_t *codes, size_t n, const aqi_decode *how,          \
       double *lanes))                                                                   \
    X(decode, void,                                                                      \
      (const uint8_t *src, size_t n, float scale, float zero_point, float *dst))         \
    X(expand, void, (const aqi_row *row, float *dst))                                    \
    X(dot, void, (const float *a, const float *b, size_t n, float *lanes))               \
    X(dot_row, void, (const aqi_row *row, const float *x, float *lanes))                 \
    X(dot_x8, void, (const aqi_row *row, const aqi_x8 *x, float *lanes))                 \
    X(sums, void, (const float *a, const float *b, size_t n, aqi_sums *out))             \
    X(moments, void, (const float *a, size_t n, double shift, double *lanes))            \
    X(from_f16, void, (const uint8_t *src, size_t n, float *dst))                        \
    X(from_bf16, void, (const uint8_t *src, size_t n, float *dst))                       \
    X(to_f16, void, (const float *src, size_t n, uint8_t *dst))                          \
    X(to_bf16, void, (const float *src, size_t n, uint8_t *dst))                         \
    X(crc32, uint32_t, (uint32_t state, const uint8_t *src, size_t n))

struct aqi_kernels {
#define AQ_X(name, result, parameters) result(*name) parameters;
    AQI_KERNELS(AQ_X)
#undef AQ_X
    aq_isa isa;
};

AQI_INLINE uint32_t aqi_float_bits(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

AQI_INLINE float aqi_bits_float(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static void aqi_range_ref(const float *src, size_t n, aqi_range *out) {
    float min = src[0], max = src[0];
    uint32_t magnitude = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        uint32_t bits = aqi_float_bits(src[i]) & 0x7fffffffu;
        magnitude = AQI_MAX(magnitude, bits);
        min = src[i] < min ? src[i] : min;
        max = src[i] > max ? src[i] : max;
    }
    out->min =
        min + 0.0f; /* -0 becomes +0: instruction sets disagree on which one is less */
    out->max = max + 0.0f;
    out->absmax_bits = magnitude;
}

static void aqi_encode_ref(const float *src, size_t n, const aqi_encode *how,
                           uint8_t *dst) {
    size_t i;
    for (i = 0; i < n; i++) {
        float t = (src[i] - how->base) * how->inverse + how->bias;
        t = t > 0.0f ? t : 0.0f;
        t = t < how->max_code ? t : how->max_code;
        /* 2^23 + t has no fraction bits left: the addition rounds half to even. */
        dst[i] = (uint8_t)(aqi_float_bits(t + 8388608.0f) & 0xffu);
    }
}

static void aqi_pack_ref(const uint8_t *src, size_t n, uint32_t bits, uint8_t *dst) {
    uint32_t word = 0, have = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        word |= (uint32_t)src[i] << have;
        for (have += bits; have >= 8; have -= 8) {
            *dst++ = (uint8_t)word;
            word >>= 8;
        }
    }
    if (have > 0) *dst = (uint8_t)word;
}

static void aqi_unpack_ref(const uint8_t *src, size_t n, uint32_t bits, uint8_t *dst) {
    const uint64_t low = (1u << bits) - 1u, one = low * 0x0001000100010001;
    const uint64_t two = (low | low << bits) * 0x0000000100000001;
    uint32_t word = 0, have = 0, mask = (1u << bits) - 1u;
    size_t i;
    for (; n >= 8; n -= 8, dst += 8) {
        uint64_t x = 0; /* eight codes, moved apart in halves, quarters, eighths */
        for (i = 0; i < bits; i++) x |= (uint64_t)*src++ << 8 * i;
        x = (x & ((((uint64_t)1) << 4 * bits) - 1)) | x >> 4 * bits << 32;
        x = (x & two) | (x >> 2 * bits & two) << 16;
        x = (x & one) | (x >> bits & one) << 8;
        aqi_store_le64(dst, x);
    }
    for (i = 0; i < n; i++) {
        if (have < bits) {
            word |= (uint32_t)*src++ << have;
            have += 8;
        }
        dst[i] = (uint8_t)(word & mask);
        word >>= bits;
        have -= bits;
    }
}

AQI_INLINE uint64_t aqi_code_at(const aqi_codes *c, size_t i) {
    uint64_t bit = (uint64_t)i * c->bits, low = 0, high = 0;
    size_t at = (size_t)(bit >> 3), k;
    uint32_t shift = (uint32_t)(bit & 7);
    if (c->bits == 0) return 0;
    if (c->readable - at >= 9) {
        low = aqi_load_le64(c->src + at);
        high = c->src[at + 8];
    } else {
        for (k = 0; k < 8 && at + k < c->readable; k++)
            low |= (uint64_t)c->src[at + k] << (8 * k);
    }
    low >>= shift;
    if (shift > 0) low |= high << (64 - shift);
    return low & UINT64_MAX >> (64 - c->bits);
}

/* The codes from the i-th on, a multiple of 8. */
AQI_INLINE aqi_codes aqi_codes_from(const aqi_codes *c, size_t i) {
    aqi_codes rest = *c;
    rest.src += i / 8 * c->bits;
    rest.readable -= i / 8 * c->bits;
    return rest;
}

static uint32_t aqi_unpack32_ref(const aqi_codes *src, size_t n, uint32_t *dst) {
    uint32_t largest = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        dst[i] = (uint32_t)aqi_code_at(src, i);
        largest = AQI_MAX(largest, dst[i]);
    }
    return largest;
}

static uint32_t aqi_delta32_ref(const aqi_codes *src, size_t n, uint32_t least,
                                uint32_t last, uint32_t *dst) {
    size_t i;
    for (i = 0; i < n; i++) dst[i] = last += least + (uint32_t)aqi_code_at(src, i);
    return last;
}

static uint64_t aqi_delta64_ref(const aqi_codes *src, size_t n, uint64_t least,
                                uint64_t last, uint64_t *dst) {
    size_t i;
    for (i = 0; i < n; i++) dst[i] = last += least + aqi_code_at(src, i);
    return last;
}

/* Values of a block: source and destination stay in the cache. */
#define AQI_STREAM_BLOCK 1024

/* Values [begin, n). */
static void aqi_join_from(const uint8_t *src, size_t begin, size_t n, size_t width,
                          uint8_t *dst) {
    size_t end, i, k;
    for (; begin < n; begin = end) {
        end = AQI_MIN(begin + AQI_STREAM_BLOCK, n);
        for (k = 0; k < width; k++) {
            for (i = begin; i < end; i++) dst[i * width + k] = src[k * n + i];
        }
    }
}

static void aqi_split_from(const uint8_t *src, size_t begin, size_t n, size_t width,
                           uint8_t *dst) {
    size_t end, i, k;
    for (; begin < n; begin = end) {
        end = AQI_MIN(begin + AQI_STREAM_BLOCK, n);
        for (k = 0; k < width; k++) {
            for (i = begin; i < end; i++) dst[k * n + i] = src[i * width + k];
        }
    }
}

static void aqi_join_ref(const uint8_t *src, size_t n, size_t width, uint8_t *dst) {
    aqi_join_from(src, 0, n, width, dst);
}

static void aqi_split_ref(const uint8_t *src, size_t n, size_t width, uint8_t *dst) {
    aqi_split_from(src, 0, n, width, dst);
}

/* Eight streams as columns of values [begin, end); of fewer the last one is repeated, and
 * what stands behind a value is overwritten with the next one. */
typedef struct aqi_columns {
    size_t n, begin, end, count, width;
} aqi_columns;

/* How many of n values the columns take: whole sixteens; columns of fewer than 8 bytes
 * reach over their value. */
AQI_INLINE size_t aqi_columns_end(size_t n, size_t width) {
    size_t end = width < 8 ? n - AQI_MIN(n, (size_t)8) : n;
    return width == 0 ? 0 : end / 16 * 16;
}

static size_t aqi_run_ref(const uint8_t *src, size_t n) {
    size_t i = 0;
    while (i < n && src[i] == src[0]) i++;
    return i;
}

static uint32_t aqi_levels_ref(const uint8_t *src, size_t n, uint32_t max,
                               aqi_level_counts *out) {
    uint32_t largest = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        out->zeros += src[i] == 0;
        out->maxima += src[i] == max;
        largest = AQI_MAX(largest, (uint32_t)src[i]);
    }
    return largest;
}

static int64_t aqi_steps_ref(const float *src, size_t n, float base, float inverse,
                             uint32_t offset, uint16_t *dst) {
    int64_t sum = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        float t = (src[i] - base) * inverse;
        /* As in aqi_encode_ref; t is 0 at least. */
        uint32_t u = (aqi_float_bits(t + 8388608.0f) & 0xffffu) + offset;
        dst[i] = (uint16_t)AQI_MIN(u, 32767u);
        sum += dst[i];
    }
    return sum;
}

static void aqi_refit_ref(const uint16_t *src, size_t n, const aqi_fine *how,
                          aqi_fine_sums *out, uint8_t *codes) {
    size_t i;
    for (i = 0; i < n; i++) {
        uint32_t x = src[i] > how->base ? (uint32_t)src[i] - how->base : 0;
        uint32_t q = AQI_MIN((x * how->slope >> 16) >> how->shift, how->max_code);
        out->q += q;
        out->qq += q * q;
        out->qu += q * src[i];
        if (codes != NULL) codes[i] = (uint8_t)q;
    }
}

/* ---- the parameters of groups ---- */

#define AQI_TINY 7.888609052210118e-31f  /* 2^-100 */
#define AQI_HUGE_BITS 0x71800000u        /* of 2^100 */

static const aqi_grid aqi_grids[] = {
    {2, 6553, 10241, 10}, {3, 3640, 18437, 10}, {4, 1927, 17413, 9},
    {5, 992, 16913, 8},   {6, 504, 33289, 8},   {8, 127, 33027, 6}};

static float aqi_max_code(uint32_t bits) { return (float)((1u << bits) - 1u); }

/* Rounding to steps moves the root of a squared error by 0.55 sqrt(n) at most, and that
 * of min-max codes is unit sqrt(n) / 2 at most: with 1.1 n unit gained nothing needs to
 * be measured. */
static void aqi_quantizer_init(aqi_quantizer *z, uint32_t bits, bool symmetric,
                               bool refine, size_t n) {
    size_t k = 0;
    while (aqi_grids[k].bits != bits) k++;
    z->bits = bits;
    z->symmetric = symmetric;
    z->refine = refine;
    z->n = n;
    z->ahead = refine ? n : 2 * n; /* a quarter, or a half, of a group's floats */
    z->max_code = aqi_max_code(bits);
    z->half = (float)(1u << (bits - 1));
    z->grid = aqi_grids[k];
    z->values = (double)n;
    z->per_value = 1.0 / (double)n;
    z->center = z->grid.unit * (1.0 + 0.5 * (double)z->max_code);
    z->sure = 1.1 * (double)n * z->grid.unit;
}

/* Min-max parameters of the first `count` groups. Returns a bit for each that needs more
 * care: not finite, constant, or near the ends of float32. */
AQI_INLINE uint32_t aqi_block_minmax(aqi_block *b, const aqi_quantizer *z, size_t count) {
    uint32_t odd[AQI_BLOCK], all = 0;
    size_t g;
    if (z->symmetric) {
        for (g = 0; g < count; g++) {
            b->scale[g] = 2.0f * aqi_bits_float(b->absmax_bits[g]) / z->max_code;
            b->zero_point[g] = z->half;
            b->base[g] = 0.0f;
            b->bias[g] = z->half;
        }
    } else {
        for (g = 0; g < count; g++) {
            b->scale[g] = (b->max[g] - b->min[g]) / z->max_code;
            b->zero_point[g] = (0.0f - b->min[g]) / b->scale[g];
            b->base[g] = b->min[g];
            b->bias[g] = 0.0f;
        }
    }
    for (g = 0; g < count; g++) {
        b->inverse[g] = 1.0f / b->scale[g];
        odd[g] = (b->min[g] == b->max[g]) | (b->absmax_bits[g] > AQI_HUGE_BITS) |
                 !(b->scale[g] >= AQI_TINY);
    }
    for (g = 0; g < count; g++) all |= odd[g] << g;
    return all;
}

/* Groups under refinement. In steps, code 0 is at `low`, a code is `scale` steps. */
typedef struct aqi_refits {
    float base[AQI_BLOCK], inverse[AQI_BLOCK];    /* of the steps kernel             */
    int32_t from[AQI_BLOCK], slope[AQI_BLOCK];    /* of aqi_fine                     */
    double u[AQI_BLOCK];                          /* sum of steps                    */
    double q[AQI_BLOCK], qq[AQI_BLOCK], qu[AQI_BLOCK]; /* of the last codes          */
    double first[AQI_BLOCK], last[AQI_BLOCK];     /* steps of the codes tried last   */
    double scale[AQI_BLOCK], low[AQI_BLOCK];      /* best for them                   */
    double error[AQI_BLOCK];
    double usable[AQI_BLOCK];                     /* 1 or 0                          */
} aqi_refits;

/* Squared errors, in steps, but for the sum of squared steps, which is the same for all
 * codes. */
AQI_INLINE double aqi_refit_error(const aqi_refits *r, size_t g, double n, double scale,
                                  double low) {
    double own = scale * scale * r->qq[g] + 2.0 * (scale * low) * r->q[g] + n * low * low;
    return own - (2.0 * scale * r->qu[g] + 2.0 * low * r->u[g]);
}

/* To min-max codes, from the parameters of the block. */
AQI_INLINE void aqi_refits_begin(aqi_refits *r, const aqi_block *b,
                                 const aqi_quantizer *z, size_t count) {
    double unit = z->grid.unit, low = unit;
    size_t g;
    if (z->symmetric) low = z->center - (double)z->half * unit;
    for (g = 0; g < count; g++) {
        float min = b->min[g], magnitude = aqi_bits_float(b->absmax_bits[g]);
        r->base[g] = z->symmetric ? 0.0f - magnitude : min;
        r->inverse[g] = (float)unit / b->scale[g];
        r->first[g] = low;
        r->last[g] = low + (double)z->max_code * unit;
        r->usable[g] = 1.0;
        r->from[g] = (int32_t)(low - (double)((uint32_t)unit / 2));
        r->slope[g] = z->grid.slope;
    }
}

/* Scale and low of the least squared error for codes of these sums; unusable where all
 * codes are the same. */
AQI_INLINE void aqi_refits_solve(aqi_refits *r, const aqi_quantizer *z, size_t count) {
    double n = z->values, half = (double)z->half, center = z->center;
    double above[AQI_BLOCK], below[AQI_BLOCK];
    size_t g;
    if (z->symmetric) {
        for (g = 0; g < count; g++) {
            above[g] = r->qu[g] - half * r->u[g] - center * r->q[g] + n * half * center;
            below[g] = r->qq[g] - 2.0 * half * r->q[g] + n * half * half;
        }
    } else {
        for (g = 0; g < count; g++) {
            above[g] = n * r->qu[g] - r->q[g] * r->u[g];
            below[g] = n * r->qq[g] - r->q[g] * r->q[g];
        }
    }
    for (g = 0; g < count; g++) {
        double usable = r->usable[g], up = above[g], down = below[g];
        usable = up > 0.0 ? usable : 0.0;
        usable = down > 0.0 ? usable : 0.0;
        r->usable[g] = usable;
        up = usable > 0.0 ? up : 1.0;
        down = usable > 0.0 ? down : 1.0;
        r->scale[g] = up / down;
    }
    if (z->symmetric) {
        for (g = 0; g < count; g++) r->low[g] = center - half * r->scale[g];
    } else {
        for (g = 0; g < count; g++)
            r->low[g] = (r->u[g] - r->scale[g] * r->q[g]) * z->per_value;
    }
}

/* To the codes nearest to first and last. */
AQI_INLINE void aqi_refits_place(aqi_refits *r, const aqi_quantizer *z, size_t count) {
    double whole = (double)(1u << (16 + z->grid.shift)), least = whole / 65535.0;
    double per_code = 1.0 / (double)z->max_code;
    size_t g;
    for (g = 0; g < count; g++) {
        double scale = (r->last[g] - r->first[g]) * per_code, from;
        scale = scale > least ? scale : least;
        from = r->first[g] - scale * 0.5;
        from = from > 0.0 ? from : 0.0;
        from = from < 32767.0 ? from : 32767.0;
        r->from[g] = (int32_t)(from + 0.5);
        r->slope[g] = (int32_t)(whole / scale + 0.5);
    }
}

/* Goes the way of least squares `far` times as far: by itself it stops too early. */
AQI_INLINE void aqi_refits_go(aqi_refits *r, const aqi_quantizer *z, double far,
                              size_t count) {
    double max_code = (double)z->max_code;
    size_t g;
    for (g = 0; g < count; g++) {
        double last = r->low[g] + r->scale[g] * max_code;
        r->last[g] += (last - r->last[g]) * far;
        r->first[g] += (r->low[g] - r->first[g]) * far;
    }
    aqi_refits_place(r, z, count);
}

#define AQI_REFIT_PASSES 2

AQI_INLINE double aqi_refit_far(const aqi_quantizer *z, size_t pass) {
    return pass == 0 && z->bits > 2 ? 3.0 : 2.0;
}

/* r->error = by how much the squared error, in steps, went down since `begin`; the
 * refined parameters to b, which keeps the encoding of min-max. */
AQI_INLINE void aqi_refits_end(aqi_refits *r, aqi_block *b, const aqi_quantizer *z,
                               size_t count) {
    double n = z->values, unit = z->grid.unit, per_unit = 1.0 / unit;
    size_t g;
    for (g = 0; g < count; g++) {
        double step = (double)b->scale[g] * per_unit;
        double low = (double)r->base[g] + (r->low[g] - unit) * step;
        float scale = (float)(r->scale[g] * step);
        r->error[g] -= aqi_refit_error(r, g, n, r->scale[g], r->low[g]);
        b->scale[g] = scale;
        b->zero_point[g] = (float)((0.0 - low) / (double)scale);
    }
    for (g = 0; g < count && z->symmetric; g++) b->zero_point[g] = z->half;
    for (g = 0; g < count; g++) {
        double usable = r->usable[g];
        usable = b->scale[g] >= AQI_TINY ? usable : 0.0;
        usable = b->zero_point[g] <= 256.0f ? usable : 0.0;
        usable = b->zero_point[g] >= -256.0f ? usable : 0.0;
        r->usable[g] = usable;
    }
}

/* Widths that fill bytes, and sums that fit 32 bits. */
AQI_INLINE bool aqi_block_takes(const aqi_quantizer *z) {
    return 8 % z->bits == 0 && z->n <= AQI_BLOCK_VALUES;
}

/* What an instruction set does for a block. `ahead` is prefetched. */
typedef struct aqi_block_ops {
    void (*ranges)(const float *src, const aqi_quantizer *z, aqi_block *b,
                   const char *ahead);
    void (*encodes)(const float *src, const aqi_quantizer *z, const aqi_block *b,
                    uint8_t *codes, const char *ahead);
    void (*steps)(const float *src, const aqi_quantizer *z, aqi_refits *r,
                  uint16_t *steps, const char *ahead);
    void (*refits)(const uint16_t *steps, const aqi_quantizer *z, aqi_refits *r,
                   uint8_t *codes, const char *ahead);
} aqi_block_ops;

/* The block kernel, inlined into one of each instruction set. The next block is fetched
 * while this one is worked on, a part in each pass. */
AQI_INLINE uint32_t aqi_block_body(const aqi_block_ops *ops, const float *src,
                                   const aqi_quantizer *z, aqi_block_out *out) {
    uint16_t steps[AQI_BLOCK * AQI_BLOCK_VALUES];
    const aqi_quantizer own = *z; /* nothing stored below can change it */
    const char *ahead = (const char *)(src + AQI_BLOCK * own.n);
    const size_t part = AQI_BLOCK * own.ahead,
                 code_bytes = AQI_BLOCK * own.n / 8 * own.bits;
    aqi_block *b = &out->minmax, refined;
    aqi_refits r;
    uint32_t undone;
    size_t pass, g;
    ops->ranges(src, z, b, ahead);
    undone = aqi_block_minmax(b, &own, AQI_BLOCK);
    if (!own.refine) {
        ops->encodes(src, z, b, out->codes, ahead + part);
        memcpy(out->scales, b->scale, sizeof b->scale);
        memcpy(out->zero_points, b->zero_point, sizeof b->zero_point);
        return undone;
    }
    if (undone != 0) return AQI_BLOCK_NONE;
    for (g = 0; g < code_bytes; g += 64)
        __builtin_prefetch(out->codes + code_bytes + g, 1);
    aqi_refits_begin(&r, b, &own, AQI_BLOCK);
    ops->steps(src, z, &r, steps, ahead + part);
    for (g = 0; g < AQI_BLOCK; g++)
        r.error[g] = aqi_refit_error(&r, g, own.values, own.grid.unit, r.first[g]);
    for (pass = 0; pass < AQI_REFIT_PASSES; pass++) {
        aqi_refits_solve(&r, &own, AQI_BLOCK);
        aqi_refits_go(&r, &own, aqi_refit_far(&own, pass), AQI_BLOCK);
        ops->refits(steps, z, &r, pass + 1 < AQI_REFIT_PASSES ? NULL : out->codes,
                    ahead + (pass + 2) * part);
    }
    aqi_refits_solve(&r, &own, AQI_BLOCK);
    memcpy(refined.scale, b->scale, sizeof b->scale);
    aqi_refits_end(&r, &refined, &own, AQI_BLOCK);
    for (g = 0; g < AQI_BLOCK; g++) {
        double error = r.error[g];
        r.error[g] = r.usable[g] > 0.0 ? error : -1.0;
    }
    for (g = 0; g < AQI_BLOCK; g++) {
        out->unsure |= (r.error[g] >= own.sure ? 0u : 1u) << g;
        out->worse |= (r.error[g] > 0.0 ? 0u : 1u) << g;
    }
    memcpy(out->scales, refined.scale, sizeof refined.scale);
    memcpy(out->zero_points, refined.zero_point, sizeof refined.zero_point);
    return 0;
}

static uint32_t aqi_block_ref(const float *src, const aqi_quantizer *z,
                              aqi_block_out *out) {
    (void)src;
    (void)z;
    (void)out;
    return AQI_BLOCK_NONE;
}

static void aqi_squares_ref(const float *src, const uint8_t *codes, size_t n,
                            const aqi_decode *how, double *lanes) {
    size_t i;
    for (i = 0; i < n; i++) {
        float w = ((float)codes[i] - how->zero_point) * how->scale;
        double d = (double)src[i] - (double)w;
        lanes[i % AQI_SUM_LANES] += d * d;
    }
}

static void aqi_decode_ref(const uint8_t *src, size_t n, float scale, float zero_point,
                           float *dst) {
    size_t i;
    for (i = 0; i < n; i++) dst[i] = ((float)src[i] - zero_point) * scale;
}

static void aqi_dot_ref(const float *a, const float *b, size_t n, float *lanes) {
    size_t i;
    for (i = 0; i < n; i++) lanes[i % AQI_DOT_LANES] += a[i] * b[i];
}

/* Kernels that make others of an instruction set. */
typedef struct aqi_row_ops {
    void (*unpack)(const uint8_t *src, size_t n, uint32_t bits, uint8_t *dst);
    void (*decode)(const uint8_t *src, size_t n, float scale, float zero_point,
                   float *dst);
    void (*dot)(const float *a, const float *b, size_t n, float *lanes);
} aqi_row_ops;

/* The row from its i-th value on, a multiple of 8. */
AQI_INLINE aqi_row aqi_row_from(const aqi_row *row, size_t i) {
    aqi_row rest = *row;
    size_t at = row->skip + i;
    rest.codes += i / 8 * row->bits;
    rest.scales += at / row->group;
    rest.zero_points += at / row->group;
    rest.skip = at % row->group;
    rest.n -= i;
    return rest;
}

/* Any row, by the kernels for one-byte codes. */
static void aqi_expand_by(const aqi_row_ops *ops, const aqi_row *row, float *dst) {
    uint8_t room[AQI_PIECE];
    size_t done, part, at, g, m, i;
    for (done = 0; done < row->n; done += part) {
        part = AQI_MIN(row->n - done, (size_t)AQI_PIECE);
        ops->unpack(row->codes + done / 8 * row->bits, part, row->bits, room);
        for (i = 0; i < part && row->levels != NULL; i++) room[i] = row->levels[room[i]];
        for (at = 0; at < part; at += m) {
            g = (row->skip + done + at) / row->group;
            m = AQI_MIN(part - at, row->group - (row->skip + done + at) % row->group);
            ops->decode(room + at, m, row->scales[g], row->zero_points[g],
                        dst + done + at);
        }
    }
}

static void aqi_dot_row_by(const aqi_row_ops *ops, const aqi_row *row, const float *x,
                           float *lanes) {
    float w[AQI_PIECE];
    size_t done;
    for (done = 0; done < row->n; done += AQI_PIECE) {
        aqi_row piece = aqi_row_from(row, done);
        piece.n = AQI_MIN(piece.n, (size_t)AQI_PIECE);
        aqi_expand_by(ops, &piece, w);
        ops->dot(w, x + done, piece.n, lanes);
    }
}

static const aqi_row_ops aqi_row_ops_ref = {aqi_unpack_ref, aqi_decode_ref, aqi_dot_ref};

static void aqi_expand_ref(const aqi_row *row, float *dst) {
    aqi_expand_by(&aqi_row_ops_ref, row, dst);
}

static void aqi_dot_row_ref(const aqi_row *row, const float *x, float *lanes) {
    aqi_dot_row_by(&aqi_row_ops_ref, row, x, lanes);
}

/* ---- integer dot products ---- */

#define AQI_X8_LANES 16u
#define AQI_X8_BYTES 64u /* of a row's codes in a block */

/* Where a block's i-th code of x is: as the codes of the row lie in their bytes, first
 * those in the lowest bits of each byte, then the next. In order where codes straddle
 * bytes. */
AQI_INLINE size_t aqi_x8_place(uint32_t bits, size_t i) {
    size_t per = 8 % bits == 0 ? 8 / bits : 1, block = per * AQI_X8_BYTES;
    return i / block * block + i % per * AQI_X8_BYTES + i % block / per;
}

/* Room for n codes of x. */
AQI_INLINE size_t aqi_x8_room(uint32_t bits, size_t n) {
    size_t block = (8 % bits == 0 ? 8 / bits : 1) * AQI_X8_BYTES;
    return (n / block + (n % block != 0)) * block;
}

/* Adds the products of segment s, values [begin, end). */
static void aqi_dot_x8_segment(const aqi_row *row, const aqi_x8 *x, size_t s,
                               size_t begin, float *lanes) {
    size_t end = AQI_MIN(begin + x->segment, row->n), g = begin / row->group, i, words;
    int64_t sums[AQI_X8_LANES] = {0};
    float scale = row->scales[g] * x->scales[s];
    aqi_codes codes;
    codes.src = row->codes;
    codes.readable = (row->n * row->bits + 7) / 8;
    codes.bits = row->bits;
    for (i = begin; i < end; i++) {
        uint32_t q = (uint32_t)aqi_code_at(&codes, i);
        if (row->levels != NULL) q = row->levels[q];
        sums[i * row->bits / 32 % AQI_X8_LANES] +=
            (int64_t)q * x->codes[aqi_x8_place(row->bits, i)];
    }
    words = ((begin + x->segment) * row->bits - 1) / 32 - begin * row->bits / 32 + 1;
    for (i = 0; i < AQI_MIN(words, AQI_X8_LANES); i++) {
        size_t lane = (begin * row->bits / 32 + i) % AQI_X8_LANES;
        lanes[lane] += (float)sums[lane] * scale;
    }
    lanes[AQI_X8_LANES + s % AQI_X8_LANES] +=
        (row->scales[g] * row->zero_points[g]) * x->sums[s];
}

/* row->skip is 0. */
static void aqi_dot_x8_ref(const aqi_row *row, const aqi_x8 *x, float *lanes) {
    size_t begin, s = 0;
    for (begin = 0; begin < row->n; begin += x->segment, s++)
        aqi_dot_x8_segment(row, x, s, begin, lanes);
}

/* ---- what instruction sets do by vectors ---- */

#define AQI_ROW_AHEAD 16384u /* bytes of codes fetched ahead */

/* Whether groups are of whole vectors, and codes of 2, 4 or 8 bits. */
AQI_INLINE bool aqi_row_is_even(const aqi_row *row) {
    return row->skip == 0 && (row->group % 32 == 0 || row->group == 16) &&
           (row->bits == 2 || row->bits == 4 || (row->bits == 8 && row->levels == NULL));
}

/* Whether blocks are cut by segments into equal parts, or segments into blocks; and no
 * sum of 32 bits can overflow. */
AQI_INLINE bool aqi_x8_is_even(const aqi_row *row, const aqi_x8 *x) {
    size_t bytes = x->segment * row->bits / 8;
    return (row->bits == 2 || row->bits == 4 ||
            (row->bits == 8 && row->levels == NULL)) &&
           x->segment * row->bits % 32 == 0 && x->segment <= 65536 &&
           (bytes >= AQI_X8_BYTES ? bytes % AQI_X8_BYTES == 0
                                  : AQI_X8_BYTES % bytes == 0);
}

#define AQI_X8_TERMS 64u /* segments, of whole blocks */

/* Of segments [first, first + count): the products of scales, zero_terms the products of
 * the zero terms; AQI_X8_TERMS of each, 0 beyond count. */
AQI_INLINE void aqi_x8_terms(const aqi_row *row, const aqi_x8 *x, size_t first,
                             size_t count, float *scales, float *zero_terms) {
    const float *s = row->scales + first, *z = row->zero_points + first;
    float own[2 * AQI_X8_TERMS];
    size_t i, g;
    memset(scales, 0, AQI_X8_TERMS * sizeof *scales);
    memset(zero_terms, 0, AQI_X8_TERMS * sizeof *zero_terms);
    if (x->segment != row->group) {
        for (i = 0; i < count; i++) {
            g = (first + i) * x->segment / row->group;
            own[i] = row->scales[g];
            own[AQI_X8_TERMS + i] = row->zero_points[g];
        }
        s = own;
        z = own + AQI_X8_TERMS;
    }
    for (i = 0; i + AQI_X8_LANES <= count; i += AQI_X8_LANES) {
        const float *xs = x->scales + first + i, *sums = x->sums + first + i;
        size_t k;
        for (k = 0; k < AQI_X8_LANES; k++) {
            scales[i + k] = s[i + k] * xs[k];
            zero_terms[i + k] = (s[i + k] * z[i + k]) * sums[k];
        }
    }
    for (; i < count; i++) {
        scales[i] = s[i] * x->scales[first + i];
        zero_terms[i] = (s[i] * z[i]) * x->sums[first + i];
    }
}

static void aqi_sums_ref(const float *a, const float *b, size_t n, aqi_sums *out) {
    size_t i;
    for (i = 0; i < n; i++) {
        size_t lane = i % AQI_SUM_LANES;
        double x = (double)a[i], y = (double)b[i], d = x - y;
        out->aa[lane] += x * x;
        out->bb[lane] += y * y;
        out->ab[lane] += x * y;
        out->dd[lane] += d * d;
        d = d < 0.0 ? -d : d;
        out->max_abs[lane] = d > out->max_abs[lane] ? d : out->max_abs[lane];
    }
}

static void aqi_moments_ref(const float *a, size_t n, double shift, double *lanes) {
    size_t i;
    for (i = 0; i < n; i++) {
        double d = (double)a[i] - shift;
        lanes[i % AQI_SUM_LANES] += d;
        lanes[AQI_SUM_LANES + i % AQI_SUM_LANES] += d * d;
    }
}

static void aqi_from_f16_ref(const uint8_t *src, size_t n, float *dst) {
    size_t i;
    for (i = 0; i < n; i++) {
        uint32_t half = (uint32_t)src[2 * i] | (uint32_t)src[2 * i + 1] << 8;
        uint32_t sign = (half & 0x8000u) << 16, exponent = half >> 10 & 0x1fu;
        uint32_t fraction = half & 0x3ffu;
        if (exponent == 31 && fraction != 0) {
            dst[i] = aqi_bits_float(sign | 0x7fc00000u | fraction << 13);
        } else if (exponent == 31) {
            dst[i] = aqi_bits_float(sign | AQI_INF_BITS);
        } else if (exponent != 0) {
            dst[i] = aqi_bits_float(sign | (exponent + 112u) << 23 | fraction << 13);
        } else {
            /* Subnormal: fraction * 2^-24, exact; the sign is put on as a bit for -0. */
            float f = (float)fraction * 5.9604644775390625e-8f;
            dst[i] = aqi_bits_float(sign | aqi_float_bits(f));
        }
    }
}

/* Half to even; above 65504 infinity. */
static uint16_t aqi_f16_of(float f) {
    uint32_t bits = aqi_float_bits(f), sign = bits >> 16 & 0x8000u, half;
    bits &= 0x7fffffffu;
    if (bits >= AQI_INF_BITS) /* a NaN stays one, quiet */
        return (uint16_t)(sign | 0x7c00u |
                          (bits > AQI_INF_BITS ? 0x200u | (bits >> 13 & 0x3ffu) : 0));
    if (bits >= 0x38800000u) { /* 2^-14: normal; a carry goes into the exponent */
        half = bits + 0xfffu + (bits >> 13 & 1u);
        half = half >= 0x47800000u ? 0x7c00u : (half - 0x38000000u) >> 13;
    } else { /* the sum's last place is 2^-24: the addition rounds */
        half = aqi_float_bits(aqi_bits_float(bits) + 0.5f) - 0x3f000000u;
    }
    return (uint16_t)(sign | half);
}

static void aqi_from_bf16_ref(const uint8_t *src, size_t n, float *dst) {
    size_t i;
    for (i = 0; i < n; i++)
        dst[i] =
            aqi_bits_float((uint32_t)src[2 * i] << 16 | (uint32_t)src[2 * i + 1] << 24);
}

static void aqi_to_f16_ref(const float *src, size_t n, uint8_t *dst) {
    size_t i;
    for (i = 0; i < n; i++) aqi_store_le16(dst + 2 * i, aqi_f16_of(src[i]));
}

static void aqi_to_bf16_ref(const float *src, size_t n, uint8_t *dst) {
    size_t i;
    for (i = 0; i < n; i++) {
        uint32_t bits = aqi_float_bits(src[i]);
        if ((bits & 0x7fffffffu) > AQI_INF_BITS) {
            bits |= 0x400000u;
        } else {
            bits += 0x7fffu + (bits >> 16 & 1u);
        }
        aqi_store_le16(dst + 2 * i, bits >> 16);
    }
}

/* Remainders of the reflected polynomial 0xedb88320 for each byte. */
static const uint32_t aqi_crc32_table[256] = {
    0x00000000u, 0x77073096u, 0xee0e612cu, 0x990951bau, 0x076dc419u, 0x706af48fu,
    0xe963a535u, 0x9e6495a3u, 0x0edb8832u, 0x79dcb8a4u, 0xe0d5e91eu, 0x97d2d988u,
    0x09b64c2bu, 0x7eb17cbdu, 0xe7b82d07u, 0x90bf1d91u, 0x1db71064u, 0x6ab020f2u,
    0xf3b97148u, 0x84be41deu, 0x1adad47du, 0x6ddde4ebu, 0xf4d4b551u, 0x83d385c7u,
    0x136c9856u, 0x646ba8c0u, 0xfd62f97au, 0x8a65c9ecu, 0x14015c4fu, 0x63066cd9u,
    0xfa0f3d63u, 0x8d080df5u, 0x3b6e20c8u, 0x4c69105eu, 0xd56041e4u, 0xa2677172u,
    0x3c03e4d1u, 0x4b04d447u, 0xd20d85fdu, 0xa50ab56bu, 0x35b5a8fau, 0x42b2986cu,
    0xdbbbc9d6u, 0xacbcf940u, 0x32d86ce3u, 0x45df5c75u, 0xdcd60dcfu, 0xabd13d59u,
    0x26d930acu, 0x51de003au, 0xc8d75180u, 0xbfd06116u, 0x21b4f4b5u, 0x56b3c423u,
    0xcfba9599u, 0xb8bda50fu, 0x2802b89eu, 0x5f058808u, 0xc60cd9b2u, 0xb10be924u,
    0x2f6f7c87u, 0x58684c11u, 0xc1611dabu, 0xb6662d3du, 0x76dc4190u, 0x01db7106u,
    0x98d220bcu, 0xefd5102au, 0x71b18589u, 0x06b6b51fu, 0x9fbfe4a5u, 0xe8b8d433u,
    0x7807c9a2u, 0x0f00f934u, 0x9609a88eu, 0xe10e9818u, 0x7f6a0dbbu, 0x086d3d2du,
    0x91646c97u, 0xe6635c01u, 0x6b6b51f4u, 0x1c6c6162u, 0x856530d8u, 0xf262004eu,
    0x6c0695edu, 0x1b01a57bu, 0x8208f4c1u, 0xf50fc457u, 0x65b0d9c6u, 0x12b7e950u,
    0x8bbeb8eau, 0xfcb9887cu, 0x62dd1ddfu, 0x15da2d49u, 0x8cd37cf3u, 0xfbd44c65u,
    0x4db26158u, 0x3ab551ceu, 0xa3bc0074u, 0xd4bb30e2u, 0x4adfa541u, 0x3dd895d7u,
    0xa4d1c46du, 0xd3d6f4fbu, 0x4369e96au, 0x346ed9fcu, 0xad678846u, 0xda60b8d0u,
    0x44042d73u, 0x33031de5u, 0xaa0a4c5fu, 0xdd0d7cc9u, 0x5005713cu, 0x270241aau,
    0xbe0b1010u, 0xc90c2086u, 0x5768b525u, 0x206f85b3u, 0xb966d409u, 0xce61e49fu,
    0x5edef90eu, 0x29d9c998u, 0xb0d09822u, 0xc7d7a8b4u, 0x59b33d17u, 0x2eb40d81u,
    0xb7bd5c3bu, 0xc0ba6cadu, 0xedb88320u, 0x9abfb3b6u, 0x03b6e20cu, 0x74b1d29au,
    0xead54739u, 0x9dd277afu, 0x04db2615u, 0x73dc1683u, 0xe3630b12u, 0x94643b84u,
    0x0d6d6a3eu, 0x7a6a5aa8u, 0xe40ecf0bu, 0x9309ff9du, 0x0a00ae27u, 0x7d079eb1u,
    0xf00f9344u, 0x8708a3d2u, 0x1e01f268u, 0x6906c2feu, 0xf762575du, 0x806567cbu,
    0x196c3671u, 0x6e6b06e7u, 0xfed41b76u, 0x89d32be0u, 0x10da7a5au, 0x67dd4accu,
    0xf9b9df6fu, 0x8ebeeff9u, 0x17b7be43u, 0x60b08ed5u, 0xd6d6a3e8u, 0xa1d1937eu,
    0x38d8c2c4u, 0x4fdff252u, 0xd1bb67f1u, 0xa6bc5767u, 0x3fb506ddu, 0x48b2364bu,
    0xd80d2bdau, 0xaf0a1b4cu, 0x36034af6u, 0x41047a60u, 0xdf60efc3u, 0xa867df55u,
    0x316e8eefu, 0x4669be79u, 0xcb61b38cu, 0xbc66831au, 0x256fd2a0u, 0x5268e236u,
    0xcc0c7795u, 0xbb0b4703u, 0x220216b9u, 0x5505262fu, 0xc5ba3bbeu, 0xb2bd0b28u,
    0x2bb45a92u, 0x5cb36a04u, 0xc2d7ffa7u, 0xb5d0cf31u, 0x2cd99e8bu, 0x5bdeae1du,
    0x9b64c2b0u, 0xec63f226u, 0x756aa39cu, 0x026d930au, 0x9c0906a9u, 0xeb0e363fu,
    0x72076785u, 0x05005713u, 0x95bf4a82u, 0xe2b87a14u, 0x7bb12baeu, 0x0cb61b38u,
    0x92d28e9bu, 0xe5d5be0du, 0x7cdcefb7u, 0x0bdbdf21u, 0x86d3d2d4u, 0xf1d4e242u,
    0x68ddb3f8u, 0x1fda836eu, 0x81be16cdu, 0xf6b9265bu, 0x6fb077e1u, 0x18b74777u,
    0x88085ae6u, 0xff0f6a70u, 0x66063bcau, 0x11010b5cu, 0x8f659effu, 0xf862ae69u,
    0x616bffd3u, 0x166ccf45u, 0xa00ae278u, 0xd70dd2eeu, 0x4e048354u, 0x3903b3c2u,
    0xa7672661u, 0xd06016f7u, 0x4969474du, 0x3e6e77dbu, 0xaed16a4au, 0xd9d65adcu,
    0x40df0b66u, 0x37d83bf0u, 0xa9bcae53u, 0xdebb9ec5u, 0x47b2cf7fu, 0x30b5ffe9u,
    0xbdbdf21cu, 0xcabac28au, 0x53b39330u, 0x24b4a3a6u, 0xbad03605u, 0xcdd70693u,
    0x54de5729u, 0x23d967bfu, 0xb3667a2eu, 0xc4614ab8u, 0x5d681b02u, 0x2a6f2b94u,
    0xb40bbe37u, 0xc30c8ea1u, 0x5a05df1bu, 0x2d02ef8du,
};

static uint32_t aqi_crc32_ref(uint32_t state, const uint8_t *src, size_t n) {
    size_t i;
    for (i = 0; i < n; i++)
        state = state >> 8 ^ aqi_crc32_table[(state ^ src[i]) & 0xffu];
    return state;
}

static const struct aqi_kernels aqi_kernels_ref = {
#define AQ_X(name, result, parameters) aqi_##name##_ref,
    AQI_KERNELS(AQ_X)
#undef AQ_X
    AQ_ISA_REF};

/*==========================================================================
 * MARK: - [61] Kernels: AVX2 (private)
 * Intrinsics; tails and odd cases through _ref. Bitwise equal to [60]. gcc leaves
 * VZEROUPPER out before some calls of _ref, hence it is explicit.
 *========================================================================*/

#ifndef AQ_KERNELS
#define AQ_KERNELS (AQ_KERNEL_REF | AQ_KERNEL_AVX2 | AQ_KERNEL_AVX512 | AQ_KERNEL_NEON)
#endif
#if (AQ_KERNELS & ~15) != 0 || !(AQ_KERNELS & AQ_KERNEL_REF)
#error "arrowquant.h: AQ_KERNELS is AQ_KERNEL_REF, or'ed with other AQ_KERNEL_ bits"
#endif

#if (AQ_KERNELS & AQ_KERNEL_AVX2) && defined(__x86_64__)
#define AQI_HAVE_AVX2 1
#include <cpuid.h>
#include <immintrin.h>

#define AQI_AVX2 __attribute__((target("avx2,f16c,pclmul"))) /* no fma: equal to _ref */

AQI_AVX2 static float aqi_min8(__m256 v) {
    __m128 m = _mm_min_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_min_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_min_ss(m, _mm_movehdup_ps(m)));
}

AQI_AVX2 static float aqi_max8(__m256 v) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

AQI_AVX2 static uint32_t aqi_max8_u32(__m256i v) {
    __m128i m = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(m);
}

AQI_AVX2 static void aqi_range_avx2(const float *src, size_t n, aqi_range *out) {
    const __m256i mask = _mm256_set1_epi32(0x7fffffff);
    __m256 min0, min1, max0, max1;
    __m256i mag0 = _mm256_setzero_si256(), mag1 = mag0;
    size_t i;
    if (n < 16) {
        aqi_range_ref(src, n, out);
        return;
    }
    min0 = min1 = max0 = max1 = _mm256_loadu_ps(src);
    for (i = 0; i + 16 <= n; i += 16) {
        __m256 a = _mm256_loadu_ps(src + i), b = _mm256_loadu_ps(src + i + 8);
        min0 = _mm256_min_ps(min0, a);
        min1 = _mm256_min_ps(min1, b);
        max0 = _mm256_max_ps(max0, a);
        max1 = _mm256_max_ps(max1, b);
        mag0 = _mm256_max_epu32(mag0, _mm256_and_si256(_mm256_castps_si256(a), mask));
        mag1 = _mm256_max_epu32(mag1, _mm256_and_si256(_mm256_castps_si256(b), mask));
    }
    out->min = aqi_min8(_mm256_min_ps(min0, min1)) + 0.0f;
    out->max = aqi_max8(_mm256_max_ps(max0, max1)) + 0.0f;
    out->absmax_bits = aqi_max8_u32(_mm256_max_epu32(mag0, mag1));
    if (i < n) {
        aqi_range tail;
        _mm256_zeroupper();
        aqi_range_ref(src + i, n - i, &tail);
        out->min = AQI_MIN(out->min, tail.min);
        out->max = AQI_MAX(out->max, tail.max);
        out->absmax_bits = AQI_MAX(out->absmax_bits, tail.absmax_bits);
    }
}

/* Eight codes as 32-bit integers. */
AQI_AVX2 static __m256i aqi_encode8(const float *src, __m256 base, __m256 inverse,
                                    __m256 bias, __m256 max_code) {
    __m256 t = _mm256_sub_ps(_mm256_loadu_ps(src), base);
    t = _mm256_add_ps(_mm256_mul_ps(t, inverse), bias);
    t = _mm256_min_ps(_mm256_max_ps(t, _mm256_setzero_ps()), max_code);
    t = _mm256_add_ps(t, _mm256_set1_ps(8388608.0f));
    return _mm256_and_si256(_mm256_castps_si256(t), _mm256_set1_epi32(0xff));
}

AQI_AVX2 static void aqi_encode_avx2(const float *src, size_t n, const aqi_encode *how,
                                     uint8_t *dst) {
    const __m256 base = _mm256_set1_ps(how->base), inverse = _mm256_set1_ps(how->inverse);
    const __m256 bias = _mm256_set1_ps(how->bias),
                 max_code = _mm256_set1_ps(how->max_code);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    size_t i;
    for (i = 0; i + 32 <= n; i += 32) {
        __m256i a = aqi_encode8(src + i, base, inverse, bias, max_code);
        __m256i b = aqi_encode8(src + i + 8, base, inverse, bias, max_code);
        __m256i c = aqi_encode8(src + i + 16, base, inverse, bias, max_code);
        __m256i d = aqi_encode8(src + i + 24, base, inverse, bias, max_code);
        __m256i v =
            _mm256_packus_epi16(_mm256_packus_epi32(a, b), _mm256_packus_epi32(c, d));
        v = _mm256_permutevar8x32_epi32(v, order);
        _mm256_storeu_si256((__m256i *)(void *)(dst + i), v);
    }
    _mm256_zeroupper();
    aqi_encode_ref(src + i, n - i, how, dst + i);
}

AQI_INLINE AQI_AVX2 __m256i aqi_load32(const uint8_t *p) {
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

AQI_INLINE AQI_AVX2 __m128i aqi_load16(const uint8_t *p) {
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}

AQI_INLINE AQI_AVX2 __m128i aqi_load8(const uint8_t *p) {
    return _mm_loadl_epi64((const __m128i *)(const void *)p);
}

AQI_INLINE AQI_AVX2 __m256i aqi_load16x2(const uint8_t *low, const uint8_t *high) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(aqi_load16(low)),
                                   aqi_load16(high), 1);
}

AQI_INLINE AQI_AVX2 void aqi_store32(void *p, __m256i v) {
    _mm256_storeu_si256((__m256i *)p, v);
}

AQI_INLINE AQI_AVX2 void aqi_store16(void *p, __m128i v) {
    _mm_storeu_si128((__m128i *)p, v);
}

/* Codes of 1, 3, 5 or 6 bits, 32 at a time: pairs, fours and eights are put together by
 * multiplication. Returns how many were packed. */
AQI_AVX2 static size_t aqi_pack_odd(const uint8_t *src, size_t n, uint32_t bits,
                                    uint8_t *dst) {
    const __m256i by2 = _mm256_set1_epi16((short)(1 | 256 << bits));
    const __m256i by4 = _mm256_set1_epi32(1 | 65536 << 2 * bits);
    const __m128i by8 = _mm_cvtsi32_si128((int)(4 * bits));
    size_t bytes = (n * bits + 7) / 8, i, k;
    uint64_t eights[4];
    for (i = 0; i + 32 <= n; i += 32) {
        __m256i v = aqi_load32(src + i);
        uint8_t *at = dst + i / 8 * bits;
        if (bits == 1) {
            int mask = _mm256_movemask_epi8(_mm256_slli_epi16(v, 7));
            memcpy(at, &mask, sizeof mask);
            continue;
        }
        if (i / 8 * bits + 3 * bits + 8 > bytes) break; /* the last store would not fit */
        v = _mm256_madd_epi16(_mm256_maddubs_epi16(v, by2), by4);
        v = _mm256_or_si256(_mm256_sll_epi64(_mm256_srli_epi64(v, 32), by8),
                            _mm256_and_si256(v, _mm256_set1_epi64x(0xffffffff)));
        aqi_store32(eights, v);
        for (k = 0; k < 4; k++) memcpy(at + k * bits, &eights[k], sizeof eights[k]);
    }
    return i;
}

AQI_AVX2 static void aqi_pack_avx2(const uint8_t *src, size_t n, uint32_t bits,
                                   uint8_t *dst) {
    size_t i = 0;
    if (bits == 8) {
        memcpy(dst, src, n);
        return;
    }
    if (bits == 4) {
        const __m256i weights =
            _mm256_set1_epi16(0x1001); /* low byte x 1, high byte x 16 */
        for (; i + 32 <= n; i += 32) {
            __m256i pairs = _mm256_maddubs_epi16(aqi_load32(src + i), weights);
            __m128i v = _mm_packus_epi16(_mm256_castsi256_si128(pairs),
                                         _mm256_extracti128_si256(pairs, 1));
            _mm_storeu_si128((__m128i *)(void *)(dst + i / 2), v);
        }
    } else if (bits == 2) {
        const __m256i by4 = _mm256_set1_epi16(0x0401),
                      by16 = _mm256_set1_epi32(0x00100001);
        for (; i + 32 <= n; i += 32) {
            __m256i quads = _mm256_maddubs_epi16(aqi_load32(src + i), by4);
            __m128i v;
            quads = _mm256_madd_epi16(quads, by16);
            v = _mm_packus_epi32(_mm256_castsi256_si128(quads),
                                 _mm256_extracti128_si256(quads, 1));
            v = _mm_packus_epi16(v, v);
            _mm_storel_epi64((__m128i *)(void *)(dst + i / 4), v);
        }
    } else if (bits < 7) {
        i = aqi_pack_odd(src, n, bits, dst);
    }
    _mm256_zeroupper();
    aqi_pack_ref(src + i, n - i, bits, dst + i * bits / 8);
}

/* Codes of 1 to 7 bits, 32 at a time: each is shifted up to the top of the 16 bits that
 * begin with its first byte, then down. Returns how many were unpacked. */
AQI_AVX2 static size_t aqi_unpack_odd(const uint8_t *src, size_t n, uint32_t bits,
                                      uint8_t *dst) {
    const __m128i down = _mm_cvtsi32_si128((int)(16 - bits));
    size_t bytes = (n * bits + 7) / 8, i;
    uint8_t pairs[16];
    uint16_t ups[8];
    __m256i pair, up, a, b;
    for (i = 0; i < 8; i++) {
        pairs[2 * i] = (uint8_t)(i * bits / 8);
        pairs[2 * i + 1] = (uint8_t)(i * bits / 8 + 1);
        ups[i] = (uint16_t)(1u << (16 - bits - i * bits % 8));
    }
    pair = _mm256_broadcastsi128_si256(aqi_load16(pairs));
    up = _mm256_broadcastsi128_si256(aqi_load16((const uint8_t *)ups));
    for (i = 0; i + 32 <= n; i += 32) {
        const uint8_t *p = src + i / 8 * bits;
        if (i / 8 * bits + 3 * bits + 8 > bytes) break;
        a = _mm256_inserti128_si256(_mm256_castsi128_si256(aqi_load8(p)),
                                    aqi_load8(p + 2 * bits), 1);
        b = _mm256_inserti128_si256(_mm256_castsi128_si256(aqi_load8(p + bits)),
                                    aqi_load8(p + 3 * bits), 1);
        a = _mm256_mullo_epi16(_mm256_shuffle_epi8(a, pair), up);
        b = _mm256_mullo_epi16(_mm256_shuffle_epi8(b, pair), up);
        a = _mm256_packus_epi16(_mm256_srl_epi16(a, down), _mm256_srl_epi16(b, down));
        aqi_store32(dst + i, a);
    }
    return i;
}

AQI_AVX2 static void aqi_unpack_avx2(const uint8_t *src, size_t n, uint32_t bits,
                                     uint8_t *dst) {
    size_t i = 0;
    if (n < 32) {
        aqi_unpack_ref(src, n, bits, dst);
        return;
    }
    if (bits == 8) {
        memcpy(dst, src, n);
        return;
    }
    if (bits == 4) {
        for (; i + 32 <= n; i += 32) {
            __m256i v = _mm256_cvtepu8_epi16(aqi_load16(src + i / 2));
            v = _mm256_or_si256(v, _mm256_slli_epi16(v, 4));
            v = _mm256_and_si256(v, _mm256_set1_epi8(15));
            _mm256_storeu_si256((__m256i *)(void *)(dst + i), v);
        }
    } else if (bits == 2) {
        for (; i + 32 <= n; i += 32) {
            __m128i low = _mm_loadl_epi64((const __m128i *)(const void *)(src + i / 4));
            __m256i v = _mm256_cvtepu8_epi32(low);
            v = _mm256_or_si256(
                v, _mm256_slli_epi32(v, 12)); /* codes 2, 3 to the high half */
            v = _mm256_or_si256(v, _mm256_slli_epi32(v, 6));
            v = _mm256_and_si256(v, _mm256_set1_epi8(3));
            _mm256_storeu_si256((__m256i *)(void *)(dst + i), v);
        }
    } else if (bits > 0) {
        i = aqi_unpack_odd(src, n, bits, dst);
    }
    _mm256_zeroupper();
    aqi_unpack_ref(src + i * bits / 8, n - i, bits, dst + i);
}

/* Where eight codes of at most 25 bits lie: four from byte 0, four from byte `half` on.
 * A code and the bits before it in its first byte fit in 32. */
typedef struct aqi_lanes8 {
    size_t half, reach; /* reach: bytes that are read */
    __m256i shuffle, shift, mask;
} aqi_lanes8;

#define AQI_LANES8_BITS 25u

AQI_INLINE AQI_AVX2 aqi_lanes8 aqi_lanes8_of(uint32_t bits) {
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i at = _mm256_mullo_epi32(index, _mm256_set1_epi32((int)bits)), byte;
    aqi_lanes8 l;
    l.half = bits / 2;
    l.reach = l.half + 16;
    byte = _mm256_sub_epi32(
        _mm256_srli_epi32(at, 3),
        _mm256_inserti128_si256(_mm256_setzero_si256(), _mm_set1_epi32((int)l.half), 1));
    l.shuffle = _mm256_add_epi32(_mm256_mullo_epi32(byte, _mm256_set1_epi32(0x01010101)),
                                 _mm256_set1_epi32(0x03020100));
    l.shift = _mm256_and_si256(at, _mm256_set1_epi32(7));
    l.mask = _mm256_set1_epi32((int)((1u << bits) - 1u));
    return l;
}

AQI_INLINE AQI_AVX2 __m256i aqi_unpack8(const uint8_t *p, const aqi_lanes8 *l) {
    __m256i v = _mm256_shuffle_epi8(aqi_load16x2(p, p + l->half), l->shuffle);
    return _mm256_and_si256(_mm256_srlv_epi32(v, l->shift), l->mask);
}

/* The same for two times four codes of at most 57 bits, in pairs. */
typedef struct aqi_lanes4 {
    size_t at[4], reach;
    __m256i shuffle[2], shift[2], mask;
} aqi_lanes4;

#define AQI_LANES4_BITS 57u

AQI_INLINE AQI_AVX2 aqi_lanes4 aqi_lanes4_of(uint32_t bits) {
    const __m256i first = _mm256_set_epi64x(0x0808080808080808, 0, 0x0808080808080808, 0);
    const __m256i up = _mm256_set1_epi64x(0x0706050403020100);
    __m256i at = _mm256_set_epi64x(3 * (int)bits, 2 * (int)bits, (int)bits, 0), byte;
    aqi_lanes4 l;
    uint32_t k;
    for (k = 0; k < 4; k++) l.at[k] = 2 * k * bits / 8;
    l.reach = l.at[3] + 16;
    for (k = 0; k < 2; k++) {
        __m256i base = _mm256_inserti128_si256(
            _mm256_castsi128_si256(_mm_set1_epi64x((int)l.at[2 * k])),
            _mm_set1_epi64x((int)l.at[2 * k + 1]), 1);
        byte = _mm256_sub_epi64(_mm256_srli_epi64(at, 3), base);
        l.shuffle[k] = _mm256_add_epi8(_mm256_shuffle_epi8(byte, first), up);
        l.shift[k] = _mm256_and_si256(at, _mm256_set1_epi64x(7));
        at = _mm256_add_epi64(at, _mm256_set1_epi64x(4 * (int)bits));
    }
    l.mask = _mm256_set1_epi64x((int64_t)((((uint64_t)1) << bits) - 1));
    return l;
}

/* k = 0: the first four codes, 1: the last four. */
AQI_INLINE AQI_AVX2 __m256i aqi_unpack4(const uint8_t *p, const aqi_lanes4 *l, size_t k) {
    __m256i v = aqi_load16x2(p + l->at[2 * k], p + l->at[2 * k + 1]);
    v = _mm256_srlv_epi64(_mm256_shuffle_epi8(v, l->shuffle[k]), l->shift[k]);
    return _mm256_and_si256(v, l->mask);
}

/* The low halves of eight. */
AQI_INLINE AQI_AVX2 __m256i aqi_unpack4x2(const uint8_t *p, const aqi_lanes4 *l) {
    __m256 v = _mm256_shuffle_ps(_mm256_castsi256_ps(aqi_unpack4(p, l, 0)),
                                 _mm256_castsi256_ps(aqi_unpack4(p, l, 1)), 0x88);
    return _mm256_permute4x64_epi64(_mm256_castps_si256(v), 0xd8);
}

AQI_AVX2 static uint32_t aqi_unpack32_avx2(const aqi_codes *src, size_t n,
                                           uint32_t *dst) {
    __m256i v, largest = _mm256_setzero_si256();
    uint32_t bits = src->bits, most, rest_most;
    const uint8_t *p = src->src, *end = p + src->readable;
    aqi_codes rest;
    size_t i = 0;
    if (bits <= AQI_LANES8_BITS) {
        const aqi_lanes8 l = aqi_lanes8_of(bits);
        for (; i + 8 <= n && (size_t)(end - p) >= l.reach; i += 8, p += bits) {
            v = aqi_unpack8(p, &l);
            largest = _mm256_max_epu32(largest, v);
            aqi_store32(dst + i, v);
        }
    } else {
        const aqi_lanes4 l = aqi_lanes4_of(bits);
        for (; i + 8 <= n && (size_t)(end - p) >= l.reach; i += 8, p += bits) {
            v = aqi_unpack4x2(p, &l);
            largest = _mm256_max_epu32(largest, v);
            aqi_store32(dst + i, v);
        }
    }
    most = aqi_max8_u32(largest);
    _mm256_zeroupper();
    if (i == n) return most;
    rest = aqi_codes_from(src, i);
    rest_most = aqi_unpack32_ref(&rest, n - i, dst + i);
    return AQI_MAX(most, rest_most);
}

/* Sums up to each of eight, the last sum in all lanes of *last added. */
AQI_INLINE AQI_AVX2 __m256i aqi_sum8(__m256i v, __m256i *last) {
    __m256i low, sums;
    v = _mm256_add_epi32(v, _mm256_slli_si256(v, 4));
    v = _mm256_add_epi32(v, _mm256_slli_si256(v, 8));
    low = _mm256_shuffle_epi32(v, 0xff);
    v = _mm256_add_epi32(v, _mm256_permute2x128_si256(low, low, 0x08));
    sums = _mm256_add_epi32(v, *last);
    *last = _mm256_add_epi32(*last,
                             _mm256_permutevar8x32_epi32(v, _mm256_set1_epi32(7)));
    return sums;
}

AQI_INLINE AQI_AVX2 __m256i aqi_sum4(__m256i v, __m256i *last) {
    __m256i low, sums;
    v = _mm256_add_epi64(v, _mm256_slli_si256(v, 8));
    low = _mm256_permute4x64_epi64(v, 0x50);
    v = _mm256_add_epi64(v, _mm256_blend_epi32(_mm256_setzero_si256(), low, 0xf0));
    sums = _mm256_add_epi64(v, *last);
    *last = _mm256_add_epi64(*last, _mm256_permute4x64_epi64(v, 0xff));
    return sums;
}

AQI_AVX2 static uint32_t aqi_delta32_avx2(const aqi_codes *src, size_t n, uint32_t least,
                                          uint32_t last, uint32_t *dst) {
    const __m256i add = _mm256_set1_epi32((int)least);
    __m256i v, sum = _mm256_set1_epi32((int)last);
    uint32_t bits = src->bits;
    const uint8_t *p = src->src, *end = p + src->readable;
    aqi_codes rest;
    size_t i = 0;
    if (bits <= AQI_LANES8_BITS) {
        const aqi_lanes8 l = aqi_lanes8_of(bits);
        for (; i + 8 <= n && (size_t)(end - p) >= l.reach; i += 8, p += bits) {
            v = _mm256_add_epi32(aqi_unpack8(p, &l), add);
            aqi_store32(dst + i, aqi_sum8(v, &sum));
        }
    } else if (bits <= AQI_LANES4_BITS) {
        const aqi_lanes4 l = aqi_lanes4_of(bits);
        for (; i + 8 <= n && (size_t)(end - p) >= l.reach; i += 8, p += bits) {
            v = _mm256_add_epi32(aqi_unpack4x2(p, &l), add);
            aqi_store32(dst + i, aqi_sum8(v, &sum));
        }
    }
    last = (uint32_t)_mm_cvtsi128_si32(_mm256_castsi256_si128(sum));
    _mm256_zeroupper();
    if (i == n) return last;
    rest = aqi_codes_from(src, i);
    return aqi_delta32_ref(&rest, n - i, least, last, dst + i);
}

AQI_AVX2 static uint64_t aqi_delta64_avx2(const aqi_codes *src, size_t n, uint64_t least,
                                          uint64_t last, uint64_t *dst) {
    const __m256i add = _mm256_set1_epi64x((int64_t)least);
    __m256i v, low, high, sum = _mm256_set1_epi64x((int64_t)last);
    uint32_t bits = src->bits;
    const uint8_t *p = src->src, *end = p + src->readable;
    aqi_codes rest;
    size_t i = 0;
    if (bits <= AQI_LANES8_BITS) {
        const aqi_lanes8 l = aqi_lanes8_of(bits);
        for (; i + 8 <= n && (size_t)(end - p) >= l.reach; i += 8, p += bits) {
            v = aqi_unpack8(p, &l);
            low = _mm256_cvtepu32_epi64(_mm256_castsi256_si128(v));
            high = _mm256_cvtepu32_epi64(_mm256_extracti128_si256(v, 1));
            aqi_store32(dst + i, aqi_sum4(_mm256_add_epi64(low, add), &sum));
            aqi_store32(dst + i + 4, aqi_sum4(_mm256_add_epi64(high, add), &sum));
        }
    } else if (bits <= AQI_LANES4_BITS) {
        const aqi_lanes4 l = aqi_lanes4_of(bits);
        for (; i + 8 <= n && (size_t)(end - p) >= l.reach; i += 8, p += bits) {
            low = _mm256_add_epi64(aqi_unpack4(p, &l, 0), add);
            high = _mm256_add_epi64(aqi_unpack4(p, &l, 1), add);
            aqi_store32(dst + i, aqi_sum4(low, &sum));
            aqi_store32(dst + i + 4, aqi_sum4(high, &sum));
        }
    } else if (bits == 64) {
        for (; i + 8 <= n; i += 8, p += 64) {
            low = _mm256_add_epi64(aqi_load32(p), add);
            high = _mm256_add_epi64(aqi_load32(p + 32), add);
            aqi_store32(dst + i, aqi_sum4(low, &sum));
            aqi_store32(dst + i + 4, aqi_sum4(high, &sum));
        }
    }
    last = (uint64_t)_mm_cvtsi128_si64(_mm256_castsi256_si128(sum));
    _mm256_zeroupper();
    if (i == n) return last;
    rest = aqi_codes_from(src, i);
    return aqi_delta64_ref(&rest, n - i, least, last, dst + i);
}

/* One step of a transposition: the index of a byte in all of x rotates left by one bit.
 * 16 values of 2^k bytes take k steps from their streams, 4 steps to them. */
AQI_INLINE AQI_AVX2 void aqi_weave2(__m128i a, __m128i b, __m128i *y) {
    y[0] = _mm_unpacklo_epi8(a, b);
    y[1] = _mm_unpackhi_epi8(a, b);
}

AQI_INLINE AQI_AVX2 void aqi_weave4(const __m128i *x, __m128i *y) {
    aqi_weave2(x[0], x[2], y);
    aqi_weave2(x[1], x[3], y + 2);
}

AQI_INLINE AQI_AVX2 void aqi_weave8(const __m128i *x, __m128i *y) {
    aqi_weave2(x[0], x[4], y);
    aqi_weave2(x[1], x[5], y + 2);
    aqi_weave2(x[2], x[6], y + 4);
    aqi_weave2(x[3], x[7], y + 6);
}

AQI_AVX2 static void aqi_join2(const uint8_t *src, size_t n, size_t end, uint8_t *dst) {
    __m128i y[2];
    size_t i;
    for (i = 0; i < end; i += 16) {
        aqi_weave2(aqi_load16(src + i), aqi_load16(src + n + i), y);
        aqi_store16(dst + 2 * i, y[0]);
        aqi_store16(dst + 2 * i + 16, y[1]);
    }
}

AQI_AVX2 static void aqi_join4(const uint8_t *src, size_t n, size_t end, uint8_t *dst) {
    __m128i x[4], y[4];
    size_t i;
    for (i = 0; i < end; i += 16) {
        x[0] = aqi_load16(src + i);
        x[1] = aqi_load16(src + n + i);
        x[2] = aqi_load16(src + 2 * n + i);
        x[3] = aqi_load16(src + 3 * n + i);
        aqi_weave4(x, y);
        aqi_weave4(y, x);
        aqi_store16(dst + 4 * i, x[0]);
        aqi_store16(dst + 4 * i + 16, x[1]);
        aqi_store16(dst + 4 * i + 32, x[2]);
        aqi_store16(dst + 4 * i + 48, x[3]);
    }
}

AQI_INLINE AQI_AVX2 void aqi_put2(uint8_t *dst, size_t width, __m128i v) {
    _mm_storel_epi64((__m128i *)(void *)dst, v);
    _mm_storeh_pi((__m64 *)(void *)(dst + width), _mm_castsi128_ps(v));
}

AQI_INLINE AQI_AVX2 __m128i aqi_get2(const uint8_t *src, size_t width) {
    return _mm_unpacklo_epi64(aqi_load8(src), aqi_load8(src + width));
}

AQI_AVX2 static void aqi_join8(const uint8_t *src, const aqi_columns *c, uint8_t *dst) {
    const uint8_t *s[8];
    size_t width = c->width, i;
    for (i = 0; i < 8; i++) s[i] = src + c->n * AQI_MIN(i, c->count - 1);
    for (i = c->begin; i < c->end; i += 16) {
        uint8_t *p = dst + i * width;
        __m128i x[8], y[8];
        x[0] = aqi_load16(s[0] + i);
        x[1] = aqi_load16(s[1] + i);
        x[2] = aqi_load16(s[2] + i);
        x[3] = aqi_load16(s[3] + i);
        x[4] = aqi_load16(s[4] + i);
        x[5] = aqi_load16(s[5] + i);
        x[6] = aqi_load16(s[6] + i);
        x[7] = aqi_load16(s[7] + i);
        aqi_weave8(x, y);
        aqi_weave8(y, x);
        aqi_weave8(x, y);
        aqi_put2(p, width, y[0]);
        aqi_put2(p + 2 * width, width, y[1]);
        aqi_put2(p + 4 * width, width, y[2]);
        aqi_put2(p + 6 * width, width, y[3]);
        aqi_put2(p + 8 * width, width, y[4]);
        aqi_put2(p + 10 * width, width, y[5]);
        aqi_put2(p + 12 * width, width, y[6]);
        aqi_put2(p + 14 * width, width, y[7]);
    }
}

AQI_AVX2 static void aqi_split2(const uint8_t *src, size_t n, size_t end, uint8_t *dst) {
    __m128i x[2], y[2];
    size_t i;
    for (i = 0; i < end; i += 16) {
        aqi_weave2(aqi_load16(src + 2 * i), aqi_load16(src + 2 * i + 16), x);
        aqi_weave2(x[0], x[1], y);
        aqi_weave2(y[0], y[1], x);
        aqi_weave2(x[0], x[1], y);
        aqi_store16(dst + i, y[0]);
        aqi_store16(dst + n + i, y[1]);
    }
}

AQI_AVX2 static void aqi_split4(const uint8_t *src, size_t n, size_t end, uint8_t *dst) {
    __m128i x[4], y[4];
    size_t i;
    for (i = 0; i < end; i += 16) {
        x[0] = aqi_load16(src + 4 * i);
        x[1] = aqi_load16(src + 4 * i + 16);
        x[2] = aqi_load16(src + 4 * i + 32);
        x[3] = aqi_load16(src + 4 * i + 48);
        aqi_weave4(x, y);
        aqi_weave4(y, x);
        aqi_weave4(x, y);
        aqi_weave4(y, x);
        aqi_store16(dst + i, x[0]);
        aqi_store16(dst + n + i, x[1]);
        aqi_store16(dst + 2 * n + i, x[2]);
        aqi_store16(dst + 3 * n + i, x[3]);
    }
}

AQI_AVX2 static void aqi_split8(const uint8_t *src, const aqi_columns *c, uint8_t *dst) {
    size_t width = c->width, n = c->n, i, k;
    for (i = c->begin; i < c->end; i += 16) {
        const uint8_t *p = src + i * width;
        __m128i x[8], y[8];
        x[0] = aqi_get2(p, width);
        x[1] = aqi_get2(p + 2 * width, width);
        x[2] = aqi_get2(p + 4 * width, width);
        x[3] = aqi_get2(p + 6 * width, width);
        x[4] = aqi_get2(p + 8 * width, width);
        x[5] = aqi_get2(p + 10 * width, width);
        x[6] = aqi_get2(p + 12 * width, width);
        x[7] = aqi_get2(p + 14 * width, width);
        aqi_weave8(x, y);
        aqi_weave8(y, x);
        aqi_weave8(x, y);
        aqi_weave8(y, x);
        for (k = 0; k < c->count; k++) aqi_store16(dst + k * n + i, x[k]);
    }
}

AQI_AVX2 static void aqi_join_avx2(const uint8_t *src, size_t n, size_t width,
                                   uint8_t *dst) {
    size_t end = aqi_columns_end(n, width), k;
    aqi_columns c = {n, 0, 0, AQI_MIN(width, (size_t)8), width};
    if (width == 2) {
        aqi_join2(src, n, end, dst);
    } else if (width == 4) {
        aqi_join4(src, n, end, dst);
    } else {
        for (; c.begin < end; c.begin = c.end) {
            c.end = AQI_MIN(c.begin + AQI_STREAM_BLOCK, end);
            for (k = 0; k + c.count < width; k += c.count)
                aqi_join8(src + k * n, &c, dst + k);
            aqi_join8(src + (width - c.count) * n, &c, dst + width - c.count);
        }
    }
    aqi_join_from(src, end, n, width, dst);
}

AQI_AVX2 static void aqi_split_avx2(const uint8_t *src, size_t n, size_t width,
                                    uint8_t *dst) {
    size_t end = aqi_columns_end(n, width), k;
    aqi_columns c = {n, 0, 0, AQI_MIN(width, (size_t)8), width};
    if (width == 2) {
        aqi_split2(src, n, end, dst);
    } else if (width == 4) {
        aqi_split4(src, n, end, dst);
    } else {
        for (; c.begin < end; c.begin = c.end) {
            c.end = AQI_MIN(c.begin + AQI_STREAM_BLOCK, end);
            for (k = 0; k + c.count < width; k += c.count)
                aqi_split8(src + k, &c, dst + k * n);
            aqi_split8(src + width - c.count, &c, dst + (width - c.count) * n);
        }
    }
    aqi_split_from(src, end, n, width, dst);
}

AQI_AVX2 static size_t aqi_run_avx2(const uint8_t *src, size_t n) {
    const __m256i first = _mm256_set1_epi8(n > 0 ? (char)src[0] : 0);
    size_t i;
    for (i = 0; i + 32 <= n; i += 32) {
        __m256i same = _mm256_cmpeq_epi8(aqi_load32(src + i), first);
        uint32_t mask = (uint32_t)_mm256_movemask_epi8(same);
        if (mask != UINT32_MAX) return i + (size_t)__builtin_ctz(~mask);
    }
    while (i < n && src[i] == src[0]) i++;
    return i;
}

/* The sum of all bytes. */
AQI_AVX2 static int64_t aqi_total32(__m256i v) {
    __m256i sums = _mm256_sad_epu8(v, _mm256_setzero_si256());
    __m128i sum = _mm_add_epi64(_mm256_castsi256_si128(sums),
                                _mm256_extracti128_si256(sums, 1));
    return _mm_cvtsi128_si64(_mm_add_epi64(sum, _mm_unpackhi_epi64(sum, sum)));
}

AQI_AVX2 static uint32_t aqi_levels_avx2(const uint8_t *src, size_t n, uint32_t max,
                                         aqi_level_counts *out) {
    const __m256i zero = _mm256_setzero_si256(), top = _mm256_set1_epi8((char)max);
    __m256i largest = zero;
    uint32_t result, largest_all;
    size_t i = 0;
    __m128i m;
    while (i + 32 <= n) { /* a counter of 8 bits takes 255 */
        size_t end = i + AQI_MIN((n - i) / 32, (size_t)255) * 32;
        __m256i zeros = zero, maxima = zero;
        for (; i < end; i += 32) {
            __m256i v = aqi_load32(src + i);
            zeros = _mm256_sub_epi8(zeros, _mm256_cmpeq_epi8(v, zero));
            maxima = _mm256_sub_epi8(maxima, _mm256_cmpeq_epi8(v, top));
            largest = _mm256_max_epu8(largest, v);
        }
        out->zeros += aqi_total32(zeros);
        out->maxima += aqi_total32(maxima);
    }
    m = _mm_max_epu8(_mm256_castsi256_si128(largest),
                     _mm256_extracti128_si256(largest, 1));
    m = _mm_max_epu8(m, _mm_srli_si128(m, 8));
    m = _mm_max_epu8(m, _mm_srli_si128(m, 4));
    m = _mm_max_epu8(m, _mm_srli_si128(m, 2));
    m = _mm_max_epu8(m, _mm_srli_si128(m, 1));
    largest_all = (uint32_t)_mm_cvtsi128_si32(m) & 0xffu;
    _mm256_zeroupper();
    result = aqi_levels_ref(src + i, n - i, max, out);
    return AQI_MAX(result, largest_all);
}

AQI_INLINE AQI_AVX2 int64_t aqi_sum8_i32(__m256i v) {
    __m256i wide =
        _mm256_add_epi64(_mm256_cvtepi32_epi64(_mm256_castsi256_si128(v)),
                         _mm256_cvtepi32_epi64(_mm256_extracti128_si256(v, 1)));
    __m128i m = _mm_add_epi64(_mm256_castsi256_si128(wide),
                              _mm256_extracti128_si256(wide, 1));
    return _mm_cvtsi128_si64(m) + _mm_extract_epi64(m, 1);
}

AQI_AVX2 static int64_t aqi_steps_avx2(const float *src, size_t n, float base,
                                       float inverse, uint32_t offset, uint16_t *dst) {
    const __m256 b = _mm256_set1_ps(base), k = _mm256_set1_ps(inverse);
    const __m256 magic = _mm256_set1_ps(8388608.0f);
    const __m256i low = _mm256_set1_epi32(0xffff), add = _mm256_set1_epi32((int)offset);
    const __m256i one = _mm256_set1_epi16(1), top = _mm256_set1_epi16(32767);
    __m256i sum = _mm256_setzero_si256();
    int64_t total = 0;
    size_t i, end;
    for (i = 0; n - i >= 16;) { /* a lane grows by 65534 at most each time */
        for (end = i + AQI_MIN((n - i) / 16, (size_t)16384) * 16; i < end; i += 16) {
            __m256 x = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(src + i), b), k);
            __m256 y = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(src + i + 8), b), k);
            __m256i p = _mm256_castps_si256(_mm256_add_ps(x, magic));
            __m256i q = _mm256_castps_si256(_mm256_add_ps(y, magic));
            p = _mm256_add_epi32(_mm256_and_si256(p, low), add);
            q = _mm256_add_epi32(_mm256_and_si256(q, low), add);
            p = _mm256_permute4x64_epi64(_mm256_packus_epi32(p, q), 0xd8);
            p = _mm256_min_epu16(p, top);
            _mm256_storeu_si256((__m256i *)(void *)(dst + i), p);
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(p, one));
        }
        total += aqi_sum8_i32(sum);
        sum = _mm256_setzero_si256();
    }
    _mm256_zeroupper();
    return total + aqi_steps_ref(src + i, n - i, base, inverse, offset, dst + i);
}

AQI_AVX2 static void aqi_refit_avx2(const uint16_t *src, size_t n, const aqi_fine *how,
                                    aqi_fine_sums *out, uint8_t *codes) {
    const __m256i base = _mm256_set1_epi16((short)how->base);
    const __m256i slope = _mm256_set1_epi16((short)how->slope);
    const __m256i top = _mm256_set1_epi16((short)how->max_code);
    const __m256i one = _mm256_set1_epi16(1);
    const __m128i shift = _mm_cvtsi32_si128(how->shift);
    __m256i sq = _mm256_setzero_si256(), sqq = sq, squ = sq;
    size_t i;
    for (i = 0; i + 16 <= n; i += 16) {
        __m256i u = _mm256_loadu_si256((const __m256i *)(const void *)(src + i));
        __m256i q = _mm256_mulhi_epu16(_mm256_subs_epu16(u, base), slope);
        q = _mm256_min_epu16(_mm256_srl_epi16(q, shift), top);
        sq = _mm256_add_epi16(sq, q); /* 1024 / 16 * 255 fits */
        sqq = _mm256_add_epi32(sqq, _mm256_madd_epi16(q, q));
        squ = _mm256_add_epi32(squ, _mm256_madd_epi16(q, u));
        if (codes == NULL) continue;
        q = _mm256_permute4x64_epi64(_mm256_packus_epi16(q, q), 0xd8);
        aqi_store16(codes + i, _mm256_castsi256_si128(q));
    }
    out->q += aqi_sum8_i32(_mm256_madd_epi16(sq, one));
    out->qq += aqi_sum8_i32(sqq);
    out->qu += aqi_sum8_i32(squ);
    _mm256_zeroupper();
    aqi_refit_ref(src + i, n - i, how, out, codes == NULL ? NULL : codes + i);
}

/* ---- blocks of groups ---- */

/* Into the second cache: the first holds the block that is worked on. */
AQI_INLINE void aqi_fetch(const char *p, size_t bytes) {
    size_t i;
    for (i = 0; i < bytes; i += 64) __builtin_prefetch(p + i, 0, 2);
}

typedef enum aqi_join {
    AQI_JOIN_MIN,
    AQI_JOIN_MAX,
    AQI_JOIN_MAX_U32,
    AQI_JOIN_ADD
} aqi_join;

AQI_INLINE AQI_AVX2 __m256i aqi_join256(__m256i a, __m256i b, aqi_join how) {
    __m256 x = _mm256_castsi256_ps(a), y = _mm256_castsi256_ps(b);
    if (how == AQI_JOIN_MIN) return _mm256_castps_si256(_mm256_min_ps(x, y));
    if (how == AQI_JOIN_MAX) return _mm256_castps_si256(_mm256_max_ps(x, y));
    return how == AQI_JOIN_ADD ? _mm256_add_epi32(a, b) : _mm256_max_epu32(a, b);
}

/* Lane g of the result joins the lanes of v[g]. Overwrites v. */
AQI_INLINE AQI_AVX2 __m256i aqi_fold256(__m256i *v, aqi_join how) {
    size_t i;
    for (i = 0; i < 4; i++)
        v[i] = aqi_join256(_mm256_unpacklo_epi32(v[2 * i], v[2 * i + 1]),
                           _mm256_unpackhi_epi32(v[2 * i], v[2 * i + 1]), how);
    for (i = 0; i < 2; i++)
        v[i] = aqi_join256(_mm256_unpacklo_epi64(v[2 * i], v[2 * i + 1]),
                           _mm256_unpackhi_epi64(v[2 * i], v[2 * i + 1]), how);
    return aqi_join256(_mm256_permute2x128_si256(v[0], v[1], 0x20),
                       _mm256_permute2x128_si256(v[0], v[1], 0x31), how);
}

AQI_AVX2 static void aqi_ranges_avx2(const float *src, const aqi_quantizer *z,
                                     aqi_block *b, const char *ahead) {
    const __m256i mask = _mm256_set1_epi32(0x7fffffff);
    __m256i mins[AQI_BLOCK], maxs[AQI_BLOCK], mags[AQI_BLOCK];
    size_t g, i;
    for (g = 0; g < AQI_BLOCK; g++, src += z->n, ahead += z->ahead) {
        __m256 x = _mm256_loadu_ps(src), y = _mm256_loadu_ps(src + 8);
        __m256 min0 = x, min1 = y, max0 = x, max1 = y;
        __m256i mag0 = _mm256_and_si256(_mm256_castps_si256(x), mask);
        __m256i mag1 = _mm256_and_si256(_mm256_castps_si256(y), mask);
        aqi_fetch(ahead, z->ahead);
        for (i = 16; i < z->n; i += 16) {
            x = _mm256_loadu_ps(src + i);
            y = _mm256_loadu_ps(src + i + 8);
            min0 = _mm256_min_ps(min0, x);
            min1 = _mm256_min_ps(min1, y);
            max0 = _mm256_max_ps(max0, x);
            max1 = _mm256_max_ps(max1, y);
            mag0 = _mm256_max_epu32(mag0, _mm256_and_si256(_mm256_castps_si256(x), mask));
            mag1 = _mm256_max_epu32(mag1, _mm256_and_si256(_mm256_castps_si256(y), mask));
        }
        mins[g] = _mm256_castps_si256(_mm256_min_ps(min0, min1));
        maxs[g] = _mm256_castps_si256(_mm256_max_ps(max0, max1));
        mags[g] = _mm256_max_epu32(mag0, mag1);
    }
    for (g = 0; g < AQI_BLOCK; g += 8) {
        __m256 min = _mm256_castsi256_ps(aqi_fold256(mins + g, AQI_JOIN_MIN));
        __m256 max = _mm256_castsi256_ps(aqi_fold256(maxs + g, AQI_JOIN_MAX));
        _mm256_storeu_ps(b->min + g, _mm256_add_ps(min, _mm256_setzero_ps()));
        _mm256_storeu_ps(b->max + g, _mm256_add_ps(max, _mm256_setzero_ps()));
        aqi_store32(b->absmax_bits + g, aqi_fold256(mags + g, AQI_JOIN_MAX_U32));
    }
}

/* Stores 32 one-byte codes packed. */
AQI_INLINE AQI_AVX2 void aqi_pack32(uint8_t *dst, __m256i v, uint32_t bits) {
    __m128i w;
    if (bits == 8) {
        aqi_store32(dst, v);
        return;
    }
    v = _mm256_maddubs_epi16(v, _mm256_set1_epi16(bits == 4 ? 0x1001 : 0x0401));
    if (bits == 4) {
        w = _mm_packus_epi16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
        aqi_store16(dst, w);
        return;
    }
    v = _mm256_madd_epi16(v, _mm256_set1_epi32(0x00100001));
    w = _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    _mm_storel_epi64((__m128i *)(void *)dst, _mm_packus_epi16(w, w));
}

/* From the order that two packs leave: lane L has 4 of each of the four vectors. */
AQI_INLINE AQI_AVX2 __m256i aqi_unscramble32(__m256i v) {
    return _mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

AQI_INLINE AQI_AVX2 void aqi_encodes_of(const float *src, const aqi_quantizer *z,
                                        const aqi_block *b, uint32_t bits,
                                        uint8_t *codes, const char *ahead) {
    const __m256 max_code = _mm256_set1_ps(z->max_code);
    size_t g, i, k;
    for (g = 0; g < AQI_BLOCK; g++, ahead += z->ahead) {
        const __m256 base = _mm256_set1_ps(b->base[g]);
        const __m256 inverse = _mm256_set1_ps(b->inverse[g]);
        const __m256 bias = _mm256_set1_ps(b->bias[g]);
        aqi_fetch(ahead, z->ahead);
        for (i = 0; i < z->n; i += 32, src += 32, codes += 4 * bits) {
            __m256i v[4];
            for (k = 0; k < 4; k++)
                v[k] = aqi_encode8(src + 8 * k, base, inverse, bias, max_code);
            v[0] = _mm256_packus_epi16(_mm256_packus_epi32(v[0], v[1]),
                                       _mm256_packus_epi32(v[2], v[3]));
            aqi_pack32(codes, aqi_unscramble32(v[0]), bits);
        }
    }
}

AQI_AVX2 static void aqi_encodes_avx2(const float *src, const aqi_quantizer *z,
                                      const aqi_block *b, uint8_t *codes,
                                      const char *ahead) {
    if (z->bits == 2) aqi_encodes_of(src, z, b, 2, codes, ahead);
    if (z->bits == 4) aqi_encodes_of(src, z, b, 4, codes, ahead);
    if (z->bits == 8) aqi_encodes_of(src, z, b, 8, codes, ahead);
}

/* Sums of each group's codes and steps; 32-bit lanes, folded at the end. */
typedef struct aqi_refits256 {
    __m256i u[AQI_BLOCK], q[AQI_BLOCK], qq[AQI_BLOCK], qu[AQI_BLOCK];
} aqi_refits256;

AQI_INLINE AQI_AVX2 void aqi_store_sums256(double *dst, __m256i *v) {
    size_t g;
    for (g = 0; g < AQI_BLOCK; g += 8) {
        __m256i sums = aqi_fold256(v + g, AQI_JOIN_ADD);
        _mm256_storeu_pd(dst + g, _mm256_cvtepi32_pd(_mm256_castsi256_si128(sums)));
        _mm256_storeu_pd(dst + g + 4,
                         _mm256_cvtepi32_pd(_mm256_extracti128_si256(sums, 1)));
    }
}

/* Division by the unit of the grid, after the multiplication's 16 bits. */
AQI_INLINE AQI_AVX2 __m256i aqi_shift256(__m256i q, uint32_t bits) {
    if (bits == 8) return _mm256_srli_epi16(q, 6);
    return bits == 4 ? _mm256_srli_epi16(q, 9) : _mm256_srli_epi16(q, 10);
}

AQI_INLINE AQI_AVX2 __m256i aqi_steps8(const float *src, __m256 base, __m256 inverse) {
    return _mm256_cvtps_epi32(
        _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(src), base), inverse));
}

AQI_INLINE AQI_AVX2 void aqi_steps_of(const float *src, const aqi_quantizer *z,
                                      uint32_t bits, aqi_refits *r, uint16_t *steps,
                                      const char *ahead) {
    const __m256i one = _mm256_set1_epi16(1), top = _mm256_set1_epi16((short)z->max_code);
    const __m256i offset = _mm256_set1_epi16((short)z->grid.unit);
    const __m256i from = _mm256_set1_epi16((short)r->from[0]);
    const __m256i slope = _mm256_set1_epi16((short)r->slope[0]);
    aqi_refits256 s;
    size_t g, i;
    for (g = 0; g < AQI_BLOCK; g++, ahead += z->ahead) {
        const __m256 base = _mm256_set1_ps(r->base[g]);
        const __m256 inverse = _mm256_set1_ps(r->inverse[g]);
        __m256i su = _mm256_setzero_si256(), sq = su, sqq = su, squ = su;
        aqi_fetch(ahead, z->ahead);
        for (i = 0; i < z->n; i += 16, src += 16, steps += 16) {
            __m256i u = _mm256_packs_epi32(aqi_steps8(src, base, inverse),
                                           aqi_steps8(src + 8, base, inverse)), q;
            u = _mm256_add_epi16(u, offset);
            q = _mm256_mulhi_epu16(_mm256_subs_epu16(u, from), slope);
            q = _mm256_min_epu16(aqi_shift256(q, bits), top);
            aqi_store32(steps, u);
            su = _mm256_add_epi32(su, _mm256_madd_epi16(u, one));
            sq = _mm256_add_epi16(sq, q);
            sqq = _mm256_add_epi32(sqq, _mm256_madd_epi16(q, q));
            squ = _mm256_add_epi32(squ, _mm256_madd_epi16(q, u));
        }
        s.u[g] = su;
        s.q[g] = _mm256_madd_epi16(sq, one);
        s.qq[g] = sqq;
        s.qu[g] = squ;
    }
    aqi_store_sums256(r->u, s.u);
    aqi_store_sums256(r->q, s.q);
    aqi_store_sums256(r->qq, s.qq);
    aqi_store_sums256(r->qu, s.qu);
}

AQI_AVX2 static void aqi_steps16_avx2(const float *src, const aqi_quantizer *z,
                                      aqi_refits *r, uint16_t *steps,
                                      const char *ahead) {
    if (z->bits == 2) aqi_steps_of(src, z, 2, r, steps, ahead);
    if (z->bits == 4) aqi_steps_of(src, z, 4, r, steps, ahead);
    if (z->bits == 8) aqi_steps_of(src, z, 8, r, steps, ahead);
}

/* codes NULL: only the sums. */
AQI_INLINE AQI_AVX2 void aqi_refits_of(const uint16_t *steps, const aqi_quantizer *z,
                                       uint32_t bits, aqi_refits *r, uint8_t *codes,
                                       const char *ahead) {
    const __m256i one = _mm256_set1_epi16(1), top = _mm256_set1_epi16((short)z->max_code);
    aqi_refits256 s;
    size_t g, i, k;
    for (g = 0; g < AQI_BLOCK; g++, ahead += z->ahead) {
        const __m256i from = _mm256_set1_epi16((short)r->from[g]);
        const __m256i slope = _mm256_set1_epi16((short)r->slope[g]);
        __m256i sq = _mm256_setzero_si256(), sqq = sq, squ = sq, q[2];
        aqi_fetch(ahead, z->ahead);
        for (i = 0; i < z->n; i += 32, steps += 32) {
            for (k = 0; k < 2; k++) {
                __m256i u = aqi_load32((const uint8_t *)(steps + 16 * k));
                q[k] = _mm256_mulhi_epu16(_mm256_subs_epu16(u, from), slope);
                q[k] = _mm256_min_epu16(aqi_shift256(q[k], bits), top);
                sq = _mm256_add_epi16(sq, q[k]);
                sqq = _mm256_add_epi32(sqq, _mm256_madd_epi16(q[k], q[k]));
                squ = _mm256_add_epi32(squ, _mm256_madd_epi16(q[k], u));
            }
            if (codes == NULL) continue;
            aqi_pack32(codes, aqi_unscramble32(_mm256_packus_epi16(q[0], q[1])), bits);
            codes += 4 * bits;
        }
        s.q[g] = _mm256_madd_epi16(sq, one);
        s.qq[g] = sqq;
        s.qu[g] = squ;
    }
    aqi_store_sums256(r->q, s.q);
    aqi_store_sums256(r->qq, s.qq);
    aqi_store_sums256(r->qu, s.qu);
}

AQI_AVX2 static void aqi_refits_avx2(const uint16_t *steps, const aqi_quantizer *z,
                                     aqi_refits *r, uint8_t *codes, const char *ahead) {
    if (z->bits == 2 && codes == NULL) aqi_refits_of(steps, z, 2, r, NULL, ahead);
    if (z->bits == 4 && codes == NULL) aqi_refits_of(steps, z, 4, r, NULL, ahead);
    if (z->bits == 8 && codes == NULL) aqi_refits_of(steps, z, 8, r, NULL, ahead);
    if (z->bits == 2 && codes != NULL) aqi_refits_of(steps, z, 2, r, codes, ahead);
    if (z->bits == 4 && codes != NULL) aqi_refits_of(steps, z, 4, r, codes, ahead);
    if (z->bits == 8 && codes != NULL) aqi_refits_of(steps, z, 8, r, codes, ahead);
}

AQI_AVX2 static uint32_t aqi_block_avx2(const float *src, const aqi_quantizer *z,
                                        aqi_block_out *out) {
    const aqi_block_ops ops = {aqi_ranges_avx2, aqi_encodes_avx2, aqi_steps16_avx2,
                               aqi_refits_avx2};
    if (!aqi_block_takes(z)) return AQI_BLOCK_NONE;
    return aqi_block_body(&ops, src, z, out);
}

AQI_AVX2 static void aqi_squares_avx2(const float *src, const uint8_t *codes, size_t n,
                                      const aqi_decode *how, double *lanes) {
    const __m256 s = _mm256_set1_ps(how->scale), z = _mm256_set1_ps(how->zero_point);
    __m256d low = _mm256_loadu_pd(lanes), high = _mm256_loadu_pd(lanes + 4), d;
    size_t i;
    for (i = 0; i + 8 <= n; i += 8) {
        __m256 x = _mm256_loadu_ps(src + i);
        __m256 w = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(aqi_load8(codes + i)));
        w = _mm256_mul_ps(_mm256_sub_ps(w, z), s);
        d = _mm256_sub_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(x)),
                          _mm256_cvtps_pd(_mm256_castps256_ps128(w)));
        low = _mm256_add_pd(low, _mm256_mul_pd(d, d));
        d = _mm256_sub_pd(_mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)),
                          _mm256_cvtps_pd(_mm256_extractf128_ps(w, 1)));
        high = _mm256_add_pd(high, _mm256_mul_pd(d, d));
    }
    _mm256_storeu_pd(lanes, low);
    _mm256_storeu_pd(lanes + 4, high);
    _mm256_zeroupper();
    aqi_squares_ref(src + i, codes + i, n - i, how, lanes);
}

AQI_AVX2 static void aqi_decode_avx2(const uint8_t *src, size_t n, float scale,
                                     float zero_point, float *dst) {
    const __m256 s = _mm256_set1_ps(scale), z = _mm256_set1_ps(zero_point);
    size_t i;
    for (i = 0; i + 8 <= n; i += 8) {
        __m128i q = _mm_loadl_epi64((const __m128i *)(const void *)(src + i));
        __m256 w = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(q));
        _mm256_storeu_ps(dst + i, _mm256_mul_ps(_mm256_sub_ps(w, z), s));
    }
    _mm256_zeroupper();
    aqi_decode_ref(src + i, n - i, scale, zero_point, dst + i);
}

AQI_AVX2 static void aqi_dot_avx2(const float *a, const float *b, size_t n,
                                  float *lanes) {
    __m256 sum[4];
    size_t i, k;
    for (k = 0; k < 4; k++) sum[k] = _mm256_loadu_ps(lanes + 8 * k);
    for (i = 0; i + 32 <= n; i += 32) {
        for (k = 0; k < 4; k++) {
            __m256 x = _mm256_loadu_ps(a + i + 8 * k), y = _mm256_loadu_ps(b + i + 8 * k);
            sum[k] = _mm256_add_ps(sum[k], _mm256_mul_ps(x, y));
        }
    }
    for (k = 0; k < 4; k++) _mm256_storeu_ps(lanes + 8 * k, sum[k]);
    _mm256_zeroupper();
    aqi_dot_ref(a + i, b + i, n - i, lanes);
}

static const aqi_row_ops aqi_row_ops_avx2 = {aqi_unpack_avx2, aqi_decode_avx2,
                                             aqi_dot_avx2};

/* The levels of 2- or 4-bit codes, for a shuffle of bytes. */
AQI_INLINE AQI_AVX2 __m128i aqi_levels16(const aqi_row *row) {
    uint8_t all[16] = {0};
    size_t i;
    for (i = 0; i < 16 && row->levels != NULL && row->bits <= 4; i++)
        all[i] = row->levels[i & ((1u << row->bits) - 1u)];
    return aqi_load16(all);
}

/* How eight codes become values. */
typedef struct aqi_values {
    __m256 scale, zero_point;
    __m256i levels;
    bool codebook;
} aqi_values;

AQI_INLINE AQI_AVX2 __m256 aqi_values8(const uint8_t *codes, uint32_t bits,
                                       const aqi_values *v) {
    __m256i q;
    uint32_t word = 0;
    if (bits == 8) {
        q = _mm256_cvtepu8_epi32(aqi_load8(codes));
    } else {
        if (bits == 2) memcpy(&word, codes, 2);
        if (bits == 4) memcpy(&word, codes, 4);
        q = bits == 4 ? _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28)
                      : _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
        q = _mm256_srlv_epi32(_mm256_set1_epi32((int)word), q);
        q = _mm256_and_si256(q, _mm256_set1_epi32(bits == 4 ? 15 : 3));
    }
    if (v->codebook)
        q = _mm256_and_si256(_mm256_shuffle_epi8(v->levels, q), _mm256_set1_epi32(255));
    return _mm256_mul_ps(_mm256_sub_ps(_mm256_cvtepi32_ps(q), v->zero_point), v->scale);
}

AQI_INLINE AQI_AVX2 aqi_values aqi_values_of(const aqi_row *row) {
    aqi_values v;
    v.levels = _mm256_broadcastsi128_si256(aqi_levels16(row));
    v.codebook = row->levels != NULL;
    v.scale = v.zero_point = _mm256_setzero_ps();
    return v;
}

AQI_INLINE AQI_AVX2 void aqi_values_group(aqi_values *v, const aqi_row *row, size_t g) {
    v->scale = _mm256_set1_ps(row->scales[g]);
    v->zero_point = _mm256_set1_ps(row->zero_points[g]);
}

AQI_INLINE AQI_AVX2 size_t aqi_expand_of(const aqi_row *row, uint32_t bits, float *dst) {
    const uint8_t *codes = row->codes;
    aqi_values v = aqi_values_of(row);
    size_t g, i = 0, end;
    for (g = 0; row->n - i >= 8; g++) {
        aqi_values_group(&v, row, g);
        for (end = i + AQI_MIN(row->group, (row->n - i) / 8 * 8); i < end; i += 8) {
            if (i % 64 == 0) __builtin_prefetch(codes + AQI_ROW_AHEAD);
            _mm256_storeu_ps(dst + i, aqi_values8(codes, bits, &v));
            codes += bits;
        }
    }
    return i;
}

AQI_AVX2 static void aqi_expand_avx2(const aqi_row *row, float *dst) {
    size_t done = 0;
    aqi_row rest;
    if (!aqi_row_is_even(row)) {
        aqi_expand_by(&aqi_row_ops_avx2, row, dst);
        return;
    }
    if (row->bits == 2) done = aqi_expand_of(row, 2, dst);
    if (row->bits == 4) done = aqi_expand_of(row, 4, dst);
    if (row->bits == 8) done = aqi_expand_of(row, 8, dst);
    _mm256_zeroupper();
    if (done == row->n) return;
    rest = aqi_row_from(row, done);
    aqi_expand_ref(&rest, dst + done);
}

AQI_INLINE AQI_AVX2 size_t aqi_dot_row_of(const aqi_row *row, uint32_t bits,
                                          const float *x, float *lanes) {
    const uint8_t *codes = row->codes;
    const size_t group = AQI_MAX(row->group, (size_t)32);
    aqi_values v = aqi_values_of(row);
    __m256 sum[4];
    size_t g = 0, i = 0, k, end;
    for (k = 0; k < 4; k++) sum[k] = _mm256_loadu_ps(lanes + 8 * k);
    while (row->n - i >= 32) {
        aqi_values_group(&v, row, g++);
        for (end = i + AQI_MIN(group, (row->n - i) / 32 * 32); i < end; i += 32) {
            __builtin_prefetch(codes + AQI_ROW_AHEAD);
            for (k = 0; k < 4; k++) {
                __m256 w;
                if (k == 2 && row->group == 16) aqi_values_group(&v, row, g++);
                w = aqi_values8(codes + k * bits, bits, &v);
                w = _mm256_mul_ps(w, _mm256_loadu_ps(x + i + 8 * k));
                sum[k] = _mm256_add_ps(sum[k], w);
            }
            codes += 4 * bits;
        }
    }
    for (k = 0; k < 4; k++) _mm256_storeu_ps(lanes + 8 * k, sum[k]);
    return i;
}

AQI_AVX2 static void aqi_dot_row_avx2(const aqi_row *row, const float *x, float *lanes) {
    size_t done = 0;
    aqi_row rest;
    if (!aqi_row_is_even(row)) {
        aqi_dot_row_by(&aqi_row_ops_avx2, row, x, lanes);
        return;
    }
    if (row->bits == 2) done = aqi_dot_row_of(row, 2, x, lanes);
    if (row->bits == 4) done = aqi_dot_row_of(row, 4, x, lanes);
    if (row->bits == 8) done = aqi_dot_row_of(row, 8, x, lanes);
    _mm256_zeroupper();
    if (done == row->n) return;
    rest = aqi_row_from(row, done);
    aqi_dot_row_ref(&rest, x + done, lanes);
}

/* ---- integer dot products ---- */

/* The sums of products of 32 bytes in lanes of 32 bits; any bytes. */
AQI_INLINE AQI_AVX2 __m256i aqi_x8_products32(__m256i v, const uint8_t *x) {
    __m256i a = _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm256_castsi256_si128(v)),
                                  _mm256_cvtepi8_epi16(aqi_load16(x)));
    __m256i b = _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm256_extracti128_si256(v, 1)),
                                  _mm256_cvtepi8_epi16(aqi_load16(x + 16)));
    return _mm256_permute4x64_epi64(_mm256_hadd_epi32(a, b), 0xd8);
}

/* The sums of 32 bytes of codes in lanes of 32 bits; x at the first of its planes. */
AQI_INLINE AQI_AVX2 __m256i aqi_x8_sums32(__m256i v, const int8_t *x, uint32_t bits,
                                          const aqi_values *of) {
    const uint8_t *p = (const uint8_t *)x;
    const __m256i mask = _mm256_set1_epi8(bits == 4 ? 15 : 3);
    __m256i sum = _mm256_setzero_si256(), a;
    uint32_t k;
    if (bits == 8) return aqi_x8_products32(v, p);
    for (k = 0; k < 8; k += bits, p += AQI_X8_BYTES) {
        a = _mm256_and_si256(_mm256_srli_epi16(v, (int)k), mask);
        if (of->codebook) {
            a = aqi_x8_products32(_mm256_shuffle_epi8(of->levels, a), p);
            sum = _mm256_add_epi32(sum, a);
        } else { /* at most 4 x 2 x 3 x 127, or 2 x 2 x 15 x 127 */
            sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(a, aqi_load32(p)));
        }
    }
    return of->codebook ? sum : _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
}

/* Sums of a block; what lies beyond `left` bytes counts as 0. */
AQI_INLINE AQI_AVX2 void aqi_x8_block(const uint8_t *codes, size_t left, const int8_t *x,
                                      uint32_t bits, const aqi_values *of, __m256i *acc) {
    uint8_t room[AQI_X8_BYTES];
    size_t k;
    if (left < AQI_X8_BYTES) {
        memset(room, 0, sizeof room);
        memcpy(room, codes, left);
        codes = room;
    } else {
        __builtin_prefetch(codes + AQI_ROW_AHEAD);
    }
    for (k = 0; k < 2; k++)
        acc[k] = _mm256_add_epi32(
            acc[k], aqi_x8_sums32(aqi_load32(codes + 32 * k), x + 32 * k, bits, of));
}

/* sum += acc * scale, by lanes. */
AQI_INLINE AQI_AVX2 __m256 aqi_x8_add(__m256 sum, __m256i acc, __m256 scale) {
    return _mm256_add_ps(sum, _mm256_mul_ps(_mm256_cvtepi32_ps(acc), scale));
}

AQI_INLINE AQI_AVX2 void aqi_dot_x8_of(const aqi_row *row, uint32_t bits, const aqi_x8 *x,
                                       float *lanes) {
    const size_t bytes = (row->n * bits + 7) / 8, segment = x->segment * bits / 8;
    const size_t planes = AQI_X8_BYTES * 8 / bits,
                 words = AQI_MIN(segment / 4, (size_t)16);
    const aqi_values v = aqi_values_of(row);
    const int8_t *p = x->codes;
    float scales[AQI_X8_TERMS + 16], zero_terms[AQI_X8_TERMS];
    __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), high;
    __m256 sum[2], zero[2];
    size_t i, k, at = 0, first = 0, have, end;
    memset(scales, 0, sizeof scales);
    high = _mm256_add_epi32(index, _mm256_set1_epi32(8));
    for (k = 0; (size_t)1 << k < words; k++) continue;
    index = _mm256_srl_epi32(index, _mm_cvtsi32_si128((int)k));
    high = _mm256_srl_epi32(high, _mm_cvtsi32_si128((int)k));
    for (k = 0; k < 2; k++) {
        sum[k] = _mm256_loadu_ps(lanes + 8 * k);
        zero[k] = _mm256_loadu_ps(lanes + AQI_X8_LANES + 8 * k);
    }
    for (; at < bytes; first += have) {
        have = AQI_MIN((bytes - at + segment - 1) / segment, (size_t)AQI_X8_TERMS);
        aqi_x8_terms(row, x, first, have, scales, zero_terms);
        for (i = 0; i < have; i += 16) {
            zero[0] = _mm256_add_ps(zero[0], _mm256_loadu_ps(zero_terms + i));
            zero[1] = _mm256_add_ps(zero[1], _mm256_loadu_ps(zero_terms + i + 8));
        }
        for (i = 0; i < have; i += 16 / words) {
            __m256i acc[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
            __m256 low = _mm256_loadu_ps(scales + i), s = _mm256_set1_ps(scales[i]);
            end = AQI_MIN(at + AQI_MAX(segment, (size_t)AQI_X8_BYTES), bytes);
            for (; at < end; at += AQI_X8_BYTES, p += planes)
                aqi_x8_block(row->codes + at, end - at, p, bits, &v, acc);
            if (words < 16) s = _mm256_permutevar8x32_ps(low, index);
            sum[0] = aqi_x8_add(sum[0], acc[0], s);
            if (words < 16) s = _mm256_permutevar8x32_ps(low, high);
            if (words == 1) s = _mm256_loadu_ps(scales + i + 8);
            sum[1] = aqi_x8_add(sum[1], acc[1], s);
        }
    }
    for (k = 0; k < 2; k++) {
        _mm256_storeu_ps(lanes + 8 * k, sum[k]);
        _mm256_storeu_ps(lanes + AQI_X8_LANES + 8 * k, zero[k]);
    }
}

AQI_AVX2 static void aqi_dot_x8_avx2(const aqi_row *row, const aqi_x8 *x, float *lanes) {
    if (!aqi_x8_is_even(row, x)) {
        aqi_dot_x8_ref(row, x, lanes);
        return;
    }
    if (row->bits == 2) aqi_dot_x8_of(row, 2, x, lanes);
    if (row->bits == 4) aqi_dot_x8_of(row, 4, x, lanes);
    if (row->bits == 8) aqi_dot_x8_of(row, 8, x, lanes);
    _mm256_zeroupper();
}

AQI_AVX2 static void aqi_sums_avx2(const float *a, const float *b, size_t n,
                                   aqi_sums *out) {
    const __m256d sign = _mm256_set1_pd(-0.0);
    size_t half, i = 0;
    /* Lanes 0-3, then lanes 4-7: five accumulators each stay in registers. */
    for (half = 0; half < AQI_SUM_LANES; half += 4) {
        __m256d aa = _mm256_loadu_pd(out->aa + half),
                bb = _mm256_loadu_pd(out->bb + half);
        __m256d ab = _mm256_loadu_pd(out->ab + half),
                dd = _mm256_loadu_pd(out->dd + half);
        __m256d max_abs = _mm256_loadu_pd(out->max_abs + half);
        for (i = 0; i + AQI_SUM_LANES <= n; i += AQI_SUM_LANES) {
            __m256d x = _mm256_cvtps_pd(_mm_loadu_ps(a + i + half));
            __m256d y = _mm256_cvtps_pd(_mm_loadu_ps(b + i + half));
            __m256d d = _mm256_sub_pd(x, y);
            aa = _mm256_add_pd(aa, _mm256_mul_pd(x, x));
            bb = _mm256_add_pd(bb, _mm256_mul_pd(y, y));
            ab = _mm256_add_pd(ab, _mm256_mul_pd(x, y));
            dd = _mm256_add_pd(dd, _mm256_mul_pd(d, d));
            max_abs = _mm256_max_pd(_mm256_andnot_pd(sign, d), max_abs);
        }
        _mm256_storeu_pd(out->aa + half, aa);
        _mm256_storeu_pd(out->bb + half, bb);
        _mm256_storeu_pd(out->ab + half, ab);
        _mm256_storeu_pd(out->dd + half, dd);
        _mm256_storeu_pd(out->max_abs + half, max_abs);
    }
    _mm256_zeroupper();
    aqi_sums_ref(a + i, b + i, n - i, out);
}

AQI_AVX2 static void aqi_moments_avx2(const float *a, size_t n, double shift,
                                      double *lanes) {
    const __m256d by = _mm256_set1_pd(shift);
    __m256d sum[4];
    size_t i, k;
    for (k = 0; k < 4; k++) sum[k] = _mm256_loadu_pd(lanes + 4 * k);
    for (i = 0; i + AQI_SUM_LANES <= n; i += AQI_SUM_LANES) {
        for (k = 0; k < 2; k++) {
            __m256d d = _mm256_sub_pd(_mm256_cvtps_pd(_mm_loadu_ps(a + i + 4 * k)), by);
            sum[k] = _mm256_add_pd(sum[k], d);
            sum[k + 2] = _mm256_add_pd(sum[k + 2], _mm256_mul_pd(d, d));
        }
    }
    for (k = 0; k < 4; k++) _mm256_storeu_pd(lanes + 4 * k, sum[k]);
    _mm256_zeroupper();
    aqi_moments_ref(a + i, n - i, shift, lanes);
}

AQI_AVX2 static void aqi_from_f16_avx2(const uint8_t *src, size_t n, float *dst) {
    size_t i;
    for (i = 0; i + 8 <= n; i += 8)
        _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(aqi_load16(src + 2 * i)));
    _mm256_zeroupper();
    aqi_from_f16_ref(src + 2 * i, n - i, dst + i);
}

AQI_AVX2 static void aqi_from_bf16_avx2(const uint8_t *src, size_t n, float *dst) {
    size_t i;
    for (i = 0; i + 8 <= n; i += 8) {
        __m256i v = _mm256_slli_epi32(_mm256_cvtepu16_epi32(aqi_load16(src + 2 * i)), 16);
        _mm256_storeu_ps(dst + i, _mm256_castsi256_ps(v));
    }
    _mm256_zeroupper();
    aqi_from_bf16_ref(src + 2 * i, n - i, dst + i);
}

AQI_AVX2 static void aqi_to_f16_avx2(const float *src, size_t n, uint8_t *dst) {
    size_t i;
    for (i = 0; i + 8 <= n; i += 8)
        aqi_store16(dst + 2 * i, _mm256_cvtps_ph(_mm256_loadu_ps(src + i),
                                                 _MM_FROUND_TO_NEAREST_INT));
    _mm256_zeroupper();
    aqi_to_f16_ref(src + i, n - i, dst + 2 * i);
}

AQI_AVX2 static void aqi_to_bf16_avx2(const float *src, size_t n, uint8_t *dst) {
    const __m256i one = _mm256_set1_epi32(1), half = _mm256_set1_epi32(0x7fff);
    const __m256i quiet = _mm256_set1_epi32(0x400000);
    size_t i;
    for (i = 0; i + 8 <= n; i += 8) {
        __m256 x = _mm256_loadu_ps(src + i);
        __m256i bits = _mm256_castps_si256(x), nan, odd;
        nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
        odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), one);
        odd = _mm256_add_epi32(bits, _mm256_add_epi32(half, odd));
        bits = _mm256_blendv_epi8(odd, _mm256_or_si256(bits, quiet), nan);
        bits = _mm256_srli_epi32(bits, 16);
        bits = _mm256_permute4x64_epi64(_mm256_packus_epi32(bits, bits), 0xd8);
        aqi_store16(dst + 2 * i, _mm256_castsi256_si128(bits));
    }
    _mm256_zeroupper();
    aqi_to_bf16_ref(src + i, n - i, dst + 2 * i);
}

/* x folded forward over the distance that k stands for, plus the next bytes. */
AQI_INLINE AQI_AVX2 __m128i aqi_crc32_fold(__m128i x, __m128i k, __m128i next) {
    __m128i low = _mm_clmulepi64_si128(x, k, 0x00),
            high = _mm_clmulepi64_si128(x, k, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

/* Carry-less multiplication. Source: Gopal et al., "Fast CRC Computation for Generic
 * Polynomials Using PCLMULQDQ Instruction", Intel 2009: constants x^n mod P,
 * reflected. */
AQI_AVX2 static uint32_t aqi_crc32_avx2(uint32_t state, const uint8_t *src, size_t n) {
    const __m128i k64 = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4);
    const __m128i k16 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
    const __m128i k8 = _mm_set_epi64x(0, 0x0163cd6124);
    const __m128i barrett = _mm_set_epi64x(0x01f7011641, 0x01db710641);
    const __m128i low32 = _mm_setr_epi32(-1, 0, -1, 0);
    __m128i x[4], t;
    size_t k;
    if (n < 64) return aqi_crc32_ref(state, src, n);
    for (k = 0; k < 4; k++) x[k] = aqi_load16(src + 16 * k);
    x[0] = _mm_xor_si128(x[0], _mm_cvtsi32_si128((int)state));
    for (src += 64, n -= 64; n >= 64; src += 64, n -= 64) {
        for (k = 0; k < 4; k++)
            x[k] = aqi_crc32_fold(x[k], k64, aqi_load16(src + 16 * k));
    }
    for (k = 1; k < 4; k++) x[0] = aqi_crc32_fold(x[0], k16, x[k]);
    for (; n >= 16; src += 16, n -= 16) x[0] = aqi_crc32_fold(x[0], k16, aqi_load16(src));
    /* 128 bits to 64, to 32 by Barrett reduction. */
    t = _mm_xor_si128(_mm_clmulepi64_si128(x[0], k16, 0x10), _mm_srli_si128(x[0], 8));
    t = _mm_xor_si128(_mm_clmulepi64_si128(_mm_and_si128(t, low32), k8, 0x00),
                      _mm_srli_si128(t, 4));
    x[1] = _mm_clmulepi64_si128(_mm_and_si128(t, low32), barrett, 0x10);
    x[1] = _mm_clmulepi64_si128(_mm_and_si128(x[1], low32), barrett, 0x00);
    state = (uint32_t)_mm_extract_epi32(_mm_xor_si128(t, x[1]), 1);
    return aqi_crc32_ref(state, src, n);
}

static const struct aqi_kernels aqi_kernels_avx2 = {
#define AQ_X(name, result, parameters) aqi_##name##_avx2,
    AQI_KERNELS(AQ_X)
#undef AQ_X
    AQ_ISA_AVX2};

/* The CPU has the instructions and the system saves the wide registers. */
static bool aqi_cpu_has(uint32_t leaf7_b, uint32_t leaf7_c, uint32_t saved) {
    const uint32_t leaf1 =
        1u << 27 | 1u << 28 | 1u << 29 | 1u << 1; /* osxsave avx f16c clmul */
    uint32_t a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & leaf1) != leaf1) return false;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & saved) != saved) return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & leaf7_b) == leaf7_b &&
           (c & leaf7_c) == leaf7_c;
}

static bool aqi_cpu_has_avx2(void) { return aqi_cpu_has(1u << 5, 0, 0x06); }

#endif /* AVX2 */

/*==========================================================================
 * MARK: - [62] Kernels: AVX-512 (private)
 * Those of [61] where 512 bits were not measured to be faster. Bitwise equal to [60].
 *========================================================================*/

/* g++ before 13 warns of operands that its own intrinsics leave undefined. */
#if defined(__cplusplus) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 13
#define AQI_NO_AVX512 1
#endif

#if (AQ_KERNELS & AQ_KERNEL_AVX512) && defined(AQI_HAVE_AVX2) && !defined(AQI_NO_AVX512)
#define AQI_HAVE_AVX512 1
#define AQI_AVX512                                                                       \
    __attribute__((target(                                                               \
        "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,vpclmulqdq,avx2,f16c,pclmul")))

AQI_INLINE AQI_AVX512 __m512i aqi_crc32_fold4(__m512i x, __m512i k, const uint8_t *next) {
    __m512i low = _mm512_clmulepi64_epi128(x, k, 0x00),
            high = _mm512_clmulepi64_epi128(x, k, 0x11);
    return _mm512_ternarylogic_epi64(low, high, _mm512_loadu_si512(next), 0x96);
}

AQI_INLINE AQI_AVX512 __m512i aqi_crc32_constants(uint64_t low, uint64_t high) {
    return _mm512_set_epi64((int64_t)high, (int64_t)low, (int64_t)high, (int64_t)low,
                            (int64_t)high, (int64_t)low, (int64_t)high, (int64_t)low);
}

/* As aqi_crc32_avx2, 256 bytes at a time; their remainder, 64 bytes, goes on there. */
AQI_AVX512 static uint32_t aqi_crc32_avx512(uint32_t state, const uint8_t *src,
                                            size_t n) {
    const __m512i k256 = aqi_crc32_constants(0x11542778au, 0x1322d1430u);
    const __m512i k64 = aqi_crc32_constants(0x154442bd4u, 0x1c6e41596u);
    const __m512i zero = _mm512_setzero_si512();
    __m512i x[4];
    uint8_t rest[64];
    size_t k;
    if (n < 512) return aqi_crc32_avx2(state, src, n);
    for (k = 0; k < 4; k++) x[k] = _mm512_loadu_si512(src + 64 * k);
    x[0] = _mm512_xor_si512(x[0], _mm512_mask_set1_epi32(zero, 1, (int32_t)state));
    for (src += 256, n -= 256; n >= 256; src += 256, n -= 256) {
        for (k = 0; k < 4; k++) x[k] = aqi_crc32_fold4(x[k], k256, src + 64 * k);
    }
    for (k = 1; k < 4; k++) {
        _mm512_storeu_si512(rest, x[k]);
        x[0] = aqi_crc32_fold4(x[0], k64, rest);
    }
    for (; n >= 64; src += 64, n -= 64) x[0] = aqi_crc32_fold4(x[0], k64, src);
    /* A remainder is a message of the same CRC, from state 0. */
    _mm512_storeu_si512(rest, x[0]);
    return aqi_crc32_avx2(aqi_crc32_avx2(0, rest, sizeof rest), src, n);
}

/* ---- blocks of groups ---- */

AQI_INLINE AQI_AVX512 __m512i aqi_join512(__m512i a, __m512i b, aqi_join how) {
    __m512 x = _mm512_castsi512_ps(a), y = _mm512_castsi512_ps(b);
    if (how == AQI_JOIN_MIN) return _mm512_castps_si512(_mm512_min_ps(x, y));
    if (how == AQI_JOIN_MAX) return _mm512_castps_si512(_mm512_max_ps(x, y));
    return how == AQI_JOIN_ADD ? _mm512_add_epi32(a, b) : _mm512_max_epu32(a, b);
}

/* Lane g of the result joins the lanes of v[g]. Overwrites v. */
AQI_INLINE AQI_AVX512 __m512i aqi_fold512(__m512i *v, aqi_join how) {
    size_t i;
    for (i = 0; i < 8; i++)
        v[i] = aqi_join512(_mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]),
                           _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]), how);
    for (i = 0; i < 4; i++)
        v[i] = aqi_join512(_mm512_unpacklo_epi64(v[2 * i], v[2 * i + 1]),
                           _mm512_unpackhi_epi64(v[2 * i], v[2 * i + 1]), how);
    for (i = 0; i < 2; i++)
        v[i] = aqi_join512(_mm512_shuffle_i32x4(v[2 * i], v[2 * i + 1], 0x88),
                           _mm512_shuffle_i32x4(v[2 * i], v[2 * i + 1], 0xdd), how);
    return aqi_join512(_mm512_shuffle_i32x4(v[0], v[1], 0x88),
                       _mm512_shuffle_i32x4(v[0], v[1], 0xdd), how);
}

AQI_AVX512 static void aqi_ranges_avx512(const float *src, const aqi_quantizer *z,
                                         aqi_block *b, const char *ahead) {
    const __m512i mask = _mm512_set1_epi32(0x7fffffff);
    const __m512 zero = _mm512_setzero_ps();
    __m512i mins[AQI_BLOCK], maxs[AQI_BLOCK], mags[AQI_BLOCK];
    size_t g, i;
    for (g = 0; g < AQI_BLOCK; g++, src += z->n, ahead += z->ahead) {
        __m512 x = _mm512_loadu_ps(src), y = _mm512_loadu_ps(src + 16);
        __m512 min0 = x, min1 = y, max0 = x, max1 = y;
        __m512i mag0 = _mm512_and_si512(_mm512_castps_si512(x), mask);
        __m512i mag1 = _mm512_and_si512(_mm512_castps_si512(y), mask);
        aqi_fetch(ahead, z->ahead);
        for (i = 32; i < z->n; i += 32) {
            x = _mm512_loadu_ps(src + i);
            y = _mm512_loadu_ps(src + i + 16);
            min0 = _mm512_min_ps(min0, x);
            min1 = _mm512_min_ps(min1, y);
            max0 = _mm512_max_ps(max0, x);
            max1 = _mm512_max_ps(max1, y);
            mag0 = _mm512_max_epu32(mag0, _mm512_and_si512(_mm512_castps_si512(x), mask));
            mag1 = _mm512_max_epu32(mag1, _mm512_and_si512(_mm512_castps_si512(y), mask));
        }
        mins[g] = _mm512_castps_si512(_mm512_min_ps(min0, min1));
        maxs[g] = _mm512_castps_si512(_mm512_max_ps(max0, max1));
        mags[g] = _mm512_max_epu32(mag0, mag1);
    }
    for (g = 0; g < AQI_BLOCK; g += 16) {
        __m512 min = _mm512_castsi512_ps(aqi_fold512(mins + g, AQI_JOIN_MIN));
        __m512 max = _mm512_castsi512_ps(aqi_fold512(maxs + g, AQI_JOIN_MAX));
        _mm512_storeu_ps(b->min + g, _mm512_add_ps(min, zero));
        _mm512_storeu_ps(b->max + g, _mm512_add_ps(max, zero));
        _mm512_storeu_si512(b->absmax_bits + g, aqi_fold512(mags + g, AQI_JOIN_MAX_U32));
    }
}

/* Stores 64 one-byte codes, or the first 32 of them, packed. */
AQI_INLINE AQI_AVX512 void aqi_pack64(uint8_t *dst, __m512i v, uint32_t bits, bool half) {
    if (bits == 8) {
        if (half) aqi_store32(dst, _mm512_castsi512_si256(v));
        if (!half) _mm512_storeu_si512(dst, v);
    } else if (bits == 4) {
        __m256i w = _mm512_cvtepi16_epi8(
            _mm512_maddubs_epi16(v, _mm512_set1_epi16(0x1001)));
        if (half) aqi_store16(dst, _mm256_castsi256_si128(w));
        if (!half) aqi_store32(dst, w);
    } else {
        __m128i w;
        v = _mm512_maddubs_epi16(v, _mm512_set1_epi16(0x0401));
        v = _mm512_madd_epi16(v, _mm512_set1_epi32(0x00100001));
        w = _mm512_cvtepi32_epi8(v);
        if (half) _mm_storel_epi64((__m128i *)(void *)dst, w);
        if (!half) aqi_store16(dst, w);
    }
}

/* From the order that two packs leave: lane L has 4 of each of the four vectors. */
AQI_INLINE AQI_AVX512 __m512i aqi_unscramble64(__m512i v) {
    const __m512i order =
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(order, v);
}

typedef struct aqi_encode512 {
    __m512 base, inverse, bias, max_code;
} aqi_encode512;

AQI_INLINE AQI_AVX512 __m512i aqi_encode16(const float *src, const aqi_encode512 *how) {
    __m512 t = _mm512_sub_ps(_mm512_loadu_ps(src), how->base);
    t = _mm512_add_ps(_mm512_mul_ps(t, how->inverse), how->bias);
    t = _mm512_min_ps(_mm512_max_ps(t, _mm512_setzero_ps()), how->max_code);
    return _mm512_castps_si512(_mm512_add_ps(t, _mm512_set1_ps(8388608.0f)));
}

/* The low 16 bits of the lanes of two vectors; lane L has 4 of each. */
AQI_INLINE AQI_AVX512 __m512i aqi_encode32(const float *src, const aqi_encode512 *how) {
    __m512i a = aqi_encode16(src, how), b = aqi_encode16(src + 16, how);
    const __m512i low = _mm512_set1_epi32(0xffff);
    return _mm512_packus_epi32(_mm512_and_si512(a, low), _mm512_and_si512(b, low));
}

AQI_INLINE AQI_AVX512 void aqi_encodes_of512(const float *src, const aqi_quantizer *z,
                                          const aqi_block *b, uint32_t bits,
                                          uint8_t *codes, const char *ahead) {
    const size_t n = z->n;
    size_t g, i;
    for (g = 0; g < AQI_BLOCK; g++, src += n, codes += n / 8 * bits, ahead += z->ahead) {
        aqi_encode512 how;
        __m512i v;
        how.base = _mm512_set1_ps(b->base[g]);
        how.inverse = _mm512_set1_ps(b->inverse[g]);
        how.bias = _mm512_set1_ps(b->bias[g]);
        how.max_code = _mm512_set1_ps(z->max_code);
        aqi_fetch(ahead, z->ahead);
        for (i = 0; i + 64 <= n; i += 64) {
            v = _mm512_packus_epi16(aqi_encode32(src + i, &how),
                                    aqi_encode32(src + i + 32, &how));
            aqi_pack64(codes + i / 8 * bits, aqi_unscramble64(v), bits, false);
        }
        if (i < n) {
            v = _mm512_packus_epi16(aqi_encode32(src + i, &how), _mm512_setzero_si512());
            aqi_pack64(codes + i / 8 * bits, aqi_unscramble64(v), bits, true);
        }
    }
}

AQI_AVX512 static void aqi_encodes_avx512(const float *src, const aqi_quantizer *z,
                                          const aqi_block *b, uint8_t *codes,
                                          const char *ahead) {
    if (z->bits == 2) aqi_encodes_of512(src, z, b, 2, codes, ahead);
    if (z->bits == 4) aqi_encodes_of512(src, z, b, 4, codes, ahead);
    if (z->bits == 8) aqi_encodes_of512(src, z, b, 8, codes, ahead);
}

/* Sums of each group's codes and steps; 32-bit lanes, folded at the end. */
typedef struct aqi_refits512 {
    __m512i u[AQI_BLOCK], q[AQI_BLOCK], qq[AQI_BLOCK], qu[AQI_BLOCK];
} aqi_refits512;

AQI_INLINE AQI_AVX512 void aqi_store_sums512(double *dst, __m512i *v) {
    size_t g;
    for (g = 0; g < AQI_BLOCK; g += 16) {
        __m512i sums = aqi_fold512(v + g, AQI_JOIN_ADD);
        __m256i high = _mm512_extracti64x4_epi64(sums, 1);
        _mm512_storeu_pd(dst + g, _mm512_cvtepi32_pd(_mm512_castsi512_si256(sums)));
        _mm512_storeu_pd(dst + g + 8, _mm512_cvtepi32_pd(high));
    }
}

/* Steps to 16 bits, in the scrambled order of two vectors packed. */
AQI_INLINE AQI_AVX512 __m512i aqi_steps32(const float *src, __m512 base, __m512 inverse,
                                          __m512i offset) {
    __m512 x = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(src), base), inverse);
    __m512 y = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(src + 16), base), inverse);
    return _mm512_add_epi16(
        _mm512_packs_epi32(_mm512_cvtps_epi32(x), _mm512_cvtps_epi32(y)), offset);
}

/* Division by the unit of the grid, after the multiplication's 16 bits. */
AQI_INLINE AQI_AVX512 __m512i aqi_shift512(__m512i q, uint32_t bits) {
    if (bits == 8) return _mm512_srli_epi16(q, 6);
    return bits == 4 ? _mm512_srli_epi16(q, 9) : _mm512_srli_epi16(q, 10);
}

AQI_INLINE AQI_AVX512 void aqi_steps_of512(const float *src, const aqi_quantizer *z,
                                        uint32_t bits, aqi_refits *r, uint16_t *steps,
                                        const char *ahead) {
    const __m512i one = _mm512_set1_epi16(1);
    const __m512i offset = _mm512_set1_epi16((short)z->grid.unit);
    const __m512i from = _mm512_set1_epi16((short)r->from[0]);
    const __m512i slope = _mm512_set1_epi16((short)r->slope[0]);
    const __m512i top = _mm512_set1_epi16((short)z->max_code);
    const size_t n = z->n;
    aqi_refits512 s;
    size_t g, i;
    for (g = 0; g < AQI_BLOCK; g++, src += n, steps += n, ahead += z->ahead) {
        const __m512 base = _mm512_set1_ps(r->base[g]);
        const __m512 inverse = _mm512_set1_ps(r->inverse[g]);
        __m512i su = _mm512_setzero_si512(), sq = su, sqq = su, squ = su;
        aqi_fetch(ahead, z->ahead);
        for (i = 0; i < n; i += 32) {
            __m512i u = aqi_steps32(src + i, base, inverse, offset);
            __m512i q = _mm512_mulhi_epu16(_mm512_subs_epu16(u, from), slope);
            q = _mm512_min_epu16(aqi_shift512(q, bits), top);
            _mm512_storeu_si512(steps + i, u);
            su = _mm512_dpwssd_epi32(su, u, one);
            sq = _mm512_add_epi16(sq, q);
            sqq = _mm512_dpwssd_epi32(sqq, q, q);
            squ = _mm512_dpwssd_epi32(squ, q, u);
        }
        s.u[g] = su;
        s.q[g] = _mm512_madd_epi16(sq, one);
        s.qq[g] = sqq;
        s.qu[g] = squ;
    }
    aqi_store_sums512(r->u, s.u);
    aqi_store_sums512(r->q, s.q);
    aqi_store_sums512(r->qq, s.qq);
    aqi_store_sums512(r->qu, s.qu);
}

AQI_AVX512 static void aqi_steps16_avx512(const float *src, const aqi_quantizer *z,
                                          aqi_refits *r, uint16_t *steps,
                                          const char *ahead) {
    if (z->bits == 2) aqi_steps_of512(src, z, 2, r, steps, ahead);
    if (z->bits == 4) aqi_steps_of512(src, z, 4, r, steps, ahead);
    if (z->bits == 8) aqi_steps_of512(src, z, 8, r, steps, ahead);
}

/* codes NULL: only the sums. */
AQI_INLINE AQI_AVX512 void aqi_refits_of512(const uint16_t *steps, const aqi_quantizer *z,
                                         uint32_t bits, aqi_refits *r, uint8_t *codes,
                                         const char *ahead) {
    const __m512i one = _mm512_set1_epi16(1), top = _mm512_set1_epi16((short)z->max_code);
    const size_t n = z->n;
    aqi_refits512 s;
    size_t g, i;
    for (g = 0; g < AQI_BLOCK; g++, steps += n, ahead += z->ahead) {
        const __m512i from = _mm512_set1_epi16((short)r->from[g]);
        const __m512i slope = _mm512_set1_epi16((short)r->slope[g]);
        __m512i sq = _mm512_setzero_si512(), sqq = sq, squ = sq, even = sq, q = sq;
        aqi_fetch(ahead, z->ahead);
        for (i = 0; i < n; i += 32) {
            __m512i u = _mm512_loadu_si512(steps + i);
            even = q;
            q = _mm512_mulhi_epu16(_mm512_subs_epu16(u, from), slope);
            q = _mm512_min_epu16(aqi_shift512(q, bits), top);
            sq = _mm512_add_epi16(sq, q);
            sqq = _mm512_dpwssd_epi32(sqq, q, q);
            squ = _mm512_dpwssd_epi32(squ, q, u);
            if (codes != NULL && i % 64 != 0)
                aqi_pack64(codes + (i - 32) / 8 * bits,
                           aqi_unscramble64(_mm512_packus_epi16(even, q)), bits, false);
        }
        if (codes != NULL && n % 64 != 0)
            aqi_pack64(codes + (n - 32) / 8 * bits,
                       aqi_unscramble64(_mm512_packus_epi16(q, even)), bits, true);
        codes += codes != NULL ? n / 8 * bits : 0;
        s.q[g] = _mm512_madd_epi16(sq, one);
        s.qq[g] = sqq;
        s.qu[g] = squ;
    }
    aqi_store_sums512(r->q, s.q);
    aqi_store_sums512(r->qq, s.qq);
    aqi_store_sums512(r->qu, s.qu);
}

AQI_AVX512 static void aqi_refits_avx512(const uint16_t *steps, const aqi_quantizer *z,
                                         aqi_refits *r, uint8_t *codes,
                                         const char *ahead) {
    if (z->bits == 2 && codes == NULL) aqi_refits_of512(steps, z, 2, r, NULL, ahead);
    if (z->bits == 4 && codes == NULL) aqi_refits_of512(steps, z, 4, r, NULL, ahead);
    if (z->bits == 8 && codes == NULL) aqi_refits_of512(steps, z, 8, r, NULL, ahead);
    if (z->bits == 2 && codes != NULL) aqi_refits_of512(steps, z, 2, r, codes, ahead);
    if (z->bits == 4 && codes != NULL) aqi_refits_of512(steps, z, 4, r, codes, ahead);
    if (z->bits == 8 && codes != NULL) aqi_refits_of512(steps, z, 8, r, codes, ahead);
}

AQI_AVX512 static uint32_t aqi_block_avx512(const float *src, const aqi_quantizer *z,
                                            aqi_block_out *out) {
    const aqi_block_ops ops = {aqi_ranges_avx512, aqi_encodes_avx512, aqi_steps16_avx512,
                               aqi_refits_avx512};
    if (!aqi_block_takes(z)) return AQI_BLOCK_NONE;
    return aqi_block_body(&ops, src, z, out);
}

AQI_AVX512 static void aqi_squares_avx512(const float *src, const uint8_t *codes,
                                          size_t n, const aqi_decode *how,
                                          double *lanes) {
    const __m512 s = _mm512_set1_ps(how->scale), z = _mm512_set1_ps(how->zero_point);
    __m512d sum = _mm512_loadu_pd(lanes);
    size_t i;
    for (i = 0; i + 16 <= n; i += 16) {
        __m512 x = _mm512_loadu_ps(src + i);
        __m512 w = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(aqi_load16(codes + i)));
        __m512d d;
        w = _mm512_mul_ps(_mm512_sub_ps(w, z), s);
        d = _mm512_sub_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(x)),
                          _mm512_cvtps_pd(_mm512_castps512_ps256(w)));
        sum = _mm512_add_pd(sum, _mm512_mul_pd(d, d));
        d = _mm512_sub_pd(_mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)),
                          _mm512_cvtps_pd(_mm512_extractf32x8_ps(w, 1)));
        sum = _mm512_add_pd(sum, _mm512_mul_pd(d, d));
    }
    _mm512_storeu_pd(lanes, sum);
    _mm256_zeroupper();
    aqi_squares_ref(src + i, codes + i, n - i, how, lanes);
}


/* ---- rows ---- */

/* What 16 codes stand for before scale and zero point: themselves, or their levels. */
AQI_INLINE AQI_AVX512 __m512 aqi_steps_of_codes(const aqi_row *row) {
    __m512i q = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    if (row->bits == 2) q = _mm512_and_si512(q, _mm512_set1_epi32(3));
    if (row->levels != NULL) q = _mm512_cvtepu8_epi32(aqi_levels16(row));
    return _mm512_cvtepi32_ps(q);
}

/* Values of 16 codes in a group. */
typedef struct aqi_values512 {
    __m512 table, scale, zero_point;
} aqi_values512;

AQI_INLINE AQI_AVX512 aqi_values512 aqi_values512_of(const aqi_row *row, __m512 steps,
                                                     size_t g) {
    aqi_values512 v;
    v.scale = _mm512_set1_ps(row->scales[g]);
    v.zero_point = _mm512_set1_ps(row->zero_points[g]);
    v.table = _mm512_mul_ps(_mm512_sub_ps(steps, v.zero_point), v.scale);
    return v;
}

/* Sixteen values from 16 codes. */
AQI_INLINE AQI_AVX512 __m512 aqi_values16(const uint8_t *codes, uint32_t bits,
                                          const aqi_values512 *v) {
    __m512i q;
    uint32_t word;
    if (bits == 8) {
        __m512 w = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(aqi_load16(codes)));
        return _mm512_mul_ps(_mm512_sub_ps(w, v->zero_point), v->scale);
    }
    if (bits == 4) { /* of an index only the low four bits count */
        q = _mm512_cvtepu8_epi64(aqi_load8(codes));
        q = _mm512_or_si512(q, _mm512_slli_epi64(q, 28));
    } else {
        memcpy(&word, codes, sizeof word);
        q = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        q = _mm512_srlv_epi32(_mm512_set1_epi32((int)word), q);
    }
    return _mm512_permutexvar_ps(q, v->table);
}

AQI_INLINE AQI_AVX512 size_t aqi_expand_of512(const aqi_row *row, uint32_t bits,
                                              float *dst) {
    const uint8_t *codes = row->codes;
    const __m512 steps = aqi_steps_of_codes(row);
    size_t g, i = 0, end;
    for (g = 0; row->n - i >= 16; g++) {
        const aqi_values512 v = aqi_values512_of(row, steps, g);
        for (end = i + AQI_MIN(row->group, (row->n - i) / 16 * 16); i < end; i += 16) {
            if (i % 64 == 0) __builtin_prefetch(codes + AQI_ROW_AHEAD);
            _mm512_storeu_ps(dst + i, aqi_values16(codes, bits, &v));
            codes += 2 * bits;
        }
    }
    return i;
}

AQI_AVX512 static void aqi_expand_avx512(const aqi_row *row, float *dst) {
    size_t done = 0;
    aqi_row rest;
    if (!aqi_row_is_even(row)) {
        aqi_expand_by(&aqi_row_ops_avx2, row, dst);
        return;
    }
    if (row->bits == 2) done = aqi_expand_of512(row, 2, dst);
    if (row->bits == 4) done = aqi_expand_of512(row, 4, dst);
    if (row->bits == 8) done = aqi_expand_of512(row, 8, dst);
    _mm256_zeroupper();
    if (done == row->n) return;
    rest = aqi_row_from(row, done);
    aqi_expand_ref(&rest, dst + done);
}

AQI_INLINE AQI_AVX512 size_t aqi_dot_row_of512(const aqi_row *row, uint32_t bits,
                                               const float *x, float *lanes) {
    const uint8_t *codes = row->codes;
    const __m512 steps = aqi_steps_of_codes(row);
    const size_t group = AQI_MAX(row->group, (size_t)32);
    __m512 sum0 = _mm512_loadu_ps(lanes), sum1 = _mm512_loadu_ps(lanes + 16), w;
    size_t g = 0, i = 0, end;
    while (row->n - i >= 32) {
        aqi_values512 a = aqi_values512_of(row, steps, g++), b = a;
        for (end = i + AQI_MIN(group, (row->n - i) / 32 * 32); i < end; i += 32) {
            if (row->group == 16) b = aqi_values512_of(row, steps, g++);
            __builtin_prefetch(codes + AQI_ROW_AHEAD);
            w = _mm512_mul_ps(aqi_values16(codes, bits, &a), _mm512_loadu_ps(x + i));
            sum0 = _mm512_add_ps(sum0, w);
            w = _mm512_mul_ps(aqi_values16(codes + 2 * bits, bits, &b),
                              _mm512_loadu_ps(x + i + 16));
            sum1 = _mm512_add_ps(sum1, w);
            codes += 4 * bits;
        }
    }
    _mm512_storeu_ps(lanes, sum0);
    _mm512_storeu_ps(lanes + 16, sum1);
    return i;
}

AQI_AVX512 static void aqi_dot_row_avx512(const aqi_row *row, const float *x,
                                          float *lanes) {
    size_t done = 0;
    aqi_row rest;
    if (!aqi_row_is_even(row)) {
        aqi_dot_row_by(&aqi_row_ops_avx2, row, x, lanes);
        return;
    }
    if (row->bits == 2) done = aqi_dot_row_of512(row, 2, x, lanes);
    if (row->bits == 4) done = aqi_dot_row_of512(row, 4, x, lanes);
    if (row->bits == 8) done = aqi_dot_row_of512(row, 8, x, lanes);
    _mm256_zeroupper();
    if (done == row->n) return;
    rest = aqi_row_from(row, done);
    aqi_dot_row_ref(&rest, x + done, lanes);
}

/* What 64 bytes stand for whose low bits are codes. */
AQI_INLINE AQI_AVX512 __m512i aqi_x8_codes64(__m512i v, uint32_t bits,
                                             const __m512i *levels) {
    v = _mm512_and_si512(v, _mm512_set1_epi8(bits == 4 ? 15 : 3));
    return levels == NULL ? v : _mm512_shuffle_epi8(*levels, v);
}

/* acc + the sums of a block of codes in lanes of 32 bits. */
AQI_INLINE AQI_AVX512 __m512i aqi_x8_sums64(__m512i acc, __m512i v, const int8_t *x,
                                            uint32_t bits, const __m512i *levels) {
    __m512i a = bits == 8 ? v : aqi_x8_codes64(v, bits, levels);
    acc = _mm512_dpbusd_epi32(acc, a, _mm512_loadu_si512(x));
    if (bits == 8) return acc;
    a = bits == 4 ? _mm512_srli_epi16(v, 4) : _mm512_srli_epi16(v, 2);
    a = aqi_x8_codes64(a, bits, levels);
    acc = _mm512_dpbusd_epi32(acc, a, _mm512_loadu_si512(x + AQI_X8_BYTES));
    if (bits == 4) return acc;
    a = aqi_x8_codes64(_mm512_srli_epi16(v, 4), bits, levels);
    acc = _mm512_dpbusd_epi32(acc, a, _mm512_loadu_si512(x + 2 * AQI_X8_BYTES));
    a = aqi_x8_codes64(_mm512_srli_epi16(v, 6), bits, levels);
    return _mm512_dpbusd_epi32(acc, a, _mm512_loadu_si512(x + 3 * AQI_X8_BYTES));
}

AQI_INLINE AQI_AVX512 void aqi_dot_x8_of512(const aqi_row *row, uint32_t bits,
                                            const __m512i *levels, const aqi_x8 *x,
                                            float *lanes) {
    const size_t bytes = (row->n * bits + 7) / 8, segment = x->segment * bits / 8;
    const size_t planes = AQI_X8_BYTES * 8 / bits,
                 words = AQI_MIN(segment / 4, (size_t)16);
    float scales[AQI_X8_TERMS + 16], zero_terms[AQI_X8_TERMS];
    __m512 sum = _mm512_loadu_ps(lanes), zero = _mm512_loadu_ps(lanes + AQI_X8_LANES), s;
    __m512i index, v;
    size_t i, k, at = 0, first = 0, have, end;
    const int8_t *p = x->codes;
    memset(scales, 0, sizeof scales);
    index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (k = 0; (size_t)1 << k < words; k++) continue;
    index = _mm512_srl_epi32(index, _mm_cvtsi32_si128((int)k));
    for (; at < bytes; first += have) {
        have = AQI_MIN((bytes - at + segment - 1) / segment, (size_t)AQI_X8_TERMS);
        aqi_x8_terms(row, x, first, have, scales, zero_terms);
        for (i = 0; i < have; i += 16)
            zero = _mm512_add_ps(zero, _mm512_loadu_ps(zero_terms + i));
        for (i = 0; i < have; i += 16 / words) {
            __m512i acc = _mm512_setzero_si512();
            end = AQI_MIN(at + AQI_MAX(segment, (size_t)AQI_X8_BYTES), bytes);
            for (; at + AQI_X8_BYTES <= end; at += AQI_X8_BYTES, p += planes) {
                __builtin_prefetch(row->codes + at + AQI_ROW_AHEAD);
                v = _mm512_loadu_si512(row->codes + at);
                acc = aqi_x8_sums64(acc, v, p, bits, levels);
            }
            if (at < end) {
                v = _mm512_maskz_loadu_epi8(((__mmask64)1 << (end - at)) - 1,
                                            row->codes + at);
                acc = aqi_x8_sums64(acc, v, p, bits, levels);
                at = end;
            }
            s = _mm512_set1_ps(scales[i]);
            if (words < 16) s = _mm512_permutexvar_ps(index, _mm512_loadu_ps(scales + i));
            sum = _mm512_add_ps(sum, _mm512_mul_ps(_mm512_cvtepi32_ps(acc), s));
        }
    }
    _mm512_storeu_ps(lanes, sum);
    _mm512_storeu_ps(lanes + AQI_X8_LANES, zero);
}

AQI_AVX512 static void aqi_dot_x8_avx512(const aqi_row *row, const aqi_x8 *x,
                                         float *lanes) {
    if (!aqi_x8_is_even(row, x)) {
        aqi_dot_x8_ref(row, x, lanes);
        return;
    }
    if (row->levels != NULL) {
        const __m512i levels = _mm512_broadcast_i32x4(aqi_levels16(row));
        if (row->bits == 2) aqi_dot_x8_of512(row, 2, &levels, x, lanes);
        if (row->bits == 4) aqi_dot_x8_of512(row, 4, &levels, x, lanes);
    } else {
        if (row->bits == 2) aqi_dot_x8_of512(row, 2, NULL, x, lanes);
        if (row->bits == 4) aqi_dot_x8_of512(row, 4, NULL, x, lanes);
        if (row->bits == 8) aqi_dot_x8_of512(row, 8, NULL, x, lanes);
    }
    _mm256_zeroupper();
}

/* In the order of AQI_KERNELS. */
static const struct aqi_kernels aqi_kernels_avx512 = {
    aqi_range_avx2,    aqi_encode_avx2,  aqi_pack_avx2,      aqi_unpack_avx2,
    aqi_unpack32_avx2, aqi_delta32_avx2, aqi_delta64_avx2,   aqi_join_avx2,
    aqi_split_avx2,    aqi_run_avx2,     aqi_levels_avx2,    aqi_steps_avx2,
    aqi_refit_avx2,    aqi_block_avx512, aqi_squares_avx512, aqi_decode_avx2,
    aqi_expand_avx512, aqi_dot_avx2,     aqi_dot_row_avx512, aqi_dot_x8_avx512,
    aqi_sums_avx2,     aqi_moments_avx2, aqi_from_f16_avx2,  aqi_from_bf16_avx2,
    aqi_to_f16_avx2,   aqi_to_bf16_avx2, aqi_crc32_avx512,   AQ_ISA_AVX512};

static bool aqi_cpu_has_avx512(void) {
    const uint32_t leaf7_b = 1u << 5 | 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    /* avx2 f dq bw vl, vpclmulqdq vnni */
    return aqi_cpu_has(leaf7_b, 1u << 10 | 1u << 11, 0xe6);
}

#endif /* AVX-512 */

/*==========================================================================
 * MARK: - [63] Kernels: NEON (private)
 * Intrinsics of the ARMv8-A that every aarch64 CPU has; tails and odd cases through _ref.
 * Bitwise equal to [60]: a product and a sum are two instructions, never vfma. Checksums
 * and products of bytes use instructions that only most CPUs have; hence four tables.
 *========================================================================*/

#if (AQ_KERNELS & AQ_KERNEL_NEON) && defined(__aarch64__) && !AQI_BIG_ENDIAN
#define AQI_HAVE_NEON 1
#include <arm_neon.h>
#ifdef __linux__
#include <sys/auxv.h>
#endif

/* FMIN and FMAX pass a NaN on: without one, the magnitude is that of min or max. The last
 * sixteen values may be looked at twice. */
static void aqi_range_neon(const float *src, size_t n, aqi_range *out) {
    float32x4_t min0, min1, max0, max1;
    float min, max;
    size_t i;
    if (n < 16) {
        aqi_range_ref(src, n, out);
        return;
    }
    min0 = min1 = max0 = max1 = vld1q_f32(src);
    for (i = 0; i < n; i += 16) {
        const float *p = src + AQI_MIN(i, n - 16);
        float32x4_t a = vld1q_f32(p), b = vld1q_f32(p + 4);
        float32x4_t c = vld1q_f32(p + 8), d = vld1q_f32(p + 12);
        min0 = vminq_f32(min0, vminq_f32(a, b));
        max0 = vmaxq_f32(max0, vmaxq_f32(a, b));
        min1 = vminq_f32(min1, vminq_f32(c, d));
        max1 = vmaxq_f32(max1, vmaxq_f32(c, d));
    }
    min = vminvq_f32(vminq_f32(min0, min1));
    max = vmaxvq_f32(vmaxq_f32(max0, max1));
    if (min != min) { /* rare: an error of its caller's caller */
        aqi_range_ref(src, n, out);
        return;
    }
    out->min = min + 0.0f;
    out->max = max + 0.0f;
    out->absmax_bits = AQI_MAX(aqi_float_bits(min) & 0x7fffffffu,
                               aqi_float_bits(max) & 0x7fffffffu);
}

/* Four codes, not yet clamped above. FCVTNU rounds half to even, and makes 0 of what is
 * less and of NaN. */
AQI_INLINE uint32x4_t aqi_encode4(const float *src, float32x4_t base, float32x4_t inverse,
                                  float32x4_t bias) {
    float32x4_t t = vmulq_f32(vsubq_f32(vld1q_f32(src), base), inverse);
    return vcvtnq_u32_f32(vaddq_f32(t, bias));
}

/* max_code is whole, so that it may be applied after rounding. */
static void aqi_encode_neon(const float *src, size_t n, const aqi_encode *how,
                            uint8_t *dst) {
    const float32x4_t base = vdupq_n_f32(how->base), inverse = vdupq_n_f32(how->inverse);
    const float32x4_t bias = vdupq_n_f32(how->bias);
    const uint8x16_t top = vdupq_n_u8((uint8_t)how->max_code);
    size_t i;
    for (i = 0; i + 16 <= n; i += 16) {
        uint32x4_t a = aqi_encode4(src + i, base, inverse, bias);
        uint32x4_t b = aqi_encode4(src + i + 4, base, inverse, bias);
        uint32x4_t c = aqi_encode4(src + i + 8, base, inverse, bias);
        uint32x4_t d = aqi_encode4(src + i + 12, base, inverse, bias);
        uint16x8_t low = vqmovn_high_u32(vqmovn_u32(a), b);
        uint16x8_t high = vqmovn_high_u32(vqmovn_u32(c), d);
        vst1q_u8(dst + i, vminq_u8(vqmovn_high_u16(vqmovn_u16(low), high), top));
    }
    aqi_encode_ref(src + i, n - i, how, dst + i);
}

/* Codes of 3, 5, 6 or 7 bits, 16 at a time: pairs, fours and eights are put together.
 * Returns how many were packed. */
static size_t aqi_pack_odd(const uint8_t *src, size_t n, uint32_t bits, uint8_t *dst) {
    const int16x8_t by2 = vdupq_n_s16((int16_t)bits);
    const int32x4_t by4 = vdupq_n_s32((int32_t)(2 * bits));
    const int64x2_t by8 = vdupq_n_s64((int64_t)(4 * bits));
    size_t bytes = (n * bits + 7) / 8, i;
    for (i = 0; i + 16 <= n; i += 16) {
        uint8_t *at = dst + i / 8 * bits;
        uint16x8_t two = vreinterpretq_u16_u8(vld1q_u8(src + i));
        uint32x4_t four;
        uint64x2_t eight;
        if (i / 8 * bits + bits + 8 > bytes) break; /* the last store would not fit */
        two = vorrq_u16(vandq_u16(two, vdupq_n_u16(0xff)),
                        vshlq_u16(vshrq_n_u16(two, 8), by2));
        four = vreinterpretq_u32_u16(two);
        four = vorrq_u32(vandq_u32(four, vdupq_n_u32(0xffff)),
                         vshlq_u32(vshrq_n_u32(four, 16), by4));
        eight = vreinterpretq_u64_u32(four);
        eight = vorrq_u64(vandq_u64(eight, vdupq_n_u64(0xffffffff)),
                          vshlq_u64(vshrq_n_u64(eight, 32), by8));
        vst1_u8(at, vreinterpret_u8_u64(vget_low_u64(eight)));
        vst1_u8(at + bits, vreinterpret_u8_u64(vget_high_u64(eight)));
    }
    return i;
}

/* 64 codes of one bit to 8 bytes, by sums of neighbours. */
static size_t aqi_pack_single(const uint8_t *src, size_t n, uint8_t *dst) {
    const int8x16_t up = vreinterpretq_s8_u64(vdupq_n_u64(0x0706050403020100));
    size_t i;
    for (i = 0; i + 64 <= n; i += 64) {
        uint8x16_t a = vpaddq_u8(vshlq_u8(vld1q_u8(src + i), up),
                                 vshlq_u8(vld1q_u8(src + i + 16), up));
        uint8x16_t b = vpaddq_u8(vshlq_u8(vld1q_u8(src + i + 32), up),
                                 vshlq_u8(vld1q_u8(src + i + 48), up));
        a = vpaddq_u8(a, b);
        vst1_u8(dst + i / 8, vget_low_u8(vpaddq_u8(a, a)));
    }
    return i;
}

/* Pairs of codes of 4 bits in the low bytes of 16 bits. */
AQI_INLINE uint8x16_t aqi_pack_pairs(const uint8_t *src) {
    uint16x8_t v = vreinterpretq_u16_u8(vld1q_u8(src));
    return vreinterpretq_u8_u16(vsraq_n_u16(v, v, 4));
}

/* Fours of codes of 2 bits in the low bytes of 32 bits. */
AQI_INLINE uint8x16_t aqi_pack_fours(const uint8_t *src) {
    uint16x8_t v = vreinterpretq_u16_u8(vld1q_u8(src));
    uint32x4_t w = vreinterpretq_u32_u16(vsraq_n_u16(v, v, 6));
    return vreinterpretq_u8_u32(vsraq_n_u32(w, w, 12));
}

static void aqi_pack_neon(const uint8_t *src, size_t n, uint32_t bits, uint8_t *dst) {
    size_t i = 0;
    if (bits == 8) {
        memcpy(dst, src, n);
        return;
    }
    if (bits == 4) {
        for (; i + 32 <= n; i += 32) {
            uint8x16_t a = aqi_pack_pairs(src + i), b = aqi_pack_pairs(src + i + 16);
            vst1q_u8(dst + i / 2, vuzp1q_u8(a, b));
        }
    } else if (bits == 2) {
        for (; i + 64 <= n; i += 64) {
            uint8x16_t a = vuzp1q_u8(aqi_pack_fours(src + i),
                                     aqi_pack_fours(src + i + 16));
            uint8x16_t b = vuzp1q_u8(aqi_pack_fours(src + i + 32),
                                     aqi_pack_fours(src + i + 48));
            vst1q_u8(dst + i / 4, vuzp1q_u8(a, b));
        }
    } else {
        i = bits == 1 ? aqi_pack_single(src, n, dst) : aqi_pack_odd(src, n, bits, dst);
    }
    aqi_pack_ref(src + i, n - i, bits, dst + i * bits / 8);
}

/* Codes of 1, 3, 5, 6 or 7 bits, 16 at a time: each is shifted down in the 16 bits that
 * begin with its first byte. Returns how many were unpacked. */
static size_t aqi_unpack_odd(const uint8_t *src, size_t n, uint32_t bits, uint8_t *dst) {
    const uint8x16_t mask = vdupq_n_u8((uint8_t)((1u << bits) - 1u));
    size_t bytes = (n * bits + 7) / 8, i;
    uint8_t pairs[16];
    int16_t downs[8];
    uint8x16_t low, high;
    int16x8_t down;
    for (i = 0; i < 8; i++) {
        pairs[2 * i] = (uint8_t)(i * bits / 8);
        pairs[2 * i + 1] = (uint8_t)(i * bits / 8 + 1);
        downs[i] = (int16_t)-(int)(i * bits % 8);
    }
    low = vld1q_u8(pairs);
    high = vaddq_u8(low, vdupq_n_u8((uint8_t)bits));
    down = vld1q_s16(downs);
    for (i = 0; i + 16 <= n && i / 8 * bits + 16 <= bytes; i += 16) {
        uint8x16_t v = vld1q_u8(src + i / 8 * bits);
        uint16x8_t a = vreinterpretq_u16_u8(vqtbl1q_u8(v, low));
        uint16x8_t b = vreinterpretq_u16_u8(vqtbl1q_u8(v, high));
        v = vuzp1q_u8(vreinterpretq_u8_u16(vshlq_u16(a, down)),
                      vreinterpretq_u8_u16(vshlq_u16(b, down)));
        vst1q_u8(dst + i, vandq_u8(v, mask));
    }
    return i;
}

/* 64 codes of 2 bits: those of a byte are put side by side, above them what is masked. */
AQI_INLINE void aqi_unpack_fours(uint8x16_t v, uint8_t *dst) {
    const uint8x16_t mask = vdupq_n_u8(3);
    uint8x16_t down = vshrq_n_u8(v, 2);
    uint8x16_t a = vzip1q_u8(v, down), b = vzip2q_u8(v, down);
    uint16x8_t c = vreinterpretq_u16_u8(a), d = vreinterpretq_u16_u8(b);
    uint16x8_t e = vreinterpretq_u16_u8(vshrq_n_u8(a, 4));
    uint16x8_t f = vreinterpretq_u16_u8(vshrq_n_u8(b, 4));
    vst1q_u8(dst, vandq_u8(vreinterpretq_u8_u16(vzip1q_u16(c, e)), mask));
    vst1q_u8(dst + 16, vandq_u8(vreinterpretq_u8_u16(vzip2q_u16(c, e)), mask));
    vst1q_u8(dst + 32, vandq_u8(vreinterpretq_u8_u16(vzip1q_u16(d, f)), mask));
    vst1q_u8(dst + 48, vandq_u8(vreinterpretq_u8_u16(vzip2q_u16(d, f)), mask));
}

static void aqi_unpack_neon(const uint8_t *src, size_t n, uint32_t bits, uint8_t *dst) {
    size_t i = 0;
    if (bits == 8) {
        memcpy(dst, src, n);
        return;
    }
    if (bits == 4) {
        for (; i + 32 <= n; i += 32) {
            uint8x16_t v = vld1q_u8(src + i / 2), high = vshrq_n_u8(v, 4);
            v = vandq_u8(v, vdupq_n_u8(15));
            vst1q_u8(dst + i, vzip1q_u8(v, high));
            vst1q_u8(dst + i + 16, vzip2q_u8(v, high));
        }
    } else if (bits == 2) {
        for (; i + 64 <= n; i += 64) aqi_unpack_fours(vld1q_u8(src + i / 4), dst + i);
    } else if (bits > 0 && n >= 16) {
        i = aqi_unpack_odd(src, n, bits, dst);
    }
    aqi_unpack_ref(src + i * bits / 8, n - i, bits, dst + i);
}

/* Where eight codes of at most 25 bits lie: four from byte 0, four from byte `half` on.
 * A code and the bits before it in its first byte fit in 32. */
typedef struct aqi_fours {
    size_t half, reach; /* reach: bytes that are read */
    uint8x16_t bytes[2];
    int32x4_t down[2];
    uint32x4_t mask;
} aqi_fours;

#define AQI_FOURS_BITS 25u

AQI_INLINE aqi_fours aqi_fours_of(uint32_t bits) {
    const uint32x4_t index = vcombine_u32(vcreate_u32((uint64_t)1 << 32),
                                          vcreate_u32((uint64_t)3 << 32 | 2));
    uint32x4_t at = vmulq_n_u32(index, bits), byte;
    aqi_fours f;
    size_t k;
    f.half = bits / 2;
    f.reach = f.half + 16;
    for (k = 0; k < 2; k++) {
        byte = vmulq_n_u32(vshrq_n_u32(at, 3), 0x01010101u);
        f.bytes[k] = vreinterpretq_u8_u32(vaddq_u32(byte, vdupq_n_u32(0x03020100u)));
        f.down[k] = vnegq_s32(vreinterpretq_s32_u32(vandq_u32(at, vdupq_n_u32(7))));
        at = vaddq_u32(at, vdupq_n_u32(4 * bits - 8 * (bits / 2)));
    }
    f.mask = vdupq_n_u32((1u << bits) - 1u);
    return f;
}

/* k = 0: the first four codes, 1: the last four. */
AQI_INLINE uint32x4_t aqi_unpack_four(const uint8_t *p, const aqi_fours *f, size_t k) {
    uint8x16_t v = vqtbl1q_u8(vld1q_u8(p + k * f->half), f->bytes[k]);
    return vandq_u32(vshlq_u32(vreinterpretq_u32_u8(v), f->down[k]), f->mask);
}

/* The code at a bit, of at most 57 bits, or of 64 that begin with a byte. */
AQI_INLINE uint64_t aqi_wide_code(const uint8_t *src, size_t bit, uint64_t mask) {
    uint64_t word;
    memcpy(&word, src + bit / 8, sizeof word);
    return word >> bit % 8 & mask;
}

/* How many of n codes aqi_wide_code may load: all, or whole eights. */
static size_t aqi_wide_count(const aqi_codes *c, size_t n) {
    size_t bytes = c->readable;
    if (bytes < 8 || (c->bits > 57 && c->bits != 64)) return 0;
    while (n > 0 && (n - 1) * c->bits / 8 > bytes - 8) n = (n - 1) / 8 * 8;
    return n;
}

static uint32_t aqi_unpack32_neon(const aqi_codes *src, size_t n, uint32_t *dst) {
    uint32_t bits = src->bits, most = 0, rest_most;
    const uint8_t *p = src->src, *end = p + src->readable;
    aqi_codes rest;
    size_t i = 0, whole, bit = 0;
    if (bits <= AQI_FOURS_BITS) {
        const aqi_fours f = aqi_fours_of(bits);
        uint32x4_t a, b, largest = vdupq_n_u32(0);
        for (; i + 8 <= n && (size_t)(end - p) >= f.reach; i += 8, p += bits) {
            a = aqi_unpack_four(p, &f, 0);
            b = aqi_unpack_four(p, &f, 1);
            largest = vmaxq_u32(largest, vmaxq_u32(a, b));
            vst1q_u32(dst + i, a);
            vst1q_u32(dst + i + 4, b);
        }
        most = vmaxvq_u32(largest);
    } else {
        const uint64_t mask = UINT64_MAX >> (64 - bits);
        for (whole = aqi_wide_count(src, n); i < whole; i++, bit += bits) {
            uint32_t code = (uint32_t)aqi_wide_code(p, bit, mask);
            most = AQI_MAX(most, code);
            dst[i] = code;
        }
    }
    if (i == n) return most;
    rest = aqi_codes_from(src, i);
    rest_most = aqi_unpack32_ref(&rest, n - i, dst + i);
    return AQI_MAX(most, rest_most);
}

/* Sums up to each of four, the last sum in all lanes of *last added. */
AQI_INLINE uint32x4_t aqi_sum_four(uint32x4_t v, uint32x4_t *last) {
    const uint32x4_t zero = vdupq_n_u32(0);
    uint32x4_t sums;
    v = vaddq_u32(v, vextq_u32(zero, v, 3));
    v = vaddq_u32(v, vextq_u32(zero, v, 2));
    sums = vaddq_u32(v, *last);
    *last = vaddq_u32(*last, vdupq_laneq_u32(v, 3));
    return sums;
}

AQI_INLINE uint64x2_t aqi_sum_two(uint64x2_t v, uint64x2_t *last) {
    uint64x2_t sums;
    v = vaddq_u64(v, vextq_u64(vdupq_n_u64(0), v, 1));
    sums = vaddq_u64(v, *last);
    *last = vaddq_u64(*last, vdupq_laneq_u64(v, 1));
    return sums;
}

static uint32_t aqi_delta32_neon(const aqi_codes *src, size_t n, uint32_t least,
                                 uint32_t last, uint32_t *dst) {
    uint32_t bits = src->bits;
    const uint8_t *p = src->src, *end = p + src->readable;
    aqi_codes rest;
    size_t i = 0, whole, bit = 0;
    if (bits <= AQI_FOURS_BITS) {
        const aqi_fours f = aqi_fours_of(bits);
        uint32x4_t a, b, sum = vdupq_n_u32(last), add = vdupq_n_u32(least);
        for (; i + 8 <= n && (size_t)(end - p) >= f.reach; i += 8, p += bits) {
            a = vaddq_u32(aqi_unpack_four(p, &f, 0), add);
            b = vaddq_u32(aqi_unpack_four(p, &f, 1), add);
            vst1q_u32(dst + i, aqi_sum_four(a, &sum));
            vst1q_u32(dst + i + 4, aqi_sum_four(b, &sum));
        }
        last = vgetq_lane_u32(sum, 0);
    } else {
        const uint64_t mask = UINT64_MAX >> (64 - bits);
        for (whole = aqi_wide_count(src, n); i < whole; i++, bit += bits)
            dst[i] = last += least + (uint32_t)aqi_wide_code(p, bit, mask);
    }
    if (i == n) return last;
    rest = aqi_codes_from(src, i);
    return aqi_delta32_ref(&rest, n - i, least, last, dst + i);
}

/* Four codes, widened. */
AQI_INLINE void aqi_delta_four(uint32x4_t v, uint64x2_t add, uint64x2_t *sum,
                               uint64_t *dst) {
    vst1q_u64(dst, aqi_sum_two(vaddw_u32(add, vget_low_u32(v)), sum));
    vst1q_u64(dst + 2, aqi_sum_two(vaddw_high_u32(add, v), sum));
}

static uint64_t aqi_delta64_neon(const aqi_codes *src, size_t n, uint64_t least,
                                 uint64_t last, uint64_t *dst) {
    uint32_t bits = src->bits;
    const uint8_t *p = src->src, *end = p + src->readable;
    aqi_codes rest;
    size_t i = 0, whole, bit = 0;
    if (bits <= AQI_FOURS_BITS) {
        const aqi_fours f = aqi_fours_of(bits);
        uint64x2_t sum = vdupq_n_u64(last), add = vdupq_n_u64(least);
        for (; i + 8 <= n && (size_t)(end - p) >= f.reach; i += 8, p += bits) {
            uint32x4_t a = aqi_unpack_four(p, &f, 0), b = aqi_unpack_four(p, &f, 1);
            aqi_delta_four(a, add, &sum, dst + i);
            aqi_delta_four(b, add, &sum, dst + i + 4);
        }
        last = vgetq_lane_u64(sum, 0);
    } else {
        const uint64_t mask = UINT64_MAX >> (64 - bits);
        for (whole = aqi_wide_count(src, n); i < whole; i++, bit += bits)
            dst[i] = last += least + aqi_wide_code(p, bit, mask);
    }
    if (i == n) return last;
    rest = aqi_codes_from(src, i);
    return aqi_delta64_ref(&rest, n - i, least, last, dst + i);
}

/* One step of a transposition and back: the index of a byte in all of x rotates left by
 * one bit, or right. 16 values of 2^k bytes take k steps from their streams, or
 * to them. */
AQI_INLINE void aqi_zip2(uint8x16_t a, uint8x16_t b, uint8x16_t *y) {
    y[0] = vzip1q_u8(a, b);
    y[1] = vzip2q_u8(a, b);
}

AQI_INLINE void aqi_zip4(const uint8x16_t *x, uint8x16_t *y) {
    aqi_zip2(x[0], x[2], y);
    aqi_zip2(x[1], x[3], y + 2);
}

AQI_INLINE void aqi_zip8(const uint8x16_t *x, uint8x16_t *y) {
    aqi_zip2(x[0], x[4], y);
    aqi_zip2(x[1], x[5], y + 2);
    aqi_zip2(x[2], x[6], y + 4);
    aqi_zip2(x[3], x[7], y + 6);
}

AQI_INLINE void aqi_unzip4(const uint8x16_t *x, uint8x16_t *y) {
    y[0] = vuzp1q_u8(x[0], x[1]);
    y[1] = vuzp1q_u8(x[2], x[3]);
    y[2] = vuzp2q_u8(x[0], x[1]);
    y[3] = vuzp2q_u8(x[2], x[3]);
}

AQI_INLINE void aqi_unzip8(const uint8x16_t *x, uint8x16_t *y) {
    y[0] = vuzp1q_u8(x[0], x[1]);
    y[1] = vuzp1q_u8(x[2], x[3]);
    y[2] = vuzp1q_u8(x[4], x[5]);
    y[3] = vuzp1q_u8(x[6], x[7]);
    y[4] = vuzp2q_u8(x[0], x[1]);
    y[5] = vuzp2q_u8(x[2], x[3]);
    y[6] = vuzp2q_u8(x[4], x[5]);
    y[7] = vuzp2q_u8(x[6], x[7]);
}

static void aqi_join2(const uint8_t *src, size_t n, size_t end, uint8_t *dst) {
    uint8x16_t y[2];
    size_t i;
    for (i = 0; i < end; i += 16) {
        aqi_zip2(vld1q_u8(src + i), vld1q_u8(src + n + i), y);
        vst1q_u8(dst + 2 * i, y[0]);
        vst1q_u8(dst + 2 * i + 16, y[1]);
    }
}

static void aqi_join4(const uint8_t *src, size_t n, size_t end, uint8_t *dst) {
    uint8x16_t x[4], y[4];
    size_t i;
    for (i = 0; i < end; i += 16) {
        x[0] = vld1q_u8(src + i);
        x[1] = vld1q_u8(src + n + i);
        x[2] = vld1q_u8(src + 2 * n + i);
        x[3] = vld1q_u8(src + 3 * n + i);
        aqi_zip4(x, y);
        aqi_zip4(y, x);
        vst1q_u8(dst + 4 * i, x[0]);
        vst1q_u8(dst + 4 * i + 16, x[1]);
        vst1q_u8(dst + 4 * i + 32, x[2]);
        vst1q_u8(dst + 4 * i + 48, x[3]);
    }
}

/* Sixteen bytes of each of eight streams. */
AQI_INLINE void aqi_load_streams(const uint8_t *const *streams, size_t i, uint8x16_t *x) {
    x[0] = vld1q_u8(streams[0] + i);
    x[1] = vld1q_u8(streams[1] + i);
    x[2] = vld1q_u8(streams[2] + i);
    x[3] = vld1q_u8(streams[3] + i);
    x[4] = vld1q_u8(streams[4] + i);
    x[5] = vld1q_u8(streams[5] + i);
    x[6] = vld1q_u8(streams[6] + i);
    x[7] = vld1q_u8(streams[7] + i);
}

static void aqi_join8(const uint8_t *src, size_t n, size_t end, uint8_t *dst) {
    const uint8_t *s[8];
    uint8x16_t x[8], y[8];
    size_t i;
    for (i = 0; i < 8; i++) s[i] = src + i * n;
    for (i = 0; i < end; i += 16) {
        uint8_t *p = dst + 8 * i;
        aqi_load_streams(s, i, x);
        aqi_zip8(x, y);
        aqi_zip8(y, x);
        aqi_zip8(x, y);
        vst1q_u8(p, y[0]);
        vst1q_u8(p + 16, y[1]);
        vst1q_u8(p + 32, y[2]);
        vst1q_u8(p + 48, y[3]);
        vst1q_u8(p + 64, y[4]);
        vst1q_u8(p + 80, y[5]);
        vst1q_u8(p + 96, y[6]);
        vst1q_u8(p + 112, y[7]);
    }
}

AQI_INLINE void aqi_put2(uint8_t *dst, size_t width, uint8x16_t v) {
    vst1_u8(dst, vget_low_u8(v));
    vst1_u8(dst + width, vget_high_u8(v));
}

AQI_INLINE uint8x16_t aqi_get2(const uint8_t *src, size_t width) {
    return vcombine_u8(vld1_u8(src), vld1_u8(src + width));
}

static void aqi_join_columns(const uint8_t *src, const aqi_columns *c, uint8_t *dst) {
    const uint8_t *s[8];
    size_t width = c->width, i;
    for (i = 0; i < 8; i++) s[i] = src + c->n * AQI_MIN(i, c->count - 1);
    for (i = c->begin; i < c->end; i += 16) {
        uint8_t *p = dst + i * width;
        uint8x16_t x[8], y[8];
        aqi_load_streams(s, i, x);
        aqi_zip8(x, y);
        aqi_zip8(y, x);
        aqi_zip8(x, y);
        aqi_put2(p, width, y[0]);
        aqi_put2(p + 2 * width, width, y[1]);
        aqi_put2(p + 4 * width, width, y[2]);
        aqi_put2(p + 6 * width, width, y[3]);
        aqi_put2(p + 8 * width, width, y[4]);
        aqi_put2(p + 10 * width, width, y[5]);
        aqi_put2(p + 12 * width, width, y[6]);
        aqi_put2(p + 14 * width, width, y[7]);
    }
}

static void aqi_split2(const uint8_t *src, size_t n, size_t end, uint8_t *dst) {
    size_t i;
    for (i = 0; i < end; i += 16) {
        uint8x16_t a = vld1q_u8(src + 2 * i), b = vld1q_u8(src + 2 * i + 16);
        vst1q_u8(dst + i, vuzp1q_u8(a, b));
        vst1q_u8(dst + n + i, vuzp2q_u8(a, b));
    }
}

static void aqi_split4(const uint8_t *src, size_t n, size_t end, uint8_t *dst) {
    uint8x16_t x[4], y[4];
    size_t i;
    for (i = 0; i < end; i += 16) {
        x[0] = vld1q_u8(src + 4 * i);
        x[1] = vld1q_u8(src + 4 * i + 16);
        x[2] = vld1q_u8(src + 4 * i + 32);
        x[3] = vld1q_u8(src + 4 * i + 48);
        aqi_unzip4(x, y);
        aqi_unzip4(y, x);
        vst1q_u8(dst + i, x[0]);
        vst1q_u8(dst + n + i, x[1]);
        vst1q_u8(dst + 2 * n + i, x[2]);
        vst1q_u8(dst + 3 * n + i, x[3]);
    }
}

static void aqi_split8(const uint8_t *src, size_t n, size_t end, uint8_t *dst) {
    uint8x16_t x[8], y[8];
    size_t i;
    for (i = 0; i < end; i += 16) {
        const uint8_t *q = src + 8 * i;
        uint8_t *p = dst + i;
        x[0] = vld1q_u8(q);
        x[1] = vld1q_u8(q + 16);
        x[2] = vld1q_u8(q + 32);
        x[3] = vld1q_u8(q + 48);
        x[4] = vld1q_u8(q + 64);
        x[5] = vld1q_u8(q + 80);
        x[6] = vld1q_u8(q + 96);
        x[7] = vld1q_u8(q + 112);
        aqi_unzip8(x, y);
        aqi_unzip8(y, x);
        aqi_unzip8(x, y);
        vst1q_u8(p, y[0]);
        vst1q_u8(p + n, y[1]);
        vst1q_u8(p + 2 * n, y[2]);
        vst1q_u8(p + 3 * n, y[3]);
        vst1q_u8(p + 4 * n, y[4]);
        vst1q_u8(p + 5 * n, y[5]);
        vst1q_u8(p + 6 * n, y[6]);
        vst1q_u8(p + 7 * n, y[7]);
    }
}

static void aqi_split_columns(const uint8_t *src, const aqi_columns *c, uint8_t *dst) {
    size_t width = c->width, n = c->n, i, k;
    for (i = c->begin; i < c->end; i += 16) {
        const uint8_t *p = src + i * width;
        uint8x16_t x[8], y[8];
        x[0] = aqi_get2(p, width);
        x[1] = aqi_get2(p + 2 * width, width);
        x[2] = aqi_get2(p + 4 * width, width);
        x[3] = aqi_get2(p + 6 * width, width);
        x[4] = aqi_get2(p + 8 * width, width);
        x[5] = aqi_get2(p + 10 * width, width);
        x[6] = aqi_get2(p + 12 * width, width);
        x[7] = aqi_get2(p + 14 * width, width);
        aqi_unzip8(x, y);
        aqi_unzip8(y, x);
        aqi_unzip8(x, y);
        for (k = 0; k < c->count; k++) vst1q_u8(dst + k * n + i, y[k]);
    }
}

static void aqi_join_neon(const uint8_t *src, size_t n, size_t width, uint8_t *dst) {
    size_t end = aqi_columns_end(n, width), k;
    aqi_columns c = {n, 0, 0, AQI_MIN(width, (size_t)8), width};
    if (width == 2) {
        aqi_join2(src, n, end, dst);
    } else if (width == 4) {
        aqi_join4(src, n, end, dst);
    } else if (width == 8) {
        aqi_join8(src, n, end, dst);
    } else {
        for (; c.begin < end; c.begin = c.end) {
            c.end = AQI_MIN(c.begin + AQI_STREAM_BLOCK, end);
            for (k = 0; k + c.count < width; k += c.count)
                aqi_join_columns(src + k * n, &c, dst + k);
            aqi_join_columns(src + (width - c.count) * n, &c, dst + width - c.count);
        }
    }
    aqi_join_from(src, end, n, width, dst);
}

static void aqi_split_neon(const uint8_t *src, size_t n, size_t width, uint8_t *dst) {
    size_t end = aqi_columns_end(n, width), k;
    aqi_columns c = {n, 0, 0, AQI_MIN(width, (size_t)8), width};
    if (width == 2) {
        aqi_split2(src, n, end, dst);
    } else if (width == 4) {
        aqi_split4(src, n, end, dst);
    } else if (width == 8) {
        aqi_split8(src, n, end, dst);
    } else {
        for (; c.begin < end; c.begin = c.end) {
            c.end = AQI_MIN(c.begin + AQI_STREAM_BLOCK, end);
            for (k = 0; k + c.count < width; k += c.count)
                aqi_split_columns(src + k, &c, dst + k * n);
            aqi_split_columns(src + width - c.count, &c, dst + (width - c.count) * n);
        }
    }
    aqi_split_from(src, end, n, width, dst);
}

static size_t aqi_run_neon(const uint8_t *src, size_t n) {
    const uint8x16_t first = vdupq_n_u8(n > 0 ? src[0] : 0);
    size_t i;
    for (i = 0; i + 16 <= n; i += 16) {
        uint8x16_t same = vceqq_u8(vld1q_u8(src + i), first);
        /* Four bits for each byte. */
        uint8x8_t nibbles = vshrn_n_u16(vreinterpretq_u16_u8(same), 4);
        uint64_t mask = vget_lane_u64(vreinterpret_u64_u8(nibbles), 0);
        if (mask != UINT64_MAX) return i + (size_t)__builtin_ctzll(~mask) / 4;
    }
    while (i < n && src[i] == src[0]) i++;
    return i;
}

static uint32_t aqi_levels_neon(const uint8_t *src, size_t n, uint32_t max,
                                aqi_level_counts *out) {
    const uint8x16_t zero = vdupq_n_u8(0), top = vdupq_n_u8((uint8_t)max);
    uint8x16_t largest = zero;
    uint32_t result, largest_all;
    size_t i = 0;
    while (i + 16 <= n) { /* a counter of 8 bits takes 255 */
        size_t end = i + AQI_MIN((n - i) / 16, (size_t)255) * 16;
        uint8x16_t zeros = zero, maxima = zero;
        for (; i < end; i += 16) {
            uint8x16_t v = vld1q_u8(src + i);
            zeros = vsubq_u8(zeros, vceqzq_u8(v));
            maxima = vsubq_u8(maxima, vceqq_u8(v, top));
            largest = vmaxq_u8(largest, v);
        }
        out->zeros += vaddlvq_u8(zeros);
        out->maxima += vaddlvq_u8(maxima);
    }
    largest_all = vmaxvq_u8(largest);
    result = aqi_levels_ref(src + i, n - i, max, out);
    return AQI_MAX(result, largest_all);
}

static int64_t aqi_steps_neon(const float *src, size_t n, float base, float inverse,
                              uint32_t offset, uint16_t *dst) {
    const float32x4_t b = vdupq_n_f32(base), k = vdupq_n_f32(inverse);
    const uint16x8_t top = vdupq_n_u16(32767);
    const uint32x4_t add = vdupq_n_u32(offset);
    uint32x4_t sum = vdupq_n_u32(0);
    int64_t total = 0;
    size_t i, end;
    for (i = 0; n - i >= 8;) { /* a lane grows by 65534 at most each time */
        for (end = i + AQI_MIN((n - i) / 8, (size_t)65536) * 8; i < end; i += 8) {
            float32x4_t x = vmulq_f32(vsubq_f32(vld1q_f32(src + i), b), k);
            float32x4_t y = vmulq_f32(vsubq_f32(vld1q_f32(src + i + 4), b), k);
            uint32x4_t p = vaddq_u32(vcvtnq_u32_f32(x), add); /* half to even */
            uint32x4_t q = vaddq_u32(vcvtnq_u32_f32(y), add);
            uint16x8_t u = vminq_u16(vqmovn_high_u32(vqmovn_u32(p), q), top);
            vst1q_u16(dst + i, u);
            sum = vpadalq_u16(sum, u);
        }
        total += (int64_t)vaddlvq_u32(sum);
        sum = vdupq_n_u32(0);
    }
    return total + aqi_steps_ref(src + i, n - i, base, inverse, offset, dst + i);
}

static void aqi_refit_neon(const uint16_t *src, size_t n, const aqi_fine *how,
                           aqi_fine_sums *out, uint8_t *codes) {
    const uint16x8_t base = vdupq_n_u16(how->base), top = vdupq_n_u16(how->max_code);
    const uint16x8_t slope = vdupq_n_u16(how->slope);
    const int16x8_t down = vdupq_n_s16((int16_t) - (int)how->shift);
    uint16x8_t sq = vdupq_n_u16(0);
    uint32x4_t sqq = vdupq_n_u32(0), squ = sqq;
    size_t i;
    for (i = 0; i + 8 <= n; i += 8) {
        uint16x8_t u = vld1q_u16(src + i), x = vqsubq_u16(u, base), q;
        uint32x4_t low = vmull_u16(vget_low_u16(x), vget_low_u16(slope));
        uint32x4_t high = vmull_high_u16(x, slope);
        q = vuzp2q_u16(vreinterpretq_u16_u32(low), vreinterpretq_u16_u32(high));
        q = vminq_u16(vshlq_u16(q, down), top);
        sq = vaddq_u16(sq, q); /* 1024 / 8 * 255 fits, 1024 / 4 * 255 * 32767 too */
        sqq = vmlal_u16(sqq, vget_low_u16(q), vget_low_u16(q));
        sqq = vmlal_high_u16(sqq, q, q);
        squ = vmlal_u16(squ, vget_low_u16(q), vget_low_u16(u));
        squ = vmlal_high_u16(squ, q, u);
        if (codes != NULL) vst1_u8(codes + i, vmovn_u16(q));
    }
    out->q += vaddlvq_u16(sq);
    out->qq += (int64_t)vaddlvq_u32(sqq);
    out->qu += (int64_t)vaddlvq_u32(squ);
    aqi_refit_ref(src + i, n - i, how, out, codes == NULL ? NULL : codes + i);
}

/* ---- blocks of groups: by the kernels above; nothing is fetched ahead ---- */

static void aqi_ranges_neon(const float *src, const aqi_quantizer *z, aqi_block *b,
                            const char *ahead) {
    aqi_range range;
    size_t g;
    (void)ahead;
    for (g = 0; g < AQI_BLOCK; g++, src += z->n) {
        aqi_range_neon(src, z->n, &range);
        b->min[g] = range.min;
        b->max[g] = range.max;
        b->absmax_bits[g] = range.absmax_bits;
    }
}

static void aqi_encodes_neon(const float *src, const aqi_quantizer *z, const aqi_block *b,
                             uint8_t *codes, const char *ahead) {
    uint8_t room[AQI_BLOCK_VALUES];
    aqi_encode how;
    size_t g;
    (void)ahead;
    how.max_code = z->max_code;
    for (g = 0; g < AQI_BLOCK; g++, src += z->n, codes += z->n / 8 * z->bits) {
        how.base = b->base[g];
        how.inverse = b->inverse[g];
        how.bias = b->bias[g];
        aqi_encode_neon(src, z->n, &how, room);
        aqi_pack_neon(room, z->n, z->bits, codes);
    }
}

/* codes NULL: only the sums. */
static void aqi_refits_neon(const uint16_t *steps, const aqi_quantizer *z, aqi_refits *r,
                            uint8_t *codes, const char *ahead) {
    uint8_t room[AQI_BLOCK_VALUES];
    aqi_fine how;
    size_t g;
    (void)ahead;
    how.shift = z->grid.shift;
    how.max_code = (uint16_t)z->max_code;
    for (g = 0; g < AQI_BLOCK; g++, steps += z->n) {
        aqi_fine_sums sums = {0, 0, 0};
        how.base = (uint16_t)r->from[g];
        how.slope = (uint16_t)r->slope[g];
        aqi_refit_neon(steps, z->n, &how, &sums, codes == NULL ? NULL : room);
        r->q[g] = (double)sums.q;
        r->qq[g] = (double)sums.qq;
        r->qu[g] = (double)sums.qu;
        if (codes == NULL) continue;
        aqi_pack_neon(room, z->n, z->bits, codes);
        codes += z->n / 8 * z->bits;
    }
}

static void aqi_steps16_neon(const float *src, const aqi_quantizer *z, aqi_refits *r,
                             uint16_t *steps, const char *ahead) {
    size_t g;
    for (g = 0; g < AQI_BLOCK; g++)
        r->u[g] = (double)aqi_steps_neon(src + g * z->n, z->n, r->base[g], r->inverse[g],
                                         (uint32_t)z->grid.unit, steps + g * z->n);
    aqi_refits_neon(steps, z, r, NULL, ahead);
}

static uint32_t aqi_block_neon(const float *src, const aqi_quantizer *z,
                               aqi_block_out *out) {
    const aqi_block_ops ops = {aqi_ranges_neon, aqi_encodes_neon, aqi_steps16_neon,
                               aqi_refits_neon};
    if (!aqi_block_takes(z)) return AQI_BLOCK_NONE;
    return aqi_block_body(&ops, src, z, out);
}

/* ---- values of codes ---- */

AQI_INLINE float32x4_t aqi_values4(uint16x4_t q, float32x4_t scale,
                                   float32x4_t zero_point) {
    return vmulq_f32(vsubq_f32(vcvtq_f32_u32(vmovl_u16(q)), zero_point), scale);
}

/* Adds the squares of two differences. */
AQI_INLINE float64x2_t aqi_square2(float64x2_t sum, float32x2_t x, float32x2_t w) {
    float64x2_t d = vsubq_f64(vcvt_f64_f32(x), vcvt_f64_f32(w));
    return vaddq_f64(sum, vmulq_f64(d, d));
}

static void aqi_squares_neon(const float *src, const uint8_t *codes, size_t n,
                             const aqi_decode *how, double *lanes) {
    const float32x4_t s = vdupq_n_f32(how->scale), z = vdupq_n_f32(how->zero_point);
    float64x2_t s0 = vld1q_f64(lanes), s1 = vld1q_f64(lanes + 2);
    float64x2_t s2 = vld1q_f64(lanes + 4), s3 = vld1q_f64(lanes + 6);
    size_t i;
    for (i = 0; i + 8 <= n; i += 8) {
        uint16x8_t q = vmovl_u8(vld1_u8(codes + i));
        float32x4_t v = aqi_values4(vget_low_u16(q), s, z), x = vld1q_f32(src + i);
        float32x4_t w = aqi_values4(vget_high_u16(q), s, z), y = vld1q_f32(src + i + 4);
        s0 = aqi_square2(s0, vget_low_f32(x), vget_low_f32(v));
        s1 = aqi_square2(s1, vget_high_f32(x), vget_high_f32(v));
        s2 = aqi_square2(s2, vget_low_f32(y), vget_low_f32(w));
        s3 = aqi_square2(s3, vget_high_f32(y), vget_high_f32(w));
    }
    vst1q_f64(lanes, s0);
    vst1q_f64(lanes + 2, s1);
    vst1q_f64(lanes + 4, s2);
    vst1q_f64(lanes + 6, s3);
    aqi_squares_ref(src + i, codes + i, n - i, how, lanes);
}

AQI_INLINE void aqi_decode16(uint8x16_t q, float32x4_t scale, float32x4_t zero_point,
                             float *dst) {
    uint16x8_t low = vmovl_u8(vget_low_u8(q)), high = vmovl_high_u8(q);
    vst1q_f32(dst, aqi_values4(vget_low_u16(low), scale, zero_point));
    vst1q_f32(dst + 4, aqi_values4(vget_high_u16(low), scale, zero_point));
    vst1q_f32(dst + 8, aqi_values4(vget_low_u16(high), scale, zero_point));
    vst1q_f32(dst + 12, aqi_values4(vget_high_u16(high), scale, zero_point));
}

static void aqi_decode_neon(const uint8_t *src, size_t n, float scale, float zero_point,
                            float *dst) {
    const float32x4_t s = vdupq_n_f32(scale), z = vdupq_n_f32(zero_point);
    size_t i;
    for (i = 0; i + 16 <= n; i += 16) aqi_decode16(vld1q_u8(src + i), s, z, dst + i);
    aqi_decode_ref(src + i, n - i, scale, zero_point, dst + i);
}

AQI_INLINE float32x4_t aqi_dot4(float32x4_t sum, const float *a, const float *b) {
    return vaddq_f32(sum, vmulq_f32(vld1q_f32(a), vld1q_f32(b)));
}

static void aqi_dot_neon(const float *a, const float *b, size_t n, float *lanes) {
    float32x4_t s0 = vld1q_f32(lanes), s1 = vld1q_f32(lanes + 4);
    float32x4_t s2 = vld1q_f32(lanes + 8), s3 = vld1q_f32(lanes + 12);
    float32x4_t s4 = vld1q_f32(lanes + 16), s5 = vld1q_f32(lanes + 20);
    float32x4_t s6 = vld1q_f32(lanes + 24), s7 = vld1q_f32(lanes + 28);
    for (; n >= AQI_DOT_LANES; n -= AQI_DOT_LANES, a += 32, b += 32) {
        s0 = aqi_dot4(s0, a, b);
        s1 = aqi_dot4(s1, a + 4, b + 4);
        s2 = aqi_dot4(s2, a + 8, b + 8);
        s3 = aqi_dot4(s3, a + 12, b + 12);
        s4 = aqi_dot4(s4, a + 16, b + 16);
        s5 = aqi_dot4(s5, a + 20, b + 20);
        s6 = aqi_dot4(s6, a + 24, b + 24);
        s7 = aqi_dot4(s7, a + 28, b + 28);
    }
    vst1q_f32(lanes, s0);
    vst1q_f32(lanes + 4, s1);
    vst1q_f32(lanes + 8, s2);
    vst1q_f32(lanes + 12, s3);
    vst1q_f32(lanes + 16, s4);
    vst1q_f32(lanes + 20, s5);
    vst1q_f32(lanes + 24, s6);
    vst1q_f32(lanes + 28, s7);
    aqi_dot_ref(a, b, n, lanes);
}

static const aqi_row_ops aqi_row_ops_neon = {aqi_unpack_neon, aqi_decode_neon,
                                             aqi_dot_neon};

/* Whether groups are of whole steps, and codes of 2, 4 or 8 bits. */
AQI_INLINE bool aqi_row_is_plain(const aqi_row *row) {
    return aqi_row_is_even(row) && row->group != 16 && row->levels == NULL;
}

/* 32 codes, one a byte. */
AQI_INLINE void aqi_codes32(const uint8_t *codes, uint32_t bits, uint8x16_t *q) {
    if (bits == 8) {
        q[0] = vld1q_u8(codes);
        q[1] = vld1q_u8(codes + 16);
    } else if (bits == 4) {
        uint8x16_t v = vld1q_u8(codes), high = vshrq_n_u8(v, 4);
        v = vandq_u8(v, vdupq_n_u8(15));
        q[0] = vzip1q_u8(v, high);
        q[1] = vzip2q_u8(v, high);
    } else {
        uint8x8_t v = vld1_u8(codes);
        uint8x16_t a = vzip1q_u8(vcombine_u8(v, v), vcombine_u8(v, vdup_n_u8(0)));
        uint16x8_t b, c;
        a = vshlq_u8(a, vreinterpretq_s8_u16(vdupq_n_u16(0xfe00))); /* by 0, by -2 */
        b = vreinterpretq_u16_u8(a);
        c = vreinterpretq_u16_u8(vshrq_n_u8(a, 4));
        q[0] = vandq_u8(vreinterpretq_u8_u16(vzip1q_u16(b, c)), vdupq_n_u8(3));
        q[1] = vandq_u8(vreinterpretq_u8_u16(vzip2q_u16(b, c)), vdupq_n_u8(3));
    }
}

AQI_INLINE size_t aqi_expand_of(const aqi_row *row, uint32_t bits, float *dst) {
    const uint8_t *codes = row->codes;
    size_t g, i = 0, end;
    for (g = 0; row->n - i >= 32; g++) {
        const float32x4_t s = vdupq_n_f32(row->scales[g]);
        const float32x4_t z = vdupq_n_f32(row->zero_points[g]);
        for (end = i + AQI_MIN(row->group, (row->n - i) / 32 * 32); i < end; i += 32) {
            uint8x16_t q[2];
            aqi_codes32(codes, bits, q);
            aqi_decode16(q[0], s, z, dst + i);
            aqi_decode16(q[1], s, z, dst + i + 16);
            codes += 4 * bits;
        }
    }
    return i;
}

static void aqi_expand_neon(const aqi_row *row, float *dst) {
    size_t done = 0;
    aqi_row rest;
    if (!aqi_row_is_plain(row)) {
        aqi_expand_by(&aqi_row_ops_neon, row, dst);
        return;
    }
    if (row->bits == 2) done = aqi_expand_of(row, 2, dst);
    if (row->bits == 4) done = aqi_expand_of(row, 4, dst);
    if (row->bits == 8) done = aqi_expand_of(row, 8, dst);
    if (done == row->n) return;
    rest = aqi_row_from(row, done);
    aqi_expand_ref(&rest, dst + done);
}

/* To four of the eight sums. */
AQI_INLINE void aqi_dot_codes16(uint8x16_t q, float32x4_t scale, float32x4_t zero_point,
                                const float *x, float32x4_t *sum) {
    uint16x8_t low = vmovl_u8(vget_low_u8(q)), high = vmovl_high_u8(q);
    float32x4_t a = aqi_values4(vget_low_u16(low), scale, zero_point);
    float32x4_t b = aqi_values4(vget_high_u16(low), scale, zero_point);
    float32x4_t c = aqi_values4(vget_low_u16(high), scale, zero_point);
    float32x4_t d = aqi_values4(vget_high_u16(high), scale, zero_point);
    sum[0] = vaddq_f32(sum[0], vmulq_f32(a, vld1q_f32(x)));
    sum[1] = vaddq_f32(sum[1], vmulq_f32(b, vld1q_f32(x + 4)));
    sum[2] = vaddq_f32(sum[2], vmulq_f32(c, vld1q_f32(x + 8)));
    sum[3] = vaddq_f32(sum[3], vmulq_f32(d, vld1q_f32(x + 12)));
}

AQI_INLINE size_t aqi_dot_row_of(const aqi_row *row, uint32_t bits, const float *x,
                                 float *lanes) {
    const uint8_t *codes = row->codes;
    float32x4_t low[4], high[4];
    size_t g, i = 0, k, end;
    for (k = 0; k < 4; k++) low[k] = vld1q_f32(lanes + 4 * k);
    for (k = 0; k < 4; k++) high[k] = vld1q_f32(lanes + 16 + 4 * k);
    for (g = 0; row->n - i >= 32; g++) {
        const float32x4_t s = vdupq_n_f32(row->scales[g]);
        const float32x4_t z = vdupq_n_f32(row->zero_points[g]);
        for (end = i + AQI_MIN(row->group, (row->n - i) / 32 * 32); i < end; i += 32) {
            uint8x16_t q[2];
            aqi_codes32(codes, bits, q);
            aqi_dot_codes16(q[0], s, z, x + i, low);
            aqi_dot_codes16(q[1], s, z, x + i + 16, high);
            codes += 4 * bits;
        }
    }
    for (k = 0; k < 4; k++) vst1q_f32(lanes + 4 * k, low[k]);
    for (k = 0; k < 4; k++) vst1q_f32(lanes + 16 + 4 * k, high[k]);
    return i;
}

static void aqi_dot_row_neon(const aqi_row *row, const float *x, float *lanes) {
    size_t done = 0;
    aqi_row rest;
    if (!aqi_row_is_plain(row)) {
        aqi_dot_row_by(&aqi_row_ops_neon, row, x, lanes);
        return;
    }
    if (row->bits == 2) done = aqi_dot_row_of(row, 2, x, lanes);
    if (row->bits == 4) done = aqi_dot_row_of(row, 4, x, lanes);
    if (row->bits == 8) done = aqi_dot_row_of(row, 8, x, lanes);
    if (done == row->n) return;
    rest = aqi_row_from(row, done);
    aqi_dot_row_ref(&rest, x + done, lanes);
}

/* ---- integer dot products ---- */

/* Adds the four products of each lane, of signed bytes. SDOT as a number, since some
 * assemblers take its name only for a whole architecture that has it. */
AQI_INLINE int32x4_t aqi_sdot(int32x4_t sum, int8x16_t a, int8x16_t b) {
    __asm__(".irp r, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,"
            "26,27,28,29,30,31\n\t.set .Laqi_v\\r, \\r\n\t.endr\n\t"
            ".inst 0x4e809400 | .Laqi_%0 | .Laqi_%1 << 5 | .Laqi_%2 << 16"
            : "+w"(sum)
            : "w"(a), "w"(b));
    return sum;
}

AQI_INLINE int16x8_t aqi_x8_multiply(uint8x8_t q, int8x8_t x) {
    return vmulq_s16(vreinterpretq_s16_u16(vmovl_u8(q)), vmovl_s8(x));
}

/* 16 codes of up to 4 bits times those of x, to sums of 16 bits. */
AQI_INLINE void aqi_x8_plane(uint8x16_t q, const int8_t *x, int16x8_t *low,
                             int16x8_t *high) {
    int8x16_t a = vreinterpretq_s8_u8(q), b = vld1q_s8(x);
    *low = vmlal_s8(*low, vget_low_s8(a), vget_low_s8(b));
    *high = vmlal_high_s8(*high, a, b);
}

/* Adds the products of 16 bytes of codes in lanes of 32 bits; x at the first of its
 * planes. Sums of 16 bits are at most 2 x 4 x 3 x 128, or 2 x 2 x 15 x 128. */
AQI_INLINE int32x4_t aqi_x8_add16(int32x4_t sum, uint8x16_t v, const int8_t *x,
                                  uint32_t bits) {
    const uint8x16_t two = vdupq_n_u8(3);
    int16x8_t low = vdupq_n_s16(0), high = low;
    if (bits == 8) {
        int8x16_t b = vld1q_s8(x);
        low = aqi_x8_multiply(vget_low_u8(v), vget_low_s8(b));
        high = aqi_x8_multiply(vget_high_u8(v), vget_high_s8(b));
        return vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
    }
    if (bits == 4) {
        aqi_x8_plane(vandq_u8(v, vdupq_n_u8(15)), x, &low, &high);
        aqi_x8_plane(vshrq_n_u8(v, 4), x + AQI_X8_BYTES, &low, &high);
    } else {
        aqi_x8_plane(vandq_u8(v, two), x, &low, &high);
        aqi_x8_plane(vandq_u8(vshrq_n_u8(v, 2), two), x + AQI_X8_BYTES, &low, &high);
        aqi_x8_plane(vandq_u8(vshrq_n_u8(v, 4), two), x + 2 * AQI_X8_BYTES, &low, &high);
        aqi_x8_plane(vshrq_n_u8(v, 6), x + 3 * AQI_X8_BYTES, &low, &high);
    }
    return vpadalq_s16(sum, vpaddq_s16(low, high));
}

/* The same. Codes of 8 bits become signed by taking 128 off each, which is put back. */
AQI_INLINE int32x4_t aqi_x8_add16_sdot(int32x4_t sum, uint8x16_t v, const int8_t *x,
                                       uint32_t bits) {
    const uint8x16_t two = vdupq_n_u8(3);
    if (bits == 8) {
        int8x16_t b = vld1q_s8(x), a = vreinterpretq_s8_u8(veorq_u8(v, vdupq_n_u8(128)));
        int32x4_t put = aqi_sdot(vdupq_n_s32(0), b, vdupq_n_s8(-128));
        return vsubq_s32(aqi_sdot(sum, a, b), put);
    }
    if (bits == 4) {
        uint8x16_t a = vandq_u8(v, vdupq_n_u8(15)), b = vshrq_n_u8(v, 4);
        sum = aqi_sdot(sum, vreinterpretq_s8_u8(a), vld1q_s8(x));
        return aqi_sdot(sum, vreinterpretq_s8_u8(b), vld1q_s8(x + AQI_X8_BYTES));
    }
    sum = aqi_sdot(sum, vreinterpretq_s8_u8(vandq_u8(v, two)), vld1q_s8(x));
    sum = aqi_sdot(sum, vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v, 2), two)),
                   vld1q_s8(x + AQI_X8_BYTES));
    sum = aqi_sdot(sum, vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v, 4), two)),
                   vld1q_s8(x + 2 * AQI_X8_BYTES));
    return aqi_sdot(sum, vreinterpretq_s8_u8(vshrq_n_u8(v, 6)),
                    vld1q_s8(x + 3 * AQI_X8_BYTES));
}

/* Scales of four words, from the k-th on, of segments of 2^shift words. */
AQI_INLINE float32x4_t aqi_x8_scales(const float *scales, size_t shift, size_t k) {
    if (shift == 0) return vld1q_f32(scales + k);
    if (shift == 1) {
        float32x2_t two = vld1_f32(scales + k / 2);
        return vcombine_f32(vdup_lane_f32(two, 0), vdup_lane_f32(two, 1));
    }
    return vdupq_n_f32(scales[k >> shift]);
}

/* Of a block of codes, word i in lane i. */
typedef struct aqi_x8_sums {
    int32x4_t a, b, c, d;
} aqi_x8_sums;

AQI_INLINE void aqi_x8_add64(aqi_x8_sums *s, const uint8_t *codes, const int8_t *x,
                             uint32_t bits) {
    s->a = aqi_x8_add16(s->a, vld1q_u8(codes), x, bits);
    s->b = aqi_x8_add16(s->b, vld1q_u8(codes + 16), x + 16, bits);
    s->c = aqi_x8_add16(s->c, vld1q_u8(codes + 32), x + 32, bits);
    s->d = aqi_x8_add16(s->d, vld1q_u8(codes + 48), x + 48, bits);
}

AQI_INLINE void aqi_x8_add64_sdot(aqi_x8_sums *s, const uint8_t *codes, const int8_t *x,
                                  uint32_t bits) {
    s->a = aqi_x8_add16_sdot(s->a, vld1q_u8(codes), x, bits);
    s->b = aqi_x8_add16_sdot(s->b, vld1q_u8(codes + 16), x + 16, bits);
    s->c = aqi_x8_add16_sdot(s->c, vld1q_u8(codes + 32), x + 32, bits);
    s->d = aqi_x8_add16_sdot(s->d, vld1q_u8(codes + 48), x + 48, bits);
}

AQI_INLINE void aqi_x8_scale4(float *lanes, int32x4_t sum, float32x4_t scale) {
    float32x4_t v = vmulq_f32(vcvtq_f32_s32(sum), scale);
    vst1q_f32(lanes, vaddq_f32(vld1q_f32(lanes), v));
}

/* A segment of whole blocks, or a block of whole segments, at a time. */
AQI_INLINE void aqi_dot_x8_of(const aqi_row *row, uint32_t bits, const aqi_x8 *x,
                              bool sdot, float *lanes) {
    const size_t bytes = (row->n * bits + 7) / 8, segment = x->segment * bits / 8;
    const size_t each = segment < AQI_X8_BYTES ? AQI_X8_BYTES / segment : 1;
    const int8_t *p = x->codes;
    float scales[AQI_X8_TERMS + 16], zero_terms[AQI_X8_TERMS];
    size_t at = 0, s = 0, first = 0, have = 0, shift = 0, end, i;
    while (shift < 4 && (size_t)4 << shift < segment) shift++;
    memset(scales, 0, sizeof scales);
    for (; at < bytes; s += each) {
        aqi_x8_sums sums;
        const float *own;
        if (s >= first + have) {
            first = s;
            have = AQI_MIN((bytes - at + segment - 1) / segment, (size_t)AQI_X8_TERMS);
            aqi_x8_terms(row, x, first, have, scales, zero_terms);
            for (i = 0; i < have; i++)
                lanes[AQI_X8_LANES + i % AQI_X8_LANES] += zero_terms[i];
        }
        sums.a = sums.b = sums.c = sums.d = vdupq_n_s32(0);
        end = AQI_MIN(bytes, at + AQI_MAX(segment, (size_t)AQI_X8_BYTES));
        for (; at < end; at += AQI_X8_BYTES, p += AQI_X8_BYTES * 8 / bits) {
            const uint8_t *codes = row->codes + at;
            uint8_t room[AQI_X8_BYTES];
            if (bytes - at < AQI_X8_BYTES) {
                memset(room, 0, sizeof room);
                memcpy(room, codes, bytes - at);
                codes = room;
            }
            if (sdot) aqi_x8_add64_sdot(&sums, codes, p, bits);
            if (!sdot) aqi_x8_add64(&sums, codes, p, bits);
        }
        own = scales + (s - first);
        aqi_x8_scale4(lanes, sums.a, aqi_x8_scales(own, shift, 0));
        aqi_x8_scale4(lanes + 4, sums.b, aqi_x8_scales(own, shift, 4));
        aqi_x8_scale4(lanes + 8, sums.c, aqi_x8_scales(own, shift, 8));
        aqi_x8_scale4(lanes + 12, sums.d, aqi_x8_scales(own, shift, 12));
    }
}

static void aqi_dot_x8_neon(const aqi_row *row, const aqi_x8 *x, float *lanes) {
    if (row->levels != NULL || !aqi_x8_is_even(row, x)) {
        aqi_dot_x8_ref(row, x, lanes);
        return;
    }
    if (row->bits == 2) aqi_dot_x8_of(row, 2, x, false, lanes);
    if (row->bits == 4) aqi_dot_x8_of(row, 4, x, false, lanes);
    if (row->bits == 8) aqi_dot_x8_of(row, 8, x, false, lanes);
}

static void aqi_dot_x8_sdot(const aqi_row *row, const aqi_x8 *x, float *lanes) {
    if (row->levels != NULL || !aqi_x8_is_even(row, x)) {
        aqi_dot_x8_ref(row, x, lanes);
        return;
    }
    if (row->bits == 2) aqi_dot_x8_of(row, 2, x, true, lanes);
    if (row->bits == 4) aqi_dot_x8_of(row, 4, x, true, lanes);
    if (row->bits == 8) aqi_dot_x8_of(row, 8, x, true, lanes);
}

/* Two lanes of aqi_sums. */
typedef struct aqi_sums2 {
    float64x2_t aa, bb, ab, dd, max_abs;
} aqi_sums2;

AQI_INLINE void aqi_sums_add2(aqi_sums2 *s, float64x2_t x, float64x2_t y) {
    float64x2_t d = vsubq_f64(x, y);
    s->aa = vaddq_f64(s->aa, vmulq_f64(x, x));
    s->bb = vaddq_f64(s->bb, vmulq_f64(y, y));
    s->ab = vaddq_f64(s->ab, vmulq_f64(x, y));
    s->dd = vaddq_f64(s->dd, vmulq_f64(d, d));
    s->max_abs = vmaxnmq_f64(s->max_abs, vabsq_f64(d)); /* the number, not the NaN */
}

AQI_INLINE aqi_sums2 aqi_sums_load2(const aqi_sums *s, size_t lane) {
    aqi_sums2 two;
    two.aa = vld1q_f64(s->aa + lane);
    two.bb = vld1q_f64(s->bb + lane);
    two.ab = vld1q_f64(s->ab + lane);
    two.dd = vld1q_f64(s->dd + lane);
    two.max_abs = vld1q_f64(s->max_abs + lane);
    return two;
}

AQI_INLINE void aqi_sums_store2(aqi_sums2 two, size_t lane, aqi_sums *out) {
    vst1q_f64(out->aa + lane, two.aa);
    vst1q_f64(out->bb + lane, two.bb);
    vst1q_f64(out->ab + lane, two.ab);
    vst1q_f64(out->dd + lane, two.dd);
    vst1q_f64(out->max_abs + lane, two.max_abs);
}

static void aqi_sums_neon(const float *a, const float *b, size_t n, aqi_sums *out) {
    size_t half, i = 0;
    /* Lanes 0-3, then lanes 4-7: all accumulators stay in registers. */
    for (half = 0; half < AQI_SUM_LANES; half += 4) {
        aqi_sums2 low = aqi_sums_load2(out, half), high = aqi_sums_load2(out, half + 2);
        for (i = 0; i + AQI_SUM_LANES <= n; i += AQI_SUM_LANES) {
            float32x4_t x = vld1q_f32(a + i + half), y = vld1q_f32(b + i + half);
            aqi_sums_add2(&low, vcvt_f64_f32(vget_low_f32(x)),
                          vcvt_f64_f32(vget_low_f32(y)));
            aqi_sums_add2(&high, vcvt_high_f64_f32(x), vcvt_high_f64_f32(y));
        }
        aqi_sums_store2(low, half, out);
        aqi_sums_store2(high, half + 2, out);
    }
    aqi_sums_ref(a + i, b + i, n - i, out);
}

static void aqi_from_f16_neon(const uint8_t *src, size_t n, float *dst) {
    size_t i;
    for (i = 0; i + 8 <= n; i += 8) {
        float16x8_t v = vreinterpretq_f16_u8(vld1q_u8(src + 2 * i));
        vst1q_f32(dst + i, vcvt_f32_f16(vget_low_f16(v)));
        vst1q_f32(dst + i + 4, vcvt_high_f32_f16(v));
    }
    aqi_from_f16_ref(src + 2 * i, n - i, dst + i);
}

static void aqi_from_bf16_neon(const uint8_t *src, size_t n, float *dst) {
    const uint16x8_t zero = vdupq_n_u16(0);
    size_t i;
    for (i = 0; i + 8 <= n; i += 8) {
        uint16x8_t v = vreinterpretq_u16_u8(vld1q_u8(src + 2 * i));
        vst1q_f32(dst + i, vreinterpretq_f32_u16(vzip1q_u16(zero, v)));
        vst1q_f32(dst + i + 4, vreinterpretq_f32_u16(vzip2q_u16(zero, v)));
    }
    aqi_from_bf16_ref(src + 2 * i, n - i, dst + i);
}

/* The instructions beyond the baseline, by their names: what the intrinsics of gcc and
 * clang ask of the compiler's flags differs. */
AQI_INLINE uint32_t aqi_crc32x(uint32_t state, uint64_t bytes) {
    __asm__(".arch_extension crc\n\tcrc32x %w0, %w0, %x1" : "+r"(state) : "r"(bytes));
    return state;
}

AQI_INLINE uint64x2_t aqi_pmull_low(uint64x2_t a, uint64x2_t b) {
    uint64x2_t product;
    __asm__(".arch_extension aes\n\tpmull %0.1q, %1.1d, %2.1d"
            : "=w"(product)
            : "w"(a), "w"(b));
    return product;
}

AQI_INLINE uint64x2_t aqi_pmull_high(uint64x2_t a, uint64x2_t b) {
    uint64x2_t product;
    __asm__(".arch_extension aes\n\tpmull2 %0.1q, %1.2d, %2.2d"
            : "=w"(product)
            : "w"(a), "w"(b));
    return product;
}

static uint32_t aqi_crc32_crc(uint32_t state, const uint8_t *src, size_t n) {
    for (; n >= 8; src += 8, n -= 8) state = aqi_crc32x(state, aqi_load_le64(src));
    return aqi_crc32_ref(state, src, n);
}

AQI_INLINE uint64x2_t aqi_load_words(const uint8_t *p) {
    return vreinterpretq_u64_u8(vld1q_u8(p));
}

AQI_INLINE uint64x2_t aqi_words(uint64_t low, uint64_t high) {
    return vcombine_u64(vcreate_u64(low), vcreate_u64(high));
}

/* x folded forward over the distance that k stands for, plus the next bytes. */
AQI_INLINE uint64x2_t aqi_crc32_fold(uint64x2_t x, uint64x2_t k, uint64x2_t next) {
    return veorq_u64(veorq_u64(aqi_pmull_low(x, k), aqi_pmull_high(x, k)), next);
}

/* Carry-less multiplication; source and constants as in [61]. */
static uint32_t aqi_crc32_pmull(uint32_t state, const uint8_t *src, size_t n) {
    const uint64x2_t k64 = aqi_words(0x0154442bd4, 0x01c6e41596);
    const uint64x2_t k16 = aqi_words(0x01751997d0, 0x00ccaa009e);
    const uint64x2_t k8 = aqi_words(0x0163cd6124, 0);
    const uint64x2_t low32 = vdupq_n_u64(0xffffffff);
    uint64x2_t a, b, c, d, t;
    if (n < 64) return aqi_crc32_ref(state, src, n);
    a = veorq_u64(aqi_load_words(src), aqi_words(state, 0));
    b = aqi_load_words(src + 16);
    c = aqi_load_words(src + 32);
    d = aqi_load_words(src + 48);
    for (src += 64, n -= 64; n >= 64; src += 64, n -= 64) {
        a = aqi_crc32_fold(a, k64, aqi_load_words(src));
        b = aqi_crc32_fold(b, k64, aqi_load_words(src + 16));
        c = aqi_crc32_fold(c, k64, aqi_load_words(src + 32));
        d = aqi_crc32_fold(d, k64, aqi_load_words(src + 48));
    }
    a = aqi_crc32_fold(a, k16, b);
    a = aqi_crc32_fold(a, k16, c);
    a = aqi_crc32_fold(a, k16, d);
    for (; n >= 16; src += 16, n -= 16) a = aqi_crc32_fold(a, k16, aqi_load_words(src));
    /* 128 bits to 64, to 32 by Barrett reduction. */
    t = veorq_u64(aqi_pmull_low(a, vdupq_laneq_u64(k16, 1)),
                  vextq_u64(a, vdupq_n_u64(0), 1));
    a = aqi_words(vgetq_lane_u64(t, 0) >> 32 | vgetq_lane_u64(t, 1) << 32, 0);
    t = veorq_u64(aqi_pmull_low(vandq_u64(t, low32), k8), a);
    a = aqi_pmull_low(vandq_u64(t, low32), vdupq_n_u64(0x01f7011641));
    a = aqi_pmull_low(vandq_u64(a, low32), vdupq_n_u64(0x01db710641));
    state = (uint32_t)(vgetq_lane_u64(veorq_u64(t, a), 0) >> 32);
    return aqi_crc32_ref(state, src, n);
}

/* In the order of AQI_KERNELS. */
#define AQI_KERNELS_NEON(dot_x8, crc32)                                                  \
    {                                                                                    \
        aqi_range_neon, aqi_encode_neon, aqi_pack_neon, aqi_unpack_neon,                 \
            aqi_unpack32_neon, aqi_delta32_neon, aqi_delta64_neon, aqi_join_neon,        \
            aqi_split_neon, aqi_run_neon, aqi_levels_neon, aqi_steps_neon,               \
            aqi_refit_neon, aqi_block_neon, aqi_squares_neon, aqi_decode_neon,           \
            aqi_expand_neon, aqi_dot_neon, aqi_dot_row_neon, dot_x8, aqi_sums_neon,      \
            aqi_moments_ref, aqi_from_f16_neon, aqi_from_bf16_neon, aqi_to_f16_ref,      \
            aqi_to_bf16_ref, crc32, AQ_ISA_NEON                                          \
    }

static const struct aqi_kernels aqi_kernels_neon =
    AQI_KERNELS_NEON(aqi_dot_x8_neon, aqi_crc32_ref);
static const struct aqi_kernels aqi_kernels_neon_crc =
    AQI_KERNELS_NEON(aqi_dot_x8_neon, aqi_crc32_crc);
static const struct aqi_kernels aqi_kernels_neon_pmull =
    AQI_KERNELS_NEON(aqi_dot_x8_neon, aqi_crc32_pmull);
static const struct aqi_kernels aqi_kernels_neon_sdot =
    AQI_KERNELS_NEON(aqi_dot_x8_sdot, aqi_crc32_pmull);

/* Bits of AT_HWCAP; <asm/hwcap.h> of another machine does not have them. */
#define AQI_HWCAP_PMULL (1ul << 4)
#define AQI_HWCAP_CRC32 (1ul << 7)
#define AQI_HWCAP_DOTPROD (1ul << 20)

static unsigned long aqi_hwcap(void) {
    unsigned long has = 0;
#ifdef __linux__
    has = getauxval(AT_HWCAP);
#endif
#if defined(__ARM_FEATURE_AES) || defined(__ARM_FEATURE_CRYPTO)
    has |= AQI_HWCAP_PMULL;
#endif
#ifdef __ARM_FEATURE_CRC32
    has |= AQI_HWCAP_CRC32;
#endif
#ifdef __ARM_FEATURE_DOTPROD
    has |= AQI_HWCAP_DOTPROD;
#endif
    return has;
}

static const struct aqi_kernels *aqi_kernels_neon_here(void) {
    unsigned long has = aqi_hwcap();
    if ((has & AQI_HWCAP_PMULL) != 0 && (has & AQI_HWCAP_DOTPROD) != 0)
        return &aqi_kernels_neon_sdot;
    if ((has & AQI_HWCAP_PMULL) != 0) return &aqi_kernels_neon_pmull;
    return (has & AQI_HWCAP_CRC32) != 0 ? &aqi_kernels_neon_crc : &aqi_kernels_neon;
}

#endif /* NEON */

#ifdef __clang__
#pragma STDC FP_CONTRACT DEFAULT
#else
#pragma GCC pop_options
#endif

/*==========================================================================
 * MARK: - [64] Kernel dispatch (private)
 *========================================================================*/

/* The one mutable global: atomic; any thread may set it, to the same value. */
static const struct aqi_kernels *aqi_active_kernels;

/* The kernels of an instruction set; NULL when it is not compiled in or not usable
 * here. */
static const struct aqi_kernels *aqi_kernels_of(aq_isa isa) {
    if (isa == AQ_ISA_REF) return &aqi_kernels_ref;
#ifdef AQI_HAVE_AVX2
    if (isa == AQ_ISA_AVX2 && aqi_cpu_has_avx2()) return &aqi_kernels_avx2;
#endif
#ifdef AQI_HAVE_AVX512
    if (isa == AQ_ISA_AVX512 && aqi_cpu_has_avx512()) return &aqi_kernels_avx512;
#endif
#ifdef AQI_HAVE_NEON
    if (isa == AQ_ISA_NEON) return aqi_kernels_neon_here();
#endif
    return NULL;
}

static const struct aqi_kernels *aqi_kernels_best(void) {
    const struct aqi_kernels *k = aqi_kernels_of(AQ_ISA_AVX512);
    if (k == NULL) k = aqi_kernels_of(AQ_ISA_AVX2);
    if (k == NULL) k = aqi_kernels_of(AQ_ISA_NEON);
    return k != NULL ? k : &aqi_kernels_ref;
}

static const struct aqi_kernels *aqi_k(void) {
    const struct aqi_kernels *k = __atomic_load_n(&aqi_active_kernels, __ATOMIC_ACQUIRE);
    if (k == NULL) {
        k = aqi_kernels_best();
        __atomic_store_n(&aqi_active_kernels, k, __ATOMIC_RELEASE);
    }
    return k;
}

aq_isa aq_isa_active(void) { return aqi_k()->isa; }

bool aq_isa_supported(aq_isa isa) {
    return isa == AQ_ISA_AUTO || aqi_kernels_of(isa) != NULL;
}

aq_status aq_isa_force(aq_isa isa) {
    const struct aqi_kernels *k =
        isa == AQ_ISA_AUTO ? aqi_kernels_best() : aqi_kernels_of(isa);
    if (k == NULL) return AQ_E_UNSUPPORTED;
    __atomic_store_n(&aqi_active_kernels, k, __ATOMIC_RELEASE);
    return AQ_OK;
}

const char *aq_isa_name(aq_isa isa) {
    static const char *const names[] = {"auto", "ref", "avx2", "avx512", "neon"};
    return (unsigned)isa < AQI_COUNT(names) ? names[isa] : "unknown";
}

static uint32_t aqi_crc32(uint32_t state, const void *src, size_t bytes) {
    return aqi_k()->crc32(state, (const uint8_t *)src, bytes);
}

/*==========================================================================
 * MARK: - [70] Thrift compact protocol (private)
 * Structs are described by tables; one reader and one writer walk them. The reader
 * allocates nothing: of a list it keeps where its elements are, once they are checked.
 * In: untrusted bytes. Unknown fields are skipped, nesting <= 64, counts <= bytes left.
 * Source: thrift-compact-protocol.md.
 *========================================================================*/

#define AQI_THRIFT_DEPTH 64
#define AQI_THRIFT_STRING_LIMIT 100000000u
#define AQI_THRIFT_LIST_LIMIT 1000000u
#define AQI_THRIFT_ITEM_BYTES 512 /* of the largest struct that comes in lists */

typedef enum aqi_thrift_type {
    AQI_T_STOP = 0,
    AQI_T_TRUE = 1,
    AQI_T_FALSE = 2,
    AQI_T_I8 = 3,
    AQI_T_I16 = 4,
    AQI_T_I32 = 5,
    AQI_T_I64 = 6,
    AQI_T_DOUBLE = 7,
    AQI_T_BINARY = 8,
    AQI_T_LIST = 9,
    AQI_T_SET = 10,
    AQI_T_MAP = 11,
    AQI_T_STRUCT = 12,
    AQI_T_UUID = 13
} aqi_thrift_type;

/* The type of a field and of its elements: the lower and the upper 4 bits. C members by
 * kind: bool, int8_t, int16_t, int32_t, int64_t, double, aqi_slice, a struct of its own,
 * or an aqi_list of one of them. */
typedef enum aqi_kind {
    AQI_KIND_NONE = 0,
    AQI_KIND_BOOL = AQI_T_TRUE, /* or AQI_T_FALSE */
    AQI_KIND_I8 = AQI_T_I8,
    AQI_KIND_I16 = AQI_T_I16,
    AQI_KIND_I32 = AQI_T_I32,
    AQI_KIND_I64 = AQI_T_I64,
    AQI_KIND_DOUBLE = AQI_T_DOUBLE,
    AQI_KIND_BYTES = AQI_T_BINARY,
    AQI_KIND_STRUCT = AQI_T_STRUCT,
    AQI_KIND_LIST_I32 = AQI_T_LIST | AQI_T_I32 << 4,
    AQI_KIND_LIST_I64 = AQI_T_LIST | AQI_T_I64 << 4,
    AQI_KIND_LIST_BYTES = AQI_T_LIST | AQI_T_BINARY << 4,
    AQI_KIND_LIST_STRUCT = AQI_T_LIST | AQI_T_STRUCT << 4
} aqi_kind;

typedef struct aqi_slice {
    const uint8_t *data; /* into the parsed bytes */
    uint32_t size;
} aqi_slice;

/* The elements as an array in C, or as they are in Thrift: always so from the reader. */
typedef struct aqi_list {
    const void *items;
    uint32_t count;
    size_t encoded_bytes; /* not 0 = items are that many bytes of Thrift */
} aqi_list;

typedef struct aqi_thrift_field {
    int32_t id;
    uint16_t offset;
    uint8_t kind;
    uint8_t index;                        /* in the table */
    const struct aqi_thrift_struct *type; /* of STRUCT and LIST_STRUCT */
    const char *name;
} aqi_thrift_field;

/* The C struct starts with `uint32_t has`: bit i = fields[i] is present. */
typedef struct aqi_thrift_struct {
    const char *name;
    size_t size;
    size_t num_fields;              /* <= 32 */
    uint32_t required;              /* bits as in `has` */
    uint32_t min_bytes;             /* that one takes in a file */
    const aqi_thrift_field *fields; /* by ascending id; a row of kind NONE ends them */
} aqi_thrift_struct;

/* AQI_THRIFT(name, LIST) makes the C struct, the indices of its fields and its table from
 * LIST(X, name) = X(name, id, KIND, c_type, member, required, type table or NULL) ... */
#define AQI_T_MEMBER(s, id, kind, c_type, member, required, table) c_type member;
#define AQI_T_INDEX(s, id, kind, c_type, member, required, table) s##_field_##member,
#define AQI_T_REQUIRED(s, id, kind, c_type, member, required, table)                     \
    | (required ? 1u << s##_field_##member : 0u)
#define AQI_T_MIN_BYTES(s, id, kind, c_type, member, required, table)                    \
    +(!(required) ? 0u : AQI_KIND_##kind == AQI_KIND_BOOL ? 1u : 2u)
#define AQI_T_ROW(s, id, kind, c_type, member, required, table)                          \
    {id, (uint16_t)offsetof(s, member), AQI_KIND_##kind, s##_field_##member, table,      \
     #member},
#define AQI_T_END {INT32_MAX, 0, AQI_KIND_NONE, 0, NULL, NULL}
#define AQI_THRIFT(s, LIST)                                                              \
    typedef struct s {                                                                   \
        uint32_t has;                                                                    \
        LIST(AQI_T_MEMBER, s)                                                            \
    } s;                                                                                 \
    enum { LIST(AQI_T_INDEX, s) s##_num_fields };                                        \
    static const aqi_thrift_field s##_fields[] = {LIST(AQI_T_ROW, s) AQI_T_END};         \
    static const aqi_thrift_struct s##_type = {                                          \
        #s, sizeof(s), s##_num_fields, 0u LIST(AQI_T_REQUIRED, s),                       \
        1u LIST(AQI_T_MIN_BYTES, s), s##_fields};

typedef struct aqi_empty {
    uint32_t has;
} aqi_empty;
static const aqi_thrift_field aqi_empty_fields[] = {AQI_T_END};
static const aqi_thrift_struct aqi_empty_type = {"aqi_empty", sizeof(aqi_empty), 0, 0, 1,
                                                 aqi_empty_fields};

#define AQI_HAS(p, s, member) (((p)->has >> s##_field_##member & 1u) != 0)
#define AQI_SET(p, s, member, value)                                                     \
    ((p)->member = (value), (p)->has |= 1u << s##_field_##member)
#define AQI_MARK(p, s, member) ((p)->has |= 1u << s##_field_##member)

typedef struct aqi_thrift_reader {
    aqi_cursor in;
    aq_error *err;
} aqi_thrift_reader;

/* Something is wrong with what begins at `at`. */
static aq_status aqi_thrift_fail_at(const aqi_thrift_reader *r, const uint8_t *at,
                                    const char *what) {
    return aqi_fail_at(r->err, AQ_E_FORMAT, r->in.base + (at - r->in.start),
                       "Thrift metadata: %s", what);
}

static aq_status aqi_thrift_fail(const aqi_thrift_reader *r, const char *what) {
    return aqi_thrift_fail_at(r, r->in.p, what);
}

/* int64_t from a zigzag varint. */
AQI_INLINE bool aqi_read_zigzag(aqi_cursor *c, int64_t *out) {
    uint64_t v;
    if (!aqi_read_varint(c, &v)) return false;
    *out = (int64_t)(v >> 1 ^ (~(v & 1) + 1));
    return true;
}

static aq_status aqi_thrift_fail_int(const aqi_thrift_reader *r, const uint8_t *at) {
    aqi_cursor in = r->in;
    int64_t v;
    in.p = at;
    return aqi_thrift_fail_at(r, at,
                              aqi_read_zigzag(&in, &v) ? "integer too large for its field"
                                                       : "integer cut off or too long");
}

/* A string where it stands. False, and the cursor stays, when it is cut off or too
 * long. */
AQI_INLINE bool aqi_read_slice(aqi_cursor *c, aqi_slice *out) {
    aqi_cursor in = *c;
    uint64_t n;
    if (!aqi_read_varint(&in, &n) || n > aqi_remaining(&in) ||
        n > AQI_THRIFT_STRING_LIMIT)
        return false;
    out->data = in.p;
    out->size = (uint32_t)n;
    c->p = in.p + n;
    return true;
}

static aq_status aqi_thrift_fail_slice(const aqi_thrift_reader *r, const uint8_t *at) {
    aqi_cursor in = r->in;
    uint64_t n;
    in.p = at;
    if (!aqi_read_varint(&in, &n))
        return aqi_thrift_fail_at(r, at, "string length cut off");
    if (n > aqi_remaining(&in))
        return aqi_thrift_fail_at(r, at, "string longer than its file");
    return aqi_fail_at(r->err, AQ_E_LIMIT, aqi_offset(&in),
                       "Thrift string of %llu bytes; the limit is 100,000,000",
                       (unsigned long long)n);
}

/* Element type and count; each element takes a byte at least. */
AQI_INLINE aq_status aqi_thrift_list_header(aqi_thrift_reader *r,
                                            aqi_thrift_type *out_type,
                                            uint32_t *out_count) {
    aqi_cursor in = r->in;
    uint64_t n;
    if (aqi_remaining(&in) == 0) return aqi_thrift_fail(r, "list header cut off");
    n = *in.p >> 4;
    *out_type = (aqi_thrift_type)(*in.p++ & 15);
    if (n == 15 && !aqi_read_varint(&in, &n))
        return aqi_thrift_fail(r, "list size cut off");
    if (n > aqi_remaining(&in)) return aqi_thrift_fail(r, "list longer than its file");
    if (n > AQI_THRIFT_LIST_LIMIT)
        return aqi_fail_at(r->err, AQ_E_LIMIT, aqi_offset(&in),
                           "Thrift list of %llu elements; the limit is 1,000,000",
                           (unsigned long long)n);
    *out_count = (uint32_t)n;
    r->in = in;
    return AQ_OK;
}

/* Type and id of the next field, given the id of the one before it; AQI_T_STOP at the end
 * of the struct. */
static aq_status aqi_thrift_field_header(aqi_thrift_reader *r, int32_t *id,
                                         aqi_thrift_type *out_type) {
    const uint8_t *at = r->in.p;
    int64_t next;
    uint32_t byte;
    if (aqi_remaining(&r->in) == 0) return aqi_thrift_fail(r, "struct cut off");
    byte = *r->in.p++;
    *out_type = (aqi_thrift_type)(byte & 15);
    if (byte == 0) return AQ_OK;
    if (byte >> 4 != 0) {
        next = *id + (int32_t)(byte >> 4);
    } else if (!aqi_read_zigzag(&r->in, &next)) {
        return aqi_thrift_fail_at(r, at, "field id cut off");
    }
    if (*out_type == AQI_T_STOP || *out_type > AQI_T_UUID || next < INT16_MIN ||
        next > INT16_MAX)
        return aqi_thrift_fail_at(r, at, "no such field type or id");
    *id = (int32_t)next;
    return AQ_OK;
}

/* Declared before its recursion through lists and maps; the depth is bounded. */
static aq_status aqi_thrift_skip(aqi_thrift_reader *r, aqi_thrift_type type, int depth);

static aq_status aqi_thrift_skip_elements(aqi_thrift_reader *r, aqi_thrift_type type,
                                          uint32_t count, int depth) {
    aq_status status = AQ_OK;
    uint32_t i;
    for (i = 0; i < count && status == AQ_OK; i++) {
        bool one_byte = type == AQI_T_TRUE || type == AQI_T_FALSE;
        status = aqi_thrift_skip(r, one_byte ? AQI_T_I8 : type, depth);
    }
    return status;
}

static aq_status aqi_thrift_skip_map(aqi_thrift_reader *r, int depth) {
    uint64_t n, i;
    uint8_t types;
    aq_status status = AQ_OK;
    if (!aqi_read_varint(&r->in, &n)) return aqi_thrift_fail(r, "map size cut off");
    if (n == 0) return AQ_OK;
    if (n > aqi_remaining(&r->in)) return aqi_thrift_fail(r, "map longer than its file");
    types = *r->in.p++;
    for (i = 0; i < n && status == AQ_OK; i++) {
        status = aqi_thrift_skip_elements(r, (aqi_thrift_type)(types >> 4), 1, depth);
        if (status == AQ_OK)
            status = aqi_thrift_skip_elements(r, (aqi_thrift_type)(types & 15), 1, depth);
    }
    return status;
}

/* Passes over a value of any type. The recursion is bounded by AQI_THRIFT_DEPTH. */
static aq_status aqi_thrift_skip(aqi_thrift_reader *r, aqi_thrift_type type, int depth) {
    aqi_slice slice;
    int64_t value;
    size_t fixed = type == AQI_T_I8 ? 1 : type == AQI_T_DOUBLE ? 8 : 16;
    uint32_t count = 0;
    int32_t id = 0;
    aq_status status;
    if (depth > AQI_THRIFT_DEPTH)
        return aqi_fail_at(r->err, AQ_E_LIMIT, aqi_offset(&r->in),
                           "Thrift metadata nested deeper than %d", AQI_THRIFT_DEPTH);
    switch (type) {
    case AQI_T_TRUE:
    case AQI_T_FALSE:
        return AQ_OK;
    case AQI_T_I8:
    case AQI_T_DOUBLE:
    case AQI_T_UUID:
        if (aqi_remaining(&r->in) < fixed) return aqi_thrift_fail(r, "value cut off");
        r->in.p += fixed;
        return AQ_OK;
    case AQI_T_I16:
    case AQI_T_I32:
    case AQI_T_I64:
        if (!aqi_read_zigzag(&r->in, &value)) return aqi_thrift_fail_int(r, r->in.p);
        return AQ_OK;
    case AQI_T_BINARY:
        if (!aqi_read_slice(&r->in, &slice)) return aqi_thrift_fail_slice(r, r->in.p);
        return AQ_OK;
    case AQI_T_LIST:
    case AQI_T_SET:
        status = aqi_thrift_list_header(r, &type, &count);
        if (status != AQ_OK) return status;
        return aqi_thrift_skip_elements(r, type, count, depth + 1);
    case AQI_T_MAP:
        return aqi_thrift_skip_map(r, depth + 1);
    case AQI_T_STRUCT:
        for (;;) {
            status = aqi_thrift_field_header(r, &id, &type);
            if (status != AQ_OK || type == AQI_T_STOP) return status;
            status = aqi_thrift_skip(r, type, depth + 1);
            if (status != AQ_OK) return status;
        }
    case AQI_T_STOP:
        break;
    }
    return aqi_thrift_fail(r, "no such type");
}

/* The fields of a struct, one after the other. */
typedef struct aqi_thrift_walk {
    const aqi_thrift_struct *type;
    const aqi_thrift_field *field; /* row of the field at hand                       */
    uint32_t has;                  /* fields whose values were read                  */
    int32_t id;
    aqi_thrift_type wire;          /* of the field at hand; AQI_T_STOP: no more      */
} aqi_thrift_walk;

static aqi_thrift_walk aqi_thrift_walk_begin(const aqi_thrift_struct *type) {
    aqi_thrift_walk w;
    w.type = type;
    w.field = type->fields;
    w.has = 0;
    w.id = 0;
    w.wire = AQI_T_STOP;
    return w;
}

/* Whether the row is that of the field at hand. A field of another type than the table's
 * is unknown and so skipped, as Thrift demands. */
AQI_INLINE bool aqi_thrift_is_row(const aqi_thrift_field *f, int32_t id,
                                  aqi_thrift_type wire) {
    return f->id == id && ((f->kind & 15) == (int)wire ||
                           (f->kind == AQI_KIND_BOOL && wire == AQI_T_FALSE));
}

static aq_status aqi_thrift_fail_missing(const aqi_thrift_reader *r,
                                         const aqi_thrift_walk *w) {
    uint32_t missing = w->type->required & ~w->has;
    return aqi_fail_at(r->err, AQ_E_FORMAT, aqi_offset(&r->in),
                       "Thrift metadata: %s lacks its field %s", w->type->name,
                       w->type->fields[__builtin_ctz(missing)].name);
}

/* What nearly every field is: known, after the one before it, its id in short form.
 * False, and nothing has moved, when it is none such. */
AQI_INLINE bool aqi_thrift_step(aqi_cursor *c, aqi_thrift_walk *w) {
    const aqi_thrift_field *f = w->field;
    const uint32_t byte = aqi_remaining(c) == 0 ? 0 : *c->p;
    const int32_t id = w->id + (int32_t)(byte >> 4);
    if (byte >> 4 == 0) return false;
    while (f->id < id) f++;
    if (!aqi_thrift_is_row(f, id, (aqi_thrift_type)(byte & 15))) return false;
    w->wire = (aqi_thrift_type)(byte & 15);
    w->field = f;
    w->id = id;
    c->p++;
    return true;
}

/* Whether the struct ends here, with all that it needs. */
AQI_INLINE bool aqi_thrift_end(aqi_cursor *c, aqi_thrift_walk *w) {
    if (aqi_remaining(c) == 0 || *c->p != AQI_T_STOP ||
        (w->type->required & ~w->has) != 0)
        return false;
    w->wire = AQI_T_STOP;
    c->p++;
    return true;
}

/* To the next known field or the end by the long way: any id, any order, unknown fields
 * between, and what is wrong. */
static aq_status aqi_thrift_search(aqi_thrift_reader *r, aqi_thrift_walk *w) {
    for (;;) {
        aq_status status = aqi_thrift_field_header(r, &w->id, &w->wire);
        if (status != AQ_OK) return status;
        if (w->wire == AQI_T_STOP) break;
        w->field = w->type->fields;
        while (w->field->id < w->id) w->field++;
        if (aqi_thrift_is_row(w->field, w->id, w->wire)) return AQ_OK;
        status = aqi_thrift_skip(r, w->wire, 1);
        if (status != AQ_OK) return status;
    }
    return (w->type->required & ~w->has) == 0 ? AQ_OK : aqi_thrift_fail_missing(r, w);
}

/* To the next known field, or to the end: then `wire` is AQI_T_STOP. */
static aq_status aqi_thrift_next(aqi_thrift_reader *r, aqi_thrift_walk *w) {
    if (aqi_thrift_step(&r->in, w) || aqi_thrift_end(&r->in, w)) return AQ_OK;
    return aqi_thrift_search(r, w);
}

/* The header of a list; its elements follow. */
static aq_status aqi_thrift_list_begin(aqi_thrift_reader *r, const aqi_thrift_field *f,
                                       aqi_list *out) {
    const uint8_t *at = r->in.p;
    aqi_thrift_type wire = AQI_T_STOP;
    aq_status status = aqi_thrift_list_header(r, &wire, &out->count);
    if (status != AQ_OK) return status;
    out->items = r->in.p;
    out->encoded_bytes = 0;
    if (out->count == 0) return AQ_OK;
    if ((int)wire != f->kind >> 4)
        return aqi_thrift_fail_at(r, at, "list of another type than its field's");
    if (f->type != NULL && out->count > aqi_remaining(&r->in) / f->type->min_bytes)
        return aqi_thrift_fail_at(r, at, "list longer than its file");
    return AQ_OK;
}

static void aqi_thrift_list_end(const aqi_thrift_reader *r, aqi_list *out) {
    out->encoded_bytes = (size_t)(r->in.p - (const uint8_t *)out->items);
}

/* Declared before its recursion through fields and lists; as deep as the tables are. */
static aq_status aqi_thrift_read_fields(aqi_thrift_reader *r,
                                        const aqi_thrift_struct *type, void *dst);

/* Reads a struct. What is absent in it is zero. */
static aq_status aqi_thrift_read(aqi_thrift_reader *r, const aqi_thrift_struct *type,
                                 void *dst) {
    memset(dst, 0, type->size);
    return aqi_thrift_read_fields(r, type, dst);
}

/* Checks the elements by reading them. */
static aq_status aqi_thrift_read_list(aqi_thrift_reader *r, const aqi_thrift_field *f,
                                      aqi_list *out) {
    uint64_t item[AQI_THRIFT_ITEM_BYTES / sizeof(uint64_t)];
    uint32_t i;
    aqi_cursor in;
    aq_status status = aqi_thrift_list_begin(r, f, out);
    if (status != AQ_OK) return status;
    in = r->in;
    if (f->kind == AQI_KIND_LIST_STRUCT) {
        for (i = 0; i < out->count && status == AQ_OK; i++) {
            AQ_ASSERT(f->type->size <= sizeof item);
            status = aqi_thrift_read(r, f->type, item);
        }
        in = r->in;
    } else if (f->kind == AQI_KIND_LIST_BYTES) {
        for (i = 0; i < out->count && status == AQ_OK; i++) {
            aqi_slice slice;
            if (!aqi_read_slice(&in, &slice)) status = aqi_thrift_fail_slice(r, in.p);
        }
    } else {
        for (i = 0; i < out->count && status == AQ_OK; i++) {
            const uint8_t *at = in.p;
            int64_t v;
            if (!aqi_read_zigzag(&in, &v) ||
                (f->kind == AQI_KIND_LIST_I32 && v != (int32_t)v))
                status = aqi_thrift_fail_int(r, at);
        }
    }
    r->in = in;
    aqi_thrift_list_end(r, out);
    return status;
}

/* The value of the field at hand, into its place in `dst`, which was zeroed. The cursor
 * `in` stands in for the reader's. */
AQI_INLINE aq_status aqi_thrift_read_value(aqi_thrift_reader *r, aqi_cursor *in,
                                           aqi_thrift_walk *w, void *dst) {
    const aqi_thrift_field *f = w->field;
    const uint32_t bit = 1u << f->index;
    const uint8_t *at = in->p;
    void *to = (uint8_t *)dst + f->offset;
    uint64_t bits;
    int64_t v;
    aq_status status = AQ_OK;
    switch ((aqi_kind)f->kind) {
    case AQI_KIND_BOOL:
        *(bool *)to = w->wire == AQI_T_TRUE; /* the value is in the field's header */
        break;
    case AQI_KIND_I8:
        if (aqi_remaining(in) == 0) return aqi_thrift_fail_at(r, at, "value cut off");
        *(int8_t *)to = (int8_t)*in->p++;
        break;
    case AQI_KIND_I16:
        if (!aqi_read_zigzag(in, &v) || v != (int16_t)v)
            return aqi_thrift_fail_int(r, at);
        *(int16_t *)to = (int16_t)v;
        break;
    case AQI_KIND_I32:
        if (!aqi_read_zigzag(in, &v) || v != (int32_t)v)
            return aqi_thrift_fail_int(r, at);
        *(int32_t *)to = (int32_t)v;
        break;
    case AQI_KIND_I64:
        if (!aqi_read_zigzag(in, (int64_t *)to)) return aqi_thrift_fail_int(r, at);
        break;
    case AQI_KIND_DOUBLE:
        if (aqi_remaining(in) < 8) return aqi_thrift_fail_at(r, at, "value cut off");
        bits = aqi_load_le64(in->p);
        memcpy(to, &bits, sizeof bits);
        in->p += 8;
        break;
    case AQI_KIND_BYTES:
        if (!aqi_read_slice(in, (aqi_slice *)to)) return aqi_thrift_fail_slice(r, at);
        break;
    case AQI_KIND_STRUCT:
        if ((w->has & bit) != 0) memset(to, 0, f->type->size); /* the last one counts */
        r->in.p = in->p;
        status = aqi_thrift_read_fields(r, f->type, to);
        in->p = r->in.p;
        break;
    default:
        r->in.p = in->p;
        status = aqi_thrift_read_list(r, f, (aqi_list *)to);
        in->p = r->in.p;
        break;
    }
    w->has |= bit;
    return status;
}

/* The same for those who walk themselves. */
static aq_status aqi_thrift_read_field(aqi_thrift_reader *r, aqi_thrift_walk *w,
                                       void *dst) {
    return aqi_thrift_read_value(r, &r->in, w, dst);
}

static aq_status aqi_thrift_read_fields(aqi_thrift_reader *r,
                                        const aqi_thrift_struct *type, void *dst) {
    aqi_thrift_walk w = aqi_thrift_walk_begin(type);
    aqi_cursor in = r->in; /* a variable that the compiler can keep in registers */
    for (;;) {
        aq_status status = AQ_OK;
        if (!AQI_LIKELY(aqi_thrift_step(&in, &w)) && !aqi_thrift_end(&in, &w)) {
            aqi_thrift_walk copy = w; /* that `w` too can stay in registers */
            r->in.p = in.p;
            status = aqi_thrift_search(r, &copy);
            in.p = r->in.p;
            w = copy;
        }
        if (status == AQ_OK && w.wire == AQI_T_STOP) break;
        if (status == AQ_OK) status = aqi_thrift_read_value(r, &in, &w, dst);
        if (status != AQ_OK) return status;
    }
    r->in.p = in.p;
    memcpy(dst, &w.has, sizeof w.has);
    return AQ_OK;
}

/* Writing: a failed allocation sets `failed`, which the caller looks at once, at the
 * end. */
typedef struct aqi_thrift_writer {
    const aq_allocator *allocator;
    aqi_bytes_builder out;
    bool failed;
} aqi_thrift_writer;

static void aqi_thrift_put(aqi_thrift_writer *w, const void *src, size_t bytes) {
    if (!aqi_builder_append(w->allocator, &w->out, src, bytes)) w->failed = true;
}

static void aqi_thrift_put_byte(aqi_thrift_writer *w, uint32_t byte) {
    uint8_t b = (uint8_t)byte;
    aqi_thrift_put(w, &b, 1);
}

static size_t aqi_encode_varint(uint64_t v, uint8_t dst[10]) {
    size_t n = 0;
    for (; v >= 0x80; v >>= 7) dst[n++] = (uint8_t)(v | 0x80);
    dst[n++] = (uint8_t)v;
    return n;
}

static void aqi_thrift_put_varint(aqi_thrift_writer *w, uint64_t v) {
    uint8_t bytes[10];
    aqi_thrift_put(w, bytes, aqi_encode_varint(v, bytes));
}

static void aqi_thrift_put_int(aqi_thrift_writer *w, int64_t v) {
    aqi_thrift_put_varint(w, (uint64_t)v << 1 ^ (v < 0 ? UINT64_MAX : 0));
}

static void aqi_thrift_put_list_header(aqi_thrift_writer *w, uint32_t wire,
                                       uint32_t count) {
    aqi_thrift_put_byte(w, AQI_MIN(count, 15u) << 4 | wire);
    if (count >= 15) aqi_thrift_put_varint(w, count);
}

/* Declared before its recursion through fields; as deep as the tables are. */
static void aqi_thrift_write(aqi_thrift_writer *w, const aqi_thrift_struct *type,
                             const void *src);

static void aqi_thrift_put_value(aqi_thrift_writer *w, aqi_kind kind,
                                 const aqi_thrift_struct *type, const void *src) {
    uint64_t bits;
    uint8_t bytes[8];
    switch (kind) {
    case AQI_KIND_I8:
        aqi_thrift_put(w, src, 1);
        break;
    case AQI_KIND_I16:
        aqi_thrift_put_int(w, *(const int16_t *)src);
        break;
    case AQI_KIND_I32:
        aqi_thrift_put_int(w, *(const int32_t *)src);
        break;
    case AQI_KIND_I64:
        aqi_thrift_put_int(w, *(const int64_t *)src);
        break;
    case AQI_KIND_DOUBLE:
        memcpy(&bits, src, sizeof bits);
        aqi_store_le64(bytes, bits);
        aqi_thrift_put(w, bytes, sizeof bytes);
        break;
    case AQI_KIND_BYTES:
        aqi_thrift_put_varint(w, ((const aqi_slice *)src)->size);
        aqi_thrift_put(w, ((const aqi_slice *)src)->data, ((const aqi_slice *)src)->size);
        break;
    default:
        aqi_thrift_write(w, type, src);
        break;
    }
}

/* Bytes of an element in C, of a list's field. */
static size_t aqi_thrift_element_size(const aqi_thrift_field *f) {
    if (f->type != NULL) return f->type->size;
    return f->kind == AQI_KIND_LIST_BYTES ? sizeof(aqi_slice)
           : f->kind == AQI_KIND_LIST_I64 ? sizeof(int64_t)
                                          : sizeof(int32_t);
}

static void aqi_thrift_put_list(aqi_thrift_writer *w, const aqi_thrift_field *field,
                                const aqi_list *list) {
    aqi_kind element = (aqi_kind)(field->kind >> 4);
    size_t size = aqi_thrift_element_size(field);
    uint32_t i;
    aqi_thrift_put_list_header(w, (uint32_t)element, list->count);
    if (list->encoded_bytes != 0) {
        aqi_thrift_put(w, list->items, list->encoded_bytes);
        return;
    }
    for (i = 0; i < list->count; i++)
        aqi_thrift_put_value(w, element, field->type,
                             (const uint8_t *)list->items + i * size);
}

static void aqi_thrift_write(aqi_thrift_writer *w, const aqi_thrift_struct *type,
                             const void *src) {
    uint32_t has;
    int32_t last = 0;
    size_t k;
    memcpy(&has, src, sizeof has);
    for (k = 0; k < type->num_fields; k++) {
        const aqi_thrift_field *f = &type->fields[k];
        const uint8_t *at = (const uint8_t *)src + f->offset;
        uint32_t wire = f->kind & 15;
        if (!(has >> k & 1u)) continue;
        if (f->kind == AQI_KIND_BOOL && !*(const bool *)at) wire = AQI_T_FALSE;
        if (f->id - last <= 15) {
            aqi_thrift_put_byte(w, (uint32_t)(f->id - last) << 4 | wire);
        } else {
            aqi_thrift_put_byte(w, wire);
            aqi_thrift_put_int(w, f->id);
        }
        last = f->id;
        if (f->kind == AQI_KIND_BOOL) continue;
        if (wire == AQI_T_LIST) {
            aqi_thrift_put_list(w, f, (const aqi_list *)(const void *)at);
        } else {
            aqi_thrift_put_value(w, (aqi_kind)f->kind, f->type, at);
        }
    }
    aqi_thrift_put_byte(w, AQI_T_STOP);
}

/*==========================================================================
 * MARK: - [71] Parquet metadata (private)
 * The structs of parquet.thrift that the reader or the writer touches, under its names.
 * Source: apache/parquet-format, parquet.thrift.
 *========================================================================*/

#define AQI_REQ true
#define AQI_OPT false

#define AQI_STATISTICS(X, s)                                                             \
    X(s, 1, BYTES, aqi_slice, max, AQI_OPT, NULL)                                        \
    X(s, 2, BYTES, aqi_slice, min, AQI_OPT, NULL)                                        \
    X(s, 3, I64, int64_t, null_count, AQI_OPT, NULL)                                     \
    X(s, 4, I64, int64_t, distinct_count, AQI_OPT, NULL)                                 \
    X(s, 5, BYTES, aqi_slice, max_value, AQI_OPT, NULL)                                  \
    X(s, 6, BYTES, aqi_slice, min_value, AQI_OPT, NULL)                                  \
    X(s, 7, BOOL, bool, is_max_value_exact, AQI_OPT, NULL)                               \
    X(s, 8, BOOL, bool, is_min_value_exact, AQI_OPT, NULL)
AQI_THRIFT(aqi_statistics, AQI_STATISTICS)

#define AQI_DECIMAL(X, s)                                                                \
    X(s, 1, I32, int32_t, scale, AQI_REQ, NULL)                                          \
    X(s, 2, I32, int32_t, precision, AQI_REQ, NULL)
AQI_THRIFT(aqi_decimal, AQI_DECIMAL)

#define AQI_TIME_UNIT(X, s)                                                              \
    X(s, 1, STRUCT, aqi_empty, millis, AQI_OPT, &aqi_empty_type)                         \
    X(s, 2, STRUCT, aqi_empty, micros, AQI_OPT, &aqi_empty_type)                         \
    X(s, 3, STRUCT, aqi_empty, nanos, AQI_OPT, &aqi_empty_type)
AQI_THRIFT(aqi_time_unit, AQI_TIME_UNIT)

#define AQI_TIME(X, s)                                                                   \
    X(s, 1, BOOL, bool, is_adjusted_to_utc, AQI_REQ, NULL)                               \
    X(s, 2, STRUCT, aqi_time_unit, unit, AQI_REQ, &aqi_time_unit_type)
AQI_THRIFT(aqi_time, AQI_TIME)

#define AQI_INTEGER(X, s)                                                                \
    X(s, 1, I8, int8_t, bit_width, AQI_REQ, NULL)                                        \
    X(s, 2, BOOL, bool, is_signed, AQI_REQ, NULL)
AQI_THRIFT(aqi_integer, AQI_INTEGER)

#define AQI_LOGICAL(X, s)                                                                \
    X(s, 1, STRUCT, aqi_empty, string, AQI_OPT, &aqi_empty_type)                         \
    X(s, 2, STRUCT, aqi_empty, map, AQI_OPT, &aqi_empty_type)                            \
    X(s, 3, STRUCT, aqi_empty, list, AQI_OPT, &aqi_empty_type)                           \
    X(s, 4, STRUCT, aqi_empty, enumeration, AQI_OPT, &aqi_empty_type)                    \
    X(s, 5, STRUCT, aqi_decimal, decimal, AQI_OPT, &aqi_decimal_type)                    \
    X(s, 6, STRUCT, aqi_empty, date, AQI_OPT, &aqi_empty_type)                           \
    X(s, 7, STRUCT, aqi_time, time, AQI_OPT, &aqi_time_type)                             \
    X(s, 8, STRUCT, aqi_time, timestamp, AQI_OPT, &aqi_time_type)                        \
    X(s, 10, STRUCT, aqi_integer, integer, AQI_OPT, &aqi_integer_type)                   \
    X(s, 11, STRUCT, aqi_empty, unknown, AQI_OPT, &aqi_empty_type)                       \
    X(s, 12, STRUCT, aqi_empty, json, AQI_OPT, &aqi_empty_type)                          \
    X(s, 13, STRUCT, aqi_empty, bson, AQI_OPT, &aqi_empty_type)                          \
    X(s, 14, STRUCT, aqi_empty, uuid, AQI_OPT, &aqi_empty_type)                          \
    X(s, 15, STRUCT, aqi_empty, float16, AQI_OPT, &aqi_empty_type)
AQI_THRIFT(aqi_logical, AQI_LOGICAL)

#define AQI_SCHEMA_ELEMENT(X, s)                                                         \
    X(s, 1, I32, int32_t, type, AQI_OPT, NULL)                                           \
    X(s, 2, I32, int32_t, type_length, AQI_OPT, NULL)                                    \
    X(s, 3, I32, int32_t, repetition_type, AQI_OPT, NULL)                                \
    X(s, 4, BYTES, aqi_slice, name, AQI_REQ, NULL)                                       \
    X(s, 5, I32, int32_t, num_children, AQI_OPT, NULL)                                   \
    X(s, 6, I32, int32_t, converted_type, AQI_OPT, NULL)                                 \
    X(s, 7, I32, int32_t, scale, AQI_OPT, NULL)                                          \
    X(s, 8, I32, int32_t, precision, AQI_OPT, NULL)                                      \
    X(s, 9, I32, int32_t, field_id, AQI_OPT, NULL)                                       \
    X(s, 10, STRUCT, aqi_logical, logical_type, AQI_OPT, &aqi_logical_type)
AQI_THRIFT(aqi_schema_element, AQI_SCHEMA_ELEMENT)

#define AQI_KEY_VALUE(X, s)                                                              \
    X(s, 1, BYTES, aqi_slice, key, AQI_REQ, NULL)                                        \
    X(s, 2, BYTES, aqi_slice, value, AQI_OPT, NULL)
AQI_THRIFT(aqi_key_value, AQI_KEY_VALUE)

#define AQI_COLUMN_META_TO_12(X, s)                                                      \
    X(s, 1, I32, int32_t, type, AQI_REQ, NULL)                                           \
    X(s, 2, LIST_I32, aqi_list, encodings, AQI_REQ, NULL)                                \
    X(s, 3, LIST_BYTES, aqi_list, path_in_schema, AQI_REQ, NULL)                         \
    X(s, 4, I32, int32_t, codec, AQI_REQ, NULL)                                          \
    X(s, 5, I64, int64_t, num_values, AQI_REQ, NULL)                                     \
    X(s, 6, I64, int64_t, total_uncompressed_size, AQI_REQ, NULL)                        \
    X(s, 7, I64, int64_t, total_compressed_size, AQI_REQ, NULL)                          \
    X(s, 8, LIST_STRUCT, aqi_list, key_value_metadata, AQI_OPT, &aqi_key_value_type)     \
    X(s, 9, I64, int64_t, data_page_offset, AQI_REQ, NULL)                               \
    X(s, 10, I64, int64_t, index_page_offset, AQI_OPT, NULL)                             \
    X(s, 11, I64, int64_t, dictionary_page_offset, AQI_OPT, NULL)                        \
    X(s, 12, STRUCT, aqi_statistics, statistics, AQI_OPT, &aqi_statistics_type)

#define AQI_COLUMN_META(X, s)                                                            \
    AQI_COLUMN_META_TO_12(X, s)                                                          \
    X(s, 14, I64, int64_t, bloom_filter_offset, AQI_OPT, NULL)                           \
    X(s, 15, I32, int32_t, bloom_filter_length, AQI_OPT, NULL)
AQI_THRIFT(aqi_column_meta, AQI_COLUMN_META)

#ifndef AQ_NO_WRITER

/* What readers here do not ask for, and so do not parse, is in the writer's struct. */
#define AQI_PAGE_ENCODING_STATS(X, s)                                                    \
    X(s, 1, I32, int32_t, page_type, AQI_REQ, NULL)                                      \
    X(s, 2, I32, int32_t, encoding, AQI_REQ, NULL)                                       \
    X(s, 3, I32, int32_t, count, AQI_REQ, NULL)
AQI_THRIFT(aqi_page_encoding_stats, AQI_PAGE_ENCODING_STATS)

#define AQI_COLUMN_META_OUT(X, s)                                                        \
    AQI_COLUMN_META_TO_12(X, s)                                                          \
    X(s, 13, LIST_STRUCT, aqi_list, encoding_stats, AQI_OPT,                             \
      &aqi_page_encoding_stats_type)
AQI_THRIFT(aqi_column_meta_out, AQI_COLUMN_META_OUT)

#define AQI_COLUMN_CHUNK_OUT(X, s)                                                       \
    X(s, 2, I64, int64_t, file_offset, AQI_REQ, NULL)                                    \
    X(s, 3, STRUCT, aqi_column_meta_out, meta_data, AQI_OPT, &aqi_column_meta_out_type)
AQI_THRIFT(aqi_column_chunk_out, AQI_COLUMN_CHUNK_OUT)

#define AQI_PAGE_LOCATION(X, s)                                                          \
    X(s, 1, I64, int64_t, offset, AQI_REQ, NULL)                                         \
    X(s, 2, I32, int32_t, compressed_page_size, AQI_REQ, NULL)                           \
    X(s, 3, I64, int64_t, first_row_index, AQI_REQ, NULL)
AQI_THRIFT(aqi_page_location, AQI_PAGE_LOCATION)

#define AQI_OFFSET_INDEX(X, s)                                                           \
    X(s, 1, LIST_STRUCT, aqi_list, page_locations, AQI_REQ, &aqi_page_location_type)
AQI_THRIFT(aqi_offset_index, AQI_OFFSET_INDEX)

#endif /* AQ_NO_WRITER */

#define AQI_COLUMN_CHUNK(X, s)                                                           \
    X(s, 1, BYTES, aqi_slice, file_path, AQI_OPT, NULL)                                  \
    X(s, 2, I64, int64_t, file_offset, AQI_REQ, NULL)                                    \
    X(s, 3, STRUCT, aqi_column_meta, meta_data, AQI_OPT, &aqi_column_meta_type)          \
    X(s, 4, I64, int64_t, offset_index_offset, AQI_OPT, NULL)                            \
    X(s, 5, I32, int32_t, offset_index_length, AQI_OPT, NULL)                            \
    X(s, 6, I64, int64_t, column_index_offset, AQI_OPT, NULL)                            \
    X(s, 7, I32, int32_t, column_index_length, AQI_OPT, NULL)                            \
    X(s, 8, STRUCT, aqi_empty, crypto_metadata, AQI_OPT, &aqi_empty_type)                \
    X(s, 9, BYTES, aqi_slice, encrypted_column_metadata, AQI_OPT, NULL)
AQI_THRIFT(aqi_column_chunk, AQI_COLUMN_CHUNK)

#define AQI_SORTING_COLUMN(X, s)                                                         \
    X(s, 1, I32, int32_t, column_idx, AQI_REQ, NULL)                                     \
    X(s, 2, BOOL, bool, descending, AQI_REQ, NULL)                                       \
    X(s, 3, BOOL, bool, nulls_first, AQI_REQ, NULL)
AQI_THRIFT(aqi_sorting_column, AQI_SORTING_COLUMN)

#define AQI_ROW_GROUP(X, s)                                                              \
    X(s, 1, LIST_STRUCT, aqi_list, columns, AQI_REQ, &aqi_column_chunk_type)             \
    X(s, 2, I64, int64_t, total_byte_size, AQI_REQ, NULL)                                \
    X(s, 3, I64, int64_t, num_rows, AQI_REQ, NULL)                                       \
    X(s, 4, LIST_STRUCT, aqi_list, sorting_columns, AQI_OPT, &aqi_sorting_column_type)   \
    X(s, 5, I64, int64_t, file_offset, AQI_OPT, NULL)                                    \
    X(s, 6, I64, int64_t, total_compressed_size, AQI_OPT, NULL)                          \
    X(s, 7, I16, int16_t, ordinal, AQI_OPT, NULL)
AQI_THRIFT(aqi_row_group, AQI_ROW_GROUP)

#define AQI_COLUMN_ORDER(X, s)                                                           \
    X(s, 1, STRUCT, aqi_empty, type_order, AQI_OPT, &aqi_empty_type)
AQI_THRIFT(aqi_column_order, AQI_COLUMN_ORDER)

#define AQI_FILE_META(X, s)                                                              \
    X(s, 1, I32, int32_t, version, AQI_REQ, NULL)                                        \
    X(s, 2, LIST_STRUCT, aqi_list, schema, AQI_REQ, &aqi_schema_element_type)            \
    X(s, 3, I64, int64_t, num_rows, AQI_REQ, NULL)                                       \
    X(s, 4, LIST_STRUCT, aqi_list, row_groups, AQI_REQ, &aqi_row_group_type)             \
    X(s, 5, LIST_STRUCT, aqi_list, key_value_metadata, AQI_OPT, &aqi_key_value_type)     \
    X(s, 6, BYTES, aqi_slice, created_by, AQI_OPT, NULL)                                 \
    X(s, 7, LIST_STRUCT, aqi_list, column_orders, AQI_OPT, &aqi_column_order_type)       \
    X(s, 8, STRUCT, aqi_empty, encryption_algorithm, AQI_OPT, &aqi_empty_type)
AQI_THRIFT(aqi_file_meta, AQI_FILE_META)

#define AQI_DATA_PAGE(X, s)                                                              \
    X(s, 1, I32, int32_t, num_values, AQI_REQ, NULL)                                     \
    X(s, 2, I32, int32_t, encoding, AQI_REQ, NULL)                                       \
    X(s, 3, I32, int32_t, definition_level_encoding, AQI_REQ, NULL)                      \
    X(s, 4, I32, int32_t, repetition_level_encoding, AQI_REQ, NULL)                      \
    X(s, 5, STRUCT, aqi_statistics, statistics, AQI_OPT, &aqi_statistics_type)
AQI_THRIFT(aqi_data_page, AQI_DATA_PAGE)

#define AQI_DICTIONARY_PAGE(X, s)                                                        \
    X(s, 1, I32, int32_t, num_values, AQI_REQ, NULL)                                     \
    X(s, 2, I32, int32_t, encoding, AQI_REQ, NULL)                                       \
    X(s, 3, BOOL, bool, is_sorted, AQI_OPT, NULL)
AQI_THRIFT(aqi_dictionary_page, AQI_DICTIONARY_PAGE)

#define AQI_DATA_PAGE_V2(X, s)                                                           \
    X(s, 1, I32, int32_t, num_values, AQI_REQ, NULL)                                     \
    X(s, 2, I32, int32_t, num_nulls, AQI_REQ, NULL)                                      \
    X(s, 3, I32, int32_t, num_rows, AQI_REQ, NULL)                                       \
    X(s, 4, I32, int32_t, encoding, AQI_REQ, NULL)                                       \
    X(s, 5, I32, int32_t, definition_levels_byte_length, AQI_REQ, NULL)                  \
    X(s, 6, I32, int32_t, repetition_levels_byte_length, AQI_REQ, NULL)                  \
    X(s, 7, BOOL, bool, is_compressed, AQI_OPT, NULL)                                    \
    X(s, 8, STRUCT, aqi_statistics, statistics, AQI_OPT, &aqi_statistics_type)
AQI_THRIFT(aqi_data_page_v2, AQI_DATA_PAGE_V2)

#define AQI_PAGE_HEADER(X, s)                                                            \
    X(s, 1, I32, int32_t, type, AQI_REQ, NULL)                                           \
    X(s, 2, I32, int32_t, uncompressed_page_size, AQI_REQ, NULL)                         \
    X(s, 3, I32, int32_t, compressed_page_size, AQI_REQ, NULL)                           \
    X(s, 4, I32, int32_t, crc, AQI_OPT, NULL)                                            \
    X(s, 5, STRUCT, aqi_data_page, data_page_header, AQI_OPT, &aqi_data_page_type)       \
    X(s, 6, STRUCT, aqi_empty, index_page_header, AQI_OPT, &aqi_empty_type)              \
    X(s, 7, STRUCT, aqi_dictionary_page, dictionary_page_header, AQI_OPT,                \
      &aqi_dictionary_page_type)                                                         \
    X(s, 8, STRUCT, aqi_data_page_v2, data_page_header_v2, AQI_OPT,                      \
      &aqi_data_page_v2_type)
AQI_THRIFT(aqi_page_header, AQI_PAGE_HEADER)

#define AQI_PAGE_DATA 0
#define AQI_PAGE_INDEX 1
#define AQI_PAGE_DICTIONARY 2
#define AQI_PAGE_DATA_V2 3

/* What ConvertedType says, as a logical type. -1 = no such number. */
static const struct {
    int8_t logical;
    int8_t bit_width; /* INTEGER: negative = signed */
    int32_t unit_nanos;
} aqi_converted_types[] = {
    {AQ_LOGICAL_STRING, 0, 0},            /* UTF8 */
    {AQ_LOGICAL_MAP, 0, 0},               /* MAP */
    {AQ_LOGICAL_MAP, 0, 0},               /* MAP_KEY_VALUE */
    {AQ_LOGICAL_LIST, 0, 0},              /* LIST */
    {AQ_LOGICAL_ENUM, 0, 0},              /* ENUM */
    {AQ_LOGICAL_DECIMAL, 0, 0},           /* DECIMAL */
    {AQ_LOGICAL_DATE, 0, 0},              /* DATE */
    {AQ_LOGICAL_TIME, 0, 1000000},        /* TIME_MILLIS */
    {AQ_LOGICAL_TIME, 0, 1000},           /* TIME_MICROS */
    {AQ_LOGICAL_TIMESTAMP, 0, 1000000},   /* TIMESTAMP_MILLIS */
    {AQ_LOGICAL_TIMESTAMP, 0, 1000},      /* TIMESTAMP_MICROS */
    {AQ_LOGICAL_INTEGER, 8, 0},           /* UINT_8 */
    {AQ_LOGICAL_INTEGER, 16, 0},          /* UINT_16 */
    {AQ_LOGICAL_INTEGER, 32, 0},          /* UINT_32 */
    {AQ_LOGICAL_INTEGER, 64, 0},          /* UINT_64 */
    {AQ_LOGICAL_INTEGER, -8, 0},          /* INT_8 */
    {AQ_LOGICAL_INTEGER, -16, 0},         /* INT_16 */
    {AQ_LOGICAL_INTEGER, -32, 0},         /* INT_32 */
    {AQ_LOGICAL_INTEGER, -64, 0},         /* INT_64 */
    {AQ_LOGICAL_JSON, 0, 0},              /* JSON */
    {AQ_LOGICAL_BSON, 0, 0},              /* BSON */
    {AQ_LOGICAL_INTERVAL, 0, 0},          /* INTERVAL */
};

#define AQI_CONVERTED_UTF8 0
#define AQI_CONVERTED_MAP 1
#define AQI_CONVERTED_LIST 3
#define AQI_CONVERTED_ENUM 4
#define AQI_CONVERTED_DECIMAL 5
#define AQI_CONVERTED_DATE 6
#define AQI_CONVERTED_TIME_MILLIS 7
#define AQI_CONVERTED_TIMESTAMP_MILLIS 9
#define AQI_CONVERTED_UINT_8 11
#define AQI_CONVERTED_INT_8 15
#define AQI_CONVERTED_JSON 19
#define AQI_CONVERTED_BSON 20
#define AQI_CONVERTED_INTERVAL 21

static int32_t aqi_time_unit_nanos(const aqi_time_unit *unit) {
    if (AQI_HAS(unit, aqi_time_unit, millis)) return 1000000;
    if (AQI_HAS(unit, aqi_time_unit, micros)) return 1000;
    return 1;
}

/* LogicalType where there is one, else ConvertedType. */
static void aqi_logical_resolve(const aqi_schema_element *e, aq_field *f) {
    static const int8_t simple[aqi_logical_num_fields] = {
        AQ_LOGICAL_STRING,  AQ_LOGICAL_MAP,     AQ_LOGICAL_LIST,    AQ_LOGICAL_ENUM,
        AQ_LOGICAL_DECIMAL, AQ_LOGICAL_DATE,    AQ_LOGICAL_TIME,    AQ_LOGICAL_TIMESTAMP,
        AQ_LOGICAL_INTEGER, AQ_LOGICAL_UNKNOWN, AQ_LOGICAL_JSON,    AQ_LOGICAL_BSON,
        AQ_LOGICAL_UUID,    AQ_LOGICAL_FLOAT16};
    const aqi_logical *l = &e->logical_type;
    uint32_t c = (uint32_t)e->converted_type;
    f->converted =
        AQI_HAS(e, aqi_schema_element, converted_type) ? e->converted_type : -1;
    f->precision = e->precision;
    f->scale = e->scale;
    if (AQI_HAS(e, aqi_schema_element, logical_type)) {
        f->logical = l->has == 0 ? AQ_LOGICAL_OTHER
                                 : (aq_logical_type)simple[aqi_bits_needed(l->has) - 1];
        if (f->logical == AQ_LOGICAL_DECIMAL) f->precision = l->decimal.precision;
        if (f->logical == AQ_LOGICAL_DECIMAL) f->scale = l->decimal.scale;
        f->bit_width = l->integer.bit_width;
        f->is_signed = l->integer.is_signed;
        if (f->logical == AQ_LOGICAL_TIME || f->logical == AQ_LOGICAL_TIMESTAMP) {
            const aqi_time *t = f->logical == AQ_LOGICAL_TIME ? &l->time : &l->timestamp;
            f->unit_nanos = aqi_time_unit_nanos(&t->unit);
            f->utc = t->is_adjusted_to_utc;
        }
    } else if (f->converted >= 0 && c < AQI_COUNT(aqi_converted_types)) {
        int32_t width = aqi_converted_types[c].bit_width;
        f->logical = (aq_logical_type)aqi_converted_types[c].logical;
        f->bit_width = width < 0 ? -width : width;
        f->is_signed = width < 0;
        f->unit_nanos = aqi_converted_types[c].unit_nanos;
        f->utc = f->unit_nanos != 0;
    }
}

/*==========================================================================
 * MARK: - [72] Levels and RLE / bit-packed hybrid (private)
 * Source: apache/parquet-format, Encodings.md, "Run Length Encoding / Bit-Packing
 * Hybrid".
 *========================================================================*/

typedef struct aqi_rle {
    const uint8_t *p, *end;
    uint32_t width;    /* bits of a value, 0..32         */
    uint64_t run_left; /* values left of the current run */
    bool packed;
    uint32_t value;  /* of a repeated run              */
    aqi_codes codes; /* of a packed run, from those on that were taken last */
    size_t taken;
} aqi_rle;

static void aqi_rle_init(aqi_rle *r, const uint8_t *data, size_t bytes, uint32_t width) {
    memset(r, 0, sizeof *r);
    r->p = data;
    r->end = data + bytes;
    r->width = width;
    r->codes.bits = width;
}

/* Starts the next run; each call consumes a byte at least. False: malformed or at the
 * end. */
static bool aqi_rle_next_run(aqi_rle *r) {
    aqi_cursor c = aqi_cursor_make(r->p, (size_t)(r->end - r->p), 0);
    uint64_t header;
    uint32_t k, value_bytes = (r->width + 7) / 8;
    if (!aqi_read_varint(&c, &header) || header >> 1 > (uint64_t)UINT32_MAX) return false;
    r->packed = (header & 1) != 0;
    r->run_left = header >> 1;
    if (r->packed) {
        uint64_t bytes = r->run_left * r->width;
        r->run_left *= 8;
        r->codes.src = c.p;
        r->codes.readable = aqi_remaining(&c);
        /* Some writers leave out the padding of the last group. */
        r->p = c.p + (size_t)AQI_MIN(bytes, (uint64_t)aqi_remaining(&c));
        return true;
    }
    if (aqi_remaining(&c) < value_bytes) return false;
    r->value = 0;
    for (k = 0; k < value_bytes; k++) r->value |= (uint32_t)c.p[k] << 8 * k;
    if (r->width < 32 && r->value >> r->width != 0) return false;
    r->p = c.p + value_bytes;
    return true;
}

/* Values that are read at a time: they stay in the cache. */
#define AQI_RLE_BATCH 1024

/* How many of the next n > 0 values are of one run: r->value each, or r->codes, then a
 * multiple of 8 or all n. 0: the data ends before. */
static size_t aqi_rle_take(aqi_rle *r, size_t n) {
    if (r->taken > 0) r->codes = aqi_codes_from(&r->codes, r->taken);
    r->taken = 0;
    while (r->run_left == 0) {
        if (!aqi_rle_next_run(r)) return 0;
    }
    n = (size_t)AQI_MIN((uint64_t)n, r->run_left);
    if (r->packed) {
        if (n >= 8) n = AQI_MIN(n / 8 * 8, (size_t)AQI_RLE_BATCH);
        if ((uint64_t)n * r->width > (uint64_t)r->codes.readable * 8) return 0;
        r->taken = n;
    }
    r->run_left -= n;
    return n;
}

/* The next values of at most 8 bits: n <= AQI_RLE_BATCH of them, or up to 7 less if
 * there are more to be read. 0: the data ends before. */
static size_t aqi_rle_bytes(aqi_rle *r, uint8_t *dst, size_t n) {
    const struct aqi_kernels *k = aqi_k();
    size_t done = 0, part;
    do {
        part = aqi_rle_take(r, n - done);
        if (part == 0) return 0;
        if (r->packed) {
            k->unpack(r->codes.src, part, r->width, dst + done);
        } else {
            memset(dst + done, (int)r->value, part);
        }
        done += part;
    } while (n - done >= 8);
    return done;
}

/* Checks n levels against max and counts them; a long repeated run costs one step. Fills
 * dst when it is not NULL. */
static bool aqi_levels_scan(const uint8_t *data, size_t bytes, uint32_t max, int64_t n,
                            uint8_t *dst, aqi_level_counts *out) {
    uint8_t batch[AQI_RLE_BATCH];
    int64_t left = n;
    aqi_rle r;
    memset(out, 0, sizeof *out);
    aqi_rle_init(&r, data, bytes, aqi_bits_needed(max));
    while (left > 0) {
        uint8_t *to = dst != NULL ? dst + (n - left) : batch;
        size_t part;
        if (!r.packed && r.run_left > AQI_RLE_BATCH) { /* of a level that was checked */
            part = aqi_rle_take(&r, (size_t)AQI_MIN(left, (int64_t)INT32_MAX));
            out->zeros += r.value == 0 ? (int64_t)part : 0;
            out->maxima += r.value == max ? (int64_t)part : 0;
            if (dst != NULL) memset(to, (int)r.value, part);
        } else {
            part = aqi_rle_bytes(&r, to, (size_t)AQI_MIN(left, (int64_t)AQI_RLE_BATCH));
            if (part == 0 || aqi_k()->levels(to, part, max, out) > max) return false;
            if (left == n) out->first = to[0];
        }
        left -= (int64_t)part;
    }
    return true;
}

/* The deprecated BIT_PACKED: n levels without a length, packed from the most significant
 * bit. dst may be NULL: then they are only checked and counted. */
static bool aqi_levels_scan_packed(const uint8_t *data, size_t bytes, uint32_t max,
                                   int64_t n, uint8_t *dst, aqi_level_counts *out) {
    uint8_t batch[AQI_RLE_BATCH];
    uint32_t width = aqi_bits_needed(max), k;
    const uint8_t *p = data, *end = data + bytes;
    int64_t done = 0;
    memset(out, 0, sizeof *out);
    if ((uint64_t)n > (uint64_t)bytes * 8 / AQI_MAX(width, 1u)) return false;
    while (done < n) {
        uint8_t *to = dst != NULL ? dst + done : batch;
        size_t part = (size_t)AQI_MIN(n - done, (int64_t)AQI_RLE_BATCH), i, j;
        for (i = 0; i < part;
             i += 8) { /* levels, in `width` bytes; the last ones in less */
            uint64_t group = 0;
            for (k = 0; k < width; k++) group = group << 8 | (p < end ? *p++ : 0u);
            for (j = 0; j < 8 && i + j < part; j++)
                to[i + j] = (uint8_t)(group >> (7 - j) * width & ((1u << width) - 1));
        }
        if (aqi_k()->levels(to, part, max, out) > max) return false;
        if (done == 0) out->first = to[0];
        done += (int64_t)part;
    }
    return true;
}

/* A repeated run of fewer values, a multiple of 8, is not shorter than packed ones. */
AQI_INLINE size_t aqi_rle_least_run(uint32_t width) {
    return AQI_MAX((size_t)8, aqi_round_up(32 / width, 8));
}

/* The first `least` of n values are equal. */
AQI_INLINE bool aqi_is_run(const uint8_t *v, size_t n, size_t least) {
    uint64_t first, other;
    size_t k;
    if (n < least) return false;
    memcpy(&first, v, sizeof first);
    if (first != (first << 8 | first >> 56)) return false;
    for (k = sizeof other; k < least; k += sizeof other) {
        memcpy(&other, v + k, sizeof other);
        if (other != first) return false;
    }
    return true;
}

/* Runs being appended to `out`: enough equal values repeat, others are packed in groups
 * of 8. The run at the end stays open while more may come. */
typedef struct aqi_rle_writer {
    const aq_allocator *allocator;
    aqi_bytes_builder *out;
    uint32_t width;                      /* 1..8; each value is < 2^width        */
    uint64_t repeats;                    /* open: of `value`                     */
    uint64_t groups;                     /* open: packed, in `out` from          */
    size_t packed_at;                    /* here on, as yet without their header */
    uint8_t value;
    bool failed;
    size_t waiting;                      /* of `values`, not in a run yet        */
    uint8_t values[AQI_RLE_BATCH + 16];  /* 16: see aqi_rle_repeat               */
} aqi_rle_writer;

static void aqi_rle_begin(aqi_rle_writer *w, const aq_allocator *a,
                          aqi_bytes_builder *out, uint32_t width) {
    w->allocator = a;
    w->out = out;
    w->width = width;
    w->repeats = w->groups = 0;
    w->packed_at = w->waiting = 0;
    w->value = 0;
    w->failed = false;
}

/* Ends the open run. A packed one gets its header, for which its bytes move up. */
static void aqi_rle_close(aqi_rle_writer *w) {
    uint8_t header[11];
    uint64_t code = w->groups > 0 ? w->groups << 1 | 1 : w->repeats << 1;
    size_t n = aqi_encode_varint(code, header), at = w->packed_at, moved;
    if (code == 0) return;
    if (w->groups == 0) header[n++] = w->value;
    if (!aqi_builder_append(w->allocator, w->out, header, n)) {
        w->failed = true;
    } else if (w->groups > 0) {
        moved = w->out->size - n - at;
        memmove(w->out->data + at + n, w->out->data + at, moved);
        memcpy(w->out->data + at, header, n);
    }
    w->repeats = w->groups = 0;
}

/* Packs n values behind those of the open run; only the last ones are not full groups. */
static void aqi_rle_pack(aqi_rle_writer *w, const uint8_t *v, size_t n) {
    size_t groups = n / 8 + (n % 8 != 0), bytes = (n * w->width + 7) / 8;
    uint8_t *to;
    if (n == 0) return;
    if (!aqi_builder_reserve(w->allocator, w->out, groups * w->width)) {
        w->failed = true;
        return;
    }
    if (w->groups == 0) w->packed_at = w->out->size;
    to = w->out->data + w->out->size;
    aqi_k()->pack(v, n, w->width, to);
    memset(to + bytes, 0, groups * w->width - bytes);
    w->out->size += groups * w->width;
    w->groups += groups;
}

/* Takes the next values: the last ones, or all of n but a few, and returns how many. */
static size_t aqi_rle_take_in(aqi_rle_writer *w, const uint8_t *v, size_t n, bool last) {
    const struct aqi_kernels *kernels = aqi_k();
    size_t least = aqi_rle_least_run(w->width), i = 0, start = 0;
    if (w->repeats > 0 && n > 0) {
        if (v[0] == w->value) start = i = kernels->run(v, n);
        w->repeats += i;
        if (i < n) aqi_rle_close(w);
    }
    while (i < n) {
        bool fresh = w->groups == 0 && i == start;
        if (aqi_is_run(v + i, n - i, least) ||
            (last && fresh && kernels->run(v + i, n - i) == n - i)) {
            aqi_rle_pack(w, v + start, i - start);
            aqi_rle_close(w);
            w->value = v[i];
            w->repeats = kernels->run(v + i, n - i);
            start = i += (size_t)w->repeats;
            if (i < n) aqi_rle_close(w);
        } else if (n - i >= least || last) {
            i += AQI_MIN(n - i, (size_t)8);
        } else {
            break;
        }
    }
    aqi_rle_pack(w, v + start, i - start);
    if (last) aqi_rle_close(w);
    return i;
}

/* The next `count` values are equal. */
AQI_UNUSED static void aqi_rle_repeat(aqi_rle_writer *w, uint8_t value, uint64_t count) {
    while (count > 0) {
        uint8_t *to = w->values + w->waiting;
        size_t part, taken;
        if (w->waiting == 0 && w->repeats > 0 && w->value == value) {
            w->repeats += count;
            return;
        }
        part = (size_t)AQI_MIN(count, (uint64_t)(AQI_RLE_BATCH - w->waiting));
        if (part <= 16) {
            memset(to, value, 16); /* of a known length: no call */
        } else {
            memset(to, value, part);
        }
        w->waiting += part;
        count -= part;
        if (w->waiting < AQI_RLE_BATCH) continue;
        taken = aqi_rle_take_in(w, w->values, w->waiting, false);
        w->waiting -= taken;
        memmove(w->values, w->values + taken, w->waiting);
    }
}

/* False: no memory. */
AQI_UNUSED static bool aqi_rle_end(aqi_rle_writer *w) {
    aqi_rle_take_in(w, w->values, w->waiting, true);
    return !w->failed;
}

/* Appends n values as runs. */
AQI_UNUSED static bool aqi_rle_write(const aq_allocator *a, aqi_bytes_builder *out,
                                     const uint8_t *v, size_t n, uint32_t width) {
    aqi_rle_writer w;
    aqi_rle_begin(&w, a, out, width);
    aqi_rle_take_in(&w, v, n, true);
    return !w.failed;
}

/*==========================================================================
 * MARK: - [73] Value encodings (private)
 * Source: apache/parquet-format, Encodings.md.
 *========================================================================*/

/* Bytes of one value of a fixed-width type in memory; BOOLEAN counts 1, BYTE_ARRAY an
 * aq_bytes. */
static size_t aqi_value_bytes(aq_physical_type type, int32_t type_length) {
    switch (type) {
    case AQ_BOOLEAN:
        return 1;
    case AQ_INT32:
    case AQ_FLOAT:
        return 4;
    case AQ_INT64:
    case AQ_DOUBLE:
        return 8;
    case AQ_INT96:
        return 12;
    case AQ_FIXED_LEN_BYTE_ARRAY:
        return (size_t)type_length;
    default:
        return sizeof(aq_bytes);
    }
}

size_t aq_field_value_bytes(const aq_field *field) {
    return field->type == AQ_GROUP ? 0 : aqi_value_bytes(field->type, field->type_length);
}

/* Bytes that must swap on a big-endian machine: INT96 and FIXED_LEN_BYTE_ARRAY are
 * opaque. */
static size_t aqi_swap_width(aq_physical_type type) {
    if (type == AQ_INT32 || type == AQ_FLOAT) return 4;
    if (type == AQ_INT64 || type == AQ_DOUBLE) return 8;
    return 1;
}

/* n PLAIN byte arrays as views into the cursor's bytes. False: one is cut off. */
static bool aqi_plain_byte_arrays(aqi_cursor *c, aq_bytes *dst, size_t n) {
    const uint8_t *p = c->p; /* dst might be the cursor, for all the compiler knows */
    size_t left = aqi_remaining(c), i;
    for (i = 0; i < n; i++) {
        uint32_t size;
        if (left < 4) return false;
        __builtin_prefetch(p + 2048); /* each step waits for the length before */
        size = aqi_load_le32(p);
        p += 4;
        left -= 4;
        if (size > left) return false;
        dst[i].data = p;
        dst[i].size = size;
        p += size;
        left -= size;
    }
    c->p = p;
    return true;
}

static bool aqi_plain_booleans(aqi_cursor *c, uint8_t *dst, size_t n) {
    if (aqi_remaining(c) < n / 8 + (n % 8 != 0)) return false;
    aqi_k()->unpack(c->p, n, 1, dst);
    c->p += n / 8 + (n % 8 != 0);
    return true;
}

/* The values that n indices, all within the dictionary, stand for. */
static void aqi_look_up(const void *dictionary, const uint32_t *indices, size_t n,
                        size_t width, void *dst) {
    const uint8_t *from = (const uint8_t *)dictionary;
    uint8_t *to = (uint8_t *)dst;
    size_t i;
    if (width == 4) {
        for (i = 0; i < n; i++) memcpy(to + 4 * i, from + 4 * (size_t)indices[i], 4);
    } else if (width == 8) {
        for (i = 0; i < n; i++) memcpy(to + 8 * i, from + 8 * (size_t)indices[i], 8);
    } else if (width == 16) {
        for (i = 0; i < n; i++) memcpy(to + 16 * i, from + 16 * (size_t)indices[i], 16);
    } else {
        for (i = 0; i < n; i++) memcpy(to + i * width, from + indices[i] * width, width);
    }
}

/* n > 0 times the value of one index. */
static void aqi_repeat(const void *dictionary, uint32_t index, size_t n, size_t width,
                       void *dst) {
    uint8_t *out = (uint8_t *)dst;
    uint32_t same[16];
    size_t part, done;
    for (part = 0; part < AQI_COUNT(same); part++) same[part] = index;
    done = AQI_MIN(n, AQI_COUNT(same));
    aqi_look_up(dictionary, same, done, width, dst);
    for (; done < n; done += part) {
        part = AQI_MIN(AQI_MIN(done, (size_t)AQI_RLE_BATCH), n - done);
        memcpy(out + done * width, out, part * width);
    }
}

/* Dictionary indices to values of `width` bytes. False: cut off, or an index too
 * large. */
static bool aqi_dictionary_values(aqi_cursor *c, const void *dictionary, size_t entries,
                                  size_t width, void *dst, size_t n) {
    const struct aqi_kernels *k = aqi_k();
    uint32_t batch[AQI_RLE_BATCH];
    uint8_t *out = (uint8_t *)dst;
    aqi_rle r;
    size_t part;
    if (n == 0) return true;
    if (aqi_remaining(c) == 0 || *c->p > 32) return false;
    aqi_rle_init(&r, c->p + 1, aqi_remaining(c) - 1, *c->p);
    for (; n > 0; n -= part, out += part * width) {
        part = aqi_rle_take(&r, n);
        if (part == 0) return false;
        if ((r.packed ? k->unpack32(&r.codes, part, batch) : r.value) >= entries)
            return false;
        if (r.packed) {
            aqi_look_up(dictionary, batch, part, width, out);
        } else {
            aqi_repeat(dictionary, r.value, part, width, out);
        }
    }
    c->p = r.p;
    return true;
}

/* BOOLEAN as RLE: a 4-byte length, then the hybrid of width 1. */
static bool aqi_rle_booleans(aqi_cursor *c, uint8_t *dst, size_t n) {
    uint32_t bytes;
    aqi_rle r;
    size_t part;
    if (aqi_remaining(c) < 4) return n == 0;
    bytes = aqi_load_le32(c->p);
    if (bytes > aqi_remaining(c) - 4) return false;
    aqi_rle_init(&r, c->p + 4, bytes, 1);
    for (; n > 0; n -= part, dst += part) {
        part = aqi_rle_bytes(&r, dst, AQI_MIN(n, (size_t)AQI_RLE_BATCH));
        if (part == 0) return false;
    }
    return true;
}

/* DELTA_BINARY_PACKED under way. Header: block size, miniblocks in a block, count, first
 * value. Blocks: least delta, a bit width per miniblock, the miniblocks. The arithmetic
 * wraps in 64 bits; INT32 keeps the low half, which serves writers that wrap in 32. */
typedef struct aqi_delta {
    aqi_cursor *in;
    size_t left; /* deltas to come */
    size_t mini_size, num_minis;
    uint64_t last, min_delta;
    const uint8_t *widths; /* of the block's miniblocks   */
    size_t next_mini, mini_left;
    aqi_codes codes; /* of the miniblock, from those on that were taken last */
    size_t taken;
} aqi_delta;

/* False: malformed, or another count than n. Leaves the first value in d->last. */
static bool aqi_delta_begin(aqi_delta *d, aqi_cursor *in, size_t n) {
    uint64_t block, minis, count;
    int64_t first;
    memset(d, 0, sizeof *d);
    if (!aqi_read_varint(in, &block) || !aqi_read_varint(in, &minis) ||
        !aqi_read_varint(in, &count) || !aqi_read_zigzag(in, &first))
        return false;
    if (count != n || minis == 0 || block == 0 || block > 1u << 24 ||
        block % minis != 0 || block / minis % 8 != 0)
        return false;
    d->in = in;
    d->left = n - (n > 0);
    d->mini_size = (size_t)(block / minis);
    d->num_minis = (size_t)minis;
    d->next_mini = d->num_minis;
    d->last = (uint64_t)first;
    return true;
}

static bool aqi_delta_next_miniblock(aqi_delta *d) {
    int64_t min_delta;
    if (d->next_mini == d->num_minis) {
        if (!aqi_read_zigzag(d->in, &min_delta) || aqi_remaining(d->in) < d->num_minis)
            return false;
        d->min_delta = (uint64_t)min_delta;
        d->widths = d->in->p;
        d->in->p += d->num_minis;
        d->next_mini = 0;
    }
    d->codes.bits = d->widths[d->next_mini++];
    if (d->codes.bits > 64) return false;
    d->codes.src = d->in->p;
    d->codes.readable = aqi_remaining(d->in);
    /* Some writers leave out the padding of the last miniblock. */
    d->in->p += AQI_MIN(d->mini_size / 8 * d->codes.bits, d->codes.readable);
    d->mini_left = d->mini_size;
    return true;
}

/* How many of the next deltas, at most `room`, a multiple of 8, are of one miniblock:
 * d->codes. 0: malformed. */
static size_t aqi_delta_take(aqi_delta *d, size_t room) {
    if (d->taken > 0) d->codes = aqi_codes_from(&d->codes, d->taken);
    d->taken = 0;
    if (d->mini_left == 0 && !aqi_delta_next_miniblock(d)) return 0;
    room = AQI_MIN(AQI_MIN(d->left, d->mini_left), room);
    if ((uint64_t)room * d->codes.bits > (uint64_t)d->codes.readable * 8) return 0;
    d->taken = room;
    d->mini_left -= room;
    d->left -= room;
    return room;
}

/* n values of `width` bytes (4 or 8), in native order. */
static bool aqi_delta_ints(aqi_cursor *c, void *dst, size_t n, size_t width) {
    const struct aqi_kernels *k = aqi_k();
    uint32_t *narrow = (uint32_t *)dst;
    uint64_t *wide = (uint64_t *)dst;
    aqi_delta d;
    size_t part;
    if (n == 0) return true;
    if (!aqi_delta_begin(&d, c, n)) return false;
    if (width == 4) {
        *narrow++ = (uint32_t)d.last;
    } else {
        *wide++ = d.last;
    }
    while (d.left > 0) {
        part = aqi_delta_take(&d, SIZE_MAX);
        if (part == 0) return false;
        if (width == 4) {
            d.last = k->delta32(&d.codes, part, (uint32_t)d.min_delta, (uint32_t)d.last,
                                narrow);
            narrow += part;
        } else {
            d.last = k->delta64(&d.codes, part, d.min_delta, d.last, wide);
            wide += part;
        }
    }
    return true;
}

/* Lengths of byte arrays to dst[].size; their sum to *out_total. */
static bool aqi_delta_lengths(aqi_cursor *c, aq_bytes *dst, size_t n,
                              uint64_t *out_total) {
    uint64_t batch[256], all, total = 0;
    aqi_delta d;
    size_t part = 1, i;
    *out_total = 0;
    if (!aqi_delta_begin(&d, c, n)) return false;
    batch[0] = all = d.last;
    for (;;) {
        for (i = 0; i < part; i++) {
            all |= batch[i];
            total += batch[i];
            dst[i].size = (size_t)batch[i];
        }
        if (all > INT32_MAX) return false; /* one is, or is negative */
        if (d.left == 0) break;
        dst += part;
        part = aqi_delta_take(&d, AQI_COUNT(batch));
        if (part == 0) return false;
        d.last = aqi_k()->delta64(&d.codes, part, d.min_delta, d.last, batch);
    }
    *out_total = total; /* below 2^31 values of less than 2^31 bytes */
    return true;
}

static bool aqi_delta_sizes(aqi_cursor *c, aq_bytes *dst, size_t n) {
    uint64_t total;
    return aqi_delta_lengths(c, dst, n, &total);
}

/* DELTA_LENGTH_BYTE_ARRAY: lengths, then the bytes; views into the page. */
static bool aqi_delta_byte_arrays(aqi_cursor *c, aq_bytes *dst, size_t n) {
    const uint8_t *p;
    uint64_t total;
    size_t i;
    if (n == 0) return true;
    if (!aqi_delta_lengths(c, dst, n, &total) || total > aqi_remaining(c)) return false;
    for (p = c->p, i = 0; i < n; i++) {
        dst[i].data = p;
        p += dst[i].size;
    }
    c->p = p;
    return true;
}

/* DELTA_BYTE_ARRAY, after its two parts were read: prefix lengths and suffixes. The total
 * of the values' bytes, or SIZE_MAX when a prefix is longer than the value before. */
static size_t aqi_prefixed_bytes(const aq_bytes *prefix, const aq_bytes *suffix,
                                 size_t n) {
    size_t i, total = 0, last = 0;
    for (i = 0; i < n; i++) {
        if (prefix[i].size > last) return SIZE_MAX;
        last = prefix[i].size + suffix[i].size;
        if (!aqi_add_size(total, last, &total)) return SIZE_MAX;
    }
    return total;
}

/* Copies in steps of 16 bytes, up to 15 too many. */
AQI_INLINE void aqi_copy_over(uint8_t *dst, const uint8_t *src, size_t bytes) {
    uint64_t step[2];
    size_t k;
    for (k = 0; k < bytes; k += sizeof step) {
        memcpy(step, src + k, sizeof step);
        memcpy(dst + k, step, sizeof step);
    }
}

/* The suffixes stand one after the other, as do the values in `room`: with 16 bytes of
 * suffixes to come, neither is left by copying too many. */
static void aqi_prefixed_join(const aq_bytes *prefix, const aq_bytes *suffix, size_t n,
                              uint8_t *room, aq_bytes *dst) {
    const uint8_t *last = room;
    size_t i, whole = n, behind = 0;
    while (whole > 0 && behind < 16) behind += suffix[--whole].size;
    for (i = 0; i < n; i++) {
        size_t p = prefix[i].size, q = suffix[i].size;
        if (i < whole) {
            aqi_copy_over(room, last, p);
            aqi_copy_over(room + p, suffix[i].data, q);
        } else {
            if (p > 0) memcpy(room, last, p);
            if (q > 0) memcpy(room + p, suffix[i].data, q);
        }
        dst[i].data = last = room;
        dst[i].size = p + q;
        room += p + q;
    }
}

/* BYTE_STREAM_SPLIT: byte k of every value stands in the k-th of `width` streams. */
static void aqi_byte_stream_join(const uint8_t *src, size_t n, size_t width,
                                 uint8_t *dst) {
    aqi_k()->join(src, n, width, dst);
}

const char *aq_encoding_name(int32_t encoding) {
    static const char *const names[] = {"PLAIN",
                                        "GROUP_VAR_INT",
                                        "PLAIN_DICTIONARY",
                                        "RLE",
                                        "BIT_PACKED",
                                        "DELTA_BINARY_PACKED",
                                        "DELTA_LENGTH_BYTE_ARRAY",
                                        "DELTA_BYTE_ARRAY",
                                        "RLE_DICTIONARY",
                                        "BYTE_STREAM_SPLIT"};
    return (uint32_t)encoding < AQI_COUNT(names) ? names[encoding] : "unknown";
}

#ifndef AQ_NO_WRITER

/* What an encoding can hold; AQ_PLAIN holds all. */
static bool aqi_encoding_fits(aq_encoding encoding, aq_physical_type type) {
    bool ints = type == AQ_INT32 || type == AQ_INT64;
    switch (encoding) {
    case AQ_PLAIN:
        return true;
    case AQ_RLE_DICTIONARY:
        return type != AQ_BOOLEAN && type != AQ_GROUP;
    case AQ_RLE:
        return type == AQ_BOOLEAN;
    case AQ_DELTA_BINARY_PACKED:
        return ints;
    case AQ_DELTA_LENGTH_BYTE_ARRAY:
        return type == AQ_BYTE_ARRAY;
    case AQ_DELTA_BYTE_ARRAY:
        return type == AQ_BYTE_ARRAY || type == AQ_FIXED_LEN_BYTE_ARRAY;
    case AQ_BYTE_STREAM_SPLIT:
        return ints || type == AQ_FLOAT || type == AQ_DOUBLE ||
               type == AQ_FIXED_LEN_BYTE_ARRAY;
    default:
        return false;
    }
}

/* Packs n values of `width` bits, 0..64, from the least significant bit on, into
 * ceil(n * width / 8) bytes. */
static void aqi_pack_u64(const uint64_t *v, size_t n, uint32_t width, uint8_t *dst) {
    uint64_t word = 0;
    uint32_t have = 0;
    size_t i;
    for (i = 0; i < n && width > 0; i++) {
        word |= v[i] << have;
        if (have + width < 64) {
            have += width;
            continue;
        }
        aqi_store_le64(dst, word);
        dst += 8;
        word = have == 0 ? 0 : v[i] >> (64 - have);
        have = have + width - 64;
    }
    for (; have > 0; have -= AQI_MIN(have, 8u), word >>= 8) *dst++ = (uint8_t)word;
}

/* Appends a repeated run, or `groups` groups of 8 packed values. */
static bool aqi_rle_put_run(const aq_allocator *a, aqi_bytes_builder *out, uint32_t value,
                            size_t n, uint32_t width) {
    uint8_t bytes[16];
    size_t at = aqi_encode_varint((uint64_t)n << 1, bytes);
    aqi_store_le32(bytes + at, value);
    return aqi_builder_append(a, out, bytes, at + (width + 7) / 8);
}

static bool aqi_rle_put_packed(const aq_allocator *a, aqi_bytes_builder *out,
                               const uint32_t *v, size_t n, uint32_t width) {
    uint64_t batch[64];
    uint8_t header[10];
    size_t groups = (n + 7) / 8, i, k;
    if (!aqi_builder_append(a, out, header,
                            aqi_encode_varint((uint64_t)groups << 1 | 1, header)) ||
        !aqi_builder_reserve(a, out, groups * width))
        return false;
    for (i = 0; i < n; i += 64) {
        size_t part = AQI_MIN(n - i, (size_t)64), padded = aqi_round_up(part, 8);
        for (k = 0; k < padded; k++) batch[k] = k < part ? v[i + k] : 0;
        aqi_pack_u64(batch, padded, width, out->data + out->size);
        out->size += padded / 8 * width;
    }
    return true;
}

/* How many of n indices, from the first on, are equal. */
AQI_INLINE size_t aqi_run_length(const uint32_t *v, size_t n) {
    size_t k = 1;
    while (k < n && v[k] == v[0]) k++;
    return k;
}

/* Dictionary indices: the width in a byte, then the hybrid, as aqi_rle_write has it. */
static bool aqi_indices_write(const aq_allocator *a, aqi_bytes_builder *out,
                              const uint32_t *v, size_t n, uint32_t width) {
    uint8_t first = (uint8_t)width;
    size_t least = aqi_rle_least_run(width), i = 0, k, run;
    bool ok = aqi_builder_append(a, out, &first, 1);
    while (ok && i < n) {
        run = aqi_run_length(v + i, n - i);
        if (run >= least || i + run == n) {
            ok = aqi_rle_put_run(a, out, v[i], run, width);
            i += run;
            continue;
        }
        k = i + 8;
        while (k < n && aqi_run_length(v + k, AQI_MIN(n - k, least)) < least) k += 8;
        k = AQI_MIN(k, n);
        ok = aqi_rle_put_packed(a, out, v + i, k - i, width);
        i = k;
    }
    return ok;
}

/* BOOLEAN as RLE: a 4-byte length, then the hybrid of width 1. */
static bool aqi_booleans_write(const aq_allocator *a, aqi_bytes_builder *out,
                               const uint8_t *v, size_t n) {
    const uint8_t none[4] = {0, 0, 0, 0};
    aqi_bytes_builder bits;
    size_t i, at = out->size;
    bool ok;
    memset(&bits, 0, sizeof bits);
    ok = aqi_builder_append(a, out, none, sizeof none) &&
         aqi_builder_reserve(a, &bits, n); /* any byte but 0 is true: make it 1 */
    for (i = 0; ok && i < n; i++) bits.data[i] = v[i] != 0;
    ok = ok && aqi_rle_write(a, out, bits.data, n, 1);
    if (ok) aqi_store_le32(out->data + at, (uint32_t)(out->size - at - 4));
    aqi_builder_free(a, &bits);
    return ok;
}

#define AQI_DELTA_BLOCK 128
#define AQI_DELTA_MINIS 4
#define AQI_DELTA_MINI (AQI_DELTA_BLOCK / AQI_DELTA_MINIS)

/* One block of n <= 128 deltas: the least, a width per miniblock, the miniblocks that
 * have values, the last one padded. */
static bool aqi_delta_put_block(const aq_allocator *a, aqi_bytes_builder *out,
                                int64_t *deltas, size_t n) {
    uint64_t rest[AQI_DELTA_BLOCK], all;
    uint8_t head[10], *widths;
    int64_t least = deltas[0];
    size_t i, k;
    for (i = 1; i < n; i++) least = AQI_MIN(least, deltas[i]);
    for (i = 0; i < AQI_DELTA_BLOCK; i++)
        rest[i] = i < n ? (uint64_t)deltas[i] - (uint64_t)least : 0;
    all = (uint64_t)least << 1 ^ (least < 0 ? UINT64_MAX : 0);
    if (!aqi_builder_append(a, out, head, aqi_encode_varint(all, head)) ||
        !aqi_builder_reserve(a, out, AQI_DELTA_MINIS + sizeof rest))
        return false;
    widths = out->data + out->size;
    out->size += AQI_DELTA_MINIS;
    for (k = 0; k < AQI_DELTA_MINIS; k++) {
        const uint64_t *mini = rest + k * AQI_DELTA_MINI;
        for (all = 0, i = 0; i < AQI_DELTA_MINI; i++) all |= mini[i];
        widths[k] = (uint8_t)aqi_bits_needed(all);
        aqi_pack_u64(mini, AQI_DELTA_MINI, widths[k], out->data + out->size);
        out->size += AQI_DELTA_MINI / 8 * (size_t)widths[k];
    }
    return true;
}

/* The i-th integer of `width` bytes, 4 or 8, as its bits. */
AQI_INLINE uint64_t aqi_int_bits(const void *src, size_t i, size_t width) {
    uint32_t narrow;
    uint64_t wide;
    if (width == 4) {
        memcpy(&narrow, (const uint8_t *)src + i * 4, 4);
        return narrow;
    }
    memcpy(&wide, (const uint8_t *)src + i * 8, 8);
    return wide;
}

/* A difference of bits as the signed number of the same width: INT32 wraps in 32 bits. */
AQI_INLINE int64_t aqi_int_signed(uint64_t bits, size_t width) {
    return width == 4 ? (int64_t)(int32_t)(uint32_t)bits : (int64_t)bits;
}

/* DELTA_BINARY_PACKED: n integers of `width` bytes, 4 or 8. */
static bool aqi_delta_write(const aq_allocator *a, aqi_bytes_builder *out,
                            const void *src, size_t n, size_t width) {
    int64_t deltas[AQI_DELTA_BLOCK];
    uint64_t last = n > 0 ? aqi_int_bits(src, 0, width) : 0, bits;
    int64_t first = aqi_int_signed(last, width);
    uint8_t head[40];
    size_t i = 1, k, at = aqi_encode_varint(AQI_DELTA_BLOCK, head);
    bool ok;
    at += aqi_encode_varint(AQI_DELTA_MINIS, head + at);
    at += aqi_encode_varint(n, head + at);
    bits = (uint64_t)first << 1 ^ (first < 0 ? UINT64_MAX : 0);
    at += aqi_encode_varint(bits, head + at);
    ok = aqi_builder_append(a, out, head, at);
    while (ok && i < n) {
        for (k = 0; k < AQI_DELTA_BLOCK && i < n; k++, i++) {
            bits = aqi_int_bits(src, i, width);
            deltas[k] = aqi_int_signed(bits - last, width);
            last = bits;
        }
        ok = aqi_delta_put_block(a, out, deltas, k);
    }
    return ok;
}

/* n byte arrays with their lengths as DELTA_BINARY_PACKED before. They fit in a page. */
static bool aqi_delta_lengths_write(const aq_allocator *a, aqi_bytes_builder *out,
                                    const aq_bytes *v, size_t n) {
    aqi_bytes_builder sizes;
    size_t i, total = 0;
    bool ok;
    memset(&sizes, 0, sizeof sizes);
    ok = n <= SIZE_MAX / 4 && aqi_builder_reserve(a, &sizes, n * 4);
    for (i = 0; ok && i < n; i++) {
        uint32_t size = (uint32_t)v[i].size;
        memcpy(sizes.data + 4 * i, &size, sizeof size);
        ok = aqi_add_size(total, size, &total);
    }
    ok = ok && aqi_delta_write(a, out, sizes.data, n, 4);
    aqi_builder_free(a, &sizes);
    ok = ok && aqi_builder_reserve(a, out, total);
    for (i = 0; ok && i < n; i++) {
        if (v[i].size > 0) memcpy(out->data + out->size, v[i].data, v[i].size);
        out->size += v[i].size;
    }
    return ok;
}

/* DELTA_BYTE_ARRAY: how much of each value stands at the front of the one before, then
 * the rest of each. type_length != 0: `values` are that long each, else aq_bytes[]. */
static bool aqi_prefixed_write(const aq_allocator *a, aqi_bytes_builder *out,
                               const void *values, size_t n, size_t type_length) {
    aqi_bytes_builder prefixes, suffixes;
    aq_bytes last = {NULL, 0}, now, rest;
    size_t i;
    bool ok = n <= SIZE_MAX / sizeof now;
    memset(&prefixes, 0, sizeof prefixes);
    memset(&suffixes, 0, sizeof suffixes);
    ok = ok && aqi_builder_reserve(a, &prefixes, n * 4);
    ok = ok && aqi_builder_reserve(a, &suffixes, n * sizeof now);
    for (i = 0; ok && i < n; i++, last = now) {
        uint32_t same = 0;
        if (type_length == 0) now = ((const aq_bytes *)values)[i];
        if (type_length != 0) now.data = (const uint8_t *)values + i * type_length;
        if (type_length != 0) now.size = type_length;
        while (same < now.size && same < last.size && now.data[same] == last.data[same])
            same++;
        rest.size = now.size - same;
        rest.data = rest.size == 0 ? NULL : now.data + same;
        memcpy(prefixes.data + 4 * i, &same, sizeof same);
        memcpy(suffixes.data + i * sizeof rest, &rest, sizeof rest);
    }
    ok = ok && aqi_delta_write(a, out, prefixes.data, n, 4);
    ok = ok && aqi_delta_lengths_write(
                   a, out, (const aq_bytes *)(const void *)suffixes.data, n);
    aqi_builder_free(a, &prefixes);
    aqi_builder_free(a, &suffixes);
    return ok;
}

/* BYTE_STREAM_SPLIT: the streams of n values of `width` bytes, of which `swap` are one
 * number. */
static void aqi_byte_stream_split(const uint8_t *src, size_t n, size_t width, size_t swap,
                                  uint8_t *dst) {
    size_t begin, i, k;
    if (!AQI_BIG_ENDIAN || swap == 1) {
        aqi_k()->split(src, n, width, dst);
        return;
    }
    for (begin = 0; begin < n; begin += AQI_STREAM_BLOCK) {
        size_t end = AQI_MIN(begin + AQI_STREAM_BLOCK, n);
        for (k = 0; k < width; k++) {
            for (i = begin; i < end; i++) dst[k * n + i] = src[i * width + width - 1 - k];
        }
    }
}

#endif /* AQ_NO_WRITER */

/*==========================================================================
 * MARK: - [74] Compression codecs (private)
 * Libraries; which ones, the user switches on. SNAPPY of what hardly became smaller, as
 * weights do, is also unpacked here: then the CRC-32 and the copy share a pass.
 *========================================================================*/

const char *aq_codec_name(int32_t codec) {
    static const char *const names[] = {"UNCOMPRESSED", "SNAPPY", "GZIP", "LZO",
                                        "BROTLI",       "LZ4",    "ZSTD", "LZ4_RAW"};
    return (uint32_t)codec < AQI_COUNT(names) ? names[codec] : "unknown";
}

static bool aqi_codec_available(int32_t codec) {
#ifdef AQ_WITH_ZSTD
    if (codec == AQ_ZSTD) return true;
#endif
#ifdef AQ_WITH_SNAPPY
    if (codec == AQ_SNAPPY) return true;
#endif
#ifdef AQ_WITH_ZLIB
    if (codec == AQ_GZIP) return true;
#endif
#ifdef AQ_WITH_LZ4
    if (codec == AQ_LZ4 || codec == AQ_LZ4_RAW) return true;
#endif
#ifdef AQ_WITH_BROTLI
    if (codec == AQ_BROTLI) return true;
#endif
    return codec == AQ_UNCOMPRESSED;
}

static aq_status aqi_codec_missing(int32_t codec, aq_error *err) {
    return aqi_fail(
        err, AQ_E_UNSUPPORTED,
        "compression codec %s (%d) is not in this build; compile with its AQ_WITH_ "
        "macro if there is one",
        aq_codec_name(codec), (int)codec);
}

/* The size that the compressed bytes themselves declare, asked before the output is
 * allocated; SIZE_MAX = they do not say, or nothing that speaks against `max`. */
static size_t aqi_codec_declared_size(int32_t codec, const uint8_t *src, size_t bytes,
                                      size_t max) {
    (void)src;
    (void)bytes;
    (void)max;
#ifdef AQ_WITH_ZSTD
    if (codec == AQ_ZSTD) {
        unsigned long long n = ZSTD_getFrameContentSize(src, bytes);
        if (n == ZSTD_CONTENTSIZE_ERROR) return 0;
        /* Of the first frame; there may be more, which decompression finds out. */
        if (n != ZSTD_CONTENTSIZE_UNKNOWN && n > max)
            return (size_t)AQI_MIN(n, SIZE_MAX - 1);
    }
#endif
#ifdef AQ_WITH_SNAPPY
    if (codec == AQ_SNAPPY) {
        size_t n = 0;
        if (snappy_uncompressed_length((const char *)src, bytes, &n) != SNAPPY_OK)
            return 0;
        return n;
    }
#endif
    (void)codec;
    return SIZE_MAX;
}

#ifdef AQ_WITH_ZLIB
/* gzip members, one after the other, or a zlib stream. */
static bool aqi_gunzip(const uint8_t *src, size_t bytes, uint8_t *dst, size_t dst_bytes) {
    z_stream z;
    bool ok = bytes <= UINT_MAX && dst_bytes <= UINT_MAX;
    int code = Z_OK;
    memset(&z, 0, sizeof z);
    if (!ok || inflateInit2(&z, 15 + 32) != Z_OK) return false;
    z.next_in = (z_const Bytef *)(uintptr_t)src; /* zlib's field is not const */
    z.avail_in = (uInt)bytes;
    z.next_out = dst;
    z.avail_out = (uInt)dst_bytes;
    while (code == Z_OK) {
        code = inflate(&z, Z_NO_FLUSH);
        if (code == Z_STREAM_END && z.avail_in > 0 && z.avail_out > 0)
            code = inflateReset(&z);
    }
    ok = code == Z_STREAM_END && z.avail_out == 0;
    inflateEnd(&z);
    return ok;
}
#endif

#ifdef AQ_WITH_LZ4
static uint32_t aqi_load_be32(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static bool aqi_unlz4(const uint8_t *src, size_t bytes, uint8_t *dst, size_t dst_bytes) {
    if (bytes > INT_MAX || dst_bytes > INT_MAX) return false;
    return LZ4_decompress_safe((const char *)src, (char *)dst, (int)bytes,
                               (int)dst_bytes) == (int)dst_bytes;
}

/* Hadoop's framing: big-endian decompressed and compressed size before each block. */
static bool aqi_unlz4_hadoop(const uint8_t *src, size_t bytes, uint8_t *dst,
                             size_t dst_bytes) {
    while (bytes >= 8) {
        size_t out = aqi_load_be32(src), in = aqi_load_be32(src + 4);
        if (in > bytes - 8 || out > dst_bytes || !aqi_unlz4(src + 8, in, dst, out))
            return false;
        src += 8 + in;
        bytes -= 8 + in;
        dst += out;
        dst_bytes -= out;
    }
    return bytes == 0 && dst_bytes == 0;
}
#endif

/* Decompresses to exactly dst_bytes; false when the data says otherwise. */
static bool aqi_decompress(int32_t codec, const uint8_t *src, size_t bytes, uint8_t *dst,
                           size_t dst_bytes) {
    (void)src;
    (void)bytes;
    (void)dst;
    (void)dst_bytes;
#ifdef AQ_WITH_ZSTD
    if (codec == AQ_ZSTD) return ZSTD_decompress(dst, dst_bytes, src, bytes) == dst_bytes;
#endif
#ifdef AQ_WITH_SNAPPY
    if (codec == AQ_SNAPPY) {
        size_t n = dst_bytes;
        return snappy_uncompress((const char *)src, bytes, (char *)dst, &n) ==
                   SNAPPY_OK &&
               n == dst_bytes;
    }
#endif
#ifdef AQ_WITH_ZLIB
    if (codec == AQ_GZIP) return aqi_gunzip(src, bytes, dst, dst_bytes);
#endif
#ifdef AQ_WITH_LZ4
    if (codec == AQ_LZ4_RAW) return aqi_unlz4(src, bytes, dst, dst_bytes);
    if (codec == AQ_LZ4) /* some writers called the bare block by this name */
        return aqi_unlz4_hadoop(src, bytes, dst, dst_bytes) ||
               aqi_unlz4(src, bytes, dst, dst_bytes);
#endif
#ifdef AQ_WITH_BROTLI
    if (codec == AQ_BROTLI) {
        size_t n = dst_bytes;
        return BrotliDecoderDecompress(bytes, src, &n, dst) ==
                   BROTLI_DECODER_RESULT_SUCCESS &&
               n == dst_bytes;
    }
#endif
    (void)codec;
    return false;
}

#ifdef AQ_WITH_SNAPPY
/* Stored bytes whose CRC-32 is taken a slice ahead of where they are read: they come from
 * memory once, not once for the CRC and once more for the codec. */
typedef struct aqi_checked_bytes {
    const uint8_t *p, *checked, *end;
    uint32_t crc; /* of all before `checked` */
} aqi_checked_bytes;

static void aqi_checked_advance(aqi_checked_bytes *in) {
    /* CRC and copy of a slice fit the first-level cache. */
    size_t n = AQI_MIN((size_t)(in->end - in->checked), (size_t)16 << 10);
    in->crc = aqi_crc32(in->crc, in->checked, n);
    in->checked += n;
}

static void aqi_checked_copy(aqi_checked_bytes *in, uint8_t *dst, size_t n) {
    while (n > 0) {
        size_t part = in->checked > in->p ? (size_t)(in->checked - in->p) : 0;
        if (part == 0) {
            aqi_checked_advance(in);
            continue;
        }
        part = AQI_MIN(part, n);
        memcpy(dst, in->p, part);
        dst += part;
        in->p += part;
        n -= part;
    }
}

/* What a tag of SNAPPY says: a literal (offset 0), or a copy of what was written. */
static bool aqi_snappy_tag(aqi_checked_bytes *in, size_t *length, size_t *offset) {
    uint32_t tag = *in->p++, kind = tag & 3, high = tag >> 2, number = 0, bytes, k;
    bool literal = kind == 0, long_literal = literal && high >= 60;
    bytes = literal ? (long_literal ? high - 59 : 0) : kind == 3 ? 4 : kind;
    if (bytes > (size_t)(in->end - in->p)) return false;
    for (k = 0; k < bytes; k++) number |= (uint32_t)*in->p++ << (8 * k);
    *length = (size_t)(long_literal ? number : kind == 1 ? 3 + (high & 7) : high) + 1;
    *offset = literal ? 0 : kind == 1 ? (tag >> 5) << 8 | number : number;
    return literal || *offset > 0;
}

/* As aqi_decompress; `crc` is carried on over all of src when it succeeds. */
static bool aqi_unsnap(const uint8_t *src, size_t bytes, uint8_t *dst, size_t dst_bytes,
                       uint32_t *crc) {
    aqi_checked_bytes in;
    size_t at = 0, length, offset;
    in.p = in.checked = src;
    in.end = src + bytes;
    in.crc = *crc;
    while (in.p < in.end && *in.p >= 0x80) in.p++; /* the size: it is that of the page */
    if (in.p < in.end) in.p++;
    while (in.p < in.end) {
        if (!aqi_snappy_tag(&in, &length, &offset) || length > dst_bytes - at ||
            offset > at)
            return false;
        if (offset > 0) {
            for (; length > 0; length--, at++) dst[at] = dst[at - offset];
        } else {
            if (length > (size_t)(in.end - in.p)) return false;
            aqi_checked_copy(&in, dst + at, length);
            at += length;
        }
    }
    while (in.checked < in.end) aqi_checked_advance(&in);
    *crc = in.crc;
    return at == dst_bytes;
}
#endif

/* Whether aqi_decompress_checked has a way for these. SNAPPY: long literals are copied as
 * fast as the library does; short ones and copies are not. */
static bool aqi_codec_checks(int32_t codec, size_t bytes, size_t dst_bytes) {
#ifdef AQ_WITH_SNAPPY
    if (codec == AQ_SNAPPY) return bytes > dst_bytes - dst_bytes / 64;
#endif
    (void)bytes;
    (void)dst_bytes;
    return codec == AQ_ZSTD;
}

static bool aqi_decompress_checked(int32_t codec, const uint8_t *src, size_t bytes,
                                   uint8_t *dst, size_t dst_bytes, uint32_t *crc) {
#ifdef AQ_WITH_SNAPPY
    if (codec == AQ_SNAPPY) return aqi_unsnap(src, bytes, dst, dst_bytes, crc);
#endif
    /* ZSTD is slow enough to hide that src comes from memory; then it is in a cache. */
    if (bytes > 0 && !aqi_decompress(codec, src, bytes, dst, dst_bytes)) return false;
    *crc = aqi_crc32(*crc, src, bytes);
    return true;
}

#ifndef AQ_NO_WRITER

/* Room that compressing `bytes` may take; 0 = too large for the codec. */
static size_t aqi_compress_bound(int32_t codec, size_t bytes) {
#ifdef AQ_WITH_ZSTD
    if (codec == AQ_ZSTD) return bytes > INT32_MAX ? 0 : ZSTD_compressBound(bytes);
#endif
#ifdef AQ_WITH_SNAPPY
    if (codec == AQ_SNAPPY)
        return bytes > INT32_MAX ? 0 : snappy_max_compressed_length(bytes);
#endif
#ifdef AQ_WITH_ZLIB
    if (codec == AQ_GZIP) return bytes > INT32_MAX ? 0 : compressBound((uLong)bytes) + 64;
#endif
#ifdef AQ_WITH_LZ4
    if (codec == AQ_LZ4_RAW || codec == AQ_LZ4)
        return bytes > LZ4_MAX_INPUT_SIZE ? 0 : (size_t)LZ4_compressBound((int)bytes) + 8;
#endif
#ifdef AQ_WITH_BROTLI
    if (codec == AQ_BROTLI) return BrotliEncoderMaxCompressedSize(bytes);
#endif
    (void)codec;
    (void)bytes;
    return 0;
}

#ifdef AQ_WITH_ZLIB
static size_t aqi_gzip(const uint8_t *src, size_t bytes, uint8_t *dst, size_t capacity,
                       int level) {
    z_stream z;
    int code;
    memset(&z, 0, sizeof z);
    if (deflateInit2(&z, level, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        return 0;
    z.next_in = (z_const Bytef *)(uintptr_t)src; /* zlib's field is not const */
    z.avail_in = (uInt)bytes;
    z.next_out = dst;
    z.avail_out = (uInt)AQI_MIN(capacity, (size_t)UINT_MAX);
    code = deflate(&z, Z_FINISH);
    bytes = code == Z_STREAM_END ? (size_t)z.total_out : 0;
    deflateEnd(&z);
    return bytes;
}
#endif

#ifdef AQ_WITH_LZ4
static size_t aqi_lz4(const uint8_t *src, size_t bytes, uint8_t *dst, size_t capacity) {
    int n = LZ4_compress_default((const char *)src, (char *)dst, (int)bytes,
                                 (int)AQI_MIN(capacity, (size_t)INT_MAX));
    return n > 0 ? (size_t)n : 0;
}

static void aqi_store_be32(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}
#endif

/* Compressed size; 0 on failure. */
static size_t aqi_compress(int32_t codec, int level, const uint8_t *src, size_t bytes,
                           uint8_t *dst, size_t capacity) {
    (void)level;
    (void)src;
    (void)bytes;
    (void)dst;
    (void)capacity;
#ifdef AQ_WITH_ZSTD
    if (codec == AQ_ZSTD) {
        size_t n = ZSTD_compress(dst, capacity, src, bytes, level);
        return ZSTD_isError(n) ? 0 : n;
    }
#endif
#ifdef AQ_WITH_SNAPPY
    if (codec == AQ_SNAPPY) {
        size_t n = capacity;
        return snappy_compress((const char *)src, bytes, (char *)dst, &n) == SNAPPY_OK
                   ? n
                   : 0;
    }
#endif
#ifdef AQ_WITH_ZLIB
    if (codec == AQ_GZIP)
        return aqi_gzip(src, bytes, dst, capacity, AQI_MAX(1, AQI_MIN(level, 9)));
#endif
#ifdef AQ_WITH_LZ4
    if (codec == AQ_LZ4_RAW) return aqi_lz4(src, bytes, dst, capacity);
    if (codec == AQ_LZ4) { /* one block in Hadoop's framing */
        size_t n = capacity < 8 ? 0 : aqi_lz4(src, bytes, dst + 8, capacity - 8);
        if (n == 0) return 0;
        aqi_store_be32(dst, (uint32_t)bytes);
        aqi_store_be32(dst + 4, (uint32_t)n);
        return n + 8;
    }
#endif
#ifdef AQ_WITH_BROTLI
    if (codec == AQ_BROTLI) {
        size_t n = capacity;
        return BrotliEncoderCompress(AQI_MAX(1, AQI_MIN(level, 11)),
                                     BROTLI_DEFAULT_WINDOW, BROTLI_MODE_GENERIC, bytes,
                                     src, &n, dst)
                   ? n
                   : 0;
    }
#endif
    (void)codec;
    return 0;
}

#endif /* AQ_NO_WRITER */

/*==========================================================================
 * MARK: - [75] Parquet reader: file, footer, schema (private)
 * The footer is copied to the heap, then read and checked once, struct by struct. What
 * stays is the copy and where each ColumnChunk begins in it: it is read again when asked
 * for, into the caller's memory. So an open file takes little more than its footer, and
 * threads share it without a lock. Slices point into the copy.
 *========================================================================*/

#define AQI_MAX_SCHEMA_DEPTH 64

/* The schema tree and its leaves. Lives in the owner's arena. */
typedef struct aqi_schema {
    aq_field *fields;
    int32_t num_fields;
    int32_t num_columns;
    uint32_t max_columns;
    int32_t *leaves;    /* column -> field   */
    const char **paths; /* column -> "a.b.c" */
} aqi_schema;

/* Key-value metadata of a column chunk, which few have. */
typedef struct aqi_chunk_pairs {
    uint32_t chunk; /* as in chunk_at */
    int32_t count;
    const aq_key_value *pairs;
} aqi_chunk_pairs;

struct aq_parquet {
    aq_allocator allocator;
    aq_log log;
    bool skip_checksums;
    size_t max_page_bytes, max_column_bytes;
    aqi_source source;
    aqi_arena copy;  /* of the footer: a block of its own */
    aqi_arena arena; /* all else below */
    aqi_cursor footer;
    aqi_file_meta meta;
    aq_row_group_info *row_groups;
    uint32_t *chunk_at; /* [row group][column]: where its ColumnChunk is in the footer */
    int64_t data_end;   /* file offset of the footer */
    int64_t num_rows;   /* of all row groups */
    const char *created_by;
    aqi_schema schema;
    aq_key_value *pairs; /* key-value metadata */
    aqi_chunk_pairs *chunk_pairs; /* by ascending chunk */
    uint32_t num_chunk_pairs;
};

static const aq_row_group_info *aqi_row_group_at(const aq_parquet *f, int32_t i) {
    return f->row_groups + i;
}

static size_t aqi_chunk_index(const aq_parquet *f, int32_t row_group, int32_t column) {
    return (size_t)row_group * (size_t)f->schema.num_columns + (size_t)column;
}

/* A list that was read, at its first element. */
static aqi_thrift_reader aqi_list_reader(const aq_parquet *f, const aqi_list *list) {
    aqi_thrift_reader r;
    r.in = f->footer;
    r.in.p = (const uint8_t *)list->items;
    r.err = NULL;
    return r;
}

/* Reads a ColumnChunk again; it was good when the file was opened. */
static void aqi_chunk_at(const aq_parquet *f, int32_t row_group, int32_t column,
                         aqi_column_chunk *out) {
    aqi_thrift_reader r;
    r.in = f->footer;
    r.in.p += f->chunk_at[aqi_chunk_index(f, row_group, column)];
    r.err = NULL;
    (void)!aqi_thrift_read(&r, &aqi_column_chunk_type, out);
}

static aq_status aqi_schema_fail(aq_error *err, const char *name, const char *what) {
    return aqi_fail(err, AQ_E_FORMAT, "schema: field \"%.80s\" %s", name, what);
}

/* One SchemaElement to one aq_field; `f->name` is set. */
static aq_status aqi_schema_field(const aqi_schema_element *e, aq_field *f,
                                  aq_error *err) {
    f->num_children = AQI_HAS(e, aqi_schema_element, num_children) ? e->num_children : 0;
    f->column = -1;
    f->field_id = AQI_HAS(e, aqi_schema_element, field_id) ? e->field_id : -1;
    f->type = AQ_GROUP;
    if (f->num_children < 0)
        return aqi_schema_fail(err, f->name, "has negative num_children");
    if (f->parent >= 0) {
        if (e->repetition_type < 0 || e->repetition_type > AQ_REPEATED)
            return aqi_schema_fail(err, f->name, "has no valid repetition type");
        f->repetition = (aq_repetition)e->repetition_type;
    }
    if (AQI_HAS(e, aqi_schema_element, type)) {
        if (e->type < AQ_BOOLEAN || e->type > AQ_FIXED_LEN_BYTE_ARRAY)
            return aqi_schema_fail(err, f->name, "has no valid physical type");
        if (f->num_children != 0)
            return aqi_schema_fail(err, f->name, "has both a type and children");
        f->type = (aq_physical_type)e->type;
        if (f->type == AQ_FIXED_LEN_BYTE_ARRAY) {
            f->type_length = e->type_length;
            if (f->type_length < 0)
                return aqi_schema_fail(err, f->name, "has a negative type_length");
        }
    }
    aqi_logical_resolve(e, f);
    return AQ_OK;
}

/* Levels of a node, from its parent's; the path of a leaf. */
static aq_status aqi_schema_place(aqi_schema *f, aqi_arena *arena, int32_t index,
                                 aq_error *err) {
    aq_field *field = &f->fields[index];
    const aq_field *p;
    size_t bytes = 0;
    char *path, *at;
    int32_t k;
    aq_status status;
    if (field->parent < 0) return AQ_OK;
    p = &f->fields[field->parent];
    field->max_def = (uint8_t)(p->max_def + (field->repetition != AQ_REQUIRED));
    field->max_rep = (uint8_t)(p->max_rep + (field->repetition == AQ_REPEATED));
    if (field->type == AQ_GROUP) return AQ_OK;
    if ((uint32_t)f->num_columns >= f->max_columns)
        return aqi_fail(err, AQ_E_LIMIT, "schema has over %u columns; raise max_columns",
                        f->max_columns);
    field->column = f->num_columns;
    f->leaves[f->num_columns] = index;
    if (field->parent == 0) {
        f->paths[f->num_columns++] = field->name;
        return AQ_OK;
    }
    for (k = index; k > 0; k = f->fields[k].parent)
        bytes += strlen(f->fields[k].name) + 1;
    status = aqi_arena_string(arena, NULL, bytes - 1, &path, err);
    if (status != AQ_OK) return status;
    at = path + bytes - 1;
    for (k = index; k > 0; k = f->fields[k].parent) {
        size_t n = strlen(f->fields[k].name);
        at -= n;
        memcpy(at, f->fields[k].name, n);
        if (at > path) *--at = '.';
    }
    f->paths[f->num_columns++] = path;
    return AQ_OK;
}

/* The flat list of SchemaElements as a tree: an explicit stack, no recursion. */
typedef struct aqi_schema_builder {
    aqi_schema *schema;
    aqi_arena *arena;
    uint32_t count, next; /* elements, and those that were added */
    int depth;
    int32_t open[AQI_MAX_SCHEMA_DEPTH], left[AQI_MAX_SCHEMA_DEPTH];
} aqi_schema_builder;

static aq_status aqi_schema_begin(aqi_schema_builder *b, aqi_schema *schema,
                                  aqi_arena *arena, uint32_t count, aq_error *err) {
    void *p;
    aq_status status;
    b->schema = schema;
    b->arena = arena;
    b->count = count;
    b->next = 0;
    b->depth = 0;
    if (count == 0) return aqi_fail(err, AQ_E_FORMAT, "schema: it has no root");
    status = aqi_arena_alloc(arena, count * sizeof(aq_field), &p, err);
    if (status != AQ_OK) return status;
    schema->fields = (aq_field *)p;
    status = aqi_arena_alloc(arena, count * sizeof(int32_t), &p, err);
    if (status != AQ_OK) return status;
    schema->leaves = (int32_t *)p;
    status = aqi_arena_alloc(arena, count * sizeof(char *), &p, err);
    if (status != AQ_OK) return status;
    schema->paths = (const char **)p;
    return AQ_OK;
}

/* The next element, at most `count` times. */
static aq_status aqi_schema_add(aqi_schema_builder *b, const aqi_schema_element *e,
                                aq_error *err) {
    const uint32_t i = b->next++;
    aq_field *field = &b->schema->fields[i];
    char *name = NULL;
    aq_status status;
    while (b->depth > 0 && b->left[b->depth - 1] == 0) b->depth--;
    if (i > 0 && b->depth == 0)
        return aqi_fail(err, AQ_E_FORMAT, "schema: %u fields outside the tree",
                        b->count - i);
    status = aqi_arena_string(b->arena, e->name.data, e->name.size, &name, err);
    if (status != AQ_OK) return status;
    field->name = name;
    field->parent = b->depth > 0 ? b->open[b->depth - 1] : -1;
    if (b->depth > 0) b->left[b->depth - 1]--;
    if (strlen(name) != e->name.size)
        return aqi_schema_fail(err, name, "has a NUL byte in its name");
    status = aqi_schema_field(e, field, err);
    if (status == AQ_OK) status = aqi_schema_place(b->schema, b->arena, (int32_t)i, err);
    if (status != AQ_OK || (i > 0 && field->num_children == 0)) return status;
    if (b->depth == AQI_MAX_SCHEMA_DEPTH)
        return aqi_fail(err, AQ_E_LIMIT, "schema nested deeper than %d",
                        AQI_MAX_SCHEMA_DEPTH);
    b->open[b->depth] = (int32_t)i;
    b->left[b->depth++] = field->num_children;
    return AQ_OK;
}

static aq_status aqi_schema_end(aqi_schema_builder *b, aq_error *err) {
    b->schema->num_fields = (int32_t)b->count;
    while (b->depth > 0 && b->left[b->depth - 1] == 0) b->depth--;
    if (b->depth > 0)
        return aqi_fail(err, AQ_E_FORMAT,
                        "schema: field \"%.80s\" lacks %d of its children",
                        b->schema->fields[b->open[b->depth - 1]].name,
                        (int)b->left[b->depth - 1]);
    return AQ_OK;
}

/* File offset of a chunk's first page. Writers put 0 for "no dictionary page". */
static int64_t aqi_chunk_start(const aqi_column_meta *m) {
    if (AQI_HAS(m, aqi_column_meta, dictionary_page_offset) &&
        m->dictionary_page_offset > 0 && m->dictionary_page_offset < m->data_page_offset)
        return m->dictionary_page_offset;
    return m->data_page_offset;
}

/* Whether path_in_schema is the column's; one without parts says nothing. */
static bool aqi_path_is(const aqi_list *path, const char *dotted) {
    size_t left = strlen(dotted);
    aqi_cursor in = aqi_cursor_make((const uint8_t *)path->items, path->encoded_bytes, 0);
    aqi_slice part;
    uint32_t i;
    for (i = 0; i < path->count && aqi_read_slice(&in, &part); i++) {
        if (i > 0 && (left == 0 || *dotted != '.')) return false;
        dotted += i > 0;
        left -= i > 0;
        if (part.size > left || memcmp(dotted, part.data, part.size) != 0) return false;
        dotted += part.size;
        left -= part.size;
    }
    return left == 0 || path->count == 0;
}

/* `at`: its place in the footer. `end`: of the chunk before it. Chunks as the writers lay
 * them out ascend; one that begins inside the one before it, in that order, shares bytes.
 * Chunks in another order are checked page by page only. */
static aq_status aqi_chunk_check(const aq_parquet *f, const aqi_column_chunk *c,
                                 int32_t column, int64_t at, int64_t *end,
                                 aq_error *err) {
    const aqi_column_meta *m = &c->meta_data;
    const aq_field *field = &f->schema.fields[f->schema.leaves[column]];
    const char *what = NULL;
    int64_t start;
    if (!AQI_HAS(c, aqi_column_chunk, meta_data)) return AQ_OK; /* encrypted: see open */
    start = aqi_chunk_start(m);
    if (m->type != (int32_t)field->type) {
        what = "has another type than the schema says";
    } else if (!aqi_path_is(&m->path_in_schema, f->schema.paths[column])) {
        what = "has another path than the schema says";
    } else if (m->num_values < 0 || m->total_compressed_size < 0 ||
               m->total_uncompressed_size < 0) {
        what = "has a negative size";
    } else if (AQI_HAS(c, aqi_column_chunk, file_path) || m->num_values == 0) {
        return AQ_OK;
    } else if (start < 4 || start >= f->data_end ||
               m->total_compressed_size > f->data_end - start) {
        what = "lies outside the file";
        if (start >= 0) at = start;
    } else if (start < *end && start + m->total_compressed_size > *end) {
        what = "overlaps the one before it";
        at = start;
    } else {
        *end = AQI_MAX(*end, start + m->total_compressed_size);
        return AQ_OK;
    }
    return aqi_fail_at(err, AQ_E_FORMAT, at, "column chunk %s", what);
}

/* Copies of a list of KeyValue, with NULs. */
static aq_status aqi_pairs_build(aq_parquet *f, const aqi_list *list, aq_key_value **out,
                                 aq_error *err) {
    aqi_thrift_reader r = aqi_list_reader(f, list);
    char *text = NULL;
    uint32_t i;
    void *p;
    aq_status status =
        aqi_arena_alloc(&f->arena, list->count * sizeof(aq_key_value), &p, err);
    aq_key_value *pairs = (aq_key_value *)p;
    for (i = 0; i < list->count && status == AQ_OK; i++) {
        aqi_key_value kv;
        status = aqi_thrift_read(&r, &aqi_key_value_type, &kv);
        if (status == AQ_OK)
            status = aqi_arena_string(&f->arena, kv.key.data, kv.key.size, &text, err);
        if (status != AQ_OK) break;
        pairs[i].key = text;
        if (!AQI_HAS(&kv, aqi_key_value, value)) continue;
        status = aqi_arena_string(&f->arena, kv.value.data, kv.value.size, &text, err);
        pairs[i].value = text;
        pairs[i].value_bytes = kv.value.size;
    }
    *out = pairs;
    return status;
}

/* Keeps the pairs of a column chunk. The array doubles at powers of 2. */
static aq_status aqi_chunk_pairs_add(aq_parquet *f, size_t chunk, const aqi_list *list,
                                     aq_error *err) {
    const uint32_t n = f->num_chunk_pairs;
    aq_key_value *pairs = NULL;
    void *p;
    aq_status status = AQ_OK;
    if ((n & (n - 1)) == 0) {
        const size_t room = AQI_MAX(2 * (size_t)n, 1);
        status = aqi_arena_alloc(&f->arena, room * sizeof *f->chunk_pairs, &p, err);
        if (status != AQ_OK) return status;
        if (n > 0) memcpy(p, f->chunk_pairs, n * sizeof *f->chunk_pairs);
        f->chunk_pairs = (aqi_chunk_pairs *)p;
    }
    status = aqi_pairs_build(f, list, &pairs, err);
    if (status != AQ_OK) return status;
    f->chunk_pairs[n].chunk = (uint32_t)chunk;
    f->chunk_pairs[n].count = (int32_t)list->count;
    f->chunk_pairs[n].pairs = pairs;
    f->num_chunk_pairs = n + 1;
    return AQ_OK;
}

/* Adds the file offset to an error in the bytes that has none. */
static aq_status aqi_error_at(aq_error *err, aq_status status, int64_t offset) {
    if (err != NULL && status == AQ_E_FORMAT && err->file_offset < 0)
        err->file_offset = offset;
    return status;
}

/* The three parts of the footer that are read struct by struct come once each. */
static aq_status aqi_list_once(aqi_thrift_reader *r, aqi_thrift_walk *w, aqi_list *out) {
    const uint32_t bit = 1u << (w->field - w->type->fields);
    if ((w->has & bit) != 0)
        return aqi_fail_at(r->err, AQ_E_FORMAT, aqi_offset(&r->in),
                           "Thrift metadata: %s has its field %s twice", w->type->name,
                           w->field->name);
    w->has |= bit;
    return aqi_thrift_list_begin(r, w->field, out);
}

static aq_status aqi_schema_read(aq_parquet *f, aqi_thrift_reader *r, aqi_list *list) {
    aqi_schema_builder b;
    aqi_schema_element e;
    uint32_t i;
    aq_status status = aqi_schema_begin(&b, &f->schema, &f->arena, list->count, r->err);
    for (i = 0; i < list->count && status == AQ_OK; i++) {
        const int64_t at = aqi_offset(&r->in);
        status = aqi_thrift_read(r, &aqi_schema_element_type, &e);
        if (status == AQ_OK)
            status = aqi_error_at(r->err, aqi_schema_add(&b, &e, r->err), at);
    }
    if (status == AQ_OK) status = aqi_schema_end(&b, r->err);
    aqi_thrift_list_end(r, list);
    return aqi_error_at(r->err, status, aqi_offset(&r->in));
}

static aq_status aqi_chunks_read(aq_parquet *f, aqi_thrift_reader *r, int32_t row_group,
                                 aqi_list *list, int64_t *end) {
    aqi_column_chunk chunk;
    int32_t c;
    aq_status status = AQ_OK;
    if (list->count != (uint32_t)f->schema.num_columns)
        return aqi_fail_at(r->err, AQ_E_FORMAT, aqi_offset(&r->in),
                           "row group %d has %u column chunks, the schema has %d",
                           (int)row_group, list->count, (int)f->schema.num_columns);
    for (c = 0; c < f->schema.num_columns && status == AQ_OK; c++) {
        const size_t i = aqi_chunk_index(f, row_group, c);
        const int64_t at = aqi_offset(&r->in);
        f->chunk_at[i] = (uint32_t)(r->in.p - r->in.start);
        status = aqi_thrift_read(r, &aqi_column_chunk_type, &chunk);
        if (status == AQ_OK) status = aqi_chunk_check(f, &chunk, c, at, end, r->err);
        status = aqi_error_in_column(r->err, status, row_group, c, f->schema.paths[c]);
        if (status == AQ_OK && chunk.meta_data.key_value_metadata.count > 0)
            status =
                aqi_chunk_pairs_add(f, i, &chunk.meta_data.key_value_metadata, r->err);
    }
    aqi_thrift_list_end(r, list);
    return status;
}

static aq_status aqi_row_group_read(aq_parquet *f, aqi_thrift_reader *r,
                                    int32_t row_group, int64_t *end) {
    aqi_thrift_walk w = aqi_thrift_walk_begin(&aqi_row_group_type);
    aqi_row_group g;
    memset(&g, 0, sizeof g);
    for (;;) {
        aq_status status = aqi_thrift_next(r, &w);
        if (status != AQ_OK) return status;
        if (w.wire == AQI_T_STOP) break;
        if (w.field->index == aqi_row_group_field_columns) {
            status = aqi_list_once(r, &w, &g.columns);
            if (status == AQ_OK)
                status = aqi_chunks_read(f, r, row_group, &g.columns, end);
        } else {
            status = aqi_thrift_read_field(r, &w, &g);
        }
        if (status != AQ_OK) return status;
    }
    if (g.num_rows < 0 || g.num_rows > INT64_MAX - f->num_rows)
        return aqi_fail_at(r->err, AQ_E_FORMAT, aqi_offset(&r->in),
                           "row group %d has an impossible row count", (int)row_group);
    f->num_rows += g.num_rows;
    f->row_groups[row_group].num_rows = g.num_rows;
    f->row_groups[row_group].total_bytes = g.total_byte_size;
    return AQ_OK;
}

static aq_status aqi_row_groups_read(aq_parquet *f, aqi_thrift_reader *r,
                                     aqi_list *list) {
    const size_t columns = (size_t)f->schema.num_columns;
    const size_t room = aqi_remaining(&r->in) / aqi_column_chunk_type.min_bytes;
    int64_t end = 0;
    uint32_t i;
    void *p;
    aq_status status;
    if (columns > 0 && list->count > room / columns)
        return aqi_fail_at(r->err, AQ_E_FORMAT, aqi_offset(&r->in),
                           "%u row groups of %zu columns do not fit in the footer",
                           list->count, columns);
    status = aqi_arena_alloc(&f->arena, list->count * sizeof *f->row_groups, &p, r->err);
    if (status != AQ_OK) return status;
    f->row_groups = (aq_row_group_info *)p;
    status = aqi_arena_alloc(&f->arena, list->count * columns * sizeof *f->chunk_at, &p,
                             r->err);
    if (status != AQ_OK) return status;
    f->chunk_at = (uint32_t *)p;
    for (i = 0; i < list->count && status == AQ_OK; i++)
        status = aqi_row_group_read(f, r, (int32_t)i, &end);
    aqi_thrift_list_end(r, list);
    return status;
}

/* Reads the FileMetaData. Row groups are checked against the schema, which comes before
 * them in every known file; where not, they are passed over and read at the end. */
static aq_status aqi_footer_parse(aq_parquet *f, aqi_thrift_reader *r) {
    aqi_thrift_walk w = aqi_thrift_walk_begin(&aqi_file_meta_type);
    aqi_list *groups = &f->meta.row_groups;
    bool late = false;
    aq_status status;
    for (;;) {
        bool at_groups;
        status = aqi_thrift_next(r, &w);
        if (status != AQ_OK || w.wire == AQI_T_STOP) break;
        at_groups = w.field->index == aqi_file_meta_field_row_groups;
        if (w.field->index == aqi_file_meta_field_schema) {
            status = aqi_list_once(r, &w, &f->meta.schema);
            if (status == AQ_OK) status = aqi_schema_read(f, r, &f->meta.schema);
        } else if (at_groups && f->schema.num_fields > 0) {
            status = aqi_list_once(r, &w, groups);
            if (status == AQ_OK) status = aqi_row_groups_read(f, r, groups);
        } else {
            late = late || at_groups;
            status = aqi_thrift_read_field(r, &w, &f->meta);
        }
        if (status != AQ_OK) break;
    }
    f->meta.has = w.has;
    if (status != AQ_OK || !late) return status;
    r->in.p = (const uint8_t *)groups->items;
    return aqi_row_groups_read(f, r, groups);
}

/* Finds the footer by the last 8 bytes and copies it to the heap. */
static aq_status aqi_footer_copy(aq_parquet *f, aq_error *err) {
    uint8_t head[4], tail[8];
    uint32_t length;
    void *copy;
    aq_status status;
    if (f->source.bytes < 12)
        return aqi_fail_at(err, AQ_E_FORMAT, 0,
                           "%lld bytes are too few for a Parquet file",
                           (long long)f->source.bytes);
    status = aqi_source_read(&f->source, 0, head, 4, err);
    if (status == AQ_OK)
        status = aqi_source_read(&f->source, f->source.bytes - 8, tail, 8, err);
    if (status != AQ_OK) return status;
    if (memcmp(tail + 4, "PARE", 4) == 0)
        return aqi_fail(err, AQ_E_UNSUPPORTED, "Parquet file with an encrypted footer");
    if (memcmp(head, "PAR1", 4) != 0)
        return aqi_fail_at(err, AQ_E_FORMAT, 0,
                           "not a Parquet file: no PAR1 at its start");
    if (memcmp(tail + 4, "PAR1", 4) != 0)
        return aqi_fail_at(err, AQ_E_FORMAT, f->source.bytes - 4,
                           "no PAR1 at the end of the file; it is cut off or damaged");
    length = aqi_load_le32(tail);
    if (length == 0 || (int64_t)length > f->source.bytes - 12)
        return aqi_fail_at(err, AQ_E_FORMAT, f->source.bytes - 8,
                           "footer of %u bytes does not fit in the file of %lld", length,
                           (long long)f->source.bytes);
    f->data_end = f->source.bytes - 8 - length;
    status = aqi_arena_take(&f->copy, length, &copy, err);
    if (status != AQ_OK) return status;
    f->footer = aqi_cursor_make((const uint8_t *)copy, length, f->data_end);
    return aqi_source_read(&f->source, f->data_end, copy, length, err);
}

static aq_status aqi_parquet_parse(aq_parquet *f, aq_error *err) {
    aqi_thrift_reader r;
    char *text = NULL;
    aq_status status = aqi_footer_copy(f, err);
    r.in = f->footer;
    r.err = err;
    if (status == AQ_OK) status = aqi_footer_parse(f, &r);
    /* Some writers leave 0 there. */
    if (status == AQ_OK && f->num_rows != f->meta.num_rows)
        aqi_log(&f->log, "the footer claims %lld rows, the row groups hold %lld",
                (long long)f->meta.num_rows, (long long)f->num_rows);
    if (status == AQ_OK)
        status = aqi_pairs_build(f, &f->meta.key_value_metadata, &f->pairs, err);
    if (status == AQ_OK)
        status = aqi_arena_string(&f->arena, f->meta.created_by.data,
                                  f->meta.created_by.size, &text, err);
    f->created_by = text;
    return status;
}

/* Validates options and makes an aq_parquet without a source. */
static aq_status aqi_parquet_create(const aq_parquet_options *options, aq_parquet **out,
                                    aq_error *err) {
    aq_parquet_options o;
    aq_allocator a;
    aq_parquet *f;
    aq_status status;
    aqi_error_clear(err);
    *out = NULL;
    memset(&o, 0, sizeof o);
    if (options != NULL) o = *options;
    if (o.max_metadata_bytes == 0) o.max_metadata_bytes = (size_t)1 << 30;
    if (o.max_columns == 0) o.max_columns = 100000;
    status = aqi_allocator_resolve(o.allocator, &a, err);
    if (status != AQ_OK) return status;
    f = (aq_parquet *)aqi_alloc(&a, sizeof *f);
    if (f == NULL) return aqi_fail_nomem(err, sizeof *f);
    memset(f, 0, sizeof *f);
    f->allocator = a;
    f->log = o.log;
    f->skip_checksums = o.skip_checksums;
    f->max_page_bytes = o.max_page_bytes;
    f->max_column_bytes = o.max_column_bytes;
    f->schema.max_columns = o.max_columns;
    aqi_arena_init(&f->arena, &a);
    aqi_arena_limit(&f->arena, o.max_metadata_bytes, "max_metadata_bytes");
    aqi_arena_init(&f->copy, &a);
    aqi_arena_share(&f->copy, &f->arena);
    aqi_source_init(&f->source);
    *out = f;
    return AQ_OK;
}

/* Parses what aqi_parquet_create and a source made; closes it on failure. */
static aq_status aqi_parquet_finish_open(aq_parquet *f, aq_status status,
                                         aq_parquet **out, aq_error *err) {
    if (status == AQ_OK) status = aqi_parquet_parse(f, err);
    if (status != AQ_OK && err != NULL && err->file_offset > 0 && err->column < 0)
        aqi_error_locate(err, "offset %lld", (long long)err->file_offset);
    if (status != AQ_OK) {
        aq_parquet_close(f);
        f = NULL;
    }
    *out = f;
    return status;
}

aq_status aq_parquet_open(const char *path, const aq_parquet_options *options,
                          aq_parquet **out_file, aq_error *err) {
    aq_parquet *f;
    aq_status status = aqi_parquet_create(options, &f, err);
    *out_file = NULL;
    if (status != AQ_OK) return status;
    status = aqi_source_open(&f->source, path, options == NULL ? AQ_IO_AUTO : options->io,
                             err);
    status = aqi_parquet_finish_open(f, status, out_file, err);
    return aqi_error_in_file(err, status, path);
}

aq_status aq_parquet_open_memory(const void *data, size_t bytes,
                                 const aq_parquet_options *options, aq_parquet **out_file,
                                 aq_error *err) {
    aq_parquet *f;
    aq_status status = aqi_parquet_create(options, &f, err);
    *out_file = NULL;
    if (status != AQ_OK) return status;
    if (data == NULL) bytes = 0;
    f->source.map = (const uint8_t *)data;
    f->source.bytes = (int64_t)bytes;
    return aqi_parquet_finish_open(f, AQ_OK, out_file, err);
}

aq_status aq_parquet_open_reader(const aq_reader *reader,
                                 const aq_parquet_options *options, aq_parquet **out_file,
                                 aq_error *err) {
    aq_parquet *f;
    aq_status status = aqi_parquet_create(options, &f, err);
    *out_file = NULL;
    if (status != AQ_OK) return status;
    if (reader == NULL || reader->read == NULL || reader->file_bytes < 0) {
        status = aqi_fail(err, AQ_E_ARG,
                          "reader without a read function or with a negative size");
    } else {
        f->source.reader = *reader;
        f->source.bytes = reader->file_bytes;
    }
    return aqi_parquet_finish_open(f, status, out_file, err);
}

void aq_parquet_close(aq_parquet *file) {
    aq_allocator a;
    if (file == NULL) return;
    a = file->allocator;
    aqi_source_close(&file->source);
    aqi_arena_deinit(&file->copy);
    aqi_arena_deinit(&file->arena);
    aqi_free(&a, file, sizeof *file);
}

void aq_parquet_get_info(const aq_parquet *file, aq_parquet_info *out_info) {
    memset(out_info, 0, sizeof *out_info);
    out_info->file_bytes = file->source.bytes;
    out_info->num_rows = file->num_rows;
    out_info->num_row_groups = (int32_t)file->meta.row_groups.count;
    out_info->num_columns = file->schema.num_columns;
    out_info->num_fields = file->schema.num_fields;
    out_info->num_key_values = (int32_t)file->meta.key_value_metadata.count;
    out_info->format_version = file->meta.version;
    out_info->footer_bytes = file->footer.end - file->footer.start;
    out_info->created_by = file->created_by;
    out_info->mapped = file->source.map != NULL;
}

const aq_field *aq_parquet_field(const aq_parquet *file, int32_t index) {
    return index < 0 || index >= file->schema.num_fields ? NULL
                                                         : &file->schema.fields[index];
}

const aq_field *aq_parquet_column_field(const aq_parquet *file, int32_t column) {
    return column < 0 || column >= file->schema.num_columns
               ? NULL
               : &file->schema.fields[file->schema.leaves[column]];
}

const char *aq_parquet_column_path(const aq_parquet *file, int32_t column) {
    return column < 0 || column >= file->schema.num_columns ? ""
                                                            : file->schema.paths[column];
}

int32_t aq_parquet_find_column(const aq_parquet *file, const char *path) {
    int32_t i;
    for (i = 0; i < file->schema.num_columns; i++) {
        if (strcmp(file->schema.paths[i], path) == 0) return i;
    }
    return -1;
}

static aq_status aqi_chunk_index_check(const aq_parquet *f, int32_t row_group,
                                       int32_t column, aq_error *err) {
    if (row_group < 0 || (uint32_t)row_group >= f->meta.row_groups.count)
        return aqi_fail(err, AQ_E_ARG, "row group %d of %u", (int)row_group,
                        f->meta.row_groups.count);
    if (column < 0 || column >= f->schema.num_columns)
        return aqi_fail(err, AQ_E_ARG, "column %d of %d", (int)column,
                        (int)f->schema.num_columns);
    return AQ_OK;
}

aq_status aq_parquet_get_row_group(const aq_parquet *file, int32_t row_group,
                                   aq_row_group_info *out_info, aq_error *err) {
    aqi_error_clear(err);
    memset(out_info, 0, sizeof *out_info);
    if (row_group < 0 || (uint32_t)row_group >= file->meta.row_groups.count)
        return aqi_fail(err, AQ_E_ARG, "row group %d of %u", (int)row_group,
                        file->meta.row_groups.count);
    *out_info = *aqi_row_group_at(file, row_group);
    return AQ_OK;
}

/* Reads a chunk's metadata; an error when its bytes are out of this library's reach. */
static aq_status aqi_chunk_find(const aq_parquet *f, int32_t row_group, int32_t column,
                                aqi_column_chunk *out, aq_error *err) {
    aq_status status = aqi_chunk_index_check(f, row_group, column, err);
    if (status != AQ_OK) return status;
    aqi_chunk_at(f, row_group, column, out);
    if (AQI_HAS(out, aqi_column_chunk, crypto_metadata) ||
        !AQI_HAS(out, aqi_column_chunk, meta_data)) {
        status = aqi_fail(err, AQ_E_UNSUPPORTED, "column chunk is encrypted");
    } else if (AQI_HAS(out, aqi_column_chunk, file_path)) {
        status = aqi_fail(err, AQ_E_UNSUPPORTED, "column chunk is in another file");
    }
    return aqi_error_in_column(err, status, row_group, column, f->schema.paths[column]);
}

/* Bit (1 << number) for each encoding that has one. */
static uint32_t aqi_encoding_bits(const aq_parquet *f, const aqi_list *encodings) {
    aqi_thrift_reader r = aqi_list_reader(f, encodings);
    uint32_t i, bits = 0;
    int64_t encoding;
    for (i = 0; i < encodings->count && aqi_read_zigzag(&r.in, &encoding); i++) {
        if (encoding >= 0 && encoding < 32) bits |= 1u << encoding;
    }
    return bits;
}

static aq_bytes aqi_bytes_of(const aqi_slice *slice) {
    aq_bytes b;
    b.data = slice->data;
    b.size = slice->size;
    return b;
}

static void aqi_chunk_statistics(const aqi_statistics *s, aq_chunk_info *out) {
    if (AQI_HAS(s, aqi_statistics, null_count)) out->null_count = s->null_count;
    if (AQI_HAS(s, aqi_statistics, distinct_count))
        out->distinct_count = s->distinct_count;
    if (AQI_HAS(s, aqi_statistics, min_value))
        out->min_value = aqi_bytes_of(&s->min_value);
    if (AQI_HAS(s, aqi_statistics, max_value))
        out->max_value = aqi_bytes_of(&s->max_value);
    if (AQI_HAS(s, aqi_statistics, min)) out->deprecated_min = aqi_bytes_of(&s->min);
    if (AQI_HAS(s, aqi_statistics, max)) out->deprecated_max = aqi_bytes_of(&s->max);
    out->min_is_exact = s->is_min_value_exact;
    out->max_is_exact = s->is_max_value_exact;
}

aq_status aq_parquet_get_chunk(const aq_parquet *file, int32_t row_group, int32_t column,
                               aq_chunk_info *out_info, aq_error *err) {
    aqi_column_chunk chunk;
    const aqi_column_meta *m = &chunk.meta_data;
    aq_status status;
    aqi_error_clear(err);
    memset(out_info, 0, sizeof *out_info);
    status = aqi_chunk_find(file, row_group, column, &chunk, err);
    if (status != AQ_OK) return status;
    out_info->num_values = m->num_values;
    out_info->data_page_offset = m->data_page_offset;
    out_info->start_offset = aqi_chunk_start(m);
    out_info->dictionary_page_offset =
        out_info->start_offset < m->data_page_offset ? out_info->start_offset : -1;
    out_info->compressed_bytes = m->total_compressed_size;
    out_info->uncompressed_bytes = m->total_uncompressed_size;
    out_info->codec = (aq_codec)m->codec;
    out_info->encodings = aqi_encoding_bits(file, &m->encodings);
    out_info->null_count = -1;
    out_info->distinct_count = -1;
    aqi_chunk_statistics(&m->statistics, out_info);
    out_info->bloom_filter_offset = -1;
    if (AQI_HAS(m, aqi_column_meta, bloom_filter_offset))
        out_info->bloom_filter_offset = m->bloom_filter_offset;
    out_info->bloom_filter_bytes = -1;
    if (AQI_HAS(m, aqi_column_meta, bloom_filter_length))
        out_info->bloom_filter_bytes = m->bloom_filter_length;
    out_info->num_key_values = (int32_t)m->key_value_metadata.count;
    return AQ_OK;
}

bool aq_parquet_chunk_key_value(const aq_parquet *file, int32_t row_group, int32_t column,
                                int32_t index, aq_key_value *out_pair) {
    uint32_t low = 0, high = file->num_chunk_pairs;
    size_t chunk;
    memset(out_pair, 0, sizeof *out_pair);
    if (aqi_chunk_index_check(file, row_group, column, NULL) != AQ_OK) return false;
    chunk = aqi_chunk_index(file, row_group, column);
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (file->chunk_pairs[middle].chunk < chunk) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low == file->num_chunk_pairs || file->chunk_pairs[low].chunk != chunk ||
        index < 0 || index >= file->chunk_pairs[low].count)
        return false;
    *out_pair = file->chunk_pairs[low].pairs[index];
    return true;
}

bool aq_parquet_key_value(const aq_parquet *file, int32_t index, aq_key_value *out_pair) {
    memset(out_pair, 0, sizeof *out_pair);
    if (index < 0 || (uint32_t)index >= file->meta.key_value_metadata.count) return false;
    *out_pair = file->pairs[index];
    return true;
}

const char *aq_parquet_find_key(const aq_parquet *file, const char *key) {
    uint32_t i;
    for (i = 0; i < file->meta.key_value_metadata.count; i++) {
        if (strcmp(file->pairs[i].key, key) == 0) return file->pairs[i].value;
    }
    return NULL;
}

/*==========================================================================
 * MARK: - [76] Parquet reader: pages and column chunks (private)
 * A page is mapped (its bytes stay where they are) or decoded (checked against its
 * CRC-32, decompressed). Sizes are checked before memory is asked for: see
 * aqi_page_budget.
 *========================================================================*/

#define AQI_MAX_PAGE_HEADER ((size_t)16 << 20)
#define AQI_CHUNK_SLACK 100 /* parquet-mr left out the dictionary's header: PARQUET-816 */

/* Takes a page of long lists apart. */
typedef struct aqi_list_cutter {
    aq_span page; /* what is left of it; num_levels == 0: nothing */
    aqi_rle levels;
    size_t bit;   /* in a packed run of them */
    size_t width; /* of a value, as it lies in memory */
    bool arrays;  /* BYTE_ARRAY */
} aqi_list_cutter;

struct aq_column {
    const aq_parquet *file;
    const aq_field *field;
    aqi_column_chunk chunk;
    const aqi_column_meta *meta; /* of chunk */
    int32_t row_group, column;
    int64_t at, end;       /* file offsets: next page header, end of the chunk  */
    int64_t levels_left;   /* of the chunk's num_values                         */
    int64_t rows_left;     /* of the row group's                                */
    size_t values_at;      /* in the last decompressed page: the next is placed so
                            * that values there are aligned */
    bool verify;           /* CRC of mapped pages too, levels and values walked */
    aqi_arena kept;        /* dictionary, spans                                 */
    aqi_arena page;        /* what aq_column_next decoded last                  */
    const void *dictionary;
    size_t dictionary_entries;
    bool has_dictionary;
    aqi_list_cutter lists; /* of the page under way, for aq_column_next */
    aq_span *spans;
    size_t num_spans;
    bool spans_done;
};

/* A page being read: header, then the bytes after decompression. */
typedef struct aqi_page {
    aqi_page_header header;
    aqi_arena *arena; /* for what is decoded of it */
    int64_t header_offset, data_offset;
    const uint8_t *data;
    size_t bytes;
    int32_t num_values, encoding;
    size_t plain_bytes; /* leading bytes that are never compressed: levels of V2 */
    size_t values_at;   /* bytes before the values: as guessed, then as found */
    const uint8_t *lists; /* repetition levels that were not unpacked; NULL = none */
    size_t lists_bytes;
    bool compressed, v2;
    bool crc_with_codec; /* the CRC is taken while the page is decompressed */
    bool first;  /* data page of its chunk */
    bool excess; /* more values than were left of the chunk */
    bool mapped;
} aqi_page;

/* How large stored bytes can become: by the codec, or by a run of levels or indices. zstd
 * reaches about 32,000 times on zeros, brotli over a million. */
static size_t aqi_expansion(const aq_column *c, size_t stored_bytes) {
    size_t ratio = c->meta->codec == AQ_BROTLI ? (size_t)1 << 22 : (size_t)1 << 17,
           scaled;
    return aqi_mul_size(stored_bytes, ratio, &scaled) ? scaled : SIZE_MAX;
}

/* What a page may make us allocate, with room for small pages of long runs. */
static size_t aqi_page_budget(const aq_column *c, size_t stored_bytes) {
    size_t budget = AQI_MAX((size_t)64 << 20, aqi_expansion(c, stored_bytes));
    if (c->file->max_page_bytes != 0) return c->file->max_page_bytes;
    return AQI_MIN(budget, (size_t)INT32_MAX);
}

static aq_status aqi_page_alloc(const aq_column *c, const aqi_page *page, size_t count,
                                size_t width, void **out, aq_error *err) {
    size_t bytes, budget = aqi_page_budget(c, (size_t)page->header.compressed_page_size);
    *out = NULL;
    if (!aqi_mul_size(count, width, &bytes) || bytes > budget)
        return aqi_fail_at(err, AQ_E_LIMIT, page->header_offset,
                           "page of %d stored bytes would take over %zu in memory; "
                           "raise max_page_bytes if the file is to be trusted",
                           (int)page->header.compressed_page_size, budget);
    return aqi_arena_take(page->arena, bytes, out, err);
}

/* Parses the page header at c->at. From a mapping in place; else through a growing
 * window in `windows`, where the slices of the header lie. */
static aq_status aqi_page_header_parse(const aq_column *c, aqi_arena *windows,
                                       aqi_page *page, aq_error *err) {
    const aqi_source *source = &c->file->source;
    size_t room =
        (size_t)AQI_MIN((uint64_t)(c->end - c->at), (uint64_t)AQI_MAX_PAGE_HEADER);
    size_t window = source->map != NULL ? room : AQI_MIN(room, (size_t)512);
    aqi_thrift_reader r;
    aq_status status;
    for (;; window = AQI_MIN(room, window * 8)) {
        const uint8_t *bytes = aqi_source_view(source, c->at);
        void *copy = NULL;
        if (bytes == NULL) {
            status = aqi_arena_take(windows, window, &copy, err);
            if (status == AQ_OK)
                status = aqi_source_read(source, c->at, copy, window, err);
            if (status != AQ_OK) return status;
            bytes = (const uint8_t *)copy;
        }
        r.in = aqi_cursor_make(bytes, window, c->at);
        r.err = err;
        status = aqi_thrift_read(&r, &aqi_page_header_type, &page->header);
        if (status == AQ_OK) break;
        if (window == room || status != AQ_E_FORMAT) return status;
    }
    aqi_error_clear(err);
    page->data_offset = aqi_offset(&r.in);
    return AQ_OK;
}

/* The page at c->at up to its data. What its header was read through is given back: a
 * chunk may have millions of headers. */
static aq_status aqi_page_header_read(aq_column *c, aqi_arena *arena, aqi_page *page,
                                      aq_error *err) {
    aqi_arena windows;
    aq_status status;
    memset(page, 0, sizeof *page);
    page->arena = arena;
    page->header_offset = c->at;
    aqi_arena_init(&windows, &c->file->allocator);
    status = aqi_page_header_parse(c, &windows, page, err);
    aqi_arena_deinit(&windows);
    if (status != AQ_OK) return status;
    if (page->header.compressed_page_size < 0 || page->header.uncompressed_page_size < 0)
        return aqi_fail_at(err, AQ_E_FORMAT, c->at, "page with a negative size");
    if (page->header.compressed_page_size > c->end - page->data_offset)
        return aqi_fail_at(err, AQ_E_FORMAT, c->at,
                           "page of %d bytes is longer than the rest of its column chunk",
                           (int)page->header.compressed_page_size);
    c->at = page->data_offset + page->header.compressed_page_size;
    return AQ_OK;
}

static aq_status aqi_page_compare_crc(const aqi_page *page, uint32_t crc, aq_error *err) {
    uint32_t want = (uint32_t)page->header.crc;
    if (crc == want) return AQ_OK;
    return aqi_fail_at(
        err, AQ_E_CHECKSUM, page->data_offset,
        "page has CRC-32 %08x, its header says %08x; the file is damaged, fetch "
        "it anew",
        (unsigned)crc, (unsigned)want);
}

static aq_status aqi_page_check_crc(const aqi_page *page, const uint8_t *stored,
                                    aq_error *err) {
    size_t bytes = (size_t)page->header.compressed_page_size;
    return aqi_page_compare_crc(page, ~aqi_crc32(UINT32_MAX, stored, bytes), err);
}

/* Decompresses stored[skip..] behind the first `skip` bytes, which are stored as they
 * are. The CRC-32 of all is compared when it is taken on the way. */
static aq_status aqi_page_decompress(const aq_column *c, aqi_page *page,
                                     const uint8_t *stored, size_t skip, aq_error *err) {
    size_t in = (size_t)page->header.compressed_page_size - skip;
    size_t out = (size_t)page->header.uncompressed_page_size - skip, declared;
    size_t values_at = page->values_at, lead;
    int32_t codec = c->meta->codec;
    uint32_t crc = UINT32_MAX;
    bool ok = true;
    uint8_t *dst;
    void *buffer;
    aq_status status;
    if (!aqi_codec_available(c->meta->codec))
        return aqi_codec_missing(c->meta->codec, err);
    declared =
        in == 0 ? 0 : aqi_codec_declared_size(c->meta->codec, stored + skip, in, out);
    if (declared != SIZE_MAX && declared != out)
        return aqi_fail_at(err, AQ_E_FORMAT, page->data_offset,
                           "%s data of %zu bytes in a page that claims %zu",
                           aq_codec_name(c->meta->codec), declared, out);
    /* PLAIN values of fixed width end where the page does: so they can be aligned. */
    if (page->encoding == AQ_PLAIN) values_at = skip + out;
    lead = (16 - values_at % 16) % 16;
    status = aqi_page_alloc(c, page, lead + skip + out, 1, &buffer, err);
    if (status != AQ_OK) return status;
    dst = (uint8_t *)buffer + lead;
    if (skip > 0) memcpy(dst, stored, skip);
    if (page->crc_with_codec) {
        crc = aqi_crc32(crc, stored, skip);
        ok = aqi_decompress_checked(codec, stored + skip, in, dst + skip, out, &crc);
    } else if (in > 0) {
        ok = aqi_decompress(codec, stored + skip, in, dst + skip, out);
    }
    if (!ok)
        return aqi_fail_at(err, AQ_E_FORMAT, page->data_offset, "damaged %s data",
                           aq_codec_name(c->meta->codec));
    page->data = dst;
    page->bytes = skip + out;
    page->mapped = false;
    return page->crc_with_codec ? aqi_page_compare_crc(page, ~crc, err) : AQ_OK;
}

/* Enters the bytes of a page, which are about to be read, into the page table in one
 * call: a fault for every few of them costs as much as SNAPPY itself. */
static void aqi_source_fault_in(const aqi_source *s, int64_t offset, size_t bytes) {
#if !defined(AQ_NO_MMAP) && defined(MADV_POPULATE_READ)
    size_t skip = (size_t)offset % (size_t)sysconf(_SC_PAGESIZE);
    const uint8_t *at = s->map + offset - skip;
    int code = errno;
    void *p;
    if (!s->unmap || bytes < (size_t)64 << 10) return;
    memcpy(&p, &at, sizeof p); /* madvise takes a pointer to non-const */
    if (madvise(p, bytes + skip, MADV_POPULATE_READ) != 0) errno = code;
#else
    (void)s;
    (void)offset;
    (void)bytes;
#endif
}

/* Brings page->data: the mapping itself, or bytes read, verified and decompressed. */
static aq_status aqi_page_load(const aq_column *c, aqi_page *page, aq_error *err) {
    size_t bytes = (size_t)page->header.compressed_page_size, plain = page->plain_bytes;
    bool compressed = page->compressed;
    const uint8_t *stored = aqi_source_view(&c->file->source, page->data_offset);
    bool mapped = stored != NULL, check;
    void *copy;
    aq_status status = AQ_OK;
    if (!compressed &&
        page->header.uncompressed_page_size != page->header.compressed_page_size)
        return aqi_fail_at(err, AQ_E_FORMAT, page->header_offset,
                           "uncompressed page with two different sizes, %d and %d",
                           (int)page->header.compressed_page_size,
                           (int)page->header.uncompressed_page_size);
    if (plain > bytes || plain > (size_t)page->header.uncompressed_page_size)
        return aqi_fail_at(err, AQ_E_FORMAT, page->header_offset,
                           "page smaller than its levels");
    if (!mapped) {
        status = aqi_page_alloc(c, page, bytes, 1, &copy, err);
        if (status == AQ_OK)
            status =
                aqi_source_read(&c->file->source, page->data_offset, copy, bytes, err);
        stored = (const uint8_t *)copy;
    } else if (compressed) {
        aqi_source_fault_in(&c->file->source, page->data_offset, bytes);
    }
    check = AQI_HAS(&page->header, aqi_page_header, crc) &&
            (c->verify || (!c->file->skip_checksums && (compressed || !mapped)));
    page->crc_with_codec =
        check && compressed &&
        aqi_codec_checks(c->meta->codec, bytes - plain,
                         (size_t)page->header.uncompressed_page_size - plain);
    if (status == AQ_OK && check && !page->crc_with_codec)
        status = aqi_page_check_crc(page, stored, err);
    if (status != AQ_OK) return status;
    page->data = stored;
    page->bytes = bytes;
    page->mapped = mapped;
    if (compressed) status = aqi_page_decompress(c, page, stored, plain, err);
    /* Whatever else is wrong with damaged bytes: that they are damaged comes first. */
    if (status != AQ_OK && page->crc_with_codec &&
        aqi_page_check_crc(page, stored, err) != AQ_OK)
        return AQ_E_CHECKSUM;
    return status;
}

/* Room for `count` aq_bytes, or values, of a page. */
static aq_status aqi_page_room(const aq_column *c, const aqi_page *page, size_t count,
                               void **out, aq_error *err) {
    return aqi_page_alloc(
        c, page, count, aqi_value_bytes(c->field->type, c->field->type_length), out, err);
}

static aq_status aqi_page_short(const aqi_page *page, size_t count, aq_error *err) {
    return aqi_fail_at(
        err, AQ_E_FORMAT, page->header_offset,
        "%s page does not hold the %zu values that it claims, or has a value "
        "outside its bounds",
        aq_encoding_name(page->encoding), count);
}

/* PLAIN: fixed-width values stay where they are unless they must be aligned, swapped. */
static aq_status aqi_plain_values(const aq_column *c, const aqi_page *page,
                                  aqi_cursor *in, size_t count, const void **out,
                                  aq_error *err) {
    aq_physical_type type = c->field->type;
    size_t width = aqi_value_bytes(type, c->field->type_length), bytes = 0;
    size_t swap = aqi_swap_width(type);
    bool views = type == AQ_BOOLEAN || type == AQ_BYTE_ARRAY, ok = true;
    void *dst = NULL;
    aq_status status;
    if (views ? count / (type == AQ_BOOLEAN ? 8 : 1) > aqi_remaining(in)
              : !aqi_mul_size(count, width, &bytes) || bytes > aqi_remaining(in))
        return aqi_page_short(page, count, err);
    if (!views && (!AQI_BIG_ENDIAN || swap == 1) &&
        (page->mapped || aqi_alignment_of(in->p) >= swap)) {
        *out = in->p;
        return AQ_OK;
    }
    status = aqi_page_room(c, page, count, &dst, err);
    if (status != AQ_OK) return status;
    if (type == AQ_BOOLEAN) {
        ok = aqi_plain_booleans(in, (uint8_t *)dst, count);
    } else if (type == AQ_BYTE_ARRAY) {
        ok = aqi_plain_byte_arrays(in, (aq_bytes *)dst, count);
    } else {
        aqi_copy_le(dst, in->p, bytes / swap, swap);
    }
    *out = dst;
    return ok ? AQ_OK : aqi_page_short(page, count, err);
}

static aq_status aqi_dictionary_page_values(const aq_column *c, const aqi_page *page,
                                            aqi_cursor *in, size_t count,
                                            const void **out, aq_error *err) {
    size_t width = aqi_value_bytes(c->field->type, c->field->type_length);
    void *dst = NULL;
    aq_status status;
    if (!c->has_dictionary)
        return aqi_fail_at(err, AQ_E_FORMAT, page->header_offset,
                           "page of dictionary indices without a dictionary page");
    status = aqi_page_room(c, page, count, &dst, err);
    if (status != AQ_OK) return status;
    *out = dst;
    if (aqi_dictionary_values(in, c->dictionary, c->dictionary_entries, width, dst,
                              count))
        return AQ_OK;
    return aqi_fail_at(err, AQ_E_FORMAT, page->header_offset,
                       "page does not hold the %zu indices that it claims, or has one "
                       "outside its dictionary of %zu",
                       count, c->dictionary_entries);
}

/* DELTA_BYTE_ARRAY, to byte arrays or, joined without gaps, to fixed-length ones. */
static aq_status aqi_prefixed_values(const aq_column *c, const aqi_page *page,
                                     aqi_cursor *in, size_t count, const void **out,
                                     aq_error *err) {
    bool fixed = c->field->type == AQ_FIXED_LEN_BYTE_ARRAY;
    void *prefix, *suffix, *dst, *room;
    size_t total, i;
    aq_status status = aqi_page_alloc(c, page, count, sizeof(aq_bytes), &prefix, err);
    if (status == AQ_OK)
        status = aqi_page_alloc(c, page, count, sizeof(aq_bytes), &suffix, err);
    if (status == AQ_OK)
        status = aqi_page_alloc(c, page, count, sizeof(aq_bytes), &dst, err);
    if (status != AQ_OK) return status;
    if (count > 0 && (!aqi_delta_sizes(in, (aq_bytes *)prefix, count) ||
                      !aqi_delta_byte_arrays(in, (aq_bytes *)suffix, count)))
        return aqi_page_short(page, count, err);
    total = aqi_prefixed_bytes((aq_bytes *)prefix, (aq_bytes *)suffix, count);
    if (total == SIZE_MAX) return aqi_page_short(page, count, err);
    status = aqi_page_alloc(c, page, total, 1, &room, err);
    if (status != AQ_OK) return status;
    aqi_prefixed_join((aq_bytes *)prefix, (aq_bytes *)suffix, count, (uint8_t *)room,
                      (aq_bytes *)dst);
    for (i = 0; fixed && i < count; i++) {
        if (((aq_bytes *)dst)[i].size != (size_t)c->field->type_length)
            return aqi_page_short(page, count, err);
    }
    *out = fixed ? room : dst;
    return AQ_OK;
}

static aq_status aqi_page_unsupported(const aq_column *c, const aqi_page *page,
                                      aq_error *err) {
    (void)c;
    return aqi_fail_at(err, AQ_E_UNSUPPORTED, page->header_offset,
                       "page encoding %s (%d) is not known for this type",
                       aq_encoding_name(page->encoding), (int)page->encoding);
}

/* The encodings that write into fresh memory: DELTA, BYTE_STREAM_SPLIT, RLE booleans. */
static aq_status aqi_encoded_values(const aq_column *c, const aqi_page *page,
                                    aqi_cursor *in, size_t count, const void **out,
                                    aq_error *err) {
    aq_physical_type type = c->field->type;
    size_t width = aqi_value_bytes(type, c->field->type_length), bytes = 0;
    bool split = page->encoding == AQ_BYTE_STREAM_SPLIT, ok;
    void *dst = NULL;
    aq_status status;
    if (split && (!aqi_mul_size(count, width, &bytes) || bytes > aqi_remaining(in)))
        return aqi_page_short(page, count, err);
    status = aqi_page_room(c, page, count, &dst, err);
    if (status != AQ_OK) return status;
    *out = dst;
    if (page->encoding == AQ_DELTA_BINARY_PACKED) {
        ok = aqi_delta_ints(in, dst, count, width);
    } else if (page->encoding == AQ_DELTA_LENGTH_BYTE_ARRAY) {
        ok = aqi_delta_byte_arrays(in, (aq_bytes *)dst, count);
    } else if (page->encoding == AQ_RLE) {
        ok = aqi_rle_booleans(in, (uint8_t *)dst, count);
    } else {
        ok = true;
        aqi_byte_stream_join(in->p, count, width, (uint8_t *)dst);
        if (AQI_BIG_ENDIAN)
            aqi_copy_le(dst, dst, bytes / aqi_swap_width(type), aqi_swap_width(type));
    }
    return ok ? AQ_OK : aqi_page_short(page, count, err);
}

/* `count` values in `in` to *out, by the page's encoding. */
static aq_status aqi_page_values(const aq_column *c, const aqi_page *page, aqi_cursor *in,
                                 size_t count, const void **out, aq_error *err) {
    aq_physical_type type = c->field->type;
    bool integer = type == AQ_INT32 || type == AQ_INT64, known = false;
    bool fixed = integer || type == AQ_FLOAT || type == AQ_DOUBLE ||
                 type == AQ_FIXED_LEN_BYTE_ARRAY;
    switch (page->encoding) {
    case AQ_PLAIN:
        return aqi_plain_values(c, page, in, count, out, err);
    case AQ_PLAIN_DICTIONARY:
    case AQ_RLE_DICTIONARY:
        return aqi_dictionary_page_values(c, page, in, count, out, err);
    case AQ_DELTA_BYTE_ARRAY:
        if (type == AQ_BYTE_ARRAY || type == AQ_FIXED_LEN_BYTE_ARRAY)
            return aqi_prefixed_values(c, page, in, count, out, err);
        break;
    case AQ_DELTA_BINARY_PACKED:
        known = integer;
        break;
    case AQ_DELTA_LENGTH_BYTE_ARRAY:
        known = type == AQ_BYTE_ARRAY;
        break;
    case AQ_RLE:
        known = type == AQ_BOOLEAN;
        break;
    case AQ_BYTE_STREAM_SPLIT:
        known = fixed;
        break;
    default:
        break;
    }
    if (known) return aqi_encoded_values(c, page, in, count, out, err);
    return aqi_page_unsupported(c, page, err);
}

static aq_status aqi_dictionary_load(aq_column *c, aqi_page *page, aq_error *err) {
    const aqi_dictionary_page *d = &page->header.dictionary_page_header;
    aqi_cursor in;
    aq_status status;
    if (!AQI_HAS(&page->header, aqi_page_header, dictionary_page_header) ||
        d->num_values < 0)
        return aqi_fail_at(err, AQ_E_FORMAT, page->header_offset,
                           "dictionary page without a valid header");
    if (c->has_dictionary || c->levels_left != c->meta->num_values)
        return aqi_fail_at(err, AQ_E_FORMAT, page->header_offset,
                           "dictionary page is not the first of its chunk");
    if (d->encoding != AQ_PLAIN && d->encoding != AQ_PLAIN_DICTIONARY)
        return aqi_fail_at(err, AQ_E_FORMAT, page->header_offset,
                           "dictionary page with encoding %s",
                           aq_encoding_name(d->encoding));
    page->num_values = d->num_values;
    page->encoding = AQ_PLAIN;
    page->arena = &c->kept;
    page->compressed = c->meta->codec != AQ_UNCOMPRESSED;
    status = aqi_page_load(c, page, err);
    if (status != AQ_OK) return status;
    in = aqi_cursor_make(page->data, page->bytes, page->data_offset);
    status = aqi_page_values(c, page, &in, (size_t)d->num_values,
                             &c->dictionary, err);
    c->dictionary_entries = (size_t)d->num_values;
    c->has_dictionary = status == AQ_OK;
    return status;
}

/* Definition or repetition levels of a page. */
typedef struct aqi_levels {
    const char *what;
    bool repetition;
    uint32_t max;
    bool packed;         /* BIT_PACKED, else RLE */
    const uint8_t *data; /* encoded */
    size_t bytes;
    aqi_level_counts counts;
    const uint8_t *values; /* NULL: constant, see aq_span */
    bool long_lists;       /* not unpacked: the page can be taken apart by them */
} aqi_levels;

/* Takes a level stream from the page: behind a 4-byte length in V1, of `v2_bytes` in V2,
 * as many bytes as BIT_PACKED levels take. */
static aq_status aqi_levels_take(const aqi_page *page, aqi_cursor *in, bool v2,
                                 int32_t v2_bytes, aqi_levels *levels, aq_error *err) {
    size_t bytes = (size_t)v2_bytes;
    bool fits = true;
    if (!v2 && levels->max == 0) return AQ_OK;
    if (levels->packed) {
        uint64_t bits = (uint64_t)page->num_values * aqi_bits_needed(levels->max);
        fits = (bits + 7) / 8 <= aqi_remaining(in);
        bytes = fits ? (size_t)((bits + 7) / 8) : 0;
    } else if (!v2) {
        fits = aqi_remaining(in) >= 4;
        bytes = fits ? aqi_load_le32(in->p) : 0;
        in->p += fits ? 4 : 0;
    }
    if (!fits || bytes > aqi_remaining(in))
        return aqi_fail_at(err, AQ_E_FORMAT, page->data_offset, "%s levels cut off",
                           levels->what);
    levels->data = in->p;
    levels->bytes = bytes;
    in->p += bytes;
    return AQ_OK;
}

static bool aqi_levels_walk(const aqi_page *page, aqi_levels *levels, uint8_t *dst) {
    int64_t n = page->num_values;
    return levels->packed ? aqi_levels_scan_packed(levels->data, levels->bytes,
                                                   levels->max, n, dst, &levels->counts)
                          : aqi_levels_scan(levels->data, levels->bytes, levels->max, n,
                                            dst, &levels->counts);
}

static aq_status aqi_levels_unpack(const aq_column *c, const aqi_page *page,
                                   aqi_levels *levels, aq_error *err) {
    void *dst = NULL;
    aq_status status = aqi_page_alloc(c, page, (size_t)page->num_values, 1, &dst, err);
    if (status != AQ_OK) return status;
    aqi_levels_walk(page, levels, (uint8_t *)dst);
    levels->values = (const uint8_t *)dst;
    return AQ_OK;
}

#define AQI_LONG_LIST 1024 /* mean values from which a list gets a span of its own */

/* Checks and counts a level stream. Levels that are all the maximum, those of one list
 * (0, max, max...) and those of long lists are not unpacked. */
static aq_status aqi_levels_decode(const aq_column *c, const aqi_page *page,
                                   aqi_levels *levels, aq_error *err) {
    int64_t n = page->num_values;
    const aqi_level_counts *counts = &levels->counts;
    /* So many bytes are hardly a few long runs: they are walked once, and kept. */
    bool once = levels->bytes >= (size_t)n / 64;
    void *dst = NULL;
    aq_status status = AQ_OK;
    if (once) status = aqi_page_alloc(c, page, (size_t)n, 1, &dst, err);
    if (status != AQ_OK) return status;
    if (!aqi_levels_walk(page, levels, (uint8_t *)dst))
        return aqi_fail_at(err, AQ_E_FORMAT, page->data_offset,
                           "%s levels are cut off or above %u", levels->what,
                           levels->max);
    if (levels->repetition ? counts->zeros == 1 && counts->first == 0 &&
                                 counts->maxima == n - 1
                           : counts->maxima == n)
        return AQ_OK;
    levels->long_lists = levels->repetition && !levels->packed && levels->max == 1 &&
                         counts->first == 0 && n / AQI_LONG_LIST >= counts->zeros;
    if (!levels->long_lists && !once) return aqi_levels_unpack(c, page, levels, err);
    levels->values = levels->long_lists ? NULL : (const uint8_t *)dst;
    return AQ_OK;
}

/* Levels of a data page to the span; `in` is left at the values. */
static aq_status aqi_page_levels(const aq_column *c, aqi_page *page, aqi_cursor *in,
                                 aq_span *span, aq_error *err) {
    const aqi_data_page *h1 = &page->header.data_page_header;
    const aqi_data_page_v2 *h2 = &page->header.data_page_header_v2;
    aqi_levels rep = {"repetition", true, 0, false, NULL, 0, {0, 0, 0}, NULL, false};
    aqi_levels def = {"definition", false, 0, false, NULL, 0, {0, 0, 0}, NULL, false};
    bool v2 = page->v2;
    aq_status status;
    rep.max = c->field->max_rep;
    def.max = c->field->max_def;
    rep.packed = !v2 && h1->repetition_level_encoding == AQ_BIT_PACKED;
    def.packed = !v2 && h1->definition_level_encoding == AQ_BIT_PACKED;
    span->num_levels = page->num_values;
    span->num_values = page->num_values;
    span->num_rows = page->num_values;
    status = aqi_levels_take(page, in, v2, h2->repetition_levels_byte_length, &rep, err);
    if (status == AQ_OK)
        status =
            aqi_levels_take(page, in, v2, h2->definition_levels_byte_length, &def, err);
    if (status == AQ_OK && rep.max > 0) {
        status = aqi_levels_decode(c, page, &rep, err);
        span->num_rows = rep.counts.zeros;
    }
    if (status == AQ_OK && def.max > 0) {
        status = aqi_levels_decode(c, page, &def, err);
        span->num_values = def.counts.maxima;
        span->def_levels = def.values;
    }
    if (status == AQ_OK && rep.long_lists && def.values == NULL) {
        page->lists = rep.data;
        page->lists_bytes = rep.bytes;
    } else if (status == AQ_OK && rep.long_lists) {
        status = aqi_levels_unpack(c, page, &rep, err);
    }
    if (status != AQ_OK) return status;
    span->rep_levels = rep.values;
    span->single_list = rep.max > 0 && rep.values == NULL;
    if (page->first && rep.counts.first != 0)
        return aqi_fail_at(err, AQ_E_FORMAT, page->data_offset,
                           "first repetition level is %u, not 0", rep.counts.first);
    if (v2 && h2->num_rows != span->num_rows)
        return aqi_fail_at(err, AQ_E_FORMAT, page->header_offset,
                           "page claims %d rows, its levels %lld", (int)h2->num_rows,
                           (long long)span->num_rows);
    return AQ_OK;
}

/* Levels and values of a loaded data page to a span. */
static aq_status aqi_page_decode(const aq_column *c, aqi_page *page, aq_span *span,
                                 aq_error *err) {
    aqi_cursor in = aqi_cursor_make(page->data, page->bytes, page->data_offset);
    aq_physical_type type = c->field->type;
    aq_status status = aqi_page_levels(c, page, &in, span, err);
    page->values_at = (size_t)(in.p - page->data);
    if (status == AQ_OK)
        status =
            aqi_page_values(c, page, &in, (size_t)span->num_values, &span->values, err);
    if (status != AQ_OK) return status;
    /* Byte arrays always point into the page; fixed-width values may have been copied. */
    span->mapped = page->mapped && page->encoding == AQ_PLAIN && type != AQ_BOOLEAN &&
                   (type == AQ_BYTE_ARRAY || (const uint8_t *)span->values == in.p);
    return AQ_OK;
}

/* Where the bytes of the first value of a span lie. */
static const uint8_t *aqi_span_bytes(const aq_span *span, bool arrays) {
    if (arrays && span->num_values > 0) return ((const aq_bytes *)span->values)[0].data;
    return (const uint8_t *)span->values;
}

/* Where the value bytes of a finished span lie, and how aligned they are. */
static void aqi_span_locate(const aq_column *c, const aqi_page *page, aq_span *span) {
    const uint8_t *p = aqi_span_bytes(span, c->field->type == AQ_BYTE_ARRAY);
    span->alignment = aqi_alignment_of(p);
    span->file_offset = page->header_offset;
    if (span->mapped) span->file_offset = page->data_offset + (p - page->data);
    if (span->values == NULL)
        span->values = page->data; /* not NULL: that means the end */
}

static void aqi_lists_init(aqi_list_cutter *l, const aq_column *c, const aqi_page *page,
                           const aq_span *span) {
    l->page = *span;
    l->width = aqi_value_bytes(c->field->type, c->field->type_length);
    l->arrays = c->field->type == AQ_BYTE_ARRAY;
    aqi_rle_init(&l->levels, page->lists, page->lists_bytes, 1);
}

/* Levels up to the next list's first one, or to the page's end. They were checked. */
static int64_t aqi_lists_length(aqi_list_cutter *l) {
    aqi_rle *r = &l->levels;
    int64_t n = 0;
    while (n < l->page.num_levels) {
        uint32_t level = r->value;
        if (r->run_left == 0) {
            if (!aqi_rle_next_run(r)) break;
            l->bit = 0;
            continue;
        }
        if (r->packed) level = (uint32_t)r->codes.src[l->bit / 8] >> (l->bit % 8) & 1u;
        if (level == 0 && n > 0) break;
        if (r->packed || level == 0) {
            n++;
            l->bit++;
            r->run_left--;
        } else {
            uint64_t rest = (uint64_t)(l->page.num_levels - n);
            n += (int64_t)AQI_MIN(r->run_left, rest);
            r->run_left -= AQI_MIN(r->run_left, rest);
        }
    }
    return n;
}

/* The next list of the page as a span. */
static void aqi_lists_next(aqi_list_cutter *l, aq_span *out) {
    const uint8_t *at = aqi_span_bytes(&l->page, l->arrays);
    int64_t n = aqi_lists_length(l);
    *out = l->page;
    out->num_levels = out->num_values = n;
    out->num_rows = 1;
    out->single_list = true;
    out->alignment = aqi_alignment_of(at);
    l->page.num_levels -= n;
    l->page.num_values -= n;
    l->page.num_rows--;
    l->page.values = (const uint8_t *)l->page.values + (size_t)n * l->width;
    if (l->page.mapped && l->page.num_values > 0)
        l->page.file_offset += aqi_span_bytes(&l->page, l->arrays) - at;
}

static bool aqi_level_encoding_known(int32_t encoding) {
    return encoding == AQ_RLE || encoding == AQ_BIT_PACKED;
}

/* Header fields that the two versions of data pages share. */
static aq_status aqi_data_page_prepare(const aq_column *c, aqi_page *page,
                                       aq_error *err) {
    const aqi_page_header *h = &page->header;
    const aqi_data_page *h1 = &h->data_page_header;
    const aqi_data_page_v2 *h2 = &h->data_page_header_v2;
    page->v2 = h->type == AQI_PAGE_DATA_V2;
    page->compressed = c->meta->codec != AQ_UNCOMPRESSED;
    if (page->v2 ? !AQI_HAS(h, aqi_page_header, data_page_header_v2)
                 : !AQI_HAS(h, aqi_page_header, data_page_header))
        return aqi_fail_at(err, AQ_E_FORMAT, page->header_offset,
                           "data page without its header");
    page->num_values = page->v2 ? h2->num_values : h1->num_values;
    page->encoding = page->v2 ? h2->encoding : h1->encoding;
    if (page->num_values < 0)
        return aqi_fail_at(err, AQ_E_FORMAT, page->header_offset,
                           "page with a negative number of values");
    if (!page->v2 && ((c->field->max_rep > 0 &&
                       !aqi_level_encoding_known(h1->repetition_level_encoding)) ||
                      (c->field->max_def > 0 &&
                       !aqi_level_encoding_known(h1->definition_level_encoding))))
        return aqi_fail_at(err, AQ_E_UNSUPPORTED, page->header_offset,
                           "levels are encoded neither as RLE nor as BIT_PACKED");
    if (!page->v2) return AQ_OK;
    if (h2->definition_levels_byte_length < 0 || h2->repetition_levels_byte_length < 0)
        return aqi_fail_at(err, AQ_E_FORMAT, page->header_offset,
                           "levels with a negative size");
    page->plain_bytes = (size_t)h2->definition_levels_byte_length +
                        (size_t)h2->repetition_levels_byte_length;
    if (AQI_HAS(h2, aqi_data_page_v2, is_compressed) && !h2->is_compressed)
        page->compressed = false;
    return AQ_OK;
}

/* Finds the next data page that holds values, for decoding into `arena`; dictionary and
 * index pages on the way are taken in. page->num_values is 0 at the end of the chunk. */
static aq_status aqi_column_find_page(aq_column *c, aqi_arena *arena, aqi_page *page,
                                      aq_error *err) {
    int32_t type;
    aq_status status;
    memset(page, 0, sizeof *page);
    while (c->levels_left > 0) {
        if (c->at >= c->end)
            return aqi_fail_at(err, AQ_E_FORMAT, c->at,
                               "column chunk ends %lld values before its count",
                               (long long)c->levels_left);
        status = aqi_page_header_read(c, arena, page, err);
        if (status != AQ_OK) return status;
        type = page->header.type;
        if (type == AQI_PAGE_DICTIONARY) {
            status = aqi_dictionary_load(c, page, err);
        } else if (type == AQI_PAGE_DATA || type == AQI_PAGE_DATA_V2) {
            status = aqi_data_page_prepare(c, page, err);
            if (status != AQ_OK) return status;
            page->first = c->levels_left == c->meta->num_values;
            page->excess = page->num_values > c->levels_left;
            page->values_at = c->values_at;
            c->levels_left -= AQI_MIN(page->num_values, c->levels_left);
            if (page->num_values > 0) return AQ_OK;
        } else if (type != AQI_PAGE_INDEX) {
            aqi_log(&c->file->log, "page of unknown type %d at offset %lld skipped",
                    (int)type, (long long)page->header_offset);
        }
        if (status != AQ_OK) return status;
    }
    page->num_values = 0;
    return AQ_OK;
}

/* Loads and decodes a page that was found. Touches nothing of the column. */
static aq_status aqi_page_finish(const aq_column *c, aqi_page *page, aq_span *span,
                                 aq_error *err) {
    aq_status status;
    memset(span, 0, sizeof *span);
    status = aqi_page_load(c, page, err);
    if (status == AQ_OK) status = aqi_page_decode(c, page, span, err);
    if (status == AQ_OK) aqi_span_locate(c, page, span);
    return status;
}

/* Values and rows of the pages must be those of the chunk and the row group.
 * page->num_values is 0 at the end. */
static aq_status aqi_column_count_rows(aq_column *c, const aqi_page *page,
                                       const aq_span *span, aq_error *err) {
    if (page->num_values == 0 && c->rows_left != 0)
        return aqi_fail_at(err, AQ_E_FORMAT, c->at, "column chunk has %lld rows too few",
                           (long long)c->rows_left);
    if (page->excess || span->num_rows > c->rows_left)
        return aqi_fail_at(err, AQ_E_FORMAT, page->header_offset,
                           "pages hold more values or rows than the column chunk");
    c->rows_left -= span->num_rows;
    c->values_at = page->values_at;
    return AQ_OK;
}

/* The next data page to a span, in memory of `arena`. values is NULL at the end. */
static aq_status aqi_column_step(aq_column *c, aqi_arena *arena, aqi_page *page,
                                 aq_span *span, aq_error *err) {
    aq_status status;
    memset(span, 0, sizeof *span);
    status = aqi_column_find_page(c, arena, page, err);
    if (status == AQ_OK && page->num_values > 0)
        status = aqi_page_finish(c, page, span, err);
    return status == AQ_OK ? aqi_column_count_rows(c, page, span, err) : status;
}

static aq_status aqi_column_located(const aq_column *c, aq_status status, aq_error *err) {
    return aqi_error_in_column(err, status, c->row_group, c->column,
                               c->file->schema.paths[c->column]);
}

/* Small pages can stand for many values: what a chunk may hold in memory is bounded. */
static size_t aqi_column_budget(const aq_column *c) {
    if (c->file->max_column_bytes != 0) return c->file->max_column_bytes;
    return AQI_MAX((size_t)128 << 20, aqi_expansion(c, (size_t)(c->end - c->at)));
}

aq_status aq_column_open(const aq_parquet *file, int32_t row_group, int32_t column,
                         aq_column **out_column, aq_error *err) {
    aqi_column_chunk chunk;
    aq_column *c;
    aq_status status;
    aqi_error_clear(err);
    *out_column = NULL;
    status = aqi_chunk_find(file, row_group, column, &chunk, err);
    if (status != AQ_OK) return status;
    c = (aq_column *)aqi_alloc(&file->allocator, sizeof *c);
    if (c == NULL) return aqi_fail_nomem(err, sizeof *c);
    memset(c, 0, sizeof *c);
    c->file = file;
    c->field = &file->schema.fields[file->schema.leaves[column]];
    c->chunk = chunk;
    c->meta = &c->chunk.meta_data;
    c->row_group = row_group;
    c->column = column;
    c->at = aqi_chunk_start(c->meta);
    c->levels_left = c->meta->num_values;
    c->end = c->at; /* offsets of an empty chunk mean nothing: they were not checked */
    if (c->levels_left > 0)
        c->end = AQI_MIN(c->at + c->meta->total_compressed_size + AQI_CHUNK_SLACK,
                         file->data_end);
    c->rows_left = aqi_row_group_at(file, row_group)->num_rows;
    aqi_arena_init(&c->kept, &file->allocator);
    aqi_arena_limit(&c->kept, aqi_column_budget(c), "max_column_bytes");
    aqi_arena_init(&c->page, &file->allocator);
    *out_column = c;
    return AQ_OK;
}

void aq_column_close(aq_column *column) {
    aq_allocator a;
    if (column == NULL) return;
    a = column->file->allocator;
    aqi_arena_deinit(&column->kept);
    aqi_arena_deinit(&column->page);
    aqi_free(&a, column, sizeof *column);
}

aq_status aq_column_next(aq_column *column, aq_span *out_span, aq_error *err) {
    aqi_page page;
    aq_status status;
    aqi_error_clear(err);
    if (column->lists.page.num_levels > 0) {
        aqi_lists_next(&column->lists, out_span);
        return AQ_OK;
    }
    aqi_arena_reset(&column->page);
    status = aqi_column_step(column, &column->page, &page, out_span, err);
    if (status != AQ_OK) memset(out_span, 0, sizeof *out_span);
    if (status != AQ_OK || page.lists == NULL)
        return aqi_column_located(column, status, err);
    aqi_lists_init(&column->lists, column, &page, out_span);
    aqi_lists_next(&column->lists, out_span);
    return AQ_OK;
}

/* Keeps a span until close. */
static aq_status aqi_column_keep_span(aq_column *c, const aq_span *span, aq_error *err) {
    void *p = c->spans;
    aq_status status;
    if ((c->num_spans & (c->num_spans - 1)) ==
        0) { /* a power of two is full: double it */
        size_t capacity = AQI_MAX(c->num_spans * 2, (size_t)1);
        status = aqi_arena_alloc(&c->kept, capacity * sizeof *span, &p, err);
        if (status != AQ_OK) return status;
        if (c->num_spans > 0) memcpy(p, c->spans, c->num_spans * sizeof *span);
        c->spans = (aq_span *)p;
    }
    c->spans[c->num_spans++] = *span;
    return AQ_OK;
}

/* Keeps the span of a page, or one of each of its lists. */
static aq_status aqi_column_keep(aq_column *c, const aqi_page *page, const aq_span *span,
                                 aq_error *err) {
    aqi_list_cutter lists;
    aq_span list;
    aq_status status = AQ_OK;
    if (page->lists == NULL) return aqi_column_keep_span(c, span, err);
    aqi_lists_init(&lists, c, page, span);
    while (status == AQ_OK && lists.page.num_levels > 0) {
        aqi_lists_next(&lists, &list);
        status = aqi_column_keep_span(c, &list, err);
    }
    return status;
}

/* No page was taken yet, or all are decoded. */
static aq_status aqi_column_check_whole(const aq_column *c, aq_error *err) {
    if (c->spans_done || (c->num_spans == 0 && c->levels_left == c->meta->num_values))
        return AQ_OK;
    return aqi_fail(err, AQ_E_STATE,
                    "pages were already taken from this aq_column; open another one");
}

static aq_status aqi_column_collect(aq_column *c, aq_error *err) {
    aqi_page page;
    aq_span span;
    aq_status status;
    for (;;) {
        status = aqi_column_step(c, &c->kept, &page, &span, err);
        if (status == AQ_OK && span.values == NULL) break;
        if (status == AQ_OK) status = aqi_column_keep(c, &page, &span, err);
        if (status != AQ_OK) return status;
    }
    c->spans_done = true;
    return AQ_OK;
}

#define AQI_DECODE_WAVE 64u

/* A page on its way through a task, with memory of its own. */
typedef struct aqi_page_task {
    aq_column *column;
    size_t index; /* of the column */
    int64_t first_level;
    aqi_page page;
    aqi_arena arena;
    aq_span span;
    aq_status status;
    aq_error err;
} aqi_page_task;

/* Pages found, of one column or several, not yet decoded. */
typedef struct aqi_decode_queue {
    const aq_tasks *tasks;
    aqi_page_task *waiting;
    size_t count, capacity;
    aq_span_fn visit; /* NULL: spans are kept */
    void *user;
    aqi_arena *workers; /* visiting: one for each, so that it stays in a core's cache */
    size_t num_workers;
    size_t next; /* page for the next free worker; atomic */
    bool failed; /* a page; atomic */
} aqi_decode_queue;

/* Hands out the span of a page, or one of each of its lists. */
static bool aqi_decode_visit(const aqi_decode_queue *q, const aqi_page_task *t) {
    int64_t level = t->first_level;
    aqi_list_cutter lists;
    aq_span list;
    bool go_on = true;
    if (t->page.lists == NULL) return q->visit(q->user, t->index, level, &t->span);
    aqi_lists_init(&lists, t->column, &t->page, &t->span);
    while (go_on && lists.page.num_levels > 0) {
        aqi_lists_next(&lists, &list);
        go_on = q->visit(q->user, t->index, level, &list);
        level += list.num_levels;
    }
    return go_on;
}

static void aqi_decode_page_task(void *arg, size_t index) {
    const aqi_decode_queue *q = (const aqi_decode_queue *)arg;
    aqi_page_task *t = &q->waiting[index];
    if (t->status != AQ_OK || t->page.num_values == 0) return;
    t->status = aqi_page_finish(t->column, &t->page, &t->span, &t->err);
    if (t->status == AQ_OK && q->visit != NULL && !aqi_decode_visit(q, t))
        t->status = aqi_fail(&t->err, AQ_E_CANCELLED, "cancelled");
}

/* A worker takes page after page until one fails: those before it were all taken. */
static void aqi_decode_worker(void *arg, size_t index) {
    aqi_decode_queue *q = (aqi_decode_queue *)arg;
    while (!__atomic_load_n(&q->failed, __ATOMIC_RELAXED)) {
        size_t i = __atomic_fetch_add(&q->next, 1, __ATOMIC_RELAXED);
        aqi_page_task *t = &q->waiting[i];
        if (i >= q->count) break;
        t->page.arena = &q->workers[index];
        aqi_arena_reset(t->page.arena);
        aqi_decode_page_task(q, i);
        if (t->status != AQ_OK) __atomic_store_n(&q->failed, true, __ATOMIC_RELAXED);
    }
}

/* Decodes what waits; then, in order, counts rows and keeps spans. The first failed page
 * gives the error. */
static aq_status aqi_decode_flush(aqi_decode_queue *q, aq_error *err) {
    aq_status status = AQ_OK;
    size_t i;
    q->next = 0;
    if (q->visit == NULL) aqi_run(q->tasks, q->count, aqi_decode_page_task, q);
    if (q->visit != NULL)
        aqi_run(q->tasks, AQI_MIN(q->count, q->num_workers), aqi_decode_worker, q);
    for (i = 0; i < q->count; i++) {
        aqi_page_task *t = &q->waiting[i];
        aq_column *c = t->column;
        if (q->visit == NULL) aqi_arena_absorb(&c->kept, &t->arena);
        if (status != AQ_OK) continue;
        status = t->status;
        if (status != AQ_OK && err != NULL) *err = t->err;
        if (status == AQ_OK) status = aqi_column_count_rows(c, &t->page, &t->span, err);
        if (status == AQ_OK && t->page.num_values > 0 && q->visit == NULL)
            status = aqi_column_keep(c, &t->page, &t->span, err);
        if (status == AQ_OK && t->page.num_values == 0) c->spans_done = q->visit == NULL;
        aqi_column_located(c, status, err);
    }
    q->count = 0;
    return status;
}

/* The next place in the queue. */
static aqi_page_task *aqi_decode_slot(aqi_decode_queue *q, aq_column *c) {
    aqi_page_task *t = &q->waiting[q->count++];
    memset(t, 0, sizeof *t);
    aqi_error_clear(&t->err);
    t->column = c;
    aqi_arena_init(&t->arena, &c->file->allocator);
    aqi_arena_share(&t->arena, &c->kept);
    return t;
}

/* Finds the pages of a column one by one and queues them; the last entry is its end. */
static aq_status aqi_decode_column(aqi_decode_queue *q, aq_column *c, size_t index,
                                   aq_error *err) {
    aq_status status = AQ_OK;
    bool more = !c->spans_done;
    while (more && status == AQ_OK) {
        aqi_page_task *t = aqi_decode_slot(q, c);
        t->index = index;
        t->first_level = c->meta->num_values - c->levels_left;
        t->status = aqi_column_find_page(c, &t->arena, &t->page, &t->err);
        t->page.arena = &t->arena;
        more = t->status == AQ_OK && t->page.num_values > 0;
        if (q->count == q->capacity || t->status != AQ_OK)
            status = aqi_decode_flush(q, err);
    }
    return status;
}

static aq_status aqi_columns_decode(aqi_decode_queue *q, aq_column *const *columns,
                                    size_t count, aq_error *err) {
    size_t i, slots = q->capacity * sizeof(aqi_page_task);
    size_t bytes = slots + q->num_workers * sizeof(aqi_arena);
    aq_allocator a;
    aq_status status = AQ_OK;
    for (i = 0; i < count && status == AQ_OK; i++)
        status = aqi_column_check_whole(columns[i], err);
    if (status != AQ_OK || count == 0) return status;
    a = columns[0]->file->allocator;
    q->waiting = (aqi_page_task *)aqi_alloc(&a, bytes);
    if (q->waiting == NULL) return aqi_fail_nomem(err, bytes);
    memset(q->waiting, 0, bytes);
    q->workers = (aqi_arena *)(void *)((uint8_t *)q->waiting + slots);
    for (i = 0; i < q->num_workers; i++) aqi_arena_init(&q->workers[i], &a);
    for (i = 0; i < count && status == AQ_OK; i++)
        status = aqi_decode_column(q, columns[i], i, err);
    if (status == AQ_OK) status = aqi_decode_flush(q, err);
    for (i = 0; i < q->num_workers; i++) aqi_arena_deinit(&q->workers[i]);
    aqi_free(&a, q->waiting, bytes);
    return status;
}

aq_status aq_columns_decode(aq_column *const *columns, size_t count,
                            const aq_tasks *tasks, aq_error *err) {
    aqi_decode_queue q;
    aqi_error_clear(err);
    memset(&q, 0, sizeof q);
    q.tasks = tasks;
    q.capacity = AQI_DECODE_WAVE;
    return aqi_columns_decode(&q, columns, count, err);
}

aq_status aq_columns_visit(aq_column *const *columns, size_t count, const aq_tasks *tasks,
                           aq_span_fn fn, void *user, aq_error *err) {
    uint32_t width = tasks == NULL ? 1 : tasks->width == 0 ? 8 : tasks->width;
    aqi_decode_queue q;
    size_t i;
    aqi_error_clear(err);
    memset(&q, 0, sizeof q);
    if (fn == NULL) return aqi_fail(err, AQ_E_ARG, "visit without a function");
    for (i = 0; i < count; i++) {
        if (columns[i]->num_spans > 0 || columns[i]->spans_done)
            return aqi_fail(err, AQ_E_STATE,
                            "pages were already taken from this aq_column; open another "
                            "one");
    }
    q.tasks = tasks;
    q.capacity = width == 1 ? 1 : AQI_DECODE_WAVE;
    q.num_workers = AQI_MIN(width, AQI_DECODE_WAVE);
    q.visit = fn;
    q.user = user;
    return aqi_columns_decode(&q, columns, count, err);
}

aq_status aq_column_spans(aq_column *column, const aq_span **out_spans, size_t *out_count,
                          aq_error *err) {
    aq_status status = AQ_OK;
    aqi_error_clear(err);
    *out_spans = NULL;
    *out_count = 0;
    status = aqi_column_check_whole(column, err);
    if (status == AQ_OK && !column->spans_done) status = aqi_column_collect(column, err);
    if (status != AQ_OK) return aqi_column_located(column, status, err);
    *out_spans = column->spans;
    *out_count = column->num_spans;
    return AQ_OK;
}

/* Copies levels of one span, or the constant ones that its NULL stands for. */
static void aqi_levels_join(uint8_t *dst, const uint8_t *levels, size_t n, uint8_t first,
                            uint8_t rest) {
    if (n == 0) return;
    if (levels != NULL) {
        memcpy(dst, levels, n);
    } else {
        memset(dst, rest, n);
        dst[0] = first;
    }
}

/* Joins all spans of the column into one. Values that follow each other in memory, as
 * those of the lists of a page do, stay where they are. */
static aq_status aqi_column_join(aq_column *c, aq_span *out, aq_error *err) {
    size_t width = aqi_value_bytes(c->field->type, c->field->type_length), i;
    size_t levels = 0, values = 0, bytes;
    uint8_t max_rep = c->field->max_rep, max_def = c->field->max_def;
    const uint8_t *first = (const uint8_t *)c->spans[0].values;
    void *joined = NULL, *rep = NULL, *def = NULL;
    bool nulls = false, in_place = true;
    aq_status status = AQ_OK;
    for (i = 0; i < c->num_spans; i++) {
        in_place = in_place && c->spans[i].mapped == c->spans[0].mapped &&
                   (const uint8_t *)c->spans[i].values == first + values * width;
        levels += (size_t)c->spans[i].num_levels;
        values += (size_t)c->spans[i].num_values;
        nulls = nulls || c->spans[i].def_levels != NULL;
    }
    if (!aqi_mul_size(values, width, &bytes)) return aqi_fail_nomem(err, values);
    if (!in_place) status = aqi_arena_take(&c->kept, bytes, &joined, err);
    if (status == AQ_OK && max_rep > 0)
        status = aqi_arena_take(&c->kept, levels, &rep, err);
    if (status == AQ_OK && nulls) status = aqi_arena_take(&c->kept, levels, &def, err);
    if (status != AQ_OK) return status;
    levels = 0;
    values = 0;
    for (i = 0; i < c->num_spans; i++) {
        const aq_span *s = &c->spans[i];
        size_t n = (size_t)s->num_levels;
        if (!in_place && s->num_values > 0)
            memcpy((uint8_t *)joined + values * width, s->values,
                   (size_t)s->num_values * width);
        if (rep != NULL)
            aqi_levels_join((uint8_t *)rep + levels, s->rep_levels, n, 0, max_rep);
        if (def != NULL)
            aqi_levels_join((uint8_t *)def + levels, s->def_levels, n,
                            s->def_levels != NULL ? s->def_levels[0] : max_def, max_def);
        out->num_rows += s->num_rows;
        levels += n;
        values += (size_t)s->num_values;
    }
    out->values = in_place ? first : (const uint8_t *)joined;
    out->num_values = (int64_t)values;
    out->num_levels = (int64_t)levels;
    out->rep_levels = (const uint8_t *)rep;
    out->def_levels = (const uint8_t *)def;
    out->file_offset = c->spans[0].file_offset;
    out->mapped = in_place && c->spans[0].mapped;
    out->alignment = in_place ? c->spans[0].alignment : aqi_alignment_of(joined);
    return AQ_OK;
}

aq_status aq_column_view(aq_column *column, aq_span *out_span, aq_error *err) {
    const aq_span *spans;
    size_t count;
    aq_status status = aq_column_spans(column, &spans, &count, err);
    memset(out_span, 0, sizeof *out_span);
    if (status != AQ_OK || count == 0) return status;
    if (count == 1) {
        *out_span = spans[0];
        return AQ_OK;
    }
    status = aqi_column_join(column, out_span, err);
    return aqi_column_located(column, status, err);
}

aq_status aq_column_next_page(aq_column *column, aq_page_info *out_page, aq_error *err) {
    const aqi_page_header *h;
    aqi_page page;
    aq_status status;
    aqi_error_clear(err);
    memset(out_page, 0, sizeof *out_page);
    aqi_arena_reset(&column->page);
    if (column->levels_left <= 0 || column->at >= column->end) return AQ_OK;
    status = aqi_page_header_read(column, &column->page, &page, err);
    if (status != AQ_OK) return aqi_column_located(column, status, err);
    h = &page.header;
    out_page->header_offset = page.header_offset;
    out_page->data_offset = page.data_offset;
    out_page->header_bytes = (int32_t)(page.data_offset - page.header_offset);
    out_page->compressed_bytes = h->compressed_page_size;
    out_page->uncompressed_bytes = h->uncompressed_page_size;
    out_page->type = h->type;
    out_page->has_crc = AQI_HAS(h, aqi_page_header, crc);
    out_page->crc = (uint32_t)h->crc;
    if (h->type == AQI_PAGE_DICTIONARY) {
        out_page->num_values = h->dictionary_page_header.num_values;
        out_page->encoding = (aq_encoding)h->dictionary_page_header.encoding;
    } else if (h->type == AQI_PAGE_DATA_V2) {
        out_page->num_values = h->data_page_header_v2.num_values;
        out_page->encoding = (aq_encoding)h->data_page_header_v2.encoding;
    } else if (h->type == AQI_PAGE_DATA) {
        out_page->num_values = h->data_page_header.num_values;
        out_page->encoding = (aq_encoding)h->data_page_header.encoding;
    }
    if (out_page->num_values < 0) {
        memset(out_page, 0, sizeof *out_page);
        status = aqi_fail_at(err, AQ_E_FORMAT, page.header_offset,
                             "page with a negative number of values");
        return aqi_column_located(column, status, err);
    }
    if (h->type != AQI_PAGE_DICTIONARY) column->levels_left -= out_page->num_values;
    return AQ_OK;
}

void aq_column_prefetch(const aq_column *column) {
    aqi_source_prefetch(&column->file->source, column->at, column->end - column->at);
}

aq_status aq_column_verify(aq_column *column, aq_error *err) {
    aq_column *whole; /* `column` may be anywhere in its pages */
    aq_span span;
    aq_status status =
        aq_column_open(column->file, column->row_group, column->column, &whole, err);
    if (status != AQ_OK) return status;
    whole->verify = true;
    do {
        status = aq_column_next(whole, &span, err);
    } while (status == AQ_OK && span.values != NULL);
    aq_column_close(whole);
    return status;
}

#ifndef AQ_NO_WRITER

/*==========================================================================
 * MARK: - [77] Parquet writer (private)
 * A column chunk: gap, dictionary page if any, data pages. Row groups and page indexes
 * are kept as encoded Thrift until the footer is written, so memory grows by their
 * metadata only.
 *========================================================================*/

/* a * b of polynomials modulo that of CRC-32, bits reflected. */
static uint32_t aqi_crc32_times(uint32_t a, uint32_t b) {
    uint32_t product = 0;
    int i;
    for (i = 31; i >= 0; i--) {
        if (a >> i & 1) product ^= b;
        b = b >> 1 ^ (b & 1 ? 0xedb88320u : 0u);
    }
    return product;
}

/* CRC-32 of two strings, one after the other, from that of each; the second has `bytes`:
 * a is shifted by as many bits, which is times x^(8 bytes). */
static uint32_t aqi_crc32_join(uint32_t a, uint32_t b, uint64_t bytes) {
    uint32_t power = 0x00800000u; /* x^8 */
    for (; bytes > 0; bytes >>= 1) {
        if (bytes & 1) a = aqi_crc32_times(power, a);
        power = aqi_crc32_times(power, power);
    }
    return a ^ b;
}

/* Values of a column chunk that other hands put into the file: one BYTE_ARRAY, or the
 * floats of one list. */
typedef struct aqi_placed {
    int64_t at;   /* file offset of the first byte; a writer that counts finds it */
    size_t bytes; /* > 0 */
    uint32_t crc; /* of the values */
} aqi_placed;

struct aq_writer {
    aq_allocator allocator;
    aqi_arena arena; /* schema */
    aqi_output out;
    size_t alignment;
    int level;
    bool skip_checksums, data_page_v2, page_index;
    aqi_placed *placed; /* not NULL: where the values of this call are */
    size_t page_bytes, dictionary_limit;
    aq_status failed; /* of an earlier call: nothing more may be written */
    aqi_schema schema;
    aqi_schema_element *elements; /* root and fields */
    uint32_t num_elements;
    aq_field_spec *specs; /* element i is specs[i - 1] */
    aqi_slice *path_parts;
    aqi_list *column_paths; /* slices of path_parts */
    aqi_list *spec_pairs;   /* of specs[i]: aqi_key_value */
    aqi_slice created_by;
    int64_t num_rows;
    uint32_t num_row_groups, num_pairs;
    int32_t column; /* next one of the row group */
    int64_t group_rows, group_bytes, group_stored, group_start;
    aqi_thrift_writer row_groups, columns, pairs, header;
    const aq_tasks *tasks;
    struct aqi_chunk_writer
        *chunks; /* of one call; their buffers are kept for the next */
    size_t num_chunks;
    struct aqi_page_slot *slots; /* pages being encoded side by side, likewise */
    size_t num_slots, queued, queued_bytes;
    /* Page index: of the chunk under way; of all chunks; what the footer needs of them:
     * an aqi_chunk_record each, an aqi_row_group each. */
    aqi_bytes_builder null_pages;
    aqi_thrift_writer mins, maxs, null_counts, locations;
    aqi_thrift_writer column_indexes, offset_indexes;
    aqi_bytes_builder chunk_records, group_records;
    aqi_list sorting_columns;
};

/* Least and greatest of some values, NaN left out; NULL = there is none. */
typedef struct aqi_extremes {
    const uint8_t *min, *max; /* places in the caller's values */
    bool nan;                 /* there was one */
} aqi_extremes;

/* A column chunk being written. */
typedef struct aqi_chunk_writer {
    const aq_field *field;
    const aq_field_spec *spec;
    aq_column_values v;         /* of the chunk; values at the first one      */
    bool has_levels;
    uint8_t empty_def, null_def; /* with offsets: level of an empty list, of none */
    aq_encoding encoding;       /* of the data pages                          */
    size_t page_bytes;          /* where the pages end                        */
    aqi_bytes_builder indices, firsts, slots; /* of a dictionary              */
    uint32_t entries;           /* of the dictionary                          */
    int64_t num_levels, num_rows;
    int64_t level, value, row;  /* where the next page begins                 */
    int64_t dictionary_start, data_start; /* file offsets; 0 = not yet        */
    int64_t plain_bytes, stored_bytes;    /* with page headers                */
    int32_t num_pages;          /* data pages                                 */
    aqi_extremes range;         /* of the pages so far                        */
    aqi_extremes last;          /* of the last page with values               */
    bool no_column_index;       /* a page has values without bounds           */
    bool not_ascending, not_descending; /* the pages' bounds                  */
    aq_status status;           /* of the task that prepares it               */
    aq_error err;
} aqi_chunk_writer;

/* A page on its way to the file: `body`, then `tail` from the caller's memory: bytes, or
 * byte arrays with their lengths. */
typedef struct aqi_page_slot {
    aqi_chunk_writer *chunk;
    bool dictionary, first, last; /* first, last: data page of its chunk */
    bool late;          /* checksum and bounds are found while the tail is written */
    bool compressed;
    aq_column_values v; /* of this page                            */
    int64_t first_value, first_row, num_rows;
    aqi_bytes_builder body, packed;
    const uint8_t *tail;
    const aq_bytes *tail_arrays;
    size_t tail_bytes;
    size_t rep_bytes, def_bytes; /* of the level streams           */
    size_t plain_bytes; /* of levels and values before compression */
    uint32_t crc;       /* state of body and tail                  */
    aqi_extremes range;
    int64_t start; /* file offset of the header, once written      */
    size_t stored; /* bytes in the file, with the header           */
    aq_status status;
    aq_error err;
} aqi_page_slot;

/* With a page index `columns` holds every ColumnChunk of the file, without its last byte:
 * where its indexes are is known at the end. */
typedef struct aqi_chunk_record {
    size_t head_bytes, column_index_bytes, offset_index_bytes;
} aqi_chunk_record;

static void aqi_writer_free(aq_writer *w) {
    aq_allocator a = w->allocator;
    size_t i;
    aqi_output_abort(&w->out);
    aqi_builder_free(&a, &w->row_groups.out);
    aqi_builder_free(&a, &w->columns.out);
    aqi_builder_free(&a, &w->pairs.out);
    aqi_builder_free(&a, &w->header.out);
    for (i = 0; i < w->num_chunks; i++) {
        aqi_builder_free(&a, &w->chunks[i].indices);
        aqi_builder_free(&a, &w->chunks[i].firsts);
        aqi_builder_free(&a, &w->chunks[i].slots);
    }
    aqi_free(&a, w->chunks, w->num_chunks * sizeof *w->chunks);
    for (i = 0; i < w->num_slots; i++) {
        aqi_builder_free(&a, &w->slots[i].body);
        aqi_builder_free(&a, &w->slots[i].packed);
    }
    aqi_free(&a, w->slots, w->num_slots * sizeof *w->slots);
    aqi_builder_free(&a, &w->null_pages);
    aqi_builder_free(&a, &w->mins.out);
    aqi_builder_free(&a, &w->maxs.out);
    aqi_builder_free(&a, &w->null_counts.out);
    aqi_builder_free(&a, &w->locations.out);
    aqi_builder_free(&a, &w->column_indexes.out);
    aqi_builder_free(&a, &w->offset_indexes.out);
    aqi_builder_free(&a, &w->chunk_records);
    aqi_builder_free(&a, &w->group_records);
    aqi_arena_deinit(&w->arena);
    aqi_free(&a, w, sizeof *w);
}

/* What a logical type may be of: physical types as bits 1 << type, and a length. */
static const struct {
    aq_logical_type logical;
    uint32_t types;
    int32_t type_length; /* 0 = any */
    int8_t converted;    /* -1 = none, or not always the same */
} aqi_logical_rules[] = {
    {AQ_LOGICAL_STRING, 1u << AQ_BYTE_ARRAY, 0, AQI_CONVERTED_UTF8},
    {AQ_LOGICAL_ENUM, 1u << AQ_BYTE_ARRAY, 0, AQI_CONVERTED_ENUM},
    {AQ_LOGICAL_DECIMAL,
     1u << AQ_INT32 | 1u << AQ_INT64 | 1u << AQ_BYTE_ARRAY |
         1u << AQ_FIXED_LEN_BYTE_ARRAY,
     0, AQI_CONVERTED_DECIMAL},
    {AQ_LOGICAL_DATE, 1u << AQ_INT32, 0, AQI_CONVERTED_DATE},
    {AQ_LOGICAL_TIME, 1u << AQ_INT32 | 1u << AQ_INT64, 0, -1},
    {AQ_LOGICAL_TIMESTAMP, 1u << AQ_INT64, 0, -1},
    {AQ_LOGICAL_INTEGER, 1u << AQ_INT32 | 1u << AQ_INT64, 0, -1},
    {AQ_LOGICAL_UNKNOWN, 0xff, 0, -1},
    {AQ_LOGICAL_JSON, 1u << AQ_BYTE_ARRAY, 0, AQI_CONVERTED_JSON},
    {AQ_LOGICAL_BSON, 1u << AQ_BYTE_ARRAY, 0, AQI_CONVERTED_BSON},
    {AQ_LOGICAL_UUID, 1u << AQ_FIXED_LEN_BYTE_ARRAY, 16, -1},
    {AQ_LOGICAL_FLOAT16, 1u << AQ_FIXED_LEN_BYTE_ARRAY, 2, -1},
    {AQ_LOGICAL_INTERVAL, 1u << AQ_FIXED_LEN_BYTE_ARRAY, 12, AQI_CONVERTED_INTERVAL},
    {AQ_LOGICAL_LIST, 0, 0, AQI_CONVERTED_LIST}, /* groups */
    {AQ_LOGICAL_MAP, 0, 0, AQI_CONVERTED_MAP},
};

static aq_status aqi_spec_fail(const aq_field_spec *spec, const char *what,
                               aq_error *err) {
    return aqi_fail(err, AQ_E_ARG, "field \"%.80s\": %s", spec->name, what);
}

static aq_status aqi_spec_decimal(const aq_field_spec *spec, aqi_schema_element *e,
                                  aq_error *err) {
    int32_t most = INT32_MAX, bytes = spec->type_length;
    if (spec->type == AQ_INT32) most = 9;
    if (spec->type == AQ_INT64) most = 18;
    if (spec->type == AQ_FIXED_LEN_BYTE_ARRAY && bytes < 1000000) /* floor(log10(max)) */
        most = (int32_t)((double)(8 * bytes - 1) * 0.30102999566398120);
    if (spec->precision < 1 || spec->precision > most || spec->scale < 0 ||
        spec->scale > spec->precision)
        return aqi_spec_fail(spec, "precision or scale does not go with its type", err);
    AQI_SET(e, aqi_schema_element, precision, spec->precision);
    AQI_SET(e, aqi_schema_element, scale, spec->scale);
    AQI_MARK(&e->logical_type, aqi_logical, decimal);
    AQI_SET(&e->logical_type.decimal, aqi_decimal, precision, spec->precision);
    AQI_SET(&e->logical_type.decimal, aqi_decimal, scale, spec->scale);
    return AQ_OK;
}

/* TIME and TIMESTAMP. The converted types mean UTC, and know no nanoseconds. */
static aq_status aqi_spec_time(const aq_field_spec *spec, aqi_schema_element *e,
                               aq_error *err) {
    bool day = spec->logical == AQ_LOGICAL_TIME, millis = spec->unit_nanos == 1000000;
    aqi_time *t = day ? &e->logical_type.time : &e->logical_type.timestamp;
    if (!millis && spec->unit_nanos != 1000 && spec->unit_nanos != 1)
        return aqi_spec_fail(spec, "unit_nanos is not 1000000, 1000 or 1", err);
    if (day && millis != (spec->type == AQ_INT32))
        return aqi_spec_fail(spec, "TIME is INT32 of milliseconds, else INT64", err);
    if (day) AQI_MARK(&e->logical_type, aqi_logical, time);
    if (!day) AQI_MARK(&e->logical_type, aqi_logical, timestamp);
    AQI_SET(t, aqi_time, is_adjusted_to_utc, spec->utc);
    AQI_MARK(t, aqi_time, unit);
    if (millis) AQI_MARK(&t->unit, aqi_time_unit, millis);
    if (spec->unit_nanos == 1000) AQI_MARK(&t->unit, aqi_time_unit, micros);
    if (spec->unit_nanos == 1) AQI_MARK(&t->unit, aqi_time_unit, nanos);
    if (spec->utc && spec->unit_nanos > 1)
        AQI_SET(e, aqi_schema_element, converted_type,
                (day ? AQI_CONVERTED_TIME_MILLIS : AQI_CONVERTED_TIMESTAMP_MILLIS) +
                    !millis);
    return AQ_OK;
}

static aq_status aqi_spec_integer(const aq_field_spec *spec, aqi_schema_element *e,
                                  aq_error *err) {
    aqi_logical *l = &e->logical_type;
    int32_t widths = 0;
    while (widths < 4 && 8 << widths != spec->bit_width) widths++;
    if (widths == 4)
        return aqi_fail(err, AQ_E_ARG,
                        "field \"%.80s\": bit_width %d is not 8, 16, 32, 64", spec->name,
                        (int)spec->bit_width);
    if ((widths == 3) != (spec->type == AQ_INT64))
        return aqi_spec_fail(spec, "INTEGER of 64 bits is INT64, others INT32", err);
    AQI_MARK(l, aqi_logical, integer);
    AQI_SET(&l->integer, aqi_integer, bit_width, (int8_t)spec->bit_width);
    AQI_SET(&l->integer, aqi_integer, is_signed, spec->is_signed);
    AQI_SET(e, aqi_schema_element, converted_type,
            (spec->is_signed ? AQI_CONVERTED_INT_8 : AQI_CONVERTED_UINT_8) + widths);
    return AQ_OK;
}

/* The logical type of a spec, with the ConvertedType that older readers know. */
static aq_status aqi_spec_logical(const aq_field_spec *spec, aqi_schema_element *e,
                                  aq_error *err) {
    aqi_logical *l = &e->logical_type;
    uint32_t type = spec->type == AQ_GROUP ? 0 : 1u << spec->type;
    size_t k = 0;
    if (spec->logical == AQ_LOGICAL_NONE) return AQ_OK;
    while (k < AQI_COUNT(aqi_logical_rules) &&
           aqi_logical_rules[k].logical != spec->logical)
        k++;
    if (k == AQI_COUNT(aqi_logical_rules))
        return aqi_spec_fail(spec, "no such logical type", err);
    if ((aqi_logical_rules[k].types & type) != type ||
        (type == 0) != (aqi_logical_rules[k].types == 0) ||
        (aqi_logical_rules[k].type_length != 0 &&
         aqi_logical_rules[k].type_length != spec->type_length))
        return aqi_spec_fail(spec, "logical type does not go with its type", err);
    if (aqi_logical_rules[k].converted >= 0)
        AQI_SET(e, aqi_schema_element, converted_type, aqi_logical_rules[k].converted);
    if (spec->logical == AQ_LOGICAL_INTERVAL) return AQ_OK; /* has no LogicalType */
    AQI_MARK(e, aqi_schema_element, logical_type);
    switch (spec->logical) {
    case AQ_LOGICAL_DECIMAL:
        return aqi_spec_decimal(spec, e, err);
    case AQ_LOGICAL_TIME:
    case AQ_LOGICAL_TIMESTAMP:
        return aqi_spec_time(spec, e, err);
    case AQ_LOGICAL_INTEGER:
        return aqi_spec_integer(spec, e, err);
    default: /* a struct without fields: aqi_logical has them in the enum's order */
        l->has = 1u << (spec->logical - AQ_LOGICAL_STRING);
        break;
    }
    return AQ_OK;
}

static aq_status aqi_spec_element(const aq_field_spec *spec, aqi_schema_element *e,
                                  aq_error *err) {
    size_t n = spec->name == NULL ? 0 : strlen(spec->name);
    bool group = spec->type == AQ_GROUP;
    if (n == 0 || n > UINT32_MAX)
        return aqi_fail(err, AQ_E_ARG, "schema field without a name");
    if ((int)spec->type < AQ_GROUP || spec->type > AQ_FIXED_LEN_BYTE_ARRAY ||
        (int)spec->repetition < 0 || spec->repetition > AQ_REPEATED ||
        group != (spec->num_children > 0) ||
        (spec->type == AQ_FIXED_LEN_BYTE_ARRAY) != (spec->type_length > 0)) {
        aqi_schema_fail(err, spec->name,
                        "has a type, repetition, type_length or number of "
                        "children that do not go together");
        if (err != NULL) err->status = AQ_E_ARG;
        return AQ_E_ARG;
    }
    if (!aqi_codec_available((int32_t)spec->codec))
        return aqi_codec_missing((int32_t)spec->codec, err);
    if (!aqi_encoding_fits(spec->encoding, spec->type))
        return aqi_fail(err, AQ_E_ARG,
                        "field \"%.80s\": encoding %s (%d) does not go with its type",
                        spec->name, aq_encoding_name((int32_t)spec->encoding),
                        (int)spec->encoding);
    e->name.data = (const uint8_t *)spec->name;
    e->name.size = (uint32_t)n;
    AQI_MARK(e, aqi_schema_element, name);
    AQI_SET(e, aqi_schema_element, repetition_type, (int32_t)spec->repetition);
    if (group) {
        AQI_SET(e, aqi_schema_element, num_children, spec->num_children);
    } else {
        AQI_SET(e, aqi_schema_element, type, (int32_t)spec->type);
    }
    if (spec->type_length > 0)
        AQI_SET(e, aqi_schema_element, type_length, spec->type_length);
    if (spec->field_id != 0) AQI_SET(e, aqi_schema_element, field_id, spec->field_id);
    return aqi_spec_logical(spec, e, err);
}

/* The key-value metadata of a spec, copied, as the footer wants it. */
static aq_status aqi_writer_copy_pairs(aq_writer *w, const aq_field_spec *spec,
                                       aqi_list *out, aq_error *err) {
    int32_t i, part;
    aqi_key_value *pairs;
    void *p;
    aq_status status;
    if (spec->num_key_values == 0) return AQ_OK;
    if (spec->num_key_values < 0 || spec->key_values == NULL ||
        spec->num_key_values > (int32_t)AQI_THRIFT_LIST_LIMIT || spec->type == AQ_GROUP)
        return aqi_spec_fail(spec, "key_values missing, or too many, or of a group", err);
    status = aqi_arena_alloc(&w->arena, (size_t)spec->num_key_values * sizeof *pairs, &p,
                             err);
    if (status != AQ_OK) return status;
    pairs = (aqi_key_value *)p;
    for (i = 0; i < spec->num_key_values; i++) {
        for (part = 0; part < 2; part++) {
            const char *text = part == 0 ? spec->key_values[i].key
                                         : spec->key_values[i].value;
            aqi_slice *slice = part == 0 ? &pairs[i].key : &pairs[i].value;
            size_t n = text == NULL ? 0 : strlen(text);
            char *copy;
            if (text == NULL && part == 1) break; /* a key without a value */
            if (text == NULL || n > AQI_THRIFT_STRING_LIMIT)
                return aqi_spec_fail(spec, "metadata key missing, or over 100,000,000 "
                                           "bytes",
                                     err);
            status = aqi_arena_string(&w->arena, text, n, &copy, err);
            if (status != AQ_OK) return status;
            slice->data = (const uint8_t *)copy;
            slice->size = (uint32_t)n;
            if (part == 0) AQI_MARK(&pairs[i], aqi_key_value, key);
            if (part == 1) AQI_MARK(&pairs[i], aqi_key_value, value);
        }
    }
    out->items = pairs;
    out->count = (uint32_t)spec->num_key_values;
    return AQ_OK;
}

/* Copies the specs, with their names and metadata, into the arena. */
static aq_status aqi_writer_copy_specs(aq_writer *w, const aq_field_spec *fields,
                                       size_t n, aq_error *err) {
    size_t i;
    void *p;
    char *name = NULL;
    aq_status status = aqi_arena_alloc(&w->arena, n * sizeof *fields, &p, err);
    if (status != AQ_OK) return status;
    w->specs = (aq_field_spec *)p;
    if (n > 0) memcpy(w->specs, fields, n * sizeof *fields);
    status = aqi_arena_alloc(&w->arena, n * sizeof(aqi_list), &p, err);
    w->spec_pairs = (aqi_list *)p;
    for (i = 0; i < n && status == AQ_OK; i++) {
        if (fields[i].name == NULL) continue;
        status = aqi_arena_string(&w->arena, fields[i].name, strlen(fields[i].name),
                                  &name, err);
        w->specs[i].name = name;
        if (status == AQ_OK)
            status = aqi_writer_copy_pairs(w, &fields[i], &w->spec_pairs[i], err);
    }
    return status;
}

/* path_in_schema of each column, as slices of the field names. */
static aq_status aqi_writer_build_paths(aq_writer *w, aq_error *err) {
    const aqi_schema *s = &w->schema;
    int32_t c, k;
    void *p;
    aq_status status = aqi_arena_alloc(
        &w->arena, (size_t)s->num_columns * AQI_MAX_SCHEMA_DEPTH * sizeof(aqi_slice), &p,
        err);
    if (status != AQ_OK) return status;
    w->path_parts = (aqi_slice *)p;
    status =
        aqi_arena_alloc(&w->arena, (size_t)s->num_columns * sizeof(aqi_list), &p, err);
    if (status != AQ_OK) return status;
    w->column_paths = (aqi_list *)p;
    for (c = 0; c < s->num_columns; c++) {
        aqi_slice *end = w->path_parts + (size_t)(c + 1) * AQI_MAX_SCHEMA_DEPTH,
                  *at = end;
        for (k = s->leaves[c]; k > 0; k = s->fields[k].parent)
            *--at = w->elements[k].name;
        w->column_paths[c].items = at;
        w->column_paths[c].count = (uint32_t)(end - at);
    }
    return AQ_OK;
}

static aq_status aqi_writer_build_schema(aq_writer *w, const aq_field_spec *fields,
                                         size_t n, aq_error *err) {
    static const uint8_t root_name[] = "schema";
    aqi_schema_builder builder;
    size_t i, k;
    void *p;
    aq_status status;
    if (n > AQI_THRIFT_LIST_LIMIT - 1)
        return aqi_fail(err, AQ_E_LIMIT, "schema of %zu fields; the limit is %u", n,
                        AQI_THRIFT_LIST_LIMIT - 1);
    status = aqi_writer_copy_specs(w, fields, n, err);
    if (status == AQ_OK)
        status = aqi_arena_alloc(&w->arena, (n + 1) * sizeof *w->elements, &p, err);
    if (status != AQ_OK) return status;
    w->elements = (aqi_schema_element *)p;
    w->num_elements = (uint32_t)n + 1;
    w->elements[0].name.data = root_name;
    w->elements[0].name.size = sizeof root_name - 1;
    AQI_MARK(&w->elements[0], aqi_schema_element, name);
    for (i = 0; i < n; i++) {
        status = aqi_spec_element(&w->specs[i], &w->elements[i + 1], err);
        if (status != AQ_OK) return status;
    }
    /* Fields that are not inside another one are the root's children. */
    for (i = 0; i < n; w->elements[0].num_children++) {
        size_t left = 1;
        for (k = i; k < n && left > 0; k++) left += (size_t)w->specs[k].num_children - 1;
        i = k;
    }
    AQI_MARK(&w->elements[0], aqi_schema_element, num_children);
    w->schema.max_columns = AQI_THRIFT_LIST_LIMIT;
    status = aqi_schema_begin(&builder, &w->schema, &w->arena, w->num_elements, err);
    for (i = 0; i < w->num_elements && status == AQ_OK; i++)
        status = aqi_schema_add(&builder, &w->elements[i], err);
    if (status == AQ_OK) status = aqi_schema_end(&builder, err);
    if (status != AQ_OK) {
        if (err != NULL) err->status = status == AQ_E_FORMAT ? AQ_E_ARG : status;
        return status == AQ_E_FORMAT ? AQ_E_ARG : status;
    }
    return aqi_writer_build_paths(w, err);
}

static aq_status aqi_writer_options_resolve(const aq_writer_options *in,
                                            aq_writer_options *out, aq_error *err) {
    memset(out, 0, sizeof *out);
    if (in != NULL) *out = *in;
    if (out->value_alignment == 0) out->value_alignment = AQ_ALIGNMENT;
    if (out->compression_level == 0) out->compression_level = 1;
    if (out->dictionary_limit_bytes == 0) out->dictionary_limit_bytes = (size_t)1 << 20;
    if (out->created_by == NULL)
        out->created_by = "arrowquant.h version " AQ_VERSION_STRING;
    if (out->value_alignment > 4096 ||
        (out->value_alignment & (out->value_alignment - 1)) != 0)
        return aqi_fail(err, AQ_E_ARG,
                        "value_alignment %zu is not a power of 2 in 1..4096",
                        out->value_alignment);
    if (out->page_bytes > INT32_MAX || out->dictionary_limit_bytes > INT32_MAX)
        return aqi_fail(err, AQ_E_ARG,
                        "page_bytes or dictionary_limit_bytes is over 2 GiB - 1");
    return AQ_OK;
}

static aq_status aqi_writer_copy_sorting(aq_writer *w, const aq_writer_options *o,
                                         aq_error *err) {
    size_t i, n = o->num_sorting_columns;
    aqi_sorting_column *to;
    void *p;
    aq_status status;
    if (n == 0) return AQ_OK;
    if (o->sorting_columns == NULL || n > AQI_THRIFT_LIST_LIMIT)
        return aqi_fail(err, AQ_E_ARG, "sorting_columns missing, or over %u",
                        AQI_THRIFT_LIST_LIMIT);
    status = aqi_arena_alloc(&w->arena, n * sizeof *to, &p, err);
    if (status != AQ_OK) return status;
    to = (aqi_sorting_column *)p;
    for (i = 0; i < n; i++) {
        int32_t column = o->sorting_columns[i].column;
        if (column < 0 || column >= w->schema.num_columns)
            return aqi_fail(err, AQ_E_ARG, "sorting column %d; the schema has %d",
                            (int)column, (int)w->schema.num_columns);
        AQI_SET(&to[i], aqi_sorting_column, column_idx, column);
        AQI_SET(&to[i], aqi_sorting_column, descending, o->sorting_columns[i].descending);
        AQI_SET(&to[i], aqi_sorting_column, nulls_first,
                o->sorting_columns[i].nulls_first);
    }
    w->sorting_columns.items = to;
    w->sorting_columns.count = (uint32_t)n;
    return AQ_OK;
}

static void aqi_writer_init(aq_writer *w, const aq_allocator *a,
                            const aq_writer_options *o) {
    memset(w, 0, sizeof *w);
    w->allocator = *a;
    w->out.fd = -1;
    w->out.allocator = *a;
    w->row_groups.allocator = &w->allocator;
    w->columns.allocator = &w->allocator;
    w->pairs.allocator = &w->allocator;
    w->header.allocator = &w->allocator;
    w->mins.allocator = &w->allocator;
    w->maxs.allocator = &w->allocator;
    w->null_counts.allocator = &w->allocator;
    w->locations.allocator = &w->allocator;
    w->column_indexes.allocator = &w->allocator;
    w->offset_indexes.allocator = &w->allocator;
    w->alignment = o->value_alignment;
    w->level = o->compression_level;
    w->skip_checksums = o->skip_checksums;
    w->data_page_v2 = o->data_page_v2;
    w->page_index = o->page_index;
    w->page_bytes = o->page_bytes;
    w->tasks = o->tasks;
    w->dictionary_limit = o->dictionary_limit_bytes;
    aqi_arena_init(&w->arena, a);
}

static aq_status aqi_writer_open(const char *path, const aqi_output_options *output,
                                 const aq_field_spec *fields, size_t num_fields,
                                 const aq_writer_options *options, aq_writer **out_writer,
                                 aq_error *err) {
    aq_writer_options o;
    aq_allocator a;
    aq_writer *w;
    char *created_by = NULL;
    aq_status status = aqi_writer_options_resolve(options, &o, err);
    *out_writer = NULL;
    if (status == AQ_OK) status = aqi_allocator_resolve(o.allocator, &a, err);
    if (status != AQ_OK) return status;
    w = (aq_writer *)aqi_alloc(&a, sizeof *w);
    if (w == NULL) return aqi_fail_nomem(err, sizeof *w);
    aqi_writer_init(w, &a, &o);
    status = aqi_writer_build_schema(w, fields, num_fields, err);
    if (status == AQ_OK) status = aqi_writer_copy_sorting(w, &o, err);
    if (status == AQ_OK)
        status = aqi_arena_string(&w->arena, o.created_by, strlen(o.created_by),
                                  &created_by, err);
    if (status == AQ_OK) {
        w->created_by.data = (const uint8_t *)created_by;
        w->created_by.size = (uint32_t)strlen(created_by);
        status = aqi_output_open(&w->out, path, output, &a, err);
    }
    if (status == AQ_OK) status = aqi_output_write(&w->out, "PAR1", 4, err);
    if (status != AQ_OK) {
        aqi_writer_free(w);
        return status;
    }
    *out_writer = w;
    return AQ_OK;
}

aq_status aq_writer_open(const char *path, const aq_field_spec *fields, size_t num_fields,
                         const aq_writer_options *options, aq_writer **out_writer,
                         aq_error *err) {
    aqi_output_options output;
    aqi_error_clear(err);
    memset(&output, 0, sizeof output);
    if (options != NULL) output.no_sync = options->no_sync;
    return aqi_writer_open(path, &output, fields, num_fields, options, out_writer, err);
}

/* Keeps the first failure: after it the file cannot become whole. */
static aq_status aqi_writer_failed(aq_writer *w, aq_status status) {
    if (w->failed == AQ_OK) w->failed = status;
    return status;
}

static aq_status aqi_writer_usable(const aq_writer *w, aq_error *err) {
    if (w->failed == AQ_OK) return AQ_OK;
    return aqi_fail(err, AQ_E_STATE,
                    "the writer failed before (%s); only finish or abort it",
                    aq_status_name(w->failed));
}

aq_status aq_writer_add_key_value(aq_writer *writer, const char *key, const char *value,
                                  aq_error *err) {
    aqi_key_value kv;
    aq_status status;
    aqi_error_clear(err);
    status = aqi_writer_usable(writer, err);
    if (status != AQ_OK) return status;
    memset(&kv, 0, sizeof kv);
    if (key == NULL || strlen(key) > AQI_THRIFT_STRING_LIMIT ||
        (value != NULL && strlen(value) > AQI_THRIFT_STRING_LIMIT))
        return aqi_fail(err, AQ_E_ARG,
                        "metadata key missing, or a pair over 100,000,000 bytes");
    kv.key.data = (const uint8_t *)key;
    kv.key.size = (uint32_t)strlen(key);
    AQI_MARK(&kv, aqi_key_value, key);
    if (value != NULL) {
        kv.value.data = (const uint8_t *)value;
        kv.value.size = (uint32_t)strlen(value);
        AQI_MARK(&kv, aqi_key_value, value);
    }
    aqi_thrift_write(&writer->pairs, &aqi_key_value_type, &kv);
    writer->num_pairs++;
    if (!writer->pairs.failed) return AQ_OK;
    return aqi_writer_failed(writer, aqi_fail_nomem(err, kv.key.size + kv.value.size));
}

/* Checks the levels of a chunk and counts its rows. */
static aq_status aqi_writer_check_levels(const aq_field *field, const aq_column_values *v,
                                         int64_t *out_rows, aq_error *err) {
    aqi_level_counts def = {0, 0, 0}, rep = {0, 0, 0};
    uint32_t max_def = 0, max_rep = 0;
    int64_t i;
    *out_rows = v->num_values;
    if (v->num_lists != 0)
        return aqi_fail(err, AQ_E_ARG, "num_lists %lld without list offsets",
                        (long long)v->num_lists);
    if (field->max_def == 0 && field->max_rep == 0) {
        if (v->num_levels == 0 || v->num_levels == v->num_values) return AQ_OK;
        return aqi_fail(err, AQ_E_ARG, "required column with levels");
    }
    if (v->num_levels < 0 ||
        (v->num_levels > 0 && ((field->max_def > 0 && !v->def_levels) ||
                               (field->max_rep > 0 && !v->rep_levels))))
        return aqi_fail(err, AQ_E_ARG, "column needs levels and has none");
    if (field->max_def > 0)
        max_def = aqi_k()->levels(v->def_levels, (size_t)v->num_levels, field->max_def,
                                  &def);
    if (field->max_rep > 0)
        max_rep = aqi_k()->levels(v->rep_levels, (size_t)v->num_levels, field->max_rep,
                                  &rep);
    for (i = 0; max_def > field->max_def || max_rep > field->max_rep; i++) {
        if ((field->max_def > 0 && v->def_levels[i] > field->max_def) ||
            (field->max_rep > 0 && v->rep_levels[i] > field->max_rep))
            return aqi_fail(err, AQ_E_ARG, "level %lld is above the column's maximum",
                            (long long)i);
    }
    *out_rows = field->max_rep > 0 ? rep.zeros : v->num_levels;
    if (field->max_rep > 0 && v->num_levels > 0 && v->rep_levels[0] != 0)
        return aqi_fail(err, AQ_E_ARG, "first repetition level is not 0");
    if (field->max_def == 0) def.maxima = v->num_levels;
    if (def.maxima == v->num_values) return AQ_OK;
    return aqi_fail(err, AQ_E_ARG, "levels say %lld values, num_values %lld",
                    (long long)def.maxima, (long long)v->num_values);
}

static bool aqi_has_offsets(const aq_column_values *v) {
    return v->list_offsets != NULL || v->large_list_offsets != NULL;
}

AQI_INLINE int64_t aqi_list_offset(const aq_column_values *v, int64_t i) {
    return v->list_offsets != NULL ? v->list_offsets[i] : v->large_list_offsets[i];
}

/* How many values the row-th list of the chunk has. */
AQI_INLINE int64_t aqi_list_length(const aq_column_values *v, int64_t row) {
    int64_t i = v->first_list + row;
    return aqi_list_offset(v, i + 1) - aqi_list_offset(v, i);
}

AQI_INLINE bool aqi_list_is_null(const aq_column_values *v, int64_t row) {
    uint64_t i = (uint64_t)(v->first_list + row);
    return v->list_validity != NULL && (v->list_validity[i / 8] >> i % 8 & 1) == 0;
}

/* What may come with list offsets, and the levels that they stand for. */
static aq_status aqi_lists_begin(const aq_writer *w, aqi_chunk_writer *c, aq_error *err) {
    const aq_column_values *v = &c->v;
    const aq_field *node = c->field;
    if (v->list_offsets != NULL && v->large_list_offsets != NULL)
        return aqi_fail(err, AQ_E_ARG, "list offsets of 32 bits and of 64 bits");
    if (v->def_levels != NULL || v->rep_levels != NULL || v->num_levels != 0)
        return aqi_fail(err, AQ_E_ARG, "levels and list offsets: one of them is enough");
    if (node->max_rep == 0)
        return aqi_fail(err, AQ_E_ARG, "list offsets for a column that is no list");
    if (node->max_rep > 1)
        return aqi_fail(err, AQ_E_ARG,
                        "list offsets for lists of lists: they need levels");
    if (v->first_list < 0 || v->num_lists < 0 ||
        (uint64_t)v->first_list + (uint64_t)v->num_lists >= SIZE_MAX / sizeof(int64_t) ||
        v->num_values > INT64_MAX - v->num_lists)
        return aqi_fail(err, AQ_E_ARG,
                        "%lld lists of %lld values from list %lld on: they "
                        "cannot be",
                        (long long)v->num_lists, (long long)v->num_values,
                        (long long)v->first_list);
    while (node->repetition != AQ_REPEATED) node = &w->schema.fields[node->parent];
    c->empty_def = (uint8_t)(node->max_def - 1);
    node = &w->schema.fields[node->parent];
    c->null_def = (uint8_t)(c->empty_def - (node->repetition == AQ_OPTIONAL));
    return AQ_OK;
}

/* The row-th list is null: may it be? */
static aq_status aqi_list_check_null(const aqi_chunk_writer *c, int64_t row,
                                     aq_error *err) {
    long long i = (long long)(c->v.first_list + row);
    if (c->null_def == c->empty_def)
        return aqi_fail(err, AQ_E_ARG, "list %lld is null, and no list may be", i);
    if (aqi_list_length(&c->v, row) == 0) return AQ_OK;
    return aqi_fail(err, AQ_E_UNSUPPORTED,
                    "list %lld is null and has values: make it empty", i);
}

/* Checks list offsets; c->v becomes what it would be with levels. */
static aq_status aqi_chunk_take_lists(const aq_writer *w, aqi_chunk_writer *c,
                                      aq_error *err) {
    aq_column_values *v = &c->v;
    int64_t row, first, end, next, levels = 0;
    aq_status status = aqi_lists_begin(w, c, err);
    if (status != AQ_OK) return status;
    first = end = aqi_list_offset(v, v->first_list);
    if (first < 0 || first > v->num_values)
        return aqi_fail(err, AQ_E_ARG, "list offset %lld is %lld, of %lld values",
                        (long long)v->first_list, (long long)first,
                        (long long)v->num_values);
    for (row = 0; row < v->num_lists && status == AQ_OK; row++, end = next) {
        next = aqi_list_offset(v, v->first_list + row + 1);
        if (next < end || next > v->num_values)
            return aqi_fail(err, AQ_E_ARG,
                            "list %lld is from offset %lld to %lld, of %lld values",
                            (long long)(v->first_list + row), (long long)end,
                            (long long)next, (long long)v->num_values);
        if (aqi_list_is_null(v, row)) status = aqi_list_check_null(c, row, err);
        levels += AQI_MAX(next - end, (int64_t)1);
    }
    if (status != AQ_OK) return status;
    if (end > first)
        v->values =
            (const uint8_t *)v->values +
            (size_t)first * aqi_value_bytes(c->field->type, c->field->type_length);
    v->num_values = end - first;
    v->num_levels = levels;
    c->num_rows = v->num_lists;
    return AQ_OK;
}

/* Bytes of the PLAIN form; false when they overflow. */
static bool aqi_plain_size(const aq_field *field, const aq_column_values *v,
                           size_t *out) {
    const aq_bytes *b = (const aq_bytes *)v->values;
    size_t n = (size_t)v->num_values, i;
    *out = 0;
    if (field->type == AQ_BOOLEAN) {
        *out = n / 8 + (n % 8 != 0);
        return true;
    }
    if (field->type != AQ_BYTE_ARRAY)
        return aqi_mul_size(n, aqi_value_bytes(field->type, field->type_length), out);
    for (i = 0; i < n; i++) {
        if (b[i].size > UINT32_MAX || !aqi_add_size(*out, b[i].size, out) ||
            !aqi_add_size(*out, 4, out))
            return false;
    }
    return true;
}

/* Appends the PLAIN form of the values to the page body (reserved before). */
static void aqi_plain_encode(const aq_field *field, const aq_column_values *v,
                             uint8_t *dst) {
    const aq_bytes *b = (const aq_bytes *)v->values;
    size_t n = (size_t)v->num_values, i;
    if (field->type == AQ_BOOLEAN) {
        const uint8_t *bits = (const uint8_t *)v->values;
        memset(dst, 0, n / 8 + (n % 8 != 0));
        for (i = 0; i < n; i++) dst[i / 8] |= (uint8_t)((bits[i] != 0) << i % 8);
    } else if (field->type == AQ_BYTE_ARRAY) {
        for (i = 0; i < n; i++) {
            aqi_store_le32(dst, (uint32_t)b[i].size);
            if (b[i].size > 0) memcpy(dst + 4, b[i].data, b[i].size);
            dst += 4 + b[i].size;
        }
    } else {
        size_t width = aqi_value_bytes(field->type, field->type_length);
        size_t swap = aqi_swap_width(field->type);
        aqi_copy_le(dst, v->values, n * width / swap, swap);
    }
}

/* The bytes of one value as it lies in memory. */
static aq_bytes aqi_value_view(const aq_field *f, const void *values, size_t i) {
    aq_bytes b;
    if (f->type == AQ_BYTE_ARRAY) return ((const aq_bytes *)values)[i];
    b.size = aqi_value_bytes(f->type, f->type_length);
    b.data = (const uint8_t *)values + i * b.size;
    return b;
}

/* Bits of `n` values from c->value + `skip` on, in PLAIN form. */
static uint64_t aqi_plain_bits(const aqi_chunk_writer *c, size_t skip, size_t n) {
    const aq_field *f = c->field;
    const aq_bytes *b = (const aq_bytes *)c->v.values;
    uint64_t bits = 0;
    size_t i;
    if (f->type == AQ_BOOLEAN) return n;
    if (f->type != AQ_BYTE_ARRAY)
        return n * (uint64_t)aqi_value_bytes(f->type, f->type_length) * 8;
    for (i = 0; i < n; i++)
        bits += 32 + (uint64_t)b[(size_t)c->value + skip + i].size * 8;
    return bits;
}

/* Some rows of a chunk. */
typedef struct aqi_rows {
    int64_t levels, values, rows;
} aqi_rows;

/* One row, or as many as have at most `fit` levels, from the level at i on. */
static aqi_rows aqi_rows_by_levels(const aqi_chunk_writer *c, int64_t i, uint64_t fit) {
    const aq_field *f = c->field;
    const uint8_t *rep = c->v.rep_levels;
    aqi_level_counts count = {0, 0, 0};
    int64_t end = i + 1;
    aqi_rows r;
    if (f->max_rep > 0 && end < c->num_levels) {
        const void *next = memchr(rep + end, 0, (size_t)(c->num_levels - end));
        end = next == NULL ? c->num_levels : (const uint8_t *)next - rep;
    }
    if (fit > (uint64_t)(end - i)) {
        end = i + (int64_t)AQI_MIN(fit, (uint64_t)(c->num_levels - i));
        while (f->max_rep > 0 && end < c->num_levels && rep[end] != 0) end--;
    }
    r.levels = r.values = r.rows = end - i;
    if (f->max_def > 0) {
        aqi_k()->levels(c->v.def_levels + i, (size_t)r.levels, f->max_def, &count);
        r.values = count.maxima;
    }
    if (f->max_rep > 0) {
        memset(&count, 0, sizeof count);
        aqi_k()->levels(rep + i, (size_t)r.levels, f->max_rep, &count);
        r.rows = count.zeros;
    }
    return r;
}

/* The same by list offsets, from a row on. */
static aqi_rows aqi_rows_by_offsets(const aqi_chunk_writer *c, int64_t row,
                                    uint64_t fit) {
    aqi_rows r = {0, 0, 0};
    do {
        int64_t values = aqi_list_length(&c->v, row + r.rows);
        int64_t levels = AQI_MAX(values, (int64_t)1);
        if (r.rows > 0 && (uint64_t)(r.levels + levels) > fit) break;
        r.levels += levels;
        r.values += values;
        r.rows++;
    } while (row + r.rows < c->num_rows);
    return r;
}

/* A reader bounds what levels of a few bytes may become: see aqi_page_budget. */
#define AQI_MAX_PAGE_LEVELS ((int64_t)64 << 20)

/* The page that begins at c->level: rows until it holds page_bytes in levels and PLAIN
 * values. Steps of many rows while they fit in any case, then row by row. */
static void aqi_page_cut(aqi_chunk_writer *c, aqi_page_slot *out) {
    const aq_field *f = c->field;
    const aq_column_values *v = &c->v;
    size_t width = aqi_value_bytes(f->type, f->type_length);
    uint64_t level_bits = aqi_bits_needed(f->max_def) + aqi_bits_needed(f->max_rep);
    uint64_t value_bits = f->type == AQ_BOOLEAN ? 1 : width * 8, bits = 0;
    uint64_t limit = (uint64_t)c->page_bytes * 8;
    int64_t most = c->has_levels ? AQI_MAX_PAGE_LEVELS : INT64_MAX;
    aqi_rows sum = {0, 0, 0}, r;
    while (c->level + sum.levels < c->num_levels && bits < limit) {
        uint64_t fit = (limit - bits) / (level_bits + value_bits);
        fit = AQI_MIN(fit, (uint64_t)AQI_MAX(most - sum.levels, (int64_t)0));
        if (f->type == AQ_BYTE_ARRAY) fit = 0;
        if (c->level + sum.levels == 0 && fit >= (uint64_t)c->num_levels) {
            r.levels = c->num_levels;
            r.values = v->num_values;
            r.rows = c->num_rows;
        } else if (aqi_has_offsets(v)) {
            r = aqi_rows_by_offsets(c, c->row + sum.rows, fit);
        } else {
            r = aqi_rows_by_levels(c, c->level + sum.levels, fit);
        }
        if (sum.rows > 0 && sum.levels + r.levels > most) break;
        bits += (uint64_t)r.levels * level_bits +
                aqi_plain_bits(c, (size_t)sum.values, (size_t)r.values);
        sum.levels += r.levels;
        sum.values += r.values;
        sum.rows += r.rows;
    }
    out->chunk = c;
    out->first = c->level == 0;
    out->first_value = c->value;
    out->first_row = c->row;
    out->num_rows = sum.rows;
    memset(&out->v, 0, sizeof out->v);
    out->v.num_values = sum.values;
    out->v.num_levels = sum.levels;
    if (sum.values > 0)
        out->v.values = (const uint8_t *)v->values + (size_t)c->value * width;
    if (f->max_def > 0 && v->def_levels != NULL)
        out->v.def_levels = v->def_levels + c->level;
    if (f->max_rep > 0 && v->rep_levels != NULL)
        out->v.rep_levels = v->rep_levels + c->level;
    c->level += sum.levels;
    c->value += sum.values;
    c->row += sum.rows;
    out->last = c->level == c->num_levels;
}

/* Appends the levels that the lists of a page have. */
static bool aqi_lists_write(const aq_allocator *a, aqi_page_slot *p, bool repetition) {
    const aqi_chunk_writer *c = p->chunk;
    uint8_t max = repetition ? c->field->max_rep : c->field->max_def;
    int64_t row, n;
    aqi_rle_writer r;
    aqi_rle_begin(&r, a, &p->body, aqi_bits_needed(max));
    for (row = p->first_row; row < p->first_row + p->num_rows; row++) {
        n = aqi_list_length(&c->v, row);
        if (repetition) {
            aqi_rle_repeat(&r, 0, 1);
            if (n > 1) aqi_rle_repeat(&r, 1, (uint64_t)n - 1);
        } else if (n > 0) {
            aqi_rle_repeat(&r, max, (uint64_t)n);
        } else {
            aqi_rle_repeat(&r, aqi_list_is_null(&c->v, row) ? c->null_def : c->empty_def,
                           1);
        }
    }
    return aqi_rle_end(&r);
}

/* Appends one level stream, in pages V1 with its 4-byte length. */
static bool aqi_page_put_levels(const aq_writer *w, aqi_page_slot *p, bool repetition) {
    const aqi_chunk_writer *c = p->chunk;
    uint8_t length[4] = {0, 0, 0, 0}, max = c->field->max_def;
    const uint8_t *levels = repetition ? p->v.rep_levels : p->v.def_levels;
    size_t at = p->body.size, before = w->data_page_v2 ? 0 : sizeof length;
    bool ok;
    if (repetition) max = c->field->max_rep;
    if (max == 0) return true;
    ok = aqi_builder_append(&w->allocator, &p->body, length, before);
    if (ok && aqi_has_offsets(&c->v)) {
        ok = aqi_lists_write(&w->allocator, p, repetition);
    } else if (ok) {
        ok = aqi_rle_write(&w->allocator, &p->body, levels, (size_t)p->v.num_levels,
                           aqi_bits_needed(max));
    }
    if (ok && before > 0)
        aqi_store_le32(p->body.data + at, (uint32_t)(p->body.size - at - before));
    return ok;
}

static aq_status aqi_page_too_large(aq_error *err) {
    return aqi_fail(err, AQ_E_LIMIT, "page of over 2 GiB - 1 bytes; set page_bytes");
}

/* The values of a page in another encoding than PLAIN. */
static bool aqi_page_encode_values(const aq_allocator *a, aqi_page_slot *p) {
    const aqi_chunk_writer *c = p->chunk;
    const aq_field *f = c->field;
    const aq_column_values *v = &p->v;
    size_t n = (size_t)v->num_values, width = aqi_value_bytes(f->type, f->type_length);
    switch (c->encoding) {
    case AQ_RLE_DICTIONARY: /* other writers have no width of 0 either */
        return aqi_indices_write(
            a, &p->body, (const uint32_t *)(const void *)c->indices.data + p->first_value,
            n, AQI_MAX(1u, aqi_bits_needed(c->entries - 1)));
    case AQ_RLE:
        return aqi_booleans_write(a, &p->body, (const uint8_t *)v->values, n);
    case AQ_DELTA_BINARY_PACKED:
        return aqi_delta_write(a, &p->body, v->values, n, width);
    case AQ_DELTA_LENGTH_BYTE_ARRAY:
        return aqi_delta_lengths_write(a, &p->body, (const aq_bytes *)v->values, n);
    case AQ_DELTA_BYTE_ARRAY:
        return aqi_prefixed_write(a, &p->body, v->values, n, (size_t)f->type_length);
    default: /* AQ_BYTE_STREAM_SPLIT */
        if (!aqi_builder_reserve(a, &p->body, n * width)) return false;
        if (n > 0)
            aqi_byte_stream_split((const uint8_t *)v->values, n, width,
                                  aqi_swap_width(f->type), p->body.data + p->body.size);
        p->body.size += n * width;
        return true;
    }
}

#define AQI_LARGE_TAIL ((size_t)256 << 10)
#define AQI_FEW_LEVEL_BYTES 1024 /* that Snappy may as well leave as they are */
#define AQI_LARGE_VALUE 512 /* mean bytes from which byte arrays are not gathered */

/* PLAIN values to the page's parts. Those that can be stored, or compressed, as they lie
 * in memory are not copied. */
static bool aqi_page_put_plain(const aq_writer *w, aqi_page_slot *p, size_t plain) {
    const aq_field *field = p->chunk->field;
    const aq_column_values *v = &p->v;
    bool arrays = field->type == AQ_BYTE_ARRAY;
    bool few = p->body.size == 0 || (p->chunk->spec->codec == AQ_SNAPPY &&
                                     p->body.size <= AQI_FEW_LEVEL_BYTES && plain > 0);
    bool apart = p->chunk->spec->codec == AQ_UNCOMPRESSED ||
                 (!arrays && (w->data_page_v2 || few));
    if (arrays && plain / AQI_LARGE_VALUE < (size_t)v->num_values) apart = false;
    if (AQI_BIG_ENDIAN && !arrays && aqi_swap_width(field->type) > 1) apart = false;
    if (field->type == AQ_BOOLEAN) apart = false;
    if (apart || w->placed != NULL) {
        p->tail_bytes = plain;
        if (arrays) {
            p->tail_arrays = (const aq_bytes *)v->values;
        } else {
            p->tail = (const uint8_t *)v->values;
        }
        return true;
    }
    if (!aqi_builder_reserve(&w->allocator, &p->body, plain + 1)) return false;
    aqi_plain_encode(field, v, p->body.data + p->body.size);
    p->body.size += plain;
    return true;
}

/* Levels and values to the page's parts. */
static aq_status aqi_page_build(const aq_writer *w, aqi_page_slot *p, aq_error *err) {
    const aqi_chunk_writer *c = p->chunk;
    const aq_field *field = c->field;
    const aq_column_values *v = &p->v;
    size_t plain = 0;
    bool ok;
    if (!aqi_plain_size(field, v, &plain) || plain > INT32_MAX)
        return aqi_page_too_large(err);
    ok = aqi_page_put_levels(w, p, true);
    p->rep_bytes = p->body.size;
    ok = ok && aqi_page_put_levels(w, p, false);
    p->def_bytes = p->body.size - p->rep_bytes;
    if (ok && c->encoding == AQ_PLAIN) {
        ok = aqi_page_put_plain(w, p, plain);
    } else if (ok) {
        ok = aqi_page_encode_values(&w->allocator, p);
    }
    if (!ok) return aqi_fail_nomem(err, plain);
    p->plain_bytes = p->body.size + p->tail_bytes;
    return p->plain_bytes > INT32_MAX ? aqi_page_too_large(err) : AQ_OK;
}

/* The entries of the chunk's dictionary in PLAIN form. */
static aq_status aqi_page_build_dictionary(const aq_writer *w, aqi_page_slot *p,
                                           aq_error *err) {
    const aqi_chunk_writer *c = p->chunk;
    const size_t *firsts = (const size_t *)(const void *)c->firsts.data;
    size_t k, swap = aqi_swap_width(c->field->type);
    uint8_t length[4];
    bool ok = true;
    for (k = 0; ok && k < c->entries; k++) {
        aq_bytes b = aqi_value_view(c->field, c->v.values, firsts[k]);
        aqi_store_le32(length, (uint32_t)b.size);
        if (c->field->type == AQ_BYTE_ARRAY)
            ok = aqi_builder_append(&w->allocator, &p->body, length, sizeof length);
        ok = ok && aqi_builder_reserve(&w->allocator, &p->body, b.size);
        if (ok) aqi_copy_le(p->body.data + p->body.size, b.data, b.size / swap, swap);
        p->body.size += ok ? b.size : 0;
    }
    p->plain_bytes = p->body.size;
    return ok ? AQ_OK : aqi_fail_nomem(err, p->body.size);
}

/* Makes the levels in the body what stands before the values in Snappy's form of a page:
 * the length of all, and the levels as a literal. So the values are compressed from where
 * they lie, by themselves; of their form, the length at its beginning gives way. */
static bool aqi_snappy_front(const aq_allocator *a, aqi_page_slot *p, size_t *out_keep) {
    uint8_t front[13], length[10];
    size_t n = aqi_encode_varint(p->plain_bytes, front), last = p->body.size - 1;
    front[n++] = 61 << 2; /* a literal, of which two bytes say the length - 1 */
    front[n++] = (uint8_t)last;
    front[n++] = (uint8_t)(last >> 8);
    if (!aqi_builder_reserve(a, &p->body, n)) return false;
    memmove(p->body.data + n, p->body.data, p->body.size);
    memcpy(p->body.data, front, n);
    p->body.size += n;
    *out_keep = p->body.size - aqi_encode_varint(p->tail_bytes, length);
    return true;
}

/* Compresses body and tail; of data pages V2 what follows the levels, unless that saves
 * nothing: then the page is marked as not compressed. */
static aq_status aqi_page_compress(const aq_writer *w, aqi_page_slot *p, aq_error *err) {
    aqi_bytes_builder swap;
    int32_t codec = (int32_t)p->chunk->spec->codec;
    bool v2 = w->data_page_v2 && !p->dictionary;
    size_t keep = v2 ? p->rep_bytes + p->def_bytes : 0;
    const uint8_t *src = p->tail;
    size_t rest = p->plain_bytes - keep, n = 0, bound, front = keep;
    if (codec == AQ_UNCOMPRESSED || (v2 && rest == 0)) return AQ_OK;
    if (!v2 && src != NULL && p->body.size > 0) {
        if (!aqi_snappy_front(&w->allocator, p, &keep))
            return aqi_fail_nomem(err, p->body.size);
        front = p->body.size;
        rest = p->tail_bytes;
    }
    bound = aqi_compress_bound(codec, rest);
    if (src == NULL && rest > 0) src = p->body.data + keep;
    p->packed.size = 0;
    if (bound > 0 && !aqi_builder_reserve(&w->allocator, &p->packed, keep + bound))
        return aqi_fail_nomem(err, bound);
    if (bound > 0)
        n = aqi_compress(codec, w->level, rest > 0 ? src : p->packed.data, rest,
                         p->packed.data + keep, p->packed.capacity - keep);
    if (n == 0 || n > INT32_MAX - keep)
        return aqi_fail(err, AQ_E_LIMIT, "%s could not compress %zu bytes",
                        aq_codec_name(codec), rest);
    if (v2 && n >= rest) return AQ_OK;
    p->compressed = true;
    p->tail = NULL;
    p->tail_bytes = 0;
    if (front > 0) memcpy(p->packed.data, p->body.data, front);
    p->packed.size = keep + n;
    swap = p->body;
    p->body = p->packed;
    p->packed = swap;
    return AQ_OK;
}

/* How values of a leaf compare, as the column order of its type says. */
typedef enum aqi_order {
    AQI_ORDER_NONE, /* INT96, INTERVAL, groups: no statistics */
    AQI_ORDER_U8,   /* BOOLEAN */
    AQI_ORDER_I32,
    AQI_ORDER_U32,
    AQI_ORDER_I64,
    AQI_ORDER_U64,
    AQI_ORDER_F16,
    AQI_ORDER_F32,
    AQI_ORDER_F64,
    AQI_ORDER_BYTES,  /* unsigned, byte by byte */
    AQI_ORDER_DECIMAL /* signed, big-endian */
} aqi_order;

static aqi_order aqi_order_of(const aq_field *f) {
    bool is_unsigned = f->logical == AQ_LOGICAL_INTEGER && !f->is_signed;
    switch (f->type) {
    case AQ_BOOLEAN:
        return AQI_ORDER_U8;
    case AQ_INT32:
        return is_unsigned ? AQI_ORDER_U32 : AQI_ORDER_I32;
    case AQ_INT64:
        return is_unsigned ? AQI_ORDER_U64 : AQI_ORDER_I64;
    case AQ_FLOAT:
        return AQI_ORDER_F32;
    case AQ_DOUBLE:
        return AQI_ORDER_F64;
    case AQ_BYTE_ARRAY:
    case AQ_FIXED_LEN_BYTE_ARRAY:
        if (f->logical == AQ_LOGICAL_INTERVAL) return AQI_ORDER_NONE;
        if (f->logical == AQ_LOGICAL_FLOAT16) return AQI_ORDER_F16;
        return f->logical == AQ_LOGICAL_DECIMAL ? AQI_ORDER_DECIMAL : AQI_ORDER_BYTES;
    default:
        return AQI_ORDER_NONE;
    }
}

static int aqi_bytes_compare(aq_bytes x, aq_bytes y) {
    size_t n = AQI_MIN(x.size, y.size);
    int order = n == 0 ? 0 : memcmp(x.data, y.data, n);
    return order != 0 ? order : (x.size > y.size) - (x.size < y.size);
}

/* Two's complement, big-endian, of any two lengths; no bytes are 0. */
static int aqi_decimal_compare(aq_bytes x, aq_bytes y) {
    bool x_negative = x.size > 0 && x.data[0] >= 0x80;
    bool y_negative = y.size > 0 && y.data[0] >= 0x80;
    size_t n = AQI_MAX(x.size, y.size), i;
    if (x_negative != y_negative) return x_negative ? -1 : 1;
    for (i = n; i > 0; i--) { /* i-th byte from the end; signs are extended */
        uint8_t fill = x_negative ? 0xff : 0;
        uint8_t a = i > x.size ? fill : x.data[x.size - i];
        uint8_t b = i > y.size ? fill : y.data[y.size - i];
        if (a != b) return a < b ? -1 : 1;
    }
    return 0;
}

/* The bits of a half as an integer with the order of its value, and -0 below +0. */
AQI_INLINE int32_t aqi_half_key(const uint8_t *p) {
    int32_t bits = p[0] | p[1] << 8;
    return bits & 0x8000 ? 0x7fff - bits : bits;
}

#define AQI_COMPARE_AS(c_type)                                                           \
    do {                                                                                 \
        c_type x_, y_;                                                                   \
        memcpy(&x_, a, sizeof x_);                                                       \
        memcpy(&y_, b, sizeof y_);                                                       \
        return (x_ > y_) - (x_ < y_);                                                    \
    } while (0)

/* In the byte orders a value is `size` bytes, or for 0 an aq_bytes. */
AQI_INLINE int aqi_order_compare(aqi_order order, size_t size, const uint8_t *a,
                                 const uint8_t *b) {
    aq_bytes x, y;
    switch (order) {
    case AQI_ORDER_U8:
        return (*a != 0) - (*b != 0);
    case AQI_ORDER_I32:
        AQI_COMPARE_AS(int32_t);
    case AQI_ORDER_U32:
        AQI_COMPARE_AS(uint32_t);
    case AQI_ORDER_I64:
        AQI_COMPARE_AS(int64_t);
    case AQI_ORDER_U64:
        AQI_COMPARE_AS(uint64_t);
    case AQI_ORDER_F32:
        AQI_COMPARE_AS(float);
    case AQI_ORDER_F64:
        AQI_COMPARE_AS(double);
    case AQI_ORDER_F16:
        return aqi_half_key(a) - aqi_half_key(b);
    default:
        x.data = a;
        y.data = b;
        x.size = y.size = size;
        if (size == 0) memcpy(&x, a, sizeof x);
        if (size == 0) memcpy(&y, b, sizeof y);
        return order == AQI_ORDER_BYTES ? aqi_bytes_compare(x, y)
                                        : aqi_decimal_compare(x, y);
    }
}

AQI_INLINE bool aqi_order_is_nan(aqi_order order, const uint8_t *p) {
    float f = 0;
    double d = 0;
    memcpy(&f, p, order == AQI_ORDER_F32 ? sizeof f : 0);
    memcpy(&d, p, order == AQI_ORDER_F64 ? sizeof d : 0);
    if (order == AQI_ORDER_F32) return f != f;
    if (order == AQI_ORDER_F64) return d != d;
    return order == AQI_ORDER_F16 && ((p[0] | p[1] << 8) & 0x7fff) > 0x7c00;
}

AQI_INLINE void aqi_extremes_body(aqi_order order, size_t size, const uint8_t *p,
                                  size_t width, size_t n, aqi_extremes *r) {
    const uint8_t *min = r->min, *max = r->max;
    for (; n > 0; n--, p += width) {
        if (aqi_order_is_nan(order, p)) {
            r->nan = true;
            continue;
        }
        if (min == NULL) min = max = p;
        if (aqi_order_compare(order, size, p, min) < 0) min = p;
        if (aqi_order_compare(order, size, p, max) > 0) max = p;
    }
    r->min = min;
    r->max = max;
}

/* Floats in blocks: only a block that has a NaN or a new extreme is looked at one by
 * one. */
static void aqi_extremes_add_floats(const uint8_t *p, size_t n, aqi_extremes *r) {
    const size_t block = 1024;
    float min = 0, max = 0;
    for (; n > 0; p += 4 * block) {
        size_t part = AQI_MIN(n, block);
        aqi_range range;
        n -= part;
        if (r->min != NULL && (uintptr_t)p % sizeof(float) == 0) {
            memcpy(&min, r->min, sizeof min);
            memcpy(&max, r->max, sizeof max);
            aqi_k()->range((const float *)(const void *)p, part, &range);
            if (range.absmax_bits <= AQI_INF_BITS && range.min >= min && range.max <= max)
                continue;
        }
        aqi_extremes_body(AQI_ORDER_F32, 0, p, 4, part, r);
    }
}

/* Widens the range by n values at p. */
static void aqi_extremes_add(const aq_field *f, const void *values, size_t n,
                             aqi_extremes *r) {
    size_t width = aqi_value_bytes(f->type, f->type_length);
    size_t size = f->type == AQ_BYTE_ARRAY ? 0 : width;
    const uint8_t *p = (const uint8_t *)values;
    aqi_order order = aqi_order_of(f);
    switch (order) { /* a loop of its own for what is many */
    case AQI_ORDER_NONE:
        break;
    case AQI_ORDER_I32:
        aqi_extremes_body(AQI_ORDER_I32, 0, p, 4, n, r);
        break;
    case AQI_ORDER_I64:
        aqi_extremes_body(AQI_ORDER_I64, 0, p, 8, n, r);
        break;
    case AQI_ORDER_F32:
        aqi_extremes_add_floats(p, n, r);
        break;
    case AQI_ORDER_F64:
        aqi_extremes_body(AQI_ORDER_F64, 0, p, 8, n, r);
        break;
    default:
        aqi_extremes_body(order, size, p, width, n, r);
        break;
    }
}

/* Longer byte arrays are bounds by their first bytes: of the chunk, where a whole name
 * finds its row group, and of a page. */
#define AQI_STATISTICS_VALUE_LIMIT 1024
#define AQI_PAGE_BOUND_LIMIT 64

/* A bound in its stored form: in `store`, or the caller's bytes. */
typedef struct aqi_bound {
    aqi_slice value;
    bool exact;
    uint8_t store[AQI_STATISTICS_VALUE_LIMIT + 4];
} aqi_bound;

/* The last character of a text: its first byte's place, and its code point; false when it
 * is not well formed. */
static bool aqi_last_code_point(const uint8_t *p, size_t n, size_t *at, uint32_t *out) {
    static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
    static const uint8_t masks[] = {0x80, 0xe0, 0xf0, 0xf8};
    static const uint8_t leads[] = {0, 0xc0, 0xe0, 0xf0};
    size_t k = n - 1, length;
    while (k > 0 && (p[k] & 0xc0) == 0x80 && n - k < 4) k--;
    length = n - k;
    if ((p[k] & masks[length - 1]) != leads[length - 1]) return false;
    *at = k;
    *out = p[k] & ~(uint32_t)masks[length - 1];
    for (k++; k < n; k++) *out = *out << 6 | (p[k] & 0x3fu);
    return *out >= least[length - 1] && *out <= 0x10ffff;
}

static size_t aqi_put_code_point(uint8_t *p, uint32_t c) {
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4, k;
    if (n == 1) {
        p[0] = (uint8_t)c;
        return 1;
    }
    for (k = n - 1; k > 0; k--, c >>= 6) p[k] = (uint8_t)(0x80 | (c & 0x3f));
    p[0] = (uint8_t)(0xf00u >> n | c);
    return n;
}

/* Makes n bytes greater than all that begin with them: the last character, or byte, that
 * can be raised is, and what follows it goes. Returns the length; 0 = there is none. */
static size_t aqi_bound_raise(uint8_t *p, size_t n, bool text) {
    uint32_t c;
    size_t at;
    while (n > 0) {
        if (text && aqi_last_code_point(p, n, &at, &c)) {
            if (c < 0x10ffff)
                return at + aqi_put_code_point(p + at, c == 0xd7ff ? 0xe000 : c + 1);
            n = at;
        } else if (p[n - 1] < 0xff) {
            p[n - 1]++;
            return n;
        } else {
            n--;
        }
    }
    return 0;
}

static bool aqi_bound_cut(const aq_field *f, aq_bytes b, bool is_max, size_t limit,
                          aqi_bound *out) {
    bool text = f->logical == AQ_LOGICAL_STRING || f->logical == AQ_LOGICAL_ENUM ||
                f->logical == AQ_LOGICAL_JSON;
    size_t n = limit;
    if (f->type != AQ_BYTE_ARRAY || f->logical == AQ_LOGICAL_DECIMAL) return false;
    while (text && (b.data[n] & 0xc0) == 0x80 && limit - n < 3) n--;
    memcpy(out->store, b.data, n);
    if (is_max) n = aqi_bound_raise(out->store, n, text);
    out->value.data = out->store;
    out->value.size = (uint32_t)n;
    out->exact = false;
    return n > 0;
}

/* The stored form of the value at p. A zero of a float is -0 as a least value and +0 as a
 * greatest. False: too long, and cannot be cut. */
static bool aqi_bound_make(const aq_field *f, const uint8_t *p, bool is_max, size_t limit,
                           aqi_bound *out) {
    aq_bytes b = aqi_value_view(f, p, 0);
    aqi_order order = aqi_order_of(f);
    size_t swap = aqi_swap_width(f->type), k;
    out->exact = true;
    if (b.size > limit) return aqi_bound_cut(f, b, is_max, limit, out);
    out->value.data = b.data;
    out->value.size = (uint32_t)b.size;
    if (order >= AQI_ORDER_BYTES) return true;
    aqi_copy_le(out->store, b.data, b.size / swap, swap);
    if (order == AQI_ORDER_U8) out->store[0] = b.data[0] != 0;
    if (order >= AQI_ORDER_F16) {
        uint8_t any = out->store[b.size - 1] & 0x7f;
        for (k = 0; k + 1 < b.size; k++) any |= out->store[k];
        if (any == 0) out->store[b.size - 1] = is_max ? 0 : 0x80;
    }
    out->value.data = out->store;
    return true;
}

/* null_count, and min and max where the type has an order. `b` are the room of both. None
 * with NaN among the values: some readers hold all values to lie within the bounds. */
static void aqi_statistics_make(const aqi_chunk_writer *c, aqi_bound b[2],
                                aqi_statistics *out) {
    const size_t limit = AQI_STATISTICS_VALUE_LIMIT;
    memset(out, 0, sizeof *out);
    AQI_SET(out, aqi_statistics, null_count, c->num_levels - c->v.num_values);
    if (c->range.min == NULL || c->range.nan ||
        !aqi_bound_make(c->field, c->range.min, false, limit, &b[0]) ||
        !aqi_bound_make(c->field, c->range.max, true, limit, &b[1]))
        return;
    AQI_SET(out, aqi_statistics, min_value, b[0].value);
    AQI_SET(out, aqi_statistics, max_value, b[1].value);
    AQI_SET(out, aqi_statistics, is_min_value_exact, b[0].exact);
    AQI_SET(out, aqi_statistics, is_max_value_exact, b[1].exact);
}

/* Checksum and bounds of `bytes` from the page's tail. */
static void aqi_tail_note(const aq_writer *w, aqi_page_slot *p, const uint8_t *src,
                          size_t bytes, size_t num_values) {
    const aqi_chunk_writer *c = p->chunk;
    if (!w->skip_checksums) p->crc = aqi_crc32(p->crc, src, bytes);
    if (num_values > 0 && c->spec->write_statistics)
        aqi_extremes_add(c->field, src, num_values, &p->range);
}

#define AQI_TAIL_BLOCK ((size_t)1 << 20)

/* Bytes of the caller's memory to the file; of a late page what has to be known of them
 * is found on the way, block by block, while the cache has them. */
static aq_status aqi_tail_write_bytes(aq_writer *w, aqi_page_slot *p, const uint8_t *src,
                                      size_t bytes, size_t width, aq_error *err) {
    size_t block = width == 0 ? AQI_TAIL_BLOCK
                              : AQI_MAX(AQI_TAIL_BLOCK / width, (size_t)1) * width;
    aq_status status = AQ_OK;
    if (!p->late) return aqi_output_write(&w->out, src, bytes, err);
    while (bytes > 0 && status == AQ_OK) {
        size_t part = AQI_MIN(bytes, block);
        aqi_tail_note(w, p, src, part, width == 0 ? 0 : part / width);
        status = aqi_output_write(&w->out, src, part, err);
        src += part;
        bytes -= part;
    }
    return status;
}

static aq_status aqi_tail_write(aq_writer *w, aqi_page_slot *p, aq_error *err) {
    const aq_field *f = p->chunk->field;
    const aq_bytes *b = p->tail_arrays;
    uint8_t length[4];
    int64_t i;
    aq_status status = AQ_OK;
    if (w->placed != NULL) {
        aqi_store_le32(length, (uint32_t)w->placed->bytes);
        if (b != NULL) status = aqi_output_write(&w->out, length, sizeof length, err);
        if (status != AQ_OK) return status;
        if (w->out.counting) w->placed->at = w->out.offset;
        return aqi_output_seek(&w->out, w->out.offset + (int64_t)w->placed->bytes, err);
    }
    if (b == NULL)
        return aqi_tail_write_bytes(w, p, p->tail, p->tail_bytes,
                                    aqi_value_bytes(f->type, f->type_length), err);
    for (i = 0; i < p->v.num_values && status == AQ_OK; i++) {
        aqi_store_le32(length, (uint32_t)b[i].size);
        status = aqi_tail_write_bytes(w, p, length, sizeof length, 0, err);
        if (status == AQ_OK)
            status = aqi_tail_write_bytes(w, p, b[i].data, b[i].size, 0, err);
    }
    return status;
}

/* Checksum and bounds of a whole page; of a late one those of the body alone. */
static void aqi_page_note(const aq_writer *w, aqi_page_slot *p) {
    const aq_bytes *b = p->tail_arrays;
    uint8_t length[4];
    int64_t i;
    if (!w->skip_checksums) p->crc = aqi_crc32(p->crc, p->body.data, p->body.size);
    if (w->placed != NULL) {
        aqi_store_le32(length, (uint32_t)w->placed->bytes);
        if (b != NULL) p->crc = aqi_crc32(p->crc, length, sizeof length);
        p->crc = ~aqi_crc32_join(~p->crc, w->placed->crc, w->placed->bytes);
        return;
    }
    if (!p->dictionary && p->chunk->spec->write_statistics && (!p->late || b != NULL))
        aqi_extremes_add(p->chunk->field, p->v.values, (size_t)p->v.num_values,
                         &p->range);
    if (p->late || w->skip_checksums) return;
    if (b == NULL) p->crc = aqi_crc32(p->crc, p->tail, p->tail_bytes);
    for (i = 0; b != NULL && i < p->v.num_values; i++) {
        aqi_store_le32(length, (uint32_t)b[i].size);
        p->crc = aqi_crc32(p->crc, length, sizeof length);
        p->crc = aqi_crc32(p->crc, b[i].data, b[i].size);
    }
}

/* All of a page but its header and its place: a task, which changes its slot only. */
static void aqi_page_encode(void *arg, size_t index) {
    const aq_writer *w = (const aq_writer *)arg;
    aqi_page_slot *p = &w->slots[index];
    p->body.size = 0;
    p->tail = NULL;
    p->tail_arrays = NULL;
    p->tail_bytes = p->rep_bytes = p->def_bytes = 0;
    p->compressed = p->late = false;
    p->crc = UINT32_MAX;
    p->range.min = p->range.max = NULL;
    p->range.nan = false;
    if (p->v.num_levels > INT32_MAX) {
        p->status = aqi_fail(&p->err, AQ_E_LIMIT,
                             "page of over 2^31 - 1 values; set page_bytes");
        return;
    }
    p->status = p->dictionary ? aqi_page_build_dictionary(w, p, &p->err)
                              : aqi_page_build(w, p, &p->err);
    if (p->status == AQ_OK) p->status = aqi_page_compress(w, p, &p->err);
    /* Only before the first page of a chunk there may be unused bytes: see
     * aqi_page_emit. */
    p->late = w->placed == NULL && p->first && p->tail_bytes >= AQI_LARGE_TAIL;
    if (p->status == AQ_OK) aqi_page_note(w, p);
}

static void aqi_page_header_fill(const aq_writer *w, const aqi_page_slot *p,
                                 aqi_page_header *h) {
    aqi_data_page *v1 = &h->data_page_header;
    aqi_data_page_v2 *v2 = &h->data_page_header_v2;
    aqi_dictionary_page *d = &h->dictionary_page_header;
    int32_t levels = (int32_t)p->v.num_levels;
    memset(h, 0, sizeof *h);
    AQI_SET(h, aqi_page_header, uncompressed_page_size, (int32_t)p->plain_bytes);
    AQI_SET(h, aqi_page_header, compressed_page_size,
            (int32_t)(p->body.size + p->tail_bytes));
    if (!w->skip_checksums) AQI_SET(h, aqi_page_header, crc, (int32_t)~p->crc);
    if (p->dictionary) {
        AQI_SET(h, aqi_page_header, type, AQI_PAGE_DICTIONARY);
        AQI_MARK(h, aqi_page_header, dictionary_page_header);
        AQI_SET(d, aqi_dictionary_page, num_values, (int32_t)p->chunk->entries);
        AQI_SET(d, aqi_dictionary_page, encoding, AQ_PLAIN);
    } else if (w->data_page_v2) {
        AQI_SET(h, aqi_page_header, type, AQI_PAGE_DATA_V2);
        AQI_MARK(h, aqi_page_header, data_page_header_v2);
        AQI_SET(v2, aqi_data_page_v2, num_values, levels);
        AQI_SET(v2, aqi_data_page_v2, num_nulls, levels - (int32_t)p->v.num_values);
        AQI_SET(v2, aqi_data_page_v2, num_rows, (int32_t)p->num_rows);
        AQI_SET(v2, aqi_data_page_v2, encoding, (int32_t)p->chunk->encoding);
        AQI_SET(v2, aqi_data_page_v2, definition_levels_byte_length,
                (int32_t)p->def_bytes);
        AQI_SET(v2, aqi_data_page_v2, repetition_levels_byte_length,
                (int32_t)p->rep_bytes);
        AQI_SET(v2, aqi_data_page_v2, is_compressed, p->compressed);
    } else {
        AQI_SET(h, aqi_page_header, type, AQI_PAGE_DATA);
        AQI_MARK(h, aqi_page_header, data_page_header);
        AQI_SET(v1, aqi_data_page, num_values, levels);
        AQI_SET(v1, aqi_data_page, encoding, (int32_t)p->chunk->encoding);
        AQI_SET(v1, aqi_data_page, definition_level_encoding, AQ_RLE);
        AQI_SET(v1, aqi_data_page, repetition_level_encoding, AQ_RLE);
    }
}

/* The page's header to w->header. */
static aq_status aqi_page_header_encode(aq_writer *w, const aqi_page_slot *p,
                                        aq_error *err) {
    aqi_page_header h;
    aqi_page_header_fill(w, p, &h);
    w->header.out.size = 0;
    aqi_thrift_write(&w->header, &aqi_page_header_type, &h);
    return w->header.failed ? aqi_fail_nomem(err, 64) : AQ_OK;
}

/* Unused bytes before a page with a header of `room` bytes, so that its values are
 * aligned, or where they are placed. */
static size_t aqi_page_gap(const aq_writer *w, const aqi_page_slot *p, size_t room) {
    const aqi_chunk_writer *c = p->chunk;
    size_t lengths = c->field->type == AQ_BYTE_ARRAY ? 4 : 0;
    int64_t at =
        w->out.offset + (int64_t)(room + p->rep_bytes + p->def_bytes + lengths);
    if (w->placed != NULL && !w->out.counting) {
        AQ_ASSERT(w->placed->at >= at);
        return (size_t)(w->placed->at - at);
    }
    if (!c->spec->align_values || c->spec->codec != AQ_UNCOMPRESSED || !p->first ||
        c->encoding != AQ_PLAIN)
        return 0;
    return (w->alignment - (size_t)at % w->alignment) % w->alignment;
}

/* Gap, header, body and tail of a page. The checksum of a late page is known when its
 * tail is written: room for the longest header is left before it, and the header put at
 * the end of that room. */
static aq_status aqi_page_write(aq_writer *w, aqi_page_slot *p, aq_error *err) {
    size_t room, gap;
    uint32_t crc = p->crc;
    int64_t data_at;
    aq_status status;
    if (p->late || w->out.counting)
        p->crc = 0x7fffffff; /* as a header field: 5 bytes, the longest */
    status = aqi_page_header_encode(w, p, err);
    p->crc = crc;
    room = w->header.out.size;
    gap = aqi_page_gap(w, p, room);
    if (status == AQ_OK) status = aqi_output_zeros(&w->out, gap, err);
    p->start = w->out.offset;
    if (status == AQ_OK)
        status = p->late ? aqi_output_zeros(&w->out, room, err)
                         : aqi_output_write(&w->out, w->header.out.data, room, err);
    data_at = w->out.offset;
    if (status == AQ_OK)
        status = aqi_output_write(&w->out, p->body.data, p->body.size, err);
    if (status == AQ_OK) status = aqi_tail_write(w, p, err);
    if (status != AQ_OK || !p->late) return status;
    status = aqi_page_header_encode(w, p, err);
    p->start = data_at - (int64_t)w->header.out.size;
    return status != AQ_OK ? status
                           : aqi_output_patch(&w->out, p->start, w->header.out.data,
                                              w->header.out.size, err);
}

/* One page into the ColumnIndex under way: whether it is all null, and its bounds. */
static bool aqi_index_note_bounds(aq_writer *w, const aqi_page_slot *p) {
    aqi_chunk_writer *c = p->chunk;
    const aqi_extremes *r = &p->range;
    aqi_bound min, max;
    aqi_extremes *last = &c->last;
    aqi_order order = aqi_order_of(c->field);
    uint8_t null_page = p->v.num_values == 0 ? AQI_T_TRUE : AQI_T_FALSE;
    size_t size = c->field->type == AQ_FIXED_LEN_BYTE_ARRAY
                      ? (size_t)c->field->type_length
                      : 0;
    min.value.data = max.value.data = NULL;
    min.value.size = max.value.size = 0;
    if (null_page == AQI_T_FALSE &&
        (r->min == NULL || r->nan ||
         !aqi_bound_make(c->field, r->min, false, AQI_PAGE_BOUND_LIMIT, &min) ||
         !aqi_bound_make(c->field, r->max, true, AQI_PAGE_BOUND_LIMIT, &max))) {
        c->no_column_index = true;
        return true;
    }
    aqi_thrift_put_varint(&w->mins, min.value.size);
    aqi_thrift_put(&w->mins, min.value.data, min.value.size);
    aqi_thrift_put_varint(&w->maxs, max.value.size);
    aqi_thrift_put(&w->maxs, max.value.data, max.value.size);
    aqi_thrift_put_int(&w->null_counts, p->v.num_levels - p->v.num_values);
    if (null_page == AQI_T_FALSE) {
        int low = 0, high = 0;
        if (last->min != NULL) low = aqi_order_compare(order, size, last->min, r->min);
        if (last->min != NULL) high = aqi_order_compare(order, size, last->max, r->max);
        c->not_ascending = c->not_ascending || low > 0 || high > 0;
        c->not_descending = c->not_descending || low < 0 || high < 0;
        *last = *r;
    }
    return aqi_builder_append(&w->allocator, &w->null_pages, &null_page, 1);
}

/* The page just written, into the statistics and the page index of its chunk. */
static bool aqi_writer_note_page(aq_writer *w, const aqi_page_slot *p) {
    aqi_chunk_writer *c = p->chunk;
    aqi_page_location location;
    bool ok = true;
    if (c->spec->write_statistics) {
        if (p->range.min != NULL) aqi_extremes_add(c->field, p->range.min, 1, &c->range);
        if (p->range.min != NULL) aqi_extremes_add(c->field, p->range.max, 1, &c->range);
        c->range.nan = c->range.nan || p->range.nan;
        if (w->page_index && !c->no_column_index) ok = aqi_index_note_bounds(w, p);
    }
    if (!w->page_index) return true;
    memset(&location, 0, sizeof location);
    AQI_SET(&location, aqi_page_location, offset, p->start);
    AQI_SET(&location, aqi_page_location, compressed_page_size, (int32_t)p->stored);
    AQI_SET(&location, aqi_page_location, first_row_index, p->first_row);
    aqi_thrift_write(&w->locations, &aqi_page_location_type, &location);
    return ok && !w->locations.failed && !w->mins.failed && !w->maxs.failed &&
           !w->null_counts.failed;
}

/* An encoded page to the file, and into its chunk's account. */
static aq_status aqi_page_emit(aq_writer *w, aqi_page_slot *p, aq_error *err) {
    aqi_chunk_writer *c = p->chunk;
    aq_status status = aqi_page_write(w, p, err);
    if (status != AQ_OK) return status;
    p->stored = w->header.out.size + p->body.size + p->tail_bytes;
    if (p->first) {
        c->data_start = p->start;
        w->null_pages.size = w->mins.out.size = w->maxs.out.size = 0;
        w->null_counts.out.size = w->locations.out.size = 0;
    }
    if (p->dictionary) c->dictionary_start = p->start;
    c->num_pages += !p->dictionary;
    c->plain_bytes += (int64_t)(w->header.out.size + p->plain_bytes);
    c->stored_bytes += (int64_t)p->stored;
    if (p->dictionary || aqi_writer_note_page(w, p)) return AQ_OK;
    return aqi_fail_nomem(err, w->locations.out.size);
}

static void aqi_index_put_list(aqi_thrift_writer *to, aqi_thrift_type wire,
                               const aqi_bytes_builder *items, int32_t count) {
    aqi_thrift_put_byte(to, 1u << 4 | AQI_T_LIST); /* the next field */
    aqi_thrift_put_list_header(to, (uint32_t)wire, (uint32_t)count);
    aqi_thrift_put(to, items->data, items->size);
}

/* Encodes both indexes of the chunk, of which `columns` ends with the ColumnChunk. */
static bool aqi_writer_note_index(aq_writer *w, const aqi_chunk_writer *c,
                                  size_t columns_before) {
    aqi_thrift_writer *to = &w->column_indexes;
    aqi_offset_index offsets;
    aqi_chunk_record record;
    memset(&record, 0, sizeof record);
    memset(&offsets, 0, sizeof offsets);
    w->columns.out.size--;
    record.head_bytes = w->columns.out.size - columns_before;
    if (c->spec->write_statistics && !c->no_column_index) {
        record.column_index_bytes = to->out.size;
        aqi_index_put_list(to, AQI_T_TRUE, &w->null_pages, c->num_pages);
        aqi_index_put_list(to, AQI_T_BINARY, &w->mins.out, c->num_pages);
        aqi_index_put_list(to, AQI_T_BINARY, &w->maxs.out, c->num_pages);
        aqi_thrift_put_byte(to, 1u << 4 | AQI_T_I32); /* boundary_order */
        aqi_thrift_put_int(to, !c->not_ascending ? 1 : !c->not_descending ? 2 : 0);
        aqi_index_put_list(to, AQI_T_I64, &w->null_counts.out, c->num_pages);
        aqi_thrift_put_byte(to, AQI_T_STOP);
        record.column_index_bytes = to->out.size - record.column_index_bytes;
    }
    offsets.page_locations.items = w->locations.out.data;
    offsets.page_locations.count = (uint32_t)c->num_pages;
    offsets.page_locations.encoded_bytes = w->locations.out.size;
    AQI_MARK(&offsets, aqi_offset_index, page_locations);
    record.offset_index_bytes = w->offset_indexes.out.size;
    aqi_thrift_write(&w->offset_indexes, &aqi_offset_index_type, &offsets);
    record.offset_index_bytes = w->offset_indexes.out.size - record.offset_index_bytes;
    return !to->failed && !w->offset_indexes.failed &&
           aqi_builder_append(&w->allocator, &w->chunk_records, &record, sizeof record);
}

static uint32_t aqi_hash_bytes(aq_bytes b) {
    const uint64_t odd = 0x9e3779b97f4a7c15u;
    uint64_t h = (b.size + 1) * odd, word;
    size_t i, k;
    for (i = 0; i + 8 <= b.size; i += 8) {
        h = (h ^ aqi_load_le64(b.data + i)) * odd;
        h ^= h >> 29;
    }
    for (word = 0, k = 0; i < b.size; i++, k += 8) word |= (uint64_t)b.data[i] << k;
    h = (h ^ word) * odd;
    return (uint32_t)((h ^ h >> 32) * odd >> 32);
}

/* Makes the hash table twice as large. It holds entry + 1, 0 = free; firsts holds the
 * place of the first value of each entry. */
static bool aqi_dictionary_grow(const aq_allocator *a, aqi_chunk_writer *c) {
    size_t count = c->firsts.size / sizeof(size_t), entry, i, size;
    uint32_t *slots;
    size = c->slots.size == 0 ? 256 : c->slots.size / sizeof(uint32_t) * 2;
    c->slots.size = 0;
    if (!aqi_builder_reserve(a, &c->slots, size * sizeof(uint32_t)))
        return false;
    c->slots.size = size * sizeof(uint32_t);
    slots = (uint32_t *)(void *)c->slots.data;
    memset(slots, 0, c->slots.size);
    for (entry = 0; entry < count; entry++) {
        size_t first = ((const size_t *)(const void *)c->firsts.data)[entry];
        i = aqi_hash_bytes(aqi_value_view(c->field, c->v.values, first)) & (size - 1);
        while (slots[i] != 0) i = (i + 1) & (size - 1);
        slots[i] = (uint32_t)entry + 1;
    }
    return true;
}

/* The entry of the i-th value, a new one if need be. False: no memory. */
static bool aqi_dictionary_entry(const aq_allocator *a, aqi_chunk_writer *c, size_t i,
                                 uint32_t *out) {
    aq_bytes value = aqi_value_view(c->field, c->v.values, i), other;
    size_t count = c->firsts.size / sizeof i, mask, at;
    uint32_t *slot;
    if (count * 2 * sizeof *slot >= c->slots.size && !aqi_dictionary_grow(a, c))
        return false;
    mask = c->slots.size / sizeof *slot - 1;
    for (at = aqi_hash_bytes(value) & mask;; at = (at + 1) & mask) {
        slot = (uint32_t *)(void *)c->slots.data + at;
        if (*slot == 0) break;
        *out = *slot - 1;
        other = aqi_value_view(c->field, c->v.values,
                               ((const size_t *)(const void *)c->firsts.data)[*out]);
        if (other.size == value.size &&
            (value.size == 0 || memcmp(other.data, value.data, value.size) == 0))
            return true;
    }
    *out = (uint32_t)count;
    *slot = *out + 1;
    return aqi_builder_append(a, &c->firsts, &i, sizeof i);
}

/* Entries and an index for each value. c->entries stays 0 where a dictionary would be
 * too large, or save nothing. */
static aq_status aqi_dictionary_build(const aq_writer *w, aqi_chunk_writer *c,
                                      aq_error *err) {
    const aq_allocator *a = &w->allocator;
    const size_t batch = 4096;
    size_t n = (size_t)c->v.num_values, i, bytes = 0, plain, count = 0;
    c->indices.size = 0;
    c->firsts.size = 0;
    c->slots.size = 0;
    for (i = 0; i < n; i++) {
        uint32_t entry = 0;
        if ((i % batch == 0 &&
             !aqi_builder_reserve(a, &c->indices, batch * sizeof entry)) ||
            !aqi_dictionary_entry(a, c, i, &entry))
            return aqi_fail_nomem(err, c->indices.size);
        memcpy(c->indices.data + c->indices.size, &entry, sizeof entry);
        c->indices.size += sizeof entry;
        if (entry < count) continue;
        count++;
        bytes += aqi_value_view(c->field, c->v.values, i).size;
        bytes += c->field->type == AQ_BYTE_ARRAY ? 4 : 0;
        if (bytes > w->dictionary_limit) return AQ_OK;
    }
    if (n == 0 || !aqi_plain_size(c->field, &c->v, &plain)) return AQ_OK;
    bytes += n / 8 * AQI_MAX(1u, aqi_bits_needed(count - 1));
    if (bytes < plain) c->entries = (uint32_t)count;
    return AQ_OK;
}

/* Which encodings the chunk has; room for 3 and 2. A plain chunk of one page V1 says no
 * more than its list. */
static void aqi_chunk_note_encodings(const aq_writer *w, const aqi_chunk_writer *c,
                                     int32_t *list, aqi_page_encoding_stats *stats,
                                     aqi_column_meta_out *m) {
    uint32_t n = 0, k = 0;
    bool dictionary = c->encoding == AQ_RLE_DICTIONARY;
    list[n++] = (int32_t)c->encoding;
    if (dictionary) list[n++] = AQ_PLAIN;
    if (c->has_levels && c->encoding != AQ_RLE) list[n++] = AQ_RLE;
    m->encodings.items = list;
    m->encodings.count = n;
    AQI_MARK(m, aqi_column_meta_out, encodings);
    if (c->spec->encoding == AQ_PLAIN && c->num_pages == 1 && !w->data_page_v2) return;
    memset(stats, 0, 2 * sizeof *stats);
    if (dictionary) {
        AQI_SET(&stats[k], aqi_page_encoding_stats, page_type, AQI_PAGE_DICTIONARY);
        AQI_SET(&stats[k], aqi_page_encoding_stats, encoding, AQ_PLAIN);
        AQI_SET(&stats[k], aqi_page_encoding_stats, count, 1);
        k++;
    }
    AQI_SET(&stats[k], aqi_page_encoding_stats, page_type,
            w->data_page_v2 ? AQI_PAGE_DATA_V2 : AQI_PAGE_DATA);
    AQI_SET(&stats[k], aqi_page_encoding_stats, encoding, (int32_t)c->encoding);
    AQI_SET(&stats[k], aqi_page_encoding_stats, count, c->num_pages);
    m->encoding_stats.items = stats;
    m->encoding_stats.count = k + 1;
    AQI_MARK(m, aqi_column_meta_out, encoding_stats);
}

/* Encodes the ColumnChunk of the pages just written, for the row group. */
static aq_status aqi_writer_note_chunk(aq_writer *w, const aqi_chunk_writer *c,
                                       aq_error *err) {
    int32_t encodings[3];
    aqi_page_encoding_stats stats[2];
    aqi_bound bounds[2];
    size_t before = w->columns.out.size;
    aqi_column_chunk_out chunk;
    aqi_column_meta_out *m = &chunk.meta_data;
    memset(&chunk, 0, sizeof chunk);
    AQI_SET(&chunk, aqi_column_chunk_out, file_offset, 0);
    AQI_MARK(&chunk, aqi_column_chunk_out, meta_data);
    AQI_SET(m, aqi_column_meta_out, type, (int32_t)c->field->type);
    aqi_chunk_note_encodings(w, c, encodings, stats, m);
    AQI_SET(m, aqi_column_meta_out, path_in_schema, w->column_paths[c->field->column]);
    AQI_SET(m, aqi_column_meta_out, codec, (int32_t)c->spec->codec);
    AQI_SET(m, aqi_column_meta_out, num_values, c->num_levels);
    AQI_SET(m, aqi_column_meta_out, total_uncompressed_size, c->plain_bytes);
    AQI_SET(m, aqi_column_meta_out, total_compressed_size, c->stored_bytes);
    AQI_SET(m, aqi_column_meta_out, data_page_offset, c->data_start);
    if (c->dictionary_start > 0)
        AQI_SET(m, aqi_column_meta_out, dictionary_page_offset, c->dictionary_start);
    if (c->spec->num_key_values > 0)
        AQI_SET(m, aqi_column_meta_out, key_value_metadata,
                w->spec_pairs[c->spec - w->specs]);
    if (c->spec->write_statistics) {
        AQI_MARK(m, aqi_column_meta_out, statistics);
        aqi_statistics_make(c, bounds, &m->statistics);
    }
    aqi_thrift_write(&w->columns, &aqi_column_chunk_out_type, &chunk);
    if (w->columns.failed || (w->page_index && !aqi_writer_note_index(w, c, before)))
        return aqi_fail_nomem(err, 256);
    w->group_bytes += m->total_uncompressed_size;
    w->group_stored += m->total_compressed_size;
    if (w->column == 0)
        w->group_start = c->dictionary_start > 0 ? c->dictionary_start : c->data_start;
    return AQ_OK;
}

/* Room for the chunks of a call, and for pages side by side. */
static aq_status aqi_writer_make_room(aq_writer *w, size_t count, aq_error *err) {
    const aq_allocator *a = &w->allocator;
    size_t width = w->tasks == NULL ? 1 : w->tasks->width == 0 ? 8 : w->tasks->width;
    if (w->num_slots == 0) {
        size_t slots = width == 1 ? 1 : AQI_MIN(2 * width, (size_t)64);
        w->slots = (aqi_page_slot *)aqi_alloc(a, slots * sizeof *w->slots);
        if (w->slots == NULL) return aqi_fail_nomem(err, slots * sizeof *w->slots);
        memset(w->slots, 0, slots * sizeof *w->slots);
        w->num_slots = slots;
    }
    if (w->num_chunks < count) {
        size_t bytes = count * sizeof *w->chunks, old = w->num_chunks * sizeof *w->chunks;
        aqi_chunk_writer *chunks = (aqi_chunk_writer *)aqi_alloc(a, bytes);
        if (chunks == NULL) return aqi_fail_nomem(err, bytes);
        if (old > 0) memcpy(chunks, w->chunks, old);
        memset((uint8_t *)chunks + old, 0, bytes - old);
        aqi_free(a, w->chunks, old);
        w->chunks = chunks;
        w->num_chunks = count;
    }
    return AQ_OK;
}

/* The chunk of the index-th column of a call: its dictionary buffers stay. */
static void aqi_chunk_reset(const aq_writer *w, size_t index, const aq_column_values *v) {
    aqi_chunk_writer *c = &w->chunks[index], fresh;
    int32_t leaf = w->schema.leaves[w->column + (int32_t)index];
    bool dictionary;
    memset(&fresh, 0, sizeof fresh);
    fresh.indices = c->indices;
    fresh.firsts = c->firsts;
    fresh.slots = c->slots;
    fresh.field = &w->schema.fields[leaf];
    fresh.spec = &w->specs[leaf - 1];
    fresh.v = *v;
    fresh.has_levels = fresh.field->max_def > 0 || fresh.field->max_rep > 0;
    dictionary = fresh.spec->encoding == AQ_RLE_DICTIONARY;
    fresh.encoding = dictionary ? AQ_PLAIN : fresh.spec->encoding;
    *c = fresh;
}

/* Values that stay where they are make pages as long as the chunk; those that are copied,
 * encoded or compressed make pages that fit a cache. */
static size_t aqi_chunk_page_bytes(const aq_writer *w, const aqi_chunk_writer *c) {
    if (w->page_bytes > 0) return w->page_bytes;
    return c->spec->codec == AQ_UNCOMPRESSED && c->encoding == AQ_PLAIN &&
                   c->field->type != AQ_BOOLEAN
               ? (size_t)1 << 30
               : (size_t)1 << 20;
}

/* Levels or list offsets checked, rows counted, dictionary built: a task. */
static void aqi_chunk_prepare(void *arg, size_t index) {
    const aq_writer *w = (const aq_writer *)arg;
    aqi_chunk_writer *c = &w->chunks[index];
    aqi_error_clear(&c->err);
    if (c->v.num_values < 0 || (c->v.num_values > 0 && c->v.values == NULL)) {
        c->status = aqi_fail(&c->err, AQ_E_ARG, "column values missing");
    } else if (aqi_has_offsets(&c->v)) {
        c->status = aqi_chunk_take_lists(w, c, &c->err);
    } else {
        c->status = aqi_writer_check_levels(c->field, &c->v, &c->num_rows, &c->err);
    }
    if (c->status != AQ_OK) return;
    c->num_levels = c->has_levels ? c->v.num_levels : c->v.num_values;
    if (c->spec->encoding == AQ_RLE_DICTIONARY) {
        c->status = aqi_dictionary_build(w, c, &c->err);
        if (c->entries > 0) c->encoding = AQ_RLE_DICTIONARY;
    }
    c->page_bytes = aqi_chunk_page_bytes(w, c);
}

/* Encodes what waits, then writes it in order. The first failed page gives the error. */
static aq_status aqi_writer_flush(aq_writer *w, aq_error *err) {
    aq_status status = AQ_OK;
    size_t i;
    aqi_run(w->tasks, w->queued, aqi_page_encode, w);
    for (i = 0; i < w->queued && status == AQ_OK; i++) {
        aqi_page_slot *p = &w->slots[i];
        status = p->status;
        if (status != AQ_OK && err != NULL) *err = p->err;
        if (status == AQ_OK) status = aqi_page_emit(w, p, err);
        if (status == AQ_OK && p->last) status = aqi_writer_note_chunk(w, p->chunk, err);
        if (status == AQ_OK) w->column += p->last;
    }
    w->queued = 0;
    w->queued_bytes = 0;
    return status;
}

#define AQI_ENCODE_WAVE_BYTES ((size_t)64 << 20)

/* The next page of the chunk, its dictionary first, into the queue. */
static aq_status aqi_writer_queue_page(aq_writer *w, aqi_chunk_writer *c, bool dictionary,
                                       aq_error *err) {
    aqi_page_slot *p = &w->slots[w->queued++];
    p->dictionary = dictionary;
    aqi_error_clear(&p->err);
    if (dictionary) {
        p->chunk = c;
        p->first = p->last = false;
        memset(&p->v, 0, sizeof p->v);
    } else {
        aqi_page_cut(c, p);
        w->queued_bytes += c->page_bytes;
    }
    if (w->queued < w->num_slots && w->queued_bytes < AQI_ENCODE_WAVE_BYTES) return AQ_OK;
    return aqi_writer_flush(w, err);
}

static aq_status aqi_writer_put(aq_writer *w, const aq_column_values *v, size_t count,
                                aq_error *err) {
    size_t i;
    aq_status status = aqi_writer_make_room(w, count, err);
    if (status != AQ_OK) return status;
    for (i = 0; i < count; i++) aqi_chunk_reset(w, i, &v[i]);
    aqi_run(w->tasks, count, aqi_chunk_prepare, w);
    for (i = 0; i < count; i++) {
        aqi_chunk_writer *c = &w->chunks[i];
        if (c->status == AQ_OK && w->column + (int32_t)i > 0 &&
            c->num_rows != w->group_rows)
            c->status = aqi_fail(&c->err, AQ_E_ARG,
                                 "column has %lld rows, the ones before it %lld",
                                 (long long)c->num_rows, (long long)w->group_rows);
        if (c->status != AQ_OK) {
            if (err != NULL) *err = c->err;
            return aqi_error_in_column(err, c->status, (int32_t)w->num_row_groups,
                                       w->column + (int32_t)i,
                                       w->schema.paths[w->column + (int32_t)i]);
        }
        w->group_rows = c->num_rows;
    }
    for (i = 0; i < count && status == AQ_OK; i++) {
        aqi_chunk_writer *c = &w->chunks[i];
        if (c->entries > 0) status = aqi_writer_queue_page(w, c, true, err);
        do {
            if (status == AQ_OK) status = aqi_writer_queue_page(w, c, false, err);
        } while (status == AQ_OK && c->level < c->num_levels);
    }
    if (status == AQ_OK) status = aqi_writer_flush(w, err);
    return aqi_error_in_column(err, status, (int32_t)w->num_row_groups, w->column,
                               w->schema.paths[w->column < w->schema.num_columns
                                                   ? w->column
                                                   : w->schema.num_columns - 1]);
}

aq_status aq_writer_put_columns(aq_writer *writer, const aq_column_values *columns,
                                size_t count, aq_error *err) {
    aq_status status;
    aqi_error_clear(err);
    status = aqi_writer_usable(writer, err);
    if (status != AQ_OK || count == 0) return status;
    if (count > (size_t)(writer->schema.num_columns - writer->column))
        return aqi_fail(err, AQ_E_STATE,
                        "%zu columns where the row group has room for %d of its %d",
                        count, (int)(writer->schema.num_columns - writer->column),
                        (int)writer->schema.num_columns);
    status = aqi_writer_put(writer, columns, count, err);
    return status == AQ_OK ? status : aqi_writer_failed(writer, status);
}

aq_status aq_writer_put_column(aq_writer *writer, const aq_column_values *values,
                               aq_error *err) {
    aqi_error_clear(err);
    if (writer->failed == AQ_OK && writer->column == writer->schema.num_columns)
        return aqi_fail(err, AQ_E_STATE,
                        "the row group has all of its %d columns; end it",
                        (int)writer->schema.num_columns);
    return aq_writer_put_columns(writer, values, 1, err);
}

/* The next column chunk, of one row, with its values at *placed; `v` has levels and
 * counts, of byte arrays the sizes, and no values. */
static aq_status aqi_writer_put_placed(aq_writer *w, const aq_column_values *v,
                                       aqi_placed *placed, aq_error *err) {
    aq_status status;
    w->placed = placed;
    status = aq_writer_put_column(w, v, err);
    w->placed = NULL;
    return status;
}

aq_status aq_writer_end_row_group(aq_writer *writer, int64_t num_rows, aq_error *err) {
    aqi_row_group g;
    aq_status status;
    bool ok = true;
    aqi_error_clear(err);
    status = aqi_writer_usable(writer, err);
    if (status != AQ_OK) return status;
    if (writer->column != writer->schema.num_columns)
        return aqi_fail(err, AQ_E_STATE, "the row group has %d of its %d columns",
                        (int)writer->column, (int)writer->schema.num_columns);
    if (num_rows < 0 ||
        (writer->schema.num_columns > 0 && num_rows != writer->group_rows))
        return aqi_fail(err, AQ_E_ARG, "row group of %lld rows; its columns hold %lld",
                        (long long)num_rows, (long long)writer->group_rows);
    if (writer->num_row_groups == AQI_THRIFT_LIST_LIMIT)
        return aqi_fail(err, AQ_E_LIMIT, "over %u row groups", AQI_THRIFT_LIST_LIMIT);
    memset(&g, 0, sizeof g);
    g.columns.items = writer->columns.out.data;
    g.columns.count = (uint32_t)writer->column;
    g.columns.encoded_bytes = writer->columns.out.size;
    AQI_MARK(&g, aqi_row_group, columns);
    AQI_SET(&g, aqi_row_group, total_byte_size, writer->group_bytes);
    AQI_SET(&g, aqi_row_group, num_rows, num_rows);
    if (writer->column > 0) AQI_SET(&g, aqi_row_group, file_offset, writer->group_start);
    AQI_SET(&g, aqi_row_group, total_compressed_size, writer->group_stored);
    if (writer->num_row_groups <= INT16_MAX)
        AQI_SET(&g, aqi_row_group, ordinal, (int16_t)writer->num_row_groups);
    g.sorting_columns = writer->sorting_columns;
    if (g.sorting_columns.count > 0) AQI_MARK(&g, aqi_row_group, sorting_columns);
    if (writer->page_index) {
        ok = aqi_builder_append(&writer->allocator, &writer->group_records, &g, sizeof g);
    } else {
        aqi_thrift_write(&writer->row_groups, &aqi_row_group_type, &g);
        writer->columns.out.size = 0;
    }
    if (!ok || writer->row_groups.failed)
        return aqi_writer_failed(writer,
                                 aqi_fail_nomem(err, writer->row_groups.out.size));
    writer->column = 0;
    writer->group_bytes = 0;
    writer->group_stored = 0;
    writer->num_row_groups++;
    writer->num_rows += num_rows;
    return AQ_OK;
}

/* All column indexes, then all offset indexes, to the file; with their places the row
 * groups are whole. */
static aq_status aqi_writer_put_indexes(aq_writer *w, aq_error *err) {
    const aqi_chunk_record *chunk =
        (const aqi_chunk_record *)(const void *)w->chunk_records.data;
    const uint8_t *head = w->columns.out.data;
    int64_t column_at = w->out.offset;
    int64_t offset_at = column_at + (int64_t)w->column_indexes.out.size;
    aqi_thrift_writer *to = &w->header;
    uint32_t i, k;
    aq_status status = aqi_output_write(&w->out, w->column_indexes.out.data,
                                        w->column_indexes.out.size, err);
    if (status == AQ_OK)
        status = aqi_output_write(&w->out, w->offset_indexes.out.data,
                                  w->offset_indexes.out.size, err);
    for (i = 0; i < w->num_row_groups && status == AQ_OK; i++) {
        aqi_row_group g;
        memcpy(&g, w->group_records.data + i * sizeof g, sizeof g);
        to->out.size = 0;
        for (k = 0; k < g.columns.count; k++, chunk++) {
            if (AQI_MAX(chunk->column_index_bytes, chunk->offset_index_bytes) > INT32_MAX)
                return aqi_fail(err, AQ_E_LIMIT, "page index of over 2 GiB; raise "
                                "page_bytes");
            aqi_thrift_put(to, head, chunk->head_bytes); /* its last field is 3 */
            aqi_thrift_put_byte(to, 1u << 4 | AQI_T_I64);
            aqi_thrift_put_int(to, offset_at);
            aqi_thrift_put_byte(to, 1u << 4 | AQI_T_I32);
            aqi_thrift_put_int(to, (int64_t)chunk->offset_index_bytes);
            if (chunk->column_index_bytes > 0) {
                aqi_thrift_put_byte(to, 1u << 4 | AQI_T_I64);
                aqi_thrift_put_int(to, column_at);
                aqi_thrift_put_byte(to, 1u << 4 | AQI_T_I32);
                aqi_thrift_put_int(to, (int64_t)chunk->column_index_bytes);
            }
            aqi_thrift_put_byte(to, AQI_T_STOP);
            head += chunk->head_bytes;
            offset_at += (int64_t)chunk->offset_index_bytes;
            column_at += (int64_t)chunk->column_index_bytes;
        }
        g.columns.items = to->out.data;
        g.columns.encoded_bytes = to->out.size;
        aqi_thrift_write(&w->row_groups, &aqi_row_group_type, &g);
        if (to->failed || w->row_groups.failed)
            return aqi_fail_nomem(err, w->row_groups.out.size);
    }
    return status;
}

static aq_status aqi_writer_footer(aq_writer *w, aq_error *err) {
    aqi_column_order order;
    aqi_file_meta m;
    uint8_t tail[8];
    int32_t i;
    void *orders;
    aq_status status = aqi_arena_alloc(
        &w->arena, (size_t)w->schema.num_columns * sizeof(aqi_column_order), &orders,
        err);
    if (status != AQ_OK) return status;
    memset(&order, 0, sizeof order);
    AQI_MARK(&order, aqi_column_order, type_order);
    for (i = 0; i < w->schema.num_columns; i++) ((aqi_column_order *)orders)[i] = order;
    memset(&m, 0, sizeof m);
    AQI_SET(&m, aqi_file_meta, version, 2);
    m.schema.items = w->elements;
    m.schema.count = w->num_elements;
    AQI_MARK(&m, aqi_file_meta, schema);
    AQI_SET(&m, aqi_file_meta, num_rows, w->num_rows);
    m.row_groups.items = w->row_groups.out.data;
    m.row_groups.count = w->num_row_groups;
    m.row_groups.encoded_bytes = w->row_groups.out.size;
    AQI_MARK(&m, aqi_file_meta, row_groups);
    m.key_value_metadata.items = w->pairs.out.data;
    m.key_value_metadata.count = w->num_pairs;
    m.key_value_metadata.encoded_bytes = w->pairs.out.size;
    if (w->num_pairs > 0) AQI_MARK(&m, aqi_file_meta, key_value_metadata);
    AQI_SET(&m, aqi_file_meta, created_by, w->created_by);
    m.column_orders.items = orders;
    m.column_orders.count = (uint32_t)w->schema.num_columns;
    AQI_MARK(&m, aqi_file_meta, column_orders);
    w->header.out.size = 0;
    aqi_thrift_write(&w->header, &aqi_file_meta_type, &m);
    if (w->header.failed) return aqi_fail_nomem(err, w->header.out.size);
    if (w->header.out.size > INT32_MAX)
        return aqi_fail(err, AQ_E_LIMIT, "footer of %zu bytes; the format allows 2 GiB",
                        w->header.out.size);
    aqi_store_le32(tail, (uint32_t)w->header.out.size);
    memcpy(tail + 4, "PAR1", 4);
    status = aqi_output_write(&w->out, w->header.out.data, w->header.out.size, err);
    return status == AQ_OK ? aqi_output_write(&w->out, tail, 8, err) : status;
}

static aq_status aqi_writer_finish(aq_writer *writer, int64_t *out_bytes,
                                   aq_error *err) {
    aq_status status = aqi_writer_usable(writer, err);
    if (status == AQ_OK && writer->column != 0)
        status = aqi_fail(err, AQ_E_STATE, "the last row group has %d of its %d columns",
                          (int)writer->column, (int)writer->schema.num_columns);
    if (status == AQ_OK && writer->page_index)
        status = aqi_writer_put_indexes(writer, err);
    if (status == AQ_OK) status = aqi_writer_footer(writer, err);
    *out_bytes = writer->out.offset;
    if (status == AQ_OK) status = aqi_output_commit(&writer->out, err);
    aqi_writer_free(writer);
    return status;
}

aq_status aq_writer_finish(aq_writer *writer, aq_error *err) {
    int64_t bytes;
    aqi_error_clear(err);
    return aqi_writer_finish(writer, &bytes, err);
}

void aq_writer_abort(aq_writer *writer) {
    if (writer != NULL) aqi_writer_free(writer);
}

#endif /* AQ_NO_WRITER */

/*==========================================================================
 * MARK: - [80] Quantization, dequantization, dot, metrics (private)
 * A tensor is cut into tiles whose borders depend on its layout only. Tiles run in
 * parallel; what they report is joined in their order, so that threads cannot change a
 * result.
 *========================================================================*/

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#endif

#define AQI_TILE_VALUES 65536u
#define AQI_WAVE 256u        /* tiles whose reports are held at a time                */

const char *aq_dtype_name(aq_dtype dtype) {
    switch (dtype) {
#define AQ_X(enumerator, value, name, bytes, safetensors)                                \
    case enumerator:                                                                     \
        return name;
        AQ_DTYPE_LIST(AQ_X)
#undef AQ_X
    case AQ_DTYPE_NONE:
        break;
    }
    return "none";
}

size_t aq_dtype_bytes(aq_dtype dtype) {
    switch (dtype) {
#define AQ_X(enumerator, value, name, bytes, safetensors)                                \
    case enumerator:                                                                     \
        return bytes;
        AQ_DTYPE_LIST(AQ_X)
#undef AQ_X
    case AQ_DTYPE_NONE:
        break;
    }
    return 0;
}

bool aq_dtype_is_float(aq_dtype dtype) { return dtype >= AQ_F32 && dtype <= AQ_F64; }

/* Levels that suit weights: closer around zero, which is one of 16. The middle between
 * two neighbours is a half, as far as that goes, so that rounding to integers first loses
 * nothing. Level + 128, as integer dot products take them: a zero point of 128 undoes
 * it. */
#define AQI_LEVELS2(X) X(-128) X(-40) X(7) X(71)
#define AQI_LEVELS4(X)                                                                   \
    X(-128) X(-103) X(-80) X(-61) X(-46) X(-31) X(-18) X(-9)                             \
    X(0) X(13) X(26) X(39) X(54) X(73) X(94) X(127)

static const uint8_t *aqi_codebook(uint32_t bits) {
#define AQ_X(level) level + 128,
    static const uint8_t two[4] = {AQI_LEVELS2(AQ_X)}, four[16] = {AQI_LEVELS4(AQ_X)};
#undef AQ_X
    return bits == 2 ? two : bits == 4 ? four : NULL;
}

const int8_t *aq_codebook(uint32_t bits) {
#define AQ_X(level) level,
    static const int8_t two[4] = {AQI_LEVELS2(AQ_X)}, four[16] = {AQI_LEVELS4(AQ_X)};
#undef AQ_X
    return bits == 2 ? two : bits == 4 ? four : NULL;
}

/* Small parameters: for each row its factors, float32; then a scale for each group, then
 * (not symmetric, no codebook) a zero point or minimum for each. Little-endian.
 *   F16       power of two; scale / factor, zero point as float16
 *   U8        scale and minimum of 1; scale as uint8, minimum as int8
 *   codebook  scale of 1; scale as int8 */
static bool aqi_params_has_minima(const aq_layout *l) {
    return !l->symmetric && !l->codebook;
}

static size_t aqi_params_factors(const aq_layout *l) {
    return l->params == AQ_PARAMS_U8 && aqi_params_has_minima(l) ? 2 : 1;
}

static bool aqi_params_size(const aq_layout *l, size_t *out_bytes) {
    size_t factors, groups, each = l->params == AQ_PARAMS_F16 ? 2 : 1;
    if (aqi_params_has_minima(l)) each *= 2;
    *out_bytes = 0;
    if (l->params == AQ_PARAMS_F32) return true;
    return aqi_mul_size(l->rows, aqi_params_factors(l) * sizeof(float), &factors) &&
           aqi_mul_size(l->num_groups, each, &groups) &&
           aqi_add_size(factors, groups, out_bytes);
}

/* row_bytes, code_bytes, num_groups, params_bytes from the other fields. */
static aq_status aqi_layout_complete(aq_layout *l, aq_error *err) {
    size_t bits, group_rows;
    l->groups_per_row = l->cols / l->group_cols + (l->cols % l->group_cols != 0);
    group_rows = l->rows / l->group_rows + (l->rows % l->group_rows != 0);
    if (!aqi_mul_size(l->cols, l->code_bits, &bits) || !aqi_add_size(bits, 7, &bits) ||
        !aqi_mul_size(l->rows, bits / 8, &l->code_bytes) ||
        !aqi_mul_size(group_rows, l->groups_per_row, &l->num_groups) ||
        l->num_groups > SIZE_MAX / sizeof(float))
        return aqi_fail(err, AQ_E_LIMIT,
                        "tensor of %zu x %zu is too large for this machine", l->rows,
                        l->cols);
    l->row_bytes = bits / 8;
    if (!aqi_params_size(l, &l->params_bytes))
        return aqi_fail(err, AQ_E_LIMIT,
                        "parameters of a tensor of %zu x %zu are too large for this "
                        "machine",
                        l->rows, l->cols);
    return AQ_OK;
}

/* Of those that we make; other writers' codes may have others. */
static bool aqi_is_width(uint32_t bits) { return bits >= 2 && bits <= 8 && bits != 7; }

static aq_status aqi_quant_options_resolve(const aq_quant_options *in,
                                           aq_quant_options *out, aq_error *err) {
    memset(out, 0, sizeof *out);
    if (in != NULL) *out = *in;
    if (out->bits == 0) out->bits = 4;
    if (out->group_size == 0) out->group_size = 128;
    if (!aqi_is_width(out->bits))
        return aqi_fail(err, AQ_E_ARG, "%u bits; choose 2, 3, 4, 5, 6 or 8", out->bits);
    if (out->group_size < AQ_MIN_GROUP_SIZE)
        return aqi_fail(err, AQ_E_ARG, "group size %zu; choose %d or more",
                        out->group_size, AQ_MIN_GROUP_SIZE);
    if ((int)out->granularity < AQ_PER_GROUP || out->granularity > AQ_PER_TENSOR)
        return aqi_fail(err, AQ_E_ARG, "granularity %d is none of aq_granularity",
                        (int)out->granularity);
    if (out->method == AQ_METHOD_AUTO) out->method = AQ_REFINE;
    if ((int)out->method < AQ_METHOD_AUTO || out->method > AQ_WEIGHTED)
        return aqi_fail(err, AQ_E_ARG, "method %d is none of aq_method",
                        (int)out->method);
    if ((out->method == AQ_WEIGHTED) != (out->importance != NULL))
        return aqi_fail(err, AQ_E_ARG,
                        "importance of columns and AQ_WEIGHTED go together");
    if (out->codebook && out->params == AQ_PARAMS_F32) out->params = AQ_PARAMS_U8;
    if ((int)out->params < AQ_PARAMS_F32 || out->params > AQ_PARAMS_U8)
        return aqi_fail(err, AQ_E_ARG, "parameters %d are none of aq_params",
                        (int)out->params);
    if (out->params != AQ_PARAMS_F32 && out->granularity == AQ_PER_TENSOR)
        return aqi_fail(err, AQ_E_ARG,
                        "one scale for a tensor is float32; small parameters are for "
                        "groups and channels");
    if (out->codebook &&
        (aqi_codebook(out->bits) == NULL || out->symmetric ||
         out->params != AQ_PARAMS_U8))
        return aqi_fail(err, AQ_E_ARG,
                        "a codebook has 2 or 4 bits, 8-bit scales, and is not symmetric");
    return AQ_OK;
}

aq_status aq_layout_init(size_t rows, size_t cols, const aq_quant_options *options,
                         aq_layout *out_layout, aq_error *err) {
    aq_quant_options o;
    aq_layout l;
    aq_status status;
    aqi_error_clear(err);
    memset(out_layout, 0, sizeof *out_layout);
    status = aqi_quant_options_resolve(options, &o, err);
    if (status != AQ_OK) return status;
    memset(&l, 0, sizeof l);
    l.bits = o.bits;
    l.code_bits = o.bits;
    l.granularity = o.granularity;
    l.symmetric = o.symmetric;
    l.method = o.method;
    l.importance = o.importance;
    l.src_stride = o.src_stride;
    l.params = o.params;
    l.codebook = o.codebook;
    l.rows = rows;
    l.cols = cols;
    l.group_rows = o.granularity == AQ_PER_TENSOR ? AQI_MAX(rows, (size_t)1) : 1;
    l.group_cols =
        o.granularity == AQ_PER_GROUP ? o.group_size : AQI_MAX(cols, (size_t)1);
    if (o.src_stride != 0 && o.src_stride < cols)
        return aqi_fail(err, AQ_E_ARG, "rows of %zu elements cannot be %zu apart", cols,
                        o.src_stride);
    status = aqi_layout_complete(&l, err);
    if (status == AQ_OK) *out_layout = l;
    return status;
}

/* A layout from the caller's memory, before loops trust it. */
static aq_status aqi_layout_check(const aq_layout *l, aq_error *err) {
    aq_layout again;
    if (l == NULL || l->code_bits < l->bits || l->code_bits > 8 || l->bits == 0 ||
        l->group_rows == 0 ||
        l->group_cols == 0)
        return aqi_fail(err, AQ_E_ARG, "layout was not made by aq_layout_init");
    again = *l;
    if (aqi_layout_complete(&again, NULL) != AQ_OK || again.row_bytes != l->row_bytes ||
        again.code_bytes != l->code_bytes || again.num_groups != l->num_groups ||
        again.groups_per_row != l->groups_per_row ||
        again.params_bytes != l->params_bytes || (int)l->params < AQ_PARAMS_F32 ||
        l->params > AQ_PARAMS_U8 ||
        (l->params != AQ_PARAMS_F32 && (l->group_rows != 1 || l->code_bits != l->bits)) ||
        (l->codebook && aqi_codebook(l->bits) == NULL))
        return aqi_fail(err, AQ_E_ARG, "layout was changed after aq_layout_init");
    return AQ_OK;
}

/* ---- metrics ---- */

/* log10 by the same operations everywhere; those of C libraries differ in the last bit.
 * x = m 2^e, sqrt(1/2) <= m < sqrt(2); ln m = 2 artanh((m - 1) / (m + 1)). */
static double aqi_log10(double x) {
    uint64_t bits;
    double m, s, s2, sum = 0.0;
    int e = 0, k;
    if (x < DBL_MIN) {
        x *= 18014398509481984.0; /* 2^54: a subnormal becomes normal */
        e = -54;
    }
    memcpy(&bits, &x, sizeof bits);
    e += (int)(bits >> 52 & 2047) - 1023;
    bits = (bits & 0x000fffffffffffffu) | 0x3ff0000000000000u;
    memcpy(&m, &bits, sizeof m);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        e++;
    }
    s = (m - 1.0) / (m + 1.0);
    s2 = s * s;
    for (k = 23; k >= 1; k -= 2) sum = sum * s2 + 1.0 / (double)k;
    return ((double)e * 0.6931471805599453 + 2.0 * s * sum) * 0.4342944819032518;
}

/* mse, cosine and sqnr_db from the sums. */
static void aqi_metrics_finish(aq_metrics *m) {
    double norms = sqrt(m->sum_aa) * sqrt(m->sum_bb);
    m->mse = m->count == 0 ? 0.0 : m->sum_dd / (double)m->count;
    m->cosine = norms > 0.0 ? m->sum_ab / norms : 0.0;
    m->cosine = AQI_MAX(-1.0, AQI_MIN(1.0, m->cosine));
    if (m->sum_dd == 0.0) {
        m->cosine = 1.0;
        m->sqnr_db = (double)INFINITY;
    } else if (m->sum_aa == 0.0) {
        m->sqnr_db = -(double)INFINITY;
    } else {
        m->sqnr_db = 10.0 * aqi_log10(m->sum_aa / m->sum_dd);
    }
}

void aq_metrics_add(aq_metrics *total, const aq_metrics *part) {
    total->count += part->count;
    total->sum_aa += part->sum_aa;
    total->sum_bb += part->sum_bb;
    total->sum_ab += part->sum_ab;
    total->sum_dd += part->sum_dd;
    total->max_abs_error = AQI_MAX(total->max_abs_error, part->max_abs_error);
    aqi_metrics_finish(total);
}

static double aqi_add_lanes(const double *v) {
    return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
}

static void aqi_sums_close(const aqi_sums *s, uint64_t count, aq_metrics *out) {
    size_t i;
    memset(out, 0, sizeof *out);
    out->count = count;
    out->sum_aa = aqi_add_lanes(s->aa);
    out->sum_bb = aqi_add_lanes(s->bb);
    out->sum_ab = aqi_add_lanes(s->ab);
    out->sum_dd = aqi_add_lanes(s->dd);
    for (i = 0; i < AQI_SUM_LANES; i++)
        out->max_abs_error = AQI_MAX(out->max_abs_error, s->max_abs[i]);
}

typedef struct aqi_metrics_task {
    const float *a, *b;
    size_t count, first_tile;
    aq_metrics *parts;
} aqi_metrics_task;

static void aqi_metrics_tile(void *arg, size_t index) {
    const aqi_metrics_task *t = (const aqi_metrics_task *)arg;
    size_t at = (t->first_tile + index) * AQI_TILE_VALUES;
    size_t n = AQI_MIN(t->count - at, (size_t)AQI_TILE_VALUES);
    aqi_sums sums;
    memset(&sums, 0, sizeof sums);
    aqi_k()->sums(t->a + at, t->b + at, n, &sums);
    aqi_sums_close(&sums, n, &t->parts[index]);
}

aq_status aq_metrics_of(const float *a, const float *b, size_t count,
                        const aq_tasks *tasks, aq_metrics *out_metrics, aq_error *err) {
    aq_metrics parts[AQI_WAVE];
    aqi_metrics_task t;
    size_t tiles = count / AQI_TILE_VALUES + (count % AQI_TILE_VALUES != 0), done, i;
    aqi_error_clear(err);
    memset(out_metrics, 0, sizeof *out_metrics);
    if (count > 0 && (a == NULL || b == NULL))
        return aqi_fail(err, AQ_E_ARG, "values to compare are missing");
    aqi_metrics_finish(out_metrics);
    t.a = a;
    t.b = b;
    t.count = count;
    t.parts = parts;
    for (done = 0; done < tiles; done += AQI_WAVE) {
        size_t wave = AQI_MIN(tiles - done, (size_t)AQI_WAVE);
        t.first_tile = done;
        aqi_run(tasks, wave, aqi_metrics_tile, &t);
        for (i = 0; i < wave; i++) aq_metrics_add(out_metrics, &parts[i]);
    }
    return AQ_OK;
}

/* ---- conversion to float32 ---- */

static void aqi_from_f64(const uint8_t *src, size_t n, float *dst) {
    size_t i;
    for (i = 0; i < n; i++) {
        uint64_t bits = aqi_load_le64(src + 8 * i);
        double d;
        memcpy(&d, &bits, sizeof d);
        dst[i] = (float)d;
    }
}

/* n elements at index `at` of src as floats: in place where they are, else in `room`. */
static const float *aqi_floats_at(const uint8_t *src, aq_dtype dtype, size_t at, size_t n,
                                  float *room) {
    const uint8_t *p = src + at * aq_dtype_bytes(dtype);
    if (dtype == AQ_F32 && !AQI_BIG_ENDIAN && (uintptr_t)p % sizeof(float) == 0)
        return (const float *)(const void *)p;
    if (dtype == AQ_F32) aqi_copy_le(room, p, n, sizeof(float));
    if (dtype == AQ_F16) aqi_k()->from_f16(p, n, room);
    if (dtype == AQ_BF16) aqi_k()->from_bf16(p, n, room);
    if (dtype == AQ_F64) aqi_from_f64(p, n, room);
    return room;
}

static void aqi_floats_to(const float *src, size_t n, aq_dtype dtype, uint8_t *dst) {
    size_t i;
    if (dtype == AQ_F32) aqi_copy_le(dst, src, n, sizeof(float));
    if (dtype == AQ_F16) aqi_k()->to_f16(src, n, dst);
    if (dtype == AQ_BF16) aqi_k()->to_bf16(src, n, dst);
    for (i = 0; i < n && dtype == AQ_F64; i++) {
        double d = (double)src[i];
        uint64_t bits;
        memcpy(&bits, &d, sizeof bits);
        aqi_store_le64(dst + 8 * i, bits);
    }
}

aq_status aq_to_f32(const void *src, aq_dtype src_dtype, size_t count, float *dst,
                    aq_error *err) {
    size_t at;
    aqi_error_clear(err);
    if (!aq_dtype_is_float(src_dtype) || (count > 0 && (src == NULL || dst == NULL)))
        return aqi_fail(err, AQ_E_ARG, "cannot convert type %s to float32",
                        aq_dtype_name(src_dtype));
    for (at = 0; at < count; at += AQI_PIECE) {
        size_t n = AQI_MIN(count - at, (size_t)AQI_PIECE);
        const float *p = aqi_floats_at((const uint8_t *)src, src_dtype, at, n, dst + at);
        if (p != dst + at) memcpy(dst + at, p, n * sizeof(float));
    }
    return AQ_OK;
}

aq_status aq_from_f32(const float *src, size_t count, void *dst, aq_dtype dst_dtype,
                      aq_error *err) {
    aqi_error_clear(err);
    if (!aq_dtype_is_float(dst_dtype) || (count > 0 && (src == NULL || dst == NULL)))
        return aqi_fail(err, AQ_E_ARG, "cannot convert float32 to type %s",
                        aq_dtype_name(dst_dtype));
    aqi_floats_to(src, count, dst_dtype, (uint8_t *)dst);
    return AQ_OK;
}

/* ---- tiles ---- */

/* Rows [row, row_end) and columns [col, col_end); col is a multiple of 8 and of the
 * group. */
typedef struct aqi_tile {
    size_t row, row_end, col, col_end;
} aqi_tile;

typedef struct aqi_tiling {
    size_t rows, cols;           /* of a tile       */
    size_t per_row, count;       /* tiles           */
} aqi_tiling;

/* Whole rows; rows longer than a tile are cut between groups where groups are short. */
static aqi_tiling aqi_tiling_make(const aq_layout *l, size_t num_rows) {
    aqi_tiling t;
    size_t step = l->group_cols <= AQI_TILE_VALUES / 8 ? l->group_cols * 8 : l->cols;
    t.cols = l->cols;
    if (l->cols > AQI_TILE_VALUES && step < l->cols && l->params == AQ_PARAMS_F32)
        t.cols = AQI_MAX(AQI_TILE_VALUES / step, (size_t)1) * step;
    t.rows = t.cols == 0 ? AQI_MAX(num_rows, (size_t)1)
                         : AQI_MAX(AQI_TILE_VALUES / t.cols, (size_t)1);
    t.per_row = t.cols == 0 ? 0 : l->cols / t.cols + (l->cols % t.cols != 0);
    t.count = t.per_row * (num_rows / t.rows + (num_rows % t.rows != 0));
    return t;
}

static aqi_tile aqi_tile_at(const aqi_tiling *t, const aq_layout *l, size_t num_rows,
                            size_t index) {
    aqi_tile tile;
    tile.row = index / t->per_row * t->rows;
    tile.row_end = AQI_MIN(tile.row + t->rows, num_rows);
    tile.col = index % t->per_row * t->cols;
    tile.col_end = AQI_MIN(tile.col + t->cols, l->cols);
    return tile;
}

/* ---- group parameters ---- */

typedef struct aqi_group {
    float scale, zero_point;
    aqi_encode how;
    bool extreme; /* float32 arithmetic could overflow or lose range: encode in double */
    double min_code; /* extreme: the lowest code used */
    bool refined;    /* the codes are those of `fine`, of steps from `base` */
    float base, inverse;
    uint32_t unit;
    aqi_fine fine;
    const uint8_t *places; /* codebook: the code of a level + 128; `how` gives levels */
    const uint8_t *levels; /* codebook: the reverse                                  */
} aqi_group;

/* All values equal c: (code - zero_point) * scale == c exactly. */
static void aqi_group_constant(const aq_layout *l, float c, aqi_group *g) {
    float half = l->symmetric ? (float)(1u << (l->bits - 1)) : 0.0f;
    float sign = c > 0.0f ? 1.0f : c < 0.0f ? -1.0f : 0.0f;
    g->scale = c == 0.0f ? 1.0f : c < 0.0f ? -c : c;
    g->zero_point = l->symmetric ? half : 0.0f - sign;
    g->how.base = c;
    g->how.inverse = 0.0f;
    g->how.bias = l->symmetric ? half + sign : 0.0f;
}

static bool aqi_is_finite(float f) {
    return (aqi_float_bits(f) & 0x7fffffffu) < AQI_INF_BITS;
}

/* Smallest range that holds both. */
static void aqi_range_join(aqi_range *a, const aqi_range *b) {
    a->min = AQI_MIN(a->min, b->min);
    a->max = AQI_MAX(a->max, b->max);
    a->absmax_bits = AQI_MAX(a->absmax_bits, b->absmax_bits);
}

/* Adds n values to a range, or begins it; false, with the index of the first one that is
 * not finite. */
static bool aqi_range_add(const float *p, size_t n, bool begin, aqi_range *range,
                          size_t *out_bad) {
    aqi_range r;
    size_t i;
    aqi_k()->range(p, n, &r);
    if (r.absmax_bits >= AQI_INF_BITS) {
        for (i = 0; aqi_is_finite(p[i]); i++) continue;
        *out_bad = i;
        return false;
    }
    if (begin) *range = r;
    aqi_range_join(range, &r);
    return true;
}

/* The smallest float that is not below x, or FLT_MAX. x is positive. */
static float aqi_float_up(double x) {
    float f = x > (double)FLT_MAX ? FLT_MAX : (float)x;
    if ((double)f < x && f < FLT_MAX) f = aqi_bits_float(aqi_float_bits(f) + 1);
    return f;
}

/* Groups near the ends of float32's range: in double, the scale rounded up so that
 * subnormal scales still span the group. Nothing may decode to infinity: a symmetric
 * group leaves its lowest code out where that would (the next one is within scale / 2);
 * an asymmetric scale goes down by the ulp or two that rounding was too much. */
static void aqi_group_extreme(const aq_layout *l, const aqi_range *r, aqi_group *g) {
    double max_code = (double)g->how.max_code;
    double magnitude = (double)aqi_bits_float(r->absmax_bits);
    double span = l->symmetric ? 2.0 * magnitude : (double)r->max - (double)r->min;
    g->extreme = true;
    g->scale = aqi_float_up(span / max_code);
    if (l->symmetric) {
        g->zero_point = (float)(1u << (l->bits - 1));
        g->min_code = aqi_is_finite((0.0f - g->zero_point) * g->scale) ? 0.0 : 1.0;
        return;
    }
    for (;;) {
        g->zero_point = (float)((0.0 - (double)r->min) / (double)g->scale);
        if (aqi_is_finite((0.0f - g->zero_point) * g->scale) &&
            aqi_is_finite((g->how.max_code - g->zero_point) * g->scale))
            return;
        g->scale = aqi_bits_float(aqi_float_bits(g->scale) - 1);
    }
}

static void aqi_group_make(const aq_layout *l, const aqi_range *r, aqi_group *g) {
    aqi_quantizer z;
    aqi_block b;
    aqi_quantizer_init(&z, l->bits, l->symmetric, false, 1);
    memset(g, 0, sizeof *g);
    g->how.max_code = z.max_code;
    if (r->min == r->max) {
        aqi_group_constant(l, r->min, g);
        return;
    }
    b.min[0] = r->min;
    b.max[0] = r->max;
    b.absmax_bits[0] = r->absmax_bits;
    if (aqi_block_minmax(&b, &z, 1) != 0) {
        aqi_group_extreme(l, r, g);
        return;
    }
    g->scale = b.scale[0];
    g->zero_point = b.zero_point[0];
    g->how.base = b.base[0];
    g->how.inverse = b.inverse[0];
    g->how.bias = b.bias[0];
}

/* The codes of aqi_encode in double: the same formula without float32's limits. */
static void aqi_encode_extreme(const aqi_group *g, const float *src, size_t n,
                               uint8_t *dst) {
    double scale = (double)g->scale, zero_point = (double)g->zero_point;
    double max_code = (double)g->how.max_code;
    size_t i;
    for (i = 0; i < n; i++) {
        double t = (double)src[i] / scale + zero_point;
        uint32_t q;
        t = t > g->min_code ? t : g->min_code;
        t = t < max_code ? t : max_code;
        q = (uint32_t)t;
        t -= (double)q;
        q += t > 0.5 || (t == 0.5 && (q & 1u) != 0) ? 1u : 0u; /* half to even */
        dst[i] = (uint8_t)q;
    }
}

/* ---- small parameters ---- */

/* Where those of a layout lie. */
typedef struct aqi_params_at {
    size_t factors;         /* of a row            */
    size_t scales, seconds; /* bytes from the start */
} aqi_params_at;

static aqi_params_at aqi_params_places(const aq_layout *l) {
    aqi_params_at at;
    at.factors = aqi_params_factors(l);
    at.scales = l->rows * at.factors * sizeof(float);
    at.seconds = at.scales + l->num_groups * (l->params == AQ_PARAMS_F16 ? 2 : 1);
    return at;
}

static float aqi_load_f32(const uint8_t *p) { return aqi_bits_float(aqi_load_le32(p)); }

static void aqi_store_f32(uint8_t *p, float f) { aqi_store_le32(p, aqi_float_bits(f)); }

/* Scale and zero point from 8-bit codes and the factors of their row. */
static void aqi_params_of_u8(const float *factors, int scale, int minimum,
                             float *out_scale, float *out_zero_point) {
    *out_scale = factors[0] * (float)scale;
    *out_zero_point =
        *out_scale > 0.0f ? (0.0f - factors[1] * (float)minimum) / *out_scale : 0.0f;
}

/* The same of `count` groups, 16 at a time: written so that compilers make vectors of it,
 * which they do not of the one above. */
static void aqi_params_of_u8s(const float *factors, const uint8_t *scale_codes,
                              const uint8_t *minima, size_t count, float *scales,
                              float *zero_points) {
    size_t i, k;
    for (i = 0; i + 16 <= count; i += 16) {
        float s[16], m[16];
        for (k = 0; k < 16; k++) {
            s[k] = factors[0] * (float)scale_codes[i + k];
            m[k] = 0.0f - factors[1] * (float)(int8_t)minima[i + k];
        }
        for (k = 0; k < 16; k++) m[k] = m[k] / s[k];
        for (k = 0; k < 16; k++) m[k] = s[k] > 0.0f ? m[k] : 0.0f;
        memcpy(scales + i, s, sizeof s);
        memcpy(zero_points + i, m, sizeof m);
    }
    for (; i < count; i++)
        aqi_params_of_u8(factors, scale_codes[i], (int8_t)minima[i], &scales[i],
                         &zero_points[i]);
}

/* The same of signed or unsigned scales alone. */
static void aqi_params_of_scales(float factor, const uint8_t *codes, bool is_signed,
                                 size_t count, float *scales) {
    const int flip = is_signed ? 128 : 0; /* x ^ 128 - 128: from unsigned to signed */
    size_t i, k;
    for (i = 0; i + 16 <= count; i += 16) {
        float s[16];
        for (k = 0; k < 16; k++) s[k] = factor * (float)((codes[i + k] ^ flip) - flip);
        memcpy(scales + i, s, sizeof s);
    }
    for (; i < count; i++) scales[i] = factor * (float)((codes[i] ^ flip) - flip);
}

/* Scales and zero points of `count` groups from `slot` on, all of one row. */
static void aqi_params_expand(const aq_layout *l, const uint8_t *params, size_t slot,
                              size_t count, float *scales, float *zero_points) {
    const aqi_params_at at = aqi_params_places(l);
    const uint8_t *row = params + slot / l->groups_per_row * at.factors * sizeof(float);
    const uint8_t *first = params + at.scales, *second = params + at.seconds;
    float factors[2], half = l->codebook ? 128.0f : (float)(1u << (l->bits - 1));
    size_t i;
    factors[0] = aqi_load_f32(row);
    factors[1] = at.factors == 2 ? aqi_load_f32(row + 4) : 0.0f;
    if (l->params == AQ_PARAMS_F16) {
        aqi_k()->from_f16(first + 2 * slot, count, scales);
        for (i = 0; i < count; i++) scales[i] *= factors[0];
        if (!l->symmetric) aqi_k()->from_f16(second + 2 * slot, count, zero_points);
    } else if (!aqi_params_has_minima(l)) {
        aqi_params_of_scales(factors[0], first + slot, l->codebook, count, scales);
    } else {
        aqi_params_of_u8s(factors, first + slot, second + slot, count, scales,
                          zero_points);
    }
    for (i = 0; i < count && !aqi_params_has_minima(l); i++) zero_points[i] = half;
}

static aq_status aqi_view_check(const aq_layout *layout, const aq_quantized_view *src,
                                aq_error *err) {
    aq_status status = aqi_layout_check(layout, err);
    if (status != AQ_OK) return status;
    if (layout->code_bytes == 0) return AQ_OK;
    if (src == NULL || src->codes == NULL ||
        (layout->params == AQ_PARAMS_F32
             ? src->scales == NULL || src->zero_points == NULL
             : src->params == NULL))
        return aqi_fail(err, AQ_E_ARG, "codes, scales or zero points missing");
    return AQ_OK;
}

/* Groups whose small parameters are read at a time: a multiple of AQI_X8_LANES segments
 * and of whole blocks of codes. */
#define AQI_SPAN_GROUPS 512u

/* Part of a row, with room for its parameters. */
typedef struct aqi_span {
    aqi_row row;
    float scales[AQI_SPAN_GROUPS], zero_points[AQI_SPAN_GROUPS];
} aqi_span;

/* Columns [col, end) of a row, or the first of them; col is a multiple of 8. */
static void aqi_span_at(const aq_layout *l, const aq_quantized_view *src, size_t row,
                        size_t col, size_t end, aqi_span *s) {
    size_t slot = row / l->group_rows * l->groups_per_row + col / l->group_cols;
    aqi_row *r = &s->row;
    r->codes = src->codes + row * l->row_bytes + col / 8 * l->code_bits;
    r->levels = l->codebook ? aqi_codebook(l->bits) : NULL;
    r->n = end - col;
    r->group = l->group_cols;
    r->skip = col % l->group_cols;
    r->bits = l->code_bits;
    if (l->params == AQ_PARAMS_F32) {
        r->scales = src->scales + slot;
        r->zero_points = src->zero_points + slot;
        return;
    }
    if ((r->skip + r->n - 1) / r->group >= AQI_SPAN_GROUPS)
        r->n = AQI_SPAN_GROUPS * r->group - r->skip;
    aqi_params_expand(l, src->params, slot, (r->skip + r->n - 1) / r->group + 1,
                      s->scales, s->zero_points);
    r->scales = s->scales;
    r->zero_points = s->zero_points;
}

/* ---- quantize ---- */

/* What a tile reports. */
typedef struct aqi_tile_report {
    aq_metrics metrics;
    aqi_range range;
    size_t bad_index; /* of the first NaN or infinity; SIZE_MAX = none */
    bool too_large;   /* it is finite, but too large for small parameters */
} aqi_tile_report;

/* Called between waves; false stops the work. */
typedef struct aqi_watch {
    bool (*fn)(void *user, size_t done, size_t total);
    void *user;
} aqi_watch;

typedef struct aqi_quantize_task {
    const aq_layout *layout;
    const uint8_t *src;
    aq_dtype dtype;
    const aq_layout *coded; /* not NULL: the source is codes, not src */
    const aq_quantized_view *codes;
    const aq_quantized *dst;
    bool measure;
    const aqi_group *tensor_group; /* given when the whole tensor is one group */
    size_t first_row, first_col, full_cols; /* full_cols != 0: the layout is the part of a
                                               tensor that begins there */
    aq_metrics *parts; /* not NULL: of each tile, in order */
    aqi_tiling tiling;
    size_t first_tile;
    aqi_tile_report *reports;
    aqi_watch watch;
} aqi_quantize_task;

/* n values of codes from index `at` on, which need not begin on a byte. */
static void aqi_decode_at(const aq_layout *l, const aq_quantized_view *src, size_t at,
                          size_t n, float *dst) {
    float room[AQI_PIECE];
    aqi_span s;
    while (n > 0) {
        size_t row = at / l->cols, col = at % l->cols, before = col % 8, got;
        got = AQI_MIN(n, AQI_MIN(l->cols - col, AQI_PIECE - before));
        aqi_span_at(l, src, row, col - before, col + got, &s);
        got = s.row.n - before;
        aqi_k()->expand(&s.row, room);
        memcpy(dst, room + before, got * sizeof(float));
        dst += got;
        at += got;
        n -= got;
    }
}

/* n source values from index `at` on, of one row unless rows adjoin: in place where they
 * are floats, else in room. */
static const float *aqi_values_at(const aqi_quantize_task *t, size_t at, size_t n,
                                  float *room) {
    const aq_layout *l = t->layout;
    if (l->src_stride > l->cols && t->coded == NULL)
        at += at / l->cols * (l->src_stride - l->cols);
    if (t->coded == NULL) return aqi_floats_at(t->src, t->dtype, at, n, room);
    aqi_decode_at(t->coded, t->codes, at, n, room);
    return room;
}

/* Codes of a tile's row on their way to memory: packed AQI_PIECE at a time, which ends
 * on a byte for every width. */
typedef struct aqi_packer {
    uint8_t codes[AQI_PIECE];
    size_t fill;
    uint32_t bits;
    uint8_t *dst;
} aqi_packer;

static void aqi_packer_flush(aqi_packer *p) {
    if (p->fill == 0) return;
    aqi_k()->pack(p->codes, p->fill, p->bits, p->dst);
    p->dst += (p->fill * p->bits + 7) / 8;
    p->fill = 0;
}

/* Range of n elements from index `at`; false, with the index, when one is not finite. */
static bool aqi_range_of(const aqi_quantize_task *t, size_t at, size_t n, aqi_range *out,
                         size_t *out_bad) {
    float room[AQI_PIECE];
    size_t done, bad;
    for (done = 0; done < n; done += AQI_PIECE) {
        size_t part = AQI_MIN(n - done, (size_t)AQI_PIECE);
        const float *p = aqi_values_at(t, at + done, part, room);
        if (!aqi_range_add(p, part, done == 0, out, &bad)) {
            *out_bad = at + done + bad;
            return false;
        }
    }
    return true;
}

/* Codes of n <= AQI_PIECE values of group g. */
static void aqi_group_encode(const aqi_group *g, const float *p, size_t n,
                             uint8_t *codes) {
    const struct aqi_kernels *k = aqi_k();
    uint16_t steps[AQI_PIECE];
    aqi_fine_sums unused;
    size_t i;
    if (g->extreme) {
        aqi_encode_extreme(g, p, n, codes);
    } else if (g->refined) {
        memset(&unused, 0, sizeof unused);
        k->steps(p, n, g->base, g->inverse, g->unit, steps);
        k->refit(steps, n, &g->fine, &unused, codes);
    } else {
        k->encode(p, n, &g->how, codes);
    }
    for (i = 0; i < n && g->places != NULL; i++) codes[i] = g->places[codes[i]];
}

/* What codes decode to. */
static void aqi_group_decode(const aqi_group *g, const uint8_t *codes, size_t n,
                             float *dst) {
    uint8_t room[AQI_PIECE];
    size_t i;
    for (i = 0; i < n && g->levels != NULL; i++) room[i] = g->levels[codes[i]];
    aqi_k()->decode(g->levels != NULL ? room : codes, n, g->scale, g->zero_point, dst);
}

/* Encodes n elements from index `at`, all of group g, and measures what decoding
 * gives; sums may be NULL. */
static void aqi_encode_group(const aqi_quantize_task *t, const aqi_group *g, size_t at,
                             size_t n, aqi_packer *packer, aqi_sums *sums) {
    float room[AQI_PIECE], decoded[AQI_PIECE];
    const struct aqi_kernels *k = aqi_k();
    while (n > 0) {
        size_t part = AQI_MIN(n, AQI_PIECE - packer->fill);
        const float *p = aqi_values_at(t, at, part, room);
        uint8_t *codes = packer->codes + packer->fill;
        aqi_group_encode(g, p, part, codes);
        if (sums != NULL) {
            aqi_group_decode(g, codes, part, decoded);
            k->sums(p, decoded, part, sums);
        }
        packer->fill += part;
        if (packer->fill == AQI_PIECE) aqi_packer_flush(packer);
        at += part;
        n -= part;
    }
}

/* ---- refine ---- */

/* The squared error of a group with parameters g. */
static double aqi_group_error(const aqi_quantize_task *t, const aqi_group *g, size_t at,
                              size_t n) {
    float room[AQI_PIECE];
    uint8_t codes[AQI_PIECE];
    double lanes[AQI_SUM_LANES] = {0};
    aqi_decode how;
    size_t done;
    how.scale = g->scale;
    how.zero_point = g->zero_point;
    for (done = 0; done < n; done += AQI_PIECE) {
        size_t part = AQI_MIN(n - done, (size_t)AQI_PIECE);
        const float *p = aqi_values_at(t, at + done, part, room);
        aqi_group_encode(g, p, part, codes);
        aqi_k()->squares(p, codes, part, &how, lanes);
    }
    return aqi_add_lanes(lanes);
}

/* A group under refinement. */
typedef struct aqi_refinement {
    const aqi_quantize_task *task;
    size_t at;
    aqi_quantizer z;
    uint16_t steps[AQI_PIECE]; /* of the only piece, or the last */
} aqi_refinement;

static aqi_fine aqi_refine_codes(const aqi_refinement *f, const aqi_refits *r) {
    aqi_fine how;
    how.base = (uint16_t)r->from[0];
    how.slope = (uint16_t)r->slope[0];
    how.shift = f->z.grid.shift;
    how.max_code = (uint16_t)f->z.max_code;
    return how;
}

/* The sums of the codes of r; the steps of a group of several pieces are made again. */
static void aqi_refine_sums(aqi_refinement *f, aqi_refits *r, bool first) {
    const aqi_quantize_task *t = f->task;
    float room[AQI_PIECE];
    aqi_fine how = aqi_refine_codes(f, r);
    aqi_fine_sums sums;
    int64_t u = 0;
    size_t n = f->z.n, done;
    memset(&sums, 0, sizeof sums);
    for (done = 0; done < n; done += AQI_PIECE) {
        size_t part = AQI_MIN(n - done, (size_t)AQI_PIECE);
        if (first || n > AQI_PIECE) {
            const float *p = aqi_values_at(t, f->at + done, part, room);
            u += aqi_k()->steps(p, part, r->base[0], r->inverse[0],
                                (uint32_t)f->z.grid.unit, f->steps);
        }
        aqi_k()->refit(f->steps, part, &how, &sums, NULL);
    }
    if (first) r->u[0] = (double)u;
    r->q[0] = (double)sums.q;
    r->qq[0] = (double)sums.qq;
    r->qu[0] = (double)sums.qu;
}

/* Begins at min-max: its sums, and its error. */
static void aqi_refine_begin(aqi_refinement *f, const aqi_range *range,
                             const aqi_group *g, aqi_refits *r, aqi_block *b) {
    b->min[0] = range->min;
    b->absmax_bits[0] = range->absmax_bits;
    b->scale[0] = g->scale;
    aqi_refits_begin(r, b, &f->z, 1);
    aqi_refine_sums(f, r, true);
    r->error[0] = aqi_refit_error(r, 0, f->z.values, f->z.grid.unit, r->first[0]);
}

/* Two refits from the sums of r on; false where they gain nothing. */
static bool aqi_refine_passes(aqi_refinement *f, aqi_refits *r, aqi_block *b) {
    size_t pass;
    for (pass = 0; pass < AQI_REFIT_PASSES; pass++) {
        aqi_refits_solve(r, &f->z, 1);
        if (!(r->usable[0] > 0.0)) return false;
        aqi_refits_go(r, &f->z, aqi_refit_far(&f->z, pass), 1);
        aqi_refine_sums(f, r, false);
    }
    aqi_refits_solve(r, &f->z, 1);
    aqi_refits_end(r, b, &f->z, 1);
    return r->usable[0] > 0.0 && r->error[0] > 0.0;
}

/* The group with the parameters in b and the codes of r. */
static aqi_group aqi_refine_group(const aqi_refinement *f, const aqi_refits *r,
                                  const aqi_block *b, const aqi_group *minmax) {
    aqi_group g = *minmax;
    g.scale = b->scale[0];
    g.zero_point = b->zero_point[0];
    g.refined = true;
    g.base = r->base[0];
    g.inverse = r->inverse[0];
    g.unit = (uint32_t)f->z.grid.unit;
    g.fine = aqi_refine_codes(f, r);
    return g;
}

/* Improves the parameters of a group where that makes its squared error less. */
static void aqi_group_refine(const aqi_quantize_task *t, size_t at, size_t n,
                             const aqi_range *range, aqi_group *g) {
    aqi_refinement f;
    aqi_refits r;
    aqi_block b;
    aqi_group better;
    if (g->extreme || range->min == range->max) return;
    f.task = t;
    f.at = at;
    aqi_quantizer_init(&f.z, t->layout->bits, t->layout->symmetric, true, n);
    aqi_refine_begin(&f, range, g, &r, &b);
    if (!aqi_refine_passes(&f, &r, &b)) return;
    better = aqi_refine_group(&f, &r, &b, g);
    if (r.error[0] < f.z.sure &&
        aqi_group_error(t, &better, at, n) >= aqi_group_error(t, g, at, n))
        return;
    *g = better;
}

#define AQI_SEARCH_STARTS 6

/* The same from narrower and narrower ranges, each end by itself. */
static void aqi_group_search(const aqi_quantize_task *t, size_t at, size_t n,
                             const aqi_range *range, aqi_group *g) {
    aqi_refinement f;
    aqi_refits r, start;
    aqi_block b;
    aqi_group best = *g;
    double most = 0.0, span, step;
    size_t low, high;
    if (g->extreme || range->min == range->max) return;
    f.task = t;
    f.at = at;
    aqi_quantizer_init(&f.z, t->layout->bits, t->layout->symmetric, true, n);
    step = f.z.bits == 8 ? 0.004 : f.z.bits < 4 ? 0.17 - 0.03 * (double)f.z.bits
                                              : 0.09 - 0.01 * (double)f.z.bits;
    aqi_refine_begin(&f, range, g, &start, &b);
    span = start.last[0] - start.first[0];
    for (low = 0; low < AQI_SEARCH_STARTS; low++) {
        for (high = 0; high < AQI_SEARCH_STARTS; high++) {
            if (f.z.symmetric && low != high) continue;
            r = start;
            b.scale[0] = g->scale;
            r.first[0] += span * step * (double)low;
            r.last[0] -= span * step * (double)high;
            if (low + high > 0) {
                aqi_refits_place(&r, &f.z, 1);
                aqi_refine_sums(&f, &r, false);
            }
            if (!aqi_refine_passes(&f, &r, &b) || !(r.error[0] > most)) continue;
            most = r.error[0];
            best = aqi_refine_group(&f, &r, &b, g);
        }
    }
    if (most > 0.0 && (most >= f.z.sure || aqi_group_error(t, &best, at, n) <
                                               aqi_group_error(t, g, at, n)))
        *g = best;
}

/* ---- weighted ---- */

/* Sums over a group with the importance of each column; x its values, q its codes. */
typedef struct aqi_weights {
    double w, q, qq, x, xq;
    double error; /* of the group's own parameters */
} aqi_weights;

static void aqi_weigh(const aqi_quantize_task *t, const aqi_group *g, size_t at, size_t n,
                      aqi_weights *out) {
    const float *importance = t->layout->importance + at % t->layout->cols;
    float room[AQI_PIECE], decoded[AQI_PIECE];
    uint8_t codes[AQI_PIECE];
    size_t done, i;
    memset(out, 0, sizeof *out);
    for (done = 0; done < n; done += AQI_PIECE) {
        size_t part = AQI_MIN(n - done, (size_t)AQI_PIECE);
        const float *p = aqi_values_at(t, at + done, part, room);
        aqi_group_encode(g, p, part, codes);
        aqi_group_decode(g, codes, part, decoded);
        for (i = 0; i < part; i++) {
            double w = (double)importance[done + i], x = (double)p[i],
                   q = (double)codes[i];
            double d = x - (double)decoded[i];
            out->w += w;
            out->q += w * q;
            out->qq += w * q * q;
            out->x += w * x;
            out->xq += w * x * q;
            out->error += w * d * d;
        }
    }
}

/* Least squares for codes with these sums; false where they have none. */
static bool aqi_weights_solve(const aqi_weights *s, const aq_layout *l, aqi_group *g) {
    double half = (double)(1u << (l->bits - 1)), above, below, scale;
    if (l->symmetric) {
        above = s->xq - half * s->x;
        below = s->qq - 2.0 * half * s->q + half * half * s->w;
    } else {
        above = s->w * s->xq - s->q * s->x;
        below = s->w * s->qq - s->q * s->q;
    }
    if (!(below > 0.0) || !(above > 0.0)) return false;
    scale = above / below;
    g->scale = (float)scale;
    if (!l->symmetric)
        g->zero_point = (float)((s->q * scale - s->x) / s->w / (double)g->scale);
    g->refined = false;
    g->how.base = 0.0f;
    g->how.inverse = 1.0f / g->scale;
    g->how.bias = g->zero_point;
    return g->scale >= AQI_TINY && g->zero_point <= 256.0f && g->zero_point >= -256.0f;
}

#define AQI_WEIGHTED_PASSES 4

/* From min-max and from least squares without weights on, while the weighted error gets
 * less. */
static void aqi_group_weighted(const aqi_quantize_task *t, size_t at, size_t n,
                               const aqi_range *range, aqi_group *g) {
    aqi_group best = *g, start[2];
    aqi_weights s;
    double least;
    size_t k, pass;
    if (g->extreme || range->min == range->max) return;
    start[0] = *g;
    start[1] = *g;
    aqi_group_refine(t, at, n, range, &start[1]);
    aqi_weigh(t, g, at, n, &s);
    least = s.error;
    for (k = 0; k < 2 && s.w > 0.0; k++) {
        aqi_weigh(t, &start[k], at, n, &s);
        for (pass = 0; pass < AQI_WEIGHTED_PASSES; pass++) {
            if (s.error < least) {
                least = s.error;
                best = start[k];
            }
            if (!aqi_weights_solve(&s, t->layout, &start[k])) break;
            aqi_weigh(t, &start[k], at, n, &s);
            if (!(s.error < least)) break;
        }
        if (s.error < least && pass == AQI_WEIGHTED_PASSES) {
            least = s.error;
            best = start[k];
        }
    }
    *g = best;
}

/* ---- tiles of groups ---- */

static void aqi_group_improve(const aqi_quantize_task *t, size_t at, size_t n,
                              const aqi_range *range, aqi_group *g) {
    aq_method method = t->layout->method;
    if (method == AQ_REFINE) aqi_group_refine(t, at, n, range, g);
    if (method == AQ_SEARCH) aqi_group_search(t, at, n, range, g);
    if (method == AQ_WEIGHTED) aqi_group_weighted(t, at, n, range, g);
}

/* Chooses the parameters of a group; false, with the index of the culprit in the report,
 * where a value is not finite. */
static bool aqi_group_choose(const aqi_quantize_task *t, size_t at, size_t n,
                             aqi_tile_report *report, aqi_group *g) {
    aqi_range range;
    if (!aqi_range_of(t, at, n, &range, &report->bad_index)) return false;
    aqi_group_make(t->layout, &range, g);
    aqi_group_improve(t, at, n, &range, g);
    return true;
}

/* Groups whose codes begin and end on a byte, and which follow each other. */
static bool aqi_groups_adjoin(const aq_layout *l) {
    return l->src_stride <= l->cols && l->group_rows == 1 && l->group_cols % 32 == 0 &&
           l->cols % l->group_cols == 0;
}

static bool aqi_quantize_alone(const aqi_quantize_task *t, size_t slot,
                               aqi_tile_report *report) {
    size_t n = t->layout->group_cols;
    aqi_packer packer;
    aqi_group g;
    if (!aqi_group_choose(t, slot * n, n, report, &g)) return false;
    packer.fill = 0;
    packer.bits = t->layout->bits;
    packer.dst = t->dst->codes + slot * n / 8 * packer.bits;
    aqi_encode_group(t, &g, slot * n, n, &packer, NULL);
    aqi_packer_flush(&packer);
    t->dst->scales[slot] = g.scale;
    t->dst->zero_points[slot] = g.zero_point;
    return true;
}

/* Adds what decoding group `slot` gives. */
static void aqi_measure_group(const aqi_quantize_task *t, size_t slot, aqi_sums *sums) {
    const struct aqi_kernels *k = aqi_k();
    float room[AQI_PIECE], decoded[AQI_PIECE];
    uint8_t codes[AQI_PIECE];
    uint32_t bits = t->layout->bits;
    size_t n = t->layout->group_cols, at = slot * n, done;
    for (done = 0; done < n; done += AQI_PIECE) {
        size_t part = AQI_MIN(n - done, (size_t)AQI_PIECE);
        const float *p = aqi_values_at(t, at + done, part, room);
        k->unpack(t->dst->codes + (at + done) / 8 * bits, part, bits, codes);
        k->decode(codes, part, t->dst->scales[slot], t->dst->zero_points[slot], decoded);
        k->sums(p, decoded, part, sums);
    }
}

/* Takes the min-max codes for group g of a block where its refined ones, in out, are no
 * better. */
static void aqi_settle_group(const float *src, const aqi_quantizer *z, aqi_block_out *out,
                             size_t g) {
    const struct aqi_kernels *k = aqi_k();
    uint8_t codes[AQI_BLOCK_VALUES], *dst = out->codes + g * z->n / 8 * z->bits;
    double before[AQI_SUM_LANES] = {0}, after[AQI_SUM_LANES] = {0};
    aqi_encode encode;
    aqi_decode how;
    src += g * z->n;
    how.scale = out->scales[g];
    how.zero_point = out->zero_points[g];
    if ((out->worse >> g & 1u) == 0) {
        k->unpack(dst, z->n, z->bits, codes);
        k->squares(src, codes, z->n, &how, after);
    }
    encode.base = out->minmax.base[g];
    encode.inverse = out->minmax.inverse[g];
    encode.bias = out->minmax.bias[g];
    encode.max_code = z->max_code;
    k->encode(src, z->n, &encode, codes);
    how.scale = out->minmax.scale[g];
    how.zero_point = out->minmax.zero_point[g];
    if ((out->worse >> g & 1u) == 0) {
        k->squares(src, codes, z->n, &how, before);
        if (aqi_add_lanes(after) < aqi_add_lanes(before)) return;
    }
    k->pack(codes, z->n, z->bits, dst);
    out->scales[g] = how.scale;
    out->zero_points[g] = how.zero_point;
}

/* Quantizes groups [slot, end), which adjoin. */
static bool aqi_quantize_run(const aqi_quantize_task *t, size_t slot, size_t end,
                             aqi_tile_report *report, aqi_sums *sums) {
    const aq_layout *l = t->layout;
    float room[AQI_BLOCK * AQI_BLOCK_VALUES];
    aqi_quantizer z;
    aqi_block_out out;
    size_t i, count;
    aqi_quantizer_init(&z, l->bits, l->symmetric, l->method == AQ_REFINE, l->group_cols);
    for (; slot < end; slot += count) {
        uint32_t undone = AQI_BLOCK_NONE;
        count = AQI_MIN(end - slot, (size_t)AQI_BLOCK);
        if (count == AQI_BLOCK && z.n <= AQI_BLOCK_VALUES && l->method <= AQ_REFINE) {
            const float *p =
                aqi_values_at(t, slot * z.n, count * z.n, room);
            out.codes = t->dst->codes + slot * z.n / 8 * l->bits;
            out.scales = t->dst->scales + slot;
            out.zero_points = t->dst->zero_points + slot;
            out.unsure = out.worse = 0;
            undone = aqi_k()->block(p, &z, &out);
            for (i = 0; i < AQI_BLOCK && out.unsure >> i != 0; i++) {
                if ((out.unsure >> i & 1u) != 0) aqi_settle_group(p, &z, &out, i);
            }
        }
        for (i = 0; i < count && undone != 0; i++) {
            if ((undone >> i & 1u) != 0 && !aqi_quantize_alone(t, slot + i, report))
                return false;
        }
        for (i = 0; i < count && t->measure; i++) aqi_measure_group(t, slot + i, sums);
    }
    return true;
}

/* Quantizes columns [col, end) of a row, group by group. */
static bool aqi_quantize_span(const aqi_quantize_task *t, size_t row,
                              const aqi_tile *tile, aqi_tile_report *report,
                              aqi_sums *sums) {
    const aq_layout *l = t->layout;
    aqi_packer packer;
    size_t col;
    packer.fill = 0;
    packer.bits = l->bits;
    packer.dst = t->dst->codes + row * l->row_bytes + tile->col / 8 * l->bits;
    for (col = tile->col; col < tile->col_end;
         col += AQI_MIN(l->group_cols, l->cols - col)) {
        size_t n = AQI_MIN(l->group_cols, tile->col_end - col), at = row * l->cols + col;
        aqi_group own;
        const aqi_group *g = t->tensor_group;
        if (g == NULL) {
            size_t slot = row * l->groups_per_row + col / l->group_cols;
            if (!aqi_group_choose(t, at, n, report, &own)) return false;
            t->dst->scales[slot] = own.scale;
            t->dst->zero_points[slot] = own.zero_point;
            g = &own;
        }
        aqi_encode_group(t, g, at, n, &packer, t->measure ? sums : NULL);
    }
    aqi_packer_flush(&packer);
    return true;
}

/* ---- rows with small parameters ---- */

#define AQI_SMALL_LARGEST 0x7b800000u /* bits of 2^120: nothing overflows up to there */
#define AQI_F16_ZERO_POINT 2048.0 /* float16 has every integer up to there */
#define AQI_SMALL_LEAST 1.2621774483536189e-29f /* 2^-96: below, codes in double */

/* A row, and its factors. */
typedef struct aqi_small_row {
    const aqi_quantize_task *task;
    size_t row;
    float factors[2];
    float magnitude, extreme_value; /* the largest one, without and with its sign */
    uint8_t places[256];            /* codebook */
} aqi_small_row;

/* A group, and the codes that its parameters are stored as. */
typedef struct aqi_small_group {
    aqi_group g;
    size_t at, n, slot;
    int scale, second; /* F16: the bits */
    double error;      /* squared, of the best so far; negative = none */
} aqi_small_group;

static int aqi_round_between(double x, int least, int most) {
    double t = x < (double)least ? (double)least : x > (double)most ? (double)most : x;
    t = t < 0.0 ? t - 0.5 : t + 0.5;
    return (int)t;
}

/* Largest scale, minimum and value of the row's groups; false as aqi_range_of. */
static bool aqi_small_factors(aqi_small_row *s, aqi_tile_report *report) {
    const aqi_quantize_task *t = s->task;
    const aq_layout *l = t->layout;
    double scale = 0.0, minimum = 0.0, max_code = (double)aqi_max_code(l->bits);
    size_t col, i;
    s->magnitude = s->extreme_value = 0.0f;
    for (col = 0; col < l->cols; col += l->group_cols) {
        size_t n = AQI_MIN(l->group_cols, l->cols - col), at = s->row * l->cols + col;
        aqi_range r;
        if (!aqi_range_of(t, at, n, &r, &report->bad_index)) return false;
        if (r.absmax_bits > AQI_SMALL_LARGEST) {
            float room[1];
            for (i = at;; i++) {
                float v = aqi_values_at(t, i, 1, room)[0];
                if ((aqi_float_bits(v) & 0x7fffffffu) > AQI_SMALL_LARGEST) break;
            }
            report->bad_index = i;
            report->too_large = true;
            return false;
        }
        if (aqi_bits_float(r.absmax_bits) > s->magnitude) {
            s->magnitude = aqi_bits_float(r.absmax_bits);
            s->extreme_value = 0.0f - r.min == s->magnitude ? r.min : r.max;
        }
        scale = AQI_MAX(
            scale, l->symmetric ? 2.0 * (double)aqi_bits_float(r.absmax_bits) / max_code
                                : ((double)r.max - (double)r.min) / max_code);
        /* Of a constant group the scale is its magnitude. */
        if (l->params == AQ_PARAMS_F16 && l->symmetric && r.min == r.max)
            scale = AQI_MAX(scale, (double)aqi_bits_float(r.absmax_bits));
        minimum = AQI_MAX(minimum, r.min < 0.0f ? 0.0 - (double)r.min : (double)r.min);
    }
    s->factors[1] = aqi_float_up(minimum / 127.0);
    /* A scale of 255 reaches from one 8-bit minimum to the next. */
    if (!l->symmetric) scale = AQI_MAX(scale, minimum / 127.0 / max_code);
    s->factors[0] = scale > 0.0 ? aqi_float_up(scale / 255.0) : 0.0f;
    if (l->codebook) {
        s->factors[0] = aqi_float_up((double)s->magnitude / 16384.0);
        if (s->extreme_value < 0.0f) s->factors[0] = 0.0f - s->factors[0];
    }
    if (l->params == AQ_PARAMS_F16) {
        uint32_t exponent;
        if (!l->symmetric) scale = AQI_MAX(scale, minimum / AQI_F16_ZERO_POINT);
        exponent = aqi_float_bits(aqi_float_up(scale)) >> 23;
        exponent = exponent > 15 ? exponent - 14 : 1;
        s->factors[0] = scale > 0.0 ? aqi_bits_float(exponent << 23) : 1.0f;
    }
    return true;
}

/* Takes the codes in c for the group where that makes its error less. */
static void aqi_small_take(const aqi_small_row *s, aqi_small_group *best,
                           aqi_small_group *c) {
    const aqi_quantize_task *t = s->task;
    aqi_group *g = &c->g;
    aqi_weights weights;
    g->how.max_code = aqi_max_code(t->layout->bits);
    g->how.base = 0.0f;
    g->how.inverse = g->scale > 0.0f ? 1.0f / g->scale : 0.0f;
    g->how.bias = g->zero_point;
    g->extreme = g->scale > 0.0f && s->magnitude < AQI_SMALL_LEAST;
    if (t->layout->method == AQ_WEIGHTED) {
        aqi_weigh(t, g, best->at, best->n, &weights);
        c->error = weights.error;
    } else {
        c->error = aqi_group_error(t, g, best->at, best->n);
    }
    if (best->error >= 0.0 && !(c->error < best->error)) return;
    best->g = *g;
    best->scale = c->scale;
    best->second = c->second;
    best->error = c->error;
}

/* The same of 8-bit codes, which say the group's parameters. */
static void aqi_small_take_u8(const aqi_small_row *s, aqi_small_group *best,
                              aqi_small_group *c) {
    aqi_params_of_u8(s->factors, c->scale, c->second, &c->g.scale, &c->g.zero_point);
    aqi_small_take(s, best, c);
}

static float aqi_f16_value(int half) {
    uint8_t bytes[2];
    float f;
    aqi_store_le16(bytes, (uint32_t)half);
    aqi_from_f16_ref(bytes, 1, &f);
    return f;
}

/* Tries parameters near scale and zero point: the nearest ones, and (8 bits) those that
 * surely span the range. */
static void aqi_small_try(const aqi_small_row *s, const aqi_group *of,
                          const aqi_range *range, aqi_small_group *best) {
    const aq_layout *l = s->task->layout;
    double scale = (double)of->scale, factor = (double)s->factors[0];
    double low = (0.0 - (double)of->zero_point) * scale, minimum = (double)s->factors[1];
    double max_code = (double)aqi_max_code(l->bits);
    aqi_small_group c;
    memset(&c, 0, sizeof c);
    if (l->params == AQ_PARAMS_F16) {
        if (!l->symmetric)
            scale = AQI_MAX(scale, (low < 0.0 ? 0.0 - low : low) / AQI_F16_ZERO_POINT);
        c.scale = aqi_f16_of((float)(scale / factor));
        if (c.scale == 0) c.scale = 1;
        c.g.scale = aqi_f16_value(c.scale) * s->factors[0];
        c.g.zero_point = of->zero_point;
        if (!l->symmetric) {
            c.second = aqi_f16_of((float)(0.0 - low / (double)c.g.scale));
            c.g.zero_point = aqi_f16_value(c.second);
        }
        aqi_small_take(s, best, &c);
        return;
    }
    c.scale = aqi_round_between(scale / factor, 1, 255);
    if (l->symmetric) {
        c.g.scale = s->factors[0] * (float)c.scale;
        c.g.zero_point = of->zero_point;
        aqi_small_take(s, best, &c);
        return;
    }
    c.second = minimum > 0.0 ? aqi_round_between(low / minimum, -127, 127) : 0;
    aqi_small_take_u8(s, best, &c);
    if (minimum > 0.0) {
        c.second = aqi_round_between((double)range->min / minimum - 0.5, -127, 127);
        scale = ((double)range->max - (double)c.second * minimum) / max_code;
        c.scale = aqi_round_between(scale / factor + 0.5, 1, 255);
        aqi_small_take_u8(s, best, &c);
    }
}

/* Tries a signed scale of a codebook. Returns the scale of the least squared error for
 * its codes. */
static double aqi_codebook_try(const aqi_small_row *s, int scale, aqi_small_group *best) {
    const aqi_quantize_task *t = s->task;
    const uint8_t *levels = best->g.levels;
    double sum = 0.0, xl = 0.0, xx = 0.0, d, error;
    float room[AQI_PIECE];
    uint8_t codes[AQI_PIECE];
    aqi_group g = best->g;
    size_t done, i;
    g.scale = s->factors[0] * (float)scale;
    g.how.inverse = 1.0f / g.scale;
    for (done = 0; done < best->n; done += AQI_PIECE) {
        size_t part = AQI_MIN(best->n - done, (size_t)AQI_PIECE);
        const float *p = aqi_values_at(t, best->at + done, part, room);
        aqi_group_encode(&g, p, part, codes);
        for (i = 0; i < part; i++) {
            int level = (int)levels[codes[i]] - 128;
            double x = (double)p[i];
            sum += (double)(level * level);
            xl += x * (double)level;
            xx += x * x;
        }
    }
    d = (double)g.scale;
    error = (xx - 2.0 * d * xl) + d * d * sum;
    if (best->error < 0.0 || error < best->error) {
        best->error = error;
        best->scale = scale;
        best->g = g;
    }
    return sum > 0.0 ? xl / sum : 0.0;
}

/* The largest magnitude on either end of the levels, and somewhat within; then least
 * squares. */
static void aqi_codebook_choose(const aqi_small_row *s, const aqi_range *range,
                                aqi_small_group *best) {
    static const double factors[2][2] = {{0.95, 0.7}, {1.0, 0.92}};
    const uint32_t bits = s->task->layout->bits;
    const uint8_t *levels = aqi_codebook(bits);
    double ends[2], magnitude = (double)aqi_bits_float(range->absmax_bits), d;
    double sign = 0.0f - range->min >= range->max ? -1.0 : 1.0;
    size_t side, k, pass;
    int scale, next;
    ends[0] = (double)levels[0] - 128.0;
    ends[1] = (double)levels[(1u << bits) - 1u] - 128.0;
    best->g.zero_point = 128.0f;
    best->g.how.bias = 128.0f;
    best->g.how.max_code = 255.0f;
    best->g.extreme = s->magnitude < AQI_SMALL_LEAST;
    best->g.levels = levels;
    best->g.places = s->places;
    for (side = 0; side < 2 && magnitude > 0.0; side++) {
        for (k = 0; k < 2; k++) {
            d = sign * magnitude * factors[bits == 4][k] / ends[side];
            scale = aqi_round_between(d / (double)s->factors[0], -128, 127);
            if (scale == 0) scale = 1;
            for (pass = 0; pass < 3; pass++, scale = next) {
                d = aqi_codebook_try(s, scale, best) / (double)s->factors[0];
                next = aqi_round_between(d, -128, 127);
                if (next == scale || next == 0) break;
            }
        }
    }
}

/* The code of each level: of the nearest one. */
static void aqi_codebook_places(uint32_t bits, uint8_t *places) {
    const uint8_t *levels = aqi_codebook(bits);
    uint32_t i, code = 0, last = (1u << bits) - 1u;
    for (i = 0; i < 256; i++) {
        while (code < last && 2 * i > (uint32_t)levels[code] + levels[code + 1]) code++;
        places[i] = (uint8_t)code;
    }
}

static void aqi_small_store(const aqi_small_row *s, const aqi_small_group *g) {
    const aq_layout *l = s->task->layout;
    const aqi_params_at at = aqi_params_places(l);
    uint8_t *params = s->task->dst->params;
    uint8_t *first = params + at.scales, *second = params + at.seconds;
    if (l->params == AQ_PARAMS_F16) {
        aqi_store_le16(first + 2 * g->slot, (uint32_t)g->scale);
        if (!l->symmetric) aqi_store_le16(second + 2 * g->slot, (uint32_t)g->second);
    } else {
        first[g->slot] = (uint8_t)g->scale;
        if (aqi_params_has_minima(l)) second[g->slot] = (uint8_t)g->second;
    }
}

/* The best stored parameters of a group. One of zeros has all parameters 0. */
static bool aqi_small_choose(const aqi_small_row *s, aqi_tile_report *report,
                             aqi_small_group *best) {
    const aqi_quantize_task *t = s->task;
    const aq_layout *l = t->layout;
    aqi_range range;
    aqi_group g;
    if (!aqi_range_of(t, best->at, best->n, &range, &report->bad_index)) return false;
    best->error = -1.0;
    best->g.how.max_code = aqi_max_code(l->bits);
    if (l->codebook) {
        aqi_codebook_choose(s, &range, best);
        return true;
    }
    if (l->symmetric) best->g.zero_point = (float)(1u << (l->bits - 1));
    if (range.absmax_bits == 0) {
        best->g.how.bias = best->g.zero_point;
        return true;
    }
    aqi_group_make(l, &range, &g);
    if (range.min == range.max && !l->symmetric) { /* from the minimum on */
        g.scale = s->factors[0];
        g.zero_point = (0.0f - range.min) / g.scale;
    }
    aqi_small_try(s, &g, &range, best);
    if (l->method != AQ_MINMAX && range.min != range.max) {
        aqi_group_improve(t, best->at, best->n, &range, &g);
        aqi_small_try(s, &g, &range, best);
    }
    return true;
}

static bool aqi_quantize_small(const aqi_quantize_task *t, size_t row,
                               aqi_tile_report *report, aqi_sums *sums) {
    const aq_layout *l = t->layout;
    const aqi_params_at at = aqi_params_places(l);
    aqi_small_row s;
    aqi_packer packer;
    size_t col, i;
    s.task = t;
    s.row = row;
    if (!aqi_small_factors(&s, report)) return false;
    if (l->codebook) aqi_codebook_places(l->bits, s.places);
    for (i = 0; i < at.factors; i++)
        aqi_store_f32(t->dst->params + (row * at.factors + i) * sizeof(float),
                      s.factors[i]);
    packer.fill = 0;
    packer.bits = l->bits;
    packer.dst = t->dst->codes + row * l->row_bytes;
    for (col = 0; col < l->cols; col += l->group_cols) {
        aqi_small_group best;
        memset(&best, 0, sizeof best);
        best.at = row * l->cols + col;
        best.n = AQI_MIN(l->group_cols, l->cols - col);
        best.slot = row * l->groups_per_row + col / l->group_cols;
        if (!aqi_small_choose(&s, report, &best)) return false;
        aqi_small_store(&s, &best);
        aqi_encode_group(t, &best.g, best.at, best.n, &packer, t->measure ? sums : NULL);
    }
    aqi_packer_flush(&packer);
    return true;
}

static void aqi_quantize_tile(void *arg, size_t index) {
    const aqi_quantize_task *t = (const aqi_quantize_task *)arg;
    const aq_layout *l = t->layout;
    aqi_tile tile = aqi_tile_at(&t->tiling, l, l->rows, t->first_tile + index);
    aqi_tile_report *report = &t->reports[index];
    size_t rows = tile.row_end - tile.row, row, slot;
    aqi_sums sums;
    memset(&sums, 0, sizeof sums);
    report->bad_index = SIZE_MAX;
    report->too_large = false;
    if (l->params != AQ_PARAMS_F32) {
        for (row = tile.row; row < tile.row_end; row++) {
            if (!aqi_quantize_small(t, row, report, &sums)) return;
        }
    } else if (t->tensor_group == NULL && aqi_groups_adjoin(l)) {
        /* A tile is whole rows or a part of one. */
        slot = (tile.row * l->cols + tile.col) / l->group_cols;
        if (!aqi_quantize_run(t, slot,
                              slot + rows * (tile.col_end - tile.col) / l->group_cols,
                              report, &sums))
            return;
    } else {
        for (row = tile.row; row < tile.row_end; row++) {
            if (!aqi_quantize_span(t, row, &tile, report, &sums)) return;
        }
    }
    if (t->measure)
        aqi_sums_close(&sums, rows * (tile.col_end - tile.col), &report->metrics);
}

/* First pass of per-tensor quantization. */
static void aqi_range_tile(void *arg, size_t index) {
    const aqi_quantize_task *t = (const aqi_quantize_task *)arg;
    const aq_layout *l = t->layout;
    aqi_tile tile = aqi_tile_at(&t->tiling, l, l->rows, t->first_tile + index);
    aqi_tile_report *report = &t->reports[index];
    size_t row;
    report->bad_index = SIZE_MAX;
    report->too_large = false;
    for (row = tile.row; row < tile.row_end; row++) {
        aqi_range r;
        if (!aqi_range_of(t, row * l->cols + tile.col, tile.col_end - tile.col, &r,
                          &report->bad_index))
            return;
        if (row == tile.row) report->range = r;
        aqi_range_join(&report->range, &r);
    }
}

/* Row, column and index in the whole tensor of a value of the task. */
static void aqi_task_place(const aqi_quantize_task *t, size_t index, size_t place[3]) {
    const size_t cols = t->layout->cols;
    place[0] = t->first_row + index / cols;
    place[1] = t->first_col + index % cols;
    place[2] = place[0] * (t->full_cols != 0 ? t->full_cols : cols) + place[1];
}

static aq_status aqi_nonfinite(const aqi_quantize_task *t, size_t index, aq_error *err) {
    float room[1];
    float value = aqi_values_at(t, index, 1, room)[0];
    const char *what = value != value ? "NaN" : value > 0.0f ? "+infinity" : "-infinity";
    size_t place[3];
    aqi_task_place(t, index, place);
    return aqi_fail(
        err, AQ_E_NONFINITE,
        "%s%s at index %zu (row %zu, column %zu); repair the tensor or keep it "
        "unquantized",
        what, t->dtype == AQ_F64 && value == value ? " in float32" : "", place[2],
        place[0], place[1]);
}

static aq_status aqi_too_large(const aqi_quantize_task *t, size_t index, aq_error *err) {
    float room[1];
    float value = aqi_values_at(t, index, 1, room)[0];
    size_t place[3];
    aqi_task_place(t, index, place);
    return aqi_fail(err, AQ_E_LIMIT,
                    "%g at index %zu (row %zu, column %zu) is over 2^120; store the "
                    "parameters of this tensor as float32",
                    (double)value, place[2], place[0], place[1]);
}

/* Runs fn over all tiles in waves and joins the reports in order. */
static aq_status aqi_quantize_waves(aqi_quantize_task *t, void (*fn)(void *, size_t),
                                    const aq_tasks *tasks, aqi_range *range,
                                    aq_metrics *metrics, aq_error *err) {
    aqi_tile_report reports[AQI_WAVE];
    size_t done, i;
    for (done = 0; done < t->tiling.count; done += AQI_WAVE) {
        size_t wave = AQI_MIN(t->tiling.count - done, (size_t)AQI_WAVE);
        t->first_tile = done;
        t->reports = reports;
        aqi_run(tasks, wave, fn, t);
        t->reports = NULL;
        for (i = 0; i < wave; i++) {
            if (reports[i].bad_index != SIZE_MAX && reports[i].too_large)
                return aqi_too_large(t, reports[i].bad_index, err);
            if (reports[i].bad_index != SIZE_MAX)
                return aqi_nonfinite(t, reports[i].bad_index, err);
            if (range != NULL && done + i == 0) *range = reports[i].range;
            if (range != NULL) aqi_range_join(range, &reports[i].range);
            if (metrics != NULL) aq_metrics_add(metrics, &reports[i].metrics);
            if (t->parts != NULL) t->parts[done + i] = reports[i].metrics;
        }
        if (t->watch.fn != NULL &&
            !t->watch.fn(t->watch.user, done + wave, t->tiling.count))
            return aqi_fail(err, AQ_E_CANCELLED, "cancelled");
    }
    return AQ_OK;
}

static bool aqi_overlap(const void *a, size_t a_bytes, const void *b, size_t b_bytes) {
    uintptr_t p = (uintptr_t)a, q = (uintptr_t)b;
    return a_bytes > 0 && b_bytes > 0 && (p < q ? q - p < a_bytes : p - q < b_bytes);
}

static size_t aqi_param_floats_bytes(const aq_layout *l) {
    return l->params == AQ_PARAMS_F32 ? l->num_groups * sizeof(float) : 0;
}

/* Whether the destination has a byte of [src, src + bytes). */
static bool aqi_quantized_overlaps(const aq_layout *l, const aq_quantized *dst,
                                   const void *src, size_t bytes) {
    size_t floats = aqi_param_floats_bytes(l);
    return aqi_overlap(src, bytes, dst->codes, l->code_bytes) ||
           aqi_overlap(src, bytes, dst->scales, floats) ||
           aqi_overlap(src, bytes, dst->zero_points, floats) ||
           aqi_overlap(src, bytes, dst->params, l->params_bytes);
}

/* Whether source and destination share memory, or the source is larger than that. */
static bool aqi_quantize_overlaps(const aqi_quantize_task *t) {
    const aq_layout *l = t->layout, *c = t->coded;
    size_t bytes;
    if (c != NULL) {
        size_t floats = aqi_param_floats_bytes(c);
        return aqi_quantized_overlaps(l, t->dst, t->codes->codes, c->code_bytes) ||
               aqi_quantized_overlaps(l, t->dst, t->codes->scales, floats) ||
               aqi_quantized_overlaps(l, t->dst, t->codes->zero_points, floats) ||
               aqi_quantized_overlaps(l, t->dst, t->codes->params, c->params_bytes);
    }
    if (!aqi_mul_size(l->rows - 1, AQI_MAX(l->src_stride, l->cols), &bytes) ||
        !aqi_add_size(bytes, l->cols, &bytes) ||
        !aqi_mul_size(bytes, aq_dtype_bytes(t->dtype), &bytes))
        return true;
    return aqi_quantized_overlaps(l, t->dst, t->src, bytes);
}

static aq_status aqi_importance_check(const aq_layout *l, aq_error *err) {
    size_t col;
    for (col = 0; l->method == AQ_WEIGHTED && col < l->cols; col++) {
        if (!(l->importance[col] >= 0.0f) || !aqi_is_finite(l->importance[col]))
            return aqi_fail(err, AQ_E_ARG, "importance of column %zu is %g", col,
                            (double)l->importance[col]);
    }
    return AQ_OK;
}

/* Quantizes what the task describes: layout, src, dtype, dst and watch are set, for a
 * part of a tensor also first_row, first_col and full_cols, and tensor_group where all is
 * one group. */
static aq_status aqi_quantize_all(aqi_quantize_task *t, const aq_tasks *tasks,
                                  aq_metrics *out_metrics, aq_error *err) {
    const aq_layout *l = t->layout;
    aqi_range range;
    aqi_group group;
    aq_status status = aqi_layout_check(l, err);
    if (out_metrics != NULL) memset(out_metrics, 0, sizeof *out_metrics);
    if (out_metrics != NULL) aqi_metrics_finish(out_metrics);
    if (status != AQ_OK) return status;
    if (!aq_dtype_is_float(t->dtype))
        return aqi_fail(err, AQ_E_ARG, "cannot quantize values of type %s",
                        aq_dtype_name(t->dtype));
    if (l->code_bits != l->bits || !aqi_is_width(l->bits) ||
        (l->group_rows > 1 && l->num_groups > 1))
        return aqi_fail(err, AQ_E_ARG,
                        "layout of another writer; make one by aq_layout_init");
    if ((l->method == AQ_WEIGHTED) != (l->importance != NULL))
        return aqi_fail(err, AQ_E_ARG, "layout was changed after aq_layout_init");
    if (l->rows == 0 || l->cols == 0) {
        if (l->params_bytes > 0 && t->dst != NULL && t->dst->params != NULL)
            memset(t->dst->params, 0, l->params_bytes);
        return AQ_OK;
    }
    if ((t->src == NULL && t->coded == NULL) || t->dst == NULL || t->dst->codes == NULL ||
        (l->params == AQ_PARAMS_F32
             ? t->dst->scales == NULL || t->dst->zero_points == NULL
             : t->dst->params == NULL))
        return aqi_fail(err, AQ_E_ARG, "source or destination missing");
    status = aqi_importance_check(l, err);
    if (status != AQ_OK) return status;
    if (aqi_quantize_overlaps(t))
        return aqi_fail(err, AQ_E_ARG, "source and destination overlap");
    t->measure = out_metrics != NULL;
    t->tiling = aqi_tiling_make(l, l->rows);
    if (l->group_rows > 1 && t->tensor_group == NULL) {
        status = aqi_quantize_waves(t, aqi_range_tile, tasks, &range, NULL, err);
        if (status != AQ_OK) return status;
        aqi_group_make(l, &range, &group);
        t->dst->scales[0] = group.scale;
        t->dst->zero_points[0] = group.zero_point;
        t->tensor_group = &group;
    }
    status = aqi_quantize_waves(t, aqi_quantize_tile, tasks, NULL, out_metrics, err);
    t->tensor_group = NULL;
    return status;
}

aq_status aq_quantize_into(const aq_layout *layout, const void *src, aq_dtype src_dtype,
                           const aq_quantized *dst, const aq_tasks *tasks,
                           aq_metrics *out_metrics, aq_error *err) {
    aqi_quantize_task t;
    aqi_error_clear(err);
    memset(&t, 0, sizeof t);
    t.layout = layout;
    t.src = (const uint8_t *)src;
    t.dtype = src_dtype;
    t.dst = dst;
    return aqi_quantize_all(&t, tasks, out_metrics, err);
}

aq_status aq_requantize(const aq_layout *src_layout, const aq_quantized_view *src,
                        const aq_layout *dst_layout, const aq_quantized *dst,
                        const aq_tasks *tasks, aq_metrics *out_metrics, aq_error *err) {
    aqi_quantize_task t;
    aq_status status;
    aqi_error_clear(err);
    status = aqi_view_check(src_layout, src, err);
    if (status == AQ_OK) status = aqi_layout_check(dst_layout, err);
    if (status != AQ_OK) return status;
    if (src_layout->rows != dst_layout->rows || src_layout->cols != dst_layout->cols)
        return aqi_fail(err, AQ_E_ARG, "%zu x %zu values cannot become %zu x %zu",
                        src_layout->rows, src_layout->cols, dst_layout->rows,
                        dst_layout->cols);
    memset(&t, 0, sizeof t);
    t.layout = dst_layout;
    t.dtype = AQ_F32;
    t.coded = src_layout;
    t.codes = src;
    t.dst = dst;
    return aqi_quantize_all(&t, tasks, out_metrics, err);
}

/* ---- moments ---- */

/* Of a tile, about its first value: so that a mean far from 0 costs no digits. */
typedef struct aqi_moments {
    aqi_range range;
    double shift, sum, squares;
    size_t count, bad_index;
} aqi_moments;

typedef struct aqi_moments_task {
    const uint8_t *src;
    aq_dtype dtype;
    size_t count, first_tile;
    aqi_moments *parts;
} aqi_moments_task;

static void aqi_moments_tile(void *arg, size_t index) {
    const aqi_moments_task *t = (const aqi_moments_task *)arg;
    size_t begin = (t->first_tile + index) * AQI_TILE_VALUES, at, n, bad;
    size_t end = AQI_MIN(begin + AQI_TILE_VALUES, t->count);
    aqi_moments *m = &t->parts[index];
    double lanes[2 * AQI_SUM_LANES] = {0};
    float room[AQI_PIECE];
    m->bad_index = SIZE_MAX;
    for (at = begin; at < end; at += n) {
        const float *p;
        n = AQI_MIN(end - at, (size_t)AQI_PIECE);
        p = aqi_floats_at(t->src, t->dtype, at, n, room);
        if (!aqi_range_add(p, n, at == begin, &m->range, &bad)) {
            m->bad_index = at + bad;
            return;
        }
        if (at == begin) m->shift = (double)p[0];
        aqi_k()->moments(p, n, m->shift, lanes);
    }
    m->count = end - begin;
    m->sum = aqi_add_lanes(lanes);
    m->squares = aqi_add_lanes(lanes + AQI_SUM_LANES);
}

/* Adds a tile: means and sums of squared deviations join without cancellation (Chan,
 * Golub, LeVeque 1979). *squares: of deviations from the mean. */
static void aqi_moments_add(aq_moments *s, double *squares, const aqi_moments *m) {
    double n = (double)m->count, before = (double)s->count, all = before + n;
    double mean = m->sum / n, own = m->squares - m->sum * mean, apart;
    mean += m->shift;
    apart = mean - s->mean;
    own = own > 0.0 ? own : 0.0;
    *squares += own + apart * apart * (before * n / all);
    s->mean += apart * (n / all);
    if (s->count == 0) {
        s->min = m->range.min;
        s->max = m->range.max;
    }
    s->min = AQI_MIN(s->min, m->range.min);
    s->max = AQI_MAX(s->max, m->range.max);
    s->absmax = AQI_MAX(s->absmax, aqi_bits_float(m->range.absmax_bits));
    s->count += m->count;
}

aq_status aq_moments_of(const void *src, aq_dtype src_dtype, size_t count,
                        const aq_tasks *tasks, aq_moments *out_moments, aq_error *err) {
    aqi_moments parts[AQI_WAVE];
    aqi_moments_task t;
    aq_moments s;
    double squares = 0.0;
    size_t tiles = count / AQI_TILE_VALUES + (count % AQI_TILE_VALUES != 0), done, i;
    aqi_error_clear(err);
    memset(out_moments, 0, sizeof *out_moments);
    memset(&s, 0, sizeof s);
    if (!aq_dtype_is_float(src_dtype) || (count > 0 && src == NULL))
        return aqi_fail(err, AQ_E_ARG, "statistics of %s of type %s",
                        src == NULL ? "no values" : "values", aq_dtype_name(src_dtype));
    t.src = (const uint8_t *)src;
    t.dtype = src_dtype;
    t.count = count;
    t.parts = parts;
    for (done = 0; done < tiles; done += AQI_WAVE) {
        size_t wave = AQI_MIN(tiles - done, (size_t)AQI_WAVE);
        t.first_tile = done;
        aqi_run(tasks, wave, aqi_moments_tile, &t);
        for (i = 0; i < wave; i++) {
            if (parts[i].bad_index != SIZE_MAX)
                return aqi_fail(err, AQ_E_NONFINITE, "value %zu is NaN or infinite",
                                parts[i].bad_index);
            aqi_moments_add(&s, &squares, &parts[i]);
        }
    }
    if (count > 0) s.variance = squares / (double)count;
    *out_moments = s;
    return AQ_OK;
}

/* ---- dequantize, dot ---- */

aq_status aq_params_read(const aq_layout *layout, const aq_quantized_view *src,
                         size_t group, float *out_scale, float *out_zero_point,
                         aq_error *err) {
    aq_status status;
    aqi_error_clear(err);
    *out_scale = *out_zero_point = 0.0f;
    status = aqi_view_check(layout, src, err);
    if (status != AQ_OK) return status;
    if (group >= layout->num_groups)
        return aqi_fail(err, AQ_E_ARG, "group %zu of %zu", group, layout->num_groups);
    if (layout->params == AQ_PARAMS_F32) {
        *out_scale = src->scales[group];
        *out_zero_point = src->zero_points[group];
    } else {
        aqi_params_expand(layout, src->params, group, 1, out_scale, out_zero_point);
        if (layout->codebook) *out_zero_point = 0.0f;
    }
    return AQ_OK;
}

typedef struct aqi_decode_task {
    const aq_layout *layout;
    const aq_quantized_view *src;
    size_t first_row, num_rows;
    aqi_tiling tiling;
    aq_dtype dtype;
    uint8_t *dst;
} aqi_decode_task;

/* Elements [at, at + n) of a row as floats. */
static void aqi_expand_part(const aqi_row *row, size_t at, size_t n, float *dst) {
    aqi_row part = aqi_row_from(row, at);
    part.n = n;
    aqi_k()->expand(&part, dst);
}

/* The same where dst has another type, or no alignment. */
static void aqi_expand_as(const aqi_row *row, aq_dtype dtype, uint8_t *dst) {
    float room[AQI_PIECE];
    size_t at, n;
    for (at = 0; at < row->n; at += n) {
        n = AQI_MIN(row->n - at, (size_t)AQI_PIECE);
        aqi_expand_part(row, at, n, room);
        aqi_floats_to(room, n, dtype, dst + at * aq_dtype_bytes(dtype));
    }
}

static void aqi_dequantize_tile(void *arg, size_t index) {
    const aqi_decode_task *t = (const aqi_decode_task *)arg;
    const aq_layout *l = t->layout;
    aqi_tile tile = aqi_tile_at(&t->tiling, l, t->num_rows, index);
    aqi_span s;
    size_t row, col;
    uint8_t *dst;
    for (row = tile.row; row < tile.row_end; row++) {
        for (col = tile.col; col < tile.col_end; col += s.row.n) {
            aqi_span_at(l, t->src, t->first_row + row, col, tile.col_end, &s);
            dst = t->dst + (row * l->cols + col) * aq_dtype_bytes(t->dtype);
            if (t->dtype == AQ_F32 && (uintptr_t)dst % sizeof(float) == 0 &&
                !AQI_BIG_ENDIAN) {
                aqi_k()->expand(&s.row, (float *)(void *)dst);
            } else {
                aqi_expand_as(&s.row, t->dtype, dst);
            }
        }
    }
}

aq_status aq_dequantize_as(const aq_layout *layout, const aq_quantized_view *src,
                           const aq_rows *rows, void *dst, const aq_tasks *tasks,
                           aq_error *err) {
    aqi_decode_task t;
    aq_status status;
    aqi_error_clear(err);
    status = aqi_view_check(layout, src, err);
    if (status != AQ_OK) return status;
    if (rows->first > layout->rows || rows->count > layout->rows - rows->first)
        return aqi_fail(err, AQ_E_ARG, "rows %zu to %zu of %zu", rows->first,
                        rows->first + rows->count, layout->rows);
    if (!aq_dtype_is_float(rows->dtype))
        return aqi_fail(err, AQ_E_ARG, "cannot dequantize to type %s",
                        aq_dtype_name(rows->dtype));
    if (rows->count == 0 || layout->cols == 0) return AQ_OK;
    if (dst == NULL) return aqi_fail(err, AQ_E_ARG, "destination missing");
    memset(&t, 0, sizeof t);
    t.layout = layout;
    t.src = src;
    t.first_row = rows->first;
    t.num_rows = rows->count;
    t.tiling = aqi_tiling_make(layout, rows->count);
    t.dtype = rows->dtype;
    t.dst = (uint8_t *)dst;
    aqi_run(tasks, t.tiling.count, aqi_dequantize_tile, &t);
    return AQ_OK;
}

/* Native floats: on a big-endian machine aq_dequantize_as would swap them. */
static void aqi_floats_from_le(float *p, size_t n) {
    size_t i;
    for (i = 0; i < n && AQI_BIG_ENDIAN; i++)
        p[i] = aqi_load_f32((const uint8_t *)&p[i]);
}

aq_status aq_dequantize_rows(const aq_layout *layout, const aq_quantized_view *src,
                             size_t first_row, size_t num_rows, float *dst,
                             const aq_tasks *tasks, aq_error *err) {
    aq_rows rows;
    aq_status status;
    rows.first = first_row;
    rows.count = num_rows;
    rows.dtype = AQ_F32;
    status = aq_dequantize_as(layout, src, &rows, dst, tasks, err);
    if (status == AQ_OK) aqi_floats_from_le(dst, num_rows * layout->cols);
    return status;
}

/* Lanes of a dot product to one sum, in halves. */
static float aqi_close16(float *lanes) {
    size_t i;
    for (i = 0; i < 8; i++) lanes[i] += lanes[i + 8];
    for (i = 0; i < 4; i++) lanes[i] += lanes[i + 4];
    return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
}

static float aqi_close32(float *lanes) {
    size_t i;
    for (i = 0; i < 16; i++) lanes[i] += lanes[i + 16];
    return aqi_close16(lanes);
}

static float aqi_dot_row(const aq_layout *l, const aq_quantized_view *src, size_t row,
                         const float *x) {
    float lanes[AQI_DOT_LANES] = {0};
    aqi_span s;
    size_t col;
    for (col = 0; col < l->cols; col += s.row.n) {
        aqi_span_at(l, src, row, col, l->cols, &s);
        aqi_k()->dot_row(&s.row, x + col, lanes);
    }
    return aqi_close32(lanes);
}

aq_status aq_dot_row(const aq_layout *layout, const aq_quantized_view *src, size_t row,
                     const float *x, float *out_dot, aq_error *err) {
    aq_status status;
    aqi_error_clear(err);
    *out_dot = 0.0f;
    status = aqi_view_check(layout, src, err);
    if (status != AQ_OK) return status;
    if (row >= layout->rows)
        return aqi_fail(err, AQ_E_ARG, "row %zu of %zu", row, layout->rows);
    if (layout->cols == 0) return AQ_OK;
    if (x == NULL) return aqi_fail(err, AQ_E_ARG, "vector missing");
    *out_dot = aqi_dot_row(layout, src, row, x);
    return AQ_OK;
}

/* Values of a tile of a product: some 10 us of work at least; no more than so many that
 * what is fetched beyond its end, for nothing, is little beside it. */
#define AQI_MATMUL_LEAST 131072u
#define AQI_MATMUL_MOST 2097152u

typedef struct aqi_matmul_task {
    const aq_layout *layout;
    const aq_quantized_view *src;
    const float *x;              /* one of the two */
    const aq_activations *x8;
    size_t count, tile_rows;
    float *y;
} aqi_matmul_task;

static float aqi_dot_x8(const aqi_matmul_task *t, size_t row, size_t vector) {
    const aq_activations *a = t->x8;
    float lanes[2 * AQI_X8_LANES] = {0};
    aqi_span s;
    aqi_x8 x;
    size_t col;
    x.segment = a->segment;
    for (col = 0; col < a->cols;
         col += s.row.n) { /* whole blocks of codes and segments */
        aqi_span_at(t->layout, t->src, row, col, a->cols, &s);
        x.codes = a->codes + vector * a->room + col;
        x.scales = a->scales + vector * a->segments + col / a->segment;
        x.sums = a->sums + vector * a->segments + col / a->segment;
        aqi_k()->dot_x8(&s.row, &x, lanes);
    }
    return aqi_close16(lanes) - aqi_close16(lanes + AQI_X8_LANES);
}

static void aqi_matmul_tile(void *arg, size_t index) {
    const aqi_matmul_task *t = (const aqi_matmul_task *)arg;
    const aq_layout *l = t->layout;
    size_t row = index * t->tile_rows, end = AQI_MIN(row + t->tile_rows, l->rows), i;
    for (; row < end; row++) {
        for (i = 0; i < t->count; i++)
            t->y[i * l->rows + row] =
                t->x8 != NULL ? aqi_dot_x8(t, row, i)
                              : aqi_dot_row(l, t->src, row, t->x + i * l->cols);
    }
}

static aq_status aqi_matmul(aqi_matmul_task *t, const aq_tasks *tasks, aq_error *err) {
    const aq_layout *l = t->layout;
    size_t tiles, bytes, least, width;
    if (l->rows == 0 || t->count == 0) return AQ_OK;
    if (!aqi_mul_size(t->count, AQI_MAX(l->rows, l->cols), &bytes) ||
        !aqi_mul_size(bytes, sizeof(float), &bytes))
        return aqi_fail(err, AQ_E_LIMIT, "%zu vectors are too many for this machine",
                        t->count);
    if (t->y == NULL || (l->cols > 0 && t->x == NULL && t->x8 == NULL))
        return aqi_fail(err, AQ_E_ARG, "vector missing");
    if (l->cols == 0) { /* also without codes */
        memset(t->y, 0, t->count * l->rows * sizeof *t->y);
        return AQ_OK;
    }
    least = AQI_MATMUL_LEAST / l->cols / t->count;
    width = tasks != NULL && tasks->width > 0 ? tasks->width : 16;
    t->tile_rows = l->rows / (8 * width);
    t->tile_rows = AQI_MIN(t->tile_rows, AQI_MATMUL_MOST / l->cols / t->count);
    t->tile_rows = AQI_MAX(t->tile_rows, AQI_MAX(least, (size_t)1));
    tiles = (l->rows + t->tile_rows - 1) / t->tile_rows;
    /* Less than some 50 us of work is done sooner than other threads wake up. */
    aqi_run(tiles > 4 ? tasks : NULL, tiles, aqi_matmul_tile, t);
    return AQ_OK;
}

aq_status aq_matmul(const aq_layout *layout, const aq_quantized_view *src, const float *x,
                    size_t count, float *y, const aq_tasks *tasks, aq_error *err) {
    aqi_matmul_task t;
    aq_status status;
    aqi_error_clear(err);
    status = aqi_view_check(layout, src, err);
    if (status != AQ_OK) return status;
    memset(&t, 0, sizeof t);
    t.layout = layout;
    t.src = src;
    t.x = x;
    t.count = count;
    t.y = y;
    return aqi_matmul(&t, tasks, err);
}

aq_status aq_matvec(const aq_layout *layout, const aq_quantized_view *src, const float *x,
                    float *y, const aq_tasks *tasks, aq_error *err) {
    return aq_matmul(layout, src, x, 1, y, tasks, err);
}

/* ---- activations ---- */

/* Whether vectors of a can be multiplied with a tensor. */
static bool aqi_activations_fit(const aq_activations *a, const aq_activations *of) {
    return a->cols == of->cols && a->code_bits == of->code_bits &&
           a->segment == of->segment && a->segments == of->segments &&
           a->room == of->room;
}

/* Shape and sizes of vectors for a layout; false when they overflow size_t. */
static bool aqi_activations_shape(const aq_layout *l, size_t count, aq_activations *out,
                                  size_t *out_bytes) {
    size_t floats, codes;
    memset(out, 0, sizeof *out);
    out->count = count;
    out->cols = l->cols;
    out->code_bits = l->code_bits;
    out->segment = AQI_MIN(l->group_cols, AQI_MAX(l->cols, (size_t)1));
    if (out->segment > 256 && (l->groups_per_row <= 1 || l->group_cols % 128 == 0))
        out->segment = 128;
    out->segments = l->cols / out->segment + (l->cols % out->segment != 0);
    out->room = aqi_x8_room(l->code_bits, l->cols);
    return aqi_mul_size(count, out->segments, &floats) &&
           aqi_mul_size(floats, 2 * sizeof(float), &floats) &&
           aqi_mul_size(count, out->room, &codes) &&
           aqi_add_size(floats, codes, out_bytes);
}

size_t aq_activations_bytes(const aq_layout *layout, size_t count) {
    aq_activations a;
    size_t bytes;
    if (aqi_layout_check(layout, NULL) != AQ_OK) return 0;
    return aqi_activations_shape(layout, count, &a, &bytes) ? bytes : 0;
}

/* One segment: codes in order to `codes`; false, with its index, when a value is not
 * finite. */
static bool aqi_activations_segment(const float *x, size_t n, uint8_t *codes,
                                    float *out_scale, float *out_sum, size_t *out_bad) {
    aqi_range range;
    aqi_encode how;
    int64_t sum = 0;
    float scale;
    size_t i;
    if (!aqi_range_add(x, n, true, &range, out_bad)) return false;
    scale = aqi_bits_float(range.absmax_bits) / 127.0f;
    if (!(scale >= FLT_MIN)) scale = 0.0f; /* below 2^-119 all codes are 0 */
    how.base = 0.0f;
    how.inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    how.bias = 128.0f;
    how.max_code = 255.0f;
    aqi_k()->encode(x, n, &how, codes);
    for (i = 0; i < n; i++) {
        codes[i] = (uint8_t)(codes[i] ^ 128u);
        sum += (int8_t)codes[i];
    }
    *out_scale = scale;
    *out_sum = scale * (float)sum;
    return true;
}

aq_status aq_activations_init(const aq_layout *layout, const float *x, size_t count,
                              void *memory, aq_activations *out_activations,
                              aq_error *err) {
    aq_activations a;
    uint8_t piece[AQI_PIECE];
    float *scales = (float *)memory, *sums;
    int8_t *codes;
    size_t bytes, v, s, at, n, i;
    aq_status status;
    aqi_error_clear(err);
    memset(out_activations, 0, sizeof *out_activations);
    status = aqi_layout_check(layout, err);
    if (status != AQ_OK) return status;
    if (!aqi_activations_shape(layout, count, &a, &bytes))
        return aqi_fail(err, AQ_E_LIMIT, "%zu vectors are too many for this machine",
                        count);
    if (bytes > 0 && (x == NULL || memory == NULL || (uintptr_t)memory % 4 != 0))
        return aqi_fail(err, AQ_E_ARG,
                        "vectors or their memory missing, or not aligned to 4");
    if (bytes == 0) {
        *out_activations = a;
        return AQ_OK;
    }
    sums = scales + count * a.segments;
    codes = (int8_t *)(sums + count * a.segments);
    memset(codes, 0, count * a.room);
    for (v = 0; v < count; v++) {
        for (s = 0; s < a.segments; s++) {
            at = s * a.segment;
            n = AQI_MIN(a.segment, a.cols - at);
            if (n > AQI_PIECE)
                return aqi_fail(err, AQ_E_UNSUPPORTED,
                                "groups of %zu elements; use aq_matmul", n);
            if (!aqi_activations_segment(x + v * a.cols + at, n, piece,
                                         &scales[v * a.segments + s],
                                         &sums[v * a.segments + s], &i))
                return aqi_fail(err, AQ_E_NONFINITE,
                                "vector %zu: value %zu is NaN or infinite", v, at + i);
            if (!aqi_is_finite(sums[v * a.segments + s]))
                return aqi_fail(err, AQ_E_LIMIT,
                                "vector %zu: values from %zu on are too large to be "
                                "added; scale the vector, or use aq_matmul",
                                v, at);
            for (i = 0; i < n; i++)
                codes[v * a.room + aqi_x8_place(a.code_bits, at + i)] = (int8_t)piece[i];
        }
    }
    a.codes = codes;
    a.scales = scales;
    a.sums = sums;
    *out_activations = a;
    return AQ_OK;
}

aq_status aq_matmul_i8(const aq_layout *layout, const aq_quantized_view *src,
                       const aq_activations *x, float *y, const aq_tasks *tasks,
                       aq_error *err) {
    aqi_matmul_task t;
    aq_activations own;
    size_t bytes;
    aq_status status;
    aqi_error_clear(err);
    status = aqi_view_check(layout, src, err);
    if (status != AQ_OK) return status;
    if (x == NULL || !aqi_activations_shape(layout, x->count, &own, &bytes) ||
        !aqi_activations_fit(x, &own))
        return aqi_fail(err, AQ_E_ARG,
                        "activations were made for another width, group size or number "
                        "of columns; make them from this layout");
    memset(&t, 0, sizeof t);
    t.layout = layout;
    t.src = src;
    t.x8 = x;
    t.count = x->count;
    t.y = y;
    return aqi_matmul(&t, tasks, err);
}

#ifdef __clang__
#pragma STDC FP_CONTRACT DEFAULT
#else
#pragma GCC pop_options
#endif

/*==========================================================================
 * MARK: - [82] JSON (private)
 * Strict reading of what file headers hold, and writing of strings. Source: RFC 8259.
 *========================================================================*/

typedef struct aqi_json {
    aqi_cursor in;
    aqi_arena *arena; /* for strings */
    aq_error *err;
} aqi_json;

static aq_status aqi_json_fail(aqi_json *j, const char *what) {
    return aqi_fail_at(j->err, AQ_E_FORMAT, aqi_offset(&j->in),
                       "JSON header: %s at offset %lld", what,
                       (long long)aqi_offset(&j->in));
}

/* The next character that is not white space; 0 at the end. */
static uint8_t aqi_json_peek(aqi_json *j) {
    while (j->in.p < j->in.end &&
           (*j->in.p == ' ' || *j->in.p == '\t' || *j->in.p == '\n' || *j->in.p == '\r'))
        j->in.p++;
    return j->in.p < j->in.end ? *j->in.p : 0;
}

static bool aqi_json_take(aqi_json *j, char c) {
    if (aqi_json_peek(j) != (uint8_t)c || j->in.p == j->in.end) return false;
    j->in.p++;
    return true;
}

/* Four hex digits; -1 when they are not. */
static int32_t aqi_json_hex4(aqi_json *j) {
    int32_t v = 0, i;
    if (aqi_remaining(&j->in) < 4) return -1;
    for (i = 0; i < 4; i++) {
        uint8_t c = *j->in.p++;
        int32_t digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
        if (digit < 0) return -1;
        v = v << 4 | digit;
    }
    return v;
}

/* A code point as UTF-8; returns its length. */
static size_t aqi_utf8_put(uint32_t cp, char *dst) {
    if (cp < 0x80) {
        dst[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        dst[0] = (char)(0xc0 | cp >> 6);
        dst[1] = (char)(0x80 | (cp & 63));
        return 2;
    }
    if (cp < 0x10000) {
        dst[0] = (char)(0xe0 | cp >> 12);
        dst[1] = (char)(0x80 | (cp >> 6 & 63));
        dst[2] = (char)(0x80 | (cp & 63));
        return 3;
    }
    dst[0] = (char)(0xf0 | cp >> 18);
    dst[1] = (char)(0x80 | (cp >> 12 & 63));
    dst[2] = (char)(0x80 | (cp >> 6 & 63));
    dst[3] = (char)(0x80 | (cp & 63));
    return 4;
}

/* Length of the valid UTF-8 sequence at p, 0 when it is not one. */
static size_t aqi_utf8_length(const uint8_t *p, size_t left) {
    size_t n = *p < 0x80       ? 1
               : *p >> 5 == 6  ? 2
               : *p >> 4 == 14 ? 3
               : *p >> 3 == 30 ? 4
                               : 0,
           i;
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    uint32_t cp;
    if (n == 0 || n > left) return 0;
    cp = n == 1 ? *p : *p & (0x7fu >> n);
    for (i = 1; i < n; i++) {
        if (p[i] >> 6 != 2) return 0;
        cp = cp << 6 | (p[i] & 63u);
    }
    return cp < least[n] || cp > 0x10ffff || (cp >= 0xd800 && cp < 0xe000) ? 0 : n;
}

static bool aqi_utf8_valid(const void *text, size_t bytes) {
    const uint8_t *p = (const uint8_t *)text, *end = p + bytes;
    while (p < end) {
        size_t n = aqi_utf8_length(p, (size_t)(end - p));
        if (n == 0) return false;
        p += n;
    }
    return true;
}

/* The escape sequence after a backslash, to dst (4 bytes of room); 0 when there is
 * none. */
static size_t aqi_json_escape(aqi_json *j, char *dst) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *found;
    int32_t high, low;
    if (aqi_remaining(&j->in) == 0) return 0;
    if (*j->in.p != 'u') {
        found = *j->in.p == 0 ? NULL : strchr(from, *j->in.p);
        if (found == NULL) return 0;
        j->in.p++;
        dst[0] = to[found - from];
        return 1;
    }
    j->in.p++;
    high = aqi_json_hex4(j);
    if (high <= 0 || (high >= 0xdc00 && high < 0xe000))
        return 0; /* NUL would end a name */
    if (high < 0xd800 || high >= 0xe000) return aqi_utf8_put((uint32_t)high, dst);
    if (aqi_remaining(&j->in) < 6 || j->in.p[0] != '\\' || j->in.p[1] != 'u') return 0;
    j->in.p += 2;
    low = aqi_json_hex4(j);
    if (low < 0xdc00 || low >= 0xe000) return 0;
    return aqi_utf8_put(
        0x10000u + ((uint32_t)(high - 0xd800) << 10) + (uint32_t)(low - 0xdc00), dst);
}

/* A string, unescaped, NUL-terminated, in the arena. */
static aq_status aqi_json_string(aqi_json *j, const char **out, aq_error *err) {
    const uint8_t *scan;
    void *room;
    char *dst;
    aq_status status;
    *out = NULL;
    if (!aqi_json_take(j, '"')) return aqi_json_fail(j, "no string");
    for (scan = j->in.p; scan < j->in.end && *scan != '"'; scan++) {
        if (*scan == '\\') scan++;
    }
    if (scan >= j->in.end) return aqi_json_fail(j, "string without an end");
    status = aqi_arena_take(j->arena, (size_t)(scan - j->in.p) + 1, &room, err);
    if (status != AQ_OK) return status;
    dst = (char *)room; /* unescaping never lengthens */
    while (*j->in.p != '"') {
        size_t n;
        if (*j->in.p == '\\') {
            j->in.p++;
            n = aqi_json_escape(j, dst);
            if (n == 0) return aqi_json_fail(j, "no such escape sequence");
        } else {
            n = aqi_utf8_length(j->in.p, aqi_remaining(&j->in));
            if (n == 0 || *j->in.p < 0x20) return aqi_json_fail(j, "no valid UTF-8 text");
            memcpy(dst, j->in.p, n);
            j->in.p += n;
        }
        dst += n;
    }
    j->in.p++;
    *dst = '\0';
    *out = (const char *)room;
    return AQ_OK;
}

static aq_status aqi_json_u64(aqi_json *j, uint64_t *out) {
    uint8_t c = aqi_json_peek(j);
    const uint8_t *begin = j->in.p;
    uint64_t v = 0;
    if (c < '0' || c > '9') return aqi_json_fail(j, "no whole number");
    for (; j->in.p < j->in.end && *j->in.p >= '0' && *j->in.p <= '9'; j->in.p++) {
        uint64_t digit = (uint64_t)(*j->in.p - '0');
        if (v > (UINT64_MAX - digit) / 10) return aqi_json_fail(j, "number over 64 bits");
        v = v * 10 + digit;
    }
    if (c == '0' && j->in.p - begin > 1)
        return aqi_json_fail(j, "number with a leading 0");
    *out = v;
    return AQ_OK;
}

#ifndef AQ_NO_WRITER

static bool aqi_put_text(const aq_allocator *a, aqi_bytes_builder *b, const char *text) {
    return aqi_builder_append(a, b, text, strlen(text));
}

/* Appends a quoted JSON string. `text` is valid UTF-8. */
static bool aqi_put_json_string(const aq_allocator *a, aqi_bytes_builder *b,
                                const char *text) {
    bool ok = aqi_put_text(a, b, "\"");
    for (; *text != '\0' && ok; text++) {
        char escaped[8];
        if (*text == '"' || *text == '\\') {
            snprintf(escaped, sizeof escaped, "\\%c", *text);
            ok = aqi_put_text(a, b, escaped);
        } else if ((unsigned char)*text < 0x20) {
            snprintf(escaped, sizeof escaped, "\\u%04x", (unsigned)(unsigned char)*text);
            ok = aqi_put_text(a, b, escaped);
        } else {
            ok = aqi_builder_append(a, b, text, 1);
        }
    }
    return ok && aqi_put_text(a, b, "\"");
}

#endif /* AQ_NO_WRITER */

/*==========================================================================
 * MARK: - [83] Tensors (private)
 *========================================================================*/

static aq_dtype aqi_dtype_of(const char *text, bool safetensors) {
#define AQ_X(enumerator, value, name, bytes, st)                                         \
    if (strcmp(text, safetensors ? st : name) == 0) return enumerator;
    AQ_DTYPE_LIST(AQ_X)
#undef AQ_X
    return AQ_DTYPE_NONE;
}

/* rows x cols of a shape: 0-D and 1-D are one row, N-D is [d0][product of the rest]. */
static aq_status aqi_tensor_geometry(aq_tensor *t, aq_error *err) {
    size_t rows = 1, cols = 1, bytes;
    uint64_t params = 1;
    uint32_t i;
    for (i = 0; i < t->num_dims; i++) {
        size_t *side = i == 0 && t->num_dims > 1 ? &rows : &cols;
        if (__builtin_mul_overflow(params, t->shape[i], &params) ||
            t->shape[i] > SIZE_MAX || !aqi_mul_size(*side, (size_t)t->shape[i], side))
            return aqi_fail(err, AQ_E_LIMIT, "shape has over 2^64 elements");
    }
    if (!aqi_mul_size((size_t)params, 8, &bytes) || params > SIZE_MAX / 8)
        return aqi_fail(err, AQ_E_LIMIT, "%llu elements are too many for this machine",
                        (unsigned long long)params);
    t->num_params = params;
    t->layout.rows = rows;
    t->layout.cols = cols;
    return AQ_OK;
}

/* A tensor with nothing recorded. */
static void aqi_tensor_reset(aq_tensor *t) {
    memset(t, 0, sizeof *t);
    t->cosine = (double)NAN;
    t->sqnr_db = (double)NAN;
    t->max_abs_error = (double)NAN;
}

aq_status aq_tensor_init(aq_tensor *out_tensor, const char *name, aq_dtype dtype,
                         const uint64_t *shape, uint32_t num_dims, const void *data,
                         aq_error *err) {
    aq_tensor t;
    aq_status status;
    aqi_error_clear(err);
    aqi_tensor_reset(out_tensor);
    aqi_tensor_reset(&t);
    if (name == NULL || name[0] == '\0' || !aqi_utf8_valid(name, strlen(name)))
        return aqi_fail(err, AQ_E_ARG, "tensor name missing or not UTF-8");
    if (aq_dtype_bytes(dtype) == 0)
        return aqi_fail(err, AQ_E_ARG, "tensor \"%.80s\": dtype %d is none of aq_dtype",
                        name, (int)dtype);
    if (num_dims > AQ_MAX_DIMS || (num_dims > 0 && shape == NULL))
        return aqi_fail(err, AQ_E_ARG, "tensor \"%.80s\": %u dimensions; at most %d",
                        name, num_dims, AQ_MAX_DIMS);
    t.name = name;
    t.dtype = dtype;
    t.num_dims = num_dims;
    if (num_dims > 0) memcpy(t.shape, shape, num_dims * sizeof t.shape[0]);
    status = aqi_tensor_geometry(&t, err);
    if (status != AQ_OK) return aqi_error_in_tensor(err, status, name);
    t.data = (const uint8_t *)data;
    t.data_bytes = (size_t)t.num_params * aq_dtype_bytes(dtype);
    *out_tensor = t;
    return AQ_OK;
}

static aq_quantized_view aqi_tensor_view(const aq_tensor *t) {
    aq_quantized_view v;
    v.codes = t->data;
    v.scales = t->scales;
    v.zero_points = t->zero_points;
    v.params = t->params;
    return v;
}

static aq_status aqi_tensor_check_float(const aq_tensor *t, aq_error *err) {
    if (t->num_params > 0 && t->data == NULL)
        return aqi_fail(err, AQ_E_ARG, "tensor has no data; use aq_model_tensor");
    if (t->layout.bits == 0 && !aq_dtype_is_float(t->dtype))
        return aqi_fail(err, AQ_E_TYPE, "tensor \"%.80s\" is %s, not a float type",
                        t->name, aq_dtype_name(t->dtype));
    return AQ_OK;
}

aq_status aq_tensor_rows_f32(const aq_tensor *tensor, size_t first_row, size_t num_rows,
                             float *dst, const aq_tasks *tasks, aq_error *err) {
    const aq_layout *l = &tensor->layout;
    aq_quantized_view view = aqi_tensor_view(tensor);
    aq_status status;
    aqi_error_clear(err);
    status = aqi_tensor_check_float(tensor, err);
    if (status != AQ_OK) return status;
    if (l->bits != 0)
        return aq_dequantize_rows(l, &view, first_row, num_rows, dst, tasks, err);
    if (first_row > l->rows || num_rows > l->rows - first_row)
        return aqi_fail(err, AQ_E_ARG, "rows %zu to %zu of %zu", first_row,
                        first_row + num_rows, l->rows);
    if (num_rows == 0 || l->cols == 0) return AQ_OK;
    return aq_to_f32(tensor->data + first_row * l->cols * aq_dtype_bytes(tensor->dtype),
                     tensor->dtype, num_rows * l->cols, dst, err);
}

/* A row of a float tensor with the lanes of aq_dot_row. */
static float aqi_float_dot(const aq_tensor *t, size_t row, const float *x) {
    float room[AQI_PIECE], lanes[AQI_DOT_LANES] = {0};
    size_t col;
    for (col = 0; col < t->layout.cols; col += AQI_PIECE) {
        size_t n = AQI_MIN(t->layout.cols - col, (size_t)AQI_PIECE);
        const float *w =
            aqi_floats_at(t->data, t->dtype, row * t->layout.cols + col, n, room);
        aqi_k()->dot(w, x + col, n, lanes);
    }
    return aqi_close32(lanes);
}

aq_status aq_tensor_dot(const aq_tensor *tensor, size_t row, const float *x,
                        float *out_dot, aq_error *err) {
    aq_quantized_view view = aqi_tensor_view(tensor);
    aq_status status;
    aqi_error_clear(err);
    *out_dot = 0.0f;
    status = aqi_tensor_check_float(tensor, err);
    if (status != AQ_OK) return status;
    if (tensor->layout.bits != 0)
        return aq_dot_row(&tensor->layout, &view, row, x, out_dot, err);
    if (row >= tensor->layout.rows || (tensor->layout.cols > 0 && x == NULL))
        return aqi_fail(err, AQ_E_ARG, "row %zu of %zu, or no vector", row,
                        tensor->layout.rows);
    *out_dot = aqi_float_dot(tensor, row, x);
    return AQ_OK;
}

typedef struct aqi_float_matmul_task {
    const aq_tensor *tensor;
    const float *x;
    float *y;
    size_t count, tile_rows;
} aqi_float_matmul_task;

static void aqi_float_matmul_tile(void *arg, size_t index) {
    const aqi_float_matmul_task *t = (const aqi_float_matmul_task *)arg;
    const aq_layout *l = &t->tensor->layout;
    size_t row = index * t->tile_rows, end = AQI_MIN(row + t->tile_rows, l->rows), i;
    for (; row < end; row++) {
        for (i = 0; i < t->count; i++)
            t->y[i * l->rows + row] = aqi_float_dot(t->tensor, row, t->x + i * l->cols);
    }
}

aq_status aq_tensor_matmul(const aq_tensor *tensor, const float *x, size_t count,
                           float *y, const aq_tasks *tasks, aq_error *err) {
    const aq_layout *l = &tensor->layout;
    aq_quantized_view view = aqi_tensor_view(tensor);
    aqi_float_matmul_task t;
    aq_status status;
    aqi_error_clear(err);
    status = aqi_tensor_check_float(tensor, err);
    if (status != AQ_OK) return status;
    if (l->bits != 0) return aq_matmul(l, &view, x, count, y, tasks, err);
    if (l->rows == 0 || count == 0) return AQ_OK;
    if (y == NULL || (l->cols > 0 && x == NULL))
        return aqi_fail(err, AQ_E_ARG, "vector missing");
    t.tensor = tensor;
    t.x = x;
    t.y = y;
    t.count = count;
    t.tile_rows = AQI_TILE_VALUES / AQI_MAX(l->cols, (size_t)1) / count;
    t.tile_rows = AQI_MAX(t.tile_rows, (size_t)1);
    aqi_run(tasks, (l->rows - 1) / t.tile_rows + 1, aqi_float_matmul_tile, &t);
    return AQ_OK;
}

aq_status aq_tensor_matvec(const aq_tensor *tensor, const float *x, float *y,
                           const aq_tasks *tasks, aq_error *err) {
    return aq_tensor_matmul(tensor, x, 1, y, tasks, err);
}

aq_status aq_tensor_matmul_i8(const aq_tensor *tensor, const aq_activations *x, float *y,
                              const aq_tasks *tasks, aq_error *err) {
    aq_quantized_view view = aqi_tensor_view(tensor);
    aq_status status;
    aqi_error_clear(err);
    status = aqi_tensor_check_float(tensor, err);
    if (status != AQ_OK) return status;
    if (tensor->layout.bits == 0)
        return aqi_fail(err, AQ_E_TYPE, "tensor \"%.80s\" is not quantized",
                        tensor->name);
    return aq_matmul_i8(&tensor->layout, &view, x, y, tasks, err);
}

/* ---- parts of a stored tensor ---- */

/* The arrays that a stored tensor consists of; the last three make up small
 * parameters. */
enum {
    AQI_PART_DATA,
    AQI_PART_SCALES,
    AQI_PART_ZERO_POINTS,
    AQI_PART_FACTORS,
    AQI_PART_SCALE_CODES,
    AQI_PART_SECONDS,
    AQI_PARTS
};

/* One array of a stored tensor. A unit is a row of its matrix; of a tensor that is not
 * quantized, an element. */
typedef struct aqi_part {
    const uint8_t *values; /* NULL when unknown                              */
    size_t bytes, stride;  /* of all, and of a unit: 0 where all units share */
    size_t swap;           /* bytes to turn round on a big-endian machine    */
} aqi_part;

static void aqi_parts_of(const aq_tensor *t, aqi_part parts[AQI_PARTS]) {
    const aq_layout *l = &t->layout;
    aqi_part *floats[2] = {&parts[AQI_PART_SCALES], &parts[AQI_PART_ZERO_POINTS]};
    aqi_params_at at;
    int k;
    memset(parts, 0, AQI_PARTS * sizeof *parts);
    parts[AQI_PART_DATA].values = t->data;
    parts[AQI_PART_DATA].bytes = t->data_bytes;
    parts[AQI_PART_DATA].stride = l->bits == 0 ? aq_dtype_bytes(t->dtype) : l->row_bytes;
    if (l->bits == 0) return;
    if (l->params == AQ_PARAMS_F32) {
        for (k = 0; k < 2; k++) {
            floats[k]->values =
                (const uint8_t *)(k == 0 ? t->scales : t->zero_points);
            floats[k]->bytes = l->num_groups * sizeof(float);
            floats[k]->stride =
                l->group_rows > 1 ? 0 : l->groups_per_row * sizeof(float);
            floats[k]->swap = sizeof(float);
        }
        return;
    }
    at = aqi_params_places(l);
    parts[AQI_PART_FACTORS].bytes = at.scales;
    parts[AQI_PART_FACTORS].stride = at.factors * sizeof(float);
    parts[AQI_PART_SCALE_CODES].bytes = at.seconds - at.scales;
    parts[AQI_PART_SECONDS].bytes = l->params_bytes - at.seconds;
    for (k = AQI_PART_SCALE_CODES; k <= AQI_PART_SECONDS; k++)
        parts[k].stride = l->rows == 0 ? 0 : parts[k].bytes / l->rows;
    if (t->params == NULL) return;
    parts[AQI_PART_FACTORS].values = t->params;
    parts[AQI_PART_SCALE_CODES].values = t->params + at.scales;
    parts[AQI_PART_SECONDS].values = t->params + at.seconds;
}

/*==========================================================================
 * MARK: - [84] Models: reading (private)
 * Opening reads the metadata of all tensors; data is found when a tensor is asked for.
 *========================================================================*/

/* Leaf columns of the model schema; -1 = the file has none.
 * X(member and name, type, inside a list, required) */
#define AQI_MODEL_COLUMNS(X)                                                             \
    X(layer_name, AQ_BYTE_ARRAY, 0, true)                                                \
    X(shape, AQ_INT64, 1, true)                                                          \
    X(dtype, AQ_BYTE_ARRAY, 0, false)                                                    \
    X(data, AQ_BYTE_ARRAY, 0, true)                                                      \
    X(num_params, AQ_INT64, 0, false)                                                    \
    X(quant_type, AQ_BYTE_ARRAY, 0, false)                                               \
    X(scales, AQ_FLOAT, 1, false)                                                        \
    X(zero_points, AQ_FLOAT, 1, false)                                                   \
    X(quant_axis, AQ_INT64, 0, false)                                                    \
    X(group_size, AQ_INT64, 0, false)                                                    \
    X(bit_width, AQ_INT32, 0, false)                                                     \
    X(packing, AQ_BYTE_ARRAY, 0, false)                                                  \
    X(cosine, AQ_DOUBLE, 0, false)                                                       \
    X(sqnr_db, AQ_DOUBLE, 0, false)                                                      \
    X(max_abs_error, AQ_DOUBLE, 0, false)                                                \
    X(chunk_index, AQ_INT32, 0, false)                                                   \
    X(chunk_count, AQ_INT32, 0, false)                                                   \
    X(group_params, AQ_BYTE_ARRAY, 0, false)                                             \
    X(params_type, AQ_BYTE_ARRAY, 0, false)                                              \
    X(codebook, AQ_BYTE_ARRAY, 0, false)

typedef struct aqi_model_columns {
#define AQ_X(name, type, lists, required) int32_t name;
    AQI_MODEL_COLUMNS(AQ_X)
#undef AQ_X
} aqi_model_columns;

typedef struct aqi_model_file {
    char *path;
    aq_parquet *parquet; /* NULL: safetensors, npy */
    aqi_source source;   /* of those               */
    aqi_model_columns columns;
} aqi_model_file;

typedef struct aqi_model_entry {
    aq_tensor tensor; /* without data */
    uint32_t file;
    int32_t row_group; /* Parquet: where the row is            */
    int64_t row;       /* in the row group                     */
    int64_t offset;    /* safetensors, npy: file offset of the data */
    uint32_t chunk, num_chunks;     /* Parquet: 0 of 1 for most                       */
    struct aqi_model_entry *chunks; /* not NULL: its rows, num_chunks of them: rows of
                                       the matrix, or a part of the elements          */
} aqi_model_entry;

struct aq_model {
    aq_allocator allocator;
    aq_log log;
    aq_io io;
    bool skip_checksums;
    aq_model_format format;
    aqi_arena arena; /* names, metadata, files */
    aqi_model_file *files;
    size_t num_files;
    aqi_model_entry *entries; /* in name order */
    size_t num_entries, entries_capacity;
    aq_key_value *pairs;
    size_t num_pairs;
    uint64_t file_bytes;
    struct aqi_chunk_cache *cache; /* the only part that changes after opening */
};

/* Room for one more entry; NULL = no memory. */
static aqi_model_entry *aqi_model_push(aq_model *m) {
    if (m->num_entries == m->entries_capacity) {
        size_t capacity = m->entries_capacity == 0 ? 64 : m->entries_capacity * 2;
        size_t old = m->entries_capacity * sizeof *m->entries, bytes;
        void *p;
        if (!aqi_mul_size(capacity, sizeof *m->entries, &bytes)) return NULL;
        p = old == 0 ? aqi_alloc(&m->allocator, bytes)
                     : m->allocator.resize(m->allocator.user, m->entries, old, bytes, 16);
        if (p == NULL) return NULL;
        m->entries = (aqi_model_entry *)p;
        m->entries_capacity = capacity;
    }
    memset(&m->entries[m->num_entries], 0, sizeof *m->entries);
    aqi_tensor_reset(&m->entries[m->num_entries].tensor);
    return &m->entries[m->num_entries++];
}

/* ---- rows of a model's Parquet columns ---- */

/* A column chunk of a row group, all of it, by rows. */
typedef struct aqi_cells {
    aq_column *column; /* NULL: the file has no such column                        */
    aq_span span;
    size_t width;       /* bytes of a value                                         */
    int64_t *row_first; /* value where each row begins, and the end; NULL: one row  */
} aqi_cells;

static void aqi_cells_close(aqi_cells *c) {
    aq_column_close(c->column);
    memset(c, 0, sizeof *c);
}

/* One pass over the levels. A null inside a list has no place in a model. */
static aq_status aqi_cells_index(aqi_cells *c, const aq_field *field, aq_error *err) {
    const aq_span *s = &c->span;
    bool list = field->max_rep > 0, nullable = field->repetition == AQ_OPTIONAL;
    int64_t i, value = 0, row = 0;
    void *p;
    aq_status status;
    if (list && nullable && s->def_levels != NULL) {
        for (i = 0; i < s->num_levels; i++) {
            if (s->def_levels[i] == field->max_def - 1)
                return aqi_fail(err, AQ_E_FORMAT, "null inside the list at value %lld",
                                (long long)i);
        }
    }
    if (s->num_rows < 2) return AQ_OK;
    status = aqi_arena_alloc(&c->column->kept,
                             ((size_t)s->num_rows + 1) * sizeof(int64_t), &p, err);
    if (status != AQ_OK) return status;
    c->row_first = (int64_t *)p;
    for (i = 0; i < s->num_levels; i++) {
        if (s->rep_levels == NULL || s->rep_levels[i] == 0) c->row_first[row++] = value;
        value += s->def_levels == NULL || s->def_levels[i] == field->max_def;
    }
    c->row_first[row] = value;
    return AQ_OK;
}

static aq_status aqi_cells_open(const aqi_model_file *f, int32_t row_group,
                                int32_t column, aqi_cells *out, aq_error *err) {
    const aq_field *field = aq_parquet_column_field(f->parquet, column);
    aq_status status;
    memset(out, 0, sizeof *out);
    if (column < 0) return AQ_OK;
    status = aq_column_open(f->parquet, row_group, column, &out->column, err);
    if (status == AQ_OK) status = aq_column_view(out->column, &out->span, err);
    if (status != AQ_OK) return status;
    out->width = aqi_value_bytes(field->type, field->type_length);
    return aqi_column_located(out->column, aqi_cells_index(out, field, err), err);
}

/* First value and count of values of a row. */
static void aqi_cells_row(const aqi_cells *c, int64_t row, int64_t *out_first,
                          int64_t *out_count) {
    *out_first = 0;
    *out_count = 0;
    if (c->column == NULL || row >= c->span.num_rows) return;
    *out_count = c->span.num_values;
    if (c->row_first == NULL) return;
    *out_first = c->row_first[row];
    *out_count = c->row_first[row + 1] - *out_first;
}

/* Address of the only value of a row; NULL when it is null or the column is absent. */
static const void *aqi_cells_value(const aqi_cells *c, int64_t row) {
    int64_t first, count;
    aqi_cells_row(c, row, &first, &count);
    if (count == 0) return NULL;
    return (const uint8_t *)c->span.values + (size_t)first * c->width;
}

static const aq_bytes *aqi_cells_bytes(const aqi_cells *c, int64_t row) {
    return (const aq_bytes *)aqi_cells_value(c, row);
}

/* An integer of 4 or 8 bytes. */
static int64_t aqi_load_int(const void *p, size_t width) {
    int32_t narrow;
    int64_t wide;
    if (width == sizeof wide) {
        memcpy(&wide, p, sizeof wide);
        return wide;
    }
    memcpy(&narrow, p, sizeof narrow);
    return narrow;
}

static int64_t aqi_cells_int(const aqi_cells *c, int64_t row, int64_t missing) {
    const void *p = aqi_cells_value(c, row);
    return p == NULL ? missing : aqi_load_int(p, c->width);
}

static double aqi_cells_f64(const aqi_cells *c, int64_t row) {
    const void *p = aqi_cells_value(c, row);
    double v = (double)NAN;
    if (p != NULL) memcpy(&v, p, sizeof v);
    return v;
}

/* True when a BYTE_ARRAY cell is this text. */
static bool aqi_bytes_equal(const aq_bytes *b, const char *text) {
    size_t n = strlen(text);
    return b != NULL && b->size == n && (n == 0 || memcmp(b->data, text, n) == 0);
}

/* ---- the model schema ---- */

/* The only leaf under the top-level field `name`; -1 when there is none. */
static int32_t aqi_model_leaf(const aq_parquet *f, const char *name) {
    int32_t i;
    for (i = 1; i < f->schema.num_fields; i++) {
        if (f->schema.fields[i].parent != 0 ||
            strcmp(f->schema.fields[i].name, name) != 0)
            continue;
        while (f->schema.fields[i].num_children == 1) i++;
        return f->schema.fields[i].column;
    }
    return -1;
}

/* Integers may have either width. */
static bool aqi_model_type_fits(const aq_field *field, aq_physical_type wanted,
                                int lists) {
    bool integer = field->type == AQ_INT32 || field->type == AQ_INT64;
    return field->max_rep <= lists &&
           (field->type == wanted ||
            (integer && (wanted == AQ_INT32 || wanted == AQ_INT64)));
}

static aq_status aqi_model_columns_find(aqi_model_file *f, aq_error *err) {
    const char *missing = NULL, *mistyped = NULL, *type = "";
#define AQ_X(name, wanted, lists, required)                                              \
    f->columns.name = aqi_model_leaf(f->parquet, #name);                                 \
    if (f->columns.name < 0 && required) missing = #name;                                \
    if (f->columns.name >= 0 &&                                                          \
        !aqi_model_type_fits(aq_parquet_column_field(f->parquet, f->columns.name),       \
                             wanted, lists)) {                                           \
        mistyped = #name;                                                                \
        type = (lists ? "list of " #wanted : #wanted);                                   \
    }
    AQI_MODEL_COLUMNS(AQ_X)
#undef AQ_X
    if (missing != NULL)
        return aqi_fail(err, AQ_E_TYPE,
                        "Parquet, but not a model: no column %s; a model has layer_name, "
                        "shape, data",
                        missing);
    if (mistyped != NULL)
        return aqi_fail(err, AQ_E_TYPE,
                        "Parquet, but not a model: column %s has another type than %s",
                        mistyped, type);
    return AQ_OK;
}

/* Columns that describe the tensors of a row group. */
typedef struct aqi_model_rows {
    aqi_cells layer_name, shape, dtype, num_params, quant_type, scales, quant_axis,
        group_size, bit_width, packing, cosine, sqnr_db, max_abs_error, chunk_index,
        chunk_count, group_params, params_type, codebook;
} aqi_model_rows;

#define AQI_MODEL_ROWS(X)                                                                \
    X(layer_name) X(shape) X(dtype) X(num_params) X(quant_type) X(scales)                \
    X(quant_axis) X(group_size) X(bit_width) X(packing) X(cosine) X(sqnr_db)             \
    X(max_abs_error) X(chunk_index) X(chunk_count) X(group_params) X(params_type)        \
    X(codebook)

static void aqi_model_rows_close(aqi_model_rows *r) {
#define AQ_X(name) aqi_cells_close(&r->name);
    AQI_MODEL_ROWS(AQ_X)
#undef AQ_X
}

static aq_status aqi_model_rows_open(const aqi_model_file *f, int32_t row_group,
                                     aqi_model_rows *r, aq_error *err) {
    aq_status status = AQ_OK;
    memset(r, 0, sizeof *r);
#define AQ_X(name)                                                                       \
    if (status == AQ_OK)                                                                 \
        status = aqi_cells_open(f, row_group, f->columns.name, &r->name, err);
    AQI_MODEL_ROWS(AQ_X)
#undef AQ_X
    if (status != AQ_OK) aqi_model_rows_close(r);
    return status;
}

/* bits of the codes: bit_width, or those of quant_type, "intN" or "codebookN"; 0 = not
 * quantized; -1 = nonsense. */
static int32_t aqi_model_bits(const aqi_model_rows *r, int64_t row, bool *out_codebook) {
    const aq_bytes *type = aqi_cells_bytes(&r->quant_type, row);
    int32_t bits = 0;
    int64_t width;
    *out_codebook = false;
    if (type != NULL && !aqi_bytes_equal(type, "none") && type->size > 0) {
        *out_codebook = type->size == 9 && memcmp(type->data, "codebook", 8) == 0;
        if (!*out_codebook && (type->size != 4 || memcmp(type->data, "int", 3) != 0))
            return -1;
        bits = type->data[type->size - 1] - '0';
        if (bits < 1 || bits > 8) return -1;
    }
    width = aqi_cells_int(&r->bit_width, row, bits);
    if (width < 0 || width > 8) return -1;
    if (type == NULL) bits = (int32_t)width;
    return width == bits ? bits : -1;
}

/* Small parameters of a tensor. That it is symmetric shows in their size. */
static aq_status aqi_model_params(const aqi_model_rows *r, int64_t row, bool codebook,
                                  aq_layout *l, aq_error *err) {
    const aq_bytes *type = aqi_cells_bytes(&r->params_type, row);
    const aq_bytes *params = aqi_cells_bytes(&r->group_params, row);
    const aq_bytes *levels = aqi_cells_bytes(&r->codebook, row);
    size_t bytes = params == NULL ? 0 : params->size;
    if (type == NULL && bytes == 0 && levels == NULL && !codebook) return AQ_OK;
    if (type == NULL || codebook != (levels != NULL))
        return aqi_fail(err, AQ_E_FORMAT,
                        "quant_type, group_params, params_type and codebook disagree");
    if (!aqi_bytes_equal(type, "float16") && !aqi_bytes_equal(type, "uint8"))
        return aqi_fail(err, AQ_E_UNSUPPORTED, "params_type \"%.*s\" is not known",
                        (int)AQI_MIN(type->size, (size_t)40), (const char *)type->data);
    l->params = aqi_bytes_equal(type, "uint8") ? AQ_PARAMS_U8 : AQ_PARAMS_F16;
    l->codebook = codebook;
    if (codebook && (aq_codebook(l->bits) == NULL || l->params != AQ_PARAMS_U8 ||
                     levels->size != (size_t)1 << l->bits ||
                     memcmp(levels->data, aq_codebook(l->bits), levels->size) != 0))
        return aqi_fail(err, AQ_E_UNSUPPORTED,
                        "a codebook with other levels or scales than this version knows");
    if (aqi_cells_value(&r->packing, row) == NULL ||
        (l->granularity != AQ_PER_GROUP && aqi_cells_int(&r->quant_axis, row, -1) != 0))
        return aqi_fail(err, AQ_E_FORMAT,
                        "small parameters without packing \"lsb\", or with neither "
                        "group_size nor quant_axis 0");
    if (!aqi_params_size(l, &l->params_bytes))
        return aqi_fail(err, AQ_E_LIMIT, "group parameters are too large");
    if (bytes == l->params_bytes) return AQ_OK;
    l->symmetric = !codebook;
    if (aqi_params_size(l, &l->params_bytes) && bytes == l->params_bytes) return AQ_OK;
    return aqi_fail(err, AQ_E_FORMAT,
                    "group_params has %zu bytes, which fit %.*s parameters of %zu groups "
                    "neither with nor without minima",
                    bytes, (int)type->size, (const char *)type->data, l->num_groups);
}

/* The layout of a quantized tensor from what its row says; see docs/FORMAT.md. */
static aq_status aqi_model_layout(const aqi_model_rows *r, int64_t row, aq_tensor *t,
                                  int32_t bits, bool codebook, aq_error *err) {
    const aq_bytes *packing = aqi_cells_bytes(&r->packing, row);
    int64_t group = aqi_cells_int(&r->group_size, row, 0), first, scales;
    int64_t axis = aqi_cells_int(&r->quant_axis, row, -1);
    aq_layout *l = &t->layout;
    size_t size;
    bool packed = packing != NULL;
    aq_status status;
    aqi_cells_row(&r->scales, row, &first, &scales);
    if (packed && !aqi_bytes_equal(packing, "lsb"))
        return aqi_fail(err, AQ_E_UNSUPPORTED, "packing \"%.*s\" is not known",
                        (int)AQI_MIN(packing->size, (size_t)40),
                        (const char *)packing->data);
    if (packed && (bits < 2 || bits == 7))
        return aqi_fail(err, AQ_E_UNSUPPORTED, "packed codes of %d bits", (int)bits);
    if (group < 0 || !aqi_to_size(group, &size))
        return aqi_fail(err, AQ_E_FORMAT, "group_size %lld", (long long)group);
    l->bits = (uint32_t)bits;
    l->code_bits = packed ? (uint32_t)bits : 8;
    l->granularity = size > 0 ? AQ_PER_GROUP : AQ_PER_CHANNEL;
    l->group_rows = 1;
    l->group_cols = AQI_MAX(l->cols, (size_t)1);
    if (size > 0 && packed) {
        l->group_cols = size;
    } else if (size > 0 && scales != 1) {
        l->group_rows = size; /* other writers: groups of rows */
    } else if (scales == 1 && axis != 0) {
        l->granularity = AQ_PER_TENSOR;
        l->group_rows = AQI_MAX(l->rows, (size_t)1);
    }
    status = aqi_layout_complete(l, err);
    if (status == AQ_OK) status = aqi_model_params(r, row, codebook, l, err);
    if (status != AQ_OK) return status;
    if (l->params != AQ_PARAMS_F32 && scales != 0)
        return aqi_fail(err, AQ_E_FORMAT, "%lld scales beside group_params",
                        (long long)scales);
    if (l->params == AQ_PARAMS_F32 && (uint64_t)scales != l->num_groups)
        return aqi_fail(err, AQ_E_FORMAT, "%lld scales for %zu groups", (long long)scales,
                        l->num_groups);
    return AQ_OK;
}

static aq_status aqi_model_shape(const aqi_cells *cells, int64_t row, aq_tensor *t,
                                 aq_error *err) {
    int64_t first, count, i;
    aqi_cells_row(cells, row, &first, &count);
    if (count > AQ_MAX_DIMS)
        return aqi_fail(err, AQ_E_LIMIT, "%lld dimensions; at most %d", (long long)count,
                        AQ_MAX_DIMS);
    t->num_dims = (uint32_t)count;
    for (i = 0; i < count; i++)
        t->shape[i] = (uint64_t)aqi_load_int(
            (const uint8_t *)cells->span.values + (size_t)(first + i) * cells->width,
            cells->width);
    return aqi_tensor_geometry(t, err);
}

/* What the row says beside name and place. */
static aq_status aqi_model_row(const aqi_model_rows *r, int64_t row, aqi_model_entry *e,
                               aq_error *err) {
    const aq_bytes *dtype = aqi_cells_bytes(&r->dtype, row);
    aq_tensor *t = &e->tensor;
    int64_t params;
    int64_t chunks = aqi_cells_int(&r->chunk_count, row, 1);
    int64_t chunk = aqi_cells_int(&r->chunk_index, row, 0);
    int32_t bits;
    bool codebook;
    char text[24] = "float32";
    aq_status status = aqi_model_shape(&r->shape, row, t, err);
    if (status != AQ_OK) return status;
    if (chunks < 1 || chunks > INT32_MAX || chunk < 0 || chunk >= chunks)
        return aqi_fail(err, AQ_E_FORMAT, "chunk_index %lld of chunk_count %lld",
                        (long long)chunk, (long long)chunks);
    e->chunk = (uint32_t)chunk;
    e->num_chunks = (uint32_t)chunks;
    if (dtype != NULL && dtype->size < sizeof text) {
        if (dtype->size > 0) memcpy(text, dtype->data, dtype->size);
        text[dtype->size] = '\0';
    }
    t->dtype = aqi_dtype_of(text, false);
    if (t->dtype == AQ_DTYPE_NONE || (dtype != NULL && dtype->size >= sizeof text))
        return aqi_fail(err, AQ_E_UNSUPPORTED, "dtype \"%s\" is not known", text);
    params = aqi_cells_int(&r->num_params, row, (int64_t)t->num_params);
    if (chunks == 1 ? (uint64_t)params != t->num_params
                    : (uint64_t)params > t->num_params || params < 1)
        return aqi_fail(err, AQ_E_FORMAT,
                        "num_params %lld, but its shape has %llu elements",
                        (long long)params, (unsigned long long)t->num_params);
    bits = aqi_model_bits(r, row, &codebook);
    if (bits < 0)
        return aqi_fail(err, AQ_E_FORMAT,
                        "quant_type and bit_width disagree or make "
                        "no sense");
    if (bits > 0 && chunks > 1) {
        if ((uint64_t)params % t->layout.cols != 0)
            return aqi_fail(err, AQ_E_FORMAT, "a chunk of %lld elements is no whole rows",
                            (long long)params);
        t->layout.rows = (size_t)((uint64_t)params / t->layout.cols);
    }
    if (bits > 0) status = aqi_model_layout(r, row, t, bits, codebook, err);
    if (bits == 0 && (aqi_cells_value(&r->params_type, row) != NULL ||
                      aqi_cells_value(&r->codebook, row) != NULL))
        return aqi_fail(err, AQ_E_FORMAT,
                        "params_type or codebook of a tensor that is not quantized");
    if (status != AQ_OK) return status;
    t->data_bytes = bits > 0 ? t->layout.code_bytes
                             : (size_t)params * aq_dtype_bytes(t->dtype);
    t->cosine = aqi_cells_f64(&r->cosine, row);
    t->sqnr_db = aqi_cells_f64(&r->sqnr_db, row);
    t->max_abs_error = aqi_cells_f64(&r->max_abs_error, row);
    return AQ_OK;
}

/* A few stored bytes can repeat a name for millions of rows: what the descriptions may
 * take is bounded by the size of the files: one that is no repetition stores more. */
static aq_status aqi_model_afford(const aq_model *m, uint64_t rows, uint64_t name_bytes,
                                  aq_error *err) {
    uint64_t budget = AQI_MIN(m->file_bytes, (uint64_t)INT64_MAX / 256) * 256;
    budget = AQI_MAX(budget, (uint64_t)64 << 20);
    if (rows <= budget / sizeof(aqi_model_entry) - m->num_entries &&
        name_bytes <= budget && m->arena.total_bytes <= budget - name_bytes)
        return AQ_OK;
    return aqi_fail(err, AQ_E_LIMIT,
                    "the descriptions of the tensors take over %llu bytes of memory, the "
                    "limit for %llu bytes of files",
                    (unsigned long long)budget, (unsigned long long)m->file_bytes);
}

/* All tensors of one row group. */
static aq_status aqi_model_read_row_group(aq_model *m, uint32_t file, int32_t row_group,
                                          aq_error *err) {
    const aqi_model_file *f = &m->files[file];
    int64_t row, rows = aqi_row_group_at(f->parquet, row_group)->num_rows;
    uint64_t name_bytes = 0;
    const aq_bytes *name;
    aqi_model_rows r;
    aq_status status = aqi_model_afford(m, (uint64_t)rows, 0, err);
    if (status == AQ_OK) status = aqi_model_rows_open(f, row_group, &r, err);
    if (status != AQ_OK) return status;
    for (row = 0; row < rows; row++) {
        name = aqi_cells_bytes(&r.layer_name, row);
        name_bytes += name == NULL ? 0 : name->size;
    }
    status = aqi_model_afford(m, (uint64_t)rows, name_bytes, err);
    for (row = 0; row < rows && status == AQ_OK; row++) {
        aqi_model_entry *e;
        char *copy = NULL;
        name = aqi_cells_bytes(&r.layer_name, row);
        if (name == NULL || name->size == 0 ||
            memchr(name->data, 0, name->size) != NULL ||
            !aqi_utf8_valid(name->data, name->size)) {
            status =
                aqi_fail(err, AQ_E_FORMAT,
                         "layer_name of row %lld in row group %d is missing or no text",
                         (long long)row, (int)row_group);
            break;
        }
        e = aqi_model_push(m);
        status = e == NULL
                     ? aqi_fail_nomem(err, sizeof *e)
                     : aqi_arena_string(&m->arena, name->data, name->size, &copy, err);
        if (status != AQ_OK) break;
        e->tensor.name = copy;
        e->file = file;
        e->row_group = row_group;
        e->row = row;
        status = aqi_error_in_tensor(err, aqi_model_row(&r, row, e, err), copy);
    }
    aqi_model_rows_close(&r);
    return status;
}

static aq_status aqi_model_add_pair(aq_model *m, const char *key, const char *value,
                                    size_t value_bytes, aq_error *err) {
    char *k = NULL, *v = NULL;
    void *p = m->pairs;
    aq_status status = AQ_OK;
    if ((m->num_pairs & (m->num_pairs - 1)) ==
        0) { /* a power of two is full: double it */
        size_t capacity = AQI_MAX(m->num_pairs * 2, (size_t)1);
        status = aqi_arena_alloc(&m->arena, capacity * sizeof *m->pairs, &p, err);
        if (status == AQ_OK && m->num_pairs > 0)
            memcpy(p, m->pairs, m->num_pairs * sizeof *m->pairs);
    }
    if (status == AQ_OK) status = aqi_arena_string(&m->arena, key, strlen(key), &k, err);
    if (status == AQ_OK && value != NULL)
        status = aqi_arena_string(&m->arena, value, value_bytes, &v, err);
    if (status != AQ_OK) return status;
    m->pairs = (aq_key_value *)p;
    m->pairs[m->num_pairs].key = k;
    m->pairs[m->num_pairs].value = v;
    m->pairs[m->num_pairs++].value_bytes = value_bytes;
    return AQ_OK;
}

static aq_status aqi_model_read_parquet(aq_model *m, uint32_t file, aq_error *err) {
    aqi_model_file *f = &m->files[file];
    aq_parquet_options o;
    aq_parquet_info info;
    aq_key_value pair;
    int32_t i;
    aq_status status;
    memset(&o, 0, sizeof o);
    o.allocator = &m->allocator;
    o.log = m->log;
    o.io = m->io;
    o.skip_checksums = m->skip_checksums;
    status = aq_parquet_open(f->path, &o, &f->parquet, err);
    if (status == AQ_OK) status = aqi_model_columns_find(f, err);
    if (status != AQ_OK) return status;
    aq_parquet_get_info(f->parquet, &info);
    m->file_bytes += (uint64_t)info.file_bytes;
    for (i = 0; i < info.num_row_groups && status == AQ_OK; i++)
        status = aqi_model_read_row_group(m, file, i, err);
    for (i = 0; m->format == AQ_MODEL_PARQUET && status == AQ_OK &&
                aq_parquet_key_value(f->parquet, i, &pair);
         i++)
        status = aqi_model_add_pair(m, pair.key, pair.value, pair.value_bytes, err);
    return status;
}

/* ---- safetensors ---- */

#define AQI_SAFETENSORS_HEADER_LIMIT 100000000u

/* "key": */
static aq_status aqi_json_key(aqi_json *j, const char **out, aq_error *err) {
    aq_status status = aqi_json_string(j, out, err);
    if (status == AQ_OK && !aqi_json_take(j, ':')) return aqi_json_fail(j, "no colon");
    return status;
}

/* true, false, null or a number. */
static aq_status aqi_json_word(aqi_json *j) {
    static const char *const words[] = {"true", "false", "null"};
    const uint8_t *p = j->in.p, *digits;
    size_t i;
    int part;
    for (i = 0; i < AQI_COUNT(words); i++) {
        size_t n = strlen(words[i]);
        if (aqi_remaining(&j->in) < n || memcmp(p, words[i], n) != 0) continue;
        j->in.p += n;
        return AQ_OK;
    }
    /* -12.5e+3: whole part, fraction, exponent; each has digits. */
    if (p < j->in.end && *p == '-') p++;
    for (part = 0; part < 3; part++) {
        if (part == 1 && (p == j->in.end || *p != '.')) continue;
        if (part == 2 && (p == j->in.end || (*p != 'e' && *p != 'E'))) continue;
        if (part > 0) p++;
        if (part == 2 && p < j->in.end && (*p == '+' || *p == '-')) p++;
        for (digits = p; p < j->in.end && *p >= '0' && *p <= '9'; p++)
            continue;
        if (p == digits || (part == 0 && *digits == '0' && p - digits > 1))
            return aqi_json_fail(j, "no value");
    }
    j->in.p = p;
    return AQ_OK;
}

/* Checks any value and leaves it behind. Nesting is bounded, and so is the recursion. */
static aq_status aqi_json_skip(aqi_json *j, int32_t depth, aq_error *err) {
    const uint8_t open = aqi_json_peek(j);
    const char close = open == '{' ? '}' : ']', *text;
    aq_status status = AQ_OK;
    if (open == '"') return aqi_json_string(j, &text, err);
    if (open != '{' && open != '[') return aqi_json_word(j);
    if (depth == 64) return aqi_fail(err, AQ_E_LIMIT, "JSON nested over 64 deep");
    j->in.p++;
    if (aqi_json_take(j, close)) return AQ_OK;
    do {
        if (open == '{') status = aqi_json_key(j, &text, err);
        if (status == AQ_OK) status = aqi_json_skip(j, depth + 1, err);
    } while (status == AQ_OK && aqi_json_take(j, ','));
    if (status == AQ_OK && !aqi_json_take(j, close))
        status = aqi_json_fail(j, "value without an end");
    return status;
}

/* {"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}. Offsets end in e->offset and
 * size. */
static aq_status aqi_safetensors_entry(aqi_json *j, aqi_model_entry *e, uint64_t *begin,
                                       uint64_t *end, aq_error *err) {
    const char *key, *text;
    bool has_dtype = false, has_shape = false, has_offsets = false;
    aq_tensor *t = &e->tensor;
    aq_status status;
    if (!aqi_json_take(j, '{')) return aqi_json_fail(j, "no tensor entry");
    do {
        status = aqi_json_key(j, &key, err);
        if (status != AQ_OK) return status;
        if (strcmp(key, "dtype") == 0 && !has_dtype) {
            has_dtype = true;
            status = aqi_json_string(j, &text, err);
            if (status != AQ_OK) return status;
            t->dtype = aqi_dtype_of(text, true);
            if (t->dtype == AQ_DTYPE_NONE)
                return aqi_fail(err, AQ_E_UNSUPPORTED, "dtype \"%.40s\" is not known",
                                text);
        } else if (strcmp(key, "shape") == 0 && !has_shape) {
            has_shape = true;
            if (!aqi_json_take(j, '[')) return aqi_json_fail(j, "no shape");
            while (t->num_dims > 0 || aqi_json_peek(j) != ']') {
                if (t->num_dims == AQ_MAX_DIMS)
                    return aqi_fail(err, AQ_E_LIMIT, "over %d dimensions", AQ_MAX_DIMS);
                status = aqi_json_u64(j, &t->shape[t->num_dims++]);
                if (status != AQ_OK) return status;
                if (!aqi_json_take(j, ',')) break;
            }
            if (!aqi_json_take(j, ']')) return aqi_json_fail(j, "shape without an end");
        } else if (strcmp(key, "data_offsets") == 0 && !has_offsets) {
            has_offsets = true;
            if (!aqi_json_take(j, '[')) return aqi_json_fail(j, "no offsets");
            status = aqi_json_u64(j, begin);
            if (status == AQ_OK && !aqi_json_take(j, ','))
                status = aqi_json_fail(j, "no comma");
            if (status == AQ_OK) status = aqi_json_u64(j, end);
            if (status == AQ_OK && !aqi_json_take(j, ']'))
                status = aqi_json_fail(j, "offsets without an end");
            if (status != AQ_OK) return status;
        } else {
            return aqi_json_fail(j, "unexpected or repeated key in a tensor entry");
        }
    } while (aqi_json_take(j, ','));
    if (!aqi_json_take(j, '}')) return aqi_json_fail(j, "tensor entry without an end");
    if (!has_dtype || !has_shape || !has_offsets)
        return aqi_json_fail(j, "tensor entry lacks dtype, shape or data_offsets");
    return AQ_OK;
}

static int aqi_compare_keys(const void *a, const void *b) {
    return strcmp(((const aq_key_value *)a)->key, ((const aq_key_value *)b)->key);
}

/* "__metadata__": {"key": "value", ...}: pairs sorted by key. `any` lets values be other
 * than strings: these are taken as their text. */
static aq_status aqi_json_pairs(aq_model *m, aqi_json *j, bool any, aq_error *err) {
    const size_t first = m->num_pairs;
    const char *key, *value;
    size_t i, bytes;
    aq_status status = AQ_OK;
    if (!aqi_json_take(j, '{')) return aqi_json_fail(j, "metadata is no object");
    if (aqi_json_take(j, '}')) return AQ_OK;
    do {
        status = aqi_json_key(j, &key, err);
        if (status != AQ_OK) return status;
        if (any && aqi_json_peek(j) != '"') {
            value = (const char *)j->in.p;
            status = aqi_json_skip(j, 0, err);
            bytes = (size_t)((const char *)j->in.p - value);
        } else {
            status = aqi_json_string(j, &value, err);
            bytes = status == AQ_OK ? strlen(value) : 0;
        }
        if (status == AQ_OK) status = aqi_model_add_pair(m, key, value, bytes, err);
    } while (status == AQ_OK && aqi_json_take(j, ','));
    if (status == AQ_OK && !aqi_json_take(j, '}'))
        status = aqi_json_fail(j, "metadata without an end");
    if (status != AQ_OK) return status;
    qsort(m->pairs + first, m->num_pairs - first, sizeof *m->pairs, aqi_compare_keys);
    for (i = first + 1; i < m->num_pairs; i++) {
        if (strcmp(m->pairs[i - 1].key, m->pairs[i].key) == 0)
            return aqi_fail_at(err, AQ_E_FORMAT, aqi_offset(&j->in),
                               "JSON header: metadata has the key \"%.80s\" twice",
                               m->pairs[i].key);
    }
    return AQ_OK;
}

static int aqi_compare_offsets(const void *a, const void *b) {
    const aqi_model_entry *x = (const aqi_model_entry *)a,
                          *y = (const aqi_model_entry *)b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return (x->tensor.data_bytes > y->tensor.data_bytes) -
           (x->tensor.data_bytes < y->tensor.data_bytes);
}

/* Data must follow the header without holes or overlaps, to the end of the file. Its
 * entries are those from `first` on. */
static aq_status aqi_safetensors_cover(aq_model *m, size_t first, int64_t data_begin,
                                       int64_t file_bytes, aq_error *err) {
    int64_t at = data_begin;
    size_t i;
    if (m->num_entries > first)
        qsort(m->entries + first, m->num_entries - first, sizeof *m->entries,
              aqi_compare_offsets);
    for (i = first; i < m->num_entries; i++) {
        const aqi_model_entry *e = &m->entries[i];
        if (e->offset != at) {
            aqi_fail_at(err, AQ_E_FORMAT, e->offset,
                        "data begins at offset %lld, %s %lld; the file is damaged",
                        (long long)e->offset,
                        e->offset > at ? "with a hole from" : "overlapping what ends at",
                        (long long)at);
            return aqi_error_in_tensor(err, AQ_E_FORMAT, e->tensor.name);
        }
        at += (int64_t)e->tensor.data_bytes;
    }
    if (at == file_bytes) return AQ_OK;
    return aqi_fail_at(
        err, AQ_E_FORMAT, at,
        "data ends at offset %lld, the file at %lld; it is cut off or damaged",
        (long long)at, (long long)file_bytes);
}

/* Checks one entry's numbers against each other and the file. */
static aq_status aqi_safetensors_place(aqi_model_entry *e, uint64_t begin, uint64_t end,
                                       int64_t data_begin, int64_t file_bytes,
                                       aq_error *err) {
    uint64_t room = (uint64_t)(file_bytes - data_begin);
    aq_status status = aqi_tensor_geometry(&e->tensor, err);
    if (status != AQ_OK) return status;
    if (begin > end || end > room)
        return aqi_fail(
            err, AQ_E_FORMAT,
            "data_offsets [%llu, %llu] lie outside the %llu bytes of data; the file "
            "is cut off or damaged",
            (unsigned long long)begin, (unsigned long long)end, (unsigned long long)room);
    e->tensor.data_bytes = (size_t)e->tensor.num_params * aq_dtype_bytes(e->tensor.dtype);
    if (end - begin != e->tensor.data_bytes)
        return aqi_fail(err, AQ_E_FORMAT,
                        "dtype and shape need %zu bytes, data_offsets give %llu",
                        e->tensor.data_bytes, (unsigned long long)(end - begin));
    e->offset = data_begin + (int64_t)begin;
    return AQ_OK;
}

static aq_status aqi_safetensors_header(aq_model *m, uint32_t file, aqi_json *j,
                                        int64_t data_begin, aq_error *err) {
    const int64_t file_bytes = m->files[file].source.bytes;
    bool has_metadata = false;
    aq_status status = AQ_OK;
    if (!aqi_json_take(j, '{')) return aqi_json_fail(j, "no object");
    if (!aqi_json_take(j, '}')) {
        do {
            const char *name;
            uint64_t begin = 0, end = 0;
            aqi_model_entry *e;
            status = aqi_json_key(j, &name, err);
            if (status != AQ_OK) return status;
            if (strcmp(name, "__metadata__") == 0) {
                if (has_metadata) return aqi_json_fail(j, "__metadata__ comes twice");
                has_metadata = true;
                status = aqi_json_pairs(m, j, false, err);
                continue;
            }
            if (name[0] == '\0') return aqi_json_fail(j, "tensor without a name");
            e = aqi_model_push(m);
            if (e == NULL) return aqi_fail_nomem(err, sizeof *e);
            e->tensor.name = name;
            e->file = file;
            status = aqi_safetensors_entry(j, e, &begin, &end, err);
            if (status == AQ_OK)
                status =
                    aqi_safetensors_place(e, begin, end, data_begin, file_bytes, err);
            status = aqi_error_in_tensor(err, status, name);
        } while (status == AQ_OK && aqi_json_take(j, ','));
        if (status == AQ_OK && !aqi_json_take(j, '}'))
            status = aqi_json_fail(j, "header without an end");
    }
    if (status == AQ_OK && (aqi_json_peek(j) != 0 || aqi_remaining(&j->in) != 0))
        status = aqi_json_fail(j, "something after the header");
    return status;
}

static aq_status aqi_model_read_safetensors(aq_model *m, uint32_t file, aq_error *err) {
    aqi_model_file *f = &m->files[file];
    const size_t first = m->num_entries;
    uint8_t length[8];
    uint64_t bytes;
    void *header;
    aqi_json j;
    aq_status status = aqi_source_open(&f->source, f->path, m->io, err);
    if (status != AQ_OK) return status;
    m->file_bytes += (uint64_t)f->source.bytes;
    if (f->source.bytes < 10)
        return aqi_fail_at(err, AQ_E_FORMAT, 0,
                           "%lld bytes are too few for a safetensors file",
                           (long long)f->source.bytes);
    status = aqi_source_read(&f->source, 0, length, 8, err);
    if (status != AQ_OK) return status;
    bytes = aqi_load_le64(length);
    if (bytes > (uint64_t)f->source.bytes - 8)
        return aqi_fail_at(
            err, AQ_E_FORMAT, 0,
            "not a safetensors file: header of %llu bytes in a file of %lld",
            (unsigned long long)bytes, (long long)f->source.bytes);
    if (bytes > AQI_SAFETENSORS_HEADER_LIMIT)
        return aqi_fail_at(err, AQ_E_LIMIT, 0,
                           "safetensors header of %llu bytes; the limit is 100,000,000",
                           (unsigned long long)bytes);
    status = aqi_arena_take(&m->arena, (size_t)bytes, &header, err);
    if (status == AQ_OK)
        status = aqi_source_read(&f->source, 8, header, (size_t)bytes, err);
    if (status != AQ_OK) return status;
    j.in = aqi_cursor_make((const uint8_t *)header, (size_t)bytes, 8);
    j.arena = &m->arena;
    j.err = err;
    if (bytes == 0 || *j.in.p != '{') return aqi_json_fail(&j, "no { at its begin");
    status = aqi_safetensors_header(m, file, &j, 8 + (int64_t)bytes, err);
    if (status != AQ_OK) return status;
    return aqi_safetensors_cover(m, first, 8 + (int64_t)bytes, f->source.bytes, err);
}

/* ---- npy ---- */

/* NumPy's format 1.0, 2.0 and 3.0 (numpy.lib.format): magic, version, length of the
 * header (u16; u32 from 2.0 on), a Python dict literal, the values. Never evaluates
 * anything: three known keys, each once. */

#define AQI_NPY_HEADER_LIMIT ((size_t)1 << 20)

static aq_status aqi_npy_fail(const aqi_cursor *c, aq_error *err, const char *what) {
    return aqi_fail_at(err, AQ_E_FORMAT, aqi_offset(c), "npy header: %s at offset %lld",
                       what, (long long)aqi_offset(c));
}

/* The next character that is not white space; 0 at the end. */
static uint8_t aqi_npy_peek(aqi_cursor *c) {
    while (c->p < c->end && (*c->p == ' ' || *c->p == '\t' || *c->p == '\n'))
        c->p++;
    return c->p < c->end ? *c->p : 0;
}

static bool aqi_npy_take(aqi_cursor *c, char wanted) {
    if (aqi_npy_peek(c) != (uint8_t)wanted) return false;
    c->p++;
    return true;
}

/* A string in either quotes, without escapes. */
static aq_status aqi_npy_string(aqi_cursor *c, char *out, size_t room, aq_error *err) {
    const uint8_t quote = aqi_npy_peek(c);
    size_t n = 0;
    if (quote != '\'' && quote != '"') return aqi_npy_fail(c, err, "no string");
    for (c->p++; c->p < c->end && *c->p != quote; c->p++) {
        if (*c->p < 0x20 || *c->p > 0x7e || *c->p == '\\' || n + 1 == room)
            return aqi_npy_fail(c, err, "unexpected text in a string");
        out[n++] = (char)*c->p;
    }
    out[n] = '\0';
    if (c->p == c->end) return aqi_npy_fail(c, err, "string without an end");
    c->p++;
    return AQ_OK;
}

/* "<f4": byte order, kind, bytes. */
static aq_status aqi_npy_dtype(const char *descr, aq_dtype *out, aq_error *err) {
    static const char codes[][3] = {"f4", "f2", "f8", "i1", "u1", "i2",
                                    "u2", "i4", "u4", "i8", "u8", "b1"};
    static const aq_dtype types[] = {AQ_F32, AQ_F16, AQ_F64, AQ_I8,  AQ_U8,  AQ_I16,
                                     AQ_U16, AQ_I32, AQ_U32, AQ_I64, AQ_U64, AQ_BOOL};
    const bool ordered = descr[0] != '\0' && strchr("<>|=", descr[0]) != NULL;
    const char *code = descr + (ordered ? 1 : 0);
    size_t i = 0;
    if (code[0] == 'O')
        return aqi_fail(err, AQ_E_UNSUPPORTED,
                        "an array of Python objects; pickled objects are never loaded");
    while (i < AQI_COUNT(codes) && strcmp(code, codes[i]) != 0)
        i++;
    if (i == AQI_COUNT(codes))
        return aqi_fail(err, AQ_E_UNSUPPORTED,
                        "dtype \"%.40s\" is not known; save the array as float16, "
                        "float32, float64, an integer type or bool",
                        descr);
    *out = types[i];
    if (ordered && (descr[0] == '<' || (descr[0] != '=' && code[1] == '1'))) return AQ_OK;
    if (ordered && descr[0] == '>')
        return aqi_fail(err, AQ_E_UNSUPPORTED,
                        "dtype \"%.40s\" is big-endian; save "
                        "array.astype(array.dtype.newbyteorder('<'))",
                        descr);
    return aqi_fail(err, AQ_E_UNSUPPORTED,
                    "dtype \"%.40s\" does not say its byte order; save it again", descr);
}

static aq_status aqi_npy_descr(aqi_cursor *c, aq_tensor *t, aq_error *err) {
    const uint8_t first = aqi_npy_peek(c);
    char descr[48];
    aq_status status;
    if (first == '[' || first == '(')
        return aqi_fail_at(err, AQ_E_UNSUPPORTED, aqi_offset(c),
                           "an array of structures; save each field in a file of its "
                           "own");
    status = aqi_npy_string(c, descr, sizeof descr, err);
    return status == AQ_OK ? aqi_npy_dtype(descr, &t->dtype, err) : status;
}

static aq_status aqi_npy_bool(aqi_cursor *c, bool *out, aq_error *err) {
    const char *word;
    size_t n;
    *out = aqi_npy_peek(c) == 'T';
    word = *out ? "True" : "False";
    n = strlen(word);
    if (aqi_remaining(c) < n || memcmp(c->p, word, n) != 0)
        return aqi_npy_fail(c, err, "neither True nor False");
    c->p += n;
    return AQ_OK;
}

static aq_status aqi_npy_u64(aqi_cursor *c, uint64_t *out, aq_error *err) {
    const uint8_t first = aqi_npy_peek(c), *begin = c->p;
    uint64_t v = 0;
    if (first < '0' || first > '9') return aqi_npy_fail(c, err, "no whole number");
    for (; c->p < c->end && *c->p >= '0' && *c->p <= '9'; c->p++) {
        if (__builtin_mul_overflow(v, (uint64_t)10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(*c->p - '0'), &v))
            return aqi_npy_fail(c, err, "number over 64 bits");
    }
    if (first == '0' && c->p - begin > 1)
        return aqi_npy_fail(c, err, "number with a leading 0");
    *out = v;
    return AQ_OK;
}

/* A tuple: (), (3,), (2, 3). Without its comma (3) would be a number. */
static aq_status aqi_npy_shape(aqi_cursor *c, aq_tensor *t, aq_error *err) {
    if (!aqi_npy_take(c, '(')) return aqi_npy_fail(c, err, "shape is no tuple");
    while (!aqi_npy_take(c, ')')) {
        aq_status status;
        if (t->num_dims == AQ_MAX_DIMS)
            return aqi_fail(err, AQ_E_LIMIT, "over %d dimensions", AQ_MAX_DIMS);
        status = aqi_npy_u64(c, &t->shape[t->num_dims++], err);
        if (status != AQ_OK) return status;
        if (aqi_npy_take(c, ',')) continue;
        if (t->num_dims > 1 && aqi_npy_take(c, ')')) break;
        return aqi_npy_fail(c, err, "no comma in the shape");
    }
    return AQ_OK;
}

static aq_status aqi_npy_header(aqi_cursor *c, aq_tensor *t, aq_error *err) {
    bool has_descr = false, has_fortran = false, has_shape = false, fortran = false;
    char key[16];
    aq_status status;
    if (!aqi_npy_take(c, '{')) return aqi_npy_fail(c, err, "no {");
    while (!aqi_npy_take(c, '}')) {
        status = aqi_npy_string(c, key, sizeof key, err);
        if (status == AQ_OK && !aqi_npy_take(c, ':'))
            status = aqi_npy_fail(c, err, "no colon");
        if (status != AQ_OK) return status;
        if (strcmp(key, "descr") == 0 && !has_descr) {
            has_descr = true;
            status = aqi_npy_descr(c, t, err);
        } else if (strcmp(key, "fortran_order") == 0 && !has_fortran) {
            has_fortran = true;
            status = aqi_npy_bool(c, &fortran, err);
        } else if (strcmp(key, "shape") == 0 && !has_shape) {
            has_shape = true;
            status = aqi_npy_shape(c, t, err);
        } else {
            status = aqi_npy_fail(c, err, "unexpected or repeated key");
        }
        if (status != AQ_OK) return status;
        if (aqi_npy_take(c, ',')) continue;
        if (!aqi_npy_take(c, '}')) return aqi_npy_fail(c, err, "header without an end");
        break;
    }
    if (!has_descr || !has_fortran || !has_shape)
        return aqi_npy_fail(c, err, "no descr, fortran_order or shape");
    if (aqi_npy_peek(c) != 0 || aqi_remaining(c) != 0)
        return aqi_npy_fail(c, err, "something after the header");
    if (fortran && t->num_dims > 1)
        return aqi_fail(err, AQ_E_UNSUPPORTED,
                        "the array is in Fortran's order; save "
                        "numpy.ascontiguousarray(array)");
    return AQ_OK;
}

/* Where the header lies, from the first 12 bytes. */
static aq_status aqi_npy_find_header(const aqi_source *s, int64_t *out_begin,
                                     size_t *out_bytes, aq_error *err) {
    uint8_t head[12] = {0};
    uint64_t bytes;
    aq_status status =
        aqi_source_read(s, 0, head, (size_t)AQI_MIN(s->bytes, (int64_t)12), err);
    if (status != AQ_OK) return status;
    if (memcmp(head, "\x93NUMPY", 6) != 0 || s->bytes < 10)
        return aqi_fail_at(err, AQ_E_FORMAT, 0, "not a .npy file: it does not begin so");
    if (head[6] < 1 || head[6] > 3 || head[7] != 0)
        return aqi_fail_at(err, AQ_E_UNSUPPORTED, 6,
                           "npy format version %u.%u; 1.0, 2.0 and 3.0 are known",
                           (unsigned)head[6], (unsigned)head[7]);
    *out_begin = head[6] == 1 ? 10 : 12;
    bytes = aqi_load_le32(head + 8);
    if (head[6] == 1) bytes &= 0xffff;
    if (s->bytes < *out_begin || bytes > (uint64_t)(s->bytes - *out_begin))
        return aqi_fail_at(err, AQ_E_FORMAT, 8,
                           "npy header of %llu bytes in a file of %lld; it is cut off or "
                           "damaged",
                           (unsigned long long)bytes, (long long)s->bytes);
    if (bytes > AQI_NPY_HEADER_LIMIT)
        return aqi_fail_at(err, AQ_E_LIMIT, 8,
                           "npy header of %llu bytes; the limit is 1,048,576",
                           (unsigned long long)bytes);
    *out_bytes = (size_t)bytes;
    return AQ_OK;
}

static const char *aqi_leaf_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash == NULL ? path : slash + 1;
}

/* The tensor is named after the file: "w" of "dir/w.npy". */
static aq_status aqi_npy_name(aq_model *m, const char *path, char **out, aq_error *err) {
    const char *name = aqi_leaf_name(path);
    size_t n = strlen(name);
    if (n > 4 && strcmp(name + n - 4, ".npy") == 0) n -= 4;
    if (!aqi_utf8_valid(name, n))
        return aqi_fail(err, AQ_E_FORMAT,
                        "the file's name, which names the tensor, is not UTF-8; rename "
                        "the file");
    return aqi_arena_string(&m->arena, name, n, out, err);
}

static aq_status aqi_model_read_npy(aq_model *m, aq_error *err) {
    aqi_model_file *f = &m->files[0];
    int64_t begin = 0;
    size_t bytes = 0;
    char *name = NULL;
    void *header;
    aqi_cursor c;
    aqi_model_entry *e;
    aq_status status = aqi_source_open(&f->source, f->path, m->io, err);
    if (status != AQ_OK) return status;
    m->file_bytes = (uint64_t)f->source.bytes;
    status = aqi_npy_find_header(&f->source, &begin, &bytes, err);
    if (status == AQ_OK) status = aqi_arena_take(&m->arena, bytes, &header, err);
    if (status == AQ_OK) status = aqi_source_read(&f->source, begin, header, bytes, err);
    if (status == AQ_OK) status = aqi_npy_name(m, f->path, &name, err);
    if (status != AQ_OK) return status;
    e = aqi_model_push(m);
    if (e == NULL) return aqi_fail_nomem(err, sizeof *e);
    e->tensor.name = name;
    e->offset = begin + (int64_t)bytes;
    c = aqi_cursor_make((const uint8_t *)header, bytes, begin);
    status = aqi_npy_header(&c, &e->tensor, err);
    if (status == AQ_OK) status = aqi_tensor_geometry(&e->tensor, err);
    if (status != AQ_OK) return status;
    e->tensor.data_bytes = (size_t)e->tensor.num_params * aq_dtype_bytes(e->tensor.dtype);
    if ((uint64_t)(f->source.bytes - e->offset) != e->tensor.data_bytes)
        return aqi_fail_at(err, AQ_E_FORMAT, e->offset,
                           "dtype and shape need %zu bytes, %lld follow the header; the "
                           "file is cut off or damaged",
                           e->tensor.data_bytes,
                           (long long)(f->source.bytes - e->offset));
    return AQ_OK;
}

/* ---- row groups that tensors share ---- */

/* The weights of one row group. Other writers put many tensors into one: these share it,
 * and the model keeps the last one, so that it is not decoded once for each tensor. */
typedef struct aqi_model_chunk {
    uint32_t refs; /* guarded by the cache's lock */
    uint32_t file;
    int32_t row_group;
    aqi_cells data, scales, zero_points, group_params;
} aqi_model_chunk;

typedef struct aqi_chunk_cache {
    aq_allocator allocator;
    aqi_mutex lock;
    aqi_model_chunk *last; /* counted in its refs; NULL = none */
} aqi_chunk_cache;

/* Gives back one reference. */
static void aqi_chunk_release(aqi_chunk_cache *cache, aqi_model_chunk *chunk) {
    bool gone;
    if (chunk == NULL) return;
    aqi_mutex_lock(&cache->lock);
    gone = --chunk->refs == 0;
    aqi_mutex_unlock(&cache->lock);
    if (!gone) return;
    aqi_cells_close(&chunk->data);
    aqi_cells_close(&chunk->scales);
    aqi_cells_close(&chunk->zero_points);
    aqi_cells_close(&chunk->group_params);
    aqi_free(&cache->allocator, chunk, sizeof *chunk);
}

static void aqi_chunk_cache_destroy(aqi_chunk_cache *cache) {
    aq_allocator a;
    if (cache == NULL) return;
    a = cache->allocator;
    aqi_chunk_release(cache, cache->last);
    aqi_mutex_deinit(&cache->lock);
    aqi_free(&a, cache, sizeof *cache);
}

static aq_status aqi_chunk_cache_create(const aq_allocator *a, aqi_chunk_cache **out,
                                        aq_error *err) {
    aqi_chunk_cache *cache = (aqi_chunk_cache *)aqi_alloc(a, sizeof *cache);
    *out = NULL;
    if (cache == NULL) return aqi_fail_nomem(err, sizeof *cache);
    memset(cache, 0, sizeof *cache);
    cache->allocator = *a;
    if (!aqi_mutex_init(&cache->lock)) {
        aqi_free(a, cache, sizeof *cache);
        return aqi_fail_nomem(err, sizeof *cache);
    }
    *out = cache;
    return AQ_OK;
}

static aq_status aqi_chunk_open(const aq_model *m, const aqi_model_entry *e,
                                aqi_model_chunk **out, aq_error *err) {
    const aqi_model_file *f = &m->files[e->file];
    aqi_model_chunk *c = (aqi_model_chunk *)aqi_alloc(&m->allocator, sizeof *c);
    aq_status s;
    *out = NULL;
    if (c == NULL) return aqi_fail_nomem(err, sizeof *c);
    memset(c, 0, sizeof *c);
    c->refs = 1;
    c->file = e->file;
    c->row_group = e->row_group;
    s = aqi_cells_open(f, e->row_group, f->columns.data, &c->data, err);
    if (s == AQ_OK)
        s = aqi_cells_open(f, e->row_group, f->columns.scales, &c->scales, err);
    if (s == AQ_OK)
        s = aqi_cells_open(f, e->row_group, f->columns.zero_points, &c->zero_points, err);
    if (s == AQ_OK)
        s = aqi_cells_open(f, e->row_group, f->columns.group_params, &c->group_params,
                           err);
    if (s != AQ_OK) {
        aqi_chunk_release(m->cache, c);
        return s;
    }
    *out = c;
    return AQ_OK;
}

/* The row group of an entry, with a reference for the caller. */
static aq_status aqi_chunk_acquire(const aq_model *m, const aqi_model_entry *e,
                                   aqi_model_chunk **out, aq_error *err) {
    aqi_chunk_cache *cache = m->cache;
    aqi_model_chunk *old;
    aq_status status;
    aqi_mutex_lock(&cache->lock);
    *out = cache->last;
    if (*out != NULL && ((*out)->file != e->file || (*out)->row_group != e->row_group))
        *out = NULL;
    if (*out != NULL) (*out)->refs++;
    aqi_mutex_unlock(&cache->lock);
    if (*out != NULL) return AQ_OK;
    status = aqi_chunk_open(m, e, out, err);
    if (status != AQ_OK ||
        aqi_row_group_at(m->files[e->file].parquet, e->row_group)->num_rows < 2)
        return status;
    aqi_mutex_lock(&cache->lock);
    old = cache->last;
    cache->last = *out;
    (*out)->refs++;
    aqi_mutex_unlock(&cache->lock);
    aqi_chunk_release(cache, old);
    return AQ_OK;
}

/* ---- files of a model ---- */

static bool aqi_ends_with(const char *text, const char *end) {
    size_t n = strlen(text), k = strlen(end);
    return n >= k && strcmp(text + n - k, end) == 0;
}

static aq_status aqi_model_add_file(aq_model *m, const char *directory, const char *name,
                                    aq_error *err) {
    size_t d = directory == NULL ? 0 : strlen(directory), n = strlen(name);
    void *p = m->files;
    char *path = NULL;
    aq_status status = AQ_OK;
    if ((m->num_files & (m->num_files - 1)) ==
        0) { /* a power of two is full: double it */
        status = aqi_arena_alloc(
            &m->arena, AQI_MAX(m->num_files * 2, (size_t)1) * sizeof *m->files, &p, err);
        if (status == AQ_OK && m->num_files > 0)
            memcpy(p, m->files, m->num_files * sizeof *m->files);
    }
    if (status == AQ_OK)
        status = aqi_arena_string(&m->arena, NULL, d + n + 1, &path, err);
    if (status != AQ_OK) return status;
    if (d > 0) memcpy(path, directory, d);
    if (d > 0) path[d++] = '/';
    memcpy(path + d, name, n + 1);
    m->files = (aqi_model_file *)p;
    m->files[m->num_files].path = path;
    aqi_source_init(&m->files[m->num_files].source);
    m->num_files++;
    return AQ_OK;
}

static int aqi_compare_paths(const void *a, const void *b) {
    return strcmp(((const aqi_model_file *)a)->path, ((const aqi_model_file *)b)->path);
}

static int aqi_compare_entries(const void *a, const void *b) {
    const aqi_model_entry *x = (const aqi_model_entry *)a,
                          *y = (const aqi_model_entry *)b;
    int order = strcmp(x->tensor.name, y->tensor.name);
    if (order != 0) return order;
    if (x->chunk != y->chunk) return x->chunk < y->chunk ? -1 : 1;
    return (x->file > y->file) - (x->file < y->file);
}

/* Whether two chunks can be of one tensor, as far as their rows say. */
static bool aqi_chunks_agree(const aqi_model_entry *a, const aqi_model_entry *b) {
    const aq_tensor *x = &a->tensor, *y = &b->tensor;
    const aq_layout *l = &x->layout, *k = &y->layout;
    return a->num_chunks == b->num_chunks && x->dtype == y->dtype &&
           x->num_dims == y->num_dims &&
           memcmp(x->shape, y->shape, x->num_dims * sizeof x->shape[0]) == 0 &&
           l->bits == k->bits && l->code_bits == k->code_bits &&
           l->granularity == k->granularity && l->symmetric == k->symmetric &&
           l->params == k->params && l->codebook == k->codebook &&
           l->group_cols == k->group_cols &&
           (l->group_rows == k->group_rows || l->granularity == AQ_PER_TENSOR);
}

/* The chunks from entries[i] on as one tensor; their number to *out_count. */
static aq_status aqi_model_join_chunks(aq_model *m, size_t i, aqi_model_entry *whole,
                                       aq_error *err) {
    const aqi_model_entry *first = &m->entries[i], *c;
    aq_layout *l = &whole->tensor.layout;
    uint32_t n = first->num_chunks, k;
    size_t data_bytes = 0, rows = 0, bytes;
    void *p;
    aq_status status;
    for (k = 0; k < n; k++) {
        c = &m->entries[i + k];
        if (k >= m->num_entries - i ||
            strcmp(c->tensor.name, first->tensor.name) != 0 || c->chunk != k ||
            !aqi_chunks_agree(first, c))
            return aqi_fail(err, AQ_E_FORMAT,
                            "chunk %u of %u is missing, comes twice, or differs from the "
                            "others",
                            k, n);
        if (!aqi_add_size(data_bytes, c->tensor.data_bytes, &data_bytes))
            return aqi_fail(err, AQ_E_LIMIT, "too large for this machine");
        rows += l->bits == 0 ? 0 : c->tensor.layout.rows;
    }
    *whole = *first;
    if (l->bits != 0) {
        l->rows = rows;
        if (l->granularity == AQ_PER_TENSOR && l->group_rows > 1) l->group_rows = rows;
        status = aqi_layout_complete(l, err);
        if (status != AQ_OK) return status;
    }
    whole->tensor.data_bytes = data_bytes;
    bytes = (size_t)whole->tensor.num_params * aq_dtype_bytes(whole->tensor.dtype);
    if (data_bytes != (l->bits != 0 ? l->code_bytes : bytes) ||
        (l->bits != 0 && (uint64_t)rows * l->cols != whole->tensor.num_params))
        return aqi_fail(err, AQ_E_FORMAT, "its chunks do not make up its shape");
    if (!aqi_mul_size(n, sizeof *first, &bytes))
        return aqi_fail(err, AQ_E_LIMIT, "too many chunks");
    status = aqi_arena_alloc(&m->arena, bytes, &p, err);
    if (status != AQ_OK) return status;
    whole->chunks = (aqi_model_entry *)p;
    memcpy(whole->chunks, first, bytes);
    return AQ_OK;
}

/* Two entries of one name; where they lie, if that is not the same file. */
static aq_status aqi_model_name_twice(const aq_model *m, const aqi_model_entry *a,
                                      const aqi_model_entry *b, aq_error *err) {
    if (a->file == b->file)
        return aqi_fail(err, AQ_E_DUPLICATE, "tensor name comes twice");
    return aqi_fail(err, AQ_E_DUPLICATE, "tensor name comes twice, in %.200s and %.200s",
                    aqi_leaf_name(m->files[a->file].path),
                    aqi_leaf_name(m->files[b->file].path));
}

/* Entries by name, chunks joined; names differ. */
static aq_status aqi_model_sort(aq_model *m, aq_error *err) {
    size_t i, n = 0;
    aq_status status = AQ_OK;
    if (m->num_entries > 0)
        qsort(m->entries, m->num_entries, sizeof *m->entries, aqi_compare_entries);
    for (i = 0; i < m->num_entries && status == AQ_OK; n++) {
        aqi_model_entry e = m->entries[i];
        size_t count = 1;
        if (n > 0 && strcmp(m->entries[n - 1].tensor.name, e.tensor.name) == 0) {
            status = aqi_model_name_twice(m, &m->entries[n - 1], &e, err);
        } else if (e.num_chunks > 1) {
            count = e.num_chunks;
            status = aqi_model_join_chunks(m, i, &e, err);
        }
        status = aqi_error_in_tensor(err, status, e.tensor.name);
        i += count;
        m->entries[n] = e;
    }
    if (status == AQ_OK) m->num_entries = n;
    return status;
}

#ifndef AQ_NO_WRITER
/* Parquet files as one model, like those of a directory: shards to be merged. */
static aq_status aqi_model_read_files(aq_model *m, const char *const *paths, size_t n,
                                      aq_error *err) {
    size_t i;
    aq_status status = AQ_OK;
    m->format = AQ_MODEL_DIRECTORY;
    for (i = 0; i < n && status == AQ_OK; i++) {
        status = aqi_model_add_file(m, NULL, paths[i], err);
        if (status != AQ_OK) break;
        status = aqi_model_read_parquet(m, (uint32_t)i, err);
        if (status != AQ_OK) return aqi_error_in_file(err, status, paths[i]);
    }
    return status == AQ_OK ? aqi_model_sort(m, err) : status;
}
#endif

/* ---- sharded safetensors ---- */

/* Where the index says that a tensor lies. */
typedef struct aqi_place {
    const char *tensor, *file;
    uint32_t shard; /* of m->files */
} aqi_place;

/* i of n, of a name STEM-0000i-of-0000n.safetensors. */
typedef struct aqi_series {
    const char *name;
    size_t stem_bytes;
    int32_t digits;
    uint64_t i, n;
} aqi_series;

/* What is needed while the shards are opened. */
typedef struct aqi_shards {
    aqi_arena arena;          /* text of the index, and what lies in it */
    const char *path;         /* of the index; NULL = none              */
    aqi_bytes_builder places; /* aqi_place, in name order               */
    size_t num_places;
    const char *total_size; /* of the index's metadata; NULL = none */
    aqi_series *series;     /* of the files that are of one, sorted */
    size_t num_series;
} aqi_shards;

static aqi_place *aqi_shards_places(const aqi_shards *x) {
    return (aqi_place *)(void *)x->places.data;
}

/* "model.safetensors.index.json"; other tools put a word before ".json". */
static bool aqi_is_index_name(const char *name) {
    return strstr(name, ".safetensors.index.") != NULL && aqi_ends_with(name, ".json");
}

/* ASCII digits right before `end`; at most 18. */
static size_t aqi_digits_before(const char *text, const char *end, uint64_t *out) {
    uint64_t unit = 1;
    size_t n = 0;
    *out = 0;
    for (; end > text && end[-1] >= '0' && end[-1] <= '9' && n < 18; n++, unit *= 10)
        *out += (uint64_t)(*--end - '0') * unit;
    return n;
}

/* False for the name of a file that is not of a series. */
static bool aqi_series_of(const char *name, aqi_series *out) {
    const char *end;
    size_t digits;
    memset(out, 0, sizeof *out);
    if (!aqi_ends_with(name, ".safetensors")) return false;
    end = name + strlen(name) - strlen(".safetensors");
    digits = aqi_digits_before(name, end, &out->n);
    end -= digits;
    if (digits == 0 || end - name < 4 || memcmp(end - 4, "-of-", 4) != 0) return false;
    end -= 4;
    if (aqi_digits_before(name, end, &out->i) != digits) return false;
    end -= digits;
    if (end == name || end[-1] != '-' || out->i == 0 || out->i > out->n) return false;
    out->name = name;
    out->stem_bytes = (size_t)(end - 1 - name);
    out->digits = (int32_t)digits;
    return true;
}

static int aqi_compare_stems(const void *a, const void *b) {
    const aqi_series *x = (const aqi_series *)a, *y = (const aqi_series *)b;
    int order = memcmp(x->name, y->name, AQI_MIN(x->stem_bytes, y->stem_bytes));
    return order != 0 ? order
                      : (x->stem_bytes > y->stem_bytes) - (x->stem_bytes < y->stem_bytes);
}

static int aqi_compare_series(const void *a, const void *b) {
    const aqi_series *x = (const aqi_series *)a, *y = (const aqi_series *)b;
    int order = aqi_compare_stems(a, b);
    if (order != 0) return order;
    if (x->digits != y->digits) return x->digits - y->digits;
    if (x->n != y->n) return x->n < y->n ? -1 : 1;
    return (x->i > y->i) - (x->i < y->i);
}

/* The same model's shards, of the same number. */
static bool aqi_series_equal(const aqi_series *a, const aqi_series *b) {
    return aqi_compare_stems(a, b) == 0 && a->digits == b->digits && a->n == b->n;
}

/* Number i of a series is not there. */
static aq_status aqi_series_missing(const aqi_series *s, uint64_t i, aq_error *err) {
    aqi_fail(
        err, AQ_E_IO, "shard %llu of %llu is missing: %.*s-%0*llu-of-%0*llu.safetensors",
        (unsigned long long)i, (unsigned long long)s->n, (int)s->stem_bytes, s->name,
        (int)s->digits, (unsigned long long)i, (int)s->digits, (unsigned long long)s->n);
    if (err != NULL) err->os_errno = ENOENT;
    return AQ_E_IO;
}

/* A shard that the index names must be there. */
static aq_status aqi_shard_check(const char *path, aq_error *err) {
    const char *name = aqi_leaf_name(path);
    struct stat st;
    aqi_series s;
    if (stat(path, &st) == 0) return AQ_OK;
    if (errno != ENOENT) {
        aqi_fail_os(err, errno, "cannot open a shard", path);
        aqi_error_locate(err, "file %s", name);
        return AQ_E_IO;
    }
    if (aqi_series_of(name, &s)) return aqi_series_missing(&s, s.i, err);
    aqi_fail(err, AQ_E_IO, "the shard %.255s, which the index names, is missing", name);
    if (err != NULL) err->os_errno = ENOENT;
    return AQ_E_IO;
}

/* Shards that follow one another from 1 to n. */
static aq_status aqi_series_complete(const aqi_shards *x, aq_error *err) {
    size_t k;
    for (k = 0; k < x->num_series; k++) {
        const aqi_series *s = &x->series[k];
        bool first = k == 0 || !aqi_series_equal(s, s - 1);
        bool last = k + 1 == x->num_series || !aqi_series_equal(s, s + 1);
        uint64_t expected = first ? 1 : s[-1].i + 1;
        if (s->i != expected) return aqi_series_missing(s, expected, err);
        if (last && s->i != s->n) return aqi_series_missing(s, s->i + 1, err);
    }
    return AQ_OK;
}

static aq_status aqi_series_find(const aq_model *m, aqi_shards *x, aq_error *err) {
    size_t i;
    void *p;
    aq_status status =
        aqi_arena_alloc(&x->arena, m->num_files * sizeof *x->series, &p, err);
    if (status != AQ_OK) return status;
    x->series = (aqi_series *)p;
    for (i = 0; i < m->num_files; i++) {
        if (aqi_series_of(aqi_leaf_name(m->files[i].path), &x->series[x->num_series]))
            x->num_series++;
    }
    if (x->num_series > 0)
        qsort(x->series, x->num_series, sizeof *x->series, aqi_compare_series);
    return AQ_OK;
}

/* ---- the index: {"metadata": {...}, "weight_map": {"tensor": "file", ...}} ---- */

/* A plain name beside the index: whoever wrote the index names no other file. */
static aq_status aqi_shard_name_check(const char *file, aq_error *err) {
    if (file[0] == '\0' || file[0] == '.' || strchr(file, '/') != NULL)
        return aqi_fail(err, AQ_E_FORMAT,
                        "the shard \"%.255s\" is no plain name of a file beside the "
                        "index",
                        file);
    if (!aqi_ends_with(file, ".safetensors"))
        return aqi_fail(err, AQ_E_UNSUPPORTED,
                        "the shard \"%.255s\" is not safetensors; pickled files are "
                        "never loaded, convert them",
                        file);
    return AQ_OK;
}

static aq_status aqi_index_weight_map(aqi_shards *x, aqi_json *j, const aq_allocator *a,
                                      aq_error *err) {
    aq_status status = AQ_OK;
    if (!aqi_json_take(j, '{')) return aqi_json_fail(j, "weight_map is no object");
    if (aqi_json_take(j, '}')) return AQ_OK;
    do {
        aqi_place place = {NULL, NULL, 0};
        status = aqi_json_key(j, &place.tensor, err);
        if (status == AQ_OK && place.tensor[0] == '\0')
            status = aqi_json_fail(j, "tensor without a name");
        if (status == AQ_OK) status = aqi_json_string(j, &place.file, err);
        if (status == AQ_OK) {
            status = aqi_shard_name_check(place.file, err);
            if (status != AQ_OK) return aqi_error_in_tensor(err, status, place.tensor);
        }
        if (status != AQ_OK) return status;
        if (!aqi_builder_append(a, &x->places, &place, sizeof place))
            return aqi_fail_nomem(err, x->places.size + sizeof place);
        x->num_places++;
    } while (aqi_json_take(j, ','));
    if (!aqi_json_take(j, '}')) return aqi_json_fail(j, "weight_map without an end");
    return AQ_OK;
}

static aq_status aqi_index_parse(aq_model *m, aqi_shards *x, aqi_json *j, aq_error *err) {
    bool has_metadata = false, has_map = false;
    const char *key;
    size_t i;
    aq_status status = AQ_OK;
    if (!aqi_json_take(j, '{')) return aqi_json_fail(j, "no object");
    if (!aqi_json_take(j, '}')) {
        do {
            status = aqi_json_key(j, &key, err);
            if (status != AQ_OK) return status;
            if (strcmp(key, "metadata") == 0 && !has_metadata) {
                has_metadata = true;
                status = aqi_json_pairs(m, j, true, err);
            } else if (strcmp(key, "weight_map") == 0 && !has_map) {
                has_map = true;
                status = aqi_index_weight_map(x, j, &m->allocator, err);
            } else if (strcmp(key, "metadata") == 0 || strcmp(key, "weight_map") == 0) {
                status = aqi_json_fail(j, "metadata or weight_map comes twice");
            } else {
                aqi_log(&m->log, "%s: the key \"%.80s\" is not known, and left out",
                        x->path, key);
                status = aqi_json_skip(j, 0, err);
            }
        } while (status == AQ_OK && aqi_json_take(j, ','));
        if (status == AQ_OK && !aqi_json_take(j, '}'))
            status = aqi_json_fail(j, "index without an end");
    }
    if (status == AQ_OK && (aqi_json_peek(j) != 0 || aqi_remaining(&j->in) != 0))
        status = aqi_json_fail(j, "something after the index");
    if (status == AQ_OK && !has_map)
        status = aqi_fail(err, AQ_E_FORMAT,
                          "JSON without a weight_map: no index of safetensors shards");
    for (i = 0; status == AQ_OK && i < m->num_pairs; i++) {
        if (strcmp(m->pairs[i].key, "total_size") == 0) x->total_size = m->pairs[i].value;
    }
    return status;
}

static int aqi_compare_places_by_file(const void *a, const void *b) {
    return strcmp(((const aqi_place *)a)->file, ((const aqi_place *)b)->file);
}

static int aqi_compare_places(const void *a, const void *b) {
    return strcmp(((const aqi_place *)a)->tensor, ((const aqi_place *)b)->tensor);
}

/* The shards in name order to m->files; the places in name order of their tensors. */
static aq_status aqi_index_files(aq_model *m, aqi_shards *x, aq_error *err) {
    aqi_place *places = aqi_shards_places(x);
    const char *name = aqi_leaf_name(x->path);
    char *directory = NULL;
    size_t i;
    aq_status status = AQ_OK;
    if (x->num_places == 0) return AQ_OK;
    if (name != x->path)
        status = aqi_arena_string(&x->arena, x->path,
                                  AQI_MAX((size_t)(name - x->path) - 1, (size_t)1),
                                  &directory, err);
    qsort(places, x->num_places, sizeof *places, aqi_compare_places_by_file);
    for (i = 0; i < x->num_places && status == AQ_OK; i++) {
        if (i == 0 || strcmp(places[i - 1].file, places[i].file) != 0) {
            status = aqi_model_add_file(m, directory, places[i].file, err);
            /* Now: what an index asks of memory is bounded by files that are there. */
            if (status == AQ_OK)
                status = aqi_shard_check(m->files[m->num_files - 1].path, err);
        }
        places[i].shard = (uint32_t)m->num_files - 1;
    }
    if (status != AQ_OK) return status;
    qsort(places, x->num_places, sizeof *places, aqi_compare_places);
    for (i = 1; i < x->num_places; i++) {
        if (aqi_compare_places(&places[i - 1], &places[i]) != 0) continue;
        aqi_fail(err, AQ_E_DUPLICATE, "weight_map has the tensor twice");
        return aqi_error_in_tensor(err, AQ_E_DUPLICATE, places[i].tensor);
    }
    return AQ_OK;
}

static aq_status aqi_index_read(aq_model *m, aqi_shards *x, aq_error *err) {
    aqi_source s;
    void *text = NULL;
    size_t bytes = 0;
    aqi_json j;
    aq_status status = aqi_source_open(&s, x->path, m->io, err);
    if (status != AQ_OK) return status;
    if (s.bytes > (int64_t)AQI_SAFETENSORS_HEADER_LIMIT) {
        status = aqi_fail_at(err, AQ_E_LIMIT, 0,
                             "index of %lld bytes; the limit is 100,000,000",
                             (long long)s.bytes);
    } else {
        bytes = (size_t)s.bytes;
        status = aqi_arena_take(&x->arena, bytes, &text, err);
    }
    if (status == AQ_OK) status = aqi_source_read(&s, 0, text, bytes, err);
    m->file_bytes += bytes;
    aqi_source_close(&s);
    if (status != AQ_OK) return status;
    j.in = aqi_cursor_make((const uint8_t *)text, bytes, 0);
    j.arena = &x->arena;
    j.err = err;
    status = aqi_index_parse(m, x, &j, err);
    return status == AQ_OK ? aqi_index_files(m, x, err) : status;
}

/* ---- the shards against the index, and each other ---- */

static int aqi_compare_base_names(const void *name, const void *file) {
    return strcmp((const char *)name,
                  aqi_leaf_name(((const aqi_model_file *)file)->path));
}

/* A shard of the same model that the index does not name belongs to another state of it:
 * to a save that was interrupted, or an older one. Other files are no concern. */
static bool aqi_shard_is_extra(const aq_model *m, const aqi_shards *x, const char *name) {
    const char *index = aqi_leaf_name(x->path);
    const char *stem_end = strstr(index, ".safetensors.index.");
    aqi_series s;
    if (name[0] == '.' || !aqi_ends_with(name, ".safetensors")) return false;
    if (m->num_files > 0 && bsearch(name, m->files, m->num_files, sizeof *m->files,
                                    aqi_compare_base_names) != NULL)
        return false;
    if (aqi_series_of(name, &s) &&
        ((stem_end != NULL && s.stem_bytes == (size_t)(stem_end - index) &&
          memcmp(index, name, s.stem_bytes) == 0) ||
         (x->num_series > 0 &&
          bsearch(&s, x->series, x->num_series, sizeof s, aqi_compare_stems) != NULL)))
        return true;
    aqi_log(&m->log, "%s: the index does not name %.255s, which is left out", x->path,
            name);
    return false;
}

/* Looks for such shards; the first in name order is the one that the error names. */
static aq_status aqi_shards_extra(const aq_model *m, aqi_shards *x, aq_error *err) {
    const char *name = aqi_leaf_name(x->path);
    char *directory = NULL, *extra = NULL;
    const struct dirent *d;
    DIR *dir;
    aq_status status =
        aqi_arena_string(&x->arena, name == x->path ? "." : x->path,
                         AQI_MAX((size_t)(name - x->path), (size_t)1), &directory, err);
    if (status != AQ_OK) return status;
    dir = opendir(directory);
    if (dir == NULL)
        return aqi_fail_os(err, errno, "cannot read the directory", directory);
    while (status == AQ_OK && (d = readdir(dir)) != NULL) {
        if (aqi_shard_is_extra(m, x, d->d_name) &&
            (extra == NULL || strcmp(d->d_name, extra) < 0))
            status =
                aqi_arena_string(&x->arena, d->d_name, strlen(d->d_name), &extra, err);
    }
    closedir(dir);
    if (status != AQ_OK || extra == NULL) return status;
    return aqi_fail(err, AQ_E_FORMAT,
                    "the index does not name the shard %.255s, which lies beside it; "
                    "remove that file if it is of no use",
                    extra);
}

/* Both are in name order. */
static aq_status aqi_shards_agree(const aq_model *m, const aqi_shards *x, aq_error *err) {
    const aqi_place *places = aqi_shards_places(x);
    size_t e = 0, p = 0;
    while (e < m->num_entries || p < x->num_places) {
        const aqi_model_entry *entry = e < m->num_entries ? &m->entries[e] : NULL;
        const aqi_place *place = p < x->num_places ? &places[p] : NULL;
        int order = entry == NULL   ? 1
                    : place == NULL ? -1
                                    : strcmp(entry->tensor.name, place->tensor);
        const char *in = NULL;
        if (order <= 0) in = aqi_leaf_name(m->files[entry->file].path);
        if (order < 0) {
            aqi_fail(err, AQ_E_FORMAT,
                     "the index does not name a tensor of the shard %.255s", in);
            return aqi_error_in_tensor(err, AQ_E_FORMAT, entry->tensor.name);
        }
        if (order > 0) {
            aqi_fail(err, AQ_E_FORMAT,
                     "the index names a tensor that its shard %.255s lacks", place->file);
            return aqi_error_in_tensor(err, AQ_E_FORMAT, place->tensor);
        }
        if (entry->file != place->shard) {
            aqi_fail(err, AQ_E_FORMAT,
                     "the index names a tensor of the shard %.200s that lies in %.200s",
                     place->file, in);
            return aqi_error_in_tensor(err, AQ_E_FORMAT, place->tensor);
        }
        e++;
        p++;
    }
    return AQ_OK;
}

/* metadata.total_size is wrong in many published models, and nothing depends on it. */
static void aqi_shards_total_size(const aq_model *m, const aqi_shards *x) {
    uint64_t bytes = 0;
    char text[24];
    size_t i, n;
    if (x->total_size == NULL) return;
    for (i = 0; i < m->num_entries; i++)
        bytes += m->entries[i].tensor.data_bytes;
    snprintf(text, sizeof text, "%llu", (unsigned long long)bytes);
    n = strlen(text); /* some writers make it a float: 24.0 */
    if (strncmp(x->total_size, text, n) != 0 ||
        (strcmp(x->total_size + n, "") != 0 && strcmp(x->total_size + n, ".0") != 0))
        aqi_log(&m->log, "%s: total_size is %.40s, the tensors have %s bytes", x->path,
                x->total_size, text);
}

static int aqi_compare_pairs(const void *a, const void *b) {
    const aq_key_value *x = *(const aq_key_value *const *)a,
                       *y = *(const aq_key_value *const *)b;
    int order = strcmp(x->key, y->key);
    return order != 0 ? order : (x > y) - (x < y); /* the order of the files */
}

/* Keeps the first pair of each key: of the index, then of the first shard that has it. */
static aq_status aqi_shards_pairs(aq_model *m, aqi_shards *x, aq_error *err) {
    const aq_key_value **order;
    aq_key_value *kept;
    size_t i, n = 0;
    void *p, *q = NULL;
    aq_status status = aqi_arena_alloc(&x->arena, m->num_pairs * sizeof *order, &p, err);
    if (status == AQ_OK)
        status = aqi_arena_alloc(&m->arena, m->num_pairs * sizeof *kept, &q, err);
    if (status != AQ_OK || m->num_pairs == 0) return status;
    order = (const aq_key_value **)p;
    kept = (aq_key_value *)q;
    for (i = 0; i < m->num_pairs; i++)
        order[i] = &m->pairs[i];
    qsort(order, m->num_pairs, sizeof *order, aqi_compare_pairs);
    for (i = 0; i < m->num_pairs; i++) {
        if (n == 0 || strcmp(kept[n - 1].key, order[i]->key) != 0) kept[n++] = *order[i];
    }
    m->pairs = kept;
    m->num_pairs = n;
    return AQ_OK;
}

static aq_status aqi_shards_open(aq_model *m, aqi_shards *x, aq_error *err) {
    size_t i;
    aq_status status = AQ_OK;
    for (i = 0; i < m->num_files && status == AQ_OK; i++) {
        status = aqi_model_read_safetensors(m, (uint32_t)i, err);
        if (status != AQ_OK)
            aqi_error_locate(err, "file %s", aqi_leaf_name(m->files[i].path));
    }
    if (status == AQ_OK) status = aqi_model_sort(m, err);
    if (status == AQ_OK && x->path != NULL) status = aqi_shards_agree(m, x, err);
    if (status == AQ_OK) aqi_shards_total_size(m, x);
    return status == AQ_OK ? aqi_shards_pairs(m, x, err) : status;
}

/* By the index, or (index_path == NULL) the files that m has. */
static aq_status aqi_model_read_shards(aq_model *m, const char *index_path,
                                       aq_error *err) {
    aqi_shards x;
    aq_status status = AQ_OK;
    memset(&x, 0, sizeof x);
    aqi_arena_init(&x.arena, &m->allocator);
    x.path = index_path;
    if (index_path != NULL) {
        status = aqi_index_read(m, &x, err);
        if (status != AQ_OK) aqi_error_locate(err, "index %s", aqi_leaf_name(index_path));
    }
    if (status == AQ_OK) status = aqi_series_find(m, &x, err);
    if (status == AQ_OK && index_path != NULL) status = aqi_shards_extra(m, &x, err);
    if (status == AQ_OK) status = aqi_series_complete(&x, err);
    if (status == AQ_OK) status = aqi_shards_open(m, &x, err);
    aqi_builder_free(&m->allocator, &x.places);
    aqi_arena_deinit(&x.arena);
    return status;
}

/* ---- open, close, look up ---- */

/* What a directory holds; hidden files are left out. */
typedef struct aqi_listing {
    size_t parquet, safetensors, indexes;
    char *index; /* in the model's arena */
} aqi_listing;

static aq_status aqi_listing_add(aq_model *m, aqi_listing *l, const char *path,
                                 const char *name, aq_error *err) {
    if (name[0] == '.') return AQ_OK;
    if (aqi_is_index_name(name)) {
        size_t n = strlen(path), k = strlen(name);
        aq_status status = aqi_arena_string(&m->arena, NULL, n + 1 + k, &l->index, err);
        if (status != AQ_OK) return status;
        l->indexes++;
        memcpy(l->index, path, n);
        l->index[n] = '/';
        memcpy(l->index + n + 1, name, k);
        return AQ_OK;
    }
    if (aqi_ends_with(name, ".parquet")) {
        l->parquet++;
    } else if (aqi_ends_with(name, ".safetensors")) {
        l->safetensors++;
    } else {
        return AQ_OK;
    }
    return aqi_model_add_file(m, path, name, err);
}

/* Every *.parquet or every *.safetensors file of a directory, in name order, or the index
 * of its shards. Sets the format. */
static aq_status aqi_model_list_directory(aq_model *m, const char *path,
                                          const char **out_index, aq_error *err) {
    DIR *dir = opendir(path);
    const struct dirent *d;
    aqi_listing l;
    aq_status status = AQ_OK;
    if (dir == NULL) return aqi_fail_os(err, errno, "cannot read the directory", path);
    memset(&l, 0, sizeof l);
    while (status == AQ_OK && (d = readdir(dir)) != NULL)
        status = aqi_listing_add(m, &l, path, d->d_name, err);
    closedir(dir);
    if (status != AQ_OK) return status;
    if (l.parquet + l.safetensors + l.indexes == 0)
        return aqi_fail(err, AQ_E_NOT_FOUND,
                        "no .parquet and no .safetensors file in the directory");
    if (l.parquet > 0 && l.safetensors + l.indexes > 0)
        return aqi_fail(err, AQ_E_FORMAT,
                        "the directory mixes .parquet and .safetensors files; keep the "
                        "files of one model in a directory of their own");
    if (l.indexes > 1)
        return aqi_fail(err, AQ_E_FORMAT,
                        "the directory has %zu indexes of safetensors shards; open one "
                        "of them by its path",
                        l.indexes);
    if (l.parquet == 0) m->format = AQ_MODEL_SHARDS;
    *out_index = l.index;
    if (l.index != NULL) m->num_files = 0; /* those that it names */
    if (m->num_files > 0)
        qsort(m->files, m->num_files, sizeof *m->files, aqi_compare_paths);
    return AQ_OK;
}

/* By content: Parquet's and NumPy's magic; a safetensors header begins with { after 8
 * bytes, the last of them 0; an index with {. Where none fits, the ending says what the
 * file was meant to be. */
static aq_status aqi_model_detect(const char *path, aq_model_format *out, aq_error *err) {
    struct stat st;
    uint8_t head[9] = {0};
    int fd;
    if (stat(path, &st) != 0) return aqi_fail_os(err, errno, "cannot open", path);
    *out = AQ_MODEL_DIRECTORY;
    if (S_ISDIR(st.st_mode)) return AQ_OK;
    if (!S_ISREG(st.st_mode))
        return aqi_fail_os(err, EINVAL, "not a regular file", path);
    fd = aqi_open_read(path);
    if (fd < 0) return aqi_fail_os(err, errno, "cannot open", path);
    if (aqi_pread_all(fd, 0, head, (size_t)AQI_MIN(st.st_size, 9), NULL) != AQ_OK)
        memset(head, 0, sizeof head);
    close(fd);
    if (memcmp(head, "PAR1", 4) == 0 || memcmp(head, "PARE", 4) == 0) {
        *out = AQ_MODEL_PARQUET;
    } else if (memcmp(head, "\x93NUMPY", 6) == 0) {
        *out = AQ_MODEL_NPY;
    } else if (head[0] == '{' && head[7] != 0) {
        *out = AQ_MODEL_SHARDS;
    } else if (head[8] == '{' || aqi_ends_with(path, ".safetensors")) {
        *out = AQ_MODEL_SAFETENSORS;
    } else if (aqi_ends_with(path, ".parquet")) {
        *out = AQ_MODEL_PARQUET;
    } else if (aqi_ends_with(path, ".json")) {
        *out = AQ_MODEL_SHARDS;
    } else if (aqi_ends_with(path, ".npy")) {
        *out = AQ_MODEL_NPY;
    } else {
        return aqi_fail_at(err, AQ_E_FORMAT, 0,
                           "neither Parquet nor safetensors nor its index nor .npy");
    }
    return AQ_OK;
}

static aq_status aqi_model_read(aq_model *m, const char *path, aq_error *err) {
    const char *index = NULL;
    size_t i;
    aq_status status = aqi_model_detect(path, &m->format, err);
    if (status != AQ_OK) return status;
    if (m->format == AQ_MODEL_DIRECTORY) {
        status = aqi_model_list_directory(m, path, &index, err);
    } else if (m->format == AQ_MODEL_SHARDS) {
        index = path;
    } else {
        status = aqi_model_add_file(m, NULL, path, err);
    }
    if (status != AQ_OK) return status;
    if (m->format == AQ_MODEL_SHARDS) return aqi_model_read_shards(m, index, err);
    if (m->format == AQ_MODEL_NPY) return aqi_model_read_npy(m, err);
    if (m->format == AQ_MODEL_SAFETENSORS) {
        status = aqi_model_read_safetensors(m, 0, err);
    } else {
        for (i = 0; i < m->num_files && status == AQ_OK; i++) {
            status = aqi_model_read_parquet(m, (uint32_t)i, err);
            if (status != AQ_OK && m->format == AQ_MODEL_DIRECTORY)
                aqi_error_locate(err, "file %s", m->files[i].path);
        }
    }
    return status == AQ_OK ? aqi_model_sort(m, err) : status;
}

static aq_status aqi_model_create(const aq_model_options *options, aq_model **out_model,
                                  aq_error *err) {
    aq_model_options o;
    aq_allocator a;
    aq_model *m;
    aq_status status;
    *out_model = NULL;
    memset(&o, 0, sizeof o);
    if (options != NULL) o = *options;
    status = aqi_allocator_resolve(o.allocator, &a, err);
    if (status != AQ_OK) return status;
    m = (aq_model *)aqi_alloc(&a, sizeof *m);
    if (m == NULL) return aqi_fail_nomem(err, sizeof *m);
    memset(m, 0, sizeof *m);
    m->allocator = a;
    m->log = o.log;
    m->io = o.io;
    m->skip_checksums = o.skip_checksums;
    aqi_arena_init(&m->arena, &a);
    status = aqi_chunk_cache_create(&a, &m->cache, err);
    if (status != AQ_OK) {
        aq_model_close(m);
        return status;
    }
    *out_model = m;
    return AQ_OK;
}

aq_status aq_model_open(const char *path, const aq_model_options *options,
                        aq_model **out_model, aq_error *err) {
    aq_model *m;
    aq_status status;
    aqi_error_clear(err);
    *out_model = NULL;
    if (path == NULL) return aqi_fail(err, AQ_E_ARG, "path missing");
    status = aqi_model_create(options, &m, err);
    if (status != AQ_OK) return status;
    status = aqi_model_read(m, path, err);
    if (status != AQ_OK) {
        aq_model_close(m);
        return aqi_error_in_file(err, status, path);
    }
    *out_model = m;
    return AQ_OK;
}

void aq_model_close(aq_model *model) {
    aq_allocator a;
    size_t i;
    if (model == NULL) return;
    a = model->allocator;
    aqi_chunk_cache_destroy(model->cache);
    for (i = 0; i < model->num_files; i++) {
        aq_parquet_close(model->files[i].parquet);
        aqi_source_close(&model->files[i].source);
    }
    aqi_free(&a, model->entries, model->entries_capacity * sizeof *model->entries);
    aqi_arena_deinit(&model->arena);
    aqi_free(&a, model, sizeof *model);
}

size_t aq_model_count(const aq_model *model) { return model->num_entries; }

aq_model_format aq_model_get_format(const aq_model *model) { return model->format; }

uint64_t aq_model_file_bytes(const aq_model *model) { return model->file_bytes; }

bool aq_model_metadata(const aq_model *model, size_t index, aq_key_value *out_pair) {
    memset(out_pair, 0, sizeof *out_pair);
    if (index >= model->num_pairs) return false;
    *out_pair = model->pairs[index];
    return true;
}

/* First entry whose name is not below `name`. */
static size_t aqi_model_lower_bound(const aq_model *m, const char *name) {
    size_t low = 0, high = m->num_entries;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (strcmp(m->entries[middle].tensor.name, name) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

size_t aq_model_index(const aq_model *model, const char *name) {
    size_t i = aqi_model_lower_bound(model, name);
    if (i == model->num_entries || strcmp(model->entries[i].tensor.name, name) != 0)
        return SIZE_MAX;
    return i;
}

aq_status aq_model_describe(const aq_model *model, size_t index, aq_tensor *out_tensor,
                            aq_error *err) {
    aqi_error_clear(err);
    aqi_tensor_reset(out_tensor);
    if (index >= model->num_entries)
        return aqi_fail(err, AQ_E_ARG, "tensor %zu of %zu", index, model->num_entries);
    *out_tensor = model->entries[index].tensor;
    return AQ_OK;
}

/* ---- data of one tensor ---- */

/* What a tensor keeps until its release. */
typedef struct aqi_tensor_owned {
    aq_allocator allocator;
    aqi_chunk_cache *cache;
    aqi_model_chunk *chunk;
    aqi_source file;  /* a .bin sibling                 */
    uint8_t *copy;    /* data of a source without a map, or of chunks */
    size_t copy_bytes;
    float *aligned[2]; /* scales, zero points            */
    size_t aligned_bytes;
    uint8_t *params;  /* of chunks                       */
    size_t params_bytes;
} aqi_tensor_owned;

void aq_tensor_release(aq_tensor *tensor) {
    aqi_tensor_owned *o;
    aq_allocator a;
    if (tensor == NULL) return;
    o = (aqi_tensor_owned *)tensor->owned;
    aqi_tensor_reset(tensor);
    if (o == NULL) return;
    a = o->allocator;
    aqi_chunk_release(o->cache, o->chunk);
    aqi_source_close(&o->file);
    aqi_free(&a, o->copy, o->copy_bytes);
    aqi_free(&a, o->aligned[0], o->aligned_bytes);
    aqi_free(&a, o->aligned[1], o->aligned_bytes);
    aqi_free(&a, o->params, o->params_bytes);
    aqi_free(&a, o, sizeof *o);
}

/* The scales (slot 0) or zero points (slot 1) of a row; copied only where the bytes of
 * the file are not aligned for floats. */
static aq_status aqi_tensor_floats(aqi_tensor_owned *o, const aqi_cells *cells,
                                   int64_t row, int slot, aq_tensor *t, aq_error *err) {
    const char *what = slot == 0 ? "scales" : "zero points";
    const float **out = slot == 0 ? &t->scales : &t->zero_points;
    size_t i, want = t->layout.num_groups;
    int64_t first, count;
    const uint8_t *p;
    aqi_cells_row(cells, row, &first, &count);
    if ((uint64_t)count != want)
        return aqi_fail(err, AQ_E_FORMAT, "%lld %s for %zu groups", (long long)count,
                        what, want);
    p = (const uint8_t *)cells->span.values + (size_t)first * sizeof(float);
    for (i = 0; i < want; i++) {
        float f;
        memcpy(&f, p + i * sizeof f, sizeof f);
        if (!aqi_is_finite(f))
            return aqi_fail(err, AQ_E_NONFINITE, "%s hold NaN or infinity at group %zu",
                            what, i);
    }
    t->mapped = t->mapped && cells->span.mapped;
    if (want == 0 || (uintptr_t)p % sizeof(float) == 0) {
        *out = (const float *)(const void *)p;
        return AQ_OK;
    }
    o->aligned_bytes = want * sizeof(float);
    o->aligned[slot] = (float *)aqi_alloc(&o->allocator, o->aligned_bytes);
    if (o->aligned[slot] == NULL) return aqi_fail_nomem(err, o->aligned_bytes);
    memcpy(o->aligned[slot], p, o->aligned_bytes);
    *out = o->aligned[slot];
    t->mapped = false;
    return AQ_OK;
}

/* Factors of rows are at least 0 but for codebooks; with them every scale and zero point
 * is finite. */
static aq_status aqi_params_validate(const aq_layout *l, const uint8_t *params,
                                     aq_error *err) {
    float scales[AQI_PIECE], zero_points[AQI_PIECE];
    const size_t factors = aqi_params_factors(l);
    size_t row, i, n, slot, end;
    for (row = 0; row < l->rows; row++) {
        for (i = 0; i < factors; i++) {
            float f = aqi_load_f32(params + (row * factors + i) * sizeof f);
            if (!aqi_is_finite(f))
                return aqi_fail(err, AQ_E_NONFINITE,
                                "group_params hold NaN or infinity at row %zu", row);
            if (f < 0.0f && !l->codebook)
                return aqi_fail(err, AQ_E_FORMAT,
                                "group_params hold a factor below 0 at row %zu", row);
        }
        end = (row + 1) * l->groups_per_row;
        for (slot = row * l->groups_per_row; slot < end; slot += n) {
            n = AQI_MIN(end - slot, (size_t)AQI_PIECE);
            aqi_params_expand(l, params, slot, n, scales, zero_points);
            for (i = 0; i < n; i++) {
                if (!aqi_is_finite(scales[i]) || !aqi_is_finite(zero_points[i]))
                    return aqi_fail(err, AQ_E_NONFINITE,
                                    "group_params hold NaN or infinity at group %zu",
                                    slot + i);
            }
        }
    }
    return AQ_OK;
}

/* The small parameters of a row. */
static aq_status aqi_tensor_params(const aqi_model_chunk *chunk, int64_t row,
                                   aq_tensor *t, aq_error *err) {
    const aq_bytes *params = aqi_cells_bytes(&chunk->group_params, row);
    size_t bytes = params == NULL ? 0 : params->size;
    int64_t first, count;
    aqi_cells_row(&chunk->zero_points, row, &first, &count);
    if (count != 0)
        return aqi_fail(err, AQ_E_FORMAT, "%lld zero points beside group_params",
                        (long long)count);
    if (bytes != t->layout.params_bytes)
        return aqi_fail(err, AQ_E_FORMAT, "group_params has %zu bytes, had %zu", bytes,
                        t->layout.params_bytes);
    if (bytes == 0) return AQ_OK;
    t->params = params->data;
    t->mapped = t->mapped && chunk->group_params.span.mapped;
    return aqi_params_validate(&t->layout, t->params, err);
}

/* Bytes [offset, offset + bytes) of a source: where they are mapped, else read to
 * memory. */
static aq_status aqi_tensor_from_source(aqi_tensor_owned *o, const aqi_source *s,
                                        int64_t offset, aq_tensor *t, aq_error *err) {
    t->data = aqi_source_view(s, offset);
    t->mapped = t->data != NULL || t->data_bytes == 0;
    if (t->data != NULL || t->data_bytes == 0) return AQ_OK;
    o->copy_bytes = t->data_bytes;
    o->copy =
        (uint8_t *)o->allocator.alloc(o->allocator.user, o->copy_bytes, AQ_ALIGNMENT);
    if (o->copy == NULL) return aqi_fail_nomem(err, t->data_bytes);
    t->data = o->copy;
    return aqi_source_read(s, offset, o->copy, o->copy_bytes, err);
}

/* Raw float32 values beside "x.parquet" in "x.bin", as the reference converter leaves
 * them. */
static aq_status aqi_tensor_from_sibling(const aq_model *m, const aqi_model_file *f,
                                         aqi_tensor_owned *o, aq_tensor *t,
                                         aq_error *err) {
    size_t n = strlen(f->path), stem = aqi_ends_with(f->path, ".parquet") ? n - 8 : n;
    char *path = (char *)aqi_alloc(&m->allocator, stem + 5);
    aq_status status;
    if (path == NULL) return aqi_fail_nomem(err, stem + 5);
    memcpy(path, f->path, stem);
    memcpy(path + stem, ".bin", 5);
    status = aqi_source_open(&o->file, path, m->io, err);
    if (status != AQ_OK)
        aqi_error_locate(err, "data is empty, so it was looked for in %s", path);
    aqi_free(&m->allocator, path, stem + 5);
    if (status != AQ_OK) return status;
    if ((uint64_t)o->file.bytes != t->data_bytes)
        return aqi_fail(err, AQ_E_FORMAT, "its .bin file has %lld bytes, the tensor %zu",
                        (long long)o->file.bytes, t->data_bytes);
    return aqi_tensor_from_source(o, &o->file, 0, t, err);
}

static aq_status aqi_tensor_from_parquet(const aq_model *m, const aqi_model_entry *e,
                                         aqi_tensor_owned *o, aq_tensor *t,
                                         aq_error *err) {
    const aq_bytes *data;
    aq_status status = aqi_chunk_acquire(m, e, &o->chunk, err);
    if (status != AQ_OK) return status;
    data = aqi_cells_bytes(&o->chunk->data, e->row);
    if ((data == NULL || data->size == 0) && t->data_bytes > 0 && t->layout.bits == 0)
        return aqi_tensor_from_sibling(m, &m->files[e->file], o, t, err);
    if ((data == NULL ? 0 : data->size) != t->data_bytes)
        return aqi_fail(err, AQ_E_FORMAT,
                        "data has %zu bytes; its shape and type need %zu",
                        data == NULL ? (size_t)0 : data->size, t->data_bytes);
    t->data = data == NULL ? NULL : data->data;
    t->mapped = o->chunk->data.span.mapped || t->data_bytes == 0;
    if (t->layout.bits == 0) return AQ_OK;
    if (t->layout.params != AQ_PARAMS_F32)
        return aqi_tensor_params(o->chunk, e->row, t, err);
    status = aqi_tensor_floats(o, &o->chunk->scales, e->row, 0, t, err);
    if (status == AQ_OK)
        status = aqi_tensor_floats(o, &o->chunk->zero_points, e->row, 1, t, err);
    return status;
}

/* The data of an entry that is no chunked tensor. */
static aq_status aqi_entry_tensor(const aq_model *m, const aqi_model_entry *e,
                                  aq_tensor *out, aq_error *err) {
    aqi_tensor_owned *o = (aqi_tensor_owned *)aqi_alloc(&m->allocator, sizeof *o);
    aq_tensor t = e->tensor;
    aq_status status;
    aqi_tensor_reset(out);
    if (o == NULL) return aqi_fail_nomem(err, sizeof *o);
    memset(o, 0, sizeof *o);
    o->allocator = m->allocator;
    o->cache = m->cache;
    aqi_source_init(&o->file);
    t.owned = o;
    if (m->files[e->file].parquet == NULL) {
        status = aqi_tensor_from_source(o, &m->files[e->file].source, e->offset, &t, err);
    } else {
        status = aqi_tensor_from_parquet(m, e, o, &t, err);
    }
    if (status != AQ_OK) {
        aq_tensor_release(&t);
        return aqi_error_in_tensor(err, status, e->tensor.name);
    }
    *out = t;
    return AQ_OK;
}

/* Checksums of the pages that a tensor's parts are mapped from. What is decoded was
 * verified then. */
static aq_status aqi_tensor_verify(const aq_model *m, const aq_tensor *t,
                                   aq_error *err) {
    const aqi_tensor_owned *o = (const aqi_tensor_owned *)t->owned;
    const aqi_cells *cells[4];
    size_t i;
    aq_status status = AQ_OK;
    if (o == NULL || o->chunk == NULL || m->skip_checksums) return AQ_OK;
    cells[0] = &o->chunk->data;
    cells[1] = &o->chunk->scales;
    cells[2] = &o->chunk->zero_points;
    cells[3] = &o->chunk->group_params;
    for (i = 0; i < AQI_COUNT(cells) && status == AQ_OK; i++) {
        if (cells[i]->column != NULL && cells[i]->span.mapped)
            status = aq_column_verify(cells[i]->column, err);
    }
    return aqi_error_in_tensor(err, status, t->name);
}

/* Memory for all parts of a tensor in *o, and their places in *t. */
static aq_status aqi_tensor_alloc(aqi_tensor_owned *o, aq_tensor *t, aq_error *err) {
    const aq_layout *l = &t->layout;
    const bool floats = l->bits != 0 && l->params == AQ_PARAMS_F32;
    o->copy_bytes = t->data_bytes;
    o->copy =
        (uint8_t *)o->allocator.alloc(o->allocator.user, o->copy_bytes, AQ_ALIGNMENT);
    if (o->copy == NULL) return aqi_fail_nomem(err, o->copy_bytes);
    t->data = o->copy;
    if (l->bits == 0) return AQ_OK;
    if (!floats) {
        o->params_bytes = l->params_bytes;
        o->params = (uint8_t *)aqi_alloc(&o->allocator, o->params_bytes);
        t->params = o->params;
        return o->params == NULL ? aqi_fail_nomem(err, o->params_bytes) : AQ_OK;
    }
    o->aligned_bytes = l->num_groups * sizeof(float);
    o->aligned[0] = (float *)aqi_alloc(&o->allocator, o->aligned_bytes);
    o->aligned[1] = (float *)aqi_alloc(&o->allocator, o->aligned_bytes);
    t->scales = o->aligned[0];
    t->zero_points = o->aligned[1];
    return o->aligned[0] == NULL || o->aligned[1] == NULL
               ? aqi_fail_nomem(err, o->aligned_bytes)
               : AQ_OK;
}

/* A copy of all chunks of a tensor. */
static aq_status aqi_tensor_from_chunks(const aq_model *m, const aqi_model_entry *e,
                                        aq_tensor *out, aq_error *err) {
    aqi_tensor_owned *o = (aqi_tensor_owned *)aqi_alloc(&m->allocator, sizeof *o);
    aqi_part whole[AQI_PARTS], parts[AQI_PARTS];
    size_t unit = 0;
    aq_tensor t = e->tensor, c;
    uint32_t i;
    int k;
    aq_status status = AQ_OK;
    if (o == NULL) return aqi_fail_nomem(err, sizeof *o);
    memset(o, 0, sizeof *o);
    o->allocator = m->allocator;
    aqi_source_init(&o->file);
    t.owned = o;
    for (i = 0; i < e->num_chunks && status == AQ_OK; i++) { /* before memory is taken */
        status = aqi_entry_tensor(m, &e->chunks[i], &c, err);
        if (status != AQ_OK) break;
        status = aqi_tensor_verify(m, &c, err);
        aq_tensor_release(&c);
    }
    if (status == AQ_OK) status = aqi_tensor_alloc(o, &t, err);
    if (status == AQ_OK) aqi_parts_of(&t, whole);
    for (i = 0; i < e->num_chunks && status == AQ_OK; i++) {
        status = aqi_entry_tensor(m, &e->chunks[i], &c, err);
        if (status != AQ_OK) break;
        aqi_parts_of(&c, parts);
        for (k = 0; k < AQI_PARTS; k++) {
            uint8_t *to;
            memcpy(&to, &whole[k].values, sizeof to); /* memory of ours: not const */
            if (parts[k].bytes > 0)
                memcpy(to + unit * whole[k].stride, parts[k].values, parts[k].bytes);
        }
        unit += t.layout.bits != 0 ? c.layout.rows
                                   : c.data_bytes / aq_dtype_bytes(t.dtype);
        aq_tensor_release(&c);
    }
    if (status != AQ_OK) {
        aq_tensor_release(&t);
        return aqi_error_in_tensor(err, status, e->tensor.name);
    }
    *out = t;
    return AQ_OK;
}

aq_status aq_model_tensor(const aq_model *model, size_t index, aq_tensor *out_tensor,
                          aq_error *err) {
    const aqi_model_entry *e;
    aq_status status = aq_model_describe(model, index, out_tensor, err);
    aqi_tensor_reset(out_tensor);
    if (status != AQ_OK) return status;
    e = &model->entries[index];
    return e->chunks == NULL ? aqi_entry_tensor(model, e, out_tensor, err)
                             : aqi_tensor_from_chunks(model, e, out_tensor, err);
}

aq_status aq_model_find(const aq_model *model, const char *name, aq_tensor *out_tensor,
                        aq_error *err) {
    size_t i = aqi_model_lower_bound(model, name), near = i, k, best = 0;
    if (i < model->num_entries && strcmp(model->entries[i].tensor.name, name) == 0)
        return aq_model_tensor(model, i, out_tensor, err);
    aqi_error_clear(err);
    aqi_tensor_reset(out_tensor);
    if (model->num_entries == 0)
        return aqi_fail(err, AQ_E_NOT_FOUND, "no tensor \"%.80s\": the model is empty",
                        name);
    /* One of the two neighbours in order shares the longest beginning. */
    for (k = i > 0 ? i - 1 : i; k <= i && k < model->num_entries; k++) {
        const char *other = model->entries[k].tensor.name;
        size_t n = 0;
        while (name[n] != '\0' && name[n] == other[n]) n++;
        if (n >= best || near >= model->num_entries) near = k;
        best = AQI_MAX(best, n);
    }
    if (best == 0) return aqi_fail(err, AQ_E_NOT_FOUND, "no tensor \"%.80s\"", name);
    return aqi_fail(err, AQ_E_NOT_FOUND,
                    "no tensor \"%.80s\"; the nearest name is \"%.80s\"", name,
                    model->entries[near].tensor.name);
}

#ifndef AQ_NO_WRITER

/*==========================================================================
 * MARK: - [85] Models: writing (private)
 * Parquet: a row group per tensor, a page per column. Safetensors: a header, then data.
 *========================================================================*/

/* Columns of the model file, in order: X(name, repetition, type, logical, bits) of
 * leaves, and the three lists. Source: docs/FORMAT.md. */
#define AQI_LIST_FIELDS(name, type, logical, bits, align)                                \
    {name, AQ_REQUIRED, AQ_GROUP, 1, 0, AQ_LOGICAL_LIST, 0, false, false, false,         \
     AQ_UNCOMPRESSED, AQ_PLAIN, 0, 0, 0, false, 0, NULL, 0},                             \
        {"list", AQ_REPEATED, AQ_GROUP, 1, 0, AQ_LOGICAL_NONE, 0, false, false, false,   \
         AQ_UNCOMPRESSED, AQ_PLAIN, 0, 0, 0, false, 0, NULL, 0},                         \
        {"element", AQ_REQUIRED, type, 0, 0, logical, bits, false, align, false,         \
         AQ_UNCOMPRESSED, AQ_PLAIN, 0, 0, 0, false, 0, NULL, 0}
#define AQI_LEAF_FIELD(name, repetition, type, logical, bits, align, stats)              \
    {name, repetition, type, 0, 0, logical, bits, false, align, stats, AQ_UNCOMPRESSED,  \
     AQ_PLAIN, 0, 0, 0, false, 0, NULL, 0}

static const aq_field_spec aqi_model_fields[] = {
    AQI_LEAF_FIELD("layer_name", AQ_REQUIRED, AQ_BYTE_ARRAY, AQ_LOGICAL_STRING, 0, false,
                   true),
    AQI_LIST_FIELDS("shape", AQ_INT64, AQ_LOGICAL_INTEGER, 64, false),
    AQI_LEAF_FIELD("dtype", AQ_REQUIRED, AQ_BYTE_ARRAY, AQ_LOGICAL_STRING, 0, false,
                   false),
    AQI_LEAF_FIELD("data", AQ_REQUIRED, AQ_BYTE_ARRAY, AQ_LOGICAL_NONE, 0, true, false),
    AQI_LEAF_FIELD("num_params", AQ_REQUIRED, AQ_INT64, AQ_LOGICAL_INTEGER, 64, false,
                   false),
    AQI_LEAF_FIELD("quant_type", AQ_REQUIRED, AQ_BYTE_ARRAY, AQ_LOGICAL_STRING, 0, false,
                   false),
    AQI_LIST_FIELDS("scales", AQ_FLOAT, AQ_LOGICAL_NONE, 0, true),
    AQI_LIST_FIELDS("zero_points", AQ_FLOAT, AQ_LOGICAL_NONE, 0, true),
    AQI_LEAF_FIELD("quant_axis", AQ_OPTIONAL, AQ_INT64, AQ_LOGICAL_INTEGER, 64, false,
                   false),
    AQI_LEAF_FIELD("group_size", AQ_OPTIONAL, AQ_INT64, AQ_LOGICAL_INTEGER, 64, false,
                   false),
    AQI_LEAF_FIELD("bit_width", AQ_REQUIRED, AQ_INT32, AQ_LOGICAL_INTEGER, 8, false,
                   false),
    AQI_LEAF_FIELD("packing", AQ_OPTIONAL, AQ_BYTE_ARRAY, AQ_LOGICAL_STRING, 0, false,
                   false),
    AQI_LEAF_FIELD("cosine", AQ_OPTIONAL, AQ_DOUBLE, AQ_LOGICAL_NONE, 0, false, false),
    AQI_LEAF_FIELD("sqnr_db", AQ_OPTIONAL, AQ_DOUBLE, AQ_LOGICAL_NONE, 0, false, false),
    AQI_LEAF_FIELD("max_abs_error", AQ_OPTIONAL, AQ_DOUBLE, AQ_LOGICAL_NONE, 0, false,
                   false),
    AQI_LEAF_FIELD("chunk_index", AQ_REQUIRED, AQ_INT32, AQ_LOGICAL_NONE, 0, false,
                   false),
    AQI_LEAF_FIELD("chunk_count", AQ_REQUIRED, AQ_INT32, AQ_LOGICAL_NONE, 0, false,
                   false),
    AQI_LEAF_FIELD("group_params", AQ_OPTIONAL, AQ_BYTE_ARRAY, AQ_LOGICAL_NONE, 0, true,
                   false),
    AQI_LEAF_FIELD("params_type", AQ_OPTIONAL, AQ_BYTE_ARRAY, AQ_LOGICAL_STRING, 0, false,
                   false),
    AQI_LEAF_FIELD("codebook", AQ_OPTIONAL, AQ_BYTE_ARRAY, AQ_LOGICAL_NONE, 0, false,
                   false),
};
/* Of them at the end; only in files with a tensor that needs them. */
#define AQI_SMALL_FIELDS 3u

/* A row of a model file: a tensor, or a chunk of one. Where its values go is known before
 * they are: they may be written in any order, by any thread. */
typedef struct aqi_out_row {
    aq_tensor
        t; /* name, shape, type, metrics of the tensor; layout and data_bytes of this
                    row; no pointers */
    uint32_t chunk, num_chunks;
    aq_writer *file;         /* Parquet                                                 */
    aqi_output *out;         /* where the values go                                     */
    int64_t start, end;      /* of the row group, with room for the longest headers     */
    int64_t at[AQI_PARTS];   /* file offsets                                            */
    uint32_t crc[AQI_PARTS]; /* of the values                                           */
} aqi_out_row;

struct aq_model_writer {
    aq_allocator allocator;
    aq_model_format format;
    bool small_params, no_sync;
    size_t chunk_bytes;
    const aq_tensor *tensors; /* the caller's descriptions */
    size_t num_tensors, next;
    aq_status failed;
    aq_writer *parquet;  /* one file: it; a directory: the last that was opened */
    aq_writer *counter;  /* finds the places of a row's values               */
    aq_writer **files;   /* a directory: those not finished                  */
    size_t num_files, files_room;
    int64_t planned;     /* file offset where the next row begins            */
    size_t planned_next; /* tensor of the next row                           */
    aqi_output out;      /* safetensors */
    int64_t *offsets;    /* safetensors: of each tensor's data */
    char *directory, *temp_directory; /* the latter NULL before it exists    */
    size_t directory_bytes, temp_bytes;
    uint64_t directory_file_bytes; /* of the finished files */
    const aq_key_value *metadata; /* a directory: of each file; in the arena  */
    size_t num_metadata;
    aqi_arena arena;
};

/* Removes a directory of ours: files only. */
static void aqi_directory_remove(const aq_allocator *a, const char *path) {
    DIR *dir = opendir(path);
    const struct dirent *d;
    if (dir == NULL) return;
    while ((d = readdir(dir)) != NULL) {
        size_t n = strlen(path) + strlen(d->d_name) + 2;
        char *file = (char *)aqi_alloc(a, n);
        if (file == NULL) break;
        snprintf(file, n, "%s/%s", path, d->d_name);
        if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0) unlink(file);
        aqi_free(a, file, n);
    }
    closedir(dir);
    rmdir(path);
}

static void aqi_model_writer_free(aq_model_writer *w) {
    aq_allocator a = w->allocator;
    size_t i;
    if (w->format != AQ_MODEL_DIRECTORY) aq_writer_abort(w->parquet);
    aq_writer_abort(w->counter);
    for (i = 0; i < w->num_files; i++) aq_writer_abort(w->files[i]);
    aqi_output_abort(&w->out);
    if (w->temp_directory != NULL) aqi_directory_remove(&a, w->temp_directory);
    aqi_free(&a, w->files, w->files_room * sizeof(aq_writer *));
    aqi_free(&a, w->temp_directory, w->temp_bytes);
    aqi_free(&a, w->directory, w->directory_bytes);
    aqi_free(&a, w->offsets, w->num_tensors * sizeof *w->offsets);
    aqi_arena_deinit(&w->arena);
    aqi_free(&a, w, sizeof *w);
}

/* ---- safetensors ---- */

static const char *aqi_safetensors_dtype(aq_dtype dtype) {
    switch (dtype) {
#define AQ_X(enumerator, value, name, bytes, safetensors)                                \
    case enumerator:                                                                     \
        return safetensors;
        AQ_DTYPE_LIST(AQ_X)
#undef AQ_X
    case AQ_DTYPE_NONE:
        break;
    }
    return "";
}

/* Data in order of element size, largest first, so that every tensor is aligned to its
 * type; within a size in the order given. */
static int64_t aqi_safetensors_offsets(aq_model_writer *w) {
    int64_t at = 0;
    size_t size, i;
    for (size = 8; size > 0; size /= 2) {
        for (i = 0; i < w->num_tensors; i++) {
            if (aq_dtype_bytes(w->tensors[i].dtype) != size) continue;
            w->offsets[i] = at;
            at += (int64_t)(w->tensors[i].num_params * size);
        }
    }
    return at;
}

static bool aqi_safetensors_put_entry(const aq_allocator *a, aqi_bytes_builder *b,
                                      const aq_tensor *t, int64_t offset) {
    char text[64];
    uint32_t i;
    bool ok = aqi_put_json_string(a, b, t->name) &&
              aqi_put_text(a, b, ":{\"dtype\":\"") &&
              aqi_put_text(a, b, aqi_safetensors_dtype(t->dtype)) &&
              aqi_put_text(a, b, "\",\"shape\":[");
    for (i = 0; i < t->num_dims && ok; i++) {
        snprintf(text, sizeof text, "%s%llu", i > 0 ? "," : "",
                 (unsigned long long)t->shape[i]);
        ok = aqi_put_text(a, b, text);
    }
    snprintf(text, sizeof text, "],\"data_offsets\":[%lld,%lld]}", (long long)offset,
             (long long)(offset + (int64_t)t->data_bytes));
    return ok && aqi_put_text(a, b, text);
}

/* {"__metadata__":{...},"name":{...},...}, padded with spaces to a multiple of 64
 * bytes. */
static aq_status aqi_safetensors_begin(aq_model_writer *w,
                                       const aq_model_writer_options *o, aq_error *err) {
    const aq_allocator *a = &w->allocator;
    aqi_bytes_builder b = {NULL, 0, 0};
    uint8_t length[8];
    size_t i;
    bool ok = aqi_put_text(a, &b, "{"), first = true;
    aq_status status = AQ_OK;
    for (i = 0; i < o->num_metadata && ok; i++) {
        const char *value = o->metadata[i].value == NULL ? "" : o->metadata[i].value;
        ok = aqi_put_text(a, &b, first ? "\"__metadata__\":{" : ",") &&
             aqi_put_json_string(a, &b, o->metadata[i].key) && aqi_put_text(a, &b, ":") &&
             aqi_put_json_string(a, &b, value);
        first = false;
    }
    if (!first) ok = ok && aqi_put_text(a, &b, "}");
    aqi_safetensors_offsets(w);
    for (i = 0; i < w->num_tensors && ok; i++) {
        ok = (b.size == 1 || aqi_put_text(a, &b, ",")) &&
             aqi_safetensors_put_entry(a, &b, &w->tensors[i], w->offsets[i]);
    }
    ok = ok && aqi_put_text(a, &b, "}");
    while (ok && (8 + b.size) % 64 != 0) ok = aqi_put_text(a, &b, " ");
    aqi_store_le64(length, b.size);
    if (!ok) {
        status = aqi_fail_nomem(err, b.size);
    } else if (b.size > AQI_SAFETENSORS_HEADER_LIMIT) {
        status = aqi_fail(err, AQ_E_LIMIT,
                          "safetensors header of %zu bytes; at most 100,000,000", b.size);
    } else {
        status = aqi_output_write(&w->out, length, 8, err);
        if (status == AQ_OK) status = aqi_output_write(&w->out, b.data, b.size, err);
        if (status == AQ_OK) status = aqi_output_flush(&w->out, err);
    }
    aqi_builder_free(a, &b);
    return status;
}

/* ---- Parquet rows ---- */

/* A list, the only one of its chunk. */
static aq_column_values aqi_one_list(const void *values, int64_t n, int64_t offsets[2]) {
    aq_column_values v;
    memset(&v, 0, sizeof v);
    offsets[0] = 0;
    offsets[1] = n;
    v.values = values;
    v.num_values = n;
    v.large_list_offsets = offsets;
    v.num_lists = 1;
    return v;
}

static aq_status aqi_put_list(aq_writer *f, const void *values, size_t n, aq_error *err) {
    int64_t offsets[2];
    aq_column_values v = aqi_one_list(values, (int64_t)n, offsets);
    return aq_writer_put_column(f, &v, err);
}

/* n floats that are, or will be, at the place of a part; none for n = 0. */
static aq_status aqi_put_placed_floats(aq_writer *f, size_t n, aqi_out_row *row, int part,
                                       aq_error *err) {
    int64_t offsets[2];
    aqi_placed p;
    aq_column_values v;
    aq_status status;
    if (n == 0) return aqi_put_list(f, NULL, 0, err);
    p.at = row->at[part];
    p.crc = row->crc[part];
    p.bytes = n * sizeof(float);
    v = aqi_one_list(&p, (int64_t)n, offsets); /* no value is looked at */
    status = aqi_writer_put_placed(f, &v, &p, err);
    row->at[part] = p.at;
    return status;
}

/* One value; NULL = null, for an optional column. */
static aq_column_values aqi_one_cell(const void *value, bool optional, uint8_t *def) {
    aq_column_values v;
    memset(&v, 0, sizeof v);
    *def = value != NULL;
    v.values = value;
    v.num_values = value != NULL;
    if (optional) v.def_levels = def;
    if (optional) v.num_levels = 1;
    return v;
}

static aq_status aqi_put_cell(aq_writer *f, const void *value, bool optional,
                              aq_error *err) {
    uint8_t def;
    aq_column_values v = aqi_one_cell(value, optional, &def);
    return aq_writer_put_column(f, &v, err);
}

static aq_status aqi_put_bytes(aq_writer *f, const void *data, size_t bytes,
                               bool optional, aq_error *err) {
    aq_bytes b;
    b.data = (const uint8_t *)data;
    b.size = bytes;
    return aqi_put_cell(f, &b, optional, err);
}

static aq_status aqi_put_text_cell(aq_writer *f, const char *text, aq_error *err) {
    return aqi_put_bytes(f, text, strlen(text), false, err);
}

/* Bytes that are, or will be, at p->at. */
static aq_status aqi_put_placed_bytes(aq_writer *f, bool optional, aqi_placed *p,
                                      aq_error *err) {
    uint8_t def;
    aq_bytes b;
    aq_column_values v;
    if (p->bytes == 0) return aqi_put_bytes(f, NULL, 0, optional, err);
    b.data = NULL;
    b.size = p->bytes;
    v = aqi_one_cell(&b, optional, &def);
    return aqi_writer_put_placed(f, &v, p, err);
}

static aq_status aqi_put_data(aq_writer *f, aqi_out_row *row, aq_error *err) {
    aqi_placed p;
    aq_status status;
    p.at = row->at[AQI_PART_DATA];
    p.crc = row->crc[AQI_PART_DATA];
    p.bytes = row->t.data_bytes;
    status = aqi_put_placed_bytes(f, false, &p, err);
    row->at[AQI_PART_DATA] = p.at;
    return status;
}

/* Small parameters: three parts that follow each other. */
static aq_status aqi_put_placed_params(aq_writer *f, aqi_out_row *row, aq_error *err) {
    aqi_part parts[AQI_PARTS];
    aqi_placed p;
    int64_t at;
    int k;
    aq_status status;
    aqi_parts_of(&row->t, parts);
    p.at = row->at[AQI_PART_FACTORS];
    p.crc = 0;
    p.bytes = row->t.layout.params_bytes;
    for (k = AQI_PART_FACTORS; k < AQI_PARTS; k++)
        p.crc = aqi_crc32_join(p.crc, row->crc[k], parts[k].bytes);
    status = aqi_put_placed_bytes(f, true, &p, err);
    for (k = AQI_PART_FACTORS, at = p.at; k < AQI_PARTS; k++) {
        row->at[k] = at;
        at += (int64_t)parts[k].bytes;
    }
    return status;
}

/* A metric; NaN = not recorded = null. It may become known after the places are. */
static aq_status aqi_put_metric(aq_writer *f, double value, aq_error *err) {
    bool none = value != value && !f->out.counting;
    return aqi_put_cell(f, none ? NULL : &value, true, err);
}

/* The columns of AQI_SMALL_FIELDS. */
static aq_status aqi_put_params(aq_writer *f, aqi_out_row *row, aq_error *err) {
    const aq_layout *l = &row->t.layout;
    const char *type = l->params == AQ_PARAMS_F16 ? "float16" : "uint8";
    const bool small = l->bits != 0 && l->params != AQ_PARAMS_F32;
    aq_status s = small ? aqi_put_placed_params(f, row, err)
                        : aqi_put_cell(f, NULL, true, err);
    if (s == AQ_OK)
        s = small ? aqi_put_bytes(f, type, strlen(type), true, err)
                  : aqi_put_cell(f, NULL, true, err);
    if (s == AQ_OK)
        s = small && l->codebook
                ? aqi_put_bytes(f, aq_codebook(l->bits), (size_t)1 << l->bits, true, err)
                : aqi_put_cell(f, NULL, true, err);
    return s;
}

static aq_status aqi_put_row(aq_model_writer *w, aq_writer *f, aqi_out_row *row,
                             aq_error *err) {
    const aq_tensor *t = &row->t;
    const aq_layout *l = &t->layout;
    size_t scales = l->bits == 0 || l->params != AQ_PARAMS_F32 ? 0 : l->num_groups;
    bool groups = l->bits != 0 && l->granularity == AQ_PER_GROUP;
    bool channels = l->bits != 0 && l->granularity == AQ_PER_CHANNEL;
    bool packed = l->bits != 0 && l->code_bits == l->bits;
    uint64_t group_size = (uint64_t)l->group_cols, axis = 0;
    uint64_t params = l->bits != 0 ? (uint64_t)l->rows * l->cols
                                   : t->data_bytes / aq_dtype_bytes(t->dtype);
    int32_t bits = (int32_t)l->bits, chunk = (int32_t)row->chunk,
            num_chunks = (int32_t)row->num_chunks;
    char type[12] = "none";
    aq_status s;
    if (l->bits != 0)
        snprintf(type, sizeof type, "%s%u", l->codebook ? "codebook" : "int",
                 (unsigned)(l->bits % 10));
    if (l->bits != 0 && (!packed || (groups && l->group_rows != 1)))
        return aqi_fail(
            err, AQ_E_UNSUPPORTED,
            "codes in another program's layout cannot be written as they are; "
            "dequantize them");
    s = aqi_put_text_cell(f, t->name, err);
    if (s == AQ_OK) s = aqi_put_list(f, t->shape, t->num_dims, err);
    if (s == AQ_OK) s = aqi_put_text_cell(f, aq_dtype_name(t->dtype), err);
    if (s == AQ_OK) s = aqi_put_data(f, row, err);
    if (s == AQ_OK) s = aqi_put_cell(f, &params, false, err);
    if (s == AQ_OK) s = aqi_put_text_cell(f, type, err);
    if (s == AQ_OK) s = aqi_put_placed_floats(f, scales, row, AQI_PART_SCALES, err);
    if (s == AQ_OK)
        s = aqi_put_placed_floats(f, scales, row, AQI_PART_ZERO_POINTS, err);
    if (s == AQ_OK) s = aqi_put_cell(f, channels ? &axis : NULL, true, err);
    if (s == AQ_OK) s = aqi_put_cell(f, groups ? &group_size : NULL, true, err);
    if (s == AQ_OK) s = aqi_put_cell(f, &bits, false, err);
    if (s == AQ_OK)
        s = packed ? aqi_put_bytes(f, "lsb", 3, true, err)
                   : aqi_put_cell(f, NULL, true, err);
    if (s == AQ_OK) s = aqi_put_metric(f, t->cosine, err);
    if (s == AQ_OK) s = aqi_put_metric(f, t->sqnr_db, err);
    if (s == AQ_OK) s = aqi_put_metric(f, t->max_abs_error, err);
    if (s == AQ_OK) s = aqi_put_cell(f, &chunk, false, err);
    if (s == AQ_OK) s = aqi_put_cell(f, &num_chunks, false, err);
    if (s == AQ_OK && w->small_params) s = aqi_put_params(f, row, err);
    if (s == AQ_OK) s = aq_writer_end_row_group(f, 1, err);
    return s;
}

/* ---- rows of a tensor, and their places ---- */

#define AQI_PAGE_MOST ((size_t)INT32_MAX - 4096) /* values of a page */
#define AQI_CHUNK_BYTES ((size_t)1 << 30)        /* where more has to be cut */

/* How a tensor is cut into rows of the model file: `units` are rows of its matrix, or of
 * a tensor that is not quantized elements. */
typedef struct aqi_cut {
    size_t units, per_chunk;
    uint32_t num_chunks;
} aqi_cut;

static aq_status aqi_cut_make(const aq_model_writer *w, const aq_tensor *t, aqi_cut *out,
                              aq_error *err) {
    const aq_layout *l = &t->layout;
    size_t unit = aq_dtype_bytes(t->dtype), limit = AQI_PAGE_MOST, chunks;
    out->units = (size_t)t->num_params;
    if (l->bits != 0) {
        size_t floats = l->group_rows > 1 ? 0 : l->groups_per_row * sizeof(float);
        unit = AQI_MAX(l->row_bytes, l->params == AQ_PARAMS_F32
                                         ? floats
                                         : l->params_bytes / AQI_MAX(l->rows, (size_t)1));
        out->units = l->rows;
    }
    if (w->chunk_bytes > 0) limit = AQI_MIN(w->chunk_bytes, limit);
    out->per_chunk = AQI_MAX(out->units, (size_t)1);
    out->num_chunks = 1;
    if (w->format == AQ_MODEL_SAFETENSORS || unit == 0 || out->units <= limit / unit)
        return AQ_OK;
    if (unit > AQI_PAGE_MOST)
        return aqi_fail(err, AQ_E_LIMIT,
                        "a row of %zu bytes of codes or scales; the format allows 2 GiB "
                        "a page; keep this tensor as it is",
                        unit);
    out->per_chunk = AQI_MAX(AQI_MIN(limit, AQI_CHUNK_BYTES) / unit, (size_t)1);
    if (l->bits == 0 && l->cols > 0 && out->per_chunk >= l->cols)
        out->per_chunk -= out->per_chunk % l->cols;
    chunks = out->units / out->per_chunk + (out->units % out->per_chunk != 0);
    if (chunks > INT32_MAX)
        return aqi_fail(err, AQ_E_LIMIT, "a tensor of %zu chunks", chunks);
    out->num_chunks = (uint32_t)chunks;
    return AQ_OK;
}

/* Units [first, first + count) of a tensor as a row's description. */
static aq_status aqi_cut_row(const aq_tensor *t, size_t first, size_t count,
                             aqi_out_row *row, aq_error *err) {
    aq_layout *l = &row->t.layout;
    row->t = *t;
    row->t.data = row->t.params = NULL;
    row->t.scales = row->t.zero_points = NULL;
    row->t.owned = NULL;
    if (count == (l->bits == 0 ? (size_t)t->num_params : l->rows) && first == 0)
        return AQ_OK;
    if (l->bits == 0) {
        row->t.data_bytes = count * aq_dtype_bytes(t->dtype);
        return AQ_OK;
    }
    if (l->group_rows > 1) l->group_rows = count; /* one group: a copy in each chunk */
    l->rows = count;
    row->t.data_bytes = count * l->row_bytes;
    return aqi_layout_complete(l, err);
}

/* Percent-escapes a name for a file; a long one ends in its hash, after a '~', which is
 * escaped elsewhere. `out` has AQI_FILE_NAME bytes. */
#define AQI_FILE_NAME 256
static void aqi_file_name(const char *name, char *out) {
    static const char digits[] = "0123456789abcdef";
    const size_t most = 200;
    uint64_t hash = 0xcbf29ce484222325u;
    size_t n = 0, i;
    for (i = 0; name[i] != '\0'; i++) {
        uint8_t c = (uint8_t)name[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                     (c >= '0' && c <= '9') || c == '_' || c == '-' ||
                     (c == '.' && i > 0);
        hash = (hash ^ c) * 0x100000001b3u;
        if (n + 3 > most) {
            n = most + 1;
            continue;
        }
        if (!plain) {
            out[n++] = '%';
            out[n++] = digits[c >> 4];
            c = (uint8_t)digits[c & 15];
        }
        out[n++] = (char)c;
    }
    if (n > most) {
        n = most - 20;
        if (out[n - 1] == '%') n--; /* no half of an escape */
        if (out[n - 2] == '%') n -= 2;
        n += (size_t)snprintf(out + n, 18, "~%016llx", (unsigned long long)hash);
    }
    memcpy(out + n, ".parquet", 9);
}

static aq_status aqi_model_file_open(aq_model_writer *w, const char *path,
                                     const aqi_output_options *output, aq_writer **out,
                                     aq_error *err) {
    aq_writer_options wo;
    size_t num_fields = AQI_COUNT(aqi_model_fields), i;
    aq_status status;
    if (!w->small_params) num_fields -= AQI_SMALL_FIELDS;
    memset(&wo, 0, sizeof wo);
    wo.allocator = &w->allocator;
    wo.no_sync = output->no_sync;
    status = aqi_writer_open(path, output, aqi_model_fields, num_fields, &wo, out, err);
    if (status == AQ_OK && !output->counting)
        status = aq_writer_add_key_value(*out, "arrowquant.format", "1", err);
    for (i = 0; i < w->num_metadata && !output->counting && status == AQ_OK; i++)
        status = aq_writer_add_key_value(*out, w->metadata[i].key, w->metadata[i].value,
                                         err);
    if (status != AQ_OK) {
        aq_writer_abort(*out);
        *out = NULL;
    }
    return status;
}

/* The file of the next tensor of a directory. */
static aq_status aqi_directory_next_file(aq_model_writer *w, const char *name,
                                         aq_error *err) {
    char file[AQI_FILE_NAME];
    size_t n = strlen(w->temp_directory);
    aqi_output_options output;
    struct stat st;
    char *path;
    aq_status status = AQ_OK;
    if (w->num_files == w->files_room) {
        size_t room = AQI_MAX(w->files_room * 2, (size_t)8);
        aq_writer **files =
            (aq_writer **)aqi_alloc(&w->allocator, room * sizeof(aq_writer *));
        if (files == NULL) return aqi_fail_nomem(err, room * sizeof(aq_writer *));
        if (w->num_files > 0)
            memcpy(files, w->files, w->num_files * sizeof(aq_writer *));
        aqi_free(&w->allocator, w->files, w->files_room * sizeof(aq_writer *));
        w->files = files;
        w->files_room = room;
    }
    aqi_file_name(name, file);
    path = (char *)aqi_alloc(&w->allocator, n + sizeof file + 1);
    if (path == NULL) return aqi_fail_nomem(err, n + sizeof file + 1);
    memcpy(path, w->temp_directory, n);
    path[n] = '/';
    strcpy(path + n + 1, file);
    memset(&output, 0, sizeof output);
    output.no_sync = w->no_sync;
    if (stat(path, &st) == 0)
        status =
            aqi_fail(err, AQ_E_DUPLICATE, "two names give the file name \"%s\"", file);
    if (status == AQ_OK) status = aqi_model_file_open(w, path, &output, &w->parquet, err);
    aqi_free(&w->allocator, path, n + sizeof file + 1);
    if (status != AQ_OK) return status;
    w->files[w->num_files++] = w->parquet;
    w->planned = w->parquet->out.offset;
    return AQ_OK;
}

/* Finds the places of a row's values, after those of the row before. */
static aq_status aqi_model_writer_place(aq_model_writer *w, aqi_out_row *row,
                                        aq_error *err) {
    aq_writer *c = w->counter;
    aq_status status = AQ_OK;
    if (w->format == AQ_MODEL_SAFETENSORS) {
        row->out = &w->out;
        row->start = w->out.offset + w->offsets[w->planned_next];
        row->at[AQI_PART_DATA] = row->start;
        row->end = row->start + (int64_t)row->t.data_bytes;
    } else {
        if (w->format == AQ_MODEL_DIRECTORY && row->chunk == 0)
            status = aqi_directory_next_file(w, row->t.name, err);
        if (status != AQ_OK) return status;
        row->file = w->parquet;
        row->out = &w->parquet->out;
        row->start = c->out.offset = w->planned;
        c->columns.out.size = c->row_groups.out.size = 0;
        c->num_row_groups = 0;
        c->column = 0;
        status = aqi_put_row(w, c, row, err);
        row->end = w->planned = c->out.offset;
    }
    if (row->chunk + 1 == row->num_chunks) w->planned_next++;
    return aqi_error_in_tensor(err, status, row->t.name);
}

/* Writes all of a row but its values, of which the places and checksums are known. Rows
 * come in order. */
static aq_status aqi_model_writer_commit(aq_model_writer *w, aqi_out_row *row,
                                         aq_error *err) {
    const bool last = row->chunk + 1 == row->num_chunks;
    aq_status status = AQ_OK;
    int64_t bytes = 0;
    size_t i;
    if (w->format != AQ_MODEL_SAFETENSORS) {
        status = aqi_output_seek(row->out, row->start, err);
        if (status == AQ_OK) status = aqi_put_row(w, row->file, row, err);
    }
    if (w->format == AQ_MODEL_DIRECTORY && last && status == AQ_OK) {
        for (i = 0; w->files[i] != row->file;) i++;
        w->files[i] = w->files[--w->num_files];
        status = aqi_writer_finish(row->file, &bytes, err);
        w->directory_file_bytes += (uint64_t)bytes;
    }
    if (status != AQ_OK) {
        w->failed = status;
        return aqi_error_in_tensor(err, status, row->t.name);
    }
    w->next += last;
    return AQ_OK;
}

/* Takes back what was placed and not committed, from the row group at `start` on, which
 * is of tensor `index`. */
static aq_status aqi_model_writer_rewind(aq_model_writer *w, size_t index, int64_t start,
                                         aq_error *err) {
    size_t i;
    AQ_ASSERT(w->next == index);
    w->planned_next = index;
    if (w->format == AQ_MODEL_SAFETENSORS) return AQ_OK;
    w->planned = start;
    if (w->format == AQ_MODEL_PARQUET)
        return aqi_output_rewind(&w->parquet->out, start, err);
    for (i = 0; i < w->num_files; i++) aq_writer_abort(w->files[i]);
    w->num_files = 0;
    return AQ_OK;
}

/* A part to its place in the file, and its checksum. Safe from several threads. */
static aq_status aqi_row_write(aqi_output *out, int64_t at, const aqi_part *part,
                               uint32_t *crc, aq_error *err) {
    const size_t block = (size_t)1 << 20;
    const uint8_t *src = part->values;
    size_t bytes = part->bytes;
    uint32_t state = UINT32_MAX;
    aq_status status = AQ_OK;
    while (bytes > 0 && status == AQ_OK) {
        size_t n = AQI_MIN(bytes, block);
        if (AQI_BIG_ENDIAN && part->swap > 1) {
            uint8_t room[4096];
            n = AQI_MIN(n, sizeof room);
            aqi_copy_le(room, src, n / part->swap, part->swap);
            state = aqi_crc32(state, room, n);
            status = aqi_output_pwrite(out, at, room, n, err);
        } else {
            state = aqi_crc32(state, src, n);
            status = aqi_output_pwrite(out, at, src, n, err);
        }
        src += n;
        at += (int64_t)n;
        bytes -= n;
    }
    *crc = ~state;
    return status;
}

/* ---- both ---- */

static int aqi_compare_name_pointers(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool aqi_is_text(const char *text) {
    return text != NULL && aqi_utf8_valid(text, strlen(text));
}

/* Metadata must be UTF-8: other readers refuse a file where it is not. */
static aq_status aqi_metadata_check(const aq_model_writer_options *o, aq_error *err) {
    size_t i;
    if (o->num_metadata > 0 && o->metadata == NULL)
        return aqi_fail(err, AQ_E_ARG, "metadata missing");
    for (i = 0; i < o->num_metadata; i++) {
        const char *value = o->metadata[i].value;
        if (!aqi_is_text(o->metadata[i].key) || (value != NULL && !aqi_is_text(value)))
            return aqi_fail(err, AQ_E_ARG, "metadata pair %zu has no key, or is no UTF-8",
                            i);
    }
    return AQ_OK;
}

/* Keys of a safetensors file differ, as its readers demand. */
static aq_status aqi_metadata_check_keys(const aq_allocator *a,
                                         const aq_model_writer_options *o,
                                         aq_error *err) {
    size_t i, bytes = o->num_metadata * sizeof(aq_key_value);
    aq_key_value *sorted = (aq_key_value *)aqi_alloc(a, bytes);
    aq_status status = AQ_OK;
    if (sorted == NULL) return aqi_fail_nomem(err, bytes);
    if (bytes > 0) {
        memcpy(sorted, o->metadata, bytes);
        qsort(sorted, o->num_metadata, sizeof *sorted, aqi_compare_keys);
    }
    for (i = 1; i < o->num_metadata && status == AQ_OK; i++) {
        if (strcmp(sorted[i - 1].key, sorted[i].key) == 0)
            status = aqi_fail(err, AQ_E_DUPLICATE, "metadata key \"%.80s\" comes twice",
                              sorted[i].key);
    }
    aqi_free(a, sorted, bytes);
    return status;
}

/* Names must be text and differ; quantized tensors have no place in safetensors. */
static aq_status aqi_model_writer_check(const aq_model_writer *w, aq_error *err) {
    size_t i, bytes = w->num_tensors * sizeof(char *);
    const char **names = (const char **)aqi_alloc(&w->allocator, bytes);
    aq_status status = AQ_OK;
    if (names == NULL) return aqi_fail_nomem(err, bytes);
    for (i = 0; i < w->num_tensors && status == AQ_OK; i++) {
        const aq_tensor *t = &w->tensors[i];
        names[i] = t->name;
        if (!aqi_is_text(t->name) || t->name[0] == '\0') {
            status =
                aqi_fail(err, AQ_E_ARG, "tensor %zu has no name, or not in UTF-8", i);
        } else if (w->format == AQ_MODEL_SAFETENSORS && t->layout.bits != 0) {
            status = aqi_fail(
                err, AQ_E_UNSUPPORTED,
                "safetensors cannot hold quantized tensors; dequantize, or choose "
                "a .parquet output");
            aqi_error_in_tensor(err, status, t->name);
        } else if (w->format == AQ_MODEL_SAFETENSORS &&
                   strcmp(t->name, "__metadata__") == 0) {
            status =
                aqi_fail(err, AQ_E_ARG, "safetensors reserves the name __metadata__");
        }
    }
    if (status == AQ_OK && w->num_tensors > 0)
        qsort(names, w->num_tensors, sizeof *names, aqi_compare_name_pointers);
    for (i = 1; i < w->num_tensors && status == AQ_OK; i++) {
        if (strcmp(names[i - 1], names[i]) != 0) continue;
        status = aqi_fail(err, AQ_E_DUPLICATE, "tensor name comes twice");
        aqi_error_in_tensor(err, status, names[i]);
    }
    aqi_free(&w->allocator, names, bytes);
    return status;
}

static aq_status aqi_metadata_copy(aq_model_writer *w, const aq_model_writer_options *o,
                                   aq_error *err) {
    aq_key_value *pairs;
    size_t i;
    void *p;
    aq_status status =
        aqi_arena_alloc(&w->arena, o->num_metadata * sizeof *pairs, &p, err);
    pairs = (aq_key_value *)p;
    for (i = 0; i < o->num_metadata && status == AQ_OK; i++) {
        const char *key = o->metadata[i].key, *value = o->metadata[i].value;
        char *k = NULL, *v = NULL;
        status = aqi_arena_string(&w->arena, key, strlen(key), &k, err);
        if (status == AQ_OK && value != NULL)
            status = aqi_arena_string(&w->arena, value, strlen(value), &v, err);
        pairs[i].key = k;
        pairs[i].value = v;
        pairs[i].value_bytes = value == NULL ? 0 : strlen(value);
    }
    w->metadata = pairs;
    w->num_metadata = o->num_metadata;
    return status;
}

/* A directory that appears under its name when all files are in it. */
static aq_status aqi_directory_begin(aq_model_writer *w, const char *path,
                                     aq_error *err) {
    size_t n = strlen(path);
    struct stat st;
    if (w->num_tensors == 0)
        return aqi_fail(err, AQ_E_UNSUPPORTED,
                        "a directory of no files would be no model; write one file");
    while (n > 1 && path[n - 1] == '/') n--;
    w->directory_bytes = n + 1;
    w->directory = (char *)aqi_alloc(&w->allocator, n + 1);
    if (w->directory == NULL) return aqi_fail_nomem(err, n + 1);
    memcpy(w->directory, path, n);
    w->directory[n] = '\0';
    if (stat(w->directory, &st) == 0 &&
        rmdir(w->directory) != 0) /* an empty one may be */
        return aqi_fail_os(err, errno == ENOTEMPTY ? EEXIST : errno,
                           "cannot write the directory", w->directory);
    w->temp_directory =
        aqi_hidden_path(&w->allocator, w->directory, "aq-tmp", &w->temp_bytes);
    if (w->temp_directory == NULL) return aqi_fail_nomem(err, n);
    if (mkdir(w->temp_directory, 0777) == 0) return AQ_OK;
    aqi_fail_os(err, errno,
                errno == EEXIST ? "another job is writing this output, or left this "
                                  "directory behind; remove it"
                                : "cannot create the directory",
                w->temp_directory);
    aqi_free(&w->allocator, w->temp_directory, w->temp_bytes);
    w->temp_directory = NULL; /* it is not ours */
    return AQ_E_IO;
}

static aq_status aqi_directory_finish(aq_model_writer *w, aq_error *err) {
    aq_status status = AQ_OK;
    if (rename(w->temp_directory, w->directory) != 0)
        return aqi_fail_os(err, errno, "cannot rename to", w->directory);
    aqi_free(&w->allocator, w->temp_directory, w->temp_bytes);
    w->temp_directory = NULL;
    if (!w->no_sync) status = aqi_sync_directory(w->directory, err);
    return status;
}

/* How a job opens its writer, beside what everybody may say. */
typedef struct aqi_model_writer_extra {
    bool part;         /* the temporary file is found, and kept, by its name */
    bool small_params; /* some tensor may come to have them                  */
} aqi_model_writer_extra;

static aq_status aqi_model_writer_begin(aq_model_writer *w, const char *path,
                                        const aq_model_writer_options *o,
                                        const aqi_model_writer_extra *x, aq_error *err) {
    aqi_output_options output;
    size_t i;
    aq_status status = aqi_model_writer_check(w, err);
    if (status == AQ_OK) status = aqi_metadata_check(o, err);
    if (status == AQ_OK && w->format == AQ_MODEL_SAFETENSORS)
        status = aqi_metadata_check_keys(&w->allocator, o, err);
    if (status == AQ_OK) status = aqi_metadata_copy(w, o, err);
    if (status != AQ_OK) return status;
    memset(&output, 0, sizeof output);
    output.input_path = o->input_path;
    output.no_sync = o->no_sync;
    output.part = x->part;
    if (w->format == AQ_MODEL_SAFETENSORS) {
        status = aqi_output_open(&w->out, path, &output, &w->allocator, err);
        return status == AQ_OK ? aqi_safetensors_begin(w, o, err) : status;
    }
    w->small_params = x->small_params;
    for (i = 0; i < w->num_tensors; i++) {
        const aq_layout *l = &w->tensors[i].layout;
        if (l->bits != 0 && l->params != AQ_PARAMS_F32) w->small_params = true;
    }
    if (w->format == AQ_MODEL_DIRECTORY) {
        status = aqi_directory_begin(w, path, err);
    } else {
        status = aqi_model_file_open(w, path, &output, &w->parquet, err);
        if (status == AQ_OK) w->planned = w->parquet->out.offset;
    }
    output.counting = true;
    if (status == AQ_OK)
        status = aqi_model_file_open(w, path, &output, &w->counter, err);
    return status;
}

static aq_status aqi_model_writer_open(const char *path, const aq_tensor *tensors,
                                       size_t num_tensors,
                                       const aq_model_writer_options *o,
                                       const aqi_model_writer_extra *x,
                                       aq_model_writer **out_writer, aq_error *err) {
    aq_allocator a;
    aq_model_writer *w;
    aq_status status = aqi_allocator_resolve(o->allocator, &a, err);
    if (status != AQ_OK) return status;
    w = (aq_model_writer *)aqi_alloc(&a, sizeof *w);
    if (w == NULL) return aqi_fail_nomem(err, sizeof *w);
    memset(w, 0, sizeof *w);
    w->allocator = a;
    w->out.fd = -1;
    w->out.allocator = a;
    w->tensors = tensors;
    w->num_tensors = num_tensors;
    w->no_sync = o->no_sync;
    w->chunk_bytes = o->chunk_bytes;
    w->format = o->format;
    aqi_arena_init(&w->arena, &a);
    if (w->format == AQ_MODEL_AUTO) {
        w->format = AQ_MODEL_PARQUET;
        if (aqi_ends_with(path, ".safetensors")) w->format = AQ_MODEL_SAFETENSORS;
        if (aqi_ends_with(path, "/")) w->format = AQ_MODEL_DIRECTORY;
    }
    w->offsets = (int64_t *)aqi_alloc(&a, num_tensors * sizeof *w->offsets);
    status = w->offsets == NULL ? aqi_fail_nomem(err, num_tensors * sizeof *w->offsets)
                                : aqi_model_writer_begin(w, path, o, x, err);
    if (status != AQ_OK) {
        aqi_model_writer_free(w);
        return status;
    }
    *out_writer = w;
    return AQ_OK;
}

aq_status aq_model_writer_open(const char *path, const aq_tensor *tensors,
                               size_t num_tensors, const aq_model_writer_options *options,
                               aq_model_writer **out_writer, aq_error *err) {
    static const aqi_model_writer_extra none = {false, false};
    aq_model_writer_options o;
    aqi_error_clear(err);
    *out_writer = NULL;
    memset(&o, 0, sizeof o);
    if (options != NULL) o = *options;
    if (path == NULL || (num_tensors > 0 && tensors == NULL) ||
        num_tensors > SIZE_MAX / sizeof(aq_tensor))
        return aqi_fail(err, AQ_E_ARG, "path or tensors missing");
    if ((int)o.format < AQ_MODEL_AUTO || o.format > AQ_MODEL_DIRECTORY)
        return aqi_fail(err, AQ_E_ARG, "model format %d cannot be written",
                        (int)o.format);
    return aqi_model_writer_open(path, tensors, num_tensors, &o, &none, out_writer, err);
}

/* The tensor that comes must be the one that was announced, and complete. */
static aq_status aqi_model_put_check(const aq_model_writer *w, const aq_tensor *t,
                                     aq_error *err) {
    const aq_tensor *want = &w->tensors[w->next];
    const aq_layout *l = &t->layout;
    size_t bytes;
    aq_status status;
    if (t->name == NULL || strcmp(t->name, want->name) != 0 || t->dtype != want->dtype ||
        t->num_dims != want->num_dims || l->bits != want->layout.bits ||
        l->params != want->layout.params || l->codebook != want->layout.codebook ||
        memcmp(t->shape, want->shape, t->num_dims * sizeof t->shape[0]) != 0)
        return aqi_fail(err, AQ_E_ARG, "tensor differs from the one announced, \"%.80s\"",
                        want->name);
    if (l->bits != 0) {
        status = aqi_layout_check(l, err);
        if (status != AQ_OK) return status;
        if (l->params == AQ_PARAMS_F32
                ? l->num_groups > 0 && (t->scales == NULL || t->zero_points == NULL)
                : l->params_bytes > 0 && t->params == NULL)
            return aqi_fail(err, AQ_E_ARG,
                            "quantized tensor without scales or zero points, or without "
                            "small parameters");
    }
    bytes =
        l->bits != 0 ? l->code_bytes : (size_t)t->num_params * aq_dtype_bytes(t->dtype);
    if (t->data_bytes != bytes || (bytes > 0 && t->data == NULL))
        return aqi_fail(err, AQ_E_ARG, "tensor has %zu bytes of data; it needs %zu",
                        t->data == NULL ? (size_t)0 : t->data_bytes, bytes);
    return AQ_OK;
}

/* Values in memory to the places of a row, from its unit `unit` on. */
static aq_status aqi_row_write_parts(const aqi_out_row *row, size_t unit,
                                     const aqi_part parts[AQI_PARTS], uint32_t *crc,
                                     aq_error *err) {
    aq_status status = AQ_OK;
    int k;
    for (k = 0; k < AQI_PARTS && status == AQ_OK; k++)
        status = aqi_row_write(row->out, row->at[k] + (int64_t)(unit * parts[k].stride),
                               &parts[k], &crc[k], err);
    return status;
}

aq_status aq_model_writer_put(aq_model_writer *writer, const aq_tensor *tensor,
                              aq_error *err) {
    aq_model_writer *w = writer;
    aqi_part whole[AQI_PARTS], parts[AQI_PARTS];
    aqi_out_row row;
    aqi_cut cut;
    size_t first;
    int k;
    aq_status status;
    aqi_error_clear(err);
    if (w->failed != AQ_OK || w->next == w->num_tensors)
        return aqi_fail(err, AQ_E_STATE,
                        "the model writer failed before, or has all its tensors");
    status = aqi_model_put_check(w, tensor, err);
    if (status == AQ_OK) status = aqi_cut_make(w, tensor, &cut, err);
    memset(&row, 0, sizeof row);
    if (status == AQ_OK) row.num_chunks = cut.num_chunks;
    for (; status == AQ_OK && row.chunk < row.num_chunks; row.chunk++) {
        first = row.chunk * cut.per_chunk;
        status = aqi_cut_row(tensor, first, AQI_MIN(cut.per_chunk, cut.units - first),
                             &row, err);
        if (status == AQ_OK) status = aqi_model_writer_place(w, &row, err);
        if (status != AQ_OK) break;
        aqi_parts_of(tensor, whole);
        aqi_parts_of(&row.t, parts);
        for (k = 0; k < AQI_PARTS; k++) {
            if (parts[k].bytes > 0)
                parts[k].values = whole[k].values + first * whole[k].stride;
        }
        status = aqi_row_write_parts(&row, 0, parts, row.crc, err);
        if (status == AQ_OK) status = aqi_model_writer_commit(w, &row, err);
    }
    if (status == AQ_OK) return AQ_OK;
    w->failed = status;
    return aqi_error_in_tensor(err, status, w->tensors[w->next].name);
}

aq_status aq_model_writer_finish(aq_model_writer *writer, aq_error *err) {
    aq_status status = AQ_OK;
    aqi_error_clear(err);
    if (writer->failed != AQ_OK || writer->next != writer->num_tensors) {
        status = aqi_fail(err, AQ_E_STATE, "the model has %zu of its %zu tensors",
                          writer->next, writer->num_tensors);
    } else if (writer->format == AQ_MODEL_SAFETENSORS) {
        status = aqi_output_commit(&writer->out, err);
    } else if (writer->format == AQ_MODEL_DIRECTORY) {
        status = aqi_directory_finish(writer, err);
    } else {
        aq_writer *parquet = writer->parquet;
        writer->parquet = NULL;
        status = aq_writer_finish(parquet, err);
    }
    aqi_model_writer_free(writer);
    return status;
}

void aq_model_writer_abort(aq_model_writer *writer) {
    if (writer != NULL) aqi_model_writer_free(writer);
}

aq_status aq_model_save(const char *path, const aq_tensor *tensors, size_t num_tensors,
                        const aq_model_writer_options *options, aq_error *err) {
    aq_model_writer *w;
    size_t i;
    aq_status status = aq_model_writer_open(path, tensors, num_tensors, options, &w, err);
    if (status != AQ_OK) return status;
    for (i = 0; i < num_tensors && status == AQ_OK; i++)
        status = aq_model_writer_put(w, &tensors[i], err);
    if (status == AQ_OK) return aq_model_writer_finish(w, err);
    aq_model_writer_abort(w);
    return status;
}

/*==========================================================================
 * MARK: - [86] Jobs (private)
 * A job is a line of pieces, in the order of the output. Threads take pieces, work on
 * them side by side and put the bytes where they belong, which is known before; what a
 * piece found out (checksums, sums of errors, a NaN) is joined in the order of the line,
 * so that neither threads nor the size of pieces change a byte. A tensor that has to be
 * stored in another way (too far from the original, not finite) is done again: the line
 * goes back to its beginning.
 *========================================================================*/

#define AQI_PIECE_VALUES ((size_t)1 << 20)
#define AQI_DEFAULT_MEMORY ((uint64_t)256 << 20)

typedef enum aqi_step { AQI_STEP_QUANTIZE, AQI_STEP_DEQUANTIZE, AQI_STEP_COPY } aqi_step;

/* A tensor in work: from its first piece until it is committed. Units are rows of its
 * matrix; elements where it is copied and is not quantized. */
typedef struct aqi_work {
    struct aqi_work *next;
    size_t index;
    aqi_step step;
    const aqi_model_entry *entry;
    aq_tensor in;   /* its data NULL where pieces are read, or are of chunks         */
    aq_tensor out;  /* description                                                   */
    aqi_cut cut;    /* of the output, in units                                       */
    aqi_out_row *rows; /* cut.num_chunks of them; NULL: only measured                */
    size_t in_unit;    /* bytes of the input's data                                  */
    size_t units, unit_step; /* in all; of a piece                                   */
    size_t col_step;         /* < cols: a piece is so much of one row                */
    int64_t planned;         /* where its row groups begin                           */
    uint32_t next_row;       /* to be placed                                         */
    bool ready;                /* it could be opened                               */
    bool ranges; /* one scale for all: pieces go through it twice                    */
    /* What the committed pieces gave: */
    bool ranges_known;
    size_t done_unit, done_col; /* where the next one begins */
    aqi_range range;
    aqi_group group;
    aq_metrics metrics;
    uint32_t in_crc;
    uint64_t in_bytes;
} aqi_work;

/* What a thread takes at a time. */
typedef struct aqi_piece {
    aqi_work *work;
    bool range, last;
    size_t unit, units, col, cols; /* col: with one unit only */
} aqi_piece;

/* A piece on its way, and what it found. */
typedef struct aqi_slot {
    aqi_piece piece;
    bool done;
    size_t cost; /* bytes of memory it takes */
    aq_status status;
    aq_error err;
    uint32_t crc[AQI_PARTS], in_crc;
    size_t bytes[AQI_PARTS], in_bytes;
    aqi_range range;
    aq_metrics *parts; /* of its tiles */
    size_t num_parts, parts_room;
} aqi_slot;

typedef struct aqi_job {
    aq_job_options options;
    aq_allocator allocator;
    aq_quant_options quant; /* resolved */
    const char *input, *output;
    aq_model *model, *own_model;
    aq_pool *pool, *own_pool;
    const aq_tasks *tasks;
    aq_threads *own_threads;
    aqi_arena *arena; /* of the report */
    aq_tensor_report *reports;
    aq_plan *plans;
    aq_tensor *outputs; /* descriptions for the writer */
    size_t num_tensors; /* of this shard               */
    size_t first;       /* index of its first in the model */
    uint64_t bytes_total, budget;
    uint32_t width;
    aq_model_writer *writer; /* NULL: measure only */
    bool small_params;       /* may come to be there */
    struct aqi_journal *journal; /* NULL: none kept */
    const char *merged_config, *merged_source; /* of shards; NULL: a job of its own */
    const aq_key_value *merged_pairs;          /* their other metadata */
    size_t num_merged_pairs;
    bool merge;
    bool resuming;
    size_t num_resumed; /* tensors that an earlier run has committed */
    uint64_t directory_bytes; /* of all files, where they are many    */
    /* The line; the lock guards all below. */
    aqi_mutex lock;
    aqi_cond changed;
    aqi_slot *slots;
    size_t num_slots;
    bool forget;       /* the model fills most of the memory: the caches are emptied */
    int input_fd;      /* of model file input_file, for that and to see it shrink    */
    uint32_t input_file;
    uint64_t taken, committed; /* pieces */
    size_t running, bytes_running;
    size_t next_tensor;  /* to be opened               */
    aqi_work *open;      /* its next piece:            */
    bool open_range;
    size_t open_unit, open_col;
    aqi_work *works, *last_work; /* opened, not committed, in order */
    bool stop, redo;
    size_t redo_index;
    aq_status status;
    aq_error err;
    size_t current;      /* first tensor not committed            */
    uint64_t bytes_done; /* of the tensors before it              */
    uint64_t crc_bytes;
    uint32_t crc; /* of the input's tensor data, in name order */
} aqi_job;

static uint64_t aqi_tensor_bytes(const aq_tensor *t) {
    const aq_layout *l = &t->layout;
    uint64_t floats = l->params == AQ_PARAMS_F32 ? 2 * (uint64_t)l->num_groups : 0;
    return t->data_bytes + (l->bits == 0 ? 0 : floats * sizeof(float) + l->params_bytes);
}

/* ---- the plan ---- */

/* Makes the description of a quantized tensor from its layout. */
static void aqi_tensor_set_layout(aq_tensor *t, const aq_layout *l) {
    t->layout = *l;
    t->data_bytes = l->code_bytes;
    t->data = NULL;
    t->scales = NULL;
    t->zero_points = NULL;
    t->params = NULL;
}

static void aqi_tensor_set_float32(aq_tensor *t) {
    size_t rows = t->layout.rows, cols = t->layout.cols;
    memset(&t->layout, 0, sizeof t->layout);
    t->layout.rows = rows;
    t->layout.cols = cols;
    t->dtype = AQ_F32;
    t->data_bytes = (size_t)t->num_params * sizeof(float);
    t->cosine = (double)NAN;
    t->sqnr_db = (double)NAN;
    t->max_abs_error = (double)NAN;
}

/* The description of what plans[i] makes of a tensor. */
static aq_status aqi_job_apply_plan(aqi_job *j, size_t i, aq_error *err) {
    aq_tensor t, *out = &j->reports[i].tensor;
    const aq_plan *plan = &j->plans[i];
    aq_layout layout;
    aq_status status = aq_model_describe(j->model, j->first + i, &t, err);
    if (status != AQ_OK) return status;
    t.name = j->reports[i].name;
    if (j->options.operation == AQ_DEQUANTIZE && t.layout.bits != 0)
        aqi_tensor_set_float32(&t);
    if (j->options.operation == AQ_QUANTIZE && !plan->keep) {
        status = aq_layout_init(t.layout.rows, t.layout.cols, &plan->quant, &layout, err);
        if (status != AQ_OK) return aqi_error_in_tensor(err, status, t.name);
        aqi_tensor_set_layout(&t, &layout);
        if (layout.params != AQ_PARAMS_F32) j->small_params = true;
    }
    *out = t;
    j->reports[i].bytes_out = aqi_tensor_bytes(&t);
    return AQ_OK;
}

/* What becomes of one tensor. */
static aq_status aqi_job_plan_tensor(aqi_job *j, size_t i, aq_error *err) {
    aq_tensor *t = &j->reports[i].tensor;
    aq_plan *plan = &j->plans[i];
    aq_status status = AQ_OK;
    j->reports[i].bytes_in = aqi_tensor_bytes(t);
    if (j->options.operation == AQ_QUANTIZE) {
        plan->keep =
            t->num_dims < 2 || t->num_params == 0 || !aq_dtype_is_float(t->dtype);
        plan->quant = j->quant;
        if (j->options.plan != NULL && !j->options.plan(j->options.plan_user, t, plan))
            return aqi_fail(err, AQ_E_CANCELLED, "the plan hook asked to stop");
        if (!plan->keep && t->layout.bits != 0)
            status = aqi_fail(err, AQ_E_TYPE,
                              "is quantized already; dequantize the model first, "
                              "or keep this tensor");
        if (!plan->keep && status == AQ_OK && !aq_dtype_is_float(t->dtype))
            status = aqi_fail(err, AQ_E_TYPE,
                              "%s values cannot be quantized; keep this tensor",
                              aq_dtype_name(t->dtype));
        status = aqi_error_in_tensor(err, status, t->name);
    }
    return status == AQ_OK ? aqi_job_apply_plan(j, i, err) : status;
}

/* Shard i of n is what lies, by bytes of the tensors in name order, in the i-th of n
 * equal parts: a tensor belongs to the part that has its first byte. */
static aq_status aqi_job_choose_shard(aqi_job *j, aq_error *err) {
    const uint32_t n = j->options.num_shards, shard = j->options.shard;
    size_t count = aq_model_count(j->model), i, first = SIZE_MAX, end = 0;
    uint64_t total = 0, at = 0;
    aq_tensor t;
    aq_status status = AQ_OK;
    j->first = 0;
    j->num_tensors = count;
    if (n == 0) return AQ_OK;
    if (shard >= n)
        return aqi_fail(err, AQ_E_ARG, "shard %u of %u; they count from 0", shard, n);
    for (i = 0; i < count; i++) total += aqi_tensor_bytes(&j->model->entries[i].tensor);
    for (i = 0; i < count && status == AQ_OK; i++) {
        uint64_t per = total / n + (total % n != 0), owner;
        status = aq_model_describe(j->model, i, &t, err);
        owner = per == 0 ? 0 : at / per;
        if (owner >= n) owner = n - 1; /* empty tensors at the end */
        if (owner == shard && first == SIZE_MAX) first = i;
        if (owner == shard) end = i + 1;
        at += aqi_tensor_bytes(&t);
    }
    j->first = first == SIZE_MAX ? 0 : first;
    j->num_tensors = first == SIZE_MAX ? 0 : end - first;
    return status;
}

static aq_status aqi_job_plan(aqi_job *j, aq_error *err) {
    size_t i;
    void *p;
    aq_status status = aqi_job_choose_shard(j, err);
    if (status == AQ_OK)
        status = aqi_arena_alloc(j->arena, j->num_tensors * sizeof *j->reports, &p, err);
    if (status != AQ_OK) return status;
    j->reports = (aq_tensor_report *)p;
    status = aqi_arena_alloc(j->arena, j->num_tensors * sizeof *j->outputs, &p, err);
    if (status != AQ_OK) return status;
    j->outputs = (aq_tensor *)p;
    status = aqi_arena_alloc(j->arena, j->num_tensors * sizeof *j->plans, &p, err);
    if (status != AQ_OK) return status;
    j->plans = (aq_plan *)p;
    for (i = 0; i < j->num_tensors && status == AQ_OK; i++) {
        aq_tensor *t = &j->reports[i].tensor;
        char *name = NULL;
        status = aq_model_describe(j->model, j->first + i, t, err);
        if (status == AQ_OK)
            status = aqi_arena_string(j->arena, t->name, strlen(t->name), &name, err);
        t->name = name;
        j->reports[i].name = name;
        if (status == AQ_OK) status = aqi_job_plan_tensor(j, i, err);
        j->bytes_total += j->reports[i].bytes_in;
    }
    return status;
}

/* ---- a piece: what a thread does ---- */

/* Offset of a piece in the parts of its row of the output, in bytes. */
static void aqi_piece_offsets(const aqi_piece *p, const aqi_out_row *row,
                              const aqi_part parts[AQI_PARTS], int64_t at[AQI_PARTS]) {
    const aqi_work *w = p->work;
    const aq_layout *l = &w->out.layout;
    size_t unit = p->unit % w->cut.per_chunk;
    int k;
    if (w->step == AQI_STEP_DEQUANTIZE) unit *= l->cols; /* to elements */
    for (k = 0; k < AQI_PARTS; k++)
        at[k] = row->at[k] + (int64_t)(unit * parts[k].stride);
    if (p->col == 0) return;
    at[AQI_PART_DATA] += (int64_t)(p->col / 8 * l->bits);
    at[AQI_PART_SCALES] += (int64_t)(p->col / l->group_cols * sizeof(float));
    at[AQI_PART_ZERO_POINTS] += (int64_t)(p->col / l->group_cols * sizeof(float));
}

/* The piece's parts to the file, or only their checksums. */
static aq_status aqi_piece_write(const aqi_job *j, aqi_slot *s, aqi_part parts[AQI_PARTS],
                                 aq_error *err) {
    const aqi_piece *p = &s->piece;
    const aqi_work *w = p->work;
    const aqi_out_row *row;
    aqi_part whole[AQI_PARTS];
    int64_t at[AQI_PARTS];
    aq_status status = AQ_OK;
    int k;
    if (j->writer == NULL) return AQ_OK;
    row = &w->rows[p->unit / w->cut.per_chunk];
    aqi_parts_of(&row->t, whole);
    aqi_piece_offsets(p, row, whole, at);
    for (k = 0; k < AQI_PARTS && status == AQ_OK; k++) {
        /* One scale for all is written with the first units of a row only. */
        if (whole[k].stride == 0 && p->unit % w->cut.per_chunk != 0) continue;
        status = aqi_row_write(row->out, at[k], &parts[k], &s->crc[k], err);
        s->bytes[k] = parts[k].bytes;
    }
    return status;
}

/* The bytes of the piece in the input: in the mapping, or read to a buffer. */
static aq_status aqi_piece_input(const aqi_job *j, aqi_slot *s, aq_buffer *buffer,
                                 const uint8_t **out, aq_error *err) {
    const aqi_piece *p = &s->piece;
    const aqi_work *w = p->work;
    const aqi_model_entry *e = w->entry;
    size_t value = aq_dtype_bytes(w->in.dtype), skip = p->unit * w->in_unit;
    aq_status status;
    s->in_bytes = p->units * w->in_unit;
    if (w->col_step < w->in.layout.cols) {
        skip += p->col * value;
        s->in_bytes = p->cols * value;
    }
    *out = w->in.data == NULL ? NULL : w->in.data + skip;
    if (w->in.data == NULL && s->in_bytes > 0) {
        status = aq_pool_acquire(j->pool, s->in_bytes, buffer, err);
        if (status == AQ_OK)
            status = aqi_source_read(&j->model->files[e->file].source,
                                     e->offset + (int64_t)skip, buffer->data, s->in_bytes,
                                     err);
        if (status != AQ_OK) return status;
        *out = buffer->data;
    }
    return AQ_OK;
}

/* The layout of the piece alone. */
static aq_status aqi_piece_layout(const aqi_piece *p, aq_layout *out, aq_error *err) {
    *out = p->work->out.layout;
    out->rows = p->units;
    if (out->group_rows > 1) out->group_rows = p->units;
    if (p->work->col_step < out->cols) out->cols = p->cols;
    if (out->importance != NULL) out->importance += p->col;
    return aqi_layout_complete(out, err);
}

static size_t aqi_align_up(size_t n) {
    return (n + (AQ_ALIGNMENT - 1)) & ~(size_t)(AQ_ALIGNMENT - 1);
}

/* Bytes of the arrays of a layout, each aligned. */
static size_t aqi_quantized_room(const aq_layout *l) {
    size_t floats = l->params == AQ_PARAMS_F32 ? l->num_groups * sizeof(float) : 0;
    return aqi_align_up(l->code_bytes) + 2 * aqi_align_up(floats) +
           aqi_align_up(l->params_bytes);
}

/* Quantizes the piece into a buffer, which the parts then point into. */
static aq_status aqi_piece_quantize(const aqi_job *j, aqi_slot *s, aq_buffer *buffer,
                                    const uint8_t *src, aqi_part parts[AQI_PARTS],
                                    aq_error *err) {
    const aqi_piece *p = &s->piece;
    const aqi_work *w = p->work;
    aqi_quantize_task t;
    aq_quantized dst;
    aq_metrics metrics;
    aq_layout l;
    aq_tensor stored;
    size_t floats;
    aq_status status = aqi_piece_layout(p, &l, err);
    if (status == AQ_OK)
        status = aq_pool_acquire(j->pool, aqi_quantized_room(&l), buffer, err);
    if (status != AQ_OK) return status;
    floats = l.params == AQ_PARAMS_F32 ? l.num_groups * sizeof(float) : 0;
    dst.codes = buffer->data;
    dst.scales = (float *)(void *)(buffer->data + aqi_align_up(l.code_bytes));
    dst.zero_points = dst.scales + aqi_align_up(floats) / sizeof(float);
    dst.params = buffer->data + aqi_align_up(l.code_bytes) + 2 * aqi_align_up(floats);
    memset(&t, 0, sizeof t);
    t.layout = &l;
    t.src = src;
    t.dtype = w->in.dtype;
    t.dst = &dst;
    t.parts = s->parts;
    t.first_row = p->unit;
    t.first_col = p->col;
    t.full_cols = w->in.layout.cols;
    if (w->ranges) {
        dst.scales[0] = w->group.scale;
        dst.zero_points[0] = w->group.zero_point;
        t.tensor_group = &w->group;
    }
    status = aqi_quantize_all(&t, NULL, &metrics, err);
    if (status != AQ_OK) return status;
    memset(&stored, 0, sizeof stored);
    stored.layout = l;
    stored.data = dst.codes;
    stored.data_bytes = l.code_bytes;
    stored.scales = dst.scales;
    stored.zero_points = dst.zero_points;
    stored.params = dst.params;
    aqi_parts_of(&stored, parts);
    return AQ_OK;
}

/* The range of the piece, where one scale serves all. */
static aq_status aqi_piece_range(aqi_slot *s, const uint8_t *src, aq_error *err) {
    const aqi_piece *p = &s->piece;
    aqi_quantize_task t;
    aq_layout l;
    aq_status status = aqi_piece_layout(p, &l, err);
    if (status != AQ_OK) return status;
    memset(&t, 0, sizeof t);
    t.layout = &l;
    t.src = src;
    t.dtype = p->work->in.dtype;
    t.first_row = p->unit;
    t.first_col = p->col;
    t.full_cols = p->work->in.layout.cols;
    t.tiling = aqi_tiling_make(&l, l.rows);
    return aqi_quantize_waves(&t, aqi_range_tile, NULL, &s->range, NULL, err);
}

/* The chunk of a chunked input that has the unit; its first unit to *out_first. */
static const aqi_model_entry *aqi_chunk_with(const aqi_work *w, size_t unit,
                                             size_t *out_first, size_t *out_units) {
    const aqi_model_entry *c = w->entry->chunks;
    *out_first = 0;
    for (;; c++) {
        *out_units = c->tensor.data_bytes / w->in_unit;
        if (unit - *out_first < *out_units) return c;
        *out_first += *out_units;
    }
}

/* Rows as float32, or the input's bytes as they are. */
static aq_status aqi_piece_carry(const aqi_job *j, aqi_slot *s, aq_buffer *buffer,
                                 const aq_tensor *in, size_t unit,
                                 aqi_part parts[AQI_PARTS], aq_error *err) {
    const aqi_piece *p = &s->piece;
    const aqi_work *w = p->work;
    size_t n = p->units * w->out.layout.cols;
    float *dst;
    aq_status status;
    int k;
    if (w->step == AQI_STEP_COPY) {
        aqi_parts_of(in, parts);
        for (k = 0; k < AQI_PARTS; k++) {
            if (parts[k].stride == 0) continue; /* shared by all units */
            if (parts[k].values != NULL) parts[k].values += unit * parts[k].stride;
            parts[k].bytes = p->units * parts[k].stride;
        }
        return AQ_OK;
    }
    memset(parts, 0, AQI_PARTS * sizeof *parts);
    status = aq_pool_acquire(j->pool, n * sizeof(float), buffer, err);
    if (status != AQ_OK) return status;
    dst = (float *)(void *)buffer->data;
    status = aq_tensor_rows_f32(in, unit, p->units, dst, NULL, err);
    parts[AQI_PART_DATA].values = buffer->data;
    parts[AQI_PART_DATA].bytes = n * sizeof(float);
    parts[AQI_PART_DATA].swap = sizeof(float);
    return status;
}

static aq_status aqi_piece_work(const aqi_job *j, aqi_slot *s, aq_buffer buffers[2],
                                aq_tensor *chunk, aq_error *err) {
    const aqi_piece *p = &s->piece;
    const aqi_work *w = p->work;
    const uint8_t *src;
    aqi_part parts[AQI_PARTS];
    aq_tensor in = w->in;
    size_t unit = p->unit, first, units;
    aq_status status;
    if (w->entry->chunks != NULL && w->in.data == NULL) {
        const aqi_model_entry *e = aqi_chunk_with(w, unit, &first, &units);
        status = aqi_entry_tensor(j->model, e, chunk, err);
        if (status == AQ_OK && unit == first)
            status = aqi_tensor_verify(j->model, chunk, err);
        if (status != AQ_OK) return status;
        in = *chunk;
        unit -= first;
        src = in.data + unit * w->in_unit;
        s->in_bytes = p->units * w->in_unit;
    } else {
        status = aqi_piece_input(j, s, &buffers[0], &src, err);
        if (status == AQ_OK && unit == 0 && p->col == 0 && p->range == w->ranges)
            status = aqi_tensor_verify(j->model, &w->in, err);
        if (status != AQ_OK) return status;
        if (w->in.data == NULL) { /* the buffer has this piece only */
            in.data = src;
            unit = 0;
        }
    }
    if (p->range) return aqi_piece_range(s, src, err);
    if (s->in_bytes > 0) s->in_crc = ~aqi_crc32(UINT32_MAX, src, s->in_bytes);
    if (w->step == AQI_STEP_QUANTIZE) {
        status = aqi_piece_quantize(j, s, &buffers[1], src, parts, err);
    } else {
        status = aqi_piece_carry(j, s, &buffers[1], &in, unit, parts, err);
    }
    return status == AQ_OK ? aqi_piece_write(j, s, parts, err) : status;
}

static void aqi_piece_run(const aqi_job *j, aqi_slot *s) {
    aq_buffer buffers[2];
    aq_tensor chunk;
    memset(buffers, 0, sizeof buffers);
    aqi_tensor_reset(&chunk);
    s->status = aqi_piece_work(j, s, buffers, &chunk, &s->err);
    aq_tensor_release(&chunk);
    aq_buffer_release(&buffers[0]);
    aq_buffer_release(&buffers[1]);
}

/* ---- the line: opening tensors, taking pieces; the lock is held ---- */

/* Bytes of memory that a piece of n values takes, and of as many units. */
static size_t aqi_work_cost(const aqi_work *w, size_t units, size_t values) {
    const aq_layout *l = &w->out.layout;
    size_t cost = 0;
    if (w->in.data == NULL && w->entry->chunks == NULL)
        cost += values * aq_dtype_bytes(w->in.dtype);
    if (w->step == AQI_STEP_DEQUANTIZE) cost += values * sizeof(float);
    if (w->step == AQI_STEP_QUANTIZE) {
        cost += values / 8 * l->bits + units + 5 * AQ_ALIGNMENT;
        cost += l->params == AQ_PARAMS_F32
                    ? (values / l->group_cols + units) * 2 * sizeof(float)
                    : l->params_bytes / AQI_MAX(l->rows, (size_t)1) * units;
    }
    return cost;
}

/* How large pieces are: whole tensors, or as the memory allows. */
static aq_status aqi_work_steps(const aqi_job *j, aqi_work *w, aq_error *err) {
    const bool rows = w->step != AQI_STEP_COPY;
    size_t cols = rows ? w->in.layout.cols : 1, most = AQI_PIECE_VALUES, granule, least;
    aqi_tiling t;
    if (w->step == AQI_STEP_COPY && w->in_unit > 0 && w->out.layout.bits != 0)
        cols = AQI_MAX(w->in.layout.cols, (size_t)1);
    w->unit_step = AQI_MAX(w->units, (size_t)1);
    w->col_step = w->in.layout.cols;
    if (j->options.mode == AQ_JOB_PARALLEL && j->options.max_memory_bytes == 0)
        return AQ_OK;
    if (j->options.mode == AQ_JOB_PARALLEL) most = AQI_MAX(w->units * cols, (size_t)1);
    granule = AQI_MAX(cols, (size_t)1); /* values that cannot be parted */
    if (w->step == AQI_STEP_QUANTIZE) {
        t = aqi_tiling_make(&w->out.layout, w->units);
        if (t.cols < w->in.layout.cols) w->col_step = granule = t.cols;
        if (t.cols == w->in.layout.cols) granule = t.rows * t.cols;
    }
    least = aqi_work_cost(w, 1, granule);
    if (least > j->budget)
        return aqi_fail(err, AQ_E_LIMIT,
                        "%llu bytes of memory are not enough for the smallest piece of "
                        "this tensor; allow %zu",
                        (unsigned long long)j->budget, least);
    while (most > granule &&
           aqi_work_cost(w, most / AQI_MAX(cols, (size_t)1) + 1, most) >
               j->budget / (j->width + 1))
        most /= 2;
    if (w->col_step < w->in.layout.cols) {
        w->unit_step = 1;
        if (most > w->col_step) w->col_step = most / w->col_step * w->col_step;
        return AQ_OK;
    }
    granule = AQI_MAX(granule / AQI_MAX(cols, (size_t)1), (size_t)1); /* units */
    w->unit_step =
        AQI_MAX(most / AQI_MAX(cols, (size_t)1) / granule, (size_t)1) * granule;
    return AQ_OK;
}

/* What a piece reads, and in which units. */
static aq_status aqi_work_input(aqi_job *j, aqi_work *w, aq_error *err) {
    const aq_model *m = j->model;
    const aqi_model_entry *e = w->entry;
    const bool by_rows = w->step != AQI_STEP_QUANTIZE && e->tensor.layout.bits != 0;
    w->in = e->tensor;
    w->in_unit = aq_dtype_bytes(e->tensor.dtype);
    w->units = (size_t)e->tensor.num_params;
    if (w->step != AQI_STEP_COPY || by_rows) {
        w->units = e->tensor.layout.rows;
        w->in_unit = by_rows ? e->tensor.layout.row_bytes
                             : w->in_unit * e->tensor.layout.cols;
    }
    if (m->files[e->file].parquet == NULL) {
        if (j->options.mode == AQ_JOB_STREAMING)
            w->in.data = aqi_source_view(&m->files[e->file].source, e->offset);
        return AQ_OK;
    }
    if (e->chunks != NULL && w->step != AQI_STEP_QUANTIZE) return AQ_OK;
    return aq_model_tensor(m, j->first + w->index, &w->in, err);
}

/* The rows of the output that the tensor becomes. */
static aq_status aqi_work_rows(aqi_job *j, aqi_work *w, aq_error *err) {
    size_t elements = 1, i, first, bytes;
    aq_status status = AQ_OK;
    w->cut.num_chunks = 1;
    w->cut.per_chunk = AQI_MAX(w->units, (size_t)1);
    if (j->writer == NULL) return AQ_OK;
    status = aqi_cut_make(j->writer, &w->out, &w->cut, err);
    if (status != AQ_OK) return status;
    bytes = w->cut.num_chunks * sizeof *w->rows;
    w->rows = (aqi_out_row *)aqi_alloc(&j->allocator, bytes);
    if (w->rows == NULL) return aqi_fail_nomem(err, bytes);
    memset(w->rows, 0, bytes);
    for (i = 0; i < w->cut.num_chunks && status == AQ_OK; i++) {
        first = i * w->cut.per_chunk;
        w->rows[i].chunk = (uint32_t)i;
        w->rows[i].num_chunks = w->cut.num_chunks;
        status = aqi_cut_row(&w->out, first,
                             AQI_MIN(w->cut.per_chunk, w->cut.units - first),
                             &w->rows[i], err);
        if (status == AQ_OK)
            status = aqi_model_writer_place(j->writer, &w->rows[i], err);
    }
    if (w->step == AQI_STEP_DEQUANTIZE) elements = w->out.layout.cols;
    if (status == AQ_OK && w->cut.num_chunks > 1 && w->cut.per_chunk % elements != 0)
        return aqi_fail(err, AQ_E_LIMIT, "a row of over %zu bytes as float32",
                        w->cut.per_chunk * sizeof(float));
    if (w->cut.num_chunks > 1) w->cut.per_chunk /= AQI_MAX(elements, (size_t)1);
    if (w->cut.num_chunks == 1) w->cut.per_chunk = AQI_MAX(w->units, (size_t)1);
    return status;
}

static void aqi_work_close(aqi_job *j, aqi_work *w) {
    if (w->rows != NULL)
        aqi_free(&j->allocator, w->rows, w->cut.num_chunks * sizeof *w->rows);
    aq_tensor_release(&w->in);
    aqi_free(&j->allocator, w, sizeof *w);
}

/* Begins the next tensor. */
static aq_status aqi_work_open(aqi_job *j, aqi_work **out, aq_error *err) {
    aqi_work *w = (aqi_work *)aqi_alloc(&j->allocator, sizeof *w);
    aq_status status;
    *out = NULL;
    if (w == NULL) return aqi_fail_nomem(err, sizeof *w);
    memset(w, 0, sizeof *w);
    w->index = j->next_tensor;
    w->entry = &j->model->entries[j->first + w->index];
    w->out = j->reports[w->index].tensor;
    w->step = AQI_STEP_COPY;
    if (w->entry->tensor.layout.bits == 0 && w->out.layout.bits != 0)
        w->step = AQI_STEP_QUANTIZE;
    if (w->entry->tensor.layout.bits != 0 && w->out.layout.bits == 0)
        w->step = AQI_STEP_DEQUANTIZE;
    if (j->writer != NULL) w->planned = j->writer->planned;
    aqi_metrics_finish(&w->metrics);
    status = aqi_work_input(j, w, err);
    if (status == AQ_OK) status = aqi_work_rows(j, w, err);
    if (status == AQ_OK) status = aqi_work_steps(j, w, err);
    w->ranges = w->step == AQI_STEP_QUANTIZE && w->out.layout.group_rows > 1;
    w->ready = status == AQ_OK;
    if (j->writer == NULL && w->step != AQI_STEP_QUANTIZE) w->units = 0;
    if (j->last_work != NULL) j->last_work->next = w;
    if (j->works == NULL) j->works = w;
    j->last_work = w;
    j->next_tensor++;
    *out = w; /* also after a failure: the line must come to it */
    return status;
}

/* Units of the next piece of the open tensor: no border of chunks inside. */
static size_t aqi_job_next_units(const aqi_job *j) {
    const aqi_work *w = j->open;
    size_t n = AQI_MIN(w->unit_step, w->units - j->open_unit), first, units;
    n = AQI_MIN(n, w->cut.per_chunk - j->open_unit % w->cut.per_chunk);
    if (w->entry->chunks == NULL || w->in.data != NULL || n == 0) return n;
    aqi_chunk_with(w, j->open_unit, &first, &units);
    return AQI_MIN(n, first + units - j->open_unit);
}

/* Room for the reports of the piece's tiles. */
static aq_status aqi_slot_parts(const aqi_job *j, aqi_slot *s, aq_error *err) {
    const aqi_piece *p = &s->piece;
    aqi_tiling t;
    aq_layout l;
    aq_status status = AQ_OK;
    s->num_parts = 0;
    if (p->work->step != AQI_STEP_QUANTIZE || p->range) return AQ_OK;
    status = aqi_piece_layout(p, &l, err);
    if (status != AQ_OK) return status;
    t = aqi_tiling_make(&l, l.rows);
    s->num_parts = l.rows == 0 || l.cols == 0 ? 0 : t.count;
    if (s->num_parts <= s->parts_room) return AQ_OK;
    aqi_free(&j->allocator, s->parts, s->parts_room * sizeof *s->parts);
    s->parts_room = s->num_parts;
    s->parts =
        (aq_metrics *)aqi_alloc(&j->allocator, s->parts_room * sizeof *s->parts);
    if (s->parts != NULL) return AQ_OK;
    s->parts_room = 0;
    return aqi_fail_nomem(err, s->num_parts * sizeof *s->parts);
}

/* Goes on in the open tensor after its piece. */
static void aqi_job_advance(aqi_job *j, aqi_piece *p) {
    aqi_work *w = j->open;
    j->open_col += p->cols;
    if (j->open_col >= w->in.layout.cols || w->col_step >= w->in.layout.cols) {
        j->open_col = 0;
        j->open_unit += p->units;
    }
    p->last = j->open_unit >= w->units;
    if (!p->last) return;
    j->open_unit = 0;
    if (j->open_range) {
        j->open_range = false;
    } else {
        j->open = NULL;
    }
}

/* The file that a tensor comes from, open beside its mapping. */
static void aqi_job_watch_file(aqi_job *j, uint32_t file) {
    if (j->input_fd >= 0 && j->input_file == file) return;
    if (j->input_fd >= 0) close(j->input_fd);
    j->input_fd = aqi_open_read(j->model->files[file].path);
    j->input_file = file;
}

/* A mapped file must not become shorter: reading what is gone ends the process. */
static aq_status aqi_job_check_file(aqi_job *j, const aqi_work *w, aq_error *err) {
    const aqi_model_file *f = &j->model->files[w->entry->file];
    const aqi_source *s = f->parquet != NULL ? &f->parquet->source : &f->source;
    struct stat st;
    if (!s->unmap) return AQ_OK;
    aqi_job_watch_file(j, w->entry->file);
    if (j->input_fd < 0 || fstat(j->input_fd, &st) != 0 || st.st_size >= s->bytes)
        return AQ_OK;
    aqi_fail(err, AQ_E_IO,
             "the file became shorter while it was mapped (%lld bytes, %lld before); use "
             "AQ_IO_READ for files that may change",
             (long long)st.st_size, (long long)s->bytes);
    if (err != NULL) aqi_error_set_name(err, f->path);
    return AQ_E_IO;
}

/* The next piece; NULL: there is none, or it has to wait. */
static aqi_slot *aqi_job_take(aqi_job *j) {
    aqi_slot *s = &j->slots[j->taken % j->num_slots];
    aqi_piece *p = &s->piece;
    aqi_work *w = j->open;
    size_t cost = 0;
    if (j->stop || j->redo || j->taken - j->committed == j->num_slots) return NULL;
    if (w == NULL && j->next_tensor == j->num_tensors) return NULL;
    s->status = AQ_OK;
    if (w == NULL) {
        s->status = aqi_work_open(j, &w, &s->err);
        j->open = w;
        j->open_unit = j->open_col = 0;
        j->open_range = w != NULL && w->ranges;
    }
    if (s->status == AQ_OK) {
        if (w->ranges && !j->open_range && !w->ranges_known) return NULL;
        memset(p, 0, sizeof *p);
        p->work = w;
        p->range = j->open_range;
        p->unit = j->open_unit;
        p->units = aqi_job_next_units(j);
        p->col = j->open_col;
        p->cols = AQI_MIN(w->col_step, w->in.layout.cols - p->col);
        cost = aqi_work_cost(w, p->units,
                             w->step == AQI_STEP_COPY ? p->units : p->units * p->cols);
        if (j->bytes_running > 0 &&
            cost > j->budget - AQI_MIN(j->bytes_running, j->budget))
            return NULL;
        s->status = aqi_slot_parts(j, s, &s->err);
        if (s->status == AQ_OK) s->status = aqi_job_check_file(j, w, &s->err);
    }
    memset(s->crc, 0, sizeof s->crc);
    memset(s->bytes, 0, sizeof s->bytes);
    s->in_crc = 0;
    s->in_bytes = 0;
    s->cost = cost;
    s->done = s->status != AQ_OK;
    p->work = w;
    j->taken++;
    if (s->done) {
        j->open = NULL; /* nothing comes after it */
    } else {
        aqi_job_advance(j, p);
    }
    return s;
}

/* ---- the journal ---- */

/* What is done, for the next run of the same job: how each committed tensor was stored,
 * and how far one is. Records describe only what is durable: the output is synced before
 * they are written. Only the machine that wrote them reads them. */
#ifndef AQI_CHECKPOINT_BYTES /* a test may have its own */
#define AQI_CHECKPOINT_BYTES ((uint64_t)512 << 20) /* of input, between two syncs */
#define AQI_CHECKPOINT_SECONDS 2.0                 /* at least                    */
#else
#define AQI_CHECKPOINT_SECONDS 0.0
#endif

typedef struct aqi_journal {
    int fd;
    bool owned; /* locked by this job, as far as the file system can */
    char *path;
    size_t path_bytes;
    int64_t offset;                 /* of the next record                         */
    aqi_bytes_builder old;          /* what an earlier run of this job left       */
    size_t old_at;                  /* its next record                            */
    aqi_bytes_builder waiting;      /* records for the next checkpoint            */
    size_t record;                  /* where the last one of them begins          */
    uint64_t at;                    /* bytes of input done at the last checkpoint */
    double seconds;                 /* when that was                              */
} aqi_journal;

typedef struct aqi_record_head {
    uint32_t kind, bytes, crc; /* of what follows */
} aqi_record_head;

enum { AQI_RECORD_JOB = 0x4a517101, AQI_RECORD_TENSOR, AQI_RECORD_PLAN };

/* A tensor; followed by the checksums of its rows' parts and the text of its error. */
typedef struct aqi_record_tensor {
    uint64_t index, unit, col, in_bytes;
    bool whole, keep, codebook, ranges_known;
    uint32_t bits, num_attempts, num_rows, error_bytes, in_crc;
    int32_t status;
    aq_attempt attempts[AQ_MAX_ATTEMPTS];
    aq_metrics metrics;
    aqi_range range;
    aqi_group group;
} aqi_record_tensor;

static bool aqi_record_begin(aqi_job *j, uint32_t kind) {
    aqi_record_head head = {0, 0, 0};
    head.kind = kind;
    j->journal->record = j->journal->waiting.size;
    return aqi_builder_append(&j->allocator, &j->journal->waiting, &head, sizeof head);
}

static bool aqi_record_put(aqi_job *j, const void *bytes, size_t n) {
    return aqi_builder_append(&j->allocator, &j->journal->waiting, bytes, n);
}

static void aqi_record_end(aqi_job *j) {
    aqi_bytes_builder *b = &j->journal->waiting;
    uint8_t *at = b->data + j->journal->record;
    aqi_record_head head;
    memcpy(&head, at, sizeof head);
    head.bytes = (uint32_t)(b->size - j->journal->record - sizeof head);
    head.crc = ~aqi_crc32(UINT32_MAX, at + sizeof head, head.bytes);
    memcpy(at, &head, sizeof head);
}

/* The next record of an earlier run, whole; NULL: there is none, or of another kind. */
static const uint8_t *aqi_record_next(aqi_journal *f, uint32_t kind, size_t *out_bytes) {
    aqi_record_head head;
    size_t left = f->old.size - f->old_at;
    const uint8_t *p = f->old.data + f->old_at;
    if (left < sizeof head) return NULL;
    memcpy(&head, p, sizeof head);
    if (head.kind != kind || head.bytes > left - sizeof head ||
        head.crc != ~aqi_crc32(UINT32_MAX, p + sizeof head, head.bytes))
        return NULL;
    *out_bytes = head.bytes;
    f->old_at += sizeof head + head.bytes;
    return p + sizeof head;
}

static void aqi_journal_close(aqi_job *j, bool remove) {
    aqi_journal *f = j->journal;
    if (f == NULL) return;
    if (f->fd >= 0) close(f->fd);
    if (remove) unlink(f->path);
    aqi_free(&j->allocator, f->path, f->path_bytes);
    aqi_builder_free(&j->allocator, &f->old);
    aqi_builder_free(&j->allocator, &f->waiting);
    aqi_free(&j->allocator, f, sizeof *f);
    j->journal = NULL;
}

/* Whether nobody, not even an earlier job, has a record in it. */
static bool aqi_journal_is_empty(const aqi_job *j) {
    const aqi_journal *f = j->journal;
    struct stat st;
    return f != NULL && f->owned && fstat(f->fd, &st) == 0 && st.st_size == 0;
}

/* All that a job's bytes depend on, as its first record. */
static bool aqi_journal_describe(aqi_job *j) {
    const aq_job_options *o = &j->options;
    const aq_model *m = j->model;
    uint64_t numbers[10];
    struct stat st;
    size_t i;
    bool ok = aqi_record_begin(j, AQI_RECORD_JOB) &&
              aqi_record_put(j, AQ_VERSION_STRING, sizeof AQ_VERSION_STRING);
    memset(numbers, 0, sizeof numbers);
    numbers[0] = (uint64_t)o->operation << 1 | o->fail_fast;
    memcpy(&numbers[1], &o->min_cosine, sizeof(double));
    memcpy(&numbers[2], &o->target_bpw, sizeof(double));
    numbers[3] = o->target_bytes;
    numbers[4] = (uint64_t)o->shard << 32 | o->num_shards;
    numbers[5] = o->chunk_bytes;
    numbers[6] = sizeof(aqi_record_tensor) << 1 | AQI_BIG_ENDIAN;
    ok = ok && aqi_record_put(j, numbers, sizeof numbers);
    for (i = 0; i < m->num_files && ok; i++) {
        memset(numbers, 0, sizeof numbers);
        if (stat(m->files[i].path, &st) == 0) {
            numbers[0] = (uint64_t)st.st_size;
            numbers[1] = (uint64_t)st.st_mtime;
            numbers[2] = (uint64_t)st.st_ino;
            numbers[3] = (uint64_t)st.st_ctime;
        }
        ok = aqi_record_put(j, numbers, sizeof numbers);
    }
    for (i = 0; i < j->num_tensors && ok; i++) {
        const aq_tensor *t = &j->reports[i].tensor;
        const aq_quant_options *q = &j->plans[i].quant;
        memset(numbers, 0, sizeof numbers);
        numbers[0] = (uint64_t)t->dtype << 32 | t->num_dims;
        numbers[1] = t->num_params;
        numbers[2] = (uint64_t)t->layout.bits << 32 | (uint64_t)t->layout.params;
        numbers[3] = (uint64_t)q->group_size;
        numbers[4] = (uint64_t)q->granularity << 32 | (uint64_t)q->method;
        numbers[5] = (uint64_t)q->symmetric << 1 | q->codebook;
        numbers[6] = (uint64_t)q->params;
        ok = aqi_record_put(j, t->name, strlen(t->name) + 1) &&
             aqi_record_put(j, numbers, sizeof numbers);
    }
    if (ok) aqi_record_end(j);
    return ok;
}

/* What an earlier run left is read when its first record says that it was of this job;
 * else the journal begins anew. */
static aq_status aqi_journal_read(aqi_job *j, aq_error *err) {
    aqi_journal *f = j->journal;
    struct stat st;
    size_t head;
    if (!aqi_journal_describe(j)) return aqi_fail_nomem(err, f->waiting.size);
    head = f->waiting.size;
    if (fstat(f->fd, &st) != 0) return aqi_fail_os(err, errno, "cannot stat", f->path);
    if (st.st_size > INT32_MAX) st.st_size = 0;
    if ((size_t)st.st_size >= head) {
        if (!aqi_builder_reserve(&j->allocator, &f->old, (size_t)st.st_size))
            return aqi_fail_nomem(err, (size_t)st.st_size);
        f->old.size = (size_t)st.st_size;
        if (aqi_pread_all(f->fd, 0, f->old.data, f->old.size, NULL) != AQ_OK ||
            memcmp(f->old.data, f->waiting.data, head) != 0)
            f->old.size = 0;
    }
    f->offset = 0;
    if (f->old.size > 0) {
        f->old_at = head;
        f->offset = (int64_t)head;
        f->waiting.size = 0;
    }
    return AQ_OK;
}

static aq_status aqi_journal_open(aqi_job *j, aq_error *err) {
    aqi_journal *f = (aqi_journal *)aqi_alloc(&j->allocator, sizeof *f);
    if (f == NULL) return aqi_fail_nomem(err, sizeof *f);
    memset(f, 0, sizeof *f);
    f->fd = -1;
    f->seconds = aqi_seconds();
    j->journal = f;
    f->path =
        aqi_hidden_path(&j->allocator, j->output, "aq-journal", &f->path_bytes);
    if (f->path == NULL) return aqi_fail_nomem(err, strlen(j->output));
    f->fd = open(f->path, O_RDWR | O_CREAT | AQI_O_CLOEXEC, 0666);
    if (f->fd < 0) return aqi_fail_os(err, errno, "cannot open the journal", f->path);
    if (flock(f->fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        return aqi_fail_os(err, EBUSY, "another job is writing this output", j->output);
    f->owned = true;
    return aqi_journal_read(j, err);
}

/* Makes all that is committed durable, then says so. The lock is held. */
static aq_status aqi_journal_checkpoint(aqi_job *j, aq_error *err) {
    aqi_journal *f = j->journal;
    aqi_output *out = &j->writer->out;
    const uint8_t *p = f->waiting.data;
    size_t left = f->waiting.size;
    aq_status status;
    if (j->writer->parquet != NULL) out = &j->writer->parquet->out;
    status = aqi_output_flush(out, err);
    if (status == AQ_OK && !j->options.no_sync && fsync(out->fd) != 0)
        status = aqi_fail_os(err, errno, "cannot sync", out->path);
    if (status == AQ_OK && f->offset == 0 && ftruncate(f->fd, 0) != 0)
        status = aqi_fail_os(err, errno, "cannot shorten", f->path);
    while (left > 0 && status == AQ_OK) {
        ssize_t n = AQI_PWRITE(f->fd, p, left, (off_t)f->offset);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0)
            status = aqi_fail_os(err, n == 0 ? EIO : errno, "cannot write", f->path);
        if (n <= 0) break;
        p += n;
        f->offset += n;
        left -= (size_t)n;
    }
    if (status == AQ_OK && !j->options.no_sync && fsync(f->fd) != 0)
        status = aqi_fail_os(err, errno, "cannot sync", f->path);
    f->waiting.size = 0;
    f->at = j->bytes_done + (j->works == NULL ? 0 : j->works->in_bytes);
    f->seconds = aqi_seconds();
    return status;
}

/* How a tensor was stored, or how far it is. */
static aq_status aqi_journal_note(aqi_job *j, const aqi_work *w, bool whole,
                                  aq_error *err) {
    const aq_tensor_report *r = &j->reports[w->index];
    aqi_record_tensor t;
    uint32_t i;
    bool ok;
    memset(&t, 0, sizeof t);
    t.index = w->index;
    t.unit = w->done_unit;
    t.col = w->done_col;
    t.in_bytes = w->in_bytes;
    t.whole = whole;
    t.keep = j->plans[w->index].keep;
    t.codebook = j->plans[w->index].quant.codebook;
    t.ranges_known = w->ranges_known;
    t.bits = j->plans[w->index].quant.bits;
    t.num_attempts = r->num_attempts;
    t.num_rows = w->cut.num_chunks;
    t.error_bytes = r->error == NULL ? 0 : (uint32_t)strlen(r->error);
    t.in_crc = w->in_crc;
    t.status = (int32_t)r->status;
    memcpy(t.attempts, r->attempts, sizeof t.attempts);
    t.metrics = w->metrics;
    t.range = w->range;
    t.group = w->group;
    ok = aqi_record_begin(j, AQI_RECORD_TENSOR) && aqi_record_put(j, &t, sizeof t);
    for (i = 0; i < t.num_rows && ok; i++)
        ok = aqi_record_put(j, w->rows[i].crc, sizeof w->rows[i].crc);
    ok = ok && aqi_record_put(j, r->error, t.error_bytes);
    if (!ok) return aqi_fail_nomem(err, j->journal->waiting.size);
    aqi_record_end(j);
    return AQ_OK;
}

/* A checkpoint where enough was done since the last. */
static aq_status aqi_journal_keep_up(aqi_job *j, aq_error *err) {
    const aqi_work *w = j->works;
    uint64_t done = j->bytes_done + (w == NULL ? 0 : w->in_bytes);
    aq_status status = AQ_OK;
    if (j->journal == NULL || j->writer == NULL ||
        done - j->journal->at < AQI_CHECKPOINT_BYTES ||
        aqi_seconds() - j->journal->seconds < AQI_CHECKPOINT_SECONDS)
        return AQ_OK;
    if (w != NULL && w->ready && w->in_bytes > 0)
        status = aqi_journal_note(j, w, false, err);
    return status == AQ_OK ? aqi_journal_checkpoint(j, err) : status;
}

/* ---- the line: joining what pieces found, in order; the lock is held ---- */

/* Tells the caller how far the job is; false to stop. */
static bool aqi_job_progress(const aqi_job *j) {
    aq_progress p;
    if (j->options.progress.fn == NULL) return true;
    p.name = j->current < j->num_tensors ? j->reports[j->current].name : NULL;
    p.tensors_done = j->current;
    p.tensors_total = j->num_tensors;
    p.bytes_done = j->bytes_done;
    p.bytes_total = j->bytes_total;
    if (j->works != NULL && j->current < j->num_tensors)
        p.bytes_done += AQI_MIN(j->works->in_bytes, j->reports[j->current].bytes_in);
    return j->options.progress.fn(j->options.progress.user, &p);
}

static aq_status aqi_job_cancelled(aq_error *err) {
    return aqi_fail(err, AQ_E_CANCELLED,
                    "cancelled; nothing was written under the output's name");
}

/* The same tensor again, by the plan that it has now. */
static aq_status aqi_job_redo(aqi_job *j, size_t index, aq_error *err) {
    j->redo = true;
    j->redo_index = index;
    return aqi_job_apply_plan(j, index, err);
}

/* A tensor that cannot be quantized is kept as it came, unless the caller wants to know
 * at once. */
static aq_status aqi_job_tensor_failed(aqi_job *j, const aqi_slot *s, aq_error *err) {
    const aqi_work *w = s->piece.work;
    aq_tensor_report *r;
    char *text = NULL;
    aq_status status;
    *err = s->err;
    if (w == NULL) return s->status;
    r = &j->reports[w->index];
    aqi_error_in_tensor(err, s->status, r->name);
    if (j->options.fail_fast || w->step != AQI_STEP_QUANTIZE ||
        (s->status != AQ_E_NONFINITE && s->status != AQ_E_LIMIT) || !w->ready)
        return s->status;
    status =
        aqi_arena_string(j->arena, s->err.message, strlen(s->err.message), &text, err);
    if (status != AQ_OK) return status;
    r->status = s->status;
    r->error = text;
    j->plans[w->index].keep = true;
    return aqi_job_redo(j, w->index, err);
}

/* Whether the tensor is good enough; if not, what becomes of it. */
static aq_status aqi_job_gate(aqi_job *j, const aqi_work *w, aq_error *err) {
    aq_tensor_report *r = &j->reports[w->index];
    aq_plan *plan = &j->plans[w->index];
    aq_attempt *a;
    const uint32_t bits = w->out.layout.bits;
    if (w->step != AQI_STEP_QUANTIZE || w->metrics.count == 0) return AQ_OK;
    if (r->num_attempts < AQ_MAX_ATTEMPTS) {
        a = &r->attempts[r->num_attempts++];
        a->bits = bits;
        a->cosine = w->metrics.cosine;
        a->sqnr_db = w->metrics.sqnr_db;
    }
    if (j->writer == NULL || !(w->metrics.cosine < j->options.min_cosine)) return AQ_OK;
    if (j->options.fail_fast) {
        aqi_fail(err, AQ_E_QUALITY,
                 "cosine %.6f with %u bits is under %g; allow more bits, or keep it",
                 w->metrics.cosine, bits, j->options.min_cosine);
        return aqi_error_in_tensor(err, AQ_E_QUALITY, r->name);
    }
    if (bits >= 8) {
        plan->keep = true;
    } else {
        plan->quant.bits = bits < 4 ? 4 : 8;
        if (plan->quant.bits == 8) plan->quant.codebook = false;
    }
    return aqi_job_redo(j, w->index, err);
}

/* Commits the rows of the first tensor in work. */
static aq_status aqi_job_tensor_store(aqi_job *j, aqi_work *w, aq_error *err) {
    aq_tensor_report *r = &j->reports[w->index];
    uint32_t i;
    aq_status status = AQ_OK;
    if (w->step == AQI_STEP_QUANTIZE) {
        r->metrics = w->metrics;
        r->tensor.cosine = w->metrics.cosine;
        r->tensor.sqnr_db = w->metrics.sqnr_db;
        r->tensor.max_abs_error = w->metrics.max_abs_error;
    }
    for (i = 0; w->rows != NULL && i < w->cut.num_chunks && status == AQ_OK; i++) {
        w->rows[i].t.cosine = r->tensor.cosine;
        w->rows[i].t.sqnr_db = r->tensor.sqnr_db;
        w->rows[i].t.max_abs_error = r->tensor.max_abs_error;
        status = aqi_model_writer_commit(j->writer, &w->rows[i], err);
    }
    if (status == AQ_OK && j->journal != NULL && j->writer != NULL && !j->resuming)
        status = aqi_journal_note(j, w, true, err);
    if (status != AQ_OK) return status;
    j->crc = aqi_crc32_join(j->crc, w->in_crc, w->in_bytes);
    j->crc_bytes += w->in_bytes;
    j->bytes_done += r->bytes_in;
    j->current = w->index + 1;
    j->works = w->next;
    if (j->works == NULL) j->last_work = NULL;
    aqi_work_close(j, w);
    return AQ_OK;
}

/* All pieces of the first tensor in work are there. */
static aq_status aqi_job_tensor_done(aqi_job *j, aqi_work *w, aq_error *err) {
    aq_status status = aqi_job_gate(j, w, err);
    return status == AQ_OK && !j->redo ? aqi_job_tensor_store(j, w, err) : status;
}

/* The input of a committed piece is not needed any more. */
static void aqi_job_release(aqi_job *j, const aqi_slot *s) {
    const aqi_work *w = s->piece.work;
    const aqi_model_file *f = &j->model->files[w->entry->file];
    const aqi_source *from = f->parquet != NULL ? &f->parquet->source : &f->source;
    const uint8_t *p = w->in.data;
    if (p == NULL) return;
    p += s->piece.unit * w->in_unit +
         (w->col_step < w->in.layout.cols
              ? s->piece.col * aq_dtype_bytes(w->in.dtype)
              : 0);
    aqi_source_release(from, p, s->in_bytes);
    if (!j->forget || !from->unmap || p < from->map || p >= from->map + from->bytes)
        return;
    aqi_job_watch_file(j, w->entry->file);
    aqi_forget_cached(j->input_fd, p - from->map, (int64_t)s->in_bytes);
    if (s->piece.last && w->rows != NULL) aqi_forget_cached(w->rows->out->fd, 0, 0);
}

static aq_status aqi_job_commit(aqi_job *j, aqi_slot *s, aq_error *err) {
    aqi_work *w = s->piece.work;
    size_t i;
    int k;
    aq_status status = AQ_OK;
    if (s->status != AQ_OK) return aqi_job_tensor_failed(j, s, err);
    if (s->piece.range) {
        if (s->piece.unit == 0 && s->piece.col == 0) w->range = s->range;
        aqi_range_join(&w->range, &s->range);
        if (s->piece.last) aqi_group_make(&w->out.layout, &w->range, &w->group);
        w->ranges_known = s->piece.last;
        return AQ_OK;
    }
    if (w->rows != NULL) {
        aqi_out_row *row = &w->rows[s->piece.unit / w->cut.per_chunk];
        for (k = 0; k < AQI_PARTS; k++)
            row->crc[k] = aqi_crc32_join(row->crc[k], s->crc[k], s->bytes[k]);
    }
    for (i = 0; i < s->num_parts; i++) aq_metrics_add(&w->metrics, &s->parts[i]);
    w->in_crc = aqi_crc32_join(w->in_crc, s->in_crc, s->in_bytes);
    w->in_bytes += s->in_bytes;
    aqi_job_release(j, s);
    w->done_unit = s->piece.unit + s->piece.units;
    w->done_col = s->piece.col + s->piece.cols;
    if (w->col_step >= w->in.layout.cols || w->done_col >= w->in.layout.cols) {
        w->done_col = 0;
    } else {
        w->done_unit = s->piece.unit;
    }
    if (s->piece.last) status = aqi_job_tensor_done(j, w, err);
    if (status == AQ_OK && !j->redo) status = aqi_journal_keep_up(j, err);
    if (status == AQ_OK && !j->redo && !aqi_job_progress(j))
        status = aqi_job_cancelled(err);
    return status;
}

/* Gives up all tensors in work: the first of them will be the next. */
static void aqi_job_drop_works(aqi_job *j) {
    aqi_work *w = j->works;
    if (w == NULL) return;
    j->next_tensor = w->index;
    if (j->writer != NULL) j->writer->planned = w->planned;
    if (j->writer != NULL) j->writer->planned_next = w->index;
    while ((w = j->works) != NULL) {
        j->works = w->next;
        aqi_work_close(j, w);
    }
    j->last_work = j->open = NULL;
}

/* Back to the beginning of a tensor: nothing after it counts. */
static aq_status aqi_job_rewind(aqi_job *j, aq_error *err) {
    AQ_ASSERT(j->works->index == j->redo_index);
    aqi_job_drop_works(j);
    j->taken = j->committed;
    j->redo = false;
    if (j->writer == NULL) return AQ_OK;
    return aqi_model_writer_rewind(j->writer, j->redo_index, j->writer->planned, err);
}

/* What is done from the line's beginning on, as far as it is. */
static void aqi_job_settle(aqi_job *j) {
    while (!j->stop && !j->redo && j->committed < j->taken &&
           j->slots[j->committed % j->num_slots].done) {
        aqi_slot *s = &j->slots[j->committed % j->num_slots];
        j->status = aqi_job_commit(j, s, &j->err);
        j->committed++;
        j->stop = j->status != AQ_OK;
    }
    if (!j->stop && j->redo && j->running == 0) {
        j->status = aqi_job_rewind(j, &j->err);
        j->stop = j->status != AQ_OK;
    }
}

/* A thread of the job. It waits only for pieces that other threads are at. */
static void aqi_job_thread(void *arg, size_t index) {
    aqi_job *j = (aqi_job *)arg;
    (void)index;
    aqi_mutex_lock(&j->lock);
    while (!j->stop && (j->redo || j->open != NULL || j->next_tensor < j->num_tensors ||
                        j->committed < j->taken)) {
        aqi_slot *s = aqi_job_take(j);
        if (s == NULL) {
            aqi_cond_wait(&j->changed, &j->lock);
            continue;
        }
        if (!s->done) {
            j->running++;
            j->bytes_running += s->cost;
            aqi_mutex_unlock(&j->lock);
            aqi_piece_run(j, s);
            aqi_mutex_lock(&j->lock);
            j->bytes_running -= s->cost;
            j->running--;
            s->done = true;
        }
        aqi_job_settle(j);
        aqi_cond_wake_all(&j->changed);
    }
    aqi_cond_wake_all(&j->changed);
    aqi_mutex_unlock(&j->lock);
}

/* All pieces of all tensors. */
static aq_status aqi_job_line(aqi_job *j, aq_error *err) {
    const aqi_work *w;
    size_t i, bytes;
    j->num_slots = 4 * (size_t)j->width + 4;
    bytes = j->num_slots * sizeof *j->slots;
    j->slots = (aqi_slot *)aqi_alloc(&j->allocator, bytes);
    if (j->slots == NULL) return aqi_fail_nomem(err, bytes);
    memset(j->slots, 0, bytes);
    aqi_run(j->tasks, j->width, aqi_job_thread, j);
    w = j->works;
    if (j->journal != NULL && j->writer != NULL && j->status != AQ_OK &&
        j->writer->failed == AQ_OK &&
        (j->journal->offset > 0 || j->current > 0 || (w != NULL && w->in_bytes > 0))) {
        /* The next run goes on here; the error that is reported is the first one. */
        if ((w == NULL || !w->ready || w->in_bytes == 0 ||
             aqi_journal_note(j, w, false, NULL) == AQ_OK) &&
            aqi_journal_checkpoint(j, NULL) != AQ_OK)
            j->journal->waiting.size = 0;
    }
    aqi_job_drop_works(j);
    for (i = 0; i < j->num_slots; i++)
        aqi_free(&j->allocator, j->slots[i].parts,
                 j->slots[i].parts_room * sizeof *j->slots[i].parts);
    aqi_free(&j->allocator, j->slots, bytes);
    j->slots = NULL;
    if (j->status != AQ_OK && err != NULL) *err = j->err;
    return j->status;
}

/* The line from its beginning on. */
static void aqi_job_restart(aqi_job *j) {
    j->next_tensor = j->current = 0;
    j->taken = j->committed = 0;
    j->crc = 0;
    j->crc_bytes = 0;
    j->open = NULL;
    j->status = AQ_OK;
    j->stop = j->redo = false;
}

/* ---- going on where an earlier run was ---- */

/* Whether the output is as long as it must be with the tensor, or with what comes before
 * its next piece. */
static bool aqi_work_is_there(aqi_work *w, bool whole, int64_t file_bytes) {
    aqi_part parts[AQI_PARTS];
    int64_t end[AQI_PARTS];
    aqi_piece next;
    uint32_t i;
    int k;
    memset(&next, 0, sizeof next);
    next.work = w;
    next.unit = w->done_unit;
    next.col = w->done_col;
    for (i = 0; i < w->cut.num_chunks; i++) {
        const aqi_out_row *row = &w->rows[i];
        const size_t first = i * w->cut.per_chunk;
        const bool all = whole || first + w->cut.per_chunk <= w->done_unit;
        if (!all && first + (w->done_col == 0) > w->done_unit) break;
        aqi_parts_of(&row->t, parts);
        aqi_piece_offsets(&next, row, parts, end);
        for (k = 0; k < AQI_PARTS; k++) {
            if (all || parts[k].stride == 0)
                end[k] = row->at[k] + (int64_t)parts[k].bytes;
            if (parts[k].bytes > 0 && end[k] > file_bytes) return false;
        }
    }
    return true;
}

/* Takes a tensor over from its record; *out_fits stays false where the record does not
 * fit. */
static aq_status aqi_resume_tensor(aqi_job *j, const uint8_t *record, size_t bytes,
                                   int64_t file_bytes, bool *out_fits, aq_error *err) {
    aqi_record_tensor t;
    aq_tensor_report *r;
    aqi_work *w = NULL;
    char *text = NULL;
    uint32_t i;
    aq_status status;
    *out_fits = false;
    if (bytes < sizeof t) return AQ_OK;
    memcpy(&t, record, sizeof t);
    record += sizeof t;
    if (t.index != j->next_tensor || t.index >= j->num_tensors ||
        t.num_attempts > AQ_MAX_ATTEMPTS ||
        bytes != sizeof t + t.num_rows * sizeof w->rows->crc + t.error_bytes)
        return AQ_OK;
    r = &j->reports[t.index];
    j->plans[t.index].keep = t.keep;
    j->plans[t.index].quant.bits = t.bits;
    j->plans[t.index].quant.codebook = t.codebook;
    status = aqi_job_apply_plan(j, (size_t)t.index, err);
    if (status == AQ_OK) status = aqi_work_open(j, &w, err);
    if (status != AQ_OK) return status;
    w->done_unit = (size_t)t.unit;
    w->done_col = (size_t)t.col;
    if (w->cut.num_chunks != t.num_rows || t.unit >= w->units + t.whole ||
        !aqi_work_is_there(w, t.whole, file_bytes))
        return AQ_OK;
    for (i = 0; i < t.num_rows; i++, record += sizeof w->rows->crc)
        memcpy(w->rows[i].crc, record, sizeof w->rows->crc);
    if (t.error_bytes > 0)
        status = aqi_arena_string(j->arena, record, t.error_bytes, &text, err);
    if (status != AQ_OK) return status;
    r->error = text;
    r->status = (aq_status)t.status;
    r->num_attempts = t.num_attempts;
    memcpy(r->attempts, t.attempts, sizeof t.attempts);
    w->metrics = t.metrics;
    w->range = t.range;
    w->group = t.group;
    w->ranges_known = t.ranges_known;
    w->in_crc = t.in_crc;
    w->in_bytes = t.in_bytes;
    *out_fits = true;
    if (t.whole) return aqi_job_tensor_store(j, w, err);
    j->open = w;
    j->open_unit = w->done_unit;
    j->open_col = w->done_col;
    j->open_range = false;
    return AQ_OK;
}

/* All that the journal has; the line will go on behind it. */
static aq_status aqi_job_resume(aqi_job *j, aq_error *err) {
    aqi_journal *f = j->journal;
    aqi_output *out =
        j->writer->parquet != NULL ? &j->writer->parquet->out : &j->writer->out;
    const uint8_t *record;
    struct stat st;
    aq_plan plan;
    size_t bytes, at;
    int64_t end;
    bool fits;
    aq_status status = aqi_output_flush(out, err);
    if (status != AQ_OK) return status;
    if (fstat(out->fd, &st) != 0)
        return aqi_fail_os(err, errno, "cannot stat", out->path);
    j->resuming = true;
    for (;;) {
        at = f->old_at;
        record = aqi_record_next(f, AQI_RECORD_TENSOR, &bytes);
        if (record == NULL) break;
        aqi_job_drop_works(j); /* an earlier record of the same tensor */
        if (j->next_tensor < j->num_tensors) plan = j->plans[j->next_tensor];
        status = aqi_resume_tensor(j, record, bytes, (int64_t)st.st_size, &fits, err);
        if (status == AQ_OK && fits) continue;
        f->old_at = at; /* as if it had not been written */
        aqi_job_drop_works(j);
        if (status != AQ_OK || j->next_tensor == j->num_tensors) break;
        j->plans[j->next_tensor] = plan;
        status = aqi_job_apply_plan(j, j->next_tensor, err);
        break;
    }
    j->resuming = false;
    j->num_resumed = j->current;
    f->at = j->bytes_done + (j->works == NULL ? 0 : j->works->in_bytes);
    if (f->old.size > 0) f->offset = (int64_t)f->old_at;
    if (status == AQ_OK) status = aqi_output_flush(out, err);
    /* What lies behind was not said to be durable, or is another job's. */
    end = j->works != NULL ? j->writer->planned : out->offset;
    if (j->writer->format == AQ_MODEL_SAFETENSORS)
        end = AQI_MIN((int64_t)st.st_size,
                      out->offset + aqi_safetensors_offsets(j->writer));
    if (status == AQ_OK && ftruncate(out->fd, (off_t)end) != 0)
        status = aqi_fail_os(err, errno, "cannot shorten", out->path);
    return status;
}

/* The plan that an earlier run has measured; false: it has not. */
static bool aqi_resume_plan(aqi_job *j) {
    size_t bytes, i;
    const uint8_t *p;
    if (j->journal == NULL) return false;
    p = aqi_record_next(j->journal, AQI_RECORD_PLAN, &bytes);
    if (p == NULL || bytes != 3 * j->num_tensors) return false;
    for (i = 0; i < j->num_tensors; i++, p += 3) {
        j->plans[i].keep = p[0] != 0;
        j->plans[i].quant.bits = p[1];
        j->plans[i].quant.codebook = p[2] != 0;
        if (aqi_job_apply_plan(j, i, NULL) != AQ_OK) return false;
    }
    return true;
}

/* The measured plan for the journal. */
static aq_status aqi_journal_note_plan(aqi_job *j, aq_error *err) {
    size_t i;
    bool ok;
    if (j->journal == NULL) return AQ_OK;
    ok = aqi_record_begin(j, AQI_RECORD_PLAN);
    for (i = 0; i < j->num_tensors && ok; i++) {
        uint8_t plan[3];
        plan[0] = j->plans[i].keep;
        plan[1] = (uint8_t)j->plans[i].quant.bits;
        plan[2] = j->plans[i].quant.codebook;
        ok = aqi_record_put(j, plan, sizeof plan);
    }
    if (!ok) return aqi_fail_nomem(err, j->journal->waiting.size);
    aqi_record_end(j);
    return AQ_OK;
}

/* ---- bits for a size ---- */

/* What a tensor costs and loses at each width it may have; the last: kept. */
enum { AQI_RATES = 4 };
typedef struct aqi_rates {
    uint64_t bytes[AQI_RATES];
    double loss[AQI_RATES]; /* noise over signal, times elements */
    int chosen;
    bool free; /* may be changed */
} aqi_rates;

static const uint32_t aqi_rate_bits[AQI_RATES] = {2, 4, 8, 0};

static void aqi_plan_rate(aq_plan *plan, const aq_quant_options *quant, int rate) {
    plan->keep = rate == AQI_RATES - 1;
    plan->quant = *quant;
    plan->quant.bits = plan->keep ? 8 : aqi_rate_bits[rate];
    if (plan->quant.bits == 8) plan->quant.codebook = false;
}

/* The next step up from the chosen rate that saves most loss a byte, by the convex hull
 * of the points; 0 = none. */
static int aqi_rates_next(const aqi_rates *r, double *out_slope) {
    int k, best = 0;
    *out_slope = 0.0;
    for (k = r->chosen + 1; k < AQI_RATES; k++) {
        double more = (double)r->bytes[k] - (double)r->bytes[r->chosen];
        double slope = r->loss[r->chosen] - r->loss[k];
        if (slope <= 0.0) continue;
        slope = more <= 0.0 ? (double)INFINITY : slope / more;
        if (slope > *out_slope) best = k;
        if (slope > *out_slope) *out_slope = slope;
    }
    return best;
}

/* Steps up in the order of what they save, as long as they fit. This is what Lagrange's
 * multipliers give on the hulls of the points. */
static aq_status aqi_rates_choose(aqi_job *j, aqi_rates *rates, uint64_t target,
                                  aq_error *err) {
    uint64_t total = 0;
    size_t i, best;
    double slope, most;
    int k;
    for (i = 0; i < j->num_tensors; i++) total += rates[i].bytes[rates[i].chosen];
    if (total > target)
        return aqi_fail(
            err, AQ_E_QUALITY,
            "%llu bytes cannot be reached: with 2 bits wherever it may be the "
            "tensors take %llu",
            (unsigned long long)target, (unsigned long long)total);
    for (;;) {
        best = SIZE_MAX;
        most = 0.0;
        for (i = 0; i < j->num_tensors; i++) {
            if (!rates[i].free || aqi_rates_next(&rates[i], &slope) == 0) continue;
            if (slope > most) best = i;
            if (slope > most) most = slope;
        }
        if (best == SIZE_MAX) return AQ_OK;
        k = aqi_rates_next(&rates[best], &slope);
        if (rates[best].bytes[k] <= rates[best].bytes[rates[best].chosen] ||
            rates[best].bytes[k] - rates[best].bytes[rates[best].chosen] <=
                target - total) {
            total += rates[best].bytes[k] - rates[best].bytes[rates[best].chosen];
            rates[best].chosen = k;
        } else {
            rates[best].free = false; /* does not fit; what follows saves less a byte */
        }
    }
}

/* Quantizes every tensor at each width, to see what it loses, and chooses. */
static aq_status aqi_job_measure(aqi_job *j, aqi_rates *rates, aq_error *err) {
    const uint64_t total = j->bytes_total;
    size_t i;
    int k;
    aq_status status = AQ_OK;
    j->bytes_total = 3 * total; /* seen by the progress hook */
    for (i = 0; i < j->num_tensors; i++) {
        rates[i].free = !j->plans[i].keep;
        rates[i].chosen = rates[i].free ? 0 : AQI_RATES - 1;
        rates[i].bytes[AQI_RATES - 1] = j->reports[i].bytes_in;
    }
    for (k = 0; k < AQI_RATES - 1 && status == AQ_OK; k++) {
        for (i = 0; i < j->num_tensors && status == AQ_OK; i++) {
            const aq_quant_options quant = j->plans[i].quant;
            if (rates[i].free) aqi_plan_rate(&j->plans[i], &quant, k);
            if (rates[i].free) status = aqi_job_apply_plan(j, i, err);
        }
        aqi_job_restart(j);
        if (status == AQ_OK) status = aqi_job_line(j, err);
        for (i = 0; i < j->num_tensors && status == AQ_OK; i++) {
            const aq_metrics *m = &j->reports[i].metrics;
            rates[i].free = rates[i].free && !j->plans[i].keep; /* it has failed */
            if (!rates[i].free) rates[i].chosen = AQI_RATES - 1;
            rates[i].bytes[k] = j->reports[i].bytes_out;
            rates[i].loss[k] = m->sum_aa > 0.0
                                   ? m->sum_dd / m->sum_aa * (double)m->count
                                   : 0.0;
        }
    }
    j->bytes_total = total;
    j->bytes_done = 0;
    return status;
}

static aq_status aqi_job_fit(aqi_job *j, aq_error *err) {
    uint64_t target = j->options.target_bytes, params = 0;
    aqi_rates *rates;
    size_t i;
    void *p;
    aq_status status =
        aqi_arena_alloc(j->arena, j->num_tensors * sizeof *rates, &p, err);
    if (status != AQ_OK) return status;
    rates = (aqi_rates *)p;
    if (aqi_resume_plan(j)) return AQ_OK;
    if (j->num_tensors > 0) memset(rates, 0, j->num_tensors * sizeof *rates);
    for (i = 0; i < j->num_tensors; i++) params += j->reports[i].tensor.num_params;
    if (target == 0) target = (uint64_t)(j->options.target_bpw * (double)params / 8.0);
    status = aqi_job_measure(j, rates, err);
    if (status == AQ_OK) status = aqi_rates_choose(j, rates, target, err);
    for (i = 0; i < j->num_tensors && status == AQ_OK; i++) {
        const aq_quant_options quant = j->plans[i].quant;
        memset(&j->reports[i].metrics, 0, sizeof j->reports[i].metrics);
        if (j->plans[i].keep) continue;
        aqi_plan_rate(&j->plans[i], &quant, rates[i].chosen);
        status = aqi_job_apply_plan(j, i, err);
    }
    return status == AQ_OK ? aqi_journal_note_plan(j, err) : status;
}

/* ---- writing ---- */

static const char *aqi_base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash == NULL || slash[1] == '\0' ? path : slash + 1;
}

/* How the tensors were treated, for the Parquet footer. */
static void aqi_job_config(const aqi_job *j, char *text, size_t room) {
    static const char *const granularity[] = {"group", "channel", "tensor"};
    static const char *const operation[] = {"quantize", "dequantize", "convert"};
    static const char *const method[] = {"auto", "minmax", "refine", "search",
                                         "weighted"};
    static const char *const params[] = {"", ",\"params\":\"float16\"",
                                         ",\"params\":\"uint8\""};
    const aq_quant_options *q = &j->quant;
    snprintf(
        text, room,
        "{\"operation\":\"%s\",\"bits\":%u,\"group_size\":%zu,\"granularity\":\"%s\","
        "\"symmetric\":%s,\"method\":\"%s\"%s%s}",
        operation[j->options.operation], q->bits, q->group_size,
        granularity[q->granularity], q->symmetric ? "true" : "false", method[q->method],
        params[q->params], q->codebook ? ",\"codebook\":true" : "");
}

/* Where the weights came from. */
static aq_status aqi_job_lineage(const aqi_job *j, aq_writer *parquet, aq_error *err) {
    aqi_bytes_builder b = {NULL, 0, 0};
    char text[512];
    bool ok;
    aq_status status = AQ_OK;
    if (j->merged_source != NULL) {
        if (j->merged_config != NULL)
            status = aq_writer_add_key_value(parquet, "arrowquant.config",
                                             j->merged_config, err);
        if (status != AQ_OK) return status;
        return aq_writer_add_key_value(parquet, "arrowquant.source", j->merged_source,
                                       err);
    }
    if (j->options.operation == AQ_QUANTIZE) {
        aqi_job_config(j, text, sizeof text);
        status = aq_writer_add_key_value(parquet, "arrowquant.config", text, err);
    }
    if (status == AQ_OK && j->options.num_shards > 0) {
        snprintf(text, sizeof text, "{\"index\":%u,\"count\":%u,\"input_bytes\":%llu}",
                 j->options.shard, j->options.num_shards,
                 (unsigned long long)j->crc_bytes);
        status = aq_writer_add_key_value(parquet, "arrowquant.shard", text, err);
    }
    if (status != AQ_OK) return status;
    snprintf(text, sizeof text, ",\"bytes\":%llu,\"tensors_crc32\":\"%08x\"}",
             (unsigned long long)aq_model_file_bytes(j->model), (unsigned)j->crc);
    ok = aqi_put_text(&j->allocator, &b, "{\"file\":") &&
         aqi_put_json_string(&j->allocator, &b, aqi_base_name(j->input)) &&
         aqi_put_text(&j->allocator, &b, text) &&
         aqi_builder_append(&j->allocator, &b, "", 1);
    status = ok ? aq_writer_add_key_value(parquet, "arrowquant.source",
                                          (const char *)b.data, err)
                : aqi_fail_nomem(err, b.size);
    aqi_builder_free(&j->allocator, &b);
    return status;
}

/* The input's own metadata goes on to the output; what describes the container does
 * not. */
static bool aqi_metadata_travels(const char *key) {
    return strncmp(key, "arrowquant.", 11) != 0 && strcmp(key, "ARROW:schema") != 0;
}

/* The output must be none of the files that the input consists of. */
static aq_status aqi_job_check_output(const aqi_job *j, aq_error *err) {
    aq_status status = AQ_OK;
    size_t i, n = strlen(j->output);
    if (n > 0 && j->output[n - 1] == '/') return AQ_OK; /* a new directory */
    for (i = 0; i < j->model->num_files && status == AQ_OK; i++)
        status = aqi_output_check(j->output, j->model->files[i].path, err);
    return status;
}

static aq_status aqi_job_open_writer(aqi_job *j, aq_error *err) {
    aqi_model_writer_extra extra;
    aq_model_writer_options o;
    aq_key_value pair, *pairs;
    size_t i, n = 0;
    void *p;
    aq_status status;
    memset(&o, 0, sizeof o);
    while (aq_model_metadata(j->model, n, &pair)) n++;
    status = aqi_arena_alloc(j->arena, n * sizeof *pairs, &p, err);
    if (status != AQ_OK) return status;
    pairs = (aq_key_value *)p;
    for (i = 0; i < n; i++) {
        aq_model_metadata(j->model, i, &pair);
        if (aqi_metadata_travels(pair.key)) pairs[o.num_metadata++] = pair;
    }
    for (i = 0; i < j->num_tensors; i++) j->outputs[i] = j->reports[i].tensor;
    o.metadata = pairs;
    if (j->merged_source != NULL) {
        o.metadata = j->merged_pairs;
        o.num_metadata = j->num_merged_pairs;
    }
    o.allocator = &j->allocator;
    o.input_path = j->input;
    o.no_sync = j->options.no_sync;
    o.chunk_bytes = j->options.chunk_bytes;
    memset(&extra, 0, sizeof extra);
    extra.small_params = j->small_params;
    extra.part = j->options.resume;
    return aqi_model_writer_open(j->output, j->outputs, j->num_tensors, &o, &extra,
                                 &j->writer, err);
}

static aq_status aqi_job_write(aqi_job *j, aq_error *err) {
    aq_model_writer *writer;
    aq_status status = aqi_job_check_output(j, err);
    if (status == AQ_OK) status = aqi_job_open_writer(j, err);
    if (status != AQ_OK) return status;
    aqi_job_restart(j);
    if (j->journal != NULL) status = aqi_job_resume(j, err);
    if (status == AQ_OK && !aqi_job_progress(j)) status = aqi_job_cancelled(err);
    if (status == AQ_OK) status = aqi_job_line(j, err);
    aqi_job_drop_works(j);
    writer = j->writer;
    j->writer = NULL;
    if (status == AQ_OK && writer->format == AQ_MODEL_PARQUET)
        status = aqi_job_lineage(j, writer->parquet, err);
    if (status == AQ_OK) {
        j->directory_bytes = writer->directory_file_bytes;
        status = aq_model_writer_finish(writer, err);
        aqi_journal_close(j, status == AQ_OK);
        return status;
    }
    if (j->journal != NULL && j->journal->offset == 0) { /* nothing worth to be kept */
        writer->out.keep = false;
        if (writer->parquet != NULL) writer->parquet->out.keep = false;
        aqi_journal_close(j, true);
    }
    aq_model_writer_abort(writer);
    return status;
}

/* ---- merging shards ---- */

/* What a shard says of itself. */
typedef struct aqi_shard {
    const char *config, *source, *shard;
    unsigned index, count, crc;
    unsigned long long input_bytes;
} aqi_shard;

static aq_status aqi_shard_read(const aq_parquet *f, aqi_shard *out, aq_error *err) {
    aq_key_value pair;
    const char *crc;
    int32_t i;
    memset(out, 0, sizeof *out);
    for (i = 0; aq_parquet_key_value(f, i, &pair); i++) {
        if (pair.value == NULL) continue;
        if (strcmp(pair.key, "arrowquant.config") == 0) out->config = pair.value;
        if (strcmp(pair.key, "arrowquant.source") == 0) out->source = pair.value;
        if (strcmp(pair.key, "arrowquant.shard") == 0) out->shard = pair.value;
    }
    crc = out->source == NULL ? NULL : strstr(out->source, "\"tensors_crc32\":\"");
    if (out->shard == NULL || crc == NULL ||
        sscanf(out->shard, "{\"index\":%u,\"count\":%u,\"input_bytes\":%llu}",
               &out->index, &out->count, &out->input_bytes) != 3 ||
        sscanf(crc, "\"tensors_crc32\":\"%8x\"}", &out->crc) != 1)
        return aqi_fail(err, AQ_E_FORMAT,
                        "no shard: its metadata has no arrowquant.shard and "
                        "arrowquant.source; make it with a shard option");
    return AQ_OK;
}

/* Whether two texts, either of which may be NULL, are the same, up to a word. */
static bool aqi_same_text(const char *a, const char *b, const char *end) {
    const char *stop;
    if (a == NULL || b == NULL) return a == b;
    stop = end == NULL ? NULL : strstr(a, end);
    return stop == NULL ? strcmp(a, b) == 0 : strncmp(a, b, (size_t)(stop - a)) == 0;
}

/* Checks that the files are all shards of one job; in the order of their numbers to
 * by_index. */
static aq_status aqi_merge_check(const aq_model *m, aqi_shard *shards, size_t *by_index,
                                 aq_error *err) {
    size_t i, n = m->num_files;
    aq_status status;
    for (i = 0; i < n; i++) by_index[i] = SIZE_MAX;
    for (i = 0; i < n; i++) {
        aqi_shard *s = &shards[i];
        status = aqi_shard_read(m->files[i].parquet, s, err);
        if (status == AQ_OK && s->count != n)
            status = aqi_fail(err, AQ_E_ARG, "shard %u of %u; %zu were given", s->index,
                              s->count, n);
        if (status == AQ_OK && (s->index >= n || by_index[s->index] != SIZE_MAX))
            status = aqi_fail(err, AQ_E_DUPLICATE, "shard %u comes twice, or is none",
                              s->index);
        if (status == AQ_OK &&
            (!aqi_same_text(s->config, shards[0].config, NULL) ||
             !aqi_same_text(s->source, shards[0].source, "\"tensors_crc32\"")))
            status = aqi_fail(err, AQ_E_ARG,
                              "shard of another model, or made with other options");
        if (status != AQ_OK) return aqi_error_in_file(err, status, m->files[i].path);
        by_index[s->index] = i;
    }
    return AQ_OK;
}

/* The metadata of the whole from that of the shards. */
static aq_status aqi_merge_metadata(aqi_job *j, const aqi_shard *shards,
                                    const size_t *by_index, aq_error *err) {
    const aq_parquet *first = j->model->files[0].parquet;
    aq_key_value pair, *pairs;
    size_t i, n = 0, length;
    uint32_t crc = 0;
    int32_t k;
    char *source = NULL;
    void *p;
    aq_status status;
    for (i = 0; i < j->model->num_files; i++)
        crc = aqi_crc32_join(crc, shards[by_index[i]].crc,
                             shards[by_index[i]].input_bytes);
    length = (size_t)(strstr(shards[0].source, "\"tensors_crc32\"") - shards[0].source);
    status = aqi_arena_string(j->arena, NULL, length + 32, &source, err);
    if (status != AQ_OK) return status;
    memcpy(source, shards[0].source, length);
    snprintf(source + length, 32, "\"tensors_crc32\":\"%08x\"}", (unsigned)crc);
    j->merged_source = source;
    j->merged_config = shards[0].config;
    for (k = 0; aq_parquet_key_value(first, k, &pair); k++) n++;
    status = aqi_arena_alloc(j->arena, n * sizeof *pairs, &p, err);
    if (status != AQ_OK) return status;
    pairs = (aq_key_value *)p;
    for (k = 0; aq_parquet_key_value(first, k, &pair); k++) {
        if (aqi_metadata_travels(pair.key)) pairs[j->num_merged_pairs++] = pair;
    }
    j->merged_pairs = pairs;
    return AQ_OK;
}

static aq_status aqi_job_merge(aqi_job *j, aq_error *err) {
    aqi_shard *shards;
    size_t *by_index, n = j->model->num_files;
    void *p;
    aq_status status = aqi_arena_alloc(j->arena, n * sizeof *shards, &p, err);
    if (status != AQ_OK) return status;
    shards = (aqi_shard *)p;
    status = aqi_arena_alloc(j->arena, n * sizeof *by_index, &p, err);
    if (status != AQ_OK) return status;
    by_index = (size_t *)p;
    status = aqi_merge_check(j->model, shards, by_index, err);
    return status == AQ_OK ? aqi_merge_metadata(j, shards, by_index, err) : status;
}

/* ---- a job from its beginning to its end ---- */

/* Sums over the tensors. */
static void aqi_job_summarize(const aqi_job *j, aq_job_report *r) {
    size_t i;
    struct stat st;
    r->tensors = j->reports;
    r->num_tensors = j->num_tensors;
    r->num_resumed = j->num_resumed;
    r->worst = SIZE_MAX;
    for (i = 0; i < j->num_tensors; i++) {
        const aq_tensor_report *t = &j->reports[i];
        r->num_params += t->tensor.num_params;
        r->bytes_in += t->bytes_in;
        r->bytes_out += t->bytes_out;
        if (t->status != AQ_OK) r->num_failed++;
        if (j->options.operation == AQ_QUANTIZE && t->tensor.layout.bits != 0)
            r->num_quantized++;
        if (t->metrics.count == 0) continue;
        aq_metrics_add(&r->total, &t->metrics);
        if (r->worst == SIZE_MAX ||
            t->metrics.sqnr_db < j->reports[r->worst].metrics.sqnr_db)
            r->worst = i;
    }
    r->file_bytes_in = aq_model_file_bytes(j->model);
    if (!j->options.dry_run && stat(j->output, &st) == 0)
        r->file_bytes_out =
            S_ISDIR(st.st_mode) ? j->directory_bytes : (uint64_t)st.st_size;
    aq_pool_get_stats(j->pool, &r->pool);
}

static aq_status aqi_job_start(aqi_job *j, aq_error *err) {
    aq_model_options mo;
    aq_pool_options po;
    aq_status status = aqi_quant_options_resolve(&j->options.quant, &j->quant, err);
    if (status != AQ_OK) return status;
    memset(&mo, 0, sizeof mo);
    memset(&po, 0, sizeof po);
    mo.allocator = &j->allocator;
    mo.log = j->options.log;
    mo.io = j->options.io;
    if (j->options.mode == AQ_JOB_PARALLEL && mo.io == AQ_IO_AUTO) mo.io = AQ_IO_READ;
    po.allocator = &j->allocator;
    j->budget = j->options.max_memory_bytes;
    if (j->budget == 0) j->budget = AQI_DEFAULT_MEMORY;
    po.max_idle_bytes = (size_t)AQI_MIN(j->budget, (uint64_t)SIZE_MAX / 2);
    po.min_buffer_bytes = (size_t)64 << 10;
    if (j->options.mode == AQ_JOB_PARALLEL && j->options.max_memory_bytes == 0) {
        j->budget = UINT64_MAX;
        po.max_idle_bytes = SIZE_MAX / 2; /* as much as is in use */
    }
    if (j->model == NULL) {
        status = aq_model_open(j->input, &mo, &j->own_model, err);
        j->model = j->own_model;
    }
    if (status == AQ_OK && j->pool == NULL) {
        status = aq_pool_create(&po, &j->own_pool, err);
        j->pool = j->own_pool;
    }
    if (status == AQ_OK && j->tasks == NULL) {
        status =
            aq_threads_create(j->options.threads, &j->allocator, &j->own_threads, err);
        if (status == AQ_OK) j->tasks = aq_threads_tasks(j->own_threads);
    }
    if (status == AQ_OK) j->forget = aqi_exceeds_memory(aq_model_file_bytes(j->model));
    j->width = j->tasks == NULL || j->tasks->width == 0 ? 4 : j->tasks->width;
    return status;
}

void aq_job_report_deinit(aq_job_report *report) {
    aq_allocator a;
    if (report == NULL || report->arena == NULL) return;
    a = report->allocator;
    aqi_arena_deinit((aqi_arena *)report->arena);
    aqi_free(&a, report->arena, sizeof(aqi_arena));
    memset(report, 0, sizeof *report);
}

static aq_status aqi_job_options_check(const aq_job_options *o, const char *output,
                                       aq_error *err) {
    if ((int)o->operation < AQ_QUANTIZE || o->operation > AQ_CONVERT)
        return aqi_fail(err, AQ_E_ARG, "operation %d is none of aq_operation",
                        (int)o->operation);
    if ((int)o->mode < AQ_JOB_STREAMING || o->mode > AQ_JOB_PARALLEL)
        return aqi_fail(err, AQ_E_ARG, "mode %d is none of aq_job_mode", (int)o->mode);
    if (!(o->min_cosine >= 0.0 && o->min_cosine <= 1.0) || !(o->target_bpw >= 0.0) ||
        o->target_bpw > 64.0)
        return aqi_fail(err, AQ_E_ARG, "min_cosine %g or target_bpw %g is out of range",
                        o->min_cosine, o->target_bpw);
    if (o->target_bpw > 0.0 && o->target_bytes > 0)
        return aqi_fail(err, AQ_E_ARG, "target_bpw and target_bytes exclude each other");
    if (o->resume && output != NULL && aqi_ends_with(output, "/"))
        return aqi_fail(
            err, AQ_E_UNSUPPORTED,
            "a job that writes a directory cannot be resumed; write one file");
    if ((o->target_bpw > 0.0 || o->target_bytes > 0) && o->num_shards > 0)
        return aqi_fail(err, AQ_E_ARG,
                        "a target for all tensors cannot be met by a shard alone");
    return AQ_OK;
}

/* A job from its options on; the model may be there. */
static aq_status aqi_job_all(aqi_job *j, aq_error *err) {
    const aq_job_options *o = &j->options;
    aq_status status = aqi_job_start(j, err);
    if (status == AQ_OK && j->merge) status = aqi_job_merge(j, err);
    if (status == AQ_OK) status = aqi_job_plan(j, err);
    if (status == AQ_OK && o->resume && !o->dry_run) status = aqi_journal_open(j, err);
    if (status == AQ_OK && o->operation == AQ_QUANTIZE &&
        (o->target_bpw > 0.0 || o->target_bytes > 0))
        status = aqi_job_fit(j, err);
    if (status == AQ_OK && !o->dry_run) status = aqi_job_write(j, err);
    return status;
}

static aq_status aqi_job_run(aqi_job *j, const aq_job_options *options,
                             aq_job_report *out_report, aq_error *err) {
    aq_job_report report;
    double start = aqi_seconds();
    aq_status status;
    memset(&report, 0, sizeof report);
    if (options != NULL) j->options = *options;
    status = aqi_job_options_check(&j->options, j->output, err);
    if (status == AQ_OK)
        status = aqi_allocator_resolve(j->options.allocator, &j->allocator, err);
    j->pool = j->options.pool;
    j->tasks = j->options.tasks;
    j->input_fd = -1;
    if (status == AQ_OK)
        j->arena = (aqi_arena *)aqi_alloc(&j->allocator, sizeof *j->arena);
    if (status == AQ_OK && j->arena == NULL)
        status = aqi_fail_nomem(err, sizeof *j->arena);
    if (status != AQ_OK) {
        aq_model_close(j->own_model);
        return status;
    }
    aqi_arena_init(j->arena, &j->allocator);
    report.allocator = j->allocator;
    report.arena = j->arena;
    if (!aqi_mutex_init(&j->lock)) {
        status = aqi_fail_nomem(err, sizeof j->lock);
    } else if (!aqi_cond_init(&j->changed)) {
        aqi_mutex_deinit(&j->lock);
        status = aqi_fail_nomem(err, sizeof j->changed);
    } else {
        status = aqi_job_all(j, err);
        aqi_journal_close(j, aqi_journal_is_empty(j));
        if (status == AQ_OK) aqi_job_summarize(j, &report);
        if (j->input_fd >= 0) close(j->input_fd);
        aqi_cond_deinit(&j->changed);
        aqi_mutex_deinit(&j->lock);
    }
    report.seconds = aqi_seconds() - start;
    aq_model_close(j->own_model);
    aq_threads_destroy(j->own_threads);
    aq_pool_destroy(j->own_pool);
    if (status == AQ_OK && out_report != NULL) {
        *out_report = report;
    } else {
        aq_job_report_deinit(&report);
    }
    return status;
}

aq_status aq_job_run(const char *input, const char *output, const aq_job_options *options,
                     aq_job_report *out_report, aq_error *err) {
    aqi_job j;
    aqi_error_clear(err);
    if (out_report != NULL) memset(out_report, 0, sizeof *out_report);
    if (input == NULL || (output == NULL && !(options != NULL && options->dry_run)))
        return aqi_fail(err, AQ_E_ARG, "input or output path missing");
    memset(&j, 0, sizeof j);
    j.input = input;
    j.output = output;
    return aqi_job_run(&j, options, out_report, err);
}

aq_status aq_merge(const char *const *shards, size_t num_shards, const char *output,
                   const aq_job_options *options, aq_job_report *out_report,
                   aq_error *err) {
    aq_model_options mo;
    aq_job_options o;
    aqi_job j;
    aq_status status;
    aqi_error_clear(err);
    if (out_report != NULL) memset(out_report, 0, sizeof *out_report);
    memset(&o, 0, sizeof o);
    if (options != NULL) o = *options;
    if (shards == NULL || num_shards == 0 || output == NULL)
        return aqi_fail(err, AQ_E_ARG, "shards or output path missing");
    if (o.num_shards > 0 || o.resume)
        return aqi_fail(err, AQ_E_ARG, "a merge has no shards of its own, and cannot be "
                        "resumed");
    o.operation = AQ_CONVERT;
    memset(&mo, 0, sizeof mo);
    mo.allocator = o.allocator;
    mo.log = o.log;
    mo.io = o.io;
    memset(&j, 0, sizeof j);
    j.output = output;
    j.input = shards[0];
    j.merge = true;
    status = aqi_model_create(&mo, &j.own_model, err);
    if (status != AQ_OK) return status;
    status = aqi_model_read_files(j.own_model, shards, num_shards, err);
    if (status != AQ_OK) {
        aq_model_close(j.own_model);
        return status;
    }
    j.model = j.own_model;
    return aqi_job_run(&j, &o, out_report, err);
}

#endif /* AQ_NO_WRITER */

/*==========================================================================
 * MARK: - [87] Batches (private)
 * The tiles of all arrays, in name order, are one list that is worked on in waves:
 * neither many small arrays nor a large one among them leave threads idle. Uses [80]
 * [83].
 *========================================================================*/

/* Tiles of a wave: AQI_WAVE of them, up to this number as long as they are small. */
#define AQI_BATCH_WAVE 1024u

/* An array while the batch is made. */
typedef struct aqi_batch_entry {
    const uint8_t *src; /* values, where it is not codes */
    aq_dtype dtype;
    aq_quantized_view codes;
    aq_layout layout; /* of the codes; of values to convert, what tiles need of it */
    aqi_tiling tiling;
    aq_quantized dst;
    uint8_t *values;
    size_t offset[3];     /* of scales, zero points, params in the block */
    aqi_range range;      /* of a tensor with one scale                  */
    aqi_group group;      /* the same                                    */
    uint64_t bytes, done; /* of the input                                */
} aqi_batch_entry;

/* A tile in a wave. */
typedef struct aqi_batch_slot {
    size_t entry, tile;
    aqi_tile_report report;
} aqi_batch_slot;

typedef struct aqi_batch_block {
    void *data;
    size_t bytes;
} aqi_batch_block;

/* What a batch holds. */
typedef struct aqi_batch_owned {
    aqi_arena arena;         /* items, names, errors, blocks */
    aqi_batch_block *blocks; /* results, one an item         */
    size_t num_blocks;
} aqi_batch_owned;

/* A name of the input, for sorting. */
typedef struct aqi_batch_key {
    const char *name;
    size_t index;
} aqi_batch_key;

typedef struct aqi_batch {
    aq_batch_options options;
    bool quantize; /* arrays; else dequantize tensors */
    const aq_array *arrays;
    const aq_tensor *tensors;
    aq_batch out;
    aqi_batch_owned *owned;
    aqi_batch_entry *entries;
    aqi_batch_slot *slots;
    size_t num_slots;
    const aq_tasks *tasks;
    aq_threads *own_threads;
    size_t end;             /* entries from here on do not matter: fail_fast */
    bool ranges;            /* first pass: of tensors with one scale         */
    size_t next, next_tile; /* of the list                                   */
    size_t finished;        /* items                                         */
    uint64_t bytes_done, bytes_total;
} aqi_batch;

void aq_batch_deinit(aq_batch *batch) {
    aqi_batch_owned *owned;
    aq_allocator a;
    size_t i;
    if (batch == NULL || batch->owned == NULL) return;
    a = batch->allocator;
    owned = (aqi_batch_owned *)batch->owned;
    for (i = 0; i < owned->num_blocks; i++)
        aqi_free(&a, owned->blocks[i].data, owned->blocks[i].bytes);
    aqi_arena_deinit(&owned->arena);
    aqi_free(&a, owned, sizeof *owned);
    memset(batch, 0, sizeof *batch);
}

const aq_batch_item *aq_batch_find(const aq_batch *batch, const char *name) {
    size_t low = 0, high = batch->num_items;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(batch->items[middle].name, name);
        if (order == 0) return &batch->items[middle];
        if (order < 0) low = middle + 1;
        if (order > 0) high = middle;
    }
    return NULL;
}

/* ---- names ---- */

static int aqi_compare_batch_keys(const void *a, const void *b) {
    const aqi_batch_key *x = (const aqi_batch_key *)a, *y = (const aqi_batch_key *)b;
    int order = strcmp(x->name, y->name);
    return order != 0 ? order : (x->index > y->index) - (x->index < y->index);
}

/* The input's names in order; inputs without one come first. */
static aq_status aqi_batch_sort(const aqi_batch *b, aqi_batch_key *keys, aq_error *err) {
    size_t n = b->out.num_items, i;
    for (i = 0; i < n; i++) {
        const char *name = b->quantize ? b->arrays[i].name : b->tensors[i].name;
        keys[i].name = name != NULL ? name : "";
        keys[i].index = i;
    }
    qsort(keys, n, sizeof *keys, aqi_compare_batch_keys);
    for (i = 1; i < n; i++) {
        if (keys[i].name[0] == '\0' || strcmp(keys[i - 1].name, keys[i].name) != 0)
            continue;
        aqi_fail(err, AQ_E_DUPLICATE, "inputs %zu and %zu have the same name",
                 keys[i - 1].index, keys[i].index);
        return aqi_error_in_tensor(err, AQ_E_DUPLICATE, keys[i].name);
    }
    return AQ_OK;
}

/* Items and entries in name order, with nothing but their names. */
static aq_status aqi_batch_name(aqi_batch *b, aqi_batch_key *keys, aq_error *err) {
    aqi_arena *arena = &b->owned->arena;
    size_t n = b->out.num_items, i;
    void *items, *blocks;
    aq_status status = aqi_batch_sort(b, keys, err);
    if (status == AQ_OK)
        status = aqi_arena_alloc(arena, n * sizeof *b->out.items, &items, err);
    if (status == AQ_OK)
        status = aqi_arena_alloc(arena, n * sizeof *b->owned->blocks, &blocks, err);
    if (status != AQ_OK) return status;
    b->out.items = (aq_batch_item *)items;
    b->owned->blocks = (aqi_batch_block *)blocks;
    b->owned->num_blocks = n;
    for (i = 0; i < n && status == AQ_OK; i++) {
        aq_batch_item *item = &b->out.items[i];
        char *name = NULL;
        status = aqi_arena_string(arena, keys[i].name, strlen(keys[i].name), &name, err);
        item->name = name;
        item->index = keys[i].index;
        aqi_tensor_reset(&item->tensor);
    }
    return status;
}

/* ---- checks and plans ---- */

/* The strides must be those of contiguous values. */
static aq_status aqi_batch_strides(const aq_array *a, const aq_tensor *t, aq_error *err) {
    uint64_t stride = 1;
    uint32_t i;
    if (a->strides == NULL || t->num_params == 0) return AQ_OK;
    for (i = t->num_dims; i-- > 0; stride *= t->shape[i]) {
        if (t->shape[i] != 1 && (a->strides[i] < 0 || (uint64_t)a->strides[i] != stride))
            return aqi_fail(err, AQ_E_ARG,
                            "not contiguous: stride %lld of dimension %u is not %llu; "
                            "copy the array first",
                            (long long)a->strides[i], i, (unsigned long long)stride);
    }
    return AQ_OK;
}

/* Room for `bytes` more at the end of a block. */
static bool aqi_batch_place(size_t bytes, size_t *out_offset, size_t *block_bytes) {
    *out_offset = *block_bytes;
    if (!aqi_add_size(*block_bytes, bytes, block_bytes) ||
        !aqi_add_size(*block_bytes, AQ_ALIGNMENT - 1, block_bytes))
        return false;
    *block_bytes -= *block_bytes % AQ_ALIGNMENT;
    return true;
}

static aq_status aqi_batch_layout(const aqi_batch *b, aqi_batch_entry *e, aq_tensor *t,
                                  size_t *out_bytes, aq_error *err) {
    aq_quant_options quant = b->options.quant;
    size_t floats, codes;
    aq_status status;
    if (b->options.plan != NULL && !b->options.plan(b->options.plan_user, t, &quant))
        return aqi_fail(err, AQ_E_CANCELLED, "the plan hook asked to stop");
    if (quant.src_stride != 0)
        return aqi_fail(err, AQ_E_ARG, "rows %zu apart; arrays of a batch are contiguous",
                        quant.src_stride);
    status = aq_layout_init(t->layout.rows, t->layout.cols, &quant, &e->layout, err);
    if (status == AQ_OK && t->num_params > 0)
        status = aqi_importance_check(&e->layout, err);
    if (status != AQ_OK) return status;
    floats = aqi_param_floats_bytes(&e->layout);
    if (!aqi_batch_place(e->layout.code_bytes, &codes, out_bytes) ||
        !aqi_batch_place(floats, &e->offset[0], out_bytes) ||
        !aqi_batch_place(floats, &e->offset[1], out_bytes) ||
        !aqi_batch_place(e->layout.params_bytes, &e->offset[2], out_bytes))
        return aqi_fail(err, AQ_E_LIMIT, "%zu x %zu values are too many for this machine",
                        t->layout.rows, t->layout.cols);
    t->layout = e->layout;
    t->data_bytes = e->layout.code_bytes;
    return AQ_OK;
}

/* The tensor of an item, without data. */
static aq_status aqi_batch_describe(aq_batch_item *item, aq_dtype dtype,
                                    const uint64_t *shape, uint32_t num_dims,
                                    aq_error *err) {
    aq_status status =
        aq_tensor_init(&item->tensor, item->name, dtype, shape, num_dims, NULL, err);
    if (status != AQ_OK) aqi_error_set_name(err, item->name); /* the message has it */
    return status;
}

/* Checks an array and plans its result; *out_bytes is the size of that. */
static aq_status aqi_batch_take_array(const aqi_batch *b, aqi_batch_entry *e,
                                      aq_batch_item *item, size_t *out_bytes,
                                      aq_error *err) {
    const aq_array *a = &b->arrays[item->index];
    aq_tensor *t = &item->tensor;
    aq_status status = AQ_OK;
    if (!aq_dtype_is_float(a->dtype))
        return aq_dtype_bytes(a->dtype) == 0
                   ? aqi_fail(err, AQ_E_TYPE, "dtype %d is none of aq_dtype",
                              (int)a->dtype)
                   : aqi_fail(err, AQ_E_TYPE, "%s values cannot be quantized",
                              aq_dtype_name(a->dtype));
    if (a->num_dims > 0 && a->shape == NULL)
        return aqi_fail(err, AQ_E_ARG, "%u dimensions, but no shape", a->num_dims);
    status = aqi_batch_describe(item, a->dtype, a->shape, a->num_dims, err);
    if (status != AQ_OK) return status;
    t->data = (const uint8_t *)a->data;
    status = aqi_batch_strides(a, t, err);
    if (status == AQ_OK && t->num_params > 0 && a->data == NULL)
        status = aqi_fail(err, AQ_E_ARG, "%llu values, but no data",
                          (unsigned long long)t->num_params);
    e->src = t->data;
    e->dtype = a->dtype;
    e->bytes = t->data_bytes;
    if (status == AQ_OK) status = aqi_batch_layout(b, e, t, out_bytes, err);
    return status;
}

/* The same of a tensor to dequantize. */
static aq_status aqi_batch_take_tensor(const aqi_batch *b, aqi_batch_entry *e,
                                       aq_batch_item *item, size_t *out_bytes,
                                       aq_error *err) {
    const aq_tensor *in = &b->tensors[item->index];
    aq_tensor *t = &item->tensor;
    size_t bytes, values, offset;
    aq_status status = AQ_OK;
    if (in->layout.bits == 0 && !aq_dtype_is_float(in->dtype))
        return aqi_fail(err, AQ_E_TYPE, "%s values are no floats",
                        aq_dtype_name(in->dtype));
    status = aqi_batch_describe(item, AQ_F32, in->shape, in->num_dims, err);
    if (status != AQ_OK) return status;
    e->codes = aqi_tensor_view(in);
    if (in->layout.bits != 0) status = aqi_view_check(&in->layout, &e->codes, err);
    if (status != AQ_OK) return status;
    bytes = in->layout.bits != 0 ? in->layout.code_bytes
                                 : (size_t)t->num_params * aq_dtype_bytes(in->dtype);
    if (in->num_params != t->num_params || in->data_bytes < bytes ||
        !aqi_mul_size(in->layout.rows, in->layout.cols, &values) ||
        values != t->num_params)
        return aqi_fail(err, AQ_E_ARG, "shape, layout and data_bytes do not agree");
    if (t->num_params > 0 && in->data == NULL)
        return aqi_fail(err, AQ_E_ARG, "no data; use aq_model_tensor");
    e->src = in->data;
    e->dtype = in->dtype;
    e->bytes = bytes;
    e->layout = in->layout;
    if (in->layout.bits != 0) {
        e->bytes += in->layout.params_bytes;
        e->bytes += 2 * (uint64_t)aqi_param_floats_bytes(&in->layout);
    } else {
        memset(&e->layout, 0, sizeof e->layout);
        e->layout.rows = t->layout.rows;
        e->layout.cols = t->layout.cols;
        e->layout.group_cols = 8; /* rows of values may be cut anywhere */
    }
    if (!aqi_batch_place(t->data_bytes, &offset, out_bytes))
        return aqi_fail(err, AQ_E_LIMIT, "%llu values are too many for this machine",
                        (unsigned long long)t->num_params);
    return AQ_OK;
}

/* Ends an item with an error. Returns AQ_OK; AQ_E_NOMEM when it cannot be kept. */
static aq_status aqi_batch_fail(aqi_batch *b, size_t i, aq_error *what, aq_error *err) {
    aq_batch_item *item = &b->out.items[i];
    aqi_batch_block *block = &b->owned->blocks[i];
    void *p;
    aq_status status = aqi_arena_alloc(&b->owned->arena, sizeof *what, &p, err);
    if (status != AQ_OK) return status;
    if (what->name[0] == '\0' && item->name[0] != '\0')
        aqi_error_in_tensor(what, what->status, item->name);
    aqi_error_locate(what, "input %zu", item->index);
    *(aq_error *)p = *what;
    item->error = (const aq_error *)p;
    item->status = what->status;
    aqi_tensor_reset(&item->tensor);
    memset(&item->metrics, 0, sizeof item->metrics);
    aqi_free(&b->out.allocator, block->data, block->bytes);
    block->data = NULL;
    b->bytes_done += b->entries[i].bytes - b->entries[i].done;
    b->out.num_failed++;
    b->finished++;
    if (b->options.fail_fast) b->end = i;
    return AQ_OK;
}

/* Checks all of the input that can be checked without a look at the values. */
static aq_status aqi_batch_plan(aqi_batch *b, aq_error *err) {
    size_t i;
    aq_status status = AQ_OK;
    for (i = 0; i < b->end && status == AQ_OK; i++) {
        aqi_batch_entry *e = &b->entries[i];
        aq_batch_item *item = &b->out.items[i];
        aq_error what;
        aqi_error_clear(&what);
        if (b->quantize) {
            status = aqi_batch_take_array(b, e, item, &b->owned->blocks[i].bytes, &what);
        } else {
            status = aqi_batch_take_tensor(b, e, item, &b->owned->blocks[i].bytes, &what);
        }
        if (status == AQ_E_CANCELLED) {
            if (err != NULL) *err = what;
            return status;
        }
        if (status != AQ_OK) {
            e->bytes = 0;
            status = aqi_batch_fail(b, i, &what, err);
            continue;
        }
        e->tiling = aqi_tiling_make(&e->layout, e->layout.rows);
        b->num_slots += AQI_MIN(e->tiling.count, AQI_BATCH_WAVE - b->num_slots);
        if (__builtin_add_overflow(b->bytes_total, e->bytes, &b->bytes_total))
            return aqi_fail(err, AQ_E_LIMIT, "over 2^64 bytes of arrays in one batch");
    }
    return status;
}

/* ---- memory ---- */

static aq_status aqi_batch_allocate(aqi_batch *b, aq_error *err) {
    const aq_allocator *a = &b->out.allocator;
    size_t i;
    for (i = 0; i < b->out.num_items; i++) {
        aqi_batch_entry *e = &b->entries[i];
        aqi_batch_block *block = &b->owned->blocks[i];
        aq_tensor *t = &b->out.items[i].tensor;
        uint8_t *p;
        if (b->out.items[i].status != AQ_OK) continue;
        block->bytes = AQI_MAX(block->bytes, (size_t)AQ_ALIGNMENT);
        block->data = a->alloc(a->user, block->bytes, AQ_ALIGNMENT);
        if (block->data == NULL) return aqi_fail_nomem(err, block->bytes);
        p = (uint8_t *)block->data;
        t->data = p;
        e->values = p;
        if (!b->quantize) continue;
        e->dst.codes = p;
        if (e->layout.params == AQ_PARAMS_F32) {
            e->dst.scales = (float *)(void *)(p + e->offset[0]);
            e->dst.zero_points = (float *)(void *)(p + e->offset[1]);
        } else {
            e->dst.params = p + e->offset[2];
        }
        t->scales = e->dst.scales;
        t->zero_points = e->dst.zero_points;
        t->params = e->dst.params;
    }
    return AQ_OK;
}

/* ---- tiles ---- */

/* Whether the range of all its values is needed before the first code, and takes a pass
 * of its own. */
static bool aqi_batch_needs_range(const aqi_batch *b, const aqi_batch_entry *e) {
    return b->quantize && e->layout.group_rows > 1 && e->tiling.count > 1;
}

static void aqi_batch_set_group(aqi_batch_entry *e) {
    aqi_group_make(&e->layout, &e->range, &e->group);
    e->dst.scales[0] = e->group.scale;
    e->dst.zero_points[0] = e->group.zero_point;
}

static void aqi_batch_task(const aqi_batch_entry *e, aqi_quantize_task *out) {
    memset(out, 0, sizeof *out);
    out->layout = &e->layout;
    out->src = e->src;
    out->dtype = e->dtype;
    out->dst = &e->dst;
    out->tiling = e->tiling;
}

static void aqi_batch_quantize_tile(const aqi_batch *b, aqi_batch_entry *e,
                                    aqi_batch_slot *s) {
    aqi_quantize_task t;
    aqi_batch_task(e, &t);
    t.measure = !b->options.no_metrics;
    t.first_tile = s->tile;
    t.reports = &s->report;
    if (b->ranges) {
        aqi_range_tile(&t, 0);
        return;
    }
    if (e->layout.group_rows > 1 && e->tiling.count == 1) {
        aqi_range_tile(&t, 0);
        if (s->report.bad_index != SIZE_MAX) return;
        e->range = s->report.range;
        aqi_batch_set_group(e);
    }
    if (e->layout.group_rows > 1) t.tensor_group = &e->group;
    aqi_quantize_tile(&t, 0);
}

/* Values of a tile, which is whole rows or a part of one, to float32. */
static void aqi_batch_convert(const aqi_batch_entry *e, const aqi_tile *tile) {
    float room[AQI_PIECE];
    size_t at = tile->row * e->layout.cols + tile->col, n;
    size_t end = at + (tile->row_end - tile->row) * (tile->col_end - tile->col);
    for (; at < end; at += n) {
        n = AQI_MIN(end - at, (size_t)AQI_PIECE);
        aqi_floats_to(aqi_floats_at(e->src, e->dtype, at, n, room), n, AQ_F32,
                      e->values + at * sizeof(float));
    }
}

static void aqi_batch_dequantize_tile(const aqi_batch_entry *e, size_t index) {
    aqi_decode_task t;
    aqi_tile tile;
    if (e->layout.bits == 0) {
        tile = aqi_tile_at(&e->tiling, &e->layout, e->layout.rows, index);
        aqi_batch_convert(e, &tile);
        return;
    }
    memset(&t, 0, sizeof t);
    t.layout = &e->layout;
    t.src = &e->codes;
    t.num_rows = e->layout.rows;
    t.tiling = e->tiling;
    t.dtype = AQ_F32;
    t.dst = e->values;
    aqi_dequantize_tile(&t, index);
}

static void aqi_batch_tile(void *arg, size_t index) {
    const aqi_batch *b = (const aqi_batch *)arg;
    aqi_batch_slot *s = &b->slots[index];
    aqi_batch_entry *e = &b->entries[s->entry];
    if (b->quantize) {
        aqi_batch_quantize_tile(b, e, s);
    } else {
        s->report.bad_index = SIZE_MAX;
        aqi_batch_dequantize_tile(e, s->tile);
    }
}

/* ---- waves ---- */

/* Takes the next tiles from the list. Which ones never depends on threads. */
static size_t aqi_batch_take(aqi_batch *b) {
    uint64_t values = 0;
    size_t n = 0;
    while (b->next < b->end && n < b->num_slots &&
           (n < AQI_WAVE || values < (uint64_t)AQI_WAVE * AQI_TILE_VALUES)) {
        const aqi_batch_entry *e = &b->entries[b->next];
        aqi_batch_slot *s = &b->slots[n];
        aqi_tile tile;
        if (b->next_tile == e->tiling.count || b->out.items[b->next].status != AQ_OK ||
            (b->ranges && !aqi_batch_needs_range(b, e))) {
            b->next++;
            b->next_tile = 0;
            continue;
        }
        tile = aqi_tile_at(&e->tiling, &e->layout, e->layout.rows, b->next_tile);
        values += (uint64_t)(tile.row_end - tile.row) * (tile.col_end - tile.col);
        s->entry = b->next;
        s->tile = b->next_tile++;
        n++;
    }
    return n;
}

/* Results of an array that is whole. */
static void aqi_batch_finish(aqi_batch *b, size_t i) {
    aqi_batch_entry *e = &b->entries[i];
    aq_batch_item *item = &b->out.items[i];
    if (b->quantize && !b->options.no_metrics) {
        if (item->metrics.count == 0) aqi_metrics_finish(&item->metrics);
        item->tensor.cosine = item->metrics.cosine;
        item->tensor.sqnr_db = item->metrics.sqnr_db;
        item->tensor.max_abs_error = item->metrics.max_abs_error;
    }
    b->bytes_done += e->bytes - e->done;
    e->done = e->bytes;
    b->finished++;
}

/* Arrays without a value have no tile. */
static void aqi_batch_finish_empty(aqi_batch *b) {
    size_t i;
    for (i = 0; i < b->end; i++) {
        const aqi_batch_entry *e = &b->entries[i];
        if (b->out.items[i].status != AQ_OK || e->tiling.count > 0) continue;
        if (e->dst.params != NULL) memset(e->dst.params, 0, e->layout.params_bytes);
        aqi_batch_finish(b, i);
    }
}

/* Where a tile found a value that cannot be quantized, ends its array. */
static aq_status aqi_batch_refuse(aqi_batch *b, const aqi_batch_slot *s, aq_error *err) {
    const aqi_batch_entry *e = &b->entries[s->entry];
    aqi_quantize_task t;
    aq_error what;
    aqi_batch_task(e, &t);
    if (s->report.too_large) {
        aqi_too_large(&t, s->report.bad_index, &what);
    } else {
        aqi_nonfinite(&t, s->report.bad_index, &what);
    }
    return aqi_batch_fail(b, s->entry, &what, err);
}

/* Joins what the tiles of a wave report, in their order. */
static aq_status aqi_batch_join(aqi_batch *b, size_t count, aq_error *err) {
    aq_status status = AQ_OK;
    size_t i;
    for (i = 0; i < count && status == AQ_OK; i++) {
        const aqi_batch_slot *s = &b->slots[i];
        aqi_batch_entry *e = &b->entries[s->entry];
        aq_batch_item *item = &b->out.items[s->entry];
        bool last = s->tile + 1 == e->tiling.count, twice = aqi_batch_needs_range(b, e);
        uint64_t tiles = e->tiling.count, part;
        if (item->status != AQ_OK || s->entry >= b->end) continue;
        if (s->report.bad_index != SIZE_MAX) {
            status = aqi_batch_refuse(b, s, err);
            continue;
        }
        /* Of two passes each counts for a half of the bytes. */
        part = e->bytes / (twice ? 2 * tiles : tiles);
        e->done += part;
        b->bytes_done += part;
        if (b->ranges) {
            if (s->tile == 0) e->range = s->report.range;
            aqi_range_join(&e->range, &s->report.range);
            if (last) aqi_batch_set_group(e);
            continue;
        }
        if (b->quantize && !b->options.no_metrics)
            aq_metrics_add(&item->metrics, &s->report.metrics);
        if (last) aqi_batch_finish(b, s->entry);
    }
    return status;
}

static aq_status aqi_batch_progress(const aqi_batch *b, const char *name, aq_error *err) {
    const aq_progress_hook *hook = &b->options.progress;
    aq_progress p;
    if (hook->fn == NULL) return AQ_OK;
    p.name = name;
    p.tensors_done = b->finished;
    p.tensors_total = b->out.num_items;
    p.bytes_done = b->bytes_done;
    p.bytes_total = b->bytes_total;
    if (hook->fn(hook->user, &p)) return AQ_OK;
    return aqi_fail(err, AQ_E_CANCELLED, "cancelled");
}

/* One pass over the list: of the tensors with one scale whose range is needed first, or
 * of all arrays. */
static aq_status aqi_batch_pass(aqi_batch *b, bool ranges, aq_error *err) {
    aq_status status = AQ_OK;
    b->ranges = ranges;
    b->next = 0;
    b->next_tile = 0;
    while (status == AQ_OK) {
        size_t count = aqi_batch_take(b);
        if (count == 0) return AQ_OK;
        status = aqi_batch_progress(b, b->out.items[b->slots[0].entry].name, err);
        if (status != AQ_OK) return status;
        aqi_run(b->tasks, count, aqi_batch_tile, b);
        status = aqi_batch_join(b, count, err);
    }
    return status;
}

/* ---- the calls ---- */

static aq_status aqi_batch_work(aqi_batch *b, aq_error *err) {
    const aq_allocator *a = &b->out.allocator;
    size_t i;
    aq_status status = aqi_batch_plan(b, err);
    if (status != AQ_OK || b->end < b->out.num_items) return status;
    status = aqi_batch_allocate(b, err);
    if (status != AQ_OK) return status;
    b->slots = (aqi_batch_slot *)aqi_alloc(a, b->num_slots * sizeof *b->slots);
    if (b->slots == NULL) return aqi_fail_nomem(err, b->num_slots * sizeof *b->slots);
    b->tasks = b->options.tasks;
    if (b->tasks == NULL && b->num_slots > 1 && b->options.threads != 1) {
        status = aq_threads_create(b->options.threads, a, &b->own_threads, err);
        if (status != AQ_OK) return status;
        b->tasks = aq_threads_tasks(b->own_threads);
    }
    aqi_batch_finish_empty(b);
    status = aqi_batch_pass(b, true, err);
    if (status == AQ_OK) status = aqi_batch_pass(b, false, err);
    if (status != AQ_OK || b->end < b->out.num_items) return status;
    for (i = 0; i < b->out.num_items; i++) {
        if (b->out.items[i].metrics.count > 0)
            aq_metrics_add(&b->out.total, &b->out.items[i].metrics);
    }
    return aqi_batch_progress(b, NULL, err);
}

/* Names and entries; then the work, and all that only it needed is freed. */
static aq_status aqi_batch_make(aqi_batch *b, aq_error *err) {
    const aq_allocator *a = &b->out.allocator;
    size_t n = b->out.num_items, key_bytes = n * sizeof(aqi_batch_key);
    size_t entry_bytes = n * sizeof *b->entries;
    aqi_batch_key *keys = (aqi_batch_key *)aqi_alloc(a, key_bytes);
    aq_status status;
    if (keys == NULL) return aqi_fail_nomem(err, key_bytes);
    status = aqi_batch_name(b, keys, err);
    aqi_free(a, keys, key_bytes);
    if (status != AQ_OK) return status;
    b->entries = (aqi_batch_entry *)aqi_alloc(a, entry_bytes);
    if (b->entries == NULL) return aqi_fail_nomem(err, entry_bytes);
    memset(b->entries, 0, entry_bytes);
    status = aqi_batch_work(b, err);
    if (status == AQ_OK && b->end < n) {
        status = b->out.items[b->end].status;
        if (err != NULL) *err = *b->out.items[b->end].error;
    }
    aq_threads_destroy(b->own_threads);
    aqi_free(a, b->slots, b->num_slots * sizeof *b->slots);
    aqi_free(a, b->entries, entry_bytes);
    return status;
}

static aq_status aqi_batch_run(aqi_batch *b, size_t n, const aq_batch_options *options,
                               aq_batch *out_batch, aq_error *err) {
    aq_quant_options quant;
    size_t bytes;
    aq_status status;
    if (options != NULL) b->options = *options;
    if (n > 0 && b->arrays == NULL && b->tensors == NULL)
        return aqi_fail(err, AQ_E_ARG, "%zu inputs, but no pointer to them", n);
    status = aqi_allocator_resolve(b->options.allocator, &b->out.allocator, err);
    if (status == AQ_OK && b->quantize)
        status = aqi_quant_options_resolve(&b->options.quant, &quant, err);
    if (status != AQ_OK) return status;
    if (!aqi_mul_size(n, sizeof *b->out.items + sizeof *b->entries, &bytes))
        return aqi_fail_nomem(err, SIZE_MAX);
    b->owned = (aqi_batch_owned *)aqi_alloc(&b->out.allocator, sizeof *b->owned);
    if (b->owned == NULL) return aqi_fail_nomem(err, sizeof *b->owned);
    memset(b->owned, 0, sizeof *b->owned);
    aqi_arena_init(&b->owned->arena, &b->out.allocator);
    b->out.owned = b->owned;
    b->out.num_items = n;
    b->end = n;
    status = aqi_batch_make(b, err);
    if (status == AQ_OK) {
        *out_batch = b->out;
    } else {
        aq_batch_deinit(&b->out);
    }
    return status;
}

aq_status aq_quantize_batch(const aq_array *arrays, size_t n,
                            const aq_batch_options *options, aq_batch *out_batch,
                            aq_error *err) {
    aqi_batch b;
    aqi_error_clear(err);
    memset(out_batch, 0, sizeof *out_batch);
    memset(&b, 0, sizeof b);
    b.quantize = true;
    b.arrays = arrays;
    return aqi_batch_run(&b, n, options, out_batch, err);
}

aq_status aq_dequantize_batch(const aq_tensor *tensors, size_t n,
                              const aq_batch_options *options, aq_batch *out_batch,
                              aq_error *err) {
    aqi_batch b;
    aqi_error_clear(err);
    memset(out_batch, 0, sizeof *out_batch);
    memset(&b, 0, sizeof b);
    b.tensors = tensors;
    return aqi_batch_run(&b, n, options, out_batch, err);
}

/*==========================================================================
 * MARK: - [90] End of the implementation
 *========================================================================*/

#endif /* ARROWQUANT_IMPLEMENTATION */

/*
MIT License

Copyright (c) 2026 the arrowquant.h authors

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
*/
