/* dispatch - the frontend's side of protocol.md 1 to 3: prompts go to workers, tokens come back
 * each once, whatever the bus loses, doubles or reorders.
 *
 * Owns the bus port and what is known of the workers.  A work is one prompt with its n choices,
 * owned by the request; dispatch holds it from submit until it is finished, failed or dropped.
 *
 *   submit -> SENT --ack--> QUEUED --admitted--> RUNNING --every choice over--> (out)
 *     |  \      \--GONE, refused, worker dead or suspect--> HOMELESS --a worker--> SENT
 *     |   \-- only suspect workers: HOMELESS                   \-- migration timeout: failed
 *     \-- no worker: failed at once (as are those held for suspects when the last one is gone)
 *
 * A gap in TOKENS is asked again of the same worker by SYNC; SYNC goes to every worker each
 * 250 ms while something lives there.  A worker is suspect after a second of silence, or when its
 * steps stand still; dead when the supervisor says so or it tells that its device is gone (for
 * ever), or after gone_timeout.  Which worker gets a work: router.h, fed here with LOADs, KV events
 * and dumps.  No loop and no socket: the owner polls when the port wakes it and ticks each
 * DISPATCH_TICK_MS.  One thread. */
#ifndef GRAMME_API_DISPATCH_H
#define GRAMME_API_DISPATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "api/api_error.h"
#include "api/metrics.h"
#include "api/token_log.h"
#include "bus/bus.h"
#include "bus/msg.h"
#include "config/sampling.h"
#include "router/router.h"

#define DISPATCH_TICK_MS 50u

#define DISPATCH_NAME_BYTES 96u

struct dispatch;

/* What a client asked of the router for its request alone; < 0: the router's own. */
struct dispatch_route {
    double overlap_weight, temperature;
};

enum dispatch_state {
    DISPATCH_IDLE, /* not held by dispatch */
    DISPATCH_HOMELESS,
    DISPATCH_SENT,
    DISPATCH_QUEUED,
    DISPATCH_RUNNING,
};

/* Filled by the owner before submit; everything is borrowed until the work is out. */
struct dispatch_work {
    const uint32_t *prompt_ids;
    uint32_t prompt_count;
    const struct sampling *sampling;
    struct token_log *logs; /* one a choice */
    uint32_t choice_count;
    struct token_log *prompt_log; /* prompt logprobs; entry t is position t + 1 */
    const char *request_id;
    const char *traceparent;            /* "" none */
    uint64_t deadline_us;               /* to be admitted by */
    const struct dispatch_route *route; /* NULL: the router's own */
    void *owner;

    /* Read by the owner. */
    enum dispatch_state state;
    bool was_acked;    /* by any worker, ever */
    bool was_admitted; /* by any worker, ever */
    uint64_t worker;   /* instance; 0: none yet */
    uint32_t cached_tokens;
    uint64_t queue_us;

    /* dispatch's own */
    uint64_t attempt;
    bool has_tokens;        /* of this attempt */
    uint32_t lost_count;    /* attempts lost to a worker's death */
    uint32_t refused_count; /* attempts refused by draining or full workers */
    uint32_t gone_count;
    uint64_t homeless_since_us;
    uint64_t answered_tick; /* of dispatch's silence: the worker last spoke of this attempt */
    uint64_t digest;        /* numeric, of the workers that made the tokens; 0: none yet */
    uint64_t *hashes;       /* of the prompt's full blocks, owned; NULL: not made */
    uint32_t hash_count;
    struct dispatch_work *hash_next;
    struct dispatch_work *next, *previous;               /* all held */
    struct dispatch_work *worker_next, *worker_previous; /* all bound to the worker */
};

struct dispatch_load {
    const struct msg_load *now;
    const struct msg_load *before; /* of the same worker; NULL: the first */
};

/* The callbacks only note what happened: they must not call dispatch, which may be in the middle
 * of its lists. */
struct dispatch_handler {
    void *ctx;
    /* Something new stands in the work's logs or flags.  May be called several times a poll. */
    void (*on_news)(void *ctx, struct dispatch_work *work);
    /* The work is out and will bring no more. */
    void (*on_failed)(void *ctx, struct dispatch_work *work, const struct api_error *error);
    void (*on_load)(void *ctx, const struct dispatch_load *load); /* may be NULL */
};

struct dispatch_options {
    uint64_t instance;
    uint32_t sync_timeout_ms;
    uint32_t migration_timeout_ms;
    uint32_t migration_limit;
    uint32_t gone_timeout_ms; /* 0: workers live and die with this process, silence is no sign */
    uint32_t step_timeout_ms; /* 0: steps that stand still are no sign either */
    bool allows_inexact;      /* streams may go on where numbers are computed otherwise */
    const char *version;      /* workers of another are refused; NULL: any */
    struct router_options router;
};

/* All defaults of protocol.md 3; instance is the caller's. */
void dispatch_options_init(struct dispatch_options *options);

/* wake is called from any thread when dispatch_poll has something to do. */
MUST_USE enum err dispatch_create(struct bus *bus, const struct dispatch_options *options,
                                  const struct dispatch_handler *handler, struct metrics *metrics,
                                  bus_wake_fn wake, void *wake_ctx, struct dispatch **out);
void dispatch_destroy(struct dispatch *dispatch); /* nothing is held any more */
/* Workers with another tokenizer are refused from now on; 0: any. */
void dispatch_set_tokenizer(struct dispatch *dispatch, uint64_t digest);

/* ERR_PEER_GONE: no worker (the work is not held).  Otherwise it is held. */
MUST_USE enum err dispatch_submit(struct dispatch *dispatch, struct dispatch_work *work,
                                  uint64_t now_us);
/* Out, without a callback; its worker is told.  An IDLE work is allowed. */
void dispatch_drop(struct dispatch *dispatch, struct dispatch_work *work);
/* The owner has closed logs of the work (stop strings): when none is open it is dropped. */
void dispatch_note_closed(struct dispatch *dispatch, struct dispatch_work *work);

void dispatch_poll(struct dispatch *dispatch, uint64_t now_us);
void dispatch_tick(struct dispatch *dispatch, uint64_t now_us);

#define DISPATCH_COMPONENT_PREFILL 2u /* of HELLO: it takes no requests of ours */

/* What is known of one worker, for metrics and people; false past the last.  Borrowed until the
 * next poll or tick. */
struct dispatch_worker {
    uint64_t instance;
    const struct msg_hello *hello; /* NULL: not yet */
    const struct msg_load *load;   /* NULL: not yet */
    uint32_t work_count;           /* of this frontend's */
    bool takes_work, is_suspect, is_draining, is_foreign;
};
MUST_USE bool dispatch_get_worker(const struct dispatch *dispatch, uint32_t index,
                                  struct dispatch_worker *out);
/* Workers that take new work now. */
uint32_t dispatch_worker_count(const struct dispatch *dispatch);
/* "VllmWorker.0", or the instance in hex when it gave no name. */
void dispatch_worker_name(const struct dispatch *dispatch, uint64_t instance,
                          char out[DISPATCH_NAME_BYTES]);
/* Prometheus text: what each last LOAD says (worker_metrics.h), and what we think of the worker. */
void dispatch_worker_render(const struct dispatch *dispatch, struct buf *out);
/* Sums over the workers' last LOADs. */
void dispatch_get_load(const struct dispatch *dispatch, struct msg_load *out);
void dispatch_get_router_counts(const struct dispatch *dispatch, struct router_counts *out);

#endif
