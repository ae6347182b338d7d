/* request_parse - see request_parse.h.  Long for its table of fields. */
#include "api/request_parse.h"

#include <math.h>
#include <string.h>

#include "api/bad_words.h"
#include "base/alloc.h"

/* --- fields whose meaning is known and not built: refused unless they say nothing ---------- */

enum neutral { ONLY_NULL, OR_FALSE, OR_TRUE, OR_ZERO, OR_ONE, OR_EMPTY };
enum { IN_CHAT = 1, IN_COMPLETION = 2, IN_TOKENIZE = 4, IN_BOTH = 3, IN_ALL = 7 };

static const struct unbuilt {
    const char *name;
    enum neutral neutral; /* null is always allowed */
    unsigned where;
    const char *hint;
} unbuilt_fields[] = {
    {"functions", OR_EMPTY, IN_CHAT, "use tools"},
    {"function_call", ONLY_NULL, IN_CHAT, "use tools"},
    {"suffix", OR_EMPTY, IN_COMPLETION, ""},
    {"use_beam_search", OR_FALSE, IN_BOTH, ""},
    {"early_stopping", OR_FALSE, IN_BOTH, "it belongs to beam search"},
    {"length_penalty", OR_ONE, IN_BOTH, "it belongs to beam search"},
    {"structured_outputs", ONLY_NULL, IN_BOTH, ""},
    {"guided_json", ONLY_NULL, IN_BOTH, ""},
    {"guided_regex", ONLY_NULL, IN_BOTH, ""},
    {"guided_choice", ONLY_NULL, IN_BOTH, ""},
    {"guided_grammar", ONLY_NULL, IN_BOTH, ""},
    {"guided_decoding_backend", ONLY_NULL, IN_BOTH, ""},
    {"guided_whitespace_pattern", ONLY_NULL, IN_BOTH, ""},
    {"structural_tag", ONLY_NULL, IN_BOTH, ""},
    {"grammar", OR_EMPTY, IN_BOTH, ""},
    {"json_schema", ONLY_NULL, IN_BOTH, ""},
    {"prompt_logprobs", ONLY_NULL, IN_BOTH, "use echo with logprobs on /v1/completions"},
    {"prompt_embeds", OR_EMPTY, IN_COMPLETION, ""},
    {"truncate_prompt_tokens", ONLY_NULL, IN_BOTH, "shorten the prompt"},
    {"truncation_side", ONLY_NULL, IN_BOTH, "shorten the prompt"},
    {"logprob_token_ids", OR_EMPTY, IN_BOTH, ""},
    {"flat_logprobs", OR_FALSE, IN_BOTH, ""},
    {"return_token_ids", OR_FALSE, IN_BOTH, ""},
    {"return_tokens_as_token_ids", OR_FALSE, IN_BOTH, ""},
    {"spaces_between_special_tokens", OR_TRUE, IN_BOTH, ""},
    {"detokenize", OR_TRUE, IN_BOTH, ""},
    {"audio", ONLY_NULL, IN_CHAT, "text only"},
    {"prediction", ONLY_NULL, IN_CHAT, ""},
    {"web_search_options", ONLY_NULL, IN_CHAT, ""},
    {"chat_template", ONLY_NULL, IN_ALL, "the server's template is used"},
    {"include_reasoning", OR_TRUE, IN_CHAT, "reasoning is not told apart from content"},
    {"thinking_token_budget", ONLY_NULL, IN_BOTH, ""},
    {"repetition_detection", ONLY_NULL, IN_BOTH, ""},
    {"priority", OR_ZERO, IN_BOTH, "requests are served first come, first served"},
    {"cache_salt", OR_EMPTY, IN_BOTH, "the prefix cache is shared"},
    {"kv_transfer_params", ONLY_NULL, IN_BOTH, ""},
    {"vllm_xargs", OR_EMPTY, IN_BOTH, ""},
    {"mm_processor_kwargs", OR_EMPTY, IN_ALL, "text only"},
    {"media_io_kwargs", OR_EMPTY, IN_ALL, "text only"},
    {"logits_processors", OR_EMPTY, IN_BOTH, ""},
    {"allowed_words", OR_EMPTY, IN_BOTH, "use allowed_token_ids"},
    {"best_of", OR_ONE, IN_BOTH, "use n"},
    /* llama-server's samplers */
    {"typical_p", OR_ONE, IN_BOTH, ""},
    {"mirostat", OR_ZERO, IN_BOTH, ""},
    {"dynatemp_range", OR_ZERO, IN_BOTH, ""},
    {"xtc_probability", OR_ZERO, IN_BOTH, ""},
    {"dry_multiplier", OR_ZERO, IN_BOTH, ""},
    {"repeat_penalty", OR_ONE, IN_BOTH, "use repetition_penalty"},
    {"n_predict", ONLY_NULL, IN_BOTH, "use max_tokens"},
};

