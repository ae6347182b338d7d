/* token_vocab - see the header.  Both tables are open-addressed, at most half full. */
#include "token/token_vocab.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/alloc.h"

static uint64_t hash_bytes(const void *data, size_t bytes) { return XXH3_64bits(data, bytes); }

static uint32_t power_of_two(uint32_t least) {
    uint32_t power = 16;
    while (power < least) power *= 2;
    return power;
}

enum err token_vocab_init(struct token_vocab *vocab, bool is_byte_level, uint32_t token_count) {
    *vocab = (struct token_vocab){.is_byte_level = is_byte_level};
    if (token_count > TOKEN_VOCAB_IDS_MAX) return ERR_LIMIT;
    uint32_t slot_count = power_of_two(token_count * 2 + 1);
    vocab->slot_mask = slot_count - 1;
    vocab->slots = alloc_array(slot_count, sizeof *vocab->slots);
    if (vocab->slots) memset(vocab->slots, 0xff, slot_count * sizeof *vocab->slots);
    vocab->merges = alloc_array(1, sizeof *vocab->merges);
    if (vocab->merges) vocab->merges[0].pair = UINT64_MAX;
    vocab->blob_room = token_count * 8 + 4096;
    vocab->blob = alloc_bytes(vocab->blob_room);
    vocab->id_room = token_count + 256;
    vocab->firsts = alloc_array(vocab->id_room, sizeof *vocab->firsts);
    vocab->lengths = alloc_array(vocab->id_room, sizeof *vocab->lengths);
    vocab->flags = alloc_zero(vocab->id_room, 1);
    if (!vocab->slots || !vocab->merges || !vocab->blob || !vocab->firsts || !vocab->lengths ||
        !vocab->flags) {
        token_vocab_release(vocab);
        return ERR_MEMORY;
    }
    return ERR_OK;
}

void token_vocab_release(struct token_vocab *vocab) {
    alloc_free(vocab->slots);
    alloc_free(vocab->merges);
    alloc_free(vocab->blob);
    alloc_free(vocab->firsts);
    alloc_free(vocab->lengths);
    alloc_free(vocab->flags);
    *vocab = (struct token_vocab){0};
}

static enum err grow_ids(struct token_vocab *vocab, uint32_t id) {
    if (id < vocab->id_room) return ERR_OK;
    uint32_t room = id + id / 2 + 256;
    uint32_t *firsts = alloc_resize(vocab->firsts, room * sizeof *firsts);
    if (!firsts) return ERR_MEMORY;
    vocab->firsts = firsts;
    uint32_t *lengths = alloc_resize(vocab->lengths, room * sizeof *lengths);
    if (!lengths) return ERR_MEMORY;
    vocab->lengths = lengths;
    uint8_t *flags = alloc_resize(vocab->flags, room);
    if (!flags) return ERR_MEMORY;
    memset(flags + vocab->id_room, 0, room - vocab->id_room);
    vocab->flags = flags;
    vocab->id_room = room;
    return ERR_OK;
}

static enum err grow_blob(struct token_vocab *vocab, size_t bytes) {
    if (bytes > TOKEN_VOCAB_BYTES_MAX - vocab->blob_bytes) return ERR_LIMIT;
    uint32_t need = vocab->blob_bytes + (uint32_t) bytes;
    if (need <= vocab->blob_room) return ERR_OK;
    uint32_t room = need + need / 2;
    uint8_t *blob = alloc_resize(vocab->blob, room);
    if (!blob) return ERR_MEMORY;
    vocab->blob = blob;
    vocab->blob_room = room;
    return ERR_OK;
}

/* The byte of each character of GPT-2's alphabet: 33-126, 161-172 and 174-255 stand for
 * themselves, the other 68 for U+0100 and up in their order. */
static int byte_of(uint32_t cp) {
    if ((cp >= 33 && cp <= 126) || (cp >= 161 && cp <= 172) || (cp >= 174 && cp <= 255)) {
        return (int) cp;
    }
    if (cp < 0x100 || cp >= 0x100 + 68) return -1;
    uint32_t n = cp - 0x100;
    if (n < 33) return (int) n;              /* 0-32 */
    if (n < 67) return (int) (n - 33 + 127); /* 127-160 */
    return 173;
}

size_t token_vocab_unspell(const char *spelling, size_t bytes, uint8_t *out) {
    size_t count = 0;
    for (size_t i = 0; i < bytes; i++) {
        uint32_t cp = (uint8_t) spelling[i];
        if (cp >= 0x80) { /* the alphabet ends below U+0144: two bytes */
            if (cp < 0xc2 || cp > 0xc5 || i + 1 >= bytes) return SIZE_MAX;
            uint32_t low = (uint8_t) spelling[++i];
            if ((low & 0xc0) != 0x80) return SIZE_MAX;
            cp = (cp & 31) << 6 | (low & 63);
        }
        int byte = byte_of(cp);
        if (byte < 0) return SIZE_MAX;
        out[count++] = (uint8_t) byte;
    }
    return count;
}

