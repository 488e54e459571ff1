/* targets.h - every fuzz target. */
#ifndef FUZZ_TARGETS_H
#define FUZZ_TARGETS_H

#include "arrow.c"
#include "calibration.c"
#include "file.c"
#include "footer.c"
#include "job.c"
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
    size_t options; /* bytes at the end of an input that are no part of its file */
} fuzz_target;

static const fuzz_target fuzz_targets[] = {
    {"thrift", fuzz_thrift, 0},
    {"footer", fuzz_footer, 0},
    {"page", fuzz_page, 0},
    {"file", fuzz_file, 0},
    {"roundtrip", fuzz_roundtrip, 0},
    {"model", fuzz_model, 0},
    {"json", fuzz_json, 0},
    {"safetensors", fuzz_safetensors, 0},
    {"shards", fuzz_shards, 0},
    {"npy", fuzz_npy, 0},
    {"arrow", fuzz_arrow, 0},
    {"calibration", fuzz_calibration, 0},
    {"kernels", fuzz_kernels, 0},
    {"job", fuzz_job, FUZZ_JOB_OPTIONS},
};

static const fuzz_target *fuzz_find_target(const char *name) {
    size_t i;
    for (i = 0; i < AQI_COUNT(fuzz_targets); i++) {
        if (strcmp(name, fuzz_targets[i].name) == 0) return &fuzz_targets[i];
    }
    return NULL;
}

#endif
