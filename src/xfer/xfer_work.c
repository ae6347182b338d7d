/* xfer_work - see xfer_work.h. */
#include "xfer/xfer_work.h"

static struct xfer_work **bucket_of(struct xfer_table *table, const struct xfer_id *id) {
    return &table->buckets[(id->attempt ^ id->instance) % XFER_BUCKETS];
}

void xfer_work_add(struct xfer_table *table, struct xfer_work *work) {
    struct xfer_work **bucket = bucket_of(table, &work->id);
    work->table_next = *bucket;
    work->is_in_table = true;
    *bucket = work;
}

struct xfer_work *xfer_work_find(struct xfer_table *table, const struct xfer_id *id) {
    struct xfer_work *work = *bucket_of(table, id);
    while (work && (work->id.instance != id->instance || work->id.attempt != id->attempt))
        work = work->table_next;
    bool is_right = work && work->id.key[0] == id->key[0] && work->id.key[1] == id->key[1];
    return is_right ? work : NULL;
}

static void remove_work(struct xfer_table *table, struct xfer_work *work) {
    struct xfer_work **at = bucket_of(table, &work->id);
    while (*at != work) at = &(*at)->table_next;
    *at = work->table_next;
    work->is_in_table = false;
}

bool xfer_work_fits(const struct xfer_work *work, const struct xfer_entry *entry) {
    if (entry->part >= work->plan->part_count) return false;
    struct xfer_part part = xfer_plan_part(work->plan, entry->part);
    return part.pair->own_rank == entry->target_rank &&
           part.pair->peer_rank == entry->source_rank && part.at == entry->at &&
           part.bytes == entry->bytes;
}

bool xfer_work_begin(struct xfer_work *work, uint32_t piece, uint32_t part_first,
                     uint32_t part_count) {
    uint32_t parts = work->plan->part_count;
    if (work->is_forgotten || work->is_broken) return false;
    if (piece < work->first_piece || piece - work->first_piece >= work->piece_count) return false;
    if (part_count == 0 || part_first >= parts || part_count > parts - part_first) return false;
    uint64_t bit = (uint64_t) (piece - work->first_piece) * parts + part_first;
    for (uint64_t i = bit; i < bit + part_count; i++)
        if (work->begun[i / 64] >> i % 64 & 1) return false;
    for (uint64_t i = bit; i < bit + part_count; i++) work->begun[i / 64] |= 1ull << i % 64;
    work->under_way++;
    return true;
}

uint32_t xfer_work_block(const struct xfer_work *work, uint32_t piece) {
    return work->blocks[piece - work->first_piece];
}

static void tell(struct xfer *xfer, struct xfer_work *work, uint32_t index,
                 enum xfer_event_kind kind, uint32_t piece, const char *reason) {
    struct xfer_news *news = &work->news[index];
    news->event = (struct xfer_event){.kind = kind,
                                      .instance = work->id.instance,
                                      .attempt = work->id.attempt,
                                      .piece = piece,
                                      .reason = reason};
    news->work = work;
    xfer_tell(xfer, news);
}

static void release_if_idle(struct xfer *xfer, struct xfer_table *table, struct xfer_work *work) {
    if (!work->is_forgotten || work->under_way > 0) return;
    remove_work(table, work);
    tell(xfer, work, work->piece_count + 1, XFER_RELEASED, 0, NULL); /* the owner may free it now */
}

void xfer_work_break(struct xfer *xfer, struct xfer_work *work, uint32_t piece,
                     const char *reason) {
    if (work->is_broken || work->is_forgotten) return;
    work->is_broken = true;
    tell(xfer, work, work->piece_count, XFER_BROKEN, piece, reason);
}

void xfer_work_break_from(struct xfer *xfer, struct xfer_table *table, const void *from,
                          const char *reason) {
    for (uint32_t i = 0; i < XFER_BUCKETS; i++)
        for (struct xfer_work *work = table->buckets[i]; work; work = work->table_next) {
            if (work->from != from) continue;
            work->from = NULL;
            xfer_work_break(xfer, work, work->first_piece, reason);
        }
}

void xfer_work_end(struct xfer *xfer, struct xfer_table *table, struct xfer_work *work,
                   uint32_t piece, uint32_t part_first, uint32_t part_count, const char *reason) {
    CHECK(work->under_way > 0);
    work->under_way--;
    if (reason) {
        xfer_work_break(xfer, work, piece, reason);
    } else {
        uint64_t bytes = 0;
        for (uint32_t i = 0; i < part_count; i++)
            bytes += xfer_plan_part(work->plan, part_first + i).bytes;
        atomic_fetch_add(&xfer->counts.received_bytes, bytes);
        uint32_t index = piece - work->first_piece;
        CHECK(work->parts_left[index] >= part_count);
        work->parts_left[index] -= part_count;
        if (work->parts_left[index] == 0) {
            atomic_fetch_add(&xfer->counts.received_pieces, 1);
            if (!work->is_forgotten && !work->is_broken)
                tell(xfer, work, index, XFER_RECEIVED, piece, NULL);
        }
    }
    release_if_idle(xfer, table, work);
}

void xfer_work_forget(struct xfer *xfer, struct xfer_table *table, struct xfer_work *work,
                      uint64_t now_us) {
    CHECK(!work->is_forgotten);
    work->is_forgotten = true;
    work->forgotten_us = now_us;
    release_if_idle(xfer, table, work);
}
