/* Goal: for any legal pair of degrees and any strides, every head of every rank of D gets the
 * bytes of that head, once, from one holder; runs are as long as memory allows; both halves agree
 * byte by byte. */
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
#include "xfer/xfer_plan.h"
#include "xfer_rig.h"

static uint32_t legal_degrees(uint32_t heads, uint32_t *out) {
    uint32_t count = 0;
    for (uint32_t tp = 1; tp <= 16; tp++)
        if (heads % tp == 0 || tp % heads == 0) out[count++] = tp;
    return count;
}

/* Each head of each rank of D is covered by exactly one pair, which comes from a holder. */
static void check_cover(const struct rig *p, const struct rig *d, const struct xfer_plan *source,
                        const struct xfer_plan *target) {
    assert_int_equal(source->pair_count, target->pair_count);
    assert_int_equal(source->part_count, target->part_count);
    assert_int_equal(source->piece_bytes, target->piece_bytes);
    uint32_t covered[RIG_RANKS_MAX][64] = {0};
    for (uint32_t i = 0; i < source->pair_count; i++) {
        const struct xfer_pair *a = &source->pairs[i], *b = &target->pairs[i];
        assert_int_equal(a->own_rank, b->peer_rank);
        assert_int_equal(a->peer_rank, b->own_rank);
        assert_int_equal(a->bytes, b->bytes);
        assert_int_equal(a->part_first, b->part_first);
        const struct kv_layout *holder = &p->layouts[a->own_rank];
        for (uint32_t k = 0; k < a->head_count; k++) {
            uint32_t head = a->head_first + k;
            assert_true(head >= holder->head_first &&
                        head < holder->head_first + holder->head_count);
            covered[b->own_rank][head]++;
        }
        if (p->tp == d->tp) assert_int_equal(a->own_rank, a->peer_rank);
    }
    for (uint32_t rank = 0; rank < d->tp; rank++)
        for (uint32_t head = 0; head < d->head_total; head++) {
            const struct kv_layout *layout = &d->layouts[rank];
            bool is_held =
                head >= layout->head_first && head < layout->head_first + layout->head_count;
            assert_int_equal(covered[rank][head], is_held);
        }
}

/* Runs do not touch each other, and join to the pair. */
static void check_runs(const struct xfer_plan *plan) {
    for (uint32_t i = 0; i < plan->pair_count; i++) {
        const struct xfer_pair *pair = &plan->pairs[i];
        uint64_t at = 0, end = UINT64_MAX;
        for (uint32_t k = 0; k < pair->run_count; k++) {
            const struct xfer_run *run = &plan->runs[pair->run_first + k];
            assert_int_equal(run->at, at);
            assert_int_not_equal(run->offset, end);
            at += run->bytes;
            end = run->offset + run->bytes;
        }
        assert_int_equal(at, pair->bytes);
    }
}

/* Moves a block by parts through a buffer, as a message does; runs of one part go straight. */
static void move_by_parts(const struct rig *p, uint32_t p_block, const struct xfer_plan *source,
                          const struct rig *d, uint32_t d_block, const struct xfer_plan *target) {
    uint8_t *buffer = malloc(XFER_PART_BYTES);
    assert_non_null(buffer);
    for (uint32_t i = 0; i < source->part_count; i++) {
        struct xfer_part from = xfer_plan_part(source, i), to = xfer_plan_part(target, i);
        assert_int_equal(from.at, to.at);
        assert_int_equal(from.bytes, to.bytes);
        assert_true(from.bytes > 0 && from.bytes <= XFER_PART_BYTES);
        const uint8_t *straight =
            xfer_plan_contiguous(source, p->layouts, from.pair, p_block, from.at, from.bytes);
        xfer_plan_gather(source, p->layouts, from.pair, p_block, from.at, from.bytes, buffer);
        if (straight) assert_memory_equal(straight, buffer, from.bytes);
        xfer_plan_scatter(target, d->layouts, to.pair, d_block, to.at, to.bytes, buffer);
    }
    free(buffer);
}

