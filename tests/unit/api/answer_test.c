/* Goal: the same tokens give the same text, reasons, usage and logprobs however they were cut
 * into messages, streamed or not; a token gives one event; every chunk is valid JSON in OpenAI's
 * form. */
#include "api_fixture.h"

#include "api/answer.h"

static struct tokenizer *tokenizer;
static struct api_options options;
static struct answer_scratch scratch;

struct run {
    struct arena arena;
    struct request_spec spec;
    struct answer answer;
    struct buf out;
};

static void run_open(struct run *run, enum request_kind kind, const char *body) {
    struct api_error error;
    arena_init(&run->arena, 0);
    buf_init(&run->out, 0);
    request_parse_init(&run->spec, kind, &run->arena);
    if (request_parse(&run->spec, &options, body, strlen(body), &error))
        fail_msg("%s: %s", body, error.text.text);
    if (kind == REQUEST_CHAT) { /* as request_prompt would: "hi" */
        run->spec.prompts = arena_take_zero(&run->arena, 1, sizeof *run->spec.prompts);
        run->spec.prompt_count = 1;
    }
    for (uint32_t i = 0; i < run->spec.prompt_count; i++) {
        struct tokenizer_ids *ids = &run->spec.prompts[i].ids;
        if (ids->ids) continue;
        ids->ids = alloc_array(2, sizeof *ids->ids);
        ids->ids[0] = 'h', ids->ids[1] = 'i';
        ids->count = ids->room = 2;
    }
    assert_int_equal(
        answer_init(&run->answer, &run->spec, &options, &scratch, "chatcmpl-\"x", 1700000000),
        ERR_OK);
}

static void run_close(struct run *run) {
    answer_release(&run->answer);
    request_parse_release(&run->spec);
    arena_release(&run->arena);
    buf_release(&run->out);
}

static void advance_all(struct run *run) {
    for (uint32_t i = 0; i < run->answer.choice_count; i++)
        assert_true(answer_advance(&run->answer, &run->answer.choices[i], SIZE_MAX, &run->out));
}

/* Tokens in pieces whose ends are the bits of cuts. */
static void feed(struct run *run, uint32_t choice, const uint32_t *ids, uint32_t count,
                 uint64_t cuts, uint8_t finish, uint32_t stop_id) {
    struct msg_logprob logprobs[64];
    uint32_t top_ids[64][2];
    float tops[64][2];
    for (uint32_t i = 0; i < count; i++) {
        top_ids[i][0] = ids[i], top_ids[i][1] = 'z';
        tops[i][0] = -0.25f * (float) i, tops[i][1] = -3.5f;
        logprobs[i] = (struct msg_logprob){ids[i], tops[i][0], 1, 2, top_ids[i], tops[i]};
    }
    struct token_log *log = &run->answer.logs[choice];
    uint32_t from = 0;
    for (uint32_t end = 1; end <= count; end++) {
        if (end < count && !(cuts >> (end % 64) & 1)) continue;
        token_log_add(log, from, ids + from, end - from,
                      run->spec.logprobs >= 0 ? logprobs + from : NULL,
                      end == count ? finish : MSG_FINISH_NONE, stop_id);
        from = end;
        advance_all(run);
    }
    if (count == 0) token_log_add(log, 0, NULL, 0, NULL, finish, stop_id);
    advance_all(run);
}

