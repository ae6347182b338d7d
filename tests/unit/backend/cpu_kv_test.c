/* The KV region: the checksum is that of the block image in its published order, whatever the
 * order inside runs; copies take exactly the first slots; addresses follow the layout. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "backend/cpu/cpu_kv.h"
#include "backend/cpu_bodies.h"

#define BLOCKS 3

static const enum kv_dtype dtypes[] = {KV_DTYPE_F32, KV_DTYPE_F16, KV_DTYPE_BF16, KV_DTYPE_INT8,
                                       KV_DTYPE_FP8};

static void region(struct cpu_kv *kv, enum kv_dtype dtype, uint32_t block_size) {
    struct model_spec spec = {.layer_count = 2, .kv_head_count = 3, .head_dim = 48};
    cpu_kv_init(kv, &spec, 0, spec.kv_head_count, dtype, block_size);
    assert_true(kv->block_bytes == 2 * 2 * 3 * kv_dtype_run_bytes(dtype, block_size, 48));
    kv->block_count = BLOCKS;
    kv->base = aligned_alloc(64, (kv->block_bytes * BLOCKS + 63) / 64 * 64);
    memset(kv->base, 0x5a, kv->block_bytes * BLOCKS);
}

/* Fills block 1 with random slots; the image of its elements as stored, in the order
 * [layer][K|V][head][slot][head_dim], each head's scales behind it. */
static uint64_t fill(struct cpu_kv *kv, uint32_t slot_count, uint64_t *seed, uint8_t *image) {
    uint64_t bytes = 0, element = cpu_kv_element_bytes(kv->dtype);
    for (uint32_t layer = 0; layer < 2; layer++)
        for (uint32_t part = 0; part < 2; part++)
            for (uint32_t head = 0; head < 3; head++) {
                uint8_t *run = cpu_kv_run(kv, 1, layer, part, head);
                for (uint32_t slot = 0; slot < kv->block_size; slot++) {
                    float x[48];
                    for (uint32_t d = 0; d < 48; d++) x[d] = random_float(seed, 3);
                    (part ? cpu_attention_scalar.store_value : cpu_attention_scalar.store_key)(
                        kv->dtype, 48, x, run, kv->block_size, slot);
                    /* The value form of a run is the image's: one slot of it, as reference. */
                    static uint8_t plain[8 * 48 * 4 + 64];
                    cpu_attention_scalar.store_value(kv->dtype, 48, x, plain, 8, 0);
                    if (slot < slot_count) {
                        memcpy(image + bytes, plain, 48 * element);
                        bytes += 48 * element;
                    }
                }
                if (!cpu_kv_has_scales(kv->dtype)) continue;
                memcpy(image + bytes, run + (uint64_t) kv->block_size * 48, slot_count * 4);
                bytes += slot_count * 4;
            }
    return bytes;
}

static void checksum_is_of_the_image(void **state) {
    uint64_t seed = 17;
    for (uint32_t i = 0; i < 40; i++) {
        struct cpu_kv kv;
        uint32_t block_size = 8u << i / 5 % 5,
                 slots = 1 + (uint32_t) (random_next(&seed) % block_size);
        region(&kv, dtypes[i % 5], block_size);
        uint8_t *image = malloc(kv.block_bytes);
        uint64_t bytes = fill(&kv, slots, &seed, image);
        assert_true(cpu_kv_checksum(&kv, 1, slots) == XXH3_64bits(image, bytes));
        free(image);
        free(kv.base);
    }
}

static void copies(void **state) {
    uint64_t seed = 18;
    for (uint32_t i = 0; i < 40; i++) {
        struct cpu_kv kv;
        uint32_t block_size = 8u << i / 5 % 5,
                 slots = 1 + (uint32_t) (random_next(&seed) % block_size);
        region(&kv, dtypes[i % 5], block_size);
        uint8_t *image = malloc(kv.block_bytes);
        fill(&kv, block_size, &seed, image);
        uint64_t before = slots < block_size ? cpu_kv_checksum(&kv, 3, block_size) : 0;
        cpu_kv_copy(&kv, 1, 3, slots);
        assert_true(cpu_kv_checksum(&kv, 3, slots) == cpu_kv_checksum(&kv, 1, slots));
        /* What is behind the slots stays: bytes that differ from the 0x5a of before are as many
         * as were copied at most. */
        uint64_t changed = 0, slot_bytes = kv.run_bytes / block_size * slots;
        const uint8_t *block = cpu_kv_run(&kv, 3, 0, false, 0);
        for (uint64_t b = 0; b < kv.block_bytes; b++) changed += block[b] != 0x5a;
        assert_true(changed <= slot_bytes * 12);
        if (slots < block_size) assert_true(before != cpu_kv_checksum(&kv, 3, block_size));
        const uint8_t *other = cpu_kv_run(&kv, 2, 0, false, 0);
        for (uint64_t b = 0; b < kv.block_bytes; b++) assert_int_equal(other[b], 0x5a);
        free(image);
        free(kv.base);
    }
}

static void layout(void **state) {
    struct cpu_kv kv;
    region(&kv, KV_DTYPE_INT8, 32);
    struct kv_layout out;
    cpu_kv_layout(&kv, &out);
    assert_int_equal(out.block_count, BLOCKS + 1);
    for (uint32_t block = 1; block <= BLOCKS; block++)
        for (uint32_t layer = 0; layer < 2; layer++)
            for (uint32_t part = 0; part < 2; part++)
                for (uint32_t head = 0; head < 3; head++)
                    assert_ptr_equal(out.base + block * out.block_stride +
                                         layer * out.layer_stride + part * out.value_stride +
                                         head * out.head_stride,
                                     cpu_kv_run(&kv, block, layer, part, head));
    assert_true(out.head_bytes == kv_dtype_run_bytes(KV_DTYPE_INT8, 32, 48));
    assert_true(out.block_bytes == out.head_bytes * 12);
    free(kv.base);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checksum_is_of_the_image),
        cmocka_unit_test(copies),
        cmocka_unit_test(layout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
