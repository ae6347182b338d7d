/* http_server_impl - the body of struct http_server, for the files of this room. */
#ifndef GRAMME_HTTP_HTTP_SERVER_IMPL_H
#define GRAMME_HTTP_HTTP_SERVER_IMPL_H

#include "http/http_conn.h"

#define HTTP_LISTENERS_MAX 16u

struct http_server {
    uv_loop_t *loop;
    struct http_limits limits;
    struct http_handler handler;
    uv_tcp_t *listeners[HTTP_LISTENERS_MAX];
    uv_prepare_t prepare; /* flush before the loop sleeps, */
    uv_check_t check;     /* and right after it has read; */
    uv_idle_t idle;       /* it does not sleep while something is dirty */
    uv_timer_t sweep;
    uv_timer_t pace;
    struct http_conn *conns;
    struct http_conn_queue dirty; /* to be flushed this turn */
    struct http_conn_queue held;  /* streams that wait for the next millisecond */
    uint8_t *read_buffer;
    void (*done)(void *ctx);
    void *done_ctx;
    uint64_t write_count;
    uint64_t sweep_ms;
    int64_t date_second;
    uint32_t listener_count;
    uint32_t conn_count; /* also those over the limit, and those closing */
    uint32_t over_limit_count;
    uint32_t exchange_count;
    uint32_t handle_count; /* open handles of the server itself */
    bool is_draining;
    bool is_closing;
    bool is_sweeping;
    bool has_waiting; /* a connection could not be accepted for lack of memory */
    char date[32];    /* "Tue, 24 Nov 2026 06:00:00 GMT" */
};

void http_server_conn_opened(struct http_server *server, struct http_conn *conn);
void http_server_conn_closed(struct http_server *server, struct http_conn *conn);
/* Something is held: it becomes dirty in HTTP_PACE_MS. */
void http_server_pace(struct http_server *server);
/* Something is dirty: the loop must not sleep before a flush. */
void http_server_wake(struct http_server *server);
const char *http_server_date(struct http_server *server);

#endif
