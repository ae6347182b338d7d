/* tokenizer: a small byte-level vocabulary gives the ids worked out by hand, special tokens are
 * control only outside of what a user wrote, ids come back as the text, and every allocation may
 * fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "token/tokenizer.h"

#define STRING(text)                                                                               \
    { text, sizeof(text) - 1 }
#define SPACE "\xc4\xa0" /* U+0120, the spelling of a space */

static const struct tokenizer_string tokens[] = {
    STRING("<|end|>"),  STRING("a"),  STRING("b"),       STRING("c"),        STRING(SPACE),
    STRING("ab"),       STRING("bc"), STRING(SPACE "a"), STRING(SPACE "ab"), STRING("\xc3\x83"),
    STRING("\xc2\xa9"), STRING("1"),  STRING("<"),       STRING("|"),        STRING("e"),
    STRING("n"),        STRING("d"),  STRING(">"),
};
enum { END, A, B, C, SP, AB, BC, SP_A, SP_AB, E_FIRST, E_SECOND, ONE, LT, BAR, E, N, D, GT };
static const int32_t types[ARRAY_COUNT(tokens)] = {3, 1, 1, 1, 1, 1, 1, 1, 1,
                                                   1, 1, 1, 1, 1, 1, 1, 1, 1};
static const struct tokenizer_string merges[] = {
    STRING("b c"), STRING(SPACE " a"), STRING(SPACE "a b"), STRING("a b"), STRING("x y"),
};

static struct tokenizer_vocab small_vocab(void) {
    return (struct tokenizer_vocab){.model = STRING("gpt2"),
                                    .pre = STRING("smollm"),
                                    .tokens = tokens,
                                    .token_count = ARRAY_COUNT(tokens),
                                    .token_types = types,
                                    .merges = merges,
                                    .merge_count = ARRAY_COUNT(merges),
                                    .bos_id = END,
                                    .eos_id = END,
                                    .unk_id = TOKENIZER_NONE,
                                    .pad_id = TOKENIZER_NONE,
                                    .add_bos = true};
}

static int make(void **state) {
    struct tokenizer_vocab vocab = small_vocab();
    struct err_text text;
    struct tokenizer *tokenizer;
    if (tokenizer_open_vocab(&vocab, &text, &tokenizer)) return 1;
    *state = tokenizer;
    return 0;
}

static int unmake(void **state) {
    tokenizer_close(*state);
    return 0;
}

static void expect(const struct tokenizer *tokenizer, const char *text,
                   const struct tokenizer_range *user, size_t user_count, unsigned flags,
                   const uint32_t *want, uint32_t count) {
    struct token_scratch *scratch;
    assert_int_equal(token_scratch_create(tokenizer, 4096, &scratch), ERR_OK);
    struct tokenizer_ids ids = {0};
    for (int warm = 0; warm < 2; warm++) {
        ids.count = 0;
        assert_int_equal(tokenizer_encode(tokenizer, scratch, text, strlen(text), user, user_count,
                                          flags, 0, NULL, &ids),
                         ERR_OK);
        assert_int_equal(ids.count, count);
        assert_memory_equal(ids.ids, want, count * sizeof *want);
    }
    tokenizer_ids_release(&ids);
    token_scratch_destroy(scratch);
}

#define EXPECT(tokenizer, text, flags, ...)                                                        \
    do {                                                                                           \
        const uint32_t want[] = {__VA_ARGS__};                                                     \
        expect(tokenizer, text, NULL, 0, flags, want, ARRAY_COUNT(want));                          \
    } while (0)

static void merges_go_by_rank(void **state) {
    EXPECT(*state, "abc", 0, A, BC); /* b c comes before a b */
    EXPECT(*state, "ab ab", 0, AB, SP_AB);
    EXPECT(*state, "a1ab", 0, A, ONE, AB);
    EXPECT(*state, "\xc3\xa9", 0, E_FIRST, E_SECOND);
    EXPECT(*state, "axb", 0, AB); /* a byte that has no token vanishes */
}

static void special_tokens_are_control_only(void **state) {
    struct tokenizer *tokenizer = *state;
    const uint32_t control[] = {AB, END, A};
    const uint32_t text[] = {AB, LT, BAR, E, N, D, BAR, GT, A};
    expect(tokenizer, "ab<|end|>a", NULL, 0, TOKENIZER_PARSE_SPECIAL, control, 3);
    expect(tokenizer, "ab<|end|>a", NULL, 0, 0, text, 9);
    struct tokenizer_range user[] = {{0, 1}, {8, 9}};
    expect(tokenizer, "ab<|end|>a", user, 1, TOKENIZER_PARSE_SPECIAL, control, 3);
    expect(tokenizer, "ab<|end|>a", user, 2, TOKENIZER_PARSE_SPECIAL, text, 9);
    const uint32_t bos[] = {END, A};
    expect(tokenizer, "a", NULL, 0, TOKENIZER_ADD_SPECIAL, bos, 2);
}

