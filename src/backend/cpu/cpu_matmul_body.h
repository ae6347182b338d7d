/* cpu_matmul_body - what the bodies of the product share: packed layouts and the call between
 * cpu_matmul.c (row tiles, segments, tree) and one body's sums.  Private to cpu_matmul*,
 * cpu_matrix* and cpu_activations*.
 *
 * f32a, one group: F32 is [k][16] floats, F16 is [k][16] halves, BF16 is [k / 2][16][2] (an odd
 * last k is paired with a zero), so that a vector holds k and k + 1 of each lane.
 *
 * bf16p, one group: BF16 as under f32a; a row of x is BF16 too, an odd last k paired with a zero.
 *
 * q8a32, one group: blocks of 32 k in ascending order, each
 *   scales (16 f16; f32 for K-quants) | mins | sub-scales | high bits | quants
 * Quants are 64-byte vectors of 16 lanes x 4 k.  4, 5 and 6 bits: vector c (0..3) holds chunk c (k
 * from 4c) in its low nibbles and chunk c + 4 in its high ones; 8 bits: vector c (0..7) is chunk c.
 * High bits, 5 bits: one vector, bit c of a byte belongs to chunk c.  6 bits: two vectors, for
 * chunks 0-3 and 4-7, two bits a chunk. */
#ifndef GRAMME_BACKEND_CPU_CPU_MATMUL_BODY_H
#define GRAMME_BACKEND_CPU_CPU_MATMUL_BODY_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "backend/cpu/cpu_matmul.h"

#define CPU_BLOCK 32 /* k of a quantized block */

/* Offsets in a packed block; 0: the type has no such part. */
struct cpu_block_layout {
    bool is_wide; /* scales and mins are f32 */
    uint32_t mins;
    uint32_t subs; /* Q6_K: 16 int8 for k 0-15, then 16 for k 16-31 */
    uint32_t high;
    uint32_t quants;
    uint32_t bytes;
    uint32_t bits;
    uint32_t offset_shift; /* weight = quant - (1 << offset_shift), where has_offset */
    bool has_offset;
};

/* `type` is a constant wherever speed matters. */
static inline __attribute__((always_inline)) struct cpu_block_layout
cpu_block_layout(enum tensor_type type) {
    switch (type) {
    case TENSOR_Q8_0: return (struct cpu_block_layout){.quants = 32, .bytes = 544, .bits = 8};
    case TENSOR_Q4_0:
        return (struct cpu_block_layout){
            .quants = 32, .bytes = 288, .bits = 4, .has_offset = true, .offset_shift = 3};
    case TENSOR_Q4_1:
        return (struct cpu_block_layout){.mins = 32, .quants = 64, .bytes = 320, .bits = 4};
    case TENSOR_Q5_0:
        return (struct cpu_block_layout){.high = 32,
                                         .quants = 96,
                                         .bytes = 352,
                                         .bits = 5,
                                         .has_offset = true,
                                         .offset_shift = 4};
    case TENSOR_Q5_1:
        return (struct cpu_block_layout){
            .mins = 32, .high = 64, .quants = 128, .bytes = 384, .bits = 5};
    case TENSOR_Q4_K:
        return (struct cpu_block_layout){
            .is_wide = true, .mins = 64, .quants = 128, .bytes = 384, .bits = 4};
    case TENSOR_Q5_K:
        return (struct cpu_block_layout){
            .is_wide = true, .mins = 64, .high = 128, .quants = 192, .bytes = 448, .bits = 5};
    case TENSOR_Q6_K:
        return (struct cpu_block_layout){.subs = 32,
                                         .high = 64,
                                         .quants = 192,
                                         .bytes = 448,
                                         .bits = 6,
                                         .has_offset = true,
                                         .offset_shift = 5};
    default: return (struct cpu_block_layout){0};
    }
}

/* 32 activations of a row.  sum = scale x (float) total; total = halves[0] + halves[1]. */
struct cpu_activation_block {
    int8_t quants[CPU_BLOCK];
    float scale;
    float sum;
    int32_t total;
    int16_t halves[2];
};
_Static_assert(sizeof(struct cpu_activation_block) == 48, "the kernels count on 48 bytes");

/* Bytes from one row to the next: an odd number of cache lines, so that the rows of a tile do not
 * fall into the same sets. */
