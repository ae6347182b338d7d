/* token_bpe - byte-pair merges of one word.
 *
 * The pair of lowest rank merges first, of equal ones the leftmost: as the reference.  Short
 * words by scanning, long ones by a heap: O(n log n). */
#ifndef GRAMME_TOKEN_TOKEN_BPE_H
#define GRAMME_TOKEN_TOKEN_BPE_H

#include "token/token_scratch.h"
#include "token/tokenizer_inside.h"

/* Appends the ids of the word to *ids.  read_end: how far the memory behind the word may be
 * read. */
MUST_USE enum err token_bpe_word(const struct tokenizer *tokenizer, struct token_scratch *scratch,
                                 const uint8_t *word, size_t bytes, const uint8_t *read_end,
                                 struct tokenizer_ids *ids);
/* Room for `count` more ids. */
MUST_USE enum err token_bpe_reserve(struct tokenizer_ids *ids, size_t count);

#endif
