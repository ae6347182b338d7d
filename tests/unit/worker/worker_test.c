/* Goal: the worker's thread boots, says hello, serves a request over the local bus token for
 * token, refuses while draining, stops by itself, and tells why when it cannot boot. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <time.h>

#include "backend/sim/sim_backend.h"
#include "base/clock.h"
#include "bus/msg.h"
#include "model/model.h"
#include "worker/worker.h"

#define WAIT_US 60000000u /* a hang is a failure; nothing here is a timing */

struct rig {
    struct model *model;
    struct bus *bus;
    struct bus_port *port; /* the frontend's */
    struct worker *worker;
    struct worker_options options;
};

static void rig_open(struct rig *rig) {
    struct err_text text = {""};
    struct model_open_options model = {.is_dummy = true, .dummy_type = TENSOR_BF16};
    *rig = (struct rig){
        .options = {.ops = &sim_backend_ops,
                    .backend = {.rank_count = 1,
                                .block_size = 16,
                                .seat_count = 8,
                                .batched_tokens_max = 256,
                                .model_len_max = 2048,
                                .row_tile = 4096,
                                .thread_count = 1},
                    .engine = {.queue_requests_max = 100,
                               .queue_prompt_bytes_max = 1 << 20,
                               .is_chunked_prefill = true,
                               .has_prefix_cache = true},
                    .budget = {.total_bytes = (uint64_t) 8 << 30,
                               .available_bytes = (uint64_t) 4 << 30},
                    .sync_timeout_ms = 3000,
                    .step_timeout_ms = 5000},
    };
    if (model_open("smollm2-135m", &model, &text, &rig->model)) fail_msg("%s", text.text);
    assert_int_equal(bus_local_create(1024, 8 << 20, &rig->bus), ERR_OK);
    assert_int_equal(
        bus_port_open(rig->bus, 77, 1u << BUS_HELLO | 1u << BUS_LOAD, NULL, NULL, &rig->port),
        ERR_OK);
}

static void rig_start(struct rig *rig) {
    struct err_text text = {""};
    if (worker_create(&rig->options, rig->model, rig->bus, 5, &text, &rig->worker))
        fail_msg("%s", text.text);
}

static void rig_close(struct rig *rig) {
    worker_destroy(rig->worker);
    bus_port_close(rig->port);
    bus_destroy(rig->bus);
    model_close(rig->model);
}

static void nap(void) { nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL); }

/* The next message of the kind; others are dropped. */
static struct bus_message wait_for(struct rig *rig, enum msg_kind kind) {
    struct bus_message message;
    for (uint64_t end = clock_now_us() + WAIT_US; clock_now_us() < end;) {
        while (bus_take(rig->port, &message))
            if (msg_peek_kind(message.data, message.bytes) == (uint32_t) kind) return message;
        nap();
    }
    fail_msg("no message of kind %d", (int) kind);
    return message;
}

static struct worker_status wait_state(struct rig *rig, enum worker_state state) {
    struct worker_status status;
    for (uint64_t end = clock_now_us() + WAIT_US; clock_now_us() < end; nap()) {
        worker_get_status(rig->worker, &status);
        if (status.state == state) return status;
    }
    fail_msg("state %d, wanted %d: %s", (int) status.state, (int) state, status.error.text);
    return status;
}

static void send_buf(struct rig *rig, struct buf *out) {
    assert_int_equal(buf_error(out), ERR_OK);
    assert_int_equal(bus_send(rig->port, BUS_INBOX, 5, out->data, out->bytes), ERR_OK);
    buf_release(out);
}

static void send_generate(struct rig *rig, uint64_t attempt, const uint32_t *prompt,
                          uint32_t prompt_count, const struct sampling *sampling) {
    struct buf out;
    struct msg_choice choice = {0};
    struct msg_generate message = {.attempt = attempt,
                                   .prompt_ids = prompt,
                                   .prompt_count = prompt_count,
                                   .choices = &choice,
                                   .choice_count = 1,
                                   .sampling = *sampling,
                                   .request_id = "r",
                                   .traceparent = ""};
    buf_init(&out, 0);
    msg_encode_generate(&message, &out);
    send_buf(rig, &out);
}

