/* Goal: each policy chooses as it says; the cost is that of Dynamo's worked example; a sender
 * counts only its own attempts above the echo; beliefs follow numbered events, gaps and dumps;
 * guesses bring siblings together and end in time; churn and missing memory leave all whole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "router/router.h"

#define SECOND 1000000u

static uint64_t state_of_random;

static uint32_t below(uint32_t n) {
    state_of_random = state_of_random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t) (state_of_random >> 33) % n;
}

static struct router *make(enum router_policy policy, uint32_t worker_count) {
    struct router_options options;
    struct router *router;
    router_options_init(&options);
    options.policy = policy;
    options.seed = 42;
    assert_int_equal(router_create(&options, &router), ERR_OK);
    for (uint32_t i = 1; i <= worker_count; i++) {
        struct router_worker worker = {.instance = i, .block_size = 16, .sends_events = true};
        assert_int_equal(router_add(router, &worker), ERR_OK);
    }
    return router;
}

static struct router_request request_of(const uint64_t *hashes, uint32_t block_count) {
    return (struct router_request){.sequence_hashes = hashes,
                                   .block_count = block_count,
                                   .prompt_tokens = block_count * 16,
                                   .overlap_weight = -1,
                                   .temperature = -1,
                                   .reads_cache = true};
}

static uint64_t choose(struct router *router, const struct router_request *request,
                       uint64_t now_us) {
    struct router_choice choice;
    assert_int_equal(router_choose(router, request, now_us, &choice), ERR_OK);
    return choice.instance;
}

static void store(struct router *router, uint64_t instance, const uint64_t *hashes,
                  uint32_t count) {
    struct kv_event events[64];
    uint64_t number = router_event_last(router, instance);
    for (uint32_t i = 0; i < count; i++)
        events[i] =
            (struct kv_event){.number = ++number, .kind = KV_EVENT_STORED, .hash = hashes[i]};
    assert_true(router_events(router, instance, events, count));
}

static void test_simple_policies(void **state) {
    struct router_request request = request_of(NULL, 0);
    uint32_t times[5] = {0};
    struct router *router = make(ROUTER_ROUND_ROBIN, 3);
    for (uint32_t i = 0; i < 9; i++) assert_int_equal(choose(router, &request, 0), i % 3 + 1);
    request.avoided = 1;
    assert_int_equal(choose(router, &request, 0), 2);
    request.avoided = 0;
    assert_int_equal(choose(router, &request, 0), 1);
    router_set_open(router, 3, false);
    assert_int_equal(choose(router, &request, 0), 2);
    assert_int_equal(choose(router, &request, 0), 1);
    router_set_open(router, 3, true); /* it has waited longest */
    assert_int_equal(choose(router, &request, 0), 3);
    router_destroy(router);

    router = make(ROUTER_RANDOM, 4);
    for (uint32_t i = 0; i < 4000; i++) times[choose(router, &request, 0)]++;
    for (uint32_t i = 1; i <= 4; i++) assert_in_range(times[i], 800, 1200);
    request.avoided = 2;
    for (uint32_t i = 0; i < 100; i++) assert_int_not_equal(choose(router, &request, 0), 2);
    for (uint64_t i = 1; i <= 4; i++) router_set_open(router, i, i == 2);
    assert_int_equal(choose(router, &request, 0), 2); /* there is no other */
    router_remove(router, 2);
    struct router_choice choice;
    assert_int_equal(router_choose(router, &request, 0, &choice), ERR_NOT_FOUND);
    router_check(router);
    router_destroy(router);

    router = make(ROUTER_LEAST_LOADED, 3);
    request.avoided = 0;
    router_load(router, 1, &(struct router_load){.request_count = 2});
    router_load(router, 2, &(struct router_load){.request_count = 1, .blocks_used = 9});
    router_load(router, 3, &(struct router_load){.request_count = 1, .blocks_used = 8});
    assert_int_equal(choose(router, &request, 0), 3);
    router_load(router, 3, &(struct router_load){.request_count = 5});
    assert_int_equal(choose(router, &request, 0), 2);
    router_destroy(router);
}

