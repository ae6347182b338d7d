/* Goal: with the frontends' real side (dispatch and router) over a bus that loses, doubles and
 * reorders, and workers that die, freeze, stand still, leave and come: every request's tokens are
 * the function of its prompt, each once; none waits for ever; beliefs end where caches are; every
 * pool is whole at the end.
 *
 * The real engine, worker_core and worker_kv on the other side; virtual time, one seed.  A failure
 * prints the seed, and `route_sim_test SEED` runs that one alone.  The marks prove that each
 * repair of protocol.md 2 and 3 was reached. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/dispatch.h"
#include "backend/sim/sim_backend.h"
#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"
#include "fake_port.h"
#include "sim_seed.h"
#include "worker/worker_core.h"

#define SEEDS 1000u
#define SEEDS_FULL 10000u /* with GRAMME_FULL */
#define WORKERS 3u
#define FRONTENDS 2u
#define WORKS_MAX 30u
#define CHOICES_MAX 3u
#define PROMPT_MAX 160u
#define OUTPUTS_MAX 64u
#define VOCAB 300u
#define LEN_MAX 256u
#define BLOCK 8u
#define TICK_US 50000u
#define ROSTER_US 100000u
#define SUPERVISOR 1u     /* its instance */
#define END_US 400000000u /* virtual: far beyond every timeout */
#define BACKLOG_MAX 16384u

static struct {
    uint64_t tokens, finished, refused_busy, held_for_suspects, died_twice;
    uint64_t reaped, silent_deaths, frozen, stalled, left, disconnected, devices_gone;
    uint64_t refused_empty; /* rare: once in some thousand seeds, and so no mark */
    uint64_t migrations, redispatches, suspects, suspects_back, deaths, token_gaps, dropped;
    uint64_t choices, overlaps, events, event_gaps, dumps, beliefs_compared, prefix_hits;
    struct worker_core_counts core;
    struct fake_bus_counts bus;
} marks;

/* --- workers --------------------------------------------------------------------------------- */

struct worker {
    uint64_t instance;
    struct backend *backend;
    struct mem *mem;
    struct engine *engine;
    struct worker_core *core;
    uint64_t busy_until_us, frozen_until_us, stalled_until_us, leaves_us;
    uint32_t step_us;
    struct { /* what came while it was frozen */
        struct bus_message messages[BACKLOG_MAX];
        uint32_t count;
    } backlog;
};

static struct fake_bus *bus;
static struct worker workers[WORKERS];
static uint64_t instance_last;
static uint64_t reaped[256]; /* told by ROSTER */
static uint32_t reaped_count;
static uint64_t roster_us, roster_number;
static struct engine_options engine_options;
static struct backend_options backend_options;

static void send_from_worker(void *ctx, enum bus_subject subject, uint64_t to, const void *data,
                             size_t bytes) {
    const struct worker *worker = ctx;
    fake_bus_send(bus, now_us, worker->instance, subject, to, data, bytes);
}

static void worker_start(struct worker *worker) {
    struct model_spec spec = {.vocab_size = VOCAB, .weight_type = TENSOR_F32, .kv_head_count = 2};
    struct mem_plan plan = {0};
    struct err_text text = {""};
    memset(worker, 0, sizeof *worker);
    worker->instance = ++instance_last;
    worker->step_us = 500 + below(20000);
    struct backend_options options_of_backend = backend_options;
    if (below(8) == 0) options_of_backend.sim_fail_batch = 1 + below(150);
    CHECK(!sim_backend_ops.open(&spec, &options_of_backend, &text, &worker->backend));
    sim_backend_ops.plan(worker->backend, 0, &plan);
    mem_plan_add(&plan, MEM_KV,
                 engine_options.block_count * sim_backend_ops.block_bytes(worker->backend, 0),
                 "kv");
    CHECK(!mem_create(&plan, UINT64_MAX, &text, &worker->mem));
    CHECK(!sim_backend_ops.load(worker->backend, NULL, engine_options.block_count, &worker->mem,
                                NULL, NULL, &text));
    CHECK(!engine_create(&engine_options, worker->backend, &worker->engine));
    struct worker_core_options options = {.engine = worker->engine,
                                          .hello = {.instance = worker->instance,
                                                    .component = 1,
                                                    .numeric_digest = 77,
                                                    .block_size = BLOCK,
                                                    .block_count = engine_options.block_count},
                                          .sync_timeout_ms = 3000,
                                          .send = send_from_worker,
                                          .send_ctx = worker};
    fake_bus_listen(bus, worker->instance, 1u << BUS_HELLO);
    CHECK(!worker_core_create(&options, now_us, &worker->core));
}

