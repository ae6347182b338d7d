/* chat_iter - what a for loop walks over: Python's iterators, lazy as there.
 *
 * A generator made by a filter (map, select ...) runs its steps only when an item is asked for,
 * so that templates see namespaces and errors at the same moment as in the reference. */
#ifndef GRAMME_CHAT_CHAT_ITER_H
#define GRAMME_CHAT_CHAT_ITER_H

#include "chat/chat_run.h"

/* *out becomes CHAT_MISSING at the end. */
typedef enum err (*chat_iter_next_fn)(struct chat_run *run, struct chat_iter *iter,
                                      struct chat_value *out);

struct chat_iter {
    chat_iter_next_fn next;
    struct chat_value source;
    struct chat_iter *inner; /* what a generator reads from; NULL until it starts */
    int64_t position;
    void *state; /* the generator's own */
    bool is_done;
    bool is_running; /* a generator that asks itself for an item fails */
};

/* The loop variable inside a for. */
struct chat_loop {
    struct chat_iter *iter;
    struct chat_value source; /* for its length */
    struct chat_value before;
    struct chat_value current;
    struct chat_value after; /* CHAT_MISSING: not looked at yet */
    struct chat_value changed;
    int64_t index0;
    int64_t length; /* -1: not known yet */
};

/* Python's iter(value): a generator is its own iterator.  ERR_FORMAT: not iterable. */
MUST_USE enum err chat_iter_create(struct chat_run *run, const struct chat_value *value,
                                   struct chat_iter **out);
bool chat_iter_is_possible(const struct chat_value *value);
/* A generator over source; next is called with inner not yet made. */
MUST_USE enum err chat_iter_generate(struct chat_run *run, chat_iter_next_fn next,
                                     const struct chat_value *source, void *state,
                                     struct chat_value *out);
MUST_USE enum err chat_iter_next(struct chat_run *run, struct chat_iter *iter,
                                 struct chat_value *out);
/* list(value) */
MUST_USE enum err chat_iter_list(struct chat_run *run, const struct chat_value *value,
                                 enum chat_kind kind, struct chat_value *out);
MUST_USE enum err chat_iter_reverse(struct chat_run *run, const struct chat_value *value,
                                    struct chat_value *out);

MUST_USE enum err chat_iter_loop_next(struct chat_run *run, struct chat_loop *loop,
                                      struct chat_value *out);
MUST_USE enum err chat_iter_loop_length(struct chat_run *run, struct chat_loop *loop, int64_t *out);
/* loop.index, loop.last ...; CHAT_MISSING when it has no such attribute. */
MUST_USE enum err chat_iter_loop_attribute(struct chat_run *run, struct chat_loop *loop,
                                           const struct chat_value *name, struct chat_value *out);

/* A list under construction, in the arena. */
struct chat_iter_builder {
    struct chat_value *items;
    uint32_t count;
    uint32_t room;
};
MUST_USE enum err chat_iter_add(struct chat_run *run, struct chat_iter_builder *builder,
                                const struct chat_value *item);

#endif
