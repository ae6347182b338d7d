/* token_regex - see the header.
 *
 * The reference's patterns are Oniguruma's (Ruby syntax).  What differs in PCRE2 and was seen in
 * tokenizers is rewritten: \s and \S are spelled out (PCRE2 counts U+180E), \h is a hexadecimal
 * digit, ^ and $ are of lines, and a \p{..} whose members differ between the two Unicode versions
 * gets what it lacks.  What cannot be rewritten (nested classes, {n,m}+) is refused. */
#include "token/token_regex.h"

#include <stdio.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <xxhash.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "token/token_unicode.h"

#define PATTERN_BYTES_MAX 65536             /* chosen: the longest seen has 2,000 */
#define JIT_STACK_BYTES (UINT32_C(1) << 20) /* chosen; 32 KiB served all known patterns */

struct token_regex {
    pcre2_code *code; /* NULL: a literal */
    char *literal;
    size_t literal_bytes;
    uint64_t digest;
};

struct match {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

/* --- classes -------------------------------------------------------------------------------- */

static const char category_names[TOKEN_CATEGORY_COUNT][3] = {
    [TOKEN_CN] = "Cn",
    [TOKEN_LU] = "Lu",
    [TOKEN_LL] = "Ll",
    [TOKEN_LT] = "Lt",
    [TOKEN_LM] = "Lm",
    [TOKEN_LO] = "Lo",
    [TOKEN_MN] = "Mn",
    [TOKEN_MC] = "Mc",
    [TOKEN_ME] = "Me",
    [TOKEN_ND] = "Nd",
    [TOKEN_NL] = "Nl",
    [TOKEN_NO] = "No",
    [TOKEN_PC] = "Pc",
    [TOKEN_PD] = "Pd",
    [TOKEN_PS] = "Ps",
    [TOKEN_PE] = "Pe",
    [TOKEN_PI] = "Pi",
    [TOKEN_PF] = "Pf",
    [TOKEN_PO] = "Po",
    [TOKEN_SM] = "Sm",
    [TOKEN_SC] = "Sc",
    [TOKEN_SK] = "Sk",
    [TOKEN_SO] = "So",
    [TOKEN_ZS] = "Zs",
    [TOKEN_ZL] = "Zl",
    [TOKEN_ZP] = "Zp",
    [TOKEN_CC] = "Cc",
    [TOKEN_CF] = "Cf",
    [TOKEN_CO] = "Co",
    [TOKEN_CS] = "Cs",
    [TOKEN_CONTROL_SPACE] = "Cc",
};

/* The categories that a property names ("L", "Lu"); 0 when it is none of them. */
static uint32_t property_set(const char *name, size_t bytes) {
    uint32_t set = 0;
    for (uint32_t i = 0; i < TOKEN_CATEGORY_COUNT; i++) {
        const char *category = category_names[i];
        bool is_named =
            bytes == 1 ? category[0] == name[0] : bytes == 2 && !memcmp(category, name, 2);
        if (is_named) set |= 1u << i;
    }
    return set;
}

static bool is_in_set(uint32_t cp, uint32_t set) {
    return set >> (token_unicode_class(cp) & 31) & 1;
}

static void add_range(struct buf *out, uint32_t first, uint32_t last) {
    buf_add_format(out, "\\x{%x}", first);
    if (last > first) buf_add_format(out, "-\\x{%x}", last);
}

/* The inside of a class: the characters of `set`, or all others.  Surrogates stand in no text. */
static void add_ranges(struct buf *out, uint32_t set, bool is_negated) {
    uint32_t first = UINT32_MAX;
    for (uint32_t cp = 0; cp <= 0x110000; cp++) {
        bool is_surrogate = cp >= 0xd800 && cp < 0xe000;
        bool is_member = cp < 0x110000 && !is_surrogate && is_in_set(cp, set) != is_negated;
        if (is_member && first == UINT32_MAX) first = cp;
        if (!is_member && first != UINT32_MAX) {
            add_range(out, first, cp - 1);
            first = UINT32_MAX;
        }
    }
}

/* A bit for each code point that PCRE2 itself counts as \p{name}. */
static uint8_t *pcre2_members(const char *name, size_t bytes) {
    char pattern[16];
    snprintf(pattern, sizeof pattern, "\\p{%.*s}+", (int) bytes, name);
    int error;
    PCRE2_SIZE offset;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR) pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &error,
                                     &offset, NULL);
    pcre2_match_data *data = code ? pcre2_match_data_create(1, NULL) : NULL;
    uint8_t *members = alloc_zero(0x110000 / 8, 1);
    uint8_t *text = alloc_array(0x1000, 4);
    if (!code || !data || !members || !text) {
        alloc_free(members);
        members = NULL;
        goto out;
    }
    (void) pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
    for (uint32_t block = 0; block < 0x110000; block += 0x1000) {
        uint32_t last = block == 0xd000 ? 0xd800 : block + 0x1000; /* surrogates are in no text */
        size_t used = 0, at = 0;
        for (uint32_t cp = block; cp < last; cp++) used += token_unicode_encode(cp, text + used);
        uint32_t cp = block;
        while (at < used && pcre2_match(code, text, used, at, PCRE2_NO_UTF_CHECK, data, NULL) > 0) {
            const PCRE2_SIZE *vector = pcre2_get_ovector_pointer(data);
            for (uint32_t length; at < vector[1]; at += length, cp++) {
                (void) token_unicode_decode(text + at, &length);
                if (at >= vector[0]) members[cp / 8] |= (uint8_t) (1u << cp % 8);
            }
        }
    }
