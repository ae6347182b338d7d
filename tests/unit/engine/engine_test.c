/* Goal: whatever is batched, chunked, cached, shared, preempted or resumed, each choice gets the
 * tokens that its prompt alone decides, in order and once; every block comes back. */
#include "engine_fixture.h"

static void add(struct rig *rig, uint64_t id, const uint32_t *prompt, uint32_t prompt_count,
                uint32_t choice_count, const struct sampling *sampling) {
    struct engine_choice choices[SAMPLING_CHOICES_MAX];
    struct err_text text = {""};
    for (uint32_t i = 0; i < choice_count; i++) choices[i] = (struct engine_choice){.index = i};
    struct engine_request request = {.id = id,
                                     .prompt_ids = prompt,
                                     .prompt_count = prompt_count,
                                     .choices = choices,
                                     .choice_count = choice_count,
                                     .sampling = sampling};
    if (engine_add(rig->engine, &request, &text)) fail_msg("%s", text.text);
}

static void expect(struct rig *rig, struct watch *watch, uint64_t id, uint32_t choice,
                   const uint32_t *prompt, uint32_t prompt_count, const struct sampling *sampling) {
    static uint32_t wanted[TOKENS_MAX];
    bool stopped;
    uint32_t count = expect_tokens(rig, prompt, prompt_count, sampling, choice, wanted, &stopped);
    struct seen *seen = watch_find(watch, id, choice);
    if (seen->first_index + seen->count != count ||
        memcmp(seen->ids, wanted + seen->first_index, seen->count * 4) != 0)
        fail_msg("request %d choice %u: %u tokens, %u wanted, or others", (int) id, choice,
                 seen->first_index + seen->count, count);
    assert_int_equal(seen->finish, stopped ? FINISH_STOP : FINISH_LENGTH);
}

static void open_or_fail(struct rig *rig) { assert_int_equal(rig_open(rig), ERR_OK); }

static void test_one(void **state) {
    for (uint32_t depth = 1; depth <= 2; depth++) {
        for (uint32_t n = 1; n < 40; n++) {
            struct rig rig;
            struct watch watch;
            uint32_t prompt[64];
            struct sampling s;
            rig_defaults(&rig);
            rig.backend_options.sim_in_flight_max = depth;
            open_or_fail(&rig);
            watch_init(&watch);
            sampling_init(&s);
            s.max_tokens = 1 + n % 20;
            fill_prompt(prompt, n, n);
            add(&rig, 7, prompt, n, 1, &s);
            rig_run(&rig, &watch);
            expect(&rig, &watch, 7, 0, prompt, n, &s);
            assert_true(watch_find(&watch, 7, 0)->is_admitted);
            rig_is_whole(&rig);
            watch_release(&watch);
            rig_close(&rig);
        }
    }
}

/* Long prompts in chunks of 1, 7, 16, 64; beside decodes; with one in flight and two. */
static void test_chunks(void **state) {
    static const uint32_t chunks[] = {1, 7, 16, 0};
    for (uint32_t c = 0; c < ARRAY_COUNT(chunks); c++) {
        for (uint32_t depth = 1; depth <= 2; depth++) {
            struct rig rig;
            struct watch watch;
            uint32_t prompts[5][150];
            struct sampling s;
            rig_defaults(&rig);
            rig.engine_options.prefill_chunk_max = chunks[c];
            rig.engine_options.block_count = 200;
            rig.backend_options.sim_in_flight_max = depth;
            open_or_fail(&rig);
            watch_init(&watch);
            sampling_init(&s);
            s.max_tokens = 30;
            for (uint32_t i = 0; i < 5; i++) {
                fill_prompt(prompts[i], 150 - i, i);
                add(&rig, i + 1, prompts[i], 150 - i, 1, &s);
                for (uint32_t k = 0; k < 4; k++) assert_int_equal(rig_step(&rig, &watch), ERR_OK);
            }
            rig_run(&rig, &watch);
            for (uint32_t i = 0; i < 5; i++)
                expect(&rig, &watch, i + 1, 0, prompts[i], 150 - i, &s);
            rig_is_whole(&rig);
            watch_release(&watch);
            rig_close(&rig);
        }
    }
}

