/* tokenizer_encode - text to ids: added tokens, normalizer, pre-tokenizer, words.
 *
 * Pieces are not collected: each stage hands its pieces to the next as it finds them, so a text
 * of any length needs no memory but the normalizer's copy of a piece. */
#include <string.h>

#include "token/token_bpe.h"
#include "token/token_normal.h"
#include "token/token_regex.h"
#include "token/token_scratch.h"
#include "token/token_unicode.h"
#include "token/tokenizer_inside.h"

/* One call of tokenizer_encode. */
struct encode {
    const struct tokenizer *tokenizer;
    struct token_scratch *scratch;
    struct tokenizer_ids *ids;
    uint32_t first;     /* ids before this call */
    uint32_t count_max; /* ids->count must not pass it */
};

/* A piece of text on its way through the pre-tokenizer. */
struct piece {
    const uint8_t *text;
    size_t bytes;
    const uint8_t *read_end; /* how far the memory behind may be read */
    bool is_first;           /* it begins where the whole text began */
};

static enum err add_id(struct encode *encode, uint32_t id) {
    enum err e = token_bpe_reserve(encode->ids, 1);
    if (e) return e;
    encode->ids->ids[encode->ids->count++] = id;
    return encode->ids->count > encode->count_max ? ERR_LIMIT : ERR_OK;
}

static enum err add_word(struct encode *encode, const uint8_t *word, size_t bytes,
                         const uint8_t *read_end) {
    enum err e =
        token_bpe_word(encode->tokenizer, encode->scratch, word, bytes, read_end, encode->ids);
    if (e) return e;
    return encode->ids->count > encode->count_max ? ERR_LIMIT : ERR_OK;
}

/* --- pre-tokenizer steps -------------------------------------------------------------------- */

static enum err run_steps(struct encode *encode, struct piece piece, uint32_t step_index);

static enum err run_split(struct encode *encode, struct piece piece, uint32_t step_index) {
    const struct tokenizer *tokenizer = encode->tokenizer;
    enum token_split_kind kind = tokenizer->steps[step_index].split;
    bool is_last = step_index + 1 == tokenizer->step_count;
    for (size_t at = 0; at < piece.bytes;) {
        size_t stop = token_split_next(kind, piece.text, at, piece.bytes);
        enum err e;
        if (is_last) {
            e = add_word(encode, piece.text + at, stop - at, piece.read_end);
        } else {
            struct piece part = {.text = piece.text + at,
                                 .bytes = stop - at,
                                 .read_end = piece.read_end,
                                 .is_first = piece.is_first && at == 0};
            e = run_steps(encode, part, step_index + 1);
        }
        if (e) return e;
        at = stop;
    }
    return ERR_OK;
}

static enum err run_part(struct encode *encode, const struct piece *piece, size_t first, size_t end,
                         uint32_t step_index) {
    if (first == end) return ERR_OK;
    struct piece part = {.text = piece->text + first,
                         .bytes = end - first,
                         .read_end = piece->read_end,
                         .is_first = piece->is_first && first == 0};
    return run_steps(encode, part, step_index + 1);
}

/* The reference makes a list of alternating gaps and matches and then applies the behaviour; a
 * span under construction, [open, open_end), is enough for that. */
struct behave {
    size_t open, open_end;
    bool has_open;
    bool previous_match;
};

/* Whether the next element grows the open span, and whether it then closes it. */
static enum err behave_add(struct encode *encode, const struct piece *piece, struct behave *behave,
                           size_t first, size_t end, bool is_match, uint32_t step_index) {
    const struct tokenizer_step *step = &encode->tokenizer->steps[step_index];
    bool joins = false;
    switch (step->behavior) {
    case TOKENIZER_ISOLATED:
    case TOKENIZER_REMOVED: break;
    case TOKENIZER_CONTIGUOUS: joins = is_match == behave->previous_match; break;
    case TOKENIZER_MERGED_WITH_PREVIOUS: joins = is_match && !behave->previous_match; break;
    case TOKENIZER_MERGED_WITH_NEXT: joins = behave->previous_match && !is_match; break;
    }
    behave->previous_match = is_match;
    if (joins && behave->has_open) {
        behave->open_end = end;
        return ERR_OK;
    }
    enum err e = ERR_OK;
    if (behave->has_open) {
        e = run_part(encode, piece, behave->open, behave->open_end, step_index);
    }
    behave->has_open = !(step->behavior == TOKENIZER_REMOVED && is_match);
    behave->open = first;
    behave->open_end = end;
    return e;
}

