/* arrow.c - the input is a recipe for a table as other programs hand it over through
 * the Arrow C Data Interface: formats, lengths, slices, nulls; and for lies about it,
 * in schemas and arrays. Every buffer has exactly the bytes that its array asks for,
 * in a block of its own. Nothing that is let through may be what the checker of
 * tests/arrow refuses; what comes out must be right. */
#include "fuzz.h"
#include "../arrow/structure.h"

enum { ARROW_NODES = 64, ARROW_BUFFERS = 6, ARROW_BLOCKS = 1024, ARROW_DATA = 512 };

/* A schema and an array that belong together. */
typedef struct arrow_node {
    struct ArrowSchema schema;
    struct ArrowArray array;
    size_t bytes[ARROW_BUFFERS]; /* of each buffer */
} arrow_node;

typedef struct arrow_table {
    arrow_node nodes[ARROW_NODES];
    size_t num_nodes;
    void *blocks[ARROW_BLOCKS];
    size_t num_blocks;
} arrow_table;

FUZZ void *arrow_block(arrow_table *t, size_t bytes) {
    void *p = malloc(AQI_MAX(bytes, (size_t)1));
    FUZZ_CHECK(p != NULL && t->num_blocks < ARROW_BLOCKS);
    memset(p, 0, AQI_MAX(bytes, (size_t)1));
    t->blocks[t->num_blocks++] = p;
    return p;
}

FUZZ void arrow_free(arrow_table *t) {
    while (t->num_blocks > 0)
        free(t->blocks[--t->num_blocks]);
}

/* The table owns all; these only say that it is in use. */
FUZZ void arrow_schema_release(struct ArrowSchema *s) { s->release = NULL; }
FUZZ void arrow_array_release(struct ArrowArray *a) { a->release = NULL; }

/* ---- what is right ---- */

/* Bytes from the input, repeated. */
FUZZ void arrow_fill(fuzz_input *in, uint8_t *p, size_t bytes) {
    uint32_t state = fuzz_u16(in) | 1;
    size_t i;
    for (i = 0; i < bytes; i++) {
        state = state * 1103515245u + 12345u;
        p[i] = (uint8_t)(state >> 16);
    }
}

FUZZ arrow_node *arrow_node_make(arrow_table *t, const char *format, const char *name,
                                 int64_t length, int64_t num_buffers) {
    arrow_node *n = &t->nodes[t->num_nodes++];
    FUZZ_CHECK(t->num_nodes <= ARROW_NODES && num_buffers <= ARROW_BUFFERS);
    memset(n, 0, sizeof *n);
    n->schema.format = format;
    n->schema.name = name;
    n->schema.flags = ARROW_FLAG_NULLABLE;
    n->schema.release = arrow_schema_release;
    n->array.length = length;
    n->array.n_buffers = num_buffers;
    n->array.buffers =
        (const void **)arrow_block(t, (size_t)num_buffers * sizeof(void *));
    n->array.release = arrow_array_release;
    return n;
}

FUZZ uint8_t *arrow_buffer(arrow_table *t, arrow_node *n, int k, size_t bytes) {
    uint8_t *p = (uint8_t *)arrow_block(t, bytes);
    n->bytes[k] = bytes;
    n->array.buffers[k] = p;
    return p;
}

FUZZ void arrow_adopt(arrow_table *t, arrow_node *n, arrow_node *const *children,
                      size_t count) {
    size_t i;
    n->schema.n_children = n->array.n_children = (int64_t)count;
    n->schema.children =
        (struct ArrowSchema **)arrow_block(t, count * sizeof(struct ArrowSchema *));
    n->array.children =
        (struct ArrowArray **)arrow_block(t, count * sizeof(struct ArrowArray *));
    for (i = 0; i < count; i++) {
        n->schema.children[i] = &children[i]->schema;
        n->array.children[i] = &children[i]->array;
    }
}

FUZZ void arrow_store(uint8_t *p, size_t width, size_t i, int64_t value) {
    int32_t narrow = (int32_t)value;
    if (width == 8) {
        memcpy(p + i * 8, &value, 8);
    } else {
        memcpy(p + i * 4, &narrow, 4);
    }
}

