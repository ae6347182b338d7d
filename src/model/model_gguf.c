/* model_gguf - see model_gguf.h.
 *
 * The llama architecture stores q and k with each head's rows interleaved for rope (rows 2i and
 * 2i+1 are a pair); qwen2 and qwen3 store them as Hugging Face does.  A llama 3.1 file carries its
 * rope scaling as a tensor of divisors, rope_freqs.weight, instead of keys: the parameters that
 * make exactly these divisors are looked for, and a file for which there are none is refused. */
#include "model/model_gguf.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"
#include "model/model_index.h"

#define ARCH_BYTES 16
#define TAIL_BYTES (GGUF_NAME_BYTES_MAX + 1)
#define KEY_BYTES (ARCH_BYTES + TAIL_BYTES)

struct source {
    const struct gguf_set *set;
    const struct gguf *keys;
    const char *file;
    char arch[ARCH_BYTES];
    struct err_text *text;
};

static void key_name(const struct source *source, const char *tail, char out[KEY_BYTES]) {
    snprintf(out, KEY_BYTES, "%s.%s", source->arch, tail);
}

static const struct gguf_key *find_key(const struct source *source, const char *tail) {
    char name[KEY_BYTES];
    key_name(source, tail, name);
    return gguf_find(source->keys, name);
}

static enum err wrong_key(const struct source *source, const char *tail, const char *expected) {
    const struct gguf_key *key = find_key(source, tail);
    char found[128] = "absent";
    if (key) gguf_describe(key, found, sizeof found);
    return err_set(source->text, ERR_FORMAT, "%s: key %s.%s is %s: expected %s", source->file,
                   source->arch, tail, found, expected);
}

static enum err unsupported_key(const struct source *source, const char *tail,
                                const char *supported) {
    const struct gguf_key *key = find_key(source, tail);
    char found[128] = "absent";
    if (key) gguf_describe(key, found, sizeof found);
    return err_set(source->text, ERR_UNSUPPORTED, "%s: key %s.%s is %s: supported is %s",
                   source->file, source->arch, tail, found, supported);
}

static enum err need_u32(const struct source *source, const char *tail, uint32_t *out) {
    char name[KEY_BYTES];
    key_name(source, tail, name);
    if (gguf_get_u32(source->keys, name, out)) return ERR_OK;
    return wrong_key(source, tail, "one whole number for all layers");
}

/* *out keeps its value when the key is absent. */
static enum err may_u32(const struct source *source, const char *tail, uint32_t *out) {
    return find_key(source, tail) ? need_u32(source, tail, out) : ERR_OK;
}

static enum err may_f32(const struct source *source, const char *tail, float *out) {
    char name[KEY_BYTES];
    key_name(source, tail, name);
    if (!gguf_find(source->keys, name) || gguf_get_f32(source->keys, name, out)) return ERR_OK;
    return wrong_key(source, tail, "a finite number");
}

/* --- which keys are known ----------------------------------------------------------------- */

/* Keys of an architecture that are computed here, or that change nothing. */
static const char *const known_keys[] = {
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "rope.freq_base",
    "rope.dimension_count",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.finetuned",
    "vocab_size",
    "tensor_data_layout",
    "pooling_type",
};

/* Keys that are accepted with the one value that changes nothing. */
static const struct {
    const char *tail;
    double neutral;
} neutral_keys[] = {
    {"expert_count", 0},
    {"expert_used_count", 0},
    {"attention.causal", 1},
    {"use_parallel_residual", 0},
    {"logit_scale", 1},
    {"residual_scale", 1},
    {"embedding_scale", 1},
    {"attention.clamp_kqv", 0},
    {"attention.max_alibi_bias", 0},
    {"attn_logit_softcapping", 0},
    {"final_logit_softcapping", 0},
    {"rope.scaling.yarn_log_multiplier", 0},
};

