/* model_open_tokenizer - the tokenizer that stands beside a model's weights. */
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"
#include "model/model_gguf.h"
#include "model/model_hf.h"
#include "model/model_parts.h"
#include "model/model_resolve.h"
#include "model/model_stand_in.h"

#define TOKENIZER_BYTES_MAX ((size_t) 256 << 20) /* the largest published one has 33 MB */

/* --- out of a GGUF ------------------------------------------------------------------------ */

static enum err wrong_key(const struct gguf_set *set, const char *key, const char *expected,
                          struct err_text *text) {
    return err_set(text, ERR_FORMAT, "%s: key %s: expected %s", set->parts[0].file.path, key,
                   expected);
}

/* An array of strings as pointers; absent: *out NULL, *count 0. */
static enum err read_strings(const struct gguf_set *set, const char *name, struct err_text *text,
                             struct tokenizer_string **out, uint32_t *count) {
    const struct gguf_key *key = gguf_find(gguf_set_keys(set), name);
    if (!key) return ERR_OK;
    if (key->type != GGUF_ARRAY || key->element_type != GGUF_STRING || key->count > UINT32_MAX)
        return wrong_key(set, name, "an array of strings", text);
    struct tokenizer_string *strings = alloc_array(key->count, sizeof *strings);
    if (!strings) return err_set(text, ERR_MEMORY, "no memory for %s", name);
    uint64_t at = 0;
    for (uint64_t i = 0; i < key->count; i++)
        gguf_array_string(key, &at, &strings[i].data, &strings[i].bytes);
    *out = strings;
    *count = (uint32_t) key->count;
    return ERR_OK;
}

/* token_count numbers; absent: ERR_OK and *out NULL. */
static enum err find_numbers(const struct gguf_set *set, const char *name, uint32_t token_count,
                             struct err_text *text, const struct gguf_key **out) {
    const struct gguf_key *key = gguf_find(gguf_set_keys(set), name);
    *out = key;
    if (!key) return ERR_OK;
    if (key->type != GGUF_ARRAY || key->element_type == GGUF_STRING || key->count != token_count)
        return wrong_key(set, name, "one number for each token", text);
    return ERR_OK;
}

static bool is_text(struct tokenizer_string string, const char *text) {
    return string.bytes == strlen(text) && memcmp(string.data, text, string.bytes) == 0;
}

static uint32_t read_id(const struct gguf *gguf, const char *name) {
    uint32_t id;
    return gguf_get_u32(gguf, name, &id) ? id : TOKENIZER_NONE;
}

/* What an absent flag means: as llama.cpp takes it. */
static void read_flags(const struct gguf *gguf, struct tokenizer_vocab *vocab) {
    bool is_sentencepiece = is_text(vocab->model, "llama");
    vocab->add_bos = is_sentencepiece || is_text(vocab->pre, "llama-bpe") ||
                     is_text(vocab->pre, "llama3") || is_text(vocab->pre, "llama-v3");
    vocab->add_space_prefix = is_sentencepiece;
    bool flag;
    if (gguf_get_bool(gguf, "tokenizer.ggml.add_bos_token", &flag)) vocab->add_bos = flag;
    if (gguf_get_bool(gguf, "tokenizer.ggml.add_eos_token", &flag)) vocab->add_eos = flag;
    if (gguf_get_bool(gguf, "tokenizer.ggml.add_space_prefix", &flag))
        vocab->add_space_prefix = flag;
}

