/* diffusion.h - what train_diffusion.c and tiny_diffusion.c share: a distribution of
 * points to learn, the noise that is put on them and taken away again, and the sizes and
 * names of the network that does it. Only + - * / and square roots: the same bits with
 * every C library. */
#ifndef DIFFUSION_H
#define DIFFUSION_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* The network predicts the noise in a point (x, y) at a timestep t. Blocks are residual,
 * the timestep scales and shifts what goes into each (FiLM, as in U-Nets and transformers
 * for diffusion), nothing is normalised:
 *     h = in(point)
 *     h += fc2(gate(fc1(h * (1 + scale(t)) + shift(t))))     in each block
 *     noise = out(h) */
enum {
    DIFFUSION_DIMS = 2,
    DIFFUSION_WIDTH = 128,
    DIFFUSION_HIDDEN = 256,
    DIFFUSION_BLOCKS = 3,
    DIFFUSION_EMBED = 32,   /* numbers that say which timestep it is                    */
    DIFFUSION_TIMES = 1000, /* timesteps of the training: 0 = hardly any noise          */
    DIFFUSION_STEPS = 25,   /* of them a sampler visits                                 */
    DIFFUSION_LAYERS = 2 * DIFFUSION_BLOCKS /* the products that are quantized         */
};

/* Tensors: blocks.B.film [2 width][embed], fc1 [hidden][width], fc2 [width][hidden], each
 * .weight and .bias; in [width][dims], out [dims][width]. */
static const char *const diffusion_names[] = {"in", "film", "fc1", "fc2", "out"};
enum { DIFFUSION_IN, DIFFUSION_FILM, DIFFUSION_FC1, DIFFUSION_FC2, DIFFUSION_OUT };

static inline void diffusion_name(char *name, size_t room, int kind, int block,
                                  const char *part) {
    if (kind == DIFFUSION_IN || kind == DIFFUSION_OUT)
        snprintf(name, room, "%s.%s", diffusion_names[kind], part);
    else
        snprintf(name, room, "blocks.%d.%s.%s", block, diffusion_names[kind], part);
}

/* The weights of a layer that is quantized: fc1 and fc2 in turn. */
static inline void diffusion_layer_name(char *name, size_t room, int layer) {
    diffusion_name(name, room, layer % 2 == 0 ? DIFFUSION_FC1 : DIFFUSION_FC2, layer / 2,
                   "weight");
}

/* Zeros; there is no going on without. */
static inline void *diffusion_allocate(size_t count, size_t bytes) {
    void *p = calloc(count, bytes);
    if (p != NULL) return p;
    fprintf(stderr, "out of memory\n");
    exit(1);
}

/* splitmix64 */
typedef struct diffusion_random {
    uint64_t state;
} diffusion_random;

