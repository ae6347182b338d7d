/* http_target - the target of a request line: origin-form, absolute-form or "*".
 *
 * Splits path and query and decodes the path's percent escapes.  Refuses what could be read in
 * two ways: %00 and other control characters, broken escapes, a path that is not UTF-8, a
 * fragment. */
#ifndef GRAMME_HTTP_HTTP_TARGET_H
#define GRAMME_HTTP_HTTP_TARGET_H

#include <stddef.h>

#include "base/buf.h"

/* Appends "path NUL query NUL" to out and gives their offsets there.  NULL when it is fine, else
 * the reason.  A failure of out is the caller's to see. */
const char *http_target_split(const char *target, size_t bytes, struct buf *out, size_t *path_at,
                              size_t *query_at);

#endif
