/* worker_kv - see worker_kv.h. */
#include "worker/worker_kv.h"

#include "base/alloc.h"
#include "base/buf.h"
#include "base/num.h"
#include "bus/msg.h"

#define BATCH 2048u           /* events of one message: 50 KiB */
#define PARTS_PER_FLUSH 8u    /* messages of a dump a call: 2 MiB */
#define DUMP_HEADER_BYTES 64u /* at least a part's own fields */
#define PART_BLOCKS ((MSG_KV_DUMP_BYTES_MAX - DUMP_HEADER_BYTES) / MSG_KV_DUMP_BLOCK_BYTES)
#define PICTURE_ROOM_MIN 1024u

struct ask {
    uint64_t from, number;
};

struct worker_kv {
    const struct kv_index *index; /* borrowed */
    worker_send_fn send;
    void *send_ctx;
    uint64_t event_sent;         /* the last one told, or skipped */
    struct msg_kv_block *events; /* BATCH */
    struct buf out;

    struct ask waiting[WORKER_KV_ASKS_MAX]; /* for the next picture */
    uint32_t waiting_count;

    /* The picture being sent: part_at of part_count to served[served_at]. */
    struct ask served[WORKER_KV_ASKS_MAX];
    uint32_t served_count, served_at;
    struct msg_kv_block *picture; /* owned */
    uint32_t block_count, block_room, part_at, part_count;
    uint64_t picture_number; /* of the last event in it */
    uint64_t picture_us;     /* when the last one was taken */
    bool has_picture_time;
    struct worker_kv_counts counts;
};

enum err worker_kv_create(const struct kv_index *index, worker_send_fn send, void *send_ctx,
                          struct worker_kv **out) {
    struct worker_kv *kv = alloc_zero(1, sizeof *kv);
    if (!kv) return ERR_MEMORY;
    kv->events = alloc_array(BATCH, sizeof *kv->events);
    if (!kv->events) {
        alloc_free(kv);
        return ERR_MEMORY;
    }
    kv->index = index;
    kv->send = send;
    kv->send_ctx = send_ctx;
    buf_init(&kv->out, 0);
    *out = kv;
    return ERR_OK;
}

void worker_kv_destroy(struct worker_kv *kv) {
    if (!kv) return;
    buf_release(&kv->out);
    alloc_free(kv->picture);
    alloc_free(kv->events);
    alloc_free(kv);
}

uint64_t worker_kv_event_last(const struct worker_kv *kv) { return kv->event_sent; }

void worker_kv_get_counts(const struct worker_kv *kv, struct worker_kv_counts *out) {
    *out = kv->counts;
}

/* --- events ----------------------------------------------------------------------------------- */

static struct msg_kv_block to_wire(const struct kv_event *event) {
    static const uint8_t kinds[] = {[KV_EVENT_STORED] = MSG_KV_STORED,
                                    [KV_EVENT_REMOVED] = MSG_KV_REMOVED,
                                    [KV_EVENT_CLEARED] = MSG_KV_CLEARED};
    return (struct msg_kv_block){.kind = kinds[event->kind],
                                 .hash = event->hash,
                                 .parent_hash = event->parent_hash,
                                 .local_hash = event->local_hash};
}

/* What the index keeps no longer leaves a gap in the numbers, by which routers ask for a dump. */
static void skip_forgotten(struct worker_kv *kv, uint64_t last) {
    struct kv_event event;
    uint64_t first = kv->event_sent + 1;
    if (kv_index_event_get(kv->index, first, &event)) return;
    uint64_t low = first, high = last + 1; /* low is gone; the first kept is at most high */
    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        if (kv_index_event_get(kv->index, middle, &event)) high = middle;
        else low = middle;
    }
    kv->counts.skipped += high - first;
    kv->event_sent = high - 1;
}

static void send_events(struct worker_kv *kv) {
    uint64_t last = kv_index_event_last(kv->index);
    if (kv->event_sent < last) skip_forgotten(kv, last);
    while (kv->event_sent < last) {
        struct msg_kv_event message = {.first_number = kv->event_sent + 1, .blocks = kv->events};
        struct kv_event event;
        while (message.block_count < BATCH &&
               kv_index_event_get(kv->index, message.first_number + message.block_count, &event))
            kv->events[message.block_count++] = to_wire(&event);
        buf_clear(&kv->out);
        msg_encode_kv_event(&message, &kv->out);
        if (!buf_error(&kv->out)) kv->send(kv->send_ctx, BUS_KV, 0, kv->out.data, kv->out.bytes);
        kv->counts.events += message.block_count;
        kv->event_sent += message.block_count;
    }
}