static size_t after_char(const uint8_t *text, size_t at, size_t end) {
    uint32_t bytes = 1;
    if (at < end) (void) token_unicode_decode(text + at, &bytes);
    return at + bytes;
}

static enum err run_match(struct encode *encode, struct piece piece, uint32_t step_index) {
    const struct tokenizer_step *step = &encode->tokenizer->steps[step_index];
    if (!encode->scratch->match) {
        encode->scratch->match = token_regex_match_create();
        if (!encode->scratch->match) return ERR_MEMORY;
    }
    struct behave behave = {0};
    size_t done = 0, last_match_end = SIZE_MAX;
    for (size_t from = 0; from <= piece.bytes;) {
        bool is_found;
        size_t first, end;
        enum err e = token_regex_find(step->regex, encode->scratch->match, piece.text, from,
                                      piece.bytes, &is_found, &first, &end);
        if (e) return e;
        if (!is_found) break;
        /* An empty match cuts too, but not right behind the match before. */
        bool is_empty = first == end;
        from = is_empty ? after_char(piece.text, end, piece.bytes) : end;
        if (is_empty && end == last_match_end) continue;
        last_match_end = end;
        if (first > done) {
            e = behave_add(encode, &piece, &behave, done, first, step->is_inverted, step_index);
        }
        if (!e) e = behave_add(encode, &piece, &behave, first, end, !step->is_inverted, step_index);
        if (e) return e;
        done = end;
    }
    if (done < piece.bytes) {
        enum err e =
            behave_add(encode, &piece, &behave, done, piece.bytes, step->is_inverted, step_index);
        if (e) return e;
    }
    if (!behave.has_open) return ERR_OK;
    return run_part(encode, &piece, behave.open, behave.open_end, step_index);
}

/* A copy of the piece with something before it, and spaces as `mark` when there is one. */
static enum err copy_piece(struct buf *buf, const struct piece *piece, const char *before,
                           size_t before_bytes, const char *mark, size_t mark_bytes) {
    buf_clear(buf);
    buf_add(buf, before, before_bytes);
    if (!mark) {
        buf_add(buf, piece->text, piece->bytes);
        return buf->failed;
    }
    for (size_t at = 0; at < piece->bytes;) {
        const uint8_t *space = memchr(piece->text + at, ' ', piece->bytes - at);
        size_t end = space ? (size_t) (space - piece->text) : piece->bytes;
        buf_add(buf, piece->text + at, end - at);
        if (space) buf_add(buf, mark, mark_bytes);
        at = end + (space != NULL);
    }
    return buf->failed;
}

static enum err run_prefix_space(struct encode *encode, struct piece piece, uint32_t step_index) {
    if (piece.text[0] == ' ') return run_steps(encode, piece, step_index + 1);
    struct buf *buf = &encode->scratch->step[encode->tokenizer->steps[step_index].buffer];
    enum err e = copy_piece(buf, &piece, " ", 1, NULL, 0);
    if (e) return e;
    struct piece copy = {.text = buf->data,
                         .bytes = buf->bytes,
                         .read_end = buf->data + buf->bytes,
                         .is_first = piece.is_first};
    return run_steps(encode, copy, step_index + 1);
}

static enum err run_metaspace(struct encode *encode, struct piece piece, uint32_t step_index) {
    const struct tokenizer_step *step = &encode->tokenizer->steps[step_index];
    const char *mark = step->replacement;
    size_t mark_bytes = step->replacement_bytes;
    bool has_mark = piece.text[0] == ' ' ||
                    (piece.bytes >= mark_bytes && !memcmp(piece.text, mark, mark_bytes));
    bool prepends = !has_mark && (step->prepend == TOKENIZER_ALWAYS ||
                                  (step->prepend == TOKENIZER_FIRST && piece.is_first));
    struct buf *buf = &encode->scratch->step[encode->tokenizer->steps[step_index].buffer];
    enum err e = copy_piece(buf, &piece, mark, prepends ? mark_bytes : 0, mark, mark_bytes);
    if (e) return e;
    struct piece copy = {.text = buf->data,
                         .bytes = buf->bytes,
                         .read_end = buf->data + buf->bytes,
                         .is_first = piece.is_first};
    if (!step->is_split) return run_steps(encode, copy, step_index + 1);
    /* Each mark begins a piece. */
    size_t first = 0, at = 0;
    for (;;) {
        const uint8_t *next = memmem(copy.text + at, copy.bytes - at, mark, mark_bytes);
        size_t end = next ? (size_t) (next - copy.text) : copy.bytes;
        e = run_part(encode, &copy, first, end, step_index);
        if (e || !next) return e;
        first = end;
        at = end + mark_bytes;
    }
}

