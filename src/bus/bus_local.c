/* bus_local - see bus.h.  The local body: ports of one process, each with one ring.
 *
 * Locks, in this order: bus->ports_lock (read by every send, written by open and close), then one
 * port's lock, held for the copy of one message and the call of its wake function.  A port takes
 * part in one message a step and frontend, so the lock is free nearly always; and because the
 * wake is called inside it, a closed port is never woken again. */
#include <pthread.h>

#include "base/alloc.h"
#include "bus/bus_impl.h"
#include "bus/bus_ring.h"

struct local_port {
    struct bus_port base;
    struct local_port *next; /* in bus->ports */
    unsigned subjects;

    pthread_mutex_t lock; /* guards all below */
    bus_wake_fn wake;
    void *wake_ctx;
    struct bus_ring ring;
    uint64_t lost_count;
};

struct local_bus {
    struct bus base;
    uint32_t ring_messages_max;
    size_t ring_bytes;
    pthread_rwlock_t ports_lock;
    struct local_port *ports;
};

static struct local_bus *bus_of(const struct bus_port *port) {
    return (struct local_bus *) port->bus;
}

static void local_destroy(struct bus *base) {
    struct local_bus *bus = (struct local_bus *) base;
    CHECK(!bus->ports);
    pthread_rwlock_destroy(&bus->ports_lock);
    alloc_free(bus);
}

static bool local_is_connected(const struct bus *bus) {
    (void) bus;
    return true;
}

static size_t local_message_bytes_max(const struct bus *base) {
    const struct local_bus *bus = (const struct local_bus *) base;
    return bus->ring_bytes - sizeof(struct bus_record);
}

static enum err local_port_open(struct bus *base, uint64_t instance, unsigned subjects,
                                bus_wake_fn wake, void *wake_ctx, struct bus_port **out) {
    struct local_bus *bus = (struct local_bus *) base;
    struct local_port *port = alloc_zero(1, sizeof *port);
    if (!port) return ERR_MEMORY;
    enum err e = bus_ring_init(&port->ring, bus->ring_messages_max, bus->ring_bytes);
    if (e) {
        alloc_free(port);
        return e;
    }
    port->base = (struct bus_port){base, instance};
    port->subjects = subjects;
    port->wake = wake;
    port->wake_ctx = wake_ctx;
    pthread_mutex_init(&port->lock, NULL);
    pthread_rwlock_wrlock(&bus->ports_lock);
    for (const struct local_port *other = bus->ports; other; other = other->next)
        CHECK(other->base.instance != instance); /* instances are random u64 */
    port->next = bus->ports;
    bus->ports = port;
    pthread_rwlock_unlock(&bus->ports_lock);
    *out = &port->base;
    return ERR_OK;
}

static void local_port_close(struct bus_port *base) {
    struct local_port *port = (struct local_port *) base;
    struct local_bus *bus = bus_of(base);
    pthread_rwlock_wrlock(&bus->ports_lock);
    struct local_port **at = &bus->ports;
    while (*at != port) at = &(*at)->next;
    *at = port->next;
    pthread_rwlock_unlock(&bus->ports_lock);
    pthread_mutex_destroy(&port->lock);
    bus_ring_release(&port->ring);
    alloc_free(port);
}

static uint64_t local_lost(const struct bus_port *base) {
    struct local_port *port = (struct local_port *) base;
    pthread_mutex_lock(&port->lock);
    uint64_t lost_count = port->lost_count;
    pthread_mutex_unlock(&port->lock);
    return lost_count;
}

static enum err deliver(struct local_port *port, const struct bus_record *record,
                        const void *data) {
    pthread_mutex_lock(&port->lock);
    enum err e = bus_ring_put(&port->ring, record, 0, data);
    if (e) port->lost_count++;
    else if (port->wake) port->wake(port->wake_ctx);
    pthread_mutex_unlock(&port->lock);
    return e;
}

static enum err local_send(struct bus_port *base, enum bus_subject subject, uint64_t to,
                           const void *data, size_t bytes) {
    struct local_bus *bus = bus_of(base);
    if (bytes > local_message_bytes_max(&bus->base)) return ERR_LIMIT;
    struct bus_record record = {
        .subject = (uint32_t) subject, .bytes = (uint32_t) bytes, .from = base->instance, .to = to};
    enum err e = subject == BUS_INBOX ? ERR_NOT_FOUND : ERR_OK;
    pthread_rwlock_rdlock(&bus->ports_lock);
    for (struct local_port *other = bus->ports; other; other = other->next) {
        if (subject == BUS_INBOX) {
            if (other->base.instance != to) continue;
            e = deliver(other, &record, data);
            break;
        }
        if (&other->base == base || !(other->subjects & (1u << subject))) continue;
        enum err other_e = deliver(other, &record, data);
        if (other_e) e = other_e;
    }
    pthread_rwlock_unlock(&bus->ports_lock);
    return e;
}

static bool local_take(struct bus_port *base, struct bus_message *message) {
    struct local_port *port = (struct local_port *) base;
    struct bus_record record;
    uint8_t *data;
    pthread_mutex_lock(&port->lock);
    bool is_there = bus_ring_take(&port->ring, &record, &data);
    pthread_mutex_unlock(&port->lock);
    if (is_there)
        *message = (struct bus_message){.subject = (enum bus_subject) record.subject,
                                        .from = record.from,
                                        .data = data,
                                        .bytes = record.bytes};
    return is_there;
}

static const struct bus_ops local_ops = {
    .destroy = local_destroy,
    .is_connected = local_is_connected,
    .message_bytes_max = local_message_bytes_max,
    .port_open = local_port_open,
    .port_close = local_port_close,
    .send = local_send,
    .take = local_take,
    .lost = local_lost,
    .lossy_count = local_lost, /* nothing else can go wrong here */
};

enum err bus_local_create(uint32_t ring_messages_max, size_t ring_bytes_max, struct bus **out) {
    CHECK(ring_messages_max > 0 && ring_bytes_max >= BUS_RING_BYTES_MIN);
    CHECK(ring_bytes_max <= UINT32_MAX);
    struct local_bus *bus = alloc_zero(1, sizeof *bus);
    if (!bus) return ERR_MEMORY;
    bus->base.ops = &local_ops;
    bus->ring_messages_max = ring_messages_max;
    bus->ring_bytes = ring_bytes_max & ~(size_t) 7;
    pthread_rwlock_init(&bus->ports_lock, NULL);
    *out = &bus->base;
    return ERR_OK;
}
