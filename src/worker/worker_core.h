/* worker_core - the worker's side of protocol.md 1 to 4, without thread, clock or bus.
 *
 * Takes messages and the time, drives one engine, and gives messages to a send function; so the
 * very same code runs under tests/sim in virtual time over a bus that loses and reorders.  One
 * owner, the step thread.  Borrows the engine.
 *
 *   attempt:  GENERATE --ack--> live --all choices ended--> finished --a SYNC omits it--> forgotten
 *                                |                                                           ^
 *                                +-- CANCEL, two SYNCs omit it, its sender is silent --------+
 *
 * A choice that two successive SYNCs omit while they list its attempt ends alone.
 * A prefill worker (hello.component 2) takes PREFILLs instead of GENERATEs (handoff_prefill); a
 * worker with a transfer may give prompts to such ones (handoff_decode).
 * A sender is whoever sent work (a frontend).  What a choice has generated is kept, logprobs too,
 * until the attempt is forgotten, so that a SYNC can be answered with what was lost. */
#ifndef GRAMME_WORKER_WORKER_CORE_H
#define GRAMME_WORKER_WORKER_CORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "bus/bus.h"
#include "bus/msg.h"
#include "engine/engine.h"
#include "worker/handoff.h"
#include "worker/handoff_decode.h"
#include "worker/handoff_prefill.h"

#define WORKER_TICK_US 100000u /* specified: protocol.md 3 */

struct worker_core;

typedef handoff_send_fn worker_send_fn;

struct worker_core_options {
    struct engine *engine;
    struct msg_hello hello; /* told at start and to each WHO */
    uint32_t sync_timeout_ms;
    struct xfer *xfer;              /* borrowed; NULL: no handoffs */
    struct handoff_rule rule;       /* when prompts go to prefill workers */
    uint64_t secret[2];             /* random: what the keys of handoffs are made of */
    uint32_t quarantine_timeout_ms; /* blocks that nobody lets go of for so long are told of */
    uint32_t step_timeout_ms;       /* a prefill worker that stands still for so long is suspect */
    worker_send_fn send;
    void *send_ctx;
};

/* What happened so far; tests prove by it that each repair was reached. */
struct worker_core_counts {
    uint64_t generates, repeated_generates, late_generates, refused;
    uint64_t syncs, stale_syncs, resent_ids, gone;
    uint64_t cancels, omitted_live, omitted_finished, omitted_choices, silent_senders;
    uint64_t bad_messages;
};

MUST_USE enum err worker_core_create(const struct worker_core_options *options, uint64_t now_us,
                                     struct worker_core **out);
void worker_core_destroy(struct worker_core *core);

/* One message from the bus.  Foreign bytes: a broken one is counted and dropped. */
void worker_core_message(struct worker_core *core, const struct bus_message *message,
                         uint64_t now_us);
/* Takes what the transfer has to say, and sends what messages have to be answered; after the last
 * message and before a step. */
void worker_core_flush(struct worker_core *core, uint64_t now_us);
/* Whether worker_core_step has something to do. */
bool worker_core_has_work(const struct worker_core *core);
/* One engine step and the TOKENS of it, one message a sender.  An error: the device is gone; every
 * live attempt was told (MSG_FINISH_LOST) and goes on at another worker. */
MUST_USE enum err worker_core_step(struct worker_core *core, uint64_t now_us);
/* LOAD, and the silence of senders; to be called at worker_core_tick_at or later, and may be called
 * at any time. */
void worker_core_tick(struct worker_core *core, uint64_t now_us);
uint64_t worker_core_tick_at(const struct worker_core *core);

/* A tick without a connection is not silence of others; connected until told otherwise. */
void worker_core_set_connected(struct worker_core *core, bool is_connected);
/* Messages may have been lost either way (protocol.md 5): HELLO, WHO and SYNC again. */
void worker_core_lossy(struct worker_core *core, uint64_t now_us);
/* What LOAD says of the device's memory. */
void worker_core_set_device(struct worker_core *core, uint64_t used_bytes, uint64_t other_bytes,
                            uint64_t drift_bytes);
/* From now on every GENERATE and PREFILL is refused. */
void worker_core_drain(struct worker_core *core, uint64_t now_us);
/* Nothing runs and nothing finished waits to be heard. */
bool worker_core_is_empty(const struct worker_core *core);
void worker_core_bye(struct worker_core *core);
/* What LOAD says, but for the senders. */
void worker_core_get_load(const struct worker_core *core, struct msg_load *out);
void worker_core_get_counts(const struct worker_core *core, struct worker_core_counts *out);
/* NULL: this worker has no such side. */
const struct handoff_decode *worker_core_decode(const struct worker_core *core);
const struct handoff_prefill *worker_core_prefill(const struct worker_core *core);
/* Walks every structure and CHECKs its invariants, the engine's too. */
void worker_core_check(const struct worker_core *core);

#endif
