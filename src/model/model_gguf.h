/* model_gguf - a model out of a GGUF file's keys and tensors. */
#ifndef GRAMME_MODEL_MODEL_GGUF_H
#define GRAMME_MODEL_MODEL_GGUF_H

#include "model/model_parts.h"

/* Fills spec (but for name, weight_type) from the keys, and from which tensors there are.  Every
 * key of the architecture that is not computed here is refused by name. */
MUST_USE enum err model_gguf_spec(const struct gguf_set *set, struct err_text *text,
                                  struct model_spec *spec);
/* Fills model->places from model->gguf; model->spec is set. */
MUST_USE enum err model_gguf_places(struct model *model, struct err_text *text);
/* Chat template and special tokens. */
MUST_USE enum err model_gguf_texts(const struct gguf_set *set, struct err_text *text,
                                   char **chat_template, char *specials[SPECIAL_COUNT]);

#endif
