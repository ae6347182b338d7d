/* http_conn - see http_conn.h. */
#include "http/http_conn.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/alloc.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "http/http_server_impl.h"

#define TCP_KEEPALIVE_SECONDS 60 /* a peer that lost its power is noticed while it waits */

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer);

/* libuv reads into it and calls on_read before anything else: one buffer for all. */
static void on_buffer(uv_handle_t *handle, size_t suggested, uv_buf_t *out) {
    struct http_conn *conn = handle->data;
    *out = uv_buf_init((char *) conn->server->read_buffer, HTTP_READ_BYTES);
}

size_t http_conn_pending_bytes(const struct http_conn *conn) {
    size_t queued = conn->is_in_flight ? conn->tcp.write_queue_size : 0;
    return conn->out.bytes + queued;
}

void http_conn_mark_clean(struct http_conn *conn) {
    struct http_conn_queue *queue = conn->queue;
    if (!queue) return;
    conn->queue = NULL;
    queue->count--;
    if (conn->queue_next) {
        conn->queue_next->queue_previous = conn->queue_previous;
    } else {
        queue->last = conn->queue_previous;
    }
    if (conn->queue_previous) {
        conn->queue_previous->queue_next = conn->queue_next;
    } else {
        queue->first = conn->queue_next;
    }
}

static void enqueue(struct http_conn *conn, struct http_conn_queue *queue) {
    http_conn_mark_clean(conn);
    conn->queue = queue;
    conn->queue_next = NULL;
    conn->queue_previous = queue->last;
    if (queue->last) {
        queue->last->queue_next = conn;
    } else {
        queue->first = conn;
    }
    queue->last = conn;
    queue->count++;
}

/* More of a stream that was written in this very millisecond can wait for the next. */
static bool can_wait(const struct http_conn *conn) {
    const struct http_exchange *exchange = conn->exchange;
    return exchange && exchange->has_news && !exchange->is_ended && !conn->is_aborted &&
           conn->out.bytes < HTTP_PACE_BYTES &&
           uv_now(conn->server->loop) - conn->paced_ms < HTTP_PACE_MS;
}

void http_conn_mark_dirty(struct http_conn *conn) {
    struct http_server *server = conn->server;
    if (conn->state == CONN_CLOSING || conn->queue == &server->dirty) return;
    if (can_wait(conn)) {
        if (conn->queue == &server->held) return;
        enqueue(conn, &server->held);
        http_server_pace(server);
    } else {
        enqueue(conn, &server->dirty);
        http_server_wake(server);
    }
}

static void set_deadline(struct http_conn *conn, uint32_t from_now_ms) {
    conn->deadline_ms = uv_now(conn->server->loop) + from_now_ms;
}

/* --- exchange --- */

static bool exchange_begin(struct http_conn *conn) {
    struct http_exchange *exchange = alloc_bytes(sizeof *exchange);
    if (!exchange) return false;
    memset(exchange, 0, offsetof(struct http_exchange, request));
    exchange->conn = conn;
    http_request_init(&exchange->request);
    conn->exchange = exchange;
    return true;
}

static void exchange_free(struct http_conn *conn) {
    if (!conn->exchange) return;
    http_request_release(&conn->exchange->request);
    alloc_free(conn->exchange);
    conn->exchange = NULL;
}

/* The handler's last word about an exchange that it was shown. */
static void exchange_over(struct http_conn *conn, bool is_complete) {
    struct http_server *server = conn->server;
    struct http_exchange *exchange = conn->exchange;
    if (!exchange || !exchange->is_received) return;
    exchange->is_received = false;
    server->exchange_count--;
    bool is_gone = !is_complete && !exchange->is_dead && !exchange->is_ended;
    exchange->is_dead = true;
    if (is_gone && server->handler.on_gone) server->handler.on_gone(server->handler.ctx, exchange);
    if (server->handler.on_done)
        server->handler.on_done(server->handler.ctx, exchange, is_complete);
}

