/* http_parse - see http_parse.h.
 *
 * The guard's head machine, one byte at a time (the trailer section enters at FIELD):
 *
 *   START -> LINE -> LINE_LF -> FIELD -> NAME -> VALUE -> VALUE_LF -> FIELD ...
 *                                 +--> END_LF -> over
 *
 * and its chunk machine: SIZE_FIRST -> SIZE [-> EXTENSION] -> SIZE_LF -> DATA -> DATA_CR ->
 * DATA_LF -> SIZE_FIRST ...  A size of 0 leads into the trailer section, which is discarded. */
#include "http/http_parse.h"

#include <string.h>
#include <strings.h>

#include "http/http_target.h"

#define BODY_FIRST_BYTES 16384u /* taken on an announced length; the rest grows as it comes */

enum guard_state {
    GUARD_START,
    GUARD_START_LF,
    GUARD_LINE,
    GUARD_LINE_LF,
    GUARD_FIELD,
    GUARD_NAME,
    GUARD_VALUE,
    GUARD_VALUE_LF,
    GUARD_END_LF,
    GUARD_OVER,
    GUARD_SIZE_FIRST,
    GUARD_SIZE,
    GUARD_EXTENSION,
    GUARD_SIZE_LF,
    GUARD_DATA,
    GUARD_DATA_CR,
    GUARD_DATA_LF,
};

static enum http_parse_status refuse(struct http_parse *parse, int status, const char *reason) {
    parse->state = HTTP_STATE_REFUSED;
    parse->status = status;
    parse->reason = reason;
    return HTTP_PARSE_REFUSED;
}

/* --- llhttp's side --- */

/* Every text in head ends with a NUL, added when llhttp says that it is complete. */
static int add_text(struct buf *head, const char *at, size_t bytes) {
    buf_add(head, at, bytes);
    return head->failed ? -1 : 0;
}

static int on_url(llhttp_t *llhttp, const char *at, size_t bytes) {
    struct http_parse *parse = llhttp->data;
    struct http_request *request = parse->request;
    if (request->target_bytes == 0) request->target_at = (uint32_t) request->head.bytes;
    request->target_bytes += (uint32_t) bytes;
    return add_text(&request->head, at, bytes);
}

static int on_url_complete(llhttp_t *llhttp) {
    struct http_parse *parse = llhttp->data;
    return add_text(&parse->request->head, "", 1);
}

static int on_field(llhttp_t *llhttp, const char *at, size_t bytes) {
    struct http_parse *parse = llhttp->data;
    struct http_request *request = parse->request;
    if (parse->state != HTTP_STATE_HEAD) return 0;
    if (request->field_count >= HTTP_FIELDS_MAX) {
        refuse(parse, 431, "too many header fields");
        return -1;
    }
    struct http_field *field = &request->fields[request->field_count];
    uint8_t *to = buf_reserve(&request->head, bytes);
    if (!to) return -1;
    if (parse->is_field_new) { /* the first piece of this name */
        *field = (struct http_field){.name_at = (uint32_t) request->head.bytes};
        parse->is_field_new = false;
    }
    for (size_t i = 0; i < bytes; i++) {
        char c = at[i];
        to[i] = (uint8_t) (c >= 'A' && c <= 'Z' ? c | 0x20 : c);
    }
    request->head.bytes += bytes;
    field->name_bytes += (uint32_t) bytes;
    return 0;
}

static int on_field_complete(llhttp_t *llhttp) {
    struct http_parse *parse = llhttp->data;
    struct http_request *request = parse->request;
    if (parse->state != HTTP_STATE_HEAD) return 0;
    if (add_text(&request->head, "", 1)) return -1;
    request->fields[request->field_count].value_at = (uint32_t) request->head.bytes;
    return 0;
}

static int on_value(llhttp_t *llhttp, const char *at, size_t bytes) {
    struct http_parse *parse = llhttp->data;
    struct http_request *request = parse->request;
    if (parse->state != HTTP_STATE_HEAD) return 0;
    request->fields[request->field_count].value_bytes += (uint32_t) bytes;
    return add_text(&request->head, at, bytes);
}

