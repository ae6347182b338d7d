/* Goal: every legal shape of a request is read the same in one piece and split at every byte;
 * every shape that two servers could read differently is refused, with the status that says why,
 * and a failing allocation at any point refuses instead of crashing. */
#include "http_client.h"

#include "http/http_parse.h"
#include "http/http_target.h"

#define HEAD_MAX 4096u
#define BODY_MAX 1024u

struct outcome {
    int status; /* 0: whole; -1: wants more; else refused */
    char reason[128];
    char path[256];
    char query[256];
    char value[256]; /* of header "x" */
    uint8_t body[BODY_MAX];
    size_t body_bytes;
    size_t left; /* bytes behind the request */
    uint32_t fields;
    bool keeps_alive;
};

/* Parses data in pieces of at most `piece` bytes, the first one of `first`. */
static struct outcome parse(const void *data, size_t bytes, size_t first, size_t piece) {
    struct outcome outcome = {.status = -1};
    struct http_request request;
    struct http_parse parser;
    http_request_init(&request);
    http_parse_init(&parser, &request, HEAD_MAX, BODY_MAX);
    const uint8_t *at = data;
    size_t step = first;
    while (bytes > 0 && outcome.status == -1) {
        size_t taken = 0;
        if (step > bytes) step = bytes;
        /* An own copy of exactly this size: the sanitizer sees a read past it. */
        uint8_t *copy = malloc(step);
        memcpy(copy, at, step);
        enum http_parse_status status = http_parse_take(&parser, copy, step, &taken);
        free(copy);
        assert_true(taken <= step);
        if (status == HTTP_PARSE_MORE) assert_int_equal(taken, step);
        at += taken;
        bytes -= taken;
        if (status == HTTP_PARSE_DONE) outcome.status = 0;
        if (status == HTTP_PARSE_REFUSED) {
            outcome.status = parser.status;
            snprintf(outcome.reason, sizeof outcome.reason, "%s", parser.reason);
        }
        step = piece;
    }
    outcome.left = bytes;
    if (outcome.status == 0) {
        const char *head = (const char *) request.head.data;
        snprintf(outcome.path, sizeof outcome.path, "%s", head + request.path_at);
        snprintf(outcome.query, sizeof outcome.query, "%s", head + request.query_at);
        outcome.fields = request.field_count;
        outcome.keeps_alive = request.keeps_alive;
        outcome.body_bytes = request.body.bytes;
        if (request.body.bytes) memcpy(outcome.body, request.body.data, request.body.bytes);
        for (uint32_t i = 0; i < request.field_count; i++)
            if (strcmp(head + request.fields[i].name_at, "x") == 0)
                snprintf(outcome.value, sizeof outcome.value, "%s",
                         head + request.fields[i].value_at);
    }
    http_request_release(&request);
    return outcome;
}

struct refusal {
    const char *text;
    int status;
};

#define H "Host: a\r\n"
#define POST "POST /x HTTP/1.1\r\nHost: a\r\n"
#define CHUNKED POST "Transfer-Encoding: chunked\r\n\r\n"

