/* cmd_run - gramme run: one prompt in this process, streamed to the terminal.
 *
 * Read this first: it is the whole program on one page.  A model is opened, a plan made, its
 * buffers taken, its weights packed (cmd_session_open); the prompt goes through template and
 * tokenizer (cmd_session_render); the engine steps and tokens become text (cmd_answer_make).
 * Standard output is the answer only, all else goes to standard error. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "cmd/cmd.h"
#include "cmd/cmd_answer.h"
#include "cmd/cmd_ids.h"
#include "cmd/cmd_model.h"
#include "cmd/cmd_sampling.h"

#define PROMPT_BYTES_MAX (64u << 20)

/* The prompt from the arguments or from standard input. */
static enum err read_prompt(const struct options *options, const char *argument,
                            struct err_text *text, struct buf *out) {
    if (options_is_set(options, OPT_IDS)) return ERR_OK;
    if (argument && strcmp(argument, "-") != 0) {
        buf_add_string(out, argument);
        return buf_error(out);
    }
    if (!argument && isatty(STDIN_FILENO))
        return err_set(text, ERR_USAGE,
                       "no prompt: gramme run -m MODEL \"prompt\", or text on stdin");
    enum err e = cmd_read_all("-", PROMPT_BYTES_MAX, text, out);
    if (!e && out->bytes && out->data[out->bytes - 1] == '\n') out->bytes--;
    if (!e && !out->bytes) e = err_set(text, ERR_USAGE, "no prompt: standard input is empty");
    return e;
}

static enum err make_ids(struct cmd_session *session, const struct options *options,
                         const struct buf *prompt, struct err_text *text,
                         struct tokenizer_ids *ids) {
    const char *list = options_text(options, OPT_IDS);
    if (list) {
        enum err e = cmd_ids_parse("ids", list, model_get_spec(session->model)->vocab_size, text,
                                   &ids->ids, &ids->count);
        ids->room = ids->count;
        return e;
    }
    const char *bytes = prompt->data ? (const char *) prompt->data : "";
    if (options_bool(options, OPT_RAW) || !session->chat_template)
        return tokenizer_encode(session->tokenizer, session->scratch, bytes, prompt->bytes, NULL, 0,
                                TOKENIZER_ADD_SPECIAL | TOKENIZER_PARSE_SPECIAL, 0, text, ids);
    json_t *messages = json_array();
    const char *system = options_text(options, OPT_SYSTEM);
    if (system)
        json_array_append_new(messages,
                              json_pack("{s:s, s:s}", "role", "system", "content", system));
    json_t *content = json_stringn(bytes, prompt->bytes);
    enum err e = content ? ERR_OK : err_set(text, ERR_FORMAT, "the prompt is not valid UTF-8");
    if (!e) {
        json_array_append_new(messages,
                              json_pack("{s:s, s:o}", "role", "user", "content", content));
        e = cmd_session_render(session, messages, text, ids);
    }
    json_decref(messages);
    return e;
}

static bool say(void *ctx, const char *text, size_t bytes) {
    bool *is_broken = ctx;
    if (fwrite(text, 1, bytes, stdout) != bytes || fflush(stdout)) *is_broken = true;
    return !*is_broken;
}

static json_t *ids_json(const struct tokenizer_ids *ids) {
    json_t *array = json_array();
    for (uint32_t i = 0; i < ids->count; i++)
        json_array_append_new(array, json_integer(ids->ids[i]));
    return array;
}

static json_t *logprobs_json(const struct cmd_answer *answer) {
    json_t *array = json_array();
    for (uint32_t i = 0; i < answer->ids.count; i++) {
        const struct token_logprob *l = &answer->logprobs[i];
        json_t *top = json_array();
        for (uint32_t k = 0; k < l->top_count; k++)
            json_array_append_new(top, json_pack("{s:i, s:f}", "id", (int) l->top_ids[k], "logprob",
                                                 (double) l->top_logprobs[k]));
        json_array_append_new(array,
                              json_pack("{s:i, s:f, s:i, s:o}", "id", (int) l->token_id, "logprob",
                                        (double) l->logprob, "rank", (int) l->rank, "top", top));
    }
    return array;
}

