/* answer - what the client reads: tokens become text, chunks of a stream, or one body.
 *
 * Reads the token_logs that dispatch fills, each choice with a cursor of its own, so a slow reader
 * costs ids and nothing else.  Detokenizes, finds stop strings, counts usage, prints logprobs.
 * The constant part of a chunk is rendered once a choice; a token then costs: decode, escape,
 * append.  No socket here, no clock: bytes are appended to a buf.  Loop thread.
 *
 *   choice: waiting -> begun (role chunk, echo) -> tokens -> ended (finish chunk)
 *
 * The bytes of a choice do not depend on how its tokens were cut into messages. */
#ifndef GRAMME_API_ANSWER_H
#define GRAMME_API_ANSWER_H

#include <stdbool.h>
#include <stdint.h>

#include "api/request_parse.h"
#include "api/stop_match.h"
#include "api/token_log.h"
#include "base/arena.h"
#include "base/buf.h"
#include "token/tokenizer.h"

/* One prompt and what came back about it. */
struct answer_prompt {
    const uint32_t *ids; /* borrowed */
    uint32_t count;
    const char *text; /* for echo; NULL: decoded from the ids */
    size_t text_bytes;
    uint32_t cached_tokens;
    struct token_log log; /* prompt logprobs; entry t belongs to position t + 1 */
};

struct answer_choice {
    struct token_log *log;
    struct answer_prompt *prompt;
    uint32_t index;
    uint32_t done_count;    /* tokens read from the log: completion_tokens */
    uint32_t scanned_count; /* of the log, looked at ahead of a slow reader */
    bool is_begun;
    bool is_ended;
    const char *finish_reason; /* once ended */
    uint32_t stop_string;      /* STOP_MATCH_NONE, or which one ended it */
    int64_t stop_token;        /* -1, or the client's own stop id that ended it */
    uint64_t text_chars;       /* code points given out, for text_offset */
    struct token_decoder decoder;
    struct stop_match match;
    struct buf text;    /* not streaming: the answer so far */
    const char *prefix; /* streaming: a chunk up to its text */
    size_t prefix_bytes;
};

/* The times of llama-server's timings object; the counts are the answer's own. */
struct answer_timings {
    double prompt_ms, predicted_ms;
};

/* Memory that all requests of a loop share: a token's text, before and after stop strings. */
struct answer_scratch {
    struct buf text;
    struct buf cut;
};

struct answer {
    const struct request_spec *spec;
    const struct api_options *options;
    const struct tokenizer *tokenizer;
    struct answer_scratch *scratch;
    const char *head; /* {"id":...,"model":"...", */
    size_t head_bytes;
    struct answer_prompt *prompts; /* spec->prompt_count */
    struct answer_choice *choices; /* prompt_count x n, in the order of their index */
    struct token_log *logs;        /* one a choice */
    uint32_t choice_count;
    uint64_t event_count;
    struct answer_timings timings; /* kept by the caller, shown when asked for */
};

/* Everything but logs' contents and texts lies in the spec's arena.  id: "chatcmpl-...". */
MUST_USE enum err answer_init(struct answer *answer, const struct request_spec *spec,
                              const struct api_options *options, struct answer_scratch *scratch,
                              const char *id, int64_t created_s);
void answer_release(struct answer *answer);
void answer_scratch_release(struct answer_scratch *scratch);

/* Takes what has arrived of one choice: chunks are appended to *out (streaming; stops when it
 * holds bytes_max), or text to the choice.  True when it did not stop for bytes_max. */
bool answer_advance(struct answer *answer, struct answer_choice *choice, size_t bytes_max,
                    struct buf *out);
/* Looks ahead of a reader who does not read: when the unread tokens hold a stop string the log is
 * closed, so that no more is computed.  Does nothing until many new ones are there. */
void answer_look_ahead(const struct answer *answer, struct answer_choice *choice);
bool answer_is_ended(const struct answer *answer); /* every choice */
uint32_t answer_completion_tokens(const struct answer *answer);
uint32_t answer_prompt_tokens(const struct answer *answer);
uint32_t answer_cached_tokens(const struct answer *answer);

/* The stream's last events: usage (if asked for) and [DONE].  Timings stand in the last chunk that
 * has choices, or with the usage. */
void answer_stream_end(struct answer *answer, struct buf *out);
/* An error in the middle of a stream: one data event, then [DONE]. */
void answer_stream_error(const struct api_error *error, struct buf *out);
/* The whole body of an answer that is not streamed. */
void answer_body(const struct answer *answer, struct buf *out);

/* Appends bytes as the inside of a JSON string; what is not UTF-8 becomes U+FFFD. */
void answer_add_text(struct buf *out, const char *bytes, size_t count);

#endif
