/* engine - see engine.h.
 *
 * A step: cancels and deadlines; a batch (growth, which may preempt; shares of the running; new
 * admissions) is submitted; the oldest batch is collected when the backend runs no further ahead,
 * or when there was nothing to submit.  With one batch in flight that is submit and collect; with
 * two, the batch of this step is computed while the one before is looked at, and its decode rows
 * say "the token you sampled".
 *
 * What a request needs is allocated in engine_add, what a step needs in engine_create. */
#include "engine/engine.h"

#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/num.h"
#include "engine/engine_inside.h"

#define BUCKETS_MIN 64u
#define EVENT_ROOM 8192u /* KV events kept for routers */

/* --- create, destroy -------------------------------------------------------------------------- */

static enum err create_flights(struct engine *engine) {
    uint32_t seat_count = engine->options.seat_count;
    for (uint32_t i = 0; i < FLIGHTS_MAX; i++) {
        struct flight *flight = &engine->flights[i];
        flight->rows = alloc_zero(seat_count, sizeof *flight->rows);
        flight->sequences = alloc_zero(seat_count, sizeof(struct sequence *));
        if (!flight->rows || !flight->sequences) return ERR_MEMORY;
    }
    return ERR_OK;
}

static enum err create_arrays(struct engine *engine, const struct engine_options *o) {
    uint32_t *eos_ids = alloc_array(o->eos_count, sizeof *eos_ids);
    if (eos_ids && o->eos_count) memcpy(eos_ids, o->eos_ids, o->eos_count * sizeof *eos_ids);
    engine->options.eos_ids = eos_ids;
    engine->running = alloc_zero(o->seat_count, sizeof(struct sequence *));
    engine->free_seats = alloc_array(o->seat_count, sizeof *engine->free_seats);
    engine->deals = alloc_zero(o->seat_count, sizeof *engine->deals);
    engine->buckets = alloc_zero(BUCKETS_MIN, sizeof(struct request *));
    engine->bucket_mask = BUCKETS_MIN - 1;
    /* A step tells at most one thing of each row, of each admission, and NEWS_MAX others. */
    engine->output_room = 2 * o->seat_count + NEWS_MAX;
    engine->outputs = alloc_zero(engine->output_room, sizeof *engine->outputs);
    engine->references = alloc_zero((size_t) o->block_count + 1, sizeof *engine->references);
    if (!eos_ids || !engine->running || !engine->free_seats || !engine->deals || !engine->buckets ||
        !engine->outputs || !engine->references)
        return ERR_MEMORY;
    for (uint32_t i = 0; i < o->seat_count; i++)
        engine->free_seats[engine->free_seat_count++] = o->seat_count - 1 - i;
    return create_flights(engine);
}

enum err engine_create(const struct engine_options *options, struct backend *backend,
                       struct engine **out) {
    CHECK(options->seat_count > 0 && options->batched_tokens_max > 0 && options->block_count > 0);
    CHECK(options->eos_count <= SAMPLING_STOP_IDS_MAX);
    struct engine *engine = alloc_zero(1, sizeof *engine);
    if (!engine) return ERR_MEMORY;
    engine->options = *options;
    engine->options.eos_ids = NULL;
    engine->backend = backend;
    engine->ops = backend_ops_of(backend);
    engine->flights_max = (uint32_t) num_min(FLIGHTS_MAX, engine->ops->in_flight_max(backend));
    uint32_t chunk_max = options->prefill_chunk_max ? options->prefill_chunk_max : UINT32_MAX;
    engine->limits = (struct sched_limits){
        .batched_tokens_max = options->batched_tokens_max,
        .chunk_max = (uint32_t) num_min(chunk_max, options->batched_tokens_max),
        .is_chunked = options->is_chunked_prefill,
    };
    /* More sequences than tokens a step would only wait for each other. */
    engine->running_max = (uint32_t) num_min(options->seat_count, options->batched_tokens_max);
    struct kv_pool_options pool = {.block_count = options->block_count,
                                   .block_size = options->block_size,
                                   .is_caching = options->has_prefix_cache,
                                   .event_room = EVENT_ROOM};
    enum err e = kv_pool_create(&pool, &engine->pool);
    if (!e) e = create_arrays(engine, options);
    if (e) {
        engine_destroy(engine);
        return e;
    }
    *out = engine;
    return ERR_OK;
}

