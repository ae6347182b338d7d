/* xfer_plan - which bytes of a block go from which rank of P to which rank of D.
 *
 * Pure.  Each side makes its own half from its own strides and the other's degree alone: the
 * pairs of ranks that share KV heads, in the same order on both sides, and for each pair the runs
 * of its own memory.  The runs of a pair, joined, are the same bytes on both sides: layer after
 * layer, K then V, head after head.  Runs that touch in memory are one run; so at equal TP, where
 * the region is the image, a pair is one run.
 *
 * A head that P holds several times is sent by one holder to each rank of D that holds it.
 * What is sent at once is a part: at most XFER_PART_BYTES of a pair. */
#ifndef GRAMME_XFER_XFER_PLAN_H
#define GRAMME_XFER_XFER_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"
#include "base/err.h"

/* Of a message; fixed, because both sides count in parts.  Measured with `gramme bench xfer` over
 * shared memory (2-core Zen 3 guest, 2026-11): 16 MiB move at 5.0 GB/s in parts of 256 KiB, at 4.3
 * in parts of 512 KiB; smaller ones pay more handshakes. */
#define XFER_PART_BYTES (256u << 10)

enum xfer_side { XFER_SOURCE, XFER_TARGET };

struct xfer_run {
    uint64_t at;     /* in the pair's bytes */
    uint64_t offset; /* from the start of the block on this side's rank */
    uint64_t bytes;
};

struct xfer_pair {
    uint32_t own_rank, peer_rank;
    uint32_t head_first, head_count; /* the model's */
    uint64_t bytes;
    uint32_t run_first, run_count;
    uint32_t part_first, part_count; /* numbered through the plan */
};

struct xfer_plan {
    enum xfer_side side;
    uint32_t own_tp, peer_tp;
    uint32_t pair_count, run_count, part_count;
    uint64_t piece_bytes; /* of all pairs */
    struct xfer_pair *pairs;
    struct xfer_run *runs;
};

/* layouts: own_tp of them, of one model; whatever else is a programming error.  ERR_UNSUPPORTED:
 * no degree of this model (the heads neither divide it nor are divided by it). */
MUST_USE enum err xfer_plan_create(const struct kv_layout *layouts, uint32_t own_tp,
                                   enum xfer_side side, uint32_t peer_tp, struct xfer_plan **out);
void xfer_plan_destroy(struct xfer_plan *plan);

struct xfer_part {
    const struct xfer_pair *pair;
    uint64_t at, bytes; /* in the pair's bytes */
};
struct xfer_part xfer_plan_part(const struct xfer_plan *plan, uint32_t part);

/* Where [at, at + bytes) of the pair lies when it is one run of `block`; else NULL. */
uint8_t *xfer_plan_contiguous(const struct xfer_plan *plan, const struct kv_layout *layouts,
                              const struct xfer_pair *pair, uint32_t block, uint64_t at,
                              uint64_t bytes);
/* The bytes [at, at + bytes) of the pair, out of the block, or into it. */
void xfer_plan_gather(const struct xfer_plan *plan, const struct kv_layout *layouts,
                      const struct xfer_pair *pair, uint32_t block, uint64_t at, uint64_t bytes,
                      uint8_t *to);
void xfer_plan_scatter(const struct xfer_plan *plan, const struct kv_layout *layouts,
                       const struct xfer_pair *pair, uint32_t block, uint64_t at, uint64_t bytes,
                       const uint8_t *from);
/* Both halves in one process: copies one pair of a block straight across. */
void xfer_plan_copy(const struct xfer_plan *source, const struct kv_layout *source_layouts,
                    uint32_t source_block, const struct xfer_plan *target,
                    const struct kv_layout *target_layouts, uint32_t target_block, uint32_t pair);
/* XXH3-64 of the bytes [at, at + bytes) of the pair. */
uint64_t xfer_plan_hash_part(const struct xfer_plan *plan, const struct kv_layout *layouts,
                             const struct xfer_pair *pair, uint32_t block, uint64_t at,
                             uint64_t bytes);
/* XXH3-64 over all pairs of the block, in order. */
uint64_t xfer_plan_hash(const struct xfer_plan *plan, const struct kv_layout *layouts,
                        uint32_t block);

#endif
