/* make_seeds.c - small valid inputs for every target, written by the library: all
 * encodings, codecs and page versions, nested columns, models, safetensors. Part of
 * replay.c, after the targets. */

/* ---- tables ---- */

/* The same numbers whenever it is asked. */
static fuzz_input seeds_bytes(uint64_t seed, uint8_t *room, size_t size) {
    fuzz_input in = {room, size};
    size_t i;
    for (i = 0; i < size; i++)
        room[i] = (uint8_t)(fuzz_random(&seed) >> 40);
    return in;
}

/* A column of a table: "q" required, "o" optional, "orq" a list, ... */
static void seeds_column(fuzz_trip *t, const char *shape, aq_physical_type type,
                         aq_encoding encoding, aq_codec codec) {
    uint8_t pick[16] = {0};
    fuzz_input in = {pick, sizeof pick};
    uint8_t k = 0;
    while (strcmp(fuzz_shapes[k], shape) != 0)
        k++;
    pick[0] = k;
    pick[1] = (uint8_t)type;
    pick[2] = type == AQ_FIXED_LEN_BYTE_ARRAY ? 4 : 0; /* 5 bytes; else the codec */
    fuzz_add_column(&t->schema, &in);
    t->schema.fields[t->schema.num_fields - 1].encoding = encoding;
    t->schema.fields[t->schema.num_fields - 1].codec = codec;
    t->schema.fields[t->schema.num_fields - 1].write_statistics = true;
}

static void seeds_put(const char *directory, const char *name, const void *data,
                      size_t size) {
    char path[512];
    FUZZ_CHECK(snprintf(path, sizeof path, "%s/%s", directory, name) < (int)sizeof path);
    fuzz_file_put(path, data, size);
}

/* Fills the rows and writes directory/name. Many rows have nulls, few have long lists. */
static void seeds_table(fuzz_trip *t, const char *directory, const char *name,
                        size_t rows) {
    static uint64_t seed = 1;
    uint8_t room[4096];
    fuzz_input in = seeds_bytes(++seed, room, sizeof room);
    fuzz_memory memory;
    char path[512];
    size_t g, c;
    fuzz_memory_init(&memory, SIZE_MAX, SIZE_MAX);
    t->options.no_sync = true;
    for (g = 0; g < t->num_groups; g++) {
        t->rows[g] = rows;
        for (c = 0; c < t->schema.num_columns; c++) {
            room[sizeof room - in.size] = (uint8_t)(rows > 6 ? 2 + g : 12);
            room[sizeof room - in.size + 1] = (uint8_t)(1 + c); /* style of the values */
            fuzz_make_column(&t->columns[g][c], &t->schema, c, rows, &in);
        }
    }
    snprintf(t->value, sizeof t->value, "%s", "value");
    FUZZ_CHECK(snprintf(path, sizeof path, "%s/%s", directory, name) < (int)sizeof path);
    FUZZ_CHECK(fuzz_trip_write(t, path, false, &memory));
    fuzz_trip_free(t);
    fuzz_memory_check(&memory);
}

static fuzz_trip seeds_trip(size_t num_groups) {
    fuzz_trip t;
    memset(&t, 0, sizeof t);
    t.num_groups = num_groups;
    return t;
}

/* A file for each encoding, of the types that it can hold. */
static void seeds_encodings(const char *directory, bool v2) {
    static const aq_codec codecs[] = {AQ_UNCOMPRESSED, AQ_UNCOMPRESSED, AQ_ZSTD};
    static const char *const shapes[] = {"q", "o", "q", "orq"};
    int32_t encoding, type;
    for (encoding = 0; encoding <= AQ_BYTE_STREAM_SPLIT; encoding++) {
        fuzz_trip t = seeds_trip(2);
        char name[80];
        for (type = 0; type < 8; type++) {
            size_t c = t.schema.num_columns;
            aq_codec codec = codecs[c % 3];
            if (encoding == 1 || encoding == AQ_PLAIN_DICTIONARY ||
                encoding == AQ_BIT_PACKED || c == FUZZ_MAX_COLUMNS ||
                !aqi_encoding_fits((aq_encoding)encoding, (aq_physical_type)type))
                continue;
            if (encoding == AQ_PLAIN && type % 2 == v2) continue;
            seeds_column(&t, shapes[c], (aq_physical_type)type, (aq_encoding)encoding,
                         codec);
        }
        if (t.schema.num_columns == 0) continue;
        t.options.data_page_v2 = v2;
        t.options.page_bytes = 60;
        snprintf(name, sizeof name, "%s_%s", aq_encoding_name(encoding),
                 v2 ? "v2" : "v1");
        seeds_table(&t, directory, name, 30);
    }
}

