/* router - which worker gets a request: views of the workers, beliefs about their caches, cost,
 * choice.
 *
 * Pure: no bus, no clock, no thread of its own; one owner (the frontend's loop, or a simulator),
 * which feeds it LOADs, KV events and what it dispatched.  The same seed and calls give the same
 * choices.  Policies: random, round-robin, least-loaded (the classic kv-load), kv.
 *
 * kv: the exact prefix index (prefix_index.h) holds what numbered events tell of each worker; a
 * worker that sends none is guessed from what was routed to it (approximate, with a time to live);
 * entries predicted at routing time make siblings land together.  Cost: facts of the 1.x cost,
 * overlap_weight x prefill blocks still to be computed + active blocks; lowest wins; temperature
 * softens. */
#ifndef GRAMME_ROUTER_ROUTER_H
#define GRAMME_ROUTER_ROUTER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "kv/kv_index.h"

enum router_policy { ROUTER_RANDOM, ROUTER_ROUND_ROBIN, ROUTER_LEAST_LOADED, ROUTER_KV };

struct router;

struct router_options {
    enum router_policy policy;
    uint32_t block_size;
    double overlap_weight;       /* 1 */
    double temperature;          /* 0: the lowest cost */
    bool has_events;             /* false: approximate for every worker */
    uint64_t approximate_us;     /* time to live of guessed entries: 120 s */
    uint64_t predicted_us;       /* of entries predicted at routing while events come: 5 s */
    uint32_t guessed_blocks_max; /* 2^20, pruned to 0.8 of it */
    uint64_t seed;               /* of random choices and ties */
};

/* Defaults of everything but block_size. */
void router_options_init(struct router_options *options);
MUST_USE enum err router_create(const struct router_options *options, struct router **out);
void router_destroy(struct router *router);

/* A worker comes with an empty belief; removing it forgets all of it (it may be added again). */
struct router_worker {
    uint64_t instance;
    uint32_t block_count, seat_count, batched_tokens_max;
    bool sends_events;
};
MUST_USE enum err router_add(struct router *router, const struct router_worker *worker);
void router_remove(struct router *router, uint64_t instance);
/* Suspect, draining or foreign workers are kept but not chosen. */
void router_set_open(struct router *router, uint64_t instance, bool is_open);

/* From LOAD.  echo: the highest of this sender's attempts that the worker had received when it
 * wrote this; only attempts above it are added to what it says (protocol.md 2). */
struct router_load {
    uint32_t blocks_total, blocks_free, blocks_cached;
    uint32_t running_requests, waiting_requests;
    uint64_t running_tokens, waiting_tokens;
    uint64_t echo;
};
void router_load(struct router *router, uint64_t instance, const struct router_load *load);

/* Events in the order of their numbers.  false: a gap (or events unknown so far): nothing was
 * applied, the caller asks for a dump and holds back until router_dump_end. */
MUST_USE bool router_events(struct router *router, uint64_t instance, const struct kv_event *events,
                            uint32_t count);
/* Replaces the whole belief of that instance: begin, add in any order, end with the number of the
 * last event it includes. */
MUST_USE enum err router_dump_begin(struct router *router, uint64_t instance);
MUST_USE enum err router_dump_add(struct router *router, uint64_t instance,
                                  const struct kv_event *stored, uint32_t count);
void router_dump_end(struct router *router, uint64_t instance, uint64_t event_number);
/* The last event number applied; 0: none yet. */
uint64_t router_event_last(const struct router *router, uint64_t instance);

struct router_request {
    const uint64_t *sequence_hashes; /* of the prompt's full blocks, kv_hash.h; NULL: not known */
    const uint64_t *local_hashes;
    uint32_t block_count;
    uint32_t prompt_tokens;
    uint32_t expected_tokens;           /* of output; 0: unknown */
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
 * numbers. */
MUST_USE enum err router_start(struct router *router, uint64_t attempt,
                               const struct router_request *request,
                               const struct router_choice *choice, uint64_t now_us);
void router_first_token(struct router *router, uint64_t attempt);
void router_end(struct router *router, uint64_t attempt);

struct router_counts {
    uint64_t choices, request_blocks, overlap_blocks; /* overlap at the chosen worker */
    uint64_t events, gaps, dumps;
    uint64_t index_blocks, index_bytes;
};
void router_get_counts(const struct router *router, struct router_counts *out);
/* Walks every structure and CHECKs its invariants. */
void router_check(const struct router *router);

#endif
