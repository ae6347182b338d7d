/* token_normal - the normalizer: what a text becomes before it is split. */
#ifndef GRAMME_TOKEN_TOKEN_NORMAL_H
#define GRAMME_TOKEN_TOKEN_NORMAL_H

#include "token/token_scratch.h"
#include "token/tokenizer_inside.h"

/* The normalized piece and the ranges of it that a user wrote; borrowed until the next run with
 * the same scratch. */
struct token_normal_text {
    const uint8_t *text;
    size_t bytes;
    const struct tokenizer_range *ranges;
    size_t range_count;
};

/* Normalizes text[first..end); user tells what of the text a user wrote, and its places move on
 * to `end`. */
MUST_USE enum err token_normal_run(const struct tokenizer *tokenizer, struct token_scratch *scratch,
                                   const uint8_t *text, size_t first, size_t end,
                                   struct token_added_user *user, struct token_normal_text *out);

#endif
