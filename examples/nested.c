/* nested.c - rows of nested lists, with nulls at every depth, put together from the levels.
 *
 *   cc nested.c -o nested -pthread -lm && ./nested */
#define ARROWQUANT_IMPLEMENTATION
#include "../arrowquant.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const closing = "]]]]]]]]"; /* for lists at most so deep */
static aq_error err;
static void check(aq_status status) {
    if (status == AQ_OK) return;
    fprintf(stderr, "nested: %s\n", err.message);
    exit(1);
}

/* A definition level counts the optional and repeated nodes on the path that are there: 0 no
 * list, 1 an empty one, 2 a null in it, 3 an empty inner list, 4 a null in that, 5 a number.
 * A repetition level tells which list goes on: 0 none (a new row), 1 the outer, 2 the inner. */
static void write_sample(const char *path) {
    static const aq_field_spec fields[5] = {
        {"row", AQ_OPTIONAL, AQ_GROUP, 1, .logical = AQ_LOGICAL_LIST},
        {"list", AQ_REPEATED, AQ_GROUP, .num_children = 1},
        {"element", AQ_OPTIONAL, AQ_GROUP, 1, .logical = AQ_LOGICAL_LIST},
        {"list", AQ_REPEATED, AQ_GROUP, .num_children = 1},
        {.name = "element", .repetition = AQ_OPTIONAL, .type = AQ_INT32},
    };
    static const int32_t values[4] = {1, 2, 3, 4};
    static const uint8_t def[9] = {5, 5, 5, 0, 1, 2, 3, 4, 5};
    static const uint8_t rep[9] = {0, 2, 1, 0, 0, 0, 1, 1, 2};
    const aq_column_values column = {values, 4, def, rep, .num_levels = 9};
    aq_writer *writer;
    check(aq_writer_open(path, fields, 5, NULL, &writer, &err));
    check(aq_writer_put_column(writer, &column, &err));
    check(aq_writer_end_row_group(writer, 4, &err));
    check(aq_writer_finish(writer, &err));
}

/* The nodes below the root on the path to a leaf; returns how many. */
static int find_path(const aq_parquet *file, const aq_field *node, const aq_field **to) {
    int n;
    if (node->parent < 0) return 0; /* the root */
    n = find_path(file, aq_parquet_field(file, node->parent), to);
    to[n] = node;
    return n + 1;
}

/* Prints what one pair of levels adds to a row, of which some lists are open; returns how many
 * are open then. */
static int print_entry(const aq_field *const *path, int n, int open, int def, int rep) {
    int i = 0;
    printf("%.*s%s", open - rep, closing, rep > 0 ? ", " : "\n");
    open = rep;
    while (rep > 0 && path[i++]->max_rep < rep)
        continue; /* to below the list that goes on */
    for (; i < n; i++) {
        const bool list = path[i]->repetition == AQ_REPEATED,
                   here = def >= path[i]->max_def;
        if (list || !here) printf(list ? "[" : "null");
        open += list;
        if (!here) break; /* nor what is below it */
    }
    return open;
}

static void print_rows(const aq_field *const *path, int n, const aq_span *span) {
    const char *at = (const char *)span->values;
    int open = 0, max_def = path[n - 1]->max_def;
    printf("%d levels, %d values", (int)span->num_levels, (int)span->num_values);
    for (int64_t i = 0; i < span->num_levels; i++) {
        int32_t value; /* without levels: nothing is null; one list, or no lists */
        int def = span->def_levels != NULL ? span->def_levels[i] : max_def;
        int rep = span->single_list && i > 0 ? path[n - 1]->max_rep : 0;
        if (span->rep_levels != NULL) rep = span->rep_levels[i];
        open = print_entry(path, n, open, def, rep);
        if (def < max_def) continue;
        memcpy(&value, at, sizeof value); /* from any address */
        at += sizeof value;
        printf("%d", (int)value);
    }
    printf("%.*s\n", open, closing); /* of the last row */
}

int main(void) {
    aq_parquet *file;
    aq_column *column;
    aq_span span;
    const aq_field *path[64]; /* deeper schemas do not open */
    write_sample("nested.parquet");
    check(aq_parquet_open("nested.parquet", NULL, &file, &err));
    check(aq_column_open(file, 0, 0, &column, &err));
    check(aq_column_view(column, &span, &err));
    print_rows(path, find_path(file, aq_parquet_column_field(file, 0), path), &span);
    aq_column_close(column);
    aq_parquet_close(file);
    return 0;
}