static void seeds_codecs(const char *directory, bool v2) {
    int32_t codec;
    for (codec = 0; codec <= AQ_LZ4_RAW; codec++) {
        fuzz_trip t = seeds_trip(1);
        char name[80];
        if (!aqi_codec_available(codec)) continue;
        seeds_column(&t, "o", AQ_BYTE_ARRAY, AQ_PLAIN, (aq_codec)codec);
        seeds_column(&t, "q", AQ_INT64, AQ_RLE_DICTIONARY, (aq_codec)codec);
        t.options.data_page_v2 = v2;
        snprintf(name, sizeof name, "%s_%s", aq_codec_name(codec), v2 ? "v2" : "v1");
        seeds_table(&t, directory, name, 40);
    }
}

/* The valid files that replay mutates; they are seeds too. */
static void seeds_flat(const char *directory) {
    fuzz_trip t = seeds_trip(3);
    seeds_column(&t, "q", AQ_INT32, AQ_DELTA_BINARY_PACKED, AQ_UNCOMPRESSED);
    seeds_column(&t, "o", AQ_BYTE_ARRAY, AQ_DELTA_BYTE_ARRAY, AQ_UNCOMPRESSED);
    seeds_column(&t, "q", AQ_DOUBLE, AQ_BYTE_STREAM_SPLIT, AQ_UNCOMPRESSED);
    seeds_column(&t, "o", AQ_BOOLEAN, AQ_RLE, AQ_UNCOMPRESSED);
    t.options.page_bytes = 100;
    seeds_table(&t, directory, "flat", 40);
}

static void seeds_nested(const char *directory) {
    fuzz_trip t = seeds_trip(1);
    seeds_column(&t, "oro", AQ_BYTE_ARRAY, AQ_RLE_DICTIONARY, AQ_SNAPPY);
    seeds_column(&t, "ororo", AQ_INT64, AQ_RLE_DICTIONARY, AQ_SNAPPY);
    seeds_column(&t, "oooo", AQ_FIXED_LEN_BYTE_ARRAY, AQ_RLE_DICTIONARY, AQ_SNAPPY);
    t.options.page_bytes = 200;
    seeds_table(&t, directory, "nested", 60);
}

static void seeds_lists(const char *directory) {
    fuzz_trip t = seeds_trip(1);
    seeds_column(&t, "orq", AQ_FLOAT, AQ_PLAIN, AQ_UNCOMPRESSED);
    seeds_column(&t, "r", AQ_BYTE_ARRAY, AQ_RLE_DICTIONARY, AQ_ZSTD);
    t.options.page_bytes = 9000;
    seeds_table(&t, directory, "long_lists", 3);
}

static void seeds_zstd(const char *directory) {
    fuzz_trip t = seeds_trip(2);
    seeds_column(&t, "o", AQ_INT32, AQ_PLAIN, AQ_ZSTD);
    seeds_column(&t, "orq", AQ_FLOAT, AQ_PLAIN, AQ_ZSTD);
    seeds_column(&t, "q", AQ_BYTE_ARRAY, AQ_DELTA_LENGTH_BYTE_ARRAY, AQ_ZSTD);
    t.options.data_page_v2 = true;
    t.options.page_index = true;
    t.options.page_bytes = 150;
    t.options.num_sorting_columns = 1;
    t.options.sorting_columns = &t.sorting;
    seeds_table(&t, directory, "zstd_v2", 40);
}

/* Logical types, and files with nothing in them. */
static void seeds_others(const char *directory) {
    fuzz_trip t = seeds_trip(1);
    aq_field_spec *f = t.schema.fields;
    seeds_column(&t, "q", AQ_INT32, AQ_PLAIN, AQ_UNCOMPRESSED);
    seeds_column(&t, "q", AQ_INT64, AQ_PLAIN, AQ_UNCOMPRESSED);
    seeds_column(&t, "o", AQ_INT32, AQ_PLAIN, AQ_UNCOMPRESSED);
    seeds_column(&t, "q", AQ_BYTE_ARRAY, AQ_PLAIN, AQ_UNCOMPRESSED);
    f[0].logical = AQ_LOGICAL_DECIMAL;
    f[0].precision = 5;
    f[0].scale = 2;
    f[1].logical = AQ_LOGICAL_TIMESTAMP;
    f[1].unit_nanos = 1000;
    f[1].utc = true;
    f[2].logical = AQ_LOGICAL_INTEGER;
    f[2].bit_width = 16;
    f[3].logical = AQ_LOGICAL_STRING;
    f[3].field_id = 7;
    seeds_table(&t, directory, "logical", 10);
    t.num_groups = 2;
    seeds_table(&t, directory, "no_rows", 0);
    t.num_groups = 0;
    seeds_table(&t, directory, "no_row_groups", 0);
    t.schema.num_columns = t.schema.num_fields = 0;
    seeds_table(&t, directory, "no_columns", 0);
}

/* ---- parts of tables, for the targets that have no whole file ---- */

static void seeds_footer(const char *directory, const char *other, const char *name,
                         const fuzz_whole *f) {
    size_t bytes = aqi_load_le32(f->data + f->size - 8), begin = f->size - 8 - bytes;
    uint8_t *copy = (uint8_t *)malloc(bytes + 1);
    FUZZ_CHECK(copy != NULL);
    memcpy(copy + 1, f->data + begin, bytes);
    copy[0] = 20; /* a megabyte of zeros before it */
    seeds_put(directory, name, copy, bytes + 1);
    copy[0] = 0; /* aqi_file_meta_type */
    seeds_put(other, name, copy, bytes + 1);
    free(copy);
}

