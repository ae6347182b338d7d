/* worker_core - see worker_core.h. */
#include "worker/worker_core.h"

#include <string.h>

#include "base/alloc.h"
#include "base/arena.h"
#include "base/buf.h"
#include "base/log.h"
#include "base/num.h"
#include "worker/worker_attempts.h"
#include "worker/worker_kv.h"
#include "worker/worker_load.h"
#include "worker/worker_tokens.h"

#define SENDER_KEEP_TICKS 600u /* a sender without attempts is forgotten after a minute */
#define LOAD_GAP_US 10000u     /* specified: at most one LOAD in 10 ms */
#define RETRY_AFTER_MS 1000u

struct worker_core {
    struct worker_core_options options;
    struct handoff_decode *decode;   /* NULL: every prompt is computed here */
    struct handoff_prefill *prefill; /* NULL: no prefill worker */
    bool is_disconnected;
    struct worker_kv *kv;
    struct worker_attempts attempts; /* by sender */
    struct worker_tokens tokens;     /* tells what they have generated */
    bool must_step;                  /* a tick has passed: deadlines in the engine may have */
    bool is_draining;
    uint64_t tick_at_us, load_sent_us;
    uint64_t device_used_bytes, device_other_bytes, device_drift_bytes;
    bool had_waiting;
    uint64_t refuser;          /* the frontend that refused this worker last; 0: none */
    struct buf out;            /* the message being made */
    struct arena decode_arena; /* of the message being read */
    struct msg_load_sender *load_senders;
    uint32_t load_sender_room;
    struct worker_core_counts counts;
};

/* --- sending ---------------------------------------------------------------------------------- */

static void send_out(struct worker_core *core, enum bus_subject subject, uint64_t to) {
    if (buf_error(&core->out)) return; /* no memory: as good as lost */
    core->options.send(core->options.send_ctx, subject, to, core->out.data, core->out.bytes);
}

static void send_refuse(struct worker_core *core, uint64_t to, uint64_t number,
                        enum msg_refusal reason, const char *text) {
    struct msg_refuse refuse = {.attempt = number,
                                .reason = (uint8_t) reason,
                                .retry_after_ms = reason == MSG_REFUSE_BUSY ? RETRY_AFTER_MS : 0,
                                .text = text};
    core->counts.refused++;
    buf_clear(&core->out);
    msg_encode_refuse(&refuse, &core->out);
    send_out(core, BUS_INBOX, to);
}

static void send_gone(struct worker_core *core, uint64_t to, uint64_t number) {
    struct msg_attempt gone = {number};
    core->counts.gone++;
    buf_clear(&core->out);
    msg_encode_gone(&gone, &core->out);
    send_out(core, BUS_INBOX, to);
}

static void send_hello(struct worker_core *core) {
    buf_clear(&core->out);
    msg_encode_hello(&core->options.hello, &core->out);
    send_out(core, BUS_HELLO, 0);
}

/* --- create, destroy -------------------------------------------------------------------------- */

static enum err open_handoff(struct worker_core *core, uint64_t now_us) {
    const struct worker_core_options *o = &core->options;
    struct handoff_options options = {.engine = o->engine,
                                      .xfer = o->xfer,
                                      .hello = &core->options.hello,
                                      .rule = o->rule,
                                      .secret = {o->secret[0], o->secret[1]},
                                      .sync_timeout_ms = o->sync_timeout_ms,
                                      .step_timeout_ms = o->step_timeout_ms,
                                      .quarantine_timeout_ms = o->quarantine_timeout_ms,
                                      .send = o->send,
                                      .send_ctx = o->send_ctx};
    if (o->hello.component == HANDOFF_COMPONENT_PREFILL)
        return handoff_prefill_create(&options, &core->prefill);
    if (!o->xfer || !o->rule.is_remote) return ERR_OK;
    return handoff_decode_create(&options, now_us, &core->decode);
}

enum err worker_core_create(const struct worker_core_options *options, uint64_t now_us,
                            struct worker_core **out) {
    struct worker_core *core = alloc_zero(1, sizeof *core);
    if (!core) return ERR_MEMORY;
    core->options = *options;
    worker_tokens_init(&core->tokens, options->send, options->send_ctx);
    buf_init(&core->out, 0);
    arena_init(&core->decode_arena, 0);
    core->tick_at_us = now_us + WORKER_TICK_US;
    enum err e = worker_attempts_init(&core->attempts);
    if (!e) e = open_handoff(core, now_us);
    if (!e)
        e = worker_kv_create(engine_kv_index(options->engine), options->send, options->send_ctx,
                             &core->kv);
    if (e) {
        worker_core_destroy(core);
        return e;
    }
    send_hello(core);
    *out = core;
    return ERR_OK;
}

