/* bus_impl - what the bodies of the bus share: a table of functions behind bus.h.
 *
 * A body's bus and port begin with these structs. */
#ifndef GRAMME_BUS_BUS_IMPL_H
#define GRAMME_BUS_BUS_IMPL_H

#include "bus/bus.h"

struct bus_ops {
    void (*destroy)(struct bus *bus);
    bool (*is_connected)(const struct bus *bus);
    size_t (*message_bytes_max)(const struct bus *bus);
    enum err (*port_open)(struct bus *bus, uint64_t instance, unsigned subjects, bus_wake_fn wake,
                          void *wake_ctx, struct bus_port **out);
    void (*port_close)(struct bus_port *port);
    enum err (*send)(struct bus_port *port, enum bus_subject subject, uint64_t to, const void *data,
                     size_t bytes);
    bool (*take)(struct bus_port *port, struct bus_message *message);
    uint64_t (*lost)(const struct bus_port *port);
    uint64_t (*lossy_count)(const struct bus_port *port);
};

struct bus {
    const struct bus_ops *ops;
};

struct bus_port {
    struct bus *bus; /* borrowed */
    uint64_t instance;
};

#endif
