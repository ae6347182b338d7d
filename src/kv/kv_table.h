/* kv_table - the blocks of one sequence: position p lives in blocks[p / block_size].
 *
 * Embedded in the sequence, which lends the array; holds one reference on each block, and what
 * is left of the sequence's promise.  Same thread as the pool.
 *
 *   empty --admit or fork--> in use --(append, grow, seal)*--> in use --release--> empty
 *
 * Blocks [0, sealed_count) are sealed; the others are HELD by this sequence alone. */
#ifndef GRAMME_KV_KV_TABLE_H
#define GRAMME_KV_KV_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "kv/kv_pool.h"

struct kv_table {
    uint32_t *blocks; /* the sequence's array of block_room */
    uint32_t block_room;
    uint32_t block_count;
    uint32_t sealed_count;
    struct kv_link tail; /* of the last sealed block */
    struct kv_promise promise;
};

void kv_table_init(struct kv_table *table, uint32_t *blocks, uint32_t block_room);
/* How many blocks kv_table_admit would find now. */
uint32_t kv_table_hits(const struct kv_pool *pool, const uint32_t *tokens, uint32_t token_count);
/* Looks the known tokens up (when may_read; at most floor((token_count - 1) / block_size) blocks,
 * because the last token is always computed), takes the hits and promises the rest of block_total
 * in one transaction.  ERR_BUSY: nothing has changed. */
MUST_USE enum err kv_table_admit(struct kv_table *table, struct kv_pool *pool,
                                 const uint32_t *tokens, uint32_t token_count, bool may_read,
                                 uint32_t block_total);
/* Shares the first shared_count (sealed) blocks of `from` and promises the rest of block_total.
 * ERR_BUSY: nothing has changed. */
MUST_USE enum err kv_table_fork(struct kv_table *table, struct kv_pool *pool,
                                const struct kv_table *from, uint32_t shared_count,
                                uint32_t block_total);
/* Acquires blocks out of the promise until `positions` have room; what the promise does not cover
 * is asked of the pool.  ERR_BUSY: the pool has no more now; what was acquired stays. */
MUST_USE enum err kv_table_cover(struct kv_table *table, struct kv_pool *pool, uint32_t positions);
/* Seals every block whose positions are all below `computed`; tokens[p] is the id at p. */
void kv_table_seal(struct kv_table *table, struct kv_pool *pool, const uint32_t *tokens,
                   uint32_t computed);
/* Moves the blocks behind the first kept_count (none of them sealed) to *out, references too, and
 * returns how many. */
uint32_t kv_table_detach(struct kv_table *table, uint32_t kept_count, uint32_t *out);
/* Gives everything back, the last block first. */
void kv_table_release(struct kv_table *table, struct kv_pool *pool);

#endif
