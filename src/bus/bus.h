/* bus - messages between the processes of one graph, or the threads of one process.
 *
 * Datagrams: a message may be lost, late, twice or out of order between senders; protocol.md
 * repairs that above.  Three bodies: local (bounded rings between threads of one process), NATS,
 * and fake (tests/sim).  Users cannot tell them apart.
 *
 * A process has one bus_port: its instance (a random u64, never 0), its inbox, and the common
 * subjects it hears.  bus_take is the port's owner's alone; bus_send may be called by any thread.
 * When something arrives the port's wake function is called, from any thread, possibly more often
 * than needed: it must only wake the owner (uv_async_send, a futex). */
#ifndef GRAMME_BUS_BUS_H
#define GRAMME_BUS_BUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* Where a message goes: an inbox (the receiver's instance) or a subject that all hear. */
enum bus_subject { BUS_INBOX, BUS_HELLO, BUS_LOAD, BUS_KV, BUS_ROSTER };

typedef void (*bus_wake_fn)(void *ctx);

struct bus;
struct bus_port;

struct bus_message {
    enum bus_subject subject;
    uint64_t from; /* the sender's instance */
    const uint8_t *data;
    size_t bytes;
};

/* The local body: rings of at most ring_messages_max messages and ring_bytes_max bytes a port. */
MUST_USE enum err bus_local_create(uint32_t ring_messages_max, size_t ring_bytes_max,
                                   struct bus **out);

/* The NATS body: one connection and one bus thread a process, which alone publishes, from a bounded
 * ring; subjects gramme.<name space>.{hello,load,kv.<instance>,roster,to.<instance>}; settings
 * of protocol.md 5.  Returns at once; the connection comes up in the background and is kept up for
 * ever (a server that is not there yet is no error). */
struct bus_nats_options {
    const char *url;        /* nats://host:port[,...]; one that holds user or password: ERR_USAGE */
    const char *name_space; /* letters, digits, - and _ */
    const char *token;      /* NULL: none; never logged */
    const char *user, *password;                            /* NULL: none */
    const char *tls_ca_file, *tls_cert_file, *tls_key_file; /* NULL: none */
    bool has_tls;
    uint32_t ring_messages_max;
    size_t ring_bytes_max;
};
MUST_USE enum err bus_nats_create(const struct bus_nats_options *options, struct err_text *text,
                                  struct bus **out);
void bus_destroy(struct bus *bus); /* every port is closed */

/* Whether the body has its connection now (local: always).  Time without one is not silence of
 * others (protocol.md 3).  Any thread. */
bool bus_is_connected(const struct bus *bus);
/* The largest message; ones past what the server carries go in numbered parts below this call. */
size_t bus_message_bytes_max(const struct bus *bus);

/* subjects: a bit (1u << BUS_x) for each common subject heard besides the inbox. */
MUST_USE enum err bus_port_open(struct bus *bus, uint64_t instance, unsigned subjects,
                                bus_wake_fn wake, void *wake_ctx, struct bus_port **out);
void bus_port_close(struct bus_port *port);
uint64_t bus_port_instance(const struct bus_port *port);

/* Copies the bytes.  ERR_BUSY: the ring is full; the message is lost as any message may be (the
 * count shows in bus_port_lost).  ERR_NOT_FOUND: nobody has that inbox.  `to` is ignored but for
 * BUS_INBOX. */
enum err bus_send(struct bus_port *port, enum bus_subject subject, uint64_t to, const void *data,
                  size_t bytes);
/* false: nothing there.  message->data lives until the next bus_take on this port. */
MUST_USE bool bus_take(struct bus_port *port, struct bus_message *message);
uint64_t bus_port_lost(const struct bus_port *port);
/* Counts up whenever messages may have been lost for this port or its peers may have missed its
 * own: a full ring, a slow consumer, a disconnect, a reconnect.  Who sees it change sends HELLO
 * (a worker) or WHO (others) again, SYNCs all, asks for dumps (protocol.md 5). */
uint64_t bus_port_lossy_count(const struct bus_port *port);

#endif
