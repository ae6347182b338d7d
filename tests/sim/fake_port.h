/* fake_port - a body of bus.h over a fake_bus: for code that wants a struct bus, in virtual time.
 *
 * One bus a process of the simulation, so that each can lose its connection alone: what is sent
 * or comes meanwhile is lost, and the lossy count tells of both ends of it.  Whoever simulates
 * hands over what fake_bus_take gave for the port. */
#ifndef GRAMME_TESTS_SIM_FAKE_PORT_H
#define GRAMME_TESTS_SIM_FAKE_PORT_H

#include "bus/bus.h"
#include "fake_bus.h"

/* now_us is read at each send; both are borrowed.  For bus_destroy. */
struct bus *fake_port_create(struct fake_bus *bus, const uint64_t *now_us);
void fake_port_set_connected(struct bus *bus, bool is_connected);
/* Keeps a copy for bus_take. */
void fake_port_deliver(struct bus *bus, const struct bus_message *message);

#endif