/* Some of the elements are null; of the names and weights, few. */
FUZZ void arrow_nulls(arrow_table *t, fuzz_input *in, arrow_node *n) {
    size_t bytes = ((size_t)n->array.length + 7) / 8;
    uint8_t *p;
    if (fuzz_below(in, 4) != 0) return;
    p = arrow_buffer(t, n, 0, bytes);
    memset(p, 0xFF, bytes);
    n->array.null_count = -1;
    if (bytes > 0 && fuzz_below(in, 4) == 0) p[fuzz_below(in, (uint32_t)bytes)] ^= 4;
}

FUZZ size_t arrow_width(char letter) {
    return strchr("lLg", letter) != NULL   ? 8
           : strchr("iIf", letter) != NULL ? 4
           : strchr("sSe", letter) != NULL ? 2
                                           : 1;
}

static const char *const arrow_letters[] = {"c", "C", "s", "S", "i", "I",
                                            "l", "L", "e", "f", "g"};

/* Numbers: floats between 0 and 2, integers that make sense as a dimension. */
FUZZ arrow_node *arrow_numbers(arrow_table *t, fuzz_input *in, const char *format,
                               const char *name, int64_t length) {
    arrow_node *n = arrow_node_make(t, format, name, length, 2);
    const size_t width = arrow_width(format[0]);
    uint8_t *p = arrow_buffer(t, n, 1, (size_t)length * width);
    int64_t i;
    arrow_fill(in, p, n->bytes[1]);
    for (i = 0; i < length; i++) {
        uint8_t *at = p + (size_t)i * width;
        if (strchr("efg", format[0]) != NULL) {
            at[width - 1] = format[0] == 'e' ? 0x38 : 0x3f;
        } else {
            uint8_t value = at[0] % 4;
            memset(at, 0, width);
            at[0] = value; /* little-endian machines */
        }
    }
    arrow_nulls(t, in, n);
    return n;
}

/* A list of any kind over as many elements; *total is how many they are. */
FUZZ arrow_node *arrow_lists(arrow_table *t, fuzz_input *in, const char *name,
                             int64_t length, const char *element, int64_t each) {
    static const char *const formats[] = {"+l",   "+L",   "+vl",  "+vL",
                                          "+w:0", "+w:1", "+w:2", "+w:8"};
    const char *format = formats[fuzz_below(in, 8)];
    const bool view = format[1] == 'v', fixed = format[1] == 'w';
    const size_t width = strchr(format, 'L') != NULL ? 8 : 4;
    arrow_node *n = arrow_node_make(t, format, name, length, fixed ? 1 : view ? 3 : 2);
    arrow_node *child;
    int64_t total = fixed ? length * (format[3] - '0') : 0, i, size;
    if (!fixed) {
        uint8_t *offsets =
            arrow_buffer(t, n, 1, ((size_t)length + (view ? 0 : 1)) * width);
        uint8_t *sizes = view ? arrow_buffer(t, n, 2, (size_t)length * width) : NULL;
        for (i = 0; i < length; i++) {
            size = each >= 0 ? each : (int64_t)fuzz_below(in, 40);
            arrow_store(offsets, width, (size_t)i, total);
            if (view) arrow_store(sizes, width, (size_t)i, size);
            total += size;
        }
        if (!view) arrow_store(offsets, width, (size_t)length, total);
    }
    child = arrow_numbers(t, in, element, "item", total);
    arrow_adopt(t, n, &child, 1);
    arrow_nulls(t, in, n);
    return n;
}

