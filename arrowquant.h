#ifndef ARROWQUANT_H
#define ARROWQUANT_H

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
    X(AQ_E_NOT_FOUND, 9, "not_found", "no tensor, column or file of that name")          \
    X(AQ_E_DUPLICATE, 10, "duplicate", "a name that must be unique came twice")          \
    X(AQ_E_NONFINITE, 11, "nonfinite", "NaN or infinity where a finite value must be")   \
    X(AQ_E_STATE, 12, "state", "the calls came in an order that is not allowed")         \
    X(AQ_E_CANCELLED, 13, "cancelled", "the progress callback asked to stop")            \
    X(AQ_E_INTERNAL, 14, "internal", "a defect of arrowquant.h; please report it")

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
    char message[512];   /* what, where, what to do; one line, no final full stop   */
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
    void *(*resize)(void *user, void *ptr, size_t old_bytes, size_t new_bytes, size_t align);
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

/* Rare notes for people (an input oddity that was tolerated). Never called concurrently
 * from one object. */
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
    size_t max_idle_bytes;         /* budget of kept buffers; 0 = 256 MiB           */
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
AQ_API AQ_CHECKED aq_status aq_pool_create(const aq_pool_options *options, aq_pool **out_pool,
                                           aq_error *err);
/* aq_pool_destroy - free the pool and its idle buffers. Buffers still in use must have been
 * released before; NULL is allowed. */
AQ_API void aq_pool_destroy(aq_pool *pool);
/* aq_pool_acquire - a buffer of at least `bytes`: the smallest idle one that fits and is at
 * most twice as large, else a new one. bytes = 0 is legal. */
AQ_API AQ_CHECKED aq_status aq_pool_acquire(aq_pool *pool, size_t bytes, aq_buffer *out_buffer,
                                            aq_error *err);
/* aq_buffer_release - give a buffer back to its pool and zero the struct; harmless twice. */
AQ_API void aq_buffer_release(aq_buffer *buffer);
AQ_API void aq_pool_get_stats(aq_pool *pool, aq_pool_stats *out_stats);
/* aq_pool_reset_stats - counters to zero; buffers stay. */
AQ_API void aq_pool_reset_stats(aq_pool *pool);
/* aq_pool_clear - free all idle buffers; returns the bytes freed. */
AQ_API size_t aq_pool_clear(aq_pool *pool);

/* AQ_SCOPED_BUFFER(b); declares an empty aq_buffer that is released at the end of its block. */
#if defined(__GNUC__) || defined(__clang__)
#define AQ_SCOPED_BUFFER(name)                                                           \
    __attribute__((cleanup(aq_buffer_release))) aq_buffer name = {NULL, 0, NULL}
#endif

typedef struct aq_threads aq_threads;

/* aq_threads_create - start a set of worker threads (the caller of run() is one of them).
 *   count  in  threads in all; 0 = as many as the machine has processors, 1 = no worker
 *   Returns  AQ_OK; AQ_E_NOMEM; AQ_E_IO (the system gave no thread). */
AQ_API AQ_CHECKED aq_status aq_threads_create(uint32_t count, const aq_allocator *allocator,
                                              aq_threads **out_threads, aq_error *err);
/* aq_threads_destroy - join and free; no run() may be under way. NULL is allowed. */
AQ_API void aq_threads_destroy(aq_threads *threads);
/* aq_threads_tasks - the tasks hook of this set; one run() at a time, further callers wait. */
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

typedef enum aq_repetition { AQ_REQUIRED = 0, AQ_OPTIONAL = 1, AQ_REPEATED = 2 } aq_repetition;

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

/* A caller's source of bytes. read() fills exactly `bytes` at `offset`, or returns false. It
 * may be called from several threads at a time. */
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
    bool skip_checksums;           /* do not verify the CRC-32 of pages that are decoded */
    size_t max_page_bytes;         /* one decoded page; 0 = 2 GiB - 1                */
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
    aq_bytes min_value, max_value; /* PLAIN bytes; data = NULL when absent           */
} aq_chunk_info;

typedef struct aq_row_group_info {
    int64_t num_rows;
    int64_t total_bytes;        /* RowGroup.total_byte_size                          */
} aq_row_group_info;

