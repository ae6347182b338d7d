/* KV regions of a made-up worker: strides of several kinds, content that is a function of (seed,
 * block, layer, K|V, head, byte), so that any misplaced byte shows. */
#ifndef GRAMME_TESTS_XFER_RIG_H
#define GRAMME_TESTS_XFER_RIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "base/check.h"

#define RIG_RANKS_MAX 64

struct rig {
    uint32_t tp, block_count, layer_count, head_total, head_bytes;
    struct kv_layout layouts[RIG_RANKS_MAX];
    uint8_t *regions[RIG_RANKS_MAX];
};

static inline uint64_t rig_random(uint64_t *state) {
    *state += 0x9e3779b97f4a7c15u;
    uint64_t z = *state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline uint32_t rig_draw(uint64_t *state, uint32_t below) {
    return (uint32_t) (rig_random(state) % below);
}

enum rig_order { RIG_IMAGE, RIG_LAYER_MAJOR, RIG_HEADS_SWAPPED, RIG_GAPS, RIG_ORDERS };

/* Strides, and the bytes of a region of all blocks. */
static inline uint64_t rig_strides(struct kv_layout *layout, enum rig_order order) {
    uint64_t run = layout->head_bytes, heads = layout->head_count, layers = layout->layer_count;
    layout->block_bytes = run * heads * 2 * layers;
    layout->head_stride = run;
    layout->value_stride = run * heads;
    layout->layer_stride = run * heads * 2;
    layout->block_stride = layout->block_bytes;
    if (order == RIG_LAYER_MAJOR) { /* [layer][K|V][block][head] */
        layout->block_stride = run * heads;
        layout->value_stride = layout->block_stride * layout->block_count;
        layout->layer_stride = layout->value_stride * 2;
    } else if (order == RIG_HEADS_SWAPPED) { /* [block][head][layer][K|V] */
        layout->value_stride = run;
        layout->layer_stride = 2 * run;
        layout->head_stride = 2 * run * layers;
    } else if (order == RIG_GAPS) {
        layout->head_stride = run + 8;
        layout->value_stride = layout->head_stride * heads + 24;
        layout->layer_stride = layout->value_stride * 2;
        layout->block_stride = layout->layer_stride * layers + 64;
    }
    return layout->block_stride * layout->block_count + layout->layer_stride * layers +
           layout->value_stride * 2 + layout->head_stride * heads;
}

static inline void rig_init(struct rig *rig, uint32_t tp, uint32_t block_count,
                            uint32_t layer_count, uint32_t head_total, uint32_t head_bytes,
                            enum rig_order order) {
    *rig = (struct rig){.tp = tp,
                        .block_count = block_count,
                        .layer_count = layer_count,
                        .head_total = head_total,
                        .head_bytes = head_bytes};
    for (uint32_t rank = 0; rank < tp; rank++) {
        struct kv_layout *layout = &rig->layouts[rank];
        layout->block_count = block_count;
        layout->layer_count = layer_count;
        layout->head_total = head_total;
        layout->head_bytes = head_bytes;
        layout->head_count = tp > head_total ? 1 : head_total / tp;
        layout->head_first = tp > head_total ? rank / (tp / head_total) : rank * layout->head_count;
        uint64_t bytes = rig_strides(layout, order);
        rig->regions[rank] = calloc(1, bytes);
        CHECK(rig->regions[rank]);
        layout->base = rig->regions[rank];
    }
}

static inline void rig_release(struct rig *rig) {
    for (uint32_t rank = 0; rank < rig->tp; rank++) free(rig->regions[rank]);
}

static inline uint64_t rig_word(uint64_t seed, uint32_t layer, uint32_t value, uint32_t head,
                                uint32_t index) {
    uint64_t state = seed ^ ((uint64_t) layer << 48) ^ ((uint64_t) value << 40) ^
                     ((uint64_t) head << 24) ^ index;
    return rig_random(&state);
}

static inline uint8_t *rig_run(const struct rig *rig, uint32_t rank, uint32_t block, uint32_t layer,
                               uint32_t value, uint32_t head) {
    const struct kv_layout *l = &rig->layouts[rank];
    return l->base + block * l->block_stride + layer * l->layer_stride + value * l->value_stride +
           (head - l->head_first) * l->head_stride;
}

/* Every run of the block, on every rank: written by the function, or counted where it differs. */
static inline uint32_t rig_walk(const struct rig *rig, uint32_t block, uint64_t seed,
                                bool is_writing) {
    uint32_t wrong = 0;
    for (uint32_t rank = 0; rank < rig->tp; rank++)
        for (uint32_t layer = 0; layer < rig->layer_count; layer++)
            for (uint32_t value = 0; value < 2; value++)
                for (uint32_t i = 0; i < rig->layouts[rank].head_count; i++) {
                    uint32_t head = rig->layouts[rank].head_first + i;
                    uint8_t *run = rig_run(rig, rank, block, layer, value, head);
                    for (uint32_t k = 0; k + 8 <= rig->head_bytes; k += 8) {
                        uint64_t word = rig_word(seed, layer, value, head, k);
                        if (is_writing) memcpy(run + k, &word, 8);
                        else wrong += memcmp(run + k, &word, 8) != 0;
                    }
                }
    return wrong;
}
static inline void rig_write(const struct rig *rig, uint32_t block, uint64_t seed) {
    rig_walk(rig, block, seed, true);
}
static inline uint32_t rig_wrong(const struct rig *rig, uint32_t block, uint64_t seed) {
    return rig_walk(rig, block, seed, false);
}

#endif
