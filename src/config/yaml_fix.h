/* yaml_fix - mends a YAML text where its problems say how, and shows what changed.
 *
 * Works on the text, so comments, order and formatting stay.  Pure; whoever calls reads the result
 * again and keeps it only if it is better. */
#ifndef GRAMME_CONFIG_YAML_FIX_H
#define GRAMME_CONFIG_YAML_FIX_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "config/problem.h"

/* Applies the edits of the list, one at most at each place; `out` gets the new text.  Returns how
 * many were applied; what cannot be done in the text as it stands (a value over several lines) is
 * left out. */
uint32_t yaml_fix_apply(const uint8_t *yaml, size_t bytes, const struct problem_list *problems,
                        struct buf *out);
/* A unified diff with three lines around each change; nothing when the texts are equal. */
void yaml_fix_diff(const char *name, const uint8_t *before, size_t before_bytes,
                   const uint8_t *after, size_t after_bytes, struct buf *out);

#endif
