/* bus_nats - see bus.h.  The NATS body: one connection and one bus thread a process, for all ports.
 *
 * The bus thread alone connects, subscribes, publishes and reads: it is the event loop that nats.c
 * asks for (natsOptions_SetEventLoop), a poll of its socket and of kick_fd.  A port's owner puts
 * messages into the send ring and never waits for a socket.  What arrived goes as nats' own memory
 * to the port's queue, all that one read brought with one wake-up: bus_take gives it out without a
 * copy.  nats.c sorts a read's messages by subject; their numbers put each sender's in order again,
 * for a LOAD speaks of the tokens before it and not of those behind.
 *
 *   no connection --connect--> up <--nats.c loses and finds the server again--> reconnecting
 *        ^                      |                                                  |
 *        +---- nats.c gave up (a wrong token, twice): closed ----------------------+
 *
 * Subjects are subscribed once for all ports of the process; on_message finds the ports.
 *
 * Locks: ports_lock (read by each delivery) before a port's lock.  bus->lock (send ring, bus
 * thread's orders) stands alone.  nats.c calls the ev_ functions with its connection's lock held:
 * they take none. */
#include <ctype.h>
#include <errno.h>
#include <nats/nats.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/num.h"
#include "bus/bus_impl.h"
#include "bus/bus_part.h"
#include "bus/bus_ring.h"

/* Specified: protocol.md 5. */
#define PING_INTERVAL_MS 500
#define PINGS_OUT_MAX 2
#define RECONNECT_WAIT_MS 50
#define RECONNECT_JITTER_MS 25 /* nats.c's own is 100, longer than the wait */
#define WRITE_DEADLINE_MS 1000
#define CONNECT_TIMEOUT_MS 1000
/* A server that refuses us fills its log; one that is not there may come at any moment. */
#define RETRY_REFUSED_MS 1000
#define WRITE_BYTES 262144u /* published before the socket is asked again to take it */

#define PORTS_MAX 16u
#define PARTS_OPEN_MAX 32u
#define PARTS_AGE_US 5000000u
#define READ_BYTES 32768
#define ARRIVALS_MAX 512u      /* of a read: no message takes less than 64 bytes of it */
#define BATCH 32u              /* messages taken out of a port's queue at once */
#define SPENT_BYTES_MAX 65536u /* of messages read and not yet given back to nats.c */
#define NAME_SPACE_BYTES_MAX 64u
#define SUBJECT_BYTES (32u + NAME_SPACE_BYTES_MAX) /* gramme.<ns>.to.<16 digits> */
#define INSTANCE_DIGITS 16u
#define DESTROY_WAIT_MS 5000u /* for nats.c's last callbacks */
#define FLUSH_WAIT_MS 500u

/* A message that came: the memory is nats.c's or, put together of parts or copied for a second
 * port, ours. */
struct item {
    const uint8_t *data;
    natsMsg *nats_message; /* or */
    void *block;
    uint64_t from;
    uint32_t bytes;
    uint32_t subject;
};

struct nats_port {
    struct bus_port base;
    struct nats_port *next; /* in bus->ports */
    unsigned subjects;
    _Atomic uint64_t lost_count;  /* both ways */
    _Atomic uint64_t lossy_count; /* this port's part of it */

    bus_wake_fn wake;
    void *wake_ctx;
    bool must_wake; /* the bus thread's own: something came in this read */

    pthread_mutex_t lock; /* guards all to queued_bytes */
    struct item *items;   /* ring of ring_messages_max */
    uint32_t head, count;
    size_t queued_bytes; /* in items and batch */

    /* The owner's own. */
    struct item batch[BATCH];
    uint32_t batch_at, batch_count; /* those before batch_at were given out */
    size_t batch_bytes;
};

/* A message of the read under way. */
struct arrival {
    natsMsg *message;
    uint64_t instance; /* BUS_INBOX, BUS_KV */
    enum bus_subject subject;
    struct bus_part part;
};

/* What is subscribed now; the bus thread's own. */
struct subscription {
    natsSubscription *handle;
    uint64_t instance; /* BUS_INBOX */
    enum bus_subject subject;
};

struct nats_bus {
    struct bus base;
    char prefix[SUBJECT_BYTES]; /* "gramme.<name space>." */
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
    struct nats_port *ports;
    uint32_t port_count;

    pthread_mutex_t lock; /* guards all to `connection` */
    struct bus_ring ring; /* to be sent */
    bool must_stop, has_port_change, is_closed;
    natsConnection *connection; /* written by the bus thread only, which reads it without lock */

    /* The bus thread's own. */
    struct bus_part_table *parts;
    struct arrival arrivals[ARRIVALS_MAX];
    uint32_t arrival_count;
    struct subscription subscriptions[PORTS_MAX + 4];
    uint32_t subscription_count;
    uint64_t message_number; /* of the last message in parts */
    char trouble[128];       /* last told, so that each is told once */
};

static struct nats_bus *bus_of(const struct bus_port *port) {
    return (struct nats_bus *) port->bus;
}

/* --- subjects --------------------------------------------------------------------------------- */

static const char *const common_names[] = {
    [BUS_HELLO] = "hello", [BUS_LOAD] = "load", [BUS_ROSTER] = "roster"};

static char *put_instance(char *at, uint64_t instance) {
    static const char digits[] = "0123456789abcdef";
    for (int shift = 60; shift >= 0; shift -= 4) *at++ = digits[instance >> shift & 15];
    *at = '\0';
    return at;
}

