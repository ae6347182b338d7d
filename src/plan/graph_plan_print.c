/* graph_plan_print - a graph's plan as a person reads it (80 columns), and as JSON. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/num.h"
#include "plan/graph_plan.h"
#include "plan/plan_auto.h"
#include "plan/plan_suggest.h"

#define BAR_CELLS 20

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
        const char *path = component->model.name;
        if (component->plan && component->plan->fits) continue;
        if (component->model.source == PLAN_MODEL_UNKNOWN && path)
            buf_add_format(out,
                           "not planned: %s: no model '%.80s' is known here; give --shape "
                           "'%.80s=NAME'\n",
                           name, path, path);
        else if (!component->plan)
            buf_add_format(out, "not planned: %s: %s\n", name,
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

/* "8 x A100-40GB [########++====|...] of 39.39 GiB, budget 31.51 (0.8)": what each of the
 * component's devices holds, the same on all of them. */
static void add_bar(const struct graph_plan_component *component, bool has_colour,
                    struct buf *out) {
    static const char *const colours[] = {"34", "33", "32", "2"};
    static const char marks[] = "#+=.";
    const struct plan *plan = component->plan;
    const struct mem_plan *rank = plan_widest_rank(plan);
    uint64_t weights = mem_plan_kind_total(rank, MEM_WEIGHTS);
    uint64_t kv = mem_plan_kind_total(rank, MEM_KV), all = mem_plan_total(rank);
    double total = (double) num_max(plan->device_bytes, 1);
    double ends[] = {(double) weights, (double) (all - kv), (double) all, INFINITY};
    int before = -1;
    char name[40];
    snprintf(name, sizeof name, "%u x %.24s%s", component->replica_count * component->devices_asked,
             component->device_name, component->is_mixed ? " and up" : "");
    buf_add_format(out, "  %-19.19s [", name);
    for (int i = 0; i < BAR_CELLS; i++) {
        double at = (i + 0.5) / BAR_CELLS * total;
        int part = 0;
        while (at >= ends[part]) part++;
        if (has_colour && part != before) buf_add_format(out, "\033[0;%sm", colours[part]);
        before = part;
        buf_add_byte(out, (uint8_t) marks[part]);
    }
    buf_add_format(out, "%s] of %.2f GiB", has_colour ? "\033[0m" : "", gib(plan->device_bytes));
    if (component->budget.utilization > 0)
        buf_add_format(out, ", budget %.2f (%.2g)", gib(plan->budget_bytes),
                       component->budget.utilization);
    buf_add_byte(out, '\n');
}

static void add_row(const struct graph_plan *plan, uint32_t index, bool has_colour,
                    struct buf *out) {
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
    const struct mem_plan *rank = plan_widest_rank(one);
    uint64_t weights = mem_plan_kind_total(rank, MEM_WEIGHTS);
    uint64_t kv = mem_plan_kind_total(rank, MEM_KV);
    uint64_t total = mem_plan_total(rank), other = total - weights - kv;
    buf_add_format(out, "%7.2f%7.2f%7.2f", gib(weights), gib(other), gib(kv));
    if (total <= one->device_bytes) buf_add_format(out, "%7.2f", gib(one->device_bytes - total));
    else buf_add_format(out, "%7.2f", -gib(total - one->device_bytes));
    add_grouped(out, one->kv_tokens, 12);
    buf_add_format(out, "%7.1f", one->concurrency);
    buf_add_byte(out, '\n');
    add_bar(component, has_colour, out);
}

static void add_idle(const struct graph_plan *plan, struct buf *out) {
    if (!plan->device_count || !plan->has_place) return;
    uint32_t idle = plan->place.idle_count, more = 0;
    if (!idle) {
        buf_add_format(out, "all %u devices are in use\n", plan->device_count);
        return;
    }
    buf_add_format(out, "%u of %u idle", idle, plan->device_count);
    for (uint32_t i = 0; i < plan->component_count; i++) more += plan->more_workers[i];
    if (more) buf_add_string(out, ": workers ");
    for (uint32_t i = 0; more && i < plan->component_count; i++) {
        idle -= plan->more_workers[i] * plan->components[i].devices_asked;
        buf_add_format(out, "%s%u", i ? "+" : "",
                       plan->components[i].replica_count + plan->more_workers[i]);
    }
    if (more && !idle) buf_add_string(out, " would use them");
    else if (more) buf_add_format(out, " would use all but %u", idle);
    buf_add_byte(out, '\n');
}

/* "8192", "39k", "1.2M": at most four letters; never more than there is. */
static void short_number(uint64_t number, char *out, size_t room) {
    double value = (double) number;
    if (number < 10000) snprintf(out, room, "%llu", (unsigned long long) number);
    else if (number < 1000000) snprintf(out, room, "%.0fk", floor(value / 1e3));
    else if (number < 10000000) snprintf(out, room, "%.1fM", floor(value / 1e5) / 10);
    else snprintf(out, room, "%.0fM", floor(value / 1e6));
}

static void add_shares(const struct graph_plan *plan, const struct plan_auto_fit *fits,
                       struct buf *out) {
    bool has_shares = false, has_mark = false;
    for (uint32_t i = 0; i < plan->component_count; i++) has_shares |= fits[i].has_shares;
    if (!has_shares) return;
    buf_add_format(out, "%-14s", "KV tokens at");
    for (uint32_t k = 0; k < PLAN_AUTO_SHARES; k++)
        buf_add_format(out, "%6.2f", plan_auto_share(k));
    buf_add_byte(out, '\n');
    for (uint32_t i = 0; i < plan->component_count; i++) {
        if (!fits[i].has_shares) continue;
        buf_add_format(out, "%-14s", graph_section_name(plan->components[i].section));
        for (uint32_t k = 0; k < PLAN_AUTO_SHARES; k++) {
            char text[16] = "-";
            if (fits[i].kv_tokens[k]) short_number(fits[i].kv_tokens[k], text, sizeof text);
            bool is_marked = fits[i].kv_tokens[k] && !fits[i].holds[k];
            has_mark |= is_marked;
            buf_add_format(out, is_marked ? "%5s!" : "%6s", text);
        }
        buf_add_byte(out, '\n');
    }
    if (has_mark)
        buf_add_string(out, "!: holds no request of max-model-len, or is more than is free\n");
}

