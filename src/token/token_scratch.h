/* token_scratch - what one thread needs to encode: the word cache, symbols, buffers.
 *
 * The cache maps words to their ids.  It has two tables of sets of two entries, the newer first:
 * short words with few ids, most of a text, in 32 bytes an entry, and longer ones in 64.  It
 * holds nothing that depends on anything but the tokenizer. */
#ifndef GRAMME_TOKEN_TOKEN_SCRATCH_H
#define GRAMME_TOKEN_TOKEN_SCRATCH_H

#include "base/buf.h"
#include "token/tokenizer.h"

#define TOKEN_SCRATCH_SHORT_BYTES 15 /* longest word of the first table */
#define TOKEN_SCRATCH_SHORT_IDS 4    /* most ids of one */
#define TOKEN_SCRATCH_LONG_BYTES 31
#define TOKEN_SCRATCH_LONG_IDS 8

/* key holds the word, zero-padded, and its length in the last byte; a free entry's length is 0.
 * Unused ids are TOKENIZER_NONE. */
struct token_scratch_short {
    uint64_t key[2];
    uint32_t ids[TOKEN_SCRATCH_SHORT_IDS];
};
struct token_scratch_long {
    uint64_t key[4];
    uint32_t ids[TOKEN_SCRATCH_LONG_IDS];
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
    void *cache_block;                  /* owned; the tables are aligned inside */
    struct token_scratch_short *shorts; /* NULL: no cache */
    struct token_scratch_long *longs;
    uint64_t short_mask, long_mask;       /* of sets */
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
