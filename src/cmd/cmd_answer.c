/* cmd_answer - see cmd_answer.h. */
#include "cmd/cmd_answer.h"

#include <signal.h>
#include <string.h>
#include <time.h>

#include "api/stop_match.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "cmd/cmd_memory.h"
#include "cmd/cmd_model.h"
#include "cmd/cmd_template.h"

#define CACHE_BYTES (1u << 20) /* one prompt's words */

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number) {
    (void) number;
    interrupted = 1;
}

void cmd_answer_watch_interrupt(void) {
    interrupted = 0;
    struct sigaction action = {.sa_handler = on_interrupt};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
}

bool cmd_answer_was_interrupted(void) { return interrupted != 0; }

/* --- the session ------------------------------------------------------------------------- */

void cmd_session_close(struct cmd_session *session) {
    worker_boot_close(&session->boot);
    chat_template_destroy(session->chat_template);
    token_scratch_destroy(session->scratch);
    tokenizer_close(session->tokenizer);
    model_close(session->model);
    *session = (struct cmd_session){0};
}

enum err cmd_session_open(const struct options *options, const char *model_name,
                          struct err_text *text, struct cmd_session *out) {
    uint64_t started_ns = clock_now_ns();
    struct cmd_session session = {0};
    struct worker_boot_options boot;
    enum err e = cmd_model_open(options, model_name, text, &session.model);
    if (!e) e = model_open_tokenizer(session.model, text, &session.tokenizer);
    if (!e) e = token_scratch_create(session.tokenizer, CACHE_BYTES, &session.scratch);
    const char *source = e ? NULL : model_chat_template(session.model);
    if (source) e = chat_template_create(source, strlen(source), text, &session.chat_template);
    if (!e) e = cmd_model_boot_options(options, model_get_spec(session.model), text, &boot);
    if (!e)
        e = worker_boot_open(&boot, session.model, cmd_model_progress, NULL, text, &session.boot);
    if (e) {
        cmd_session_close(&session);
        return e;
    }
    cmd_memory_settle(&session.boot.plan, session.model, boot.prefault, true);
    session.load_ms = (double) (clock_now_ns() - started_ns) / 1e6;
    *out = session;
    return ERR_OK;
}

enum err cmd_session_render(struct cmd_session *session, json_t *messages, struct err_text *text,
                            struct tokenizer_ids *ids) {
    if (!session->chat_template)
        return err_set(text, ERR_NOT_FOUND, "%s has no chat template: use --raw",
                       model_get_spec(session->model)->name);
    json_t *variables = json_pack("{s:O, s:b}", "messages", messages, "add_generation_prompt", 1);
    if (!variables) return err_set(text, ERR_MEMORY, "out of memory");
    cmd_template_set_defaults(variables);
    cmd_template_set_tokens(variables, session->model);
    struct chat_prompt prompt = {0};
    enum err e = chat_template_render(session->chat_template, variables, NULL, NULL,
                                      (int64_t) time(NULL), text, &prompt);
    json_decref(variables);
    if (e) return e;
    struct tokenizer_range *ranges = alloc_array(prompt.range_count, sizeof *ranges);
    if (!ranges) e = err_set(text, ERR_MEMORY, "out of memory");
    for (size_t i = 0; !e && i < prompt.range_count; i++)
        ranges[i] =
            (struct tokenizer_range){prompt.user_ranges[i].first, prompt.user_ranges[i].end};
    if (!e)
        e = tokenizer_encode(session->tokenizer, session->scratch,
                             prompt.text.data ? (const char *) prompt.text.data : "",
                             prompt.text.bytes, ranges, prompt.range_count, TOKENIZER_PARSE_SPECIAL,
                             0, text, ids);
    alloc_free(ranges);
    chat_template_release_prompt(&prompt);
    return e;
}

/* --- the answer -------------------------------------------------------------------------- */

