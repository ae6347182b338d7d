/* sched_queue - see sched_queue.h. */
#include "sched/sched_queue.h"

#include <stddef.h>

#include "base/check.h"

void sched_queue_push(struct sched_queue *queue, struct sched_node *node, enum sched_class group,
                      uint64_t order) {
    CHECK(!node->is_queued);
    struct sched_node *before = queue->lists[group].tail;
    while (before && before->order > order) before = before->prev;
    struct sched_node *after = before ? before->next : queue->lists[group].head;
    *node = (struct sched_node){before, after, group, order, true};
    if (before) before->next = node;
    else queue->lists[group].head = node;
    if (after) after->prev = node;
    else queue->lists[group].tail = node;
    queue->count++;
}

void sched_queue_remove(struct sched_queue *queue, struct sched_node *node) {
    CHECK(node->is_queued);
    if (node->prev) node->prev->next = node->next;
    else queue->lists[node->group].head = node->next;
    if (node->next) node->next->prev = node->prev;
    else queue->lists[node->group].tail = node->prev;
    node->is_queued = false;
    queue->count--;
}

static struct sched_node *first_from(const struct sched_queue *queue, unsigned group) {
    for (; group < SCHED_CLASS_COUNT; group++)
        if (queue->lists[group].head) return queue->lists[group].head;
    return NULL;
}

struct sched_node *sched_queue_head(const struct sched_queue *queue) {
    return first_from(queue, 0);
}

struct sched_node *sched_queue_next(const struct sched_queue *queue,
                                    const struct sched_node *node) {
    return node->next ? node->next : first_from(queue, (unsigned) node->group + 1);
}

void sched_queue_check(const struct sched_queue *queue) {
    uint32_t count = 0;
    for (unsigned group = 0; group < SCHED_CLASS_COUNT; group++) {
        const struct sched_node *before = NULL, *node = queue->lists[group].head;
        for (; node; before = node, node = node->next) {
            CHECK(node->is_queued && node->group == group && node->prev == before);
            CHECK(!before || before->order <= node->order);
            CHECK(++count <= queue->count);
        }
        CHECK(queue->lists[group].tail == before);
    }
    CHECK(count == queue->count);
}
