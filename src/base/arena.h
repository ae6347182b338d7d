/* arena - the memory of one request: many small pieces, freed in one call.
 *
 * Owned by one thread.  Pointers live until arena_release or arena_clear. */
#ifndef GRAMME_BASE_ARENA_H
#define GRAMME_BASE_ARENA_H

#include <stddef.h>
#include <stdint.h>

#include "base/check.h"

struct arena_chunk;
struct arena {
    struct arena_chunk *chunks; /* newest first */
    size_t taken_bytes;
    size_t limit_bytes; /* 0: none */
};

void arena_init(struct arena *arena, size_t limit_bytes);
void arena_release(struct arena *arena);
/* As arena_release, but keeps a chunk of moderate size for what comes next. */
void arena_clear(struct arena *arena);
/* Aligned to 16; NULL past the limit or without memory. */
MUST_USE void *arena_take(struct arena *arena, size_t bytes);
MUST_USE void *arena_take_zero(struct arena *arena, size_t count, size_t size);
/* A copy with a NUL behind it. */
MUST_USE char *arena_copy(struct arena *arena, const void *data, size_t bytes);

#endif