/* aq_parquet_open - open a Parquet file for reading; parses and checks the footer.
 *   path     in   stays open (and mapped) until aq_parquet_close
 *   options  in   NULL = defaults            err  out  may be NULL
 * Returns  AQ_OK; AQ_E_IO; AQ_E_FORMAT; AQ_E_UNSUPPORTED (encrypted); AQ_E_LIMIT; AQ_E_NOMEM.
 * Threads  an open aq_parquet is immutable: any number of threads may read from it.
 * Cost     the footer is copied to the heap; nothing else is read. */
AQ_API AQ_CHECKED aq_status aq_parquet_open(const char *path, const aq_parquet_options *options,
                                            aq_parquet **out_file, aq_error *err);
/* aq_parquet_open_memory - the same from a block that outlives the aq_parquet (borrowed). */
AQ_API AQ_CHECKED aq_status aq_parquet_open_memory(const void *data, size_t bytes,
                                                   const aq_parquet_options *options,
                                                   aq_parquet **out_file, aq_error *err);
/* aq_parquet_open_reader - the same from a callback, which must stay valid until close. */
AQ_API AQ_CHECKED aq_status aq_parquet_open_reader(const aq_reader *reader,
                                                   const aq_parquet_options *options,
                                                   aq_parquet **out_file, aq_error *err);
/* aq_parquet_close - NULL-safe. Spans into the mapping die here. */
AQ_API void aq_parquet_close(aq_parquet *file);

AQ_API void aq_parquet_get_info(const aq_parquet *file, aq_parquet_info *out_info);
/* aq_parquet_field / _column_field - schema node by index, leaf by column number; NULL when
 * out of range. Borrowed from `file`, as are all strings. */
AQ_API const aq_field *aq_parquet_field(const aq_parquet *file, int32_t index);
AQ_API const aq_field *aq_parquet_column_field(const aq_parquet *file, int32_t column);
/* aq_parquet_column_path - "a.list.element" of a leaf; "" when out of range. */
AQ_API const char *aq_parquet_column_path(const aq_parquet *file, int32_t column);
/* aq_parquet_find_column - leaf by its dotted path; -1 when there is none. */
AQ_API int32_t aq_parquet_find_column(const aq_parquet *file, const char *path);
AQ_API AQ_CHECKED aq_status aq_parquet_get_row_group(const aq_parquet *file, int32_t row_group,
                                                     aq_row_group_info *out_info, aq_error *err);
AQ_API AQ_CHECKED aq_status aq_parquet_get_chunk(const aq_parquet *file, int32_t row_group,
                                                 int32_t column, aq_chunk_info *out_info,
                                                 aq_error *err);
/* aq_parquet_key_value - i-th metadata pair; false when out of range. */
AQ_API bool aq_parquet_key_value(const aq_parquet *file, int32_t index, aq_key_value *out_pair);
/* aq_parquet_find_key - value of a key, NUL-terminated; NULL when absent. */
AQ_API const char *aq_parquet_find_key(const aq_parquet *file, const char *key);

/* The values of one data page.
 *   BOOLEAN: one byte each. INT32, INT64, FLOAT, DOUBLE: native, packed. INT96: 12 bytes each.
 *   FIXED_LEN_BYTE_ARRAY: type_length bytes each. BYTE_ARRAY: aq_bytes[num_values]; the
 *   structs are the column's, the bytes point into the file's mapping or a decoded page.
 * A span is `mapped` when its value bytes lie in the mapping: nothing was copied. */
