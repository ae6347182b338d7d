/* dispatch_worker - the workers as the frontend knows them, and the choice among them.
 *
 *   unknown --HELLO--> open --10 silent ticks, or steps that stand still--> suspect
 *                       | ^                                                   | |
 *                       | +------------------ 3 good LOADs -------------------+ |
 *                       +-- LOAD draining, BYE --> leaving                      |
 *   any --ROSTER: reaped (for ever); silent for gone_timeout; its inbox closed--> buried
 *
 * A refused one (foreign) is kept, so that it is refused once; a prefill worker is kept for its
 * LOAD.  Only open ones are chosen. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "api/dispatch_impl.h"
#include "api/worker_metrics.h"
#include "base/alloc.h"
#include "base/log.h"
#include "base/num.h"
#include "kv/kv_hash.h"

#define SUSPECT_TICKS 10u /* specified: protocol.md 3 */
#define GOOD_LOADS 3u     /* specified: protocol.md 3 */

/* --- the table --------------------------------------------------------------------------- */

struct dispatch_site *dispatch_worker_find(const struct dispatch *dispatch, uint64_t instance) {
    for (uint32_t i = 0; i < dispatch->worker_count; i++)
        if (dispatch->instances[i] == instance) return dispatch->workers[i];
    return NULL;
}

static struct dispatch_site *add_worker(struct dispatch *dispatch, uint64_t instance) {
    if (!instance || dispatch->worker_count == ROUTER_WORKERS_MAX) return NULL;
    if (dispatch->worker_count == dispatch->worker_room) {
        uint32_t room = dispatch->worker_room ? dispatch->worker_room * 2 : 4;
        struct dispatch_site **workers =
            alloc_resize(dispatch->workers, room * sizeof *dispatch->workers);
        if (!workers) return NULL;
        dispatch->workers = workers;
        uint64_t *instances = alloc_resize(dispatch->instances, room * sizeof *dispatch->instances);
        if (!instances) return NULL;
        dispatch->instances = instances;
        dispatch->worker_room = room;
    }
    struct dispatch_site *worker = alloc_zero(1, sizeof *worker);
    if (!worker) return NULL;
    worker->instance = instance;
    dispatch->instances[dispatch->worker_count] = instance;
    dispatch->workers[dispatch->worker_count++] = worker;
    return worker;
}

static void free_worker(struct dispatch_site *worker) {
    dispatch_kv_release(&worker->kv);
    alloc_free(worker);
}

void dispatch_worker_release(struct dispatch *dispatch) {
    for (uint32_t i = 0; i < dispatch->worker_count; i++) free_worker(dispatch->workers[i]);
    alloc_free(dispatch->workers);
    alloc_free(dispatch->instances);
}

void dispatch_worker_name(const struct dispatch *dispatch, uint64_t instance,
                          char out[DISPATCH_NAME_BYTES]) {
    const struct dispatch_site *worker = dispatch_worker_find(dispatch, instance);
    if (worker && worker->hello.name[0])
        snprintf(out, DISPATCH_NAME_BYTES, "%.63s", worker->hello.name);
    else snprintf(out, DISPATCH_NAME_BYTES, "%016" PRIx64, instance);
}

/* --- who is open ------------------------------------------------------------------------- */

static bool takes_work(const struct dispatch_site *worker) {
    return worker->has_hello && worker->hello.component != DISPATCH_COMPONENT_PREFILL &&
           !worker->is_foreign && !worker->is_draining && !worker->is_leaving && !worker->is_reaped;
}

static bool is_open(const struct dispatch_site *worker) {
    return takes_work(worker) && !worker->is_suspect && worker->is_routed;
}

bool dispatch_worker_is_any(const struct dispatch *dispatch) {
    for (uint32_t i = 0; i < dispatch->worker_count; i++)
        if (takes_work(dispatch->workers[i])) return true;
    return false;
}

uint32_t dispatch_worker_count(const struct dispatch *dispatch) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < dispatch->worker_count; i++) count += is_open(dispatch->workers[i]);
    return count;
}

