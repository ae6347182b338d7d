/* worker_heart - keeps a worker's LOAD coming while its step thread computes.
 *
 * A step may take longer than the second of silence after which others suspect a worker
 * (protocol.md 3): a long prompt on a slow machine.  The step thread sends through here; while it
 * is inside a step, a thread of the heart repeats the last LOAD each tick.  What a repeated LOAD
 * says of steps stands still, so a step that hangs is still seen, after step-timeout; and a step
 * thread that hangs outside of a step falls silent.  No state but the last LOAD. */
#ifndef GRAMME_WORKER_WORKER_HEART_H
#define GRAMME_WORKER_WORKER_HEART_H

#include "base/err.h"
#include "bus/bus.h"

struct worker_heart;

/* The port is borrowed until worker_heart_destroy; tick_us: between two LOADs. */
MUST_USE enum err worker_heart_create(struct bus_port *port, uint64_t tick_us,
                                      struct worker_heart **out);
void worker_heart_destroy(struct worker_heart *heart); /* NULL is allowed */

/* As bus_send, but never at the same time as a repeated LOAD. */
enum err worker_heart_send(struct worker_heart *heart, enum bus_subject subject, uint64_t to,
                           const void *data, size_t bytes);
/* Around each step. */
void worker_heart_set_stepping(struct worker_heart *heart, bool is_stepping);

#endif
