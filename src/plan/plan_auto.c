/* plan_auto - see plan_auto.h. */
#include "plan/plan_auto.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backend/tensor_parallel.h"
#include "base/alloc.h"
#include "base/num.h"

/* Of a device: the rest is for what only boot can measure (context, graphs) and for the driver. */
#define SHARE_MAX 0.95
/* Below that, a length is no length to serve (plan.c shrinks no further either). */
#define LEN_MIN 1u
#define BATCHED_TOKENS_MAX 1048576u /* the option's own limit */

double plan_auto_share(uint32_t index) { return (50 + 5 * (double) index) / 100; }

struct size_text {
    char text[24];
};

/* "39.39 GiB", "500.0 MiB" */
static struct size_text size(uint64_t bytes) {
    struct size_text size;
    if (bytes >= 1u << 30)
        snprintf(size.text, sizeof size.text, "%.2f GiB", (double) bytes / (1u << 30));
    else snprintf(size.text, sizeof size.text, "%.1f MiB", (double) bytes / (1u << 20));
    return size;
}

/* --- trying ------------------------------------------------------------------------------- */

struct trial {
    const struct graph_plan_component *component;
    struct plan *plan; /* scratch, half a megabyte */
    bool is_out_of_memory;
};

static bool fits(struct trial *trial, const struct graph_plan_change *change) {
    enum err e = graph_plan_change(trial->component, change, trial->plan);
    trial->is_out_of_memory |= e == ERR_MEMORY;
    return !e && trial->plan->fits;
}

/* The largest value of *field in [low, high] that fits, with the rest of `change` as it is; 0: not
 * even low.  Bytes grow with each of the fields, so what is above one that does not fit does not
 * fit either. */
static uint32_t largest(struct trial *trial, struct graph_plan_change *change, uint32_t *field,
                        uint32_t low, uint32_t high) {
    if (low > high) return 0;
    *field = high;
    if (fits(trial, change)) return high;
    *field = low;
    if (!fits(trial, change)) return 0;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        *field = middle;
        if (fits(trial, change)) low = middle;
        else high = middle;
    }
    *field = low;
    return low;
}

static uint32_t longest(struct trial *trial, uint32_t tensor_parallel) {
    struct graph_plan_change change = {.tensor_parallel = tensor_parallel};
    return largest(trial, &change, &change.model_len, LEN_MIN,
                   trial->component->model.spec.context_tokens);
}

/* Ranks that one worker can have: of one node.  In one memory more of them win no room. */
static uint32_t ranks_of_node(const struct graph_plan_component *component) {
    return component->device ? (uint32_t) num_min(component->node_devices, TENSOR_PARALLEL_MAX) : 1;
}

/* The length that has to fit: as written, else the model's own. */
static uint32_t wanted_len(const struct graph_plan_component *component) {
    return component->options.model_len_max;
}

static uint32_t narrowest(struct trial *trial, uint32_t model_len) {
    const struct graph_plan_component *component = trial->component;
    for (uint32_t ranks = 1; ranks <= ranks_of_node(component); ranks++) {
        struct graph_plan_change change = {.tensor_parallel = ranks, .model_len = model_len};
        if (tensor_parallel_is_legal(&component->model.spec, ranks) && fits(trial, &change))
            return ranks;
    }
    return 0;
}

enum err plan_auto_fit(const struct graph_plan_component *component, struct plan_auto_fit *out) {
    struct trial trial = {.component = component, .plan = alloc_zero(1, sizeof *trial.plan)};
    struct plan_auto_fit fit = {.has_shares = component->budget.utilization > 0};
    if (!trial.plan) return ERR_MEMORY;
    uint32_t len = component->plan && component->plan->fits ? component->plan->model_len_max
                                                            : wanted_len(component);
    bool is_len_open = component->budget.may_shrink_len && !component->plan->fits;
    fit.tensor_parallel_min = narrowest(&trial, is_len_open ? 0 : len);
    fit.model_len_max = longest(&trial, 0);
    struct graph_plan_change change = {.model_len = is_len_open ? 0 : len};
    fit.batched_tokens_max = largest(&trial, &change, &change.batched_tokens,
                                     component->options.seat_count, BATCHED_TOKENS_MAX);
    for (uint32_t i = 0; fit.has_shares && i < PLAN_AUTO_SHARES; i++) {
        struct graph_plan_change share = {.model_len = is_len_open ? 0 : len,
                                          .utilization = plan_auto_share(i)};
        fit.holds[i] = fits(&trial, &share);
        fit.kv_tokens[i] = trial.plan->kv_tokens;
    }
    alloc_free(trial.plan);
    if (trial.is_out_of_memory) return ERR_MEMORY;
    *out = fit;
    return ERR_OK;
}