static bool says_nothing(const json_t *value, enum neutral neutral) {
    switch (neutral) {
    case ONLY_NULL: return false;
    case OR_FALSE: return json_is_false(value);
    case OR_TRUE: return json_is_true(value);
    case OR_ZERO: return json_is_number(value) && json_number_value(value) == 0;
    case OR_ONE: return json_is_number(value) && json_number_value(value) == 1;
    case OR_EMPTY:
        return (json_is_string(value) && json_string_length(value) == 0) ||
               (json_is_array(value) && json_array_size(value) == 0) ||
               (json_is_object(value) && json_object_size(value) == 0);
    }
    return false;
}

static void refuse_unbuilt(struct json_scope *scope, unsigned where) {
    for (size_t i = 0; i < ARRAY_COUNT(unbuilt_fields); i++) {
        const struct unbuilt *field = &unbuilt_fields[i];
        if (!(field->where & where)) continue;
        const json_t *value = json_field_get(scope, field->name);
        if (!value || says_nothing(value, field->neutral)) continue;
        json_field_fail(scope, field->name, "is not supported here%s%s", field->hint[0] ? ": " : "",
                        field->hint);
    }
}

static void parse_response_format(struct json_scope *scope) {
    const json_t *format = json_field_object(scope, "response_format");
    if (!format) return;
    struct json_scope inner = {format, "response_format.", scope->error, ERR_OK};
    const char *type = NULL;
    json_field_string(&inner, "type", &type, NULL);
    if (inner.failed) scope->failed = inner.failed;
    else if (!type) json_field_fail(scope, "response_format", "must have a type");
    else if (strcmp(type, "text") != 0)
        json_field_fail(scope, "response_format", "of type %.40s is not supported here: only text",
                        type);
}

/* --- lists ------------------------------------------------------------------------------- */

/* An array of token ids, into the arena. */
static void parse_ids(struct json_scope *scope, const char *name, const json_t *array,
                      uint32_t vocab_size, size_t count_max, struct arena *arena,
                      uint32_t **ids_out, uint32_t *count_out) {
    size_t count = json_array_size(array);
    if (count > count_max) {
        json_field_fail(scope, name, "may have at most %zu entries, got %zu", count_max, count);
        return;
    }
    uint32_t *ids = arena_take(arena, count * sizeof *ids);
    if (!ids) {
        scope->failed = api_error_memory(scope->error);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        int64_t id;
        const json_t *value = json_array_get(array, i);
        if (!json_field_as_int(value, &id)) {
            json_field_fail(scope, name, "must hold token ids; entry %zu is %s", i,
                            json_field_type_name(value));
            return;
        }
        if (id < 0 || id >= (int64_t) vocab_size) {
            json_field_fail(scope, name,
                            "holds %lld at entry %zu, which is no token id: the vocabulary has %u",
                            (long long) id, i, vocab_size);
            return;
        }
        ids[i] = (uint32_t) id;
    }
    *ids_out = ids;
    *count_out = (uint32_t) count;
}