static void insert_slot(struct token_vocab *vocab, uint64_t hash, uint32_t id) {
    uint32_t at = (uint32_t) hash & vocab->slot_mask;
    while (vocab->slots[at].id != TOKEN_VOCAB_NONE) at = (at + 1) & vocab->slot_mask;
    vocab->slots[at] = (struct token_vocab_slot){.tag = (uint32_t) (hash >> 32), .id = id};
}

static enum err grow_slots(struct token_vocab *vocab) {
    uint32_t slot_count = (vocab->slot_mask + 1) * 2;
    struct token_vocab_slot *slots = alloc_array(slot_count, sizeof *slots);
    if (!slots) return ERR_MEMORY;
    memset(slots, 0xff, slot_count * sizeof *slots);
    struct token_vocab_slot *old = vocab->slots;
    uint32_t old_count = vocab->slot_mask + 1;
    vocab->slots = slots;
    vocab->slot_mask = slot_count - 1;
    for (uint32_t i = 0; i < old_count; i++) {
        uint32_t id = old[i].id;
        if (id == TOKEN_VOCAB_NONE) continue;
        insert_slot(vocab, hash_bytes(vocab->blob + vocab->firsts[id], vocab->lengths[id]), id);
    }
    alloc_free(old);
    return ERR_OK;
}

static uint32_t find_hashed(const struct token_vocab *vocab, const uint8_t *text, size_t bytes,
                            uint64_t hash) {
    uint32_t at = (uint32_t) hash & vocab->slot_mask;
    for (;; at = (at + 1) & vocab->slot_mask) {
        struct token_vocab_slot slot = vocab->slots[at];
        if (slot.id == TOKEN_VOCAB_NONE) return TOKEN_VOCAB_NONE;
        if (slot.tag == (uint32_t) (hash >> 32) && vocab->lengths[slot.id] == bytes &&
            !memcmp(vocab->blob + vocab->firsts[slot.id], text, bytes)) {
            return slot.id;
        }
    }
}

enum err token_vocab_add(struct token_vocab *vocab, uint32_t id, const char *spelling, size_t bytes,
                         uint8_t flags) {
    if (id >= TOKEN_VOCAB_IDS_MAX) return ERR_LIMIT;
    enum err e = grow_ids(vocab, id);
    if (!e) e = grow_blob(vocab, bytes);
    if (e) return e;
    if (vocab->flags[id] & TOKEN_VOCAB_PRESENT) return ERR_FORMAT;
    uint8_t *out = vocab->blob + vocab->blob_bytes;
    size_t length = SIZE_MAX;
    if (vocab->is_byte_level) {
        length = token_vocab_unspell(spelling, bytes, out);
        if (length == SIZE_MAX) flags |= TOKEN_VOCAB_RAW;
    }
    if (length == SIZE_MAX) {
        memcpy(out, spelling, bytes);
        length = bytes;
    }
    bool is_found_by_bytes = flags & TOKEN_VOCAB_MODEL && !(flags & TOKEN_VOCAB_RAW) && length;
    if (is_found_by_bytes) {
        if (vocab->id_count >= vocab->slot_mask / 2) {
            e = grow_slots(vocab);
            if (e) return e;
        }
        uint64_t hash = hash_bytes(out, length);
        if (find_hashed(vocab, out, length, hash) == TOKEN_VOCAB_NONE) {
            insert_slot(vocab, hash, id);
        }
    }
    vocab->firsts[id] = vocab->blob_bytes;
    vocab->lengths[id] = (uint32_t) length;
    vocab->blob_bytes += (uint32_t) length;
    vocab->flags[id] = flags | TOKEN_VOCAB_PRESENT;
    if (id >= vocab->id_count) vocab->id_count = id + 1;
    if (length > vocab->token_bytes_max) vocab->token_bytes_max = (uint32_t) length;
    return ERR_OK;
}

uint32_t token_vocab_find(const struct token_vocab *vocab, const uint8_t *text, size_t bytes) {
    return find_hashed(vocab, text, bytes, hash_bytes(text, bytes));
}

uint32_t token_vocab_find_spelling(const struct token_vocab *vocab, const char *spelling,
                                   size_t bytes) {
    if (!vocab->is_byte_level) return token_vocab_find(vocab, (const uint8_t *) spelling, bytes);
    uint8_t small[512];
    uint8_t *large = bytes > sizeof small ? alloc_bytes(bytes) : NULL;
    if (bytes <= sizeof small || large) { /* without memory the token is not found */
        uint8_t *text = large ? large : small;
        size_t length = token_vocab_unspell(spelling, bytes, text);
        uint32_t id = length == SIZE_MAX ? TOKEN_VOCAB_NONE : token_vocab_find(vocab, text, length);
        alloc_free(large);
        if (length != SIZE_MAX) return id;
    }
    for (uint32_t id = 0; id < vocab->id_count; id++) { /* rare: the few that are spelled raw */
        if ((vocab->flags[id] & TOKEN_VOCAB_RAW) && (vocab->flags[id] & TOKEN_VOCAB_MODEL) &&
            vocab->lengths[id] == bytes &&
            !memcmp(vocab->blob + vocab->firsts[id], spelling, bytes)) {
            return id;
        }
    }
    return TOKEN_VOCAB_NONE;
}

