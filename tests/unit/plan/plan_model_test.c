/* Goal: a checkpoint's name tells the format of its weights, and the bytes of the plan follow. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "plan/plan_model.h"

static void find(const char *name, const char *quantization, struct plan_model *model) {
    struct options *options;
    struct err_text text;
    assert_int_equal(options_create(OPTION_PLAN, &options), ERR_OK);
    assert_int_equal(options_set(options, OPT_MODEL, name, SOURCE_FLAG, "model", &text), ERR_OK);
    if (quantization)
        assert_int_equal(
            options_set(options, OPT_QUANTIZATION, quantization, SOURCE_FLAG, "q", &text), ERR_OK);
    plan_model_find(options, NULL, model);
    plan_model_release(model);
    options_destroy(options);
}

static void test_formats(void **state) {
    (void) state;
    static const struct {
        const char *name, *quantization;
        double bits;
        bool is_fp8;
    } rows[] = {
        {"/m/Qwen2.5-32B-Instruct", NULL, 16, false},
        {"/m/Qwen2.5-32B-Instruct-FP8", NULL, 8, true},
        {"/m/Llama-3.3-70B-Instruct-FP8-dynamic", NULL, 8, true},
        {"/m/Qwen2.5-32B-Instruct-AWQ", NULL, 4.25, false},
        {"/m/Qwen2.5-32B-Instruct-GPTQ-Int4", NULL, 4.25, false},
        {"/m/Qwen2.5-32B-Instruct-GPTQ-Int8", NULL, 8.25, false},
        {"/m/Qwen2.5-32B-Instruct-quantized.w8a8", NULL, 8, false},
        {"/m/Qwen2.5-32B-Instruct-GGUF", NULL, 4.85, false},
        {"/m/Qwen2.5-32B-Instruct-Q8_0.gguf", NULL, 8.5, false},
        {"/m/Qwen2.5-32B-Instruct", "fp8", 8, true},
        {"/m/Qwen2.5-32B-Instruct", "awq", 4.25, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct plan_model model;
        find(rows[i].name, rows[i].quantization, &model);
        assert_int_equal(model.source, PLAN_MODEL_CATALOG);
        if (model.format.weight_bits != rows[i].bits)
            fail_msg("%s: %g bits", rows[i].name, model.format.weight_bits);
        assert_int_equal(model.format.is_fp8, rows[i].is_fp8);
    }
    struct plan_model model;
    find("/m/nobody-knows", NULL, &model);
    assert_int_equal(model.source, PLAN_MODEL_UNKNOWN);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_formats)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
