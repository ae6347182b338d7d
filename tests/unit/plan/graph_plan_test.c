/* Goal: the numbers of the story come out, the remedy named is one that works, and what is printed
 * fits a terminal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/alloc.h"
#include "model/model_catalog.h"
#include "model/published.h"
#include "plan/cuda_estimate.h"
#include "plan/graph_plan.h"

#define MODEL "/path/my/DeepSeek-R1-Distill-Qwen-32B"
#define RENAMED "--PrefillWorker.model=" MODEL

struct rig {
    struct graph graph;
    struct device_list devices;
    struct graph_plan plan;
    struct problem_list problems;
};

static void start(struct rig *rig, const char *devices, const char *const *overrides,
                  uint32_t override_count) {
    static char yaml[65536];
    char path[4096];
    const char *files = getenv("GRAMME_TEST_FILES");
    if (!files) skip();
    snprintf(path, sizeof path, "%s/check/disagg_router.oom-story.yaml", files);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size_t bytes = fread(yaml, 1, sizeof yaml, file);
    fclose(file);
    memset(rig, 0, sizeof *rig);
    struct graph_source source = {.name = "story",
                                  .yaml = (const uint8_t *) yaml,
                                  .bytes = bytes,
                                  .overrides = overrides,
                                  .override_count = override_count};
    struct err_text text;
    assert_int_equal(graph_read(GRAPH_DISAGG_ROUTER, &source, &rig->problems, &rig->graph), ERR_OK);
    assert_int_equal(device_list_parse(devices, NULL, &text, &rig->devices), ERR_OK);
    const struct graph_plan_target target = {.devices = &rig->devices, .thread_count = 1};
    assert_int_equal(graph_plan_make(&rig->graph, &target, &text, &rig->plan), ERR_OK);
}

static void stop(struct rig *rig) {
    graph_plan_release(&rig->plan);
    device_list_release(&rig->devices);
    graph_release(&rig->graph);
    problem_release(&rig->problems);
}

/* Lines and columns of what is printed. */
static void check_screen(const struct rig *rig) {
    struct buf out;
    buf_init(&out, 0);
    graph_plan_print(&rig->plan, &(struct graph_plan_style){0}, &out);
    uint32_t lines = 0, column = 0;
    for (size_t i = 0; i < out.bytes; i++) {
        column = out.data[i] == '\n' ? 0 : column + 1;
        lines += out.data[i] == '\n';
        if (lines) assert_true(column <= 80); /* the verdict is one sentence */
    }
    assert_true(lines <= 24);
    buf_release(&out);
}

static void test_the_story(void **state) {
    (void) state;
    static const char *const renamed[] = {RENAMED};
    struct rig rig;
    start(&rig, "16xA100-40GB", renamed, 1);
    assert_false(rig.plan.fits);
    const struct graph_plan_component *prefill = &rig.plan.components[1];
    assert_int_equal(prefill->section, GRAPH_PREFILL_WORKER);
    double weights = (double) graph_plan_weights(prefill) / (1u << 30);
    assert_true(weights > 61.02 && weights < 61.04);
    struct buf out;
    buf_init(&out, 0);
    graph_plan_print(&rig.plan, &(struct graph_plan_style){0}, &out);
    static const char first[] =
        "does not fit: PrefillWorker needs 61.0 GiB on a 39.39 GiB card; set "
        "tensor-parallel-size: 4\n";
    assert_memory_equal(out.data, first, strlen(first));
    buf_release(&out);
    check_screen(&rig);
    stop(&rig);
}

