/* test_faults.c - every public operation on files with a fault at each of its system calls
 * and at each of its allocations: an error of the right kind or the right result, no
 * memory or descriptor left, under the final name the old file or the new one. */
#define AQ_STATIC
#define ARROWQUANT_IMPLEMENTATION

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

/* ---- the shim ---- */

typedef enum fault_kind {
    FAULT_NONE,
    FAULT_EINTR, /* the call is interrupted, where it may be   */
    FAULT_SHORT, /* one byte, or the end of the file too early */
    FAULT_ERROR, /* EIO                                        */
    FAULT_FULL   /* ENOSPC, after half of the bytes            */
} fault_kind;

/* Call number `at` of the implementation fails; `hit` says whether it came. */
static struct faults {
    fault_kind kind;
    long at, count;
    bool hit;
    const char *call;
} faults;

/* Whether the next call is the one, and can fail so. */
static bool fault_now(const char *call, bool can) {
    const long n = faults.count++;
    if (faults.kind == FAULT_NONE || n != faults.at || !can) return false;
    faults.hit = true;
    faults.call = call;
    errno = faults.kind == FAULT_EINTR ? EINTR : faults.kind == FAULT_FULL ? ENOSPC : EIO;
    return true;
}

static bool hard(void) { return faults.kind == FAULT_ERROR; }
static bool interrupted(void) { return hard() || faults.kind == FAULT_EINTR; }
static bool storing(void) { return hard() || faults.kind == FAULT_FULL; }

static int faulty_open(const char *path, int flags, ...) {
    return fault_now("open", interrupted() || ((flags & O_CREAT) != 0 && storing()))
               ? -1
               : open(path, flags, 0666);
}
static ssize_t faulty_pread(int fd, void *dst, size_t bytes, off_t at) {
    if (!fault_now("pread", interrupted() || faults.kind == FAULT_SHORT))
        return pread(fd, dst, bytes, at);
    return faults.kind == FAULT_SHORT ? pread(fd, dst, bytes > 1 ? 1 : bytes, at) : -1;
}
static ssize_t faulty_pwrite(int fd, const void *src, size_t bytes, off_t at) {
    if (!fault_now("pwrite", true)) return pwrite(fd, src, bytes, at);
    if (faults.kind == FAULT_SHORT) return pwrite(fd, src, bytes > 1 ? 1 : bytes, at);
    if (faults.kind == FAULT_FULL && pwrite(fd, src, bytes / 2, at) < 0) return -1;
    return -1;
}
static int faulty_close(int fd) {
    const bool now = fault_now("close", storing());
    const int code = errno, result = close(fd);
    if (now) errno = code;
    return now ? -1 : result;
}
static int faulty_fstat(int fd, struct stat *st) {
    return fault_now("fstat", hard()) ? -1 : fstat(fd, st);
}
static int faulty_stat(const char *path, struct stat *st) {
    return fault_now("stat", hard()) ? -1 : stat(path, st);
}
static void *faulty_mmap(size_t bytes, int fd) {
    return fault_now("mmap", hard()) ? MAP_FAILED
                                     : mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
}
static int faulty_fsync(int fd) {
    return fault_now("fsync", interrupted() || storing()) ? -1 : fsync(fd);
}
static int faulty_ftruncate(int fd, off_t bytes) {
    return fault_now("ftruncate", interrupted() || storing()) ? -1 : ftruncate(fd, bytes);
}
static int faulty_rename(const char *from, const char *to) {
    return fault_now("rename", storing()) ? -1 : rename(from, to);
}
static int faulty_unlink(const char *path) {
    const bool now = fault_now("unlink", hard());
    const int code = errno, result = unlink(path); /* else it would be left, and seen */
    if (now) errno = code;
    return now ? -1 : result;
}
static int faulty_mkdir(const char *path, mode_t mode) {
    return fault_now("mkdir", storing()) ? -1 : mkdir(path, mode);
}
static DIR *faulty_opendir(const char *path) {
    return fault_now("opendir", hard()) ? NULL : opendir(path);
}
static struct dirent *faulty_readdir(DIR *dir) {
    return fault_now("readdir", hard()) ? NULL : readdir(dir);
}
static int faulty_flock(int fd, int how) {
    return fault_now("flock", hard()) ? -1 : flock(fd, how);
}

