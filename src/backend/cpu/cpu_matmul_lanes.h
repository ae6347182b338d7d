/* cpu_matmul_lanes - the products, once, over the vector operations that a body defines before it
 * includes this file: one group is HALVES vectors of LANES outputs.  Included by one body file
 * each; the scalar twin is cpu_matmul_scalar.c.
 *
 * A register tile is a few rows by one group (f32a with up to 3 rows: several groups, to hide the
 * latency of FMA).  It reads the packed weights as they lie, and unpacks them once a tile: the
 * shifts run beside the multiplications, and an unpacked copy would cost stores and cache.  Pieces
 * of K (STEP_*) keep a group's weights in the L1 cache while all rows pass over them.
 *
 * Why 16 bits hold what vpmaddubsw makes of two products (dot_step, |activation| <= 127):
 *   4 bits: 2 x 15 x 127 = 3810, eight chunks 30480;     5 bits: 7874, four chunks 31496;
 *   6 bits: 16002, two chunks 32004;                     8 bits: |w| <= 128, 32512, one chunk.
 * All are below 32768, so nothing saturates or wraps; DOT_CHUNKS_* is that number of chunks. */
#ifndef GRAMME_BACKEND_CPU_CPU_MATMUL_LANES_H
#define GRAMME_BACKEND_CPU_CPU_MATMUL_LANES_H

#include "backend/cpu/cpu_matmul_body.h"

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")

#define LANES (CPU_GROUP / HALVES)
#define VECTOR_BYTES (64 / HALVES)

/* The next register tile of `left` rows: as even as can be, so that no lone row is left over, which
 * would unpack the weights for itself. */
INLINE uint32_t tile_rows(uint32_t left, uint32_t most) {
    uint32_t count = (left + most - 1) / most;
    return (left + count - 1) / count;
}

/* --- q8a32 -------------------------------------------------------------------------------- */

#define STEP_BLOCKS 16u /* at most 8.5 KiB of weights */

/* One chunk (4 k) of a block as bytes. */
INLINE vint fetch(enum tensor_type type, const uint8_t *block, unsigned chunk, unsigned half) {
    const struct cpu_block_layout layout = cpu_block_layout(type);
    unsigned at = half * VECTOR_BYTES;
    if (layout.bits == 8) return v_load(block + layout.quants + 64 * chunk + at);
    vint nibbles = v_load(block + layout.quants + 64 * (chunk % 4) + at);
    vint quants = v_and(chunk < 4 ? nibbles : v_srl16(nibbles, 4), v_set8(0x0f));
    if (layout.bits == 5) {
        vint high = v_load(block + layout.high + at);
        high = chunk < 4 ? v_sll16(high, 4 - (int) chunk) : v_srl16(high, (int) chunk - 4);
        quants = v_or(quants, v_and(high, v_set8(0x10)));
    }
    if (layout.bits == 6) {
        vint high = v_load(block + layout.high + 64 * (chunk / 4) + at);
        unsigned from = 2 * (chunk % 4);
        high = from < 4 ? v_sll16(high, 4 - (int) from) : v_srl16(high, (int) from - 4);
        quants = v_or(quants, v_and(high, v_set8(0x30)));
    }
    return quants;
}

INLINE vfloat fetch_scale(enum tensor_type type, const uint8_t *block, unsigned half) {
    if (cpu_block_layout(type).is_wide) return v_loadf(block + half * VECTOR_BYTES);
    return v_load_half(block + half * VECTOR_BYTES / 2);
}

INLINE vfloat fetch_min(enum tensor_type type, const uint8_t *block, unsigned half) {
    const struct cpu_block_layout layout = cpu_block_layout(type);
    if (layout.is_wide) return v_loadf(block + layout.mins + half * VECTOR_BYTES);
    return v_load_half(block + layout.mins + half * VECTOR_BYTES / 2);
}

struct tile_ints {
    vint v[ROWS_MAX][HALVES];
};

