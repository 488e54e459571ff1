/* duckdb.c - DuckDB through its C library, which npm installs: loaded at run time, with
 * prototypes of our own. */
#include "peers.h"

#include <dlfcn.h>
#include <stdarg.h>

/* From duckdb.h: what is used here. Handles are pointers. */
typedef void *handle;
typedef struct duckdb_result {
    uint64_t deprecated_counts[3];
    void *deprecated_columns;
    char *deprecated_error;
    void *internal;
} duckdb_result;

typedef union duckdb_string {
    uint32_t length;
    struct {
        uint32_t length;
        char bytes[12];
    } inlined; /* of at most 12 bytes */
    struct {
        uint32_t length;
        char prefix[4];
        const char *data;
    } pointer;
} duckdb_string;

static struct {
    int (*open)(const char *path, handle *db);
    int (*connect)(handle db, handle *connection);
    int (*query)(handle connection, const char *sql, duckdb_result *result);
    const char *(*result_error)(duckdb_result *result);
    void (*destroy_result)(duckdb_result *result);
    int (*prepare)(handle connection, const char *sql, handle *statement);
    int (*pending_prepared_streaming)(handle statement, handle *pending);
    int (*execute_pending)(handle pending, duckdb_result *result);
    void (*destroy_pending)(handle *pending);
    void (*destroy_prepare)(handle *statement);
    handle (*fetch_chunk)(duckdb_result result);
    void (*destroy_data_chunk)(handle *chunk);
    uint64_t (*data_chunk_get_size)(handle chunk);
    handle (*data_chunk_get_vector)(handle chunk, uint64_t column);
    void *(*vector_get_data)(handle vector);
    handle (*list_vector_get_child)(handle vector);
    uint64_t (*list_vector_get_size)(handle vector);
} duck;

static handle connection;

static void load_library(void) {
    static const char *const names[] = {"open",
                                        "connect",
                                        "query",
                                        "result_error",
                                        "destroy_result",
                                        "prepare",
                                        "pending_prepared_streaming",
                                        "execute_pending",
                                        "destroy_pending",
                                        "destroy_prepare",
                                        "fetch_chunk",
                                        "destroy_data_chunk",
                                        "data_chunk_get_size",
                                        "data_chunk_get_vector",
                                        "vector_get_data",
                                        "list_vector_get_child",
                                        "list_vector_get_size"};
    const char *npm = getenv("PEERS_NPM");
    char path[PATH_BYTES], name[64];
    snprintf(path, sizeof path,
             "%s/node_modules/@duckdb/node-bindings-linux-x64/"
             "libduckdb.so",
             npm == NULL ? "build/interop" : npm);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) give_up("%s", dlerror());
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(name, sizeof name, "duckdb_%s", names[i]);
        void *address = dlsym(library, name);
        if (address == NULL) give_up("%s", dlerror());
        memcpy((char *)&duck + i * sizeof address, &address, sizeof address);
    }
}

