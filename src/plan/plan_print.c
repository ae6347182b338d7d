/* plan_print - a plan as a person reads it, and as JSON (design.md 9). */
#include <stdio.h>
#include <string.h>

#include "backend/tensor_parallel.h"
#include "base/buf.h"
#include "plan/plan.h"
#include "plan/plan_auto.h"

#define COMPONENT "VllmWorker" /* the classic name of the one component of agg */

static double gib(uint64_t bytes) { return (double) bytes / (1u << 30); }

static const char *const kind_names[] = {
    [MEM_WEIGHTS] = "weights",     [MEM_ACTIVATIONS] = "activations",
    [MEM_WORKSPACE] = "workspace", [MEM_CONTEXT] = "process",
    [MEM_KV] = "kv cache",
};

/* "65,536" */
static void add_grouped(struct buf *out, uint64_t number) {
    char digits[24];
    int count = snprintf(digits, sizeof digits, "%llu", (unsigned long long) number);
    for (int i = 0; i < count; i++) {
        if (i && (count - i) % 3 == 0) buf_add_byte(out, ',');
        buf_add_byte(out, (uint8_t) digits[i]);
    }
}

static void add_verdict(const struct plan *plan, const struct model_spec *spec, struct buf *out) {
    if (!plan->fits) {
        buf_add_format(out, "does not fit: %s: %s\n", COMPONENT, plan->verdict.text);
        return;
    }
    buf_add_format(out, "fits: %s: %.2f GiB, ", spec->name, gib(plan->total_bytes));
    add_grouped(out, plan->kv_tokens);
    buf_add_format(out, " KV tokens: %.1f requests of ", plan->concurrency);
    add_grouped(out, plan->model_len_max);
    buf_add_string(out, " tokens at once\n");
    if (plan->is_len_shrunk)
        buf_add_format(out, "max-model-len was not written and is shrunk to %u of the model's %u\n",
                       plan->model_len_max, spec->context_tokens);
}

static void add_lines(const struct mem_plan *lines, struct buf *out) {
    for (uint32_t i = 0; i < lines->line_count; i++) {
        const struct mem_line *line = &lines->lines[i];
        buf_add_format(out, "  %-32s %-12s %16llu%s\n", line->reason, kind_names[line->kind],
                       (unsigned long long) line->bytes, line->is_estimated ? "  estimated" : "");
    }
}

static uint64_t kind_sum(const struct plan *plan, int kind) {
    uint64_t bytes = 0;
    for (uint32_t rank = 0; rank < plan->rank_count; rank++)
        bytes += mem_plan_kind_total(&plan->ranks[rank], (enum mem_kind) kind);
    return bytes;
}

static void add_row(const struct plan *plan, const char *name, uint64_t rank_bytes,
                    uint64_t sum_bytes, struct buf *out) {
    buf_add_format(out, "%-14s %10.3f", name, gib(rank_bytes));
    if (plan->rank_count > 1) buf_add_format(out, " %10.3f", gib(sum_bytes));
    buf_add_byte(out, '\n');
}

/* One column a rank (the widest) and one of all. */
static void add_table(const struct plan *plan, struct buf *out) {
    const struct mem_plan *widest = plan_widest_rank(plan);
    uint64_t rank_bytes = mem_plan_total(widest);
    if (plan->rank_count > 1)
        buf_add_format(out, "\n%-14s %10s %7u ranks\n", "GiB", "a rank", plan->rank_count);
    else buf_add_format(out, "\n%-14s %10s\n", "buffer", "GiB");
    for (int kind = MEM_WEIGHTS; kind <= MEM_KV; kind++)
        add_row(plan, kind_names[kind], mem_plan_kind_total(widest, (enum mem_kind) kind),
                kind_sum(plan, kind), out);
    add_row(plan, "planned", rank_bytes, plan_sum_bytes(plan), out);
    if (plan->is_shared) { /* the ranks share one budget */
        buf_add_format(out, "%-14s %10s %10.3f\n", "budget", "", gib(plan->budget_bytes));
        buf_add_format(out, "%-14s %10s %10.3f\n", "free", "", gib(plan->headroom_bytes));
        return;
    }
    buf_add_format(out, "%-14s %10.3f\n", "budget", gib(plan->budget_bytes));
    buf_add_format(out, "%-14s %10.3f\n", "free", gib(plan->headroom_bytes));
}

