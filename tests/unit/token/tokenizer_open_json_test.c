/* tokenizer_open_json: small files give the ids and texts worked out by hand,
 * what is not supported is named, a user's text never becomes a control token, and every
 * allocation may fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "token/tokenizer.h"

#define MARK "\xe2\x96\x81"

static const char byte_level[] =
    "{\"version\":\"1.0\",\"truncation\":null,\"added_tokens\":["
    "{\"id\":9,\"content\":\"<|x|>\",\"special\":true,\"normalized\":false,\"lstrip\":true,"
    "\"rstrip\":false,\"single_word\":false},"
    "{\"id\":10,\"content\":\"<t>\",\"special\":false,\"normalized\":false},"
    "{\"id\":11,\"content\":\"ba\",\"special\":false,\"normalized\":false,\"single_word\":true}],"
    "\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\",\"},\"behavior\":\"Removed\",\"invert\":false},"
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}]}"
    ","
    "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"
    "\"<|x|>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],"
    "\"special_tokens\":{\"<|x|>\":{\"id\":\"<|x|>\",\"ids\":[9],\"tokens\":[\"<|x|>\"]}}},"
    "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"dropout\":null,"
    "\"unk_token\":null,\"continuing_subword_prefix\":\"\",\"fuse_unk\":false,\"vocab\":{\"a\":0,"
    "\"b\":1,\"ab\":2,\"\\u0120\":3,\"\\u0120a\":4,\"\\u00c3\":5,\"\\u00a9\":6,\"<\":7,\">\":8},"
    "\"merges\":[\"a b\",[\"\\u0120\",\"a\"]]}}";

static const char sentence_piece[] =
    "{\"added_tokens\":[{\"id\":1,\"content\":\"<s>\",\"special\":true,\"normalized\":false}],"
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":"
    "\"" MARK "\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" MARK
    "\"}]},"
    "\"pre_tokenizer\":null,\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\","
    "\"pattern\":{\"String\":\"" MARK "\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},"
    "{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},"
    "\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"fuse_unk\":true,\"byte_fallback\":true,"
    "\"vocab\":{\"<unk>\":0,\"<s>\":1,\"" MARK "\":2,\"a\":3,\"" MARK "a\":4,\"<\":5,\"s\":6,"
    "\">\":7,\"<s\":8%s},\"merges\":[\"" MARK " a\",\"< s\",\"<s >\"]}}";

static struct tokenizer *open_text(const char *json, const char *config) {
    struct err_text why = {{0}};
    struct tokenizer *tokenizer = NULL;
    enum err e = tokenizer_open_json(json, strlen(json), config, config ? strlen(config) : 0, &why,
                                     &tokenizer);
    if (e) fail_msg("%s", why.text);
    return tokenizer;
}

/* With all byte tokens from id 9 on, or none. */
static struct tokenizer *open_sentence_piece(bool has_bytes) {
    char bytes[8192] = "", json[16384];
    size_t used = 0;
    for (int i = 0; has_bytes && i < 256; i++) {
        used += (size_t) snprintf(bytes + used, sizeof bytes - used, ",\"<0x%02X>\":%d", i, 9 + i);
    }
    int length = snprintf(json, sizeof json, sentence_piece, bytes);
    assert_true(length > 0 && length < (int) sizeof json);
    return open_text(json, NULL);
}

static void expect_user(const struct tokenizer *tokenizer, const char *text,
                        const struct tokenizer_range *user, unsigned flags, const uint32_t *want,
                        uint32_t count) {
    struct token_scratch *scratch;
    assert_int_equal(token_scratch_create(tokenizer, 65536, &scratch), ERR_OK);
    struct tokenizer_ids ids = {0};
    for (int warm = 0; warm < 2; warm++) {
        ids.count = 0;
        assert_int_equal(tokenizer_encode(tokenizer, scratch, text, strlen(text), user,
                                          user != NULL, flags, 0, NULL, &ids),
                         ERR_OK);
        assert_int_equal(ids.count, count);
        if (count) assert_memory_equal(ids.ids, want, count * sizeof *want);
    }
    tokenizer_ids_release(&ids);
    token_scratch_destroy(scratch);
}

#define EXPECT(tokenizer, text, flags, ...)                                                        \
    do {                                                                                           \
        const uint32_t want[] = {__VA_ARGS__};                                                     \
        expect_user(tokenizer, text, NULL, flags, want, ARRAY_COUNT(want));                        \
    } while (0)
#define PARSE TOKENIZER_PARSE_SPECIAL

static void expect_text(const struct tokenizer *tokenizer, const uint32_t *ids, size_t count,
                        const char *want) {
    struct token_decoder decoder;
    struct buf buf = {0};
    token_decoder_init(&decoder, tokenizer, true);
    for (size_t i = 0; i < count; i++) token_decoder_add(&decoder, ids[i], &buf);
    token_decoder_finish(&decoder, &buf);
    assert_string_equal(buf_string(&buf), want);
    buf_release(&buf);
}