void worker_core_destroy(struct worker_core *core) {
    if (!core) return;
    worker_attempts_release(&core->attempts);
    worker_tokens_release(&core->tokens);
    handoff_decode_destroy(core->decode);
    handoff_prefill_destroy(core->prefill);
    worker_kv_destroy(core->kv);
    alloc_free(core->load_senders);
    buf_release(&core->out);
    arena_release(&core->decode_arena);
    alloc_free(core);
}

/* --- how an attempt ends ---------------------------------------------------------------------- */

/* Cancels what still runs of it and frees it. */
static void forget(struct worker_core *core, struct worker_attempt *attempt) {
    if (attempt->live_count > 0) engine_cancel(core->options.engine, attempt->engine_id);
    if (core->decode) handoff_decode_end(core->decode, attempt->engine_id);
    worker_attempts_remove(&core->attempts, attempt);
}

/* Ends what still lives of the attempt, here and in the engine. */
static void fail(struct worker_core *core, struct worker_attempt *attempt, enum err error) {
    engine_cancel(core->options.engine, attempt->engine_id);
    if (core->decode) handoff_decode_end(core->decode, attempt->engine_id);
    for (uint32_t i = 0; i < attempt->choice_count; i++)
        if (attempt->choices[i].finish == FINISH_NONE)
            worker_attempts_end_choice(attempt, &attempt->choices[i], FINISH_ERROR, error);
}

/* --- GENERATE --------------------------------------------------------------------------------- */

static enum err start(struct worker_core *core, struct worker_attempt *attempt,
                      const struct msg_generate *message, uint64_t now_us, struct err_text *text) {
    struct engine_choice *choices =
        arena_take(&core->decode_arena, message->choice_count * sizeof *choices);
    if (!choices) return err_set(text, ERR_MEMORY, "no memory for the request");
    for (uint32_t i = 0; i < message->choice_count; i++)
        choices[i] =
            (struct engine_choice){message->choices[i].index, message->choices[i].output_ids,
                                   message->choices[i].output_count};
    bool is_remote =
        core->decode && handoff_decode_wants(core->decode, attempt->engine_id, message, now_us);
    struct engine_request request = {
        .kind = is_remote ? ENGINE_REMOTE : ENGINE_GENERATE,
        .id = attempt->engine_id,
        .prompt_ids = message->prompt_ids,
        .prompt_count = message->prompt_count,
        .choices = choices,
        .choice_count = message->choice_count,
        .sampling = &message->sampling,
        .goes_first = message->is_redispatch,
        .deadline_us = message->remaining_ms ? now_us + (uint64_t) message->remaining_ms * 1000 : 0,
    };
    enum err e = engine_add(core->options.engine, &request, text);
    if (e && is_remote) handoff_decode_end(core->decode, attempt->engine_id);
    return e;
}

static enum msg_refusal refusal_of(enum err e) {
    switch (e) {
    case ERR_NO_ROOM: return MSG_REFUSE_NO_ROOM;
    case ERR_USAGE: return MSG_REFUSE_BAD;
    default: return MSG_REFUSE_BUSY;
    }
}

