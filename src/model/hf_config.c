/* hf_config - see hf_config.h.
 *
 * What a key means, and its default, is what transformers' configuration classes of these four
 * families say.  Lengths under rope scaling follow vLLM: yarn reaches factor x the original
 * context, linear factor x max_position_embeddings, llama3 max_position_embeddings itself. */
#include "model/hf_config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/log.h"
#include "model/json_file.h"

struct source {
    const json_t *config;
    const char *file;
    struct err_text *text;
};

static enum err refuse(const struct source *source, const char *key, const json_t *value,
                       const char *supported) {
    char found[128] = "absent";
    if (value) json_file_describe(value, found, sizeof found);
    return err_set(source->text, ERR_UNSUPPORTED, "%s: key %s is %s: supported is %s", source->file,
                   key, found, supported);
}

static enum err u32(const struct source *source, const char *key, uint32_t *out) {
    return json_file_u32(source->config, key, source->file, source->text, out);
}

static enum err need_u32(const struct source *source, const char *key, uint32_t *out) {
    if (!json_file_get(source->config, key))
        return err_set(source->text, ERR_FORMAT, "%s: key %s is absent: expected a number",
                       source->file, key);
    return u32(source, key, out);
}

/* --- the lists ---------------------------------------------------------------------------- */

/* Computed in this file. */
static const char *const computed_keys[] = {
    "model_type",        "architectures",       "hidden_size",         "intermediate_size",
    "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "vocab_size",        "rms_norm_eps",        "rope_theta",          "max_position_embeddings",
    "rope_scaling",      "rope_parameters",     "tie_word_embeddings", "attention_bias",
    "mlp_bias",          "hidden_act",          "sliding_window",      "use_sliding_window",
    "max_window_layers", "layer_types",         "eos_token_id",        "quantization_config",
};

/* Known to change nothing in inference, or only what the tensors say anyway. */
static const char *const harmless_keys[] = {
    "attention_dropout",
    "auto_map",
    "bos_token_id",
    "pad_token_id",
    "sep_token_id",
    "unk_token_id",
    "decoder_start_token_id",
    "dtype",
    "torch_dtype",
    "hidden_dropout",
    "id2label",
    "label2id",
    "initializer_range",
    "is_llama_config",
    "keys_to_ignore_at_inference",
    "max_length",
    "original_max_position_embeddings",
    "output_attentions",
    "output_hidden_states",
    "pretraining_tp",
    "problem_type",
    "qkv_bias",
    "return_dict",
    "rope_interleaved",
    "tokenizer_class",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
    "use_return_dict",
    "use_mrope",
    "seq_length",
    "rope_local_base_freq",
};

/* Accepted with this value alone: JSON text. */
static const struct {
    const char *key;
    const char *neutral;
} neutral_keys[] = {
    {"partial_rotary_factor", "1"},
    {"rotary_pct", "1"},
    {"attn_logit_softcapping", "0"},
    {"final_logit_softcapping", "0"},
    {"logits_soft_cap", "0"},
    {"query_pre_attn_scalar", "absent"},
    {"attention_multiplier", "absent"},
    {"embedding_multiplier", "1"},
    {"residual_multiplier", "1"},
    {"logits_scaling", "1"},
    {"logit_scale", "1"},
    {"scale_emb", "1"},
    {"scale_depth", "absent"},
    {"dim_model_base", "absent"},
    {"clip_qkv", "absent"},
    {"alibi", "0"},
    {"num_experts", "0"},
    {"num_local_experts", "0"},
    {"n_routed_experts", "0"},
    {"num_experts_per_tok", "0"},
    {"kv_lora_rank", "absent"},
    {"q_lora_rank", "absent"},
    {"no_rope_layers", "absent"},
    {"no_rope_layer_interval", "0"},
    {"attention_chunk_size", "absent"},
    {"use_qk_norm", "0"},
    {"qk_layernorm", "0"},
    {"use_attn_sinks", "0"},
    {"text_config", "absent"},
    {"vision_config", "absent"},
    {"audio_config", "absent"},
    {"is_encoder_decoder", "0"},
    {"add_cross_attention", "0"},
    {"compression_config", "absent"},
    {"num_nextn_predict_layers", "0"},
    {"sparse_attention", "absent"},
};

static bool is_listed(const char *key, const char *const *list, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(list[i], key) == 0) return true;
    return false;
}