static void parse_stop(struct json_scope *scope, struct request_spec *spec) {
    const json_t *stop = json_field_get(scope, "stop");
    if (!stop) return;
    if (!json_is_string(stop) && !json_is_array(stop)) {
        json_field_fail(scope, "stop", "must be a string or an array of strings, not %s",
                        json_field_type_name(stop));
        return;
    }
    size_t count = json_is_array(stop) ? json_array_size(stop) : 1;
    if (count > STOP_MATCH_STRINGS_MAX) {
        json_field_fail(scope, "stop", "may have at most %d strings, got %zu",
                        STOP_MATCH_STRINGS_MAX, count);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *text = json_is_array(stop) ? json_array_get(stop, i) : stop;
        if (!json_is_string(text)) {
            json_field_fail(scope, "stop", "must hold strings; entry %zu is %s", i,
                            json_field_type_name(text));
            return;
        }
        if (json_string_length(text) == 0) {
            json_field_fail(scope, "stop", "cannot hold an empty string");
            return;
        }
        if (stop_match_set_add(&spec->stops, spec->arena, json_string_value(text),
                               json_string_length(text))) {
            scope->failed = api_error_memory(scope->error);
            return;
        }
    }
}

static void parse_stop_ids(struct json_scope *scope, const struct api_options *options,
                           struct request_spec *spec) {
    uint32_t *own = NULL, own_count = 0;
    const json_t *array = json_field_array(scope, "stop_token_ids");
    uint32_t eos_count = spec->sampling.ignore_eos ? 0 : options->eos_count;
    size_t room = eos_count < SAMPLING_STOP_IDS_MAX ? SAMPLING_STOP_IDS_MAX - eos_count : 0;
    if (array)
        parse_ids(scope, "stop_token_ids", array, options->vocab_size, room, spec->arena, &own,
                  &own_count);
    if (scope->failed || own_count + eos_count == 0) return;
    uint32_t *all = arena_take(spec->arena, (own_count + eos_count) * sizeof *all);
    if (!all) {
        scope->failed = api_error_memory(scope->error);
        return;
    }
    for (uint32_t i = 0; i < own_count; i++) all[i] = own[i];
    for (uint32_t i = 0; i < eos_count; i++) all[own_count + i] = options->eos_ids[i];
    spec->sampling.stop_ids = all;
    spec->sampling.stop_id_count = own_count + eos_count;
}

/* "50256" -> 50256; false when it is anything but digits below the vocabulary's size. */
static bool token_id_of_key(const char *key, uint32_t vocab_size, uint32_t *out) {
    uint64_t id = 0;
    size_t digits = 0;
    for (; key[digits] && digits < 11; digits++) {
        if (key[digits] < '0' || key[digits] > '9') return false;
        id = id * 10 + (uint64_t) (key[digits] - '0');
    }
    if (digits == 0 || key[digits] || id >= vocab_size) return false;
    *out = (uint32_t) id;
    return true;
}

static void parse_logit_bias(struct json_scope *scope, const struct api_options *options,
                             struct request_spec *spec) {
    const json_t *object = json_field_object(scope, "logit_bias");
    if (!object) return;
    size_t count = json_object_size(object);
    if (count > SAMPLING_LOGIT_BIAS_MAX) {
        json_field_fail(scope, "logit_bias", "may have at most %d entries, got %zu",
                        SAMPLING_LOGIT_BIAS_MAX, count);
        return;
    }
    struct sampling_bias *bias = arena_take(spec->arena, count * sizeof *bias);
    if (!bias) {
        scope->failed = api_error_memory(scope->error);
        return;
    }
    uint32_t used = 0;
    json_t *walked = (json_t *) object; /* jansson's iterators take no const; nothing is written */
    for (void *at = json_object_iter(walked); at; at = json_object_iter_next(walked, at)) {
        const char *key = json_object_iter_key(at);
        const json_t *value = json_object_iter_value(at);
        uint32_t id;
        if (!token_id_of_key(key, options->vocab_size, &id)) {
            json_field_fail(scope, "logit_bias",
                            "has the key %.24s, which is no token id: the vocabulary has %u", key,
                            options->vocab_size);
            return;
        }
        double number = json_is_number(value) ? json_number_value(value) : NAN;
        if (!(number >= -100 && number <= 100)) {
            json_field_fail(scope, "logit_bias", "of token %u must be a number in [-100, 100]", id);
            return;
        }
        bool is_new = true;
        for (uint32_t i = 0; i < used && is_new; i++)
            if (bias[i].token_id == id) is_new = false;
        if (!is_new) { /* "7" and "07" */
            json_field_fail(scope, "logit_bias", "names token %u twice", id);
            return;
        }
        bias[used++] = (struct sampling_bias){.token_id = id, .bias = (float) number};
    }
    spec->sampling.logit_bias = bias;
    spec->sampling.logit_bias_count = used;
}

