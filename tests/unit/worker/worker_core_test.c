/* Goal: each rule of protocol.md 2 alone, message by message: acknowledgement, repetition, SYNC,
 * GONE, CANCEL, silence, refusal, LOAD; and one request's whole life with the n-th allocation
 * failing, after which SYNC still brings every token or the request has been told why not. */
#include "../engine/engine_fixture.h"

#include "worker/worker_core.h"

#define ME 5u
#define FRONTEND 77u

struct net {
    struct rig rig;
    struct worker_core *core;
    struct { /* what the worker sent, oldest first */
        enum bus_subject subject;
        uint32_t kind;
        uint8_t *data;
        size_t bytes;
    } sent[512];
    uint32_t count;
};

static void keep(void *ctx, enum bus_subject subject, uint64_t to, const void *data, size_t bytes) {
    struct net *net = ctx;
    assert_true(net->count < ARRAY_COUNT(net->sent));
    assert_true(subject != BUS_INBOX || to == FRONTEND);
    uint8_t *copy = malloc(bytes);
    memcpy(copy, data, bytes);
    net->sent[net->count].subject = subject;
    net->sent[net->count].kind = msg_peek_kind(data, bytes);
    net->sent[net->count].data = copy;
    net->sent[net->count++].bytes = bytes;
}

static void forget_sent(struct net *net) {
    while (net->count > 0) free(net->sent[--net->count].data);
}

static void net_open_failing(struct net *net, uint64_t sim_fail_batch) {
    memset(net, 0, sizeof *net);
    rig_defaults(&net->rig);
    net->rig.backend_options.sim_fail_batch = sim_fail_batch;
    assert_int_equal(rig_open(&net->rig), ERR_OK);
    struct worker_core_options options = {.engine = net->rig.engine,
                                          .hello = {.instance = ME},
                                          .sync_timeout_ms = 3000,
                                          .send = keep,
                                          .send_ctx = net};
    assert_int_equal(worker_core_create(&options, net->rig.now_us, &net->core), ERR_OK);
}

static void net_open(struct net *net) { net_open_failing(net, 0); }

static void net_close(struct net *net) {
    worker_core_check(net->core);
    worker_core_destroy(net->core);
    forget_sent(net);
    rig_close(&net->rig);
}

static uint32_t count_of(const struct net *net, enum msg_kind kind) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < net->count; i++) count += net->sent[i].kind == (uint32_t) kind;
    return count;
}

static void give(struct net *net, struct buf *out) {
    assert_int_equal(buf_error(out), ERR_OK);
    struct bus_message message = {BUS_INBOX, FRONTEND, out->data, out->bytes};
    worker_core_message(net->core, &message, net->rig.now_us);
    worker_core_flush(net->core, net->rig.now_us);
}

static void encode_generate(struct buf *out, uint64_t attempt, const struct sampling *sampling) {
    static uint32_t prompt[20];
    struct msg_choice choices[2] = {{.index = 0}, {.index = 1}};
    fill_prompt(prompt, 20, 1);
    struct msg_generate message = {.attempt = attempt,
                                   .prompt_ids = prompt,
                                   .prompt_count = 20,
                                   .choices = choices,
                                   .choice_count = 2,
                                   .sampling = *sampling,
                                   .request_id = "r",
                                   .traceparent = ""};
    buf_init(out, 0);
    msg_encode_generate(&message, out);
}

static void generate(struct net *net, uint64_t attempt, uint32_t max_tokens) {
    struct sampling s;
    struct buf out;
    sampling_init(&s);
    s.max_tokens = max_tokens;
    encode_generate(&out, attempt, &s);
    give(net, &out);
    buf_release(&out);
}

static void sync(struct net *net, uint64_t number, uint64_t attempt, uint32_t next) {
    struct msg_sync_choice choices[2] = {{0, next}, {1, next}};
    struct msg_sync_entry entry = {attempt, choices, 2, 1};
    struct buf out;
    buf_init(&out, 0);
    msg_encode_sync(&(struct msg_sync){number, &entry, attempt != 0}, &out);
    give(net, &out);
    buf_release(&out);
}

static void step(struct net *net, uint32_t times) {
    for (uint32_t i = 0; i < times && worker_core_has_work(net->core); i++) {
        net->rig.now_us += 1000;
        assert_int_equal(worker_core_step(net->core, net->rig.now_us), ERR_OK);
        worker_core_check(net->core);
    }
}

