/* cpu_matmul_pairs - the products of class bf16p, once, over the vector operations that a body
 * defines before it includes this file: sums are HALVES vectors of LANES outputs, vpair is a pair
 * (k, k + 1) of BF16 weights of each lane, or one of x in all lanes, and pair_step adds both
 * products.  Included by one body file each; the scalar twin is in cpu_matmul_scalar.c.
 *
 * pair_step is what vdpbf16ps does (Intel SDM, VDPBF16PS): the product of the odd k is added first,
 * then that of the even one, each fused and rounded to nearest even; subnormal operands count as
 * zero and subnormal results are flushed, as MXCSR's DAZ and FTZ do it. */
#ifndef GRAMME_BACKEND_CPU_CPU_MATMUL_PAIRS_H
#define GRAMME_BACKEND_CPU_CPU_MATMUL_PAIRS_H

#include "backend/cpu/cpu_matmul_body.h"

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")

#define LANES (CPU_GROUP / HALVES)
#define PAIR_BYTES (CPU_GROUP * 4) /* of a group: one pair of all lanes */
#define STEP_PAIRS 128u            /* 8 KiB of weights stay in the L1 cache while rows pass */

struct pair_tile {
    const uint8_t *packed; /* the first group, pair 0 */
    uint64_t group_bytes;
    const uint8_t *x; /* the first row, pair 0 */
    uint64_t x_stride;
    float *sums;
    uint64_t sums_ld;
};

/* `rows` rows by `groups` neighbouring groups; sums are read and written back. */
INLINE void run_pair_tile(const unsigned rows, const unsigned groups, const struct pair_tile *tile,
                          uint64_t first, uint64_t end) {
    vfloat sum[PAIR_GROUPS_MAX][PAIR_ROWS_MAX][HALVES];
    UNROLL for (unsigned g = 0; g < groups; g++) UNROLL for (unsigned r = 0; r < rows; r++)
        UNROLL for (unsigned h = 0; h < HALVES; h++) sum[g][r][h] =
            v_loadf(tile->sums + r * tile->sums_ld + g * CPU_GROUP + h * LANES);
    for (uint64_t p = first; p < end; p++) UNROLL for (unsigned g = 0; g < groups; g++) {
            vpair weight[HALVES];
            UNROLL for (unsigned h = 0; h < HALVES; h++) weight[h] = pair_load(
                tile->packed + g * tile->group_bytes + p * PAIR_BYTES + h * (PAIR_BYTES / HALVES));
            UNROLL for (unsigned r = 0; r < rows; r++) {
                vpair x = pair_broadcast(tile->x + r * tile->x_stride + 4 * p);
                UNROLL for (unsigned h = 0; h < HALVES; h++) sum[g][r][h] =
                    pair_step(sum[g][r][h], weight[h], x);
            }
        }
    UNROLL for (unsigned g = 0; g < groups; g++) UNROLL for (unsigned r = 0; r < rows; r++)
        UNROLL for (unsigned h = 0; h < HALVES; h++)
            v_storef(tile->sums + r * tile->sums_ld + g * CPU_GROUP + h * LANES, sum[g][r][h]);
}

/* All rows over one group. */
INLINE void run_pair_rows(struct pair_tile tile, uint32_t row_count, uint64_t first, uint64_t end) {
    for (uint32_t left = row_count, rows; left != 0; left -= rows) {
        rows = left < PAIR_ROWS_MAX ? left : PAIR_ROWS_MAX;
        switch (rows) {
        case 1: run_pair_tile(1, 1, &tile, first, end); break;
        case 2: run_pair_tile(2, 1, &tile, first, end); break;
        case 3: run_pair_tile(3, 1, &tile, first, end); break;
        case 4: run_pair_tile(4, 1, &tile, first, end); break;
#if PAIR_ROWS_MAX >= 8
        case 5: run_pair_tile(5, 1, &tile, first, end); break;
        case 6: run_pair_tile(6, 1, &tile, first, end); break;
        case 7: run_pair_tile(7, 1, &tile, first, end); break;
        case 8: run_pair_tile(8, 1, &tile, first, end); break;
#endif
        default: __builtin_unreachable();
        }
        tile.x += rows * tile.x_stride;
        tile.sums += rows * tile.sums_ld;
    }
}

/* Not inlined: the caller sets MXCSR around it, which compilers know nothing of. */
static __attribute__((noinline)) void run_pairs(const struct cpu_matrix *matrix,
                                                const struct cpu_activations *activations,
                                                uint32_t group, uint32_t group_count,
                                                uint32_t row_first, uint32_t row_count,
                                                uint32_t k_first, uint32_t k_end, float *sums) {
    const uint64_t stride = cpu_activations_stride(NUMERICS_BF16P, matrix->columns);
    struct pair_tile tile = {.packed = matrix->data + group * matrix->group_bytes,
                             .group_bytes = matrix->group_bytes,
                             .x = activations->data + row_first * stride,
                             .x_stride = stride,
                             .sums = sums,
                             .sums_ld = (uint64_t) group_count * CPU_GROUP};
    const uint64_t first = k_first / 2, end = ((uint64_t) k_end + 1) / 2;
    memset(sums, 0, (uint64_t) row_count * group_count * CPU_GROUP * sizeof(float));
    if (row_count == 1) { /* several groups hide the latency of one sum each */
        for (uint32_t left = group_count, count; left != 0; left -= count) {
            count = left >= PAIR_GROUPS_MAX ? PAIR_GROUPS_MAX : 1;
            if (count == 1) run_pair_tile(1, 1, &tile, first, end);
            else run_pair_tile(1, PAIR_GROUPS_MAX, &tile, first, end);
            tile.packed += count * tile.group_bytes;
            tile.sums += count * CPU_GROUP;
        }
        return;
    }
    for (uint64_t p = first; p < end; p += STEP_PAIRS)
        for (uint32_t g = 0; g < group_count; g++) {
            struct pair_tile one = tile;
            one.packed += g * tile.group_bytes;
            one.sums += g * CPU_GROUP;
            run_pair_rows(one, row_count, p, end - p < STEP_PAIRS ? end : p + STEP_PAIRS);
        }
}

#endif
