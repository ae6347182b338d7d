/* Goal: an edit changes what it names and nothing else: comments, order, quotes and line ends stay;
 * what cannot be done in the text is left alone; the diff says what happened. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "config/yaml_fix.h"

struct row {
    const char *before;
    enum problem_edit edit;
    uint32_t line, column, edit_line;
    const char *text;
    const char *after; /* NULL: left alone */
};

static const struct row rows[] = {
    {"a:\n  b: 1 # one\n", PROBLEM_EDIT_VALUE, 2, 6, 0, "2", "a:\n  b: 2 # one\n"},
    {"a: {b: 1, c: 2}\n", PROBLEM_EDIT_VALUE, 1, 8, 0, "9", "a: {b: 9, c: 2}\n"},
    {"a: 'it''s' # q\n", PROBLEM_EDIT_VALUE, 1, 4, 0, "2", "a: 2 # q\n"},
    {"a: \"x\\\"y\"\n", PROBLEM_EDIT_VALUE, 1, 4, 0, "2", "a: 2\n"},
    {"a: b c\r\nd: e\r\n", PROBLEM_EDIT_VALUE, 1, 4, 0, "2", "a: 2\r\nd: e\r\n"},
    {"\xc3\xa9\xc3\xa9: 1\n", PROBLEM_EDIT_VALUE, 1, 5, 0, "2", "\xc3\xa9\xc3\xa9: 2\n"},
    {"a: 'over\n  lines'\n", PROBLEM_EDIT_VALUE, 1, 4, 0, "2", NULL},
    {"a: {b: [1, '}']} # c\n", PROBLEM_EDIT_VALUE, 1, 4, 0, "2", "a: 2 # c\n"},
    {"a: {b: 1,\n  c: 2}\n", PROBLEM_EDIT_VALUE, 1, 4, 0, "2", NULL},
    {"\tb:\n\t\tc: 1\n  \td: 2\n", PROBLEM_EDIT_TABS, 1, 1, 0, "  ", "  b:\n    c: 1\n  \td: 2\n"},
    {"a:\n  \tb: 1\n", PROBLEM_EDIT_TABS, 2, 3, 0, "  ", "a:\n    b: 1\n"},
    {"s: &x # {\r\n  a: 1\r\n", PROBLEM_EDIT_INSERT, 1, 1, 1, "k: v",
     "s: &x # {\r\n  k: v\r\n  a: 1\r\n"},
    {"s:\n  {a: 1}\n", PROBLEM_EDIT_INSERT, 1, 1, 1, "k: v", "s:\n  {k: v, a: 1}\n"},
    {"s: {\n  a: 1}\n", PROBLEM_EDIT_INSERT, 1, 1, 1, "k: v", "s: {k: v,\n  a: 1}\n"},
    {"s: *x\n", PROBLEM_EDIT_INSERT, 1, 1, 1, "k: v", NULL},
    {"\xef\xbb\xbf"
     "a: 1\n",
     PROBLEM_EDIT_VALUE, 1, 4, 0, "2",
     "\xef\xbb\xbf"
     "a: 2\n"},
    {"s:\n  env:\n    - name: a\n", PROBLEM_EDIT_ENVS, 2, 3, 0, "envs",
     "s:\n  envs:\n    - name: a\n"},
    {"a: |\n  text\n", PROBLEM_EDIT_VALUE, 1, 4, 0, "2", NULL},
    {"ab: 1\n", PROBLEM_EDIT_KEY, 1, 1, 0, "cd", "cd: 1\n"},
    {"x: [ab, c]\n", PROBLEM_EDIT_KEY, 1, 5, 0, "d", "x: [d, c]\n"},
    {"a:1\n", PROBLEM_EDIT_SPACE, 1, 3, 0, " ", "a: 1\n"},
    {"s:\n    a: 1\nt: 2\n", PROBLEM_EDIT_INSERT, 1, 1, 1, "k: v",
     "s:\n    k: v\n    a: 1\nt: 2\n"},
    {"s: # c\n\n  # d\n  a: 1\n", PROBLEM_EDIT_INSERT, 1, 1, 1, "k: v",
     "s: # c\n  k: v\n\n  # d\n  a: 1\n"},
    {"s: {a: 1}\n", PROBLEM_EDIT_INSERT, 1, 1, 1, "k: v", "s: {k: v, a: 1}\n"},
    {"s: {}\n", PROBLEM_EDIT_INSERT, 1, 1, 1, "k: v", "s: {k: v}\n"},
    {"s:", PROBLEM_EDIT_INSERT, 1, 1, 1, "k: v", "s:\n  k: v\n"},
    {"s:\nt: 1\n", PROBLEM_EDIT_INSERT, 1, 1, 1, "k: v", "s:\n  k: v\nt: 1\n"},
    {"a: 1\nb: 2\nc: 3\n", PROBLEM_EDIT_REMOVE, 2, 1, 0, "-", "a: 1\nc: 3\n"},
    {"a:\n  b: 2\n", PROBLEM_EDIT_REMOVE, 1, 1, 0, "-", NULL},
    {"a: {b: 1}\n", PROBLEM_EDIT_REMOVE, 1, 5, 0, "-", NULL},
    {"s:\n  env: # c\n    A: b\n    # d\n    C: 'e'\n  z: 1\n", PROBLEM_EDIT_ENVS, 2, 3, 0, "envs",
     "s:\n  envs: # c\n    - name: A\n      value: b\n    # d\n    - name: C\n      value: 'e'\n"
     "  z: 1\n"},
    {"env: {A: b}\n", PROBLEM_EDIT_ENVS, 1, 1, 0, "envs", NULL},
    {"a: 1\n", PROBLEM_EDIT_VALUE, 9, 9, 0, "2", NULL},
};

