/* check_devices - components against their models and the devices they ask for. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "backend/tensor_parallel.h"
#include "model/model_resolve.h"
#include "plan/check_impl.h"

#define NODE_CARDS 8 /* where no devices are given */
/* Below this share and this many full requests the room is worth a word. */
#define LOW_UTILIZATION 0.75
#define LOW_REQUESTS 2.0

static double gib(uint64_t bytes) { return (double) bytes / (1u << 30); }

static uint32_t cards_of_node(const struct checker *checker) {
    const struct device_list *devices = checker->target->plan->devices;
    if (!devices || !devices->count) return NODE_CARDS;
    uint32_t widest = 0;
    for (uint32_t node = 0; node < devices->node_count; node++) {
        uint32_t count = 0;
        for (uint32_t i = 0; i < devices->count; i++) count += devices->items[i].node == node;
        if (count > widest) widest = count;
    }
    return widest;
}

static const struct graph_section *section_of(const struct checker *checker,
                                              const struct graph_plan_component *component) {
    return &checker->graph->sections[component->section];
}

/* --- gpu against tensor-parallel-size ------------------------------------------------------- */

static void refuse_missing_parallel(struct checker *checker,
                                    const struct graph_plan_component *component) {
    const struct graph_section *section = section_of(checker, component);
    char fix[80], weights[160] = "";
    snprintf(fix, sizeof fix, "write tensor-parallel-size: %u", section->gpu_count);
    if (component->plan && checker->plan.device_count) {
        const char *word = component->is_cpu ? "device" : "card";
        int digits = component->device_bytes < 10ull << 30 ? 2 : 1;
        /* What all of it on one card would be. */
        uint64_t all = 0;
        for (uint32_t i = 0; i < component->plan->rank_count; i++)
            all += mem_plan_kind_total(&component->plan->ranks[i], MEM_WEIGHTS);
        snprintf(weights, sizeof weights,
                 ": weights of %.*f GiB on one %s of %.2f (%.*f GiB a %s with %u)", digits,
                 gib(all), word, gib(component->device_bytes), digits,
                 gib(graph_plan_weights(component)), word, section->gpu_count);
    }
    struct problem *problem = problem_add(
        checker->problems, PROBLEM_ERROR, "tp-missing", graph_section_name(component->section),
        "tensor-parallel-size", check_mark(checker, component->section, OPT_TENSOR_PARALLEL_SIZE),
        fix, "missing, so it is 1, and gpu: %u asks for %u%s", section->gpu_count,
        section->gpu_count, weights);
    char value[16];
    snprintf(value, sizeof value, "%u", section->gpu_count);
    check_mend(checker, problem, component->section, OPT_TENSOR_PARALLEL_SIZE, value);
}

