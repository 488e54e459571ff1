/* tiny_diffusion.c - sample from the model of train_diffusion.c with weights of 8, 4 and
 * 2 bits and activations of 8, 6 and 4: with one range of activations for all timesteps,
 * and with one for each group of them. Measures how far the samples are from fresh data,
 * and writes tiny_diffusion.html.
 *
 *   cc -O2 tiny_diffusion.c -o tiny_diffusion -pthread -lm
 *   ./train_diffusion && ./tiny_diffusion [DIRECTORY [SEEDS [POINTS]]]
 *
 * A setting is a model file that a job writes from model and calibration: codes of the
 * weights, and what parameters the activations have at which timesteps. */
#define ARROWQUANT_IMPLEMENTATION
#include "../arrowquant.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "diffusion.h"
#include "diffusion_measure.h"
#include "diffusion_page.h"

enum {
    SLICE = 64, /* points that go through the network together: a task */
    WIDTH = DIFFUSION_WIDTH,
    HIDDEN = DIFFUSION_HIDDEN,
    BLOCKS = DIFFUSION_BLOCKS,
    LAYERS = DIFFUSION_LAYERS,
    STEPS = DIFFUSION_STEPS,
    DIMS = DIFFUSION_DIMS
};

static void fail(const char *message) {
    fprintf(stderr, "tiny_diffusion: %s\n", message);
    exit(1);
}

static aq_error err;

static void check(aq_status status) {
    if (status == AQ_OK) return;
    fprintf(stderr, "tiny_diffusion: %s: %s\n", err.name, err.message);
    exit(1);
}

/* --- Quantizing ------------------------------------------------------------------ */

/* First and last layer stay as they are: 512 weights between them. So do, at 8 bits, the
 * layers that only a timestep goes into: a sampler needs them once a step. */
static bool plan(void *user, const aq_tensor *tensor, aq_plan *out) {
    (void)user;
    if (strncmp(tensor->name, "blocks.", 7) != 0) out->keep = true;
    if (strstr(tensor->name, "film") != NULL) out->quant.bits = 8;
    return true;
}

/* Writes the model file of a setting. */
static void quantize(const char *input, const aq_calibration *calibration,
                     const setting *s, const char *output) {
    aq_time_options time = {0};
    aq_job_options options = {0};
    time.groups = s->how == GROUPS_ONE ? 1 : DIFFUSION_GROUPS;
    time.split = s->how == GROUPS_EQUAL ? AQ_SPLIT_EQUAL : AQ_SPLIT_SIMILAR;
    time.bits =
        (uint32_t)s->activation_bits; /* 0, where they stay float32: the default */
    time.timesteps = DIFFUSION_TIMES;
    options.quant.bits = (uint32_t)s->weight_bits;
    options.quant.group_size = 32;
    options.quant.params = AQ_PARAMS_U8;
    options.plan = plan;
    options.calibration = calibration;
    options.time = &time;
    check(aq_job_run(input, output, &options, NULL, &err));
}

/* --- The network ----------------------------------------------------------------- */

/* Weights and bias. Products in integers take the input by the codes of the step, and
 * have in their bias what 8-bit codes owe (aq_activations_init_static). */
typedef struct layer {
    aq_tensor weights;
    bool integers;
    aq_affine codes[STEPS];
    float bias[STEPS][HIDDEN];
} layer;

/* A model file, opened. */
typedef struct network {
    aq_model *model;
    layer in, out, layers[LAYERS];        /* layers: fc1 and fc2 in turn             */
    float film[STEPS][BLOCKS][2 * WIDTH]; /* scale and shift, which only time decides */
    size_t codes_bytes;                   /* of the input of any layer, for a slice  */
} network;

static void find_tensors(const aq_model *model, int kind, int block, aq_tensor *weights,
                         float *bias) {
    char name[32];
    aq_tensor t;
    diffusion_name(name, sizeof name, kind, block, "weight");
    check(aq_model_find(model, name, weights, &err));
    diffusion_name(name, sizeof name, kind, block, "bias");
    check(aq_model_find(model, name, &t, &err));
    check(aq_tensor_rows_f32(&t, 0, 1, bias, NULL, &err));
    aq_tensor_release(&t);
}

