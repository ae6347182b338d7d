/* http_parse - the bytes of one HTTP/1 request, piece by piece, into a struct http_request.
 *
 * Pure: no sockets, no clock, no callbacks; the fuzz entry drives it.  llhttp reads the grammar;
 * a guard of our own runs over every framing byte before llhttp sees it and is stricter (CRLF
 * only, no folded lines, no control characters, digits-only lengths, plain chunk sizes).  Both
 * must end the message at the same byte, or the request is refused.
 *
 *   HEAD -> BODY (length) | CHUNKED -> TRAILER -> DONE        any -> REFUSED
 *
 * Owned by one connection.  Never allocates by a length that was only announced. */
#ifndef GRAMME_HTTP_HTTP_PARSE_H
#define GRAMME_HTTP_HTTP_PARSE_H

#include <llhttp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"

#define HTTP_FIELDS_MAX 128u          /* header lines of one request; 431 */
#define HTTP_CHUNK_EXTENSION_MAX 256u /* digits and extensions of one chunk size; 400 */

/* A header line: offsets into http_request.head, where each text ends with a NUL. */
struct http_field {
    uint32_t name_at;
    uint32_t name_bytes;
    uint32_t value_at;
    uint32_t value_bytes;
};

/* A request as it was read.  Everything in it lives until http_request_release. */
struct http_request {
    struct buf head; /* target, names (lowercase) and values, decoded path */
    struct buf body;
    struct arena arena;
    const char *method; /* static */
    uint32_t target_at, target_bytes;
    uint32_t path_at, query_at;
    uint32_t field_count;
    uint8_t minor_version; /* of HTTP/1.x */
    bool is_head_done;
    bool keeps_alive;
    bool expects_continue;
    bool is_chunked;
    bool has_length;
    uint64_t length_bytes;
    struct http_field fields[HTTP_FIELDS_MAX];
};

void http_request_init(struct http_request *request);
void http_request_release(struct http_request *request);

enum http_parse_status {
    HTTP_PARSE_MORE,    /* all bytes taken, the request goes on */
    HTTP_PARSE_HEAD,    /* the head has just ended and a body follows: once a request */
    HTTP_PARSE_DONE,    /* the request is whole; bytes behind it are the next one's */
    HTTP_PARSE_REFUSED, /* parse->status and parse->reason tell; the connection must end */
};

enum http_parse_state {
    HTTP_STATE_HEAD,
    HTTP_STATE_BODY,
    HTTP_STATE_CHUNKED,
    HTTP_STATE_TRAILER,
    HTTP_STATE_DONE,
    HTTP_STATE_REFUSED,
};

struct http_parse {
    llhttp_t llhttp;
    struct http_request *request; /* borrowed */
    const char *reason;           /* static */
    size_t head_bytes_max;
    size_t body_bytes_max;
    size_t head_bytes;        /* of request line, headers, trailers */
    uint64_t rest_bytes;      /* of the body or of the chunk */
    uint32_t extension_bytes; /* of the line of a chunk size */
    uint32_t space_count;     /* in the request line */
    uint32_t version_bytes;   /* of "HTTP/" seen in the request line */
    int status;
    enum http_parse_state state;
    uint8_t guard;        /* state of the byte guard */
    bool is_message_done; /* llhttp says so */
    bool is_field_new;    /* the next piece of a name begins a header line */
};

void http_parse_init(struct http_parse *parse, struct http_request *request, size_t head_bytes_max,
                     size_t body_bytes_max);
/* Nothing came so far but empty lines, which are allowed before a request. */
bool http_parse_is_blank(const struct http_parse *parse);
/* Takes bytes; *taken says how many.  After DONE or REFUSED it must not be called again. */
enum http_parse_status http_parse_take(struct http_parse *parse, const uint8_t *data, size_t bytes,
                                       size_t *taken);

#endif
