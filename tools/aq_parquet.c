/* aq_parquet.c - `aq schema` and `aq meta`: a Parquet file as its footer describes it. */
#include "aq.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int open_parquet(const char *path, aq_parquet **out_file) {
    aq_parquet_options how;
    aq_error err;
    memset(&how, 0, sizeof how);
    how.log = cli_log(path);
    if (aq_parquet_open(path, &how, out_file, &err) != AQ_OK)
        return cli_failure(path, &err);
    return CLI_GOOD;
}

/* The name of one of the format's numbers. */
static const char *name_of(int number, const char *const *names, size_t num_names) {
    return number >= 0 && (size_t)number < num_names ? names[number] : "unknown";
}

static const char *type_name(aq_physical_type type) {
    static const char *const names[] = {
        "boolean", "int32",  "int64",  "int96",
        "float",   "double", "binary", "fixed_len_byte_array"};
    return type == AQ_GROUP ? "group"
                            : name_of((int)type, names, sizeof names / sizeof *names);
}

enum { NUM_ENCODINGS = 10 }; /* of parquet.thrift so far */

/*==========================================================================
 * MARK: - Schema
 *========================================================================*/

static const char *repetition_name(aq_repetition repetition) {
    static const char *const names[] = {"required", "optional", "repeated"};
    return name_of((int)repetition, names, sizeof names / sizeof *names);
}

static const char *logical_name(const aq_field *field) {
    static const char *const names[] = {
        "",     "STRING", "MAP",       "LIST",     "ENUM",   "DECIMAL",
        "DATE", "TIME",   "TIMESTAMP", "INTEGER",  "NULL",   "JSON",
        "BSON", "UUID",   "FLOAT16",   "INTERVAL", "UNKNOWN"};
    enum { CONVERTED_MAP_KEY_VALUE = 2 };
    if (field->logical == AQ_LOGICAL_NONE && field->converted == CONVERTED_MAP_KEY_VALUE)
        return "MAP_KEY_VALUE"; /* the only old annotation without a new one */
    return name_of((int)field->logical, names, sizeof names / sizeof *names);
}

/* "STRING", "DECIMAL(9,2)", "TIMESTAMP(MICROS,true)"; nothing for none. */
static void put_logical(buffer *out, const aq_field *field) {
    const char *unit = field->unit_nanos == 1000000 ? "MILLIS"
                       : field->unit_nanos == 1000  ? "MICROS"
                                                    : "NANOS";
    buffer_print(out, "%s", logical_name(field));
    if (field->logical == AQ_LOGICAL_DECIMAL) {
        buffer_print(out, "(%" PRId32 ",%" PRId32 ")", field->precision, field->scale);
    } else if (field->logical == AQ_LOGICAL_TIME ||
               field->logical == AQ_LOGICAL_TIMESTAMP) {
        buffer_print(out, "(%s,%s)", unit, field->utc ? "true" : "false");
    } else if (field->logical == AQ_LOGICAL_INTEGER) {
        buffer_print(out, "(%" PRId32 ",%s)", field->bit_width,
                     field->is_signed ? "true" : "false");
    }
}

/* Writes node `index` and all below it; returns the index of the node that follows. */
static int32_t put_field_text(buffer *out, const aq_parquet *file, int32_t index,
                              int depth) {
    const aq_field *field = aq_parquet_field(file, index);
    buffer logical = {NULL, 0, 0};
    int32_t i, next = index + 1;
    buffer_print(out, "%*s%s %s", 2 * depth, "", repetition_name(field->repetition),
                 type_name(field->type));
    if (field->type == AQ_FIXED_LEN_BYTE_ARRAY)
        buffer_print(out, "(%" PRId32 ")", field->type_length);
    buffer_print(out, " ");
    buffer_visible(out, field->name, strlen(field->name));
    put_logical(&logical, field);
    if (logical.size != 0) buffer_print(out, " (%s)", logical.data);
    buffer_free(&logical);
    if (field->field_id >= 0) buffer_print(out, " = %" PRId32, field->field_id);
    if (field->type != AQ_GROUP) {
        buffer_print(out, ";\n");
        return next;
    }
    buffer_print(out, " {\n");
    for (i = 0; i < field->num_children; i++)
        next = put_field_text(out, file, next, depth + 1);
    buffer_print(out, "%*s}\n", 2 * depth, "");
    return next;
}

