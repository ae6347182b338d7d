/* token_unicode - UTF-8 as Unicode 3.9 (table 3-7) defines it. */
#include "token/token_unicode.h"

#include <string.h>

uint32_t token_unicode_check(const uint8_t *text, size_t bytes, uint32_t *bad, bool *may_continue) {
    *bad = 1;
    *may_continue = false;
    uint8_t lead = text[0];
    if (lead < 0x80) return 1;
    if (lead < 0xc2 || lead > 0xf4) return 0;
    uint32_t need = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    uint8_t low = 0x80, high = 0xbf; /* of the second byte */
    if (lead == 0xe0) low = 0xa0;
    if (lead == 0xed) high = 0x9f;
    if (lead == 0xf0) low = 0x90;
    if (lead == 0xf4) high = 0x8f;
    for (uint32_t i = 1; i < need; i++) {
        if (i >= bytes) {
            *bad = i;
            *may_continue = true;
            return 0;
        }
        if (text[i] < low || text[i] > high) {
            *bad = i;
            return 0;
        }
        low = 0x80;
        high = 0xbf;
    }
    return need;
}

size_t token_unicode_valid_bytes(const uint8_t *text, size_t bytes) {
    size_t at = 0;
    while (at < bytes) {
        if (bytes - at >= 8) {
            uint64_t eight;
            memcpy(&eight, text + at, 8);
            if (!(eight & 0x8080808080808080u)) {
                at += 8;
                continue;
            }
        }
        uint32_t bad;
        bool may_continue;
        uint32_t length = token_unicode_check(text + at, bytes - at, &bad, &may_continue);
        if (!length) return at;
        at += length;
    }
    return bytes;
}
