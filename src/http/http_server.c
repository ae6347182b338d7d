/* http_server - see http_server.h. */
#include "http/http_server.h"

#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/check.h"
#include "base/log.h"
#include "http/http_server_impl.h"

#define BACKLOG 4096      /* the kernel cuts it to net.core.somaxconn */
#define SWEEP_MS_MAX 250u /* how late a timeout may be noticed */
#define SWEEP_MS_MIN 5u

/* --- the turn of the loop --- */

/* Only what is dirty now: an answer that a pipelined request caused meanwhile has its own turn,
 * so that one client cannot hold the others up. */
static void flush_all(struct http_server *server) {
    for (uint32_t count = server->dirty.count; count > 0 && server->dirty.first; count--) {
        struct http_conn *conn = server->dirty.first;
        http_conn_mark_clean(conn);
        http_conn_flush(conn);
    }
    if (!server->dirty.first) uv_idle_stop(&server->idle);
}

static void on_prepare(uv_prepare_t *handle) { flush_all(handle->data); }
static void on_check(uv_check_t *handle) { flush_all(handle->data); }
static void on_idle(uv_idle_t *handle) { (void) handle; }

static void on_pace(uv_timer_t *timer) {
    struct http_server *server = timer->data;
    for (uint32_t count = server->held.count; count > 0; count--) {
        struct http_conn *conn = server->held.first;
        http_conn_mark_clean(conn);
        http_conn_mark_dirty(conn);
    }
}

void http_server_pace(struct http_server *server) {
    if (!uv_is_active((uv_handle_t *) &server->pace))
        uv_timer_start(&server->pace, on_pace, HTTP_PACE_MS, 0);
}

void http_server_wake(struct http_server *server) { uv_idle_start(&server->idle, on_idle); }

static void on_sweep(uv_timer_t *timer);

static void sweep_start(struct http_server *server) {
    if (server->is_sweeping || server->is_closing) return;
    server->is_sweeping = true;
    uv_timer_start(&server->sweep, on_sweep, server->sweep_ms, server->sweep_ms);
}

static void accept_waiting(struct http_server *server, uv_tcp_t *listener) {
    if (http_conn_accept(server, (uv_stream_t *) listener) == ERR_OK) return;
    /* It stays in libuv's hand, and so does the listener; the sweep asks again. */
    server->has_waiting = true;
    sweep_start(server);
}

static void on_sweep(uv_timer_t *timer) {
    struct http_server *server = timer->data;
    uint64_t now_ms = uv_now(server->loop);
    struct http_conn *next;
    for (struct http_conn *conn = server->conns; conn; conn = next) {
        next = conn->next; /* a closed one stays linked until its close callback */
        http_conn_sweep(conn, now_ms);
    }
    if (server->has_waiting) {
        server->has_waiting = false;
        for (uint32_t i = 0; i < server->listener_count; i++)
            accept_waiting(server, server->listeners[i]);
    }
    if (!server->conns && !server->has_waiting) {
        uv_timer_stop(&server->sweep);
        server->is_sweeping = false;
    }
}

/* --- connections --- */

void http_server_conn_opened(struct http_server *server, struct http_conn *conn) {
    conn->next = server->conns;
    if (server->conns) server->conns->previous = conn;
    server->conns = conn;
    server->conn_count++;
    if (conn->is_over_limit) server->over_limit_count++;
    sweep_start(server);
}

static void finish_close(struct http_server *server) {
    if (!server->is_closing || server->conn_count || server->handle_count) return;
    void (*done)(void *ctx) = server->done;
    void *ctx = server->done_ctx;
    alloc_free(server->read_buffer);
    alloc_free(server);
    if (done) done(ctx);
}

void http_server_conn_closed(struct http_server *server, struct http_conn *conn) {
    if (conn->next) conn->next->previous = conn->previous;
    if (conn->previous) {
        conn->previous->next = conn->next;
    } else {
        server->conns = conn->next;
    }
    server->conn_count--;
    if (conn->is_over_limit) server->over_limit_count--;
    finish_close(server);
}

