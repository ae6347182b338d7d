/* cpu_bodies - the bodies that this processor runs, scalar first. */
#ifndef GRAMME_TESTS_UNIT_BACKEND_CPU_BODIES_H
#define GRAMME_TESTS_UNIT_BACKEND_CPU_BODIES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/cpu/cpu_matmul.h"

__attribute__((unused)) static uint32_t bodies(enum cpu_body out[3]) {
    const char *names[] = {"scalar", "avx2", "avx512"};
    uint32_t count = 0;
    for (uint32_t i = 0; i < 3; i++)
        if (cpu_body_choose(names[i], NULL, &out[count]) == ERR_OK) count++;
    assert_true(count >= 1 && out[0] == CPU_BODY_SCALAR);
    return count;
}

/* splitmix64 */
__attribute__((unused)) static uint64_t random_next(uint64_t *state) {
    uint64_t x = *state += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}
/* Uniform in [-reach, reach). */
__attribute__((unused)) static float random_float(uint64_t *state, float reach) {
    return ((float) (int32_t) (random_next(state) >> 40) * 0x1p-23f - 1.0f) * reach;
}

#endif