/* --- dumps ------------------------------------------------------------------------------------ */

bool worker_kv_take_ask(struct worker_kv *kv, const struct bus_message *message) {
    struct msg_kv_dump_ask ask;
    if (msg_decode_kv_dump_ask(message->data, message->bytes, &ask)) return false;
    kv->counts.asks++;
    uint32_t at = 0;
    while (at < kv->waiting_count && kv->waiting[at].from != message->from) at++;
    if (at == WORKER_KV_ASKS_MAX) {
        kv->counts.dropped_asks++; /* it asks again */
        return true;
    }
    if (at == kv->waiting_count) kv->waiting_count++;
    kv->waiting[at] = (struct ask){message->from, ask.number}; /* its newest alone counts */
    return true;
}

static bool add_block(struct worker_kv *kv, const struct kv_event *event) {
    if (kv->block_count == kv->block_room) {
        uint32_t room = (uint32_t) num_max(PICTURE_ROOM_MIN, (uint64_t) kv->block_room * 2);
        struct msg_kv_block *picture = alloc_resize(kv->picture, room * sizeof *picture);
        if (!picture) return false;
        kv->picture = picture;
        kv->block_room = room;
    }
    kv->picture[kv->block_count++] = to_wire(event);
    return true;
}

static void drop_picture(struct worker_kv *kv) {
    alloc_free(kv->picture);
    kv->picture = NULL;
    kv->block_count = kv->block_room = 0;
    kv->served_count = 0;
}

/* Everything that is there now, for all who wait. */
static void take_picture(struct worker_kv *kv, uint64_t now_us) {
    struct kv_event event;
    uint32_t cursor = 0;
    bool has_room = true;
    kv->picture_us = now_us;
    kv->has_picture_time = true;
    while (has_room && kv_index_dump(kv->index, &cursor, &event)) has_room = add_block(kv, &event);
    if (!has_room) {
        drop_picture(kv);
        kv->counts.dropped_asks += kv->waiting_count;
        kv->waiting_count = 0;
        return;
    }
    kv->picture_number = kv->event_sent; /* send_events has told all there are */
    kv->part_count = (uint32_t) num_max(1, num_div_up(kv->block_count, PART_BLOCKS));
    kv->part_at = kv->served_at = 0;
    kv->served_count = kv->waiting_count;
    for (uint32_t i = 0; i < kv->waiting_count; i++) kv->served[i] = kv->waiting[i];
    kv->waiting_count = 0;
    kv->counts.dumps++;
}

static void send_part(struct worker_kv *kv) {
    const struct ask *ask = &kv->served[kv->served_at];
    uint32_t first = kv->part_at * PART_BLOCKS;
    struct msg_kv_dump message = {.number = ask->number,
                                  .event_number = kv->picture_number,
                                  .part = kv->part_at,
                                  .part_count = kv->part_count,
                                  .blocks = kv->block_count ? kv->picture + first : NULL,
                                  .block_count =
                                      (uint32_t) num_min(PART_BLOCKS, kv->block_count - first)};
    buf_clear(&kv->out);
    msg_encode_kv_dump(&message, &kv->out);
    if (!buf_error(&kv->out))
        kv->send(kv->send_ctx, BUS_INBOX, ask->from, kv->out.data, kv->out.bytes);
    kv->counts.parts++;
    if (++kv->part_at < kv->part_count) return;
    kv->part_at = 0;
    if (++kv->served_at == kv->served_count) drop_picture(kv);
}

void worker_kv_flush(struct worker_kv *kv, uint64_t now_us) {
    send_events(kv);
    bool may_take = !kv->has_picture_time || now_us - kv->picture_us >= WORKER_KV_DUMP_GAP_US;
    if (kv->served_count == 0 && kv->waiting_count > 0 && may_take) take_picture(kv, now_us);
    for (uint32_t i = 0; i < PARTS_PER_FLUSH && kv->served_count > 0; i++) send_part(kv);
}
