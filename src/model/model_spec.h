/* model_spec - every dimension of a model, each with one name.
 *
 * Filled from config.json, from GGUF keys, or from a catalogue of public shapes; pure data.  A
 * key that changes the computation and is not implemented is an error of the reader, so whoever
 * holds a spec can compute it. */
#ifndef GRAMME_MODEL_MODEL_SPEC_H
#define GRAMME_MODEL_MODEL_SPEC_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "model/tensor_type.h"

enum model_family { MODEL_LLAMA, MODEL_MISTRAL, MODEL_QWEN2, MODEL_QWEN3 };

enum rope_type { ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3, ROPE_YARN };

#define MODEL_NAME_BYTES 128
#define MODEL_EOS_MAX 16

struct model_spec {
    char name[MODEL_NAME_BYTES]; /* org/name or the file's stem: the served name's default */
    enum model_family family;
    uint32_t layer_count;
    uint32_t hidden_size;
    uint32_t ffn_size; /* intermediate size */
    uint32_t head_count;
    uint32_t kv_head_count;
    uint32_t head_dim;
    uint32_t vocab_size;     /* rows of the embedding */
    uint32_t context_tokens; /* what the model was made for, rope scaling included */
    uint32_t sliding_window; /* tokens; 0: none */
    float norm_epsilon;
    bool is_tied; /* the head is the embedding */
    bool has_qkv_bias;
    bool has_o_bias;
    bool has_mlp_bias;
    bool has_qk_norm; /* RMSNorm per head on q and k, before rope */
    struct {
        enum rope_type type;
        float theta;
        float factor;
        float low_freq_factor, high_freq_factor;      /* llama3 */
        float beta_fast, beta_slow, attention_factor; /* yarn */
        uint32_t original_context_tokens;
    } rope;
    enum tensor_type weight_type;    /* of most matrices: decides the default numerics class */
    uint32_t eos_ids[MODEL_EOS_MAX]; /* union of all the files name */
    uint32_t eos_count;
    uint32_t segment_count; /* S of numerics.md 3 */
};

/* Segments of numerics.md 3: gcd(heads, 8), or the KV-head count where that is 1. */
uint32_t model_spec_segments(uint32_t head_count, uint32_t kv_head_count);
/* ERR_FORMAT naming the dimension that is zero, too large or does not divide. */
MUST_USE enum err model_spec_check(const struct model_spec *spec, struct err_text *text);
/* The inverse frequencies of rope, head_dim / 2 of them, scaling included, and the factor on cos
 * and sin (1 but for yarn); f32 arithmetic as transformers does it. */
void model_spec_rope(const struct model_spec *spec, float *inv_freq, float *scale);

#endif
