/* http_answer - the bytes of an answer, into the connection's `out` buffer.
 *
 * Nothing here writes to a socket; http_conn_flush does, once a loop turn.  Memory that runs out
 * shows as out.failed there, and the connection is cut off. */
#include <string.h>
#include <strings.h>

#include "base/check.h"
#include "base/log.h"
#include "http/http_server_impl.h"

#define LENGTH_CHUNKED UINT64_MAX
#define HEAD_BYTES 1000u /* one allocation for the head of most answers */

static const char *status_phrase(int status) {
    switch (status) {
    case 100: return "Continue";
    case 200: return "OK";
    case 201: return "Created";
    case 202: return "Accepted";
    case 204: return "No Content";
    case 301: return "Moved Permanently";
    case 302: return "Found";
    case 304: return "Not Modified";
    case 307: return "Temporary Redirect";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 413: return "Content Too Large";
    case 415: return "Unsupported Media Type";
    case 417: return "Expectation Failed";
    case 422: return "Unprocessable Content";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 499: return "Client Closed Request";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    default: return "Status";
    }
}

static void add_number(struct buf *out, uint64_t value) {
    char digits[20];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char) ('0' + value % 10);
        value /= 10;
    } while (value);
    buf_add(out, digits + at, sizeof digits - at);
}

/* A line break in a header would begin another header, or an answer. */
static bool is_clean(const char *text) {
    for (; *text; text++)
        if ((unsigned char) *text < 0x20 && *text != '\t') return false;
    return true;
}

static void add_header(struct buf *out, const char *name, const char *value) {
    if (!is_clean(name) || !is_clean(value)) {
        log_error("http: answer header %.40s has control characters and is left out", name);
        return;
    }
    buf_add_string(out, name);
    buf_add(out, ": ", 2);
    buf_add_string(out, value);
    buf_add(out, "\r\n", 2);
}

/* The handler may ask for the connection's end; the header itself is written here. */
static bool is_connection(const struct http_header *header) {
    return strcasecmp(header->name, "connection") == 0;
}

static void add_head(struct http_exchange *exchange, int status, const char *content_type,
                     const struct http_header *headers, size_t header_count, uint64_t length) {
    struct http_conn *conn = exchange->conn;
    const struct http_request *request = &exchange->request;
    struct buf *out = &conn->out;
    bool may_have_body = status >= 200 && status != 204 && status != 304;
    bool is_streamed = length == LENGTH_CHUNKED;
    exchange->status = status;
    exchange->is_started = true;
    exchange->has_no_body = !may_have_body || strcmp(request->method, "HEAD") == 0;
    exchange->is_chunked = is_streamed && may_have_body && request->minor_version >= 1;
    if (!request->keeps_alive || conn->server->is_draining ||
        (is_streamed && may_have_body && !exchange->is_chunked))
        conn->must_close = true;
    for (size_t i = 0; i < header_count; i++)
        if (is_connection(&headers[i]) && strcasecmp(headers[i].value, "close") == 0)
            conn->must_close = true;

    http_conn_mark_dirty(conn); /* also when there is no memory: the flush ends it */
    if (!buf_reserve(out, HEAD_BYTES)) return;
    buf_add(out, "HTTP/1.1 ", 9);
    add_number(out, (uint64_t) status);
    buf_add(out, " ", 1);
    buf_add_string(out, status_phrase(status));
    buf_add(out, "\r\nDate: ", 8);
    buf_add_string(out, http_server_date(conn->server));
    buf_add(out, "\r\n", 2);
    if (content_type) add_header(out, "Content-Type", content_type);
    if (exchange->is_chunked) buf_add_string(out, "Transfer-Encoding: chunked\r\n");
    if (!is_streamed && may_have_body) {
        buf_add_string(out, "Content-Length: ");
        add_number(out, length);
        buf_add(out, "\r\n", 2);
    }
    if (conn->must_close) {
        buf_add_string(out, "Connection: close\r\n");
    } else if (request->minor_version == 0) {
        buf_add_string(out, "Connection: keep-alive\r\n");
    }
    for (size_t i = 0; i < header_count; i++)
        if (!is_connection(&headers[i])) add_header(out, headers[i].name, headers[i].value);
    buf_add(out, "\r\n", 2);
}

void http_answer_send(struct http_exchange *exchange, int status, const char *content_type,
                      const struct http_header *headers, size_t header_count, const void *body,
                      size_t bytes) {
    if (exchange->is_dead) return;
    CHECK(!exchange->is_started);
    add_head(exchange, status, content_type, headers, header_count, bytes);
    if (!exchange->has_no_body) buf_add(&exchange->conn->out, body, bytes);
    exchange->is_ended = true;
}

void http_answer_start(struct http_exchange *exchange, int status, const char *content_type,
                       const struct http_header *headers, size_t header_count) {
    if (exchange->is_dead) return;
    CHECK(!exchange->is_started);
    add_head(exchange, status, content_type, headers, header_count, LENGTH_CHUNKED);
}

void http_answer_body(struct http_exchange *exchange, const void *data, size_t bytes) {
    if (exchange->is_dead) return;
    CHECK(exchange->is_started && !exchange->is_ended);
    if (exchange->has_no_body || bytes == 0) return; /* an empty chunk would end the body */
    struct buf *out = &exchange->conn->out;
    if (!exchange->is_chunked) {
        buf_add(out, data, bytes);
    } else {
        static const char hex[] = "0123456789abcdef";
        char size[18];
        size_t at = sizeof size;
        size[--at] = '\n';
        size[--at] = '\r';
        for (size_t rest = bytes; rest; rest >>= 4) size[--at] = hex[rest & 15];
        size_t size_bytes = sizeof size - at;
        uint8_t *to = buf_reserve(out, size_bytes + bytes + 2);
        if (to) {
            memcpy(to, size + at, size_bytes);
            memcpy(to + size_bytes, data, bytes);
            memcpy(to + size_bytes + bytes, "\r\n", 2);
            out->bytes += size_bytes + bytes + 2;
        }
    }
    exchange->has_news = true;
    http_conn_mark_dirty(exchange->conn);
}

void http_answer_flush(struct http_exchange *exchange) {
    if (!exchange->is_dead) http_conn_send(exchange->conn);
}

void http_answer_end(struct http_exchange *exchange) {
    if (exchange->is_dead) return;
    CHECK(exchange->is_started && !exchange->is_ended);
    if (exchange->is_chunked && !exchange->has_no_body)
        buf_add(&exchange->conn->out, "0\r\n\r\n", 5);
    exchange->is_ended = true;
    http_conn_mark_dirty(exchange->conn);
}

bool http_answer_is_started(const struct http_exchange *exchange) { return exchange->is_started; }

int http_answer_status(const struct http_exchange *exchange) { return exchange->status; }

bool http_answer_is_full(const struct http_exchange *exchange) {
    if (exchange->is_dead) return false;
    struct http_conn *conn = exchange->conn;
    if (http_conn_pending_bytes(conn) <= conn->server->limits.pending_bytes_high) return false;
    conn->wants_drain = true;
    return true;
}
