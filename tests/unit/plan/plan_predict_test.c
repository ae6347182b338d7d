/* Goal: the roofline gives the figures that were measured, within the error that its file claims,
 * and moves the right way with each of its inputs.  Prints predicted beside measured. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "model/model_catalog.h"
#include "plan/plan_predict.h"

static void make(const char *name, double bits, uint32_t ranks, uint32_t step_tokens,
                 struct plan_predict_model *model) {
    struct model_spec spec;
    const struct cuda_estimate_format format = {.weight_bits = bits, .is_fp8 = bits == 8};
    assert_true(model_catalog_find(name, &spec));
    double kv = spec.layer_count * 2.0 * spec.kv_head_count * spec.head_dim * 2;
    plan_predict_model(&spec, &format, kv, ranks, step_tokens, model);
}

static struct plan_predict_rates rates_of(const char *card, double bits) {
    struct plan_predict_rates rates;
    const struct cuda_estimate_format format = {.weight_bits = bits, .is_fp8 = bits == 8};
    assert_non_null(device_card_find(card));
    plan_predict_card(device_card_find(card), &format, &rates);
    return rates;
}

static double decode_ms(const char *name, const char *card, uint32_t ranks, double sequences,
                        double context) {
    struct plan_predict_model model;
    make(name, 16, ranks, 32768, &model);
    struct plan_predict_rates rates = rates_of(card, 16);
    struct plan_predict_step step = plan_predict_step(&model, &rates, context);
    return 1e3 * (step.base_s + sequences * step.each_s);
}

static double prefill_ms(const char *name, const char *card, double tokens) {
    struct plan_predict_model model;
    make(name, 16, 1, 32768, &model);
    struct plan_predict_rates rates = rates_of(card, 16);
    return 1e3 * plan_predict_prompt(&model, &rates, tokens).latency_s;
}

static void compare(const char *what, double predicted, double measured, double error_max) {
    double error = predicted / measured - 1;
    print_message("%-40s predicted %8.2f measured %8.2f ms  %+5.1f %%\n", what, predicted, measured,
                  100 * error);
    assert_true(fabs(error) <= error_max);
}

/* vLLM 0.26 on an H200, 2026-11-23: median step with all requests decoding, 256 tokens each. */
static void test_decode_of_an_h200(void **state) {
    (void) state;
    static const struct {
        const char *model;
        double sequences, context, ms;
    } rows[] = {
        {"llama-3.1-8b", 1, 1024, 4.99},    {"llama-3.1-8b", 8, 1024, 5.27},
        {"llama-3.1-8b", 32, 1024, 6.37},   {"llama-3.1-8b", 64, 1024, 7.81},
        {"llama-3.1-8b", 128, 1024, 10.97}, {"llama-3.1-8b", 256, 1024, 18.57},
        {"llama-3.1-8b", 512, 512, 26.23},  {"llama-3.1-8b", 1, 8192, 5.23},
        {"llama-3.1-8b", 1, 30000, 5.92},   {"llama-3.1-8b", 32, 8192, 13.23},
        {"qwen2.5-32b", 1, 1024, 18.20},    {"qwen2.5-32b", 8, 1024, 19.00},
        {"qwen2.5-32b", 32, 1024, 20.95},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char what[80];
        snprintf(what, sizeof what, "H200 %s decode %.0f x %.0f", rows[i].model, rows[i].sequences,
                 rows[i].context);
        /* The answer's 256 tokens lie on the prompt: half of them at the median step. */
        double ms = decode_ms(rows[i].model, "H200", 1, rows[i].sequences, rows[i].context + 128);
        compare(what, ms, rows[i].ms, 0.13);
    }
}

/* The same run: one output token, host side included. */
static void test_prefill_of_an_h200(void **state) {
    (void) state;
    static const struct {
        const char *model;
        double tokens, ms;
    } rows[] = {
        {"llama-3.1-8b", 128, 10.5},  {"llama-3.1-8b", 512, 16.1},  {"llama-3.1-8b", 1024, 32.1},
        {"llama-3.1-8b", 2048, 53.5}, {"llama-3.1-8b", 8192, 218},  {"llama-3.1-8b", 32000, 1177},
        {"qwen2.5-32b", 2048, 214},   {"qwen2.5-32b", 16384, 1905},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char what[80];
        snprintf(what, sizeof what, "H200 %s prefill %.0f", rows[i].model, rows[i].tokens);
        compare(what, prefill_ms(rows[i].model, "H200", rows[i].tokens), rows[i].ms, 0.13);
    }
}