void engine_destroy(struct engine *engine) {
    if (!engine) return;
    while (engine->flight_count > 0) {
        const struct result_row *rows;
        engine->flight_count--;
        if (engine->ops->collect(engine->backend, &rows)) break; /* the device is gone anyway */
    }
    for (uint32_t i = 0; engine->buckets && i <= engine->bucket_mask; i++) {
        while (engine->buckets[i]) {
            struct request *request = engine->buckets[i];
            engine->buckets[i] = request->next_in_bucket;
            engine_request_destroy(request);
        }
    }
    for (uint32_t i = 0; i < FLIGHTS_MAX; i++) {
        alloc_free(engine->flights[i].rows);
        alloc_free(engine->flights[i].sequences);
    }
    alloc_free((void *) engine->options.eos_ids);
    alloc_free(engine->running);
    alloc_free(engine->free_seats);
    alloc_free(engine->deals);
    alloc_free(engine->buckets);
    alloc_free(engine->outputs);
    alloc_free(engine->references);
    while (engine->quarantine) {
        struct quarantine *quarantine = engine->quarantine;
        engine->quarantine = quarantine->next;
        alloc_free(quarantine);
    }
    kv_pool_destroy(engine->pool);
    alloc_free(engine);
}

/* --- requests by id ------------------------------------------------------------------------- */

static struct request **bucket_of(const struct engine *engine, uint64_t id) {
    return &engine->buckets[(id * 0x9e3779b97f4a7c15u >> 32) & engine->bucket_mask];
}

struct request *engine_find_request(const struct engine *engine, uint64_t id) {
    struct request *request = *bucket_of(engine, id);
    while (request && request->id != id) request = request->next_in_bucket;
    return request;
}

static void request_insert(struct engine *engine, struct request *request) {
    struct request **bucket = bucket_of(engine, request->id);
    request->next_in_bucket = *bucket;
    *bucket = request;
    engine->request_count++;
}

/* Twice the buckets when they are full; without memory the chains only get longer. */
static void widen_buckets(struct engine *engine) {
    uint32_t old_count = engine->bucket_mask + 1;
    if (engine->request_count < old_count || old_count >= 1u << 24) return;
    struct request **old = engine->buckets;
    struct request **fresh = alloc_zero((size_t) old_count * 2, sizeof(struct request *));
    if (!fresh) return;
    engine->buckets = fresh;
    engine->bucket_mask = old_count * 2 - 1;
    engine->request_count = 0;
    for (uint32_t i = 0; i < old_count; i++) {
        while (old[i]) {
            struct request *request = old[i];
            old[i] = request->next_in_bucket;
            request_insert(engine, request);
        }
    }
    alloc_free(old);
}

static void request_free(struct engine *engine, struct request *request) {
    CHECK(request->live_count == 0 && request->running_count == 0);
    struct request **at = bucket_of(engine, request->id);
    while (*at != request) at = &(*at)->next_in_bucket;
    *at = request->next_in_bucket;
    for (at = &engine->condemned; *at && *at != request; at = &(*at)->next_condemned) continue;
    if (*at) *at = request->next_condemned;
    engine->request_count--;
    engine_request_destroy(request);
}

uint64_t engine_prompt_bytes(const struct request *request) {
    return (uint64_t) request->prompt_count * sizeof(uint32_t) * request->choice_count;
}

/* --- waiting -------------------------------------------------------------------------------- */

/* Prompt logprobs are still to be given out, by choice 0: its rows compute the whole prompt. */
static bool must_tell_prompt(const struct sequence *sequence) {
    const struct request *request = sequence->request;
    return sequence == &request->choices[0] && request->prompt_told < request->prompt_count;
}

/* A running sequence has its prompt computed: the others may share it. */
static bool has_prompt(const struct sequence *sequence) {
    return sequence->state == SEQUENCE_RUNNING &&
           sequence->computed >= sequence->request->prompt_count;
}

/* Whose prompt the sequence shares when it starts; NULL: it computes its own. */
static struct sequence *find_source(const struct sequence *sequence) {
    const struct request *request = sequence->request;
    if (must_tell_prompt(sequence)) return NULL;
    for (uint32_t i = 0; i < request->choice_count; i++)
        if (has_prompt(&request->choices[i])) return &request->choices[i];
    return NULL;
}

/* What it will have to compute, as far as is known: what the cache has shows when it starts. */
static void count_waiting(struct engine *engine, struct sequence *sequence) {
    uint32_t there = sequence->submitted;
    if (sequence->state == SEQUENCE_PARKED || find_source(sequence))
        there = sequence->request->prompt_count - 1;
    engine->waiting_tokens -= sequence->awaited;
    sequence->awaited = sequence->token_count - there;
    engine->waiting_tokens += sequence->awaited;
}

void engine_let_wait(struct engine *engine, struct sequence *sequence, enum sched_class group,
                     uint64_t order) {
    sequence->state = SEQUENCE_WAITING;
    sched_queue_push(&engine->queue, &sequence->node, group, order);
    count_waiting(engine, sequence);
}

/* Whoever leaves the queue, or the parked ones, for good or to run. */
void engine_leave_queue(struct engine *engine, struct sequence *sequence) {
    if (sequence->node.is_queued) sched_queue_remove(&engine->queue, &sequence->node);
    engine->waiting_tokens -= sequence->awaited;
    sequence->awaited = 0;
}

