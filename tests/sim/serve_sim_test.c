/* Goal: whatever the bus loses, doubles and reorders, whoever cancels, dies or falls silent, and
 * however small the pools are: each request's tokens are the function of its prompt, nothing
 * waits for ever, and every pool is whole at the end.
 *
 * In most seeds prefill workers of other TP degrees compute prompts for the workers, over a
 * transfer that is late, stuck, broken or doubled.
 *
 * The real engine, pool, scheduler, worker_core and handoff run in virtual time; the frontends here keep
 * their side of protocol.md 2 in its plainest form.  One seed decides everything; a failure
 * prints it, and `serve_sim_test SEED` runs that one alone.  At the end the marks prove that
 * each state and each repair was reached by some seed. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/sim/sim_backend.h"
#include "base/alloc.h"
#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"
#include "fake_bus.h"
#include "fake_xfer.h"
#include "sim_seed.h"
#include "worker/worker_core.h"

#define SEEDS 1000u
#define SEEDS_FULL 10000u
#define WORKERS 2u
#define PREFILLS 2u /* behind the workers */
#define RANKS_MAX 4u
#define FRONTENDS 2u
#define WORKS_MAX 24u
#define CHOICES_MAX 4u
#define PROMPT_MAX 120u
#define OUTPUTS_MAX 64u
#define VOCAB 300u
#define EOS 2u
#define LEN_MAX 256u
#define FRONTEND_TICK_US 50000u
#define SYNC_US 250000u
#define SYNC_TIMEOUT_US 3000000u
#define END_US 240000000u /* virtual: four minutes, far beyond every timeout */

/* --- one seed's numbers ----------------------------------------------------------------------- */

/* What was reached, over all seeds. */
static struct {
    uint64_t tokens, finished, stopped, cancelled_waiting, cancelled_running, refused_busy;
    uint64_t migrated_by_gone, migrated_by_silence, resumed, gaps, old_tokens, dropped_unbound;
    uint64_t preemptions, prefix_hits, prompt_logprobs, worker_deaths, frontend_deaths;
    uint64_t choices_closed, shared_prompts, two_in_flight, redispatch_first, timed_out,
        whole_prefill;
    uint64_t allocations_failed;
    uint64_t half_waits, passed_remotes, preempted_beside_handoff, frozen, unlike, other_tp;
    struct worker_core_counts core;
    struct handoff_decode_counts decode;
    struct handoff_prefill_counts prefill;
    struct fake_bus_counts bus;
    struct fake_xfer_counts xfer;
} marks;

/* --- workers ------------------------------------------------------------------------------------ */

struct worker {
    uint64_t instance;
    bool is_prefill;
    uint32_t tp;
    struct xfer *xfer;
    uint64_t preemptions, frozen_until_us;
    struct backend *backend;
    struct mem *mems[RANKS_MAX];
    struct engine *engine;
    struct worker_core *core;
    uint64_t busy_until_us;
    uint32_t step_us;
    bool is_dead;
};

static struct fake_bus *bus;
static struct worker workers[WORKERS + PREFILLS];
static uint32_t worker_count; /* with the prefill workers, when this seed has some */
static struct fake_xfer_net *net;
static struct handoff_rule rule;
static bool lacks_memory; /* in this seed allocations fail now and then */
static uint64_t fails_at; /* the allocation that fails; 0: none */
static uint64_t instance_last;
static struct engine_options engine_options;
static struct backend_options backend_options;

static void send_from_worker(void *ctx, enum bus_subject subject, uint64_t to, const void *data,
                             size_t bytes) {
    const struct worker *worker = ctx;
    fake_bus_send(bus, now_us, worker->instance, subject, to, data, bytes);
}

static void open_backend(struct worker *worker) {
    struct model_spec spec = {.vocab_size = VOCAB,
                              .weight_type = TENSOR_F32,
                              .head_count = RANKS_MAX,
                              .kv_head_count = RANKS_MAX};
    struct backend_options options = backend_options;
    struct err_text text = {""};
    options.rank_count = worker->tp;
    if (sim_backend_ops.open(&spec, &options, &text, &worker->backend)) wrong("%s", text.text);
    for (uint32_t rank = 0; rank < worker->tp; rank++) {
        struct mem_plan plan = {0};
        uint64_t block_bytes = sim_backend_ops.block_bytes(worker->backend, rank);
        sim_backend_ops.plan(worker->backend, rank, &plan);
        mem_plan_add(&plan, MEM_KV, engine_options.block_count * block_bytes, "kv");
        CHECK(!mem_create(&plan, UINT64_MAX, &text, &worker->mems[rank]));
    }
    CHECK(!sim_backend_ops.load(worker->backend, NULL, engine_options.block_count, worker->mems,
                                NULL, NULL, &text));
}

