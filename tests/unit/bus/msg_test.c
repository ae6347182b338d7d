/* Goal: what an encoder writes its decoder reads back, field by field; no broken message is
 * taken for a whole one, and none makes a decoder read or allocate past its bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "bus/msg.h"

static uint64_t random_state;

static uint32_t random_u32(void) {
    random_state += 0x9e3779b97f4a7c15u;
    uint64_t z = random_state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t) (z >> 32);
}
static uint32_t below(uint32_t n) { return random_u32() % n; }
static uint64_t random_u64(void) { return (uint64_t) random_u32() << 32 | random_u32(); }

static const uint32_t *random_ids(struct arena *arena, uint32_t count) {
    uint32_t *ids = arena_take(arena, (size_t) count * 4);
    for (uint32_t i = 0; i < count; i++) ids[i] = random_u32();
    return count ? ids : NULL;
}

static struct msg_logprob *random_logprobs(struct arena *arena, uint32_t count) {
    struct msg_logprob *out = arena_take_zero(arena, count, sizeof *out);
    for (uint32_t i = 0; i < count; i++) {
        out[i] = (struct msg_logprob){random_u32(), -0.5f * (float) below(100),
                                      below(1000),  below(SAMPLING_TOP_LOGPROBS_MAX + 1),
                                      NULL,         NULL};
        out[i].top_ids = random_ids(arena, out[i].top_count);
        float *values = arena_take(arena, (size_t) out[i].top_count * sizeof *values);
        for (uint32_t k = 0; k < out[i].top_count; k++) values[k] = -(float) below(50);
        out[i].top_logprobs = values;
    }
    return out;
}

static struct msg_generate random_generate(struct arena *arena) {
    struct msg_generate m = {.attempt = random_u64(),
                             .prompt_count = below(300),
                             .choice_count = 1 + below(4),
                             .prefill_instance = random_u64(),
                             .remaining_ms = random_u32(),
                             .is_redispatch = below(2),
                             .request_id = "req-17",
                             .traceparent = below(2) ? "00-ab-cd-01" : ""};
    m.prompt_ids = random_ids(arena, m.prompt_count);
    struct msg_choice *choices = arena_take_zero(arena, m.choice_count, sizeof *choices);
    for (uint32_t i = 0; i < m.choice_count; i++) {
        choices[i].index = i;
        choices[i].output_count = below(9);
        choices[i].output_ids = random_ids(arena, choices[i].output_count);
    }
    m.choices = choices;
    struct sampling *s = &m.sampling;
    sampling_init(s);
    s->temperature = 0.7f;
    s->top_k = -1;
    s->min_p = 0.05f;
    s->presence_penalty = -1.5f;
    s->frequency_penalty = 0.25f;
    s->seed = random_u64();
    s->max_tokens = random_u32();
    s->min_tokens = below(10);
    s->ignore_eos = below(2);
    s->logprobs = (int32_t) below(22) - 1;
    s->prompt_logprobs = (int32_t) below(22) - 1;
    s->skip_prefix_cache = below(2);
    s->stop_id_count = below(5);
    s->stop_ids = random_ids(arena, s->stop_id_count);
    s->logit_bias_count = below(5);
    struct sampling_bias *bias = arena_take_zero(arena, 5, sizeof *bias);
    for (uint32_t i = 0; i < s->logit_bias_count; i++)
        bias[i] = (struct sampling_bias){random_u32(), (float) below(100) - 50.0f};
    s->logit_bias = bias;
    s->allowed_id_count = below(5);
    s->allowed_ids = random_ids(arena, s->allowed_id_count);
    s->bad_word_count = below(3);
    uint32_t *lengths = arena_take_zero(arena, 3, sizeof *lengths), total = 0;
    for (uint32_t i = 0; i < s->bad_word_count; i++) total += lengths[i] = 1 + below(3);
    s->bad_word_lengths = lengths;
    s->bad_word_ids = random_ids(arena, total);
    return m;
}

static struct msg_tokens random_tokens(struct arena *arena) {
    uint32_t count = below(5);
    struct msg_tokens_entry *entries = arena_take_zero(arena, count, sizeof *entries);
    for (uint32_t i = 0; i < count; i++) {
        struct msg_tokens_entry *e = &entries[i];
        e->attempt = random_u64();
        e->choice_index = below(128);
        e->first_index = below(4096);
        e->id_count = below(4);
        e->ids = random_ids(arena, e->id_count);
        if (e->id_count && below(2)) e->logprobs = random_logprobs(arena, e->id_count);
        e->finish = (uint8_t) below(5);
        e->stop_id = random_u32();
        e->is_ack = below(2);
        e->is_admitted = below(2);
        e->cached_tokens = below(4096);
        e->queue_us = random_u64();
        e->prompt_first = below(100);
        e->prompt_logprob_count = below(3);
        e->prompt_logprobs = random_logprobs(arena, e->prompt_logprob_count);
        e->error = below(2) ? "it broke" : "";
    }
    return (struct msg_tokens){entries, count};
}

static struct msg_sync random_sync(struct arena *arena) {
    uint32_t count = below(6);
    struct msg_sync_entry *entries = arena_take_zero(arena, count, sizeof *entries);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t choice_count = below(4);
        struct msg_sync_choice *choices = arena_take_zero(arena, choice_count, sizeof *choices);
        for (uint32_t c = 0; c < choice_count; c++)
            choices[c] = (struct msg_sync_choice){c, random_u32()};
        entries[i] = (struct msg_sync_entry){random_u64(), choices, choice_count, below(100)};
    }
    return (struct msg_sync){random_u64(), entries, count};
}

static struct msg_load random_load(struct arena *arena) {
    uint32_t count = below(4);
    struct msg_load_sender *senders = arena_take_zero(arena, count, sizeof *senders);
    for (uint32_t i = 0; i < count; i++)
        senders[i] = (struct msg_load_sender){random_u64(), random_u64()};
    struct msg_load load = {.blocks_total = random_u32(),
                            .blocks_free = random_u32(),
                            .blocks_cached = random_u32(),
                            .running_requests = random_u32(),
                            .waiting_requests = random_u32(),
                            .queued_prefills = random_u32(),
                            .running_tokens = random_u64(),
                            .waiting_tokens = random_u64(),
                            .queued_prefill_tokens = random_u64(),
                            .step_count = random_u64(),
                            .step_us = random_u64(),
                            .kv_event_number = random_u64(),
                            .preemption_count = random_u64(),
                            .prefix_query_tokens = random_u64(),
                            .prefix_hit_tokens = random_u64(),
                            .prompt_tokens = random_u64(),
                            .generation_tokens = random_u64(),
                            .is_draining = below(2),
                            .sender_count = count,
                            .senders = senders};
    for (uint32_t i = 0; i < MSG_REMOTE_RESULT_COUNT; i++) load.remote_results[i] = random_u64();
    load.remote_blocks = random_u32();
    load.quarantined_blocks = random_u32();
    load.handoff_us = random_u64();
    load.sent_bytes = random_u64();
    load.received_bytes = random_u64();
    load.busy_us = random_u64();
    load.tail_us = random_u64();
    load.prefills_done = random_u64();
    load.prefills_abandoned = random_u64();
    load.transfer_failures = random_u64();
    load.pairs_shm = random_u64();
    load.pairs_tcp = random_u64();
    load.pairs_lost = random_u64();
    load.device_used_bytes = random_u64();
    load.device_other_bytes = random_u64();
    load.device_drift_bytes = random_u64();
    return load;
}

static struct msg_roster random_roster(struct arena *arena) {
    uint32_t alive_count = below(5), dead_count = below(4);
    uint64_t *alive = arena_take_zero(arena, alive_count + 1, sizeof *alive);
    for (uint32_t i = 0; i < alive_count; i++) alive[i] = random_u64();
    struct msg_roster_dead *dead = arena_take_zero(arena, dead_count + 1, sizeof *dead);
    for (uint32_t i = 0; i < dead_count; i++)
        dead[i] = (struct msg_roster_dead){random_u64(), (uint8_t) (1 + below(2)),
                                           (int32_t) random_u32()};
    return (struct msg_roster){random_u64(), alive, alive_count, dead, dead_count};
}

/* What a kind does not carry stays 0. */
static const struct msg_kv_block *random_blocks(struct arena *arena, uint32_t count,
                                                uint32_t kind_count) {
    struct msg_kv_block *blocks = arena_take_zero(arena, count + 1, sizeof *blocks);
    for (uint32_t i = 0; i < count; i++) {
        blocks[i].kind = (uint8_t) below(kind_count);
        blocks[i].hash = random_u64();
        if (blocks[i].kind != MSG_KV_STORED) continue;
        blocks[i].parent_hash = random_u64();
        blocks[i].local_hash = random_u64();
    }
    return blocks;
}

