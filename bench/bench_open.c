/* bench_open - open a model of 300 tensors of 4 MiB and touch every pointer, against mapping the
 * file and touching the same bytes: what the metadata costs.
 *   bench_open [DIRECTORY]            where the 1.2 GiB file is made (default: build) */
#include "measure.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { TENSORS = 300, SIDE = 1024 };

static char path[4096];
static int64_t offsets[TENSORS]; /* of each tensor's data in the file */
static volatile uint8_t sink;

static void make_model(void) {
    static float weights[SIDE * SIDE];
    static char names[TENSORS][32];
    static aq_tensor tensors[TENSORS];
    const uint64_t shape[2] = {SIDE, SIDE};
    aq_model_writer_options options = {.no_sync = true};
    aq_error err;
    fill_weights(weights, SIDE * SIDE);
    for (int i = 0; i < TENSORS; i++) {
        snprintf(names[i], sizeof names[i], "layer.%03d.weight", i);
        check(aq_tensor_init(&tensors[i], names[i], AQ_F32, shape, 2, weights, &err), &err);
    }
    check(aq_model_save(path, tensors, TENSORS, &options, &err), &err);
}

static void open_and_touch(void *arg) {
    (void)arg;
    aq_model *m;
    aq_error err;
    check(aq_model_open(path, NULL, &m, &err), &err);
    for (size_t i = 0; i < aq_model_count(m); i++) {
        aq_tensor t;
        check(aq_model_tensor(m, i, &t, &err), &err);
        sink ^= t.data[0];
        aq_tensor_release(&t);
    }
    aq_model_close(m);
}

static void map_and_touch(void *arg) {
    (void)arg;
    int fd = open(path, O_RDONLY);
    off_t size = lseek(fd, 0, SEEK_END);
    const uint8_t *map = mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    for (int i = 0; i < TENSORS; i++) sink ^= map[offsets[i]];
    munmap((void *)(uintptr_t)map, (size_t)size);
}

int main(int argc, char **argv) {
    aq_parquet *f;
    aq_chunk_info chunk;
    aq_error err;
    snprintf(path, sizeof path, "%s/bench_open.parquet", argc > 1 ? argv[1] : "build");
    make_model();
    check(aq_parquet_open(path, NULL, &f, &err), &err);
    for (int32_t i = 0; i < TENSORS; i++) {
        check(aq_parquet_get_chunk(f, i, aq_parquet_find_column(f, "data"), &chunk, &err), &err);
        offsets[i] = chunk.start_offset + chunk.compressed_bytes / 2;
    }
    aq_parquet_close(f);
    double ours = median_seconds(open_and_touch, NULL);
    double floor = median_seconds(map_and_touch, NULL);
    printf("%d tensors of %d MiB: open, find all, touch, close %.0f us; mmap and touch alone "
           "%.0f us\n",
           TENSORS, SIDE * SIDE * 4 >> 20, ours * 1e6, floor * 1e6);
    unlink(path);
    return 0;
}