static enum err check_key(const struct source *source, const struct gguf_key *key,
                          const char *tail) {
    for (uint32_t i = 0; i < ARRAY_COUNT(known_keys); i++)
        if (strcmp(known_keys[i], tail) == 0) return ERR_OK;
    for (uint32_t i = 0; i < ARRAY_COUNT(neutral_keys); i++) {
        if (strcmp(neutral_keys[i].tail, tail) != 0) continue;
        bool flag = false;
        float number = 0;
        char name[KEY_BYTES], supported[32];
        key_name(source, tail, name);
        if (gguf_get_bool(source->keys, name, &flag)) number = flag;
        if ((key->type == GGUF_BOOL || gguf_get_f32(source->keys, name, &number)) &&
            (double) number == neutral_keys[i].neutral)
            return ERR_OK;
        snprintf(supported, sizeof supported, "%g", neutral_keys[i].neutral);
        return unsupported_key(source, tail, supported);
    }
    return unsupported_key(source, tail, "a file without this key");
}

static enum err check_keys(const struct source *source) {
    size_t arch_bytes = strlen(source->arch);
    for (uint32_t i = 0; i < source->keys->key_count; i++) {
        const struct gguf_key *key = &source->keys->keys[i];
        if (key->name_bytes <= arch_bytes + 1 || memcmp(key->name, source->arch, arch_bytes) != 0 ||
            key->name[arch_bytes] != '.')
            continue;
        char tail[TAIL_BYTES];
        snprintf(tail, sizeof tail, "%.*s", (int) (key->name_bytes - arch_bytes - 1),
                 key->name + arch_bytes + 1);
        enum err e = check_key(source, key, tail);
        if (e) return e;
    }
    return ERR_OK;
}

/* --- rope --------------------------------------------------------------------------------- */

static enum err read_scaling(const struct source *source, struct model_spec *spec) {
    char name[KEY_BYTES];
    const char *type = "none";
    size_t bytes = 4;
    key_name(source, "rope.scaling.type", name);
    float linear = 1;
    enum err e = may_f32(source, "rope.scale_linear", &linear);
    if (e) return e;
    if (!gguf_get_string(source->keys, name, &type, &bytes) && gguf_find(source->keys, name))
        return wrong_key(source, "rope.scaling.type", "a string");
    float factor = 1;
    e = may_f32(source, "rope.scaling.factor", &factor);
    if (e) return e;
    bool is_linear = bytes == 6 && memcmp(type, "linear", 6) == 0;
    bool is_yarn = bytes == 4 && memcmp(type, "yarn", 4) == 0;
    bool is_none = bytes == 4 && memcmp(type, "none", 4) == 0;
    if (!is_linear && !is_yarn && !is_none)
        return unsupported_key(source, "rope.scaling.type", "none, linear or yarn");
    if (is_none && linear != 1.0f) {
        is_linear = true;
        factor = linear;
    }
    if (factor == 0) factor = 1; /* how writers say "none" */
    if (is_none || factor == 1.0f) {
        if (!is_linear) return ERR_OK;
    }
    uint32_t original = spec->context_tokens;
    e = may_u32(source, "rope.scaling.original_context_length", &original);
    if (e) return e;
    spec->rope.factor = factor;
    if (is_linear) {
        spec->rope.type = ROPE_LINEAR;
        return ERR_OK;
    }
    spec->rope.type = ROPE_YARN;
    spec->rope.original_context_tokens = original ? original : spec->context_tokens;
    spec->rope.beta_fast = 32; /* YaRN paper's values, the defaults of every implementation */
    spec->rope.beta_slow = 1;
    float multiplier = 1;
    e = may_f32(source, "rope.scaling.yarn_beta_fast", &spec->rope.beta_fast);
    if (!e) e = may_f32(source, "rope.scaling.yarn_beta_slow", &spec->rope.beta_slow);
    if (!e) e = may_f32(source, "rope.scaling.attn_factor", &multiplier);
    if (!e) e = may_f32(source, "rope.scaling.yarn_attn_factor", &multiplier);
    spec->rope.attention_factor =
        (float) ((double) multiplier * (0.1 * log((double) factor) + 1.0));
    double scaled = (double) spec->rope.original_context_tokens * (double) factor;
    if (scaled > spec->context_tokens && scaled < 1u << 30)
        spec->context_tokens = (uint32_t) scaled;
    return e;
}

