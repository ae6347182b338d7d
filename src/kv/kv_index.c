/* kv_index - see kv_index.h. */
#include "kv/kv_index.h"

#include <string.h>

#include "base/alloc.h"
#include "kv/kv_hash.h"

struct entry {
    uint64_t chain; /* 0: this block is not indexed */
    uint64_t parent_chain;
    uint64_t hash, parent_hash, local_hash;
    uint32_t next; /* in its bucket; 0: last */
};

struct kv_index {
    uint32_t block_count;
    uint32_t block_size;
    struct entry *entries; /* by block; [0] unused */
    uint32_t *tokens;      /* (block, slot) */
    uint32_t *buckets;     /* by hash: a block, 0: empty */
    uint32_t bucket_mask;
    uint64_t chain_last;
    struct kv_event *events; /* ring by number */
    uint32_t event_room;
    uint64_t event_last;
};

enum err kv_index_create(uint32_t block_count, uint32_t block_size, uint32_t event_room,
                         struct kv_index **out) {
    CHECK(block_count > 0 && block_count < UINT32_MAX / 4 && block_size > 0);
    struct kv_index *index = alloc_zero(1, sizeof *index);
    if (!index) return ERR_MEMORY;
    uint32_t bucket_count = 16;
    while (bucket_count < 2 * block_count) bucket_count *= 2;
    index->block_count = block_count;
    index->block_size = block_size;
    index->bucket_mask = bucket_count - 1;
    index->event_room = event_room;
    index->entries = alloc_zero((size_t) block_count + 1, sizeof *index->entries);
    index->tokens = alloc_array(((size_t) block_count + 1) * block_size, sizeof *index->tokens);
    index->buckets = alloc_zero(bucket_count, sizeof *index->buckets);
    index->events = alloc_array(event_room, sizeof *index->events);
    if (!index->entries || !index->tokens || !index->buckets || !index->events) {
        kv_index_destroy(index);
        return ERR_MEMORY;
    }
    *out = index;
    return ERR_OK;
}

void kv_index_destroy(struct kv_index *index) {
    if (!index) return;
    alloc_free(index->entries);
    alloc_free(index->tokens);
    alloc_free(index->buckets);
    alloc_free(index->events);
    alloc_free(index);
}

static uint32_t *tokens_of(const struct kv_index *index, uint32_t block) {
    return index->tokens + (size_t) block * index->block_size;
}

static uint64_t hash_local(const struct kv_index *index, const uint32_t *tokens) {
    return kv_hash_local(tokens, index->block_size);
}

static uint64_t hash_next(struct kv_link parent, uint64_t local_hash) {
    return parent.chain == 0 ? local_hash : kv_hash_next(parent.hash, local_hash);
}

static void add_event(struct kv_index *index, struct kv_event event) {
    event.number = ++index->event_last;
    if (index->event_room) index->events[event.number % index->event_room] = event;
}

static uint32_t find(const struct kv_index *index, uint64_t hash, uint64_t parent_chain,
                     const uint32_t *tokens) {
    uint32_t block = index->buckets[hash & index->bucket_mask];
    for (; block; block = index->entries[block].next) {
        const struct entry *entry = &index->entries[block];
        if (entry->hash == hash && entry->parent_chain == parent_chain &&
            memcmp(tokens_of(index, block), tokens, index->block_size * sizeof *tokens) == 0)
            return block;
    }
    return 0;
}

struct kv_link kv_index_insert(struct kv_index *index, uint32_t block, struct kv_link parent,
                               const uint32_t *tokens) {
    CHECK(block >= 1 && block <= index->block_count);
    struct entry *entry = &index->entries[block];
    CHECK(entry->chain == 0);
    uint64_t local_hash = hash_local(index, tokens);
    uint64_t hash = hash_next(parent, local_hash);
    uint32_t twin = find(index, hash, parent.chain, tokens);
    uint32_t *bucket = &index->buckets[hash & index->bucket_mask];
    *entry = (struct entry){.chain = twin ? index->entries[twin].chain : ++index->chain_last,
                            .parent_chain = parent.chain,
                            .hash = hash,
                            .parent_hash = parent.hash,
                            .local_hash = local_hash,
                            .next = *bucket};
    *bucket = block;
    memcpy(tokens_of(index, block), tokens, index->block_size * sizeof *tokens);
    if (!twin)
        add_event(index, (struct kv_event){.kind = KV_EVENT_STORED,
                                           .hash = hash,
                                           .parent_hash = parent.hash,
                                           .local_hash = local_hash});
    return (struct kv_link){entry->chain, hash};
}