static void open_xfer(struct worker *worker) {
    struct kv_layout layouts[RANKS_MAX];
    for (uint32_t rank = 0; rank < worker->tp; rank++)
        sim_backend_ops.kv_layout(worker->backend, rank, &layouts[rank]);
    struct xfer_options options = {.instance = worker->instance,
                                   .layouts = layouts,
                                   .rank_count = worker->tp,
                                   .block_size = engine_options.block_size,
                                   .is_verifying = true,
                                   .transfer_timeout_ms = 200 + below(2000)};
    fake_xfer_create(net, &options, &worker->xfer);
}

static void worker_start(struct worker *worker) {
    static const uint32_t eos_ids[1] = {EOS};
    bool has_handoff = worker_count > WORKERS;
    *worker = (struct worker){.instance = ++instance_last,
                              .is_prefill = worker >= workers + WORKERS,
                              .tp = has_handoff ? 1u << below(3) : 1,
                              .step_us = 500 + below(20000)};
    marks.other_tp += worker->is_prefill && worker->tp != workers[0].tp;
    engine_options.eos_ids = eos_ids;
    engine_options.eos_count = 1;
    open_backend(worker);
    if (has_handoff) open_xfer(worker);
    struct engine_options engine = engine_options;
    if (worker->is_prefill && engine.is_chunked_prefill) engine.prefill_chunk_max = 5 + below(40);
    CHECK(!engine_create(&engine, worker->backend, &worker->engine));
    bool is_unlike = worker->is_prefill && below(20) == 0;
    marks.unlike += is_unlike;
    struct worker_core_options options = {.engine = worker->engine,
                                          .hello = {.instance = worker->instance,
                                                    .component = worker->is_prefill ? 2 : 1,
                                                    .numeric_digest = is_unlike ? 8 : 7,
                                                    .block_size = engine.block_size,
                                                    .tp = worker->tp},
                                          .sync_timeout_ms = SYNC_TIMEOUT_US / 1000,
                                          .step_timeout_ms = 1000,
                                          .xfer = worker->xfer,
                                          .rule = rule,
                                          .secret = {worker->instance, seed_now},
                                          .send = send_from_worker,
                                          .send_ctx = worker};
    if (worker->xfer)
        snprintf(options.hello.transfer_address, sizeof options.hello.transfer_address, "%s",
                 xfer_address(worker->xfer));
    fake_bus_listen(bus, worker->instance, 1u << BUS_HELLO | 1u << BUS_LOAD | 1u << BUS_ROSTER);
    CHECK(!worker_core_create(&options, now_us, &worker->core));
}

static void add_counts(void *to, const void *from, size_t bytes) {
    for (size_t i = 0; i < bytes / sizeof(uint64_t); i++)
        ((uint64_t *) to)[i] += ((const uint64_t *) from)[i];
}

static void worker_stop(struct worker *worker) {
    struct worker_core_counts counts;
    struct handoff_decode_counts decode;
    struct handoff_prefill_counts prefill;
    struct engine_load load;
    worker_core_get_counts(worker->core, &counts);
    engine_get_load(worker->engine, &load);
    add_counts(&marks.core, &counts, sizeof counts);
    if (worker_core_decode(worker->core)) {
        handoff_decode_get_counts(worker_core_decode(worker->core), &decode);
        add_counts(&marks.decode, &decode, sizeof decode);
    }
    if (worker_core_prefill(worker->core)) {
        handoff_prefill_get_counts(worker_core_prefill(worker->core), &prefill);
        add_counts(&marks.prefill, &prefill, sizeof prefill);
    }
    marks.preemptions += load.preemption_count;
    marks.half_waits += load.half_waits;
    marks.passed_remotes += load.passed_remotes;
    marks.prefix_hits += load.prefix_hit_tokens;
    fake_bus_leave(bus, worker->instance);
    worker_core_destroy(worker->core);
    xfer_destroy(worker->xfer);
    engine_destroy(worker->engine);
    sim_backend_ops.close(worker->backend);
    for (uint32_t rank = 0; rank < RANKS_MAX; rank++) mem_destroy(worker->mems[rank]);
    worker->core = NULL;
}

/* SIGSTOP for a while: it takes messages (the bus is not in its hands), and does nothing else. */
static void worker_freeze(struct worker *worker) {
    if (!worker->xfer || worker->frozen_until_us) return;
    marks.frozen++;
    worker->frozen_until_us = now_us + 500000 + below(3000000);
    if (worker->busy_until_us < worker->frozen_until_us)
        worker->busy_until_us = worker->frozen_until_us;
    fake_xfer_stop(net, worker->instance);
}