/* Text or bytes of any kind: "a", "b", ... and a few random bytes. */
FUZZ arrow_node *arrow_texts(arrow_table *t, fuzz_input *in, const char *name,
                             int64_t length, bool binary, int64_t each) {
    static const char *const formats[] = {"u", "U", "vu", "z", "Z", "vz"};
    const char *format = formats[fuzz_below(in, 3) + (binary ? 3 : 0)];
    const size_t width = format[0] == 'U' || format[0] == 'Z' ? 8 : 4;
    const bool view = format[0] == 'v';
    arrow_node *n = arrow_node_make(t, format, name, length, view ? 4 : 3);
    uint8_t *data = arrow_buffer(t, n, 2, ARROW_DATA), *first;
    int64_t i, size, at = 0;
    arrow_fill(in, data, ARROW_DATA);
    if (!binary) /* letters, no two names that begin alike */
        for (i = 0; i < ARROW_DATA; i++)
            data[i] = (uint8_t)('a' + data[i] % 26);
    first =
        arrow_buffer(t, n, 1, view ? (size_t)length * 16 : ((size_t)length + 1) * width);
    for (i = 0; i < length; i++) {
        size = each >= 0 ? each : 1 + (int64_t)fuzz_below(in, 20);
        size = AQI_MIN(size, ARROW_DATA - at);
        if (view) {
            int32_t head[4] = {(int32_t)size, 0, 0, (int32_t)at};
            memcpy(&head[1], data + at,
                   (size_t)AQI_MIN(size, (int64_t)(size > 12 ? 4 : 12)));
            if (size > 12) head[2] = 0;
            memcpy(first + i * 16, head, sizeof head);
        } else {
            arrow_store(first, width, (size_t)i, at);
        }
        at += size;
    }
    if (view) {
        const int64_t bytes = ARROW_DATA;
        memcpy(arrow_buffer(t, n, 3, 8), &bytes, 8);
    } else {
        arrow_store(first, width, (size_t)length, at);
    }
    arrow_nulls(t, in, n);
    return n;
}

/* The same words as indices of a dictionary. */
FUZZ arrow_node *arrow_dictionary(arrow_table *t, fuzz_input *in, const char *name,
                                  int64_t length) {
    const char *format = arrow_letters[fuzz_below(in, 8)];
    arrow_node *n = arrow_node_make(t, format, name, length, 2), *words;
    const size_t width = arrow_width(format[0]);
    uint8_t *p = arrow_buffer(t, n, 1, (size_t)length * width);
    int64_t i;
    for (i = 0; i < length; i++)
        p[(size_t)i * width] = (uint8_t)i; /* little-endian machines */
    words = arrow_texts(t, in, NULL, length, false, -1);
    n->schema.dictionary = &words->schema;
    n->array.dictionary = &words->array;
    arrow_nulls(t, in, n);
    return n;
}

/* Runs of some length each, the last of which may go past the end. */
FUZZ arrow_node *arrow_runs(arrow_table *t, fuzz_input *in, const char *name,
                            int64_t length) {
    static const char *const formats[] = {"s", "i", "l"};
    const char *format = formats[fuzz_below(in, 3)];
    const size_t width = arrow_width(format[0]);
    arrow_node *n = arrow_node_make(t, "+r", name, length, 0), *children[2];
    int64_t runs = 0, end = 0;
    uint8_t ends[16] = {0}, *p;
    for (; end < length; runs++) /* at most 8 rows */
        ends[runs] = (uint8_t)(end += 1 + (int64_t)fuzz_below(in, 4));
    children[0] = arrow_node_make(t, format, "run_ends", runs, 2);
    p = arrow_buffer(t, children[0], 1, (size_t)runs * width);
    for (end = 0; end < runs; end++)
        p[(size_t)end * width] = ends[end]; /* little-endian machines */
    children[1] = arrow_numbers(t, in, arrow_letters[fuzz_below(in, 11)], "values", runs);
    arrow_adopt(t, n, children, 2);
    return n;
}

FUZZ arrow_node *arrow_root(arrow_table *t, int64_t length, arrow_node *const *columns,
                            size_t count) {
    arrow_node *root = arrow_node_make(t, "+s", "", length, 1);
    root->schema.flags = 0;
    arrow_adopt(t, root, columns, count);
    return root;
}

/* layer_name, weights, perhaps shape and another column, in some order. */
FUZZ arrow_node *arrow_weights(arrow_table *t, fuzz_input *in) {
    static const char *const floats[] = {"f", "f", "e", "g", "i"};
    const int64_t rows = (int64_t)fuzz_below(in, 9);
    const char *letter;
    arrow_node *c[4];
    size_t n = 0, i;
    c[n++] = fuzz_below(in, 4) == 0 ? arrow_dictionary(t, in, "layer_name", rows)
                                    : arrow_texts(t, in, "layer_name", rows, false, -1);
    letter = floats[fuzz_below(in, 5)];
    c[n++] =
        arrow_lists(t, in, "weights", rows, letter, (int64_t)fuzz_below(in, 33) - 1);
    if (fuzz_below(in, 3) == 0) {
        letter = arrow_letters[fuzz_below(in, 8)];
        c[n++] = arrow_lists(t, in, "shape", rows, letter, (int64_t)fuzz_below(in, 3));
    }
    i = fuzz_below(in, 6);
    if (i == 0) c[n++] = arrow_numbers(t, in, "g", "extra", rows);
    if (i == 3) c[n++] = arrow_runs(t, in, "extra", rows);
    i = fuzz_below(in, (uint32_t)n);
    c[0]->schema.name = "layer_name";
    { /* a column goes first */
        arrow_node *first = c[i];
        c[i] = c[0];
        c[0] = first;
    }
    return arrow_root(t, rows, c, n);
}

