/* engine_request - one request and its sequences, as the engine holds them.
 *
 * Inside the engine room only.  A request is one allocation: itself, its sequences, their token
 * ids (prompt and room for all they may generate, so that no step allocates), their block tables,
 * and the copied sampling arrays.
 *
 *   sequence:  PARKED --a choice's prompt is there--> WAITING --admit--> RUNNING --> DONE
 *                                                        ^                 |   \      ^
 *                                                        +---- preempt ----+    ENDING
 *
 * A REMOTE request's first choice goes from WAITING to REMOTE, where it has blocks and no seat, and
 * then to WAITING again, mostly with its blocks (SCHED_READY).  A PREFILL is KEPT when it is
 * computed: blocks, no seat.
 *
 * PARKED choices wait for the first one's prompt, to share its blocks.  An ENDING sequence has
 * finished while a batch with a row of it was under way: it keeps its blocks and seat until that
 * batch is collected, and what the row brings is dropped. */
#ifndef GRAMME_ENGINE_ENGINE_REQUEST_H
#define GRAMME_ENGINE_ENGINE_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/engine.h"
#include "kv/kv_table.h"
#include "sched/sched_queue.h"

enum sequence_state {
    SEQUENCE_PARKED,
    SEQUENCE_WAITING,
    SEQUENCE_REMOTE,
    SEQUENCE_RUNNING,
    SEQUENCE_ENDING,
    SEQUENCE_KEPT,
    SEQUENCE_DONE,
};

struct request;

struct sequence {
    struct sched_node node; /* first: the queue gives it back */
    struct request *request;
    enum sequence_state state;
    uint32_t choice_index;
    uint32_t seat;        /* RUNNING, ENDING */
    uint32_t *tokens;     /* prompt, then generated; one behind the prompt is BACKEND_NO_TOKEN
                             until it is drawn */
    uint32_t token_count; /* known */
    uint32_t submitted;   /* positions given to the backend */
    uint32_t computed;    /* positions collected */
    uint32_t draw_count;  /* tokens being drawn by batches under way */
    uint32_t row_count;   /* rows in batches under way */
    uint32_t awaited;     /* WAITING, PARKED: its part of the engine's waiting_tokens */
    bool came_stopped;    /* its last id, generated elsewhere, is a stop id */
    bool is_unwanted;     /* to be cancelled alone at the next step */
    uint64_t age;         /* order of first admission: the newest is preempted first */
    struct kv_table table;
};

/* Blocks that are nobody's, and that someone may still write to. */
struct quarantine {
    struct quarantine *next;
    uint64_t request_id;
    uint32_t block_count;
    uint32_t blocks[];
};

struct request {
    uint64_t id;
    enum engine_kind kind;
    struct request *next_in_bucket;
    struct request *next_condemned;
    struct request *next_fresh;
    struct sampling sampling; /* stop_ids: all that stop, the model's included */
    uint32_t prompt_count;
    uint32_t output_max;    /* tokens a choice may come to */
    uint32_t positions_max; /* prompt and those */
    bool goes_first;
    bool is_admitted;                 /* no longer in the queue's count */
    bool is_condemned;                /* in the engine's list: all of it, or its unwanted choices */
    enum finish_reason condemned_for; /* FINISH_NONE: it lives */
    enum err condemned_error;
    uint64_t add_us; /* when first seen by a step; 0: not yet */
    uint64_t deadline_us;
    uint64_t age;                  /* of choice 0; the next ones follow */
    uint32_t prompt_told;          /* prompt logprobs given out up to here */
    struct quarantine *quarantine; /* REMOTE: owned room, until it is needed */
    uint32_t hit_count;            /* REMOTE: blocks found in the prefix cache */
    uint32_t remote_blocks;        /* counted as engine->remote_blocks */
    bool is_exposed, was_placed;   /* REMOTE */
    bool is_stopped;               /* PREFILL: nothing more is computed */
    uint32_t live_count;           /* sequences not DONE */
    uint32_t running_count;        /* sequences RUNNING or ENDING */
    uint32_t choice_count;
    struct sequence *choices;
};

/* Checks what the client asked for against the engine's limits, and copies it.  Errors as
 * engine_add's, but for ERR_BUSY. */
MUST_USE enum err engine_request_create(const struct engine_options *options,
                                        const struct engine_request *from, struct err_text *text,
                                        struct request **out);
void engine_request_destroy(struct request *request);

static inline uint32_t sequence_output_count(const struct sequence *sequence) {
    return sequence->token_count - sequence->request->prompt_count;
}

#endif
