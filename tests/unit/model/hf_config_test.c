/* hf_config: the four families' keys and defaults; every key that would change the computation
 * costs one line naming file, key, value and what is supported. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/log.h"
#include "model/hf_config.h"

/* A llama config with these JSON members laid over it; "key":null takes one away. */
static json_t *config(const char *over) {
    static const char base[] =
        "{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":64,"
        "\"intermediate_size\":96,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
        "\"num_key_value_heads\":2,\"vocab_size\":100,\"rms_norm_eps\":1e-05,"
        "\"max_position_embeddings\":4096,\"rope_theta\":500000,\"hidden_act\":\"silu\","
        "\"tie_word_embeddings\":false,\"torch_dtype\":\"bfloat16\",\"eos_token_id\":2,"
        "\"bos_token_id\":1,\"pretraining_tp\":1,\"attention_dropout\":0.0,\"rope_scaling\":null}";
    char text[2048];
    snprintf(text, sizeof text, "{%s}", over);
    json_error_t error;
    json_t *root = json_loads(base, 0, &error), *more = json_loads(text, 0, &error);
    if (!more) fail_msg("%s: %s", text, error.text);
    json_object_update(root, more);
    json_decref(more);
    return root;
}

static struct model_spec read_good(const char *over) {
    struct model_spec spec;
    struct err_text text = {""};
    json_t *root = config(over);
    if (hf_config_read(root, "config.json", &text, &spec)) fail_msg("%s: %s", over, text.text);
    json_decref(root);
    return spec;
}

static void refuse(const char *over, enum err wanted, const char *sentence) {
    struct model_spec spec;
    struct err_text text = {""};
    json_t *root = config(over);
    enum err e = hf_config_read(root, "config.json", &text, &spec);
    if (e != wanted) fail_msg("%s: %s, \"%s\"", over, err_name(e), text.text);
    assert_string_equal(text.text, sentence);
    json_decref(root);
}

static void llama(void **state) {
    struct model_spec spec = read_good("");
    assert_int_equal(spec.family, MODEL_LLAMA);
    assert_int_equal(spec.head_dim, 16);
    assert_int_equal(spec.kv_head_count, 2);
    assert_int_equal(spec.segment_count, 4);
    assert_int_equal(spec.eos_count, 1);
    assert_true(spec.rope.theta == 500000.0f && spec.rope.type == ROPE_DEFAULT);
    assert_false(spec.is_tied || spec.has_qkv_bias || spec.has_qk_norm);
    spec = read_good("\"attention_bias\":true,\"mlp_bias\":true,\"head_dim\":32,"
                     "\"num_key_value_heads\":null,\"eos_token_id\":[5,6,5,900]");
    assert_true(spec.has_qkv_bias && spec.has_o_bias && spec.has_mlp_bias);
    assert_int_equal(spec.head_dim, 32);
    assert_int_equal(spec.kv_head_count, 4);
    assert_int_equal(spec.eos_count, 2); /* once each, inside the vocabulary */
    assert_int_equal(spec.eos_ids[1], 6);
    spec = read_good("\"eos_token_id\":null,\"rms_norm_eps\":null,\"rope_theta\":null");
    assert_int_equal(spec.eos_count, 0);
    assert_true(spec.norm_epsilon == 1e-6f && spec.rope.theta == 10000.0f);
}

static void other_families(void **state) {
    struct model_spec spec =
        read_good("\"model_type\":\"qwen2\",\"architectures\":[\"Qwen2ForCausalLM\"],"
                  "\"sliding_window\":128,\"use_sliding_window\":false,"
                  "\"max_window_layers\":1");
    assert_true(spec.has_qkv_bias && !spec.has_o_bias);
    assert_int_equal(spec.sliding_window, 0);
    spec = read_good("\"model_type\":\"qwen3\",\"architectures\":null,\"head_dim\":128,"
                     "\"attention_bias\":false");
    assert_true(spec.has_qk_norm && !spec.has_qkv_bias);
    spec = read_good("\"model_type\":\"mistral\",\"architectures\":[\"MistralForCausalLM\"],"
                     "\"sliding_window\":null");
    assert_int_equal(spec.sliding_window, 0);
    assert_false(spec.has_qkv_bias);
    spec = read_good("\"model_type\":\"mistral\",\"architectures\":null,\"sliding_window\":1024");
    assert_int_equal(spec.sliding_window, 1024);
    spec = read_good("\"model_type\":\"mistral\",\"architectures\":null,"
                     "\"max_position_embeddings\":32768");
    assert_int_equal(spec.sliding_window, 4096); /* MistralConfig's default */
    spec = read_good("\"model_type\":\"mistral\",\"architectures\":null,\"sliding_window\":4096");
    assert_int_equal(spec.sliding_window, 0); /* as long as the context: never in use */
}

