/* cmd_frontend - the serving half of a graph as one loop: API, templates, tokenizer, router, drain.
 *
 * Its workers are elsewhere on the bus, or one of them lives in this process (serve agg): then its
 * loading and its health are told here too. */
#ifndef GRAMME_CMD_CMD_FRONTEND_H
#define GRAMME_CMD_CMD_FRONTEND_H

#include "bus/bus.h"
#include "config/option.h"

struct cmd_frontend_setup {
    const struct options *options;
    const struct options *local_worker; /* of the worker in this process; NULL: none */
    uint64_t local_device_bytes;        /* of its ranks' devices; 0: the machine's own memory */
    struct bus *bus;                    /* borrowed */
    uint64_t instance;
    int report_fd;      /* -1: nobody supervises us */
    bool tells_workers; /* /metrics carries the workers' gauges too */
};

/* Until the end of the loop; the exit status. */
int cmd_frontend_serve(const struct cmd_frontend_setup *setup);

#endif
