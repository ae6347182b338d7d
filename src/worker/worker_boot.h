/* worker_boot - from options and a model to an engine that can step: open, plan, allocate, load.
 *
 * Used by the worker's step thread and by `gramme run`, which needs no bus.  What the plan lists is
 * what is allocated; a difference fails by name (design.md 7).  One owner, one thread. */
#ifndef GRAMME_WORKER_WORKER_BOOT_H
#define GRAMME_WORKER_WORKER_BOOT_H

#include <stdbool.h>

#include "backend/backend.h"
#include "engine/engine.h"
#include "plan/plan.h"

struct worker_boot_options {
    const struct backend_ops *ops;
    struct backend_options backend; /* model_len_max may come out smaller: see plan */
    struct engine_options engine;   /* block_count, model_len_max, vocab_size, eos are filled in */
    struct plan_budget budget;
    bool prefault;
    uint32_t load_concurrency; /* workers of this node that load at once; 0: as the disk wants it */
    bool is_forced; /* boots what the plan refuses: loading ends by itself where it must */
    /* Told of the plan before a byte is read, on the caller's thread; NULL: nobody wants it. */
    void (*on_plan)(void *ctx, const struct plan *plan);
    void *on_plan_ctx;
};

struct worker_boot_stats {
    uint64_t loaded_bytes; /* of weights, as stored */
    uint64_t load_ns;      /* from the first stage to the last; waiting for a turn not counted */
};

struct worker_boot {
    struct worker_boot_stats stats;
    struct backend *backend; /* owned */
    struct engine *engine;   /* owned */
    struct mem *mems[PLAN_RANKS_MAX];
    struct plan plan;
};

/* Only open and plan: what `gramme plan` prints.  boot->engine stays NULL; close as usual. */
MUST_USE enum err worker_boot_plan(const struct worker_boot_options *options,
                                   const struct model_spec *spec, struct err_text *text,
                                   struct worker_boot *boot);
/* All of it.  ERR_NO_ROOM with the plan's verdict when it does not fit; forced, with the loader's
 * own words: stage, buffer, wanted and free bytes.  On an error boot holds nothing. */
MUST_USE enum err worker_boot_open(const struct worker_boot_options *options,
                                   const struct model *model, backend_progress_fn progress,
                                   void *progress_ctx, struct err_text *text,
                                   struct worker_boot *boot);
void worker_boot_close(struct worker_boot *boot);

#endif