static int on_value_complete(llhttp_t *llhttp) {
    struct http_parse *parse = llhttp->data;
    struct http_request *request = parse->request;
    if (parse->state != HTTP_STATE_HEAD) return 0;
    struct http_field *field = &request->fields[request->field_count];
    const uint8_t *value = request->head.data + field->value_at;
    while (field->value_bytes &&
           (value[field->value_bytes - 1] == ' ' || value[field->value_bytes - 1] == '\t')) {
        field->value_bytes--;
        request->head.bytes--;
    }
    request->field_count++;
    parse->is_field_new = true;
    return add_text(&request->head, "", 1);
}

static int on_headers_complete(llhttp_t *llhttp) {
    struct http_parse *parse = llhttp->data;
    struct http_request *request = parse->request;
    request->is_head_done = true;
    request->keeps_alive = llhttp_should_keep_alive(llhttp);
    llhttp->upgrade = 0; /* no upgrade is offered: the request is served as it stands */
    return 0;
}

static int on_body(llhttp_t *llhttp, const char *at, size_t bytes) {
    struct http_parse *parse = llhttp->data;
    buf_add(&parse->request->body, at, bytes);
    return parse->request->body.failed ? -1 : 0;
}

static int on_message_complete(llhttp_t *llhttp) {
    struct http_parse *parse = llhttp->data;
    parse->is_message_done = true;
    return 0;
}

static const llhttp_settings_t settings = {
    .on_url = on_url,
    .on_url_complete = on_url_complete,
    .on_header_field = on_field,
    .on_header_field_complete = on_field_complete,
    .on_header_value = on_value,
    .on_header_value_complete = on_value_complete,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_message_complete = on_message_complete,
};

bool http_parse_is_blank(const struct http_parse *parse) {
    return parse->guard == GUARD_START || parse->guard == GUARD_START_LF;
}

void http_parse_init(struct http_parse *parse, struct http_request *request, size_t head_bytes_max,
                     size_t body_bytes_max) {
    *parse = (struct http_parse){
        .request = request,
        .head_bytes_max = head_bytes_max,
        .body_bytes_max = body_bytes_max,
        .guard = GUARD_START,
        .is_field_new = true,
    };
    llhttp_init(&parse->llhttp, HTTP_REQUEST, &settings);
    parse->llhttp.data = parse;
}