/* Where a message of this sender goes. */
static void write_subject(const struct nats_bus *bus, enum bus_subject subject, uint64_t instance,
                          char out[SUBJECT_BYTES]) {
    char *at = out + bus->prefix_bytes;
    memcpy(out, bus->prefix, bus->prefix_bytes);
    if (subject == BUS_INBOX || subject == BUS_KV) {
        memcpy(at, subject == BUS_KV ? "kv." : "to.", 3);
        put_instance(at + 3, instance);
        return;
    }
    size_t bytes = strlen(common_names[subject]);
    memcpy(at, common_names[subject], bytes + 1);
}

/* false: not a subject of ours. */
static bool read_subject(const struct nats_bus *bus, const char *text, enum bus_subject *subject,
                         uint64_t *instance) {
    *instance = 0;
    if (strncmp(text, bus->prefix, bus->prefix_bytes) != 0) return false;
    text += bus->prefix_bytes;
    if (strncmp(text, "to.", 3) == 0 || strncmp(text, "kv.", 3) == 0) {
        *subject = text[0] == 't' ? BUS_INBOX : BUS_KV;
        text += 3;
        for (uint32_t i = 0; i < INSTANCE_DIGITS; i++, text++) {
            uint32_t digit = *text >= '0' && *text <= '9'   ? (uint32_t) (*text - '0')
                             : *text >= 'a' && *text <= 'f' ? (uint32_t) (*text - 'a') + 10
                                                            : 16;
            if (digit > 15) return false;
            *instance = *instance << 4 | digit;
        }
        return *text == '\0';
    }
    for (enum bus_subject s = BUS_HELLO; s <= BUS_ROSTER; s++)
        if (common_names[s] && strcmp(text, common_names[s]) == 0) {
            *subject = s;
            return true;
        }
    return false;
}

/* --- the bus thread's sleep ------------------------------------------------------------------- */

/* After the work was put where the thread looks for it.  Any thread, any lock. */
static void kick(struct nats_bus *bus) {
    uint64_t one = 1;
    if (!atomic_exchange(&bus->is_waiting, false)) return;
    while (write(bus->kick_fd, &one, sizeof one) < 0 && errno == EINTR) continue;
}

/* What nats.c asks of an event loop.  Of any thread: it connects again on one of its own. */
static natsStatus ev_attach(void **user, void *loop, natsConnection *connection, natsSock socket) {
    struct nats_bus *bus = loop;
    (void) connection;
    *user = bus;
    atomic_store(&bus->wants_write, false);
    atomic_store(&bus->socket, socket);
    kick(bus);
    return NATS_OK;
}

static natsStatus ev_read(void *user, bool is_wanted) {
    struct nats_bus *bus = user;
    if (!is_wanted) atomic_store(&bus->socket, -1);
    return NATS_OK;
}

static natsStatus ev_write(void *user, bool is_wanted) {
    struct nats_bus *bus = user;
    atomic_store(&bus->wants_write, is_wanted);
    if (is_wanted) kick(bus);
    return NATS_OK;
}

/* The last of all, after on_closed: the bus may be gone. */
static natsStatus ev_detach(void *user) {
    (void) user;
    return NATS_OK;
}

/* --- what arrives ----------------------------------------------------------------------------- */

static void item_release(struct item *item) {
    natsMsg_Destroy(item->nats_message);
    alloc_free(item->block);
}

static void lose(struct nats_port *port) {
    atomic_fetch_add(&port->lost_count, 1);
    atomic_fetch_add(&port->lossy_count, 1);
}

/* Takes the item over. */
static void queue_item(struct nats_bus *bus, struct nats_port *port, struct item item) {
    pthread_mutex_lock(&port->lock);
    bool has_room = port->count < bus->ring_messages_max &&
                    port->queued_bytes + item.bytes <= bus->ring_bytes_max;
    if (has_room) {
        port->items[(port->head + port->count) % bus->ring_messages_max] = item;
        port->count++;
        port->queued_bytes += item.bytes;
    } else {
        lose(port);
    }
    pthread_mutex_unlock(&port->lock);
    port->must_wake = true;
    if (!has_room) item_release(&item);
}

static void queue_copy(struct nats_bus *bus, struct nats_port *port, const struct item *item) {
    struct item copy = *item;
    copy.nats_message = NULL;
    copy.block = alloc_bytes(item->bytes);
    if (!copy.block) {
        lose(port);
        return;
    }
    memcpy(copy.block, item->data, item->bytes);
    copy.data = copy.block;
    queue_item(bus, port, copy);
}

static bool is_for(const struct nats_port *port, const struct item *item, uint64_t instance) {
    if (item->subject == BUS_INBOX) return port->base.instance == instance;
    return port->subjects & (1u << item->subject) && port->base.instance != item->from;
}

/* With ports_lock read: the last port gets the memory, those before it copies.  Takes the item
 * over. */
static void deliver(struct nats_bus *bus, uint64_t instance, struct item item) {
    struct nats_port *last = NULL;
    for (struct nats_port *port = bus->ports; port; port = port->next) {
        if (!is_for(port, &item, instance)) continue;
        if (last) queue_copy(bus, last, &item);
        last = port;
    }
    if (last) queue_item(bus, last, item);
    else item_release(&item);
}

/* With no port's lock: who is woken may want it at once. */
static void wake_ports(struct nats_bus *bus) {
    pthread_rwlock_rdlock(&bus->ports_lock);
    for (struct nats_port *port = bus->ports; port; port = port->next) {
        if (port->must_wake && port->wake) port->wake(port->wake_ctx);
        port->must_wake = false;
    }
    pthread_rwlock_unlock(&bus->ports_lock);
}