/* An error that this layer answers itself; the connection ends with it. */
static void answer_refusal(struct http_conn *conn, int status, const char *reason) {
    const struct http_handler *handler = &conn->server->handler;
    struct http_exchange *exchange = conn->exchange;
    conn->state = CONN_ANSWERING;
    conn->deadline_ms = 0;
    conn->must_close = true;
    if (handler->on_refusal) handler->on_refusal(handler->ctx, exchange, status, reason);
    if (exchange->is_started) return;
    log_info("http: %s refused with %d: %s", conn->peer, status, reason);
    http_answer_send(exchange, status, "text/plain; charset=utf-8", NULL, 0, reason,
                     strlen(reason));
}

static void deliver(struct http_conn *conn) {
    struct http_server *server = conn->server;
    struct http_exchange *exchange = conn->exchange;
    conn->state = CONN_ANSWERING;
    conn->deadline_ms = 0;
    exchange->is_received = true;
    exchange->received_us = clock_now_us();
    server->exchange_count++;
    server->handler.on_request(server->handler.ctx, exchange);
    /* A client that shut down before it asked for something slow is gone. */
    if (conn->is_eof && conn->state == CONN_ANSWERING && !exchange->is_ended)
        http_conn_close(conn, false);
}

/* Feeds bytes to the parser until one request is whole, at most; returns how many were taken. */
static size_t feed(struct http_conn *conn, const uint8_t *data, size_t bytes) {
    const struct http_limits *limits = &conn->server->limits;
    size_t all = 0;
    if (conn->state == CONN_IDLE && bytes > 0) {
        if (!exchange_begin(conn)) {
            log_error("http: no memory for a request of %s", conn->peer);
            http_conn_close(conn, false);
            return bytes;
        }
        http_parse_init(&conn->parse, &conn->exchange->request, limits->header_bytes_max,
                        limits->body_bytes_max);
        conn->state = CONN_RECEIVING;
        set_deadline(conn, limits->header_timeout_ms);
    }
    while (conn->state == CONN_RECEIVING && all < bytes) {
        size_t taken = 0;
        enum http_parse_status status =
            http_parse_take(&conn->parse, data + all, bytes - all, &taken);
        all += taken;
        switch (status) {
        case HTTP_PARSE_MORE:
            if (conn->parse.state != HTTP_STATE_HEAD) set_deadline(conn, limits->body_timeout_ms);
            break;
        case HTTP_PARSE_HEAD:
            set_deadline(conn, limits->body_timeout_ms);
            if (conn->exchange->request.expects_continue && all == bytes) {
                buf_add_string(&conn->out, "HTTP/1.1 100 Continue\r\n\r\n");
                http_conn_mark_dirty(conn);
            }
            break;
        case HTTP_PARSE_DONE: deliver(conn); break;
        case HTTP_PARSE_REFUSED:
            answer_refusal(conn, conn->parse.status, conn->parse.reason);
            break;
        }
    }
    return all;
}

/* --- reading --- */

static void reading_start(struct http_conn *conn) {
    if (conn->is_reading || conn->is_eof || conn->state == CONN_CLOSING) return;
    if (uv_read_start((uv_stream_t *) &conn->tcp, on_buffer, on_read)) {
        http_conn_close(conn, false);
        return;
    }
    conn->is_reading = true;
}

static void stash_add(struct http_conn *conn, const uint8_t *data, size_t bytes) {
    if (bytes == 0 || conn->must_close) return; /* nothing behind a last request is answered */
    if (conn->stash_at >= HTTP_STASH_BYTES) {   /* a client that never lets it run empty */
        conn->stash.bytes -= conn->stash_at;
        memmove(conn->stash.data, conn->stash.data + conn->stash_at, conn->stash.bytes);
        conn->stash_at = 0;
    }
    buf_add(&conn->stash, data, bytes);
    if (buf_error(&conn->stash)) {
        log_error("http: no memory for pipelined requests of %s", conn->peer);
        http_conn_close(conn, false);
        return;
    }
    if (conn->stash.bytes - conn->stash_at >= HTTP_STASH_BYTES) {
        uv_read_stop((uv_stream_t *) &conn->tcp);
        conn->is_reading = false;
    }
}

