/* chat_lexer - see chat_lexer.h. */
#include "chat/chat_lexer.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "chat/chat_number.h"
#include "chat/chat_unicode.h"

#define NEST_MAX 1024u /* open brackets in one tag */

struct lexer {
    struct arena *arena;
    const char *source; /* newlines normalized */
    uint32_t bytes;
    uint32_t at;
    uint32_t line;
    bool is_line_start; /* the last match ended with a newline */
    struct chat_token *tokens;
    uint32_t count;
    uint32_t room;
    struct err_text *text;
    char nest[NEST_MAX];
    uint32_t nest_count;
};

static enum err fail_at(struct lexer *lexer, enum err e, const char *reason) {
    return err_set(lexer->text, e, "template line %u: %s", lexer->line, reason);
}

static enum err add(struct lexer *lexer, struct chat_token token) {
    if (lexer->count == lexer->room) {
        uint32_t room = lexer->room ? lexer->room * 2 : 256;
        struct chat_token *tokens = alloc_resize(lexer->tokens, room * sizeof *tokens);
        if (!tokens) return err_set(lexer->text, ERR_MEMORY, "out of memory");
        lexer->tokens = tokens;
        lexer->room = room;
    }
    token.line = lexer->line;
    lexer->tokens[lexer->count++] = token;
    return ERR_OK;
}

static void count_lines(struct lexer *lexer, uint32_t from, uint32_t to) {
    for (uint32_t i = from; i < to; i++) lexer->line += lexer->source[i] == '\n';
}

static bool is_at(const struct lexer *lexer, uint32_t at, const char *text) {
    size_t length = strlen(text);
    return length <= lexer->bytes - at && memcmp(lexer->source + at, text, length) == 0;
}

static uint32_t skip_space(const struct lexer *lexer, uint32_t at) {
    const char *p = lexer->source + at, *end = lexer->source + lexer->bytes;
    while (p < end) {
        const char *next = p;
        if (!chat_unicode_is_space(chat_unicode_read(&next, end))) break;
        p = next;
    }
    return (uint32_t) (p - lexer->source);
}

/* The end of white space that ends at `to`, going back to `from`. */
static uint32_t strip_right(const struct lexer *lexer, uint32_t from, uint32_t to) {
    while (to > from) {
        uint32_t last = to - 1;
        while (last > from && ((unsigned char) lexer->source[last] & 0xc0) == 0x80) last--;
        const char *p = lexer->source + last;
        if (!chat_unicode_is_space(chat_unicode_read(&p, lexer->source + to))) break;
        to = last;
    }
    return to;
}

/* Matches `+X`, `-X` and white space, or `X` and one newline, for a tag end X of two bytes. */
static bool match_end(const struct lexer *lexer, uint32_t at, const char *tag, bool has_plus,
                      bool trims_newline, uint32_t *end) {
    if (has_plus && is_at(lexer, at, "+") && is_at(lexer, at + 1, tag)) {
        *end = at + 3;
        return true;
    }
    if (is_at(lexer, at, "-") && is_at(lexer, at + 1, tag)) {
        *end = skip_space(lexer, at + 3);
        return true;
    }
    if (!is_at(lexer, at, tag)) return false;
    *end = at + 2;
    if (trims_newline && is_at(lexer, *end, "\n")) ++*end;
    return true;
}

static void move_to(struct lexer *lexer, uint32_t to) {
    count_lines(lexer, lexer->at, to);
    lexer->is_line_start = to > lexer->at && lexer->source[to - 1] == '\n';
    lexer->at = to;
}

/* Adds source[at..tag) as data, cut as the tag's sign and lstrip_blocks say. */
static enum err add_data(struct lexer *lexer, uint32_t tag, char sign, bool is_variable) {
    uint32_t from = lexer->at, to = tag;
    if (sign == '-') {
        to = strip_right(lexer, from, tag);
    } else if (sign != '+' && !is_variable) {
        uint32_t start = tag;
        while (start > from && lexer->source[start - 1] != '\n') start--;
        if ((start > from || lexer->is_line_start) && start < tag &&
            strip_right(lexer, start, tag) == start)
            to = start;
    }
    if (to == from) return ERR_OK;
    struct chat_token token = {.kind = CHAT_TOKEN_DATA, .bytes = to - from};
    token.text = lexer->source + from;
    return add(lexer, token);
}

