/* tokenizer_open_vocab - a tokenizer from the vocabulary of a GGUF file.
 *
 * The file names a model ("gpt2": byte-level BPE with merges; "llama": SentencePiece BPE with
 * scores) and, for the first, which family's split pattern belongs to it.  What the file does
 * not say (normalizer, ignore_merges) is what that family's tokenizer.json says, so that the ids
 * are those of the reference. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "token/token_scratch.h"
#include "token/tokenizer_inside.h"

enum token_type { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER, TYPE_UNUSED, TYPE_BYTE };

struct family {
    const char *pre;
    enum token_split_kind first; /* a split before the other, or TOKEN_SPLIT_NONE */
    enum token_split_kind split;
    bool ignore_merges;
    bool is_nfc;
};

static const struct family families[] = {
    {"gpt-2", TOKEN_SPLIT_NONE, TOKEN_SPLIT_GPT2, false, false},
    {"phi-2", TOKEN_SPLIT_NONE, TOKEN_SPLIT_GPT2, false, false},
    {"mpt", TOKEN_SPLIT_NONE, TOKEN_SPLIT_GPT2, false, true},
    {"olmo", TOKEN_SPLIT_NONE, TOKEN_SPLIT_GPT2, false, true},
    {"jais", TOKEN_SPLIT_NONE, TOKEN_SPLIT_GPT2, false, false},
    {"smollm", TOKEN_SPLIT_DIGIT, TOKEN_SPLIT_GPT2, false, false},
    {"starcoder", TOKEN_SPLIT_NUMBER, TOKEN_SPLIT_GPT2, false, false},
    {"refact", TOKEN_SPLIT_NUMBER, TOKEN_SPLIT_GPT2, false, false},
    {"command-r", TOKEN_SPLIT_NUMBER, TOKEN_SPLIT_GPT2, false, true},
    {"codeshell", TOKEN_SPLIT_NUMBER, TOKEN_SPLIT_GPT2, false, false},
    {"exaone", TOKEN_SPLIT_NUMBER, TOKEN_SPLIT_GPT2, false, false},
    {"minerva-7b", TOKEN_SPLIT_NUMBER, TOKEN_SPLIT_GPT2, false, false},
    {"llama3", TOKEN_SPLIT_NONE, TOKEN_SPLIT_LLAMA3, true, false},
    {"llama-v3", TOKEN_SPLIT_NONE, TOKEN_SPLIT_LLAMA3, true, false},
    {"llama-bpe", TOKEN_SPLIT_NONE, TOKEN_SPLIT_LLAMA3, true, false},
    {"falcon3", TOKEN_SPLIT_NONE, TOKEN_SPLIT_LLAMA3, true, false},
    {"falcon-h1", TOKEN_SPLIT_NONE, TOKEN_SPLIT_LLAMA3, true, false},
    {"dbrx", TOKEN_SPLIT_NONE, TOKEN_SPLIT_LLAMA3, false, false},
    {"smaug-bpe", TOKEN_SPLIT_NONE, TOKEN_SPLIT_LLAMA3, false, false},
    {"chatglm-bpe", TOKEN_SPLIT_NONE, TOKEN_SPLIT_LLAMA3, false, false},
    {"glm4", TOKEN_SPLIT_NONE, TOKEN_SPLIT_LLAMA3, false, false},
    {"qwen2", TOKEN_SPLIT_NONE, TOKEN_SPLIT_QWEN2, false, true},
    {"stablelm2", TOKEN_SPLIT_NONE, TOKEN_SPLIT_QWEN2, false, true},
    {"megrez", TOKEN_SPLIT_NONE, TOKEN_SPLIT_QWEN2, false, true},
    {"deepseek-r1-qwen", TOKEN_SPLIT_NONE, TOKEN_SPLIT_QWEN2, false, false},
    {"qwen35", TOKEN_SPLIT_NONE, TOKEN_SPLIT_QWEN35, false, true},
    {"gpt-4o", TOKEN_SPLIT_NONE, TOKEN_SPLIT_GPT4O, false, false},
    {"llama4", TOKEN_SPLIT_NONE, TOKEN_SPLIT_GPT4O, false, false},
    {"tekken", TOKEN_SPLIT_NONE, TOKEN_SPLIT_TEKKEN, true, false},
};

