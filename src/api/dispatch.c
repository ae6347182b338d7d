/* dispatch - see dispatch.h; here: the works, from submit to their end. */
#include "api/dispatch.h"

#include <stdio.h>
#include <string.h>

#include "api/dispatch_impl.h"
#include "base/alloc.h"
#include "base/log.h"
#include "base/num.h"

#define SYNC_US 250000u    /* specified: protocol.md 2 */
#define GAP_SYNC_US 20000u /* a gap asks at once, but not more often than this */
#define WHO_US 1000000u    /* while nobody is known */
#define REPAIR_US 250000u  /* between two repairs of lost messages */
#define GONE_MAX 16u       /* times a worker may deny an attempt before the request fails */

void dispatch_options_init(struct dispatch_options *options) {
    *options = (struct dispatch_options){.sync_timeout_ms = 3000,
                                         .migration_timeout_ms = 30000,
                                         .migration_limit = 2,
                                         .gone_timeout_ms = 10000,
                                         .step_timeout_ms = 5000};
    router_options_init(&options->router);
}

void dispatch_get_load(const struct dispatch *dispatch, struct msg_load *out) {
    *out = (struct msg_load){0};
    for (uint32_t i = 0; i < dispatch->worker_count; i++) {
        const struct msg_load *load = &dispatch->workers[i]->load;
        out->blocks_total += load->blocks_total;
        out->blocks_free += load->blocks_free;
        out->blocks_cached += load->blocks_cached;
        out->running_requests += load->running_requests;
        out->waiting_requests += load->waiting_requests;
    }
}

void dispatch_get_router_counts(const struct dispatch *dispatch, struct router_counts *out) {
    router_get_counts(dispatch->router, out);
}

enum err dispatch_send(struct dispatch *dispatch, uint64_t instance) {
    enum err e = buf_error(&dispatch->out);
    if (!e)
        e = bus_send(dispatch->port, BUS_INBOX, instance, dispatch->out.data, dispatch->out.bytes);
    return e;
}

void dispatch_ask_who(struct dispatch *dispatch, uint64_t now_us) {
    buf_clear(&dispatch->out);
    msg_encode_who(&dispatch->out);
    dispatch->asked_us = now_us;
    /* A lost WHO is sent again by the next tick. */
    if (!buf_error(&dispatch->out))
        (void) bus_send(dispatch->port, BUS_HELLO, 0, dispatch->out.data, dispatch->out.bytes);
}

/* --- works: list, attempt table ---------------------------------------------------------- */

static struct dispatch_work **bucket_of(struct dispatch *dispatch, uint64_t attempt) {
    return &dispatch->buckets[attempt &
                              (DISPATCH_BUCKETS - 1)]; /* attempts are counted: no hash needed */
}

static struct dispatch_work *find_work(struct dispatch *dispatch, uint64_t from, uint64_t attempt) {
    struct dispatch_work *work = *bucket_of(dispatch, attempt);
    while (work && work->attempt != attempt) work = work->hash_next;
    return work && work->worker == from ? work : NULL;
}

static void bind(struct dispatch *dispatch, struct dispatch_work *work,
                 struct dispatch_site *worker) {
    work->attempt = ++dispatch->attempt_last;
    work->has_tokens = false;
    work->worker = worker->instance;
    struct dispatch_work **bucket = bucket_of(dispatch, work->attempt);
    work->hash_next = *bucket;
    *bucket = work;
    work->worker_previous = NULL;
    work->worker_next = worker->works;
    if (work->worker_next) work->worker_next->worker_previous = work;
    worker->works = work;
    worker->work_count++;
    worker->empty_syncs = 0; /* also of one that is over before the next SYNC */
}

static void unbind(struct dispatch *dispatch, struct dispatch_work *work) {
    if (!work->attempt) return;
    struct dispatch_work **at = bucket_of(dispatch, work->attempt);
    while (*at != work) at = &(*at)->hash_next;
    *at = work->hash_next;
    router_end(dispatch->router, work->attempt);
    if (work->worker_next) work->worker_next->worker_previous = work->worker_previous;
    if (work->worker_previous) work->worker_previous->worker_next = work->worker_next;
    struct dispatch_site *worker = dispatch_worker_find(dispatch, work->worker);
    if (worker) {
        if (worker->works == work) worker->works = work->worker_next;
        worker->work_count--;
    }
    work->worker_next = work->worker_previous = NULL;
    work->attempt = 0;
}