static void show_schema_text(const aq_parquet *file) {
    const aq_field *root = aq_parquet_field(file, 0);
    buffer text = {NULL, 0, 0};
    int32_t i, next = 1;
    buffer_print(&text, "message ");
    buffer_visible(&text, root->name, strlen(root->name));
    buffer_print(&text, " {\n");
    for (i = 0; i < root->num_children; i++)
        next = put_field_text(&text, file, next, 1);
    buffer_print(&text, "}\n");
    buffer_show(&text);
}

static int32_t put_field_json(json *out, const aq_parquet *file, int32_t index) {
    const aq_field *field = aq_parquet_field(file, index);
    buffer logical = {NULL, 0, 0};
    int32_t i, next = index + 1;
    put_logical(&logical, field);
    json_open(out, NULL, '{');
    json_string(out, "name", field->name);
    json_string(out, "repetition", repetition_name(field->repetition));
    json_string(out, "type", type_name(field->type));
    json_string(out, "logical_type", logical.size != 0 ? logical.data : NULL);
    if (field->type == AQ_FIXED_LEN_BYTE_ARRAY)
        json_signed(out, "type_length", field->type_length);
    if (field->field_id >= 0) json_signed(out, "field_id", field->field_id);
    if (field->type == AQ_GROUP) {
        json_open(out, "fields", '[');
        for (i = 0; i < field->num_children; i++)
            next = put_field_json(out, file, next);
        json_close(out, ']');
    } else {
        json_signed(out, "column", field->column);
        json_string(out, "path", aq_parquet_column_path(file, field->column));
        json_unsigned(out, "max_definition_level", field->max_def);
        json_unsigned(out, "max_repetition_level", field->max_rep);
    }
    json_close(out, '}');
    buffer_free(&logical);
    return next;
}

static void show_schema_json(const char *path, const aq_parquet *file) {
    const aq_field *root = aq_parquet_field(file, 0);
    json document = {{NULL, 0, 0}, 0, false};
    int32_t i, next = 1;
    json_open(&document, NULL, '{');
    json_string(&document, "file", path);
    json_string(&document, "name", root->name);
    json_open(&document, "fields", '[');
    for (i = 0; i < root->num_children; i++)
        next = put_field_json(&document, file, next);
    json_close(&document, ']');
    json_close(&document, '}');
    json_show(&document);
}

static int schema(const cli_args *args) {
    aq_parquet *file;
    int code = open_parquet(args->files[0], &file);
    if (code != CLI_GOOD) return code;
    if (args->json) {
        show_schema_json(args->files[0], file);
    } else {
        show_schema_text(file);
    }
    aq_parquet_close(file);
    return CLI_GOOD;
}

static const cli_option schema_options[] = {CLI_OPTION_JSON, CLI_OPTIONS_END};

const cli_command command_schema = {
    .name = "schema",
    .files = "FILE",
    .summary = "the schema of a Parquet file",
    .details =
        "Shows the schema of any Parquet file in the message notation of the format.",
    .options = schema_options,
    .min_files = 1,
    .max_files = 1,
    .run = schema,
};

/*==========================================================================
 * MARK: - Metadata: column chunks and their pages
 *========================================================================*/

enum { DICTIONARY_PAGE = 2, NUM_PAGE_TYPES = 4 }; /* PageType of parquet.thrift */

typedef struct page {
    aq_page_info info;
    int64_t values_offset; /* of the first value's bytes; -1 = not in the file as such */
} page;

