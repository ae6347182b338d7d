/* graph_plan - see graph_plan.h. */
#include "plan/graph_plan.h"

#include <stdio.h>
#include <string.h>

#include "backend/tensor_parallel.h"
#include "base/alloc.h"
#include "base/num.h"
#include "device/device_gpu.h"
#include "device/device_process.h"

#define IDLE_ATTEMPTS 32

/* --- one component ------------------------------------------------------------------------- */

/* A block size that can be computed with; a wrong one is check's to tell. */
static uint32_t sound_block(uint64_t block) {
    return block >= 8 && block <= 128 && (block & (block - 1)) == 0 ? (uint32_t) block : 16;
}

static void read_options(const struct options *options, struct graph_plan_component *component) {
    struct backend_options *backend = &component->options;
    const struct model_spec *spec = &component->model.spec;
    *backend = (struct backend_options){
        .rank_count = component->tensor_parallel,
        .block_size = sound_block(options_count(options, OPT_BLOCK_SIZE)),
        .seat_count = (uint32_t) options_count(options, OPT_MAX_NUM_SEQS),
        .batched_tokens_max = (uint32_t) options_count(options, OPT_MAX_NUM_BATCHED_TOKENS),
        .model_len_max = spec->context_tokens,
        .row_tile = (uint32_t) options_count(options, OPT_ROW_TILE),
        .thread_count = options_is_set(options, OPT_THREADS)
                            ? (uint32_t) options_count(options, OPT_THREADS)
                            : 0,
    };
    backend->batched_tokens_max =
        (uint32_t) num_max(backend->batched_tokens_max, backend->seat_count);
    CHECK(numerics_parse(options_text(options, OPT_NUMERICS), &backend->numerics));
    CHECK(kv_dtype_parse(options_text(options, OPT_KV_CACHE_DTYPE), &backend->kv_dtype));
    if (options_is_set(options, OPT_MAX_MODEL_LEN))
        backend->model_len_max = (uint32_t) options_count(options, OPT_MAX_MODEL_LEN);
    else component->budget.may_shrink_len = true;
    if (options_is_set(options, OPT_KV_CACHE_MEMORY_BYTES))
        component->budget.kv_bytes = options_count(options, OPT_KV_CACHE_MEMORY_BYTES);
    if (options_is_set(options, OPT_GPU_MEMORY_UTILIZATION))
        component->budget.utilization = options_number(options, OPT_GPU_MEMORY_UTILIZATION);
    component->is_sim = strcmp(options_text(options, OPT_ENGINE), "sim") == 0;
}

static enum err open_backend(const struct graph_plan_component *component,
                             const struct backend_options *options, struct err_text *text,
                             struct backend **out) {
    if (!component->is_cpu)
        return cuda_estimate_open(&component->model.spec, options, &component->model.format, text,
                                  out);
    const struct backend_ops *ops = component->is_sim ? &sim_backend_ops : &cpu_backend_ops;
    return ops->open(&component->model.spec, options, text, out);
}

static void close_backend(const struct graph_plan_component *component, struct backend *backend) {
    if (component->is_cpu) backend_ops_of(backend)->close(backend);
    else cuda_estimate_close(backend);
}

static enum err make_plan(const struct graph_plan_component *component,
                          const struct backend_options *options, const struct plan_budget *budget,
                          struct err_text *text, struct plan *out) {
    struct backend *backend = NULL;
    enum err e = open_backend(component, options, text, &backend);
    if (e) return e;
    e = plan_make(&component->model.spec, backend, options, budget, text, out);
    close_backend(component, backend);
    return e;
}

bool graph_plan_try(const struct graph_plan_component *component, uint32_t tensor_parallel,
                    double utilization, uint32_t model_len, uint64_t *kv_tokens) {
    struct backend_options options = component->options;
    struct plan_budget budget = component->budget;
    if (tensor_parallel) options.rank_count = tensor_parallel;
    if (utilization > 0) budget.utilization = utilization;
    if (model_len) {
        options.model_len_max = model_len;
        budget.may_shrink_len = false;
    }
    budget.available_bytes = 0;
    if (!(budget.utilization > 0)) return false;
    struct plan *plan = alloc_zero(1, sizeof *plan);
    struct err_text text;
    bool fits = plan && !make_plan(component, &options, &budget, &text, plan) && plan->fits;
    if (fits && kv_tokens) *kv_tokens = plan->kv_tokens;
    alloc_free(plan);
    return fits;
}