static void test_the_story_mended(void **state) {
    (void) state;
    static const char *const half[] = {RENAMED, "--PrefillWorker.tensor-parallel-size=4"};
    struct rig rig;
    start(&rig, "16xA100-40GB", half, 2);
    assert_true(rig.plan.fits);
    const struct graph_plan_component *decode = &rig.plan.components[0],
                                      *prefill = &rig.plan.components[1];
    double weights = (double) graph_plan_weights(prefill) / (1u << 30);
    assert_true(weights > 15.25 && weights < 15.27);
    assert_int_equal(prefill->plan->block_bytes, 64 * 65536);
    assert_true(prefill->plan->kv_tokens > 38000 && prefill->plan->kv_tokens < 42000);
    assert_true(prefill->plan->concurrency > 1.15 && prefill->plan->concurrency < 1.28);
    assert_true(decode->plan->kv_tokens > 230000 && decode->plan->kv_tokens < 238000);
    assert_true(decode->plan->concurrency > 7.0 && decode->plan->concurrency < 7.2);
    assert_int_equal(rig.plan.place.idle_count, 0);
    uint64_t tokens = 0;
    assert_true(graph_plan_try(prefill, 0, 0.8, 0, &tokens));
    assert_int_equal(tokens, decode->plan->kv_tokens);
    check_screen(&rig);
    stop(&rig);
}

/* design.md 9: the parts add up to the budget. */
static void test_the_parts_add_up(void **state) {
    (void) state;
    static const char *const mended[] = {RENAMED, "--PrefillWorker.tensor-parallel-size=4"};
    static const char *const devices[] = {"2x(8xA100-40GB)", "16xA100-40GB", "16xH100-80GB",
                                          "16xcpu:60GiB"};
    for (size_t i = 0; i < ARRAY_COUNT(devices); i++) {
        struct rig rig;
        start(&rig, devices[i], mended, 2);
        assert_true(rig.plan.fits);
        for (uint32_t c = 0; c < rig.plan.component_count; c++) {
            const struct plan *plan = rig.plan.components[c].plan;
            assert_int_equal(plan->total_bytes + plan->headroom_bytes, plan->budget_bytes);
            assert_true(plan->headroom_bytes < plan->block_bytes + 4096);
            assert_int_equal(plan->kv_tokens, (uint64_t) plan->block_count * 64);
        }
        stop(&rig);
    }
}

/* design.md 9's object, as a machine reads it. */
static void test_json(void **state) {
    (void) state;
    static const char *const mended[] = {RENAMED, "--PrefillWorker.tensor-parallel-size=4"};
    struct rig rig;
    start(&rig, "16xA100-40GB", mended, 2);
    struct buf out;
    buf_init(&out, 0);
    graph_plan_print_json(&rig.plan, &rig.problems, NULL, &out);
    json_t *root = json_loads(buf_string(&out), JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(root);
    assert_true(json_is_true(json_object_get(root, "fits")));
    json_t *components = json_object_get(root, "components");
    assert_int_equal(json_array_size(components), 2);
    for (size_t i = 0; i < 2; i++) {
        json_t *component = json_array_get(components, i);
        json_t *device = json_object_get(component, "per_device");
        json_t *groups = json_object_get(component, "devices");
        assert_int_equal(json_array_size(groups), 2);
        assert_int_equal(json_array_size(json_array_get(groups, 1)), 4);
        static const char *const parts[] = {"weights_bytes", "activations_bytes", "workspace_bytes",
                                            "context_bytes", "kv_bytes",          "headroom_bytes"};
        long long sum = 0;
        for (size_t k = 0; k < ARRAY_COUNT(parts); k++) {
            json_t *part = json_object_get(device, parts[k]);
            assert_true(json_is_integer(part));
            sum += json_integer_value(part);
        }
        assert_int_equal(sum, json_integer_value(json_object_get(device, "budget_bytes")));
        assert_int_equal(json_integer_value(json_object_get(device, "kv_tokens")),
                         64 * json_integer_value(json_object_get(device, "kv_blocks")));
    }
    json_decref(root);
    buf_release(&out);
    stop(&rig);
}

/* What is said to use the idle devices can be placed, and nothing more can. */
static void test_idle_devices(void **state) {
    (void) state;
    static const struct {
        const char *devices, *said;
    } rows[] = {
        {"32xA100-40GB", "16 of 32 idle: workers 4+4 would use them\n"},
        {"20xA100-40GB", "4 of 20 idle: workers 3+2 would use them\n"},
        {"22xA100-40GB", "6 of 22 idle: workers 3+2 would use all but 2\n"},
        {"2x(8xA100-40GB),(3xA100-40GB)", "3 of 19 idle\n"},
        {"16xA100-40GB", "all 16 devices are in use\n"},
        {"2x(8xA100-40GB),2x(6xA100-40GB)", "12 of 28 idle: workers 3+3 would use all but 4\n"},
    };
    static const char *const mended[] = {RENAMED, "--PrefillWorker.tensor-parallel-size=4"};
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        struct rig rig;
        struct buf out;
        start(&rig, rows[i].devices, mended, 2);
        buf_init(&out, 0);
        graph_plan_print(&rig.plan, &(struct graph_plan_style){0}, &out);
        if (!strstr(buf_string(&out), rows[i].said))
            fail_msg("%s: %s", rows[i].devices, buf_string(&out));
        buf_release(&out);
        stop(&rig);
    }
}

