/* diffusion_multiply.h - the product of float matrices that train_diffusion.c is made of:
 * with vectors, and the same bits on every machine. */
#ifndef DIFFUSION_MULTIPLY_H
#define DIFFUSION_MULTIPLY_H

#include <stddef.h>
#include <string.h>

/* Eight sums side by side; a product is rounded before it is added, on every machine. */
typedef float lanes __attribute__((vector_size(32)));

/* Four rows of c = a * b, 16 columns: c[m][n] = sum over k of a[m * am + k * ak] b[k][n],
 * in the order of k. */
static inline __attribute__((always_inline)) void tile_body(const float *const rows[4],
                                                            size_t ak, const float *b,
                                                            size_t columns, size_t depth,
                                                            lanes sums[4][2]) {
    lanes s[4][2] = {{{0}}};
    for (size_t k = 0; k < depth; k++) {
        lanes b0, b1;
        memcpy(&b0, b + k * columns, sizeof b0);
        memcpy(&b1, b + k * columns + 8, sizeof b1);
        for (int m = 0; m < 4; m++) {
            const float a = rows[m][k * ak];
            s[m][0] += a * b0;
            s[m][1] += a * b1;
        }
    }
    memcpy(sums, s, sizeof s);
}

static inline void tile_plain(const float *const rows[4], size_t ak, const float *b,
                              size_t columns, size_t depth, lanes sums[4][2]) {
    tile_body(rows, ak, b, columns, depth, sums);
}

#if defined(__x86_64__) && defined(__GNUC__)
/* Without FMA, so that the sums are those of tile_plain. */
static __attribute__((target("avx2"))) void tile_avx2(const float *const rows[4],
                                                      size_t ak, const float *b,
                                                      size_t columns, size_t depth,
                                                      lanes sums[4][2]) {
    tile_body(rows, ak, b, columns, depth, sums);
}
#define HAS_AVX2 __builtin_cpu_supports("avx2")
#else
#define tile_avx2 tile_plain
#define HAS_AVX2 0
#endif

/* c[m][n] = sum over k of a[m * am + k * ak] * b[k][n]; 16 divides `columns`. */
static inline void multiply(const float *a, size_t am, size_t ak, const float *b,
                            size_t columns, size_t depth, float *c, size_t rows) {
    void (*tile)(const float *const[4], size_t, const float *, size_t, size_t,
                 lanes[4][2]) = HAS_AVX2 ? tile_avx2 : tile_plain;
    for (size_t row = 0; row < rows; row += 4) {
        const float *four[4];
        for (size_t m = 0; m < 4; m++)
            four[m] = a + (row + m < rows ? row + m : row) * am;
        for (size_t column = 0; column < columns; column += 16) {
            lanes sums[4][2];
            tile(four, ak, b + column, columns, depth, sums);
            for (size_t m = 0; m < 4 && row + m < rows; m++)
                memcpy(c + (row + m) * columns + column, sums[m], sizeof sums[m]);
        }
    }
}

#endif /* DIFFUSION_MULTIPLY_H */