/* The divisor that llama3 scaling with these parameters puts on dimension i. */
static double llama3_divisor(double theta, uint32_t head_dim, uint32_t i, double factor, double low,
                             double high, double original) {
    double wavelen = 6.283185307179586 * pow(theta, 2.0 * i / head_dim);
    if (wavelen < original / high) return 1;
    if (wavelen > original / low) return factor;
    double smooth = (original / wavelen - low) / (high - low);
    return 1 / ((1 - smooth) / factor + smooth);
}

/* rope_freqs.weight holds head_dim / 2 divisors of the frequencies. */
static enum err read_divisors(const struct source *source, struct model_spec *spec) {
    uint32_t part;
    const struct gguf_tensor *tensor =
        gguf_set_find_tensor(source->set, "rope_freqs.weight", &part);
    if (!tensor) return ERR_OK;
    const char *file = source->set->parts[part].file.path;
    if (tensor->type != TENSOR_F32 || tensor->dimension_count != 1 ||
        tensor->dimensions[0] != spec->head_dim / 2)
        return err_set(source->text, ERR_FORMAT,
                       "%s: tensor rope_freqs.weight is %s of %llu: expected f32 of %u", file,
                       tensor_type_name(tensor->type), (unsigned long long) tensor->dimensions[0],
                       spec->head_dim / 2);
    uint32_t count = spec->head_dim / 2;
    float divisor, factor = 1;
    bool is_one = true;
    for (uint32_t i = 0; i < count; i++) {
        memcpy(&divisor, tensor->data + 4 * (size_t) i, 4);
        if (divisor > factor) factor = divisor;
        is_one = is_one && divisor == 1.0f;
    }
    if (is_one) return ERR_OK;
    if (spec->rope.type != ROPE_DEFAULT)
        return err_set(source->text, ERR_UNSUPPORTED,
                       "%s: tensor rope_freqs.weight beside %s.rope.scaling.type: supported is one "
                       "of the two",
                       file, source->arch);
    /* low 1 and high 4 stand in every published llama3 configuration; only their ratio to the
     * original context matters. */
    static const uint32_t originals[] = {8192, 4096, 16384, 32768, 2048, 65536, 131072};
    for (uint32_t o = 0; o < ARRAY_COUNT(originals); o++) {
        uint32_t i = 0;
        for (; i < count; i++) {
            double wanted = llama3_divisor((double) spec->rope.theta, spec->head_dim, i,
                                           (double) factor, 1, 4, originals[o]);
            memcpy(&divisor, tensor->data + 4 * (size_t) i, 4);
            if (!(fabs((double) divisor - wanted) <= 2e-5 * wanted)) break;
        }
        if (i < count) continue;
        spec->rope.type = ROPE_LLAMA3;
        spec->rope.factor = factor;
        spec->rope.low_freq_factor = 1;
        spec->rope.high_freq_factor = 4;
        spec->rope.original_context_tokens = originals[o];
        return ERR_OK;
    }
    return err_set(source->text, ERR_UNSUPPORTED,
                   "%s: tensor rope_freqs.weight (divisors up to %g) is no llama3 scaling with "
                   "low_freq_factor 1 and high_freq_factor 4, the supported one",
                   file, (double) factor);
}

/* --- the spec ----------------------------------------------------------------------------- */

static enum err read_arch(struct source *source, struct model_spec *spec) {
    const char *arch;
    size_t bytes;
    if (!gguf_get_string(source->keys, "general.architecture", &arch, &bytes))
        return err_set(source->text, ERR_FORMAT,
                       "%s: key general.architecture is absent: expected llama, qwen2 or qwen3",
                       source->file);
    static const struct {
        const char *name;
        enum model_family family;
    } known[] = {{"llama", MODEL_LLAMA}, {"qwen2", MODEL_QWEN2}, {"qwen3", MODEL_QWEN3}};
    for (uint32_t i = 0; i < ARRAY_COUNT(known); i++) {
        if (strlen(known[i].name) != bytes || memcmp(known[i].name, arch, bytes) != 0) continue;
        snprintf(source->arch, sizeof source->arch, "%s", known[i].name);
        spec->family = known[i].family;
        return ERR_OK;
    }
    return err_set(source->text, ERR_UNSUPPORTED,
                   "%s: key general.architecture is \"%.*s\": supported are llama (mistral too), "
                   "qwen2 and qwen3",
                   source->file, (int) (bytes > 64 ? 64 : bytes), arch);
}