void dispatch_worker_refresh(struct dispatch *dispatch, struct dispatch_site *worker) {
    if (!worker->is_routed) {
        if (!takes_work(worker)) return;
        struct router_worker entry = {.instance = worker->instance,
                                      .block_size = worker->hello.block_size,
                                      .sends_events = !worker->sends_no_events};
        if (router_add(dispatch->router, &entry)) return; /* no memory: the next LOAD tries again */
        worker->is_routed = true;
    }
    router_set_open(dispatch->router, worker->instance, is_open(worker));
}

/* --- the choice -------------------------------------------------------------------------- */

static bool has_tokens(const struct dispatch_work *work) {
    for (uint32_t i = 0; i < work->choice_count; i++)
        if (work->logs[i].count) return true;
    return false;
}

static bool fits(const struct dispatch_site *worker, uint64_t digest) {
    return !digest || !worker->hello.numeric_digest || worker->hello.numeric_digest == digest;
}

static uint64_t digest_of(const struct dispatch_work *work) {
    return work->digest && has_tokens(work) ? work->digest : 0;
}

bool dispatch_worker_is_unlike(const struct dispatch *dispatch, const struct dispatch_work *work) {
    bool is_any = false;
    for (uint32_t i = 0; i < dispatch->worker_count; i++) {
        if (!takes_work(dispatch->workers[i])) continue;
        if (fits(dispatch->workers[i], digest_of(work))) return false;
        is_any = true;
    }
    return is_any;
}

/* The prompt's hashes are made once a work, and only where they decide something. */
static void make_hashes(const struct dispatch *dispatch, struct dispatch_work *work) {
    uint32_t block_size = 0;
    for (uint32_t i = 0; i < dispatch->worker_count && !block_size; i++)
        if (dispatch->workers[i]->is_routed) block_size = dispatch->workers[i]->hello.block_size;
    uint32_t count = block_size ? work->prompt_count / block_size : 0;
    if (work->hashes || !count || !router_wants_hashes(dispatch->router)) return;
    work->hashes = alloc_array(count, sizeof *work->hashes);
    if (!work->hashes) return; /* without memory: no overlap is seen */
    kv_hash_sequence(work->prompt_ids, work->prompt_count, block_size, work->hashes);
    work->hash_count = count;
}

void dispatch_worker_request(const struct dispatch *dispatch, struct dispatch_work *work,
                             struct router_request *out) {
    uint64_t tokens = work->prompt_count;
    for (uint32_t i = 0; i < work->choice_count; i++) tokens += work->logs[i].count;
    *out = (struct router_request){
        .sequence_hashes = work->hashes,
        .block_count = work->hash_count,
        .prompt_tokens = (uint32_t) num_min(tokens, UINT32_MAX),
        .overlap_weight = work->route ? work->route->overlap_weight : -1,
        .temperature = work->route ? work->route->temperature : -1,
        .reads_cache = !work->sampling->skip_prefix_cache && work->sampling->prompt_logprobs < 0,
    };
    (void) dispatch;
}

/* Whether it takes sequences as long as this one may become. */
static bool is_long_enough(const struct dispatch_site *worker, const struct dispatch_work *work) {
    uint64_t tokens = (uint64_t) work->prompt_count + work->sampling->max_tokens;
    return !worker->hello.model_len_max || tokens <= worker->hello.model_len_max;
}

/* Of those that the router knows; the choice need look at each one's only when they differ. */
static void note_lengths(struct dispatch *dispatch) {
    dispatch->len_min = UINT32_MAX;
    for (uint32_t i = 0; i < dispatch->worker_count; i++) {
        uint32_t len = dispatch->workers[i]->hello.model_len_max;
        if (dispatch->workers[i]->is_routed && len && len < dispatch->len_min)
            dispatch->len_min = len;
    }
}

