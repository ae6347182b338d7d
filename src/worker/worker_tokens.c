/* worker_tokens - see worker_tokens.h. */
#include "worker/worker_tokens.h"

#include "base/alloc.h"
#include "base/num.h"

#define MESSAGE_BYTES_SOFT 262144u /* a message is closed past this */
#define ENTRY_IDS_MAX 4096u        /* ids of one entry; the rest in the next */
#define ENTRY_LOGPROBS_MAX 256u    /* entries with logprobs are shorter */

void worker_tokens_init(struct worker_tokens *tokens, handoff_send_fn send, void *send_ctx) {
    *tokens = (struct worker_tokens){.send = send, .send_ctx = send_ctx};
    buf_init(&tokens->out, 0);
}

void worker_tokens_release(struct worker_tokens *tokens) {
    buf_release(&tokens->out);
    alloc_free(tokens->entries);
    alloc_free(tokens->logprobs);
}

/* --- the message being made ------------------------------------------------------------------- */

static void send_entries(struct worker_tokens *tokens, uint64_t to) {
    if (tokens->entry_count == 0) return;
    buf_clear(&tokens->out);
    msg_encode_tokens(&(struct msg_tokens){tokens->entries, tokens->entry_count}, &tokens->out);
    if (!buf_error(&tokens->out)) /* no memory: as good as lost */
        tokens->send(tokens->send_ctx, BUS_INBOX, to, tokens->out.data, tokens->out.bytes);
    tokens->entry_count = tokens->logprob_count = 0;
}

/* Room for one more entry and so many logprobs; false: no memory, SYNC will ask again.  The
 * entries point into the logprobs, so these move only between messages. */
static bool reserve_entry(struct worker_tokens *tokens, uint64_t to, uint32_t logprob_count) {
    size_t bytes = tokens->logprob_count * sizeof(struct msg_logprob) +
                   tokens->entry_count * sizeof(struct msg_tokens_entry);
    if (bytes > MESSAGE_BYTES_SOFT || tokens->logprob_count + logprob_count > tokens->logprob_room)
        send_entries(tokens, to);
    if (tokens->entry_count == tokens->entry_room) {
        uint32_t room = tokens->entry_room ? tokens->entry_room * 2 : 64;
        struct msg_tokens_entry *entries =
            alloc_resize(tokens->entries, room * sizeof *tokens->entries);
        if (!entries) return false;
        tokens->entries = entries;
        tokens->entry_room = room;
    }
    if (tokens->logprob_count + logprob_count > tokens->logprob_room) {
        uint32_t room = (uint32_t) num_max(2 * (uint64_t) tokens->logprob_room, logprob_count);
        struct msg_logprob *logprobs =
            alloc_resize(tokens->logprobs, room * sizeof *tokens->logprobs);
        if (!logprobs) return false;
        tokens->logprobs = logprobs;
        tokens->logprob_room = room;
    }
    return true;
}

static const struct msg_logprob *add_logprobs(struct worker_tokens *tokens,
                                              const struct token_logprob *from, uint32_t count) {
    struct msg_logprob *first = &tokens->logprobs[tokens->logprob_count];
    for (uint32_t i = 0; i < count; i++)
        first[i] = (struct msg_logprob){from[i].token_id,  from[i].logprob, from[i].rank,
                                        from[i].top_count, from[i].top_ids, from[i].top_logprobs};
    tokens->logprob_count += count;
    return first;
}

/* --- one attempt's news ----------------------------------------------------------------------- */

static uint8_t wire_finish(const struct worker_tokens *tokens, const struct worker_choice *choice) {
    switch (choice->finish) {
    case FINISH_NONE: return MSG_FINISH_NONE;
    case FINISH_STOP: return MSG_FINISH_STOP;
    case FINISH_LENGTH: return MSG_FINISH_LENGTH;
    case FINISH_CANCELLED: return MSG_FINISH_CANCELLED;
    case FINISH_ERROR: break;
    }
    return tokens->lost && choice->error == tokens->lost ? MSG_FINISH_LOST : MSG_FINISH_ERROR;
}

