/* Goal: every field of behaviour.md 5: what is accepted, what it becomes, and that everything else
 * is a 400 naming the field. */
#include "api_fixture.h"

#include "api/request_parse.h"

#define CHAT "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

static struct tokenizer *tokenizer;

static enum err parse(enum request_kind kind, const char *body, struct request_spec *spec,
                      struct arena *arena, struct api_error *error) {
    struct api_options options = fixture_options(tokenizer);
    arena_init(arena, 0);
    request_parse_init(spec, kind, arena);
    *error = (struct api_error){0};
    return request_parse(spec, &options, body, strlen(body), error);
}

static void append(char *text, size_t room, const char *more) {
    size_t used = strlen(text);
    snprintf(text + used, room - used, "%s", more);
}

static void expect_refused(enum request_kind kind, const char *body, const char *param) {
    struct request_spec spec;
    struct arena arena;
    struct api_error error;
    enum err e = parse(kind, body, &spec, &arena, &error);
    if (!e) fail_msg("accepted: %s", body);
    int status = strcmp(param, "model") == 0 ? 404 : 400;
    if (error.status != status || strcmp(error.param, param) != 0)
        fail_msg("%s: status %d param '%s' (%s), wanted '%s'", body, error.status, error.param,
                 error.text.text, param);
    request_parse_release(&spec);
    arena_release(&arena);
}

static void expect_accepted(enum request_kind kind, const char *body) {
    struct request_spec spec;
    struct arena arena;
    struct api_error error;
    if (parse(kind, body, &spec, &arena, &error))
        fail_msg("%s: refused: %s", body, error.text.text);
    request_parse_release(&spec);
    arena_release(&arena);
}