static void check_gpu_count(struct checker *checker, const struct graph_plan_component *component) {
    const struct graph_section *section = section_of(checker, component);
    const char *name = graph_section_name(component->section);
    bool has_stages = component->pipeline > 1;
    bool is_written = options_is_set(section->options, OPT_TENSOR_PARALLEL_SIZE) || has_stages;
    uint32_t parallel =
        (uint32_t) options_count(section->options, OPT_TENSOR_PARALLEL_SIZE) * component->pipeline;
    uint32_t cards = cards_of_node(checker), gpu = section->gpu_count;
    if (has_stages)
        problem_add(checker->problems, checker->target->is_serve ? PROBLEM_ERROR : PROBLEM_WARNING,
                    "not-served", name, "pipeline-parallel-size",
                    check_mark(checker, component->section, OPT_PIPELINE_PARALLEL_SIZE),
                    "write pipeline-parallel-size: 1, and as many ranks",
                    "%u stages: planned, but not served yet; tensor-parallel-size %u would be",
                    component->pipeline, parallel);
    if (is_written && parallel > cards && !component->is_cpu) {
        problem_add(checker->problems, checker->target->is_serve ? PROBLEM_ERROR : PROBLEM_WARNING,
                    "not-served", name, "tensor-parallel-size",
                    check_mark(checker, component->section, OPT_TENSOR_PARALLEL_SIZE),
                    "take cards of one node: a smaller tensor-parallel-size, or a smaller model",
                    "a group of %u spans nodes of %u cards: planned, but not served yet", parallel,
                    cards);
        return;
    }
    bool is_gpu_written = section->gpu_mark.line || section->gpu_mark.is_flag;
    if (check_is_refused(checker, component->section, OPT_TENSOR_PARALLEL_SIZE) ||
        !is_gpu_written || gpu == parallel || (!gpu && (parallel == 1 || component->is_cpu)))
        return;
    if (!is_written) {
        if (gpu > 1) refuse_missing_parallel(checker, component);
        return;
    }
    char fix[80];
    snprintf(fix, sizeof fix, "write gpu: %u", parallel);
    struct problem *problem;
    if (gpu > parallel)
        problem = problem_add(
            checker->problems, PROBLEM_ERROR, "gpu-differs", name, "ServiceArgs.resources.gpu",
            section->gpu_mark, fix,
            "gpu is what each worker takes: %u but tensor-parallel-size%s %u, so %u GPU%s "
            "would be taken, %u idle",
            gpu, has_stages ? " x pipeline-parallel-size" : "", parallel,
            gpu * section->replica_count, gpu * section->replica_count == 1 ? "" : "s",
            (gpu - parallel) * section->replica_count);
    else
        problem = problem_add(
            checker->problems, PROBLEM_ERROR, "gpu-differs", name, "ServiceArgs.resources.gpu",
            section->gpu_mark, fix,
            "%u GPU%s a worker and tensor-parallel-size%s %u (line %u): each rank needs its "
            "own",
            gpu, gpu == 1 ? "" : "s", has_stages ? " x pipeline-parallel-size" : "", parallel,
            check_mark(checker, component->section, OPT_TENSOR_PARALLEL_SIZE).line);
    problem_set_edit(problem, PROBLEM_EDIT_VALUE, 0, "%u", parallel);
}

/* --- models --------------------------------------------------------------------------------- */

/* --shape says what it is, and no file of it is here. */
static bool is_shape_alone(const struct plan_model *model) {
    struct model_source found;
    struct err_text text;
    return model->source == PLAN_MODEL_SHAPE && model->is_told &&
           model_resolve(model->name, &text, &found) != ERR_OK;
}

static void check_model(struct checker *checker, const struct graph_plan_component *component) {
    const struct graph_section *section = section_of(checker, component);
    const char *name = graph_section_name(component->section);
    const char *path = options_text(section->options, OPT_MODEL);
    struct problem_mark mark = check_mark(checker, component->section, OPT_MODEL);
    if (!path) return; /* told by the reader */
    enum plan_model_source source = component->model.source;
    bool is_absent = source == PLAN_MODEL_CATALOG || source == PLAN_MODEL_UNKNOWN;
    bool must_be_here = checker->target->is_serve || !checker->target->is_elsewhere;
    if (problem_find(checker->problems, "model-differs", name)) return; /* the same cause */
    const struct graph_plan_component *first = &checker->plan.components[0];
    const char *told = options_text(section_of(checker, first)->options, OPT_MODEL);
    if (component != first && told && strcmp(told, path) == 0) return;
    bool is_planned = source == PLAN_MODEL_UNBUILT;
    if (is_planned || (source == PLAN_MODEL_BROKEN && component->model.is_unbuilt))
        problem_add(checker->problems, checker->target->is_serve ? PROBLEM_ERROR : PROBLEM_WARNING,
                    "not-served", name, "model", mark, NULL, "not served yet%s: %s",
                    is_planned ? "" : ", memory not checked", component->model.why.text);
    else if (source == PLAN_MODEL_BROKEN)
        problem_add(checker->problems, PROBLEM_ERROR, "model-unreadable", name, "model", mark,
                    "complete the download, or write another path", "%s%s",
                    component->model.why.text,
                    check_files_has_words(path) ? "" : "; tokenizer.json is missing too");
    else if (is_absent && must_be_here)
        problem_add(checker->problems, PROBLEM_ERROR, "model-not-found", name, "model", mark,
                    "write a path of this machine; for another one give --devices or --shape", "%s",
                    component->model.why.text);
    else if (is_absent || is_shape_alone(&component->model))
        problem_add(checker->problems, PROBLEM_NOTE, "model-elsewhere", name, "model", mark, NULL,
                    "'%.200s' is not on this machine: its files were not looked at", path);
    if (source == PLAN_MODEL_UNKNOWN && (!must_be_here || checker->target->is_elsewhere)) {
        char fix[320];
        snprintf(fix, sizeof fix, "give --shape '%.200s=NAME' or =config.json", path);
        problem_add(checker->problems, PROBLEM_WARNING, "model-unknown", name, "model", mark, fix,
                    "memory not checked: no model of this name is known");
    }
}

