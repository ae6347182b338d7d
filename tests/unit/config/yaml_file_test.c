/* Goal: a YAML text gives a tree with the place of each node; a bad one of any kind costs one
 * problem with its place, and nothing is read without a bound. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "config/yaml_file.h"

static enum err read_text(const char *text, size_t bytes, struct problem_list *problems,
                          struct yaml_file **out) {
    return yaml_file_read((const uint8_t *) text, bytes, problems, out);
}

struct bad {
    const char *text, *code, *part; /* part: of the message */
    uint32_t line, column;
};

static void test_bad_texts_cost_one_line(void **state) {
    static const struct bad cases[] = {
        {"", "yaml-empty", "empty", 1, 1},
        {"# only this\n\n", "yaml-empty", "empty", 1, 1},
        {"---\n", "yaml-empty", "empty", 1, 1},
        {"~\n", "yaml-empty", "empty", 1, 1},
        {"a: 1\nb:\n\tc: 2\n", "yaml-tab", "tab", 3, 1},
        {"a:\n  b: 1\n  \tc: 2\n", "yaml-tab", "tab", 3, 3},
        {"a:\n  port:8000\n  b: 1\n", "yaml-syntax", "space is missing after ':'", 2, 8},
        {"a:\n  b 2\n", NULL, NULL, 0, 0},
        {"a:\n  b: 1\n  c 2\n", "yaml-syntax", "':' is missing in this line", 3, 3},
        {"a: b: c\n", "yaml-syntax", "mapping values are not allowed", 1, 5},
        {"a: [1, 2\nb: 3\n", "yaml-syntax", "'[' is not closed (noticed in line 2)", 1, 4},
        {"a: {b: 1\nc: 3\n", "yaml-syntax", "'{' is not closed (noticed in line 2)", 1, 4},
        {"a: 1\n  b: 2\n", "yaml-syntax", "indented by 2 spaces, and line 1", 2, 3},
        {"a:\n  b 1\n  c: 2\n", "yaml-syntax", "':' is missing", 2, 3},
        {"a: 'open\n", "yaml-syntax", "this quote is not closed", 1, 4},
        {"a: *nobody\n", "yaml-syntax", "undefined alias", 1, 4},
        {"a: 1\na: 2\n", "duplicate-key", "first in line 1", 2, 1},
        {"a: {x: 1, y: 2, x: 3}\n", "duplicate-key", "first in line 1", 1, 17},
        {"? [a]\n: b\n", "yaml-key", "list or a mapping", 1, 3},
        {"a: 1\n---\nb: 2\n", "yaml-documents", "second document", 2, 1},
        {"a: 1\nb: \x01\n", "yaml-binary", "control characters", 2, 4},
        {"\xff\xfe\x00", "yaml-binary", "incomplete", 1, 3},
        {"\x7f"
         "ELF\x02\x01",
         "yaml-binary", "control", 1, 1},
        {"a: \xc3\x28\n", "yaml-binary", "UTF-8", 1, 5},
        {"a: {<<: 3}\n", "yaml-merge", "mapping", 1, 9},
        {"a: %b\n", "yaml-syntax", "cannot start any token", 1, 4},
        {"a: @b\n", "yaml-syntax", "cannot start any token", 1, 4},
        {" a: 1\nb: 2\n", "yaml-syntax", "expected", 2, 1},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct problem_list problems = {0};
        struct yaml_file *file = NULL;
        size_t bytes = cases[i].text[0] == '\xff' ? 3 : strlen(cases[i].text);
        enum err e = read_text(cases[i].text, bytes, &problems, &file);
        if (!cases[i].code) {
            assert_int_equal(e, ERR_OK);
        } else {
            assert_int_equal(e, ERR_USAGE);
            if (problems.count != 1) print_message("case %zu: %u problems\n", i, problems.count);
            assert_int_equal(problems.count, 1);
            const struct problem *problem = &problems.items[0];
            if (strcmp(problem->code, cases[i].code) != 0 ||
                !strstr(problem->message, cases[i].part) || problem->mark.line != cases[i].line ||
                problem->mark.column != cases[i].column)
                fail_msg("case %zu: %u:%u %s: %s", i, problem->mark.line, problem->mark.column,
                         problem->code, problem->message);
        }
        yaml_file_destroy(file);
        problem_release(&problems);
    }
    (void) state;
}

static void expect_one(const char *text, size_t bytes, const char *code) {
    struct problem_list problems = {0};
    struct yaml_file *file = NULL;
    assert_int_equal(read_text(text, bytes, &problems, &file), ERR_USAGE);
    assert_int_equal(problems.count, 1);
    assert_string_equal(problems.items[0].code, code);
    yaml_file_destroy(file);
    problem_release(&problems);
}