enum err graph_plan_change(const struct graph_plan_component *component,
                           const struct graph_plan_change *change, struct plan *out) {
    struct backend_options options = component->options;
    struct plan_budget budget = component->budget;
    struct err_text text;
    if (change->tensor_parallel) options.rank_count = change->tensor_parallel;
    if (change->batched_tokens) options.batched_tokens_max = change->batched_tokens;
    if (change->utilization > 0) budget.utilization = change->utilization;
    if (change->model_len) {
        options.model_len_max = change->model_len;
        budget.may_shrink_len = false;
    }
    return make_plan(component, &options, &budget, &text, out);
}

bool graph_plan_is_inexact(const struct graph_plan_component *component) {
    return component->plan &&
           !tensor_parallel_is_exact(&component->model.spec, component->tensor_parallel);
}

uint64_t graph_plan_weights(const struct graph_plan_component *component) {
    uint64_t most = 0;
    for (uint32_t rank = 0; component->plan && rank < component->plan->rank_count; rank++)
        most = num_max(most, mem_plan_kind_total(&component->plan->ranks[rank], MEM_WEIGHTS));
    return most;
}

/* --- what instead ------------------------------------------------------------------------- */

static double gib(uint64_t bytes) { return (double) bytes / (1u << 30); }

/* The smallest degree above the present one that fits, of those whose answers are bit for bit one
 * rank's if one of them does; 0: none. */
static uint32_t wider(const struct graph_plan_component *component, double utilization) {
    const struct model_spec *spec = &component->model.spec;
    uint32_t most = component->node_devices ? component->node_devices : 16, other = 0;
    for (uint32_t ranks = component->tensor_parallel + 1; ranks <= most; ranks++) {
        bool is_exact = tensor_parallel_is_exact(spec, ranks);
        if (!tensor_parallel_is_legal(spec, ranks) || (other && !is_exact) ||
            !graph_plan_try(component, ranks, utilization, 0, NULL))
            continue;
        if (is_exact) return ranks;
        other = ranks;
    }
    return other;
}

static void advise(struct graph_plan_component *component) {
    struct err_text *advice = &component->advice;
    static const double shares[] = {0.6, 0.7, 0.8, 0.85, 0.9, 0.95};
    double written = component->budget.utilization;
    uint32_t asked = component->devices_asked;
    /* gpu: 4 with TP 1 says itself what was meant. */
    if (asked > component->tensor_parallel && graph_plan_try(component, asked, 0, 0, NULL)) {
        (void) err_set(advice, ERR_OK, "set tensor-parallel-size: %u", asked);
        return;
    }
    for (size_t i = 0; i < ARRAY_COUNT(shares); i++)
        if (shares[i] > written && graph_plan_try(component, 0, shares[i], 0, NULL)) {
            (void) err_set(advice, ERR_OK, "set gpu-memory-utilization: %.2g", shares[i]);
            return;
        }
    uint32_t ranks = wider(component, 0);
    if (ranks) {
        (void) err_set(advice, ERR_OK, "set tensor-parallel-size: %u%s", ranks,
                       component->is_cpu ? "" : " (and resources.gpu with it)");
        return;
    }
    ranks = wider(component, 0.9);
    if (ranks)
        (void) err_set(advice, ERR_OK,
                       "set tensor-parallel-size: %u and gpu-memory-utilization: 0.9", ranks);
    else if (component->plan->kv_tokens >= 256)
        (void) err_set(advice, ERR_OK, "set max-model-len: %llu",
                       (unsigned long long) component->plan->kv_tokens);
    else (void) err_set(advice, ERR_OK, "take larger cards, or a smaller or more quantized model");
}