static void open_layer(network *net, int kind, int block, bool integers, layer *out) {
    float sums[HIDDEN];
    find_tensors(net->model, kind, block, &out->weights, out->bias[0]);
    for (int step = 1; step < STEPS; step++)
        memcpy(out->bias[step], out->bias[0], sizeof out->bias[0]);
    out->integers = integers;
    if (!integers) return;
    check(aq_tensor_row_sums(&out->weights, sums, NULL, &err));
    for (int step = 0; step < STEPS; step++) {
        check(aq_tensor_time_group(&out->weights, diffusion_time(step), NULL,
                                   &out->codes[step], &err));
        const float offset = aq_affine_offset(&out->codes[step]);
        for (size_t row = 0; row < out->weights.layout.rows; row++)
            out->bias[step][row] += offset * sums[row];
    }
    const size_t bytes = aq_activations_bytes(&out->weights.layout, SLICE);
    if (bytes > net->codes_bytes) net->codes_bytes = bytes;
}

/* integers: of the layers in between; else all products are of float32. */
static void open_network(network *net, const char *path, bool integers) {
    memset(net, 0, sizeof *net);
    check(aq_model_open(path, NULL, &net->model, &err));
    open_layer(net, DIFFUSION_IN, 0, false, &net->in);
    open_layer(net, DIFFUSION_OUT, 0, false, &net->out);
    for (int block = 0; block < BLOCKS; block++) {
        float bias[2 * WIDTH], embedding[DIFFUSION_EMBED];
        aq_tensor film;
        open_layer(net, DIFFUSION_FC1, block, integers, &net->layers[2 * block]);
        open_layer(net, DIFFUSION_FC2, block, integers, &net->layers[2 * block + 1]);
        find_tensors(net->model, DIFFUSION_FILM, block, &film, bias);
        for (int step = 0; step < STEPS; step++) {
            float *scale_shift = net->film[step][block];
            diffusion_embed(diffusion_time(step), embedding);
            check(aq_tensor_matvec(&film, embedding, scale_shift, NULL, &err));
            for (int i = 0; i < 2 * WIDTH; i++)
                scale_shift[i] += bias[i];
        }
        aq_tensor_release(&film);
    }
}

static void close_network(network *net) {
    for (int i = 0; i < LAYERS; i++)
        aq_tensor_release(&net->layers[i].weights);
    aq_tensor_release(&net->in.weights);
    aq_tensor_release(&net->out.weights);
    aq_model_close(net->model);
}

/* --- Sampling -------------------------------------------------------------------- */

typedef struct sampling {
    const network *net;
    float *points;
    aq_error *errors; /* of slices */
} sampling;

/* y = weights * x + bias for SLICE vectors. */
static aq_status multiply(const layer *l, int step, const float *x, void *memory,
                          float *y, aq_error *error) {
    const size_t rows = l->weights.layout.rows;
    aq_activations codes;
    aq_status status;
    if (l->integers) {
        status = aq_activations_init_static(&l->weights.layout, x, SLICE, &l->codes[step],
                                            memory, &codes, error);
        if (status == AQ_OK)
            status = aq_tensor_matmul_i8(&l->weights, &codes, y, NULL, error);
    } else
        status = aq_tensor_matmul(&l->weights, x, SLICE, y, NULL, error);
    for (size_t i = 0; i < SLICE && status == AQ_OK; i++)
        for (size_t row = 0; row < rows; row++)
            y[i * rows + row] += l->bias[step][row];
    return status;
}