/* Exact sums of quant x activation over chunks [from, to), offsets not yet taken off. */
INLINE void dot_chunks(enum tensor_type type, const unsigned rows, const uint8_t *block,
                       const uint8_t *x, uint64_t stride, unsigned from, unsigned to,
                       struct tile_ints *out) {
    const unsigned bits = cpu_block_layout(type).bits;
    const unsigned flush = bits == 8 ? 1 : bits == 6 ? DOT_CHUNKS_6 : bits == 5 ? DOT_CHUNKS_5 : 8;
    struct tile_ints partial;
    UNROLL for (unsigned chunk = from; chunk < to; chunk++) {
        bool is_first = (chunk - from) % flush == 0, is_flushed = (chunk - from + 1) % flush == 0;
        vint weight[HALVES];
        UNROLL for (unsigned h = 0; h < HALVES; h++) weight[h] = fetch(type, block, chunk, h);
        UNROLL for (unsigned r = 0; r < rows; r++) {
            vint four = v_broadcast32(x + r * stride + 4 * chunk);
            UNROLL for (unsigned h = 0; h < HALVES; h++) {
                if (bits == 8) {
                    vint before = chunk == from ? v_zero() : out->v[r][h];
                    out->v[r][h] = dot_step_signed(before, weight[h], four);
                    continue;
                }
                vint before = is_first ? v_zero() : partial.v[r][h];
                partial.v[r][h] = dot_step(before, weight[h], four);
                if (!is_flushed && chunk + 1 != to) continue;
                vint whole = dot_flush(partial.v[r][h]);
                out->v[r][h] = chunk - from < flush ? whole : v_add32(out->v[r][h], whole);
            }
        }
    }
}

#define BLOCK_OF(row) ((const struct cpu_activation_block *) (const void *) (row))

/* Exact sum of weight x activation over the block, as the class defines it. */
INLINE void dot_block(enum tensor_type type, const unsigned rows, const uint8_t *block,
                      const uint8_t *x, uint64_t stride, struct tile_ints *out) {
    const struct cpu_block_layout layout = cpu_block_layout(type);
    if (layout.subs == 0) {
        dot_chunks(type, rows, block, x, stride, 0, 8, out);
        bool has_offset = layout.has_offset || (layout.bits == 8 && DOT_SIGNED_OFFSET != 0);
        int shift = layout.has_offset ? (int) layout.offset_shift : 7;
        if (!has_offset) return;
        UNROLL for (unsigned r = 0; r < rows; r++) {
            vint total = v_sll32(v_broadcast32(&BLOCK_OF(x + r * stride)->total), shift);
            UNROLL for (unsigned h = 0; h < HALVES; h++) out->v[r][h] =
                v_sub32(out->v[r][h], total);
        }
        return;
    }
    struct tile_ints parts[2];
    dot_chunks(type, rows, block, x, stride, 0, 4, &parts[0]);
    dot_chunks(type, rows, block, x, stride, 4, 8, &parts[1]);
    UNROLL for (unsigned r = 0; r < rows; r++) {
        vint halves = v_broadcast32(BLOCK_OF(x + r * stride)->halves);
        vint total[2] = {v_sra32(v_sll32(halves, 16), 16), v_sra32(halves, 16)};
        UNROLL for (unsigned h = 0; h < HALVES; h++) {
            vint sum[2];
            UNROLL for (unsigned part = 0; part < 2; part++) {
                vint offset = v_sll32(total[part], (int) layout.offset_shift);
                sum[part] = v_mul32(v_sub32(parts[part].v[r][h], offset),
                                    v_load_int8(block + layout.subs + 16 * part + h * LANES));
            }
            out->v[r][h] = v_add32(sum[0], sum[1]);
        }
    }
}

/* `rows` rows over consecutive blocks of one group; sums are read and written back. */
INLINE void run_blocks(enum tensor_type type, const unsigned rows, const uint8_t *block,
                       uint32_t block_count, const uint8_t *x, uint64_t stride, float *sums,
                       uint64_t sums_ld) {
    const struct cpu_block_layout layout = cpu_block_layout(type);
    vfloat sum[ROWS_MAX][HALVES];
    UNROLL for (unsigned r = 0; r < rows; r++) UNROLL for (unsigned h = 0; h < HALVES; h++)
        sum[r][h] = v_loadf(sums + r * sums_ld + h * LANES);
    for (uint32_t b = 0; b < block_count; b++) {
        for (unsigned line = 0; line < layout.bytes; line += 64)
            __builtin_prefetch(block + PREFETCH_BYTES + line, 0, 3);
        struct tile_ints product;
        dot_block(type, rows, block, x, stride, &product);
        vfloat scale[HALVES], min[HALVES];
        UNROLL for (unsigned h = 0; h < HALVES; h++) {
            scale[h] = fetch_scale(type, block, h);
            if (layout.mins != 0) min[h] = fetch_min(type, block, h);
        }
        UNROLL for (unsigned r = 0; r < rows; r++) {
            const struct cpu_activation_block *row = BLOCK_OF(x + r * stride);
            vfloat row_scale = v_broadcastf(&row->scale);
            UNROLL for (unsigned h = 0; h < HALVES; h++) {
                sum[r][h] =
                    v_fma(v_to_float(product.v[r][h]), v_mul(scale[h], row_scale), sum[r][h]);
                if (layout.mins != 0) sum[r][h] = v_fma(min[h], v_broadcastf(&row->sum), sum[r][h]);
            }
        }
        block += layout.bytes;
        x += sizeof(struct cpu_activation_block);
    }
    UNROLL for (unsigned r = 0; r < rows; r++) UNROLL for (unsigned h = 0; h < HALVES; h++)
        v_storef(sums + r * sums_ld + h * LANES, sum[r][h]);
}

