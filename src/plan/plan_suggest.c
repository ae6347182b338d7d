/* plan_suggest - see plan_suggest.h. */
#include "plan/plan_suggest.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backend/tensor_parallel.h"
#include "base/alloc.h"
#include "base/num.h"

#define LOAD_SHARE 0.8 /* without a concurrency: beyond that, waiting grows without bound */
#define BISECTIONS 20  /* a millionth of the rate */
#define NEAR 1.01      /* rates that are no difference: fewer devices win */
#define DEGREES_MAX TENSOR_PARALLEL_MAX
#define KEPT_MAX 256 /* best layouts by kind and degrees */

/* One degree of one component, planned. */
struct degree {
    uint32_t ranks; /* 0: does not fit */
    uint64_t kv_tokens;
    struct plan_predict_model model;
    struct plan_predict_prompt prompt;
    struct plan_predict_step step; /* at the mean depth of an answer */
};

struct side {
    const struct graph_plan_component *component;
    struct degree degrees[DEGREES_MAX + 1]; /* by ranks */
    uint32_t widest;
};

struct suggester {
    const struct graph_plan *plan;
    struct graph_plan_component components[GRAPH_PLAN_COMPONENTS_MAX]; /* on the smallest device */
    const struct plan_suggest_load *load;
    struct plan_predict_rates rates;
    struct side decode, prefill, agg;
    uint32_t node_count, node_devices;
    struct plan_suggest_layout kept[KEPT_MAX];
    uint32_t kept_count;
};

/* --- one layout --------------------------------------------------------------------------- */

/* A layout at a rate of requests. */
struct point {
    double ttft_s, itl_s, sequences;
};

static const struct degree *degree_of(const struct side *side, struct plan_suggest_workers of) {
    return &side->degrees[of.ranks];
}

/* What a request meets of all the work under way: not its own. */
static double others_share(const struct suggester *s) {
    return s->load->concurrency ? 1 - 1.0 / s->load->concurrency : 1;
}

/* Mean wait of a queue with `servers` that each take service_s: random arrivals, equal work. */
static double wait_s(const struct suggester *s, double use, double service_s, double servers) {
    if (use >= 1) return INFINITY;
    double wait = others_share(s) * use / (2 * (1 - use)) * service_s / servers;
    if (!s->load->concurrency) return wait;
    return fmin(wait, (s->load->concurrency - 1.0) * service_s / servers);
}

static double sequences_max(const struct suggester *s, const struct degree *degree,
                            const struct side *side, const char **limit) {
    double tokens = (double) s->load->input_tokens + s->load->output_tokens;
    double of_kv = (double) degree->kv_tokens / tokens;
    double seats = side->component->options.seat_count;
    *limit = of_kv < seats ? "KV room" : "max-num-seqs";
    return fmin(of_kv, seats);
}

/* A worker that does both: a share x shared_s of its time goes to prompts. */
static bool at_rate_agg(const struct suggester *s, const struct plan_suggest_layout *layout,
                        double rate, struct point *out) {
    const struct degree *degree = degree_of(&s->agg, layout->decode);
    double x = rate / layout->decode.count, tokens = s->load->output_tokens;
    double use = x * degree->prompt.shared_s;
    if (use >= 1) return false;
    double rest = 1 - use * others_share(s) - x * tokens * degree->step.each_s;
    if (rest <= 0) return false;
    double chunks = fmax(1, ceil((double) s->load->input_tokens / degree->model.step_tokens));
    out->sequences = x * tokens * degree->step.base_s / rest;
    out->itl_s = out->sequences / (x * tokens);
    /* The answers under way ride in each step of the prompt. */
    out->ttft_s = degree->prompt.latency_s + chunks * out->sequences * degree->step.each_s +
                  wait_s(s, use, degree->prompt.alone_s, 1);
    return true;
}

