/* train_diffusion.c - train a small diffusion model on points of a spiral; save it as
 * diffusion.parquet, and what its layers are given while it samples as
 * diffusion-calibration.parquet.
 *
 *   cc -O2 train_diffusion.c -o train_diffusion -pthread -lm
 *   ./train_diffusion [DIRECTORY [STEPS]]
 *
 * The files are the same bytes in every run, for any number of threads: a batch is always
 * cut into the same slices, and their gradients are added in one order. */
#define ARROWQUANT_IMPLEMENTATION
#include "../arrowquant.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "diffusion.h"
#include "diffusion_multiply.h"

enum {
    STEPS = 3000,
    SLICES = 4,   /* of a batch */
    POINTS = 64,  /* of a slice */
    CHAINS = 128, /* points sampled for the calibration file; POINTS divides it */
    PARTS = 2 * (2 + 3 * DIFFUSION_BLOCKS), /* weights and biases of all layers */
    WIDTH = DIFFUSION_WIDTH,
    HIDDEN = DIFFUSION_HIDDEN,
    BLOCKS = DIFFUSION_BLOCKS,
    EMBED = DIFFUSION_EMBED,
    DIMS = DIFFUSION_DIMS
};

/* A tensor of the model, with what training keeps beside it. */
typedef struct part {
    char name[32];
    uint32_t rows, cols; /* a bias is one column */
    float *weights, *mean, *square, *average, *gradients[SLICES];
} part;

/* Values of all points of a slice, [units][POINTS]. */
typedef struct block_values {
    float film[2 * WIDTH * POINTS], u[WIDTH * POINTS];
    float z[HIDDEN * POINTS], a[HIDDEN * POINTS];
} block_values;

typedef struct slice {
    int index;
    float x[DIMS * POINTS], target[DIMS * POINTS], out[DIMS * POINTS];
    float embedding[EMBED * POINTS], h[BLOCKS + 1][WIDTH * POINTS];
    block_values blocks[BLOCKS];
    float dh[WIDTH * POINTS], du[WIDTH * POINTS], da[HIDDEN * POINTS];
    float dfilm[2 * WIDTH * POINTS], turned[POINTS * HIDDEN];
    double loss;
} slice;

typedef struct trainer {
    part parts[PARTS];
    slice *slices;
    int step, steps;
    const aq_tasks *tasks;
} trainer;

/* Weights of a layer in trainer.parts; its bias is the next one. */
static int part_of(int kind, int block) {
    if (kind == DIFFUSION_IN) return 0;
    return kind == DIFFUSION_OUT ? PARTS - 2 : 2 * (kind + 3 * block);
}

/* --- Products -------------------------------------------------------------------- */

/* y = weights * x + bias */
static void forward(const part *p, const float *x, float *y) {
    multiply(p->weights, p->cols, 1, x, POINTS, p->cols, y, p->rows);
    for (size_t row = 0; row < p->rows; row++)
        for (size_t i = 0; i < POINTS; i++)
            y[row * POINTS + i] += p[1].weights[row];
}

/* dx = the weights, turned, * dy */
static void backward(const part *p, const float *dy, float *dx) {
    multiply(p->weights, 1, p->cols, dy, POINTS, p->rows, dx, p->cols);
}

/* Gradients of weights and bias: sums of dy * x over the points of the slice. */
static void gradient(slice *s, part *p, const float *dy, const float *x) {
    const size_t columns = (p->cols + 15) / 16 * 16;
    for (size_t i = 0; i < POINTS; i++)
        for (size_t c = 0; c < columns; c++)
            s->turned[i * columns + c] = c < p->cols ? x[c * POINTS + i] : 0;
    multiply(dy, POINTS, 1, s->turned, columns, POINTS, p->gradients[s->index], p->rows);
    for (size_t row = 0; row < p->rows; row++) {
        float sum = 0;
        for (size_t i = 0; i < POINTS; i++)
            sum += dy[row * POINTS + i];
        p[1].gradients[s->index][row] = sum;
    }
}

/* --- Network --------------------------------------------------------------------- */

static void set_time(slice *s, size_t point, int time) {
    float embedding[EMBED];
    diffusion_embed(time, embedding);
    for (size_t i = 0; i < EMBED; i++)
        s->embedding[i * POINTS + point] = embedding[i];
}

