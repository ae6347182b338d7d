/* cmd_worker - one worker as a process of a graph: its model, its loading, its signals, its drain,
 * its own /live, /health and /metrics.  What `gramme worker` and `gramme prefill` share, and what a
 * frontend that has its worker in the same process needs of it. */
#ifndef GRAMME_CMD_CMD_WORKER_H
#define GRAMME_CMD_CMD_WORKER_H

#include "base/core_share.h"
#include "bus/bus.h"
#include "config/option.h"
#include "model/model.h"
#include "plan/plan.h"
#include "worker/worker.h"

struct cmd_worker_setup {
    const struct options *options;
    uint32_t queue_requests_max; /* 0: the engine's own bound */
    uint64_t queue_prompt_bytes_max;
    uint64_t instance;
    const char *name;              /* "VllmWorker.0"; NULL: nobody else sees it */
    struct core_share *core_share; /* with the node's other workers; NULL: alone */
    uint32_t core_count;           /* that they share */
    uint32_t memory_sharers;       /* workers on this machine's memory; 0, 1: alone */
    uint64_t device_bytes; /* of each rank's device; 0: as --devices says, or the machine's own */
    uint32_t http_port;    /* of its own /metrics; 0: none */
    const char *bus_side;  /* this node's address towards the nats-server; NULL: loopback */
    bool is_prefill;
    bool is_supervised; /* whoever started it watches the node */
    bool has_frontend;  /* in this process */
};

/* `model` and `bus` are borrowed until worker_destroy. */
MUST_USE enum err cmd_worker_create(const struct cmd_worker_setup *setup, const struct model *model,
                                    uint64_t tokenizer_digest, struct bus *bus,
                                    struct err_text *text, struct worker **out);
/* "kv cache: ..." for the log. */
void cmd_worker_log_plan(const struct plan *plan);

#endif
