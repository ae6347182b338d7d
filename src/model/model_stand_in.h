/* model_stand_in - a vocabulary and a chat template for a shape that has no files.
 *
 * So that a layout can be tried by a model's name alone (run, serve and bench with dummy weights or
 * --engine sim): ids 0 to 255 are the bytes, the others made-up words; a text has one token a
 * byte.  It is nobody's real vocabulary. */
#ifndef GRAMME_MODEL_MODEL_STAND_IN_H
#define GRAMME_MODEL_MODEL_STAND_IN_H

#include "base/err.h"
#include "model/model_spec.h"
#include "token/tokenizer.h"

extern const char model_stand_in_template[];

/* ERR_UNSUPPORTED for fewer than 256 ids. */
MUST_USE enum err model_stand_in_tokenizer(const struct model_spec *spec, struct err_text *text,
                                           struct tokenizer **out);

#endif
