/* num - arithmetic on sizes that says when it does not fit. */
#ifndef GRAMME_BASE_NUM_H
#define GRAMME_BASE_NUM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/check.h"

/* true when the product (sum) fits; only then *out is set. */
MUST_USE static inline bool num_mul(uint64_t a, uint64_t b, uint64_t *out) {
    uint64_t product;
    if (__builtin_mul_overflow(a, b, &product)) return false;
    *out = product;
    return true;
}

MUST_USE static inline bool num_add(uint64_t a, uint64_t b, uint64_t *out) {
    uint64_t sum;
    if (__builtin_add_overflow(a, b, &sum)) return false;
    *out = sum;
    return true;
}

static inline uint64_t num_min(uint64_t a, uint64_t b) { return a < b ? a : b; }
static inline uint64_t num_max(uint64_t a, uint64_t b) { return a > b ? a : b; }
/* ceil(a / b), b > 0 */
static inline uint64_t num_div_up(uint64_t a, uint64_t b) { return a / b + (a % b != 0); }
/* a rounded up to a multiple of b; the caller knows that it fits. */
static inline uint64_t num_round_up(uint64_t a, uint64_t b) { return num_div_up(a, b) * b; }

#endif
