/* Goal: tokens arrive each once and in order whatever the bus does; lost attempts are found and
 * go on with the very same tokens; refusals, deaths and missing workers become the right answer. */
#include "fake_worker.h"

#include "api/dispatch.h"
#include "base/log.h"
#include "kv/kv_hash.h"

#define WORKS_MAX 64u

struct fixture {
    struct bus *bus;
    struct metrics *metrics;
    struct dispatch *dispatch;
    struct fake_worker worker;
    uint64_t now_us;
    struct dispatch_work works[WORKS_MAX];
    struct token_log logs[WORKS_MAX][3];
    struct token_log prompt_logs[WORKS_MAX];
    struct sampling sampling;
    struct api_error errors[WORKS_MAX];
    uint32_t news_count, failed_count;
};

static const uint32_t prompt[] = {'h', 'i', '!'};

static void on_news(void *ctx, struct dispatch_work *work) {
    struct fixture *f = ctx;
    f->news_count++;
}

static void on_failed(void *ctx, struct dispatch_work *work, const struct api_error *error) {
    struct fixture *f = ctx;
    f->failed_count++;
    f->errors[work - f->works] = *error;
}

static void open_fixture_with(struct fixture *f, struct dispatch_options *options) {
    *f = (struct fixture){.now_us = 1000000};
    assert_int_equal(bus_local_create(4096, 1 << 22, &f->bus), ERR_OK);
    assert_int_equal(metrics_create("m", 100, &f->metrics), ERR_OK);
    options->instance = 7;
    options->version = "1.2.3";
    struct dispatch_handler handler = {.ctx = f, .on_news = on_news, .on_failed = on_failed};
    assert_int_equal(
        dispatch_create(f->bus, options, &handler, f->metrics, NULL, NULL, &f->dispatch), ERR_OK);
    fake_open(&f->worker, f->bus, 1001);
    fake_hello(&f->worker);
    dispatch_poll(f->dispatch, f->now_us);
    sampling_init(&f->sampling);
    f->sampling.max_tokens = 20;
}

static void open_fixture_as(struct fixture *f, enum router_policy policy) {
    struct dispatch_options options;
    dispatch_options_init(&options);
    options.router.policy = policy;
    open_fixture_with(f, &options);
}

static void open_fixture(struct fixture *f) { open_fixture_as(f, ROUTER_LEAST_LOADED); }

static void close_fixture(struct fixture *f) {
    for (uint32_t i = 0; i < WORKS_MAX; i++) {
        dispatch_drop(f->dispatch, &f->works[i]);
        for (int c = 0; c < 3; c++) token_log_release(&f->logs[i][c]);
        token_log_release(&f->prompt_logs[i]);
    }
    dispatch_destroy(f->dispatch);
    if (f->worker.port) fake_close(&f->worker);
    metrics_destroy(f->metrics);
    bus_destroy(f->bus);
}

static enum err submit(struct fixture *f, uint32_t i, uint32_t choices) {
    for (int c = 0; c < 3; c++) token_log_init(&f->logs[i][c], f->sampling.logprobs >= 0);
    token_log_init(&f->prompt_logs[i], true);
    f->works[i] = (struct dispatch_work){.prompt_ids = prompt,
                                         .prompt_count = 3,
                                         .sampling = &f->sampling,
                                         .logs = f->logs[i],
                                         .choice_count = choices,
                                         .prompt_log = &f->prompt_logs[i],
                                         .request_id = "r",
                                         .traceparent = "",
                                         .deadline_us = f->now_us + 300000000};
    return dispatch_submit(f->dispatch, &f->works[i], f->now_us);
}

/* 10 ms of everybody's time. */
static void turn(struct fixture *f) {
    f->now_us += 10000;
    if (f->worker.port) {
        fake_poll(&f->worker);
        fake_step(&f->worker);
    }
    dispatch_poll(f->dispatch, f->now_us);
    if (f->now_us % 50000 == 0) {
        dispatch_tick(f->dispatch, f->now_us);
        if (f->worker.port && !f->worker.is_silent) fake_load(&f->worker, false);
    }
}

static void expect_whole(struct fixture *f, uint32_t i, uint32_t choices, uint32_t count) {
    for (uint32_t c = 0; c < choices; c++) {
        const struct token_log *log = &f->logs[i][c];
        assert_int_equal(log->count, count);
        assert_int_equal(log->finish, MSG_FINISH_LENGTH);
        for (uint32_t k = 0; k < count; k++)
            assert_int_equal(log->ids[k], fake_token(&f->worker, c, k));
    }
    assert_int_equal(f->works[i].state, DISPATCH_IDLE);
}

static void test_plain(void **state) {
    struct fixture f;
    open_fixture(&f);
    assert_int_equal(submit(&f, 0, 2), ERR_OK);
    assert_int_equal(f.works[0].state, DISPATCH_SENT);
    for (int i = 0; i < 40; i++) turn(&f);
    expect_whole(&f, 0, 2, 20);
    assert_true(f.works[0].was_acked && f.works[0].was_admitted);
    assert_int_equal(f.works[0].cached_tokens, 1);
    assert_int_equal(f.works[0].queue_us, 2000);
    assert_int_equal(f.worker.generate_count, 1);
    assert_int_equal(f.worker.cancel_count, 0);
    assert_true(metrics_value(f.metrics, METRIC_TOKEN_GAPS) == 0);
    /* finished: SYNC omits it, a few times, then there is silence */
    for (int i = 0; i < 300; i++) turn(&f);
    uint32_t syncs = f.worker.sync_count;
    for (int i = 0; i < 300; i++) turn(&f);
    assert_int_equal(f.worker.sync_count, syncs);
    close_fixture(&f);
}

