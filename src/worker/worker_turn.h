/* worker_turn - workers of one node load in turn where their disk wants it.
 *
 * A spinning disk that several workers read at once seeks instead of reading; the second one finds
 * the file in the page cache anyway.  A turn is an abstract socket's name, one of `concurrency` a
 * user and disk: the kernel takes it back when its holder ends, however it ends, and no file is
 * left.  One thread. */
#ifndef GRAMME_WORKER_WORKER_TURN_H
#define GRAMME_WORKER_WORKER_TURN_H

#include <stdbool.h>
#include <stdint.h>

#include "model/model.h"

struct worker_turn {
    int fd; /* -1: none is held */
};

/* How many workers may load this model at once; 0: any number.  1 where its files are on a spinning
 * disk and not in the page cache. */
uint32_t worker_turn_choose(const struct model *model);
/* A free turn of the disk that holds `path`; false: all are taken now.  Where sockets are refused
 * there are no turns: true, with none held. */
MUST_USE bool worker_turn_try(const char *path, uint32_t concurrency, struct worker_turn *out);
void worker_turn_give(struct worker_turn *turn);

#endif