const uint8_t *token_vocab_token(const struct token_vocab *vocab, uint32_t id, size_t *bytes) {
    *bytes = 0;
    if (id >= vocab->id_count || !(vocab->flags[id] & TOKEN_VOCAB_PRESENT)) {
        return (const uint8_t *) "";
    }
    *bytes = vocab->lengths[id];
    return vocab->blob + vocab->firsts[id];
}

/* Where a pair stands, or would. */
static struct token_vocab_merge *merge_slot(struct token_vocab *vocab, uint64_t pair) {
    uint32_t at = token_vocab_merge_hash(pair) & vocab->merge_mask;
    while (vocab->merges[at].pair != UINT64_MAX && vocab->merges[at].pair != pair) {
        at = (at + 1) & vocab->merge_mask;
    }
    return &vocab->merges[at];
}

enum err token_vocab_reserve_merges(struct token_vocab *vocab, uint32_t count) {
    if (count > TOKEN_VOCAB_MERGES_MAX) return ERR_LIMIT;
    uint32_t slot_count = power_of_two(count * 2 + 1);
    if (slot_count <= vocab->merge_mask + 1) return ERR_OK;
    struct token_vocab_merge *merges = alloc_array(slot_count, sizeof *merges);
    if (!merges) return ERR_MEMORY;
    memset(merges, 0xff, slot_count * sizeof *merges);
    struct token_vocab_merge *old = vocab->merges;
    uint32_t old_count = vocab->merge_mask + 1;
    vocab->merges = merges;
    vocab->merge_mask = slot_count - 1;
    for (uint32_t i = 0; i < old_count; i++) {
        if (old[i].pair != UINT64_MAX) *merge_slot(vocab, old[i].pair) = old[i];
    }
    alloc_free(old);
    return ERR_OK;
}

enum err token_vocab_set_merge(struct token_vocab *vocab, uint32_t left, uint32_t right,
                               uint32_t rank, uint32_t id) {
    if (vocab->merge_count >= vocab->merge_mask / 2) {
        enum err e = token_vocab_reserve_merges(vocab, vocab->merge_count * 2 + 16);
        if (e) return e;
    }
    uint64_t pair = (uint64_t) left << 32 | right;
    struct token_vocab_merge *slot = merge_slot(vocab, pair);
    if (slot->pair == UINT64_MAX) vocab->merge_count++;
    *slot = (struct token_vocab_merge){.pair = pair, .rank = rank, .id = id};
    uint64_t mixed = vocab->digest ^ pair ^ (uint64_t) rank << 20 ^ id;
    vocab->digest = (mixed ^ mixed >> 31) * 0x9e3779b97f4a7c15u + 1;
    return ERR_OK;
}

void token_vocab_mark_merges(struct token_vocab *vocab) {
    for (uint32_t at = 0; at <= vocab->merge_mask; at++) {
        struct token_vocab_merge *merge = &vocab->merges[at];
        if (merge->pair != UINT64_MAX && vocab->flags[merge->id] & TOKEN_VOCAB_CONTROL) {
            merge->id |= TOKEN_VOCAB_MERGE_CONTROL;
        }
    }
}

/* The parts stand in `whole`, one behind the other, as the bytes they stand for. */
static enum err merge_parts(struct token_vocab *vocab, const uint8_t *whole, size_t left_length,
                            size_t right_length, uint32_t rank) {
    uint32_t left = token_vocab_find(vocab, whole, left_length);
    uint32_t right = token_vocab_find(vocab, whole + left_length, right_length);
    uint32_t id = token_vocab_find(vocab, whole, left_length + right_length);
    if (left == TOKEN_VOCAB_NONE || right == TOKEN_VOCAB_NONE || id == TOKEN_VOCAB_NONE) {
        return ERR_NOT_FOUND;
    }
    return token_vocab_set_merge(vocab, left, right, rank, id);
}

enum err token_vocab_merge(struct token_vocab *vocab, const char *left, size_t left_bytes,
                           const char *right, size_t right_bytes, uint32_t rank) {
    if (left_bytes > TOKEN_VOCAB_BYTES_MAX || right_bytes > TOKEN_VOCAB_BYTES_MAX) return ERR_LIMIT;
    uint8_t small[512];
    uint8_t *large = NULL, *whole = small;
    if (left_bytes + right_bytes > sizeof small) {
        whole = large = alloc_bytes(left_bytes + right_bytes);
        if (!large) return ERR_MEMORY;
    }
    size_t left_length = left_bytes, right_length = right_bytes;
    if (vocab->is_byte_level) {
        left_length = token_vocab_unspell(left, left_bytes, whole);
        right_length = left_length == SIZE_MAX
                           ? SIZE_MAX
                           : token_vocab_unspell(right, right_bytes, whole + left_length);
    } else {
        memcpy(whole, left, left_bytes);
        memcpy(whole + left_bytes, right, right_bytes);
    }
    enum err e = left_length == SIZE_MAX || right_length == SIZE_MAX
                     ? ERR_NOT_FOUND
                     : merge_parts(vocab, whole, left_length, right_length, rank);
    alloc_free(large);
    return e;
}