/* One of the next few allocations fails; until memory_back. */
static void memory_short(void) {
    if (!lacks_memory || below(20) != 0) return;
    fails_at = 1 + below(5);
    alloc_fail_at(fails_at, 0);
}
static void memory_back(void) {
    if (!fails_at) return;
    marks.allocations_failed += alloc_count() >= fails_at;
    alloc_fail_at(0, 0);
    fails_at = 0;
}

static void worker_step(struct worker *worker) {
    /* A worker's own lack of memory in a step ends an answer, a prefill worker's must not. */
    if (worker->is_prefill) memory_short();
    if (worker_core_step(worker->core, now_us)) wrong("the backend failed");
    memory_back();
}

static void worker_run(struct worker *worker) {
    if (worker->busy_until_us > now_us) return;
    if (worker->frozen_until_us) fake_xfer_resume(net, worker->instance);
    worker->frozen_until_us = 0;
    worker_core_flush(worker->core, now_us);
    if (worker_core_has_work(worker->core)) {
        worker_step(worker);
        worker->busy_until_us = now_us + 1 + below(worker->step_us);
        worker_core_check(worker->core);
        struct engine_load load;
        engine_get_load(worker->engine, &load);
        marks.preempted_beside_handoff +=
            load.preemption_count > worker->preemptions && load.remote_blocks > 0;
        worker->preemptions = load.preemption_count;
    }
    worker_core_tick(worker->core, now_us);
}

static uint64_t worker_next_us(const struct worker *worker) {
    if (worker_core_has_work(worker->core)) return worker->busy_until_us;
    uint64_t tick_us = worker_core_tick_at(worker->core);
    return tick_us > worker->busy_until_us ? tick_us : worker->busy_until_us;
}

/* --- frontends ---------------------------------------------------------------------------------- */

enum work_state { WORK_LATER, WORK_HOMELESS, WORK_SENT, WORK_DONE };

struct work {
    enum work_state state;
    uint64_t start_us, cancel_us; /* cancel_us 0: never */
    uint64_t attempt, worker_instance, answered_us, retry_us;
    bool is_redispatch, is_running, may_time_out, is_cancelled;
    struct sampling sampling;
    uint32_t prompt[PROMPT_MAX], prompt_count, choice_count;
    uint32_t prompt_next; /* prompt logprobs */
    struct {
        uint32_t ids[OUTPUTS_MAX], count;
        uint32_t wanted[OUTPUTS_MAX], wanted_count;
        bool is_stopped;   /* the function of the prompt ends with a stop id */
        uint32_t close_at; /* the reader wants no more than that many tokens; 0: all */
        bool is_closed;
        uint8_t finish;
    } choices[CHOICES_MAX];
};

struct frontend {
    uint64_t instance;
    struct work works[WORKS_MAX];
    uint32_t work_count;
    uint64_t attempt_last, sync_number, synced_us, tick_us;
    bool wants_sync, is_dead;
};

static struct frontend frontends[FRONTENDS];

static void send_buf(const struct frontend *frontend, uint64_t to, struct buf *out) {
    CHECK(!buf_error(out));
    fake_bus_send(bus, now_us, frontend->instance, BUS_INBOX, to, out->data, out->bytes);
    buf_release(out);
}

static void expect(struct work *work, uint32_t at) {
    struct sampling s = work->sampling;
    uint32_t stop_ids[2] = {EOS};
    s.stop_ids = stop_ids;
    s.stop_id_count = 1;
    struct sim_text text = {0};
    uint64_t history = 0;
    for (uint32_t i = 0; i < work->prompt_count; i++) sim_backend_feed(&text, work->prompt[i]);
    uint32_t count = 0;
    while (count < s.max_tokens && !work->choices[at].is_stopped) {
        struct sim_draw how = {&s, at, count, VOCAB, backend_options.sim_stop_period, history};
        uint32_t id = sim_backend_draw(&text, &how);
        work->choices[at].wanted[count++] = id;
        history += sim_backend_history(id);
        sim_backend_feed(&text, id);
        work->choices[at].is_stopped = id == EOS && count > s.min_tokens;
    }
    work->choices[at].wanted_count = count;
}

