/* cpu_kv - see cpu_kv.h. */
#include "backend/cpu/cpu_kv.h"

#include <string.h>

/* The state of a streamed hash stands on the stack. */
#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

void cpu_kv_init(struct cpu_kv *kv, const struct model_spec *spec, uint32_t head_first,
                 uint32_t head_count, enum kv_dtype dtype, uint32_t block_size) {
    CHECK(head_count > 0 && head_first + head_count <= spec->kv_head_count);
    *kv = (struct cpu_kv){.dtype = dtype, .block_size = block_size};
    kv->layer_count = spec->layer_count;
    kv->head_first = head_first;
    kv->head_count = head_count;
    kv->head_total = spec->kv_head_count;
    kv->head_dim = spec->head_dim;
    kv->run_bytes = kv_dtype_run_bytes(dtype, block_size, spec->head_dim);
    kv->block_bytes = kv->run_bytes * 2 * kv->head_count * kv->layer_count;
}

void cpu_kv_layout(const struct cpu_kv *kv, struct kv_layout *out) {
    *out = (struct kv_layout){
        .base = (uint8_t *) ((uintptr_t) kv->base - kv->block_bytes),
        .block_count = kv->block_count + 1,
        .layer_count = kv->layer_count,
        .head_first = kv->head_first,
        .head_count = kv->head_count,
        .head_total = kv->head_total,
        .block_stride = kv->block_bytes,
        .layer_stride = kv->run_bytes * 2 * kv->head_count,
        .value_stride = kv->run_bytes * kv->head_count,
        .head_stride = kv->run_bytes,
        .head_bytes = kv->run_bytes,
        .block_bytes = kv->block_bytes,
    };
}

static void copy_run(const struct cpu_kv *kv, bool is_value, const uint8_t *from, uint8_t *to,
                     uint32_t slot_count) {
    uint64_t element = cpu_kv_element_bytes(kv->dtype), slot_bytes = element * kv->head_dim;
    uint32_t whole = is_value ? slot_count : slot_count / CPU_PACKET * CPU_PACKET;
    memcpy(to, from, whole * slot_bytes);
    uint64_t part_bytes = (slot_count - whole) * element; /* of keys, at each place */
    for (uint32_t p = 0; part_bytes && p < kv->head_dim; p++) {
        uint64_t at = whole * slot_bytes + p * CPU_PACKET * element;
        memcpy(to + at, from + at, part_bytes);
    }
    if (!cpu_kv_has_scales(kv->dtype)) return;
    uint64_t scales = kv->block_size * slot_bytes;
    memcpy(to + scales, from + scales, (uint64_t) slot_count * sizeof(float));
}

void cpu_kv_copy(const struct cpu_kv *kv, uint32_t from, uint32_t to, uint32_t slot_count) {
    CHECK(from > 0 && from <= kv->block_count && to > 0 && to <= kv->block_count && from != to);
    CHECK(slot_count <= kv->block_size);
    for (uint32_t layer = 0; layer < kv->layer_count; layer++)
        for (uint32_t part = 0; part < 2; part++)
            for (uint32_t head = 0; head < kv->head_count; head++)
                copy_run(kv, part, cpu_kv_run(kv, from, layer, part, head),
                         cpu_kv_run(kv, to, layer, part, head), slot_count);
}

/* Keys of one slot in image order. */
static void hash_key(const struct cpu_kv *kv, const uint8_t *run, uint32_t slot,
                     XXH3_state_t *state) {
    uint8_t image[CPU_HEAD_DIM_MAX * 4];
    uint64_t element = cpu_kv_element_bytes(kv->dtype);
    const uint8_t *from =
        run +
        ((uint64_t) (slot / CPU_PACKET) * kv->head_dim * CPU_PACKET + slot % CPU_PACKET) * element;
    for (uint32_t p = 0; p < kv->head_dim; p++)
        memcpy(image + cpu_attention_dimension(kv->head_dim, p) * element,
               from + p * CPU_PACKET * element, element);
    XXH3_64bits_update(state, image, kv->head_dim * element);
}

uint64_t cpu_kv_checksum(const struct cpu_kv *kv, uint32_t block, uint32_t slot_count) {
    CHECK(block > 0 && block <= kv->block_count && slot_count <= kv->block_size);
    uint64_t slot_bytes = (uint64_t) cpu_kv_element_bytes(kv->dtype) * kv->head_dim;
    XXH3_state_t state;
    XXH3_INITSTATE(&state);
    XXH3_64bits_reset(&state);
    for (uint32_t layer = 0; layer < kv->layer_count; layer++)
        for (uint32_t part = 0; part < 2; part++)
            for (uint32_t head = 0; head < kv->head_count; head++) {
                const uint8_t *run = cpu_kv_run(kv, block, layer, part, head);
                for (uint32_t slot = 0; !part && slot < slot_count; slot++)
                    hash_key(kv, run, slot, &state);
                if (part) XXH3_64bits_update(&state, run, slot_count * slot_bytes);
                if (cpu_kv_has_scales(kv->dtype))
                    XXH3_64bits_update(&state, run + kv->block_size * slot_bytes,
                                       (uint64_t) slot_count * sizeof(float));
            }
    return XXH3_64bits_digest(&state);
}