static inline uint64_t diffusion_bits(diffusion_random *random) {
    uint64_t z = (random->state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* In [0, 1), from the 24 bits that a float holds exactly. */
static inline float diffusion_uniform(diffusion_random *random) {
    return (float)(diffusion_bits(random) >> 40) / 16777216.0f;
}

/* Normal as the sum of 12 uniform numbers is: mean 0, variance 1, never beyond 6. */
static inline float diffusion_normal(diffusion_random *random) {
    uint32_t sum = 0;
    for (int i = 0; i < 3; i++) {
        uint64_t bits = diffusion_bits(random);
        sum += (uint32_t)(bits & 0xFFFF) + (uint32_t)(bits >> 16 & 0xFFFF) +
               (uint32_t)(bits >> 32 & 0xFFFF) + (uint32_t)(bits >> 48);
    }
    return ((float)sum + 6.0f) / 65536.0f - 6.0f;
}

/* Cosine of an angle in turns, by its series. */
static inline float diffusion_cos(float turns) {
    double x = (double)turns - (double)(int64_t)turns;
    x = x < 0 ? -x : x;
    x = x > 0.5 ? 1 - x : x;
    const bool far = x > 0.25;
    x = (far ? 0.5 - x : x) * 6.283185307179586;
    double term = 1, sum = 1;
    for (int i = 1; i < 18; i += 2) {
        term *= -x * x / (i * (i + 1));
        sum += term;
    }
    return (float)(far ? -sum : sum);
}

static inline float diffusion_sin(float turns) { return diffusion_cos(turns - 0.25f); }

/* Fresh data: two arms of a spiral, thin lines that a sampler blurs when it is not
 * exact. */
static inline void diffusion_data(diffusion_random *random, float *point) {
    float way = sqrtf(diffusion_uniform(random));
    float radius = 0.1f + 1.8f * way, turns = 1.5f * way;
    if (diffusion_bits(random) >> 63) turns += 0.5f;
    point[0] = radius * diffusion_cos(turns) + 0.03f * diffusion_normal(random);
    point[1] = radius * diffusion_sin(turns) + 0.03f * diffusion_normal(random);
}

/* At a timestep a point is signal * data + noise * normal. Here the data stays as it is
 * and the noise grows, from 0.02 to 8, by equal factors: the "variance exploding" form of
 * score matching, and the input is not scaled. So activations differ much along the
 * timesteps. With a cosine schedule they differ less, and time groups win less. */
static inline void diffusion_schedule(int time, float *out_signal, float *out_noise) {
    double noise = 0.02, factor = 1.006015543; /* 400^(1 / 999) */
    for (int left = time; left > 0; left /= 2, factor *= factor)
        if (left % 2 == 1) noise *= factor;
    *out_signal = 1;
    *out_noise = (float)noise;
}

static inline void diffusion_embed(int time, float *embedding) {
    float turns = 0.125f * (float)time / DIFFUSION_TIMES;
    for (int i = 0; i < DIFFUSION_EMBED; i += 2, turns *= 1.41421356f) {
        embedding[i] = diffusion_cos(turns);
        embedding[i + 1] = diffusion_sin(turns);
    }
}

/* 0 for very negative z, z for very positive: what SiLU is, with a square root for its
 * exponential. */
static inline float diffusion_gate(float z) {
    return 0.5f * z * (1 + z / sqrtf(1 + z * z));
}

static inline float diffusion_gate_slope(float z) {
    float r = 1 / sqrtf(1 + z * z);
    return 0.5f * (1 + z * r + z * r * r * r);
}

/* Timestep of a step of the sampler, from noise (step 0) to data. */
static inline int diffusion_time(int step) {
    return (DIFFUSION_TIMES - 1) * (DIFFUSION_STEPS - 1 - step) / (DIFFUSION_STEPS - 1);
}

static inline void diffusion_start(uint64_t seed, float *points, size_t count) {
    diffusion_random random = {seed << 32};
    float signal, noise;
    diffusion_schedule(DIFFUSION_TIMES - 1, &signal, &noise);
    for (size_t i = 0; i < count * DIFFUSION_DIMS; i++)
        points[i] = noise * diffusion_normal(&random);
}

/* One step of DDIM, without new noise: `noise` is what the network says of `points`. */
static inline void diffusion_step(int step, const float *noise, float *points,
                                  size_t count) {
    float signal, sigma, next_signal = 1, next_sigma = 0;
    diffusion_schedule(diffusion_time(step), &signal, &sigma);
    if (step + 1 < DIFFUSION_STEPS)
        diffusion_schedule(diffusion_time(step + 1), &next_signal, &next_sigma);
    for (size_t i = 0; i < count * DIFFUSION_DIMS; i++) {
        float data = (points[i] - sigma * noise[i]) / signal;
        data = data < -2.5f ? -2.5f : data > 2.5f ? 2.5f : data;
        points[i] = next_signal * data + next_sigma * (points[i] - signal * data) / sigma;
    }
}

#endif /* DIFFUSION_H */
