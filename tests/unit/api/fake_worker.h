/* fake_worker - the worker's side of protocol.md 2 in one thread, with faults on order: messages
 * lost, doubled and late, refusals, restarts.  Token `i` of choice `c` is fake_token(c, i), so a
 * test knows every answer. */
#ifndef GRAMME_TESTS_FAKE_WORKER_H
#define GRAMME_TESTS_FAKE_WORKER_H

#include "api_fixture.h"

#include "bus/bus.h"
#include "bus/msg.h"

#define FAKE_ATTEMPTS_MAX 512u
#define FAKE_CHOICES_MAX 8u

struct fake_attempt {
    uint64_t from, attempt;
    bool is_live, is_admitted, is_cancelled;
    uint32_t choice_count, prompt_count, max_tokens;
    int32_t logprobs, prompt_logprobs;
    uint32_t index[FAKE_CHOICES_MAX], made[FAKE_CHOICES_MAX], omitted[FAKE_CHOICES_MAX];
    char request_id[160];
    uint32_t prompt[64];      /* its first ids */
    struct sampling sampling; /* without its arrays */
};

struct fake_worker {
    struct bus *bus;
    struct bus_port *port;
    uint64_t instance;
    struct fake_attempt attempts[FAKE_ATTEMPTS_MAX];
    uint32_t attempt_count;
    uint64_t random;
    const char *script; /* the answer's bytes, repeated; NULL: letters by choice and index */
    uint32_t loss_percent, double_percent;
    uint32_t tokens_a_step;
    bool is_silent; /* takes everything, says nothing */
    bool holds;     /* acknowledges, admits nothing */
    bool loses_generate;
    uint8_t refuses; /* enum msg_refusal: every GENERATE */
    uint32_t retry_after_ms;
    uint32_t eos_after;  /* finish by the model's stop id after that many; 0: by length */
    const char *name;    /* of HELLO; NULL: none */
    uint32_t block_size; /* of HELLO; 0: 16 */
    uint32_t len_max;    /* of HELLO; 0: 1000 */
    uint64_t numeric_digest;
    uint64_t step_count;               /* of LOAD */
    uint64_t kv_number;                /* of the last event */
    struct msg_kv_block kv_blocks[64]; /* its cache, for dumps: two parts */
    uint32_t kv_block_count, dump_asks;
    bool ignores_dumps;
    uint32_t generate_count, sync_count, cancel_count, resumed_tokens, lost_count;
    uint64_t sync_last;
    uint8_t late[1 << 16]; /* one message held back */
    size_t late_bytes;
    uint64_t late_to;
};

static inline uint32_t fake_token(const struct fake_worker *worker, uint32_t choice,
                                  uint32_t index) {
    if (worker->script) return (unsigned char) worker->script[index % strlen(worker->script)];
    return 'a' + (choice * 7 + index) % 26;
}

static inline void fake_open(struct fake_worker *worker, struct bus *bus, uint64_t instance) {
    *worker = (struct fake_worker){
        .bus = bus, .instance = instance, .random = 88172645463325252u, .tokens_a_step = 1};
    assert_int_equal(
        bus_port_open(bus, instance, 1u << BUS_HELLO | 1u << BUS_ROSTER, NULL, NULL, &worker->port),
        ERR_OK);
}

static inline void fake_close(struct fake_worker *worker) {
    bus_port_close(worker->port);
    worker->port = NULL;
}

static inline bool fake_chance(struct fake_worker *worker, uint32_t percent) {
    return percent && fixture_random(&worker->random) % 100 < percent;
}

static inline void fake_send(struct fake_worker *worker, uint64_t to, struct buf *message) {
    assert_int_equal(buf_error(message), ERR_OK);
    if (worker->is_silent) return;
    if (fake_chance(worker, worker->loss_percent)) {
        worker->lost_count++;
        return;
    }
    uint32_t times = fake_chance(worker, worker->double_percent) ? 2 : 1;
    if (worker->double_percent && !worker->late_bytes && message->bytes <= sizeof worker->late &&
        fake_chance(worker, worker->double_percent)) { /* a copy comes late */
        memcpy(worker->late, message->data, message->bytes);
        worker->late_bytes = message->bytes;
        worker->late_to = to;
    }
    for (uint32_t i = 0; i < times; i++)
        (void) bus_send(worker->port, BUS_INBOX, to, message->data, message->bytes);
}

