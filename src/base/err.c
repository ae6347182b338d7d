/* err - see err.h. */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *err_name(enum err e) {
    switch (e) {
    case ERR_OK: return "ok";
    case ERR_MEMORY: return "out of memory";
    case ERR_USAGE: return "usage";
    case ERR_FORMAT: return "bad format";
    case ERR_UNSUPPORTED: return "not supported";
    case ERR_NOT_FOUND: return "not found";
    case ERR_IO: return "input/output error";
    case ERR_LIMIT: return "over a limit";
    case ERR_NO_ROOM: return "does not fit";
    case ERR_BUSY: return "busy";
    case ERR_PEER_GONE: return "peer gone";
    case ERR_CANCELLED: return "cancelled";
    case ERR_TIMEOUT: return "timed out";
    }
    return "unknown error";
}

enum err err_set(struct err_text *text, enum err e, const char *format, ...) {
    if (text) {
        va_list args;
        va_start(args, format);
        vsnprintf(text->text, sizeof text->text, format, args);
        va_end(args);
    }
    return e;
}

void err_prefix(struct err_text *text, const char *format, ...) {
    if (!text) return;
    struct err_text old = *text;
    va_list args;
    va_start(args, format);
    int used = vsnprintf(text->text, sizeof text->text, format, args);
    va_end(args);
    if (used < 0 || (size_t) used >= sizeof text->text) return;
    size_t room = sizeof text->text - (size_t) used;
    int more = snprintf(text->text + used, room, ": ");
    if (more < 0 || (size_t) more >= room) return;
    room -= (size_t) more;
    size_t keep = strnlen(old.text, room - 1);
    memcpy(text->text + used + more, old.text, keep);
    text->text[used + more + (int) keep] = '\0';
}
