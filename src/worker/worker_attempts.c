/* worker_attempts - see worker_attempts.h. */
#include "worker/worker_attempts.h"

#include <string.h>

#include "base/alloc.h"
#include "base/num.h"

#define BUCKETS_MIN 64u
#define BUCKETS_MAX (1u << 24)
#define SENDERS_MAX 4096u /* more are not heard */

enum err worker_attempts_init(struct worker_attempts *attempts) {
    attempts->by_engine = alloc_zero(BUCKETS_MIN, sizeof(struct worker_attempt *));
    attempts->by_number = alloc_zero(BUCKETS_MIN, sizeof(struct worker_attempt *));
    attempts->bucket_mask = BUCKETS_MIN - 1;
    return attempts->by_engine && attempts->by_number ? ERR_OK : ERR_MEMORY;
}

void worker_attempts_release(struct worker_attempts *attempts) {
    while (attempts->senders) {
        struct worker_sender *sender = attempts->senders;
        attempts->senders = sender->next;
        while (sender->attempts) {
            struct worker_attempt *attempt = sender->attempts;
            sender->attempts = attempt->next;
            worker_attempts_free(attempt);
        }
        alloc_free(sender);
    }
    alloc_free(attempts->by_engine);
    alloc_free(attempts->by_number);
}

/* --- senders ---------------------------------------------------------------------------------- */

struct worker_sender *worker_attempts_sender(const struct worker_attempts *attempts,
                                             uint64_t instance) {
    struct worker_sender *sender = attempts->senders;
    while (sender && sender->instance != instance) sender = sender->next;
    return sender;
}

struct worker_sender *worker_attempts_sender_get(struct worker_attempts *attempts,
                                                 uint64_t instance) {
    struct worker_sender *sender = worker_attempts_sender(attempts, instance);
    if (sender || attempts->sender_count >= SENDERS_MAX) return sender;
    sender = alloc_zero(1, sizeof *sender);
    if (!sender) return NULL;
    sender->instance = instance;
    sender->next = attempts->senders;
    attempts->senders = sender;
    attempts->sender_count++;
    return sender;
}

void worker_attempts_sender_remove(struct worker_attempts *attempts, struct worker_sender **at) {
    struct worker_sender *sender = *at;
    *at = sender->next;
    attempts->sender_count--;
    alloc_free(sender);
}

bool worker_attempts_is_forgotten(const struct worker_sender *sender, uint64_t number) {
    for (uint32_t i = 0; i < WORKER_ATTEMPTS_FORGOTTEN_MAX; i++)
        if (sender->forgotten[i] == number) return true;
    return false;
}

/* --- buckets ---------------------------------------------------------------------------------- */

static uint32_t bucket_of(const struct worker_attempts *attempts, uint64_t key) {
    return (uint32_t) (key * 0x9e3779b97f4a7c15u >> 32) & attempts->bucket_mask;
}

static uint64_t number_key(const struct worker_sender *sender, uint64_t number) {
    return sender->instance ^ number * 0xbf58476d1ce4e5b9u;
}

static void link_buckets(struct worker_attempts *attempts, struct worker_attempt *attempt) {
    struct worker_attempt **bucket = &attempts->by_engine[bucket_of(attempts, attempt->engine_id)];
    attempt->next_by_engine = *bucket;
    *bucket = attempt;
    bucket =
        &attempts->by_number[bucket_of(attempts, number_key(attempt->sender, attempt->number))];
    attempt->next_by_number = *bucket;
    *bucket = attempt;
}

static void unlink_buckets(struct worker_attempts *attempts, struct worker_attempt *attempt) {
    struct worker_attempt **at = &attempts->by_engine[bucket_of(attempts, attempt->engine_id)];
    while (*at != attempt) at = &(*at)->next_by_engine;
    *at = attempt->next_by_engine;
    at = &attempts->by_number[bucket_of(attempts, number_key(attempt->sender, attempt->number))];
    while (*at != attempt) at = &(*at)->next_by_number;
    *at = attempt->next_by_number;
}