static void tell_lossy(struct nats_bus *bus) {
    atomic_fetch_add(&bus->lossy_count, 1);
    pthread_rwlock_rdlock(&bus->ports_lock);
    for (struct nats_port *port = bus->ports; port; port = port->next)
        if (port->wake) port->wake(port->wake_ctx);
    pthread_rwlock_unlock(&bus->ports_lock);
}

/* One part of a longer message; true: *item is the whole of it. */
static bool add_part(struct nats_bus *bus, const struct bus_part *part, const uint8_t *body,
                     size_t body_bytes, struct item *item) {
    uint8_t *whole;
    uint64_t lost_before = bus_part_table_lost(bus->parts);
    bus_part_table_add(bus->parts, part, body, body_bytes, clock_now_us(), &whole);
    if (bus_part_table_lost(bus->parts) != lost_before) tell_lossy(bus);
    item->data = item->block = whole;
    item->bytes = part->total_bytes;
    return whole != NULL;
}

static bool is_before(const struct bus_part *a, const struct bus_part *b) {
    if (a->from != b->from) return a->from < b->from;
    return a->number != b->number ? a->number < b->number : a->part < b->part;
}

/* Among those of the same read, in the order in which its sender sent them. */
static void note_arrival(struct nats_bus *bus, natsMsg *message) {
    struct arrival arrival = {.message = message};
    const uint8_t *data = (const uint8_t *) natsMsg_GetData(message);
    size_t bytes = (size_t) natsMsg_GetDataLength(message);
    if (!read_subject(bus, natsMsg_GetSubject(message), &arrival.subject, &arrival.instance) ||
        bus_part_read(data, bytes, &arrival.part) || bus->arrival_count == ARRIVALS_MAX) {
        natsMsg_Destroy(message); /* nothing of ours */
        return;
    }
    uint32_t at = bus->arrival_count++;
    for (; at > 0 && is_before(&arrival.part, &bus->arrivals[at - 1].part); at--)
        bus->arrivals[at] = bus->arrivals[at - 1];
    bus->arrivals[at] = arrival;
}

static void take_arrival(struct nats_bus *bus, const struct arrival *arrival) {
    const struct bus_part *part = &arrival->part;
    const uint8_t *data = (const uint8_t *) natsMsg_GetData(arrival->message);
    size_t bytes = (size_t) natsMsg_GetDataLength(arrival->message);
    const uint8_t *body = data + BUS_PART_HEADER_BYTES;
    struct item item = {.data = body,
                        .nats_message = arrival->message,
                        .from = part->from,
                        .bytes = part->total_bytes,
                        .subject = arrival->subject};
    if (part->part_count > 1) {
        item.nats_message = NULL;
        bool is_whole = add_part(bus, part, body, bytes - BUS_PART_HEADER_BYTES, &item);
        natsMsg_Destroy(arrival->message);
        if (!is_whole) return;
    }
    pthread_rwlock_rdlock(&bus->ports_lock);
    deliver(bus, arrival->instance, item);
    pthread_rwlock_unlock(&bus->ports_lock);
}

/* --- the connection's fate: nats.c's callback thread ------------------------------------------ */

/* Whoever stores last has looked after that, so the flag ends right whichever thread it is. */
static void note_status(struct nats_bus *bus, natsConnection *connection) {
    bool is_up;
    do {
        is_up = natsConnection_Status(connection) == NATS_CONN_STATUS_CONNECTED;
        atomic_store(&bus->is_connected, is_up);
    } while (is_up != (natsConnection_Status(connection) == NATS_CONN_STATUS_CONNECTED));
}

static bool is_current(struct nats_bus *bus, natsConnection *connection) {
    pthread_mutex_lock(&bus->lock);
    bool is = bus->connection == connection;
    pthread_mutex_unlock(&bus->lock);
    return is;
}

static void on_disconnected(natsConnection *connection, void *ctx) {
    struct nats_bus *bus = ctx;
    if (!is_current(bus, connection)) return;
    note_status(bus, connection);
    log_warn("bus: the connection to %s is lost", bus->url);
    tell_lossy(bus);
}

static void on_reconnected(natsConnection *connection, void *ctx) {
    struct nats_bus *bus = ctx;
    if (!is_current(bus, connection)) return;
    note_status(bus, connection);
    log_info("bus: connected to %s again", bus->url);
    tell_lossy(bus);
}

static void on_closed(natsConnection *connection, void *ctx) {
    struct nats_bus *bus = ctx;
    pthread_mutex_lock(&bus->lock);
    if (bus->connection == connection) {
        atomic_store(&bus->is_connected, false);
        bus->is_closed = true;
        kick(bus);
    }
    pthread_mutex_unlock(&bus->lock);
    atomic_fetch_sub(&bus->closing_count, 1); /* the bus may be gone after this */
}

static void on_error(natsConnection *connection, natsSubscription *subscription, natsStatus status,
                     void *ctx) {
    struct nats_bus *bus = ctx;
    (void) connection, (void) subscription;
    log_warn("bus: %s", natsStatus_GetText(status));
    if (status == NATS_SLOW_CONSUMER) tell_lossy(bus);
}

/* --- the bus thread --------------------------------------------------------------------------- */

/* What nats.c's words mean for a user; "" when they say it themselves. */
static const char *explain(const char *text) {
    if (strstr(text, "Authorization Violation"))
        return "it wants another token, of GRAMME_BUS_TOKEN or --bus-token-file: ";
    if (strstr(text, "certificate") || strstr(text, "self-signed"))
        return "its certificate is of no authority in --bus-ca-file (or the system's, without "
               "it): ";
    if (strstr(text, "SSL handshake error")) return "is it a nats-server with TLS? ";
    return "";
}