static bool at_rate_disagg(const struct suggester *s, const struct plan_suggest_layout *layout,
                           double rate, struct point *out) {
    const struct degree *p = degree_of(&s->prefill, layout->prefill);
    const struct degree *d = degree_of(&s->decode, layout->decode);
    double x = rate / layout->decode.count, tokens = s->load->output_tokens;
    double rest = 1 - x * tokens * d->step.each_s;
    double use = rate * p->prompt.alone_s / layout->prefill.count;
    if (rest <= 0 || use >= 1) return false;
    uint32_t lanes = (uint32_t) num_min(p->ranks, d->ranks);
    bool crosses = layout->device_count > s->node_devices;
    out->sequences = x * tokens * d->step.base_s / rest;
    out->itl_s = d->step.base_s + out->sequences * d->step.each_s;
    out->ttft_s = p->prompt.latency_s + wait_s(s, use, p->prompt.alone_s, layout->prefill.count) +
                  plan_predict_handoff_s(&d->model, &s->rates, lanes, s->load->input_tokens,
                                         p->prompt.alone_s, crosses) +
                  out->itl_s; /* decode computes the prompt's last token */
    return true;
}

static bool at_rate(const struct suggester *s, const struct plan_suggest_layout *layout,
                    double rate, struct point *out) {
    return layout->is_disagg ? at_rate_disagg(s, layout, rate, out)
                             : at_rate_agg(s, layout, rate, out);
}

/* Requests a second at most, and what stops it there. */
static double capacity(const struct suggester *s, struct plan_suggest_layout *layout) {
    const struct side *side = layout->is_disagg ? &s->decode : &s->agg;
    const struct degree *d = degree_of(side, layout->decode);
    double most = sequences_max(s, d, side, &layout->limit), tokens = s->load->output_tokens;
    double of_one = most / (tokens * (d->step.base_s + most * d->step.each_s) +
                            (layout->is_disagg ? 0 : most * d->prompt.shared_s));
    double rate = of_one * layout->decode.count;
    if (!layout->is_disagg) return rate;
    const struct degree *p = degree_of(&s->prefill, layout->prefill);
    double prompts = layout->prefill.count / p->prompt.alone_s;
    if (prompts >= rate) return rate;
    layout->limit = "prefill";
    return prompts;
}

static bool is_within(const struct suggester *s, const struct plan_suggest_layout *layout,
                      double rate, bool has_targets) {
    const struct plan_suggest_load *load = s->load;
    struct point point;
    if (!at_rate(s, layout, rate, &point)) return false;
    if (has_targets && load->ttft_s > 0 && point.ttft_s > load->ttft_s) return false;
    if (has_targets && load->itl_s > 0 && point.itl_s > load->itl_s) return false;
    double under_way = rate * (point.ttft_s + load->output_tokens * point.itl_s);
    return !load->concurrency || under_way <= load->concurrency;
}

/* The highest rate within the bounds: every one of them grows with the rate. */
static double highest(const struct suggester *s, const struct plan_suggest_layout *layout,
                      double most, bool has_targets) {
    if (is_within(s, layout, most, has_targets)) return most;
    double low = 0, high = most;
    for (int i = 0; i < BISECTIONS; i++) {
        double middle = (low + high) / 2;
        if (is_within(s, layout, middle, has_targets)) low = middle;
        else high = middle;
    }
    return low;
}

/* Fills what is predicted; false: it cannot run at all. */
static bool judge(const struct suggester *s, struct plan_suggest_layout *layout) {
    double most = capacity(s, layout) * (s->load->concurrency ? 1 - 1e-6 : LOAD_SHARE);
    double rate = highest(s, layout, most, true);
    layout->meets = rate > most / (1 << (BISECTIONS - 1));
    if (!layout->meets) rate = highest(s, layout, most, false);
    struct point point;
    if (!(rate > 0) || !at_rate(s, layout, rate, &point)) return false;
    if (rate < 0.99 * most && layout->meets) {
        bool is_free = is_within(s, layout, rate * 1.01, false);
        layout->limit = is_free ? "target" : "concurrency";
    }
    layout->ttft_s = point.ttft_s;
    layout->itl_s = point.itl_s;
    layout->sequences = point.sequences;
    layout->requests_per_s = rate;
    layout->output_tokens_per_s = rate * s->load->output_tokens;
    return true;
}

/* --- which are better --------------------------------------------------------------------- */

