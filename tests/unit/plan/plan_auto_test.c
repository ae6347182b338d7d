/* Goal: what the plan chooses for "auto" fits and is the best by its rule, and what is said to fit
 * does while the next value up does not: over random models, cards and settings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "backend/tensor_parallel.h"
#include "base/alloc.h"
#include "plan/check.h"
#include "plan/plan_auto.h"
#include "plan/plan_rig.h"

#define QWEN "/m/DeepSeek-R1-Distill-Qwen-32B"

static void start(struct rig *rig, enum graph_kind kind, const char *yaml, const char *devices) {
    struct err_text text = {0};
    read_rig(rig, kind, yaml, devices);
    assert_int_equal(plan_auto_choose(&rig->graph, &rig->target, &text, &rig->chosen), ERR_OK);
    assert_int_equal(graph_plan_make(&rig->graph, &rig->target, &text, &rig->plan), ERR_OK);
}

static const char *value_of(const struct rig *rig, enum graph_section_id section,
                            enum option_id id) {
    for (uint32_t i = 0; i < rig->chosen.count; i++)
        if (rig->chosen.choices[i].section == section && rig->chosen.choices[i].id == id)
            return rig->chosen.choices[i].value;
    return "none";
}

static bool try_change(const struct graph_plan_component *component,
                       struct graph_plan_change change) {
    struct plan *plan = alloc_zero(1, sizeof *plan);
    bool fits = !graph_plan_change(component, &change, plan) && plan->fits;
    alloc_free(plan);
    return fits;
}

/* The story, left to the plan. */
static void test_the_story_by_itself(void **state) {
    (void) state;
    static const char yaml[] =
        "Common:\n  model: " QWEN "\n  max-model-len: 32768\n  block-size: 64\n"
        "VllmWorker:\n  remote-prefill: true\n  tensor-parallel-size: auto\n"
        "  gpu-memory-utilization: 0.8\n  max-num-batched-tokens: 32768\n"
        "  common-configs: [model, max-model-len, block-size]\n"
        "PrefillWorker:\n  tensor-parallel-size: auto\n  gpu-memory-utilization: auto\n"
        "  max-num-batched-tokens: 32768\n  ServiceArgs: {resources: {gpu: 8}}\n"
        "  common-configs: [model, max-model-len, block-size]\n";
    struct rig rig;
    start(&rig, GRAPH_DISAGG, yaml, "16xA100-40GB");
    assert_string_equal(value_of(&rig, GRAPH_VLLM_WORKER, OPT_TENSOR_PARALLEL_SIZE), "4");
    assert_string_equal(value_of(&rig, GRAPH_PREFILL_WORKER, OPT_TENSOR_PARALLEL_SIZE), "8");
    assert_string_equal(value_of(&rig, GRAPH_PREFILL_WORKER, OPT_GPU_MEMORY_UTILIZATION), "0.95");
    assert_int_equal(rig.chosen.count, 3);
    assert_true(rig.plan.fits);
    assert_false(plan_auto_is_wanted(&rig.graph));
    /* The graph reads as if they had been written, and as such it has no errors. */
    assert_int_equal(
        options_count(rig.graph.sections[GRAPH_VLLM_WORKER].options, OPT_TENSOR_PARALLEL_SIZE), 4);
    const struct check_target check = {.plan = &rig.target, .is_elsewhere = true};
    assert_int_equal(check_graph(&rig.graph, &check, &rig.problems), ERR_OK);
    assert_int_equal(problem_count(&rig.problems, PROBLEM_ERROR), 0);
    struct buf line;
    buf_init(&line, 0);
    plan_auto_print(&rig.chosen.choices[1], &line);
    assert_string_equal(buf_string(&line),
                        "VllmWorker.tensor-parallel-size: auto is 4: smallest that holds 32768 "
                        "tokens");
    buf_release(&line);
    stop(&rig);
}

/* A common key, one choice a worker; a flag beats the file; degrees agree. */
static void test_every_source(void **state) {
    (void) state;
    static const char yaml[] = "Common:\n  model: Llama-3.1-70B-Instruct\n  max-model-len: auto\n"
                               "VllmWorker:\n  remote-prefill: true\n  tensor-parallel-size: 3\n"
                               "  common-configs: [model, max-model-len]\n"
                               "PrefillWorker:\n  tensor-parallel-size: auto\n"
                               "  common-configs: [model, max-model-len]\n";
    struct rig rig;
    start(&rig, GRAPH_DISAGG, yaml, "16xH100-80GB");
    /* 3 divides no heads of it: told by check, not passed over. */
    assert_string_equal(value_of(&rig, GRAPH_VLLM_WORKER, OPT_MAX_MODEL_LEN), "none");
    assert_false(rig.plan.fits);
    stop(&rig);
    char two[sizeof yaml];
    memcpy(two, yaml, sizeof yaml);
    *(strstr(two, "size: 3") + 6) = '4';
    start(&rig, GRAPH_DISAGG, two, "16xH100-80GB");
    assert_string_equal(value_of(&rig, GRAPH_VLLM_WORKER, OPT_MAX_MODEL_LEN), "131072");
    assert_string_equal(value_of(&rig, GRAPH_PREFILL_WORKER, OPT_TENSOR_PARALLEL_SIZE), "4");
    assert_true(rig.plan.fits);
    stop(&rig);
}

