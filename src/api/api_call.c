/* api_call - one exchange as the API sees it: its id, who may call, its answer, its access line. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "api/api_impl.h"
#include "base/clock.h"
#include "base/log.h"

#define HEADERS_MAX 12u

/* --- origins ----------------------------------------------------------------------------- */

static bool is_local_origin(const char *origin) {
    static const char *const hosts[] = {"localhost", "127.0.0.1", "[::1]"};
    const char *host = origin;
    if (strncmp(host, "http://", 7) == 0) host += 7;
    else if (strncmp(host, "https://", 8) == 0) host += 8;
    else return false;
    for (size_t i = 0; i < ARRAY_COUNT(hosts); i++) {
        size_t bytes = strlen(hosts[i]);
        if (strncmp(host, hosts[i], bytes) == 0 && (!host[bytes] || host[bytes] == ':'))
            return true;
    }
    return false;
}

static bool origin_is_allowed(const char *list, const char *origin) {
    if (!list) return is_local_origin(origin);
    size_t bytes = strlen(origin);
    for (const char *at = list; *at;) {
        while (*at == ' ' || *at == ',') at++;
        size_t length = strcspn(at, " ,");
        if (length == 1 && *at == '*') return true;
        if (length == bytes && strncmp(at, origin, bytes) == 0) return true;
        at += length;
    }
    return false;
}

/* --- open -------------------------------------------------------------------------------- */

struct api_call *api_call_open(struct api *api, struct http_exchange *exchange) {
    struct api_call *call = arena_take_zero(http_exchange_arena(exchange), 1, sizeof *call);
    if (!call) {
        http_answer_send(exchange, 500, NULL, NULL, 0, "", 0);
        return NULL;
    }
    call->api = api;
    call->exchange = exchange;
    call->received_us = http_request_received_us(exchange);
    http_exchange_set_user(exchange, call);
    const char *id = http_request_header(exchange, "x-request-id");
    if (id && request_parse_id_is_good(id, strlen(id)))
        snprintf(call->id, sizeof call->id, "%s", id);
    else
        snprintf(call->id, sizeof call->id, "%016llx%016llx", (unsigned long long) api_random(api),
                 (unsigned long long) api_random(api));
    const char *origin = http_request_header(exchange, "origin");
    if (origin && origin_is_allowed(api->options.allowed_origins, origin)) call->origin = origin;
    return call;
}

/* The time depends on the key that is configured, never on how much of it was right. */
static bool is_same_key(const char *key, const char *given, size_t given_bytes) {
    size_t bytes = strlen(key);
    volatile size_t differs = bytes ^ given_bytes;
    for (size_t i = 0; i < bytes; i++)
        differs |=
            (unsigned char) key[i] ^ (unsigned char) given[given_bytes ? i % given_bytes : 0];
    return differs == 0;
}

/* Every key is compared, also after a match. */
bool api_call_is_authorized(const struct api_call *call) {
    const struct api_options *options = &call->api->options;
    if (options->api_key_count == 0) return true;
    const char *value = http_request_header(call->exchange, "authorization");
    const char *given = "";
    if (value && strncasecmp(value, "bearer ", 7) == 0) given = value + 7;
    while (*given == ' ') given++;
    size_t given_bytes = strlen(given);
    unsigned is_found = 0;
    for (uint32_t i = 0; i < options->api_key_count && i < API_KEYS_MAX; i++)
        is_found |= is_same_key(options->api_keys[i], given, given_bytes);
    return is_found;
}

/* --- answers ----------------------------------------------------------------------------- */

static size_t add_own_headers(const struct api_call *call, struct http_header *headers,
                              size_t count) {
    headers[count++] = (struct http_header){"X-Request-Id", call->id};
    if (call->worker[0]) headers[count++] = (struct http_header){"X-Gramme-Worker", call->worker};
    if (call->origin) {
        headers[count++] = (struct http_header){"Access-Control-Allow-Origin", call->origin};
        headers[count++] = (struct http_header){"Vary", "Origin"};
        headers[count++] = (struct http_header){"Access-Control-Expose-Headers",
                                                "X-Request-Id, X-Gramme-Worker, Retry-After"};
    }
    return count;
}