/* What a q8a32 call of one type works on. */
struct blocks {
    const uint8_t *packed; /* at the first block, group `group` */
    uint64_t group_bytes;
    uint32_t group_count;
    uint32_t block_count;
    const uint8_t *x; /* at the first block, the first row */
    uint64_t stride;
    uint32_t row_count;
    float *sums;
};

INLINE void run_q8a32(enum tensor_type type, const struct blocks *work) {
    const struct cpu_block_layout layout = cpu_block_layout(type);
    const uint64_t ld = (uint64_t) work->group_count * CPU_GROUP, stride = work->stride;
    /* One row reads each weight once: no piece needs to stay. */
    const uint32_t step = work->row_count == 1 ? work->block_count : STEP_BLOCKS;
    for (uint32_t first = 0; first < work->block_count; first += step) {
        uint32_t count = work->block_count - first;
        if (count > step) count = step;
        for (uint32_t g = 0; g < work->group_count; g++) {
            const uint8_t *block =
                work->packed + g * work->group_bytes + (uint64_t) first * layout.bytes;
            const uint8_t *x = work->x + first * sizeof(struct cpu_activation_block);
            float *sums = work->sums + g * CPU_GROUP;
            for (uint32_t left = work->row_count, rows; left != 0; left -= rows) {
                rows = tile_rows(left, ROWS_MAX);
                switch (rows) {
                case 1: run_blocks(type, 1, block, count, x, stride, sums, ld); break;
                case 2: run_blocks(type, 2, block, count, x, stride, sums, ld); break;
                case 3: run_blocks(type, 3, block, count, x, stride, sums, ld); break;
                case 4: run_blocks(type, 4, block, count, x, stride, sums, ld); break;
#if ROWS_MAX >= 8
                case 5: run_blocks(type, 5, block, count, x, stride, sums, ld); break;
                case 6: run_blocks(type, 6, block, count, x, stride, sums, ld); break;
                case 7: run_blocks(type, 7, block, count, x, stride, sums, ld); break;
                case 8: run_blocks(type, 8, block, count, x, stride, sums, ld); break;
#endif
                default: __builtin_unreachable();
                }
                x += rows * stride;
                sums += rows * ld;
            }
        }
    }
}

#define DEFINE_Q8A32(name, type)                                                                   \
    static void name(const struct blocks *work) { run_q8a32(type, work); }
DEFINE_Q8A32(run_q8_0, TENSOR_Q8_0)
DEFINE_Q8A32(run_q4_0, TENSOR_Q4_0)
DEFINE_Q8A32(run_q4_1, TENSOR_Q4_1)
DEFINE_Q8A32(run_q5_0, TENSOR_Q5_0)
DEFINE_Q8A32(run_q5_1, TENSOR_Q5_1)
DEFINE_Q8A32(run_q4_k, TENSOR_Q4_K)
DEFINE_Q8A32(run_q5_k, TENSOR_Q5_K)
DEFINE_Q8A32(run_q6_k, TENSOR_Q6_K)

/* --- f32a --------------------------------------------------------------------------------- */

#define STEP_K 256u /* at most 16 KiB of weights */

/* Weights of k + odd as f32; k is even wherever odd is not 0. */
INLINE vfloat fetch_f32(enum tensor_type type, const uint8_t *group, uint64_t k, unsigned odd,
                        unsigned half) {
    if (type == TENSOR_BF16) {
        vint pair = v_load(group + k * (CPU_GROUP * 2) + half * VECTOR_BYTES);
        return v_as_float(odd ? v_and(pair, v_set32((int32_t) 0xffff0000)) : v_sll32(pair, 16));
    }
    if (type == TENSOR_F16)
        return v_load_half(group + (k + odd) * (CPU_GROUP * 2) + half * VECTOR_BYTES / 2);
    return v_loadf(group + (k + odd) * (CPU_GROUP * 4) + half * VECTOR_BYTES);
}

/* One register tile of f32a: rows of x by neighbouring groups. */
struct float_tile {
    const uint8_t *packed; /* the first group, k = 0 */
    uint64_t group_bytes;
    const float *x; /* the first row, k = 0 */
    uint64_t x_ld;
    float *sums;
    uint64_t sums_ld;
};

