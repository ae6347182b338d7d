/* tokenizer_open_json - a tokenizer from tokenizer.json and tokenizer_config.json.
 *
 * The file's top level and its model are walked by token_json, which only notes where each value
 * stands; the vocabulary and the merges are then read from the text, everything else is small
 * and goes through jansson. */
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "token/token_json.h"
#include "token/token_normal.h"
#include "token/token_unicode.h"
#include "token/tokenizer_inside.h"
#include "token/tokenizer_parts.h"

enum { TOP_MODEL, TOP_NORMALIZER, TOP_PRE, TOP_POST, TOP_DECODER, TOP_ADDED, TOP_COUNT };
static const char *const top_keys[TOP_COUNT] = {"model",          "normalizer", "pre_tokenizer",
                                                "post_processor", "decoder",    "added_tokens"};

enum {
    MODEL_TYPE,
    MODEL_VOCAB,
    MODEL_MERGES,
    MODEL_UNK,
    MODEL_DROPOUT,
    MODEL_PREFIX,
    MODEL_SUFFIX,
    MODEL_FUSE,
    MODEL_FALLBACK,
    MODEL_IGNORE,
    MODEL_COUNT
};
static const char *const model_keys[MODEL_COUNT] = {"type",
                                                    "vocab",
                                                    "merges",
                                                    "unk_token",
                                                    "dropout",
                                                    "continuing_subword_prefix",
                                                    "end_of_word_suffix",
                                                    "fuse_unk",
                                                    "byte_fallback",
                                                    "ignore_merges"};

/* One opening: what is read, and what it is read into. */
struct opening {
    struct tokenizer *tokenizer;
    struct err_text *text;
    struct buf unescaped[2];
    struct token_json_view top[TOP_COUNT];
    struct token_json_view model[MODEL_COUNT];
    char unknown[64]; /* the first key of the model that is not known; "" when there is none */
};

static enum err malformed(struct opening *opening, const struct token_json *json,
                          const char *what) {
    return err_set(opening->text, ERR_FORMAT, "tokenizer.json: malformed %s near byte %zu", what,
                   json->at);
}

static struct token_json reader_of(struct token_json_view view) {
    return (struct token_json){.text = view.data, .bytes = view.bytes};
}

static enum err walk_error(struct opening *opening, const struct token_json *json, enum err e,
                           const char *what) {
    if (!e) return ERR_OK;
    if (e == ERR_MEMORY) return err_set(opening->text, e, "no memory for tokenizer.json");
    return malformed(opening, json, what);
}

/* Takes a key and its colon; *out is its index, or key_count. */
static enum err take_key(struct opening *opening, struct token_json *json, const char *const *keys,
                         size_t key_count, struct token_json_view *key, size_t *out) {
    enum err e = token_json_string(json, &opening->unescaped[0], key);
    if (e) return e;
    if (!token_json_take(json, ':')) return ERR_FORMAT;
    *out = key_count;
    for (size_t i = 0; i < key_count; i++) {
        if (key->bytes == strlen(keys[i]) && !memcmp(key->data, keys[i], key->bytes)) *out = i;
    }
    return ERR_OK;
}

/* Notes where the values of the model's known keys stand, and the first unknown key. */
static enum err walk_model(struct opening *opening, struct token_json *json) {
    bool is_first = true;
    enum err e = ERR_OK;
    if (!token_json_take(json, '{')) return ERR_FORMAT;
    while (token_json_next(json, '}', &is_first, &e)) {
        struct token_json_view key, value;
        size_t found;
        e = take_key(opening, json, model_keys, MODEL_COUNT, &key, &found);
        if (!e && found == MODEL_COUNT && !opening->unknown[0]) {
            size_t bytes =
                key.bytes < sizeof opening->unknown ? key.bytes : sizeof opening->unknown - 1;
            memcpy(opening->unknown, key.data, bytes);
        }
        if (!e) e = token_json_skip(json, &value);
        if (e) break;
        if (found < MODEL_COUNT) opening->model[found] = value;
    }
    return e;
}

