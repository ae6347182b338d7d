/* Goal: the pool never loses, doubles or overpromises a block, whatever is done to it; a promise
 * is kept; what is evicted is what was used longest ago, a tail before its prefix. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "kv/kv_table.h"

#define SIZE 8u

static struct kv_pool *make_pool(uint32_t block_count, bool is_caching) {
    struct kv_pool *pool;
    struct kv_pool_options options = {block_count, SIZE, is_caching, 64};
    assert_int_equal(kv_pool_create(&options, &pool), ERR_OK);
    return pool;
}

static struct kv_pool_counts counts_of(const struct kv_pool *pool) {
    struct kv_pool_counts counts;
    kv_pool_check(pool);
    kv_pool_get_counts(pool, &counts);
    assert_int_equal(counts.free + counts.cached + counts.used, counts.total);
    return counts;
}

static void test_promise(void **state) {
    struct kv_pool *pool = make_pool(4, true);
    struct kv_promise a = {0}, b = {0};
    assert_int_equal(kv_pool_promise(pool, 3, &a), ERR_OK);
    assert_int_equal(kv_pool_promise(pool, 2, &b), ERR_BUSY);
    assert_int_equal(b.block_count, 0); /* untouched */
    assert_int_equal(kv_pool_promise(pool, 1, &b), ERR_OK);
    uint32_t block = kv_pool_acquire(pool, &a);
    assert_true(block >= 1 && block <= 4);
    assert_int_equal(counts_of(pool).promised, 3);
    kv_pool_forfeit(pool, &a);
    assert_int_equal(counts_of(pool).promised, 1);
    kv_pool_release(pool, block);
    kv_pool_forfeit(pool, &b);
    assert_int_equal(counts_of(pool).free, 4);
    kv_pool_destroy(pool);
}

/* A cached hit takes away room that was promised to others: it must be counted. */
static void test_hits_count(void **state) {
    struct kv_pool *pool = make_pool(4, true);
    uint32_t blocks[4], tokens[24] = {1, 2, 3};
    struct kv_table table;
    kv_table_init(&table, blocks, 4);
    assert_int_equal(kv_table_admit(&table, pool, tokens, 17, true, 3), ERR_OK);
    assert_int_equal(kv_table_cover(&table, pool, 17), ERR_OK);
    kv_table_seal(&table, pool, tokens, 17);
    assert_int_equal(table.sealed_count, 2);
    kv_table_release(&table, pool);
    struct kv_pool_counts counts = counts_of(pool);
    assert_int_equal(counts.cached, 2);
    assert_int_equal(counts.free, 2);
    struct kv_promise other = {0};
    assert_int_equal(kv_pool_promise(pool, 2, &other), ERR_OK);
    /* 2 hits + 1 new > 4 - 2 promised */
    assert_int_equal(kv_table_admit(&table, pool, tokens, 17, true, 3), ERR_BUSY);
    assert_int_equal(table.block_count, 0);
    kv_pool_forfeit(pool, &other);
    assert_int_equal(kv_pool_promise(pool, 1, &other), ERR_OK);
    assert_int_equal(kv_table_admit(&table, pool, tokens, 17, true, 3), ERR_OK);
    assert_int_equal(table.block_count, 2);
    assert_int_equal(counts_of(pool).cached, 0);
    /* The very promise is kept although everything else is taken. */
    assert_int_equal(kv_table_cover(&table, pool, 24), ERR_OK);
    kv_pool_release(pool, kv_pool_acquire(pool, &other));
    kv_table_release(&table, pool);
    kv_pool_destroy(pool);
}

static void test_last_token_is_computed(void **state) {
    struct kv_pool *pool = make_pool(8, true);
    uint32_t blocks[8], tokens[33] = {5};
    struct kv_table table;
    kv_table_init(&table, blocks, 8);
    assert_int_equal(kv_table_admit(&table, pool, tokens, 32, true, 4), ERR_OK);
    assert_int_equal(kv_table_cover(&table, pool, 32), ERR_OK);
    kv_table_seal(&table, pool, tokens, 32);
    kv_table_release(&table, pool);
    for (uint32_t n = 1; n <= 33; n++) {
        assert_int_equal(kv_table_admit(&table, pool, tokens, n, true, 5), ERR_OK);
        assert_int_equal(table.block_count, (n - 1) / SIZE);
        kv_table_release(&table, pool);
        assert_int_equal(kv_table_admit(&table, pool, tokens, n, false, 5), ERR_OK);
        assert_int_equal(table.block_count, 0);
        kv_table_release(&table, pool);
    }
    kv_pool_destroy(pool);
}