static bool is_better(const struct plan_suggest_layout *a, const struct plan_suggest_layout *b) {
    if (a->meets != b->meets) return a->meets;
    if (a->output_tokens_per_s > NEAR * b->output_tokens_per_s) return true;
    if (b->output_tokens_per_s > NEAR * a->output_tokens_per_s) return false;
    if (a->device_count != b->device_count) return a->device_count < b->device_count;
    return a->itl_s + a->ttft_s / 100 < b->itl_s + b->ttft_s / 100;
}

/* One of each kind and pair of degrees is kept: neighbours in number differ by little. */
static void keep(struct suggester *s, const struct plan_suggest_layout *layout) {
    for (uint32_t i = 0; i < s->kept_count; i++) {
        struct plan_suggest_layout *kept = &s->kept[i];
        if (kept->is_disagg != layout->is_disagg || kept->decode.ranks != layout->decode.ranks ||
            kept->prefill.ranks != layout->prefill.ranks)
            continue;
        if (is_better(layout, kept)) *kept = *layout;
        return;
    }
    if (s->kept_count < KEPT_MAX) s->kept[s->kept_count++] = *layout;
}

/* Groups of `small` that fit beside `count` groups of `large`, a group on one node. */
static uint32_t room_beside(const struct suggester *s, uint32_t large, uint32_t count,
                            uint32_t small) {
    uint32_t a_node = s->node_devices / large;
    if (!a_node || (uint64_t) count > (uint64_t) a_node * s->node_count) return 0;
    uint32_t full = count / a_node, rest = count % a_node;
    uint32_t room = full * ((s->node_devices - a_node * large) / small);
    if (full == s->node_count) return room;
    room += (s->node_devices - rest * large) / small;
    return room + (s->node_count - full - 1) * (s->node_devices / small);
}

static void try_disagg(struct suggester *s, uint32_t p_ranks, uint32_t d_ranks) {
    uint32_t most = (s->node_devices / p_ranks) * s->node_count;
    for (uint32_t count = 1; count <= most; count++) {
        struct plan_suggest_layout layout = {
            .is_disagg = true, .prefill = {count, p_ranks}, .decode = {0, d_ranks}};
        if (p_ranks >= d_ranks) {
            layout.decode.count = room_beside(s, p_ranks, count, d_ranks);
        } else { /* as many of the wider ones as leave room for the narrower */
            uint32_t decodes = (s->node_devices / d_ranks) * s->node_count;
            while (decodes && room_beside(s, d_ranks, decodes, p_ranks) < count) decodes--;
            layout.decode.count = decodes;
        }
        if (!layout.decode.count) break;
        layout.device_count = count * p_ranks + layout.decode.count * d_ranks;
        if (judge(s, &layout)) keep(s, &layout);
    }
}

static void try_all(struct suggester *s) {
    for (uint32_t d = 1; d <= s->decode.widest; d++) {
        if (s->agg.degrees[d].ranks && s->node_devices / d) {
            uint32_t count = (s->node_devices / d) * s->node_count;
            struct plan_suggest_layout layout = {.decode = {count, d}, .device_count = count * d};
            if (judge(s, &layout)) keep(s, &layout);
        }
        for (uint32_t p = 1; s->decode.degrees[d].ranks && p <= s->prefill.widest; p++)
            if (s->prefill.degrees[p].ranks && (p % d == 0 || d % p == 0)) try_disagg(s, p, d);
    }
}

/* The best in order, and at least one of each kind. */
static void take_best(struct suggester *s, struct plan_suggest *out) {
    bool has_kind[2] = {false, false};
    for (uint32_t i = 0; i < s->kept_count; i++) {
        uint32_t best = i;
        for (uint32_t k = i + 1; k < s->kept_count; k++)
            if (is_better(&s->kept[k], &s->kept[best])) best = k;
        struct plan_suggest_layout layout = s->kept[best];
        s->kept[best] = s->kept[i];
        s->kept[i] = layout;
        bool is_last = out->count + 1 == PLAN_SUGGEST_LAYOUTS;
        if (out->count == PLAN_SUGGEST_LAYOUTS) return;
        if (is_last && !has_kind[!layout.is_disagg] && has_kind[layout.is_disagg]) continue;
        has_kind[layout.is_disagg] = true;
        out->layouts[out->count++] = layout;
    }
}