static void check_shape(struct checker *checker, const struct graph_plan_component *component) {
    enum plan_model_source source = component->model.source;
    if (source == PLAN_MODEL_UNKNOWN || source == PLAN_MODEL_BROKEN) return;
    const char *name = graph_section_name(component->section);
    const struct model_spec *spec = &component->model.spec;
    const struct options *options = section_of(checker, component)->options;
    struct err_text text;
    if (tensor_parallel_check(spec, component->tensor_parallel, &text))
        problem_add(checker->problems, PROBLEM_ERROR, "tp-heads", name, "tensor-parallel-size",
                    check_mark(checker, component->section, OPT_TENSOR_PARALLEL_SIZE),
                    "write one of these", "%s", text.text);
    if (options_is_set(options, OPT_MAX_MODEL_LEN) &&
        options_count(options, OPT_MAX_MODEL_LEN) > spec->context_tokens) {
        char fix[64];
        snprintf(fix, sizeof fix, "write max-model-len: %u", spec->context_tokens);
        struct problem *problem =
            problem_add(checker->problems, PROBLEM_ERROR, "len-beyond-model", name, "max-model-len",
                        check_mark(checker, component->section, OPT_MAX_MODEL_LEN), fix,
                        "%llu is more than the %u tokens that %s was made for",
                        (unsigned long long) options_count(options, OPT_MAX_MODEL_LEN),
                        spec->context_tokens, spec->name);
        problem_set_edit(problem, PROBLEM_EDIT_VALUE, 0, "%u", spec->context_tokens);
    }
}

/* --- memory --------------------------------------------------------------------------------- */

/* Its length is more than the model has: the room that lacks for it is the same mistake. */
static bool len_is_told(const struct checker *checker,
                        const struct graph_plan_component *component) {
    const struct options *options = section_of(checker, component)->options;
    return options_is_set(options, OPT_MAX_MODEL_LEN) &&
           options_count(options, OPT_MAX_MODEL_LEN) > component->model.spec.context_tokens;
}

