/* Goal: the queue gives back started ones by age, then re-dispatched, then new ones, each in its
 * order, whatever is pushed and removed between. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "sched/sched_queue.h"

static void test_order(void **state) {
    struct sched_queue queue = {0};
    struct sched_node n[6] = {{0}};
    sched_queue_push(&queue, &n[0], SCHED_NEW, 1);
    sched_queue_push(&queue, &n[1], SCHED_NEW, 2);
    sched_queue_push(&queue, &n[2], SCHED_FIRST, 3);
    sched_queue_push(&queue, &n[3], SCHED_STARTED, 9);
    sched_queue_push(&queue, &n[4], SCHED_STARTED, 4); /* older: ahead of 9 */
    sched_queue_push(&queue, &n[5], SCHED_STARTED, 7); /* between */
    static const uint32_t order[6] = {4, 5, 3, 2, 0, 1};
    sched_queue_check(&queue);
    struct sched_node *node = sched_queue_head(&queue);
    for (uint32_t i = 0; i < 6; i++, node = sched_queue_next(&queue, node))
        assert_ptr_equal(node, &n[order[i]]);
    assert_null(node);
    for (uint32_t i = 0; i < 6; i++) {
        assert_ptr_equal(sched_queue_head(&queue), &n[order[i]]);
        sched_queue_remove(&queue, &n[order[i]]);
        sched_queue_check(&queue);
    }
    assert_null(sched_queue_head(&queue));
}

static void test_random(void **state) {
    struct sched_queue queue = {0};
    struct sched_node n[30] = {{0}};
    srand(3);
    for (int round = 0; round < 20000; round++) {
        struct sched_node *node = &n[rand() % 30];
        if (node->is_queued) sched_queue_remove(&queue, node);
        else
            sched_queue_push(&queue, node, (enum sched_class)(rand() % SCHED_CLASS_COUNT),
                             (uint64_t) (rand() % 10));
        sched_queue_check(&queue);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
