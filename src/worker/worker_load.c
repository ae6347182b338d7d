/* worker_load - see worker_load.h. */
#include "worker/worker_load.h"

void worker_load_fill(const struct engine *engine, const struct xfer *xfer,
                      const struct handoff_decode *decode, const struct handoff_prefill *prefill,
                      struct msg_load *out) {
    struct engine_load load;
    engine_get_load(engine, &load);
    *out = (struct msg_load){
        .blocks_total = load.blocks_total,
        .blocks_free = load.blocks_free,
        .blocks_cached = load.blocks_cached,
        .running_requests = load.running_requests,
        .waiting_requests = load.waiting_requests,
        .running_tokens = load.running_tokens,
        .waiting_tokens = load.waiting_tokens,
        .step_count = load.step_count,
        .step_us = load.step_us,
        .preemption_count = load.preemption_count,
        .prefix_query_tokens = load.prefix_query_tokens,
        .prefix_hit_tokens = load.prefix_hit_tokens,
        .prompt_tokens = load.prompt_tokens,
        .generation_tokens = load.generation_tokens,
        .remote_blocks = load.remote_blocks,
        .quarantined_blocks = load.quarantined_blocks,
    };
    if (prefill) handoff_prefill_add_load(prefill, &load, out);
    if (decode) handoff_decode_add_load(decode, out);
    if (!xfer) return;
    struct xfer_counts counts;
    xfer_get_counts(xfer, &counts);
    out->sent_bytes = counts.sent_bytes;
    out->received_bytes = counts.received_bytes;
    out->busy_us = counts.busy_us;
    out->pairs_shm = counts.pairs_shm;
    out->pairs_tcp = counts.pairs_tcp;
    out->pairs_lost = counts.peers_lost;
}
