/* Goal: the server over real loopback sockets keeps http_server.h's word: answers, keep-alive,
 * pipelining, 100-continue, limits, timeouts, back-pressure, clients that leave, drain, close,
 * many connections, and memory that runs out at any point. */
#include "http_client.h"

#include <sys/resource.h>

#define GET(path) "GET " path " HTTP/1.1\r\nHost: a\r\n\r\n"

static void test_answers(void **state) {
    struct fixture f;
    struct client c;
    fixture_open(&f, NULL);
    client_open(&c, &f);
    client_send(&f, &c, GET("/a%20b?q=1"));
    assert_true(client_wait(&f, &c, "path=/a b"));
    assert_int_equal(client_status(&c), 200);
    assert_string_equal(f.method, "GET");
    assert_string_equal(f.query, "q=1");
    assert_non_null(strstr(c.data, "\r\nContent-Length: 9\r\n"));
    assert_non_null(strstr(c.data, "\r\nContent-Type: text/plain\r\n"));
    assert_non_null(strstr(c.data, "\r\nDate: "));
    assert_null(strstr(c.data, "Connection:"));
    /* the same connection again */
    c.bytes = 0;
    client_send(&f, &c, GET("/second"));
    assert_true(client_wait(&f, &c, "path=/second"));
    assert_true(wait_count(&f, &f.done_whole, 2));
    assert_int_equal(http_server_connection_count(f.server), 1);
    assert_int_equal(http_server_exchange_count(f.server), 0);
    /* HEAD: the head of the same answer */
    c.bytes = 0;
    client_send(&f, &c, "HEAD /abc HTTP/1.1\r\nHost: a\r\n\r\n" GET("/after"));
    assert_true(client_wait(&f, &c, "path=/after"));
    assert_non_null(strstr(c.data, "Content-Length: 9\r\n"));
    assert_null(strstr(c.data, "path=/abc"));
    client_close(&c);
    fixture_close(&f);
}

