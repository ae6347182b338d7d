/* msg - the messages of protocol.md 2 and their bytes on the wire.
 *
 * Little endian, fixed-width fields, a header of (version, kind, length); a decoder checks every
 * count against the bytes it has before it uses it, and never allocates by a foreign length
 * beyond the message's own bytes.  Encoders append to a buf.  Decoders fill a struct whose
 * pointers lie in the given arena. */
#ifndef GRAMME_BUS_MSG_H
#define GRAMME_BUS_MSG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "config/sampling.h"

#define MSG_VERSION 1

enum msg_kind {
    MSG_WHO = 1,
    MSG_HELLO,
    MSG_BYE,
    MSG_LOAD,
    MSG_ROSTER,
    MSG_KV_EVENT,
    MSG_KV_DUMP_ASK,
    MSG_KV_DUMP,
    MSG_GENERATE,
    MSG_TOKENS,
    MSG_PREFILL,
    MSG_PREFILL_DONE,
    MSG_SYNC,
    MSG_GONE,
    MSG_CANCEL,
    MSG_REFUSE,
};

struct msg_hello {
    uint64_t instance;
    uint32_t component; /* 1 worker, 2 prefill worker */
    uint64_t numeric_digest;
    uint64_t tokenizer_digest;
    uint32_t model_len_max, seat_count, block_size, block_count, batched_tokens_max, tp;
    char version[32];
    char transfer_address[128]; /* empty: none */
};

struct msg_load {
    uint32_t blocks_total, blocks_free, blocks_cached;
    uint32_t running_requests, waiting_requests, queued_prefills;
    uint64_t running_tokens, waiting_tokens, queued_prefill_tokens;
    uint64_t step_count, step_us;
    uint64_t kv_event_number;
    uint64_t preemption_count, prefix_query_tokens, prefix_hit_tokens;
    uint64_t prompt_tokens, generation_tokens;
    bool is_draining;
    uint32_t sender_count; /* highest attempt received, by sender */
    const struct msg_load_sender { uint64_t instance, attempt; } * senders;
};

struct msg_choice {
    uint32_t index;
    const uint32_t *output_ids; /* generated elsewhere already */
    uint32_t output_count;
};

struct msg_generate {
    uint64_t attempt;
    const uint32_t *prompt_ids;
    uint32_t prompt_count;
    const struct msg_choice *choices;
    uint32_t choice_count;
    struct sampling sampling;
    uint64_t prefill_instance; /* 0: none named */
    uint32_t remaining_ms;     /* of the request; 0: no deadline */
    bool is_redispatch;        /* ahead of new ones */
    const char *request_id;    /* NUL-terminated */
    const char *traceparent;   /* "" when none */
};

struct msg_logprob {
    uint32_t token_id;
    float logprob;
    uint32_t rank;
    uint32_t top_count;
    const uint32_t *top_ids;
    const float *top_logprobs;
};

enum msg_finish { /* on the wire as u8 */
                  MSG_FINISH_NONE = 0,
                  MSG_FINISH_STOP = 1,
                  MSG_FINISH_LENGTH = 2,
                  MSG_FINISH_CANCELLED = 3,
                  MSG_FINISH_ERROR = 4,
};

/* One choice's news.  token_count 0 and is_ack: admitted or queued. */
struct msg_tokens_entry {
    uint64_t attempt;
    uint32_t choice_index;
    uint32_t first_index; /* output index of ids[0] */
    const uint32_t *ids;
    uint32_t id_count;
    const struct msg_logprob *logprobs; /* id_count, or NULL */
    uint8_t finish;                     /* enum msg_finish */
    uint32_t stop_id;                   /* MSG_FINISH_STOP: which */
    bool is_ack;                        /* the attempt is known here */
    bool is_admitted;                   /* it runs: headers may go out */
    uint32_t cached_tokens;
    uint64_t queue_us;
    uint32_t prompt_first; /* prompt logprobs from this prompt position on */
    const struct msg_logprob *prompt_logprobs;
    uint32_t prompt_logprob_count;
    const char *error; /* MSG_FINISH_ERROR: why; else "" */
};

struct msg_tokens {
    const struct msg_tokens_entry *entries;
    uint32_t entry_count;
};

struct msg_sync_choice {
    uint32_t index;
    uint32_t next_index; /* output index wanted next */
};
struct msg_sync_entry {
    uint64_t attempt;
    const struct msg_sync_choice *choices;
    uint32_t choice_count;
    uint32_t prompt_next; /* prompt logprobs: position wanted next */
};
struct msg_sync {
    uint64_t number;
    const struct msg_sync_entry *entries;
    uint32_t entry_count;
};

struct msg_attempt { /* CANCEL, GONE */
    uint64_t attempt;
};

enum msg_refusal {                         /* on the wire as u8 */
                   MSG_REFUSE_BUSY = 1,    /* queue full: retry after */
                   MSG_REFUSE_NO_ROOM = 2, /* would never fit here */
                   MSG_REFUSE_BAD = 3,     /* the request itself is wrong */
                   MSG_REFUSE_DRAINING = 4,
};
struct msg_refuse {
    uint64_t attempt;
    uint8_t reason; /* enum msg_refusal */
    uint32_t retry_after_ms;
    const char *text;
};

/* 0 when the bytes are no message of this version. */
uint32_t msg_peek_kind(const uint8_t *data, size_t bytes);

void msg_encode_who(struct buf *out);
void msg_encode_bye(struct buf *out);
void msg_encode_hello(const struct msg_hello *message, struct buf *out);
void msg_encode_load(const struct msg_load *message, struct buf *out);
void msg_encode_generate(const struct msg_generate *message, struct buf *out);
void msg_encode_tokens(const struct msg_tokens *message, struct buf *out);
void msg_encode_sync(const struct msg_sync *message, struct buf *out);
void msg_encode_gone(const struct msg_attempt *message, struct buf *out);
void msg_encode_cancel(const struct msg_attempt *message, struct buf *out);
void msg_encode_refuse(const struct msg_refuse *message, struct buf *out);

/* ERR_FORMAT: the bytes break the format; *out is then untouched.  ERR_MEMORY. */
MUST_USE enum err msg_decode_hello(const uint8_t *data, size_t bytes, struct msg_hello *out);
MUST_USE enum err msg_decode_load(const uint8_t *data, size_t bytes, struct arena *arena,
                                  struct msg_load *out);
MUST_USE enum err msg_decode_generate(const uint8_t *data, size_t bytes, struct arena *arena,
                                      struct msg_generate *out);
MUST_USE enum err msg_decode_tokens(const uint8_t *data, size_t bytes, struct arena *arena,
                                    struct msg_tokens *out);
MUST_USE enum err msg_decode_sync(const uint8_t *data, size_t bytes, struct arena *arena,
                                  struct msg_sync *out);
/* GONE and CANCEL. */
MUST_USE enum err msg_decode_attempt(const uint8_t *data, size_t bytes, struct msg_attempt *out);
MUST_USE enum err msg_decode_refuse(const uint8_t *data, size_t bytes, struct arena *arena,
                                    struct msg_refuse *out);

#endif
