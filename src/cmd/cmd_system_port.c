/* cmd_system_port - see cmd_system_port.h. */
#include "cmd/cmd_system_port.h"

#include <string.h>

#include "api/card_metrics.h"
#include "api/worker_metrics.h"
#include "base/alloc.h"
#include "base/buf.h"
#include "http/http_server.h"

#define CONNECTIONS_MAX 64
#define BODY_BYTES_MAX 65536

struct cmd_system_port {
    struct http_server *server;
    cmd_system_port_fn state;
    void *ctx;
    struct buf out;
    void (*done)(void *ctx);
    void *done_ctx;
};

static void add_metrics(const struct cmd_system_state *state, struct buf *out) {
    struct worker_metrics_row row = {.name = state->name,
                                     .load = &state->load,
                                     .device_bytes = state->device_bytes,
                                     .budget_bytes = state->budget_bytes,
                                     .planned_bytes = state->planned_bytes};
    worker_metrics_render(&row, 1, true, out);
    card_metrics_render(&state->sample, out);
}

static void on_request(void *ctx, struct http_exchange *exchange) {
    struct cmd_system_port *port = ctx;
    const char *path = http_request_path(exchange), *type = "application/json";
    struct cmd_system_state state;
    port->state(port->ctx, &state);
    struct buf *out = &port->out;
    buf_clear(out);
    int status = 200;
    const char *method = http_request_method(exchange);
    if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0) {
        status = 405;
        buf_add_string(out, "{\"status\":\"use GET\"}");
    } else if (strcmp(path, "/live") == 0) {
        status = state.is_live ? 200 : 503;
        buf_add_string(out, state.is_live ? "{\"status\":\"alive\"}" : "{\"status\":\"stuck\"}");
    } else if (strcmp(path, "/health") == 0) {
        status = state.is_ready ? 200 : 503;
        if (state.is_ready) buf_add_string(out, "{\"status\":\"ok\"}");
        else
            buf_add_format(out, "{\"status\":\"unavailable\",\"stage\":\"%s\"}",
                           state.stage ? state.stage : "loading");
    } else if (strcmp(path, "/metrics") == 0) {
        type = "text/plain; version=0.0.4; charset=utf-8";
        add_metrics(&state, out);
    } else {
        status = 404;
        buf_add_string(out, "{\"status\":\"there are /live, /health and /metrics\"}");
    }
    if (buf_error(out)) http_answer_send(exchange, 500, NULL, NULL, 0, "", 0);
    else http_answer_send(exchange, status, type, NULL, 0, out->data, out->bytes);
}

static void on_gone(void *ctx, struct http_exchange *exchange) {
    (void) ctx;
    (void) exchange;
}

static void on_closed(void *ctx) {
    struct cmd_system_port *port = ctx;
    void (*done)(void *) = port->done;
    void *done_ctx = port->done_ctx;
    buf_release(&port->out);
    alloc_free(port);
    if (done) done(done_ctx);
}

enum err cmd_system_port_open(uv_loop_t *loop, const char *host, uint16_t port,
                              cmd_system_port_fn state, void *ctx, struct err_text *text,
                              uint16_t *port_out, struct cmd_system_port **out) {
    struct cmd_system_port *made = alloc_zero(1, sizeof *made);
    if (!made) return err_set(text, ERR_MEMORY, "no memory for the system port");
    made->state = state;
    made->ctx = ctx;
    buf_init(&made->out, 0);
    struct http_limits limits;
    http_limits_default(&limits);
    limits.connections_max = CONNECTIONS_MAX;
    limits.body_bytes_max = BODY_BYTES_MAX;
    struct http_handler handler = {
        .ctx = made, .on_request = on_request, .on_gone = on_gone, .on_drain = on_gone};
    enum err e = http_server_create(loop, &limits, &handler, &made->server);
    if (e) {
        alloc_free(made);
        return err_set(text, e, "the system port: %s", err_name(e));
    }
    e = http_server_listen(made->server, host, port, text, port_out);
    if (e) { /* its handles are closed by the loop */
        err_prefix(text, "--system-port");
        http_server_close(made->server, on_closed, made);
        return e;
    }
    *out = made;
    return ERR_OK;
}

void cmd_system_port_close(struct cmd_system_port *port, void (*done)(void *ctx), void *ctx) {
    port->done = done;
    port->done_ctx = ctx;
    http_server_close(port->server, on_closed, port);
}