static void parse_bad_words(struct json_scope *scope, struct request_spec *spec) {
    const json_t *array = json_field_array(scope, "bad_words");
    if (!array) return;
    if (json_array_size(array) > BAD_WORDS_WRITTEN_MAX) {
        json_field_fail(scope, "bad_words", "may have at most %d words, got %zu",
                        BAD_WORDS_WRITTEN_MAX, json_array_size(array));
        return;
    }
    for (size_t i = 0; i < json_array_size(array); i++) {
        const json_t *word = json_array_get(array, i);
        if (!json_is_string(word)) {
            json_field_fail(scope, "bad_words", "must hold strings; entry %zu is %s", i,
                            json_field_type_name(word));
            return;
        }
        if (json_string_length(word) == 0) {
            json_field_fail(scope, "bad_words", "cannot hold an empty string");
            return;
        }
    }
    if (json_array_size(array)) spec->bad_words = array;
}

/* --- groups of fields -------------------------------------------------------------------- */

uint32_t request_parse_model(struct json_scope *scope, const struct api_options *options) {
    const char *model = NULL;
    if (!json_field_string(scope, "model", &model, NULL)) return 0;
    if (!model[0]) return 0; /* the openai client must write one: "" is none */
    for (uint32_t i = 0; i < options->served_name_count; i++)
        if (strcmp(options->served_names[i], model) == 0) return i;
    scope->failed = api_error_set(scope->error, 404, "model",
                                  "The model `%.200s` does not exist; served is `%s`", model,
                                  options->served_names[0]);
    return 0;
}

static void parse_numbers(struct json_scope *scope, const struct api_options *options,
                          struct request_spec *spec) {
    struct sampling *sampling = &spec->sampling;
    double number;
    int64_t integer;
    if (json_field_number(scope, "temperature", 0, 2, false, &number))
        sampling->temperature = (float) number;
    if (json_field_number(scope, "top_p", 0, 1, true, &number)) sampling->top_p = (float) number;
    if (json_field_number(scope, "min_p", 0, 1, false, &number)) sampling->min_p = (float) number;
    if (json_field_int(scope, "top_k", -1, INT32_MAX, &integer))
        sampling->top_k = (int32_t) integer;
    if (json_field_number(scope, "presence_penalty", -2, 2, false, &number))
        sampling->presence_penalty = (float) number;
    if (json_field_number(scope, "frequency_penalty", -2, 2, false, &number))
        sampling->frequency_penalty = (float) number;
    if (json_field_number(scope, "repetition_penalty", 0, INFINITY, true, &number)) {
        sampling->repetition_penalty = (float) number;
        if (!isnormal(sampling->repetition_penalty))
            json_field_fail(scope, "repetition_penalty", "of %g cannot be used", number);
    }
    if (sampling->top_p == 0) sampling->top_p = 0x1p-149f; /* a positive double below every float */
    if (json_field_int(scope, "seed", INT64_MIN, INT64_MAX, &integer)) {
        sampling->seed = (uint64_t) integer;
        spec->has_seed = true;
    }
    if (json_field_int(scope, "n", 1, SAMPLING_CHOICES_MAX, &integer)) spec->n = (uint32_t) integer;

    int64_t min_tokens = spec->echo ? 0 : 1;
    if (json_field_int(scope, "max_tokens", min_tokens, UINT32_MAX, &integer)) {
        sampling->max_tokens = (uint32_t) integer;
        spec->has_max_tokens = true;
    }
    if (spec->kind == REQUEST_CHAT &&
        json_field_int(scope, "max_completion_tokens", 1, UINT32_MAX, &integer)) {
        sampling->max_tokens = (uint32_t) integer;
        spec->has_max_tokens = true;
    }
    if (json_field_int(scope, "min_tokens", 0, UINT32_MAX, &integer)) {
        sampling->min_tokens = (uint32_t) integer;
        if (spec->has_max_tokens && sampling->min_tokens > sampling->max_tokens)
            json_field_fail(scope, "min_tokens", "is %u, more than max_tokens, which is %u",
                            sampling->min_tokens, sampling->max_tokens);
    }
    json_field_bool(scope, "ignore_eos", &sampling->ignore_eos);
    parse_stop_ids(scope, options, spec);
}

