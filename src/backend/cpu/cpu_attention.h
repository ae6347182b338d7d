/* cpu_attention - attention of query rows over one tile of 128 positions, and the run of a KV
 * head as this body keeps it.
 *
 * Inside a run, slots stand in packets of CPU_PACKET = 8 (every block size is a multiple):
 *   keys    [slot / 8][place][8]       place p holds dimension cpu_attention_dimension(p)
 *   values  [slot][head_dim]
 * and for int8 and fp8 one f32 scale a slot at the end.  So a product q.k runs with lanes along
 * the slots, and a place order that visits the 16 virtual lanes of numerics.md 2 (lane = dimension
 * mod 16) as their tree pairs them, with no sum across a register.
 *
 * The order of every sum is fixed (numerics.md 4): q.k as above; the tile's sum of exponentials
 * by 16 lanes (slot mod 16) and the lane tree; the values by ascending slot; tiles fold in
 * ascending order.  A row's result depends on nothing but its own query, range and the tile.
 *
 * Pure functions on the caller's memory; any thread. */
#ifndef GRAMME_BACKEND_CPU_CPU_ATTENTION_H
#define GRAMME_BACKEND_CPU_CPU_ATTENTION_H

#include <stdint.h>

#include "backend/cpu/cpu_matmul.h"
#include "backend/kv_dtype.h"

#define CPU_TILE 128 /* positions: numerics.md 4 */
#define CPU_PACKET 8 /* slots: the smallest block */
#define CPU_HEAD_DIM_MAX 512
#define CPU_TILE_PACKETS (CPU_TILE / CPU_PACKET)

/* Where the packets of one tile of one KV head lie, in f32, f16 or bf16 (quantized ones are
 * unpacked to f32 first).  Packets past the rows' ends are not looked at. */
struct cpu_attention_tile {
    const uint8_t *keys[CPU_TILE_PACKETS];
    const uint8_t *values[CPU_TILE_PACKETS];
};

/* Row r attends slots [first[r], end[r]) of the tile; an empty range leaves its outputs alone. */
struct cpu_attention_rows {
    uint32_t row_count;
    uint32_t head_dim;    /* a multiple of 16 */
    const float *queries; /* (row_count, head_dim) from `arrange` */
    const uint32_t *first;
    const uint32_t *end;
    float *scores; /* scratch: CPU_ATTENTION_SCORES floats */
    float *max;    /* (row_count) */
    float *sum;    /* (row_count) of e^(score - max) */
    float *acc;    /* (row_count, head_dim), times the values */
};

#define CPU_ATTENTION_SCORES (6 * CPU_TILE)

struct cpu_attention_ops {
    void (*tile)(enum kv_dtype dtype, const struct cpu_attention_tile *tile,
                 const struct cpu_attention_rows *rows);
    /* Takes a later tile's (max, sum, acc) into the state of the earlier ones. */
    void (*fold)(uint32_t head_dim, float *state_max, float *state_sum, float *state_acc, float max,
                 float sum, const float *acc);
    /* out = acc / sum */
    void (*finish)(uint32_t head_dim, float sum, const float *acc, float *out);
    /* A rotated query times `scale`, in place order. */
    void (*arrange)(uint32_t head_dim, const float *query, float scale, float *out);
    /* Rounds one slot's key (value) into its run of slot_count slots. */
    void (*store_key)(enum kv_dtype dtype, uint32_t head_dim, const float *key, uint8_t *run,
                      uint32_t slot_count, uint32_t slot);
    void (*store_value)(enum kv_dtype dtype, uint32_t head_dim, const float *value, uint8_t *run,
                        uint32_t slot_count, uint32_t slot);
    /* Packet `packet` of an int8 or fp8 run to f32, same order. */
    void (*unpack_keys)(enum kv_dtype dtype, uint32_t head_dim, const uint8_t *run,
                        uint32_t slot_count, uint32_t packet, float *out);
    void (*unpack_values)(enum kv_dtype dtype, uint32_t head_dim, const uint8_t *run,
                          uint32_t slot_count, uint32_t packet, float *out);
};

/* The dimension at a place of a key: the lanes in bit-reversed order, each with its dimensions
 * ascending. */
static inline uint32_t cpu_attention_lane(uint32_t i) {
    return (i & 1) << 3 | (i & 2) << 1 | (i & 4) >> 1 | (i & 8) >> 3;
}
static inline uint32_t cpu_attention_dimension(uint32_t head_dim, uint32_t place) {
    uint32_t per_lane = head_dim / 16;
    return cpu_attention_lane(place / per_lane) + 16 * (place % per_lane);
}

extern const struct cpu_attention_ops cpu_attention_scalar;
#ifdef __x86_64__
extern const struct cpu_attention_ops cpu_attention_avx2, cpu_attention_avx512;
#endif

static inline const struct cpu_attention_ops *cpu_attention_of(enum cpu_body body) {
#ifdef __x86_64__
    if (body == CPU_BODY_AVX512) return &cpu_attention_avx512;
    if (body == CPU_BODY_AVX2) return &cpu_attention_avx2;
#endif
    return &cpu_attention_scalar;
}

#endif
