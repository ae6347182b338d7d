/* bench_trace - prompts as block hashes, in the shape of the public Mooncake conversation trace:
 * blocks of 512 tokens, conversations that grow turn by turn and are gone back to by a power law
 * of recency, beginnings that many share by a power law of their own.  From a seed; one thread. */
#ifndef GRAMME_CMD_BENCH_TRACE_H
#define GRAMME_CMD_BENCH_TRACE_H

#include <stdint.h>

#include "base/err.h"

#define BENCH_TRACE_BLOCK_TOKENS 512u
#define BENCH_TRACE_BLOCKS_MAX 240u /* the trace's longest prompt has 123,192 tokens */

struct bench_trace;

MUST_USE enum err bench_trace_create(uint64_t seed, struct bench_trace **out);
void bench_trace_destroy(struct bench_trace *trace);
/* The next prompt's sequence hashes, valid until the next call; 1 to BENCH_TRACE_BLOCKS_MAX. */
const uint64_t *bench_trace_next(struct bench_trace *trace, uint32_t *block_count);
/* Any well-mixed function of a number. */
uint64_t bench_trace_mix(uint64_t x);

#endif