typedef struct chunk {
    int32_t row_group, column;
    aq_chunk_info info;
    bool unknown; /* encrypted, or in another file: `err` says so                     */
    aq_error err; /* else, what ended the walk over the pages                         */
    page *pages;  /* read on request */
    size_t num_pages;
} chunk;

/* Finds where the values of PLAIN pages start, behind levels and lengths. A page that
 * cannot be decoded has no such place: `aq verify` tells why. */
static void locate_values(const aq_parquet *file, chunk *of) {
    aq_column *reader;
    aq_span span;
    size_t i = 0;
    if (aq_column_open(file, of->row_group, of->column, &reader, NULL) != AQ_OK) return;
    while (aq_column_next(reader, &span, NULL) == AQ_OK && span.num_levels != 0) {
        if (!span.mapped) continue;
        while (i < of->num_pages &&
               of->pages[i].info.data_offset + of->pages[i].info.compressed_bytes <=
                   span.file_offset)
            i++;
        if (i < of->num_pages && span.file_offset >= of->pages[i].info.data_offset)
            of->pages[i].values_offset = span.file_offset;
    }
    aq_column_close(reader);
}

static void read_pages(const aq_parquet *file, chunk *of) {
    aq_column *reader;
    page next;
    bool plain = false;
    if (aq_column_open(file, of->row_group, of->column, &reader, &of->err) != AQ_OK)
        return;
    next.values_offset = -1;
    while (aq_column_next_page(reader, &next.info, &of->err) == AQ_OK &&
           next.info.header_bytes != 0) {
        of->pages = (page *)cli_resize(of->pages, of->num_pages + 1, sizeof *of->pages);
        of->pages[of->num_pages++] = next;
        if (next.info.encoding == AQ_PLAIN && next.info.type != DICTIONARY_PAGE)
            plain = true;
    }
    aq_column_close(reader);
    if (of->err.status == AQ_OK && plain && of->info.codec == AQ_UNCOMPRESSED)
        locate_values(file, of);
}

static bool is_encrypted(const chunk *of) {
    return strstr(of->err.message, "encrypted") != NULL;
}

static const char *page_type_name(int32_t type) {
    static const char *const names[NUM_PAGE_TYPES] = {"data", "index", "dictionary",
                                                      "data v2"};
    return name_of(type, names, NUM_PAGE_TYPES);
}

/* The largest power of 2 that divides an offset. */
static uint64_t alignment_of(int64_t offset) {
    uint64_t bits = (uint64_t)offset;
    return bits & (~bits + 1);
}

/*==========================================================================
 * MARK: - Metadata: as text
 *========================================================================*/

enum { META_PAGES = CLI_OPTION_OWN };

/* Where chunks and pages go: tables, or a document. */
typedef struct meta {
    const char *path;
    const aq_parquet *file;
    aq_parquet_info info;
    bool with_pages;
    table chunks, pages;
    json *document; /* NULL = text */
    aq_error
        err; /* the first one of a chunk's pages; the others are shown all the same */
} meta;

static void count_cell(table *rows, int64_t count) {
    char text[TEXT_ROOM];
    table_cell(rows, count >= 0 ? text_count(text, (uint64_t)count) : "-");
}

static void add_page_cells(table *rows, const char *path, const chunk *of,
                           const page *at) {
    table_name(rows, path);
    count_cell(rows, of->row_group);
    table_cell(rows, page_type_name(at->info.type));
    table_cell(rows, aq_encoding_name((int32_t)at->info.encoding));
    count_cell(rows, at->info.num_values);
    count_cell(rows, at->info.header_offset);
    count_cell(rows, at->info.compressed_bytes);
    table_cell(rows, at->info.has_crc ? "yes" : "no");
    count_cell(rows, at->values_offset);
    count_cell(rows,
               at->values_offset >= 0 ? (int64_t)alignment_of(at->values_offset) : -1);
}