enum err engine_add(struct engine *engine, const struct engine_request *from,
                    struct err_text *text) {
    CHECK(!engine_find_request(engine, from->id));
    const struct engine_options *o = &engine->options;
    if (!from->goes_first && engine->queued_count >= o->queue_requests_max)
        return err_set(text, ERR_BUSY, "%u requests wait already", engine->queued_count);
    struct request *request;
    enum err e = engine_request_create(o, from, text, &request);
    if (e) return e;
    if (!from->goes_first && engine->queued_count > 0 &&
        engine->queued_prompt_bytes + engine_prompt_bytes(request) > o->queue_prompt_bytes_max) {
        engine_request_destroy(request);
        return err_set(text, ERR_BUSY, "the waiting prompts hold %llu bytes already",
                       (unsigned long long) engine->queued_prompt_bytes);
    }
    engine->is_stalled = false;
    widen_buckets(engine);
    request_insert(engine, request);
    request->next_fresh = engine->fresh;
    engine->fresh = request;
    engine->queued_count++;
    engine->queued_prompt_bytes += engine_prompt_bytes(request);
    for (uint32_t i = 1; i < request->choice_count; i++)
        count_waiting(engine, &request->choices[i]);
    if (request->deadline_us &&
        (!engine->deadline_next_us || request->deadline_us < engine->deadline_next_us))
        engine->deadline_next_us = request->deadline_us;
    engine_let_wait(engine, &request->choices[0], from->goes_first ? SCHED_FIRST : SCHED_NEW,
                    ++engine->add_order);
    return ERR_OK;
}

static void list_condemned(struct engine *engine, struct request *request) {
    engine->is_stalled = false;
    if (request->is_condemned) return;
    request->is_condemned = true;
    request->next_condemned = engine->condemned;
    engine->condemned = request;
}

static void condemn(struct engine *engine, struct request *request, enum finish_reason reason,
                    enum err error) {
    if (request->condemned_for != FINISH_NONE) return;
    request->condemned_for = reason;
    request->condemned_error = error;
    list_condemned(engine, request);
}

void engine_cancel(struct engine *engine, uint64_t request_id) {
    struct request *request = engine_find_request(engine, request_id);
    if (request) condemn(engine, request, FINISH_CANCELLED, ERR_OK);
}

void engine_cancel_choice(struct engine *engine, uint64_t request_id, uint32_t choice_index) {
    struct request *request = engine_find_request(engine, request_id);
    if (!request) return;
    for (uint32_t i = 0; i < request->choice_count; i++)
        if (request->choices[i].choice_index == choice_index)
            request->choices[i].is_unwanted = true;
    list_condemned(engine, request);
}

/* --- outputs --------------------------------------------------------------------------------- */

static struct engine_output *output_add(struct engine *engine, const struct sequence *sequence) {
    CHECK(engine->output_count < engine->output_room);
    struct engine_output *output = &engine->outputs[engine->output_count++];
    /* The logprob's arrays are left as they are: has_logprob tells. */
    output->request_id = sequence->request->id;
    output->choice_index = sequence->choice_index;
    output->output_index = sequence_output_count(sequence);
    output->token_id = BACKEND_NO_TOKEN;
    output->has_logprob = false;
    output->finish = FINISH_NONE;
    output->stop_id = 0;
    output->error = ERR_OK;
    output->cached_tokens = 0;
    output->is_first_of_request = output->is_placed = false;
    output->computed_tokens = 0;
    output->prompt_logprobs = NULL;
    output->prompt_first = output->prompt_logprob_count = 0;
    output->queue_us = 0;
    return output;
}

/* The request leaves the queue's count; its choices get their ages. */
void engine_admit_request(struct engine *engine, struct request *request) {
    if (request->is_admitted) return;
    request->is_admitted = true;
    request->age = engine->age_next;
    engine->age_next += request->choice_count;
    for (uint32_t i = 0; i < request->choice_count; i++) request->choices[i].age = request->age + i;
    engine->queued_count--;
    engine->queued_prompt_bytes -= engine_prompt_bytes(request);
}

/* Lets the parked choices go on: all when there is a prompt to share, else one to compute it. */
static void request_unpark(struct engine *engine, struct request *request) {
    bool has_source = false, has_worker = false;
    for (uint32_t i = 0; i < request->choice_count; i++) {
        const struct sequence *choice = &request->choices[i];
        has_source |= has_prompt(choice);
        has_worker |= choice->state == SEQUENCE_WAITING || choice->state == SEQUENCE_RUNNING ||
                      choice->state == SEQUENCE_REMOTE;
    }
    if (!has_source && has_worker) return;
    for (uint32_t i = 0; i < request->choice_count; i++) {
        struct sequence *choice = &request->choices[i];
        if (choice->state != SEQUENCE_PARKED) continue;
        engine_let_wait(engine, choice, SCHED_STARTED, choice->age);
        if (!has_source) return;
    }
}

/* --- seats and running ---------------------------------------------------------------------- */

