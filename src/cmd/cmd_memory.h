/* cmd_memory - a process with a worker keeps to its plan: how malloc and stacks are set, what
 * --prefault adds to the arenas, and plan beside measurement at boot. */
#ifndef GRAMME_CMD_CMD_MEMORY_H
#define GRAMME_CMD_CMD_MEMORY_H

#include <stdbool.h>

#include "device/device_process.h"
#include "model/model.h"
#include "plan/plan.h"

/* First in main(): at most two malloc arenas, stacks of explicit size. */
void cmd_memory_configure(void);
/* On the main thread, when the arenas are sealed.  Gives back what loading left in the heap; with
 * `prefault` makes program, libraries and the planned rest of the heap resident; measures, and logs
 * one line (`is_quiet`: at debug level). */
void cmd_memory_settle(const struct plan *plan, const struct model *model, bool prefault,
                       bool is_quiet);
/* The process as it is now, the model's mapped weights by this process's share. */
MUST_USE enum err cmd_memory_look(const struct model *model, struct device_process *out);

#endif
