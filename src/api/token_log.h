/* token_log - the tokens of one choice as they arrived: each index once, in order.
 *
 * dispatch writes it, answer reads it with a cursor of its own, so an unread stream is kept as
 * ids and logprobs and nothing else.  Loop thread. */
#ifndef GRAMME_API_TOKEN_LOG_H
#define GRAMME_API_TOKEN_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "bus/msg.h"

struct token_log_entry {
    float logprob;
    uint32_t rank;
    uint32_t top_first; /* of top_ids, top_logprobs */
    uint32_t top_count;
};

struct token_log {
    uint32_t *ids; /* owned */
    uint32_t count, room;
    bool has_logprobs;               /* set once, before the first token */
    struct token_log_entry *entries; /* owned; count of them when has_logprobs */
    uint32_t *top_ids;               /* owned */
    float *top_logprobs;             /* owned */
    uint32_t top_count, top_room;
    uint8_t finish; /* enum msg_finish: the last token is here */
    uint32_t stop_id;
    bool is_closed; /* by the reader: nothing more is wanted (a stop string was found) */
};

enum token_log_result {
    TOKEN_LOG_NEWS,   /* at least one new token, or the end */
    TOKEN_LOG_OLD,    /* nothing new */
    TOKEN_LOG_GAP,    /* tokens before these are missing; nothing was taken */
    TOKEN_LOG_MEMORY, /* nothing was taken; as if the message were lost */
};

void token_log_init(struct token_log *log, bool has_logprobs);
void token_log_release(struct token_log *log);
/* Makes room for `count` tokens, so that later adds up to there allocate nothing. */
MUST_USE enum err token_log_reserve(struct token_log *log, uint32_t count);
/* Takes what is new of ids first .. first + count; logprobs NULL when there are none. */
enum token_log_result token_log_add(struct token_log *log, uint32_t first, const uint32_t *ids,
                                    uint32_t count, const struct msg_logprob *logprobs,
                                    uint8_t finish, uint32_t stop_id);

#endif
