/* worker_core - see worker_core.h. */
#include "worker/worker_core.h"

#include <string.h>

#include "base/alloc.h"
#include "base/arena.h"
#include "base/buf.h"
#include "base/log.h"
#include "base/num.h"
#include "worker/worker_kv.h"
#include "worker/worker_load.h"

#define BUCKETS_MIN 64u
#define FORGOTTEN_MAX 256u         /* attempts of a sender remembered as forgotten */
#define SENDERS_MAX 4096u          /* more are not heard */
#define SENDER_KEEP_TICKS 600u     /* a sender without attempts is forgotten after a minute */
#define MESSAGE_BYTES_SOFT 262144u /* a TOKENS message is closed past this */
#define ENTRY_IDS_MAX 4096u        /* ids of one entry; the rest in the next */
#define ENTRY_LOGPROBS_MAX 256u    /* entries with logprobs are shorter */
#define LOAD_GAP_US 10000u         /* specified: at most one LOAD in 10 ms */
#define RETRY_AFTER_MS 1000u

/* --- records ------------------------------------------------------------------------------- */

struct choice {
    uint32_t index;
    uint32_t first_index; /* ids[0] has this output index: what it came with is not kept */
    uint32_t *ids;
    struct token_logprob *logprobs; /* beside ids; NULL: not asked for */
    uint32_t id_count, id_room;
    uint32_t sent_count; /* of ids, told once */
    enum finish_reason finish;
    uint32_t stop_id;
    enum err error;
    uint32_t omitted_count; /* successive SYNCs that list the attempt without it */
    bool is_dirty;          /* has news that no TOKENS carried */
};

struct attempt {
    struct attempt *next_by_engine, *next_by_number; /* in their buckets */
    struct attempt *prev, *next;                     /* of the sender */
    struct attempt *next_dirty;
    struct sender *sender;
    uint64_t number;    /* the sender's */
    uint64_t engine_id; /* ours: of the engine's request */
    struct arena arena; /* all it owns */
    const char *request_id;
    uint32_t omitted_count; /* successive SYNCs without it */
    uint64_t seen_in_sync;  /* number of the SYNC that named it last */
    bool is_dirty, needs_ack;
    bool is_admitted;
    uint32_t cached_tokens;
    uint64_t queue_us;
    uint32_t live_count;                   /* choices not ended */
    struct token_logprob *prompt_logprobs; /* by prompt position; [0] unused */
    uint32_t prompt_count, prompt_told, prompt_sent;
    uint32_t choice_count;
    struct choice *choices;
};

struct sender {
    struct sender *next;
    uint64_t instance;
    uint64_t attempt_highest;
    uint64_t sync_number;
    uint32_t silent_ticks;
    struct attempt *attempts; /* newest first */
    uint32_t attempt_count;
    struct attempt *dirty;
    uint64_t forgotten[FORGOTTEN_MAX];
    uint32_t forgotten_at;
};

struct worker_core {
    struct worker_core_options options;
    struct handoff_decode *decode;   /* NULL: every prompt is computed here */
    struct handoff_prefill *prefill; /* NULL: no prefill worker */
    bool is_disconnected;
    struct worker_kv *kv;
    enum err lost;  /* the device is gone, and this is why */
    bool must_step; /* a tick has passed: deadlines in the engine may have */
    struct sender *senders;
    uint32_t sender_count;
    struct attempt **by_engine, **by_number;
    uint32_t bucket_mask;
    uint32_t attempt_count;
    uint64_t engine_id_last;
    bool is_draining;
    uint64_t tick_at_us, load_sent_us;
    uint64_t device_used_bytes, device_other_bytes;
    bool had_waiting;
    uint64_t refuser;          /* the frontend that refused this worker last; 0: none */
    struct buf out;            /* the message being made */
    struct arena decode_arena; /* of the message being read */
    struct msg_tokens_entry *entries;
    uint32_t entry_count, entry_room;
    struct msg_logprob *logprobs; /* of the entries */
    uint32_t logprob_count, logprob_room;
    struct msg_load_sender *load_senders;
    uint32_t load_sender_room;
    struct worker_core_counts counts;
};

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