/* One that is over between two SYNCs is omitted all the same: its worker need not wait for
 * sync-timeout to forget it. */
static void test_short_one_is_omitted(void **state) {
    struct fixture f;
    open_fixture(&f);
    for (int i = 0; i < 300; i++) turn(&f); /* at rest: no SYNC any more */
    while (f.now_us % 250000 != 10000) turn(&f);
    f.sampling.max_tokens = 1;
    uint32_t syncs = f.worker.sync_count;
    assert_int_equal(submit(&f, 0, 1), ERR_OK);
    for (int i = 0; i < 3; i++) turn(&f);
    expect_whole(&f, 0, 1, 1);
    assert_int_equal(f.worker.sync_count, syncs);
    for (int i = 0; i < 100; i++) turn(&f);
    assert_in_range(f.worker.sync_count, syncs + 2, syncs + 4);
    close_fixture(&f);
}

static void test_loss_doubles_and_late(void **state) {
    static const uint32_t percents[][2] = {{10, 0}, {0, 40}, {30, 30}, {60, 20}};
    for (size_t p = 0; p < ARRAY_COUNT(percents); p++) {
        struct fixture f;
        open_fixture(&f);
        f.worker.loss_percent = percents[p][0];
        f.worker.double_percent = percents[p][1];
        f.sampling.logprobs = 1;
        f.sampling.prompt_logprobs = p == 2 ? 0 : -1;
        for (uint32_t i = 0; i < 30; i++) assert_int_equal(submit(&f, i, i % 3 + 1), ERR_OK);
        bool is_done = false;
        for (int i = 0; i < 3000 && !is_done; i++) {
            turn(&f);
            is_done = true;
            for (uint32_t k = 0; k < 30; k++)
                is_done = is_done && f.works[k].state == DISPATCH_IDLE;
        }
        assert_int_equal(f.failed_count, 0);
        for (uint32_t i = 0; i < 30; i++) {
            expect_whole(&f, i, i % 3 + 1, 20);
            for (uint32_t k = 0; k < 20; k++) assert_true(f.logs[i][0].entries[k].logprob == -0.5f);
            if (p == 2) assert_int_equal(f.prompt_logs[i].count, 2);
        }
        assert_int_equal(metrics_value(f.metrics, METRIC_TOKEN_GAPS) > 0, percents[p][0] > 0);
        close_fixture(&f);
    }
}

/* GENERATE that never arrived: SYNC finds it. */
static void test_lost_generate(void **state) {
    struct fixture f;
    open_fixture(&f);
    f.worker.loses_generate = true;
    assert_int_equal(submit(&f, 0, 1), ERR_OK);
    for (int i = 0; i < 600; i++) turn(&f); /* longer than GONE_MAX denials */
    assert_int_equal(f.failed_count, 0);
    assert_int_equal(f.works[0].state, DISPATCH_SENT);
    assert_true(f.worker.generate_count > 16);
    f.worker.loses_generate = false;
    for (int i = 0; i < 100; i++) turn(&f);
    expect_whole(&f, 0, 1, 20);
    close_fixture(&f);
}

/* A worker that forgot: the attempt goes on where it stood. */
static void test_gone_in_the_middle(void **state) {
    struct fixture f;
    open_fixture(&f);
    assert_int_equal(submit(&f, 0, 2), ERR_OK);
    for (int i = 0; i < 8; i++) turn(&f);
    uint32_t had = f.logs[0][0].count;
    assert_in_range(had, 3, 19);
    fake_forget(&f.worker);
    for (int i = 0; i < 100; i++) turn(&f);
    expect_whole(&f, 0, 2, 20);
    assert_true(f.worker.resumed_tokens >= 2 * had);
    assert_int_equal(f.worker.generate_count, 2);
    close_fixture(&f);
}

/* A dead inbox, then a new worker. */
static void test_worker_dies(void **state) {
    struct fixture f;
    open_fixture(&f);
    assert_int_equal(submit(&f, 0, 1), ERR_OK);
    for (int i = 0; i < 8; i++) turn(&f);
    uint32_t had = f.logs[0][0].count;
    fake_close(&f.worker);
    for (int i = 0; i < 60; i++) turn(&f);
    assert_int_equal(f.works[0].state, DISPATCH_HOMELESS);
    assert_int_equal(dispatch_worker_count(f.dispatch), 0);
    assert_int_equal(submit(&f, 1, 1), ERR_PEER_GONE); /* a new one is told at once */
    fake_open(&f.worker, f.bus, 1002);
    fake_hello(&f.worker);
    for (int i = 0; i < 60; i++) turn(&f);
    expect_whole(&f, 0, 1, 20);
    assert_int_equal(f.worker.resumed_tokens, had);
    assert_true(metrics_value(f.metrics, METRIC_MIGRATIONS) == 1);
    close_fixture(&f);
}

static void test_two_deaths_end_it(void **state) {
    struct fixture f;
    open_fixture(&f);
    assert_int_equal(submit(&f, 0, 1), ERR_OK);
    for (uint64_t life = 0; life < 2; life++) {
        for (int i = 0; i < 8; i++) turn(&f);
        fake_close(&f.worker);
        for (int i = 0; i < 30; i++) turn(&f);
        if (life) break;
        fake_open(&f.worker, f.bus, 1002);
        fake_hello(&f.worker);
    }
    assert_int_equal(f.failed_count, 1);
    assert_int_equal(f.errors[0].status, 500);
    assert_string_equal(f.errors[0].code, "worker_died");
    close_fixture(&f);
}

