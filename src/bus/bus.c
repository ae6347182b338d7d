/* bus - see bus.h.  The bodies are bus_local.c and bus_nats.c. */
#include "bus/bus.h"

#include "bus/bus_impl.h"

void bus_destroy(struct bus *bus) {
    if (bus) bus->ops->destroy(bus);
}

bool bus_is_connected(const struct bus *bus) { return bus->ops->is_connected(bus); }

size_t bus_message_bytes_max(const struct bus *bus) { return bus->ops->message_bytes_max(bus); }

enum err bus_port_open(struct bus *bus, uint64_t instance, unsigned subjects, bus_wake_fn wake,
                       void *wake_ctx, struct bus_port **out) {
    CHECK(instance != 0);
    return bus->ops->port_open(bus, instance, subjects, wake, wake_ctx, out);
}

void bus_port_close(struct bus_port *port) {
    if (port) port->bus->ops->port_close(port);
}

uint64_t bus_port_instance(const struct bus_port *port) { return port->instance; }

enum err bus_send(struct bus_port *port, enum bus_subject subject, uint64_t to, const void *data,
                  size_t bytes) {
    return port->bus->ops->send(port, subject, to, data, bytes);
}

bool bus_take(struct bus_port *port, struct bus_message *message) {
    return port->bus->ops->take(port, message);
}

uint64_t bus_port_lost(const struct bus_port *port) { return port->bus->ops->lost(port); }

uint64_t bus_port_lossy_count(const struct bus_port *port) {
    return port->bus->ops->lossy_count(port);
}
