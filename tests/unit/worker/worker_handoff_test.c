/* Goal: on the real CPU backend prompts that a prefill worker computed, of whatever TP degree, go
 * on in a decode worker of whatever TP degree with the very tokens of one worker alone, bit for
 * bit; over the local bus and the in-process transfer, with checksums.  A prefill worker that ends
 * in the middle changes no token. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "bus/msg.h"
#include "model/model.h"
#include "worker/worker.h"

#define WAIT_US 120000000u /* a hang is a failure; nothing here is a timing */
#define SYNC_US 250000u
#define VOCAB 512u
#define REQUESTS 8u
#define OUTPUTS 20u
#define PROMPT_MAX 200u
#define CHOICES_MAX 2u
#define FRONTEND 77u

static const char config[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":128,"
    "\"intermediate_size\":256,\"num_attention_heads\":4,\"num_key_value_heads\":4,"
    "\"num_hidden_layers\":2,\"vocab_size\":512,\"max_position_embeddings\":512,"
    "\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,\"tie_word_embeddings\":false,"
    "\"hidden_act\":\"silu\",\"eos_token_id\":2}";

static struct model *open_model(void) {
    char path[] = "/tmp/worker_handoff_test_XXXXXX", shape[64];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, config, sizeof config - 1), sizeof config - 1);
    close(fd);
    snprintf(shape, sizeof shape, "%s.json", path);
    assert_int_equal(rename(path, shape), 0);
    struct model_open_options options = {
        .is_dummy = true, .dummy_seed = 7, .dummy_type = TENSOR_F32, .shape = shape};
    struct err_text text = {""};
    struct model *model = NULL;
    if (model_open("test", &options, &text, &model)) fail_msg("%s", text.text);
    unlink(shape);
    return model;
}

/* --- workers and a plain frontend --- */

struct answer {
    uint32_t ids[OUTPUTS], count;
    uint8_t finish;
};

struct rig {
    struct model *model;
    struct bus *bus;
    struct bus_port *port;
    struct worker *worker, *prefill;
    struct answer answers[REQUESTS][CHOICES_MAX];
    uint64_t remote_done, received_bytes; /* of D, from its last LOAD */
    uint64_t results[MSG_REMOTE_RESULT_COUNT];
    uint64_t sync_number;
};

static struct worker *start(struct rig *rig, uint64_t instance, uint32_t tp, bool is_prefill,
                            bool is_remote) {
    struct err_text text = {""};
    struct worker *worker = NULL;
    struct worker_options options = {
        .ops = &cpu_backend_ops,
        .backend = {.rank_count = tp,
                    .block_size = 16,
                    .seat_count = 8,
                    .batched_tokens_max = 64,
                    .model_len_max = 512,
                    .row_tile = 4096,
                    .thread_count = 1},
        .engine = {.queue_requests_max = 100,
                   .queue_prompt_bytes_max = 1 << 20,
                   .is_chunked_prefill = true,
                   .prefill_chunk_max = is_prefill ? 32 : 0,
                   .has_prefix_cache = true},
        .budget = {.total_bytes = (uint64_t) 4 << 30,
                   .available_bytes = (uint64_t) 2 << 30,
                   .kv_bytes = 8 << 20},
        .sync_timeout_ms = 60000,
        .handoff = {.is_prefill = is_prefill,
                    .rule = {.is_remote = is_remote, .timeout_ms = 60000},
                    .transfer = WORKER_TRANSFER_LOCAL,
                    .is_verifying = true},
    };
    if (worker_create(&options, rig->model, rig->bus, instance, &text, &worker))
        fail_msg("%s", text.text);
    return worker;
}

static void nap(void) { nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL); }

static void wait_serving(struct worker *worker) {
    struct worker_status status;
    for (uint64_t end = clock_now_us() + WAIT_US; clock_now_us() < end; nap()) {
        worker_get_status(worker, &status);
        if (status.state == WORKER_SERVING) return;
        if (status.state == WORKER_FAILED) break;
    }
    fail_msg("it does not serve: %s", status.error.text);
}

static void rig_open(struct rig *rig, struct model *model, uint32_t d_tp, uint32_t p_tp) {
    *rig = (struct rig){.model = model};
    assert_int_equal(bus_local_create(4096, 8 << 20, &rig->bus), ERR_OK);
    assert_int_equal(bus_port_open(rig->bus, FRONTEND, 1u << BUS_LOAD, NULL, NULL, &rig->port),
                     ERR_OK);
    rig->worker = start(rig, 5, d_tp, false, p_tp > 0);
    wait_serving(rig->worker);
    if (p_tp) rig->prefill = start(rig, 6, p_tp, true, false);
    if (p_tp) wait_serving(rig->prefill);
}

static void rig_close(struct rig *rig) {
    worker_destroy(rig->prefill);
    worker_destroy(rig->worker);
    bus_port_close(rig->port);
    bus_destroy(rig->bus);
}

