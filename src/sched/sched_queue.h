/* sched_queue - the sequences that wait, in the order in which they may start.
 *
 * Four classes, each ascending by `order`: those that hold their blocks and want a seat alone
 * (they go first, for those behind may wait for what they hold); those that ran already or belong
 * to a request that runs (preempted ones, further choices), by age; re-dispatched ones; new ones.
 * Nodes are embedded in their owners' structs; the queue owns nothing.  Step thread only. */
#ifndef GRAMME_SCHED_SCHED_QUEUE_H
#define GRAMME_SCHED_SCHED_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

enum sched_class { SCHED_READY, SCHED_STARTED, SCHED_FIRST, SCHED_NEW, SCHED_CLASS_COUNT };

struct sched_node {
    struct sched_node *prev, *next;
    enum sched_class group;
    uint64_t order;
    bool is_queued;
};

struct sched_queue {
    struct {
        struct sched_node *head, *tail;
    } lists[SCHED_CLASS_COUNT];
    uint32_t count;
};

/* Found from the tail: constant time for whoever comes in order. */
void sched_queue_push(struct sched_queue *queue, struct sched_node *node, enum sched_class group,
                      uint64_t order);
void sched_queue_remove(struct sched_queue *queue, struct sched_node *node);
/* NULL: nobody waits. */
struct sched_node *sched_queue_head(const struct sched_queue *queue);
/* The one behind `node`, over all classes; NULL: the last. */
struct sched_node *sched_queue_next(const struct sched_queue *queue, const struct sched_node *node);
void sched_queue_check(const struct sched_queue *queue);

#endif
