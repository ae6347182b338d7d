/* Goal: what a prefill engine (P) computed and someone copied goes on in a decode engine (D) with
 * the very same tokens; whatever falls back, is cancelled or quarantined between, no block that
 * someone may still write to is anyone's, remote ones hold at most half, and all come back. */
#include "engine_fixture.h"

/* --- P and D ---------------------------------------------------------------------------------- */

static void open_pair(struct rig *p, struct rig *d) {
    if (rig_open(p) || rig_open(d)) fail_msg("a rig does not open");
}

static uint8_t *block_at(const struct rig *rig, uint32_t block, uint64_t *bytes) {
    struct kv_layout layout;
    sim_backend_ops.kv_layout(rig->backend, 0, &layout);
    *bytes = layout.block_bytes;
    return layout.base + block * layout.block_stride;
}

static void copy_block(const struct rig *p, uint32_t from, const struct rig *d, uint32_t to) {
    uint64_t bytes;
    uint8_t *target = block_at(d, to, &bytes);
    memcpy(target, block_at(p, from, &bytes), bytes);
}

/* What a stale sender would do. */
static void scribble(const struct rig *d, uint32_t block) {
    uint64_t bytes;
    uint8_t *target = block_at(d, block, &bytes);
    memset(target, 0xa5, bytes);
}

static enum err add(struct rig *rig, enum engine_kind kind, uint64_t id, const uint32_t *prompt,
                    uint32_t prompt_count, uint32_t choice_count, const struct sampling *sampling) {
    struct engine_choice choices[8];
    struct err_text text = {""};
    for (uint32_t i = 0; i < choice_count; i++) choices[i] = (struct engine_choice){.index = i};
    struct engine_request request = {.kind = kind,
                                     .id = id,
                                     .prompt_ids = prompt,
                                     .prompt_count = prompt_count,
                                     .choices = choices,
                                     .choice_count = choice_count,
                                     .sampling = sampling};
    return engine_add(rig->engine, &request, &text);
}

static void must_add(struct rig *rig, enum engine_kind kind, uint64_t id, const uint32_t *prompt,
                     uint32_t prompt_count, uint32_t choice_count,
                     const struct sampling *sampling) {
    assert_int_equal(add(rig, kind, id, prompt, prompt_count, choice_count, sampling), ERR_OK);
}

static void expect(struct rig *rig, struct watch *watch, uint64_t id, uint32_t choice,
                   const uint32_t *prompt, uint32_t prompt_count, const struct sampling *sampling) {
    static uint32_t wanted[TOKENS_MAX];
    bool stopped;
    uint32_t count = expect_tokens(rig, prompt, prompt_count, sampling, choice, wanted, &stopped);
    struct seen *seen = watch_find(watch, id, choice);
    if (seen->count != count || memcmp(seen->ids, wanted, count * 4) != 0)
        fail_msg("request %d choice %u: %u tokens, %u wanted, or others", (int) id, choice,
                 seen->count, count);
    assert_int_equal(seen->finish, stopped ? FINISH_STOP : FINISH_LENGTH);
}

/* Steps P until `tokens` of the prompt are computed. */
static void compute(struct rig *p, uint64_t id, uint32_t tokens) {
    uint32_t computed = 0;
    for (uint32_t steps = 0; computed < tokens; steps++) {
        const struct engine_output *outputs;
        uint32_t count;
        if (steps > 10000) fail_msg("the prefill does not end");
        assert_int_equal(engine_step(p->engine, ++p->now_us, &outputs, &count), ERR_OK);
        engine_check(p->engine);
        for (uint32_t i = 0; i < count; i++) {
            if (outputs[i].request_id != id) continue; /* the end of an earlier one */
            assert_int_equal(outputs[i].finish, FINISH_NONE);
            assert_int_equal(outputs[i].token_id, BACKEND_NO_TOKEN);
            if (!outputs[i].computed_tokens) continue;
            assert_true(outputs[i].computed_tokens >= computed);
            computed = outputs[i].computed_tokens;
        }
    }
    assert_int_equal(computed, tokens);
}

