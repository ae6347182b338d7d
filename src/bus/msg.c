/* msg - see msg.h.  Encoders and decoders stand side by side, field by field in the same order;
 * the round-trip test holds them together. */
#include "bus/msg.h"

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "arrays are copied as they lie");

/* (u16 version, u16 kind, u32 bytes of the whole message) */
#define HEADER_BYTES 8u

/* --- writing -------------------------------------------------------------------------------- */

/* A field of a size known here becomes a store: a TOKENS message has twenty for each token. */
static inline void put(struct buf *out, const void *value, size_t bytes) {
    if (out->failed || out->limit_bytes || out->room_bytes - out->bytes <= bytes) {
        buf_add(out, value, bytes);
        return;
    }
    memcpy(out->data + out->bytes, value, bytes);
    out->bytes += bytes;
}

static void put_u8(struct buf *out, uint8_t value) { put(out, &value, sizeof value); }
static void put_u16(struct buf *out, uint16_t value) { put(out, &value, sizeof value); }
static void put_u32(struct buf *out, uint32_t value) { put(out, &value, sizeof value); }
static void put_u64(struct buf *out, uint64_t value) { put(out, &value, sizeof value); }
static void put_f32(struct buf *out, float value) { put(out, &value, sizeof value); }
static void put_bool(struct buf *out, bool value) { put_u8(out, value ? 1 : 0); }

static void put_u32s(struct buf *out, const uint32_t *values, uint32_t count) {
    put_u32(out, count);
    if (count) buf_add(out, values, (size_t) count * sizeof *values);
}

static void put_u64s(struct buf *out, const uint64_t *values, uint32_t count) {
    put_u32(out, count);
    if (count) buf_add(out, values, (size_t) count * sizeof *values);
}

static void put_text(struct buf *out, const char *text) {
    size_t bytes = text ? strlen(text) : 0;
    put_u32(out, (uint32_t) bytes);
    if (bytes) buf_add(out, text, bytes);
}

/* Begins a message; the number is for end_message. */
static size_t begin_message(struct buf *out, enum msg_kind kind) {
    size_t start = out->bytes;
    put_u16(out, MSG_VERSION);
    put_u16(out, (uint16_t) kind);
    put_u32(out, 0);
    return start;
}

static void end_message(struct buf *out, size_t start) {
    if (out->failed) return;
    size_t bytes = out->bytes - start;
    if (bytes > UINT32_MAX) {
        out->failed = ERR_LIMIT;
        return;
    }
    uint32_t bytes32 = (uint32_t) bytes;
    memcpy(out->data + start + 4, &bytes32, sizeof bytes32);
}

/* --- reading -------------------------------------------------------------------------------- */

/* One sticky error; after it every get gives 0. */
struct reader {
    const uint8_t *at, *end;
    struct arena *arena;
    enum err failed;
};

static size_t left_of(const struct reader *in) { return (size_t) (in->end - in->at); }

static void fail(struct reader *in, enum err e) {
    if (!in->failed) in->failed = e;
    in->at = in->end;
}

static inline void get_bytes(struct reader *in, void *out, size_t bytes) {
    if (__builtin_expect(left_of(in) < bytes, 0)) {
        fail(in, ERR_FORMAT);
        memset(out, 0, bytes);
        return;
    }
    memcpy(out, in->at, bytes);
    in->at += bytes;
}

static uint8_t get_u8(struct reader *in) {
    uint8_t value;
    get_bytes(in, &value, sizeof value);
    return value;
}
static uint16_t get_u16(struct reader *in) {
    uint16_t value;
    get_bytes(in, &value, sizeof value);
    return value;
}
static uint32_t get_u32(struct reader *in) {
    uint32_t value;
    get_bytes(in, &value, sizeof value);
    return value;
}
static uint64_t get_u64(struct reader *in) {
    uint64_t value;
    get_bytes(in, &value, sizeof value);
    return value;
}
static float get_f32(struct reader *in) {
    float value;
    get_bytes(in, &value, sizeof value);
    return value;
}
static bool get_bool(struct reader *in) {
    uint8_t value = get_u8(in);
    if (value > 1) fail(in, ERR_FORMAT);
    return value == 1;
}

/* A count of things of at least wire_bytes each: more than the rest can hold is an error here,
 * before anything is taken by it. */
static uint32_t get_count(struct reader *in, size_t wire_bytes) {
    uint32_t count = get_u32(in);
    if (count > left_of(in) / wire_bytes) {
        fail(in, ERR_FORMAT);
        return 0;
    }
    return count;
}

/* Zeroed room for `count` structs; NULL when count is 0 or on an error. */
static void *take(struct reader *in, uint32_t count, size_t size) {
    if (in->failed || count == 0) return NULL;
    void *room = arena_take_zero(in->arena, count, size);
    if (!room) fail(in, ERR_MEMORY);
    return room;
}