static void test_eviction_order(void **state) {
    struct kv_pool *pool = make_pool(6, true);
    uint32_t blocks_a[6], blocks_b[6], a[24] = {1}, b[24] = {2};
    struct kv_table ta, tb;
    kv_table_init(&ta, blocks_a, 6);
    kv_table_init(&tb, blocks_b, 6);
    assert_int_equal(kv_table_admit(&ta, pool, a, 24, true, 3), ERR_OK);
    assert_int_equal(kv_table_admit(&tb, pool, b, 24, true, 3), ERR_OK);
    assert_int_equal(kv_table_cover(&ta, pool, 24), ERR_OK);
    assert_int_equal(kv_table_cover(&tb, pool, 24), ERR_OK);
    kv_table_seal(&ta, pool, a, 24);
    kv_table_seal(&tb, pool, b, 24);
    uint32_t order[6] = {blocks_b[2], blocks_b[1], blocks_b[0],
                         blocks_a[2], blocks_a[1], blocks_a[0]};
    kv_table_release(&tb, pool);
    kv_table_release(&ta, pool);
    struct kv_promise promise = {0};
    assert_int_equal(kv_pool_promise(pool, 6, &promise), ERR_OK);
    for (uint32_t i = 0; i < 6; i++) {
        assert_int_equal(kv_pool_acquire(pool, &promise), order[i]);
        kv_pool_check(pool);
    }
    for (uint32_t i = 0; i < 6; i++) kv_pool_release(pool, order[i]);
    assert_int_equal(counts_of(pool).free, 6);
    kv_pool_destroy(pool);
}

#define TABLES 6u
#define LENGTH 64u

/* Sequences of few different tokens come, grow, seal, fork and go; the check walks the pool after
 * every move. */
static void test_random(void **state) {
    for (unsigned seed = 1; seed <= 12; seed++) {
        srand(seed);
        bool is_caching = seed % 3 != 0;
        struct kv_pool *pool = make_pool(20, is_caching);
        struct kv_table tables[TABLES];
        uint32_t blocks[TABLES][LENGTH / SIZE], tokens[TABLES][LENGTH], computed[TABLES] = {0};
        uint32_t hits = 0, busy = 0, forks = 0;
        for (uint32_t t = 0; t < TABLES; t++) kv_table_init(&tables[t], blocks[t], LENGTH / SIZE);
        for (int round = 0; round < 3000; round++) {
            uint32_t t = (uint32_t) rand() % TABLES;
            struct kv_table *table = &tables[t];
            bool is_empty = table->block_count == 0 && table->promise.block_count == 0;
            uint32_t other = (uint32_t) rand() % TABLES;
            if (is_empty && other != t && tables[other].sealed_count && rand() % 3 == 0) {
                uint32_t shared = 1 + (uint32_t) rand() % tables[other].sealed_count;
                memcpy(tokens[t], tokens[other], sizeof tokens[t]);
                enum err e = kv_table_fork(table, pool, &tables[other], shared, shared);
                assert_int_equal(e, ERR_OK); /* sealed and in use: costs nothing */
                computed[t] = shared * SIZE;
                forks++;
            } else if (is_empty) {
                uint32_t n = 1 + (uint32_t) rand() % LENGTH;
                for (uint32_t i = 0; i < LENGTH; i++) tokens[t][i] = i % SIZE ? 0 : rand() % 2;
                if (kv_table_admit(table, pool, tokens[t], n, true, (n + SIZE - 1) / SIZE)) busy++;
                computed[t] = table->block_count * SIZE;
                hits += table->block_count;
            } else if (rand() % 5 == 0) {
                kv_table_release(table, pool);
                computed[t] = 0;
            } else if (computed[t] < LENGTH) {
                uint32_t to = computed[t] + 1 + (uint32_t) rand() % (LENGTH - computed[t]);
                if (!kv_table_cover(table, pool, to)) {
                    computed[t] = to;
                    kv_table_seal(table, pool, tokens[t], to);
                }
            }
            if (round % 500 == 499) kv_pool_drop_cached(pool);
            counts_of(pool);
        }
        for (uint32_t t = 0; t < TABLES; t++) kv_table_release(&tables[t], pool);
        struct kv_pool_counts counts = counts_of(pool);
        assert_int_equal(counts.used, 0);
        assert_int_equal(counts.promised, 0);
        assert_true(busy > 0 && forks > 0);
        if (is_caching) assert_true(hits > 0);
        else assert_int_equal(counts.cached, 0);
        kv_pool_destroy(pool);
    }
}

static void test_no_memory(void **state) {
    for (uint64_t n = 1;; n++) {
        struct kv_pool *pool = NULL;
        struct kv_pool_options options = {9, SIZE, true, 64};
        alloc_fail_at(n, 0);
        enum err e = kv_pool_create(&options, &pool);
        bool was_hit = alloc_count() >= n;
        alloc_fail_at(0, 0);
        assert_int_equal(e, was_hit ? ERR_MEMORY : ERR_OK);
        kv_pool_destroy(pool);
        if (!was_hit) break;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_promise),
        cmocka_unit_test(test_hits_count),
        cmocka_unit_test(test_last_token_is_computed),
        cmocka_unit_test(test_eviction_order),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
