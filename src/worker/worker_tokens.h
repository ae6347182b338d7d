/* worker_tokens - what a worker's attempts have to tell, as TOKENS messages.
 *
 * worker_core marks attempts and choices dirty; a flush tells what no TOKENS carried yet, one
 * message a sender unless it grows too long, and marks it told.  What there is no memory for counts
 * as told: a SYNC asks for it again.  Owned by worker_core, same thread. */
#ifndef GRAMME_WORKER_WORKER_TOKENS_H
#define GRAMME_WORKER_WORKER_TOKENS_H

#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "bus/msg.h"
#include "worker/handoff.h"
#include "worker/worker_attempts.h"

struct worker_tokens {
    handoff_send_fn send;
    void *send_ctx;
    enum err lost;  /* the owner's: the device is gone, and this is why */
    struct buf out; /* the message being made */
    struct msg_tokens_entry *entries;
    uint32_t entry_count, entry_room;
    struct msg_logprob *logprobs; /* of the entries */
    uint32_t logprob_count, logprob_room;
};

void worker_tokens_init(struct worker_tokens *tokens, handoff_send_fn send, void *send_ctx);
void worker_tokens_release(struct worker_tokens *tokens);
void worker_tokens_flush(struct worker_tokens *tokens, struct worker_attempts *attempts);

#endif