static struct dispatch_site *choose_among(struct dispatch *dispatch, struct dispatch_work *work,
                                          uint64_t avoided, uint64_t digest, uint64_t now_us) {
    struct router_request request;
    bool was_closed = false;
    bool is_picky =
        digest || (uint64_t) work->prompt_count + work->sampling->max_tokens > dispatch->len_min;
    for (uint32_t i = 0; is_picky && i < dispatch->worker_count; i++)
        if (!fits(dispatch->workers[i], digest) || !is_long_enough(dispatch->workers[i], work)) {
            router_set_open(dispatch->router, dispatch->instances[i], false);
            was_closed = true;
        }
    make_hashes(dispatch, work);
    dispatch_worker_request(dispatch, work, &request);
    request.avoided = avoided;
    enum err e = router_choose(dispatch->router, &request, now_us, &dispatch->choice);
    for (uint32_t i = 0; was_closed && i < dispatch->worker_count; i++)
        if (dispatch->workers[i]->is_routed)
            router_set_open(dispatch->router, dispatch->instances[i],
                            is_open(dispatch->workers[i]));
    if (e || dispatch->choice.instance == avoided) return NULL;
    return dispatch_worker_find(dispatch, dispatch->choice.instance);
}

struct dispatch_site *dispatch_worker_choose(struct dispatch *dispatch, struct dispatch_work *work,
                                             uint64_t avoided, uint64_t now_us) {
    uint64_t digest = digest_of(work);
    if (dispatch->worker_count == 1) { /* nothing to choose, nothing to compute */
        struct dispatch_site *worker = dispatch->workers[0];
        bool is_good = is_open(worker) && worker->instance != avoided &&
                       (fits(worker, digest) || dispatch->options.allows_inexact) &&
                       (!has_tokens(work) || is_long_enough(worker, work)); /* a new one is told */
        dispatch->choice = (struct router_choice){.instance = worker->instance};
        return is_good ? worker : NULL;
    }
    struct dispatch_site *worker = choose_among(dispatch, work, avoided, digest, now_us);
    if (!worker && digest && dispatch->options.allows_inexact)
        worker = choose_among(dispatch, work, avoided, 0, now_us);
    return worker;
}

/* --- who is refused ---------------------------------------------------------------------- */

/* Why a worker may not serve here; NULL: it may. */
static const char *find_fault(const struct dispatch *dispatch, const struct dispatch_site *worker) {
    const struct msg_hello *hello = &worker->hello;
    if (dispatch->tokenizer_digest && hello->tokenizer_digest &&
        hello->tokenizer_digest != dispatch->tokenizer_digest)
        return "has another tokenizer";
    if (dispatch->options.version && strcmp(hello->version, dispatch->options.version) != 0)
        return "is another version of the program";
    if (!hello->block_size) return "has no block size";
    for (uint32_t i = 0; i < dispatch->worker_count; i++) {
        const struct dispatch_site *other = dispatch->workers[i];
        if (other == worker || !other->is_routed) continue;
        if (other->hello.block_size != hello->block_size) return "has another block size";
        if (!dispatch->options.allows_inexact && !fits(other, hello->numeric_digest))
            return "has other weights, KV storage or numerics";
    }
    return NULL;
}

/* So that its own log says it too.  Attempt 0: the worker itself is refused. */
static void tell_refused(struct dispatch *dispatch, const struct dispatch_site *worker,
                         const char *fault) {
    char text[160];
    snprintf(text, sizeof text, "it %s", fault);
    buf_clear(&dispatch->out);
    msg_encode_refuse(&(struct msg_refuse){.reason = MSG_REFUSE_UNLIKE, .text = text},
                      &dispatch->out);
    (void) dispatch_send(dispatch, worker->instance); /* its next HELLO brings it again */
}

static void judge(struct dispatch *dispatch, struct dispatch_site *worker) {
    const char *fault =
        worker->hello.component == DISPATCH_COMPONENT_PREFILL ? NULL : find_fault(dispatch, worker);
    bool was_foreign = worker->is_foreign;
    worker->is_foreign = fault != NULL;
    if (!fault) return;
    tell_refused(dispatch, worker, fault);
    if (was_foreign) return;
    char name[DISPATCH_NAME_BYTES];
    dispatch_worker_name(dispatch, worker->instance, name);
    log_warn("worker %s on %.63s %s and gets no work", name,
             worker->hello.host[0] ? worker->hello.host : "an unnamed host", fault);
    if (!worker->is_routed) return;
    router_remove(dispatch->router, worker->instance);
    worker->is_routed = false;
}

