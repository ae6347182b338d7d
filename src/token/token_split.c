/* token_split - see the header.
 *
 * Each alternative of a pattern is one small function: it gives the end of its match, or `at`
 * for no match.  The classes are bit sets over the general category. */
#include "token/token_split.h"

#include <string.h>

#include "base/check.h"
#include "token/token_unicode.h"

#define BIT(category) (1u << (category))
#define LETTERS (BIT(TOKEN_LU) | BIT(TOKEN_LL) | BIT(TOKEN_LT) | BIT(TOKEN_LM) | BIT(TOKEN_LO))
#define MARKS (BIT(TOKEN_MN) | BIT(TOKEN_MC) | BIT(TOKEN_ME))
#define NUMBERS (BIT(TOKEN_ND) | BIT(TOKEN_NL) | BIT(TOKEN_NO))
/* The two sets of GPT-4o: what a word's head and its tail are made of. */
#define HEADS (BIT(TOKEN_LU) | BIT(TOKEN_LT) | BIT(TOKEN_LM) | BIT(TOKEN_LO) | MARKS)
#define TAILS (BIT(TOKEN_LL) | BIT(TOKEN_LM) | BIT(TOKEN_LO) | MARKS)

#define CONTRACTIONS "'s|'t|'re|'ve|'m|'ll|'d"
#define SPACES "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define GPT4O_HEAD "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define GPT4O_TAIL "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define GPT4O_REST " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES

static const struct {
    enum token_split_kind kind;
    const char *pattern;
} known[] = {
    {TOKEN_SPLIT_GPT2, CONTRACTIONS "| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"},
    /* What the last alternative would match alone is matched by none: a gap, the same piece. */
    {TOKEN_SPLIT_GPT2, CONTRACTIONS "| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"},
    {TOKEN_SPLIT_LLAMA3, "(?i:" CONTRACTIONS ")|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
                         " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES},
    {TOKEN_SPLIT_QWEN2, "(?i:" CONTRACTIONS ")|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
                        " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES},
    {TOKEN_SPLIT_QWEN35, "(?i:" CONTRACTIONS ")|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}|"
                         " ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" SPACES},
    {TOKEN_SPLIT_GPT4O,
     GPT4O_HEAD "*" GPT4O_TAIL "+(?i:" CONTRACTIONS ")?|" GPT4O_HEAD "+" GPT4O_TAIL
                "*(?i:" CONTRACTIONS ")?|\\p{N}{1,3}|" GPT4O_REST},
    {TOKEN_SPLIT_TEKKEN,
     GPT4O_HEAD "*" GPT4O_TAIL "+|" GPT4O_HEAD "+" GPT4O_TAIL "*|\\p{N}|" GPT4O_REST},
};

enum token_split_kind token_split_known(const char *pattern, size_t bytes) {
    for (size_t i = 0; i < ARRAY_COUNT(known); i++) {
        if (strlen(known[i].pattern) == bytes && !memcmp(known[i].pattern, pattern, bytes)) {
            return known[i].kind;
        }
    }
    return TOKEN_SPLIT_NONE;
}

const char *token_split_pattern(enum token_split_kind kind) {
    for (size_t i = 0; i < ARRAY_COUNT(known); i++) {
        if (known[i].kind == kind) return known[i].pattern;
    }
    return NULL;
}

/* The character at a position that may be the end (then class 0, a category that no set has,
 * and 0 bytes). */
struct look {
    uint32_t cp;
    uint32_t bytes;
    uint8_t class;
};

static inline struct look look_at(const uint8_t *text, size_t at, size_t end) {
    struct look look = {0};
    if (at < end) {
        look.cp = token_unicode_decode(text + at, &look.bytes);
        look.class =
            look.cp < 0x80 ? token_unicode_table_block[0][look.cp] : token_unicode_class(look.cp);
    }
    return look;
}

static inline bool is_in(struct look look, uint32_t set) {
    return look.bytes && (1u << (look.class & 31) & set);
}

static inline bool is_space(struct look look) { return is_in(look, TOKEN_SPACES); }

/* [^\s\p{L}\p{N}], without `set` */
static inline bool is_other(struct look look, uint32_t set) {
    return look.bytes && !(1u << (look.class & 31) & (set | TOKEN_SPACES));
}

static size_t run_of(const uint8_t *text, size_t at, size_t end, uint32_t set) {
    while (at < end) {
        struct look look = look_at(text, at, end);
        if (!is_in(look, set)) break;
        at += look.bytes;
    }
    return at;
}

static bool is_ascii_letter(uint8_t c) { return (uint8_t) ((c | 0x20) - 'a') < 26; }

/* The high bit of each byte of `eight` that is no ASCII letter. */
static uint64_t other_than_letters(uint64_t eight) {
    const uint64_t ones = 0x0101010101010101u;
    uint64_t folded = (eight | 0x20 * ones) & 0x7f * ones;
    uint64_t from_a = folded + (0x80 - 'a') * ones;
    uint64_t past_z = folded + (0x7f - 'z') * ones;
    return (~from_a | past_z | eight) & 0x80 * ones;
}

/* run_of for a set that holds the ASCII letters: most text, eight bytes at a time. */
static size_t run_of_letters(const uint8_t *text, size_t at, size_t end, uint32_t set) {
    while (end - at >= 8) {
        uint64_t eight;
        memcpy(&eight, text + at, 8);
        uint64_t others = other_than_letters(eight);
        if (!others) {
            at += 8;
            continue;
        }
        at += (size_t) __builtin_ctzll(others) >> 3;
        if (text[at] < 0x80) return at; /* none of the sets has another ASCII character */
        break;
    }
    return run_of(text, at, end, set);
}

static size_t run_of_others(const uint8_t *text, size_t at, size_t end, uint32_t set) {
    while (at < end) {
        struct look look = look_at(text, at, end);
        if (!is_other(look, set)) break;
        at += look.bytes;
    }
    return at;
}

static inline bool is_newline(uint32_t cp) { return cp == '\r' || cp == '\n'; }

/* 's|'t|'re|'ve|'m|'ll|'d at an apostrophe.  Under (?i:) U+017F, long s, is an s. */
static size_t contraction(const uint8_t *text, size_t at, size_t end, bool ignore_case) {
    if (end - at < 2 || text[at] != '\'') return at;
    uint8_t fold = ignore_case ? 0x20 : 0;
    uint8_t first = text[at + 1];
    if (ignore_case && first == 0xc5 && end - at >= 3 && text[at + 2] == 0xbf) return at + 3;
    if (first >= 0x80) return at;
    first |= fold;
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return at + 2;
    if (end - at < 3 || text[at + 2] >= 0x80) return at;
    uint8_t second = text[at + 2] | fold;
    bool is_two = (first == 'r' && second == 'e') || (first == 'v' && second == 'e') ||
                  (first == 'l' && second == 'l');
    return is_two ? at + 3 : at;
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ (the first only with newlines), at white space. */
static size_t spaces(const uint8_t *text, size_t at, size_t end, bool newlines) {
    size_t newline_end = 0, last = at, stop = at;
    while (stop < end) {
        struct look look = look_at(text, stop, end);
        if (!is_space(look)) break;
        last = stop;
        stop += look.bytes;
        if (is_newline(look.cp)) newline_end = stop;
    }
    if (newlines && newline_end) return newline_end;
    if (stop == end || last == at) return stop;
    return last;
}

static size_t next_gpt2(const uint8_t *text, size_t at, size_t end) {
    size_t letter = at + (text[at] == ' ');
    if (letter < end && is_ascii_letter(text[letter])) {
        return run_of_letters(text, letter + 1, end, LETTERS);
    }
    struct look look = look_at(text, at, end);
    if (look.cp == '\'') {
        size_t stop = contraction(text, at, end, false);
        if (stop > at) return stop;
    }
    size_t first = at;
    if (look.cp == ' ') {
        struct look next = look_at(text, at + 1, end);
        if (next.bytes && !is_space(next)) {
            look = next;
            first = at + 1;
        }
    }
    if (is_in(look, LETTERS)) return run_of_letters(text, first + look.bytes, end, LETTERS);
    if (is_in(look, NUMBERS)) return run_of(text, first + look.bytes, end, NUMBERS);
    if (!is_space(look)) {
        return run_of_others(text, first + look.bytes, end, LETTERS | NUMBERS);
    }
    return spaces(text, at, end, false);
}

static size_t number_run(const uint8_t *text, size_t at, size_t end, uint32_t most) {
    for (uint32_t i = 0; i < most; i++) {
        struct look look = look_at(text, at, end);
        if (!is_in(look, NUMBERS)) break;
        at += look.bytes;
    }
    return at;
}

/* The patterns that came with GPT-4: Llama 3, Qwen 2 (numbers one by one), Qwen 3.5 (marks are
 * letters). */
static size_t next_gpt4(const uint8_t *text, size_t at, size_t end, uint32_t letters,
                        uint32_t number_most) {
    size_t letter = at + (text[at] == ' ');
    if (letter < end && is_ascii_letter(text[letter])) {
        return run_of_letters(text, letter + 1, end, letters);
    }
    struct look look = look_at(text, at, end);
    if (is_in(look, letters)) return run_of_letters(text, at + look.bytes, end, letters);
    if (look.cp == '\'') {
        size_t stop = contraction(text, at, end, true);
        if (stop > at) return stop;
    }
    if (is_in(look, NUMBERS)) return number_run(text, at, end, number_most);
    struct look next = look_at(text, at + look.bytes, end);
    if (!is_newline(look.cp) && is_in(next, letters)) {
        return run_of_letters(text, at + look.bytes + next.bytes, end, letters);
    }
    size_t first = at;
    if (look.cp == ' ' && is_other(next, letters | NUMBERS)) {
        first = at + 1;
        look = next;
    }
    if (is_other(look, letters | NUMBERS)) {
        size_t stop = run_of_others(text, first + look.bytes, end, letters | NUMBERS);
        while (stop < end && is_newline(text[stop])) stop++;
        return stop;
    }
    return spaces(text, at, end, true);
}

/* HEADS*TAILS+ from `at`, else (is_second) HEADS+TAILS*; `at` when there is no match.  Giving
 * back from a run of heads, TAILS+ begins at the last head that is a tail too. */
static size_t word_gpt4o(const uint8_t *text, size_t at, size_t end, bool is_second) {
    size_t stop = at, last_tail_end = at;
    struct look look = look_at(text, stop, end);
    while (is_in(look, HEADS)) {
        stop += look.bytes;
        if (is_in(look, TAILS)) last_tail_end = stop;
        look = look_at(text, stop, end);
    }
    if (is_second) return stop > at ? run_of(text, stop, end, TAILS) : at;
    if (is_in(look, TAILS)) return run_of(text, stop + look.bytes, end, TAILS);
    return last_tail_end;
}

static size_t next_gpt4o(const uint8_t *text, size_t at, size_t end, bool contractions,
                         uint32_t number_most) {
    struct look look = look_at(text, at, end);
    bool may_lead = !is_newline(look.cp) && !is_in(look, LETTERS | NUMBERS);
    size_t second = at + look.bytes;
    for (int alternative = 0; alternative < 2; alternative++) {
        size_t stop = at;
        if (may_lead) {
            stop = word_gpt4o(text, second, end, alternative);
            if (stop == second) stop = at;
        }
        if (stop == at && is_in(look, HEADS | TAILS)) stop = word_gpt4o(text, at, end, alternative);
        if (stop > at) return contractions ? contraction(text, stop, end, true) : stop;
    }
    if (is_in(look, NUMBERS)) return number_run(text, at, end, number_most);
    size_t first = at;
    if (look.cp == ' ') {
        struct look next = look_at(text, at + 1, end);
        if (is_other(next, LETTERS | NUMBERS)) {
            first = at + 1;
            look = next;
        }
    }
    if (is_other(look, LETTERS | NUMBERS)) {
        size_t stop = run_of_others(text, first + look.bytes, end, LETTERS | NUMBERS);
        while (stop < end && (is_newline(text[stop]) || text[stop] == '/')) stop++;
        return stop;
    }
    return spaces(text, at, end, true);
}

static inline bool is_digit(struct look look, enum token_split_kind kind) {
    return kind == TOKEN_SPLIT_NUMBER ? is_in(look, NUMBERS) : (look.class & TOKEN_NUMERIC) != 0;
}

/* The high bit of each byte of `eight` that is an ASCII digit or no ASCII at all. */
static uint64_t ascii_digits_or_high(uint64_t eight) {
    const uint64_t ones = 0x0101010101010101u;
    uint64_t low = eight & 0x7f * ones;
    uint64_t from_0 = low + (0x80 - '0') * ones;
    uint64_t past_9 = low + (0x7f - '9') * ones;
    return ((from_0 & ~past_9) | eight) & 0x80 * ones;
}

static size_t next_digit(enum token_split_kind kind, const uint8_t *text, size_t at, size_t end) {
    struct look look = look_at(text, at, end);
    bool is_run_of_digits = is_digit(look, kind);
    at += look.bytes;
    if (is_run_of_digits && kind != TOKEN_SPLIT_DIGIT_RUN) return at;
    while (at < end) {
        if (!is_run_of_digits && end - at >= 8) { /* most text */
            uint64_t eight;
            memcpy(&eight, text + at, 8);
            uint64_t stops = ascii_digits_or_high(eight);
            at += stops ? (size_t) __builtin_ctzll(stops) >> 3 : 8;
            if (!stops) continue;
        }
        look = look_at(text, at, end);
        if (is_digit(look, kind) != is_run_of_digits) break;
        at += look.bytes;
    }
    return at;
}

size_t token_split_next(enum token_split_kind kind, const uint8_t *text, size_t at, size_t end) {
    switch (kind) {
    case TOKEN_SPLIT_NONE: return end;
    case TOKEN_SPLIT_GPT2: return next_gpt2(text, at, end);
    case TOKEN_SPLIT_LLAMA3: return next_gpt4(text, at, end, LETTERS, 3);
    case TOKEN_SPLIT_QWEN2: return next_gpt4(text, at, end, LETTERS, 1);
    case TOKEN_SPLIT_QWEN35: return next_gpt4(text, at, end, LETTERS | MARKS, 1);
    case TOKEN_SPLIT_GPT4O: return next_gpt4o(text, at, end, true, 3);
    case TOKEN_SPLIT_TEKKEN: return next_gpt4o(text, at, end, false, 1);
    case TOKEN_SPLIT_DIGIT:
    case TOKEN_SPLIT_NUMBER:
    case TOKEN_SPLIT_DIGIT_RUN: return next_digit(kind, text, at, end);
    }
    CHECK(false); /* a kind that is none */
    return end;
}