static void byte_level_file(void **state) {
    struct tokenizer *tokenizer = open_text(byte_level, NULL);
    EXPECT(tokenizer, "ab a", PARSE, 2, 4);
    EXPECT(tokenizer, "a,b", PARSE, 0, 1);                   /* the comma is removed and cuts */
    EXPECT(tokenizer, "a  <|x|> a", PARSE, 0, 9, 4);         /* lstrip */
    EXPECT(tokenizer, "a ba aba", PARSE, 0, 3, 11, 3, 2, 0); /* single_word: not inside aba */
    EXPECT(tokenizer, "e\xcc\x81", PARSE, 5, 6);             /* NFC; c3 a9 */
    EXPECT(tokenizer, "b", PARSE | TOKENIZER_ADD_SPECIAL, 9, 1);
    assert_int_equal(tokenizer_bos(tokenizer), TOKENIZER_NONE);
    assert_int_equal(tokenizer_find(tokenizer, "<t>", 3), 10);
    assert_int_equal(tokenizer_vocab_size(tokenizer), 12);
    assert_int_equal(tokenizer_token_bytes_max(tokenizer), UINT32_MAX); /* a token strips */
    tokenizer_close(tokenizer);
}

static void user_text_is_never_control(void **state) {
    struct tokenizer *tokenizer = open_text(byte_level, NULL);
    struct tokenizer_range user = {1, 4};
    const uint32_t text[] = {0, 7, 8}; /* the t has no token and vanishes */
    const uint32_t control[] = {0, 10};
    expect_user(tokenizer, "a<t>", NULL, PARSE, control, 2);
    expect_user(tokenizer, "a<t>", &user, PARSE, text, 3); /* markup, though not "special" */
    const uint32_t plain[] = {3, 11};
    struct tokenizer_range all = {0, 3};
    expect_user(tokenizer, " ba", &all, PARSE, plain, 2); /* plain text matches anywhere */
    tokenizer_close(tokenizer);

    /* Merges that make a control token: < s > -> <s>, only where nothing is a user's. */
    tokenizer = open_sentence_piece(false);
    const uint32_t merged[] = {2, 8, 7};
    all.end = 3;
    expect_user(tokenizer, "<s>", &all, PARSE, merged, 3);
    const uint32_t special[] = {1};
    expect_user(tokenizer, "<s>", NULL, PARSE, special, 1);
    tokenizer_close(tokenizer);
}

static void sentence_piece_file(void **state) {
    struct tokenizer *tokenizer = open_sentence_piece(true);
    EXPECT(tokenizer, "a a", PARSE, 4, 4);
    EXPECT(tokenizer, "a<s>a", PARSE, 4, 1, 4);
    EXPECT(tokenizer, "\xc3\xa9", PARSE, 2, 9 + 0xc3, 9 + 0xa9);
    const uint32_t ids[] = {4, 4, 1, 9 + 0xc3, 9 + 0xa9, 3, 9 + 0xe2, 9 + 0x96, 3};
    expect_text(tokenizer, ids, ARRAY_COUNT(ids),
                "a a\xc3\xa9"
                "a\xef\xbf\xbd\xef\xbf\xbd"
                "a");
    tokenizer_close(tokenizer);
    tokenizer = open_sentence_piece(false);
    EXPECT(tokenizer, "zza", PARSE, 2, 0, 3); /* unknown ones fuse */
    tokenizer_close(tokenizer);
}

static void config_file(void **state) {
    struct tokenizer *tokenizer =
        open_text(byte_level, "{\"bos_token\":{\"content\":\"<|x|>\"},\"eos_token\":\"<t>\","
                              "\"pad_token\":null,\"add_bos_token\":false,"
                              "\"model_max_length\":1000000000000000019884624838656}");
    assert_int_equal(tokenizer_bos(tokenizer), 9);
    assert_int_equal(tokenizer_eos(tokenizer), 10);
    EXPECT(tokenizer, "b", TOKENIZER_ADD_SPECIAL, 1);
    tokenizer_close(tokenizer);
}