static struct msg_prefill random_prefill(struct arena *arena) {
    struct msg_prefill m = {.attempt = random_u64(),
                            .prompt_count = below(100),
                            .have_count = below(9),
                            .block_count = below(9),
                            .block_size = 16,
                            .tp = 1 + below(4),
                            .numeric_digest = random_u64(),
                            .key = {random_u64(), random_u64()},
                            .transfer_address = below(2) ? "dWNwLWFkZHJlc3M=" : "",
                            .remaining_ms = random_u32(),
                            .request_id = "req-18",
                            .traceparent = below(2) ? "00-ab-cd-01" : ""};
    m.prompt_ids = random_ids(arena, m.prompt_count);
    m.blocks = random_ids(arena, m.block_count);
    return m;
}

/* Encodes one random message of the kind. */
static void encode_random(enum msg_kind kind, struct arena *arena, struct buf *out) {
    struct msg_attempt attempt = {random_u64()};
    switch (kind) {
    case MSG_HELLO: {
        struct msg_hello m = {.instance = random_u64(),
                              .component = 1,
                              .block_size = 16,
                              .tp = 2,
                              .numeric_digest = random_u64(),
                              .tokenizer_digest = random_u64(),
                              .model_len_max = 8192,
                              .seat_count = 7,
                              .block_count = 99,
                              .batched_tokens_max = 512,
                              .version = "0.1.0",
                              .transfer_address = "10.0.0.1:77",
                              .name = "VllmWorker.0",
                              .host = "node-1",
                              .http_port = random_u32(),
                              .device_bytes = random_u64(),
                              .budget_bytes = random_u64(),
                              .planned_bytes = random_u64(),
                              .block_bytes = random_u64()};
        msg_encode_hello(&m, out);
        break;
    }
    case MSG_LOAD: {
        struct msg_load m = random_load(arena);
        msg_encode_load(&m, out);
        break;
    }
    case MSG_GENERATE: {
        struct msg_generate m = random_generate(arena);
        msg_encode_generate(&m, out);
        break;
    }
    case MSG_TOKENS: {
        struct msg_tokens m = random_tokens(arena);
        msg_encode_tokens(&m, out);
        break;
    }
    case MSG_SYNC: {
        struct msg_sync m = random_sync(arena);
        msg_encode_sync(&m, out);
        break;
    }
    case MSG_GONE: msg_encode_gone(&attempt, out); break;
    case MSG_CANCEL: msg_encode_cancel(&attempt, out); break;
    case MSG_REFUSE: {
        struct msg_refuse m = {random_u64(), (uint8_t) (1 + below(5)), random_u32(), "queue full"};
        msg_encode_refuse(&m, out);
        break;
    }
    case MSG_ROSTER: {
        struct msg_roster m = random_roster(arena);
        msg_encode_roster(&m, out);
        break;
    }
    case MSG_KV_EVENT: {
        uint32_t count = below(9);
        struct msg_kv_event m = {random_u32(), random_blocks(arena, count, 3), count};
        msg_encode_kv_event(&m, out);
        break;
    }
    case MSG_KV_DUMP_ASK: {
        struct msg_kv_dump_ask m = {random_u64()};
        msg_encode_kv_dump_ask(&m, out);
        break;
    }
    case MSG_KV_DUMP: {
        uint32_t count = below(9), part_count = 1 + below(5);
        struct msg_kv_dump m = {random_u64(),
                                random_u64(),
                                below(part_count),
                                part_count,
                                random_blocks(arena, count, 1),
                                count};
        msg_encode_kv_dump(&m, out);
        break;
    }
    case MSG_PREFILL: {
        struct msg_prefill m = random_prefill(arena);
        msg_encode_prefill(&m, out);
        break;
    }
    case MSG_PREFILL_DONE: {
        struct msg_prefill_done m = {random_u64(), random_u32(), random_u32(), random_u64(),
                                     random_u64()};
        msg_encode_prefill_done(&m, out);
        break;
    }
    default: fail();
    }
    assert_int_equal(buf_error(out), ERR_OK);
}