static void forget_backlog(struct worker *worker) {
    for (uint32_t i = 0; i < worker->backlog.count; i++)
        free((void *) worker->backlog.messages[i].data);
    worker->backlog.count = 0;
}

static void worker_stop(struct worker *worker) {
    struct worker_core_counts counts;
    struct engine_load load;
    worker_core_get_counts(worker->core, &counts);
    engine_get_load(worker->engine, &load);
    uint64_t *to = (uint64_t *) &marks.core;
    const uint64_t *from = (const uint64_t *) &counts;
    for (size_t i = 0; i < sizeof counts / sizeof *to; i++) to[i] += from[i];
    marks.prefix_hits += load.prefix_hit_tokens;
    forget_backlog(worker);
    fake_bus_leave(bus, worker->instance);
    worker_core_destroy(worker->core);
    engine_destroy(worker->engine);
    sim_backend_ops.close(worker->backend);
    mem_destroy(worker->mem);
}

static void note_reaped(uint64_t instance);

/* It has told its attempts; its process ends as worker.c's does. */
static void lose_device(struct worker *worker) {
    uint64_t instance = worker->instance;
    worker_core_bye(worker->core);
    worker_stop(worker);
    worker_start(worker);
    note_reaped(instance);
    marks.devices_gone++;
}

static void worker_run(struct worker *worker) {
    if (worker->frozen_until_us > now_us || worker->busy_until_us > now_us) return;
    for (uint32_t i = 0; i < worker->backlog.count; i++)
        worker_core_message(worker->core, &worker->backlog.messages[i], now_us);
    forget_backlog(worker);
    worker_core_flush(worker->core, now_us);
    if (worker_core_has_work(worker->core) && worker->stalled_until_us <= now_us) {
        if (worker_core_step(worker->core, now_us)) {
            lose_device(worker);
            return;
        }
        worker->busy_until_us = now_us + 1 + below(worker->step_us);
        worker_core_check(worker->core);
    }
    worker_core_tick(worker->core, now_us);
}

static uint64_t worker_next_us(const struct worker *worker) {
    uint64_t next = worker_core_tick_at(worker->core);
    if (worker_core_has_work(worker->core) && worker->stalled_until_us < next)
        next = worker->stalled_until_us > worker->busy_until_us ? worker->stalled_until_us
                                                                : worker->busy_until_us;
    if (next < worker->busy_until_us) next = worker->busy_until_us;
    if (next < worker->frozen_until_us) next = worker->frozen_until_us;
    return next;
}

static void worker_take(struct worker *worker, const struct bus_message *message) {
    if (worker->frozen_until_us <= now_us) {
        worker_core_message(worker->core, message, now_us);
        return;
    }
    if (worker->backlog.count == BACKLOG_MAX) return; /* its ring is full */
    struct bus_message *kept = &worker->backlog.messages[worker->backlog.count++];
    *kept = *message;
    uint8_t *copy = malloc(message->bytes + 1);
    CHECK(copy);
    memcpy(copy, message->data, message->bytes);
    kept->data = copy;
}

/* --- frontends ------------------------------------------------------------------------------- */

struct work {
    struct dispatch_work work;
    struct token_log logs[CHOICES_MAX], prompt_log;
    struct sampling sampling;
    uint32_t prompt[PROMPT_MAX];
    uint32_t wanted[CHOICES_MAX][OUTPUTS_MAX];
    uint64_t start_us;
    bool is_done, is_failed, was_tried;
};

struct frontend {
    uint64_t instance;
    struct bus *bus;
    struct metrics *metrics;
    struct dispatch *dispatch;
    struct work works[WORKS_MAX];
    uint32_t work_count;
    uint64_t tick_us, disconnected_until_us;
};

static struct frontend frontends[FRONTENDS];
static uint32_t migration_limit;

static void expect(struct work *work, uint32_t at) {
    const struct sampling *s = &work->sampling;
    struct sim_text text = {0};
    uint64_t history = 0;
    for (uint32_t i = 0; i < work->work.prompt_count; i++) sim_backend_feed(&text, work->prompt[i]);
    for (uint32_t count = 0; count < s->max_tokens; count++) {
        struct sim_draw how = {s, at, count, VOCAB, 0, history};
        uint32_t id = sim_backend_draw(&text, &how);
        work->wanted[at][count] = id;
        history += sim_backend_history(id);
        sim_backend_feed(&text, id);
    }
}