static bool step_until_placed(struct rig *d, struct watch *watch, uint64_t id) {
    for (uint32_t steps = 0; steps < 200; steps++) {
        const struct engine_output *outputs;
        uint32_t count;
        bool is_placed = false;
        assert_int_equal(engine_step(d->engine, ++d->now_us, &outputs, &count), ERR_OK);
        engine_check(d->engine);
        for (uint32_t i = 0; i < count; i++)
            is_placed |= outputs[i].is_placed && outputs[i].request_id == id;
        watch_take(watch, outputs, count);
        if (is_placed) return true;
        if (!engine_has_work(d->engine)) return false;
    }
    return false;
}

static uint32_t hit_blocks(struct rig *d, struct watch *watch, uint64_t id) {
    return watch_find(watch, id, 0)->cached_tokens / d->engine_options.block_size;
}

/* All of D's pieces from P's blocks; returns how many. */
static uint32_t copy_pieces(struct rig *p, struct rig *d, struct watch *watch, uint64_t p_id,
                            uint64_t d_id) {
    const uint32_t *tokens, *from, *to;
    uint32_t token_count, from_count, to_count, first = hit_blocks(d, watch, d_id);
    assert_true(engine_get_sequence(p->engine, p_id, &tokens, &token_count, &from, &from_count));
    assert_true(engine_get_sequence(d->engine, d_id, &tokens, &token_count, &to, &to_count));
    uint32_t block_size = d->engine_options.block_size;
    assert_int_equal(to_count, (token_count - 1 + block_size - 1) / block_size);
    assert_true(from_count >= to_count);
    for (uint32_t i = first; i < to_count; i++) copy_block(p, from[i], d, to[i]);
    return to_count - first;
}

static void end_prefill(struct rig *p, uint64_t id) {
    struct watch watch;
    watch_init(&watch);
    engine_cancel(p->engine, id);
    rig_run(p, &watch);
    rig_is_whole(p);
    watch_release(&watch);
}

/* --- one handoff ------------------------------------------------------------------------------ */

struct pair {
    struct rig p, d;
    struct watch watch;
    struct sampling sampling;
    uint32_t prompt[400];
};

static void pair_open(struct pair *pair, uint32_t chunk) {
    rig_defaults(&pair->p);
    rig_defaults(&pair->d);
    pair->p.engine_options.prefill_chunk_max = chunk;
    open_pair(&pair->p, &pair->d);
    watch_init(&pair->watch);
    sampling_init(&pair->sampling);
    fill_prompt(pair->prompt, 400, 5);
}

static void pair_close(struct pair *pair) {
    watch_release(&pair->watch);
    rig_close(&pair->p);
    rig_close(&pair->d);
}

static void test_lengths(void **state) {
    for (uint32_t n = 2; n < 60; n++) {
        for (uint32_t choices = 1; choices <= 3; choices += 2) {
            struct pair pair;
            pair_open(&pair, 1 + n % 11);
            must_add(&pair.p, ENGINE_PREFILL, 1, pair.prompt, n, 1, NULL);
            must_add(&pair.d, ENGINE_REMOTE, 2, pair.prompt, n, choices, &pair.sampling);
            assert_true(step_until_placed(&pair.d, &pair.watch, 2));
            engine_remote_expose(pair.d.engine, 2);
            assert_false(engine_is_idle(pair.d.engine));
            compute(&pair.p, 1, n - 1);
            assert_int_equal(copy_pieces(&pair.p, &pair.d, &pair.watch, 1, 2), (n - 1 + 7) / 8);
            engine_remote_release(pair.d.engine, 2);
            engine_remote_join(pair.d.engine, 2);
            engine_check(pair.d.engine);
            rig_run(&pair.d, &pair.watch);
            for (uint32_t c = 0; c < choices; c++)
                expect(&pair.d, &pair.watch, 2, c, pair.prompt, n, &pair.sampling);
            struct engine_load load;
            engine_get_load(pair.d.engine, &load);
            /* Only the last prompt token was computed here, once a choice. */
            assert_int_equal(load.prompt_tokens, choices);
            rig_is_whole(&pair.d);
            end_prefill(&pair.p, 1);
            pair_close(&pair);
        }
    }
}

