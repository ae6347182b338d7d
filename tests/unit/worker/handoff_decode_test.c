/* Goal: the rule that sends prompts away holds case by case: lengths, prefix hits, queues with our
 * own unseen attempts in them, who is asked; workers that are unlike, silent, stuck, dead or
 * draining get nothing, and a suspect one is itself again after three good LOADs. */
#include "../engine/engine_fixture.h"

#include <stdio.h>
#include <time.h>

#include "base/clock.h"
#include "worker/handoff_decode.h"
#include "worker/handoff_peers.h"
#include "xfer/xfer.h"

#define OWN 5u
#define WAIT_US 60000000u /* a hang is a failure; nothing here is a timing */

struct book {
    struct rig rig;
    struct xfer *own_xfer, *peer_xfer;
    struct msg_hello hello;
    struct handoff_decode *decode;
    struct {
        uint32_t kind;
        uint64_t to, attempt;
    } sent[256];
    uint32_t sent_count;
    uint64_t now_us, engine_id;
    uint32_t prompt[600];
};

static void on_send(void *ctx, enum bus_subject subject, uint64_t to, const void *data,
                    size_t bytes) {
    struct book *book = ctx;
    uint32_t kind = msg_peek_kind(data, bytes);
    if (kind == MSG_SYNC || book->sent_count == 256) return;
    book->sent[book->sent_count].kind = kind;
    book->sent[book->sent_count].to = to;
    if (kind == MSG_PREFILL) {
        struct arena arena;
        struct msg_prefill prefill;
        arena_init(&arena, 0);
        assert_int_equal(msg_decode_prefill(data, bytes, &arena, &prefill), ERR_OK);
        book->sent[book->sent_count].attempt = prefill.attempt;
        arena_release(&arena);
    }
    book->sent_count++;
}

static struct xfer *open_xfer(struct rig *rig, uint64_t instance) {
    struct kv_layout layout;
    struct xfer *xfer = NULL;
    struct err_text text = {""};
    sim_backend_ops.kv_layout(rig->backend, 0, &layout);
    struct xfer_options options = {
        .instance = instance, .layouts = &layout, .rank_count = 1, .block_size = 8};
    if (xfer_local_create(&options, &text, &xfer)) fail_msg("%s", text.text);
    return xfer;
}

static void book_open(struct book *book, bool is_conditional) {
    *book = (struct book){.now_us = 1000000};
    rig_defaults(&book->rig);
    book->rig.engine_options.block_count = 200;
    assert_int_equal(rig_open(&book->rig), ERR_OK);
    book->own_xfer = open_xfer(&book->rig, OWN);
    book->peer_xfer = open_xfer(&book->rig, 6);
    book->hello = (struct msg_hello){
        .instance = OWN, .component = 1, .numeric_digest = 7, .block_size = 8, .tp = 1};
    struct handoff_options options = {.engine = book->rig.engine,
                                      .xfer = book->own_xfer,
                                      .hello = &book->hello,
                                      .rule = {.is_remote = true,
                                               .is_conditional = is_conditional,
                                               .local_tokens_max = 50,
                                               .queue_max = 2,
                                               .timeout_ms = 30000},
                                      .step_timeout_ms = 2000,
                                      .send = on_send,
                                      .send_ctx = book};
    assert_int_equal(handoff_decode_create(&options, book->now_us, &book->decode), ERR_OK);
    fill_prompt(book->prompt, 600, 5);
}

static void book_close(struct book *book) {
    handoff_decode_check(book->decode);
    handoff_decode_destroy(book->decode);
    xfer_destroy(book->own_xfer);
    xfer_destroy(book->peer_xfer);
    rig_close(&book->rig);
}

static void take(struct book *book, uint64_t from, struct buf *out) {
    struct arena arena;
    struct bus_message message = {BUS_INBOX, from, out->data, out->bytes};
    assert_int_equal(buf_error(out), ERR_OK);
    arena_init(&arena, 0);
    assert_true(handoff_decode_take(book->decode, &message, &arena, book->now_us));
    arena_release(&arena);
    buf_release(out);
}

static void say_hello_of(struct book *book, uint64_t instance, uint64_t digest, const char *address,
                         uint32_t len_max) {
    struct msg_hello hello = {.instance = instance,
                              .component = 2,
                              .numeric_digest = digest,
                              .block_size = 8,
                              .tp = 1,
                              .model_len_max = len_max};
    struct buf out;
    snprintf(hello.transfer_address, sizeof hello.transfer_address, "%s", address);
    buf_init(&out, 0);
    msg_encode_hello(&hello, &out);
    take(book, instance, &out);
}

static void say_hello(struct book *book, uint64_t instance, uint64_t digest, const char *address) {
    say_hello_of(book, instance, digest, address, 1000);
}