/* A quantized table: rows of one vector of 32 values, 4 bits, groups of 16. */
FUZZ arrow_node *arrow_codes(arrow_table *t, fuzz_input *in) {
    static const char *const counts[] = {"bit_width", "group_size", "quant_axis"};
    static const uint8_t values[] = {4, 16, 0};
    const int64_t rows = (int64_t)fuzz_below(in, 9);
    arrow_node *c[10];
    size_t n = 0, k;
    int64_t i;
    c[n++] = arrow_texts(t, in, "layer_name", rows, false, -1);
    c[n++] = arrow_texts(t, in, fuzz_below(in, 2) == 0 ? "data" : "quantized_data", rows,
                         true, 16);
    c[n++] = arrow_lists(t, in, "scales", rows, "f", 2);
    c[n++] = arrow_lists(t, in, "zero_points", rows, "f", 2);
    c[n++] = arrow_lists(t, in, "shape", rows, "l", 1);
    for (i = 0; i < c[n - 1]->array.children[0]->length; i++) {
        /* Numbers that this file made, in memory of its own. */
        uintptr_t at = (uintptr_t)c[n - 1]->array.children[0]->buffers[1];
        arrow_store((uint8_t *)at, 8, (size_t)i, 32);
    }
    for (k = 0; k < 3; k++) {
        const char *format = arrow_letters[fuzz_below(in, 8)];
        arrow_node *number = arrow_numbers(t, in, format, counts[k], rows);
        uintptr_t at = (uintptr_t)number->array.buffers[1];
        for (i = 0; i < rows; i++)
            ((uint8_t *)at)[(size_t)i * arrow_width(format[0])] = values[k];
        if (k == 0 || fuzz_below(in, 4) != 0) c[n++] = number;
    }
    c[n] = arrow_node_make(t, "u", "packing", rows, 3);
    memcpy(arrow_buffer(t, c[n], 2, (size_t)rows * 3), "lsblsblsblsblsblsblsblsb",
           (size_t)rows * 3);
    arrow_buffer(t, c[n], 1, ((size_t)rows + 1) * 4);
    for (i = 0; i <= rows; i++) {
        uintptr_t at = (uintptr_t)c[n]->array.buffers[1];
        arrow_store((uint8_t *)at, 4, (size_t)i, i * 3);
    }
    n++;
    return arrow_root(t, rows, c, n);
}

/* ---- lies ---- */

/* A format of which the buffers need no more bytes, or no buffers at all. */
FUZZ void arrow_lie_format(arrow_node *n, fuzz_input *in) {
    static const char *const any[] = {"",        "+",  "+w:", "+w:-1", "+w:99999999999",
                                      "+w:3",    "?",  "vv",  "n",     "d:10",
                                      "tdx",     "+s", "+m",  "w:0",   "w:1",
                                      "b",       "c",  "C",   "+r",    "+ud:0",
                                      "+us:0,1", "ff", "+lx"};
    static const char *const same[][2] = {
        {"u", "z"},   {"z", "u"}, {"U", "Z"},   {"Z", "U"},     {"vu", "vz"},
        {"vz", "vu"}, {"f", "i"}, {"g", "l"},   {"e", "s"},     {"l", "g"},
        {"i", "f"},   {"g", "f"}, {"+L", "+l"}, {"+vL", "+vl"}, {"l", "L"}};
    uint32_t k = fuzz_below(in, 2 * AQI_COUNT(any));
    size_t i;
    if (k == 0) n->schema.format = NULL;
    if (k == 0 || k < AQI_COUNT(any)) {
        if (k != 0) n->schema.format = any[k];
        return;
    }
    for (i = 0; i < AQI_COUNT(same); i++) {
        if (strcmp(n->schema.format == NULL ? "" : n->schema.format, same[i][0]) != 0)
            continue;
        n->schema.format = same[i][1];
        return;
    }
}

