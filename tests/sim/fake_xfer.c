/* fake_xfer - see fake_xfer.h.
 *
 * A transfer has two ends, each of which may be gone: the piece (P's) and the work (D's).  Bytes
 * are written only while both are there. */
#include "fake_xfer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"
#include "xfer/xfer_body.h"
#include "xfer/xfer_work.h"

#define WORKERS_MAX 64u

enum stage {
    STAGE_START,  /* the header arrives */
    STAGE_DOUBLE, /* the header arrives once more */
    STAGE_HALF,   /* half of the bytes are there */
    STAGE_END,    /* all are */
    STAGE_BREAK,  /* the pair breaks */
    STAGE_STUCK,  /* nothing more comes; only the timeouts end it */
    STAGE_PROBE,
    STAGE_LOST, /* every peer hears of a death */
};

struct fake_worker {
    struct xfer base;
    struct fake_xfer_net *net;
    struct xfer_table table;
    bool is_crashed, is_stopped;
};

struct transfer {
    uint64_t number, due_us;
    enum stage stage;
    struct fake_worker *from, *to; /* NULL: that end is gone */
    struct xfer_piece *piece;      /* P's end */
    struct xfer_work *work;        /* D's end, while its receive is under way */
    struct xfer_contact *contact;  /* of a probe */
    struct xfer_id id;
    uint32_t piece_index, part_count;
    uint64_t deadline_us, lost_instance;
    bool is_corrupted;
};

struct fake_xfer_net {
    struct fake_xfer_options options;
    uint64_t random, now_us, number_last;
    struct fake_worker *workers[WORKERS_MAX];
    uint32_t worker_count;
    struct transfer *transfers;
    size_t count, room;
    struct fake_xfer_counts counts;
};

static uint32_t draw(struct fake_xfer_net *net, uint32_t below) {
    net->random += 0x9e3779b97f4a7c15u;
    uint64_t z = net->random;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t) ((z >> 33) % below);
}

static bool happens(struct fake_xfer_net *net, uint32_t per_mille, uint64_t *count) {
    bool is_so = draw(net, 1000) < per_mille;
    *count += is_so;
    return is_so;
}

static struct fake_worker *worker_of(struct xfer *xfer) {
    return (struct fake_worker *) (void *) xfer;
}

static struct fake_worker *find_worker(struct fake_xfer_net *net, const char *address) {
    for (uint32_t i = 0; i < net->worker_count; i++)
        if (strcmp(net->workers[i]->base.address, address) == 0) return net->workers[i];
    return NULL;
}

static void put(struct fake_xfer_net *net, struct transfer transfer) {
    if (net->count == net->room) {
        net->room = net->room ? net->room * 2 : 64;
        net->transfers = realloc(net->transfers, net->room * sizeof *net->transfers);
        CHECK(net->transfers);
    }
    transfer.number = ++net->number_last;
    net->transfers[net->count++] = transfer;
}

static bool is_still(const struct fake_worker *worker) { return worker && worker->is_stopped; }

/* When this transfer can go on; a stopped end holds it, but not the other end's timeout. */
static uint64_t due_of(const struct transfer *t) {
    uint64_t due_us = is_still(t->from) || is_still(t->to) ? UINT64_MAX : t->due_us;
    if (t->stage == STAGE_STUCK) due_us = UINT64_MAX;
    bool has_waiter = (t->piece && !is_still(t->from)) || (t->work && !is_still(t->to)) ||
                      (t->contact && !is_still(t->from));
    return has_waiter ? num_min(due_us, t->deadline_us) : due_us;
}

static size_t next_of(const struct fake_xfer_net *net) {
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < net->count; i++) {
        uint64_t due_us = due_of(&net->transfers[i]);
        if (due_us == UINT64_MAX) continue;
        if (best != SIZE_MAX) {
            uint64_t best_us = due_of(&net->transfers[best]);
            bool is_before = due_us != best_us
                                 ? due_us < best_us
                                 : net->transfers[i].number < net->transfers[best].number;
            if (!is_before) continue;
        }
        best = i;
    }
    return best;
}

uint64_t fake_xfer_next_us(const struct fake_xfer_net *net) {
    size_t next = next_of(net);
    /* A stopped end that runs again is late. */
    return next == SIZE_MAX ? UINT64_MAX : num_max(net->now_us, due_of(&net->transfers[next]));
}

/* --- the two ends --------------------------------------------------------------------------- */

static void end_piece(struct fake_xfer_net *net, struct transfer *t, const char *reason) {
    if (!t->piece) return;
    if (t->stage != STAGE_START) xfer_tell_ended(&t->from->base, net->now_us);
    if (reason) xfer_tell_failed(&t->from->base, t->piece, reason);
    else xfer_tell_sent(&t->from->base, t->piece);
    t->piece = NULL;
}

