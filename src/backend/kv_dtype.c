/* kv_dtype - see kv_dtype.h. */
#include "backend/kv_dtype.h"

#include <string.h>

static const char *const names[] = {"auto", "f32", "f16", "bf16", "int8", "fp8"};

const char *kv_dtype_name(enum kv_dtype dtype) {
    return (unsigned) dtype < ARRAY_COUNT(names) ? names[dtype] : "?";
}

bool kv_dtype_parse(const char *word, enum kv_dtype *out) {
    for (unsigned i = 0; i < ARRAY_COUNT(names); i++) {
        if (strcmp(word, names[i]) != 0) continue;
        *out = (enum kv_dtype) i;
        return true;
    }
    return false;
}

enum kv_dtype kv_dtype_resolve(enum kv_dtype wanted, enum tensor_type weight_type) {
    if (wanted != KV_DTYPE_AUTO) return wanted;
    switch (weight_type) {
    case TENSOR_F32: return KV_DTYPE_F32;
    case TENSOR_BF16: return KV_DTYPE_BF16;
    default: return KV_DTYPE_F16;
    }
}

uint64_t kv_dtype_run_bytes(enum kv_dtype dtype, uint32_t slot_count, uint32_t head_dim) {
    CHECK(dtype != KV_DTYPE_AUTO); /* resolved before it is used */
    uint64_t elements = (uint64_t) slot_count * head_dim;
    switch (dtype) {
    case KV_DTYPE_F32: return elements * 4;
    case KV_DTYPE_F16:
    case KV_DTYPE_BF16: return elements * 2;
    case KV_DTYPE_INT8:
    case KV_DTYPE_FP8: return elements + (uint64_t) slot_count * 4;
    case KV_DTYPE_AUTO: break;
    }
    return 0;
}