static void say_load(struct book *book, uint64_t instance, uint32_t queued, uint64_t tokens,
                     uint64_t steps, uint64_t echo, bool is_draining) {
    struct msg_load_sender sender = {OWN, echo};
    struct msg_load load = {.queued_prefills = queued,
                            .queued_prefill_tokens = tokens,
                            .step_count = steps,
                            .is_draining = is_draining,
                            .senders = &sender,
                            .sender_count = 1};
    struct buf out;
    buf_init(&out, 0);
    msg_encode_load(&load, &out);
    take(book, instance, &out);
}

static bool wants(struct book *book, uint32_t count, uint64_t named) {
    struct msg_choice choice = {0};
    struct msg_generate message = {.attempt = 1,
                                   .prompt_ids = book->prompt,
                                   .prompt_count = count,
                                   .choices = &choice,
                                   .choice_count = 1,
                                   .prefill_instance = named,
                                   .request_id = "r",
                                   .traceparent = ""};
    sampling_init(&message.sampling);
    return handoff_decode_wants(book->decode, ++book->engine_id, &message, book->now_us);
}

/* The rule alone: the record goes again. */
static bool would(struct book *book, uint32_t count) {
    bool is_remote = wants(book, count, 0);
    handoff_decode_end(book->decode, book->engine_id);
    return is_remote;
}

static uint64_t result(struct book *book, enum msg_remote_result which) {
    struct handoff_decode_counts counts;
    handoff_decode_get_counts(book->decode, &counts);
    return counts.results[which];
}

/* Until the small transfer has shown that the path is good. */
static void prove(struct book *book) {
    for (uint64_t end = clock_now_us() + WAIT_US; clock_now_us() < end;) {
        handoff_decode_poll(book->decode, book->now_us);
        if (would(book, 100)) return;
        nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
    }
    fail_msg("the path is not proven");
}

static void test_lengths(void **state) {
    for (unsigned is_conditional = 0; is_conditional <= 1; is_conditional++) {
        struct book book;
        book_open(&book, is_conditional);
        assert_false(would(&book, 100));
        assert_int_equal(result(&book, MSG_REMOTE_LOCAL_NO_PEER), 1);
        say_hello(&book, 6, 7, xfer_address(book.peer_xfer));
        prove(&book);
        assert_int_equal(would(&book, 51), 1);
        assert_int_equal(would(&book, 50), !is_conditional);
        assert_int_equal(would(&book, 2), !is_conditional);
        assert_false(would(&book, 1)); /* the last token is computed here anyway */
        /* Half of 200 blocks of 8: up to 799 tokens and one more. */
        assert_true(would(&book, 600));
        book_close(&book);
    }
}

/* 80 tokens are cached: of 130 only 50 are left, of 131 more. */
static void test_prefix_hits(void **state) {
    struct book book;
    struct watch watch;
    struct sampling sampling;
    struct err_text text = {""};
    struct engine_choice choice = {0};
    book_open(&book, true);
    say_hello(&book, 6, 7, xfer_address(book.peer_xfer));
    prove(&book);
    watch_init(&watch);
    sampling_init(&sampling);
    struct engine_request request = {.id = 999,
                                     .prompt_ids = book.prompt,
                                     .prompt_count = 80,
                                     .choices = &choice,
                                     .choice_count = 1,
                                     .sampling = &sampling};
    assert_int_equal(engine_add(book.rig.engine, &request, &text), ERR_OK);
    rig_run(&book.rig, &watch);
    assert_int_equal(engine_prefix_hit(book.rig.engine, book.prompt, 130), 80);
    assert_false(would(&book, 130));
    assert_true(would(&book, 131));
    watch_release(&watch);
    book_close(&book);
}

/* A remote prompt that has its blocks: somebody is asked.  Its engine id. */
static uint64_t place(struct book *book, uint32_t count) {
    struct err_text text = {""};
    struct sampling sampling;
    struct engine_choice choice = {0};
    const struct engine_output *outputs;
    uint32_t output_count;
    sampling_init(&sampling);
    assert_true(wants(book, count, 0));
    struct engine_request request = {.kind = ENGINE_REMOTE,
                                     .id = book->engine_id,
                                     .prompt_ids = book->prompt,
                                     .prompt_count = count,
                                     .choices = &choice,
                                     .choice_count = 1,
                                     .sampling = &sampling};
    assert_int_equal(engine_add(book->rig.engine, &request, &text), ERR_OK);
    assert_int_equal(engine_step(book->rig.engine, 1, &outputs, &output_count), ERR_OK);
    assert_true(output_count == 1 && outputs[0].is_placed);
    handoff_decode_admitted(book->decode, request.id, true, 0, book->now_us);
    return request.id;
}

