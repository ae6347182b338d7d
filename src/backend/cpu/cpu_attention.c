/* cpu_attention - see cpu_attention.h.  Compiled once for each body: CPU_VEC and
 * CPU_ATTENTION_NAME come from meson.build.
 *
 * The inner functions take the row count, the number of vectors and the KV format as constants
 * and are inlined into one instance for each: that is where the registers are shared out. */
#include "backend/cpu/cpu_attention.h"

#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_vec.h"
#include "base/check.h"

#ifndef CPU_ATTENTION_NAME
#define CPU_ATTENTION_NAME cpu_attention_scalar
#endif

#define ROWS_MAX 6 /* 2 x 6 accumulators, 2 of keys, 1 of the query: AVX2's 16 registers */

VEC_INLINE uint32_t element_bytes(enum kv_dtype dtype) { return dtype == KV_DTYPE_F32 ? 4 : 2; }

VEC_INLINE struct v16 load2(enum kv_dtype dtype, const uint8_t *low, const uint8_t *high) {
    if (dtype == KV_DTYPE_F32) return v16_load2_f32(low, high);
    if (dtype == KV_DTYPE_F16) return v16_load2_f16(low, high);
    return v16_load2_bf16(low, high);
}

/* --- q.k ---------------------------------------------------------------------------------- */

/* Scores of `pairs` times 16 slots for `rows` rows.  low[p], high[p]: the two packets of pair p.
 * The sums of finished lanes wait in `tree` until their neighbour comes. */
VEC_KERNEL void score_slots(const uint32_t rows, const uint32_t pairs, const enum kv_dtype dtype,
                            uint32_t head_dim, const uint8_t *const *low,
                            const uint8_t *const *high, const float *queries, float *scores) {
    const uint32_t step = CPU_PACKET * element_bytes(dtype), per_lane = head_dim / 16;
    struct v16 tree[4][ROWS_MAX * 2];
    uint64_t at = 0;
    const float *query = queries;
    for (uint32_t lane = 0; lane < 16; lane++) {
        struct v16 acc[ROWS_MAX * 2];
        VEC_UNROLL for (uint32_t p = 0; p < pairs; p++) {
            struct v16 k = load2(dtype, low[p] + at, high[p] + at);
            VEC_UNROLL for (uint32_t r = 0; r < rows; r++) acc[p * rows + r] =
                v16_mul(v16_set1(query[r * head_dim]), k);
        }
        at += step;
        query++;
        for (uint32_t i = 1; i < per_lane; i++, at += step, query++) {
            VEC_UNROLL for (uint32_t p = 0; p < pairs; p++) {
                struct v16 k = load2(dtype, low[p] + at, high[p] + at);
                VEC_UNROLL for (uint32_t r = 0; r < rows; r++) acc[p * rows + r] =
                    v16_fma(v16_set1(query[r * head_dim]), k, acc[p * rows + r]);
            }
        }
        uint32_t level = 0;
        for (uint32_t rest = lane; rest & 1; rest >>= 1, level++)
            VEC_UNROLL for (uint32_t i = 0; i < rows * pairs; i++) acc[i] =
                v16_add(tree[level][i], acc[i]);
        if (lane < 15)
            VEC_UNROLL for (uint32_t i = 0; i < rows * pairs; i++) tree[level][i] = acc[i];
        else
            VEC_UNROLL for (uint32_t p = 0; p < pairs; p++)
                VEC_UNROLL for (uint32_t r = 0; r < rows; r++)
                    v16_store(scores + r * CPU_TILE + p * 16, acc[p * rows + r]);
    }
}

VEC_KERNEL void score_rows(const uint32_t rows, const enum kv_dtype dtype,
                           const struct cpu_attention_tile *tile, uint32_t head_dim,
                           const float *queries, uint32_t first, uint32_t end, float *scores) {
    const uint32_t pairs = rows <= 2 ? 2 : 1;
    uint32_t packet_end = (end + CPU_PACKET - 1) / CPU_PACKET;
    uint32_t pair = first / 16, pair_end = (end + 15) / 16;
    while (pair < pair_end) {
        uint32_t count = pair_end - pair >= pairs ? pairs : 1;
        const uint8_t *low[2], *high[2];
        for (uint32_t p = 0; p < count; p++) {
            uint32_t packet = 2 * (pair + p);
            low[p] = tile->keys[packet];
            high[p] = tile->keys[packet + 1 < packet_end ? packet + 1 : packet];
        }
        float *out = scores + pair * 16;
        if (count == 2) score_slots(rows, 2, dtype, head_dim, low, high, queries, out);
        else score_slots(rows, 1, dtype, head_dim, low, high, queries, out);
        pair += count;
    }
}

