/* cpu_scan - passes over a row of logits: the loops of sampling.
 *
 * Everything is asked for a range of ids, so a row may be split over threads; what is returned
 * does not depend on how it is split (maxima, counts, integer sums; and sums of exponentials only
 * over whole pieces of CPU_SCAN_PIECE).  Ties go to the lowest id.  Pure functions; one table for
 * each body, all of the same bits.
 *
 * A cut names the last token that stays, in the order (logit descending, id ascending). */
#ifndef GRAMME_BACKEND_CPU_CPU_SCAN_H
#define GRAMME_BACKEND_CPU_CPU_SCAN_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/cpu/cpu_matmul.h"

#define CPU_SCAN_PIECE 4096 /* ids whose exponentials are summed as one */
#define CPU_SCAN_BINS 2048  /* of 1/64 each below the maximum; the last takes all that is lower */

struct cpu_scan_top {
    float value;
    uint32_t id;
    bool is_finite; /* all values of the range are */
};

struct cpu_scan_cut {
    float value;
    uint32_t id;
};

struct cpu_scan_draw {
    uint64_t seed;
    uint32_t choice_index;
    uint32_t output_index;
};

struct cpu_scan_ops {
    /* The largest of x[first..end). */
    struct cpu_scan_top (*top)(const float *x, uint32_t first, uint32_t end);
    /* Sum of e^(x - max) over [first, end), at most CPU_SCAN_PIECE of them, by 16 lanes. */
    float (*exp_sum)(const float *x, uint32_t first, uint32_t end, float max);
    /* How many stand before (value, id) in the order. */
    uint32_t (*before)(const float *x, uint32_t count, float value, uint32_t id);
    /* out = x / divisor */
    void (*divide)(const float *x, uint32_t count, float divisor, float *out);
    /* The n (<= 32) first of the order; fewer when count is smaller.  Returns how many. */
    uint32_t (*best)(const float *x, uint32_t count, uint32_t n, uint32_t *ids, float *values);
    /* Adds to counts[bin] one, and to weights[bin] (may be NULL) floor(e^(x - max) x 2^40), for
     * each token within the cut. */
    void (*bins)(const float *x, uint32_t count, float max, struct cpu_scan_cut cut,
                 uint32_t *counts, uint64_t *weights);
    /* The keys of the tokens of one bin within the cut, ascending by id; a smaller key stands
     * earlier in the order.  Returns how many. */
    uint32_t (*gather)(const float *x, uint32_t count, float max, struct cpu_scan_cut cut,
                       uint32_t bin, uint64_t *keys);
    /* The token of [first, end) within the cut with the largest x + gumbel (numerics.md 5), given
     * the best so far (value -INFINITY: none). */
    struct cpu_scan_top (*draw)(const float *x, uint32_t first, uint32_t end,
                                struct cpu_scan_cut cut, struct cpu_scan_draw how,
                                struct cpu_scan_top best);
    float (*log)(float x); /* x finite; below the normal numbers: as of 2^-126 */
    /* For tests: 16 words of Philox4x32-10 at token ids id.., and their gumbels. */
    void (*noise)(struct cpu_scan_draw how, uint32_t id, uint32_t *words, float *gumbels);
};

/* Order-preserving: larger values give smaller keys; then smaller ids. */
static inline uint64_t cpu_scan_key(float value, uint32_t id) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    if (bits == 0x80000000u) bits = 0; /* -0 is 0 */
    uint32_t rising = bits >> 31 ? ~bits : bits | 0x80000000u;
    return (uint64_t) ~rising << 32 | id;
}
static inline struct cpu_scan_cut cpu_scan_cut_of(uint64_t key) {
    uint32_t rising = ~(uint32_t) (key >> 32);
    uint32_t bits = rising >> 31 ? rising & 0x7fffffffu : ~rising;
    struct cpu_scan_cut cut = {.id = (uint32_t) key};
    __builtin_memcpy(&cut.value, &bits, sizeof bits);
    return cut;
}

extern const struct cpu_scan_ops cpu_scan_scalar;
#ifdef __x86_64__
extern const struct cpu_scan_ops cpu_scan_avx2, cpu_scan_avx512;
#endif

static inline const struct cpu_scan_ops *cpu_scan_of(enum cpu_body body) {
#ifdef __x86_64__
    if (body == CPU_BODY_AVX512) return &cpu_scan_avx512;
    if (body == CPU_BODY_AVX2) return &cpu_scan_avx2;
#endif
    return &cpu_scan_scalar;
}

#endif