static void take_generate(struct worker_core *core, const struct bus_message *bus_message,
                          uint64_t now_us) {
    struct msg_generate message;
    enum err e =
        msg_decode_generate(bus_message->data, bus_message->bytes, &core->decode_arena, &message);
    if (e == ERR_FORMAT || (!e && message.attempt == 0)) {
        core->counts.bad_messages++;
        return;
    }
    if (e) return; /* no memory: lost, the sender's SYNC hears GONE */
    core->counts.generates++;
    struct worker_sender *sender = worker_attempts_sender_get(&core->attempts, bus_message->from);
    if (!sender) return;
    struct worker_attempt *attempt =
        worker_attempts_by_number(&core->attempts, sender, message.attempt);
    if (attempt) { /* again: answered, not run twice */
        core->counts.repeated_generates++;
        attempt->needs_ack = true;
        worker_attempts_mark_dirty(attempt);
        return;
    }
    if (worker_attempts_is_forgotten(sender, message.attempt)) {
        core->counts.late_generates++;
        send_gone(core, sender->instance, message.attempt);
        return;
    }
    sender->attempt_highest = num_max(sender->attempt_highest, message.attempt);
    if (core->prefill) {
        send_refuse(core, sender->instance, message.attempt, MSG_REFUSE_BAD,
                    "a prefill worker generates nothing");
        return;
    }
    if (core->is_draining) {
        send_refuse(core, sender->instance, message.attempt, MSG_REFUSE_DRAINING,
                    "the worker is shutting down");
        return;
    }
    struct err_text text = {""};
    attempt = worker_attempts_make(&core->attempts, sender, &message);
    e = attempt ? start(core, attempt, &message, now_us, &text) : ERR_MEMORY;
    if (e) {
        if (!text.text[0]) err_set(&text, e, "no memory for the request");
        log_request(LOG_INFO, message.request_id, "refused: %s", text.text);
        send_refuse(core, sender->instance, message.attempt, refusal_of(e), text.text);
        if (attempt) worker_attempts_free(attempt);
        return;
    }
    if (core->options.hello.name[0]) /* a process of its own: one grep shows a request's way */
        log_request(LOG_INFO, message.request_id, "taken, %u tokens%s%.80s", message.prompt_count,
                    message.traceparent[0] ? ", traceparent " : "", message.traceparent);
    worker_attempts_add(&core->attempts, attempt);
    attempt->needs_ack = true;
    worker_attempts_mark_dirty(attempt);
}

/* --- SYNC and CANCEL -------------------------------------------------------------------------- */

static void answer_choice(struct worker_core *core, struct worker_choice *choice, uint32_t next) {
    uint32_t wanted = next > choice->first_index ? next - choice->first_index : 0;
    choice->omitted_count = 0;
    if (wanted < choice->sent_count) {
        core->counts.resent_ids += choice->sent_count - wanted;
        choice->sent_count = wanted;
    }
    choice->is_dirty |= choice->sent_count < choice->id_count || choice->finish != FINISH_NONE;
}

/* Nobody reads that choice any more (a stop string was found in it): it ends without a word. */
static void omit_choice(struct worker_core *core, struct worker_attempt *attempt,
                        struct worker_choice *choice) {
    if (choice->finish != FINISH_NONE || ++choice->omitted_count < 2) return;
    core->counts.omitted_choices++;
    engine_cancel_choice(core->options.engine, attempt->engine_id, choice->index);
    choice->finish = FINISH_CANCELLED;
    attempt->live_count--;
}

static void answer_entry(struct worker_core *core, struct worker_attempt *attempt,
                         const struct msg_sync_entry *entry) {
    if (attempt->prompt_logprobs && entry->prompt_next < attempt->prompt_told) {
        attempt->prompt_sent =
            (uint32_t) num_min(attempt->prompt_sent, num_max(entry->prompt_next, 1));
    }
    for (uint32_t i = 0; i < attempt->choice_count; i++) {
        uint32_t k = 0;
        while (k < entry->choice_count && entry->choices[k].index != attempt->choices[i].index) k++;
        if (k < entry->choice_count)
            answer_choice(core, &attempt->choices[i], entry->choices[k].next_index);
        else omit_choice(core, attempt, &attempt->choices[i]);
    }
    attempt->needs_ack = true; /* the answer may be empty, but there is one */
    worker_attempts_mark_dirty(attempt);
}

static void drop_omitted(struct worker_core *core, struct worker_sender *sender) {
    struct worker_attempt *next;
    for (struct worker_attempt *attempt = sender->attempts; attempt; attempt = next) {
        next = attempt->next;
        if (attempt->seen_in_sync == sender->sync_number) continue;
        attempt->omitted_count++;
        bool is_finished = attempt->live_count == 0;
        if (!is_finished && attempt->omitted_count < 2) continue;
        if (is_finished) core->counts.omitted_finished++;
        else core->counts.omitted_live++;
        forget(core, attempt);
    }
}

static void take_sync(struct worker_core *core, const struct bus_message *bus_message) {
    struct msg_sync message;
    enum err e =
        msg_decode_sync(bus_message->data, bus_message->bytes, &core->decode_arena, &message);
    if (e) {
        core->counts.bad_messages += e == ERR_FORMAT;
        return;
    }
    struct worker_sender *sender = worker_attempts_sender_get(&core->attempts, bus_message->from);
    if (!sender) return;
    if (message.number <= sender->sync_number) { /* late or twice: newer ones were heard */
        core->counts.stale_syncs++;
        return;
    }
    core->counts.syncs++;
    sender->sync_number = message.number;
    for (uint32_t i = 0; i < message.entry_count; i++) {
        struct worker_attempt *attempt =
            worker_attempts_by_number(&core->attempts, sender, message.entries[i].attempt);
        if (!attempt) {
            send_gone(core, sender->instance, message.entries[i].attempt);
            continue;
        }
        attempt->seen_in_sync = sender->sync_number;
        attempt->omitted_count = 0;
        answer_entry(core, attempt, &message.entries[i]);
    }
    drop_omitted(core, sender);
}

