/* The restart policy as a table: delays grow and are bounded, the limit holds, a healthy time and an
 * asked end begin anew, what repeats by nature is not tried again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fleet/restart.h"

static void test_growing(void **state) {
    (void) state;
    struct restart_end crash = {0};
    uint32_t failures = 0;
    uint64_t delay, before = 0;
    for (uint32_t i = 1; i <= 10; i++) {
        assert_true(restart_decide(&crash, 10, &failures, &delay));
        assert_int_equal(failures, i);
        assert_true(delay >= before && delay <= RESTART_LAST_US);
        if (i == 1) assert_int_equal(delay, RESTART_FIRST_US);
        before = delay;
    }
    assert_int_equal(before, RESTART_LAST_US);
    assert_false(restart_decide(&crash, 10, &failures, &delay));
}

static void test_anew(void **state) {
    (void) state;
    uint32_t failures = 10;
    uint64_t delay;
    struct restart_end healthy = {.served_us = RESTART_HEALTHY_US};
    assert_true(restart_decide(&healthy, 10, &failures, &delay));
    assert_int_equal(failures, 1);
    failures = 10;
    struct restart_end asked = {.is_asked = true};
    assert_true(restart_decide(&asked, 10, &failures, &delay));
    assert_int_equal(failures, 0);
    assert_int_equal(delay, 0);
}

static void test_special(void **state) {
    (void) state;
    uint32_t failures = 0;
    uint64_t delay;
    struct restart_end permanent = {.is_permanent = true, .is_asked = true};
    assert_false(restart_decide(&permanent, 10, &failures, &delay));
    struct restart_end bus = {.is_at_once = true};
    for (int i = 0; i < 3; i++) {
        assert_true(restart_decide(&bus, 10, &failures, &delay));
        assert_int_equal(delay, 0);
    }
    assert_true(restart_decide(&bus, 10, &failures, &delay));
    assert_true(delay > 0); /* one that cannot live does not spin */
    struct restart_end crash = {0};
    failures = 0;
    assert_false(restart_decide(&crash, 0, &failures, &delay));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_growing), cmocka_unit_test(test_anew),
                                       cmocka_unit_test(test_special)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