/* Behind the last step: one word, or for SentencePiece the words between marks, where cutting
 * there changes nothing. */
static enum err run_words(struct encode *encode, struct piece piece) {
    if (!encode->tokenizer->is_cut_at_mark || encode->tokenizer->ignore_merges) {
        return add_word(encode, piece.text, piece.bytes, piece.read_end);
    }
    size_t first = 0;
    for (size_t at = 0; at < piece.bytes;) {
        const uint8_t *mark = memmem(piece.text + at, piece.bytes - at, TOKENIZER_MARK, 3);
        if (!mark) break;
        size_t end = (size_t) (mark - piece.text);
        bool follows_mark = end >= 3 && !memcmp(mark - 3, TOKENIZER_MARK, 3);
        if (end > first && !follows_mark) {
            enum err e = add_word(encode, piece.text + first, end - first, piece.read_end);
            if (e) return e;
            first = end;
        }
        at = end + 3;
    }
    return add_word(encode, piece.text + first, piece.bytes - first, piece.read_end);
}

/* Depth: at most TOKENIZER_STEPS_MAX. */
static enum err run_steps(struct encode *encode, struct piece piece, uint32_t step_index) {
    if (piece.bytes == 0) return ERR_OK;
    if (step_index == encode->tokenizer->step_count) return run_words(encode, piece);
    switch (encode->tokenizer->steps[step_index].kind) {
    case TOKENIZER_SPLIT: return run_split(encode, piece, step_index);
    case TOKENIZER_MATCH: return run_match(encode, piece, step_index);
    case TOKENIZER_PREFIX_SPACE: return run_prefix_space(encode, piece, step_index);
    case TOKENIZER_METASPACE: return run_metaspace(encode, piece, step_index);
    }
    return ERR_OK;
}

/* --- added tokens --------------------------------------------------------------------------- */

static bool is_word_before(const uint8_t *text, size_t first, size_t at) {
    if (at == first) return false;
    do at--;
    while ((text[at] & 0xc0) == 0x80);
    uint32_t bytes;
    return token_unicode_class(token_unicode_decode(text + at, &bytes)) & TOKEN_WORD;
}

static bool is_word_at(const uint8_t *text, size_t at, size_t end) {
    uint32_t bytes;
    return at < end && token_unicode_class(token_unicode_decode(text + at, &bytes)) & TOKEN_WORD;
}

static bool is_space_at(const uint8_t *text, uint32_t *bytes) {
    return token_unicode_is_space(token_unicode_class(token_unicode_decode(text, bytes)));
}

static size_t skip_spaces_back(const uint8_t *text, size_t least, size_t at) {
    while (at > least) {
        size_t before = at - 1;
        while ((text[before] & 0xc0) == 0x80) before--;
        uint32_t bytes;
        if (!is_space_at(text + before, &bytes)) break;
        at = before;
    }
    return at;
}

static size_t skip_spaces(const uint8_t *text, size_t at, size_t end) {
    while (at < end) {
        uint32_t bytes;
        if (!is_space_at(text + at, &bytes)) break;
        at += bytes;
    }
    return at;
}

/* What lies between two added tokens of a pass. */
typedef enum err (*between_fn)(struct encode *encode, const uint8_t *text, size_t first, size_t end,
                               size_t text_bytes, struct token_added_user *user);

