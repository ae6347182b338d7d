/* model_index - see model_index.h. */
#include "model/model_index.h"

#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "base/alloc.h"
#include "base/num.h"

/* Of each tensor's data in the digest: a page a tensor, of pages that loading reads anyway. */
#define SAMPLE_BYTES 1024u

static const struct {
    const char *gguf;
    const char *hf;
} names[ROLE_COUNT] = {
    [ROLE_EMBEDDING] = {"token_embd.weight", "model.embed_tokens.weight"},
    [ROLE_FINAL_NORM] = {"output_norm.weight", "model.norm.weight"},
    [ROLE_HEAD] = {"output.weight", "lm_head.weight"},
    [ROLE_ATTN_NORM] = {"attn_norm.weight", "input_layernorm.weight"},
    [ROLE_Q] = {"attn_q.weight", "self_attn.q_proj.weight"},
    [ROLE_K] = {"attn_k.weight", "self_attn.k_proj.weight"},
    [ROLE_V] = {"attn_v.weight", "self_attn.v_proj.weight"},
    [ROLE_O] = {"attn_output.weight", "self_attn.o_proj.weight"},
    [ROLE_Q_BIAS] = {"attn_q.bias", "self_attn.q_proj.bias"},
    [ROLE_K_BIAS] = {"attn_k.bias", "self_attn.k_proj.bias"},
    [ROLE_V_BIAS] = {"attn_v.bias", "self_attn.v_proj.bias"},
    [ROLE_O_BIAS] = {"attn_output.bias", "self_attn.o_proj.bias"},
    [ROLE_Q_NORM] = {"attn_q_norm.weight", "self_attn.q_norm.weight"},
    [ROLE_K_NORM] = {"attn_k_norm.weight", "self_attn.k_norm.weight"},
    [ROLE_FFN_NORM] = {"ffn_norm.weight", "post_attention_layernorm.weight"},
    [ROLE_GATE] = {"ffn_gate.weight", "mlp.gate_proj.weight"},
    [ROLE_UP] = {"ffn_up.weight", "mlp.up_proj.weight"},
    [ROLE_DOWN] = {"ffn_down.weight", "mlp.down_proj.weight"},
    [ROLE_GATE_BIAS] = {"ffn_gate.bias", "mlp.gate_proj.bias"},
    [ROLE_UP_BIAS] = {"ffn_up.bias", "mlp.up_proj.bias"},
    [ROLE_DOWN_BIAS] = {"ffn_down.bias", "mlp.down_proj.bias"},
};

void model_index_name_gguf(enum tensor_role role, uint32_t layer,
                           char out[MODEL_TENSOR_NAME_BYTES]) {
    if (role_has_layers(role))
        snprintf(out, MODEL_TENSOR_NAME_BYTES, "blk.%u.%s", layer, names[role].gguf);
    else snprintf(out, MODEL_TENSOR_NAME_BYTES, "%s", names[role].gguf);
}

void model_index_name_hf(enum tensor_role role, uint32_t layer, char out[MODEL_TENSOR_NAME_BYTES]) {
    if (role_has_layers(role))
        snprintf(out, MODEL_TENSOR_NAME_BYTES, "model.layers.%u.%s", layer, names[role].hf);
    else snprintf(out, MODEL_TENSOR_NAME_BYTES, "%s", names[role].hf);
}

bool model_index_is_vector(enum tensor_role role) {
    switch (role) {
    case ROLE_EMBEDDING:
    case ROLE_HEAD:
    case ROLE_Q:
    case ROLE_K:
    case ROLE_V:
    case ROLE_O:
    case ROLE_GATE:
    case ROLE_UP:
    case ROLE_DOWN: return false;
    default: return true;
    }
}

bool model_index_shape(const struct model_spec *spec, enum tensor_role role, uint32_t *rows,
                       uint32_t *columns) {
    uint32_t hidden = spec->hidden_size, ffn = spec->ffn_size;
    uint32_t q = spec->head_count * spec->head_dim, kv = spec->kv_head_count * spec->head_dim;
    const struct {
        bool is_there;
        uint32_t rows, columns;
    } shapes[ROLE_COUNT] = {
        [ROLE_EMBEDDING] = {true, spec->vocab_size, hidden},
        [ROLE_FINAL_NORM] = {true, 1, hidden},
        [ROLE_HEAD] = {!spec->is_tied, spec->vocab_size, hidden},
        [ROLE_ATTN_NORM] = {true, 1, hidden},
        [ROLE_Q] = {true, q, hidden},
        [ROLE_K] = {true, kv, hidden},
        [ROLE_V] = {true, kv, hidden},
        [ROLE_O] = {true, hidden, q},
        [ROLE_Q_BIAS] = {spec->has_qkv_bias, 1, q},
        [ROLE_K_BIAS] = {spec->has_qkv_bias, 1, kv},
        [ROLE_V_BIAS] = {spec->has_qkv_bias, 1, kv},
        [ROLE_O_BIAS] = {spec->has_o_bias, 1, hidden},
        [ROLE_Q_NORM] = {spec->has_qk_norm, 1, spec->head_dim},
        [ROLE_K_NORM] = {spec->has_qk_norm, 1, spec->head_dim},
        [ROLE_FFN_NORM] = {true, 1, hidden},
        [ROLE_GATE] = {true, ffn, hidden},
        [ROLE_UP] = {true, ffn, hidden},
        [ROLE_DOWN] = {true, hidden, ffn},
        [ROLE_GATE_BIAS] = {spec->has_mlp_bias, 1, ffn},
        [ROLE_UP_BIAS] = {spec->has_mlp_bias, 1, ffn},
        [ROLE_DOWN_BIAS] = {spec->has_mlp_bias, 1, hidden},
    };
    if (!shapes[role].is_there) return false;
    *rows = shapes[role].rows;
    *columns = shapes[role].columns;
    return true;
}

