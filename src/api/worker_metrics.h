/* worker_metrics - the gauges and counters of workers in Prometheus' text format, each with a
 * `worker` label.  A worker exports its own; on one node the frontend does it for all (each metric
 * is exported by exactly one process, so that sums are right).  Pure.
 *
 * with_vllm: also the families of vLLM's names; the frontend has those itself, as sums. */
#ifndef GRAMME_API_WORKER_METRICS_H
#define GRAMME_API_WORKER_METRICS_H

#include <stdbool.h>

#include "base/buf.h"
#include "bus/msg.h"

struct worker_metrics_row {
    const char *name; /* "VllmWorker.0" */
    const struct msg_load *load;
    uint64_t device_bytes, budget_bytes, planned_bytes; /* of one device; 0: not known yet */
};

void worker_metrics_render(const struct worker_metrics_row *rows, uint32_t count, bool with_vllm,
                           struct buf *out);

#endif