static void running_insert(struct engine *engine, struct sequence *sequence) {
    CHECK(engine->running_count < engine->options.seat_count);
    uint32_t at = engine->running_count++;
    for (; at > 0 && engine->running[at - 1]->age > sequence->age; at--)
        engine->running[at] = engine->running[at - 1];
    engine->running[at] = sequence;
    if (sequence->request->running_count++ == 0) engine->running_requests++;
}

static void running_remove(struct engine *engine, struct sequence *sequence) {
    uint32_t at = 0;
    while (engine->running[at] != sequence) at++;
    engine->running_count--;
    memmove(&engine->running[at], &engine->running[at + 1],
            (engine->running_count - at) * sizeof(struct sequence *));
    if (--sequence->request->running_count == 0) engine->running_requests--;
}

/* The seat goes back; no row of the sequence may be under way. */
void engine_give_seat_back(struct engine *engine, struct sequence *sequence) {
    CHECK(sequence->row_count == 0);
    engine->ops->seat_clear(engine->backend, sequence->seat);
    engine->free_seats[engine->free_seat_count++] = sequence->seat;
    running_remove(engine, sequence);
}

static void give_blocks_back(struct engine *engine, struct sequence *sequence) {
    kv_table_release(&sequence->table, engine->pool);
    sequence->submitted = sequence->computed = 0;
}

static void sequence_vacate(struct engine *engine, struct sequence *sequence) {
    engine_give_seat_back(engine, sequence);
    give_blocks_back(engine, sequence);
}

static void sequence_end(struct engine *engine, struct sequence *sequence) {
    struct request *request = sequence->request;
    sequence->state = SEQUENCE_DONE;
    if (--request->live_count > 0) request_unpark(engine, request);
    else request_free(engine, request);
}

/* It waits with its blocks, for a seat alone. */
static bool is_ready(const struct sequence *sequence) {
    return sequence->node.is_queued && sequence->node.group == SCHED_READY;
}

/* Finishes a sequence in any state; `output` tells of it, and may bring its last token. */
static void sequence_finish(struct engine *engine, struct sequence *sequence,
                            struct engine_output *output, enum finish_reason reason,
                            enum err error) {
    output->finish = reason;
    output->error = error;
    switch (sequence->state) {
    case SEQUENCE_PARKED:
    case SEQUENCE_WAITING:
        engine->ready_count -= is_ready(sequence);
        engine_leave_queue(engine, sequence);
        engine_admit_request(engine, sequence->request);
        give_blocks_back(engine, sequence);
        break;
    case SEQUENCE_REMOTE: engine_leave_remote(engine, sequence); break;
    case SEQUENCE_KEPT: engine_leave_kept(engine, sequence); break;
    case SEQUENCE_RUNNING:
        sequence->state = SEQUENCE_ENDING;
        if (sequence->row_count > 0) return;
        sequence_vacate(engine, sequence);
        break;
    case SEQUENCE_ENDING:
    case SEQUENCE_DONE: CHECK(false);
    }
    sequence_end(engine, sequence);
}

static bool is_live(const struct sequence *sequence) {
    return sequence->state != SEQUENCE_ENDING && sequence->state != SEQUENCE_DONE;
}

/* Tells of a sequence's end beside the rows; false: this step has told enough. */
static bool tell_end(struct engine *engine, struct sequence *sequence, enum finish_reason reason,
                     enum err error) {
    if (engine->news_count >= NEWS_MAX) return false;
    engine->news_count++;
    struct engine_output *output = output_add(engine, sequence);
    if (reason == FINISH_STOP) output->stop_id = sequence->tokens[sequence->token_count - 1];
    if (reason == FINISH_STOP || reason == FINISH_LENGTH)
        output->is_first_of_request = !sequence->request->is_admitted;
    sequence_finish(engine, sequence, output, reason, error);
    return true;
}

/* Ends all choices that live, or the unwanted ones alone; false: the rest in the next step.  The
 * last end frees the request. */
static bool end_condemned(struct engine *engine, struct request *request) {
    bool is_whole = request->condemned_for != FINISH_NONE;
    enum finish_reason reason = is_whole ? request->condemned_for : FINISH_CANCELLED;
    for (uint32_t i = request->choice_count; i-- > 0;) {
        struct sequence *choice = &request->choices[i];
        if (!is_live(choice) || (!is_whole && !choice->is_unwanted)) continue;
        bool is_last = request->live_count == 1;
        if (!tell_end(engine, choice, reason, request->condemned_error)) return false;
        if (is_last) break;
    }
    return true;
}

static void apply_condemned(struct engine *engine) {
    while (engine->condemned) {
        struct request *request = engine->condemned;
        /* Taken off first: ending its last choice frees it. */
        engine->condemned = request->next_condemned;
        request->is_condemned = false;
        if (end_condemned(engine, request)) continue;
        list_condemned(engine, request);
        return;
    }
}

