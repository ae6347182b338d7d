/* cmd_chat - gramme chat: a conversation, with a model in this process or with a server.
 *
 * Ctrl-C stops the answer under way, Ctrl-D ends, /reset clears.  With -m the conversation's
 * prefix stays in the KV cache from turn to turn.  --once asks one thing and ends. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/chat_client.h"
#include "cmd/cmd.h"
#include "cmd/cmd_answer.h"
#include "cmd/cmd_model.h"

#define DEFAULT_URL "http://127.0.0.1:8000"

struct chat {
    const struct options *options;
    const char *url; /* NULL: the model is here */
    const char *api_key;
    struct cmd_session session;
    json_t *messages;
};

static bool say(void *ctx, const char *text, size_t bytes) {
    (void) ctx;
    return fwrite(text, 1, bytes, stdout) == bytes && !fflush(stdout);
}

static void reset(struct chat *chat) {
    json_array_clear(chat->messages);
    const char *system = options_text(chat->options, OPT_SYSTEM);
    if (system)
        json_array_append_new(chat->messages,
                              json_pack("{s:s, s:s}", "role", "system", "content", system));
}

static enum err ask_here(struct chat *chat, struct err_text *text, struct buf *answer) {
    struct tokenizer_ids ids = {0};
    struct sampling sampling;
    struct cmd_answer made = {0};
    enum err e = cmd_session_render(&chat->session, chat->messages, text, &ids);
    if (!e) e = cmd_model_sampling(chat->options, chat->session.model, 0.7f, text, &sampling);
    if (!e) e = sampling_check(&sampling, model_get_spec(chat->session.model)->vocab_size, text);
    if (!e)
        e = cmd_answer_make(&chat->session, chat->options, &ids, &sampling, 0, say, NULL, text,
                            &made);
    if (!e && made.text.data) buf_add(answer, made.text.data, made.text.bytes);
    cmd_answer_release(&made);
    tokenizer_ids_release(&ids);
    return e;
}

static void set_number(json_t *request, const struct options *options, enum option_id id,
                       const char *name) {
    if (!options_is_set(options, id)) return;
    double value = options_number(options, id);
    json_object_set_new(request, name,
                        option_get(id)->type == OPTION_COUNT || id == OPT_TOP_K
                            ? json_integer((json_int_t) value)
                            : json_real(value));
}

static enum err ask_server(struct chat *chat, struct err_text *text, struct buf *answer) {
    json_t *request = json_pack("{s:O}", "messages", chat->messages);
    static const struct {
        enum option_id id;
        const char *name;
    } fields[] = {{OPT_MAX_TOKENS, "max_tokens"},
                  {OPT_TEMPERATURE, "temperature"},
                  {OPT_TOP_P, "top_p"},
                  {OPT_TOP_K, "top_k"},
                  {OPT_MIN_P, "min_p"},
                  {OPT_PRESENCE_PENALTY, "presence_penalty"},
                  {OPT_FREQUENCY_PENALTY, "frequency_penalty"},
                  {OPT_REPETITION_PENALTY, "repetition_penalty"},
                  {OPT_MIN_TOKENS, "min_tokens"}};
    for (size_t i = 0; i < ARRAY_COUNT(fields); i++)
        set_number(request, chat->options, fields[i].id, fields[i].name);
    const char *seed = options_text(chat->options, OPT_SEED);
    if (seed) json_object_set_new(request, "seed", json_integer(strtoll(seed, NULL, 10)));
    if (options_bool(chat->options, OPT_IGNORE_EOS))
        json_object_set_new(request, "ignore_eos", json_true());
    if (options_list_count(chat->options, OPT_STOP)) {
        json_t *stops = json_array();
        for (uint32_t i = 0; i < options_list_count(chat->options, OPT_STOP); i++)
            json_array_append_new(stops,
                                  json_string(options_list_item(chat->options, OPT_STOP, i)));
        json_object_set_new(request, "stop", stops);
    }
    enum err e = request
                     ? chat_client_ask(chat->url, chat->api_key, request, say, NULL, text, answer)
                     : ERR_MEMORY;
    json_decref(request);
    return e == ERR_CANCELLED ? ERR_OK : e;
}