static void tick(struct net *net, uint32_t times) {
    for (uint32_t i = 0; i < times; i++) {
        net->rig.now_us += WORKER_TICK_US;
        worker_core_tick(net->core, net->rig.now_us);
    }
}

/* Ids of one choice told so far in what was sent: entries in any order, told twice or not. */
static uint32_t told_ids(const struct net *net, uint64_t attempt, uint32_t choice,
                         uint8_t *finish) {
    uint32_t count = 0;
    *finish = MSG_FINISH_NONE;
    for (uint32_t i = 0; i < net->count; i++) {
        if (net->sent[i].kind != MSG_TOKENS) continue;
        struct arena arena;
        struct msg_tokens tokens;
        arena_init(&arena, 0);
        assert_int_equal(msg_decode_tokens(net->sent[i].data, net->sent[i].bytes, &arena, &tokens),
                         ERR_OK);
        for (uint32_t e = 0; e < tokens.entry_count; e++) {
            const struct msg_tokens_entry *entry = &tokens.entries[e];
            assert_true(entry->is_ack);
            if (entry->attempt != attempt || entry->choice_index != choice) continue;
            if (entry->first_index <= count && entry->first_index + entry->id_count > count)
                count = entry->first_index + entry->id_count;
            if (entry->finish && entry->first_index + entry->id_count == count)
                *finish = entry->finish;
        }
        arena_release(&arena);
    }
    return count;
}

static void test_ack_and_tokens(void **state) {
    struct net net;
    uint8_t finish;
    net_open(&net);
    assert_int_equal(count_of(&net, MSG_HELLO), 1);
    generate(&net, 1, 6);
    assert_int_equal(count_of(&net, MSG_TOKENS), 1); /* the acknowledgement, before any step */
    assert_int_equal(told_ids(&net, 1, 0, &finish), 0);
    generate(&net, 1, 6); /* again: answered, not run twice */
    assert_int_equal(count_of(&net, MSG_TOKENS), 2);
    step(&net, 100);
    for (uint32_t c = 0; c < 2; c++) {
        assert_int_equal(told_ids(&net, 1, c, &finish), 6);
        assert_int_equal(finish, MSG_FINISH_LENGTH);
    }
    struct worker_core_counts counts;
    worker_core_get_counts(net.core, &counts);
    assert_int_equal(counts.repeated_generates, 1);
    struct engine_load load;
    engine_get_load(net.rig.engine, &load);
    assert_int_equal(load.generation_tokens, 12);
    net_close(&net);
}

static void test_sync(void **state) {
    struct net net;
    uint8_t finish;
    net_open(&net);
    generate(&net, 1, 10);
    step(&net, 100);
    forget_sent(&net); /* all of it was lost */
    sync(&net, 1, 1, 3);
    assert_int_equal(told_ids(&net, 1, 0, &finish), 0); /* nothing below what was asked for */
    forget_sent(&net);
    sync(&net, 2, 1, 0);
    assert_int_equal(told_ids(&net, 1, 0, &finish), 10);
    assert_int_equal(told_ids(&net, 1, 1, &finish), 10);
    assert_int_equal(finish, MSG_FINISH_LENGTH);
    forget_sent(&net);
    sync(&net, 2, 1, 0); /* late or twice: not counted */
    assert_int_equal(net.count, 0);
    sync(&net, 3, 1, 10); /* nothing is missing: still an answer */
    assert_int_equal(count_of(&net, MSG_TOKENS), 1);
    sync(&net, 4, 0, 0); /* one that omits it is enough for a finished one */
    assert_true(worker_core_is_empty(net.core));
    forget_sent(&net);
    sync(&net, 5, 1, 0);
    assert_int_equal(count_of(&net, MSG_GONE), 1);
    generate(&net, 1, 10); /* a copy that comes this late is not run */
    assert_int_equal(count_of(&net, MSG_GONE), 2);
    assert_true(worker_core_is_empty(net.core));
    net_close(&net);
}

static void test_omitted(void **state) {
    struct net net;
    net_open(&net);
    generate(&net, 1, 100);
    step(&net, 3);
    sync(&net, 1, 0, 0);
    assert_false(worker_core_is_empty(net.core)); /* one omission may be a crossing */
    sync(&net, 2, 1, 0);
    sync(&net, 3, 0, 0); /* not successive: counted anew */
    assert_false(worker_core_is_empty(net.core));
    sync(&net, 4, 0, 0);
    step(&net, 2);
    assert_true(worker_core_is_empty(net.core));
    rig_is_whole(&net.rig);
    net_close(&net);
}