/* design document of Dynamo's router: raw prefill 10 blocks; worker 1 overlap 2, decode 10: 18;
 * worker 2 5 and 5: 10; worker 3 8 and 9: 11. */
static void test_cost(void **state) {
    uint64_t hashes[10] = {11, 12, 13, 14, 15, 16, 17, 18, 19, 20};
    static const uint32_t overlaps[3] = {2, 5, 8}, used[3] = {10, 5, 9};
    static const double costs[3] = {18, 10, 11};
    struct router *router = make(ROUTER_KV, 3);
    struct router_request request = request_of(hashes, 10);
    struct router_choice choice;
    for (uint32_t i = 0; i < 3; i++) {
        store(router, i + 1, hashes, overlaps[i]);
        router_load(router, i + 1, &(struct router_load){.blocks_used = used[i]});
    }
    for (uint32_t i = 0; i < 3; i++) {
        for (uint32_t k = 0; k < 3; k++) router_set_open(router, k + 1, k == i);
        assert_int_equal(router_choose(router, &request, 0, &choice), ERR_OK);
        assert_int_equal(choice.instance, i + 1);
        assert_int_equal(choice.overlap_blocks, overlaps[i]);
        assert_true(choice.cost > costs[i] - 1e-9 && choice.cost < costs[i] + 1e-9);
    }
    for (uint32_t k = 0; k < 3; k++) router_set_open(router, k + 1, true);
    assert_int_equal(choose(router, &request, 0), 2);
    request.overlap_weight = 0; /* of this request alone: load only */
    assert_int_equal(choose(router, &request, 0), 2);
    request.overlap_weight = 4;
    assert_int_equal(choose(router, &request, 0), 3); /* 4 x 2 + 9 against 4 x 5 + 5 */
    request.overlap_weight = -1;
    request.reads_cache = false;
    assert_int_equal(choose(router, &request, 0), 2);
    request.reads_cache = true;
    /* tokens that wait there count as the request's own: 160 are 10 blocks */
    router_load(router, 2, &(struct router_load){.blocks_used = 5, .waiting_tokens = 160});
    assert_int_equal(choose(router, &request, 0), 3);
    struct router_counts counts;
    router_get_counts(router, &counts);
    assert_int_equal(counts.choices, 8);
    assert_int_equal(counts.request_blocks, 80);
    assert_int_equal(counts.overlap_blocks, 2 + 5 + 8 + 5 + 5 + 8 + 0 + 8);
    router_check(router);
    router_destroy(router);
}

static void test_ties_and_temperature(void **state) {
    uint64_t hashes[8] = {1, 2, 3, 4, 5, 6, 7, 8}, others[2] = {91, 92};
    struct router *router = make(ROUTER_KV, 3);
    struct router_request request = request_of(hashes, 8);
    uint32_t times[4] = {0};
    store(router, 1, others, 2);
    for (uint32_t i = 0; i < 2000; i++) times[choose(router, &request, 0)]++;
    assert_int_equal(times[1], 0); /* its belief is larger */
    assert_in_range(times[2], 850, 1150);
    store(router, 2, hashes, 8);
    for (uint32_t i = 0; i < 50; i++) assert_int_equal(choose(router, &request, 0), 2);
    /* costs 8, 0, 8: with T = 1 the best has 1 / (1 + 2/e) = 0.576 */
    request.temperature = 1;
    memset(times, 0, sizeof times);
    for (uint32_t i = 0; i < 10000; i++) times[choose(router, &request, 0)]++;
    assert_in_range(times[2], 5500, 6000);
    assert_in_range(times[1], 1900, 2350);
    request.avoided = 2;
    for (uint32_t i = 0; i < 100; i++) assert_int_not_equal(choose(router, &request, 0), 2);
    router_destroy(router);
}

/* What a LOAD said of a prompt that was mostly there already is over with its first token, or a
 * short answer would drive the next turn of its conversation away. */