static void set_state(struct dispatch *dispatch, struct dispatch_work *work,
                      enum dispatch_state state) {
    dispatch->homeless_count -= work->state == DISPATCH_HOMELESS;
    dispatch->homeless_count += state == DISPATCH_HOMELESS;
    work->state = state;
}

static void take_out(struct dispatch *dispatch, struct dispatch_work *work) {
    unbind(dispatch, work);
    if (work->next) work->next->previous = work->previous;
    if (work->previous) work->previous->next = work->next;
    else dispatch->works = work->next;
    work->next = work->previous = NULL;
    set_state(dispatch, work, DISPATCH_IDLE);
    alloc_free(work->hashes);
    work->hashes = NULL;
    work->hash_count = 0;
}

static void fail(struct dispatch *dispatch, struct dispatch_work *work,
                 const struct api_error *error) {
    take_out(dispatch, work);
    dispatch->handler.on_failed(dispatch->handler.ctx, work, error);
}

static bool is_over(const struct dispatch_work *work) {
    for (uint32_t i = 0; i < work->choice_count; i++)
        if (!work->logs[i].finish && !work->logs[i].is_closed) return false;
    return true;
}

/* --- sending ----------------------------------------------------------------------------- */

static void encode_generate(struct dispatch *dispatch, const struct dispatch_work *work,
                            uint64_t now_us) {
    struct msg_choice choices[SAMPLING_CHOICES_MAX];
    uint32_t count = 0;
    for (uint32_t i = 0; i < work->choice_count; i++) {
        const struct token_log *log = &work->logs[i];
        if (log->finish || log->is_closed) continue;
        choices[count++] =
            (struct msg_choice){.index = i, .output_ids = log->ids, .output_count = log->count};
    }
    uint64_t rest_us = 0;
    if (!work->was_admitted && work->deadline_us)
        rest_us = work->deadline_us > now_us ? work->deadline_us - now_us : 1000;
    struct msg_generate message = {
        .attempt = work->attempt,
        .prompt_ids = work->prompt_ids,
        .prompt_count = work->prompt_count,
        .choices = choices,
        .choice_count = count,
        .sampling = *work->sampling,
        .remaining_ms = (uint32_t) num_div_up(rest_us, 1000),
        .is_redispatch = work->was_acked,
        .request_id = work->request_id,
        .traceparent = work->traceparent,
    };
    buf_clear(&dispatch->out);
    msg_encode_generate(&message, &dispatch->out);
}

/* A new attempt at the worker that was chosen last.  A lost GENERATE is noticed by SYNC (GONE), so
 * that only a dead inbox and a message that can never be sent are errors. */
static enum err dispatch_to(struct dispatch *dispatch, struct dispatch_work *work,
                            struct dispatch_site *worker, uint64_t now_us) {
    DCHECK(!work->attempt && worker->instance == dispatch->choice.instance);
    struct router_request request;
    bind(dispatch, work, worker);
    work->answered_tick = dispatch->tick;
    set_state(dispatch, work, DISPATCH_SENT);
    dispatch_worker_request(dispatch, work, &request);
    /* Without memory it is not counted. */
    (void) !router_start(dispatch->router, work->attempt, &request, &dispatch->choice, now_us);
    encode_generate(dispatch, work, now_us);
    enum err e = dispatch_send(dispatch, worker->instance);
    if (e == ERR_BUSY || e == ERR_IO) e = ERR_OK; /* lost: the next SYNC brings GONE */
    if (e == ERR_NOT_FOUND) {
        worker->is_leaving = true;
        dispatch_worker_refresh(dispatch, worker);
    }
    if (e) unbind(dispatch, work);
    return e;
}

static void make_homeless(struct dispatch *dispatch, struct dispatch_work *work, uint64_t now_us) {
    unbind(dispatch, work);
    if (work->state != DISPATCH_HOMELESS) work->homeless_since_us = now_us;
    set_state(dispatch, work, DISPATCH_HOMELESS);
}