static void end_work(struct transfer *t, const char *reason) {
    if (!t->work) return;
    xfer_work_end(&t->to->base, &t->to->table, t->work, t->piece_index, 0, t->part_count, reason);
    t->work = NULL;
}

/* Writes the first or the second half of every pair. */
static void copy_half(struct transfer *t, bool is_second) {
    if (!t->piece || !t->work) return;
    const struct xfer_plan *source = t->piece->plan, *target = t->work->plan;
    uint32_t block = xfer_work_block(t->work, t->piece_index);
    for (uint32_t i = 0; i < source->pair_count; i++) {
        const struct xfer_pair *pair = &source->pairs[i];
        uint64_t half = pair->bytes / 2, at = is_second ? half : 0;
        uint64_t bytes = is_second ? pair->bytes - half : half;
        uint8_t *buffer = malloc(bytes + 1);
        CHECK(buffer);
        xfer_plan_gather(source, t->from->base.layouts, pair, t->piece->block, at, bytes, buffer);
        if (t->is_corrupted && bytes) buffer[bytes / 2] ^= 0x5a;
        xfer_plan_scatter(target, t->to->base.layouts, &target->pairs[i], block, at, bytes, buffer);
        free(buffer);
    }
}

/* --- the stages: each returns whether the transfer goes on ----------------------------------- */

static bool is_alike(const struct xfer_plan *source, const struct xfer_plan *target) {
    return source->pair_count == target->pair_count && source->piece_bytes == target->piece_bytes;
}

static bool start(struct fake_xfer_net *net, struct transfer *t) {
    if (!t->piece) return false;
    if (atomic_load(&t->piece->is_abandoned)) {
        end_piece(net, t, "given up");
        return false;
    }
    if (!t->to) {
        end_piece(net, t, "no worker has this address");
        return false;
    }
    struct xfer_work *work = xfer_work_find(&t->to->table, &t->id);
    uint32_t part_count = t->piece->plan->part_count;
    bool is_wanted = work && is_alike(t->piece->plan, work->plan) &&
                     xfer_work_begin(work, t->piece_index, 0, part_count);
    if (happens(net, net->options.doubled_per_mille, &net->counts.doubled)) {
        struct transfer twice = *t;
        twice.stage = STAGE_DOUBLE;
        twice.piece = NULL;
        twice.part_count = part_count;
        twice.deadline_us = UINT64_MAX;
        twice.due_us = net->now_us + 1 + draw(net, 20 * (net->options.delay_us_max + 1));
        put(net, twice); /* *t may have moved: the caller holds a copy */
    }
    if (!is_wanted) {
        net->counts.discarded++;
        atomic_fetch_add(&t->to->base.counts.discarded_pieces, 1);
        end_piece(net, t, NULL);
        return false;
    }
    net->counts.begun++;
    xfer_tell_begun(&t->from->base, net->now_us);
    work->from = (void *) (uintptr_t) t->from->base.options.instance;
    t->work = work;
    t->part_count = part_count;
    t->is_corrupted = happens(net, net->options.corrupted_per_mille, &net->counts.corrupted);
    uint32_t timeout_ms = t->from->base.options.transfer_timeout_ms;
    t->deadline_us = net->now_us + 1000ull * timeout_ms;
    t->stage = STAGE_HALF;
    t->due_us = net->now_us + draw(net, net->options.copy_us_max + 1) / 2;
    return true;
}

static bool half(struct fake_xfer_net *net, struct transfer *t) {
    copy_half(t, false);
    t->stage = STAGE_END;
    if (happens(net, net->options.broken_per_mille, &net->counts.broken)) t->stage = STAGE_BREAK;
    else if (happens(net, net->options.stuck_per_mille, &net->counts.stuck)) t->stage = STAGE_STUCK;
    t->due_us = net->now_us + 1 + draw(net, net->options.copy_us_max + 1) / 2;
    return true;
}

static bool end(struct fake_xfer_net *net, struct transfer *t) {
    copy_half(t, true);
    net->counts.completed++;
    if (t->is_corrupted && t->work) atomic_fetch_add(&t->to->base.counts.checksum_errors, 1);
    end_work(t, t->is_corrupted ? "the block's checksum differs" : NULL);
    end_piece(net, t, NULL);
    return false;
}

/* The header alone: what it names is begun, over or unknown, whatever happened since. */
static bool twice(struct fake_xfer_net *net, struct transfer *t) {
    struct xfer_work *work = t->to ? xfer_work_find(&t->to->table, &t->id) : NULL;
    if (!work) return false;
    bool is_wanted = xfer_work_begin(work, t->piece_index, 0, t->part_count);
    /* Only when its first copy came before the expect: then no byte of it was taken. */
    if (is_wanted)
        xfer_work_end(&t->to->base, &t->to->table, work, t->piece_index, 0, t->part_count,
                      "a header came twice");
    net->counts.discarded++;
    return false;
}

