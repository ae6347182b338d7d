/* team - every thread runs every run once, barriers order memory, dealing hands out each index
 * once; with one thread, as many as cores, and more than cores; spinning and sleeping; with some of
 * the threads, another number each run.  Under
 * TSan the plain (not atomic) writes below are the proof that barriers order memory. */
#include "base/team.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/alloc.h"

#define ROUNDS 50
#define ITEMS 1000

struct shared {
    struct team *team;
    uint32_t sums[TEAM_THREADS_MAX]; /* plain: written by its thread, read by all after a barrier */
    uint32_t failures[TEAM_THREADS_MAX];
    uint8_t dealt[ITEMS]; /* plain: an index is dealt once */
    bool is_slow;
};

static void nap(void) {
    struct timespec span = {.tv_nsec = 200000}; /* far past the spin */
    nanosleep(&span, NULL);
}

static void barrier_body(void *ctx, uint32_t thread, uint32_t thread_count) {
    struct shared *shared = ctx;
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        if (shared->is_slow && round % thread_count == thread) nap();
        shared->sums[thread] = round + thread;
        team_barrier(shared->team);
        for (uint32_t other = 0; other < thread_count; other++)
            if (shared->sums[other] != round + other) shared->failures[thread]++;
        team_barrier(shared->team);
    }
}

static void deal_body(void *ctx, uint32_t thread, uint32_t thread_count) {
    struct shared *shared = ctx;
    for (uint32_t pass = 0; pass < 2; pass++) {
        for (uint32_t i; (i = team_deal(shared->team)) < ITEMS;) shared->dealt[i]++;
        team_barrier(shared->team);
        if (thread == 0) team_deal_reset(shared->team);
        team_barrier(shared->team);
    }
    (void) thread_count;
}

static void count_body(void *ctx, uint32_t thread, uint32_t thread_count) {
    struct shared *shared = ctx;
    if (team_thread_count(shared->team) != thread_count) shared->failures[thread]++;
    shared->sums[thread]++;
}

static void run_all(uint32_t thread_count, bool may_spin, bool is_slow) {
    static struct shared shared;
    memset(&shared, 0, sizeof(shared));
    shared.is_slow = is_slow;
    assert_int_equal(team_create(thread_count, may_spin, &shared.team), ERR_OK);
    for (uint32_t run = 0; run < 200; run++) team_run(shared.team, count_body, &shared);
    for (uint32_t thread = 0; thread < thread_count; thread++)
        assert_int_equal(shared.sums[thread], 200);
    for (uint32_t run = 0; run < 3; run++) team_run(shared.team, barrier_body, &shared);
    team_run(shared.team, deal_body, &shared);
    for (uint32_t i = 0; i < ITEMS; i++) assert_int_equal(shared.dealt[i], 2);
    for (uint32_t thread = 0; thread < thread_count; thread++)
        assert_int_equal(shared.failures[thread], 0);
    if (is_slow) nap(); /* the workers sleep now; the next run must wake them */
    team_run(shared.team, count_body, &shared);
    team_destroy(shared.team);
}

static void active_body(void *ctx, uint32_t thread, uint32_t thread_count) {
    struct shared *shared = ctx;
    if (thread >= thread_count) shared->failures[0]++;
    shared->sums[thread]++;
    team_barrier(shared->team);
    for (uint32_t other = 0; other < thread_count; other++)
        if (shared->sums[other] != shared->sums[0]) shared->failures[thread]++;
    team_barrier(shared->team);
}

/* Each run by another number of threads: those and no others work, and nobody waits for the rest. */
static void test_active(void **state) {
    (void) state;
    static struct shared shared;
    for (uint32_t thread_count = 1; thread_count <= 9; thread_count += 4) {
        memset(&shared, 0, sizeof shared);
        assert_int_equal(team_create(thread_count, true, &shared.team), ERR_OK);
        for (uint32_t run = 0; run < 2000; run++) {
            uint32_t active = 1 + run * 7 % thread_count;
            team_set_active(shared.team, active, run % 3 == 0 && active <= 2);
            memset(shared.sums, 0, sizeof shared.sums);
            team_run(shared.team, active_body, &shared);
            for (uint32_t thread = 0; thread < thread_count; thread++)
                assert_int_equal(shared.sums[thread], thread < active);
        }
        for (uint32_t thread = 0; thread < thread_count; thread++)
            assert_int_equal(shared.failures[thread], 0);
        team_destroy(shared.team);
    }
}

static void test_runs(void **state) {
    (void) state;
    const uint32_t counts[] = {1, 2, 3, 8, 33};
    for (size_t i = 0; i < ARRAY_COUNT(counts); i++) {
        run_all(counts[i], false, false);
        run_all(counts[i], counts[i] <= 3, counts[i] <= 8);
    }
}

static void test_bounds(void **state) {
    (void) state;
    struct team *team = NULL;
    assert_int_equal(team_create(0, true, &team), ERR_USAGE);
    assert_int_equal(team_create(TEAM_THREADS_MAX + 1, true, &team), ERR_USAGE);
    alloc_fail_at(1, 0);
    assert_int_equal(team_create(2, true, &team), ERR_MEMORY);
    alloc_fail_at(0, 0);
    assert_null(team);
    team_destroy(NULL);
}

static void test_create_destroy(void **state) {
    (void) state;
    for (uint32_t i = 0; i < 100; i++) {
        struct team *team = NULL;
        assert_int_equal(team_create(1 + i % 6, i % 2 == 0, &team), ERR_OK);
        team_destroy(team);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_runs),
        cmocka_unit_test(test_active),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_create_destroy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