static void make_work(struct work *work) {
    *work = (struct work){.start_us = now_us + below(4000000), .prompt_next = 1};
    work->prompt_count = 1 + below(below(3) ? 40 : PROMPT_MAX);
    uint32_t family = below(3); /* few beginnings, so that prefixes are shared */
    for (uint32_t i = 0; i < work->prompt_count; i++)
        work->prompt[i] = i < 24 ? (family * 7 + i) % VOCAB : below(VOCAB);
    work->choice_count = below(3) ? 1 : 1 + below(CHOICES_MAX);
    struct sampling *s = &work->sampling;
    sampling_init(s);
    s->max_tokens = 1 + below(OUTPUTS_MAX);
    s->min_tokens = below(3) ? 0 : below(s->max_tokens + 1);
    s->temperature = below(2) ? 1.0f : 0.0f;
    s->seed = below(1000);
    if (below(3) == 0) s->presence_penalty = 0.5f;
    if (below(3) == 0) s->logprobs = (int32_t) below(3);
    if (below(5) == 0) s->prompt_logprobs = (int32_t) below(3);
    s->skip_prefix_cache = below(6) == 0;
    if (below(5) == 0) work->cancel_us = work->start_us + below(1500000);
    work->may_time_out = below(12) == 0;
    for (uint32_t i = 0; i < work->choice_count; i++) {
        expect(work, i);
        if (work->choice_count > 1 && below(3) == 0) work->choices[i].close_at = 1 + below(10);
    }
}

static bool is_choice_over(const struct work *work, uint32_t at) {
    return work->choices[at].finish || work->choices[at].is_closed;
}

static void finish_work(struct work *work) {
    work->state = WORK_DONE;
    work->attempt = 0;
}

static void dispatch(struct frontend *frontend, struct work *work) {
    struct worker *worker = &workers[below(WORKERS)];
    struct msg_choice choices[CHOICES_MAX];
    struct buf out;
    uint32_t count = 0;
    bool is_resumed = false;
    for (uint32_t i = 0; i < work->choice_count; i++) {
        /* Whole ones stay here, but somebody must bring what lacks of the prompt. */
        bool is_last = count == 0 && i + 1 == work->choice_count;
        if (is_choice_over(work, i) && !is_last) continue;
        choices[count++] = (struct msg_choice){i, work->choices[i].ids, work->choices[i].count};
        is_resumed |= work->choices[i].count > 0;
    }
    marks.resumed += is_resumed;
    marks.redispatch_first += work->is_redispatch;
    work->attempt = ++frontend->attempt_last;
    work->worker_instance = worker->instance;
    work->answered_us = now_us;
    work->state = WORK_SENT;
    work->is_running = false;
    struct msg_generate message = {.attempt = work->attempt,
                                   .prompt_ids = work->prompt,
                                   .prompt_count = work->prompt_count,
                                   .choices = choices,
                                   .choice_count = count,
                                   .sampling = work->sampling,
                                   .remaining_ms = work->may_time_out ? 1 + below(40) : 0,
                                   .is_redispatch = work->is_redispatch,
                                   .prefill_instance = workers[below(WORKERS + PREFILLS)].instance,
                                   .request_id = "sim",
                                   .traceparent = ""};
    buf_init(&out, 0);
    msg_encode_generate(&message, &out);
    send_buf(frontend, worker->instance, &out);
}

static void go_elsewhere(struct work *work) {
    work->state = WORK_HOMELESS;
    work->attempt = 0;
    work->is_redispatch = true;
    work->retry_us = now_us;
}

static struct work *find_work(struct frontend *frontend, uint64_t from, uint64_t attempt) {
    for (uint32_t i = 0; i < frontend->work_count; i++) {
        struct work *work = &frontend->works[i];
        if (work->state == WORK_SENT && work->attempt == attempt && work->worker_instance == from)
            return work;
    }
    marks.dropped_unbound++;
    return NULL;
}

static void take_ids(struct frontend *frontend, struct work *work,
                     const struct msg_tokens_entry *entry) {
    uint32_t at = entry->choice_index;
    if (at >= work->choice_count) wrong("choice %u of %u", at, work->choice_count);
    if (work->choices[at].is_closed) return;
    if (entry->first_index > work->choices[at].count) {
        marks.gaps++;
        frontend->wants_sync = true;
        return;
    }
    for (uint32_t i = 0; i < entry->id_count; i++) {
        uint32_t index = entry->first_index + i;
        if (index >= work->choices[at].wanted_count)
            wrong("token %u of choice %u, only %u wanted", index, at,
                  work->choices[at].wanted_count);
        if (entry->ids[i] != work->choices[at].wanted[index])
            wrong("choice %u token %u is %u, not %u", at, index, entry->ids[i],
                  work->choices[at].wanted[index]);
        if ((work->sampling.logprobs >= 0) != (entry->logprobs != NULL))
            wrong("logprobs are not as asked");
        if (entry->logprobs && (entry->logprobs[i].token_id != entry->ids[i] ||
                                entry->logprobs[i].top_count != (uint32_t) work->sampling.logprobs))
            wrong("a logprob of another token");
        if (index < work->choices[at].count) {
            marks.old_tokens++;
            continue;
        }
        work->choices[at].ids[work->choices[at].count++] = entry->ids[i];
        marks.tokens++;
    }
    uint32_t close_at = work->choices[at].close_at;
    if (close_at && work->choices[at].count >= close_at) {
        work->choices[at].is_closed = true;
        marks.choices_closed++;
        return;
    }
    if (!entry->finish || entry->first_index + entry->id_count < work->choices[at].count) return;
    if (work->choices[at].count != work->choices[at].wanted_count)
        wrong("choice %u ends after %u tokens, not %u", at, work->choices[at].count,
              work->choices[at].wanted_count);
    if (entry->finish != (work->choices[at].is_stopped ? MSG_FINISH_STOP : MSG_FINISH_LENGTH))
        wrong("choice %u ends with %u", at, entry->finish);
    work->choices[at].finish = entry->finish;
    marks.stopped += entry->finish == MSG_FINISH_STOP;
}

