/* duckdb.h - DuckDB's C library, which npm installs, loaded at run time with
 * prototypes of our own; queries as Arrow streams, Arrow arrays as SQL tables, and the
 * values of a result row by row. Everything that goes wrong in DuckDB ends the
 * program. */
#ifndef ARROW_DUCKDB_H
#define ARROW_DUCKDB_H

#include "../../arrowquant.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DUCK __attribute__((unused)) static

/* From duckdb.h: what is used here. Handles are pointers. */
typedef void *duck_handle;

typedef struct duck_result {
    uint64_t deprecated_counts[3];
    void *deprecated_columns;
    char *deprecated_error;
    void *internal;
} duck_result;

typedef union duck_string {
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
} duck_string;

typedef struct duck_list {
    uint64_t offset, length;
} duck_list;

/* X(result, name after duckdb_, parameters) */
#define DUCK_FUNCTIONS(X)                                                                \
    X(int, open, (const char *, duck_handle *))                                          \
    X(int, connect, (duck_handle, duck_handle *))                                        \
    X(void, disconnect, (duck_handle *))                                                 \
    X(void, close, (duck_handle *))                                                      \
    X(int, query, (duck_handle, const char *, duck_result *))                            \
    X(const char *, result_error, (duck_result *))                                       \
    X(void, destroy_result, (duck_result *))                                             \
    X(int, prepare, (duck_handle, const char *, duck_handle *))                          \
    X(int, pending_prepared_streaming, (duck_handle, duck_handle *))                     \
    X(int, execute_pending, (duck_handle, duck_result *))                                \
    X(void, destroy_pending, (duck_handle *))                                            \
    X(void, destroy_prepare, (duck_handle *))                                            \
    X(duck_handle, fetch_chunk, (duck_result))                                           \
    X(void, destroy_data_chunk, (duck_handle *))                                         \
    X(uint64_t, data_chunk_get_size, (duck_handle))                                      \
    X(duck_handle, data_chunk_get_vector, (duck_handle, uint64_t))                       \
    X(void *, vector_get_data, (duck_handle))                                            \
    X(uint64_t *, vector_get_validity, (duck_handle))                                    \
    X(duck_handle, list_vector_get_child, (duck_handle))                                 \
    X(uint64_t, column_count, (duck_result *))                                           \
    X(const char *, column_name, (duck_result *, uint64_t))                              \
    X(duck_handle, column_logical_type, (duck_result *, uint64_t))                       \
    X(void, destroy_logical_type, (duck_handle *))                                       \
    X(duck_handle, result_get_arrow_options, (duck_result *))                            \
    X(void, destroy_arrow_options, (duck_handle *))                                      \
    X(duck_handle, to_arrow_schema,                                                      \
      (duck_handle, duck_handle *, const char **, uint64_t, struct ArrowSchema *))       \
    X(duck_handle, data_chunk_to_arrow, (duck_handle, duck_handle, struct ArrowArray *)) \
    X(duck_handle, schema_from_arrow,                                                    \
      (duck_handle, struct ArrowSchema *, duck_handle *))                                \
    X(duck_handle, data_chunk_from_arrow,                                                \
      (duck_handle, struct ArrowArray *, duck_handle, duck_handle *))                    \
    X(void, destroy_arrow_converted_schema, (duck_handle *))                             \
    X(const char *, error_data_message, (duck_handle))                                   \
    X(bool, error_data_has_error, (duck_handle))                                         \
    X(void, destroy_error_data, (duck_handle *))                                         \
    X(int, appender_create, (duck_handle, const char *, const char *, duck_handle *))    \
    X(int, append_data_chunk, (duck_handle, duck_handle))                                \
    X(int, appender_destroy, (duck_handle *))                                            \
    X(int, arrow_scan, (duck_handle, const char *, struct ArrowArrayStream *))

static struct {
#define DUCK_X(result, name, parameters) result(*name) parameters;
    DUCK_FUNCTIONS(DUCK_X)
#undef DUCK_X
} duck;