/* --- the degrees -------------------------------------------------------------------------- */

/* Plans each degree of a component that could be on one node. */
static enum err plan_degrees(struct suggester *s, struct side *side, uint32_t step_tokens,
                             struct plan *scratch) {
    const struct graph_plan_component *component = side->component;
    const struct model_spec *spec = &component->model.spec;
    uint64_t tokens = (uint64_t) s->load->input_tokens + s->load->output_tokens;
    uint32_t most = (uint32_t) num_min(s->node_devices, DEGREES_MAX);
    double depth = s->load->input_tokens + s->load->output_tokens / 2.0;
    for (uint32_t ranks = 1; ranks <= most; ranks++) {
        struct degree *degree = &side->degrees[ranks];
        struct graph_plan_change change = {.tensor_parallel = ranks};
        if (!tensor_parallel_is_legal(spec, ranks)) continue;
        enum err e = graph_plan_change(component, &change, scratch);
        if (e == ERR_MEMORY) return e;
        if (e || !scratch->fits || scratch->model_len_max < tokens) continue;
        double kv_bytes = (double) scratch->block_bytes * ranks / component->options.block_size;
        degree->ranks = ranks;
        degree->kv_tokens = scratch->kv_tokens;
        plan_predict_model(spec, &component->model.format, kv_bytes, ranks, step_tokens,
                           &degree->model);
        degree->prompt = plan_predict_prompt(&degree->model, &s->rates, s->load->input_tokens);
        degree->step = plan_predict_step(&degree->model, &s->rates, depth);
        side->widest = ranks;
    }
    return ERR_OK;
}

/* A layout takes all devices, so each is counted as the slowest and the smallest of them. */
static bool find_card_rates(struct suggester *s, const struct device_list *devices,
                            struct plan_suggest *out) {
    const struct cuda_estimate_format *format = &s->components[0].model.format;
    for (uint32_t i = 0; i < devices->count; i++) {
        const struct device *device = &devices->items[i];
        struct plan_predict_rates rates;
        if (!device->card) return false;
        if (i && device->card == devices->items[i - 1].card) continue;
        plan_predict_card(device->card, format, &rates);
        out->is_mixed |= i > 0;
        if (!i) s->rates = rates;
        s->rates.read_bytes_per_s = fmin(s->rates.read_bytes_per_s, rates.read_bytes_per_s);
        s->rates.step_flop_per_s = fmin(s->rates.step_flop_per_s, rates.step_flop_per_s);
        s->rates.prefill_flop_per_s = fmin(s->rates.prefill_flop_per_s, rates.prefill_flop_per_s);
        s->rates.peer_bytes_per_s = fmin(s->rates.peer_bytes_per_s, rates.peer_bytes_per_s);
    }
    return devices->count > 0;
}

static void take_smallest(struct suggester *s, const struct device_list *devices) {
    for (uint32_t c = 0; c < s->plan->component_count; c++)
        for (uint32_t i = 0; i < devices->count; i++) {
            const struct device *device = &devices->items[i];
            struct plan_budget *budget = &s->components[c].budget;
            uint64_t free_bytes = device->free_bytes < device->total_bytes ? device->free_bytes : 0;
            budget->total_bytes = num_min(budget->total_bytes, device->total_bytes);
            if (free_bytes && (!budget->available_bytes || free_bytes < budget->available_bytes))
                budget->available_bytes = free_bytes;
        }
}

