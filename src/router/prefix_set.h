/* prefix_set - sets of holders, each stored once however many blocks have it.
 *
 * A set is a value of 32 bits: 0 the empty one, 1..PREFIX_SET_SINGLE_MAX the single holder
 * value - 1, above that the number of an interned set of two or more (up to 16 as a sorted list,
 * more as bits; one form for one content, so equal sets have equal values).  An interned set
 * counts the blocks that have it and goes with the last one.  Blocks of one chain change sets one
 * after the other in the same way; a small table of such steps makes the next one a lookup.
 *
 * Part of prefix_index: its owner, its thread. */
#ifndef GRAMME_ROUTER_PREFIX_SET_H
#define GRAMME_ROUTER_PREFIX_SET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define PREFIX_SET_SINGLE_MAX 32768u
#define PREFIX_SET_WORDS_MAX (PREFIX_SET_SINGLE_MAX / 64)

struct prefix_set;

MUST_USE enum err prefix_set_create(struct prefix_set **out);
void prefix_set_destroy(struct prefix_set *sets);

/* Puts one holder more into the set of a block (takes it out of it), which moves the block's count
 * from the set that *value was to the one that it becomes; no change when it is (not) there
 * already.  ERR_MEMORY: no change. */
MUST_USE enum err prefix_set_put(struct prefix_set *sets, uint32_t *value, uint32_t holder);
MUST_USE enum err prefix_set_take(struct prefix_set *sets, uint32_t *value, uint32_t holder);

/* `count` blocks more took the step from one set to the other that a call above has just taken:
 * the caller has written their values itself. */
void prefix_set_move(struct prefix_set *sets, uint32_t from, uint32_t to, uint32_t count);

bool prefix_set_has(const struct prefix_set *sets, uint32_t value, uint32_t holder);
uint32_t prefix_set_count(const struct prefix_set *sets, uint32_t value);
/* The members as *word_count words of bits; those past them are 0.  They lie in the set (until it
 * goes) or were written into room, which has room for every holder. */
const uint64_t *prefix_set_members(const struct prefix_set *sets, uint32_t value, uint64_t *room,
                                   uint32_t *word_count);
/* Asks for what prefix_set_members will read: first the one of every set to come, then the
 * other. */
void prefix_set_fetch(const struct prefix_set *sets, uint32_t value);
void prefix_set_fetch_bits(const struct prefix_set *sets, uint32_t value);
/* Whether any member is in bits, which have room for every holder. */
bool prefix_set_meets(const struct prefix_set *sets, uint32_t value, const uint64_t *bits);
/* A number that the caller keeps with an interned set (0 at first): which pass found it clean. */
uint32_t prefix_set_mark(const struct prefix_set *sets, uint32_t value);
void prefix_set_note(struct prefix_set *sets, uint32_t value, uint32_t mark);

uint64_t prefix_set_total(const struct prefix_set *sets); /* interned now */
uint64_t prefix_set_bytes(const struct prefix_set *sets);
/* Forms, table and free list are whole; references() tells how often a value is held. */
void prefix_set_check(const struct prefix_set *sets,
                      uint32_t (*references)(void *ctx, uint32_t value), void *ctx);

#endif