/* Published figures of other cards and degrees: not what the constants were fitted to. */
static void test_other_cards(void **state) {
    (void) state;
    compare("H100 llama-3.1-8b, vLLM 0.19", decode_ms("llama-3.1-8b", "H100", 1, 1, 0), 6.44, 0.05);
    compare("A100 qwen2.5-7b, vLLM 0.6", decode_ms("qwen2.5-7b", "A100-80GB", 1, 1, 512), 11.86,
            0.30);
    compare("A100 x 8 llama-3-70b, SGLang 0.5", decode_ms("llama-3-70b", "A100-80GB", 8, 1, 1000),
            18.63, 0.30);
    compare("H100 x 4 llama-3-70b, vLLM 0.6", decode_ms("llama-3-70b", "H100", 4, 1, 500), 22,
            0.30);
}

static void test_it_moves_the_right_way(void **state) {
    (void) state;
    struct plan_predict_model wide, one, small;
    struct plan_predict_rates h100 = rates_of("H100", 16), fp8 = rates_of("H100", 8);
    struct plan_predict_rates a100 = rates_of("A100-80GB", 8), l4 = rates_of("L4", 16);
    make("llama-3.1-70b", 16, 1, 2048, &one);
    make("llama-3.1-70b", 16, 8, 2048, &wide);
    make("llama-3.1-70b", 8, 1, 2048, &small);
    /* More ranks: faster, and never more than their number. */
    double t1 = plan_predict_prompt(&one, &h100, 4000).latency_s;
    double t8 = plan_predict_prompt(&wide, &h100, 4000).latency_s;
    assert_true(t8 < t1 / 2 && t8 > t1 / 8);
    /* Fewer bits: fewer bytes, and on a card that computes with them faster products. */
    assert_true(plan_predict_step(&small, &fp8, 100).base_s <
                plan_predict_step(&one, &h100, 100).base_s);
    assert_true(plan_predict_prompt(&small, &fp8, 4000).latency_s < t1);
    assert_true(a100.prefill_flop_per_s < rates_of("A100-80GB", 16).prefill_flop_per_s * 1.01);
    assert_true(plan_predict_prompt(&one, &l4, 4000).latency_s > 5 * t1);
    /* Small chunks read the weights again and again. */
    make("llama-3.1-70b", 16, 1, 64, &small);
    assert_true(plan_predict_prompt(&small, &h100, 4000).latency_s > 1.5 * t1);
    /* Longer prompts and contexts take longer. */
    assert_true(plan_predict_prompt(&one, &h100, 8000).latency_s > 2 * t1);
    assert_true(plan_predict_step(&one, &h100, 8000).each_s >
                plan_predict_step(&one, &h100, 1000).each_s);
    /* A slow link between nodes is seen; more lanes help. */
    double near = plan_predict_handoff_s(&wide, &h100, 8, 4000, 0, false);
    assert_true(plan_predict_handoff_s(&wide, &h100, 8, 4000, 0, true) > near);
    assert_true(plan_predict_handoff_s(&wide, &h100, 2, 4000, 0, false) > near);
    /* Behind a long prefill only the last chunk shows. */
    assert_true(plan_predict_handoff_s(&wide, &h100, 8, 4000, 10, false) < near / 10);
}

/* Where a step's products were measured, a step of one sequence takes what they took, be they bound
 * by memory or by the cores; each further sequence its own products. */
static void test_a_measured_cpu(void **state) {
    (void) state;
    struct plan_predict_model model;
    make("smollm2-135m", 5, 1, 512, &model);
    const double read = 20, tflops = 0.1;
    static const double products[] = {3, 10, 18}; /* GB/s */
    double before = INFINITY;
    for (size_t i = 0; i < sizeof products / sizeof *products; i++) {
        struct plan_predict_rates rates;
        plan_predict_cpu(read, tflops, products[i], &rates);
        struct plan_predict_step step = plan_predict_step(&model, &rates, 0);
        double one_s = step.base_s + step.each_s,
               measured_s = model.weight_bytes / products[i] / 1e9;
        assert_true(one_s > measured_s && one_s < 1.15 * measured_s + 1e-3);
        assert_true(one_s < before);
        before = one_s;
        /* The first row's products are in the measure, the next one's are not. */
        assert_true(step.each_s > 2 * model.layer_parameters / (tflops * 1e12));
    }
    struct plan_predict_rates rates;
    plan_predict_cpu(read, tflops, 0, &rates); /* nobody measured: reading and products add up */
    assert_false(rates.weights_hold_a_row);
    struct plan_predict_step step = plan_predict_step(&model, &rates, 0);
    assert_true(step.base_s > model.weight_bytes / (read * 1e9));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode_of_an_h200),
        cmocka_unit_test(test_prefill_of_an_h200),
        cmocka_unit_test(test_other_cards),
        cmocka_unit_test(test_a_measured_cpu),
        cmocka_unit_test(test_it_moves_the_right_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
