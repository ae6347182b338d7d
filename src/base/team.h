/* team - a fixed set of compute threads that work on one thing at a time.
 *
 * The caller of team_run is thread 0; the others wait for work.  A wait spins at most
 * TEAM_SPIN_US (protocol.md 6), then sleeps on a futex; with more threads than cores nobody
 * spins.  Owned by one thread (the step thread); team_run does not nest.
 *
 * A run may be of fewer threads than there are (team_set_active); the others sleep through it.
 * Within a run, every thread calls team_barrier the same number of times.  Whatever was written
 * before a barrier, or before team_run, is seen by all threads after it. */
#ifndef GRAMME_BASE_TEAM_H
#define GRAMME_BASE_TEAM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define TEAM_THREADS_MAX 256
#define TEAM_SPIN_US 20 /* specified: protocol.md 6 */
/* The stack of each thread but the caller's, explicit so that the plan can count it: room for a
 * kernel's tile of sums (64 KiB) many times over, and for sanitizers. */
#define TEAM_STACK_BYTES (1u << 20)

typedef void (*team_fn)(void *ctx, uint32_t thread, uint32_t thread_count);

struct team;

/* may_spin false: every wait sleeps at once (more threads than cores).  ERR_USAGE for 0 threads
 * or more than TEAM_THREADS_MAX, ERR_MEMORY when a thread cannot be made; then none is left. */
MUST_USE enum err team_create(uint32_t thread_count, bool may_spin, struct team **out);
void team_destroy(struct team *team);
/* Makes the calling thread's own stack resident, all its explicit size (--prefault). */
void team_prefault_stack(void);
uint32_t team_thread_count(const struct team *team); /* all, active or not */
/* Between runs: the next ones are of the first active_count threads (1 to all; at the start: all),
 * and spin when they may.  What a run computes must not depend on it. */
void team_set_active(struct team *team, uint32_t active_count, bool may_spin);
/* Runs fn on every active thread and returns when all have returned; team_deal starts at 0. */
void team_run(struct team *team, team_fn fn, void *ctx);
/* Inside a run: returns when all threads of the team have arrived. */
void team_barrier(struct team *team);
/* Inside a run: a shared counter for dealing work out in pieces.  team_deal_reset by one thread
 * before a barrier; then each team_deal gives the next index. */
void team_deal_reset(struct team *team);
uint32_t team_deal(struct team *team);

#endif