/* One sentence with the numbers that matter. */
static void judge(struct graph_plan_component *component) {
    const struct plan *plan = component->plan;
    struct err_text *verdict = &component->verdict;
    uint64_t weights = graph_plan_weights(component), fixed = 0;
    for (uint32_t rank = 0; rank < plan->rank_count; rank++)
        fixed = num_max(fixed, mem_plan_total(&plan->ranks[rank]) -
                                   mem_plan_kind_total(&plan->ranks[rank], MEM_KV));
    const char *card = component->is_cpu ? "device" : "card";
    uint64_t limit = plan->budget_bytes;
    if (!(component->budget.utilization > 0)) {
        *verdict = plan->verdict;
    } else if (weights > plan->device_bytes) {
        (void) err_set(verdict, ERR_OK, "needs %.1f GiB on a %.2f GiB %s", gib(weights),
                       gib(plan->device_bytes), card);
    } else if (fixed > limit) {
        (void) err_set(verdict, ERR_OK,
                       "needs %.2f GiB (weights %.2f) without KV and the budget is %.2f GiB (%.2g "
                       "of %.2f)",
                       gib(fixed), gib(weights), gib(limit), component->budget.utilization,
                       gib(plan->device_bytes));
    } else if (plan->kv_tokens < plan->model_len_max) {
        (void) err_set(
            verdict, ERR_OK,
            "has room for %llu KV tokens at gpu-memory-utilization %.2g, and one request "
            "of max-model-len is %u",
            (unsigned long long) plan->kv_tokens, component->budget.utilization,
            plan->model_len_max);
    } else {
        *verdict = plan->verdict;
    }
    if (component->budget.utilization > 0) advise(component);
}

/* --- devices -------------------------------------------------------------------------------- */

static void read_parallel(const struct graph_section *section, bool is_mended,
                          struct graph_plan_component *component) {
    component->replica_count = section->replica_count;
    component->tensor_parallel =
        (uint32_t) options_count(section->options, OPT_TENSOR_PARALLEL_SIZE);
    bool is_written = options_is_set(section->options, OPT_TENSOR_PARALLEL_SIZE) ||
                      options_is_set(section->options, OPT_PIPELINE_PARALLEL_SIZE);
    if (is_mended && !is_written && section->gpu_count > 1 &&
        section->gpu_count <= TENSOR_PARALLEL_MAX)
        component->tensor_parallel = section->gpu_count;
    component->pipeline = (uint32_t) options_count(section->options, OPT_PIPELINE_PARALLEL_SIZE);
    component->devices_asked = component->tensor_parallel * component->pipeline;
    if (section->gpu_count > component->devices_asked)
        component->devices_asked = section->gpu_count;
}

/* ServiceArgs.envs' CUDA_VISIBLE_DEVICES as device numbers; count 0: none, or not numbers. */
static uint32_t listed_devices(const struct graph_section *section, uint32_t *out) {
    for (uint32_t i = 0; i < section->env_count; i++) {
        if (strcmp(section->envs[i].name, "CUDA_VISIBLE_DEVICES") != 0) continue;
        struct err_text text;
        uint32_t count = 0;
        if (device_list_visible(section->envs[i].value, NULL, &text, out, &count)) return 0;
        return count;
    }
    return 0;
}

/* Finds workers for the idle devices: whole rounds of all components, then one by one of the
 * component with the fewest.  What place.h finds room for counts, nothing else. */
static enum err fill_idle(const struct device_list *devices, struct place_request *requests,
                          struct graph_plan *plan) {
    uint32_t idle = plan->place.idle_count, round = 0, count = plan->component_count;
    for (uint32_t i = 0; i < count; i++) round += requests[i].device_count;
    uint32_t rounds = idle / round;
    for (int attempt = 0; attempt < IDLE_ATTEMPTS && idle; attempt++) {
        uint32_t least = 0;
        for (uint32_t i = 1; i < count; i++)
            if (requests[i].replica_count < requests[least].replica_count) least = i;
        uint32_t index = least;
        for (uint32_t i = 0; !rounds && i < count; i++) /* one that the rest suffices for */
            if (requests[index].device_count > idle) index = i;
        if (!rounds && requests[index].device_count > idle) return ERR_OK;
        for (uint32_t i = 0; i < count; i++)
            requests[i].replica_count += rounds ? rounds : i == index;
        struct place place;
        struct err_text text;
        enum err e = place_make(requests, count, devices, &text, &place);
        if (e == ERR_MEMORY) return e;
        bool is_less = !e && place.idle_count < idle; /* not where lists by hand begin again */
        if (!e && !is_less) place_release(&place);
        if (is_less) {
            idle = place.idle_count;
            for (uint32_t i = 0; i < count; i++)
                plan->more_workers[i] += rounds ? rounds : i == index;
            place_release(&place);
            rounds = 0;
            continue;
        }
        for (uint32_t i = 0; i < count; i++)
            requests[i].replica_count -= rounds ? rounds : i == index;
        if (!rounds) return ERR_OK;
        rounds--;
    }
    return ERR_OK;
}