/* --- the dead ---------------------------------------------------------------------------- */

static uint64_t *dead_slot(struct dispatch *dispatch, uint64_t instance) {
    uint64_t at = instance * 0x9e3779b97f4a7c15u >> 52; /* 12 bits */
    while (dispatch->dead[at] && dispatch->dead[at] != instance)
        at = (at + 1) & (DISPATCH_DEAD_ROOM - 1);
    return &dispatch->dead[at];
}

bool dispatch_worker_is_dead(const struct dispatch *dispatch, uint64_t instance) {
    return *dead_slot((struct dispatch *) dispatch, instance) == instance;
}

/* For ever: as long as anyone repeats it.  A full table begins anew with the next ROSTER. */
static void note_dead(struct dispatch *dispatch, uint64_t instance) {
    if (dispatch->dead_count > DISPATCH_DEAD_ROOM / 2) {
        memset(dispatch->dead, 0, sizeof dispatch->dead);
        dispatch->dead_count = 0;
    }
    uint64_t *slot = dead_slot(dispatch, instance);
    if (*slot) return;
    *slot = instance;
    dispatch->dead_count++;
}

void dispatch_worker_bury(struct dispatch *dispatch, struct dispatch_site *worker, bool is_death,
                          uint64_t now_us) {
    char name[DISPATCH_NAME_BYTES];
    dispatch_worker_name(dispatch, worker->instance, name);
    uint32_t at = 0;
    while (dispatch->workers[at] != worker) at++;
    dispatch->workers[at] = dispatch->workers[--dispatch->worker_count];
    dispatch->instances[at] = dispatch->instances[dispatch->worker_count];
    router_remove(dispatch->router, worker->instance);
    worker->is_routed = false;
    note_lengths(dispatch);
    bool was_expected = worker->is_leaving || worker->is_draining;
    if (was_expected) log_info("worker %s has left", name);
    else log_warn("worker %s is gone; %u requests of it go on elsewhere", name, worker->work_count);
    if (!was_expected) metrics_add(dispatch->metrics, METRIC_WORKER_DEATHS, 1);
    for (uint32_t i = 0; i < dispatch->worker_count; i++)
        if (dispatch->workers[i]->is_foreign) { /* who it was unlike may be gone now */
            judge(dispatch, dispatch->workers[i]);
            dispatch_worker_refresh(dispatch, dispatch->workers[i]);
        }
    dispatch_lose_works(dispatch, worker, is_death && !was_expected, now_us);
    free_worker(worker);
}

/* --- messages ---------------------------------------------------------------------------- */

static struct dispatch_site *find_or_add(struct dispatch *dispatch, uint64_t instance) {
    if (dispatch_worker_is_dead(dispatch, instance)) return NULL;
    struct dispatch_site *worker = dispatch_worker_find(dispatch, instance);
    return worker ? worker : add_worker(dispatch, instance);
}

void dispatch_worker_on_hello(struct dispatch *dispatch, const struct bus_message *message,
                              uint64_t now_us) {
    struct msg_hello hello;
    if (msg_decode_hello(message->data, message->bytes, &hello)) {
        dispatch_drop_message(dispatch);
        return;
    }
    struct dispatch_site *worker = find_or_add(dispatch, message->from);
    if (!worker) return;
    worker->hello = hello;
    worker->has_hello = true;
    worker->silent_ticks = 0;
    bool was_routed = worker->is_routed;
    judge(dispatch, worker);
    if (hello.component != DISPATCH_COMPONENT_PREFILL && !worker->is_foreign)
        metrics_set_cache(dispatch->metrics, hello.block_size, hello.block_count);
    dispatch_worker_refresh(dispatch, worker);
    note_lengths(dispatch);
    if (worker->is_routed && !was_routed) dispatch_kv_ask(dispatch, worker, now_us);
    dispatch_place_homeless(dispatch, now_us);
}

/* The highest of our attempts that the worker had received. */
static uint64_t find_echo(const struct dispatch *dispatch, const struct msg_load *load) {
    for (uint32_t i = 0; i < load->sender_count; i++)
        if (load->senders[i].instance == dispatch->options.instance)
            return load->senders[i].attempt;
    return 0;
}