static void add_chunk_cells(meta *out, const chunk *of) {
    const char *path = aq_parquet_column_path(out->file, of->column);
    const aq_field *field = aq_parquet_column_field(out->file, of->column);
    table *rows = &out->chunks;
    buffer encodings = {NULL, 0, 0};
    size_t i;
    int encoding;
    table_name(rows, path);
    count_cell(rows, of->row_group);
    table_cell(rows, type_name(field->type));
    if (of->unknown) {
        table_cell(rows, is_encrypted(of) ? "encrypted" : "elsewhere");
        for (i = 0; i < 6; i++)
            table_cell(rows, "-");
        return;
    }
    table_cell(rows, of->info.codec == AQ_UNCOMPRESSED
                         ? "none"
                         : aq_codec_name((int32_t)of->info.codec));
    for (encoding = 0; encoding < NUM_ENCODINGS; encoding++) {
        if ((of->info.encodings >> encoding & 1) != 0)
            buffer_print(&encodings, "%s%s", encodings.size != 0 ? "," : "",
                         aq_encoding_name(encoding));
    }
    table_cell(rows, encodings.size != 0 ? encodings.data : "-");
    buffer_free(&encodings);
    count_cell(rows, of->info.num_values);
    count_cell(rows, of->info.null_count);
    count_cell(rows, of->info.start_offset);
    count_cell(rows, of->info.compressed_bytes);
    count_cell(rows, of->info.uncompressed_bytes);
    for (i = 0; i < of->num_pages; i++)
        add_page_cells(&out->pages, path, of, &of->pages[i]);
}

/* At most `size` bytes of the text, not ending inside of a character. */
static size_t utf8_whole(const char *text, size_t size) {
    size_t whole = size;
    while (whole > 0 && size - whole < 4 && ((unsigned char)text[whole] & 0xc0) == 0x80)
        whole--;
    return whole;
}

/* Values such as a schema in base64 are for machines, which take --json. */
static void put_value_text(buffer *out, const aq_key_value *pair) {
    enum { MAX_SHOWN = 200 };
    char bytes[TEXT_ROOM];
    if (pair->value_bytes <= MAX_SHOWN) {
        buffer_visible(out, pair->value, pair->value_bytes);
        return;
    }
    buffer_visible(out, pair->value, utf8_whole(pair->value, MAX_SHOWN / 2));
    buffer_print(out, "... (%s bytes)", text_count(bytes, pair->value_bytes));
}

static void show_meta_text(meta *out) {
    const aq_parquet_info *info = &out->info;
    buffer text = {NULL, 0, 0};
    aq_key_value pair;
    int32_t i;
    char rows[TEXT_ROOM], groups[TEXT_ROOM], columns[TEXT_ROOM];
    char bytes[TEXT_ROOM], footer[TEXT_ROOM];
    buffer_visible(&text, out->path, strlen(out->path));
    buffer_print(&text,
                 ": %s row%s in %s row group%s, %s column%s\n"
                 "%s bytes, footer %s bytes, format version %" PRId32 "\n",
                 text_count(rows, (uint64_t)info->num_rows),
                 text_plural((uint64_t)info->num_rows),
                 text_count(groups, (uint64_t)info->num_row_groups),
                 text_plural((uint64_t)info->num_row_groups),
                 text_count(columns, (uint64_t)info->num_columns),
                 text_plural((uint64_t)info->num_columns),
                 text_count(bytes, (uint64_t)info->file_bytes),
                 text_count(footer, (uint64_t)info->footer_bytes), info->format_version);
    buffer_print(&text, "created by: ");
    buffer_visible(&text, info->created_by, strlen(info->created_by));
    buffer_print(&text, "\n");
    for (i = 0; aq_parquet_key_value(out->file, i, &pair); i++) {
        buffer_visible(&text, pair.key, strlen(pair.key));
        buffer_print(&text, " = ");
        if (pair.value != NULL) put_value_text(&text, &pair);
        buffer_print(&text, "\n");
    }
    buffer_print(&text, "\n");
    table_show(&out->chunks, &text);
    if (out->with_pages) {
        buffer_print(&text, "\n");
        table_show(&out->pages, &text);
    }
    buffer_show(&text);
}