static void make_work(struct work *work) {
    memset(work, 0, sizeof *work);
    work->start_us = now_us + below(12000000);
    work->work.prompt_count = 1 + below(PROMPT_MAX);
    uint32_t family = below(4); /* few beginnings: prefixes are shared */
    for (uint32_t i = 0; i < work->work.prompt_count; i++)
        work->prompt[i] = i < 16 + 24 * family ? (family * 7 + i) % VOCAB : below(VOCAB);
    sampling_init(&work->sampling);
    work->sampling.max_tokens = 1 + below(OUTPUTS_MAX);
    work->sampling.temperature = below(2) ? 1.0f : 0.0f;
    work->sampling.seed = below(1000);
    work->sampling.ignore_eos = true;
    work->work.choice_count = below(3) ? 1 : 1 + below(CHOICES_MAX);
    work->work.prompt_ids = work->prompt;
    work->work.sampling = &work->sampling;
    work->work.logs = work->logs;
    work->work.prompt_log = &work->prompt_log;
    work->work.request_id = "sim";
    work->work.traceparent = "";
    for (uint32_t i = 0; i < CHOICES_MAX; i++) token_log_init(&work->logs[i], false);
    token_log_init(&work->prompt_log, true);
    for (uint32_t i = 0; i < work->work.choice_count; i++) expect(work, i);
}

static void on_news(void *ctx, struct dispatch_work *base) {
    struct work *work = (struct work *) base;
    bool is_whole = true;
    (void) ctx;
    for (uint32_t c = 0; c < base->choice_count; c++) {
        const struct token_log *log = &work->logs[c];
        if (log->count > work->sampling.max_tokens) wrong("more tokens than asked for");
        if (log->count && memcmp(log->ids, work->wanted[c], log->count * sizeof *log->ids) != 0)
            wrong("other tokens than the prompt's");
        if (log->finish && log->count != work->sampling.max_tokens) wrong("ends too early");
        is_whole = is_whole && log->finish;
    }
    if (!is_whole || work->is_done) return;
    work->is_done = true;
    marks.finished++;
    for (uint32_t c = 0; c < base->choice_count; c++) marks.tokens += work->logs[c].count;
}

static void on_failed(void *ctx, struct dispatch_work *base, const struct api_error *error) {
    struct work *work = (struct work *) base;
    const struct frontend *frontend = ctx;
    if (error->status == 429) {
        marks.refused_busy++;
        work->is_failed = true;
        return;
    }
    if (strcmp(error->code, "worker_died") == 0 && migration_limit == 2) {
        marks.died_twice++;
        work->is_done = true;
        return;
    }
    if (error->status == 503 && !base->was_acked && error->retry_after_s &&
        dispatch_worker_count(frontend->dispatch) == 0) {
        marks.refused_empty++; /* a new one, and there was nobody to take it */
        work->is_failed = true;
        return;
    }
    wrong("failed with %d: %s", error->status, error->text.text);
}

static void frontend_start(struct frontend *frontend, enum router_policy policy) {
    struct dispatch_options options;
    struct dispatch_handler handler = {.ctx = frontend, .on_news = on_news, .on_failed = on_failed};
    memset(frontend, 0, sizeof *frontend);
    dispatch_options_init(&options);
    options.instance = frontend->instance = ++instance_last;
    options.router.policy = policy;
    options.router.seed = seed_now;
    options.router.has_events = below(8) > 0;
    options.migration_limit = migration_limit;
    options.gone_timeout_ms = 6000;
    options.step_timeout_ms = 2000;
    frontend->bus = fake_port_create(bus, &now_us);
    CHECK(!metrics_create("m", 100, &frontend->metrics));
    CHECK(!dispatch_create(frontend->bus, &options, &handler, frontend->metrics, NULL, NULL,
                           &frontend->dispatch));
    frontend->tick_us = now_us + below(TICK_US);
    frontend->work_count = 1 + below(WORKS_MAX);
    for (uint32_t i = 0; i < frontend->work_count; i++) make_work(&frontend->works[i]);
}

