/* kv_hash - see kv_hash.h. */
#include "kv/kv_hash.h"

#include <stddef.h>
#include <xxhash.h>

#define HASH_SEED 1337u /* specified: design.md 5, so that events interoperate */

uint64_t kv_hash_local(const uint32_t *tokens, uint32_t block_size) {
    return XXH3_64bits_withSeed(tokens, (size_t) block_size * sizeof *tokens, HASH_SEED);
}

uint64_t kv_hash_next(uint64_t parent_hash, uint64_t local_hash) {
    uint64_t pair[2] = {parent_hash, local_hash};
    return XXH3_64bits_withSeed(pair, sizeof pair, HASH_SEED);
}

void kv_hash_sequence(const uint32_t *tokens, uint32_t token_count, uint32_t block_size,
                      uint64_t *hashes) {
    uint32_t block_count = token_count / block_size;
    for (uint32_t i = 0; i < block_count; i++) {
        uint64_t local = kv_hash_local(tokens + (size_t) i * block_size, block_size);
        hashes[i] = i ? kv_hash_next(hashes[i - 1], local) : local;
    }
}
