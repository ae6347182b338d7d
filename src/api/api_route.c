/* api_route - which path is which, and the endpoints that answer at once. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "api/api_impl.h"
#include "api/card_metrics.h"
#include "base/clock.h"

enum { OPEN = 1, NEEDS_MODEL = 2, IS_PROBE = 4 };

static void send_text(struct api_call *call, int status, const char *content_type) {
    struct buf *out = &call->api->out;
    if (buf_error(out)) {
        api_call_send_out(call, 500);
        return;
    }
    api_call_send(call, status, content_type, NULL, 0, out->data, out->bytes);
}

/* --- probes ------------------------------------------------------------------------------ */

static void get_health(struct api_call *call) {
    struct api *api = call->api;
    struct api_health health = {.percent = -1};
    api->health(api->health_ctx, &health);
    struct buf *out = &api->out;
    const char *stage = health.stage ? health.stage : "loading";
    if (api->is_draining) stage = "draining";
    else if (health.is_ready && api->has_model) stage = "no worker";
    if (api_status_is_ready(api, &health)) {
        buf_add_string(out, "{\"status\":\"ok\"}");
        send_text(call, 200, "application/json");
        return;
    }
    buf_add_string(out, "{\"status\":\"unavailable\",\"stage\":\"");
    answer_add_text(out, stage, strlen(stage));
    buf_add_byte(out, '"');
    if (health.percent >= 0) buf_add_format(out, ",\"percent\":%.1f", health.percent);
    buf_add_byte(out, '}');
    send_text(call, 503, "application/json");
}

static void get_live(struct api_call *call) {
    struct api *api = call->api;
    struct api_health health = {.percent = -1};
    api->health(api->health_ctx, &health);
    buf_add_string(&api->out, health.is_live ? "{\"status\":\"alive\"}" : "{\"status\":\"stuck\"}");
    send_text(call, health.is_live ? 200 : 503, "application/json");
}

static void get_version(struct api_call *call) {
    struct api *api = call->api;
    buf_add_string(&api->out, "{\"version\":\"");
    const char *version = api->options.version ? api->options.version : "";
    answer_add_text(&api->out, version, strlen(version));
    buf_add_string(&api->out, "\"}");
    send_text(call, 200, "application/json");
}

static void get_metrics(struct api_call *call) {
    struct api *api = call->api;
    struct msg_load load;
    dispatch_get_load(api->dispatch, &load);
    metrics_set(api->metrics, METRIC_REQUESTS_RUNNING, load.running_requests);
    metrics_set(api->metrics, METRIC_REQUESTS_WAITING, load.waiting_requests);
    double used = (double) load.blocks_total - load.blocks_free - load.blocks_cached;
    metrics_set(api->metrics, METRIC_KV_USAGE, load.blocks_total ? used / load.blocks_total : 0);
    metrics_set(api->metrics, METRIC_WORKERS, dispatch_worker_count(api->dispatch));
    metrics_set(api->metrics, METRIC_CONNECTIONS, http_server_connection_count(api->http));
    uint64_t writes = http_server_write_count(api->http);
    metrics_add(api->metrics, METRIC_HTTP_WRITES, (double) (writes - api->writes_told));
    api->writes_told = writes;
    struct router_counts counts;
    dispatch_get_router_counts(api->dispatch, &counts);
    metrics_advance(api->metrics, METRIC_ROUTER_CHOICES, (double) counts.choices);
    metrics_advance(api->metrics, METRIC_ROUTER_BLOCKS, (double) counts.request_blocks);
    metrics_advance(api->metrics, METRIC_ROUTER_OVERLAP, (double) counts.overlap_blocks);
    metrics_advance(api->metrics, METRIC_ROUTER_EVENTS, (double) counts.events);
    metrics_advance(api->metrics, METRIC_ROUTER_GAPS, (double) counts.gaps);
    metrics_advance(api->metrics, METRIC_ROUTER_DUMPS, (double) counts.dumps);
    metrics_render(api->metrics, &api->out);
    if (api->options.tells_workers) dispatch_worker_render(api->dispatch, &api->out);
    if (api->options.tells_workers && api->options.look_at_cards) {
        struct device_watch_sample sample;
        api->options.look_at_cards(api->options.cards_ctx, &sample);
        card_metrics_render(&sample, &api->out);
    }
    send_text(call, 200, "text/plain; version=0.0.4; charset=utf-8");
}