/* Runs statements of which the result does not matter. */
static void execute(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void execute(const char *format, ...) {
    size_t room = 1 << 20;
    char *sql = must_alloc(room);
    duckdb_result result;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(sql, room, format, arguments);
    va_end(arguments);
    if (duck.query(connection, sql, &result) != 0)
        give_up("%s", duck.result_error(&result));
    duck.destroy_result(&result);
    free(sql);
}

/* --- Chunks ------------------------------------------------------------------------- */

static double sum_strings(const duckdb_string *strings, uint64_t count, const job *j) {
    double sum = 0.0;
    for (uint64_t i = 0; i < count; i++) {
        uint32_t n = strings[i].length;
        if (is(j->data, "string"))
            sum += n;
        else if (n > 12)
            sum += sum_floats(strings[i].pointer.data, n / sizeof(float));
    }
    return sum;
}

static double sum_vector(handle vector, uint64_t count, const job *j) {
    if (is(j->data, "list")) {
        handle child = duck.list_vector_get_child(vector);
        return sum_floats(duck.vector_get_data(child), duck.list_vector_get_size(vector));
    }
    const void *data = duck.vector_get_data(vector);
    const aq_span span = {.values = data, .num_values = (int64_t)count};
    double sum = 0.0;
    if (is(j->data, "int32")) return sum_integers(&span, 4);
    if (is(j->data, "int64")) return sum_integers(&span, 8);
    if (is(j->data, "string") || is(j->data, "blob")) return sum_strings(data, count, j);
    if (!is(j->data, "double")) return sum_floats(data, count);
    for (uint64_t i = 0; i < count; i++)
        sum += ((const double *)data)[i];
    return sum;
}

/* The result of a query, chunk after chunk, as it is made. */
static double fetch_and_sum(const job *j, const char *sql) {
    handle statement, pending, chunk;
    duckdb_result result;
    double sum = 0.0;
    if (duck.prepare(connection, sql, &statement) != 0) give_up("a query is refused");
    if (duck.pending_prepared_streaming(statement, &pending) != 0)
        give_up("a query is refused");
    if (duck.execute_pending(pending, &result) != 0)
        give_up("%s", duck.result_error(&result));
    while ((chunk = duck.fetch_chunk(result)) != NULL) {
        handle vector = duck.data_chunk_get_vector(chunk, 0);
        sum += sum_vector(vector, duck.data_chunk_get_size(chunk), j);
        duck.destroy_data_chunk(&chunk);
    }
    duck.destroy_result(&result);
    duck.destroy_pending(&pending);
    duck.destroy_prepare(&statement);
    return sum;
}

static double query_double(const char *sql) {
    duckdb_result result;
    double value = NAN;
    if (duck.query(connection, sql, &result) != 0)
        give_up("%s", duck.result_error(&result));
    handle chunk = duck.fetch_chunk(result);
    if (chunk != NULL) {
        value = *(double *)duck.vector_get_data(duck.data_chunk_get_vector(chunk, 0));
        duck.destroy_data_chunk(&chunk);
    }
    duck.destroy_result(&result);
    return value;
}

/* --- Writing ------------------------------------------------------------------------ */

static const char *codec_name(const job *j) {
    if (is(j->how, "snappy")) return "snappy";
    return is(j->how, "zstd") ? "zstd, COMPRESSION_LEVEL 1" : "uncompressed";
}

/* 1000 columns of 10 row groups; statistics are always written. */
static void write_wide(const job *j) {
    size_t room = 1 << 20, used = 0;
    char *sql = must_alloc(room);
    for (int i = 0; i < 1000; i++)
        used +=
            (size_t)snprintf(sql + used, room - used, "%s(range * %d)::%s AS column%d",
                             i == 0 ? "" : ", ", i + 1, i % 2 ? "INTEGER" : "DOUBLE", i);
    execute("COPY (SELECT %s FROM range(20480)) TO '%s' (FORMAT parquet, "
            "ROW_GROUP_SIZE 2048)",
            sql, j->out);
    free(sql);
}

/* New encodings only where the case is about them. `tuned`: large row groups, no try at a
 * dictionary. */
static void write_table(const job *j, bool tuned) {
    bool plain = is(j->data, "flat") || is(j->data, "list") || is(j->data, "blob");
    execute("COPY t TO '%s' (FORMAT parquet, PARQUET_VERSION %s, COMPRESSION %s%s)",
            j->out, plain ? "V1" : "V2", codec_name(j),
            tuned ? ", ROW_GROUP_SIZE 1048576, DICTIONARY_SIZE_LIMIT 1" : "");
}

/* ------------------------------------------------------------------------------------ */

static void start(const job *j) {
    handle db;
    load_library();
    if (duck.open(NULL, &db) != 0 || duck.connect(db, &connection) != 0)
        give_up("DuckDB does not open");
    execute("SET threads = %u", j->threads);
    if (job_writes(j) && !is(j->data, "wide"))
        execute("CREATE TABLE t AS SELECT * FROM read_parquet('%s')", j->in);
}

static outcome run_sql(const job *j) {
    const char *value = "sum(v)";
    char sql[PATH_BYTES + 256];
    outcome out = {NAN, NAN, NAN, NAN};
    if (job_writes(j)) {
        if (is(j->data, "wide"))
            write_wide(j);
        else
            write_table(j, false);
        return out;
    }
    if (is(j->data, "list")) value = "sum(list_sum(v))";
    if (is(j->data, "blob")) value = "sum(octet_length(v))";
    if (is(j->data, "string")) value = "sum(strlen(v))";
    if (is(j->operation, "footer")) value = "count(*)";
    snprintf(sql, sizeof sql, "SELECT %s::DOUBLE FROM read_parquet('%s')", value, j->in);
    out.sum = query_double(sql);
    if (is(j->data, "blob") || is(j->operation, "footer")) out.sum = NAN;
    return out;
}

static outcome run_fetch(const job *j) {
    char sql[PATH_BYTES + 256];
    outcome out = {NAN, NAN, NAN, NAN};
    if (job_writes(j))
        write_table(j, true);
    else if (is(j->operation, "footer")) {
        snprintf(sql, sizeof sql, "SELECT count(*)::DOUBLE FROM parquet_metadata('%s')",
                 j->in);
        query_double(sql);
    } else {
        snprintf(sql, sizeof sql, "SELECT v FROM read_parquet('%s')", j->in);
        out.sum = fetch_and_sum(j, sql);
    }
    return out;
}

/* Reading: a sum in SQL, or chunks that we add. Writing: as it comes, or tuned. Footers:
 * a count of rows, or all that the footer has. The better time counts. */
const engine engine_duckdb_sql = {"duckdb", start, run_sql};
const engine engine_duckdb_fetch = {"duckdb2", start, run_fetch};
