/* bench_router - gramme bench router: what a choice costs, and what a block does. */
#ifndef GRAMME_CMD_BENCH_ROUTER_H
#define GRAMME_CMD_BENCH_ROUTER_H

#include "base/err.h"

/* Prints its figures, or why not.  Help and usage errors exit here, as argp does, with 0 and 2.
 * No cmd.h behind it: argp.h and config/option.h both define struct option. */
MUST_USE enum err bench_router_run(int argc, char **argv);

#endif
