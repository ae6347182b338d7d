/* bench_xfer - gramme bench xfer: how fast KV blocks move between workers, beside plain copies. */
#ifndef GRAMME_CMD_BENCH_XFER_H
#define GRAMME_CMD_BENCH_XFER_H

#include "base/err.h"

/* Prints its figures, or why not.  Help and usage errors exit here, as argp does, with 0 and 2.
 * No cmd.h behind it: argp.h and config/option.h both define struct option. */
MUST_USE enum err bench_xfer_run(int argc, char **argv);

#endif
