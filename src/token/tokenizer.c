/* tokenizer - the finished tokenizer: what it answers about its tokens. */
#include "token/tokenizer.h"

#include <string.h>

#include <xxhash.h>

#include "base/alloc.h"
#include "base/num.h"
#include "token/token_unicode.h"
#include "token/tokenizer_inside.h"

void tokenizer_close(struct tokenizer *tokenizer) {
    if (!tokenizer) return;
    token_vocab_release(&tokenizer->vocab);
    token_added_release(&tokenizer->added);
    for (uint32_t i = 0; i < tokenizer->normal_count; i++) {
        alloc_free(tokenizer->normals[i].from);
        alloc_free(tokenizer->normals[i].to);
    }
    for (uint32_t i = 0; i < tokenizer->step_count; i++) {
        token_regex_destroy(tokenizer->steps[i].regex);
    }
    alloc_free(tokenizer->char_ids);
    alloc_free(tokenizer->prints);
    alloc_free(tokenizer->print_firsts);
    alloc_free(tokenizer);
}

enum err tokenizer_add_normal(struct tokenizer *tokenizer, enum tokenizer_normal_kind kind,
                              const char *from, size_t from_bytes, const char *to,
                              size_t to_bytes) {
    if (tokenizer->normal_count == TOKENIZER_STEPS_MAX) return ERR_LIMIT;
    struct tokenizer_normal normal = {.kind = kind, .from_bytes = from_bytes, .to_bytes = to_bytes};
    normal.from = alloc_string(from, from_bytes);
    normal.to = alloc_string(to, to_bytes);
    if (!normal.from || !normal.to) {
        alloc_free(normal.from);
        alloc_free(normal.to);
        return ERR_MEMORY;
    }
    tokenizer->normals[tokenizer->normal_count++] = normal;
    return ERR_OK;
}

/* The byte that <0xNN> stands for, -1 when it is no such token. */
static int byte_spelled(const uint8_t *text, size_t bytes) {
    if (bytes != 6 || memcmp(text, "<0x", 3) || text[5] != '>') return -1;
    int value = 0;
    for (int i = 3; i < 5; i++) {
        uint8_t digit = text[i];
        int nibble = digit >= '0' && digit <= '9'   ? digit - '0'
                     : digit >= 'A' && digit <= 'F' ? digit - 'A' + 10
                     : digit >= 'a' && digit <= 'f' ? digit - 'a' + 10
                                                    : -1;
        if (nibble < 0) return -1;
        value = value * 16 + nibble;
    }
    return value;
}

/* --- finishing ----------------------------------------------------------------------------- */

static void set_byte_ids(struct tokenizer *tokenizer) {
    bool is_complete = true;
    for (uint32_t byte = 0; byte < 256; byte++) {
        if (tokenizer->is_byte_level) {
            uint8_t one = (uint8_t) byte;
            tokenizer->byte_ids[byte] = token_vocab_find(&tokenizer->vocab, &one, 1);
            continue;
        }
        static const char hex[] = "0123456789ABCDEF";
        const uint8_t spelling[6] = {'<', '0', 'x', hex[byte >> 4], hex[byte & 15], '>'};
        tokenizer->byte_ids[byte] = token_vocab_find(&tokenizer->vocab, spelling, 6);
        if (tokenizer->byte_ids[byte] == TOKENIZER_NONE) is_complete = false;
    }
    if (!is_complete) tokenizer->is_byte_fallback = false;
}

static enum err set_char_ids(struct tokenizer *tokenizer) {
    tokenizer->char_ids = alloc_array(TOKENIZER_CHARS, sizeof *tokenizer->char_ids);
    if (!tokenizer->char_ids) return ERR_MEMORY;
    for (uint32_t cp = 0; cp < TOKENIZER_CHARS; cp++) {
        uint8_t text[4];
        uint32_t bytes = token_unicode_encode(cp, text);
        tokenizer->char_ids[cp] = token_vocab_find(&tokenizer->vocab, text, bytes);
    }
    return ERR_OK;
}