static bool has_tensor(const struct source *source, const char *name) {
    uint32_t part;
    return gguf_set_find_tensor(source->set, name, &part) != NULL;
}

static enum err read_sizes(const struct source *source, struct model_spec *spec) {
    enum err e = need_u32(source, "block_count", &spec->layer_count);
    if (!e) e = need_u32(source, "context_length", &spec->context_tokens);
    if (!e) e = need_u32(source, "embedding_length", &spec->hidden_size);
    if (!e) e = need_u32(source, "feed_forward_length", &spec->ffn_size);
    if (!e) e = need_u32(source, "attention.head_count", &spec->head_count);
    spec->kv_head_count = spec->head_count;
    if (!e) e = may_u32(source, "attention.head_count_kv", &spec->kv_head_count);
    if (e) return e;
    if (!spec->head_count) return wrong_key(source, "attention.head_count", "1 or more");
    spec->head_dim = spec->hidden_size / spec->head_count;
    if (!find_key(source, "attention.key_length") && spec->hidden_size % spec->head_count)
        return wrong_key(source, "embedding_length", "a multiple of attention.head_count");
    e = may_u32(source, "attention.key_length", &spec->head_dim);
    uint32_t value_length = spec->head_dim, rope_dimensions = spec->head_dim;
    if (!e) e = may_u32(source, "attention.value_length", &value_length);
    if (!e) e = may_u32(source, "rope.dimension_count", &rope_dimensions);
    if (e) return e;
    char wanted[64];
    snprintf(wanted, sizeof wanted, "the head dimension, %u", spec->head_dim);
    if (value_length != spec->head_dim)
        return unsupported_key(source, "attention.value_length", wanted);
    if (rope_dimensions != spec->head_dim)
        return unsupported_key(source, "rope.dimension_count", wanted);
    char name[KEY_BYTES];
    key_name(source, "attention.layer_norm_rms_epsilon", name);
    if (!gguf_get_f32(source->keys, name, &spec->norm_epsilon))
        return wrong_key(source, "attention.layer_norm_rms_epsilon", "a number");
    spec->rope.theta = 10000; /* the format's default */
    e = may_f32(source, "rope.freq_base", &spec->rope.theta);
    if (!e) e = may_u32(source, "attention.sliding_window", &spec->sliding_window);
    if (spec->sliding_window >= spec->context_tokens) spec->sliding_window = 0;
    return e;
}

static void add_eos(struct model_spec *spec, uint32_t id) {
    for (uint32_t i = 0; i < spec->eos_count; i++)
        if (spec->eos_ids[i] == id) return;
    if (spec->eos_count < MODEL_EOS_MAX) spec->eos_ids[spec->eos_count++] = id;
}

/* The end tokens that the file names, and the control tokens by which the templates of these
 * families end a turn: older files name only one. */
static enum err read_eos(const struct source *source, struct model_spec *spec) {
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    for (uint32_t i = 0; i < ARRAY_COUNT(keys); i++) {
        uint32_t id;
        if (!gguf_find(source->keys, keys[i])) continue;
        if (!gguf_get_u32(source->keys, keys[i], &id) || id >= spec->vocab_size)
            return err_set(source->text, ERR_FORMAT, "%s: key %s: expected an id below %u",
                           source->file, keys[i], spec->vocab_size);
        add_eos(spec, id);
    }
    const struct gguf_key *tokens = gguf_find(source->keys, "tokenizer.ggml.tokens");
    const struct gguf_key *types = gguf_find(source->keys, "tokenizer.ggml.token_type");
    if (!tokens || !types || tokens->type != GGUF_ARRAY || types->type != GGUF_ARRAY ||
        tokens->element_type != GGUF_STRING || types->element_type == GGUF_STRING)
        return ERR_OK;
    uint64_t at = 0;
    for (uint64_t id = 0; id < tokens->count && id < types->count; id++) {
        static const char *const ends[] = {"<|im_end|>", "<|eot_id|>", "<|eom_id|>"};
        const char *token;
        size_t bytes;
        gguf_array_string(tokens, &at, &token, &bytes);
        if (bytes != 10) continue; /* all of them are that long */
        for (uint32_t i = 0; i < ARRAY_COUNT(ends); i++)
            if (memcmp(token, ends[i], 10) == 0 && gguf_array_number(types, id) == 3 &&
                id < spec->vocab_size)
                add_eos(spec, (uint32_t) id);
    }
    return ERR_OK;
}

