/* The terminal's writer: lines arrive in order; a reader that takes nothing holds nobody up, lines
 * past the bound are dropped and their number is told; the end does not wait for ever. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "fleet/terminal.h"

static void test_order(void **state) {
    (void) state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    struct terminal *terminal = NULL;
    assert_int_equal(terminal_create(ends[1], &terminal), ERR_OK);
    terminal_status(terminal, "not shown: no terminal");
    for (int i = 0; i < 1000; i++) {
        char line[32];
        int bytes = snprintf(line, sizeof line, "line %d%s", i, i % 2 ? "\n" : "");
        terminal_line(terminal, line, (size_t) bytes);
    }
    terminal_destroy(terminal, 60000);
    close(ends[1]);
    FILE *in = fdopen(ends[0], "r");
    char line[64], wanted[64];
    for (int i = 0; i < 1000; i++) {
        snprintf(wanted, sizeof wanted, "line %d\n", i);
        assert_non_null(fgets(line, sizeof line, in));
        assert_string_equal(line, wanted);
    }
    assert_null(fgets(line, sizeof line, in));
    fclose(in);
}

static void test_stuck_reader(void **state) {
    (void) state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    struct terminal *terminal = NULL;
    assert_int_equal(terminal_create(ends[1], &terminal), ERR_OK);
    char line[1024];
    memset(line, 'x', sizeof line);
    for (int i = 0; i < 3000; i++) terminal_line(terminal, line, sizeof line); /* nobody reads */
    assert_true(terminal_dropped(terminal) > 0);
    /* now somebody does */
    uint64_t told = 0, whole = 0;
    FILE *in = fdopen(ends[0], "r");
    char *got = malloc(4096);
    assert_non_null(got);
    while (!told && fgets(got, 4096, in)) {
        if (got[0] == '(') told = strtoull(got + 1, NULL, 10);
        else whole += strlen(got) == sizeof line + 1;
    }
    assert_int_equal(told + whole, 3000);
    free(got);
    terminal_destroy(terminal, 60000);
    close(ends[1]);
    fclose(in);
}

static void test_allocations(void **state) {
    (void) state;
    struct terminal *terminal = NULL;
    alloc_fail_at(1, 0);
    assert_int_equal(terminal_create(STDERR_FILENO, &terminal), ERR_MEMORY);
    alloc_fail_at(0, 0);
    terminal_destroy(NULL, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_order),
                                       cmocka_unit_test(test_stuck_reader),
                                       cmocka_unit_test(test_allocations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
