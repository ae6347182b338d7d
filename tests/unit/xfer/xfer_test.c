/* Goal: the rules of xfer.h, on the in-process body: pieces arrive whole in the right blocks, each
 * call has its one answer, nothing is written after RELEASED, stale and wrong senders are
 * discarded, and a failed allocation leaves nothing behind. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "xfer/xfer.h"
#include "xfer_rig.h"

#define DEADLINE_US 60000000u

struct sleeper {
    pthread_mutex_t lock;
    pthread_cond_t woken;
    uint64_t count;
};
static struct sleeper sleeper = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};

static void wake(void *ctx) {
    struct sleeper *s = ctx;
    pthread_mutex_lock(&s->lock);
    s->count++;
    pthread_cond_broadcast(&s->woken);
    pthread_mutex_unlock(&s->lock);
}

/* The next event; fails the test when none comes. */
static struct xfer_event take(struct xfer *xfer) {
    struct xfer_event event;
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += DEADLINE_US / 1000000;
    pthread_mutex_lock(&sleeper.lock);
    for (;;) {
        uint64_t seen = sleeper.count;
        pthread_mutex_unlock(&sleeper.lock);
        if (xfer_take(xfer, &event)) return event;
        pthread_mutex_lock(&sleeper.lock);
        while (sleeper.count == seen)
            assert_int_equal(pthread_cond_timedwait(&sleeper.woken, &sleeper.lock, &until), 0);
    }
}

static struct xfer *make(const struct rig *rig, uint64_t instance, bool is_verifying) {
    struct xfer_options options = {.instance = instance,
                                   .layouts = rig->layouts,
                                   .rank_count = rig->tp,
                                   .block_size = 16,
                                   .is_verifying = is_verifying,
                                   .wake = wake,
                                   .wake_ctx = &sleeper};
    struct xfer *xfer = NULL;
    struct err_text text;
    assert_int_equal(xfer_local_create(&options, &text, &xfer), ERR_OK);
    return xfer;
}

static void expect_event(struct xfer *xfer, enum xfer_event_kind kind, uint64_t attempt,
                         uint32_t piece) {
    struct xfer_event event = take(xfer);
    assert_int_equal(event.kind, kind);
    assert_int_equal(event.attempt, attempt);
    assert_int_equal(event.piece, piece);
}

static void test_moves(void **state) {
    uint64_t seed = (uint64_t) time(NULL), random = seed;
    printf("seed %llu\n", (unsigned long long) seed);
    for (uint32_t round = 0; round < 40; round++) {
        const uint32_t degrees[] = {1, 2, 4, 8};
        struct rig p, d;
        rig_init(&p, degrees[rig_draw(&random, 4)], 12, 3, 4, 64, rig_draw(&random, RIG_ORDERS));
        rig_init(&d, degrees[rig_draw(&random, 4)], 12, 3, 4, 64, rig_draw(&random, RIG_ORDERS));
        struct xfer *from = make(&p, 1, round % 2), *to = make(&d, 2, false);
        struct xfer_id id = {.instance = 2, .attempt = round + 1, .key = {seed, round}};
        uint32_t blocks[5] = {3, 9, 1, 11, 4};
        uint32_t first = rig_draw(&random, 7);
        assert_int_equal(xfer_expect(to, &id, p.tp, first, blocks, 5), ERR_OK);
        for (uint32_t i = 0; i < 5; i++) {
            rig_write(&p, 11 - i, seed + i);
            assert_int_equal(xfer_send(from, xfer_address(to), &id, d.tp, first + i, 11 - i),
                             ERR_OK);
        }
        for (uint32_t i = 0; i < 5; i++) expect_event(from, XFER_SENT, id.attempt, first + i);
        for (uint32_t i = 0; i < 5; i++) expect_event(to, XFER_RECEIVED, id.attempt, first + i);
        for (uint32_t i = 0; i < 5; i++) assert_int_equal(rig_wrong(&d, blocks[i], seed + i), 0);
        xfer_forget(to, &id);
        expect_event(to, XFER_RELEASED, id.attempt, 0);
        struct xfer_counts counts;
        xfer_get_counts(from, &counts);
        assert_int_equal(counts.sent_pieces, 5);
        uint64_t bytes = counts.sent_bytes;
        xfer_get_counts(to, &counts);
        assert_int_equal(counts.received_pieces, 5);
        assert_int_equal(counts.received_bytes, bytes);
        assert_int_equal(counts.checksum_errors, 0);
        xfer_destroy(from);
        xfer_destroy(to);
        rig_release(&p);
        rig_release(&d);
    }
}

