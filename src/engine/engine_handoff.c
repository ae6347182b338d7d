/* engine_handoff - KV that comes from elsewhere (REMOTE) or goes there (PREFILL); see engine.h.
 *
 * Not here: who fills the blocks or fetches them, and when that is given up (worker/handoff_*).
 * The engine only sees to it that a block which someone may write to is nobody else's:
 *
 *   REMOTE, exposed --release--> REMOTE, not exposed --join or fallback--> its own blocks
 *        \--fallback, cancel--> quarantine --release--> free
 *
 * Remote sequences and the quarantine together hold at most half of the pool, so that what is
 * computed here always goes on. */
#include "base/alloc.h"
#include "base/num.h"
#include "engine/engine_inside.h"

/* --- questions -------------------------------------------------------------------------------- */

uint32_t engine_prefix_hit(const struct engine *engine, const uint32_t *tokens, uint32_t count) {
    if (!engine->options.has_prefix_cache) return 0;
    return kv_table_hits(engine->pool, tokens, count) * engine->options.block_size;
}

static uint32_t remote_blocks_max(const struct engine *engine) {
    return engine->options.block_count / 2;
}

bool engine_remote_fits(const struct engine *engine, uint32_t token_count) {
    return sched_policy_blocks(token_count, UINT32_MAX, engine->options.block_size) <=
           remote_blocks_max(engine);
}

bool engine_get_sequence(const struct engine *engine, uint64_t request_id, const uint32_t **tokens,
                         uint32_t *token_count, const uint32_t **blocks, uint32_t *block_count) {
    const struct request *request = engine_find_request(engine, request_id);
    if (!request) return false;
    const struct sequence *sequence = &request->choices[0];
    *tokens = sequence->tokens;
    *token_count = sequence->token_count;
    *blocks = sequence->table.blocks;
    *block_count = sequence->table.block_count;
    return true;
}

bool engine_holds_blocks(const struct engine *engine) {
    return engine->running_count > 0 || engine->held_requests > 0 || engine->ready_count > 0 ||
           engine->quarantine;
}

void engine_add_held_load(const struct engine *engine, struct engine_load *out) {
    out->remote_blocks = engine->remote_blocks;
    out->quarantined_blocks = engine->quarantined_blocks;
    out->held_requests = engine->held_requests;
    out->prefill_tokens = 0;
    for (uint32_t i = 0; i < engine->running_count; i++) {
        const struct sequence *sequence = engine->running[i];
        if (sequence->request->kind == ENGINE_PREFILL && !sequence->request->is_stopped)
            out->prefill_tokens += sequence->token_count - sequence->computed;
    }
}

/* --- REMOTE ----------------------------------------------------------------------------------- */

bool engine_is_unplaced(const struct request *request) {
    return request->kind == ENGINE_REMOTE && !request->was_placed;
}

bool engine_is_placing(const struct sequence *sequence) {
    return engine_is_unplaced(sequence->request) && sequence == &sequence->request->choices[0];
}

enum err engine_place(struct engine *engine, struct sequence *sequence) {
    struct request *request = sequence->request;
    uint32_t block_size = engine->options.block_size;
    uint32_t from_elsewhere = sequence->token_count - 1; /* tokens */
    uint32_t total = sched_policy_blocks(sequence->token_count, request->positions_max, block_size);
    if (total > remote_blocks_max(engine) || from_elsewhere == 0) {
        request->kind = ENGINE_GENERATE;
        return ERR_OK;
    }
    if (engine->remote_blocks + total > remote_blocks_max(engine)) {
        engine->load.half_waits++;
        return ERR_LIMIT;
    }
    if (engine_take_blocks(engine, sequence)) {
        CHECK(engine_holds_blocks(engine));
        return ERR_BUSY;
    }
    uint32_t hit_count = sequence->table.block_count;
    if (hit_count * block_size >= from_elsewhere) { /* the cache has it all */
        kv_table_release(&sequence->table, engine->pool);
        sequence->submitted = sequence->computed = 0;
        request->kind = ENGINE_GENERATE;
        return ERR_OK;
    }
    CHECK(kv_table_cover(&sequence->table, engine->pool, from_elsewhere) == ERR_OK);
    engine_leave_queue(engine, sequence);
    engine_admit_request(engine, request);
    sequence->state = SEQUENCE_REMOTE;
    request->was_placed = true;
    request->hit_count = hit_count;
    request->remote_blocks = total;
    engine->remote_blocks += total;
    engine->held_requests++;
    engine_tell_admitted(engine, sequence)->is_placed = true;
    engine->news_count++;
    return ERR_OK;
}

/* NULL unless the request lives and its first sequence waits for KV from elsewhere. */
static struct sequence *find_remote(const struct engine *engine, uint64_t request_id) {
    struct request *request = engine_find_request(engine, request_id);
    if (!request || request->choices[0].state != SEQUENCE_REMOTE) return NULL;
    return &request->choices[0];
}

