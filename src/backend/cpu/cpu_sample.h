/* cpu_sample - from a row of logits to a token: a seat's rules, its counts, and the choice.
 *
 * A seat holds what the next tokens of one sequence are drawn by, in planned memory: a copy of
 * the request's numbers and lists, and the counts that penalties need.  Order and ties:
 * numerics.md 5.  One thread works on a seat at a time; between steps the step thread does. */
#ifndef GRAMME_BACKEND_CPU_CPU_SAMPLE_H
#define GRAMME_BACKEND_CPU_CPU_SAMPLE_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"
#include "backend/cpu/cpu_scan.h"

struct cpu_seat;

/* Bytes of one seat; a multiple of 64. */
uint64_t cpu_sample_seat_bytes(uint32_t vocab_size, uint32_t model_len_max);
/* Makes an empty seat of zeroed memory. */
void cpu_sample_seat_init(struct cpu_seat *seat, uint32_t vocab_size, uint32_t model_len_max);
/* ERR_LIMIT when a list is longer than the seat has room for, ERR_USAGE for an id outside the
 * vocabulary; the seat is then empty. */
MUST_USE enum err cpu_sample_seat_set(struct cpu_seat *seat, const struct seat_setup *setup);
void cpu_sample_seat_clear(struct cpu_seat *seat);
uint32_t cpu_sample_seat_last(const struct cpu_seat *seat); /* the token sampled (given) last */
/* The next token is the raw maximum and nothing else is asked of the row. */
bool cpu_sample_seat_is_plain(const struct cpu_seat *seat, const struct batch_row *row);
/* Takes a drawn token into the counts. */
void cpu_sample_seat_take(struct cpu_seat *seat, uint32_t token_id);

/* One thread's scratch; 64-aligned. */
uint64_t cpu_sample_scratch_bytes(uint32_t vocab_size);

/* Draws the token of `row` from its raw logits (not changed) and fills out, logprob included.
 * `top` is the raw maximum.  An error (out->error): logits not finite, or nothing may be drawn. */
void cpu_sample_row(const struct cpu_scan_ops *scan, struct cpu_seat *seat,
                    const struct batch_row *row, const float *logits, struct cpu_scan_top top,
                    uint8_t *scratch, struct result_row *out);
/* Logprob of `token_id` in the raw distribution, its rank, and the top_count best. */
void cpu_sample_logprob(const struct cpu_scan_ops *scan, const float *logits, uint32_t vocab_size,
                        float max, uint32_t token_id, uint32_t top_count,
                        struct token_logprob *out);
/* The number of best tokens that prompt logprobs of this seat list. */
uint32_t cpu_sample_prompt_top(const struct cpu_seat *seat);

#endif