/* A worker that says so is dead before anybody reaps it: its works go on, and it counts. */
static void test_device_is_gone(void **state) {
    struct fixture f;
    struct fake_worker second;
    open_fixture(&f);
    fake_open(&second, f.bus, 1002);
    fake_hello(&second);
    dispatch_poll(f.dispatch, f.now_us);
    for (uint32_t i = 0; i < 4; i++) assert_int_equal(submit(&f, i, 1 + i % 2), ERR_OK);
    for (int i = 0; i < 8; i++) {
        turn(&f);
        fake_poll(&second);
        fake_step(&second);
    }
    assert_int_equal(second.generate_count, 2);
    fake_lose_device(&f.worker);
    dispatch_poll(f.dispatch, f.now_us); /* no tick is needed */
    for (uint32_t i = 0; i < 4; i++) assert_int_equal(f.works[i].worker, 1002);
    assert_true(metrics_value(f.metrics, METRIC_WORKER_DEATHS) == 1);
    assert_true(metrics_value(f.metrics, METRIC_MIGRATIONS) == 2);
    fake_poll(&second);
    assert_int_equal(second.generate_count, 4);
    /* The second death of two of them ends these; the others wait for a worker. */
    fake_lose_device(&second);
    dispatch_poll(f.dispatch, f.now_us);
    assert_int_equal(f.failed_count, 2);
    fake_open(&f.worker, f.bus, 1003);
    fake_hello(&f.worker);
    for (int i = 0; i < 60; i++) turn(&f);
    uint32_t whole = 0;
    for (uint32_t i = 0; i < 4; i++) {
        if (f.errors[i].status) {
            assert_int_equal(f.errors[i].status, 500);
            assert_string_equal(f.errors[i].code, "worker_died");
            continue;
        }
        expect_whole(&f, i, 1 + i % 2, 20);
        whole++;
    }
    assert_int_equal(whole, 2);
    close_fixture(&f);
    /* Of one process with its worker nothing goes on. */
    struct dispatch_options options;
    dispatch_options_init(&options);
    options.gone_timeout_ms = 0;
    open_fixture_with(&f, &options);
    assert_int_equal(submit(&f, 0, 1), ERR_OK);
    for (int i = 0; i < 8; i++) turn(&f);
    fake_lose_device(&f.worker);
    dispatch_poll(f.dispatch, f.now_us);
    assert_int_equal(f.failed_count, 1);
    assert_int_equal(f.errors[0].status, 500);
    assert_non_null(strstr(f.errors[0].text.text, "the device is gone"));
    close_fixture(&f);
}

static void test_nobody_comes(void **state) {
    struct fixture f;
    open_fixture(&f);
    assert_int_equal(submit(&f, 0, 1), ERR_OK);
    for (int i = 0; i < 4; i++) turn(&f);
    fake_close(&f.worker);
    for (int i = 0; i < 2900; i++) turn(&f);
    assert_int_equal(f.failed_count, 0);
    for (int i = 0; i < 400; i++) turn(&f);
    assert_int_equal(f.failed_count, 1);
    assert_int_equal(f.errors[0].status, 503);
    close_fixture(&f);
}

static void test_refusals(void **state) {
    static const struct {
        uint8_t reason;
        int status;
        uint32_t retry_after_s;
    } cases[] = {
        {MSG_REFUSE_BUSY, 429, 3},
        {MSG_REFUSE_NO_ROOM, 400, 0},
        {MSG_REFUSE_BAD, 400, 0},
        {MSG_REFUSE_DRAINING, 503, 1},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct fixture f;
        open_fixture(&f);
        f.worker.refuses = cases[i].reason;
        f.worker.retry_after_ms = 2500;
        assert_int_equal(submit(&f, 0, 1), ERR_OK);
        for (int k = 0; k < 10; k++) turn(&f);
        assert_int_equal(f.failed_count, 1);
        assert_int_equal(f.errors[0].status, cases[i].status);
        assert_int_equal(f.errors[0].retry_after_s, cases[i].retry_after_s);
        assert_int_equal(f.works[0].state, DISPATCH_IDLE);
        close_fixture(&f);
    }
}

static void test_cancel_and_close(void **state) {
    struct fixture f;
    open_fixture(&f);
    assert_int_equal(submit(&f, 0, 1), ERR_OK);
    assert_int_equal(submit(&f, 1, 2), ERR_OK);
    for (int i = 0; i < 5; i++) turn(&f);
    dispatch_drop(f.dispatch, &f.works[0]);
    dispatch_drop(f.dispatch, &f.works[0]); /* again: nothing */
    f.logs[1][0].is_closed = true;
    dispatch_note_closed(f.dispatch, &f.works[1]); /* one choice still runs */
    assert_int_not_equal(f.works[1].state, DISPATCH_IDLE);
    fake_poll(&f.worker);
    assert_int_equal(f.worker.cancel_count, 1);
    f.logs[1][1].is_closed = true;
    dispatch_note_closed(f.dispatch, &f.works[1]);
    assert_int_equal(f.works[1].state, DISPATCH_IDLE);
    fake_poll(&f.worker);
    assert_int_equal(f.worker.cancel_count, 2);
    uint32_t had = f.logs[0][0].count;
    for (int i = 0; i < 50; i++) turn(&f);
    assert_int_equal(f.logs[0][0].count, had);
    close_fixture(&f);
}

/* A closed choice is no longer asked for, so that the worker ends it; the other comes whole, and
 * what the worker says of the closed one's end is not the request's. */