static void parse_sampling(struct json_scope *scope, const struct api_options *options,
                           struct request_spec *spec) {
    const struct api_sampling_defaults *defaults = &options->defaults;
    sampling_init(&spec->sampling);
    spec->sampling.temperature = defaults->temperature;
    spec->sampling.top_p = defaults->top_p;
    spec->sampling.min_p = defaults->min_p;
    spec->sampling.top_k = defaults->top_k;
    spec->sampling.repetition_penalty = defaults->repetition_penalty;
    parse_numbers(scope, options, spec);
    parse_stop(scope, spec);
    parse_logit_bias(scope, options, spec);
    parse_bad_words(scope, spec);
    const json_t *allowed = json_field_array(scope, "allowed_token_ids");
    if (allowed && json_array_size(allowed) == 0) {
        json_field_fail(scope, "allowed_token_ids", "cannot be empty");
    } else if (allowed) {
        uint32_t *ids = NULL;
        parse_ids(scope, "allowed_token_ids", allowed, options->vocab_size, options->vocab_size,
                  spec->arena, &ids, &spec->sampling.allowed_id_count);
        spec->sampling.allowed_ids = ids;
    }
    json_field_bool(scope, "include_stop_str_in_output", &spec->include_stop_string);
    json_field_bool(scope, "skip_special_tokens", &spec->skip_special_tokens);
}

static void parse_stream(struct json_scope *scope, struct request_spec *spec) {
    json_field_bool(scope, "stream", &spec->is_stream);
    json_field_bool(scope, "timings", &spec->wants_timings);
    const json_t *object = json_field_object(scope, "stream_options");
    if (!object) return;
    if (!spec->is_stream) {
        json_field_fail(scope, "stream_options", "can only be set with stream: true");
        return;
    }
    struct json_scope inner = {object, "stream_options.", scope->error, ERR_OK};
    json_field_bool(&inner, "include_usage", &spec->include_usage);
    json_field_bool(&inner, "continuous_usage_stats", &spec->continuous_usage);
    if (inner.failed) scope->failed = inner.failed;
    if (!spec->include_usage) spec->continuous_usage = false;
}

/* As Dynamo has it; its other fields of nvext say nothing here and are let pass. */
static void parse_route(struct json_scope *scope, struct request_spec *spec) {
    const json_t *nvext = json_field_object(scope, "nvext");
    if (!nvext) return;
    struct json_scope outer = {nvext, "nvext.", scope->error, ERR_OK};
    const json_t *object = json_field_object(&outer, "router_config_override");
    struct json_scope inner = {object, "nvext.router_config_override.", scope->error, ERR_OK};
    if (object) {
        json_field_number(&inner, "overlap_score_weight", 0, 1e6, false,
                          &spec->route.overlap_weight);
        json_field_number(&inner, "router_temperature", 0, 1e6, false, &spec->route.temperature);
    }
    if (outer.failed) scope->failed = outer.failed;
    if (inner.failed) scope->failed = inner.failed;
}