/* What turns ids into text: decoder, stop strings, the piece under way. */
struct voice {
    struct token_decoder decoder;
    struct stop_set set;
    struct stop_match match;
    struct arena arena;
    struct buf decoded, piece;
    cmd_answer_fn on_text;
    bool is_unheard; /* on_text said so */
    void *ctx;
    struct cmd_answer *answer;
};

static enum err voice_open(struct voice *voice, struct cmd_session *session,
                           const struct options *options, struct err_text *text) {
    arena_init(&voice->arena, 0);
    buf_init(&voice->decoded, 0);
    buf_init(&voice->piece, 0);
    token_decoder_init(&voice->decoder, session->tokenizer, true);
    enum err e = ERR_OK;
    for (uint32_t i = 0; !e && i < options_list_count(options, OPT_STOP); i++) {
        const char *stop = options_list_item(options, OPT_STOP, i);
        e = *stop ? stop_match_set_add(&voice->set, &voice->arena, stop, strlen(stop))
                  : err_set(text, ERR_USAGE, "--stop: an empty text would stop at once");
    }
    if (!e) e = stop_match_init(&voice->match, &voice->set, &voice->arena);
    return e;
}

static void voice_close(struct voice *voice) {
    buf_release(&voice->decoded);
    buf_release(&voice->piece);
    arena_release(&voice->arena);
}

static void voice_say(struct voice *voice) {
    if (!voice->piece.bytes) return;
    buf_add(&voice->answer->text, voice->piece.data, voice->piece.bytes);
    if (voice->on_text && !voice->is_unheard)
        voice->is_unheard =
            !voice->on_text(voice->ctx, (const char *) voice->piece.data, voice->piece.bytes);
    buf_clear(&voice->piece);
}

/* true when a stop string ended the answer. */
static bool voice_token(struct voice *voice, uint32_t id, bool is_last) {
    buf_clear(&voice->decoded);
    token_decoder_add(&voice->decoder, id, &voice->decoded);
    if (is_last) token_decoder_finish(&voice->decoder, &voice->decoded);
    const uint8_t *data = voice->decoded.data ? voice->decoded.data : (const uint8_t *) "";
    bool is_hit =
        stop_match_feed(&voice->match, data, voice->decoded.bytes, true, false, &voice->piece);
    if (!is_hit && is_last) stop_match_finish(&voice->match, &voice->piece);
    voice_say(voice);
    if (is_hit) voice->answer->stop_text = (const char *) voice->set.strings[voice->match.hit].text;
    return is_hit;
}

static enum err answer_keep(struct cmd_answer *answer, const struct engine_output *output) {
    if (answer->ids.count == answer->ids.room) {
        uint32_t room = answer->ids.room ? answer->ids.room * 2 : 256;
        uint32_t *ids = alloc_resize(answer->ids.ids, room * sizeof *ids);
        if (ids) answer->ids.ids = ids;
        struct token_logprob *logprobs = alloc_resize(answer->logprobs, room * sizeof *logprobs);
        if (logprobs) answer->logprobs = logprobs;
        if (!ids || !logprobs) return ERR_MEMORY;
        answer->ids.room = room;
    }
    answer->logprobs[answer->ids.count] = output->logprob;
    answer->ids.ids[answer->ids.count++] = output->token_id;
    return ERR_OK;
}

void cmd_answer_release(struct cmd_answer *answer) {
    tokenizer_ids_release(&answer->ids);
    buf_release(&answer->text);
    alloc_free(answer->logprobs);
    *answer = (struct cmd_answer){0};
}

#define REQUEST_ID 1 /* one request at a time */