static void network_forward(const trainer *t, slice *s) {
    forward(&t->parts[part_of(DIFFUSION_IN, 0)], s->x, s->h[0]);
    for (int block = 0; block < BLOCKS; block++) {
        block_values *v = &s->blocks[block];
        const part *film = &t->parts[part_of(DIFFUSION_FILM, block)];
        const float *h = s->h[block];
        float *next = s->h[block + 1];
        forward(film, s->embedding, v->film);
        for (size_t i = 0; i < WIDTH * POINTS; i++)
            v->u[i] = h[i] * (1 + v->film[i]) + v->film[WIDTH * POINTS + i];
        forward(film + 2, v->u, v->z);
        for (size_t i = 0; i < HIDDEN * POINTS; i++)
            v->a[i] = diffusion_gate(v->z[i]);
        forward(film + 4, v->a, next);
        for (size_t i = 0; i < WIDTH * POINTS; i++)
            next[i] += h[i];
    }
    forward(&t->parts[part_of(DIFFUSION_OUT, 0)], s->h[BLOCKS], s->out);
}

static void network_backward(trainer *t, slice *s, const float *dout) {
    part *out = &t->parts[part_of(DIFFUSION_OUT, 0)];
    gradient(s, out, dout, s->h[BLOCKS]);
    backward(out, dout, s->dh);
    for (int block = BLOCKS; block-- > 0;) {
        block_values *v = &s->blocks[block];
        part *film = &t->parts[part_of(DIFFUSION_FILM, block)];
        const float *h = s->h[block];
        gradient(s, film + 4, s->dh, v->a);
        backward(film + 4, s->dh, s->da);
        for (size_t i = 0; i < HIDDEN * POINTS; i++)
            s->da[i] *= diffusion_gate_slope(v->z[i]);
        gradient(s, film + 2, s->da, v->u);
        backward(film + 2, s->da, s->du);
        for (size_t i = 0; i < WIDTH * POINTS; i++) {
            s->dfilm[i] = s->du[i] * h[i];
            s->dfilm[WIDTH * POINTS + i] = s->du[i];
            s->dh[i] += s->du[i] * (1 + v->film[i]);
        }
        gradient(s, film, s->dfilm, s->embedding);
    }
    gradient(s, &t->parts[part_of(DIFFUSION_IN, 0)], s->dh, s->x);
}

/* --- Training -------------------------------------------------------------------- */

/* A task: the gradients of one slice of the batch. */
static void train_slice(void *arg, size_t index) {
    trainer *t = (trainer *)arg;
    slice *s = &t->slices[index];
    diffusion_random random = {((uint64_t)t->step << 32) + (index << 24)};
    float dout[DIMS * POINTS];

    for (size_t i = 0; i < POINTS; i++) {
        /* A time of each of so many equal spans: steadier than times drawn at will. */
        const size_t span = i * SLICES + index;
        const float at = ((float)span + diffusion_uniform(&random)) / (SLICES * POINTS);
        const int time = (int)(at * DIFFUSION_TIMES);
        float point[DIMS], signal, noise;
        diffusion_data(&random, point);
        diffusion_schedule(time, &signal, &noise);
        set_time(s, i, time);
        for (size_t d = 0; d < DIMS; d++) {
            s->target[d * POINTS + i] = diffusion_normal(&random);
            s->x[d * POINTS + i] = signal * point[d] + noise * s->target[d * POINTS + i];
        }
    }
    network_forward(t, s);
    s->loss = 0;
    for (size_t i = 0; i < DIMS * POINTS; i++) {
        const float d = s->out[i] - s->target[i];
        s->loss += d * d;
        dout[i] = 2 * d / (DIMS * POINTS * SLICES);
    }
    network_backward(t, s, dout);
}

/* A task: Adam on one tensor. The model is the average of the weights over the last tenth
 * of the training. */
static void update_part(void *arg, size_t index) {
    trainer *t = (trainer *)arg;
    part *p = &t->parts[index];
    const int left = t->steps - t->step, warm = t->step < 100 ? t->step + 1 : 100;
    const int averaged = t->step - t->steps * 9 / 10 + 1;
    float first = 1, second = 1;
    for (int i = 0; i <= t->step && i < 2000; i++) {
        first *= 0.9f;
        second *= 0.99f;
    }
    const float rate = 2e-3f * (float)warm / 100 * (float)left / (float)t->steps;
    const float step = rate / (1 - first), unbias = 1 / (1 - second);
    const size_t columns = p->cols == 1 ? 1 : (p->cols + 15) / 16 * 16;
    for (size_t i = 0; i < (size_t)p->rows * p->cols; i++) {
        const size_t at = i / p->cols * columns + i % p->cols;
        float g = 0;
        for (int s = 0; s < SLICES; s++)
            g += p->gradients[s][at];
        p->mean[i] = 0.9f * p->mean[i] + 0.1f * g;
        p->square[i] = 0.99f * p->square[i] + 0.01f * g * g;
        p->weights[i] -= step * p->mean[i] / (sqrtf(p->square[i] * unbias) + 1e-8f);
        if (averaged > 0)
            p->average[i] += (p->weights[i] - p->average[i]) / (float)averaged;
    }
}

