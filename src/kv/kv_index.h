/* kv_index - which sealed block holds the KV of which chain of tokens.
 *
 * A full block is named by every token up to its end.  Its hash (kv_hash.h) only finds
 * candidates and names the block to routers.  What is compared is the
 * tokens themselves and the parent's chain: a number given once to each distinct chain that is
 * here, so two chains whose hashes collide are two chains.  Blocks of one chain (sequences with
 * one prompt, computed side by side) share its number.
 *
 * Each change of the set of chains is an event, numbered from 1; the last `event_room` of them
 * are kept.  A reader that finds its next event gone starts again from a dump (kv_index_dump).
 *
 * Owned by the pool, on its thread.  Invariant: a chain's parent chain is here too. */
#ifndef GRAMME_KV_KV_INDEX_H
#define GRAMME_KV_KV_INDEX_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct kv_index;

/* The end of a chain: what the next block has as its parent.  {0, 0}: the empty chain. */
struct kv_link {
    uint64_t chain;
    uint64_t hash; /* of the sequence up to here */
};

enum kv_event_kind { KV_EVENT_STORED, KV_EVENT_REMOVED, KV_EVENT_CLEARED };

struct kv_event {
    uint64_t number;
    enum kv_event_kind kind;
    uint64_t hash;        /* of the sequence up to this block's end */
    uint64_t parent_hash; /* STORED: of the block before; 0: none */
    uint64_t local_hash;  /* STORED: of this block's tokens alone */
};

MUST_USE enum err kv_index_create(uint32_t block_count, uint32_t block_size, uint32_t event_room,
                                  struct kv_index **out);
void kv_index_destroy(struct kv_index *index);

/* Blocks are 1..block_count.  `tokens`: block_size ids, copied.  Returns the block's own link. */
struct kv_link kv_index_insert(struct kv_index *index, uint32_t block, struct kv_link parent,
                               const uint32_t *tokens);
void kv_index_remove(struct kv_index *index, uint32_t block);
/* Forgets every block at once (one CLEARED event). */
void kv_index_clear(struct kv_index *index);
/* A block that holds these tokens behind `parent`; 0: none.  *link is set when there is one. */
uint32_t kv_index_find(const struct kv_index *index, struct kv_link parent, const uint32_t *tokens,
                       struct kv_link *link);
/* The end of an indexed block's chain; block 0: of the empty chain. */
struct kv_link kv_index_link(const struct kv_index *index, uint32_t block);
bool kv_index_has(const struct kv_index *index, uint32_t block);
/* For kv_pool_check: any block of the chain before this one, after `from` (0: the first);
 * 0: no more.  A first block has no parent and gives 0. */
uint32_t kv_index_parent(const struct kv_index *index, uint32_t block, uint32_t from);
bool kv_index_is_first(const struct kv_index *index, uint32_t block);

/* 0 before the first event. */
uint64_t kv_index_event_last(const struct kv_index *index);
/* false: that event is no longer kept, or has not happened. */
MUST_USE bool kv_index_event_get(const struct kv_index *index, uint64_t number,
                                 struct kv_event *out);
/* The chains that are here, one at a time, as STORED events without a number; *cursor starts at
 * 0.  Parents do not come before children.  false: no more. */
MUST_USE bool kv_index_dump(const struct kv_index *index, uint32_t *cursor, struct kv_event *out);

#endif
