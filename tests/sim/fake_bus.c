/* fake_bus - see fake_bus.h.  A heap by (due time, number). */
#include "fake_bus.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "bus/bus_impl.h"

#define LISTENERS_MAX 64u

struct parcel {
    uint64_t due_us, number, from, to;
    enum bus_subject subject;
    uint8_t *data; /* owned */
    size_t bytes;
};

struct listener {
    uint64_t instance;
    unsigned subjects;
    bool is_cut;
    uint64_t lossy_count;
    struct fake_port *port; /* NULL: it takes by fake_bus_take */
};

struct fake_body {
    struct bus base;
    struct fake_bus *bus;
    uint64_t instance;
};

struct fake_port {
    struct bus_port base;
    struct parcel *queue; /* owned, its data too */
    size_t at, count, room;
};

struct fake_bus {
    struct fake_bus_options options;
    uint64_t random, now_us;
    struct listener listeners[LISTENERS_MAX];
    uint32_t listener_count;
    struct parcel *heap;
    size_t count, room;
    uint64_t number_last, number_taken;
    uint8_t *taken; /* the data handed out last */
    struct fake_bus_counts counts;
};

static uint32_t draw(struct fake_bus *bus, uint32_t below) {
    bus->random += 0x9e3779b97f4a7c15u;
    uint64_t z = bus->random;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t) ((z >> 33) % below);
}

struct fake_bus *fake_bus_create(const struct fake_bus_options *options) {
    struct fake_bus *bus = calloc(1, sizeof *bus);
    CHECK(bus);
    bus->options = *options;
    bus->random = options->seed;
    return bus;
}

void fake_bus_destroy(struct fake_bus *bus) {
    for (size_t i = 0; i < bus->count; i++) free(bus->heap[i].data);
    free(bus->heap);
    free(bus->taken);
    free(bus);
}

void fake_bus_listen(struct fake_bus *bus, uint64_t instance, unsigned subjects) {
    CHECK(bus->listener_count < LISTENERS_MAX);
    bus->listeners[bus->listener_count++] =
        (struct listener){.instance = instance, .subjects = subjects};
}

static struct listener *find_listener(const struct fake_bus *bus, uint64_t instance) {
    for (uint32_t i = 0; i < bus->listener_count; i++)
        if (bus->listeners[i].instance == instance) return (struct listener *) &bus->listeners[i];
    return NULL;
}

void fake_bus_cut(struct fake_bus *bus, uint64_t instance, bool is_cut) {
    struct listener *listener = find_listener(bus, instance);
    if (!listener || listener->is_cut == is_cut) return;
    listener->is_cut = is_cut;
    listener->lossy_count++;
}

bool fake_bus_is_cut(const struct fake_bus *bus, uint64_t instance) {
    const struct listener *listener = find_listener(bus, instance);
    return listener && listener->is_cut;
}

uint64_t fake_bus_lossy_count(const struct fake_bus *bus, uint64_t instance) {
    const struct listener *listener = find_listener(bus, instance);
    return listener ? listener->lossy_count : 0;
}

void fake_bus_leave(struct fake_bus *bus, uint64_t instance) {
    for (uint32_t i = 0; i < bus->listener_count; i++)
        if (bus->listeners[i].instance == instance)
            bus->listeners[i--] = bus->listeners[--bus->listener_count];
}

static bool is_before(const struct parcel *a, const struct parcel *b) {
    return a->due_us != b->due_us ? a->due_us < b->due_us : a->number < b->number;
}

static void put(struct fake_bus *bus, struct parcel parcel) {
    if (bus->count == bus->room) {
        bus->room = bus->room ? bus->room * 2 : 256;
        bus->heap = realloc(bus->heap, bus->room * sizeof *bus->heap);
        CHECK(bus->heap);
    }
    size_t at = bus->count++;
    for (; at > 0 && is_before(&parcel, &bus->heap[(at - 1) / 2]); at = (at - 1) / 2)
        bus->heap[at] = bus->heap[(at - 1) / 2];
    bus->heap[at] = parcel;
}

static struct parcel pop(struct fake_bus *bus) {
    struct parcel top = bus->heap[0], last = bus->heap[--bus->count];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= bus->count) break;
        if (child + 1 < bus->count && is_before(&bus->heap[child + 1], &bus->heap[child])) child++;
        if (!is_before(&bus->heap[child], &last)) break;
        bus->heap[at] = bus->heap[child];
        at = child;
    }
    bus->heap[at] = last;
    return top;
}

static void send_to(struct fake_bus *bus, uint64_t now_us, uint64_t from, enum bus_subject subject,
                    uint64_t to, const void *data, size_t bytes) {
    bus->counts.sent++;
    if (draw(bus, 1000) < bus->options.lost_per_mille) {
        bus->counts.lost++;
        return;
    }
    uint32_t copies = 1;
    if (draw(bus, 1000) < bus->options.doubled_per_mille) {
        copies = 2;
        bus->counts.doubled++;
    }
    for (uint32_t i = 0; i < copies; i++) {
        uint8_t *copy = malloc(bytes ? bytes : 1);
        CHECK(copy);
        memcpy(copy, data, bytes);
        /* Some second copies come very late: when what they ask for is long over. */
        uint32_t factor = i > 0 && draw(bus, 4) == 0 ? 40 : 1;
        uint64_t delay_us = (uint64_t) factor * draw(bus, bus->options.delay_us_max + 1);
        put(bus, (struct parcel){.due_us = now_us + 1 + delay_us,
                                 .number = ++bus->number_last,
                                 .from = from,
                                 .to = to,
                                 .subject = subject,
                                 .data = copy,
                                 .bytes = bytes});
    }
}