static const uint32_t *get_u32s(struct reader *in, uint32_t *count_out) {
    uint32_t count = get_count(in, sizeof(uint32_t));
    *count_out = 0;
    if (in->failed || count == 0) return NULL;
    uint32_t *values = arena_take(in->arena, (size_t) count * sizeof *values);
    if (!values) {
        fail(in, ERR_MEMORY);
        return NULL;
    }
    get_bytes(in, values, (size_t) count * sizeof *values);
    *count_out = count;
    return values;
}

static const uint64_t *get_u64s(struct reader *in, uint32_t *count_out) {
    uint32_t count = get_count(in, sizeof(uint64_t));
    *count_out = 0;
    if (in->failed || count == 0) return NULL;
    uint64_t *values = arena_take(in->arena, (size_t) count * sizeof *values);
    if (!values) {
        fail(in, ERR_MEMORY);
        return NULL;
    }
    get_bytes(in, values, (size_t) count * sizeof *values);
    *count_out = count;
    return values;
}

static const char *get_text(struct reader *in) {
    uint32_t bytes = get_count(in, 1);
    if (in->failed || bytes == 0) return "";
    if (memchr(in->at, 0, bytes)) {
        fail(in, ERR_FORMAT);
        return "";
    }
    char *text = arena_copy(in->arena, in->at, bytes);
    if (!text) {
        fail(in, ERR_MEMORY);
        return "";
    }
    in->at += bytes;
    return text;
}

static struct reader begin_read(const uint8_t *data, size_t bytes, enum msg_kind kind,
                                struct arena *arena) {
    struct reader in = {data, data + bytes, arena, ERR_OK};
    if (msg_peek_kind(data, bytes) != (uint32_t) kind) fail(&in, ERR_FORMAT);
    else in.at += HEADER_BYTES;
    return in;
}

/* Bytes behind the last field are an error too. */
static enum err end_read(struct reader *in) {
    if (in->at != in->end) fail(in, ERR_FORMAT);
    return in->failed;
}

uint32_t msg_peek_kind(const uint8_t *data, size_t bytes) {
    if (bytes < HEADER_BYTES) return 0;
    struct reader in = {data, data + bytes, NULL, ERR_OK};
    uint16_t version = get_u16(&in);
    uint16_t kind = get_u16(&in);
    uint32_t whole_bytes = get_u32(&in);
    if (version != MSG_VERSION || whole_bytes != bytes) return 0;
    return kind >= MSG_WHO && kind <= MSG_REFUSE ? kind : 0;
}

/* --- WHO, BYE, HELLO, LOAD ------------------------------------------------------------------ */

void msg_encode_who(struct buf *out) { end_message(out, begin_message(out, MSG_WHO)); }
void msg_encode_bye(struct buf *out) { end_message(out, begin_message(out, MSG_BYE)); }

static void put_fixed_text(struct buf *out, const char *text, size_t room) {
    size_t bytes = strnlen(text, room);
    put_u32(out, (uint32_t) bytes);
    if (bytes) buf_add(out, text, bytes);
}

static void get_fixed_text(struct reader *in, char *out, size_t room) {
    uint32_t bytes = get_count(in, 1);
    if (in->failed) return;
    if (bytes >= room || memchr(in->at, 0, bytes)) {
        fail(in, ERR_FORMAT);
        return;
    }
    memcpy(out, in->at, bytes);
    out[bytes] = '\0';
    in->at += bytes;
}

void msg_encode_hello(const struct msg_hello *message, struct buf *out) {
    size_t start = begin_message(out, MSG_HELLO);
    put_u64(out, message->instance);
    put_u32(out, message->component);
    put_u64(out, message->numeric_digest);
    put_u64(out, message->tokenizer_digest);
    put_u32(out, message->model_len_max);
    put_u32(out, message->seat_count);
    put_u32(out, message->block_size);
    put_u32(out, message->block_count);
    put_u32(out, message->batched_tokens_max);
    put_u32(out, message->tp);
    put_fixed_text(out, message->version, sizeof message->version - 1);
    put_fixed_text(out, message->transfer_address, sizeof message->transfer_address - 1);
    put_fixed_text(out, message->name, sizeof message->name - 1);
    put_fixed_text(out, message->host, sizeof message->host - 1);
    put_u32(out, message->http_port);
    put_u64(out, message->device_bytes);
    put_u64(out, message->budget_bytes);
    put_u64(out, message->planned_bytes);
    put_u64(out, message->block_bytes);
    end_message(out, start);
}

