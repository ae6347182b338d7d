/* handoff_prefill - see handoff_prefill.h. */
#include "worker/handoff_prefill.h"

#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/log.h"
#include "base/num.h"

#define TICK_MS 100u
#define SENDERS_MAX 4096u
#define SENDER_KEEP_TICKS 600u /* a sender without work is forgotten after a minute */
#define FORGOTTEN_MAX 256u     /* attempts of a sender remembered as forgotten */
#define RETRY_AFTER_MS 1000u
#define TEXT_BYTES 128u

enum state { LIVE, DONE, ENDING };

struct work {
    struct work *next;
    struct sender *sender;
    enum state state;
    struct xfer_id id;
    uint64_t engine_id;
    char *address;                   /* owned */
    uint32_t tp;                     /* of D */
    uint32_t token_count;            /* to be computed: all of the prompt but the last */
    uint32_t first_piece, piece_end; /* blocks of the sequence that D wants */
    uint32_t piece_next;             /* to be sent */
    uint32_t computed;               /* tokens */
    uint32_t under_way, sent_count;  /* pieces */
    uint64_t deadline_us;            /* 0: none */
    uint64_t admitted_us, computed_us, queue_us;
    uint32_t cached_tokens;
    uint32_t omitted_count;
    uint64_t seen_in_sync;
    char request_id[TEXT_BYTES];
};

struct sender {
    struct sender *next;
    uint64_t instance, attempt_highest, sync_number;
    uint32_t silent_ticks, work_count;
    uint64_t forgotten[FORGOTTEN_MAX];
    uint32_t forgotten_at;
};

struct handoff_prefill {
    struct handoff_options options;
    struct work *first;
    uint32_t count;
    struct sender *senders;
    uint32_t sender_count;
    uint64_t engine_id_last;
    bool is_draining;
    struct buf out;
    struct handoff_prefill_counts counts;
};

enum err handoff_prefill_create(const struct handoff_options *options,
                                struct handoff_prefill **out) {
    struct handoff_prefill *prefill = alloc_zero(1, sizeof *prefill);
    if (!prefill) return ERR_MEMORY;
    prefill->options = *options;
    buf_init(&prefill->out, 0);
    *out = prefill;
    return ERR_OK;
}

static void free_work(struct work *work) {
    alloc_free(work->address);
    alloc_free(work);
}

void handoff_prefill_destroy(struct handoff_prefill *prefill) {
    if (!prefill) return;
    while (prefill->first) {
        struct work *work = prefill->first;
        prefill->first = work->next;
        free_work(work);
    }
    while (prefill->senders) {
        struct sender *sender = prefill->senders;
        prefill->senders = sender->next;
        alloc_free(sender);
    }
    buf_release(&prefill->out);
    alloc_free(prefill);
}

/* --- finding ---------------------------------------------------------------------------------- */

static struct sender *sender_find(const struct handoff_prefill *prefill, uint64_t instance) {
    struct sender *sender = prefill->senders;
    while (sender && sender->instance != instance) sender = sender->next;
    return sender;
}

static struct sender *sender_get(struct handoff_prefill *prefill, uint64_t instance) {
    struct sender *sender = sender_find(prefill, instance);
    if (sender || prefill->sender_count >= SENDERS_MAX) return sender;
    sender = alloc_zero(1, sizeof *sender);
    if (!sender) return NULL;
    sender->instance = instance;
    sender->next = prefill->senders;
    prefill->senders = sender;
    prefill->sender_count++;
    return sender;
}

static struct work *find_id(const struct handoff_prefill *prefill, uint64_t instance,
                            uint64_t attempt) {
    struct work *work = prefill->first;
    while (work && (work->id.instance != instance || work->id.attempt != attempt))
        work = work->next;
    return work;
}

/* Not the ones that only wait for their last sends. */
static struct work *find_told(const struct handoff_prefill *prefill, uint64_t instance,
                              uint64_t attempt) {
    struct work *work = find_id(prefill, instance, attempt);
    return work && work->state != ENDING ? work : NULL;
}

