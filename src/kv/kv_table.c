/* kv_table - see kv_table.h. */
#include "kv/kv_table.h"

#include <string.h>

void kv_table_init(struct kv_table *table, uint32_t *blocks, uint32_t block_room) {
    *table = (struct kv_table){.blocks = blocks, .block_room = block_room};
}

/* The blocks of the chain's beginning that are here; `blocks` may be NULL. */
static uint32_t find_hits(const struct kv_pool *pool, const uint32_t *tokens, uint32_t hits_max,
                          uint32_t *blocks, struct kv_link *tail) {
    uint32_t block_size = kv_pool_block_size(pool), hit_count = 0;
    *tail = (struct kv_link){0, 0};
    while (hit_count < hits_max) {
        uint32_t block = kv_index_find(kv_pool_index(pool), *tail,
                                       tokens + (size_t) hit_count * block_size, tail);
        if (!block) break;
        if (blocks) blocks[hit_count] = block;
        hit_count++;
    }
    return hit_count;
}

uint32_t kv_table_hits(const struct kv_pool *pool, const uint32_t *tokens, uint32_t token_count) {
    struct kv_link tail;
    if (token_count == 0) return 0;
    return find_hits(pool, tokens, (token_count - 1) / kv_pool_block_size(pool), NULL, &tail);
}

enum err kv_table_admit(struct kv_table *table, struct kv_pool *pool, const uint32_t *tokens,
                        uint32_t token_count, bool may_read, uint32_t block_total) {
    CHECK(table->block_count == 0 && token_count > 0 && block_total <= table->block_room);
    uint32_t block_size = kv_pool_block_size(pool);
    uint32_t hits_max = may_read ? (token_count - 1) / block_size : 0;
    struct kv_link tail;
    uint32_t hit_count = find_hits(pool, tokens, hits_max, table->blocks, &tail);
    CHECK(hit_count <= block_total);
    enum err e =
        kv_pool_admit(pool, table->blocks, hit_count, block_total - hit_count, &table->promise);
    if (e) return e;
    table->block_count = table->sealed_count = hit_count;
    table->tail = tail;
    return ERR_OK;
}

enum err kv_table_fork(struct kv_table *table, struct kv_pool *pool, const struct kv_table *from,
                       uint32_t shared_count, uint32_t block_total) {
    CHECK(table->block_count == 0 && block_total <= table->block_room);
    CHECK(shared_count <= from->sealed_count && shared_count <= block_total);
    enum err e = kv_pool_admit(pool, from->blocks, shared_count, block_total - shared_count,
                               &table->promise);
    if (e) return e;
    if (shared_count) memcpy(table->blocks, from->blocks, shared_count * sizeof *table->blocks);
    table->block_count = table->sealed_count = shared_count;
    table->tail =
        kv_index_link(kv_pool_index(pool), shared_count ? table->blocks[shared_count - 1] : 0);
    return ERR_OK;
}

enum err kv_table_cover(struct kv_table *table, struct kv_pool *pool, uint32_t positions) {
    uint32_t block_size = kv_pool_block_size(pool);
    while ((uint64_t) table->block_count * block_size < positions) {
        if (table->promise.block_count == 0) {
            enum err e = kv_pool_promise(pool, 1, &table->promise);
            if (e) return e;
        }
        CHECK(table->block_count < table->block_room);
        table->blocks[table->block_count++] = kv_pool_acquire(pool, &table->promise);
    }
    return ERR_OK;
}

void kv_table_seal(struct kv_table *table, struct kv_pool *pool, const uint32_t *tokens,
                   uint32_t computed) {
    uint32_t block_size = kv_pool_block_size(pool);
    uint32_t full_count = computed / block_size;
    CHECK(full_count <= table->block_count);
    while (table->sealed_count < full_count) {
        uint32_t at = table->sealed_count++;
        table->tail =
            kv_pool_seal(pool, table->blocks[at], table->tail, tokens + (size_t) at * block_size);
    }
}

uint32_t kv_table_detach(struct kv_table *table, uint32_t kept_count, uint32_t *out) {
    CHECK(table->sealed_count <= kept_count && kept_count <= table->block_count);
    uint32_t count = table->block_count - kept_count;
    if (count) memcpy(out, table->blocks + kept_count, count * sizeof *out);
    table->block_count = kept_count;
    return count;
}

void kv_table_release(struct kv_table *table, struct kv_pool *pool) {
    kv_pool_forfeit(pool, &table->promise);
    while (table->block_count > 0) kv_pool_release(pool, table->blocks[--table->block_count]);
    table->sealed_count = 0;
    table->tail = (struct kv_link){0, 0};
}