void plan_auto_print_fit_json(const struct plan_auto_fit *fit, struct buf *out) {
    buf_add_format(out,
                   "{\"tensor_parallel_min\":%u,\"model_len_max\":%u,"
                   "\"batched_tokens_max\":%u,\"kv_tokens_at\":{",
                   fit->tensor_parallel_min, fit->model_len_max, fit->batched_tokens_max);
    for (uint32_t i = 0; fit->has_shares && i < PLAN_AUTO_SHARES; i++)
        buf_add_format(out, "%s\"%.2f\":%llu", i ? "," : "", plan_auto_share(i),
                       (unsigned long long) fit->kv_tokens[i]);
    buf_add_string(out, "}}");
}

/* --- choosing ----------------------------------------------------------------------------- */

struct chooser {
    struct graph *graph;
    const struct graph_plan_target *target;
    struct graph_plan plan; /* of the graph as it is now; released on an error */
    struct trial trial;
    struct plan_auto *out;
    struct err_text *text;
};

static struct options *options_of(const struct chooser *chooser, uint32_t index) {
    return chooser->graph->sections[chooser->plan.components[index].section].options;
}

/* Writes the choice down; the reason is printf's. */
static enum err choose(struct chooser *chooser, uint32_t index, enum option_id id,
                       const char *value, const struct err_text *reason) {
    struct plan_auto_choice *choice = &chooser->out->choices[chooser->out->count];
    CHECK(chooser->out->count < PLAN_AUTO_CHOICES_MAX);
    *choice = (struct plan_auto_choice){
        .section = chooser->plan.components[index].section, .id = id, .reason = *reason};
    snprintf(choice->value, sizeof choice->value, "%s", value);
    enum err e = options_choose(options_of(chooser, index), id, value, chooser->text);
    if (!e) chooser->out->count++;
    return e;
}

static enum err plan_again(struct chooser *chooser) {
    return graph_plan_again(chooser->graph, chooser->target, chooser->text, &chooser->plan);
}

/* Of devices: what is free of each. */
static enum err choose_device_share(struct chooser *chooser, uint32_t index) {
    const struct graph_plan_component *component = &chooser->plan.components[index];
    uint64_t total = component->device_bytes, free_bytes = component->budget.available_bytes;
    double share = SHARE_MAX;
    struct err_text reason;
    if (free_bytes && free_bytes < total)
        share = fmin(share, floor(100 * (double) free_bytes / (double) total) / 100);
    share = fmax(share, option_get(OPT_GPU_MEMORY_UTILIZATION)->min);
    if (share < SHARE_MAX)
        (void) err_set(&reason, ERR_OK, "%s of %s are free: others hold the rest",
                       size(free_bytes).text, size(total).text);
    else (void) err_set(&reason, ERR_OK, "all %s are free", size(total).text);
    char value[24];
    snprintf(value, sizeof value, "%.2f", share);
    return choose(chooser, index, OPT_GPU_MEMORY_UTILIZATION, value, &reason);
}

/* Of the machine's own memory: the share that its rule takes (behaviour.md 3). */
static enum err choose_cpu_share(struct chooser *chooser, uint32_t index) {
    const struct graph_plan_component *component = &chooser->plan.components[index];
    uint64_t total = component->budget.total_bytes;
    uint64_t planned = component->plan ? component->plan->total_bytes : 0; /* of all ranks */
    if (!planned || !total || !component->plan->fits) return ERR_OK;
    double share = fmin(1, ceil(100 * (double) planned / (double) total) / 100);
    struct err_text reason;
    (void) err_set(&reason, ERR_OK, "the plan of the CPU takes %s of %s", size(planned).text,
                   size(total).text);
    char value[24];
    snprintf(value, sizeof value, "%.2f", share);
    return choose(chooser, index, OPT_GPU_MEMORY_UTILIZATION, value, &reason);
}

