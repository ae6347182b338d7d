/* Goal: every shape of the catalogue has the number of parameters that its makers publish, and the
 * names that people write for it lead to it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "model/model_catalog.h"
#include "model/published.h"

static uint64_t parameters(const struct model_spec *spec) {
    uint64_t hidden = spec->hidden_size, dim = spec->head_dim;
    uint64_t q = spec->head_count * dim, kv = spec->kv_head_count * dim;
    uint64_t layer = hidden * (2 * q + 2 * kv) + 3 * hidden * spec->ffn_size + 2 * hidden;
    if (spec->has_qkv_bias) layer += q + 2 * kv;
    if (spec->has_qk_norm) layer += 2 * dim;
    uint64_t table = spec->vocab_size * hidden;
    return layer * spec->layer_count + table * (spec->is_tied ? 1 : 2) + hidden;
}

static void test_parameters(void **state) {
    (void) state;
    uint32_t count = 0;
    for (uint32_t i = 0; model_catalog_name(i); i++) {
        const char *name = model_catalog_name(i);
        struct model_spec spec;
        struct err_text text;
        assert_true(model_catalog_find(name, &spec));
        assert_int_equal(model_spec_check(&spec, &text), ERR_OK);
        if (strstr(name, "-test")) continue;
        bool is_listed = false;
        for (size_t k = 0; k < ARRAY_COUNT(published); k++) {
            if (strcmp(published[k].name, name) != 0) continue;
            if (parameters(&spec) != published[k].parameters)
                fail_msg("%s has %llu parameters, published %llu", name,
                         (unsigned long long) parameters(&spec),
                         (unsigned long long) published[k].parameters);
            is_listed = true;
        }
        if (!is_listed) fail_msg("%s: no published figure here", name);
        count++;
    }
    assert_int_equal(count, ARRAY_COUNT(published));
}

static void test_names(void **state) {
    (void) state;
    static const char *const rows[][2] = {
        {"meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b"},
        {"/models/Llama-3.3-70B-Instruct-FP8-dynamic/", "llama-3.3-70b"},
        {"neuralmagic/Meta-Llama-3.1-405B-Instruct-FP8", "llama-3.1-405b"},
        {"RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16", "llama-3.1-8b"},
        {"nvidia/Llama-3.1-8B-Instruct-NVFP4", "llama-3.1-8b"},
        {"nvidia/Llama-3.3-70B-Instruct-FP4", "llama-3.3-70b"},
        {"unsloth/Llama-3.2-1B-Instruct-bnb-4bit", "llama-3.2-1b"},
        {"Qwen/Qwen2.5-32B-Instruct-GPTQ-Int4", "qwen2.5-32b"},
        {"Qwen/Qwen2.5-7B-Instruct-AWQ", "qwen2.5-7b"},
        {"Qwen/Qwen2.5-Coder-32B-Instruct", "qwen2.5-32b"},
        {"qwen/qwen3_8b-fp8", "qwen3-8b"},
        {"Qwen/Qwen3-4B-Thinking-2507", "qwen3-4b-2507"},
        {"Qwen/QwQ-32B", "qwq-32b"},
        {"deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", "deepseek-r1-distill-qwen-32b"},
        {"mistralai/Mistral-Nemo-Instruct-2407", "mistral-nemo-2407"},
        {"mistralai/Mistral-Small-24B-Instruct-2501", "mistral-small-24b-2501"},
        {"HuggingFaceTB/SmolLM2-135M-Instruct-GGUF", "smollm2-135m"},
        {"/m/SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m"},
        {"/m/Qwen3-14B-Q4_K_M.gguf", "qwen3-14b"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        struct model_spec spec;
        if (!model_catalog_find(rows[i][0], &spec)) fail_msg("%s is not found", rows[i][0]);
        assert_string_equal(spec.name, rows[i][1]);
    }
    static const char *const unknown[] = {
        "", "/", "gpt-5", "llama", "Llama-3.1-9B", "-fp8", ".gguf", "Qwen2.5-32B-of-ours"};
    struct model_spec spec;
    for (size_t i = 0; i < ARRAY_COUNT(unknown); i++)
        assert_false(model_catalog_find(unknown[i], &spec));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_parameters),
                                       cmocka_unit_test(test_names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
