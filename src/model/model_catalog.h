/* model_catalog - shapes of public models, by name: what can be planned and measured without the
 * files.  Pure data, from each model's published config.json. */
#ifndef GRAMME_MODEL_MODEL_CATALOG_H
#define GRAMME_MODEL_MODEL_CATALOG_H

#include "model/model_spec.h"

/* Matches the last path component of `name`, whatever its organisation, case and suffixes
 * (-Instruct, -Chat, -Base, -GGUF, -FP8, -AWQ, -GPTQ-Int4 ...).  The spec is complete but for
 * weight_type and end tokens. */
MUST_USE bool model_catalog_find(const char *name, struct model_spec *out);
/* The index-th name, NULL past the last. */
const char *model_catalog_name(uint32_t index);

#endif