static void seeds_put_list(aqi_thrift_writer *w, int32_t id, const aqi_list *list) {
    aqi_thrift_put_byte(w, AQI_T_LIST); /* the long form of a field's header */
    aqi_thrift_put_int(w, id);
    aqi_thrift_put_list_header(w, AQI_T_STRUCT, list->count);
    aqi_thrift_put(w, list->items, list->encoded_bytes);
}

/* A file of which the footer has its row groups before the schema. */
static void seeds_row_groups_first(const char *directory, const fuzz_whole *f) {
    size_t bytes = aqi_load_le32(f->data + f->size - 8), begin = f->size - 8 - bytes;
    aqi_thrift_writer w;
    aqi_thrift_reader r;
    aqi_file_meta meta;
    fuzz_memory memory;
    uint8_t tail[8];
    fuzz_memory_init(&memory, SIZE_MAX, SIZE_MAX);
    memset(&w, 0, sizeof w);
    w.allocator = &memory.hooks;
    r.in = aqi_cursor_make(f->data + begin, bytes, 0);
    r.err = NULL;
    FUZZ_CHECK(aqi_thrift_read(&r, &aqi_file_meta_type, &meta) == AQ_OK);
    aqi_thrift_put(&w, f->data, begin);
    aqi_thrift_put(&w, "\x15\x02", 2); /* version 1 */
    seeds_put_list(&w, 4, &meta.row_groups);
    seeds_put_list(&w, 2, &meta.schema);
    aqi_thrift_put(&w, "\x16\x02\x00", 3); /* num_rows 1, which is wrong and allowed */
    aqi_store_le32(tail, (uint32_t)(w.out.size - begin));
    memcpy(tail + 4, "PAR1", 4);
    aqi_thrift_put(&w, tail, sizeof tail);
    seeds_put(directory, "row_groups_first", w.out.data, w.out.size);
    aqi_builder_free(&memory.hooks, &w.out);
}

/* A chunk as the page target takes it: how, shape, type, length, codec, counts, pages. */
static void seeds_chunk(const char *directory, const char *name, const fuzz_whole *file,
                        const aq_parquet *parquet, int32_t column) {
    const aq_field *f = aq_parquet_column_field(parquet, column);
    uint8_t head[9] = {0}, *copy;
    aq_chunk_info chunk;
    aq_row_group_info group;
    aq_error err;
    FUZZ_CHECK(aq_parquet_get_chunk(parquet, 0, column, &chunk, &err) == AQ_OK);
    FUZZ_CHECK(aq_parquet_get_row_group(parquet, 0, &group, &err) == AQ_OK);
    head[1] = f->max_rep == 1   ? (f->max_def == 3   ? 3
                                   : f->max_def == 2 ? 2
                                                     : 4)
              : f->max_def == 0 ? 0
                                : 1;
    head[2] = (uint8_t)f->type;
    head[3] = (uint8_t)f->type_length;
    while (fuzz_codecs[head[4]] != (int32_t)chunk.codec)
        head[4]++;
    head[5] = (uint8_t)chunk.num_values;
    head[6] = (uint8_t)(chunk.num_values >> 8);
    head[7] = (uint8_t)group.num_rows;
    head[8] = (uint8_t)(group.num_rows >> 8);
    copy = (uint8_t *)malloc(sizeof head + (size_t)chunk.compressed_bytes);
    FUZZ_CHECK(copy != NULL);
    memcpy(copy, head, sizeof head);
    memcpy(copy + sizeof head, file->data + chunk.start_offset,
           (size_t)chunk.compressed_bytes);
    seeds_put(directory, name, copy, sizeof head + (size_t)chunk.compressed_bytes);
    free(copy);
}

/* Footer, page headers and chunks of a table. */
static void seeds_take_apart(const char *root, const char *name) {
    char page[512], footer[512], thrift[512], path[600], part[300];
    aq_parquet_info info;
    aq_parquet *parquet;
    aq_page_info at;
    aq_column *column;
    aq_error err;
    fuzz_whole f;
    int32_t c;
    snprintf(page, sizeof page, "%s/page", root);
    snprintf(footer, sizeof footer, "%s/footer", root);
    snprintf(thrift, sizeof thrift, "%s/thrift", root);
    snprintf(path, sizeof path, "%s/file/%s", root, name);
    f = fuzz_file_read(path);
    seeds_footer(footer, thrift, name, &f);
    FUZZ_CHECK(aq_parquet_open_memory(f.data, f.size, NULL, &parquet, &err) == AQ_OK);
    aq_parquet_get_info(parquet, &info);
    for (c = 0; c < info.num_columns && info.num_row_groups > 0; c++) {
        snprintf(part, sizeof part, "%s_%d", name, (int)c);
        seeds_chunk(page, part, &f, parquet, c);
        FUZZ_CHECK(aq_column_open(parquet, 0, c, &column, &err) == AQ_OK);
        FUZZ_CHECK(aq_column_next_page(column, &at, &err) == AQ_OK);
        if (at.header_bytes > 0) { /* the byte before it becomes the type's number */
            f.data[at.header_offset - 1] = 1;
            seeds_put(thrift, part, f.data + at.header_offset - 1,
                      (size_t)at.header_bytes + 1);
        }
        aq_column_close(column);
    }
    aq_parquet_close(parquet);
    free(f.data);
}

