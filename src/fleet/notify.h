/* notify - tells systemd "ready" and "stopping" over NOTIFY_SOCKET (sd_notify(3)'s protocol: one
 * datagram of NAME=VALUE lines). */
#ifndef GRAMME_FLEET_NOTIFY_H
#define GRAMME_FLEET_NOTIFY_H

/* socket_path: the variable's value, '@' first for an abstract socket; NULL or "": nothing is done.
 * Never waits; nobody there is no error. */
void notify_send(const char *socket_path, const char *state);

#endif