static void test_closed_choice(void **state) {
    struct fixture f;
    open_fixture(&f);
    f.sampling.max_tokens = 150;
    assert_int_equal(submit(&f, 0, 2), ERR_OK);
    for (int i = 0; i < 10; i++) turn(&f);
    f.logs[0][0].is_closed = true;
    dispatch_note_closed(f.dispatch, &f.works[0]);
    for (int i = 0; i < 60; i++) turn(&f);
    assert_in_range(f.worker.attempts[0].omitted[0], 2, 100);
    assert_int_equal(f.worker.attempts[0].omitted[1], 0);
    assert_in_range(f.worker.attempts[0].made[0], 1, 149);
    struct fake_attempt *attempt = &f.worker.attempts[0];
    fake_tokens(&f.worker, attempt, 0, attempt->made[0], attempt->made[0], true);
    for (int i = 0; i < 150; i++) turn(&f);
    assert_int_equal(f.failed_count, 0);
    assert_int_equal(f.logs[0][1].count, 150);
    assert_int_equal(f.logs[0][1].finish, MSG_FINISH_LENGTH);
    assert_int_equal(f.works[0].state, DISPATCH_IDLE);
    close_fixture(&f);
}

/* Two workers: new work goes to the idler; one that falls silent loses its streams to the other. */
static void test_two_workers(void **state) {
    struct fixture f;
    struct fake_worker second;
    open_fixture(&f);
    fake_open(&second, f.bus, 1002);
    fake_hello(&second);
    f.sampling.max_tokens = 200;
    dispatch_poll(f.dispatch, f.now_us);
    for (uint32_t i = 0; i < 4; i++) assert_int_equal(submit(&f, i, 1), ERR_OK);
    for (int i = 0; i < 10; i++) {
        turn(&f);
        fake_poll(&second);
        fake_step(&second);
    }
    assert_int_equal(f.worker.generate_count, 2);
    assert_int_equal(second.generate_count, 2);
    f.worker.is_silent = true;
    for (int i = 0; i < 900; i++) {
        turn(&f);
        fake_poll(&second);
        fake_step(&second);
        if (f.now_us % 50000 == 0) fake_load(&second, false);
    }
    assert_int_equal(f.failed_count, 0);
    assert_int_equal(second.generate_count, 4);
    for (uint32_t i = 0; i < 4; i++) expect_whole(&f, i, 1, 200);
    fake_close(&second);
    close_fixture(&f);
}

/* Messages of other attempts, other senders and broken ones change nothing. */
static void test_strangers(void **state) {
    struct fixture f;
    open_fixture(&f);
    assert_int_equal(submit(&f, 0, 1), ERR_OK);
    struct fake_worker stranger;
    fake_open(&stranger, f.bus, 2000);
    struct fake_attempt attempt = {.from = 7, .attempt = 1, .is_admitted = true, .max_tokens = 20};
    attempt.choice_count = 1;
    attempt.logprobs = attempt.prompt_logprobs = -1;
    fake_tokens(&stranger, &attempt, 0, 0, 5, false);
    attempt.attempt = 99;
    fake_tokens(&f.worker, &attempt, 0, 0, 5, false);
    (void) bus_send(f.worker.port, BUS_INBOX, 7, "\xff\xff\xff\xff", 4);
    (void) bus_send(f.worker.port, BUS_INBOX, 7, "", 0);
    dispatch_poll(f.dispatch, f.now_us);
    assert_int_equal(f.logs[0][0].count, 0);
    assert_true(metrics_value(f.metrics, METRIC_MESSAGES_DROPPED) == 4);
    for (int i = 0; i < 40; i++) turn(&f);
    expect_whole(&f, 0, 1, 20);
    fake_close(&stranger);
    close_fixture(&f);
}

/* Every allocation may fail: a message is then as good as lost, and repaired. */
static void test_memory(void **state) {
    bool was_reached = true;
    for (uint64_t n = 1; was_reached; n++) {
        struct fixture f;
        open_fixture(&f);
        f.sampling.logprobs = 1;
        assert_int_equal(submit(&f, 0, 2), ERR_OK);
        was_reached = false;
        for (int i = 0; i < 200; i++) {
            f.now_us += 10000;
            fake_poll(&f.worker);
            fake_step(&f.worker);
            if (i < 12) alloc_fail_at(n, 0);
            dispatch_poll(f.dispatch, f.now_us);
            if (f.now_us % 50000 == 0) dispatch_tick(f.dispatch, f.now_us);
            if (alloc_count() >= n && i < 12) was_reached = true;
            alloc_fail_at(0, 0);
        }
        assert_int_equal(f.failed_count, 0);
        expect_whole(&f, 0, 2, 20);
        close_fixture(&f);
        if (n > 1) continue;
        assert_true(was_reached);
    }
}

/* --- several workers ----------------------------------------------------------------------- */

static void open_second(struct fixture *f, struct fake_worker *second) {
    fake_open(second, f->bus, 1002);
    second->name = "VllmWorker.1";
    fake_hello(second);
    dispatch_poll(f->dispatch, f->now_us);
}

/* 10 ms of three. */
static void turn_both(struct fixture *f, struct fake_worker *second) {
    fake_poll(second);
    if (!second->is_silent) fake_step(second);
    turn(f);
    if (f->now_us % 100000 == 0 && !second->is_silent) fake_load(second, false);
}

/* Stopped for a while: its streams move, what it says when it wakes is not heard, and after three
 * good LOADs it gets work again. */