static enum err place_components(const struct graph *graph, const struct device_list *devices,
                                 struct graph_plan *plan) {
    struct place_request requests[GRAPH_PLAN_COMPONENTS_MAX];
    uint32_t listed[GRAPH_PLAN_COMPONENTS_MAX][DEVICE_GPUS_MAX];
    for (uint32_t i = 0; i < plan->component_count; i++) {
        const struct graph_plan_component *component = &plan->components[i];
        const struct graph_section *section = &graph->sections[component->section];
        requests[i] = (struct place_request){
            .name = graph_section_name(component->section),
            .replica_count = component->replica_count,
            .device_count = component->devices_asked,
            .devices = listed[i],
            .devices_count =
                devices->items[0].kind == DEVICE_CUDA ? listed_devices(section, listed[i]) : 0};
    }
    enum err e =
        place_make(requests, plan->component_count, devices, &plan->place_text, &plan->place);
    plan->has_place = !e;
    if (!e && plan->place.idle_count) e = fill_idle(devices, requests, plan);
    return e == ERR_MEMORY ? e : ERR_OK;
}

/* The smallest device that a component got (or the first of all). */
static const struct device *smallest_device(const struct graph_plan *plan, uint32_t index,
                                            const struct device_list *devices,
                                            uint64_t *free_bytes) {
    const struct device *least = NULL;
    *free_bytes = UINT64_MAX;
    for (uint32_t g = 0; plan->has_place && g < plan->place.group_count; g++) {
        const struct place_group *group = &plan->place.groups[g];
        if (group->request != index) continue;
        for (uint32_t i = 0; i < group->count; i++) {
            const struct device *device = &devices->items[plan->place.devices[group->first + i]];
            if (!least || device->total_bytes < least->total_bytes) least = device;
            *free_bytes = num_min(*free_bytes, device->free_bytes);
        }
    }
    if (least) return least;
    *free_bytes = devices->items[0].free_bytes;
    return &devices->items[0];
}

/* The component got devices of several names. */
static bool has_others(const struct graph_plan *plan, uint32_t index,
                       const struct device_list *devices) {
    const char *name = NULL;
    for (uint32_t g = 0; plan->has_place && g < plan->place.group_count; g++) {
        const struct place_group *group = &plan->place.groups[g];
        for (uint32_t i = 0; group->request == index && i < group->count; i++) {
            const struct device *device = &devices->items[plan->place.devices[group->first + i]];
            if (name && device->is_elsewhere && strcmp(name, device->name) != 0) return true;
            name = device->name;
        }
    }
    return false;
}

bool graph_plan_is_one_process(const struct graph *graph, const struct options *flags) {
    return graph->kind == GRAPH_AGG && graph->sections[GRAPH_VLLM_WORKER].replica_count == 1 &&
           graph->sections[GRAPH_FRONTEND].replica_count == 1 &&
           !(flags && (options_text(flags, OPT_NATS) || options_text(flags, OPT_BUS_LISTEN)));
}

/* As the worker itself will say (cmd_worker_create). */
static void set_process(const struct graph *graph, const struct graph_plan_target *target,
                        struct graph_plan_component *component) {
    const struct options *options = graph->sections[component->section].options;
    component->budget.process = (struct plan_process){
        .library_bytes = device_process_library_bytes() + device_gpu_library_bytes(NULL),
        .has_frontend = graph_plan_is_one_process(graph, target->flags),
        .has_transfer = component->section == GRAPH_PREFILL_WORKER ||
                        options_bool(options, OPT_REMOTE_PREFILL)};
}

