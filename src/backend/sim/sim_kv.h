/* sim_kv - the KV content of the sim: numbers that only the right blocks, whole and in their
 * places, add up to.
 *
 * A position has a key of 64 bits.  Its low half is cut into one piece a KV head and stored as K,
 * its high half likewise as V: pieces are random but their weighted sum (weights 2 head + 1) is the
 * half itself, so any lost or misplaced piece changes it, and the sum does not depend on how the
 * heads lie on ranks.  A run is [slot] of u32.  Where ranks hold copies of a head, all are written,
 * and a copy that differs from the first changes the sum too.
 *
 * The sum over positions weighs each by its place (sim_kv_share).  Both halves are summed apart,
 * modulo 2^32.  Owned by a sim backend; memory is its ranks' planned "kv". */
#ifndef GRAMME_BACKEND_SIM_SIM_KV_H
#define GRAMME_BACKEND_SIM_SIM_KV_H

#include <stdint.h>

#include "backend/backend.h"

struct sim_run; /* where the runs of one head (K or V) on one rank lie */

struct sim_kv {
    uint32_t block_size;
    uint32_t block_count; /* without block 0 */
    uint32_t rank_count;
    uint32_t head_total;  /* KV heads of the model */
    uint32_t head_count;  /* of each rank */
    uint32_t copies;      /* ranks that hold the same head */
    struct sim_run *runs; /* (K|V, head_total, copies) */
};

/* head_total 0 (a spec of no heads) counts as 1. */
MUST_USE enum err sim_kv_init(struct sim_kv *kv, uint32_t head_total, uint32_t rank_count,
                              uint32_t block_size);
void sim_kv_release(struct sim_kv *kv);
/* Of a block on one rank; all ranks alike. */
uint64_t sim_kv_block_bytes(const struct sim_kv *kv);
/* Block 1 of `rank` lies at base. */
void sim_kv_place(struct sim_kv *kv, uint32_t rank, uint8_t *base);

/* What a position's key adds to the sum; sums are added with sim_kv_add. */
uint64_t sim_kv_share(uint64_t key, uint32_t position);
uint64_t sim_kv_add(uint64_t sum, uint64_t share);
void sim_kv_write(const struct sim_kv *kv, const uint32_t *blocks, uint32_t position, uint64_t key);
/* The sum over what is stored for positions [0, position_count). */
uint64_t sim_kv_sum(const struct sim_kv *kv, const uint32_t *blocks, uint32_t block_count,
                    uint32_t position_count);

void sim_kv_layout(const struct sim_kv *kv, uint32_t rank, struct kv_layout *out);
void sim_kv_copy(const struct sim_kv *kv, uint32_t from, uint32_t to, uint32_t slot_count);
uint64_t sim_kv_checksum(const struct sim_kv *kv, uint32_t rank, uint32_t block,
                         uint32_t slot_count);

#endif
