/* bus - see bus.h.  This is the local body: ports of one process, each with one ring of bytes.
 *
 * Locks, in this order: bus->ports_lock (read by every send, written by open and close), then one
 * port's lock, held for the copy of one message and the call of its wake function.  A port takes
 * part in one message a step and frontend, so the lock is free nearly always; and because the
 * wake is called inside it, a closed port is never woken again.
 *
 * A record in the ring is (header, data) at a multiple of 16 and never wraps: what is left at the
 * end is skipped by a record of kind RECORD_SKIP.  The record last taken stays until the next
 * take, so that the reader needs no copy. */
#include "bus/bus.h"

#include <pthread.h>
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"

#define RECORD_ALIGN 16u
#define RECORD_SKIP UINT32_MAX

struct record {
    uint64_t from;
    uint32_t bytes;
    uint32_t subject; /* enum bus_subject, or RECORD_SKIP: go on at the ring's start */
};

struct bus_port {
    struct bus *bus;
    struct bus_port *next; /* in bus->ports */
    uint64_t instance;
    unsigned subjects;

    pthread_mutex_t lock; /* guards all below */
    bus_wake_fn wake;
    void *wake_ctx;
    uint8_t *ring; /* owned */
    size_t head;   /* of the oldest record */
    size_t used_bytes;
    uint32_t message_count;
    size_t taken_bytes; /* of the record last taken: given back by the next take */
    uint64_t lost_count;
};

struct bus {
    uint32_t ring_messages_max;
    size_t ring_bytes;
    pthread_rwlock_t ports_lock;
    struct bus_port *ports;
};

enum err bus_local_create(uint32_t ring_messages_max, size_t ring_bytes_max, struct bus **out) {
    CHECK(ring_messages_max > 0 && ring_bytes_max >= 4 * sizeof(struct record));
    CHECK(ring_bytes_max <= UINT32_MAX);
    struct bus *bus = alloc_zero(1, sizeof *bus);
    if (!bus) return ERR_MEMORY;
    bus->ring_messages_max = ring_messages_max;
    bus->ring_bytes = ring_bytes_max & ~(size_t) (RECORD_ALIGN - 1);
    pthread_rwlock_init(&bus->ports_lock, NULL);
    *out = bus;
    return ERR_OK;
}

void bus_destroy(struct bus *bus) {
    if (!bus) return;
    CHECK(!bus->ports);
    pthread_rwlock_destroy(&bus->ports_lock);
    alloc_free(bus);
}

enum err bus_port_open(struct bus *bus, uint64_t instance, unsigned subjects, bus_wake_fn wake,
                       void *wake_ctx, struct bus_port **out) {
    CHECK(instance != 0);
    struct bus_port *port = alloc_zero(1, sizeof *port);
    if (!port) return ERR_MEMORY;
    port->ring = alloc_bytes(bus->ring_bytes);
    if (!port->ring) {
        alloc_free(port);
        return ERR_MEMORY;
    }
    port->bus = bus;
    port->instance = instance;
    port->subjects = subjects;
    port->wake = wake;
    port->wake_ctx = wake_ctx;
    pthread_mutex_init(&port->lock, NULL);
    pthread_rwlock_wrlock(&bus->ports_lock);
    for (const struct bus_port *other = bus->ports; other; other = other->next)
        CHECK(other->instance != instance); /* instances are random u64 */
    port->next = bus->ports;
    bus->ports = port;
    pthread_rwlock_unlock(&bus->ports_lock);
    *out = port;
    return ERR_OK;
}

void bus_port_close(struct bus_port *port) {
    if (!port) return;
    struct bus *bus = port->bus;
    pthread_rwlock_wrlock(&bus->ports_lock);
    struct bus_port **at = &bus->ports;
    while (*at != port) at = &(*at)->next;
    *at = port->next;
    pthread_rwlock_unlock(&bus->ports_lock);
    pthread_mutex_destroy(&port->lock);
    alloc_free(port->ring);
    alloc_free(port);
}

uint64_t bus_port_instance(const struct bus_port *port) { return port->instance; }

