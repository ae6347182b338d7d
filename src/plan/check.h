/* check - what is wrong with a graph before any of it starts: the checks of issue 5.
 *
 * Beside what the reader of the file tells (config/graph.h: syntax, names, types), the components
 * are compared with one another, with their models, and with the devices.  Static: looks at model
 * files, touches no device.  `serve` runs it first.  Everything wrong is told in one run, one
 * cause once. */
#ifndef GRAMME_PLAN_CHECK_H
#define GRAMME_PLAN_CHECK_H

#include "config/graph.h"
#include "plan/graph_plan.h"

struct check_target {
    const struct graph_plan_target *plan;
    bool is_elsewhere;              /* planned for other machines: a model path need not be here */
    bool is_serve;                  /* what cannot be run is an error, not a warning */
    const struct device_gpus *gpus; /* this machine's cards and who holds them; NULL: not looked */
};

/* Adds problems; ERR_MEMORY only. */
MUST_USE enum err check_graph(const struct graph *graph, const struct check_target *target,
                              struct problem_list *problems);

#endif
