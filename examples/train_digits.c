/* train_digits.c - draw pictures of digits, train a small network on them, and save it as
 * digits.safetensors and digits.parquet: a real model for the other programs to work on.
 *
 *   cc -O2 train_digits.c -o train_digits -pthread -lm
 *   ./train_digits [DIRECTORY [STEPS]]
 *
 * The files are the same bytes in every run, for any number of threads: a picture depends
 * on its number alone, and each sum is made by one thread in one order. */
#define ARROWQUANT_IMPLEMENTATION
#include "../arrowquant.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "digits.h"

enum {
    BATCH = 64,
    TILE = 64, /* columns of a product made at a time: all row lengths are multiples */
    STEPS = 800,
    TRAINING_SEED = 1
};

#define LEARNING_RATE 0.15f
#define MOMENTUM 0.9f

/* One layer, and what it computes for one batch. */
typedef struct layer {
    size_t in, out;
    float *weights, *velocity;   /* [out][in]                                          */
    float *bias, *bias_velocity; /* [out]                                              */
    float *input;                /* [in][BATCH]                                        */
    float *input_rows;           /* [BATCH][in]: the same, turned                      */
    float *delta;                /* [out][BATCH]: of the loss, by what the layer gives */
    float *output;               /* [out][BATCH]: the next layer's input, the answers  */
    float *input_delta;          /* delta of the layer before; NULL in the first       */
    float rate;
    bool is_last;
} layer;

typedef struct trainer {
    layer layers[DIGITS_LAYERS];
    float answers[DIGITS_CLASSES * BATCH];
    int labels[BATCH];
    uint64_t pictures; /* drawn so far */
    const aq_tasks *tasks;
} trainer;

/* c[n] = sum over k of a[k * a_step] * b[k][n]: one row of a matrix product. The inner
 * loop adds to TILE sums side by side, which compilers vectorize without changing a sum.
 * columns % TILE and depth % 2 are 0 for every layer. */
static void multiply_row(const float *a, size_t a_step, const float *b, size_t columns,
                         size_t depth, float *c) {
    for (size_t first = 0; first < columns; first += TILE) {
        float sum[TILE] = {0};
        for (size_t k = 0; k < depth; k += 2) {
            const float a0 = a[k * a_step], a1 = a[(k + 1) * a_step];
            const float *b0 = b + k * columns + first, *b1 = b0 + columns;
            for (size_t n = 0; n < TILE; n++)
                sum[n] += a0 * b0[n] + a1 * b1[n];
        }
        memcpy(c + first, sum, sizeof sum);
    }
}

/* The four functions below are tasks: one call a row, any thread, any order. */

static void draw_picture(void *arg, size_t i) {
    trainer *t = (trainer *)arg;
    float *pixels = t->layers[0].input_rows + i * DIGITS_PIXELS;
    t->labels[i] = digits_draw(TRAINING_SEED, t->pictures + i, pixels);
    for (size_t p = 0; p < DIGITS_PIXELS; p++)
        t->layers[0].input[p * BATCH + i] = pixels[p];
}

static void forward_row(void *arg, size_t row) {
    layer *l = (layer *)arg;
    float *out = l->output + row * BATCH;
    multiply_row(l->weights + row * l->in, 1, l->input, BATCH, l->in, out);
    for (size_t i = 0; i < BATCH; i++) {
        out[i] += l->bias[row];
        if (out[i] < 0 && !l->is_last) out[i] = 0;
    }
}

/* Before update_row: it needs the weights that made the answers. */
static void backward_row(void *arg, size_t column) {
    layer *l = (layer *)arg;
    float *delta = l->input_delta + column * BATCH;
    multiply_row(l->weights + column, l->in, l->delta, BATCH, l->out, delta);
    for (size_t i = 0; i < BATCH; i++)
        if (!(l->input[column * BATCH + i] > 0)) delta[i] = 0;
}