/* Decodes and, when it was whole, encodes again into *again. */
static enum err decode(const uint8_t *data, size_t bytes, struct arena *arena, struct buf *again) {
    enum err e = ERR_FORMAT;
    union {
        struct msg_hello hello;
        struct msg_load load;
        struct msg_generate generate;
        struct msg_tokens tokens;
        struct msg_sync sync;
        struct msg_attempt attempt;
        struct msg_refuse refuse;
        struct msg_roster roster;
        struct msg_kv_event kv_event;
        struct msg_kv_dump_ask kv_dump_ask;
        struct msg_kv_dump kv_dump;
        struct msg_prefill prefill;
        struct msg_prefill_done prefill_done;
    } m;
    uint32_t kind = msg_peek_kind(data, bytes);
    switch (kind) {
    case MSG_HELLO:
        if (!(e = msg_decode_hello(data, bytes, &m.hello))) msg_encode_hello(&m.hello, again);
        break;
    case MSG_LOAD:
        if (!(e = msg_decode_load(data, bytes, arena, &m.load))) msg_encode_load(&m.load, again);
        break;
    case MSG_GENERATE:
        if (!(e = msg_decode_generate(data, bytes, arena, &m.generate)))
            msg_encode_generate(&m.generate, again);
        break;
    case MSG_TOKENS:
        if (!(e = msg_decode_tokens(data, bytes, arena, &m.tokens)))
            msg_encode_tokens(&m.tokens, again);
        break;
    case MSG_SYNC:
        if (!(e = msg_decode_sync(data, bytes, arena, &m.sync))) msg_encode_sync(&m.sync, again);
        break;
    case MSG_GONE:
        if (!(e = msg_decode_attempt(data, bytes, &m.attempt))) msg_encode_gone(&m.attempt, again);
        break;
    case MSG_CANCEL:
        if (!(e = msg_decode_attempt(data, bytes, &m.attempt)))
            msg_encode_cancel(&m.attempt, again);
        break;
    case MSG_REFUSE:
        if (!(e = msg_decode_refuse(data, bytes, arena, &m.refuse)))
            msg_encode_refuse(&m.refuse, again);
        break;
    case MSG_ROSTER:
        if (!(e = msg_decode_roster(data, bytes, arena, &m.roster)))
            msg_encode_roster(&m.roster, again);
        break;
    case MSG_KV_EVENT:
        if (!(e = msg_decode_kv_event(data, bytes, arena, &m.kv_event)))
            msg_encode_kv_event(&m.kv_event, again);
        break;
    case MSG_KV_DUMP_ASK:
        if (!(e = msg_decode_kv_dump_ask(data, bytes, &m.kv_dump_ask)))
            msg_encode_kv_dump_ask(&m.kv_dump_ask, again);
        break;
    case MSG_KV_DUMP:
        if (!(e = msg_decode_kv_dump(data, bytes, arena, &m.kv_dump)))
            msg_encode_kv_dump(&m.kv_dump, again);
        break;
    case MSG_PREFILL:
        if (!(e = msg_decode_prefill(data, bytes, arena, &m.prefill)))
            msg_encode_prefill(&m.prefill, again);
        break;
    case MSG_PREFILL_DONE:
        if (!(e = msg_decode_prefill_done(data, bytes, &m.prefill_done)))
            msg_encode_prefill_done(&m.prefill_done, again);
        break;
    default: break;
    }
    return e;
}

