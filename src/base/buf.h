/* buf - bytes that grow, with a limit and one sticky error.
 *
 * Owned by one thread.  Appending never has to be tested step by step: a failure (no memory,
 * over limit_bytes) sets `failed`, later appends do nothing, and buf_error tells at the end. */
#ifndef GRAMME_BASE_BUF_H
#define GRAMME_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct buf {
    uint8_t *data; /* owned; NULL while nothing was appended */
    size_t bytes;
    size_t room_bytes;
    size_t limit_bytes; /* 0: none */
    enum err failed;
};

void buf_init(struct buf *buf, size_t limit_bytes);
void buf_release(struct buf *buf);
/* Forgets content and error, keeps the memory. */
void buf_clear(struct buf *buf);
void buf_add(struct buf *buf, const void *data, size_t bytes);
void buf_add_string(struct buf *buf, const char *text);
void buf_add_byte(struct buf *buf, uint8_t byte);
void buf_add_format(struct buf *buf, const char *format, ...) PRINTF_LIKE(2, 3);
/* Room for `bytes` more, to be written by the caller, who then adds to buf->bytes; NULL (and
 * failed) when there is none. */
MUST_USE uint8_t *buf_reserve(struct buf *buf, size_t bytes);
/* Appends text as the inside of a JSON string (no quotes): ", \ and control characters are
 * escaped, everything else is copied.  The text must be valid UTF-8. */
void buf_add_json_escaped(struct buf *buf, const char *text, size_t bytes);
/* A NUL after the content, not counted in bytes; NULL when it failed. */
const char *buf_string(struct buf *buf);
MUST_USE enum err buf_error(const struct buf *buf);

#endif