/* A chunk of very many pages that hold nothing: it must not take memory for each. Too
 * large for a fuzzer. */
static void seeds_many_pages(const char *directory) {
    const int64_t counts[2] = {1, 1};
    aqi_thrift_writer w;
    aqi_page_header h;
    fuzz_memory memory;
    fuzz_leaf leaf;
    int i;
    fuzz_memory_init(&memory, SIZE_MAX, SIZE_MAX);
    memset(&w, 0, sizeof w);
    memset(&h, 0, sizeof h);
    w.allocator = &memory.hooks;
    fuzz_leaf_init(&leaf, 0, AQ_INT32, 0);
    aqi_thrift_put(&w, "PAR1", 4);
    AQI_SET(&h, aqi_page_header, type, AQI_PAGE_INDEX);
    AQI_SET(&h, aqi_page_header, uncompressed_page_size, 0);
    AQI_SET(&h, aqi_page_header, compressed_page_size, 0);
    for (i = 0; i < 150000; i++)
        aqi_thrift_write(&w, &aqi_page_header_type, &h);
    fuzz_put_footer(&w, &leaf, (int64_t)w.out.size - 4, 0, counts);
    FUZZ_CHECK(!w.failed);
    seeds_put(directory, "many_pages", w.out.data, w.out.size);
    aqi_builder_free(&memory.hooks, &w.out);
}

/* ---- models ---- */

static void seeds_model(const char *path, bool integers) {
    static const uint64_t shapes[4][3] = {{6, 40, 1}, {3, 24, 2}, {17, 1, 1}, {1, 1, 1}};
    static const aq_dtype dtypes[2][4] = {{AQ_F32, AQ_F16, AQ_BF16, AQ_F64},
                                          {AQ_F32, AQ_I8, AQ_I64, AQ_BOOL}};
    static const char *const names[] = {"layer.0.weight", "layer.1.weight", "bias", "x"};
    static uint8_t values[4][6 * 40 * 8];
    aq_model_writer_options o;
    aq_key_value pair = {"format", "pt", 2};
    aq_tensor t[4];
    aq_error err;
    size_t i, k;
    memset(&o, 0, sizeof o);
    o.metadata = &pair;
    o.num_metadata = 1;
    o.no_sync = true;
    for (i = 0; i < 4; i++) {
        for (k = 0; k < sizeof values[i]; k++) /* finite in every type */
            values[i][k] =
                (uint8_t)(k % 8 == 7 || k % 4 == 3 || k % 2 == 1 ? 0x3c + (k * 7 + i) % 2
                                                                 : k * 37 + i);
        if (integers && i == 3) memset(values[i], 1, sizeof values[i]);
        FUZZ_CHECK(aq_tensor_init(&t[i], names[i], dtypes[integers][i], shapes[i],
                                  i < 2 ? 2 + (uint32_t)i : 1, values[i], &err) == AQ_OK);
    }
    FUZZ_CHECK_ERR(aq_model_save(path, t, 4, &o, &err) == AQ_OK, &err);
}

static void seeds_job(const char *from, const char *to, aq_job_options o) {
    aq_error err;
    o.threads = 1;
    o.no_sync = true;
    FUZZ_CHECK_ERR(aq_job_run(from, to, &o, NULL, &err) == AQ_OK, &err);
}

static void seeds_quantize(const char *from, const char *to, aq_quant_options how) {
    aq_job_options o;
    memset(&o, 0, sizeof o);
    o.quant = how;
    if (how.granularity == AQ_PER_GROUP) o.quant.group_size = 16;
    seeds_job(from, to, o);
}

/* A model as other writers make them: all tensors in one row group, dictionaries and
 * ZSTD, nullable lists, a value in a byte. */