static void on_connection(uv_stream_t *listener, int status) {
    struct http_server *server = listener->data;
    if (status) {
        log_warn("http: cannot accept a connection: %s", uv_strerror(status));
        return;
    }
    accept_waiting(server, (uv_tcp_t *) listener);
}

const char *http_server_date(struct http_server *server) {
    time_t now = time(NULL);
    if (now != server->date_second) {
        static const char days[7][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
        static const char months[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                           "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
        struct tm tm;
        gmtime_r(&now, &tm);
        snprintf(server->date, sizeof server->date, "%s, %02d %s %04d %02d:%02d:%02d GMT",
                 days[tm.tm_wday], tm.tm_mday, months[tm.tm_mon], (tm.tm_year + 1900) % 10000,
                 tm.tm_hour, tm.tm_min, tm.tm_sec);
        server->date_second = now;
    }
    return server->date;
}

uint32_t http_server_connection_count(const struct http_server *server) {
    return server->conn_count;
}

uint32_t http_server_exchange_count(const struct http_server *server) {
    return server->exchange_count;
}

uint64_t http_server_write_count(const struct http_server *server) { return server->write_count; }

/* --- life --- */

static uint64_t sweep_interval(const struct http_limits *limits) {
    uint32_t least = SWEEP_MS_MAX * 4;
    const uint32_t timeouts[] = {limits->header_timeout_ms, limits->body_timeout_ms,
                                 limits->keep_alive_ms, limits->write_timeout_ms};
    for (size_t i = 0; i < ARRAY_COUNT(timeouts); i++)
        if (timeouts[i] < least) least = timeouts[i];
    return least / 4 > SWEEP_MS_MIN ? least / 4 : SWEEP_MS_MIN;
}

enum err http_server_create(uv_loop_t *loop, const struct http_limits *limits,
                            const struct http_handler *handler, struct http_server **out) {
    CHECK(handler->on_request);
    struct http_server *server = alloc_zero(1, sizeof *server);
    uint8_t *read_buffer = alloc_bytes(HTTP_READ_BYTES);
    if (!server || !read_buffer) {
        alloc_free(server);
        alloc_free(read_buffer);
        return ERR_MEMORY;
    }
    server->loop = loop;
    server->limits = *limits;
    server->handler = *handler;
    server->read_buffer = read_buffer;
    server->sweep_ms = sweep_interval(limits);
    /* None of these can fail on a loop that runs; none of them keeps it alive. */
    CHECK(uv_prepare_init(loop, &server->prepare) == 0);
    CHECK(uv_check_init(loop, &server->check) == 0);
    CHECK(uv_idle_init(loop, &server->idle) == 0);
    CHECK(uv_timer_init(loop, &server->sweep) == 0);
    CHECK(uv_timer_init(loop, &server->pace) == 0);
    server->prepare.data = server->check.data = server->idle.data = server;
    server->sweep.data = server->pace.data = server;
    server->handle_count = 5;
    uv_prepare_start(&server->prepare, on_prepare);
    uv_check_start(&server->check, on_check);
    uv_unref((uv_handle_t *) &server->prepare);
    uv_unref((uv_handle_t *) &server->check);
    uv_unref((uv_handle_t *) &server->sweep);
    *out = server;
    return ERR_OK;
}

static void on_listener_closed(uv_handle_t *handle) {
    struct http_server *server = handle->data;
    alloc_free(handle);
    server->handle_count--;
    finish_close(server);
}

static void listener_close(struct http_server *server, uv_tcp_t *listener) {
    uv_close((uv_handle_t *) listener, on_listener_closed);
}

static enum err listen_error(struct err_text *text, const char *host, uint16_t port, int status) {
    if (status == UV_EADDRINUSE)
        return err_set(text, ERR_IO, "port %u on %s is taken: another program listens there", port,
                       host);
    return err_set(text, ERR_IO, "cannot listen on %s port %u: %s", host, port,
                   uv_strerror(status));
}

static enum err listen_on(struct http_server *server, const struct sockaddr *address,
                          const char *host, uint16_t port, struct err_text *text,
                          uint16_t *port_out) {
    uv_tcp_t *listener = alloc_zero(1, sizeof *listener);
    if (!listener) return err_set(text, ERR_MEMORY, "no memory to listen on %s", host);
    int status = uv_tcp_init(server->loop, listener);
    if (status) {
        alloc_free(listener);
        return listen_error(text, host, port, status);
    }
    listener->data = server;
    server->handle_count++;
    status = uv_tcp_bind(listener, address, 0);
    if (!status) status = uv_listen((uv_stream_t *) listener, BACKLOG, on_connection);
    struct sockaddr_storage bound = {0};
    int bytes = sizeof bound;
    if (!status) status = uv_tcp_getsockname(listener, (struct sockaddr *) &bound, &bytes);
    if (status) {
        listener_close(server, listener);
        return listen_error(text, host, port, status);
    }
    server->listeners[server->listener_count++] = listener;
    if (port_out)
        *port_out = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *) &bound)->sin6_port
                                                      : ((struct sockaddr_in *) &bound)->sin_port);
    return ERR_OK;
}