static const enum msg_kind kinds[] = {MSG_HELLO,   MSG_LOAD,        MSG_GENERATE,    MSG_TOKENS,
                                      MSG_SYNC,    MSG_GONE,        MSG_CANCEL,      MSG_REFUSE,
                                      MSG_ROSTER,  MSG_KV_EVENT,    MSG_KV_DUMP_ASK, MSG_KV_DUMP,
                                      MSG_PREFILL, MSG_PREFILL_DONE};

static void test_round_trip(void **state) {
    for (uint64_t seed = 1; seed <= 700; seed++) {
        random_state = seed;
        struct arena arena;
        struct buf first, second;
        arena_init(&arena, 0);
        buf_init(&first, 0);
        buf_init(&second, 0);
        enum msg_kind kind = kinds[seed % ARRAY_COUNT(kinds)];
        encode_random(kind, &arena, &first);
        assert_int_equal(msg_peek_kind(first.data, first.bytes), kind);
        if (decode(first.data, first.bytes, &arena, &second)) fail_msg("seed %d", (int) seed);
        if (first.bytes != second.bytes || memcmp(first.data, second.data, first.bytes) != 0)
            fail_msg("seed %d: other bytes after the round trip", (int) seed);
        buf_release(&first);
        buf_release(&second);
        arena_release(&arena);
    }
}