/* Hands bytes that the guard let pass to llhttp; true when it refused them. */
static bool is_refused_by_llhttp(struct http_parse *parse, const uint8_t *data, size_t bytes) {
    if (bytes == 0) return false;
    llhttp_errno_t e = llhttp_execute(&parse->llhttp, (const char *) data, bytes);
    if (parse->state == HTTP_STATE_REFUSED) return true;
    if (e == HPE_OK) return false;
    if (parse->request->head.failed || parse->request->body.failed) {
        refuse(parse, 503, "out of memory");
    } else if (e == HPE_INVALID_VERSION || e == HPE_PAUSED_H2_UPGRADE) {
        refuse(parse, 505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
    } else {
        const char *reason = llhttp_get_error_reason(&parse->llhttp);
        refuse(parse, 400, reason && *reason ? reason : llhttp_errno_name(e));
    }
    return true;
}

/* --- the guard's side --- */

static bool is_control(uint8_t c) { return (c < 0x20 && c != '\t') || c == 0x7f; }

/* RFC 9110 5.6.2 */
static bool is_token(uint8_t c) {
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')) return true;
    return c && strchr("!#$%&'*+-.^_`|~", c);
}

static int hex_digit(uint8_t c) {
    if (c >= '0' && c <= '9') return c - '0';
    if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') return (c | 0x20) - 'a' + 10;
    return -1;
}

/* One byte of a head or trailer section: NULL or why it is refused. */
static const char *guard_line_byte(struct http_parse *parse, uint8_t c) {
    switch (parse->guard) {
    case GUARD_START:
        if (c == '\r') {
            parse->guard = GUARD_START_LF;
            return NULL;
        }
        parse->guard = GUARD_LINE;
        return c >= 'A' && c <= 'Z' ? NULL : "malformed request line";
    case GUARD_LINE:
        if (c == '\r') {
            parse->guard = GUARD_LINE_LF;
            return parse->space_count == 2 ? NULL : "malformed request line";
        }
        /* llhttp knows other protocols by their versions; here it is HTTP or nothing */
        if (parse->space_count == 2 && parse->version_bytes < 5 &&
            c != (uint8_t) "HTTP/"[parse->version_bytes++])
            return "malformed request line";
        if (c == ' ') parse->space_count++;
        return c > 0x1f && c < 0x7f && parse->space_count <= 2 ? NULL : "malformed request line";
    case GUARD_FIELD:
        if (c == '\r') {
            parse->guard = GUARD_END_LF;
            return NULL;
        }
        if (c == ' ' || c == '\t') return "folded header line";
        parse->guard = GUARD_NAME;
        return is_token(c) ? NULL : "invalid character in a header name";
    case GUARD_NAME:
        if (c == ':') {
            parse->guard = GUARD_VALUE;
            return NULL;
        }
        if (c == ' ' || c == '\t') return "space before the colon of a header";
        return is_token(c) ? NULL : "invalid character in a header name";
    case GUARD_VALUE:
        if (c == '\r') {
            parse->guard = GUARD_VALUE_LF;
            return NULL;
        }
        if (c == '\n') return "bare line feed";
        return is_control(c) ? "control character in a header" : NULL;
    default: /* the _LF states */
        if (c != '\n') return "bare carriage return";
        parse->guard = parse->guard == GUARD_START_LF ? GUARD_START
                       : parse->guard == GUARD_END_LF ? GUARD_OVER
                                                      : GUARD_FIELD;
        return NULL;
    }
}

/* Runs the guard until the section is over; *taken bytes are clean.  False: refused. */
static bool guard_lines(struct http_parse *parse, const uint8_t *data, size_t bytes,
                        size_t *taken) {
    size_t i = 0;
    while (i < bytes && parse->guard != GUARD_OVER) {
        uint8_t c = data[i];
        /* Most bytes of a head are plain bytes of a value. */
        if (parse->guard == GUARD_VALUE && c >= 0x20 && c != 0x7f) {
            i++;
            continue;
        }
        const char *reason = guard_line_byte(parse, c);
        if (reason) {
            refuse(parse, 400, reason);
            return false;
        }
        i++;
    }
    parse->head_bytes += i;
    *taken = i;
    if (parse->head_bytes <= parse->head_bytes_max) return true;
    refuse(parse, 431, "request line and headers are too long");
    return false;
}

/* One framing byte of a chunked body. */
static const char *guard_chunk_byte(struct http_parse *parse, uint8_t c) {
    int digit = hex_digit(c);
    switch (parse->guard) {
    case GUARD_SIZE_FIRST:
        parse->rest_bytes = 0;
        parse->extension_bytes = 0;
        parse->guard = GUARD_SIZE;
        if (digit < 0) return "invalid chunk size";
        parse->rest_bytes = (uint64_t) digit;
        return NULL;
    case GUARD_SIZE:
        if (c == '\r') {
            parse->guard = GUARD_SIZE_LF;
            return NULL;
        }
        if (c == ';') {
            parse->guard = GUARD_EXTENSION;
            return NULL;
        }
        if (digit < 0 || parse->rest_bytes >> 56 ||
            ++parse->extension_bytes > HTTP_CHUNK_EXTENSION_MAX)
            return "invalid chunk size";
        parse->rest_bytes = parse->rest_bytes * 16 + (uint64_t) digit;
        return NULL;
    case GUARD_EXTENSION:
        if (c == '\r') {
            parse->guard = GUARD_SIZE_LF;
            return NULL;
        }
        if (++parse->extension_bytes > HTTP_CHUNK_EXTENSION_MAX) return "chunk extension too long";
        return is_control(c) ? "control character in a chunk extension" : NULL;
    case GUARD_SIZE_LF: parse->guard = GUARD_DATA; return c == '\n' ? NULL : "bare carriage return";
    case GUARD_DATA_CR:
        parse->guard = GUARD_DATA_LF;
        return c == '\r' ? NULL : "chunk data does not end where its size says";
    default: parse->guard = GUARD_SIZE_FIRST; return c == '\n' ? NULL : "bare carriage return";
    }
}

/* Runs the guard over a chunked body until its last chunk's line; false: refused. */
static bool guard_chunks(struct http_parse *parse, const uint8_t *data, size_t bytes,
                         size_t *taken) {
    size_t announced = parse->request->body.bytes;
    size_t i = 0;
    while (i < bytes) {
        if (parse->guard == GUARD_DATA) {
            if (parse->rest_bytes == 0) { /* a size of 0 */
                parse->state = HTTP_STATE_TRAILER;
                parse->guard = GUARD_FIELD;
                break;
            }
            size_t step = bytes - i < parse->rest_bytes ? bytes - i : (size_t) parse->rest_bytes;
            i += step;
            announced += step;
            parse->rest_bytes -= step;
            if (parse->rest_bytes == 0) parse->guard = GUARD_DATA_CR;
            continue;
        }
        const char *reason = guard_chunk_byte(parse, data[i]);
        if (reason) {
            refuse(parse, 400, reason);
            return false;
        }
        i++;
        if (parse->guard == GUARD_DATA && parse->rest_bytes > parse->body_bytes_max - announced) {
            refuse(parse, 413, "request body is too long");
            return false;
        }
    }
    *taken = i;
    return true;
}

/* --- what the whole head says --- */

static const char *field_value(const struct http_request *request, const char *name,
                               uint32_t *count) {
    const char *value = NULL;
    size_t bytes = strlen(name);
    *count = 0;
    for (uint32_t i = 0; i < request->field_count; i++) {
        const struct http_field *field = &request->fields[i];
        const char *text = (const char *) request->head.data;
        if (field->name_bytes != bytes || memcmp(text + field->name_at, name, bytes)) continue;
        value = text + field->value_at;
        ++*count;
    }
    return value;
}

/* RFC 9110 7.2: what a Host cannot hold would be read differently by someone else. */
static bool is_host(const char *host) { return host[strcspn(host, " \t,/@?#\\\"<>")] == '\0'; }

static enum http_parse_status judge_framing(struct http_parse *parse) {
    struct http_request *request = parse->request;
    uint32_t length_count, coding_count;
    const char *length = field_value(request, "content-length", &length_count);
    const char *coding = field_value(request, "transfer-encoding", &coding_count);
    if (length_count > 1) return refuse(parse, 400, "more than one content-length");
    if (coding_count && length_count)
        return refuse(parse, 400, "both content-length and transfer-encoding");
    if (coding_count) {
        if (request->minor_version == 0)
            return refuse(parse, 400, "transfer-encoding in an HTTP/1.0 request");
        if (coding_count > 1 || strcasecmp(coding, "chunked") != 0)
            return refuse(parse, 400, "transfer-encoding other than chunked");
        request->is_chunked = true;
    }
    if (length_count) {
        size_t digits = strspn(length, "0123456789");
        if (digits == 0 || length[digits] || digits > 18)
            return refuse(parse, 400, "invalid content-length");
        for (size_t i = 0; i < digits; i++)
            request->length_bytes = request->length_bytes * 10 + (uint64_t) (length[i] - '0');
        request->has_length = true;
        if (request->length_bytes > parse->body_bytes_max)
            return refuse(parse, 413, "request body is too long");
    }
    bool is_chunked = parse->llhttp.flags & F_CHUNKED;
    uint64_t length_bytes =
        parse->llhttp.flags & F_CONTENT_LENGTH ? parse->llhttp.content_length : 0;
    /* llhttp clears its flags with the message, so only a message that goes on can be compared. */
    if (!parse->is_message_done &&
        (is_chunked != request->is_chunked || length_bytes != request->length_bytes))
        return refuse(parse, 400, "ambiguous body length");
    return HTTP_PARSE_HEAD;
}

static enum http_parse_status judge_head(struct http_parse *parse) {
    struct http_request *request = parse->request;
    bool is_http2 = parse->llhttp.method == HTTP_PRI; /* its preface looks like a request */
    if (!request->is_head_done && !is_http2) return refuse(parse, 400, "malformed header section");
    if (is_http2 || parse->llhttp.http_major != 1 || parse->llhttp.http_minor > 1)
        return refuse(parse, 505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
    request->minor_version = parse->llhttp.http_minor;
    request->method = llhttp_method_name((llhttp_method_t) parse->llhttp.method);
    if (parse->llhttp.method == HTTP_CONNECT) return refuse(parse, 405, "CONNECT is not supported");

    uint32_t host_count, expect_count;
    const char *host = field_value(request, "host", &host_count);
    if (host_count > 1) return refuse(parse, 400, "more than one host header");
    if (host_count == 0 && request->minor_version >= 1) return refuse(parse, 400, "no host header");
    if (host && !is_host(host)) return refuse(parse, 400, "invalid host header");
    enum http_parse_status status = judge_framing(parse);
    if (status == HTTP_PARSE_REFUSED) return status;
    const char *expect = field_value(request, "expect", &expect_count);
    if (expect_count) {
        if (expect_count > 1 || strcasecmp(expect, "100-continue") != 0)
            return refuse(parse, 417, "expectation other than 100-continue");
        request->expects_continue = request->minor_version >= 1;
    }

    /* head does not move while the target is read from it: the decoded path is never longer */
    if (!buf_reserve(&request->head, request->target_bytes + 3u))
        return refuse(parse, 503, "out of memory");
    size_t path_at = 0, query_at = 0;
    const char *target = (const char *) request->head.data + request->target_at;
    const char *reason =
        http_target_split(target, request->target_bytes, &request->head, &path_at, &query_at);
    if (reason) return refuse(parse, 400, reason);
    request->path_at = (uint32_t) path_at;
    request->query_at = (uint32_t) query_at;
    return HTTP_PARSE_HEAD;
}

static enum http_parse_status done(struct http_parse *parse) {
    if (!parse->is_message_done) return refuse(parse, 400, "ambiguous end of the request");
    parse->state = HTTP_STATE_DONE;
    return HTTP_PARSE_DONE;
}

static enum http_parse_status take_head(struct http_parse *parse, const uint8_t *data, size_t bytes,
                                        size_t *taken) {
    bool is_clean = guard_lines(parse, data, bytes, taken);
    if (!is_clean) return HTTP_PARSE_REFUSED;
    if (is_refused_by_llhttp(parse, data, *taken)) return HTTP_PARSE_REFUSED;
    if (parse->guard != GUARD_OVER) {
        if (parse->request->is_head_done) return refuse(parse, 400, "malformed header section");
        return HTTP_PARSE_MORE;
    }
    enum http_parse_status status = judge_head(parse);
    if (status == HTTP_PARSE_REFUSED) return status;
    if (parse->request->is_chunked) {
        parse->state = HTTP_STATE_CHUNKED;
        parse->guard = GUARD_SIZE_FIRST;
        return HTTP_PARSE_HEAD;
    }
    parse->rest_bytes = parse->request->length_bytes;
    if (parse->rest_bytes == 0) return done(parse);
    size_t first =
        parse->rest_bytes < BODY_FIRST_BYTES ? (size_t) parse->rest_bytes : BODY_FIRST_BYTES;
    if (!buf_reserve(&parse->request->body, first)) return refuse(parse, 503, "out of memory");
    parse->state = HTTP_STATE_BODY;
    return HTTP_PARSE_HEAD;
}

static enum http_parse_status take_body(struct http_parse *parse, const uint8_t *data, size_t bytes,
                                        size_t *taken) {
    size_t step = bytes < parse->rest_bytes ? bytes : (size_t) parse->rest_bytes;
    *taken = step;
    if (is_refused_by_llhttp(parse, data, step)) return HTTP_PARSE_REFUSED;
    parse->rest_bytes -= step;
    return parse->rest_bytes == 0 ? done(parse) : HTTP_PARSE_MORE;
}

static enum http_parse_status take_chunks(struct http_parse *parse, const uint8_t *data,
                                          size_t bytes, size_t *taken) {
    size_t step = 0;
    *taken = 0;
    if (parse->state == HTTP_STATE_CHUNKED) {
        if (!guard_chunks(parse, data, bytes, &step)) return HTTP_PARSE_REFUSED;
        if (is_refused_by_llhttp(parse, data, step)) return HTTP_PARSE_REFUSED;
        *taken = step;
        if (parse->state == HTTP_STATE_CHUNKED) return HTTP_PARSE_MORE;
    }
    if (!guard_lines(parse, data + *taken, bytes - *taken, &step)) return HTTP_PARSE_REFUSED;
    if (is_refused_by_llhttp(parse, data + *taken, step)) return HTTP_PARSE_REFUSED;
    *taken += step;
    if (parse->guard == GUARD_OVER) return done(parse);
    if (parse->is_message_done) return refuse(parse, 400, "ambiguous end of the request");
    return HTTP_PARSE_MORE;
}

enum http_parse_status http_parse_take(struct http_parse *parse, const uint8_t *data, size_t bytes,
                                       size_t *taken) {
    *taken = 0;
    switch (parse->state) {
    case HTTP_STATE_HEAD: return take_head(parse, data, bytes, taken);
    case HTTP_STATE_BODY: return take_body(parse, data, bytes, taken);
    case HTTP_STATE_CHUNKED:
    case HTTP_STATE_TRAILER: return take_chunks(parse, data, bytes, taken);
    default: return HTTP_PARSE_REFUSED;
    }
}