static void test_too_few_devices(void **state) {
    (void) state;
    static const char *const mended[] = {RENAMED, "--PrefillWorker.tensor-parallel-size=4"};
    struct rig rig;
    start(&rig, "12xA100-40GB", mended, 2);
    assert_false(rig.plan.fits);
    graph_plan_add_problems(&rig.plan, &rig.graph, &rig.problems);
    assert_non_null(problem_find(&rig.problems, "too-few-devices", NULL));
    stop(&rig);
}

/* Whatever is advised makes the component fit. */
static void test_advice_works(void **state) {
    (void) state;
    static const char *const cards[] = {"16xL4", "16xA10", "16xA100-80GB", "16xT4", "16xH200"};
    static const char *const overrides[] = {RENAMED, "--PrefillWorker.ServiceArgs.resources.gpu=1",
                                            "--VllmWorker.ServiceArgs.resources.gpu=1",
                                            "--VllmWorker.tensor-parallel-size=1"};
    for (size_t i = 0; i < ARRAY_COUNT(cards); i++) {
        struct rig rig;
        start(&rig, cards[i], overrides, 4);
        for (uint32_t c = 0; c < rig.plan.component_count; c++) {
            const struct graph_plan_component *component = &rig.plan.components[c];
            unsigned ranks = 0;
            double share = 0;
            const char *advice = component->advice.text;
            const char *at = strstr(advice, "tensor-parallel-size: ");
            if (at) sscanf(at, "tensor-parallel-size: %u", &ranks);
            at = strstr(advice, "utilization: ");
            if (at) sscanf(at, "utilization: %lf", &share);
            assert_true(component->plan->fits == !*advice);
            if (ranks || share > 0) assert_true(graph_plan_try(component, ranks, share, 0, NULL));
            else if (*advice) assert_non_null(strstr(advice, "take larger"));
        }
        stop(&rig);
    }
}

/* The weights of each shape of the catalogue are two bytes for each parameter that its makers
 * publish, on one card and summed over the ranks of a cut (norms stand on every rank). */
static void test_weights_as_published(void **state) {
    (void) state;
    const struct cuda_estimate_format format = {.weight_bits = 16};
    struct mem_plan *plan = alloc_zero(1, sizeof *plan);
    assert_non_null(plan);
    for (size_t i = 0; i < ARRAY_COUNT(published); i++) {
        struct model_spec spec;
        struct err_text text;
        struct backend *backend;
        assert_true(model_catalog_find(published[i].name, &spec));
        struct backend_options options = {.rank_count = 1,
                                          .block_size = 16,
                                          .seat_count = 1,
                                          .batched_tokens_max = 16,
                                          .row_tile = 16,
                                          .model_len_max = 16};
        assert_int_equal(cuda_estimate_open(&spec, &options, &format, &text, &backend), ERR_OK);
        plan->line_count = 0;
        backend_ops_of(backend)->plan(backend, 0, plan);
        uint64_t bytes = mem_plan_kind_total(plan, MEM_WEIGHTS);
        if (bytes != 2 * published[i].parameters)
            fail_msg("%s: %llu bytes for %llu parameters", published[i].name,
                     (unsigned long long) bytes, (unsigned long long) published[i].parameters);
        cuda_estimate_close(backend);
    }
    alloc_free(plan);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weights_as_published),
        cmocka_unit_test(test_the_story),
        cmocka_unit_test(test_the_story_mended),
        cmocka_unit_test(test_the_parts_add_up),
        cmocka_unit_test(test_too_few_devices),
        cmocka_unit_test(test_advice_works),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_idle_devices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