static void update_row(void *arg, size_t row) {
    layer *l = (layer *)arg;
    float gradient[DIGITS_WIDEST], sum = 0;
    const float *delta = l->delta + row * BATCH;
    multiply_row(delta, 1, l->input_rows, l->in, BATCH, gradient);
    float *weights = l->weights + row * l->in, *velocity = l->velocity + row * l->in;
    for (size_t i = 0; i < l->in; i++) {
        velocity[i] = MOMENTUM * velocity[i] + gradient[i];
        weights[i] -= l->rate * velocity[i];
    }
    for (size_t i = 0; i < BATCH; i++)
        sum += delta[i];
    l->bias_velocity[row] = MOMENTUM * l->bias_velocity[row] + sum;
    l->bias[row] -= l->rate * l->bias_velocity[row];
}

/* e^x for x <= 0 as (1 + x / 1024)^1024: off by less than 0.0003, and the same with every
 * C library, which expf is not. */
static float exp_negative(float x) {
    float y = x > -32 ? 1 + x / 1024 : 0;
    for (int i = 0; i < 10; i++)
        y *= y;
    return y;
}

/* Softmax and cross-entropy: the gradient is probability - truth. Returns how many of the
 * answers are right. */
static int judge_answers(trainer *t) {
    float *delta = t->layers[DIGITS_LAYERS - 1].delta;
    int right = 0;
    for (size_t i = 0; i < BATCH; i++) {
        size_t best = 0, label = (size_t)t->labels[i];
        float total = 0;
        for (size_t c = 1; c < DIGITS_CLASSES; c++)
            best = t->answers[c * BATCH + i] > t->answers[best * BATCH + i] ? c : best;
        for (size_t c = 0; c < DIGITS_CLASSES; c++) {
            float below = t->answers[c * BATCH + i] - t->answers[best * BATCH + i];
            delta[c * BATCH + i] = exp_negative(below);
            total += delta[c * BATCH + i];
        }
        for (size_t c = 0; c < DIGITS_CLASSES; c++)
            delta[c * BATCH + i] = (delta[c * BATCH + i] / total - (c == label)) / BATCH;
        right += best == label;
    }
    return right;
}

static void run(const trainer *t, size_t n, void (*fn)(void *, size_t), void *arg) {
    t->tasks->run(t->tasks->user, n, fn, arg);
}

/* One step on BATCH new pictures. Returns how many of them the network got right, before
 * it learnt from them. */
static int train_step(trainer *t, float rate) {
    run(t, BATCH, draw_picture, t);
    t->pictures += BATCH;
    for (size_t i = 0; i < DIGITS_LAYERS; i++) {
        layer *l = &t->layers[i];
        l->rate = rate;
        run(t, l->out, forward_row, l);
        for (size_t row = 0; row < l->out && !l->is_last; row++)
            for (size_t b = 0; b < BATCH; b++)
                l[1].input_rows[b * l->out + row] = l->output[row * BATCH + b];
    }
    int right = judge_answers(t);
    for (size_t i = DIGITS_LAYERS; i-- > 0;) {
        layer *l = &t->layers[i];
        if (l->input_delta != NULL) run(t, l->in, backward_row, l);
        run(t, l->out, update_row, l);
    }
    return right;
}

/* The first pictures that it will learn from, side by side. */
static void print_pictures(void) {
    enum { SHOWN = 5 };
    float pictures[SHOWN][DIGITS_PIXELS];
    for (size_t i = 0; i < SHOWN; i++)
        digits_draw(TRAINING_SEED, i, pictures[i]);
    for (size_t pixel = 0; pixel < DIGITS_PIXELS; pixel += DIGITS_WIDTH) {
        for (size_t x = 0; x < SHOWN * DIGITS_WIDTH; x++) {
            float shade = pictures[x / DIGITS_WIDTH][pixel + x % DIGITS_WIDTH];
            putchar(" .:+*#@@"[shade <= 0 ? 0 : shade < 1 ? (int)(shade * 7) : 7]);
        }
        putchar('\n');
    }
}

static float *new_floats(size_t count) {
    float *p = (float *)calloc(count, sizeof *p);
    if (p == NULL) {
        fprintf(stderr, "train_digits: out of memory\n");
        exit(1);
    }
    return p;
}