static void limits_and_bad_text(void **state) {
    struct tokenizer *tokenizer = *state;
    struct token_scratch *scratch;
    assert_int_equal(token_scratch_create(tokenizer, 0, &scratch), ERR_OK);
    struct tokenizer_ids ids = {0};
    struct err_text text;
    assert_int_equal(tokenizer_encode(tokenizer, scratch, "a1a1", 4, NULL, 0, 0, 4, &text, &ids),
                     ERR_OK);
    assert_int_equal(tokenizer_encode(tokenizer, scratch, "a1a1a", 5, NULL, 0, 0, 4, &text, &ids),
                     ERR_LIMIT);
    assert_int_equal(ids.count, 4);
    assert_int_equal(tokenizer_encode(tokenizer, scratch, "ab\xff", 3, NULL, 0, 0, 0, &text, &ids),
                     ERR_FORMAT);
    assert_string_equal(text.text, "the text is not valid UTF-8 at byte 2");
    tokenizer_ids_release(&ids);
    token_scratch_destroy(scratch);
}

static void decodes_whole_characters(void **state) {
    struct token_decoder decoder;
    struct buf buf = {0};
    token_decoder_init(&decoder, *state, true);
    token_decoder_add(&decoder, SP_AB, &buf);
    token_decoder_add(&decoder, E_FIRST, &buf);
    assert_string_equal(buf_string(&buf), " ab");
    token_decoder_add(&decoder, E_SECOND, &buf);
    assert_string_equal(buf_string(&buf), " ab\xc3\xa9");
    token_decoder_add(&decoder, END, &buf);
    token_decoder_add(&decoder, 999, &buf);
    token_decoder_add(&decoder, E_SECOND, &buf);
    token_decoder_add(&decoder, E_FIRST, &buf);
    token_decoder_finish(&decoder, &buf);
    assert_string_equal(buf_string(&buf), " ab\xc3\xa9\xef\xbf\xbd\xef\xbf\xbd");
    buf_release(&buf);
}

static void answers_about_tokens(void **state) {
    struct tokenizer *tokenizer = *state;
    assert_int_equal(tokenizer_vocab_size(tokenizer), ARRAY_COUNT(tokens));
    assert_int_equal(tokenizer_find(tokenizer, "<|end|>", 7), END);
    assert_int_equal(tokenizer_find(tokenizer, SPACE "ab", 4), SP_AB);
    assert_int_equal(tokenizer_find(tokenizer, " ab", 3), TOKENIZER_NONE);
    size_t bytes;
    bool is_special;
    assert_memory_equal(tokenizer_token(tokenizer, SP_AB, &bytes, &is_special), " ab", 3);
    assert_int_equal(bytes, 3);
    assert_false(is_special);
    tokenizer_token(tokenizer, END, &bytes, &is_special);
    assert_true(is_special);
    tokenizer_token(tokenizer, 1000, &bytes, &is_special);
    assert_int_equal(bytes, 0);
}

static void refuses_what_it_does_not_know(void **state) {
    struct tokenizer_vocab vocab = small_vocab();
    struct tokenizer *tokenizer = NULL;
    struct err_text text;
    vocab.pre = (struct tokenizer_string) STRING("no-such");
    assert_int_equal(tokenizer_open_vocab(&vocab, &text, &tokenizer), ERR_UNSUPPORTED);
    assert_non_null(strstr(text.text, "no-such"));
    vocab = small_vocab();
    vocab.eos_id = 1000;
    assert_int_equal(tokenizer_open_vocab(&vocab, &text, &tokenizer), ERR_FORMAT);
    vocab = small_vocab();
    vocab.merges = (const struct tokenizer_string[]){STRING("nospace")};
    vocab.merge_count = 1;
    assert_int_equal(tokenizer_open_vocab(&vocab, &text, &tokenizer), ERR_FORMAT);
    assert_null(tokenizer);
}

/* Opens and encodes a long word too, so that the heap's memory is asked for. */
static enum err live_once(void) {
    struct tokenizer_vocab vocab = small_vocab();
    struct tokenizer *tokenizer;
    struct err_text text;
    enum err e = tokenizer_open_vocab(&vocab, &text, &tokenizer);
    if (e) return e;
    struct token_scratch *scratch = NULL;
    struct tokenizer_ids ids = {0};
    e = token_scratch_create(tokenizer, 4096, &scratch);
    char word[400];
    memset(word, 'a', sizeof word);
    memcpy(word + 100, "<|end|>", 7);
    if (!e) {
        e = tokenizer_encode(tokenizer, scratch, word, sizeof word, NULL, 0,
                             TOKENIZER_PARSE_SPECIAL, 0, &text, &ids);
    }
    if (!e) assert_int_equal(ids.count, 394);
    tokenizer_ids_release(&ids);
    token_scratch_destroy(scratch);
    tokenizer_close(tokenizer);
    return e;
}

static void every_allocation_may_fail(void **state) {
    assert_int_equal(live_once(), ERR_OK);
    for (uint64_t n = 1;; n++) {
        alloc_fail_at(n, 0);
        enum err e = live_once();
        uint64_t asked = alloc_count();
        alloc_fail_at(0, 0);
        if (asked < n) {
            assert_int_equal(e, ERR_OK);
            assert_true(n > 10);
            break;
        }
        assert_int_equal(e, ERR_MEMORY);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(merges_go_by_rank, make, unmake),
        cmocka_unit_test_setup_teardown(special_tokens_are_control_only, make, unmake),
        cmocka_unit_test_setup_teardown(limits_and_bad_text, make, unmake),
        cmocka_unit_test_setup_teardown(decodes_whole_characters, make, unmake),
        cmocka_unit_test_setup_teardown(answers_about_tokens, make, unmake),
        cmocka_unit_test(refuses_what_it_does_not_know),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