enum err http_server_listen(struct http_server *server, const char *host, uint16_t port,
                            struct err_text *text, uint16_t *port_out) {
    if (server->is_draining || server->listener_count == HTTP_LISTENERS_MAX)
        return err_set(text, ERR_LIMIT, "cannot listen on %s: %u addresses at most", host,
                       HTTP_LISTENERS_MAX);
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    int status = getaddrinfo(host, NULL, &hints, &found);
    if (status)
        return err_set(text, ERR_IO, "cannot listen on %s port %u: %s", host, port,
                       gai_strerror(status));
    /* A name may have an address of each family ("localhost"); the IPv4 one is what clients try. */
    const struct addrinfo *chosen = found;
    for (const struct addrinfo *at = found; at; at = at->ai_next) {
        if (at->ai_family != AF_INET) continue;
        chosen = at;
        break;
    }
    struct sockaddr_storage address = {0};
    memcpy(&address, chosen->ai_addr, chosen->ai_addrlen);
    freeaddrinfo(found);
    if (address.ss_family == AF_INET6) {
        ((struct sockaddr_in6 *) &address)->sin6_port = htons(port);
    } else {
        ((struct sockaddr_in *) &address)->sin_port = htons(port);
    }
    return listen_on(server, (struct sockaddr *) &address, host, port, text, port_out);
}

void http_server_drain(struct http_server *server) {
    if (server->is_draining) return;
    server->is_draining = true;
    for (uint32_t i = 0; i < server->listener_count; i++)
        listener_close(server, server->listeners[i]);
    server->listener_count = 0;
    server->has_waiting = false;
    struct http_conn *next;
    for (struct http_conn *conn = server->conns; conn; conn = next) {
        next = conn->next;
        http_conn_drain(conn);
    }
}

static void on_handle_closed(uv_handle_t *handle) {
    struct http_server *server = handle->data;
    server->handle_count--;
    finish_close(server);
}

void http_server_close(struct http_server *server, void (*done)(void *ctx), void *ctx) {
    CHECK(!server->is_closing);
    http_server_drain(server);
    server->is_closing = true;
    server->done = done;
    server->done_ctx = ctx;
    struct http_conn *next;
    for (struct http_conn *conn = server->conns; conn; conn = next) {
        next = conn->next;
        http_conn_close(conn, false);
    }
    uv_close((uv_handle_t *) &server->prepare, on_handle_closed);
    uv_close((uv_handle_t *) &server->check, on_handle_closed);
    uv_close((uv_handle_t *) &server->idle, on_handle_closed);
    uv_close((uv_handle_t *) &server->sweep, on_handle_closed);
    uv_close((uv_handle_t *) &server->pace, on_handle_closed);
}