static enum err check_neutral(const struct source *source, const char *key, const json_t *value,
                              const char *neutral) {
    double wanted = neutral[0] - '0';
    bool is_absent = strcmp(neutral, "absent") == 0;
    if (!is_absent && json_is_number(value) && json_number_value(value) == wanted) return ERR_OK;
    if (!is_absent && json_is_boolean(value) && json_is_true(value) == (wanted == 1)) return ERR_OK;
    if (json_is_array(value) && !json_array_size(value)) return ERR_OK;
    return refuse(source, key, value, is_absent ? "a file without this key" : neutral);
}

static enum err check_keys(const struct source *source) {
    struct buf ignored;
    buf_init(&ignored, 400); /* a line's worth */
    const char *key;
    json_t *value;
    enum err e = ERR_OK;
    json_object_foreach((json_t *) source->config, key, value) {
        /* What a library notes for itself begins with an underscore. */
        if (json_is_null(value) || key[0] == '_' ||
            is_listed(key, computed_keys, ARRAY_COUNT(computed_keys)) ||
            is_listed(key, harmless_keys, ARRAY_COUNT(harmless_keys)))
            continue;
        bool is_neutral = false;
        for (uint32_t i = 0; i < ARRAY_COUNT(neutral_keys) && !e; i++) {
            if (strcmp(neutral_keys[i].key, key) != 0) continue;
            is_neutral = true;
            e = check_neutral(source, key, value, neutral_keys[i].neutral);
        }
        if (e) break;
        if (!is_neutral) buf_add_format(&ignored, "%s%s", ignored.bytes ? ", " : "", key);
    }
    if (!e && ignored.bytes)
        log_warn("%s: keys unknown to this family are ignored: %.*s", source->file,
                 (int) ignored.bytes, (const char *) ignored.data);
    buf_release(&ignored);
    return e;
}

static enum err check_quantization(const struct source *source) {
    const json_t *quantization = json_file_get(source->config, "quantization_config");
    if (!quantization) return ERR_OK;
    const char *method = json_string_value(json_object_get(quantization, "quant_method"));
    if (!method) method = "unnamed";
    json_int_t bits = json_integer_value(json_object_get(quantization, "bits"));
    bool is_four = bits == 4 || strcmp(method, "awq") == 0 || strcmp(method, "mxfp4") == 0 ||
                   json_is_true(json_object_get(quantization, "load_in_4bit"));
    return err_set(
        source->text, ERR_UNSUPPORTED,
        "%s: key quantization_config has quant_method %.40s: supported are BF16, F16 and "
        "F32 safetensors, and GGUF files; the nearest is a GGUF in %s",
        source->file, method, is_four ? "Q4_K_M" : "Q8_0");
}

/* --- family ------------------------------------------------------------------------------- */

static enum err read_family(const struct source *source, struct model_spec *spec) {
    static const struct {
        const char *type, *architecture;
        enum model_family family;
    } known[] = {
        {"llama", "LlamaForCausalLM", MODEL_LLAMA},
        {"mistral", "MistralForCausalLM", MODEL_MISTRAL},
        {"qwen2", "Qwen2ForCausalLM", MODEL_QWEN2},
        {"qwen3", "Qwen3ForCausalLM", MODEL_QWEN3},
    };
    const json_t *type_value = json_file_get(source->config, "model_type");
    const json_t *list = json_file_get(source->config, "architectures");
    const json_t *architecture = json_array_get(list, 0);
    const char *type = json_string_value(type_value);
    for (uint32_t i = 0; type && i < ARRAY_COUNT(known); i++) {
        if (strcmp(known[i].type, type) != 0) continue;
        if (list && (!json_is_string(architecture) || json_array_size(list) != 1 ||
                     strcmp(json_string_value(architecture), known[i].architecture) != 0)) {
            char supported[48];
            snprintf(supported, sizeof supported, "[\"%s\"]", known[i].architecture);
            return refuse(source, "architectures", list, supported);
        }
        spec->family = known[i].family;
        return ERR_OK;
    }
    return refuse(source, "model_type", type_value, "one of llama, mistral, qwen2 and qwen3");
}

/* --- rope --------------------------------------------------------------------------------- */

