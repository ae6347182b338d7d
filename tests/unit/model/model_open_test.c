/* model_open: the demo model opens, its spec, rows, texts are what they are known to be.
 *
 * The file is GRAMME_MODEL or models/SmolLM2-135M-Instruct.Q4_1.gguf below the build folder. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/model.h"

static const char *demo_path(void) {
    const char *path = getenv("GRAMME_MODEL");
    if (!path) path = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
    if (access(path, R_OK) == 0) return path;
    print_message("the demo model is not at %s (set GRAMME_MODEL): skipped\n", path);
    return NULL;
}

static void demo_model(void **state) {
    const char *path = demo_path();
    if (!path) skip();
    struct err_text text = {""};
    struct model *model = NULL;
    enum err e = model_open(path, &(struct model_open_options){0}, &text, &model);
    if (e) fail_msg("%s", text.text);
    const struct model_spec *spec = model_get_spec(model);
    assert_string_equal(spec->name, "SmolLM2-135M-Instruct.Q4_1");
    assert_int_equal(spec->family, MODEL_LLAMA);
    assert_int_equal(spec->layer_count, 30);
    assert_int_equal(spec->hidden_size, 576);
    assert_int_equal(spec->ffn_size, 1536);
    assert_int_equal(spec->head_count, 9);
    assert_int_equal(spec->kv_head_count, 3);
    assert_int_equal(spec->head_dim, 64);
    assert_int_equal(spec->vocab_size, 49152);
    assert_int_equal(spec->context_tokens, 8192);
    assert_int_equal(spec->segment_count, 3);
    assert_int_equal(spec->weight_type, TENSOR_Q4_1);
    assert_true(spec->is_tied && !spec->has_qkv_bias && !spec->has_qk_norm);
    assert_true(spec->rope.theta == 100000.0f && spec->norm_epsilon == 1e-5f);
    assert_int_equal(spec->eos_count, 1);
    assert_int_equal(spec->eos_ids[0], 2);
    assert_string_equal(model_special_token(model, "bos_token"), "<|im_start|>");
    assert_string_equal(model_special_token(model, "eos_token"), "<|im_end|>");
    assert_null(model_special_token(model, "cls_token"));
    assert_non_null(strstr(model_chat_template(model), "You are a helpful AI assistant named"));

    struct model_tensor tensor, head;
    assert_true(model_tensor_get(model, ROLE_EMBEDDING, 0, &tensor));
    assert_int_equal(tensor.type, TENSOR_Q8_0);
    assert_int_equal(tensor.rows, 49152);
    assert_int_equal(tensor.columns, 576);
    assert_int_equal(tensor.row_bytes, 18 * 34);
    assert_true(model_tensor_get(model, ROLE_HEAD, 7, &head));
    assert_ptr_equal(model_tensor_row(model, ROLE_HEAD, 0, 9, NULL),
                     model_tensor_row(model, ROLE_EMBEDDING, 0, 9, NULL));
    assert_false(model_tensor_get(model, ROLE_Q_BIAS, 0, &tensor));
    /* llama's q rows are interleaved in the file: half-split row 1 is stored row 2. */
    assert_true(model_tensor_get(model, ROLE_Q, 3, &tensor));
    const uint8_t *first = model_tensor_row(model, ROLE_Q, 3, 64, NULL);
    assert_ptr_equal(model_tensor_row(model, ROLE_Q, 3, 65, NULL), first + 2 * tensor.row_bytes);
    assert_ptr_equal(model_tensor_row(model, ROLE_Q, 3, 96, NULL), first + tensor.row_bytes);
    float values[576];
    tensor_type_row_to_f32(tensor.type, first, tensor.columns, values);
    for (int i = 0; i < 576; i++) assert_true(isfinite(values[i]) && fabsf(values[i]) < 10);
    assert_true(model_weight_bytes(model) > 96000000 && model_weight_bytes(model) < 98362432);
    model_tensor_drop(model, ROLE_Q, 3);
    model_close(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(demo_model)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