/* The second of two equal prompts: both sides have its full blocks already. */
static void test_prefix_on_both_sides(void **state) {
    struct pair pair;
    pair_open(&pair, 16);
    for (uint64_t round = 0; round < 2; round++) {
        uint32_t n = round ? 61 : 37; /* 36 = 4 full blocks and a half; 60 = 7 and a half */
        must_add(&pair.p, ENGINE_PREFILL, 10 + round, pair.prompt, n, 1, NULL);
        must_add(&pair.d, ENGINE_REMOTE, 20 + round, pair.prompt, n, 1, &pair.sampling);
        assert_true(step_until_placed(&pair.d, &pair.watch, 20 + round));
        compute(&pair.p, 10 + round, n - 1);
        uint32_t sent = copy_pieces(&pair.p, &pair.d, &pair.watch, 10 + round, 20 + round);
        assert_int_equal(sent, round ? 4 : 5);
        engine_remote_join(pair.d.engine, 20 + round);
        rig_run(&pair.d, &pair.watch);
        expect(&pair.d, &pair.watch, 20 + round, 0, pair.prompt, n, &pair.sampling);
        end_prefill(&pair.p, 10 + round);
    }
    assert_int_equal(engine_prefix_hit(pair.d.engine, pair.prompt, 61), 56);
    assert_int_equal(engine_prefix_hit(pair.d.engine, pair.prompt, 57), 56);
    assert_int_equal(engine_prefix_hit(pair.d.engine, pair.prompt, 56), 48);
    assert_int_equal(engine_prefix_hit(pair.d.engine, pair.prompt, 0), 0);
    /* All in P's cache: computed at once.  All in D's: nothing to wait for. */
    must_add(&pair.p, ENGINE_PREFILL, 12, pair.prompt, 57, 1, NULL);
    compute(&pair.p, 12, 56);
    end_prefill(&pair.p, 12);
    must_add(&pair.d, ENGINE_REMOTE, 22, pair.prompt, 57, 1, &pair.sampling);
    assert_false(step_until_placed(&pair.d, &pair.watch, 22));
    rig_run(&pair.d, &pair.watch);
    expect(&pair.d, &pair.watch, 22, 0, pair.prompt, 57, &pair.sampling);
    pair_close(&pair);
}

/* --- what goes wrong -------------------------------------------------------------------------- */

/* Falls back or is cancelled, exposed or not; a stale writer ruins what was exposed. */
static void test_fallback_and_cancel(void **state) {
    for (unsigned kind = 0; kind < 4; kind++) {
        bool is_exposed = kind & 1, is_cancelled = kind & 2;
        struct pair pair;
        const uint32_t *tokens, *blocks;
        uint32_t token_count, block_count, exposed[64];
        struct engine_load load;
        pair_open(&pair, 16);
        must_add(&pair.d, ENGINE_REMOTE, 2, pair.prompt, 100, 2, &pair.sampling);
        assert_true(step_until_placed(&pair.d, &pair.watch, 2));
        if (is_exposed) engine_remote_expose(pair.d.engine, 2);
        assert_true(
            engine_get_sequence(pair.d.engine, 2, &tokens, &token_count, &blocks, &block_count));
        assert_int_equal(block_count, 13);
        memcpy(exposed, blocks, block_count * sizeof *blocks);
        assert_int_equal(rig_step(&pair.d, &pair.watch), ERR_OK);
        assert_false(engine_has_work(pair.d.engine));
        if (is_cancelled) engine_cancel(pair.d.engine, 2);
        else engine_remote_fallback(pair.d.engine, 2);
        assert_true(engine_has_work(pair.d.engine));
        while (engine_has_work(pair.d.engine)) {
            for (uint32_t i = 0; is_exposed && i < block_count; i++) scribble(&pair.d, exposed[i]);
            assert_int_equal(rig_step(&pair.d, &pair.watch), ERR_OK);
        }
        assert_true(engine_is_idle(pair.d.engine));
        for (uint32_t c = 0; c < 2; c++) {
            if (!is_cancelled) expect(&pair.d, &pair.watch, 2, c, pair.prompt, 100, &pair.sampling);
            else assert_int_equal(watch_find(&pair.watch, 2, c)->finish, FINISH_CANCELLED);
        }
        engine_get_load(pair.d.engine, &load);
        assert_int_equal(load.quarantined_blocks, is_exposed ? 13 : 0);
        assert_int_equal(load.blocks_free + load.blocks_cached + load.quarantined_blocks,
                         load.blocks_total);
        engine_remote_release(pair.d.engine, 2);
        engine_check(pair.d.engine);
        rig_is_whole(&pair.d);
        engine_remote_release(pair.d.engine, 2); /* twice is no error */
        pair_close(&pair);
    }
}

