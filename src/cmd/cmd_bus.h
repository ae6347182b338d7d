/* cmd_bus - how a user says where the bus is, and its secrets.
 *
 * A token, or user and password, comes from the variable GRAMME_BUS_TOKEN or from a file that only
 * its owner can read; never from an argument or from the URL. */
#ifndef GRAMME_CMD_CMD_BUS_H
#define GRAMME_CMD_CMD_BUS_H

#include "config/option.h"
#include "fleet/handover.h"

/* Fills token, or user and password ("user NAME:PASSWORD"), and the TLS files.  `variable`: the
 * value of GRAMME_BUS_TOKEN or NULL. */
MUST_USE enum err cmd_bus_read_secrets(const struct options *options, const char *variable,
                                       struct err_text *text, struct handover *out);
/* nats://HOST:PORT or tls://HOST:PORT, a comma list of them; one that holds a user or a password is
 * refused. */
MUST_USE enum err cmd_bus_read_url(const char *url, const char *where, struct err_text *text,
                                   struct handover *out);
#define CMD_BUS_SIDE_BYTES 64
/* This node's address on the way to the first server of the URL, where other nodes reach it too;
 * "" when that is loopback, or is not known.  May wait for DNS. */
void cmd_bus_find_side(const char *url, char out[CMD_BUS_SIDE_BYTES]);
MUST_USE enum err cmd_bus_read_namespace(const char *name_space, const char *where,
                                         struct err_text *text, struct handover *out);

#endif