static void seeds_foreign(const char *path) {
    static const aq_field_spec fields[] = {
        {.name = "layer_name",
         .repetition = AQ_OPTIONAL,
         .type = AQ_BYTE_ARRAY,
         .codec = AQ_ZSTD,
         .encoding = AQ_RLE_DICTIONARY},
        FUZZ_LIST("shape", AQ_OPTIONAL, .repetition = AQ_OPTIONAL, .type = AQ_INT64,
                  .codec = AQ_ZSTD),
        {.name = "data",
         .repetition = AQ_OPTIONAL,
         .type = AQ_BYTE_ARRAY,
         .codec = AQ_ZSTD,
         .encoding = AQ_RLE_DICTIONARY},
        {.name = "quant_type",
         .repetition = AQ_OPTIONAL,
         .type = AQ_BYTE_ARRAY,
         .codec = AQ_ZSTD,
         .encoding = AQ_RLE_DICTIONARY},
        FUZZ_LIST("scales", AQ_OPTIONAL, .repetition = AQ_OPTIONAL, .type = AQ_FLOAT,
                  .codec = AQ_SNAPPY),
        FUZZ_LIST("zero_points", AQ_OPTIONAL, .repetition = AQ_OPTIONAL, .type = AQ_FLOAT),
        {.name = "group_size", .repetition = AQ_OPTIONAL, .type = AQ_INT64},
    };
    static const uint8_t text[] =
        "abint4int8none0123456789012345678901234567890123456789";
    const aq_bytes names[3] = {{text, 1}, {text + 1, 1}, {text, 2}};
    const aq_bytes blobs[3] = {{text, 24}, {text + 4, 24}, {text + 2, 24}};
    const aq_bytes types[3] = {{text + 2, 4}, {text + 6, 4}, {text + 10, 4}};
    const int64_t shapes[6] = {4, 6, 2, 12, 6, 1}, groups[2] = {2, 1};
    const float floats[4] = {0.5f, 0.25f, 2.0f, 1.0f};
    static const uint8_t ones[3] = {1, 1, 1}, threes[6] = {3, 3, 3, 3, 3, 3};
    static const uint8_t pairs[6] = {0, 1, 0, 1, 0, 1}, some[5] = {3, 3, 3, 3, 0};
    static const uint8_t some_rep[5] = {0, 1, 0, 1, 0}, two[3] = {1, 1, 0};
    const aq_column_values columns[7] = {{names, 3, ones, .num_levels = 3},
                                         {shapes, 6, threes, pairs, .num_levels = 6},
                                         {blobs, 3, ones, .num_levels = 3},
                                         {types, 3, ones, .num_levels = 3},
                                         {floats, 4, some, some_rep, .num_levels = 5},
                                         {floats, 4, some, some_rep, .num_levels = 5},
                                         {groups, 2, two, .num_levels = 3}};
    aq_writer *w;
    aq_error err;
    FUZZ_CHECK_ERR(
        aq_writer_open(path, fields, AQI_COUNT(fields), NULL, &w, &err) == AQ_OK, &err);
    FUZZ_CHECK_ERR(aq_writer_put_columns(w, columns, 7, &err) == AQ_OK, &err);
    FUZZ_CHECK_ERR(aq_writer_end_row_group(w, 3, &err) == AQ_OK, &err);
    FUZZ_CHECK_ERR(aq_writer_finish(w, &err) == AQ_OK, &err);
}

/* A table of weights as a query gives it, in two row groups: lists of float, double or
 * float16, in pages of four values; the second of three rows has no shape. */
static void seeds_weights(const char *path, aq_physical_type type, aq_codec codec) {
    const bool half = type == AQ_FIXED_LEN_BYTE_ARRAY;
    const aq_field_spec fields[] = {
        {.name = "layer_name", .type = AQ_BYTE_ARRAY, .codec = codec},
        {.name = "rank", .type = AQ_INT32},
        FUZZ_LIST("shape", AQ_OPTIONAL, .type = AQ_INT32, .codec = codec),
        FUZZ_LIST("weights", AQ_REQUIRED, .repetition = AQ_OPTIONAL, .type = type,
                  .type_length = half ? 2 : 0,
                  .logical = half ? AQ_LOGICAL_FLOAT16 : AQ_LOGICAL_NONE, .codec = codec),
    };
    static const char *const names[6] = {"layer.0.weight", "bias", "x", "y", "z", "e"};
    static const int32_t ranks[3] = {2, 1, 1}, dims[3] = {2, 8, 5};
    static const uint8_t dims_def[4] = {2, 2, 0, 2}, dims_rep[4] = {0, 1, 0, 0};
    static uint8_t values[24 * 8], levels[24], repeats[24];
    aq_writer_options o;
    aq_bytes texts[3];
    aq_writer *w;
    aq_error err;
    size_t i, g;
    memset(&o, 0, sizeof o);
    o.page_bytes = 4 * (half ? 2 : 4);
    o.no_sync = true;
    for (i = 0; i < sizeof values; i++) /* finite in every type */
        values[i] = (uint8_t)(i % 2 == 1 ? 0x3c : i * 37);
    for (i = 0; i < 24; i++) { /* lists of 16, 3 and 5 */
        levels[i] = 2;
        repeats[i] = i != 0 && i != 16 && i != 19;
    }
    FUZZ_CHECK_ERR(
        aq_writer_open(path, fields, AQI_COUNT(fields), &o, &w, &err) == AQ_OK, &err);
    for (g = 0; g < 2; g++) {
        const aq_column_values columns[4] = {
            {texts, 3, NULL, .num_levels = 0},
            {ranks, 3, NULL, .num_levels = 0},
            {dims, 3, dims_def, dims_rep, .num_levels = 4},
            {values, 24, levels, repeats, .num_levels = 24}};
        for (i = 0; i < 3; i++) {
            texts[i].data = (const uint8_t *)names[3 * g + i];
            texts[i].size = strlen(names[3 * g + i]);
        }
        FUZZ_CHECK_ERR(aq_writer_put_columns(w, columns, 4, &err) == AQ_OK, &err);
        FUZZ_CHECK_ERR(aq_writer_end_row_group(w, 3, &err) == AQ_OK, &err);
    }
    FUZZ_CHECK_ERR(aq_writer_finish(w, &err) == AQ_OK, &err);
}