static void take_eof(struct http_conn *conn) {
    conn->is_eof = true;
    if (conn->is_reading) uv_read_stop((uv_stream_t *) &conn->tcp);
    conn->is_reading = false;
    /* An answer that is whole still goes out; a client that waits for one is gone. */
    if (conn->state == CONN_ANSWERING && conn->exchange->is_ended) return;
    http_conn_close(conn, false);
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer) {
    struct http_conn *conn = stream->data;
    if (count == 0 || conn->state == CONN_CLOSING) return;
    if (count == UV_EOF) {
        take_eof(conn);
        return;
    }
    if (count < 0) {
        http_conn_close(conn, false);
        return;
    }
    const uint8_t *data = (const uint8_t *) buffer->base;
    size_t bytes = (size_t) count;
    size_t taken = 0;
    if (conn->state == CONN_LINGERING) return;
    if (conn->state != CONN_ANSWERING) taken = feed(conn, data, bytes);
    if (conn->state == CONN_ANSWERING) stash_add(conn, data + taken, bytes - taken);
}

/* --- writing --- */

static void buf_shrink(struct buf *buf) {
    if (buf->room_bytes > HTTP_KEEP_BYTES) {
        buf_release(buf);
    } else {
        buf_clear(buf);
    }
}

static void on_written(uv_write_t *write, int status) {
    struct http_conn *conn = write->data;
    conn->is_in_flight = false;
    if (conn->state == CONN_CLOSING) return;
    if (status) {
        http_conn_close(conn, false);
        return;
    }
    buf_shrink(&conn->flight);
    http_conn_mark_dirty(conn);
}

/* What the kernel takes at once; < 0: the connection is broken.  Nothing else is being written, so
 * libuv's stream need not know (its own way costs 0.3 us more a write). */
static ssize_t send_some(struct http_conn *conn) {
    ssize_t sent;
    if (conn->exchange && conn->exchange->has_news) {
        conn->exchange->has_news = false;
        conn->paced_ms = uv_now(conn->server->loop);
    }
    conn->server->write_count++;
    do sent = send(conn->fd, conn->out.data, conn->out.bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent > 0) conn->given_bytes += (uint64_t) sent;
    return sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS) ? 0 : sent;
}

/* False when the connection ended. */
static bool write_out(struct http_conn *conn) {
    if (conn->is_in_flight || conn->out.bytes == 0) return true;
    struct http_server *server = conn->server;
    ssize_t written = send_some(conn);
    if (written < 0) {
        http_conn_close(conn, false);
        return false;
    }
    if ((size_t) written == conn->out.bytes) {
        buf_clear(&conn->out);
        return true;
    }
    struct buf spare = conn->flight;
    conn->flight = conn->out;
    conn->out = spare;
    conn->is_in_flight = true;
    conn->given_bytes += conn->flight.bytes - (size_t) written;
    uv_buf_t piece = uv_buf_init((char *) conn->flight.data + written,
                                 (unsigned) (conn->flight.bytes - (size_t) written));
    conn->write.data = conn;
    server->write_count++;
    if (uv_write(&conn->write, (uv_stream_t *) &conn->tcp, &piece, 1, on_written)) {
        conn->is_in_flight = false;
        http_conn_close(conn, false);
        return false;
    }
    return true;
}

void http_conn_send(struct http_conn *conn) {
    struct buf *out = &conn->out;
    const struct http_exchange *exchange = conn->exchange;
    if (conn->queue != &conn->server->dirty || conn->is_in_flight || conn->is_aborted) return;
    if (!exchange || exchange->is_ended || conn->wants_drain || buf_error(out)) return;
    ssize_t sent = send_some(conn);
    if (sent <= 0) return;
    out->bytes -= (size_t) sent;
    if (out->bytes) memmove(out->data, out->data + sent, out->bytes);
    else http_conn_mark_clean(conn);
}