typedef struct aq_span {
    const void *values;
    int64_t num_values;        /* not null                                           */
    int64_t num_levels;        /* nulls and empty lists included                     */
    const uint8_t *def_levels; /* num_levels; NULL when max_def is 0 or nothing is null or empty */
    const uint8_t *rep_levels; /* num_levels; NULL when max_rep is 0                 */
    int64_t file_offset;       /* of the first value byte when mapped, else of the page header */
    size_t alignment;          /* bytes; power of 2 that divides the address of the values */
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
 * Threads  one aq_column belongs to one thread at a time; many may be open on one file. */
AQ_API AQ_CHECKED aq_status aq_column_open(const aq_parquet *file, int32_t row_group,
                                           int32_t column, aq_column **out_column, aq_error *err);
AQ_API void aq_column_close(aq_column *column);
/* aq_column_next - the next data page. At the end: AQ_OK and out_span->num_levels == 0 with
 * values == NULL. The span of decoded pages lives until the next call; mapped values live
 * as long as the file. */
AQ_API AQ_CHECKED aq_status aq_column_next(aq_column *column, aq_span *out_span, aq_error *err);
/* aq_column_spans - all pages at once. Array and spans live until aq_column_close. */
AQ_API AQ_CHECKED aq_status aq_column_spans(aq_column *column, const aq_span **out_spans,
                                            size_t *out_count, aq_error *err);
/* aq_column_view - the chunk as one span: its only page's, or all pages joined in a buffer
 * (not mapped). */
AQ_API AQ_CHECKED aq_status aq_column_view(aq_column *column, aq_span *out_span, aq_error *err);
/* aq_column_next_page - walk the pages without decoding; out_page->header_bytes == 0 at the
 * end. Do not mix with the calls above on one aq_column. */
AQ_API AQ_CHECKED aq_status aq_column_next_page(aq_column *column, aq_page_info *out_page,
                                                aq_error *err);
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
} aq_field_spec;

typedef struct aq_writer aq_writer;

typedef struct aq_writer_options {
    const aq_allocator *allocator; /* NULL = malloc                                  */
    size_t value_alignment;        /* power of 2 in 1..4096; 0 = AQ_ALIGNMENT        */
    int compression_level;         /* of ZSTD; 0 = 1                                 */
    bool skip_checksums;           /* write pages without CRC-32                     */
    bool no_sync;                  /* rename without fsync: faster, not durable      */
    const char *created_by;        /* NULL = "arrowquant.h version 0.1.0"            */
} aq_writer_options;

/* The values of one column chunk, written as one page. Values as in aq_span; BYTE_ARRAY:
 * aq_bytes[]. Levels are needed where max_def or max_rep is not 0; num_levels counts them. */
typedef struct aq_column_values {
    const void *values;
    int64_t num_values;
    const uint8_t *def_levels;
    const uint8_t *rep_levels;
    int64_t num_levels;
} aq_column_values;

/* aq_writer_open - begin a Parquet file beside `path`, which appears, whole, at finish.
 *   input_path  in  a file that must not be the output (same device and inode); may be NULL
 * Returns  AQ_OK; AQ_E_ARG (schema, options, output is input); AQ_E_IO; AQ_E_NOMEM.
 * Owns     a temporary file in the directory of `path`. Threads: one at a time. */
AQ_API AQ_CHECKED aq_status aq_writer_open(const char *path, const aq_field_spec *fields,
                                           size_t num_fields, const aq_writer_options *options,
                                           aq_writer **out_writer, aq_error *err);
/* aq_writer_add_key_value - file metadata; both strings are copied. Before finish. */
AQ_API AQ_CHECKED aq_status aq_writer_add_key_value(aq_writer *writer, const char *key,
                                                    const char *value, aq_error *err);
/* aq_writer_put_column - the next column chunk of the current row group, in schema order. */
AQ_API AQ_CHECKED aq_status aq_writer_put_column(aq_writer *writer,
                                                 const aq_column_values *values, aq_error *err);
/* aq_writer_end_row_group - after the last column. Every column must hold num_rows rows. */
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

typedef struct aq_quant_options {
    uint32_t bits;              /* 2, 4 or 8; 0 = 4                                  */
    size_t group_size;          /* elements, >= AQ_MIN_GROUP_SIZE; 0 = 128           */
    aq_granularity granularity;
    bool symmetric;             /* zero point fixed at 2^(bits-1)                    */
} aq_quant_options;

/* Where each code and each scale of a rows x cols tensor lies.
 *   Code of (r, c): code_bits bits at bit (c * code_bits) of the row_bytes bytes of row r,
 *   least significant bit first. Its parameters: index (r / group_rows) * groups_per_row
 *   + c / group_cols. */