static struct work *find_engine(const struct handoff_prefill *prefill, uint64_t engine_id) {
    struct work *work = prefill->first;
    while (work && work->engine_id != engine_id) work = work->next;
    return work;
}

static bool is_forgotten(const struct sender *sender, uint64_t attempt) {
    for (uint32_t i = 0; i < FORGOTTEN_MAX; i++)
        if (sender->forgotten[i] == attempt) return true;
    return false;
}

/* --- sending -------------------------------------------------------------------------------- */

static void send_out(struct handoff_prefill *prefill, uint64_t to) {
    if (!buf_error(&prefill->out)) /* no memory: as good as lost */
        prefill->options.send(prefill->options.send_ctx, BUS_INBOX, to, prefill->out.data,
                              prefill->out.bytes);
}

static void send_refuse(struct handoff_prefill *prefill, uint64_t to, uint64_t attempt,
                        enum msg_refusal reason, const char *text) {
    struct msg_refuse refuse = {.attempt = attempt,
                                .reason = (uint8_t) reason,
                                .retry_after_ms = reason == MSG_REFUSE_BUSY ? RETRY_AFTER_MS : 0,
                                .text = text};
    prefill->counts.refused++;
    buf_clear(&prefill->out);
    msg_encode_refuse(&refuse, &prefill->out);
    send_out(prefill, to);
}

static void send_gone(struct handoff_prefill *prefill, uint64_t to, uint64_t attempt) {
    prefill->counts.gone++;
    buf_clear(&prefill->out);
    msg_encode_gone(&(struct msg_attempt){attempt}, &prefill->out);
    send_out(prefill, to);
}

static void send_in_work(struct handoff_prefill *prefill, const struct work *work) {
    struct msg_tokens_entry entry = {.attempt = work->id.attempt, .is_ack = true, .error = ""};
    buf_clear(&prefill->out);
    msg_encode_tokens(&(struct msg_tokens){&entry, 1}, &prefill->out);
    send_out(prefill, work->sender->instance);
}

static void send_done(struct handoff_prefill *prefill, const struct work *work) {
    struct msg_prefill_done done = {
        .attempt = work->id.attempt,
        .piece_count = work->sent_count,
        .cached_tokens = work->cached_tokens,
        .compute_us =
            work->computed_us > work->admitted_us ? work->computed_us - work->admitted_us : 0,
        .queue_us = work->queue_us,
    };
    buf_clear(&prefill->out);
    msg_encode_prefill_done(&done, &prefill->out);
    send_out(prefill, work->sender->instance);
}

static void answer(struct handoff_prefill *prefill, const struct work *work) {
    if (work->state != DONE) {
        send_in_work(prefill, work);
        return;
    }
    prefill->counts.done_again++;
    send_done(prefill, work);
}

/* --- the end of a work ------------------------------------------------------------------------ */

static void forget(struct handoff_prefill *prefill, struct work *work) {
    struct work **at = &prefill->first;
    while (*at != work) at = &(*at)->next;
    *at = work->next;
    prefill->count--;
    work->sender->work_count--;
    free_work(work);
}

static void remember_forgotten(struct work *work) {
    struct sender *sender = work->sender;
    sender->forgotten[sender->forgotten_at++ % FORGOTTEN_MAX] = work->id.attempt;
}

/* Its last send is over: the blocks go back. */
static void end_if_quiet(struct handoff_prefill *prefill, struct work *work) {
    if (work->state != ENDING || work->under_way > 0) return;
    engine_cancel(prefill->options.engine, work->engine_id);
    forget(prefill, work);
}

/* Nothing more is computed or sent of it; the work may be gone afterwards. */
static void give_up(struct handoff_prefill *prefill, struct work *work) {
    enum state before = work->state;
    remember_forgotten(work);
    if (before == DONE) {
        forget(prefill, work);
        return;
    }
    work->state = ENDING;
    engine_prefill_stop(prefill->options.engine, work->engine_id);
    if (work->under_way > 0) xfer_abandon(prefill->options.xfer, &work->id);
    end_if_quiet(prefill, work);
}

