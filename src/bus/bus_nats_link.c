/* bus_nats_link - the NATS body's connection and what is subscribed on it.
 *
 *   no connection --connect--> up <--nats.c loses and finds the server again--> reconnecting
 *        ^                      |                                                  |
 *        +---- nats.c gave up (a wrong token, twice): closed ----------------------+
 *
 * Subjects are subscribed once for all ports of the process; bus_nats_port_deliver finds the ports.
 * The bus thread connects, subscribes and drops; the callbacks come on a thread of nats.c's. */
#include <string.h>

#include "base/log.h"
#include "bus/bus_nats_impl.h"

/* A server that refuses us fills its log; one that is not there may come at any moment. */
#define RETRY_REFUSED_MS 1000

/* --- the connection's fate: nats.c's callback thread ------------------------------------------ */

/* Whoever stores last has looked after that, so the flag ends right whichever thread it is. */
static void note_status(struct bus_nats *bus, natsConnection *connection) {
    bool is_up;
    do {
        is_up = natsConnection_Status(connection) == NATS_CONN_STATUS_CONNECTED;
        atomic_store(&bus->is_connected, is_up);
    } while (is_up != (natsConnection_Status(connection) == NATS_CONN_STATUS_CONNECTED));
}

static bool is_current(struct bus_nats *bus, natsConnection *connection) {
    pthread_mutex_lock(&bus->lock);
    bool is = bus->connection == connection;
    pthread_mutex_unlock(&bus->lock);
    return is;
}

static void on_disconnected(natsConnection *connection, void *ctx) {
    struct bus_nats *bus = ctx;
    if (!is_current(bus, connection)) return;
    note_status(bus, connection);
    log_warn("bus: the connection to %s is lost", bus->url);
    bus_nats_port_tell_lossy(bus);
}

static void on_reconnected(natsConnection *connection, void *ctx) {
    struct bus_nats *bus = ctx;
    if (!is_current(bus, connection)) return;
    note_status(bus, connection);
    log_info("bus: connected to %s again", bus->url);
    bus_nats_port_tell_lossy(bus);
}

static void on_closed(natsConnection *connection, void *ctx) {
    struct bus_nats *bus = ctx;
    pthread_mutex_lock(&bus->lock);
    if (bus->connection == connection) {
        atomic_store(&bus->is_connected, false);
        bus->is_closed = true;
        bus_nats_thread_kick(bus);
    }
    pthread_mutex_unlock(&bus->lock);
    atomic_fetch_sub(&bus->closing_count, 1); /* the bus may be gone after this */
}

static void on_error(natsConnection *connection, natsSubscription *subscription, natsStatus status,
                     void *ctx) {
    struct bus_nats *bus = ctx;
    (void) connection, (void) subscription;
    log_warn("bus: %s", natsStatus_GetText(status));
    if (status == NATS_SLOW_CONSUMER) bus_nats_port_tell_lossy(bus);
}

natsStatus bus_nats_link_set_callbacks(struct bus_nats *bus, natsOptions *n) {
    natsStatus s = natsOptions_SetDisconnectedCB(n, on_disconnected, bus);
    if (s == NATS_OK) s = natsOptions_SetReconnectedCB(n, on_reconnected, bus);
    if (s == NATS_OK) s = natsOptions_SetClosedCB(n, on_closed, bus);
    if (s == NATS_OK) s = natsOptions_SetErrorHandler(n, on_error, bus);
    return s;
}

/* --- trouble, told to the user ---------------------------------------------------------------- */

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
static void tell_trouble(struct bus_nats *bus, natsStatus status) {
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

/* --- subscriptions: the bus thread ------------------------------------------------------------ */

void bus_nats_link_drop(struct bus_nats *bus) {
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

static natsStatus subscribe(struct bus_nats *bus, enum bus_subject subject, uint64_t instance) {
    char text[BUS_NATS_SUBJECT_BYTES];
    bus_nats_subject_write(bus, subject, instance, text);
    if (subject == BUS_KV) memcpy(text + bus->prefix_bytes + 3, "*", 2);
    CHECK(bus->subscription_count < ARRAY_COUNT(bus->subscriptions));
    natsSubscription *handle;
    natsStatus s = natsConnection_SubscribeSync(&handle, bus->connection, text);
    if (s != NATS_OK) return s;
    bus->subscriptions[bus->subscription_count++] =
        (struct bus_nats_subscription){.handle = handle, .instance = instance, .subject = subject};
    return NATS_OK;
}

static bool has_subscription(const struct bus_nats *bus, enum bus_subject subject,
                             uint64_t instance) {
    for (uint32_t i = 0; i < bus->subscription_count; i++)
        if (bus->subscriptions[i].subject == subject && bus->subscriptions[i].instance == instance)
            return true;
    return false;
}

static natsStatus follow_ports(struct bus_nats *bus) {
    uint64_t inboxes[BUS_NATS_PORTS_MAX];
    uint32_t inbox_count = 0;
    unsigned subjects = 0;
    pthread_rwlock_rdlock(&bus->ports_lock);
    for (const struct bus_nats_port *port = bus->ports; port; port = port->next) {
        inboxes[inbox_count++] = port->base.instance;
        subjects |= port->subjects;
    }
    pthread_rwlock_unlock(&bus->ports_lock);
    for (uint32_t i = 0; i < bus->subscription_count;) {
        struct bus_nats_subscription *at = &bus->subscriptions[i];
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

bool bus_nats_link_follow_ports(struct bus_nats *bus) {
    natsStatus s = follow_ports(bus);
    if (s == NATS_OK) return true;
    tell_trouble(bus, s);
    bus_nats_link_drop(bus);
    return false;
}

/* --- connecting: the bus thread --------------------------------------------------------------- */

bool bus_nats_link_connect(struct bus_nats *bus, uint64_t *retry_ms) {
    natsConnection *connection = NULL;
    atomic_fetch_add(&bus->closing_count, 1);
    natsStatus s = natsConnection_Connect(&connection, bus->options);
    if (s != NATS_OK) {
        atomic_fetch_sub(&bus->closing_count, 1); /* never open: never closed */
        tell_trouble(bus, s);
        *retry_ms = s == NATS_NO_SERVER ? BUS_NATS_RECONNECT_WAIT_MS : RETRY_REFUSED_MS;
        return false;
    }
    pthread_mutex_lock(&bus->lock);
    bus->connection = connection;
    bus->has_port_change = false;
    pthread_mutex_unlock(&bus->lock);
    if (!bus_nats_link_follow_ports(bus)) {
        *retry_ms = BUS_NATS_RECONNECT_WAIT_MS;
        return false;
    }
    memset(bus->trouble, 0, sizeof bus->trouble);
    log_info("bus: connected to %s as %.*s", bus->url, (int) bus->prefix_bytes - 1, bus->prefix);
    note_status(bus, connection);
    bus_nats_port_tell_lossy(bus);
    return true;
}
