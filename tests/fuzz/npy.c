/* npy.c - the input is a .npy file; or, when it begins with {, its header alone: version,
 * length and data are then made to fit. */
#include "model.h"

/* What the header asks for, up to 64 KiB. */
static size_t fuzz_npy_data_bytes(const uint8_t *data, size_t size) {
    aqi_cursor c = aqi_cursor_make(data, size, 0);
    aq_tensor t;
    aq_error err;
    aqi_tensor_reset(&t);
    if (aqi_npy_header(&c, &t, &err) != AQ_OK || aqi_tensor_geometry(&t, &err) != AQ_OK)
        return 0;
    return AQI_MIN((size_t)t.num_params * aq_dtype_bytes(t.dtype), (size_t)65536);
}

static void fuzz_npy(const uint8_t *data, size_t size) {
    static const uint8_t head[8] = {0x93, 'N', 'U', 'M', 'P', 'Y', 2, 0};
    size_t bytes, i;
    uint8_t *file;
    if (size == 0 || data[0] != '{') {
        fuzz_model_bytes(data, size);
        return;
    }
    bytes = fuzz_npy_data_bytes(data, size);
    file = (uint8_t *)malloc(12 + size + bytes);
    FUZZ_CHECK(file != NULL);
    memcpy(file, head, sizeof head);
    aqi_store_le32(file + 8, (uint32_t)size);
    memcpy(file + 12, data, size);
    for (i = 0; i < bytes; i++)
        file[12 + size + i] = (uint8_t)(i * 37);
    fuzz_model_bytes(file, 12 + size + bytes);
    free(file);
}
