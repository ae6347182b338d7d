/* tokenizer_vocab - a tokenizer from the vocabulary of a GGUF file.
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
        (void) !token_vocab_merge(&tokenizer->vocab, merge->data, left_bytes, space + 1,
                                  merge->bytes - left_bytes - 1, rank);
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
