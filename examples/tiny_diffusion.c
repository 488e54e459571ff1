/* tiny_diffusion.c - sample from the model of train_diffusion.c with weights of 8, 4 and
 * 2 bits and activations of 8, 6 and 4: with one range of activations for all timesteps,
 * and with one for each group of them. Measures how far the samples are from fresh data,
 * and writes tiny_diffusion.html.
 *
 *   cc -O2 tiny_diffusion.c -o tiny_diffusion -pthread -lm
 *   ./train_diffusion && ./tiny_diffusion [DIRECTORY [SEEDS [POINTS]]] */
#define ARROWQUANT_IMPLEMENTATION
#include "../arrowquant.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "diffusion.h"
#include "diffusion_page.h"
#include "diffusion_ranges.h"

enum {
    SLICE = 64, /* points that go through the network together: a task */
    GROUP = 32, /* weights of one scale and zero point */
    WIDTH = DIFFUSION_WIDTH,
    HIDDEN = DIFFUSION_HIDDEN,
    BLOCKS = DIFFUSION_BLOCKS,
    LAYERS = DIFFUSION_LAYERS,
    STEPS = DIFFUSION_STEPS,
    DIMS = DIFFUSION_DIMS
};

static aq_error err;

static void check(aq_status status) {
    if (status == AQ_OK) return;
    fprintf(stderr, "tiny_diffusion: %s\n", err.message);
    exit(1);
}

/* One of the products that are quantized. */
typedef struct layer {
    aq_tensor weights;
    float bias[HIDDEN];
    int16_t codes[WIDTH * HIDDEN]; /* of the weights, where they are quantized */
    float scales[WIDTH * HIDDEN / GROUP], zero_points[WIDTH * HIDDEN / GROUP];
} layer;

/* A model file, opened. */
typedef struct network {
    aq_model *model;
    layer in, out, layers[LAYERS];
    float film[STEPS][BLOCKS][2 * WIDTH]; /* scale and shift, which only time decides */
} network;

static void find_layer(network *net, int kind, int block, aq_tensor *out, float *bias) {
    char name[32];
    aq_tensor t;
    diffusion_name(name, sizeof name, kind, block, "weight");
    check(aq_model_find(net->model, name, out, &err));
    diffusion_name(name, sizeof name, kind, block, "bias");
    check(aq_model_find(net->model, name, &t, &err));
    check(aq_tensor_rows_f32(&t, 0, 1, bias, NULL, &err));
    aq_tensor_release(&t);
}

/* Codes of the weights as 16-bit integers, for products with codes of up to 8 bits. */
static void unpack_layer(layer *l) {
    const aq_layout *layout = &l->weights.layout;
    const aq_quantized_view view = {l->weights.data, l->weights.scales,
                                    l->weights.zero_points, l->weights.params};
    if (layout->bits == 0) return;
    for (size_t i = 0; i < layout->rows * layout->cols; i++) {
        const size_t bit = i % layout->cols * layout->code_bits;
        const uint8_t *at = l->weights.data + i / layout->cols * layout->row_bytes;
        l->codes[i] = (int16_t)(at[bit / 8] >> bit % 8 & ((1 << layout->bits) - 1));
    }
    for (size_t g = 0; g < layout->num_groups; g++)
        check(aq_params_read(layout, &view, g, &l->scales[g], &l->zero_points[g], &err));
}

