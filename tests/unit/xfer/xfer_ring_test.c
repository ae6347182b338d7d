/* Goal: what one side writes the other reads, at whatever sizes and round the end; who sleeps is
 * woken exactly once; a counter or a descriptor that cannot be is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/num.h"
#include "xfer/xfer_ring.h"
#include "xfer_rig.h"

static uint64_t random_state;

static void open_both(struct xfer_ring *writer, struct xfer_ring *reader) {
    int fd;
    assert_int_equal(xfer_ring_create(writer, &fd), ERR_OK);
    assert_int_equal(xfer_ring_open(reader, fd), ERR_OK);
    close(fd);
}

static void test_bytes(void **state) {
    struct xfer_ring writer, reader;
    uint64_t written = 0, taken = 0;
    open_both(&writer, &reader);
    for (uint32_t round = 0; round < 2000; round++) {
        uint8_t *at;
        uint64_t room = xfer_ring_look(&writer, &at);
        uint64_t bytes = num_min(room, rig_draw(&random_state, 4096));
        assert_true(room > 0 || written - taken == XFER_RING_BYTES);
        for (uint64_t i = 0; i < bytes; i++) at[i] = (uint8_t) ((written + i) * 2654435761u >> 24);
        assert_false(xfer_ring_pass(&writer, bytes));
        written += bytes;
        if (round % 3 == 0) continue;
        uint64_t have = xfer_ring_look(&reader, &at);
        assert_true(have <= written - taken);
        assert_true(have > 0 || written == taken);
        have = num_min(have, rig_draw(&random_state, 8192));
        for (uint64_t i = 0; i < have; i++)
            assert_int_equal(at[i], (uint8_t) ((taken + i) * 2654435761u >> 24));
        assert_false(xfer_ring_pass(&reader, have));
        taken += have;
    }
    assert_true(taken > 3 * XFER_RING_BYTES);
    xfer_ring_close(&writer);
    xfer_ring_close(&reader);
}

static void test_sleep(void **state) {
    struct xfer_ring writer, reader;
    uint8_t *at;
    open_both(&writer, &reader);
    assert_true(xfer_ring_wait(&reader));
    assert_true(xfer_ring_pass(&writer, 128));
    assert_false(xfer_ring_pass(&writer, 128)); /* once */
    assert_false(xfer_ring_wait(&reader));      /* there is something */
    assert_false(xfer_ring_wait(&writer));
    assert_false(xfer_ring_pass(&writer, XFER_RING_BYTES - 256));
    assert_int_equal(xfer_ring_look(&writer, &at), 0);
    assert_true(xfer_ring_wait(&writer));
    assert_true(xfer_ring_pass(&reader, 128));
    assert_int_equal(xfer_ring_look(&writer, &at), 128);
    xfer_ring_close(&writer);
    xfer_ring_close(&reader);
}

static void test_foreign(void **state) {
    struct xfer_ring writer, reader, other;
    uint8_t *at;
    open_both(&writer, &reader);
    assert_false(xfer_ring_pass(&writer, XFER_RING_BYTES + 1));
    assert_int_equal(xfer_ring_look(&reader, &at), 0);
    assert_true(reader.is_bad);
    assert_false(xfer_ring_wait(&reader)); /* for ever */
    xfer_ring_close(&writer);
    xfer_ring_close(&reader);
    open_both(&writer, &reader);
    assert_false(xfer_ring_pass(&reader, 128)); /* what was never written */
    assert_int_equal(xfer_ring_look(&writer, &at), 0);
    assert_true(writer.is_bad);
    xfer_ring_close(&writer);
    xfer_ring_close(&reader);

    int fd = memfd_create("other", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(xfer_ring_open(&other, fd), ERR_FORMAT);
    assert_int_equal(ftruncate(fd, XFER_RING_BYTES + 4096), 0);
    assert_int_equal(xfer_ring_open(&other, fd), ERR_FORMAT); /* could be cut under us */
    close(fd);
    assert_int_equal(xfer_ring_open(&other, -1), ERR_FORMAT);
    xfer_ring_close(&other);
}

int main(void) {
    random_state = (uint64_t) time(NULL);
    printf("seed %llu\n", (unsigned long long) random_state);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_sleep),
        cmocka_unit_test(test_foreign),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