uint64_t cpu_activations_stride(enum numerics numerics, uint32_t columns);

/* The sums over k in [k_first, k_end), one segment, from +0: sums[(r x group_count + g) x 16 +
 * lane] for rows row_first + r and groups group + g. */
typedef void (*cpu_matmul_sums_fn)(const struct cpu_matrix *matrix,
                                   const struct cpu_activations *activations, uint32_t group,
                                   uint32_t group_count, uint32_t row_first, uint32_t row_count,
                                   uint32_t k_first, uint32_t k_end, float *sums);

void cpu_matmul_scalar_sums(const struct cpu_matrix *matrix,
                            const struct cpu_activations *activations, uint32_t group,
                            uint32_t group_count, uint32_t row_first, uint32_t row_count,
                            uint32_t k_first, uint32_t k_end, float *sums);
void cpu_matmul_avx2_sums(const struct cpu_matrix *matrix,
                          const struct cpu_activations *activations, uint32_t group,
                          uint32_t group_count, uint32_t row_first, uint32_t row_count,
                          uint32_t k_first, uint32_t k_end, float *sums);
void cpu_matmul_avx512_sums(const struct cpu_matrix *matrix,
                            const struct cpu_activations *activations, uint32_t group,
                            uint32_t group_count, uint32_t row_first, uint32_t row_count,
                            uint32_t k_first, uint32_t k_end, float *sums);
void cpu_matmul_avx512vnni_sums(const struct cpu_matrix *matrix,
                                const struct cpu_activations *activations, uint32_t group,
                                uint32_t group_count, uint32_t row_first, uint32_t row_count,
                                uint32_t k_first, uint32_t k_end, float *sums);

/* Class bf16p. */
void cpu_matmul_scalar_pairs(const struct cpu_matrix *matrix,
                             const struct cpu_activations *activations, uint32_t group,
                             uint32_t group_count, uint32_t row_first, uint32_t row_count,
                             uint32_t k_first, uint32_t k_end, float *sums);
void cpu_matmul_pairs_avx2_sums(const struct cpu_matrix *matrix,
                                const struct cpu_activations *activations, uint32_t group,
                                uint32_t group_count, uint32_t row_first, uint32_t row_count,
                                uint32_t k_first, uint32_t k_end, float *sums);
void cpu_matmul_pairs_avx512_sums(const struct cpu_matrix *matrix,
                                  const struct cpu_activations *activations, uint32_t group,
                                  uint32_t group_count, uint32_t row_first, uint32_t row_count,
                                  uint32_t k_first, uint32_t k_end, float *sums);
void cpu_matmul_pairs_avx512bf16_sums(const struct cpu_matrix *matrix,
                                      const struct cpu_activations *activations, uint32_t group,
                                      uint32_t group_count, uint32_t row_first, uint32_t row_count,
                                      uint32_t k_first, uint32_t k_end, float *sums);
#define CPU_MXCSR_FLUSH 0x8040u /* FTZ and DAZ */

/* One row of `columns` floats as blocks. */
void cpu_activations_avx2_quantize(const float *x, uint32_t columns,
                                   struct cpu_activation_block *out);

/* Packs the stored row as lane `lane` of a group at `group`, whose bytes were zeroed. */
void cpu_matrix_set_lane(const struct cpu_matrix *matrix, uint32_t lane, const void *row,
                         uint8_t *group);
/* The AVX-512 bodies differ in the instructions for int8; VNNI is taken where it is.  The unit
 * test turns it off to run the other. */
bool cpu_body_has_vnni(void);
void cpu_body_allow_vnni(bool is_allowed);
/* Likewise vdpbf16ps, for class bf16p. */
bool cpu_body_has_bf16(void);
void cpu_body_allow_bf16(bool is_allowed);

/* Exact, subnormals included. */
static inline float cpu_half_to_f32(uint16_t half) {
    uint32_t sign = (uint32_t) (half & 0x8000u) << 16;
    uint32_t exponent = (half >> 10) & 31u;
    uint32_t bits = half & 0x3ffu;
    float value;
    if (exponent == 0) {
        value = (float) bits * 0x1p-24f;
        return sign != 0 ? -value : value;
    }
    bits = exponent == 31 ? 0x7f800000u | bits << 13 : (exponent + 112) << 23 | bits << 13;
    bits |= sign;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

#endif
