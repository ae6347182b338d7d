/* Goal: foreign JSON is refused with a position and the field's path; numbers follow behaviour.md 5
 * (null is absent, 64.0 is an integer, NaN and duplicates are errors). */
#include "api_fixture.h"

#include "api/json_field.h"

static void test_paths(void **state) {
    static const struct {
        const char *text;
        const char *path;
    } cases[] = {
        {"{\"a\":\"x@\"}", "a"},
        {"{\"a\":1,\"messages\":[{\"role\":\"u\"},{\"content\":\"@\"}]}", "messages[1].content"},
        {"{\"a\":{\"b\":[[1,2],[3,@]]}}", "a.b[1][1]"},
        {"@", ""},
        {"{@", ""},
        {"[1,@", "[1]"},
        {"{\"a\\\"b\":@}", "a\\\"b"},
        {"{\"a\":[1],\"b\":@}", "b"},
        {"{\"a\":\"}{][,\",\"b\":@}", "b"},
        {"{\"a\xff\":@}", "a?"},
        {"]]]]@", ""},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        char path[128];
        size_t at = strcspn(cases[i].text, "@");
        json_field_path_at(cases[i].text, strlen(cases[i].text), at, path, sizeof path);
        assert_string_equal(path, cases[i].path);
    }
    char deep[4096], path[128];
    memset(deep, '[', sizeof deep);
    json_field_path_at(deep, sizeof deep, sizeof deep, path, sizeof path);
    assert_string_equal(path, "[0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0]");
    json_field_path_at(deep, sizeof deep, SIZE_MAX, path, 7); /* a small room is never passed */
    assert_true(strlen(path) < 7);
}

static void test_parse(void **state) {
    static const struct {
        const char *text;
        size_t bytes;
        const char *param;
    } bad[] = {
        {"", 0, ""},
        {"{", 0, ""},
        {"[]", 0, ""},
        {"{\"a\":1,\"a\":2}", 0, NULL},
        {"{\"a\":NaN}", 0, "a"},
        {"{\"a\":Infinity}", 0, "a"},
        {"{\"a\":1} x", 0, ""},
        {"{\"a\":\"\xff\"}", 0, "a"},
        {"{\"b\":1,\"a\":\"x\xc3(\"}", 0, "a"},
        {"{\"a\":{\"b\":\"\\ud800\"}}", 0, "a.b"},
        {"{\"a\":\"\\udc00x\"}", 0, "a"},
        {"{\"a\":\"\xed\xa0\x80\"}", 0, "a"},
        {"{\"a\":99999999999999999999}", 0, "a"},
        {"{\"a\":1e999}", 0, "a"},
        {"{\"a\":\"\n\"}", 0, "a"},
        {"{'a':1}", 0, ""},
        {"{\"a\":01}", 0, NULL},
        {"{\"a\":1}\0x", 9, NULL},
    };
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct api_error error;
        json_t *root = NULL;
        size_t bytes = bad[i].bytes ? bad[i].bytes : strlen(bad[i].text);
        assert_int_equal(json_field_parse(bad[i].text, bytes, &error, &root), ERR_USAGE);
        assert_null(root);
        assert_int_equal(error.status, 400);
        if (bad[i].param) assert_string_equal(error.param, bad[i].param);
        struct buf out;
        buf_init(&out, 0);
        api_error_render(&error, &out);
        json_t *rendered = json_loadb((const char *) out.data, out.bytes, 0, NULL);
        assert_non_null(rendered); /* an error is valid JSON whatever was sent */
        json_decref(rendered);
        buf_release(&out);
    }
    struct api_error error;
    json_t *root = NULL;
    assert_int_equal(json_field_parse("{\"a\":\"\\u0000\"}", 14, &error, &root), ERR_OK);
    json_decref(root);
}

static void test_numbers(void **state) {
    static const struct {
        const char *json;
        bool is_int;
        int64_t value;
    } cases[] = {
        {"64", true, 64},
        {"64.0", true, 64},
        {"-9223372036854775808", true, INT64_MIN},
        {"9223372036854775807", true, INT64_MAX},
        {"-0.0", true, 0},
        {"1e3", true, 1000},
        {"64.5", false, 0},
        {"9.3e18", false, 0},
        {"\"64\"", false, 0},
        {"true", false, 0},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        json_t *value = json_loads(cases[i].json, JSON_DECODE_ANY, NULL);
        int64_t number = 77;
        assert_int_equal(json_field_as_int(value, &number), cases[i].is_int);
        assert_true(number == (cases[i].is_int ? cases[i].value : 77));
        json_decref(value);
    }
}

static void test_scope(void **state) {
    struct api_error error;
    json_t *root = json_loads("{\"n\":null,\"b\":true,\"i\":3.0,\"x\":2.5,\"s\":\"t\"}", 0, NULL);
    struct json_scope scope = {root, "stream_options.", &error, ERR_OK};
    bool flag = false;
    int64_t integer = 5;
    double number = 0;
    const char *text = NULL;
    assert_false(json_field_int(&scope, "n", 0, 9, &integer)); /* null is absent */
    assert_false(json_field_int(&scope, "absent", 0, 9, &integer));
    assert_int_equal(integer, 5);
    assert_true(json_field_bool(&scope, "b", &flag));
    assert_true(json_field_int(&scope, "i", 0, 9, &integer));
    assert_int_equal(integer, 3);
    assert_true(json_field_number(&scope, "x", 0, 2.5, false, &number));
    assert_true(json_field_string(&scope, "s", &text, NULL));
    assert_int_equal(scope.failed, ERR_OK);
    assert_false(json_field_number(&scope, "x", 2.5, 3, true, &number));
    assert_int_equal(scope.failed, ERR_USAGE);
    assert_string_equal(error.param, "stream_options.x");
    /* sticky: the first error stands */
    assert_false(json_field_bool(&scope, "s", &flag));
    assert_string_equal(error.param, "stream_options.x");
    json_decref(root);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_scope),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