static void parse_request_id(struct json_scope *scope, struct request_spec *spec) {
    const char *id = NULL;
    size_t bytes = 0;
    if (!json_field_string(scope, "request_id", &id, &bytes)) return;
    if (!request_parse_id_is_good(id, bytes)) {
        json_field_fail(scope, "request_id", "must be 1 to 128 printable ASCII characters");
        return;
    }
    memcpy(spec->request_id, id, bytes + 1);
}

bool request_parse_id_is_good(const char *id, size_t bytes) {
    if (bytes == 0 || bytes >= REQUEST_ID_BYTES) return false;
    for (size_t i = 0; i < bytes; i++)
        if (id[i] < 0x20 || id[i] > 0x7e) return false;
    return true;
}

static void parse_tools(struct json_scope *scope, struct request_spec *spec) {
    const json_t *tools = json_field_array(scope, "tools");
    for (size_t i = 0; tools && i < json_array_size(tools) && !scope->failed; i++) {
        const json_t *tool = json_array_get(tools, i);
        const json_t *type = json_object_get(tool, "type");
        const json_t *function = json_object_get(tool, "function");
        char path[48];
        snprintf(path, sizeof path, "tools[%zu]", i);
        if (!json_is_object(tool))
            json_field_fail(scope, path, "must be an object, not %s", json_field_type_name(tool));
        else if (!json_is_string(type) || strcmp(json_string_value(type), "function") != 0)
            json_field_fail(scope, path, "must have the type \"function\"");
        else if (!json_is_string(json_object_get(function, "name")))
            json_field_fail(scope, path, "must have a function with a name");
    }
    if (tools && json_array_size(tools)) spec->tools = tools;
    const json_t *choice = json_field_get(scope, "tool_choice");
    if (!choice) return;
    const char *word = json_string_value(choice);
    if (json_is_object(choice) || (word && strcmp(word, "required") == 0))
        json_field_fail(scope, "tool_choice",
                        "can be \"auto\" or \"none\"; required or a named tool is not supported "
                        "here");
    else if (!word || (strcmp(word, "auto") != 0 && strcmp(word, "none") != 0))
        json_field_fail(scope, "tool_choice", "must be \"auto\" or \"none\"");
}

static void parse_modalities(struct json_scope *scope) {
    const json_t *array = json_field_array(scope, "modalities");
    for (size_t i = 0; array && i < json_array_size(array); i++) {
        const char *word = json_string_value(json_array_get(array, i));
        if (!word || strcmp(word, "text") != 0)
            json_field_fail(scope, "modalities", "can only be [\"text\"] here");
    }
}

/* What the template sees; shared by chat and /tokenize. */
static void parse_template_fields(struct json_scope *scope, struct request_spec *spec) {
    spec->messages = json_field_array(scope, "messages");
    if (!spec->messages && !scope->failed) json_field_fail(scope, "messages", "is missing");
    if (spec->messages && json_array_size(spec->messages) == 0)
        json_field_fail(scope, "messages", "cannot be empty");
    parse_tools(scope, spec);
    spec->documents = json_field_array(scope, "documents");
    spec->template_kwargs = json_field_object(scope, "chat_template_kwargs");
    if (spec->template_kwargs && json_object_get(spec->template_kwargs, "messages"))
        json_field_fail(scope, "chat_template_kwargs", "cannot replace messages");
    json_field_string(scope, "reasoning_effort", &spec->reasoning_effort, NULL);
    bool is_written = json_field_bool(scope, "add_generation_prompt", &spec->add_generation_prompt);
    json_field_bool(scope, "continue_final_message", &spec->continue_final_message);
    if (spec->continue_final_message && is_written && spec->add_generation_prompt)
        json_field_fail(scope, "continue_final_message",
                        "and add_generation_prompt cannot both be true");
    if (spec->continue_final_message) spec->add_generation_prompt = false;
    spec->add_special_tokens = false;
    json_field_bool(scope, "add_special_tokens", &spec->add_special_tokens);
}