/* Metadata of the right form, or with numbers below 1. */
FUZZ void arrow_lie_metadata(arrow_table *t, arrow_node *n, fuzz_input *in) {
    static const char *const shapes[] = {"{\"shape\":[4]}",
                                         "{\"shape\":[2,4]}",
                                         "{\"shape\":[8,1,1]}",
                                         "{\"shape\":[]}",
                                         "{\"shape\":[-1]}",
                                         "{\"shape\":[2,2],\"permutation\":[1,0]}",
                                         "{\"shape\":\"8\"}",
                                         "",
                                         "{\"shape\":[18446744073709551616]}",
                                         "{"};
    const char *const parts[4] = {"ARROW:extension:name", "arrow.fixed_shape_tensor",
                                  "ARROW:extension:metadata", shapes[fuzz_below(in, 10)]};
    uint8_t *p = (uint8_t *)arrow_block(t, 256);
    size_t at = 4;
    int32_t number = fuzz_below(in, 8) == 0 ? (int32_t)fuzz_below(in, 3) - 1 : 2;
    int i;
    memcpy(p, &number, 4);
    for (i = 0; i < 4; i++) {
        number = (int32_t)strlen(parts[i]);
        memcpy(p + at + 4, parts[i], (size_t)number);
        if (fuzz_below(in, 32) == 1) number = -number;
        memcpy(p + at, &number, 4);
        at += 4 + strlen(parts[i]);
    }
    n->schema.metadata = (const char *)p;
}

/* One element of a buffer becomes another number. Offsets of bytes stay in their data,
 * for no one can tell where that ends. */
FUZZ void arrow_lie_element(arrow_node *n, fuzz_input *in) {
    int k = (int)fuzz_below(in, ARROW_BUFFERS);
    const char *f = n->schema.format == NULL ? "" : n->schema.format;
    const bool bytes = f[0] != '\0' && strchr("uzUZ", f[0]) != NULL && k == 1;
    uintptr_t address = k < n->array.n_buffers && n->array.buffers != NULL
                            ? (uintptr_t)n->array.buffers[k]
                            : 0;
    uint8_t *p = (uint8_t *)address; /* memory of this file */
    size_t width = bytes ? (strchr("UZ", f[0]) != NULL ? 8 : 4) : 1 << fuzz_below(in, 4);
    size_t count = p == NULL ? 0 : n->bytes[k] / width, at = fuzz_u16(in);
    uint64_t value = fuzz_u64(in);
    if (count == 0 || (f[0] == 'v' && k == 3)) return;
    if (bytes) value = (uint64_t)((int64_t)(value % (n->bytes[2] + 4)) - 3);
    if (bytes && (int64_t)value > (int64_t)n->bytes[2]) value = n->bytes[2];
    if (!bytes && fuzz_below(in, 2) == 0) value %= 64;
    memcpy(p + at % count * width, &value, width);
}

FUZZ void arrow_lie_array(arrow_table *t, arrow_node *n, fuzz_input *in) {
    struct ArrowArray *a = &n->array;
    const bool empty = a->n_buffers <= 0 || a->buffers == NULL || a->buffers[0] == NULL;
    const char *f = n->schema.format == NULL ? "" : n->schema.format;
    uint64_t length;
    int64_t less;
    switch (fuzz_below(in, 10)) {
    case 0:
        a->length = -(int64_t)fuzz_below(in, 4);
        break;
    case 1: /* more than its children have */
        if (empty && (strcmp(f, "+s") == 0 || strncmp(f, "+w:", 3) == 0)) {
            length = fuzz_u64(in) >> 7; /* the most that the checker takes */
            a->length = (int64_t)(length >> fuzz_below(in, 57));
        }
        break;
    case 2: /* a slice: no lie */
    case 3:
        less = a->length > 0 ? (int64_t)fuzz_below(in, 4) % (a->length + 1) : 0;
        a->offset += less;
        a->length -= less;
        if (a->null_count > 0) a->null_count = -1;
        break;
    case 4:
        a->offset = -(int64_t)(fuzz_u64(in) >> 1);
        break;
    case 5:
        a->null_count = (int64_t)fuzz_below(in, 8) - 3;
        break;
    case 6:
        a->n_buffers = (int64_t)fuzz_below(in, (uint32_t)(AQI_MAX(a->n_buffers, 0) + 1));
        if (fuzz_below(in, 4) == 0) a->n_buffers = -1;
        break;
    case 7:
        if (a->n_buffers > 0 && a->buffers != NULL)
            a->buffers[fuzz_below(in, (uint32_t)a->n_buffers)] = NULL;
        break;
    case 8:
        if (fuzz_below(in, 2) == 0) a->buffers = NULL;
        if (a->buffers != NULL) a->release = NULL;
        break;
    default:
        if (fuzz_below(in, 2) == 0) a->dictionary = &t->nodes[0].array;
        a->dictionary = a->dictionary == &t->nodes[0].array ? a->dictionary : NULL;
        break;
    }
}

