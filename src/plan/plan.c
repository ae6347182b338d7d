/* plan - see plan.h.
 *
 * Where the room comes from.  With gpu-memory-utilization written, each rank has a device with
 * budget = floor(utilization x total).  Without it (the machine's own CPU) all ranks share one
 * memory, the limit is what is available, and KV follows behaviour.md 3. */
#include "plan/plan.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/num.h"

/* KV by default on the CPU: behaviour.md 3. */
#define KV_DEFAULT_REQUESTS 8
#define KV_DEFAULT_BYTES_MAX ((uint64_t) 4 << 30)
#define KV_DEFAULT_AVAILABLE_SHARE 4
/* A shrunk max-model-len below this would refuse most chats: better to say that it does not fit. */
#define LEN_SHRUNK_MIN 256u

/* What every choice below is made from. */
struct costs {
    uint64_t fixed_bytes[PLAN_RANKS_MAX]; /* all but KV */
    uint64_t block_bytes[PLAN_RANKS_MAX];
    uint64_t fixed_sum, block_sum;
    uint32_t rank_count;
    uint32_t block_size;
    bool is_shared; /* all ranks in one memory */
};

static void collect_costs(const struct model_spec *spec, const struct backend *backend,
                          const struct backend_options *options, const struct plan_budget *budget,
                          struct plan *plan, struct costs *costs) {
    const struct backend_ops *ops = backend_ops_of(backend);
    for (uint32_t rank = 0; rank < plan->rank_count; rank++) {
        struct mem_plan *lines = &plan->ranks[rank];
        ops->plan(backend, rank, lines);
        if (rank == 0 && !budget->is_card) {
            mem_plan_add(lines, MEM_CONTEXT, plan_process_bytes(&budget->process, spec, options),
                         PLAN_PROCESS);
            struct mem_line *line = &lines->lines[lines->line_count - 1];
            line->is_outside = line->is_estimated = true;
        }
        costs->fixed_bytes[rank] = mem_plan_total(lines);
        costs->block_bytes[rank] = ops->block_bytes(backend, rank);
        CHECK(costs->block_bytes[rank] > 0);
        CHECK(num_add(costs->fixed_sum, costs->fixed_bytes[rank], &costs->fixed_sum));
        CHECK(num_add(costs->block_sum, costs->block_bytes[rank], &costs->block_sum));
        plan->block_bytes = num_max(plan->block_bytes, costs->block_bytes[rank]);
    }
}

/* Whole blocks that fit beside everything else, on the rank with the least room. */
static uint64_t blocks_within(const struct costs *costs, uint64_t limit_bytes) {
    if (costs->is_shared)
        return limit_bytes < costs->fixed_sum ? 0
                                              : (limit_bytes - costs->fixed_sum) / costs->block_sum;
    uint64_t least = UINT64_MAX;
    for (uint32_t rank = 0; rank < costs->rank_count; rank++) {
        uint64_t fixed = costs->fixed_bytes[rank];
        uint64_t blocks =
            limit_bytes < fixed ? 0 : (limit_bytes - fixed) / costs->block_bytes[rank];
        least = num_min(least, blocks);
    }
    return least;
}

static bool is_fixed_within(const struct costs *costs, uint64_t limit_bytes) {
    if (costs->is_shared) return costs->fixed_sum <= limit_bytes;
    for (uint32_t rank = 0; rank < costs->rank_count; rank++)
        if (costs->fixed_bytes[rank] > limit_bytes) return false;
    return true;
}

/* What one block takes of a limit. */
static uint64_t block_cost(const struct plan *plan, const struct costs *costs) {
    return costs->is_shared ? costs->block_sum : plan->block_bytes;
}

/* --- sentences ---------------------------------------------------------------------------- */

/* Takes everything in the order of loading until the limit is passed. */
struct walking {
    const struct costs *costs;
    uint64_t limit_bytes;
    uint64_t used_bytes[PLAN_RANKS_MAX]; /* one memory: the first */
    struct plan_refusal *refusal;
};

