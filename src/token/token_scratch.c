/* token_scratch - see the header. */
#include "token/token_scratch.h"

#include <string.h>

#include "base/alloc.h"
#include "token/token_regex.h"

#define LINE_BYTES 64 /* a cache line */

enum err token_scratch_create(const struct tokenizer *tokenizer, size_t cache_bytes,
                              struct token_scratch **out) {
    struct token_scratch *scratch = alloc_zero(1, sizeof *scratch);
    if (!scratch) return ERR_MEMORY;
    scratch->tokenizer = tokenizer;
    /* Half of it for short words, in twice as many sets. */
    const size_t short_bytes = 2 * sizeof *scratch->shorts;
    const size_t long_bytes = 2 * sizeof *scratch->longs;
    const size_t both_bytes = 2 * short_bytes + long_bytes;
    if (cache_bytes >= both_bytes) {
        size_t set_count = 1;
        while (set_count * 2 <= cache_bytes / both_bytes) set_count *= 2;
        /* Zeroed memory is an empty cache, and untouched pages cost nothing. */
        scratch->cache_block = alloc_zero(set_count + 1, both_bytes);
        if (!scratch->cache_block) {
            alloc_free(scratch);
            return ERR_MEMORY;
        }
        uintptr_t address = (uintptr_t) scratch->cache_block;
        char *aligned = (char *) scratch->cache_block + (LINE_BYTES - address % LINE_BYTES);
        scratch->longs = (void *) aligned;
        scratch->shorts = (void *) (aligned + set_count * long_bytes);
        scratch->long_mask = set_count - 1;
        scratch->short_mask = set_count * 2 - 1;
    }
    *out = scratch;
    return ERR_OK;
}

#define KEPT_SYMBOLS 65536 /* 1.3 MiB of symbols, 1.5 MiB of heap */
#define KEPT_BYTES (1u << 20)

static void trim_buf(struct buf *buf) {
    if (buf->room_bytes > KEPT_BYTES) buf_release(buf);
}

void token_scratch_trim(struct token_scratch *scratch) {
    if (scratch->symbol_room > KEPT_SYMBOLS) {
        alloc_free(scratch->symbols);
        alloc_free(scratch->heap);
        scratch->symbols = NULL;
        scratch->heap = NULL;
        scratch->symbol_room = scratch->heap_room = 0;
    }
    if (scratch->point_room > KEPT_SYMBOLS) {
        alloc_free(scratch->points);
        scratch->points = NULL;
        scratch->point_room = 0;
    }
    for (int i = 0; i < 2; i++) {
        trim_buf(&scratch->normal[i]);
        trim_buf(&scratch->step[i]);
    }
}

void token_scratch_destroy(struct token_scratch *scratch) {
    if (!scratch) return;
    alloc_free(scratch->cache_block);
    alloc_free(scratch->symbols);
    alloc_free(scratch->heap);
    alloc_free(scratch->points);
    alloc_free(scratch->ranges);
    for (int i = 0; i < 2; i++) {
        buf_release(&scratch->normal[i]);
        buf_release(&scratch->step[i]);
    }
    token_regex_match_destroy(scratch->match);
    alloc_free(scratch);
}
