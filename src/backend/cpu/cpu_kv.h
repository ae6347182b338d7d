/* cpu_kv - the KV region of one rank: where runs lie, copies, and the image's checksum.
 *
 * The region is the block image block by block: [block][layer][K|V][kv head][run], so that a
 * block's pages are touched together.  Inside a run: cpu_attention.h, the same on every body and
 * for every number of ranks, so that runs are copied as they are.  Block 0 ("none") lies apart and
 * is never read or written. */
#ifndef GRAMME_BACKEND_CPU_CPU_KV_H
#define GRAMME_BACKEND_CPU_CPU_KV_H

#include "backend/backend.h"
#include "backend/cpu/cpu_attention.h"

struct cpu_kv {
    uint8_t *base; /* of block 1 */
    enum kv_dtype dtype;
    uint32_t block_count; /* block 0 not counted */
    uint32_t block_size;
    uint32_t layer_count;
    uint32_t head_first; /* of this rank, among the model's */
    uint32_t head_count;
    uint32_t head_total; /* of the model */
    uint32_t head_dim;
    uint64_t run_bytes;
    uint64_t block_bytes;
};

/* For KV heads [head_first, head_first + head_count) of the spec's. */
void cpu_kv_init(struct cpu_kv *kv, const struct model_spec *spec, uint32_t head_first,
                 uint32_t head_count, enum kv_dtype dtype, uint32_t block_size);
void cpu_kv_layout(const struct cpu_kv *kv, struct kv_layout *out);
void cpu_kv_copy(const struct cpu_kv *kv, uint32_t from, uint32_t to, uint32_t slot_count);
uint64_t cpu_kv_checksum(const struct cpu_kv *kv, uint32_t block, uint32_t slot_count);

static inline uint8_t *cpu_kv_run(const struct cpu_kv *kv, uint32_t block, uint32_t layer,
                                  bool is_value, uint32_t head) {
    return kv->base + (uint64_t) (block - 1) * kv->block_bytes +
           (((uint64_t) layer * 2 + is_value) * kv->head_count + head) * kv->run_bytes;
}
static inline uint32_t cpu_kv_element_bytes(enum kv_dtype dtype) {
    return dtype == KV_DTYPE_F32 ? 4 : dtype == KV_DTYPE_F16 || dtype == KV_DTYPE_BF16 ? 2 : 1;
}
static inline bool cpu_kv_has_scales(enum kv_dtype dtype) {
    return dtype == KV_DTYPE_INT8 || dtype == KV_DTYPE_FP8;
}

#endif
