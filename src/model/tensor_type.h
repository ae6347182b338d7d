/* tensor_type - the storage formats of weights: their sizes, names, and exact values. */
#ifndef GRAMME_MODEL_TENSOR_TYPE_H
#define GRAMME_MODEL_TENSOR_TYPE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/check.h"

/* Storage formats of tensors, GGUF's and safetensors'.  A block is 32 (or 256) weights along K. */
enum tensor_type {
    TENSOR_F32,
    TENSOR_F16,
    TENSOR_BF16,
    TENSOR_Q8_0,
    TENSOR_Q4_0,
    TENSOR_Q4_1,
    TENSOR_Q5_0,
    TENSOR_Q5_1,
    TENSOR_Q4_K,
    TENSOR_Q5_K,
    TENSOR_Q6_K,
    TENSOR_TYPE_COUNT,
};

/* Bytes of `count` weights along K; count must be a multiple of tensor_type_block. */
uint64_t tensor_type_bytes(enum tensor_type type, uint64_t count);
uint32_t tensor_type_block(enum tensor_type type); /* weights a block: 1, 32 or 256 */
const char *tensor_type_name(enum tensor_type type);
MUST_USE bool tensor_type_parse(const char *name, enum tensor_type *out); /* "q4_1", any case */
bool tensor_type_is_quantized(enum tensor_type type);
/* A row of `columns` weights dequantized by the format's definition: the reference everything is
 * tested against, and the way embeddings are read. */
void tensor_type_row_to_f32(enum tensor_type type, const void *row, uint32_t columns, float *out);

#endif
