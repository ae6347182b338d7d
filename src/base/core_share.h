/* core_share - how the workers of a node share its cores: who computes now gets an equal part.
 *
 * A memory file with one slot a worker, inherited from the supervisor.  A worker marks its slot
 * while a step runs; at the start of a step it counts the marks, and takes its part of the cores.
 * So an idle worker costs the others nothing, and busy ones do not trample on each other.  Soft
 * state: a wrong count costs time only.
 *
 *   IDLE --begin--> COMPUTING --end--> resting (counts for CORE_SHARE_REST_US) -> IDLE
 *     ^-- core_share_clear, by the supervisor: it reaped the worker
 *
 * Owned by one thread, the step thread; the slots are the only thing shared. */
#ifndef GRAMME_BASE_CORE_SHARE_H
#define GRAMME_BASE_CORE_SHARE_H

#include <stdint.h>

#include "base/err.h"

/* Longer than a busy worker's pause between two steps (measured: under 1 ms), far shorter than
 * anything that a user notices. */
#define CORE_SHARE_REST_US 2000u
#define CORE_SHARE_SLOTS_MAX 4096u

struct core_share;

/* A new memory file for so many workers; the caller closes it. */
MUST_USE enum err core_share_create(uint32_t slot_count, struct err_text *text, int *fd);
/* The worker of that slot is gone. */
void core_share_clear(int fd, uint32_t slot);

/* Closes nothing.  ERR_FORMAT: no such slot in the file. */
MUST_USE enum err core_share_open(int fd, uint32_t slot, struct err_text *text,
                                  struct core_share **out);
void core_share_close(struct core_share *share);
/* How many compute now, the caller included. */
uint32_t core_share_begin(struct core_share *share);
void core_share_end(struct core_share *share);

/* Of thread_count threads, those that work when `busy` workers share core_count cores. */
uint32_t core_share_threads(uint32_t thread_count, uint32_t core_count, uint32_t busy);

#endif