static void take_entry(struct frontend *frontend, uint64_t from,
                       const struct msg_tokens_entry *entry) {
    struct work *work = find_work(frontend, from, entry->attempt);
    if (!work) return;
    work->answered_us = now_us;
    work->is_running |= entry->is_admitted;
    if (entry->finish == MSG_FINISH_ERROR) {
        if (!work->may_time_out) wrong("an error: %s", entry->error);
        marks.timed_out++;
        finish_work(work);
        return;
    }
    if (entry->finish == MSG_FINISH_CANCELLED && !work->choices[entry->choice_index].is_closed)
        wrong("cancelled, and nobody asked");
    if (entry->prompt_logprob_count && entry->prompt_first <= work->prompt_next) {
        for (uint32_t i = 0; i < entry->prompt_logprob_count; i++)
            if (entry->prompt_logprobs[i].token_id != work->prompt[entry->prompt_first + i])
                wrong("prompt logprob %u of another token", entry->prompt_first + i);
        uint32_t next = entry->prompt_first + entry->prompt_logprob_count;
        if (next > work->prompt_next) {
            marks.prompt_logprobs += next - work->prompt_next;
            work->prompt_next = next;
        }
    } else if (entry->prompt_logprob_count) {
        frontend->wants_sync = true;
    }
    take_ids(frontend, work, entry);
    for (uint32_t i = 0; i < work->choice_count; i++)
        if (!is_choice_over(work, i)) return;
    if (work->sampling.prompt_logprobs >= 0 && work->prompt_next < work->prompt_count) {
        frontend->wants_sync = true; /* whole but for what was lost of the prompt */
        return;
    }
    marks.finished++;
    marks.shared_prompts += work->choice_count > 1;
    finish_work(work);
}

static void frontend_take(struct frontend *frontend, const struct bus_message *message) {
    struct arena arena;
    arena_init(&arena, 0);
    uint32_t kind = msg_peek_kind(message->data, message->bytes);
    if (kind == MSG_TOKENS) {
        struct msg_tokens tokens;
        if (msg_decode_tokens(message->data, message->bytes, &arena, &tokens)) wrong("bad TOKENS");
        for (uint32_t i = 0; i < tokens.entry_count; i++)
            take_entry(frontend, message->from, &tokens.entries[i]);
    } else if (kind == MSG_GONE) {
        struct msg_attempt gone;
        if (msg_decode_attempt(message->data, message->bytes, &gone)) wrong("bad GONE");
        struct work *work = find_work(frontend, message->from, gone.attempt);
        if (work) {
            marks.migrated_by_gone++;
            go_elsewhere(work);
        }
    } else if (kind == MSG_REFUSE) {
        struct msg_refuse refuse;
        if (msg_decode_refuse(message->data, message->bytes, &arena, &refuse)) wrong("bad REFUSE");
        struct work *work = find_work(frontend, message->from, refuse.attempt);
        if (work && refuse.reason != MSG_REFUSE_BUSY) wrong("refused: %s", refuse.text);
        if (work) {
            marks.refused_busy++;
            work->state = WORK_HOMELESS;
            work->attempt = 0;
            work->retry_us = now_us + 100000 + below(400000);
        }
    }
    arena_release(&arena);
}