static void send_sync(struct rig *rig, uint64_t number, const struct msg_sync_entry *entries,
                      uint32_t count) {
    struct buf out;
    buf_init(&out, 0);
    msg_encode_sync(&(struct msg_sync){number, entries, count}, &out);
    send_buf(rig, &out);
}

static void test_serves(void **state) {
    struct rig rig;
    uint32_t prompt[40];
    struct sampling s;
    rig_open(&rig);
    rig_start(&rig);
    struct bus_message m = wait_for(&rig, MSG_HELLO);
    struct msg_hello hello;
    assert_int_equal(msg_decode_hello(m.data, m.bytes, &hello), ERR_OK);
    assert_int_equal(hello.instance, 5);
    assert_int_equal(hello.block_size, 16);
    struct worker_status status = wait_state(&rig, WORKER_SERVING);
    assert_non_null(worker_get_plan(rig.worker));
    assert_int_equal(hello.block_count, worker_get_plan(rig.worker)->block_count);
    assert_int_equal(status.load.blocks_free, hello.block_count);

    sampling_init(&s);
    s.max_tokens = 25;
    s.logprobs = 2;
    for (uint32_t i = 0; i < 40; i++) prompt[i] = i * 31;
    send_generate(&rig, 1, prompt, 40, &s);
    struct sim_text text = {0};
    for (uint32_t i = 0; i < 40; i++) sim_backend_feed(&text, prompt[i]);
    const struct model_spec *spec = model_get_spec(rig.model);
    uint32_t stop_ids[MODEL_EOS_MAX];
    memcpy(stop_ids, spec->eos_ids, sizeof stop_ids);
    struct sampling stops = s;
    stops.stop_ids = stop_ids;
    stops.stop_id_count = spec->eos_count;
    uint32_t next = 0;
    bool has_ack = false, has_admission = false;
    for (uint8_t finish = 0; !finish;) {
        struct arena arena;
        struct msg_tokens tokens;
        m = wait_for(&rig, MSG_TOKENS);
        arena_init(&arena, 0);
        assert_int_equal(msg_decode_tokens(m.data, m.bytes, &arena, &tokens), ERR_OK);
        for (uint32_t i = 0; i < tokens.entry_count; i++) {
            const struct msg_tokens_entry *entry = &tokens.entries[i];
            assert_int_equal(entry->attempt, 1);
            assert_int_equal(entry->first_index, next);
            has_ack |= entry->is_ack;
            has_admission |= entry->is_admitted;
            for (uint32_t k = 0; k < entry->id_count; k++) {
                struct sim_draw how = {&stops, 0, next++, spec->vocab_size, 0, 0};
                assert_int_equal(entry->ids[k], sim_backend_draw(&text, &how));
                assert_int_equal(entry->logprobs[k].token_id, entry->ids[k]);
                assert_int_equal(entry->logprobs[k].top_count, 2);
                sim_backend_feed(&text, entry->ids[k]);
            }
            finish = entry->finish;
        }
        arena_release(&arena);
    }
    assert_int_equal(next, 25);
    assert_true(has_ack && has_admission);
    send_sync(&rig, 1, NULL, 0); /* heard: the worker forgets it */
    struct msg_sync_entry unknown = {.attempt = 1};
    send_sync(&rig, 2, &unknown, 1);
    m = wait_for(&rig, MSG_GONE);
    rig_close(&rig);
}