typedef struct aq_layout {
    uint32_t bits;         /* information in a code: 2, 4, 8                         */
    uint32_t code_bits;    /* room a code takes; = bits unless another writer made it */
    bool symmetric;
    size_t rows, cols;
    size_t group_rows, group_cols;
    size_t groups_per_row;
    size_t num_groups;
    size_t row_bytes;
    size_t code_bytes;     /* rows * row_bytes                                       */
} aq_layout;

/* aq_layout_init - lay out a rows x cols tensor; either may be 0.
 * Returns  AQ_OK; AQ_E_ARG (bits, group size); AQ_E_LIMIT (sizes overflow size_t). */
AQ_API AQ_CHECKED aq_status aq_layout_init(size_t rows, size_t cols,
                                           const aq_quant_options *options,
                                           aq_layout *out_layout, aq_error *err);

/* Buffers of a quantized tensor; sizes from its aq_layout. No alignment needed. */
typedef struct aq_quantized {
    uint8_t *codes;      /* code_bytes */
    float *scales;       /* num_groups */
    float *zero_points;  /* num_groups */
} aq_quantized;

typedef struct aq_quantized_view {
    const uint8_t *codes;
    const float *scales;
    const float *zero_points;
} aq_quantized_view;

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
 *                     little-endian, any alignment, not overlapping dst
 *   tasks        in   NULL = this thread          err  out  may be NULL
 *   out_metrics  out  NULL = not measured (about twice as fast)
 * Returns  AQ_OK; AQ_E_ARG; AQ_E_NONFINITE (the message has the index); AQ_E_NOMEM. dst is
 *          undefined on error.
 * Numeric  w' = (q - zero_point) * scale in float32. Asymmetric: scale = (max - min) /
 *          (2^bits - 1), zero_point = -min / scale. Symmetric: scale = 2 absmax / (2^bits - 1).
 *          Half to even; |w - w'| <= scale / 2 + a few ulp of max(|w|); a constant group
 *          comes back exactly.
 * Threads  re-entrant.   Cost  two passes over cache-sized blocks; a few KiB per thread. */
AQ_API AQ_CHECKED aq_status aq_quantize_into(const aq_layout *layout, const void *src,
                                             aq_dtype src_dtype, const aq_quantized *dst,
                                             const aq_tasks *tasks, aq_metrics *out_metrics,
                                             aq_error *err);
/* aq_dequantize_rows - float32 values of rows [first_row, first_row + num_rows) to dst
 * (num_rows * cols floats). Returns AQ_OK; AQ_E_ARG. */
AQ_API AQ_CHECKED aq_status aq_dequantize_rows(const aq_layout *layout,
                                               const aq_quantized_view *src, size_t first_row,
                                               size_t num_rows, float *dst,
                                               const aq_tasks *tasks, aq_error *err);
/* aq_dot_row - sum over c of w'[row][c] * x[c]. float32; 32 lanes (c mod 32), each summed in
 * order, then added pairwise: the same bits on every machine. */
AQ_API AQ_CHECKED aq_status aq_dot_row(const aq_layout *layout, const aq_quantized_view *src,
                                       size_t row, const float *x, float *out_dot,
                                       aq_error *err);
/* aq_matvec - y[r] = aq_dot_row(r) for every row; x has cols floats, y rows. */
AQ_API AQ_CHECKED aq_status aq_matvec(const aq_layout *layout, const aq_quantized_view *src,
                                      const float *x, float *y, const aq_tasks *tasks,
                                      aq_error *err);
/* aq_to_f32 - little-endian elements of a float type to float32, round half to even. */
AQ_API AQ_CHECKED aq_status aq_to_f32(const void *src, aq_dtype src_dtype, size_t count,
                                      float *dst, aq_error *err);
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
    const float *scales;          /* layout.num_groups                                */
    const float *zero_points;
    double cosine;                /* against the original; NaN when not recorded      */
    double sqnr_db;
    double max_abs_error;
    bool mapped;                  /* data, scales and zero_points lie in the mapping  */
    void *owned;                  /* private: what aq_tensor_release gives back       */
} aq_tensor;