static bool is_named(const struct tokenizer_string *string, const char *name) {
    return string->bytes == strlen(name) && !memcmp(string->data, name, string->bytes);
}

static const struct family *family_of(const struct tokenizer_string *pre, struct err_text *text) {
    /* Files from before the key existed, and those that say so, are the GPT-2 pattern's. */
    if (pre->bytes == 0 || is_named(pre, "default")) return &families[0];
    for (size_t i = 0; i < ARRAY_COUNT(families); i++) {
        if (is_named(pre, families[i].pre)) return &families[i];
    }
    err_set(text, ERR_UNSUPPORTED,
            "tokenizer.ggml.pre '%.*s' is not supported; known are llama-bpe, qwen2, qwen35, "
            "smollm, deepseek-r1-qwen, gpt-2, gpt-4o, tekken, starcoder and their kin",
            (int) (pre->bytes < 64 ? pre->bytes : 64), pre->data);
    return NULL;
}

static int type_of(const struct tokenizer_vocab *vocab, uint32_t id) {
    return vocab->token_types ? vocab->token_types[id] : TYPE_NORMAL;
}

static enum err add_tokens(struct tokenizer *tokenizer, const struct tokenizer_vocab *vocab,
                           struct err_text *text) {
    for (uint32_t id = 0; id < vocab->token_count; id++) {
        const struct tokenizer_string *token = &vocab->tokens[id];
        int type = type_of(vocab, id);
        bool is_added = type == TYPE_CONTROL || type == TYPE_USER || type == TYPE_UNKNOWN;
        /* The reference's vocabularies of the llama model hold these tokens too. */
        bool is_model = !is_added || !tokenizer->is_byte_level;
        enum err e = token_vocab_add(&tokenizer->vocab, id, token->data, token->bytes,
                                     is_model ? TOKEN_VOCAB_MODEL : 0);
        if (!e && is_added) {
            e = token_added_add(&tokenizer->added, id, token->data, token->bytes, token->data,
                                token->bytes, type == TYPE_USER ? 0 : TOKEN_ADDED_SPECIAL);
        }
        if (e == ERR_LIMIT) {
            return err_set(text, e, "tokenizer.ggml.tokens: token %u of %zu bytes is past a limit",
                           id, token->bytes);
        }
        if (e) return err_set(text, e, "no memory for the vocabulary");
    }
    return ERR_OK;
}

/* Merges of which a part is no token can never apply and are passed over, as llama.cpp does. */
static enum err add_merges(struct tokenizer *tokenizer, const struct tokenizer_vocab *vocab,
                           struct err_text *text) {
    enum err e = token_vocab_reserve_merges(&tokenizer->vocab, vocab->merge_count);
    if (e) return err_set(text, e, "no room for %u merges", vocab->merge_count);
    for (uint32_t rank = 0; rank < vocab->merge_count; rank++) {
        const struct tokenizer_string *merge = &vocab->merges[rank];
        const char *space =
            merge->bytes > 2 ? memchr(merge->data + 1, ' ', merge->bytes - 1) : NULL;
        if (!space) {
            return err_set(text, ERR_FORMAT, "tokenizer.ggml.merges: merge %u is no pair", rank);
        }
        size_t left_bytes = (size_t) (space - merge->data);
        enum err merged = token_vocab_merge(&tokenizer->vocab, merge->data, left_bytes, space + 1,
                                            merge->bytes - left_bytes - 1, rank);
        if (merged && merged != ERR_NOT_FOUND) return err_set(text, merged, "no room for merges");
    }
    return ERR_OK;
}

static void add_split(struct tokenizer *tokenizer, enum token_split_kind split) {
    if (split == TOKEN_SPLIT_NONE) return;
    tokenizer->steps[tokenizer->step_count++] =
        (struct tokenizer_step){.kind = TOKENIZER_SPLIT, .split = split};
}

