/* token_bpe - see the header. */
#include "token/token_bpe.h"

#include <string.h>

#include "base/alloc.h"
#include "token/token_unicode.h"

#define SHORT_SYMBOLS 64 /* measured: scanning wins over a heap up to about here */

enum err token_bpe_reserve(struct tokenizer_ids *ids, size_t count) {
    if (count <= ids->room - ids->count) return ERR_OK;
    if (count > UINT32_MAX / 2 - ids->count) return ERR_LIMIT;
    uint32_t need = ids->count + (uint32_t) count;
    uint32_t room = need + need / 2 + 64;
    uint32_t *grown = alloc_resize(ids->ids, (size_t) room * sizeof *grown);
    if (!grown) return ERR_MEMORY;
    ids->ids = grown;
    ids->room = room;
    return ERR_OK;
}

/* The merge of two ids: its rank (UINT32_MAX: none) and what it makes. */
static inline uint32_t merge_of(const struct tokenizer *tokenizer, struct token_scratch *scratch,
                                uint32_t left, uint32_t right, uint32_t *merged) {
    const struct token_vocab_merge *merge = token_vocab_find_merge(&tokenizer->vocab, left, right);
    if (!merge) return UINT32_MAX;
    *merged = merge->id;
    if (__builtin_expect(merge->id & TOKEN_VOCAB_MERGE_CONTROL, 0)) {
        scratch->met_control = true;
        if (!scratch->allows_control) return UINT32_MAX;
        *merged &= ~TOKEN_VOCAB_MERGE_CONTROL;
    }
    return merge->rank;
}

/* --- the symbols a word begins as ---------------------------------------------------------- */

static uint32_t char_id(const struct tokenizer *tokenizer, const uint8_t *text, uint32_t *bytes) {
    uint32_t cp = token_unicode_decode(text, bytes);
    if (cp < TOKENIZER_CHARS) return tokenizer->char_ids[cp];
    return token_vocab_find(&tokenizer->vocab, text, *bytes);
}

/* Characters, with byte tokens or the unknown token for those that are none.  As in the
 * reference an unknown one waits for the next known one: byte tokens pass before it. */
static size_t char_symbols(const struct tokenizer *tokenizer, const uint8_t *word, size_t bytes,
                           uint32_t *out) {
    size_t count = 0;
    bool is_unk = false;
    for (size_t at = 0; at < bytes;) {
        uint32_t length;
        uint32_t id = char_id(tokenizer, word + at, &length);
        if (id != TOKENIZER_NONE) {
            if (is_unk) out[count++] = tokenizer->unk_symbol;
            is_unk = false;
            out[count++] = id;
        } else if (tokenizer->is_byte_fallback) {
            for (uint32_t i = 0; i < length; i++) out[count++] = tokenizer->byte_ids[word[at + i]];
        } else if (tokenizer->unk_symbol != TOKENIZER_NONE) {
            if (is_unk && !tokenizer->is_unk_fused) out[count++] = tokenizer->unk_symbol;
            is_unk = true;
        }
        at += length;
    }
    if (is_unk) out[count++] = tokenizer->unk_symbol;
    return count;
}

/* A byte without a symbol is the unknown token's, or vanishes. */
static size_t byte_symbols(const struct tokenizer *tokenizer, const uint8_t *word, size_t bytes,
                           uint32_t *out) {
    size_t count = 0;
    bool is_unk = false;
    for (size_t i = 0; i < bytes; i++) {
        uint32_t id = tokenizer->byte_ids[word[i]];
        if (id != TOKENIZER_NONE) {
            if (is_unk) out[count++] = tokenizer->unk_symbol;
            is_unk = false;
            out[count++] = id;
        } else if (tokenizer->unk_symbol != TOKENIZER_NONE) {
            if (is_unk && !tokenizer->is_unk_fused) out[count++] = tokenizer->unk_symbol;
            is_unk = true;
        }
    }
    if (is_unk) out[count++] = tokenizer->unk_symbol;
    return count;
}

/* --- merging ------------------------------------------------------------------------------- */

/* In place; gives the number of ids left. */
static size_t merge_short(const struct tokenizer *tokenizer, struct token_scratch *scratch,
                          uint32_t *ids, size_t count) {
    uint32_t ranks[SHORT_SYMBOLS], merged[SHORT_SYMBOLS]; /* of the pair (i, i + 1) */
    for (size_t i = 0; i + 1 < count; i++) {
        ranks[i] = merge_of(tokenizer, scratch, ids[i], ids[i + 1], &merged[i]);
    }
    while (count > 1) {
        uint32_t least = UINT32_MAX;
        size_t at = 0;
        for (size_t i = 0; i + 1 < count; i++) {
            if (ranks[i] < least) {
                least = ranks[i];
                at = i;
            }
        }
        if (least == UINT32_MAX) break;
        ids[at] = merged[at];
        count--;
        for (size_t i = at + 1; i < count; i++) ids[i] = ids[i + 1];
        for (size_t i = at; i + 1 < count; i++) {
            ranks[i] = ranks[i + 1];
            merged[i] = merged[i + 1];
        }
        if (at + 1 < count) {
            ranks[at] = merge_of(tokenizer, scratch, ids[at], ids[at + 1], &merged[at]);
        }
        if (at > 0) {
            ranks[at - 1] = merge_of(tokenizer, scratch, ids[at - 1], ids[at], &merged[at - 1]);
        }
    }
    return count;
}