typedef enum aq_model_format {
    AQ_MODEL_AUTO = 0,        /* by the path's ending or the file's first bytes       */
    AQ_MODEL_PARQUET = 1,     /* docs/FORMAT.md                                       */
    AQ_MODEL_SAFETENSORS = 2,
    AQ_MODEL_DIRECTORY = 3    /* one Parquet file per tensor (read only)              */
} aq_model_format;

typedef struct aq_model aq_model;

typedef struct aq_model_options {
    const aq_allocator *allocator; /* NULL = malloc                                   */
    aq_log log;
    aq_io io;
    bool skip_checksums;
} aq_model_options;

/* aq_model_open - open a model: a Parquet model file (ours or the "Parquet V2" schema of other
 * tools), a directory of such files, or a safetensors file.
 * Returns  AQ_OK; AQ_E_IO; AQ_E_FORMAT; AQ_E_TYPE (Parquet, but no model); AQ_E_DUPLICATE;
 *          AQ_E_UNSUPPORTED; AQ_E_LIMIT; AQ_E_NOMEM.
 * Cost     reads the metadata of every tensor, none of its weights.
 * Threads  an open model is immutable: any number of threads may use it. */
AQ_API AQ_CHECKED aq_status aq_model_open(const char *path, const aq_model_options *options,
                                          aq_model **out_model, aq_error *err);
/* aq_model_close - NULL-safe. Release all tensors first: their names, and the data of mapped
 * ones, die here. */
AQ_API void aq_model_close(aq_model *model);
AQ_API size_t aq_model_count(const aq_model *model);
AQ_API aq_model_format aq_model_get_format(const aq_model *model);
/* aq_model_describe - i-th tensor in name order, without data, scales and zero points (NULL):
 * nothing to release. Returns AQ_OK; AQ_E_ARG. */
AQ_API AQ_CHECKED aq_status aq_model_describe(const aq_model *model, size_t index,
                                              aq_tensor *out_tensor, aq_error *err);
/* aq_model_tensor - i-th tensor in name order with its data: pointers into the mapping where
 * the file allows (out_tensor->mapped), else decoded buffers. Give it to aq_tensor_release.
 * Returns  AQ_OK; AQ_E_ARG; AQ_E_FORMAT; AQ_E_CHECKSUM; AQ_E_NOMEM; AQ_E_UNSUPPORTED.
 * Cost     no copy and a bounded allocation when mapped. */
AQ_API AQ_CHECKED aq_status aq_model_tensor(const aq_model *model, size_t index,
                                            aq_tensor *out_tensor, aq_error *err);
/* aq_model_find - the same by name; AQ_E_NOT_FOUND names the nearest name there is. */
AQ_API AQ_CHECKED aq_status aq_model_find(const aq_model *model, const char *name,
                                          aq_tensor *out_tensor, aq_error *err);
/* aq_model_index - position of a name; SIZE_MAX when there is none. */
AQ_API size_t aq_model_index(const aq_model *model, const char *name);
/* aq_model_metadata - i-th key-value pair of the model file; false when out of range. */
AQ_API bool aq_model_metadata(const aq_model *model, size_t index, aq_key_value *out_pair);
/* aq_model_file_bytes - size on disk of all files of the model. */
AQ_API uint64_t aq_model_file_bytes(const aq_model *model);
/* aq_tensor_release - free what aq_model_tensor decoded, and zero the struct; harmless twice. */
AQ_API void aq_tensor_release(aq_tensor *tensor);

/* aq_tensor_rows_f32 - rows [first_row, first_row + num_rows) as float32, dequantized or
 * converted, to dst (num_rows * layout.cols floats).
 * Returns  AQ_OK; AQ_E_ARG; AQ_E_TYPE (an integer tensor). */
AQ_API AQ_CHECKED aq_status aq_tensor_rows_f32(const aq_tensor *tensor, size_t first_row,
                                               size_t num_rows, float *dst,
                                               const aq_tasks *tasks, aq_error *err);
/* aq_tensor_dot / _matvec - aq_dot_row and aq_matvec on a tensor, quantized or float. */
AQ_API AQ_CHECKED aq_status aq_tensor_dot(const aq_tensor *tensor, size_t row, const float *x,
                                          float *out_dot, aq_error *err);