static void check_memory(struct checker *checker, const struct graph_plan_component *component) {
    const char *name = graph_section_name(component->section);
    const struct plan *plan = component->plan;
    bool is_unserved = problem_find(checker->problems, "not-served", name) &&
                       component->model.source != PLAN_MODEL_UNBUILT;
    if (!plan || is_unserved || problem_find(checker->problems, "tp-heads", name)) return;
    /* A model that is not on the machine it is meant for has no bytes to count there. */
    if (component->model.source == PLAN_MODEL_CATALOG && !checker->target->is_elsewhere) return;
    if (check_is_refused(checker, component->section, OPT_TENSOR_PARALLEL_SIZE) ||
        check_is_refused(checker, component->section, OPT_GPU_MEMORY_UTILIZATION) ||
        check_is_refused(checker, component->section, OPT_MAX_MODEL_LEN))
        return;
    struct problem_mark mark = check_mark(checker, component->section, OPT_GPU_MEMORY_UTILIZATION);
    if (!plan->fits) {
        bool is_kv = component->budget.utilization > 0 && plan->kv_tokens > 0 &&
                     plan->kv_tokens < plan->model_len_max;
        if (is_kv && len_is_told(checker, component)) return;
        bool is_share = strstr(component->advice.text, "utilization") != NULL;
        bool is_len = strstr(component->advice.text, "max-model-len") != NULL;
        enum option_id key = is_share ? OPT_GPU_MEMORY_UTILIZATION
                             : is_len ? OPT_MAX_MODEL_LEN
                                      : OPT_TENSOR_PARALLEL_SIZE;
        struct problem *problem =
            problem_add(checker->problems, PROBLEM_ERROR, is_kv ? "kv-too-small" : "does-not-fit",
                        name, option_get(key)->name, check_mark(checker, component->section, key),
                        component->advice.text[0] ? component->advice.text : NULL, "%s",
                        component->verdict.text);
        static const char share[] = "set gpu-memory-utilization: ";
        if (strncmp(component->advice.text, share, strlen(share)) == 0)
            check_mend(checker, problem, component->section, OPT_GPU_MEMORY_UTILIZATION,
                       component->advice.text + strlen(share));
        return;
    }
    uint64_t tokens = 0;
    if (component->budget.utilization < LOW_UTILIZATION && plan->concurrency < LOW_REQUESTS &&
        check_is_written(checker, component->section, OPT_GPU_MEMORY_UTILIZATION) &&
        graph_plan_try(component, 0, 0.8, 0, &tokens))
        problem_add(checker->problems, PROBLEM_WARNING, "kv-small", name, "gpu-memory-utilization",
                    mark, "write gpu-memory-utilization: 0.8",
                    "at %.2g the KV room is %llu tokens, %.1f requests of %u; 0.8 gives %llu",
                    component->budget.utilization, (unsigned long long) plan->kv_tokens,
                    plan->concurrency, plan->model_len_max, (unsigned long long) tokens);
}

/* --- placement ------------------------------------------------------------------------------ */

/* Who found no room: the one that the sentence names. */
static const struct graph_plan_component *without_room(const struct checker *checker) {
    for (uint32_t i = 0; i < checker->plan.component_count; i++)
        if (strstr(checker->plan.place_text.text,
                   graph_section_name(checker->plan.components[i].section)))
            return &checker->plan.components[i];
    return &checker->plan.components[0];
}

static bool is_listed(const struct graph_section *section) {
    for (uint32_t i = 0; i < section->env_count; i++)
        if (strcmp(section->envs[i].name, "CUDA_VISIBLE_DEVICES") == 0) return true;
    return false;
}

static void refuse_place(struct checker *checker) {
    const struct graph_plan_component *component = without_room(checker);
    const struct graph_section *section = section_of(checker, component);
    const char *key = "ServiceArgs.workers", *fix = "take fewer workers, or more devices";
    struct problem_mark mark = section->replica_mark;
    if (is_listed(section)) {
        key = "ServiceArgs.envs";
        mark = section->env_mark;
        fix = "name devices that are there in CUDA_VISIBLE_DEVICES";
    } else if (component->replica_count == 1 && section->gpu_mark.line) {
        key = "ServiceArgs.resources.gpu";
        mark = section->gpu_mark;
    }
    if (!mark.line && !mark.is_flag) mark = section->mark;
    problem_add(checker->problems, PROBLEM_ERROR, "too-few-devices",
                graph_section_name(component->section), key, mark, fix, "%s",
                checker->plan.place_text.text);
}

