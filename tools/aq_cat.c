/* aq_cat.c - `aq cat`: the rows of a Parquet file, put together again from its columns. */
#include "aq.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { CAT_COLUMNS = CLI_OPTION_OWN, CAT_ROWS, CAT_RAW };

/* How far one column is read. Of each column a page is in memory. */
typedef struct cursor {
    const aq_field *field;
    aq_column *reader;
    aq_span span;
    size_t level, value; /* the next ones of the span */
    bool at_end;         /* of the row group */
} cursor;

/* What stands in a row, as JSON knows it. Its columns are a range of the cursors. */
typedef struct node {
    enum { NODE_VALUE, NODE_OBJECT, NODE_ARRAY } kind;
    const char *key;       /* NULL in an array                                         */
    const aq_field *field; /* NODE_VALUE                                               */
    bool nullable;
    unsigned present; /* definition level from which on it is not null            */
    unsigned filled;  /* NODE_ARRAY: and from which on it has an element          */
    unsigned again;   /* NODE_ARRAY: repetition level of its further elements     */
    unsigned inside;  /* and the least one of what is inside the node             */
    size_t first_cursor, end_cursor;
    size_t child, sibling; /* nodes; 0 = none                                          */
} node;

typedef struct cat {
    const char *path;
    const aq_parquet *file;
    aq_parquet_info info;
    bool raw;
    int64_t rows_left, row;
    bool *selected;      /* by column                                                  */
    int32_t *field_ends; /* by field: the first one that is not inside it              */
    node *nodes;         /* 0 is the row                                               */
    size_t num_nodes;
    cursor *cursors;
    size_t num_cursors;
    json out;
    aq_error err;
} cat;

/*==========================================================================
 * MARK: - Which columns
 *========================================================================*/

/* Single-character edits that make one name the other. */
static size_t edit_distance(const char *a, size_t a_size, const char *b, size_t b_size) {
    size_t *row = (size_t *)cli_resize(NULL, b_size + 1, sizeof *row), i, j, distance;
    for (j = 0; j <= b_size; j++)
        row[j] = j;
    for (i = 1; i <= a_size; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (j = 1; j <= b_size; j++) {
            size_t least = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < least) least = row[j] + 1;
            if (row[j - 1] + 1 < least) least = row[j - 1] + 1;
            row[j] = least;
        }
    }
    distance = row[b_size];
    free(row);
    return distance;
}

static int unknown_column(const cat *of, const char *name, size_t size) {
    const char *nearest = "";
    size_t nearest_size = 0, least = SIZE_MAX;
    int32_t column;
    for (column = 0; column < of->info.num_columns; column++) {
        const char *path = aq_parquet_column_path(of->file, column);
        size_t prefix = 0; /* each part of the path is a name: "a", "a.b", "a.b.c" */
        do {
            size_t distance;
            prefix += strcspn(path + prefix, ".");
            distance = edit_distance(name, size, path, prefix);
            if (distance < least) {
                least = distance;
                nearest = path;
                nearest_size = prefix;
            }
        } while (path[prefix++] != '\0');
    }
    return cli_error(of->path, "no column \"%.*s\"; the nearest name is \"%.*s\"",
                     (int)size, name, (int)nearest_size, nearest);
}

/* Selects the column of that path, or all below a group of that path. */
static bool select_column(cat *of, const char *name, size_t size) {
    bool found = false;
    int32_t column;
    for (column = 0; column < of->info.num_columns; column++) {
        const char *path = aq_parquet_column_path(of->file, column);
        if (strncmp(path, name, size) == 0 && (path[size] == '.' || path[size] == '\0'))
            of->selected[column] = found = true;
    }
    return found;
}

/* A list as a whole may be the name of a column: "Price, USD". */
static int select_list(cat *of, const char *names) {
    if (select_column(of, names, strlen(names))) return CLI_GOOD;
    for (;;) {
        size_t size = strcspn(names, ",");
        if (!select_column(of, names, size)) return unknown_column(of, names, size);
        if (names[size] == '\0') return CLI_GOOD;
        names += size + 1;
    }
}