static bool take(void *ctx, const struct backend_take *take) {
    struct walking *walking = ctx;
    uint64_t *used = &walking->used_bytes[walking->costs->is_shared ? 0 : take->rank];
    if (take->bytes <= walking->limit_bytes - *used) {
        *used += take->bytes;
        return true;
    }
    struct plan_refusal *refusal = walking->refusal;
    *refusal = (struct plan_refusal){.stage = take->stage,
                                     .rank = take->rank,
                                     .layer = take->layer,
                                     .wanted_bytes = take->bytes,
                                     .free_bytes = walking->limit_bytes - *used};
    snprintf(refusal->reason, sizeof refusal->reason, "%s", take->reason);
    return false;
}

static bool take_line(struct walking *walking, uint32_t rank, const struct mem_line *line,
                      const char *stage) {
    const struct backend_take one = {
        stage, line->reason, line->kind, rank, BACKEND_NO_LAYER, line->bytes, line->is_outside};
    return take(walking, &one);
}

/* A body without a walk of its own: its lines, rank by rank. */
static bool take_lines(const struct plan *plan, struct walking *walking) {
    for (uint32_t rank = 0; rank < plan->rank_count; rank++)
        for (uint32_t i = 0; i < plan->ranks[rank].line_count; i++) {
            const struct mem_line *line = &plan->ranks[rank].lines[i];
            if (strcmp(line->reason, PLAN_PROCESS) == 0) continue;
            if (!take_line(walking, rank, line, "buffers")) return false;
        }
    return true;
}

/* Fills plan->refusal with what passes the limit: the process, the backend's own, then KV. */
static void find_refusal(const struct backend *backend, const struct costs *costs,
                         uint64_t limit_bytes, struct plan *plan) {
    struct walking walking = {
        .costs = costs, .limit_bytes = limit_bytes, .refusal = &plan->refusal};
    const struct backend_ops *ops = backend_ops_of(backend);
    plan->refusal = (struct plan_refusal){0};
    for (uint32_t i = 0; i < plan->ranks[0].line_count; i++)
        if (strcmp(plan->ranks[0].lines[i].reason, PLAN_PROCESS) == 0 &&
            !take_line(&walking, 0, &plan->ranks[0].lines[i], PLAN_PROCESS))
            return;
    if (ops->walk) ops->walk(backend, take, &walking);
    else (void) take_lines(plan, &walking);
    for (uint32_t rank = 0; !plan->refusal.stage && rank < plan->rank_count; rank++) {
        struct backend_take kv = {
            .stage = "kv", .reason = "kv", .kind = MEM_KV, .rank = rank, .layer = BACKEND_NO_LAYER};
        CHECK(num_mul(plan->wanted_blocks, costs->block_bytes[rank], &kv.bytes));
        (void) take(&walking, &kv);
    }
    CHECK(plan->refusal.stage); /* something passes the limit: the caller saw it */
}

static void refuse_fixed(struct plan *plan, const struct costs *costs, uint64_t limit_bytes,
                         const char *limit_name) {
    const struct plan_refusal *refusal = &plan->refusal;
    uint64_t all = costs->is_shared ? costs->fixed_sum : costs->fixed_bytes[refusal->rank];
    (void) err_set(&plan->verdict, ERR_NO_ROOM,
                   "%s needs %s and %s of the %s %s are left; with all buffers but KV "
                   "it is %s: set a smaller max-num-batched-tokens or max-num-seqs, or "
                   "take a smaller or more quantized model",
                   refusal->reason, mem_size(refusal->wanted_bytes).text,
                   mem_size(refusal->free_bytes).text, limit_name, mem_size(limit_bytes).text,
                   mem_size(all).text);
}

static void refuse_kv(struct plan *plan, const struct costs *costs, uint64_t limit_bytes,
                      const char *limit_name, uint64_t wanted_blocks, uint64_t blocks) {
    uint64_t tokens = blocks * costs->block_size;
    uint64_t cost = block_cost(plan, costs);
    uint64_t wanted_bytes = wanted_blocks * cost, left_bytes = blocks * cost;
    char remedy[64] = "set a smaller max-num-batched-tokens";
    if (tokens)
        snprintf(remedy, sizeof remedy, "set max-model-len: %llu", (unsigned long long) tokens);
    else if (limit_name[0] == 'k') /* kv-cache-memory-bytes: only it is too small */
        snprintf(remedy, sizeof remedy, "set kv-cache-memory-bytes: %llu",
                 (unsigned long long) wanted_bytes);
    (void) err_set(&plan->verdict, ERR_NO_ROOM,
                   "kv needs %s for one request of max-model-len %u tokens and %s of the %s %s are "
                   "left (%llu tokens): %s%s",
                   mem_size(wanted_bytes).text, plan->model_len_max, mem_size(left_bytes).text,
                   limit_name, mem_size(limit_bytes).text, (unsigned long long) tokens, remedy,
                   limit_name[0] == 'b' ? " or a higher gpu-memory-utilization" : "");
}

