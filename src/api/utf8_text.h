/* utf8_text - one character of UTF-8, strictly: no overlong form, no surrogate, no more than
 * U+10FFFF. */
#ifndef GRAMME_API_UTF8_TEXT_H
#define GRAMME_API_UTF8_TEXT_H

#include <stddef.h>
#include <stdint.h>

/* The bytes of the character that begins at text[0], of which `bytes` >= 1 are there; 0 when it is
 * none or not whole. */
static inline size_t utf8_text_length(const unsigned char *text, size_t bytes) {
    unsigned char c = text[0];
    if (c < 0x80) return 1;
    size_t length = c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;
    if (!length || length > bytes) return 0;
    for (size_t i = 1; i < length; i++)
        if ((text[i] & 0xc0) != 0x80) return 0;
    if ((c == 0xe0 && text[1] < 0xa0) || (c == 0xed && text[1] >= 0xa0)) return 0;
    if ((c == 0xf0 && text[1] < 0x90) || (c == 0xf4 && text[1] >= 0x90)) return 0;
    return length;
}

#endif
