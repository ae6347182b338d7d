/* dispatch - see dispatch.h. */
#include "api/dispatch.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/arena.h"
#include "base/log.h"
#include "base/num.h"

#define SYNC_US 250000u         /* specified: protocol.md 2 */
#define GAP_SYNC_US 20000u      /* a gap asks at once, but not more often than this */
#define SILENCE_TICK_US 100000u /* specified: protocol.md 3 */
#define SUSPECT_TICKS 10u       /* specified: protocol.md 3 */
#define GOOD_LOADS 3u           /* specified: protocol.md 3 */
#define WHO_US 1000000u         /* while nobody is known */
#define SILENT_DEAD_TICKS 3000u /* 5 minutes: a step of a slow machine may take long */
#define WORKERS_MAX 4096u
#define BUCKETS 4096u /* of the attempt table; a power of two */
#define GONE_MAX 16u  /* times a worker may deny an attempt before the request fails */

struct worker_view {
    uint64_t instance;
    struct msg_hello hello;
    struct msg_load load; /* senders left out */
    bool has_hello, has_load;
    bool is_foreign;  /* another tokenizer: gets no work */
    bool is_draining; /* told by LOAD or a REFUSE */
    bool is_leaving;  /* said BYE */
    bool is_suspect;
    uint32_t silent_ticks;
    uint32_t good_loads;
    uint32_t work_count; /* held works bound to it */
    uint32_t empty_syncs;
};

struct dispatch {
    struct dispatch_options options;
    struct dispatch_handler handler;
    struct metrics *metrics; /* borrowed */
    struct bus_port *port;
    uint64_t tokenizer_digest;
    struct worker_view *workers; /* owned */
    uint32_t worker_count, worker_room;
    struct dispatch_work *works; /* every held one */
    struct dispatch_work *buckets[BUCKETS];
    uint64_t attempt_last;
    uint64_t sync_number;
    uint64_t synced_us, asked_us, silence_us;
    bool has_gap;
    struct buf out;     /* a message under construction */
    struct arena arena; /* a message being read */
};

/* --- workers ----------------------------------------------------------------------------- */

static struct worker_view *find_worker(struct dispatch *dispatch, uint64_t instance) {
    for (uint32_t i = 0; i < dispatch->worker_count; i++)
        if (dispatch->workers[i].instance == instance) return &dispatch->workers[i];
    return NULL;
}

static struct worker_view *add_worker(struct dispatch *dispatch, uint64_t instance) {
    if (dispatch->worker_count == WORKERS_MAX) return NULL;
    if (dispatch->worker_count == dispatch->worker_room) {
        uint32_t room = dispatch->worker_room ? dispatch->worker_room * 2 : 4;
        struct worker_view *workers =
            alloc_resize(dispatch->workers, room * sizeof *dispatch->workers);
        if (!workers) return NULL;
        dispatch->workers = workers;
        dispatch->worker_room = room;
    }
    struct worker_view *worker = &dispatch->workers[dispatch->worker_count++];
    *worker = (struct worker_view){.instance = instance};
    return worker;
}

static bool takes_work(const struct worker_view *worker) {
    return worker->has_hello && !worker->is_foreign && !worker->is_draining && !worker->is_leaving;
}

/* The one place that chooses: the least loaded worker that is not suspect; a suspect one only
 * when there is no other (a long step on a slow machine looks like silence). */
static struct worker_view *choose_worker(struct dispatch *dispatch, uint64_t avoided) {
    struct worker_view *best = NULL;
    for (uint32_t i = 0; i < dispatch->worker_count; i++) {
        struct worker_view *worker = &dispatch->workers[i];
        if (!takes_work(worker) || worker->instance == avoided) continue;
        if (best && worker->is_suspect && !best->is_suspect) continue;
        if (!best || (best->is_suspect && !worker->is_suspect) ||
            worker->work_count < best->work_count)
            best = worker;
    }
    return best;
}

