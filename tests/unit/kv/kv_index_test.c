/* Goal: a block is found by its whole chain of tokens and by nothing less; the events, replayed,
 * give the very set that is there; hashes are those that other routers compute. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <xxhash.h>

#include "base/alloc.h"
#include "kv/kv_index.h"

#define BLOCKS 40u
#define SIZE 8u
static const struct kv_link root = {0, 0};

static void test_chain(void **state) {
    struct kv_index *index;
    uint32_t a[SIZE] = {1, 2, 3, 4, 5, 6, 7, 8}, b[SIZE] = {9, 9, 9, 9, 9, 9, 9, 9};
    uint32_t c[SIZE] = {1, 2, 3, 4, 5, 6, 7, 9};
    struct kv_link link = {0};
    assert_int_equal(kv_index_create(BLOCKS, SIZE, 16, &index), ERR_OK);
    assert_int_equal(kv_index_find(index, root, a, &link), 0);
    struct kv_link la = kv_index_insert(index, 1, root, a);
    struct kv_link lab = kv_index_insert(index, 2, la, b);
    struct kv_link lc = kv_index_insert(index, 3, root, c);
    assert_int_equal(kv_index_find(index, root, a, &link), 1);
    assert_int_equal(link.chain, la.chain);
    assert_int_equal(kv_index_find(index, la, b, &link), 2);
    assert_int_equal(kv_index_find(index, root, b, &link), 0); /* not without its parent */
    assert_int_equal(kv_index_find(index, lc, b, &link), 0);   /* nor behind another */
    /* A hash that collides by name alone is no match: the chain's number is compared. */
    struct kv_link forged = {lc.chain, la.hash};
    assert_int_equal(kv_index_find(index, forged, b, &link), 0);
    /* One chain in two blocks: either is found, and the chain stays while one is left. */
    struct kv_link twin = kv_index_insert(index, 4, root, a);
    assert_int_equal(twin.chain, la.chain);
    kv_index_remove(index, 1);
    assert_int_equal(kv_index_find(index, root, a, &link), 4);
    assert_int_equal(kv_index_parent(index, 2, 0), 4);
    assert_int_equal(kv_index_event_last(index), 3); /* the twin made no event, nor did its end */
    kv_index_remove(index, 2);
    kv_index_remove(index, 4);
    assert_int_equal(kv_index_find(index, root, a, &link), 0);
    struct kv_event event;
    assert_true(kv_index_event_get(index, 5, &event));
    assert_int_equal(event.kind, KV_EVENT_REMOVED);
    assert_int_equal(event.hash, la.hash);
    assert_true(kv_index_event_get(index, 2, &event));
    assert_int_equal(event.kind, KV_EVENT_STORED);
    assert_int_equal(event.hash, lab.hash);
    assert_int_equal(event.parent_hash, la.hash);
    assert_false(kv_index_event_get(index, 6, &event));
    assert_false(kv_index_event_get(index, 0, &event));
    kv_index_destroy(index);
}

static void test_hashes(void **state) {
    struct kv_index *index;
    uint32_t a[SIZE] = {1, 2, 3, 4, 5, 6, 7, 8}, b[SIZE] = {9};
    assert_int_equal(kv_index_create(BLOCKS, SIZE, 16, &index), ERR_OK);
    struct kv_link la = kv_index_insert(index, 1, root, a);
    struct kv_link lb = kv_index_insert(index, 2, la, b);
    uint64_t local = XXH3_64bits_withSeed(a, sizeof a, 1337);
    assert_int_equal(la.hash, local);
    uint64_t pair[2] = {local, XXH3_64bits_withSeed(b, sizeof b, 1337)};
    assert_int_equal(lb.hash, XXH3_64bits_withSeed(pair, sizeof pair, 1337));
    kv_index_destroy(index);
}

/* Whether a child is here that would lose its last parent with this block: the pool never does
 * that. */
static bool is_needed(const struct kv_index *index, uint32_t block) {
    for (uint32_t child = 1; child <= BLOCKS; child++)
        if (kv_index_has(index, child) && kv_index_parent(index, child, 0) == block &&
            kv_index_parent(index, child, block) == 0)
            return true;
    return false;
}

/* Random inserts and removes; a reader that follows the events always holds the same set as a
 * dump, and one that fell behind is told so. */
static void test_events(void **state) {
    struct kv_index *index;
    struct kv_link links[BLOCKS + 1] = {{0}};
    uint32_t depth[BLOCKS + 1] = {0};
    uint64_t held[BLOCKS * 2];
    uint32_t held_count = 0;
    uint64_t read = 0;
    srand(7);
    assert_int_equal(kv_index_create(BLOCKS, SIZE, 8, &index), ERR_OK);
    for (int round = 0; round < 4000; round++) {
        uint32_t block = 1 + (uint32_t) rand() % BLOCKS;
        if (kv_index_has(index, block)) {
            if (is_needed(index, block)) continue;
            kv_index_remove(index, block);
        } else {
            uint32_t parent = 1 + (uint32_t) rand() % BLOCKS, tokens[SIZE];
            bool is_first = !kv_index_has(index, parent) || depth[parent] > 3;
            for (uint32_t i = 0; i < SIZE; i++) tokens[i] = (uint32_t) rand() % 2 * (i == 0);
            depth[block] = is_first ? 1 : depth[parent] + 1;
            links[block] = kv_index_insert(index, block, is_first ? root : links[parent], tokens);
        }
        if (round % 5 == 0) continue; /* two changes before the next look */
        struct kv_event event;
        while (read < kv_index_event_last(index)) {
            assert_true(kv_index_event_get(index, ++read, &event));
            assert_int_equal(event.number, read);
            uint32_t at = 0;
            while (at < held_count && held[at] != event.hash) at++;
            if (event.kind == KV_EVENT_STORED) {
                assert_int_equal(at, held_count);
                held[held_count++] = event.hash;
            } else {
                assert_true(at < held_count);
                held[at] = held[--held_count];
            }
        }
        uint32_t cursor = 0, dumped = 0;
        while (kv_index_dump(index, &cursor, &event)) {
            uint32_t at = 0;
            while (at < held_count && held[at] != event.hash) at++;
            assert_true(at < held_count);
            dumped++;
        }
        assert_int_equal(dumped, held_count);
    }
    assert_true(read > 8);
    struct kv_event event;
    assert_false(kv_index_event_get(index, read - 8, &event)); /* no longer kept */
    kv_index_clear(index);
    assert_true(kv_index_event_get(index, kv_index_event_last(index), &event));
    assert_int_equal(event.kind, KV_EVENT_CLEARED);
    kv_index_destroy(index);
}

static void test_no_memory(void **state) {
    for (uint64_t n = 1;; n++) {
        struct kv_index *index = NULL;
        alloc_fail_at(n, 0);
        enum err e = kv_index_create(BLOCKS, SIZE, 8, &index);
        bool was_hit = alloc_count() >= n;
        alloc_fail_at(0, 0);
        assert_int_equal(e, was_hit ? ERR_MEMORY : ERR_OK);
        kv_index_destroy(index);
        if (!was_hit) break;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chain),
        cmocka_unit_test(test_hashes),
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
