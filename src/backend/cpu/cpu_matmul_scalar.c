/* cpu_matmul_scalar - the slow twin: every other body must give these bits. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_matmul_body.h"

static float weight_f32a(enum tensor_type type, const uint8_t *group, uint32_t k, uint32_t lane) {
    uint64_t at = (uint64_t) k * CPU_GROUP + lane;
    uint16_t half;
    if (type == TENSOR_F16) {
        memcpy(&half, group + 2 * at, 2);
        return cpu_half_to_f32(half);
    }
    float value;
    if (type == TENSOR_BF16) {
        memcpy(&half, group + 4 * ((uint64_t) (k / 2) * CPU_GROUP + lane) + 2 * (k % 2), 2);
        uint32_t bits = (uint32_t) half << 16;
        memcpy(&value, &bits, 4);
        return value;
    }
    memcpy(&value, group + 4 * at, 4);
    return value;
}

static void sums_f32a(enum tensor_type type, const uint8_t *group, const float *x, uint32_t k_first,
                      uint32_t k_end, float *sums) {
    for (uint32_t lane = 0; lane < CPU_GROUP; lane++) sums[lane] = 0;
    for (uint32_t k = k_first; k < k_end; k++)
        for (uint32_t lane = 0; lane < CPU_GROUP; lane++)
            sums[lane] = fmaf(weight_f32a(type, group, k, lane), x[k], sums[lane]);
}

/* The stored quant, offset not yet taken off. */
static int quant_at(const struct cpu_block_layout *layout, const uint8_t *block, unsigned k,
                    uint32_t lane) {
    unsigned chunk = k / 4, byte = 4 * lane + k % 4;
    if (layout->bits == 8) return (int8_t) block[layout->quants + 64 * chunk + byte];
    unsigned nibbles = block[layout->quants + 64 * (chunk % 4) + byte];
    int quant = (int) (chunk < 4 ? nibbles & 15u : nibbles >> 4);
    const uint8_t *high = block + layout->high + byte;
    if (layout->bits == 5) quant |= (high[0] >> chunk & 1) << 4;
    if (layout->bits == 6) quant |= (high[chunk / 4 * 64] >> (2 * (chunk % 4)) & 3) << 4;
    return quant;
}

static void add_block(enum tensor_type type, const uint8_t *block,
                      const struct cpu_activation_block *x, float *sums) {
    const struct cpu_block_layout layout = cpu_block_layout(type);
    for (uint32_t lane = 0; lane < CPU_GROUP; lane++) {
        int32_t product = 0;
        for (unsigned k = 0; k < CPU_BLOCK; k++) {
            int weight = quant_at(&layout, block, k, lane);
            if (layout.has_offset) weight -= 1 << layout.offset_shift;
            if (layout.subs != 0) weight *= (int8_t) block[layout.subs + 16 * (k / 16) + lane];
            product += weight * x->quants[k];
        }
        float scale, min = 0;
        uint16_t half;
        if (layout.is_wide) {
            memcpy(&scale, block + 4 * lane, 4);
            memcpy(&min, block + layout.mins + 4 * lane, 4);
        } else {
            memcpy(&half, block + 2 * lane, 2);
            scale = cpu_half_to_f32(half);
            if (layout.mins != 0) memcpy(&half, block + layout.mins + 2 * lane, 2);
            if (layout.mins != 0) min = cpu_half_to_f32(half);
        }
        sums[lane] = fmaf((float) product, scale * x->scale, sums[lane]);
        if (layout.mins != 0) sums[lane] = fmaf(min, x->sum, sums[lane]);
    }
}

void cpu_matmul_scalar_sums(const struct cpu_matrix *matrix,
                            const struct cpu_activations *activations, uint32_t group,
                            uint32_t group_count, uint32_t row_first, uint32_t row_count,
                            uint32_t k_first, uint32_t k_end, float *sums) {
    uint64_t stride = cpu_activations_stride(matrix->numerics, matrix->columns);
    uint32_t block_bytes = cpu_block_layout(matrix->type).bytes;
    for (uint32_t r = 0; r < row_count; r++) {
        const uint8_t *row = activations->data + (row_first + r) * stride;
        for (uint32_t g = 0; g < group_count; g++, sums += CPU_GROUP) {
            const uint8_t *packed = matrix->data + (group + g) * matrix->group_bytes;
            if (matrix->numerics == NUMERICS_F32A) {
                sums_f32a(matrix->type, packed, (const float *) row, k_first, k_end, sums);
                continue;
            }
            memset(sums, 0, CPU_GROUP * sizeof(float));
            for (uint32_t b = k_first / CPU_BLOCK; b < k_end / CPU_BLOCK; b++)
                add_block(matrix->type, packed + (uint64_t) b * block_bytes,
                          (const struct cpu_activation_block *) row + b, sums);
        }
    }
}

/* --- bf16p -------------------------------------------------------------------------------- */

static float flush(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x; }

/* a x b + sum as one step of vdpbf16ps: fused, to nearest even, subnormals flushed; a and b are
 * BF16.  The product (16 bits) is exact in double.  Where its sum with `sum` (24 bits) is not, the
 * smaller one is less than 2^-29 of the larger, which is a float: either way it is far from a tie,
 * and rounding twice is rounding once.  The rounding to 24 bits knows no smallest exponent, as FTZ
 * looks at the result after it. */
static float add_product(float a, float b, float sum) {
    double whole = (double) flush(a) * (double) flush(b) + (double) flush(sum);
    if (!isfinite(whole)) return (float) whole;
    uint64_t bits;
    memcpy(&bits, &whole, sizeof bits);
    bits += 0x0fffffffu + (bits >> 29 & 1);
    bits &= ~(uint64_t) 0x1fffffff;
    memcpy(&whole, &bits, sizeof whole);
    return fabs(whole) < 0x1p-126 ? (float) copysign(0, whole) : (float) whole;
}

static float from_bf16(const uint8_t *at) {
    uint16_t half;
    memcpy(&half, at, sizeof half);
    uint32_t bits = (uint32_t) half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

void cpu_matmul_scalar_pairs(const struct cpu_matrix *matrix,
                             const struct cpu_activations *activations, uint32_t group,
                             uint32_t group_count, uint32_t row_first, uint32_t row_count,
                             uint32_t k_first, uint32_t k_end, float *sums) {
    uint64_t stride = cpu_activations_stride(NUMERICS_BF16P, matrix->columns);
    memset(sums, 0, (uint64_t) row_count * group_count * CPU_GROUP * sizeof(float));
    for (uint32_t r = 0; r < row_count; r++)
        for (uint32_t g = 0; g < group_count; g++, sums += CPU_GROUP)
            for (uint32_t k = k_first; k < k_end; k += 2) {
                const uint8_t *x = activations->data + (row_first + r) * stride + 2 * (uint64_t) k;
                const uint8_t *weight =
                    matrix->data + (group + g) * matrix->group_bytes + 2 * (uint64_t) k * CPU_GROUP;
                for (uint32_t lane = 0; lane < CPU_GROUP; lane++, weight += 4) {
                    sums[lane] = add_product(from_bf16(weight + 2), from_bf16(x + 2), sums[lane]);
                    sums[lane] = add_product(from_bf16(weight), from_bf16(x), sums[lane]);
                }
            }
}
