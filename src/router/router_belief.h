/* router_belief - what is believed to lie in the workers' caches: told by events, or guessed.
 *
 * Told: one holder of the exact index a worker, replaced as a whole by a dump or CLEARED.
 * Guessed: what was sent to a worker will soon be there.  Guesses live in an index of their own,
 * gathered in bags, each of one worker and one span of time; a bag ends as a whole, at its time
 * to live, when there are too many guesses (the oldest first), or with its worker.  A match is
 * the better of both.
 *
 * Workers are slots: small numbers of the router's.  Part of router: its owner, its thread. */
#ifndef GRAMME_ROUTER_ROUTER_BELIEF_H
#define GRAMME_ROUTER_ROUTER_BELIEF_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "kv/kv_index.h"

struct router_belief;

struct router_belief_options {
    uint64_t approximate_us; /* life of a guess about a worker without events */
    uint64_t predicted_us;   /* of one with events; 0: none are made */
    uint64_t guesses_max;    /* past it the oldest go, down to 0.8 of it */
};

MUST_USE enum err router_belief_create(const struct router_belief_options *options,
                                       struct router_belief **out);
void router_belief_destroy(struct router_belief *belief);

/* The slot is not here.  An empty belief. */
MUST_USE enum err router_belief_add(struct router_belief *belief, uint32_t slot, bool sends_events);
void router_belief_remove(struct router_belief *belief, uint32_t slot);

/* As router_events, router_dump_*. */
MUST_USE bool router_belief_events(struct router_belief *belief, uint32_t slot,
                                   const struct kv_event *events, uint32_t count);
MUST_USE enum err router_belief_dump_begin(struct router_belief *belief, uint32_t slot);
MUST_USE enum err router_belief_dump_add(struct router_belief *belief, uint32_t slot,
                                         const struct kv_event *stored, uint32_t count);
void router_belief_dump_end(struct router_belief *belief, uint32_t slot, uint64_t event_number);
uint64_t router_belief_event_last(const struct router_belief *belief, uint32_t slot);

/* These blocks will be at that worker soon.  A guess that lacks memory is not made. */
void router_belief_guess(struct router_belief *belief, uint32_t slot, const uint64_t *hashes,
                         uint32_t count, uint64_t now_us);

/* overlaps: (slots below slot_count), leading blocks believed there; all are written. */
void router_belief_match(struct router_belief *belief, const uint64_t *hashes, uint32_t count,
                         uint64_t now_us, uint32_t *overlaps, uint32_t slot_count);
/* Blocks that are told or guessed to be at it: a tie goes to the smallest. */
uint64_t router_belief_blocks(const struct router_belief *belief, uint32_t slot);

struct router_belief_counts {
    uint64_t events, gaps, dumps, lost; /* lost: for lack of memory */
    uint64_t blocks, entries, guesses, bytes;
};
void router_belief_get_counts(const struct router_belief *belief, struct router_belief_counts *out);
void router_belief_check(const struct router_belief *belief);

#endif