enum err msg_decode_hello(const uint8_t *data, size_t bytes, struct msg_hello *out) {
    struct reader in = begin_read(data, bytes, MSG_HELLO, NULL);
    struct msg_hello message = {0};
    message.instance = get_u64(&in);
    message.component = get_u32(&in);
    message.numeric_digest = get_u64(&in);
    message.tokenizer_digest = get_u64(&in);
    message.model_len_max = get_u32(&in);
    message.seat_count = get_u32(&in);
    message.block_size = get_u32(&in);
    message.block_count = get_u32(&in);
    message.batched_tokens_max = get_u32(&in);
    message.tp = get_u32(&in);
    get_fixed_text(&in, message.version, sizeof message.version);
    get_fixed_text(&in, message.transfer_address, sizeof message.transfer_address);
    get_fixed_text(&in, message.name, sizeof message.name);
    get_fixed_text(&in, message.host, sizeof message.host);
    message.http_port = get_u32(&in);
    message.device_bytes = get_u64(&in);
    message.budget_bytes = get_u64(&in);
    message.planned_bytes = get_u64(&in);
    message.block_bytes = get_u64(&in);
    enum err e = end_read(&in);
    if (!e) *out = message;
    return e;
}

static void put_handoff(struct buf *out, const struct msg_load *message) {
    for (uint32_t i = 0; i < MSG_REMOTE_RESULT_COUNT; i++) put_u64(out, message->remote_results[i]);
    put_u32(out, message->remote_blocks);
    put_u32(out, message->quarantined_blocks);
    put_u64(out, message->handoff_us);
    put_u64(out, message->sent_bytes);
    put_u64(out, message->received_bytes);
    put_u64(out, message->busy_us);
    put_u64(out, message->tail_us);
    put_u64(out, message->prefills_done);
    put_u64(out, message->prefills_abandoned);
    put_u64(out, message->transfer_failures);
    put_u64(out, message->pairs_shm);
    put_u64(out, message->pairs_tcp);
    put_u64(out, message->pairs_lost);
    put_u64(out, message->device_used_bytes);
    put_u64(out, message->device_other_bytes);
    put_u64(out, message->device_drift_bytes);
}

static void get_handoff(struct reader *in, struct msg_load *message) {
    for (uint32_t i = 0; i < MSG_REMOTE_RESULT_COUNT; i++) message->remote_results[i] = get_u64(in);
    message->remote_blocks = get_u32(in);
    message->quarantined_blocks = get_u32(in);
    message->handoff_us = get_u64(in);
    message->sent_bytes = get_u64(in);
    message->received_bytes = get_u64(in);
    message->busy_us = get_u64(in);
    message->tail_us = get_u64(in);
    message->prefills_done = get_u64(in);
    message->prefills_abandoned = get_u64(in);
    message->transfer_failures = get_u64(in);
    message->pairs_shm = get_u64(in);
    message->pairs_tcp = get_u64(in);
    message->pairs_lost = get_u64(in);
    message->device_used_bytes = get_u64(in);
    message->device_other_bytes = get_u64(in);
    message->device_drift_bytes = get_u64(in);
}

const char *msg_remote_result_name(enum msg_remote_result result) {
    static const char *const names[MSG_REMOTE_RESULT_COUNT] = {
        "done", "local_short", "local_queue", "local_large", "local_no_peer", "timeout",
        "dead", "refused",     "broken",      "cancelled",   "retried"};
    return result < MSG_REMOTE_RESULT_COUNT ? names[result] : "";
}

void msg_encode_load(const struct msg_load *message, struct buf *out) {
    size_t start = begin_message(out, MSG_LOAD);
    put_u32(out, message->blocks_total);
    put_u32(out, message->blocks_free);
    put_u32(out, message->blocks_cached);
    put_u32(out, message->running_requests);
    put_u32(out, message->waiting_requests);
    put_u32(out, message->queued_prefills);
    put_u64(out, message->running_tokens);
    put_u64(out, message->waiting_tokens);
    put_u64(out, message->queued_prefill_tokens);
    put_u64(out, message->step_count);
    put_u64(out, message->step_us);
    put_u64(out, message->kv_event_number);
    put_u64(out, message->preemption_count);
    put_u64(out, message->prefix_query_tokens);
    put_u64(out, message->prefix_hit_tokens);
    put_u64(out, message->prompt_tokens);
    put_u64(out, message->generation_tokens);
    put_handoff(out, message);
    put_bool(out, message->is_draining);
    put_u32(out, message->sender_count);
    for (uint32_t i = 0; i < message->sender_count; i++) {
        put_u64(out, message->senders[i].instance);
        put_u64(out, message->senders[i].attempt);
    }
    end_message(out, start);
}