/* Wrong key, wrong piece, twice, forgotten: discarded without a write; the sender is told SENT. */
static void test_discards(void **state) {
    struct rig p, d;
    rig_init(&p, 2, 4, 2, 2, 64, RIG_IMAGE);
    rig_init(&d, 1, 4, 2, 2, 64, RIG_IMAGE);
    struct xfer *from = make(&p, 1, false), *to = make(&d, 2, false);
    rig_write(&p, 1, 77);
    rig_write(&p, 2, 78);
    rig_write(&d, 3, 5);
    struct xfer_id id = {.instance = 2, .attempt = 7, .key = {1, 2}}, wrong = id;
    uint32_t block = 3;
    assert_int_equal(xfer_expect(to, &id, 2, 4, &block, 1), ERR_OK);
    assert_int_equal(xfer_expect(to, &id, 2, 4, &block, 1), ERR_USAGE);
    wrong.key[1] = 3;
    assert_int_equal(xfer_send(from, xfer_address(to), &wrong, 1, 4, 1), ERR_OK);
    expect_event(from, XFER_SENT, 7, 4);
    assert_int_equal(xfer_send(from, xfer_address(to), &id, 1, 5, 1), ERR_OK);
    expect_event(from, XFER_SENT, 7, 5);
    assert_int_equal(xfer_send(from, xfer_address(to), &id, 1, 3, 1), ERR_OK);
    expect_event(from, XFER_SENT, 7, 3);
    assert_int_equal(rig_wrong(&d, 3, 5), 0);
    assert_int_equal(xfer_send(from, xfer_address(to), &id, 1, 4, 1), ERR_OK);
    expect_event(from, XFER_SENT, 7, 4);
    expect_event(to, XFER_RECEIVED, 7, 4);
    assert_int_equal(xfer_send(from, xfer_address(to), &id, 1, 4, 2), ERR_OK);
    expect_event(from, XFER_SENT, 7, 4);
    assert_int_equal(rig_wrong(&d, 3, 77), 0);
    xfer_forget(to, &id);
    expect_event(to, XFER_RELEASED, 7, 0);
    assert_int_equal(xfer_send(from, xfer_address(to), &id, 1, 4, 2), ERR_OK);
    expect_event(from, XFER_SENT, 7, 4);
    assert_int_equal(rig_wrong(&d, 3, 77), 0);
    struct xfer_counts counts;
    xfer_get_counts(to, &counts);
    assert_int_equal(counts.discarded_pieces, 5);
    /* The same id may be used again, once it is released. */
    assert_int_equal(xfer_expect(to, &id, 2, 4, &block, 1), ERR_OK);
    xfer_destroy(to);
    assert_int_equal(xfer_send(from, "local:0-0", &id, 1, 4, 2), ERR_OK);
    struct xfer_event event = take(from);
    assert_int_equal(event.kind, XFER_FAILED);
    assert_non_null(event.reason);
    xfer_destroy(from);
    rig_release(&p);
    rig_release(&d);
}

static void test_unlike_models(void **state) {
    struct rig p, d;
    rig_init(&p, 1, 4, 2, 2, 64, RIG_IMAGE);
    rig_init(&d, 1, 4, 3, 2, 64, RIG_IMAGE);
    struct xfer *from = make(&p, 1, false), *to = make(&d, 2, false);
    struct xfer_id id = {.instance = 2, .attempt = 7, .key = {1, 2}};
    uint32_t block = 3;
    rig_write(&d, 3, 5);
    assert_int_equal(xfer_expect(to, &id, 1, 0, &block, 1), ERR_OK);
    assert_int_equal(xfer_send(from, xfer_address(to), &id, 1, 0, 1), ERR_OK);
    expect_event(from, XFER_SENT, 7, 0);
    assert_int_equal(rig_wrong(&d, 3, 5), 0);
    assert_int_equal(xfer_expect(to, &(struct xfer_id){2, 8, {0, 0}}, 3, 0, &block, 1),
                     ERR_UNSUPPORTED);
    assert_int_equal(xfer_send(from, xfer_address(to), &id, 5, 0, 1), ERR_UNSUPPORTED);
    xfer_destroy(from);
    xfer_destroy(to);
    rig_release(&p);
    rig_release(&d);
}

/* Forget races with copies under way: after RELEASED the owner writes its own content at once, and
 * it must stand. */