static void sync_one_choice(struct net *net, uint64_t number, uint32_t index, uint32_t next) {
    struct msg_sync_choice choice = {index, next};
    struct msg_sync_entry entry = {1, &choice, 1, 1};
    struct buf out;
    buf_init(&out, 0);
    msg_encode_sync(&(struct msg_sync){number, &entry, 1}, &out);
    give(net, &out);
    buf_release(&out);
}

/* A choice that two successive SYNCs omit ends alone: no step computes it any more. */
static void test_omitted_choice(void **state) {
    struct net net;
    uint8_t finish;
    struct engine_load load;
    struct worker_core_counts counts;
    net_open(&net);
    generate(&net, 1, 100);
    step(&net, 11);
    sync_one_choice(&net, 1, 1, 0);
    sync(&net, 2, 1, 0); /* not successive: counted anew */
    sync_one_choice(&net, 3, 1, 0);
    step(&net, 10);
    worker_core_get_counts(net.core, &counts);
    assert_int_equal(counts.omitted_choices, 0);
    sync_one_choice(&net, 4, 1, 0);
    uint32_t told = told_ids(&net, 1, 0, &finish);
    assert_in_range(told, 15, 21);
    sync_one_choice(&net, 5, 1, 0); /* once is enough */
    step(&net, 500);
    worker_core_get_counts(net.core, &counts);
    assert_int_equal(counts.omitted_choices, 1);
    assert_int_equal(told_ids(&net, 1, 0, &finish), told);
    assert_int_equal(told_ids(&net, 1, 1, &finish), 100);
    assert_int_equal(finish, MSG_FINISH_LENGTH);
    engine_get_load(net.rig.engine, &load);
    assert_int_equal(load.generation_tokens, 100 + told);
    sync(&net, 6, 0, 0); /* the attempt counts as finished */
    assert_true(worker_core_is_empty(net.core));
    rig_is_whole(&net.rig);
    net_close(&net);
}

static void test_cancel_and_silence(void **state) {
    struct net net;
    struct buf out;
    net_open(&net);
    generate(&net, 1, 100);
    generate(&net, 2, 100);
    step(&net, 3);
    buf_init(&out, 0);
    msg_encode_cancel(&(struct msg_attempt){1}, &out);
    give(&net, &out);
    give(&net, &out); /* idempotent */
    buf_release(&out);
    step(&net, 1); /* at the next step */
    struct engine_load load;
    engine_get_load(net.rig.engine, &load);
    assert_int_equal(load.running_requests, 1);
    tick(&net, 29);
    assert_false(worker_core_is_empty(net.core));
    sync(&net, 1, 2, 0); /* a word in time */
    tick(&net, 29);
    assert_false(worker_core_is_empty(net.core));
    tick(&net, 1);
    step(&net, 2);
    assert_true(worker_core_is_empty(net.core));
    rig_is_whole(&net.rig);
    net_close(&net);
}

static void test_load_and_drain(void **state) {
    struct net net;
    struct arena arena;
    struct msg_load load;
    struct msg_refuse refuse;
    net_open(&net);
    net.rig.now_us += 50000;
    generate(&net, 41, 4); /* waiting goes from none to some: a LOAD at once */
    assert_int_equal(count_of(&net, MSG_LOAD), 1);
    step(&net, 50);
    tick(&net, 3);
    assert_int_equal(count_of(&net, MSG_LOAD), 4);
    arena_init(&arena, 0);
    assert_int_equal(
        msg_decode_load(net.sent[net.count - 1].data, net.sent[net.count - 1].bytes, &arena, &load),
        ERR_OK);
    assert_int_equal(load.sender_count, 1);
    assert_int_equal(load.senders[0].instance, FRONTEND);
    assert_int_equal(load.senders[0].attempt, 41);
    assert_int_equal(load.generation_tokens, 8);
    worker_core_drain(net.core, net.rig.now_us);
    assert_int_equal(count_of(&net, MSG_LOAD), 5);
    forget_sent(&net);
    generate(&net, 42, 4);
    assert_int_equal(count_of(&net, MSG_REFUSE), 1);
    assert_int_equal(msg_decode_refuse(net.sent[0].data, net.sent[0].bytes, &arena, &refuse),
                     ERR_OK);
    assert_int_equal(refuse.reason, MSG_REFUSE_DRAINING);
    arena_release(&arena);
    net_close(&net);
}