static void send_buf(struct rig *rig, struct buf *out) {
    assert_int_equal(buf_error(out), ERR_OK);
    assert_int_equal(bus_send(rig->port, BUS_INBOX, 5, out->data, out->bytes), ERR_OK);
    buf_release(out);
}

static uint32_t choice_count_of(uint32_t request) { return request % 4 == 3 ? 2 : 1; }

static void send_generate(struct rig *rig, uint32_t request) {
    uint32_t prompt[PROMPT_MAX], state = request;
    uint32_t prompt_count = 2 + request * 53 % (PROMPT_MAX - 2);
    struct msg_choice choices[CHOICES_MAX] = {{.index = 0}, {.index = 1}};
    struct buf out;
    for (uint32_t i = 0; i < prompt_count; i++) {
        state = state * 1664525u + 1013904223u;
        /* Some begin alike: prefix hits on both sides. */
        prompt[i] = i < 40 && request % 2 ? (i * 31 + 5) % VOCAB : (state >> 8) % VOCAB;
    }
    struct msg_generate message = {.attempt = request + 1,
                                   .prompt_ids = prompt,
                                   .prompt_count = prompt_count,
                                   .choices = choices,
                                   .choice_count = choice_count_of(request),
                                   .request_id = "r",
                                   .traceparent = ""};
    sampling_init(&message.sampling);
    message.sampling.temperature = request % 3 ? 1.0f : 0.0f;
    message.sampling.seed = request;
    message.sampling.max_tokens = OUTPUTS;
    message.sampling.ignore_eos = true;
    buf_init(&out, 0);
    msg_encode_generate(&message, &out);
    send_buf(rig, &out);
}

static void send_sync(struct rig *rig, uint32_t first, uint32_t end) {
    struct msg_sync_entry entries[REQUESTS];
    struct msg_sync_choice choices[REQUESTS][CHOICES_MAX];
    uint32_t count = 0;
    struct buf out;
    for (uint32_t r = first; r < end; r++) {
        for (uint32_t c = 0; c < choice_count_of(r); c++)
            choices[r][c] = (struct msg_sync_choice){c, rig->answers[r][c].count};
        entries[count++] = (struct msg_sync_entry){
            .attempt = r + 1, .choices = choices[r], .choice_count = choice_count_of(r)};
    }
    buf_init(&out, 0);
    msg_encode_sync(&(struct msg_sync){++rig->sync_number, entries, count}, &out);
    send_buf(rig, &out);
}

static void take_tokens(struct rig *rig, const struct bus_message *message, struct arena *arena) {
    struct msg_tokens tokens;
    assert_int_equal(msg_decode_tokens(message->data, message->bytes, arena, &tokens), ERR_OK);
    for (uint32_t i = 0; i < tokens.entry_count; i++) {
        const struct msg_tokens_entry *e = &tokens.entries[i];
        if (e->attempt > REQUESTS) continue;
        struct answer *answer = &rig->answers[e->attempt - 1][e->choice_index];
        assert_int_not_equal(e->finish, MSG_FINISH_ERROR);
        if (e->first_index > answer->count) continue; /* asked again by SYNC */
        for (uint32_t k = answer->count - e->first_index; k < e->id_count; k++)
            answer->ids[answer->count++] = e->ids[k];
        if (e->finish && answer->count == OUTPUTS) answer->finish = e->finish;
    }
}

static void take_all(struct rig *rig) {
    struct bus_message message;
    while (bus_take(rig->port, &message)) {
        struct arena arena;
        struct msg_load load;
        arena_init(&arena, 0);
        uint32_t kind = msg_peek_kind(message.data, message.bytes);
        if (kind == MSG_TOKENS) take_tokens(rig, &message, &arena);
        assert_int_not_equal(kind, MSG_REFUSE);
        assert_int_not_equal(kind, MSG_GONE);
        if (kind == MSG_LOAD && message.from == 5) {
            assert_int_equal(msg_decode_load(message.data, message.bytes, &arena, &load), ERR_OK);
            memcpy(rig->results, load.remote_results, sizeof rig->results);
            rig->received_bytes = load.received_bytes;
        }
        arena_release(&arena);
    }
}

static bool is_whole(const struct rig *rig, uint32_t first, uint32_t end) {
    for (uint32_t r = first; r < end; r++)
        for (uint32_t c = 0; c < choice_count_of(r); c++)
            if (!rig->answers[r][c].finish) return false;
    return true;
}

static void serve(struct rig *rig, uint32_t first, uint32_t end) {
    uint64_t synced_us = clock_now_us(), until_us = synced_us + WAIT_US;
    for (uint32_t r = first; r < end; r++) send_generate(rig, r);
    while (!is_whole(rig, first, end)) {
        if (clock_now_us() > until_us) fail_msg("an answer does not end");
        take_all(rig);
        if (clock_now_us() - synced_us > SYNC_US) {
            synced_us = clock_now_us();
            send_sync(rig, first, end);
        }
        nap();
    }
}

