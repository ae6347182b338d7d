/* bus_nats_impl - what the files of the NATS body share.
 *
 *   bus_nats.c          created and destroyed; the table behind bus.h
 *   bus_nats_options.c  what the user gave, told to nats.c
 *   bus_nats_subject.c  a subject's name and back
 *   bus_nats_port.c     ports: what their owners call, and what is delivered to them
 *   bus_nats_link.c     the connection and its subscriptions, up, lost and up again
 *   bus_nats_thread.c   the bus thread: sleeps, publishes, works off orders
 *   bus_nats_read.c     what one read of the socket brought
 *
 * Locks: ports_lock (read by each delivery) before a port's lock.  bus->lock (send ring, bus
 * thread's orders) stands alone.  nats.c calls what bus_nats_thread_set_events gives it with its
 * connection's lock held: that takes none. */
#ifndef GRAMME_BUS_BUS_NATS_IMPL_H
#define GRAMME_BUS_BUS_NATS_IMPL_H

#include <nats/nats.h>
#include <pthread.h>
#include <stdatomic.h>

#include "bus/bus_impl.h"
#include "bus/bus_part.h"
#include "bus/bus_ring.h"

#define BUS_NATS_RECONNECT_WAIT_MS 50 /* specified: protocol.md 5 */

#define BUS_NATS_PORTS_MAX 16u
#define BUS_NATS_ARRIVALS_MAX 512u /* of a read: no message takes less than 64 bytes of it */
#define BUS_NATS_BATCH 32u         /* messages taken out of a port's queue at once */
#define BUS_NATS_NAME_SPACE_BYTES_MAX 64u
/* gramme.<ns>.to.<16 digits> */
#define BUS_NATS_SUBJECT_BYTES (32u + BUS_NATS_NAME_SPACE_BYTES_MAX)

/* A message that came: the memory is nats.c's or, put together of parts or copied for a second
 * port, ours. */
struct bus_nats_item {
    const uint8_t *data;
    natsMsg *nats_message; /* or */
    void *block;
    uint64_t from;
    uint32_t bytes;
    uint32_t subject;
};

struct bus_nats_port {
    struct bus_port base;
    struct bus_nats_port *next; /* in bus->ports */
    unsigned subjects;
    _Atomic uint64_t lost_count;  /* both ways */
    _Atomic uint64_t lossy_count; /* this port's part of it */

    bus_wake_fn wake;
    void *wake_ctx;
    bool must_wake; /* the bus thread's own: something came in this read */

    pthread_mutex_t lock;        /* guards all to queued_bytes */
    struct bus_nats_item *items; /* ring of ring_messages_max */
    uint32_t head, count;
    size_t queued_bytes; /* in items and batch */

    /* The owner's own. */
    struct bus_nats_item batch[BUS_NATS_BATCH];
    uint32_t batch_at, batch_count; /* those before batch_at were given out */
    size_t batch_bytes;
};

/* A message of the read under way. */
struct bus_nats_arrival {
    natsMsg *message;
    uint64_t instance; /* BUS_INBOX, BUS_KV */
    enum bus_subject subject;
    struct bus_part part;
};

/* What is subscribed now; the bus thread's own. */
struct bus_nats_subscription {
    natsSubscription *handle;
    uint64_t instance; /* BUS_INBOX */
    enum bus_subject subject;
};

struct bus_nats {
    struct bus base;
    char prefix[BUS_NATS_SUBJECT_BYTES]; /* "gramme.<name space>." */
    size_t prefix_bytes;
    char *url; /* owned; for the log */
    uint32_t ring_messages_max;
    size_t ring_bytes_max;
    natsOptions *options;
    pthread_t thread;

    _Atomic bool is_connected;
    _Atomic uint64_t lossy_count;
    _Atomic uint32_t closing_count; /* connections whose last callback is to come */