static void count_move(struct dispatch *dispatch, const struct dispatch_work *work, uint64_t before,
                       uint64_t digest) {
    metrics_add(dispatch->metrics, METRIC_REDISPATCHES, 1);
    if (!work->was_admitted || before == work->worker) return;
    char name[DISPATCH_NAME_BYTES];
    dispatch_worker_name(dispatch, work->worker, name);
    log_request(LOG_INFO, work->request_id, "goes on at worker %s", name);
    metrics_add(dispatch->metrics, METRIC_MIGRATIONS, 1);
    const struct dispatch_site *worker = dispatch_worker_find(dispatch, work->worker);
    if (digest && worker->hello.numeric_digest && worker->hello.numeric_digest != digest) {
        log_request(LOG_WARN, work->request_id,
                    "goes on where numbers are computed otherwise: not token-exact");
        metrics_add(dispatch->metrics, METRIC_MIGRATIONS_INEXACT, 1);
    }
}

static void fail_homeless(struct dispatch *dispatch, struct dispatch_work *work) {
    struct api_error error;
    uint32_t seconds = dispatch->options.migration_timeout_ms / 1000;
    if (dispatch_worker_is_unlike(dispatch, work))
        api_error_set(&error, 503, NULL,
                      "the worker that ran this request is gone, and no other computes the same "
                      "numbers (weights, KV storage, numerics); waited %u s",
                      seconds);
    else api_error_set(&error, 503, NULL, "no worker took the request over within %u s", seconds);
    error.retry_after_s = 1;
    fail(dispatch, work, &error);
}

/* Tries to place a homeless work; fails it when its time is over. */
static void place(struct dispatch *dispatch, struct dispatch_work *work, uint64_t now_us) {
    struct api_error error;
    struct dispatch_site *worker = dispatch_worker_choose(dispatch, work, 0, now_us);
    if (worker) {
        uint64_t before = work->worker;
        enum err e = dispatch_to(dispatch, work, worker, now_us);
        if (!e) {
            if (before) count_move(dispatch, work, before, work->digest);
            return;
        }
        set_state(dispatch, work, DISPATCH_HOMELESS);
        if (e == ERR_LIMIT || e == ERR_MEMORY) {
            api_error_set(&error, 500, NULL, "the request cannot be sent to a worker: %s",
                          err_name(e));
            fail(dispatch, work, &error);
            return;
        }
    }
    if (!work->worker && !dispatch_worker_is_any(dispatch)) {
        /* Held for suspects, and the last of them is gone: a new request like any other. */
        api_error_set(&error, 503, NULL, "no worker is there to run this");
        error.retry_after_s = 1;
        fail(dispatch, work, &error);
    } else if (now_us - work->homeless_since_us >=
               (uint64_t) dispatch->options.migration_timeout_ms * 1000) {
        fail_homeless(dispatch, work);
    }
}

void dispatch_place_homeless(struct dispatch *dispatch, uint64_t now_us) {
    struct dispatch_work *next;
    for (struct dispatch_work *work = dispatch->works; work && dispatch->homeless_count;
         work = next) {
        next = work->next;
        if (work->state == DISPATCH_HOMELESS) place(dispatch, work, now_us);
    }
}

/* The attempt is lost because its worker is gone; it goes on elsewhere, or ends here. */
static void lose(struct dispatch *dispatch, struct dispatch_work *work, bool is_death,
                 uint64_t now_us) {
    work->lost_count += is_death;
    if (work->lost_count < dispatch->options.migration_limit) {
        place(dispatch, work, now_us);
        return;
    }
    struct api_error error;
    log_request(LOG_ERROR, work->request_id, "%u workers died with this request; it ends here",
                work->lost_count);
    api_error_set(&error, 500, NULL, "the worker that ran this request died, %u times",
                  work->lost_count);
    snprintf(error.code, sizeof error.code, "worker_died");
    fail(dispatch, work, &error);
}

