/* Goal: the OpenAI API over real loopback sockets with a fake worker: bodies and streams as clients
 * expect them, every refusal with its status, clients that leave or do not read, workers that are
 * lost, drain, and memory that runs out at any point of a request's life. */
#include "api_client.h"

#define HI "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"max_tokens\":5"
#define CHAT "/v1/chat/completions"
#define COMPLETIONS "/v1/completions"

static const char *get(const json_t *root, const char *path) {
    static char text[4096];
    char keys[256];
    snprintf(keys, sizeof keys, "%s", path);
    const json_t *at = root;
    char *rest = NULL;
    for (char *key = strtok_r(keys, ".", &rest); key && at; key = strtok_r(NULL, ".", &rest))
        at = json_is_array(at) ? json_array_get(at, (size_t) strtoul(key, NULL, 10))
                               : json_object_get(at, key);
    if (json_is_string(at)) return json_string_value(at);
    if (json_is_integer(at))
        snprintf(text, sizeof text, "%lld", (long long) json_integer_value(at));
    else snprintf(text, sizeof text, "%s", !at ? "absent" : json_is_null(at) ? "null" : "other");
    return text;
}

static void test_probes_and_routes(void **state) {
    struct server s;
    struct client c;
    server_init(&s);
    server_start(&s);
    assert_int_equal(ask(&s, "GET", "/health", "", NULL, &c), 200);
    assert_non_null(strstr(c.data, "X-Request-Id: "));
    client_close(&c);
    client_open(&c, &s);
    client_ask(&s, &c, "HEAD", "/health", "", NULL);
    assert_true(client_wait(&s, &c, "Content-Length: 15\r\n"));
    turn_for_ms(&s, 5);
    client_read(&c);
    assert_int_equal(client_status(&c), 200);
    assert_string_equal(client_body(&c), "");
    client_close(&c);
    assert_int_equal(ask(&s, "GET", "/live", "", NULL, &c), 200);
    client_close(&c);
    assert_int_equal(ask(&s, "GET", "/version", "", NULL, &c), 200);
    assert_string_equal(client_body(&c), "{\"version\":\"1.2.3\"}");
    client_close(&c);
    assert_int_equal(ask(&s, "GET", "/v1/models", "X-Request-Id: mine-1\r\n", NULL, &c), 200);
    assert_non_null(strstr(c.data, "X-Request-Id: mine-1\r\n"));
    json_t *root = client_json(&c);
    assert_string_equal(get(root, "data.0.id"), "org/test-model");
    assert_string_equal(get(root, "data.1.id"), "alias");
    assert_string_equal(get(root, "data.0.max_model_len"), "200");
    json_decref(root);
    client_close(&c);
    assert_int_equal(ask(&s, "GET", "/v1/models/org/test-model", "", NULL, &c), 200);
    client_close(&c);
    assert_int_equal(ask(&s, "GET", "/v1/models/org%2Ftest-model", "", NULL, &c), 200);
    client_close(&c);
    assert_int_equal(ask(&s, "GET", "/v1/models/other", "", NULL, &c), 404);
    client_close(&c);
    assert_int_equal(ask(&s, "GET", "/nothing", "", NULL, &c), 404);
    root = client_json(&c);
    assert_string_equal(get(root, "error.type"), "NotFoundError");
    assert_string_equal(get(root, "error.param"), "null");
    assert_string_equal(get(root, "error.code"), "404");
    json_decref(root);
    client_close(&c);
    assert_int_equal(ask(&s, "GET", CHAT, "", NULL, &c), 405);
    assert_non_null(strstr(c.data, "Allow: POST, OPTIONS\r\n"));
    client_close(&c);
    assert_int_equal(ask(&s, "POST", "/health", "", "{}", &c), 405);
    assert_non_null(strstr(c.data, "Allow: GET, HEAD, OPTIONS\r\n"));
    client_close(&c);
    assert_int_equal(ask(&s, "OPTIONS", CHAT,
                         "Origin: http://localhost:3000\r\n"
                         "Access-Control-Request-Headers: authorization,x-a\r\n",
                         NULL, &c),
                     204);
    assert_non_null(strstr(c.data, "Access-Control-Allow-Origin: http://localhost:3000\r\n"));
    assert_non_null(strstr(c.data, "Access-Control-Allow-Headers: authorization,x-a\r\n"));
    client_close(&c);
    assert_int_equal(ask(&s, "OPTIONS", "*", "", NULL, &c), 204); /* the server as a whole */
    assert_non_null(strstr(c.data, "Allow: GET, HEAD, POST, OPTIONS\r\n"));
    client_close(&c);
    assert_int_equal(ask(&s, "OPTIONS", "/nothing", "", NULL, &c), 404);
    client_close(&c);
    assert_int_equal(ask(&s, "GET", "*", "", NULL, &c), 404);
    client_close(&c);
    assert_int_equal(ask(&s, "GET", "/live", "Origin: http://localhost.evil\r\n", NULL, &c), 200);
    assert_null(strstr(c.data, "Access-Control"));
    client_close(&c);
    /* what would have to be unpacked is told so, and not that it is no JSON */
    assert_int_equal(ask(&s, "POST", CHAT, "Content-Encoding: gzip\r\n", "\x1f\x8b", &c), 415);
    assert_non_null(strstr(c.data, "Accept-Encoding: identity\r\n"));
    client_close(&c);
    assert_int_equal(ask(&s, "POST", CHAT, "Content-Encoding: identity\r\n", "{", &c), 400);
    client_close(&c);
    /* an id that may not be taken over is replaced */
    char headers[300];
    snprintf(headers, sizeof headers, "X-Request-Id: %0200d\r\n", 7);
    assert_int_equal(ask(&s, "GET", "/live", headers, NULL, &c), 200);
    assert_null(strstr(c.data, "0000000007"));
    client_close(&c);
    /* what the HTTP layer refuses has the same form */
    client_open(&c, &s);
    client_send_bytes(&s, &c, "GET / HTTP/1.1\r\nHost : a\r\n\r\n", 28);
    assert_true(client_wait(&s, &c, "\"error\":{\"message\""));
    assert_int_equal(client_status(&c), 400);
    client_close(&c);
    server_stop(&s);
}