static void test_versions_and_close(void **state) {
    static const struct {
        const char *request, *connection;
        bool ends;
    } cases[] = {
        {"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "Connection: close\r\n", true},
        {"GET / HTTP/1.0\r\n\r\n", "Connection: close\r\n", true},
        {"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "Connection: keep-alive\r\n", false},
    };
    struct fixture f;
    fixture_open(&f, NULL);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct client c;
        client_open(&c, &f);
        client_send(&f, &c, cases[i].request);
        assert_true(client_wait(&f, &c, "path=/"));
        assert_non_null(strstr(c.data, cases[i].connection));
        if (cases[i].ends) assert_true(client_wait_eof(&f, &c));
        turn_for_ms(&f, 5);
        client_read(&c);
        assert_int_equal(c.is_eof, cases[i].ends);
        client_close(&c);
    }
    fixture_close(&f);
}

static void test_handler_closes(void **state) {
    struct fixture f;
    struct client c;
    fixture_open(&f, NULL);
    f.answers_at_once = false;
    client_open(&c, &f);
    client_send(&f, &c, GET("/"));
    assert_true(wait_count(&f, &f.requests, 1));
    const struct http_header headers[] = {{"connection", "Close"}, {"A", "b"}};
    http_answer_send(f.last, 503, NULL, headers, 2, "x", 1);
    assert_true(client_wait_eof(&f, &c));
    const char *first = strstr(c.data, "onnection:");
    assert_non_null(first);
    assert_null(strstr(first + 1, "onnection:"));
    assert_non_null(strstr(c.data, "A: b\r\n"));
    client_close(&c);
    fixture_close(&f);
}

static void test_stream(void **state) {
    struct fixture f;
    struct client c;
    fixture_open(&f, NULL);
    f.answers_at_once = false;
    client_open(&c, &f);
    client_send(&f, &c, GET("/stream"));
    assert_true(wait_count(&f, &f.requests, 1));
    assert_int_equal(http_server_exchange_count(f.server), 1);
    struct http_exchange *exchange = f.last;
    assert_int_equal(strncmp(http_request_peer(exchange), "127.0.0.1:", 10), 0);
    assert_false(http_answer_is_started(exchange));
    const struct http_header headers[] = {{"Cache-Control", "no-cache"},
                                          {"X-Evil", "a\r\nSet-Cookie: b"}};
    http_answer_start(exchange, 200, "text/event-stream", headers, 2);
    assert_int_equal(http_answer_status(exchange), 200);
    assert_true(client_wait(&f, &c, "no-cache\r\n\r\n"));
    assert_null(strstr(c.data, "Set-Cookie"));
    /* the pieces of one turn share one write */
    uint64_t writes = http_server_write_count(f.server);
    for (int i = 0; i < 20; i++) http_answer_body(exchange, "data: 17 bytes!\n\n", 17);
    http_answer_body(exchange, "", 0); /* would end the body */
    http_answer_end(exchange);
    assert_true(client_wait(&f, &c, "11\r\ndata: 17 bytes!\n\n\r\n0\r\n\r\n"));
    assert_int_equal(http_server_write_count(f.server), writes + 1);
    assert_true(wait_count(&f, &f.done_whole, 1));
    assert_int_equal(f.gone, 0);
    client_close(&c);
    /* HTTP/1.0 knows no chunks: the end of the connection ends the answer */
    client_open(&c, &f);
    client_send(&f, &c, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_true(wait_count(&f, &f.requests, 2));
    http_answer_start(f.last, 200, NULL, NULL, 0);
    http_answer_body(f.last, "abc", 3);
    http_answer_body(f.last, "def", 3);
    http_answer_end(f.last);
    assert_true(client_wait_eof(&f, &c));
    assert_non_null(strstr(c.data, "Connection: close\r\n\r\nabcdef"));
    assert_null(strstr(c.data, "chunked"));
    client_close(&c);
    fixture_close(&f);
}

/* Tokens faster than the pace share writes, none is kept back, and the end never waits. */
static void test_stream_is_paced(void **state) {
    struct fixture f;
    struct client c;
    fixture_open(&f, NULL);
    f.answers_at_once = false;
    client_open(&c, &f);
    client_send(&f, &c, GET("/stream"));
    assert_true(wait_count(&f, &f.requests, 1));
    http_answer_start(f.last, 200, NULL, NULL, 0);
    turn(&f);
    uint64_t writes = http_server_write_count(f.server);
    http_answer_body(f.last, "first", 5);
    turn(&f);
    assert_int_equal(http_server_write_count(f.server), writes + 1);
    uint64_t moments = 1, now_ms = 0;
    for (int i = 0; i < 500; i++) {
        http_answer_body(f.last, "token", 5);
        turn(&f);
        if (uv_now(&f.loop) != now_ms) moments++;
        now_ms = uv_now(&f.loop);
    }
    assert_true(http_server_write_count(f.server) - writes <= moments + 1);
    http_answer_body(f.last, "kept?", 5);
    assert_true(client_wait(&f, &c, "kept?"));
    http_answer_body(f.last, "last", 4);
    http_answer_end(f.last);
    turn(&f);
    client_read(&c);
    assert_non_null(strstr(c.data, "4\r\nlast\r\n0\r\n\r\n"));
    /* one that is held when it dies */
    client_send(&f, &c, GET("/again"));
    assert_true(wait_count(&f, &f.requests, 2));
    http_answer_start(f.last, 200, NULL, NULL, 0);
    http_answer_body(f.last, "a", 1);
    turn(&f);
    http_answer_body(f.last, "b", 1);
    client_close(&c);
    assert_true(wait_count(&f, &f.gone, 1));
    fixture_close(&f);
}

/* A flush does not wait for the end of the turn, sends nothing twice and loses nothing, however much
 * the kernel takes; a client that is gone is found out by the turn. */
static void test_stream_is_flushed(void **state) {
    static char want[8u << 20];
    struct fixture f;
    struct client c;
    fixture_open(&f, NULL);
    f.answers_at_once = false;
    client_open(&c, &f);
    client_send(&f, &c, "GET / HTTP/1.0\r\n\r\n");
    assert_true(wait_count(&f, &f.requests, 1));
    http_answer_start(f.last, 200, NULL, NULL, 0);
    http_answer_body(f.last, "first", 5);
    uint64_t writes = http_server_write_count(f.server);
    http_answer_flush(f.last);
    http_answer_flush(f.last); /* there is nothing */
    assert_int_equal(http_server_write_count(f.server), writes + 1);
    turn(&f);
    assert_int_equal(http_server_write_count(f.server), writes + 1);
    assert_true(client_wait(&f, &c, "\r\n\r\nfirst"));
    c.bytes = 0;
    size_t made = 0, read_bytes = 0;
    for (uint32_t i = 0; made + 4096 < sizeof want && !http_answer_is_full(f.last); i++) {
        for (size_t k = 0; k < 4096; k++) want[made + k] = (char) ('a' + (made + k + i) % 26);
        http_answer_body(f.last, want + made, 4096);
        http_answer_flush(f.last);
        made += 4096;
        if (i % 3 == 0) turn(&f);
    }
    assert_true(http_answer_is_full(f.last)); /* the kernel took a part of one */
    http_answer_flush(f.last);
    http_answer_end(f.last);
    while (!c.is_eof) {
        turn(&f);
        c.bytes = 0;
        client_read(&c);
        assert_true(read_bytes + c.bytes <= made);
        assert_memory_equal(c.data, want + read_bytes, c.bytes);
        read_bytes += c.bytes;
    }
    assert_int_equal(read_bytes, made);
    client_close(&c);
    /* a reset while nobody looks */
    client_open(&c, &f);
    client_send(&f, &c, GET("/"));
    assert_true(wait_count(&f, &f.requests, 2));
    http_answer_start(f.last, 200, NULL, NULL, 0);
    turn(&f);
    struct linger hard = {.l_onoff = 1};
    setsockopt(c.fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    client_close(&c);
    usleep(5000);
    http_answer_body(f.last, "x", 1);
    http_answer_flush(f.last);
    assert_int_equal(f.gone, 0);
    assert_true(wait_count(&f, &f.gone, 1));
    fixture_close(&f);
}

static void test_pipelining(void **state) {
    struct fixture f;
    struct client c;
    fixture_open(&f, NULL);
    client_open(&c, &f);
    struct buf text;
    buf_init(&text, 0);
    for (int i = 0; i < 100; i++)
        buf_add_format(&text, "POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", i);
    client_send_bytes(&f, &c, text.data, text.bytes);
    assert_true(client_wait(&f, &c, "path=/99"));
    /* in order, each once */
    const char *at = c.data;
    for (int i = 0; i < 100; i++) {
        char want[32];
        snprintf(want, sizeof want, "path=/%d", i);
        at = strstr(at, want);
        assert_non_null(at);
    }
    assert_int_equal(f.requests, 100);
    /* one at a time: the second waits for the first's answer */
    f.answers_at_once = false;
    c.bytes = 0;
    client_send(&f, &c, GET("/slow") GET("/next"));
    turn_for_ms(&f, 5);
    assert_int_equal(f.requests, 101);
    assert_string_equal(f.path, "/slow");
    http_answer_send(f.last, 200, NULL, NULL, 0, "1", 1);
    assert_true(wait_count(&f, &f.requests, 102));
    assert_string_equal(f.path, "/next");
    http_answer_send(f.last, 200, NULL, NULL, 0, "2", 1);
    assert_true(wait_count(&f, &f.done_whole, 102));
    client_close(&c);
    buf_release(&text);
    fixture_close(&f);
}

/* More pipelined bytes than are kept: reading pauses, the rest waits in the kernel, and neither
 * a lost byte nor an unnoticed departure comes of it. */
static void test_pipelining_is_bounded(void **state) {
    struct fixture f;
    struct client c;
    fixture_open(&f, NULL);
    f.answers_at_once = false;
    client_open(&c, &f);
    client_send(&f, &c, GET("/first"));
    assert_true(wait_count(&f, &f.requests, 1));
    struct buf text;
    buf_init(&text, 0);
    uint32_t count = 0;
    while (text.bytes < 400000) {
        buf_add_string(&text, GET("/more"));
        count++;
    }
    client_send_bytes(&f, &c, text.data, text.bytes);
    turn_for_ms(&f, 5);
    f.answers_at_once = true;
    http_answer_send(f.last, 200, NULL, NULL, 0, "1", 1);
    uint64_t until = clock_now_us() + WAIT_US;
    while (f.requests < count + 1 && clock_now_us() < until) {
        turn(&f);
        client_read(&c);
        c.bytes = 0;
    }
    assert_int_equal(f.requests, count + 1);
    /* again, and the client leaves while reading is paused */
    f.answers_at_once = false;
    client_send(&f, &c, GET("/wait"));
    assert_true(wait_count(&f, &f.requests, count + 2));
    client_send_bytes(&f, &c, text.data, 200000);
    turn_for_ms(&f, 5);
    assert_int_equal(f.gone, 0);
    client_close(&c);
    assert_true(wait_count(&f, &f.gone, 1));
    buf_release(&text);
    fixture_close(&f);
}

static void test_bodies_split_at_every_byte(void **state) {
    static const char *const requests[] = {
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0"
        "\r\n\r\n",
    };
    struct fixture f;
    struct client c;
    fixture_open(&f, NULL);
    client_open(&c, &f);
    uint32_t count = 0;
    for (size_t i = 0; i < ARRAY_COUNT(requests); i++) {
        size_t bytes = strlen(requests[i]);
        for (size_t cut = 1; cut < bytes; cut++) {
            client_send_bytes(&f, &c, requests[i], cut);
            turn(&f);
            turn(&f);
            assert_int_equal(f.requests, count);
            client_send_bytes(&f, &c, requests[i] + cut, bytes - cut);
            assert_true(wait_count(&f, &f.requests, ++count));
            assert_int_equal(f.body_bytes, 5);
            assert_memory_equal(f.body, "hello", 5);
            assert_true(wait_count(&f, &f.done_whole, count));
            client_read(&c);
            c.bytes = 0;
        }
    }
    client_close(&c);
    fixture_close(&f);
}

static void test_expect_continue(void **state) {
    struct fixture f;
    struct client c;
    fixture_open(&f, NULL);
    client_open(&c, &f);
    client_send(&f, &c,
                "POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_true(client_wait(&f, &c, "HTTP/1.1 100 Continue\r\n\r\n"));
    client_send(&f, &c, "ok");
    assert_true(client_wait(&f, &c, "path=/x"));
    /* not when the body comes along, nor for a body that is refused anyway */
    c.bytes = 0;
    client_send(
        &f, &c,
        "POST /y HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok");
    assert_true(client_wait(&f, &c, "path=/y"));
    assert_int_equal(client_status(&c), 200);
    c.bytes = 0;
    client_send(&f, &c,
                "POST /y HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
                "Content-Length: 999999999999\r\n\r\n");
    assert_true(client_wait_eof(&f, &c));
    assert_int_equal(client_status(&c), 413);
    client_close(&c);
    fixture_close(&f);
}

static void test_refusals(void **state) {
    static const struct {
        const char *request;
        int status;
    } cases[] = {
        {"GET / HTTP/1.1\r\n\r\n", 400},
        {"GET / HTTP/9.9\r\nHost: a\r\n\r\n", 505},
        {"GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
         400},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\nabc", 413},
        {"POST / HTTP/1.1\r\nHost: a\r\nExpect: a pony\r\nContent-Length: 3\r\n\r\nabc", 417},
        {"rubbish\r\n\r\n", 400},
    };
    struct fixture f;
    fixture_open(&f, NULL);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct client c;
        client_open(&c, &f);
        /* what is smuggled behind a refused request is never answered */
        client_send(&f, &c, cases[i].request);
        client_send(&f, &c, GET("/smuggled"));
        assert_true(client_wait_eof(&f, &c));
        assert_int_equal(client_status(&c), cases[i].status);
        assert_non_null(strstr(c.data, "Connection: close\r\n"));
        assert_non_null(strstr(c.data, "application/json"));
        assert_non_null(strstr(c.data, "{\"error\":\""));
        client_close(&c);
    }
    assert_int_equal(f.requests, 0);
    assert_int_equal(f.done_whole + f.done_cut + f.gone, 0);
    /* a body that was announced and goes on coming does not cost the client the answer */
    struct client c;
    client_open(&c, &f);
    client_send(&f, &c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n");
    char junk[65536] = {0};
    for (int i = 0; i < 40; i++) client_send_bytes(&f, &c, junk, sizeof junk);
    shutdown(c.fd, SHUT_WR);
    assert_true(client_wait_eof(&f, &c));
    assert_int_equal(client_status(&c), 413);
    client_close(&c);
    fixture_close(&f);
}

static void small_limits(struct http_limits *limits) {
    http_limits_default(limits);
    limits->header_timeout_ms = 60;
    limits->body_timeout_ms = 60;
    limits->keep_alive_ms = 60;
    limits->write_timeout_ms = 60;
}

static void test_timeouts(void **state) {
    struct http_limits limits;
    struct fixture f;
    struct client c;
    small_limits(&limits);
    fixture_open(&f, &limits);
    /* headers, byte by byte: the clock runs from the first */
    client_open(&c, &f);
    for (int i = 0; i < 100 && !c.is_eof; i++) {
        client_send(&f, &c, i ? "x" : "GET /");
        turn_for_ms(&f, 5);
        client_read(&c);
    }
    assert_int_equal(client_status(&c), 408);
    client_close(&c);
    /* a body that stalls; one that goes on is not touched */
    client_open(&c, &f);
    client_send(&f, &c, "POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n");
    for (int i = 0; i < 9; i++) {
        turn_for_ms(&f, 20);
        client_send(&f, &c, "b");
    }
    assert_int_equal(c.bytes, 0);
    assert_true(client_wait_eof(&f, &c));
    assert_int_equal(client_status(&c), 408);
    client_close(&c);
    /* idle: closed without a word, before and after a request, and after empty lines only */
    client_open(&c, &f);
    assert_true(client_wait_eof(&f, &c));
    assert_int_equal(c.bytes, 0);
    client_close(&c);
    client_open(&c, &f);
    client_send(&f, &c, "\r\n\r\n");
    assert_true(client_wait_eof(&f, &c));
    assert_int_equal(c.bytes, 0);
    client_close(&c);
    client_open(&c, &f);
    client_send(&f, &c, GET("/idle"));
    assert_true(client_wait(&f, &c, "path=/idle"));
    size_t bytes = c.bytes;
    assert_true(client_wait_eof(&f, &c));
    assert_int_equal(c.bytes, bytes);
    client_close(&c);
    /* an answer that takes long is no timeout */
    f.answers_at_once = false;
    client_open(&c, &f);
    client_send(&f, &c, GET("/long"));
    turn_for_ms(&f, 200);
    assert_non_null(f.last);
    http_answer_send(f.last, 200, NULL, NULL, 0, "late", 4);
    assert_true(client_wait(&f, &c, "late"));
    client_close(&c);
    fixture_close(&f);
}

static void test_slow_reader(void **state) {
    struct http_limits limits;
    struct fixture f;
    struct client c;
    fixture_open(&f, NULL);
    f.answers_at_once = false;
    client_open(&c, &f);
    client_send(&f, &c, GET("/"));
    assert_true(wait_count(&f, &f.requests, 1));
    http_answer_start(f.last, 200, NULL, NULL, 0);
    char piece[8192];
    memset(piece, 'p', sizeof piece);
    size_t sent = 0;
    /* until the kernel takes no more */
    while (!http_answer_is_full(f.last)) {
        http_answer_body(f.last, piece, sizeof piece);
        sent += sizeof piece;
        turn(&f);
        assert_true(sent < (64u << 20));
    }
    assert_int_equal(f.drains, 0);
    /* it reads again: on_drain comes, once */
    uint64_t until = clock_now_us() + WAIT_US;
    while (f.drains == 0 && clock_now_us() < until) {
        c.bytes = 0;
        client_read(&c);
        turn(&f);
    }
    assert_int_equal(f.drains, 1);
    assert_false(http_answer_is_full(f.last));
    assert_int_equal(f.gone, 0);
    client_close(&c);
    fixture_close(&f);
    /* who reads nothing is cut off, told once: whether all of it waits in the kernel or not */
    small_limits(&limits);
    for (int is_all_in_kernel = 0; is_all_in_kernel < 2; is_all_in_kernel++) {
        fixture_open(&f, &limits);
        f.answers_at_once = false;
        client_open(&c, &f);
        client_send(&f, &c, GET("/"));
        assert_true(wait_count(&f, &f.requests, 1));
        http_answer_start(f.last, 200, NULL, NULL, 0);
        for (sent = 0;
             f.last && (is_all_in_kernel ? sent < (512u << 10) : !http_answer_is_full(f.last));
             sent += sizeof piece) {
            http_answer_body(f.last, piece, sizeof piece);
            turn(&f);
        }
        if (is_all_in_kernel && f.last) assert_false(http_answer_is_full(f.last));
        assert_true(wait_count(&f, &f.gone, 1));
        assert_int_equal(f.done_cut, 1);
        assert_int_equal(http_server_exchange_count(f.server), 0);
        client_close(&c);
        fixture_close(&f);
    }
}

/* A token now and then is no stall, nor is a reader that has read all there is. */
static void test_patient_reader(void **state) {
    struct http_limits limits;
    struct fixture f;
    struct client c;
    small_limits(&limits);
    limits.write_timeout_ms = 300; /* longer than an acknowledgement may be held back */
    fixture_open(&f, &limits);
    f.answers_at_once = false;
    client_open(&c, &f);
    client_send(&f, &c, GET("/"));
    assert_true(wait_count(&f, &f.requests, 1));
    http_answer_start(f.last, 200, NULL, NULL, 0);
    for (int i = 0; i < 2; i++) {
        http_answer_body(f.last, "token", 5);
        turn_for_ms(&f, 450);
    }
    assert_int_equal(f.gone, 0);
    http_answer_end(f.last);
    assert_true(client_wait(&f, &c, "0\r\n\r\n"));
    client_close(&c);
    fixture_close(&f);
}

static void test_client_leaves(void **state) {
    struct fixture f;
    struct client c;
    fixture_open(&f, NULL);
    f.answers_at_once = false;
    for (int is_streaming = 0; is_streaming < 2; is_streaming++) {
        for (int is_reset = 0; is_reset < 2; is_reset++) {
            uint32_t gone = f.gone, requests = f.requests;
            client_open(&c, &f);
            client_send(&f, &c, GET("/"));
            assert_true(wait_count(&f, &f.requests, requests + 1));
            if (is_streaming) {
                http_answer_start(f.last, 200, NULL, NULL, 0);
                http_answer_body(f.last, "x", 1);
                assert_true(client_wait(&f, &c, "\r\n\r\n1\r\nx\r\n"));
            }
            struct linger hard = {.l_onoff = is_reset, .l_linger = 0};
            setsockopt(c.fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
            client_close(&c);
            assert_true(wait_count(&f, &f.gone, gone + 1));
            assert_int_equal(f.done_cut, f.gone);
        }
    }
    /* in the middle of a request nobody is told */
    uint32_t gone = f.gone;
    client_open(&c, &f);
    client_send(&f, &c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab");
    client_close(&c);
    for (int i = 0; i < 1000 && http_server_connection_count(f.server); i++) turn_for_ms(&f, 5);
    assert_int_equal(http_server_connection_count(f.server), 0);
    assert_int_equal(f.gone, gone);
    /* a half-close behind a request that is answered at once still gets the answer */
    f.answers_at_once = true;
    client_open(&c, &f);
    client_send(&f, &c, GET("/one") GET("/two"));
    shutdown(c.fd, SHUT_WR);
    assert_true(client_wait(&f, &c, "path=/two"));
    assert_true(client_wait_eof(&f, &c));
    client_close(&c);
    fixture_close(&f);
}

static void test_abort(void **state) {
    struct fixture f;
    struct client c;
    fixture_open(&f, NULL);
    f.answers_at_once = false;
    client_open(&c, &f);
    client_send(&f, &c, GET("/"));
    assert_true(wait_count(&f, &f.requests, 1));
    http_answer_start(f.last, 200, NULL, NULL, 0);
    http_answer_body(f.last, "abc", 3);
    struct http_exchange *exchange = f.last;
    http_exchange_abort(exchange);
    http_answer_body(exchange, "more", 4); /* nothing happens */
    http_answer_end(exchange);
    assert_true(client_wait_eof(&f, &c));
    assert_non_null(strstr(c.data, "abc"));
    assert_null(strstr(c.data, "more"));
    assert_null(strstr(c.data, "0\r\n\r\n"));
    assert_int_equal(f.gone, 0);
    assert_int_equal(f.done_cut, 1);
    client_close(&c);
    fixture_close(&f);
}

static void test_drain(void **state) {
    struct fixture f;
    struct client idle, busy, late;
    fixture_open(&f, NULL);
    f.answers_at_once = false;
    client_open(&idle, &f);
    client_open(&busy, &f);
    client_send(&f, &busy, GET("/"));
    assert_true(wait_count(&f, &f.requests, 1));
    http_answer_start(f.last, 200, NULL, NULL, 0);
    http_server_drain(f.server);
    assert_true(client_wait_eof(&f, &idle));
    client_close(&idle);
    /* nothing is accepted any more */
    late.fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons(f.port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    turn_for_ms(&f, 5);
    assert_int_equal(connect(late.fd, (struct sockaddr *) &to, sizeof to), -1);
    close(late.fd);
    /* what is under way goes on, then closes */
    http_answer_body(f.last, "rest", 4);
    http_answer_end(f.last);
    assert_true(client_wait_eof(&f, &busy));
    assert_non_null(strstr(busy.data, "rest\r\n0\r\n\r\n"));
    client_close(&busy);
    turn_for_ms(&f, 5);
    assert_int_equal(http_server_connection_count(f.server), 0);
    fixture_close(&f);
}

static void test_close_with_live_exchanges(void **state) {
    struct fixture f;
    struct client c[8];
    fixture_open(&f, NULL);
    f.answers_at_once = false;
    for (int i = 0; i < 8; i++) {
        client_open(&c[i], &f);
        client_send(&f, &c[i], i % 2 ? GET("/") : "POST /half");
    }
    assert_true(wait_count(&f, &f.requests, 4));
    fixture_close(&f);
    assert_int_equal(f.gone, 4);
    assert_int_equal(f.done_cut, 4);
    for (int i = 0; i < 8; i++) client_close(&c[i]);
}

static void test_connection_limit(void **state) {
    struct http_limits limits;
    struct fixture f;
    struct client c[4];
    http_limits_default(&limits);
    limits.connections_max = 3;
    fixture_open(&f, &limits);
    for (int i = 0; i < 4; i++) client_open(&c[i], &f);
    client_send(&f, &c[3], GET("/"));
    assert_true(client_wait_eof(&f, &c[3]));
    assert_int_equal(client_status(&c[3]), 503);
    for (int i = 0; i < 3; i++) {
        client_send(&f, &c[i], GET("/fine"));
        assert_true(client_wait(&f, &c[i], "path=/fine"));
    }
    client_close(&c[3]);
    client_close(&c[0]);
    turn_for_ms(&f, 5);
    client_open(&c[0], &f);
    client_send(&f, &c[0], GET("/again"));
    assert_true(client_wait(&f, &c[0], "path=/again"));
    for (int i = 0; i < 3; i++) client_close(&c[i]);
    fixture_close(&f);
}

static void test_port_taken(void **state) {
    struct fixture f;
    fixture_open(&f, NULL);
    struct err_text text;
    uint16_t port = 0;
    assert_int_equal(http_server_listen(f.server, "127.0.0.1", f.port, &text, &port), ERR_IO);
    char want[64];
    snprintf(want, sizeof want, "port %u on 127.0.0.1 is taken", f.port);
    assert_non_null(strstr(text.text, want));
    assert_int_equal(port, 0);
    assert_int_equal(http_server_listen(f.server, "no such host", 0, &text, &port), ERR_IO);
    assert_int_equal(http_server_listen(f.server, "localhost", 0, &text, &port), ERR_OK);
    assert_int_not_equal(port, 0);
    fixture_close(&f);
}

/* 1,000 connections at once, each streamed to in every turn. */
#define MANY 1000
static struct http_exchange *many_exchanges[MANY];
static uint32_t many_count;

static void many_on_request(void *ctx, struct http_exchange *exchange) {
    many_exchanges[many_count++] = exchange;
}

static void test_many_connections(void **state) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_cur < 2 * MANY + 100) skip();
    struct fixture f;
    fixture_open(&f, NULL);
    http_server_close(f.server, fixture_on_closed, &f);
    while (!f.is_closed) turn(&f);
    f.is_closed = false;
    struct http_limits limits;
    http_limits_default(&limits);
    struct http_handler handler = {.ctx = &f, .on_request = many_on_request};
    assert_int_equal(http_server_create(&f.loop, &limits, &handler, &f.server), ERR_OK);
    assert_int_equal(http_server_listen(f.server, "127.0.0.1", 0, NULL, &f.port), ERR_OK);
    struct client *clients = calloc(MANY, sizeof *clients);
    many_count = 0;
    for (int i = 0; i < MANY; i++) {
        client_open(&clients[i], &f);
        client_send(&f, &clients[i], GET("/"));
    }
    assert_true(wait_count(&f, &many_count, MANY));
    assert_int_equal(http_server_connection_count(f.server), MANY);
    for (int i = 0; i < MANY; i++) http_answer_start(many_exchanges[i], 200, NULL, NULL, 0);
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < MANY; i++) http_answer_body(many_exchanges[i], "token ", 6);
        turn(&f);
    }
    for (int i = 0; i < MANY; i++) http_answer_end(many_exchanges[i]);
    for (int i = 0; i < MANY; i++)
        assert_true(client_wait(&f, &clients[i], "6\r\ntoken \r\n0\r\n\r\n"));
    assert_int_equal(http_server_exchange_count(f.server), 0);
    for (int i = 0; i < MANY; i++) client_close(&clients[i]);
    turn_for_ms(&f, 20);
    assert_int_equal(http_server_connection_count(f.server), 0);
    free(clients);
    fixture_close(&f);
}

/* The n-th allocation fails: the client gets a whole answer, a 503, or a closed connection; the
 * next one is served as ever. */
static void test_allocation_fails(void **state) {
    for (uint64_t n = 1;; n++) {
        assert_true(n < 200);
        struct fixture f;
        struct client c;
        fixture_open(&f, NULL);
        f.answers_at_once = false;
        client_open(&c, &f);
        alloc_fail_at(n, 0);
        client_send(
            &f, &c,
            "POST /x HTTP/1.1\r\nHost: a\r\nX: 1\r\nx: 2\r\nContent-Length: 5\r\n\r\nhello");
        uint64_t until = clock_now_us() + WAIT_US;
        while (f.requests == 0 && !c.is_eof && clock_now_us() < until) {
            turn(&f);
            client_read(&c);
        }
        if (f.last) {
            const char *joined = http_request_header(f.last, "x");
            if (joined) assert_string_equal(joined, "1, 2");
            http_answer_start(f.last, 200, NULL, NULL, 0);
            for (int i = 0; i < 100 && f.last; i++) {
                http_answer_body(f.last, "0123456789", 10);
                turn(&f);
            }
            if (f.last) http_answer_end(f.last);
            if (client_wait(&f, &c, "0\r\n\r\n")) assert_int_equal(client_status(&c), 200);
        } else {
            assert_true(c.is_eof);
            if (c.bytes) assert_int_equal(client_status(&c), 503);
        }
        bool was_reached = alloc_count() >= n;
        alloc_fail_at(0, 0);
        client_close(&c);
        f.answers_at_once = true;
        client_open(&c, &f);
        client_send(&f, &c, GET("/after"));
        assert_true(client_wait(&f, &c, "path=/after"));
        client_close(&c);
        fixture_close(&f);
        if (!was_reached) break;
    }
    /* and when the server itself is made */
    uv_loop_t loop;
    uv_loop_init(&loop);
    struct http_limits limits;
    http_limits_default(&limits);
    struct http_handler handler = {.on_request = many_on_request};
    for (uint64_t n = 1; n <= 2; n++) {
        struct http_server *server = NULL;
        alloc_fail_at(n, 0);
        assert_int_equal(http_server_create(&loop, &limits, &handler, &server), ERR_MEMORY);
        alloc_fail_at(0, 0);
        assert_null(server);
    }
    assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_versions_and_close),
        cmocka_unit_test(test_handler_closes),
        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_stream_is_paced),
        cmocka_unit_test(test_stream_is_flushed),
        cmocka_unit_test(test_pipelining),
        cmocka_unit_test(test_pipelining_is_bounded),
        cmocka_unit_test(test_bodies_split_at_every_byte),
        cmocka_unit_test(test_expect_continue),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_timeouts),
        cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_patient_reader),
        cmocka_unit_test(test_client_leaves),
        cmocka_unit_test(test_abort),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_close_with_live_exchanges),
        cmocka_unit_test(test_connection_limit),
        cmocka_unit_test(test_port_taken),
        cmocka_unit_test(test_many_connections),
        cmocka_unit_test(test_allocation_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
