/* bus_nats_read - what one read of the socket brought, on the bus thread.
 *
 * nats.c sorts a read's messages by subject; their numbers put each sender's in order again.  Parts
 * of longer messages wait in bus->parts until the last is there. */
#include "base/clock.h"
#include "bus/bus_nats_impl.h"

/* One part of a longer message; true: *item is the whole of it. */
static bool add_part(struct bus_nats *bus, const struct bus_part *part, const uint8_t *body,
                     size_t body_bytes, struct bus_nats_item *item) {
    uint8_t *whole;
    uint64_t lost_before = bus_part_table_lost(bus->parts);
    bus_part_table_add(bus->parts, part, body, body_bytes, clock_now_us(), &whole);
    if (bus_part_table_lost(bus->parts) != lost_before) bus_nats_port_tell_lossy(bus);
    item->data = item->block = whole;
    item->bytes = part->total_bytes;
    return whole != NULL;
}

static bool is_before(const struct bus_part *a, const struct bus_part *b) {
    if (a->from != b->from) return a->from < b->from;
    return a->number != b->number ? a->number < b->number : a->part < b->part;
}

/* Among those of the same read, in the order in which its sender sent them. */
static void note_arrival(struct bus_nats *bus, natsMsg *message) {
    struct bus_nats_arrival arrival = {.message = message};
    const uint8_t *data = (const uint8_t *) natsMsg_GetData(message);
    size_t bytes = (size_t) natsMsg_GetDataLength(message);
    if (!bus_nats_subject_read(bus, natsMsg_GetSubject(message), &arrival.subject,
                               &arrival.instance) ||
        bus_part_read(data, bytes, &arrival.part) || bus->arrival_count == BUS_NATS_ARRIVALS_MAX) {
        natsMsg_Destroy(message); /* nothing of ours */
        return;
    }
    uint32_t at = bus->arrival_count++;
    for (; at > 0 && is_before(&arrival.part, &bus->arrivals[at - 1].part); at--)
        bus->arrivals[at] = bus->arrivals[at - 1];
    bus->arrivals[at] = arrival;
}

static void take_arrival(struct bus_nats *bus, const struct bus_nats_arrival *arrival) {
    const struct bus_part *part = &arrival->part;
    const uint8_t *data = (const uint8_t *) natsMsg_GetData(arrival->message);
    size_t bytes = (size_t) natsMsg_GetDataLength(arrival->message);
    const uint8_t *body = data + BUS_PART_HEADER_BYTES;
    struct bus_nats_item item = {.data = body,
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
    bus_nats_port_deliver(bus, arrival->instance, item);
}

static void drain_subscription(struct bus_nats *bus, natsSubscription *handle) {
    uint64_t count = 0;
    if (natsSubscription_QueuedMsgs(handle, &count) != NATS_OK) return;
    for (; count > 0; count--) {
        natsMsg *message = NULL;
        natsStatus s = natsSubscription_NextMsg(&message, handle, 0);
        if (s == NATS_SLOW_CONSUMER) {
            bus_nats_port_tell_lossy(bus);
            continue;
        }
        if (s != NATS_OK) return;
        note_arrival(bus, message);
    }
}

void bus_nats_read(struct bus_nats *bus) {
    natsConnection_ProcessReadEvent(bus->connection);
    for (uint32_t i = 0; i < bus->subscription_count; i++)
        drain_subscription(bus, bus->subscriptions[i].handle);
    for (uint32_t i = 0; i < bus->arrival_count; i++) take_arrival(bus, &bus->arrivals[i]);
    bus->arrival_count = 0;
    bus_nats_port_wake_all(bus);
}
