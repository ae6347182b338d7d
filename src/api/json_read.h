/* json_read - a strict JSON text becomes a jansson tree.
 *
 * jansson's own reader takes half of a short request's whole CPU time and aborts when memory ends;
 * the tree, which the templates work on, stays jansson's.  Accepts what json_loadb accepts with
 * JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, only nested less deeply (a fuzz entry
 * holds the two together).  No recursion.  Pure, any thread. */
#ifndef GRAMME_API_JSON_READ_H
#define GRAMME_API_JSON_READ_H

#include <jansson.h>
#include <stddef.h>

#include "base/err.h"

#define JSON_READ_DEPTH_MAX 256

struct json_read_fault {
    size_t offset;   /* of the byte at fault */
    const char *why; /* a constant */
};

/* ERR_FORMAT fills *fault; ERR_MEMORY.  *out is the caller's reference. */
MUST_USE enum err json_read(const void *text, size_t bytes, struct json_read_fault *fault,
                            json_t **out);

#endif
