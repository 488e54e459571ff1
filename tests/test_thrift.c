/* The Thrift reader on bytes that are damaged, hostile, or unusual but right. Every input
 * lies in a heap block of exactly its size, so that AddressSanitizer sees a read past its
 * end. tests/thrift/ compares the reader and the writer with libthrift. */
#define AQ_STATIC
#define ARROWQUANT_IMPLEMENTATION
#include "../arrowquant.h"
#include "decode.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>

/* Bytes and their number, from a string that may contain zeros. */
#define BYTES(text) text, sizeof(text) - 1

/*==========================================================================
 * Tables of cases: the parameter of a test is the number of its row
 *========================================================================*/

static struct criterion_test_params rows(size_t count) {
    size_t *indices = cr_malloc(count * sizeof *indices), i;
    for (i = 0; i < count; i++)
        indices[i] = i;
    return cr_make_param_array(size_t, indices, count);
}

#define TABLE_TEST(name, table)                                                          \
    ParameterizedTestParameters(thrift, name) { return rows(AQI_COUNT(table)); }         \
    ParameterizedTest(size_t *row, thrift, name)

/* All tables of the header that have fields. */
static const aqi_thrift_struct *const types[] = {
    &aqi_statistics_type,     &aqi_decimal_type,
    &aqi_time_unit_type,      &aqi_time_type,
    &aqi_integer_type,        &aqi_logical_type,
    &aqi_schema_element_type, &aqi_key_value_type,
    &aqi_column_meta_type,    &aqi_column_chunk_type,
    &aqi_sorting_column_type, &aqi_row_group_type,
    &aqi_column_order_type,   &aqi_file_meta_type,
    &aqi_data_page_type,      &aqi_dictionary_page_type,
    &aqi_data_page_v2_type,   &aqi_page_header_type,
};

/*==========================================================================
 * Reading
 *========================================================================*/

static const aq_allocator plain = {aqi_default_alloc, aqi_default_resize,
                                   aqi_default_free, NULL};

typedef struct result {
    aq_status status;
    aq_error err;
    size_t used;  /* bytes read */
    void *object; /* the struct, with its lists as arrays */
    uint8_t *bytes;
    aqi_arena arena; /* of the lists */
} result;

static void read_bytes(result *r, const aqi_thrift_struct *type, const void *bytes,
                       size_t size) {
    aqi_thrift_reader reader;
    memset(r, 0, sizeof *r);
    r->object = malloc(type->size);
    memset(r->object, 0x55, type->size);
    r->bytes = malloc(size);
    memcpy(r->bytes, bytes, size);
    aqi_arena_init(&r->arena, &plain);
    reader.in = aqi_cursor_make(r->bytes, size, 0);
    reader.err = &r->err;
    r->status = aqi_thrift_read(&reader, type, r->object);
    r->used = (size_t)aqi_offset(&reader.in);
    if (r->status == AQ_OK) decode_lists(type, r->object, &r->arena);
}

static void result_free(result *r) {
    aqi_arena_deinit(&r->arena);
    free(r->object);
    free(r->bytes);
}

/* The status alone. */
static aq_status status_of(const aqi_thrift_struct *type, const void *bytes,
                           size_t size) {
    result r;
    read_bytes(&r, type, bytes, size);
    result_free(&r);
    return r.status;
}

/*==========================================================================
 * Writing
 *========================================================================*/

typedef aqi_bytes_builder buffer;

static void append(buffer *b, const void *bytes, size_t size) {
    cr_assert(aqi_builder_append(&plain, b, bytes, size));
}

static buffer written(const aqi_thrift_struct *type, const void *object) {
    aqi_thrift_writer w = {&plain, {NULL, 0, 0}, false};
    aqi_thrift_write(&w, type, object);
    cr_assert(!w.failed);
    return w.out;
}

/* The bytes of a struct with the fields in `has`, all values 0 or empty. */
static buffer blank(const aqi_thrift_struct *type, uint32_t has) {
    void *object = calloc(1, type->size);
    buffer b;
    memcpy(object, &has, sizeof has);
    b = written(type, object);
    free(object);
    return b;
}