/* --- the choice --------------------------------------------------------------------------- */

/* Blocks by the default rule of the machine's own CPU. */
static uint64_t default_blocks(const struct plan *plan, const struct costs *costs,
                               const struct plan_budget *budget, uint64_t request_blocks) {
    uint64_t cost = block_cost(plan, costs);
    uint64_t room =
        num_min(KV_DEFAULT_BYTES_MAX, budget->available_bytes / KV_DEFAULT_AVAILABLE_SHARE);
    uint64_t blocks = num_min(request_blocks * KV_DEFAULT_REQUESTS, room / cost);
    return num_max(blocks, request_blocks);
}

struct limit {
    uint64_t bytes;
    const char *name;
};

/* Decides block_count, wanted_blocks and fits; everything else is known. */
static void choose_blocks(struct plan *plan, const struct backend *backend,
                          const struct costs *costs, const struct plan_budget *budget,
                          struct limit limit) {
    uint64_t request_blocks = num_div_up(plan->model_len_max, costs->block_size);
    plan->wanted_blocks = (uint32_t) num_min(request_blocks, UINT32_MAX - 1);
    if (!is_fixed_within(costs, limit.bytes)) {
        find_refusal(backend, costs, limit.bytes, plan);
        refuse_fixed(plan, costs, limit.bytes, limit.name);
        return;
    }
    uint64_t room_blocks = blocks_within(costs, limit.bytes);
    uint64_t wanted = room_blocks;
    if (budget->kv_bytes) wanted = budget->kv_bytes / block_cost(plan, costs);
    else if (!(budget->utilization > 0))
        wanted = num_min(room_blocks, default_blocks(plan, costs, budget, request_blocks));
    plan->fits = true;
    if (wanted > room_blocks) { /* only --kv-cache-memory-bytes can ask for that */
        plan->wanted_blocks = (uint32_t) num_min(wanted, UINT32_MAX - 1);
        (void) err_set(&plan->verdict, ERR_NO_ROOM,
                       "kv needs %s (kv-cache-memory-bytes) and %s of the %s %s are left",
                       mem_size(budget->kv_bytes).text,
                       mem_size(room_blocks * block_cost(plan, costs)).text, limit.name,
                       mem_size(limit.bytes).text);
        wanted = room_blocks;
        plan->fits = false;
    } else if (wanted < request_blocks) {
        uint64_t tokens = wanted * costs->block_size;
        if (budget->may_shrink_len && tokens >= LEN_SHRUNK_MIN) {
            plan->model_len_max = (uint32_t) tokens;
            plan->is_len_shrunk = true;
        } else {
            struct limit named = limit;
            if (budget->kv_bytes) named = (struct limit){budget->kv_bytes, "kv-cache-memory-bytes"};
            refuse_kv(plan, costs, named.bytes, named.name, request_blocks, wanted);
            plan->fits = false;
        }
    }
    plan->block_count = (uint32_t) num_min(wanted, UINT32_MAX - 1);
    if (plan->fits) plan->wanted_blocks = plan->block_count;
    else if (plan->wanted_blocks > room_blocks) find_refusal(backend, costs, limit.bytes, plan);
    else /* the device has room, kv-cache-memory-bytes has not */
        plan->refusal =
            (struct plan_refusal){.stage = "kv",
                                  .reason = "kv",
                                  .layer = BACKEND_NO_LAYER,
                                  .wanted_bytes = plan->wanted_blocks * block_cost(plan, costs),
                                  .free_bytes = budget->kv_bytes};
}