static void set_budget(const struct graph_plan_target *target, const struct graph_plan *plan,
                       uint32_t index, uint32_t worker_count,
                       struct graph_plan_component *component) {
    struct plan_budget *budget = &component->budget;
    if (!target->devices || !target->devices->count) {
        component->is_cpu = true;
        component->device_name = "cpu";
        budget->is_shared = true; /* all ranks of a worker on its share of the memory */
        budget->total_bytes = target->cpu_total_bytes / worker_count;
        budget->available_bytes = target->cpu_available_bytes / worker_count;
    } else {
        uint64_t free_bytes;
        const struct device *device = smallest_device(plan, index, target->devices, &free_bytes);
        component->device = device;
        component->is_cpu = device->kind == DEVICE_CPU;
        component->device_name = device->name;
        budget->is_card = !component->is_cpu;
        budget->total_bytes = device->total_bytes;
        budget->available_bytes = free_bytes < device->total_bytes ? free_bytes : 0;
        if (!(budget->utilization > 0)) budget->utilization = GRAPH_PLAN_UTILIZATION;
    }
    for (uint32_t i = 0; target->devices && i < target->devices->count; i++) {
        const struct device *device = &target->devices->items[i];
        component->node_devices = (uint32_t) num_max(component->node_devices, device->ordinal + 1);
    }
    component->is_mixed = component->device && has_others(plan, index, target->devices);
    component->device_bytes = budget->total_bytes;
    /* Alone among idle ones it may use every core: each thread's stack is planned. */
    if (!component->options.thread_count)
        component->options.thread_count = (uint32_t) num_max(target->thread_count, 1);
    component->options.model =
        component->is_cpu && !component->is_sim ? component->model.model : NULL;
}

/* --- all ------------------------------------------------------------------------------------ */

static enum err plan_component(struct graph_plan_component *component) {
    if (component->model.source == PLAN_MODEL_UNKNOWN ||
        component->model.source == PLAN_MODEL_BROKEN ||
        (component->model.source == PLAN_MODEL_UNBUILT && component->is_cpu &&
         !component->is_sim)) {
        component->why = component->model.why;
        return ERR_OK;
    }
    if (component->pipeline > 1) {
        component->model.spec.layer_count =
            (uint32_t) num_div_up(component->layer_count, component->pipeline);
        component->options.model = NULL; /* its tensors are those of all stages */
    }
    component->plan = alloc_zero(1, sizeof *component->plan);
    if (!component->plan) return ERR_MEMORY;
    enum err e = make_plan(component, &component->options, &component->budget, &component->why,
                           component->plan);
    if (e) {
        alloc_free(component->plan);
        component->plan = NULL;
        return e == ERR_MEMORY ? e : ERR_OK;
    }
    if (!component->plan->fits) judge(component);
    return ERR_OK;
}

/* A worker whose model nobody knows is planned with the other's: check tells that they differ. */
static void share_model(const struct graph *graph, const struct graph_plan_target *target,
                        struct graph_plan *plan) {
    for (uint32_t i = 0; plan->component_count == 2 && i < 2; i++) {
        struct graph_plan_component *component = &plan->components[i];
        const struct graph_plan_component *other = &plan->components[1 - i];
        if (component->model.source != PLAN_MODEL_UNKNOWN ||
            other->model.source == PLAN_MODEL_UNKNOWN ||
            !options_text(graph->sections[component->section].options, OPT_MODEL))
            continue;
        plan_model_release(&component->model);
        plan_model_find(graph->sections[other->section].options, target->flags, &component->model);
        component->is_model_borrowed = true;
        read_options(graph->sections[component->section].options, component);
    }
}

/* Places and plans the components, whose models are found. */
static enum err plan_components(const struct graph *graph, const struct graph_plan_target *target,
                                struct err_text *text, struct graph_plan *plan) {
    uint32_t worker_count = 0;
    for (uint32_t i = 0; i < plan->component_count; i++) {
        struct graph_plan_component *component = &plan->components[i];
        const struct graph_section *section = &graph->sections[component->section];
        read_parallel(section, target->is_mended, component);
        worker_count += section->replica_count;
        read_options(section->options, component);
    }
    share_model(graph, target, plan);
    enum err e = ERR_OK;
    bool has_devices = target->devices && target->devices->count;
    if (has_devices) e = place_components(graph, target->devices, plan);
    plan->device_count = has_devices ? target->devices->count : 0;
    plan->fits = !has_devices || plan->has_place;
    for (uint32_t i = 0; !e && i < plan->component_count; i++) {
        struct graph_plan_component *component = &plan->components[i];
        set_process(graph, target, component);
        set_budget(target, plan, i, worker_count, component);
        component->layer_count = component->model.spec.layer_count;
        e = plan_component(component);
        plan->fits &= component->plan && component->plan->fits;
    }
    if (!e) return ERR_OK;
    graph_plan_release(plan);
    return err_set(text, e, "out of memory");
}