static void test_keys_and_origins(void **state) {
    struct server s;
    struct client c;
    server_init(&s);
    s.options.api_keys[0] = "first";
    s.options.api_keys[1] = "second-key";
    s.options.api_key_count = 2;
    s.options.allowed_origins = "https://a.example, https://b.example";
    s.options.guards_metrics = true;
    server_start(&s);
    static const struct {
        const char *headers;
        int status;
    } cases[] = {
        {"", 401},
        {"Authorization: Bearer first\r\n", 200},
        {"Authorization: bearer second-key\r\n", 200},
        {"Authorization: Bearer firs\r\n", 401},
        {"Authorization: Bearer firstf\r\n", 401},
        {"Authorization: Bearer firstfirst\r\n", 401},
        {"Authorization: Bearer \r\n", 401},
        {"Authorization: Basic first\r\n", 401},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        assert_int_equal(ask(&s, "GET", "/v1/models", cases[i].headers, NULL, &c), cases[i].status);
        client_close(&c);
        assert_int_equal(ask(&s, "GET", "/metrics", cases[i].headers, NULL, &c), cases[i].status);
        client_close(&c);
        assert_int_equal(ask(&s, "GET", "/health", cases[i].headers, NULL, &c), 200);
        client_close(&c);
    }
    assert_int_equal(ask(&s, "POST", CHAT, "", HI "}", &c), 401);
    client_close(&c);
    assert_int_equal(ask(&s, "GET", "/live", "Origin: https://b.example\r\n", NULL, &c), 200);
    assert_non_null(strstr(c.data, "Access-Control-Allow-Origin: https://b.example\r\n"));
    client_close(&c);
    assert_int_equal(ask(&s, "GET", "/live", "Origin: http://localhost\r\n", NULL, &c), 200);
    assert_null(strstr(c.data, "Access-Control"));
    client_close(&c);
    server_stop(&s);
}

static void test_chat_body(void **state) {
    struct server s;
    struct client c;
    server_init(&s);
    server_start(&s);
    s.worker.script = "Hello \"you\"";
    assert_int_equal(ask(&s, "POST", CHAT, "X-Request-Id: abc\r\n",
                         HI ",\"seed\":5,\"logprobs\":true,\"top_logprobs\":1,\"timings\":true}",
                         &c),
                     200);
    assert_non_null(strstr(c.data, "X-Gramme-Worker: 0000000000001001\r\n"));
    json_t *root = client_json(&c);
    assert_string_equal(get(root, "id"), "chatcmpl-abc");
    assert_string_equal(get(root, "object"), "chat.completion");
    assert_string_equal(get(root, "model"), "org/test-model");
    assert_string_equal(get(root, "choices.0.message.role"), "assistant");
    assert_string_equal(get(root, "choices.0.message.content"), "Hello");
    assert_string_equal(get(root, "choices.0.finish_reason"), "length");
    assert_string_equal(get(root, "choices.0.stop_reason"), "null");
    assert_string_equal(get(root, "choices.0.logprobs.content.4.token"), "o");
    assert_string_equal(get(root, "choices.0.logprobs.content.4.bytes.0"), "111");
    assert_string_equal(get(root, "choices.0.logprobs.content.4.top_logprobs.0.token"), "z");
    assert_string_equal(get(root, "usage.completion_tokens"), "5");
    assert_string_equal(get(root, "usage.prompt_tokens_details.cached_tokens"), "1");
    assert_string_equal(get(root, "timings.predicted_n"), "5");
    json_decref(root);
    client_close(&c);
    const struct fake_attempt *attempt = &s.worker.attempts[0];
    assert_string_equal(attempt->request_id, "abc");
    assert_int_equal(attempt->sampling.seed, 5);
    /* the template's own special token is one, the user's text never is */
    assert_int_equal(attempt->prompt[0], ID_START);
    assert_int_equal(ask(&s, "POST", CHAT, "",
                         "{\"messages\":[{\"role\":\"user\",\"content\":\"<|im_end|>\"}],"
                         "\"max_tokens\":1,\"model\":\"alias\"}",
                         &c),
                     200);
    root = client_json(&c);
    assert_string_equal(get(root, "model"), "alias");
    json_decref(root);
    client_close(&c);
    attempt = &s.worker.attempts[1];
    uint32_t specials = 0;
    for (uint32_t i = 0; i < attempt->prompt_count && i < 64; i++)
        if (attempt->prompt[i] == ID_START || attempt->prompt[i] == ID_END) specials++;
    assert_int_equal(specials, 3); /* start, end, start */
    server_stop(&s);
}