/* The rates of the devices: of the catalogue, else as given, else (a CPU's) assumed. */
static bool find_rates(struct suggester *s, const struct graph_plan_target *target,
                       struct plan_suggest *out) {
    const struct graph_plan_component *component = &s->components[0];
    const struct device *device = component->device;
    const struct plan_suggest_load *load = s->load;
    bool has_devices = s->plan->device_count > 0;
    if (has_devices) take_smallest(s, target->devices);
    if (has_devices && !(load->tflops > 0) && find_card_rates(s, target->devices, out)) return true;
    double read = load->read_gb_per_s, tflops = load->tflops;
    if (!(tflops > 0)) {
        if (device && device->kind == DEVICE_CUDA) {
            (void) err_set(&out->why, ERR_OK,
                           "the rates of %s are not known here: give --device-rates", device->name);
            return false;
        }
        out->is_assumed = true;
        plan_predict_cpu_assumed(load->thread_count ? load->thread_count : 1,
                                 &component->model.format, &read, &tflops);
    }
    out->read_gb_per_s = read;
    out->tflops = tflops;
    /* Virtual devices, and workers without any, share one machine; a given card's rates are its
     * own. */
    double shares = !has_devices ? 0 : component->is_cpu ? s->plan->device_count : 1;
    for (uint32_t i = 0; !has_devices && i < s->plan->component_count; i++)
        shares += s->components[i].replica_count * s->components[i].tensor_parallel;
    plan_predict_cpu(read / shares, tflops / shares, load->product_gb_per_s / shares, &s->rates);
    return true;
}

static void find_nodes(struct suggester *s, const struct graph_plan_target *target) {
    s->node_count = s->node_devices = 1;
    if (!s->plan->device_count) return;
    const struct device_list *devices = target->devices;
    s->node_count = devices->node_count;
    s->node_devices = UINT32_MAX;
    for (uint32_t node = 0, at = 0; node < devices->node_count; node++) {
        uint32_t count = 0;
        for (; at < devices->count && devices->items[at].node == node; at++) count++;
        s->node_devices = (uint32_t) num_min(s->node_devices, count);
    }
}

/* The graph as it is written, if it fits. */
static void judge_written(struct suggester *s, struct plan_suggest *out) {
    struct plan_suggest_layout layout = {0};
    const struct graph_plan *plan = s->plan;
    if (!plan->fits) return;
    for (uint32_t i = 0; i < plan->component_count; i++) {
        const struct graph_plan_component *component = &plan->components[i];
        struct plan_suggest_workers workers = {component->replica_count,
                                               component->tensor_parallel};
        bool is_prefill = component->section == GRAPH_PREFILL_WORKER;
        struct side *side = is_prefill                   ? &s->prefill
                            : plan->component_count == 2 ? &s->decode
                                                         : &s->agg;
        if (workers.ranks > DEGREES_MAX || !side->degrees[workers.ranks].ranks) return;
        layout.is_disagg |= is_prefill;
        *(is_prefill ? &layout.prefill : &layout.decode) = workers;
        layout.device_count += workers.count * workers.ranks;
    }
    out->has_written = judge(s, &layout);
    out->written = layout;
}

static enum err suggest(struct suggester *s, const struct graph *graph,
                        const struct graph_plan_target *target, struct plan *scratch,
                        struct plan_suggest *out) {
    const struct graph_plan *plan = s->plan;
    memcpy(s->components, plan->components, sizeof s->components);
    const struct graph_plan_component *first = &s->components[0],
                                      *last = &s->components[plan->component_count - 1];
    if (!first->layer_count || !last->layer_count) {
        (void) err_set(&out->why, ERR_OK, "the model is unknown");
        return ERR_OK;
    }
    if (first->pipeline > 1 || last->pipeline > 1) {
        (void) err_set(&out->why, ERR_OK, "no prediction for pipeline-parallel-size above 1");
        return ERR_OK;
    }
    find_nodes(s, target);
    if (!find_rates(s, target, out)) return ERR_OK;
    const struct options *options = graph->sections[first->section].options;
    uint32_t step = (uint32_t) num_min(options_count(options, OPT_PREFILL_CHUNK),
                                       first->options.batched_tokens_max);
    options = graph->sections[last->section].options;
    uint32_t chunk = (uint32_t) num_min(options_count(options, OPT_HANDOFF_CHUNK_TOKENS),
                                        last->options.batched_tokens_max);
    s->decode.component = s->agg.component = first;
    s->prefill.component = last;
    enum err e = plan_degrees(s, &s->agg, step, scratch);
    if (!e) s->decode = s->agg;
    if (!e) e = plan_degrees(s, &s->prefill, chunk, scratch);
    if (e) return e;
    if (first->options.model_len_max < (uint64_t) s->load->input_tokens + s->load->output_tokens)
        (void) err_set(&out->why, ERR_OK,
                       "a request of %u + %u tokens is longer than max-model-len %u",
                       s->load->input_tokens, s->load->output_tokens, first->options.model_len_max);
    else if (!s->agg.widest)
        (void) err_set(&out->why, ERR_OK, "no degree of one node holds a request of %u + %u tokens",
                       s->load->input_tokens, s->load->output_tokens);
    if (plan->device_count) { /* else there is nothing to split */
        try_all(s);
        take_best(s, out);
    }
    judge_written(s, out);
    return ERR_OK;
}

