/* kv_hash - the names of blocks: XXH3-64, seed 1337 (design.md 5: as other routers compute them).
 *
 * Local: of a block's own ids as u32 little endian.  Sequence: of every token up to the block's
 * end; the first block's is its local hash, the next ones' the hash of the pair (sequence hash
 * before, local hash), both u64 little endian.  Pure. */
#ifndef GRAMME_KV_KV_HASH_H
#define GRAMME_KV_KV_HASH_H

#include <stdint.h>

uint64_t kv_hash_local(const uint32_t *tokens, uint32_t block_size);
/* Of the block that follows a sequence. */
uint64_t kv_hash_next(uint64_t parent_hash, uint64_t local_hash);
/* Sequence hashes of the full blocks among the tokens: token_count / block_size of them. */
void kv_hash_sequence(const uint32_t *tokens, uint32_t token_count, uint32_t block_size,
                      uint64_t *hashes);

#endif
