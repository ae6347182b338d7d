/* worker_boot - see worker_boot.h. */
#include "worker/worker_boot.h"

#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/num.h"
#include "worker/worker_turn.h"

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
    if (options->is_forced) {
        log_warn("forced: %s", boot->plan.verdict.text);
        return ERR_OK;
    }
    e = err_set(text, ERR_NO_ROOM, "%s", boot->plan.verdict.text);
    worker_boot_close(boot);
    return e;
}

/* An arena a rank; ranks on one device draw on one budget. */
static enum err make_arenas(struct worker_boot *boot, struct err_text *text) {
    const struct plan *plan = &boot->plan;
    enum err e = ERR_OK;
    for (uint32_t rank = 0; !e && rank < plan->rank_count; rank++) {
        e = mem_create(&plan->ranks[rank], plan->limit_bytes, text, &boot->mems[rank]);
        if (!e && rank && plan->is_shared) mem_join(boot->mems[rank], boot->mems[0]);
    }
    for (uint32_t i = 0; !e && i < plan->ranks[0].line_count; i++) {
        const struct mem_line *line = &plan->ranks[0].lines[i];
        if (strcmp(line->reason, PLAN_PROCESS) != 0) continue;
        e = mem_claim(boot->mems[0], line->reason, line->bytes, text);
        if (e) err_prefix(text, "stage %s", line->reason);
    }
    return e;
}

/* A plan that does not fit, forced: KV is asked for as it was wanted, and refused by the arena. */
static void ask_as_wanted(struct worker_boot *boot) {
    struct plan *plan = &boot->plan;
    const struct backend_ops *ops = backend_ops_of(boot->backend);
    for (uint32_t rank = 0; rank < plan->rank_count; rank++) {
        struct mem_plan *lines = &plan->ranks[rank];
        struct mem_line *kv = &lines->lines[lines->line_count - 1];
        CHECK(num_mul(plan->wanted_blocks, ops->block_bytes(boot->backend, rank), &kv->bytes));
    }
    plan->block_count = plan->wanted_blocks;
}

#define TURN_POLL_NS 50000000
#define TURN_WAIT_MS_MAX 600000u /* then it is somebody else's trouble: we load */

/* A dummy's weights are made, and the simulator loads nothing: no disk, no turn. */
static enum err wait_for_turn(const struct worker_boot_options *options, const struct model *model,
                              backend_progress_fn progress, void *progress_ctx,
                              struct err_text *text, struct worker_turn *turn) {
    const char *path = model_weights_path(model, 0);
    if (!path || options->ops == &sim_backend_ops) return ERR_OK;
    uint32_t concurrency =
        options->load_concurrency ? options->load_concurrency : worker_turn_choose(model);
    uint64_t until_ms = clock_now_ns() / 1000000 + TURN_WAIT_MS_MAX;
    bool has_told = false;
    while (!worker_turn_try(path, concurrency, turn)) {
        if (!has_told)
            log_info(
                "waiting for its turn: %u of this node's workers load%s from this disk at a time",
                concurrency, concurrency == 1 ? "s" : "");
        has_told = true;
        if (progress && !progress(progress_ctx, "waiting for its turn", 0, 0))
            return err_set(text, ERR_CANCELLED, "loading was stopped");
        if (clock_now_ns() / 1000000 > until_ms) {
            log_warn("the others load for %u s already: loading beside them",
                     TURN_WAIT_MS_MAX / 1000);
            return ERR_OK;
        }
        nanosleep(&(struct timespec){.tv_nsec = TURN_POLL_NS}, NULL);
    }
    return ERR_OK;
}

static enum err load(const struct worker_boot_options *options, const struct model *model,
                     backend_progress_fn progress, void *progress_ctx, struct err_text *text,
                     struct worker_boot *boot) {
    const struct plan *plan = &boot->plan;
    struct worker_turn turn = {.fd = -1};
    enum err e = make_arenas(boot, text);
    if (!e) e = wait_for_turn(options, model, progress, progress_ctx, text, &turn);
    uint64_t started_ns = clock_now_ns();
    if (!e)
        e = options->ops->load(boot->backend, model, plan->block_count, boot->mems, progress,
                               progress_ctx, text);
    worker_turn_give(&turn);
    boot->stats = (struct worker_boot_stats){.loaded_bytes = model_weight_bytes(model),
                                             .load_ns = clock_now_ns() - started_ns};
    for (uint32_t rank = 0; !e && rank < plan->rank_count; rank++) {
        e = mem_seal(boot->mems[rank], text);
        if (!e && options->prefault) mem_prefault(boot->mems[rank]);
    }
    if (e != ERR_NO_ROOM && e != ERR_MEMORY) return e;
    uint64_t taken = 0;
    for (uint32_t rank = 0; rank < plan->rank_count; rank++)
        if (boot->mems[rank]) taken += mem_taken_bytes(boot->mems[rank]);
    struct err_text why = *text;
    bool is_named = strncmp(why.text, "stage ", 6) == 0;
    return err_set(text, e, "loading ended%s %s; the %s taken before are given back",
                   is_named ? " at" : ":", why.text[0] ? why.text : err_name(e),
                   mem_size(taken).text);
}

enum err worker_boot_open(const struct worker_boot_options *options, const struct model *model,
                          backend_progress_fn progress, void *progress_ctx, struct err_text *text,
                          struct worker_boot *boot) {
    const struct model_spec *spec = model_get_spec(model);
    struct worker_boot_options with_model = *options; /* the plan sees the type of each tensor */
    with_model.backend.model = model;
    with_model.backend.prefault = options->prefault;
    options = &with_model;
    enum err e = open_as_planned(options, spec, text, boot);
    if (e) return e;
    if (options->on_plan) options->on_plan(options->on_plan_ctx, &boot->plan);
    if (!boot->plan.fits) ask_as_wanted(boot);
    e = load(options, model, progress, progress_ctx, text, boot);
    if (!e) {
        const struct plan *plan = &boot->plan;
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