/* With brackets: the words are names of fields and structures too. */
#define open(...) faulty_open(__VA_ARGS__)
#define close(fd) faulty_close(fd)
#define fstat(fd, st) faulty_fstat(fd, st)
#define stat(path, st) faulty_stat(path, st)
#define mmap(at, bytes, protection, flags, fd, offset) faulty_mmap(bytes, fd)
#define fsync(fd) faulty_fsync(fd)
#define ftruncate(fd, bytes) faulty_ftruncate(fd, bytes)
#define rename(from, to) faulty_rename(from, to)
#define unlink(path) faulty_unlink(path)
#define mkdir(path, mode) faulty_mkdir(path, mode)
#define opendir(path) faulty_opendir(path)
#define readdir(dir) faulty_readdir(dir)
#define flock(fd, how) faulty_flock(fd, how)
#define pread faulty_pread
#define pwrite faulty_pwrite
#define pread64 faulty_pread
#define pwrite64 faulty_pwrite
#include "../arrowquant.h"
#undef open
#undef close
#undef fstat
#undef stat
#undef mmap
#undef fsync
#undef ftruncate
#undef rename
#undef unlink
#undef mkdir
#undef opendir
#undef readdir
#undef flock
#undef pread
#undef pwrite
#undef pread64
#undef pwrite64

#include "cells.h"
#include "jobs.h"

TestSuite(faults, .init = enter_fast_dir, .fini = leave_temp_dir, .timeout = 300);

/* ---- operations ---- */

/* Files that operations read, made once; and where they write. */
static struct paths {
    char model[512], tensors[512], npy[512], table[512], calibration[512], quantized[512],
        described[512], columns[512], shards[2][512], directory[512], index[512],
        output[512], output_directory[512];
} paths;

static aq_error err2; /* of an operation */

static aq_status read_parquet(const aq_allocator *a, const char *path, aq_io io) {
    const aq_parquet_options o = {.allocator = a, .io = io};
    aq_parquet_info info;
    aq_parquet *file;
    aq_status status = aq_parquet_open(path, &o, &file, &err2);
    if (status != AQ_OK) return status;
    aq_parquet_get_info(file, &info);
    for (int32_t c = 0; c < info.num_columns && status == AQ_OK; c++) {
        aq_column *column;
        aq_span span;
        status = aq_column_open(file, 0, c, &column, &err2);
        if (status == AQ_OK) aq_column_prefetch(column);
        if (status == AQ_OK) status = aq_column_verify(column, &err2);
        if (status == AQ_OK) status = aq_column_view(column, &span, &err2);
        aq_column_close(column);
    }
    aq_parquet_close(file);
    return status;
}

static aq_status op_parquet_map(const aq_allocator *a) {
    return read_parquet(a, paths.model, AQ_IO_AUTO);
}
static aq_status op_parquet_must_map(const aq_allocator *a) {
    return read_parquet(a, paths.model, AQ_IO_MAP);
}
static aq_status op_parquet_read(const aq_allocator *a) {
    return read_parquet(a, paths.model, AQ_IO_READ);
}

static aq_status op_columns_map(const aq_allocator *a) {
    return read_parquet(a, paths.columns, AQ_IO_AUTO);
}
static aq_status op_columns_read(const aq_allocator *a) {
    return read_parquet(a, paths.columns, AQ_IO_READ);
}

/* All columns at once. */
static aq_status op_columns_decode(const aq_allocator *a) {
    const aq_parquet_options o = {.allocator = a};
    aq_column *columns[16] = {NULL};
    aq_parquet_info info;
    aq_parquet *file;
    aq_status status = aq_parquet_open(paths.columns, &o, &file, &err2);
    if (status != AQ_OK) return status;
    aq_parquet_get_info(file, &info);
    cr_assert_leq(info.num_columns, (int)COUNT_OF(columns));
    for (int32_t c = 0; c < info.num_columns && status == AQ_OK; c++)
        status = aq_column_open(file, 0, c, &columns[c], &err2);
    if (status == AQ_OK)
        status = aq_columns_decode(columns, (size_t)info.num_columns, NULL, &err2);
    for (int32_t c = 0; c < info.num_columns; c++)
        aq_column_close(columns[c]);
    aq_parquet_close(file);
    return status;
}

static aq_status read_model(const aq_allocator *a, const char *path, aq_io io) {
    const aq_model_options o = {.allocator = a, .io = io};
    aq_model *m;
    aq_status status = aq_model_open(path, &o, &m, &err2);
    if (status != AQ_OK) return status;
    for (size_t i = 0; i < aq_model_count(m) && status == AQ_OK; i++) {
        float row[64], x[64] = {1}, y[64];
        aq_tensor t;
        status = aq_model_tensor(m, i, &t, &err2);
        if (status != AQ_OK) break;
        if (t.layout.rows > 0 && t.layout.cols <= 64 && t.layout.rows <= 64 &&
            aq_dtype_is_float(t.dtype)) {
            status = aq_tensor_rows_f32(&t, 0, 1, row, NULL, &err2);
            if (status == AQ_OK) status = aq_tensor_matvec(&t, x, y, NULL, &err2);
        }
        aq_tensor_release(&t);
    }
    aq_model_close(m);
    return status;
}