static const char *error_words(const struct worker_choice *choice) {
    if (choice->finish != FINISH_ERROR) return "";
    switch (choice->error) {
    case ERR_TIMEOUT: return "it waited past its deadline";
    case ERR_FORMAT: return "the model's logits are not finite";
    case ERR_IO: return "the device is gone";
    default: return err_name(choice->error);
    }
}

/* Ids [from, ...) of a choice, its end with the last of them.  Returns how many are told; 0 with
 * more to tell: no memory now. */
static uint32_t add_entry(struct worker_tokens *tokens, struct worker_attempt *attempt,
                          const struct worker_choice *choice, uint32_t from) {
    uint32_t count = (uint32_t) num_min(choice->id_count - from,
                                        choice->logprobs ? ENTRY_LOGPROBS_MAX : ENTRY_IDS_MAX);
    if (!reserve_entry(tokens, attempt->sender->instance, choice->logprobs ? count : 0)) return 0;
    bool is_whole = from + count == choice->id_count;
    struct msg_tokens_entry entry = {
        .attempt = attempt->number,
        .choice_index = choice->index,
        .first_index = choice->first_index + from,
        .ids = count ? choice->ids + from : NULL,
        .id_count = count,
        .is_ack = true,
        .is_admitted = attempt->is_admitted,
        .cached_tokens = attempt->cached_tokens,
        .queue_us = attempt->queue_us,
        .error = "",
    };
    if (choice->logprobs && count)
        entry.logprobs = add_logprobs(tokens, choice->logprobs + from, count);
    if (is_whole) {
        entry.finish = wire_finish(tokens, choice);
        entry.stop_id = choice->stop_id;
        entry.error = error_words(choice);
    }
    tokens->entries[tokens->entry_count++] = entry;
    return count;
}

/* Prompt logprobs [from, told) go ahead of the first choice's ids, in pieces. */
static void add_prompt(struct worker_tokens *tokens, struct worker_attempt *attempt,
                       uint32_t from) {
    while (from < attempt->prompt_told) {
        uint32_t count = (uint32_t) num_min(attempt->prompt_told - from, ENTRY_LOGPROBS_MAX);
        if (!reserve_entry(tokens, attempt->sender->instance, count)) return;
        struct msg_tokens_entry entry = {
            .attempt = attempt->number,
            .choice_index = attempt->choices[0].index,
            .first_index = attempt->choices[0].first_index + attempt->choices[0].sent_count,
            .is_ack = true,
            .is_admitted = attempt->is_admitted,
            .cached_tokens = attempt->cached_tokens,
            .queue_us = attempt->queue_us,
            .prompt_first = from,
            .prompt_logprob_count = count,
            .error = "",
        };
        entry.prompt_logprobs = add_logprobs(tokens, attempt->prompt_logprobs + from, count);
        tokens->entries[tokens->entry_count++] = entry;
        from += count;
    }
}

static void add_news(struct worker_tokens *tokens, struct worker_attempt *attempt) {
    if (attempt->prompt_sent < attempt->prompt_told) {
        add_prompt(tokens, attempt, attempt->prompt_sent);
        attempt->prompt_sent = attempt->prompt_told;
    }
    bool is_told = false;
    for (uint32_t i = 0; i < attempt->choice_count; i++) {
        struct worker_choice *choice = &attempt->choices[i];
        if (!choice->is_dirty) continue;
        choice->is_dirty = false;
        is_told = true;
        do {
            uint32_t told = add_entry(tokens, attempt, choice, choice->sent_count);
            if (told == 0) break;
            choice->sent_count += told;
        } while (choice->sent_count < choice->id_count);
        choice->sent_count = choice->id_count; /* what could not be told is asked for by SYNC */
    }
    if (attempt->needs_ack && !is_told)
        add_entry(tokens, attempt, &attempt->choices[0], attempt->choices[0].id_count);
    attempt->needs_ack = false;
}

void worker_tokens_flush(struct worker_tokens *tokens, struct worker_attempts *attempts) {
    for (struct worker_sender *sender = attempts->senders; sender; sender = sender->next) {
        while (sender->dirty) {
            struct worker_attempt *attempt = sender->dirty;
            sender->dirty = attempt->next_dirty;
            attempt->is_dirty = false;
            add_news(tokens, attempt);
        }
        send_entries(tokens, sender->instance);
    }
}
