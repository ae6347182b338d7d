/* Goal: a match says of every holder exactly how many leading blocks it holds, whatever was
 * stored, removed and left before it; nonsense from a worker hurts nobody else; a leaving
 * holder is gone at once and its memory soon; memory that fails leaves the index whole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "router/prefix_index.h"

static uint64_t state_of_random;

static uint32_t draw(uint32_t below) {
    state_of_random = state_of_random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t) (state_of_random >> 33) % below;
}

static uint64_t spread(uint64_t x) {
    x = (x + 1) * 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    return x ^ (x >> 31);
}

/* --- the naive model: a tree of blocks, and for each holder the set of nodes it has ------- */

#define NODES 3000u
#define HOLDERS 100u

struct model {
    uint32_t parent[NODES]; /* of node n, below n; NODES: none */
    uint32_t depth[NODES];  /* 1 for a first block */
    uint64_t hash[NODES];
    bool has[HOLDERS][NODES];
    uint32_t holder[HOLDERS]; /* in the index; UINT32_MAX: not joined */
};

static void grow_tree(struct model *model) {
    for (uint32_t n = 0; n < NODES; n++) {
        /* mostly long chains, sometimes a branch or a new root */
        uint32_t parent = n && draw(10) ? n - 1 : n ? draw(n) : NODES;
        if (n == 0 || draw(40) == 0 || model->depth[parent] >= 200) parent = NODES;
        model->parent[n] = parent;
        model->depth[n] = parent == NODES ? 1 : model->depth[parent] + 1;
        model->hash[n] = spread(n);
    }
    for (uint32_t h = 0; h < HOLDERS; h++) model->holder[h] = UINT32_MAX;
}

static uint32_t path_to(const struct model *model, uint32_t node, uint32_t *path) {
    for (uint32_t at = node, i = model->depth[node]; at != NODES; at = model->parent[at])
        path[--i] = at;
    return model->depth[node];
}

/* What a match says of one holder; it may be named once, in levels that grow. */
static uint32_t said_of(const struct prefix_match *match, uint32_t holder) {
    uint32_t said = 0, before = 0, end = 0;
    for (uint32_t l = 0; l < match->level_count; l++) {
        const struct prefix_level *level = &match->levels[l];
        assert_true(level->block_count > before && level->first == end);
        assert_true(level->end > level->first);
        before = level->block_count;
        end = level->end;
        for (uint32_t i = level->first; i < level->end; i++) {
            if (match->holders[i] != holder) continue;
            assert_int_equal(said, 0);
            said = level->block_count;
        }
    }
    return said;
}

static uint32_t named_count(const struct prefix_match *match) {
    return match->level_count ? match->levels[match->level_count - 1].end : 0;
}

/* With a floor and a bound: who is not named has the floor. */
static void compare_floor(const struct model *model, struct prefix_index *index,
                          const uint32_t *path, const uint64_t *hashes, uint32_t count) {
    uint32_t above = draw(3) * draw(count + 1), least = UINT32_MAX, joined = 0;
    struct prefix_match match;
    prefix_index_match(index, hashes, count, true, above, &match);
    for (uint32_t h = 0; h < HOLDERS; h++) {
        if (model->holder[h] == UINT32_MAX) continue;
        uint32_t depth = 0;
        joined++;
        while (depth < count && model->has[h][path[depth]]) depth++;
        if (depth < least) least = depth;
        assert_int_equal(said_of(&match, model->holder[h]),
                         depth > match.floor && depth > above ? depth : 0);
    }
    assert_int_equal(match.floor, joined ? least : 0);
}

static void compare(const struct model *model, struct prefix_index *index, uint32_t node) {
    static uint32_t path[NODES];
    static uint64_t hashes[NODES];
    struct prefix_match match;
    uint32_t count = path_to(model, node, path), expected = 0;
    for (uint32_t i = 0; i < count; i++) hashes[i] = model->hash[path[i]];
    assert_true(prefix_index_holder_room(index) <= HOLDERS * 4);
    prefix_index_match(index, hashes, count, false, 0, &match);
    assert_int_equal(match.floor, 0);
    for (uint32_t h = 0; h < HOLDERS; h++) {
        if (model->holder[h] == UINT32_MAX) continue;
        uint32_t depth = 0;
        while (depth < count && model->has[h][path[depth]]) depth++;
        expected += depth > 0;
        assert_int_equal(said_of(&match, model->holder[h]), depth);
    }
    assert_int_equal(named_count(&match), expected);
    compare_floor(model, index, path, hashes, count);
}

static bool has_child(const struct model *model, uint32_t h, uint32_t node) {
    for (uint32_t n = node + 1; n < NODES; n++)
        if (model->parent[n] == node && model->has[h][n]) return true;
    return false;
}