static void print_json(const struct cmd_session *session, const struct tokenizer_ids *prompt,
                       const struct cmd_answer *answer, bool has_logprobs) {
    static const char *const reasons[] = {"none", "stop", "length", "cancelled", "error"};
    uint32_t predicted = answer->ids.count ? answer->ids.count - 1 : 0; /* the first is prefill's */
    json_t *timings =
        json_pack("{s:f, s:i, s:i, s:f, s:f, s:i, s:f, s:f}", "load_ms", session->load_ms,
                  "cache_n", (int) answer->cached_tokens, "prompt_n",
                  (int) (answer->prompt_tokens - answer->cached_tokens), "prompt_ms",
                  answer->prompt_ms, "prompt_per_second",
                  answer->prompt_ms > 0 ? 1e3 * answer->prompt_tokens / answer->prompt_ms : 0.0,
                  "predicted_n", (int) answer->ids.count, "predicted_ms", answer->predicted_ms,
                  "predicted_per_second",
                  answer->predicted_ms > 0 ? 1e3 * predicted / answer->predicted_ms : 0.0);
    json_t *line = json_pack(
        "{s:o, s:o, s:s%, s:s, s:o, s:o}", "prompt_ids", ids_json(prompt), "ids",
        ids_json(&answer->ids), "text", answer->text.data ? (const char *) answer->text.data : "",
        answer->text.bytes, "finish_reason", reasons[answer->finish], "logprobs",
        has_logprobs ? logprobs_json(answer) : json_null(), "timings", timings);
    char *bytes = line ? json_dumps(line, JSON_COMPACT) : NULL;
    if (bytes) puts(bytes);
    free(bytes);
    json_decref(line);
}

/* One of the n answers: the same prompt and seed, another choice index. */
static enum err answer_once(struct cmd_session *session, const struct options *options,
                            const struct tokenizer_ids *ids, const struct sampling *sampling,
                            uint32_t choice_index, struct err_text *text, bool *goes_on) {
    struct cmd_answer answer = {0};
    bool is_json = options_bool(options, OPT_JSON), is_broken = false;
    enum err e = cmd_answer_make(session, options, ids, sampling, choice_index,
                                 is_json ? NULL : say, &is_broken, text, &answer);
    if (!e && is_json) print_json(session, ids, &answer, sampling->logprobs >= 0);
    else if (!e && !is_broken) putchar('\n');
    *goes_on = !e && !is_broken && !answer.is_interrupted;
    cmd_answer_release(&answer);
    return e;
}

static enum err run(struct cmd_session *session, const struct options *options,
                    const struct buf *prompt, struct err_text *text) {
    struct tokenizer_ids ids = {0};
    struct sampling sampling;
    struct arena arena;
    arena_init(&arena, 0);
    enum err e = make_ids(session, options, prompt, text, &ids);
    if (!e) e = cmd_model_sampling(options, session->model, 0, text, &sampling);
    if (!e) e = cmd_sampling_read_lists(options, session, &arena, text, &sampling);
    if (!e && options_is_set(options, OPT_LOGPROBS))
        sampling.logprobs = (int32_t) options_count(options, OPT_LOGPROBS);
    if (!e) e = sampling_check(&sampling, model_get_spec(session->model)->vocab_size, text);
    cmd_answer_watch_interrupt();
    bool goes_on = true;
    for (uint32_t i = 0; !e && goes_on && i < options_count(options, OPT_N); i++)
        e = answer_once(session, options, &ids, &sampling, i, text, &goes_on);
    arena_release(&arena);
    tokenizer_ids_release(&ids);
    return e;
}

int cmd_run(int argc, char **argv) {
    struct options *options = NULL;
    const char *positional[CMD_POSITIONAL_MAX];
    uint32_t positional_count = 0;
    int status = cmd_options(OPTION_RUN, argc, argv, &options, positional, &positional_count);
    if (status) return status;
    struct err_text text = {0};
    struct cmd_session session = {0};
    struct buf prompt;
    buf_init(&prompt, 0);
    enum err e = ERR_OK;
    if (options_bool(options, OPT_PRINT_CONFIG)) {
        cmd_print_config(options);
    } else {
        if (positional_count > 1)
            e = err_set(&text, ERR_USAGE, "one prompt is wanted, %u are given (quote it)",
                        positional_count);
        if (!e && !options_text(options, OPT_MODEL))
            e = err_set(&text, ERR_USAGE, "no model: gramme run -m MODEL \"prompt\"");
        if (!e) e = read_prompt(options, positional_count ? positional[0] : NULL, &text, &prompt);
        if (!e) e = cmd_session_open(options, NULL, &text, &session);
        if (!e) e = run(&session, options, &prompt, &text);
    }
    cmd_session_close(&session);
    buf_release(&prompt);
    options_destroy(options);
    if (e) return cmd_fail(e, &text);
    return cmd_answer_was_interrupted() ? CMD_INTERRUPTED : CMD_DONE;
}