/* --- softmax of one row of a tile --------------------------------------------------------- */

/* Bit l: slot at + l is in [first, end). */
VEC_INLINE struct m16 in_range(uint32_t at, uint32_t first, uint32_t end) {
    uint32_t bits = 0xffffu;
    if (first > at) bits &= 0xffffu << (first - at);
    if (end < at + 16) bits &= 0xffffu >> (at + 16 - end);
    return m16_make(bits & 0xffffu);
}

/* Scores to exponentials; slots of the same 16 outside the range become 0. */
VEC_KERNEL void soften(uint32_t first, uint32_t end, float *scores, float *max_out,
                       float *sum_out) {
    const struct v16 lowest = v16_set1(-INFINITY);
    uint32_t begin = first & ~15u, inner = (first + 15) & ~15u, inner_end = end & ~15u;
    struct v16 top = lowest;
    for (uint32_t i = begin; i < end; i += 16) {
        struct v16 s = v16_load(scores + i);
        if (i < inner || i >= inner_end) s = v16_select(in_range(i, first, end), s, lowest);
        top = v16_max(s, top);
    }
    float max = v16_top(top);
    struct v16 max16 = v16_set1(max), sum = v16_zero();
    for (uint32_t i = begin; i < end; i += 16) {
        struct v16 e = v16_exp(v16_sub(v16_load(scores + i), max16));
        if (i < inner || i >= inner_end) e = v16_select(in_range(i, first, end), e, v16_zero());
        v16_store(scores + i, e);
        sum = v16_add(sum, e);
    }
    *max_out = max;
    *sum_out = v16_sum(sum);
}

/* --- times the values --------------------------------------------------------------------- */

/* acc += sum over slots [first, end), ascending, of e x value, for `vectors` x 16 dimensions. */
VEC_KERNEL void weigh_slots(const uint32_t rows, const uint32_t vectors, const enum kv_dtype dtype,
                            const struct cpu_attention_tile *tile, uint32_t head_dim,
                            uint32_t dimension, uint32_t first, uint32_t end, const float *scores,
                            float *acc) {
    const uint32_t bytes = element_bytes(dtype);
    struct v16 sums[ROWS_MAX * 2];
    VEC_UNROLL for (uint32_t r = 0; r < rows; r++) VEC_UNROLL for (uint32_t c = 0; c < vectors; c++)
        sums[r * vectors + c] = v16_load(acc + r * head_dim + dimension + c * 16);
    for (uint32_t slot = first; slot < end;) {
        uint32_t stop = (slot | (CPU_PACKET - 1)) + 1;
        if (stop > end) stop = end;
        const uint8_t *value = tile->values[slot / CPU_PACKET] +
                               ((uint64_t) (slot % CPU_PACKET) * head_dim + dimension) * bytes;
        for (; slot < stop; slot++, value += head_dim * bytes) {
            struct v16 v[4];
            VEC_UNROLL for (uint32_t c = 0; c < vectors; c++) v[c] =
                load2(dtype, value + c * 16 * bytes, value + (c * 16 + 8) * bytes);
            VEC_UNROLL for (uint32_t r = 0; r < rows; r++) {
                struct v16 e = v16_set1(scores[r * CPU_TILE + slot]);
                VEC_UNROLL for (uint32_t c = 0; c < vectors; c++) sums[r * vectors + c] =
                    v16_fma(e, v[c], sums[r * vectors + c]);
            }
        }
    }
    VEC_UNROLL for (uint32_t r = 0; r < rows; r++) VEC_UNROLL for (uint32_t c = 0; c < vectors; c++)
        v16_store(acc + r * head_dim + dimension + c * 16, sums[r * vectors + c]);
}