static void store_chain(struct model *model, struct prefix_index *index, uint32_t h,
                        uint32_t node) {
    static uint32_t path[NODES];
    static struct kv_event events[NODES];
    uint32_t count = path_to(model, node, path);
    for (uint32_t i = 0; i < count; i++) { /* also what it has already: stored twice */
        events[i] = (struct kv_event){.kind = KV_EVENT_STORED, .hash = model->hash[path[i]]};
        model->has[h][path[i]] = true;
    }
    assert_int_equal(prefix_index_apply(index, model->holder[h], events, count), ERR_OK);
}

static void remove_leaves(struct model *model, struct prefix_index *index, uint32_t h) {
    for (uint32_t n = NODES, left = draw(60); n-- && left;) {
        if (draw(3) == 0 && !model->has[h][n]) { /* of what is not there */
            assert_int_equal(prefix_index_remove(index, model->holder[h], &model->hash[n], 1),
                             ERR_OK);
            left--;
        }
        if (!model->has[h][n] || draw(4) == 0 || has_child(model, h, n)) continue;
        model->has[h][n] = false;
        assert_int_equal(prefix_index_remove(index, model->holder[h], &model->hash[n], 1), ERR_OK);
        left--;
    }
}

static void test_random(void **state) {
    for (uint64_t seed = 1; seed <= 3; seed++) {
        print_message("seed %u\n", (unsigned) seed);
        state_of_random = seed;
        struct model *model = calloc(1, sizeof *model);
        struct prefix_index *index;
        grow_tree(model);
        assert_int_equal(prefix_index_create(&index), ERR_OK);
        for (int round = 0; round < 1500; round++) {
            uint32_t h = draw(seed == 1 ? 6 : HOLDERS);
            if (model->holder[h] == UINT32_MAX) {
                assert_int_equal(prefix_index_join(index, &model->holder[h]), ERR_OK);
            } else if (draw(12) == 0) {
                prefix_index_leave(index, model->holder[h]);
                model->holder[h] = UINT32_MAX;
                memset(model->has[h], 0, sizeof model->has[h]);
            } else if (draw(4) == 0) {
                remove_leaves(model, index, h);
            } else {
                store_chain(model, index, h, draw(NODES));
            }
            for (int i = 0; i < 4; i++) compare(model, index, draw(NODES));
            if (round % 300 == 299) prefix_index_check(index);
        }
        uint64_t entries = 0;
        for (uint32_t h = 0; h < HOLDERS; h++)
            for (uint32_t n = 0; n < NODES; n++) entries += model->has[h][n];
        struct prefix_index_counts counts;
        prefix_index_get_counts(index, &counts);
        assert_int_equal(counts.entries, entries);
        /* All leave: the sweep gives every line back. */
        for (uint32_t h = 0; h < HOLDERS; h++) {
            if (model->holder[h] != UINT32_MAX) prefix_index_leave(index, model->holder[h]);
            model->holder[h] = UINT32_MAX;
        }
        compare(model, index, NODES - 1);
        for (int i = 0; i < 2000; i++) prefix_index_sweep(index, 64);
        prefix_index_get_counts(index, &counts);
        assert_int_equal(counts.blocks, 0);
        assert_int_equal(counts.sets, 0);
        assert_int_equal(counts.entries, 0);
        prefix_index_check(index);
        prefix_index_destroy(index);
        free(model);
    }
}

/* Streams that no cache can send: children before and without parents, middles removed. */
static void test_nonsense(void **state) {
    struct prefix_index *index;
    uint64_t hashes[300];
    struct prefix_match match;
    uint32_t holders[3];
    state_of_random = 11;
    print_message("seed 11\n");
    for (uint32_t i = 0; i < 300; i++) hashes[i] = i % 7 ? spread(i) : i; /* some unmixed, one 0 */
    assert_int_equal(prefix_index_create(&index), ERR_OK);
    for (uint32_t h = 0; h < 3; h++) assert_int_equal(prefix_index_join(index, &holders[h]), 0);
    /* The third one is sane and must always be told of rightly. */
    assert_int_equal(prefix_index_store(index, holders[2], hashes, 200), ERR_OK);
    for (int round = 0; round < 3000; round++) {
        uint32_t h = draw(2), first = draw(300), count = draw(300 - first) % 9;
        enum err e = draw(2) ? prefix_index_store(index, holders[h], hashes + first, count)
                             : prefix_index_remove(index, holders[h], hashes + first, count);
        assert_int_equal(e, ERR_OK);
        uint32_t asked = 1 + draw(300);
        prefix_index_match(index, hashes, asked, false, 0, &match);
        for (uint32_t i = 0; i < 3; i++) assert_true(said_of(&match, holders[i]) <= asked);
        assert_int_equal(said_of(&match, holders[2]), asked < 200 ? asked : 200);
    }
    prefix_index_check(index);
    prefix_index_destroy(index);
}

