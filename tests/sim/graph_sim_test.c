/* Goal: the real frontend side (api/dispatch with its router) and the real worker_core agree with
 * each other whatever the bus does: it loses, doubles and reorders, processes are cut off from it
 * for moments and for long, the whole bus goes away, workers die and ROSTER tells it.  Each
 * request's tokens are the function of its prompt and none fails; and at the end every frontend
 * believes of every worker exactly what that worker's cache holds.
 *
 * Virtual time; one seed decides everything; a failure prints it, and `graph_sim_test SEED` runs
 * that one alone.  At the end the marks prove that each trouble was reached by some seed. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/dispatch_impl.h"
#include "backend/sim/sim_backend.h"
#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"
#include "fake_bus.h"
#include "router/router.h"
#include "sim_seed.h"
#include "worker/worker_core.h"

#define SEEDS 1000u
#define SEEDS_FULL 10000u /* with GRAMME_FULL */
#define WORKERS 3u
#define FRONTENDS 2u
#define REQUESTS_MAX 16u
#define CHOICES_MAX 3u
#define PROMPT_MAX 100u
#define OUTPUTS_MAX 48u
#define BLOCK_SIZE 8u
#define VOCAB 300u
#define EOS 2u
#define SUPERVISOR 99u
#define DISPATCH_DEATHS 2u /* the default of --migration-limit */
#define CUTS_MAX 8u
#define ROSTER_US 100000u
#define END_US 300000000u /* virtual: five minutes, far beyond every timeout */

static uint64_t instance_last;

/* What was reached, over all seeds. */
static struct {
    uint64_t tokens, finished, cancelled, refused, waited, worker_deaths, died_twice;
    uint64_t cuts, long_cuts, bus_outages, calm_outages;
    uint64_t migrations, deaths_told, suspects, suspects_back, gaps, overlap_blocks;
    struct router_counts router;
    struct fake_bus_counts bus;
} marks;

static struct fake_bus *bus;
static uint32_t deaths_left, cuts_left;
static bool is_calm; /* nothing but outages of the bus, and order: then no stream may move */

/* --- workers ---------------------------------------------------------------------------------- */

struct worker {
    uint64_t instance, busy_until_us, lossy_count;
    struct backend *backend;
    struct mem *mem;
    struct engine *engine;
    struct worker_core *core;
};

static struct worker workers[WORKERS];
static struct msg_roster_dead dead[16];
static uint32_t dead_count;

static void send_from_worker(void *ctx, enum bus_subject subject, uint64_t to, const void *data,
                             size_t bytes) {
    fake_bus_send(bus, now_us, ((const struct worker *) ctx)->instance, subject, to, data, bytes);
}

static uint32_t block_count, seat_count, queue_max; /* of this seed */

static void worker_start(struct worker *worker) {
    static const uint32_t eos_ids[1] = {EOS};
    struct backend_options backend = {.rank_count = 1,
                                      .block_size = BLOCK_SIZE,
                                      .seat_count = seat_count,
                                      .batched_tokens_max = 64,
                                      .model_len_max = 256};
    struct engine_options engine = {.block_size = BLOCK_SIZE,
                                    .block_count = block_count,
                                    .seat_count = seat_count,
                                    .batched_tokens_max = 64,
                                    .model_len_max = 256,
                                    .vocab_size = VOCAB,
                                    .queue_requests_max = queue_max,
                                    .queue_prompt_bytes_max = 1 << 20,
                                    .is_chunked_prefill = true,
                                    .has_prefix_cache = true,
                                    .eos_ids = eos_ids,
                                    .eos_count = 1};
    struct model_spec spec = {.vocab_size = VOCAB, .weight_type = TENSOR_F32};
    struct mem_plan plan = {0};
    struct err_text text = {""};
    *worker = (struct worker){.instance = ++instance_last};
    CHECK(!sim_backend_ops.open(&spec, &backend, &text, &worker->backend));
    sim_backend_ops.plan(worker->backend, 0, &plan);
    mem_plan_add(&plan, MEM_KV, block_count * sim_backend_ops.block_bytes(worker->backend, 0),
                 "kv");
    CHECK(!mem_create(&plan, UINT64_MAX, &text, &worker->mem));
    CHECK(
        !sim_backend_ops.load(worker->backend, NULL, block_count, &worker->mem, NULL, NULL, &text));
    CHECK(!engine_create(&engine, worker->backend, &worker->engine));
    struct worker_core_options options = {.engine = worker->engine,
                                          .hello = {.instance = worker->instance,
                                                    .component = 1,
                                                    .numeric_digest = 7,
                                                    .model_len_max = 256,
                                                    .seat_count = seat_count,
                                                    .block_size = BLOCK_SIZE,
                                                    .block_count = block_count,
                                                    .batched_tokens_max = 64,
                                                    .tp = 1},
                                          .sync_timeout_ms = 3000,
                                          .step_timeout_ms = 5000,
                                          .send = send_from_worker,
                                          .send_ctx = worker};
    fake_bus_listen(bus, worker->instance, 1u << BUS_HELLO | 1u << BUS_ROSTER);
    CHECK(!worker_core_create(&options, now_us, &worker->core));
}