/* The fields themselves, not only "the same bytes twice". */
static void test_fields(void **state) {
    struct arena arena;
    struct buf out;
    arena_init(&arena, 0);
    buf_init(&out, 0);
    uint32_t prompt[3] = {5, 6, 7}, outputs[2] = {8, 9}, stop[1] = {2}, bad[3] = {1, 2, 3};
    uint32_t bad_lengths[2] = {1, 2};
    struct msg_choice choice = {3, outputs, 2};
    struct msg_generate m = {.attempt = 77,
                             .prompt_ids = prompt,
                             .prompt_count = 3,
                             .choices = &choice,
                             .choice_count = 1,
                             .remaining_ms = 900,
                             .prefill_instance = 12,
                             .is_redispatch = true,
                             .request_id = "a",
                             .traceparent = "tp"};
    sampling_init(&m.sampling);
    m.sampling.seed = 42;
    m.sampling.stop_ids = stop;
    m.sampling.stop_id_count = 1;
    m.sampling.bad_word_ids = bad;
    m.sampling.bad_word_lengths = bad_lengths;
    m.sampling.bad_word_count = 2;
    msg_encode_generate(&m, &out);
    struct msg_generate d;
    assert_int_equal(msg_decode_generate(out.data, out.bytes, &arena, &d), ERR_OK);
    assert_int_equal(d.attempt, 77);
    assert_int_equal(d.prompt_count, 3);
    assert_memory_equal(d.prompt_ids, prompt, sizeof prompt);
    assert_int_equal(d.choices[0].index, 3);
    assert_memory_equal(d.choices[0].output_ids, outputs, sizeof outputs);
    assert_int_equal(d.sampling.seed, 42);
    assert_int_equal(d.sampling.logprobs, -1);
    assert_int_equal(d.sampling.stop_ids[0], 2);
    assert_int_equal(d.sampling.bad_word_lengths[1], 2);
    assert_memory_equal(d.sampling.bad_word_ids, bad, sizeof bad);
    assert_int_equal(d.remaining_ms, 900);
    assert_int_equal(d.prefill_instance, 12);
    assert_true(d.is_redispatch);
    assert_string_equal(d.request_id, "a");
    assert_string_equal(d.traceparent, "tp");
    buf_release(&out);
    arena_release(&arena);
}