/* Steps the engine until the request's end. */
static enum err answer_steps(struct cmd_session *session, struct voice *voice,
                             struct err_text *text) {
    struct cmd_answer *answer = voice->answer;
    struct engine *engine = session->boot.engine;
    uint64_t started_ns = clock_now_ns(), first_ns = 0;
    while (answer->finish == FINISH_NONE || !engine_is_idle(engine)) {
        if (interrupted) {
            answer->is_interrupted = true;
            engine_cancel(engine, REQUEST_ID);
        }
        if (voice->is_unheard) engine_cancel(engine, REQUEST_ID);
        const struct engine_output *outputs = NULL;
        uint32_t count = 0;
        enum err e = engine_step(engine, clock_now_us(), &outputs, &count);
        if (e) return err_set(text, e, "the engine stopped: %s", err_name(e));
        for (uint32_t i = 0; i < count; i++) {
            const struct engine_output *output = &outputs[i];
            if (output->is_first_of_request) answer->cached_tokens = output->cached_tokens;
            if (answer->finish != FINISH_NONE) continue;
            bool is_last = output->finish != FINISH_NONE;
            bool has_token = output->token_id != BACKEND_NO_TOKEN;
            if (has_token) {
                if (!first_ns) first_ns = clock_now_ns();
                e = answer_keep(answer, output);
                if (e) return e;
                bool is_stop_id = output->finish == FINISH_STOP;
                if (!is_stop_id && voice_token(voice, output->token_id, is_last)) {
                    answer->finish = FINISH_STOP;
                    engine_cancel(engine, REQUEST_ID);
                    continue;
                }
            }
            if (!is_last) continue;
            if (output->finish == FINISH_STOP || !has_token) {
                token_decoder_finish(&voice->decoder, &voice->piece);
                stop_match_finish(&voice->match, &voice->piece);
                voice_say(voice);
            }
            answer->finish = output->finish;
            if (output->finish == FINISH_ERROR)
                return err_set(text, output->error, "the engine gave up this request: %s",
                               err_name(output->error));
        }
    }
    uint64_t end_ns = clock_now_ns();
    if (!first_ns) first_ns = end_ns;
    answer->prompt_ms = (double) (first_ns - started_ns) / 1e6;
    answer->predicted_ms = (double) (end_ns - first_ns) / 1e6;
    return ERR_OK;
}

enum err cmd_answer_make(struct cmd_session *session, const struct options *options,
                         const struct tokenizer_ids *prompt, const struct sampling *sampling,
                         uint32_t choice_index, cmd_answer_fn on_text, void *ctx,
                         struct err_text *text, struct cmd_answer *out) {
    struct cmd_answer answer = {.prompt_tokens = prompt->count};
    buf_init(&answer.text, 0);
    struct voice voice = {.on_text = on_text, .ctx = ctx, .answer = &answer};
    struct sampling limited = *sampling;
    uint32_t model_len = session->boot.plan.model_len_max;
    enum err e = voice_open(&voice, session, options, text);
    if (!e && prompt->count == 0) e = err_set(text, ERR_USAGE, "the prompt is empty");
    if (!e && prompt->count >= model_len)
        e = err_set(text, ERR_NO_ROOM,
                    "the prompt has %u tokens, max-model-len is %u: no room for an answer",
                    prompt->count, model_len);
    if (!e) {
        if (limited.max_tokens > model_len - prompt->count)
            limited.max_tokens = model_len - prompt->count;
        struct engine_choice choice = {.index = choice_index};
        struct engine_request request = {
            .id = REQUEST_ID,
            .prompt_ids = prompt->ids,
            .prompt_count = prompt->count,
            .choices = &choice,
            .choice_count = 1,
            .sampling = &limited,
        };
        e = engine_add(session->boot.engine, &request, text);
    }
    if (!e) e = answer_steps(session, &voice, text);
    voice_close(&voice);
    /* The stop string's text lived in the arena; the option's own copy goes on. */
    if (answer.stop_text) answer.stop_text = options_list_item(options, OPT_STOP, voice.match.hit);
    if (e) {
        cmd_answer_release(&answer);
        return e;
    }
    *out = answer;
    return ERR_OK;
}