static void finish(struct plan *plan, const struct costs *costs, const struct plan_budget *budget,
                   struct limit limit) {
    for (uint32_t rank = 0; rank < plan->rank_count; rank++) {
        uint64_t kv_bytes;
        CHECK(num_mul(plan->block_count, costs->block_bytes[rank], &kv_bytes));
        mem_plan_add(&plan->ranks[rank], MEM_KV, kv_bytes, "kv");
    }
    plan->kv_tokens = (uint64_t) plan->block_count * costs->block_size;
    plan->total_bytes =
        costs->is_shared ? plan_sum_bytes(plan) : mem_plan_total(plan_widest_rank(plan));
    /* Without a written utilization the budget is what was planned (design.md 7). */
    plan->budget_bytes = budget->utilization > 0 || !plan->fits ? limit.bytes : plan->total_bytes;
    plan->limit_bytes = plan->budget_bytes;
    plan->headroom_bytes =
        plan->budget_bytes > plan->total_bytes ? plan->budget_bytes - plan->total_bytes : 0;
    plan->concurrency = (double) plan->kv_tokens / plan->model_len_max;
}

static enum err check_arguments(const struct backend_options *options,
                                const struct plan_budget *budget, struct err_text *text) {
    if (options->rank_count < 1 || options->rank_count > PLAN_RANKS_MAX)
        return err_set(text, ERR_USAGE, "tensor-parallel-size is %u: expected 1 to %d",
                       options->rank_count, PLAN_RANKS_MAX);
    if (!options->block_size || !options->model_len_max)
        return err_set(text, ERR_USAGE, "%s is 0: expected 1 or more",
                       options->block_size ? "max-model-len" : "block-size");
    if (!(budget->utilization >= 0 && budget->utilization <= 1))
        return err_set(text, ERR_USAGE,
                       "gpu-memory-utilization is %g: expected a share above 0, at most 1",
                       budget->utilization);
    return ERR_OK;
}

enum err plan_make(const struct model_spec *spec, const struct backend *backend,
                   const struct backend_options *options, const struct plan_budget *budget,
                   struct err_text *text, struct plan *out) {
    enum err e = check_arguments(options, budget, text);
    if (e) return e;
    bool is_shared = budget->is_shared || !(budget->utilization > 0);
    struct costs costs = {.rank_count = options->rank_count,
                          .block_size = options->block_size,
                          .is_shared = is_shared};
    /* Half a megabyte of lines, planned again and again: only their counts are cleared. */
    for (uint32_t rank = 0; rank < PLAN_RANKS_MAX; rank++) out->ranks[rank].line_count = 0;
    const size_t rest = offsetof(struct plan, rank_count); /* behind the ranks */
    memset((char *) out + rest, 0, sizeof *out - rest);
    out->rank_count = options->rank_count;
    out->model_len_max = options->model_len_max;
    out->device_bytes = budget->total_bytes;
    out->is_shared = is_shared && options->rank_count > 1;
    collect_costs(spec, backend, options, budget, out, &costs);
    struct limit limit = {budget->available_bytes, "available memory of"};
    if (budget->utilization > 0)
        limit = (struct limit){(uint64_t) floor(budget->utilization * (double) budget->total_bytes),
                               "budget of"};
    choose_blocks(out, backend, &costs, budget, limit);
    finish(out, &costs, budget, limit);
    if (out->fits && budget->utilization > 0 && budget->available_bytes &&
        out->total_bytes > budget->available_bytes) {
        out->fits = false;
        out->limit_bytes = budget->available_bytes;
        find_refusal(backend, &costs, out->limit_bytes, out);
        (void) err_set(
            &out->verdict, ERR_NO_ROOM,
            "%s are planned (gpu-memory-utilization %g of %s) and only %s are available: "
            "set a lower gpu-memory-utilization",
            mem_size(out->total_bytes).text, budget->utilization,
            mem_size(budget->total_bytes).text, mem_size(budget->available_bytes).text);
    }
    return ERR_OK;
}

const struct mem_plan *plan_widest_rank(const struct plan *plan) {
    const struct mem_plan *widest = &plan->ranks[0];
    for (uint32_t rank = 1; rank < plan->rank_count; rank++)
        if (mem_plan_total(&plan->ranks[rank]) > mem_plan_total(widest))
            widest = &plan->ranks[rank];
    return widest;
}

uint64_t plan_sum_bytes(const struct plan *plan) {
    uint64_t bytes = 0;
    for (uint32_t rank = 0; rank < plan->rank_count; rank++)
        bytes += mem_plan_total(&plan->ranks[rank]);
    return bytes;
}