static bool probed(struct fake_xfer_net *net, struct transfer *t, bool is_late) {
    struct xfer_contact *contact = t->contact;
    snprintf(contact->lane, sizeof contact->lane, "fake");
    contact->probe_error = !t->to ? ERR_PEER_GONE : is_late ? ERR_TIMEOUT : ERR_OK;
    if (contact->probe_error)
        err_set(&contact->probe_text, contact->probe_error, "%s does not answer", contact->address);
    xfer_tell_probed(&t->from->base, contact);
    return false;
}

static bool lost(struct fake_xfer_net *net, const struct transfer *t) {
    for (uint32_t i = 0; i < net->worker_count; i++) {
        struct fake_worker *worker = net->workers[i];
        if (worker->is_crashed) continue;
        atomic_fetch_add(&worker->base.counts.peers_lost, 1);
        for (uint32_t k = 0; k < XFER_BUCKETS; k++)
            for (struct xfer_work *work = worker->table.buckets[k]; work; work = work->table_next)
                if (work->from == (void *) (uintptr_t) t->lost_instance) {
                    work->from = NULL;
                    xfer_work_break(&worker->base, work, work->first_piece, "the peer is gone");
                }
    }
    return false;
}

/* An end that is not stopped gives up: its pair is closed by force, so nothing more is written. */
static bool give_up(struct fake_xfer_net *net, struct transfer *t) {
    if (t->work && !is_still(t->to)) {
        net->counts.forced++;
        end_work(t, "the transfer stood still");
    }
    if (t->piece && !is_still(t->from)) end_piece(net, t, "the transfer stood still");
    /* A stopped end finds out when it runs again. */
    t->stage = STAGE_BREAK;
    t->due_us = net->now_us + 1;
    return t->piece || t->work;
}

static bool step(struct fake_xfer_net *net, struct transfer *t) {
    bool is_held = is_still(t->from) || is_still(t->to);
    bool is_late = net->now_us >= t->deadline_us &&
                   (is_held || t->stage == STAGE_STUCK || net->now_us < t->due_us);
    if (t->stage == STAGE_PROBE) return probed(net, t, is_late);
    if (is_late) return give_up(net, t);
    switch (t->stage) {
    case STAGE_START: return start(net, t);
    case STAGE_DOUBLE: return twice(net, t);
    case STAGE_HALF: return half(net, t);
    case STAGE_END: return end(net, t);
    case STAGE_LOST: return lost(net, t);
    default: break;
    }
    end_work(t, "the connection broke");
    end_piece(net, t, "the connection broke");
    return false;
}

void fake_xfer_run(struct fake_xfer_net *net, uint64_t now_us) {
    CHECK(now_us >= net->now_us);
    for (;;) {
        size_t next = next_of(net);
        if (next == SIZE_MAX || due_of(&net->transfers[next]) > now_us) break;
        net->now_us = num_max(net->now_us, due_of(&net->transfers[next]));
        struct transfer transfer = net->transfers[next];
        net->transfers[next] = net->transfers[--net->count];
        if (!step(net, &transfer)) continue;
        uint64_t number = transfer.number;
        put(net, transfer);
        net->transfers[net->count - 1].number = number;
    }
    net->now_us = now_us;
}

/* --- the body -------------------------------------------------------------------------------- */

static void fake_send(struct xfer *xfer, struct xfer_piece *piece) {
    struct fake_worker *worker = worker_of(xfer);
    struct fake_xfer_net *net = worker->net;
    CHECK(!worker->is_crashed && !worker->is_stopped);
    struct fake_worker *to = find_worker(net, piece->contact->address);
    bool is_there = to && !to->is_crashed;
    uint64_t delay_us =
        is_there ? draw(net, net->options.delay_us_max + 1) : net->options.detect_us;
    put(net,
        (struct transfer){
            .due_us = net->now_us + 1 + delay_us,
            .stage = STAGE_START,
            .from = worker,
            .to = is_there ? to : NULL,
            .piece = piece,
            .id = piece->id,
            .piece_index = piece->piece,
            .deadline_us = net->now_us + delay_us + 1000ull * xfer->options.transfer_timeout_ms,
        });
}

static void fake_abandon(struct xfer *xfer) {} /* seen when the header would go */

static void fake_expect(struct xfer *xfer, struct xfer_work *work) {
    xfer_work_add(&worker_of(xfer)->table, work);
}

