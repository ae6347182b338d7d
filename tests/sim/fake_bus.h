/* fake_bus - a bus in virtual time that delays, loses, doubles and reorders, all out of one seed.
 *
 * Not threads and no clock: whoever simulates asks for what is due.  Addresses are instances; a
 * message to a subject is put once for each listener. */
#ifndef GRAMME_TESTS_SIM_FAKE_BUS_H
#define GRAMME_TESTS_SIM_FAKE_BUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bus/bus.h"

struct fake_bus;

struct fake_bus_options {
    uint64_t seed;
    uint32_t lost_per_mille;
    uint32_t doubled_per_mille;
    uint32_t delay_us_max; /* each copy's delay is drawn alone: that reorders */
};

struct fake_bus_counts {
    uint64_t sent, lost, doubled, reordered;
};

struct fake_bus *fake_bus_create(const struct fake_bus_options *options);
void fake_bus_destroy(struct fake_bus *bus);
void fake_bus_listen(struct fake_bus *bus, uint64_t instance, unsigned subjects);
/* What is under way to it is lost. */
void fake_bus_leave(struct fake_bus *bus, uint64_t instance);
void fake_bus_send(struct fake_bus *bus, uint64_t now_us, uint64_t from, enum bus_subject subject,
                   uint64_t to, const void *data, size_t bytes);
/* The earliest message due at `now_us` or before; data lives until the next take. */
bool fake_bus_take(struct fake_bus *bus, uint64_t now_us, uint64_t *to,
                   struct bus_message *message);
/* When the next message is due; UINT64_MAX: none is under way. */
uint64_t fake_bus_next_us(const struct fake_bus *bus);
void fake_bus_get_counts(const struct fake_bus *bus, struct fake_bus_counts *out);

#endif