enum err plan_suggest_make(const struct graph *graph, const struct graph_plan *plan,
                           const struct graph_plan_target *target,
                           const struct plan_suggest_load *load, struct plan_suggest *out) {
    *out = (struct plan_suggest){.load = *load, .is_disagg = graph_is_disagg(graph->kind)};
    CHECK(load->input_tokens > 0 && load->output_tokens > 0);
    if (!plan->component_count) return ERR_OK;
    struct suggester *s = alloc_zero(1, sizeof *s);
    struct plan *scratch = alloc_zero(1, sizeof *scratch);
    enum err e = s && scratch ? ERR_OK : ERR_MEMORY;
    if (!e) {
        s->plan = plan;
        s->load = load;
        e = suggest(s, graph, target, scratch, out);
    }
    alloc_free(scratch);
    alloc_free(s);
    return e;
}

/* --- saying so ---------------------------------------------------------------------------- */

static void name_layout(const struct plan_suggest_layout *layout, char *out, size_t room) {
    if (layout->is_disagg)
        snprintf(out, room, "P %ux%u, D %ux%u", layout->prefill.count, layout->prefill.ranks,
                 layout->decode.count, layout->decode.ranks);
    else snprintf(out, room, "agg %ux%u", layout->decode.count, layout->decode.ranks);
}

static void add_row(const char *lead, const struct plan_suggest_layout *layout, struct buf *out) {
    char name[64];
    name_layout(layout, name, sizeof name);
    buf_add_format(out, "%-4s%-18.18s%7u%9.0f%8.1f%9.2f%10.0f  %.12s\n", lead, name,
                   layout->device_count, layout->ttft_s * 1e3, layout->itl_s * 1e3,
                   layout->requests_per_s, layout->output_tokens_per_s,
                   layout->meets ? layout->limit : "late");
}

static void add_section(const char *name, struct plan_suggest_workers workers, struct buf *out) {
    buf_add_format(out,
                   "  %s:\n    tensor-parallel-size: %u\n"
                   "    ServiceArgs: {workers: %u, resources: {gpu: %u}}\n",
                   name, workers.ranks, workers.count, workers.ranks);
}

static void add_load(const struct plan_suggest_load *load, struct buf *out) {
    buf_add_format(out, "prediction, %u tokens in and %u out, ", load->input_tokens,
                   load->output_tokens);
    if (load->concurrency) buf_add_format(out, "%u requests under way", load->concurrency);
    else buf_add_string(out, "each layout at 80 % of what it can do");
    buf_add_byte(out, '\n');
    if (load->ttft_s > 0) buf_add_format(out, "  TTFT at most %.0f ms", load->ttft_s * 1e3);
    if (load->itl_s > 0) buf_add_format(out, "  ITL at most %.0f ms", load->itl_s * 1e3);
    if (load->ttft_s > 0 || load->itl_s > 0) buf_add_byte(out, '\n');
}