static enum err rope_f32(const struct source *source, const json_t *scaling, const char *key,
                         float *out) {
    return json_file_f32(scaling, key, source->file, source->text, out);
}

static float yarn_mscale(float factor, float mscale) {
    return factor <= 1 ? 1.0f : (float) (0.1 * (double) mscale * log((double) factor) + 1.0);
}

static enum err read_yarn(const struct source *source, const json_t *scaling,
                          struct model_spec *spec) {
    float mscale = 0, mscale_all = 0, attention_factor = 0;
    bool is_truncated = true;
    spec->rope.beta_fast = 32; /* the paper's values, transformers' defaults */
    spec->rope.beta_slow = 1;
    enum err e = rope_f32(source, scaling, "beta_fast", &spec->rope.beta_fast);
    if (!e) e = rope_f32(source, scaling, "beta_slow", &spec->rope.beta_slow);
    if (!e) e = rope_f32(source, scaling, "mscale", &mscale);
    if (!e) e = rope_f32(source, scaling, "mscale_all_dim", &mscale_all);
    if (!e) e = rope_f32(source, scaling, "attention_factor", &attention_factor);
    if (!e) e = json_file_bool(scaling, "truncate", source->file, source->text, &is_truncated);
    if (e) return e;
    if (!is_truncated)
        return refuse(source, "rope_scaling.truncate", json_object_get(scaling, "truncate"),
                      "true");
    if (attention_factor == 0) {
        attention_factor = mscale != 0 && mscale_all != 0
                               ? yarn_mscale(spec->rope.factor, mscale) /
                                     yarn_mscale(spec->rope.factor, mscale_all)
                               : yarn_mscale(spec->rope.factor, 1);
    }
    spec->rope.attention_factor = attention_factor;
    return ERR_OK;
}

/* The context that scaling reaches; refuses what does not fit a uint32_t. */
static enum err stretch_context(const struct source *source, uint32_t base, float factor,
                                struct model_spec *spec) {
    double tokens = (double) base * (double) factor;
    if (!(tokens >= 1) || tokens > 1u << 30)
        return err_set(
            source->text, ERR_FORMAT,
            "%s: rope scaling factor %g of %u tokens: expected at most 1073741824 tokens",
            source->file, (double) factor, base);
    spec->context_tokens = (uint32_t) tokens;
    return ERR_OK;
}

static enum err read_scaling(const struct source *source, const json_t *scaling, const char *key,
                             struct model_spec *spec) {
    static const char *const known[] = {"rope_type",
                                        "type",
                                        "rope_theta",
                                        "factor",
                                        "original_max_position_embeddings",
                                        "low_freq_factor",
                                        "high_freq_factor",
                                        "beta_fast",
                                        "beta_slow",
                                        "mscale",
                                        "mscale_all_dim",
                                        "attention_factor",
                                        "truncate",
                                        "finetuned",
                                        "partial_rotary_factor"};
    static const char *const types[] = {"linear", "llama3", "yarn"};
    const char *name;
    json_t *value;
    json_object_foreach((json_t *) scaling, name, value) {
        if (json_is_null(value)) continue;
        char full[96];
        snprintf(full, sizeof full, "%s.%.60s", key, name);
        if (!is_listed(name, known, ARRAY_COUNT(known)))
            return refuse(source, full, value, "a file without this key");
        if (strcmp(name, "partial_rotary_factor") == 0 && json_number_value(value) != 1)
            return refuse(source, full, value, "1");
    }
    const json_t *type_value = json_file_get(scaling, "rope_type");
    if (!type_value) type_value = json_file_get(scaling, "type");
    const char *type = type_value ? json_string_value(type_value) : "default";
    if (type && strcmp(type, "default") == 0) return ERR_OK;
    if (!type || !is_listed(type, types, ARRAY_COUNT(types))) {
        char full[64];
        snprintf(full, sizeof full, "%s.rope_type", key);
        return refuse(source, full, type_value, "default, linear, llama3 or yarn");
    }
    if (!json_file_get(scaling, "factor"))
        return err_set(source->text, ERR_FORMAT, "%s: key %s.factor is absent: expected a number",
                       source->file, key);
    uint32_t original = 0, context = spec->context_tokens;
    enum err e = rope_f32(source, scaling, "factor", &spec->rope.factor);
    if (!e)
        e = json_file_u32(scaling, "original_max_position_embeddings", source->file, source->text,
                          &original);
    if (e) return e;
    if (strcmp(type, "linear") == 0) {
        spec->rope.type = ROPE_LINEAR;
        return stretch_context(source, context, spec->rope.factor, spec);
    }
    if (strcmp(type, "llama3") == 0) {
        spec->rope.type = ROPE_LLAMA3;
        spec->rope.original_context_tokens = original;
        e = rope_f32(source, scaling, "low_freq_factor", &spec->rope.low_freq_factor);
        return e ? e : rope_f32(source, scaling, "high_freq_factor", &spec->rope.high_freq_factor);
    }
    spec->rope.type = ROPE_YARN;
    spec->rope.original_context_tokens = original ? original : context;
    e = read_yarn(source, scaling, spec);
    if (e) return e;
    return stretch_context(source, spec->rope.original_context_tokens, spec->rope.factor, spec);
}

