/* sim_seed - what every simulation has: one seed's random numbers, virtual time, and how a failure
 * ends it.  One program, one seed at a time; each test sets seed_now, random_state and now_us. */
#ifndef GRAMME_TESTS_SIM_SIM_SEED_H
#define GRAMME_TESTS_SIM_SIM_SEED_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static uint64_t seed_now, random_state, now_us;

/* SplitMix64. */
static inline uint32_t below(uint32_t n) {
    random_state += 0x9e3779b97f4a7c15u;
    uint64_t z = random_state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t) ((z >> 33) % n);
}

/* Prints the seed and the virtual time, and ends the program. */
__attribute__((noreturn, format(printf, 1, 2))) static inline void wrong(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "seed %llu, %.3f s: ", (unsigned long long) seed_now, (double) now_us / 1e6);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

#endif