static void fill(const aqi_thrift_struct *type, void *dst, aqi_arena *arena);

/* Any value; two elements in a list. */
static void fill_value(aqi_kind kind, const aqi_thrift_field *f, void *at,
                       aqi_arena *arena) {
    aqi_slice text = {(const uint8_t *)f->name, (uint32_t)strlen(f->name)};
    aqi_kind element = (aqi_kind)(kind >> 4);
    size_t size = aqi_thrift_element_size(f);
    aqi_list *list = at;
    void *items;
    switch (kind) {
    case AQI_KIND_BOOL:
        *(bool *)at = true;
        break;
    case AQI_KIND_I8:
        *(int8_t *)at = -8;
        break;
    case AQI_KIND_I16:
        *(int16_t *)at = INT16_MIN;
        break;
    case AQI_KIND_I32:
        *(int32_t *)at = INT32_MAX;
        break;
    case AQI_KIND_I64:
        *(int64_t *)at = INT64_MIN;
        break;
    case AQI_KIND_BYTES:
        *(aqi_slice *)at = text;
        break;
    case AQI_KIND_STRUCT:
        fill(f->type, at, arena);
        break;
    default:
        cr_assert(aqi_arena_alloc(arena, 2 * size, &items, NULL) == AQ_OK);
        fill_value(element, f, items, arena);
        fill_value(element, f, (uint8_t *)items + size, arena);
        list->items = items;
        list->count = 2;
    }
}

static void fill(const aqi_thrift_struct *type, void *dst, aqi_arena *arena) {
    uint32_t has = (1u << type->num_fields) - 1;
    size_t k;
    memcpy(dst, &has, sizeof has);
    for (k = 0; k < type->num_fields; k++) {
        const aqi_thrift_field *f = &type->fields[k];
        fill_value((aqi_kind)f->kind, f, (uint8_t *)dst + f->offset, arena);
    }
}

/* A footer with every known field, and unknown ones of every type behind them. */
static buffer footer(void) {
    static const char unknown[] =
        "\x2b\x01\x8c\x04name\x15\x02\x00"     /* map of string to struct */
        "\x1a\x21\x01\x02"                     /* set of bool             */
        "\x1dZYXWVUTSRQPONMLK"                 /* uuid                    */
        "\x17\x00\x00\x00\x00\x00\x00\xf0\x3f" /* double                  */
        "\x09\x80\x7d\x29\x13\x05\x13\x06"     /* list of lists of byte   */
        "\x00";                                /* stop                    */
    aqi_file_meta meta;
    aqi_arena arena;
    buffer b;
    aqi_arena_init(&arena, &plain);
    memset(&meta, 0, sizeof meta);
    fill(&aqi_file_meta_type, &meta, &arena);
    b = written(&aqi_file_meta_type, &meta);
    aqi_arena_deinit(&arena);
    b.size--; /* its stop */
    append(&b, BYTES(unknown));
    return b;
}

/*==========================================================================
 * Damaged
 *========================================================================*/

Test(thrift, every_prefix_of_a_footer_is_refused) {
    buffer b = footer();
    size_t n;
    cr_assert_eq(status_of(&aqi_file_meta_type, b.data, b.size), AQ_OK);
    for (n = 0; n < b.size; n++)
        cr_assert_eq(status_of(&aqi_file_meta_type, b.data, n), AQ_E_FORMAT,
                     "%zu of %zu bytes", n, b.size);
    aqi_builder_free(&plain, &b);
}