/* Our side says goodbye; the client's last bytes are dropped until it does too. */
static void linger(struct http_conn *conn) {
    uv_os_fd_t fd;
    conn->state = CONN_LINGERING;
    buf_release(&conn->stash);
    if (conn->is_eof || uv_fileno((uv_handle_t *) &conn->tcp, &fd) || shutdown(fd, SHUT_WR)) {
        http_conn_close(conn, false);
        return;
    }
    set_deadline(conn, HTTP_LINGER_MS);
    reading_start(conn);
}

/* The answer is with the kernel: the connection is free for the next request. */
static void exchange_finish(struct http_conn *conn) {
    struct http_server *server = conn->server;
    exchange_over(conn, true);
    if (conn->state == CONN_CLOSING) return;
    exchange_free(conn);
    conn->wants_drain = false;
    if (conn->must_close || server->is_draining) {
        linger(conn);
        return;
    }
    conn->state = CONN_IDLE;
    set_deadline(conn, server->limits.keep_alive_ms);
    buf_shrink(&conn->out);
    if (conn->stash.bytes > conn->stash_at) {
        size_t bytes = conn->stash.bytes - conn->stash_at;
        conn->stash_at += feed(conn, conn->stash.data + conn->stash_at, bytes);
        if (conn->state == CONN_CLOSING) return;
    }
    if (conn->stash.bytes == conn->stash_at) {
        buf_shrink(&conn->stash);
        conn->stash_at = 0;
    }
    if (conn->is_eof && conn->state != CONN_ANSWERING) {
        http_conn_close(conn, false);
        return;
    }
    if (conn->stash.bytes - conn->stash_at < HTTP_STASH_BYTES) reading_start(conn);
}

void http_conn_flush(struct http_conn *conn) {
    struct http_server *server = conn->server;
    if (conn->state == CONN_CLOSING) return;
    if (buf_error(&conn->out)) {
        log_error("http: no memory for the answer to %s", conn->peer);
        http_conn_close(conn, true);
        return;
    }
    if (!write_out(conn)) return;
    if (conn->is_aborted) {
        http_conn_close(conn, false);
        return;
    }
    size_t pending = http_conn_pending_bytes(conn);
    struct http_exchange *exchange = conn->exchange;
    if (!exchange) return;
    if (exchange->is_ended) {
        if (pending == 0) exchange_finish(conn);
    } else if (conn->wants_drain && pending <= server->limits.pending_bytes_high / 2) {
        conn->wants_drain = false;
        if (server->handler.on_drain) server->handler.on_drain(server->handler.ctx, exchange);
    }
}

/* --- life --- */

static void on_closed(uv_handle_t *handle) {
    struct http_conn *conn = handle->data;
    exchange_free(conn);
    buf_release(&conn->out);
    buf_release(&conn->flight);
    buf_release(&conn->stash);
    http_server_conn_closed(conn->server, conn);
    alloc_free(conn);
}

void http_conn_close(struct http_conn *conn, bool is_reset) {
    if (conn->state == CONN_CLOSING) return;
    http_conn_mark_clean(conn);
    conn->state = CONN_CLOSING;
    exchange_over(conn, false);
    if (is_reset && uv_tcp_close_reset(&conn->tcp, on_closed) == 0) return;
    if (!uv_is_closing((uv_handle_t *) &conn->tcp)) uv_close((uv_handle_t *) &conn->tcp, on_closed);
}

static void peer_text(struct http_conn *conn) {
    struct sockaddr_storage address;
    int bytes = sizeof address;
    char name[INET6_ADDRSTRLEN] = "?";
    snprintf(conn->peer, sizeof conn->peer, "?");
    if (uv_tcp_getpeername(&conn->tcp, (struct sockaddr *) &address, &bytes)) return;
    if (address.ss_family == AF_INET6) {
        const struct sockaddr_in6 *six = (const struct sockaddr_in6 *) &address;
        uv_ip6_name(six, name, sizeof name);
        snprintf(conn->peer, sizeof conn->peer, "[%s]:%u", name, ntohs(six->sin6_port));
    } else {
        const struct sockaddr_in *four = (const struct sockaddr_in *) &address;
        uv_ip4_name(four, name, sizeof name);
        snprintf(conn->peer, sizeof conn->peer, "%s:%u", name, ntohs(four->sin_port));
    }
}