struct float_sums {
    vfloat v[GROUPS_MAX][ROWS_MAX_F32][HALVES];
};

/* One k.  Up to 4 rows a value of each stays while the weights pass, with more the weights stay
 * while the rows pass: either way the sums have all registers but a few.  For the same reason the
 * two k of a BF16 pair load it twice, and the compiler is kept from holding it in between. */
INLINE void add_k(enum tensor_type type, const unsigned rows, const unsigned groups,
                  const struct float_tile *tile, const float *const x[ROWS_MAX_F32], uint64_t k,
                  unsigned odd, struct float_sums *sum) {
    if (rows > 1) __asm__ volatile("" : "+r"(k) : : "memory");
    if (rows > 4) {
        vfloat weight[HALVES];
        UNROLL for (unsigned h = 0; h < HALVES; h++) weight[h] =
            fetch_f32(type, tile->packed, k, odd, h);
        UNROLL for (unsigned r = 0; r < rows; r++) {
            vfloat value = v_broadcastf(x[r] + k + odd);
            UNROLL for (unsigned h = 0; h < HALVES; h++) sum->v[0][r][h] =
                v_fma(weight[h], value, sum->v[0][r][h]);
        }
        return;
    }
    vfloat value[4];
    UNROLL for (unsigned r = 0; r < rows; r++) value[r] = v_broadcastf(x[r] + k + odd);
    UNROLL for (unsigned g = 0; g < groups; g++) UNROLL for (unsigned h = 0; h < HALVES; h++) {
        vfloat weight = fetch_f32(type, tile->packed + g * tile->group_bytes, k, odd, h);
        UNROLL for (unsigned r = 0; r < rows; r++) sum->v[g][r][h] =
            v_fma(weight, value[r], sum->v[g][r][h]);
    }
}

/* k in [k_first, k_end); sums are read and written back.  k_first is even. */
INLINE void run_float_tile(enum tensor_type type, const unsigned rows, const unsigned groups,
                           const struct float_tile *tile, uint64_t k_first, uint64_t k_end) {
    struct float_sums sum;
    const float *x[ROWS_MAX_F32];
    UNROLL for (unsigned r = 0; r < rows; r++) x[r] = tile->x + r * tile->x_ld;
    UNROLL for (unsigned g = 0; g < groups; g++) UNROLL for (unsigned r = 0; r < rows; r++)
        UNROLL for (unsigned h = 0; h < HALVES; h++)
            sum.v[g][r][h] = v_loadf(tile->sums + r * tile->sums_ld + g * CPU_GROUP + h * LANES);
    uint64_t k = k_first;
    for (; k + 2 <= k_end; k += 2) {
        add_k(type, rows, groups, tile, x, k, 0, &sum);
        add_k(type, rows, groups, tile, x, k, 1, &sum);
    }
    if (k < k_end) add_k(type, rows, groups, tile, x, k, 0, &sum);
    UNROLL for (unsigned g = 0; g < groups; g++) UNROLL for (unsigned r = 0; r < rows; r++)
        UNROLL for (unsigned h = 0; h < HALVES; h++)
            v_storef(tile->sums + r * tile->sums_ld + g * CPU_GROUP + h * LANES, sum.v[g][r][h]);
}

/* What an f32a call works on; k counts from the group's start. */
struct floats {
    struct float_tile all; /* the first tile */
    uint32_t group_count, row_count;
    uint32_t k_first, k_end;
};

/* Up to 3 rows: all groups, `groups` at a time. */
INLINE void run_few_rows(enum tensor_type type, const unsigned rows, const unsigned groups,
                         const struct floats *work) {
    struct float_tile tile = work->all;
    for (uint32_t left = work->group_count; left != 0;) {
        uint32_t count = left >= groups ? groups : 1;
        if (count == 1) run_float_tile(type, rows, 1, &tile, work->k_first, work->k_end);
        else run_float_tile(type, rows, groups, &tile, work->k_first, work->k_end);
        tile.packed += count * tile.group_bytes;
        tile.sums += count * CPU_GROUP;
        left -= count;
    }
}