static enum err read_rope(const struct source *source, struct model_spec *spec) {
    spec->rope.theta = 10000; /* the default of all four families */
    enum err e =
        json_file_f32(source->config, "rope_theta", source->file, source->text, &spec->rope.theta);
    if (e) return e;
    const char *key = "rope_parameters";
    const json_t *scaling = json_file_get(source->config, key);
    if (!scaling) {
        key = "rope_scaling";
        scaling = json_file_get(source->config, key);
    }
    if (!scaling) return ERR_OK;
    if (!json_is_object(scaling)) return refuse(source, key, scaling, "an object");
    e = rope_f32(source, scaling, "rope_theta", &spec->rope.theta);
    return e ? e : read_scaling(source, scaling, key, spec);
}

/* --- sliding window ----------------------------------------------------------------------- */

static enum err read_window(const struct source *source, struct model_spec *spec) {
    uint32_t window = 0, full_layers = spec->layer_count;
    bool is_used = spec->family == MODEL_MISTRAL; /* qwen has a switch, off by default */
    enum err e = ERR_OK;
    /* An absent key is 4,096 to MistralConfig; null is none. */
    if (spec->family == MODEL_MISTRAL && !json_object_get(source->config, "sliding_window"))
        window = 4096;
    if (spec->family != MODEL_LLAMA) e = u32(source, "sliding_window", &window);
    if (spec->family == MODEL_QWEN2 || spec->family == MODEL_QWEN3) {
        if (!e)
            e = json_file_bool(source->config, "use_sliding_window", source->file, source->text,
                               &is_used);
        full_layers = 28; /* transformers' default */
        if (!e) e = u32(source, "max_window_layers", &full_layers);
    }
    if (e) return e;
    const json_t *types = json_file_get(source->config, "layer_types");
    if (types) {
        size_t sliding = 0, count = json_array_size(types);
        for (size_t i = 0; i < count; i++) {
            const char *type = json_string_value(json_array_get(types, i));
            bool is_sliding = type && strcmp(type, "sliding_attention") == 0;
            if (!is_sliding && (!type || strcmp(type, "full_attention") != 0))
                return refuse(source, "layer_types", types, "full_attention in every layer");
            sliding += is_sliding;
        }
        if (count != spec->layer_count || (sliding && sliding != count))
            return refuse(source, "layer_types", types,
                          "one kind, full_attention or sliding_attention, for every layer");
        is_used = sliding > 0;
    } else if (is_used && spec->family != MODEL_MISTRAL) {
        if (full_layers >= spec->layer_count) is_used = false;
        else if (full_layers)
            return refuse(source, "max_window_layers",
                          json_file_get(source->config, "max_window_layers"),
                          "0, or the number of layers: one kind of attention for every layer");
    }
    spec->sliding_window = is_used && window < spec->context_tokens ? window : 0;
    return ERR_OK;
}

/* --- the spec ----------------------------------------------------------------------------- */