static void test_forget_in_the_middle(void **state) {
    uint64_t seed = (uint64_t) time(NULL), random = seed;
    printf("seed %llu\n", (unsigned long long) seed);
    struct rig p, d;
    rig_init(&p, 1, 4, 4, 2, 16384, RIG_IMAGE);
    rig_init(&d, 2, 9, 4, 2, 16384, RIG_GAPS);
    struct xfer *from = make(&p, 1, false), *to = make(&d, 2, false);
    rig_write(&p, 1, 1);
    for (uint32_t round = 1; round <= 150; round++) {
        struct xfer_id id = {.instance = 2, .attempt = round, .key = {seed, round}};
        uint32_t blocks[8] = {1, 2, 3, 4, 5, 6, 7, 8};
        assert_int_equal(xfer_expect(to, &id, 1, 0, blocks, 8), ERR_OK);
        for (uint32_t i = 0; i < 8; i++)
            assert_int_equal(xfer_send(from, xfer_address(to), &id, 2, i, 1), ERR_OK);
        for (volatile uint64_t spin = rig_draw(&random, 60000); spin > 0; spin--) continue;
        if (round % 3 == 0) xfer_abandon(from, &id);
        xfer_forget(to, &id);
        struct xfer_event event = take(to);
        while (event.kind != XFER_RELEASED) event = take(to);
        assert_int_equal(event.attempt, round);
        for (uint32_t i = 1; i <= 8; i += 3) rig_write(&d, i, round);
        for (uint32_t i = 0; i < 8; i++) {
            event = take(from);
            assert_true(event.kind == XFER_SENT || event.kind == XFER_FAILED);
        }
        for (uint32_t i = 1; i <= 8; i += 3) assert_int_equal(rig_wrong(&d, i, round), 0);
        assert_false(xfer_take(to, &event));
        assert_false(xfer_take(from, &event));
    }
    xfer_destroy(from);
    xfer_destroy(to);
    rig_release(&p);
    rig_release(&d);
}

static void test_probe(void **state) {
    struct rig rig;
    rig_init(&rig, 1, 2, 1, 1, 64, RIG_IMAGE);
    struct xfer *a = make(&rig, 1, false), *b = make(&rig, 2, false);
    struct err_text text;
    char lane[32];
    assert_int_equal(xfer_probe_result(a, xfer_address(b), &text, lane), ERR_NOT_FOUND);
    assert_int_equal(xfer_probe(a, xfer_address(b)), ERR_OK);
    assert_int_equal(xfer_probe(a, "local:no-one"), ERR_OK);
    uint64_t until_us = clock_now_us() + DEADLINE_US;
    enum err e;
    while ((e = xfer_probe_result(a, xfer_address(b), &text, lane)) == ERR_BUSY)
        assert_true(clock_now_us() < until_us);
    assert_int_equal(e, ERR_OK);
    assert_string_equal(lane, "local");
    while ((e = xfer_probe_result(a, "local:no-one", &text, lane)) == ERR_BUSY)
        assert_true(clock_now_us() < until_us);
    assert_int_equal(e, ERR_PEER_GONE);
    assert_non_null(strstr(text.text, "local:no-one"));
    xfer_destroy(a);
    xfer_destroy(b);
    rig_release(&rig);
}

/* One after another each allocation fails; what succeeds still works, and all is freed. */
static void test_memory(void **state) {
    struct rig rig;
    rig_init(&rig, 2, 4, 2, 2, 64, RIG_IMAGE);
    rig_write(&rig, 1, 3);
    for (uint64_t n = 1;; n++) {
        struct xfer_options options = {.instance = 1,
                                       .layouts = rig.layouts,
                                       .rank_count = 2,
                                       .block_size = 16,
                                       .wake = wake,
                                       .wake_ctx = &sleeper};
        struct xfer *xfer = NULL;
        struct err_text text;
        alloc_fail_at(n, 0);
        enum err e = xfer_local_create(&options, &text, &xfer);
        struct xfer_id id = {.instance = 1, .attempt = n, .key = {1, 2}};
        uint32_t block = 2;
        enum err expected = ERR_OK, sent = ERR_OK, probed = ERR_OK;
        if (!e) {
            expected = xfer_expect(xfer, &id, 2, 0, &block, 1);
            sent = xfer_send(xfer, xfer_address(xfer), &id, 2, 0, 1);
            probed = xfer_probe(xfer, "local:x");
        }
        uint64_t asked = alloc_count();
        alloc_fail_at(0, 0);
        if (!e && !expected && !sent) {
            struct xfer_event a = take(xfer), b = take(xfer);
            assert_true(a.kind == XFER_SENT || b.kind == XFER_SENT);
            assert_true(a.kind == XFER_RECEIVED || b.kind == XFER_RECEIVED);
            assert_int_equal(rig_wrong(&rig, 2, 3), 0);
        }
        xfer_destroy(xfer);
        bool is_failed = e || expected || sent || probed;
        assert_int_equal(is_failed, n <= asked);
        if (!is_failed) break;
    }
    rig_release(&rig);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_moves),         cmocka_unit_test(test_discards),
        cmocka_unit_test(test_unlike_models), cmocka_unit_test(test_forget_in_the_middle),
        cmocka_unit_test(test_probe),         cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