static void worker_stop(struct worker *worker) {
    fake_bus_leave(bus, worker->instance);
    worker_core_destroy(worker->core);
    engine_destroy(worker->engine);
    sim_backend_ops.close(worker->backend);
    mem_destroy(worker->mem);
}

/* As worker.c's loop. */
static void worker_run(struct worker *worker) {
    if (worker->busy_until_us > now_us) return;
    worker_core_flush(worker->core, now_us);
    if (worker_core_has_work(worker->core)) {
        if (worker_core_step(worker->core, now_us)) wrong("the backend failed");
        worker->busy_until_us = now_us + 1 + below(20000);
    }
    if (now_us >= worker_core_tick_at(worker->core)) {
        uint64_t lossy_count = fake_bus_lossy_count(bus, worker->instance);
        if (lossy_count != worker->lossy_count) worker_core_lossy(worker->core, now_us);
        worker->lossy_count = lossy_count;
        worker_core_set_connected(worker->core, !fake_bus_is_cut(bus, worker->instance));
    }
    worker_core_tick(worker->core, now_us);
}

static uint64_t worker_next_us(const struct worker *worker) {
    if (worker_core_has_work(worker->core)) return worker->busy_until_us;
    uint64_t tick_us = worker_core_tick_at(worker->core);
    return tick_us > worker->busy_until_us ? tick_us : worker->busy_until_us;
}

/* --- frontends -------------------------------------------------------------------------------- */

struct request {
    enum { LATER, HELD, DONE } state;
    uint64_t start_us, cancel_us; /* cancel_us 0: never */
    struct sampling sampling;
    uint32_t prompt[PROMPT_MAX], prompt_count, choice_count;
    uint32_t wanted[CHOICES_MAX][OUTPUTS_MAX], wanted_counts[CHOICES_MAX];
    struct token_log logs[CHOICES_MAX], prompt_log;
    struct dispatch_work work;
    bool is_refused;
};

struct frontend {
    uint64_t instance, tick_us;
    struct bus *body;
    struct metrics *metrics;
    struct dispatch *dispatch;
    struct request requests[REQUESTS_MAX];
    uint32_t request_count;
};

static struct frontend frontends[FRONTENDS];

static void on_news(void *ctx, struct dispatch_work *work) { (void) ctx, (void) work; }

static void on_failed(void *ctx, struct dispatch_work *work, const struct api_error *error) {
    (void) ctx;
    struct request *request = work->owner;
    if (error->status == 500 && dead_count >= DISPATCH_DEATHS) { /* --migration-limit */
        request->state = DONE;
        marks.died_twice++;
        return;
    }
    if (error->status != 429) wrong("a request failed: %d %s", error->status, error->text.text);
    request->is_refused = true;
    marks.refused++;
}