/* The joined text of a choice out of the events; counts them, checks their form. */
static void read_stream(const struct run *run, uint32_t index, struct buf *text, char *reason,
                        json_t **logprobs, uint32_t *content_events) {
    bool is_chat = run->spec.kind == REQUEST_CHAT;
    const char *at = (const char *) run->out.data, *end = at + run->out.bytes;
    bool saw_role = !is_chat;
    buf_init(text, 0);
    reason[0] = '\0';
    *content_events = 0;
    *logprobs = json_array();
    while (at < end) {
        assert_memory_equal(at, "data: ", 6);
        const char *stop = memmem(at, (size_t) (end - at), "\n\n", 2);
        assert_non_null(stop);
        if (strncmp(at + 6, "[DONE]", 6) == 0) {
            assert_ptr_equal(stop + 2, end);
            break;
        }
        json_error_t why;
        json_t *chunk = json_loadb(at + 6, (size_t) (stop - at - 6), JSON_REJECT_DUPLICATES, &why);
        if (!chunk) fail_msg("%s in %.*s", why.text, (int) (stop - at), at);
        assert_string_equal(json_string_value(json_object_get(chunk, "object")),
                            is_chat ? "chat.completion.chunk" : "text_completion");
        assert_string_equal(json_string_value(json_object_get(chunk, "id")), "chatcmpl-\"x");
        json_t *choice = json_array_get(json_object_get(chunk, "choices"), 0);
        if (choice && json_integer_value(json_object_get(choice, "index")) == index) {
            json_t *delta = json_object_get(choice, "delta");
            json_t *piece = json_object_get(is_chat ? delta : choice, is_chat ? "content" : "text");
            assert_true(json_is_string(piece));
            if (json_object_get(delta, "role")) {
                assert_false(saw_role);
                saw_role = true;
            } else {
                assert_true(saw_role);
                buf_add(text, json_string_value(piece), json_string_length(piece));
                (*content_events)++;
            }
            json_t *list = json_object_get(json_object_get(choice, "logprobs"), "content");
            if (list) json_array_extend(*logprobs, list);
            json_t *finish = json_object_get(choice, "finish_reason");
            if (json_is_string(finish)) {
                assert_string_equal(reason, "");
                snprintf(reason, 16, "%s", json_string_value(finish));
            }
        }
        json_decref(chunk);
        at = stop + 2;
    }
}

static uint32_t ids_of(const char *text, uint32_t *ids) {
    uint32_t count = (uint32_t) strlen(text);
    for (uint32_t i = 0; i < count; i++) ids[i] = (unsigned char) text[i];
    return count;
}

static const struct {
    const char *tokens; /* a byte a token */
    const char *fields;
    uint8_t finish;
    uint32_t stop_id; /* appended as the last token when finish is STOP */
    const char *text, *reason;
    uint32_t completion_tokens;
} streams[] = {
    {"hello", "", MSG_FINISH_LENGTH, 0, "hello", "length", 5},
    {"hello", "", MSG_FINISH_STOP, ID_END, "hello", "stop", 6},
    {"", "", MSG_FINISH_STOP, ID_END, "", "stop", 1},
    {"say \"\\\n\t\x01", "", MSG_FINISH_LENGTH, 0, "say \"\\\n\t\x01", "length", 9},
    {"caf\xc3\xa9\xe4\xbd\xa0", "", MSG_FINISH_LENGTH, 0, "caf\xc3\xa9\xe4\xbd\xa0", "length", 8},
    {"x\xe4\xbd", "", MSG_FINISH_LENGTH, 0, "x\xef\xbf\xbd", "length", 3},
    {"hello world", ",\"stop\":\"o w\"", MSG_FINISH_LENGTH, 0, "hell", "stop", 7},
    {"hello world", ",\"stop\":\"o w\",\"include_stop_str_in_output\":true", MSG_FINISH_LENGTH, 0,
     "hello w", "stop", 7},
    {"hello wor", ",\"stop\":[\"worx\",\"zz\"]", MSG_FINISH_LENGTH, 0, "hello wor", "length", 9},
    {"hello wor", ",\"stop\":\"worx\"", MSG_FINISH_STOP, ID_END, "hello wor", "stop", 10},
    {"abab", ",\"stop\":\"ab\",\"min_tokens\":2,\"max_tokens\":9", MSG_FINISH_LENGTH, 0, "ab",
     "stop", 4},
    {"a\xc3\xa9z", ",\"stop\":\"\xc3\xa9\"", MSG_FINISH_LENGTH, 0, "a", "stop", 3},
    {"q", ",\"stop_token_ids\":[113]", MSG_FINISH_STOP, 'q', "q", "stop", 2},
    {"q", ",\"stop_token_ids\":[113],\"include_stop_str_in_output\":true", MSG_FINISH_STOP, 'q',
     "qq", "stop", 2},
};