/* Twice the buckets when they are full; without memory the chains only get longer. */
static void widen_buckets(struct worker_attempts *attempts) {
    uint32_t count = attempts->bucket_mask + 1;
    if (attempts->count < count || count >= BUCKETS_MAX) return;
    struct worker_attempt **by_engine =
        alloc_zero((size_t) count * 2, sizeof(struct worker_attempt *));
    struct worker_attempt **by_number =
        alloc_zero((size_t) count * 2, sizeof(struct worker_attempt *));
    if (!by_engine || !by_number) {
        alloc_free(by_engine);
        alloc_free(by_number);
        return;
    }
    alloc_free(attempts->by_engine);
    alloc_free(attempts->by_number);
    attempts->by_engine = by_engine;
    attempts->by_number = by_number;
    attempts->bucket_mask = count * 2 - 1;
    for (struct worker_sender *sender = attempts->senders; sender; sender = sender->next)
        for (struct worker_attempt *attempt = sender->attempts; attempt; attempt = attempt->next)
            link_buckets(attempts, attempt);
}

struct worker_attempt *worker_attempts_by_engine(const struct worker_attempts *attempts,
                                                 uint64_t engine_id) {
    struct worker_attempt *attempt = attempts->by_engine[bucket_of(attempts, engine_id)];
    while (attempt && attempt->engine_id != engine_id) attempt = attempt->next_by_engine;
    return attempt;
}

struct worker_attempt *worker_attempts_by_number(const struct worker_attempts *attempts,
                                                 const struct worker_sender *sender,
                                                 uint64_t number) {
    struct worker_attempt *attempt =
        attempts->by_number[bucket_of(attempts, number_key(sender, number))];
    while (attempt && (attempt->sender != sender || attempt->number != number))
        attempt = attempt->next_by_number;
    return attempt;
}

/* --- attempts --------------------------------------------------------------------------------- */

struct worker_attempt *worker_attempts_make(struct worker_attempts *attempts,
                                            struct worker_sender *sender,
                                            const struct msg_generate *message) {
    struct arena arena;
    arena_init(&arena, 0);
    struct worker_attempt *attempt = arena_take_zero(&arena, 1, sizeof *attempt);
    if (!attempt) goto fail;
    attempt->request_id = arena_copy(&arena, message->request_id, strlen(message->request_id));
    attempt->choices = arena_take_zero(&arena, message->choice_count, sizeof *attempt->choices);
    if (!attempt->request_id || !attempt->choices) goto fail;
    bool wants_prompt = message->sampling.prompt_logprobs >= 0;
    if (wants_prompt) {
        attempt->prompt_logprobs =
            arena_take(&arena, (size_t) message->prompt_count * sizeof(struct token_logprob));
        if (!attempt->prompt_logprobs) goto fail;
    }
    attempt->sender = sender;
    attempt->number = message->attempt;
    attempt->engine_id = ++attempts->engine_id_last;
    attempt->prompt_count = message->prompt_count;
    attempt->prompt_told = attempt->prompt_sent = 1;
    attempt->live_count = attempt->choice_count = message->choice_count;
    for (uint32_t i = 0; i < message->choice_count; i++) {
        struct worker_choice *choice = &attempt->choices[i];
        choice->index = message->choices[i].index;
        choice->first_index = message->choices[i].output_count;
        choice->id_room = (uint32_t) num_min(num_max(message->sampling.max_tokens, 1), 32);
        choice->ids = arena_take(&arena, choice->id_room * sizeof *choice->ids);
        if (!choice->ids) goto fail;
        if (message->sampling.logprobs < 0) continue;
        choice->logprobs = arena_take(&arena, choice->id_room * sizeof *choice->logprobs);
        if (!choice->logprobs) goto fail;
    }
    attempt->arena = arena;
    return attempt;
fail:
    arena_release(&arena);
    return NULL;
}

void worker_attempts_free(struct worker_attempt *attempt) {
    struct arena arena = attempt->arena;
    arena_release(&arena); /* the attempt itself lies in it */
}

void worker_attempts_add(struct worker_attempts *attempts, struct worker_attempt *attempt) {
    struct worker_sender *sender = attempt->sender;
    widen_buckets(attempts);
    attempt->next = sender->attempts;
    if (attempt->next) attempt->next->prev = attempt;
    sender->attempts = attempt;
    sender->attempt_count++;
    attempts->count++;
    link_buckets(attempts, attempt);
}