static int select_columns(cat *of, const cli_args *args) {
    bool all = !cli_has(args, CAT_COLUMNS);
    size_t columns = (size_t)of->info.num_columns, i;
    int code = CLI_GOOD;
    of->selected = (bool *)cli_resize(NULL, columns + 1, sizeof *of->selected);
    for (i = 0; i < columns; i++)
        of->selected[i] = all;
    for (i = 0; i < args->num_settings && code == CLI_GOOD; i++) {
        if (args->settings[i].id == CAT_COLUMNS)
            code = select_list(of, args->settings[i].value);
    }
    return code;
}

/*==========================================================================
 * MARK: - From the schema to what stands in a row
 *========================================================================*/

static const aq_field *field_at(const cat *of, int32_t index) {
    return aq_parquet_field(of->file, index);
}

static void find_field_ends(cat *of) {
    int32_t i, n = of->info.num_fields;
    of->field_ends = (int32_t *)cli_resize(NULL, (size_t)n, sizeof *of->field_ends);
    for (i = 0; i < n; i++)
        of->field_ends[i] = i + 1;
    while (--i > 0) {
        int32_t *end = &of->field_ends[field_at(of, i)->parent];
        if (*end < of->field_ends[i]) *end = of->field_ends[i];
    }
}

/* Whether the group's only child is the repeated field of a list or map. */
static bool holds_repeated(const cat *of, int32_t index) {
    return field_at(of, index)->num_children == 1 &&
           field_at(of, index + 1)->repetition == AQ_REPEATED;
}

/* MAP_KEY_VALUE, where it is not inside a MAP, is an old name of MAP. */
static bool is_map(const cat *of, int32_t index) {
    enum { CONVERTED_MAP_KEY_VALUE = 2 };
    const aq_field *field = field_at(of, index);
    return (field->logical == AQ_LOGICAL_MAP ||
            (field->logical == AQ_LOGICAL_NONE &&
             field->converted == CONVERTED_MAP_KEY_VALUE)) &&
           holds_repeated(of, index) && field_at(of, index + 1)->num_children != 0 &&
           field_at(of, index + 1)->num_children <= 2;
}

/* The backward-compatibility rules for lists of LogicalTypes.md: whether the repeated field
 * is the element itself, instead of the group around an element. */
static bool repeated_is_element(const cat *of, int32_t list) {
    const aq_field *repeated = field_at(of, list + 1);
    const char *name = field_at(of, list)->name;
    size_t size = strlen(name);
    return repeated->num_children != 1 ||
           field_at(of, list + 2)->repetition == AQ_REPEATED ||
           strcmp(repeated->name, "array") == 0 ||
           (strncmp(repeated->name, name, size) == 0 &&
            strcmp(repeated->name + size, "_tuple") == 0);
}

static size_t begin_node(cat *of, const char *key, unsigned present) {
    node *to = &of->nodes[of->num_nodes];
    memset(to, 0, sizeof *to);
    to->key = key;
    to->present = present;
    to->first_cursor = of->num_cursors;
    return of->num_nodes++;
}

/* Returns the node, or 0 and forgets it when no selected column is below it. */
static size_t end_node(cat *of, size_t index) {
    of->nodes[index].end_cursor = of->num_cursors;
    if (of->nodes[index].first_cursor != of->num_cursors) return index;
    of->num_nodes = index;
    return 0;
}

static size_t add_field(cat *of, int32_t index, const char *key);
static size_t add_element(cat *of, int32_t index, const char *key);

/* The fields in [index, end) as members of an object; names replace theirs if not NULL. */
static void add_members(cat *of, size_t object, int32_t index, int32_t end,
                        const char *const *names) {
    size_t last = 0;
    of->nodes[object].kind = NODE_OBJECT;
    for (; index < end; index = of->field_ends[index]) {
        size_t member =
            add_field(of, index, names != NULL ? *names++ : field_at(of, index)->name);
        if (member == 0) continue;
        if (last != 0) {
            of->nodes[last].sibling = member;
        } else {
            of->nodes[object].child = member;
        }
        last = member;
    }
}

