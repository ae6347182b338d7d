/* Dummy weights: every catalogue shape is sound, rows depend on their name alone, and their
 * deviation is the one asked for in every storage type. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "model/model.h"
#include "model/model_catalog.h"

static void catalogue_is_sound(void **state) {
    const char *name;
    for (uint32_t i = 0; (name = model_catalog_name(i)); i++) {
        struct model_spec spec;
        struct err_text text = {""};
        assert_true(model_catalog_find(name, &spec));
        assert_string_equal(spec.name, name);
        if (model_spec_check(&spec, &text)) fail_msg("%s: %s", name, text.text);
    }
}

static void names_match_loosely(void **state) {
    struct model_spec spec;
    assert_true(model_catalog_find("meta-llama/Meta-Llama-3.1-8B-Instruct-FP8-dynamic", &spec));
    assert_string_equal(spec.name, "llama-3.1-8b");
    assert_true(spec.rope.type == ROPE_LLAMA3 && spec.rope.factor == 8.0f);
    assert_true(model_catalog_find("/models/Qwen2.5-0.5B-Instruct-GGUF/", &spec));
    assert_int_equal(spec.hidden_size, 896);
    assert_true(spec.has_qkv_bias && spec.is_tied);
    assert_true(model_catalog_find("mistralai/Mistral-7B-Instruct-v0.3", &spec));
    assert_int_equal(spec.vocab_size, 32768);
    assert_false(model_catalog_find("llama-9-8b", &spec));
    assert_false(model_catalog_find("", &spec));
    assert_false(model_catalog_find("///", &spec));
}

static struct model *open_tiny(const char *shape, enum tensor_type type, uint64_t seed) {
    struct model *model = NULL;
    struct err_text text = {""};
    struct model_open_options options = {
        .is_dummy = true, .dummy_seed = seed, .dummy_type = type, .shape = shape};
    if (model_open("any", &options, &text, &model)) fail_msg("%s", text.text);
    return model;
}

/* Mean and deviation of a matrix in every type, against what initialisation wants. */
static void magnitudes(void **state) {
    for (int type = 0; type < TENSOR_TYPE_COUNT; type++) {
        struct model *model = open_tiny("tiny-llama-k-test", (enum tensor_type) type, 7);
        struct model_tensor tensor;
        assert_true(model_tensor_get(model, ROLE_GATE, 1, &tensor));
        assert_int_equal(tensor.type, type);
        static _Alignas(64) uint8_t scratch[4096];
        double sum = 0, squares = 0;
        for (uint32_t row = 0; row < tensor.rows; row++) {
            float values[256];
            const void *bytes = model_tensor_row(model, ROLE_GATE, 1, row, scratch);
            tensor_type_row_to_f32(tensor.type, bytes, tensor.columns, values);
            for (uint32_t i = 0; i < tensor.columns; i++) {
                sum += (double) values[i];
                squares += (double) values[i] * (double) values[i];
            }
        }
        double count = (double) tensor.rows * tensor.columns;
        double mean = sum / count, deviation = sqrt(squares / count);
        /* Q4_0's 16 levels are not symmetric: mean -1/2 step. */
        if (fabs(mean) > 0.12 / 16 || fabs(deviation * 16 - 1) > 0.06)
            fail_msg("%s: mean %g, deviation %g of 1/16", tensor_type_name(tensor.type), mean,
                     deviation);
        assert_true(model_tensor_get(model, ROLE_ATTN_NORM, 1, &tensor));
        assert_int_equal(tensor.type, TENSOR_F32);
        const float *norm = model_tensor_row(model, ROLE_ATTN_NORM, 1, 0, scratch);
        for (uint32_t i = 0; i < tensor.columns; i++) assert_true(fabsf(norm[i] - 1) <= 0.1f);
        model_close(model);
    }
}

static void rows_are_named(void **state) {
    struct model *one = open_tiny("tiny-qwen2-test", TENSOR_Q8_0, 1);
    struct model *same = open_tiny("tiny-qwen2-test", TENSOR_Q8_0, 1);
    struct model *other = open_tiny("tiny-qwen2-test", TENSOR_Q8_0, 2);
    assert_int_equal(model_digest(one), model_digest(same));
    assert_int_not_equal(model_digest(one), model_digest(other));
    struct model_tensor tensor;
    assert_true(model_tensor_get(one, ROLE_Q, 1, &tensor));
    assert_true(model_tensor_get(one, ROLE_Q_BIAS, 1, &(struct model_tensor){0}));
    uint8_t a[256], b[256];
    size_t bytes = (size_t) tensor.row_bytes;
    model_tensor_row(one, ROLE_Q, 1, 5, a);
    model_tensor_row(one, ROLE_Q, 1, 6, b);
    assert_memory_not_equal(a, b, bytes);
    model_tensor_row(one, ROLE_Q, 0, 5, b);
    assert_memory_not_equal(a, b, bytes);
    model_tensor_row(one, ROLE_K, 1, 5, b);
    assert_memory_not_equal(a, b, bytes);
    model_tensor_row(other, ROLE_Q, 1, 5, b);
    assert_memory_not_equal(a, b, bytes);
    model_tensor_row(same, ROLE_Q, 1, 5, b);
    assert_memory_equal(a, b, bytes);
    model_tensor_row(one, ROLE_HEAD, 0, 3, a);
    model_tensor_row(one, ROLE_EMBEDDING, 0, 3, b);
    assert_memory_equal(a, b, bytes);
    model_close(one);
    model_close(same);
    model_close(other);
}

static void blocks_must_divide(void **state) {
    struct model *model = NULL;
    struct err_text text = {""};
    struct model_open_options options = {.is_dummy = true, .dummy_type = TENSOR_Q4_K};
    assert_int_equal(model_open("SmolLM2-135M", &options, &text, &model), ERR_UNSUPPORTED);
    assert_string_equal(text.text, "dummy weights of q4_k: rows of 576 weights are no multiple of "
                                   "256; use q8_0");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(catalogue_is_sound), cmocka_unit_test(names_match_loosely),
        cmocka_unit_test(magnitudes),         cmocka_unit_test(rows_are_named),
        cmocka_unit_test(blocks_must_divide),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