static void test_suspect_and_back(void **state) {
    struct fixture f;
    struct fake_worker second;
    open_fixture(&f);
    open_second(&f, &second);
    f.sampling.max_tokens = 190;
    for (uint32_t i = 0; i < 4; i++) assert_int_equal(submit(&f, i, 1), ERR_OK);
    for (int i = 0; i < 20; i++) turn_both(&f, &second);
    assert_int_equal(second.generate_count, 2);
    second.is_silent = true;
    for (int i = 0; i < 90; i++) turn_both(&f, &second);
    assert_int_equal(dispatch_worker_count(f.dispatch), 2);
    for (int i = 0; i < 25; i++) turn_both(&f, &second);
    assert_int_equal(dispatch_worker_count(f.dispatch), 1);
    assert_int_equal(f.worker.generate_count, 4);
    assert_true(metrics_value(f.metrics, METRIC_MIGRATIONS) == 2);
    assert_true(metrics_value(f.metrics, METRIC_SUSPECTS) == 1);
    /* It wakes and goes on with what it had: dropped, each token comes once. */
    double dropped = metrics_value(f.metrics, METRIC_MESSAGES_DROPPED);
    second.is_silent = false;
    for (uint32_t i = 0; i < second.attempt_count; i++)
        fake_tokens(&second, &second.attempts[i], 0, 5, 25, false);
    turn_both(&f, &second);
    assert_true(metrics_value(f.metrics, METRIC_MESSAGES_DROPPED) >= dropped + 2);
    assert_int_equal(dispatch_worker_count(f.dispatch), 1);
    for (int i = 0; i < 50; i++) turn_both(&f, &second);
    assert_int_equal(dispatch_worker_count(f.dispatch), 2);
    assert_true(metrics_value(f.metrics, METRIC_SUSPECTS_BACK) == 1);
    for (int i = 0; i < 300; i++) turn_both(&f, &second);
    for (uint32_t i = 0; i < 4; i++) expect_whole(&f, i, 1, 190);
    assert_int_equal(f.failed_count, 0);
    fake_close(&second);
    close_fixture(&f);
}

/* Two that fall silent together: the bus carries nothing, and neither is a place to move to, not
 * even when one is heard a tick earlier than the other. */
static void test_all_silent(void **state) {
    struct fixture f;
    struct fake_worker second;
    open_fixture(&f);
    open_second(&f, &second);
    f.sampling.max_tokens = 190;
    for (uint32_t i = 0; i < 4; i++) assert_int_equal(submit(&f, i, 1), ERR_OK);
    for (int i = 0; i < 20; i++) turn_both(&f, &second);
    f.worker.is_silent = true;
    for (int i = 0; i < 15; i++) turn_both(&f, &second);
    second.is_silent = true;
    for (int i = 0; i < 200; i++) turn_both(&f, &second);
    assert_int_equal(dispatch_worker_count(f.dispatch), 0);
    f.worker.is_silent = second.is_silent = false;
    for (int i = 0; i < 400; i++) turn_both(&f, &second);
    assert_true(metrics_value(f.metrics, METRIC_SUSPECTS) == 2);
    assert_true(metrics_value(f.metrics, METRIC_MIGRATIONS) == 0);
    for (uint32_t i = 0; i < 4; i++) expect_whole(&f, i, 1, 190);
    fake_close(&second);
    close_fixture(&f);
}

/* With nobody else a suspect keeps its streams, and new work waits for it to come back. */
static void test_only_suspect(void **state) {
    struct fixture f;
    open_fixture(&f);
    f.sampling.max_tokens = 100;
    assert_int_equal(submit(&f, 0, 1), ERR_OK);
    for (int i = 0; i < 10; i++) turn(&f);
    f.worker.is_silent = true;
    for (int i = 0; i < 150; i++) turn(&f);
    assert_int_equal(dispatch_worker_count(f.dispatch), 0);
    assert_int_equal(submit(&f, 1, 1), ERR_OK);
    assert_int_equal(f.works[1].state, DISPATCH_HOMELESS);
    assert_int_equal(f.works[0].state, DISPATCH_RUNNING);
    f.worker.is_silent = false;
    for (int i = 0; i < 300; i++) turn(&f);
    expect_whole(&f, 0, 1, 100);
    expect_whole(&f, 1, 1, 100);
    assert_int_equal(f.worker.generate_count, 2);
    assert_true(metrics_value(f.metrics, METRIC_MIGRATIONS) == 0);
    /* Silent for gone_timeout: dead, and who waited for it alone is told at once; back after that:
     * a worker like any other. */
    f.worker.is_silent = true;
    for (int i = 0; i < 150; i++) turn(&f);
    assert_int_equal(submit(&f, 4, 1), ERR_OK);
    assert_int_equal(f.works[4].state, DISPATCH_HOMELESS);
    for (int i = 0; i < 950; i++) turn(&f);
    assert_int_equal(f.failed_count, 1);
    assert_int_equal(f.errors[4].status, 503);
    assert_int_equal(f.errors[4].retry_after_s, 1);
    assert_int_equal(submit(&f, 2, 1), ERR_PEER_GONE);
    f.worker.is_silent = false;
    for (int i = 0; i < 300; i++) turn(&f);
    assert_int_equal(submit(&f, 3, 1), ERR_OK);
    for (int i = 0; i < 200; i++) turn(&f);
    expect_whole(&f, 3, 1, 100);
    close_fixture(&f);
}

