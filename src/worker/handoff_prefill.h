/* handoff_prefill - the prefill worker's side of a handoff (protocol.md 4): computes prompts and
 * sends each block as it fills.
 *
 *   PREFILL -> LIVE --all computed and sent--> DONE --a SYNC omits it--> forgotten
 *                |                               ^ its blocks are free again
 *                +-- deadline, CANCEL, two SYNCs omit it, its sender is silent, a send fails
 *                        --> ENDING --no send under way--> forgotten
 *
 * A source block is held until its send is over; nothing of D's is ever read.  A PREFILL seen
 * twice is answered, not run twice. */
#ifndef GRAMME_WORKER_HANDOFF_PREFILL_H
#define GRAMME_WORKER_HANDOFF_PREFILL_H

#include "base/arena.h"
#include "worker/handoff.h"

struct handoff_prefill;

struct handoff_prefill_counts {
    uint64_t prefills, repeated, late, refused, done, done_again;
    uint64_t deadlines, cancels, omitted_live, omitted_done, silent_senders, failed;
    uint64_t syncs, stale_syncs, gone, pieces_cached, both_cached;
    uint64_t tail_us; /* from the last compute to the last byte, of the done ones */
};

MUST_USE enum err handoff_prefill_create(const struct handoff_options *options,
                                         struct handoff_prefill **out);
void handoff_prefill_destroy(struct handoff_prefill *prefill);

/* PREFILL, SYNC, CANCEL; others are ignored.  false: broken bytes. */
MUST_USE bool handoff_prefill_take(struct handoff_prefill *prefill,
                                   const struct bus_message *message, struct arena *arena,
                                   uint64_t now_us);
/* Each output of the engine. */
void handoff_prefill_output(struct handoff_prefill *prefill, const struct engine_output *output,
                            uint64_t now_us);
/* A transfer event of this side. */
void handoff_prefill_event(struct handoff_prefill *prefill, const struct xfer_event *event,
                           uint64_t now_us);
/* Each 100 ms. */
void handoff_prefill_tick(struct handoff_prefill *prefill, bool is_connected, uint64_t now_us);

/* From now on every PREFILL is refused. */
void handoff_prefill_drain(struct handoff_prefill *prefill);
/* Nothing is computed, sent, or waits to be heard. */
bool handoff_prefill_is_empty(const struct handoff_prefill *prefill);
uint32_t handoff_prefill_sender_count(const struct handoff_prefill *prefill);
/* For LOAD: the highest attempt received from each sender. */
void handoff_prefill_get_senders(const struct handoff_prefill *prefill,
                                 struct msg_load_sender *out);
void handoff_prefill_get_counts(const struct handoff_prefill *prefill,
                                struct handoff_prefill_counts *out);
/* Its part of LOAD: what waits here are prefills, not requests. */
void handoff_prefill_add_load(const struct handoff_prefill *prefill, const struct engine_load *load,
                              struct msg_load *message);
void handoff_prefill_check(const struct handoff_prefill *prefill);

#endif
