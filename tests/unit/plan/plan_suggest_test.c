/* Goal: every layout suggested can be placed and holds the load's requests, keeps the targets it
 * says it keeps, and comes in the order of what it does; what is printed fits a terminal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>
#include <jansson.h>

#include "backend/tensor_parallel.h"
#include "base/alloc.h"
#include "plan/plan_rig.h"
#include "plan/plan_suggest.h"

static void start_text(struct rig *rig, enum graph_kind kind, const char *yaml,
                       const char *devices) {
    struct err_text text = {0};
    read_rig(rig, kind, yaml, devices);
    assert_int_equal(graph_plan_make(&rig->graph, &rig->target, &text, &rig->plan), ERR_OK);
}

static void start(struct rig *rig, enum graph_kind kind, const char *model, const char *devices) {
    char yaml[512];
    snprintf(yaml, sizeof yaml,
             "Common:\n  model: %s\n  max-model-len: 8192\n  load-format: dummy\n"
             "VllmWorker:\n  remote-prefill: true\n  tensor-parallel-size: 2\n"
             "  common-configs: [model, max-model-len, load-format]\n"
             "PrefillWorker:\n  tensor-parallel-size: 2\n"
             "  common-configs: [model, max-model-len, load-format]\n",
             model);
    start_text(rig, kind, yaml, devices);
}

static void suggest(struct rig *rig, const struct plan_suggest_load *load) {
    assert_int_equal(plan_suggest_make(&rig->graph, &rig->plan, &rig->target, load, &rig->suggest),
                     ERR_OK);
}

/* place.c, which serve uses, finds room for it. */
static void check_layout(const struct rig *rig, const struct plan_suggest_layout *layout) {
    struct place_request requests[2] = {
        {.name = "D", .replica_count = layout->decode.count, .device_count = layout->decode.ranks},
        {.name = "P",
         .replica_count = layout->prefill.count,
         .device_count = layout->prefill.ranks}};
    struct place place;
    struct err_text text;
    const struct model_spec *spec = &rig->plan.components[0].model.spec;
    uint32_t d = layout->decode.ranks, p = layout->is_disagg ? layout->prefill.ranks : d;
    assert_true(layout->decode.count > 0 && tensor_parallel_is_legal(spec, d));
    assert_true(tensor_parallel_is_legal(spec, p) && (d % p == 0 || p % d == 0));
    assert_true(layout->ttft_s > 0 && layout->itl_s > 0 && layout->requests_per_s > 0);
    assert_true(layout->device_count ==
                d * layout->decode.count + (layout->is_disagg ? p * layout->prefill.count : 0));
    enum err e = place_make(requests, layout->is_disagg ? 2 : 1, &rig->devices, &text, &place);
    if (e) fail_msg("%s", text.text);
    place_release(&place);
    const struct plan_suggest_load *load = &rig->suggest.load;
    if (layout->meets && load->ttft_s > 0) assert_true(layout->ttft_s <= load->ttft_s);
    if (layout->meets && load->itl_s > 0) assert_true(layout->itl_s <= load->itl_s);
    double under_way =
        layout->requests_per_s * (layout->ttft_s + load->output_tokens * layout->itl_s);
    if (load->concurrency) assert_true(under_way <= load->concurrency * 1.0001);
}