static enum err open_gguf(const struct gguf_set *set, struct err_text *text,
                          struct tokenizer **out) {
    const struct gguf *gguf = gguf_set_keys(set);
    struct tokenizer_vocab vocab = {0};
    struct tokenizer_string *tokens = NULL, *merges = NULL;
    float *scores = NULL;
    int32_t *types = NULL;
    const struct gguf_key *score_key, *type_key;
    if (!gguf_get_string(gguf, "tokenizer.ggml.model", &vocab.model.data, &vocab.model.bytes))
        return err_set(text, ERR_NOT_FOUND,
                       "%s: no tokenizer in it: key tokenizer.ggml.model is absent",
                       set->parts[0].file.path);
    if (!gguf_get_string(gguf, "tokenizer.ggml.pre", &vocab.pre.data, &vocab.pre.bytes))
        vocab.pre = (struct tokenizer_string){"", 0};
    enum err e = read_strings(set, "tokenizer.ggml.tokens", text, &tokens, &vocab.token_count);
    if (!e && !tokens) e = wrong_key(set, "tokenizer.ggml.tokens", "an array of strings", text);
    if (!e) e = read_strings(set, "tokenizer.ggml.merges", text, &merges, &vocab.merge_count);
    if (!e) e = find_numbers(set, "tokenizer.ggml.scores", vocab.token_count, text, &score_key);
    if (!e) e = find_numbers(set, "tokenizer.ggml.token_type", vocab.token_count, text, &type_key);
    if (e) goto out;
    if (score_key) scores = alloc_array(vocab.token_count, sizeof *scores);
    if (type_key) types = alloc_array(vocab.token_count, sizeof *types);
    if ((score_key && !scores) || (type_key && !types)) {
        e = err_set(text, ERR_MEMORY, "no memory for a vocabulary of %u", vocab.token_count);
        goto out;
    }
    for (uint32_t i = 0; i < vocab.token_count; i++) {
        if (scores) scores[i] = (float) gguf_array_number(score_key, i);
        double type = types ? gguf_array_number(type_key, i) : 0;
        if (types) types[i] = type >= 0 && type <= 100 ? (int32_t) type : 0;
    }
    vocab.tokens = tokens;
    vocab.merges = merges;
    vocab.scores = scores;
    vocab.token_types = types;
    vocab.bos_id = read_id(gguf, "tokenizer.ggml.bos_token_id");
    vocab.eos_id = read_id(gguf, "tokenizer.ggml.eos_token_id");
    vocab.unk_id = read_id(gguf, "tokenizer.ggml.unknown_token_id");
    vocab.pad_id = read_id(gguf, "tokenizer.ggml.padding_token_id");
    read_flags(gguf, &vocab);
    e = tokenizer_open_vocab(&vocab, text, out);
    if (e) err_prefix(text, "%s", set->parts[0].file.path);
out:
    alloc_free(tokens);
    alloc_free(merges);
    alloc_free(scores);
    alloc_free(types);
    return e;
}

/* --- out of a folder ---------------------------------------------------------------------- */

/* *out is NULL when the file is not there. */
static enum err read_file(const char *directory, const char *name, struct err_text *text,
                          char **out, size_t *bytes) {
    char path[MODEL_PATH_BYTES];
    if (!model_resolve_join(path, directory, name))
        return err_set(text, ERR_LIMIT, "%.200s...: the path is too long", directory);
    enum err e = model_file_read(path, TOKENIZER_BYTES_MAX, text, out, bytes);
    return e == ERR_NOT_FOUND ? ERR_OK : e;
}

static enum err open_directory(const char *directory, struct err_text *text,
                               struct tokenizer **out) {
    char *json = NULL, *config = NULL;
    size_t json_bytes = 0, config_bytes = 0;
    enum err e = read_file(directory, "tokenizer.json", text, &json, &json_bytes);
    if (!e && !json)
        e = err_set(text, ERR_NOT_FOUND,
                    "%s: no tokenizer: looked for tokenizer.json (tokenizer.model and vocab.json "
                    "are not read)",
                    directory);
    if (!e) e = read_file(directory, "tokenizer_config.json", text, &config, &config_bytes);
    if (!e) {
        e = tokenizer_open_json(json, json_bytes, config, config_bytes, text, out);
        if (e) err_prefix(text, "%s/tokenizer.json", directory);
    }
    alloc_free(json);
    alloc_free(config);
    return e;
}

enum err model_open_tokenizer(const struct model *model, struct err_text *text,
                              struct tokenizer **out) {
    if (model->gguf.part_count) return open_gguf(&model->gguf, text, out);
    if (model->directory) return open_directory(model->directory, text, out);
    return model_stand_in_tokenizer(&model->spec, text, out);
}

enum err model_open_tokenizer_only(const char *path_or_name, struct err_text *text,
                                   struct tokenizer **out, char **template_out) {
    struct model_source source;
    struct gguf_set set = {0};
    char *template = NULL, *specials[SPECIAL_COUNT] = {NULL};
    struct tokenizer *tokenizer = NULL;
    enum err e = model_resolve(path_or_name, text, &source);
    if (e) return e;
    if (source.kind == MODEL_SOURCE_GGUF) {
        e = gguf_set_open(source.path, text, &set);
        if (!e) e = open_gguf(&set, text, &tokenizer);
        if (!e && template_out) e = model_gguf_texts(&set, text, &template, specials);
        gguf_set_close(&set);
    } else {
        e = open_directory(source.path, text, &tokenizer);
        if (!e && template_out) e = model_hf_texts(source.path, text, &template, specials);
    }
    for (int i = 0; i < SPECIAL_COUNT; i++) alloc_free(specials[i]);
    if (e) {
        alloc_free(template);
        if (tokenizer) tokenizer_close(tokenizer);
        return e;
    }
    if (template_out) *template_out = template;
    *out = tokenizer;
    return ERR_OK;
}
