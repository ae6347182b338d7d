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
/* Takes a drawn token into the counts. */
void cpu_sample_seat_take(struct cpu_seat *seat, uint32_t token_id);

/* One thread's scratch; 64-aligned. */
uint64_t cpu_sample_scratch_bytes(uint32_t vocab_size);

/* A draw between its preparation and its end. */
struct cpu_sample_draw {
    const float *x; /* logits or scratch */
    struct cpu_scan_cut cut;
    struct cpu_scan_draw how;
    struct cpu_scan_top best; /* the token, once it is known */
    float raw_max;
    bool is_open; /* best is still to be found: scan->draw over the vocabulary, in any parts */
};

/* The seat draws by chance: worth sharing over threads. */
bool cpu_sample_seat_is_random(const struct cpu_seat *seat);
/* Rules and filters for the token of `row` from its raw logits (not changed, and kept until the
 * end).  `top` is the raw maximum.  An error (out->error) when logits are not finite, or nothing
 * may be drawn; the end then does nothing. */
void cpu_sample_begin(const struct cpu_scan_ops *scan, const struct cpu_seat *seat,
                      const struct batch_row *row, const float *logits, struct cpu_scan_top top,
                      uint8_t *scratch, struct cpu_sample_draw *draw, struct result_row *out);
/* Takes draw->best: token, logprob, counts. */
void cpu_sample_end(const struct cpu_scan_ops *scan, struct cpu_seat *seat, const float *logits,
                    const struct cpu_sample_draw *draw, struct result_row *out);
/* All of it on one thread. */
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
