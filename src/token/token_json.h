/* token_json - a forward reader over JSON text, for the parts of a tokenizer.json that are too
 * large for a tree: a vocabulary of 128k tokens and 280k merges.
 *
 * It allocates nothing but what a string with escapes needs, is not recursive, and checks what it
 * reads (the text must be valid UTF-8 already).  token_json_skip checks only the nesting of what
 * it passes; the parts that matter are read again, strictly. */
#ifndef GRAMME_TOKEN_TOKEN_JSON_H
#define GRAMME_TOKEN_TOKEN_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

#define TOKEN_JSON_DEPTH_MAX 256

struct token_json {
    const char *text;
    size_t bytes;
    size_t at;
};
/* A piece of the text, or of the buffer given to token_json_string. */
struct token_json_view {
    const char *data; /* NULL: absent */
    size_t bytes;
};

/* The next character that is no white space, not taken; 0 at the end. */
char token_json_peek(struct token_json *json);
/* Takes the character if it is next. */
MUST_USE bool token_json_take(struct token_json *json, char c);
/* Takes a string.  *out lies in the text, or in *unescaped (cleared first) when there are escapes.
 * ERR_FORMAT, ERR_MEMORY. */
MUST_USE enum err token_json_string(struct token_json *json, struct buf *unescaped,
                                    struct token_json_view *out);
/* Takes a whole number that fits 32 bits. */
MUST_USE enum err token_json_number(struct token_json *json, uint32_t *out);
/* Passes one value of any kind; *out is its text. */
MUST_USE enum err token_json_skip(struct token_json *json, struct token_json_view *out);

/* Walks an object or an array: `while (token_json_next(json, '}', &is_first, &e))`.  Takes the
 * opening bracket is the caller's; takes the comma before each but the first element, and the
 * closing bracket at the end (then false).  *e tells what was malformed. */
MUST_USE bool token_json_next(struct token_json *json, char close, bool *is_first, enum err *e);

#endif
