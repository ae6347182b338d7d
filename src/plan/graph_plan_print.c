/* graph_plan_print - a graph's plan as a person reads it (80 columns), and as JSON. */
#include <stdio.h>
#include <string.h>

#include "backend/tensor_parallel.h"
#include "base/buf.h"
#include "base/num.h"
#include "plan/graph_plan.h"

static double gib(uint64_t bytes) { return (double) bytes / (1u << 30); }

static void add_grouped(struct buf *out, uint64_t number, int width) {
    char digits[24], grouped[32];
    int count = snprintf(digits, sizeof digits, "%llu", (unsigned long long) number), at = 0;
    for (int i = 0; i < count; i++) {
        if (i && (count - i) % 3 == 0) grouped[at++] = ',';
        grouped[at++] = digits[i];
    }
    grouped[at] = '\0';
    buf_add_format(out, "%*s", width, grouped);
}

static const struct mem_plan *widest_rank(const struct plan *plan) {
    const struct mem_plan *widest = &plan->ranks[0];
    for (uint32_t rank = 1; rank < plan->rank_count; rank++)
        if (mem_plan_total(&plan->ranks[rank]) > mem_plan_total(widest))
            widest = &plan->ranks[rank];
    return widest;
}

/* --- the verdict ---------------------------------------------------------------------------- */

static void add_verdict(const struct graph_plan *plan, struct buf *out) {
    if (plan->fits) {
        buf_add_string(out, "fits");
        for (uint32_t i = 0; i < plan->component_count; i++) {
            const struct graph_plan_component *component = &plan->components[i];
            buf_add_format(out, "%s %s: %.1f requests of ", i ? "," : ":",
                           graph_section_name(component->section), component->plan->concurrency);
            add_grouped(out, component->plan->model_len_max, 0);
        }
        buf_add_byte(out, '\n');
        return;
    }
    const char *lead = "does not fit: ";
    for (uint32_t i = 0; i < plan->component_count; i++) {
        const struct graph_plan_component *component = &plan->components[i];
        const char *name = graph_section_name(component->section);
        if (!component->plan)
            buf_add_format(out, "%s%s: %s\n", "not planned: ", name,
                           component->why.text[0] ? component->why.text : "no model is given");
        else if (!component->plan->fits)
            buf_add_format(out, "%s%s %s%s%s\n", lead, name, component->verdict.text,
                           component->advice.text[0] ? "; " : "", component->advice.text);
    }
    if (plan->device_count && !plan->has_place)
        buf_add_format(out, "%s%s\n", lead, plan->place_text.text);
}

/* --- the table ------------------------------------------------------------------------------ */

/* "0-3,8": the devices of a component. */
static void add_devices(const struct graph_plan *plan, uint32_t index, char *text, size_t room) {
    bool taken[DEVICE_LIST_MAX] = {false};
    size_t at = 0;
    for (uint32_t g = 0; plan->has_place && g < plan->place.group_count; g++)
        for (uint32_t i = 0;
             plan->place.groups[g].request == index && i < plan->place.groups[g].count; i++)
            taken[plan->place.devices[plan->place.groups[g].first + i]] = true;
    for (uint32_t i = 0; i < plan->device_count; i++) {
        if (!taken[i]) continue;
        uint32_t last = i;
        while (last + 1 < plan->device_count && taken[last + 1]) last++;
        char part[32];
        int bytes = last == i ? snprintf(part, sizeof part, "%s%u", at ? "," : "", i)
                              : snprintf(part, sizeof part, "%s%u-%u", at ? "," : "", i, last);
        if (at + (size_t) bytes + 4 >= room) {
            at += (size_t) snprintf(text + at, room - at, "...");
            break;
        }
        at += (size_t) snprintf(text + at, room - at, "%s", part);
        i = last;
    }
    if (!at) snprintf(text, room, "-");
}

/* Ten cells: # weights, + the rest, = KV, . free. */
static void add_bar(const struct plan *plan, uint64_t weights, uint64_t other, uint64_t kv,
                    struct buf *out) {
    double total = (double) num_max(plan->device_bytes, 1);
    for (int i = 0; i < 10; i++) {
        double at = (i + 0.5) / 10 * total;
        char cell = at < (double) weights                  ? '#'
                    : at < (double) (weights + other)      ? '+'
                    : at < (double) (weights + other + kv) ? '='
                                                           : '.';
        buf_add_byte(out, (uint8_t) cell);
    }
}

