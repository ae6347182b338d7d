/* worker_kv - tells routers which blocks this worker holds.
 *
 * Each change of the engine's index goes out as a numbered KV_EVENT, batched once a step.  A router
 * that missed some asks for a dump: the whole index as it is at one moment, in parts of at most
 * 256 KiB.  One picture of the index is sent at a time, to all who had asked when it was taken; a
 * few parts a call, so that neither a step nor a ring is held up by it.
 *
 * Without thread, clock or bus, as worker_core, which owns it; same thread. */
#ifndef GRAMME_WORKER_WORKER_KV_H
#define GRAMME_WORKER_WORKER_KV_H

#include <stdbool.h>
#include <stdint.h>

#include "kv/kv_index.h"
#include "worker/worker_core.h"

#define WORKER_KV_ASKS_MAX 16u       /* routers that wait for one picture; more ask again */
#define WORKER_KV_DUMP_GAP_US 50000u /* between two pictures: each walks the whole index */

struct worker_kv;

struct worker_kv_counts {
    uint64_t events, skipped; /* sent; gone from the index before they were sent */
    uint64_t asks, dropped_asks, dumps, parts;
};

/* Borrows the index. */
MUST_USE enum err worker_kv_create(const struct kv_index *index, worker_send_fn send,
                                   void *send_ctx, struct worker_kv **out);
void worker_kv_destroy(struct worker_kv *kv);
/* A KV_DUMP_ASK.  false: its bytes are broken. */
MUST_USE bool worker_kv_take_ask(struct worker_kv *kv, const struct bus_message *message);
/* Sends what has changed since the last call and the next parts of a dump; after a step and at
 * each tick. */
void worker_kv_flush(struct worker_kv *kv, uint64_t now_us);
/* The number of the last event sent, for LOAD; 0: none. */
uint64_t worker_kv_event_last(const struct worker_kv *kv);
void worker_kv_get_counts(const struct worker_kv *kv, struct worker_kv_counts *out);

#endif
