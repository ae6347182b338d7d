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

struct engine_request {
    uint64_t id;                /* the caller's, unique among live requests, never 0 */
    const uint32_t *prompt_ids; /* copied */
    uint32_t prompt_count;      /* >= 1 */
    const struct engine_choice *choices;
    uint32_t choice_count;           /* 1..128 */
    const struct sampling *sampling; /* copied, arrays too */
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
    /* Prompt logprobs, entry t for prompt token prompt_first + t; NULL: none.  Lives until the
     * next engine_step. */
    const struct token_logprob *prompt_logprobs;
    uint32_t prompt_first, prompt_logprob_count;
    uint64_t queue_us; /* waited until admitted (first output) */
};

struct engine_load {
    uint32_t blocks_total, blocks_free, blocks_cached;
    uint32_t running_requests, waiting_requests;
    uint64_t running_tokens, waiting_tokens; /* waiting: prompt tokens still to be computed */
    uint64_t step_count;
    uint64_t step_us; /* of the last step */
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
void engine_get_load(const struct engine *engine, struct engine_load *out);
/* The blocks that are named, and the numbered events of their coming and going; for routers. */
const struct kv_index *engine_kv_index(const struct engine *engine);
/* Walks every structure and CHECKs its invariants. */
void engine_check(const struct engine *engine);

#endif