static void take_release(struct book *book) {
    struct xfer_event event = {0};
    for (uint64_t end = clock_now_us() + WAIT_US; clock_now_us() < end;) {
        if (xfer_take(book->own_xfer, &event)) break;
        nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
    }
    assert_int_equal(event.kind, XFER_RELEASED);
    handoff_decode_event(book->decode, &event, book->now_us);
}

static void test_queue(void **state) {
    struct book book;
    book_open(&book, true);
    say_hello(&book, 6, 7, xfer_address(book.peer_xfer));
    prove(&book);
    say_load(&book, 6, 1, 100, 1, 0, false);
    assert_true(would(&book, 100));
    say_load(&book, 6, 2, 200, 2, 0, false);
    assert_false(would(&book, 100));
    assert_int_equal(result(&book, MSG_REMOTE_LOCAL_QUEUE), 1);
    /* Our own attempt counts until the LOAD shows it. */
    say_load(&book, 6, 1, 100, 3, 0, false);
    uint64_t id = place(&book, 100);
    assert_int_equal(book.sent[book.sent_count - 1].kind, MSG_PREFILL);
    assert_int_equal(book.sent[book.sent_count - 1].to, 6);
    uint64_t attempt = book.sent[book.sent_count - 1].attempt;
    assert_false(would(&book, 100));
    say_load(&book, 6, 1, 100, 4, attempt, false);
    assert_true(would(&book, 100));
    /* A second worker halves the mean. */
    say_load(&book, 6, 3, 300, 5, attempt, false);
    assert_false(would(&book, 100));
    struct xfer *second = open_xfer(&book.rig, 8);
    say_hello(&book, 8, 7, xfer_address(second));
    prove(&book);
    /* Its death: the prompt is asked of the other one, once its blocks are let go of. */
    struct buf out;
    struct msg_roster_dead dead = {.instance = 6, .reason = MSG_REAP_KILLED};
    buf_init(&out, 0);
    msg_encode_roster(&(struct msg_roster){.number = 1, .dead = &dead, .dead_count = 1}, &out);
    take(&book, 1, &out);
    handoff_decode_tick(book.decode, true, book.now_us);
    take_release(&book);
    assert_int_equal(book.sent[book.sent_count - 1].kind, MSG_PREFILL);
    assert_int_equal(book.sent[book.sent_count - 1].to, 8);
    assert_true(book.sent[book.sent_count - 1].attempt > attempt);
    assert_int_equal(result(&book, MSG_REMOTE_RETRIED), 1);
    handoff_decode_end(book.decode, id);
    assert_false(handoff_decode_is_empty(book.decode)); /* its blocks are not let go of */
    take_release(&book);
    assert_true(handoff_decode_is_empty(book.decode));
    book_close(&book);
    xfer_destroy(second);
}

/* Past the deadline another worker is asked, with a deadline of its own; past that, or when there is
 * nobody else, the prompt is computed here. */
static void test_deadline(void **state) {
    struct book book;
    struct engine_load load;
    book_open(&book, false);
    struct xfer *second = open_xfer(&book.rig, 8);
    say_hello(&book, 6, 7, xfer_address(book.peer_xfer));
    prove(&book);
    uint64_t id = place(&book, 100);
    assert_int_equal(book.sent[book.sent_count - 1].to, 6);
    say_hello(&book, 8, 7, xfer_address(second));
    for (uint64_t end = clock_now_us() + WAIT_US; clock_now_us() < end;) {
        handoff_decode_poll(book.decode, book.now_us);
        book.now_us += 100000; /* the first one's 30 s end while the second one is being proven */
        handoff_decode_tick(book.decode, false, book.now_us);
        if (book.sent[book.sent_count - 1].kind == MSG_CANCEL) break;
        nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
    }
    assert_true(book.now_us >= 31000000);
    assert_int_equal(result(&book, MSG_REMOTE_TIMEOUT), 0);
    take_release(&book);
    assert_int_equal(book.sent[book.sent_count - 1].kind, MSG_PREFILL);
    assert_int_equal(book.sent[book.sent_count - 1].to, 8);
    assert_int_equal(result(&book, MSG_REMOTE_RETRIED), 1);
    book.now_us += 29900000;
    handoff_decode_tick(book.decode, false, book.now_us);
    assert_int_equal(book.sent[book.sent_count - 1].kind, MSG_PREFILL);
    book.now_us += 100000;
    handoff_decode_tick(book.decode, false, book.now_us);
    assert_int_equal(book.sent[book.sent_count - 1].kind, MSG_CANCEL);
    assert_int_equal(result(&book, MSG_REMOTE_TIMEOUT), 1);
    engine_get_load(book.rig.engine, &load);
    assert_int_equal(load.waiting_requests, 1); /* computed here, in new blocks */
    take_release(&book);
    handoff_decode_end(book.decode, id);
    assert_true(handoff_decode_is_empty(book.decode));
    book_close(&book);
    xfer_destroy(second);
}