static void test_fields_of_graphs(void **state) {
    struct arena arena;
    struct buf out;
    arena_init(&arena, 0);
    buf_init(&out, 0);

    uint64_t alive[2] = {11, 12};
    struct msg_roster_dead dead = {13, MSG_REAP_KILLED, -9};
    msg_encode_roster(&(struct msg_roster){5, alive, 2, &dead, 1}, &out);
    struct msg_roster roster;
    assert_int_equal(msg_decode_roster(out.data, out.bytes, &arena, &roster), ERR_OK);
    assert_int_equal(roster.number, 5);
    assert_int_equal(roster.alive_count, 2);
    assert_memory_equal(roster.alive, alive, sizeof alive);
    assert_int_equal(roster.dead_count, 1);
    assert_int_equal(roster.dead[0].instance, 13);
    assert_int_equal(roster.dead[0].reason, MSG_REAP_KILLED);
    assert_int_equal(roster.dead[0].status, -9);

    buf_clear(&out);
    struct msg_kv_block blocks[3] = {
        {MSG_KV_STORED, 1, 2, 3}, {MSG_KV_REMOVED, 4, 0, 0}, {MSG_KV_CLEARED, 0, 0, 0}};
    msg_encode_kv_event(&(struct msg_kv_event){70, blocks, 3}, &out);
    struct msg_kv_event event;
    assert_int_equal(msg_decode_kv_event(out.data, out.bytes, &arena, &event), ERR_OK);
    assert_int_equal(event.first_number, 70);
    assert_int_equal(event.block_count, 3);
    assert_int_equal(event.blocks[0].kind, MSG_KV_STORED);
    assert_int_equal(event.blocks[0].hash, 1);
    assert_int_equal(event.blocks[0].parent_hash, 2);
    assert_int_equal(event.blocks[0].local_hash, 3);
    assert_int_equal(event.blocks[1].kind, MSG_KV_REMOVED);
    assert_int_equal(event.blocks[1].hash, 4);
    assert_int_equal(event.blocks[2].kind, MSG_KV_CLEARED);

    buf_clear(&out);
    msg_encode_kv_dump(&(struct msg_kv_dump){8, 70, 1, 2, blocks, 1}, &out);
    struct msg_kv_dump dump;
    assert_int_equal(msg_decode_kv_dump(out.data, out.bytes, &arena, &dump), ERR_OK);
    assert_int_equal(dump.number, 8);
    assert_int_equal(dump.event_number, 70);
    assert_int_equal(dump.part, 1);
    assert_int_equal(dump.part_count, 2);
    assert_int_equal(dump.block_count, 1);
    assert_int_equal(dump.blocks[0].parent_hash, 2);
    assert_int_equal(dump.blocks[0].local_hash, 3);

    buf_clear(&out);
    uint32_t ids[3] = {5, 6, 7}, held[2] = {40, 41};
    msg_encode_prefill(&(struct msg_prefill){.attempt = 9,
                                             .prompt_ids = ids,
                                             .prompt_count = 3,
                                             .have_count = 4,
                                             .blocks = held,
                                             .block_count = 2,
                                             .block_size = 16,
                                             .tp = 2,
                                             .numeric_digest = 77,
                                             .key = {78, 79},
                                             .transfer_address = "there",
                                             .remaining_ms = 800,
                                             .request_id = "r",
                                             .traceparent = "t"},
                       &out);
    struct msg_prefill prefill;
    assert_int_equal(msg_decode_prefill(out.data, out.bytes, &arena, &prefill), ERR_OK);
    assert_int_equal(prefill.attempt, 9);
    assert_int_equal(prefill.prompt_count, 3);
    assert_memory_equal(prefill.prompt_ids, ids, sizeof ids);
    assert_int_equal(prefill.have_count, 4);
    assert_int_equal(prefill.block_count, 2);
    assert_memory_equal(prefill.blocks, held, sizeof held);
    assert_int_equal(prefill.block_size, 16);
    assert_int_equal(prefill.tp, 2);
    assert_int_equal(prefill.numeric_digest, 77);
    assert_int_equal(prefill.key[0], 78);
    assert_int_equal(prefill.key[1], 79);
    assert_string_equal(prefill.transfer_address, "there");
    assert_int_equal(prefill.remaining_ms, 800);
    assert_string_equal(prefill.request_id, "r");
    assert_string_equal(prefill.traceparent, "t");

    buf_clear(&out);
    msg_encode_prefill_done(&(struct msg_prefill_done){9, 2, 32, 1000, 50}, &out);
    struct msg_prefill_done done;
    assert_int_equal(msg_decode_prefill_done(out.data, out.bytes, &done), ERR_OK);
    assert_int_equal(done.attempt, 9);
    assert_int_equal(done.piece_count, 2);
    assert_int_equal(done.cached_tokens, 32);
    assert_int_equal(done.compute_us, 1000);
    assert_int_equal(done.queue_us, 50);
    buf_release(&out);
    arena_release(&arena);
}

