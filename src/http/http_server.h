/* http_server - HTTP/1.1 on a libuv loop: connections, limits, request in, answer out.
 *
 * Knows nothing of what it serves.  Everything runs on the loop's thread; an exchange never
 * leaves it.  Parsing is llhttp in strict mode; what llhttp lets pass and smugglers use is
 * refused here.
 *
 *   connection: READING -> (exchange) ANSWERING -> READING ... -> CLOSING
 *   exchange:   received -> on_request -> start -> body* -> end      on_gone: the client left
 *
 * Pipelined requests are read while one is answered only up to one body buffer; they are handled
 * one after the other.  What one loop turn gives a connection goes out in one write, and a stream
 * is written at most once a millisecond.  TCP_NODELAY is on. */
#ifndef GRAMME_HTTP_HTTP_SERVER_H
#define GRAMME_HTTP_HTTP_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"

struct http_limits {
    uint32_t connections_max;   /* 4,096; beyond it 503 and close */
    size_t header_bytes_max;    /* 64 KiB: request line and headers; 431 */
    size_t body_bytes_max;      /* 64 MiB; 413 */
    uint32_t header_timeout_ms; /* 10,000: from the first byte to the blank line; 408 */
    uint32_t body_timeout_ms;   /* 30,000 without a byte; 408 */
    uint32_t keep_alive_ms;     /* 75,000 idle */
    uint32_t write_timeout_ms;  /* 60,000 without a byte taken by the reader's machine: cut off */
    size_t pending_bytes_high;  /* 64 KiB: http_answer_is_full above it */
};
void http_limits_default(struct http_limits *limits);

struct http_server;
struct http_exchange;

struct http_handler {
    void *ctx;
    /* A whole request is here.  The handler answers now or later. */
    void (*on_request)(void *ctx, struct http_exchange *exchange);
    /* The client left (or was cut off) before the answer's end: the exchange is dead when this
     * returns; calls on it meanwhile do nothing.  Not called after http_answer_end or
     * http_exchange_abort.  A client that shuts its sending side down counts as gone, unless the
     * answer is complete by then. */
    void (*on_gone)(void *ctx, struct http_exchange *exchange);
    /* Pending bytes fell to half the mark after http_answer_is_full said true. */
    void (*on_drain)(void *ctx, struct http_exchange *exchange);
    /* A complete answer went out (the kernel has all of it), or the exchange died: for the access
     * log, and the last that is heard of the exchange.  Never called from inside an answer call:
     * after http_answer_end the strings stay until this.  Only for exchanges that on_request saw.
     * May be NULL. */
    void (*on_done)(void *ctx, struct http_exchange *exchange, bool is_complete);
    /* The HTTP layer itself refuses (400, 408, 413, 417, 431, 503, 505): the handler answers with
     * http_answer_send, at once, in the application's form.  It may ask for headers, of which
     * those that were whole by then are there, and for the peer, but not for the path.  Nothing
     * more is heard of this exchange.  NULL: plain text, logged here. */
    void (*on_refusal)(void *ctx, struct http_exchange *exchange, int status, const char *reason);
};

MUST_USE enum err http_server_create(uv_loop_t *loop, const struct http_limits *limits,
                                     const struct http_handler *handler, struct http_server **out);
/* Binds and listens; may be called for several addresses.  ERR_IO names host, port and reason
 * ("port 8000 is taken").  port 0 picks one; *port_out tells. */
MUST_USE enum err http_server_listen(struct http_server *server, const char *host, uint16_t port,
                                     struct err_text *text, uint16_t *port_out);
/* Stops accepting; idle connections close; answers under way go on, then close. */
void http_server_drain(struct http_server *server);
/* Closes every connection (on_gone is called for live exchanges); `done` when all handles are
 * closed and the server's memory is gone. */
void http_server_close(struct http_server *server, void (*done)(void *ctx), void *ctx);
uint32_t http_server_connection_count(const struct http_server *server);
uint32_t http_server_exchange_count(const struct http_server *server); /* being answered */
/* Write calls made so far: tokens sent / writes is the mean that shared one. */
uint64_t http_server_write_count(const struct http_server *server);

/* --- the request; strings live as long as the exchange --- */
const char *http_request_method(const struct http_exchange *exchange); /* "POST" */
const char *http_request_path(const struct http_exchange *exchange);   /* decoded, no query */
const char *http_request_query(const struct http_exchange *exchange);  /* raw, "" if none */
/* The value of a header (name in lowercase); NULL when absent.  Repeats are joined by ", ". */
const char *http_request_header(const struct http_exchange *exchange, const char *name);
const uint8_t *http_request_body(const struct http_exchange *exchange, size_t *bytes);
const char *http_request_peer(const struct http_exchange *exchange);     /* "127.0.0.1:40000" */
uint64_t http_request_received_us(const struct http_exchange *exchange); /* clock_now_us */
/* Memory that goes with the exchange. */
struct arena *http_exchange_arena(struct http_exchange *exchange);
void http_exchange_set_user(struct http_exchange *exchange, void *user);
void *http_exchange_user(const struct http_exchange *exchange);

/* --- the answer --- */
struct http_header {
    const char *name;
    const char *value;
};
/* A whole answer at once; Content-Length, Date and connection headers are added.  HEAD sends no
 * body.  {"Connection", "close"} among the headers ends the connection after the answer. */
void http_answer_send(struct http_exchange *exchange, int status, const char *content_type,
                      const struct http_header *headers, size_t header_count, const void *body,
                      size_t bytes);
/* A streamed one, chunked. */
void http_answer_start(struct http_exchange *exchange, int status, const char *content_type,
                       const struct http_header *headers, size_t header_count);
void http_answer_body(struct http_exchange *exchange, const void *data, size_t bytes);
/* What is there of the body goes out now rather than at the end of the loop's turn, when it would
 * have gone then.  Calls nobody back. */
void http_answer_flush(struct http_exchange *exchange);
void http_answer_end(struct http_exchange *exchange);
bool http_answer_is_started(const struct http_exchange *exchange);
int http_answer_status(const struct http_exchange *exchange); /* 0 before it */
/* More than pending_bytes_high wait for the reader: hold back until on_drain. */
bool http_answer_is_full(const struct http_exchange *exchange);
/* Cuts the connection off (a stream that cannot be ended properly), at the end of this loop turn;
 * on_done follows, on_gone does not. */
void http_exchange_abort(struct http_exchange *exchange);

#endif
