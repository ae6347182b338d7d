/* request_prompt - see request_prompt.h. */
#include "api/request_prompt.h"

#include <stdarg.h>
#include <string.h>

#include "api/bad_words.h"
#include "base/alloc.h"

#define KWARGS_MAX 32 /* chat_template_kwargs of one request */

/* --- messages ---------------------------------------------------------------------------- */

static enum err fail_at(struct api_error *error, size_t index, const char *inner,
                        const char *format, ...) PRINTF_LIKE(4, 5);
static enum err fail_at(struct api_error *error, size_t index, const char *inner,
                        const char *format, ...) {
    char path[96];
    struct err_text text;
    snprintf(path, sizeof path, "messages[%zu]%s%s", index, inner[0] && inner[0] != '[' ? "." : "",
             inner);
    va_list args;
    va_start(args, format);
    vsnprintf(text.text, sizeof text.text, format, args);
    va_end(args);
    return api_error_set(error, 400, path, "%s %s", path, text.text);
}

/* The parts' texts, joined by newlines as vLLM does it for templates that want a string. */
static enum err join_parts(const json_t *parts, size_t index, struct api_error *error,
                           json_t **out) {
    struct buf joined;
    buf_init(&joined, 0);
    enum err e = ERR_OK;
    for (size_t i = 0; i < json_array_size(parts) && !e; i++) {
        const json_t *part = json_array_get(parts, i);
        const char *type = json_string_value(json_object_get(part, "type"));
        char path[48];
        snprintf(path, sizeof path, "content[%zu]", i);
        const json_t *text = json_object_get(part, "text");
        if (!json_is_object(part))
            e = fail_at(error, index, path, "must be an object, not %s",
                        json_field_type_name(part));
        else if (!type) e = fail_at(error, index, path, "must have a type");
        else if (strcmp(type, "text") != 0)
            e = fail_at(error, index, path, "of type %.40s is not supported here: only text", type);
        else if (!json_is_string(text))
            e = fail_at(error, index, path, "must have its text as a string");
        if (e) break;
        if (i) buf_add_byte(&joined, '\n');
        buf_add(&joined, json_string_value(text), json_string_length(text));
    }
    if (!e && buf_error(&joined)) e = api_error_memory(error);
    if (!e) {
        *out = json_stringn_nocheck((const char *) joined.data, joined.bytes);
        if (!joined.bytes) *out = json_string("");
        if (!*out) e = api_error_memory(error);
    }
    buf_release(&joined);
    return e;
}

/* Checks the calls of message `index`; in `copy` their arguments become objects. */
static enum err parse_tool_calls(json_t *copy, size_t index, struct api_error *error) {
    json_t *calls = json_object_get(copy, "tool_calls");
    if (!json_is_array(calls))
        return fail_at(error, index, "tool_calls", "must be an array, not %s",
                       json_field_type_name(calls));
    for (size_t i = 0; i < json_array_size(calls); i++) {
        json_t *function = json_object_get(json_array_get(calls, i), "function");
        char path[64];
        snprintf(path, sizeof path, "tool_calls[%zu].function", i);
        if (!json_is_string(json_object_get(function, "name")))
            return fail_at(error, index, path, "must be an object with a name");
        json_t *arguments = json_object_get(function, "arguments");
        if (!json_is_string(arguments)) continue;
        size_t bytes = json_string_length(arguments);
        json_t *object =
            bytes ? json_loadb(json_string_value(arguments), bytes, 0, NULL) : json_object();
        if (!json_is_object(object)) {
            json_decref(object);
            snprintf(path, sizeof path, "tool_calls[%zu].function.arguments", i);
            return fail_at(error, index, path, "must be a JSON object");
        }
        if (json_object_set_new(function, "arguments", object)) return api_error_memory(error);
    }
    return ERR_OK;
}

static bool role_is_known(const char *role) {
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool"};
    for (size_t i = 0; i < ARRAY_COUNT(roles); i++)
        if (strcmp(role, roles[i]) == 0) return true;
    return false;
}