/* A HELLO's texts at their longest; one byte more is refused. */
static void test_hello_texts(void **state) {
    struct buf out;
    buf_init(&out, 0);
    struct msg_hello hello = {.instance = 1}, decoded;
    memset(hello.transfer_address, 'a', sizeof hello.transfer_address - 1);
    memset(hello.name, 'n', sizeof hello.name - 1);
    memset(hello.host, 'h', sizeof hello.host - 1);
    hello.http_port = 9100;
    msg_encode_hello(&hello, &out);
    assert_int_equal(msg_decode_hello(out.data, out.bytes, &decoded), ERR_OK);
    assert_string_equal(decoded.transfer_address, hello.transfer_address);
    assert_string_equal(decoded.name, hello.name);
    assert_string_equal(decoded.host, hello.host);
    assert_int_equal(decoded.http_port, 9100);
    /* (length, name, length, host, port, four sizes) stand at the end: a name of 64. */
    size_t at = out.bytes - 4 * 8 - 4 - (4 + 63) - (4 + 63);
    assert_int_equal(out.data[at], 63);
    out.data[at] = 64;
    assert_int_equal(msg_decode_hello(out.data, out.bytes, &decoded), ERR_FORMAT);
    buf_release(&out);
}

/* Counts and values that no honest sender writes. */
static void test_hostile(void **state) {
    struct arena arena;
    struct buf out;
    buf_init(&out, 0);
    arena_init(&arena, 1 << 16); /* none of these may ask for more */
    struct msg_kv_block block = {MSG_KV_STORED, 1, 2, 3};
    struct msg_kv_event event;
    struct msg_kv_dump dump;
    struct msg_roster roster;
    struct msg_prefill prefill;
    /* The last event's number must exist. */
    msg_encode_kv_event(&(struct msg_kv_event){UINT64_MAX, &block, 1}, &out);
    assert_int_equal(msg_decode_kv_event(out.data, out.bytes, &arena, &event), ERR_FORMAT);
    /* A count beyond the bytes. */
    uint32_t huge = UINT32_MAX;
    buf_clear(&out);
    msg_encode_kv_event(&(struct msg_kv_event){1, &block, 1}, &out);
    memcpy(out.data + 16, &huge, 4);
    assert_int_equal(msg_decode_kv_event(out.data, out.bytes, &arena, &event), ERR_FORMAT);
    buf_clear(&out);
    block.kind = MSG_KV_CLEARED + 1;
    msg_encode_kv_event(&(struct msg_kv_event){1, &block, 1}, &out);
    assert_int_equal(msg_decode_kv_event(out.data, out.bytes, &arena, &event), ERR_FORMAT);
    /* Part 2 of 2; part 0 of 0; a count beyond the bytes. */
    buf_clear(&out);
    msg_encode_kv_dump(&(struct msg_kv_dump){1, 1, 2, 2, &block, 1}, &out);
    assert_int_equal(msg_decode_kv_dump(out.data, out.bytes, &arena, &dump), ERR_FORMAT);
    buf_clear(&out);
    msg_encode_kv_dump(&(struct msg_kv_dump){1, 1, 0, 0, NULL, 0}, &out);
    assert_int_equal(msg_decode_kv_dump(out.data, out.bytes, &arena, &dump), ERR_FORMAT);
    buf_clear(&out);
    msg_encode_kv_dump(&(struct msg_kv_dump){1, 1, 0, 1, &block, 1}, &out);
    memcpy(out.data + out.bytes - MSG_KV_DUMP_BLOCK_BYTES - 4, &huge, 4);
    assert_int_equal(msg_decode_kv_dump(out.data, out.bytes, &arena, &dump), ERR_FORMAT);
    /* A death without a known reason; a count beyond the bytes. */
    struct msg_roster_dead dead = {1, 0, 0};
    buf_clear(&out);
    msg_encode_roster(&(struct msg_roster){1, NULL, 0, &dead, 1}, &out);
    assert_int_equal(msg_decode_roster(out.data, out.bytes, &arena, &roster), ERR_FORMAT);
    buf_clear(&out);
    msg_encode_roster(&(struct msg_roster){1, NULL, 0, NULL, 0}, &out);
    memcpy(out.data + 16, &huge, 4);
    assert_int_equal(msg_decode_roster(out.data, out.bytes, &arena, &roster), ERR_FORMAT);
    /* An address that has no room in a HELLO. */
    char address[MSG_TRANSFER_ADDRESS_BYTES + 1];
    memset(address, 'a', sizeof address - 1);
    address[sizeof address - 1] = 0;
    buf_clear(&out);
    msg_encode_prefill(&(struct msg_prefill){.transfer_address = address}, &out);
    assert_int_equal(msg_decode_prefill(out.data, out.bytes, &arena, &prefill), ERR_FORMAT);
    buf_clear(&out);
    address[sizeof address - 2] = 0;
    msg_encode_prefill(&(struct msg_prefill){.transfer_address = address}, &out);
    assert_int_equal(msg_decode_prefill(out.data, out.bytes, &arena, &prefill), ERR_OK);
    buf_release(&out);
    arena_release(&arena);
}