static void fail(struct handoff_prefill *prefill, struct work *work, enum msg_refusal reason,
                 const char *why) {
    log_request(LOG_WARN, work->request_id, "prefill for %016llx given up: %s",
                (unsigned long long) work->sender->instance, why);
    prefill->counts.failed++;
    send_refuse(prefill, work->sender->instance, work->id.attempt, reason, why);
    give_up(prefill, work);
}

/* --- the work itself -------------------------------------------------------------------------- */

static void finish_if_whole(struct handoff_prefill *prefill, struct work *work, uint64_t now_us) {
    if (work->state != LIVE || work->computed < work->token_count) return;
    if (work->sent_count < work->piece_end - work->first_piece) return;
    work->state = DONE;
    prefill->counts.done++;
    prefill->counts.tail_us += now_us > work->computed_us ? now_us - work->computed_us : 0;
    engine_cancel(prefill->options.engine, work->engine_id);
    send_done(prefill, work);
}

/* Sends what is computed and not sent yet: full blocks, the last, partly filled one at the end. */
static void send_ready(struct handoff_prefill *prefill, struct work *work) {
    const uint32_t *tokens, *blocks;
    uint32_t token_count, block_count;
    if (work->state != LIVE || !engine_get_sequence(prefill->options.engine, work->engine_id,
                                                    &tokens, &token_count, &blocks, &block_count))
        return;
    bool is_whole = work->computed >= work->token_count;
    uint32_t ready =
        is_whole ? work->piece_end : work->computed / prefill->options.hello->block_size;
    while (work->piece_next < ready) {
        enum err e = xfer_send(prefill->options.xfer, work->address, &work->id, work->tp,
                               work->piece_next, blocks[work->piece_next]);
        if (e == ERR_BUSY || e == ERR_MEMORY) return; /* tried again at the next tick or step */
        if (e) {
            fail(prefill, work, MSG_REFUSE_UNLIKE, err_name(e));
            return;
        }
        work->piece_next++;
        work->under_way++;
    }
}

void handoff_prefill_output(struct handoff_prefill *prefill, const struct engine_output *output,
                            uint64_t now_us) {
    struct work *work = find_engine(prefill, output->request_id);
    if (!work || work->state != LIVE) return;
    if (output->finish != FINISH_NONE) { /* nobody cancelled it: no seat, or the device is gone */
        fail(prefill, work, MSG_REFUSE_BUSY, err_name(output->error));
        return;
    }
    if (output->is_first_of_request) {
        work->admitted_us = now_us;
        work->queue_us = output->queue_us;
        work->cached_tokens = output->cached_tokens;
        if (output->cached_tokens > work->first_piece * prefill->options.hello->block_size)
            prefill->counts.pieces_cached++; /* sent before anything is computed */
        prefill->counts.both_cached += output->cached_tokens > 0 && work->first_piece > 0;
    }
    if (output->computed_tokens <= work->computed) return;
    work->computed = output->computed_tokens;
    if (work->computed == work->token_count) { /* now_us is when the step began */
        struct engine_load load;
        engine_get_load(prefill->options.engine, &load);
        work->computed_us = now_us + load.step_us;
    }
    send_ready(prefill, work);
}

void handoff_prefill_event(struct handoff_prefill *prefill, const struct xfer_event *event,
                           uint64_t now_us) {
    if (event->kind != XFER_SENT && event->kind != XFER_FAILED) return;
    struct work *work = find_id(prefill, event->instance, event->attempt);
    CHECK(work && work->under_way > 0); /* a work stays until its last send is over */
    work->under_way--;
    if (event->kind == XFER_SENT) {
        work->sent_count++;
        finish_if_whole(prefill, work, now_us);
    } else if (work->state == LIVE) {
        fail(prefill, work, MSG_REFUSE_BUSY, event->reason ? event->reason : "the transfer failed");
        return;
    }
    end_if_quiet(prefill, work);
}

/* --- PREFILL ---------------------------------------------------------------------------------- */