/* Each trouble is told once, until there is another or none. */
static void tell_trouble(struct nats_bus *bus, natsStatus status) {
    natsStatus last;
    const char *text = nats_GetLastError(&last);
    if (!text || !text[0]) text = natsStatus_GetText(status);
    const char *inner = text[0] == '(' ? strstr(text, "): ") : NULL;
    if (inner) text = inner + 3; /* without nats.c's own file and line */
    if (strncmp(bus->trouble, text, sizeof bus->trouble - 1) == 0) return;
    memset(bus->trouble, 0, sizeof bus->trouble);
    memcpy(bus->trouble, text, strnlen(text, sizeof bus->trouble - 1));
    log_warn("bus: no connection to %s: %s%s; tried on until there is one", bus->url,
             explain(bus->trouble), bus->trouble);
}

static void drop_connection(struct nats_bus *bus) {
    natsConnection *connection = bus->connection;
    pthread_mutex_lock(&bus->lock);
    bus->connection = NULL;
    bus->is_closed = false;
    pthread_mutex_unlock(&bus->lock);
    atomic_store(&bus->is_connected, false);
    for (uint32_t i = 0; i < bus->subscription_count; i++)
        natsSubscription_Destroy(bus->subscriptions[i].handle);
    bus->subscription_count = 0;
    natsConnection_Destroy(connection);
}

static natsStatus subscribe(struct nats_bus *bus, enum bus_subject subject, uint64_t instance) {
    char text[SUBJECT_BYTES];
    write_subject(bus, subject, instance, text);
    if (subject == BUS_KV) memcpy(text + bus->prefix_bytes + 3, "*", 2);
    CHECK(bus->subscription_count < ARRAY_COUNT(bus->subscriptions));
    natsSubscription *handle;
    natsStatus s = natsConnection_SubscribeSync(&handle, bus->connection, text);
    if (s != NATS_OK) return s;
    bus->subscriptions[bus->subscription_count++] =
        (struct subscription){.handle = handle, .instance = instance, .subject = subject};
    return NATS_OK;
}

static bool has_subscription(const struct nats_bus *bus, enum bus_subject subject,
                             uint64_t instance) {
    for (uint32_t i = 0; i < bus->subscription_count; i++)
        if (bus->subscriptions[i].subject == subject && bus->subscriptions[i].instance == instance)
            return true;
    return false;
}

/* Subscribes what the ports want now and nobody had, drops what nobody wants any more. */
static natsStatus follow_ports(struct nats_bus *bus) {
    uint64_t inboxes[PORTS_MAX];
    uint32_t inbox_count = 0;
    unsigned subjects = 0;
    pthread_rwlock_rdlock(&bus->ports_lock);
    for (const struct nats_port *port = bus->ports; port; port = port->next) {
        inboxes[inbox_count++] = port->base.instance;
        subjects |= port->subjects;
    }
    pthread_rwlock_unlock(&bus->ports_lock);
    for (uint32_t i = 0; i < bus->subscription_count;) {
        struct subscription *at = &bus->subscriptions[i];
        bool is_wanted = subjects & (1u << at->subject);
        if (at->subject == BUS_INBOX) {
            is_wanted = false;
            for (uint32_t k = 0; k < inbox_count; k++) is_wanted |= inboxes[k] == at->instance;
        }
        if (is_wanted) {
            i++;
            continue;
        }
        natsSubscription_Destroy(at->handle);
        *at = bus->subscriptions[--bus->subscription_count];
    }
    natsStatus s = NATS_OK;
    for (uint32_t k = 0; k < inbox_count && s == NATS_OK; k++)
        if (!has_subscription(bus, BUS_INBOX, inboxes[k]))
            s = subscribe(bus, BUS_INBOX, inboxes[k]);
    for (enum bus_subject subject = BUS_HELLO; subject <= BUS_ROSTER && s == NATS_OK; subject++)
        if (subjects & (1u << subject) && !has_subscription(bus, subject, 0))
            s = subscribe(bus, subject, 0);
    return s;
}

static bool connect_once(struct nats_bus *bus, uint64_t *retry_ms) {
    natsConnection *connection = NULL;
    atomic_fetch_add(&bus->closing_count, 1);
    natsStatus s = natsConnection_Connect(&connection, bus->options);
    if (s != NATS_OK) {
        atomic_fetch_sub(&bus->closing_count, 1); /* never open: never closed */
        tell_trouble(bus, s);
        *retry_ms = s == NATS_NO_SERVER ? RECONNECT_WAIT_MS : RETRY_REFUSED_MS;
        return false;
    }
    pthread_mutex_lock(&bus->lock);
    bus->connection = connection;
    bus->has_port_change = false;
    pthread_mutex_unlock(&bus->lock);
    s = follow_ports(bus);
    if (s != NATS_OK) {
        tell_trouble(bus, s);
        drop_connection(bus);
        *retry_ms = RECONNECT_WAIT_MS;
        return false;
    }
    memset(bus->trouble, 0, sizeof bus->trouble);
    log_info("bus: connected to %s as %.*s", bus->url, (int) bus->prefix_bytes - 1, bus->prefix);
    note_status(bus, connection);
    tell_lossy(bus);
    return true;
}

