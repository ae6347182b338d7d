/* chat_client - one streamed chat completion from a server, with libcurl.
 *
 * The client side of the SSE that the API writes; understands any OpenAI-compatible server.  One
 * thread, blocking, stopped by Ctrl-C between two pieces. */
#ifndef GRAMME_CMD_CHAT_CLIENT_H
#define GRAMME_CMD_CHAT_CLIENT_H

#include <jansson.h>

#include "base/buf.h"
#include "base/err.h"

/* false: nobody reads any more; the request is dropped. */
typedef bool (*chat_client_fn)(void *ctx, const char *text, size_t bytes);

/* Sends `request` (a JSON object; stream is set here) to url + "/v1/chat/completions" and gives
 * each piece of content to on_text; the whole answer is appended to *answer.  api_key may be NULL.
 * ERR_PEER_GONE: nobody answers there; ERR_IO: the server's error message is in *text;
 * ERR_CANCELLED: Ctrl-C. */
MUST_USE enum err chat_client_ask(const char *url, const char *api_key, json_t *request,
                                  chat_client_fn on_text, void *ctx, struct err_text *text,
                                  struct buf *answer);

#endif