void kv_index_remove(struct kv_index *index, uint32_t block) {
    struct entry *entry = &index->entries[block];
    CHECK(entry->chain != 0);
    uint32_t *at = &index->buckets[entry->hash & index->bucket_mask];
    bool has_twin = false;
    while (*at != block) {
        has_twin |= index->entries[*at].chain == entry->chain;
        at = &index->entries[*at].next;
    }
    *at = entry->next;
    for (uint32_t other = entry->next; other && !has_twin; other = index->entries[other].next)
        has_twin = index->entries[other].chain == entry->chain;
    if (!has_twin)
        add_event(index, (struct kv_event){.kind = KV_EVENT_REMOVED, .hash = entry->hash});
    *entry = (struct entry){0};
}

void kv_index_clear(struct kv_index *index) {
    memset(index->entries, 0, ((size_t) index->block_count + 1) * sizeof *index->entries);
    memset(index->buckets, 0, ((size_t) index->bucket_mask + 1) * sizeof *index->buckets);
    add_event(index, (struct kv_event){.kind = KV_EVENT_CLEARED});
}

uint32_t kv_index_find(const struct kv_index *index, struct kv_link parent, const uint32_t *tokens,
                       struct kv_link *link) {
    uint64_t hash = hash_next(parent, hash_local(index, tokens));
    uint32_t block = find(index, hash, parent.chain, tokens);
    if (block) *link = (struct kv_link){index->entries[block].chain, hash};
    return block;
}

struct kv_link kv_index_link(const struct kv_index *index, uint32_t block) {
    CHECK(block == 0 || index->entries[block].chain != 0);
    return (struct kv_link){index->entries[block].chain, index->entries[block].hash};
}

bool kv_index_has(const struct kv_index *index, uint32_t block) {
    return index->entries[block].chain != 0;
}

bool kv_index_is_first(const struct kv_index *index, uint32_t block) {
    return index->entries[block].parent_chain == 0;
}

uint32_t kv_index_parent(const struct kv_index *index, uint32_t block, uint32_t from) {
    const struct entry *entry = &index->entries[block];
    if (entry->parent_chain == 0) return 0;
    uint32_t at =
        from ? index->entries[from].next : index->buckets[entry->parent_hash & index->bucket_mask];
    while (at && index->entries[at].chain != entry->parent_chain) at = index->entries[at].next;
    return at;
}

uint64_t kv_index_event_last(const struct kv_index *index) { return index->event_last; }

bool kv_index_event_get(const struct kv_index *index, uint64_t number, struct kv_event *out) {
    if (number == 0 || number > index->event_last ||
        index->event_last - number >= index->event_room)
        return false;
    *out = index->events[number % index->event_room];
    return true;
}

/* Whether a block before this one in the bucket stands for the same chain. */
static bool is_told(const struct kv_index *index, uint32_t block) {
    const struct entry *entry = &index->entries[block];
    uint32_t at = index->buckets[entry->hash & index->bucket_mask];
    while (index->entries[at].chain != entry->chain) at = index->entries[at].next;
    return at != block;
}

bool kv_index_dump(const struct kv_index *index, uint32_t *cursor, struct kv_event *out) {
    while (*cursor < index->block_count) {
        uint32_t block = ++*cursor;
        const struct entry *entry = &index->entries[block];
        if (entry->chain == 0 || is_told(index, block)) continue;
        *out = (struct kv_event){.kind = KV_EVENT_STORED,
                                 .hash = entry->hash,
                                 .parent_hash = entry->parent_hash,
                                 .local_hash = entry->local_hash};
        return true;
    }
    return false;
}
