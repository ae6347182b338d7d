/* cmd_sampling - see cmd_sampling.h. */
#include "cmd/cmd_sampling.h"

#include <stdlib.h>
#include <string.h>

#include "api/bad_words.h"
#include "base/alloc.h"
#include "cmd/cmd_ids.h"

struct reader {
    const struct options *options;
    const struct cmd_session *session;
    struct arena *arena;
    struct err_text *text;
    struct sampling *sampling;
};

static enum err no_memory(const struct reader *reader) {
    return err_set(reader->text, ERR_MEMORY, "out of memory");
}

/* The ids of one flag, with room for `more` behind them. */
static enum err read_ids(const struct reader *reader, enum option_id id, uint32_t more,
                         uint32_t **out, uint32_t *count_out) {
    const char *list = options_text(reader->options, id), *flag = option_get(id)->name;
    uint32_t *ids = NULL, count = 0;
    enum err e = cmd_ids_parse(flag, list, model_get_spec(reader->session->model)->vocab_size,
                               reader->text, &ids, &count);
    if (e) return e;
    uint32_t *kept = arena_take(reader->arena, ((size_t) count + more) * sizeof *kept);
    if (!count) e = err_set(reader->text, ERR_USAGE, "--%s: a token id is wanted", flag);
    else if (!kept) e = no_memory(reader);
    else memcpy(kept, ids, count * sizeof *ids);
    alloc_free(ids);
    if (e) return e;
    *out = kept;
    *count_out = count;
    return ERR_OK;
}

/* The request's own, then the model's (struct sampling). */
static enum err read_stop_ids(const struct reader *reader) {
    if (!options_text(reader->options, OPT_STOP_TOKEN_IDS)) return ERR_OK;
    struct sampling *sampling = reader->sampling;
    uint32_t *ids, count;
    enum err e = read_ids(reader, OPT_STOP_TOKEN_IDS, sampling->stop_id_count, &ids, &count);
    if (e) return e;
    if (count + sampling->stop_id_count > SAMPLING_STOP_IDS_MAX)
        return err_set(reader->text, ERR_USAGE, "--stop-token-ids: at most %u ids",
                       SAMPLING_STOP_IDS_MAX - sampling->stop_id_count);
    if (sampling->stop_id_count)
        memcpy(ids + count, sampling->stop_ids, sampling->stop_id_count * sizeof *ids);
    sampling->stop_ids = ids;
    sampling->stop_id_count += count;
    return ERR_OK;
}

static enum err read_allowed(const struct reader *reader) {
    if (!options_text(reader->options, OPT_ALLOWED_TOKEN_IDS)) return ERR_OK;
    uint32_t *ids, count;
    enum err e = read_ids(reader, OPT_ALLOWED_TOKEN_IDS, 0, &ids, &count);
    if (e) return e;
    reader->sampling->allowed_ids = ids;
    reader->sampling->allowed_id_count = count;
    return ERR_OK;
}

/* "ID=BIAS" */
static enum err read_bias(const struct reader *reader, const char *written,
                          struct sampling_bias *out) {
    const char *equals = strchr(written, '=');
    char *id_end, *bias_end;
    unsigned long long id = strtoull(written, &id_end, 10);
    double bias = equals ? strtod(equals + 1, &bias_end) : 0;
    if (!equals || id_end != equals || id_end == written || bias_end == equals + 1 || *bias_end ||
        written[0] == '-' || !(bias >= -100 && bias <= 100) ||
        id >= model_get_spec(reader->session->model)->vocab_size)
        return err_set(reader->text, ERR_USAGE,
                       "--logit-bias: '%s' is not ID=BIAS, an id below %u and -100 to 100", written,
                       model_get_spec(reader->session->model)->vocab_size);
    *out = (struct sampling_bias){(uint32_t) id, (float) bias};
    return ERR_OK;
}

static enum err read_biases(const struct reader *reader) {
    uint32_t count = options_list_count(reader->options, OPT_LOGIT_BIAS);
    if (!count) return ERR_OK;
    if (count > SAMPLING_LOGIT_BIAS_MAX)
        return err_set(reader->text, ERR_USAGE, "--logit-bias: at most %d",
                       SAMPLING_LOGIT_BIAS_MAX);
    struct sampling_bias *biases = arena_take(reader->arena, count * sizeof *biases);
    if (!biases) return no_memory(reader);
    for (uint32_t i = 0; i < count; i++) {
        enum err e =
            read_bias(reader, options_list_item(reader->options, OPT_LOGIT_BIAS, i), &biases[i]);
        if (e) return e;
    }
    reader->sampling->logit_bias = biases;
    reader->sampling->logit_bias_count = count;
    return ERR_OK;
}

static enum err read_bad_words(const struct reader *reader) {
    uint32_t count = options_list_count(reader->options, OPT_BAD_WORDS);
    if (!count) return ERR_OK;
    if (count > BAD_WORDS_WRITTEN_MAX)
        return err_set(reader->text, ERR_USAGE, "--bad-words: at most %d", BAD_WORDS_WRITTEN_MAX);
    struct bad_words *words = arena_take_zero(reader->arena, 1, sizeof *words);
    if (!words) return no_memory(reader);
    enum err e = ERR_OK;
    for (uint32_t i = 0; i < count && !e; i++) {
        const char *word = options_list_item(reader->options, OPT_BAD_WORDS, i);
        struct err_text why = {0};
        e = *word ? bad_words_add(words, reader->session->tokenizer, reader->session->scratch, word,
                                  strlen(word), &why)
                  : err_set(&why, ERR_USAGE, "an empty word is none");
        if (e) e = err_set(reader->text, e, "--bad-words: %s", why.text);
    }
    bool has_any = !e && words->count; /* a word of spaces alone is none */
    uint32_t *ids = has_any ? arena_take(reader->arena, words->ids.count * sizeof *ids) : NULL;
    if (has_any && !ids) e = no_memory(reader);
    if (has_any && !e) {
        memcpy(ids, words->ids.ids, words->ids.count * sizeof *ids);
        reader->sampling->bad_word_ids = ids;
        reader->sampling->bad_word_lengths = words->lengths;
        reader->sampling->bad_word_count = words->count;
    }
    bad_words_release(words);
    return e;
}

enum err cmd_sampling_read_lists(const struct options *options, const struct cmd_session *session,
                                 struct arena *arena, struct err_text *text,
                                 struct sampling *sampling) {
    struct reader reader = {options, session, arena, text, sampling};
    enum err e = read_stop_ids(&reader);
    if (!e) e = read_allowed(&reader);
    if (!e) e = read_biases(&reader);
    if (!e) e = read_bad_words(&reader);
    return e;
}
