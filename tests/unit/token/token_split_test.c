/* token_split: the hand-written splitters cut random text exactly where their patterns do under
 * PCRE2, pieces always go forward, and the edges known to go wrong are cut right. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "token/token_regex.h"
#include "token/token_split.h"
#include "token/token_unicode.h"

static uint64_t seed = 20261124;

static uint32_t draw(uint32_t below) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t) ((seed >> 33) % below);
}

static const char *const parts[] = {
    " ",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "\xc2\xa0",
    "\xe3\x80\x80",
    "'s",
    "'S",
    "'\xc5\xbf",
    "'re",
    "'LL",
    "'x",
    "'",
    "1",
    "23",
    "456",
    "\xd9\xa3",
    "\xc2\xbd",
    "a",
    "B",
    "word",
    "Word",
    "HTTP",
    "/",
    "//",
    "!",
    "...",
    "\xcc\x81",
    "\xe4\xb8\xad",
    "\xc7\x85",
    "\xca\xb0",
    "_",
    "$",
    "\xe1\xa0\x8e",
    "\xf0\x9f\x91\x8d",
    "\xe2\x80\x8d",
    "\xc2\x85",
    "'ve",
};

static size_t make_text(uint8_t *text, size_t room) {
    size_t bytes = 0;
    for (uint32_t n = draw(12); n > 0; n--) {
        if (bytes + 16 > room) break;
        if (draw(5)) {
            const char *part = parts[draw((uint32_t) ARRAY_COUNT(parts))];
            memcpy(text + bytes, part, strlen(part));
            bytes += strlen(part);
        } else {
            uint32_t cp = draw(4) ? draw(0x3000) : draw(0x110000);
            if (cp >= 0xd800 && cp < 0xe000) cp = 'Z';
            bytes += token_unicode_encode(cp, text + bytes);
        }
    }
    return bytes;
}

static void same_as_the_pattern(enum token_split_kind kind) {
    struct token_regex *regex;
    struct err_text why = {{0}};
    const char *pattern = token_split_pattern(kind);
    assert_int_equal(token_split_known(pattern, strlen(pattern)), kind);
    assert_int_equal(token_regex_create(pattern, strlen(pattern), false, &why, &regex), ERR_OK);
    void *match = token_regex_match_create();
    assert_non_null(match);
    printf("kind %d seed %llu\n", (int) kind, (unsigned long long) seed);
    for (int round = 0; round < 20000; round++) {
        uint8_t text[256];
        size_t bytes = make_text(text, sizeof text);
        for (size_t at = 0; at < bytes;) {
            bool is_found;
            size_t first, end;
            assert_int_equal(
                token_regex_find(regex, match, text, at, bytes, &is_found, &first, &end), ERR_OK);
            assert_true(is_found);
            size_t ours = token_split_next(kind, text, at, bytes);
            if (first != at || end != ours) {
                fail_msg("kind %d, piece at %zu of '%.*s': %zu, the pattern has %zu", (int) kind,
                         at, (int) bytes, (const char *) text, ours, end);
            }
            at = end;
        }
    }
    token_regex_match_destroy(match);
    token_regex_destroy(regex);
}

static void as_their_patterns(void **state) {
    same_as_the_pattern(TOKEN_SPLIT_GPT2);
    same_as_the_pattern(TOKEN_SPLIT_LLAMA3);
    same_as_the_pattern(TOKEN_SPLIT_QWEN2);
    same_as_the_pattern(TOKEN_SPLIT_QWEN35);
    same_as_the_pattern(TOKEN_SPLIT_GPT4O);
    same_as_the_pattern(TOKEN_SPLIT_TEKKEN);
}

static void expect_pieces(enum token_split_kind kind, const char *text, const char *want) {
    char got[256];
    size_t used = 0, bytes = strlen(text);
    for (size_t at = 0; at < bytes;) {
        size_t end = token_split_next(kind, (const uint8_t *) text, at, bytes);
        assert_true(end > at && end <= bytes);
        if (used) got[used++] = '|';
        memcpy(got + used, text + at, end - at);
        used += end - at;
        at = end;
    }
    got[used] = 0;
    assert_string_equal(got, want);
}

static void edges(void **state) {
    expect_pieces(TOKEN_SPLIT_GPT2, "don't  you", "don|'t| | you");
    expect_pieces(TOKEN_SPLIT_GPT2, "a  ", "a|  ");
    expect_pieces(TOKEN_SPLIT_LLAMA3, "it'S 12345 \n\n x", "it|'S| |123|45| \n\n| x");
    expect_pieces(TOKEN_SPLIT_LLAMA3, "x'\xc5\xbf", "x|'\xc5\xbf");
    expect_pieces(TOKEN_SPLIT_QWEN2, "12", "1|2");
    expect_pieces(TOKEN_SPLIT_GPT4O, "HTTPServer's //\nx", "HTTPServer's| //\n|x");
    expect_pieces(TOKEN_SPLIT_TEKKEN, "HelloWorld 12", "Hello|World| |1|2");
    expect_pieces(TOKEN_SPLIT_DIGIT, "ab12 3", "ab|1|2| |3");
    expect_pieces(TOKEN_SPLIT_DIGIT_RUN, "ab12 3", "ab|12| |3");
    expect_pieces(TOKEN_SPLIT_NUMBER, "a\xc2\xbd", "a|\xc2\xbd");
    assert_int_equal(token_split_known("x+", 2), TOKEN_SPLIT_NONE);
}

/* PCRE2 knows an older Unicode and another \s: the rewritten classes are the table's. */
static void rewritten_classes_are_the_tables(void **state) {
    static const struct {
        const char *pattern;
        uint32_t set;
    } classes[] = {{"\\s", TOKEN_SPACES},
                   {"[^\\S]", TOKEN_SPACES},
                   {"\\p{L}", 0x3e},
                   {"[\\p{N}]", 7u << TOKEN_ND},
                   {"\\p{^M}", ~(7u << TOKEN_MN)},
                   {"[\\P{Lu}]", ~(1u << TOKEN_LU)},
                   {"\\d", 1u << TOKEN_ND}};
    for (size_t i = 0; i < ARRAY_COUNT(classes); i++) {
        struct token_regex *regex;
        struct err_text why = {{0}};
        const char *pattern = classes[i].pattern;
        assert_int_equal(token_regex_create(pattern, strlen(pattern), false, &why, &regex), ERR_OK);
        void *match = token_regex_match_create();
        for (uint32_t cp = 0; cp < 0x110000; cp++) {
            if (cp >= 0xd800 && cp < 0xe000) continue;
            if (cp > 0x3000 && cp % 16 && cp != 0x323af && cp != 0x1c89) continue;
            uint8_t text[4];
            size_t bytes = token_unicode_encode(cp, text);
            bool is_found;
            size_t first, end;
            assert_int_equal(
                token_regex_find(regex, match, text, 0, bytes, &is_found, &first, &end), ERR_OK);
            bool is_member = classes[i].set >> (token_unicode_class(cp) & 31) & 1;
            if (is_found != is_member) fail_msg("U+%04X and %s", (unsigned) cp, pattern);
        }
        token_regex_match_destroy(match);
        token_regex_destroy(regex);
    }
}

