/* Goal: a checkpoint's name tells the format of its weights, and the bytes of the plan follow. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/backend.h"
#include "base/alloc.h"
#include "base/check.h"
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

/* --- checkpoints of formats that vLLM loads ----------------------------------------------- */

enum stored { PER_TENSOR, PER_ROW, BLOCKS, AWQ, GPTQ, PACKED, NF4, NVFP4 };

/* Bytes of one matrix as its tensors stand in the checkpoint and on the card: weights, scales, zeros,
 * group indexes. */
static uint64_t stored_bytes(enum stored stored, uint64_t rows, uint64_t columns, uint64_t group) {
    uint64_t groups = columns / group;
    switch (stored) {
    case PER_TENSOR: return rows * columns + 2 * 4;
    case PER_ROW: return rows * columns + rows * 4;
    case BLOCKS: return rows * columns + ((rows + 127) / 128) * ((columns + 127) / 128) * 4;
    case AWQ: return rows * columns / 2 + groups * rows / 8 * 4 + groups * rows * 2;
    case GPTQ: return rows * columns / 2 + groups * rows / 8 * 4 + groups * rows * 2 + columns * 4;
    case PACKED: return rows * columns / 2 + groups * rows * 2 + 2 * 8;
    case NVFP4: return rows * columns / 2 + rows * columns / 16 + 2 * 4;
    case NF4: return rows * columns / 2 + rows * columns / 64 * 4;
    }
    return 0;
}

/* All of a model: matrices as stored, tables, norms and biases in 16 bits. */
static uint64_t checkpoint_bytes(const struct model_spec *spec, enum stored stored,
                                 uint64_t group) {
    uint64_t hidden = spec->hidden_size, q = spec->head_count * spec->head_dim;
    uint64_t kv = spec->kv_head_count * spec->head_dim, ffn = spec->ffn_size;
    const uint64_t shapes[][2] = {{q, hidden},   {kv, hidden},  {kv, hidden}, {hidden, q},
                                  {ffn, hidden}, {ffn, hidden}, {hidden, ffn}};
    uint64_t layer = 2 * hidden * 2;
    if (spec->has_qkv_bias) layer += (q + 2 * kv) * 2;
    for (size_t i = 0; i < ARRAY_COUNT(shapes); i++)
        layer += stored_bytes(stored, shapes[i][0], shapes[i][1], group);
    uint64_t tables = spec->vocab_size * hidden * 2 * (spec->is_tied ? 1 : 2);
    return layer * spec->layer_count + tables + hidden * 2;
}

static uint64_t planned_bytes(const struct plan_model *model) {
    struct err_text text;
    struct backend *backend;
    const struct backend_options options = {.rank_count = 1,
                                            .block_size = 16,
                                            .seat_count = 1,
                                            .batched_tokens_max = 16,
                                            .row_tile = 16,
                                            .model_len_max = 16};
    struct mem_plan *plan = alloc_zero(1, sizeof *plan);
    assert_non_null(plan);
    assert_int_equal(cuda_estimate_open(&model->spec, &options, &model->format, &text, &backend),
                     ERR_OK);
    backend_ops_of(backend)->plan(backend, 0, plan);
    uint64_t bytes = mem_plan_kind_total(plan, MEM_WEIGHTS);
    cuda_estimate_close(backend);
    alloc_free(plan);
    return bytes;
}

/* Never less than the tensors' bytes, and hardly more. */
static void compare(const char *what, uint64_t planned, uint64_t real, double slack) {
    if (planned < real || (double) planned > (double) real * (1 + slack))
        fail_msg("%s: planned %llu, the tensors are %llu", what, (unsigned long long) planned,
                 (unsigned long long) real);
}