static size_t add_map_entry(cat *of, int32_t repeated) {
    static const char *const names[] = {"key", "value"};
    size_t entry = begin_node(of, NULL, field_at(of, repeated)->max_def);
    add_members(of, entry, repeated + 1, of->field_ends[repeated], names);
    return end_node(of, entry);
}

static void begin_array(cat *of, size_t array, int32_t repeated) {
    of->nodes[array].kind = NODE_ARRAY;
    of->nodes[array].filled = field_at(of, repeated)->max_def;
    of->nodes[array].again = field_at(of, repeated)->max_rep;
    of->nodes[array].inside = of->nodes[array].again;
}

/* A field that is not repeated, or one element of a repeated one. */
static size_t add_element(cat *of, int32_t index, const char *key) {
    const aq_field *field = field_at(of, index);
    size_t at = begin_node(of, key, field->max_def);
    of->nodes[at].nullable = field->repetition == AQ_OPTIONAL;
    of->nodes[at].inside = field->max_rep + 1u;
    if (field->type != AQ_GROUP) {
        of->nodes[at].field = field;
        if (of->selected[field->column]) of->cursors[of->num_cursors++].field = field;
    } else if (is_map(of, index)) {
        begin_array(of, at, index + 1);
        of->nodes[at].child = add_map_entry(of, index + 1);
    } else if (field->logical == AQ_LOGICAL_LIST && holds_repeated(of, index)) {
        begin_array(of, at, index + 1);
        of->nodes[at].child = repeated_is_element(of, index)
                                  ? add_element(of, index + 1, NULL)
                                  : add_field(of, index + 2, NULL);
    } else {
        add_members(of, at, index + 1, of->field_ends[index], NULL);
    }
    return end_node(of, at);
}

/* A repeated field outside of lists and maps is a list that is never null. */
static size_t add_field(cat *of, int32_t index, const char *key) {
    const aq_field *field = field_at(of, index);
    size_t array;
    if (field->repetition != AQ_REPEATED) return add_element(of, index, key);
    array = begin_node(of, key, field->max_def - 1u);
    begin_array(of, array, index);
    of->nodes[array].child = add_element(of, index, NULL);
    return end_node(of, array);
}

static void make_nodes(cat *of) {
    size_t fields = (size_t)of->info.num_fields, columns = (size_t)of->info.num_columns;
    find_field_ends(of);
    /* at most an array and its element for each field */
    of->nodes = (node *)cli_resize(NULL, 2 * fields, sizeof *of->nodes);
    of->cursors = (cursor *)cli_resize(NULL, columns + 1, sizeof *of->cursors);
    memset(of->cursors, 0, (columns + 1) * sizeof *of->cursors);
    begin_node(of, NULL, 0);
    add_members(of, 0, 1, of->info.num_fields, NULL);
    end_node(of, 0);
}

/*==========================================================================
 * MARK: - From levels and values to rows
 *========================================================================*/

/* Makes sure that there is a level to look at, unless the row group ends. */
static bool look(cat *of, cursor *at) {
    if (at->level < (size_t)at->span.num_levels || at->at_end) return true;
    if (aq_column_next(at->reader, &at->span, &of->err) != AQ_OK) return false;
    at->level = at->value = 0;
    at->at_end = at->span.num_levels == 0;
    return true;
}

static unsigned definition(const cursor *at) {
    return at->span.def_levels != NULL ? at->span.def_levels[at->level]
                                       : at->field->max_def;
}

static unsigned repetition(const cursor *at) {
    if (at->span.rep_levels != NULL) return at->span.rep_levels[at->level];
    return at->span.single_list && at->level != 0 ? at->field->max_rep : 0;
}

static bool disagree(cat *of, const cursor *at) {
    of->err.status = AQ_E_FORMAT;
    snprintf(of->err.message, sizeof of->err.message,
             "row %" PRId64 ": the levels of column \"%.200s\" contradict those of the "
             "columns beside it",
             of->row + 1, aq_parquet_column_path(of->file, at->field->column));
    return false;
}

/* Steps over the one level that stands for an absent node in each of its columns. Some
 * writers have more: one for each element that an array of fixed size would have. */