/* 40 heads, 40 KV heads, 8 segments: 5 is legal and not exact, and on these cards 4 is too few. */
#define THIRTEEN                                                                                   \
    "Common:\n  model: Llama-2-13B\n  max-model-len: 2048\n  max-num-seqs: 8\n"                    \
    "  max-num-batched-tokens: 512\n  gpu-memory-utilization: 0.47\n"
#define OF_COMMON                                                                                  \
    "  common-configs: [model, max-model-len, max-num-seqs, max-num-batched-tokens, "              \
    "gpu-memory-utilization]\n"

/* A larger degree with the bits of one rank goes before a smaller one without; where none of those
 * fits, the other is taken, and the reason and the plan say what is lost. */
static void test_exact_degrees_first(void **state) {
    (void) state;
    static const char yaml[] = THIRTEEN "VllmWorker:\n  tensor-parallel-size: auto\n" OF_COMMON;
    static const struct {
        const char *devices, *value;
        bool is_exact;
    } rows[] = {{"8xT4", "8", true}, {"7xT4", "5", false}};
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        struct rig rig;
        start(&rig, GRAPH_AGG, yaml, rows[i].devices);
        const struct graph_plan_component *component = &rig.plan.components[0];
        assert_string_equal(value_of(&rig, GRAPH_VLLM_WORKER, OPT_TENSOR_PARALLEL_SIZE),
                            rows[i].value);
        assert_false(try_change(component, (struct graph_plan_change){.tensor_parallel = 4}));
        assert_true(try_change(component, (struct graph_plan_change){.tensor_parallel = 5}));
        const char *loss = "; not bitwise the answers of one rank";
        assert_int_equal(strstr(rig.chosen.choices[0].reason.text, loss) == NULL, rows[i].is_exact);
        struct buf out;
        buf_init(&out, 0);
        const struct graph_plan_style style = {0};
        graph_plan_print(&rig.plan, &style, &out);
        const char *line = "\nVllmWorker: TP 5 gives not bitwise the answers of one rank\n";
        assert_int_equal(strstr(buf_string(&out), line) == NULL, rows[i].is_exact);
        buf_release(&out);
        graph_plan_add_problems(&rig.plan, &rig.graph, &rig.problems);
        assert_int_equal(problem_find(&rig.problems, "not-bitwise", "VllmWorker") == NULL,
                         rows[i].is_exact);
        stop(&rig);
    }
}

/* 8 would do, and be exact, but its ranks cannot be fed evenly by 5. */
static void test_degrees_agree(void **state) {
    (void) state;
    static const char yaml[] =
        THIRTEEN "VllmWorker:\n  remote-prefill: true\n  tensor-parallel-size: 5\n" OF_COMMON
                 "PrefillWorker:\n  tensor-parallel-size: auto\n" OF_COMMON;
    struct rig rig;
    start(&rig, GRAPH_DISAGG, yaml, "16xT4");
    assert_string_equal(value_of(&rig, GRAPH_PREFILL_WORKER, OPT_TENSOR_PARALLEL_SIZE), "5");
    assert_true(
        try_change(&rig.plan.components[1], (struct graph_plan_change){.tensor_parallel = 8}));
    stop(&rig);
}

/* Nothing is tried where nothing is known, and nothing is broken by it. */
static void test_an_unknown_model(void **state) {
    (void) state;
    static const char yaml[] = "VllmWorker:\n  model: /m/nobody-knows\n  max-model-len: auto\n"
                               "  tensor-parallel-size: auto\n";
    struct rig rig;
    start(&rig, GRAPH_AGG, yaml, "8xL4");
    assert_string_equal(value_of(&rig, GRAPH_VLLM_WORKER, OPT_TENSOR_PARALLEL_SIZE), "1");
    assert_string_equal(value_of(&rig, GRAPH_VLLM_WORKER, OPT_MAX_MODEL_LEN), "none");
    assert_true(options_is_auto(rig.graph.sections[GRAPH_VLLM_WORKER].options, OPT_MAX_MODEL_LEN));
    stop(&rig);
}

