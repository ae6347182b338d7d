/* engine - the step loop of one worker: requests in, tokens out.
 *
 * Owns scheduler, KV pool, prefix index and the sequences; borrows an open, loaded backend.  One
 * owner, the worker's step thread.  Everything the engine allocates for a request it has freed
 * when the request's last output was taken; nothing is allocated in a step.
 *
 *   engine_add -> WAITING --admit--> RUNNING --stop--> finished
 *                    ^                  |
 *                    +---- preempt -----+          engine_cancel: from anywhere, at the next step
 *
 * Three kinds (protocol.md 4).  GENERATE is the above.  PREFILL computes all of a prompt but its
 * last token, samples nothing, and keeps its blocks until it is cancelled, so that the caller can
 * send them.  REMOTE takes the blocks of the whole prompt at once and waits for someone else to
 * fill them:
 *
 *   WAITING --placed--> REMOTE --join--> waits for a seat, computes the last token, goes on
 *                          \--fallback--> computes here; blocks that someone may still write to
 *                                         are quarantined: used, and nobody's, until released
 *
 * A request has n choices, which share the prompt's full blocks and differ by choice index.
 * Tokens of a choice are numbered from 0; a request that moves here from elsewhere brings the
 * ids it has (resumed) and goes on with the very same tokens. */
#ifndef GRAMME_ENGINE_ENGINE_H
#define GRAMME_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"
#include "base/err.h"
#include "config/sampling.h"

struct engine;
struct kv_index;

struct engine_options {
    uint32_t block_size;
    uint32_t block_count;        /* usable blocks of the pool (plan->block_count) */
    uint32_t seat_count;         /* max-num-seqs */
    uint32_t batched_tokens_max; /* max-num-batched-tokens */
    uint32_t model_len_max;
    uint32_t vocab_size;
    uint32_t queue_requests_max; /* waiting requests; beyond it ERR_BUSY */
    uint64_t queue_prompt_bytes_max;
    bool is_chunked_prefill;    /* off: a prompt is computed in one step */
    uint32_t prefill_chunk_max; /* tokens of one sequence a step; 0: batched_tokens_max */
    bool has_prefix_cache;
    const uint32_t *eos_ids; /* copied */
    uint32_t eos_count;
};

enum finish_reason {
    FINISH_NONE,
    FINISH_STOP,   /* a stop id was drawn (it is the last of the ids) */
    FINISH_LENGTH, /* max_tokens or model_len_max */
    FINISH_CANCELLED,
    FINISH_ERROR, /* engine_output.error tells */
};

struct engine_choice {
    uint32_t index;             /* choice index of sampling */
    const uint32_t *output_ids; /* already generated elsewhere; NULL: none */
    uint32_t output_count;
};

enum engine_kind { ENGINE_GENERATE, ENGINE_PREFILL, ENGINE_REMOTE };

struct engine_request {
    enum engine_kind kind;
    uint64_t id;                /* the caller's, unique among live requests, never 0 */
    const uint32_t *prompt_ids; /* copied */
    uint32_t prompt_count;      /* >= 1 */
    const struct engine_choice *choices;
    uint32_t choice_count;           /* 1..128 */
    const struct sampling *sampling; /* copied, arrays too; PREFILL: NULL */
    bool goes_first;      /* re-dispatched: ahead of new ones, not refused by the limit */
    uint64_t deadline_us; /* clock_now_us time after which a waiting one is given up; 0:
                                   none */
};

/* One token of one choice, or the end of it. */
struct engine_output {
    uint64_t request_id;
    uint32_t choice_index;
    uint32_t output_index; /* of token_id */
    uint32_t token_id;     /* BACKEND_NO_TOKEN: no token, only news */
    bool has_logprob;
    struct token_logprob logprob;
    enum finish_reason finish;
    uint32_t stop_id; /* FINISH_STOP: which */
    enum err error;
    uint32_t cached_tokens;   /* of the prompt, found in the prefix cache (first output) */
    bool is_first_of_request; /* admitted: headers may go out */
    bool is_placed;           /* REMOTE: it has its blocks (with the first output) */
    uint32_t computed_tokens; /* PREFILL: of the prompt, whose KV is there now; 0: no news */
    /* Prompt logprobs, entry t for prompt token prompt_first + t; NULL: none.  Lives until the
     * next engine_step. */
    const struct token_logprob *prompt_logprobs;
    uint32_t prompt_first, prompt_logprob_count;
    uint64_t queue_us; /* waited until admitted (first output) */
};

