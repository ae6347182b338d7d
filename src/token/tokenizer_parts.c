/* tokenizer_parts - see the header. */
#include "token/tokenizer_parts.h"

#include <string.h>

#include "token/token_unicode.h"

#define DEPTH_MAX 8 /* of Sequences in Sequences; chosen, 1 is the most seen */

/* --- reading members ------------------------------------------------------------------------ */

static enum err no_memory(struct err_text *text) {
    return err_set(text, ERR_MEMORY, "no memory for the tokenizer");
}

static const char *type_of(const json_t *json) {
    const char *type = json_string_value(json_object_get(json, "type"));
    return type ? type : "";
}

static bool is_type(const json_t *json, const char *type) { return !strcmp(type_of(json), type); }

/* Every key of the object must be one of `known` (names between spaces) or "type". */
static enum err check_keys(const json_t *json, const char *part, const char *known,
                           struct err_text *text) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *) json, key, value) {
        size_t bytes = strlen(key);
        bool is_known = !strcmp(key, "type");
        for (const char *at = known; bytes && !is_known && (at = strstr(at, key)); at++) {
            is_known = (at == known || at[-1] == ' ') && (at[bytes] == ' ' || at[bytes] == 0);
        }
        if (!is_known) {
            return err_set(text, ERR_UNSUPPORTED, "tokenizer.json: %s %s has the unknown key '%s'",
                           part, type_of(json), key);
        }
    }
    return ERR_OK;
}

static enum err wrong(const char *part, const json_t *json, const char *key, const char *what,
                      struct err_text *text) {
    return err_set(text, ERR_FORMAT, "tokenizer.json: %s %s: '%s' is not %s", part, type_of(json),
                   key, what);
}

static enum err unsupported(const char *part, const json_t *json, const char *what,
                            struct err_text *text) {
    return err_set(text, ERR_UNSUPPORTED, "tokenizer.json: %s '%s'%s%s is not supported", part,
                   type_of(json), *what ? " with " : "", what);
}

/* A boolean that may be absent. */
static enum err read_bool(const json_t *json, const char *part, const char *key, bool otherwise,
                          bool *out, struct err_text *text) {
    const json_t *value = json_object_get(json, key);
    if (value && !json_is_boolean(value) && !json_is_null(value)) {
        return wrong(part, json, key, "true or false", text);
    }
    *out = value && !json_is_null(value) ? json_is_true(value) : otherwise;
    return ERR_OK;
}