static void add_row(const struct graph_plan *plan, uint32_t index, struct buf *out) {
    const struct graph_plan_component *component = &plan->components[index];
    char workers[24], devices[64];
    snprintf(workers, sizeof workers, "%ux%u", component->replica_count,
             component->tensor_parallel);
    add_devices(plan, index, devices, 12);
    buf_add_format(out, "%-14s%-6s%-9s", graph_section_name(component->section), workers, devices);
    if (!component->plan) {
        buf_add_string(out, "  not planned\n");
        return;
    }
    const struct plan *one = component->plan;
    const struct mem_plan *rank = widest_rank(one);
    uint64_t weights = mem_plan_kind_total(rank, MEM_WEIGHTS);
    uint64_t kv = mem_plan_kind_total(rank, MEM_KV);
    uint64_t total = mem_plan_total(rank), other = total - weights - kv;
    buf_add_format(out, "%7.2f%7.2f%7.2f", gib(weights), gib(other), gib(kv));
    if (total <= one->device_bytes) buf_add_format(out, "%7.2f", gib(one->device_bytes - total));
    else buf_add_format(out, "%7.2f", -gib(total - one->device_bytes));
    add_grouped(out, one->kv_tokens, 12);
    buf_add_format(out, "%7.1f", one->concurrency);
    buf_add_byte(out, '\n');
    buf_add_format(out, "%-29s", "");
    buf_add_byte(out, '[');
    add_bar(one, weights, other, kv, out);
    buf_add_format(out, "] of %.2f GiB", gib(one->device_bytes));
    if (component->budget.utilization > 0)
        buf_add_format(out, ", budget %.2f (%.2g)", gib(one->budget_bytes),
                       component->budget.utilization);
    buf_add_byte(out, '\n');
}

static void add_idle(const struct graph_plan *plan, struct buf *out) {
    if (!plan->device_count || !plan->has_place) return;
    uint32_t idle = plan->place.idle_count, used_by_all = 0;
    for (uint32_t i = 0; i < plan->component_count; i++)
        used_by_all += plan->components[i].devices_asked;
    if (!idle) {
        buf_add_format(out, "all %u devices are in use\n", plan->device_count);
        return;
    }
    buf_add_format(out, "%u of %u idle", idle, plan->device_count);
    uint32_t rounds = used_by_all ? idle / used_by_all : 0;
    if (rounds) {
        buf_add_string(out, ": workers ");
        for (uint32_t i = 0; i < plan->component_count; i++)
            buf_add_format(out, "%s%u", i ? "+" : "", plan->components[i].replica_count + rounds);
        buf_add_string(out, " would use them");
    }
    buf_add_byte(out, '\n');
}

/* What else would do: the fewest ranks, and the longest request. */
static void add_room(const struct graph_plan_component *component, struct buf *out) {
    uint32_t fewest = 0;
    for (uint32_t ranks = 1; ranks <= component->tensor_parallel && !fewest; ranks++)
        if (tensor_parallel_is_legal(&component->model.spec, ranks) &&
            graph_plan_try(component, ranks, 0, 0, NULL))
            fewest = ranks;
    if (!fewest) return;
    uint64_t longest = num_min(component->plan->kv_tokens, component->model.spec.context_tokens);
    buf_add_format(out, "%s: smallest tensor-parallel-size %u, largest max-model-len ",
                   graph_section_name(component->section), fewest);
    add_grouped(out, longest, 0);
    buf_add_byte(out, '\n');
}

static void add_limit(const struct graph_plan *plan, struct buf *out) {
    const struct graph_plan_component *tightest = NULL;
    for (uint32_t i = 0; i < plan->component_count; i++) {
        const struct graph_plan_component *component = &plan->components[i];
        if (!component->plan) return;
        if (!tightest || component->plan->concurrency < tightest->plan->concurrency)
            tightest = component;
    }
    if (!tightest || !plan->fits) return;
    const struct plan *one = tightest->plan;
    buf_add_format(out, "binding limit: KV room of %s, ", graph_section_name(tightest->section));
    add_grouped(out, one->block_bytes * one->block_count / num_max(one->kv_tokens, 1), 0);
    buf_add_string(out, " bytes a token and rank\n");
    if (!(tightest->budget.utilization > 0)) return;
    static const double shares[] = {0.5, 0.8, 0.9, 0.95};
    buf_add_string(out, "KV tokens at utilization");
    for (size_t i = 0; i < ARRAY_COUNT(shares); i++) {
        uint64_t tokens = 0;
        if (graph_plan_try(tightest, 0, shares[i], 0, &tokens)) {
            buf_add_format(out, " %.2g: ", shares[i]);
            add_grouped(out, tokens, 0);
        } else {
            buf_add_format(out, " %.2g: none", shares[i]);
        }
        if (i + 1 < ARRAY_COUNT(shares)) buf_add_byte(out, ';');
    }
    buf_add_byte(out, '\n');
}

