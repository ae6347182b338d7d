/* bus_nats_port - a port of the NATS body: its queue, what fills it and what empties it.
 *
 * The bus thread delivers into the queue and wakes the owner; the owner sends through bus->ring and
 * takes by batches.  A full queue or ring loses the message and counts it. */
#include <string.h>

#include "base/alloc.h"
#include "bus/bus_nats_impl.h"

#define SPENT_BYTES_MAX 65536u /* of messages read and not yet given back to nats.c */

static struct bus_nats *bus_of(const struct bus_port *port) {
    return (struct bus_nats *) port->bus;
}

/* --- delivery: the bus thread ----------------------------------------------------------------- */

static void release_item(struct bus_nats_item *item) {
    natsMsg_Destroy(item->nats_message);
    alloc_free(item->block);
}

static void lose(struct bus_nats_port *port) {
    atomic_fetch_add(&port->lost_count, 1);
    atomic_fetch_add(&port->lossy_count, 1);
}

/* Takes the item over. */
static void queue_item(struct bus_nats *bus, struct bus_nats_port *port,
                       struct bus_nats_item item) {
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
    if (!has_room) release_item(&item);
}

static void queue_copy(struct bus_nats *bus, struct bus_nats_port *port,
                       const struct bus_nats_item *item) {
    struct bus_nats_item copy = *item;
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

static bool is_for(const struct bus_nats_port *port, const struct bus_nats_item *item,
                   uint64_t instance) {
    if (item->subject == BUS_INBOX) return port->base.instance == instance;
    return port->subjects & (1u << item->subject) && port->base.instance != item->from;
}

void bus_nats_port_deliver(struct bus_nats *bus, uint64_t instance, struct bus_nats_item item) {
    struct bus_nats_port *last = NULL;
    pthread_rwlock_rdlock(&bus->ports_lock);
    for (struct bus_nats_port *port = bus->ports; port; port = port->next) {
        if (!is_for(port, &item, instance)) continue;
        if (last) queue_copy(bus, last, &item);
        last = port;
    }
    if (last) queue_item(bus, last, item);
    else release_item(&item);
    pthread_rwlock_unlock(&bus->ports_lock);
}

/* With no port's lock: who is woken may want it at once. */
void bus_nats_port_wake_all(struct bus_nats *bus) {
    pthread_rwlock_rdlock(&bus->ports_lock);
    for (struct bus_nats_port *port = bus->ports; port; port = port->next) {
        if (port->must_wake && port->wake) port->wake(port->wake_ctx);
        port->must_wake = false;
    }
    pthread_rwlock_unlock(&bus->ports_lock);
}

void bus_nats_port_tell_lossy(struct bus_nats *bus) {
    atomic_fetch_add(&bus->lossy_count, 1);
    pthread_rwlock_rdlock(&bus->ports_lock);
    for (struct bus_nats_port *port = bus->ports; port; port = port->next)
        if (port->wake) port->wake(port->wake_ctx);
    pthread_rwlock_unlock(&bus->ports_lock);
}

/* --- ports: their owners' threads ------------------------------------------------------------- */

enum err bus_nats_port_open(struct bus *base, uint64_t instance, unsigned subjects,
                            bus_wake_fn wake, void *wake_ctx, struct bus_port **out) {
    struct bus_nats *bus = (struct bus_nats *) base;
    struct bus_nats_port *port = alloc_zero(1, sizeof *port);
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
    bool has_room = bus->port_count < BUS_NATS_PORTS_MAX;
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
    bus_nats_thread_kick(bus);
    *out = &port->base;
    return ERR_OK;
}

void bus_nats_port_close(struct bus_port *base) {
    struct bus_nats_port *port = (struct bus_nats_port *) base;
    struct bus_nats *bus = bus_of(base);
    pthread_rwlock_wrlock(&bus->ports_lock);
    struct bus_nats_port **at = &bus->ports;
    while (*at != port) at = &(*at)->next;
    *at = port->next;
    bus->port_count--;
    pthread_rwlock_unlock(&bus->ports_lock);
    pthread_mutex_lock(&bus->lock);
    bus->has_port_change = true;
    pthread_mutex_unlock(&bus->lock);
    bus_nats_thread_kick(bus);
    for (uint32_t i = 0; i < port->batch_count; i++) release_item(&port->batch[i]);
    for (; port->count > 0; port->count--) {
        release_item(&port->items[port->head]);
        port->head = (port->head + 1) % bus->ring_messages_max;
    }
    pthread_mutex_destroy(&port->lock);
    alloc_free(port->items);
    alloc_free(port);
}

enum err bus_nats_port_send(struct bus_port *base, enum bus_subject subject, uint64_t to,
                            const void *data, size_t bytes) {
    struct bus_nats_port *port = (struct bus_nats_port *) base;
    struct bus_nats *bus = bus_of(base);
    if (bytes > bus_nats_message_bytes_max(&bus->base)) return ERR_LIMIT;
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
    else bus_nats_thread_kick(bus);
    return e;
}

/* What was given out goes back to nats.c in batches: it frees messages on a thread of its own,
 * which each one alone would wake. */
static void release_batch(struct bus_nats_port *port) {
    for (uint32_t i = 0; i < port->batch_count; i++) release_item(&port->batch[i]);
    pthread_mutex_lock(&port->lock);
    port->queued_bytes -= port->batch_bytes;
    pthread_mutex_unlock(&port->lock);
    port->batch_at = port->batch_count = 0;
    port->batch_bytes = 0;
}

static void refill_batch(struct bus_nats *bus, struct bus_nats_port *port) {
    if (port->batch_count == BUS_NATS_BATCH || port->batch_bytes > SPENT_BYTES_MAX)
        release_batch(port);
    pthread_mutex_lock(&port->lock);
    while (port->count > 0 && port->batch_count < BUS_NATS_BATCH) {
        const struct bus_nats_item *item = &port->items[port->head];
        port->batch_bytes += item->bytes;
        port->batch[port->batch_count++] = *item;
        port->head = port->head + 1 < bus->ring_messages_max ? port->head + 1 : 0;
        port->count--;
    }
    pthread_mutex_unlock(&port->lock);
}

bool bus_nats_port_take(struct bus_port *base, struct bus_message *message) {
    struct bus_nats_port *port = (struct bus_nats_port *) base;
    if (port->batch_at == port->batch_count) refill_batch(bus_of(base), port);
    if (port->batch_at == port->batch_count) return false;
    const struct bus_nats_item *item = &port->batch[port->batch_at++];
    *message = (struct bus_message){.subject = (enum bus_subject) item->subject,
                                    .from = item->from,
                                    .data = item->data,
                                    .bytes = item->bytes};
    return true;
}

uint64_t bus_nats_port_lost(const struct bus_port *base) {
    return atomic_load(&((const struct bus_nats_port *) base)->lost_count);
}

uint64_t bus_nats_port_lossy_count(const struct bus_port *base) {
    return atomic_load(&((const struct bus_nats_port *) base)->lossy_count) +
           atomic_load(&bus_of(base)->lossy_count);
}
