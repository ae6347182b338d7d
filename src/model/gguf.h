/* gguf - the header of one GGUF v3 file: keys, and where each tensor lies.
 *
 * Parses bytes that somebody else made, so every length is checked before its first use and
 * nothing is allocated by a length the file merely claims.  Everything handed out borrows from
 * the bytes, which the caller keeps mapped.  Pure; immutable after gguf_parse; any thread reads.
 *
 * Invariant: a tensor's [data, data + bytes) lies inside the file and overlaps no other tensor. */
#ifndef GRAMME_MODEL_GGUF_H
#define GRAMME_MODEL_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "model/tensor_type.h"

#define GGUF_DIMENSIONS_MAX 4
#define GGUF_NAME_BYTES_MAX 256 /* the specification says 64; some writers pass it */

enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPE_COUNT,
};

struct gguf_key {
    const char *name; /* not NUL-terminated */
    uint32_t name_bytes;
    enum gguf_type type;
    enum gguf_type element_type; /* of an array */
    uint64_t count;              /* elements of an array; else 1 */
    const uint8_t *data;         /* the value (a string: behind its length), unaligned */
    uint64_t bytes;              /* of the value */
};

struct gguf_tensor {
    const char *name; /* not NUL-terminated */
    uint32_t name_bytes;
    uint32_t dimension_count;
    uint64_t dimensions[GGUF_DIMENSIONS_MAX]; /* fastest first; the rest are 1 */
    enum tensor_type type;
    const uint8_t *data;
    uint64_t bytes;
};

struct gguf {
    struct gguf_key *keys; /* sorted by name */
    uint32_t key_count;
    struct gguf_tensor *tensors; /* sorted by name */
    uint32_t tensor_count;
};

/* True when the bytes begin as a GGUF file does. */
bool gguf_is_magic(const uint8_t *bytes, uint64_t size);
/* file stands in the errors only. */
MUST_USE enum err gguf_parse(const uint8_t *bytes, uint64_t size, const char *file,
                             struct err_text *text, struct gguf *out);
void gguf_release(struct gguf *gguf);

/* NULL when absent. */
const struct gguf_key *gguf_find(const struct gguf *gguf, const char *name);
const struct gguf_tensor *gguf_find_tensor(const struct gguf *gguf, const char *name);

/* A scalar as a number of any numeric type; false when the key is absent or of another type or
 * (u32) out of range.  An array whose elements are all equal counts as its element: some
 * writers store one number a layer. */
MUST_USE bool gguf_get_u32(const struct gguf *gguf, const char *name, uint32_t *out);
MUST_USE bool gguf_get_f32(const struct gguf *gguf, const char *name, float *out);
MUST_USE bool gguf_get_bool(const struct gguf *gguf, const char *name, bool *out);
MUST_USE bool gguf_get_string(const struct gguf *gguf, const char *name, const char **out,
                              size_t *bytes);
/* Element `index` of a numeric array, as a number. */
double gguf_array_number(const struct gguf_key *key, uint64_t index);
/* Walks an array of strings: *at begins at 0 and is moved past the string given out. */
void gguf_array_string(const struct gguf_key *key, uint64_t *at, const char **out, size_t *bytes);
/* The value for a message: "7", "0.5", "true", "\"linear\"", "[3 of 30 ...]"; cut to fit. */
void gguf_describe(const struct gguf_key *key, char *out, size_t bytes);

#endif