static void check_screen(const struct plan_suggest *suggest, bool is_explained) {
    struct buf out;
    buf_init(&out, 0);
    plan_suggest_print(suggest, is_explained, &out);
    uint32_t column = 0;
    for (size_t i = 0; i < out.bytes; i++) {
        column = out.data[i] == '\n' ? 0 : column + 1;
        assert_true(column <= 80);
    }
    buf_release(&out);
    buf_init(&out, 0);
    plan_suggest_print_json(suggest, &out);
    json_t *root = json_loads(buf_string(&out), JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(root);
    assert_string_equal(json_string_value(json_object_get(root, "kind")), "prediction");
    assert_int_equal(json_array_size(json_object_get(root, "layouts")), suggest->count);
    json_decref(root);
    buf_release(&out);
}

static void test_random_loads(void **state) {
    (void) state;
    static const char *const models[] = {"Llama-3.1-8B", "Qwen2.5-32B", "Llama-3.3-70B-FP8"};
    static const char *const cards[] = {"16xA100-40GB", "2x(8xH100-80GB)", "8xH200", "6xA100-80GB",
                                        "3x(4xL40S)"};
    unsigned seed = (unsigned) time(NULL);
    const char *given = getenv("GRAMME_TEST_SEED");
    if (given) seed = (unsigned) strtoul(given, NULL, 10);
    print_message("seed %u\n", seed);
    srand(seed);
    uint32_t count = 0, met_count = 0;
    for (int round = 0; round < 60; round++) {
        struct rig rig;
        start(&rig, rand() % 2 ? GRAPH_AGG : GRAPH_DISAGG, models[rand() % 3], cards[rand() % 5]);
        struct plan_suggest_load load = {
            .input_tokens = 1 + (uint32_t) rand() % 6000,
            .output_tokens = 1 + (uint32_t) rand() % 2000,
            .concurrency = rand() % 2 ? 1 + (uint32_t) rand() % 500 : 0,
            .ttft_s = rand() % 2 ? (rand() % 3000 + 1) / 1e3 : 0,
            .itl_s = rand() % 2 ? (rand() % 60 + 1) / 1e3 : 0,
        };
        suggest(&rig, &load);
        for (uint32_t i = 0; i < rig.suggest.count; i++) {
            const struct plan_suggest_layout *layout = &rig.suggest.layouts[i];
            check_layout(&rig, layout);
            met_count += layout->meets;
            if (!i) continue;
            assert_true(layout->meets <= layout[-1].meets);
            if (layout->meets == layout[-1].meets)
                assert_true(layout->output_tokens_per_s <= 1.05 * layout[-1].output_tokens_per_s);
        }
        count += rig.suggest.count;
        assert_true(rig.suggest.count > 0 || rig.suggest.why.text[0]);
        check_screen(&rig.suggest, rand() % 2);
        stop(&rig);
    }
    assert_true(count > 60 && met_count > 20 && met_count <= count);
}

/* Answers shall not wait for prompts: then the split wins. */
static void test_a_target_calls_for_a_split(void **state) {
    (void) state;
    struct rig rig;
    start(&rig, GRAPH_DISAGG, "Qwen2.5-32B", "16xH100-80GB");
    struct plan_suggest_load load = {.input_tokens = 6000, .output_tokens = 300, .itl_s = 0.018};
    suggest(&rig, &load);
    assert_true(rig.suggest.count >= 2);
    assert_true(rig.suggest.layouts[0].is_disagg && rig.suggest.layouts[0].meets);
    assert_true(rig.suggest.has_written && rig.suggest.written.prefill.ranks == 2);
    stop(&rig);
}

/* More under way: more tokens a second, and each of them later. */
static void test_concurrency(void **state) {
    (void) state;
    struct rig rig;
    start(&rig, GRAPH_AGG, "Llama-3.1-8B", "4xH200");
    double before_tokens = 0, before_itl = 0;
    for (uint32_t concurrency = 1; concurrency <= 64; concurrency *= 4) {
        struct plan_suggest_load load = {
            .input_tokens = 1024, .output_tokens = 256, .concurrency = concurrency};
        suggest(&rig, &load);
        assert_true(rig.suggest.has_written);
        assert_true(rig.suggest.written.output_tokens_per_s > before_tokens);
        assert_true(rig.suggest.written.itl_s > before_itl);
        before_tokens = rig.suggest.written.output_tokens_per_s;
        before_itl = rig.suggest.written.itl_s;
    }
    stop(&rig);
}

/* vLLM 0.26 over HTTP on an H200, Llama-3.1-8B, 2026-11-23: steps of up to 8,192 prompt tokens. */
static void test_beside_a_server_measured(void **state) {
    (void) state;
    static const struct {
        uint32_t concurrency, input, output;
        double tokens_per_s;
    } rows[] = {{1, 128, 128, 199},  {1, 1024, 128, 192},   {1, 8192, 32, 88},
                {4, 1024, 128, 684}, {32, 1024, 128, 2597}, {128, 512, 256, 8346}};
    struct rig rig;
    static const char yaml[] = "VllmWorker:\n  model: Llama-3.1-8B\n  max-num-seqs: 256\n"
                               "  max-num-batched-tokens: 8192\n  prefill-chunk: 8192\n";
    start_text(&rig, GRAPH_AGG, yaml, "1xH200");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct plan_suggest_load load = {.input_tokens = rows[i].input,
                                         .output_tokens = rows[i].output,
                                         .concurrency = rows[i].concurrency};
        suggest(&rig, &load);
        assert_true(rig.suggest.has_written);
        double error = rig.suggest.written.output_tokens_per_s / rows[i].tokens_per_s - 1;
        print_message("%3u under way, %4u in, %3u out: predicted %5.0f measured %5.0f tok/s "
                      "%+.0f %%\n",
                      load.concurrency, load.input_tokens, load.output_tokens,
                      rig.suggest.written.output_tokens_per_s, rows[i].tokens_per_s, 100 * error);
        assert_true(error > -0.1 && error < 0.1);
    }
    stop(&rig);
}