static void test_bounds(void **state) {
    (void) state;
    size_t room = YAML_FILE_BYTES_MAX + 1;
    char *text = alloc_bytes(room);
    assert_non_null(text);
    memset(text, 'a', room);
    expect_one(text, room, "yaml-large");
    memset(text, '[', 100000);
    expect_one(text, 100000, "yaml-deep");
    size_t at = 0;
    for (int i = 0; i < 200; i++) at += (size_t) snprintf(text + at, room - at, "%*sa:\n", i, "");
    expect_one(text, at, "yaml-deep");
    at = 0;
    for (int i = 0; i < 70000; i++) at += (size_t) snprintf(text + at, room - at, "- a\n");
    expect_one(text, at, "yaml-large");
    /* Aliases of aliases: ten times ten times ... */
    at = (size_t) snprintf(text, room, "a0: &a0 {}\n");
    for (int i = 1; i < 8; i++) {
        at += (size_t) snprintf(text + at, room - at, "a%d: &a%d {<<: [", i, i);
        for (int k = 0; k < 200; k++)
            at += (size_t) snprintf(text + at, room - at, "%s*a%d", k ? ", " : "", i - 1);
        at += (size_t) snprintf(text + at, room - at, "]}\n");
    }
    struct problem_list problems = {0};
    struct yaml_file *file = NULL;
    assert_int_equal(read_text(text, at, &problems, &file), ERR_USAGE);
    assert_int_equal(problems.count, 1);
    problem_release(&problems);
    /* An anchor that holds itself is no endless walk. */
    struct problem_list none = {0};
    static const char self[] = "a: &a [*a, {b: *a}]\nc: &c {<<: *c, d: 1}\n";
    enum err e = read_text(self, strlen(self), &none, &file);
    if (!e) {
        struct buf json;
        buf_init(&json, 4096);
        assert_false(yaml_file_to_json(file, 1, &json));
        buf_release(&json);
        yaml_file_destroy(file);
    }
    problem_release(&none);
    alloc_free(text);
}

static uint32_t get(const struct yaml_file *file, uint32_t node, const char *key) {
    for (uint32_t i = 0; i < yaml_file_map_count(file, node); i++) {
        struct yaml_file_pair pair = yaml_file_map_pair(file, node, i);
        if (strcmp(yaml_file_text(file, pair.key), key) == 0) return pair.value;
    }
    return 0;
}

static void test_tree(void **state) {
    (void) state;
    static const char text[] = "base: &b {x: 1, y: 'two'}\n"
                               "other: &o {y: 3, z: ~}\n"
                               "made:\n  y: \"own\"\n  <<: [*b, *o]\n"
                               "list: [1, null, \"null\"]\n";
    struct problem_list problems = {0};
    struct yaml_file *file = NULL;
    assert_int_equal(read_text(text, strlen(text), &problems, &file), ERR_OK);
    assert_int_equal(problems.count, 0);
    uint32_t made = get(file, 1, "made");
    assert_int_equal(yaml_file_kind(file, made), YAML_FILE_MAP);
    assert_int_equal(yaml_file_map_count(file, made), 3);
    assert_string_equal(yaml_file_text(file, get(file, made, "y")), "own");
    assert_string_equal(yaml_file_text(file, get(file, made, "x")), "1");
    assert_true(yaml_file_is_null(file, get(file, made, "z")));
    assert_int_equal(yaml_file_mark(file, get(file, made, "x")).line, 1);
    uint32_t list = get(file, 1, "list");
    assert_int_equal(yaml_file_list_count(file, list), 3);
    assert_true(yaml_file_is_null(file, yaml_file_list_item(file, list, 1)));
    assert_false(yaml_file_is_null(file, yaml_file_list_item(file, list, 2)));
    assert_int_equal(yaml_file_mark(file, yaml_file_list_item(file, list, 2)).column, 17);
    struct buf json;
    buf_init(&json, 4096);
    assert_true(yaml_file_to_json(file, 1, &json));
    assert_string_equal(buf_string(&json),
                        "{\"base\":{\"x\":1,\"y\":\"two\"},\"other\":{\"y\":3,\"z\":null},"
                        "\"made\":{\"y\":\"own\",\"x\":1,\"z\":null},\"list\":[1,null,\"null\"]}");
    buf_release(&json);
    yaml_file_destroy(file);
    problem_release(&problems);
}

static void test_no_memory(void **state) {
    (void) state;
    static const char text[] = "a: {b: 1, c: [1, 2]}\nd: {e: 2}\na: 3\n";
    for (uint64_t n = 1;; n++) {
        struct problem_list problems = {0};
        struct yaml_file *file = NULL;
        alloc_fail_at(n, 0);
        enum err e = read_text(text, strlen(text), &problems, &file);
        bool is_over = alloc_count() < n;
        alloc_fail_at(0, 0);
        if (e == ERR_USAGE) assert_true(problems.count || problems.is_cut);
        else assert_int_equal(e, ERR_MEMORY);
        yaml_file_destroy(e == ERR_MEMORY ? NULL : file);
        problem_release(&problems);
        if (is_over) break;
        assert_true(n < 1000);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_texts_cost_one_line),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_tree),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