static void test_every_chunking(void **state) {
    for (size_t i = 0; i < ARRAY_COUNT(streams); i++) {
        uint32_t ids[64], count = ids_of(streams[i].tokens, ids);
        if (streams[i].finish == MSG_FINISH_STOP) ids[count++] = streams[i].stop_id;
        for (int mode = 0; mode < 4; mode++) {
            bool is_chat = mode & 1, has_logprobs = mode & 2;
            for (uint64_t cuts = 0; cuts < 1u << count; cuts++) {
                if (count > 8 && cuts % 7) continue;
                char body[512];
                snprintf(body, sizeof body, "{%s,\"stream\":true,\"logprobs\":%s%s}",
                         is_chat ? "\"messages\":[{}]" : "\"prompt\":\"hi\"",
                         !has_logprobs ? "null"
                         : is_chat     ? "true,\"top_logprobs\":2"
                                       : "2",
                         streams[i].fields);
                struct run run;
                run_open(&run, is_chat ? REQUEST_CHAT : REQUEST_COMPLETION, body);
                feed(&run, 0, ids, count, cuts << 1, streams[i].finish, streams[i].stop_id);
                assert_true(answer_is_ended(&run.answer));
                answer_stream_end(&run.answer, &run.out);
                struct buf text;
                char reason[16];
                json_t *logprobs;
                uint32_t events;
                read_stream(&run, 0, &text, reason, &logprobs, &events);
                assert_int_equal(text.bytes, strlen(streams[i].text));
                assert_memory_equal(text.data ? text.data : (uint8_t *) "", streams[i].text,
                                    text.bytes);
                assert_string_equal(reason, streams[i].reason);
                assert_int_equal(answer_completion_tokens(&run.answer),
                                 streams[i].completion_tokens);
                if (is_chat && has_logprobs)
                    assert_int_equal(json_array_size(logprobs), streams[i].completion_tokens);
                /* one event a token; the end may take one more for held text and one for itself */
                assert_in_range(events, streams[i].completion_tokens,
                                streams[i].completion_tokens + 2);
                json_decref(logprobs);
                buf_release(&text);
                run_close(&run);
            }
        }
    }
}

static json_t *body_of(struct run *run) {
    struct buf out;
    buf_init(&out, 0);
    answer_body(&run->answer, &out);
    json_error_t why;
    json_t *body = json_loadb((const char *) out.data, out.bytes, JSON_REJECT_DUPLICATES, &why);
    if (!body) fail_msg("%s: %.*s", why.text, (int) out.bytes, (const char *) out.data);
    buf_release(&out);
    return body;
}

static void test_body_equals_stream(void **state) {
    for (size_t i = 0; i < ARRAY_COUNT(streams); i++) {
        uint32_t ids[64], count = ids_of(streams[i].tokens, ids);
        if (streams[i].finish == MSG_FINISH_STOP) ids[count++] = streams[i].stop_id;
        char body[512];
        snprintf(body, sizeof body, "{\"messages\":[{}],\"logprobs\":true,\"top_logprobs\":2%s}",
                 streams[i].fields);
        struct run run;
        run_open(&run, REQUEST_CHAT, body);
        feed(&run, 0, ids, count, 0x5555, streams[i].finish, streams[i].stop_id);
        json_t *root = body_of(&run);
        json_t *choice = json_array_get(json_object_get(root, "choices"), 0);
        json_t *content = json_object_get(json_object_get(choice, "message"), "content");
        assert_int_equal(json_string_length(content), strlen(streams[i].text));
        assert_memory_equal(json_string_value(content), streams[i].text, strlen(streams[i].text));
        assert_string_equal(json_string_value(json_object_get(choice, "finish_reason")),
                            streams[i].reason);
        json_t *usage = json_object_get(root, "usage");
        assert_int_equal(json_integer_value(json_object_get(usage, "completion_tokens")),
                         streams[i].completion_tokens);
        assert_int_equal(json_integer_value(json_object_get(usage, "total_tokens")),
                         streams[i].completion_tokens + 2);
        json_t *list = json_object_get(json_object_get(choice, "logprobs"), "content");
        assert_int_equal(json_array_size(list), streams[i].completion_tokens);
        json_decref(root);
        run_close(&run);
    }
}