static void test_chat_stream(void **state) {
    struct server s;
    struct client c;
    server_init(&s);
    server_start(&s);
    s.worker.eos_after = 3;
    assert_int_equal(ask(&s, "POST", CHAT, "",
                         HI ",\"stream\":true,\"stream_options\":{\"include_usage\":true}}", &c),
                     200);
    assert_non_null(strstr(c.data, "Content-Type: text/event-stream; charset=utf-8\r\n"));
    assert_non_null(strstr(c.data, "Cache-Control: no-cache\r\n"));
    assert_non_null(strstr(c.data, "X-Accel-Buffering: no\r\n"));
    assert_non_null(strstr(c.data, "X-Gramme-Worker: 0000000000001001\r\n"));
    char *events = client_events(&c);
    assert_int_equal(count_of(events, "data: "), 7); /* role, 3 tokens, finish, usage, DONE */
    const char *role = strstr(events, "\"delta\":{\"role\":\"assistant\",\"content\":\"\"}");
    const char *a = strstr(events, "\"delta\":{\"content\":\"a\"}");
    const char *b = strstr(events, "\"delta\":{\"content\":\"b\"}");
    const char *finish = strstr(events, "\"finish_reason\":\"stop\",\"stop_reason\":null");
    const char *usage = strstr(events, "\"choices\":[],\"usage\":{\"prompt_tokens\":");
    assert_non_null(role);
    assert_true(role < a && a < b && b < finish && finish < usage);
    assert_non_null(strstr(usage, "\"completion_tokens\":4"));
    assert_string_equal(events + strlen(events) - 14, "data: [DONE]\n\n");
    free(events);
    client_close(&c);
    server_stop(&s);
}

static void test_completions(void **state) {
    struct server s;
    struct client c;
    server_init(&s);
    server_start(&s);
    assert_int_equal(ask(&s, "POST", COMPLETIONS, "",
                         "{\"prompt\":[\"ab\",\"<|im_end|>\"],\"n\":2,\"max_tokens\":3}", &c),
                     200);
    json_t *root = client_json(&c);
    assert_string_equal(get(root, "object"), "text_completion");
    assert_int_equal(json_array_size(json_object_get(root, "choices")), 4);
    assert_string_equal(get(root, "choices.0.text"), "abc");
    assert_string_equal(get(root, "choices.1.text"), "hij");
    assert_string_equal(get(root, "choices.2.text"), "abc");
    assert_string_equal(get(root, "choices.3.index"), "3");
    assert_string_equal(get(root, "usage.prompt_tokens"), "3"); /* a, b; one special token */
    assert_string_equal(get(root, "usage.completion_tokens"), "12");
    json_decref(root);
    client_close(&c);
    assert_int_equal(s.worker.generate_count, 2);
    /* echo with logprobs, streamed and not */
    assert_int_equal(ask(&s, "POST", COMPLETIONS, "",
                         "{\"prompt\":\"abc\",\"echo\":true,\"logprobs\":1,\"max_tokens\":2}", &c),
                     200);
    root = client_json(&c);
    assert_string_equal(get(root, "choices.0.text"), "abcab");
    assert_int_equal(
        json_array_size(json_object_get(
            json_object_get(json_array_get(json_object_get(root, "choices"), 0), "logprobs"),
            "token_logprobs")),
        5);
    json_decref(root);
    client_close(&c);
    assert_int_equal(
        ask(&s, "POST", COMPLETIONS, "",
            "{\"prompt\":\"abc\",\"echo\":true,\"logprobs\":1,\"max_tokens\":2,\"stream\":true}",
            &c),
        200);
    assert_non_null(strstr(c.data, "\"text\":\"abc\",\"logprobs\":{\"text_offset\":[0,1,2],"));
    client_close(&c);
    /* nothing to compute */
    uint32_t before = s.worker.generate_count;
    assert_int_equal(
        ask(&s, "POST", COMPLETIONS, "", "{\"prompt\":[1,2],\"echo\":true,\"max_tokens\":0}", &c),
        200);
    client_close(&c);
    assert_int_equal(s.worker.generate_count, before);
    /* default of 16, and what is left of the model's length */
    assert_int_equal(ask(&s, "POST", COMPLETIONS, "", "{\"prompt\":\"abc\"}", &c), 200);
    root = client_json(&c);
    assert_string_equal(get(root, "usage.completion_tokens"), "16");
    json_decref(root);
    client_close(&c);
    server_stop(&s);
}