static void frontend_stop(struct frontend *frontend) {
    struct router_counts counts;
    const struct metrics *metrics = frontend->metrics;
    dispatch_get_router_counts(frontend->dispatch, &counts);
    marks.choices += counts.choices;
    marks.overlaps += counts.overlap_blocks;
    marks.events += counts.events;
    marks.event_gaps += counts.gaps;
    marks.dumps += counts.dumps;
    marks.migrations += (uint64_t) metrics_value(metrics, METRIC_MIGRATIONS);
    marks.redispatches += (uint64_t) metrics_value(metrics, METRIC_REDISPATCHES);
    marks.suspects += (uint64_t) metrics_value(metrics, METRIC_SUSPECTS);
    marks.suspects_back += (uint64_t) metrics_value(metrics, METRIC_SUSPECTS_BACK);
    marks.deaths += (uint64_t) metrics_value(metrics, METRIC_WORKER_DEATHS);
    marks.token_gaps += (uint64_t) metrics_value(metrics, METRIC_TOKEN_GAPS);
    marks.dropped += (uint64_t) metrics_value(metrics, METRIC_MESSAGES_DROPPED);
    dispatch_destroy(frontend->dispatch);
    metrics_destroy(frontend->metrics);
    bus_destroy(frontend->bus);
    for (uint32_t i = 0; i < frontend->work_count; i++) {
        for (uint32_t c = 0; c < CHOICES_MAX; c++) token_log_release(&frontend->works[i].logs[c]);
        token_log_release(&frontend->works[i].prompt_log);
    }
}

static void frontend_tick(struct frontend *frontend) {
    frontend->tick_us = now_us + TICK_US;
    if (frontend->disconnected_until_us && now_us >= frontend->disconnected_until_us) {
        frontend->disconnected_until_us = 0;
        fake_port_set_connected(frontend->bus, true);
    }
    for (uint32_t i = 0; i < frontend->work_count; i++) {
        struct work *work = &frontend->works[i];
        if (work->is_done || work->work.state != DISPATCH_IDLE || now_us < work->start_us) continue;
        if (work->is_failed) { /* refused: a new request, later */
            work->is_failed = false;
            work->start_us = now_us + 200000 + below(500000);
            continue;
        }
        work->work.was_acked = work->work.was_admitted = false;
        work->work.lost_count = work->work.gone_count = work->work.refused_count = 0;
        enum err e = dispatch_submit(frontend->dispatch, &work->work, now_us);
        if (e && e != ERR_PEER_GONE) wrong("submit: %s", err_name(e));
        if (!e && work->work.state == DISPATCH_HOMELESS) marks.held_for_suspects++;
    }
    dispatch_poll(frontend->dispatch, now_us);
    dispatch_tick(frontend->dispatch, now_us);
}

static bool is_frontend_done(const struct frontend *frontend) {
    for (uint32_t i = 0; i < frontend->work_count; i++)
        if (!frontend->works[i].is_done) return false;
    return true;
}

/* --- what goes wrong ------------------------------------------------------------------------- */

static void note_reaped(uint64_t instance) {
    reaped[reaped_count++ % 256] = instance;
    roster_us = now_us; /* told at once, and again and again */
}

static void send_roster(void) {
    struct msg_roster_dead dead[256];
    uint64_t alive[WORKERS];
    uint32_t count = reaped_count < 256 ? reaped_count : 256;
    struct buf out;
    roster_us = now_us + ROSTER_US;
    for (uint32_t i = 0; i < count; i++)
        dead[i] = (struct msg_roster_dead){reaped[i], MSG_REAP_KILLED, 9};
    for (uint32_t i = 0; i < WORKERS; i++) alive[i] = workers[i].instance;
    struct msg_roster roster = {.number = ++roster_number,
                                .alive = alive,
                                .alive_count = WORKERS,
                                .dead = dead,
                                .dead_count = count};
    buf_init(&out, 0);
    msg_encode_roster(&roster, &out);
    fake_bus_send(bus, now_us, SUPERVISOR, BUS_ROSTER, 0, out.data, out.bytes);
    buf_release(&out);
}

static void kill_worker(struct worker *worker, bool is_told) {
    uint64_t instance = worker->instance;
    worker_stop(worker);
    worker_start(worker);
    if (is_told) note_reaped(instance);
    if (is_told) marks.reaped++;
    else marks.silent_deaths++;
}

