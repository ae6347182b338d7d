/* Goal: the fake body keeps the rules of xfer.h under delay, loss, doubles, breaks, death and stops:
 * every piece has one answer and every forget one RELEASED, a received block holds the sender's
 * bytes, a released block and a sent source are touched no more; and a seed is one history.  The
 * marks at the end prove that each of these was reached. */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "fake_xfer.h"
#include "unit/xfer/xfer_rig.h"

#define WORKERS 5u
#define WORKS_MAX 400u
#define PIECES 4u
#define BLOCKS 24u

enum work_state { WORK_OPEN, WORK_FORGOTTEN, WORK_RELEASED };
struct work {
    struct xfer_id id;
    uint32_t p, d;
    uint32_t blocks[PIECES], sources[PIECES];
    enum work_state state;
    uint32_t answers, received;
    bool is_broken;
};

struct worker {
    struct rig rig;
    struct xfer *xfer;
    uint64_t instance;
    bool is_stopped;
    bool is_used[BLOCKS];  /* block 0 unused */
    uint64_t seed[BLOCKS]; /* what a free block holds: nobody else may write it */
};

struct world {
    uint64_t random, seed, instance_last, hash;
    struct fake_xfer_net *net;
    struct worker workers[WORKERS];
    struct work works[WORKS_MAX];
    uint32_t work_count, sent, failed, received, broken, released, crashes, stops;
};

static void note(struct world *w, uint64_t value) {
    w->hash = (w->hash ^ value) * 0x9e3779b97f4a7c15u;
    w->hash ^= w->hash >> 29;
}

static void start_worker(struct world *w, uint32_t index) {
    struct worker *worker = &w->workers[index];
    const uint32_t degrees[] = {1, 2, 4};
    worker->instance = ++w->instance_last;
    worker->is_stopped = false;
    rig_init(&worker->rig, degrees[rig_draw(&w->random, 3)], BLOCKS, 2, 2, 32,
             rig_draw(&w->random, RIG_ORDERS));
    for (uint32_t i = 1; i < BLOCKS; i++) {
        worker->is_used[i] = false;
        worker->seed[i] = rig_random(&w->random);
        rig_write(&worker->rig, i, worker->seed[i]);
    }
    struct xfer_options options = {.instance = worker->instance,
                                   .layouts = worker->rig.layouts,
                                   .rank_count = worker->rig.tp,
                                   .block_size = 16,
                                   .transfer_timeout_ms = 20};
    fake_xfer_create(w->net, &options, &worker->xfer);
}

static void end_worker(struct world *w, uint32_t index) {
    struct worker *worker = &w->workers[index];
    xfer_destroy(worker->xfer);
    rig_release(&worker->rig);
    worker->xfer = NULL;
}

static uint32_t take_block(struct world *w, struct worker *worker) {
    for (uint32_t tries = 0; tries < 60; tries++) {
        uint32_t block = 1 + rig_draw(&w->random, BLOCKS - 1);
        if (worker->is_used[block]) continue;
        CHECK(rig_wrong(&worker->rig, block, worker->seed[block]) == 0);
        worker->is_used[block] = true;
        return block;
    }
    return 0;
}

static void free_block(struct world *w, struct worker *worker, uint32_t block) {
    CHECK(worker->is_used[block]);
    worker->is_used[block] = false;
    worker->seed[block] = rig_random(&w->random);
    rig_write(&worker->rig, block, worker->seed[block]);
}

static uint64_t content(const struct work *work, uint32_t piece) { return work->id.key[0] + piece; }

