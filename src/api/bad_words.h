/* bad_words - words that must not be drawn, as the token sequences that spell them.
 *
 * A word is barred with and without a space before it, as vLLM does it: the second only where it
 * begins with another token and is as long.  The ids of all words lie end to end, as struct
 * sampling wants them.  Pure; owned by the caller. */
#ifndef GRAMME_API_BAD_WORDS_H
#define GRAMME_API_BAD_WORDS_H

#include "config/sampling.h"
#include "token/tokenizer.h"

#define BAD_WORDS_WRITTEN_MAX (SAMPLING_BAD_WORDS_MAX / 2) /* each may become two */

struct bad_words {
    struct tokenizer_ids ids;
    uint32_t lengths[SAMPLING_BAD_WORDS_MAX]; /* in ids, one a sequence */
    uint32_t count;
};

/* Adds one word; at most BAD_WORDS_WRITTEN_MAX are added (the caller has looked).  ERR_LIMIT past
 * SAMPLING_BAD_WORD_IDS_MAX ids in all; else the tokenizer's errors. */
MUST_USE enum err bad_words_add(struct bad_words *words, const struct tokenizer *tokenizer,
                                struct token_scratch *scratch, const char *word, size_t bytes,
                                struct err_text *text);
void bad_words_release(struct bad_words *words);

#endif