static void train(trainer *t, int steps) {
    double loss = 0;
    t->steps = steps;
    for (t->step = 0; t->step < steps; t->step++) {
        t->tasks->run(t->tasks->user, SLICES, train_slice, t);
        t->tasks->run(t->tasks->user, PARTS, update_part, t);
        for (int i = 0; i < SLICES; i++)
            loss += t->slices[i].loss / (SLICES * POINTS * DIMS);
        if ((t->step + 1) % 500 == 0 || t->step + 1 == steps) {
            const int shown = t->step % 500 + 1;
            printf("step %4d of %d: mean squared error of the noise %.3f\n", t->step + 1,
                   steps, loss / shown);
            fflush(stdout);
            loss = 0;
        }
    }
    for (int i = 0; i < PARTS; i++) {
        part *p = &t->parts[i];
        if (steps > 0) memcpy(p->weights, p->average, sizeof(float) * p->rows * p->cols);
    }
}

static void init_part(trainer *t, int kind, int block, diffusion_random *random) {
    static const uint32_t rows[] = {WIDTH, 2 * WIDTH, HIDDEN, WIDTH, DIMS};
    static const uint32_t cols[] = {DIMS, EMBED, WIDTH, HIDDEN, WIDTH};
    static const float sizes[] = {1, 0.1f, 1, 0.5f, 0.1f};
    part *p = &t->parts[part_of(kind, block)];
    for (int i = 0; i < 2; i++, p++) {
        p->rows = rows[kind];
        p->cols = i == 0 ? cols[kind] : 1;
        diffusion_name(p->name, sizeof p->name, kind, block, i == 0 ? "weight" : "bias");
        const size_t count = (size_t)p->rows * p->cols;
        p->weights = (float *)diffusion_allocate(4 * count, sizeof(float));
        p->mean = p->weights + count;
        p->square = p->mean + count;
        p->average = p->square + count;
        for (int s = 0; s < SLICES; s++)
            p->gradients[s] =
                (float *)diffusion_allocate(p->rows * (p->cols + 15), sizeof(float));
        const float limit = sizes[kind] * sqrtf(3.0f / (float)p->cols);
        for (size_t w = 0; i == 0 && w < count; w++)
            p->weights[w] = limit * (2 * diffusion_uniform(random) - 1);
    }
}

/* --- Files ----------------------------------------------------------------------- */

static aq_status save_model(const trainer *t, const char *path, aq_error *err) {
    static const aq_key_value notes[] = {{"source", "examples/train_diffusion.c", 26},
                                         {"modality", "image", 5}};
    aq_model_writer_options options = {0};
    aq_tensor tensors[PARTS];
    options.metadata = notes;
    options.num_metadata = 2;
    for (int i = 0; i < PARTS; i++) {
        const part *p = &t->parts[i];
        const uint64_t shape[2] = {p->rows, p->cols};
        aq_status status = aq_tensor_init(&tensors[i], p->name, AQ_F32, shape,
                                          i % 2 == 0 ? 2 : 1, p->weights, err);
        if (status != AQ_OK) return status;
    }
    return aq_model_save(path, tensors, PARTS, &options, err);
}

/* The vectors that a layer is given for all chains, a row of the file each. */
static aq_status put_layer(aq_writer *writer, const slice *slices, int layer, int time,
                           aq_error *err) {
    static float values[CHAINS * HIDDEN];
    static int32_t offsets[CHAINS + 1], times[CHAINS];
    static aq_bytes names[CHAINS];
    const size_t block = (size_t)layer / 2, units = layer % 2 == 0 ? WIDTH : HIDDEN;
    char name[32];
    diffusion_layer_name(name, sizeof name, layer);
    for (size_t i = 0; i < CHAINS; i++) {
        const slice *s = &slices[i / POINTS];
        const float *v = layer % 2 == 0 ? s->blocks[block].u : s->blocks[block].a;
        for (size_t unit = 0; unit < units; unit++)
            values[i * units + unit] = v[unit * POINTS + i % POINTS];
        offsets[i + 1] = (int32_t)((i + 1) * units);
        times[i] = time;
        names[i].data = (const uint8_t *)name;
        names[i].size = strlen(name);
    }
    const aq_column_values columns[3] = {
        {.values = names, .num_values = CHAINS, .num_levels = CHAINS},
        {.values = times, .num_values = CHAINS, .num_levels = CHAINS},
        {.values = values,
         .num_values = (int64_t)(CHAINS * units),
         .list_offsets = offsets,
         .num_lists = CHAINS},
    };
    aq_status status = aq_writer_put_columns(writer, columns, 3, err);
    return status == AQ_OK ? aq_writer_end_row_group(writer, CHAINS, err) : status;
}