static void test_hit_that_waited(void **state) {
    struct router *router = make(ROUTER_KV, 2);
    uint64_t hashes[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    struct router_request request = request_of(hashes, 8);
    struct router_choice choice;
    struct router_view view;
    store(router, 1, hashes, 7);
    assert_int_equal(router_choose(router, &request, 0, &choice), ERR_OK);
    assert_true(choice.instance == 1 && choice.overlap_blocks == 7);
    for (uint64_t attempt = 1; attempt <= 2; attempt++) {
        assert_int_equal(router_start(router, attempt, &request, &choice, 0), ERR_OK);
        router_load(
            router, 1,
            &(struct router_load){
                .request_count = 1, .waiting_tokens = 128, .blocks_used = 9, .echo = attempt});
        if (attempt == 1) router_first_token(router, attempt); /* else it ends without any */
        router_end(router, attempt);
        router_get_view(router, 1, &view);
        assert_true(view.waiting_tokens == 0 && view.request_count == 0 && view.used_blocks == 0);
        assert_int_equal(choose(router, &request, 0), 1);
    }
    router_check(router);
    router_destroy(router);
}

/* A worker without events is guessed at, however much all the others are known to hold. */
static void test_quiet_among_tellers(void **state) {
    struct router *router = make(ROUTER_KV, 1);
    uint64_t hashes[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    struct router_request request = request_of(hashes, 8), part = request_of(hashes, 3);
    struct router_choice choice = {.instance = 9};
    struct router_worker quiet = {.instance = 9, .block_size = 16};
    assert_int_equal(router_add(router, &quiet), ERR_OK);
    store(router, 1, hashes, 5);
    assert_int_equal(router_start(router, 1, &part, &choice, 0), ERR_OK);
    router_end(router, 1);
    router_load(router, 1, &(struct router_load){.blocks_used = 1000, .echo = 1});
    assert_int_equal(router_choose(router, &request, 0, &choice), ERR_OK);
    assert_true(choice.instance == 9 && choice.overlap_blocks == 3);
    router_check(router);
    router_destroy(router);
}

/* Only own attempts above the echo are added to LOAD. */
static void test_echo(void **state) {
    struct router *router = make(ROUTER_KV, 1);
    uint64_t hashes[4] = {1, 2, 3, 4};
    struct router_request request = request_of(hashes, 4);
    struct router_choice choice = {.instance = 1};
    struct router_view view;
    request.reads_cache = false;
    for (uint64_t attempt = 1; attempt <= 4; attempt++)
        assert_int_equal(router_start(router, attempt, &request, &choice, 0), ERR_OK);
    assert_true(router_get_view(router, 1, &view));
    assert_true(view.request_count == 4 && view.waiting_tokens == 256 && view.used_blocks == 20);
    /* The worker had 1 and 2 when it wrote this, and those of others besides. */
    router_load(router, 1,
                &(struct router_load){
                    .request_count = 7, .waiting_tokens = 100, .blocks_used = 30, .echo = 2});
    router_get_view(router, 1, &view);
    assert_true(view.request_count == 9 && view.waiting_tokens == 228 && view.used_blocks == 40);
    router_first_token(router, 1); /* that LOAD still counts its prompt as waiting */
    router_first_token(router, 3);
    router_get_view(router, 1, &view);
    assert_true(view.waiting_tokens == 100 && view.request_count == 9);
    router_end(router, 3);
    router_end(router, 1);
    router_end(router, 99);
    router_get_view(router, 1, &view);
    assert_true(view.waiting_tokens == 100 && view.request_count == 7 && view.used_blocks == 30);
    /* An older LOAD that comes late does not bring attempts back. */
    router_load(router, 1, &(struct router_load){.echo = 1});
    router_get_view(router, 1, &view);
    assert_true(view.request_count == 1);
    router_check(router);
    router_load(router, 1, &(struct router_load){.echo = 50});
    router_get_view(router, 1, &view);
    assert_true(view.request_count == 0 && view.waiting_tokens == 0 && view.used_blocks == 0);
    router_check(router);
    router_remove(router, 1);
    assert_false(router_get_view(router, 1, &view));
    router_end(router, 4);
    router_check(router);
    router_destroy(router);
}

static uint32_t overlap_of(struct router *router, uint64_t instance, const uint64_t *hashes,
                           uint32_t count, uint64_t now_us) {
    struct router_request request = request_of(hashes, count);
    struct router_choice choice;
    for (uint64_t i = 1; i <= 3; i++) router_set_open(router, i, i == instance);
    assert_int_equal(router_choose(router, &request, now_us, &choice), ERR_OK);
    for (uint64_t i = 1; i <= 3; i++) router_set_open(router, i, true);
    assert_int_equal(choice.instance, instance);
    return choice.overlap_blocks;
}

static void test_events(void **state) {
    struct router *router = make(ROUTER_KV, 2);
    uint64_t h[6] = {1, 2, 3, 4, 5, 6};
    store(router, 1, h, 3);
    assert_int_equal(router_event_last(router, 1), 3);
    assert_int_equal(overlap_of(router, 1, h, 6, 0), 3);
    assert_int_equal(overlap_of(router, 2, h, 6, 0), 0);
    struct kv_event old[2] = {{.number = 3, .kind = KV_EVENT_STORED, .hash = h[2]},
                              {.number = 4, .kind = KV_EVENT_STORED, .hash = h[3]}};
    assert_true(router_events(router, 1, old, 2)); /* 3 is known, 4 is new */
    assert_true(router_events(router, 1, old, 2));
    assert_int_equal(overlap_of(router, 1, h, 6, 0), 4);
    struct kv_event gap = {.number = 6, .kind = KV_EVENT_REMOVED, .hash = h[3]};
    assert_false(router_events(router, 1, &gap, 1));
    assert_int_equal(overlap_of(router, 1, h, 6, 0), 4);
    /* A dump: the old belief stands until it is whole; live events wait. */
    struct kv_event part[2] = {{.kind = KV_EVENT_STORED, .hash = h[1]},
                               {.kind = KV_EVENT_STORED, .hash = h[0]}};
    assert_int_equal(router_dump_begin(router, 1), ERR_OK);
    assert_int_equal(router_dump_add(router, 1, part, 2), ERR_OK);
    assert_false(router_events(router, 1, &gap, 1));
    assert_int_equal(overlap_of(router, 1, h, 6, 0), 4);
    assert_int_equal(router_dump_begin(router, 1), ERR_OK); /* from the start */
    assert_int_equal(router_dump_add(router, 1, part + 1, 1), ERR_OK);
    router_dump_end(router, 1, 5);
    assert_int_equal(overlap_of(router, 1, h, 6, 0), 1);
    assert_int_equal(router_event_last(router, 1), 5);
    assert_true(router_events(router, 1, &gap, 1));
    /* CLEARED in the middle */
    struct kv_event clear[4] = {{.number = 7, .kind = KV_EVENT_STORED, .hash = h[1]},
                                {.number = 8, .kind = KV_EVENT_CLEARED},
                                {.number = 9, .kind = KV_EVENT_STORED, .hash = h[0]},
                                {.number = 10, .kind = KV_EVENT_CLEARED}};
    assert_true(router_events(router, 1, clear, 3));
    assert_int_equal(overlap_of(router, 1, h, 6, 0), 1);
    assert_true(router_events(router, 1, clear, 4));
    assert_int_equal(overlap_of(router, 1, h, 6, 0), 0);
    /* Nobody: no harm. */
    assert_true(router_events(router, 77, clear, 4));
    assert_int_equal(router_dump_begin(router, 77), ERR_OK);
    router_dump_end(router, 77, 3);
    struct router_counts counts;
    router_get_counts(router, &counts);
    assert_int_equal(counts.dumps, 1);
    assert_int_equal(counts.gaps, 2);
    /* Gone and back: it begins empty. */
    store(router, 2, h, 6);
    router_remove(router, 2);
    assert_int_equal(
        router_add(router,
                   &(struct router_worker){.instance = 2, .block_size = 16, .sends_events = true}),
        ERR_OK);
    assert_int_equal(overlap_of(router, 2, h, 6, 0), 0);
    assert_int_equal(router_event_last(router, 2), 0);
    router_check(router);
    router_destroy(router);
}

static void test_guesses(void **state) {
    struct router_options options;
    struct router *router;
    uint64_t h[6] = {1, 2, 3, 4, 5, 6};
    router_options_init(&options);
    options.policy = ROUTER_KV;
    assert_int_equal(router_create(&options, &router), ERR_OK);
    for (uint64_t i = 1; i <= 3; i++)
        assert_int_equal(router_add(router, &(struct router_worker){.instance = i,
                                                                    .block_size = 16,
                                                                    .sends_events = i != 2}),
                         ERR_OK);
    struct router_request request = request_of(h, 6);
    struct router_choice to1 = {.instance = 1}, to2 = {.instance = 2};
    assert_int_equal(router_start(router, 1, &request, &to1, SECOND), ERR_OK);
    router_end(router, 1);
    /* The sibling finds it there, for a short while; the approximate one for long. */
    assert_int_equal(choose(router, &request, SECOND), 1);
    assert_int_equal(overlap_of(router, 1, h, 6, 5 * SECOND), 6);
    assert_int_equal(overlap_of(router, 1, h, 6, 7 * SECOND), 0);
    assert_int_equal(router_start(router, 2, &request, &to2, 8 * SECOND), ERR_OK);
    assert_int_equal(overlap_of(router, 2, h, 6, 97 * SECOND), 6);
    /* Sent again: it lives on from there. */
    assert_int_equal(router_start(router, 3, &request, &to2, 97 * SECOND), ERR_OK);
    assert_int_equal(overlap_of(router, 2, h, 6, 180 * SECOND), 6);
    assert_int_equal(overlap_of(router, 2, h, 6, 218 * SECOND), 0);
    /* Told and guessed: the better of both. */
    store(router, 1, h, 2);
    assert_int_equal(router_start(router, 4, &request, &to1, 300 * SECOND), ERR_OK);
    assert_int_equal(overlap_of(router, 1, h, 6, 301 * SECOND), 6);
    assert_int_equal(overlap_of(router, 1, h, 6, 310 * SECOND), 2);
    router_remove(router, 1);
    router_remove(router, 2);
    router_check(router);
    router_destroy(router);

    /* Never more than guessed_blocks_max; the newest stay. */
    options.guessed_blocks_max = 1000;
    options.has_events = false;
    assert_int_equal(router_create(&options, &router), ERR_OK);
    assert_int_equal(router_add(router, &(struct router_worker){1, 16, true}), ERR_OK);
    struct router_counts counts;
    uint64_t many[100];
    for (uint64_t i = 0; i < 200; i++) {
        for (uint64_t k = 0; k < 100; k++) many[k] = 1000 + i * 100 + k;
        request = request_of(many, 100);
        assert_int_equal(router_start(router, i + 1, &request, &to1, i * 1000), ERR_OK);
        router_get_counts(router, &counts);
        assert_true(counts.index_guesses <= 1000);
        assert_int_equal(choose(router, &request, i * 1000), 1);
    }
    assert_true(counts.index_guesses >= 500);
    struct router_choice choice;
    assert_int_equal(router_choose(router, &request, SECOND, &choice), ERR_OK);
    assert_int_equal(choice.overlap_blocks, 100);
    router_check(router);
    router_destroy(router);
}

/* Workers come and go, attempts start and end, events jump: nothing breaks, and what is open is
 * chosen. */
static void churn(uint64_t seed, uint32_t rounds) {
    struct router_options options;
    struct router *router;
    uint64_t hashes[64], attempt = 0, now_us = 0, live[200];
    uint32_t live_count = 0;
    bool is_here[40] = {false};
    state_of_random = seed;
    router_options_init(&options);
    options.policy = seed % 5 == 0 ? ROUTER_LEAST_LOADED : ROUTER_KV;
    options.seed = seed;
    options.guessed_blocks_max = 400;
    options.temperature = seed % 3 == 0 ? 0.5 : 0;
    if (router_create(&options, &router)) return;
    for (uint32_t round = 0; round < rounds; round++, now_us += below(400000)) {
        uint64_t instance = 1 + below(39);
        uint64_t root = below(4) * 1000;
        uint32_t count = 1 + below(60);
        for (uint32_t i = 0; i < count; i++) hashes[i] = root + i + (i > 20 ? below(2) * 100 : 0);
        struct router_request request = request_of(hashes, count);
        struct router_choice choice;
        struct kv_event events[8];
        uint64_t number = router_event_last(router, instance) + below(10) / 9;
        for (uint32_t i = 0; i < 8; i++)
            events[i] = (struct kv_event){.number = ++number,
                                          .kind = below(30) == 0 ? KV_EVENT_CLEARED
                                                  : below(4)     ? KV_EVENT_STORED
                                                                 : KV_EVENT_REMOVED,
                                          .hash = root + below(60)};
        switch (below(8)) {
        case 0:
            if (is_here[instance]) router_remove(router, instance), is_here[instance] = false;
            else
                is_here[instance] =
                    !router_add(router, &(struct router_worker){instance, 16, below(3) > 0});
            break;
        case 1: router_set_open(router, instance, below(3) > 0); break;
        case 2:
            router_load(router, instance,
                        &(struct router_load){.blocks_used = below(50),
                                              .request_count = below(9),
                                              .waiting_tokens = below(3000),
                                              .echo = attempt - below((uint32_t) attempt + 1)});
            break;
        case 3:
            if (router_events(router, instance, events, 8)) break;
            if (router_dump_begin(router, instance)) break;
            for (uint32_t i = 0; i < 8; i++) events[i].kind = KV_EVENT_STORED;
            if (below(4)) (void) !router_dump_add(router, instance, events, 8);
            if (below(4)) router_dump_end(router, instance, number);
            break;
        case 4:
            if (live_count) router_first_token(router, live[below(live_count)]);
            break;
        case 5:
            if (!live_count) break;
            uint32_t at = below(live_count);
            router_end(router, live[at]);
            live[at] = live[--live_count];
            break;
        default:
            request.avoided = below(3) ? 0 : instance;
            enum err e = router_choose(router, &request, now_us, &choice);
            assert_int_equal(e, router_open_count(router) ? ERR_OK : ERR_NOT_FOUND);
            if (e) break;
            struct router_view view;
            assert_true(router_get_view(router, choice.instance, &view));
            assert_true(view.is_open && choice.overlap_blocks <= count);
            if (router_open_count(router) > 1)
                assert_true(!request.avoided || choice.instance != request.avoided);
            if (live_count == 200 || router_start(router, ++attempt, &request, &choice, now_us))
                break;
            live[live_count++] = attempt;
        }
        if (round % 16 == 0) router_check(router);
    }
    router_check(router);
    router_destroy(router);
}

static void test_churn(void **state) {
    for (uint64_t seed = 1; seed <= 12; seed++) {
        print_message("seed %u\n", (unsigned) seed);
        churn(seed, 3000);
    }
}

static void test_memory(void **state) {
    for (uint64_t n = 1; n < 400; n++) {
        alloc_fail_at(n, 0);
        churn(1000 + n % 4, 150);
        alloc_fail_at(0, 0);
    }
    for (uint64_t n = 1; n < 60; n++) { /* and from then on all of them */
        alloc_fail_at(n, 1);
        churn(1000 + n % 4, 150);
        alloc_fail_at(0, 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_simple_policies),
        cmocka_unit_test(test_cost),
        cmocka_unit_test(test_ties_and_temperature),
        cmocka_unit_test(test_hit_that_waited),
        cmocka_unit_test(test_quiet_among_tellers),
        cmocka_unit_test(test_echo),
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_guesses),
        cmocka_unit_test(test_churn),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