/* What stands between { and } of the file, or replaces a part of it, and what is then named. */
static void named_errors(void **state) {
    static const struct {
        const char *from, *to, *named;
    } cases[] = {
        {"\"NFC\"", "\"NFKC\"", "NFKC"},
        {"\"NFC\"", "\"NFC\",\"odd\":1", "odd"},
        {"\"fuse_unk\"", "\"strange\":1,\"fuse_unk\"", "strange"},
        {"\"dropout\":null", "\"dropout\":0.5", "dropout"},
        {"\"BPE\"", "\"Unigram\"", "Unigram"},
        {"\"Removed\"", "\"Sideways\"", "behavior"},
        {"\"a b\",", "\"a q\",", "'q'"},
        {"\"b\":1", "\"b\":4000000000", "ids"},
        {"\"b\":1", "\"b\":0", "vocab"},
        {"\"ids\":[9]", "\"ids\":[99]", "ids"},
        {"{\"type\":\"ByteLevel\"},\"model\"", "{\"type\":\"WordPiece\"},\"model\"", "WordPiece"},
        {"{\"type\":\"ByteLevel\"},\"model\"", "null,\"model\"", "decoder"},
        {"\"lstrip\":true", "\"lstrip\":true,\"upper\":true", "upper"},
        {"\\u00c3", "\\ud800", "vocab"},
        {"{\"Regex\":\",\"}", "{\"Regex\":\"(\"}", "Split"},
        {"]}}", "]}", "malformed"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        char json[4096];
        const char *place = strstr(byte_level, cases[i].from);
        if (!strcmp(cases[i].from, "]}}")) place = byte_level + strlen(byte_level) - 3;
        assert_non_null(place);
        int length = snprintf(json, sizeof json, "%.*s%s%s", (int) (place - byte_level), byte_level,
                              cases[i].to, place + strlen(cases[i].from));
        struct err_text why = {{0}};
        struct tokenizer *tokenizer = NULL;
        assert_true(tokenizer_open_json(json, (size_t) length, NULL, 0, &why, &tokenizer));
        assert_null(tokenizer);
        if (!strstr(why.text, cases[i].named)) fail_msg("%s: %s", cases[i].to, why.text);
    }
}

/* NFC of 300,000 marks in falling order of class, which a bubble sort would take minutes for. */
static void marks_in_linear_time(void **state) {
    struct tokenizer *tokenizer = open_text(byte_level, NULL);
    struct token_scratch *scratch;
    assert_int_equal(token_scratch_create(tokenizer, 0, &scratch), ERR_OK);
    size_t count = 300000;
    char *text = malloc(count * 2);
    assert_non_null(text);
    for (size_t i = 0; i < count; i++)
        memcpy(text + i * 2, i < count / 2 ? "\xcc\x81" : "\xcc\xa3", 2);
    struct tokenizer_ids ids = {0};
    assert_int_equal(
        tokenizer_encode(tokenizer, scratch, text, count * 2, NULL, 0, 0, 0, NULL, &ids), ERR_OK);
    tokenizer_ids_release(&ids);
    free(text);
    token_scratch_destroy(scratch);
    tokenizer_close(tokenizer);
}

static void digests_tell_apart(void **state) {
    struct tokenizer *one = open_text(byte_level, NULL), *two = open_text(byte_level, NULL);
    assert_int_equal(tokenizer_digest(one), tokenizer_digest(two));
    tokenizer_close(two);
    two = open_sentence_piece(false);
    assert_int_not_equal(tokenizer_digest(one), tokenizer_digest(two));
    tokenizer_close(two);
    char *json = strdup(byte_level);
    memcpy(strstr(json, "\"lstrip\":true"), "\"rstrip\":true", 13); /* of the one token */
    memcpy(strstr(strstr(json, "\"rstrip\":true") + 1, "\"rstrip\""), "\"lstrip\"", 8);
    two = open_text(json, NULL);
    assert_int_not_equal(tokenizer_digest(one), tokenizer_digest(two));
    free(json);
    tokenizer_close(two);
    tokenizer_close(one);
}

static enum err live_once(void) {
    struct err_text why;
    struct tokenizer *tokenizer;
    static const char config[] = "{\"bos_token\":\"<|x|>\"}";
    enum err e = tokenizer_open_json(byte_level, sizeof byte_level - 1, config, sizeof config - 1,
                                     &why, &tokenizer);
    if (e) return e;
    struct token_scratch *scratch = NULL;
    struct tokenizer_ids ids = {0};
    e = token_scratch_create(tokenizer, 65536, &scratch);
    struct tokenizer_range user = {0, 2};
    if (!e) {
        e = tokenizer_encode(tokenizer, scratch, "ab e\xcc\x81,a<|x|>", 13, &user, 1, PARSE, 0,
                             &why, &ids);
    }
    if (!e) assert_int_equal(ids.count, 6);
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
            assert_true(n > 20);
            break;
        }
        assert_int_equal(e, ERR_MEMORY);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(byte_level_file),     cmocka_unit_test(user_text_is_never_control),
        cmocka_unit_test(sentence_piece_file), cmocka_unit_test(config_file),
        cmocka_unit_test(named_errors),        cmocka_unit_test(marks_in_linear_time),
        cmocka_unit_test(digests_tell_apart),  cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