static void get_status(struct api_call *call) {
    api_status_render(call->api, &call->api->out);
    send_text(call, 200, "application/json");
}

/* --- models ------------------------------------------------------------------------------ */

static void add_model(const struct api *api, uint32_t index, struct buf *out) {
    const char *name = api->options.served_names[index];
    const char *root = api->options.served_names[0];
    buf_add_string(out, "{\"id\":\"");
    answer_add_text(out, name, strlen(name));
    buf_add_format(out,
                   "\",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"gramme\","
                   "\"root\":\"",
                   (long long) api->created_s);
    answer_add_text(out, root, strlen(root));
    buf_add_format(out, "\",\"parent\":null,\"max_model_len\":%u}", api->options.model_len_max);
}

static void get_models(struct api_call *call) {
    struct api *api = call->api;
    buf_add_string(&api->out, "{\"object\":\"list\",\"data\":[");
    for (uint32_t i = 0; i < api->options.served_name_count; i++) {
        if (i) buf_add_byte(&api->out, ',');
        add_model(api, i, &api->out);
    }
    buf_add_string(&api->out, "]}");
    send_text(call, 200, "application/json");
}

static void get_model(struct api_call *call) {
    struct api *api = call->api;
    const char *id = http_request_path(call->exchange) + strlen("/v1/models/");
    for (uint32_t i = 0; i < api->options.served_name_count; i++) {
        if (strcmp(id, api->options.served_names[i]) != 0) continue;
        add_model(api, i, &api->out);
        send_text(call, 200, "application/json");
        return;
    }
    struct api_error error;
    api_error_set(&error, 404, "model", "The model `%.200s` does not exist; served is `%s`", id,
                  api->options.served_names[0]);
    api_call_fail(call, &error);
}

/* --- requests ---------------------------------------------------------------------------- */

static void post_chat(struct api_call *call) { api_generate_start(call, REQUEST_CHAT); }
static void post_completions(struct api_call *call) {
    api_generate_start(call, REQUEST_COMPLETION);
}
static void post_tokenize(struct api_call *call) { api_generate_start(call, REQUEST_TOKENIZE); }
static void post_detokenize(struct api_call *call) { api_generate_start(call, REQUEST_DETOKENIZE); }

/* --- the table --------------------------------------------------------------------------- */

static const struct route {
    const char *path; /* ending in '/': and everything below */
    const char *method;
    void (*handle)(struct api_call *call);
    unsigned flags;
} routes[] = {
    {"/v1/chat/completions", "POST", post_chat, NEEDS_MODEL},
    {"/v1/completions", "POST", post_completions, NEEDS_MODEL},
    {"/tokenize", "POST", post_tokenize, NEEDS_MODEL},
    {"/detokenize", "POST", post_detokenize, NEEDS_MODEL},
    {"/v1/models", "GET", get_models, NEEDS_MODEL},
    {"/v1/models/", "GET", get_model, NEEDS_MODEL},
    {"/health", "GET", get_health, OPEN | IS_PROBE},
    {"/live", "GET", get_live, OPEN | IS_PROBE},
    {"/version", "GET", get_version, OPEN | IS_PROBE},
    {"/metrics", "GET", get_metrics, IS_PROBE},
    {"/gramme/status", "GET", get_status, IS_PROBE},
};

static const struct route *find_route(const char *path) {
    for (size_t i = 0; i < ARRAY_COUNT(routes); i++) {
        size_t bytes = strlen(routes[i].path);
        bool is_prefix = routes[i].path[bytes - 1] == '/';
        if (is_prefix ? strncmp(path, routes[i].path, bytes) == 0 && path[bytes]
                      : strcmp(path, routes[i].path) == 0)
            return &routes[i];
    }
    return NULL;
}