enum err model_gguf_spec(const struct gguf_set *set, struct err_text *text,
                         struct model_spec *spec) {
    struct source source = {
        .set = set, .keys = gguf_set_keys(set), .file = set->parts[0].file.path, .text = text};
    *spec = (struct model_spec){0};
    enum err e = read_arch(&source, spec);
    if (!e) e = check_keys(&source);
    if (!e) e = read_sizes(&source, spec);
    if (e) return e;
    uint32_t part;
    const struct gguf_tensor *embedding = gguf_set_find_tensor(set, "token_embd.weight", &part);
    if (!embedding || embedding->dimension_count != 2 || embedding->dimensions[1] > UINT32_MAX)
        return err_set(text, ERR_FORMAT,
                       "%s: tensor token_embd.weight is %s: expected (vocabulary, %u)", source.file,
                       embedding ? "misshapen" : "missing", spec->hidden_size);
    spec->vocab_size = (uint32_t) embedding->dimensions[1];
    spec->is_tied = !has_tensor(&source, "output.weight");
    spec->has_qkv_bias = has_tensor(&source, "blk.0.attn_q.bias");
    spec->has_o_bias = has_tensor(&source, "blk.0.attn_output.bias");
    spec->has_mlp_bias = has_tensor(&source, "blk.0.ffn_gate.bias");
    spec->has_qk_norm = spec->family == MODEL_QWEN3;
    e = read_scaling(&source, spec);
    if (!e) e = read_divisors(&source, spec);
    if (!e) e = read_eos(&source, spec);
    if (e) return e;
    e = model_spec_check(spec, text);
    if (e) {
        err_prefix(text, "%s", source.file);
        return e;
    }
    spec->segment_count = model_spec_segments(spec->head_count, spec->kv_head_count);
    return ERR_OK;
}

/* --- the tensors -------------------------------------------------------------------------- */

static enum err place_tensor(struct model *model, enum tensor_role role, uint32_t layer,
                             uint32_t *found, struct err_text *text) {
    uint32_t rows, columns, part;
    if (!model_index_shape(&model->spec, role, &rows, &columns)) return ERR_OK;
    char name[MODEL_TENSOR_NAME_BYTES];
    model_index_name_gguf(role, layer, name);
    const struct gguf_tensor *tensor = gguf_set_find_tensor(&model->gguf, name, &part);
    if (!tensor)
        return err_set(text, ERR_FORMAT, "%s: tensor %s is missing: expected (%u, %u)",
                       model->gguf.parts[0].file.path, name, rows, columns);
    const char *file = model->gguf.parts[part].file.path;
    bool is_vector = model_index_is_vector(role);
    if (tensor->dimension_count != (is_vector ? 1u : 2u) || tensor->dimensions[0] != columns ||
        tensor->dimensions[1] != rows)
        return err_set(
            text, ERR_FORMAT,
            "%s: tensor %s has shape (%llu, %llu) in %u dimensions: expected (%u, %u) in "
            "%u",
            file, name, (unsigned long long) tensor->dimensions[1],
            (unsigned long long) tensor->dimensions[0], tensor->dimension_count, rows, columns,
            is_vector ? 1 : 2);
    if (is_vector && tensor_type_is_quantized(tensor->type))
        return err_set(text, ERR_UNSUPPORTED,
                       "%s: tensor %s has type %s: expected f32, f16 or bf16", file, name,
                       tensor_type_name(tensor->type));
    bool is_qk = role == ROLE_Q || role == ROLE_K || role == ROLE_Q_BIAS || role == ROLE_K_BIAS;
    model->places[(size_t) layer * ROLE_COUNT + role] = (struct model_place){
        .tensor = {tensor->type, rows, columns, tensor_type_bytes(tensor->type, columns)},
        .data = tensor->data,
        .is_interleaved = is_qk && model->spec.family == MODEL_LLAMA,
    };
    ++*found;
    return ERR_OK;
}