static inline void fake_hello(struct fake_worker *worker) {
    struct msg_hello hello = {.instance = worker->instance,
                              .component = 1,
                              .model_len_max = worker->len_max ? worker->len_max : 1000,
                              .seat_count = 16,
                              .block_size = 16,
                              .block_count = 100,
                              .tp = 1,
                              .version = "1.2.3",
                              .numeric_digest = worker->numeric_digest};
    if (worker->block_size) hello.block_size = worker->block_size;
    if (worker->name) snprintf(hello.name, sizeof hello.name, "%s", worker->name);
    struct buf out;
    buf_init(&out, 0);
    msg_encode_hello(&hello, &out);
    (void) bus_send(worker->port, BUS_HELLO, 0, out.data, out.bytes);
    buf_release(&out);
}

static inline void fake_load(struct fake_worker *worker, bool is_draining) {
    struct msg_load load = {.blocks_total = 100,
                            .blocks_free = 75,
                            .running_requests = 2,
                            .waiting_requests = 1,
                            .step_count = ++worker->step_count,
                            .kv_event_number = worker->kv_number,
                            .is_draining = is_draining};
    struct buf out;
    buf_init(&out, 0);
    msg_encode_load(&load, &out);
    (void) bus_send(worker->port, BUS_LOAD, 0, out.data, out.bytes);
    buf_release(&out);
}

static inline struct fake_attempt *fake_find(struct fake_worker *worker, uint64_t from,
                                             uint64_t attempt) {
    for (uint32_t i = 0; i < worker->attempt_count; i++)
        if (worker->attempts[i].from == from && worker->attempts[i].attempt == attempt &&
            worker->attempts[i].is_live)
            return &worker->attempts[i];
    return NULL;
}

/* A TOKENS message of one entry. */
static inline void fake_send_entry(struct fake_worker *worker, const struct fake_attempt *attempt,
                                   const struct msg_tokens_entry *entry) {
    struct msg_tokens tokens = {.entries = entry, .entry_count = 1};
    struct buf out;
    buf_init(&out, 0);
    msg_encode_tokens(&tokens, &out);
    fake_send(worker, attempt->from, &out);
    buf_release(&out);
}

/* Tokens first .. end of one choice, as one TOKENS message. */
static inline void fake_tokens(struct fake_worker *worker, const struct fake_attempt *attempt,
                               uint32_t choice, uint32_t first, uint32_t end, bool is_ack) {
    uint32_t ids[256], top_ids[256];
    float tops[256];
    struct msg_logprob logprobs[256], prompt[256];
    uint32_t count = end - first;
    assert_true(count <= 256 && attempt->prompt_count <= 256);
    for (uint32_t i = 0; i < count; i++) {
        ids[i] = fake_token(worker, attempt->index[choice], first + i);
        if (worker->eos_after && first + i == worker->eos_after) ids[i] = ID_END;
        top_ids[i] = 'z', tops[i] = -4;
        logprobs[i] = (struct msg_logprob){ids[i], -0.5f, 1, 1, &top_ids[i], &tops[i]};
    }
    struct msg_tokens_entry entry = {
        .attempt = attempt->attempt,
        .choice_index = attempt->index[choice],
        .first_index = first,
        .ids = ids,
        .id_count = count,
        .logprobs = attempt->logprobs >= 0 && count ? logprobs : NULL,
        .is_ack = is_ack,
        .is_admitted = attempt->is_admitted,
        .cached_tokens = 1,
        .queue_us = 2000,
        .error = "",
    };
    if (worker->eos_after && end == worker->eos_after + 1) {
        entry.finish = MSG_FINISH_STOP;
        entry.stop_id = ID_END;
    } else if (end == attempt->max_tokens) {
        entry.finish = MSG_FINISH_LENGTH;
    } else if (attempt->omitted[choice] >= 2) {
        entry.finish = MSG_FINISH_CANCELLED;
    }
    if (attempt->prompt_logprobs >= 0 && attempt->is_admitted) {
        for (uint32_t i = 0; i + 1 < attempt->prompt_count; i++)
            prompt[i] = (struct msg_logprob){'p', -1.5f, 1, 0, NULL, NULL};
        entry.prompt_first = 1;
        entry.prompt_logprobs = prompt;
        entry.prompt_logprob_count = attempt->prompt_count - 1;
    }
    fake_send_entry(worker, attempt, &entry);
}

/* Its device goes: every live attempt is told so, then its process ends. */
static inline void fake_lose_device(struct fake_worker *worker) {
    for (uint32_t i = 0; i < worker->attempt_count; i++) {
        const struct fake_attempt *attempt = &worker->attempts[i];
        if (!attempt->is_live) continue;
        struct msg_tokens_entry entry = {.attempt = attempt->attempt,
                                         .choice_index = attempt->index[0],
                                         .first_index = attempt->made[0],
                                         .finish = MSG_FINISH_LOST,
                                         .error = "the device is gone"};
        fake_send_entry(worker, attempt, &entry);
    }
    fake_close(worker);
}