/* No longer REMOTE, still with its blocks. */
static void stop_being_remote(struct engine *engine, struct sequence *sequence) {
    struct request *request = sequence->request;
    engine->is_stalled = false;
    engine->remote_blocks -= request->remote_blocks;
    engine->held_requests--;
    request->remote_blocks = 0;
}

static void quarantine(struct engine *engine, struct sequence *sequence) {
    struct request *request = sequence->request;
    struct quarantine *taken = request->quarantine;
    request->quarantine = NULL;
    taken->block_count = kv_table_detach(&sequence->table, request->hit_count, taken->blocks);
    taken->next = engine->quarantine;
    engine->quarantine = taken;
    engine->quarantined_blocks += taken->block_count;
    engine->remote_blocks += taken->block_count;
}

void engine_leave_remote(struct engine *engine, struct sequence *sequence) {
    stop_being_remote(engine, sequence);
    if (sequence->request->is_exposed) quarantine(engine, sequence);
    kv_table_release(&sequence->table, engine->pool);
    sequence->submitted = sequence->computed = 0;
}

void engine_remote_expose(struct engine *engine, uint64_t request_id) {
    struct sequence *sequence = find_remote(engine, request_id);
    if (sequence) sequence->request->is_exposed = true;
}

void engine_remote_release(struct engine *engine, uint64_t request_id) {
    struct sequence *sequence = find_remote(engine, request_id);
    if (sequence) sequence->request->is_exposed = false;
    struct quarantine **at = &engine->quarantine;
    while (*at && (*at)->request_id != request_id) at = &(*at)->next;
    struct quarantine *freed = *at;
    if (!freed) return;
    *at = freed->next;
    engine->is_stalled = false;
    engine->quarantined_blocks -= freed->block_count;
    engine->remote_blocks -= freed->block_count;
    while (freed->block_count > 0)
        kv_pool_release(engine->pool, freed->blocks[--freed->block_count]);
    alloc_free(freed);
}

/* Waits for a seat with the blocks it has; the KV of `computed` tokens is in them. */
static void wait_for_seat(struct engine *engine, struct sequence *sequence, uint32_t computed) {
    sequence->submitted = sequence->computed = computed;
    engine->ready_count++;
    engine_let_wait(engine, sequence, SCHED_READY, sequence->age);
}

void engine_remote_join(struct engine *engine, uint64_t request_id) {
    struct sequence *sequence = find_remote(engine, request_id);
    if (!sequence) return;
    CHECK(!sequence->request->is_exposed);
    uint32_t computed = sequence->token_count - 1;
    stop_being_remote(engine, sequence);
    kv_table_seal(&sequence->table, engine->pool, sequence->tokens, computed);
    wait_for_seat(engine, sequence, computed);
}

void engine_remote_fallback(struct engine *engine, uint64_t request_id) {
    struct sequence *sequence = find_remote(engine, request_id);
    if (!sequence) return;
    struct request *request = sequence->request;
    if (!request->is_exposed) {
        stop_being_remote(engine, sequence);
        wait_for_seat(engine, sequence, request->hit_count * engine->options.block_size);
        return;
    }
    engine_leave_remote(engine, sequence);
    engine_let_wait(engine, sequence, SCHED_STARTED, sequence->age);
}

/* --- PREFILL ---------------------------------------------------------------------------------- */

void engine_keep(struct engine *engine, struct sequence *sequence) {
    engine_admit_request(engine, sequence->request);
    sequence->state = SEQUENCE_KEPT;
    engine->held_requests++;
    kv_pool_forfeit(engine->pool, &sequence->table.promise);
}

void engine_leave_kept(struct engine *engine, struct sequence *sequence) {
    engine->is_stalled = false;
    engine->held_requests--;
    kv_table_release(&sequence->table, engine->pool);
    sequence->submitted = sequence->computed = 0;
}

void engine_keep_when_done(struct engine *engine, struct sequence *sequence) {
    if (sequence->state != SEQUENCE_RUNNING || sequence->row_count > 0) return;
    if (!sequence->request->is_stopped && sequence->computed < sequence->token_count) return;
    engine_give_seat_back(engine, sequence);
    engine_keep(engine, sequence);
}

void engine_prefill_stop(struct engine *engine, uint64_t request_id) {
    struct request *request = engine_find_request(engine, request_id);
    if (!request || request->kind != ENGINE_PREFILL) return;
    struct sequence *sequence = &request->choices[0];
    engine->is_stalled = false;
    request->is_stopped = true;
    if (sequence->state == SEQUENCE_WAITING) {
        engine_leave_queue(engine, sequence);
        engine_keep(engine, sequence);
    }
    engine_keep_when_done(engine, sequence);
}
