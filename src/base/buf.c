/* buf - see buf.h. */
#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"

void buf_init(struct buf *buf, size_t limit_bytes) {
    *buf = (struct buf){.limit_bytes = limit_bytes};
}

void buf_release(struct buf *buf) {
    alloc_free(buf->data);
    *buf = (struct buf){.limit_bytes = buf->limit_bytes};
}

void buf_clear(struct buf *buf) {
    buf->bytes = 0;
    buf->failed = ERR_OK;
}

uint8_t *buf_reserve(struct buf *buf, size_t bytes) {
    if (buf->failed) return NULL;
    size_t wanted;
    if (__builtin_add_overflow(buf->bytes, bytes, &wanted) || wanted == SIZE_MAX ||
        (buf->limit_bytes && wanted > buf->limit_bytes)) {
        buf->failed = ERR_LIMIT;
        return NULL;
    }
    if (wanted + 1 > buf->room_bytes) {
        size_t room = buf->room_bytes ? buf->room_bytes : 64;
        while (room < wanted + 1) room = room > SIZE_MAX / 2 ? wanted + 1 : room * 2;
        uint8_t *data = alloc_resize(buf->data, room);
        if (!data) {
            buf->failed = ERR_MEMORY;
            return NULL;
        }
        buf->data = data;
        buf->room_bytes = room;
    }
    return buf->data + buf->bytes;
}

void buf_add(struct buf *buf, const void *data, size_t bytes) {
    bool has_room = !buf->failed && !buf->limit_bytes && bytes < buf->room_bytes - buf->bytes;
    uint8_t *at = has_room ? buf->data + buf->bytes : buf_reserve(buf, bytes);
    if (!at || bytes == 0) return;
    memcpy(at, data, bytes);
    buf->bytes += bytes;
}

void buf_add_string(struct buf *buf, const char *text) { buf_add(buf, text, strlen(text)); }

void buf_add_byte(struct buf *buf, uint8_t byte) { buf_add(buf, &byte, 1); }

void buf_add_format(struct buf *buf, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (length < 0) {
        buf->failed = buf->failed ? buf->failed : ERR_FORMAT;
        return;
    }
    uint8_t *at = buf_reserve(buf, (size_t) length);
    if (!at) return;
    va_start(args, format);
    vsnprintf((char *) at, (size_t) length + 1, format, args);
    va_end(args);
    buf->bytes += (size_t) length;
}

void buf_add_json_escaped(struct buf *buf, const char *text, size_t bytes) {
    static const char hex[] = "0123456789abcdef";
    size_t from = 0;
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char) text[i];
        if (c >= 0x20 && c != '"' && c != '\\') continue;
        buf_add(buf, text + from, i - from);
        from = i + 1;
        char escape[6] = {'\\', 0, '0', '0', hex[c >> 4], hex[c & 15]};
        switch (c) {
        case '"': escape[1] = '"'; break;
        case '\\': escape[1] = '\\'; break;
        case '\n': escape[1] = 'n'; break;
        case '\r': escape[1] = 'r'; break;
        case '\t': escape[1] = 't'; break;
        case '\b': escape[1] = 'b'; break;
        case '\f': escape[1] = 'f'; break;
        default: escape[1] = 'u'; break;
        }
        buf_add(buf, escape, escape[1] == 'u' ? 6 : 2);
    }
    if (from < bytes) buf_add(buf, text + from, bytes - from);
}

const char *buf_string(struct buf *buf) {
    uint8_t *end = buf_reserve(buf, 0);
    if (!end) return NULL;
    *end = '\0';
    return (const char *) buf->data;
}

enum err buf_error(const struct buf *buf) { return buf->failed; }