static aq_status op_model(const aq_allocator *a) {
    return read_model(a, paths.quantized, AQ_IO_AUTO);
}
static aq_status op_model_read(const aq_allocator *a) {
    return read_model(a, paths.quantized, AQ_IO_READ);
}
static aq_status op_safetensors(const aq_allocator *a) {
    return read_model(a, paths.tensors, AQ_IO_AUTO);
}
static aq_status op_safetensors_read(const aq_allocator *a) {
    return read_model(a, paths.tensors, AQ_IO_READ);
}
static aq_status op_npy(const aq_allocator *a) {
    return read_model(a, paths.npy, AQ_IO_AUTO);
}
static aq_status op_directory(const aq_allocator *a) {
    return read_model(a, paths.directory, AQ_IO_AUTO);
}
static aq_status op_described(const aq_allocator *a) {
    return read_model(a, paths.described, AQ_IO_AUTO);
}
static aq_status op_index(const aq_allocator *a) {
    return read_model(a, paths.index, AQ_IO_AUTO);
}
static aq_status op_table(const aq_allocator *a) {
    return read_model(a, paths.table, AQ_IO_AUTO);
}

static aq_status op_calibration(const aq_allocator *a) {
    const aq_calibration_options o = {.allocator = a, .bins = 16};
    aq_calibration *c;
    aq_time_group groups[2];
    const aq_time_options two = {.groups = 2};
    aq_status status = aq_calibration_open(paths.calibration, &o, &c, &err2);
    if (status != AQ_OK) return status;
    status = aq_time_groups_make(c, aq_calibration_tensor(c, 0), &two, groups, &err2);
    aq_calibration_close(c);
    return status;
}

static aq_status job_with(const aq_allocator *a, const char *input, const char *output,
                          aq_job_options o) {
    aq_job_report report;
    aq_status status;
    o.allocator = a;
    o.threads = 1;
    status = aq_job_run(input, output, &o, &report, &err2);
    if (status == AQ_OK) aq_job_report_deinit(&report);
    return status;
}

static aq_status op_quantize(const aq_allocator *a) {
    return job_with(a, paths.model, paths.output, (aq_job_options){.min_cosine = 0.9});
}
static aq_status op_quantize_parallel(const aq_allocator *a) {
    return job_with(
        a, paths.tensors, paths.output,
        (aq_job_options){.mode = AQ_JOB_PARALLEL, .quant = {.params = AQ_PARAMS_U8}});
}
static aq_status op_quantize_resumable(const aq_allocator *a) {
    return job_with(a, paths.model, paths.output, (aq_job_options){.resume = true});
}
static aq_status op_quantize_target(const aq_allocator *a) {
    return job_with(a, paths.model, paths.output, (aq_job_options){.target_bpw = 7});
}
static aq_status op_quantize_calibrated(const aq_allocator *a) {
    static const aq_spatial_options equal = {.equalize = true};
    static const aq_time_options coarse = {.bits = 4, .groups = 2};
    return job_with(a, paths.model, paths.output,
                    (aq_job_options){.calibration_path = paths.calibration,
                                     .time = &coarse,
                                     .optimize_groups = true,
                                     .spatial = &equal});
}
static aq_status op_quantize_directory(const aq_allocator *a) {
    return job_with(a, paths.model, paths.output_directory,
                    (aq_job_options){.threads = 0});
}
static aq_status op_dequantize(const aq_allocator *a) {
    return job_with(a, paths.quantized, paths.output,
                    (aq_job_options){.operation = AQ_DEQUANTIZE});
}
static aq_status op_convert(const aq_allocator *a) {
    return job_with(a, paths.directory, paths.output,
                    (aq_job_options){.operation = AQ_CONVERT});
}
static aq_status op_dequantize_described(const aq_allocator *a) {
    return job_with(a, paths.described, paths.output,
                    (aq_job_options){.operation = AQ_DEQUANTIZE, .resume = true});
}
static aq_status op_merge(const aq_allocator *a) {
    const char *shards[2] = {paths.shards[0], paths.shards[1]};
    const aq_job_options o = {.allocator = a, .threads = 1};
    return aq_merge(shards, 2, paths.output, &o, NULL, &err2);
}