static void windows(void **state) {
#define QWEN "\"model_type\":\"qwen2\",\"architectures\":null,\"use_sliding_window\":true,"
    struct model_spec spec = read_good(QWEN "\"sliding_window\":64,\"max_window_layers\":0");
    assert_int_equal(spec.sliding_window, 64);
    spec = read_good(QWEN "\"sliding_window\":64,\"max_window_layers\":2");
    assert_int_equal(spec.sliding_window, 0);
    refuse(QWEN "\"sliding_window\":64,\"max_window_layers\":1", ERR_UNSUPPORTED,
           "config.json: key max_window_layers is 1: supported is 0, or the number of layers: one "
           "kind of attention for every layer");
    spec = read_good("\"layer_types\":[\"full_attention\",\"full_attention\"]");
    assert_int_equal(spec.sliding_window, 0);
    refuse("\"layer_types\":[\"full_attention\",\"sliding_attention\"]", ERR_UNSUPPORTED,
           "config.json: key layer_types is [\"full_attention\",\"sliding_attention\"]: supported "
           "is one kind, full_attention or sliding_attention, for every layer");
    refuse(
        "\"layer_types\":[\"linear_attention\",\"full_attention\"]", ERR_UNSUPPORTED,
        "config.json: key layer_types is [\"linear_attention\",\"full_attention\"]: supported is "
        "full_attention in every layer");
}

static void ropes(void **state) {
    struct model_spec spec = read_good("\"rope_parameters\":{\"rope_type\":\"default\","
                                       "\"rope_theta\":1000000.0},\"rope_theta\":null");
    assert_true(spec.rope.theta == 1e6f);
    spec = read_good("\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}");
    assert_int_equal(spec.rope.type, ROPE_LINEAR);
    assert_int_equal(spec.context_tokens, 16384);
    spec = read_good("\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,"
                     "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
                     "\"original_max_position_embeddings\":1024}");
    assert_int_equal(spec.rope.type, ROPE_LLAMA3);
    assert_int_equal(spec.context_tokens, 4096);
    spec = read_good("\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2.0,\"mscale\":1.0,"
                     "\"mscale_all_dim\":1.0}");
    assert_int_equal(spec.rope.original_context_tokens, 4096);
    assert_int_equal(spec.context_tokens, 8192);
    assert_true(spec.rope.attention_factor == 1.0f && spec.rope.beta_fast == 32.0f);
    refuse("\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2.0}", ERR_UNSUPPORTED,
           "config.json: key rope_scaling.rope_type is \"dynamic\": supported is default, linear, "
           "llama3 or yarn");
    refuse("\"rope_scaling\":{\"type\":\"linear\",\"factor\":1e9}", ERR_FORMAT,
           "config.json: rope scaling factor 1e+09 of 4096 tokens: expected at most 1073741824 "
           "tokens");
    refuse("\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1.0]}", ERR_UNSUPPORTED,
           "config.json: key rope_scaling.short_factor is [1.0]: supported is a file without this "
           "key");
    refuse("\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"}}", ERR_UNSUPPORTED,
           "config.json: key rope_parameters.full_attention is {\"rope_type\":\"default\"}: "
           "supported is a file without this key");
    refuse("\"rope_scaling\":{\"type\":\"linear\"}", ERR_FORMAT,
           "config.json: key rope_scaling.factor is absent: expected a number");
    refuse(
        "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":4,"
        "\"high_freq_factor\":1,\"original_max_position_embeddings\":1024}",
        ERR_FORMAT,
        "config.json: rope low_freq_factor is 4 and high_freq_factor 1: expected 0 < low < high");
    refuse("\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2.0,\"truncate\":false}",
           ERR_UNSUPPORTED, "config.json: key rope_scaling.truncate is false: supported is true");
    refuse("\"partial_rotary_factor\":0.5", ERR_UNSUPPORTED,
           "config.json: key partial_rotary_factor is 0.5: supported is 1");
}