/* One turn; the question and what was answered, whole or stopped, join the conversation. */
static enum err turn(struct chat *chat, const char *question, size_t bytes, struct err_text *text) {
    json_t *content = json_stringn(question, bytes);
    if (!content) return err_set(text, ERR_FORMAT, "that is not valid UTF-8");
    json_array_append_new(chat->messages,
                          json_pack("{s:s, s:o}", "role", "user", "content", content));
    struct buf answer;
    buf_init(&answer, 0);
    cmd_answer_watch_interrupt();
    enum err e = chat->url ? ask_server(chat, text, &answer) : ask_here(chat, text, &answer);
    if (!e || answer.bytes) putchar('\n');
    if (e) {
        json_array_remove(chat->messages, json_array_size(chat->messages) - 1);
    } else {
        json_t *said = json_stringn(answer.data ? (const char *) answer.data : "", answer.bytes);
        json_array_append_new(chat->messages, json_pack("{s:s, s:o}", "role", "assistant",
                                                        "content", said ? said : json_string("")));
    }
    buf_release(&answer);
    return e;
}

static enum err converse(struct chat *chat, struct err_text *text) {
    bool is_terminal = isatty(STDIN_FILENO);
    char *line = NULL;
    size_t room = 0;
    enum err e = ERR_OK;
    if (is_terminal) fputs("Ctrl-C stops an answer, Ctrl-D ends, /reset clears.\n", stderr);
    for (;;) {
        if (is_terminal) {
            fputs("\n> ", stderr);
            fflush(stderr);
        }
        cmd_answer_watch_interrupt();
        ssize_t bytes = getline(&line, &room, stdin);
        if (bytes < 0 && cmd_answer_was_interrupted() && !feof(stdin)) {
            clearerr(stdin);
            continue;
        }
        if (bytes < 0) break;
        while (bytes && (line[bytes - 1] == '\n' || line[bytes - 1] == '\r')) bytes--;
        if (bytes == 0) continue;
        if (bytes == 6 && memcmp(line, "/reset", 6) == 0) {
            reset(chat);
            continue;
        }
        e = turn(chat, line, (size_t) bytes, text);
        if (ferror(stdout)) break;
        if (!e) continue;
        if (!is_terminal || e == ERR_PEER_GONE) break;
        cmd_fail(e, text);
        e = ERR_OK;
    }
    free(line);
    return e;
}

int cmd_chat(int argc, char **argv) {
    struct options *options = NULL;
    const char *positional[CMD_POSITIONAL_MAX];
    uint32_t positional_count = 0;
    int status = cmd_options(OPTION_CHAT, argc, argv, &options, positional, &positional_count);
    if (status) return status;
    struct err_text text = {0};
    struct chat chat = {.options = options, .messages = json_array()};
    const char *model =
        options_source(options, OPT_MODEL) == SOURCE_FLAG || !options_text(options, OPT_URL)
            ? options_text(options, OPT_MODEL)
            : NULL;
    chat.url = options_text(options, OPT_URL);
    chat.api_key = getenv("GRAMME_API_KEY");
    enum err e = ERR_OK;
    if (positional_count)
        e = err_set(&text, ERR_USAGE,
                    "'%s': chat reads questions from the terminal; for one: --once \"%s\"",
                    positional[0], positional[0]);
    else if (model && chat.url)
        e = err_set(&text, ERR_USAGE,
                    "-m and --url are both given: talk to a model here, or to a server");
    else if (!model && !chat.url) chat.url = DEFAULT_URL;
    reset(&chat);
    if (!e && !chat.url) e = cmd_session_open(options, model, &text, &chat.session);
    const char *once = options_text(options, OPT_ONCE);
    if (!e) e = once ? turn(&chat, once, strlen(once), &text) : converse(&chat, &text);
    bool is_interrupted = once && cmd_answer_was_interrupted();
    cmd_session_close(&chat.session);
    json_decref(chat.messages);
    options_destroy(options);
    if (e) return cmd_fail(e, &text);
    return is_interrupted ? CMD_INTERRUPTED : CMD_DONE;
}