uint32_t dispatch_worker_count(const struct dispatch *dispatch) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < dispatch->worker_count; i++)
        if (takes_work(&dispatch->workers[i])) count++;
    return count;
}

bool dispatch_get_worker(const struct dispatch *dispatch, uint32_t index,
                         struct dispatch_worker *out) {
    if (index >= dispatch->worker_count) return false;
    const struct worker_view *worker = &dispatch->workers[index];
    *out = (struct dispatch_worker){
        .instance = worker->instance,
        .hello = worker->has_hello ? &worker->hello : NULL,
        .load = worker->has_load ? &worker->load : NULL,
        .work_count = worker->work_count,
        .takes_work = takes_work(worker),
        .is_suspect = worker->is_suspect,
        .is_draining = worker->is_draining || worker->is_leaving,
        .is_foreign = worker->is_foreign,
    };
    return true;
}

void dispatch_get_load(const struct dispatch *dispatch, struct msg_load *out) {
    *out = (struct msg_load){0};
    for (uint32_t i = 0; i < dispatch->worker_count; i++) {
        const struct msg_load *load = &dispatch->workers[i].load;
        out->blocks_total += load->blocks_total;
        out->blocks_free += load->blocks_free;
        out->blocks_cached += load->blocks_cached;
        out->running_requests += load->running_requests;
        out->waiting_requests += load->waiting_requests;
    }
}

static enum err send_to(struct dispatch *dispatch, uint64_t instance) {
    enum err e = buf_error(&dispatch->out);
    if (!e)
        e = bus_send(dispatch->port, BUS_INBOX, instance, dispatch->out.data, dispatch->out.bytes);
    return e;
}

static void ask_who(struct dispatch *dispatch, uint64_t now_us) {
    buf_clear(&dispatch->out);
    msg_encode_who(&dispatch->out);
    dispatch->asked_us = now_us;
    /* A lost WHO is sent again by the next tick. */
    if (!buf_error(&dispatch->out))
        (void) bus_send(dispatch->port, BUS_HELLO, 0, dispatch->out.data, dispatch->out.bytes);
}

/* --- works: list, attempt table ---------------------------------------------------------- */

static struct dispatch_work **bucket_of(struct dispatch *dispatch, uint64_t attempt) {
    return &dispatch->buckets[attempt & (BUCKETS - 1)]; /* attempts are counted: no hash needed */
}

static struct dispatch_work *find_work(struct dispatch *dispatch, uint64_t from, uint64_t attempt) {
    struct dispatch_work *work = *bucket_of(dispatch, attempt);
    while (work && work->attempt != attempt) work = work->hash_next;
    return work && work->worker == from ? work : NULL;
}

static void unbind(struct dispatch *dispatch, struct dispatch_work *work) {
    if (!work->attempt) return;
    struct dispatch_work **at = bucket_of(dispatch, work->attempt);
    while (*at != work) at = &(*at)->hash_next;
    *at = work->hash_next;
    struct worker_view *worker = find_worker(dispatch, work->worker);
    if (worker) worker->work_count--;
    work->attempt = 0;
}

