/* prefix_index - which workers hold which block, as far as their events tell.
 *
 * A block is its sequence hash (kv_hash.h): the hash of every token up to its end, so equal
 * hashes mean equal prefixes.  Holders are small numbers given out here, one a belief about one
 * worker.  A match asks for each holder how many leading blocks of a prompt it holds.
 *
 * A bet: a holder of a block holds the blocks before it, as workers' caches do (kv_index.h), so
 * that a match probes every 32nd block and looks between two probes only where their holders
 * differ.  Where a holder breaks it (lost events, a half-read dump) a match may say too much
 * or too little; nothing else suffers.  Storing twice, removing what is not there, blocks whose
 * parents are unknown: all without effect on others.
 *
 * One owner, no clock, no thread.  A leaving holder is invisible at once; its blocks are swept
 * a few at a time by later calls, and only then is its number given out again.
 *
 * One cache line a lookup: 5 blocks a line, 12 bytes each; a set of holders is stored once and
 * counted (a block's 4 bytes name it).  prefix_index_check walks it all. */
#ifndef GRAMME_ROUTER_PREFIX_INDEX_H
#define GRAMME_ROUTER_PREFIX_INDEX_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "kv/kv_index.h"

#define PREFIX_INDEX_HOLDERS_MAX 32768u

struct prefix_index;

MUST_USE enum err prefix_index_create(struct prefix_index **out);
void prefix_index_destroy(struct prefix_index *index);

/* ERR_LIMIT: PREFIX_INDEX_HOLDERS_MAX are here or leaving. */
MUST_USE enum err prefix_index_join(struct prefix_index *index, uint32_t *holder);
void prefix_index_leave(struct prefix_index *index, uint32_t holder);

/* ERR_MEMORY: some of them could not be stored (or removed); the others were. */
MUST_USE enum err prefix_index_store(struct prefix_index *index, uint32_t holder,
                                     const uint64_t *hashes, uint32_t count);
MUST_USE enum err prefix_index_remove(struct prefix_index *index, uint32_t holder,
                                      const uint64_t *hashes, uint32_t count);
/* STORED and REMOVED in their order; CLEARED is the caller's (leave, join). */
MUST_USE enum err prefix_index_apply(struct prefix_index *index, uint32_t holder,
                                     const struct kv_event *events, uint32_t count);

/* What a match says: who holds how many leading blocks, gathered by how many.  It stands until the
 * next call. */
struct prefix_level {
    uint32_t block_count; /* > 0 */
    uint32_t first, end;  /* of holders[]: the ones that hold just so many */
};
struct prefix_match {
    uint32_t floor; /* the leading blocks that every holder (that has not left) holds */
    const struct prefix_level *levels; /* from few blocks to many */
    uint32_t level_count;
    const uint16_t *holders;
};
/* Named once each are the holders of more than `floor` and more than `above` blocks.  Without
 * has_floor the floor is taken as 0. */
void prefix_index_match(struct prefix_index *index, const uint64_t *hashes, uint32_t count,
                        bool has_floor, uint32_t above, struct prefix_match *out);
/* Above every holder number given out so far. */
uint32_t prefix_index_holder_room(const struct prefix_index *index);
uint32_t prefix_index_holder_blocks(const struct prefix_index *index, uint32_t holder);
/* (block, holder) pairs of holders that have not left. */
uint64_t prefix_index_entry_count(const struct prefix_index *index);

/* Does a little of what leaving holders left to do, if that is enough to be worth a pass; store,
 * remove and apply do so too. */
void prefix_index_sweep(struct prefix_index *index, uint32_t line_count);

struct prefix_index_counts {
    uint64_t blocks;  /* distinct */
    uint64_t entries; /* prefix_index_entry_count */
    uint64_t sets;    /* of two holders and more */
    uint64_t bytes;   /* all memory */
    uint32_t holders; /* that have not left */
};
void prefix_index_get_counts(const struct prefix_index *index, struct prefix_index_counts *out);
void prefix_index_check(const struct prefix_index *index);

#endif