/* Something that steps would move; who only waits for a prefill worker makes none. */
static bool has_work(const struct msg_load *load) {
    return load->running_requests || load->queued_prefills ||
           (load->waiting_requests && !load->remote_blocks);
}

/* Three good ones in a row end the suspicion: steps go on, or there is nothing to do. */
static void judge_load(struct dispatch *dispatch, struct dispatch_site *worker,
                       const struct msg_load *before, uint64_t now_us) {
    bool is_good = !has_work(&worker->load) || worker->load.step_count != before->step_count;
    if (is_good) worker->still_ticks = 0;
    worker->good_loads = is_good ? worker->good_loads + 1 : 0;
    if (!worker->is_suspect || worker->good_loads < GOOD_LOADS) return;
    char name[DISPATCH_NAME_BYTES];
    dispatch_worker_name(dispatch, worker->instance, name);
    log_info("worker %s is itself again", name);
    metrics_add(dispatch->metrics, METRIC_SUSPECTS_BACK, 1);
    worker->is_suspect = false;
    dispatch_worker_refresh(dispatch, worker);
    dispatch_place_homeless(dispatch, now_us);
}

void dispatch_worker_on_load(struct dispatch *dispatch, const struct bus_message *message,
                             uint64_t now_us) {
    struct msg_load load;
    arena_release(&dispatch->arena);
    if (msg_decode_load(message->data, message->bytes, &dispatch->arena, &load)) {
        dispatch_drop_message(dispatch);
        return;
    }
    struct dispatch_site *worker = find_or_add(dispatch, message->from);
    if (!worker) return;
    if (!worker->has_hello) dispatch->asked_us = 0; /* its HELLO was lost: ask at the next tick */
    uint64_t echo = find_echo(dispatch, &load);
    load.senders = NULL;
    load.sender_count = 0;
    struct msg_load before = worker->load;
    bool had_load = worker->has_load;
    worker->silent_ticks = 0;
    worker->load = load;
    worker->has_load = true;
    worker->is_draining = load.is_draining;
    judge_load(dispatch, worker, &before, now_us);
    dispatch_worker_refresh(dispatch, worker);
    if (worker->is_routed) {
        uint32_t idle = load.blocks_free + load.blocks_cached;
        router_load(dispatch->router, worker->instance,
                    &(struct router_load){
                        .blocks_used = load.blocks_total > idle ? load.blocks_total - idle : 0,
                        .request_count = load.running_requests + load.waiting_requests,
                        .waiting_tokens = load.waiting_tokens,
                        .echo = echo});
        dispatch_kv_on_load(dispatch, worker, now_us);
    }
    if (dispatch->handler.on_load)
        dispatch->handler.on_load(
            dispatch->handler.ctx,
            &(struct dispatch_load){.now = &load, .before = had_load ? &before : NULL});
}

void dispatch_worker_on_bye(struct dispatch *dispatch, uint64_t from) {
    struct dispatch_site *worker = dispatch_worker_find(dispatch, from);
    if (!worker) return;
    worker->is_leaving = true; /* its streams finish, or move when it has gone */
    dispatch_worker_refresh(dispatch, worker);
}

void dispatch_worker_on_lost(struct dispatch *dispatch, uint64_t from, uint64_t now_us) {
    struct dispatch_site *worker = dispatch_worker_find(dispatch, from);
    if (!worker) return;
    char name[DISPATCH_NAME_BYTES];
    dispatch_worker_name(dispatch, from, name);
    log_warn("worker %s says that its device is gone", name);
    note_dead(dispatch, from);
    dispatch_worker_bury(dispatch, worker, true, now_us);
}

