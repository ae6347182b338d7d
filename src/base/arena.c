/* arena - see arena.h. */
#include "base/arena.h"

#include <string.h>

#include "base/alloc.h"

#define CHUNK_BYTES_MIN 4096u   /* a page: most requests need one or two */
#define CHUNK_BYTES_KEPT 65536u /* by arena_clear, at most */

struct arena_chunk {
    struct arena_chunk *next;
    size_t used_bytes;
    size_t room_bytes;
    size_t unused; /* keeps data aligned to 16 */
    uint8_t data[];
};

void arena_init(struct arena *arena, size_t limit_bytes) {
    *arena = (struct arena){.limit_bytes = limit_bytes};
}

void arena_release(struct arena *arena) {
    while (arena->chunks) {
        struct arena_chunk *next = arena->chunks->next;
        alloc_free(arena->chunks);
        arena->chunks = next;
    }
    arena->taken_bytes = 0;
}

void arena_clear(struct arena *arena) {
    struct arena_chunk *kept = arena->chunks;
    if (!kept || kept->room_bytes > CHUNK_BYTES_KEPT) {
        arena_release(arena);
        return;
    }
    arena->chunks = kept->next;
    arena_release(arena);
    kept->next = NULL;
    kept->used_bytes = 0;
    arena->chunks = kept;
}

void *arena_take(struct arena *arena, size_t bytes) {
    if (bytes > SIZE_MAX / 2) return NULL;
    bytes = (bytes + 15) & ~(size_t) 15;
    if (arena->limit_bytes && bytes > arena->limit_bytes - arena->taken_bytes) return NULL;
    struct arena_chunk *chunk = arena->chunks;
    if (!chunk || bytes > chunk->room_bytes - chunk->used_bytes) {
        size_t room = chunk ? chunk->room_bytes * 2 : CHUNK_BYTES_MIN;
        if (room < bytes) room = bytes;
        struct arena_chunk *fresh = alloc_bytes(sizeof *fresh + room);
        if (!fresh) return NULL;
        *fresh = (struct arena_chunk){.next = chunk, .room_bytes = room};
        arena->chunks = chunk = fresh;
    }
    void *at = chunk->data + chunk->used_bytes;
    chunk->used_bytes += bytes;
    arena->taken_bytes += bytes;
    return at;
}

void *arena_take_zero(struct arena *arena, size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) return NULL;
    void *at = arena_take(arena, bytes);
    if (at) memset(at, 0, bytes);
    return at;
}

char *arena_copy(struct arena *arena, const void *data, size_t bytes) {
    if (bytes == SIZE_MAX) return NULL;
    char *at = arena_take(arena, bytes + 1);
    if (!at) return NULL;
    if (bytes) memcpy(at, data, bytes);
    at[bytes] = '\0';
    return at;
}
