/* sim_backend - a backend that computes nothing, and tells whether serving did.
 *
 * The KV of position p is a hash of token p and of the KV of all positions before it, read back
 * from the blocks each time; the next token is a function of the same.  A block that was
 * misplaced, lost, stale or half written changes every answer after it, and so does any piece of
 * one: the KV is cut over the KV heads and the ranks that hold them (sim_kv.h).  How many heads
 * and ranks there are changes nothing.  With temperature 0 the answer depends on the tokens alone;
 * above, also on (seed, choice index, output index); with a penalty on, also on the seat's
 * generated ids.
 *
 * Time: a batch is due sim_step_us + tokens x sim_token_us after the one before it (or after its
 * submit), and with sim_is_on_grid at the next whole multiple of sim_step_us by then: whoever knows
 * the time knows when the last step ended.  collect sleeps until then. */
#ifndef GRAMME_BACKEND_SIM_SIM_BACKEND_H
#define GRAMME_BACKEND_SIM_SIM_BACKEND_H

#include <stdint.h>

#include "backend/backend.h"

/* The same answers without any block: what tests hold the engine against. */
struct sim_text {
    uint64_t sum; /* of the KV of all positions so far */
    uint32_t position;
};

struct sim_draw {
    const struct sampling *sampling;
    uint32_t choice_index;
    uint32_t output_index;
    uint32_t vocab_size;
    uint32_t stop_period;
    uint64_t history; /* sum of sim_backend_history over the generated ids so far */
};

void sim_backend_feed(struct sim_text *text, uint32_t token_id);
uint32_t sim_backend_draw(const struct sim_text *text, const struct sim_draw *draw);
uint64_t sim_backend_history(uint32_t token_id);

#endif