uint64_t bus_port_lost(const struct bus_port *port) {
    struct bus_port *locked = (struct bus_port *) port;
    pthread_mutex_lock(&locked->lock);
    uint64_t lost_count = port->lost_count;
    pthread_mutex_unlock(&locked->lock);
    return lost_count;
}

uint64_t bus_port_lossy_count(const struct bus_port *port) { return bus_port_lost(port); }

bool bus_is_connected(const struct bus *bus) {
    (void) bus;
    return true;
}

size_t bus_message_bytes_max(const struct bus *bus) {
    return bus->ring_bytes - sizeof(struct record);
}

static void put_record(struct bus_port *port, size_t at, const struct record *record,
                       const void *data) {
    memcpy(port->ring + at, record, sizeof *record);
    if (data && record->bytes) memcpy(port->ring + at + sizeof *record, data, record->bytes);
}

/* With the port's lock held. */
static enum err push(struct bus_port *port, const struct record *record, const void *data) {
    size_t ring_bytes = port->bus->ring_bytes;
    size_t room = num_round_up(sizeof *record + record->bytes, RECORD_ALIGN);
    if (room > ring_bytes) return ERR_LIMIT;
    if (port->message_count >= port->bus->ring_messages_max) return ERR_BUSY;
    size_t tail = (port->head + port->used_bytes) % ring_bytes;
    size_t to_end = ring_bytes - tail;
    size_t skipped = room > to_end ? to_end : 0;
    if (port->used_bytes + skipped + room > ring_bytes) return ERR_BUSY;
    if (skipped) {
        put_record(port, tail, &(struct record){.subject = RECORD_SKIP}, NULL);
        tail = 0;
    }
    put_record(port, tail, record, data);
    port->used_bytes += skipped + room;
    port->message_count++;
    return ERR_OK;
}

static enum err deliver(struct bus_port *port, const struct record *record, const void *data) {
    pthread_mutex_lock(&port->lock);
    enum err e = push(port, record, data);
    if (e) port->lost_count++;
    else if (port->wake) port->wake(port->wake_ctx);
    pthread_mutex_unlock(&port->lock);
    return e;
}

enum err bus_send(struct bus_port *port, enum bus_subject subject, uint64_t to, const void *data,
                  size_t bytes) {
    struct bus *bus = port->bus;
    if (bytes > bus->ring_bytes) return ERR_LIMIT;
    struct record record = {
        .from = port->instance, .bytes = (uint32_t) bytes, .subject = (uint32_t) subject};
    enum err e = subject == BUS_INBOX ? ERR_NOT_FOUND : ERR_OK;
    pthread_rwlock_rdlock(&bus->ports_lock);
    for (struct bus_port *other = bus->ports; other; other = other->next) {
        if (subject == BUS_INBOX) {
            if (other->instance != to) continue;
            e = deliver(other, &record, data);
            break;
        }
        if (other == port || !(other->subjects & (1u << subject))) continue;
        enum err other_e = deliver(other, &record, data);
        if (other_e) e = other_e;
    }
    pthread_rwlock_unlock(&bus->ports_lock);
    return e;
}

static void drop_head(struct bus_port *port, size_t bytes) {
    port->head = (port->head + bytes) % port->bus->ring_bytes;
    port->used_bytes -= bytes;
    if (port->used_bytes == 0) port->head = 0; /* the whole ring in one piece again */
}

bool bus_take(struct bus_port *port, struct bus_message *message) {
    pthread_mutex_lock(&port->lock);
    if (port->taken_bytes) {
        drop_head(port, port->taken_bytes);
        port->taken_bytes = 0;
        port->message_count--;
    }
    bool is_there = port->used_bytes > 0;
    if (is_there) {
        struct record record;
        memcpy(&record, port->ring + port->head, sizeof record);
        if (record.subject == RECORD_SKIP) {
            drop_head(port, port->bus->ring_bytes - port->head);
            memcpy(&record, port->ring + port->head, sizeof record);
        }
        port->taken_bytes = num_round_up(sizeof record + record.bytes, RECORD_ALIGN);
        *message = (struct bus_message){
            .subject = (enum bus_subject) record.subject,
            .from = record.from,
            .data = port->ring + port->head + sizeof record,
            .bytes = record.bytes,
        };
    }
    pthread_mutex_unlock(&port->lock);
    return is_there;
}