static void test_random_pairs(void **state) {
    uint64_t seed = (uint64_t) time(NULL), random = seed;
    printf("seed %llu\n", (unsigned long long) seed);
    const uint32_t head_counts[] = {1, 2, 3, 4, 8, 12};
    for (uint32_t round = 0; round < 300; round++) {
        uint32_t heads = head_counts[rig_draw(&random, 6)], degrees[16];
        uint32_t degree_count = legal_degrees(heads, degrees);
        uint32_t layers = 1 + rig_draw(&random, 4), bytes = 8 * (1 + rig_draw(&random, 9));
        if (round % 30 == 0) bytes = 300u << 10; /* several parts */
        if (round % 30 == 0) layers = 2;
        struct rig p, d;
        rig_init(&p, degrees[rig_draw(&random, degree_count)], 3, layers, heads, bytes,
                 rig_draw(&random, RIG_ORDERS));
        rig_init(&d, degrees[rig_draw(&random, degree_count)], 4, layers, heads, bytes,
                 rig_draw(&random, RIG_ORDERS));
        struct xfer_plan *source, *target;
        assert_int_equal(xfer_plan_create(p.layouts, p.tp, XFER_SOURCE, d.tp, &source), ERR_OK);
        assert_int_equal(xfer_plan_create(d.layouts, d.tp, XFER_TARGET, p.tp, &target), ERR_OK);
        check_cover(&p, &d, source, target);
        check_runs(source);
        check_runs(target);
        rig_write(&p, 1, seed);
        rig_write(&p, 2, seed + 1);
        for (uint32_t block = 1; block < 4; block++) rig_write(&d, block, seed + 9 + block);
        move_by_parts(&p, 2, source, &d, 3, target);
        assert_int_equal(rig_wrong(&d, 3, seed + 1), 0);
        assert_int_equal(xfer_plan_hash(source, p.layouts, 2),
                         xfer_plan_hash(target, d.layouts, 3));
        for (uint32_t pair = 0; pair < source->pair_count; pair++)
            xfer_plan_copy(source, p.layouts, 1, target, d.layouts, 1, pair);
        assert_int_equal(rig_wrong(&d, 1, seed), 0);
        assert_int_equal(rig_wrong(&d, 2, seed + 11), 0); /* its neighbour is untouched */
        assert_int_equal(rig_wrong(&d, 3, seed + 1), 0);
        xfer_plan_destroy(source);
        xfer_plan_destroy(target);
        rig_release(&p);
        rig_release(&d);
    }
}

static void test_equal_is_one_copy(void **state) {
    struct rig rig;
    rig_init(&rig, 4, 2, 5, 8, 64, RIG_IMAGE);
    struct xfer_plan *plan;
    assert_int_equal(xfer_plan_create(rig.layouts, 4, XFER_SOURCE, 4, &plan), ERR_OK);
    assert_int_equal(plan->pair_count, 4);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(plan->pairs[i].run_count, 1);
        assert_int_equal(plan->pairs[i].bytes, rig.layouts[0].block_bytes);
    }
    xfer_plan_destroy(plan);
    /* Half the heads of each layer: a run for K and one for V. */
    assert_int_equal(xfer_plan_create(rig.layouts, 4, XFER_SOURCE, 8, &plan), ERR_OK);
    assert_int_equal(plan->pair_count, 8);
    assert_int_equal(plan->pairs[0].run_count, 10);
    xfer_plan_destroy(plan);
    rig_release(&rig);
}

/* Of 4 holders of each head and 4 ranks that want it, each holder serves one. */
static void test_holders_share(void **state) {
    struct rig rig;
    rig_init(&rig, 8, 2, 1, 2, 64, RIG_IMAGE);
    struct xfer_plan *plan;
    assert_int_equal(xfer_plan_create(rig.layouts, 8, XFER_SOURCE, 8, &plan), ERR_OK);
    assert_int_equal(plan->pair_count, 8);
    for (uint32_t i = 0; i < 8; i++) assert_int_equal(plan->pairs[i].own_rank, i);
    xfer_plan_destroy(plan);
    rig_release(&rig);
}

static void test_illegal(void **state) {
    struct rig rig;
    rig_init(&rig, 2, 2, 1, 4, 64, RIG_IMAGE);
    struct xfer_plan *plan = NULL;
    assert_int_equal(xfer_plan_create(rig.layouts, 2, XFER_SOURCE, 3, &plan), ERR_UNSUPPORTED);
    assert_int_equal(xfer_plan_create(rig.layouts, 2, XFER_SOURCE, 0, &plan), ERR_UNSUPPORTED);
    assert_int_equal(xfer_plan_create(rig.layouts, 2, XFER_SOURCE, 128, &plan), ERR_UNSUPPORTED);
    for (uint64_t n = 1;; n++) {
        alloc_fail_at(n, 0);
        enum err e = xfer_plan_create(rig.layouts, 2, XFER_SOURCE, 8, &plan);
        uint64_t asked = alloc_count();
        alloc_fail_at(0, 0);
        if (!e) {
            assert_true(n > asked);
            break;
        }
        assert_int_equal(e, ERR_MEMORY);
    }
    xfer_plan_destroy(plan);
    rig_release(&rig);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_pairs),
        cmocka_unit_test(test_equal_is_one_copy),
        cmocka_unit_test(test_holders_share),
        cmocka_unit_test(test_illegal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