static uint64_t result_sum(const struct rig *rig) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < MSG_REMOTE_RESULT_COUNT; i++) sum += rig->results[i];
    return sum;
}

static void wait_results(struct rig *rig, uint64_t sum) {
    uint64_t until_us = clock_now_us() + WAIT_US, synced_us = 0;
    while (result_sum(rig) < sum) {
        if (clock_now_us() > until_us) fail_msg("LOAD tells of %d", (int) result_sum(rig));
        if (clock_now_us() - synced_us > SYNC_US) {
            synced_us = clock_now_us();
            send_sync(rig, 0, 0);
        }
        take_all(rig);
        nap();
    }
}

/* D gives work to P when it has proven the path: until then prompts are computed at home.  These
 * requests' answers are not looked at. */
static void wait_for_peer(struct rig *rig) {
    for (uint64_t tried = 1; rig->results[MSG_REMOTE_DONE] == 0; tried++) {
        struct buf out;
        struct msg_choice choice = {0};
        uint32_t prompt[20];
        for (uint32_t i = 0; i < 20; i++) prompt[i] = (uint32_t) (3 + tried + i) % VOCAB;
        struct msg_generate message = {.attempt = 1000 + tried,
                                       .prompt_ids = prompt,
                                       .prompt_count = 20,
                                       .choices = &choice,
                                       .choice_count = 1,
                                       .request_id = "first",
                                       .traceparent = ""};
        sampling_init(&message.sampling);
        message.sampling.max_tokens = 1;
        buf_init(&out, 0);
        msg_encode_generate(&message, &out);
        send_buf(rig, &out);
        wait_results(rig, tried);
        assert_int_equal(result_sum(rig), rig->results[MSG_REMOTE_DONE] +
                                              rig->results[MSG_REMOTE_LOCAL_NO_PEER] +
                                              rig->results[MSG_REMOTE_CANCELLED]);
        if (tried > 10000) fail_msg("no prompt goes to the prefill worker");
    }
}

static void expect_same(const struct rig *alone, const struct rig *rig) {
    for (uint32_t r = 0; r < REQUESTS; r++)
        for (uint32_t c = 0; c < choice_count_of(r); c++) {
            const struct answer *a = &alone->answers[r][c], *b = &rig->answers[r][c];
            assert_int_equal(a->count, OUTPUTS);
            if (a->count != b->count || memcmp(a->ids, b->ids, sizeof a->ids) != 0)
                fail_msg("request %u choice %u: another answer", r, c);
            assert_int_equal(a->finish, b->finish);
        }
}

/* Whether all prompts were computed by the prefill worker: on a machine so busy that a worker is
 * not heard for a second some are not, and rightly so. */
static bool run_pair(struct model *model, const struct rig *alone, uint32_t d_tp, uint32_t p_tp,
                     bool dies) {
    bool is_all_remote = false;
    struct rig rig;
    rig_open(&rig, model, d_tp, p_tp);
    wait_for_peer(&rig);
    uint64_t before = result_sum(&rig), done = rig.results[MSG_REMOTE_DONE];
    if (dies) {
        for (uint32_t r = 0; r < REQUESTS; r++) send_generate(&rig, r);
        worker_destroy(rig.prefill);
        rig.prefill = NULL;
        serve(&rig, 0, REQUESTS); /* the same GENERATEs: answered, not run twice */
    } else {
        serve(&rig, 0, 1);
        serve(&rig, 1, REQUESTS);
        wait_results(&rig, before + REQUESTS);
        is_all_remote = rig.results[MSG_REMOTE_DONE] - done == REQUESTS;
        assert_true(rig.received_bytes > 0);
    }
    expect_same(alone, &rig);
    rig_close(&rig);
    return is_all_remote;
}

static void test_equals_one_worker(void **state) {
    static const uint32_t degrees[] = {1, 2, 4};
    struct model *model = open_model();
    struct rig alone;
    rig_open(&alone, model, 1, 0);
    serve(&alone, 0, REQUESTS);
    rig_close(&alone);
    for (size_t d = 0; d < 3; d++)
        for (size_t p = 0; p < 3; p++) {
            uint32_t tries = 1;
            while (!run_pair(model, &alone, degrees[d], degrees[p], false))
                if (++tries > 50) fail_msg("never all of them were remote");
        }
    model_close(model);
}

static void test_prefill_worker_ends(void **state) {
    struct model *model = open_model();
    struct rig alone;
    rig_open(&alone, model, 1, 0);
    serve(&alone, 0, REQUESTS);
    rig_close(&alone);
    for (uint32_t i = 0; i < 3; i++) run_pair(model, &alone, 1, 1, true);
    model_close(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_one_worker),
        cmocka_unit_test(test_prefill_worker_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
