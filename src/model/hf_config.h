/* hf_config - config.json of a Hugging Face model, as a spec.
 *
 * Keys fall in four lists: those computed here; those known to change nothing; those accepted
 * with one neutral value and refused, by name, with any other; the rest are ignored and logged
 * once.  Pure but for that log line. */
#ifndef GRAMME_MODEL_HF_CONFIG_H
#define GRAMME_MODEL_HF_CONFIG_H

#include <jansson.h>

#include "base/err.h"
#include "model/model_spec.h"

/* Everything of spec but name and weight_type.  file stands in the errors. */
MUST_USE enum err hf_config_read(const json_t *config, const char *file, struct err_text *text,
                                 struct model_spec *spec);
/* Adds eos_token_id (a number or a list) of config.json or generation_config.json; ids outside
 * the vocabulary are left out. */
MUST_USE enum err hf_config_read_eos(const json_t *config, const char *file, struct err_text *text,
                                     struct model_spec *spec);

#endif