void dispatch_worker_on_roster(struct dispatch *dispatch, const struct bus_message *message,
                               uint64_t now_us) {
    struct msg_roster roster;
    struct arena arena; /* burying sends, and sending uses dispatch's */
    arena_init(&arena, 0);
    if (msg_decode_roster(message->data, message->bytes, &arena, &roster)) {
        dispatch_drop_message(dispatch);
        arena_release(&arena);
        return;
    }
    /* First all are closed: nothing may move from one of the dead to another, and count twice. */
    for (uint32_t i = 0; i < roster.dead_count; i++) {
        note_dead(dispatch, roster.dead[i].instance);
        struct dispatch_site *worker = dispatch_worker_find(dispatch, roster.dead[i].instance);
        if (!worker) continue;
        worker->is_reaped = true;
        dispatch_worker_refresh(dispatch, worker);
    }
    for (uint32_t i = 0; i < roster.dead_count; i++) {
        struct dispatch_site *worker = dispatch_worker_find(dispatch, roster.dead[i].instance);
        if (worker) dispatch_worker_bury(dispatch, worker, true, now_us);
    }
    arena_release(&arena);
}

/* --- time -------------------------------------------------------------------------------- */

static void suspect(struct dispatch *dispatch, struct dispatch_site *worker, const char *why) {
    char name[DISPATCH_NAME_BYTES];
    dispatch_worker_name(dispatch, worker->instance, name);
    log_warn("worker %s is suspect: %s", name, why);
    metrics_add(dispatch->metrics, METRIC_SUSPECTS, 1);
    worker->is_suspect = true;
    worker->good_loads = 0;
    dispatch_worker_refresh(dispatch, worker);
}

static uint32_t ticks_of(uint32_t ms) { return (uint32_t) num_div_up(ms, 100); }

/* One counted tick of one worker; true when it is gone. */
static bool count_tick(struct dispatch *dispatch, struct dispatch_site *worker) {
    const struct dispatch_options *options = &dispatch->options;
    worker->silent_ticks++;
    if (has_work(&worker->load)) worker->still_ticks++;
    else worker->still_ticks = 0;
    bool is_gone = worker->is_leaving
                       ? worker->silent_ticks >= SUSPECT_TICKS
                       : options->gone_timeout_ms &&
                             worker->silent_ticks >= ticks_of(options->gone_timeout_ms);
    if (is_gone) return true;
    if (worker->is_suspect || !worker->has_hello) return false;
    if (options->gone_timeout_ms && worker->silent_ticks >= SUSPECT_TICKS)
        suspect(dispatch, worker, "nothing was heard of it for a second");
    else if (options->step_timeout_ms && worker->still_ticks >= ticks_of(options->step_timeout_ms))
        suspect(dispatch, worker, "its steps stand still");
    return false;
}

/* A suspect that speaks again, and steps, keeps its streams while it proves itself. */
static bool is_at_fault(const struct dispatch *dispatch, const struct dispatch_site *worker) {
    return worker->is_suspect &&
           (worker->silent_ticks > 1 ||
            worker->still_ticks >= ticks_of(dispatch->options.step_timeout_ms));
}

/* When all fell silent together it is the bus that carries nothing: whoever is the last to be
 * suspected of it is no place to move to. */
static bool is_anybody_heard(const struct dispatch *dispatch) {
    for (uint32_t i = 0; i < dispatch->worker_count; i++) {
        const struct dispatch_site *worker = dispatch->workers[i];
        if (is_open(worker) && worker->silent_ticks <= SUSPECT_TICKS / 2) return true;
    }
    return false;
}

void dispatch_worker_forgive(struct dispatch *dispatch) {
    for (uint32_t i = 0; i < dispatch->worker_count; i++) {
        struct dispatch_site *worker = dispatch->workers[i];
        uint32_t still_ticks = worker->still_ticks;
        worker->silent_ticks = worker->still_ticks = 0;
        if (!worker->is_suspect) continue;
        if (still_ticks >= ticks_of(dispatch->options.step_timeout_ms)) continue;
        worker->is_suspect = false;
        metrics_add(dispatch->metrics, METRIC_SUSPECTS_BACK, 1);
        dispatch_worker_refresh(dispatch, worker);
    }
}