enum err msg_decode_load(const uint8_t *data, size_t bytes, struct arena *arena,
                         struct msg_load *out) {
    struct reader in = begin_read(data, bytes, MSG_LOAD, arena);
    struct msg_load message = {0};
    message.blocks_total = get_u32(&in);
    message.blocks_free = get_u32(&in);
    message.blocks_cached = get_u32(&in);
    message.running_requests = get_u32(&in);
    message.waiting_requests = get_u32(&in);
    message.queued_prefills = get_u32(&in);
    message.running_tokens = get_u64(&in);
    message.waiting_tokens = get_u64(&in);
    message.queued_prefill_tokens = get_u64(&in);
    message.step_count = get_u64(&in);
    message.step_us = get_u64(&in);
    message.kv_event_number = get_u64(&in);
    message.preemption_count = get_u64(&in);
    message.prefix_query_tokens = get_u64(&in);
    message.prefix_hit_tokens = get_u64(&in);
    message.prompt_tokens = get_u64(&in);
    message.generation_tokens = get_u64(&in);
    get_handoff(&in, &message);
    message.is_draining = get_bool(&in);
    message.sender_count = get_count(&in, 16);
    struct msg_load_sender *senders = take(&in, message.sender_count, sizeof *senders);
    for (uint32_t i = 0; senders && i < message.sender_count; i++) {
        senders[i].instance = get_u64(&in);
        senders[i].attempt = get_u64(&in);
    }
    message.senders = senders;
    enum err e = end_read(&in);
    if (!e) *out = message;
    return e;
}

/* --- GENERATE ------------------------------------------------------------------------------- */

static void put_sampling(struct buf *out, const struct sampling *s) {
    put_f32(out, s->temperature);
    put_f32(out, s->top_p);
    put_f32(out, s->min_p);
    put_u32(out, (uint32_t) s->top_k);
    put_f32(out, s->presence_penalty);
    put_f32(out, s->frequency_penalty);
    put_f32(out, s->repetition_penalty);
    put_u64(out, s->seed);
    put_u32(out, s->max_tokens);
    put_u32(out, s->min_tokens);
    put_bool(out, s->ignore_eos);
    put_u32(out, (uint32_t) s->logprobs);
    put_u32(out, (uint32_t) s->prompt_logprobs);
    put_bool(out, s->skip_prefix_cache);
    put_u32s(out, s->stop_ids, s->stop_id_count);
    put_u32(out, s->logit_bias_count);
    for (uint32_t i = 0; i < s->logit_bias_count; i++) {
        put_u32(out, s->logit_bias[i].token_id);
        put_f32(out, s->logit_bias[i].bias);
    }
    put_u32s(out, s->allowed_ids, s->allowed_id_count);
    put_u32s(out, s->bad_word_lengths, s->bad_word_count);
    uint32_t bad_id_count = 0;
    for (uint32_t i = 0; i < s->bad_word_count; i++) bad_id_count += s->bad_word_lengths[i];
    put_u32s(out, s->bad_word_ids, bad_id_count);
}

static void get_sampling(struct reader *in, struct sampling *s) {
    s->temperature = get_f32(in);
    s->top_p = get_f32(in);
    s->min_p = get_f32(in);
    s->top_k = (int32_t) get_u32(in);
    s->presence_penalty = get_f32(in);
    s->frequency_penalty = get_f32(in);
    s->repetition_penalty = get_f32(in);
    s->seed = get_u64(in);
    s->max_tokens = get_u32(in);
    s->min_tokens = get_u32(in);
    s->ignore_eos = get_bool(in);
    s->logprobs = (int32_t) get_u32(in);
    s->prompt_logprobs = (int32_t) get_u32(in);
    s->skip_prefix_cache = get_bool(in);
    s->stop_ids = get_u32s(in, &s->stop_id_count);
    s->logit_bias_count = get_count(in, 8);
    struct sampling_bias *bias = take(in, s->logit_bias_count, sizeof *bias);
    for (uint32_t i = 0; bias && i < s->logit_bias_count; i++) {
        bias[i].token_id = get_u32(in);
        bias[i].bias = get_f32(in);
    }
    s->logit_bias = bias;
    s->allowed_ids = get_u32s(in, &s->allowed_id_count);
    s->bad_word_lengths = get_u32s(in, &s->bad_word_count);
    uint32_t bad_id_count;
    s->bad_word_ids = get_u32s(in, &bad_id_count);
    uint64_t named_count = 0;
    for (uint32_t i = 0; i < s->bad_word_count; i++) named_count += s->bad_word_lengths[i];
    if (named_count != bad_id_count) fail(in, ERR_FORMAT);
}