static natsStatus publish_parts(struct nats_bus *bus, const char *subject,
                                const struct bus_record *record, uint8_t *data, size_t part_bytes) {
    uint32_t total_bytes = record->bytes - BUS_PART_HEADER_BYTES;
    uint64_t part_count = num_max(1, num_div_up(total_bytes, part_bytes));
    if (part_count > BUS_PART_COUNT_MAX) return NATS_MAX_PAYLOAD;
    struct bus_part part = {.from = record->from,
                            .number = ++bus->message_number,
                            .part_count = (uint32_t) part_count,
                            .total_bytes = total_bytes};
    natsStatus s = NATS_OK;
    for (; part.part < part.part_count && s == NATS_OK; part.part++) {
        /* Each header goes over the end of the part before, which is out already. */
        part.offset = part.part * (uint32_t) part_bytes;
        size_t body_bytes = num_min(part_bytes, total_bytes - part.offset);
        bus_part_write(&part, data + part.offset);
        s = natsConnection_Publish(bus->connection, subject, data + part.offset,
                                   (int) (BUS_PART_HEADER_BYTES + body_bytes));
    }
    return s;
}

/* A failure loses the message, as may happen to any; a lost connection shows in the callbacks. */
static void publish(struct nats_bus *bus, const struct bus_record *record, uint8_t *data) {
    char subject[SUBJECT_BYTES];
    bool is_kv = record->subject == BUS_KV;
    write_subject(bus, (enum bus_subject) record->subject, is_kv ? record->from : record->to,
                  subject);
    int64_t payload_max = natsConnection_GetMaxPayload(bus->connection);
    natsStatus s = NATS_MAX_PAYLOAD;
    if (payload_max > 2 * (int64_t) BUS_PART_HEADER_BYTES)
        s = publish_parts(bus, subject, record, data,
                          num_min((uint64_t) payload_max, INT32_MAX) - BUS_PART_HEADER_BYTES);
    if (s != NATS_OK) tell_lossy(bus);
}

/* One order or message.  false: there was nothing to do. */
static bool work_once(struct nats_bus *bus, size_t *published_bytes) {
    struct bus_record record;
    uint8_t *data;
    pthread_mutex_lock(&bus->lock);
    bool is_closed = bus->is_closed, has_port_change = bus->has_port_change;
    bool has_message = !is_closed && !has_port_change && bus_ring_take(&bus->ring, &record, &data);
    bus->has_port_change = false;
    pthread_mutex_unlock(&bus->lock);
    if (is_closed) {
        log_warn("bus: nats gave the connection up; it is opened anew");
        drop_connection(bus);
        tell_lossy(bus);
    } else if (has_port_change) {
        natsStatus s = follow_ports(bus);
        if (s != NATS_OK) {
            tell_trouble(bus, s);
            drop_connection(bus);
        }
    } else if (has_message) {
        publish(bus, &record, data);
        *published_bytes += record.bytes;
    }
    return is_closed || has_port_change || has_message;
}

/* All there is to do but reading; what a full socket does not take waits in the ring. */
static void work(struct nats_bus *bus) {
    bool has_more = true;
    while (has_more && bus->connection) {
        size_t published_bytes = 0;
        has_more = false;
        if (!atomic_load(&bus->wants_write))
            while (bus->connection && published_bytes < WRITE_BYTES)
                if (!(has_more = work_once(bus, &published_bytes))) break;
        if (!bus->connection || !atomic_load(&bus->wants_write)) continue;
        natsConnection_ProcessWriteEvent(bus->connection);
        if (atomic_load(&bus->wants_write)) has_more = false;
    }
}

static void drain_subscription(struct nats_bus *bus, natsSubscription *handle) {
    uint64_t count = 0;
    if (natsSubscription_QueuedMsgs(handle, &count) != NATS_OK) return;
    for (; count > 0; count--) {
        natsMsg *message = NULL;
        natsStatus s = natsSubscription_NextMsg(&message, handle, 0);
        if (s == NATS_SLOW_CONSUMER) {
            tell_lossy(bus);
            continue;
        }
        if (s != NATS_OK) return;
        note_arrival(bus, message);
    }
}

static void read_socket(struct nats_bus *bus) {
    natsConnection_ProcessReadEvent(bus->connection);
    for (uint32_t i = 0; i < bus->subscription_count; i++)
        drain_subscription(bus, bus->subscriptions[i].handle);
    for (uint32_t i = 0; i < bus->arrival_count; i++) take_arrival(bus, &bus->arrivals[i]);
    bus->arrival_count = 0;
    wake_ports(bus);
}

static bool has_order(struct nats_bus *bus) {
    pthread_mutex_lock(&bus->lock);
    bool has = bus->must_stop || bus->is_closed || bus->has_port_change ||
               (bus->ring.message_count > 0 && !atomic_load(&bus->wants_write));
    pthread_mutex_unlock(&bus->lock);
    return has;
}

/* Until there is something to read, to write or an order, or for wait_ms (-1: for ever). */
static void wait_for_work(struct nats_bus *bus, int wait_ms) {
    struct pollfd fds[2] = {{.fd = bus->kick_fd, .events = POLLIN}, {.fd = -1}};
    atomic_store(&bus->is_waiting, true);
    if (bus->connection) {
        bool wants_write = atomic_load(&bus->wants_write);
        fds[1].fd = atomic_load(&bus->socket);
        fds[1].events = (short) (wants_write ? POLLIN | POLLOUT : POLLIN);
        if (has_order(bus)) wait_ms = 0;
    }
    (void) poll(fds, 2, wait_ms);
    atomic_store(&bus->is_waiting, false);
    uint64_t count;
    if (fds[0].revents && read(bus->kick_fd, &count, sizeof count) < 0) DCHECK(errno == EINTR);
    if (fds[1].revents & ~POLLOUT) read_socket(bus);
}

