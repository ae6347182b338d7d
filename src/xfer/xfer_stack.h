/* xfer_stack - hands objects from any number of threads to one, without a lock.
 *
 * Pushers exchange the top; the taker takes all at once, so that no node is looked at while it may
 * come back (no ABA), and turns the list round: first pushed, first served. */
#ifndef GRAMME_XFER_XFER_STACK_H
#define GRAMME_XFER_XFER_STACK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

struct xfer_node {
    struct xfer_node *next;
};
struct xfer_stack {
    _Atomic(struct xfer_node *) top;
};

/* true: it was empty, so the taker may sleep. */
static inline bool xfer_stack_push(struct xfer_stack *stack, struct xfer_node *node) {
    struct xfer_node *top = atomic_load_explicit(&stack->top, memory_order_relaxed);
    do node->next = top;
    while (!atomic_compare_exchange_weak(&stack->top, &top, node));
    return top == NULL;
}

static inline bool xfer_stack_is_empty(struct xfer_stack *stack) {
    return atomic_load(&stack->top) == NULL;
}

/* All that was pushed, oldest first; NULL: nothing. */
static inline struct xfer_node *xfer_stack_take(struct xfer_stack *stack) {
    struct xfer_node *node = atomic_exchange(&stack->top, NULL), *first = NULL;
    while (node) {
        struct xfer_node *next = node->next;
        node->next = first;
        first = node;
        node = next;
    }
    return first;
}

#endif