/* Fields of both endpoints: (json of the field, param), bad and good. */
static const struct {
    const char *field;
    const char *param; /* NULL: accepted */
} both[] = {
    {"\"temperature\":-0.1", "temperature"},
    {"\"nvext\":{\"router_config_override\":{\"overlap_score_weight\":-1}}",
     "nvext.router_config_override.overlap_score_weight"},
    {"\"nvext\":{\"router_config_override\":{\"router_temperature\":\"x\"}}",
     "nvext.router_config_override.router_temperature"},
    {"\"nvext\":{\"router_config_override\":3}", "nvext.router_config_override"},
    {"\"nvext\":5", "nvext"},
    {"\"nvext\":{\"annotations\":[],\"router_config_override\":null}", NULL},
    {"\"temperature\":2.1", "temperature"},
    {"\"temperature\":\"1\"", "temperature"},
    {"\"temperature\":true", "temperature"},
    {"\"temperature\":0", NULL},
    {"\"temperature\":2", NULL},
    {"\"temperature\":null", NULL},
    {"\"top_p\":0", "top_p"},
    {"\"top_p\":1.01", "top_p"},
    {"\"top_p\":1", NULL},
    {"\"top_p\":1e-60", NULL},
    {"\"top_k\":-2", "top_k"},
    {"\"top_k\":-1", NULL},
    {"\"top_k\":0", NULL},
    {"\"top_k\":1", NULL},
    {"\"top_k\":40.5", "top_k"},
    {"\"top_k\":3000000000", "top_k"},
    {"\"min_p\":-0.1", "min_p"},
    {"\"min_p\":1.5", "min_p"},
    {"\"min_p\":0.5", NULL},
    {"\"presence_penalty\":2.5", "presence_penalty"},
    {"\"presence_penalty\":-2", NULL},
    {"\"frequency_penalty\":-2.5", "frequency_penalty"},
    {"\"frequency_penalty\":2", NULL},
    {"\"repetition_penalty\":0", "repetition_penalty"},
    {"\"repetition_penalty\":1e300", "repetition_penalty"},
    {"\"repetition_penalty\":1.1", NULL},
    {"\"n\":0", "n"},
    {"\"n\":129", "n"},
    {"\"n\":1.5", "n"},
    {"\"n\":128", NULL},
    {"\"n\":4,\"temperature\":0", NULL},
    {"\"seed\":\"1\"", "seed"},
    {"\"seed\":1.5", "seed"},
    {"\"seed\":-9223372036854775808", NULL},
    {"\"seed\":9223372036854775807", NULL},
    {"\"max_tokens\":0", "max_tokens"},
    {"\"max_tokens\":-1", "max_tokens"},
    {"\"max_tokens\":\"5\"", "max_tokens"},
    {"\"max_tokens\":5.0", NULL},
    {"\"max_tokens\":null", NULL},
    {"\"min_tokens\":-1", "min_tokens"},
    {"\"min_tokens\":6,\"max_tokens\":5", "min_tokens"},
    {"\"min_tokens\":5,\"max_tokens\":5", NULL},
    {"\"ignore_eos\":1", "ignore_eos"},
    {"\"ignore_eos\":true", NULL},
    {"\"stop\":1", "stop"},
    {"\"stop\":\"\"", "stop"},
    {"\"stop\":[\"a\",\"\"]", "stop"},
    {"\"stop\":[\"a\",2]", "stop"},
    {"\"stop\":{}", "stop"},
    {"\"stop\":[]", NULL},
    {"\"stop\":[\"a\",\"b\"]", NULL},
    {"\"stop\":\"a\"", NULL},
    {"\"stop_token_ids\":5", "stop_token_ids"},
    {"\"stop_token_ids\":[260]", "stop_token_ids"},
    {"\"stop_token_ids\":[-1]", "stop_token_ids"},
    {"\"stop_token_ids\":[\"a\"]", "stop_token_ids"},
    {"\"stop_token_ids\":[1,2.0]", NULL},
    {"\"logit_bias\":[]", "logit_bias"},
    {"\"logit_bias\":{\"x\":1}", "logit_bias"},
    {"\"logit_bias\":{\"260\":1}", "logit_bias"},
    {"\"logit_bias\":{\"-1\":1}", "logit_bias"},
    {"\"logit_bias\":{\"\":1}", "logit_bias"},
    {"\"logit_bias\":{\"99999999999999999999\":1}", "logit_bias"},
    {"\"logit_bias\":{\"5\":101}", "logit_bias"},
    {"\"logit_bias\":{\"5\":\"1\"}", "logit_bias"},
    {"\"logit_bias\":{\"5\":1,\"05\":2}", "logit_bias"},
    {"\"logit_bias\":{\"5\":-100,\"259\":100}", NULL},
    {"\"logit_bias\":{}", NULL},
    {"\"allowed_token_ids\":[]", "allowed_token_ids"},
    {"\"allowed_token_ids\":[260]", "allowed_token_ids"},
    {"\"allowed_token_ids\":\"a\"", "allowed_token_ids"},
    {"\"allowed_token_ids\":[0,259]", NULL},
    {"\"bad_words\":\"a\"", "bad_words"},
    {"\"bad_words\":[\"\"]", "bad_words"},
    {"\"bad_words\":[1]", "bad_words"},
    {"\"bad_words\":[\"a\"]", NULL},
    {"\"include_stop_str_in_output\":0", "include_stop_str_in_output"},
    {"\"skip_special_tokens\":\"no\"", "skip_special_tokens"},
    {"\"add_special_tokens\":1", "add_special_tokens"},
    {"\"stream\":\"true\"", "stream"},
    {"\"stream\":1", "stream"},
    {"\"timings\":1", "timings"},
    {"\"stream_options\":{}", "stream_options"},
    {"\"stream\":false,\"stream_options\":{\"include_usage\":true}", "stream_options"},
    {"\"stream\":true,\"stream_options\":{\"include_usage\":1}", "stream_options.include_usage"},
    {"\"stream\":true,\"stream_options\":[]", "stream_options"},
    {"\"stream\":true,\"stream_options\":{\"include_usage\":true}", NULL},
    {"\"stream\":false,\"stream_options\":null", NULL},
    {"\"model\":\"other\"", "model"},
    {"\"model\":\"alias\"", NULL},
    {"\"model\":null", NULL},
    {"\"request_id\":\"\"", "request_id"},
    {"\"request_id\":\"a\\u0001\"", "request_id"},
    {"\"request_id\":\"abc-1\"", NULL},
    {"\"user\":\"me\"", NULL},
    {"\"some_future_field\":{\"a\":[1]}", NULL},
    /* known, not built */
    {"\"response_format\":{\"type\":\"json_object\"}", "response_format"},
    {"\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{}}", "response_format"},
    {"\"response_format\":{}", "response_format"},
    {"\"response_format\":\"json\"", "response_format"},
    {"\"response_format\":{\"type\":\"text\"}", NULL},
    {"\"response_format\":null", NULL},
    {"\"best_of\":2", "best_of"},
    {"\"best_of\":1", NULL},
    {"\"use_beam_search\":true", "use_beam_search"},
    {"\"use_beam_search\":false", NULL},
    {"\"length_penalty\":1.0", NULL},
    {"\"length_penalty\":2.0", "length_penalty"},
    {"\"guided_json\":{}", "guided_json"},
    {"\"guided_regex\":\"a\"", "guided_regex"},
    {"\"guided_choice\":[\"a\"]", "guided_choice"},
    {"\"guided_grammar\":\"a\"", "guided_grammar"},
    {"\"structured_outputs\":{\"regex\":\"a\"}", "structured_outputs"},
    {"\"prompt_logprobs\":1", "prompt_logprobs"},
    {"\"truncate_prompt_tokens\":5", "truncate_prompt_tokens"},
    {"\"logits_processors\":[\"a\"]", "logits_processors"},
    {"\"priority\":1", "priority"},
    {"\"priority\":0", NULL},
    {"\"cache_salt\":\"a\"", "cache_salt"},
    {"\"kv_transfer_params\":{}", "kv_transfer_params"},
    {"\"return_token_ids\":true", "return_token_ids"},
    {"\"return_tokens_as_token_ids\":true", "return_tokens_as_token_ids"},
    {"\"spaces_between_special_tokens\":true", NULL},
    {"\"spaces_between_special_tokens\":false", "spaces_between_special_tokens"},
    {"\"mirostat\":2", "mirostat"},
    {"\"typical_p\":1.0", NULL},
    {"\"n_predict\":5", "n_predict"},
};