static void take_cancel(struct worker_core *core, const struct bus_message *bus_message) {
    struct msg_attempt message;
    if (msg_decode_attempt(bus_message->data, bus_message->bytes, &message)) {
        core->counts.bad_messages++;
        return;
    }
    core->counts.cancels++;
    struct worker_sender *sender = worker_attempts_sender(&core->attempts, bus_message->from);
    struct worker_attempt *attempt =
        sender ? worker_attempts_by_number(&core->attempts, sender, message.attempt) : NULL;
    if (attempt) forget(core, attempt);
}

/* --- messages --------------------------------------------------------------------------------- */

/* Whether the message is of the handoff; on a prefill worker all work is. */
static bool take_handoff(struct worker_core *core, const struct bus_message *message,
                         uint64_t now_us) {
    bool is_good = true;
    switch (msg_peek_kind(message->data, message->bytes)) {
    case MSG_PREFILL:
    case MSG_SYNC:
    case MSG_CANCEL:
        if (!core->prefill) return false;
        is_good = handoff_prefill_take(core->prefill, message, &core->decode_arena, now_us);
        break;
    case MSG_HELLO:
    case MSG_BYE:
    case MSG_LOAD:
    case MSG_ROSTER:
    case MSG_PREFILL_DONE:
    case MSG_REFUSE:
    case MSG_GONE:
        if (core->decode)
            is_good = handoff_decode_take(core->decode, message, &core->decode_arena, now_us);
        break;
    default: return false;
    }
    core->counts.bad_messages += !is_good;
    return true;
}

/* A frontend or a decode worker wants nothing of us: said once. */
static bool take_refusal(struct worker_core *core, const struct bus_message *message) {
    struct msg_refuse refuse;
    if (msg_peek_kind(message->data, message->bytes) != MSG_REFUSE ||
        msg_decode_refuse(message->data, message->bytes, &core->decode_arena, &refuse) ||
        refuse.attempt)
        return false;
    if (core->refuser != message->from)
        log_error("refused by %016llx: %s", (unsigned long long) message->from, refuse.text);
    core->refuser = message->from;
    return true;
}

void worker_core_message(struct worker_core *core, const struct bus_message *message,
                         uint64_t now_us) {
    struct worker_sender *sender = worker_attempts_sender(&core->attempts, message->from);
    if (sender) sender->silent_ticks = 0;
    if (take_refusal(core, message)) {
        arena_release(&core->decode_arena);
        return;
    }
    arena_release(&core->decode_arena);
    if (take_handoff(core, message, now_us)) {
        arena_release(&core->decode_arena);
        return;
    }
    switch (msg_peek_kind(message->data, message->bytes)) {
    case MSG_GENERATE: take_generate(core, message, now_us); break;
    case MSG_SYNC: take_sync(core, message); break;
    case MSG_CANCEL: take_cancel(core, message); break;
    case MSG_KV_DUMP_ASK:
        if (!worker_kv_take_ask(core->kv, message)) core->counts.bad_messages++;
        break;
    case MSG_WHO: send_hello(core); break;
    case 0: core->counts.bad_messages++; break;
    default: break; /* not for a worker */
    }
    arena_release(&core->decode_arena);
}

/* --- LOAD, ticks ------------------------------------------------------------------------------ */

static bool reserve_load_senders(struct worker_core *core, uint32_t count) {
    if (count <= core->load_sender_room) return true;
    uint32_t room = count * 2;
    struct msg_load_sender *senders =
        alloc_resize(core->load_senders, room * sizeof *core->load_senders);
    if (!senders) return false;
    core->load_senders = senders;
    core->load_sender_room = room;
    return true;
}

void worker_core_get_load(const struct worker_core *core, struct msg_load *out) {
    worker_load_fill(core->options.engine, core->options.xfer, core->decode, core->prefill, out);
    out->kv_event_number = worker_kv_event_last(core->kv);
    out->is_draining = core->is_draining;
    out->device_used_bytes = core->device_used_bytes;
    out->device_other_bytes = core->device_other_bytes;
    out->device_drift_bytes = core->device_drift_bytes;
}