/* Does any token that merges make hold the word mark behind another character?  And is the mark
 * itself a token: else it is unknown, and unknown characters fuse across it. */
static bool may_cut_at_mark(const struct tokenizer *tokenizer) {
    const struct token_vocab *vocab = &tokenizer->vocab;
    if (token_vocab_find(vocab, (const uint8_t *) TOKENIZER_MARK, 3) == TOKENIZER_NONE)
        return false;
    for (uint32_t at = 0; at <= vocab->merge_mask; at++) {
        if (vocab->merges[at].pair == UINT64_MAX) continue;
        size_t bytes;
        const uint8_t *token =
            token_vocab_token(vocab, vocab->merges[at].id & ~TOKEN_VOCAB_MERGE_CONTROL, &bytes);
        for (size_t i = 1; i + 3 <= bytes; i++) {
            bool is_mark = !memcmp(token + i, TOKENIZER_MARK, 3);
            bool follows_mark = i >= 3 && !memcmp(token + i - 3, TOKENIZER_MARK, 3);
            if (is_mark && !follows_mark) return false;
        }
    }
    return true;
}

/* What a token prints as, into `out`: of an added token its pattern, of the others their bytes,
 * with the decoder's Replace (mark to space) and ByteFallback applied. */
static size_t print_of(struct tokenizer *tokenizer, uint32_t id,
                       const struct token_added_entry *entry, uint8_t *out) {
    size_t bytes;
    const uint8_t *token = token_vocab_token(&tokenizer->vocab, id, &bytes);
    if (entry) {
        token = (const uint8_t *) entry->pattern;
        bytes = entry->pattern_bytes;
    }
    if (tokenizer->decoder == TOKENIZER_DECODE_BYTES) {
        size_t count = entry ? token_vocab_unspell(entry->pattern, bytes, out) : SIZE_MAX;
        if (count != SIZE_MAX) return count;
    } else if (tokenizer->is_fallback_decoded) {
        int byte = byte_spelled(token, bytes);
        if (byte >= 0) {
            tokenizer->vocab.flags[id] |= TOKEN_VOCAB_BYTE;
            out[0] = (uint8_t) byte;
            return 1;
        }
    }
    size_t count = 0, mark_bytes = tokenizer->decode_mark_bytes;
    for (size_t i = 0; i < bytes;) {
        if (mark_bytes && bytes - i >= mark_bytes &&
            !memcmp(token + i, tokenizer->decode_mark, mark_bytes)) {
            out[count++] = ' ';
            i += mark_bytes;
        } else {
            out[count++] = token[i++];
        }
    }
    return count;
}

/* Byte-level tokens print as their bytes: then nothing has to be kept, unless the normalizer
 * changed an added token. */
static bool needs_prints(const struct tokenizer *tokenizer) {
    if (tokenizer->decoder != TOKENIZER_DECODE_BYTES) return true;
    for (uint32_t i = 0; i < tokenizer->added.entry_count; i++) {
        const struct token_added_entry *entry = &tokenizer->added.entries[i];
        if (entry->bytes != entry->pattern_bytes ||
            memcmp(entry->content, entry->pattern, entry->bytes)) {
            return true;
        }
    }
    return false;
}

static enum err set_prints(struct tokenizer *tokenizer) {
    if (!needs_prints(tokenizer)) return ERR_OK;
    struct token_vocab *vocab = &tokenizer->vocab;
    const struct token_added *added = &tokenizer->added;
    uint64_t room = vocab->blob_bytes;
    for (uint32_t i = 0; i < added->entry_count; i++) room += added->entries[i].pattern_bytes;
    if (room > UINT32_MAX) return ERR_MEMORY;
    tokenizer->prints = alloc_bytes(room);
    tokenizer->print_firsts = alloc_array(vocab->id_count + 1u, sizeof *tokenizer->print_firsts);
    uint32_t *entries = alloc_zero(vocab->id_count, sizeof *entries); /* index + 1, by id */
    if (!tokenizer->prints || !tokenizer->print_firsts || !entries) {
        alloc_free(entries);
        return ERR_MEMORY;
    }
    for (uint32_t i = 0; i < added->entry_count; i++) entries[added->entries[i].id] = i + 1;
    uint32_t at = 0;
    for (uint32_t id = 0; id < vocab->id_count; id++) {
        tokenizer->print_firsts[id] = at;
        const struct token_added_entry *entry =
            entries[id] ? &added->entries[entries[id] - 1] : NULL;
        at += (uint32_t) print_of(tokenizer, id, entry, tokenizer->prints + at);
    }
    tokenizer->print_firsts[vocab->id_count] = at;
    alloc_free(entries);
    return ERR_OK;
}