static void test_prefix_hits(void **state) {
    struct rig rig;
    struct watch watch;
    uint32_t prompt[33];
    struct sampling s;
    rig_defaults(&rig);
    open_or_fail(&rig);
    watch_init(&watch);
    sampling_init(&s);
    s.max_tokens = 4;
    fill_prompt(prompt, 33, 5);
    add(&rig, 1, prompt, 32, 1, &s);
    rig_run(&rig, &watch);
    add(&rig, 2, prompt, 32, 1, &s); /* usable: floor(31 / 8) blocks */
    rig_run(&rig, &watch);
    add(&rig, 3, prompt, 33, 1, &s); /* floor(32 / 8) */
    rig_run(&rig, &watch);
    struct sampling skips = s;
    skips.skip_prefix_cache = true;
    add(&rig, 4, prompt, 33, 1, &skips);
    rig_run(&rig, &watch);
    assert_int_equal(watch_find(&watch, 1, 0)->cached_tokens, 0);
    assert_int_equal(watch_find(&watch, 2, 0)->cached_tokens, 24);
    assert_int_equal(watch_find(&watch, 3, 0)->cached_tokens, 32);
    assert_int_equal(watch_find(&watch, 4, 0)->cached_tokens, 0);
    for (uint64_t id = 1; id <= 4; id++) expect(&rig, &watch, id, 0, prompt, id <= 2 ? 32 : 33, &s);
    struct engine_load load;
    engine_get_load(rig.engine, &load);
    assert_int_equal(load.prefix_hit_tokens, 24 + 32);
    rig_is_whole(&rig);
    watch_release(&watch);
    rig_close(&rig);
}

/* A pool far too small for all at once: growth preempts, and nobody's tokens change. */
static void test_preemption(void **state) {
    for (uint32_t variant = 0; variant < 8; variant++) {
        struct rig rig;
        struct watch watch;
        uint32_t prompts[6][20];
        struct sampling s;
        rig_defaults(&rig);
        rig.engine_options.block_count = 14;
        rig.engine_options.has_prefix_cache = variant & 1;
        rig.engine_options.is_chunked_prefill = !(variant & 4);
        rig.backend_options.sim_in_flight_max = variant & 2 ? 2 : 1;
        open_or_fail(&rig);
        watch_init(&watch);
        sampling_init(&s);
        s.max_tokens = 80;
        s.temperature = 1.0f;
        s.presence_penalty = 0.5f; /* the seat's history must come back too */
        for (uint32_t i = 0; i < 6; i++) {
            s.seed = i;
            fill_prompt(prompts[i], 20, i);
            add(&rig, i + 1, prompts[i], 20, 1, &s);
        }
        rig_run(&rig, &watch);
        struct engine_load load;
        engine_get_load(rig.engine, &load);
        assert_true(load.preemption_count > 0);
        for (uint32_t i = 0; i < 6; i++) {
            s.seed = i;
            expect(&rig, &watch, i + 1, 0, prompts[i], 20, &s);
        }
        rig_is_whole(&rig);
        watch_release(&watch);
        rig_close(&rig);
    }
}

static void test_choices(void **state) {
    for (uint32_t prompt_count = 1; prompt_count < 30; prompt_count++) {
        for (uint32_t variant = 0; variant < 8; variant++) {
            struct rig rig;
            struct watch watch;
            uint32_t prompt[30];
            struct sampling s;
            rig_defaults(&rig);
            rig.engine_options.has_prefix_cache = variant & 1;
            rig.backend_options.sim_in_flight_max = variant & 2 ? 2 : 1;
            if (variant & 4) rig.engine_options.block_count = 12; /* not all at once */
            open_or_fail(&rig);
            watch_init(&watch);
            sampling_init(&s);
            s.max_tokens = 13;
            s.temperature = 0.5f;
            fill_prompt(prompt, prompt_count, 3);
            add(&rig, 1, prompt, prompt_count, 12, &s); /* more than seats */
            add(&rig, 2, prompt, prompt_count, 1, &s);
            rig_run(&rig, &watch);
            for (uint32_t c = 0; c < 12; c++) expect(&rig, &watch, 1, c, prompt, prompt_count, &s);
            expect(&rig, &watch, 2, 0, prompt, prompt_count, &s);
            rig_is_whole(&rig);
            struct engine_load load;
            engine_get_load(rig.engine, &load);
            /* The prompt is computed once, and its last token once more a choice. */
            if (!variant) assert_true(load.prompt_tokens <= 2 * prompt_count + 12);
            watch_release(&watch);
            rig_close(&rig);
        }
    }
}

