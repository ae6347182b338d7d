/* token_unicode - what kind of character a code point is, as the reference library sees it.
 *
 * A class byte: bits 0-4 the general category (the controls that are white space are one of their
 * own), then three properties that the reference takes from elsewhere than its categories.  The
 * table is generated (tools/unicode_classes.py) and constant. */
#ifndef GRAMME_TOKEN_TOKEN_UNICODE_H
#define GRAMME_TOKEN_TOKEN_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum token_unicode_category {
    TOKEN_CN,
    TOKEN_LU,
    TOKEN_LL,
    TOKEN_LT,
    TOKEN_LM,
    TOKEN_LO,
    TOKEN_MN,
    TOKEN_MC,
    TOKEN_ME,
    TOKEN_ND,
    TOKEN_NL,
    TOKEN_NO,
    TOKEN_PC,
    TOKEN_PD,
    TOKEN_PS,
    TOKEN_PE,
    TOKEN_PI,
    TOKEN_PF,
    TOKEN_PO,
    TOKEN_SM,
    TOKEN_SC,
    TOKEN_SK,
    TOKEN_SO,
    TOKEN_ZS,
    TOKEN_ZL,
    TOKEN_ZP,
    TOKEN_CC,
    TOKEN_CF,
    TOKEN_CO,
    TOKEN_CS,
    TOKEN_CONTROL_SPACE, /* U+0009-000D, U+0085: Cc and \s */
    TOKEN_CATEGORY_COUNT,
};

/* \s as a set of categories */
#define TOKEN_SPACES (1u << TOKEN_ZS | 1u << TOKEN_ZL | 1u << TOKEN_ZP | 1u << TOKEN_CONTROL_SPACE)
#define TOKEN_COMBINES 32u /* NFC may change it, or move it, or join it to what stands before */
#define TOKEN_WORD 64u     /* \w */
#define TOKEN_NUMERIC 128u /* a digit to the Digits pre-tokenizer */

extern const uint16_t token_unicode_table_index[8704];
extern const uint8_t token_unicode_table_block[][128];

/* cp < 0x110000 */
static inline uint8_t token_unicode_class(uint32_t cp) {
    return token_unicode_table_block[token_unicode_table_index[cp >> 7]][cp & 127];
}

static inline bool token_unicode_is_space(uint8_t class) {
    return TOKEN_SPACES >> (class & 31) & 1;
}

/* The character at text (valid UTF-8, at least one byte) and its length. */
static inline uint32_t token_unicode_decode(const uint8_t *text, uint32_t *bytes) {
    uint32_t lead = text[0];
    if (lead < 0x80) {
        *bytes = 1;
        return lead;
    }
    if (lead < 0xe0) {
        *bytes = 2;
        return (lead & 31) << 6 | (text[1] & 63u);
    }
    if (lead < 0xf0) {
        *bytes = 3;
        return (lead & 15) << 12 | (text[1] & 63u) << 6 | (text[2] & 63u);
    }
    *bytes = 4;
    return (lead & 7) << 18 | (text[1] & 63u) << 12 | (text[2] & 63u) << 6 | (text[3] & 63u);
}

/* Writes cp (a scalar value) as UTF-8, at most 4 bytes; gives their number. */
static inline uint32_t token_unicode_encode(uint32_t cp, uint8_t *out) {
    if (cp < 0x80) {
        out[0] = (uint8_t) cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (uint8_t) (0xc0 | cp >> 6);
        out[1] = (uint8_t) (0x80 | (cp & 63));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (uint8_t) (0xe0 | cp >> 12);
        out[1] = (uint8_t) (0x80 | (cp >> 6 & 63));
        out[2] = (uint8_t) (0x80 | (cp & 63));
        return 3;
    }
    out[0] = (uint8_t) (0xf0 | cp >> 18);
    out[1] = (uint8_t) (0x80 | (cp >> 12 & 63));
    out[2] = (uint8_t) (0x80 | (cp >> 6 & 63));
    out[3] = (uint8_t) (0x80 | (cp & 63));
    return 4;
}

/* How many bytes the well-formed character at text has; 0 when there is none, and then *bad is
 * how many bytes belong to the broken one (Unicode 3.9, maximal subparts: at least 1) and
 * *may_continue whether only the end of the text stops it from becoming one. */
uint32_t token_unicode_check(const uint8_t *text, size_t bytes, uint32_t *bad, bool *may_continue);
/* Where the first ill-formed byte stands; `bytes` when there is none. */
size_t token_unicode_valid_bytes(const uint8_t *text, size_t bytes);

#endif