void msg_encode_generate(const struct msg_generate *message, struct buf *out) {
    size_t start = begin_message(out, MSG_GENERATE);
    put_u64(out, message->attempt);
    put_u32s(out, message->prompt_ids, message->prompt_count);
    put_u32(out, message->choice_count);
    for (uint32_t i = 0; i < message->choice_count; i++) {
        put_u32(out, message->choices[i].index);
        put_u32s(out, message->choices[i].output_ids, message->choices[i].output_count);
    }
    put_sampling(out, &message->sampling);
    put_u64(out, message->prefill_instance);
    put_u32(out, message->remaining_ms);
    put_bool(out, message->is_redispatch);
    put_text(out, message->request_id);
    put_text(out, message->traceparent);
    end_message(out, start);
}

enum err msg_decode_generate(const uint8_t *data, size_t bytes, struct arena *arena,
                             struct msg_generate *out) {
    struct reader in = begin_read(data, bytes, MSG_GENERATE, arena);
    struct msg_generate message = {0};
    message.attempt = get_u64(&in);
    message.prompt_ids = get_u32s(&in, &message.prompt_count);
    message.choice_count = get_count(&in, 8);
    struct msg_choice *choices = take(&in, message.choice_count, sizeof *choices);
    for (uint32_t i = 0; choices && i < message.choice_count; i++) {
        choices[i].index = get_u32(&in);
        choices[i].output_ids = get_u32s(&in, &choices[i].output_count);
    }
    message.choices = choices;
    get_sampling(&in, &message.sampling);
    message.prefill_instance = get_u64(&in);
    message.remaining_ms = get_u32(&in);
    message.is_redispatch = get_bool(&in);
    message.request_id = get_text(&in);
    message.traceparent = get_text(&in);
    enum err e = end_read(&in);
    if (!e) *out = message;
    return e;
}

/* --- TOKENS --------------------------------------------------------------------------------- */

#define LOGPROB_WIRE_BYTES 16u

static void put_logprobs(struct buf *out, const struct msg_logprob *logprobs, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        const struct msg_logprob *one = &logprobs[i];
        put_u32(out, one->token_id);
        put_f32(out, one->logprob);
        put_u32(out, one->rank);
        put_u32(out, one->top_count);
        if (one->top_count == 0) continue;
        buf_add(out, one->top_ids, (size_t) one->top_count * sizeof *one->top_ids);
        buf_add(out, one->top_logprobs, (size_t) one->top_count * sizeof *one->top_logprobs);
    }
}

static const struct msg_logprob *get_logprobs(struct reader *in, uint32_t count) {
    if (count == 0) return NULL;
    if (count > left_of(in) / LOGPROB_WIRE_BYTES) fail(in, ERR_FORMAT);
    struct msg_logprob *logprobs = take(in, count, sizeof *logprobs);
    for (uint32_t i = 0; logprobs && i < count; i++) {
        struct msg_logprob *one = &logprobs[i];
        one->token_id = get_u32(in);
        one->logprob = get_f32(in);
        one->rank = get_u32(in);
        uint32_t top_count = get_u32(in);
        if (top_count > SAMPLING_TOP_LOGPROBS_MAX) fail(in, ERR_FORMAT);
        uint32_t *ids = take(in, top_count, sizeof *ids);
        float *values = take(in, top_count, sizeof *values);
        if (!ids || !values) continue;
        get_bytes(in, ids, top_count * sizeof *ids);
        get_bytes(in, values, top_count * sizeof *values);
        one->top_ids = ids;
        one->top_logprobs = values;
        one->top_count = top_count;
    }
    return logprobs;
}

static void put_entry(struct buf *out, const struct msg_tokens_entry *entry) {
    put_u64(out, entry->attempt);
    put_u32(out, entry->choice_index);
    put_u32(out, entry->first_index);
    put_u32s(out, entry->ids, entry->id_count);
    bool has_logprobs = entry->logprobs && entry->id_count;
    put_bool(out, has_logprobs);
    if (has_logprobs) put_logprobs(out, entry->logprobs, entry->id_count);
    put_u8(out, entry->finish);
    put_u32(out, entry->stop_id);
    put_bool(out, entry->is_ack);
    put_bool(out, entry->is_admitted);
    put_u32(out, entry->cached_tokens);
    put_u64(out, entry->queue_us);
    put_u32(out, entry->prompt_first);
    put_u32(out, entry->prompt_logprob_count);
    put_logprobs(out, entry->prompt_logprobs, entry->prompt_logprob_count);
    put_text(out, entry->error);
}

static void get_entry(struct reader *in, struct msg_tokens_entry *entry) {
    entry->attempt = get_u64(in);
    entry->choice_index = get_u32(in);
    entry->first_index = get_u32(in);
    entry->ids = get_u32s(in, &entry->id_count);
    bool has_logprobs = get_bool(in);
    if (has_logprobs && !entry->id_count) fail(in, ERR_FORMAT);
    if (has_logprobs) entry->logprobs = get_logprobs(in, entry->id_count);
    entry->finish = get_u8(in);
    if (entry->finish > MSG_FINISH_LOST) fail(in, ERR_FORMAT);
    entry->stop_id = get_u32(in);
    entry->is_ack = get_bool(in);
    entry->is_admitted = get_bool(in);
    entry->cached_tokens = get_u32(in);
    entry->queue_us = get_u64(in);
    entry->prompt_first = get_u32(in);
    entry->prompt_logprob_count = get_count(in, LOGPROB_WIRE_BYTES);
    entry->prompt_logprobs = get_logprobs(in, entry->prompt_logprob_count);
    entry->error = get_text(in);
}

