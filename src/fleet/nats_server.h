/* nats_server - the private message server of one graph: where its program is, what it is told.
 *
 * The configuration goes to it through a memory file, token and all; it keeps nothing on disk. */
#ifndef GRAMME_FLEET_NATS_SERVER_H
#define GRAMME_FLEET_NATS_SERVER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define NATS_SERVER_PAYLOAD_MAX (8u << 20) /* specified: protocol.md 2 */

struct nats_server_options {
    const char *host;  /* an address */
    uint16_t port;     /* fixed: children come back to it after a restart */
    const char *token; /* "" none: only on loopback */
    const char *ca_file, *cert_file, *key_file; /* "" none; TLS with cert_file */
};

/* The program in `path` (the variable PATH) or where Debian puts it.  ERR_NOT_FOUND with the line
 * that installs it. */
MUST_USE enum err nats_server_find(const char *path, struct err_text *text, char out[512]);
/* A port that is free on that address now, below those that the kernel gives to outgoing
 * connections, so that nobody takes it while the server restarts. */
MUST_USE enum err nats_server_pick_port(const char *host, struct err_text *text, uint16_t *port);
/* Whether it can be the one that was asked for: a port that is taken stays so. */
MUST_USE enum err nats_server_check_port(const char *host, uint16_t port, struct err_text *text);
/* Somebody listens at an address of this machine; waits a few milliseconds at most. */
bool nats_server_is_up(const char *host, uint16_t port);
/* The configuration in a new memory file; the caller closes it. */
MUST_USE enum err nats_server_write_config(const struct nats_server_options *options,
                                           struct err_text *text, int *fd);
/* Splits "ADDRESS:PORT" or "[ADDRESS]:PORT". */
MUST_USE enum err nats_server_parse_listen(const char *listen, struct err_text *text,
                                           char host[128], uint16_t *port);
/* Lines of its log that a user should see without asking for debug. */
bool nats_server_is_line_shown(const char *line);

#endif
