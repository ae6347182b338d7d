/* Goal: each file of check/ gets exactly the errors and warnings that its last lines expect, with
 * code, component, key, line and column; the legal files of config/graph and the examples get no
 * error on the devices they are meant for; no memory is no crash. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "config/yaml_fix.h"
#include "plan/check.h"

static char text_of_file[65536];

static void load(const char *folder, const char *name) {
    char path[8192];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size_t bytes = fread(text_of_file, 1, sizeof text_of_file - 1, file);
    text_of_file[bytes] = '\0';
    fclose(file);
}

static enum err check_text(const char *name, const char *devices, struct problem_list *problems) {
    char word[64];
    enum graph_kind kind;
    snprintf(word, sizeof word, "%.*s", (int) strcspn(name, ".-"), name);
    assert_true(graph_kind_of(word, &kind));
    struct device_list list;
    struct err_text text;
    struct graph graph;
    struct graph_source source = {
        .name = name, .yaml = (const uint8_t *) text_of_file, .bytes = strlen(text_of_file)};
    enum err e = device_list_parse(devices, NULL, &text, &list);
    if (e) return e;
    e = graph_read(kind, &source, problems, &graph);
    if (e != ERR_MEMORY) {
        const struct graph_plan_target plan = {.devices = &list, .thread_count = 1};
        const struct check_target target = {.plan = &plan, .is_elsewhere = true};
        e = check_graph(&graph, &target, problems);
        graph_release(&graph);
    }
    device_list_release(&list);
    problem_sort(problems);
    return e;
}

static void dump(const char *name, const struct problem_list *problems) {
    struct buf out;
    buf_init(&out, 0);
    problem_print(problems, name, false, &out);
    print_message("%s", buf_string(&out));
    buf_release(&out);
}

/* "severity code component key line:column" as the files write it. */
static void describe(const struct problem *problem, char *out, size_t room) {
    snprintf(out, room, "# expect: %s %s %s %s %u:%u\n", problem_severity_name(problem->severity),
             problem->code, problem->component[0] ? problem->component : "-",
             problem->key[0] ? problem->key : "-", problem->mark.line, problem->mark.column);
}

static void check_file(const char *folder, const char *name) {
    load(folder, name);
    char devices[64] = "";
    const char *at = strstr(text_of_file, "# devices: ");
    if (at) sscanf(at, "# devices: %63s", devices);
    struct problem_list problems = {0};
    assert_int_equal(check_text(name, devices, &problems), ERR_OK);
    uint32_t expected = 0, found = 0;
    for (at = text_of_file; (at = strstr(at, "# expect: ")); at++) expected++;
    for (uint32_t i = 0; i < problems.count; i++) {
        char line[256];
        if (problems.items[i].severity == PROBLEM_NOTE) continue;
        describe(&problems.items[i], line, sizeof line);
        found++;
        if (strstr(text_of_file, line)) continue;
        dump(name, &problems);
        fail_msg("%s: not expected: %s", name, line);
    }
    if (found != expected) {
        dump(name, &problems);
        fail_msg("%s: %u problems, expected %u", name, found, expected);
    }
    problem_release(&problems);
}

typedef void (*visit_fn)(const char *folder, const char *name);

static uint32_t visit(const char *place, visit_fn fn) {
    const char *files = getenv("GRAMME_TEST_FILES");
    if (!files) skip();
    char folder[4096];
    snprintf(folder, sizeof folder, "%s/%s", files, place);
    DIR *entries = opendir(folder);
    assert_non_null(entries);
    uint32_t count = 0;
    for (struct dirent *entry; (entry = readdir(entries));) {
        if (!strstr(entry->d_name, ".yaml")) continue;
        fn(folder, entry->d_name);
        count++;
    }
    closedir(entries);
    return count;
}

static void test_wrong_files(void **state) {
    (void) state;
    assert_true(visit("check", check_file) >= 25);
}

/* Mended as far as it goes, a file has only problems left that need a decision, and each of its
 * comments. */
static void mend_file(const char *folder, const char *name) {
    load(folder, name);
    char devices[64] = "", comment[256];
    const char *at = strstr(text_of_file, "# devices: ");
    if (at) sscanf(at, "# devices: %63s", devices);
    snprintf(comment, sizeof comment, "%.*s", (int) strcspn(text_of_file, "\n"), text_of_file);
    struct problem_list problems = {0};
    assert_int_equal(check_text(name, devices, &problems), ERR_OK);
    for (int pass = 0; pass < 8; pass++) {
        struct buf out;
        buf_init(&out, sizeof text_of_file - 1);
        uint32_t edits =
            yaml_fix_apply((const uint8_t *) text_of_file, strlen(text_of_file), &problems, &out);
        assert_int_equal(out.failed, ERR_OK);
        memcpy(text_of_file, out.data, out.bytes);
        text_of_file[out.bytes] = '\0';
        buf_release(&out);
        problem_release(&problems);
        assert_int_equal(check_text(name, devices, &problems), ERR_OK);
        if (!edits) break;
    }
    static const char *const decisions[] = {"bad-value", "tp-heads", "kv-too-small",
                                            "too-few-devices", "device-twice"};
    for (uint32_t i = 0; i < problems.count; i++) {
        const struct problem *problem = &problems.items[i];
        bool is_decision = problem->severity != PROBLEM_ERROR;
        for (size_t k = 0; k < ARRAY_COUNT(decisions); k++)
            is_decision |= strcmp(problem->code, decisions[k]) == 0;
        if (is_decision && problem->edit == PROBLEM_EDIT_NONE) continue;
        dump(name, &problems);
        fail();
    }
    assert_non_null(strstr(text_of_file, comment));
    problem_release(&problems);
}

static void test_mended_files(void **state) {
    (void) state;
    assert_true(visit("check", mend_file) >= 25);
}

/* No error, whatever the cards: four nodes of H100 hold every shipped layout. */
static void check_legal(const char *folder, const char *name) {
    load(folder, name);
    struct problem_list problems = {0};
    assert_int_equal(check_text(name, "4x(8xH100-80GB)", &problems), ERR_OK);
    if (problem_count(&problems, PROBLEM_ERROR)) {
        dump(name, &problems);
        fail();
    }
    problem_release(&problems);
}

static void test_legal_files(void **state) {
    (void) state;
    assert_true(visit("../config/graph", check_legal) >= 14);
    assert_int_equal(visit("../../../examples", check_legal), 8);
}

static void test_no_memory(void **state) {
    (void) state;
    const char *files = getenv("GRAMME_TEST_FILES");
    if (!files) skip();
    char folder[4096];
    snprintf(folder, sizeof folder, "%s/check", files);
    load(folder, "disagg_router.oom-story.yaml");
    for (uint64_t n = 1;; n++) {
        struct problem_list problems = {0};
        alloc_fail_at(n, 0);
        enum err e = check_text("disagg_router.oom-story.yaml", "16xA100-40GB", &problems);
        bool is_over = alloc_count() < n;
        alloc_fail_at(0, 0);
        problem_release(&problems);
        if (is_over) {
            assert_int_equal(e, ERR_OK);
            break;
        }
        assert_true(e == ERR_OK || e == ERR_MEMORY); /* graph_plan_try: only advice is lost */
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrong_files),
        cmocka_unit_test(test_mended_files),
        cmocka_unit_test(test_legal_files),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