void dispatch_lose_works(struct dispatch *dispatch, struct dispatch_site *worker, bool is_death,
                         uint64_t now_us) {
    /* It is no longer in the table, so that unbind cannot mend its list. */
    struct dispatch_work *next;
    for (struct dispatch_work *work = worker->works; work; work = next) {
        next = work->worker_next;
        make_homeless(dispatch, work, now_us);
        lose(dispatch, work, is_death, now_us);
    }
    worker->works = NULL;
    worker->work_count = 0;
}

static void cancel_attempt(struct dispatch *dispatch, const struct dispatch_work *work) {
    if (!work->attempt) return;
    buf_clear(&dispatch->out);
    msg_encode_cancel(&(struct msg_attempt){.attempt = work->attempt}, &dispatch->out);
    (void) dispatch_send(dispatch, work->worker); /* SYNC repairs a lost one */
}

/* To another worker, if one can take it; else it stays where it is. */
static bool move(struct dispatch *dispatch, struct dispatch_work *work, uint64_t now_us) {
    uint64_t before = work->worker;
    struct dispatch_site *other = dispatch_worker_choose(dispatch, work, before, now_us);
    if (!other) return false;
    struct router_choice choice = dispatch->choice;
    cancel_attempt(dispatch, work);
    make_homeless(dispatch, work, now_us);
    dispatch->choice = choice;
    if (dispatch_to(dispatch, work, other, now_us)) set_state(dispatch, work, DISPATCH_HOMELESS);
    else count_move(dispatch, work, before, work->digest);
    return true;
}

void dispatch_move_works(struct dispatch *dispatch, struct dispatch_site *worker, uint64_t now_us) {
    struct dispatch_work *next;
    for (struct dispatch_work *work = worker->works; work; work = next) {
        next = work->worker_next;
        if (!move(dispatch, work, now_us)) return;
    }
}

/* --- SYNC -------------------------------------------------------------------------------- */

static bool encode_sync(struct dispatch *dispatch, const struct dispatch_site *worker) {
    arena_clear(&dispatch->arena);
    struct msg_sync_entry *entries =
        arena_take(&dispatch->arena, worker->work_count * sizeof *entries);
    if (!entries) return false;
    uint32_t count = 0;
    for (const struct dispatch_work *work = worker->works; work; work = work->worker_next) {
        struct msg_sync_choice *choices =
            arena_take(&dispatch->arena, work->choice_count * sizeof *choices);
        if (!choices) return false;
        uint32_t choice_count = 0;
        for (uint32_t i = 0; i < work->choice_count; i++)
            if (!work->logs[i].finish && !work->logs[i].is_closed)
                choices[choice_count++] =
                    (struct msg_sync_choice){.index = i, .next_index = work->logs[i].count};
        entries[count++] = (struct msg_sync_entry){.attempt = work->attempt,
                                                   .choices = choices,
                                                   .choice_count = choice_count,
                                                   .prompt_next = work->prompt_log->count + 1};
    }
    struct msg_sync message = {
        .number = ++dispatch->sync_number, .entries = entries, .entry_count = count};
    buf_clear(&dispatch->out);
    msg_encode_sync(&message, &dispatch->out);
    return true;
}

static void sync_all(struct dispatch *dispatch, uint64_t now_us) {
    dispatch->synced_us = now_us;
    dispatch->has_gap = false;
    for (uint32_t i = 0; i < dispatch->worker_count; i++) {
        struct dispatch_site *worker = dispatch->workers[i];
        /* A few empty ones let the worker forget what is finished; then there is silence. */
        if (worker->work_count == 0 && worker->empty_syncs >= 3) continue;
        if (worker->work_count == 0) worker->empty_syncs++;
        if (!encode_sync(dispatch, worker)) continue;
        if (dispatch_send(dispatch, worker->instance) == ERR_NOT_FOUND) {
            dispatch_worker_bury(dispatch, worker, true, now_us);
            i = UINT32_MAX; /* the table moved; those already told are told again */
        }
    }
}

/* --- receiving --------------------------------------------------------------------------- */

void dispatch_drop_message(struct dispatch *dispatch) {
    metrics_add(dispatch->metrics, METRIC_MESSAGES_DROPPED, 1);
}