enum err graph_plan_make(const struct graph *graph, const struct graph_plan_target *target,
                         struct err_text *text, struct graph_plan *out) {
    memset(out, 0, sizeof *out);
    for (int i = GRAPH_VLLM_WORKER; i <= GRAPH_PREFILL_WORKER; i++) {
        const struct graph_section *section = &graph->sections[i];
        if (!section->is_used) continue;
        struct graph_plan_component *component = &out->components[out->component_count++];
        component->section = (enum graph_section_id) i;
        plan_model_find(section->options, target->flags, &component->model);
    }
    return plan_components(graph, target, text, out);
}

enum err graph_plan_again(const struct graph *graph, const struct graph_plan_target *target,
                          struct err_text *text, struct graph_plan *plan) {
    struct graph_plan fresh = {.component_count = plan->component_count};
    for (uint32_t i = 0; i < plan->component_count; i++) {
        struct graph_plan_component *old = &plan->components[i];
        fresh.components[i].section = old->section;
        fresh.components[i].model = old->model;
        fresh.components[i].is_model_borrowed = old->is_model_borrowed;
        fresh.components[i].model.spec.layer_count = old->layer_count;
        alloc_free(old->plan);
    }
    place_release(&plan->place);
    *plan = fresh;
    return plan_components(graph, target, text, plan);
}

void graph_plan_release(struct graph_plan *plan) {
    for (uint32_t i = 0; i < plan->component_count; i++) {
        alloc_free(plan->components[i].plan);
        plan_model_release(&plan->components[i].model);
    }
    place_release(&plan->place);
    memset(plan, 0, sizeof *plan);
}

/* Where the reader should look: the degree, else the card's share, else the section. */
static struct problem_mark mark_of(const struct graph *graph, enum graph_section_id section,
                                   const char **key) {
    static const enum option_id ids[] = {OPT_TENSOR_PARALLEL_SIZE, OPT_GPU_MEMORY_UTILIZATION};
    for (size_t i = 0; i < ARRAY_COUNT(ids); i++) {
        struct problem_mark mark = graph_mark(graph, section, ids[i]);
        *key = option_get(ids[i])->name;
        if (mark.line || mark.is_flag) return mark;
    }
    *key = option_get(OPT_TENSOR_PARALLEL_SIZE)->name;
    return graph->sections[section].mark;
}

void graph_plan_add_problems(const struct graph_plan *plan, const struct graph *graph,
                             struct problem_list *problems) {
    for (uint32_t i = 0; i < plan->component_count; i++) {
        const struct graph_plan_component *component = &plan->components[i];
        const char *name = graph_section_name(component->section), *key;
        if (component->is_model_borrowed)
            problem_add(problems, PROBLEM_WARNING, "model-unknown", name, "model",
                        graph_mark(graph, component->section, OPT_MODEL), NULL,
                        "not known: planned with the other workers' model");
        if (graph_plan_is_inexact(component))
            problem_add(problems, PROBLEM_NOTE, "not-bitwise", name, "tensor-parallel-size",
                        graph_mark(graph, component->section, OPT_TENSOR_PARALLEL_SIZE), NULL,
                        "%u: not bitwise the answers of one rank", component->tensor_parallel);
        if (!component->plan || component->plan->fits) continue;
        struct problem_mark mark = mark_of(graph, component->section, &key);
        bool is_kv = component->budget.utilization > 0 && component->plan->kv_tokens > 0 &&
                     component->plan->kv_tokens < component->plan->model_len_max;
        problem_add(problems, PROBLEM_ERROR, is_kv ? "kv-too-small" : "does-not-fit", name, key,
                    mark, component->advice.text[0] ? component->advice.text : NULL, "%s",
                    component->verdict.text);
    }
    if (plan->device_count && !plan->has_place)
        problem_add(problems, PROBLEM_ERROR, "too-few-devices", "", "", (struct problem_mark){0},
                    NULL, "%s", plan->place_text.text);
}