static const struct {
    const char *body;
    const char *param;
} chats[] = {
    {"{}", "messages"},
    {"{\"messages\":null}", "messages"},
    {"{\"messages\":[]}", "messages"},
    {"{\"messages\":\"hi\"}", "messages"},
    {"{" CHAT ",\"max_completion_tokens\":0}", "max_completion_tokens"},
    {"{" CHAT ",\"max_completion_tokens\":9,\"max_tokens\":5}", NULL},
    {"{" CHAT ",\"logprobs\":1}", "logprobs"},
    {"{" CHAT ",\"logprobs\":true,\"top_logprobs\":21}", "top_logprobs"},
    {"{" CHAT ",\"logprobs\":true,\"top_logprobs\":-1}", "top_logprobs"},
    {"{" CHAT ",\"top_logprobs\":2}", "top_logprobs"},
    {"{" CHAT ",\"logprobs\":false,\"top_logprobs\":2}", "top_logprobs"},
    {"{" CHAT ",\"logprobs\":true,\"top_logprobs\":20}", NULL},
    {"{" CHAT ",\"top_logprobs\":0}", NULL},
    {"{" CHAT ",\"functions\":[{\"name\":\"f\"}]}", "functions"},
    {"{" CHAT ",\"functions\":[]}", NULL},
    {"{" CHAT ",\"function_call\":\"auto\"}", "function_call"},
    {"{" CHAT ",\"tool_choice\":\"required\"}", "tool_choice"},
    {"{" CHAT ",\"tool_choice\":{\"type\":\"function\"}}", "tool_choice"},
    {"{" CHAT ",\"tool_choice\":\"never\"}", "tool_choice"},
    {"{" CHAT ",\"tool_choice\":\"auto\"}", NULL},
    {"{" CHAT ",\"tool_choice\":\"none\"}", NULL},
    {"{" CHAT ",\"tools\":{}}", "tools"},
    {"{" CHAT ",\"tools\":[1]}", "tools[0]"},
    {"{" CHAT ",\"tools\":[{\"type\":\"x\"}]}", "tools[0]"},
    {"{" CHAT ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}},"
     "{\"type\":\"function\",\"function\":{}}]}",
     "tools[1]"},
    {"{" CHAT ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]}", NULL},
    {"{" CHAT ",\"modalities\":[\"text\",\"audio\"]}", "modalities"},
    {"{" CHAT ",\"modalities\":[\"text\"]}", NULL},
    {"{" CHAT ",\"audio\":{}}", "audio"},
    {"{" CHAT ",\"echo\":true}", "echo"},
    {"{" CHAT ",\"echo\":false}", NULL},
    {"{" CHAT ",\"chat_template\":\"x\"}", "chat_template"},
    {"{" CHAT ",\"chat_template_kwargs\":[]}", "chat_template_kwargs"},
    {"{" CHAT ",\"chat_template_kwargs\":{\"messages\":[]}}", "chat_template_kwargs"},
    {"{" CHAT ",\"chat_template_kwargs\":{\"enable_thinking\":false}}", NULL},
    {"{" CHAT ",\"continue_final_message\":true,\"add_generation_prompt\":true}",
     "continue_final_message"},
    {"{" CHAT ",\"continue_final_message\":true}", NULL},
    {"{" CHAT ",\"include_reasoning\":false}", "include_reasoning"},
    {"{" CHAT ",\"parallel_tool_calls\":1}", "parallel_tool_calls"},
    {"{" CHAT ",\"suffix\":\"x\"}", NULL},      /* no field of this endpoint: unknown */
    {"{" CHAT ",\"messages\":[]}", "messages"}, /* twice the same key */
    {"{" CHAT ",\"top_p\":1,\"n\":1, \"top_p\" : 1,\"seed\":1}", "top_p"},
    {"{" CHAT ",\"logit_bias\":{\"5\":1,\"6\":1,\"5\":2}}", "logit_bias.5"},
};

