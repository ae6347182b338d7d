/* fake_port - see fake_port.h. */
#include "fake_port.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "bus/bus_impl.h"

struct letter {
    struct letter *next;
    enum bus_subject subject;
    uint64_t from;
    size_t bytes;
    uint8_t data[];
};

struct fake_port {
    struct bus_port port;
    struct letter *first, **last, *taken;
};

struct fake_port_bus {
    struct bus bus;
    struct fake_bus *fake; /* borrowed */
    const uint64_t *now_us;
    struct fake_port *port;
    bool is_connected;
    uint64_t lossy_count;
};

static struct fake_port_bus *bus_of(const struct bus *bus) { return (struct fake_port_bus *) bus; }
static struct fake_port *port_of(const struct bus_port *port) { return (struct fake_port *) port; }

static void destroy(struct bus *bus) {
    CHECK(!bus_of(bus)->port);
    free(bus);
}

static bool is_connected(const struct bus *bus) { return bus_of(bus)->is_connected; }
static size_t message_bytes_max(const struct bus *bus) {
    (void) bus;
    return 8u << 20;
}

static enum err port_open(struct bus *bus, uint64_t instance, unsigned subjects, bus_wake_fn wake,
                          void *wake_ctx, struct bus_port **out) {
    struct fake_port *port = calloc(1, sizeof *port);
    CHECK(port && !bus_of(bus)->port);
    (void) wake, (void) wake_ctx; /* whoever simulates polls */
    port->port.bus = bus;
    port->port.instance = instance;
    port->last = &port->first;
    bus_of(bus)->port = port;
    fake_bus_listen(bus_of(bus)->fake, instance, subjects);
    *out = &port->port;
    return ERR_OK;
}

static void port_close(struct bus_port *base) {
    struct fake_port *port = port_of(base);
    struct fake_port_bus *bus = bus_of(base->bus);
    fake_bus_leave(bus->fake, base->instance);
    bus->port = NULL;
    for (struct letter *next; port->first; port->first = next) {
        next = port->first->next;
        free(port->first);
    }
    free(port->taken);
    free(port);
}

static enum err send(struct bus_port *port, enum bus_subject subject, uint64_t to, const void *data,
                     size_t bytes) {
    struct fake_port_bus *bus = bus_of(port->bus);
    if (!bus->is_connected) return ERR_BUSY;
    fake_bus_send(bus->fake, *bus->now_us, port->instance, subject, to, data, bytes);
    return ERR_OK;
}

static bool take(struct bus_port *base, struct bus_message *message) {
    struct fake_port *port = port_of(base);
    free(port->taken);
    port->taken = port->first;
    if (!port->first) return false;
    port->first = port->first->next;
    if (!port->first) port->last = &port->first;
    *message = (struct bus_message){port->taken->subject, port->taken->from, port->taken->data,
                                    port->taken->bytes};
    return true;
}

static uint64_t lost(const struct bus_port *port) {
    (void) port;
    return 0;
}

static uint64_t lossy_count(const struct bus_port *port) { return bus_of(port->bus)->lossy_count; }

static const struct bus_ops ops = {
    destroy, is_connected, message_bytes_max, port_open, port_close, send, take, lost, lossy_count};

struct bus *fake_port_create(struct fake_bus *fake, const uint64_t *now_us) {
    struct fake_port_bus *bus = calloc(1, sizeof *bus);
    CHECK(bus);
    bus->bus.ops = &ops;
    bus->fake = fake;
    bus->now_us = now_us;
    bus->is_connected = true;
    return &bus->bus;
}

void fake_port_set_connected(struct bus *bus, bool connected) {
    if (bus_of(bus)->is_connected != connected) bus_of(bus)->lossy_count++;
    bus_of(bus)->is_connected = connected;
}

void fake_port_deliver(struct bus *base, const struct bus_message *message) {
    struct fake_port_bus *bus = bus_of(base);
    if (!bus->is_connected || !bus->port) return;
    struct letter *letter = malloc(sizeof *letter + message->bytes);
    CHECK(letter);
    *letter = (struct letter){
        .subject = message->subject, .from = message->from, .bytes = message->bytes};
    memcpy(letter->data, message->data, message->bytes);
    *bus->port->last = letter;
    bus->port->last = &letter->next;
}