static void add_explanation(const struct graph_plan_component *component, struct buf *out) {
    static const char *const kinds[] = {[MEM_WEIGHTS] = "weights",
                                        [MEM_ACTIVATIONS] = "activations",
                                        [MEM_WORKSPACE] = "workspace",
                                        [MEM_CONTEXT] = "context",
                                        [MEM_KV] = "kv cache"};
    for (uint32_t r = 0; component->plan && r < component->plan->rank_count; r++) {
        const struct mem_plan *rank = &component->plan->ranks[r];
        buf_add_format(out, "\n%s, rank %u\n", graph_section_name(component->section), r);
        for (uint32_t i = 0; i < rank->line_count; i++)
            buf_add_format(out, "  %-32s %-12s %16llu%s\n", rank->lines[i].reason,
                           kinds[rank->lines[i].kind], (unsigned long long) rank->lines[i].bytes,
                           rank->lines[i].is_estimated ? "  estimated" : "");
        buf_add_format(out, "  %-32s %-12s %16llu\n", "total", "",
                       (unsigned long long) mem_plan_total(rank));
    }
}

void graph_plan_print(const struct graph_plan *plan, bool is_explained, struct buf *out) {
    add_verdict(plan, out);
    buf_add_format(out, "\n%-14s%-6s%-9s%7s%7s%7s%7s%12s%7s\n", "component", "nxTP", "devices",
                   "weights", "other", "KV", "free", "KV tokens", "full");
    for (uint32_t i = 0; i < plan->component_count; i++) add_row(plan, i, out);
    buf_add_string(out, "GiB a device; full: requests of max-model-len; "
                        "# weights + other = KV . free\n");
    bool has_estimates = plan->component_count && !plan->components[0].is_cpu;
    if (has_estimates) buf_add_string(out, "context and graphs of a card are estimated\n");
    add_idle(plan, out);
    for (uint32_t i = 0; plan->fits && i < plan->component_count; i++)
        if (plan->components[i].budget.utilization > 0) add_room(&plan->components[i], out);
    add_limit(plan, out);
    for (uint32_t i = 0; is_explained && i < plan->component_count; i++)
        add_explanation(&plan->components[i], out);
}

/* --- JSON ----------------------------------------------------------------------------------- */

static void add_field(struct buf *out, const char *name, uint64_t value) {
    buf_add_format(out, "\"%s\":%llu,", name, (unsigned long long) value);
}

static void add_groups(const struct graph_plan *plan, uint32_t index, struct buf *out) {
    bool is_first = true;
    buf_add_byte(out, '[');
    for (uint32_t g = 0; plan->has_place && g < plan->place.group_count; g++) {
        const struct place_group *group = &plan->place.groups[g];
        if (group->request != index) continue;
        buf_add_string(out, is_first ? "[" : ",[");
        is_first = false;
        uint32_t ranks = plan->components[index].tensor_parallel;
        for (uint32_t i = 0; i < group->count && i < ranks; i++)
            buf_add_format(out, "%s%u", i ? "," : "", plan->place.devices[group->first + i]);
        buf_add_byte(out, ']');
    }
    buf_add_byte(out, ']');
}

static void add_component(const struct graph_plan *plan, uint32_t index, struct buf *out) {
    const struct graph_plan_component *component = &plan->components[index];
    buf_add_format(out, "{\"name\":\"%s\",\"replicas\":%u,\"tensor_parallel\":%u,\"devices\":",
                   graph_section_name(component->section), component->replica_count,
                   component->tensor_parallel);
    add_groups(plan, index, out);
    const struct plan *one = component->plan;
    if (!one) {
        buf_add_string(out, ",\"per_device\":null,\"max_concurrency\":null}");
        return;
    }
    const struct mem_plan *rank = widest_rank(one);
    buf_add_string(out, ",\"per_device\":{");
    add_field(out, "total_bytes", one->device_bytes);
    add_field(out, "budget_bytes", one->budget_bytes);
    add_field(out, "weights_bytes", mem_plan_kind_total(rank, MEM_WEIGHTS));
    add_field(out, "activations_bytes", mem_plan_kind_total(rank, MEM_ACTIVATIONS));
    add_field(out, "workspace_bytes", mem_plan_kind_total(rank, MEM_WORKSPACE));
    add_field(out, "context_bytes", mem_plan_kind_total(rank, MEM_CONTEXT));
    add_field(out, "kv_bytes", mem_plan_kind_total(rank, MEM_KV));
    add_field(out, "kv_blocks", one->block_count);
    add_field(out, "kv_tokens", one->kv_tokens);
    buf_add_format(out, "\"headroom_bytes\":%llu},\"max_concurrency\":%.4f}",
                   (unsigned long long) one->headroom_bytes, one->concurrency);
}

void graph_plan_print_json(const struct graph_plan *plan, const struct problem_list *problems,
                           struct buf *out) {
    buf_add_format(out, "{\"fits\":%s,\"components\":[", plan->fits ? "true" : "false");
    for (uint32_t i = 0; i < plan->component_count; i++) {
        if (i) buf_add_byte(out, ',');
        add_component(plan, i, out);
    }
    buf_add_string(out, "],\"problems\":");
    problem_print_json_items(problems, out);
    buf_add_string(out, "}\n");
}