static aq_status op_save(const aq_allocator *a) {
    static const float w[4] = {1, 2, 3, 4};
    const uint64_t shape[2] = {2, 2};
    const aq_model_writer_options o = {.allocator = a};
    aq_tensor t;
    aq_status status = aq_tensor_init(&t, "w", AQ_F32, shape, 2, w, &err2);
    return status == AQ_OK ? aq_model_save(paths.output, &t, 1, &o, &err2) : status;
}

/* A quantized matrix and all that a file can say about it. */
static aq_status save_described(const char *path, const aq_allocator *a,
                                aq_model_format format, size_t chunk_bytes) {
    static float w[6 * 40], scales[40], zeros[6],
        steps[6] = {0.5f, 0.25f, 2, 1, 4, 8}; /* a row each */
    static uint8_t codes[6 * 40];
    static aq_time_group groups[2] = {{0, 500, {0.1f, 7, 4}, 64},
                                      {500, 1000, {0.2f, 3, 8}, 64}};
    static const aq_time_aware time = {true, groups, 2};
    static const float mean[2] = {-1, 1}, deviation[2] = {1, 2}, low[2] = {-3, -4},
                       high[2] = {3, 4};
    static const int64_t times[2] = {40, 999};
    static const aq_activation_stats stats = {times, mean, deviation, low, high, 2};
    static const aq_key_value pairs[] = {{"format", "pt", 2}, {"empty", NULL, 0}};
    const aq_quant_options q = {.granularity = AQ_PER_GROUP, .group_size = 40};
    const aq_spatial spatial = {true, true, true, scales, 40};
    const aq_diffusion all = {"image", &time, &spatial, &stats};
    const uint64_t shape[2] = {6, 40};
    const aq_model_writer_options o = {.allocator = a,
                                       .format = format,
                                       .metadata = pairs,
                                       .num_metadata = 2,
                                       .chunk_bytes = chunk_bytes};
    aq_tensor t[2];
    aq_status status = aq_tensor_init(&t[0], "a \"b\"\n", AQ_F32, shape, 2, w, &err2);
    for (int i = 0; i < 40; i++)
        scales[i] = 1 + (float)i / 64;
    if (status == AQ_OK) status = aq_tensor_init(&t[1], "w", AQ_F32, shape, 2, w, &err2);
    t[1].diffusion = &all;
    if (format == AQ_MODEL_SAFETENSORS) return aq_model_save(path, t, 2, &o, &err2);
    if (status == AQ_OK) status = aq_layout_init(6, 40, &q, &t[1].layout, &err2);
    if (status != AQ_OK) return status;
    t[1].data = codes;
    t[1].data_bytes = t[1].layout.code_bytes;
    t[1].scales = steps;
    t[1].zero_points = zeros;
    return aq_model_save(path, t, 2, &o, &err2);
}

static aq_status op_save_described(const aq_allocator *a) {
    return save_described(paths.output, a, AQ_MODEL_PARQUET, 80);
}
static aq_status op_save_safetensors(const aq_allocator *a) {
    return save_described(paths.output, a, AQ_MODEL_SAFETENSORS, 0);
}

/* Where a build has no such codec, none. */
static aq_codec codec_or_none(aq_codec codec) {
    return aqi_codec_available(codec) ? codec : AQ_UNCOMPRESSED;
}