static void apply_deadlines(struct engine *engine) {
    if (!engine->deadline_next_us || engine->now_us < engine->deadline_next_us) return;
    uint64_t next_us = 0;
    struct sched_node *node = sched_queue_head(&engine->queue);
    for (; node; node = sched_queue_next(&engine->queue, node)) {
        struct request *request = ((struct sequence *) node)->request;
        if (request->is_admitted || !request->deadline_us) continue;
        if (request->deadline_us <= engine->now_us)
            condemn(engine, request, FINISH_ERROR, ERR_TIMEOUT);
        else if (!next_us || request->deadline_us < next_us) next_us = request->deadline_us;
    }
    engine->deadline_next_us = next_us;
}

/* Time in the queue is counted from the first step that could have taken the request. */
static void greet_fresh(struct engine *engine) {
    for (; engine->fresh; engine->fresh = engine->fresh->next_fresh)
        engine->fresh->add_us = engine->now_us;
}

/* --- planning ------------------------------------------------------------------------------- */

static uint32_t drawn_count(const struct sequence *sequence) {
    return sequence_output_count(sequence) + sequence->draw_count;
}

/* Tokens to be computed, the one being drawn by a batch under way included. */
static uint32_t pending_count(const struct sequence *sequence) {
    const struct request *request = sequence->request;
    if (sequence->state != SEQUENCE_RUNNING || request->is_stopped) return 0;
    uint32_t pending = sequence->token_count + sequence->draw_count - sequence->submitted;
    /* The last token that may be drawn is never computed. */
    bool is_drawn_out = sequence->came_stopped || drawn_count(sequence) >= request->output_max;
    if (is_drawn_out && sequence->submitted >= request->prompt_count) return 0;
    return pending;
}

static bool is_decode(const struct sequence *sequence) {
    return pending_count(sequence) == 1 && drawn_count(sequence) > 0;
}

static void preempt(struct engine *engine, struct sequence *sequence) {
    CHECK(sequence->state == SEQUENCE_RUNNING && sequence->draw_count == 0);
    sequence_vacate(engine, sequence);
    engine_let_wait(engine, sequence, SCHED_STARTED, sequence->age);
    engine->load.preemption_count++;
}

enum growth { GROWTH_DONE, GROWTH_PREEMPTED, GROWTH_MUST_COLLECT };

/* Never a PREFILL: its blocks are being sent. */
static struct sequence *newest_to_preempt(const struct engine *engine) {
    uint32_t at = engine->running_count - 1;
    while (engine->running[at]->request->kind == ENGINE_PREFILL) at--;
    return engine->running[at];
}

/* A block for the next token of every decode, the oldest first; the newest sequence gives way. */
static enum growth grow(struct engine *engine) {
    enum growth growth = GROWTH_DONE;
    for (uint32_t i = 0; i < engine->running_count; i++) {
        struct sequence *sequence = engine->running[i];
        if (!is_decode(sequence)) continue;
        while (kv_table_cover(&sequence->table, engine->pool, sequence->submitted + 1)) {
            /* Blocks of a batch under way are not to be taken. */
            if (engine->flight_count > 0) return GROWTH_MUST_COLLECT;
            struct sequence *newest = newest_to_preempt(engine); /* at last `sequence` itself */
            preempt(engine, newest);
            growth = GROWTH_PREEMPTED;
            if (newest == sequence) break;
        }
    }
    return growth;
}

static struct flight *flight_at(struct engine *engine, uint32_t number) {
    return &engine->flights[(engine->first_flight + number) % FLIGHTS_MAX];
}

/* Adds the sequence's next `tokens` tokens to the batch. */
static void add_row(struct engine *engine, struct flight *flight, struct sequence *sequence,
                    uint32_t tokens) {
    const struct request *request = sequence->request;
    uint32_t first = sequence->submitted, length = sequence->token_count + sequence->draw_count;
    bool wants_told = must_tell_prompt(sequence);
    /* Rows with prompt logprobs end with the prompt. */
    if (wants_told && first < request->prompt_count)
        tokens = (uint32_t) num_min(tokens, request->prompt_count - first);
    CHECK(kv_table_cover(&sequence->table, engine->pool, first + tokens) == ERR_OK);
    bool is_known = first < sequence->token_count;
    struct batch_row *row = &flight->rows[flight->batch.row_count];
    *row = (struct batch_row){
        .seat = sequence->seat,
        .token_count = tokens,
        .tokens = is_known ? sequence->tokens + first : NULL,
        .first_position = first,
        .blocks = sequence->table.blocks,
        .block_count = sequence->table.block_count,
        .wants_sample = first + tokens == length && drawn_count(sequence) < request->output_max,
        .output_index = drawn_count(sequence),
        .wants_prompt_logprobs = wants_told,
        .next_tokens = wants_told ? sequence->tokens + first + 1 : NULL,
    };
    flight->sequences[flight->batch.row_count++] = sequence;
    flight->batch.token_count += tokens;
    sequence->submitted += tokens;
    sequence->draw_count += row->wants_sample;
    sequence->row_count++;
    if (first < request->prompt_count)
        engine->load.prompt_tokens += num_min(tokens, request->prompt_count - first);
}