static void test_stops(void **state) {
    uint32_t stopped_count = 0;
    for (uint32_t seed = 0; seed < 60; seed++) {
        struct rig rig;
        struct watch watch;
        uint32_t prompt[10], stop_ids[2] = {17, 18};
        struct sampling s;
        rig_defaults(&rig);
        rig.backend_options.sim_stop_period = 9;
        rig.backend_options.sim_in_flight_max = seed & 1 ? 2 : 1;
        open_or_fail(&rig);
        watch_init(&watch);
        sampling_init(&s);
        s.max_tokens = 40;
        s.min_tokens = seed % 3 ? 12 : 0;
        s.ignore_eos = seed % 5 == 0;
        s.stop_ids = stop_ids;
        s.stop_id_count = seed % 4 ? 2 : 0;
        fill_prompt(prompt, 10, seed);
        add(&rig, 1, prompt, 10, 1, &s);
        add(&rig, 2, prompt, 9, 1, &s);
        rig_run(&rig, &watch);
        expect(&rig, &watch, 1, 0, prompt, 10, &s);
        expect(&rig, &watch, 2, 0, prompt, 9, &s);
        const struct seen *seen = watch_find(&watch, 1, 0);
        if (seen->finish == FINISH_STOP) {
            stopped_count++;
            assert_true(seen->count > s.min_tokens);
        }
        rig_is_whole(&rig);
        watch_release(&watch);
        rig_close(&rig);
    }
    assert_true(stopped_count > 20);
}

static uint64_t waiting_tokens(const struct rig *rig) {
    struct engine_load load;
    engine_get_load(rig->engine, &load);
    return load.waiting_tokens;
}

/* What waits is counted as it will be computed: choices share their prompt, all but its last
 * token, and who has to compute it alone after all is counted whole. */
static void test_waiting_tokens(void **state) {
    struct rig rig;
    struct watch watch;
    uint32_t prompt[40];
    struct sampling s;
    rig_defaults(&rig);
    open_or_fail(&rig);
    watch_init(&watch);
    sampling_init(&s);
    s.max_tokens = 8;
    fill_prompt(prompt, 40, 3);
    add(&rig, 1, prompt, 40, 4, &s);
    assert_int_equal(waiting_tokens(&rig), 40 + 3);
    add(&rig, 2, prompt, 30, 1, &s);
    assert_int_equal(waiting_tokens(&rig), 40 + 3 + 30);
    engine_cancel_choice(rig.engine, 1, 0);
    engine_cancel(rig.engine, 2);
    engine_check(rig.engine);
    assert_int_equal(rig_step(&rig, &watch), ERR_OK); /* choice 1 computes it in this step */
    assert_int_equal(waiting_tokens(&rig), 2);
    rig_run(&rig, &watch);
    for (uint32_t choice = 1; choice < 4; choice++) expect(&rig, &watch, 1, choice, prompt, 40, &s);
    rig_is_whole(&rig);
    watch_release(&watch);
    rig_close(&rig);
}

/* A choice that comes with its first tokens goes on with the very same ones. */
static void test_resumed(void **state) {
    for (uint32_t had = 0; had <= 20; had++) {
        struct rig rig;
        struct watch watch;
        uint32_t prompt[21], wanted[2][TOKENS_MAX];
        struct sampling s;
        struct err_text text;
        bool stopped;
        rig_defaults(&rig);
        open_or_fail(&rig);
        watch_init(&watch);
        sampling_init(&s);
        s.max_tokens = 20;
        s.temperature = 1.0f;
        s.frequency_penalty = 1.0f;
        fill_prompt(prompt, 21, 9);
        struct engine_choice choices[2];
        for (uint32_t c = 0; c < 2; c++) {
            expect_tokens(&rig, prompt, 21, &s, c + 4, wanted[c], &stopped);
            choices[c] = (struct engine_choice){c + 4, wanted[c], c ? had : had / 2};
        }
        struct engine_request request = {.id = 1,
                                         .prompt_ids = prompt,
                                         .prompt_count = 21,
                                         .choices = choices,
                                         .choice_count = 2,
                                         .sampling = &s,
                                         .goes_first = true};
        assert_int_equal(engine_add(rig.engine, &request, &text), ERR_OK);
        rig_run(&rig, &watch);
        expect(&rig, &watch, 1, 4, prompt, 21, &s);
        if (had < 20) expect(&rig, &watch, 1, 5, prompt, 21, &s);
        else assert_int_equal(watch_find(&watch, 1, 5)->finish, FINISH_LENGTH);
        assert_int_equal(watch_find(&watch, 1, 4)->count, 20 - had / 2);
        rig_is_whole(&rig);
        watch_release(&watch);
        rig_close(&rig);
    }
}