void msg_encode_tokens(const struct msg_tokens *message, struct buf *out) {
    size_t start = begin_message(out, MSG_TOKENS);
    put_u32(out, message->entry_count);
    for (uint32_t i = 0; i < message->entry_count; i++) put_entry(out, &message->entries[i]);
    end_message(out, start);
}

/* An entry without ids, logprobs and text. */
#define ENTRY_WIRE_BYTES (8u + 3 * 4 + 1 + 1 + 4 + 1 + 1 + 4 + 8 + 4 + 4 + 4)

enum err msg_decode_tokens(const uint8_t *data, size_t bytes, struct arena *arena,
                           struct msg_tokens *out) {
    struct reader in = begin_read(data, bytes, MSG_TOKENS, arena);
    struct msg_tokens message = {0};
    message.entry_count = get_count(&in, ENTRY_WIRE_BYTES);
    struct msg_tokens_entry *entries = take(&in, message.entry_count, sizeof *entries);
    for (uint32_t i = 0; entries && i < message.entry_count && !in.failed; i++)
        get_entry(&in, &entries[i]);
    message.entries = entries;
    enum err e = end_read(&in);
    if (!e) *out = message;
    return e;
}

/* --- SYNC, GONE, CANCEL, REFUSE -------------------------------------------------------------- */

void msg_encode_sync(const struct msg_sync *message, struct buf *out) {
    size_t start = begin_message(out, MSG_SYNC);
    put_u64(out, message->number);
    put_u32(out, message->entry_count);
    for (uint32_t i = 0; i < message->entry_count; i++) {
        const struct msg_sync_entry *entry = &message->entries[i];
        put_u64(out, entry->attempt);
        put_u32(out, entry->choice_count);
        for (uint32_t c = 0; c < entry->choice_count; c++) {
            put_u32(out, entry->choices[c].index);
            put_u32(out, entry->choices[c].next_index);
        }
        put_u32(out, entry->prompt_next);
    }
    end_message(out, start);
}

enum err msg_decode_sync(const uint8_t *data, size_t bytes, struct arena *arena,
                         struct msg_sync *out) {
    struct reader in = begin_read(data, bytes, MSG_SYNC, arena);
    struct msg_sync message = {0};
    message.number = get_u64(&in);
    message.entry_count = get_count(&in, 16);
    struct msg_sync_entry *entries = take(&in, message.entry_count, sizeof *entries);
    for (uint32_t i = 0; entries && i < message.entry_count && !in.failed; i++) {
        struct msg_sync_entry *entry = &entries[i];
        entry->attempt = get_u64(&in);
        entry->choice_count = get_count(&in, 8);
        struct msg_sync_choice *choices = take(&in, entry->choice_count, sizeof *choices);
        for (uint32_t c = 0; choices && c < entry->choice_count; c++) {
            choices[c].index = get_u32(&in);
            choices[c].next_index = get_u32(&in);
        }
        entry->choices = choices;
        entry->prompt_next = get_u32(&in);
    }
    message.entries = entries;
    enum err e = end_read(&in);
    if (!e) *out = message;
    return e;
}

static void encode_attempt(enum msg_kind kind, const struct msg_attempt *message, struct buf *out) {
    size_t start = begin_message(out, kind);
    put_u64(out, message->attempt);
    end_message(out, start);
}

void msg_encode_gone(const struct msg_attempt *message, struct buf *out) {
    encode_attempt(MSG_GONE, message, out);
}

void msg_encode_cancel(const struct msg_attempt *message, struct buf *out) {
    encode_attempt(MSG_CANCEL, message, out);
}

enum err msg_decode_attempt(const uint8_t *data, size_t bytes, struct msg_attempt *out) {
    enum msg_kind kind = msg_peek_kind(data, bytes) == MSG_GONE ? MSG_GONE : MSG_CANCEL;
    struct reader in = begin_read(data, bytes, kind, NULL);
    struct msg_attempt message = {.attempt = get_u64(&in)};
    enum err e = end_read(&in);
    if (!e) *out = message;
    return e;
}

void msg_encode_refuse(const struct msg_refuse *message, struct buf *out) {
    size_t start = begin_message(out, MSG_REFUSE);
    put_u64(out, message->attempt);
    put_u8(out, message->reason);
    put_u32(out, message->retry_after_ms);
    put_text(out, message->text);
    end_message(out, start);
}