/* --- admission ------------------------------------------------------------------------------ */

static bool is_stop(const struct request *request, uint32_t token_id) {
    for (uint32_t i = 0; i < request->sampling.stop_id_count; i++)
        if (request->sampling.stop_ids[i] == token_id) return true;
    return false;
}

/* Why a sequence that came here with nothing left to do ends; FINISH_NONE: it has. */
static enum finish_reason over_before_start(const struct sequence *sequence) {
    if (must_tell_prompt(sequence) || sequence->request->kind == ENGINE_PREFILL) return FINISH_NONE;
    if (sequence->came_stopped) return FINISH_STOP;
    bool is_full = sequence_output_count(sequence) >= sequence->request->output_max;
    return is_full ? FINISH_LENGTH : FINISH_NONE;
}

bool engine_may_read_cache(const struct engine *engine, const struct sequence *sequence) {
    const struct request *request = sequence->request;
    if (!engine->options.has_prefix_cache || request->sampling.skip_prefix_cache) return false;
    return !must_tell_prompt(sequence);
}

/* Shares the prompt's full blocks with a running choice and copies the part of a block behind
 * them; the last prompt token is computed anew, for its logits. */
static enum err take_from(struct engine *engine, struct sequence *sequence,
                          const struct sequence *source, uint32_t block_total) {
    uint32_t block_size = engine->options.block_size;
    uint32_t kept = sequence->request->prompt_count - 1;
    uint32_t shared_count = kept / block_size;
    enum err e =
        kv_table_fork(&sequence->table, engine->pool, &source->table, shared_count, block_total);
    if (e) return e;
    if (kept % block_size > 0) {
        CHECK(kv_table_cover(&sequence->table, engine->pool, kept) == ERR_OK);
        engine->ops->kv_copy(engine->backend, source->table.blocks[shared_count],
                             sequence->table.blocks[shared_count], kept % block_size);
    }
    sequence->submitted = sequence->computed = kept;
    return ERR_OK;
}

enum err engine_take_blocks(struct engine *engine, struct sequence *sequence) {
    struct request *request = sequence->request;
    uint32_t block_size = engine->options.block_size;
    uint32_t block_total =
        sched_policy_blocks(sequence->token_count, request->positions_max, block_size);
    const struct sequence *source = find_source(sequence);
    if (source) return take_from(engine, sequence, source, block_total);
    bool may_read = engine_may_read_cache(engine, sequence);
    /* A PREFILL is the prompt without its last token: all that it holds may be cached. */
    uint32_t known = sequence->token_count + (request->kind == ENGINE_PREFILL);
    enum err e = kv_table_admit(&sequence->table, engine->pool, sequence->tokens, known, may_read,
                                block_total);
    if (e) return e;
    sequence->submitted = sequence->computed = sequence->table.block_count * block_size;
    return ERR_OK;
}

static enum err take_seat(struct engine *engine, struct sequence *sequence) {
    const struct request *request = sequence->request;
    struct seat_setup setup = {
        .prompt_ids = sequence->tokens,
        .prompt_count = request->prompt_count,
        .output_ids = sequence->tokens + request->prompt_count,
        .output_count = sequence_output_count(sequence),
        .sampling = &request->sampling,
        .choice_index = sequence->choice_index,
    };
    uint32_t seat = engine->free_seats[engine->free_seat_count - 1];
    enum err e = engine->ops->seat_set(engine->backend, seat, &setup);
    if (e) return e;
    engine->free_seat_count--;
    sequence->seat = seat;
    return ERR_OK;
}

struct engine_output *engine_tell_admitted(struct engine *engine, struct sequence *sequence) {
    struct request *request = sequence->request;
    struct engine_output *output = output_add(engine, sequence);
    output->is_first_of_request = true;
    output->cached_tokens = (uint32_t) num_min(sequence->computed, request->prompt_count);
    output->queue_us = engine->now_us > request->add_us ? engine->now_us - request->add_us : 0;
    if (engine_may_read_cache(engine, sequence)) {
        engine->load.prefix_query_tokens += request->prompt_count;
        engine->load.prefix_hit_tokens += output->cached_tokens;
    }
    if (request->kind == ENGINE_PREFILL) output->computed_tokens = output->cached_tokens;
    return output;
}

/* Starts the head of the queue with at most *tokens_left tokens; false: the queue waits for a
 * later step. */