/* What stands in the ring still goes out: a worker's BYE. */
static void say_last(struct nats_bus *bus) {
    uint64_t end_us = clock_now_us() + FLUSH_WAIT_MS * 1000;
    while (bus->connection && atomic_load(&bus->is_connected) && clock_now_us() < end_us) {
        work(bus);
        struct pollfd fd = {.fd = atomic_load(&bus->socket), .events = POLLOUT};
        if (!atomic_load(&bus->wants_write)) break;
        (void) poll(&fd, 1, 1);
    }
}

static bool must_stop(struct nats_bus *bus) {
    pthread_mutex_lock(&bus->lock);
    bool must = bus->must_stop;
    pthread_mutex_unlock(&bus->lock);
    return must;
}

static void *run(void *ctx) {
    struct nats_bus *bus = ctx;
    while (!must_stop(bus)) {
        uint64_t retry_ms = 0;
        if (bus->connection) {
            work(bus);
            wait_for_work(bus, -1);
        } else if (!connect_once(bus, &retry_ms)) {
            wait_for_work(bus, (int) retry_ms);
        }
    }
    say_last(bus);
    if (bus->connection) drop_connection(bus);
    nats_ReleaseThreadMemory();
    return NULL;
}

/* --- ports: their owners' threads ------------------------------------------------------------- */

static enum err nats_port_open(struct bus *base, uint64_t instance, unsigned subjects,
                               bus_wake_fn wake, void *wake_ctx, struct bus_port **out) {
    struct nats_bus *bus = (struct nats_bus *) base;
    struct nats_port *port = alloc_zero(1, sizeof *port);
    if (!port) return ERR_MEMORY;
    port->items = alloc_array(bus->ring_messages_max, sizeof *port->items);
    if (!port->items) {
        alloc_free(port);
        return ERR_MEMORY;
    }
    port->base = (struct bus_port){base, instance};
    port->subjects = subjects & ~(1u << BUS_INBOX);
    port->wake = wake;
    port->wake_ctx = wake_ctx;
    pthread_mutex_init(&port->lock, NULL);
    pthread_rwlock_wrlock(&bus->ports_lock);
    bool has_room = bus->port_count < PORTS_MAX;
    if (has_room) {
        port->next = bus->ports;
        bus->ports = port;
        bus->port_count++;
    }
    pthread_rwlock_unlock(&bus->ports_lock);
    if (!has_room) {
        pthread_mutex_destroy(&port->lock);
        alloc_free(port->items);
        alloc_free(port);
        return ERR_LIMIT;
    }
    pthread_mutex_lock(&bus->lock);
    bus->has_port_change = true;
    pthread_mutex_unlock(&bus->lock);
    kick(bus);
    *out = &port->base;
    return ERR_OK;
}

static void nats_port_close(struct bus_port *base) {
    struct nats_port *port = (struct nats_port *) base;
    struct nats_bus *bus = bus_of(base);
    pthread_rwlock_wrlock(&bus->ports_lock);
    struct nats_port **at = &bus->ports;
    while (*at != port) at = &(*at)->next;
    *at = port->next;
    bus->port_count--;
    pthread_rwlock_unlock(&bus->ports_lock);
    pthread_mutex_lock(&bus->lock);
    bus->has_port_change = true;
    pthread_mutex_unlock(&bus->lock);
    kick(bus);
    for (uint32_t i = 0; i < port->batch_count; i++) item_release(&port->batch[i]);
    for (; port->count > 0; port->count--) {
        item_release(&port->items[port->head]);
        port->head = (port->head + 1) % bus->ring_messages_max;
    }
    pthread_mutex_destroy(&port->lock);
    alloc_free(port->items);
    alloc_free(port);
}

static size_t nats_message_bytes_max(const struct bus *base) {
    const struct nats_bus *bus = (const struct nats_bus *) base;
    return bus->ring_bytes_max - sizeof(struct bus_record) - BUS_PART_HEADER_BYTES;
}

static enum err nats_send(struct bus_port *base, enum bus_subject subject, uint64_t to,
                          const void *data, size_t bytes) {
    struct nats_port *port = (struct nats_port *) base;
    struct nats_bus *bus = bus_of(base);
    if (bytes > nats_message_bytes_max(&bus->base)) return ERR_LIMIT;
    if (!atomic_load(&bus->is_connected)) { /* lossy is counted once, by the callback */
        atomic_fetch_add(&port->lost_count, 1);
        return ERR_BUSY;
    }
    struct bus_record record = {.subject = (uint32_t) subject,
                                .bytes = (uint32_t) (bytes + BUS_PART_HEADER_BYTES),
                                .from = base->instance,
                                .to = to};
    pthread_mutex_lock(&bus->lock);
    enum err e = bus_ring_put(&bus->ring, &record, BUS_PART_HEADER_BYTES, data);
    pthread_mutex_unlock(&bus->lock);
    if (e) lose(port);
    else kick(bus);
    return e;
}

/* What was given out goes back to nats.c in batches: it frees messages on a thread of its own,
 * which each one alone would wake. */
static void release_batch(struct nats_port *port) {
    for (uint32_t i = 0; i < port->batch_count; i++) item_release(&port->batch[i]);
    pthread_mutex_lock(&port->lock);
    port->queued_bytes -= port->batch_bytes;
    pthread_mutex_unlock(&port->lock);
    port->batch_at = port->batch_count = 0;
    port->batch_bytes = 0;
}