static const struct refusal refusals[] = {
    /* request line */
    {"GET / HTTP/9.9\r\n" H "\r\n", 505},
    {"GET / HTTP/2.0\r\n" H "\r\n", 505},
    {"GET / HTTP/1.2\r\n" H "\r\n", 505},
    {"GET / HTTP/0.9\r\n" H "\r\n", 505},
    {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
    {"GET /\r\n" H "\r\n", 400},
    {"GET / http/1.1\r\n" H "\r\n", 400},
    {"GET / HTTP/1.1 \r\n" H "\r\n", 400},
    {"GET  / HTTP/1.1\r\n" H "\r\n", 400},
    {"GET /\tHTTP/1.1\r\n" H "\r\n", 400},
    {"GET / / HTTP/1.1\r\n" H "\r\n", 400},
    {" GET / HTTP/1.1\r\n" H "\r\n", 400},
    {"\nGET / HTTP/1.1\r\n" H "\r\n", 400},
    {"get / HTTP/1.1\r\n" H "\r\n", 400},
    {"FROB / HTTP/1.1\r\n" H "\r\n", 400},
    {"GET / RTSP/1.0\r\n" H "\r\n", 400},
    {"CONNECT a:1 HTTP/1.1\r\n" H "\r\n", 405},
    {"\x16\x03\x01\x02", 400}, /* a TLS hello */
    /* target */
    {"GET x HTTP/1.1\r\n" H "\r\n", 400},
    {"GET ftp://a/ HTTP/1.1\r\n" H "\r\n", 400},
    {"GET http:///x HTTP/1.1\r\n" H "\r\n", 400},
    {"GET /a#b HTTP/1.1\r\n" H "\r\n", 400},
    {"GET /%00 HTTP/1.1\r\n" H "\r\n", 400},
    {"GET /%0a HTTP/1.1\r\n" H "\r\n", 400},
    {"GET /%7F HTTP/1.1\r\n" H "\r\n", 400},
    {"GET /%zz HTTP/1.1\r\n" H "\r\n", 400},
    {"GET /%a HTTP/1.1\r\n" H "\r\n", 400},
    {"GET /% HTTP/1.1\r\n" H "\r\n", 400},
    {"GET /%ff HTTP/1.1\r\n" H "\r\n", 400},
    {"GET /%c0%af HTTP/1.1\r\n" H "\r\n", 400},
    {"GET /%ed%a0%80 HTTP/1.1\r\n" H "\r\n", 400},
    {"GET /\xc3\xa9 HTTP/1.1\r\n" H "\r\n", 400},
    /* Host */
    {"GET / HTTP/1.1\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\n" H H "\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400},
    {"GET / HTTP/1.0\r\n" H H "\r\n", 400},
    /* lines */
    {"GET / HTTP/1.1\n" H "\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: a\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: a\r\n\n", 400},
    {"GET / HTTP/1.1\r" H "\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\n" H "X: a\rb\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\n" H "\rX: b\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\n" H "X: a\r\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\n" H "X: a\r\n b\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\n" H "X: a\r\n\tb\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\n" H "X : b\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\n" H "X\t: b\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\n" H ": b\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\n" H "X\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\n" H "X(: b\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\n" H "X\xe9: b\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\n" H "X: a\x01z\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\n" H "X: a\x7fz\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\n" H "X: a\x0bz\r\n\r\n", 400},
    /* body length */
    {POST "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
    {POST "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400},
    {POST "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400},
    {POST "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400},
    {POST "Content-Length: 3, 3\r\n\r\nabc", 400},
    {POST "Content-Length: +3\r\n\r\nabc", 400},
    {POST "Content-Length: -3\r\n\r\nabc", 400},
    {POST "Content-Length: 0x3\r\n\r\nabc", 400},
    {POST "Content-Length: 3 4\r\n\r\nabc", 400},
    {POST "Content-Length: 3;\r\n\r\nabc", 400},
    {POST "Content-Length:\r\n\r\n", 400},
    {POST "Content-Length: 99999999999999999999999\r\n\r\n", 400},
    {POST "Content-Length: 18446744073709551615\r\n\r\n", 400},
    {POST "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400},
    {POST "Transfer-Encoding: gzip\r\n\r\n", 400},
    {POST "Transfer-Encoding: identity\r\n\r\n", 400},
    {POST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400},
    {POST "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400},
    {POST "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400},
    {POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
    {POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n", 400},
    {POST "Transfer-Encoding: \x0b"
          "chunked\r\n\r\n0\r\n\r\n",
     400},
    {POST "Transfer-Encoding:\r\n\r\n0\r\n\r\n", 400},
    {POST "Transfer-Encoding\r\n: chunked\r\n\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
    {POST "Expect: 200-ok\r\nContent-Length: 1\r\n\r\n", 417},
    /* chunks */
    {CHUNKED "0x3\r\nabc\r\n0\r\n\r\n", 400},
    {CHUNKED "+3\r\nabc\r\n0\r\n\r\n", 400},
    {CHUNKED "-3\r\nabc\r\n0\r\n\r\n", 400},
    {CHUNKED " 3\r\nabc\r\n0\r\n\r\n", 400},
    {CHUNKED "3 \r\nabc\r\n0\r\n\r\n", 400},
    {CHUNKED "3\nabc\r\n0\r\n\r\n", 400},
    {CHUNKED "3\rabc\r\n0\r\n\r\n", 400},
    {CHUNKED "3\r\nabcd\r\n0\r\n\r\n", 400},
    {CHUNKED "3\r\nabc\n0\r\n\r\n", 400},
    {CHUNKED "3\r\nabc0\r\n\r\n", 400},
    {CHUNKED "g\r\n", 400},
    {CHUNKED "\r\n", 400},
    {CHUNKED ";a\r\n", 400},
    {CHUNKED "fffffffffffffffff\r\n", 400},
    {CHUNKED "10000000000000000\r\n", 400},
    {CHUNKED "0000000000000000000000000000000001\r\n", -1}, /* zeros are harmless, bounded below */
    {CHUNKED "ffffffff\r\n", 413},
    {CHUNKED "3;a=\x01\r\nabc\r\n0\r\n\r\n", 400},
    {CHUNKED "3;a\nabc\r\n0\r\n\r\n", 400},
    {CHUNKED "3_0\r\n", 400},
    {CHUNKED "0\r\n\n", 400},
    {CHUNKED "0\r\n\rX", 400},
    {CHUNKED "0\r\nX: a\nb\r\n\r\n", 400},
    {CHUNKED "0\r\nX : a\r\n\r\n", 400},
    {CHUNKED "0\r\n X: a\r\n\r\n", 400},
    {CHUNKED "0\r\n GET", 400},
    /* limits */
    {POST "Content-Length: 1025\r\n\r\n", 413},
};

static void test_refusals(void **state) {
    for (size_t i = 0; i < ARRAY_COUNT(refusals); i++) {
        const char *text = refusals[i].text;
        size_t bytes = strlen(text);
        for (size_t first = 1; first <= bytes; first++) {
            struct outcome outcome = parse(text, bytes, first, bytes);
            if (outcome.status != refusals[i].status)
                fail_msg("case %zu split at %zu: status %d (%s), not %d:\n%s", i, first,
                         outcome.status, outcome.reason, refusals[i].status, text);
        }
        assert_int_equal(parse(text, bytes, 1, 1).status, refusals[i].status);
    }
    /* a NUL ends a C string, so it has its own place */
    const char nul[] = "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n";
    assert_int_equal(parse(nul, sizeof nul - 1, 100, 100).status, 400);
    const char nul_line[] = "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_int_equal(parse(nul_line, sizeof nul_line - 1, 100, 100).status, 400);
}

struct legal {
    const char *text, *path, *query, *value, *body;
    bool keeps_alive;
};

static const struct legal legals[] = {
    {"GET / HTTP/1.1\r\n" H "\r\n", "/", "", "", "", true},
    {"\r\nGET / HTTP/1.1\r\n" H "\r\n", "/", "", "", "", true},
    {"GET / HTTP/1.1\r\n" H "Connection: close\r\n\r\n", "/", "", "", "", false},
    {"GET / HTTP/1.0\r\n\r\n", "/", "", "", "", false},
    {"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "/", "", "", "", true},
    {"GET /a/b?c=%20&d HTTP/1.1\r\n" H "\r\n", "/a/b", "c=%20&d", "", "", true},
    {"GET /v1/models/org%2Fname%20x HTTP/1.1\r\n" H "\r\n", "/v1/models/org/name x", "", "", "",
     true},
    {"GET /%E2%82%AC%c3%a9%F0%9f%98%80 HTTP/1.1\r\n" H "\r\n",
     "/\xe2\x82\xac\xc3\xa9\xf0\x9f\x98\x80", "", "", "", true},
    {"GET http://h:8000/p?q HTTP/1.1\r\n" H "\r\n", "/p", "q", "", "", true},
    {"GET HTTP://h HTTP/1.1\r\n" H "\r\n", "/", "", "", "", true},
    {"GET http://h?q HTTP/1.1\r\n" H "\r\n", "/", "q", "", "", true},
    {"OPTIONS * HTTP/1.1\r\n" H "\r\n", "*", "", "", "", true},
    {"GET / HTTP/1.1\r\nHost:\r\n\r\n", "/", "", "", "", true},
    {"GET / HTTP/1.1\r\nhOST:a\r\nX:\t v w \t\r\n\r\n", "/", "", "v w", "", true},
    {"GET / HTTP/1.1\r\n" H "X:\r\n\r\n", "/", "", "", "", true},
    {"GET / HTTP/1.1\r\n" H "X: caf\xc3\xa9\r\n\r\n", "/", "", "caf\xc3\xa9", "", true},
    {POST "Content-Length: 0\r\n\r\n", "/x", "", "", "", true},
    {POST "\r\n", "/x", "", "", "", true},
    {POST "Content-Length: 5\r\nX: y\r\n\r\nhello", "/x", "", "y", "hello", true},
    {POST "Content-Length: 0005\r\n\r\nhello", "/x", "", "", "hello", true},
    {POST "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: 2\r\n\r\nhi",
     "/x", "", "", "hi", true},
    {"GET / HTTP/1.1\r\n" H "Upgrade: websocket\r\nConnection: upgrade\r\n\r\n", "/", "", "", "",
     true},
    {CHUNKED "0\r\n\r\n", "/x", "", "", "", true},
    {CHUNKED "5\r\nhello\r\n0\r\n\r\n", "/x", "", "", "hello", true},
    {CHUNKED "3\r\nhel\r\n02\r\nlo\r\n000\r\n\r\n", "/x", "", "", "hello", true},
    {CHUNKED "A;n;q=\"x y\"\r\n0123456789\r\n0\r\nTrail: er\r\nX: not a header\r\n\r\n", "/x", "",
     "", "0123456789", true},
    {CHUNKED "1\r\nz\r\n0\r\nContent-Length: 5\r\n\r\n", "/x", "", "", "z", true},
    {POST "TRANSFER-encoding:  CHUNKED \r\n\r\n1\r\nz\r\n0\r\n\r\n", "/x", "", "", "z", true},
    {POST "Expect: 100-Continue\r\nContent-Length: 1\r\n\r\nz", "/x", "", "", "z", true},
};

static void check_legal(size_t i, struct outcome outcome, size_t left) {
    const struct legal *legal = &legals[i];
    if (outcome.status)
        fail_msg("case %zu: %d %s\n%s", i, outcome.status, outcome.reason, legal->text);
    assert_string_equal(outcome.path, legal->path);
    assert_string_equal(outcome.query, legal->query);
    assert_string_equal(outcome.value, legal->value);
    assert_int_equal(outcome.body_bytes, strlen(legal->body));
    assert_memory_equal(outcome.body, legal->body, strlen(legal->body));
    assert_int_equal(outcome.keeps_alive, legal->keeps_alive);
    assert_int_equal(outcome.left, left);
}

static void test_legal_split_at_every_byte(void **state) {
    for (size_t i = 0; i < ARRAY_COUNT(legals); i++) {
        char text[512];
        int length = snprintf(text, sizeof text, "%sGET /next", legals[i].text);
        size_t next = strlen("GET /next");
        size_t bytes = (size_t) length - next;
        check_legal(i, parse(text, bytes + next, bytes + next, 1), next);
        for (size_t first = 1; first <= bytes; first++)
            check_legal(i, parse(text, bytes, first, bytes), 0);
        check_legal(i, parse(text, bytes, 1, 1), 0);
        /* every prefix wants more */
        for (size_t cut = 1; cut < bytes; cut++)
            assert_int_equal(parse(text, cut, cut, 1).status, -1);
    }
}

static void test_limits(void **state) {
    struct buf text;
    buf_init(&text, 0);
    /* head: one byte over and at the limit */
    for (size_t over = 0; over <= 1; over++) {
        buf_clear(&text);
        buf_add_string(&text, "GET / HTTP/1.1\r\n" H "X: ");
        while (text.bytes < HEAD_MAX + over - 4) buf_add_byte(&text, 'a');
        buf_add_string(&text, "\r\n\r\n");
        assert_int_equal(text.bytes, HEAD_MAX + over);
        assert_int_equal(parse(text.data, text.bytes, 7, 100).status, over ? 431 : 0);
    }
    /* a target without end */
    buf_clear(&text);
    buf_add_string(&text, "GET /");
    while (text.bytes <= HEAD_MAX) buf_add_byte(&text, 'a');
    assert_int_equal(parse(text.data, text.bytes, 7, 100).status, 431);
    /* fields: 128 and 129 */
    for (size_t over = 0; over <= 1; over++) {
        buf_clear(&text);
        buf_add_string(&text, "GET / HTTP/1.1\r\n" H);
        for (size_t i = 1; i < HTTP_FIELDS_MAX + over; i++) buf_add_string(&text, "a:b\r\n");
        buf_add_string(&text, "\r\n");
        assert_int_equal(parse(text.data, text.bytes, 9, 1).status, over ? 431 : 0);
    }
    /* chunked body: 1,024 bytes in small chunks, and one more */
    for (size_t over = 0; over <= 1; over++) {
        buf_clear(&text);
        buf_add_string(&text, CHUNKED);
        for (size_t i = 0; i < BODY_MAX / 4; i++) buf_add_string(&text, "4\r\nabcd\r\n");
        if (over) buf_add_string(&text, "1\r\na\r\n");
        buf_add_string(&text, "0\r\n\r\n");
        assert_int_equal(parse(text.data, text.bytes, 9, 5).status, over ? 413 : 0);
    }
    /* trailers count as head */
    buf_clear(&text);
    buf_add_string(&text, CHUNKED "0\r\n");
    while (text.bytes < 2 * HEAD_MAX) buf_add_string(&text, "trail: er\r\n");
    assert_int_equal(parse(text.data, text.bytes, 9, 50).status, 431);
    /* an extension without end, zeros without end */
    buf_clear(&text);
    buf_add_string(&text, CHUNKED "3;");
    for (size_t i = 0; i <= HTTP_CHUNK_EXTENSION_MAX; i++) buf_add_byte(&text, 'e');
    assert_int_equal(parse(text.data, text.bytes, 9, 50).status, 400);
    buf_clear(&text);
    buf_add_string(&text, CHUNKED);
    for (size_t i = 0; i <= HTTP_CHUNK_EXTENSION_MAX + 1; i++) buf_add_byte(&text, '0');
    assert_int_equal(parse(text.data, text.bytes, 9, 50).status, 400);
    buf_release(&text);
}

static void test_allocation_fails(void **state) {
    const char text[] = POST "X: y\r\nContent-Length: 5\r\n\r\nhello";
    const char chunked[] = CHUNKED "5\r\nhello\r\n0\r\n\r\n";
    for (int which = 0; which < 2; which++) {
        const char *request = which ? chunked : text;
        bool is_whole = false;
        for (uint64_t n = 1; !is_whole; n++) {
            assert_true(n < 50);
            alloc_fail_at(n, 0);
            struct outcome outcome = parse(request, strlen(request), 10, 10);
            alloc_fail_at(0, 0);
            is_whole = outcome.status == 0;
            if (!is_whole) assert_int_equal(outcome.status, 503);
            if (is_whole) assert_true(n > 2); /* something did fail before */
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_legal_split_at_every_byte),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_allocation_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
