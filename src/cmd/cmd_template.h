/* cmd_template - what a chat template is given beside the messages. */
#ifndef GRAMME_CMD_CMD_TEMPLATE_H
#define GRAMME_CMD_CMD_TEMPLATE_H

#include <jansson.h>

#include "model/model.h"

/* Each of these sets only what `variables` does not have.  A lack of memory shows as a variable
 * that the template finds undefined. */

/* tools and documents as null, add_generation_prompt as false: transformers gives all three. */
void cmd_template_set_defaults(json_t *variables);
/* bos_token, eos_token, unk_token and pad_token of an open model. */
void cmd_template_set_tokens(json_t *variables, const struct model *model);
/* bos_token and eos_token of a tokenizer alone. */
void cmd_template_set_ends(json_t *variables, const struct tokenizer *tokenizer);

#endif
