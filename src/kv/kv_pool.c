/* kv_pool - see kv_pool.h. */
#include "kv/kv_pool.h"

#include "base/alloc.h"

enum state { FREE, HELD, SEALED, CACHED };

struct block {
    enum state state;
    uint32_t references;
    uint32_t prev, next; /* CACHED: towards less / more recent use; FREE: next only */
    uint64_t cached_at;  /* CACHED: the tick of its last release, ascending along the list */
};

struct kv_pool {
    struct kv_pool_options options;
    struct kv_index *index;
    struct block *blocks; /* [0] is unused */
    uint32_t free_head;
    uint32_t oldest, newest; /* of the cached; 0: none */
    uint32_t free_count, cached_count, promised_count;
    uint64_t tick;
};

enum err kv_pool_create(const struct kv_pool_options *options, struct kv_pool **out) {
    struct kv_pool *pool = alloc_zero(1, sizeof *pool);
    if (!pool) return ERR_MEMORY;
    pool->options = *options;
    enum err e = kv_index_create(options->block_count, options->block_size, options->event_room,
                                 &pool->index);
    if (e) goto out;
    pool->blocks = alloc_zero((size_t) options->block_count + 1, sizeof *pool->blocks);
    if (!pool->blocks) {
        e = ERR_MEMORY;
        goto out;
    }
    for (uint32_t block = options->block_count; block >= 1; block--) {
        pool->blocks[block].next = pool->free_head;
        pool->free_head = block;
    }
    pool->free_count = options->block_count;
    *out = pool;
    return ERR_OK;
out:
    kv_pool_destroy(pool);
    return e;
}

void kv_pool_destroy(struct kv_pool *pool) {
    if (!pool) return;
    kv_index_destroy(pool->index);
    alloc_free(pool->blocks);
    alloc_free(pool);
}

uint32_t kv_pool_block_size(const struct kv_pool *pool) { return pool->options.block_size; }
const struct kv_index *kv_pool_index(const struct kv_pool *pool) { return pool->index; }

static struct block *block_of(const struct kv_pool *pool, uint32_t block) {
    CHECK(block >= 1 && block <= pool->options.block_count);
    return &pool->blocks[block];
}

/* --- the list of the cached, oldest first -------------------------------------------------- */

static void cache_append(struct kv_pool *pool, uint32_t block) {
    struct block *b = &pool->blocks[block];
    b->state = CACHED;
    b->cached_at = ++pool->tick;
    b->prev = pool->newest;
    b->next = 0;
    if (pool->newest) pool->blocks[pool->newest].next = block;
    else pool->oldest = block;
    pool->newest = block;
    pool->cached_count++;
}

static void cache_unlink(struct kv_pool *pool, uint32_t block) {
    struct block *b = &pool->blocks[block];
    if (b->prev) pool->blocks[b->prev].next = b->next;
    else pool->oldest = b->next;
    if (b->next) pool->blocks[b->next].prev = b->prev;
    else pool->newest = b->prev;
    pool->cached_count--;
}

static void free_push(struct kv_pool *pool, uint32_t block) {
    struct block *b = &pool->blocks[block];
    *b = (struct block){.state = FREE, .next = pool->free_head};
    pool->free_head = block;
    pool->free_count++;
}

/* --- edges ----------------------------------------------------------------------------------- */

static uint32_t room_of(const struct kv_pool *pool) {
    return pool->free_count + pool->cached_count - pool->promised_count;
}

enum err kv_pool_admit(struct kv_pool *pool, const uint32_t *hits, uint32_t hit_count,
                       uint32_t new_count, struct kv_promise *out) {
    uint32_t cached_hits = 0;
    for (uint32_t i = 0; i < hit_count; i++) {
        const struct block *b = block_of(pool, hits[i]);
        CHECK(b->state == SEALED || b->state == CACHED);
        cached_hits += b->state == CACHED;
    }
    if ((uint64_t) new_count + cached_hits > room_of(pool)) return ERR_BUSY;
    for (uint32_t i = 0; i < hit_count; i++) {
        struct block *b = &pool->blocks[hits[i]];
        if (b->state == CACHED) {
            cache_unlink(pool, hits[i]);
            b->state = SEALED;
        }
        b->references++;
    }
    pool->promised_count += new_count;
    out->block_count = new_count;
    return ERR_OK;
}

enum err kv_pool_promise(struct kv_pool *pool, uint32_t block_count, struct kv_promise *out) {
    return kv_pool_admit(pool, NULL, 0, block_count, out);
}

void kv_pool_forfeit(struct kv_pool *pool, struct kv_promise *promise) {
    CHECK(pool->promised_count >= promise->block_count);
    pool->promised_count -= promise->block_count;
    promise->block_count = 0;
}

