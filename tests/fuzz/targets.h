/* targets.h - every fuzz target. */
#ifndef FUZZ_TARGETS_H
#define FUZZ_TARGETS_H

#include "arrow.c"
#include "calibration.c"
#include "file.c"
#include "footer.c"
#include "json.c"
#include "kernels.c"
#include "model.c"
#include "npy.c"
#include "page.c"
#include "roundtrip.c"
#include "safetensors.c"
#include "shards.c"
#include "thrift.c"

typedef struct fuzz_target {
    const char *name;
    void (*run)(const uint8_t *data, size_t size);
} fuzz_target;

static const fuzz_target fuzz_targets[] = {
    {"thrift", fuzz_thrift},       {"footer", fuzz_footer},
    {"page", fuzz_page},           {"file", fuzz_file},
    {"roundtrip", fuzz_roundtrip}, {"model", fuzz_model},
    {"json", fuzz_json},           {"safetensors", fuzz_safetensors},
    {"shards", fuzz_shards},       {"npy", fuzz_npy},
    {"arrow", fuzz_arrow},         {"calibration", fuzz_calibration},
    {"kernels", fuzz_kernels},
};

static const fuzz_target *fuzz_find_target(const char *name) {
    size_t i;
    for (i = 0; i < AQI_COUNT(fuzz_targets); i++) {
        if (strcmp(name, fuzz_targets[i].name) == 0) return &fuzz_targets[i];
    }
    return NULL;
}

#endif