static void open_network(network *net, const char *path) {
    check(aq_model_open(path, NULL, &net->model, &err));
    find_layer(net, DIFFUSION_IN, 0, &net->in.weights, net->in.bias);
    find_layer(net, DIFFUSION_OUT, 0, &net->out.weights, net->out.bias);
    for (int block = 0; block < BLOCKS; block++) {
        float bias[2 * WIDTH], embedding[DIFFUSION_EMBED];
        aq_tensor film;
        for (int i = 0; i < 2; i++) {
            layer *l = &net->layers[2 * block + i];
            find_layer(net, DIFFUSION_FC1 + i, block, &l->weights, l->bias);
            unpack_layer(l);
        }
        find_layer(net, DIFFUSION_FILM, block, &film, bias);
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

/* --- Products -------------------------------------------------------------------- */

/* Exact: 32 products of 8-bit codes are below 2^24, also as float. */
static int32_t dot_group(const int16_t *a, const int16_t *b) {
    int32_t sum = 0;
    for (int i = 0; i < GROUP; i++)
        sum += a[i] * b[i];
    return sum;
}

/* y = weights * x + bias for SLICE vectors, from codes of both: with x = s (p - u) and
 * w = t (q - z) in a group, the sum of w x is s t (sum of q (p - u) - z sum of (p - u)),
 * and both sums are integers. */
static void multiply_codes(const layer *l, code_range range, const float *x, float *y) {
    const size_t cols = l->weights.layout.cols, rows = l->weights.layout.rows;
    const size_t groups = cols / GROUP;
    int16_t codes[SLICE * HIDDEN];
    float sums[SLICE * HIDDEN / GROUP];
    for (size_t i = 0; i < SLICE * cols; i++) {
        const float q = x[i] / range.scale + (float)range.zero_point;
        const int code = (int)(range_clamp(q, 0, (float)range.most) + 0.5f);
        codes[i] = (int16_t)(code - range.zero_point);
    }
    for (size_t i = 0; i < SLICE * groups; i++) {
        int32_t sum = 0;
        for (size_t k = 0; k < GROUP; k++)
            sum += codes[i * GROUP + k];
        sums[i] = (float)sum;
    }
    for (size_t row = 0; row < rows; row++) {
        const int16_t *weights = l->codes + row * cols;
        for (size_t i = 0; i < SLICE; i++) {
            float sum = 0;
            for (size_t g = 0; g < groups; g++) {
                const size_t at = row * groups + g, in = i * groups + g;
                const int32_t dot = dot_group(weights + g * GROUP, codes + in * GROUP);
                sum += l->scales[at] * ((float)dot - l->zero_points[at] * sums[in]);
            }
            y[i * rows + row] = range.scale * sum + l->bias[row];
        }
    }
}

/* The same; range NULL: from float32 values. */
static aq_status multiply(const layer *l, const code_range *range, const float *x,
                          float *y) {
    const size_t rows = l->weights.layout.rows;
    if (range != NULL) {
        multiply_codes(l, *range, x, y);
        return AQ_OK;
    }
    aq_status status = aq_tensor_matmul(&l->weights, x, SLICE, y, NULL, NULL);
    for (size_t i = 0; i < SLICE * rows; i++)
        y[i] += l->bias[i % rows];
    return status;
}

/* --- Sampling -------------------------------------------------------------------- */

typedef struct sampling {
    const network *net;
    const code_range (*codes)[STEPS]; /* [layer][step]; NULL = float activations */
    float *points;
    aq_status *statuses; /* of slices */
} sampling;

/* A task: SLICE points, from noise to data. */
static void sample_slice(void *arg, size_t index) {
    const sampling *s = (const sampling *)arg;
    const network *net = s->net;
    float *points = s->points + index * SLICE * DIMS;
    float h[SLICE * WIDTH], u[SLICE * WIDTH], a[SLICE * HIDDEN], noise[SLICE * DIMS];
    aq_status status = AQ_OK;
    for (int step = 0; step < STEPS && status == AQ_OK; step++) {
        status = multiply(&net->in, NULL, points, h);
        for (int i = 0; i < LAYERS && status == AQ_OK; i += 2) {
            const float *film = net->film[step][i / 2];
            const code_range *first = s->codes != NULL ? &s->codes[i][step] : NULL;
            const code_range *second = s->codes != NULL ? &s->codes[i + 1][step] : NULL;
            for (size_t k = 0; k < SLICE * WIDTH; k++)
                u[k] = h[k] * (1 + film[k % WIDTH]) + film[WIDTH + k % WIDTH];
            status = multiply(&net->layers[i], first, u, a);
            for (size_t k = 0; k < SLICE * HIDDEN; k++)
                a[k] = diffusion_gate(a[k]);
            if (status == AQ_OK) status = multiply(&net->layers[i + 1], second, a, u);
            for (size_t k = 0; k < SLICE * WIDTH; k++)
                h[k] += u[k];
        }
        if (status == AQ_OK) status = multiply(&net->out, NULL, h, noise);
        diffusion_step(step, noise, points, SLICE);
    }
    s->statuses[index] = status;
}

/* --- Settings -------------------------------------------------------------------- */

typedef struct measurement {
    const aq_tasks *tasks;
    const char *directory;
    ranges layers[LAYERS];
    code_range codes[3][3][LAYERS][STEPS]; /* [activation_bits][grouping]... */
    network net;
    setting settings[40], fresh;
    int num_settings, seeds;
    size_t count;
    float *points, *data, *floats; /* floats: what float32 makes of each seed */
    aq_status *statuses;
} measurement;

static void *allocate(size_t count, size_t bytes) {
    void *p = calloc(count, bytes);
    if (p == NULL) {
        fprintf(stderr, "tiny_diffusion: out of memory\n");
        exit(1);
    }
    return p;
}

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

/* Samples for every seed, or, where there is no network, fresh data in their place; and
 * how far they are from other fresh data. Each setting has the same seeds. */
static void measure(measurement *m, setting *s, sampling *with) {
    const size_t bytes = sizeof(float) * DIMS * m->count;
    double spent = 0;
    s->points = (float *)allocate(m->count, sizeof(float) * DIMS);
    for (int seed = 0; seed < m->seeds; seed++) {
        const uint64_t series = 2 * (uint64_t)seed + 2;
        draw_data(series, m->data, m->count);
        if (with != NULL) {
            const double start = seconds();
            diffusion_start(series, m->points, m->count);
            m->tasks->run(m->tasks->user, m->count / SLICE, sample_slice, with);
            spent += seconds() - start;
            for (size_t i = 0; i < m->count / SLICE; i++)
                check(m->statuses[i]);
        } else
            draw_data(series + 1, m->points, m->count);
        if (seed == 0) memcpy(s->points, m->points, bytes);
        float *floats = m->floats + (size_t)seed * DIMS * m->count;
        if (s->weight_bits == 0) memcpy(floats, m->points, bytes);
        s->moved[seed] = shift_distance(m->points, floats, m->count);
        s->sliced[seed] = sliced_distance(m->points, m->data, m->count);
        s->energy[seed] = energy_distance(m->points, m->data, m->count);
    }
    s->distance = estimate_of(s->sliced, m->seeds);
    s->energy_distance = estimate_of(s->energy, m->seeds);
    s->shift = estimate_of(s->moved, m->seeds);
    s->rate = spent > 0 ? (double)m->count * m->seeds / spent : 0;
}

/* One line, and the difference to the setting with one range. */
static void report(measurement *m, setting *s, const setting *plain) {
    for (int seed = 0; seed < m->seeds; seed++)
        s->against_plain[seed] = s->sliced[seed] - plain->sliced[seed];
    s->difference = estimate_of(s->against_plain, m->seeds);
    printf("%-8s %-8s %-19s %.4f +- %.4f  %8.5f +- %.5f", bits_name(s->weight_bits),
           bits_name(s->activation_bits),
           s->activation_bits != 0 ? grouping_names[s->how] : "-", s->distance.mean,
           s->distance.half, s->energy_distance.mean, s->energy_distance.half);
    printf("  %.4f +- %.4f", s->shift.mean, s->shift.half);
    if (plain != s) printf("  %+.4f +- %.4f", s->difference.mean, s->difference.half);
    printf("\n");
    fflush(stdout);
}

static const int activation_bits[3] = {8, 6, 4};

/* All settings of one model file. */
static void measure_model(measurement *m, const char *path, int weight_bits) {
    open_network(&m->net, path);
    for (int i = -1; i < (weight_bits == 0 ? 0 : 3); i++) {
        setting *plain = &m->settings[m->num_settings];
        for (int how = 0; how < (i < 0 ? 1 : 3); how++) {
            if (how == GROUPS_EQUAL && activation_bits[i] != 4) continue;
            setting *s = &m->settings[m->num_settings++];
            sampling with = {&m->net, NULL, m->points, m->statuses};
            if (i >= 0) with.codes = (const code_range(*)[STEPS])m->codes[i][how];
            s->weight_bits = weight_bits;
            s->activation_bits = i < 0 ? 0 : activation_bits[i];
            s->how = (grouping)how;
            s->bytes = aq_model_file_bytes(m->net.model);
            measure(m, s, &with);
            report(m, s, plain);
        }
    }
    close_network(&m->net);
}

/* First and last layer stay as they are: 512 weights between them. So do, at 8 bits, the
 * layers that only a timestep goes into: a sampler needs them once a step. */
static bool plan(void *user, const aq_tensor *tensor, aq_plan *out) {
    (void)user;
    if (strncmp(tensor->name, "blocks.", 7) != 0) out->keep = true;
    if (strstr(tensor->name, "film") != NULL) out->quant.bits = 8;
    return true;
}

static const char *path_of(const measurement *m, const char *name) {
    static char path[4096];
    int length = snprintf(path, sizeof path, "%s/%s", m->directory, name);
    if (length < 0 || (size_t)length >= sizeof path) {
        fprintf(stderr, "tiny_diffusion: the directory's name is too long\n");
        exit(1);
    }
    return path;
}

int main(int argc, char **argv) {
    static measurement m;
    static const int widths[] = {8, 4, 2};
    aq_threads *threads;
    m.directory = argc > 1 ? argv[1] : ".";
    m.seeds = argc > 2 ? atoi(argv[2]) : 10;
    m.count = argc > 3 ? (size_t)atoi(argv[3]) / SLICE * SLICE : 512;
    if (m.seeds < 2 || m.seeds > MAX_SEEDS || m.count == 0 || m.count > 1 << 16) {
        fprintf(stderr, "usage: tiny_diffusion [DIRECTORY [SEEDS [POINTS]]]\n");
        return 2;
    }
    check(aq_threads_create(0, NULL, &threads, &err));
    m.tasks = aq_threads_tasks(threads);
    m.points = (float *)allocate(m.count, sizeof(float) * DIMS);
    m.data = (float *)allocate(m.count, sizeof(float) * DIMS);
    m.floats = (float *)allocate((size_t)m.seeds * m.count, sizeof(float) * DIMS);
    m.statuses = (aq_status *)allocate(m.count / SLICE, sizeof *m.statuses);
    check(ranges_read(path_of(&m, "diffusion-calibration.parquet"), m.layers, &err));
    for (int i = 0; i < 3; i++)
        for (int how = 0; how < 3; how++)
            for (int l = 0; l < LAYERS; l++)
                ranges_fit(&m.layers[l], activation_bits[i], (grouping)how,
                           m.codes[i][how][l]);

    printf("%-8s %-8s %-19s %-17s  %-19s %-18s %s\n", "weights", "activ.", "ranges",
           "sliced distance", "energy distance", "moved from float32",
           "sliced, to one range");
    measure(&m, &m.fresh, NULL);
    printf("%-37s %.4f +- %.4f  %8.5f +- %.5f\n", "fresh data", m.fresh.distance.mean,
           m.fresh.distance.half, m.fresh.energy_distance.mean,
           m.fresh.energy_distance.half);
    measure_model(&m, path_of(&m, "diffusion.parquet"), 0);
    for (int i = 0; i < 3; i++) {
        char input[4096], name[32];
        aq_job_options options = {0};
        options.quant.bits = (uint32_t)widths[i];
        options.quant.group_size = GROUP;
        options.quant.params = AQ_PARAMS_U8;
        options.plan = plan;
        snprintf(input, sizeof input, "%s", path_of(&m, "diffusion.parquet"));
        snprintf(name, sizeof name, "diffusion-int%d.parquet", widths[i]);
        check(aq_job_run(input, path_of(&m, name), &options, NULL, &err));
        measure_model(&m, path_of(&m, name), widths[i]);
    }
    const page p = {&m.fresh, m.settings, m.num_settings, m.seeds, m.count, m.layers};
    if (page_write(path_of(&m, "tiny_diffusion.html"), &p))
        printf("wrote %s\n", path_of(&m, "tiny_diffusion.html"));
    else
        fprintf(stderr, "tiny_diffusion: cannot write the page\n");
    aq_threads_destroy(threads);
    return 0;
}