static void send_hello(struct worker_core *core);

enum err worker_core_create(const struct worker_core_options *options, uint64_t now_us,
                            struct worker_core **out) {
    struct worker_core *core = alloc_zero(1, sizeof *core);
    if (!core) return ERR_MEMORY;
    core->options = *options;
    core->by_engine = alloc_zero(BUCKETS_MIN, sizeof(struct attempt *));
    core->by_number = alloc_zero(BUCKETS_MIN, sizeof(struct attempt *));
    core->bucket_mask = BUCKETS_MIN - 1;
    buf_init(&core->out, 0);
    arena_init(&core->decode_arena, 0);
    core->tick_at_us = now_us + WORKER_TICK_US;
    enum err e = core->by_engine && core->by_number ? open_handoff(core, now_us) : ERR_MEMORY;
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

static void attempt_destroy(struct attempt *attempt) {
    struct arena arena = attempt->arena;
    arena_release(&arena); /* the attempt itself lies in it */
}

void worker_core_destroy(struct worker_core *core) {
    if (!core) return;
    while (core->senders) {
        struct sender *sender = core->senders;
        core->senders = sender->next;
        while (sender->attempts) {
            struct attempt *attempt = sender->attempts;
            sender->attempts = attempt->next;
            attempt_destroy(attempt);
        }
        alloc_free(sender);
    }
    handoff_decode_destroy(core->decode);
    handoff_prefill_destroy(core->prefill);
    worker_kv_destroy(core->kv);
    alloc_free(core->by_engine);
    alloc_free(core->by_number);
    alloc_free(core->entries);
    alloc_free(core->logprobs);
    alloc_free(core->load_senders);
    buf_release(&core->out);
    arena_release(&core->decode_arena);
    alloc_free(core);
}

/* --- finding --------------------------------------------------------------------------------- */

static uint32_t bucket_of(const struct worker_core *core, uint64_t key) {
    return (uint32_t) (key * 0x9e3779b97f4a7c15u >> 32) & core->bucket_mask;
}

static uint64_t number_key(const struct sender *sender, uint64_t number) {
    return sender->instance ^ number * 0xbf58476d1ce4e5b9u;
}

static void link_buckets(struct worker_core *core, struct attempt *attempt) {
    struct attempt **bucket = &core->by_engine[bucket_of(core, attempt->engine_id)];
    attempt->next_by_engine = *bucket;
    *bucket = attempt;
    bucket = &core->by_number[bucket_of(core, number_key(attempt->sender, attempt->number))];
    attempt->next_by_number = *bucket;
    *bucket = attempt;
}

/* Twice the buckets when they are full; without memory the chains only get longer. */
static void widen_buckets(struct worker_core *core) {
    uint32_t count = core->bucket_mask + 1;
    if (core->attempt_count < count || count >= 1u << 24) return;
    struct attempt **by_engine = alloc_zero((size_t) count * 2, sizeof(struct attempt *));
    struct attempt **by_number = alloc_zero((size_t) count * 2, sizeof(struct attempt *));
    if (!by_engine || !by_number) {
        alloc_free(by_engine);
        alloc_free(by_number);
        return;
    }
    alloc_free(core->by_engine);
    alloc_free(core->by_number);
    core->by_engine = by_engine;
    core->by_number = by_number;
    core->bucket_mask = count * 2 - 1;
    for (struct sender *sender = core->senders; sender; sender = sender->next)
        for (struct attempt *attempt = sender->attempts; attempt; attempt = attempt->next)
            link_buckets(core, attempt);
}

static struct attempt *attempt_by_engine(const struct worker_core *core, uint64_t engine_id) {
    struct attempt *attempt = core->by_engine[bucket_of(core, engine_id)];
    while (attempt && attempt->engine_id != engine_id) attempt = attempt->next_by_engine;
    return attempt;
}

static struct attempt *attempt_by_number(const struct worker_core *core,
                                         const struct sender *sender, uint64_t number) {
    struct attempt *attempt = core->by_number[bucket_of(core, number_key(sender, number))];
    while (attempt && (attempt->sender != sender || attempt->number != number))
        attempt = attempt->next_by_number;
    return attempt;
}

static struct sender *sender_find(const struct worker_core *core, uint64_t instance) {
    struct sender *sender = core->senders;
    while (sender && sender->instance != instance) sender = sender->next;
    return sender;
}

static struct sender *sender_get(struct worker_core *core, uint64_t instance) {
    struct sender *sender = sender_find(core, instance);
    if (sender || core->sender_count >= SENDERS_MAX) return sender;
    sender = alloc_zero(1, sizeof *sender);
    if (!sender) return NULL;
    sender->instance = instance;
    sender->next = core->senders;
    core->senders = sender;
    core->sender_count++;
    return sender;
}

static bool is_forgotten(const struct sender *sender, uint64_t number) {
    for (uint32_t i = 0; i < FORGOTTEN_MAX; i++)
        if (sender->forgotten[i] == number) return true;
    return false;
}

/* Cancels what still runs of it and frees it. */
static void attempt_forget(struct worker_core *core, struct attempt *attempt) {
    struct sender *sender = attempt->sender;
    if (attempt->live_count > 0) engine_cancel(core->options.engine, attempt->engine_id);
    if (core->decode) handoff_decode_end(core->decode, attempt->engine_id);
    struct attempt **at = &core->by_engine[bucket_of(core, attempt->engine_id)];
    while (*at != attempt) at = &(*at)->next_by_engine;
    *at = attempt->next_by_engine;
    at = &core->by_number[bucket_of(core, number_key(sender, attempt->number))];
    while (*at != attempt) at = &(*at)->next_by_number;
    *at = attempt->next_by_number;
    if (attempt->is_dirty) {
        at = &sender->dirty;
        while (*at != attempt) at = &(*at)->next_dirty;
        *at = attempt->next_dirty;
    }
    if (attempt->prev) attempt->prev->next = attempt->next;
    else sender->attempts = attempt->next;
    if (attempt->next) attempt->next->prev = attempt->prev;
    sender->attempt_count--;
    core->attempt_count--;
    sender->forgotten[sender->forgotten_at++ % FORGOTTEN_MAX] = attempt->number;
    attempt_destroy(attempt);
}

/* --- sending -------------------------------------------------------------------------------- */

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

static void mark_dirty(struct attempt *attempt) {
    if (attempt->is_dirty) return;
    attempt->is_dirty = true;
    attempt->next_dirty = attempt->sender->dirty;
    attempt->sender->dirty = attempt;
}

static void send_entries(struct worker_core *core, uint64_t to) {
    if (core->entry_count == 0) return;
    buf_clear(&core->out);
    msg_encode_tokens(&(struct msg_tokens){core->entries, core->entry_count}, &core->out);
    send_out(core, BUS_INBOX, to);
    core->entry_count = core->logprob_count = 0;
}

/* Room for one more entry and so many logprobs; false: no memory, SYNC will ask again.  The
 * entries point into the logprobs, so these move only between messages. */
static bool reserve_entry(struct worker_core *core, uint64_t to, uint32_t logprob_count) {
    size_t bytes = core->logprob_count * sizeof(struct msg_logprob) +
                   core->entry_count * sizeof(struct msg_tokens_entry);
    if (bytes > MESSAGE_BYTES_SOFT || core->logprob_count + logprob_count > core->logprob_room)
        send_entries(core, to);
    if (core->entry_count == core->entry_room) {
        uint32_t room = core->entry_room ? core->entry_room * 2 : 64;
        struct msg_tokens_entry *entries =
            alloc_resize(core->entries, room * sizeof *core->entries);
        if (!entries) return false;
        core->entries = entries;
        core->entry_room = room;
    }
    if (core->logprob_count + logprob_count > core->logprob_room) {
        uint32_t room = (uint32_t) num_max(2 * (uint64_t) core->logprob_room, logprob_count);
        struct msg_logprob *logprobs = alloc_resize(core->logprobs, room * sizeof *core->logprobs);
        if (!logprobs) return false;
        core->logprobs = logprobs;
        core->logprob_room = room;
    }
    return true;
}

static const struct msg_logprob *add_logprobs(struct worker_core *core,
                                              const struct token_logprob *from, uint32_t count) {
    struct msg_logprob *first = &core->logprobs[core->logprob_count];
    for (uint32_t i = 0; i < count; i++)
        first[i] = (struct msg_logprob){from[i].token_id,  from[i].logprob, from[i].rank,
                                        from[i].top_count, from[i].top_ids, from[i].top_logprobs};
    core->logprob_count += count;
    return first;
}

static uint8_t wire_finish(const struct worker_core *core, const struct choice *choice) {
    switch (choice->finish) {
    case FINISH_NONE: return MSG_FINISH_NONE;
    case FINISH_STOP: return MSG_FINISH_STOP;
    case FINISH_LENGTH: return MSG_FINISH_LENGTH;
    case FINISH_CANCELLED: return MSG_FINISH_CANCELLED;
    case FINISH_ERROR: break;
    }
    return core->lost && choice->error == core->lost ? MSG_FINISH_LOST : MSG_FINISH_ERROR;
}

static const char *error_words(const struct choice *choice) {
    if (choice->finish != FINISH_ERROR) return "";
    switch (choice->error) {
    case ERR_TIMEOUT: return "it waited past its deadline";
    case ERR_FORMAT: return "the model's logits are not finite";
    case ERR_IO: return "the device is gone";
    default: return err_name(choice->error);
    }
}

/* Ids [from, ...) of a choice, its end with the last of them.  Returns how many are told; 0 with
 * more to tell: no memory now. */
static uint32_t add_entry(struct worker_core *core, struct attempt *attempt,
                          const struct choice *choice, uint32_t from) {
    uint32_t count = (uint32_t) num_min(choice->id_count - from,
                                        choice->logprobs ? ENTRY_LOGPROBS_MAX : ENTRY_IDS_MAX);
    if (!reserve_entry(core, attempt->sender->instance, choice->logprobs ? count : 0)) return 0;
    bool is_whole = from + count == choice->id_count;
    struct msg_tokens_entry entry = {
        .attempt = attempt->number,
        .choice_index = choice->index,
        .first_index = choice->first_index + from,
        .ids = count ? choice->ids + from : NULL,
        .id_count = count,
        .is_ack = true,
        .is_admitted = attempt->is_admitted,
        .cached_tokens = attempt->cached_tokens,
        .queue_us = attempt->queue_us,
        .error = "",
    };
    if (choice->logprobs && count)
        entry.logprobs = add_logprobs(core, choice->logprobs + from, count);
    if (is_whole) {
        entry.finish = wire_finish(core, choice);
        entry.stop_id = choice->stop_id;
        entry.error = error_words(choice);
    }
    core->entries[core->entry_count++] = entry;
    return count;
}

/* Prompt logprobs [from, told) go ahead of the first choice's ids, in pieces. */
static void add_prompt(struct worker_core *core, struct attempt *attempt, uint32_t from) {
    while (from < attempt->prompt_told) {
        uint32_t count = (uint32_t) num_min(attempt->prompt_told - from, ENTRY_LOGPROBS_MAX);
        if (!reserve_entry(core, attempt->sender->instance, count)) return;
        struct msg_tokens_entry entry = {
            .attempt = attempt->number,
            .choice_index = attempt->choices[0].index,
            .first_index = attempt->choices[0].first_index + attempt->choices[0].sent_count,
            .is_ack = true,
            .is_admitted = attempt->is_admitted,
            .cached_tokens = attempt->cached_tokens,
            .queue_us = attempt->queue_us,
            .prompt_first = from,
            .prompt_logprob_count = count,
            .error = "",
        };
        entry.prompt_logprobs = add_logprobs(core, attempt->prompt_logprobs + from, count);
        core->entries[core->entry_count++] = entry;
        from += count;
    }
}

static void add_news(struct worker_core *core, struct attempt *attempt) {
    if (attempt->prompt_sent < attempt->prompt_told) {
        add_prompt(core, attempt, attempt->prompt_sent);
        attempt->prompt_sent = attempt->prompt_told;
    }
    bool is_told = false;
    for (uint32_t i = 0; i < attempt->choice_count; i++) {
        struct choice *choice = &attempt->choices[i];
        if (!choice->is_dirty) continue;
        choice->is_dirty = false;
        is_told = true;
        do {
            uint32_t told = add_entry(core, attempt, choice, choice->sent_count);
            if (told == 0) break;
            choice->sent_count += told;
        } while (choice->sent_count < choice->id_count);
        choice->sent_count = choice->id_count; /* what could not be told is asked for by SYNC */
    }
    if (attempt->needs_ack && !is_told)
        add_entry(core, attempt, &attempt->choices[0], attempt->choices[0].id_count);
    attempt->needs_ack = false;
}

static void flush(struct worker_core *core) {
    for (struct sender *sender = core->senders; sender; sender = sender->next) {
        while (sender->dirty) {
            struct attempt *attempt = sender->dirty;
            sender->dirty = attempt->next_dirty;
            attempt->is_dirty = false;
            add_news(core, attempt);
        }
        send_entries(core, sender->instance);
    }
}

/* --- GENERATE ------------------------------------------------------------------------------- */

static struct attempt *attempt_create(struct worker_core *core, struct sender *sender,
                                      const struct msg_generate *message) {
    struct arena arena;
    arena_init(&arena, 0);
    struct attempt *attempt = arena_take_zero(&arena, 1, sizeof *attempt);
    if (!attempt) goto fail;
    attempt->request_id = arena_copy(&arena, message->request_id, strlen(message->request_id));
    attempt->choices = arena_take_zero(&arena, message->choice_count, sizeof *attempt->choices);
    if (!attempt->request_id || !attempt->choices) goto fail;
    bool wants_prompt = message->sampling.prompt_logprobs >= 0;
    if (wants_prompt) {
        attempt->prompt_logprobs =
            arena_take(&arena, (size_t) message->prompt_count * sizeof(struct token_logprob));
        if (!attempt->prompt_logprobs) goto fail;
    }
    attempt->sender = sender;
    attempt->number = message->attempt;
    attempt->engine_id = ++core->engine_id_last;
    attempt->prompt_count = message->prompt_count;
    attempt->prompt_told = attempt->prompt_sent = 1;
    attempt->live_count = attempt->choice_count = message->choice_count;
    for (uint32_t i = 0; i < message->choice_count; i++) {
        struct choice *choice = &attempt->choices[i];
        choice->index = message->choices[i].index;
        choice->first_index = message->choices[i].output_count;
        choice->id_room = (uint32_t) num_min(num_max(message->sampling.max_tokens, 1), 32);
        choice->ids = arena_take(&arena, choice->id_room * sizeof *choice->ids);
        if (!choice->ids) goto fail;
        if (message->sampling.logprobs < 0) continue;
        choice->logprobs = arena_take(&arena, choice->id_room * sizeof *choice->logprobs);
        if (!choice->logprobs) goto fail;
    }
    attempt->arena = arena;
    return attempt;
fail:
    arena_release(&arena);
    return NULL;
}

static enum err start(struct worker_core *core, struct attempt *attempt,
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

static void link_attempt(struct worker_core *core, struct sender *sender, struct attempt *attempt) {
    widen_buckets(core);
    attempt->next = sender->attempts;
    if (attempt->next) attempt->next->prev = attempt;
    sender->attempts = attempt;
    sender->attempt_count++;
    core->attempt_count++;
    link_buckets(core, attempt);
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
    struct sender *sender = sender_get(core, bus_message->from);
    if (!sender) return;
    struct attempt *attempt = attempt_by_number(core, sender, message.attempt);
    if (attempt) { /* again: answered, not run twice */
        core->counts.repeated_generates++;
        attempt->needs_ack = true;
        mark_dirty(attempt);
        return;
    }
    if (is_forgotten(sender, message.attempt)) {
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
    attempt = attempt_create(core, sender, &message);
    e = attempt ? start(core, attempt, &message, now_us, &text) : ERR_MEMORY;
    if (e) {
        if (!text.text[0]) err_set(&text, e, "no memory for the request");
        log_request(LOG_INFO, message.request_id, "refused: %s", text.text);
        send_refuse(core, sender->instance, message.attempt, refusal_of(e), text.text);
        if (attempt) attempt_destroy(attempt);
        return;
    }
    if (core->options.hello.name[0]) /* a process of its own: one grep shows a request's way */
        log_request(LOG_INFO, message.request_id, "taken, %u tokens%s%.80s", message.prompt_count,
                    message.traceparent[0] ? ", traceparent " : "", message.traceparent);
    link_attempt(core, sender, attempt);
    attempt->needs_ack = true;
    mark_dirty(attempt);
}

/* --- SYNC and CANCEL ------------------------------------------------------------------------- */

static void answer_choice(struct worker_core *core, struct choice *choice, uint32_t next) {
    uint32_t wanted = next > choice->first_index ? next - choice->first_index : 0;
    choice->omitted_count = 0;
    if (wanted < choice->sent_count) {
        core->counts.resent_ids += choice->sent_count - wanted;
        choice->sent_count = wanted;
    }
    choice->is_dirty |= choice->sent_count < choice->id_count || choice->finish != FINISH_NONE;
}

/* Nobody reads that choice any more (a stop string was found in it): it ends without a word. */
static void omit_choice(struct worker_core *core, struct attempt *attempt, struct choice *choice) {
    if (choice->finish != FINISH_NONE || ++choice->omitted_count < 2) return;
    core->counts.omitted_choices++;
    engine_cancel_choice(core->options.engine, attempt->engine_id, choice->index);
    choice->finish = FINISH_CANCELLED;
    attempt->live_count--;
}

static void answer_entry(struct worker_core *core, struct attempt *attempt,
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
    mark_dirty(attempt);
}

static void drop_omitted(struct worker_core *core, struct sender *sender) {
    struct attempt *next;
    for (struct attempt *attempt = sender->attempts; attempt; attempt = next) {
        next = attempt->next;
        if (attempt->seen_in_sync == sender->sync_number) continue;
        attempt->omitted_count++;
        bool is_finished = attempt->live_count == 0;
        if (!is_finished && attempt->omitted_count < 2) continue;
        if (is_finished) core->counts.omitted_finished++;
        else core->counts.omitted_live++;
        attempt_forget(core, attempt);
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
    struct sender *sender = sender_get(core, bus_message->from);
    if (!sender) return;
    if (message.number <= sender->sync_number) { /* late or twice: newer ones were heard */
        core->counts.stale_syncs++;
        return;
    }
    core->counts.syncs++;
    sender->sync_number = message.number;
    for (uint32_t i = 0; i < message.entry_count; i++) {
        struct attempt *attempt = attempt_by_number(core, sender, message.entries[i].attempt);
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
    struct sender *sender = sender_find(core, bus_message->from);
    struct attempt *attempt = sender ? attempt_by_number(core, sender, message.attempt) : NULL;
    if (attempt) attempt_forget(core, attempt);
}

static void send_hello(struct worker_core *core) {
    buf_clear(&core->out);
    msg_encode_hello(&core->options.hello, &core->out);
    send_out(core, BUS_HELLO, 0);
}

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

/* A frontend wants none of us: said once a frontend. */
static bool take_refusal(struct worker_core *core, const struct bus_message *message) {
    struct msg_refuse refuse;
    if (msg_peek_kind(message->data, message->bytes) != MSG_REFUSE ||
        msg_decode_refuse(message->data, message->bytes, &core->decode_arena, &refuse) ||
        refuse.attempt)
        return false;
    if (core->refuser != message->from)
        log_error("refused by frontend %016llx: %s", (unsigned long long) message->from,
                  refuse.text);
    core->refuser = message->from;
    return true;
}

void worker_core_message(struct worker_core *core, const struct bus_message *message,
                         uint64_t now_us) {
    struct sender *sender = sender_find(core, message->from);
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
}

void worker_core_set_device(struct worker_core *core, uint64_t used_bytes, uint64_t other_bytes) {
    core->device_used_bytes = used_bytes;
    core->device_other_bytes = other_bytes;
}

static void send_load(struct worker_core *core, uint64_t now_us) {
    uint32_t prefill_senders = core->prefill ? handoff_prefill_sender_count(core->prefill) : 0;
    if (!reserve_load_senders(core, core->sender_count + prefill_senders)) return;
    struct msg_load message;
    worker_core_get_load(core, &message);
    message.senders = core->load_senders;
    for (const struct sender *sender = core->senders; sender; sender = sender->next)
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

static void tick_sender(struct worker_core *core, struct sender *sender) {
    sender->silent_ticks++;
    uint64_t silent_ms = (uint64_t) sender->silent_ticks * (WORKER_TICK_US / 1000);
    if (silent_ms < core->options.sync_timeout_ms || !sender->attempts) return;
    core->counts.silent_senders++;
    log_info("sender %016llx silent for %llu ms: its %u attempts are dropped",
             (unsigned long long) sender->instance, (unsigned long long) silent_ms,
             sender->attempt_count);
    while (sender->attempts) attempt_forget(core, sender->attempts);
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
    struct sender **at = &core->senders;
    while (*at && !core->is_disconnected) {
        struct sender *sender = *at;
        tick_sender(core, sender);
        if (sender->attempts || sender->silent_ticks < SENDER_KEEP_TICKS) {
            at = &sender->next;
            continue;
        }
        *at = sender->next;
        core->sender_count--;
        alloc_free(sender);
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
    flush(core);
    worker_kv_flush(core->kv, now_us);
    send_load_on_change(core, now_us);
}

/* --- the step ------------------------------------------------------------------------------- */

bool worker_core_has_work(const struct worker_core *core) {
    const struct engine *engine = core->options.engine;
    return engine_has_work(engine) || (core->must_step && !engine_is_idle(engine));
}

/* Room for one more id; false: no memory. */
static bool choice_room(struct attempt *attempt, struct choice *choice) {
    if (choice->id_count < choice->id_room) return true;
    uint32_t room = choice->id_room * 2;
    uint32_t *ids = arena_take(&attempt->arena, (size_t) room * sizeof *ids);
    if (!ids) return false;
    memcpy(ids, choice->ids, choice->id_count * sizeof *ids);
    if (choice->logprobs) {
        struct token_logprob *logprobs =
            arena_take(&attempt->arena, (size_t) room * sizeof *logprobs);
        if (!logprobs) return false;
        memcpy(logprobs, choice->logprobs, choice->id_count * sizeof *logprobs);
        choice->logprobs = logprobs;
    }
    choice->ids = ids;
    choice->id_room = room;
    return true;
}

static void choice_end(struct attempt *attempt, struct choice *choice, enum finish_reason reason,
                       enum err error) {
    choice->finish = reason;
    choice->error = error;
    choice->is_dirty = true;
    attempt->live_count--;
    mark_dirty(attempt);
}

/* Ends what still lives of the attempt, here and in the engine. */
static void attempt_fail(struct worker_core *core, struct attempt *attempt, enum err error) {
    engine_cancel(core->options.engine, attempt->engine_id);
    if (core->decode) handoff_decode_end(core->decode, attempt->engine_id);
    for (uint32_t i = 0; i < attempt->choice_count; i++)
        if (attempt->choices[i].finish == FINISH_NONE)
            choice_end(attempt, &attempt->choices[i], FINISH_ERROR, error);
}

static struct choice *choice_find(struct attempt *attempt, uint32_t index) {
    for (uint32_t i = 0; i < attempt->choice_count; i++)
        if (attempt->choices[i].index == index) return &attempt->choices[i];
    return NULL;
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
    struct attempt *attempt = attempt_by_engine(core, output->request_id);
    if (!attempt) return; /* forgotten: the engine tells of its end */
    struct choice *choice = choice_find(attempt, output->choice_index);
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
        if (!choice_room(attempt, choice)) {
            attempt_fail(core, attempt, ERR_MEMORY);
            return;
        }
        CHECK(output->output_index == choice->first_index + choice->id_count);
        if (choice->logprobs) choice->logprobs[choice->id_count] = output->logprob;
        choice->ids[choice->id_count++] = output->token_id;
    }
    choice->is_dirty = true;
    mark_dirty(attempt);
    if (output->finish == FINISH_NONE) return;
    choice->stop_id = output->stop_id;
    choice_end(attempt, choice, output->finish, output->error);
    if (core->decode && attempt->live_count == 0)
        handoff_decode_end(core->decode, attempt->engine_id);
}

enum err worker_core_step(struct worker_core *core, uint64_t now_us) {
    const struct engine_output *outputs;
    uint32_t output_count;
    core->must_step = false;
    enum err e = engine_step(core->options.engine, now_us, &outputs, &output_count);
    for (uint32_t i = 0; i < output_count; i++) take_output(core, &outputs[i], now_us);
    core->lost = e;
    if (e)
        for (struct sender *sender = core->senders; sender; sender = sender->next)
            for (struct attempt *a = sender->attempts; a; a = a->next) attempt_fail(core, a, e);
    flush(core);
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
    return core->attempt_count == 0 && engine_is_idle(core->options.engine);
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
    uint32_t attempts = 0, senders = 0;
    for (const struct sender *sender = core->senders; sender; sender = sender->next) {
        uint32_t own = 0;
        senders++;
        const struct attempt *before = NULL;
        for (const struct attempt *a = sender->attempts; a; before = a, a = a->next) {
            uint32_t live = 0;
            CHECK(a->sender == sender && a->prev == before);
            CHECK(attempt_by_engine(core, a->engine_id) == a);
            CHECK(attempt_by_number(core, sender, a->number) == a);
            CHECK(!is_forgotten(sender, a->number));
            for (uint32_t i = 0; i < a->choice_count; i++) {
                const struct choice *choice = &a->choices[i];
                live += choice->finish == FINISH_NONE;
                CHECK(choice->sent_count <= choice->id_count);
                CHECK(choice->id_count <= choice->id_room);
            }
            CHECK(live == a->live_count);
            CHECK(a->prompt_sent <= a->prompt_told);
            own++;
        }
        CHECK(own == sender->attempt_count);
        attempts += own;
    }
    CHECK(attempts == core->attempt_count && senders == core->sender_count);
    if (core->decode) handoff_decode_check(core->decode);
    if (core->prefill) handoff_prefill_check(core->prefill);
    engine_check(core->options.engine);
}