/* Released between the cancel and the step that carries it out: nothing is quarantined. */
static void test_released_before_cancel_is_done(void **state) {
    struct pair pair;
    pair_open(&pair, 16);
    must_add(&pair.d, ENGINE_REMOTE, 2, pair.prompt, 100, 1, &pair.sampling);
    assert_true(step_until_placed(&pair.d, &pair.watch, 2));
    engine_remote_expose(pair.d.engine, 2);
    engine_cancel(pair.d.engine, 2);
    engine_remote_release(pair.d.engine, 2);
    rig_run(&pair.d, &pair.watch);
    rig_is_whole(&pair.d);
    pair_close(&pair);
}

/* 64 blocks: two prompts of 13 and 14 blocks are placed, a third one waits for one of them; one
 * that passes the half alone is computed here. */
static void test_half_of_the_blocks(void **state) {
    struct pair pair;
    struct engine_load load;
    pair_open(&pair, 16);
    assert_true(engine_remote_fits(pair.d.engine, 255));
    assert_false(engine_remote_fits(pair.d.engine, 256));
    must_add(&pair.d, ENGINE_REMOTE, 1, pair.prompt, 300, 1, &pair.sampling);
    assert_false(step_until_placed(&pair.d, &pair.watch, 1));
    rig_run(&pair.d, &pair.watch);
    for (uint32_t i = 0; i < 3; i++)
        must_add(&pair.d, ENGINE_REMOTE, 2 + i, pair.prompt + 1 + i, 100, 1, &pair.sampling);
    assert_true(step_until_placed(&pair.d, &pair.watch, 3));
    assert_false(step_until_placed(&pair.d, &pair.watch, 4));
    engine_get_load(pair.d.engine, &load);
    assert_int_equal(load.remote_blocks, 26);
    assert_int_equal(load.running_requests, 2);
    assert_int_equal(load.waiting_requests, 1);
    engine_remote_expose(pair.d.engine, 2);
    engine_cancel(pair.d.engine, 2); /* still counts: quarantined */
    assert_false(step_until_placed(&pair.d, &pair.watch, 4));
    engine_remote_release(pair.d.engine, 2);
    assert_true(step_until_placed(&pair.d, &pair.watch, 4));
    engine_remote_fallback(pair.d.engine, 3);
    engine_remote_fallback(pair.d.engine, 4);
    rig_run(&pair.d, &pair.watch);
    for (uint32_t i = 1; i < 3; i++)
        expect(&pair.d, &pair.watch, 2 + i, 0, pair.prompt + 1 + i, 100, &pair.sampling);
    rig_is_whole(&pair.d);
    pair_close(&pair);
}

/* A remote prompt that waits for its half holds up no local one behind it, and none passes it once
 * it has its half; remote ones keep their order among themselves. */
static void test_local_ones_pass(void **state) {
    struct pair pair;
    struct engine_load load;
    pair_open(&pair, 16);
    for (uint32_t i = 0; i < 4; i++)
        must_add(&pair.d, ENGINE_REMOTE, 1 + i, pair.prompt + 1 + i, i == 3 ? 20 : 100, 1 + i % 3,
                 &pair.sampling);
    must_add(&pair.d, ENGINE_GENERATE, 5, pair.prompt + 50, 40, 2, &pair.sampling);
    assert_true(step_until_placed(&pair.d, &pair.watch, 2));
    assert_false(step_until_placed(&pair.d, &pair.watch, 4)); /* until nothing more can be done */
    expect(&pair.d, &pair.watch, 5, 0, pair.prompt + 50, 40, &pair.sampling);
    expect(&pair.d, &pair.watch, 5, 1, pair.prompt + 50, 40, &pair.sampling);
    engine_get_load(pair.d.engine, &load);
    assert_int_equal(load.passed_remotes, 1);
    assert_int_equal(load.waiting_requests, 2); /* the small remote one does not pass either */
    engine_remote_fallback(pair.d.engine, 1);
    assert_true(step_until_placed(&pair.d, &pair.watch, 3));
    for (uint32_t i = 1; i < 4; i++) engine_remote_fallback(pair.d.engine, 1 + i);
    rig_run(&pair.d, &pair.watch);
    for (uint32_t i = 0; i < 4; i++)
        expect(&pair.d, &pair.watch, 1 + i, 0, pair.prompt + 1 + i, i == 3 ? 20 : 100,
               &pair.sampling);
    rig_is_whole(&pair.d);
    pair_close(&pair);
}