static void expect(struct request *request, uint32_t at) {
    struct sampling s = request->sampling;
    uint32_t stop_ids[2] = {EOS}, count = 0;
    s.stop_ids = stop_ids;
    s.stop_id_count = 1;
    struct sim_text text = {0};
    uint64_t history = 0;
    bool is_stopped = false;
    for (uint32_t i = 0; i < request->prompt_count; i++)
        sim_backend_feed(&text, request->prompt[i]);
    while (count < s.max_tokens && !is_stopped) {
        struct sim_draw how = {&s, at, count, VOCAB, 0, history};
        uint32_t id = sim_backend_draw(&text, &how);
        request->wanted[at][count++] = id;
        history += sim_backend_history(id);
        sim_backend_feed(&text, id);
        is_stopped = id == EOS && count > s.min_tokens;
    }
    request->wanted_counts[at] = count;
}

static void make_request(struct request *request) {
    *request = (struct request){.start_us = now_us + below(6000000)};
    request->prompt_count = 1 + below(PROMPT_MAX);
    uint32_t family = below(3);
    for (uint32_t i = 0; i < request->prompt_count; i++)
        request->prompt[i] = i < 40 ? (family * 7 + i) % VOCAB : below(VOCAB);
    request->choice_count = below(3) ? 1 : 1 + below(CHOICES_MAX);
    sampling_init(&request->sampling);
    request->sampling.max_tokens = 1 + below(OUTPUTS_MAX);
    request->sampling.temperature = 1.0f;
    request->sampling.seed = below(1000);
    if (below(6) == 0) request->cancel_us = request->start_us + below(2000000);
    for (uint32_t i = 0; i < request->choice_count; i++) expect(request, i);
}

static void release_logs(struct request *request) {
    for (uint32_t i = 0; i < CHOICES_MAX; i++) token_log_release(&request->logs[i]);
    token_log_release(&request->prompt_log);
}

static void submit(struct frontend *frontend, struct request *request) {
    release_logs(request);
    for (uint32_t i = 0; i < CHOICES_MAX; i++) token_log_init(&request->logs[i], false);
    token_log_init(&request->prompt_log, true);
    request->is_refused = false;
    request->work = (struct dispatch_work){.prompt_ids = request->prompt,
                                           .prompt_count = request->prompt_count,
                                           .sampling = &request->sampling,
                                           .logs = request->logs,
                                           .choice_count = request->choice_count,
                                           .prompt_log = &request->prompt_log,
                                           .request_id = "sim",
                                           .traceparent = "",
                                           .deadline_us = now_us + END_US,
                                           .owner = request};
    enum err e = dispatch_submit(frontend->dispatch, &request->work, now_us);
    if (e && e != ERR_PEER_GONE && e != ERR_BUSY) wrong("submit: %s", err_name(e));
    if (e) marks.waited++;
    if (e) request->start_us = now_us + 100000;
    else request->state = HELD;
}

static void check_tokens(const struct request *request) {
    for (uint32_t c = 0; c < request->choice_count; c++) {
        const struct token_log *log = &request->logs[c];
        if (log->count > request->wanted_counts[c])
            wrong("choice %u has %u tokens, %u wanted", c, log->count, request->wanted_counts[c]);
        if (log->count && memcmp(log->ids, request->wanted[c], log->count * sizeof *log->ids) != 0)
            wrong("choice %u holds other tokens", c);
    }
}

static void request_run(struct frontend *frontend, struct request *request) {
    if (request->state == LATER && now_us >= request->start_us) {
        submit(frontend, request);
        return;
    }
    if (request->state != HELD) return;
    if (request->is_refused) {
        request->state = LATER;
        request->start_us = now_us + 200000 + below(300000);
        return;
    }
    if (request->cancel_us && now_us >= request->cancel_us) {
        dispatch_drop(frontend->dispatch, &request->work);
        check_tokens(request);
        request->state = DONE;
        marks.cancelled++;
        return;
    }
    if (request->work.state != DISPATCH_IDLE) return;
    check_tokens(request);
    for (uint32_t c = 0; c < request->choice_count; c++) {
        if (request->logs[c].count != request->wanted_counts[c])
            wrong("choice %u ends after %u tokens, not %u", c, request->logs[c].count,
                  request->wanted_counts[c]);
        marks.tokens += request->logs[c].count;
    }
    marks.finished++;
    request->state = DONE;
}