/* One message; *out is a new reference, the message itself when nothing has to change. */
static enum err normal_message(json_t *message, size_t index, struct api_error *error,
                               json_t **out) {
    if (!json_is_object(message))
        return fail_at(error, index, "", "must be an object, not %s",
                       json_field_type_name(message));
    const char *role = json_string_value(json_object_get(message, "role"));
    if (!role) return fail_at(error, index, "role", "must be a string");
    if (!role_is_known(role))
        return fail_at(error, index, "role",
                       "is %.40s; system, developer, user, assistant and tool are known", role);
    const json_t *content = json_object_get(message, "content");
    const json_t *calls = json_object_get(message, "tool_calls");
    bool is_assistant = strcmp(role, "assistant") == 0;
    bool has_calls = calls && !json_is_null(calls);
    if (!json_is_string(content) && !json_is_array(content) &&
        !(is_assistant && (!content || json_is_null(content))))
        return fail_at(error, index, "content",
                       "must be a string or an array of text parts, not %s",
                       content ? json_field_type_name(content) : "absent");
    bool is_developer = strcmp(role, "developer") == 0;
    if (json_is_string(content) && !has_calls && !is_developer) {
        *out = json_incref(message);
        return ERR_OK;
    }
    json_t *copy = has_calls ? json_deep_copy(message) : json_copy(message);
    if (!copy) return api_error_memory(error);
    enum err e = ERR_OK;
    if (json_is_array(content)) {
        json_t *text = NULL;
        e = join_parts(content, index, error, &text);
        if (!e && json_object_set_new(copy, "content", text)) e = api_error_memory(error);
    } else if (!json_is_string(content) && json_object_set_new(copy, "content", json_string(""))) {
        e = api_error_memory(error);
    }
    if (!e && has_calls) e = parse_tool_calls(copy, index, error);
    if (!e && is_developer && json_object_set_new(copy, "role", json_string("system")))
        e = api_error_memory(error);
    if (e) json_decref(copy);
    else *out = copy;
    return e;
}

enum err request_prompt_messages(const json_t *messages, struct api_error *error, json_t **out) {
    json_t *normal = json_array();
    if (!normal) return api_error_memory(error);
    enum err e = ERR_OK;
    for (size_t i = 0; i < json_array_size(messages) && !e; i++) {
        json_t *message = NULL;
        e = normal_message(json_array_get(messages, i), i, error, &message);
        if (!e && json_array_append_new(normal, message)) e = api_error_memory(error);
    }
    if (e) json_decref(normal);
    else *out = normal;
    return e;
}

/* --- the template ------------------------------------------------------------------------ */

static json_t *borrowed_or_null(const json_t *value) {
    return value ? json_incref((json_t *) value) : json_null();
}

static enum err make_variables(const struct request_spec *spec, const struct api_options *options,
                               json_t *messages, struct api_error *error, json_t **out) {
    json_t *object = json_object();
    int failed = !object;
    failed |= object && json_object_set(object, "messages", messages);
    failed |= object && json_object_set_new(object, "tools", borrowed_or_null(spec->tools));
    failed |= object && json_object_set_new(object, "documents", borrowed_or_null(spec->documents));
    failed |= object && json_object_set_new(object, "add_generation_prompt",
                                            json_boolean(spec->add_generation_prompt));
    if (options->bos_text)
        failed |=
            object && json_object_set_new(object, "bos_token", json_string(options->bos_text));
    if (options->eos_text)
        failed |=
            object && json_object_set_new(object, "eos_token", json_string(options->eos_text));
    if (spec->reasoning_effort)
        failed |= object && json_object_set_new(object, "reasoning_effort",
                                                json_string(spec->reasoning_effort));
    if (spec->template_kwargs)
        failed |= object && json_object_update(object, (json_t *) spec->template_kwargs);
    if (failed) {
        json_decref(object);
        return api_error_memory(error);
    }
    *out = object;
    return ERR_OK;
}

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/* continue_final_message: the prompt ends with the last message's content, as transformers cuts
 * it: behind the last place where the stripped content stands, its trailing spaces kept where the
 * template kept them. */