/* Every encoding and codec, lists, nulls, statistics, indexes, key-value pairs. */
static aq_status write_columns(const char *path, const aq_allocator *a) {
    static const aq_key_value pair[] = {{"key", "value", 5}, {"none", NULL, 0}};
    static const aq_sorting_column sorted[] = {{1, true, false}};
    const aq_field_spec fields[] = {
        {.name = "i32",
         .type = AQ_INT32,
         .encoding = AQ_DELTA_BINARY_PACKED,
         .codec = codec_or_none(AQ_ZSTD),
         .write_statistics = true,
         .key_values = pair,
         .num_key_values = 2},
        {.name = "i64",
         .type = AQ_INT64,
         .encoding = AQ_RLE_DICTIONARY,
         .codec = codec_or_none(AQ_SNAPPY),
         .write_statistics = true},
        {.name = "f32",
         .type = AQ_FLOAT,
         .encoding = AQ_BYTE_STREAM_SPLIT,
         .codec = codec_or_none(AQ_GZIP),
         .write_statistics = true},
        {.name = "f64", .type = AQ_DOUBLE, .codec = codec_or_none(AQ_LZ4_RAW)},
        {.name = "bool", .type = AQ_BOOLEAN, .encoding = AQ_RLE},
        {.name = "lengths",
         .type = AQ_BYTE_ARRAY,
         .logical = AQ_LOGICAL_STRING,
         .encoding = AQ_DELTA_LENGTH_BYTE_ARRAY,
         .codec = codec_or_none(AQ_BROTLI),
         .write_statistics = true},
        {.name = "prefixes", .type = AQ_BYTE_ARRAY, .encoding = AQ_DELTA_BYTE_ARRAY},
        {.name = "fixed",
         .type = AQ_FIXED_LEN_BYTE_ARRAY,
         .type_length = 3,
         .encoding = AQ_DELTA_BYTE_ARRAY},
        {.name = "null",
         .type = AQ_INT32,
         .repetition = AQ_OPTIONAL,
         .write_statistics = true,
         .encoding = AQ_RLE_DICTIONARY},
        {.name = "many", .type = AQ_INT32, .repetition = AQ_REPEATED}};
    const aq_writer_options o = {.allocator = a,
                                 .page_bytes = 64,
                                 .data_page_v2 = true,
                                 .page_index = true,
                                 .sorting_columns = sorted,
                                 .num_sorting_columns = 1};
    enum { ROWS = 40 };
    static int32_t numbers[ROWS];
    static int64_t wide[ROWS];
    static double doubles[ROWS];
    static float floats[ROWS];
    static uint8_t flags[ROWS], def[ROWS], fixed[ROWS * 3];
    static int32_t offsets[ROWS + 1];
    static aq_bytes words[ROWS];
    static const char letters[] = "aaabbbcccdddeeefffggghhhiiijjjkkklllmmmnnnooo";
    const void *values[COUNT_OF(fields)] = {numbers, wide,  floats, doubles, flags,
                                            words,   words, fixed,  numbers, numbers};
    aq_writer *w;
    aq_status status = aq_writer_open(path, fields, COUNT_OF(fields), &o, &w, &err2);
    if (status != AQ_OK) return status;
    for (int i = 0; i < ROWS; i++) {
        numbers[i] = i * i;
        wide[i] = i % 3;
        doubles[i] = floats[i] = (float)i;
        flags[i] = i % 7 == 0;
        words[i] = (aq_bytes){(const uint8_t *)letters + i % 9, 20};
        def[i] = i % 4 != 0;
        offsets[i + 1] = (i + 1) / 2;
    }
    for (size_t c = 0; c < COUNT_OF(fields) && status == AQ_OK; c++) {
        aq_column_values v = {.values = values[c], .num_values = ROWS};
        if (c == 8) {
            v.num_values = ROWS - ROWS / 4;
            v.num_levels = ROWS;
            v.def_levels = def;
        }
        if (c == 9) {
            v.num_values = ROWS / 2;
            v.list_offsets = offsets;
            v.num_lists = ROWS;
        }
        status = aq_writer_put_column(w, &v, &err2);
    }
    if (status == AQ_OK) status = aq_writer_add_key_value(w, "k", "v", &err2);
    if (status == AQ_OK) status = aq_writer_end_row_group(w, ROWS, &err2);
    if (status == AQ_OK) return aq_writer_finish(w, &err2);
    aq_writer_abort(w);
    return status;
}

static aq_status op_columns_write(const aq_allocator *a) {
    return write_columns(paths.output, a);
}

static aq_status op_writer(const aq_allocator *a) {
    static const int64_t numbers[1000] = {1, 2, 3};
    static const aq_bytes words[3] = {
        {(const uint8_t *)"a", 1}, {(const uint8_t *)"b", 1}, {(const uint8_t *)"a", 1}};
    const aq_field_spec fields[] = {
        {.name = "n", .type = AQ_INT64, .encoding = AQ_DELTA_BINARY_PACKED},
        {.name = "w", .type = AQ_BYTE_ARRAY, .encoding = AQ_RLE_DICTIONARY}};
    const aq_writer_options o = {.allocator = a};
    aq_writer *w;
    aq_status status = aq_writer_open(paths.output, fields, 2, &o, &w, &err2);
    if (status != AQ_OK) return status;
    for (int group = 0; group < 2 && status == AQ_OK; group++) {
        const aq_column_values n = {.values = numbers, .num_values = 3};
        const aq_column_values s = {.values = words, .num_values = 3};
        status = aq_writer_put_column(w, &n, &err2);
        if (status == AQ_OK) status = aq_writer_put_column(w, &s, &err2);
        if (status == AQ_OK) status = aq_writer_end_row_group(w, 3, &err2);
    }
    if (status == AQ_OK) return aq_writer_finish(w, &err2);
    aq_writer_abort(w);
    return status;
}

