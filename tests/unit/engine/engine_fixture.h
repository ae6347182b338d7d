/* An engine on the sim backend, and what it must answer; shared by the engine's tests. */
#ifndef GRAMME_TESTS_ENGINE_FIXTURE_H
#define GRAMME_TESTS_ENGINE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/sim/sim_backend.h"
#include "base/alloc.h"
#include "base/mem.h"
#include "engine/engine.h"

#define VOCAB 500u
#define EOS 2u
#define LEN_MAX 4096u
#define TOKENS_MAX 4096u
#define SEEN_MAX 512u

static const uint32_t eos_ids[1] = {EOS};

struct rig {
    struct backend_options backend_options;
    struct engine_options engine_options;
    struct backend *backend;
    struct mem *mem;
    struct engine *engine;
    uint64_t now_us;
};

static inline void rig_defaults(struct rig *rig) {
    *rig = (struct rig){
        .backend_options = {.rank_count = 1,
                            .block_size = 8,
                            .seat_count = 8,
                            .batched_tokens_max = 64,
                            .model_len_max = LEN_MAX},
        .engine_options = {.block_size = 8,
                           .block_count = 64,
                           .seat_count = 8,
                           .batched_tokens_max = 64,
                           .model_len_max = LEN_MAX,
                           .vocab_size = VOCAB,
                           .queue_requests_max = 100,
                           .queue_prompt_bytes_max = 1 << 20,
                           .is_chunked_prefill = true,
                           .has_prefix_cache = true,
                           .eos_ids = eos_ids,
                           .eos_count = 1},
        .now_us = 1000,
    };
}

static inline enum err rig_open(struct rig *rig) {
    struct model_spec spec = {.vocab_size = VOCAB, .weight_type = TENSOR_F32};
    struct mem_plan plan = {0};
    struct err_text text;
    struct backend_options *b = &rig->backend_options;
    const struct engine_options *o = &rig->engine_options;
    b->block_size = o->block_size;
    b->seat_count = o->seat_count;
    b->batched_tokens_max = o->batched_tokens_max;
    enum err e = sim_backend_ops.open(&spec, b, &text, &rig->backend);
    if (e) return e;
    sim_backend_ops.plan(rig->backend, 0, &plan);
    mem_plan_add(&plan, MEM_KV, o->block_count * sim_backend_ops.block_bytes(rig->backend, 0),
                 "kv");
    e = mem_create(&plan, UINT64_MAX, &text, &rig->mem);
    if (!e)
        e = sim_backend_ops.load(rig->backend, NULL, o->block_count, &rig->mem, NULL, NULL, &text);
    if (!e) e = mem_seal(rig->mem, &text);
    if (!e) e = engine_create(o, rig->backend, &rig->engine);
    return e;
}

static inline void rig_close(struct rig *rig) {
    engine_destroy(rig->engine);
    if (rig->backend) sim_backend_ops.close(rig->backend);
    mem_destroy(rig->mem);
    rig->engine = NULL;
    rig->backend = NULL;
    rig->mem = NULL;
}

/* What one choice must generate; returns how many.  *stopped: by a stop id. */
static inline uint32_t expect_tokens(const struct rig *rig, const uint32_t *prompt,
                                     uint32_t prompt_count, const struct sampling *sampling,
                                     uint32_t choice_index, uint32_t *out, bool *stopped) {
    struct sampling s = *sampling;
    uint32_t stop_ids[SAMPLING_STOP_IDS_MAX];
    memcpy(stop_ids, s.stop_ids ? s.stop_ids : stop_ids, s.stop_id_count * sizeof *stop_ids);
    if (!s.ignore_eos) stop_ids[s.stop_id_count++] = EOS;
    s.stop_ids = stop_ids;
    struct sim_text text = {0};
    for (uint32_t i = 0; i < prompt_count; i++) sim_backend_feed(&text, prompt[i]);
    uint64_t history = 0;
    uint32_t count = 0;
    *stopped = false;
    while (count < s.max_tokens && prompt_count + count < rig->engine_options.model_len_max) {
        struct sim_draw how = {
            &s, choice_index, count, VOCAB, rig->backend_options.sim_stop_period, history};
        uint32_t id = sim_backend_draw(&text, &how);
        out[count++] = id;
        history += sim_backend_history(id);
        sim_backend_feed(&text, id);
        for (uint32_t i = 0; i < s.stop_id_count; i++)
            if (id == stop_ids[i] && count > s.min_tokens) *stopped = true;
        if (*stopped) break;
    }
    return count;
}

