/* router - which worker gets a request: views of the workers, beliefs about their caches, cost,
 * choice.
 *
 * Pure: no bus, no clock, no thread of its own; one owner (the frontend's loop, or a simulator),
 * which feeds it LOADs, KV events and what it dispatched.  The same seed and calls give the same
 * choices.  Policies: random, round-robin, least-loaded (the classic kv-load: the fewest
 * requests, then the fewest used blocks), kv.
 *
 * kv: beliefs (router_belief.h) are told by numbered events, or guessed from what was routed
 * (workers that send none: approximate; others: until their events come, so that siblings land
 * together).  The cost is that of Dynamo 1.x, in blocks; the lowest wins, a tie goes to the
 * smallest belief, then to chance; a temperature softens it:
 *   overlap_weight x (prompt tokens not believed there + prompt tokens waiting there) / block_size
 *   + blocks in use there
 *
 * A worker's view is its LOAD plus only this sender's attempts above the echo in it, so that
 * several senders never count a request twice (protocol.md 2), less what has ended since: a LOAD
 * is up to 100 ms old, and the next turn of a conversation often comes sooner. */
#ifndef GRAMME_ROUTER_ROUTER_H
#define GRAMME_ROUTER_ROUTER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "kv/kv_index.h"

#define ROUTER_WORKERS_MAX 4096u

enum router_policy { ROUTER_RANDOM, ROUTER_ROUND_ROBIN, ROUTER_LEAST_LOADED, ROUTER_KV };

struct router;

struct router_options {
    enum router_policy policy;
    double overlap_weight;       /* 1 */
    double temperature;          /* 0: the lowest cost */
    bool has_events;             /* false: approximate for every worker */
    uint64_t approximate_us;     /* time to live of guessed entries: 120 s */
    uint64_t predicted_us;       /* of entries predicted at routing while events come: 5 s */
    uint32_t guessed_blocks_max; /* 2^20, pruned to 0.8 of it */
    uint64_t seed;               /* of random choices and ties */
};

void router_options_init(struct router_options *options);
MUST_USE enum err router_create(const struct router_options *options, struct router **out);
void router_destroy(struct router *router);
/* Whether prompts need hashes at all. */
bool router_wants_hashes(const struct router *router);

/* A worker comes open and with an empty belief; removing it forgets all of it (it may be added
 * again).  ERR_LIMIT: ROUTER_WORKERS_MAX are here.  Adding one that is here is a CHECK. */
struct router_worker {
    uint64_t instance;
    uint32_t block_size;
    bool sends_events;
};
MUST_USE enum err router_add(struct router *router, const struct router_worker *worker);
/* The functions below do nothing (and say 0 or true) for an instance that is not here. */
void router_remove(struct router *router, uint64_t instance);
/* Suspect, draining or foreign workers are kept but not chosen. */
void router_set_open(struct router *router, uint64_t instance, bool is_open);
uint32_t router_open_count(const struct router *router);

/* From LOAD.  echo: the highest of this sender's attempts that the worker had received when it
 * wrote this; only attempts above it are added to what it says (protocol.md 2). */
struct router_load {
    uint32_t blocks_used;
    uint32_t request_count;  /* running and waiting */
    uint64_t waiting_tokens; /* of prompts, still to be computed */
    uint64_t echo;
};
void router_load(struct router *router, uint64_t instance, const struct router_load *load);

/* Events in the order of their numbers; those known already are skipped.  false: a gap, or a dump
 * is being read: nothing was applied, the caller asks for a dump and holds back until
 * router_dump_end. */
MUST_USE bool router_events(struct router *router, uint64_t instance, const struct kv_event *events,
                            uint32_t count);
/* Replaces the whole belief of that instance: begin (again: from the start), add in any order, end
 * with the number of the last event it includes.  Until then the old belief stands. */
MUST_USE enum err router_dump_begin(struct router *router, uint64_t instance);
MUST_USE enum err router_dump_add(struct router *router, uint64_t instance,
                                  const struct kv_event *stored, uint32_t count);
void router_dump_end(struct router *router, uint64_t instance, uint64_t event_number);
/* The last event number applied; 0: none yet. */
uint64_t router_event_last(const struct router *router, uint64_t instance);

struct router_request {
    const uint64_t *sequence_hashes; /* of the prompt's full blocks, kv_hash.h */
    uint32_t block_count;            /* of hashes; 0: not known, no overlap */
    uint32_t prompt_tokens;
    double overlap_weight, temperature; /* < 0: the router's */
    uint64_t avoided;                   /* instance not to take if there is another; 0: none */
    bool reads_cache;                   /* false: prompt logprobs: overlap counts nothing */
};
struct router_choice {
    uint64_t instance;
    uint32_t overlap_blocks; /* believed there */
    double cost;
};
/* ERR_NOT_FOUND: no open worker. */
MUST_USE enum err router_choose(struct router *router, const struct router_request *request,
                                uint64_t now_us, struct router_choice *out);

/* What was dispatched counts on its worker from now until its end.  Attempts are this sender's
 * numbers, growing.  ERR_MEMORY: it is not counted. */
MUST_USE enum err router_start(struct router *router, uint64_t attempt,
                               const struct router_request *request,
                               const struct router_choice *choice, uint64_t now_us);
void router_first_token(struct router *router, uint64_t attempt);
void router_end(struct router *router, uint64_t attempt);

/* What a choice sees of one worker; false: it is not here. */
struct router_view {
    double waiting_tokens, used_blocks, request_count;
    bool is_open;
};
bool router_get_view(const struct router *router, uint64_t instance, struct router_view *out);

struct router_counts {
    uint64_t choices, request_blocks, overlap_blocks; /* overlap at the chosen worker */
    uint64_t events, gaps, dumps;
    uint64_t index_blocks, index_entries, index_guesses, index_bytes;
};
void router_get_counts(const struct router *router, struct router_counts *out);
/* Walks every structure and CHECKs its invariants. */
void router_check(const struct router *router);

#endif
