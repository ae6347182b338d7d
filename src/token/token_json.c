/* token_json - see the header. */
#include "token/token_json.h"

#include <string.h>

#include "token/token_unicode.h"

char token_json_peek(struct token_json *json) {
    while (json->at < json->bytes) {
        char c = json->text[json->at];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t') return c;
        json->at++;
    }
    return 0;
}

bool token_json_take(struct token_json *json, char c) {
    if (token_json_peek(json) != c || json->at >= json->bytes) return false;
    json->at++;
    return true;
}

static bool take_hex(struct token_json *json, uint32_t *out) {
    if (json->bytes - json->at < 4) return false;
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) {
        char c = json->text[json->at + (size_t) i];
        uint32_t digit;
        if (c >= '0' && c <= '9') {
            digit = (uint32_t) (c - '0');
        } else if (c >= 'a' && c <= 'f') {
            digit = (uint32_t) (c - 'a' + 10);
        } else if (c >= 'A' && c <= 'F') {
            digit = (uint32_t) (c - 'A' + 10);
        } else {
            return false;
        }
        value = value << 4 | digit;
    }
    json->at += 4;
    *out = value;
    return true;
}

/* Behind a backslash. */
static enum err take_escape(struct token_json *json, struct buf *out) {
    if (json->at >= json->bytes) return ERR_FORMAT;
    static const char names[] = "\"\\/bfnrt";
    static const char values[] = "\"\\/\b\f\n\r\t";
    char c = json->text[json->at++];
    const char *name = c ? strchr(names, c) : NULL;
    if (name) {
        buf_add_byte(out, (uint8_t) values[name - names]);
        return ERR_OK;
    }
    uint32_t cp;
    if (c != 'u' || !take_hex(json, &cp)) return ERR_FORMAT;
    if (cp >= 0xd800 && cp < 0xe000) { /* the first of a pair, or nothing */
        uint32_t low;
        bool has_low = cp < 0xdc00 && json->bytes - json->at >= 6 && json->text[json->at] == '\\' &&
                       json->text[json->at + 1] == 'u';
        if (!has_low) return ERR_FORMAT;
        json->at += 2;
        if (!take_hex(json, &low) || low < 0xdc00 || low >= 0xe000) return ERR_FORMAT;
        cp = 0x10000 + ((cp - 0xd800) << 10) + (low - 0xdc00);
    }
    uint8_t text[4];
    buf_add(out, text, token_unicode_encode(cp, text));
    return ERR_OK;
}

/* The first of ", \ and control characters at or behind the place. */
static size_t plain_end(const struct token_json *json, size_t at) {
    while (at < json->bytes) {
        uint8_t c = (uint8_t) json->text[at];
        if (c == '"' || c == '\\' || c < 0x20) break;
        at++;
    }
    return at;
}

enum err token_json_string(struct token_json *json, struct buf *unescaped,
                           struct token_json_view *out) {
    if (!token_json_take(json, '"')) return ERR_FORMAT;
    size_t first = json->at;
    size_t end = plain_end(json, first);
    if (end >= json->bytes) return ERR_FORMAT;
    if (json->text[end] == '"') {
        *out = (struct token_json_view){json->text + first, end - first};
        json->at = end + 1;
        return ERR_OK;
    }
    buf_clear(unescaped);
    for (;;) {
        buf_add(unescaped, json->text + json->at, end - json->at);
        json->at = end + 1;
        if (json->text[end] == '"') break;
        if (json->text[end] != '\\') return ERR_FORMAT;
        enum err e = take_escape(json, unescaped);
        if (e) return e;
        end = plain_end(json, json->at);
        if (end >= json->bytes) return ERR_FORMAT;
    }
    if (!buf_string(unescaped)) return ERR_MEMORY; /* data is not NULL for an empty string */
    *out = (struct token_json_view){(const char *) unescaped->data, unescaped->bytes};
    return ERR_OK;
}

enum err token_json_number(struct token_json *json, uint32_t *out) {
    (void) token_json_peek(json);
    uint64_t value = 0;
    size_t first = json->at;
    while (json->at < json->bytes) {
        char c = json->text[json->at];
        if (c < '0' || c > '9') break;
        value = value * 10 + (uint64_t) (c - '0');
        if (value > UINT32_MAX) return ERR_FORMAT;
        json->at++;
    }
    if (json->at == first) return ERR_FORMAT;
    if (json->at < json->bytes && strchr(".eE", json->text[json->at]) && json->text[json->at]) {
        return ERR_FORMAT;
    }
    *out = (uint32_t) value;
    return ERR_OK;
}

/* Behind the opening quote; gives the place behind the closing one, 0 when there is none. */
static size_t string_end(const struct token_json *json, size_t at) {
    while (at < json->bytes) {
        char c = json->text[at++];
        if (c == '"') return at;
        if (c == '\\') at++;
    }
    return 0;
}

enum err token_json_skip(struct token_json *json, struct token_json_view *out) {
    char closes[TOKEN_JSON_DEPTH_MAX];
    size_t depth = 0;
    char c = token_json_peek(json);
    size_t first = json->at, at = first;
    if (!c || strchr("]},:", c)) return ERR_FORMAT;
    if (!strchr("\"{[", c)) { /* a number or a word */
        while (at < json->bytes && !strchr(",:]} \n\r\t", json->text[at])) at++;
    } else {
        do {
            if (at >= json->bytes) return ERR_FORMAT;
            c = json->text[at++];
            if (c == '"') {
                at = string_end(json, at);
                if (!at) return ERR_FORMAT;
            } else if (c == '{' || c == '[') {
                if (depth == TOKEN_JSON_DEPTH_MAX) return ERR_FORMAT;
                closes[depth++] = c == '{' ? '}' : ']';
            } else if (c == '}' || c == ']') {
                if (depth == 0 || closes[--depth] != c) return ERR_FORMAT;
            }
        } while (depth);
    }
    json->at = at;
    *out = (struct token_json_view){json->text + first, at - first};
    return ERR_OK;
}

bool token_json_next(struct token_json *json, char close, bool *is_first, enum err *e) {
    bool was_first = *is_first;
    *is_first = false;
    if (token_json_take(json, close)) return false;
    if (!was_first && !token_json_take(json, ',')) {
        *e = ERR_FORMAT;
        return false;
    }
    return true;
}