static void test_who_is_not_asked(void **state) {
    struct book book;
    struct buf out;
    book_open(&book, true);
    uint32_t before = book.sent_count;
    say_hello(&book, 9, 8, xfer_address(book.peer_xfer)); /* another model */
    say_hello(&book, 10, 7, "");                          /* no transfer */
    say_hello(&book, 9, 8, xfer_address(book.peer_xfer));
    assert_int_equal(book.sent_count, before + 2); /* each is told, once */
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(book.sent[before + i].kind, MSG_REFUSE);
        assert_int_equal(book.sent[before + i].to, 9 + i);
    }
    say_hello(&book, 6, 7, xfer_address(book.peer_xfer));
    prove(&book);
    say_load(&book, 6, 0, 0, 1, 0, true);
    assert_false(would(&book, 100)); /* draining */
    say_load(&book, 6, 0, 0, 1, 0, false);
    assert_true(would(&book, 100));
    for (uint32_t i = 0; i < 9; i++) handoff_decode_tick(book.decode, true, book.now_us);
    for (uint32_t i = 0; i < 20; i++) handoff_decode_tick(book.decode, false, book.now_us);
    assert_true(would(&book, 100)); /* time without a bus is nobody's silence */
    handoff_decode_tick(book.decode, true, book.now_us);
    assert_false(would(&book, 100));
    for (uint32_t i = 0; i < 3; i++) {
        assert_false(would(&book, 100));
        say_load(&book, 6, 0, 0, 1, 0, false);
    }
    assert_true(would(&book, 100));
    /* It is heard, and does not step while prompts wait: 2 s. */
    for (uint32_t i = 0; i < 20; i++) {
        say_load(&book, 6, 1, 0, 1, 0, false);
        assert_true(would(&book, 100));
        handoff_decode_tick(book.decode, true, book.now_us);
    }
    assert_false(would(&book, 100));
    for (uint64_t steps = 2; steps < 5; steps++) say_load(&book, 6, 1, 0, steps, 0, false);
    assert_true(would(&book, 100));
    buf_init(&out, 0);
    msg_encode_bye(&out);
    take(&book, 6, &out);
    assert_false(would(&book, 100));
    book_close(&book);
}

/* A prompt longer than a prefill worker takes goes to another one, or is computed here. */
static void test_shorter_peer(void **state) {
    static const struct {
        uint32_t len_max, second_len_max; /* 0: there is no second one */
        uint64_t to;                      /* 0: nobody */
    } cases[] = {{100, 0, 6}, {99, 0, 0}, {99, 100, 8}, {99, 99, 0}};
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct book book;
        book_open(&book, false);
        struct xfer *second = open_xfer(&book.rig, 8);
        say_hello_of(&book, 6, 7, xfer_address(book.peer_xfer), cases[i].len_max);
        prove(&book);
        if (cases[i].second_len_max) {
            say_hello_of(&book, 8, 7, xfer_address(second), cases[i].second_len_max);
            say_load(&book, 6, 0, 0, 1, 0, true); /* so that the other one's path is waited for */
            prove(&book);
            say_load(&book, 6, 0, 0, 1, 0, false);
        }
        uint64_t id = place(&book, 100);
        bool is_sent = book.sent[book.sent_count - 1].kind == MSG_PREFILL;
        assert_int_equal(is_sent, cases[i].to != 0);
        if (is_sent) assert_int_equal(book.sent[book.sent_count - 1].to, cases[i].to);
        handoff_decode_end(book.decode, id);
        if (is_sent) take_release(&book);
        assert_true(handoff_decode_is_empty(book.decode));
        book_close(&book);
        xfer_destroy(second);
    }
}

static void test_no_memory(void **state) {
    struct book book;
    book_open(&book, false);
    say_hello(&book, 6, 7, xfer_address(book.peer_xfer));
    prove(&book);
    alloc_fail_at(1, 0);
    assert_false(wants(&book, 100, 0));
    alloc_fail_at(0, 0);
    assert_true(would(&book, 100));
    struct handoff_options options = {.engine = book.rig.engine,
                                      .xfer = book.own_xfer,
                                      .hello = &book.hello,
                                      .send = on_send,
                                      .send_ctx = &book};
    enum err e = ERR_MEMORY;
    uint64_t n = 1;
    for (; e && n < 20; n++) {
        struct handoff_decode *decode = NULL;
        alloc_fail_at(n, 0);
        e = handoff_decode_create(&options, 0, &decode);
        alloc_fail_at(0, 0);
        handoff_decode_destroy(decode);
    }
    assert_true(!e && n > 3);
    book_close(&book);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_prefix_hits),
        cmocka_unit_test(test_queue),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_who_is_not_asked),
        cmocka_unit_test(test_shorter_peer),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