/* {"String": s} or {"Regex": s} */
static const json_t *read_pattern(const json_t *json, bool *is_regex) {
    const json_t *pattern = json_object_get(json, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex");
    *is_regex = regex != NULL;
    const json_t *value = regex ? regex : json_object_get(pattern, "String");
    return json_is_string(value) ? value : NULL;
}

/* --- normalizer ----------------------------------------------------------------------------- */

static enum err add_replace(struct tokenizer *tokenizer, const json_t *json,
                            struct err_text *text) {
    bool is_regex;
    const json_t *from = read_pattern(json, &is_regex);
    const json_t *to = json_object_get(json, "content");
    if (!from) return wrong("normalizer", json, "pattern", "a String or a Regex", text);
    if (!json_is_string(to)) return wrong("normalizer", json, "content", "a string", text);
    if (is_regex || json_string_length(from) == 0) {
        return unsupported("normalizer", json, is_regex ? "a Regex" : "an empty pattern", text);
    }
    enum err e = tokenizer_add_normal(tokenizer, TOKENIZER_REPLACE, json_string_value(from),
                                      json_string_length(from), json_string_value(to),
                                      json_string_length(to));
    return e == ERR_MEMORY ? no_memory(text) : e;
}

static enum err add_normalizer(struct tokenizer *tokenizer, const json_t *json, int depth,
                               struct err_text *text) {
    if (!json_is_object(json)) return wrong("normalizer", json, "", "an object", text);
    enum err e;
    if (tokenizer->normal_count == TOKENIZER_STEPS_MAX || depth > DEPTH_MAX) {
        return err_set(text, ERR_LIMIT, "tokenizer.json: normalizer has more than %d steps",
                       TOKENIZER_STEPS_MAX);
    }
    if (is_type(json, "NFC")) {
        e = check_keys(json, "normalizer", "", text);
        if (e) return e;
        e = tokenizer_add_normal(tokenizer, TOKENIZER_NFC, "", 0, "", 0);
        return e ? no_memory(text) : ERR_OK;
    }
    if (is_type(json, "Prepend")) {
        e = check_keys(json, "normalizer", "prepend", text);
        if (e) return e;
        const json_t *prepend = json_object_get(json, "prepend");
        if (!json_is_string(prepend)) return wrong("normalizer", json, "prepend", "a string", text);
        e = tokenizer_add_normal(tokenizer, TOKENIZER_PREPEND, "", 0, json_string_value(prepend),
                                 json_string_length(prepend));
        return e ? no_memory(text) : ERR_OK;
    }
    if (is_type(json, "Replace")) {
        e = check_keys(json, "normalizer", "pattern content", text);
        return e ? e : add_replace(tokenizer, json, text);
    }
    if (is_type(json, "Sequence")) {
        e = check_keys(json, "normalizer", "normalizers", text);
        const json_t *list = json_object_get(json, "normalizers");
        if (!e && !json_is_array(list))
            e = wrong("normalizer", json, "normalizers", "a list", text);
        for (size_t i = 0; !e && i < json_array_size(list); i++) {
            e = add_normalizer(tokenizer, json_array_get(list, i), depth + 1, text);
        }
        return e;
    }
    return unsupported("normalizer", json, "", text);
}

enum err tokenizer_parts_normalizer(struct tokenizer *tokenizer, const json_t *json,
                                    struct err_text *text) {
    if (!json || json_is_null(json)) return ERR_OK;
    return add_normalizer(tokenizer, json, 0, text);
}

/* --- pre_tokenizer -------------------------------------------------------------------------- */

static enum err add_step(struct tokenizer *tokenizer, struct tokenizer_step step,
                         struct err_text *text) {
    uint32_t copy_count = 0;
    for (uint32_t i = 0; i < tokenizer->step_count; i++) {
        enum tokenizer_step_kind kind = tokenizer->steps[i].kind;
        copy_count += kind == TOKENIZER_PREFIX_SPACE || kind == TOKENIZER_METASPACE;
    }
    if (step.kind == TOKENIZER_PREFIX_SPACE || step.kind == TOKENIZER_METASPACE) {
        step.buffer = copy_count++; /* a scratch has two such buffers */
    }
    if (tokenizer->step_count == TOKENIZER_STEPS_MAX || copy_count > 2) {
        token_regex_destroy(step.regex);
        return err_set(text, ERR_LIMIT, "tokenizer.json: pre_tokenizer has too many steps");
    }
    tokenizer->steps[tokenizer->step_count++] = step;
    return ERR_OK;
}

static enum err add_byte_level(struct tokenizer *tokenizer, const json_t *json,
                               struct err_text *text) {
    bool adds_space = true, uses_regex = true;
    enum err e = check_keys(json, "pre_tokenizer", "add_prefix_space trim_offsets use_regex", text);
    if (!e) {
        e = read_bool(json, "pre_tokenizer", "add_prefix_space", true, &adds_space, text);
    }
    if (!e) e = read_bool(json, "pre_tokenizer", "use_regex", true, &uses_regex, text);
    if (!e && adds_space) {
        e = add_step(tokenizer, (struct tokenizer_step){.kind = TOKENIZER_PREFIX_SPACE}, text);
    }
    if (!e && uses_regex) {
        e = add_step(tokenizer,
                     (struct tokenizer_step){.kind = TOKENIZER_SPLIT, .split = TOKEN_SPLIT_GPT2},
                     text);
    }
    tokenizer->is_byte_level = true;
    return e;
}

static bool read_behavior(const json_t *json, enum tokenizer_behavior *out) {
    static const char *const names[] = {
        [TOKENIZER_ISOLATED] = "Isolated",
        [TOKENIZER_REMOVED] = "Removed",
        [TOKENIZER_CONTIGUOUS] = "Contiguous",
        [TOKENIZER_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
        [TOKENIZER_MERGED_WITH_NEXT] = "MergedWithNext",
    };
    const char *name = json_string_value(json_object_get(json, "behavior"));
    for (size_t i = 0; name && i < ARRAY_COUNT(names); i++) {
        if (!strcmp(name, names[i])) {
            *out = (enum tokenizer_behavior) i;
            return true;
        }
    }
    return false;
}

static enum err add_split(struct tokenizer *tokenizer, const json_t *json, struct err_text *text) {
    enum err e = check_keys(json, "pre_tokenizer", "pattern behavior invert", text);
    struct tokenizer_step step = {.kind = TOKENIZER_MATCH};
    if (!e) e = read_bool(json, "pre_tokenizer", "invert", false, &step.is_inverted, text);
    if (e) return e;
    bool is_regex;
    const json_t *pattern = read_pattern(json, &is_regex);
    if (!pattern) return wrong("pre_tokenizer", json, "pattern", "a String or a Regex", text);
    if (!read_behavior(json, &step.behavior)) {
        return wrong("pre_tokenizer", json, "behavior", "a behavior that is known", text);
    }
    const char *source = json_string_value(pattern);
    size_t bytes = json_string_length(pattern);
    enum token_split_kind kind = is_regex ? token_split_known(source, bytes) : TOKEN_SPLIT_NONE;
    /* The known patterns match everywhere, so keeping the matches alone is the same. */
    bool keeps_all = step.behavior == TOKENIZER_ISOLATED ||
                     (step.behavior == TOKENIZER_REMOVED && step.is_inverted &&
                      kind != TOKEN_SPLIT_GPT2 && kind != TOKEN_SPLIT_NUMBER);
    if (kind != TOKEN_SPLIT_NONE && keeps_all) {
        step.kind = TOKENIZER_SPLIT;
        step.split = kind;
        return add_step(tokenizer, step, text);
    }
    if (!is_regex && bytes == 0) return unsupported("pre_tokenizer", json, "an empty String", text);
    e = token_regex_create(source, bytes, !is_regex, text, &step.regex);
    if (e) {
        err_prefix(text, "tokenizer.json: pre_tokenizer Split");
        return e;
    }
    return add_step(tokenizer, step, text);
}

static enum err read_replacement(const json_t *json, const char *part, char *out,
                                 uint32_t *out_bytes, struct err_text *text) {
    const json_t *value = json_object_get(json, "replacement");
    size_t bytes = json_string_length(value);
    uint32_t length = 0;
    if (bytes) (void) token_unicode_decode((const uint8_t *) json_string_value(value), &length);
    if (!bytes || length != bytes) return wrong(part, json, "replacement", "one character", text);
    memcpy(out, json_string_value(value), bytes);
    *out_bytes = (uint32_t) bytes;
    return ERR_OK;
}

static enum err read_prepend(const json_t *json, const char *part, enum tokenizer_prepend *out,
                             struct err_text *text) {
    const json_t *scheme = json_object_get(json, "prepend_scheme");
    const char *name = scheme ? json_string_value(scheme) : "always";
    if (name && !strcmp(name, "always")) {
        *out = TOKENIZER_ALWAYS;
    } else if (name && !strcmp(name, "first")) {
        *out = TOKENIZER_FIRST;
    } else if (name && !strcmp(name, "never")) {
        *out = TOKENIZER_NEVER;
    } else {
        return wrong(part, json, "prepend_scheme", "always, first or never", text);
    }
    bool adds_space = true;
    enum err e = read_bool(json, part, "add_prefix_space", true, &adds_space, text);
    if (e || adds_space) return e;
    if (scheme && *out != TOKENIZER_NEVER) {
        return wrong(part, json, "add_prefix_space", "what prepend_scheme says", text);
    }
    *out = TOKENIZER_NEVER;
    return ERR_OK;
}

#define METASPACE_KEYS "replacement prepend_scheme add_prefix_space split str_rep"

static enum err add_metaspace(struct tokenizer *tokenizer, const json_t *json,
                              struct err_text *text) {
    struct tokenizer_step step = {.kind = TOKENIZER_METASPACE};
    enum err e = check_keys(json, "pre_tokenizer", METASPACE_KEYS, text);
    if (!e) {
        e = read_replacement(json, "pre_tokenizer", step.replacement, &step.replacement_bytes,
                             text);
    }
    if (!e) e = read_prepend(json, "pre_tokenizer", &step.prepend, text);
    if (!e) e = read_bool(json, "pre_tokenizer", "split", true, &step.is_split, text);
    return e ? e : add_step(tokenizer, step, text);
}

static enum err add_pre_tokenizer(struct tokenizer *tokenizer, const json_t *json, int depth,
                                  struct err_text *text) {
    if (!json_is_object(json)) return wrong("pre_tokenizer", json, "", "an object", text);
    if (depth > DEPTH_MAX) {
        return err_set(text, ERR_LIMIT, "tokenizer.json: pre_tokenizer is nested too deep");
    }
    if (tokenizer->is_byte_level) { /* it makes other characters of the text */
        return unsupported("pre_tokenizer", json, "a ByteLevel before it", text);
    }
    if (is_type(json, "ByteLevel")) return add_byte_level(tokenizer, json, text);
    if (is_type(json, "Split")) return add_split(tokenizer, json, text);
    if (is_type(json, "Metaspace")) return add_metaspace(tokenizer, json, text);
    if (is_type(json, "Digits")) {
        bool is_each = false;
        enum err e = check_keys(json, "pre_tokenizer", "individual_digits", text);
        if (!e) e = read_bool(json, "pre_tokenizer", "individual_digits", false, &is_each, text);
        if (e) return e;
        struct tokenizer_step step = {.kind = TOKENIZER_SPLIT,
                                      .split = is_each ? TOKEN_SPLIT_DIGIT : TOKEN_SPLIT_DIGIT_RUN};
        return add_step(tokenizer, step, text);
    }
    if (is_type(json, "Sequence")) {
        enum err e = check_keys(json, "pre_tokenizer", "pretokenizers", text);
        const json_t *list = json_object_get(json, "pretokenizers");
        if (!e && !json_is_array(list)) {
            e = wrong("pre_tokenizer", json, "pretokenizers", "a list", text);
        }
        for (size_t i = 0; !e && i < json_array_size(list); i++) {
            e = add_pre_tokenizer(tokenizer, json_array_get(list, i), depth + 1, text);
        }
        return e;
    }
    return unsupported("pre_tokenizer", json, "", text);
}

enum err tokenizer_parts_pre_tokenizer(struct tokenizer *tokenizer, const json_t *json,
                                       struct err_text *text) {
    if (!json || json_is_null(json)) return ERR_OK;
    return add_pre_tokenizer(tokenizer, json, 0, text);
}

/* --- post_processor ------------------------------------------------------------------------- */

/* A processor puts its ids outside those of the ones before it. */
static enum err add_outside(struct tokenizer *tokenizer, uint32_t id, bool is_prefix,
                            uint32_t prefix_place, struct err_text *text) {
    uint32_t *count = is_prefix ? &tokenizer->prefix_count : &tokenizer->suffix_count;
    uint32_t *ids = is_prefix ? tokenizer->prefix : tokenizer->suffix;
    if (*count == TOKENIZER_AFFIX_MAX) {
        return err_set(text, ERR_LIMIT, "tokenizer.json: post_processor adds more than %d tokens",
                       TOKENIZER_AFFIX_MAX);
    }
    uint32_t place = is_prefix ? prefix_place : *count;
    memmove(ids + place + 1, ids + place, (*count - place) * sizeof *ids);
    ids[place] = id;
    ++*count;
    return ERR_OK;
}

static enum err read_id(const struct tokenizer *tokenizer, const json_t *value, uint32_t *out) {
    json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
    if (id < 0 || id >= tokenizer->vocab.id_count) return ERR_FORMAT;
    *out = (uint32_t) id;
    return ERR_OK;
}

static enum err add_template(struct tokenizer *tokenizer, const json_t *json,
                             struct err_text *text) {
    enum err e = check_keys(json, "post_processor", "single pair special_tokens", text);
    if (e) return e;
    const json_t *single = json_object_get(json, "single");
    if (!json_is_array(single)) return wrong("post_processor", json, "single", "a list", text);
    uint32_t sequence_count = 0, prefix_place = 0;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *piece = json_array_get(single, i);
        if (json_object_get(piece, "Sequence")) {
            sequence_count++;
            continue;
        }
        const char *name =
            json_string_value(json_object_get(json_object_get(piece, "SpecialToken"), "id"));
        const json_t *special =
            name ? json_object_get(json_object_get(json, "special_tokens"), name) : NULL;
        const json_t *ids = json_object_get(special, "ids");
        if (!json_is_array(ids)) {
            return wrong("post_processor", json, "single", "made of its special_tokens", text);
        }
        for (size_t k = 0; k < json_array_size(ids); k++) {
            uint32_t id;
            if (read_id(tokenizer, json_array_get(ids, k), &id)) {
                return wrong("post_processor", json, "ids", "of the vocabulary", text);
            }
            e = add_outside(tokenizer, id, sequence_count == 0, prefix_place, text);
            if (e) return e;
            prefix_place += sequence_count == 0;
        }
    }
    if (sequence_count != 1) {
        return unsupported("post_processor", json, "a single that has not the text once", text);
    }
    return ERR_OK;
}

/* BertProcessing and RobertaProcessing: cls, the text, sep. */
static enum err add_cls_sep(struct tokenizer *tokenizer, const json_t *json,
                            struct err_text *text) {
    static const char *const keys[] = {"cls", "sep"};
    enum err e = check_keys(json, "post_processor", "cls sep trim_offsets add_prefix_space", text);
    for (size_t i = 0; !e && i < ARRAY_COUNT(keys); i++) {
        uint32_t id;
        if (read_id(tokenizer, json_array_get(json_object_get(json, keys[i]), 1), &id)) {
            return wrong("post_processor", json, keys[i], "a token and its id", text);
        }
        e = add_outside(tokenizer, id, i == 0, 0, text);
    }
    return e;
}

static enum err add_processor(struct tokenizer *tokenizer, const json_t *json, int depth,
                              struct err_text *text) {
    if (!json_is_object(json)) return wrong("post_processor", json, "", "an object", text);
    if (depth > DEPTH_MAX) {
        return err_set(text, ERR_LIMIT, "tokenizer.json: post_processor is nested too deep");
    }
    if (is_type(json, "ByteLevel")) return ERR_OK; /* moves offsets only */
    if (is_type(json, "TemplateProcessing")) return add_template(tokenizer, json, text);
    if (is_type(json, "BertProcessing") || is_type(json, "RobertaProcessing")) {
        return add_cls_sep(tokenizer, json, text);
    }
    if (is_type(json, "Sequence")) {
        enum err e = check_keys(json, "post_processor", "processors", text);
        const json_t *list = json_object_get(json, "processors");
        if (!e && !json_is_array(list)) {
            e = wrong("post_processor", json, "processors", "a list", text);
        }
        for (size_t i = 0; !e && i < json_array_size(list); i++) {
            e = add_processor(tokenizer, json_array_get(list, i), depth + 1, text);
        }
        return e;
    }
    return unsupported("post_processor", json, "", text);
}

enum err tokenizer_parts_post_processor(struct tokenizer *tokenizer, const json_t *json,
                                        struct err_text *text) {
    if (!json || json_is_null(json)) return ERR_OK;
    return add_processor(tokenizer, json, 0, text);
}

/* --- decoder -------------------------------------------------------------------------------- */

static bool is_one_space(const json_t *value) {
    return json_is_string(value) && !strcmp(json_string_value(value), " ");
}

/* One of Replace, ByteFallback, Fuse, Strip, in an order that can be done token by token. */
static enum err add_decoder(struct tokenizer *tokenizer, const json_t *json, bool *is_fused,
                            struct err_text *text) {
    enum err e;
    if (is_type(json, "Replace")) {
        bool is_regex;
        const json_t *from = read_pattern(json, &is_regex);
        e = check_keys(json, "decoder", "pattern content", text);
        if (e) return e;
        size_t bytes = json_string_length(from);
        bool is_possible = from && !is_regex && bytes && bytes < sizeof tokenizer->decode_mark &&
                           is_one_space(json_object_get(json, "content")) &&
                           !tokenizer->decode_mark_bytes && !tokenizer->is_fallback_decoded &&
                           !*is_fused;
        if (!is_possible)
            return unsupported("decoder", json, "this pattern, content or place", text);
        memcpy(tokenizer->decode_mark, json_string_value(from), bytes);
        tokenizer->decode_mark_bytes = (uint32_t) bytes;
        return ERR_OK;
    }
    if (is_type(json, "ByteFallback")) {
        tokenizer->is_fallback_decoded = true;
        return *is_fused ? unsupported("decoder", json, "a Fuse before it", text) : ERR_OK;
    }
    if (is_type(json, "Fuse")) {
        *is_fused = true;
        return ERR_OK;
    }
    if (is_type(json, "Strip")) {
        e = check_keys(json, "decoder", "content start stop", text);
        if (e) return e;
        const json_t *start = json_object_get(json, "start");
        const json_t *stop = json_object_get(json, "stop");
        bool is_possible = is_one_space(json_object_get(json, "content")) &&
                           json_is_integer(start) && json_integer_value(start) >= 0 &&
                           json_integer_value(start) <= 255 && json_is_integer(stop) &&
                           json_integer_value(stop) == 0 && *is_fused && !tokenizer->strip_left;
        if (!is_possible) return unsupported("decoder", json, "this content, start or stop", text);
        tokenizer->strip_left = (uint32_t) json_integer_value(start);
        return ERR_OK;
    }
    return unsupported("decoder", json, "", text);
}

static enum err set_metaspace_decoder(struct tokenizer *tokenizer, const json_t *json,
                                      struct err_text *text) {
    enum tokenizer_prepend prepend = TOKENIZER_ALWAYS;
    enum err e = check_keys(json, "decoder", METASPACE_KEYS, text);
    if (!e) {
        e = read_replacement(json, "decoder", tokenizer->decode_mark, &tokenizer->decode_mark_bytes,
                             text);
    }
    if (!e) e = read_prepend(json, "decoder", &prepend, text);
    tokenizer->decoder = TOKENIZER_DECODE_METASPACE;
    tokenizer->is_first_bare = prepend != TOKENIZER_NEVER;
    return e;
}

enum err tokenizer_parts_decoder(struct tokenizer *tokenizer, const json_t *json,
                                 struct err_text *text) {
    tokenizer->decoder = TOKENIZER_DECODE_JOIN;
    if (!json || json_is_null(json)) return ERR_OK;
    if (!json_is_object(json)) return wrong("decoder", json, "", "an object", text);
    const json_t *list = is_type(json, "Sequence") ? json_object_get(json, "decoders") : NULL;
    const json_t *only = json_array_size(list) == 1 ? json_array_get(list, 0) : json;
    if (is_type(only, "ByteLevel")) {
        tokenizer->decoder = TOKENIZER_DECODE_BYTES;
        return ERR_OK;
    }
    if (is_type(only, "Metaspace")) return set_metaspace_decoder(tokenizer, only, text);
    tokenizer->decoder = TOKENIZER_DECODE_SEQUENCE;
    bool is_fused = false;
    if (!list) return add_decoder(tokenizer, json, &is_fused, text);
    enum err e = check_keys(json, "decoder", "decoders", text);
    for (size_t i = 0; !e && i < json_array_size(list); i++) {
        e = add_decoder(tokenizer, json_array_get(list, i), &is_fused, text);
    }
    return e;
}