struct engine_load {
    uint32_t blocks_total, blocks_free, blocks_cached;
    uint32_t running_requests, waiting_requests;
    /* Of the running ones those that hold blocks without a seat: a REMOTE one that waits for its
     * KV, a PREFILL that is computed. */
    uint32_t held_requests;
    uint32_t remote_blocks, quarantined_blocks; /* quarantined ones are counted in both */
    uint64_t half_waits;     /* a remote one at the queue's head found half of the blocks held, */
    uint64_t passed_remotes; /* and one behind it started meanwhile */
    uint64_t running_tokens,
        waiting_tokens;      /* waiting: still to be computed, a shared prompt once */
    uint64_t prefill_tokens; /* of running PREFILLs, likewise */
    uint64_t step_count;     /* those that found nothing to do included */
    uint64_t step_us;        /* of the last step */
    uint64_t preemption_count;
    uint64_t prefix_query_tokens, prefix_hit_tokens;
    uint64_t prompt_tokens, generation_tokens; /* computed, sampled */
    uint64_t last_step_tokens;                 /* rows of the last step */
};

MUST_USE enum err engine_create(const struct engine_options *options, struct backend *backend,
                                struct engine **out);
void engine_destroy(struct engine *engine);

/* ERR_BUSY: the queue is full.  ERR_NO_ROOM: alone it would not fit the pool, or prompt and one
 * token pass model_len_max.  ERR_USAGE: an id outside the vocabulary, a sampling field out of
 * range.  ERR_MEMORY.  On an error nothing is kept. */
MUST_USE enum err engine_add(struct engine *engine, const struct engine_request *request,
                             struct err_text *text);
/* Takes effect at the next step; one FINISH_CANCELLED output a live choice follows.  An unknown
 * id is no error. */
void engine_cancel(struct engine *engine, uint64_t request_id);
/* The same for one choice; the others go on.  A choice that is not there is no error. */
void engine_cancel_choice(struct engine *engine, uint64_t request_id, uint32_t choice_index);

/* One step: cancels, admits, computes, samples, stops.  *outputs live until the next call.
 * ERR_OK with nothing to do gives 0 outputs.  An error means the backend is gone. */
MUST_USE enum err engine_step(struct engine *engine, uint64_t now_us,
                              const struct engine_output **outputs, uint32_t *output_count);
bool engine_is_idle(const struct engine *engine); /* nothing waiting, running or cancelled */
/* Whether a step can do something now.  A deadline that passes is not seen here: whoever sleeps
 * by this steps a few times a second as long as the engine is not idle. */
bool engine_has_work(const struct engine *engine);

/* --- handoff (engine_handoff.c) --- */

/* Tokens of the prompt that the prefix cache holds now, in full blocks, the last token never. */
uint32_t engine_prefix_hit(const struct engine *engine, const uint32_t *tokens, uint32_t count);
/* Remote handoffs hold at most half of the blocks: whether a sequence of so many tokens can be
 * one at all.  One that cannot, or that needs nothing from elsewhere, is run as GENERATE. */
bool engine_remote_fits(const struct engine *engine, uint32_t token_count);
/* A live request's first sequence: known tokens and blocks, borrowed until the next call that is
 * not const.  A placed REMOTE has all blocks of the tokens before the last.  false: unknown. */
MUST_USE bool engine_get_sequence(const struct engine *engine, uint64_t request_id,
                                  const uint32_t **tokens, uint32_t *token_count,
                                  const uint32_t **blocks, uint32_t *block_count);
/* A placed REMOTE: from now on others may write to its blocks behind the prefix hit. */
void engine_remote_expose(struct engine *engine, uint64_t request_id);
/* Nobody can any more; frees what of it is quarantined, also long after the request's end. */
void engine_remote_release(struct engine *engine, uint64_t request_id);
/* The KV of all known tokens but the last is in its blocks, and they are not exposed. */
void engine_remote_join(struct engine *engine, uint64_t request_id);
/* It is computed here: in its own blocks, or in new ones when those are exposed. */
void engine_remote_fallback(struct engine *engine, uint64_t request_id);
/* PREFILL: nothing more of it is computed; its blocks stay until it is cancelled. */
void engine_prefill_stop(struct engine *engine, uint64_t request_id);

/* --- seen from outside --- */

void engine_get_load(const struct engine *engine, struct engine_load *out);
/* The blocks that are named, and the numbered events of their coming and going; for routers. */
const struct kv_index *engine_kv_index(const struct engine *engine);
/* Walks every structure and CHECKs its invariants. */
void engine_check(const struct engine *engine);

#endif