void worker_core_set_device(struct worker_core *core, uint64_t used_bytes, uint64_t other_bytes,
                            uint64_t drift_bytes) {
    core->device_used_bytes = used_bytes;
    core->device_other_bytes = other_bytes;
    core->device_drift_bytes = drift_bytes;
}

static void send_load(struct worker_core *core, uint64_t now_us) {
    uint32_t prefill_senders = core->prefill ? handoff_prefill_sender_count(core->prefill) : 0;
    if (!reserve_load_senders(core, core->attempts.sender_count + prefill_senders)) return;
    struct msg_load message;
    worker_core_get_load(core, &message);
    message.senders = core->load_senders;
    for (const struct worker_sender *sender = core->attempts.senders; sender; sender = sender->next)
        core->load_senders[message.sender_count++] =
            (struct msg_load_sender){sender->instance, sender->attempt_highest};
    if (prefill_senders > 0)
        handoff_prefill_get_senders(core->prefill, core->load_senders + message.sender_count);
    message.sender_count += prefill_senders;
    core->had_waiting = message.waiting_requests + message.queued_prefills > 0;
    core->load_sent_us = now_us;
    buf_clear(&core->out);
    msg_encode_load(&message, &core->out);
    send_out(core, BUS_LOAD, 0);
}

/* A LOAD between the ticks when waiting went from none to some, or back. */
static void send_load_on_change(struct worker_core *core, uint64_t now_us) {
    struct engine_load load;
    if (now_us - core->load_sent_us < LOAD_GAP_US) return;
    engine_get_load(core->options.engine, &load);
    if ((load.waiting_requests > 0) != core->had_waiting) send_load(core, now_us);
}

static void tick_sender(struct worker_core *core, struct worker_sender *sender) {
    sender->silent_ticks++;
    uint64_t silent_ms = (uint64_t) sender->silent_ticks * (WORKER_TICK_US / 1000);
    if (silent_ms < core->options.sync_timeout_ms || !sender->attempts) return;
    core->counts.silent_senders++;
    log_info("sender %016llx silent for %llu ms: its %u attempts are dropped",
             (unsigned long long) sender->instance, (unsigned long long) silent_ms,
             sender->attempt_count);
    while (sender->attempts) forget(core, sender->attempts);
}

void worker_core_tick(struct worker_core *core, uint64_t now_us) {
    if (now_us < core->tick_at_us) {
        send_load_on_change(core, now_us);
        return;
    }
    core->tick_at_us = now_us + WORKER_TICK_US; /* a late tick counts once */
    core->must_step = true;
    if (core->decode) handoff_decode_tick(core->decode, !core->is_disconnected, now_us);
    if (core->prefill) handoff_prefill_tick(core->prefill, !core->is_disconnected, now_us);
    struct worker_sender **at = &core->attempts.senders;
    while (*at && !core->is_disconnected) {
        struct worker_sender *sender = *at;
        tick_sender(core, sender);
        if (sender->attempts || sender->silent_ticks < SENDER_KEEP_TICKS) {
            at = &sender->next;
            continue;
        }
        worker_attempts_sender_remove(&core->attempts, at);
    }
    worker_kv_flush(core->kv, now_us);
    send_load(core, now_us);
}

uint64_t worker_core_tick_at(const struct worker_core *core) {
    if (!core->decode) return core->tick_at_us;
    return num_min(core->tick_at_us, handoff_decode_wake_at(core->decode));
}

void worker_core_set_connected(struct worker_core *core, bool is_connected) {
    core->is_disconnected = !is_connected;
}

void worker_core_lossy(struct worker_core *core, uint64_t now_us) {
    send_hello(core);
    if (core->decode) handoff_decode_lossy(core->decode, now_us);
}

static void take_transfers(struct worker_core *core, uint64_t now_us) {
    struct xfer_event event;
    if (!core->decode && !core->prefill) return;
    while (core->options.xfer && xfer_take(core->options.xfer, &event)) {
        if (core->decode) handoff_decode_event(core->decode, &event, now_us);
        else handoff_prefill_event(core->prefill, &event, now_us);
    }
    if (core->decode) handoff_decode_poll(core->decode, now_us);
}