/* What came out of one choice. */
struct seen {
    uint64_t request_id;
    uint32_t choice_index;
    uint32_t ids[TOKENS_MAX];
    uint32_t first_index; /* of ids[0]: a resumed choice does not begin at 0 */
    uint32_t count;
    enum finish_reason finish;
    enum err error;
    uint32_t cached_tokens;
    bool is_admitted;
    uint32_t prompt_next; /* prompt logprobs, contiguous from 1 */
    uint32_t logprobs;
};

struct watch {
    struct seen *seen; /* SEEN_MAX */
    uint32_t count;
    uint32_t outputs;
    bool expects_memory_errors;
};

static inline void watch_init(struct watch *watch) {
    *watch = (struct watch){.seen = calloc(SEEN_MAX, sizeof(struct seen))};
}
static inline void watch_release(struct watch *watch) { free(watch->seen); }

static inline struct seen *watch_find(struct watch *watch, uint64_t request_id, uint32_t choice) {
    for (uint32_t i = 0; i < watch->count; i++)
        if (watch->seen[i].request_id == request_id && watch->seen[i].choice_index == choice)
            return &watch->seen[i];
    assert_true(watch->count < SEEN_MAX);
    struct seen *seen = &watch->seen[watch->count++];
    *seen = (struct seen){.request_id = request_id, .choice_index = choice, .prompt_next = 1};
    return seen;
}

static inline void watch_take(struct watch *watch, const struct engine_output *outputs,
                              uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        const struct engine_output *o = &outputs[i];
        struct seen *seen = watch_find(watch, o->request_id, o->choice_index);
        watch->outputs++;
        assert_int_equal(seen->finish, FINISH_NONE); /* nothing after the end */
        if (o->is_first_of_request) {
            assert_false(seen->is_admitted);
            seen->is_admitted = true;
            seen->cached_tokens = o->cached_tokens;
        }
        if (o->prompt_logprob_count) {
            assert_int_equal(o->prompt_first, seen->prompt_next);
            seen->prompt_next += o->prompt_logprob_count;
        }
        if (o->token_id != BACKEND_NO_TOKEN) {
            if (seen->count == 0) seen->first_index = o->output_index;
            assert_int_equal(o->output_index, seen->first_index + seen->count);
            assert_true(seen->count < TOKENS_MAX);
            seen->ids[seen->count++] = o->token_id;
            if (o->has_logprob) {
                assert_int_equal(o->logprob.token_id, o->token_id);
                seen->logprobs++;
            }
        }
        seen->finish = o->finish;
        seen->error = o->error;
    }
}

static inline enum err rig_step(struct rig *rig, struct watch *watch) {
    const struct engine_output *outputs;
    uint32_t count;
    rig->now_us += 1000;
    enum err e = engine_step(rig->engine, rig->now_us, &outputs, &count);
    engine_check(rig->engine);
    if (!e) watch_take(watch, outputs, count);
    return e;
}

static inline void rig_run(struct rig *rig, struct watch *watch) {
    for (uint32_t steps = 0; !engine_is_idle(rig->engine); steps++) {
        if (steps > 100000) fail_msg("nothing ends");
        assert_int_equal(rig_step(rig, watch), ERR_OK);
    }
}

/* Every block free or cached, nothing promised. */
static inline void rig_is_whole(struct rig *rig) {
    struct engine_load load;
    engine_get_load(rig->engine, &load);
    assert_int_equal(load.blocks_free + load.blocks_cached, load.blocks_total);
    assert_int_equal(load.running_requests, 0);
    assert_int_equal(load.waiting_requests, 0);
    assert_int_equal(load.waiting_tokens, 0);
}

static inline void fill_prompt(uint32_t *prompt, uint32_t count, uint32_t seed) {
    for (uint32_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        prompt[i] = (seed >> 8) % VOCAB;
    }
}

#endif