enum err msg_decode_refuse(const uint8_t *data, size_t bytes, struct arena *arena,
                           struct msg_refuse *out) {
    struct reader in = begin_read(data, bytes, MSG_REFUSE, arena);
    struct msg_refuse message = {0};
    message.attempt = get_u64(&in);
    message.reason = get_u8(&in);
    if (message.reason < MSG_REFUSE_BUSY || message.reason > MSG_REFUSE_UNLIKE)
        fail(&in, ERR_FORMAT);
    message.retry_after_ms = get_u32(&in);
    message.text = get_text(&in);
    enum err e = end_read(&in);
    if (!e) *out = message;
    return e;
}

/* --- ROSTER ----------------------------------------------------------------------------------- */

#define DEAD_WIRE_BYTES (8u + 1 + 4)

void msg_encode_roster(const struct msg_roster *message, struct buf *out) {
    size_t start = begin_message(out, MSG_ROSTER);
    put_u64(out, message->number);
    put_u64s(out, message->alive, message->alive_count);
    put_u32(out, message->dead_count);
    for (uint32_t i = 0; i < message->dead_count; i++) {
        put_u64(out, message->dead[i].instance);
        put_u8(out, message->dead[i].reason);
        put_u32(out, (uint32_t) message->dead[i].status);
    }
    end_message(out, start);
}

enum err msg_decode_roster(const uint8_t *data, size_t bytes, struct arena *arena,
                           struct msg_roster *out) {
    struct reader in = begin_read(data, bytes, MSG_ROSTER, arena);
    struct msg_roster message = {0};
    message.number = get_u64(&in);
    message.alive = get_u64s(&in, &message.alive_count);
    message.dead_count = get_count(&in, DEAD_WIRE_BYTES);
    struct msg_roster_dead *dead = take(&in, message.dead_count, sizeof *dead);
    for (uint32_t i = 0; dead && i < message.dead_count; i++) {
        dead[i].instance = get_u64(&in);
        dead[i].reason = get_u8(&in);
        dead[i].status = (int32_t) get_u32(&in);
        if (dead[i].reason < MSG_REAP_EXITED || dead[i].reason > MSG_REAP_KILLED)
            fail(&in, ERR_FORMAT);
    }
    message.dead = dead;
    enum err e = end_read(&in);
    if (!e) *out = message;
    return e;
}

/* --- KV_EVENT, KV_DUMP_ASK, KV_DUMP ----------------------------------------------------------- */

#define EVENT_WIRE_BYTES (1u + 8) /* the least: one removed */

void msg_encode_kv_event(const struct msg_kv_event *message, struct buf *out) {
    size_t start = begin_message(out, MSG_KV_EVENT);
    put_u64(out, message->first_number);
    put_u32(out, message->block_count);
    for (uint32_t i = 0; i < message->block_count; i++) {
        const struct msg_kv_block *block = &message->blocks[i];
        put_u8(out, block->kind);
        put_u64(out, block->hash);
        if (block->kind != MSG_KV_STORED) continue;
        put_u64(out, block->parent_hash);
        put_u64(out, block->local_hash);
    }
    end_message(out, start);
}

enum err msg_decode_kv_event(const uint8_t *data, size_t bytes, struct arena *arena,
                             struct msg_kv_event *out) {
    struct reader in = begin_read(data, bytes, MSG_KV_EVENT, arena);
    struct msg_kv_event message = {0};
    message.first_number = get_u64(&in);
    message.block_count = get_count(&in, EVENT_WIRE_BYTES);
    /* The last block's number must be one. */
    if (message.block_count > UINT64_MAX - message.first_number) fail(&in, ERR_FORMAT);
    struct msg_kv_block *blocks = take(&in, message.block_count, sizeof *blocks);
    for (uint32_t i = 0; blocks && i < message.block_count; i++) {
        blocks[i].kind = get_u8(&in);
        if (blocks[i].kind > MSG_KV_CLEARED) fail(&in, ERR_FORMAT);
        blocks[i].hash = get_u64(&in);
        if (blocks[i].kind != MSG_KV_STORED) continue;
        blocks[i].parent_hash = get_u64(&in);
        blocks[i].local_hash = get_u64(&in);
    }
    message.blocks = blocks;
    enum err e = end_read(&in);
    if (!e) *out = message;
    return e;
}

void msg_encode_kv_dump_ask(const struct msg_kv_dump_ask *message, struct buf *out) {
    size_t start = begin_message(out, MSG_KV_DUMP_ASK);
    put_u64(out, message->number);
    end_message(out, start);
}

