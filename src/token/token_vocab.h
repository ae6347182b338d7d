/* token_vocab - the tokens of a vocabulary, by id and by bytes, and the merges between them.
 *
 * Filled once by one thread while a tokenizer opens, then read-only.  A token's bytes are the
 * bytes it stands for: the byte-level spelling of GPT-2 is undone when a token is added.
 *
 * Invariant: every merge joins two ids of the vocabulary into a third. */
#ifndef GRAMME_TOKEN_TOKEN_VOCAB_H
#define GRAMME_TOKEN_TOKEN_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define TOKEN_VOCAB_IDS_MAX (1u << 22)    /* chosen: ten times the largest known */
#define TOKEN_VOCAB_BYTES_MAX (1u << 30)  /* all tokens together; offsets are 32 bits */
#define TOKEN_VOCAB_MERGES_MAX (1u << 24) /* chosen: thirty times the most known */
#define TOKEN_VOCAB_NONE UINT32_MAX

enum token_vocab_flag {
    TOKEN_VOCAB_PRESENT = 1,  /* the id has a token */
    TOKEN_VOCAB_MODEL = 2,    /* it is one of the model's: found by its bytes, merged into */
    TOKEN_VOCAB_RAW = 4,      /* its spelling is no byte-level one: the bytes are the spelling */
    TOKEN_VOCAB_SPECIAL = 8,  /* control: gives no text with skip_special */
    TOKEN_VOCAB_BYTE = 16,    /* <0xNN> of a byte-fallback vocabulary */
    TOKEN_VOCAB_CONTROL = 32, /* steers the model: what a user wrote never becomes it */
};

#define TOKEN_VOCAB_MERGE_CONTROL (1u << 31)

struct token_vocab_slot {
    uint32_t tag; /* high half of the hash */
    uint32_t id;  /* TOKEN_VOCAB_NONE: free */
};
struct token_vocab_merge {
    uint64_t pair; /* left << 32 | right; UINT64_MAX: free */
    uint32_t rank;
    uint32_t id; /* with TOKEN_VOCAB_MERGE_CONTROL when it makes a control token */
};

struct token_vocab {
    bool is_byte_level;
    uint8_t *blob;
    uint32_t blob_bytes;
    uint32_t blob_room;
    uint32_t *firsts; /* (id_count) into the blob */
    uint32_t *lengths;
    uint8_t *flags;
    uint32_t id_count; /* highest id + 1 */
    uint32_t id_room;
    uint32_t token_bytes_max;
    struct token_vocab_slot *slots;
    uint32_t slot_mask;
    struct token_vocab_merge *merges;
    uint32_t merge_mask;
    uint32_t merge_count;
    uint64_t digest; /* of merges in their order */
};

/* Room for about token_count tokens; all zero or closed is a valid state for release. */
MUST_USE enum err token_vocab_init(struct token_vocab *vocab, bool is_byte_level,
                                   uint32_t token_count);
void token_vocab_release(struct token_vocab *vocab);
/* ERR_LIMIT past TOKEN_VOCAB_IDS_MAX; ERR_FORMAT when the id is taken.  Of two tokens with the
 * same bytes the first keeps the lookup. */
MUST_USE enum err token_vocab_add(struct token_vocab *vocab, uint32_t id, const char *spelling,
                                  size_t bytes, uint8_t flags);
/* The id of a token of the model by the bytes it stands for. */
uint32_t token_vocab_find(const struct token_vocab *vocab, const uint8_t *text, size_t bytes);
/* The same by its spelling. */
uint32_t token_vocab_find_spelling(const struct token_vocab *vocab, const char *spelling,
                                   size_t bytes);
const uint8_t *token_vocab_token(const struct token_vocab *vocab, uint32_t id, size_t *bytes);

/* Room for `count` merges in all, so that adding them does not move the table. */
MUST_USE enum err token_vocab_reserve_merges(struct token_vocab *vocab, uint32_t count);
/* ERR_NOT_FOUND when a part or the whole is no token; of a pair named twice the later rank
 * counts. */
MUST_USE enum err token_vocab_merge(struct token_vocab *vocab, const char *left, size_t left_bytes,
                                    const char *right, size_t right_bytes, uint32_t rank);
MUST_USE enum err token_vocab_set_merge(struct token_vocab *vocab, uint32_t left, uint32_t right,
                                        uint32_t rank, uint32_t id);

/* Marks the merges that make a control token, once the flags are set. */
void token_vocab_mark_merges(struct token_vocab *vocab);

/* Undoes GPT-2's byte-level spelling into out (bytes of room); SIZE_MAX when a character is none
 * of its alphabet. */
size_t token_vocab_unspell(const char *spelling, size_t bytes, uint8_t *out);

static inline uint32_t token_vocab_merge_hash(uint64_t pair) {
    return (uint32_t) ((pair ^ pair >> 29) * 0x9e3779b97f4a7c15u >> 32);
}

/* NULL when the two do not merge. */
static inline const struct token_vocab_merge *
token_vocab_find_merge(const struct token_vocab *vocab, uint32_t left, uint32_t right) {
    uint64_t pair = (uint64_t) left << 32 | right;
    uint32_t at = token_vocab_merge_hash(pair) & vocab->merge_mask;
    for (;; at = (at + 1) & vocab->merge_mask) {
        const struct token_vocab_merge *merge = &vocab->merges[at];
        if (merge->pair == pair) return merge;
        if (merge->pair == UINT64_MAX) return NULL;
    }
}

#endif
