/* digits.h - what train_digits.c and run_digits.c share: pictures of digits, drawn here
 * instead of downloaded, and the sizes of the network that reads them. */
#ifndef DIGITS_H
#define DIGITS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

enum {
    DIGITS_WIDTH = 16,
    DIGITS_HEIGHT = 24,
    DIGITS_PIXELS = DIGITS_WIDTH * DIGITS_HEIGHT,
    DIGITS_CLASSES = 10,
    DIGITS_LAYERS = 3,
    DIGITS_WIDEST = 768 /* units of the widest layer */
};

/* Units from the picture to the answer: 593,664 weights and 1,162 biases. */
static const size_t digits_units[DIGITS_LAYERS + 1] = {DIGITS_PIXELS, DIGITS_WIDEST, 384,
                                                       DIGITS_CLASSES};

/* Tensors of the model: weights [units out][units in], biases [units out]. */
static const char *const digits_weights[] = {"fc1.weight", "fc2.weight", "fc3.weight"};
static const char *const digits_biases[] = {"fc1.bias", "fc2.bias", "fc3.bias"};

/* splitmix64: one addition, one hash; any start value will do. */
typedef struct digits_random {
    uint64_t state;
} digits_random;

/* A number in [low, high), from the 24 bits that a float holds exactly. */
static inline float digits_uniform(digits_random *random, float low, float high) {
    uint64_t z = (random->state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return low + (high - low) * ((float)(z >> 40) / 16777216.0f);
}

/* Pen strokes on a grid of 9 x 9: "xy" is a point, a space draws, a comma does not. */
static const char *const digits_strokes[DIGITS_CLASSES] = {
    "40 71 84 77 48 17 04 11 40",
    "12 40 48",
    "02 10 60 82 73 18 08 88",
    "01 20 60 82 73 44 24,44 74 86 77 58 28 07",
    "58 50 05 85",
    "80 10 03 53 84 86 77 58 18 07",
    "70 30 13 06 17 38 68 86 75 54 24 05",
    "00 80 53 38",
    "44 13 11 30 50 71 73 44 15 17 38 58 77 75 44",
    "83 64 34 13 02 20 50 71 83 75 58 18",
};

typedef struct digits_segment {
    float x, y, dx, dy; /* start and direction, in pixels */
    float inverse_length2;
} digits_segment;

static inline digits_segment digits_segment_of(float x0, float y0, float x1, float y1) {
    digits_segment s = {x0, y0, x1 - x0, y1 - y0, 0};
    s.inverse_length2 = 1 / (s.dx * s.dx + s.dy * s.dy + 1e-6f);
    return s;
}

/* Squared distance of a point from the nearest segment. */
static inline float digits_distance2(const digits_segment *segments, size_t count,
                                     float x, float y) {
    float nearest = 1e9f;
    for (size_t i = 0; i < count; i++) {
        const digits_segment *s = &segments[i];
        float t = ((x - s->x) * s->dx + (y - s->y) * s->dy) * s->inverse_length2;
        t = t < 0 ? 0 : t > 1 ? 1 : t;
        float ex = s->x + t * s->dx - x, ey = s->y + t * s->dy - y;
        float d2 = ex * ex + ey * ey;
        nearest = d2 < nearest ? d2 : nearest;
    }
    return nearest;
}

/* digits_draw - picture `index` of the endless series `seed`: DIGITS_PIXELS values, 0 for
 * paper, up to 1 for ink, plus noise. Returns the digit it shows. A picture depends on
 * these two numbers alone, so threads may draw them in any order. */
static inline int digits_draw(uint64_t seed, uint64_t index, float *pixels) {
    digits_random random = {(seed << 40) + (index << 12)};
    int digit = (int)digits_uniform(&random, 0, DIGITS_CLASSES);

    /* A random affine map, grid to pixels: size, slant, turn, place. */
    float x0 = digits_uniform(&random, 6, 10), y0 = digits_uniform(&random, 10, 14);
    float xx = digits_uniform(&random, 0.7f, 1.5f);
    float xy = digits_uniform(&random, -0.35f, 0.35f);
    float yx = digits_uniform(&random, -0.35f, 0.35f);
    float yy = digits_uniform(&random, 1.3f, 2.3f);

    digits_segment segments[24];
    size_t count = 0;
    float last_x = 0, last_y = 0;
    char before = ',';
    for (const char *p = digits_strokes[digit];; p += 3) {
        /* Each point shakes on its own: no two sevens have the same angles. */
        float gx = (float)(p[0] - '4') + digits_uniform(&random, -0.6f, 0.6f);
        float gy = (float)(p[1] - '4') + digits_uniform(&random, -0.6f, 0.6f);
        float x = x0 + xx * gx + xy * gy, y = y0 + yx * gx + yy * gy;
        if (before == ' ') segments[count++] = digits_segment_of(last_x, last_y, x, y);
        last_x = x;
        last_y = y;
        before = p[2];
        if (before == '\0') break;
    }
    /* One stray stroke that belongs to no digit. */
    float x = digits_uniform(&random, 0, DIGITS_WIDTH);
    float y = digits_uniform(&random, 0, DIGITS_HEIGHT);
    float dx = digits_uniform(&random, -4, 4), dy = digits_uniform(&random, -4, 4);
    segments[count++] = digits_segment_of(x, y, x + dx, y + dy);

    float radius = digits_uniform(&random, 0.5f, 1.6f);
    float ink = digits_uniform(&random, 0.5f, 1.0f);
    float noise = digits_uniform(&random, 0.0f, 0.4f);
    for (size_t i = 0; i < DIGITS_PIXELS; i++) {
        float px = (float)(i % DIGITS_WIDTH) + 0.5f;
        float py = (float)(i / DIGITS_WIDTH) + 0.5f;
        float d2 = digits_distance2(segments, count, px, py);
        float edge = radius + 0.5f - sqrtf(d2);
        float shade = edge < 0 ? 0 : edge > 1 ? 1 : edge;
        pixels[i] = ink * shade + digits_uniform(&random, -noise, noise);
    }
    return digit;
}

#endif /* DIGITS_H */