static void count_status(struct api_call *call, int status) {
    enum metric metric = status == 429   ? METRIC_HTTP_429
                         : status >= 500 ? METRIC_HTTP_5XX
                         : status >= 400 ? METRIC_HTTP_4XX
                                         : METRIC_HTTP_2XX;
    metrics_add(call->api->metrics, metric, 1);
}

void api_call_send(struct api_call *call, int status, const char *content_type,
                   const struct http_header *headers, size_t header_count, const void *body,
                   size_t bytes) {
    struct http_header all[HEADERS_MAX];
    CHECK(header_count + 5 <= HEADERS_MAX);
    for (size_t i = 0; i < header_count; i++) all[i] = headers[i];
    size_t count = add_own_headers(call, all, header_count);
    count_status(call, status);
    http_answer_send(call->exchange, status, content_type, all, count, body, bytes);
}

void api_call_send_out(struct api_call *call, int status) {
    struct api *api = call->api;
    if (buf_error(&api->out)) {
        static const char sorry[] =
            "{\"error\":{\"message\":\"the server is out of memory\","
            "\"type\":\"InternalServerError\",\"param\":null,\"code\":500}}";
        api_call_send(call, 500, "application/json", NULL, 0, sorry, sizeof sorry - 1);
        return;
    }
    api_call_send(call, status, "application/json", NULL, 0, api->out.data, api->out.bytes);
}

void api_call_fail(struct api_call *call, const struct api_error *error) {
    struct api *api = call->api;
    struct http_header headers[3];
    size_t count = 0;
    char seconds[16];
    if (error->retry_after_s) {
        snprintf(seconds, sizeof seconds, "%u", error->retry_after_s);
        headers[count++] = (struct http_header){"Retry-After", seconds};
    }
    if (error->status == 401) headers[count++] = (struct http_header){"WWW-Authenticate", "Bearer"};
    if (api->is_draining) headers[count++] = (struct http_header){"Connection", "close"};
    buf_clear(&api->out);
    api_error_render(error, &api->out);
    if (buf_error(&api->out)) {
        buf_clear(&api->out);
        buf_release(&api->out);
    }
    api_call_send(call, error->status, "application/json", headers, count, api->out.data,
                  api->out.bytes);
}

void api_call_start_stream(struct api_call *call) {
    struct http_header headers[HEADERS_MAX] = {{"Cache-Control", "no-cache"},
                                               {"X-Accel-Buffering", "no"}};
    size_t count = add_own_headers(call, headers, 2);
    count_status(call, 200);
    http_answer_start(call->exchange, 200, "text/event-stream; charset=utf-8", headers, count);
}

/* --- the access line --------------------------------------------------------------------- */

void api_call_log(struct api_call *call, bool is_complete) {
    enum log_level level = call->is_quiet ? LOG_DEBUG : LOG_INFO;
    if (!log_is_on(level)) return;
    const struct http_exchange *exchange = call->exchange;
    double total_ms = (double) (clock_now_us() - call->received_us) / 1e3;
    int status = http_answer_status(exchange);
    if (!status) status = 499; /* the client left first */
    const char *trace = http_request_header(exchange, "traceparent");
    if (!trace) trace = "";
    const char *trace_word = trace[0] ? " traceparent " : "";
    const char *left = is_complete || status == 499 ? "" : " (client left)";
    if (!call->has_tokens) {
        log_request(level, call->id, "%s %s %.200s status %d%s total %.1f ms%s%.80s",
                    http_request_peer(exchange), http_request_method(exchange),
                    http_request_path(exchange), status, left, total_ms, trace_word, trace);
        return;
    }
    log_request(level, call->id,
                "%s %s %.200s model %s status %d%s in %u cached %u out %u queue %.1f ms ttft %.1f "
                "ms itl %.2f ms total %.1f ms finish %s%s%.80s",
                http_request_peer(exchange), http_request_method(exchange),
                http_request_path(exchange), call->model, status, left, call->prompt_tokens,
                call->cached_tokens, call->completion_tokens, call->queue_ms, call->ttft_ms,
                call->itl_ms, total_ms, call->finish ? call->finish : "none", trace_word, trace);
}