static void test_prompt_logprobs(void **state) {
    for (uint32_t variant = 0; variant < 8; variant++) {
        struct rig rig;
        struct watch watch;
        uint32_t prompt[100];
        struct sampling s;
        rig_defaults(&rig);
        rig.engine_options.prefill_chunk_max = variant & 1 ? 7 : 0;
        rig.backend_options.sim_in_flight_max = variant & 2 ? 2 : 1;
        if (variant & 4) rig.engine_options.block_count = 32;
        open_or_fail(&rig);
        watch_init(&watch);
        sampling_init(&s);
        s.max_tokens = 60;
        fill_prompt(prompt, 100, 1);
        add(&rig, 1, prompt, 90, 1, &s); /* fills the cache, and its growth preempts */
        assert_int_equal(rig_step(&rig, &watch), ERR_OK);
        struct sampling told = s;
        told.max_tokens = 5;
        told.prompt_logprobs = 3;
        told.logprobs = 2;
        add(&rig, 2, prompt, 100, 2, &told);
        rig_run(&rig, &watch);
        told.max_tokens = 0;
        add(&rig, 3, prompt, 100, 1, &told); /* echo alone */
        rig_run(&rig, &watch);
        assert_int_equal(watch_find(&watch, 2, 0)->prompt_next, 100);
        assert_int_equal(watch_find(&watch, 2, 1)->prompt_next, 1);
        assert_int_equal(watch_find(&watch, 2, 0)->cached_tokens, 0);
        assert_int_equal(watch_find(&watch, 2, 0)->logprobs, 5);
        assert_int_equal(watch_find(&watch, 3, 0)->prompt_next, 100);
        assert_int_equal(watch_find(&watch, 3, 0)->count, 0);
        assert_int_equal(watch_find(&watch, 3, 0)->finish, FINISH_LENGTH);
        s.max_tokens = 60;
        expect(&rig, &watch, 1, 0, prompt, 90, &s);
        told.max_tokens = 5;
        expect(&rig, &watch, 2, 0, prompt, 100, &told);
        expect(&rig, &watch, 2, 1, prompt, 100, &told);
        rig_is_whole(&rig);
        watch_release(&watch);
        rig_close(&rig);
    }
}

/* A choice that comes whole, by its stop id or by length, while the prompt's logprobs were lost:
 * they are told again, and then it ends as it had. */
static void test_prompt_logprobs_again(void **state) {
    for (uint32_t variant = 0; variant < 8; variant++) {
        struct rig rig;
        struct watch watch;
        uint32_t prompt[60], had[6] = {9, 8, 7, 6, 5, variant & 1 ? EOS : 4};
        struct sampling s;
        struct err_text text;
        rig_defaults(&rig);
        rig.engine_options.prefill_chunk_max = variant & 4 ? 7 : 0;
        rig.backend_options.sim_in_flight_max = variant & 2 ? 2 : 1;
        open_or_fail(&rig);
        watch_init(&watch);
        sampling_init(&s);
        s.max_tokens = variant & 1 ? 50 : 6;
        s.prompt_logprobs = 0;
        fill_prompt(prompt, 60, 4);
        struct engine_choice choice = {0, had, 6};
        struct engine_request r = {.id = 1,
                                   .prompt_ids = prompt,
                                   .prompt_count = 60,
                                   .choices = &choice,
                                   .choice_count = 1,
                                   .sampling = &s};
        assert_int_equal(engine_add(rig.engine, &r, &text), ERR_OK);
        rig_run(&rig, &watch);
        const struct seen *seen = watch_find(&watch, 1, 0);
        assert_int_equal(seen->prompt_next, 60);
        assert_int_equal(seen->count, 0);
        assert_int_equal(seen->finish, variant & 1 ? FINISH_STOP : FINISH_LENGTH);
        rig_is_whole(&rig);
        watch_release(&watch);
        rig_close(&rig);
    }
}

