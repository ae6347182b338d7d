/* worker_core - the worker's side of protocol.md 1 to 3, without thread, clock or bus.
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

#define WORKER_TICK_US 100000u /* specified: protocol.md 3 */

struct worker_core;

/* As bus_send; what it returns is of no concern here: SYNC repairs. */
typedef void (*worker_send_fn)(void *ctx, enum bus_subject subject, uint64_t to, const void *data,
                               size_t bytes);

struct worker_core_options {
    struct engine *engine;
    struct msg_hello hello; /* told at start and to each WHO */
    uint32_t sync_timeout_ms;
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
/* Sends what messages have to be answered; after the last message and before a step. */
void worker_core_flush(struct worker_core *core, uint64_t now_us);
/* Whether worker_core_step has something to do. */
bool worker_core_has_work(const struct worker_core *core);
/* One engine step and the TOKENS of it, one message a sender.  An error: the device is gone; every
 * live attempt was told. */
MUST_USE enum err worker_core_step(struct worker_core *core, uint64_t now_us);
/* LOAD, and the silence of senders; to be called at worker_core_tick_at or later, and may be called
 * at any time. */
void worker_core_tick(struct worker_core *core, uint64_t now_us);
uint64_t worker_core_tick_at(const struct worker_core *core);

/* From now on every GENERATE is refused. */
void worker_core_drain(struct worker_core *core, uint64_t now_us);
/* Nothing runs and nothing finished waits to be heard. */
bool worker_core_is_empty(const struct worker_core *core);
void worker_core_bye(struct worker_core *core);
void worker_core_get_counts(const struct worker_core *core, struct worker_core_counts *out);
/* Walks every structure and CHECKs its invariants, the engine's too. */
void worker_core_check(const struct worker_core *core);

#endif