VEC_KERNEL void weigh_rows(const uint32_t rows, const enum kv_dtype dtype,
                           const struct cpu_attention_tile *tile, uint32_t head_dim, uint32_t first,
                           uint32_t end, const float *scores, float *acc) {
    if (first >= end) return;
    const uint32_t vectors = rows == 1 ? 4 : rows <= 2 ? 2 : 1;
    uint32_t d = 0;
    for (; d + vectors * 16 <= head_dim; d += vectors * 16)
        weigh_slots(rows, vectors, dtype, tile, head_dim, d, first, end, scores, acc);
    if (vectors > 1)
        for (; d < head_dim; d += 16)
            weigh_slots(rows, 1, dtype, tile, head_dim, d, first, end, scores, acc);
}

static void weigh_one(enum kv_dtype dtype, const struct cpu_attention_tile *tile, uint32_t head_dim,
                      uint32_t first, uint32_t end, const float *scores, float *acc) {
    if (dtype == KV_DTYPE_F32) weigh_rows(1, KV_DTYPE_F32, tile, head_dim, first, end, scores, acc);
    else if (dtype == KV_DTYPE_F16)
        weigh_rows(1, KV_DTYPE_F16, tile, head_dim, first, end, scores, acc);
    else weigh_rows(1, KV_DTYPE_BF16, tile, head_dim, first, end, scores, acc);
}

/* --- a group of rows ---------------------------------------------------------------------- */

/* Slots that all rows attend go through the shared loop; what single rows have before and after
 * them goes row by row, so that each row still sees its slots in ascending order. */
VEC_KERNEL void attend(const uint32_t rows, const enum kv_dtype dtype,
                       const struct cpu_attention_tile *tile, const struct cpu_attention_rows *all,
                       uint32_t at) {
    const uint32_t head_dim = all->head_dim, *first = all->first + at, *end = all->end + at;
    uint32_t low = CPU_TILE, high = 0, inner = 0, inner_end = CPU_TILE;
    for (uint32_t r = 0; r < rows; r++) {
        if (first[r] < end[r] && first[r] < low) low = first[r];
        if (first[r] < end[r] && end[r] > high) high = end[r];
        if (first[r] > inner) inner = first[r];
        if (end[r] < inner_end) inner_end = end[r];
    }
    if (low >= high) return;
    float *scores = all->scores, *acc = all->acc + (uint64_t) at * head_dim;
    score_rows(rows, dtype, tile, head_dim, all->queries + (uint64_t) at * head_dim, low, high,
               scores);
    for (uint32_t r = 0; r < rows; r++) {
        if (first[r] >= end[r]) continue;
        soften(first[r], end[r], scores + r * CPU_TILE, &all->max[at + r], &all->sum[at + r]);
        memset(acc + (uint64_t) r * head_dim, 0, head_dim * sizeof *acc);
    }
    bool is_shared = inner < inner_end;
    if (!is_shared || low < inner)
        for (uint32_t r = 0; r < rows; r++)
            if (first[r] < end[r])
                weigh_one(dtype, tile, head_dim, first[r], is_shared ? inner : end[r],
                          scores + r * CPU_TILE, acc + (uint64_t) r * head_dim);
    if (!is_shared) return;
    weigh_rows(rows, dtype, tile, head_dim, inner, inner_end, scores, acc);
    if (high > inner_end)
        for (uint32_t r = 0; r < rows; r++)
            weigh_one(dtype, tile, head_dim, inner_end, end[r], scores + r * CPU_TILE,
                      acc + (uint64_t) r * head_dim);
}

#define ATTEND_ALL(dtype)                                                                          \
    for (uint32_t at = 0; at < rows->row_count; at += ROWS_MAX) switch (rows->row_count - at) {    \
        case 1: attend(1, dtype, tile, rows, at); break;                                           \
        case 2: attend(2, dtype, tile, rows, at); break;                                           \
        case 3: attend(3, dtype, tile, rows, at); break;                                           \
        case 4: attend(4, dtype, tile, rows, at); break;                                           \
        case 5: attend(5, dtype, tile, rows, at); break;                                           \
        default: attend(6, dtype, tile, rows, at); break;                                          \
        }

