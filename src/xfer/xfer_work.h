/* xfer_work - what D expects: which arriving bytes are wanted, and when a block is free of them.
 *
 * One table a body, touched by its transfer thread alone or under its lock.
 *
 *   add --> begin --> end ... (all parts: RECEIVED) --> forget --> (nothing under way) RELEASED
 *                      +-- failure: BROKEN
 *
 * A receive that was begun keeps its block, whatever happens to the work, until its end.  After
 * forget or BROKEN nothing is begun any more.
 * Invariant: RELEASED is told exactly once, when is_forgotten and under_way == 0; then the work is
 * out of the table and the body holds no pointer to it. */
#ifndef GRAMME_XFER_XFER_WORK_H
#define GRAMME_XFER_XFER_WORK_H

#include "xfer/xfer_body.h"
#include "xfer/xfer_wire.h"

struct xfer_table {
    struct xfer_work *buckets[XFER_BUCKETS];
};

void xfer_work_add(struct xfer_table *table, struct xfer_work *work);
/* NULL: not expected, or another key. */
struct xfer_work *xfer_work_find(struct xfer_table *table, const struct xfer_id *id);
/* The entry is what our half of the plan says of that part. */
MUST_USE bool xfer_work_fits(const struct xfer_work *work, const struct xfer_entry *entry);
/* Whether these parts of the piece are wanted; then their block may be written until the end.
 * Never counts a part twice. */
MUST_USE bool xfer_work_begin(struct xfer_work *work, uint32_t piece, uint32_t part_first,
                              uint32_t part_count);
uint32_t xfer_work_block(const struct xfer_work *work, uint32_t piece);
/* The end of what begin began; reason: NULL, or why the bytes are not good.  The work may be gone
 * afterwards. */
void xfer_work_end(struct xfer *xfer, struct xfer_table *table, struct xfer_work *work,
                   uint32_t piece, uint32_t part_first, uint32_t part_count, const char *reason);
/* Nothing more will come, because `reason` (the peer is gone). */
void xfer_work_break(struct xfer *xfer, struct xfer_work *work, uint32_t piece, const char *reason);
/* The same for all works that come from there. */
void xfer_work_break_from(struct xfer *xfer, struct xfer_table *table, const void *from,
                          const char *reason);
void xfer_work_forget(struct xfer *xfer, struct xfer_table *table, struct xfer_work *work,
                      uint64_t now_us);

#endif