/* Why it cannot be done here, ever; NULL: it can. */
static const char *find_unlike(const struct handoff_prefill *prefill,
                               const struct msg_prefill *message) {
    const struct msg_hello *own = prefill->options.hello;
    if (!prefill->options.xfer) return "this worker has no transfer";
    if (message->block_size != own->block_size) return "its block size is another";
    if (message->numeric_digest != own->numeric_digest)
        return "its model, KV dtype or numerics class is another";
    if (!message->transfer_address[0] || message->tp == 0) return "it has no transfer address";
    return NULL;
}

static bool has_sane_blocks(const struct handoff_prefill *prefill,
                            const struct msg_prefill *message) {
    if (message->prompt_count < 2) return false;
    uint64_t total = num_div_up(message->prompt_count - 1, prefill->options.hello->block_size);
    return message->have_count < total && message->block_count == total - message->have_count;
}

static struct work *make_work(struct handoff_prefill *prefill, struct sender *sender,
                              const struct msg_prefill *message, uint64_t now_us) {
    struct work *work = alloc_zero(1, sizeof *work);
    if (!work) return NULL;
    work->address = alloc_string(message->transfer_address, strlen(message->transfer_address));
    if (!work->address) {
        alloc_free(work);
        return NULL;
    }
    work->sender = sender;
    work->id =
        (struct xfer_id){sender->instance, message->attempt, {message->key[0], message->key[1]}};
    work->engine_id = ++prefill->engine_id_last;
    work->tp = message->tp;
    work->token_count = message->prompt_count - 1;
    work->first_piece = work->piece_next = message->have_count;
    work->piece_end = message->have_count + message->block_count;
    work->deadline_us =
        message->remaining_ms ? now_us + message->remaining_ms * (uint64_t) 1000 : 0;
    size_t bytes = strnlen(message->request_id, TEXT_BYTES - 1);
    memcpy(work->request_id, message->request_id, bytes);
    return work;
}

static enum msg_refusal refusal_of(enum err e) {
    switch (e) {
    case ERR_NO_ROOM: return MSG_REFUSE_NO_ROOM;
    case ERR_USAGE: return MSG_REFUSE_BAD;
    default: return MSG_REFUSE_BUSY;
    }
}

static void start(struct handoff_prefill *prefill, struct sender *sender,
                  const struct msg_prefill *message, uint64_t now_us) {
    struct err_text text = {""};
    struct work *work = make_work(prefill, sender, message, now_us);
    enum err e = ERR_MEMORY;
    if (work) {
        struct engine_request request = {.kind = ENGINE_PREFILL,
                                         .id = work->engine_id,
                                         .prompt_ids = message->prompt_ids,
                                         .prompt_count = message->prompt_count,
                                         .choice_count = 1};
        e = engine_add(prefill->options.engine, &request, &text);
    }
    if (!e) {
        work->next = prefill->first;
        prefill->first = work;
        prefill->count++;
        sender->work_count++;
        if (prefill->options.hello->name[0])
            log_request(LOG_INFO, work->request_id, "prefill taken, %u tokens, for %016llx%s%.80s",
                        message->prompt_count, (unsigned long long) sender->instance,
                        message->traceparent[0] ? ", traceparent " : "", message->traceparent);
        send_in_work(prefill, work);
        return;
    }
    if (work) free_work(work);
    const char *why = text.text[0] ? text.text : "no memory for the prefill";
    log_request(LOG_INFO, message->request_id, "prefill refused: %s", why);
    send_refuse(prefill, sender->instance, message->attempt, refusal_of(e), why);
}