/* Prompt logprobs: entry t belongs to position first + t; position 0 has none. */
static bool take_prompt_logprobs(struct dispatch *dispatch, struct dispatch_work *work,
                                 const struct msg_tokens_entry *entry) {
    if (!entry->prompt_logprob_count || !work->prompt_log) return false;
    const struct msg_logprob *logprobs = entry->prompt_logprobs;
    uint32_t first = entry->prompt_first, count = entry->prompt_logprob_count;
    if (first == 0) {
        logprobs++;
        count--;
        first = 1;
    }
    if (first >= work->prompt_count || count > work->prompt_count - first) return false;
    enum token_log_result result = token_log_add(
        work->prompt_log, first - 1, work->prompt_ids + first, count, logprobs, MSG_FINISH_NONE, 0);
    if (result == TOKEN_LOG_GAP) dispatch->has_gap = true;
    return result == TOKEN_LOG_NEWS;
}

/* Tokens of this attempt: its prompt waits no more, and the worker's numbers are in them. */
static void note_tokens(struct dispatch *dispatch, struct dispatch_work *work) {
    if (work->has_tokens) return;
    work->has_tokens = true;
    router_first_token(dispatch->router, work->attempt);
    if (work->digest) return;
    const struct dispatch_site *worker = dispatch_worker_find(dispatch, work->worker);
    if (worker) work->digest = worker->hello.numeric_digest;
}

static void take_entry(struct dispatch *dispatch, struct dispatch_work *work,
                       const struct msg_tokens_entry *entry, uint64_t now_us) {
    bool is_news = false;
    work->answered_tick = dispatch->tick;
    if (!work->was_acked) is_news = work->was_acked = true;
    if (work->state == DISPATCH_SENT) set_state(dispatch, work, DISPATCH_QUEUED);
    if (entry->is_admitted || entry->id_count) {
        set_state(dispatch, work, DISPATCH_RUNNING);
        if (!work->was_admitted) {
            is_news = work->was_admitted = true;
            work->queue_us = entry->queue_us;
            work->cached_tokens = entry->cached_tokens;
        }
    }
    /* The end of a choice that nobody reads any more is no end of the others. */
    bool is_unread =
        entry->choice_index < work->choice_count &&
        (work->logs[entry->choice_index].finish || work->logs[entry->choice_index].is_closed);
    if (!is_unread && entry->finish >= MSG_FINISH_CANCELLED) {
        struct api_error error;
        if (!work->was_admitted && work->deadline_us &&
            now_us + DISPATCH_SILENCE_TICK_US >= work->deadline_us) {
            api_error_set(&error, 503, NULL, "the request waited too long to be run");
            error.retry_after_s = 1;
        } else {
            api_error_set(&error, 500, NULL, "the worker gave the request up: %s",
                          entry->error && entry->error[0] ? entry->error : "cancelled there");
        }
        cancel_attempt(dispatch, work); /* its other choices */
        fail(dispatch, work, &error);
        return;
    }
    if (take_prompt_logprobs(dispatch, work, entry)) is_news = true;
    if (entry->choice_index < work->choice_count) {
        struct token_log *log = &work->logs[entry->choice_index];
        /* prompt logprobs end before the tokens do, or the answer could never begin */
        uint8_t finish = entry->finish;
        if (finish && work->sampling->prompt_logprobs >= 0 &&
            work->prompt_log->count + 1 < work->prompt_count)
            finish = MSG_FINISH_NONE, dispatch->has_gap = true;
        switch (token_log_add(log, entry->first_index, entry->ids, entry->id_count, entry->logprobs,
                              finish, entry->stop_id)) {
        case TOKEN_LOG_NEWS:
            is_news = true;
            note_tokens(dispatch, work);
            break;
        case TOKEN_LOG_OLD: break;
        case TOKEN_LOG_GAP:
        case TOKEN_LOG_MEMORY:
            metrics_add(dispatch->metrics, METRIC_TOKEN_GAPS, 1);
            dispatch->has_gap = true;
            break;
        }
    }
    if (is_over(work)) take_out(dispatch, work);
    if (is_news) dispatch->handler.on_news(dispatch->handler.ctx, work);
}