/* A heap of four children a node: fewer cache lines on the way down. */
static void heap_sift_down(uint64_t *heap, size_t count, size_t at, uint64_t key) {
    for (;;) {
        size_t child = at * 4 + 1;
        if (child >= count) break;
        size_t last = child + 4 < count ? child + 4 : count;
        size_t least = child;
        for (size_t i = child + 1; i < last; i++) {
            if (heap[i] < heap[least]) least = i;
        }
        if (heap[least] >= key) break;
        heap[at] = heap[least];
        at = least;
    }
    heap[at] = key;
}

static void heap_push(uint64_t *heap, size_t *count, uint64_t key) {
    size_t at = (*count)++;
    while (at > 0) {
        size_t parent = (at - 1) / 4;
        if (heap[parent] <= key) break;
        heap[at] = heap[parent];
        at = parent;
    }
    heap[at] = key;
}

static uint64_t heap_pop(uint64_t *heap, size_t *count) {
    uint64_t top = heap[0];
    --*count;
    if (*count) heap_sift_down(heap, *count, 0, heap[*count]);
    return top;
}

static enum err reserve_symbols(struct token_scratch *scratch, size_t count) {
    if (count > UINT32_MAX / 4) return ERR_LIMIT;
    if (count > scratch->symbol_room) {
        void *symbols = alloc_resize(scratch->symbols, count * sizeof *scratch->symbols);
        if (!symbols) return ERR_MEMORY;
        scratch->symbols = symbols;
        scratch->symbol_room = count;
    }
    /* A pair at the start for each symbol, and at most two for each merge. */
    if (count * 3 > scratch->heap_room) {
        void *heap = alloc_resize(scratch->heap, count * 3 * sizeof *scratch->heap);
        if (!heap) return ERR_MEMORY;
        scratch->heap = heap;
        scratch->heap_room = count * 3;
    }
    return ERR_OK;
}

/* Sets the pair that begins at `at`; true when it merges. */
static bool set_pair(const struct tokenizer *tokenizer, struct token_scratch *scratch,
                     uint32_t at) {
    struct token_scratch_symbol *symbol = &scratch->symbols[at];
    symbol->rank = UINT32_MAX;
    if (symbol->next == UINT32_MAX) return false;
    symbol->rank = merge_of(tokenizer, scratch, symbol->id, scratch->symbols[symbol->next].id,
                            &symbol->merged);
    return symbol->rank != UINT32_MAX;
}

/* One sweep that merges every pair of rank `least`, leftmost first; gives the symbols left.  Stops
 * merging, in a state that the heap can go on from, when a merge made a pair of a lower rank,
 * which then comes first. */
static size_t sweep(const struct tokenizer *tokenizer, struct token_scratch *scratch, size_t count,
                    uint32_t least, bool *is_stopped) {
    struct token_scratch_symbol *symbols = scratch->symbols;
    size_t out = 0, at = 0;
    while (at < count) {
        struct token_scratch_symbol symbol = symbols[at++];
        if (symbol.rank == least && !*is_stopped) {
            symbol.id = symbol.merged;
            symbol.rank = UINT32_MAX;
            if (++at < count) {
                symbol.rank =
                    merge_of(tokenizer, scratch, symbol.id, symbols[at].id, &symbol.merged);
            }
            *is_stopped = symbol.rank < least;
            if (out) {
                struct token_scratch_symbol *before = &symbols[out - 1];
                before->rank = merge_of(tokenizer, scratch, before->id, symbol.id, &before->merged);
                if (before->rank < least) *is_stopped = true;
            }
        }
        symbols[out++] = symbol;
    }
    return out;
}

/* Sweeps while that pays: text that repeats itself (1 MiB of one letter) halves with each. */
static size_t merge_by_sweeps(const struct tokenizer *tokenizer, struct token_scratch *scratch,
                              size_t count) {
    bool is_stopped = false;
    while (!is_stopped) {
        uint32_t least = UINT32_MAX;
        size_t least_count = 0;
        for (size_t i = 0; i < count; i++) {
            uint32_t rank = scratch->symbols[i].rank;
            if (rank < least) least_count = 0;
            if (rank < least) least = rank;
            least_count += rank == least;
        }
        if (least == UINT32_MAX || least_count * 16 < count) break;
        count = sweep(tokenizer, scratch, count, least, &is_stopped);
    }
    return count;
}