static bool pass_absent(cat *of, const node *absent, unsigned def, unsigned rep) {
    size_t i;
    for (i = absent->first_cursor; i < absent->end_cursor; i++) {
        cursor *at = &of->cursors[i];
        if (!look(of, at)) return false;
        if (at->at_end || repetition(at) != rep) return disagree(of, at);
        do {
            if (definition(at) != def) return disagree(of, at);
            at->level++;
            if (!look(of, at)) return false;
        } while (!at->at_end && repetition(at) >= absent->inside);
    }
    return true;
}

static bool put_node(cat *of, const node *what, unsigned rep);

static bool put_members(cat *of, const node *object, unsigned rep) {
    size_t member;
    json_open(&of->out, object->key, '{');
    for (member = object->child; member != 0; member = of->nodes[member].sibling) {
        if (!put_node(of, &of->nodes[member], rep)) return false;
    }
    json_close(&of->out, '}');
    return true;
}

static bool put_elements(cat *of, const node *array, unsigned def, unsigned rep) {
    cursor *first = &of->cursors[array->first_cursor];
    json_open(&of->out, array->key, '[');
    if (def < array->filled) {
        if (!pass_absent(of, array, def, rep)) return false;
    } else {
        do {
            if (!put_node(of, &of->nodes[array->child], rep) || !look(of, first))
                return false;
            rep = array->again;
        } while (!first->at_end && repetition(first) == array->again);
    }
    json_close(&of->out, ']');
    return true;
}

/* Writes the node from the next levels of its columns, the first of which must have this
 * repetition level. The first column tells what is there; the others must agree. */
static bool put_node(cat *of, const node *what, unsigned rep) {
    cursor *first = &of->cursors[what->first_cursor];
    unsigned def;
    if (!look(of, first)) return false;
    if (first->at_end || repetition(first) != rep) return disagree(of, first);
    def = definition(first);
    if (def < what->present) {
        if (!what->nullable || def + 1 != what->present) return disagree(of, first);
        json_null(&of->out, what->key);
        return pass_absent(of, what, def, rep);
    }
    if (what->kind == NODE_OBJECT) return put_members(of, what, rep);
    if (what->kind == NODE_ARRAY) return put_elements(of, what, def, rep);
    value_put(&of->out, what->key, what->field, first->span.values, first->value,
              of->raw);
    first->level++;
    first->value++;
    return true;
}

/*==========================================================================
 * MARK: - The walk
 *========================================================================*/

/* A row reaches stdout as a whole line, or not at all. */
static bool show_row(cat *of) {
    json *out = &of->out;
    out->text.size = 0;
    out->depth = JSON_ONE_LINE;
    out->comma = false;
    if (of->num_cursors == 0) {
        json_open(out, NULL, '{');
        json_close(out, '}');
    } else if (!put_node(of, &of->nodes[0], 0)) {
        return false;
    }
    buffer_put(&out->text, "\n", 1);
    fwrite(out->text.data, 1, out->text.size, stdout);
    return true;
}

static bool open_columns(cat *of, int32_t row_group) {
    size_t i;
    for (i = 0; i < of->num_cursors; i++) {
        const aq_field *field = of->cursors[i].field;
        memset(&of->cursors[i], 0, sizeof of->cursors[i]);
        of->cursors[i].field = field;
        if (aq_column_open(of->file, row_group, field->column, &of->cursors[i].reader,
                           &of->err) != AQ_OK)
            return false;
    }
    return true;
}

/* After the last row no column may have more. */
static bool finish_columns(cat *of) {
    size_t i;
    for (i = 0; i < of->num_cursors; i++) {
        if (!look(of, &of->cursors[i])) return false;
        if (!of->cursors[i].at_end) return disagree(of, &of->cursors[i]);
    }
    return true;
}

static void close_columns(cat *of) {
    size_t i;
    for (i = 0; i < of->num_cursors; i++) {
        aq_column_close(of->cursors[i].reader);
        of->cursors[i].reader = NULL;
    }
}