static void fake_forget(struct xfer *xfer, struct xfer_work *work) {
    struct fake_worker *worker = worker_of(xfer);
    worker->net->counts.quarantined += work->under_way;
    xfer_work_forget(xfer, &worker->table, work, worker->net->now_us);
}

static void fake_probe(struct xfer *xfer, struct xfer_contact *contact) {
    struct fake_worker *worker = worker_of(xfer);
    struct fake_xfer_net *net = worker->net;
    struct fake_worker *to = find_worker(net, contact->address);
    put(net, (struct transfer){
                 .due_us = net->now_us + 1 + draw(net, net->options.delay_us_max + 1),
                 .stage = STAGE_PROBE,
                 .from = worker,
                 .to = to && !to->is_crashed ? to : NULL,
                 .contact = contact,
                 .deadline_us = net->now_us + 1000ull * xfer->options.transfer_timeout_ms,
             });
}

static void crash(struct fake_worker *worker) {
    struct fake_xfer_net *net = worker->net;
    if (worker->is_crashed) return;
    worker->is_crashed = true;
    worker->is_stopped = false;
    for (size_t i = 0; i < net->count; i++) {
        struct transfer *t = &net->transfers[i];
        if (t->stage == STAGE_LOST || (t->from != worker && t->to != worker)) continue;
        net->counts.orphaned++;
        if (t->from == worker) {
            t->piece = NULL;
            t->contact = NULL;
            t->from = NULL;
        }
        if (t->to == worker) {
            t->work = NULL;
            t->to = NULL;
        }
        if (t->stage == STAGE_PROBE && t->contact) {
            t->due_us = net->now_us + net->options.detect_us;
            continue;
        }
        if (t->stage == STAGE_START && t->piece) { /* refused when the death is known */
            t->due_us = num_max(t->due_us, net->now_us + net->options.detect_us);
            continue;
        }
        if (t->piece || t->work) {
            t->stage = STAGE_BREAK;
            t->due_us = net->now_us + net->options.detect_us;
        } else {
            net->transfers[i--] = net->transfers[--net->count];
        }
    }
    put(net, (struct transfer){.due_us = net->now_us + net->options.detect_us,
                               .stage = STAGE_LOST,
                               .lost_instance = worker->base.options.instance,
                               .deadline_us = UINT64_MAX});
}

static void fake_destroy(struct xfer *xfer) {
    struct fake_worker *worker = worker_of(xfer);
    struct fake_xfer_net *net = worker->net;
    crash(worker);
    for (uint32_t i = 0; i < net->worker_count; i++)
        if (net->workers[i] == worker) net->workers[i--] = net->workers[--net->worker_count];
    xfer_release(xfer);
    alloc_free(worker);
}

static const struct xfer_ops fake_ops = {
    .name = "fake",
    .destroy = fake_destroy,
    .expect = fake_expect,
    .forget = fake_forget,
    .send = fake_send,
    .abandon = fake_abandon,
    .probe = fake_probe,
};

void fake_xfer_create(struct fake_xfer_net *net, const struct xfer_options *options,
                      struct xfer **out) {
    CHECK(net->worker_count < WORKERS_MAX);
    struct fake_worker *worker = alloc_zero(1, sizeof *worker);
    CHECK(worker && !xfer_init(&worker->base, &fake_ops, options));
    worker->net = net;
    snprintf(worker->base.address, sizeof worker->base.address, "fake:%016llx",
             (unsigned long long) options->instance);
    CHECK(!find_worker(net, worker->base.address));
    net->workers[net->worker_count++] = worker;
    *out = &worker->base;
}

static struct fake_worker *by_instance(struct fake_xfer_net *net, uint64_t instance) {
    for (uint32_t i = 0; i < net->worker_count; i++)
        if (net->workers[i]->base.options.instance == instance) return net->workers[i];
    CHECK(false);
    return NULL;
}

void fake_xfer_crash(struct fake_xfer_net *net, uint64_t instance) {
    crash(by_instance(net, instance));
}
void fake_xfer_stop(struct fake_xfer_net *net, uint64_t instance) {
    by_instance(net, instance)->is_stopped = true;
}
void fake_xfer_resume(struct fake_xfer_net *net, uint64_t instance) {
    by_instance(net, instance)->is_stopped = false;
}

struct fake_xfer_net *fake_xfer_net_create(const struct fake_xfer_options *options) {
    struct fake_xfer_net *net = calloc(1, sizeof *net);
    CHECK(net);
    net->options = *options;
    net->random = options->seed ^ 0x7866657278666572u;
    return net;
}

void fake_xfer_net_destroy(struct fake_xfer_net *net) {
    CHECK(net->worker_count == 0);
    free(net->transfers);
    free(net);
}

void fake_xfer_get_counts(const struct fake_xfer_net *net, struct fake_xfer_counts *out) {
    *out = net->counts;
}