static void send_sync(struct frontend *frontend, uint64_t to) {
    struct msg_sync_entry entries[WORKS_MAX];
    struct msg_sync_choice choices[WORKS_MAX][CHOICES_MAX];
    struct buf out;
    uint32_t count = 0;
    for (uint32_t i = 0; i < frontend->work_count; i++) {
        const struct work *work = &frontend->works[i];
        if (work->state != WORK_SENT || work->worker_instance != to) continue;
        uint32_t listed = 0;
        for (uint32_t c = 0; c < work->choice_count; c++)
            if (!work->choices[c].is_closed)
                choices[count][listed++] = (struct msg_sync_choice){c, work->choices[c].count};
        entries[count] =
            (struct msg_sync_entry){work->attempt, choices[count], listed, work->prompt_next};
        count++;
    }
    buf_init(&out, 0);
    msg_encode_sync(&(struct msg_sync){++frontend->sync_number, entries, count}, &out);
    send_buf(frontend, to, &out);
}

static void cancel_work(struct frontend *frontend, struct work *work) {
    struct buf out;
    if (work->is_running) marks.cancelled_running++;
    else marks.cancelled_waiting++;
    if (work->state == WORK_SENT) {
        buf_init(&out, 0);
        msg_encode_cancel(&(struct msg_attempt){work->attempt}, &out);
        send_buf(frontend, work->worker_instance, &out);
    }
    work->is_cancelled = true;
    finish_work(work);
}

static void frontend_tick(struct frontend *frontend) {
    frontend->tick_us = now_us + FRONTEND_TICK_US;
    for (uint32_t i = 0; i < frontend->work_count; i++) {
        struct work *work = &frontend->works[i];
        if (work->state == WORK_DONE) continue;
        if (work->cancel_us && now_us >= work->cancel_us) {
            cancel_work(frontend, work);
            continue;
        }
        if (work->state == WORK_LATER && now_us >= work->start_us) work->state = WORK_HOMELESS;
        if (work->state == WORK_HOMELESS && now_us >= work->retry_us) dispatch(frontend, work);
        if (work->state == WORK_SENT && now_us - work->answered_us > SYNC_TIMEOUT_US) {
            marks.migrated_by_silence++;
            go_elsewhere(work);
        }
    }
    if (now_us - frontend->synced_us < SYNC_US && !frontend->wants_sync) return;
    frontend->synced_us = now_us;
    frontend->wants_sync = false;
    for (uint32_t w = 0; w < WORKERS; w++) send_sync(frontend, workers[w].instance);
}

static bool is_frontend_done(const struct frontend *frontend) {
    for (uint32_t i = 0; i < frontend->work_count; i++)
        if (frontend->works[i].state != WORK_DONE) return false;
    return true;
}

/* --- one seed ----------------------------------------------------------------------------------- */

static void choose_options(uint64_t seed) {
    static const uint32_t block_sizes[] = {8, 16};
    uint32_t block_size = block_sizes[below(2)];
    uint32_t seats = 1 + below(10);
    uint32_t tokens = 16 + below(120);
    /* As few blocks as the longest sequence needs, up to plenty. */
    uint32_t least = (PROMPT_MAX + OUTPUTS_MAX) / block_size + 1;
    engine_options = (struct engine_options){
        .block_size = block_size,
        .block_count = least + below(3) * below(40),
        .seat_count = seats,
        .batched_tokens_max = tokens,
        .model_len_max = LEN_MAX,
        .vocab_size = VOCAB,
        .queue_requests_max = below(3) ? 64 : 2,
        .queue_prompt_bytes_max = 1 << 20,
        .is_chunked_prefill = tokens < PROMPT_MAX || below(3) > 0,
        .prefill_chunk_max = below(2) ? 0 : 1 + below(20),
        .has_prefix_cache = below(4) > 0,
    };
    backend_options = (struct backend_options){.rank_count = 1,
                                               .block_size = block_size,
                                               .seat_count = seats,
                                               .batched_tokens_max = tokens,
                                               .model_len_max = LEN_MAX,
                                               .sim_in_flight_max = 1 + below(2),
                                               .sim_stop_period = below(2) ? 0 : 20 + below(30)};
    rule = (struct handoff_rule){.is_remote = true,
                                 .is_conditional = below(3) > 0,
                                 .local_tokens_max = below(30),
                                 .queue_max = 1 + below(4),
                                 .timeout_ms = below(3) ? 3000 : 20 + below(500)};
    marks.two_in_flight += backend_options.sim_in_flight_max == 2;
    marks.whole_prefill += !engine_options.is_chunked_prefill;
}

static void deliver(void) {
    struct bus_message message;
    uint64_t to;
    while (fake_bus_take(bus, now_us, &to, &message)) {
        for (uint32_t w = 0; w < worker_count; w++) {
            if (workers[w].instance != to) continue;
            memory_short();
            worker_core_message(workers[w].core, &message, now_us);
            memory_back();
        }
        for (uint32_t f = 0; f < FRONTENDS; f++)
            if (frontends[f].instance == to && !frontends[f].is_dead)
                frontend_take(&frontends[f], &message);
    }
}