enum err model_index_create(struct model *model, struct err_text *text) {
    model->places =
        alloc_zero((size_t) model->spec.layer_count * ROLE_COUNT, sizeof *model->places);
    if (!model->places)
        return err_set(text, ERR_MEMORY, "no memory for the index of %u layers",
                       model->spec.layer_count);
    return ERR_OK;
}

/* Where the tensor begins in its file; 0 when it is made from a seed. */
static uint64_t file_offset(const struct model *model, const uint8_t *data) {
    for (uint32_t i = 0; data && i < model->gguf.part_count; i++) {
        const struct model_file *file = &model->gguf.parts[i].file;
        if (data >= file->bytes && data < file->bytes + file->size)
            return (uint64_t) (data - file->bytes);
    }
    for (uint32_t i = 0; data && i < model->file_count; i++) {
        const struct model_file *file = &model->files[i];
        if (data >= file->bytes && data < file->bytes + file->size)
            return (uint64_t) (data - file->bytes);
    }
    return 0;
}

static uint64_t digest_tensor(const struct model *model, uint64_t place_index, uint64_t digest) {
    const struct model_place *place = &model->places[place_index];
    const struct model_tensor *tensor = &place->tensor;
    char name[MODEL_TENSOR_NAME_BYTES];
    model_tensor_name(model, (enum tensor_role)(place_index % ROLE_COUNT),
                      (uint32_t) (place_index / ROLE_COUNT), name);
    uint64_t entry[6] = {(uint64_t) tensor->type, tensor->rows,          tensor->columns,
                         tensor->row_bytes,       place->is_interleaved, 0};
    entry[5] = file_offset(model, place->data);
    digest = XXH3_64bits_withSeed(name, strlen(name), digest);
    digest = XXH3_64bits_withSeed(entry, sizeof entry, digest);
    if (!place->data) return digest;
    return XXH3_64bits_withSeed(place->data, num_min(tensor->row_bytes, SAMPLE_BYTES), digest);
}

void model_index_finish(struct model *model) {
    uint64_t weights_of[TENSOR_TYPE_COUNT] = {0};
    model->weight_bytes = 0;
    XXH64_hash_t digest = XXH3_64bits_withSeed(&model->spec.family, sizeof model->spec.family, 0);
    uint64_t place_count = (uint64_t) model->spec.layer_count * ROLE_COUNT;
    for (uint64_t i = 0; i < place_count; i++) {
        const struct model_tensor *tensor = &model->places[i].tensor;
        if (!tensor->rows) continue;
        enum tensor_role role = (enum tensor_role)(i % ROLE_COUNT);
        model->weight_bytes += tensor->rows * tensor->row_bytes;
        /* The embedding alone does not decide: quantizers keep it wider. */
        if (!model_index_is_vector(role) && role_has_layers(role))
            weights_of[tensor->type] += (uint64_t) tensor->rows * tensor->columns;
        digest = digest_tensor(model, i, digest);
    }
    enum tensor_type most = TENSOR_F32;
    for (int type = 0; type < TENSOR_TYPE_COUNT; type++)
        if (weights_of[type] > weights_of[most]) most = (enum tensor_type) type;
    model->spec.weight_type = most;

    const struct model_spec *spec = &model->spec;
    float numbers[] = {spec->norm_epsilon,          spec->rope.theta,
                       spec->rope.factor,           spec->rope.low_freq_factor,
                       spec->rope.high_freq_factor, spec->rope.beta_fast,
                       spec->rope.beta_slow,        spec->rope.attention_factor};
    uint32_t counts[] = {spec->layer_count,
                         spec->hidden_size,
                         spec->ffn_size,
                         spec->head_count,
                         spec->kv_head_count,
                         spec->head_dim,
                         spec->vocab_size,
                         spec->sliding_window,
                         (uint32_t) spec->rope.type,
                         spec->rope.original_context_tokens,
                         spec->is_tied,
                         model->is_dummy};
    digest = XXH3_64bits_withSeed(numbers, sizeof numbers, digest);
    digest = XXH3_64bits_withSeed(counts, sizeof counts, digest);
    if (model->is_dummy)
        digest = XXH3_64bits_withSeed(&model->dummy_seed, sizeof model->dummy_seed, digest);
    model->digest = digest;
}
