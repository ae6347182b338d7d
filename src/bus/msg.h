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

#define MSG_VERSION 3

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
    char transfer_address[1024]; /* text, as xfer_address gave it; empty: none */
    char name[64];               /* "VllmWorker.0", "PrefillWorker.1": for people, logs, metrics */
    char host[64];               /* of the node, for people */
    uint32_t http_port;          /* of its own /metrics (--system-port); 0: none */
    /* Of one rank, from its plan: for people. */
    uint64_t device_bytes, budget_bytes, planned_bytes, block_bytes;
};

/* How the prompt's KV came about, counted by the decode worker. */
enum msg_remote_result {
    MSG_REMOTE_DONE,          /* a prefill worker's KV was used */
    MSG_REMOTE_LOCAL_SHORT,   /* the rule: too few tokens behind the prefix hit */
    MSG_REMOTE_LOCAL_QUEUE,   /* the rule: the prefill workers' queue is full */
    MSG_REMOTE_LOCAL_LARGE,   /* more than half of the blocks */
    MSG_REMOTE_LOCAL_NO_PEER, /* no prefill worker to ask */
    MSG_REMOTE_TIMEOUT,       /* fell back: past the deadline */
    MSG_REMOTE_DEAD,          /* fell back: the prefill worker is gone or suspect */
    MSG_REMOTE_REFUSED,       /* fell back: it refused, or knows nothing of it */
    MSG_REMOTE_BROKEN,        /* fell back: the transfer failed */
    MSG_REMOTE_CANCELLED,     /* the client left while it was under way */
    MSG_REMOTE_RETRIED,       /* tried again with another prefill worker */
    MSG_REMOTE_RESULT_COUNT,
};
/* "done", "local_short", ...: the label of metrics. */
const char *msg_remote_result_name(enum msg_remote_result result);