static const struct {
    const char *body;
    const char *param;
} completions[] = {
    {"{}", "prompt"},
    {"{\"prompt\":null}", "prompt"},
    {"{\"prompt\":5}", "prompt"},
    {"{\"prompt\":{}}", "prompt"},
    {"{\"prompt\":[]}", "prompt"},
    {"{\"prompt\":[[]]}", "prompt"},
    {"{\"prompt\":[1,\"a\"]}", "prompt"},
    {"{\"prompt\":[\"a\",1]}", "prompt"},
    {"{\"prompt\":[[1],\"a\"]}", "prompt"},
    {"{\"prompt\":[\"a\",[1]]}", "prompt"},
    {"{\"prompt\":[null]}", "prompt"},
    {"{\"prompt\":[260]}", "prompt"},
    {"{\"prompt\":[-1]}", "prompt"},
    {"{\"prompt\":[1.5]}", "prompt"},
    {"{\"prompt\":[1,2,3.0]}", NULL},
    {"{\"prompt\":[[1],[2,3]]}", NULL},
    {"{\"prompt\":[\"a\",\"b\"]}", NULL},
    {"{\"prompt\":\"a\",\"suffix\":\"b\"}", "suffix"},
    {"{\"prompt\":\"a\",\"suffix\":\"\"}", NULL},
    {"{\"prompt\":\"a\",\"logprobs\":21}", "logprobs"},
    {"{\"prompt\":\"a\",\"logprobs\":true}", "logprobs"},
    {"{\"prompt\":\"a\",\"logprobs\":0}", NULL},
    {"{\"prompt\":\"a\",\"echo\":1}", "echo"},
    {"{\"prompt\":\"a\",\"echo\":true,\"max_tokens\":0}", NULL},
    {"{\"prompt\":\"a\",\"max_tokens\":0}", "max_tokens"},
    {"{\"prompt\":\"a\",\"prompt_embeds\":\"x\"}", "prompt_embeds"},
};

static void test_fields(void **state) {
    for (size_t i = 0; i < ARRAY_COUNT(both); i++) {
        for (int kind = REQUEST_CHAT; kind <= REQUEST_COMPLETION; kind++) {
            char body[512];
            snprintf(body, sizeof body, "{%s,%s}", kind == REQUEST_CHAT ? CHAT : "\"prompt\":\"a\"",
                     both[i].field);
            if (both[i].param) expect_refused(kind, body, both[i].param);
            else expect_accepted(kind, body);
        }
    }
}

static void test_chat(void **state) {
    for (size_t i = 0; i < ARRAY_COUNT(chats); i++) {
        if (chats[i].param) expect_refused(REQUEST_CHAT, chats[i].body, chats[i].param);
        else expect_accepted(REQUEST_CHAT, chats[i].body);
    }
}

static void test_completions(void **state) {
    for (size_t i = 0; i < ARRAY_COUNT(completions); i++) {
        if (completions[i].param)
            expect_refused(REQUEST_COMPLETION, completions[i].body, completions[i].param);
        else expect_accepted(REQUEST_COMPLETION, completions[i].body);
    }
    /* prompts x n */
    char body[4096] = "{\"n\":128,\"prompt\":[";
    for (int i = 0; i < 33; i++) append(body, sizeof body, i ? ",[1]" : "[1]");
    append(body, sizeof body, "]}");
    expect_refused(REQUEST_COMPLETION, body, "n");
    /* longer than the model, refused by its number */
    char ids[2048] = "{\"prompt\":[1";
    for (int i = 0; i < 300; i++) append(ids, sizeof ids, ",1");
    append(ids, sizeof ids, "]}");
    expect_refused(REQUEST_COMPLETION, ids, "prompt");
}