static void test_stop_reason(void **state) {
    static const struct {
        const char *fields;
        uint32_t last;
        const char *json;
    } cases[] = {
        {"", ID_END, "\"finish_reason\":\"stop\",\"stop_reason\":null"},
        {",\"stop_token_ids\":[113]", 'q', "\"finish_reason\":\"stop\",\"stop_reason\":113"},
        {",\"stop\":\"\\\"q\"", 'q', "\"finish_reason\":\"stop\",\"stop_reason\":\"\\\"q\""},
        {",\"ignore_eos\":true,\"stop_token_ids\":[257]", ID_END, "\"stop_reason\":257"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        char body[256];
        snprintf(body, sizeof body, "{\"prompt\":\"hi\",\"stream\":true%s}", cases[i].fields);
        struct run run;
        run_open(&run, REQUEST_COMPLETION, body);
        uint32_t ids[] = {'a', '"', cases[i].last};
        bool is_string = strstr(cases[i].fields, "\"stop\"") != NULL;
        feed(&run, 0, ids, 3, 2, is_string ? MSG_FINISH_LENGTH : MSG_FINISH_STOP, cases[i].last);
        if (!strstr(buf_string(&run.out), cases[i].json))
            fail_msg("%s lacks %s", buf_string(&run.out), cases[i].json);
        run_close(&run);
    }
}

static void test_choices_usage_and_timings(void **state) {
    struct run run;
    run_open(&run, REQUEST_COMPLETION,
             "{\"prompt\":[[1,2,3],[4]],\"n\":2,\"stream\":true,\"timings\":true,"
             "\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true}}");
    assert_int_equal(run.answer.choice_count, 4);
    run.answer.prompts[0].cached_tokens = 2;
    uint32_t ids[] = {'a', 'b'};
    for (uint32_t i = 0; i < 4; i++) {
        assert_false(answer_is_ended(&run.answer));
        feed(&run, 3 - i, ids, 2, 2, MSG_FINISH_LENGTH, 0);
    }
    assert_true(answer_is_ended(&run.answer));
    run.answer.timings = (struct answer_timings){.prompt_ms = 4, .predicted_ms = 16};
    answer_stream_end(&run.answer, &run.out);
    const char *out = buf_string(&run.out);
    assert_non_null(strstr(out,
                           "\"choices\":[],\"usage\":{\"prompt_tokens\":4,\"total_tokens\":12,"
                           "\"completion_tokens\":8,\"prompt_tokens_details\":"
                           "{\"cached_tokens\":2}},\"timings\":{\"cache_n\":2,\"prompt_n\":2,"));
    assert_non_null(strstr(out, "\"predicted_per_second\":500.000000"));
    assert_non_null(strstr(out, "\"usage\":{\"prompt_tokens\":1,\"total_tokens\":2,"
                                "\"completion_tokens\":1,"));
    for (uint32_t i = 0; i < 4; i++) {
        struct buf text;
        char reason[16];
        json_t *logprobs;
        uint32_t events;
        read_stream(&run, i, &text, reason, &logprobs, &events);
        assert_int_equal(text.bytes, 2);
        assert_string_equal(reason, "length");
        json_decref(logprobs);
        buf_release(&text);
    }
    run_close(&run);
    /* without usage the timings stand in the last chunk that has choices */
    run_open(&run, REQUEST_CHAT, "{\"messages\":[{}],\"stream\":true,\"timings\":true}");
    feed(&run, 0, ids, 2, 0, MSG_FINISH_LENGTH, 0);
    answer_stream_end(&run.answer, &run.out);
    assert_non_null(strstr(buf_string(&run.out), "\"stop_reason\":null}],\"timings\":{"));
    run_close(&run);
}

static void test_echo(void **state) {
    for (int is_stream = 0; is_stream < 2; is_stream++) {
        char body[256];
        snprintf(body, sizeof body,
                 "{\"prompt\":[104,195,169],\"echo\":true,\"logprobs\":1,\"stream\":%s}",
                 is_stream ? "true" : "false");
        struct run run;
        run_open(&run, REQUEST_COMPLETION, body);
        uint32_t ids[] = {'a', 'b'};
        feed(&run, 0, ids, 2, 2, MSG_FINISH_LENGTH, 0);
        assert_int_equal(run.out.bytes, 0); /* the prompt's logprobs are not here yet */
        uint32_t top[] = {'x'};
        float top_logprob[] = {-1};
        struct msg_logprob logprobs[2] = {{195, -2, 3, 1, top, top_logprob},
                                          {169, -0.5f, 1, 1, top, top_logprob}};
        uint32_t prompt[] = {195, 169};
        token_log_add(&run.answer.prompts[0].log, 0, prompt, 2, logprobs, 0, 0);
        advance_all(&run);
        assert_true(answer_is_ended(&run.answer));
        if (is_stream) {
            const char *out = buf_string(&run.out);
            assert_non_null(strstr(out, "\"text\":\"h\xc3\xa9\",\"logprobs\":{\"text_offset\":"
                                        "[0,1,2],\"token_logprobs\":[null,-2,-0.5],\"tokens\":"));
            assert_non_null(strstr(out, "\"text\":\"b\",\"logprobs\":{\"text_offset\":[4],"));
        } else {
            json_t *root = body_of(&run);
            json_t *choice = json_array_get(json_object_get(root, "choices"), 0);
            assert_string_equal(json_string_value(json_object_get(choice, "text")), "h\xc3\xa9"
                                                                                    "ab");
            json_t *columns = json_object_get(choice, "logprobs");
            assert_int_equal(json_array_size(json_object_get(columns, "tokens")), 5);
            assert_int_equal(json_array_size(json_object_get(columns, "text_offset")), 5);
            json_t *maps = json_object_get(columns, "top_logprobs");
            assert_int_equal(json_array_size(maps), 5);
            assert_true(json_is_null(json_array_get(maps, 0)));
            json_decref(root);
        }
        run_close(&run);
    }
}

static void test_log(void **state) {
    struct token_log log;
    token_log_init(&log, false);
    uint32_t ids[] = {1, 2, 3, 4};
    assert_int_equal(token_log_add(&log, 1, ids, 1, NULL, 0, 0), TOKEN_LOG_GAP);
    assert_int_equal(token_log_add(&log, 0, ids, 0, NULL, 0, 0), TOKEN_LOG_OLD);
    assert_int_equal(token_log_add(&log, 0, ids, 2, NULL, 0, 0), TOKEN_LOG_NEWS);
    assert_int_equal(token_log_add(&log, 0, ids, 2, NULL, 0, 0), TOKEN_LOG_OLD);
    assert_int_equal(token_log_add(&log, 1, ids + 1, 3, NULL, MSG_FINISH_LENGTH, 0),
                     TOKEN_LOG_NEWS);
    assert_int_equal(log.count, 4);
    assert_memory_equal(log.ids, ids, sizeof ids);
    assert_int_equal(log.finish, MSG_FINISH_LENGTH);
    assert_int_equal(token_log_add(&log, 4, ids, 1, NULL, 0, 0), TOKEN_LOG_OLD);
    token_log_release(&log);
    token_log_init(&log, false);
    alloc_fail_at(1, 0);
    assert_int_equal(token_log_add(&log, 0, ids, 4, NULL, 0, 0), TOKEN_LOG_MEMORY);
    alloc_fail_at(0, 0);
    assert_int_equal(log.count, 0);
    token_log_release(&log);
}

/* Unread tokens are looked through for stop strings without being rendered. */
static void test_look_ahead(void **state) {
    struct run run;
    run_open(&run, REQUEST_CHAT, "{\"messages\":[{}],\"stream\":true,\"stop\":\"STOP\"}");
    uint32_t ids[256];
    for (uint32_t i = 0; i < 256; i++) ids[i] = 'a';
    memcpy(ids + 100, (uint32_t[]){'S', 'T', 'O', 'P'}, 16);
    struct answer_choice *choice = &run.answer.choices[0];
    token_log_add(choice->log, 0, ids, 90, NULL, 0, 0);
    answer_look_ahead(&run.answer, choice);
    assert_false(choice->log->is_closed);
    token_log_add(choice->log, 90, ids + 90, 100, NULL, 0, 0);
    answer_look_ahead(&run.answer, choice);
    assert_true(choice->log->is_closed);
    assert_int_equal(choice->done_count, 0);
    assert_int_equal(token_log_add(choice->log, 190, ids, 4, NULL, 0, 0), TOKEN_LOG_OLD);
    /* a small window gives whole events and asks to be called again */
    uint32_t turns = 0;
    while (!answer_advance(&run.answer, choice, run.out.bytes + 500, &run.out)) turns++;
    assert_true(turns > 10);
    assert_true(choice->is_ended);
    assert_int_equal(choice->done_count, 104);
    assert_string_equal(choice->finish_reason, "stop");
    run_close(&run);
}

static void test_memory(void **state) {
    for (uint64_t n = 1;; n++) {
        struct arena arena;
        struct request_spec spec;
        struct answer answer;
        struct api_error error;
        struct buf out;
        static const char body[] = "{\"prompt\":[1,2],\"stream\":true,\"stop\":\"x\",\"n\":3}";
        arena_init(&arena, 0);
        buf_init(&out, 0);
        request_parse_init(&spec, REQUEST_COMPLETION, &arena);
        assert_int_equal(request_parse(&spec, &options, body, sizeof body - 1, &error), ERR_OK);
        answer_scratch_release(&scratch);
        alloc_fail_at(n, 0);
        enum err e = answer_init(&answer, &spec, &options, &scratch, "a", 1);
        if (!e) {
            uint32_t ids[] = {'a', 'b', 'x'};
            for (uint32_t i = 0; i < answer.choice_count; i++) {
                token_log_add(&answer.logs[i], 0, ids, 3, NULL, MSG_FINISH_LENGTH, 0);
                answer_advance(&answer, &answer.choices[i], SIZE_MAX, &out);
            }
            e = buf_error(&out);
        }
        bool was_reached = alloc_count() >= n;
        alloc_fail_at(0, 0);
        answer_release(&answer);
        request_parse_release(&spec);
        arena_release(&arena);
        buf_release(&out);
        if (!was_reached) {
            assert_int_equal(e, ERR_OK);
            assert_true(n > 5);
            break;
        }
    }
}

int main(void) {
    tokenizer = fixture_tokenizer();
    options = fixture_options(tokenizer);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_chunking), cmocka_unit_test(test_body_equals_stream),
        cmocka_unit_test(test_stop_reason),    cmocka_unit_test(test_choices_usage_and_timings),
        cmocka_unit_test(test_echo),           cmocka_unit_test(test_log),
        cmocka_unit_test(test_look_ahead),     cmocka_unit_test(test_memory),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    answer_scratch_release(&scratch);
    tokenizer_close(tokenizer);
    return failed;
}
