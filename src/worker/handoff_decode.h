/* handoff_decode - the decode worker's side of a handoff (protocol.md 4): asks a prefill worker,
 * receives its blocks, joins or falls back.
 *
 *   QUEUED --placed--> SENT --all pieces, let go of, and PREFILL_DONE--> joined
 *     |                 | deadline, refusal, death, broken transfer
 *     |                 +--> RETRYING --let go of--> SENT (another one)
 *     |                 +--> falls back --> OVER --let go of--> forgotten
 *     +-- not placed: nothing to hand over, or it ended
 *
 * "Let go of": XFER_RELEASED, after which nothing can write to the blocks.  Until then they are
 * exposed, and the engine quarantines them when the request goes its own way.
 * One record a remote request; it outlives the request when the blocks are still exposed.
 *
 * Several choices that go on from ids of their own (n > 1 after a death) are always computed here:
 * a handoff brings one sequence, of which the engine forks all choices where it ends, and these
 * have parted before their ends.  It happens at most migration-limit times a request, its prompt is
 * computed once and in chunks beside the others' decoding, and each choice runs its own ids. */
#ifndef GRAMME_WORKER_HANDOFF_DECODE_H
#define GRAMME_WORKER_HANDOFF_DECODE_H

#include "base/arena.h"
#include "worker/handoff.h"

struct handoff_decode;

/* Tests prove by it that each way was gone. */
struct handoff_decode_counts {
    uint64_t results[MSG_REMOTE_RESULT_COUNT];
    uint64_t handoff_us;               /* of the DONE ones */
    uint64_t done_first, pieces_first; /* PREFILL_DONE before the last piece, or after it */
    uint64_t released_late;            /* blocks that came out of quarantine */
    uint64_t late_retries;             /* past a deadline another worker may be asked */
    uint64_t cancelled_exposed, gone, stale, syncs, transfer_failures;
};

MUST_USE enum err handoff_decode_create(const struct handoff_options *options, uint64_t now_us,
                                        struct handoff_decode **out);
void handoff_decode_destroy(struct handoff_decode *decode);

/* The rule for a GENERATE that has not been given to the engine yet: whether it goes there as
 * ENGINE_REMOTE under this engine id.  true: a record is kept; handoff_decode_end takes it back. */
MUST_USE bool handoff_decode_wants(struct handoff_decode *decode, uint64_t engine_id,
                                   const struct msg_generate *message, uint64_t now_us);
/* The engine's first output of it: with its blocks, or (is_placed false) run like any other. */
void handoff_decode_admitted(struct handoff_decode *decode, uint64_t engine_id, bool is_placed,
                             uint32_t cached_tokens, uint64_t now_us);
/* The engine's request ends or was cancelled; unknown ids are no error. */
void handoff_decode_end(struct handoff_decode *decode, uint64_t engine_id);

/* HELLO, BYE, LOAD, ROSTER, and PREFILL_DONE, REFUSE, GONE from prefill workers.  false: broken. */
MUST_USE bool handoff_decode_take(struct handoff_decode *decode, const struct bus_message *message,
                                  struct arena *arena, uint64_t now_us);
/* A transfer event of this side. */
void handoff_decode_event(struct handoff_decode *decode, const struct xfer_event *event,
                          uint64_t now_us);
/* Cheap; after messages and events. */
void handoff_decode_poll(struct handoff_decode *decode, uint64_t now_us);
/* Each 100 ms; is_connected: the bus has its connection. */
void handoff_decode_tick(struct handoff_decode *decode, bool is_connected, uint64_t now_us);
/* SYNC is due then; UINT64_MAX: none. */
uint64_t handoff_decode_wake_at(const struct handoff_decode *decode);
/* Messages may have been lost: WHO, and SYNC at once. */
void handoff_decode_lossy(struct handoff_decode *decode, uint64_t now_us);

bool handoff_decode_is_empty(const struct handoff_decode *decode);
void handoff_decode_get_counts(const struct handoff_decode *decode,
                               struct handoff_decode_counts *out);
/* Its part of LOAD. */
void handoff_decode_add_load(const struct handoff_decode *decode, struct msg_load *message);
void handoff_decode_check(const struct handoff_decode *decode);

#endif