static void tile_f32(const struct cpu_attention_tile *tile, const struct cpu_attention_rows *rows) {
    ATTEND_ALL(KV_DTYPE_F32)
}

static void tile_f16(const struct cpu_attention_tile *tile, const struct cpu_attention_rows *rows) {
    ATTEND_ALL(KV_DTYPE_F16)
}

static void tile_bf16(const struct cpu_attention_tile *tile,
                      const struct cpu_attention_rows *rows) {
    ATTEND_ALL(KV_DTYPE_BF16)
}

static void attend_tile(enum kv_dtype dtype, const struct cpu_attention_tile *tile,
                        const struct cpu_attention_rows *rows) {
    switch (dtype) {
    case KV_DTYPE_F16: tile_f16(tile, rows); break;
    case KV_DTYPE_BF16: tile_bf16(tile, rows); break;
    default: tile_f32(tile, rows); break;
    }
}

static void fold(uint32_t head_dim, float *state_max, float *state_sum, float *state_acc, float max,
                 float sum, const float *acc) {
    float top = *state_max > max ? *state_max : max;
    float factors[16] = {*state_max - top, max - top};
    v16_store(factors, v16_exp(v16_load(factors)));
    float old = factors[0], fresh = factors[1];
    *state_max = top;
    *state_sum = __builtin_fmaf(sum, fresh, *state_sum * old);
    struct v16 old16 = v16_set1(old), fresh16 = v16_set1(fresh);
    for (uint32_t d = 0; d < head_dim; d += 16)
        v16_store(state_acc + d,
                  v16_fma(v16_load(acc + d), fresh16, v16_mul(v16_load(state_acc + d), old16)));
}

static void finish(uint32_t head_dim, float sum, const float *acc, float *out) {
    struct v16 factor = v16_set1(1.0f / sum);
    for (uint32_t d = 0; d < head_dim; d += 16)
        v16_store(out + d, v16_mul(v16_load(acc + d), factor));
}

/* --- into and out of the run -------------------------------------------------------------- */

static void arrange(uint32_t head_dim, const float *query, float scale, float *out) {
    const uint32_t per_lane = head_dim / 16;
    for (uint32_t i = 0; i < 16; i++)
        for (uint32_t j = 0, lane = cpu_attention_lane(i); j < per_lane; j++)
            out[i * per_lane + j] = query[lane + 16 * j] * scale;
}

static void to_halves(enum kv_dtype dtype, uint32_t head_dim, const float *x, uint16_t *out) {
    if (dtype == KV_DTYPE_BF16) {
        for (uint32_t d = 0; d < head_dim; d++) out[d] = half_to_bf16(x[d]);
    } else {
        for (uint32_t d = 0; d < head_dim; d += 16) v16_store_f16(out + d, v16_load(x + d));
    }
}

/* One slot in int8 or e4m3 with its scale; not finite: zeros with a scale of NaN. */
static void quantize(enum kv_dtype dtype, uint32_t head_dim, const float *x, uint8_t *out,
                     uint32_t stride, uint8_t *scale_out) {
    struct v16 top = v16_zero();
    bool is_finite = true;
    for (uint32_t d = 0; d < head_dim; d += 16) {
        struct v16 magnitude = v16_abs(v16_load(x + d));
        is_finite &= m16_bits(v16_lt(magnitude, v16_set1(INFINITY))) == 0xffffu;
        top = v16_max(magnitude, top);
    }
    const float limit = dtype == KV_DTYPE_INT8 ? 127.0f : 448.0f;
    float max = v16_top(top), scale = is_finite ? max / limit : NAN;
    /* A row of the smallest subnormals has no useful inverse; it is stored as zeros. */
    float inverse = is_finite && scale >= 0x1p-126f ? limit / max : 0.0f;
    if (inverse == 0.0f && is_finite) scale = 0.0f;
    memcpy(scale_out, &scale, sizeof scale);
    for (uint32_t p = 0; p < head_dim; p++) {
        uint32_t d = stride == 1 ? p : cpu_attention_dimension(head_dim, p);
        float y = inverse == 0.0f ? 0.0f : x[d] * inverse;
        if (dtype == KV_DTYPE_INT8) {
            y = (y + 12582912.0f) - 12582912.0f; /* to the nearest integer, ties to even */
            if (y > 127.0f) y = 127.0f;
            if (y < -127.0f) y = -127.0f;
            out[(uint64_t) p * stride] = (uint8_t) (int8_t) y;
        } else {
            out[(uint64_t) p * stride] = half_to_e4m3(y);
        }
    }
}