static void start_work(struct world *w) {
    uint32_t p = rig_draw(&w->random, WORKERS), d = rig_draw(&w->random, WORKERS);
    struct worker *source = &w->workers[p], *target = &w->workers[d];
    if (p == d || source->is_stopped || target->is_stopped || w->work_count == WORKS_MAX) return;
    struct work work = {.p = p, .d = d};
    work.id = (struct xfer_id){target->instance, ++w->work_count, {rig_random(&w->random), 7}};
    for (uint32_t i = 0; i < PIECES; i++) work.blocks[i] = take_block(w, target);
    for (uint32_t i = 0; i < PIECES; i++) work.sources[i] = take_block(w, source);
    bool is_full = false;
    for (uint32_t i = 0; i < PIECES; i++) is_full |= !work.blocks[i] || !work.sources[i];
    if (is_full) {
        for (uint32_t i = 0; i < PIECES; i++) {
            if (work.blocks[i]) free_block(w, target, work.blocks[i]);
            if (work.sources[i]) free_block(w, source, work.sources[i]);
        }
        w->work_count--;
        return;
    }
    struct xfer_id id = work.id;
    if (rig_draw(&w->random, 8) == 0) id.key[1] = 0; /* a stale sender */
    CHECK(!xfer_expect(target->xfer, &work.id, source->rig.tp, 3, work.blocks, PIECES));
    for (uint32_t i = 0; i < PIECES; i++) {
        rig_write(&source->rig, work.sources[i], content(&work, i));
        CHECK(!xfer_send(source->xfer, xfer_address(target->xfer), &id, target->rig.tp, 3 + i,
                         work.sources[i]));
    }
    w->works[w->work_count - 1] = work;
}

static void drain(struct world *w, uint32_t index) {
    struct worker *worker = &w->workers[index];
    struct xfer_event event;
    while (!worker->is_stopped && xfer_take(worker->xfer, &event)) {
        CHECK(event.attempt >= 1 && event.attempt <= w->work_count);
        struct work *work = &w->works[event.attempt - 1];
        uint32_t piece = event.piece - 3;
        note(w, event.kind * 1000003 + event.attempt * 17 + event.piece);
        switch (event.kind) {
        case XFER_SENT:
        case XFER_FAILED:
            CHECK(piece < PIECES && work->sources[piece]);
            CHECK((event.reason != NULL) == (event.kind == XFER_FAILED));
            free_block(w, worker, work->sources[piece]);
            work->sources[piece] = 0;
            if (event.kind == XFER_SENT) w->sent++;
            else w->failed++;
            break;
        case XFER_RECEIVED:
            CHECK(work->state == WORK_OPEN && !work->is_broken && piece < PIECES);
            CHECK(rig_wrong(&worker->rig, work->blocks[piece], content(work, piece)) == 0);
            CHECK(!(work->received >> piece & 1));
            work->received |= 1u << piece;
            w->received++;
            break;
        case XFER_BROKEN:
            CHECK(work->state == WORK_OPEN && !work->is_broken && event.reason);
            work->is_broken = true;
            w->broken++;
            break;
        case XFER_RELEASED:
            CHECK(work->state == WORK_FORGOTTEN);
            work->state = WORK_RELEASED;
            for (uint32_t i = 0; i < PIECES; i++) free_block(w, worker, work->blocks[i]);
            w->released++;
            break;
        }
    }
}

/* Its works end with it: the peer's halves still wait for their answers. */
static void crash(struct world *w, uint32_t index) {
    w->crashes++;
    fake_xfer_crash(w->net, w->workers[index].instance);
    for (uint32_t i = 0; i < w->work_count; i++) {
        struct work *work = &w->works[i];
        if (work->d == index && work->id.instance == w->workers[index].instance)
            work->state = WORK_RELEASED;
        if (work->p == index) memset(work->sources, 0, sizeof work->sources);
    }
    end_worker(w, index);
    start_worker(w, index);
}

static void forget_some(struct world *w, uint32_t one_in) {
    for (uint32_t i = 0; i < w->work_count; i++) {
        struct work *work = &w->works[i];
        if (work->state != WORK_OPEN || rig_draw(&w->random, one_in) != 0) continue;
        struct worker *target = &w->workers[work->d];
        if (target->is_stopped) continue;
        if (rig_draw(&w->random, 2) && !w->workers[work->p].is_stopped)
            xfer_abandon(w->workers[work->p].xfer, &work->id);
        xfer_forget(target->xfer, &work->id);
        work->state = WORK_FORGOTTEN;
    }
}

static void toggle_stop(struct world *w, uint32_t index) {
    struct worker *worker = &w->workers[index];
    worker->is_stopped = !worker->is_stopped;
    if (!worker->is_stopped) {
        fake_xfer_resume(w->net, worker->instance);
        return;
    }
    w->stops++;
    fake_xfer_stop(w->net, worker->instance);
}

