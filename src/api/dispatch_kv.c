/* dispatch_kv - KV events and dumps, from the bus to the router (protocol.md 2).
 *
 *   KNOWN --gap, LOAD ahead twice, messages lost, a new worker--> ASKING --every part--> KNOWN
 *
 * While ASKING, live events are held back, at most HELD_MAX of them: past that the oldest are
 * forgotten, and the gap that they leave asks again.  Old beliefs stand until the dump is whole. */
#include <stdlib.h>
#include <string.h>

#include "api/dispatch_impl.h"
#include "base/alloc.h"
#include "base/log.h"

#define ASK_AGAIN_US 500000u
#define HELD_MAX 65536u
#define PARTS_MAX 65536u /* of 256 KiB: 16 GiB of block names */

void dispatch_kv_release(struct dispatch_kv *kv) {
    alloc_free(kv->parts);
    alloc_free(kv->held);
    *kv = (struct dispatch_kv){0};
}

static bool hears_events(const struct dispatch *dispatch, const struct dispatch_site *worker) {
    return worker->is_routed && !worker->sends_no_events && router_wants_hashes(dispatch->router) &&
           dispatch->options.router.has_events;
}

static void send_ask(struct dispatch *dispatch, struct dispatch_site *worker, uint64_t now_us) {
    worker->kv.asked_us = now_us;
    buf_clear(&dispatch->out);
    msg_encode_kv_dump_ask(&(struct msg_kv_dump_ask){.number = worker->kv.number}, &dispatch->out);
    (void) dispatch_send(dispatch, worker->instance); /* a lost one is sent again */
}

void dispatch_kv_ask(struct dispatch *dispatch, struct dispatch_site *worker, uint64_t now_us) {
    struct dispatch_kv *kv = &worker->kv;
    if (!hears_events(dispatch, worker)) return;
    kv->is_asking = true;
    kv->number = ++dispatch->ask_number;
    kv->part_count = kv->part_taken = 0;
    send_ask(dispatch, worker, now_us);
}

/* --- live events ------------------------------------------------------------------------- */

static bool make_held_room(struct dispatch_kv *kv, uint32_t count) {
    if (kv->held_count + count > HELD_MAX) {
        /* What is left out is a gap when its turn comes. */
        uint32_t kept = count < HELD_MAX / 2 ? HELD_MAX / 2 - count : 0;
        if (kept > kv->held_count) kept = kv->held_count;
        memmove(kv->held, kv->held + kv->held_count - kept, kept * sizeof *kv->held);
        kv->held_count = kept;
    }
    if (kv->held_count + count <= kv->held_room) return true;
    uint32_t room = kv->held_room ? 2 * kv->held_room : 256;
    while (room < kv->held_count + count) room *= 2;
    struct kv_event *held = alloc_resize(kv->held, room * sizeof *held);
    if (!held) return false;
    kv->held = held;
    kv->held_room = room;
    return true;
}

static void hold(struct dispatch_kv *kv, const struct kv_event *events, uint32_t count) {
    if (count > HELD_MAX || !make_held_room(kv, count)) return; /* a gap later */
    memcpy(kv->held + kv->held_count, events, count * sizeof *events);
    kv->held_count += count;
}

static int compare_events(const void *a, const void *b) {
    uint64_t x = ((const struct kv_event *) a)->number, y = ((const struct kv_event *) b)->number;
    return (x > y) - (x < y);
}

/* What was held back, in the order of its numbers; what stays behind a gap asks again. */
static void apply_held(struct dispatch *dispatch, struct dispatch_site *worker, uint64_t now_us) {
    struct dispatch_kv *kv = &worker->kv;
    if (!kv->held_count) return;
    qsort(kv->held, kv->held_count, sizeof *kv->held, compare_events);
    uint32_t at = 0;
    uint64_t last = router_event_last(dispatch->router, worker->instance);
    while (at < kv->held_count && kv->held[at].number <= last) at++;
    uint32_t end = at;
    /* doubled ones are left out: each number once */
    for (uint32_t i = at; i < kv->held_count && kv->held[i].number <= last + 1; i++)
        if (kv->held[i].number == last + 1) kv->held[end++] = kv->held[i], last++;
    bool is_gap =
        end > at && !router_events(dispatch->router, worker->instance, kv->held + at, end - at);
    uint64_t highest = kv->held[kv->held_count - 1].number;
    if (!is_gap && highest <= last) {
        kv->held_count = 0;
        return;
    }
    dispatch_kv_ask(dispatch, worker, now_us);
}

static struct kv_event *make_events(struct dispatch *dispatch, const struct msg_kv_block *blocks,
                                    uint32_t count, uint64_t first_number) {
    if (count > dispatch->event_room) {
        struct kv_event *events = alloc_resize(dispatch->events, count * sizeof *events);
        if (!events) return NULL;
        dispatch->events = events;
        dispatch->event_room = count;
    }
    static const enum kv_event_kind kinds[] = {[MSG_KV_STORED] = KV_EVENT_STORED,
                                               [MSG_KV_REMOVED] = KV_EVENT_REMOVED,
                                               [MSG_KV_CLEARED] = KV_EVENT_CLEARED};
    for (uint32_t i = 0; i < count; i++)
        dispatch->events[i] = (struct kv_event){.number = first_number + i,
                                                .kind = kinds[blocks[i].kind],
                                                .hash = blocks[i].hash,
                                                .parent_hash = blocks[i].parent_hash,
                                                .local_hash = blocks[i].local_hash};
    return dispatch->events;
}