enum err http_conn_accept(struct http_server *server, uv_stream_t *listener) {
    struct http_conn *conn = alloc_zero(1, sizeof *conn);
    if (!conn) return ERR_MEMORY;
    if (uv_tcp_init(server->loop, &conn->tcp)) {
        alloc_free(conn);
        return ERR_IO;
    }
    conn->tcp.data = conn;
    conn->server = server;
    conn->state = CONN_IDLE;
    conn->is_over_limit =
        server->conn_count - server->over_limit_count >= server->limits.connections_max;
    http_server_conn_opened(server, conn);
    bool is_flood = server->over_limit_count > HTTP_REFUSED_MAX;
    if (uv_accept(listener, (uv_stream_t *) &conn->tcp) || is_flood || server->is_draining) {
        http_conn_close(conn, false);
        return ERR_OK;
    }
    if (uv_fileno((uv_handle_t *) &conn->tcp, &conn->fd)) {
        http_conn_close(conn, false);
        return ERR_OK;
    }
    uv_tcp_nodelay(&conn->tcp, 1);
    uv_tcp_keepalive(&conn->tcp, 1, TCP_KEEPALIVE_SECONDS);
    peer_text(conn);
    set_deadline(conn, server->limits.keep_alive_ms);
    if (conn->is_over_limit) {
        if (exchange_begin(conn)) {
            answer_refusal(conn, 503, "too many connections");
        } else {
            http_conn_close(conn, false);
        }
    }
    reading_start(conn);
    return ERR_OK;
}

void http_conn_drain(struct http_conn *conn) {
    if (conn->state == CONN_IDLE) http_conn_close(conn, false);
}

/* With reading paused the loop does not tell; the kernel knows. */
static bool has_left(struct http_conn *conn) {
    uv_os_fd_t fd;
    if (uv_fileno((uv_handle_t *) &conn->tcp, &fd)) return true;
    struct pollfd look = {.fd = fd, .events = POLLRDHUP};
    return poll(&look, 1, 0) == 1 && (look.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

/* Of an answer under way.  What our kernel holds is not taken: it would keep a megabyte for a
 * reader that is long asleep. */
static bool is_write_stuck(struct http_conn *conn, uint64_t now_ms) {
    int held = 0; /* by the kernel, and not acknowledged */
    if (conn->state != CONN_ANSWERING) return false;
    if (conn->given_bytes != conn->taken_bytes && ioctl(conn->fd, SIOCOUTQ, &held)) return false;
    uint64_t waiting = (uint64_t) held + (conn->is_in_flight ? conn->tcp.write_queue_size : 0);
    uint64_t taken = conn->given_bytes - waiting;
    if (waiting == 0 || taken != conn->taken_bytes) {
        conn->taken_bytes = taken;
        conn->taken_ms = now_ms;
    }
    return now_ms - conn->taken_ms >= conn->server->limits.write_timeout_ms;
}

void http_conn_sweep(struct http_conn *conn, uint64_t now_ms) {
    if (conn->state == CONN_CLOSING) return;
    if (is_write_stuck(conn, now_ms)) {
        uint64_t waiting = conn->given_bytes - conn->taken_bytes + conn->out.bytes;
        log_warn("http: %s took nothing for %u ms of %" PRIu64 " bytes that wait: cut off",
                 conn->peer, conn->server->limits.write_timeout_ms, waiting);
        http_conn_close(conn, true);
        return;
    }
    if (conn->state == CONN_ANSWERING && !conn->is_reading && !conn->is_eof && has_left(conn)) {
        take_eof(conn);
        return;
    }
    if (conn->deadline_ms == 0 || now_ms < conn->deadline_ms) return;
    if (conn->state != CONN_RECEIVING || http_parse_is_blank(&conn->parse)) {
        http_conn_close(conn, false);
    } else if (conn->parse.state == HTTP_STATE_HEAD) {
        answer_refusal(conn, 408, "the request's headers took too long");
    } else {
        answer_refusal(conn, 408, "the request's body took too long");
    }
}