static char sign_at(const struct lexer *lexer, uint32_t at) {
    return is_at(lexer, at, "-") ? '-' : is_at(lexer, at, "+") ? '+' : '\0';
}

/* `{%` sign `raw` end: its length, 0 when it is another tag. */
static uint32_t match_raw(const struct lexer *lexer, uint32_t at) {
    uint32_t p = at + 2, end;
    if (sign_at(lexer, p)) p++;
    p = skip_space(lexer, p);
    if (!is_at(lexer, p, "raw")) return 0;
    p = skip_space(lexer, p + 3);
    return match_end(lexer, p, "%}", false, false, &end) ? end - at : 0;
}

static enum err read_raw(struct lexer *lexer) {
    for (uint32_t at = lexer->at; at < lexer->bytes; at++) {
        if (!is_at(lexer, at, "{%")) continue;
        char sign = sign_at(lexer, at + 2);
        uint32_t p = skip_space(lexer, at + 2 + (sign != '\0')), end;
        if (!is_at(lexer, p, "endraw")) continue;
        p = skip_space(lexer, p + 6);
        if (!match_end(lexer, p, "%}", true, true, &end)) continue;
        enum err e = add_data(lexer, at, sign, false);
        move_to(lexer, end);
        return e;
    }
    return fail_at(lexer, ERR_FORMAT, "missing end of raw directive");
}

static enum err read_comment(struct lexer *lexer) {
    for (uint32_t at = lexer->at; at < lexer->bytes; at++) {
        uint32_t end;
        if (!match_end(lexer, at, "#}", true, true, &end)) continue;
        move_to(lexer, end);
        return ERR_OK;
    }
    return fail_at(lexer, ERR_FORMAT, "missing end of comment tag");
}

static bool is_name_byte(unsigned char c) { return isalnum(c) || c == '_' || c >= 0x80; }

static uint32_t match_name(const struct lexer *lexer, uint32_t at) {
    const char *p = lexer->source + at, *end = lexer->source + lexer->bytes;
    while (p < end && is_name_byte((unsigned char) *p)) {
        const char *next = p;
        uint32_t code = chat_unicode_read(&next, end);
        if (code >= 0x80 && !chat_unicode_is_word(code)) break;
        p = next;
    }
    return (uint32_t) (p - lexer->source);
}

/* (\d+_)*\d+ */
static uint32_t match_digits(const struct lexer *lexer, uint32_t at) {
    uint32_t p = at;
    while (p < lexer->bytes && isdigit((unsigned char) lexer->source[p])) {
        p++;
        if (is_at(lexer, p, "_") && p + 1 < lexer->bytes &&
            isdigit((unsigned char) lexer->source[p + 1]))
            p++;
    }
    return p;
}

/* The end of a float literal, or `at`. */
static uint32_t match_real(const struct lexer *lexer, uint32_t at) {
    if (at > 0 && lexer->source[at - 1] == '.') return at;
    uint32_t p = match_digits(lexer, at);
    if (p == at) return at;
    uint32_t fraction = p;
    if (is_at(lexer, p, ".") && match_digits(lexer, p + 1) > p + 1)
        fraction = match_digits(lexer, p + 1);
    if (is_at(lexer, fraction, "e") || is_at(lexer, fraction, "E")) {
        uint32_t digits = fraction + 1;
        if (sign_at(lexer, digits)) digits++;
        uint32_t end = match_digits(lexer, digits);
        if (end > digits) return end;
    }
    return fraction > p ? fraction : at;
}

static bool is_digit_of(char c, int base) {
    if (base <= 10) return c >= '0' && c < '0' + base;
    return isxdigit((unsigned char) c);
}