static void test_quantized_checkpoints(void **state) {
    (void) state;
    static const struct {
        const char *what, *quantization;
        enum stored stored;
        uint64_t group;
        bool is_fp8;
    } rows[] = {
        {"fp8", "{\"quant_method\":\"fp8\",\"activation_scheme\":\"static\"}", PER_TENSOR, 1, true},
        {"fbgemm", "{\"quant_method\":\"fbgemm_fp8\"}", PER_ROW, 1, true},
        {"fp8 blocks",
         "{\"quant_method\":\"fp8\",\"weight_block_size\":[128,128],"
         "\"activation_scheme\":\"dynamic\"}",
         BLOCKS, 1, true},
        {"fp8 dynamic",
         "{\"quant_method\":\"compressed-tensors\",\"config_groups\":{\"group_0\":{\"weights\":{"
         "\"num_bits\":8,\"type\":\"float\",\"strategy\":\"channel\",\"symmetric\":true}}}}",
         PER_ROW, 1, true},
        {"w4a16",
         "{\"quant_method\":\"compressed-tensors\",\"config_groups\":{\"group_0\":{\"weights\":{"
         "\"num_bits\":4,\"type\":\"int\",\"strategy\":\"group\",\"group_size\":64,"
         "\"symmetric\":true}}}}",
         PACKED, 64, false},
        {"awq", "{\"quant_method\":\"awq\",\"bits\":4,\"group_size\":128,\"zero_point\":true}", AWQ,
         128, false},
        {"awq, small groups", "{\"quant_method\":\"awq\",\"bits\":4,\"group_size\":32}", AWQ, 32,
         false},
        {"gptq", "{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":128,\"desc_act\":false}",
         GPTQ, 128, false},
        {"nf4", "{\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":true}", NF4, 1, false},
    };
    char folder[] = "/tmp/plan_model_XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/config.json", folder);
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        fprintf(file,
                "{\"architectures\":[\"Qwen2ForCausalLM\"],\"model_type\":\"qwen2\","
                "\"hidden_size\":896,\"intermediate_size\":4864,\"num_attention_heads\":14,"
                "\"num_key_value_heads\":2,\"num_hidden_layers\":24,\"vocab_size\":1024,"
                "\"max_position_embeddings\":4096,\"rms_norm_eps\":1e-6,"
                "\"tie_word_embeddings\":true,\"quantization_config\":%s}",
                rows[i].quantization);
        assert_int_equal(fclose(file), 0);
        struct plan_model model;
        find(folder, NULL, &model);
        if (model.source != PLAN_MODEL_UNBUILT)
            fail_msg("%s: %d %s", rows[i].what, (int) model.source, model.why.text);
        assert_non_null(strstr(model.why.text, "quant_method"));
        assert_int_equal(model.format.is_fp8, rows[i].is_fp8);
        compare(rows[i].what, planned_bytes(&model),
                checkpoint_bytes(&model.spec, rows[i].stored, rows[i].group), 0.01);
    }
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0);
}

/* The same by name alone, where the usual groups are all one can know. */
static void test_named_formats(void **state) {
    (void) state;
    static const struct {
        const char *name;
        enum stored stored;
        uint64_t group;
    } rows[] = {
        {"Qwen2.5-32B-Instruct-FP8", PER_ROW, 1},
        {"Llama-3.3-70B-Instruct-FP8-dynamic", PER_ROW, 1},
        {"Qwen3-8B-FP8", BLOCKS, 1},
        {"Qwen2.5-7B-Instruct-AWQ", AWQ, 128},
        {"Qwen2.5-32B-Instruct-GPTQ-Int4", GPTQ, 128},
        {"Meta-Llama-3.1-8B-Instruct-quantized.w4a16", PACKED, 128},
        {"Llama-3.2-3B-Instruct-bnb-4bit", NF4, 1},
        {"Llama-3.3-70B-Instruct-FP4", NVFP4, 1},
    };
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        struct plan_model model;
        find(rows[i].name, NULL, &model);
        assert_int_equal(model.source, PLAN_MODEL_CATALOG);
        compare(rows[i].name, planned_bytes(&model),
                checkpoint_bytes(&model.spec, rows[i].stored, rows[i].group), 0.03);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_formats),
                                       cmocka_unit_test(test_quantized_checkpoints),
                                       cmocka_unit_test(test_named_formats)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
