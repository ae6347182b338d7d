/* token_answer - the bodies of /tokenize and /detokenize, with vLLM's fields.
 *
 * Pure, any thread: long ones are made on libuv's pool, so that they hold nobody up. */
#ifndef GRAMME_API_TOKEN_ANSWER_H
#define GRAMME_API_TOKEN_ANSWER_H

#include "api/request_parse.h"
#include "base/buf.h"

/* The ids of the spec's prompt. */
void token_answer_ids(const struct request_spec *spec, const struct api_options *options,
                      struct buf *out);
/* From a request's body, {"model", "tokens": [...]}, to {"prompt": "..."}. */
MUST_USE enum err token_answer_text(const struct api_options *options, const void *body,
                                    size_t bytes, struct buf *out, struct api_error *error);

#endif