void dispatch_worker_tick(struct dispatch *dispatch, uint64_t now_us) {
    for (uint32_t i = dispatch->worker_count; i--;) {
        if (i >= dispatch->worker_count) continue; /* one that was buried took another along */
        struct dispatch_site *worker = dispatch->workers[i];
        if (count_tick(dispatch, worker)) dispatch_worker_bury(dispatch, worker, true, now_us);
    }
    if (!is_anybody_heard(dispatch)) return;
    for (uint32_t i = dispatch->worker_count; i--;) {
        struct dispatch_site *worker = dispatch->workers[i];
        if (worker->work_count && is_at_fault(dispatch, worker))
            dispatch_move_works(dispatch, worker, now_us);
    }
}

void dispatch_set_tokenizer(struct dispatch *dispatch, uint64_t digest) {
    dispatch->tokenizer_digest = digest;
    for (uint32_t i = 0; i < dispatch->worker_count; i++) {
        struct dispatch_site *worker = dispatch->workers[i];
        if (!worker->has_hello) continue;
        bool was_routed = worker->is_routed;
        judge(dispatch, worker);
        dispatch_worker_refresh(dispatch, worker);
        if (worker->is_routed && !was_routed) dispatch_kv_ask(dispatch, worker, 0);
    }
}

bool dispatch_get_worker(const struct dispatch *dispatch, uint32_t index,
                         struct dispatch_worker *out) {
    if (index >= dispatch->worker_count) return false;
    const struct dispatch_site *worker = dispatch->workers[index];
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

/* --- metrics ----------------------------------------------------------------------------- */

/* The name as a label's value; a name that another worker has too is told apart by instance. */
static void make_label(const struct dispatch *dispatch, uint32_t at,
                       char out[DISPATCH_NAME_BYTES]) {
    const struct dispatch_site *worker = dispatch->workers[at];
    dispatch_worker_name(dispatch, worker->instance, out);
    for (char *c = out; *c; c++)
        if (*c == '"' || *c == '\\' || (unsigned char) *c < ' ') *c = '_';
    size_t bytes = strlen(out);
    for (uint32_t i = 0; i < dispatch->worker_count; i++)
        if (i != at && worker->hello.name[0] &&
            strcmp(dispatch->workers[i]->hello.name, worker->hello.name) == 0) {
            snprintf(out + bytes, DISPATCH_NAME_BYTES - bytes, "-%016" PRIx64, worker->instance);
            return;
        }
}

void dispatch_worker_render(const struct dispatch *dispatch, struct buf *out) {
    struct row {
        char label[DISPATCH_NAME_BYTES];
        const struct dispatch_site *worker;
    };
    uint32_t count = 0;
    struct row *rows = alloc_array(dispatch->worker_count + 1, sizeof *rows);
    struct worker_metrics_row *loads = alloc_array(dispatch->worker_count + 1, sizeof *loads);
    for (uint32_t i = 0; rows && loads && i < dispatch->worker_count; i++) {
        if (!dispatch->workers[i]->has_hello) continue;
        rows[count].worker = dispatch->workers[i];
        make_label(dispatch, i, rows[count].label);
        const struct msg_hello *hello = &rows[count].worker->hello;
        loads[count] = (struct worker_metrics_row){.name = rows[count].label,
                                                   .load = &rows[count].worker->load,
                                                   .device_bytes = hello->device_bytes,
                                                   .budget_bytes = hello->budget_bytes,
                                                   .planned_bytes = hello->planned_bytes};
        count++;
    }
    if (count) {
        buf_add_string(out, "# HELP gramme_worker_up Whether the worker takes new requests.\n"
                            "# TYPE gramme_worker_up gauge\n");
        for (uint32_t i = 0; i < count; i++)
            buf_add_format(out, "gramme_worker_up{worker=\"%s\"} %d\n", rows[i].label,
                           takes_work(rows[i].worker) && !rows[i].worker->is_suspect);
        buf_add_string(out, "# HELP gramme_worker_suspect Whether it is silent, or its steps stand "
                            "still.\n# TYPE gramme_worker_suspect gauge\n");
        for (uint32_t i = 0; i < count; i++)
            buf_add_format(out, "gramme_worker_suspect{worker=\"%s\"} %d\n", rows[i].label,
                           rows[i].worker->is_suspect);
        worker_metrics_render(loads, count, false, out);
    }
    alloc_free(rows);
    alloc_free(loads);
}