static void merge_by_heap(const struct tokenizer *tokenizer, struct token_scratch *scratch,
                          uint32_t symbol_count) {
    struct token_scratch_symbol *symbols = scratch->symbols;
    uint64_t *heap = scratch->heap;
    size_t heap_count = 0;
    for (uint32_t i = 0; i < symbol_count; i++) {
        symbols[i].previous = i ? i - 1 : UINT32_MAX;
        symbols[i].next = i + 1 < symbol_count ? i + 1 : UINT32_MAX;
        if (symbols[i].rank != UINT32_MAX) {
            heap[heap_count++] = (uint64_t) symbols[i].rank << 32 | i;
        }
    }
    for (size_t i = heap_count; i-- > 0;) heap_sift_down(heap, heap_count, i, heap[i]);
    while (heap_count) {
        uint64_t key = heap_pop(heap, &heap_count);
        uint32_t at = (uint32_t) key;
        struct token_scratch_symbol *symbol = &symbols[at];
        /* Stale, when the pair at its place is another by now: a rank belongs to one pair. */
        if (symbol->rank != key >> 32) continue;
        struct token_scratch_symbol *right = &symbols[symbol->next];
        symbol->id = symbol->merged;
        symbol->next = right->next;
        right->rank = UINT32_MAX;
        if (symbol->next != UINT32_MAX) symbols[symbol->next].previous = at;
        if (set_pair(tokenizer, scratch, at)) {
            heap_push(heap, &heap_count, (uint64_t) symbol->rank << 32 | at);
        }
        uint32_t previous = symbol->previous;
        if (previous != UINT32_MAX && set_pair(tokenizer, scratch, previous)) {
            heap_push(heap, &heap_count, (uint64_t) symbols[previous].rank << 32 | previous);
        }
    }
}

/* In place; *count becomes the number of ids left. */
static enum err merge_long(const struct tokenizer *tokenizer, struct token_scratch *scratch,
                           uint32_t *ids, size_t *count) {
    enum err e = reserve_symbols(scratch, *count);
    if (e) return e;
    struct token_scratch_symbol *symbols = scratch->symbols;
    for (size_t i = 0; i < *count; i++) {
        symbols[i].id = ids[i];
        symbols[i].rank = UINT32_MAX;
        if (i + 1 < *count) {
            symbols[i].rank = merge_of(tokenizer, scratch, ids[i], ids[i + 1], &symbols[i].merged);
        }
    }
    size_t symbol_count = merge_by_sweeps(tokenizer, scratch, *count);
    merge_by_heap(tokenizer, scratch, (uint32_t) symbol_count);
    size_t left = 0;
    for (uint32_t i = 0; i != UINT32_MAX; i = symbols[i].next) ids[left++] = symbols[i].id;
    *count = left;
    return ERR_OK;
}

static enum err merge_word(const struct tokenizer *tokenizer, struct token_scratch *scratch,
                           const uint8_t *word, size_t bytes, struct tokenizer_ids *ids) {
    if (tokenizer->ignore_merges) {
        uint32_t id = token_vocab_find(&tokenizer->vocab, word, bytes);
        bool is_control = id != TOKENIZER_NONE && tokenizer->vocab.flags[id] & TOKEN_VOCAB_CONTROL;
        if (is_control) scratch->met_control = true;
        if (id != TOKENIZER_NONE && (!is_control || scratch->allows_control)) {
            enum err e = token_bpe_reserve(ids, 1);
            if (!e) ids->ids[ids->count++] = id;
            return e;
        }
    }
    enum err e = token_bpe_reserve(ids, bytes); /* a symbol is at least a byte */
    if (e) return e;
    uint32_t *symbols = ids->ids + ids->count;
    size_t count = tokenizer->is_byte_level ? byte_symbols(tokenizer, word, bytes, symbols)
                                            : char_symbols(tokenizer, word, bytes, symbols);
    if (count > SHORT_SYMBOLS) {
        e = merge_long(tokenizer, scratch, symbols, &count);
        if (e) return e;
    } else {
        count = merge_short(tokenizer, scratch, symbols, count);
    }
    ids->count += (uint32_t) count;
    return ERR_OK;
}

/* --- the cache ----------------------------------------------------------------------------- */