/* Stopped while it waits, is under way, is computed. */
static void test_prefill_stop(void **state) {
    for (uint32_t depth = 1; depth <= 2; depth++) {
        for (uint32_t steps = 0; steps < 12; steps++) {
            struct pair pair;
            const struct engine_output *outputs;
            uint32_t count;
            rig_defaults(&pair.p);
            pair.p.backend_options.sim_in_flight_max = depth;
            pair.p.engine_options.prefill_chunk_max = 16;
            assert_int_equal(rig_open(&pair.p), ERR_OK);
            fill_prompt(pair.prompt, 400, 5);
            must_add(&pair.p, ENGINE_PREFILL, 1, pair.prompt, 100, 1, NULL);
            for (uint32_t i = 0; i < steps; i++)
                assert_int_equal(engine_step(pair.p.engine, ++pair.p.now_us, &outputs, &count),
                                 ERR_OK);
            engine_prefill_stop(pair.p.engine, 1);
            engine_check(pair.p.engine);
            for (uint32_t i = 0; i < 8 && engine_has_work(pair.p.engine); i++)
                assert_int_equal(engine_step(pair.p.engine, ++pair.p.now_us, &outputs, &count),
                                 ERR_OK);
            assert_false(engine_has_work(pair.p.engine));
            struct engine_load load;
            engine_get_load(pair.p.engine, &load);
            assert_int_equal(load.prefill_tokens, 0);
            assert_int_equal(load.running_requests, 1);
            end_prefill(&pair.p, 1);
            rig_close(&pair.p);
        }
    }
}

static void test_refused(void **state) {
    struct pair pair;
    pair_open(&pair, 16);
    assert_int_equal(add(&pair.p, ENGINE_PREFILL, 1, pair.prompt, 1, 1, NULL), ERR_USAGE);
    assert_int_equal(add(&pair.p, ENGINE_PREFILL, 1, pair.prompt, 0, 1, NULL), ERR_USAGE);
    assert_true(engine_is_idle(pair.p.engine));
    for (unsigned kind = ENGINE_PREFILL; kind <= ENGINE_REMOTE; kind++) {
        const struct sampling *sampling = kind == ENGINE_REMOTE ? &pair.sampling : NULL;
        enum err e = ERR_MEMORY;
        uint64_t n = 1;
        for (; e && n < 50; n++) {
            alloc_fail_at(n, 0);
            e = add(&pair.p, (enum engine_kind) kind, n, pair.prompt, 50, 1, sampling);
            alloc_fail_at(0, 0);
            engine_check(pair.p.engine);
        }
        assert_true(!e && n > (kind == ENGINE_REMOTE ? 3u : 2u));
        engine_cancel(pair.p.engine, n - 1);
        rig_run(&pair.p, &pair.watch);
    }
    rig_is_whole(&pair.p);
    pair_close(&pair);
}

/* --- at random -------------------------------------------------------------------------------- */

#define WORKS 40u

struct work {
    enum { LATER, QUEUED, PLACED, OVER } state;
    bool is_exposed, is_cancelled, is_computed;
    uint32_t prompt[120], prompt_count, choice_count;
    struct sampling sampling;
    uint32_t blocks[32], block_count; /* exposed ones */
};

static uint32_t random_state;
static uint32_t below(uint32_t n) {
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % n;
}

/* The fate of a placed one: joined, fallen back, cancelled; exposed ones are released later. */
static void decide(struct rig *p, struct rig *d, struct watch *watch, struct work *work,
                   uint64_t id) {
    const uint32_t *tokens, *blocks;
    uint32_t token_count, block_count, hits = hit_blocks(d, watch, id);
    if (!work->is_exposed && below(2)) {
        engine_remote_expose(d->engine, id);
        work->is_exposed = true;
        assert_true(
            engine_get_sequence(d->engine, id, &tokens, &token_count, &blocks, &block_count));
        work->block_count = block_count - hits;
        memcpy(work->blocks, blocks + hits, work->block_count * sizeof *blocks);
        return;
    }
    switch (below(4)) {
    case 0:
        engine_remote_fallback(d->engine, id);
        work->state = OVER;
        break;
    case 1:
        engine_cancel(d->engine, id);
        work->is_cancelled = true;
        work->state = OVER;
        break;
    default:
        if (!work->is_computed) {
            must_add(p, ENGINE_PREFILL, id, work->prompt, work->prompt_count, 1, NULL);
            compute(p, id, work->prompt_count - 1);
            copy_pieces(p, d, watch, id, id);
            engine_cancel(p->engine, id);
            work->is_computed = true;
        }
        if (work->is_exposed) engine_remote_release(d->engine, id);
        work->is_exposed = false;
        engine_remote_join(d->engine, id);
        work->state = OVER;
    }
}

