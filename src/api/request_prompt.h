/* request_prompt - from a parsed request to token ids: messages checked, template rendered, text
 * tokenized, lengths held against max-model-len.
 *
 * Pure, on the loop thread for short requests and on libuv's pool for long ones; the scratch is
 * the thread's.  Text of any message is never a special token. */
#ifndef GRAMME_API_REQUEST_PROMPT_H
#define GRAMME_API_REQUEST_PROMPT_H

#include "api/request_parse.h"

/* Fills the ids of every prompt and sampling's bad words and max_tokens.  The JSON tree is
 * released: nothing of the spec points into it afterwards. */
MUST_USE enum err request_prompt_make(struct request_spec *spec, const struct api_options *options,
                                      struct token_scratch *scratch, int64_t now_s,
                                      struct api_error *error);

/* The messages as templates expect them (text parts joined, arguments of tool calls as objects,
 * developer as system), or a 400 naming the part.  A new reference. */
MUST_USE enum err request_prompt_messages(const json_t *messages, struct api_error *error,
                                          json_t **out);

#endif