static aq_status op_export(const aq_allocator *a) {
    const aq_model_options o = {.allocator = a};
    struct ArrowArrayStream stream;
    struct ArrowSchema schema;
    struct ArrowArray array;
    aq_model *m;
    int code;
    aq_status status = aq_model_open(paths.quantized, &o, &m, &err2);
    if (status != AQ_OK) return status;
    status = aq_model_export_arrow_stream(m, &stream, &err2);
    aq_model_close(m);
    if (status != AQ_OK) return status;
    code = stream.get_schema(&stream, &schema);
    if (code == 0) schema.release(&schema);
    while (code == 0) {
        code = stream.get_next(&stream, &array);
        if (code != 0 || array.release == NULL) break;
        array.release(&array);
    }
    stream.release(&stream);
    return code == 0        ? AQ_OK
           : code == ENOMEM ? AQ_E_NOMEM
                            : AQ_E_IO; /* as aq_model_export_arrow_stream says */
}

typedef struct operation {
    const char *name;
    aq_status (*run)(const aq_allocator *a);
    bool writes; /* paths.output, or the directory */
} operation;

static const operation operations[] = {
    {"read Parquet, mapped", op_parquet_map, false},
    {"read Parquet, mapped or not at all", op_parquet_must_map, false},
    {"read Parquet", op_parquet_read, false},
    {"read a model, mapped", op_model, false},
    {"read a model", op_model_read, false},
    {"read safetensors, mapped", op_safetensors, false},
    {"read safetensors", op_safetensors_read, false},
    {"read .npy", op_npy, false},
    {"read a directory", op_directory, false},
    {"read Parquet of every encoding, mapped", op_columns_map, false},
    {"read Parquet of every encoding", op_columns_read, false},
    {"decode columns", op_columns_decode, false},
    {"read a model of a diffusion model", op_described, false},
    {"read shards with an index", op_index, false},
    {"read a table of weights", op_table, false},
    {"read a calibration", op_calibration, false},
    {"export a stream", op_export, false},
    {"quantize", op_quantize, true},
    {"quantize side by side", op_quantize_parallel, true},
    {"quantize, to resume", op_quantize_resumable, true},
    {"quantize to a size", op_quantize_target, true},
    {"quantize with a calibration", op_quantize_calibrated, true},
    {"quantize to a directory", op_quantize_directory, true},
    {"dequantize", op_dequantize, true},
    {"convert", op_convert, true},
    {"merge", op_merge, true},
    {"dequantize what a diffusion model says", op_dequantize_described, true},
    {"save", op_save, true},
    {"save what a diffusion model says", op_save_described, true},
    {"save safetensors", op_save_safetensors, true},
    {"write Parquet of every encoding", op_columns_write, true},
    {"write Parquet", op_writer, true},
};

/* ---- their files ---- */

static void make_table(const char *path) {
    static const float w[6] = {1, 2, 3, 4, 5, 6};
    const aq_field_spec fields[] = {CELL_LEAF("layer_name", AQ_BYTE_ARRAY),
                                    CELL_LIST("weights", AQ_FLOAT)};
    aq_writer *t;
    ASSERT_OK(aq_writer_open(path, fields, COUNT_OF(fields), NULL, &t, &err));
    put_text(t, "w");
    put_list(t, w, 6);
    ASSERT_OK(aq_writer_end_row_group(t, 1, &err));
    ASSERT_OK(aq_writer_finish(t, &err));
}

static void make_calibration(const char *path) {
    static float x[32];
    rng r = {3};
    aq_writer *t = open_calibration(path);
    for (int32_t step = 0; step < 3; step++) {
        rng_floats(&r, x, 32, (float)(1 + step));
        x[0] *= 8; /* a column that scales help */
        put_activations(t, "a.weight", step, x, 32);
    }
    ASSERT_OK(aq_writer_finish(t, &err));
}

