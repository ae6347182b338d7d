/* worker_load - the numbers of LOAD, gathered from engine, transfer and both sides of a handoff.
 * What worker_core knows itself (draining, KV events, senders) it adds. */
#ifndef GRAMME_WORKER_WORKER_LOAD_H
#define GRAMME_WORKER_WORKER_LOAD_H

#include "bus/msg.h"
#include "engine/engine.h"
#include "worker/handoff_decode.h"
#include "worker/handoff_prefill.h"
#include "xfer/xfer.h"

/* xfer, decode and prefill may be NULL. */
void worker_load_fill(const struct engine *engine, const struct xfer *xfer,
                      const struct handoff_decode *decode, const struct handoff_prefill *prefill,
                      struct msg_load *out);

#endif