static void test_values(void **state) {
    struct request_spec spec;
    struct arena arena;
    struct api_error error;
    assert_int_equal(
        parse(REQUEST_CHAT,
              "{" CHAT ",\"model\":\"alias\",\"temperature\":0.5,\"top_p\":0.9,\"top_k\":40,"
              "\"min_p\":0.1,\"seed\":-1,\"n\":3,\"max_tokens\":7,\"max_completion_tokens\":9,"
              "\"stop\":[\"x\",\"yy\"],\"stop_token_ids\":[7],\"logit_bias\":{\"5\":-100},"
              "\"logprobs\":true,\"top_logprobs\":4,\"stream\":true,\"stream_options\":"
              "{\"include_usage\":true,\"continuous_usage_stats\":true},\"timings\":true,"
              "\"nvext\":{\"router_config_override\":{\"overlap_score_weight\":0.5}}}",
              &spec, &arena, &error),
        ERR_OK);
    assert_int_equal(spec.name_index, 1);
    assert_true(spec.sampling.temperature == 0.5f && spec.sampling.top_p == 0.9f);
    assert_int_equal(spec.sampling.top_k, 40);
    assert_true(spec.has_seed && spec.sampling.seed == UINT64_MAX);
    assert_int_equal(spec.n, 3);
    assert_int_equal(spec.sampling.max_tokens, 9); /* max_completion_tokens wins */
    assert_int_equal(spec.stops.count, 2);
    assert_int_equal(spec.sampling.stop_id_count, 2); /* its own, then the model's */
    assert_int_equal(spec.sampling.stop_ids[0], 7);
    assert_int_equal(spec.sampling.stop_ids[1], ID_END);
    assert_int_equal(spec.sampling.logit_bias_count, 1);
    assert_int_equal(spec.sampling.logprobs, 4);
    assert_int_equal(spec.sampling.prompt_logprobs, -1);
    assert_true(spec.is_stream && spec.include_usage && spec.continuous_usage);
    assert_true(spec.wants_timings);
    assert_true(spec.route.overlap_weight == 0.5 && spec.route.temperature == -1);
    request_parse_release(&spec);
    arena_release(&arena);

    assert_int_equal(parse(REQUEST_COMPLETION,
                           "{\"prompt\":[[1,2],[3]],\"echo\":true,\"logprobs\":2,"
                           "\"ignore_eos\":true,\"max_tokens\":0}",
                           &spec, &arena, &error),
                     ERR_OK);
    assert_int_equal(spec.prompt_count, 2);
    assert_int_equal(spec.prompts[0].ids.count, 2);
    assert_int_equal(spec.prompts[1].ids.ids[0], 3);
    assert_int_equal(spec.sampling.prompt_logprobs, 2);
    assert_true(spec.sampling.skip_prefix_cache);
    assert_int_equal(spec.sampling.stop_id_count, 0); /* ignore_eos */
    assert_true(spec.sampling.temperature == 1);      /* the default, not greedy */
    request_parse_release(&spec);
    arena_release(&arena);
}

static void test_memory(void **state) {
    static const char body[] =
        "{\"prompt\":[\"a\",\"b\"],\"stop\":[\"x\",\"yy\"],\"stop_token_ids\":[7],"
        "\"logit_bias\":{\"5\":-100},\"allowed_token_ids\":[1,2],\"bad_words\":[\"q\"]}";
    /* jansson itself aborts (an assert in its lexer) when memory ends: only our own are failed. */
    uint64_t n = 1;
    for (;; n++) {
        struct request_spec spec;
        struct arena arena;
        struct api_error error;
        alloc_fail_at(n, 0);
        enum err e = parse(REQUEST_COMPLETION, body, &spec, &arena, &error);
        bool was_reached = alloc_count() >= n;
        alloc_fail_at(0, 0);
        if (e) assert_true(error.status == 500 || error.status == 400);
        request_parse_release(&spec);
        arena_release(&arena);
        if (!was_reached) {
            assert_int_equal(e, ERR_OK);
            break;
        }
    }
    assert_true(n >= 2);
}

int main(void) {
    tokenizer = fixture_tokenizer();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),      cmocka_unit_test(test_chat),
        cmocka_unit_test(test_completions), cmocka_unit_test(test_values),
        cmocka_unit_test(test_memory),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    tokenizer_close(tokenizer);
    return failed;
}