FUZZ void arrow_lie_family(arrow_node *n, fuzz_input *in) {
    int64_t children = n->array.n_children;
    size_t i = children > 0 ? fuzz_below(in, (uint32_t)children) : 0;
    switch (fuzz_below(in, 6)) {
    case 0:
        n->array.n_children = children - 1;
        break;
    case 1:
        n->schema.n_children -= 1;
        break;
    case 2:
        if (children > 0 && n->array.children != NULL) n->array.children[i] = NULL;
        break;
    case 3:
        if (children > 0 && n->schema.n_children == children &&
            n->schema.children != NULL)
            n->schema.children[i] = NULL;
        break;
    case 4:
        if (fuzz_below(in, 2) == 0)
            n->array.children = NULL;
        else
            n->schema.children = NULL;
        break;
    default:
        n->schema.dictionary = NULL;
        break;
    }
}

FUZZ void arrow_lie(arrow_table *t, fuzz_input *in) {
    static const char *const names[] = {"layer_name", "weights", "shape", "", "scales"};
    arrow_node *n = &t->nodes[fuzz_below(in, (uint32_t)t->num_nodes)];
    uint32_t k;
    switch (fuzz_below(in, 10)) {
    case 0:
        arrow_lie_format(n, in);
        break;
    case 1:
        arrow_lie_metadata(t, n, in);
        break;
    case 2:
        k = fuzz_below(in, 6);
        n->schema.name = k < 5 ? names[k] : NULL;
        break;
    case 3:
        n->schema.flags ^= ARROW_FLAG_NULLABLE;
        if (fuzz_below(in, 4) == 0) n->schema.release = NULL;
        break;
    case 4:
        arrow_lie_family(n, in);
        break;
    case 5:
    case 6:
        arrow_lie_array(t, n, in);
        break;
    default:
        arrow_lie_element(n, in);
        break;
    }
}

/* ---- the calls ---- */

/* What came out is right; gives it back. */
FUZZ void arrow_check_out(struct ArrowSchema *schema, struct ArrowArray *array) {
    aq_error err;
    const char *wrong = structure_check(schema, array, true);
    if (wrong != NULL) fuzz_fail(__FILE__, __LINE__, "the output is right", wrong);
    FUZZ_CHECK_ERR(aq_arrow_validate(schema, array, &err) == AQ_OK, &err);
    array->release(array);
    schema->release(schema);
    FUZZ_CHECK(array->release == NULL && schema->release == NULL);
}

FUZZ bool arrow_call(const arrow_node *root, aq_arrow_options *o, bool back,
                     struct ArrowSchema *schema, struct ArrowArray *array) {
    aq_error err;
    aq_status status =
        back ? aq_dequantize_arrow(&root->schema, &root->array, o, schema, array, &err)
             : aq_quantize_arrow(&root->schema, &root->array, o, schema, array, &err);
    fuzz_status(status, &err);
    FUZZ_CHECK((status == AQ_OK) == (schema->release != NULL));
    FUZZ_CHECK((status == AQ_OK) == (array->release != NULL));
    return status == AQ_OK;
}

/* A stream that gives the same table again and again. */
typedef struct arrow_feed {
    const arrow_node *root;
    uint32_t left;
} arrow_feed;

FUZZ int arrow_feed_schema(struct ArrowArrayStream *s, struct ArrowSchema *out) {
    *out = ((arrow_feed *)s->private_data)->root->schema;
    return 0;
}

FUZZ int arrow_feed_next(struct ArrowArrayStream *s, struct ArrowArray *out) {
    arrow_feed *feed = (arrow_feed *)s->private_data;
    memset(out, 0, sizeof *out);
    if (feed->left == 0) return 0;
    feed->left--;
    *out = feed->root->array;
    return 0;
}

