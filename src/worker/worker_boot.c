/* worker_boot - see worker_boot.h. */
#include "worker/worker_boot.h"

#include "base/log.h"

void worker_boot_close(struct worker_boot *boot) {
    engine_destroy(boot->engine);
    if (boot->backend) backend_ops_of(boot->backend)->close(boot->backend);
    for (uint32_t rank = 0; rank < PLAN_RANKS_MAX; rank++) mem_destroy(boot->mems[rank]);
    *boot = (struct worker_boot){0};
}

enum err worker_boot_plan(const struct worker_boot_options *options, const struct model_spec *spec,
                          struct err_text *text, struct worker_boot *boot) {
    *boot = (struct worker_boot){0};
    enum err e = options->ops->open(spec, &options->backend, text, &boot->backend);
    if (!e)
        e = plan_make(spec, boot->backend, &options->backend, &options->budget, text, &boot->plan);
    if (e) worker_boot_close(boot);
    return e;
}

/* A shrunk max-model-len changes what the backend must hold: it is opened anew with it. */
static enum err open_as_planned(const struct worker_boot_options *options,
                                const struct model_spec *spec, struct err_text *text,
                                struct worker_boot *boot) {
    enum err e = worker_boot_plan(options, spec, text, boot);
    if (e) return e;
    if (boot->plan.fits && boot->plan.is_len_shrunk) {
        struct worker_boot_options shrunk = *options;
        shrunk.backend.model_len_max = boot->plan.model_len_max;
        shrunk.budget.may_shrink_len = false;
        log_info("max-model-len shrinks from %u to %u tokens: that is what the memory holds",
                 options->backend.model_len_max, boot->plan.model_len_max);
        worker_boot_close(boot);
        e = worker_boot_plan(&shrunk, spec, text, boot);
        if (e) return e;
    }
    if (boot->plan.fits) return ERR_OK;
    e = err_set(text, ERR_NO_ROOM, "%s", boot->plan.verdict.text);
    worker_boot_close(boot);
    return e;
}

enum err worker_boot_open(const struct worker_boot_options *options, const struct model *model,
                          backend_progress_fn progress, void *progress_ctx, struct err_text *text,
                          struct worker_boot *boot) {
    const struct model_spec *spec = model_get_spec(model);
    struct worker_boot_options with_model = *options; /* the plan sees the type of each tensor */
    with_model.backend.model = model;
    options = &with_model;
    enum err e = open_as_planned(options, spec, text, boot);
    if (e) return e;
    const struct plan *plan = &boot->plan;
    for (uint32_t rank = 0; !e && rank < plan->rank_count; rank++)
        e = mem_create(&plan->ranks[rank], plan->budget_bytes, text, &boot->mems[rank]);
    if (!e)
        e = options->ops->load(boot->backend, model, plan->block_count, boot->mems, progress,
                               progress_ctx, text);
    for (uint32_t rank = 0; !e && rank < plan->rank_count; rank++) {
        e = mem_seal(boot->mems[rank], text);
        if (!e && options->prefault) mem_prefault(boot->mems[rank]);
    }
    if (!e) {
        struct engine_options engine = options->engine;
        engine.block_size = options->backend.block_size;
        engine.block_count = plan->block_count;
        engine.model_len_max = plan->model_len_max;
        engine.seat_count = options->backend.seat_count;
        engine.batched_tokens_max = options->backend.batched_tokens_max;
        engine.vocab_size = spec->vocab_size;
        engine.eos_ids = spec->eos_ids;
        engine.eos_count = spec->eos_count;
        e = engine_create(&engine, boot->backend, &boot->engine);
        if (e) err_set(text, e, "the engine's book: %s", err_name(e));
    }
    if (e) worker_boot_close(boot);
    return e;
}
