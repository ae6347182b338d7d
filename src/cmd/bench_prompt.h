/* bench_prompt - text of about so many tokens for load tests, from a seed.
 *
 * The words are common English ones, each a token of its own (with its space) in the vocabularies
 * of today's models; a list of n words is n tokens within a few per cent. */
#ifndef GRAMME_CMD_BENCH_PROMPT_H
#define GRAMME_CMD_BENCH_PROMPT_H

#include <stdint.h>

#include "base/buf.h"

/* Appends word_count words drawn by (seed, index); needs no JSON escaping. */
void bench_prompt_add(struct buf *out, uint64_t seed, uint64_t index, uint32_t word_count);

#endif