static uint32_t match_integer(const struct lexer *lexer, uint32_t at) {
    const char *source = lexer->source;
    if (at >= lexer->bytes || !isdigit((unsigned char) source[at])) return at;
    int base = 10;
    uint32_t p = at;
    if (source[at] == '0' && at + 1 < lexer->bytes) {
        char c = (char) tolower((unsigned char) source[at + 1]);
        int prefixed = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 0;
        uint32_t first = at + 2 + is_at(lexer, at + 2, "_");
        if (prefixed && first < lexer->bytes && is_digit_of(source[first], prefixed)) {
            base = prefixed;
            p = first;
        }
    }
    if (base == 10 && source[at] == '0') base = 1; /* only zeros follow a leading zero */
    while (p < lexer->bytes && is_digit_of(source[p], base)) {
        p++;
        if (is_at(lexer, p, "_") && p + 1 < lexer->bytes && is_digit_of(source[p + 1], base)) p++;
    }
    return p;
}

static enum err read_number(struct lexer *lexer, bool *found) {
    uint32_t from = lexer->at, end = match_real(lexer, from);
    struct chat_token token = {.kind = CHAT_TOKEN_REAL};
    bool is_read = true, overflow = false;
    *found = true;
    if (end > from) {
        is_read = chat_number_parse_real(lexer->source + from, end - from, &token.real);
    } else {
        end = match_integer(lexer, from);
        *found = end > from;
        if (!*found) return ERR_OK;
        token.kind = CHAT_TOKEN_INTEGER;
        is_read =
            chat_number_parse_int(lexer->source + from, end - from, 0, &token.integer, &overflow);
    }
    if (!is_read) return fail_at(lexer, ERR_UNSUPPORTED, "the number is too long");
    enum err e = add(lexer, token);
    move_to(lexer, end);
    return e;
}

/* Reads `digits` hexadecimal digits. */
static bool read_hex(const char *at, const char *end, uint32_t digits, uint32_t *code) {
    *code = 0;
    if ((size_t) (end - at) < digits) return false;
    for (uint32_t i = 0; i < digits; i++) {
        if (!isxdigit((unsigned char) at[i])) return false;
        int c = tolower((unsigned char) at[i]);
        *code = *code << 4 | (uint32_t) (isdigit(c) ? c - '0' : c - 'a' + 10);
    }
    return true;
}

static const char simple_escapes[] = "\\\\''\"\"a\ab\bf\fn\nr\rt\tv\v";

/* One escape behind a backslash: writes its bytes, moves *at behind it. */
static enum err read_escape(struct lexer *lexer, const char **at, const char *end, char **out) {
    const char *p = *at;
    char c = *p;
    uint32_t code = 0;
    for (const char *pair = simple_escapes; *pair; pair += 2) {
        if (c != *pair) continue;
        *(*out)++ = pair[1];
        *at = p + 1;
        return ERR_OK;
    }
    if (c == '\n') { /* a line that goes on */
        *at = p + 1;
        return ERR_OK;
    }
    if (c >= '0' && c <= '7') {
        uint32_t digits = 0;
        for (; digits < 3 && p < end && *p >= '0' && *p <= '7'; digits++, p++)
            code = code * 8 + (uint32_t) (*p - '0');
        *at = p;
        *out += chat_unicode_write(code, *out);
        return ERR_OK;
    }
    if (c == 'x' || c == 'u' || c == 'U') {
        uint32_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        if (!read_hex(p + 1, end, digits, &code) || code > 0x10ffff)
            return fail_at(lexer, ERR_FORMAT, "a string has a broken \\x or \\u escape");
        if (code >= 0xd800 && code < 0xe000)
            return fail_at(lexer, ERR_UNSUPPORTED, "a string has half a surrogate pair");
        *at = p + 1 + digits;
        *out += chat_unicode_write(code, *out);
        return ERR_OK;
    }
    if (c == 'N') return fail_at(lexer, ERR_UNSUPPORTED, "\\N{} in a string");
    *(*out)++ = '\\'; /* no escape: the backslash stands */
    if ((unsigned char) c < 0x80) return ERR_OK;
    const char *next = p;
    code = chat_unicode_read(&next, end);
    char text[12];
    int length = snprintf(text, sizeof text,
                          code < 0x100     ? "x%02x"
                          : code < 0x10000 ? "u%04x"
                                           : "U%08x",
                          code);
    memcpy(*out, text, (size_t) length); /* as the reference does: see the golden test */
    *out += length;
    *at = next;
    return ERR_OK;
}