static bool wants_rows(const cat *of) {
    return of->rows_left != 0 && ferror(stdout) == 0; /* main tells of the error */
}

static bool show_row_group(cat *of, int32_t row_group) {
    aq_row_group_info info;
    int64_t i;
    if (aq_parquet_get_row_group(of->file, row_group, &info, &of->err) != AQ_OK ||
        !open_columns(of, row_group))
        return false;
    for (i = 0; i < info.num_rows && wants_rows(of); i++) {
        if (!show_row(of)) return false;
        of->rows_left--;
        of->row++;
    }
    return i < info.num_rows || finish_columns(of);
}

static int show_rows(cat *of) {
    int32_t row_group;
    bool good = true;
    for (row_group = 0; good && wants_rows(of) && row_group < of->info.num_row_groups;
         row_group++) {
        good = show_row_group(of, row_group);
        close_columns(of);
    }
    if (good) return CLI_GOOD;
    fflush(stdout); /* the rows before the error come before it */
    if (of->err.status == AQ_E_UNSUPPORTED && of->err.column >= 0 &&
        strstr(of->err.message, "; ") == NULL)
        return cli_error(of->path, "%s; name the others with --columns", of->err.message);
    return cli_failure(of->path, &of->err);
}

static int parse_rows(const cli_args *args, int64_t *out_rows) {
    uint64_t rows;
    size_t i;
    *out_rows = INT64_MAX;
    for (i = 0; i < args->num_settings; i++) {
        if (args->settings[i].id != CAT_ROWS) continue;
        if (!cli_parse_count(args->settings[i].value, INT64_MAX, &rows))
            return cli_usage_error(args->command, "--rows takes a number, not \"%s\"",
                                   args->settings[i].value);
        *out_rows = (int64_t)rows;
    }
    return CLI_GOOD;
}

/* The file is read, not mapped: then the checksums of all pages are verified, and a disk
 * error is an error and not a SIGBUS. */
static int open_file(const char *path, aq_parquet **out_file) {
    aq_parquet_options how;
    aq_error err;
    memset(&how, 0, sizeof how);
    how.io = AQ_IO_READ;
    how.log = cli_log(path);
    return aq_parquet_open(path, &how, out_file, &err) == AQ_OK ? CLI_GOOD
                                                                : cli_failure(path, &err);
}

static int cat_run(const cli_args *args) {
    cat of;
    aq_parquet *file;
    int code;
    memset(&of, 0, sizeof of);
    of.path = args->files[0];
    of.raw = cli_has(args, CAT_RAW);
    code = parse_rows(args, &of.rows_left);
    if (code == CLI_GOOD) code = open_file(of.path, &file);
    if (code != CLI_GOOD) return code;
    of.file = file;
    aq_parquet_get_info(file, &of.info);
    code = select_columns(&of, args);
    if (code == CLI_GOOD) {
        make_nodes(&of);
        code = show_rows(&of);
    }
    buffer_free(&of.out.text);
    free(of.cursors);
    free(of.nodes);
    free(of.field_ends);
    free(of.selected);
    aq_parquet_close(file);
    return code;
}

static const cli_option options[] = {
    {"columns", "NAME,...", CAT_COLUMNS, true,
     "only these columns: names, or paths such as a.b.c"},
    {"rows", "N", CAT_ROWS, false, "only the first N rows"},
    {"raw", NULL, CAT_RAW, false,
     "values as they are stored: numbers of dates, times and\n"
     "decimals, all bytes in hexadecimal"},
    CLI_OPTIONS_END};

const cli_command command_cat = {
    .name = "cat",
    .files = "FILE",
    .summary = "the rows of a Parquet file as JSON lines",
    .details =
        "Prints each row of any Parquet file as a JSON object on a line of its own,\n"
        "lists as arrays, maps as [{\"key\": .., \"value\": ..}, ..]. Numbers have all\n"
        "digits that tell them from others; NaN and the infinities are strings.\n"
        "Bytes without a type that says more are text where they are UTF-8, else\n"
        "\"0x\" and hexadecimal digits.",
    .options = options,
    .min_files = 1,
    .max_files = 1,
    .run = cat_run,
};