static void add_or_none(struct buf *out, uint32_t number, int width) {
    if (number) add_grouped(out, number, width);
    else buf_add_format(out, "%*s", width, "none");
}

/* What else would do, each value with all others as they are. */
static enum err add_fit(const struct graph_plan *plan, struct buf *out) {
    struct plan_auto_fit fits[GRAPH_PLAN_COMPONENTS_MAX] = {0};
    bool is_first = true;
    for (uint32_t i = 0; i < plan->component_count; i++) {
        const struct graph_plan_component *component = &plan->components[i];
        if (!component->plan) continue;
        enum err e = plan_auto_fit(component, &fits[i]);
        if (e) return e;
        if (is_first)
            buf_add_format(out, "%-14s%15s%16s%25s\n", "would fit", "smallest TP", "max-model-len",
                           "max-num-batched-tokens");
        is_first = false;
        buf_add_format(out, "%-14s", graph_section_name(component->section));
        add_or_none(out, fits[i].tensor_parallel_min, 15);
        add_or_none(out, fits[i].model_len_max, 16);
        add_or_none(out, fits[i].batched_tokens_max, 25);
        buf_add_byte(out, '\n');
    }
    add_shares(plan, fits, out);
    return ERR_OK;
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

void graph_plan_print(const struct graph_plan *plan, const struct graph_plan_style *style,
                      struct buf *out) {
    add_verdict(plan, out);
    buf_add_format(out, "\n%-14s%-6s%-9s%7s%7s%7s%7s%12s%7s\n", "component", "nxTP", "devices",
                   "weights", "other", "KV", "free", "KV tokens", "full");
    for (uint32_t i = 0; i < plan->component_count; i++) add_row(plan, i, style->has_colour, out);
    bool has_estimates = plan->component_count && !plan->components[0].is_cpu;
    buf_add_format(out, "GiB a device; full: requests of max-model-len%s\n",
                   has_estimates ? "; context and graphs estimated" : "");
    for (uint32_t i = 0; i < plan->component_count; i++)
        if (plan->components[i].is_model_borrowed)
            buf_add_format(out, "%s.model is not known: planned with the other workers' model\n",
                           graph_section_name(plan->components[i].section));
    for (uint32_t i = 0; i < plan->component_count; i++)
        if (graph_plan_is_inexact(&plan->components[i]))
            buf_add_format(out, "%s: TP %u gives not bitwise the answers of one rank\n",
                           graph_section_name(plan->components[i].section),
                           plan->components[i].tensor_parallel);
    add_idle(plan, out);
    add_limit(plan, out);
    if (add_fit(plan, out)) buf_add_string(out, "out of memory\n");
    for (uint32_t i = 0; style->is_explained && i < plan->component_count; i++)
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

static void add_fit_json(const struct graph_plan_component *component, struct buf *out) {
    struct plan_auto_fit fit;
    if (plan_auto_fit(component, &fit)) return;
    buf_add_string(out, ",\"would_fit\":");
    plan_auto_print_fit_json(&fit, out);
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
    const struct mem_plan *rank = plan_widest_rank(one);
    buf_add_string(out, ",\"per_device\":{");
    add_field(out, "total_bytes", one->device_bytes);
    /* A rank's part of a shared budget is what it plans and what is free. */
    add_field(out, "budget_bytes",
              one->is_shared ? mem_plan_total(rank) + one->headroom_bytes : one->budget_bytes);
    add_field(out, "weights_bytes", mem_plan_kind_total(rank, MEM_WEIGHTS));
    add_field(out, "activations_bytes", mem_plan_kind_total(rank, MEM_ACTIVATIONS));
    add_field(out, "workspace_bytes", mem_plan_kind_total(rank, MEM_WORKSPACE));
    add_field(out, "context_bytes", mem_plan_kind_total(rank, MEM_CONTEXT));
    add_field(out, "kv_bytes", mem_plan_kind_total(rank, MEM_KV));
    add_field(out, "kv_blocks", one->block_count);
    add_field(out, "kv_tokens", one->kv_tokens);
    buf_add_format(out, "\"headroom_bytes\":%llu},\"max_concurrency\":%.4f",
                   (unsigned long long) one->headroom_bytes, one->concurrency);
    add_fit_json(component, out);
    buf_add_byte(out, '}');
}

void graph_plan_print_json(const struct graph_plan *plan, const struct problem_list *problems,
                           const struct plan_suggest *suggest, struct buf *out) {
    buf_add_format(out, "{\"fits\":%s,\"components\":[", plan->fits ? "true" : "false");
    for (uint32_t i = 0; i < plan->component_count; i++) {
        if (i) buf_add_byte(out, ',');
        add_component(plan, i, out);
    }
    buf_add_string(out, "],\"problems\":");
    problem_print_json_items(problems, out);
    if (plan->has_place) buf_add_format(out, ",\"idle_devices\":%u", plan->place.idle_count);
    if (suggest) {
        buf_add_string(out, ",\"prediction\":");
        plan_suggest_print_json(suggest, out);
    }
    buf_add_string(out, "}\n");
}
