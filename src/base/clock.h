/* clock - the two times there are: monotonic for spans, wall for people. */
#ifndef GRAMME_BASE_CLOCK_H
#define GRAMME_BASE_CLOCK_H

#include <stdint.h>

/* Nanoseconds since some moment; never goes back. */
uint64_t clock_now_ns(void);
uint64_t clock_now_us(void);
/* Nanoseconds since 1970. */
uint64_t clock_wall_ns(void);

#endif
