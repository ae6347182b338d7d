/* Goal: the local bus delivers each message whole and in order or not at all, counts what it
 * loses, wakes the receiver, and stands several senders at once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "base/alloc.h"
#include "bus/bus.h"

static void count_wake(void *ctx) { atomic_fetch_add((_Atomic int *) ctx, 1); }

static void test_inbox_and_subjects(void **state) {
    struct bus *bus;
    struct bus_port *a, *b, *c;
    _Atomic int b_wakes = 0;
    assert_int_equal(bus_local_create(8, 4096, &bus), ERR_OK);
    assert_int_equal(bus_port_open(bus, 1, 0, NULL, NULL, &a), ERR_OK);
    assert_int_equal(bus_port_open(bus, 2, 1u << BUS_LOAD, count_wake, &b_wakes, &b), ERR_OK);
    assert_int_equal(bus_port_open(bus, 3, 0, NULL, NULL, &c), ERR_OK);
    struct bus_message m;
    assert_false(bus_take(b, &m));
    assert_int_equal(bus_send(a, BUS_INBOX, 2, "hello", 5), ERR_OK);
    assert_int_equal(bus_send(a, BUS_LOAD, 0, "load", 4), ERR_OK);
    assert_int_equal(bus_send(a, BUS_INBOX, 9, "x", 1), ERR_NOT_FOUND);
    assert_int_equal(b_wakes, 2);
    assert_true(bus_take(b, &m));
    assert_int_equal(m.from, 1);
    assert_int_equal(m.subject, BUS_INBOX);
    assert_int_equal(m.bytes, 5);
    assert_memory_equal(m.data, "hello", 5);
    assert_true(bus_take(b, &m));
    assert_int_equal(m.subject, BUS_LOAD);
    assert_memory_equal(m.data, "load", 4);
    assert_false(bus_take(b, &m));
    assert_false(bus_take(a, &m)); /* not to oneself */
    assert_false(bus_take(c, &m)); /* not to one who does not hear it */
    bus_port_close(b);
    assert_int_equal(bus_send(a, BUS_INBOX, 2, "late", 4), ERR_NOT_FOUND);
    bus_port_close(a);
    bus_port_close(c);
    bus_destroy(bus);
}

static void test_bounds(void **state) {
    struct bus *bus;
    struct bus_port *a, *b;
    assert_int_equal(bus_local_create(4, 256, &bus), ERR_OK);
    assert_int_equal(bus_port_open(bus, 1, 0, NULL, NULL, &a), ERR_OK);
    assert_int_equal(bus_port_open(bus, 2, 0, NULL, NULL, &b), ERR_OK);
    char big[512] = {0};
    assert_int_equal(bus_send(a, BUS_INBOX, 2, big, sizeof big), ERR_LIMIT);
    for (int i = 0; i < 4; i++) assert_int_equal(bus_send(a, BUS_INBOX, 2, "m", 1), ERR_OK);
    assert_int_equal(bus_send(a, BUS_INBOX, 2, "m", 1), ERR_BUSY); /* by messages */
    struct bus_message m;
    while (bus_take(b, &m)) continue;
    assert_int_equal(bus_send(a, BUS_INBOX, 2, big, 200), ERR_OK);
    assert_int_equal(bus_send(a, BUS_INBOX, 2, big, 200), ERR_BUSY); /* by bytes */
    assert_int_equal(bus_port_lost(b), 2);
    bus_port_close(a);
    bus_port_close(b);
    bus_destroy(bus);
}

/* Messages of every length through a small ring, so that its end is met at all offsets. */
static void test_wrap(void **state) {
    struct bus *bus;
    struct bus_port *a, *b;
    assert_int_equal(bus_local_create(64, 1008, &bus), ERR_OK);
    assert_int_equal(bus_port_open(bus, 1, 0, NULL, NULL, &a), ERR_OK);
    assert_int_equal(bus_port_open(bus, 2, 0, NULL, NULL, &b), ERR_OK);
    uint32_t sent = 0, taken = 0;
    uint8_t data[256];
    for (uint32_t round = 0; round < 20000; round++) {
        size_t bytes = (sent * 37u) % sizeof data;
        memset(data, (int) (sent & 0xff), bytes);
        if (bus_send(a, BUS_INBOX, 2, data, bytes) == ERR_OK) sent++;
        struct bus_message m;
        for (uint32_t k = 0; k < round % 3; k++) {
            if (!bus_take(b, &m)) break;
            assert_int_equal(m.bytes, (taken * 37u) % sizeof data);
            for (size_t i = 0; i < m.bytes; i++) assert_int_equal(m.data[i], taken & 0xff);
            taken++;
        }
    }
    assert_true(taken > 1000 && sent - taken <= 64);
    bus_port_close(a);
    bus_port_close(b);
    bus_destroy(bus);
}

struct sender {
    struct bus *bus;
    uint64_t instance;
    uint32_t sent;
};

static void *send_many(void *ctx) {
    struct sender *sender = ctx;
    struct bus_port *port;
    if (bus_port_open(sender->bus, sender->instance, 0, NULL, NULL, &port)) return NULL;
    for (uint32_t i = 0; i < 20000; i++)
        if (bus_send(port, BUS_INBOX, 100, &i, sizeof i) == ERR_OK) sender->sent++;
    bus_port_close(port);
    return NULL;
}

static void test_threads(void **state) {
    struct bus *bus;
    struct bus_port *port;
    _Atomic int wakes = 0;
    assert_int_equal(bus_local_create(256, 65536, &bus), ERR_OK);
    assert_int_equal(bus_port_open(bus, 100, 0, count_wake, &wakes, &port), ERR_OK);
    struct sender senders[3];
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) {
        senders[i] = (struct sender){bus, (uint64_t) i + 1, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, send_many, &senders[i]), 0);
    }
    uint32_t taken = 0, last[4] = {0}, quiet = 0;
    while (quiet < 2000) {
        struct bus_message m;
        if (!bus_take(port, &m)) {
            quiet++;
            sched_yield();
            continue;
        }
        quiet = 0;
        uint32_t value;
        assert_int_equal(m.bytes, sizeof value);
        memcpy(&value, m.data, sizeof value);
        assert_true(m.from >= 1 && m.from <= 3);
        assert_true(value + 1 > last[m.from]); /* in each sender's order */
        last[m.from] = value + 1;
        taken++;
    }
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    struct bus_message m;
    while (bus_take(port, &m)) taken++;
    uint32_t sent = senders[0].sent + senders[1].sent + senders[2].sent;
    assert_int_equal(taken, sent);
    assert_int_equal(wakes, (int) sent);
    assert_int_equal(sent + bus_port_lost(port), 60000);
    bus_port_close(port);
    bus_destroy(bus);
}

static void test_no_memory(void **state) {
    struct bus *bus;
    struct bus_port *port;
    alloc_fail_at(1, 0);
    assert_int_equal(bus_local_create(4, 256, &bus), ERR_MEMORY);
    alloc_fail_at(0, 0);
    assert_int_equal(bus_local_create(4, 256, &bus), ERR_OK);
    for (uint64_t n = 1; n <= 2; n++) {
        alloc_fail_at(n, 0);
        assert_int_equal(bus_port_open(bus, 1, 0, NULL, NULL, &port), ERR_MEMORY);
        alloc_fail_at(0, 0);
    }
    bus_destroy(bus);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_inbox_and_subjects),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_wrap),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