static enum err read_string(struct lexer *lexer, bool *found) {
    const char *start = lexer->source + lexer->at, *end = lexer->source + lexer->bytes;
    char quote = *start;
    *found = false;
    if (quote != '\'' && quote != '"') return ERR_OK;
    const char *close = start + 1;
    while (close < end && *close != quote) close += *close == '\\' ? 2 : 1;
    if (close >= end) return ERR_OK;
    *found = true;
    /* The longest growth is \ and a 2-byte character: 3 bytes become 5. */
    char *text = arena_take(lexer->arena, (size_t) (close - start) * 4 + 1), *out = text;
    if (!text) return err_set(lexer->text, ERR_MEMORY, "out of memory");
    for (const char *p = start + 1; p < close;) {
        if (*p != '\\') {
            *out++ = *p++;
            continue;
        }
        p++;
        enum err e = read_escape(lexer, &p, close, &out);
        if (e) return e;
    }
    struct chat_token token = {.kind = CHAT_TOKEN_STRING, .bytes = (uint32_t) (out - text)};
    token.text = text;
    enum err e = add(lexer, token);
    move_to(lexer, (uint32_t) (close + 1 - lexer->source));
    return e;
}

static enum err nest(struct lexer *lexer, char c) {
    static const char open[] = "{([", close[] = "})]";
    const char *at = strchr(open, c);
    if (at) {
        if (lexer->nest_count == NEST_MAX)
            return fail_at(lexer, ERR_LIMIT, "brackets are nested too deeply");
        lexer->nest[lexer->nest_count++] = close[at - open];
        return ERR_OK;
    }
    if (!strchr(close, c)) return ERR_OK;
    if (lexer->nest_count == 0 || lexer->nest[--lexer->nest_count] != c)
        return fail_at(lexer, ERR_FORMAT, "a closing bracket has no opening one");
    return ERR_OK;
}

static enum err read_operator(struct lexer *lexer) {
    static const char pairs[][3] = {"//", "**", "==", "!=", ">=", "<="};
    static const char singles[] = "+-/*%~[](){}><=.:|,;";
    char c = lexer->source[lexer->at];
    struct chat_token token = {.kind = CHAT_TOKEN_OPERATOR};
    uint32_t width = 0;
    for (size_t i = 0; i < ARRAY_COUNT(pairs); i++) {
        if (!is_at(lexer, lexer->at, pairs[i])) continue;
        token.op = CHAT_TOKEN_OP2(pairs[i][0], pairs[i][1]);
        width = 2;
    }
    if (!width && c && strchr(singles, c)) {
        token.op = CHAT_TOKEN_OP1(c);
        width = 1;
    }
    if (!width) return fail_at(lexer, ERR_FORMAT, "unexpected character in a tag");
    enum err e = width == 1 ? nest(lexer, c) : ERR_OK;
    if (!e) e = add(lexer, token);
    move_to(lexer, lexer->at + width);
    return e;
}

static enum err read_name(struct lexer *lexer, bool *found) {
    uint32_t end = match_name(lexer, lexer->at);
    *found = end > lexer->at;
    if (!*found) return ERR_OK;
    const char *text = lexer->source + lexer->at, *p = text;
    uint32_t code = chat_unicode_read(&p, lexer->source + end);
    if (code != '_' && !chat_unicode_is_alpha(code))
        return fail_at(lexer, ERR_FORMAT, "invalid character in a name");
    struct chat_token token = {.kind = CHAT_TOKEN_NAME, .bytes = end - lexer->at};
    token.text = text;
    enum err e = add(lexer, token);
    move_to(lexer, end);
    return e;
}