static void test_drains(void **state) {
    struct rig rig;
    uint32_t prompt[4] = {1, 2, 3, 4};
    struct sampling s;
    rig_open(&rig);
    rig.options.backend.sim_step_us = 1000;
    rig_start(&rig);
    wait_for(&rig, MSG_HELLO);
    sampling_init(&s);
    s.max_tokens = 50;
    send_generate(&rig, 1, prompt, 4, &s);
    wait_for(&rig, MSG_TOKENS);
    worker_drain(rig.worker);
    wait_state(&rig, WORKER_DRAINING);
    send_generate(&rig, 2, prompt, 4, &s);
    struct bus_message m = wait_for(&rig, MSG_REFUSE);
    struct arena arena;
    struct msg_refuse refuse;
    arena_init(&arena, 0);
    assert_int_equal(msg_decode_refuse(m.data, m.bytes, &arena, &refuse), ERR_OK);
    assert_int_equal(refuse.reason, MSG_REFUSE_DRAINING);
    assert_int_equal(refuse.attempt, 2);
    arena_release(&arena);
    wait_for(&rig, MSG_BYE); /* after the running one has ended */
    struct worker_status status = wait_state(&rig, WORKER_STOPPED);
    assert_int_equal(status.load.generation_tokens, 50);
    rig_close(&rig);
}

static void test_fails(void **state) {
    struct rig rig;
    rig_open(&rig);
    rig.options.backend.block_size = 17;
    rig_start(&rig);
    struct worker_status status = wait_state(&rig, WORKER_FAILED);
    assert_non_null(strstr(status.error.text, "block-size"));
    rig_close(&rig);
    rig_open(&rig); /* the device goes while it serves */
    rig.options.backend.sim_fail_batch = 2;
    rig_start(&rig);
    wait_for(&rig, MSG_HELLO);
    struct sampling s;
    uint32_t prompt[4] = {1, 2, 3, 4};
    sampling_init(&s);
    send_generate(&rig, 1, prompt, 4, &s);
    wait_for(&rig, MSG_BYE);
    wait_state(&rig, WORKER_FAILED);
    rig_close(&rig);
}

/* A step that does not end shows from outside while it lasts. */
/* Whoever destroys a worker does not wait for its load: this one would take minutes. */
static void test_stopped_while_loading(void **state) {
    struct rig rig;
    struct worker_status status;
    struct err_text text = {""};
    struct model_open_options model = {.is_dummy = true, .dummy_type = TENSOR_Q4_K};
    rig_open(&rig);
    model_close(rig.model);
    if (model_open("llama-3.1-8b", &model, &text, &rig.model)) fail_msg("%s", text.text);
    rig.options.ops = &cpu_backend_ops;
    rig.options.budget.total_bytes = rig.options.budget.available_bytes = (uint64_t) 64 << 30;
    rig_start(&rig);
    do worker_get_status(rig.worker, &status);
    while (status.state == WORKER_LOADING && !status.total_bytes);
    if (status.state == WORKER_FAILED) print_message("skipped: %s\n", status.error.text);
    else assert_true(status.done_bytes < status.total_bytes);
    rig_close(&rig); /* joins the thread */
}

static void test_stuck(void **state) {
    struct rig rig;
    struct sampling s;
    uint32_t prompt[4] = {1, 2, 3, 4};
    rig_open(&rig);
    rig.options.backend.sim_step_us = 300000;
    rig.options.step_timeout_ms = 20;
    rig_start(&rig);
    wait_for(&rig, MSG_HELLO);
    sampling_init(&s);
    s.max_tokens = 1;
    send_generate(&rig, 1, prompt, 4, &s);
    struct worker_status status = {0};
    for (uint64_t end = clock_now_us() + WAIT_US; clock_now_us() < end && !status.is_stuck; nap())
        worker_get_status(rig.worker, &status);
    assert_true(status.is_stuck && status.stuck_ms > 20);
    rig_close(&rig);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_serves), cmocka_unit_test(test_drains),
        cmocka_unit_test(test_fails),  cmocka_unit_test(test_stopped_while_loading),
        cmocka_unit_test(test_stuck),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