/*==========================================================================
 * MARK: - Metadata: as JSON
 *========================================================================*/

static void offset_json(json *out, const char *key, int64_t offset) {
    if (offset >= 0) {
        json_signed(out, key, offset);
    } else {
        json_null(out, key);
    }
}

static uint64_t little_endian(aq_bytes bytes) {
    uint64_t value = 0;
    size_t i;
    for (i = bytes.size; i-- != 0;)
        value = value << 8 | bytes.data[i];
    return value;
}

/* A bound of the statistics, as `aq cat` shows a value; hexadecimal if its size is wrong. */
static void bound_json(json *out, const char *key, const aq_field *field,
                       aq_bytes value) {
    bool array = field->type == AQ_BYTE_ARRAY;
    uint64_t bits = value.size <= sizeof bits ? little_endian(value) : 0;
    uint32_t narrow = (uint32_t)bits;
    const void *at = value.data;
    buffer hex = {NULL, 0, 0};
    size_t i;
    if (field->type == AQ_INT32 || field->type == AQ_FLOAT) at = &narrow;
    if (field->type == AQ_INT64 || field->type == AQ_DOUBLE) at = &bits;
    if (value.data == NULL) {
        json_null(out, key);
    } else if (array || value.size == aq_field_value_bytes(field)) {
        value_put(out, key, field, array ? &value : at, 0, false);
    } else {
        buffer_print(&hex, "0x");
        for (i = 0; i < value.size; i++)
            buffer_print(&hex, "%02x", (unsigned)value.data[i]);
        json_string(out, key, hex.data);
        buffer_free(&hex);
    }
}

/* Whether the bound is a value of the chunk; unknown without a bound. */
static void exactness_json(json *out, const char *key, aq_bytes bound, bool exact) {
    if (bound.data == NULL) {
        json_null(out, key);
    } else {
        json_bool(out, key, exact);
    }
}

static void put_page_json(json *out, const page *at) {
    json_open(out, NULL, '{');
    json_string(out, "type", page_type_name(at->info.type));
    json_string(out, "encoding", aq_encoding_name((int32_t)at->info.encoding));
    json_signed(out, "num_values", at->info.num_values);
    json_signed(out, "header_offset", at->info.header_offset);
    json_signed(out, "header_bytes", at->info.header_bytes);
    json_signed(out, "data_offset", at->info.data_offset);
    json_signed(out, "compressed_bytes", at->info.compressed_bytes);
    json_signed(out, "uncompressed_bytes", at->info.uncompressed_bytes);
    offset_json(out, "crc", at->info.has_crc ? (int64_t)at->info.crc : -1);
    offset_json(out, "values_offset", at->values_offset);
    offset_json(out, "alignment",
                at->values_offset >= 0 ? (int64_t)alignment_of(at->values_offset) : -1);
    json_close(out, '}');
}

static void put_key_value_json(json *out, const aq_key_value *pair) {
    json_open(out, NULL, '{');
    json_string(out, "key", pair->key);
    if (pair->value != NULL) {
        json_bytes(out, "value", pair->value, pair->value_bytes);
    } else {
        json_null(out, "value");
    }
    json_close(out, '}');
}