out:
    alloc_free(text);
    pcre2_match_data_free(data);
    pcre2_code_free(code);
    return members;
}

/* The inside of a class that has exactly the members of `set`: PCRE2's own property, which is
 * fast, and the characters it lacks; all of them spelled out where PCRE2 has too many. */
static enum err add_property(struct buf *out, const char *name, size_t bytes, uint32_t set) {
    uint8_t *members = pcre2_members(name, bytes);
    if (!members) return ERR_MEMORY;
    bool has_more = false;
    for (uint32_t cp = 0; cp < 0x110000 && !has_more; cp++) {
        bool is_member = members[cp / 8] >> cp % 8 & 1;
        has_more = is_member && !is_in_set(cp, set);
    }
    if (has_more) {
        add_ranges(out, set, false);
    } else {
        buf_add_format(out, "\\p{%.*s}", (int) bytes, name);
        uint32_t first = UINT32_MAX;
        for (uint32_t cp = 0; cp <= 0x110000; cp++) {
            bool is_surrogate = cp >= 0xd800 && cp < 0xe000;
            bool is_lacking = cp < 0x110000 && !is_surrogate && is_in_set(cp, set) &&
                              !(members[cp / 8] >> cp % 8 & 1);
            if (is_lacking && first == UINT32_MAX) first = cp;
            if (!is_lacking && first != UINT32_MAX) {
                add_range(out, first, cp - 1);
                first = UINT32_MAX;
            }
        }
    }
    alloc_free(members);
    return ERR_OK;
}

/* --- rewriting ------------------------------------------------------------------------------ */

struct rewrite {
    const char *pattern;
    size_t bytes;
    size_t at;
    bool is_class; /* inside [...] */
    struct buf out;
};

/* One of our classes where the pattern stands: inside a class its members, outside a class. */
static enum err add_class(struct rewrite *rewrite, const char *name, size_t bytes, uint32_t set,
                          bool is_negated) {
    struct buf *out = &rewrite->out;
    if (rewrite->is_class && is_negated) {
        add_ranges(out, set, true);
        return ERR_OK;
    }
    if (!rewrite->is_class) buf_add_string(out, is_negated ? "[^" : "[");
    enum err e = ERR_OK;
    if (name) {
        e = add_property(out, name, bytes, set);
    } else {
        add_ranges(out, set, false);
    }
    if (!rewrite->is_class) buf_add_byte(out, ']');
    return e;
}

