/* plan_process - the plan's line "process": what a worker's process uses beside its arenas.
 *
 * Stacks of explicit size, the heap (at most two malloc arenas), the program and its libraries.
 * Upper bounds, so the line is marked estimated; boot measures it, and the difference stays
 * headroom - or, with --prefault, is reserved for the heap.  Pure. */
#ifndef GRAMME_PLAN_PLAN_PROCESS_H
#define GRAMME_PLAN_PLAN_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"
#include "model/model_spec.h"

#define PLAN_PROCESS "process" /* the line that is no buffer of the backend */
/* Stacks of the service threads (bus, transfer, signals, the pool): explicit, hardly touched. */
#define PLAN_PROCESS_STACK_BYTES ((uint64_t) 2 << 20)
/* Of the transfer of KV, whatever its peers; worker.c asserts that xfer takes no more. */
#define PLAN_PROCESS_TRANSFER_BYTES ((uint64_t) 64 << 20)

/* What runs in it beside the engine. */
struct plan_process {
    uint64_t library_bytes; /* device_process_library_bytes(); 0: a usual size */
    bool has_frontend;      /* tokenizer, template, HTTP: agg with one worker, run, chat */
    bool has_transfer;      /* KV is sent or received */
};

uint64_t plan_process_bytes(const struct plan_process *process, const struct model_spec *spec,
                            const struct backend_options *options);

#endif