static inline void fake_refuse(struct fake_worker *worker, uint64_t to, uint64_t attempt) {
    struct buf out;
    buf_init(&out, 0);
    msg_encode_refuse(&(struct msg_refuse){.attempt = attempt,
                                           .reason = worker->refuses,
                                           .retry_after_ms = worker->retry_after_ms,
                                           .text = "no, said the worker"},
                      &out);
    fake_send(worker, to, &out);
    buf_release(&out);
}

static inline void fake_take_generate(struct fake_worker *worker, const struct bus_message *message,
                                      struct arena *arena) {
    struct msg_generate generate;
    worker->generate_count++;
    if (worker->loses_generate) return;
    assert_int_equal(msg_decode_generate(message->data, message->bytes, arena, &generate), ERR_OK);
    if (worker->refuses) {
        fake_refuse(worker, message->from, generate.attempt);
        return;
    }
    struct fake_attempt *attempt = fake_find(worker, message->from, generate.attempt);
    if (!attempt) {
        assert_true(worker->attempt_count < FAKE_ATTEMPTS_MAX);
        attempt = &worker->attempts[worker->attempt_count++];
        *attempt = (struct fake_attempt){
            .from = message->from,
            .attempt = generate.attempt,
            .is_live = true,
            .is_admitted = !worker->holds,
            .choice_count = generate.choice_count,
            .prompt_count = generate.prompt_count,
            .max_tokens = generate.sampling.max_tokens,
            .logprobs = generate.sampling.logprobs,
            .prompt_logprobs = generate.sampling.prompt_logprobs,
        };
        for (uint32_t i = 0; i < generate.prompt_count && i < 64; i++)
            attempt->prompt[i] = generate.prompt_ids[i];
        attempt->sampling = generate.sampling;
        snprintf(attempt->request_id, sizeof attempt->request_id, "%s", generate.request_id);
        for (uint32_t c = 0; c < generate.choice_count; c++) {
            attempt->index[c] = generate.choices[c].index;
            attempt->made[c] = generate.choices[c].output_count;
            worker->resumed_tokens += generate.choices[c].output_count;
            for (uint32_t i = 0; i < generate.choices[c].output_count; i++)
                assert_int_equal(generate.choices[c].output_ids[i],
                                 fake_token(worker, generate.choices[c].index, i));
        }
    }
    fake_tokens(worker, attempt, 0, attempt->made[0], attempt->made[0], true);
}

static inline void fake_take_sync(struct fake_worker *worker, const struct bus_message *message,
                                  struct arena *arena) {
    struct msg_sync sync;
    assert_int_equal(msg_decode_sync(message->data, message->bytes, arena, &sync), ERR_OK);
    worker->sync_count++;
    assert_true(sync.number > worker->sync_last);
    worker->sync_last = sync.number;
    for (uint32_t i = 0; i < sync.entry_count; i++) {
        struct fake_attempt *attempt = fake_find(worker, message->from, sync.entries[i].attempt);
        if (!attempt) {
            struct buf out;
            buf_init(&out, 0);
            msg_encode_gone(&(struct msg_attempt){.attempt = sync.entries[i].attempt}, &out);
            fake_send(worker, message->from, &out);
            buf_release(&out);
            continue;
        }
        for (uint32_t c = 0; c < attempt->choice_count; c++) {
            bool is_wanted = false;
            for (uint32_t k = 0; k < sync.entries[i].choice_count; k++)
                is_wanted |= attempt->index[c] == sync.entries[i].choices[k].index;
            attempt->omitted[c] = is_wanted ? 0 : attempt->omitted[c] + 1;
        }
        for (uint32_t k = 0; k < sync.entries[i].choice_count; k++)
            for (uint32_t c = 0; c < attempt->choice_count; c++)
                if (attempt->index[c] == sync.entries[i].choices[k].index &&
                    sync.entries[i].choices[k].next_index <= attempt->made[c])
                    fake_tokens(worker, attempt, c, sync.entries[i].choices[k].next_index,
                                attempt->made[c], true);
    }
}

static inline void fake_kv_event(struct fake_worker *worker, uint8_t kind, uint64_t hash) {
    struct msg_kv_block block = {.kind = kind, .hash = hash, .local_hash = hash};
    struct msg_kv_event event = {
        .first_number = ++worker->kv_number, .blocks = &block, .block_count = 1};
    struct buf out;
    buf_init(&out, 0);
    msg_encode_kv_event(&event, &out);
    (void) bus_send(worker->port, BUS_KV, 0, out.data, out.bytes);
    buf_release(&out);
}