/* Degrees that halve into one another, so that each rank of P has a whole number of D's to feed. */
static bool agrees(const struct chooser *chooser, uint32_t index, uint32_t ranks) {
    for (uint32_t i = 0; i < chooser->plan.component_count; i++) {
        uint32_t other = chooser->plan.components[i].tensor_parallel;
        bool is_open = options_is_auto(options_of(chooser, i), OPT_TENSOR_PARALLEL_SIZE);
        if (i != index && !is_open && ranks % other && other % ranks) return false;
    }
    return true;
}

/* The next degree by rule: those whose answers are bit for bit one rank's before the others; 0:
 * all were named. */
static uint32_t next_degree(const struct graph_plan_component *component, uint32_t ranks) {
    const struct model_spec *spec = &component->model.spec;
    bool is_exact = !ranks || tensor_parallel_is_exact(spec, ranks);
    uint32_t most = ranks_of_node(component);
    for (;;) {
        while (ranks++ < most)
            if (tensor_parallel_is_legal(spec, ranks) &&
                tensor_parallel_is_exact(spec, ranks) == is_exact)
                return ranks;
        if (!is_exact) return 0;
        is_exact = false;
        ranks = 0;
    }
}

/* What is lost with a degree that is no divisor of the model's segments (numerics.md 3). */
static const char *loss(const struct graph_plan_component *component, uint32_t ranks) {
    bool is_exact = tensor_parallel_is_exact(&component->model.spec, ranks);
    return is_exact ? "" : "; not bitwise the answers of one rank";
}

/* The degree by rule: 0 when there is none that fits. */
static uint32_t find_degree(struct chooser *chooser, uint32_t index, struct err_text *reason) {
    const struct graph_plan_component *component = &chooser->plan.components[index];
    uint32_t best = 0, best_len = 0, wanted = wanted_len(component);
    for (uint32_t ranks = 0; (ranks = next_degree(component, ranks));) {
        if (!agrees(chooser, index, ranks)) continue;
        struct graph_plan_change change = {.tensor_parallel = ranks, .model_len = wanted};
        if (fits(&chooser->trial, &change)) {
            (void) err_set(reason, ERR_OK, "smallest that holds %u tokens%s", wanted,
                           loss(component, ranks));
            return ranks;
        }
        uint32_t len = component->budget.may_shrink_len ? longest(&chooser->trial, ranks) : 0;
        if (len <= best_len) continue;
        best = ranks;
        best_len = len;
    }
    if (best)
        (void) err_set(reason, ERR_OK, "none holds %u tokens, this one %u, the most%s", wanted,
                       best_len, loss(component, best));
    return best;
}

static enum err choose_degree(struct chooser *chooser, uint32_t index) {
    const struct graph_plan_component *component = &chooser->plan.components[index];
    uint32_t gpus = chooser->graph->sections[component->section].gpu_count, ranks = 0;
    struct err_text reason = {0};
    bool has_model = component->layer_count > 0;
    if (gpus > 1 && gpus <= TENSOR_PARALLEL_MAX &&
        (!has_model || tensor_parallel_is_legal(&component->model.spec, gpus))) {
        ranks = gpus;
        (void) err_set(&reason, ERR_OK, "resources.gpu is %u%s", gpus,
                       has_model ? loss(component, gpus) : "");
    } else if (has_model && component->budget.total_bytes) {
        ranks = find_degree(chooser, index, &reason);
    }
    if (!ranks) {
        ranks = 1;
        (void) err_set(&reason, ERR_OK,
                       has_model ? "no degree of one node fits"
                                 : "the model is unknown, so nothing was tried");
    }
    char value[24];
    snprintf(value, sizeof value, "%u", ranks);
    return choose(chooser, index, OPT_TENSOR_PARALLEL_SIZE, value, &reason);
}