static duck_handle duck_database, duck_connection;

DUCK void duck_give_up(const char *what, const char *why) {
    fprintf(stderr, "DuckDB: %s: %s\n", what, why == NULL ? "?" : why);
    exit(2);
}

/* $LIBDUCKDB, or where tests/interop/packages.sh installs the library. */
DUCK const char *duck_path(void) {
    const char *path = getenv("LIBDUCKDB");
    return path != NULL ? path
                        : "build/interop/node_modules/@duckdb/node-bindings-linux-x64/"
                          "libduckdb.so";
}

DUCK void duck_start(void) {
    const char *path = duck_path();
    void *library, *address;
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) duck_give_up(path, dlerror());
#define DUCK_X(result, name, parameters)                                                 \
    address = dlsym(library, "duckdb_" #name);                                           \
    if (address == NULL) duck_give_up("duckdb_" #name, "missing");                       \
    memcpy(&duck.name, &address, sizeof address);
    DUCK_FUNCTIONS(DUCK_X)
#undef DUCK_X
    if (duck.open(NULL, &duck_database) != 0 ||
        duck.connect(duck_database, &duck_connection) != 0)
        duck_give_up("open", "failed");
}

DUCK void duck_stop(void) {
    duck.disconnect(&duck_connection);
    duck.close(&duck_database);
}

/* printf into memory of malloc. */
DUCK char *duck_text(const char *format, va_list arguments) {
    va_list again;
    int n;
    char *text;
    va_copy(again, arguments);
    n = vsnprintf(NULL, 0, format, again);
    va_end(again);
    text = n < 0 ? NULL : (char *)malloc((size_t)n + 1);
    if (text == NULL) abort();
    vsnprintf(text, (size_t)n + 1, format, arguments);
    return text;
}

/* A statement whose result is given back. */
DUCK duck_result duck_query(const char *format, ...)
    __attribute__((format(printf, 1, 2)));
DUCK duck_result duck_query(const char *format, ...) {
    duck_result result;
    va_list arguments;
    char *sql;
    va_start(arguments, format);
    sql = duck_text(format, arguments);
    va_end(arguments);
    if (duck.query(duck_connection, sql, &result) != 0)
        duck_give_up(sql, duck.result_error(&result));
    free(sql);
    return result;
}

/* A statement whose result does not matter. */
#define duck_run(...)                                                                    \
    do {                                                                                 \
        duck_result result_ = duck_query(__VA_ARGS__);                                   \
        duck.destroy_result(&result_);                                                   \
    } while (0)

DUCK void duck_check(duck_handle error_data, const char *what) {
    if (error_data == NULL) return;
    if (duck.error_data_has_error(error_data))
        duck_give_up(what, duck.error_data_message(error_data));
    duck.destroy_error_data(&error_data);
}

/* ---- a query as a stream ---- */

typedef struct duck_stream {
    duck_handle connection; /* of its own: another query would end a streaming one */
    duck_handle statement, pending, options;
    duck_result result;
    char error[256];
} duck_stream;

static const char *duck_settings = "SELECT 1"; /* SQL before the query of a stream */
static int duck_live_arrays; /* handed out by streams, not released yet */

typedef struct duck_counted {
    struct ArrowArray inner;
} duck_counted;

/* Only the array itself is ours; the rest is DuckDB's, children included. */
DUCK void duck_array_release(struct ArrowArray *a) {
    duck_counted *c = (duck_counted *)a->private_data;
    a->release = NULL;
    c->inner.release(&c->inner);
    free(c);
    __atomic_sub_fetch(&duck_live_arrays, 1, __ATOMIC_RELAXED);
}

DUCK int duck_stream_schema(struct ArrowArrayStream *s, struct ArrowSchema *out) {
    duck_stream *d = (duck_stream *)s->private_data;
    uint64_t n = duck.column_count(&d->result);
    duck_handle types[16];
    const char *names[16];
    if (n > 16) duck_give_up("columns", "too many");
    for (uint64_t i = 0; i < n; i++) {
        types[i] = duck.column_logical_type(&d->result, i);
        names[i] = duck.column_name(&d->result, i);
    }
    duck_check(duck.to_arrow_schema(d->options, types, names, n, out), "schema");
    for (uint64_t i = 0; i < n; i++)
        duck.destroy_logical_type(&types[i]);
    return 0;
}

DUCK int duck_stream_next(struct ArrowArrayStream *s, struct ArrowArray *out) {
    duck_stream *d = (duck_stream *)s->private_data;
    duck_handle chunk = duck.fetch_chunk(d->result);
    duck_counted *c;
    const char *error = duck.result_error(&d->result);
    memset(out, 0, sizeof *out);
    if (chunk == NULL && error != NULL && error[0] != '\0') {
        snprintf(d->error, sizeof d->error, "%s", error);
        return EIO;
    }
    if (chunk == NULL) return 0;
    c = (duck_counted *)malloc(sizeof *c);
    duck_check(duck.data_chunk_to_arrow(d->options, chunk, &c->inner), "array");
    duck.destroy_data_chunk(&chunk);
    *out = c->inner;
    out->private_data = c;
    out->release = duck_array_release;
    __atomic_add_fetch(&duck_live_arrays, 1, __ATOMIC_RELAXED);
    return 0;
}

DUCK const char *duck_stream_error(struct ArrowArrayStream *s) {
    duck_stream *d = (duck_stream *)s->private_data;
    return d->error[0] == '\0' ? NULL : d->error;
}

DUCK void duck_stream_release(struct ArrowArrayStream *s) {
    duck_stream *d = (duck_stream *)s->private_data;
    duck.destroy_arrow_options(&d->options);
    duck.destroy_result(&d->result);
    duck.destroy_pending(&d->pending);
    duck.destroy_prepare(&d->statement);
    duck.disconnect(&d->connection);
    free(d);
    s->release = NULL;
}

/* The rows of a query, in chunks as DuckDB makes them. */
DUCK void duck_query_stream(struct ArrowArrayStream *out, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
DUCK void duck_query_stream(struct ArrowArrayStream *out, const char *format, ...) {
    duck_stream *d = (duck_stream *)calloc(1, sizeof *d);
    duck_result none;
    va_list arguments;
    char *sql;
    va_start(arguments, format);
    sql = duck_text(format, arguments);
    va_end(arguments);
    if (duck.connect(duck_database, &d->connection) != 0 ||
        duck.query(d->connection, duck_settings, &none) != 0)
        duck_give_up(duck_settings, "refused");
    duck.destroy_result(&none);
    if (duck.prepare(d->connection, sql, &d->statement) != 0 ||
        duck.pending_prepared_streaming(d->statement, &d->pending) != 0 ||
        duck.execute_pending(d->pending, &d->result) != 0)
        duck_give_up(sql, "refused");
    free(sql);
    d->options = duck.result_get_arrow_options(&d->result);
    out->get_schema = duck_stream_schema;
    out->get_next = duck_stream_next;
    out->get_last_error = duck_stream_error;
    out->release = duck_stream_release;
    out->private_data = d;
}

/* ---- arrays as a table ---- */

/* The SQL type of a column; by its format, as far as is needed here. */
DUCK const char *duck_type_of(const struct ArrowSchema *s) {
    const char *f = s->format;
    const bool list = f[0] == '+';
    if (list) f = s->children[0]->format;
    switch (f[strlen(f) - 1]) {
    case 'u':
    case 'U':
        return "VARCHAR";
    case 'z':
    case 'Z':
        return "BLOB";
    case 'f':
        return list ? "FLOAT[]" : "FLOAT";
    case 'g':
        return list ? "DOUBLE[]" : "DOUBLE";
    case 'l':
        return list ? "BIGINT[]" : "BIGINT";
    case 'L':
        return list ? "UBIGINT[]" : "UBIGINT";
    case 'i':
        return "INTEGER";
    case 'C':
        return "UTINYINT";
    default:
        duck_give_up("format", s->format);
        return NULL;
    }
}

DUCK void duck_create_table(const char *table, const struct ArrowSchema *s) {
    char columns[2048];
    size_t used = 0;
    for (int64_t i = 0; i < s->n_children; i++)
        used += (size_t)snprintf(columns + used, sizeof columns - used, "%s%s %s",
                                 i == 0 ? "" : ", ", s->children[i]->name,
                                 duck_type_of(s->children[i]));
    duck_run("CREATE OR REPLACE TABLE %s (%s)", table, columns);
}

/* Appends an array's rows; DuckDB releases it. */
DUCK void duck_append(const char *table, struct ArrowSchema *schema,
                      struct ArrowArray *array) {
    duck_handle converted, chunk, appender;
    duck_check(duck.schema_from_arrow(duck_connection, schema, &converted), "schema");
    duck_check(duck.data_chunk_from_arrow(duck_connection, array, converted, &chunk),
               "array");
    if (duck.appender_create(duck_connection, NULL, table, &appender) != 0 ||
        duck.append_data_chunk(appender, chunk) != 0 ||
        duck.appender_destroy(&appender) != 0)
        duck_give_up("append", table);
    duck.destroy_data_chunk(&chunk);
    duck.destroy_arrow_converted_schema(&converted);
}

/* ---- the values of a result ---- */

/* One row of a result, of which the columns are read by number. */
typedef struct duck_rows {
    duck_result result;
    duck_handle chunk;
    uint64_t row; /* in the chunk */
} duck_rows;

/* Advances; false at the end, when all is given back. */
DUCK bool duck_next(duck_rows *r) {
    if (r->chunk != NULL && ++r->row < duck.data_chunk_get_size(r->chunk)) return true;
    if (r->chunk != NULL) duck.destroy_data_chunk(&r->chunk);
    r->row = 0;
    do {
        r->chunk = duck.fetch_chunk(r->result);
    } while (r->chunk != NULL && duck.data_chunk_get_size(r->chunk) == 0);
    if (r->chunk == NULL) duck.destroy_result(&r->result);
    return r->chunk != NULL;
}

DUCK bool duck_is_null(const duck_rows *r, uint64_t column) {
    uint64_t *valid =
        duck.vector_get_validity(duck.data_chunk_get_vector(r->chunk, column));
    return valid != NULL && (valid[r->row / 64] >> r->row % 64 & 1) == 0;
}

/* Address of a value of `width` bytes. */
DUCK const void *duck_value(const duck_rows *r, uint64_t column, size_t width) {
    duck_handle v = duck.data_chunk_get_vector(r->chunk, column);
    return (const char *)duck.vector_get_data(v) + r->row * width;
}

DUCK aq_bytes duck_bytes(const duck_rows *r, uint64_t column) {
    const duck_string *s =
        (const duck_string *)duck_value(r, column, sizeof(duck_string));
    aq_bytes b;
    b.size = s->length;
    b.data = (const uint8_t *)(s->length <= 12 ? s->inlined.bytes : s->pointer.data);
    return b;
}

/* The elements of a list, of `width` bytes; size is their number. */
DUCK aq_bytes duck_elements(const duck_rows *r, uint64_t column, size_t width) {
    duck_handle v = duck.data_chunk_get_vector(r->chunk, column);
    const duck_list *l = (const duck_list *)duck_value(r, column, sizeof(duck_list));
    aq_bytes b;
    b.size = l->length;
    b.data = (const uint8_t *)duck.vector_get_data(duck.list_vector_get_child(v)) +
             l->offset * width;
    return b;
}

/* The one number that a query gives. */
DUCK double duck_number(const char *sql) {
    duck_rows r = {duck_query("SELECT (%s)::DOUBLE", sql), NULL, 0};
    double value = 0;
    while (duck_next(&r))
        memcpy(&value, duck_value(&r, 0, sizeof value), sizeof value);
    return value;
}

#endif