static bool admit(struct engine *engine, struct flight *flight, struct sequence *sequence,
                  uint32_t *tokens_left) {
    bool has_blocks = is_ready(sequence);
    if (!has_blocks && engine_take_blocks(engine, sequence)) {
        CHECK(engine_holds_blocks(engine)); /* alone it fits: engine_add saw to it */
        return false;
    }
    uint32_t pending = sequence->token_count - sequence->submitted;
    if (pending == 0) { /* a PREFILL, all of it cached */
        engine_leave_queue(engine, sequence);
        engine_keep(engine, sequence);
        engine_tell_admitted(engine, sequence);
        engine->news_count++;
        return true;
    }
    uint32_t tokens = sched_policy_chunk(&engine->limits, pending, *tokens_left);
    if (tokens == 0) {
        if (!has_blocks) give_blocks_back(engine, sequence);
        return false;
    }
    enum err e = take_seat(engine, sequence);
    if (e) {
        if (!has_blocks) give_blocks_back(engine, sequence);
        tell_end(engine, sequence, FINISH_ERROR, e); /* told later when this step is full */
        return false;
    }
    engine->ready_count -= has_blocks;
    engine_leave_queue(engine, sequence);
    sequence->state = SEQUENCE_RUNNING;
    bool is_first = !sequence->request->is_admitted;
    engine_admit_request(engine, sequence->request);
    running_insert(engine, sequence);
    if (is_first) engine_tell_admitted(engine, sequence);
    uint32_t before = flight->batch.token_count;
    add_row(engine, flight, sequence, tokens);
    *tokens_left -= flight->batch.token_count - before;
    return true;
}

/* The first of the queue; behind `passed`, a remote one that waits for its half of the blocks, the
 * first that is none (remote ones keep their order, and so do their further choices).  NULL:
 * nobody. */
static struct sequence *next_to_admit(const struct engine *engine, struct sched_node **passed) {
    if (!*passed) return (struct sequence *) sched_queue_head(&engine->queue);
    struct sched_node *node = sched_queue_next(&engine->queue, *passed);
    while (node && engine_is_unplaced(((struct sequence *) node)->request)) {
        *passed = node;
        node = sched_queue_next(&engine->queue, node);
    }
    return (struct sequence *) node;
}

static void admit_all(struct engine *engine, struct flight *flight, uint32_t tokens_left) {
    struct sched_node *passed = NULL;
    while (engine->news_count < NEWS_MAX) {
        struct sequence *sequence = next_to_admit(engine, &passed);
        if (!sequence) return;
        enum finish_reason over = over_before_start(sequence);
        if (over != FINISH_NONE) {
            if (!tell_end(engine, sequence, over, ERR_OK)) return;
            continue;
        }
        if (engine_is_placing(sequence)) { /* takes neither seat nor tokens */
            enum err e = engine_place(engine, sequence);
            if (e == ERR_LIMIT) passed = (struct sched_node *) sequence;
            else if (e) return;
            continue;
        }
        if (tokens_left == 0 || engine->running_count >= engine->running_max) return;
        if (!admit(engine, flight, sequence, &tokens_left)) return;
        engine->load.passed_remotes += passed != NULL;
    }
}

/* The next batch; false: nothing to compute, or the blocks under way are needed first. */
static bool plan_batch(struct engine *engine) {
    enum growth growth = grow(engine);
    if (growth == GROWTH_MUST_COLLECT) return false;
    struct flight *flight = flight_at(engine, engine->flight_count);
    flight->batch = (struct batch){.rows = flight->rows};
    uint32_t row_count = engine->running_count;
    for (uint32_t i = 0; i < row_count; i++)
        engine->deals[i] = (struct sched_row){.pending_tokens = pending_count(engine->running[i]),
                                              .is_decode = is_decode(engine->running[i])};
    uint32_t left = sched_policy_deal(&engine->limits, engine->deals, row_count);
    for (uint32_t i = 0; i < row_count; i++)
        if (engine->deals[i].tokens > 0)
            add_row(engine, flight, engine->running[i], engine->deals[i].tokens);
    /* What was preempted just now would be the first to come back. */
    if (growth == GROWTH_DONE) admit_all(engine, flight, left);
    return flight->batch.row_count > 0;
}

/* --- results -------------------------------------------------------------------------------- */

static void tell_prompt(struct request *request, const struct batch_row *row,
                        const struct result_row *result, struct engine_output *output) {
    uint32_t first = row->first_position + 1; /* the row at p tells of the token at p + 1 */
    uint32_t end = (uint32_t) num_min((uint64_t) row->first_position + row->token_count + 1,
                                      request->prompt_count);
    if (end <= request->prompt_told) return; /* computed again after a preemption */
    uint32_t told = request->prompt_told;
    output->prompt_logprobs = result->prompt_logprobs + (told - first);
    output->prompt_first = told;
    output->prompt_logprob_count = end - told;
    request->prompt_told = end;
}

/* The drawn token joins the sequence; whether it was the last. */
static enum finish_reason take_token(struct engine *engine, struct sequence *sequence,
                                     const struct result_row *result,
                                     struct engine_output *output) {
    const struct request *request = sequence->request;
    uint32_t token_id = result->token_id;
    CHECK(token_id < engine->options.vocab_size);
    output->output_index = sequence_output_count(sequence);
    output->token_id = token_id;
    if (request->sampling.logprobs >= 0) {
        output->has_logprob = true;
        output->logprob = result->logprob;
    }
    sequence->tokens[sequence->token_count++] = token_id;
    engine->load.generation_tokens++;
    if (is_stop(request, token_id) &&
        sequence_output_count(sequence) > request->sampling.min_tokens) {
        output->stop_id = token_id;
        return FINISH_STOP;
    }
    return sequence_output_count(sequence) >= request->output_max ? FINISH_LENGTH : FINISH_NONE;
}

