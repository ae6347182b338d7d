/* fake_bus - a bus in virtual time that delays, loses, doubles and reorders, all out of one seed.
 *
 * No threads and no clock: whoever simulates asks for what is due.  Addresses are instances; a
 * message to a subject (HELLO, LOAD, KV, ROSTER) is put once for each listener.
 *
 * Who is driven message by message listens, sends and takes here.  What takes a struct bus gets a
 * body (fake_bus_body): its port's messages are queued for it while others take theirs.
 *
 * A process may be cut off, as by a broken connection: nothing leaves it and what is under way to
 * it is lost; it is told by its lossy count, when that begins and when it ends. */
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
    uint64_t sent, lost, doubled, reordered, cut;
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
void fake_bus_cut(struct fake_bus *bus, uint64_t instance, bool is_cut);
bool fake_bus_is_cut(const struct fake_bus *bus, uint64_t instance);
uint64_t fake_bus_lossy_count(const struct fake_bus *bus, uint64_t instance);
/* The bus of one process with one port, which has this instance; bus_destroy frees it.  The port's
 * owner polls: its wake function is not called.  Its sends happen at the time of the last
 * fake_bus_take. */
struct bus *fake_bus_body(struct fake_bus *bus, uint64_t instance);
/* When the next message is due; UINT64_MAX: none is under way. */
uint64_t fake_bus_next_us(const struct fake_bus *bus);
void fake_bus_get_counts(const struct fake_bus *bus, struct fake_bus_counts *out);

#endif