/* What the footer says about the values of a chunk. */
static void put_statistics_json(json *out, const aq_field *field,
                                const aq_chunk_info *info) {
    offset_json(out, "null_count", info->null_count);
    offset_json(out, "distinct_count", info->distinct_count);
    bound_json(out, "min", field, info->min_value);
    bound_json(out, "max", field, info->max_value);
    exactness_json(out, "min_is_exact", info->min_value, info->min_is_exact);
    exactness_json(out, "max_is_exact", info->max_value, info->max_is_exact);
    if (info->deprecated_min.data != NULL)
        bound_json(out, "deprecated_min", field, info->deprecated_min);
    if (info->deprecated_max.data != NULL)
        bound_json(out, "deprecated_max", field, info->deprecated_max);
}

static void put_chunk_json(meta *out, const chunk *of) {
    const aq_field *field = aq_parquet_column_field(out->file, of->column);
    const aq_chunk_info *info = &of->info;
    json *document = out->document;
    aq_key_value pair;
    int32_t k;
    int encoding;
    size_t i;
    json_open(document, NULL, '{');
    json_string(document, "path", aq_parquet_column_path(out->file, of->column));
    json_string(document, "type", type_name(field->type));
    if (of->unknown) {
        json_bool(document, "encrypted", is_encrypted(of));
        json_string(document, "error", of->err.message);
        json_close(document, '}');
        return;
    }
    json_string(document, "codec", aq_codec_name((int32_t)info->codec));
    json_open(document, "encodings", '[');
    for (encoding = 0; encoding < NUM_ENCODINGS; encoding++) {
        if ((info->encodings >> encoding & 1) != 0)
            json_string(document, NULL, aq_encoding_name(encoding));
    }
    json_close(document, ']');
    json_signed(document, "num_values", info->num_values);
    put_statistics_json(document, field, info);
    json_signed(document, "start_offset", info->start_offset);
    offset_json(document, "dictionary_page_offset", info->dictionary_page_offset);
    json_signed(document, "data_page_offset", info->data_page_offset);
    json_signed(document, "compressed_bytes", info->compressed_bytes);
    json_signed(document, "uncompressed_bytes", info->uncompressed_bytes);
    offset_json(document, "bloom_filter_offset", info->bloom_filter_offset);
    offset_json(document, "bloom_filter_bytes", info->bloom_filter_bytes);
    json_open(document, "key_values", '[');
    for (k = 0;
         aq_parquet_chunk_key_value(out->file, of->row_group, of->column, k, &pair); k++)
        put_key_value_json(document, &pair);
    json_close(document, ']');
    if (out->with_pages) {
        json_open(document, "pages", '[');
        for (i = 0; i < of->num_pages; i++)
            put_page_json(document, &of->pages[i]);
        json_close(document, ']');
        if (of->err.status != AQ_OK) json_string(document, "error", of->err.message);
    }
    json_close(document, '}');
}

static void begin_meta_json(meta *out) {
    const aq_parquet_info *info = &out->info;
    aq_key_value pair;
    int32_t i;
    json_open(out->document, NULL, '{');
    json_string(out->document, "file", out->path);
    json_signed(out->document, "file_bytes", info->file_bytes);
    json_signed(out->document, "footer_bytes", info->footer_bytes);
    json_signed(out->document, "format_version", info->format_version);
    json_string(out->document, "created_by", info->created_by);
    json_signed(out->document, "num_rows", info->num_rows);
    json_signed(out->document, "num_columns", info->num_columns);
    json_open(out->document, "key_values", '[');
    for (i = 0; aq_parquet_key_value(out->file, i, &pair); i++)
        put_key_value_json(out->document, &pair);
    json_close(out->document, ']');
    json_open(out->document, "row_groups", '[');
}

/*==========================================================================
 * MARK: - Metadata: the walk
 *========================================================================*/

