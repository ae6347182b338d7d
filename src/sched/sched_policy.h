/* sched_policy - how one step's tokens are dealt out: snapshot in, decision out.
 *
 * Pure.  Chunked: decodes first, one token each, then prefills in order, each up to its chunk.
 * Not chunked: whole prompts first, in order, then decodes with what is left (a prompt that must
 * be computed in one step would else wait for every decode to end). */
#ifndef GRAMME_SCHED_SCHED_POLICY_H
#define GRAMME_SCHED_SCHED_POLICY_H

#include <stdbool.h>
#include <stdint.h>

struct sched_limits {
    uint32_t batched_tokens_max; /* of one step */
    uint32_t chunk_max;          /* of one sequence in a step; >= 1 */
    bool is_chunked;
};

/* A running sequence, oldest first. */
struct sched_row {
    uint32_t pending_tokens; /* to be computed; 0: it waits for a batch under way */
    bool is_decode;          /* the one pending token was just drawn */
    uint32_t tokens;         /* out: what it computes in this step */
};

/* Sets rows[].tokens.  Returns the tokens left for sequences that are not running yet; 0 also when
 * a running prefill got nothing, for those that came later must not pass it. */
uint32_t sched_policy_deal(const struct sched_limits *limits, struct sched_row *rows,
                           uint32_t row_count);
/* What a prefill of so many pending tokens computes when so many are left; 0: not in this step. */
uint32_t sched_policy_chunk(const struct sched_limits *limits, uint32_t pending_tokens,
                            uint32_t tokens_left);
/* Blocks a sequence is promised at admission: for its known tokens and one more, at most for
 * positions_max (all that it can ever come to). */
uint32_t sched_policy_blocks(uint32_t known_tokens, uint32_t positions_max, uint32_t block_size);

#endif
