/* safetensors - the header of one safetensors file: where each tensor lies.
 *
 * Parses bytes that somebody else made.  Names and the table are owned; data borrows from the
 * bytes, which the caller keeps mapped.  Pure; immutable after safetensors_parse.
 *
 * Invariant: the tensors fill the buffer behind the header without hole or overlap. */
#ifndef GRAMME_MODEL_SAFETENSORS_H
#define GRAMME_MODEL_SAFETENSORS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "model/tensor_type.h"

#define SAFETENSORS_DIMENSIONS_MAX 8

struct safetensors_tensor {
    const char *name;  /* in the table's arena */
    const char *dtype; /* "BF16": as the file spells it */
    bool has_type;     /* false: a dtype that we cannot compute with */
    enum tensor_type type;
    uint32_t dimension_count;
    uint64_t dimensions[SAFETENSORS_DIMENSIONS_MAX]; /* slowest first */
    const uint8_t *data;
    uint64_t bytes;
};

struct safetensors {
    struct safetensors_tensor *tensors; /* sorted by name */
    uint32_t tensor_count;
    struct arena names;
};

/* file stands in the errors only. */
MUST_USE enum err safetensors_parse(const uint8_t *bytes, uint64_t size, const char *file,
                                    struct err_text *text, struct safetensors *out);
void safetensors_release(struct safetensors *safetensors);
/* NULL when absent. */
const struct safetensors_tensor *safetensors_find(const struct safetensors *safetensors,
                                                  const char *name);

#endif