static void parse_chat(struct json_scope *scope, const struct api_options *options,
                       struct request_spec *spec) {
    bool echo = false, wants = false;
    int64_t top = 0;
    parse_template_fields(scope, spec);
    parse_modalities(scope);
    if (json_field_bool(scope, "echo", &echo) && echo)
        json_field_fail(scope, "echo", "is not supported here: use /v1/completions");
    json_field_bool(scope, "parallel_tool_calls", &(bool){false});
    parse_sampling(scope, options, spec);
    json_field_bool(scope, "logprobs", &wants);
    json_field_int(scope, "top_logprobs", 0, SAMPLING_TOP_LOGPROBS_MAX, &top);
    if (top && !wants) json_field_fail(scope, "top_logprobs", "needs logprobs: true");
    if (wants) spec->logprobs = spec->sampling.logprobs = (int32_t) top;
}

/* --- prompts of completions -------------------------------------------------------------- */

static void take_id_prompt(struct json_scope *scope, const struct api_options *options,
                           struct request_spec *spec, const json_t *array,
                           struct request_prompt *prompt) {
    uint32_t *ids = NULL, count = 0;
    /* A longer one is refused by its number, without reading it. */
    if (json_array_size(array) > (size_t) options->model_len_max + 1) {
        json_field_fail(scope, "prompt",
                        "is too long: this model's maximum context length is %u tokens, the prompt "
                        "has %zu",
                        options->model_len_max, json_array_size(array));
        return;
    }
    if (json_array_size(array) == 0) {
        json_field_fail(scope, "prompt", "cannot be empty");
        return;
    }
    parse_ids(scope, "prompt", array, options->vocab_size, SIZE_MAX, spec->arena, &ids, &count);
    if (scope->failed) return;
    prompt->ids.ids = alloc_array(count, sizeof *ids);
    if (!prompt->ids.ids) {
        scope->failed = api_error_memory(scope->error);
        return;
    }
    memcpy(prompt->ids.ids, ids, count * sizeof *ids);
    prompt->ids.count = prompt->ids.room = count;
}

static void parse_prompt(struct json_scope *scope, const struct api_options *options,
                         struct request_spec *spec) {
    const json_t *value = json_field_get(scope, "prompt");
    if (scope->failed) return;
    if (!value) {
        json_field_fail(scope, "prompt", "is missing");
        return;
    }
    const json_t *first = json_array_get(value, 0);
    bool is_one = json_is_string(value) || json_is_number(first);
    size_t count = is_one ? 1 : json_array_size(value);
    if (!json_is_string(value) && !json_is_array(value)) {
        json_field_fail(scope, "prompt",
                        "must be a string, an array of strings, an array of token ids or an array "
                        "of those, not %s",
                        json_field_type_name(value));
    } else if (count == 0) {
        json_field_fail(scope, "prompt", "cannot be empty");
    } else if (count > REQUEST_PROMPTS_MAX) {
        json_field_fail(scope, "prompt", "may have at most %u entries, got %zu",
                        REQUEST_PROMPTS_MAX, count);
    }
    if (scope->failed) return;
    spec->prompts = arena_take_zero(spec->arena, count, sizeof *spec->prompts);
    if (!spec->prompts) {
        scope->failed = api_error_memory(scope->error);
        return;
    }
    spec->prompt_count = (uint32_t) count;
    for (size_t i = 0; i < count && !scope->failed; i++) {
        const json_t *one = is_one ? value : json_array_get(value, i);
        struct request_prompt *prompt = &spec->prompts[i];
        if (json_typeof(one) != json_typeof(is_one ? value : first)) {
            json_field_fail(scope, "prompt", "mixes strings and token ids");
        } else if (json_is_string(one)) {
            prompt->text = json_string_value(one);
            prompt->bytes = json_string_length(one);
        } else if (json_is_array(one)) {
            take_id_prompt(scope, options, spec, one, prompt);
        } else {
            json_field_fail(scope, "prompt", "must hold strings or token ids; entry %zu is %s", i,
                            json_field_type_name(one));
        }
    }
}