void worker_attempts_remove(struct worker_attempts *attempts, struct worker_attempt *attempt) {
    struct worker_sender *sender = attempt->sender;
    unlink_buckets(attempts, attempt);
    if (attempt->is_dirty) {
        struct worker_attempt **at = &sender->dirty;
        while (*at != attempt) at = &(*at)->next_dirty;
        *at = attempt->next_dirty;
    }
    if (attempt->prev) attempt->prev->next = attempt->next;
    else sender->attempts = attempt->next;
    if (attempt->next) attempt->next->prev = attempt->prev;
    sender->attempt_count--;
    attempts->count--;
    sender->forgotten[sender->forgotten_at++ % WORKER_ATTEMPTS_FORGOTTEN_MAX] = attempt->number;
    worker_attempts_free(attempt);
}

void worker_attempts_mark_dirty(struct worker_attempt *attempt) {
    if (attempt->is_dirty) return;
    attempt->is_dirty = true;
    attempt->next_dirty = attempt->sender->dirty;
    attempt->sender->dirty = attempt;
}

/* --- choices ---------------------------------------------------------------------------------- */

struct worker_choice *worker_attempts_choice(struct worker_attempt *attempt, uint32_t index) {
    for (uint32_t i = 0; i < attempt->choice_count; i++)
        if (attempt->choices[i].index == index) return &attempt->choices[i];
    return NULL;
}

bool worker_attempts_reserve_id(struct worker_attempt *attempt, struct worker_choice *choice) {
    if (choice->id_count < choice->id_room) return true;
    uint32_t room = choice->id_room * 2;
    uint32_t *ids = arena_take(&attempt->arena, (size_t) room * sizeof *ids);
    if (!ids) return false;
    memcpy(ids, choice->ids, choice->id_count * sizeof *ids);
    if (choice->logprobs) {
        struct token_logprob *logprobs =
            arena_take(&attempt->arena, (size_t) room * sizeof *logprobs);
        if (!logprobs) return false;
        memcpy(logprobs, choice->logprobs, choice->id_count * sizeof *logprobs);
        choice->logprobs = logprobs;
    }
    choice->ids = ids;
    choice->id_room = room;
    return true;
}

void worker_attempts_end_choice(struct worker_attempt *attempt, struct worker_choice *choice,
                                enum finish_reason reason, enum err error) {
    choice->finish = reason;
    choice->error = error;
    choice->is_dirty = true;
    attempt->live_count--;
    worker_attempts_mark_dirty(attempt);
}

/* --- the check -------------------------------------------------------------------------------- */

static void check_attempt(const struct worker_attempts *attempts,
                          const struct worker_attempt *attempt) {
    CHECK(worker_attempts_by_engine(attempts, attempt->engine_id) == attempt);
    CHECK(worker_attempts_by_number(attempts, attempt->sender, attempt->number) == attempt);
    CHECK(!worker_attempts_is_forgotten(attempt->sender, attempt->number));
    uint32_t live = 0;
    for (uint32_t i = 0; i < attempt->choice_count; i++) {
        const struct worker_choice *choice = &attempt->choices[i];
        live += choice->finish == FINISH_NONE;
        CHECK(choice->sent_count <= choice->id_count);
        CHECK(choice->id_count <= choice->id_room);
    }
    CHECK(live == attempt->live_count);
    CHECK(attempt->prompt_sent <= attempt->prompt_told);
}

void worker_attempts_check(const struct worker_attempts *attempts) {
    uint32_t count = 0, sender_count = 0;
    for (const struct worker_sender *sender = attempts->senders; sender; sender = sender->next) {
        uint32_t own = 0;
        sender_count++;
        const struct worker_attempt *before = NULL;
        for (const struct worker_attempt *a = sender->attempts; a; before = a, a = a->next) {
            CHECK(a->sender == sender && a->prev == before);
            check_attempt(attempts, a);
            own++;
        }
        CHECK(own == sender->attempt_count);
        count += own;
    }
    CHECK(count == attempts->count && sender_count == attempts->sender_count);
}