/* Small parameters of every form. */
static const struct {
    const char *name;
    aq_quant_options how;
} seeds_small[] = {
    {"f16", {.bits = 4, .params = AQ_PARAMS_F16}},
    {"f16_symmetric", {.bits = 8, .params = AQ_PARAMS_F16, .symmetric = true}},
    {"u8", {.bits = 4, .params = AQ_PARAMS_U8}},
    {"u8_symmetric", {.bits = 2, .params = AQ_PARAMS_U8, .symmetric = true}},
    {"u8_rows", {.params = AQ_PARAMS_U8, .granularity = AQ_PER_CHANNEL}},
    {"codebook2", {.bits = 2, .codebook = true}},
    {"codebook4", {.bits = 4, .codebook = true}}};

/* Tables of each type of weights. */
static const struct {
    const char *name;
    aq_physical_type type;
    aq_codec codec;
} seeds_tables[] = {{"table_f32", AQ_FLOAT, AQ_UNCOMPRESSED},
                    {"table_f64", AQ_DOUBLE, AQ_SNAPPY},
                    {"table_f16", AQ_FIXED_LEN_BYTE_ARRAY, AQ_ZSTD}};

/* Tensors in several rows, and with all that a calibration gives them. */
static const aq_spatial_options seeds_spatial = {true, 0.5f};
static const aq_time_options seeds_time = {.groups = 3};
static const struct {
    const char *name;
    aq_job_options options;
    bool calibrated;
} seeds_jobs[] = {
    {"chunks_f32", {.operation = AQ_CONVERT, .chunk_bytes = 200}, false},
    {"shard", {.quant = {.group_size = 16}, .num_shards = 1}, false},
    {"chunks4", {.quant = {.group_size = 16}, .chunk_bytes = 60}, false},
    {"chunks_u8",
     {.quant = {.bits = 8, .group_size = 16, .params = AQ_PARAMS_U8}, .chunk_bytes = 60},
     false},
    {"chunks_tensor", {.quant = {.granularity = AQ_PER_TENSOR}, .chunk_bytes = 60}, false},
    {"calibrated",
     {.quant = {.group_size = 16}, .time = &seeds_time, .spatial = &seeds_spatial},
     true}};

static void seeds_models(const char *root) {
    char plain[512], path[512];
    uint32_t i;
    for (i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/model/plain%u", root, (unsigned)i);
        seeds_model(path, i == 1);
        snprintf(plain, sizeof plain, "%s/safetensors/plain%u.safetensors", root,
                 (unsigned)i);
        seeds_model(plain, i == 1);
    }
    snprintf(path, sizeof path, "%s/model/foreign", root);
    seeds_foreign(path);
    snprintf(plain, sizeof plain, "%s/model/plain0", root);
    for (i = 0; i < 6; i++) {
        snprintf(path, sizeof path, "%s/model/int%u_%u", root, 2u << i % 3,
                 (unsigned)i / 3);
        aq_quant_options how = {.bits = 2u << i % 3, .symmetric = i >= 3};
        how.granularity = (aq_granularity)(i / 2);
        seeds_quantize(plain, path, how);
    }
    for (i = 0; i < AQI_COUNT(seeds_small); i++) {
        snprintf(path, sizeof path, "%s/model/%s", root, seeds_small[i].name);
        seeds_quantize(plain, path, seeds_small[i].how);
    }
    for (i = 0; i < AQI_COUNT(seeds_tables); i++) {
        snprintf(path, sizeof path, "%s/model/%s", root, seeds_tables[i].name);
        seeds_weights(path, seeds_tables[i].type, seeds_tables[i].codec);
    }
    fuzz_job_make();
    for (i = 0; i < AQI_COUNT(seeds_jobs); i++) {
        aq_job_options o = seeds_jobs[i].options;
        if (seeds_jobs[i].calibrated)
            o.calibration_path = fuzz_job_files.calibration_path;
        snprintf(path, sizeof path, "%s/model/%s", root, seeds_jobs[i].name);
        seeds_job(plain, path, o);
    }
}

static bool seeds_is_quantized(const char *path) {
    aq_model *m;
    aq_tensor t;
    aq_error err;
    size_t i;
    bool quantized = false;
    FUZZ_CHECK_ERR(aq_model_open(path, NULL, &m, &err) == AQ_OK, &err);
    for (i = 0; i < aq_model_count(m); i++) {
        FUZZ_CHECK(aq_model_describe(m, i, &t, &err) == AQ_OK);
        quantized = quantized || t.layout.bits != 0;
    }
    aq_model_close(m);
    return quantized;
}