static enum err cut_after_final_message(const json_t *messages, struct chat_prompt *prompt,
                                        struct api_error *error) {
    const json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    const json_t *content = json_object_get(last, "content");
    const char *text = json_string_value(content);
    size_t bytes = json_string_length(content);
    size_t from = 0, end = bytes;
    while (from < end && is_space(text[from])) from++;
    while (end > from && is_space(text[end - 1])) end--;
    if (from == end)
        return api_error_set(error, 400, "continue_final_message",
                             "continue_final_message needs a final message with content");
    const uint8_t *rendered = prompt->text.data;
    size_t stripped = end - from, at = prompt->text.bytes;
    bool is_found = false;
    if (stripped <= prompt->text.bytes)
        for (at = prompt->text.bytes - stripped + 1; at-- > 0 && !is_found;)
            if (memcmp(rendered + at, text + from, stripped) == 0) {
                is_found = true;
                break;
            }
    if (!is_found)
        return api_error_set(error, 400, "continue_final_message",
                             "the chat template changes the final message, so it cannot be "
                             "continued");
    size_t cut = at + stripped, with_tail = at + (bytes - from);
    if (from == 0 && with_tail <= prompt->text.bytes && memcmp(rendered + at, text, bytes) == 0)
        cut = with_tail;
    prompt->text.bytes = cut;
    while (prompt->range_count && prompt->user_ranges[prompt->range_count - 1].first >= cut)
        prompt->range_count--;
    if (prompt->range_count && prompt->user_ranges[prompt->range_count - 1].end > cut)
        prompt->user_ranges[prompt->range_count - 1].end = cut;
    return ERR_OK;
}

static enum err render(const struct request_spec *spec, const struct api_options *options,
                       int64_t now_s, struct api_error *error, struct chat_prompt *out) {
    /* What came from the client is text, template arguments included. */
    const char *user_keys[5 + KWARGS_MAX] = {"messages", "tools", "documents", "reasoning_effort"};
    size_t key_count = 4;
    if (spec->template_kwargs) {
        json_t *kwargs = (json_t *) spec->template_kwargs;
        if (json_object_size(kwargs) > KWARGS_MAX)
            return api_error_set(error, 400, "chat_template_kwargs",
                                 "chat_template_kwargs may have at most %d entries, got %zu",
                                 KWARGS_MAX, json_object_size(kwargs));
        for (void *at = json_object_iter(kwargs); at; at = json_object_iter_next(kwargs, at))
            user_keys[key_count++] = json_object_iter_key(at);
    }
    user_keys[key_count] = NULL;

    json_t *messages = NULL, *variables = NULL;
    struct err_text text = {""};
    enum err e = request_prompt_messages(spec->messages, error, &messages);
    if (e) goto out;
    e = make_variables(spec, options, messages, error, &variables);
    if (e) goto out;
    e = chat_template_render(options->chat_template, variables, user_keys, NULL, now_s, &text, out);
    if (e == ERR_MEMORY) {
        e = api_error_memory(error);
    } else if (e) {
        e = api_error_set(
            error, 400, "messages", "%s%s",
            e == ERR_USAGE ? "" : "the chat template cannot render this: ", text.text);
    } else if (spec->continue_final_message) {
        e = cut_after_final_message(messages, out, error);
        if (e) chat_template_release_prompt(out);
    }
out:
    json_decref(variables);
    json_decref(messages);
    return e;
}

/* --- ids --------------------------------------------------------------------------------- */

