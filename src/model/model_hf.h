/* model_hf - a model out of a Hugging Face directory. */
#ifndef GRAMME_MODEL_MODEL_HF_H
#define GRAMME_MODEL_MODEL_HF_H

#include "model/model_parts.h"

/* config.json and the end tokens of generation_config.json.  path is a directory or a
 * config.json. */
MUST_USE enum err model_hf_spec(const char *path, struct err_text *text, struct model_spec *spec);
/* Maps the safetensors files of `directory` and fills model->places; model->spec is set. */
MUST_USE enum err model_hf_places(struct model *model, const char *directory,
                                  struct err_text *text);
/* Template and special tokens; absent files mean that there are none. */
MUST_USE enum err model_hf_texts(const char *directory, struct err_text *text, char **chat_template,
                                 char *specials[SPECIAL_COUNT]);
MUST_USE enum err model_hf_generation(const char *directory, struct err_text *text,
                                      struct model_generation *out);

#endif