static enum err read_sizes(const struct source *source, struct model_spec *spec) {
    enum err e = need_u32(source, "num_hidden_layers", &spec->layer_count);
    if (!e) e = need_u32(source, "hidden_size", &spec->hidden_size);
    if (!e) e = need_u32(source, "intermediate_size", &spec->ffn_size);
    if (!e) e = need_u32(source, "num_attention_heads", &spec->head_count);
    if (!e) e = need_u32(source, "vocab_size", &spec->vocab_size);
    if (!e) e = need_u32(source, "max_position_embeddings", &spec->context_tokens);
    if (e) return e;
    spec->kv_head_count = spec->head_count;
    e = u32(source, "num_key_value_heads", &spec->kv_head_count);
    if (!e) e = u32(source, "head_dim", &spec->head_dim);
    if (e) return e;
    if (!spec->head_dim) {
        if (!spec->head_count || spec->hidden_size % spec->head_count)
            return err_set(source->text, ERR_FORMAT,
                           "%s: key hidden_size is %u: expected a multiple of num_attention_heads "
                           "%u, or a head_dim",
                           source->file, spec->hidden_size, spec->head_count);
        spec->head_dim = spec->hidden_size / spec->head_count;
    }
    spec->norm_epsilon = 1e-6f; /* the default of all four families */
    return json_file_f32(source->config, "rms_norm_eps", source->file, source->text,
                         &spec->norm_epsilon);
}

static enum err read_flags(const struct source *source, struct model_spec *spec) {
    bool has_attention_bias = false;
    enum err e = json_file_bool(source->config, "tie_word_embeddings", source->file, source->text,
                                &spec->is_tied);
    if (!e)
        e = json_file_bool(source->config, "attention_bias", source->file, source->text,
                           &has_attention_bias);
    if (!e && spec->family == MODEL_LLAMA)
        e = json_file_bool(source->config, "mlp_bias", source->file, source->text,
                           &spec->has_mlp_bias);
    if (e) return e;
    const json_t *activation = json_file_get(source->config, "hidden_act");
    if (activation &&
        (!json_is_string(activation) || (strcmp(json_string_value(activation), "silu") != 0 &&
                                         strcmp(json_string_value(activation), "swish") != 0)))
        return refuse(source, "hidden_act", activation, "\"silu\"");
    if (spec->family == MODEL_LLAMA || spec->family == MODEL_QWEN3)
        spec->has_qkv_bias = spec->has_o_bias = has_attention_bias;
    if (spec->family == MODEL_QWEN2) spec->has_qkv_bias = true; /* the class has it built in */
    spec->has_qk_norm = spec->family == MODEL_QWEN3;
    return ERR_OK;
}

static void add_eos(struct model_spec *spec, const json_t *id) {
    json_int_t value = json_integer_value(id);
    if (value < 0 || value >= spec->vocab_size) return;
    for (uint32_t i = 0; i < spec->eos_count; i++)
        if (spec->eos_ids[i] == value) return;
    if (spec->eos_count < MODEL_EOS_MAX) spec->eos_ids[spec->eos_count++] = (uint32_t) value;
}

enum err hf_config_read_eos(const json_t *config, const char *file, struct err_text *text,
                            struct model_spec *spec) {
    struct source source = {config, file, text};
    const json_t *value = json_file_get(config, "eos_token_id");
    if (!value) return ERR_OK;
    static const char expected[] = "an id or a list of at most 16 ids";
    if (json_is_integer(value)) {
        add_eos(spec, value);
        return ERR_OK;
    }
    if (!json_is_array(value) || json_array_size(value) > MODEL_EOS_MAX)
        return refuse(&source, "eos_token_id", value, expected);
    for (size_t i = 0; i < json_array_size(value); i++) {
        if (!json_is_integer(json_array_get(value, i)))
            return refuse(&source, "eos_token_id", value, expected);
        add_eos(spec, json_array_get(value, i));
    }
    return ERR_OK;
}

enum err hf_config_read(const json_t *config, const char *file, struct err_text *text,
                        struct model_spec *spec) {
    struct source source = {config, file, text};
    *spec = (struct model_spec){.weight_type = TENSOR_BF16};
    enum err e = read_family(&source, spec);
    if (!e) e = check_quantization(&source);
    if (!e) e = check_keys(&source);
    if (!e) e = read_sizes(&source, spec);
    if (!e) e = read_flags(&source, spec);
    if (!e) e = read_rope(&source, spec);
    if (!e) e = read_window(&source, spec);
    if (!e) e = hf_config_read_eos(config, file, text, spec);
    if (e) return e;
    e = model_spec_check(spec, text);
    if (e) {
        err_prefix(text, "%s", file);
        return e;
    }
    spec->segment_count = model_spec_segments(spec->head_count, spec->kv_head_count);
    return ERR_OK;
}