AQ_API AQ_CHECKED aq_status aq_tensor_matvec(const aq_tensor *tensor, const float *x, float *y,
                                             const aq_tasks *tasks, aq_error *err);
/* aq_tensor_init - describe values in memory: a float or integer tensor that borrows name and
 * data (num_params * aq_dtype_bytes(dtype) bytes). Returns AQ_OK; AQ_E_ARG; AQ_E_LIMIT. */
AQ_API AQ_CHECKED aq_status aq_tensor_init(aq_tensor *out_tensor, const char *name,
                                           aq_dtype dtype, const uint64_t *shape,
                                           uint32_t num_dims, const void *data, aq_error *err);

#ifndef AQ_NO_WRITER

typedef struct aq_model_writer aq_model_writer;

typedef struct aq_model_writer_options {
    const aq_allocator *allocator; /* NULL = malloc                                   */
    aq_model_format format;        /* AUTO: ".safetensors" or Parquet                 */
    const char *input_path;        /* a file that must not be the output; may be NULL */
    const aq_key_value *metadata;  /* copied                                          */
    size_t num_metadata;
    bool no_sync;                  /* see aq_writer_options                           */
} aq_model_writer_options;

/* aq_model_writer_open - begin a model file that appears, whole, at finish.
 *   tensors  in  descriptions of all tensors in the order they will be put (data, scales and
 *                zero_points are not read); names unique; borrowed until finish
 * Returns  AQ_OK; AQ_E_ARG; AQ_E_DUPLICATE; AQ_E_UNSUPPORTED (a quantized tensor cannot go
 *          into safetensors); AQ_E_IO; AQ_E_NOMEM. */
AQ_API AQ_CHECKED aq_status aq_model_writer_open(const char *path, const aq_tensor *tensors,
                                                 size_t num_tensors,
                                                 const aq_model_writer_options *options,
                                                 aq_model_writer **out_writer, aq_error *err);
/* aq_model_writer_put - the next tensor, with its data. It must match its description in
 * name, dtype, shape and layout; the metrics may be new. */
AQ_API AQ_CHECKED aq_status aq_model_writer_put(aq_model_writer *writer, const aq_tensor *tensor,
                                                aq_error *err);
/* aq_model_writer_finish - make the file durable and visible; frees the writer in any case. */
AQ_API AQ_CHECKED aq_status aq_model_writer_finish(aq_model_writer *writer, aq_error *err);
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
    bool keep;                /* store as it came: 1-D, scalar, empty, integer by default */
    aq_quant_options quant;
} aq_plan;

typedef struct aq_job_options {
    aq_operation operation;
    aq_quant_options quant;        /* of every tensor that is not kept                */
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

/* One tensor of a job, in name order. */
typedef struct aq_tensor_report {
    const char *name;
    aq_tensor tensor;     /* as written; data, scales and zero_points are NULL         */
    uint64_t bytes_in;    /* of the input's data, scales and zero points               */
    uint64_t bytes_out;
    aq_metrics metrics;   /* count = 0 when the tensor was not quantized               */
} aq_tensor_report;

typedef struct aq_job_report {
    aq_tensor_report *tensors;
    size_t num_tensors;
    size_t num_quantized;
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

/* aq_job_run - read the model at `input`, write the model at `output`, tensors sorted by name.
 *   report  out  may be NULL; give it to aq_job_report_deinit after success
 * Returns  what opening, quantizing and writing return; AQ_E_CANCELLED. Nothing appears under
 *          `output` unless AQ_OK.
 * Memory   the output of one tensor at a time, whatever the size of the model.
 * Numeric  the same file for any number of threads and any instruction set. */
AQ_API AQ_CHECKED aq_status aq_job_run(const char *input, const char *output,
                                       const aq_job_options *options, aq_job_report *out_report,
                                       aq_error *err);
AQ_API void aq_job_report_deinit(aq_job_report *report);

#endif /* AQ_NO_WRITER */

#ifdef __cplusplus
}
#endif

#endif /* ARROWQUANT_H */
