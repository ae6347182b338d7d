/* handoff - what both sides of a handoff (protocol.md 4) and worker_core share: types alone.
 *
 * handoff_decode is D's side, handoff_peers what D knows of prefill workers, handoff_prefill P's
 * side.  All three are as pure as worker_core: messages, transfer events and the time go in;
 * messages and calls of engine and xfer come out.  Step thread only. */
#ifndef GRAMME_WORKER_HANDOFF_H
#define GRAMME_WORKER_HANDOFF_H

#include <stdbool.h>
#include <stdint.h>

#include "bus/bus.h"
#include "bus/msg.h"
#include "engine/engine.h"
#include "xfer/xfer.h"

#define HANDOFF_COMPONENT_WORKER 1u /* msg_hello.component */
#define HANDOFF_COMPONENT_PREFILL 2u

/* As bus_send; what it returns is of no concern here: SYNC repairs. */
typedef void (*handoff_send_fn)(void *ctx, enum bus_subject subject, uint64_t to, const void *data,
                                size_t bytes);

/* When a prompt is prefilled elsewhere: the classic router's rule (protocol.md 2 defines queue).
 * remote when prompt - prefix hit > local_tokens_max and queue < queue_max; not conditional:
 * always. */
struct handoff_rule {
    bool is_remote;            /* --remote-prefill */
    bool is_conditional;       /* --conditional-disagg */
    uint32_t local_tokens_max; /* --max-local-prefill-length */
    uint32_t queue_max;        /* --max-prefill-queue-size */
    uint32_t timeout_ms;       /* --remote-prefill-timeout */
};

struct handoff_options {
    struct engine *engine;         /* borrowed, as is xfer */
    struct xfer *xfer;             /* NULL: nothing goes out or comes in */
    const struct msg_hello *hello; /* this worker's own; borrowed */
    struct handoff_rule rule;      /* D */
    uint64_t secret[2];            /* D: random, what keys are made of */
    uint32_t sync_timeout_ms, step_timeout_ms, quarantine_timeout_ms;
    handoff_send_fn send;
    void *send_ctx;
};

#endif
