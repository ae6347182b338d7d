/* model_index - which tensors a spec asks for, their shapes and their names in either format. */
#ifndef GRAMME_MODEL_MODEL_INDEX_H
#define GRAMME_MODEL_MODEL_INDEX_H

#include "model/model_parts.h"

/* The shape; false when a model of this spec has no such tensor (a tied head has none of its
 * own). */
MUST_USE bool model_index_shape(const struct model_spec *spec, enum tensor_role role,
                                uint32_t *rows, uint32_t *columns);
/* "blk.3.attn_q.weight" or "model.layers.3.self_attn.q_proj.weight". */
void model_index_name_gguf(enum tensor_role role, uint32_t layer,
                           char out[MODEL_TENSOR_NAME_BYTES]);
void model_index_name_hf(enum tensor_role role, uint32_t layer, char out[MODEL_TENSOR_NAME_BYTES]);
/* A vector is one row: norms and biases. */
bool model_index_is_vector(enum tensor_role role);

/* Room for every place of model->spec. */
MUST_USE enum err model_index_create(struct model *model, struct err_text *text);
/* When every place is filled: weight type of most matrices, bytes of all tensors, digest. */
void model_index_finish(struct model *model);

#endif
