/* tokenizer_parts - the small parts of a tokenizer.json: normalizer, pre_tokenizer,
 * post_processor, decoder.
 *
 * Each function fills its part of a tokenizer from the part's JSON (NULL or null: absent).  What
 * is not built here is ERR_UNSUPPORTED and names the key: nothing that changes an id is passed
 * over. */
#ifndef GRAMME_TOKEN_TOKENIZER_PARTS_H
#define GRAMME_TOKEN_TOKENIZER_PARTS_H

#include <jansson.h>

#include "token/tokenizer_inside.h"

MUST_USE enum err tokenizer_parts_normalizer(struct tokenizer *tokenizer, const json_t *json,
                                             struct err_text *text);
/* Decides is_byte_level, so it comes before the vocabulary. */
MUST_USE enum err tokenizer_parts_pre_tokenizer(struct tokenizer *tokenizer, const json_t *json,
                                                struct err_text *text);
MUST_USE enum err tokenizer_parts_post_processor(struct tokenizer *tokenizer, const json_t *json,
                                                 struct err_text *text);
MUST_USE enum err tokenizer_parts_decoder(struct tokenizer *tokenizer, const json_t *json,
                                          struct err_text *text);

#endif
