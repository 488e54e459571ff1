/* safetensors.c - the input is a safetensors file; or, when it begins with {, its JSON
 * header alone: length and data are then made to fit. */
#include "model.h"

/* The largest number of the header up to 64 KiB: where its data probably ends. */
static size_t fuzz_data_bytes(const uint8_t *p, size_t size) {
    size_t i, number = 0, largest = 0;
    for (i = 0; i < size; i++) {
        number = p[i] >= '0' && p[i] <= '9' && number <= 65536
                     ? number * 10 + (size_t)(p[i] - '0')
                     : 0;
        if (number <= 65536) largest = AQI_MAX(largest, number);
    }
    return largest;
}

static void fuzz_safetensors(const uint8_t *data, size_t size) {
    size_t bytes, i;
    uint8_t *file;
    if (size == 0 || data[0] != '{') {
        fuzz_model_bytes(data, size);
        return;
    }
    bytes = fuzz_data_bytes(data, size);
    file = (uint8_t *)malloc(8 + size + bytes);
    FUZZ_CHECK(file != NULL);
    aqi_store_le64(file, size);
    memcpy(file + 8, data, size);
    for (i = 0; i < bytes; i++)
        file[8 + size + i] = (uint8_t)(i * 37);
    fuzz_model_bytes(file, 8 + size + bytes);
    free(file);
}