static uint64_t run(uint64_t seed, struct fake_xfer_counts *sum, struct world *total) {
    static struct world world;
    memset(&world, 0, sizeof world);
    struct world *w = &world;
    w->random = w->seed = seed;
    struct fake_xfer_options options = {.seed = seed,
                                        .delay_us_max = 500,
                                        .copy_us_max = 800,
                                        .detect_us = 3000,
                                        .stuck_per_mille = 20,
                                        .broken_per_mille = 20,
                                        .corrupted_per_mille = 10,
                                        .doubled_per_mille = 50};
    w->net = fake_xfer_net_create(&options);
    for (uint32_t i = 0; i < WORKERS; i++) start_worker(w, i);
    uint64_t now_us = 0;
    for (uint32_t step = 0; step < 1500; step++) {
        now_us += rig_draw(&w->random, 300);
        fake_xfer_run(w->net, now_us);
        for (uint32_t i = 0; i < WORKERS; i++) drain(w, i);
        if (rig_draw(&w->random, 3) == 0) start_work(w);
        forget_some(w, 12);
        if (rig_draw(&w->random, 300) == 0) crash(w, rig_draw(&w->random, WORKERS));
        if (rig_draw(&w->random, 150) == 0) toggle_stop(w, rig_draw(&w->random, WORKERS));
    }
    for (uint32_t i = 0; i < WORKERS; i++)
        if (w->workers[i].is_stopped) toggle_stop(w, i);
    forget_some(w, 1);
    while (fake_xfer_next_us(w->net) != UINT64_MAX) {
        fake_xfer_run(w->net, fake_xfer_next_us(w->net));
        for (uint32_t i = 0; i < WORKERS; i++) drain(w, i);
    }
    for (uint32_t i = 0; i < WORKERS; i++) drain(w, i);
    for (uint32_t i = 0; i < w->work_count; i++) {
        CHECK(w->works[i].state == WORK_RELEASED);
        for (uint32_t k = 0; k < PIECES; k++) CHECK(!w->works[i].sources[k]);
    }
    for (uint32_t i = 0; i < WORKERS; i++)
        for (uint32_t block = 1; block < BLOCKS; block++) {
            CHECK(!w->workers[i].is_used[block]);
            CHECK(rig_wrong(&w->workers[i].rig, block, w->workers[i].seed[block]) == 0);
        }
    struct fake_xfer_counts counts;
    fake_xfer_get_counts(w->net, &counts);
    const uint64_t *from = (const uint64_t *) &counts;
    for (size_t i = 0; i < sizeof counts / 8; i++) ((uint64_t *) sum)[i] += from[i];
    total->sent += w->sent;
    total->failed += w->failed;
    total->received += w->received;
    total->broken += w->broken;
    total->released += w->released;
    total->crashes += w->crashes;
    total->stops += w->stops;
    for (uint32_t i = 0; i < WORKERS; i++) end_worker(w, i);
    fake_xfer_net_destroy(w->net);
    return w->hash;
}

int main(int argc, char **argv) {
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : 60;
    struct fake_xfer_counts sum = {0};
    static struct world total;
    for (uint64_t seed = first; seed < first + count; seed++) {
        printf("seed %" PRIu64 "\r", seed);
        fflush(stdout);
        uint64_t hash = run(seed, &sum, &total);
        if (seed % 20 == 1) CHECK(run(seed, &sum, &total) == hash);
    }
    printf("%" PRIu64 " seeds: sent %u failed %u received %u broken %u released %u crashes %u "
           "stops %u; begun %" PRIu64 " completed %" PRIu64 " discarded %" PRIu64 " stuck %" PRIu64
           " doubled %" PRIu64 " quarantined %" PRIu64 " forced %" PRIu64 " orphaned %" PRIu64 "\n",
           count, total.sent, total.failed, total.received, total.broken, total.released,
           total.crashes, total.stops, sum.begun, sum.completed, sum.discarded, sum.stuck,
           sum.doubled, sum.quarantined, sum.forced, sum.orphaned);
    if (count < 20) return 0;
    CHECK(total.sent && total.failed && total.received && total.broken && total.released);
    CHECK(total.crashes && total.stops && sum.discarded && sum.stuck && sum.broken);
    CHECK(sum.corrupted && sum.doubled && sum.quarantined && sum.forced && sum.orphaned);
    return 0;
}