/* Others hold the rest of the card. */
static void test_a_share_of_what_is_free(void **state) {
    (void) state;
    static const char yaml[] = "VllmWorker:\n  model: Qwen2.5-7B\n  max-model-len: auto\n"
                               "  gpu-memory-utilization: auto\n";
    struct rig rig;
    struct err_text text;
    read_rig(&rig, GRAPH_AGG, yaml, "1xA100-40GB");
    rig.devices.items[0].free_bytes = 20ull << 30;
    assert_int_equal(plan_auto_choose(&rig.graph, &rig.target, &text, &rig.chosen), ERR_OK);
    assert_int_equal(graph_plan_make(&rig.graph, &rig.target, &text, &rig.plan), ERR_OK);
    assert_string_equal(value_of(&rig, GRAPH_VLLM_WORKER, OPT_GPU_MEMORY_UTILIZATION), "0.50");
    assert_true(rig.plan.fits);
    assert_true(rig.plan.components[0].plan->total_bytes <= 20ull << 30);
    stop(&rig);
}

/* The machine's own memory: the CPU's rule, as a share. */
static void test_the_own_cpu(void **state) {
    (void) state;
    static const char yaml[] =
        "VllmWorker:\n  model: SmolLM2-135M\n  load-format: dummy\n  tensor-parallel-size: auto\n"
        "  max-model-len: auto\n  gpu-memory-utilization: auto\n";
    struct rig rig;
    start(&rig, GRAPH_AGG, yaml, NULL);
    assert_string_equal(value_of(&rig, GRAPH_VLLM_WORKER, OPT_TENSOR_PARALLEL_SIZE), "1");
    assert_string_equal(value_of(&rig, GRAPH_VLLM_WORKER, OPT_MAX_MODEL_LEN), "8192");
    assert_int_equal(rig.chosen.count, 3);
    assert_true(rig.plan.fits);
    assert_true(rig.plan.components[0].plan->kv_tokens >= 8 * 8192);
    stop(&rig);
    /* Three ranks share that memory: the share is that of all of them. */
    char three[sizeof yaml];
    memcpy(three, yaml, sizeof yaml);
    memcpy(strstr(three, "auto"), "3   ", 4);
    start(&rig, GRAPH_AGG, three, NULL);
    assert_true(rig.plan.fits);
    assert_true(rig.plan.components[0].plan->kv_tokens >= 8 * 8192);
    stop(&rig);
}

/* --- properties --------------------------------------------------------------------------- */

static uint64_t state_of_random;
static uint32_t draw(uint32_t below) {
    state_of_random = state_of_random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t) (state_of_random >> 33) % below;
}
#define DRAW(words) words[draw(ARRAY_COUNT(words))]

static const char *const models[] = {"Llama-3.1-8B", "Qwen2.5-32B-FP8", "Qwen3-14B-AWQ",
                                     "SmolLM2-1.7B", "Llama-3.3-70B",   "Mistral-Nemo-2407"};
static const char *const cards[] = {"8xA100-40GB", "4xH100-80GB", "8xL4",   "16xT4",
                                    "2x(8xH200)",  "4xV100-32GB", "RTX4090"};
static const char *const degrees[] = {"1", "2", "4", "8", "auto"};
static const char *const shares[] = {"0.5", "0.73", "0.9", "auto", "1"};
static const char *const lens[] = {"2048", "8192", "32768", "auto"};
static const char *const steps[] = {"512", "2048", "32768"};
static const char *const blocks[] = {"16", "64", "128"};

static void check_fit(const struct graph_plan_component *component) {
    struct plan_auto_fit fit;
    const struct model_spec *spec = &component->model.spec;
    assert_int_equal(plan_auto_fit(component, &fit), ERR_OK);
    bool is_open = component->budget.may_shrink_len && !component->plan->fits;
    uint32_t len =
        component->plan->fits ? component->plan->model_len_max : component->options.model_len_max;
    if (is_open) len = 0;
    uint32_t most = fit.model_len_max, next = most + 1;
    if (most) assert_true(try_change(component, (struct graph_plan_change){.model_len = most}));
    if (most < spec->context_tokens)
        assert_false(try_change(component, (struct graph_plan_change){.model_len = next}));
    struct graph_plan_change change = {.model_len = len};
    change.batched_tokens = fit.batched_tokens_max;
    if (fit.batched_tokens_max) assert_true(try_change(component, change));
    change.batched_tokens =
        fit.batched_tokens_max ? fit.batched_tokens_max + 1 : component->options.seat_count;
    if (fit.batched_tokens_max < 1048576) assert_false(try_change(component, change));
    for (uint32_t ranks = 1; ranks <= component->node_devices; ranks++) {
        if (!tensor_parallel_is_legal(spec, ranks)) continue;
        change = (struct graph_plan_change){.tensor_parallel = ranks, .model_len = len};
        bool is_smaller = !fit.tensor_parallel_min || ranks < fit.tensor_parallel_min;
        if (is_smaller) assert_false(try_change(component, change));
        if (ranks == fit.tensor_parallel_min) assert_true(try_change(component, change));
    }
    for (uint32_t i = 1; i < PLAN_AUTO_SHARES; i++)
        assert_true(fit.kv_tokens[i] >= fit.kv_tokens[i - 1]);
}