/* At a backslash. */
static enum err rewrite_escape(struct rewrite *rewrite, struct err_text *text) {
    const char *pattern = rewrite->pattern;
    size_t at = rewrite->at;
    if (at + 1 >= rewrite->bytes) {
        return err_set(text, ERR_FORMAT, "a pattern ends with a backslash");
    }
    char kind = pattern[at + 1];
    rewrite->at = at + 2;
    if (kind == 's' || kind == 'S') {
        return add_class(rewrite, NULL, 0, TOKEN_SPACES, kind == 'S');
    }
    if (kind == 'd' || kind == 'D') return add_class(rewrite, "Nd", 2, 1u << TOKEN_ND, kind == 'D');
    if (kind == 'h' || kind == 'H' || kind == 'w' || kind == 'W' || kind == 'b' || kind == 'B' ||
        kind == 'R' || kind == 'X' || kind == 'G' || kind == 'K' || kind == 'g' || kind == 'k') {
        return err_set(text, ERR_UNSUPPORTED, "\\%c in a pattern is not supported", kind);
    }
    if ((kind == 'p' || kind == 'P') && rewrite->at < rewrite->bytes && pattern[at + 2] == '{') {
        const char *name = pattern + at + 3;
        const char *close = memchr(name, '}', rewrite->bytes - at - 3);
        bool is_negated = kind == 'P';
        if (close && close > name && *name == '^') {
            is_negated = !is_negated;
            name++;
        }
        if (close) {
            uint32_t set = property_set(name, (size_t) (close - name));
            if (set) {
                rewrite->at = (size_t) (close + 1 - pattern);
                return add_class(rewrite, name, (size_t) (close - name), set, is_negated);
            }
        }
    }
    buf_add(&rewrite->out, pattern + at, 2);
    return ERR_OK;
}

static enum err rewrite_pattern(struct rewrite *rewrite, struct err_text *text) {
    size_t class_start = 0;
    while (rewrite->at < rewrite->bytes) {
        char c = rewrite->pattern[rewrite->at];
        const char *next = rewrite->pattern + rewrite->at + 1;
        size_t left = rewrite->bytes - rewrite->at - 1;
        if (c == '\\') {
            enum err e = rewrite_escape(rewrite, text);
            if (e) return e;
            continue;
        }
        if (rewrite->is_class) {
            if (c == '[' || (c == '&' && left && *next == '&')) {
                return err_set(text, ERR_UNSUPPORTED, "a class inside a class is not supported");
            }
            if (c == ']' && rewrite->at > class_start) rewrite->is_class = false;
        } else if (c == '[') {
            rewrite->is_class = true;
            class_start = rewrite->at + 1 + (left && *next == '^');
        } else if (c == '}' && left && *next == '+') {
            return err_set(text, ERR_UNSUPPORTED, "{n,m}+ in a pattern is not supported");
        } else if (c == '(' && left > 1 && next[0] == '?' &&
                   (next[1] == 'm' || next[1] == 'x' || next[1] == 's')) {
            return err_set(text, ERR_UNSUPPORTED, "(?%c) in a pattern is not supported", next[1]);
        }
        buf_add_byte(&rewrite->out, (uint8_t) c);
        rewrite->at++;
    }
    return ERR_OK;
}

/* --- a pattern ------------------------------------------------------------------------------ */

static enum err compile(struct token_regex *regex, const char *pattern, size_t bytes,
                        struct err_text *text) {
    struct rewrite rewrite = {.pattern = pattern, .bytes = bytes};
    buf_init(&rewrite.out, 0);
    enum err e = rewrite_pattern(&rewrite, text);
    if (!e && rewrite.out.failed) e = rewrite.out.failed;
    if (!e) {
        int error = 0;
        PCRE2_SIZE offset = 0;
        regex->code =
            pcre2_compile(rewrite.out.data ? rewrite.out.data : (PCRE2_SPTR) "", rewrite.out.bytes,
                          PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &offset, NULL);
        if (!regex->code) {
            PCRE2_UCHAR why[128] = {0};
            pcre2_get_error_message(error, why, sizeof why);
            e = err_set(text, ERR_UNSUPPORTED, "the pattern '%.*s' is not supported: %s",
                        (int) (bytes < 200 ? bytes : 200), pattern, (const char *) why);
        } else {
            (void) pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE);
        }
    }
    buf_release(&rewrite.out);
    return e;
}