static void refill_batch(struct nats_bus *bus, struct nats_port *port) {
    if (port->batch_count == BATCH || port->batch_bytes > SPENT_BYTES_MAX) release_batch(port);
    pthread_mutex_lock(&port->lock);
    while (port->count > 0 && port->batch_count < BATCH) {
        const struct item *item = &port->items[port->head];
        port->batch_bytes += item->bytes;
        port->batch[port->batch_count++] = *item;
        port->head = port->head + 1 < bus->ring_messages_max ? port->head + 1 : 0;
        port->count--;
    }
    pthread_mutex_unlock(&port->lock);
}

static bool nats_take(struct bus_port *base, struct bus_message *message) {
    struct nats_port *port = (struct nats_port *) base;
    if (port->batch_at == port->batch_count) refill_batch(bus_of(base), port);
    if (port->batch_at == port->batch_count) return false;
    const struct item *item = &port->batch[port->batch_at++];
    *message = (struct bus_message){.subject = (enum bus_subject) item->subject,
                                    .from = item->from,
                                    .data = item->data,
                                    .bytes = item->bytes};
    return true;
}

static uint64_t nats_lost(const struct bus_port *base) {
    return atomic_load(&((const struct nats_port *) base)->lost_count);
}

static uint64_t nats_lossy_count(const struct bus_port *base) {
    return atomic_load(&((const struct nats_port *) base)->lossy_count) +
           atomic_load(&bus_of(base)->lossy_count);
}

static bool nats_is_connected(const struct bus *base) {
    return atomic_load(&((const struct nats_bus *) base)->is_connected);
}

/* --- create, destroy -------------------------------------------------------------------------- */

static void release_bus(struct nats_bus *bus) {
    natsOptions_Destroy(bus->options);
    bus_part_table_destroy(bus->parts);
    bus_ring_release(&bus->ring);
    if (bus->kick_fd >= 0) close(bus->kick_fd);
    pthread_mutex_destroy(&bus->lock);
    pthread_rwlock_destroy(&bus->ports_lock);
    alloc_free(bus->url);
    alloc_free(bus);
}

static void nats_destroy(struct bus *base) {
    struct nats_bus *bus = (struct nats_bus *) base;
    CHECK(!bus->ports);
    pthread_mutex_lock(&bus->lock);
    bus->must_stop = true;
    pthread_mutex_unlock(&bus->lock);
    kick(bus);
    pthread_join(bus->thread, NULL);
    /* nats.c may still be inside a callback of ours. */
    for (uint32_t ms = 0; atomic_load(&bus->closing_count) > 0 && ms < DESTROY_WAIT_MS; ms++)
        nats_Sleep(1);
    if (atomic_load(&bus->closing_count) == 0) release_bus(bus);
    else log_warn("bus: nats keeps its threads; %zu bytes are left to it", sizeof *bus);
}

static const struct bus_ops nats_ops = {
    .destroy = nats_destroy,
    .is_connected = nats_is_connected,
    .message_bytes_max = nats_message_bytes_max,
    .port_open = nats_port_open,
    .port_close = nats_port_close,
    .send = nats_send,
    .take = nats_take,
    .lost = nats_lost,
    .lossy_count = nats_lossy_count,
};

/* What the user gave, before anything is made of it.  No text repeats a secret. */
static enum err check_options(const struct bus_nats_options *o, struct err_text *text) {
    if (!o->url || !o->url[0]) return err_set(text, ERR_USAGE, "the bus has no URL");
    if (strchr(o->url, '@'))
        return err_set(text, ERR_USAGE,
                       "the bus URL holds a user, password or token; give a token by "
                       "GRAMME_BUS_TOKEN or a file instead, where it shows in no process list");
    size_t bytes = o->name_space ? strlen(o->name_space) : 0;
    if (bytes == 0 || bytes > NAME_SPACE_BYTES_MAX)
        return err_set(text, ERR_USAGE, "a bus namespace has 1 to %u characters",
                       NAME_SPACE_BYTES_MAX);
    for (size_t i = 0; i < bytes; i++)
        if (!isalnum((unsigned char) o->name_space[i]) && !strchr("-_", o->name_space[i]))
            return err_set(text, ERR_USAGE,
                           "bus namespace '%s': only letters, digits, - and _ may stand in it",
                           o->name_space);
    if (!o->user != !o->password)
        return err_set(text, ERR_USAGE, "a user of the bus needs a password and the reverse");
    if (o->token && o->user)
        return err_set(text, ERR_USAGE, "the bus takes a token or a user, not both");
    if (!o->tls_cert_file != !o->tls_key_file)
        return err_set(text, ERR_USAGE,
                       "a TLS certificate of the bus needs its key and the "
                       "reverse");
    if (o->ring_messages_max == 0 || o->ring_bytes_max < 4096 || o->ring_bytes_max > INT32_MAX)
        return err_set(text, ERR_USAGE, "the bus ring holds 4 KiB to 2 GiB");
    return ERR_OK;
}

static natsStatus set_tls(natsOptions *n, const struct bus_nats_options *o) {
    natsStatus s = natsOptions_SetSecure(n, true);
    if (s == NATS_OK && o->tls_ca_file)
        s = natsOptions_LoadCATrustedCertificates(n, o->tls_ca_file);
    if (s == NATS_OK && o->tls_cert_file)
        s = natsOptions_LoadCertificatesChain(n, o->tls_cert_file, o->tls_key_file);
    return s;
}