/* LOADs come, but its steps stand still with work waiting. */
static void test_steps_stand_still(void **state) {
    struct fixture f;
    struct fake_worker second;
    open_fixture(&f);
    open_second(&f, &second);
    f.sampling.max_tokens = 100;
    for (uint32_t i = 0; i < 2; i++) assert_int_equal(submit(&f, i, 1), ERR_OK);
    for (int i = 0; i < 20; i++) turn_both(&f, &second);
    for (int i = 0; i < 700; i++) {
        second.step_count = 5; /* counted up before it is told: always 6 */
        fake_poll(&second);
        turn(&f);
        if (f.now_us % 100000 == 0) fake_load(&second, false);
    }
    assert_int_equal(dispatch_worker_count(f.dispatch), 1);
    for (uint32_t i = 0; i < 2; i++) expect_whole(&f, i, 1, 100);
    assert_int_equal(f.failed_count, 0);
    fake_close(&second);
    close_fixture(&f);
}

/* Reaped: at once, for ever, each stream goes on elsewhere; two deaths end a request. */
static void test_roster(void **state) {
    struct fixture f;
    struct fake_worker second;
    open_fixture(&f);
    open_second(&f, &second);
    f.sampling.max_tokens = 100;
    for (uint32_t i = 0; i < 6; i++) assert_int_equal(submit(&f, i, 1), ERR_OK);
    for (int i = 0; i < 20; i++) turn_both(&f, &second);
    fake_roster(&f.worker, 1002);
    dispatch_poll(f.dispatch, f.now_us);
    fake_poll(&f.worker);
    assert_int_equal(f.worker.generate_count, 6); /* within this very poll */
    assert_int_equal(dispatch_worker_count(f.dispatch), 1);
    fake_hello(&second); /* a late word of the dead */
    fake_load(&second, false);
    for (int i = 0; i < 150; i++) turn(&f);
    assert_int_equal(dispatch_worker_count(f.dispatch), 1);
    for (uint32_t i = 0; i < 6; i++) expect_whole(&f, i, 1, 100);
    assert_true(metrics_value(f.metrics, METRIC_MIGRATIONS) == 3);
    assert_true(metrics_value(f.metrics, METRIC_WORKER_DEATHS) == 1);
    fake_close(&second);
    close_fixture(&f);
}

/* All reaped together: no request moves from one of the dead to another and counts two deaths; the
 * streams wait for a worker, a new request is told at once. */
static void test_all_die_together(void **state) {
    struct fixture f;
    struct fake_worker second;
    open_fixture(&f);
    open_second(&f, &second);
    f.sampling.max_tokens = 100;
    for (uint32_t i = 0; i < 6; i++) assert_int_equal(submit(&f, i, 1), ERR_OK);
    for (int i = 0; i < 20; i++) turn_both(&f, &second);
    fake_roster_of(&f.worker, (const uint64_t[]){1001, 1002}, 2);
    dispatch_poll(f.dispatch, f.now_us);
    assert_int_equal(f.failed_count, 0);
    assert_int_equal(dispatch_worker_count(f.dispatch), 0);
    for (uint32_t i = 0; i < 6; i++) {
        assert_int_equal(f.works[i].state, DISPATCH_HOMELESS);
        assert_int_equal(f.works[i].lost_count, 1);
    }
    assert_int_equal(submit(&f, 6, 1), ERR_PEER_GONE);
    fake_close(&f.worker);
    fake_close(&second);
    fake_open(&f.worker, f.bus, 1003);
    fake_hello(&f.worker);
    for (int i = 0; i < 150; i++) turn(&f);
    for (uint32_t i = 0; i < 6; i++) expect_whole(&f, i, 1, 100);
    close_fixture(&f);
}

/* Requests go only where they fit whole: a shorter worker gets the short ones, and no stream that
 * it would cut off. */
static void test_shorter_worker(void **state) {
    struct fixture f;
    struct fake_worker second;
    open_fixture(&f);
    fake_open(&second, f.bus, 1002);
    second.len_max = 60;
    fake_hello(&second);
    dispatch_poll(f.dispatch, f.now_us);
    f.sampling.max_tokens = 58; /* and 3 of the prompt: 61 */
    for (uint32_t i = 0; i < 4; i++) assert_int_equal(submit(&f, i, 1), ERR_OK);
    for (int i = 0; i < 10; i++) turn_both(&f, &second);
    assert_int_equal(f.worker.generate_count, 4);
    fake_roster(&second, 1001);
    for (int i = 0; i < 10; i++) turn_both(&f, &second);
    assert_int_equal(second.generate_count, 0);
    for (uint32_t i = 0; i < 4; i++) assert_int_equal(f.works[i].state, DISPATCH_HOMELESS);
    fake_close(&f.worker);
    fake_open(&f.worker, f.bus, 1003);
    fake_hello(&f.worker);
    for (int i = 0; i < 100; i++) turn_both(&f, &second);
    for (uint32_t i = 0; i < 4; i++) expect_whole(&f, i, 1, 58);
    assert_int_equal(second.generate_count, 0);
    f.sampling.max_tokens = 57;
    for (uint32_t i = 4; i < 8; i++) assert_int_equal(submit(&f, i, 1), ERR_OK);
    for (int i = 0; i < 100; i++) turn_both(&f, &second);
    for (uint32_t i = 4; i < 8; i++) expect_whole(&f, i, 1, 57);
    assert_in_range(second.generate_count, 1, 3);
    fake_close(&second);
    close_fixture(&f);
}

/* BYE: what runs there finishes there; when it leaves earlier, the rest moves and no death is
 * counted. */