static void frontend_start(struct frontend *frontend) {
    *frontend = (struct frontend){
        .instance = ++instance_last, .tick_us = now_us, .request_count = below(REQUESTS_MAX + 1)};
    struct dispatch_handler handler = {.ctx = frontend, .on_news = on_news, .on_failed = on_failed};
    struct dispatch_options options;
    dispatch_options_init(&options);
    options.instance = frontend->instance;
    options.router.policy = ROUTER_KV;
    options.router.seed = seed_now;
    frontend->body = fake_bus_body(bus, frontend->instance);
    CHECK(!metrics_create("sim", 256, &frontend->metrics));
    CHECK(!dispatch_create(frontend->body, &options, &handler, frontend->metrics, NULL, NULL,
                           &frontend->dispatch));
    for (uint32_t i = 0; i < frontend->request_count; i++) make_request(&frontend->requests[i]);
}

static void frontend_stop(struct frontend *frontend) {
    struct router_counts counts;
    router_get_counts(frontend->dispatch->router, &counts);
    marks.router.gaps += counts.gaps;
    marks.router.dumps += counts.dumps;
    marks.router.events += counts.events;
    marks.overlap_blocks += counts.overlap_blocks;
    marks.migrations += (uint64_t) metrics_value(frontend->metrics, METRIC_MIGRATIONS);
    if (is_calm && metrics_value(frontend->metrics, METRIC_MIGRATIONS) > 0)
        wrong("streams moved though only the bus was away");
    marks.calm_outages += is_calm && cuts_left == 0;
    marks.deaths_told += (uint64_t) metrics_value(frontend->metrics, METRIC_WORKER_DEATHS);
    marks.suspects += (uint64_t) metrics_value(frontend->metrics, METRIC_SUSPECTS);
    marks.suspects_back += (uint64_t) metrics_value(frontend->metrics, METRIC_SUSPECTS_BACK);
    marks.gaps += (uint64_t) metrics_value(frontend->metrics, METRIC_TOKEN_GAPS);
    for (uint32_t i = 0; i < frontend->request_count; i++) release_logs(&frontend->requests[i]);
    dispatch_destroy(frontend->dispatch);
    metrics_destroy(frontend->metrics);
    bus_destroy(frontend->body);
}

static void frontend_run(struct frontend *frontend) {
    dispatch_poll(frontend->dispatch, now_us);
    if (now_us < frontend->tick_us) return;
    frontend->tick_us = now_us + DISPATCH_TICK_MS * 1000;
    for (uint32_t i = 0; i < frontend->request_count; i++)
        request_run(frontend, &frontend->requests[i]);
    dispatch_tick(frontend->dispatch, now_us);
}

/* --- troubles --------------------------------------------------------------------------------- */

static struct { uint64_t instance, until_us; /* instance 0: free */ } cuts[CUTS_MAX];
static uint64_t roster_us, roster_number;

static void send_roster(void) {
    if (now_us < roster_us) return;
    uint64_t alive[WORKERS];
    struct buf out;
    roster_us = now_us + ROSTER_US;
    for (uint32_t w = 0; w < WORKERS; w++) alive[w] = workers[w].instance;
    buf_init(&out, 0);
    msg_encode_roster(&(struct msg_roster){++roster_number, alive, WORKERS, dead, dead_count},
                      &out);
    CHECK(!buf_error(&out));
    fake_bus_send(bus, now_us, SUPERVISOR, BUS_ROSTER, 0, out.data, out.bytes);
    buf_release(&out);
}

static void maybe_kill(void) {
    if (deaths_left == 0 || below(500) != 0) return;
    deaths_left--;
    marks.worker_deaths++;
    struct worker *worker = &workers[below(WORKERS)];
    dead[dead_count++] =
        (struct msg_roster_dead){.instance = worker->instance, .reason = MSG_REAP_KILLED};
    worker_stop(worker);
    worker_start(worker);
}

