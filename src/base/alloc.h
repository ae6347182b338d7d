/* alloc - the process heap, with a door for fault tests.
 *
 * Boot code and requests allocate here; the token path does not allocate.  Every function that
 * allocates is run by the unit tests with the n-th allocation failing, n = 1, 2, ...; that is
 * what alloc_fail_at is for.  Thread-safe. */
#ifndef GRAMME_BASE_ALLOC_H
#define GRAMME_BASE_ALLOC_H

#include <stddef.h>
#include <stdint.h>

#include "base/check.h"

/* NULL when there is no memory.  A size of 0 gives a pointer that may be freed. */
MUST_USE void *alloc_bytes(size_t bytes);
/* Zeroed; NULL also when count x size overflows. */
MUST_USE void *alloc_zero(size_t count, size_t size);
/* Uninitialised count x size; NULL also on overflow. */
MUST_USE void *alloc_array(size_t count, size_t size);
/* As realloc: on NULL the old block stands. */
MUST_USE void *alloc_resize(void *block, size_t bytes);
MUST_USE char *alloc_string(const char *text, size_t bytes);
void alloc_free(void *block);

/* Tests only: the n-th allocation from now on (1 = the next) fails, and when `forever` all
 * after it too.  0 turns it off.  Process-wide. */
void alloc_fail_at(uint64_t n, int forever);
/* How many allocations were asked for since the last alloc_fail_at. */
uint64_t alloc_count(void);

#endif