static void evict(struct kv_pool *pool, uint32_t block) {
    cache_unlink(pool, block);
    kv_index_remove(pool->index, block);
    free_push(pool, block);
}

uint32_t kv_pool_acquire(struct kv_pool *pool, struct kv_promise *promise) {
    CHECK(promise->block_count > 0);
    promise->block_count--;
    pool->promised_count--;
    if (!pool->free_head) evict(pool, pool->oldest);
    uint32_t block = pool->free_head;
    struct block *b = block_of(pool, block);
    pool->free_head = b->next;
    pool->free_count--;
    *b = (struct block){.state = HELD, .references = 1};
    return block;
}

struct kv_link kv_pool_seal(struct kv_pool *pool, uint32_t block, struct kv_link parent,
                            const uint32_t *tokens) {
    struct block *b = block_of(pool, block);
    CHECK(b->state == HELD);
    b->state = SEALED;
    return kv_index_insert(pool->index, block, parent, tokens);
}

void kv_pool_release(struct kv_pool *pool, uint32_t block) {
    struct block *b = block_of(pool, block);
    CHECK((b->state == HELD || b->state == SEALED) && b->references > 0);
    if (--b->references > 0) return;
    if (b->state == HELD) {
        free_push(pool, block);
    } else if (pool->options.is_caching) {
        cache_append(pool, block);
    } else {
        kv_index_remove(pool->index, block);
        free_push(pool, block);
    }
}

void kv_pool_drop_cached(struct kv_pool *pool) {
    if (pool->free_count + pool->cached_count < pool->options.block_count) {
        while (pool->oldest) evict(pool, pool->oldest);
        return;
    }
    kv_index_clear(pool->index);
    while (pool->oldest) {
        uint32_t block = pool->oldest;
        cache_unlink(pool, block);
        free_push(pool, block);
    }
}

void kv_pool_get_counts(const struct kv_pool *pool, struct kv_pool_counts *out) {
    uint32_t total = pool->options.block_count;
    *out = (struct kv_pool_counts){.total = total,
                                   .free = pool->free_count,
                                   .cached = pool->cached_count,
                                   .used = total - pool->free_count - pool->cached_count,
                                   .promised = pool->promised_count};
}

uint32_t kv_pool_references(const struct kv_pool *pool, uint32_t block) {
    return block_of(pool, block)->references;
}

/* --- the check -------------------------------------------------------------------------------- */

/* A block of the chain before this one must be here: in use while this one is, or evicted later
 * than it. */
static void check_parent(const struct kv_pool *pool, uint32_t block) {
    if (kv_index_is_first(pool->index, block)) return;
    const struct block *b = &pool->blocks[block];
    bool is_safe = false;
    for (uint32_t parent = kv_index_parent(pool->index, block, 0); parent && !is_safe;
         parent = kv_index_parent(pool->index, block, parent)) {
        const struct block *p = &pool->blocks[parent];
        is_safe = p->state == SEALED ||
                  (p->state == CACHED && b->state == CACHED && p->cached_at > b->cached_at);
    }
    CHECK(is_safe);
}

void kv_pool_check(const struct kv_pool *pool) {
    uint32_t counts[4] = {0};
    for (uint32_t block = 1; block <= pool->options.block_count; block++) {
        const struct block *b = &pool->blocks[block];
        counts[b->state]++;
        bool is_used = b->state == HELD || b->state == SEALED;
        bool is_indexed = b->state == SEALED || b->state == CACHED;
        CHECK(is_used == (b->references > 0));
        CHECK(b->state != HELD || b->references == 1);
        CHECK(is_indexed == kv_index_has(pool->index, block));
        if (is_indexed) check_parent(pool, block);
    }
    CHECK(counts[FREE] == pool->free_count && counts[CACHED] == pool->cached_count);
    CHECK(pool->promised_count <= pool->free_count + pool->cached_count);
    CHECK(pool->options.is_caching || pool->cached_count == 0);
    uint32_t listed = 0;
    for (uint32_t block = pool->free_head; block; block = pool->blocks[block].next) {
        CHECK(pool->blocks[block].state == FREE);
        CHECK(++listed <= pool->free_count);
    }
    CHECK(listed == pool->free_count);
    listed = 0;
    uint32_t before = 0;
    for (uint32_t block = pool->oldest; block; block = pool->blocks[block].next) {
        const struct block *b = &pool->blocks[block];
        CHECK(b->state == CACHED && b->prev == before);
        CHECK(!before || pool->blocks[before].cached_at < b->cached_at);
        CHECK(++listed <= pool->cached_count);
        before = block;
    }
    CHECK(listed == pool->cached_count && pool->newest == before);
}