static void test_lengths(void **state) {
    struct server s;
    struct client c;
    server_init(&s);
    server_start(&s);
    char body[4096], text[2048];
    memset(text, 'x', sizeof text);
    static const struct {
        size_t prompt;
        const char *fields;
        int status;
        const char *says;
    } cases[] = {
        {190, "", 200, "\"completion_tokens\":10"},
        {190, ",\"max_tokens\":10", 200, "\"completion_tokens\":10"},
        {190, ",\"max_tokens\":11", 400,
         "maximum context length is 200 tokens. However, you requested 201 tokens (190 in the "
         "prompt, 11 in the completion)"},
        {200, "", 400, "came to 200 tokens"},
        {199, "", 200, "\"completion_tokens\":1"},
        {201, ",\"max_tokens\":5", 400, "requested 206 tokens"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        snprintf(body, sizeof body, "{\"prompt\":\"%.*s\"%s}", (int) cases[i].prompt, text,
                 cases[i].fields);
        assert_int_equal(ask(&s, "POST", COMPLETIONS, "", body, &c), cases[i].status);
        if (!strstr(c.data, cases[i].says)) fail_msg("%s lacks %s", c.data, cases[i].says);
        client_close(&c);
    }
    uint32_t before = s.worker.generate_count;
    /* far too long: refused by its bytes */
    char *huge = malloc(300000);
    size_t head = (size_t) snprintf(huge, 100, "{\"prompt\":\"");
    memset(huge + head, 'y', 250000);
    snprintf(huge + head + 250000, 10, "\"}");
    assert_int_equal(ask(&s, "POST", COMPLETIONS, "", huge, &c), 400);
    assert_non_null(strstr(c.data, "at least"));
    client_close(&c);
    free(huge);
    assert_int_equal(s.worker.generate_count, before);
    server_stop(&s);
}

static void test_bad_requests(void **state) {
    static const struct {
        const char *path, *body;
        int status;
        const char *param;
    } cases[] = {
        {CHAT, "", 400, "null"},
        {CHAT, "{", 400, "null"},
        {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"}]}", 400,
         "messages[0].content"},
        {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"\\udc00\"}]}", 400,
         "messages[0].content"},
        {CHAT, "{\"messages\":[1]}", 400, "messages[0]"},
        {CHAT, "{\"messages\":[{\"content\":\"a\"}]}", 400, "messages[0].role"},
        {CHAT, "{\"messages\":[{\"role\":\"function\",\"content\":\"a\"}]}", 400,
         "messages[0].role"},
        {CHAT, "{\"messages\":[{\"role\":\"user\"}]}", 400, "messages[0].content"},
        {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":null}]}", 400, "messages[0].content"},
        {CHAT,
         "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":"
         "{}}]}]}",
         400, "messages[0].content[0]"},
        {CHAT,
         "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
         "{\"type\":\"text\"}]}]}",
         400, "messages[0].content[1]"},
        {CHAT,
         "{\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"function\":"
         "{\"name\":\"f\",\"arguments\":\"[\"}}]}]}",
         400, "messages[0].tool_calls[0].function.arguments"},
        {CHAT, HI ",\"model\":\"gpt-5\"}", 404, "model"},
        {CHAT, HI ",\"temperature\":3}", 400, "temperature"},
        {COMPLETIONS, "{\"prompt\":\"a\",\"suffix\":\"b\"}", 400, "suffix"},
        {COMPLETIONS, "{\"prompt\":\"\"}", 400, "prompt"},
        {"/detokenize", "{\"tokens\":[999]}", 400, "tokens"},
        {"/detokenize", "{}", 400, "tokens"},
        {"/tokenize", "{}", 400, "prompt"},
    };
    struct server s;
    struct client c;
    server_init(&s);
    server_start(&s);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        int status = ask(&s, "POST", cases[i].path, "", cases[i].body, &c);
        json_t *root = client_json(&c);
        if (status != cases[i].status || strcmp(get(root, "error.param"), cases[i].param) != 0)
            fail_msg("%s: %d %s", cases[i].body, status, client_body(&c));
        json_decref(root);
        client_close(&c);
    }
    assert_int_equal(s.worker.generate_count, 0);
    assert_int_equal(api_live_count(s.api), 0);
    server_stop(&s);
}

static void test_messages_and_tokenize(void **state) {
    static const struct {
        const char *messages, *prompt;
    } cases[] = {
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\","
         "\"text\":\"b\"}]}]",
         "<|im_start|>user\na\nb<|im_end|>\n<|im_start|>assistant\n"},
        {"[{\"role\":\"developer\",\"content\":\"d\"},{\"role\":\"assistant\"}]",
         "<|im_start|>system\nd<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n"
         "<|im_start|>assistant\n"},
        {"[{\"role\":\"user\",\"content\":[]}]",
         "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"},
        {"[{\"role\":\"assistant\",\"content\":\"so \"}],\"continue_final_message\":true",
         "<|im_start|>assistant\nso "},
        {"[{\"role\":\"user\",\"content\":\"a\"}],\"add_generation_prompt\":false",
         "<|im_start|>user\na<|im_end|>\n"},
    };
    struct server s;
    struct client c;
    server_init(&s);
    server_start(&s);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        char body[1024];
        snprintf(body, sizeof body, "{\"messages\":%s}", cases[i].messages);
        assert_int_equal(ask(&s, "POST", "/tokenize", "", body, &c), 200);
        json_t *root = client_json(&c);
        char *ids = json_dumps(json_object_get(root, "tokens"), 0);
        assert_string_equal(get(root, "max_model_len"), "200");
        json_decref(root);
        client_close(&c);
        char *back = malloc(strlen(ids) + 64);
        snprintf(back, strlen(ids) + 64, "{\"tokens\":%s}", ids);
        assert_int_equal(ask(&s, "POST", "/detokenize", "", back, &c), 200);
        root = client_json(&c);
        assert_string_equal(get(root, "prompt"), cases[i].prompt);
        json_decref(root);
        client_close(&c);
        free(back);
        free(ids);
    }
    assert_int_equal(ask(&s, "POST", "/tokenize", "",
                         "{\"prompt\":\"he\xc3\xa9\",\"return_token_strs\":true}", &c),
                     200);
    assert_string_equal(client_body(&c),
                        "{\"count\":3,\"max_model_len\":200,\"tokens\":[259,195,169],"
                        "\"token_strs\":[\"he\",\"\xef\xbf\xbd\",\"\xef\xbf\xbd\"]}");
    client_close(&c);
    server_stop(&s);
}

