/* core_share - who computes is counted by everyone, who rests counts a moment longer, who died is
 * forgotten; slots are checked; the parts of all never add up to more than the cores. */
#include "base/core_share.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/clock.h"

static void test_counts(void **state) {
    (void) state;
    struct err_text text = {0};
    struct core_share *shares[3] = {NULL};
    int fd = -1;
    assert_int_equal(core_share_create(3, &text, &fd), ERR_OK);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(core_share_open(fd, i, &text, &shares[i]), ERR_OK);
    assert_int_equal(core_share_begin(shares[0]), 1);
    assert_int_equal(core_share_begin(shares[1]), 2);
    assert_int_equal(core_share_begin(shares[2]), 3);
    assert_int_equal(core_share_begin(shares[0]), 3); /* itself once */
    core_share_clear(fd, 1);                          /* killed in its step */
    assert_int_equal(core_share_begin(shares[0]), 2);
    core_share_end(shares[2]);
    uint64_t ended_us = clock_now_us();
    uint32_t busy = core_share_begin(shares[0]);
    if (clock_now_us() < ended_us + CORE_SHARE_REST_US / 2) assert_int_equal(busy, 2);
    while (clock_now_us() < ended_us + CORE_SHARE_REST_US) usleep(100);
    assert_int_equal(core_share_begin(shares[0]), 1);
    core_share_close(shares[0]); /* what it marked goes with it */
    assert_int_equal(core_share_begin(shares[1]), 1);
    core_share_close(shares[1]);
    core_share_close(shares[2]);
    core_share_close(NULL);
    close(fd);
}

static void test_bounds(void **state) {
    (void) state;
    struct err_text text = {0};
    struct core_share *share = NULL;
    int fd = -1;
    assert_int_equal(core_share_create(0, &text, &fd), ERR_LIMIT);
    assert_int_equal(core_share_create(CORE_SHARE_SLOTS_MAX + 1, &text, &fd), ERR_LIMIT);
    assert_int_equal(core_share_create(2, &text, &fd), ERR_OK);
    assert_int_equal(core_share_open(fd, 2, &text, &share), ERR_FORMAT);
    assert_int_equal(core_share_open(-1, 0, &text, &share), ERR_IO);
    alloc_fail_at(1, 0);
    assert_int_equal(core_share_open(fd, 0, &text, &share), ERR_MEMORY);
    alloc_fail_at(0, 0);
    assert_null(share);
    close(fd);
}

static void test_parts(void **state) {
    (void) state;
    for (uint32_t cores = 1; cores <= 130; cores++)
        for (uint32_t busy = 1; busy <= 140; busy++) {
            uint32_t part = core_share_threads(cores, cores, busy);
            assert_true(part >= 1 && (part == 1 || part * busy <= cores));
            assert_true((part + 1) * busy > cores);
            assert_true(core_share_threads(3, cores, busy) <= 3);
        }
    assert_int_equal(core_share_threads(2, 2, 0), 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