/* Notes where the values of the top level's known keys stand; walks into the model.  Other keys
 * (version, truncation, padding) are the caller's settings in the reference, which its users
 * reset; none changes how a text is cut. */
static enum err walk_top(struct opening *opening, struct token_json *json) {
    bool is_first = true;
    enum err e = ERR_OK;
    if (!token_json_take(json, '{')) return malformed(opening, json, "top level");
    while (token_json_next(json, '}', &is_first, &e)) {
        struct token_json_view key, value;
        size_t found;
        e = take_key(opening, json, top_keys, TOP_COUNT, &key, &found);
        if (!e && found == TOP_MODEL) {
            (void) token_json_peek(json);
            size_t first = json->at;
            e = walk_model(opening, json);
            if (e) return walk_error(opening, json, e, "model");
            value = (struct token_json_view){json->text + first, json->at - first};
        } else if (!e) {
            e = token_json_skip(json, &value);
        }
        if (e) break;
        if (found < TOP_COUNT) opening->top[found] = value;
    }
    if (!e && token_json_peek(json)) e = ERR_FORMAT;
    return walk_error(opening, json, e, "top level");
}

/* jansson's tree of a small part; *out stays NULL when the part is absent. */
static enum err load_part(struct opening *opening, struct token_json_view view, const char *what,
                          json_t **out) {
    if (!view.data) return ERR_OK;
    json_error_t error;
    *out = json_loadb(view.data, view.bytes,
                      JSON_DECODE_ANY | JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (*out) return ERR_OK;
    return err_set(opening->text, ERR_FORMAT, "tokenizer.json: %s: %s (line %d)", what, error.text,
                   error.line);
}

/* --- model ---------------------------------------------------------------------------------- */

static bool is_word(struct token_json_view view, const char *word) {
    return view.data && view.bytes == strlen(word) && !memcmp(view.data, word, view.bytes);
}

static bool is_absent(struct token_json_view view) { return !view.data || is_word(view, "null"); }

static enum err read_flag(struct opening *opening, int key, bool *out) {
    struct token_json_view view = opening->model[key];
    *out = is_word(view, "true");
    if (*out || is_absent(view) || is_word(view, "false")) return ERR_OK;
    return err_set(opening->text, ERR_FORMAT, "tokenizer.json: model '%s' is not true or false",
                   model_keys[key]);
}

static enum err check_model(struct opening *opening) {
    static const int must_be_absent[] = {MODEL_DROPOUT, MODEL_PREFIX, MODEL_SUFFIX};
    struct token_json_view type = opening->model[MODEL_TYPE];
    if (type.data && !is_word(type, "\"BPE\"")) {
        return err_set(opening->text, ERR_UNSUPPORTED,
                       "tokenizer.json: model type %.*s is not supported, only BPE is",
                       (int) (type.bytes < 64 ? type.bytes : 64), type.data);
    }
    if (opening->unknown[0]) {
        return err_set(opening->text, ERR_UNSUPPORTED,
                       "tokenizer.json: model has the unknown key '%s'", opening->unknown);
    }
    for (size_t i = 0; i < ARRAY_COUNT(must_be_absent); i++) {
        struct token_json_view view = opening->model[must_be_absent[i]];
        if (!is_absent(view) && !is_word(view, "\"\"") && !is_word(view, "0.0") &&
            !is_word(view, "0")) {
            return err_set(opening->text, ERR_UNSUPPORTED,
                           "tokenizer.json: model '%s' is set, which is not supported",
                           model_keys[must_be_absent[i]]);
        }
    }
    for (int key = MODEL_VOCAB; key <= MODEL_MERGES; key++) {
        if (is_absent(opening->model[key])) {
            return err_set(opening->text, ERR_FORMAT, "tokenizer.json: model has no '%s'",
                           model_keys[key]);
        }
    }
    struct tokenizer *tokenizer = opening->tokenizer;
    enum err e = read_flag(opening, MODEL_FUSE, &tokenizer->is_unk_fused);
    if (!e) e = read_flag(opening, MODEL_FALLBACK, &tokenizer->is_byte_fallback);
    if (!e) e = read_flag(opening, MODEL_IGNORE, &tokenizer->ignore_merges);
    return e;
}

static enum err read_vocab(struct opening *opening, uint32_t *entry_count) {
    struct token_json json = reader_of(opening->model[MODEL_VOCAB]);
    struct token_vocab *vocab = &opening->tokenizer->vocab;
    /* An entry takes some 14 bytes; the tables grow when this guess is low. */
    uint64_t guess = json.bytes / 12;
    enum err e =
        token_vocab_init(vocab, opening->tokenizer->is_byte_level,
                         guess < TOKEN_VOCAB_IDS_MAX ? (uint32_t) guess : TOKEN_VOCAB_IDS_MAX);
    bool is_first = true;
    if (!e && !token_json_take(&json, '{')) e = ERR_FORMAT;
    while (!e && token_json_next(&json, '}', &is_first, &e)) {
        struct token_json_view token;
        uint32_t id;
        e = token_json_string(&json, &opening->unescaped[0], &token);
        if (!e && !token_json_take(&json, ':')) e = ERR_FORMAT;
        if (!e) e = token_json_number(&json, &id);
        /* No table is made by the word of the file: ids are about as many as entries. */
        if (!e && id > json.bytes + 65536) e = ERR_LIMIT;
        if (!e) e = token_vocab_add(vocab, id, token.data, token.bytes, TOKEN_VOCAB_MODEL);
        ++*entry_count;
    }
    if (e == ERR_LIMIT) {
        return err_set(opening->text, e,
                       "tokenizer.json: the vocabulary has ids that are too large");
    }
    if (e == ERR_MEMORY) return err_set(opening->text, e, "no memory for the vocabulary");
    return e ? malformed(opening, &json, "vocab (or an id twice)") : ERR_OK;
}

/* "left right" or ["left", "right"] */
static enum err read_merge(struct opening *opening, struct token_json *json,
                           struct token_json_view *left, struct token_json_view *right) {
    if (token_json_take(json, '[')) {
        enum err e = token_json_string(json, &opening->unescaped[0], left);
        if (!e && !token_json_take(json, ',')) e = ERR_FORMAT;
        if (!e) e = token_json_string(json, &opening->unescaped[1], right);
        if (!e && !token_json_take(json, ']')) e = ERR_FORMAT;
        return e;
    }
    struct token_json_view both;
    enum err e = token_json_string(json, &opening->unescaped[0], &both);
    if (e) return e;
    const char *space = memchr(both.data, ' ', both.bytes);
    if (!space) return both.bytes >= 8 && !memcmp(both.data, "#version", 8) ? ERR_OK : ERR_FORMAT;
    *left = (struct token_json_view){both.data, (size_t) (space - both.data)};
    *right = (struct token_json_view){space + 1, both.bytes - left->bytes - 1};
    if (memchr(right->data, ' ', right->bytes)) {
        return both.bytes >= 8 && !memcmp(both.data, "#version", 8) ? ERR_OK : ERR_FORMAT;
    }
    return ERR_OK;
}

/* A merge whose parts are spelled in no byte-level alphabet can never apply, but is no error. */
static bool is_dead_merge(const struct tokenizer *tokenizer, struct token_json_view left,
                          struct token_json_view right) {
    return tokenizer->is_byte_level &&
           token_vocab_find_spelling(&tokenizer->vocab, left.data, left.bytes) != TOKENIZER_NONE &&
           token_vocab_find_spelling(&tokenizer->vocab, right.data, right.bytes) != TOKENIZER_NONE;
}

static enum err read_merges(struct opening *opening) {
    struct token_json json = reader_of(opening->model[MODEL_MERGES]);
    struct tokenizer *tokenizer = opening->tokenizer;
    enum err e = ERR_OK;
    bool is_first = true;
    uint32_t rank = 0;
    if (!e && !token_json_take(&json, '[')) e = ERR_FORMAT;
    while (!e && token_json_next(&json, ']', &is_first, &e)) {
        struct token_json_view left = {0}, right = {0};
        e = read_merge(opening, &json, &left, &right);
        if (e || !left.data) continue;
        e = token_vocab_merge(&tokenizer->vocab, left.data, left.bytes, right.data, right.bytes,
                              rank++);
        if (e == ERR_NOT_FOUND && is_dead_merge(tokenizer, left, right)) e = ERR_OK;
        if (e == ERR_NOT_FOUND) {
            return err_set(opening->text, ERR_FORMAT,
                           "tokenizer.json: merge %u ('%.*s', '%.*s') joins what is not in the "
                           "vocabulary",
                           rank - 1, (int) (left.bytes < 64 ? left.bytes : 64), left.data,
                           (int) (right.bytes < 64 ? right.bytes : 64), right.data);
        }
    }
    if (e == ERR_MEMORY || e == ERR_LIMIT) {
        return err_set(opening->text, e, "no room for the merges of tokenizer.json");
    }
    return e ? malformed(opening, &json, "merges") : ERR_OK;
}

static enum err read_unk(struct opening *opening) {
    struct tokenizer *tokenizer = opening->tokenizer;
    tokenizer->unk_symbol = TOKENIZER_NONE;
    if (is_absent(opening->model[MODEL_UNK])) return ERR_OK;
    struct token_json json = reader_of(opening->model[MODEL_UNK]);
    struct token_json_view unk;
    enum err e = token_json_string(&json, &opening->unescaped[0], &unk);
    if (e) return malformed(opening, &json, "unk_token");
    tokenizer->unk_symbol = token_vocab_find_spelling(&tokenizer->vocab, unk.data, unk.bytes);
    tokenizer->unk_id = tokenizer->unk_symbol;
    return ERR_OK;
}

/* --- added tokens --------------------------------------------------------------------------- */

static enum err read_added_flags(struct opening *opening, const json_t *token, const char *content,
                                 uint8_t *out) {
    static const struct {
        const char *key;
        uint8_t flag;
    } known[] = {{"single_word", TOKEN_ADDED_SINGLE_WORD},
                 {"lstrip", TOKEN_ADDED_LSTRIP},
                 {"rstrip", TOKEN_ADDED_RSTRIP},
                 {"normalized", TOKEN_ADDED_NORMALIZED},
                 {"special", TOKEN_ADDED_SPECIAL}};
    const char *key;
    json_t *value;
    *out = 0;
    json_object_foreach((json_t *) token, key, value) {
        size_t i = 0;
        while (i < ARRAY_COUNT(known) && strcmp(key, known[i].key)) i++;
        if (i < ARRAY_COUNT(known) && json_is_boolean(value)) {
            if (json_is_true(value)) *out |= known[i].flag;
        } else if (strcmp(key, "id") && strcmp(key, "content")) {
            return err_set(opening->text, i < ARRAY_COUNT(known) ? ERR_FORMAT : ERR_UNSUPPORTED,
                           "tokenizer.json: added token '%.64s': the key '%s' is %s", content, key,
                           i < ARRAY_COUNT(known) ? "not true or false" : "unknown");
        }
    }
    return ERR_OK;
}

/* What the normalizer makes of an added token. */
static enum err normal_pattern(struct opening *opening, struct token_scratch *scratch,
                               const char *content, size_t bytes, struct token_normal_text *out) {
    struct token_added_user user = {.is_all = true};
    return token_normal_run(opening->tokenizer, scratch, (const uint8_t *) content, 0, bytes, &user,
                            out);
}

/* As the reference: a content that the model has takes the model's id, another one the next id
 * behind the vocabulary, whatever the file says. */
static enum err add_added(struct opening *opening, const json_t *token,
                          struct token_scratch *scratch, uint32_t *next_id) {
    struct tokenizer *tokenizer = opening->tokenizer;
    const json_t *value = json_object_get(token, "content");
    if (!json_is_string(value)) {
        return err_set(opening->text, ERR_FORMAT, "tokenizer.json: an added token has no content");
    }
    const char *content = json_string_value(value);
    size_t bytes = json_string_length(value);
    if (bytes == 0) return ERR_OK;
    uint8_t flags;
    enum err e = read_added_flags(opening, token, content, &flags);
    if (e) return e;
    uint32_t id = tokenizer_find(tokenizer, content, bytes);
    if (id == TOKENIZER_NONE) {
        id = (*next_id)++;
        e = token_vocab_add(&tokenizer->vocab, id, content, bytes, 0);
    }
    struct token_normal_text pattern = {.text = (const uint8_t *) content, .bytes = bytes};
    if (!e && flags & TOKEN_ADDED_NORMALIZED) {
        e = normal_pattern(opening, scratch, content, bytes, &pattern);
    }
    if (!e) {
        e = token_added_add(&tokenizer->added, id, content, bytes, (const char *) pattern.text,
                            pattern.bytes, flags);
    }
    if (e == ERR_LIMIT || e == ERR_FORMAT) {
        return err_set(opening->text, e,
                       "tokenizer.json: added token '%.64s' is past a limit or has a taken id",
                       content);
    }
    return e ? err_set(opening->text, e, "no memory for the added tokens") : ERR_OK;
}

static enum err read_added(struct opening *opening, uint32_t next_id) {
    json_t *list = NULL;
    struct token_scratch *scratch = NULL;
    enum err e = load_part(opening, opening->top[TOP_ADDED], "added_tokens", &list);
    if (!e && list && !json_is_array(list) && !json_is_null(list)) {
        e = err_set(opening->text, ERR_FORMAT, "tokenizer.json: added_tokens is not a list");
    }
    if (!e) {
        e = token_scratch_create(opening->tokenizer, 0, &scratch);
        if (e) err_set(opening->text, e, "no memory for the added tokens");
    }
    for (size_t i = 0; !e && i < json_array_size(list); i++) {
        e = add_added(opening, json_array_get(list, i), scratch, &next_id);
    }
    token_scratch_destroy(scratch);
    json_decref(list);
    return e;
}

/* --- tokenizer_config.json ------------------------------------------------------------------ */

/* A token that is a string or an object with a content. */
static uint32_t config_token(const struct tokenizer *tokenizer, const json_t *config,
                             const char *key, uint32_t otherwise) {
    const json_t *value = json_object_get(config, key);
    if (json_is_object(value)) value = json_object_get(value, "content");
    if (!json_is_string(value)) return otherwise;
    return tokenizer_find(tokenizer, json_string_value(value), json_string_length(value));
}

static void set_bos(struct tokenizer *tokenizer, const json_t *adds) {
    bool has_bos = tokenizer->prefix_count && tokenizer->prefix[0] == tokenizer->bos_id;
    if (!json_is_boolean(adds) || tokenizer->bos_id == TOKENIZER_NONE ||
        json_is_true(adds) == has_bos) {
        return;
    }
    if (has_bos) {
        tokenizer->prefix_count--;
        memmove(tokenizer->prefix, tokenizer->prefix + 1,
                tokenizer->prefix_count * sizeof *tokenizer->prefix);
    } else if (tokenizer->prefix_count < TOKENIZER_AFFIX_MAX) {
        memmove(tokenizer->prefix + 1, tokenizer->prefix,
                tokenizer->prefix_count * sizeof *tokenizer->prefix);
        tokenizer->prefix[0] = tokenizer->bos_id;
        tokenizer->prefix_count++;
    }
}

static enum err read_config(struct opening *opening, const char *data, size_t bytes) {
    if (!data) return ERR_OK;
    struct tokenizer *tokenizer = opening->tokenizer;
    json_error_t error;
    /* No integer of it is read, and model_max_length is often past 64 bits. */
    json_t *config = json_loadb(data, bytes, JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &error);
    if (!json_is_object(config)) {
        json_decref(config);
        return err_set(opening->text, ERR_FORMAT, "tokenizer_config.json: %s (line %d)",
                       config ? "is not an object" : error.text, config ? 1 : error.line);
    }
    tokenizer->bos_id = config_token(tokenizer, config, "bos_token", TOKENIZER_NONE);
    tokenizer->eos_id = config_token(tokenizer, config, "eos_token", TOKENIZER_NONE);
    tokenizer->unk_id = config_token(tokenizer, config, "unk_token", tokenizer->unk_id);
    tokenizer->pad_id = config_token(tokenizer, config, "pad_token", TOKENIZER_NONE);
    set_bos(tokenizer, json_object_get(config, "add_bos_token"));
    bool has_eos = tokenizer->suffix_count &&
                   tokenizer->suffix[tokenizer->suffix_count - 1] == tokenizer->eos_id;
    if (json_is_true(json_object_get(config, "add_eos_token")) && !has_eos &&
        tokenizer->eos_id != TOKENIZER_NONE && tokenizer->suffix_count < TOKENIZER_AFFIX_MAX) {
        tokenizer->suffix[tokenizer->suffix_count++] = tokenizer->eos_id;
    }
    json_decref(config);
    return ERR_OK;
}

/* --- the whole ------------------------------------------------------------------------------ */

typedef enum err (*part_fn)(struct tokenizer *tokenizer, const json_t *json, struct err_text *text);

static enum err read_part(struct opening *opening, int top, part_fn part) {
    json_t *json = NULL;
    enum err e = load_part(opening, opening->top[top], top_keys[top], &json);
    if (!e) e = part(opening->tokenizer, json, opening->text);
    json_decref(json);
    return e;
}

static enum err check_decoder(struct opening *opening) {
    const struct tokenizer *tokenizer = opening->tokenizer;
    if (tokenizer->is_byte_level == (tokenizer->decoder == TOKENIZER_DECODE_BYTES)) return ERR_OK;
    return err_set(opening->text, ERR_UNSUPPORTED,
                   "tokenizer.json: decoder and pre_tokenizer disagree: only one is ByteLevel");
}

static enum err open_all(struct opening *opening, struct token_json *json) {
    enum err e = walk_top(opening, json);
    if (!e && !opening->top[TOP_MODEL].data) {
        e = err_set(opening->text, ERR_FORMAT, "tokenizer.json has no 'model'");
    }
    if (!e) e = check_model(opening);
    if (!e) e = read_part(opening, TOP_NORMALIZER, tokenizer_parts_normalizer);
    if (!e) e = read_part(opening, TOP_PRE, tokenizer_parts_pre_tokenizer);
    if (!e) e = read_part(opening, TOP_DECODER, tokenizer_parts_decoder);
    if (!e) e = check_decoder(opening);
    uint32_t entry_count = 0;
    if (!e) e = read_vocab(opening, &entry_count);
    if (!e) e = read_merges(opening);
    if (!e) e = read_unk(opening);
    if (!e) e = read_added(opening, entry_count);
    if (!e) e = read_part(opening, TOP_POST, tokenizer_parts_post_processor);
    return e;
}

enum err tokenizer_open_json(const char *json, size_t json_bytes, const char *config_json,
                             size_t config_bytes, struct err_text *text, struct tokenizer **out) {
    size_t valid = token_unicode_valid_bytes((const uint8_t *) json, json_bytes);
    if (valid < json_bytes) {
        return err_set(text, ERR_FORMAT, "tokenizer.json: no valid UTF-8 at byte %zu", valid);
    }
    struct tokenizer *tokenizer = alloc_zero(1, sizeof *tokenizer);
    if (!tokenizer) return err_set(text, ERR_MEMORY, "no memory for the tokenizer");
    tokenizer->bos_id = tokenizer->eos_id = TOKENIZER_NONE;
    tokenizer->unk_id = tokenizer->pad_id = TOKENIZER_NONE;
    struct opening opening = {.tokenizer = tokenizer, .text = text};
    struct token_json reader = {.text = json, .bytes = json_bytes};
    enum err e = open_all(&opening, &reader);
    if (!e) e = read_config(&opening, config_json, config_bytes);
    if (!e) e = tokenizer_finish(tokenizer, text);
    buf_release(&opening.unescaped[0]);
    buf_release(&opening.unescaped[1]);
    if (e) {
        tokenizer_close(tokenizer);
        return e;
    }
    *out = tokenizer;
    return ERR_OK;
}
