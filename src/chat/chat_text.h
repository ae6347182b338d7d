/* chat_text - strings of the template: Python's str with marks of what the user wrote.
 *
 * Positions that templates see count code points, positions here count bytes.  Every function
 * keeps the marks: each byte of a result that was copied or mapped from a user's byte is the
 * user's. */
#ifndef GRAMME_CHAT_CHAT_TEXT_H
#define GRAMME_CHAT_CHAT_TEXT_H

#include "chat/chat_run.h"
#include "chat/chat_unicode.h"

/* Of a string literal. */
#define CHAT_LITERAL(literal) chat_value_text(literal, (uint32_t) sizeof(literal) - 1)

uint32_t chat_text_length(const struct chat_value *text); /* code points */
/* The byte where code point `index` starts; the end for any index past it. */
uint32_t chat_text_offset(const struct chat_value *text, int64_t index);
/* The code points before this byte. */
int64_t chat_text_index(const struct chat_value *text, uint32_t offset);
MUST_USE enum err chat_text_slice(struct chat_run *run, const struct chat_value *text,
                                  uint32_t from, uint32_t to, struct chat_value *out);
MUST_USE enum err chat_text_concat(struct chat_run *run, const struct chat_value *a,
                                   const struct chat_value *b, struct chat_value *out);
/* Position of needle at or after from, before or at to - needle; UINT32_MAX when it is not
 * there. */
uint32_t chat_text_find(const struct chat_value *text, const struct chat_value *needle,
                        uint32_t from, uint32_t to);
uint32_t chat_text_find_last(const struct chat_value *text, const struct chat_value *needle,
                             uint32_t from, uint32_t to);
bool chat_text_is(const struct chat_value *value, const char *literal);

enum chat_strip { CHAT_STRIP_LEFT = 1, CHAT_STRIP_RIGHT = 2, CHAT_STRIP_BOTH = 3 };
/* chars: a text with the characters to strip, NULL: white space. */
MUST_USE enum err chat_text_strip(struct chat_run *run, const struct chat_value *text,
                                  enum chat_strip sides, const struct chat_value *chars,
                                  struct chat_value *out);

enum chat_recase {
    CHAT_RECASE_UPPER,
    CHAT_RECASE_LOWER,
    CHAT_RECASE_CAPITALIZE,
    CHAT_RECASE_TITLE,
    CHAT_RECASE_SWAP,
    CHAT_RECASE_WORDS, /* jinja's |title: words start after - ( { [ < and space */
};
MUST_USE enum err chat_text_recase(struct chat_run *run, const struct chat_value *text,
                                   enum chat_recase how, struct chat_value *out);
/* count < 0: all. */
MUST_USE enum err chat_text_replace(struct chat_run *run, const struct chat_value *text,
                                    const struct chat_value *old, const struct chat_value *new,
                                    int64_t count, struct chat_value *out);
/* A text with each & < > " ' as an entity, and is_markup. */
MUST_USE enum err chat_text_escape(struct chat_run *run, const struct chat_value *text,
                                   struct chat_value *out);

/* str(value) and repr(value), written to the output, or as a text. */
MUST_USE enum err chat_text_out(struct chat_run *run, const struct chat_value *value);
MUST_USE enum err chat_text_out_repr(struct chat_run *run, const struct chat_value *value);
MUST_USE enum err chat_text_out_copy(struct chat_run *run, const struct chat_value *value,
                                     struct chat_value *out);

#endif
