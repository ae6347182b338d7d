/* token_scratch - what one thread needs to encode: the word cache, symbols, buffers.
 *
 * The cache maps short words to their few ids: sets of two entries, the newer first; an entry is
 * 32 bytes.  It holds nothing that depends on anything but the tokenizer. */
#ifndef GRAMME_TOKEN_TOKEN_SCRATCH_H
#define GRAMME_TOKEN_TOKEN_SCRATCH_H

#include "base/buf.h"
#include "token/tokenizer.h"

#define TOKEN_SCRATCH_WORD_BYTES 15 /* longest cached word */
#define TOKEN_SCRATCH_WORD_IDS 4    /* most ids of one */

/* low and high hold the word, zero-padded, and its length in the last byte; a free entry's
 * length is 0.  Unused ids are TOKENIZER_NONE. */
struct token_scratch_entry {
    uint64_t low, high;
    uint32_t ids[TOKEN_SCRATCH_WORD_IDS];
};

/* A symbol of a long word on its way through the merges. */
struct token_scratch_symbol {
    uint32_t id;
    uint32_t previous, next; /* positions; UINT32_MAX: none */
    uint32_t rank;           /* of the merge with the next; UINT32_MAX: none */
    uint32_t merged;         /* what that gives */
};

struct token_scratch {
    const struct tokenizer *tokenizer;
    void *cache_block;                 /* owned; the cache is aligned inside */
    struct token_scratch_entry *cache; /* NULL: none */
    uint64_t set_mask;
    struct token_scratch_symbol *symbols; /* owned */
    size_t symbol_room;
    uint64_t *heap; /* owned: rank << 32 | position */
    size_t heap_room;
    struct buf normal[2]; /* the normalizer's output, in turns */
    struct buf step[2];   /* text that a pre-tokenizer step changed */
    uint32_t *points;     /* owned; code points of a segment under NFC */
    size_t point_room;
    struct tokenizer_range *ranges; /* owned; user ranges after the normalizer */
    size_t range_room;
    void *match; /* PCRE2's match data, made on first use */
    /* Nothing of the piece at hand was written by a user: merges may make control tokens. */
    bool allows_control;
    bool met_control; /* a merge that does was met in the word at hand */
};

/* Gives back what one very long text made grow. */
void token_scratch_trim(struct token_scratch *scratch);

#endif