/* How many bytes of text one id can stand for at most. */
static uint32_t text_bytes_of_an_id(const struct tokenizer *tokenizer) {
    uint64_t bytes = tokenizer->vocab.token_bytes_max;
    for (uint32_t i = 0; i < tokenizer->added.entry_count; i++) {
        uint8_t flags = tokenizer->added.entries[i].flags;
        if (flags & (TOKEN_ADDED_LSTRIP | TOKEN_ADDED_RSTRIP)) return UINT32_MAX;
    }
    for (uint32_t i = 0; i < tokenizer->normal_count; i++) {
        const struct tokenizer_normal *normal = &tokenizer->normals[i];
        if (normal->kind == TOKENIZER_NFC) bytes *= 3; /* U+1F82 from its four parts: 8 to 3 */
        if (normal->kind == TOKENIZER_REPLACE && normal->to_bytes < normal->from_bytes) {
            if (!normal->to_bytes) return UINT32_MAX;
            bytes = bytes * normal->from_bytes / normal->to_bytes + normal->from_bytes;
        }
    }
    for (uint32_t i = 0; i < tokenizer->step_count; i++) {
        const struct tokenizer_step *step = &tokenizer->steps[i];
        if (step->kind == TOKENIZER_MATCH && step->behavior == TOKENIZER_REMOVED) return UINT32_MAX;
    }
    bool is_complete = true; /* every byte of a text has a symbol of its own */
    for (uint32_t byte = 0; byte < 0xf5; byte++) {
        bool is_utf8 = byte != 0xc0 && byte != 0xc1;
        if (is_utf8 && tokenizer->byte_ids[byte] == TOKENIZER_NONE) is_complete = false;
    }
    if (!tokenizer->is_byte_level) is_complete = tokenizer->is_byte_fallback;
    return is_complete && bytes < UINT32_MAX ? (uint32_t) bytes : UINT32_MAX;
}

static void add_number(XXH3_state_t *state, uint64_t number) {
    XXH3_64bits_update(state, &number, sizeof number);
}

static enum err set_digest(struct tokenizer *tokenizer) {
    const struct token_vocab *vocab = &tokenizer->vocab;
    XXH3_state_t *state = XXH3_createState();
    if (!state) return ERR_MEMORY;
    XXH3_64bits_reset(state);
    XXH3_64bits_update(state, vocab->blob, vocab->blob_bytes);
    XXH3_64bits_update(state, vocab->lengths, vocab->id_count * sizeof *vocab->lengths);
    XXH3_64bits_update(state, vocab->firsts, vocab->id_count * sizeof *vocab->firsts);
    XXH3_64bits_update(state, vocab->flags, vocab->id_count);
    add_number(state, vocab->digest);
    for (uint32_t i = 0; i < tokenizer->added.entry_count; i++) {
        const struct token_added_entry *entry = &tokenizer->added.entries[i];
        XXH3_64bits_update(state, entry->content, entry->bytes);
        add_number(state, (uint64_t) entry->id << 8 | entry->flags);
    }
    for (uint32_t i = 0; i < tokenizer->normal_count; i++) {
        const struct tokenizer_normal *normal = &tokenizer->normals[i];
        add_number(state, normal->kind);
        XXH3_64bits_update(state, normal->from, normal->from_bytes);
        XXH3_64bits_update(state, normal->to, normal->to_bytes);
    }
    for (uint32_t i = 0; i < tokenizer->step_count; i++) {
        const struct tokenizer_step *step = &tokenizer->steps[i];
        add_number(state, (uint64_t) step->kind | (uint64_t) step->split << 8 |
                              (uint64_t) step->behavior << 16 | (uint64_t) step->prepend << 24 |
                              (uint64_t) step->is_inverted << 32 | (uint64_t) step->is_split << 33);
        add_number(state, token_regex_digest(step->regex));
        XXH3_64bits_update(state, step->replacement, step->replacement_bytes);
    }
    add_number(state,
               (uint64_t) tokenizer->is_byte_level | (uint64_t) tokenizer->ignore_merges << 1 |
                   (uint64_t) tokenizer->is_byte_fallback << 2 |
                   (uint64_t) tokenizer->is_unk_fused << 3 | (uint64_t) tokenizer->unk_symbol << 8);
    XXH3_64bits_update(state, tokenizer->prefix, tokenizer->prefix_count * sizeof(uint32_t));
    XXH3_64bits_update(state, tokenizer->suffix, tokenizer->suffix_count * sizeof(uint32_t));
    tokenizer->digest = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return ERR_OK;
}

