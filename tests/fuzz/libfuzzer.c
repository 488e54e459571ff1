/* libfuzzer.c - the fuzz targets under clang's libFuzzer, or under AFL++, which knows its
 * functions. The environment names the target: FUZZ_TARGET=page. */
#include "targets.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size,
                               unsigned int seed);

static const fuzz_target *libfuzzer_target;

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    const char *name = getenv("FUZZ_TARGET");
    (void)argc;
    (void)argv;
    libfuzzer_target = fuzz_find_target(name != NULL ? name : "");
    if (libfuzzer_target != NULL) return 0;
    fprintf(stderr, "FUZZ_TARGET=%s: not a target of tests/fuzz/targets.h\n",
            name != NULL ? name : "");
    exit(2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    libfuzzer_target->run(data, size);
    return 0;
}

/* ---- changes that know Parquet ---- */

/* libFuzzer's own change to the footer alone, whose length is then right. */
FUZZ void mutate_footer_by_fuzzer(fuzz_mutation *m) {
    size_t footer = mutate_footer(m), size = m->size - 8 - footer;
    uint8_t tail[8];
    memcpy(tail, m->data + m->size - 8, sizeof tail);
    if (size == 0 || m->room < footer + 9) return;
    size = LLVMFuzzerMutate(m->data + footer, size, m->room - footer - 8);
    aqi_store_le32(tail, (uint32_t)size);
    memcpy(m->data + footer + size, tail, sizeof tail);
    m->size = footer + size + 8;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size,
                               unsigned int seed) {
    fuzz_mutation m;
    m.data = data;
    m.size = size;
    m.room = max_size;
    m.random = (uint64_t)seed << 1 | 1;
    mutate_begin(&m, libfuzzer_target->options);
    if (!mutate_is_parquet(&m) || mutate_below(&m, 3) == 0) {
        m.size = LLVMFuzzerMutate(data, m.size, m.room);
    } else if (mutate_below(&m, 2) == 0) {
        mutate_footer_by_fuzzer(&m);
    } else {
        mutate_file(&m);
    }
    if (mutate_is_parquet(&m) && mutate_below(&m, 2) == 0) mutate_repair(&m);
    mutate_end(&m);
    return m.size;
}