static void take_out(struct dispatch *dispatch, struct dispatch_work *work) {
    unbind(dispatch, work);
    if (work->next) work->next->previous = work->previous;
    if (work->previous) work->previous->next = work->next;
    else dispatch->works = work->next;
    work->next = work->previous = NULL;
    work->state = DISPATCH_IDLE;
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

static void cancel_attempt(struct dispatch *dispatch, const struct dispatch_work *work) {
    if (!work->attempt) return;
    buf_clear(&dispatch->out);
    msg_encode_cancel(&(struct msg_attempt){.attempt = work->attempt}, &dispatch->out);
    (void) send_to(dispatch, work->worker); /* SYNC repairs a lost one */
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

/* A new attempt at a worker.  A lost GENERATE is noticed by SYNC (GONE), so that only a dead
 * inbox and a message that can never be sent are errors. */
static enum err dispatch_to(struct dispatch *dispatch, struct dispatch_work *work,
                            struct worker_view *worker, uint64_t now_us) {
    DCHECK(!work->attempt);
    work->attempt = ++dispatch->attempt_last;
    work->worker = worker->instance;
    work->answered_us = now_us;
    work->state = DISPATCH_SENT;
    worker->work_count++;
    struct dispatch_work **bucket = bucket_of(dispatch, work->attempt);
    work->hash_next = *bucket;
    *bucket = work;
    encode_generate(dispatch, work, now_us);
    enum err e = send_to(dispatch, worker->instance);
    if (e == ERR_BUSY) e = ERR_OK; /* lost: the next SYNC brings GONE */
    if (e == ERR_NOT_FOUND) worker->is_leaving = true;
    if (e) unbind(dispatch, work);
    return e;
}

static void make_homeless(struct dispatch *dispatch, struct dispatch_work *work, uint64_t now_us) {
    unbind(dispatch, work);
    if (work->state != DISPATCH_HOMELESS) work->homeless_since_us = now_us;
    work->state = DISPATCH_HOMELESS;
}

/* Tries to place a homeless work; fails it when its time is over. */
static void place(struct dispatch *dispatch, struct dispatch_work *work, uint64_t now_us) {
    struct api_error error;
    struct worker_view *worker = choose_worker(dispatch, 0);
    if (worker) {
        uint64_t before = work->worker;
        enum err e = dispatch_to(dispatch, work, worker, now_us);
        if (!e) {
            metrics_add(dispatch->metrics, METRIC_REDISPATCHES, 1);
            if (work->was_admitted && before != worker->instance)
                metrics_add(dispatch->metrics, METRIC_MIGRATIONS, 1);
            return;
        }
        work->state = DISPATCH_HOMELESS;
        if (e == ERR_LIMIT || e == ERR_MEMORY) {
            api_error_set(&error, 500, NULL, "the request cannot be sent to a worker: %s",
                          err_name(e));
            fail(dispatch, work, &error);
            return;
        }
    }
    if (now_us - work->homeless_since_us < (uint64_t) dispatch->options.migration_timeout_ms * 1000)
        return;
    api_error_set(&error, 503, NULL, "no worker took the request over within %u s",
                  dispatch->options.migration_timeout_ms / 1000);
    error.retry_after_s = 1;
    fail(dispatch, work, &error);
}

/* The attempt is lost because its worker is gone; it goes on elsewhere, or ends here. */
static void lose_to_death(struct dispatch *dispatch, struct dispatch_work *work, uint64_t now_us) {
    work->lost_count++;
    make_homeless(dispatch, work, now_us);
    if (work->lost_count >= dispatch->options.migration_limit) {
        struct api_error error;
        log_request(LOG_ERROR, work->request_id, "%u workers died with this request; it ends here",
                    work->lost_count);
        api_error_set(&error, 500, NULL, "the worker that ran this request died, %u times",
                      work->lost_count);
        snprintf(error.code, sizeof error.code, "worker_died");
        fail(dispatch, work, &error);
        return;
    }
    place(dispatch, work, now_us);
}

static void bury_worker(struct dispatch *dispatch, uint64_t instance, uint64_t now_us) {
    for (uint32_t i = 0; i < dispatch->worker_count; i++) {
        if (dispatch->workers[i].instance != instance) continue;
        dispatch->workers[i] = dispatch->workers[--dispatch->worker_count];
        break;
    }
    log_warn("worker %016llx is gone", (unsigned long long) instance);
    struct dispatch_work *next;
    for (struct dispatch_work *work = dispatch->works; work; work = next) {
        next = work->next;
        if (work->attempt && work->worker == instance) lose_to_death(dispatch, work, now_us);
    }
}

/* --- SYNC -------------------------------------------------------------------------------- */

static bool encode_sync(struct dispatch *dispatch, const struct worker_view *worker) {
    arena_release(&dispatch->arena);
    struct msg_sync_entry *entries =
        arena_take(&dispatch->arena, worker->work_count * sizeof *entries);
    if (!entries) return false;
    uint32_t count = 0;
    for (const struct dispatch_work *work = dispatch->works; work; work = work->next) {
        if (!work->attempt || work->worker != worker->instance) continue;
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
        struct worker_view *worker = &dispatch->workers[i];
        /* A few empty ones let the worker forget what is finished; then there is silence. */
        if (worker->work_count == 0 && worker->empty_syncs >= 3) continue;
        worker->empty_syncs = worker->work_count ? 0 : worker->empty_syncs + 1;
        if (!encode_sync(dispatch, worker)) continue;
        if (send_to(dispatch, worker->instance) == ERR_NOT_FOUND) {
            bury_worker(dispatch, worker->instance, now_us);
            i = UINT32_MAX; /* the table moved; those already told are told again */
        }
    }
}

/* --- receiving --------------------------------------------------------------------------- */

static void drop_message(struct dispatch *dispatch) {
    metrics_add(dispatch->metrics, METRIC_MESSAGES_DROPPED, 1);
}

static void on_hello(struct dispatch *dispatch, const struct bus_message *message,
                     uint64_t now_us) {
    struct msg_hello hello;
    if (msg_decode_hello(message->data, message->bytes, &hello)) {
        drop_message(dispatch);
        return;
    }
    struct worker_view *worker = find_worker(dispatch, message->from);
    bool is_new = !worker;
    if (!worker) worker = add_worker(dispatch, message->from);
    if (!worker) return;
    worker->hello = hello;
    worker->has_hello = true;
    worker->silent_ticks = 0;
    worker->is_foreign = dispatch->tokenizer_digest && hello.tokenizer_digest &&
                         hello.tokenizer_digest != dispatch->tokenizer_digest;
    metrics_set_cache(dispatch->metrics, hello.block_size, hello.block_count);
    if (is_new && worker->is_foreign)
        log_warn("worker %016llx has another tokenizer and gets no work",
                 (unsigned long long) message->from);
    struct dispatch_work *next;
    for (struct dispatch_work *work = dispatch->works; work; work = next) {
        next = work->next;
        if (work->state == DISPATCH_HOMELESS) place(dispatch, work, now_us);
    }
}

static void on_load(struct dispatch *dispatch, const struct bus_message *message) {
    struct msg_load load;
    arena_release(&dispatch->arena);
    if (msg_decode_load(message->data, message->bytes, &dispatch->arena, &load)) {
        drop_message(dispatch);
        return;
    }
    struct worker_view *worker = find_worker(dispatch, message->from);
    if (!worker) worker = add_worker(dispatch, message->from);
    if (!worker) return;
    if (!worker->has_hello) dispatch->asked_us = 0; /* its HELLO was lost: ask at the next tick */
    worker->silent_ticks = 0;
    worker->is_draining = load.is_draining;
    if (worker->is_suspect && ++worker->good_loads >= GOOD_LOADS) worker->is_suspect = false;
    load.senders = NULL;
    load.sender_count = 0;
    struct msg_load before = worker->load;
    bool had_load = worker->has_load;
    worker->load = load;
    worker->has_load = true;
    if (dispatch->handler.on_load)
        dispatch->handler.on_load(
            dispatch->handler.ctx,
            &(struct dispatch_load){.now = &load, .before = had_load ? &before : NULL});
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

static void take_entry(struct dispatch *dispatch, struct dispatch_work *work,
                       const struct msg_tokens_entry *entry, uint64_t now_us) {
    bool is_news = false;
    work->answered_us = now_us;
    if (!work->was_acked) is_news = work->was_acked = true;
    if (work->state == DISPATCH_SENT) work->state = DISPATCH_QUEUED;
    if (entry->is_admitted || entry->id_count) {
        work->state = DISPATCH_RUNNING;
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
    if (!is_unread &&
        (entry->finish == MSG_FINISH_ERROR || entry->finish == MSG_FINISH_CANCELLED)) {
        struct api_error error;
        if (!work->was_admitted && work->deadline_us &&
            now_us + SILENCE_TICK_US >= work->deadline_us) {
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
        case TOKEN_LOG_NEWS: is_news = true; break;
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

static void on_tokens(struct dispatch *dispatch, const struct bus_message *message,
                      uint64_t now_us) {
    struct msg_tokens tokens;
    arena_release(&dispatch->arena);
    if (msg_decode_tokens(message->data, message->bytes, &dispatch->arena, &tokens)) {
        drop_message(dispatch);
        return;
    }
    for (uint32_t i = 0; i < tokens.entry_count; i++) {
        struct dispatch_work *work = find_work(dispatch, message->from, tokens.entries[i].attempt);
        if (work) take_entry(dispatch, work, &tokens.entries[i], now_us);
        else drop_message(dispatch);
    }
}

static void on_gone(struct dispatch *dispatch, const struct bus_message *message, uint64_t now_us) {
    struct msg_attempt gone;
    struct dispatch_work *work = NULL;
    if (!msg_decode_attempt(message->data, message->bytes, &gone))
        work = find_work(dispatch, message->from, gone.attempt);
    if (!work) {
        drop_message(dispatch);
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
        drop_message(dispatch);
        return;
    }
    struct api_error error;
    const char *why = refuse.text ? refuse.text : "";
    switch (refuse.reason) {
    case MSG_REFUSE_DRAINING: {
        struct worker_view *worker = find_worker(dispatch, message->from);
        if (worker) worker->is_draining = true;
        make_homeless(dispatch, work, now_us);
        if (work->was_acked || choose_worker(dispatch, 0)) {
            place(dispatch, work, now_us);
            return;
        }
        api_error_set(&error, 503, NULL, "every worker is being shut down");
        error.retry_after_s = 1;
        break;
    }
    case MSG_REFUSE_BUSY: {
        struct worker_view *other = work->refused_count++ < dispatch->worker_count
                                        ? choose_worker(dispatch, message->from)
                                        : NULL;
        unbind(dispatch, work);
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

static void on_bye(struct dispatch *dispatch, uint64_t from) {
    struct worker_view *worker = find_worker(dispatch, from);
    if (worker) worker->is_leaving = true; /* its streams finish, or SYNC finds it gone */
}

void dispatch_poll(struct dispatch *dispatch, uint64_t now_us) {
    struct bus_message message;
    while (bus_take(dispatch->port, &message)) {
        struct worker_view *worker = find_worker(dispatch, message.from);
        if (worker) worker->silent_ticks = 0;
        switch (msg_peek_kind(message.data, message.bytes)) {
        case MSG_HELLO: on_hello(dispatch, &message, now_us); break;
        case MSG_BYE: on_bye(dispatch, message.from); break;
        case MSG_LOAD: on_load(dispatch, &message); break;
        case MSG_TOKENS: on_tokens(dispatch, &message, now_us); break;
        case MSG_GONE: on_gone(dispatch, &message, now_us); break;
        case MSG_REFUSE: on_refuse(dispatch, &message, now_us); break;
        case MSG_WHO: break; /* of another frontend */
        default: drop_message(dispatch); break;
        }
    }
    if (dispatch->has_gap && now_us - dispatch->synced_us >= GAP_SYNC_US)
        sync_all(dispatch, now_us);
}

/* --- time -------------------------------------------------------------------------------- */

static void count_silence(struct dispatch *dispatch, uint64_t now_us) {
    for (uint32_t i = 0; i < dispatch->worker_count; i++) {
        struct worker_view *worker = &dispatch->workers[i];
        worker->silent_ticks++;
        if (worker->silent_ticks >= SUSPECT_TICKS && !worker->is_suspect) {
            worker->is_suspect = true;
            worker->good_loads = 0;
        }
        if (worker->silent_ticks < (worker->is_leaving ? SUSPECT_TICKS : SILENT_DEAD_TICKS))
            continue;
        bury_worker(dispatch, worker->instance, now_us);
        return; /* the table moved; the others are counted at the next tick */
    }
}

static void look_after(struct dispatch *dispatch, struct dispatch_work *work, uint64_t now_us) {
    if (work->state == DISPATCH_HOMELESS) {
        place(dispatch, work, now_us);
        return;
    }
    if (now_us - work->answered_us < (uint64_t) dispatch->options.sync_timeout_ms * 1000) return;
    /* No answer to many SYNCs: it moves if another worker can take it, else it waits here. */
    struct worker_view *other = choose_worker(dispatch, work->worker);
    if (!other || other->is_suspect) return;
    cancel_attempt(dispatch, work);
    make_homeless(dispatch, work, now_us);
    if (dispatch_to(dispatch, work, other, now_us)) work->state = DISPATCH_HOMELESS;
    metrics_add(dispatch->metrics, METRIC_MIGRATIONS, work->was_admitted ? 1 : 0);
}

void dispatch_tick(struct dispatch *dispatch, uint64_t now_us) {
    if (now_us - dispatch->silence_us >= SILENCE_TICK_US) { /* a late tick counts once */
        dispatch->silence_us = now_us;
        count_silence(dispatch, now_us);
    }
    bool misses_hello = dispatch->worker_count == 0;
    for (uint32_t i = 0; i < dispatch->worker_count; i++)
        if (!dispatch->workers[i].has_hello) misses_hello = true;
    if (misses_hello && now_us - dispatch->asked_us >= WHO_US) ask_who(dispatch, now_us);
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

enum err dispatch_submit(struct dispatch *dispatch, struct dispatch_work *work, uint64_t now_us) {
    CHECK(work->state == DISPATCH_IDLE && work->choice_count <= SAMPLING_CHOICES_MAX);
    work->attempt = 0;
    enum err e = ERR_NOT_FOUND;
    while (e == ERR_NOT_FOUND) { /* a worker without an inbox takes no work from then on */
        struct worker_view *worker = choose_worker(dispatch, 0);
        if (!worker) return ERR_PEER_GONE;
        e = dispatch_to(dispatch, work, worker, now_us);
        if (e) work->state = DISPATCH_IDLE;
    }
    if (e) return e;
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

void dispatch_set_tokenizer(struct dispatch *dispatch, uint64_t digest) {
    dispatch->tokenizer_digest = digest;
    for (uint32_t i = 0; i < dispatch->worker_count; i++) {
        struct worker_view *worker = &dispatch->workers[i];
        worker->is_foreign = worker->has_hello && digest && worker->hello.tokenizer_digest &&
                             worker->hello.tokenizer_digest != digest;
    }
}

enum err dispatch_create(struct bus *bus, const struct dispatch_options *options,
                         const struct dispatch_handler *handler, struct metrics *metrics,
                         bus_wake_fn wake, void *wake_ctx, struct dispatch **out) {
    struct dispatch *dispatch = alloc_zero(1, sizeof *dispatch);
    if (!dispatch) return ERR_MEMORY;
    dispatch->options = *options;
    dispatch->handler = *handler;
    dispatch->metrics = metrics;
    buf_init(&dispatch->out, 0);
    arena_init(&dispatch->arena, 0);
    enum err e =
        bus_port_open(bus, options->instance, 1u << BUS_HELLO | 1u << BUS_LOAD | 1u << BUS_ROSTER,
                      wake, wake_ctx, &dispatch->port);
    if (e) {
        alloc_free(dispatch);
        return e;
    }
    ask_who(dispatch, 0);
    *out = dispatch;
    return ERR_OK;
}

void dispatch_destroy(struct dispatch *dispatch) {
    if (!dispatch) return;
    CHECK(!dispatch->works);
    bus_port_close(dispatch->port);
    alloc_free(dispatch->workers);
    buf_release(&dispatch->out);
    arena_release(&dispatch->arena);
    alloc_free(dispatch);
}
