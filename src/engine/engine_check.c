/* engine_check - the engine's invariants, walked; see engine.h. */
#include <string.h>

#include "engine/engine_inside.h"

static void check_sequence(const struct engine *engine, const struct sequence *sequence,
                           uint64_t *promised) {
    const struct kv_table *table = &sequence->table;
    bool is_running = sequence->state == SEQUENCE_RUNNING || sequence->state == SEQUENCE_ENDING;
    CHECK(sequence->node.is_queued == (sequence->state == SEQUENCE_WAITING));
    bool is_ready = sequence->node.is_queued && sequence->node.group == SCHED_READY;
    bool has_blocks = is_running || is_ready || sequence->state == SEQUENCE_REMOTE ||
                      sequence->state == SEQUENCE_KEPT;
    CHECK(has_blocks || (table->block_count == 0 && table->promise.block_count == 0));
    CHECK(is_running || (sequence->row_count == 0 && sequence->draw_count == 0));
    CHECK(sequence->computed <= sequence->submitted);
    CHECK(sequence->submitted <= sequence->token_count + sequence->draw_count ||
          sequence->state == SEQUENCE_ENDING);
    CHECK((uint64_t) table->sealed_count * engine->options.block_size <= sequence->computed);
    for (uint32_t i = 0; i < table->block_count; i++) engine->references[table->blocks[i]]++;
    *promised += table->promise.block_count;
}

static void check_running(const struct engine *engine) {
    CHECK(engine->running_count + engine->free_seat_count == engine->options.seat_count);
    for (uint32_t i = 0; i < engine->running_count; i++) {
        const struct sequence *sequence = engine->running[i];
        CHECK(sequence->state == SEQUENCE_RUNNING || sequence->state == SEQUENCE_ENDING);
        CHECK(i == 0 || engine->running[i - 1]->age < sequence->age);
        for (uint32_t k = 0; k < i; k++) CHECK(engine->running[k]->seat != sequence->seat);
        for (uint32_t k = 0; k < engine->free_seat_count; k++)
            CHECK(engine->free_seats[k] != sequence->seat);
    }
}

/* Blocks that a sequence holds for KV from elsewhere. */
static uint32_t check_remote(const struct request *request, const struct sequence *sequence) {
    const struct kv_table *table = &sequence->table;
    if (sequence->state == SEQUENCE_KEPT) CHECK(request->kind == ENGINE_PREFILL);
    if (sequence->state != SEQUENCE_REMOTE) return 0;
    CHECK(request->kind == ENGINE_REMOTE && request->was_placed && request->quarantine);
    CHECK(sequence == &request->choices[0] && sequence->row_count == 0);
    CHECK(table->sealed_count == request->hit_count && table->block_count > request->hit_count);
    CHECK(table->block_count + table->promise.block_count == request->remote_blocks);
    return request->remote_blocks;
}

/* Quarantined blocks are used and nobody's; with the remote ones they are at most half. */
static void check_quarantine(const struct engine *engine, uint32_t remote_blocks) {
    uint32_t quarantined = 0;
    for (const struct quarantine *q = engine->quarantine; q; q = q->next) {
        quarantined += q->block_count;
        for (uint32_t i = 0; i < q->block_count; i++) {
            CHECK(engine->references[q->blocks[i]] == 0);
            engine->references[q->blocks[i]]++;
        }
    }
    CHECK(quarantined == engine->quarantined_blocks);
    CHECK(remote_blocks + quarantined == engine->remote_blocks);
    CHECK(engine->remote_blocks <= engine->options.block_count / 2);
}

void engine_check(const struct engine *engine) {
    uint64_t promised = 0, waiting_tokens = 0, queued_bytes = 0;
    uint32_t requests = 0, queued = 0, waiting = 0, running = 0, held = 0, ready = 0;
    uint32_t remote_blocks = 0;
    memset(engine->references, 0,
           ((size_t) engine->options.block_count + 1) * sizeof *engine->references);
    for (uint32_t b = 0; b <= engine->bucket_mask; b++) {
        for (const struct request *r = engine->buckets[b]; r; r = r->next_in_bucket) {
            uint32_t live = 0;
            requests++;
            queued += !r->is_admitted;
            queued_bytes += r->is_admitted ? 0 : engine_prompt_bytes(r);
            for (uint32_t i = 0; i < r->choice_count; i++) {
                const struct sequence *s = &r->choices[i];
                check_sequence(engine, s, &promised);
                bool waits = s->state == SEQUENCE_WAITING || s->state == SEQUENCE_PARKED;
                live += s->state != SEQUENCE_DONE;
                waiting += s->state == SEQUENCE_WAITING;
                ready += s->state == SEQUENCE_WAITING && s->node.group == SCHED_READY;
                held += s->state == SEQUENCE_REMOTE || s->state == SEQUENCE_KEPT;
                remote_blocks += check_remote(r, s);
                CHECK(waits ? s->awaited >= 1 && s->awaited <= s->token_count : s->awaited == 0);
                waiting_tokens += s->awaited;
                running += s->state == SEQUENCE_RUNNING || s->state == SEQUENCE_ENDING;
            }
            CHECK(live == r->live_count && live > 0);
        }
    }
    CHECK(requests == engine->request_count && queued == engine->queued_count);
    CHECK(queued_bytes == engine->queued_prompt_bytes);
    CHECK(waiting == engine->queue.count && waiting_tokens == engine->waiting_tokens);
    CHECK(running == engine->running_count);
    CHECK(held == engine->held_requests && ready == engine->ready_count);
    check_quarantine(engine, remote_blocks);
    sched_queue_check(&engine->queue);
    check_running(engine);
    kv_pool_check(engine->pool);
    struct kv_pool_counts counts;
    kv_pool_get_counts(engine->pool, &counts);
    CHECK(promised == counts.promised);
    for (uint32_t block = 1; block <= engine->options.block_count; block++)
        CHECK(engine->references[block] == kv_pool_references(engine->pool, block));
}
