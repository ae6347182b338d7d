/* model - a model on disk: its spec, its tensors, its tokenizer and template.
 *
 * Opened from a Hugging Face directory, a GGUF file, or a known name with dummy weights; the
 * three look the same from here.  Files are mapped; nothing is read before it is asked for.
 * Immutable after model_open; any thread may read.  Owned by whoever opened it. */
#ifndef GRAMME_MODEL_MODEL_H
#define GRAMME_MODEL_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "model/model_spec.h"
#include "token/tokenizer.h"

struct model;

/* What a tensor is for; with the layer it names exactly one tensor. */
enum tensor_role {
    ROLE_EMBEDDING,  /* (vocab, hidden) */
    ROLE_FINAL_NORM, /* (hidden) */
    ROLE_HEAD,       /* (vocab, hidden); a tied model answers with the embedding */
    ROLE_ATTN_NORM,  /* (hidden) */
    ROLE_Q,          /* (heads x head_dim, hidden) */
    ROLE_K,          /* (kv_heads x head_dim, hidden) */
    ROLE_V,
    ROLE_O, /* (hidden, heads x head_dim) */
    ROLE_Q_BIAS,
    ROLE_K_BIAS,
    ROLE_V_BIAS,
    ROLE_O_BIAS,
    ROLE_Q_NORM, /* (head_dim) */
    ROLE_K_NORM,
    ROLE_FFN_NORM, /* (hidden) */
    ROLE_GATE,     /* (ffn, hidden) */
    ROLE_UP,
    ROLE_DOWN, /* (hidden, ffn) */
    ROLE_GATE_BIAS,
    ROLE_UP_BIAS,
    ROLE_DOWN_BIAS,
    ROLE_COUNT,
};

#define MODEL_TENSOR_NAME_BYTES 128

struct model_tensor {
    enum tensor_type type;
    uint32_t rows;    /* N; 1 for a vector */
    uint32_t columns; /* K */
    uint64_t row_bytes;
};

struct model_open_options {
    bool is_dummy; /* --load-format dummy: shapes only, weights from dummy_seed */
    uint64_t dummy_seed;
    enum tensor_type dummy_type; /* the matrices' storage; norms and biases are F32 */
    const char *shape;           /* dummy: a catalogue name or a config.json; NULL: from path */
};

/* Resolves `path_or_name` as behaviour.md 2 says and opens it.  Every error is one line with
 * file, tensor or key, expected and found. */
MUST_USE enum err model_open(const char *path_or_name, const struct model_open_options *options,
                             struct err_text *text, struct model **out);
void model_close(struct model *model);

const struct model_spec *model_get_spec(const struct model *model);
/* XXH3-64 over the spec and the tensor index - each tensor's name, type, shape, bytes and place in
 * its file - and a few of its bytes, so that another fine-tune of the same shape differs: HELLO's
 * numeric digest is made from it. */
uint64_t model_digest(const struct model *model);
/* Bytes of all tensors as stored. */
uint64_t model_weight_bytes(const struct model *model);

/* false when the model has no such tensor. `layer` is ignored for roles without layers. */
MUST_USE bool model_tensor_get(const struct model *model, enum tensor_role role, uint32_t layer,
                               struct model_tensor *out);
/* "blk.3.attn_q.weight" in a GGUF, else "model.layers.3.self_attn.q_proj.weight": as the file names
 * it, whether it has it or not. */
void model_tensor_name(const struct model *model, enum tensor_role role, uint32_t layer,
                       char out[MODEL_TENSOR_NAME_BYTES]);
/* One row's stored bytes.  Rows are in canonical order: q and k rows of a GGUF that stores rope
 * interleaved are given back in half-split (Hugging Face) order, so the same model gives the same
 * rows whatever its file.  Points into the mapping, or into scratch (row_bytes, 64-aligned) where
 * the row has to be made (dummy).  Any thread. */
const void *model_tensor_row(const struct model *model, enum tensor_role role, uint32_t layer,
                             uint32_t row, void *scratch);
/* Tells the kernel that the pages of these rows (as stored) are not needed any more, whole pages
 * only: the first and last may hold a neighbour's bytes. */
void model_tensor_drop_rows(const struct model *model, enum tensor_role role, uint32_t layer,
                            uint32_t row_first, uint32_t row_count);
void model_tensor_drop(const struct model *model, enum tensor_role role, uint32_t layer);
/* The tensor is about to be read: the kernel may fetch it meanwhile. */
void model_tensor_will_need(const struct model *model, enum tensor_role role, uint32_t layer);
/* Where it is mapped; false: nowhere (dummy weights), or there is no such tensor. */
MUST_USE bool model_tensor_mapping(const struct model *model, enum tensor_role role, uint32_t layer,
                                   const void **base, uint64_t *bytes);
/* The files' mappings, in no order: up to `room` of them; the count. */
struct model_mapping {
    const void *base;
    uint64_t bytes;
};
/* The path of the index-th of them; NULL past the last, and for dummy weights. */
const char *model_weights_path(const struct model *model, uint32_t index);
uint32_t model_mappings(const struct model *model, uint32_t room, struct model_mapping *out);

/* The same for all of the model's files: who has read what it wanted (tokenizer, template) keeps no
 * page of them; what is touched later comes back from the file. */
void model_drop_pages(const struct model *model);

/* --- what stands beside the weights ------------------------------------------------------ */

/* The tokenizer, or ERR_NOT_FOUND naming the files looked for.  The caller owns it. */
MUST_USE enum err model_open_tokenizer(const struct model *model, struct err_text *text,
                                       struct tokenizer **out);
/* Tokenizer and template only: reads no weights and no config.json, so it works where only the
 * tokenizer's files are.  template_out (may be NULL) is a NUL-terminated string the caller frees
 * with alloc_free, or NULL when the model has no template. */
MUST_USE enum err model_open_tokenizer_only(const char *path_or_name, struct err_text *text,
                                            struct tokenizer **out, char **template_out);
/* The chat template's source, NULL when there is none; lives as long as the model. */
const char *model_chat_template(const struct model *model);
/* The text of a special token as templates want it ("bos_token", "eos_token", "unk_token",
 * "pad_token"); NULL when absent. */
const char *model_special_token(const struct model *model, const char *name);

/* generation_config.json (or absent): has_* tell what the file sets. */
struct model_generation {
    bool has_temperature, has_top_p, has_top_k, has_min_p, has_repetition_penalty,
        has_max_new_tokens;
    float temperature, top_p, min_p, repetition_penalty;
    int32_t top_k;
    uint32_t max_new_tokens;
    bool do_sample; /* false with has_temperature unset means greedy was never asked for */
};
const struct model_generation *model_generation_defaults(const struct model *model);

#endif