static void take_result(struct engine *engine, struct sequence *sequence,
                        const struct batch_row *row, const struct result_row *result) {
    struct request *request = sequence->request;
    sequence->row_count--;
    sequence->draw_count -= row->wants_sample;
    if (sequence->state == SEQUENCE_ENDING) { /* an overshoot: dropped, its slot never sealed */
        if (sequence->row_count > 0) return;
        sequence_vacate(engine, sequence);
        sequence_end(engine, sequence);
        return;
    }
    struct engine_output *output = output_add(engine, sequence);
    if (result->error) {
        sequence_finish(engine, sequence, output, FINISH_ERROR, result->error);
        return;
    }
    bool had_prompt = has_prompt(sequence);
    sequence->computed = row->first_position + row->token_count;
    if (row->wants_prompt_logprobs) tell_prompt(request, row, result, output);
    enum finish_reason finish = FINISH_NONE;
    if (row->wants_sample) finish = take_token(engine, sequence, result, output);
    else if (sequence->computed >= request->prompt_count) finish = over_before_start(sequence);
    if (finish == FINISH_STOP && !row->wants_sample)
        output->stop_id = sequence->tokens[sequence->token_count - 1];
    kv_table_seal(&sequence->table, engine->pool, sequence->tokens, sequence->computed);
    if (!had_prompt && has_prompt(sequence)) request_unpark(engine, request);
    if (request->kind == ENGINE_PREFILL) {
        output->computed_tokens = sequence->computed;
        engine_keep_when_done(engine, sequence);
        return;
    }
    if (finish != FINISH_NONE) sequence_finish(engine, sequence, output, finish, ERR_OK);
    else if (!row->wants_sample && output->prompt_logprob_count == 0) engine->output_count--;
}

static enum err collect(struct engine *engine) {
    struct flight *flight = flight_at(engine, 0);
    const struct result_row *results;
    enum err e = engine->ops->collect(engine->backend, &results);
    engine->first_flight = (engine->first_flight + 1) % FLIGHTS_MAX;
    engine->flight_count--;
    if (e) return e;
    for (uint32_t i = 0; i < flight->batch.row_count; i++)
        take_result(engine, flight->sequences[i], &flight->rows[i], &results[i]);
    engine->load.step_count++;
    engine->load.last_step_tokens = flight->batch.token_count;
    return ERR_OK;
}

enum err engine_step(struct engine *engine, uint64_t now_us, const struct engine_output **outputs,
                     uint32_t *output_count) {
    uint64_t start_us = clock_now_us();
    engine->now_us = now_us;
    engine->output_count = engine->news_count = 0;
    uint64_t preemptions_before = engine->load.preemption_count;
    greet_fresh(engine);
    apply_deadlines(engine);
    apply_condemned(engine);
    bool is_submitted = engine->flight_count < engine->flights_max && plan_batch(engine);
    if (is_submitted)
        engine->ops->submit(engine->backend, &flight_at(engine, engine->flight_count++)->batch);
    enum err e = ERR_OK;
    engine->is_stalled = engine->flight_count == 0 && engine->output_count == 0 &&
                         engine->load.preemption_count == preemptions_before;
    if (engine->flight_count == engine->flights_max ||
        (engine->flight_count > 0 && !is_submitted)) {
        e = collect(engine);
        engine->load.step_us = clock_now_us() - start_us;
    }
    /* Whoever looks at the counter sees that a worker that waits for others is alive. */
    if (engine->is_stalled) engine->load.step_count++;
    *outputs = engine->outputs;
    *output_count = engine->output_count;
    return e;
}

/* --- seen from outside ---------------------------------------------------------------------- */

bool engine_is_idle(const struct engine *engine) {
    return engine->request_count == 0 && engine->flight_count == 0;
}

bool engine_has_work(const struct engine *engine) {
    return !engine_is_idle(engine) && !engine->is_stalled;
}

void engine_get_load(const struct engine *engine, struct engine_load *out) {
    struct kv_pool_counts counts;
    kv_pool_get_counts(engine->pool, &counts);
    *out = engine->load;
    out->blocks_total = counts.total;
    out->blocks_free = counts.free;
    out->blocks_cached = counts.cached;
    engine_add_held_load(engine, out);
    out->running_requests = engine->running_requests + out->held_requests;
    out->waiting_requests = engine->request_count - out->running_requests;
    out->waiting_tokens = engine->waiting_tokens;
    out->running_tokens = 0;
    for (uint32_t i = 0; i < engine->running_count; i++)
        out->running_tokens += engine->running[i]->computed;
}

const struct kv_index *engine_kv_index(const struct engine *engine) {
    return kv_pool_index(engine->pool);
}