/* Every model of a directory, with some options for a job. */
static void seeds_job_inputs(const char *root, const char *models) {
    char from[512], to[512], name[300], path[900];
    uint8_t room[FUZZ_JOB_OPTIONS];
    uint64_t seed = 3000;
    struct dirent *entry;
    fuzz_whole f;
    DIR *all;
    snprintf(from, sizeof from, "%s/%s", root, models);
    snprintf(to, sizeof to, "%s/job", root);
    all = opendir(from);
    FUZZ_CHECK(all != NULL);
    while ((entry = readdir(all)) != NULL) {
        uint32_t i;
        bool quantized;
        if (entry->d_name[0] == '.' || strcmp(entry->d_name, "header") == 0) continue;
        snprintf(path, sizeof path, "%s/%s", from, entry->d_name);
        quantized = seeds_is_quantized(path);
        f = fuzz_file_read(path);
        f.data = (uint8_t *)realloc(f.data, f.size + sizeof room);
        FUZZ_CHECK(f.data != NULL);
        for (i = 0; i < 6; i++) {
            seeds_bytes(seed++, room, sizeof room);
            if (quantized) room[0] = (uint8_t)(8 + i % 2); /* dequantize, or convert */
            memcpy(f.data + f.size, room, sizeof room);
            snprintf(name, sizeof name, "%s_%u", entry->d_name, (unsigned)i);
            seeds_put(to, name, f.data, f.size + sizeof room);
        }
        free(f.data);
    }
    closedir(all);
}

/* A model that says all about its only tensor. */
static void seeds_diffusion(const char *path) {
    static const float w[6] = {1, 2, 3, 4, 5, 6}, stats[2] = {0.25f, 3};
    static const int64_t timesteps[2] = {40, 80};
    const uint64_t shape[2] = {2, 3};
    aq_time_group groups[2] = {{0, 60, {0.5f, 3, 4}, 1}, {60, 100, {0.25f, 7, 8}, 64}};
    aq_time_aware time = {true, groups, 2};
    aq_spatial spatial = {true, true, false, w, 3};
    aq_activation_stats all = {timesteps, stats, stats, stats, stats, 2};
    aq_diffusion d = {"image", &time, &spatial, &all};
    aq_tensor t;
    aq_error err;
    FUZZ_CHECK(aq_tensor_init(&t, "w", AQ_F32, shape, 2, w, &err) == AQ_OK);
    t.diffusion = &d;
    FUZZ_CHECK_ERR(aq_model_save(path, &t, 1, NULL, &err) == AQ_OK, &err);
}

static void seeds_calibration(const char *root) {
    static const char time[] =
        "{\"enabled\":true,\"num_time_groups\":2,\"time_group_params\":[{\"time_range\":"
        "[0,5],\"scale\":0.5,\"zero_point\":1.5e1,\"group_size\":1,\"bits\":4},"
        "{\"time_range\":[5,10],\"scale\":1e-3,\"zero_point\":3,\"group_size\":1,\"k\":"
        "[]}]}";
    static const char spatial[] =
        "{\"enabled\":true,\"channel_equalization\":true,\"activation_smoothing\":false,"
        "\"equalization_scales\":[0.5,1,2.25]}";
    static const char stats[] =
        "{\"mean\":[1,2],\"std\":[0,1],\"min\":[-1,-2.5],\"max\":[3,4],\"timesteps\":"
        "[1,9]}";
    static const char *const names[2] = {"a", "b"};
    static const int32_t counts[6] = {3, 2, 6, 2, 3, 4};
    char path[512];
    snprintf(path, sizeof path, "%s/calibration/rows", root);
    fuzz_calibration_save(path, names, counts);
    snprintf(path, sizeof path, "%s/model/diffusion", root);
    seeds_diffusion(path);
    snprintf(path, sizeof path, "%s/calibration", root);
    seeds_put(path, "time", time, sizeof time - 1);
    seeds_put(path, "spatial", spatial, sizeof spatial - 1);
    seeds_put(path, "stats", stats, sizeof stats - 1);
}

/* The JSON of a safetensors file: for json, and alone for safetensors. */
static void seeds_json(const char *root) {
    static const char text[] =
        "\"a\\u0041\\u00e9\\u20ac\\ud83d\\ude00\\n\\\"\" 18446744073709551615 [ 0 , 1 ]";
    char directory[512], path[600];
    fuzz_whole f;
    snprintf(path, sizeof path, "%s/safetensors/plain0.safetensors", root);
    f = fuzz_file_read(path);
    snprintf(directory, sizeof directory, "%s/safetensors", root);
    seeds_put(directory, "header", f.data + 8, (size_t)aqi_load_le64(f.data));
    snprintf(directory, sizeof directory, "%s/json", root);
    seeds_put(directory, "header", f.data + 8, (size_t)aqi_load_le64(f.data));
    seeds_put(directory, "text", text, sizeof text - 1);
    free(f.data);
}

