/* cmd_answer - one answer in this process: prompt ids in, text as it comes out.
 *
 * What `gramme run` and `gramme chat -m` share: a booted engine stepped by the caller's thread, no
 * bus, no server.  Ctrl-C ends the answer at the next step. */
#ifndef GRAMME_CMD_CMD_ANSWER_H
#define GRAMME_CMD_CMD_ANSWER_H

#include <jansson.h>

#include "base/buf.h"
#include "chat/chat_template.h"
#include "config/option.h"
#include "engine/engine.h"
#include "model/model.h"
#include "token/tokenizer.h"
#include "worker/worker_boot.h"

struct cmd_session {
    struct model *model;
    struct tokenizer *tokenizer;
    struct token_scratch *scratch;
    struct chat_template *chat_template; /* NULL: the model has none */
    struct worker_boot boot;
    double load_ms;
};

struct cmd_answer {
    struct tokenizer_ids ids;
    struct buf text;
    struct token_logprob *logprobs; /* one an id, when asked */
    enum finish_reason finish;
    const char *stop_text; /* the stop string that ended it; NULL: none */
    uint32_t prompt_tokens, cached_tokens;
    double prompt_ms, predicted_ms;
    bool is_interrupted;
};

/* false: nobody reads any more; the answer ends here. */
typedef bool (*cmd_answer_fn)(void *ctx, const char *text, size_t bytes);

MUST_USE enum err cmd_session_open(const struct options *options, const char *model_name,
                                   struct err_text *text, struct cmd_session *out);
void cmd_session_close(struct cmd_session *session);

/* messages (a JSON array) through the template into ids.  ERR_NOT_FOUND without a template. */
MUST_USE enum err cmd_session_render(struct cmd_session *session, json_t *messages,
                                     struct err_text *text, struct tokenizer_ids *ids);
/* Generates; on_text (may be NULL) hears each piece of whole characters.  stop strings come from
 * the options. */
MUST_USE enum err cmd_answer_make(struct cmd_session *session, const struct options *options,
                                  const struct tokenizer_ids *prompt,
                                  const struct sampling *sampling, uint32_t choice_index,
                                  cmd_answer_fn on_text, void *ctx, struct err_text *text,
                                  struct cmd_answer *out);
void cmd_answer_release(struct cmd_answer *answer);
/* Installs the SIGINT handler that cmd_answer_make looks at, and forgets an earlier Ctrl-C. */
void cmd_answer_watch_interrupt(void);
bool cmd_answer_was_interrupted(void);

#endif
