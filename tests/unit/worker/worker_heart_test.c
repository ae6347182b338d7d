/* worker_heart: LOAD goes on while a step lasts, stops when none does, and is always the last one
 * sent.  Times are only waited for, never judged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "worker/worker_heart.h"

#define TICK_US 2000u
#define DEADLINE_US 20000000u

static void no_wake(void *ctx) { (void) ctx; }

struct rig {
    struct bus *bus;
    struct bus_port *worker, *frontend;
    struct worker_heart *heart;
};

static void rig_open(struct rig *rig) {
    assert_int_equal(bus_local_create(1024, 1u << 20, &rig->bus), ERR_OK);
    assert_int_equal(bus_port_open(rig->bus, 1, 0, no_wake, NULL, &rig->worker), ERR_OK);
    assert_int_equal(bus_port_open(rig->bus, 2, 1u << BUS_LOAD, no_wake, NULL, &rig->frontend),
                     ERR_OK);
    assert_int_equal(worker_heart_create(rig->worker, TICK_US, &rig->heart), ERR_OK);
}

static void rig_close(struct rig *rig) {
    worker_heart_destroy(rig->heart);
    bus_port_close(rig->worker);
    bus_port_close(rig->frontend);
    bus_destroy(rig->bus);
}

static void rest(uint64_t us) {
    struct timespec time = {.tv_nsec = (long) us * 1000};
    nanosleep(&time, NULL);
}

/* Takes `count` LOADs, each of which must be `expected`. */
static void hear(struct rig *rig, uint32_t count, const char *expected) {
    uint64_t end_us = clock_now_us() + DEADLINE_US;
    struct bus_message message;
    while (count) {
        if (!bus_take(rig->frontend, &message)) {
            assert_true(clock_now_us() < end_us);
            rest(500);
            continue;
        }
        assert_int_equal(message.subject, BUS_LOAD);
        assert_int_equal(message.from, 1);
        assert_int_equal(message.bytes, strlen(expected));
        assert_memory_equal(message.data, expected, message.bytes);
        count--;
    }
}

static void test_beats(void **state) {
    (void) state;
    struct rig rig;
    rig_open(&rig);
    worker_heart_set_stepping(rig.heart, true); /* nothing to repeat yet */
    assert_int_equal(worker_heart_send(rig.heart, BUS_LOAD, 0, "first", 5), ERR_OK);
    hear(&rig, 4, "first");
    worker_heart_set_stepping(rig.heart, false);
    struct bus_message message;
    while (bus_take(rig.frontend, &message)) {
    }
    /* A beat under way ended under the lock that set_stepping took: there can be no more. */
    rest(5 * TICK_US);
    assert_false(bus_take(rig.frontend, &message));
    assert_int_equal(worker_heart_send(rig.heart, BUS_LOAD, 0, "second", 6), ERR_OK);
    worker_heart_set_stepping(rig.heart, true);
    hear(&rig, 3, "second");
    rig_close(&rig);
}

/* Other messages go to their place and are not repeated. */
static void test_others(void **state) {
    (void) state;
    struct rig rig;
    rig_open(&rig);
    worker_heart_set_stepping(rig.heart, true);
    assert_int_equal(worker_heart_send(rig.heart, BUS_INBOX, 2, "tokens", 6), ERR_OK);
    rest(5 * TICK_US);
    struct bus_message message;
    assert_true(bus_take(rig.frontend, &message));
    assert_int_equal(message.subject, BUS_INBOX);
    assert_memory_equal(message.data, "tokens", 6);
    assert_false(bus_take(rig.frontend, &message));
    rig_close(&rig);
}

static void test_no_memory(void **state) {
    (void) state;
    struct worker_heart *heart = NULL;
    alloc_fail_at(1, 0);
    enum err e = worker_heart_create(NULL, TICK_US, &heart);
    alloc_fail_at(0, 0);
    assert_int_equal(e, ERR_MEMORY);
    assert_null(heart);
    worker_heart_destroy(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_beats),
        cmocka_unit_test(test_others),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