static void test_cancel(void **state) {
    for (uint32_t when = 0; when < 12; when++) {
        for (uint32_t depth = 1; depth <= 2; depth++) {
            struct rig rig;
            struct watch watch;
            uint32_t prompt[100];
            struct sampling s;
            rig_defaults(&rig);
            rig.backend_options.sim_in_flight_max = depth;
            open_or_fail(&rig);
            watch_init(&watch);
            sampling_init(&s);
            s.max_tokens = 50;
            fill_prompt(prompt, 100, 1);
            for (uint64_t id = 1; id <= 4; id++) add(&rig, id, prompt, 90, (uint32_t) id, &s);
            for (uint32_t k = 0; k < when; k++) assert_int_equal(rig_step(&rig, &watch), ERR_OK);
            engine_cancel(rig.engine, 3);
            engine_cancel(rig.engine, 3);
            engine_cancel(rig.engine, 999);
            assert_int_equal(rig_step(&rig, &watch), ERR_OK);
            for (uint32_t c = 0; c < 3; c++)
                assert_int_equal(watch_find(&watch, 3, c)->finish, FINISH_CANCELLED);
            rig_run(&rig, &watch);
            expect(&rig, &watch, 4, 3, prompt, 90, &s);
            rig_is_whole(&rig);
            watch_release(&watch);
            rig_close(&rig);
        }
    }
}

/* One choice goes alone, in whatever state it is; the others end as if nothing had been. */
static void test_cancel_choice(void **state) {
    for (uint32_t when = 0; when < 10; when++) {
        for (uint32_t gone = 0; gone < 3; gone++) {
            struct rig rig;
            struct watch watch;
            uint32_t prompt[30];
            struct sampling s;
            rig_defaults(&rig);
            rig.backend_options.sim_in_flight_max = 1 + (when & 1);
            open_or_fail(&rig);
            watch_init(&watch);
            sampling_init(&s);
            s.max_tokens = 40;
            fill_prompt(prompt, 30, 7);
            add(&rig, 1, prompt, 30, 3, &s);
            for (uint32_t k = 0; k < when; k++) assert_int_equal(rig_step(&rig, &watch), ERR_OK);
            engine_cancel_choice(rig.engine, 1, gone);
            engine_cancel_choice(rig.engine, 1, gone);
            engine_cancel_choice(rig.engine, 1, 99);
            engine_cancel_choice(rig.engine, 999, 0);
            assert_int_equal(rig_step(&rig, &watch), ERR_OK);
            assert_int_equal(watch_find(&watch, 1, gone)->finish, FINISH_CANCELLED);
            engine_cancel_choice(rig.engine, 1, gone); /* over already */
            rig_run(&rig, &watch);
            assert_in_range(watch_find(&watch, 1, gone)->count, 0, when);
            for (uint32_t c = 0; c < 3; c++)
                if (c != gone) expect(&rig, &watch, 1, c, prompt, 30, &s);
            rig_is_whole(&rig);
            watch_release(&watch);
            rig_close(&rig);
        }
    }
}

static void test_doors(void **state) {
    struct rig rig;
    struct watch watch;
    uint32_t prompt[600];
    struct sampling s;
    struct err_text text;
    struct engine_choice choice = {0};
    rig_defaults(&rig);
    rig.engine_options.queue_requests_max = 2;
    rig.engine_options.model_len_max = 600;
    open_or_fail(&rig);
    watch_init(&watch);
    sampling_init(&s);
    fill_prompt(prompt, 600, 1);
    prompt[3] = 3;
    struct engine_request r = {.id = 1,
                               .prompt_ids = prompt,
                               .prompt_count = 600,
                               .choices = &choice,
                               .choice_count = 1,
                               .sampling = &s};
    assert_int_equal(engine_add(rig.engine, &r, &text), ERR_NO_ROOM); /* no room for one token */
    r.prompt_count = 500;                                             /* 64 blocks of 8 hold 512 */
    s.max_tokens = 20;
    assert_int_equal(engine_add(rig.engine, &r, &text), ERR_NO_ROOM);
    s.max_tokens = 12;
    assert_int_equal(engine_add(rig.engine, &r, &text), ERR_OK);
    r.id = 2;
    prompt[3] = VOCAB;
    assert_int_equal(engine_add(rig.engine, &r, &text), ERR_USAGE);
    prompt[3] = 3;
    s.top_p = 0;
    assert_int_equal(engine_add(rig.engine, &r, &text), ERR_USAGE);
    s.top_p = 1;
    r.deadline_us = rig.now_us + 3500;
    assert_int_equal(engine_add(rig.engine, &r, &text), ERR_OK);
    r.id = 3;
    assert_int_equal(engine_add(rig.engine, &r, &text), ERR_BUSY);
    r.goes_first = true;
    r.deadline_us = 0;
    assert_int_equal(engine_add(rig.engine, &r, &text), ERR_OK);
    rig_run(&rig, &watch);
    /* The re-dispatched one went ahead of both; the one with a deadline was given up waiting. */
    assert_int_equal(watch_find(&watch, 2, 0)->error, ERR_TIMEOUT);
    assert_false(watch_find(&watch, 2, 0)->is_admitted);
    assert_int_equal(watch.seen[0].request_id, 3);
    expect(&rig, &watch, 1, 0, prompt, 500, &s);
    expect(&rig, &watch, 3, 0, prompt, 500, &s);
    rig_is_whole(&rig);
    watch_release(&watch);
    rig_close(&rig);
}

