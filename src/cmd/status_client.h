/* status_client - one GET of a JSON object from a server, with libcurl.  Blocking, one thread. */
#ifndef GRAMME_CMD_STATUS_CLIENT_H
#define GRAMME_CMD_STATUS_CLIENT_H

#include <jansson.h>

#include "base/err.h"

struct status_client;

/* url: of the server, without a path; api_key may be NULL. */
MUST_USE enum err status_client_open(const char *url, const char *path, const char *api_key,
                                     struct err_text *text, struct status_client **out);
void status_client_close(struct status_client *client);
/* ERR_PEER_GONE: nobody answers there; ERR_IO: another status than 200; ERR_FORMAT: no JSON. */
MUST_USE enum err status_client_get(struct status_client *client, struct err_text *text,
                                    json_t **out);

#endif