static void run_random(uint32_t seed) {
    static struct work works[WORKS];
    struct rig p, d;
    struct watch watch;
    random_state = seed;
    rig_defaults(&p);
    rig_defaults(&d);
    d.engine_options.block_count = 27 + below(40);
    d.engine_options.seat_count = 1 + below(8);
    d.engine_options.has_prefix_cache = below(4) > 0;
    d.engine_options.is_chunked_prefill = below(3) > 0;
    d.engine_options.batched_tokens_max = d.engine_options.is_chunked_prefill ? 32 : 130;
    d.backend_options.sim_in_flight_max = 1 + below(2);
    open_pair(&p, &d);
    watch_init(&watch);
    uint32_t over = 0, added = 0;
    for (uint32_t i = 0; i < WORKS; i++) {
        works[i] = (struct work){.prompt_count = 1 + below(119), .choice_count = 1 + below(3)};
        fill_prompt(works[i].prompt, 120, below(3));
        sampling_init(&works[i].sampling);
        works[i].sampling.max_tokens = 1 + below(60);
    }
    for (uint32_t steps = 0; over < WORKS || !engine_is_idle(d.engine); steps++) {
        if (steps > 20000) fail_msg("seed %u: nothing ends", seed);
        if (added < WORKS && below(3) == 0) {
            struct work *work = &works[added++];
            must_add(&d, below(3) ? ENGINE_REMOTE : ENGINE_GENERATE, added, work->prompt,
                     work->prompt_count, work->choice_count, &work->sampling);
            work->state = QUEUED;
        }
        const struct engine_output *outputs;
        uint32_t count;
        assert_int_equal(engine_step(d.engine, ++d.now_us, &outputs, &count), ERR_OK);
        engine_check(d.engine);
        watch_take(&watch, outputs, count);
        for (uint32_t i = 0; i < count; i++) {
            struct work *work = &works[outputs[i].request_id - 1];
            if (work->state == QUEUED && outputs[i].is_first_of_request)
                work->state = outputs[i].is_placed ? PLACED : OVER;
        }
        over = 0;
        for (uint32_t i = 0; i < added; i++) {
            struct work *work = &works[i];
            if (work->state == PLACED && below(6) == 0) decide(&p, &d, &watch, work, i + 1);
            else if (work->state == OVER && work->is_exposed) {
                for (uint32_t b = 0; b < work->block_count; b++) scribble(&d, work->blocks[b]);
                if (below(10) == 0) {
                    engine_remote_release(d.engine, i + 1);
                    work->is_exposed = false;
                }
            }
            over += work->state == OVER && !work->is_exposed;
            engine_check(d.engine);
        }
    }
    for (uint32_t i = 0; i < WORKS; i++)
        for (uint32_t c = 0; c < works[i].choice_count; c++) {
            if (!works[i].is_cancelled)
                expect(&d, &watch, i + 1, c, works[i].prompt, works[i].prompt_count,
                       &works[i].sampling);
        }
    rig_is_whole(&d);
    struct engine_load load;
    engine_get_load(d.engine, &load);
    assert_int_equal(load.remote_blocks, 0);
    watch_release(&watch);
    rig_close(&p);
    rig_close(&d);
}

static void test_random(void **state) {
    for (uint32_t seed = 1; seed <= 60; seed++) {
        print_message("seed %u\n", seed);
        run_random(seed);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_prefix_on_both_sides),
        cmocka_unit_test(test_fallback_and_cancel),
        cmocka_unit_test(test_released_before_cancel_is_done),
        cmocka_unit_test(test_half_of_the_blocks),
        cmocka_unit_test(test_local_ones_pass),
        cmocka_unit_test(test_prefill_stop),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