/* A prompt of this many bytes has more tokens than the model takes, however they fall. */
static enum err check_bytes(const struct api_options *options, const char *param, size_t bytes,
                            struct api_error *error) {
    uint32_t longest = tokenizer_token_bytes_max(options->tokenizer);
    size_t at_least = longest ? bytes / longest : 0;
    if (at_least <= options->model_len_max) return ERR_OK;
    return api_error_set(error, 400, param,
                         "This model's maximum context length is %u tokens. However, your %s have "
                         "at least %zu tokens (%zu bytes). Please reduce their length",
                         options->model_len_max,
                         strcmp(param, "messages") == 0 ? "messages" : "prompt texts", at_least,
                         bytes);
}

static enum err encode(const struct api_options *options, struct token_scratch *scratch,
                       const char *param, const char *text, size_t bytes,
                       const struct tokenizer_range *ranges, size_t range_count, unsigned flags,
                       struct api_error *error, struct tokenizer_ids *ids) {
    struct err_text why = {""};
    enum err e = tokenizer_encode(options->tokenizer, scratch, text, bytes, ranges, range_count,
                                  flags, 0, &why, ids);
    if (e == ERR_MEMORY) return api_error_memory(error);
    if (e) return api_error_set(error, 400, param, "%s: %s", param, why.text);
    return ERR_OK;
}

static enum err make_chat_prompt(struct request_spec *spec, const struct api_options *options,
                                 struct token_scratch *scratch, int64_t now_s,
                                 struct api_error *error) {
    if (!options->chat_template)
        return api_error_set(error, 400, "messages",
                             "this model has no chat template; use /v1/completions");
    spec->prompts = arena_take_zero(spec->arena, 1, sizeof *spec->prompts);
    if (!spec->prompts) return api_error_memory(error);
    spec->prompt_count = 1;
    struct chat_prompt prompt;
    enum err e = render(spec, options, now_s, error, &prompt);
    if (e) return e;
    struct tokenizer_range *ranges = alloc_array(prompt.range_count, sizeof *ranges);
    if (!ranges) e = api_error_memory(error);
    for (size_t i = 0; !e && i < prompt.range_count; i++)
        ranges[i] =
            (struct tokenizer_range){prompt.user_ranges[i].first, prompt.user_ranges[i].end};
    if (!e && spec->kind == REQUEST_CHAT)
        e = check_bytes(options, "messages", prompt.text.bytes, error);
    if (!e)
        e = encode(options, scratch, "messages", (const char *) prompt.text.data, prompt.text.bytes,
                   ranges, prompt.range_count,
                   TOKENIZER_PARSE_SPECIAL | (spec->add_special_tokens ? TOKENIZER_ADD_SPECIAL : 0),
                   error, &spec->prompts[0].ids);
    alloc_free(ranges);
    chat_template_release_prompt(&prompt);
    return e;
}

static enum err make_text_prompts(struct request_spec *spec, const struct api_options *options,
                                  struct token_scratch *scratch, struct api_error *error) {
    unsigned flags =
        TOKENIZER_PARSE_SPECIAL | (spec->add_special_tokens ? TOKENIZER_ADD_SPECIAL : 0);
    for (uint32_t i = 0; i < spec->prompt_count; i++) {
        struct request_prompt *prompt = &spec->prompts[i];
        if (!prompt->text) continue;
        enum err e = ERR_OK;
        if (spec->kind == REQUEST_COMPLETION)
            e = check_bytes(options, "prompt", prompt->bytes, error);
        if (!e)
            e = encode(options, scratch, "prompt", prompt->text, prompt->bytes, NULL, 0, flags,
                       error, &prompt->ids);
        if (e) return e;
        if (!spec->echo) {
            prompt->text = NULL;
            continue;
        }
        /* Echoed later, when the JSON tree is gone. */
        prompt->text = arena_copy(spec->arena, prompt->text, prompt->bytes);
        if (!prompt->text) return api_error_memory(error);
    }
    return ERR_OK;
}

