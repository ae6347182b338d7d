/* model_dummy - weights out of a seed, for any shape and storage type.
 *
 * Pure: row r depends on (seed, role, layer, row) and the shape alone, so any thread may make any
 * row in any order.  The magnitudes are those of a freshly initialised network: activations and
 * logits stay finite and differ from token to token. */
#ifndef GRAMME_MODEL_MODEL_DUMMY_H
#define GRAMME_MODEL_MODEL_DUMMY_H

#include "model/model_parts.h"

/* Writes tensor->row_bytes. */
void model_dummy_row(const struct model_spec *spec, uint64_t seed, enum tensor_role role,
                     uint32_t layer, uint32_t row, const struct model_tensor *tensor, void *out);
/* Fills model->places of model->spec for matrices of `type`; ERR_UNSUPPORTED when a row does not
 * divide into its blocks. */
MUST_USE enum err model_dummy_places(struct model *model, enum tensor_type type,
                                     struct err_text *text);

#endif