/* The word, zero-padded to 16 bytes, into key. */
static inline void load_half(const uint8_t *word, size_t bytes, const uint8_t *read_end,
                             uint64_t *key) {
    key[0] = key[1] = 0;
    if (read_end - word < 16) {
        memcpy(key, word, bytes);
        return;
    }
    memcpy(key, word, 16);
    if (bytes < 8) {
        key[0] &= (UINT64_C(1) << bytes * 8) - 1;
        key[1] = 0;
    } else if (bytes < 16) {
        key[1] &= (UINT64_C(1) << (bytes - 8) * 8) - 1;
    }
}

static inline uint64_t mix(uint64_t a, uint64_t b) {
    __extension__ unsigned __int128 product =
        (unsigned __int128) (a ^ 0xa0761d6478bd642fu) * (b ^ 0xe7037ed1a0b428dbu);
    return (uint64_t) product ^ (uint64_t) (product >> 64);
}

/* Appends up to `most` ids, which end at the first that is none. */
static inline enum err add_cached(struct tokenizer_ids *ids, const uint32_t *cached,
                                  uint32_t most) {
    if (ids->room - ids->count < most) {
        enum err e = token_bpe_reserve(ids, most);
        if (e) return e;
    }
    uint32_t *out = ids->ids + ids->count;
    memcpy(out, cached, most * sizeof *out);
    uint32_t count = 1;
    while (count < most && out[count] != TOKENIZER_NONE) count++;
    if (out[0] == TOKENIZER_NONE) count = 0;
    ids->count += count;
    return ERR_OK;
}

static void keep(uint32_t *cached, uint32_t most, const struct tokenizer_ids *ids, uint32_t first) {
    for (uint32_t i = 0; i < most; i++) {
        cached[i] = first + i < ids->count ? ids->ids[first + i] : TOKENIZER_NONE;
    }
}

/* A word of up to 31 bytes that the first table has not. */
static enum err long_word(const struct tokenizer *tokenizer, struct token_scratch *scratch,
                          const uint8_t *word, size_t bytes, const uint8_t *read_end,
                          struct tokenizer_ids *ids) {
    struct token_scratch_long entry = {{0}};
    load_half(word, bytes < 16 ? bytes : 16, read_end, entry.key);
    if (bytes > 16) load_half(word + 16, bytes - 16, read_end, entry.key + 2);
    entry.key[3] |= (uint64_t) bytes << 56;
    uint64_t hash = mix(mix(entry.key[0], entry.key[1]), mix(entry.key[2], entry.key[3]));
    struct token_scratch_long *set = scratch->longs + 2 * (hash & scratch->long_mask);
    for (int way = 0; way < 2; way++) {
        if (!memcmp(set[way].key, entry.key, sizeof entry.key)) {
            return add_cached(ids, set[way].ids, TOKEN_SCRATCH_LONG_IDS);
        }
    }
    uint32_t first = ids->count;
    scratch->met_control = false;
    enum err e = merge_word(tokenizer, scratch, word, bytes, ids);
    uint32_t count = ids->count - first;
    if (e || scratch->met_control || count > TOKEN_SCRATCH_LONG_IDS) return e;
    if (bytes <= TOKEN_SCRATCH_SHORT_BYTES && count <= TOKEN_SCRATCH_SHORT_IDS) return e;
    keep(entry.ids, TOKEN_SCRATCH_LONG_IDS, ids, first);
    set[1] = set[0];
    set[0] = entry;
    return ERR_OK;
}

enum err token_bpe_word(const struct tokenizer *tokenizer, struct token_scratch *scratch,
                        const uint8_t *word, size_t bytes, const uint8_t *read_end,
                        struct tokenizer_ids *ids) {
    if (bytes > TOKEN_SCRATCH_LONG_BYTES || !scratch->shorts) {
        return merge_word(tokenizer, scratch, word, bytes, ids);
    }
    if (bytes > TOKEN_SCRATCH_SHORT_BYTES) {
        return long_word(tokenizer, scratch, word, bytes, read_end, ids);
    }
    struct token_scratch_short entry;
    load_half(word, bytes, read_end, entry.key);
    entry.key[1] |= (uint64_t) bytes << 56;
    struct token_scratch_short *set =
        scratch->shorts + 2 * (mix(entry.key[0], entry.key[1]) & scratch->short_mask);
    for (int way = 0; way < 2; way++) {
        if (set[way].key[0] == entry.key[0] && set[way].key[1] == entry.key[1]) {
            return add_cached(ids, set[way].ids, TOKEN_SCRATCH_SHORT_IDS);
        }
    }
    uint32_t first = ids->count;
    enum err e = long_word(tokenizer, scratch, word, bytes, read_end, ids);
    if (e || scratch->met_control || ids->count - first > TOKEN_SCRATCH_SHORT_IDS) return e;
    keep(entry.ids, TOKEN_SCRATCH_SHORT_IDS, ids, first);
    set[1] = set[0];
    set[0] = entry;
    return ERR_OK;
}