static void test_bye(void **state) {
    for (int leaves_early = 0; leaves_early < 2; leaves_early++) {
        struct fixture f;
        struct fake_worker second;
        open_fixture(&f);
        open_second(&f, &second);
        f.sampling.max_tokens = 60;
        for (uint32_t i = 0; i < 4; i++) assert_int_equal(submit(&f, i, 1), ERR_OK);
        for (int i = 0; i < 10; i++) turn_both(&f, &second);
        fake_bye(&second);
        dispatch_poll(f.dispatch, f.now_us);
        assert_int_equal(dispatch_worker_count(f.dispatch), 1);
        assert_int_equal(submit(&f, 4, 1), ERR_OK);
        if (leaves_early) {
            fake_close(&second);
            fake_roster(&f.worker, 1002);
            for (int i = 0; i < 100; i++) turn(&f);
        } else {
            for (int i = 0; i < 100; i++) turn_both(&f, &second);
            fake_close(&second);
        }
        for (uint32_t i = 0; i < 5; i++) expect_whole(&f, i, 1, 60);
        assert_int_equal(second.generate_count, 2);
        assert_int_equal(f.worker.generate_count, leaves_early ? 5 : 3);
        assert_true(metrics_value(f.metrics, METRIC_WORKER_DEATHS) == 0);
        assert_int_equal(f.works[0].lost_count + f.works[1].lost_count, 0);
        close_fixture(&f);
    }
}

/* Who differs is refused while the others are there. */
static void test_unlike_workers(void **state) {
    struct fixture f;
    struct fake_worker second;
    open_fixture(&f);
    f.worker.numeric_digest = 5;
    fake_hello(&f.worker);
    fake_open(&second, f.bus, 1002);
    second.block_size = 32;
    fake_hello(&second);
    dispatch_poll(f.dispatch, f.now_us);
    assert_int_equal(dispatch_worker_count(f.dispatch), 1);
    second.block_size = 16;
    second.numeric_digest = 6;
    fake_hello(&second);
    dispatch_poll(f.dispatch, f.now_us);
    assert_int_equal(dispatch_worker_count(f.dispatch), 1);
    /* The only like one dies: its stream is not taken over, and the answer says why; a new request
     * runs on the other. */
    f.sampling.max_tokens = 60;
    assert_int_equal(submit(&f, 0, 1), ERR_OK);
    for (int i = 0; i < 10; i++) turn_both(&f, &second);
    assert_int_equal(f.logs[0][0].count > 0, 1);
    fake_roster(&second, 1001);
    fake_close(&f.worker);
    turn_both(&f, &second);
    assert_int_equal(f.works[0].state, DISPATCH_HOMELESS);
    assert_int_equal(submit(&f, 1, 1), ERR_OK);
    for (int i = 0; i < 3100; i++) turn_both(&f, &second);
    assert_int_equal(f.failed_count, 1);
    assert_int_equal(f.errors[0].status, 503);
    assert_non_null(strstr(f.errors[0].text.text, "numbers"));
    expect_whole(&f, 1, 1, 60);
    fake_close(&second);
    close_fixture(&f);
}

/* kv: events say where a prefix lies; a gap and a late frontend ask for a dump, in parts, in
 * whatever order, and hold live events back meanwhile. */
static void test_kv(void **state) {
    struct fixture f;
    struct fake_worker second;
    static uint32_t long_prompt[64];
    uint64_t hashes[4];
    struct router_counts counts;
    open_fixture_as(&f, ROUTER_KV);
    for (uint32_t i = 0; i < 64; i++) long_prompt[i] = i + 1;
    kv_hash_sequence(long_prompt, 64, 16, hashes);
    second = (struct fake_worker){0};
    fake_open(&second, f.bus, 1002);
    /* It was there before: two blocks known only to its dump. */
    second.kv_number = 10;
    second.kv_block_count = 2;
    for (uint32_t i = 0; i < 2; i++)
        second.kv_blocks[i] = (struct msg_kv_block){.hash = hashes[i], .local_hash = 1};
    fake_hello(&second);
    dispatch_poll(f.dispatch, f.now_us);
    fake_kv_event(&second, MSG_KV_STORED, hashes[2]); /* held back until the dump is there */
    second.kv_number = 10;                            /* the dump was made before that event */
    dispatch_poll(f.dispatch, f.now_us);
    for (int i = 0; i < 5; i++) turn_both(&f, &second);
    second.kv_number = 11;
    assert_int_equal(second.dump_asks, 1);
    assert_int_equal(f.worker.dump_asks, 1);
    dispatch_get_router_counts(f.dispatch, &counts);
    assert_int_equal(counts.index_entries, 3);
    assert_int_equal(counts.dumps, 2);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(submit(&f, i, 1), ERR_OK);
        dispatch_drop(f.dispatch, &f.works[i]);
        for (int c = 0; c < 3; c++) token_log_release(&f.logs[i][c]);
        token_log_release(&f.prompt_logs[i]);
        f.works[i].prompt_ids = long_prompt;
        f.works[i].prompt_count = 64;
        for (int c = 0; c < 3; c++) token_log_init(&f.logs[i][c], false);
        assert_int_equal(dispatch_submit(f.dispatch, &f.works[i], f.now_us), ERR_OK);
        assert_int_equal(f.works[i].worker, 1002);
        dispatch_drop(f.dispatch, &f.works[i]);
    }
    dispatch_get_router_counts(f.dispatch, &counts);
    assert_in_range(counts.overlap_blocks, 3, 12);
    /* A lost event: the next one shows the gap, and the dump mends it. */
    second.kv_number += 1;
    second.kv_blocks[second.kv_block_count++] =
        (struct msg_kv_block){.hash = hashes[2], .local_hash = 1};
    second.kv_blocks[second.kv_block_count++] =
        (struct msg_kv_block){.hash = 1234, .local_hash = 1};
    fake_kv_event(&second, MSG_KV_STORED, 5678);
    second.kv_blocks[second.kv_block_count++] =
        (struct msg_kv_block){.hash = 5678, .local_hash = 1};
    second.ignores_dumps = true; /* the first ask is lost: it is repeated */
    for (int i = 0; i < 30; i++) turn_both(&f, &second);
    second.ignores_dumps = false;
    for (int i = 0; i < 60; i++) turn_both(&f, &second);
    dispatch_get_router_counts(f.dispatch, &counts);
    assert_int_equal(counts.index_entries, 5);
    assert_true(second.dump_asks >= 3);
    /* A last event lost: LOAD is ahead of it. */
    uint32_t asks = second.dump_asks;
    second.kv_number++;
    second.kv_block_count = 0;
    for (int i = 0; i < 60; i++) turn_both(&f, &second);
    assert_int_equal(second.dump_asks, asks + 1);
    dispatch_get_router_counts(f.dispatch, &counts);
    assert_int_equal(counts.index_entries, 0);
    fake_close(&second);
    close_fixture(&f);
}