static enum err choose_len(struct chooser *chooser, uint32_t index) {
    const struct graph_plan_component *component = &chooser->plan.components[index];
    if (!component->plan) return ERR_OK; /* unknown: what fits is seen at boot */
    uint32_t context = component->model.spec.context_tokens, len = longest(&chooser->trial, 0);
    struct err_text reason;
    if (len < LEN_MIN) return ERR_OK;
    if (len == context) (void) err_set(&reason, ERR_OK, "all that the model was made for");
    else
        (void) err_set(&reason, ERR_OK, "the longest that fits; the model was made for %u",
                       context);
    char value[24];
    snprintf(value, sizeof value, "%u", len);
    return choose(chooser, index, OPT_MAX_MODEL_LEN, value, &reason);
}

typedef enum err (*choose_fn)(struct chooser *chooser, uint32_t index);

/* One kind of choice for every component, the plan made anew behind each. */
static enum err choose_all(struct chooser *chooser, enum option_id id, choose_fn choose_one,
                           bool is_of_devices) {
    for (uint32_t i = 0; i < chooser->plan.component_count; i++) {
        bool has_device = chooser->plan.components[i].device != NULL;
        if (!options_is_auto(options_of(chooser, i), id)) continue;
        if (id == OPT_GPU_MEMORY_UTILIZATION && has_device != is_of_devices) continue;
        chooser->trial.component = &chooser->plan.components[i];
        enum err e = choose_one(chooser, i);
        if (!e && chooser->trial.is_out_of_memory) e = ERR_MEMORY;
        if (!e) e = plan_again(chooser);
        if (e) return e;
    }
    return ERR_OK;
}

bool plan_auto_is_wanted(const struct graph *graph) {
    static const enum option_id ids[] = {OPT_TENSOR_PARALLEL_SIZE, OPT_MAX_MODEL_LEN,
                                         OPT_GPU_MEMORY_UTILIZATION};
    for (int i = GRAPH_VLLM_WORKER; i <= GRAPH_PREFILL_WORKER; i++)
        for (size_t k = 0; graph->sections[i].is_used && k < ARRAY_COUNT(ids); k++)
            if (options_is_auto(graph->sections[i].options, ids[k])) return true;
    return false;
}

enum err plan_auto_choose(struct graph *graph, const struct graph_plan_target *target,
                          struct err_text *text, struct plan_auto *out) {
    out->count = 0;
    if (!plan_auto_is_wanted(graph)) return ERR_OK;
    struct chooser chooser = {.graph = graph, .target = target, .out = out, .text = text};
    chooser.trial.plan = alloc_zero(1, sizeof *chooser.trial.plan);
    enum err e = chooser.trial.plan ? ERR_OK : err_set(text, ERR_MEMORY, "out of memory");
    if (!e) e = graph_plan_make(graph, target, text, &chooser.plan);
    if (!e) e = choose_all(&chooser, OPT_GPU_MEMORY_UTILIZATION, choose_device_share, true);
    if (!e) e = choose_all(&chooser, OPT_TENSOR_PARALLEL_SIZE, choose_degree, false);
    if (!e) e = choose_all(&chooser, OPT_GPU_MEMORY_UTILIZATION, choose_cpu_share, false);
    if (!e) e = choose_all(&chooser, OPT_MAX_MODEL_LEN, choose_len, false);
    graph_plan_release(&chooser.plan);
    alloc_free(chooser.trial.plan);
    return e;
}

/* --- saying so ---------------------------------------------------------------------------- */

void plan_auto_print(const struct plan_auto_choice *choice, struct buf *out) {
    buf_add_format(out, "%s.%s: auto is %s: %s", graph_section_name(choice->section),
                   option_get(choice->id)->name, choice->value, choice->reason.text);
}

void plan_auto_add_problems(const struct plan_auto *chosen, const struct graph *graph,
                            struct problem_list *problems) {
    for (uint32_t i = 0; i < chosen->count; i++) {
        const struct plan_auto_choice *choice = &chosen->choices[i];
        problem_add(problems, PROBLEM_NOTE, "auto", graph_section_name(choice->section),
                    option_get(choice->id)->name, graph_mark(graph, choice->section, choice->id),
                    NULL, "auto is %s: %s", choice->value, choice->reason.text);
    }
}