static void test_edits(void **state) {
    (void) state;
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        const struct row *row = &rows[i];
        struct problem_list problems = {0};
        struct problem_mark mark = {.line = row->line, .column = row->column};
        struct problem *problem =
            problem_add(&problems, PROBLEM_ERROR, "x", "", "", mark, NULL, "x");
        problem_set_edit(problem, row->edit, row->edit_line, "%s", row->text);
        struct buf out;
        buf_init(&out, 0);
        uint32_t count =
            yaml_fix_apply((const uint8_t *) row->before, strlen(row->before), &problems, &out);
        const char *wanted = row->after ? row->after : row->before;
        if ((count > 0) != (row->after != NULL) || strcmp(buf_string(&out), wanted) != 0)
            fail_msg("row %zu: %u edits: %s", i, count, buf_string(&out));
        buf_release(&out);
        problem_release(&problems);
    }
}

static void test_value_that_lacks(void **state) {
    (void) state;
    static const char *const texts[][2] = {
        {"a:\n", "a: 4\n"}, {"a: # none\n", "a: 4 # none\n"}, {"a:", "a: 4"}};
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++) {
        struct problem_list problems = {0};
        struct problem_mark mark = {.line = 1, .column = 3, .is_empty = true};
        problem_set_edit(problem_add(&problems, PROBLEM_ERROR, "x", "", "", mark, NULL, "x"),
                         PROBLEM_EDIT_VALUE, 0, "4");
        struct buf out;
        buf_init(&out, 0);
        assert_int_equal(
            yaml_fix_apply((const uint8_t *) texts[i][0], strlen(texts[i][0]), &problems, &out), 1);
        assert_string_equal(buf_string(&out), texts[i][1]);
        buf_release(&out);
        problem_release(&problems);
    }
}

static void test_several_at_once(void **state) {
    (void) state;
    static const char before[] = "a: 1\nb: 2\nc: 3\n", after[] = "a: 10\nx: 2\n";
    struct problem_list problems = {0};
    struct problem_mark marks[] = {{.line = 3, .column = 1},
                                   {.line = 1, .column = 4},
                                   {.line = 2, .column = 1},
                                   {.line = 1, .column = 4}};
    static const enum problem_edit edits[] = {PROBLEM_EDIT_REMOVE, PROBLEM_EDIT_VALUE,
                                              PROBLEM_EDIT_KEY, PROBLEM_EDIT_VALUE};
    static const char *const texts[] = {"-", "10", "x", "11"};
    for (size_t i = 0; i < ARRAY_COUNT(edits); i++)
        problem_set_edit(problem_add(&problems, PROBLEM_ERROR, "x", "", "", marks[i], NULL, "x"),
                         edits[i], 0, "%s", texts[i]);
    struct buf out, diff;
    buf_init(&out, 0);
    buf_init(&diff, 0);
    assert_int_equal(yaml_fix_apply((const uint8_t *) before, strlen(before), &problems, &out), 3);
    assert_string_equal(buf_string(&out), after);
    yaml_fix_diff("f", (const uint8_t *) before, strlen(before), out.data, out.bytes, &diff);
    assert_string_equal(buf_string(&diff), "--- f\n+++ f (mended)\n@@ -1,3 +1,2 @@\n"
                                           "-a: 1\n-b: 2\n-c: 3\n+a: 10\n+x: 2\n");
    buf_clear(&diff);
    yaml_fix_diff("f", out.data, out.bytes, out.data, out.bytes, &diff);
    assert_int_equal(diff.bytes, 0);
    buf_release(&diff);
    buf_release(&out);
    problem_release(&problems);
}

/* Two changes far apart are two hunks of three lines around each. */
static void test_hunks(void **state) {
    (void) state;
    static const char before[] = "1\n2\n3\n4\n5\n6\n7\n8\n9\na\nb\nc\n";
    static const char after[] = "1\n2\nX\n4\n5\n6\n7\n8\n9\na\nb\nc\nY\n";
    struct buf diff;
    buf_init(&diff, 0);
    yaml_fix_diff("f", (const uint8_t *) before, strlen(before), (const uint8_t *) after,
                  strlen(after), &diff);
    assert_string_equal(buf_string(&diff), "--- f\n+++ f (mended)\n@@ -1,6 +1,6 @@\n"
                                           " 1\n 2\n-3\n+X\n 4\n 5\n 6\n"
                                           "@@ -10,3 +10,4 @@\n a\n b\n c\n+Y\n");
    buf_release(&diff);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_edits),
        cmocka_unit_test(test_value_that_lacks),
        cmocka_unit_test(test_several_at_once),
        cmocka_unit_test(test_hunks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