enum err msg_decode_kv_dump_ask(const uint8_t *data, size_t bytes, struct msg_kv_dump_ask *out) {
    struct reader in = begin_read(data, bytes, MSG_KV_DUMP_ASK, NULL);
    struct msg_kv_dump_ask message = {.number = get_u64(&in)};
    enum err e = end_read(&in);
    if (!e) *out = message;
    return e;
}

void msg_encode_kv_dump(const struct msg_kv_dump *message, struct buf *out) {
    size_t start = begin_message(out, MSG_KV_DUMP);
    put_u64(out, message->number);
    put_u64(out, message->event_number);
    put_u32(out, message->part);
    put_u32(out, message->part_count);
    put_u32(out, message->block_count);
    for (uint32_t i = 0; i < message->block_count; i++) {
        put_u64(out, message->blocks[i].hash);
        put_u64(out, message->blocks[i].parent_hash);
        put_u64(out, message->blocks[i].local_hash);
    }
    end_message(out, start);
}

enum err msg_decode_kv_dump(const uint8_t *data, size_t bytes, struct arena *arena,
                            struct msg_kv_dump *out) {
    struct reader in = begin_read(data, bytes, MSG_KV_DUMP, arena);
    struct msg_kv_dump message = {0};
    message.number = get_u64(&in);
    message.event_number = get_u64(&in);
    message.part = get_u32(&in);
    message.part_count = get_u32(&in);
    if (message.part >= message.part_count) fail(&in, ERR_FORMAT);
    message.block_count = get_count(&in, MSG_KV_DUMP_BLOCK_BYTES);
    struct msg_kv_block *blocks = take(&in, message.block_count, sizeof *blocks);
    for (uint32_t i = 0; blocks && i < message.block_count; i++) {
        blocks[i].kind = MSG_KV_STORED;
        blocks[i].hash = get_u64(&in);
        blocks[i].parent_hash = get_u64(&in);
        blocks[i].local_hash = get_u64(&in);
    }
    message.blocks = blocks;
    enum err e = end_read(&in);
    if (!e) *out = message;
    return e;
}

/* --- PREFILL, PREFILL_DONE -------------------------------------------------------------------- */

void msg_encode_prefill(const struct msg_prefill *message, struct buf *out) {
    size_t start = begin_message(out, MSG_PREFILL);
    put_u64(out, message->attempt);
    put_u32s(out, message->prompt_ids, message->prompt_count);
    put_u32(out, message->have_count);
    put_u32s(out, message->blocks, message->block_count);
    put_u32(out, message->block_size);
    put_u32(out, message->tp);
    put_u64(out, message->numeric_digest);
    put_u64(out, message->key[0]);
    put_u64(out, message->key[1]);
    put_text(out, message->transfer_address);
    put_u32(out, message->remaining_ms);
    put_text(out, message->request_id);
    put_text(out, message->traceparent);
    end_message(out, start);
}

enum err msg_decode_prefill(const uint8_t *data, size_t bytes, struct arena *arena,
                            struct msg_prefill *out) {
    struct reader in = begin_read(data, bytes, MSG_PREFILL, arena);
    struct msg_prefill message = {0};
    message.attempt = get_u64(&in);
    message.prompt_ids = get_u32s(&in, &message.prompt_count);
    message.have_count = get_u32(&in);
    message.blocks = get_u32s(&in, &message.block_count);
    message.block_size = get_u32(&in);
    message.tp = get_u32(&in);
    message.numeric_digest = get_u64(&in);
    message.key[0] = get_u64(&in);
    message.key[1] = get_u64(&in);
    message.transfer_address = get_text(&in);
    if (strlen(message.transfer_address) >= MSG_TRANSFER_ADDRESS_BYTES) fail(&in, ERR_FORMAT);
    message.remaining_ms = get_u32(&in);
    message.request_id = get_text(&in);
    message.traceparent = get_text(&in);
    enum err e = end_read(&in);
    if (!e) *out = message;
    return e;
}

void msg_encode_prefill_done(const struct msg_prefill_done *message, struct buf *out) {
    size_t start = begin_message(out, MSG_PREFILL_DONE);
    put_u64(out, message->attempt);
    put_u32(out, message->piece_count);
    put_u32(out, message->cached_tokens);
    put_u64(out, message->compute_us);
    put_u64(out, message->queue_us);
    end_message(out, start);
}

enum err msg_decode_prefill_done(const uint8_t *data, size_t bytes, struct msg_prefill_done *out) {
    struct reader in = begin_read(data, bytes, MSG_PREFILL_DONE, NULL);
    struct msg_prefill_done message = {0};
    message.attempt = get_u64(&in);
    message.piece_count = get_u32(&in);
    message.cached_tokens = get_u32(&in);
    message.compute_us = get_u64(&in);
    message.queue_us = get_u64(&in);
    enum err e = end_read(&in);
    if (!e) *out = message;
    return e;
}