/* A tensor nobody asked for would be a computation that is left out. */
static enum err name_stranger(const struct model *model, struct err_text *text) {
    for (uint32_t p = 0; p < model->gguf.part_count; p++) {
        const struct gguf *gguf = &model->gguf.parts[p].gguf;
        for (uint32_t i = 0; i < gguf->tensor_count; i++) {
            const struct gguf_tensor *tensor = &gguf->tensors[i];
            bool is_known = false;
            for (uint32_t layer = 0; layer < model->spec.layer_count && !is_known; layer++) {
                for (int role = 0; role < ROLE_COUNT && !is_known; role++)
                    is_known =
                        model->places[(size_t) layer * ROLE_COUNT + role].data == tensor->data;
            }
            char name[512];
            snprintf(name, sizeof name, "%.*s", (int) tensor->name_bytes, tensor->name);
            if (!is_known && strcmp(name, "rope_freqs.weight") != 0)
                return err_set(text, ERR_UNSUPPORTED,
                               "%s: tensor %s is no part of this architecture as supported here",
                               model->gguf.parts[p].file.path, name);
        }
    }
    return ERR_OK;
}

enum err model_gguf_places(struct model *model, struct err_text *text) {
    uint32_t found = 0;
    for (uint32_t layer = 0; layer < model->spec.layer_count; layer++)
        for (int role = 0; role < ROLE_COUNT; role++) {
            if (layer && !role_has_layers((enum tensor_role) role)) continue;
            enum err e = place_tensor(model, (enum tensor_role) role, layer, &found, text);
            if (e) return e;
        }
    uint64_t in_files = 0;
    for (uint32_t p = 0; p < model->gguf.part_count; p++)
        in_files += model->gguf.parts[p].gguf.tensor_count;
    uint32_t part;
    if (gguf_set_find_tensor(&model->gguf, "rope_freqs.weight", &part)) found++;
    return found == in_files ? ERR_OK : name_stranger(model, text);
}

/* --- texts -------------------------------------------------------------------------------- */

enum err model_gguf_texts(const struct gguf_set *set, struct err_text *text, char **chat_template,
                          char *specials[SPECIAL_COUNT]) {
    const struct gguf *gguf = gguf_set_keys(set);
    const char *source;
    size_t bytes;
    if (gguf_get_string(gguf, "tokenizer.chat_template", &source, &bytes)) {
        *chat_template = alloc_string(source, bytes);
        if (!*chat_template) return err_set(text, ERR_MEMORY, "no memory for the chat template");
    }
    static const char *const keys[SPECIAL_COUNT] = {
        [SPECIAL_BOS] = "tokenizer.ggml.bos_token_id",
        [SPECIAL_EOS] = "tokenizer.ggml.eos_token_id",
        [SPECIAL_UNK] = "tokenizer.ggml.unknown_token_id",
        [SPECIAL_PAD] = "tokenizer.ggml.padding_token_id",
    };
    uint32_t ids[SPECIAL_COUNT];
    bool wanted[SPECIAL_COUNT];
    for (int i = 0; i < SPECIAL_COUNT; i++) wanted[i] = gguf_get_u32(gguf, keys[i], &ids[i]);
    const struct gguf_key *tokens = gguf_find(gguf, "tokenizer.ggml.tokens");
    if (!tokens || tokens->type != GGUF_ARRAY || tokens->element_type != GGUF_STRING) return ERR_OK;
    uint64_t at = 0;
    for (uint64_t id = 0; id < tokens->count; id++) {
        gguf_array_string(tokens, &at, &source, &bytes);
        for (int i = 0; i < SPECIAL_COUNT; i++) {
            if (!wanted[i] || ids[i] != id) continue;
            specials[i] = alloc_string(source, bytes);
            if (!specials[i]) return err_set(text, ERR_MEMORY, "no memory for a token's text");
        }
    }
    return ERR_OK;
}
