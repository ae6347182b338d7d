/* plan - every byte a worker will use, by reason, before a byte is loaded.
 *
 * plan_make asks the backend for its buffers, adds what the process itself needs, and gives the
 * rest of the budget to the KV region in whole blocks (design.md 7).  The lists it makes are what
 * boot allocates: mem_create(&plan->ranks[r]).  Pure: touches no device. */
#ifndef GRAMME_PLAN_PLAN_H
#define GRAMME_PLAN_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"
#include "backend/tensor_parallel.h"
#include "base/err.h"
#include "base/mem.h"
#include "plan/plan_process.h"

#define PLAN_RANKS_MAX TENSOR_PARALLEL_MAX

/* The room there is. */
struct plan_budget {
    uint64_t total_bytes;        /* of the device; CPU: the smaller of RAM and cgroup limit */
    uint64_t available_bytes;    /* CPU: min(MemAvailable, cgroup limit minus use) */
    double utilization;          /* gpu-memory-utilization; 0: not written (the machine's own CPU
                                 only: KV by the rule of behaviour.md 3) */
    uint64_t kv_bytes;           /* --kv-cache-memory-bytes; 0: by the rules */
    bool may_shrink_len;         /* max-model-len was not written: it may shrink to fit */
    struct plan_process process; /* what else the process holds; no matter for a card */
    bool is_card;                /* a GPU: the process's own heap and stacks are not on it */
    bool is_shared; /* all ranks are on this one device; so it is, too, without a written
                                 utilization */
};

/* Where loading would end: the first thing taken that passes the limit.  Forced (--force), boot
 * ends there. */
struct plan_refusal {
    const char *stage; /* "process", or of backend_take; "kv" */
    char reason[MEM_REASON_BYTES];
    uint32_t rank, layer;
    uint64_t wanted_bytes, free_bytes;
};

struct plan {
    struct mem_plan ranks[PLAN_RANKS_MAX]; /* line "kv" last */
    uint32_t rank_count;
    uint32_t block_count;  /* usable blocks, block 0 not counted; the same on every rank */
    uint64_t block_bytes;  /* of the widest rank */
    uint64_t kv_tokens;    /* block_count x block_size */
    uint64_t device_bytes; /* what the budget was taken of */
    uint64_t budget_bytes; /* a rank; of all ranks where they share a device */
    uint64_t limit_bytes;  /* what boot holds each buffer against: the budget, or less where less is
                              available */
    uint64_t total_bytes;
    uint64_t headroom_bytes;
    uint32_t model_len_max; /* as written, or as shrunk */
    bool is_len_shrunk;
    double concurrency; /* requests of model_len_max that fit at once */
    bool is_shared; /* all ranks on one device: budget, total and headroom are of them together */
    bool fits;
    uint32_t wanted_blocks;      /* what was asked for: block_count where it fits */
    struct plan_refusal refusal; /* when it does not fit */
    struct err_text verdict; /* when it does not fit: what needs how much of what, what to set */
};

/* ERR_OK also when it does not fit (plan->fits tells). `backend` is open. */
MUST_USE enum err plan_make(const struct model_spec *spec, const struct backend *backend,
                            const struct backend_options *options, const struct plan_budget *budget,
                            struct err_text *text, struct plan *out);

/* The rank that every other one stays within; one at least. */
const struct mem_plan *plan_widest_rank(const struct plan *plan);
/* Of all ranks together. */
uint64_t plan_sum_bytes(const struct plan *plan);

struct buf;
/* The table a person reads: one row a reason, GiB; is_explained lists every buffer with bytes. */
void plan_print(const struct plan *plan, const struct model_spec *spec, bool is_explained,
                struct buf *out);
struct plan_auto_fit;
/* design.md 9's object; fit: what else would fit (NULL: nobody looked). */
void plan_print_json(const struct plan *plan, const struct model_spec *spec,
                     const struct plan_auto_fit *fit, struct buf *out);

#endif