static uint32_t match_all(struct prefix_index *index, const uint64_t *hashes, uint32_t count,
                          struct prefix_match *match) {
    prefix_index_match(index, hashes, count, false, 0, match);
    return named_count(match);
}

/* Numbers come back only after the sweep, and a new belief begins empty. */
static void test_churn(void **state) {
    struct prefix_index *index;
    struct prefix_match match;
    uint64_t hashes[500];
    for (uint32_t i = 0; i < 500; i++) hashes[i] = spread(i);
    assert_int_equal(prefix_index_create(&index), ERR_OK);
    assert_int_equal(match_all(index, hashes, 500, &match), 0);
    for (int round = 0; round < 2000; round++) {
        uint32_t a, b;
        assert_int_equal(prefix_index_join(index, &a), ERR_OK);
        assert_int_equal(prefix_index_join(index, &b), ERR_OK);
        assert_int_not_equal(a, b);
        assert_int_equal(match_all(index, hashes, 500, &match), 0);
        assert_int_equal(prefix_index_store(index, a, hashes, 500), ERR_OK);
        assert_int_equal(prefix_index_store(index, b, hashes, 300), ERR_OK);
        assert_int_equal(match_all(index, hashes, 500, &match), 2);
        assert_int_equal(prefix_index_holder_blocks(index, a), 500);
        prefix_index_leave(index, a);
        assert_int_equal(match_all(index, hashes, 500, &match), 1);
        assert_int_equal(said_of(&match, b), 300);
        prefix_index_leave(index, b);
        assert_true(prefix_index_holder_room(index) <= 16);
    }
    prefix_index_check(index);
    prefix_index_destroy(index);
}

/* One block of many holders is one block and one set. */
static void test_shared(void **state) {
    struct prefix_index *index;
    uint32_t holder;
    uint64_t hash = 5;
    assert_int_equal(prefix_index_create(&index), ERR_OK);
    for (uint32_t i = 0; i < 300; i++) {
        assert_int_equal(prefix_index_join(index, &holder), ERR_OK);
        assert_int_equal(prefix_index_store(index, holder, &hash, 1), ERR_OK);
    }
    struct prefix_index_counts counts;
    prefix_index_get_counts(index, &counts);
    assert_int_equal(counts.blocks, 1);
    assert_int_equal(counts.entries, 300);
    assert_int_equal(counts.sets, 1);
    prefix_index_check(index);
    prefix_index_destroy(index);
}

/* Every allocation of a short life fails once: nothing is lost but what was told to be. */
static void test_memory(void **state) {
    uint64_t hashes[400];
    struct prefix_match match;
    for (uint32_t i = 0; i < 400; i++) hashes[i] = spread(i);
    for (uint64_t n = 1;; n++) {
        struct prefix_index *index;
        uint32_t holders[24], joined = 0;
        bool failed = false;
        alloc_fail_at(n, 0);
        if (prefix_index_create(&index)) {
            alloc_fail_at(0, 0);
            continue;
        }
        for (uint32_t h = 0; h < 24; h++) {
            if (prefix_index_join(index, &holders[joined])) {
                failed = true;
                continue;
            }
            failed |= prefix_index_store(index, holders[joined], hashes, 400 - h * 10) != ERR_OK;
            joined++;
        }
        for (uint32_t h = 0; h + 4 < joined; h++) {
            uint32_t first =
                100; /* leaves first would be the cache's way; the index does not mind */
            failed |= prefix_index_remove(index, holders[h], hashes + first, 300) != ERR_OK;
        }
        for (uint32_t h = 0; h < joined / 2; h++) prefix_index_leave(index, holders[h]);
        for (int i = 0; i < 200; i++) prefix_index_sweep(index, 64);
        bool was_hit = alloc_count() >= n;
        alloc_fail_at(0, 0);
        for (int i = 0; i < 200; i++) prefix_index_sweep(index, 64);
        prefix_index_check(index);
        uint32_t hit_count = match_all(index, hashes, 400, &match);
        assert_true(hit_count <= joined);
        if (!failed) assert_int_equal(hit_count, 12);
        prefix_index_destroy(index);
        if (!was_hit) break;
        assert_true(n < 5000);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random), cmocka_unit_test(test_nonsense),
        cmocka_unit_test(test_churn),  cmocka_unit_test(test_shared),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