    int kick_fd;              /* an eventfd: wakes the bus thread while is_waiting */
    _Atomic bool is_waiting;  /* set before the thread looks for work the last time */
    _Atomic int socket;       /* nats.c's, to be read from; -1: none now */
    _Atomic bool wants_write; /* nats.c holds bytes for the socket */

    pthread_rwlock_t ports_lock;
    struct bus_nats_port *ports;
    uint32_t port_count;

    pthread_mutex_t lock; /* guards all to `connection` */
    struct bus_ring ring; /* to be sent */
    bool must_stop, has_port_change, is_closed;
    natsConnection *connection; /* written by the bus thread only, which reads it without lock */

    /* The bus thread's own. */
    struct bus_part_table *parts;
    struct bus_nats_arrival arrivals[BUS_NATS_ARRIVALS_MAX];
    uint32_t arrival_count;
    struct bus_nats_subscription subscriptions[BUS_NATS_PORTS_MAX + 4];
    uint32_t subscription_count;
    uint64_t message_number; /* of the last message in parts */
    char trouble[128];       /* last told, so that each is told once */
};

/* --- bus_nats.c --- */
size_t bus_nats_message_bytes_max(const struct bus *base);

/* --- bus_nats_options.c --- */
/* What the user gave, before anything is made of it.  No text repeats a secret. */
enum err bus_nats_options_check(const struct bus_nats_options *o, struct err_text *text);
natsStatus bus_nats_options_set(struct bus_nats *bus, const struct bus_nats_options *o);

/* --- bus_nats_subject.c --- */
/* Where a message of this sender goes. */
void bus_nats_subject_write(const struct bus_nats *bus, enum bus_subject subject, uint64_t instance,
                            char out[BUS_NATS_SUBJECT_BYTES]);
/* false: not a subject of ours. */
bool bus_nats_subject_read(const struct bus_nats *bus, const char *text, enum bus_subject *subject,
                           uint64_t *instance);

/* --- bus_nats_port.c: by its owner --- */
enum err bus_nats_port_open(struct bus *base, uint64_t instance, unsigned subjects,
                            bus_wake_fn wake, void *wake_ctx, struct bus_port **out);
void bus_nats_port_close(struct bus_port *base);
enum err bus_nats_port_send(struct bus_port *base, enum bus_subject subject, uint64_t to,
                            const void *data, size_t bytes);
bool bus_nats_port_take(struct bus_port *base, struct bus_message *message);
uint64_t bus_nats_port_lost(const struct bus_port *base);
uint64_t bus_nats_port_lossy_count(const struct bus_port *base);
/* --- by the bus thread, the last also by nats.c's callback thread --- */
/* To every port that hears it: the last gets the memory, those before it copies.  Takes the item
 * over. */
void bus_nats_port_deliver(struct bus_nats *bus, uint64_t instance, struct bus_nats_item item);
/* Those to which something was delivered since the last call. */
void bus_nats_port_wake_all(struct bus_nats *bus);
void bus_nats_port_tell_lossy(struct bus_nats *bus);

/* --- bus_nats_link.c --- */
/* What nats.c calls when the connection's fate turns. */
natsStatus bus_nats_link_set_callbacks(struct bus_nats *bus, natsOptions *options);
/* The rest is the bus thread's.  false: none came up; it may be tried again in *retry_ms. */
bool bus_nats_link_connect(struct bus_nats *bus, uint64_t *retry_ms);
void bus_nats_link_drop(struct bus_nats *bus);
/* Subscribes what the ports want now and nobody had, drops what nobody wants any more.  false: the
 * connection was dropped. */
bool bus_nats_link_follow_ports(struct bus_nats *bus);

/* --- bus_nats_thread.c --- */
natsStatus bus_nats_thread_set_events(struct bus_nats *bus, natsOptions *options);
/* After the work was put where the thread looks for it.  Any thread, any lock. */
void bus_nats_thread_kick(struct bus_nats *bus);
void *bus_nats_thread_run(void *bus);

/* --- bus_nats_read.c --- */
/* Delivers all that the socket has now. */
void bus_nats_read(struct bus_nats *bus);

#endif
