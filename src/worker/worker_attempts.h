/* worker_attempts - whose attempts a worker holds, and what each has generated so far.
 *
 * Data alone: nothing here calls the engine, sends a message or knows the time.  Owned by
 * worker_core, same thread.  A sender is whoever sent work (a frontend) and owns its attempts; an
 * attempt owns its choices, in its arena.  Pointers are borrowed until the attempt or the sender
 * is removed.
 *
 *   make --add--> found by engine id and by (sender, number) --remove--> its number is remembered
 *     +--free--> nothing
 *
 * A dirty attempt has news and stands in its sender's list of such until they are told.
 * Invariant: worker_attempts_check. */
#ifndef GRAMME_WORKER_WORKER_ATTEMPTS_H
#define GRAMME_WORKER_WORKER_ATTEMPTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "bus/msg.h"
#include "engine/engine.h"

#define WORKER_ATTEMPTS_FORGOTTEN_MAX 256u /* of a sender, remembered */

struct worker_choice {
    uint32_t index;
    uint32_t first_index; /* ids[0] has this output index: what it came with is not kept */
    uint32_t *ids;
    struct token_logprob *logprobs; /* beside ids; NULL: not asked for */
    uint32_t id_count, id_room;
    uint32_t sent_count; /* of ids, told once */
    enum finish_reason finish;
    uint32_t stop_id;
    enum err error;
    uint32_t omitted_count; /* successive SYNCs that list the attempt without it */
    bool is_dirty;          /* has news that no TOKENS carried */
};

struct worker_attempt {
    struct worker_attempt *next_by_engine, *next_by_number; /* in their buckets */
    struct worker_attempt *prev, *next;                     /* of the sender */
    struct worker_attempt *next_dirty;
    struct worker_sender *sender;
    uint64_t number;    /* the sender's */
    uint64_t engine_id; /* ours: of the engine's request */
    struct arena arena; /* all it owns, itself too */
    const char *request_id;
    uint32_t omitted_count; /* successive SYNCs without it */
    uint64_t seen_in_sync;  /* number of the SYNC that named it last */
    bool is_dirty, needs_ack;
    bool is_admitted;
    uint32_t cached_tokens;
    uint64_t queue_us;
    uint32_t live_count;                   /* choices not ended */
    struct token_logprob *prompt_logprobs; /* by prompt position; [0] unused */
    uint32_t prompt_count, prompt_told, prompt_sent;
    uint32_t choice_count;
    struct worker_choice *choices;
};

struct worker_sender {
    struct worker_sender *next;
    uint64_t instance;
    uint64_t attempt_highest;
    uint64_t sync_number;
    uint32_t silent_ticks;
    struct worker_attempt *attempts; /* newest first */
    uint32_t attempt_count;
    struct worker_attempt *dirty;
    uint64_t forgotten[WORKER_ATTEMPTS_FORGOTTEN_MAX];
    uint32_t forgotten_at;
};

struct worker_attempts {
    struct worker_sender *senders; /* owned */
    uint32_t sender_count;
    uint32_t count;                                 /* attempts of all senders */
    struct worker_attempt **by_engine, **by_number; /* buckets */
    uint32_t bucket_mask;
    uint64_t engine_id_last;
};

/* After an error, too, all is released by worker_attempts_release. */
MUST_USE enum err worker_attempts_init(struct worker_attempts *attempts);
void worker_attempts_release(struct worker_attempts *attempts);

/* NULL: not known. */
struct worker_sender *worker_attempts_sender(const struct worker_attempts *attempts,
                                             uint64_t instance);
/* A new one is made.  NULL: there are too many, or no memory. */
struct worker_sender *worker_attempts_sender_get(struct worker_attempts *attempts,
                                                 uint64_t instance);
/* *at, a link of the list of senders, has no attempts: it goes, and *at is the one behind it. */
void worker_attempts_sender_remove(struct worker_attempts *attempts, struct worker_sender **at);

/* NULL: not held. */
struct worker_attempt *worker_attempts_by_engine(const struct worker_attempts *attempts,
                                                 uint64_t engine_id);
struct worker_attempt *worker_attempts_by_number(const struct worker_attempts *attempts,
                                                 const struct worker_sender *sender,
                                                 uint64_t number);
/* It was held, and not so long ago. */
bool worker_attempts_is_forgotten(const struct worker_sender *sender, uint64_t number);

/* Not held yet, all its choices live; copies what it needs of the message.  NULL: no memory. */
struct worker_attempt *worker_attempts_make(struct worker_attempts *attempts,
                                            struct worker_sender *sender,
                                            const struct msg_generate *message);
void worker_attempts_free(struct worker_attempt *attempt); /* one that was not added */
void worker_attempts_add(struct worker_attempts *attempts, struct worker_attempt *attempt);
void worker_attempts_remove(struct worker_attempts *attempts, struct worker_attempt *attempt);

void worker_attempts_mark_dirty(struct worker_attempt *attempt);
struct worker_choice *worker_attempts_choice(struct worker_attempt *attempt, uint32_t index);
/* Room for one more id; false: no memory. */
bool worker_attempts_reserve_id(struct worker_attempt *attempt, struct worker_choice *choice);
void worker_attempts_end_choice(struct worker_attempt *attempt, struct worker_choice *choice,
                                enum finish_reason reason, enum err error);

/* Walks everything and CHECKs it. */
void worker_attempts_check(const struct worker_attempts *attempts);

#endif