void plan_suggest_print(const struct plan_suggest *suggest, bool is_explained, struct buf *out) {
    if (suggest->why.text[0]) {
        buf_add_format(out, "\nno prediction: %s\n", suggest->why.text);
        return;
    }
    buf_add_byte(out, '\n');
    add_load(&suggest->load, out);
    buf_add_format(out, "%-22s%7s%9s%8s%9s%10s  %s\n", "    workers x TP", "devices", "TTFT ms",
                   "ITL ms", "req/s", "out tok/s", "stopped by");
    bool late = false;
    if (suggest->has_written) add_row("now", &suggest->written, out);
    for (uint32_t i = 0; i < suggest->count; i++) {
        char lead[8];
        late |= !suggest->layouts[i].meets;
        snprintf(lead, sizeof lead, "%u", i + 1);
        add_row(lead, &suggest->layouts[i], out);
    }
    if (suggest->has_written && !suggest->written.meets) late = true;
    if (late) buf_add_string(out, "late: misses the given TTFT or ITL at any rate\n");
    buf_add_string(out, "a prediction by roofline, no promise; --explain tells its factors\n");
    for (uint32_t i = 0; is_explained && i < plan_predict_assumption_count; i++)
        buf_add_format(out, "  %s\n", plan_predict_assumptions[i]);
    if (suggest->is_mixed)
        buf_add_string(out,
                       "cards of several kinds: each is counted as the slowest and smallest\n");
    if (suggest->read_gb_per_s > 0)
        buf_add_format(out, "rates, all threads: %.1f GB/s, %.3f TFLOP/s%s\n",
                       suggest->read_gb_per_s, suggest->tflops,
                       suggest->is_assumed ? " assumed: --device-rates measure" : "");
    /* What to write for the best of the graph's own kind. */
    uint32_t at = 0;
    while (at < suggest->count && suggest->layouts[at].is_disagg != suggest->is_disagg) at++;
    if (at == suggest->count) return;
    const struct plan_suggest_layout *best = &suggest->layouts[at];
    buf_add_format(out, "to set %u (%s):\n", at + 1, best->is_disagg ? "disagg" : "agg");
    add_section("VllmWorker", best->decode, out);
    if (best->is_disagg) add_section("PrefillWorker", best->prefill, out);
}

static void add_layout_json(const struct plan_suggest_layout *layout, struct buf *out) {
    buf_add_format(out, "{\"graph\":\"%s\",\"decode\":{\"workers\":%u,\"tensor_parallel\":%u}",
                   layout->is_disagg ? "disagg" : "agg", layout->decode.count,
                   layout->decode.ranks);
    if (layout->is_disagg)
        buf_add_format(out, ",\"prefill\":{\"workers\":%u,\"tensor_parallel\":%u}",
                       layout->prefill.count, layout->prefill.ranks);
    buf_add_format(out,
                   ",\"devices\":%u,\"meets_targets\":%s,\"ttft_s\":%.6f,\"itl_s\":%.6f,"
                   "\"requests_per_s\":%.4f,\"output_tokens_per_s\":%.2f,\"sequences\":%.2f,"
                   "\"limit\":\"%s\"}",
                   layout->device_count, layout->meets ? "true" : "false", layout->ttft_s,
                   layout->itl_s, layout->requests_per_s, layout->output_tokens_per_s,
                   layout->sequences, layout->limit);
}

void plan_suggest_print_json(const struct plan_suggest *suggest, struct buf *out) {
    const struct plan_suggest_load *load = &suggest->load;
    buf_add_format(out,
                   "{\"kind\":\"prediction\",\"input_tokens\":%u,\"output_tokens\":%u,"
                   "\"concurrency\":%u,\"rates_assumed\":%s,\"written\":",
                   load->input_tokens, load->output_tokens, load->concurrency,
                   suggest->is_assumed ? "true" : "false");
    if (suggest->has_written) add_layout_json(&suggest->written, out);
    else buf_add_string(out, "null");
    buf_add_string(out, ",\"layouts\":[");
    for (uint32_t i = 0; i < suggest->count; i++) {
        if (i) buf_add_byte(out, ',');
        add_layout_json(&suggest->layouts[i], out);
    }
    buf_add_string(out, "],\"assumptions\":[");
    for (uint32_t i = 0; i < plan_predict_assumption_count; i++)
        buf_add_format(out, "%s\"%s\"", i ? "," : "", plan_predict_assumptions[i]);
    buf_add_string(out, "],\"why_none\":");
    if (suggest->why.text[0]) {
        buf_add_byte(out, '"');
        buf_add_json_escaped(out, suggest->why.text, strlen(suggest->why.text));
        buf_add_byte(out, '"');
    } else {
        buf_add_string(out, "null");
    }
    buf_add_byte(out, '}');
}