static void test_refusals(void **state) {
    struct net net;
    struct sampling s;
    struct buf out;
    struct arena arena;
    struct msg_refuse refuse;
    net_open(&net);
    arena_init(&arena, 0);
    for (uint32_t i = 0; i < 2; i++) {
        sampling_init(&s);
        if (i == 0) s.top_p = 0;
        else s.max_tokens = 3000; /* would never fit 64 blocks of 8 */
        encode_generate(&out, i + 1, &s);
        give(&net, &out);
        buf_release(&out);
        assert_int_equal(count_of(&net, MSG_REFUSE), i + 1);
        uint32_t at = net.count - 1;
        while (net.sent[at].kind != MSG_REFUSE) at--;
        assert_int_equal(msg_decode_refuse(net.sent[at].data, net.sent[at].bytes, &arena, &refuse),
                         ERR_OK);
        assert_int_equal(refuse.reason, i == 0 ? MSG_REFUSE_BAD : MSG_REFUSE_NO_ROOM);
        assert_true(refuse.text[0] != '\0');
    }
    uint8_t junk[40] = {1, 0, MSG_GENERATE, 0, 40};
    worker_core_message(net.core, &(struct bus_message){BUS_INBOX, FRONTEND, junk, sizeof junk},
                        net.rig.now_us);
    worker_core_message(net.core, &(struct bus_message){BUS_INBOX, FRONTEND, junk, 3},
                        net.rig.now_us);
    struct worker_core_counts counts;
    worker_core_get_counts(net.core, &counts);
    assert_int_equal(counts.bad_messages, 2);
    arena_release(&arena);
    assert_true(worker_core_is_empty(net.core));
    net_close(&net);
}

/* One request's life, prompt logprobs and growth included, with the n-th allocation failing. */
static void test_no_memory(void **state) {
    for (uint64_t n = 1;; n++) {
        struct net net;
        struct sampling s;
        struct buf out;
        uint8_t finish = 0;
        net_open(&net);
        sampling_init(&s);
        s.max_tokens = 150; /* the kept ids grow */
        s.logprobs = 1;
        s.prompt_logprobs = 1;
        encode_generate(&out, 1, &s);
        alloc_fail_at(n, 0);
        give(&net, &out);
        for (uint32_t i = 0; i < 400 && worker_core_has_work(net.core); i++)
            assert_int_equal(worker_core_step(net.core, net.rig.now_us), ERR_OK);
        worker_core_tick(net.core, net.rig.now_us + WORKER_TICK_US);
        bool was_hit = alloc_count() >= n;
        alloc_fail_at(0, 0);
        forget_sent(&net);
        sync(&net, 1, 1, 0); /* the frontend heard nothing at all, and asks */
        bool is_refused_or_gone = count_of(&net, MSG_GONE) == 1;
        for (uint32_t c = 0; c < 2 && !is_refused_or_gone; c++) {
            uint32_t count = told_ids(&net, 1, c, &finish);
            if (finish == MSG_FINISH_ERROR) continue;
            assert_int_equal(finish, MSG_FINISH_LENGTH);
            assert_int_equal(count, 150);
        }
        if (!was_hit) assert_int_equal(finish, MSG_FINISH_LENGTH);
        sync(&net, 2, 0, 0);
        sync(&net, 3, 0, 0);
        step(&net, 3);
        assert_true(worker_core_is_empty(net.core));
        rig_is_whole(&net.rig);
        buf_release(&out);
        net_close(&net);
        if (!was_hit) break;
    }
}

/* The device goes in the middle: every live choice is told that it is lost, not that it failed;
 * what was told before stands. */
static void test_device_is_gone(void **state) {
    struct net net;
    uint8_t finish;
    net_open_failing(&net, 6);
    generate(&net, 1, 100);
    generate(&net, 2, 2);
    enum err e = ERR_OK;
    for (int i = 0; i < 20 && !e; i++) {
        net.rig.now_us += 1000;
        e = worker_core_step(net.core, net.rig.now_us);
    }
    assert_int_equal(e, ERR_IO);
    for (uint32_t choice = 0; choice < 2; choice++) {
        assert_true(told_ids(&net, 1, choice, &finish) > 0);
        assert_int_equal(finish, MSG_FINISH_LOST);
        assert_int_equal(told_ids(&net, 2, choice, &finish), 2);
        assert_int_equal(finish, MSG_FINISH_LENGTH);
    }
    net_close(&net);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_device_is_gone), cmocka_unit_test(test_ack_and_tokens),
        cmocka_unit_test(test_sync),           cmocka_unit_test(test_omitted),
        cmocka_unit_test(test_omitted_choice), cmocka_unit_test(test_cancel_and_silence),
        cmocka_unit_test(test_load_and_drain), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
