/* engine_inside - the engine's own struct, and what its files lend each other.
 *
 * Inside the engine room only: engine.c (requests, steps), engine_handoff.c (KV that comes from
 * elsewhere or goes there), engine_check.c (the invariants). */
#ifndef GRAMME_ENGINE_ENGINE_INSIDE_H
#define GRAMME_ENGINE_ENGINE_INSIDE_H

#include "engine/engine.h"
#include "engine/engine_request.h"
#include "sched/sched_policy.h"
#include "sched/sched_queue.h"

#define FLIGHTS_MAX 2u
#define NEWS_MAX 256u /* cancels, deadlines and the like told in one step; the rest in the next */

struct flight {
    struct batch batch;
    struct batch_row *rows;      /* seat_count */
    struct sequence **sequences; /* of the rows */
};

struct engine {
    struct engine_options options; /* eos_ids: the engine's own copy */
    struct backend *backend;
    const struct backend_ops *ops;
    struct sched_limits limits;
    uint32_t running_max;
    uint32_t flights_max;

    struct kv_pool *pool;
    struct sched_queue queue;
    struct sequence **running; /* RUNNING and ENDING, oldest first */
    uint32_t running_count;
    uint32_t *free_seats;
    uint32_t free_seat_count;
    struct sched_row *deals; /* scratch of the planning, by running */

    struct flight flights[FLIGHTS_MAX]; /* [first_flight] is the oldest */
    uint32_t first_flight, flight_count;

    struct request **buckets; /* by id */
    uint32_t bucket_mask;
    uint32_t request_count;
    struct request *condemned; /* to be ended and told at the next step */
    struct request *fresh;     /* added since the last step */
    uint64_t add_order, age_next;
    uint32_t queued_count; /* requests not admitted */
    uint64_t queued_prompt_bytes;
    uint64_t waiting_tokens;
    uint32_t running_requests;
    uint64_t deadline_next_us; /* the earliest of the waiting; 0: none */

    struct engine_output *outputs;
    uint32_t output_count, output_room;
    uint32_t news_count;
    uint64_t now_us;

    struct quarantine *quarantine;
    uint32_t quarantined_blocks;
    uint32_t remote_blocks; /* held by REMOTE sequences and quarantined; at most half of all */
    uint32_t held_requests; /* whose first sequence is REMOTE or KEPT */
    uint32_t ready_count;   /* sequences that wait with their blocks (SCHED_READY) */
    bool is_stalled;        /* the last step found nothing to do, and nothing has changed */

    struct engine_load load; /* its counters; the rest is filled when asked */
    uint32_t *references;    /* engine_check's own count, by block */
};

/* --- engine.c --- */

/* NULL: unknown. */
struct request *engine_find_request(const struct engine *engine, uint64_t id);
uint64_t engine_prompt_bytes(const struct request *request);
/* Into the queue; out of it (or out of the parked), for good or to run. */
void engine_let_wait(struct engine *engine, struct sequence *sequence, enum sched_class group,
                     uint64_t order);
void engine_leave_queue(struct engine *engine, struct sequence *sequence);
/* The request leaves the queue's count; its choices get their ages. */
void engine_admit_request(struct engine *engine, struct request *request);
struct engine_output *engine_tell_admitted(struct engine *engine, struct sequence *sequence);
bool engine_may_read_cache(const struct engine *engine, const struct sequence *sequence);
/* Hits taken and the rest promised; ERR_BUSY: nothing has changed. */
MUST_USE enum err engine_take_blocks(struct engine *engine, struct sequence *sequence);
/* No row of the sequence may be under way. */
void engine_give_seat_back(struct engine *engine, struct sequence *sequence);

/* --- engine_handoff.c --- */

/* REMOTE, and without its blocks yet. */
bool engine_is_unplaced(const struct request *request);
/* Whether the head of the queue is to be placed rather than run. */
bool engine_is_placing(const struct sequence *sequence);
/* ERR_BUSY: no blocks, the queue waits for a later step.  ERR_LIMIT: half of the blocks are held;
 * those behind it that want none of that half may pass. */
MUST_USE enum err engine_place(struct engine *engine, struct sequence *sequence);
/* REMOTE, KEPT: its blocks go back; into quarantine those that are exposed. */
void engine_leave_remote(struct engine *engine, struct sequence *sequence);
void engine_leave_kept(struct engine *engine, struct sequence *sequence);
/* A PREFILL that has no row under way and is not queued: KEPT. */
void engine_keep(struct engine *engine, struct sequence *sequence);
void engine_keep_when_done(struct engine *engine, struct sequence *sequence);
/* Whether blocks are held by anyone: what does not fit now may fit later. */
bool engine_holds_blocks(const struct engine *engine);
void engine_add_held_load(const struct engine *engine, struct engine_load *out);

#endif
