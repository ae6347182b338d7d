/* worker - an engine on the bus: requests in, tokens out, reports.
 *
 * Owns the step thread, on which engine, backend, transfer and bus port live; worker_boot loads on
 * that thread too, so that the caller's loop goes on and can tell the progress.
 *
 *   created -> loading -> serving -> draining -> stopped
 *                 \-> failed
 *
 * Keeps protocol.md 1 to 4 whatever the bus body: attempts, acknowledgements, SYNC, GONE, CANCEL,
 * LOAD each 100 ms; finished attempts are kept until a SYNC omits them. */
#ifndef GRAMME_WORKER_WORKER_H
#define GRAMME_WORKER_WORKER_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"
#include "base/err.h"
#include "bus/bus.h"
#include "bus/msg.h"
#include "device/device_watch.h"
#include "engine/engine.h"
#include "plan/plan.h"
#include "worker/handoff.h"

struct worker;

enum worker_transfer {
    WORKER_TRANSFER_UCX,   /* between processes */
    WORKER_TRANSFER_LOCAL, /* all workers are in this process */
};

/* What a handoff needs (protocol.md 4); all zero: a worker that computes every prompt itself. */
struct worker_handoff {
    bool is_prefill;          /* takes PREFILLs alone */
    struct handoff_rule rule; /* when prompts go to prefill workers */
    enum worker_transfer transfer;
    const char *listen;             /* --transfer-listen, borrowed; NULL: loopback */
    uint16_t port_first, port_last; /* 0: any */
    const char *transports;         /* NULL: what the machine offers; borrowed */
    uint32_t transfer_timeout_ms;   /* 2,000 */
    uint32_t quarantine_timeout_ms; /* 5,000: blocks kept so long are told of */
    bool is_verifying;
};

struct worker_options {
    struct backend_options backend;
    struct engine_options engine; /* block_count, vocab_size, eos are filled at boot */
    struct plan_budget budget;
    bool is_forced;            /* worker_boot_options */
    uint32_t load_concurrency; /* worker_boot_options */
    const struct backend_ops *ops;
    uint64_t tokenizer_digest;
    uint32_t sync_timeout_ms; /* 3,000 */
    uint32_t step_timeout_ms; /* 5,000 */
    bool prefault;
    const char *name;   /* "VllmWorker.0", borrowed; NULL: nobody else sees it */
    uint32_t http_port; /* of its own /metrics; 0: none */
    bool is_node;       /* no supervisor watches the node's memory: this worker does */
    struct worker_handoff handoff;
};

enum worker_state {
    WORKER_LOADING,
    WORKER_SERVING,
    WORKER_DRAINING,
    WORKER_STOPPED,
    WORKER_FAILED
};

/* A snapshot, safe from any thread. */
struct worker_status {
    enum worker_state state;
    char stage[64]; /* while loading: what */
    uint64_t done_bytes, total_bytes;
    bool is_stuck;         /* a step is older than step_timeout */
    uint64_t stuck_ms;     /* age of the step under way, 0: none */
    struct err_text error; /* WORKER_FAILED */
    enum err cause;        /* WORKER_FAILED: what kind of */
    struct engine_load load;
    struct msg_load
        told; /* as LOAD says it, but for the senders; while loading its device_* only */
    /* Of one device, from the plan; 0: there is none yet. */
    uint64_t device_bytes, budget_bytes, planned_bytes;
};

/* `model` and `bus` are borrowed until worker_destroy.  Starts the thread and returns at once. */
MUST_USE enum err worker_create(const struct worker_options *options, const struct model *model,
                                struct bus *bus, uint64_t instance, struct err_text *text,
                                struct worker **out);
/* Called from the step thread when the state or the loading stage changes; must only wake. */
void worker_on_change(struct worker *worker, bus_wake_fn wake, void *ctx);
void worker_get_status(const struct worker *worker, struct worker_status *out);
/* The plan that boot made; NULL before it is there. */
const struct plan *worker_get_plan(const struct worker *worker);
/* What its watch saw last; number 0: nothing yet. */
void worker_get_sample(const struct worker *worker, struct device_watch_sample *out);
/* No new work; running streams finish; then it stops by itself. */
void worker_drain(struct worker *worker);
/* Stops at the next step boundary, or in the middle of loading; joins the thread, frees all. */
void worker_destroy(struct worker *worker);

#endif
