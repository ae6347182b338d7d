/* kv_dtype - how keys and values are stored in the KV cache (numerics.md 4). */
#ifndef GRAMME_BACKEND_KV_DTYPE_H
#define GRAMME_BACKEND_KV_DTYPE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/check.h"
#include "model/tensor_type.h"

enum kv_dtype {
    KV_DTYPE_AUTO,
    KV_DTYPE_F32,
    KV_DTYPE_F16,
    KV_DTYPE_BF16,
    KV_DTYPE_INT8, /* one f32 scale per (slot, head), at the end of the head's run */
    KV_DTYPE_FP8,  /* e4m3, scaled likewise */
};

const char *kv_dtype_name(enum kv_dtype dtype);
MUST_USE bool kv_dtype_parse(const char *word, enum kv_dtype *out);
/* auto: f32 for F32 weights, else the 16-bit type of the model (f16 for quantized GGUF). */
enum kv_dtype kv_dtype_resolve(enum kv_dtype wanted, enum tensor_type weight_type);
/* Bytes of one head's run of slot_count slots, scales included. */
uint64_t kv_dtype_run_bytes(enum kv_dtype dtype, uint32_t slot_count, uint32_t head_dim);

#endif