/* numerics.md 3: some degrees give the bits of one rank, others do not. */
static void add_exactness(const struct plan *plan, const struct model_spec *spec, struct buf *out) {
    if (plan->rank_count == 1) return;
    buf_add_format(out, "tensor-parallel-size %u: ", plan->rank_count);
    if (tensor_parallel_is_exact(spec, plan->rank_count)) {
        buf_add_string(out, "the same bits as on one rank\n");
        return;
    }
    buf_add_string(out, "not bitwise the answers of one rank; these are: 1");
    for (uint32_t n = 2; n <= TENSOR_PARALLEL_MAX; n++)
        if (tensor_parallel_is_exact(spec, n)) buf_add_format(out, ", %u", n);
    buf_add_byte(out, '\n');
}

void plan_print(const struct plan *plan, const struct model_spec *spec, bool is_explained,
                struct buf *out) {
    add_verdict(plan, spec, out);
    add_table(plan, out);
    buf_add_format(out, "\n%u blocks of %llu bytes, %llu bytes a token\n", plan->block_count,
                   (unsigned long long) plan->block_bytes,
                   (unsigned long long) (plan->kv_tokens ? plan->block_bytes * plan->block_count /
                                                               plan->kv_tokens
                                                         : 0));
    add_exactness(plan, spec, out);
    if (!is_explained) return;
    for (uint32_t rank = 0; rank < plan->rank_count; rank++) {
        buf_add_format(out, "\nrank %u: %-24s %-12s %16s\n", rank, "buffer", "kind", "bytes");
        add_lines(&plan->ranks[rank], out);
        buf_add_format(out, "  %-32s %-12s %16llu\n", "total", "",
                       (unsigned long long) mem_plan_total(&plan->ranks[rank]));
    }
}

static void add_field(struct buf *out, const char *name, uint64_t value) {
    buf_add_format(out, ",\"%s\":%llu", name, (unsigned long long) value);
}

void plan_print_json(const struct plan *plan, const struct model_spec *spec,
                     const struct plan_auto_fit *fit, struct buf *out) {
    const struct mem_plan *widest = plan_widest_rank(plan);
    buf_add_format(out,
                   "{\"fits\":%s,\"components\":[{\"name\":\"" COMPONENT "\",\"replicas\":1,"
                   "\"tensor_parallel\":%u,\"devices\":[[",
                   plan->fits ? "true" : "false", plan->rank_count);
    for (uint32_t rank = 0; rank < plan->rank_count; rank++)
        buf_add_format(out, "%s%u", rank ? "," : "", rank);
    buf_add_format(out, "]],\"per_device\":{\"total_bytes\":%llu",
                   (unsigned long long) plan->device_bytes);
    /* A rank's part of a shared budget is what it plans and what is free. */
    add_field(out, "budget_bytes",
              plan->is_shared ? mem_plan_total(widest) + plan->headroom_bytes : plan->budget_bytes);
    add_field(out, "weights_bytes", mem_plan_kind_total(widest, MEM_WEIGHTS));
    add_field(out, "activations_bytes", mem_plan_kind_total(widest, MEM_ACTIVATIONS));
    add_field(out, "workspace_bytes", mem_plan_kind_total(widest, MEM_WORKSPACE));
    add_field(out, "context_bytes", mem_plan_kind_total(widest, MEM_CONTEXT));
    add_field(out, "kv_bytes", mem_plan_kind_total(widest, MEM_KV));
    add_field(out, "kv_blocks", plan->block_count);
    add_field(out, "kv_tokens", plan->kv_tokens);
    add_field(out, "headroom_bytes", plan->headroom_bytes);
    buf_add_format(out, "},\"max_concurrency\":%.4f", plan->concurrency);
    if (fit) {
        buf_add_string(out, ",\"would_fit\":");
        plan_auto_print_fit_json(fit, out);
    }
    buf_add_string(out, "}],\"problems\":[");
    bool has_problem = false;
    if (!plan->fits) {
        buf_add_string(
            out, "{\"severity\":\"error\",\"code\":\"does-not-fit\",\"component\":\"" COMPONENT
                 "\",\"message\":\"");
        buf_add_json_escaped(out, plan->verdict.text, strlen(plan->verdict.text));
        buf_add_string(out, "\"}");
        has_problem = true;
    } else if (plan->is_len_shrunk) {
        buf_add_format(out,
                       "{\"severity\":\"note\",\"code\":\"len-shrunk\",\"component\":\"" COMPONENT
                       "\",\"key\":\"max-model-len\",\"message\":\"shrunk to %u\"}",
                       plan->model_len_max);
        has_problem = true;
    }
    if (plan->rank_count > 1 && !tensor_parallel_is_exact(spec, plan->rank_count))
        buf_add_format(
            out,
            "%s{\"severity\":\"note\",\"code\":\"not-bitwise\",\"component\":\"" COMPONENT
            "\",\"key\":\"tensor-parallel-size\",\"message\":\"not bitwise the answers of "
            "one rank\"}",
            has_problem ? "," : "");
    buf_add_string(out, "]}\n");
}