static void refused(void **state) {
    refuse("\"model_type\":\"gemma3\"", ERR_UNSUPPORTED,
           "config.json: key model_type is \"gemma3\": supported is one of llama, mistral, qwen2 "
           "and qwen3");
    refuse("\"model_type\":null", ERR_UNSUPPORTED,
           "config.json: key model_type is absent: supported is one of llama, mistral, qwen2 and "
           "qwen3");
    refuse("\"architectures\":[\"LlamaForSequenceClassification\"]", ERR_UNSUPPORTED,
           "config.json: key architectures is [\"LlamaForSequenceClassification\"]: supported is "
           "[\"LlamaForCausalLM\"]");
    refuse("\"quantization_config\":{\"quant_method\":\"awq\",\"bits\":4}", ERR_UNSUPPORTED,
           "config.json: key quantization_config has quant_method awq: supported are BF16, F16 and "
           "F32 safetensors, and GGUF files; the nearest is a GGUF in Q4_K_M");
    refuse("\"quantization_config\":{\"quant_method\":\"fp8\"}", ERR_UNSUPPORTED,
           "config.json: key quantization_config has quant_method fp8: supported are BF16, F16 and "
           "F32 safetensors, and GGUF files; the nearest is a GGUF in Q8_0");
    refuse("\"final_logit_softcapping\":30.0", ERR_UNSUPPORTED,
           "config.json: key final_logit_softcapping is 30.0: supported is 0");
    refuse("\"num_experts\":64", ERR_UNSUPPORTED,
           "config.json: key num_experts is 64: supported is 0");
    refuse("\"text_config\":{}", ERR_UNSUPPORTED,
           "config.json: key text_config is {}: supported is a file without this key");
    refuse("\"hidden_act\":\"gelu\"", ERR_UNSUPPORTED,
           "config.json: key hidden_act is \"gelu\": supported is \"silu\"");
    refuse("\"hidden_size\":null", ERR_FORMAT,
           "config.json: key hidden_size is absent: expected a number");
    refuse("\"hidden_size\":\"64\"", ERR_FORMAT,
           "config.json: key hidden_size is \"64\": expected a whole number from 0 to 4294967295");
    refuse("\"hidden_size\":66", ERR_FORMAT,
           "config.json: key hidden_size is 66: expected a multiple of num_attention_heads 4, or a "
           "head_dim");
    refuse("\"num_attention_heads\":0", ERR_FORMAT,
           "config.json: key hidden_size is 64: expected a multiple of num_attention_heads 0, or a "
           "head_dim");
    refuse("\"num_key_value_heads\":3", ERR_FORMAT,
           "config.json: attention head count is 4: expected a multiple of the kv head count 3");
    refuse("\"num_hidden_layers\":0", ERR_FORMAT,
           "config.json: layer count is 0: expected 1 to 4096");
    refuse("\"tie_word_embeddings\":1", ERR_FORMAT,
           "config.json: key tie_word_embeddings is 1: expected true or false");
    refuse("\"eos_token_id\":\"</s>\"", ERR_UNSUPPORTED,
           "config.json: key eos_token_id is \"</s>\": supported is an id or a list of at most 16 "
           "ids");
    refuse("\"rms_norm_eps\":0", ERR_FORMAT,
           "config.json: norm epsilon is 0: expected a number in (0, 1]");
}

/* Neutral values and unknown keys are no error. */
static void ignored(void **state) {
    log_configure(LOG_ERROR, LOG_HUMAN, NULL);
    (void) read_good(
        "\"num_experts\":0,\"logit_scale\":1.0,\"clip_qkv\":null,\"no_rope_layers\":[],"
        "\"use_qk_norm\":false,\"some_new_key\":{\"a\":1}");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama), cmocka_unit_test(other_families), cmocka_unit_test(windows),
        cmocka_unit_test(ropes), cmocka_unit_test(refused),        cmocka_unit_test(ignored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