static enum err open_gpt2(struct tokenizer *tokenizer, const struct tokenizer_vocab *vocab,
                          struct err_text *text) {
    const struct family *family = family_of(&vocab->pre, text);
    if (!family) return ERR_UNSUPPORTED;
    tokenizer->is_byte_level = true;
    tokenizer->decoder = TOKENIZER_DECODE_BYTES;
    tokenizer->ignore_merges = family->ignore_merges;
    add_split(tokenizer, family->first);
    add_split(tokenizer, family->split);
    enum err e = token_vocab_init(&tokenizer->vocab, true, vocab->token_count);
    if (!e && family->is_nfc) e = tokenizer_add_normal(tokenizer, TOKENIZER_NFC, "", 0, "", 0);
    if (e) return err_set(text, e, "no room for a vocabulary of %u tokens", vocab->token_count);
    e = add_tokens(tokenizer, vocab, text);
    if (!e) e = add_merges(tokenizer, vocab, text);
    return e;
}

/* --- SentencePiece -------------------------------------------------------------------------- */

#define SPLIT_BYTES_MAX 4096 /* chosen: no word is longer; keeps a foreign token's splits few */

/* A way to make a token of two others. */
struct split {
    float score; /* of the whole */
    uint32_t left_chars, right_chars;
    uint32_t left, right, id;
};
struct splits {
    struct split *items; /* owned */
    size_t count, room;
};

/* The order of the reference's conversion: best score first, then the longer left part, then the
 * longer right one; ids decide the rest. */
static int compare_splits(const void *a, const void *b) {
    const struct split *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    if (x->left_chars != y->left_chars) return x->left_chars > y->left_chars ? -1 : 1;
    if (x->right_chars != y->right_chars) return x->right_chars > y->right_chars ? -1 : 1;
    if (x->id != y->id) return x->id < y->id ? -1 : 1;
    if (x->left != y->left) return x->left < y->left ? -1 : 1;
    return (x->right > y->right) - (x->right < y->right);
}

static enum err add_splits(struct splits *splits, const struct token_vocab *tokens, uint32_t id,
                           float score) {
    size_t bytes;
    const uint8_t *token = token_vocab_token(tokens, id, &bytes);
    if (bytes > SPLIT_BYTES_MAX) return ERR_OK;
    uint32_t chars = 0, left_chars = 0;
    for (size_t i = 0; i < bytes; i++) chars += (token[i] & 0xc0) != 0x80;
    for (size_t i = 1; i < bytes; i++) {
        if ((token[i] & 0xc0) == 0x80) continue;
        left_chars++;
        uint32_t left = token_vocab_find(tokens, token, i);
        if (left == TOKENIZER_NONE) continue;
        uint32_t right = token_vocab_find(tokens, token + i, bytes - i);
        if (right == TOKENIZER_NONE) continue;
        if (splits->count == splits->room) {
            size_t room = splits->room * 2 + 1024;
            struct split *items = alloc_resize(splits->items, room * sizeof *items);
            if (!items) return ERR_MEMORY;
            splits->items = items;
            splits->room = room;
        }
        splits->items[splits->count++] = (struct split){.score = score,
                                                        .left_chars = left_chars,
                                                        .right_chars = chars - left_chars,
                                                        .left = left,
                                                        .right = right,
                                                        .id = id};
    }
    return ERR_OK;
}

/* SentencePiece keeps scores and no merges: every pair of tokens that makes a token merges, the
 * better score first. */
static enum err merge_by_score(struct tokenizer *tokenizer, const struct tokenizer_vocab *vocab,
                               struct err_text *text) {
    struct splits splits = {0};
    enum err e = ERR_OK;
    for (uint32_t id = 0; !e && id < vocab->token_count; id++) {
        int type = type_of(vocab, id);
        if (type != TYPE_NORMAL && type != TYPE_USER) continue;
        e = add_splits(&splits, &tokenizer->vocab, id, vocab->scores[id]);
    }
    if (!e && splits.count > UINT32_MAX / 2) e = ERR_LIMIT;
    if (!e) e = token_vocab_reserve_merges(&tokenizer->vocab, (uint32_t) splits.count);
    if (!e && splits.count) {
        qsort(splits.items, splits.count, sizeof *splits.items, compare_splits);
    }
    for (size_t i = 0; !e && i < splits.count; i++) {
        const struct split *split = &splits.items[i];
        e = token_vocab_set_merge(&tokenizer->vocab, split->left, split->right, (uint32_t) i,
                                  split->id);
    }
    alloc_free(splits.items);
    return e ? err_set(text, e, "no room for the merges of the vocabulary") : ERR_OK;
}