static void make_files(void) {
    static float w[3][24 * 32];
    static const char *const names[3] = {"a.weight", "b.weight", "c.bias"};
    static const char npy[] =
        "\x93NUMPY\1\0\x3a\0{'descr': '<f4', 'fortran_order': False, "
        "'shape': (1, 2)}\n01234567";
    static const char index_json[] =
        "{\"metadata\": {\"total_size\": 6144, \"format\": \"pt\"}, \"weight_map\": {"
        "\"a.weight\": \"x-1.safetensors\", \"b.weight\": \"x-2.safetensors\"}}";
    aq_tensor t[3];
    rng r = {11};
    struct {
        char *path;
        const char *name;
    } all[] = {{paths.model, "m.parquet"},
               {paths.tensors, "m.safetensors"},
               {paths.npy, "a.npy"},
               {paths.table, "t.parquet"},
               {paths.calibration, "c.parquet"},
               {paths.quantized, "q.parquet"},
               {paths.described, "d.parquet"},
               {paths.columns, "columns.parquet"},
               {paths.shards[0], "s0.parquet"},
               {paths.shards[1], "s1.parquet"},
               {paths.directory, "in"},
               {paths.index, "indexed/x.safetensors.index.json"},
               {paths.output, "out.parquet"},
               {paths.output_directory, "out/"}};
    for (size_t i = 0; i < COUNT_OF(all); i++)
        snprintf(all[i].path, sizeof paths.model, "%s", in_dir(all[i].name));
    for (int i = 0; i < 3; i++) {
        rng_floats(&r, w[i], 24 * 32, 1);
        t[i] = i < 2 ? matrix_of(names[i], 24, 32, w[i])
                     : tensor_of(names[i], AQ_F32, (const uint64_t[]){32}, 1, w[i]);
    }
    ASSERT_OK(aq_model_save(paths.model, t, 3, &fast, &err));
    ASSERT_OK(aq_model_save(paths.tensors, t, 3, &fast, &err));
    file_write(paths.npy, npy, sizeof npy - 1);
    make_table(paths.table);
    make_calibration(paths.calibration);
    aq_job_options o = {.no_sync = true, .threads = 1, .quant = {.bits = 8}};
    ASSERT_OK(aq_job_run(paths.model, paths.quantized, &o, NULL, &err));
    for (o.shard = 0, o.num_shards = 2; o.shard < 2; o.shard++)
        ASSERT_OK(aq_job_run(paths.model, paths.shards[o.shard], &o, NULL, &err));
    /* Two shards of safetensors, without an index and with one. */
    const char *const directories[2] = {paths.directory, in_dir("indexed")};
    for (int k = 0; k < 2; k++) {
        char path[600];
        cr_assert_eq(mkdir(directories[k], 0777), 0);
        for (int i = 0; i < 2; i++) {
            snprintf(path, sizeof path, "%s/x-%d.safetensors", directories[k], i + 1);
            ASSERT_OK(aq_model_save(path, t + i, 1, &fast, &err));
        }
    }
    file_write(paths.index, index_json, sizeof index_json - 1);
    ASSERT_OK(save_described(paths.described, NULL, AQ_MODEL_PARQUET, 80));
    ASSERT_OK(write_columns(paths.columns, NULL));
}

/* ---- what must hold after each run ---- */

static size_t open_descriptors(void) {
    size_t n = 0;
    DIR *d = opendir("/proc/self/fd");
    if (d == NULL) return 0;
    while (readdir(d) != NULL)
        n++;
    closedir(d);
    return n;
}

/* Files in the directory, those of a resumable job left out. */
static size_t files_here(bool journals) {
    size_t n = 0;
    DIR *d = opendir(here.path);
    struct dirent *e;
    cr_assert_not_null(d);
    while ((e = readdir(d)) != NULL)
        n += journals || strstr(e->d_name, ".aq-") == NULL;
    closedir(d);
    return n;
}

/* The old state of the output: a file of another content, or no directory. */
static void reset_output(void) {
    char command[700];
    cr_assert_lt(snprintf(command, sizeof command, "rm -rf %s %s/.*.aq-*",
                          paths.output_directory, here.path),
                 (int)sizeof command);
    cr_assert_eq(system(command), 0);
    file_write(paths.output, "old", 3);
}

static bool output_is_old(void) {
    file f = file_read(paths.output);
    const bool old = f.size == 3 && memcmp(f.data, "old", 3) == 0;
    file_free(&f);
    return old && access(paths.output_directory, F_OK) != 0;
}