/* Else there is nobody to go on with when a worker ends. */
static bool outlives_workers(const struct dispatch *dispatch) {
    return dispatch->options.gone_timeout_ms != 0;
}

static void on_tokens(struct dispatch *dispatch, const struct bus_message *message,
                      uint64_t now_us) {
    struct msg_tokens tokens;
    arena_clear(&dispatch->arena);
    if (msg_decode_tokens(message->data, message->bytes, &dispatch->arena, &tokens)) {
        dispatch_drop_message(dispatch);
        return;
    }
    bool is_lost = false;
    for (uint32_t i = 0; i < tokens.entry_count; i++) {
        struct dispatch_work *work = find_work(dispatch, message->from, tokens.entries[i].attempt);
        bool is_end = tokens.entries[i].finish == MSG_FINISH_LOST && outlives_workers(dispatch);
        is_lost |= is_end;
        if (is_end) continue; /* what it made before comes again, from another one */
        if (work) take_entry(dispatch, work, &tokens.entries[i], now_us);
        else dispatch_drop_message(dispatch);
    }
    /* Its process ends now: as good as reaped, and sooner known. */
    if (is_lost) dispatch_worker_on_lost(dispatch, message->from, now_us);
}

static void on_gone(struct dispatch *dispatch, const struct bus_message *message, uint64_t now_us) {
    struct msg_attempt gone;
    struct dispatch_work *work = NULL;
    if (!msg_decode_attempt(message->data, message->bytes, &gone))
        work = find_work(dispatch, message->from, gone.attempt);
    if (!work) {
        dispatch_drop_message(dispatch);
        return;
    }
    /* Never acknowledged: the GENERATE was lost, and goes again until the request's deadline. */
    bool was_there = work->state != DISPATCH_SENT;
    make_homeless(dispatch, work, now_us);
    if (was_there && ++work->gone_count > GONE_MAX) {
        struct api_error error;
        api_error_set(&error, 500, NULL, "the worker lost the request %u times", work->gone_count);
        fail(dispatch, work, &error);
        return;
    }
    place(dispatch, work, now_us);
}

static void on_refuse(struct dispatch *dispatch, const struct bus_message *message,
                      uint64_t now_us) {
    struct msg_refuse refuse;
    struct dispatch_work *work = NULL;
    arena_release(&dispatch->arena);
    if (!msg_decode_refuse(message->data, message->bytes, &dispatch->arena, &refuse))
        work = find_work(dispatch, message->from, refuse.attempt);
    if (!work) {
        dispatch_drop_message(dispatch);
        return;
    }
    struct api_error error;
    const char *why = refuse.text ? refuse.text : "";
    switch (refuse.reason) {
    case MSG_REFUSE_DRAINING: {
        struct dispatch_site *worker = dispatch_worker_find(dispatch, message->from);
        if (worker) {
            worker->is_draining = true;
            dispatch_worker_refresh(dispatch, worker);
        }
        make_homeless(dispatch, work, now_us);
        if (work->was_acked || dispatch_worker_is_any(dispatch)) {
            place(dispatch, work, now_us);
            return;
        }
        api_error_set(&error, 503, NULL, "every worker is being shut down");
        error.retry_after_s = 1;
        break;
    }
    case MSG_REFUSE_BUSY: {
        unbind(dispatch, work);
        struct dispatch_site *other =
            work->refused_count++ < dispatch->worker_count
                ? dispatch_worker_choose(dispatch, work, message->from, now_us)
                : NULL;
        if (other && !dispatch_to(dispatch, work, other, now_us)) return;
        api_error_set(&error, 429, NULL, "the queue is full%s%s", why[0] ? ": " : "", why);
        error.retry_after_s = (uint32_t) num_div_up(refuse.retry_after_ms, 1000);
        if (!error.retry_after_s) error.retry_after_s = 1;
        break;
    }
    case MSG_REFUSE_NO_ROOM:
        api_error_set(&error, 400, NULL, "the request does not fit the KV cache: %s", why);
        break;
    default: api_error_set(&error, 400, NULL, "%s", why[0] ? why : "the worker refused it"); break;
    }
    fail(dispatch, work, &error);
}