enum err tokenizer_finish(struct tokenizer *tokenizer, struct err_text *text) {
    struct token_vocab *vocab = &tokenizer->vocab;
    set_byte_ids(tokenizer);
    enum err e = ERR_OK;
    if (!tokenizer->is_byte_level) {
        e = set_char_ids(tokenizer);
        tokenizer->is_cut_at_mark = may_cut_at_mark(tokenizer);
    }
    for (uint32_t i = 0; i < tokenizer->added.entry_count; i++) {
        const struct token_added_entry *entry = &tokenizer->added.entries[i];
        if (entry->flags & TOKEN_ADDED_SPECIAL) vocab->flags[entry->id] |= TOKEN_VOCAB_SPECIAL;
        if (entry->flags & TOKEN_ADDED_CONTROL) vocab->flags[entry->id] |= TOKEN_VOCAB_CONTROL;
    }
    token_vocab_mark_merges(vocab);
    if (!e) e = set_prints(tokenizer);
    tokenizer->token_bytes_max = text_bytes_of_an_id(tokenizer);
    if (!e) e = set_digest(tokenizer);
    return e ? err_set(text, e, "no memory for the tokenizer") : ERR_OK;
}

/* --- questions ------------------------------------------------------------------------------ */

uint32_t tokenizer_vocab_size(const struct tokenizer *tokenizer) {
    return tokenizer->vocab.id_count;
}
uint32_t tokenizer_bos(const struct tokenizer *tokenizer) { return tokenizer->bos_id; }
uint32_t tokenizer_eos(const struct tokenizer *tokenizer) { return tokenizer->eos_id; }
uint32_t tokenizer_unk(const struct tokenizer *tokenizer) { return tokenizer->unk_id; }
uint32_t tokenizer_token_bytes_max(const struct tokenizer *tokenizer) {
    return tokenizer->token_bytes_max;
}
uint64_t tokenizer_digest(const struct tokenizer *tokenizer) { return tokenizer->digest; }

uint32_t tokenizer_find(const struct tokenizer *tokenizer, const char *text, size_t bytes) {
    const struct token_added_entry *entry = token_added_content(&tokenizer->added, text, bytes);
    if (entry) return entry->id;
    return token_vocab_find_spelling(&tokenizer->vocab, text, bytes);
}

const char *tokenizer_token(const struct tokenizer *tokenizer, uint32_t id, size_t *bytes,
                            bool *is_special) {
    const struct token_vocab *vocab = &tokenizer->vocab;
    const uint8_t *token = token_vocab_token(vocab, id, bytes);
    *is_special = id < vocab->id_count && vocab->flags[id] & TOKEN_VOCAB_SPECIAL;
    if (id < vocab->id_count && tokenizer->print_firsts) {
        uint32_t first = tokenizer->print_firsts[id];
        *bytes = tokenizer->print_firsts[id + 1] - first;
        token = tokenizer->prints + first;
    }
    return (const char *) token;
}

void tokenizer_ids_release(struct tokenizer_ids *ids) {
    alloc_free(ids->ids);
    *ids = (struct tokenizer_ids){0};
}