static void cut(uint64_t instance, uint64_t us) {
    for (uint32_t i = 0; i < CUTS_MAX; i++) {
        if (cuts[i].instance) continue;
        cuts[i].instance = instance;
        cuts[i].until_us = now_us + us;
        fake_bus_cut(bus, instance, true);
        return;
    }
}

static void maybe_cut(void) {
    for (uint32_t i = 0; i < CUTS_MAX; i++) {
        if (!cuts[i].instance || now_us < cuts[i].until_us) continue;
        fake_bus_cut(bus, cuts[i].instance, false);
        cuts[i].instance = 0;
    }
    for (uint32_t i = 0; i < CUTS_MAX; i++)
        if (cuts[i].instance) return; /* one trouble at a time */
    if (cuts_left == 0 || below(300) != 0) return;
    cuts_left--;
    bool is_long = below(2);
    uint64_t us = is_long ? 3200000 + below(3000000) : 20000 + below(800000);
    marks.long_cuts += is_long;
    uint32_t who = is_calm ? WORKERS + FRONTENDS : below(WORKERS + FRONTENDS + 2);
    if (who < WORKERS) {
        cut(workers[who].instance, us);
    } else if (who < WORKERS + FRONTENDS) {
        cut(frontends[who - WORKERS].instance, us);
    } else { /* the server itself: each finds its way back alone */
        for (uint32_t w = 0; w < WORKERS; w++) cut(workers[w].instance, us + below(150000));
        for (uint32_t f = 0; f < FRONTENDS; f++) cut(frontends[f].instance, us + below(150000));
        marks.bus_outages++;
    }
    marks.cuts++;
}

/* --- one seed --------------------------------------------------------------------------------- */

static void deliver(void) {
    struct bus_message message;
    uint64_t to;
    while (fake_bus_take(bus, now_us, &to, &message))
        for (uint32_t w = 0; w < WORKERS; w++)
            if (workers[w].instance == to) worker_core_message(workers[w].core, &message, now_us);
}

static uint64_t next_us(void) {
    uint64_t next = fake_bus_next_us(bus);
    for (uint32_t w = 0; w < WORKERS; w++)
        if (worker_next_us(&workers[w]) < next) next = worker_next_us(&workers[w]);
    for (uint32_t f = 0; f < FRONTENDS; f++)
        if (frontends[f].tick_us < next) next = frontends[f].tick_us;
    return next > now_us ? next : now_us + 1;
}

/* Every frontend knows every worker up to its last event, and what it believes of all of them is
 * as much as they hold. */
static bool is_known(void) {
    uint64_t chain_count = 0;
    for (uint32_t w = 0; w < WORKERS; w++) {
        const struct kv_index *index = engine_kv_index(workers[w].engine);
        struct kv_event event;
        uint32_t cursor = 0;
        while (kv_index_dump(index, &cursor, &event)) chain_count++;
        for (uint32_t f = 0; f < FRONTENDS; f++) {
            struct dispatch *dispatch = frontends[f].dispatch;
            const struct dispatch_site *site = dispatch_worker_find(dispatch, workers[w].instance);
            if (!site || !site->is_routed || site->kv.is_asking) return false;
            if (router_event_last(dispatch->router, workers[w].instance) !=
                kv_index_event_last(index))
                return false;
        }
    }
    for (uint32_t f = 0; f < FRONTENDS; f++) {
        struct router_counts counts;
        router_check(frontends[f].dispatch->router);
        router_get_counts(frontends[f].dispatch->router, &counts);
        if (frontends[f].dispatch->worker_count != WORKERS) return false; /* the dead linger */
        if (counts.index_entries != chain_count)
            wrong("frontend %u believes in %llu blocks, the workers hold %llu", f,
                  (unsigned long long) counts.index_entries, (unsigned long long) chain_count);
    }
    return true;
}

static bool is_over(void) {
    for (uint32_t f = 0; f < FRONTENDS; f++)
        for (uint32_t i = 0; i < frontends[f].request_count; i++)
            if (frontends[f].requests[i].state != DONE) return false;
    for (uint32_t w = 0; w < WORKERS; w++)
        if (!worker_core_is_empty(workers[w].core)) return false;
    for (uint32_t i = 0; i < CUTS_MAX; i++)
        if (cuts[i].instance) return false;
    return is_known();
}

