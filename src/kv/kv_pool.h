/* kv_pool - which sequence holds which block of this rank's KV memory.
 *
 * Bookkeeping only: no device call is made here, so the pool runs the same in unit tests and in
 * the simulator.  One owner, the worker's step thread; no locks.  Owns its index.
 *
 *   FREE --acquire--> HELD --seal--> SEALED --last release--> CACHED
 *    ^                  |                ^                      |  |
 *    |                  |                +------- admit --------+  |
 *    +---- release -----+                                          |
 *    +-------------------- evict (inside acquire) -----------------+
 *
 * A HELD block is still being written by one sequence.  A SEALED block is full, immutable and
 * named by every token up to its end, so it may be shared and sent.  A CACHED block is sealed,
 * unreferenced, and may be evicted, least recently used first.  Without caching the last release
 * of a SEALED block frees it.
 *
 * Invariant (kv_pool_check): free + cached + used == total, promised <= free + cached; a sealed
 * block's parent is here, and goes later than it. */
#ifndef GRAMME_KV_KV_POOL_H
#define GRAMME_KV_KV_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "kv/kv_index.h"

struct kv_pool;

struct kv_pool_options {
    uint32_t block_count; /* usable ones, numbered 1..block_count; block 0 is "none" */
    uint32_t block_size;
    bool is_caching;
    uint32_t event_room; /* events kept for routers */
};

/* Blocks that may be acquired without fail. */
struct kv_promise {
    uint32_t block_count;
};

struct kv_pool_counts {
    uint32_t total, free, cached, used, promised;
};

MUST_USE enum err kv_pool_create(const struct kv_pool_options *options, struct kv_pool **out);
void kv_pool_destroy(struct kv_pool *pool);
uint32_t kv_pool_block_size(const struct kv_pool *pool);
const struct kv_index *kv_pool_index(const struct kv_pool *pool);

/* Takes a reference on each of the hit blocks (SEALED or CACHED) and promises new_count blocks, or
 * does neither: ERR_BUSY when promised + new + hits now CACHED would pass free + cached; then *out
 * is untouched. */
MUST_USE enum err kv_pool_admit(struct kv_pool *pool, const uint32_t *hits, uint32_t hit_count,
                                uint32_t new_count, struct kv_promise *out);
/* ERR_BUSY when the blocks are not there now; then *out is untouched. */
MUST_USE enum err kv_pool_promise(struct kv_pool *pool, uint32_t block_count,
                                  struct kv_promise *out);
/* Gives back what is left of the promise. */
void kv_pool_forfeit(struct kv_pool *pool, struct kv_promise *promise);
/* Takes one block out of the promise; cannot fail.  The caller holds one reference and gives it
 * back with kv_pool_release. */
uint32_t kv_pool_acquire(struct kv_pool *pool, struct kv_promise *promise);
/* The block's slots hold the KV of `tokens` (block_size ids) behind `parent`, and are never
 * written again.  Returns the parent of the block after it. */
struct kv_link kv_pool_seal(struct kv_pool *pool, uint32_t block, struct kv_link parent,
                            const uint32_t *tokens);
/* A sequence releases its last block first, so that its tail is evicted before its prefix. */
void kv_pool_release(struct kv_pool *pool, uint32_t block);
/* Evicts everything that is cached. */
void kv_pool_drop_cached(struct kv_pool *pool);

void kv_pool_get_counts(const struct kv_pool *pool, struct kv_pool_counts *out);
/* References on a block; 0 for FREE and CACHED. */
uint32_t kv_pool_references(const struct kv_pool *pool, uint32_t block);
/* Walks every block and list and CHECKs the invariant. */
void kv_pool_check(const struct kv_pool *pool);

#endif