static enum err make_bad_words(struct request_spec *spec, const struct api_options *options,
                               struct token_scratch *scratch, struct api_error *error) {
    if (!spec->bad_words) return ERR_OK;
    struct bad_words words = {0};
    struct err_text why = {""};
    enum err e = ERR_OK;
    for (size_t i = 0; i < json_array_size(spec->bad_words) && !e; i++) {
        const json_t *word = json_array_get(spec->bad_words, i);
        e = bad_words_add(&words, options->tokenizer, scratch, json_string_value(word),
                          json_string_length(word), &why);
    }
    if (e == ERR_MEMORY) e = api_error_memory(error);
    else if (e) e = api_error_set(error, 400, "bad_words", "bad_words %s", why.text);
    if (!e && words.count) {
        uint32_t *ids = arena_take(spec->arena, words.ids.count * sizeof *ids);
        uint32_t *lengths = arena_take(spec->arena, words.count * sizeof *lengths);
        if (!ids || !lengths) {
            e = api_error_memory(error);
        } else {
            memcpy(ids, words.ids.ids, words.ids.count * sizeof *ids);
            memcpy(lengths, words.lengths, words.count * sizeof *lengths);
            spec->sampling.bad_word_ids = ids;
            spec->sampling.bad_word_lengths = lengths;
            spec->sampling.bad_word_count = words.count;
        }
    }
    bad_words_release(&words);
    return e;
}

/* --- lengths ----------------------------------------------------------------------------- */

static enum err check_lengths(struct request_spec *spec, const struct api_options *options,
                              struct api_error *error) {
    const char *param = spec->kind == REQUEST_CHAT ? "messages" : "prompt";
    struct sampling *sampling = &spec->sampling;
    uint32_t longest = 0;
    for (uint32_t i = 0; i < spec->prompt_count; i++) {
        uint32_t count = spec->prompts[i].ids.count;
        if (count == 0)
            return api_error_set(error, 400, param, "%s comes to no token; it cannot be empty",
                                 param);
        if (count > longest) longest = count;
    }
    uint32_t limit = options->model_len_max;
    uint64_t asked = spec->has_max_tokens ? sampling->max_tokens : 1;
    if (longest + asked > limit) {
        bool prompt_fits = longest + 1 <= limit;
        if (!spec->has_max_tokens)
            return api_error_set(error, 400, param,
                                 "This model's maximum context length is %u tokens. However, your "
                                 "%s came to %u tokens. Please reduce the length of the %s",
                                 limit, param, longest, param);
        return api_error_set(error, 400, prompt_fits ? "max_tokens" : param,
                             "This model's maximum context length is %u tokens. However, you "
                             "requested %llu tokens (%u in the %s, %llu in the completion). Please "
                             "reduce the length of the %s or completion",
                             limit, (unsigned long long) (longest + asked), longest, param,
                             (unsigned long long) asked, param);
    }
    if (spec->has_max_tokens) return ERR_OK;
    uint32_t rest = limit - longest;
    uint32_t wanted = spec->kind == REQUEST_COMPLETION ? 16 : options->defaults.max_tokens;
    sampling->max_tokens = wanted && wanted < rest ? wanted : rest;
    if (sampling->min_tokens > sampling->max_tokens)
        return api_error_set(error, 400, "min_tokens",
                             "min_tokens is %u, more than the %u that can be generated",
                             sampling->min_tokens, sampling->max_tokens);
    return ERR_OK;
}

enum err request_prompt_make(struct request_spec *spec, const struct api_options *options,
                             struct token_scratch *scratch, int64_t now_s,
                             struct api_error *error) {
    enum err e = spec->has_messages ? make_chat_prompt(spec, options, scratch, now_s, error)
                                    : make_text_prompts(spec, options, scratch, error);
    if (!e && spec->kind != REQUEST_TOKENIZE) e = check_lengths(spec, options, error);
    if (!e) e = make_bad_words(spec, options, scratch, error);
    json_decref(spec->root);
    spec->root = NULL;
    spec->messages = spec->tools = spec->documents = spec->template_kwargs = spec->bad_words = NULL;
    spec->reasoning_effort = NULL;
    return e;
}