static bool take_prefill(struct handoff_prefill *prefill, const struct bus_message *bus_message,
                         struct arena *arena, uint64_t now_us) {
    struct msg_prefill message;
    enum err e = msg_decode_prefill(bus_message->data, bus_message->bytes, arena, &message);
    if (e) return e != ERR_FORMAT; /* no memory: lost, the sender's SYNC hears GONE */
    if (message.attempt == 0) return false;
    struct sender *sender = sender_get(prefill, bus_message->from);
    if (!sender) return true;
    prefill->counts.prefills++;
    struct work *work = find_told(prefill, sender->instance, message.attempt);
    if (work) {
        prefill->counts.repeated++;
        answer(prefill, work);
        return true;
    }
    if (is_forgotten(sender, message.attempt)) {
        prefill->counts.late++;
        send_gone(prefill, sender->instance, message.attempt);
        return true;
    }
    sender->attempt_highest = num_max(sender->attempt_highest, message.attempt);
    const char *unlike = find_unlike(prefill, &message);
    if (prefill->is_draining)
        send_refuse(prefill, sender->instance, message.attempt, MSG_REFUSE_DRAINING,
                    "the worker is shutting down");
    else if (unlike)
        send_refuse(prefill, sender->instance, message.attempt, MSG_REFUSE_UNLIKE, unlike);
    else if (!has_sane_blocks(prefill, &message))
        send_refuse(prefill, sender->instance, message.attempt, MSG_REFUSE_BAD,
                    "prompt and blocks do not go together");
    else start(prefill, sender, &message, now_us);
    return true;
}

/* --- SYNC and CANCEL ------------------------------------------------------------------------- */

static void drop_omitted(struct handoff_prefill *prefill, struct sender *sender) {
    struct work *next;
    for (struct work *work = prefill->first; work; work = next) {
        next = work->next;
        if (work->sender != sender || work->state == ENDING) continue;
        if (work->seen_in_sync == sender->sync_number) continue;
        work->omitted_count++;
        if (work->state == LIVE && work->omitted_count < 2) continue;
        if (work->state == LIVE) prefill->counts.omitted_live++;
        else prefill->counts.omitted_done++;
        give_up(prefill, work);
    }
}

static bool take_sync(struct handoff_prefill *prefill, const struct bus_message *bus_message,
                      struct arena *arena) {
    struct msg_sync message;
    enum err e = msg_decode_sync(bus_message->data, bus_message->bytes, arena, &message);
    if (e) return e != ERR_FORMAT;
    struct sender *sender = sender_get(prefill, bus_message->from);
    if (!sender) return true;
    if (message.number <= sender->sync_number) { /* late or twice: newer ones were heard */
        prefill->counts.stale_syncs++;
        return true;
    }
    prefill->counts.syncs++;
    sender->sync_number = message.number;
    for (uint32_t i = 0; i < message.entry_count; i++) {
        struct work *work = find_told(prefill, sender->instance, message.entries[i].attempt);
        if (!work) {
            send_gone(prefill, sender->instance, message.entries[i].attempt);
            continue;
        }
        work->seen_in_sync = sender->sync_number;
        work->omitted_count = 0;
        answer(prefill, work);
    }
    drop_omitted(prefill, sender);
    return true;
}

bool handoff_prefill_take(struct handoff_prefill *prefill, const struct bus_message *message,
                          struct arena *arena, uint64_t now_us) {
    struct msg_attempt cancel;
    struct sender *sender = sender_find(prefill, message->from);
    if (sender) sender->silent_ticks = 0;
    switch (msg_peek_kind(message->data, message->bytes)) {
    case MSG_PREFILL: return take_prefill(prefill, message, arena, now_us);
    case MSG_SYNC: return take_sync(prefill, message, arena);
    case MSG_CANCEL: {
        if (msg_decode_attempt(message->data, message->bytes, &cancel)) return false;
        struct work *work = find_told(prefill, message->from, cancel.attempt);
        prefill->counts.cancels++;
        if (work) give_up(prefill, work);
        return true;
    }
    default: return true;
    }
}

/* --- time ------------------------------------------------------------------------------------- */

static void drop_sender_works(struct handoff_prefill *prefill, struct sender *sender) {
    prefill->counts.silent_senders++;
    log_info("decode worker %016llx silent: its %u prefills are dropped",
             (unsigned long long) sender->instance, sender->work_count);
    struct work *next;
    for (struct work *work = prefill->first; work; work = next) {
        next = work->next;
        if (work->sender == sender && work->state != ENDING) give_up(prefill, work);
    }
}

