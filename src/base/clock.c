/* clock - see clock.h. */
#include "base/clock.h"

#include <time.h>

static uint64_t read_ns(clockid_t id) {
    struct timespec now;
    clock_gettime(id, &now);
    return (uint64_t) now.tv_sec * 1000000000u + (uint64_t) now.tv_nsec;
}

uint64_t clock_now_ns(void) { return read_ns(CLOCK_MONOTONIC); }
uint64_t clock_now_us(void) { return read_ns(CLOCK_MONOTONIC) / 1000; }
uint64_t clock_wall_ns(void) { return read_ns(CLOCK_REALTIME); }