static void disturb(uint32_t *troubles) {
    if (*troubles == 0 || below(300) != 0) return;
    struct worker *worker = &workers[below(WORKERS)];
    struct frontend *frontend = &frontends[below(FRONTENDS)];
    if (worker->leaves_us || worker->frozen_until_us > now_us) return;
    --*troubles;
    switch (migration_limit == 2 ? 0 : below(6)) { /* the poisonous case: deaths alone */
    case 0: kill_worker(worker, true); break;
    case 1: kill_worker(worker, below(3) > 0); break;
    case 2:
        worker->frozen_until_us = now_us + 1000000 + below(4000000);
        marks.frozen++;
        break;
    case 3:
        worker->stalled_until_us = now_us + 2000000 + below(3000000);
        marks.stalled++;
        break;
    case 4:
        worker_core_drain(worker->core, now_us);
        worker_core_bye(worker->core);
        worker->leaves_us = now_us + below(3000000);
        marks.left++;
        break;
    default:
        if (frontend->disconnected_until_us) break;
        frontend->disconnected_until_us = now_us + 100000 + below(2500000);
        fake_port_set_connected(frontend->bus, false);
        marks.disconnected++;
    }
}

static void leave_in_time(struct worker *worker) {
    if (!worker->leaves_us || now_us < worker->leaves_us) return;
    uint64_t instance = worker->instance;
    worker_stop(worker);
    worker_start(worker);
    note_reaped(instance);
}

/* --- one seed -------------------------------------------------------------------------------- */

static void choose_options(void) {
    uint32_t seats = 2 + below(8), tokens = 24 + below(120);
    uint32_t least = (PROMPT_MAX + OUTPUTS_MAX) / BLOCK + 1;
    engine_options = (struct engine_options){.block_size = BLOCK,
                                             .block_count = 2 * least + below(60),
                                             .seat_count = seats,
                                             .batched_tokens_max = tokens,
                                             .model_len_max = LEN_MAX,
                                             .vocab_size = VOCAB,
                                             .queue_requests_max = below(3) ? 64 : 2,
                                             .queue_prompt_bytes_max = 1 << 20,
                                             .is_chunked_prefill = true,
                                             .has_prefix_cache = true};
    backend_options = (struct backend_options){.rank_count = 1,
                                               .block_size = BLOCK,
                                               .seat_count = seats,
                                               .batched_tokens_max = tokens,
                                               .model_len_max = LEN_MAX,
                                               .sim_in_flight_max = 1 + below(2)};
    migration_limit = below(4) ? 1000 : 2;
}

static void deliver(void) {
    struct bus_message message;
    uint64_t to;
    while (fake_bus_take(bus, now_us, &to, &message)) {
        for (uint32_t w = 0; w < WORKERS; w++)
            if (workers[w].instance == to) worker_take(&workers[w], &message);
        for (uint32_t f = 0; f < FRONTENDS; f++)
            if (frontends[f].instance == to) fake_port_deliver(frontends[f].bus, &message);
    }
    for (uint32_t f = 0; f < FRONTENDS; f++) dispatch_poll(frontends[f].dispatch, now_us);
}

static uint64_t next_us(void) {
    uint64_t next = fake_bus_next_us(bus);
    if (roster_us < next) next = roster_us;
    for (uint32_t w = 0; w < WORKERS; w++) {
        uint64_t at = worker_next_us(&workers[w]);
        if (at < next) next = at;
    }
    for (uint32_t f = 0; f < FRONTENDS; f++)
        if (frontends[f].tick_us < next) next = frontends[f].tick_us;
    return next > now_us ? next : now_us + 1;
}

static bool is_over(void) {
    for (uint32_t f = 0; f < FRONTENDS; f++)
        if (!is_frontend_done(&frontends[f])) return false;
    for (uint32_t w = 0; w < WORKERS; w++)
        if (!worker_core_is_empty(workers[w].core) || workers[w].frozen_until_us > now_us)
            return false;
    return true;
}

static void turn(uint32_t *troubles) {
    if (now_us > END_US) wrong("something waits for ever");
    deliver();
    disturb(troubles);
    for (uint32_t f = 0; f < FRONTENDS; f++)
        if (frontends[f].tick_us <= now_us) frontend_tick(&frontends[f]);
    for (uint32_t w = 0; w < WORKERS; w++) {
        worker_run(&workers[w]);
        leave_in_time(&workers[w]);
    }
    if (roster_us <= now_us) send_roster();
    now_us = next_us();
}

static uint64_t count_chains(const struct worker *worker) {
    const struct kv_index *index = engine_kv_index(worker->engine);
    struct kv_event event;
    uint32_t cursor = 0;
    uint64_t count = 0;
    while (kv_index_dump(index, &cursor, &event)) count++;
    return count;
}

