/* A user's program: quantizes, and has the values back. Also the half without implementation
 * of a program in two files (-DTWO_FILES), and valid C++. */
#ifndef TWO_FILES
#define ARROWQUANT_IMPLEMENTATION
#endif
#include "../../arrowquant.h"

int main(void) {
    float values[64], back[64], scales[2], zero_points[2];
    uint8_t codes[64];
    aq_quant_options options = {8,         32,            AQ_PER_GROUP, false,
                                AQ_MINMAX, AQ_PARAMS_F32, false,        0, NULL, NULL};
    aq_quantized into = {codes, scales, zero_points, NULL};
    aq_quantized_view from = {codes, scales, zero_points, NULL};
    aq_layout layout;
    aq_error error;
    int i;
    for (i = 0; i < 64; i++) values[i] = (float)i;
    if (aq_layout_init(1, 64, &options, &layout, &error) != AQ_OK) return 1;
    if (aq_quantize_into(&layout, values, AQ_F32, &into, NULL, NULL, &error) != AQ_OK) return 2;
    if (aq_dequantize_rows(&layout, &from, 0, 1, back, NULL, &error) != AQ_OK) return 3;
    for (i = 0; i < 64; i++) {
        float d = back[i] - values[i];
        if (d > 0.1f || d < -0.1f) return 4;
    }
    return 0;
}