void worker_core_flush(struct worker_core *core, uint64_t now_us) {
    take_transfers(core, now_us);
    worker_tokens_flush(&core->tokens, &core->attempts);
    worker_kv_flush(core->kv, now_us);
    send_load_on_change(core, now_us);
}

/* --- the step --------------------------------------------------------------------------------- */

bool worker_core_has_work(const struct worker_core *core) {
    const struct engine *engine = core->options.engine;
    return engine_has_work(engine) || (core->must_step && !engine_is_idle(engine));
}

static void take_output(struct worker_core *core, const struct engine_output *output,
                        uint64_t now_us) {
    if (core->prefill) {
        handoff_prefill_output(core->prefill, output, now_us);
        return;
    }
    if (core->decode && output->is_first_of_request)
        handoff_decode_admitted(core->decode, output->request_id, output->is_placed,
                                output->cached_tokens, now_us);
    struct worker_attempt *attempt = worker_attempts_by_engine(&core->attempts, output->request_id);
    if (!attempt) return; /* forgotten: the engine tells of its end */
    struct worker_choice *choice = worker_attempts_choice(attempt, output->choice_index);
    if (choice->finish != FINISH_NONE) return; /* it failed here, or is omitted */
    if (output->is_first_of_request) {
        attempt->is_admitted = true;
        attempt->cached_tokens = output->cached_tokens;
        attempt->queue_us = output->queue_us;
    }
    if (output->prompt_logprob_count) {
        memcpy(attempt->prompt_logprobs + output->prompt_first, output->prompt_logprobs,
               output->prompt_logprob_count * sizeof *output->prompt_logprobs);
        attempt->prompt_told = output->prompt_first + output->prompt_logprob_count;
    }
    if (output->token_id != BACKEND_NO_TOKEN) {
        if (!worker_attempts_reserve_id(attempt, choice)) {
            fail(core, attempt, ERR_MEMORY);
            return;
        }
        CHECK(output->output_index == choice->first_index + choice->id_count);
        if (choice->logprobs) choice->logprobs[choice->id_count] = output->logprob;
        choice->ids[choice->id_count++] = output->token_id;
    }
    choice->is_dirty = true;
    worker_attempts_mark_dirty(attempt);
    if (output->finish == FINISH_NONE) return;
    choice->stop_id = output->stop_id;
    worker_attempts_end_choice(attempt, choice, output->finish, output->error);
    if (core->decode && attempt->live_count == 0)
        handoff_decode_end(core->decode, attempt->engine_id);
}

enum err worker_core_step(struct worker_core *core, uint64_t now_us) {
    const struct engine_output *outputs;
    uint32_t output_count;
    core->must_step = false;
    enum err e = engine_step(core->options.engine, now_us, &outputs, &output_count);
    for (uint32_t i = 0; i < output_count; i++) take_output(core, &outputs[i], now_us);
    core->tokens.lost = e;
    if (e)
        for (struct worker_sender *sender = core->attempts.senders; sender; sender = sender->next)
            for (struct worker_attempt *a = sender->attempts; a; a = a->next) fail(core, a, e);
    worker_tokens_flush(&core->tokens, &core->attempts);
    worker_kv_flush(core->kv, now_us);
    return e;
}

/* --- the end ---------------------------------------------------------------------------------- */

void worker_core_drain(struct worker_core *core, uint64_t now_us) {
    if (core->is_draining) return;
    core->is_draining = true;
    if (core->prefill) handoff_prefill_drain(core->prefill);
    send_load(core, now_us);
}

bool worker_core_is_empty(const struct worker_core *core) {
    if (core->decode && !handoff_decode_is_empty(core->decode)) return false;
    if (core->prefill && !handoff_prefill_is_empty(core->prefill)) return false;
    return core->attempts.count == 0 && engine_is_idle(core->options.engine);
}

void worker_core_bye(struct worker_core *core) {
    buf_clear(&core->out);
    msg_encode_bye(&core->out);
    send_out(core, BUS_HELLO, 0);
}

void worker_core_get_counts(const struct worker_core *core, struct worker_core_counts *out) {
    *out = core->counts;
}

const struct handoff_decode *worker_core_decode(const struct worker_core *core) {
    return core->decode;
}

const struct handoff_prefill *worker_core_prefill(const struct worker_core *core) {
    return core->prefill;
}

void worker_core_check(const struct worker_core *core) {
    worker_attempts_check(&core->attempts);
    if (core->decode) handoff_decode_check(core->decode);
    if (core->prefill) handoff_prefill_check(core->prefill);
    engine_check(core->options.engine);
}
