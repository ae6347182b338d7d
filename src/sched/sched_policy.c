/* sched_policy - see sched_policy.h. */
#include "sched/sched_policy.h"

#include "base/check.h"
#include "base/num.h"

uint32_t sched_policy_chunk(const struct sched_limits *limits, uint32_t pending_tokens,
                            uint32_t tokens_left) {
    if (limits->is_chunked)
        return (uint32_t) num_min(num_min(pending_tokens, limits->chunk_max), tokens_left);
    if (pending_tokens <= tokens_left) return pending_tokens;
    /* Longer than any step: a preempted sequence with its generated tokens; it goes in pieces. */
    return pending_tokens > limits->batched_tokens_max ? tokens_left : 0;
}

static uint32_t deal_decodes(struct sched_row *rows, uint32_t row_count, uint32_t left) {
    for (uint32_t i = 0; i < row_count; i++) {
        if (!rows[i].is_decode || rows[i].pending_tokens == 0 || left == 0) continue;
        DCHECK(rows[i].pending_tokens == 1);
        rows[i].tokens = 1;
        left--;
    }
    return left;
}

static uint32_t deal_prefills(const struct sched_limits *limits, struct sched_row *rows,
                              uint32_t row_count, uint32_t left, bool *is_blocked) {
    for (uint32_t i = 0; i < row_count && !*is_blocked; i++) {
        if (rows[i].is_decode || rows[i].pending_tokens == 0) continue;
        rows[i].tokens = sched_policy_chunk(limits, rows[i].pending_tokens, left);
        left -= rows[i].tokens;
        *is_blocked = rows[i].tokens == 0;
    }
    return left;
}

uint32_t sched_policy_deal(const struct sched_limits *limits, struct sched_row *rows,
                           uint32_t row_count) {
    uint32_t left = limits->batched_tokens_max;
    bool is_blocked = false;
    for (uint32_t i = 0; i < row_count; i++) rows[i].tokens = 0;
    if (limits->is_chunked) left = deal_decodes(rows, row_count, left);
    left = deal_prefills(limits, rows, row_count, left, &is_blocked);
    if (!limits->is_chunked) left = deal_decodes(rows, row_count, left);
    return is_blocked ? 0 : left;
}

uint32_t sched_policy_blocks(uint32_t known_tokens, uint32_t positions_max, uint32_t block_size) {
    uint64_t positions = num_min((uint64_t) known_tokens + 1, positions_max);
    return (uint32_t) num_div_up(positions, block_size);
}