static enum err run_added(struct encode *encode, const struct token_added_trie *trie,
                          const uint8_t *text, size_t bytes, struct token_added_user *user,
                          between_fn between) {
    const struct token_added *added = &encode->tokenizer->added;
    struct token_added_user between_user = *user;
    size_t done = 0, at = 0;
    while (at < bytes) {
        struct token_added_match match = token_added_find(added, trie, text, at, bytes, user);
        if (!match.entry) break;
        at = match.end;
        size_t first = match.first, end = match.end;
        uint8_t flags = match.entry->flags;
        if (flags & TOKEN_ADDED_SINGLE_WORD &&
            (is_word_before(text, 0, first) || is_word_at(text, end, bytes))) {
            continue;
        }
        /* A token that begins inside the spaces taken by the one before still counts. */
        if (flags & TOKEN_ADDED_LSTRIP && first > done) first = skip_spaces_back(text, done, first);
        if (flags & TOKEN_ADDED_RSTRIP) end = skip_spaces(text, end, bytes);
        enum err e = ERR_OK;
        if (done < first) e = between(encode, text, done, first, bytes, &between_user);
        if (!e) e = add_id(encode, match.entry->id);
        if (e) return e;
        done = end;
    }
    if (done >= bytes) return ERR_OK;
    return between(encode, text, done, bytes, bytes, &between_user);
}

static enum err pre_tokenize(struct encode *encode, const uint8_t *text, size_t first, size_t end,
                             size_t text_bytes, struct token_added_user *user) {
    struct piece piece = {.text = text + first,
                          .bytes = end - first,
                          .read_end = text + text_bytes,
                          .is_first = user->is_at_start && first == 0};
    return run_steps(encode, piece, 0);
}

static enum err normalize(struct encode *encode, const uint8_t *text, size_t first, size_t end,
                          size_t text_bytes, struct token_added_user *user) {
    const struct tokenizer *tokenizer = encode->tokenizer;
    encode->scratch->allows_control = !token_added_touches_user(user, first, end);
    if (!tokenizer->normal_count && !tokenizer->added.normalized.node_count) {
        return pre_tokenize(encode, text, first, end, text_bytes, user);
    }
    struct token_normal_text out;
    enum err e = token_normal_run(tokenizer, encode->scratch, text, first, end, user, &out);
    if (e) return e;
    struct token_added_user after = {.ranges = out.ranges,
                                     .range_count = out.range_count,
                                     .is_all = user->is_all,
                                     .is_at_start = user->is_at_start && first == 0};
    return run_added(encode, &tokenizer->added.normalized, out.text, out.bytes, &after,
                     pre_tokenize);
}

/* --- the whole ------------------------------------------------------------------------------ */

enum err tokenizer_encode(const struct tokenizer *tokenizer, struct token_scratch *scratch,
                          const char *text, size_t bytes, const struct tokenizer_range *user_ranges,
                          size_t range_count, unsigned flags, uint32_t id_count_max,
                          struct err_text *text_out, struct tokenizer_ids *ids) {
    CHECK(scratch->tokenizer == tokenizer);
    struct encode encode = {.tokenizer = tokenizer,
                            .scratch = scratch,
                            .ids = ids,
                            .first = ids->count,
                            .count_max = UINT32_MAX};
    if (id_count_max && id_count_max < UINT32_MAX - ids->count) {
        encode.count_max = ids->count + id_count_max;
    }
    const uint8_t *source = (const uint8_t *) text;
    size_t valid = token_unicode_valid_bytes(source, bytes);
    if (valid < bytes) {
        return err_set(text_out, ERR_FORMAT, "the text is not valid UTF-8 at byte %zu", valid);
    }
    bool adds = flags & TOKENIZER_ADD_SPECIAL;
    struct token_added_user user = {.ranges = user_ranges,
                                    .range_count = range_count,
                                    .is_all = !(flags & TOKENIZER_PARSE_SPECIAL),
                                    .is_at_start = true};
    enum err e = ERR_OK;
    for (uint32_t i = 0; adds && !e && i < tokenizer->prefix_count; i++) {
        e = add_id(&encode, tokenizer->prefix[i]);
    }
    if (!e) e = run_added(&encode, &tokenizer->added.plain, source, bytes, &user, normalize);
    for (uint32_t i = 0; adds && !e && i < tokenizer->suffix_count; i++) {
        e = add_id(&encode, tokenizer->suffix[i]);
    }
    token_scratch_trim(scratch);
    if (!e) return ERR_OK;
    ids->count = encode.first;
    if (e == ERR_LIMIT) {
        return err_set(text_out, e, "the text has more than %u tokens", id_count_max);
    }
    if (e == ERR_UNSUPPORTED) {
        return err_set(text_out, e, "the tokenizer's split pattern gives up on this text");
    }
    return err_set(text_out, e, "no memory to tokenize %zu bytes", bytes);
}
