/* http_client - a raw client and a server on one loop, for the tests of this room.
 *
 * The client is a non-blocking socket; every wait turns the server's loop until the condition
 * holds or five seconds have passed.  Header-only, each test binary has its own. */
#ifndef GRAMME_TESTS_HTTP_CLIENT_H
#define GRAMME_TESTS_HTTP_CLIENT_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "http/http_server.h"

#define WAIT_US 60000000u /* what must come, comes; a loaded machine is no failure */

struct fixture {
    uv_loop_t loop;
    struct http_server *server;
    uint16_t port;
    bool is_closed;
    /* what the handler saw */
    uint32_t requests, gone, done_whole, done_cut, drains;
    struct http_exchange *last;
    char path[256], query[256], method[16];
    uint8_t body[4096];
    size_t body_bytes;
    bool answers_at_once;
};

struct client {
    int fd;
    char data[1 << 17]; /* all that came, NUL behind */
    size_t bytes;
    bool is_eof;
};

static inline void fixture_on_request(void *ctx, struct http_exchange *exchange) {
    struct fixture *fixture = ctx;
    fixture->requests++;
    fixture->last = exchange;
    snprintf(fixture->path, sizeof fixture->path, "%s", http_request_path(exchange));
    snprintf(fixture->query, sizeof fixture->query, "%s", http_request_query(exchange));
    snprintf(fixture->method, sizeof fixture->method, "%s", http_request_method(exchange));
    const uint8_t *body = http_request_body(exchange, &fixture->body_bytes);
    if (fixture->body_bytes && fixture->body_bytes <= sizeof fixture->body)
        memcpy(fixture->body, body, fixture->body_bytes);
    if (!fixture->answers_at_once) return;
    char text[300];
    int bytes = snprintf(text, sizeof text, "path=%s", fixture->path);
    http_answer_send(exchange, 200, "text/plain", NULL, 0, text, (size_t) bytes);
}

static inline void fixture_on_gone(void *ctx, struct http_exchange *exchange) {
    struct fixture *fixture = ctx;
    fixture->gone++;
    if (fixture->last == exchange) fixture->last = NULL;
}

static inline void fixture_on_drain(void *ctx, struct http_exchange *exchange) {
    struct fixture *fixture = ctx;
    fixture->drains++;
}

static inline void fixture_on_done(void *ctx, struct http_exchange *exchange, bool is_complete) {
    struct fixture *fixture = ctx;
    if (is_complete) {
        fixture->done_whole++;
    } else {
        fixture->done_cut++;
    }
    if (fixture->last == exchange) fixture->last = NULL;
}

static inline void fixture_on_refusal(void *ctx, struct http_exchange *exchange, int status,
                                      const char *reason) {
    char text[300];
    int bytes = snprintf(text, sizeof text, "{\"error\":\"%s\",\"status\":%d}", reason, status);
    const char *id = http_request_header(exchange, "x-request-id");
    struct http_header header = {"X-Request-Id", id ? id : "made"};
    http_answer_send(exchange, status, "application/json", &header, 1, text, (size_t) bytes);
}

static inline void fixture_open(struct fixture *fixture, const struct http_limits *limits) {
    memset(fixture, 0, sizeof *fixture);
    fixture->answers_at_once = true;
    signal(SIGPIPE, SIG_IGN);
    log_configure(LOG_ERROR, LOG_HUMAN, NULL);
    assert_int_equal(uv_loop_init(&fixture->loop), 0);
    struct http_limits standard;
    http_limits_default(&standard);
    struct http_handler handler = {
        .ctx = fixture,
        .on_request = fixture_on_request,
        .on_gone = fixture_on_gone,
        .on_drain = fixture_on_drain,
        .on_done = fixture_on_done,
        .on_refusal = fixture_on_refusal,
    };
    assert_int_equal(
        http_server_create(&fixture->loop, limits ? limits : &standard, &handler, &fixture->server),
        ERR_OK);
    struct err_text text;
    assert_int_equal(http_server_listen(fixture->server, "127.0.0.1", 0, &text, &fixture->port),
                     ERR_OK);
}