enum err token_regex_create(const char *pattern, size_t bytes, bool is_literal,
                            struct err_text *text, struct token_regex **out) {
    if (bytes > PATTERN_BYTES_MAX) {
        return err_set(text, ERR_LIMIT, "a pattern of %zu bytes is too long", bytes);
    }
    struct token_regex *regex = alloc_zero(1, sizeof *regex);
    if (!regex) return err_set(text, ERR_MEMORY, "no memory for a pattern");
    regex->digest = XXH3_64bits_withSeed(pattern, bytes, is_literal);
    enum err e;
    if (is_literal) {
        regex->literal = alloc_string(pattern, bytes);
        regex->literal_bytes = bytes;
        e = regex->literal ? ERR_OK : ERR_MEMORY;
    } else {
        e = compile(regex, pattern, bytes, text);
    }
    if (e) {
        if (e == ERR_MEMORY) err_set(text, e, "no memory for a pattern");
        token_regex_destroy(regex);
        return e;
    }
    *out = regex;
    return ERR_OK;
}

void token_regex_destroy(struct token_regex *regex) {
    if (!regex) return;
    pcre2_code_free(regex->code);
    alloc_free(regex->literal);
    alloc_free(regex);
}

uint64_t token_regex_digest(const struct token_regex *regex) { return regex ? regex->digest : 0; }

void token_regex_match_destroy(void *opaque) {
    struct match *match = opaque;
    if (!match) return;
    pcre2_match_data_free(match->data);
    pcre2_match_context_free(match->context);
    pcre2_jit_stack_free(match->stack);
    alloc_free(match);
}

void *token_regex_match_create(void) {
    struct match *match = alloc_zero(1, sizeof *match);
    if (!match) return NULL;
    match->data = pcre2_match_data_create(1, NULL);
    match->context = pcre2_match_context_create(NULL);
    match->stack = pcre2_jit_stack_create(32768, JIT_STACK_BYTES, NULL);
    if (!match->data || !match->context || !match->stack) {
        token_regex_match_destroy(match);
        return NULL;
    }
    pcre2_jit_stack_assign(match->context, NULL, match->stack);
    return match;
}

enum err token_regex_find(const struct token_regex *regex, void *opaque, const uint8_t *text,
                          size_t from, size_t end, bool *is_found, size_t *match_first,
                          size_t *match_end) {
    *is_found = false;
    if (!regex->code) {
        const uint8_t *found =
            memmem(text + from, end - from, regex->literal, regex->literal_bytes);
        if (!found) return ERR_OK;
        *is_found = true;
        *match_first = (size_t) (found - text);
        *match_end = *match_first + regex->literal_bytes;
        return ERR_OK;
    }
    struct match *match = opaque;
    /* The text was checked once; PCRE2 would check all of it again at each match. */
    int count =
        pcre2_match(regex->code, text, end, from, PCRE2_NO_UTF_CHECK, match->data, match->context);
    if (count == PCRE2_ERROR_NOMATCH) return ERR_OK;
    if (count == PCRE2_ERROR_NOMEMORY) return ERR_MEMORY;
    if (count < 0) return ERR_UNSUPPORTED;
    const PCRE2_SIZE *vector = pcre2_get_ovector_pointer(match->data);
    if (vector[1] < vector[0] || vector[0] < from) return ERR_UNSUPPORTED;
    *is_found = true;
    *match_first = vector[0];
    *match_end = vector[1];
    return ERR_OK;
}