/* As a KeyValue, of which fields 1 and 2 are strings and the others are unknown. */
static const struct {
    const char *name, *bytes;
    size_t size;
    const char *message;
} damaged[] = {
    {"nothing", BYTES(""), "struct cut off"},
    {"no stop", BYTES("\x18\x01k"), "struct cut off"},
    {"no field id", BYTES("\x08"), "field id cut off"},
    {"type 0 with an id", BYTES("\x10"), "no such field type"},
    {"type 14", BYTES("\x3e\x00"), "no such field type"},
    {"type 15", BYTES("\x3f\x00"), "no such field type"},
    {"id 32768", BYTES("\x03\x80\x80\x04\x00"), "no such field type or id"},
    {"id -32769", BYTES("\x03\x81\x80\x04\x00"), "no such field type or id"},
    {"id 32767 + 1", BYTES("\x03\xfe\xff\x03\x00\x13\x00"), "no such field"},
    {"id of 11 bytes", BYTES("\x03\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00\x00"),
     "field id cut off"},
    {"string longer than the rest", BYTES("\x18\x02k"), "string longer"},
    {"string of 2^32 + 1", BYTES("\x18\x81\x80\x80\x80\x10k\x00"), "string longer"},
    {"string of 2^64 - 1", BYTES("\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01k\x00"),
     "string longer"},
    {"string length of 65 bits", BYTES("\x18\x81\x80\x80\x80\x80\x80\x80\x80\x80\x02k"),
     "string length cut off"},
    {"integer without end", BYTES("\x35\xff\xff"), "integer cut off"},
    {"integer of 11 bytes", BYTES("\x36\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01\x00"),
     "integer cut off or too long"},
    {"half a double", BYTES("\x37\x00\x00\x00\x00"), "value cut off"},
    {"half a uuid", BYTES("\x3dZYXWVUTS"), "value cut off"},
    {"no byte", BYTES("\x33"), "value cut off"},
    {"no list header", BYTES("\x39"), "list header cut off"},
    {"no list size", BYTES("\x39\xf3"), "list size cut off"},
    {"list longer than the rest", BYTES("\x39\x43\x01\x02\x03"), "list longer"},
    {"list of 2^31", BYTES("\x39\xf3\x80\x80\x80\x80\x08\x00"), "list longer"},
    {"list of 2^63", BYTES("\x39\xf3\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01\x00"),
     "list longer"},
    {"list of type 0", BYTES("\x39\x20\x00\x00\x00"), "no such type"},
    {"list of type 14", BYTES("\x39\x2e\x00\x00\x00"), "no such type"},
    {"list of bool, cut off", BYTES("\x39\x31\x01\x02"), "list longer"},
    {"set of 2^31", BYTES("\x3a\xf1\x80\x80\x80\x80\x08\x00"), "list longer"},
    {"no map size", BYTES("\x3b"), "map size cut off"},
    {"no map types", BYTES("\x3b\x01"), "map longer"},
    {"map of 2^63", BYTES("\x3b\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01\x33\x00"),
     "map longer"},
    {"map from type 0", BYTES("\x3b\x01\x03\x00\x00\x00"), "no such type"},
    {"map to type 15", BYTES("\x3b\x01\x3f\x00\x00\x00"), "no such type"},
    {"map, half an entry", BYTES("\x3b\x01\x33\x00"), "value cut off"},
};

TABLE_TEST(damage_is_refused, damaged) {
    result r;
    read_bytes(&r, &aqi_key_value_type, damaged[*row].bytes, damaged[*row].size);
    cr_expect_eq(r.status, AQ_E_FORMAT, "%s: %s", damaged[*row].name,
                 aq_status_name(r.status));
    cr_expect(strstr(r.err.message, damaged[*row].message) != NULL, "%s: \"%s\"",
              damaged[*row].name, r.err.message);
    cr_expect(r.err.file_offset >= 0 && r.err.file_offset <= (int64_t)damaged[*row].size);
    result_free(&r);
}

/*==========================================================================
 * Unusual, but right
 *========================================================================*/