/* Runs an operation; the caller has set the fault. */
static aq_status run_once(const operation *op, counting_allocator *memory,
                          const file *right, const char *what) {
    const size_t descriptors = open_descriptors(), files = files_here(true);
    const bool resumable =
                   op->run == op_quantize_resumable || op->run == op_dequantize_described,
               directory = op->run == op_quantize_directory;
    aq_status status;
    memset(&err2, 0, sizeof err2);
    status = op->run(&memory->hooks);
    faults.kind = FAULT_NONE;
    cr_assert(counting_is_clean(memory), "%s: %s: %zu blocks left", op->name, what,
              memory->live_blocks);
    cr_assert_eq(open_descriptors(), descriptors, "%s: %s", op->name, what);
    if (!op->writes) return status;
    /* After the rename only the directory is left to be synced. */
    if (status != AQ_OK && strstr(err2.message, "sync the directory") == NULL) {
        cr_assert(output_is_old(), "%s: %s: %s", op->name, what, err2.message);
        if (!resumable) cr_assert_eq(files_here(true), files, "%s: %s", op->name, what);
    } else if (directory) {
        if (status == AQ_OK || access(paths.output_directory, F_OK) == 0)
            ASSERT_OK(model_read_all(paths.output_directory, NULL));
    } else {
        file f = file_read(paths.output);
        cr_assert(file_equal(&f, right), "%s: %s", op->name, what);
        file_free(&f);
        if (status == AQ_OK || !resumable)
            cr_assert_eq(files_here(true), files, "%s: %s", op->name, what);
    }
    return status;
}

/* What it writes when nothing goes wrong. */
static file undisturbed(const operation *op) {
    counting_allocator memory;
    file right = {NULL, 0};
    counting_init(&memory);
    reset_output();
    cr_assert_eq(op->run(&memory.hooks), AQ_OK, "%s: %s", op->name, err2.message);
    cr_assert(counting_is_clean(&memory), "%s", op->name);
    if (op->writes && op->run != op_quantize_directory) right = file_read(paths.output);
    return right;
}

/* Interrupted calls are made again, and few bytes are not the end. An error of the system
 * is one of the operation, or nobody needed the call. */
static void fault_at_every_call(const operation *op, fault_kind kind) {
    static const char *const names[] = {"none", "EINTR", "short", "EIO", "ENOSPC"};
    file right = undisturbed(op);
    size_t hits = 0, failures = 0;
    long at;
    for (at = 0; at < 100000; at++) {
        counting_allocator memory;
        char what[64];
        aq_status status;
        reset_output();
        counting_init(&memory);
        faults.kind = kind;
        faults.at = at;
        faults.count = 0;
        faults.hit = false;
        faults.call = "";
        snprintf(what, sizeof what, "%s at call %ld", names[kind], at);
        status = run_once(op, &memory, &right, what);
        if (faults.count <= at) break; /* it came to its end before */
        if (!faults.hit) continue;
        hits++;
        if (status == AQ_OK) continue;
        failures++;
        cr_assert(kind == FAULT_ERROR || kind == FAULT_FULL, "%s: %s (%s): %s", op->name,
                  what, faults.call, err2.message);
        cr_assert_eq(status, AQ_E_IO, "%s: %s (%s): %s", op->name, what, faults.call,
                     aq_status_name(status));
        cr_assert(op->run == op_export || err2.message[0] != '\0', "%s: %s", op->name,
                  what);
    }
    cr_assert_lt(at, 100000);
    if (kind == FAULT_ERROR) cr_assert_gt(failures, 1, "%s", op->name);
    if (kind == FAULT_FULL && op->writes) cr_assert_gt(failures, 1, "%s", op->name);
    if (kind == FAULT_EINTR) cr_assert_gt(hits, 0, "%s", op->name);
    file_free(&right);
}

static void fault_everywhere(fault_kind kind) {
    make_files();
    for (size_t i = 0; i < COUNT_OF(operations); i++)
        fault_at_every_call(&operations[i], kind);
}

Test(faults, interrupted_calls_are_repeated) { fault_everywhere(FAULT_EINTR); }
Test(faults, few_bytes_are_not_the_end) { fault_everywhere(FAULT_SHORT); }
Test(faults, errors_of_the_system) { fault_everywhere(FAULT_ERROR); }
Test(faults, no_room) { fault_everywhere(FAULT_FULL); }

Test(faults, every_failed_allocation) {
    make_files();
    for (size_t i = 0; i < COUNT_OF(operations); i++) {
        const operation *op = &operations[i];
        file right = undisturbed(op);
        size_t at;
        for (at = 1; at < 100000; at++) {
            counting_allocator memory;
            char what[64];
            aq_status status;
            reset_output();
            counting_init(&memory);
            memory.fail_at = at;
            snprintf(what, sizeof what, "allocation %zu", at);
            status = run_once(op, &memory, &right, what);
            if (memory.calls < at) break; /* there were fewer */
            cr_assert(status == AQ_OK || status == AQ_E_NOMEM, "%s: %s: %s", op->name,
                      what, aq_status_name(status));
        }
        cr_assert(at > 3 && at < 100000, "%s: %zu", op->name, at);
        file_free(&right);
    }
}