void dispatch_kv_on_event(struct dispatch *dispatch, const struct bus_message *message,
                          uint64_t now_us) {
    struct dispatch_site *worker = dispatch_worker_find(dispatch, message->from);
    if (!worker || !hears_events(dispatch, worker)) return;
    struct msg_kv_event event;
    arena_release(&dispatch->arena);
    if (msg_decode_kv_event(message->data, message->bytes, &dispatch->arena, &event)) {
        dispatch_drop_message(dispatch);
        return;
    }
    const struct kv_event *events =
        make_events(dispatch, event.blocks, event.block_count, event.first_number);
    if (!events || !event.block_count) return;
    if (!worker->kv.is_asking &&
        router_events(dispatch->router, worker->instance, events, event.block_count))
        return;
    hold(&worker->kv, events, event.block_count);
    if (!worker->kv.is_asking) dispatch_kv_ask(dispatch, worker, now_us);
}

/* --- dumps ------------------------------------------------------------------------------- */

/* The first part of a dump, or of one that tells a later state. */
static bool begin_dump(struct dispatch *dispatch, struct dispatch_site *worker,
                       const struct msg_kv_dump *dump) {
    struct dispatch_kv *kv = &worker->kv;
    kv->part_count = kv->part_taken = 0;
    alloc_free(kv->parts);
    kv->parts = alloc_zero(dump->part_count, 1);
    if (!kv->parts || router_dump_begin(dispatch->router, worker->instance)) return false;
    kv->part_count = dump->part_count;
    kv->event_number = dump->event_number;
    return true;
}

void dispatch_kv_on_dump(struct dispatch *dispatch, const struct bus_message *message,
                         uint64_t now_us) {
    struct dispatch_site *worker = dispatch_worker_find(dispatch, message->from);
    struct msg_kv_dump dump;
    arena_release(&dispatch->arena);
    if (!worker || !worker->kv.is_asking ||
        msg_decode_kv_dump(message->data, message->bytes, &dispatch->arena, &dump)) {
        dispatch_drop_message(dispatch);
        return;
    }
    struct dispatch_kv *kv = &worker->kv;
    if (dump.number != kv->number || dump.part >= dump.part_count || dump.part_count > PARTS_MAX) {
        dispatch_drop_message(dispatch);
        return;
    }
    bool is_new = !kv->part_count || dump.event_number > kv->event_number;
    if (is_new && !begin_dump(dispatch, worker, &dump)) return; /* asked for again */
    if (dump.event_number != kv->event_number || dump.part_count != kv->part_count ||
        kv->parts[dump.part])
        return;
    const struct kv_event *events = make_events(dispatch, dump.blocks, dump.block_count, 0);
    if (dump.block_count && !events) return;
    if (router_dump_add(dispatch->router, worker->instance, events, dump.block_count)) return;
    kv->parts[dump.part] = 1;
    if (++kv->part_taken < kv->part_count) return;
    router_dump_end(dispatch->router, worker->instance, kv->event_number);
    kv->is_asking = false;
    kv->part_count = kv->part_taken = 0;
    apply_held(dispatch, worker, now_us);
}

/* --- time -------------------------------------------------------------------------------- */

/* LOAD and events go by different subjects: being behind one LOAD is haste, behind the one before
 * too is a loss.  A worker that has computed prompts and never numbered an event sends none. */
void dispatch_kv_on_load(struct dispatch *dispatch, struct dispatch_site *worker, uint64_t now_us) {
    if (!hears_events(dispatch, worker)) return;
    const struct msg_load *load = &worker->load;
    uint64_t last = router_event_last(dispatch->router, worker->instance);
    bool is_behind = last < worker->kv.load_number;
    worker->kv.load_number = load->kv_event_number;
    if (is_behind && !worker->kv.is_asking) dispatch_kv_ask(dispatch, worker, now_us);
    uint64_t block_size = worker->hello.block_size;
    if (load->kv_event_number || load->prompt_tokens < 64 * block_size) return;
    log_info("worker %s sends no KV events: its cache is guessed from what it was sent",
             worker->hello.name);
    worker->sends_no_events = true;
    dispatch_kv_release(&worker->kv);
    router_remove(dispatch->router, worker->instance);
    worker->is_routed = false;
    dispatch_worker_refresh(dispatch, worker);
}

void dispatch_kv_tick(struct dispatch *dispatch, struct dispatch_site *worker, uint64_t now_us) {
    if (worker->kv.is_asking && now_us - worker->kv.asked_us >= ASK_AGAIN_US)
        send_ask(dispatch, worker, now_us);
}