/* Every allocation of meeting two workers, their dumps, events and a death may fail: it is made up
 * for. */
static void test_memory_of_workers(void **state) {
    bool was_reached = true;
    for (uint64_t n = 1; was_reached; n++) {
        struct fixture f;
        struct fake_worker second;
        struct router_counts counts;
        open_fixture_as(&f, ROUTER_KV);
        f.sampling.max_tokens = 30;
        fake_open(&second, f.bus, 1002);
        second.kv_number = 7;
        second.kv_block_count = 3;
        for (uint32_t i = 0; i < 3; i++)
            second.kv_blocks[i] = (struct msg_kv_block){.hash = 50 + i, .local_hash = 1};
        fake_hello(&second);
        was_reached = false;
        for (int i = 0; i < 400; i++) {
            if (i == 10) fake_kv_event(&second, MSG_KV_STORED, 60);
            if (i == 10)
                second.kv_blocks[second.kv_block_count++] =
                    (struct msg_kv_block){.hash = 60, .local_hash = 1};
            if (i == 20) assert_int_equal(submit(&f, 0, 1), ERR_OK);
            fake_poll(&second);
            fake_step(&second);
            fake_poll(&f.worker);
            fake_step(&f.worker);
            f.now_us += 10000;
            if (i < 30) alloc_fail_at(n, 0);
            dispatch_poll(f.dispatch, f.now_us);
            if (f.now_us % 50000 == 0) dispatch_tick(f.dispatch, f.now_us);
            if (alloc_count() >= n && i < 30) was_reached = true;
            alloc_fail_at(0, 0);
            if (f.now_us % 100000 == 0) fake_load(&second, false);
            if (f.now_us % 100000 == 0) fake_load(&f.worker, false);
        }
        assert_int_equal(dispatch_worker_count(f.dispatch), 2);
        dispatch_get_router_counts(f.dispatch, &counts);
        assert_int_equal(counts.index_entries, 4);
        assert_int_equal(f.failed_count, 0);
        expect_whole(&f, 0, 1, 30);
        fake_close(&second);
        close_fixture(&f);
        assert_true(n < 500);
    }
}

static void test_render(void **state) {
    struct fixture f;
    struct fake_worker second;
    struct buf out;
    char name[DISPATCH_NAME_BYTES];
    open_fixture(&f);
    f.worker.name = "VllmWorker.1"; /* twice the same: told apart */
    fake_hello(&f.worker);
    open_second(&f, &second);
    for (int i = 0; i < 20; i++) turn_both(&f, &second);
    buf_init(&out, 0);
    dispatch_worker_render(f.dispatch, &out);
    const char *text = buf_string(&out);
    assert_non_null(strstr(text, "gramme_worker_up{worker=\"VllmWorker.1-00000000000003ea\"} 1\n"));
    assert_non_null(strstr(text, "gramme_worker_kv_blocks{worker=\"VllmWorker.1-"));
    buf_release(&out);
    dispatch_worker_name(f.dispatch, 1002, name);
    assert_string_equal(name, "VllmWorker.1");
    dispatch_worker_name(f.dispatch, 255, name);
    assert_string_equal(name, "00000000000000ff");
    fake_close(&second);
    close_fixture(&f);
}

int main(void) {
    log_configure(LOG_ERROR, LOG_HUMAN, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_short_one_is_omitted),
        cmocka_unit_test(test_loss_doubles_and_late),
        cmocka_unit_test(test_lost_generate),
        cmocka_unit_test(test_gone_in_the_middle),
        cmocka_unit_test(test_worker_dies),
        cmocka_unit_test(test_two_deaths_end_it),
        cmocka_unit_test(test_device_is_gone),
        cmocka_unit_test(test_nobody_comes),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_cancel_and_close),
        cmocka_unit_test(test_closed_choice),
        cmocka_unit_test(test_two_workers),
        cmocka_unit_test(test_strangers),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_suspect_and_back),
        cmocka_unit_test(test_only_suspect),
        cmocka_unit_test(test_all_silent),
        cmocka_unit_test(test_steps_stand_still),
        cmocka_unit_test(test_roster),
        cmocka_unit_test(test_all_die_together),
        cmocka_unit_test(test_shorter_worker),
        cmocka_unit_test(test_bye),
        cmocka_unit_test(test_unlike_workers),
        cmocka_unit_test(test_kv),
        cmocka_unit_test(test_memory_of_workers),
        cmocka_unit_test(test_render),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