static void test_random_settings(void **state) {
    (void) state;
    state_of_random = (uint64_t) time(NULL);
    const char *given = getenv("GRAMME_TEST_SEED");
    if (given) state_of_random = strtoull(given, NULL, 10);
    print_message("seed %llu\n", (unsigned long long) state_of_random);
    uint32_t fit_count = 0;
    for (int round = 0; round < 150; round++) {
        char yaml[600];
        const char *devices = DRAW(cards);
        snprintf(yaml, sizeof yaml,
                 "VllmWorker:\n  model: /m/%s\n  tensor-parallel-size: %s\n"
                 "  gpu-memory-utilization: %s\n  max-model-len: %s\n"
                 "  max-num-batched-tokens: %s\n  block-size: %s\n  max-num-seqs: %u\n",
                 DRAW(models), DRAW(degrees), DRAW(shares), DRAW(lens), DRAW(steps), DRAW(blocks),
                 1 + draw(256));
        struct rig rig, again;
        start(&rig, GRAPH_AGG, yaml, devices);
        start(&again, GRAPH_AGG, yaml, devices);
        const struct graph_plan_component *component = &rig.plan.components[0];
        /* Deterministic. */
        assert_int_equal(rig.chosen.count, again.chosen.count);
        for (uint32_t i = 0; i < rig.chosen.count; i++)
            assert_string_equal(rig.chosen.choices[i].value, again.chosen.choices[i].value);
        if (component->plan) {
            check_fit(component);
            fit_count += component->plan->fits;
            /* A length that was chosen fits. */
            if (strcmp(value_of(&rig, GRAPH_VLLM_WORKER, OPT_MAX_MODEL_LEN), "none") != 0)
                assert_true(component->plan->fits);
        }
        stop(&again);
        stop(&rig);
    }
    assert_true(fit_count > 20);
}

static void test_out_of_memory(void **state) {
    (void) state;
    static const char yaml[] =
        "VllmWorker:\n  model: Qwen2.5-7B\n  max-model-len: auto\n  remote-prefill: true\n"
        "  gpu-memory-utilization: auto\n  tensor-parallel-size: auto\n"
        "PrefillWorker:\n  model: Qwen2.5-7B\n  tensor-parallel-size: auto\n";
    bool is_done = false;
    for (long n = 0; !is_done; n++) {
        struct rig rig;
        struct err_text text;
        read_rig(&rig, GRAPH_DISAGG, yaml, "4xL4");
        alloc_fail_at((uint64_t) n + 1, 0);
        enum err e = plan_auto_choose(&rig.graph, &rig.target, &text, &rig.chosen);
        is_done = alloc_count() <= (uint64_t) n;
        alloc_fail_at(0, 0);
        assert_true(e == ERR_OK || (e == ERR_MEMORY && !is_done));
        assert_true(n < 1000);
        stop(&rig);
    }
    struct rig rig;
    struct plan_auto_fit fit;
    start(&rig, GRAPH_DISAGG, yaml, "4xL4");
    is_done = false;
    for (long n = 0; !is_done; n++) {
        alloc_fail_at((uint64_t) n + 1, 0);
        enum err e = plan_auto_fit(&rig.plan.components[0], &fit);
        is_done = alloc_count() <= (uint64_t) n;
        alloc_fail_at(0, 0);
        assert_int_equal(e, is_done ? ERR_OK : ERR_MEMORY);
        assert_true(n < 1000);
    }
    stop(&rig);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_story_by_itself), cmocka_unit_test(test_every_source),
        cmocka_unit_test(test_degrees_agree),       cmocka_unit_test(test_exact_degrees_first),
        cmocka_unit_test(test_an_unknown_model),    cmocka_unit_test(test_a_share_of_what_is_free),
        cmocka_unit_test(test_the_own_cpu),         cmocka_unit_test(test_random_settings),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