static bool has_told_works(const struct handoff_prefill *prefill, const struct sender *sender) {
    for (const struct work *work = prefill->first; work; work = work->next)
        if (work->sender == sender && work->state != ENDING) return true;
    return false;
}

static void tick_senders(struct handoff_prefill *prefill) {
    struct sender **at = &prefill->senders;
    while (*at) {
        struct sender *sender = *at;
        sender->silent_ticks++;
        if ((uint64_t) sender->silent_ticks * TICK_MS >= prefill->options.sync_timeout_ms &&
            has_told_works(prefill, sender))
            drop_sender_works(prefill, sender);
        if (sender->work_count > 0 || sender->silent_ticks < SENDER_KEEP_TICKS) {
            at = &sender->next;
            continue;
        }
        *at = sender->next;
        prefill->sender_count--;
        alloc_free(sender);
    }
}

void handoff_prefill_tick(struct handoff_prefill *prefill, bool is_connected, uint64_t now_us) {
    if (is_connected) tick_senders(prefill);
    struct work *next;
    for (struct work *work = prefill->first; work; work = next) {
        next = work->next;
        if (work->state != LIVE) continue;
        if (work->deadline_us && now_us >= work->deadline_us) {
            prefill->counts.deadlines++;
            log_request(LOG_INFO, work->request_id, "prefill dropped: its deadline has passed");
            give_up(prefill, work);
        } else if (work->computed > 0) send_ready(prefill, work);
    }
}

/* --- seen from outside ------------------------------------------------------------------------ */

void handoff_prefill_drain(struct handoff_prefill *prefill) { prefill->is_draining = true; }

bool handoff_prefill_is_empty(const struct handoff_prefill *prefill) { return prefill->count == 0; }

uint32_t handoff_prefill_sender_count(const struct handoff_prefill *prefill) {
    return prefill->sender_count;
}

void handoff_prefill_get_senders(const struct handoff_prefill *prefill,
                                 struct msg_load_sender *out) {
    for (const struct sender *sender = prefill->senders; sender; sender = sender->next)
        *out++ = (struct msg_load_sender){sender->instance, sender->attempt_highest};
}

void handoff_prefill_get_counts(const struct handoff_prefill *prefill,
                                struct handoff_prefill_counts *out) {
    *out = prefill->counts;
}

void handoff_prefill_add_load(const struct handoff_prefill *prefill, const struct engine_load *load,
                              struct msg_load *message) {
    const struct handoff_prefill_counts *counts = &prefill->counts;
    message->queued_prefills = load->waiting_requests;
    message->queued_prefill_tokens = load->waiting_tokens + load->prefill_tokens;
    message->waiting_requests = 0;
    message->waiting_tokens = 0;
    message->prefills_done = counts->done;
    message->prefills_abandoned = counts->deadlines + counts->cancels + counts->omitted_live;
    message->tail_us = counts->tail_us;
    message->transfer_failures = counts->failed;
}

void handoff_prefill_check(const struct handoff_prefill *prefill) {
    uint32_t works = 0, senders = 0, owned = 0;
    for (const struct work *w = prefill->first; w; w = w->next) {
        works++;
        CHECK(find_id(prefill, w->id.instance, w->id.attempt) == w);
        CHECK(w->first_piece <= w->piece_next && w->piece_next <= w->piece_end);
        CHECK(w->state == ENDING || w->sent_count + w->under_way == w->piece_next - w->first_piece);
        CHECK(w->state != DONE || (w->under_way == 0 && w->piece_next == w->piece_end));
        CHECK(w->state != ENDING || w->under_way > 0);
        CHECK(w->state == ENDING || !is_forgotten(w->sender, w->id.attempt));
    }
    for (const struct sender *s = prefill->senders; s; s = s->next) {
        senders++;
        owned += s->work_count;
    }
    CHECK(works == prefill->count && senders == prefill->sender_count && owned == works);
}
