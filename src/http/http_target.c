/* http_target - see http_target.h. */
#include "http/http_target.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

static int hex_value(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* Table 3-7 of the Unicode standard. */
static bool is_utf8(const uint8_t *text, size_t bytes) {
    for (size_t i = 0; i < bytes;) {
        uint8_t lead = text[i++];
        if (lead < 0x80) continue;
        uint8_t low = 0x80, high = 0xbf;
        int more;
        if (lead >= 0xc2 && lead <= 0xdf) {
            more = 1;
        } else if (lead >= 0xe0 && lead <= 0xef) {
            more = 2;
            if (lead == 0xe0) low = 0xa0;
            if (lead == 0xed) high = 0x9f;
        } else if (lead >= 0xf0 && lead <= 0xf4) {
            more = 3;
            if (lead == 0xf0) low = 0x90;
            if (lead == 0xf4) high = 0x8f;
        } else {
            return false;
        }
        for (; more > 0; more--, low = 0x80, high = 0xbf) {
            if (i == bytes || text[i] < low || text[i] > high) return false;
            i++;
        }
    }
    return true;
}

/* The part from the path on: behind scheme and authority in an absolute-form target. */
static const char *path_of(const char *target, const char *end) {
    size_t bytes = (size_t) (end - target);
    size_t skip = 0;
    if (bytes >= 7 && strncasecmp(target, "http://", 7) == 0) skip = 7;
    if (bytes >= 8 && strncasecmp(target, "https://", 8) == 0) skip = 8;
    if (skip == 0) return NULL;
    const char *at = target + skip;
    while (at < end && *at != '/' && *at != '?') at++;
    return at == target + skip ? NULL : at;
}

const char *http_target_split(const char *target, size_t bytes, struct buf *out, size_t *path_at,
                              size_t *query_at) {
    const char *end = target + bytes;
    const char *from = target;
    bool is_star = bytes == 1 && target[0] == '*';
    if (bytes == 0) return "empty request target";
    for (const char *at = target; at < end; at++) {
        if (*at <= 0x20 || *at >= 0x7f) return "invalid character in the request target";
        if (*at == '#') return "fragment in the request target";
    }
    if (!is_star && *from != '/') {
        from = path_of(target, end);
        if (!from) return "request target must be a path or an http URL";
    }
    *path_at = out->bytes;
    if (from == end || *from == '?') buf_add_byte(out, '/');
    const char *at = from;
    for (; at < end && *at != '?'; at++) {
        if (*at != '%') {
            buf_add_byte(out, (uint8_t) *at);
            continue;
        }
        int high = end - at > 2 ? hex_value(at[1]) : -1;
        int low = high >= 0 ? hex_value(at[2]) : -1;
        if (low < 0) return "invalid percent escape in the path";
        int byte = high * 16 + low;
        if (byte < 0x20 || byte == 0x7f) return "escaped control character in the path";
        buf_add_byte(out, (uint8_t) byte);
        at += 2;
    }
    if (!buf_error(out) && !is_utf8(out->data + *path_at, out->bytes - *path_at))
        return "path is not UTF-8";
    buf_add_byte(out, '\0');
    *query_at = out->bytes;
    if (at < end) buf_add(out, at + 1, (size_t) (end - at - 1));
    buf_add_byte(out, '\0');
    return NULL;
}