static natsStatus set_options(struct nats_bus *bus, const struct bus_nats_options *o) {
    natsOptions *n = bus->options;
    natsStatus s = natsOptions_SetURL(n, o->url);
    if (s == NATS_OK) s = natsOptions_SetName(n, "gramme");
    if (s == NATS_OK) s = natsOptions_SetNoRandomize(n, true);
    if (s == NATS_OK) s = natsOptions_SetTimeout(n, CONNECT_TIMEOUT_MS);
    if (s == NATS_OK) s = natsOptions_SetIOBufSize(n, READ_BYTES);
    if (s == NATS_OK) s = natsOptions_SetSendAsap(n, true);
    if (s == NATS_OK) s = natsOptions_SetPingInterval(n, PING_INTERVAL_MS);
    if (s == NATS_OK) s = natsOptions_SetMaxPingsOut(n, PINGS_OUT_MAX);
    if (s == NATS_OK) s = natsOptions_SetAllowReconnect(n, true);
    if (s == NATS_OK) s = natsOptions_SetMaxReconnect(n, -1);
    if (s == NATS_OK) s = natsOptions_SetReconnectWait(n, RECONNECT_WAIT_MS);
    if (s == NATS_OK)
        s = natsOptions_SetReconnectJitter(n, RECONNECT_JITTER_MS, RECONNECT_JITTER_MS);
    /* 1, as 0 means 8 MB: a publish without a connection fails at once, nothing stale is sent. */
    if (s == NATS_OK) s = natsOptions_SetReconnectBufSize(n, 1);
    if (s == NATS_OK) s = natsOptions_SetWriteDeadline(n, WRITE_DEADLINE_MS);
    if (s == NATS_OK) s = natsOptions_SetEventLoop(n, bus, ev_attach, ev_read, ev_write, ev_detach);
    if (s == NATS_OK) s = natsOptions_SetDisconnectedCB(n, on_disconnected, bus);
    if (s == NATS_OK) s = natsOptions_SetReconnectedCB(n, on_reconnected, bus);
    if (s == NATS_OK) s = natsOptions_SetClosedCB(n, on_closed, bus);
    if (s == NATS_OK) s = natsOptions_SetErrorHandler(n, on_error, bus);
    if (s == NATS_OK && o->token) s = natsOptions_SetToken(n, o->token);
    if (s == NATS_OK && o->user) s = natsOptions_SetUserInfo(n, o->user, o->password);
    if (s == NATS_OK && (o->has_tls || o->tls_ca_file || o->tls_cert_file)) s = set_tls(n, o);
    return s;
}

/* nats.c frees messages, counts pings and calls back on threads of its own.  None of that may
 * interrupt whoever is at work: as batch threads they wait for their turn, and a batch of messages
 * given back wakes one of them once instead of once a message (0.5 us of a streamed token).  They
 * inherit it from the thread that opens the library. */
static natsStatus open_library(void) {
    struct sched_param none = {0}, before;
    int policy = sched_getscheduler(0);
    bool has_policy = policy == SCHED_OTHER && sched_getparam(0, &before) == 0 &&
                      sched_setscheduler(0, SCHED_BATCH, &none) == 0;
    natsStatus s = nats_Open(-1);
    if (has_policy) (void) sched_setscheduler(0, policy, &before);
    return s;
}

static enum err init_bus(struct nats_bus *bus, const struct bus_nats_options *o,
                         struct err_text *text) {
    const char *no_memory = "no memory for the bus";
    bus->prefix_bytes =
        (size_t) snprintf(bus->prefix, sizeof bus->prefix, "gramme.%s.", o->name_space);
    bus->ring_messages_max = o->ring_messages_max;
    bus->ring_bytes_max = o->ring_bytes_max;
    bus->url = alloc_string(o->url, strlen(o->url));
    if (!bus->url) return err_set(text, ERR_MEMORY, "%s", no_memory);
    enum err e = bus_ring_init(&bus->ring, o->ring_messages_max, o->ring_bytes_max);
    if (!e) e = bus_part_table_create(PARTS_OPEN_MAX, o->ring_bytes_max, PARTS_AGE_US, &bus->parts);
    if (e) return err_set(text, e, "%s", no_memory);
    bus->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (bus->kick_fd < 0) return err_set(text, ERR_IO, "the bus's eventfd: %s", strerror(errno));
    natsStatus s = open_library();
    if (s == NATS_OK) s = natsOptions_Create(&bus->options);
    if (s == NATS_OK) s = set_options(bus, o);
    if (s == NATS_NO_MEMORY) return err_set(text, ERR_MEMORY, "%s", no_memory);
    if (s != NATS_OK) {
        natsStatus last;
        const char *why = nats_GetLastError(&last);
        return err_set(text, ERR_USAGE, "the bus at %s: %s", o->url,
                       why && why[0] ? why : natsStatus_GetText(s));
    }
    int failed = pthread_create(&bus->thread, NULL, run, bus);
    if (failed) return err_set(text, ERR_IO, "the bus thread: %s", strerror(failed));
    return ERR_OK;
}

enum err bus_nats_create(const struct bus_nats_options *options, struct err_text *text,
                         struct bus **out) {
    enum err e = check_options(options, text);
    if (e) return e;
    struct nats_bus *bus = alloc_zero(1, sizeof *bus);
    if (!bus) return err_set(text, ERR_MEMORY, "no memory for the bus");
    bus->base.ops = &nats_ops;
    pthread_rwlock_init(&bus->ports_lock, NULL);
    pthread_mutex_init(&bus->lock, NULL);
    atomic_store(&bus->socket, -1);
    bus->kick_fd = -1;
    e = init_bus(bus, options, text);
    if (e) {
        release_bus(bus);
        return e;
    }
    *out = &bus->base;
    return ERR_OK;
}
