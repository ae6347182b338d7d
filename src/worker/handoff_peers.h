/* handoff_peers - the prefill workers that a decode worker knows, by their own messages.
 *
 *   HELLO -> unproven --small transfer--> usable <--10 silent ticks, stuck--> suspect
 *               \--it fails, other model, block size--> never used, one line says so
 *   BYE, ROSTER's dead, silent for a minute: forgotten
 *
 * Silence is counted in the owner's ticks (protocol.md 3); three good LOADs end a suspicion. */
#ifndef GRAMME_WORKER_HANDOFF_PEERS_H
#define GRAMME_WORKER_HANDOFF_PEERS_H

#include "base/arena.h"
#include "worker/handoff.h"

enum handoff_path { HANDOFF_UNPROVEN, HANDOFF_PROVING, HANDOFF_GOOD, HANDOFF_BAD };

struct handoff_peer {
    struct handoff_peer *next;
    struct msg_hello hello;
    bool is_like; /* a prefill worker whose KV is the same as ours */
    enum handoff_path path;
    uint32_t bad_ticks; /* since the path was found bad */
    bool is_suspect, is_draining;
    uint32_t silent_ticks, stuck_ticks, good_loads;
    uint64_t step_count;
    uint32_t queued_prefills;
    uint64_t queued_tokens;
    uint64_t echo; /* the highest attempt of ours that it has received */
};

struct handoff_peers;

MUST_USE enum err handoff_peers_create(const struct handoff_options *options,
                                       struct handoff_peers **out);
void handoff_peers_destroy(struct handoff_peers *peers);

/* HELLO, BYE, LOAD, ROSTER; others are ignored.  false: foreign bytes that break the format. */
MUST_USE bool handoff_peers_take(struct handoff_peers *peers, const struct bus_message *message,
                                 struct arena *arena);
/* Each 100 ms, when the bus has its connection. */
void handoff_peers_tick(struct handoff_peers *peers);
/* Looks how the small transfers went. */
void handoff_peers_poll(struct handoff_peers *peers);
/* Somebody unknown was heard since the last call: ask WHO. */
bool handoff_peers_wants_who(struct handoff_peers *peers);

/* First of all that are known; next by ->next. */
const struct handoff_peer *handoff_peers_first(const struct handoff_peers *peers);
/* NULL: unknown, or gone. */
const struct handoff_peer *handoff_peers_find(const struct handoff_peers *peers, uint64_t instance);
/* Work may be given to it now. */
bool handoff_peers_is_usable(const struct handoff_peer *peer);

#endif
