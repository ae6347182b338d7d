/* chat_unicode - code points as Python's str sees them: classes, case, UTF-8. */
#ifndef GRAMME_CHAT_CHAT_UNICODE_H
#define GRAMME_CHAT_CHAT_UNICODE_H

#include <stdbool.h>
#include <stdint.h>

/* Bytes of the character that starts with this byte; a stray byte counts as one. */
static inline uint32_t chat_unicode_width(unsigned char first) {
    return first < 0xc0 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}
/* Reads one code point at *at < end and moves *at behind it. */
uint32_t chat_unicode_read(const char **at, const char *end);
/* Bytes written, at most 4. */
uint32_t chat_unicode_write(uint32_t code, char out[4]);
bool chat_unicode_is_space(uint32_t code);
bool chat_unicode_is_printable(uint32_t code);
bool chat_unicode_is_alpha(uint32_t code);
bool chat_unicode_is_decimal(uint32_t code);
bool chat_unicode_is_numeric(uint32_t code);
bool chat_unicode_is_upper(uint32_t code);
bool chat_unicode_is_lower(uint32_t code);
bool chat_unicode_is_title(uint32_t code);
bool chat_unicode_is_word(uint32_t code); /* \w */

enum chat_case { CHAT_CASE_UPPER, CHAT_CASE_LOWER, CHAT_CASE_TITLE };
/* The full mapping, up to three code points; returns how many.  The final sigma is the caller's. */
uint32_t chat_unicode_map(uint32_t code, enum chat_case to, uint32_t out[3]);

#endif