static aq_status add_chunk(meta *out, int32_t row_group, int32_t column, aq_error *err) {
    chunk of;
    aq_status status;
    memset(&of, 0, sizeof of);
    of.row_group = row_group;
    of.column = column;
    status = aq_parquet_get_chunk(out->file, row_group, column, &of.info, &of.err);
    of.unknown = status == AQ_E_UNSUPPORTED;
    if (out->with_pages && status == AQ_OK) {
        read_pages(out->file, &of);
        status = of.err.status;
    }
    if (status == AQ_E_NOMEM || status == AQ_E_IO) { /* not a fault of this chunk */
        *err = of.err;
        free(of.pages);
        return status;
    }
    if (out->err.status == AQ_OK && !of.unknown) out->err = of.err;
    if (out->document != NULL) {
        put_chunk_json(out, &of);
    } else {
        add_chunk_cells(out, &of);
    }
    free(of.pages);
    return AQ_OK;
}

static aq_status add_row_group(meta *out, int32_t row_group, aq_error *err) {
    aq_row_group_info info;
    aq_status status = aq_parquet_get_row_group(out->file, row_group, &info, err);
    int32_t column;
    if (status == AQ_OK && out->document != NULL) {
        json_open(out->document, NULL, '{');
        json_signed(out->document, "num_rows", info.num_rows);
        json_signed(out->document, "total_bytes", info.total_bytes);
        json_open(out->document, "columns", '[');
    }
    for (column = 0; status == AQ_OK && column < out->info.num_columns; column++)
        status = add_chunk(out, row_group, column, err);
    if (status == AQ_OK && out->document != NULL) {
        json_close(out->document, ']');
        json_close(out->document, '}');
    }
    return status;
}

static void init_meta(meta *out, const char *path, const aq_parquet *file,
                      json *document) {
    memset(out, 0, sizeof *out);
    out->path = path;
    out->file = file;
    out->document = document;
    aq_parquet_get_info(file, &out->info);
    if (document != NULL) {
        begin_meta_json(out);
    } else {
        table_init(&out->chunks,
                   "column|group|type|codec|encodings|values|nulls|offset|stored|plain",
                   "lrlllrrrrr");
        table_init(&out->pages,
                   "page of|group|type|encoding|values|header|stored|CRC|values at|align",
                   "lrllrrrlrr");
    }
}

static int meta_run(const cli_args *args) {
    const char *path = args->files[0];
    json document = {{NULL, 0, 0}, 0, false};
    aq_parquet *file;
    meta out;
    aq_error err;
    aq_status status = AQ_OK;
    int32_t row_group;
    int code = open_parquet(path, &file);
    if (code != CLI_GOOD) return code;
    init_meta(&out, path, file, args->json ? &document : NULL);
    out.with_pages = cli_has(args, META_PAGES);
    for (row_group = 0; status == AQ_OK && row_group < out.info.num_row_groups;
         row_group++)
        status = add_row_group(&out, row_group, &err);
    if (status != AQ_OK) {
        code = cli_failure(path, &err);
    } else if (args->json) {
        json_close(&document, ']');
        json_close(&document, '}');
        json_show(&document);
    } else {
        show_meta_text(&out);
    }
    if (status == AQ_OK && out.err.status != AQ_OK) {
        fflush(stdout); /* what there is comes before the error */
        code = cli_failure(path, &out.err);
    }
    table_free(&out.chunks);
    table_free(&out.pages);
    buffer_free(&document.text);
    aq_parquet_close(file);
    return code;
}

static const cli_option meta_options[] = {
    {"pages", NULL, META_PAGES, false, "also every page, and where its values lie"},
    CLI_OPTION_JSON,
    CLI_OPTIONS_END};

const cli_command command_meta = {
    .name = "meta",
    .files = "FILE",
    .summary = "row groups, column chunks and pages of a Parquet file",
    .details =
        "Shows what the footer of any Parquet file says: key-values, and for each\n"
        "column chunk its type, codec, encodings, values, nulls, offset of its first\n"
        "page and bytes, as stored and before compression. With --pages, for each\n"
        "page also where its header and its values start (of PLAIN uncompressed\n"
        "pages) and how these are aligned.",
    .options = meta_options,
    .min_files = 1,
    .max_files = 1,
    .run = meta_run,
};