static void parse_completion(struct json_scope *scope, const struct api_options *options,
                             struct request_spec *spec) {
    int64_t count;
    spec->add_special_tokens = true;
    json_field_bool(scope, "add_special_tokens", &spec->add_special_tokens);
    json_field_bool(scope, "echo", &spec->echo);
    parse_prompt(scope, options, spec);
    parse_sampling(scope, options, spec);
    if (json_field_int(scope, "logprobs", 0, SAMPLING_TOP_LOGPROBS_MAX, &count)) {
        spec->logprobs = spec->sampling.logprobs = (int32_t) count;
        if (spec->echo) {
            spec->sampling.prompt_logprobs = (int32_t) count;
            spec->sampling.skip_prefix_cache = true; /* design.md 5 */
        }
    }
    if (!scope->failed && (uint64_t) spec->prompt_count * spec->n > REQUEST_CHOICES_MAX)
        json_field_fail(scope, "n", "times the number of prompts may be at most %u, got %u x %u",
                        REQUEST_CHOICES_MAX, spec->n, spec->prompt_count);
}

static void parse_tokenize(struct json_scope *scope, const struct api_options *options,
                           struct request_spec *spec) {
    if (json_field_get(scope, "messages")) {
        spec->has_messages = true;
        parse_template_fields(scope, spec);
    } else {
        spec->add_special_tokens = true;
        json_field_bool(scope, "add_special_tokens", &spec->add_special_tokens);
        const char *text = NULL;
        size_t bytes = 0;
        if (!json_field_string(scope, "prompt", &text, &bytes) && !scope->failed)
            json_field_fail(scope, "prompt", "is missing (or messages)");
        if (!scope->failed) {
            spec->prompts = arena_take_zero(spec->arena, 1, sizeof *spec->prompts);
            if (!spec->prompts) {
                scope->failed = api_error_memory(scope->error);
                return;
            }
            spec->prompts[0].text = text;
            spec->prompts[0].bytes = bytes;
            spec->prompt_count = 1;
        }
    }
    json_field_bool(scope, "return_token_strs", &spec->return_token_strs);
}

void request_parse_init(struct request_spec *spec, enum request_kind kind, struct arena *arena) {
    *spec = (struct request_spec){
        .kind = kind,
        .arena = arena,
        .has_messages = kind == REQUEST_CHAT,
        .add_generation_prompt = true,
        .n = 1,
        .skip_special_tokens = true,
        .route = {.overlap_weight = -1, .temperature = -1},
        .logprobs = -1,
    };
}

void request_parse_release(struct request_spec *spec) {
    for (uint32_t i = 0; i < spec->prompt_count; i++) tokenizer_ids_release(&spec->prompts[i].ids);
    spec->prompt_count = 0;
    json_decref(spec->root);
    spec->root = NULL;
}

enum err request_parse(struct request_spec *spec, const struct api_options *options,
                       const void *body, size_t bytes, struct api_error *error) {
    enum err e = json_field_parse(body, bytes, error, &spec->root);
    if (e) return e;
    struct json_scope scope = {spec->root, "", error, ERR_OK};
    spec->name_index = request_parse_model(&scope, options);
    parse_request_id(&scope, spec);
    parse_route(&scope, spec);
    refuse_unbuilt(&scope, spec->kind == REQUEST_CHAT         ? IN_CHAT
                           : spec->kind == REQUEST_COMPLETION ? IN_COMPLETION
                                                              : IN_TOKENIZE);
    switch (spec->kind) {
    case REQUEST_CHAT: parse_chat(&scope, options, spec); break;
    case REQUEST_COMPLETION: parse_completion(&scope, options, spec); break;
    case REQUEST_TOKENIZE: parse_tokenize(&scope, options, spec); return scope.failed;
    case REQUEST_DETOKENIZE: CHECK(false); /* token_answer_text reads that */
    }
    parse_response_format(&scope);
    parse_stream(&scope, spec);
    return scope.failed;
}
