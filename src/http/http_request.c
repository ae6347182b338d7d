/* http_request - what a request says: its storage, and what the handler may ask of it. */
#include <string.h>

#include "http/http_conn.h"

void http_request_init(struct http_request *request) {
    memset(request, 0, offsetof(struct http_request, fields));
    buf_init(&request->head, 0); /* bounded by http_parse.head_bytes_max */
    buf_init(&request->body, 0);
    arena_init(&request->arena, 0);
    request->method = "";
}

void http_request_release(struct http_request *request) {
    buf_release(&request->head);
    buf_release(&request->body);
    arena_release(&request->arena);
}

static const char *text_at(const struct http_request *request, uint32_t at) {
    return (const char *) request->head.data + at;
}

const char *http_request_method(const struct http_exchange *exchange) {
    return exchange->request.method;
}

const char *http_request_path(const struct http_exchange *exchange) {
    return text_at(&exchange->request, exchange->request.path_at);
}

const char *http_request_query(const struct http_exchange *exchange) {
    return text_at(&exchange->request, exchange->request.query_at);
}

static bool is_named(const struct http_request *request, uint32_t index, const char *name,
                     size_t bytes) {
    const struct http_field *field = &request->fields[index];
    return field->name_bytes == bytes && memcmp(text_at(request, field->name_at), name, bytes) == 0;
}

/* The slow case: the same header came on several lines. */
static const char *join(struct http_exchange *exchange, const char *name, size_t name_bytes) {
    struct http_request *request = &exchange->request;
    size_t bytes = 0;
    for (uint32_t i = 0; i < request->field_count; i++)
        if (is_named(request, i, name, name_bytes)) bytes += request->fields[i].value_bytes + 2u;
    char *joined = arena_take(&request->arena, bytes + 1);
    if (!joined) return NULL;
    char *to = joined;
    for (uint32_t i = 0; i < request->field_count; i++) {
        const struct http_field *field = &request->fields[i];
        if (!is_named(request, i, name, name_bytes)) continue;
        if (to != joined) {
            memcpy(to, ", ", 2);
            to += 2;
        }
        memcpy(to, text_at(request, field->value_at), field->value_bytes);
        to += field->value_bytes;
    }
    *to = '\0';
    return joined;
}

const char *http_request_header(const struct http_exchange *exchange, const char *name) {
    const struct http_request *request = &exchange->request;
    size_t bytes = strlen(name);
    const char *value = NULL;
    for (uint32_t i = 0; i < request->field_count; i++) {
        if (!is_named(request, i, name, bytes)) continue;
        /* The arena is the exchange's own; a lookup changes nothing that a caller can see. */
        if (value) return join((struct http_exchange *) (uintptr_t) exchange, name, bytes);
        value = text_at(request, request->fields[i].value_at);
    }
    return value;
}

const uint8_t *http_request_body(const struct http_exchange *exchange, size_t *bytes) {
    *bytes = exchange->request.body.bytes;
    return exchange->request.body.data;
}

const char *http_request_peer(const struct http_exchange *exchange) { return exchange->conn->peer; }

uint64_t http_request_received_us(const struct http_exchange *exchange) {
    return exchange->received_us;
}
