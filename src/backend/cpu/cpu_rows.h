/* cpu_rows - what is done to one row of activations between the matrix products.
 *
 * Pure functions on the caller's rows; any thread.  One table for each body, all of the same bits
 * (cpu_vec.h).  Rows may have any length; lanes past the end count as zeros. */
#ifndef GRAMME_BACKEND_CPU_CPU_ROWS_H
#define GRAMME_BACKEND_CPU_CPU_ROWS_H

#include <stdint.h>

#include "backend/cpu/cpu_matmul.h"

struct cpu_rows_ops {
    /* out = x / sqrt(mean(x^2) + epsilon) * weight; out may be x. */
    void (*norm)(const float *x, const float *weight, uint32_t count, float epsilon, float *out);
    /* cos_sin: pair_count cosines, then pair_count sines, of f32(position) x inv_freq, both times
     * scale. */
    void (*angles)(uint32_t position, const float *inv_freq, uint32_t pair_count, float scale,
                   float *cos_sin);
    /* Rotates pairs (i, i + pair_count) of a head of 2 x pair_count. */
    void (*rotate)(float *head, const float *cos_sin, uint32_t pair_count);
    void (*silu_mul)(float *gate, const float *up, uint32_t count); /* gate = silu(gate) x up */
    void (*add)(float *x, const float *y, uint32_t count);          /* x += y */
    void (*exp)(float *x, uint32_t count);                          /* for tests and bench */
    void (*log)(float *x, uint32_t count);
};

extern const struct cpu_rows_ops cpu_rows_scalar;
#ifdef __x86_64__
extern const struct cpu_rows_ops cpu_rows_avx2, cpu_rows_avx512;
#endif

static inline const struct cpu_rows_ops *cpu_rows_of(enum cpu_body body) {
#ifdef __x86_64__
    if (body == CPU_BODY_AVX512) return &cpu_rows_avx512;
    if (body == CPU_BODY_AVX2) return &cpu_rows_avx2;
#endif
    return &cpu_rows_scalar;
}

#endif