void dispatch_poll(struct dispatch *dispatch, uint64_t now_us) {
    struct bus_message message;
    while (bus_take(dispatch->port, &message)) {
        struct dispatch_site *worker = dispatch_worker_find(dispatch, message.from);
        if (worker) worker->silent_ticks = 0;
        switch (msg_peek_kind(message.data, message.bytes)) {
        case MSG_HELLO: dispatch_worker_on_hello(dispatch, &message, now_us); break;
        case MSG_BYE: dispatch_worker_on_bye(dispatch, message.from); break;
        case MSG_LOAD: dispatch_worker_on_load(dispatch, &message, now_us); break;
        case MSG_ROSTER: dispatch_worker_on_roster(dispatch, &message, now_us); break;
        case MSG_KV_EVENT: dispatch_kv_on_event(dispatch, &message, now_us); break;
        case MSG_KV_DUMP: dispatch_kv_on_dump(dispatch, &message, now_us); break;
        case MSG_TOKENS: on_tokens(dispatch, &message, now_us); break;
        case MSG_GONE: on_gone(dispatch, &message, now_us); break;
        case MSG_REFUSE: on_refuse(dispatch, &message, now_us); break;
        case MSG_WHO: break; /* of another frontend */
        default: dispatch_drop_message(dispatch); break;
        }
    }
    if (dispatch->has_gap && now_us - dispatch->synced_us >= GAP_SYNC_US)
        sync_all(dispatch, now_us);
}

/* --- time -------------------------------------------------------------------------------- */

static void look_after(struct dispatch *dispatch, struct dispatch_work *work, uint64_t now_us) {
    if (work->state == DISPATCH_HOMELESS) {
        place(dispatch, work, now_us);
        return;
    }
    uint64_t silent_us = (dispatch->tick - work->answered_tick) * DISPATCH_SILENCE_TICK_US;
    if (silent_us < (uint64_t) dispatch->options.sync_timeout_ms * 1000) return;
    /* No answer to many SYNCs: it moves if another worker can take it, else it waits here. */
    (void) move(dispatch, work, now_us);
}

/* Messages may have been lost: everybody is asked again, but not so often that the answers are what
 * is lost next.  KV events need no asking: their numbers, and those in LOAD, tell which are
 * missing. */
static void repair_loss(struct dispatch *dispatch, uint64_t now_us) {
    if (now_us - dispatch->repaired_us < REPAIR_US) return;
    dispatch->repaired_us = now_us;
    dispatch->lossy_count = bus_port_lossy_count(dispatch->port);
    dispatch_ask_who(dispatch, now_us);
    sync_all(dispatch, now_us);
}

/* Without a connection it is we who are silent; and some ticks before that it was dead already,
 * which pings have only then found out: what they counted is forgiven when it is back. */
static void count_silence(struct dispatch *dispatch, uint64_t now_us) {
    if (!bus_is_connected(dispatch->bus)) {
        dispatch->was_cut_off = true;
        return;
    }
    if (dispatch->was_cut_off) {
        dispatch_worker_forgive(dispatch);
        for (struct dispatch_work *work = dispatch->works; work; work = work->next)
            work->answered_tick = dispatch->tick;
    }
    dispatch->was_cut_off = false;
    dispatch->tick++;
    dispatch_worker_tick(dispatch, now_us);
}

void dispatch_tick(struct dispatch *dispatch, uint64_t now_us) {
    if (now_us - dispatch->silence_us >= DISPATCH_SILENCE_TICK_US) { /* a late tick counts once */
        dispatch->silence_us = now_us;
        count_silence(dispatch, now_us);
    }
    if (bus_port_lossy_count(dispatch->port) != dispatch->lossy_count)
        repair_loss(dispatch, now_us);
    bool misses_hello = dispatch->worker_count == 0;
    for (uint32_t i = 0; i < dispatch->worker_count; i++) {
        if (!dispatch->workers[i]->has_hello) misses_hello = true;
        dispatch_kv_tick(dispatch, dispatch->workers[i], now_us);
    }
    if (misses_hello && now_us - dispatch->asked_us >= WHO_US) dispatch_ask_who(dispatch, now_us);
    struct dispatch_work *next;
    for (struct dispatch_work *work = dispatch->works; work; work = next) {
        next = work->next;
        look_after(dispatch, work, now_us);
    }
    bool is_due = now_us - dispatch->synced_us >= SYNC_US;
    bool repairs = dispatch->has_gap && now_us - dispatch->synced_us >= GAP_SYNC_US;
    if (is_due || repairs) sync_all(dispatch, now_us);
}