static void init_trainer(trainer *t, const aq_tasks *tasks) {
    digits_random random = {TRAINING_SEED};
    t->tasks = tasks;
    for (size_t i = 0; i < DIGITS_LAYERS; i++) {
        layer *l = &t->layers[i];
        l->in = digits_units[i];
        l->out = digits_units[i + 1];
        l->weights = new_floats(l->out * l->in);
        l->velocity = new_floats(l->out * l->in);
        l->bias = new_floats(l->out);
        l->bias_velocity = new_floats(l->out);
        l->input = new_floats(l->in * BATCH);
        l->input_rows = new_floats(l->in * BATCH);
        l->delta = new_floats(l->out * BATCH);
        l->is_last = i + 1 == DIGITS_LAYERS;
        if (l->is_last) l->output = t->answers;
        if (i > 0) {
            l[-1].output = l->input;
            l->input_delta = l[-1].delta;
        }
        /* Keeps the size of the values from layer to layer where half the units are 0. */
        float limit = sqrtf(6.0f / (float)l->in);
        for (size_t w = 0; w < l->out * l->in; w++)
            l->weights[w] = digits_uniform(&random, -limit, limit);
    }
}

static void free_trainer(trainer *t) {
    for (size_t i = 0; i < DIGITS_LAYERS; i++) {
        layer *l = &t->layers[i];
        free(l->weights);
        free(l->velocity);
        free(l->bias);
        free(l->bias_velocity);
        free(l->input);
        free(l->input_rows);
        free(l->delta);
    }
}

/* Describe the weights as tensors, where they lie, and write both kinds of file. */
static aq_status save(const trainer *t, const char *directory, aq_error *err) {
    static const char *const files[2] = {"digits.safetensors", "digits.parquet"};
    static const aq_key_value note = {"source", "examples/train_digits.c", 23};
    aq_model_writer_options options = {0};
    aq_tensor tensors[2 * DIGITS_LAYERS];
    size_t count = 0;
    aq_status status = AQ_OK;

    for (size_t i = 0; i < DIGITS_LAYERS && status == AQ_OK; i++) {
        const layer *l = &t->layers[i];
        uint64_t shape[2] = {l->out, l->in};
        status = aq_tensor_init(&tensors[count++], digits_weights[i], AQ_F32, shape, 2,
                                l->weights, err);
        if (status == AQ_OK)
            status = aq_tensor_init(&tensors[count++], digits_biases[i], AQ_F32, shape, 1,
                                    l->bias, err);
    }
    options.metadata = &note;
    options.num_metadata = 1;
    for (size_t i = 0; i < 2 && status == AQ_OK; i++) {
        char path[4096];
        int length = snprintf(path, sizeof path, "%s/%s", directory, files[i]);
        if (length < 0 || (size_t)length >= sizeof path) {
            fprintf(stderr, "train_digits: the name of the directory is too long\n");
            return AQ_E_ARG;
        }
        status = aq_model_save(path, tensors, count, &options, err);
        if (status == AQ_OK) printf("wrote %s\n", path);
    }
    return status;
}

int main(int argc, char **argv) {
    static trainer t;
    const char *directory = argc > 1 ? argv[1] : ".";
    int steps = argc > 2 ? atoi(argv[2]) : STEPS, right = 0, seen = 0;
    aq_threads *threads;
    aq_error err = {0};

    aq_status status = aq_threads_create(0, NULL, &threads, &err);
    if (status == AQ_OK) {
        print_pictures();
        init_trainer(&t, aq_threads_tasks(threads));
        for (int step = 1; step <= steps; step++) {
            /* The rate falls to 0 in a straight line. */
            float left = (float)(steps - step + 1) / (float)steps;
            right += train_step(&t, LEARNING_RATE * left);
            seen += BATCH;
            if (step % 100 == 0 || step == steps) {
                printf("step %3d of %d: %.2f %% of the new pictures right\n", step, steps,
                       100.0 * right / seen);
                fflush(stdout);
                right = seen = 0;
            }
        }
        status = save(&t, directory, &err);
        free_trainer(&t);
        aq_threads_destroy(threads);
    }
    if (status != AQ_OK) fprintf(stderr, "train_digits: %s\n", err.message);
    return status == AQ_OK ? 0 : 1;
}