/* The noise in SLICE points, as the network predicts it. */
static aq_status predict(const network *net, int step, const float *points, void *memory,
                         float *noise, aq_error *error) {
    float h[SLICE * WIDTH], u[SLICE * WIDTH], a[SLICE * HIDDEN];
    aq_status status = multiply(&net->in, step, points, memory, h, error);
    for (int block = 0; block < BLOCKS && status == AQ_OK; block++) {
        const layer *fc1 = &net->layers[2 * block], *fc2 = fc1 + 1;
        const float *scale = net->film[step][block], *shift = scale + WIDTH;
        for (size_t i = 0; i < SLICE * WIDTH; i++)
            u[i] = h[i] * (1 + scale[i % WIDTH]) + shift[i % WIDTH];
        status = multiply(fc1, step, u, memory, a, error);
        if (status != AQ_OK) break;
        for (size_t i = 0; i < SLICE * HIDDEN; i++)
            a[i] = diffusion_gate(a[i]);
        status = multiply(fc2, step, a, memory, u, error);
        for (size_t i = 0; i < SLICE * WIDTH && status == AQ_OK; i++)
            h[i] += u[i];
    }
    return status == AQ_OK ? multiply(&net->out, step, h, memory, noise, error) : status;
}

/* A task: SLICE points, from noise to data. */
static void sample_slice(void *arg, size_t index) {
    const sampling *s = (const sampling *)arg;
    float *points = s->points + index * SLICE * DIMS, noise[SLICE * DIMS];
    void *memory = diffusion_allocate(1, s->net->codes_bytes + 1);
    for (int step = 0; step < STEPS; step++) {
        if (predict(s->net, step, points, memory, noise, &s->errors[index]) != AQ_OK)
            break;
        diffusion_step(step, noise, points, SLICE);
    }
    free(memory);
}

/* --- Measuring ------------------------------------------------------------------- */

typedef struct measurement {
    const aq_tasks *tasks;
    const char *directory;
    aq_calibration *calibration;
    network net;
    results results;
    float *points, *data, *floats; /* floats: what float32 makes of each seed */
    aq_error *errors;              /* of slices                               */
} measurement;

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void draw_data(uint64_t series, float *points, size_t count) {
    diffusion_random random = {series << 40};
    for (size_t i = 0; i < count; i++)
        diffusion_data(&random, points + DIMS * i);
}

/* Samples of the open network for every seed, or, where there is none, fresh data in
 * their place; and how far they are from other fresh data. Each setting has the same
 * seeds. */
static void measure(measurement *m, setting *s, const network *net) {
    const size_t count = m->results.count, slices = count / SLICE;
    const size_t bytes = sizeof(float) * DIMS * count;
    const int seeds = m->results.seeds;
    sampling samples = {net, m->points, m->errors};
    double spent = 0;
    s->points = (float *)diffusion_allocate(count, sizeof(float) * DIMS);
    for (int seed = 0; seed < seeds; seed++) {
        const uint64_t series = 2 * (uint64_t)seed + 2;
        draw_data(series, m->data, count);
        if (net != NULL) {
            const double start = seconds();
            diffusion_start(series, m->points, count);
            m->tasks->run(m->tasks->user, slices, sample_slice, &samples);
            spent += seconds() - start;
            for (size_t i = 0; i < slices; i++)
                if (m->errors[i].status != AQ_OK) fail(m->errors[i].message);
        } else
            draw_data(series + 1, m->points, count);
        if (seed == 0) memcpy(s->points, m->points, bytes);
        float *floats = m->floats + (size_t)seed * DIMS * count;
        if (s->weight_bits == 0) memcpy(floats, m->points, bytes);
        s->moved[seed] = shift_distance(m->points, floats, count);
        s->sliced[seed] = sliced_distance(m->points, m->data, count);
        s->energy[seed] = energy_distance(m->points, m->data, count);
    }
    const setting *one =
        find_setting(&m->results, s->weight_bits, s->activation_bits, GROUPS_ONE);
    for (int seed = 0; seed < seeds && one != NULL; seed++)
        s->against_one[seed] = s->sliced[seed] - one->sliced[seed];
    s->difference = estimate_of(s->against_one, seeds);
    s->distance = estimate_of(s->sliced, seeds);
    s->energy_distance = estimate_of(s->energy, seeds);
    s->shift = estimate_of(s->moved, seeds);
    s->rate = spent > 0 ? (double)count * seeds / spent : 0;
}