/* --- life -------------------------------------------------------------------------------- */

/* By some worker that is there; ERR_PEER_GONE: there is none.  With none but suspects it waits. */
static enum err send_first(struct dispatch *dispatch, struct dispatch_work *work, uint64_t now_us) {
    enum err e = ERR_NOT_FOUND;
    while (e == ERR_NOT_FOUND) { /* a worker without an inbox takes no work from then on */
        struct dispatch_site *worker = dispatch_worker_choose(dispatch, work, 0, now_us);
        if (worker) e = dispatch_to(dispatch, work, worker, now_us);
        else if (!dispatch_worker_is_any(dispatch)) return ERR_PEER_GONE;
        else {
            make_homeless(dispatch, work, now_us);
            return ERR_OK;
        }
    }
    return e;
}

enum err dispatch_submit(struct dispatch *dispatch, struct dispatch_work *work, uint64_t now_us) {
    CHECK(work->state == DISPATCH_IDLE && work->choice_count <= SAMPLING_CHOICES_MAX);
    work->attempt = work->worker = work->digest = 0;
    work->hashes = NULL;
    work->hash_count = 0;
    enum err e = send_first(dispatch, work, now_us);
    if (e) {
        set_state(dispatch, work, DISPATCH_IDLE);
        alloc_free(work->hashes);
        work->hashes = NULL;
        return e;
    }
    work->previous = NULL;
    work->next = dispatch->works;
    if (work->next) work->next->previous = work;
    dispatch->works = work;
    return ERR_OK;
}

void dispatch_drop(struct dispatch *dispatch, struct dispatch_work *work) {
    if (work->state == DISPATCH_IDLE) return;
    cancel_attempt(dispatch, work);
    take_out(dispatch, work);
}

void dispatch_note_closed(struct dispatch *dispatch, struct dispatch_work *work) {
    if (work->state != DISPATCH_IDLE && is_over(work)) dispatch_drop(dispatch, work);
}

enum err dispatch_create(struct bus *bus, const struct dispatch_options *options,
                         const struct dispatch_handler *handler, struct metrics *metrics,
                         bus_wake_fn wake, void *wake_ctx, struct dispatch **out) {
    struct dispatch *dispatch = alloc_zero(1, sizeof *dispatch);
    if (!dispatch) return ERR_MEMORY;
    dispatch->options = *options;
    dispatch->handler = *handler;
    dispatch->metrics = metrics;
    dispatch->bus = bus;
    buf_init(&dispatch->out, 0);
    arena_init(&dispatch->arena, 0);
    unsigned subjects = 1u << BUS_HELLO | 1u << BUS_LOAD | 1u << BUS_ROSTER;
    enum err e = router_create(&options->router, &dispatch->router);
    if (!e && router_wants_hashes(dispatch->router) && options->router.has_events)
        subjects |= 1u << BUS_KV;
    if (!e) e = bus_port_open(bus, options->instance, subjects, wake, wake_ctx, &dispatch->port);
    if (e) {
        router_destroy(dispatch->router);
        alloc_free(dispatch);
        return e;
    }
    dispatch->lossy_count = bus_port_lossy_count(dispatch->port);
    dispatch_ask_who(dispatch, 0);
    *out = dispatch;
    return ERR_OK;
}

void dispatch_destroy(struct dispatch *dispatch) {
    if (!dispatch) return;
    CHECK(!dispatch->works);
    bus_port_close(dispatch->port);
    router_destroy(dispatch->router);
    dispatch_worker_release(dispatch);
    alloc_free(dispatch->events);
    buf_release(&dispatch->out);
    arena_release(&dispatch->arena);
    alloc_free(dispatch);
}