/* Bytes, and those that the writer has for the same values. */
static const struct {
    const char *name;
    const aqi_thrift_struct *type;
    const char *bytes;
    size_t size;
    const char *canonical;
    size_t canonical_size;
} unusual[] = {
    {"id in the long form", &aqi_key_value_type, BYTES("\x08\x02\x01k\x00"),
     BYTES("\x18\x01k\x00")},
    {"true with its id in the long form", &aqi_statistics_type, BYTES("\x01\x0e\x00"),
     BYTES("\x71\x00")},
    {"false with its id in the long form", &aqi_statistics_type, BYTES("\x02\x0e\x00"),
     BYTES("\x72\x00")},
    {"fields in descending order", &aqi_key_value_type,
     BYTES("\x28\x01v\x08\x02\x01k\x00"), BYTES("\x18\x01k\x18\x01v\x00")},
    {"a field twice: the last one", &aqi_key_value_type,
     BYTES("\x18\x01k\x08\x02\x01m\x00"), BYTES("\x18\x01m\x00")},
    {"a struct twice: the last one", &aqi_time_type,
     BYTES("\x11\x1c\x1c\x00\x00\x0c\x04\x2c\x00\x00\x00"),
     BYTES("\x11\x1c\x2c\x00\x00\x00")},
    {"varints with leading zeros", &aqi_decimal_type,
     BYTES("\x15\x82\x80\x00\x15\x80\x00\x00"), BYTES("\x15\x02\x15\x00\x00")},
    {"a short list with a long header", &aqi_row_group_type,
     BYTES("\x19\xfc\x00\x16\x00\x16\x00\x00"), BYTES("\x19\x0c\x16\x00\x16\x00\x00")},
    {"an empty list of no type", &aqi_row_group_type,
     BYTES("\x19\x00\x16\x00\x16\x00\x00"), BYTES("\x19\x0c\x16\x00\x16\x00\x00")},
    {"structs of the smallest size, at the end", &aqi_row_group_type,
     BYTES("\x26\x00\x16\x00\x09\x02\x0c\x39\x5c"
           "\x15\x00\x11\x11\x00\x15\x00\x11\x11\x00\x15\x00\x11\x11\x00"
           "\x15\x00\x11\x11\x00\x15\x00\x11\x11\x00\x00"),
     BYTES("\x19\x0c\x16\x00\x16\x00\x19\x5c"
           "\x15\x00\x11\x11\x00\x15\x00\x11\x11\x00\x15\x00\x11\x11\x00"
           "\x15\x00\x11\x11\x00\x15\x00\x11\x11\x00\x00")},
    {"unknown: bool", &aqi_key_value_type, BYTES("\x18\x01k\x21\x12\x00"),
     BYTES("\x18\x01k\x00")},
    {"unknown: the ids -32768 and 32767", &aqi_key_value_type,
     BYTES("\x03\xff\xff\x03\x00\x08\x02\x01k\x03\xfe\xff\x03\x00\x00"),
     BYTES("\x18\x01k\x00")},
    {"unknown: byte, i16, i32, i64 of 64 bits", &aqi_key_value_type,
     BYTES("\x33\xff\x14\x01\x15\x01\x16\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
           "\x08\x02\x01k\x00"),
     BYTES("\x18\x01k\x00")},
    {"unknown: double, uuid", &aqi_key_value_type,
     BYTES("\x37ZYXWVUTS\x1dZYXWVUTSRQPONMLK\x08\x02\x01k\x00"), BYTES("\x18\x01k\x00")},
    {"unknown: list of bool, a byte each", &aqi_key_value_type,
     BYTES("\x39\x31\x01\x02\x01\x19\x22\x01\x02\x08\x02\x01k\x00"),
     BYTES("\x18\x01k\x00")},
    {"unknown: set of string", &aqi_key_value_type,
     BYTES("\x3a\x28\x01x\x00\x08\x02\x01k\x00"), BYTES("\x18\x01k\x00")},
    {"unknown: map without entries has no types", &aqi_key_value_type,
     BYTES("\x3b\x00\x08\x02\x01k\x00"), BYTES("\x18\x01k\x00")},
    {"unknown: map of string to bool", &aqi_key_value_type,
     BYTES("\x3b\x02\x81\x01x\x01\x00\x02\x08\x02\x01k\x00"), BYTES("\x18\x01k\x00")},
    {"unknown: map of struct to list", &aqi_key_value_type,
     BYTES("\x3b\x01\xc9\x15\x02\x00\x13\x07\x08\x02\x01k\x00"), BYTES("\x18\x01k\x00")},
};

TABLE_TEST(unusual_is_read, unusual) {
    const aqi_thrift_struct *type = unusual[*row].type;
    result r;
    buffer b = {NULL, 0, 0};
    read_bytes(&r, type, unusual[*row].bytes, unusual[*row].size);
    cr_expect_eq(r.status, AQ_OK, "%s: %s", unusual[*row].name, r.err.message);
    cr_expect_eq(r.used, unusual[*row].size, "%s", unusual[*row].name);
    b = written(type, r.object);
    cr_expect(b.size == unusual[*row].canonical_size &&
                  memcmp(b.data, unusual[*row].canonical, b.size) == 0,
              "%s: other values", unusual[*row].name);
    aqi_builder_free(&plain, &b);
    result_free(&r);
}

