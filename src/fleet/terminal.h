/* terminal - the supervisor's standard error: lines of all components, and one status line below.
 *
 * A thread of its own writes, so that a terminal that stands still (Ctrl-S, a full pipe) holds up
 * neither the supervisor nor, through it, a child.  At most TERMINAL_BYTES_MAX wait; beyond that
 * lines are dropped, and their number is told when there is room again.  Calls from any thread. */
#ifndef GRAMME_FLEET_TERMINAL_H
#define GRAMME_FLEET_TERMINAL_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define TERMINAL_BYTES_MAX (1u << 20)

struct terminal;

/* fd is borrowed. */
MUST_USE enum err terminal_create(int fd, struct terminal **out);
/* One whole line; a newline is added when it has none. */
void terminal_line(struct terminal *terminal, const char *line, size_t bytes);
/* What stands below all lines, redrawn after each; "" none.  Only on a terminal. */
void terminal_status(struct terminal *terminal, const char *status);
uint64_t terminal_dropped(struct terminal *terminal);
/* Waits for what is queued, at most wait_ms; a writer still stuck then is left behind (the process
 * is about to end). */
void terminal_destroy(struct terminal *terminal, uint32_t wait_ms);

#endif