static void test_no_worker_and_refusals(void **state) {
    struct server s;
    struct client c;
    server_init(&s);
    s.has_worker = false;
    server_start(&s);
    assert_int_equal(ask(&s, "POST", CHAT, "", HI "}", &c), 503);
    assert_non_null(strstr(c.data, "Retry-After: 1\r\n"));
    client_close(&c);
    assert_int_equal(ask(&s, "GET", "/health", "", NULL, &c), 503);
    client_close(&c);
    /* it comes: found by WHO */
    fake_open(&s.worker, s.bus, 0x1002);
    s.has_worker = true;
    int status = 503;
    for (uint64_t until = clock_now_us() + WAIT_US; status != 200 && clock_now_us() < until;) {
        status = ask(&s, "GET", "/health", "", NULL, &c);
        client_close(&c);
    }
    assert_int_equal(status, 200);
    static const struct {
        uint8_t reason;
        int status;
        const char *has;
    } cases[] = {
        {MSG_REFUSE_BUSY, 429, "Retry-After: 3\r\n"},
        {MSG_REFUSE_NO_ROOM, 400, "no, said the worker"},
        {MSG_REFUSE_BAD, 400, "no, said the worker"},
        {MSG_REFUSE_DRAINING, 503, "Retry-After: 1\r\n"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        s.worker.refuses = cases[i].reason;
        s.worker.retry_after_ms = 2500;
        assert_int_equal(ask(&s, "POST", CHAT, "", HI ",\"stream\":true}", &c), cases[i].status);
        if (!strstr(c.data, cases[i].has)) fail_msg("%s", c.data);
        assert_non_null(strstr(c.data, "X-Gramme-Worker: 0000000000001"));
        client_close(&c);
    }
    server_stop(&s);
}

static void test_queue(void **state) {
    struct server s;
    struct client c[4];
    server_init(&s);
    s.options.queue_requests_max = 2;
    s.options.queue_timeout_ms = 2000;
    server_start(&s);
    s.worker.holds = true;
    for (int i = 0; i < 2; i++) {
        client_open(&c[i], &s);
        client_ask(&s, &c[i], "POST", CHAT, "", HI ",\"stream\":true}");
        server_wait_live(&s, (uint32_t) i + 1);
    }
    assert_int_equal(ask(&s, "POST", CHAT, "", HI "}", &c[2]), 429);
    assert_non_null(strstr(c[2].data, "Retry-After: "));
    assert_non_null(strstr(c[2].data, "RateLimitError"));
    client_close(&c[2]);
    /* neither was admitted: no header went out, and they end with a real status */
    assert_int_equal(c[0].bytes, 0);
    assert_true(client_wait_answer(&s, &c[0]));
    assert_true(client_wait_answer(&s, &c[1]));
    assert_int_equal(client_status(&c[0]), 503);
    assert_int_equal(client_status(&c[1]), 503);
    fake_poll(&s.worker);
    assert_int_equal(s.worker.cancel_count, 2);
    client_close(&c[0]);
    client_close(&c[1]);
    s.worker.holds = false;
    assert_int_equal(ask(&s, "POST", CHAT, "", HI "}", &c[3]), 200);
    client_close(&c[3]);
    server_stop(&s);
}

static void test_client_leaves(void **state) {
    struct server s;
    struct client c;
    server_init(&s);
    server_start(&s);
    for (int i = 0; i < 3; i++) { /* waiting; streaming; not streaming */
        s.worker.cancel_count = 0;
        s.worker.holds = i == 0;
        s.is_paused = false;
        client_open(&c, &s);
        client_ask(&s, &c, "POST", CHAT, "",
                   i == 1 ? "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],"
                            "\"stream\":true}"
                          : "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}");
        if (i == 1) assert_true(client_wait(&s, &c, "\"content\":\"b\""));
        s.is_paused = true;
        server_wait_live(&s, 1);
        client_close(&c);
        uint64_t until = clock_now_us() + WAIT_US;
        while (!s.worker.cancel_count && clock_now_us() < until) turn(&s);
        assert_int_equal(s.worker.cancel_count, 1);
        assert_int_equal(api_live_count(s.api), 0);
    }
    /* in the middle of tokenizing on the pool */
    s.is_paused = false;
    uint32_t before = s.worker.generate_count;
    char *body = malloc(200000);
    size_t head = (size_t) snprintf(body, 100, "{\"prompt\":\"");
    for (size_t i = 0; i < 150000; i++) body[head + i] = i % 5 ? 'h' : ' ';
    snprintf(body + head + 150000, 10, "\"}");
    for (int i = 0; i < 5; i++) {
        client_open(&c, &s);
        client_ask(&s, &c, "POST", COMPLETIONS, "", body);
        if (i) turn(&s);
        client_close(&c);
        turn(&s);
    }
    free(body);
    turn_for_ms(&s, 100);
    assert_int_equal(s.worker.generate_count, before);
    assert_int_equal(api_live_count(s.api), 0);
    server_stop(&s);
}

static void test_pooled_prompt(void **state) {
    struct server s;
    struct client c;
    server_init(&s);
    s.options.model_len_max = 200000;
    server_start(&s);
    char *body = malloc(200000);
    size_t head = (size_t) snprintf(body, 100, "{\"max_tokens\":2,\"prompt\":\"");
    for (size_t i = 0; i < 100000; i++) body[head + i] = i % 5 ? 'g' : ' ';
    snprintf(body + head + 100000, 10, "\"}");
    /* the fake worker takes at most 256 prompt tokens in its own checks, but needs none here */
    assert_int_equal(ask(&s, "POST", "/tokenize", "", body, &c), 200);
    assert_non_null(strstr(c.data, "{\"count\":100000,"));
    /* and back; a probe behind it is answered while the pool works */
    char *tokens = strstr(c.data, "\"tokens\":");
    char *end = strchr(tokens, ']');
    char *back = malloc((size_t) (end - tokens) + 10);
    int back_bytes =
        snprintf(back, (size_t) (end - tokens) + 10, "{%.*s]}", (int) (end - tokens), tokens);
    struct client probe;
    client_open(&probe, &s);
    client_close(&c);
    client_open(&c, &s);
    client_ask(&s, &c, "POST", "/detokenize", "", back);
    assert_true(back_bytes > 100000);
    client_ask(&s, &probe, "GET", "/live", "", NULL);
    assert_true(client_wait_answer(&s, &probe));
    assert_true(client_wait_answer(&s, &c));
    assert_int_equal(client_status(&c), 200);
    assert_int_equal(strlen(client_body(&c)), 100000 + strlen("{\"prompt\":\"\"}"));
    assert_memory_equal(client_body(&c), "{\"prompt\":\" gggg gggg", 20);
    client_close(&probe);
    client_close(&c);
    /* a wrong id far behind, found on the pool */
    memcpy(back + back_bytes - 5, "999", 3);
    assert_int_equal(ask(&s, "POST", "/detokenize", "", back, &c), 400);
    assert_non_null(strstr(c.data, "\"param\":\"tokens\""));
    client_close(&c);
    free(back);
    free(body);
    server_stop(&s);
}

static void test_stop_string_cancels(void **state) {
    struct server s;
    struct client c;
    server_init(&s);
    server_start(&s);
    s.worker.script = "abcdefghij";
    assert_int_equal(ask(&s, "POST", COMPLETIONS, "",
                         "{\"prompt\":\"a\",\"max_tokens\":190,\"stop\":[\"fg\"],\"stream\":true}",
                         &c),
                     200);
    char *events = client_events(&c);
    assert_non_null(strstr(events, "\"finish_reason\":\"stop\",\"stop_reason\":\"fg\""));
    assert_null(strstr(events, "\"text\":\"f"));
    free(events);
    client_close(&c);
    turn(&s);
    assert_int_equal(s.worker.cancel_count, 1);
    assert_true(s.worker.attempts[0].made[0] < 20);
    server_stop(&s);
}

/* A reader that takes nothing: others go on, what waits is bounded, and then all of it comes. */
static void test_slow_reader(void **state) {
    struct server s;
    struct client slow, quick;
    server_init(&s);
    s.options.model_len_max = 20000;
    s.limits.pending_bytes_high = 4096;
    server_start(&s);
    s.worker.tokens_a_step = 50;
    client_open(&slow, &s);
    int small = 65536;
    setsockopt(slow.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    client_ask(&s, &slow, "POST", COMPLETIONS, "",
               "{\"prompt\":\"a\",\"max_tokens\":19000,\"stream\":true}");
    uint64_t until = clock_now_us() + WAIT_US;
    while (s.worker.attempts[0].made[0] < 19000 && clock_now_us() < until) turn(&s);
    assert_int_equal(s.worker.attempts[0].made[0], 19000);
    turn_for_ms(&s, 50);
    assert_int_equal(ask(&s, "POST", CHAT, "", HI "}", &quick), 200);
    client_close(&quick);
    assert_int_equal(api_live_count(s.api), 1);
    assert_true(client_wait_answer(&s, &slow));
    char *events = client_events(&slow);
    assert_int_equal(count_of(events, "data: "), 19002);
    free(events);
    client_close(&slow);
    server_stop(&s);
}

static void test_worker_is_lost(void **state) {
    struct server s;
    struct client streaming, waiting;
    server_init(&s);
    s.options.migration_timeout_ms = 400;
    server_start(&s);
    client_open(&streaming, &s);
    client_ask(&s, &streaming, "POST", CHAT, "",
               "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"stream\":true}");
    assert_true(client_wait(&s, &streaming, "\"content\":\"b\""));
    client_open(&waiting, &s);
    s.is_paused = true;
    client_ask(&s, &waiting, "POST", CHAT, "", HI "}");
    server_wait_live(&s, 2);
    fake_close(&s.worker);
    s.has_worker = false;
    assert_true(client_wait_answer(&s, &streaming));
    char *events = client_events(&streaming);
    const char *error = strstr(events, "data: {\"error\":{\"message\":\"no worker took");
    assert_non_null(error);
    assert_string_equal(events + strlen(events) - 14, "data: [DONE]\n\n");
    free(events);
    assert_true(client_wait_answer(&s, &waiting));
    assert_int_equal(client_status(&waiting), 503);
    client_close(&streaming);
    client_close(&waiting);
    server_stop(&s);
}

/* The client sees one whole stream although its worker was restarted under it. */
static void test_worker_restarts(void **state) {
    struct server s;
    struct client c;
    server_init(&s);
    server_start(&s);
    client_open(&c, &s);
    client_ask(&s, &c, "POST", COMPLETIONS, "",
               "{\"prompt\":\"a\",\"max_tokens\":150,\"stream\":true,\"logprobs\":1}");
    assert_true(client_wait(&s, &c, "\"text\":\"f\""));
    fake_close(&s.worker);
    fake_open(&s.worker, s.bus, 0x1002);
    fake_hello(&s.worker);
    assert_true(client_wait_answer(&s, &c));
    char *events = client_events(&c);
    const char *at = events;
    for (uint32_t i = 0; i < 150; i++) { /* each token once, in order, none lost */
        char want[32];
        snprintf(want, sizeof want, "\"text\":\"%c\"", (char) ('a' + i % 26));
        at = strstr(at, want);
        assert_non_null(at);
        at++;
    }
    assert_int_equal(count_of(events, "data: "), 152);
    free(events);
    assert_true(s.worker.resumed_tokens > 0);
    client_close(&c);
    server_stop(&s);
}

static void test_keep_alive_comment(void **state) {
    struct server s;
    struct client c;
    server_init(&s);
    s.options.sse_keep_alive_ms = 150;
    server_start(&s);
    client_open(&c, &s);
    client_ask(&s, &c, "POST", CHAT, "", HI ",\"stream\":true,\"max_tokens\":5}");
    client_close(&c); /* "max_tokens" twice: refused; only to have a finished one before */
    client_open(&c, &s);
    client_ask(&s, &c, "POST", CHAT, "", HI ",\"stream\":true}");
    assert_true(client_wait(&s, &c, "\"content\":\"a\""));
    s.is_paused = true;
    assert_true(client_wait(&s, &c, ": keep-alive\n\n"));
    s.is_paused = false;
    assert_true(client_wait(&s, &c, "[DONE]"));
    client_close(&c);
    server_stop(&s);
}

static void test_loading_and_drain(void **state) {
    struct server s;
    struct client c, running;
    server_init(&s);
    struct api_options whole = s.options;
    s.options.tokenizer = NULL;
    s.options.served_name_count = 0;
    s.options.model_len_max = 0;
    s.health = (struct api_health){.is_live = true, .stage = "layers", .percent = 40};
    server_start(&s);
    assert_int_equal(ask(&s, "GET", "/live", "", NULL, &c), 200);
    client_close(&c);
    assert_int_equal(ask(&s, "GET", "/health", "", NULL, &c), 503);
    assert_non_null(strstr(c.data, "\"stage\":\"layers\",\"percent\":40.0"));
    client_close(&c);
    assert_int_equal(ask(&s, "POST", CHAT, "", HI "}", &c), 503);
    assert_non_null(strstr(c.data, "Retry-After: 1\r\n"));
    client_close(&c);
    assert_int_equal(ask(&s, "GET", "/metrics", "", NULL, &c), 200);
    client_close(&c);
    s.health = (struct api_health){.is_live = true, .is_ready = true, .percent = -1};
    api_set_model(s.api, &whole);
    assert_int_equal(ask(&s, "GET", "/health", "", NULL, &c), 200);
    client_close(&c);
    s.is_paused = true;
    client_open(&running, &s);
    client_ask(&s, &running, "POST", CHAT, "", HI ",\"stream\":true}");
    assert_true(client_wait(&s, &running, "200 OK"));
    api_drain(s.api);
    assert_int_equal(ask(&s, "POST", CHAT, "", HI "}", &c), 503);
    assert_non_null(strstr(c.data, "Connection: close\r\n"));
    client_close(&c);
    assert_int_equal(ask(&s, "GET", "/health", "", NULL, &c), 503);
    client_close(&c);
    assert_int_equal(api_live_count(s.api), 1);
    s.is_paused = false;
    assert_true(client_wait(&s, &running, "[DONE]")); /* a running one finishes */
    client_close(&running);
    server_stop(&s);
}

static void test_close_ends_streams(void **state) {
    struct server s;
    struct client streaming, waiting;
    server_init(&s);
    server_start(&s);
    client_open(&streaming, &s);
    client_ask(&s, &streaming, "POST", CHAT, "",
               "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"stream\":true}");
    assert_true(client_wait(&s, &streaming, "\"content\":\"b\""));
    s.worker.holds = true;
    client_open(&waiting, &s);
    client_ask(&s, &waiting, "POST", CHAT, "", HI "}");
    server_wait_live(&s, 2);
    api_close(s.api, server_on_closed, &s);
    assert_true(client_wait(&s, &streaming, "data: {\"error\":{\"message\":\"the server is"));
    assert_true(client_wait(&s, &streaming, "data: [DONE]"));
    assert_true(client_wait_answer(&s, &waiting));
    assert_int_equal(client_status(&waiting), 503);
    uint64_t until = clock_now_us() + WAIT_US;
    while (!s.is_closed && clock_now_us() < until) turn(&s);
    client_close(&streaming);
    client_close(&waiting);
    server_stop(&s);
}

/* What the HTTP layer refuses before the API sees a request has its form and its id, too. */
static void test_refused_below(void **state) {
    static const struct {
        const char *bytes, *id, *type;
        int status;
    } cases[] = {
        {"GET /v1/models HTTP/1.1\r\nX-Request-Id: mine-2\r\n\r\n", "mine-2", "BadRequestError",
         400},
        {"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n", NULL,
         "RequestTooLargeError", 413},
        {"GET / HTTP/9.9\r\n", NULL, "HTTPVersionNotSupportedError", 505},
        {"GET / HTTP/1.1\r\nX-Request-Id: mine-3\r\nA", "mine-3", "RequestTimeoutError", 408},
        {"GET", NULL, "RequestTimeoutError", 408},
    };
    struct server s;
    struct client c;
    server_init(&s);
    s.limits.header_timeout_ms = 100;
    server_start(&s);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        char wanted[64];
        client_open(&c, &s);
        client_send_bytes(&s, &c, cases[i].bytes, strlen(cases[i].bytes));
        if (!client_wait_answer(&s, &c)) fail_msg("case %zu: no answer", i);
        assert_int_equal(client_status(&c), cases[i].status);
        snprintf(wanted, sizeof wanted, "X-Request-Id: %s", cases[i].id ? cases[i].id : "");
        if (!strstr(c.data, wanted)) fail_msg("case %zu: %s", i, c.data);
        assert_non_null(strstr(c.data, "Connection: close\r\n"));
        json_t *root = client_json(&c);
        assert_string_equal(get(root, "error.type"), cases[i].type);
        assert_string_equal(get(root, "error.param"), "null");
        json_decref(root);
        while (!c.is_eof) { /* its place is free again */
            turn(&s);
            client_read(&c);
        }
        client_close(&c);
    }
    server_stop(&s);
    server_init(&s);
    s.limits.connections_max = 1;
    server_start(&s);
    struct client first;
    assert_int_equal(ask(&s, "GET", "/live", "", NULL, &first), 200); /* and stays */
    client_open(&c, &s);
    assert_true(client_wait_answer(&s, &c));
    assert_int_equal(client_status(&c), 503);
    assert_non_null(strstr(c.data, "X-Request-Id: "));
    assert_non_null(strstr(c.data, "Retry-After: 1\r\n"));
    client_close(&c);
    client_close(&first);
    server_stop(&s);
}

static void test_many_at_once(void **state) {
    enum { CLIENTS = 60 };
    struct server s;
    static struct client c[CLIENTS];
    server_init(&s);
    server_start(&s);
    s.worker.loss_percent = 5;
    s.worker.double_percent = 5;
    for (int i = 0; i < CLIENTS; i++) {
        client_open(&c[i], &s);
        client_ask(&s, &c[i], "POST", COMPLETIONS, "",
                   i & 1 ? "{\"prompt\":\"a\",\"max_tokens\":30,\"stream\":true,\"n\":2}"
                         : "{\"prompt\":\"a\",\"max_tokens\":30}");
    }
    for (int i = 0; i < CLIENTS; i++) {
        assert_true(client_wait_answer(&s, &c[i]));
        assert_int_equal(client_status(&c[i]), 200);
        if (i & 1) {
            char *events = client_events(&c[i]);
            assert_int_equal(count_of(events, "data: "), 63);
            free(events);
        } else {
            assert_non_null(strstr(c[i].data, "\"text\":\"abcdefghijklmnopqrstuvwxyzabcd\""));
        }
        client_close(&c[i]);
    }
    turn_for_ms(&s, 10);
    assert_int_equal(ask(&s, "GET", "/metrics", "", NULL, &c[0]), 200);
    assert_non_null(strstr(c[0].data, "vllm:request_success_total{finished_reason=\"length\","
                                      "model_name=\"org/test-model\",engine=\"0\"} 90\n"));
    assert_non_null(strstr(c[0].data, "vllm:generation_tokens_total{model_name=\"org/test-model\","
                                      "engine=\"0\"} 2700\n"));
    assert_non_null(strstr(c[0].data, "vllm:time_to_first_token_seconds_count{model_name="
                                      "\"org/test-model\",engine=\"0\"} 60\n"));
    client_close(&c[0]);
    server_stop(&s);
}

/* The n-th allocation of a request's life fails: the client gets an answer or a cut, never a
 * hang, and the server goes on. */
static void test_memory(void **state) {
    static const char *const bodies[] = {
        "{\"prompt\":\"a\",\"max_tokens\":3,\"stop\":\"zz\"}",
        "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"max_tokens\":3,\"stream\":true,"
        "\"logprobs\":true,\"top_logprobs\":1,\"bad_words\":[\"q\"]}",
    };
    for (int kind = 0; kind < 2; kind++) {
        struct server s;
        server_init(&s);
        server_start(&s);
        bool was_reached = true;
        for (uint64_t n = 1; was_reached && n < 1000; n++) {
            struct client c;
            client_open(&c, &s);
            turn_for_ms(&s, 1);
            client_ask(&s, &c, "POST", kind ? CHAT : COMPLETIONS, "", bodies[kind]);
            was_reached = false;
            uint64_t until = clock_now_us() + WAIT_US;
            uint64_t left = n; /* only the server's own allocations count */
            while (clock_now_us() < until) {
                if (left) alloc_fail_at(left, 0);
                uv_run(&s.loop, UV_RUN_NOWAIT);
                if (left) {
                    uint64_t used = alloc_count();
                    alloc_fail_at(0, 0);
                    if (used >= left) was_reached = true;
                    left = used >= left ? 0 : left - used;
                }
                fake_poll(&s.worker);
                fake_step(&s.worker);
                client_read(&c);
                if (c.is_eof || strstr(c.data, "0\r\n\r\n") || strstr(c.data, "}}")) break;
            }
            assert_true(clock_now_us() < until);
            client_close(&c);
            s.worker.attempt_count = 0;
        }
        assert_false(was_reached);
        struct client c;
        turn_for_ms(&s, 5);
        assert_int_equal(ask(&s, "POST", kind ? CHAT : COMPLETIONS, "", bodies[kind], &c), 200);
        client_close(&c);
        server_stop(&s);
    }
}

/* api_create under failing allocations: an error, nothing left behind. */
static void test_create_memory(void **state) {
    bool was_reached = true;
    for (uint64_t n = 1; was_reached; n++) {
        struct server s;
        struct err_text text = {""};
        server_init(&s);
        s.has_worker = false;
        assert_int_equal(bus_local_create(64, 1 << 16, &s.bus), ERR_OK);
        alloc_fail_at(n, 0);
        enum err e =
            api_create(&s.loop, s.bus, 7, &s.options, &s.limits, server_health, &s, &text, &s.api);
        was_reached = alloc_count() >= n;
        alloc_fail_at(0, 0);
        assert_true(!e || was_reached);
        if (e) s.api = NULL;
        for (int i = 0; i < 3; i++) uv_run(&s.loop, UV_RUN_NOWAIT);
        server_stop(&s);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_probes_and_routes),
        cmocka_unit_test(test_keys_and_origins),
        cmocka_unit_test(test_chat_body),
        cmocka_unit_test(test_chat_stream),
        cmocka_unit_test(test_completions),
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_bad_requests),
        cmocka_unit_test(test_messages_and_tokenize),
        cmocka_unit_test(test_no_worker_and_refusals),
        cmocka_unit_test(test_queue),
        cmocka_unit_test(test_client_leaves),
        cmocka_unit_test(test_pooled_prompt),
        cmocka_unit_test(test_stop_string_cancels),
        cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_worker_is_lost),
        cmocka_unit_test(test_worker_restarts),
        cmocka_unit_test(test_keep_alive_comment),
        cmocka_unit_test(test_loading_and_drain),
        cmocka_unit_test(test_close_ends_streams),
        cmocka_unit_test(test_refused_below),
        cmocka_unit_test(test_many_at_once),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_create_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
