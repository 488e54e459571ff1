/* calibration.c - the input is a calibration file, from which groups of timesteps are
 * made; or, when it begins with {, what a model's JSON column says about time groups,
 * columns or statistics. */
#include "fuzz.h"

#define FUZZ_CALIBRATION_BYTES ((size_t)1 << 20)

/* Groups that were made cover all timesteps, and can be used. */
static void fuzz_groups(const aq_calibration *c, const aq_calibrated *t) {
    aq_time_options o;
    aq_time_group groups[4];
    aq_tuning tuning;
    aq_smoothness smoothness;
    aq_error err;
    double mse;
    uint32_t i;
    memset(&o, 0, sizeof o);
    o.groups = (uint32_t)AQI_MIN(t->num_steps, (size_t)4);
    o.split = t->num_steps > 20 ? AQ_SPLIT_EQUAL : AQ_SPLIT_SIMILAR;
    o.bits = 4 + (uint32_t)(t->count % 5);
    FUZZ_CHECK_ERR(aq_time_groups_make(c, t, &o, groups, &err) == AQ_OK, &err);
    FUZZ_CHECK(groups[0].start == 0);
    FUZZ_CHECK(groups[o.groups - 1].end == t->steps[t->num_steps - 1].timestep + 1);
    for (i = 1; i < o.groups; i++)
        FUZZ_CHECK(groups[i].start == groups[i - 1].end);
    FUZZ_CHECK_ERR(aq_time_groups_error(t, groups, o.groups, NULL, &mse, &err) == AQ_OK,
                   &err);
    FUZZ_CHECK(mse >= 0.0);
    FUZZ_CHECK_ERR(aq_time_groups_check(groups, o.groups, 0, NULL, &smoothness, &err) ==
                       AQ_OK,
                   &err);
    FUZZ_CHECK(smoothness.smoothness >= 0.0 && smoothness.smoothness <= 1.0);
    if (t->num_steps > 8) return; /* enough work for one input */
    FUZZ_CHECK_ERR(aq_time_groups_optimize(t, groups, o.groups, &tuning, &err) == AQ_OK,
                   &err);
    FUZZ_CHECK(tuning.mse_after <= tuning.mse_before);
}

static void fuzz_calibration_file(const uint8_t *data, size_t size, aq_io io) {
    const char *path = fuzz_file_write(data, size);
    fuzz_memory memory;
    aq_calibration_options o;
    aq_calibration *c;
    aq_error err;
    size_t i, k;
    aq_status status;
    /* Beside the statistics: what a footer and two pages may take. */
    fuzz_memory_init(&memory, (size_t)320 << 20, ((size_t)576 << 20) + (size << 22));
    memset(&o, 0, sizeof o);
    o.allocator = &memory.hooks;
    o.io = io;
    o.bins = 16;
    o.max_bytes = FUZZ_CALIBRATION_BYTES;
    status = fuzz_status(aq_calibration_open(path, &o, &c, &err), &err);
    FUZZ_CHECK((status == AQ_OK) == (c != NULL));
    for (i = 0; status == AQ_OK && i < aq_calibration_count(c); i++) {
        const aq_calibrated *t = aq_calibration_tensor(c, i);
        FUZZ_CHECK(aq_calibration_find(c, t->name) == t);
        FUZZ_CHECK(t->num_steps > 0 && t->cols > 0 && t->count % t->cols == 0);
        for (k = 1; k < t->num_steps; k++)
            FUZZ_CHECK(t->steps[k].timestep > t->steps[k - 1].timestep);
        if (i < 4) fuzz_groups(c, t);
    }
    aq_calibration_close(c);
    fuzz_memory_check(&memory);
}

/* The three forms of JSON; memory is a small multiple of the text. */
static void fuzz_calibration_json(const uint8_t *data, size_t size) {
    fuzz_memory memory;
    aqi_arena arena;
    aq_error err;
    int which;
    fuzz_memory_init(&memory, SIZE_MAX, 65536 + size * 128);
    for (which = 0; which < 3; which++) {
        aq_bytes text;
        aq_span span;
        aqi_cells cells;
        void *out;
        memset(&span, 0, sizeof span);
        memset(&cells, 0, sizeof cells);
        text.data = data;
        text.size = size;
        span.values = &text;
        span.num_values = span.num_rows = span.num_levels = 1;
        cells.span = span;
        cells.width = sizeof text;
        cells.column = (aq_column *)(void *)&text; /* present; it is not looked at */
        aqi_arena_init(&arena, &memory.hooks);
        aqi_error_clear(&err);
        fuzz_status(aqi_diffusion_json(&arena, &cells, 0, which, 3, &out, &err), &err);
        aqi_arena_deinit(&arena);
    }
    fuzz_memory_check(&memory);
}

static void fuzz_calibration(const uint8_t *data, size_t size) {
    fuzz_result = AQ_OK;
    if (size > 0 && data[0] == '{') {
        fuzz_calibration_json(data, size);
        return;
    }
    fuzz_calibration_file(data, size, AQ_IO_MAP);
    if (size > 0) fuzz_calibration_file(data, size, AQ_IO_READ);
}