INLINE void run_many_rows(enum tensor_type type, const struct floats *work, uint32_t g,
                          uint32_t k_first, uint32_t k_end) {
    struct float_tile tile = work->all;
    tile.packed += g * tile.group_bytes;
    tile.sums += g * CPU_GROUP;
    for (uint32_t left = work->row_count, rows; left != 0; left -= rows) {
        rows = tile_rows(left, ROWS_MAX_F32);
        switch (rows) {
        case 1: run_float_tile(type, 1, 1, &tile, k_first, k_end); break;
        case 2: run_float_tile(type, 2, 1, &tile, k_first, k_end); break;
        case 3: run_float_tile(type, 3, 1, &tile, k_first, k_end); break;
        case 4: run_float_tile(type, 4, 1, &tile, k_first, k_end); break;
        case 5: run_float_tile(type, 5, 1, &tile, k_first, k_end); break;
#if ROWS_MAX_F32 >= 12
        case 6: run_float_tile(type, 6, 1, &tile, k_first, k_end); break;
        case 7: run_float_tile(type, 7, 1, &tile, k_first, k_end); break;
        case 8: run_float_tile(type, 8, 1, &tile, k_first, k_end); break;
        case 9: run_float_tile(type, 9, 1, &tile, k_first, k_end); break;
        case 10: run_float_tile(type, 10, 1, &tile, k_first, k_end); break;
        case 11: run_float_tile(type, 11, 1, &tile, k_first, k_end); break;
        case 12: run_float_tile(type, 12, 1, &tile, k_first, k_end); break;
#endif
        default: __builtin_unreachable();
        }
        tile.x += rows * tile.x_ld;
        tile.sums += rows * tile.sums_ld;
    }
}

INLINE void run_f32a(enum tensor_type type, const struct floats *work) {
    switch (work->row_count) {
    case 1: run_few_rows(type, 1, GROUPS_MAX, work); return;
    case 2: run_few_rows(type, 2, GROUPS_MAX / 2, work); return;
    case 3: run_few_rows(type, 3, GROUPS_MAX / 2, work); return;
    default: break;
    }
    for (uint32_t k = work->k_first; k < work->k_end; k += STEP_K) {
        uint32_t end = work->k_end - k < STEP_K ? work->k_end : k + STEP_K;
        for (uint32_t g = 0; g < work->group_count; g++) run_many_rows(type, work, g, k, end);
    }
}

#define DEFINE_F32A(name, type)                                                                    \
    static void name(const struct floats *work) { run_f32a(type, work); }
DEFINE_F32A(run_f32, TENSOR_F32)
DEFINE_F32A(run_f16, TENSOR_F16)
DEFINE_F32A(run_bf16, TENSOR_BF16)

/* --- the call ------------------------------------------------------------------------------ */

static void run_sums(const struct cpu_matrix *matrix, const struct cpu_activations *activations,
                     uint32_t group, uint32_t group_count, uint32_t row_first, uint32_t row_count,
                     uint32_t k_first, uint32_t k_end, float *sums) {
    const uint64_t stride = cpu_activations_stride(matrix->numerics, matrix->columns);
    const uint8_t *x = activations->data + row_first * stride;
    const uint8_t *packed = matrix->data + group * matrix->group_bytes;
    memset(sums, 0, (uint64_t) row_count * group_count * CPU_GROUP * sizeof(float));
    if (matrix->numerics == NUMERICS_F32A) {
        const struct floats work = {.all = {.packed = packed,
                                            .group_bytes = matrix->group_bytes,
                                            .x = (const float *) (const void *) x,
                                            .x_ld = stride / sizeof(float),
                                            .sums = sums,
                                            .sums_ld = (uint64_t) group_count * CPU_GROUP},
                                    .group_count = group_count,
                                    .row_count = row_count,
                                    .k_first = k_first,
                                    .k_end = k_end};
        if (matrix->type == TENSOR_F16) run_f16(&work);
        else if (matrix->type == TENSOR_BF16) run_bf16(&work);
        else run_f32(&work);
        return;
    }
    uint32_t first = k_first / CPU_BLOCK;
    const struct blocks work = {.packed = packed +
                                          (uint64_t) first * cpu_block_layout(matrix->type).bytes,
                                .group_bytes = matrix->group_bytes,
                                .group_count = group_count,
                                .block_count = (k_end - k_first) / CPU_BLOCK,
                                .x = x + first * sizeof(struct cpu_activation_block),
                                .stride = stride,
                                .row_count = row_count,
                                .sums = sums};
    switch (matrix->type) {
    case TENSOR_Q8_0: run_q8_0(&work); break;
    case TENSOR_Q4_0: run_q4_0(&work); break;
    case TENSOR_Q4_1: run_q4_1(&work); break;
    case TENSOR_Q5_0: run_q5_0(&work); break;
    case TENSOR_Q5_1: run_q5_1(&work); break;
    case TENSOR_Q4_K: run_q4_k(&work); break;
    case TENSOR_Q5_K: run_q5_k(&work); break;
    case TENSOR_Q6_K: run_q6_k(&work); break;
    default: CHECK(false); /* not a quantized type */
    }
}

#endif