static void check_place(struct checker *checker) {
    const struct graph_plan *plan = &checker->plan;
    bool is_excused = problem_find(checker->problems, "not-served", NULL) ||
                      problem_find(checker->problems, "gpu-differs", NULL) ||
                      problem_find(checker->problems, "bad-devices", NULL);
    if (plan->device_count && !plan->has_place && !is_excused) refuse_place(checker);
    if (!plan->has_place || plan->place.shared == UINT32_MAX) return;
    const struct place_group *a = &plan->place.groups[plan->place.shared_a];
    const struct place_group *b = &plan->place.groups[plan->place.shared_b];
    const struct graph_plan_component *component = &plan->components[b->request];
    problem_add(
        checker->problems, PROBLEM_ERROR, "device-twice", graph_section_name(component->section),
        "ServiceArgs.envs", section_of(checker, component)->env_mark,
        "name other devices in CUDA_VISIBLE_DEVICES", "device %u is given to %s %u and to %s %u",
        plan->place.shared, graph_section_name(plan->components[a->request].section), a->replica,
        graph_section_name(component->section), b->replica);
}

/* UUIDs: cards of the machine it is meant for, which only that machine knows. */
static bool names_cards(const char *value) {
    return strstr(value, "GPU-") || strstr(value, "MIG-");
}

static void check_list_words(struct checker *checker) {
    for (uint32_t i = 0; i < checker->plan.component_count; i++) {
        const struct graph_plan_component *component = &checker->plan.components[i];
        const struct graph_section *section = section_of(checker, component);
        for (uint32_t k = 0; k < section->env_count; k++) {
            uint32_t numbers[DEVICE_GPUS_MAX], count;
            struct err_text text;
            const char *value = section->envs[k].value;
            if (strcmp(section->envs[k].name, "CUDA_VISIBLE_DEVICES") != 0 || names_cards(value) ||
                strcasecmp(value, "all") == 0 ||
                !device_list_visible(value, NULL, &text, numbers, &count))
                continue;
            problem_add(checker->problems, PROBLEM_ERROR, "bad-devices",
                        graph_section_name(component->section), "ServiceArgs.envs",
                        section->env_mark, "write numbers: CUDA_VISIBLE_DEVICES \"0,1\"", "%s",
                        text.text);
        }
    }
}

/* Lists by hand, where no devices were given to place on: the numbers alone tell. */
static void check_lists(struct checker *checker) {
    uint32_t owner[DEVICE_GPUS_MAX] = {0};
    if (checker->plan.has_place) return;
    for (uint32_t i = 0; i < checker->plan.component_count; i++) {
        const struct graph_plan_component *component = &checker->plan.components[i];
        const struct graph_section *section = section_of(checker, component);
        for (uint32_t k = 0; k < section->env_count; k++) {
            uint32_t numbers[DEVICE_GPUS_MAX], count = 0;
            struct err_text text;
            if (strcmp(section->envs[k].name, "CUDA_VISIBLE_DEVICES") != 0 ||
                names_cards(section->envs[k].value) ||
                device_list_visible(section->envs[k].value, NULL, &text, numbers, &count))
                continue;
            bool is_short = count && count < component->replica_count * component->devices_asked;
            for (uint32_t n = 0; n < count; n++) {
                if ((owner[numbers[n]] && owner[numbers[n]] != i + 1) || (is_short && n == 0)) {
                    const char *other = graph_section_name(
                        checker->plan.components[owner[numbers[n]] ? owner[numbers[n]] - 1 : i]
                            .section);
                    problem_add(checker->problems, PROBLEM_ERROR, "device-twice",
                                graph_section_name(component->section), "ServiceArgs.envs",
                                section->env_mark, "name other devices in CUDA_VISIBLE_DEVICES",
                                "device %u is given twice: %s and %s", numbers[n], other,
                                graph_section_name(component->section));
                    return;
                }
                owner[numbers[n]] = i + 1;
            }
        }
    }
}

void check_devices(struct checker *checker) {
    for (uint32_t i = 0; i < checker->plan.component_count; i++) {
        const struct graph_plan_component *component = &checker->plan.components[i];
        check_gpu_count(checker, component);
        check_model(checker, component);
        check_shape(checker, component);
        check_memory(checker, component);
    }
    check_list_words(checker);
    check_place(checker);
    check_lists(checker);
}