FUZZ const char *arrow_feed_error(struct ArrowArrayStream *s) {
    (void)s;
    return NULL;
}

FUZZ void arrow_feed_release(struct ArrowArrayStream *s) { s->release = NULL; }

/* What comes out is right, up to the end or an error, which stays. */
FUZZ void arrow_stream(const arrow_node *root, uint32_t batches,
                       const aq_arrow_options *o) {
    arrow_feed feed = {root, batches};
    struct ArrowArrayStream from = {arrow_feed_schema, arrow_feed_next, arrow_feed_error,
                                    arrow_feed_release, &feed};
    struct ArrowArrayStream to;
    struct ArrowSchema schema;
    struct ArrowArray array;
    aq_error err;
    int status;
    if (fuzz_status(aq_quantize_arrow_stream(&from, o, &to, &err), &err) != AQ_OK) {
        if (from.release != NULL) from.release(&from);
        return;
    }
    FUZZ_CHECK(from.release == NULL);
    FUZZ_CHECK(to.get_schema(&to, &schema) == 0);
    while ((status = to.get_next(&to, &array)) == 0 && array.release != NULL) {
        FUZZ_CHECK(structure_check(&schema, &array, true) == NULL);
        array.release(&array);
    }
    FUZZ_CHECK((status != 0) == (to.get_last_error(&to) != NULL));
    if (status != 0) FUZZ_CHECK(to.get_next(&to, &array) == status);
    schema.release(&schema);
    to.release(&to);
}

FUZZ void arrow_run(const arrow_node *root, fuzz_input *in, bool back) {
    aq_arrow_report report;
    aq_arrow_options o;
    struct ArrowSchema schema, again_schema;
    struct ArrowArray array, again;
    fuzz_memory memory;
    aq_error err;
    memset(&o, 0, sizeof o);
    memset(&report, 0, sizeof report);
    fuzz_memory_init(&memory, (size_t)32 << 20, SIZE_MAX);
    o.allocator = &memory.hooks;
    o.threads = 1;
    o.quant.group_size = 8;
    o.sort_by_name = fuzz_below(in, 2) == 0;
    o.no_metrics = fuzz_below(in, 2) == 0;
    if (fuzz_below(in, 2) == 0) o.report = &report;
    if (fuzz_below(in, 4) == 0) o.quant.params = AQ_PARAMS_U8;
    if (arrow_call(root, &o, back, &schema, &array)) {
        FUZZ_CHECK(array.length + (int64_t)report.num_failures == root->array.length);
        if (!back) { /* what was quantized can be dequantized */
            FUZZ_CHECK_ERR(aq_dequantize_arrow(&schema, &array, &o, &again_schema, &again,
                                               &err) == AQ_OK,
                           &err);
            FUZZ_CHECK(again.length == array.length);
            arrow_check_out(&again_schema, &again);
        }
        arrow_check_out(&schema, &array);
    }
    o.report = NULL;
    if (!back) arrow_stream(root, fuzz_below(in, 4), &o);
    aq_arrow_report_deinit(&report);
    fuzz_memory_check(&memory);
}

static void fuzz_arrow(const uint8_t *data, size_t size) {
    arrow_table *t = (arrow_table *)calloc(1, sizeof *t);
    fuzz_input in;
    arrow_node *root;
    uint32_t lies;
    aq_status status;
    aq_error err;
    bool back;
    in.data = data;
    in.size = size;
    FUZZ_CHECK(t != NULL);
    fuzz_result = AQ_OK;
    back = fuzz_below(&in, 2) == 1;
    lies = fuzz_below(&in, 8);
    root = back ? arrow_codes(t, &in) : arrow_weights(t, &in);
    FUZZ_CHECK(structure_check(&root->schema, &root->array, false) == NULL);
    for (; lies > 0; lies--)
        arrow_lie(t, &in);
    status = aq_arrow_validate(&root->schema, &root->array, &err);
    fuzz_status(status, &err);
    if (status == AQ_OK) {
        const char *wrong = structure_check_as(&root->schema, &root->array, false, true);
        /* That one does not know unions. */
        if (wrong != NULL && strstr(wrong, "format +") == NULL)
            fuzz_fail(__FILE__, __LINE__, "what is let through", wrong);
    }
    arrow_run(root, &in, back);
    arrow_free(t);
    free(t);
}