/* What it holds, in two parts, the second first. */
static inline void fake_dump(struct fake_worker *worker, const struct bus_message *message) {
    struct msg_kv_dump_ask ask;
    assert_int_equal(msg_decode_kv_dump_ask(message->data, message->bytes, &ask), ERR_OK);
    worker->dump_asks++;
    if (worker->ignores_dumps) return;
    uint32_t half = worker->kv_block_count / 2;
    for (uint32_t part = 2; part--;) {
        struct msg_kv_dump dump = {.number = ask.number,
                                   .event_number = worker->kv_number,
                                   .part = part,
                                   .part_count = 2,
                                   .blocks = worker->kv_blocks + (part ? half : 0),
                                   .block_count = part ? worker->kv_block_count - half : half};
        struct buf out;
        buf_init(&out, 0);
        msg_encode_kv_dump(&dump, &out);
        fake_send(worker, message->from, &out);
        buf_release(&out);
    }
}

/* The supervisor's word that these were reaped. */
static inline void fake_roster_of(struct fake_worker *teller, const uint64_t *dead,
                                  uint32_t count) {
    struct msg_roster_dead entries[4];
    for (uint32_t i = 0; i < count; i++)
        entries[i] =
            (struct msg_roster_dead){.instance = dead[i], .reason = MSG_REAP_KILLED, .status = 9};
    struct msg_roster roster = {.number = 1, .dead = entries, .dead_count = count};
    struct buf out;
    buf_init(&out, 0);
    msg_encode_roster(&roster, &out);
    (void) bus_send(teller->port, BUS_ROSTER, 0, out.data, out.bytes);
    buf_release(&out);
}

static inline void fake_roster(struct fake_worker *teller, uint64_t dead) {
    fake_roster_of(teller, &dead, 1);
}

static inline void fake_bye(struct fake_worker *worker) {
    struct buf out;
    buf_init(&out, 0);
    msg_encode_bye(&out);
    (void) bus_send(worker->port, BUS_HELLO, 0, out.data, out.bytes);
    buf_release(&out);
}

/* Takes every message that waits. */
static inline void fake_poll(struct fake_worker *worker) {
    struct bus_message message;
    struct arena arena;
    arena_init(&arena, 0);
    while (bus_take(worker->port, &message)) {
        struct msg_attempt cancel;
        switch (msg_peek_kind(message.data, message.bytes)) {
        case MSG_WHO:
            if (!worker->is_silent) fake_hello(worker);
            break;
        case MSG_GENERATE: fake_take_generate(worker, &message, &arena); break;
        case MSG_KV_DUMP_ASK: fake_dump(worker, &message); break;
        case MSG_SYNC: fake_take_sync(worker, &message, &arena); break;
        case MSG_CANCEL:
            assert_int_equal(msg_decode_attempt(message.data, message.bytes, &cancel), ERR_OK);
            worker->cancel_count++;
            struct fake_attempt *attempt = fake_find(worker, message.from, cancel.attempt);
            if (attempt) attempt->is_cancelled = true, attempt->is_live = false;
            break;
        default: break;
        }
    }
    arena_release(&arena);
    if (worker->late_bytes && fake_chance(worker, 30)) {
        (void) bus_send(worker->port, BUS_INBOX, worker->late_to, worker->late, worker->late_bytes);
        worker->late_bytes = 0;
    }
}

/* One step: every live choice of every admitted attempt gets tokens_a_step more. */
static inline void fake_step(struct fake_worker *worker) {
    for (uint32_t i = 0; i < worker->attempt_count; i++) {
        struct fake_attempt *attempt = &worker->attempts[i];
        if (!attempt->is_live || worker->holds) continue;
        attempt->is_admitted = true;
        uint32_t most = worker->eos_after ? worker->eos_after + 1 : attempt->max_tokens;
        if (most > attempt->max_tokens) most = attempt->max_tokens;
        for (uint32_t c = 0; c < attempt->choice_count; c++) {
            uint32_t end = attempt->made[c] + worker->tokens_a_step;
            if (end > most) end = most;
            if (end == attempt->made[c] || attempt->omitted[c] >= 2) continue;
            uint32_t first = attempt->made[c];
            attempt->made[c] = end;
            fake_tokens(worker, attempt, c, first, end, false);
        }
    }
}

/* A new life: nothing is remembered. */
static inline void fake_forget(struct fake_worker *worker) {
    for (uint32_t i = 0; i < worker->attempt_count; i++) worker->attempts[i].is_live = false;
}

#endif