/* More cancelled at once than a step may tell: the rest follows, each once. */
static void test_many_cancelled(void **state) {
    struct rig rig;
    struct watch watch;
    uint32_t prompt[8];
    struct sampling s;
    rig_defaults(&rig);
    open_or_fail(&rig);
    watch_init(&watch);
    sampling_init(&s);
    fill_prompt(prompt, 8, 1);
    for (uint64_t id = 1; id <= 4; id++) add(&rig, id, prompt, 8, 120, &s);
    for (uint64_t id = 1; id <= 4; id++) engine_cancel(rig.engine, id);
    rig_run(&rig, &watch);
    assert_int_equal(watch.count, 480);
    for (uint32_t i = 0; i < watch.count; i++)
        assert_int_equal(watch.seen[i].finish, FINISH_CANCELLED);
    rig_is_whole(&rig);
    watch_release(&watch);
    rig_close(&rig);
}

static void test_device_gone(void **state) {
    struct rig rig;
    struct watch watch;
    uint32_t prompt[20];
    struct sampling s;
    rig_defaults(&rig);
    rig.backend_options.sim_fail_batch = 3;
    open_or_fail(&rig);
    watch_init(&watch);
    sampling_init(&s);
    fill_prompt(prompt, 20, 1);
    add(&rig, 1, prompt, 20, 1, &s);
    assert_int_equal(rig_step(&rig, &watch), ERR_OK);
    assert_int_equal(rig_step(&rig, &watch), ERR_OK);
    assert_int_equal(rig_step(&rig, &watch), ERR_IO);
    watch_release(&watch);
    rig_close(&rig);
}

/* The n-th allocation of a request's whole life fails: the door says so and keeps nothing; and no
 * step allocates at all. */
static void test_no_memory(void **state) {
    for (uint64_t n = 1;; n++) {
        struct rig rig;
        rig_defaults(&rig);
        alloc_fail_at(n, 0);
        enum err e = rig_open(&rig);
        bool was_hit = alloc_count() >= n;
        alloc_fail_at(0, 0);
        assert_true(!was_hit || e == ERR_MEMORY);
        rig_close(&rig);
        if (!was_hit) break;
    }
    for (uint64_t n = 1;; n++) {
        struct rig rig;
        struct watch watch;
        uint32_t prompt[20];
        struct sampling s;
        struct err_text text;
        struct engine_choice choices[2] = {{.index = 0}, {.index = 1}};
        rig_defaults(&rig);
        open_or_fail(&rig);
        watch_init(&watch);
        sampling_init(&s);
        fill_prompt(prompt, 20, 1);
        struct engine_request r = {.id = 1,
                                   .prompt_ids = prompt,
                                   .prompt_count = 20,
                                   .choices = choices,
                                   .choice_count = 2,
                                   .sampling = &s};
        alloc_fail_at(n, 0);
        enum err e = engine_add(rig.engine, &r, &text);
        bool was_hit = alloc_count() >= n;
        if (was_hit) assert_int_equal(e, ERR_MEMORY);
        else assert_int_equal(e, ERR_OK);
        alloc_fail_at(1, 1); /* from here on every allocation fails */
        while (!engine_is_idle(rig.engine)) {
            const struct engine_output *outputs;
            uint32_t count;
            assert_int_equal(engine_step(rig.engine, rig.now_us++, &outputs, &count), ERR_OK);
        }
        assert_int_equal(alloc_count(), 0);
        alloc_fail_at(0, 0);
        rig_is_whole(&rig);
        watch_release(&watch);
        rig_close(&rig);
        if (!was_hit) break;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one),
        cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_prefix_hits),
        cmocka_unit_test(test_preemption),
        cmocka_unit_test(test_choices),
        cmocka_unit_test(test_stops),
        cmocka_unit_test(test_waiting_tokens),
        cmocka_unit_test(test_resumed),
        cmocka_unit_test(test_prompt_logprobs),
        cmocka_unit_test(test_prompt_logprobs_again),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_cancel_choice),
        cmocka_unit_test(test_doors),
        cmocka_unit_test(test_many_cancelled),
        cmocka_unit_test(test_device_gone),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