/* route NULL: the server as a whole. */
static const char *allowed_methods(const struct route *route) {
    if (!route) return "GET, HEAD, POST, OPTIONS";
    return strcmp(route->method, "GET") == 0 ? "GET, HEAD, OPTIONS" : "POST, OPTIONS";
}

static void answer_options(struct api_call *call, const struct route *route) {
    const char *allow = allowed_methods(route);
    struct http_header headers[5] = {{"Allow", allow}};
    size_t count = 1;
    const char *asked = http_request_header(call->exchange, "access-control-request-headers");
    if (call->origin) {
        headers[count++] = (struct http_header){"Access-Control-Allow-Methods", allow};
        headers[count++] = (struct http_header){"Access-Control-Allow-Headers",
                                                asked ? asked : "Authorization, Content-Type"};
        headers[count++] = (struct http_header){"Access-Control-Max-Age", "600"};
    }
    api_call_send(call, 204, NULL, headers, count, "", 0);
}

/* Loading or draining: 503 with when to come again. */
static bool is_closed(struct api_call *call) {
    struct api *api = call->api;
    struct api_error error;
    if (api->is_draining) {
        api_error_set(&error, 503, NULL, "the server is shutting down");
    } else if (!api->has_model) {
        api_error_set(&error, 503, NULL, "the model is still being loaded");
    } else {
        return false;
    }
    error.retry_after_s = 1;
    api_call_fail(call, &error);
    return true;
}

/* A body that would have to be unpacked first: it would be "not JSON". */
static bool is_packed(struct api_call *call) {
    const char *coding = http_request_header(call->exchange, "content-encoding");
    if (!coding || !coding[0] || strcasecmp(coding, "identity") == 0) return false;
    struct api *api = call->api;
    struct api_error error;
    api_error_set(&error, 415, NULL,
                  "a body in Content-Encoding %.40s is not read here; send it plain", coding);
    api_error_render(&error, &api->out);
    struct http_header accept = {"Accept-Encoding", "identity"};
    api_call_send(call, 415, "application/json", &accept, 1, api->out.data, api->out.bytes);
    return true;
}

void api_route(struct api_call *call) {
    struct api *api = call->api;
    const char *path = http_request_path(call->exchange);
    const char *method = http_request_method(call->exchange);
    const struct route *route = find_route(path);
    struct api_error error;
    buf_clear(&api->out);
    bool is_options = strcmp(method, "OPTIONS") == 0;
    if (is_options && (route || strcmp(path, "*") == 0)) {
        call->is_quiet = !route || route->flags & IS_PROBE;
        answer_options(call, route);
        return;
    }
    if (!route) {
        api_error_set(&error, 404, NULL, "there is nothing at %.200s", path);
        api_call_fail(call, &error);
        return;
    }
    bool is_get = strcmp(route->method, "GET") == 0;
    call->is_quiet = route->flags & IS_PROBE;
    if (strcmp(method, route->method) != 0 && !(is_get && strcmp(method, "HEAD") == 0)) {
        api_error_set(&error, 405, NULL, "%.40s is not allowed at %.200s; use %s", method, path,
                      route->method);
        buf_clear(&api->out);
        api_error_render(&error, &api->out);
        struct http_header allow = {"Allow", allowed_methods(route)};
        api_call_send(call, 405, "application/json", &allow, 1, api->out.data, api->out.bytes);
        return;
    }
    bool is_open =
        route->flags & OPEN || (route->handle == get_metrics && !api->options.guards_metrics);
    if (!is_open && !api_call_is_authorized(call)) {
        api_error_set(&error, 401, NULL, "a valid API key is needed: Authorization: Bearer KEY");
        api_call_fail(call, &error);
        return;
    }
    if (route->flags & NEEDS_MODEL && is_closed(call)) return;
    buf_clear(&api->out);
    if (is_packed(call)) return;
    route->handle(call);
}
