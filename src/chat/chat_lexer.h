/* chat_lexer - a template's bytes as tokens, cut as jinja2 cuts them with trim_blocks and
 * lstrip_blocks: white space, newlines, raw blocks and comments are gone after it.
 *
 * Foreign bytes: linear in their length, no recursion. */
#ifndef GRAMME_CHAT_CHAT_LEXER_H
#define GRAMME_CHAT_CHAT_LEXER_H

#include "base/arena.h"
#include "base/err.h"

#include <stdint.h>

enum chat_token_kind {
    CHAT_TOKEN_END,
    CHAT_TOKEN_DATA,
    CHAT_TOKEN_BLOCK_BEGIN,
    CHAT_TOKEN_BLOCK_END,
    CHAT_TOKEN_VARIABLE_BEGIN,
    CHAT_TOKEN_VARIABLE_END,
    CHAT_TOKEN_NAME,
    CHAT_TOKEN_STRING, /* text: what it means, not how it is written */
    CHAT_TOKEN_INTEGER,
    CHAT_TOKEN_REAL,
    CHAT_TOKEN_OPERATOR, /* op: its characters, the first in the low byte */
};

#define CHAT_TOKEN_OP1(a) ((uint32_t) (a))
#define CHAT_TOKEN_OP2(a, b) ((uint32_t) (a) | (uint32_t) (b) << 8)

struct chat_token {
    uint8_t kind;
    uint32_t op;
    uint32_t line;
    uint32_t bytes;
    union {
        const char *text;
        int64_t integer;
        double real;
    };
};

/* *out: tokens in the arena, the last one CHAT_TOKEN_END.  ERR_FORMAT, ERR_UNSUPPORTED with
 * "template line N: reason"; ERR_MEMORY. */
MUST_USE enum err chat_lexer_read(struct arena *arena, const char *source, uint32_t bytes,
                                  struct err_text *text, struct chat_token **out);

#endif