/* As the supervisor does; others find out by silence alone. */
static void tell_death(uint64_t instance) {
    struct buf out;
    struct msg_roster_dead dead = {.instance = instance, .reason = MSG_REAP_KILLED, .status = 9};
    buf_init(&out, 0);
    msg_encode_roster(&(struct msg_roster){.number = now_us, .dead = &dead, .dead_count = 1}, &out);
    CHECK(!buf_error(&out));
    fake_bus_send(bus, now_us, 1, BUS_ROSTER, 0, out.data, out.bytes);
    buf_release(&out);
}

/* A worker or a frontend goes, without a word; a new worker takes the place. */
static void maybe_kill(uint32_t *deaths) {
    if (*deaths == 0 || below(400) != 0) return;
    --*deaths;
    if (below(4) == 0) {
        struct frontend *frontend = &frontends[below(FRONTENDS)];
        if (frontend->is_dead) return;
        frontend->is_dead = true;
        fake_bus_leave(bus, frontend->instance);
        marks.frontend_deaths++;
        return;
    }
    struct worker *worker = &workers[below(worker_count)];
    if (worker->is_prefill && below(3) == 0) {
        worker_freeze(worker);
        return;
    }
    marks.worker_deaths++;
    uint64_t dead = worker->instance;
    if (worker->xfer) fake_xfer_crash(net, dead);
    worker_stop(worker);
    worker_start(worker);
    if (below(2)) tell_death(dead);
}

static uint64_t next_us(void) {
    uint64_t next = fake_bus_next_us(bus);
    if (fake_xfer_next_us(net) < next) next = fake_xfer_next_us(net);
    for (uint32_t w = 0; w < worker_count; w++)
        if (worker_next_us(&workers[w]) < next) next = worker_next_us(&workers[w]);
    for (uint32_t f = 0; f < FRONTENDS; f++)
        if (!frontends[f].is_dead && frontends[f].tick_us < next) next = frontends[f].tick_us;
    return next > now_us ? next : now_us + 1;
}

static bool is_over(void) {
    for (uint32_t f = 0; f < FRONTENDS; f++)
        if (!frontends[f].is_dead && !is_frontend_done(&frontends[f])) return false;
    for (uint32_t w = 0; w < worker_count; w++)
        if (!worker_core_is_empty(workers[w].core)) return false;
    return true;
}

static void check_whole(const struct worker *worker) {
    struct engine_load load;
    worker_core_check(worker->core);
    engine_get_load(worker->engine, &load);
    if (load.blocks_free + load.blocks_cached != load.blocks_total) wrong("the pool lacks blocks");
    if (load.remote_blocks || load.quarantined_blocks) wrong("blocks are held for a handoff");
    if (load.waiting_tokens || load.running_requests) wrong("something is left in the engine");
}

static void run_seed(uint64_t seed) {
    seed_now = random_state = seed;
    now_us = 1000000;
    instance_last = 100;
    struct fake_bus_options options = {.seed = seed * 31,
                                       .lost_per_mille = below(3) * below(120),
                                       .doubled_per_mille = below(3) * below(100),
                                       .delay_us_max = below(2) ? 2000 : 60000};
    bus = fake_bus_create(&options);
    choose_options(seed);
    struct fake_xfer_options xfer_options = {
        .seed = seed * 17,
        .delay_us_max = below(2) ? 3000 : 100000,
        .copy_us_max = below(2) ? 2000 : 300000,
        .detect_us = 1000 + below(50000),
        .stuck_per_mille = below(3) ? 0 : below(60),
        .broken_per_mille = below(3) ? 0 : below(60),
        .corrupted_per_mille = below(3) ? 0 : below(60),
        .doubled_per_mille = below(3) ? 0 : below(100),
    };
    lacks_memory = below(5) == 0;
    net = fake_xfer_net_create(&xfer_options);
    worker_count = WORKERS + (below(4) ? PREFILLS : 0);
    for (uint32_t w = 0; w < worker_count; w++) worker_start(&workers[w]);
    for (uint32_t f = 0; f < FRONTENDS; f++) {
        struct frontend *frontend = &frontends[f];
        *frontend = (struct frontend){
            .instance = ++instance_last, .work_count = below(WORKS_MAX), .tick_us = now_us};
        fake_bus_listen(bus, frontend->instance, 1u << BUS_LOAD);
        for (uint32_t i = 0; i < frontend->work_count; i++) make_work(&frontend->works[i]);
    }
    uint32_t deaths = below(3) ? 0 : 1 + below(3);
    while (!is_over()) {
        if (now_us > END_US) wrong("something waits for ever");
        fake_xfer_run(net, now_us);
        deliver();
        maybe_kill(&deaths);
        for (uint32_t f = 0; f < FRONTENDS; f++)
            if (!frontends[f].is_dead && frontends[f].tick_us <= now_us)
                frontend_tick(&frontends[f]);
        for (uint32_t w = 0; w < worker_count; w++) worker_run(&workers[w]);
        now_us = next_us();
    }
    struct fake_bus_counts counts;
    fake_bus_get_counts(bus, &counts);
    marks.bus.lost += counts.lost;
    marks.bus.doubled += counts.doubled;
    marks.bus.reordered += counts.reordered;
    marks.bus.sent += counts.sent;
    struct fake_xfer_counts xfer_counts;
    fake_xfer_get_counts(net, &xfer_counts);
    add_counts(&marks.xfer, &xfer_counts, sizeof xfer_counts);
    for (uint32_t w = 0; w < worker_count; w++) {
        check_whole(&workers[w]);
        worker_stop(&workers[w]);
    }
    fake_xfer_net_destroy(net);
    fake_bus_destroy(bus);
}