/*==========================================================================
 * Limits: reached, and passed by one
 *========================================================================*/

/* Field 3 holds containers, each in the one before it, and the last one empty. */
static const struct {
    const char *name, *field, *outer;
    size_t outer_size;
    const char *innermost;
    size_t innermost_size;
    const char *closing;
} nested[] = {
    {"structs", "\x3c", BYTES("\x1c"), BYTES(""), "\x00"},
    {"lists", "\x39", BYTES("\x19"), BYTES("\x09"), NULL},
    {"sets", "\x3a", BYTES("\x1a"), BYTES("\x0a"), NULL},
    {"maps to maps", "\x3b", BYTES("\x01\x3b\x07"), BYTES("\x00"), NULL},
};

static void append_times(buffer *b, const char *bytes, size_t size, int times) {
    for (; times > 0; times--)
        append(b, bytes, size);
}

TABLE_TEST(nesting, nested) {
    int depth;
    for (depth = 64; depth <= 65; depth++) {
        aq_status want = depth == 64 ? AQ_OK : AQ_E_LIMIT;
        buffer b = {NULL, 0, 0};
        append(&b, nested[*row].field, 1);
        append_times(&b, nested[*row].outer, nested[*row].outer_size, depth - 1);
        append(&b, nested[*row].innermost, nested[*row].innermost_size);
        if (nested[*row].closing != NULL)
            append_times(&b, nested[*row].closing, 1, depth);
        append(&b, BYTES("\x08\x02\x01k\x00"));
        cr_expect_eq(status_of(&aqi_key_value_type, b.data, b.size), want, "%d %s", depth,
                     nested[*row].name);
        aqi_builder_free(&plain, &b);
    }
}

/* Field 3 has a size or count, and as many zero bytes. */
static const struct {
    const char *name, *head;
    size_t head_size, limit;
} long_values[] = {
    {"bytes in a string", BYTES("\x38"), 100000000},
    {"elements in a list", BYTES("\x39\xf3"), 1000000},
    {"elements in a set", BYTES("\x3a\xf1"), 1000000},
};

TABLE_TEST(length, long_values) {
    size_t n;
    for (n = long_values[*row].limit; n <= long_values[*row].limit + 1; n++) {
        aq_status want = n == long_values[*row].limit ? AQ_OK : AQ_E_LIMIT;
        uint8_t *bytes = calloc(1, n + 32), *at = bytes;
        memcpy(at, long_values[*row].head, long_values[*row].head_size);
        at += long_values[*row].head_size;
        at += aqi_encode_varint(n, at) + n;
        memcpy(at, BYTES("\x08\x02\x01k\x00"));
        cr_expect_eq(status_of(&aqi_key_value_type, bytes, (size_t)(at + 5 - bytes)),
                     want, "%zu %s", n, long_values[*row].name);
        free(bytes);
    }
}

/*==========================================================================
 * Fields of every table
 *========================================================================*/

TABLE_TEST(missing_field_is_named, types) {
    const aqi_thrift_struct *type = types[*row];
    uint32_t required = type->required;
    size_t k;
    for (k = 0; k < type->num_fields; k++) {
        const char *field = type->fields[k].name;
        buffer b = blank(type, required & ~(1u << k));
        result r;
        read_bytes(&r, type, b.data, b.size);
        if (!(required >> k & 1)) {
            cr_expect_eq(r.status, AQ_OK, "%s.%s: %s", type->name, field, r.err.message);
        } else {
            cr_expect_eq(r.status, AQ_E_FORMAT, "%s.%s", type->name, field);
            cr_expect(strstr(r.err.message, type->name) && strstr(r.err.message, field),
                      "%s.%s: \"%s\"", type->name, field, r.err.message);
        }
        result_free(&r);
        aqi_builder_free(&plain, &b);
    }
}