/* The inside of {% %} or {{ }}, its end included. */
static enum err read_tag(struct lexer *lexer, bool is_variable) {
    struct chat_token last = {.kind = is_variable ? CHAT_TOKEN_VARIABLE_END : CHAT_TOKEN_BLOCK_END};
    lexer->nest_count = 0;
    while (lexer->at < lexer->bytes) {
        uint32_t end;
        bool found = false;
        if (lexer->nest_count == 0 && match_end(lexer, lexer->at, is_variable ? "}}" : "%}",
                                                !is_variable, !is_variable, &end)) {
            enum err e = add(lexer, last);
            move_to(lexer, end);
            return e;
        }
        end = skip_space(lexer, lexer->at);
        if (end > lexer->at) {
            move_to(lexer, end);
            continue;
        }
        enum err e = read_number(lexer, &found);
        if (!e && !found) e = read_name(lexer, &found);
        if (!e && !found) e = read_string(lexer, &found);
        if (!e && !found) e = read_operator(lexer);
        if (e) return e;
    }
    return ERR_OK; /* the parser tells what is missing */
}

static enum err read_tags(struct lexer *lexer) {
    while (lexer->at < lexer->bytes) {
        uint32_t tag = lexer->at;
        while (tag < lexer->bytes && !(lexer->source[tag] == '{' && tag + 1 < lexer->bytes &&
                                       memchr("%{#", lexer->source[tag + 1], 3)))
            tag++;
        if (tag == lexer->bytes) {
            enum err e = add_data(lexer, tag, '+', true);
            move_to(lexer, tag);
            return e;
        }
        char type = lexer->source[tag + 1], sign = sign_at(lexer, tag + 2);
        uint32_t raw = type == '%' ? match_raw(lexer, tag) : 0;
        enum err e = add_data(lexer, tag, sign, type == '{');
        if (e) return e;
        move_to(lexer, raw ? tag + raw : tag + 2 + (sign != '\0'));
        struct chat_token first = {.kind = type == '{' ? CHAT_TOKEN_VARIABLE_BEGIN
                                                       : CHAT_TOKEN_BLOCK_BEGIN};
        if (raw) e = read_raw(lexer);
        else if (type == '#') e = read_comment(lexer);
        else e = add(lexer, first);
        if (!e && !raw && type != '#') e = read_tag(lexer, type == '{');
        if (e) return e;
    }
    return ERR_OK;
}

/* \r\n and \r become \n; one newline at the very end goes. */
static enum err normalize(struct lexer *lexer, const char *source, uint32_t bytes) {
    char *copy = arena_take(lexer->arena, (size_t) bytes + 1), *out = copy;
    if (!copy) return err_set(lexer->text, ERR_MEMORY, "out of memory");
    for (uint32_t i = 0; i < bytes; i++) {
        if (source[i] == '\r') {
            *out++ = '\n';
            if (i + 1 < bytes && source[i + 1] == '\n') i++;
        } else {
            *out++ = source[i];
        }
    }
    if (out > copy && out[-1] == '\n') out--;
    *out = '\0';
    lexer->source = copy;
    lexer->bytes = (uint32_t) (out - copy);
    return ERR_OK;
}

enum err chat_lexer_read(struct arena *arena, const char *source, uint32_t bytes,
                         struct err_text *text, struct chat_token **out) {
    struct lexer *lexer = alloc_zero(1, sizeof *lexer);
    if (!lexer) return err_set(text, ERR_MEMORY, "out of memory");
    lexer->arena = arena;
    lexer->text = text;
    lexer->line = 1;
    lexer->is_line_start = true;
    enum err e = normalize(lexer, source, bytes);
    if (!e) e = read_tags(lexer);
    if (!e) e = add(lexer, (struct chat_token){.kind = CHAT_TOKEN_END});
    struct chat_token *tokens = NULL;
    if (!e) {
        tokens = arena_take(arena, lexer->count * sizeof *tokens);
        if (tokens) memcpy(tokens, lexer->tokens, lexer->count * sizeof *tokens);
        else e = err_set(text, ERR_MEMORY, "out of memory");
    }
    alloc_free(lexer->tokens);
    alloc_free(lexer);
    if (!e) *out = tokens;
    return e;
}