static int marks_missing;

static void mark(const char *name, uint64_t count) {
    printf("%10llu %s\n", (unsigned long long) count, name);
    if (count == 0) marks_missing++;
}
#define MARK(field) mark(#field, marks.field)

int main(int argc, char **argv) {
    log_configure(LOG_ERROR, LOG_HUMAN, NULL);
    if (argc > 1) {
        run_seed(strtoull(argv[1], NULL, 10));
        return 0;
    }
    uint64_t seeds = getenv("GRAMME_FULL") ? SEEDS_FULL : SEEDS;
    for (uint64_t seed = 1; seed <= seeds; seed++) run_seed(seed);
    MARK(tokens);
    MARK(finished);
    MARK(stopped);
    MARK(cancelled_waiting);
    MARK(cancelled_running);
    MARK(refused_busy);
    MARK(migrated_by_gone);
    MARK(migrated_by_silence);
    MARK(resumed);
    MARK(redispatch_first);
    MARK(gaps);
    MARK(old_tokens);
    MARK(dropped_unbound);
    MARK(preemptions);
    MARK(prefix_hits);
    MARK(prompt_logprobs);
    MARK(shared_prompts);
    MARK(choices_closed);
    MARK(timed_out);
    MARK(worker_deaths);
    MARK(frontend_deaths);
    MARK(two_in_flight);
    MARK(whole_prefill);
    for (uint32_t i = 0; i < MSG_REMOTE_RESULT_COUNT; i++)
        mark(msg_remote_result_name(i), marks.decode.results[i]);
    MARK(allocations_failed);
    MARK(half_waits);
    MARK(passed_remotes);
    MARK(preempted_beside_handoff);
    MARK(frozen);
    MARK(unlike);
    MARK(other_tp);
    MARK(decode.done_first);
    MARK(decode.pieces_first);
    MARK(decode.released_late);
    MARK(decode.late_retries);
    MARK(decode.cancelled_exposed);
    MARK(decode.gone);
    MARK(decode.stale);
    MARK(decode.syncs);
    MARK(decode.transfer_failures);
    MARK(prefill.prefills);
    MARK(prefill.repeated);
    MARK(prefill.late);
    MARK(prefill.refused);
    MARK(prefill.done);
    MARK(prefill.done_again);
    MARK(prefill.deadlines);
    MARK(prefill.cancels);
    MARK(prefill.omitted_live);
    MARK(prefill.omitted_done);
    MARK(prefill.silent_senders);
    MARK(prefill.failed);
    MARK(prefill.stale_syncs);
    MARK(prefill.gone);
    MARK(prefill.pieces_cached);
    MARK(prefill.both_cached);
    MARK(prefill.tail_us);
    MARK(xfer.quarantined);
    MARK(xfer.forced);
    MARK(xfer.orphaned);
    MARK(xfer.stuck);
    MARK(xfer.broken);
    MARK(xfer.corrupted);
    MARK(xfer.doubled);
    MARK(core.generates);
    MARK(core.repeated_generates);
    MARK(core.late_generates);
    MARK(core.refused);
    MARK(core.syncs);
    MARK(core.stale_syncs);
    MARK(core.resent_ids);
    MARK(core.gone);
    MARK(core.cancels);
    MARK(core.omitted_live);
    MARK(core.omitted_finished);
    MARK(core.omitted_choices);
    MARK(core.silent_senders);
    MARK(bus.lost);
    MARK(bus.doubled);
    MARK(bus.reordered);
    if (marks_missing) printf("%d marks were not reached\n", marks_missing);
    return marks_missing != 0;
}
