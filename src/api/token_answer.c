/* token_answer - see token_answer.h. */
#include "api/token_answer.h"

#include "api/answer.h"
#include "api/json_field.h"

void token_answer_ids(const struct request_spec *spec, const struct api_options *options,
                      struct buf *out) {
    const struct tokenizer_ids *ids = &spec->prompts[0].ids;
    buf_add_format(out, "{\"count\":%u,\"max_model_len\":%u,\"tokens\":[", ids->count,
                   options->model_len_max);
    for (uint32_t i = 0; i < ids->count; i++) buf_add_format(out, i ? ",%u" : "%u", ids->ids[i]);
    buf_add_string(out, "],\"token_strs\":");
    if (!spec->return_token_strs) {
        buf_add_string(out, "null}");
        return;
    }
    for (uint32_t i = 0; i < ids->count; i++) {
        size_t bytes;
        bool is_special;
        const char *text = tokenizer_token(options->tokenizer, ids->ids[i], &bytes, &is_special);
        buf_add_string(out, i ? ",\"" : "[\"");
        answer_add_text(out, text, bytes);
        buf_add_byte(out, '"');
    }
    buf_add_string(out, ids->count ? "]}" : "[]}");
}

static enum err decode(const json_t *tokens, const struct tokenizer *tokenizer, struct buf *text,
                       struct api_error *error) {
    struct token_decoder decoder;
    token_decoder_init(&decoder, tokenizer, false);
    for (size_t i = 0; i < json_array_size(tokens); i++) {
        int64_t id;
        if (!json_field_as_int(json_array_get(tokens, i), &id) || id < 0 ||
            id >= (int64_t) tokenizer_vocab_size(tokenizer))
            return api_error_set(error, 400, "tokens",
                                 "tokens must hold ids of the vocabulary; entry %zu is none", i);
        token_decoder_add(&decoder, (uint32_t) id, text);
    }
    token_decoder_finish(&decoder, text);
    return buf_error(text) ? api_error_memory(error) : ERR_OK;
}

enum err token_answer_text(const struct api_options *options, const void *body, size_t bytes,
                           struct buf *out, struct api_error *error) {
    json_t *root = NULL;
    struct buf text;
    buf_init(&text, 0);
    enum err e = json_field_parse(body, bytes, error, &root);
    if (!e) {
        struct json_scope scope = {root, "", error, ERR_OK};
        request_parse_model(&scope, options);
        const json_t *tokens = json_field_array(&scope, "tokens");
        if (!tokens && !scope.failed) json_field_fail(&scope, "tokens", "is missing");
        e = scope.failed ? scope.failed : decode(tokens, options->tokenizer, &text, error);
    }
    if (!e) {
        buf_add_string(out, "{\"prompt\":\"");
        answer_add_text(out, (const char *) text.data, text.bytes);
        buf_add_string(out, "\"}");
    }
    buf_release(&text);
    json_decref(root);
    return e;
}