static void patterns_that_are_refused(void **state) {
    static const char *const patterns[] = {"[a[b]]", "[a&&b]", "a{1,2}+", "\\h",      "(?m)a",
                                           "(",      "a\\",    "\\w+",    "\\p{Nope}"};
    for (size_t i = 0; i < ARRAY_COUNT(patterns); i++) {
        struct token_regex *regex = NULL;
        struct err_text why = {{0}};
        assert_true(token_regex_create(patterns[i], strlen(patterns[i]), false, &why, &regex));
        assert_null(regex);
        assert_true(why.text[0]);
    }
}

static void utf8_is_told_from_what_is_not(void **state) {
    static const struct {
        const char *text;
        uint32_t length, bad;
        bool may_continue;
    } cases[] = {{"a", 1, 1, false},
                 {"\xc3\xa9", 2, 1, false},
                 {"\xc0\x80", 0, 1, false},
                 {"\xe0\x80\x80", 0, 1, false},
                 {"\xed\xa0\x80", 0, 1, false},
                 {"\xe2\x82", 0, 2, true},
                 {"\xe2\x82y", 0, 2, false},
                 {"\xf0\x9f\x91", 0, 3, true},
                 {"\xf4\x90\x80\x80", 0, 1, false},
                 {"\xf5", 0, 1, false},
                 {"\x80", 0, 1, false}};
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        uint32_t bad;
        bool may_continue;
        const char *text = cases[i].text;
        assert_int_equal(
            token_unicode_check((const uint8_t *) text, strlen(text), &bad, &may_continue),
            cases[i].length);
        if (cases[i].length) continue;
        assert_int_equal(bad, cases[i].bad);
        assert_int_equal(may_continue, cases[i].may_continue);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_their_patterns),
        cmocka_unit_test(edges),
        cmocka_unit_test(rewritten_classes_are_the_tables),
        cmocka_unit_test(patterns_that_are_refused),
        cmocka_unit_test(utf8_is_told_from_what_is_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