/* An index with metadata of every kind; one with a shard of its own; a .npy file, and a
 * header alone. */
static void seeds_inputs(const char *root) {
    static const char index[] =
        "{\"metadata\":{\"total_size\":3,\"k\":\"v\",\"m\":[1.5e-3,true,null,{\"a\":"
        "\"b\"}]},"
        "\"weight_map\":{\"z\":\"b-2-of-2.safetensors\",\"x\":\"a.safetensors\","
        "\"y\":\"b-1-of-2.safetensors\"}}";
    static const char own[] =
        "{\"weight_map\":{\"w\":\"a.safetensors\",\"y\":\"b-1-of-2.safetensors\","
        "\"z\":\"b-2-of-2.safetensors\"}}\0"
        "\x38\0\0\0\0\0\0\0{\"w\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,2]"
        "}}  "
        "ab";
    static const char array[] =
        "\x93NUMPY\1\0\x3a\0{'descr': '<f2', 'fortran_order': False, 'shape': (2, 3)}\n"
        "0123456789ab";
    static const char header[] =
        "{'shape': (7,), \"fortran_order\": True, 'descr': '<f4', }  \n";
    char directory[512];
    snprintf(directory, sizeof directory, "%s/shards", root);
    seeds_put(directory, "index", index, sizeof index - 1);
    seeds_put(directory, "own", own, sizeof own - 1);
    snprintf(directory, sizeof directory, "%s/npy", root);
    seeds_put(directory, "array", array, sizeof array - 1);
    seeds_put(directory, "header", header, sizeof header - 1);
}

/* ---- all ---- */

static void seeds_recipes(const char *directory) {
    uint8_t room[300];
    uint64_t i;
    for (i = 0; i < 64; i++) {
        char name[24];
        snprintf(name, sizeof name, "recipe%u", (unsigned)i);
        seeds_bytes(i + 1000, room, sizeof room);
        seeds_put(directory, name, room, 40 + i * 4);
    }
}

/* Tensors of up to 1000 values, of each form that the kernels know. */
static void seeds_tensors(const char *directory) {
    uint8_t room[4000];
    uint64_t i;
    for (i = 0; i < 128; i++) {
        char name[24];
        snprintf(name, sizeof name, "tensor%u", (unsigned)i);
        seeds_bytes(i + 2000, room, sizeof room);
        room[0] = (uint8_t)(i * 37);
        room[1] = (uint8_t)((i * 101 >> 4 & 0x7f) | (i % 2 << 7));
        room[3] = (uint8_t)(i * 8); /* columns */
        room[4] = (uint8_t)(i % 4);
        seeds_put(directory, name, room, sizeof room);
    }
}

/* One column of 2040 values of 200 bytes: no small page. */
static void seeds_large_page(const char *directory) {
    static const uint8_t recipe[] = {0, 0, 0, 0, 128, 0, 7, 19, 0,
                                     0, 1, 0, 1, 255, 0, 3, 5,  0};
    seeds_put(directory, "large_page", recipe, sizeof recipe);
}

/* Fills root/TARGET for every target; the directories are made. */
static void seeds_write(const char *root) {
    char path[512], name[600];
    struct dirent *entry;
    fuzz_whole flat;
    DIR *all;
    size_t i;
    mkdir(root, 0777);
    for (i = 0; i < AQI_COUNT(fuzz_targets); i++) {
        snprintf(path, sizeof path, "%s/%s", root, fuzz_targets[i].name);
        FUZZ_CHECK(mkdir(path, 0777) == 0 || errno == EEXIST);
    }
    snprintf(path, sizeof path, "%s/roundtrip", root);
    seeds_recipes(path);
    seeds_large_page(path);
    snprintf(path, sizeof path, "%s/arrow", root);
    seeds_recipes(path);
    snprintf(path, sizeof path, "%s/kernels", root);
    seeds_tensors(path);
    snprintf(path, sizeof path, "%s/file", root);
    seeds_encodings(path, false);
    seeds_encodings(path, true);
    seeds_codecs(path, false);
    seeds_codecs(path, true);
    seeds_flat(path);
    seeds_nested(path);
    seeds_lists(path);
    seeds_zstd(path);
    seeds_others(path);
    snprintf(path, sizeof path, "%s/large", root);
    FUZZ_CHECK(mkdir(path, 0777) == 0 || errno == EEXIST);
    seeds_many_pages(path);
    seeds_models(root);
    seeds_json(root);
    seeds_inputs(root);
    seeds_calibration(root);
    seeds_job_inputs(root, "model");
    seeds_job_inputs(root, "safetensors");
    snprintf(path, sizeof path, "%s/file", root);
    all = opendir(path);
    FUZZ_CHECK(all != NULL);
    while ((entry = readdir(all)) != NULL) {
        if (entry->d_name[0] != '.') seeds_take_apart(root, entry->d_name);
    }
    closedir(all);
    snprintf(name, sizeof name, "%s/flat", path);
    flat = fuzz_file_read(name);
    seeds_row_groups_first(path, &flat);
    free(flat.data);
}
