/* cpu_matmul_lanes - the products, once, over the vector operations that a body defines before it
 * includes this file: one group is HALVES vectors of LANES outputs.  Included by one body file
 * each; the scalar twin is cpu_matmul_scalar.c.
 *
 * Up to 3 rows read the packed blocks as they lie: memory is the limit there.  From 4 rows on a
 * piece of the group (PANEL_*) is unpacked once into the L1 cache and every row tile runs over it;
 * 8-bit and f32 weights need no unpacking.
 *
 * Why 16 bits hold what vpmaddubsw makes of two products (dot_step, |activation| <= 127):
 *   4 bits: 2 x 15 x 127 = 3810, eight chunks 30480;     5 bits: 7874, four chunks 31496;
 *   6 bits: 16002, two chunks 32004;                     8 bits: |w| <= 128, 32512, one chunk.
 * All are below 32768, so nothing saturates or wraps; FLUSH is that number of chunks. */
#ifndef GRAMME_BACKEND_CPU_CPU_MATMUL_LANES_H
#define GRAMME_BACKEND_CPU_CPU_MATMUL_LANES_H

#include "backend/cpu/cpu_matmul_body.h"

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")

#define LANES (CPU_GROUP / HALVES)
#define VECTOR_BYTES (64 / HALVES)

/* --- q8a32 -------------------------------------------------------------------------------- */

#define PANEL_BLOCKS 16u
/* Offsets in an unpacked block: quants (8 chunks x 64), scales and mins in f32, sub-scales. */
#define PANEL_SCALES 512u
#define PANEL_MINS 576u
#define PANEL_SUBS 640u
#define PANEL_BYTES 704u