static const char *path_of(const measurement *m, const char *name) {
    static char paths[2][4096];
    static int next;
    char *path = paths[next++ % 2]; /* two at a time are in use */
    int length = snprintf(path, sizeof paths[0], "%s/%s", m->directory, name);
    if (length < 0 || (size_t)length >= sizeof paths[0])
        fail("the directory's name is too long");
    return path;
}

/* Makes the model file of a setting, except float32, and samples from it. */
static void measure_setting(measurement *m, int weight_bits, int activation_bits,
                            grouping how) {
    results *r = &m->results;
    setting *s = &r->settings[r->num_settings++];
    char name[64] = "diffusion.parquet";
    s->weight_bits = weight_bits;
    s->activation_bits = activation_bits;
    s->how = how;
    if (weight_bits != 0) {
        const char *input = path_of(m, name);
        if (activation_bits == 0)
            snprintf(name, sizeof name, "diffusion-w%d.parquet", weight_bits);
        else
            snprintf(name, sizeof name, "diffusion-w%da%d-%s.parquet", weight_bits,
                     activation_bits, grouping_words[how]);
        quantize(input, m->calibration, s, path_of(m, name));
    }
    open_network(&m->net, path_of(m, name), activation_bits != 0);
    s->bytes = aq_model_file_bytes(m->net.model);
    for (int i = 0; i < LAYERS; i++)
        memcpy(s->codes[i], m->net.layers[i].codes, sizeof s->codes[i]);
    measure(m, s, &m->net);
    close_network(&m->net);
    print_setting(r, s);
}

int main(int argc, char **argv) {
    static measurement m;
    results *r = &m.results;
    aq_threads *threads;
    m.directory = argc > 1 ? argv[1] : ".";
    r->seeds = argc > 2 ? atoi(argv[2]) : 10;
    r->count = argc > 3 ? (size_t)atoi(argv[3]) / SLICE * SLICE : 512;
    if (r->seeds < 2 || r->seeds > MAX_SEEDS || r->count == 0 || r->count > 1 << 16) {
        fprintf(stderr, "usage: tiny_diffusion [DIRECTORY [SEEDS [POINTS]]]\n");
        return 2;
    }
    check(aq_threads_create(0, NULL, &threads, &err));
    m.tasks = aq_threads_tasks(threads);
    m.points = (float *)diffusion_allocate(r->count, sizeof(float) * DIMS);
    m.data = (float *)diffusion_allocate(r->count, sizeof(float) * DIMS);
    m.floats =
        (float *)diffusion_allocate((size_t)r->seeds * r->count, sizeof(float) * DIMS);
    m.errors = (aq_error *)diffusion_allocate(r->count / SLICE, sizeof *m.errors);
    check(aq_calibration_open(path_of(&m, "diffusion-calibration.parquet"), NULL,
                              &m.calibration, &err));

    print_head();
    measure(&m, &r->fresh, NULL);
    print_setting(r, &r->fresh);
    measure_setting(&m, 0, 0, GROUPS_ONE);
    for (int w = 0; w < 3; w++) {
        measure_setting(&m, weight_widths[w], 0, GROUPS_ONE);
        for (int a = 0; a < 3; a++) {
            const int bits = activation_widths[a];
            measure_setting(&m, weight_widths[w], bits, GROUPS_ONE);
            if (bits == 4) measure_setting(&m, weight_widths[w], bits, GROUPS_EQUAL);
            measure_setting(&m, weight_widths[w], bits, GROUPS_SIMILAR);
        }
    }
    print_verdicts(r);
    const char *path = path_of(&m, "tiny_diffusion.html");
    if (!page_write(path, r, m.calibration)) fail("cannot write the page");
    printf("wrote %s\n", path);
    aq_calibration_close(m.calibration);
    aq_threads_destroy(threads);
    for (int i = 0; i < r->num_settings; i++)
        free(r->settings[i].points);
    return 0;
}