static void store_key(enum kv_dtype dtype, uint32_t head_dim, const float *key, uint8_t *run,
                      uint32_t slot_count, uint32_t slot) {
    uint64_t at = (uint64_t) (slot / CPU_PACKET) * head_dim * CPU_PACKET + slot % CPU_PACKET;
    if (dtype == KV_DTYPE_F32) {
        float *out = (float *) (void *) run + at;
        for (uint32_t i = 0; i < 16; i++)
            for (uint32_t d = cpu_attention_lane(i); d < head_dim; d += 16, out += CPU_PACKET)
                *out = key[d];
    } else if (dtype == KV_DTYPE_F16 || dtype == KV_DTYPE_BF16) {
        uint16_t halves[CPU_HEAD_DIM_MAX], *out = (uint16_t *) (void *) run + at;
        to_halves(dtype, head_dim, key, halves);
        for (uint32_t i = 0; i < 16; i++)
            for (uint32_t d = cpu_attention_lane(i); d < head_dim; d += 16, out += CPU_PACKET)
                *out = halves[d];
    } else {
        quantize(dtype, head_dim, key, run + at, CPU_PACKET,
                 run + (uint64_t) slot_count * head_dim + (uint64_t) slot * 4);
    }
}

static void store_value(enum kv_dtype dtype, uint32_t head_dim, const float *value, uint8_t *run,
                        uint32_t slot_count, uint32_t slot) {
    uint64_t at = (uint64_t) slot * head_dim;
    if (dtype == KV_DTYPE_F32) {
        memcpy(run + at * 4, value, head_dim * sizeof *value);
    } else if (dtype == KV_DTYPE_F16 || dtype == KV_DTYPE_BF16) {
        to_halves(dtype, head_dim, value, (uint16_t *) (void *) run + at);
    } else {
        quantize(dtype, head_dim, value, run + at, 1,
                 run + (uint64_t) slot_count * head_dim + (uint64_t) slot * 4);
    }
}

VEC_INLINE float widen(enum kv_dtype dtype, uint8_t byte) {
    return dtype == KV_DTYPE_INT8 ? (float) (int8_t) byte : half_from_e4m3(byte);
}

static void unpack_keys(enum kv_dtype dtype, uint32_t head_dim, const uint8_t *run,
                        uint32_t slot_count, uint32_t packet, float *out) {
    float scales[CPU_PACKET];
    memcpy(scales, run + (uint64_t) slot_count * head_dim + packet * sizeof scales, sizeof scales);
    const uint8_t *from = run + (uint64_t) packet * head_dim * CPU_PACKET;
    for (uint32_t p = 0; p < head_dim; p++)
        for (uint32_t s = 0; s < CPU_PACKET; s++)
            out[p * CPU_PACKET + s] = widen(dtype, from[p * CPU_PACKET + s]) * scales[s];
}

static void unpack_values(enum kv_dtype dtype, uint32_t head_dim, const uint8_t *run,
                          uint32_t slot_count, uint32_t packet, float *out) {
    float scales[CPU_PACKET];
    memcpy(scales, run + (uint64_t) slot_count * head_dim + packet * sizeof scales, sizeof scales);
    const uint8_t *from = run + (uint64_t) packet * head_dim * CPU_PACKET;
    for (uint32_t s = 0; s < CPU_PACKET; s++)
        for (uint32_t d = 0; d < head_dim; d++)
            out[s * head_dim + d] = widen(dtype, from[s * head_dim + d]) * scales[s];
}

const struct cpu_attention_ops CPU_ATTENTION_NAME = {
    .tile = attend_tile,
    .fold = fold,
    .finish = finish,
    .arrange = arrange,
    .store_key = store_key,
    .store_value = store_value,
    .unpack_keys = unpack_keys,
    .unpack_values = unpack_values,
};