static enum err open_llama(struct tokenizer *tokenizer, const struct tokenizer_vocab *vocab,
                           struct err_text *text) {
    if (!vocab->scores) {
        return err_set(text, ERR_FORMAT,
                       "tokenizer.ggml.scores is missing, which a vocabulary of "
                       "the llama model needs");
    }
    tokenizer->is_byte_fallback = true;
    tokenizer->is_unk_fused = true;
    tokenizer->unk_symbol = vocab->unk_id;
    tokenizer->decoder = TOKENIZER_DECODE_SEQUENCE;
    tokenizer->is_fallback_decoded = true;
    memcpy(tokenizer->decode_mark, TOKENIZER_MARK, 3);
    tokenizer->decode_mark_bytes = 3;
    tokenizer->strip_left = vocab->add_space_prefix;
    enum err e = token_vocab_init(&tokenizer->vocab, false, vocab->token_count);
    if (!e && vocab->add_space_prefix) {
        e = tokenizer_add_normal(tokenizer, TOKENIZER_PREPEND, "", 0, TOKENIZER_MARK, 3);
    }
    if (!e) e = tokenizer_add_normal(tokenizer, TOKENIZER_REPLACE, " ", 1, TOKENIZER_MARK, 3);
    if (e) return err_set(text, e, "no room for a vocabulary of %u tokens", vocab->token_count);
    e = add_tokens(tokenizer, vocab, text);
    if (!e) e = merge_by_score(tokenizer, vocab, text);
    return e;
}

static enum err check_ids(const struct tokenizer_vocab *vocab, struct err_text *text) {
    const struct {
        const char *key;
        uint32_t id;
    } ids[] = {{"bos", vocab->bos_id},
               {"eos", vocab->eos_id},
               {"unknown", vocab->unk_id},
               {"padding", vocab->pad_id}};
    for (size_t i = 0; i < ARRAY_COUNT(ids); i++) {
        if (ids[i].id != TOKENIZER_NONE && ids[i].id >= vocab->token_count) {
            return err_set(text, ERR_FORMAT,
                           "tokenizer.ggml.%s_token_id %u is outside a vocabulary of %u tokens",
                           ids[i].key, ids[i].id, vocab->token_count);
        }
    }
    return ERR_OK;
}

enum err tokenizer_open_vocab(const struct tokenizer_vocab *vocab, struct err_text *text,
                              struct tokenizer **out) {
    if (vocab->token_count == 0 || vocab->token_count > TOKEN_VOCAB_IDS_MAX) {
        return err_set(text, ERR_FORMAT, "tokenizer.ggml.tokens has %u tokens", vocab->token_count);
    }
    enum err e = check_ids(vocab, text);
    if (e) return e;
    struct tokenizer *tokenizer = alloc_zero(1, sizeof *tokenizer);
    if (!tokenizer) return err_set(text, ERR_MEMORY, "no memory for the tokenizer");
    tokenizer->bos_id = vocab->bos_id;
    tokenizer->eos_id = vocab->eos_id;
    tokenizer->unk_id = vocab->unk_id;
    tokenizer->pad_id = vocab->pad_id;
    tokenizer->unk_symbol = TOKENIZER_NONE;
    if (vocab->add_bos && vocab->bos_id != TOKENIZER_NONE) {
        tokenizer->prefix[tokenizer->prefix_count++] = vocab->bos_id;
    }
    if (vocab->add_eos && vocab->eos_id != TOKENIZER_NONE) {
        tokenizer->suffix[tokenizer->suffix_count++] = vocab->eos_id;
    }
    if (is_named(&vocab->model, "gpt2")) {
        e = open_gpt2(tokenizer, vocab, text);
    } else if (is_named(&vocab->model, "llama")) {
        e = open_llama(tokenizer, vocab, text);
    } else {
        e = err_set(text, ERR_UNSUPPORTED,
                    "tokenizer.ggml.model '%.*s' is not supported; known are gpt2 and llama",
                    (int) (vocab->model.bytes < 64 ? vocab->model.bytes : 64), vocab->model.data);
    }
    if (!e) e = tokenizer_finish(tokenizer, text);
    if (e) {
        tokenizer_close(tokenizer);
        return e;
    }
    *out = tokenizer;
    return ERR_OK;
}
