/* run_digits.c - run the network of train_digits.c straight from its file, whatever the
 * weights were made into: float32, or codes of 8, 4 or 2 bits that are never unpacked.
 *
 *   cc -O2 run_digits.c -o run_digits -pthread -lm
 *   ./run_digits digits-int4.parquet */
#define ARROWQUANT_IMPLEMENTATION
#include "../arrowquant.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "digits.h"

enum { PICTURES = 4000, TEST_SEED = 2 /* the training has seen other pictures */ };

typedef struct network {
    aq_tensor weights[DIGITS_LAYERS];
    float biases[DIGITS_LAYERS][DIGITS_WIDEST];
    size_t bytes; /* of the weights, with their scales and zero points */
} network;

static aq_status network_load(network *net, const aq_model *model, aq_error *err) {
    for (size_t i = 0; i < DIGITS_LAYERS; i++) {
        const aq_layout *layout = &net->weights[i].layout;
        aq_tensor bias = {0};
        aq_status status = aq_model_find(model, digits_weights[i], &net->weights[i], err);
        if (status == AQ_OK) status = aq_model_find(model, digits_biases[i], &bias, err);
        if (status == AQ_OK &&
            (layout->cols != digits_units[i] || layout->rows != digits_units[i + 1] ||
             bias.layout.cols != layout->rows || bias.layout.rows != 1)) {
            snprintf(err->message, sizeof err->message, "not a model of train_digits");
            status = AQ_E_TYPE;
        }
        if (status == AQ_OK)
            status = aq_tensor_rows_f32(&bias, 0, 1, net->biases[i], NULL, err);
        aq_tensor_release(&bias);
        if (status != AQ_OK) return status;
        net->bytes += net->weights[i].data_bytes + layout->num_groups * 2 * sizeof(float);
    }
    return AQ_OK;
}

static aq_status network_run(const network *net, const float *pixels, int *out_digit,
                             aq_error *err) {
    float x[DIGITS_WIDEST], y[DIGITS_WIDEST];
    memcpy(x, pixels, DIGITS_PIXELS * sizeof *x);
    for (size_t i = 0; i < DIGITS_LAYERS; i++) {
        aq_status status = aq_tensor_matvec(&net->weights[i], x, y, NULL, err);
        if (status != AQ_OK) return status;
        for (size_t row = 0; row < digits_units[i + 1]; row++) {
            x[row] = y[row] + net->biases[i][row];
            if (x[row] < 0 && i + 1 < DIGITS_LAYERS) x[row] = 0;
        }
    }
    *out_digit = 0;
    for (int digit = 1; digit < DIGITS_CLASSES; digit++)
        *out_digit = x[digit] > x[*out_digit] ? digit : *out_digit;
    return AQ_OK;
}

int main(int argc, char **argv) {
    static float pictures[PICTURES][DIGITS_PIXELS];
    static network net;
    int digits[PICTURES], answer = 0, right = 0;
    aq_model *model = NULL;
    aq_error err = {0};

    if (argc < 2) {
        printf("usage: run_digits MODEL   (from train_digits, or from aq)\n");
        return 0;
    }
    for (uint64_t i = 0; i < PICTURES; i++)
        digits[i] = digits_draw(TEST_SEED, i, pictures[i]);
    aq_status status = aq_model_open(argv[1], NULL, &model, &err);
    if (status == AQ_OK) status = network_load(&net, model, &err);
    clock_t start = clock();
    for (size_t i = 0; i < PICTURES && status == AQ_OK; i++) {
        status = network_run(&net, pictures[i], &answer, &err);
        right += answer == digits[i];
    }
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    if (status != AQ_OK)
        fprintf(stderr, "run_digits: %s: %s\n", argv[1], err.message);
    else
        printf("accuracy %.2f %% (%d of %d), %.2f MiB of weights, %.0f pictures/s\n",
               100.0 * right / PICTURES, right, PICTURES, (double)net.bytes / (1 << 20),
               PICTURES / seconds);
    for (size_t i = 0; i < DIGITS_LAYERS; i++)
        aq_tensor_release(&net.weights[i]);
    aq_model_close(model);
    return status == AQ_OK ? 0 : 1;
}