/* In peace every belief becomes the truth. */
static void compare_beliefs(void) {
    uint64_t chains = 0, until_us = now_us + 8000000;
    uint32_t none = 0;
    while (now_us < until_us) turn(&none);
    for (uint32_t w = 0; w < WORKERS; w++) chains += count_chains(&workers[w]);
    for (uint32_t f = 0; f < FRONTENDS; f++) {
        struct router_counts counts;
        dispatch_get_router_counts(frontends[f].dispatch, &counts);
        if (!counts.dumps) continue; /* it does not listen to events */
        if (counts.index_entries != chains)
            wrong("frontend %u believes in %llu blocks, there are %llu", f,
                  (unsigned long long) counts.index_entries, (unsigned long long) chains);
        marks.beliefs_compared++;
    }
}

static void run_seed(uint64_t seed) {
    seed_now = random_state = seed;
    now_us = 1000000;
    instance_last = 100;
    reaped_count = 0;
    roster_us = roster_number = 0;
    struct fake_bus_options options = {.seed = seed * 31,
                                       .lost_per_mille = below(3) * below(60),
                                       .doubled_per_mille = below(3) * below(100),
                                       .delay_us_max = below(2) ? 2000 : 40000};
    bus = fake_bus_create(&options);
    choose_options();
    for (uint32_t w = 0; w < WORKERS; w++) worker_start(&workers[w]);
    static const enum router_policy policies[] = {
        ROUTER_KV, ROUTER_KV, ROUTER_KV, ROUTER_RANDOM, ROUTER_ROUND_ROBIN, ROUTER_LEAST_LOADED};
    enum router_policy policy = policies[below(6)];
    for (uint32_t f = 0; f < FRONTENDS; f++) frontend_start(&frontends[f], policy);
    uint32_t troubles = below(4) ? 1 + below(6) : 0;
    if (migration_limit == 2) troubles *= 4;
    while (!is_over()) turn(&troubles);
    if (policy == ROUTER_KV) compare_beliefs();
    struct fake_bus_counts counts;
    fake_bus_get_counts(bus, &counts);
    marks.bus.lost += counts.lost;
    marks.bus.doubled += counts.doubled;
    marks.bus.reordered += counts.reordered;
    marks.bus.sent += counts.sent;
    for (uint32_t f = 0; f < FRONTENDS; f++) frontend_stop(&frontends[f]);
    for (uint32_t w = 0; w < WORKERS; w++) {
        struct engine_load load;
        worker_core_check(workers[w].core);
        engine_get_load(workers[w].engine, &load);
        if (load.blocks_free + load.blocks_cached != load.blocks_total)
            wrong("the pool lacks blocks");
        worker_stop(&workers[w]);
    }
    fake_bus_destroy(bus);
}

static int marks_missing;

static void mark(const char *name, uint64_t count) {
    printf("%10llu %s\n", (unsigned long long) count, name);
    if (count == 0) marks_missing++;
}
#define MARK(field) mark(#field, marks.field)

int main(int argc, char **argv) {
    log_configure(argc > 1 ? LOG_INFO : LOG_ERROR, LOG_HUMAN, NULL);
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    uint64_t seeds = getenv("GRAMME_FULL") ? SEEDS_FULL : SEEDS;
    uint64_t last = argc > 2 ? strtoull(argv[2], NULL, 10) : argc > 1 ? first : seeds;
    for (uint64_t seed = first; seed <= last; seed++) run_seed(seed);
    if (argc > 1) return 0;
    MARK(tokens);
    MARK(finished);
    MARK(refused_busy);
    MARK(held_for_suspects);
    MARK(died_twice);
    MARK(reaped);
    MARK(silent_deaths);
    MARK(frozen);
    MARK(stalled);
    MARK(left);
    MARK(disconnected);
    MARK(devices_gone);
    MARK(migrations);
    MARK(redispatches);
    MARK(suspects);
    MARK(suspects_back);
    MARK(deaths);
    MARK(token_gaps);
    MARK(dropped);
    MARK(choices);
    MARK(overlaps);
    MARK(events);
    MARK(event_gaps);
    MARK(dumps);
    MARK(beliefs_compared);
    MARK(prefix_hits);
    MARK(core.repeated_generates);
    MARK(core.resent_ids);
    MARK(core.gone);
    MARK(core.omitted_live);
    MARK(core.silent_senders);
    MARK(bus.lost);
    MARK(bus.doubled);
    MARK(bus.reordered);
    if (marks_missing) printf("%d marks were not reached\n", marks_missing);
    return marks_missing != 0;
}