static void test_broken(void **state) {
    for (uint64_t seed = 1; seed <= 140; seed++) {
        random_state = seed;
        struct arena arena;
        struct buf whole, again;
        arena_init(&arena, 0);
        buf_init(&whole, 0);
        buf_init(&again, 0);
        encode_random(kinds[seed % ARRAY_COUNT(kinds)], &arena, &whole);
        for (size_t cut = 0; cut < whole.bytes; cut++) {
            /* In its own block, so that a read past the end shows under ASan; the header's
             * length is mended so that the fields are reached. */
            uint8_t *copy = malloc(cut ? cut : 1);
            memcpy(copy, whole.data, cut);
            uint32_t cut32 = (uint32_t) cut;
            if (cut >= 8) memcpy(copy + 4, &cut32, 4);
            if (!decode(copy, cut, &arena, &again)) fail_msg("seed %d cut %zu", (int) seed, cut);
            free(copy);
        }
        for (uint32_t i = 0; i < 200;
             i++) { /* must not crash, nor take more than the bytes allow */
            uint8_t *copy = malloc(whole.bytes);
            memcpy(copy, whole.data, whole.bytes);
            copy[below((uint32_t) whole.bytes)] ^= (uint8_t) (1u << below(8));
            struct arena small;
            arena_init(&small, 64 * whole.bytes + 65536);
            enum err e = decode(copy, whole.bytes, &small, &again);
            assert_true(e == ERR_OK || e == ERR_FORMAT);
            arena_release(&small);
            free(copy);
        }
        buf_release(&whole);
        buf_release(&again);
        arena_release(&arena);
    }
}

static void test_no_memory(void **state) {
    for (uint32_t k = 0; k < ARRAY_COUNT(kinds); k++) {
        random_state = 99 + k;
        struct arena arena;
        struct buf out;
        arena_init(&arena, 0);
        buf_init(&out, 0);
        encode_random(kinds[k], &arena, &out);
        for (uint64_t n = 1;; n++) {
            struct arena small;
            struct buf again;
            arena_init(&small, 0);
            buf_init(&again, 0);
            alloc_fail_at(n, 0);
            enum err e = decode(out.data, out.bytes, &small, &again);
            bool was_hit = alloc_count() >= n;
            alloc_fail_at(0, 0);
            if (!e && was_hit) assert_int_equal(buf_error(&again), ERR_MEMORY);
            else if (e) assert_int_equal(e, ERR_MEMORY);
            arena_release(&small);
            buf_release(&again);
            if (!was_hit) break;
        }
        buf_release(&out);
        arena_release(&arena);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),       cmocka_unit_test(test_fields),
        cmocka_unit_test(test_fields_of_graphs), cmocka_unit_test(test_hello_texts),
        cmocka_unit_test(test_hostile),          cmocka_unit_test(test_broken),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