static inline void fixture_on_closed(void *ctx) { ((struct fixture *) ctx)->is_closed = true; }

static inline void turn(struct fixture *fixture) { uv_run(&fixture->loop, UV_RUN_NOWAIT); }

static inline void turn_for_ms(struct fixture *fixture, uint32_t ms) {
    uint64_t until = clock_now_us() + ms * 1000u;
    while (clock_now_us() < until) {
        turn(fixture);
        usleep(500);
    }
}

/* All handles must be gone: a leaked one would hold the loop. */
static inline void fixture_close(struct fixture *fixture) {
    http_server_close(fixture->server, fixture_on_closed, fixture);
    uint64_t until = clock_now_us() + WAIT_US;
    while (!fixture->is_closed && clock_now_us() < until) turn(fixture);
    assert_true(fixture->is_closed);
    assert_int_equal(uv_loop_close(&fixture->loop), 0);
}

static inline void client_open(struct client *client, const struct fixture *fixture) {
    client->bytes = 0;
    client->data[0] = '\0';
    client->is_eof = false;
    client->fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(client->fd >= 0);
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons(fixture->port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(connect(client->fd, (struct sockaddr *) &to, sizeof to), 0);
    fcntl(client->fd, F_SETFL, O_NONBLOCK);
}

static inline void client_close(struct client *client) { close(client->fd); }

static inline void client_read(struct client *client) {
    while (!client->is_eof && client->bytes < sizeof client->data - 1) {
        ssize_t n =
            read(client->fd, client->data + client->bytes, sizeof client->data - 1 - client->bytes);
        if (n < 0 && errno == EAGAIN) break;
        if (n <= 0) {
            client->is_eof = true;
            break;
        }
        client->bytes += (size_t) n;
        client->data[client->bytes] = '\0';
    }
}

static inline void client_send_bytes(struct fixture *fixture, struct client *client,
                                     const void *data, size_t bytes) {
    const char *at = data;
    uint64_t until = clock_now_us() + WAIT_US;
    while (bytes > 0 && clock_now_us() < until) {
        ssize_t n = write(client->fd, at, bytes);
        if (n < 0 && errno != EAGAIN) return; /* the server has cut us off */
        if (n > 0) {
            at += n;
            bytes -= (size_t) n;
        }
        turn(fixture);
    }
}

static inline void client_send(struct fixture *fixture, struct client *client, const char *text) {
    client_send_bytes(fixture, client, text, strlen(text));
}

/* Turns the loop until `text` came (anywhere in what was read) or the server closed. */
static inline bool client_wait(struct fixture *fixture, struct client *client, const char *text) {
    uint64_t until = clock_now_us() + WAIT_US;
    while (clock_now_us() < until) {
        turn(fixture);
        client_read(client);
        if (strstr(client->data, text)) return true;
        if (client->is_eof) return false;
    }
    return false;
}

static inline bool client_wait_eof(struct fixture *fixture, struct client *client) {
    uint64_t until = clock_now_us() + WAIT_US;
    while (!client->is_eof && clock_now_us() < until) {
        turn(fixture);
        client_read(client);
    }
    return client->is_eof;
}

static inline int client_status(const struct client *client) {
    if (client->bytes < 12 || memcmp(client->data, "HTTP/1.1 ", 9) != 0) return 0;
    return (int) strtol(client->data + 9, NULL, 10);
}

/* Waits until the counter has the value. */
static inline bool wait_count(struct fixture *fixture, const uint32_t *counter, uint32_t value) {
    uint64_t until = clock_now_us() + WAIT_US;
    while (*counter < value && clock_now_us() < until) turn(fixture);
    return *counter == value;
}

#endif