struct msg_load {
    /* waiting_requests: of GENERATE, prefill worker: none; queued_prefills: PREFILLs that wait
     * (a prefill worker's queue; running ones count in running_requests). */
    uint32_t blocks_total, blocks_free, blocks_cached;
    uint32_t running_requests, waiting_requests, queued_prefills;
    uint64_t running_tokens, waiting_tokens, queued_prefill_tokens;
    uint64_t step_count, step_us;
    uint64_t kv_event_number;
    uint64_t preemption_count, prefix_query_tokens, prefix_hit_tokens;
    uint64_t prompt_tokens, generation_tokens;
    /* Handoff, since start (but for the two block counts).  handoff_us: from PREFILL sent to
     * joined, of remote_results[DONE].  busy_us: with a send under way; tail_us: from the last
     * compute to the last byte sent, over prefills_done. */
    uint64_t remote_results[MSG_REMOTE_RESULT_COUNT];
    uint32_t remote_blocks, quarantined_blocks;
    uint64_t handoff_us, sent_bytes, received_bytes, busy_us, tail_us;
    uint64_t prefills_done, prefills_abandoned, transfer_failures;
    /* Peers met now, by what carries the blocks; pairs that broke since start. */
    uint64_t pairs_shm, pairs_tcp, pairs_lost;
    /* Of one device, as HELLO's: used by the worker, taken by others, used beyond its plan.  0: not
     * seen yet. */
    uint64_t device_used_bytes, device_other_bytes, device_drift_bytes;
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
                  MSG_FINISH_LOST = 5, /* the sender's device is gone: it can do no more work */
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
    const char *error; /* MSG_FINISH_ERROR, _LOST: why; else "" */
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

/* --- supervisor -> all --------------------------------------------------------------------- */

enum msg_reap { /* why an instance is gone, on the wire as u8 */
                MSG_REAP_EXITED = 1,
                MSG_REAP_KILLED = 2, /* by a signal */
};
struct msg_roster_dead {
    uint64_t instance;
    uint8_t reason; /* enum msg_reap */
    int32_t status; /* exit status or signal number */
};
/* The instances one supervisor has spawned: alive (not yet reaped) and reaped (the last 1,024).  A
 * roster speaks of its own children only; several supervisors' rosters do not contradict. */
struct msg_roster {
    uint64_t number; /* counts up; an older one is dropped */
    const uint64_t *alive;
    uint32_t alive_count;
    const struct msg_roster_dead *dead;
    uint32_t dead_count;
};

/* --- KV events ------------------------------------------------------------------------------ */

enum msg_kv_kind { MSG_KV_STORED = 0, MSG_KV_REMOVED = 1, MSG_KV_CLEARED = 2 };
struct msg_kv_block {
    uint8_t kind;         /* enum msg_kv_kind */
    uint64_t hash;        /* of the sequence up to this block's end */
    uint64_t parent_hash; /* STORED: of the block before; 0: none */
    uint64_t local_hash;  /* STORED: of this block's tokens alone */
};
/* Events first_number, first_number + 1, ...: one a block. */
struct msg_kv_event {
    uint64_t first_number;
    const struct msg_kv_block *blocks;
    uint32_t block_count;
};
/* The asker names the dump by a number of its own; a repeated number is answered again. */
struct msg_kv_dump_ask {
    uint64_t number;
};
#define MSG_KV_DUMP_BYTES_MAX (256u << 10) /* of one part, specified: protocol.md 2 */
#define MSG_KV_DUMP_BLOCK_BYTES 24u        /* of one block in it */
/* Part `part` of part_count (at most 256 KiB each) of all blocks that are there after event
 * event_number; every part repeats the numbers.  Parents do not come before children. */
struct msg_kv_dump {
    uint64_t number; /* of the ask */
    uint64_t event_number;
    uint32_t part, part_count;
    const struct msg_kv_block *blocks; /* all STORED */
    uint32_t block_count;
};

/* --- handoff (protocol.md 4) ---------------------------------------------------------------- */

#define MSG_TRANSFER_ADDRESS_BYTES 1024u /* room of a transfer address, its NUL too */

struct msg_prefill {
    uint64_t attempt; /* D's */
    const uint32_t *prompt_ids;
    uint32_t prompt_count;
    uint32_t have_count;    /* blocks that D has already (a prefix of the prompt's blocks) */
    const uint32_t *blocks; /* D's block ids of blocks have_count, have_count + 1, ... */
    uint32_t block_count;
    uint32_t block_size, tp;      /* D's */
    uint64_t numeric_digest;      /* D's; unequal ones are refused */
    uint64_t key[2];              /* random; repeated by every transfer header */
    const char *transfer_address; /* D's, as its xfer gave it (text) */
    uint32_t remaining_ms;
    const char *request_id, *traceparent;
};
struct msg_prefill_done {
    uint64_t attempt;
    uint32_t piece_count;   /* blocks sent */
    uint32_t cached_tokens; /* that P found in its own cache */
    uint64_t compute_us;    /* from admission to the last chunk's end */
    uint64_t queue_us;
};

enum msg_refusal {                         /* on the wire as u8 */
                   MSG_REFUSE_BUSY = 1,    /* queue full: retry after */
                   MSG_REFUSE_NO_ROOM = 2, /* would never fit here */
                   MSG_REFUSE_BAD = 3,     /* the request itself is wrong */
                   MSG_REFUSE_DRAINING = 4,
                   MSG_REFUSE_UNLIKE = 5, /* PREFILL: other digest, block size; or no transfer */
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
void msg_encode_roster(const struct msg_roster *message, struct buf *out);
void msg_encode_kv_event(const struct msg_kv_event *message, struct buf *out);
void msg_encode_kv_dump_ask(const struct msg_kv_dump_ask *message, struct buf *out);
void msg_encode_kv_dump(const struct msg_kv_dump *message, struct buf *out);
void msg_encode_prefill(const struct msg_prefill *message, struct buf *out);
void msg_encode_prefill_done(const struct msg_prefill_done *message, struct buf *out);

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
MUST_USE enum err msg_decode_roster(const uint8_t *data, size_t bytes, struct arena *arena,
                                    struct msg_roster *out);
MUST_USE enum err msg_decode_kv_event(const uint8_t *data, size_t bytes, struct arena *arena,
                                      struct msg_kv_event *out);
MUST_USE enum err msg_decode_kv_dump_ask(const uint8_t *data, size_t bytes,
                                         struct msg_kv_dump_ask *out);
MUST_USE enum err msg_decode_kv_dump(const uint8_t *data, size_t bytes, struct arena *arena,
                                     struct msg_kv_dump *out);
MUST_USE enum err msg_decode_prefill(const uint8_t *data, size_t bytes, struct arena *arena,
                                     struct msg_prefill *out);
MUST_USE enum err msg_decode_prefill_done(const uint8_t *data, size_t bytes,
                                          struct msg_prefill_done *out);

#endif