static void run_seed(uint64_t seed) {
    seed_now = random_state = seed;
    now_us = 1000000;
    instance_last = 100;
    dead_count = 0;
    roster_us = roster_number = 0;
    memset(cuts, 0, sizeof cuts);
    is_calm = below(4) == 0;
    struct fake_bus_options options = {.seed = seed * 31,
                                       .lost_per_mille = is_calm ? 0 : below(3) * below(80),
                                       .doubled_per_mille = below(3) * below(80),
                                       .delay_us_max = is_calm    ? 0
                                                       : below(2) ? 2000
                                                                  : 40000};
    seat_count = 1 + below(6);
    queue_max = below(2) ? 8 : 1;
    block_count = (PROMPT_MAX + OUTPUTS_MAX) / BLOCK_SIZE + 1 + below(60);
    bus = fake_bus_create(&options);
    for (uint32_t w = 0; w < WORKERS; w++) worker_start(&workers[w]);
    for (uint32_t f = 0; f < FRONTENDS; f++) frontend_start(&frontends[f]);
    deaths_left = is_calm || below(3) ? 0 : 1 + below(4);
    cuts_left = is_calm ? 2 : below(3);
    while (!is_over()) {
        if (now_us > END_US) wrong("something waits for ever");
        deliver();
        maybe_kill();
        maybe_cut();
        send_roster();
        for (uint32_t f = 0; f < FRONTENDS; f++) frontend_run(&frontends[f]);
        for (uint32_t w = 0; w < WORKERS; w++) worker_run(&workers[w]);
        now_us = next_us();
    }
    struct fake_bus_counts counts;
    fake_bus_get_counts(bus, &counts);
    marks.bus.lost += counts.lost;
    marks.bus.doubled += counts.doubled;
    marks.bus.reordered += counts.reordered;
    marks.bus.cut += counts.cut;
    for (uint32_t w = 0; w < WORKERS; w++) {
        struct engine_load load;
        worker_core_check(workers[w].core);
        engine_get_load(workers[w].engine, &load);
        if (load.blocks_free + load.blocks_cached != load.blocks_total)
            wrong("the pool lacks blocks");
        worker_stop(&workers[w]);
    }
    for (uint32_t f = 0; f < FRONTENDS; f++) frontend_stop(&frontends[f]);
    fake_bus_destroy(bus);
}

static int marks_missing;

static void mark(const char *name, uint64_t count) {
    printf("%10llu %s\n", (unsigned long long) count, name);
    if (count == 0) marks_missing++;
}
#define MARK(field) mark(#field, marks.field)

int main(int argc, char **argv) {
    log_configure(argc > 1 ? LOG_DEBUG : LOG_ERROR, LOG_HUMAN, NULL);
    if (argc > 1) {
        run_seed(strtoull(argv[1], NULL, 10));
        return 0;
    }
    uint64_t seeds = getenv("GRAMME_FULL") ? SEEDS_FULL : SEEDS;
    for (uint64_t seed = 1; seed <= seeds; seed++) run_seed(seed);
    MARK(tokens);
    MARK(finished);
    MARK(cancelled);
    MARK(refused);
    MARK(waited);
    MARK(worker_deaths);
    MARK(deaths_told);
    MARK(died_twice);
    MARK(migrations);
    MARK(suspects);
    MARK(suspects_back);
    MARK(gaps);
    MARK(overlap_blocks);
    MARK(cuts);
    MARK(long_cuts);
    MARK(bus_outages);
    MARK(calm_outages);
    MARK(router.events);
    MARK(router.gaps);
    MARK(router.dumps);
    MARK(bus.lost);
    MARK(bus.doubled);
    MARK(bus.reordered);
    MARK(bus.cut);
    if (marks_missing) printf("%d marks were not reached\n", marks_missing);
    return marks_missing != 0;
}
