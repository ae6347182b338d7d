/* Goal: our reader accepts and refuses exactly what jansson's does, with equal trees, names the
 * byte at fault, and survives memory that ends anywhere. */
#include "api_fixture.h"

#include <jansson.h>

#include "api/json_read.h"

static void compare(const char *text, size_t bytes) {
    struct json_read_fault fault = {0, NULL};
    json_t *ours = NULL;
    enum err e = json_read(text, bytes, &fault, &ours);
    json_t *theirs =
        json_loadb(text, bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, NULL);
    /* jansson reads over a raw NUL behind a number; no JSON text holds one. */
    if (memchr(text, 0, bytes)) {
        assert_int_equal(e, ERR_FORMAT);
        json_decref(theirs);
        return;
    }
    if ((e == ERR_OK) != (theirs != NULL)) {
        fail_msg("%.*s: we say %s, jansson %s", (int) bytes, text, e ? fault.why : "yes",
                 theirs ? "yes" : "no");
    }
    if (!e && !json_equal(ours, theirs)) fail_msg("%.*s: another tree", (int) bytes, text);
    json_decref(ours);
    json_decref(theirs);
}

static const char *const texts[] = {
    "{\"a\":[1,2.5,-3e4,true,false,null,\"x\\n\\u00e9\\ud83d\\ude00\"],\"b\":{\"\":{}}}",
    "[]",
    " { } ",
    "\"plain text of some length, longer than a word\"",
    "\"caf\xc3\xa9 \xf0\x9f\x98\x80 \xe4\xbd\xa0\xe5\xa5\xbd\"",
    "[[[[[[1]]]],{\"k\":[{}]}]]",
    "-9223372036854775808",
    "9223372036854775807",
    "[0,-0,0.0,1E+2,10,120]",
    "{\"\\u0041\":1,\"B\":\"\\u0000\"}",
};

static void test_equal_to_jansson(void **state) {
    static const char *const refused[] = {
        "",
        "{",
        "[1,]",
        "{\"a\":1,}",
        "{\"a\"}",
        "{a:1}",
        "[1 2]",
        "01",
        "-",
        "1.",
        "1e",
        "+1",
        ".5",
        "1e999",
        "9223372036854775808",
        "nul",
        "NaN",
        "Infinity",
        "\"a",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\ud800\"",
        "\"\\ud800\\u0041\"",
        "\"\\udc00\"",
        "\"\n\"",
        "\"\xff\"",
        "\"\xc0\x80\"",
        "\"\xed\xa0\x80\"",
        "\"\xf4\x90\x80\x80\"",
        "\"\xe4\xbd\"",
        "{\"a\":1,\"a\":2}",
        "{\"\\u0000\":1}",
        "[1]]",
        "{}{}",
        "\xef\xbb\xbf{}",
        "]",
        "}",
        ",",
        ":",
    };
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++) {
        compare(texts[i], strlen(texts[i]));
        for (size_t cut = 0; cut < strlen(texts[i]); cut++) compare(texts[i], cut);
    }
    for (size_t i = 0; i < ARRAY_COUNT(refused); i++) {
        json_t *root = NULL;
        struct json_read_fault fault;
        compare(refused[i], strlen(refused[i]));
        assert_int_equal(json_read(refused[i], strlen(refused[i]), &fault, &root), ERR_FORMAT);
    }
}

static void test_mutations(void **state) {
    static const char spice[] = "\"\\{}[]:,0123456789.eE+-untrfls \n\x80\xc3\xa9\xed\xa0\xff";
    uint64_t seed = 7;
    print_message("seed %llu\n", (unsigned long long) seed);
    for (int round = 0; round < 200000; round++) {
        char text[256];
        const char *from = texts[fixture_random(&seed) % ARRAY_COUNT(texts)];
        size_t bytes = strlen(from);
        memcpy(text, from, bytes);
        for (uint64_t n = fixture_random(&seed) % 3 + 1; n > 0; n--) {
            size_t at = fixture_random(&seed) % bytes;
            char c = spice[fixture_random(&seed) % (sizeof spice)]; /* its NUL too */
            if (fixture_random(&seed) % 2 && bytes < sizeof text) {
                memmove(text + at + 1, text + at, bytes - at);
                bytes++;
            }
            text[at] = c;
        }
        compare(text, bytes);
    }
}

static void test_depth(void **state) {
    char text[2 * JSON_READ_DEPTH_MAX + 8];
    for (size_t depth = JSON_READ_DEPTH_MAX - 1; depth <= JSON_READ_DEPTH_MAX + 1; depth++) {
        struct json_read_fault fault;
        json_t *root = NULL;
        memset(text, '[', depth);
        memset(text + depth, ']', depth);
        enum err e = json_read(text, 2 * depth, &fault, &root);
        assert_int_equal(e, depth > JSON_READ_DEPTH_MAX ? ERR_FORMAT : ERR_OK);
        if (e) assert_int_equal(fault.offset, JSON_READ_DEPTH_MAX);
        json_decref(root);
    }
}

static void test_memory(void **state) {
    json_set_alloc_funcs(alloc_bytes, alloc_free);
    for (uint64_t n = 1;; n++) {
        struct json_read_fault fault;
        json_t *root = NULL;
        static const char text[] = "{\"a\":[1,2,\"x\\ny\"],\"b\\t\":{\"c\":\"d\"}}";
        alloc_fail_at(n, 0);
        enum err e = json_read(text, sizeof text - 1, &fault, &root);
        bool was_reached = alloc_count() >= n;
        alloc_fail_at(0, 0);
        assert_int_equal(e, was_reached ? ERR_MEMORY : ERR_OK);
        json_decref(root);
        if (!was_reached) {
            assert_true(n > 10);
            break;
        }
    }
    json_set_alloc_funcs(malloc, free);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_to_jansson),
        cmocka_unit_test(test_mutations),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