void fake_bus_send(struct fake_bus *bus, uint64_t now_us, uint64_t from, enum bus_subject subject,
                   uint64_t to, const void *data, size_t bytes) {
    if (fake_bus_is_cut(bus, from)) {
        bus->counts.cut++;
        return;
    }
    if (subject == BUS_INBOX) {
        send_to(bus, now_us, from, subject, to, data, bytes);
        return;
    }
    for (uint32_t i = 0; i < bus->listener_count; i++)
        if (bus->listeners[i].instance != from && bus->listeners[i].subjects & (1u << subject))
            send_to(bus, now_us, from, subject, bus->listeners[i].instance, data, bytes);
}

static void queue_parcel(struct fake_port *port, struct parcel parcel) {
    if (port->count == port->room) {
        port->room = port->room ? port->room * 2 : 64;
        port->queue = realloc(port->queue, port->room * sizeof *port->queue);
        CHECK(port->queue);
    }
    port->queue[port->count++] = parcel;
}

bool fake_bus_take(struct fake_bus *bus, uint64_t now_us, uint64_t *to,
                   struct bus_message *message) {
    bus->now_us = now_us;
    while (bus->count > 0 && bus->heap[0].due_us <= now_us) {
        struct parcel parcel = pop(bus);
        if (parcel.number < bus->number_taken) bus->counts.reordered++;
        else bus->number_taken = parcel.number;
        const struct listener *listener = find_listener(bus, parcel.to);
        if (listener && listener->is_cut) bus->counts.cut++;
        if (!listener || listener->is_cut) {
            free(parcel.data);
            continue;
        }
        if (listener->port) {
            queue_parcel(listener->port, parcel);
            continue;
        }
        free(bus->taken);
        bus->taken = parcel.data;
        *to = parcel.to;
        *message = (struct bus_message){parcel.subject, parcel.from, parcel.data, parcel.bytes};
        return true;
    }
    return false;
}

uint64_t fake_bus_next_us(const struct fake_bus *bus) {
    return bus->count ? bus->heap[0].due_us : UINT64_MAX;
}

void fake_bus_get_counts(const struct fake_bus *bus, struct fake_bus_counts *out) {
    *out = bus->counts;
}

/* --- the body ----------------------------------------------------------------------------- */

static struct fake_body *body_of(const struct bus_port *port) {
    return (struct fake_body *) port->bus;
}

static void body_destroy(struct bus *body) { free(body); }

static bool body_is_connected(const struct bus *base) {
    const struct fake_body *body = (const struct fake_body *) base;
    return !fake_bus_is_cut(body->bus, body->instance);
}

static size_t body_message_bytes_max(const struct bus *base) { return UINT32_MAX; }

static enum err body_port_open(struct bus *base, uint64_t instance, unsigned subjects,
                               bus_wake_fn wake, void *wake_ctx, struct bus_port **out) {
    const struct fake_body *body = (const struct fake_body *) base;
    CHECK(instance == body->instance);
    struct fake_port *port = calloc(1, sizeof *port);
    CHECK(port);
    port->base = (struct bus_port){base, instance};
    fake_bus_listen(body->bus, instance, subjects);
    find_listener(body->bus, instance)->port = port;
    *out = &port->base;
    return ERR_OK;
}

static void body_port_close(struct bus_port *base) {
    struct fake_port *port = (struct fake_port *) base;
    fake_bus_leave(body_of(base)->bus, base->instance);
    for (size_t i = 0; i < port->count; i++) free(port->queue[i].data);
    free(port->queue);
    free(port);
}

static enum err body_send(struct bus_port *port, enum bus_subject subject, uint64_t to,
                          const void *data, size_t bytes) {
    struct fake_bus *bus = body_of(port)->bus;
    bool is_cut = fake_bus_is_cut(bus, port->instance);
    fake_bus_send(bus, bus->now_us, port->instance, subject, to, data, bytes);
    return is_cut ? ERR_BUSY : ERR_OK;
}

/* What was taken stays until the queue is empty. */
static bool body_take(struct bus_port *base, struct bus_message *message) {
    struct fake_port *port = (struct fake_port *) base;
    if (port->at == port->count) {
        for (size_t i = 0; i < port->count; i++) free(port->queue[i].data);
        port->at = port->count = 0;
        return false;
    }
    const struct parcel *parcel = &port->queue[port->at++];
    *message = (struct bus_message){parcel->subject, parcel->from, parcel->data, parcel->bytes};
    return true;
}

static uint64_t body_lost(const struct bus_port *port) { return 0; }

static uint64_t body_lossy_count(const struct bus_port *port) {
    return fake_bus_lossy_count(body_of(port)->bus, port->instance);
}

struct bus *fake_bus_body(struct fake_bus *bus, uint64_t instance) {
    static const struct bus_ops ops = {.destroy = body_destroy,
                                       .is_connected = body_is_connected,
                                       .message_bytes_max = body_message_bytes_max,
                                       .port_open = body_port_open,
                                       .port_close = body_port_close,
                                       .send = body_send,
                                       .take = body_take,
                                       .lost = body_lost,
                                       .lossy_count = body_lossy_count};
    struct fake_body *body = calloc(1, sizeof *body);
    CHECK(body);
    *body = (struct fake_body){.base.ops = &ops, .bus = bus, .instance = instance};
    return &body->base;
}