/* A known id with another type is passed over, and counts as absent. */
TABLE_TEST(wrong_type_is_skipped, types) {
    const aqi_thrift_struct *type = types[*row];
    uint32_t required = type->required;
    size_t k;
    for (k = 0; k < type->num_fields; k++) {
        const aqi_thrift_field *f = &type->fields[k];
        uint8_t wrong[] = {AQI_T_DOUBLE, (uint8_t)(f->id * 2), 1, 2, 3, 4, 5, 6, 7, 8};
        buffer rest = blank(type, required & ~(1u << k)), b = {NULL, 0, 0};
        result r;
        uint32_t has;
        /* The first id of `rest` counts from 0, hence a field of id 0 before it. */
        append(&b, wrong, sizeof wrong);
        append(&b, BYTES("\x01\x00"));
        append(&b, rest.data, rest.size);
        read_bytes(&r, type, b.data, b.size);
        memcpy(&has, r.object, sizeof has);
        cr_expect_eq(r.status, required >> k & 1 ? AQ_E_FORMAT : AQ_OK, "%s.%s: %s",
                     type->name, f->name, r.err.message);
        cr_expect_eq(has >> k & 1u, 0u, "%s.%s", type->name, f->name);
        result_free(&r);
        aqi_builder_free(&plain, &rest);
        aqi_builder_free(&plain, &b);
    }
}

/*==========================================================================
 * Mutations
 *========================================================================*/

static uint32_t random_state = 1;

static size_t random_below(size_t n) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state % n;
}

/* Changes bytes, cuts, and inserts bytes that are special in the encoding. */
static void mutate(buffer *b) {
    static const uint8_t special[] = {0x00, 0x01, 0x0f, 0x7f, 0x80, 0xf9, 0xfc, 0xff};
    uint8_t value = special[random_below(sizeof special)];
    size_t at = random_below(b->size), n = 1 + random_below(sizeof special);
    n = AQI_MIN(n, b->size - at);
    switch (random_below(5)) {
    case 0:
        b->data[at] ^= (uint8_t)(1u << random_below(8));
        break;
    case 1:
        b->data[at] = value;
        break;
    case 2:
        memmove(b->data + at, b->data + at + n, b->size - at - n);
        b->size -= n;
        break;
    case 3:
        append(b, special, n);
        memmove(b->data + at + n, b->data + at, b->size - at - n);
        memset(b->data + at, value, n);
        break;
    default:
        b->size = at + 1;
    }
    if (b->size == 0) append(b, &value, 1);
}

/* What can be read can be written, and reads again as the same. */
static void check_rewrite(const result *r, int i) {
    buffer first = written(&aqi_file_meta_type, r->object), second;
    result again;
    read_bytes(&again, &aqi_file_meta_type, first.data, first.size);
    cr_assert_eq(again.status, AQ_OK, "mutation %d: %s", i, again.err.message);
    second = written(&aqi_file_meta_type, again.object);
    cr_assert(second.size == first.size &&
                  memcmp(second.data, first.data, first.size) == 0,
              "mutation %d", i);
    aqi_builder_free(&plain, &first);
    aqi_builder_free(&plain, &second);
    result_free(&again);
}

Test(thrift, mutations_of_a_footer) {
    buffer original = footer();
    int i, num_read = 0;
    for (i = 0; i < 20000; i++) {
        buffer b = {NULL, 0, 0};
        size_t n;
        result r;
        append(&b, original.data, original.size);
        for (n = 1 + random_below(4); n > 0; n--)
            mutate(&b);
        read_bytes(&r, &aqi_file_meta_type, b.data, b.size);
        cr_assert(r.status == AQ_OK || r.status == AQ_E_FORMAT || r.status == AQ_E_LIMIT,
                  "mutation %d: %s", i, aq_status_name(r.status));
        if (r.status == AQ_OK) {
            num_read++;
            check_rewrite(&r, i);
        }
        result_free(&r);
        aqi_builder_free(&plain, &b);
    }
    cr_assert_gt(num_read, 100);
    cr_log_info("%d of %d mutations are footers still", num_read, i);
    aqi_builder_free(&plain, &original);
}