/* One chunk (4 k) of a block as bytes. */
INLINE vint fetch(enum tensor_type type, bool is_panel, const uint8_t *block, unsigned chunk,
                  unsigned half) {
    const struct cpu_block_layout layout = cpu_block_layout(type);
    unsigned at = half * VECTOR_BYTES;
    if (is_panel) return v_load(block + 64 * chunk + at);
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

INLINE vfloat fetch_scale(enum tensor_type type, bool is_panel, const uint8_t *block,
                          unsigned half) {
    if (is_panel) return v_loadf(block + PANEL_SCALES + half * VECTOR_BYTES);
    if (cpu_block_layout(type).is_wide) return v_loadf(block + half * VECTOR_BYTES);
    return v_load_half(block + half * VECTOR_BYTES / 2);
}

INLINE vfloat fetch_min(enum tensor_type type, bool is_panel, const uint8_t *block, unsigned half) {
    const struct cpu_block_layout layout = cpu_block_layout(type);
    if (is_panel) return v_loadf(block + PANEL_MINS + half * VECTOR_BYTES);
    if (layout.is_wide) return v_loadf(block + layout.mins + half * VECTOR_BYTES);
    return v_load_half(block + layout.mins + half * VECTOR_BYTES / 2);
}

INLINE vint fetch_sub(enum tensor_type type, bool is_panel, const uint8_t *block, unsigned part,
                      unsigned half) {
    unsigned at = is_panel ? PANEL_SUBS : cpu_block_layout(type).subs;
    return v_load_int8(block + at + 16 * part + half * LANES);
}

struct tile_ints {
    vint v[TILE_ROWS][HALVES];
};

/* Exact sums of quant x activation over chunks [from, to), offsets not yet taken off. */
INLINE void dot_chunks(enum tensor_type type, bool is_panel, const unsigned rows,
                       const uint8_t *block, const uint8_t *x, uint64_t stride, unsigned from,
                       unsigned to, struct tile_ints *out) {
    const unsigned bits = cpu_block_layout(type).bits;
    const unsigned flush = bits == 8 ? 1 : bits == 6 ? DOT_CHUNKS_6 : bits == 5 ? DOT_CHUNKS_5 : 8;
    struct tile_ints partial;
    UNROLL for (unsigned chunk = from; chunk < to; chunk++) {
        bool is_first = (chunk - from) % flush == 0, is_flushed = (chunk - from + 1) % flush == 0;
        vint weight[HALVES];
        UNROLL for (unsigned h = 0; h < HALVES; h++) weight[h] =
            fetch(type, is_panel, block, chunk, h);
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
INLINE void dot_block(enum tensor_type type, bool is_panel, const unsigned rows,
                      const uint8_t *block, const uint8_t *x, uint64_t stride,
                      struct tile_ints *out) {
    const struct cpu_block_layout layout = cpu_block_layout(type);
    if (layout.subs == 0) {
        dot_chunks(type, is_panel, rows, block, x, stride, 0, 8, out);
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
    dot_chunks(type, is_panel, rows, block, x, stride, 0, 4, &parts[0]);
    dot_chunks(type, is_panel, rows, block, x, stride, 4, 8, &parts[1]);
    UNROLL for (unsigned r = 0; r < rows; r++) {
        vint halves = v_broadcast32(BLOCK_OF(x + r * stride)->halves);
        vint total[2] = {v_sra32(v_sll32(halves, 16), 16), v_sra32(halves, 16)};
        UNROLL for (unsigned h = 0; h < HALVES; h++) {
            vint sum[2];
            UNROLL for (unsigned part = 0; part < 2; part++) {
                vint offset = v_sll32(total[part], (int) layout.offset_shift);
                sum[part] = v_mul32(v_sub32(parts[part].v[r][h], offset),
                                    fetch_sub(type, is_panel, block, part, h));
            }
            out->v[r][h] = v_add32(sum[0], sum[1]);
        }
    }
}

/* `rows` rows over consecutive blocks of one group; sums are read and written back. */
INLINE void run_blocks(enum tensor_type type, bool is_panel, const unsigned rows,
                       const uint8_t *block, uint32_t block_count, const uint8_t *x,
                       uint64_t stride, float *sums, uint64_t sums_ld) {
    const struct cpu_block_layout layout = cpu_block_layout(type);
    const unsigned block_bytes = is_panel ? PANEL_BYTES : layout.bytes;
    vfloat sum[TILE_ROWS][HALVES];
    UNROLL for (unsigned r = 0; r < rows; r++) UNROLL for (unsigned h = 0; h < HALVES; h++)
        sum[r][h] = v_loadf(sums + r * sums_ld + h * LANES);
    for (uint32_t b = 0; b < block_count; b++) {
        if (rows == 1)
            for (unsigned line = 0; line < block_bytes; line += 64)
                __builtin_prefetch(block + PREFETCH_BYTES + line, 0, 3);
        struct tile_ints product;
        dot_block(type, is_panel, rows, block, x, stride, &product);
        vfloat scale[HALVES], min[HALVES];
        UNROLL for (unsigned h = 0; h < HALVES; h++) {
            scale[h] = fetch_scale(type, is_panel, block, h);
            if (layout.mins != 0) min[h] = fetch_min(type, is_panel, block, h);
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
        block += block_bytes;
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

INLINE void unpack(enum tensor_type type, const uint8_t *packed, uint32_t block_count,
                   uint8_t *panel) {
    const struct cpu_block_layout layout = cpu_block_layout(type);
    for (uint32_t b = 0; b < block_count; b++, packed += layout.bytes, panel += PANEL_BYTES) {
        /* The same piece of the next call: the rows in between take long enough. */
        for (unsigned line = 0; line < layout.bytes; line += 64)
            __builtin_prefetch(packed + PANEL_BLOCKS * layout.bytes + line, 0, 2);
        UNROLL for (unsigned h = 0; h < HALVES; h++) {
            UNROLL for (unsigned chunk = 0; chunk < 8; chunk++) v_store(
                panel + 64 * chunk + h * VECTOR_BYTES, fetch(type, false, packed, chunk, h));
            v_storef(panel + PANEL_SCALES + h * VECTOR_BYTES, fetch_scale(type, false, packed, h));
            if (layout.mins != 0)
                v_storef(panel + PANEL_MINS + h * VECTOR_BYTES, fetch_min(type, false, packed, h));
        }
        if (layout.subs != 0) memcpy(panel + PANEL_SUBS, packed + layout.subs, 2 * CPU_GROUP);
    }
}

/* All rows over a piece of one group, in register tiles. */
INLINE void run_rows(enum tensor_type type, bool is_panel, const uint8_t *block,
                     uint32_t block_count, const uint8_t *x, uint64_t stride, uint32_t row_count,
                     float *sums, uint64_t sums_ld) {
    uint32_t r = 0;
    for (; r + TILE_ROWS <= row_count; r += TILE_ROWS)
        run_blocks(type, is_panel, TILE_ROWS, block, block_count, x + r * stride, stride,
                   sums + r * sums_ld, sums_ld);
    for (; r + 2 <= row_count; r += 2)
        run_blocks(type, is_panel, 2, block, block_count, x + r * stride, stride,
                   sums + r * sums_ld, sums_ld);
    for (; r < row_count; r++)
        run_blocks(type, is_panel, 1, block, block_count, x + r * stride, stride,
                   sums + r * sums_ld, sums_ld);
}

INLINE void run_q8a32(enum tensor_type type, const struct blocks *work) {
    const struct cpu_block_layout layout = cpu_block_layout(type);
    const uint64_t sums_ld = (uint64_t) work->group_count * CPU_GROUP;
    if (work->row_count < 4) {
        for (uint32_t g = 0; g < work->group_count; g++) {
            const uint8_t *block = work->packed + g * work->group_bytes;
            float *sums = work->sums + g * CPU_GROUP;
            if (work->row_count == 3)
                run_blocks(type, false, 3, block, work->block_count, work->x, work->stride, sums,
                           sums_ld);
            else if (work->row_count == 2)
                run_blocks(type, false, 2, block, work->block_count, work->x, work->stride, sums,
                           sums_ld);
            else
                run_blocks(type, false, 1, block, work->block_count, work->x, work->stride, sums,
                           sums_ld);
        }
        return;
    }
    _Alignas(64) uint8_t panel[PANEL_BLOCKS * PANEL_BYTES];
    for (uint32_t first = 0; first < work->block_count; first += PANEL_BLOCKS) {
        uint32_t count = work->block_count - first;
        if (count > PANEL_BLOCKS) count = PANEL_BLOCKS;
        const uint8_t *x = work->x + first * sizeof(struct cpu_activation_block);
        for (uint32_t g = 0; g < work->group_count; g++) {
            const uint8_t *block =
                work->packed + g * work->group_bytes + (uint64_t) first * layout.bytes;
            float *sums = work->sums + g * CPU_GROUP;
            if (layout.bits == 8) {
                run_rows(type, false, block, count, x, work->stride, work->row_count, sums,
                         sums_ld);
                continue;
            }
            unpack(type, block, count, panel);
            run_rows(type, true, panel, count, x, work->stride, work->row_count, sums, sums_ld);
        }
    }
}

/* One function a type: each is a whole kernel by inlining. */
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

#define PANEL_K 256u /* 16 KiB of f32: half of an L1 cache */

/* Weights of k (and, BF16, k + 1: k is even then) as f32. */
INLINE void fetch_f32(enum tensor_type type, const uint8_t *group, uint64_t k, unsigned half,
                      vfloat out[2]) {
    if (type == TENSOR_BF16) {
        vint pair = v_load(group + k * (CPU_GROUP * 2) + half * VECTOR_BYTES);
        out[0] = v_as_float(v_sll32(pair, 16));
        out[1] = v_as_float(v_and(pair, v_set32((int32_t) 0xffff0000)));
        return;
    }
    for (unsigned i = 0; i < 2; i++) {
        if (type == TENSOR_F16)
            out[i] = v_load_half(group + (k + i) * (CPU_GROUP * 2) + half * VECTOR_BYTES / 2);
        else out[i] = v_loadf(group + (k + i) * (CPU_GROUP * 4) + half * VECTOR_BYTES);
    }
}

INLINE vfloat fetch_f32_last(enum tensor_type type, const uint8_t *group, uint64_t k,
                             unsigned half) {
    if (type == TENSOR_BF16)
        return v_as_float(v_sll32(v_load(group + k * (CPU_GROUP * 2) + half * VECTOR_BYTES), 16));
    if (type == TENSOR_F16)
        return v_load_half(group + k * (CPU_GROUP * 2) + half * VECTOR_BYTES / 2);
    return v_loadf(group + k * (CPU_GROUP * 4) + half * VECTOR_BYTES);
}

/* What an f32a call works on; k counts from the group's start. */
struct floats {
    const uint8_t *packed;
    uint64_t group_bytes;
    uint32_t group_count;
    uint32_t k_first, k_end;
    const float *x; /* first row, k = 0 */
    uint64_t ld;
    uint32_t row_count;
    float *sums;
};

/* `rows` rows by `groups` groups straight from the packed weights: rows x groups x HALVES
 * accumulators hide the latency of FMA. */
INLINE void run_few(enum tensor_type type, const unsigned rows, const unsigned groups,
                    const struct floats *work, uint32_t group, uint32_t row) {
    const uint64_t sums_ld = (uint64_t) work->group_count * CPU_GROUP;
    const uint8_t *packed = work->packed + group * work->group_bytes;
    const float *x = work->x + row * work->ld;
    float *sums = work->sums + row * sums_ld + group * CPU_GROUP;
    vfloat sum[FEW_GROUPS][FEW_ROWS][HALVES];
    UNROLL for (unsigned g = 0; g < groups; g++) UNROLL for (unsigned r = 0; r < rows; r++)
        UNROLL for (unsigned h = 0; h < HALVES; h++) sum[g][r][h] = v_zerof();
    uint32_t k = work->k_first;
    for (; k + 2 <= work->k_end; k += 2)
        UNROLL for (unsigned g = 0; g < groups; g++) UNROLL for (unsigned h = 0; h < HALVES; h++) {
            vfloat weight[2];
            fetch_f32(type, packed + g * work->group_bytes, k, h, weight);
            UNROLL for (unsigned i = 0; i < 2; i++) UNROLL for (unsigned r = 0; r < rows; r++)
                sum[g][r][h] =
                    v_fma(weight[i], v_broadcastf(x + r * work->ld + k + i), sum[g][r][h]);
        }
    if (k < work->k_end)
        for (unsigned g = 0; g < groups; g++)
            for (unsigned h = 0; h < HALVES; h++)
                for (unsigned r = 0; r < rows; r++)
                    sum[g][r][h] = v_fma(fetch_f32_last(type, packed + g * work->group_bytes, k, h),
                                         v_broadcastf(x + r * work->ld + k), sum[g][r][h]);
    UNROLL for (unsigned g = 0; g < groups; g++) UNROLL for (unsigned r = 0; r < rows; r++)
        UNROLL for (unsigned h = 0; h < HALVES; h++)
            v_storef(sums + r * sums_ld + g * CPU_GROUP + h * LANES, sum[g][r][h]);
}

/* `rows` rows over a panel of f32 weights (k, 16). */
INLINE void run_panel(const unsigned rows, const float *panel, uint32_t k_count, const float *x,
                      uint64_t ld, float *sums, uint64_t sums_ld) {
    vfloat sum[TILE_ROWS_F32][HALVES];
    UNROLL for (unsigned r = 0; r < rows; r++) UNROLL for (unsigned h = 0; h < HALVES; h++)
        sum[r][h] = v_loadf(sums + r * sums_ld + h * LANES);
    for (uint32_t k = 0; k < k_count; k++, panel += CPU_GROUP) {
        vfloat weight[HALVES];
        UNROLL for (unsigned h = 0; h < HALVES; h++) weight[h] = v_loadf(panel + h * LANES);
        UNROLL for (unsigned r = 0; r < rows; r++) {
            vfloat value = v_broadcastf(x + r * ld + k);
            UNROLL for (unsigned h = 0; h < HALVES; h++) sum[r][h] =
                v_fma(weight[h], value, sum[r][h]);
        }
    }
    UNROLL for (unsigned r = 0; r < rows; r++) UNROLL for (unsigned h = 0; h < HALVES; h++)
        v_storef(sums + r * sums_ld + h * LANES, sum[r][h]);
}

static void run_panel_rows(const float *panel, uint32_t k_count, const float *x, uint64_t ld,
                           uint32_t row_count, float *sums, uint64_t sums_ld) {
    uint32_t r = 0;
    for (; r + TILE_ROWS_F32 <= row_count; r += TILE_ROWS_F32)
        run_panel(TILE_ROWS_F32, panel, k_count, x + r * ld, ld, sums + r * sums_ld, sums_ld);
    for (; r + 4 <= row_count; r += 4)
        run_panel(4, panel, k_count, x + r * ld, ld, sums + r * sums_ld, sums_ld);
    for (; r + 2 <= row_count; r += 2)
        run_panel(2, panel, k_count, x + r * ld, ld, sums + r * sums_ld, sums_ld);
    for (; r < row_count; r++)
        run_panel(1, panel, k_count, x + r * ld, ld, sums + r * sums_ld, sums_ld);
}

INLINE void widen(enum tensor_type type, const uint8_t *group, uint32_t k_first, uint32_t k_count,
                  float *panel) {
    uint32_t k = 0;
    for (; k + 2 <= k_count; k += 2, panel += 2 * CPU_GROUP) {
        /* The next panel: the rows in between take long enough. */
        __builtin_prefetch(group + (uint64_t) (k_first + k + PANEL_K) * (CPU_GROUP * 2), 0, 2);
        UNROLL for (unsigned h = 0; h < HALVES; h++) {
            vfloat weight[2];
            fetch_f32(type, group, k_first + k, h, weight);
            v_storef(panel + h * LANES, weight[0]);
            v_storef(panel + CPU_GROUP + h * LANES, weight[1]);
        }
    }
    if (k < k_count)
        for (unsigned h = 0; h < HALVES; h++)
            v_storef(panel + h * LANES, fetch_f32_last(type, group, k_first + k, h));
}

INLINE void run_f32a(enum tensor_type type, const struct floats *work) {
    if (work->row_count < 4) {
        uint32_t g = 0;
        if (work->row_count == 1)
            for (; g + FEW_GROUPS <= work->group_count; g += FEW_GROUPS)
                run_few(type, 1, FEW_GROUPS, work, g, 0);
        for (; g + FEW_GROUPS / 2 <= work->group_count; g += FEW_GROUPS / 2) {
            if (work->row_count == 1) run_few(type, 1, FEW_GROUPS / 2, work, g, 0);
            else if (work->row_count == 2) run_few(type, 2, FEW_GROUPS / 2, work, g, 0);
            else run_few(type, 3, FEW_GROUPS / 2, work, g, 0);
        }
        for (; g < work->group_count; g++)
            for (uint32_t r = 0; r < work->row_count; r++) run_few(type, 1, 1, work, g, r);
        return;
    }
    _Alignas(64) float panel[PANEL_K * CPU_GROUP];
    const uint64_t sums_ld = (uint64_t) work->group_count * CPU_GROUP;
    memset(work->sums, 0, work->row_count * sums_ld * sizeof(float));
    for (uint32_t k = work->k_first; k < work->k_end; k += PANEL_K) {
        uint32_t count = work->k_end - k < PANEL_K ? work->k_end - k : PANEL_K;
        for (uint32_t g = 0; g < work->group_count; g++) {
            const uint8_t *group = work->packed + g * work->group_bytes;
            const float *weights = (const float *) (const void *) group + (uint64_t) k * CPU_GROUP;
            if (type != TENSOR_F32) {
                widen(type, group, k, count, panel);
                weights = panel;
            }
            run_panel_rows(weights, count, work->x + k, work->ld, work->row_count,
                           work->sums + g * CPU_GROUP, sums_ld);
        }
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
    if (matrix->numerics == NUMERICS_F32A) {
        const struct floats work = {.packed = packed,
                                    .group_bytes = matrix->group_bytes,
                                    .group_count = group_count,
                                    .k_first = k_first,
                                    .k_end = k_end,
                                    .x = (const float *) (const void *) x,
                                    .ld = stride / sizeof(float),
                                    .row_count = row_count,
                                    .sums = sums};
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
    memset(sums, 0, (uint64_t) row_count * group_count * CPU_GROUP * sizeof(float));
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