static void test_a_cpu(void **state) {
    (void) state;
    struct rig rig;
    start(&rig, GRAPH_AGG, "tiny-llama-test", "4xcpu:1GiB");
    struct plan_suggest_load load = {.input_tokens = 100, .output_tokens = 10, .thread_count = 2};
    suggest(&rig, &load);
    assert_true(rig.suggest.is_assumed && rig.suggest.count > 0);
    double assumed = rig.suggest.layouts[0].output_tokens_per_s;
    load.read_gb_per_s = 1000;
    load.tflops = 10;
    suggest(&rig, &load);
    assert_false(rig.suggest.is_assumed);
    assert_true(rig.suggest.layouts[0].output_tokens_per_s > assumed);
    stop(&rig);
}

/* None is as good as a reason. */
static void test_none(void **state) {
    (void) state;
    struct rig rig;
    struct plan_suggest_load load = {.input_tokens = 100, .output_tokens = 10};
    start(&rig, GRAPH_AGG, "Llama-3.1-405B", "2xT4");
    suggest(&rig, &load);
    assert_int_equal(rig.suggest.count, 0);
    assert_non_null(strstr(rig.suggest.why.text, "no degree"));
    check_screen(&rig.suggest, true);
    stop(&rig);
    start(&rig, GRAPH_AGG, "Qwen2.5-7B", "2xH100");
    load.input_tokens = 8190;
    suggest(&rig, &load);
    assert_int_equal(rig.suggest.count, 0);
    assert_non_null(strstr(rig.suggest.why.text, "longer than max-model-len 8192"));
    load.input_tokens = 100;
    stop(&rig);
    start(&rig, GRAPH_AGG, "/m/nobody", "2xcuda0:20GiB");
    suggest(&rig, &load);
    assert_non_null(strstr(rig.suggest.why.text, "unknown"));
    stop(&rig);
    start(&rig, GRAPH_AGG, "Qwen2.5-7B", "2xcuda0:20GiB");
    suggest(&rig, &load);
    assert_non_null(strstr(rig.suggest.why.text, "--device-rates"));
    stop(&rig);
}

/* The best of two kinds of cards is no measure for all of them. */
static void test_mixed_cards(void **state) {
    (void) state;
    struct rig mixed, slow;
    struct plan_suggest_load load = {.input_tokens = 1000, .output_tokens = 100};
    start(&mixed, GRAPH_AGG, "Qwen2.5-7B", "4xL4,2xL40S");
    start(&slow, GRAPH_AGG, "Qwen2.5-7B", "6xL4");
    suggest(&mixed, &load);
    suggest(&slow, &load);
    assert_true(mixed.suggest.is_mixed && !slow.suggest.is_mixed);
    assert_int_equal(mixed.suggest.count, slow.suggest.count);
    assert_true(mixed.suggest.count > 0);
    for (uint32_t i = 0; i < mixed.suggest.count; i++)
        assert_true(mixed.suggest.layouts[i].output_tokens_per_s ==
                    slow.suggest.layouts[i].output_tokens_per_s);
    stop(&mixed);
    stop(&slow);
}

/* Without devices there is nothing to split: the graph alone is predicted, its workers sharing. */
static void test_the_own_machine(void **state) {
    (void) state;
    struct rig one, two;
    struct plan_suggest_load load = {.input_tokens = 1000, .output_tokens = 100, .concurrency = 1};
    start_text(&one, GRAPH_AGG, "VllmWorker:\n  model: tiny-llama-test\n  load-format: dummy\n",
               NULL);
    start_text(&two, GRAPH_AGG,
               "VllmWorker:\n  model: tiny-llama-test\n  load-format: dummy\n"
               "  ServiceArgs: {workers: 2}\n",
               NULL);
    load.input_tokens = 200;
    suggest(&one, &load);
    suggest(&two, &load);
    assert_true(one.suggest.has_written && !one.suggest.count);
    assert_true(two.suggest.has_written && two.suggest.written.itl_s > one.suggest.written.itl_s);
    check_screen(&one.suggest, false);
    stop(&one);
    stop(&two);
}

static void test_out_of_memory(void **state) {
    (void) state;
    struct rig rig;
    struct plan_suggest_load load = {.input_tokens = 100, .output_tokens = 10};
    start(&rig, GRAPH_DISAGG, "Qwen2.5-7B", "4xL4");
    for (uint64_t n = 1;; n++) {
        alloc_fail_at(n, 0);
        enum err e = plan_suggest_make(&rig.graph, &rig.plan, &rig.target, &load, &rig.suggest);
        bool is_over = alloc_count() < n;
        alloc_fail_at(0, 0);
        assert_int_equal(e, is_over ? ERR_OK : ERR_MEMORY);
        if (is_over) break;
    }
    stop(&rig);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_loads),  cmocka_unit_test(test_a_target_calls_for_a_split),
        cmocka_unit_test(test_concurrency),   cmocka_unit_test(test_beside_a_server_measured),
        cmocka_unit_test(test_a_cpu),         cmocka_unit_test(test_none),
        cmocka_unit_test(test_mixed_cards),   cmocka_unit_test(test_the_own_machine),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