/* Sample, and write down what each product that will be quantized is given. */
static aq_status sample_layers(trainer *t, aq_writer *writer, aq_error *err) {
    static float points[CHAINS][DIMS], noise[CHAINS][DIMS];
    aq_status status = AQ_OK;
    diffusion_start(0, points[0], CHAINS);
    for (int step = 0; step < DIFFUSION_STEPS && status == AQ_OK; step++) {
        const int time = diffusion_time(step);
        for (size_t i = 0; i < CHAINS; i++) {
            slice *s = &t->slices[i / POINTS];
            set_time(s, i % POINTS, time);
            for (size_t d = 0; d < DIMS; d++)
                s->x[d * POINTS + i % POINTS] = points[i][d];
        }
        for (size_t i = 0; i < CHAINS; i += POINTS)
            network_forward(t, &t->slices[i / POINTS]);
        for (size_t i = 0; i < CHAINS * DIMS; i++)
            noise[i / DIMS][i % DIMS] =
                t->slices[i / DIMS / POINTS].out[i % DIMS * POINTS + i / DIMS % POINTS];
        for (int layer = 0; layer < DIFFUSION_LAYERS && status == AQ_OK; layer++)
            status = put_layer(writer, t->slices, layer, time, err);
        diffusion_step(step, noise[0], points[0], CHAINS);
    }
    return status;
}

static aq_status save_calibration(trainer *t, const char *path, aq_error *err) {
    const aq_field_spec fields[] = {
        {.name = "layer_name",
         .type = AQ_BYTE_ARRAY,
         .logical = AQ_LOGICAL_STRING,
         .encoding = AQ_RLE_DICTIONARY,
         .write_statistics = true},
        {.name = "timestep", .type = AQ_INT32, .write_statistics = true},
        {.name = "activations",
         .type = AQ_GROUP,
         .logical = AQ_LOGICAL_LIST,
         .num_children = 1},
        {.name = "list", .type = AQ_GROUP, .repetition = AQ_REPEATED, .num_children = 1},
        {.name = "element", .type = AQ_FLOAT},
    };
    aq_writer *writer;
    aq_status status = aq_writer_open(path, fields, 5, NULL, &writer, err);
    if (status != AQ_OK) return status;
    status = sample_layers(t, writer, err);
    if (status == AQ_OK) return aq_writer_finish(writer, err);
    aq_writer_abort(writer);
    return status;
}

int main(int argc, char **argv) {
    static trainer t;
    static const char *const files[2] = {"diffusion.parquet",
                                         "diffusion-calibration.parquet"};
    const char *directory = argc > 1 ? argv[1] : ".";
    int steps = argc > 2 ? atoi(argv[2]) : STEPS;
    diffusion_random random = {1};
    aq_threads *threads = NULL;
    aq_error err = {0};

    aq_status status = aq_threads_create(0, NULL, &threads, &err);
    if (status == AQ_OK) t.tasks = aq_threads_tasks(threads);
    t.slices = (slice *)diffusion_allocate(SLICES, sizeof *t.slices);
    for (int i = 0; i < SLICES; i++)
        t.slices[i].index = i;
    init_part(&t, DIFFUSION_IN, 0, &random);
    for (int i = 0; i < 3 * BLOCKS; i++)
        init_part(&t, DIFFUSION_FILM + i % 3, i / 3, &random);
    init_part(&t, DIFFUSION_OUT, 0, &random);
    if (status == AQ_OK) train(&t, steps);
    for (int i = 0; i < 2 && status == AQ_OK; i++) {
        char path[4096];
        int length = snprintf(path, sizeof path, "%s/%s", directory, files[i]);
        if (length < 0 || (size_t)length >= sizeof path) {
            fprintf(stderr, "train_diffusion: the directory's name is too long\n");
            return 1;
        }
        status = i == 0 ? save_model(&t, path, &err) : save_calibration(&t, path, &err);
        if (status == AQ_OK) printf("wrote %s\n", path);
    }
    if (status != AQ_OK) fprintf(stderr, "train_diffusion: %s\n", err.message);
    aq_threads_destroy(threads);
    for (int i = 0; i < PARTS; i++) {
        free(t.parts[i].weights);
        for (int s = 0; s < SLICES; s++)
            free(t.parts[i].gradients[s]);
    }
    free(t.slices);
    return status == AQ_OK ? 0 : 1;
}
