/* answer - see answer.h. */
#include "api/answer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "api/utf8_text.h"
#include "base/alloc.h"

#define LOGPROB_MIN (-9999.0) /* what vLLM prints for minus infinity */

/* --- pieces of JSON ---------------------------------------------------------------------- */

void answer_add_text(struct buf *out, const char *bytes, size_t count) {
    size_t from = 0, at = 0;
    while (at < count) {
        size_t length = utf8_text_length((const unsigned char *) bytes + at, count - at);
        if (length) {
            at += length;
            continue;
        }
        buf_add_json_escaped(out, bytes + from, at - from);
        buf_add(out, "\xef\xbf\xbd", 3);
        from = ++at;
    }
    if (from < count) buf_add_json_escaped(out, bytes + from, count - from);
}

/* Code points as Python counts a decoded string's length. */
static uint64_t count_characters(const char *bytes, size_t count) {
    uint64_t characters = 0;
    for (size_t at = 0; at < count; characters++) {
        size_t length = utf8_text_length((const unsigned char *) bytes + at, count - at);
        at += length ? length : 1;
    }
    return characters;
}

static void add_number(struct buf *out, double number) {
    if (!(number > LOGPROB_MIN)) number = LOGPROB_MIN;
    buf_add_format(out, "%.9g", number);
}

static void add_u32(struct buf *out, uint32_t number) {
    char digits[10];
    size_t at = sizeof digits;
    do digits[--at] = (char) ('0' + number % 10);
    while (number /= 10);
    buf_add(out, digits + at, sizeof digits - at);
}

static void add_usage(struct buf *out, uint32_t prompt_tokens, uint32_t completion_tokens,
                      uint32_t cached_tokens) {
    buf_add_format(out,
                   "\"usage\":{\"prompt_tokens\":%u,\"total_tokens\":%llu,"
                   "\"completion_tokens\":%u,\"prompt_tokens_details\":{\"cached_tokens\":%u}}",
                   prompt_tokens, (unsigned long long) prompt_tokens + completion_tokens,
                   completion_tokens, cached_tokens);
}

static void add_timings(const struct answer *answer, struct buf *out) {
    uint32_t cached = answer_cached_tokens(answer);
    double prompt_n = answer_prompt_tokens(answer) - cached;
    double predicted_n = answer_completion_tokens(answer);
    double prompt_ms = answer->timings.prompt_ms, predicted_ms = answer->timings.predicted_ms;
    buf_add_format(out,
                   "\"timings\":{\"cache_n\":%u,\"prompt_n\":%.0f,\"prompt_ms\":%.3f,"
                   "\"prompt_per_token_ms\":%.6f,\"prompt_per_second\":%.6f,\"predicted_n\":%.0f,"
                   "\"predicted_ms\":%.3f,\"predicted_per_token_ms\":%.6f,"
                   "\"predicted_per_second\":%.6f}",
                   cached, prompt_n, prompt_ms, prompt_n > 0 ? prompt_ms / prompt_n : 0,
                   prompt_ms > 0 ? prompt_n * 1e3 / prompt_ms : 0, predicted_n, predicted_ms,
                   predicted_n > 0 ? predicted_ms / predicted_n : 0,
                   predicted_ms > 0 ? predicted_n * 1e3 / predicted_ms : 0);
}

/* --- logprobs ---------------------------------------------------------------------------- */

static const char *token_bytes(const struct answer *answer, uint32_t id, size_t *bytes) {
    bool is_special;
    return tokenizer_token(answer->tokenizer, id, bytes, &is_special);
}

/* "token":"..","logprob":x,"bytes":[..] */
static void add_chat_token(const struct answer *answer, uint32_t id, double logprob,
                           struct buf *out) {
    size_t bytes;
    const char *text = token_bytes(answer, id, &bytes);
    buf_add_string(out, "\"token\":\"");
    answer_add_text(out, text, bytes);
    buf_add_string(out, "\",\"logprob\":");
    add_number(out, logprob);
    buf_add_string(out, ",\"bytes\":[");
    for (size_t i = 0; i < bytes; i++) {
        if (i) buf_add_byte(out, ',');
        add_u32(out, (unsigned char) text[i]);
    }
    buf_add_byte(out, ']');
}

static void add_chat_logprob(const struct answer *answer, const struct token_log *log,
                             uint32_t index, struct buf *out) {
    const struct token_log_entry *entry = &log->entries[index];
    buf_add_byte(out, '{');
    add_chat_token(answer, log->ids[index], entry->logprob, out);
    buf_add_string(out, ",\"top_logprobs\":[");
    for (uint32_t i = 0; i < entry->top_count; i++) {
        buf_add_string(out, i ? ",{" : "{");
        add_chat_token(answer, log->top_ids[entry->top_first + i],
                       log->top_logprobs[entry->top_first + i], out);
        buf_add_byte(out, '}');
    }
    buf_add_string(out, "]}");
}

/* {"content":[...]} of tokens first .. end */
static void add_chat_logprobs(const struct answer *answer, const struct token_log *log,
                              uint32_t first, uint32_t end, struct buf *out) {
    buf_add_string(out, "{\"content\":[");
    for (uint32_t i = first; i < end; i++) {
        if (i > first) buf_add_byte(out, ',');
        add_chat_logprob(answer, log, i, out);
    }
    buf_add_string(out, "]}");
}

static bool same_text(const struct answer *answer, uint32_t a, uint32_t b) {
    size_t a_bytes, b_bytes;
    const char *a_text = token_bytes(answer, a, &a_bytes);
    const char *b_text = token_bytes(answer, b, &b_bytes);
    return a == b || (a_bytes == b_bytes && memcmp(a_text, b_text, a_bytes) == 0);
}

/* {"<token>":x, ...}: the token itself, then the best others; no key twice. */
static void add_top_map(const struct answer *answer, const struct token_log *log, uint32_t index,
                        uint32_t id, struct buf *out) {
    const struct token_log_entry *entry = &log->entries[index];
    const uint32_t *tops = log->top_ids ? log->top_ids + entry->top_first : NULL;
    size_t bytes;
    const char *text = token_bytes(answer, id, &bytes);
    buf_add_string(out, "{\"");
    answer_add_text(out, text, bytes);
    buf_add_string(out, "\":");
    add_number(out, entry->logprob);
    for (uint32_t i = 0; i < entry->top_count; i++) {
        bool is_there = same_text(answer, tops[i], id);
        for (uint32_t k = 0; k < i && !is_there; k++)
            is_there = same_text(answer, tops[i], tops[k]);
        if (is_there) continue;
        text = token_bytes(answer, tops[i], &bytes);
        buf_add_string(out, ",\"");
        answer_add_text(out, text, bytes);
        buf_add_string(out, "\":");
        add_number(out, log->top_logprobs[entry->top_first + i]);
    }
    buf_add_byte(out, '}');
}

enum column { TEXT_OFFSET, TOKEN_LOGPROBS, TOKENS, TOP_LOGPROBS };

/* One cell of the completions form.  log NULL: the prompt's first token, which has no logprob. */
static void add_cell(const struct answer *answer, enum column column, const struct token_log *log,
                     uint32_t index, uint32_t id, uint64_t *chars, struct buf *out) {
    size_t bytes;
    const char *text = token_bytes(answer, id, &bytes);
    switch (column) {
    case TEXT_OFFSET:
        buf_add_format(out, "%llu", (unsigned long long) *chars);
        *chars += count_characters(text, bytes);
        break;
    case TOKEN_LOGPROBS:
        if (log) add_number(out, log->entries[index].logprob);
        else buf_add_string(out, "null");
        break;
    case TOKENS:
        buf_add_byte(out, '"');
        answer_add_text(out, text, bytes);
        buf_add_byte(out, '"');
        break;
    case TOP_LOGPROBS:
        if (log) add_top_map(answer, log, index, id, out);
        else buf_add_string(out, "null");
        break;
    }
}

/* {"text_offset":[],"token_logprobs":[],"tokens":[],"top_logprobs":[]} of the prompt (when
 * has_prompt) and the tokens first .. end. */
static void add_completion_logprobs(const struct answer *answer, const struct answer_choice *choice,
                                    bool has_prompt, uint32_t first, uint32_t end, uint64_t *chars,
                                    struct buf *out) {
    static const char *const names[] = {"{\"text_offset\":[", "],\"token_logprobs\":[",
                                        "],\"tokens\":[", "],\"top_logprobs\":["};
    const struct answer_prompt *prompt = choice->prompt;
    for (enum column column = TEXT_OFFSET; column <= TOP_LOGPROBS; column++) {
        buf_add_string(out, names[column]);
        bool is_first = true;
        for (uint32_t i = 0; has_prompt && i < prompt->count; i++, is_first = false) {
            if (!is_first) buf_add_byte(out, ',');
            add_cell(answer, column, i ? &prompt->log : NULL, i ? i - 1 : 0, prompt->ids[i], chars,
                     out);
        }
        for (uint32_t i = first; i < end; i++, is_first = false) {
            if (!is_first) buf_add_byte(out, ',');
            add_cell(answer, column, choice->log, i, choice->log->ids[i], chars, out);
        }
    }
    buf_add_string(out, "]}");
}

/* --- begin and end ----------------------------------------------------------------------- */

static enum err make_head(struct answer *answer, const char *id, int64_t created_s) {
    const struct request_spec *spec = answer->spec;
    bool is_chat = spec->kind == REQUEST_CHAT;
    struct buf head;
    buf_init(&head, 0);
    buf_add_string(&head, "{\"id\":\"");
    buf_add_json_escaped(&head, id, strlen(id));
    buf_add_format(&head, "\",\"object\":\"%s\",\"created\":%lld,\"model\":\"",
                   !is_chat          ? "text_completion"
                   : spec->is_stream ? "chat.completion.chunk"
                                     : "chat.completion",
                   (long long) created_s);
    const char *model = answer->options->served_names[spec->name_index];
    buf_add_json_escaped(&head, model, strlen(model));
    buf_add_string(&head, "\",");
    enum err e = buf_error(&head);
    if (!e) {
        answer->head = arena_copy(spec->arena, head.data, head.bytes);
        answer->head_bytes = head.bytes;
        if (!answer->head) e = ERR_MEMORY;
    }
    buf_release(&head);
    return e;
}

static enum err make_prefix(struct answer *answer, struct answer_choice *choice) {
    char open[80];
    int open_bytes =
        snprintf(open, sizeof open, "\"choices\":[{\"index\":%u,%s", choice->index,
                 answer->spec->kind == REQUEST_CHAT ? "\"delta\":{\"content\":\"" : "\"text\":\"");
    size_t bytes = 6 + answer->head_bytes + (size_t) open_bytes;
    char *prefix = arena_take(answer->spec->arena, bytes);
    if (!prefix) return ERR_MEMORY;
    memcpy(prefix, "data: ", 6);
    memcpy(prefix + 6, answer->head, answer->head_bytes);
    memcpy(prefix + 6 + answer->head_bytes, open, (size_t) open_bytes);
    choice->prefix = prefix;
    choice->prefix_bytes = bytes;
    return ERR_OK;
}

enum err answer_init(struct answer *answer, const struct request_spec *spec,
                     const struct api_options *options, struct answer_scratch *scratch,
                     const char *id, int64_t created_s) {
    uint32_t count = spec->prompt_count * spec->n;
    *answer = (struct answer){.spec = spec,
                              .options = options,
                              .tokenizer = options->tokenizer,
                              .scratch = scratch,
                              .choice_count = count};
    answer->prompts = arena_take_zero(spec->arena, spec->prompt_count, sizeof *answer->prompts);
    answer->choices = arena_take_zero(spec->arena, count, sizeof *answer->choices);
    answer->logs = arena_take_zero(spec->arena, count, sizeof *answer->logs);
    if (!answer->prompts || !answer->choices || !answer->logs) {
        answer->choice_count = 0;
        answer->prompts = NULL;
        return ERR_MEMORY;
    }
    for (uint32_t i = 0; i < spec->prompt_count; i++) {
        answer->prompts[i] = (struct answer_prompt){.ids = spec->prompts[i].ids.ids,
                                                    .count = spec->prompts[i].ids.count,
                                                    .text = spec->prompts[i].text,
                                                    .text_bytes = spec->prompts[i].bytes};
        token_log_init(&answer->prompts[i].log, true);
    }
    enum err e = make_head(answer, id, created_s);
    for (uint32_t i = 0; i < count; i++) {
        struct answer_choice *choice = &answer->choices[i];
        *choice = (struct answer_choice){.log = &answer->logs[i],
                                         .prompt = &answer->prompts[i / spec->n],
                                         .index = i,
                                         .stop_string = STOP_MATCH_NONE,
                                         .stop_token = -1};
        buf_init(&choice->text, 0);
        token_log_init(choice->log, spec->logprobs >= 0);
        token_decoder_init(&choice->decoder, answer->tokenizer, spec->skip_special_tokens);
        if (!e) e = stop_match_init(&choice->match, &spec->stops, spec->arena);
        if (!e && spec->is_stream) e = make_prefix(answer, choice);
    }
    return e;
}

void answer_release(struct answer *answer) {
    for (uint32_t i = 0; i < answer->choice_count; i++) {
        token_log_release(&answer->logs[i]);
        buf_release(&answer->choices[i].text);
    }
    answer->choice_count = 0;
    for (uint32_t i = 0; answer->prompts && i < answer->spec->prompt_count; i++)
        token_log_release(&answer->prompts[i].log);
    answer->prompts = NULL;
}

void answer_scratch_release(struct answer_scratch *scratch) {
    buf_release(&scratch->text);
    buf_release(&scratch->cut);
}

/* --- tokens to text and chunks ----------------------------------------------------------- */

/* Why the choice ended, if it has: by the rule that every client knows, and by which string or
 * token. */
static void add_reasons(const struct answer *answer, const struct answer_choice *choice,
                        struct buf *out) {
    const struct request_spec *spec = answer->spec;
    if (choice->finish_reason)
        buf_add_format(out, ",\"finish_reason\":\"%s\",\"stop_reason\":", choice->finish_reason);
    else buf_add_string(out, ",\"finish_reason\":null,\"stop_reason\":");
    if (choice->stop_string != STOP_MATCH_NONE) {
        const struct stop_string *string = &spec->stops.strings[choice->stop_string];
        buf_add_byte(out, '"');
        buf_add_json_escaped(out, (const char *) string->text, string->bytes);
        buf_add_byte(out, '"');
    } else if (choice->stop_token >= 0) {
        buf_add_format(out, "%lld", (long long) choice->stop_token);
    } else {
        buf_add_string(out, "null");
    }
}

/* Ends a chunk after its text: logprobs of tokens first .. end, reasons, usage. */
static void close_chunk(struct answer *answer, struct answer_choice *choice, bool has_prompt,
                        uint32_t first, uint32_t end, struct buf *out) {
    const struct request_spec *spec = answer->spec;
    bool is_chat = spec->kind == REQUEST_CHAT;
    answer->event_count++;
    if (spec->logprobs < 0 && !choice->finish_reason && !spec->continuous_usage) {
        static const char chat[] = "\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
        static const char plain[] =
            "\",\"logprobs\":null,\"finish_reason\":null,\"stop_reason\":null}]}\n\n";
        if (is_chat) buf_add(out, chat, sizeof chat - 1);
        else buf_add(out, plain, sizeof plain - 1);
        return;
    }
    buf_add_string(out, is_chat ? "\"},\"logprobs\":" : "\",\"logprobs\":");
    if (spec->logprobs < 0 || (first == end && !has_prompt)) buf_add_string(out, "null");
    else if (is_chat) add_chat_logprobs(answer, choice->log, first, end, out);
    else add_completion_logprobs(answer, choice, has_prompt, first, end, &choice->text_chars, out);
    add_reasons(answer, choice, out);
    buf_add_string(out, "}]");
    if (spec->continuous_usage) {
        buf_add_byte(out, ',');
        add_usage(out, choice->prompt->count, choice->done_count, choice->prompt->cached_tokens);
    }
    if (spec->wants_timings && !spec->include_usage && answer_is_ended(answer)) {
        buf_add_byte(out, ',');
        add_timings(answer, out);
    }
    buf_add_string(out, "}\n\n");
}

static void add_prompt_text(struct answer *answer, const struct answer_prompt *prompt,
                            struct buf *text) {
    if (prompt->text) {
        buf_add(text, prompt->text, prompt->text_bytes);
        return;
    }
    struct token_decoder decoder;
    token_decoder_init(&decoder, answer->tokenizer, answer->spec->skip_special_tokens);
    for (uint32_t i = 0; i < prompt->count; i++) token_decoder_add(&decoder, prompt->ids[i], text);
    token_decoder_finish(&decoder, text);
}

/* The role chunk, or the echoed prompt. */
static void begin(struct answer *answer, struct answer_choice *choice, struct buf *out) {
    const struct request_spec *spec = answer->spec;
    choice->is_begun = true;
    if (spec->kind == REQUEST_CHAT) {
        if (!spec->is_stream) return;
        buf_add(out, "data: ", 6);
        buf_add(out, answer->head, answer->head_bytes);
        buf_add_format(out,
                       "\"choices\":[{\"index\":%u,\"delta\":{\"role\":\"assistant\","
                       "\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}]",
                       choice->index);
        if (spec->continuous_usage) {
            buf_add_byte(out, ',');
            add_usage(out, choice->prompt->count, 0, choice->prompt->cached_tokens);
        }
        buf_add_string(out, "}\n\n");
        answer->event_count++;
        return;
    }
    if (!spec->echo) return;
    if (!spec->is_stream) {
        add_prompt_text(answer, choice->prompt, &choice->text);
        return;
    }
    struct buf *text = &answer->scratch->text;
    buf_clear(text);
    add_prompt_text(answer, choice->prompt, text);
    buf_add(out, choice->prefix, choice->prefix_bytes);
    answer_add_text(out, (const char *) text->data, text->bytes);
    if (buf_error(text)) out->failed = buf_error(text);
    close_chunk(answer, choice, spec->sampling.prompt_logprobs >= 0, 0, 0, out);
}

/* Whether everything that the first chunk shows is here. */
static bool may_begin(const struct answer *answer, const struct answer_choice *choice) {
    const struct request_spec *spec = answer->spec;
    if (choice->log->count == 0 && !choice->log->finish) return false;
    return spec->sampling.prompt_logprobs < 0 ||
           choice->prompt->log.count + 1 >= choice->prompt->count;
}

/* One chunk with `text`; or, not streaming, the text to the choice. */
static void give_text(struct answer *answer, struct answer_choice *choice, const struct buf *text,
                      uint32_t first, uint32_t end, struct buf *out) {
    if (!answer->spec->is_stream) {
        buf_add(&choice->text, text->data, text->bytes);
        if (text->failed) choice->text.failed = text->failed;
        return;
    }
    if (text->failed) out->failed = text->failed;
    buf_add(out, choice->prefix, choice->prefix_bytes);
    buf_add_json_escaped(out, (const char *) text->data, text->bytes);
    close_chunk(answer, choice, false, first, end, out);
}

/* The finish chunk; logprobs of a last token that gave no text go with it. */
static void end_choice(struct answer *answer, struct answer_choice *choice, const char *reason,
                       uint32_t first, uint32_t end, struct buf *out) {
    choice->finish_reason = reason;
    choice->is_ended = true;
    choice->log->is_closed = true;
    if (!answer->spec->is_stream) return;
    /* As an ordinary chunk: its text is empty, which every client takes. */
    buf_add(out, choice->prefix, choice->prefix_bytes);
    close_chunk(answer, choice, false, first, end, out);
}

/* The tail that decoder and stop strings held, when no more tokens come. */
static void flush(struct answer *answer, struct answer_choice *choice, struct buf *out) {
    struct buf *text = &answer->scratch->text, *cut = &answer->scratch->cut;
    buf_clear(text);
    buf_clear(cut);
    token_decoder_finish(&choice->decoder, text);
    bool is_hit = stop_match_feed(&choice->match, text->data, text->bytes,
                                  choice->done_count > answer->spec->sampling.min_tokens,
                                  answer->spec->include_stop_string, cut);
    if (is_hit) choice->stop_string = choice->match.hit;
    else stop_match_finish(&choice->match, cut);
    if (text->failed) cut->failed = text->failed;
    if (cut->bytes || cut->failed)
        give_text(answer, choice, cut, choice->done_count, choice->done_count, out);
}

static const char *reason_of(struct answer *answer, struct answer_choice *choice) {
    if (choice->stop_string != STOP_MATCH_NONE) return "stop";
    switch (choice->log->finish) {
    case MSG_FINISH_STOP: {
        /* The model's own end is no reason to name; the client's stop id is. */
        const struct api_options *options = answer->options;
        choice->stop_token = choice->log->stop_id;
        for (uint32_t i = 0; i < options->eos_count; i++)
            if (options->eos_ids[i] == choice->log->stop_id && !answer->spec->sampling.ignore_eos)
                choice->stop_token = -1;
        return "stop";
    }
    case MSG_FINISH_LENGTH: return "length";
    default: return "abort";
    }
}

/* The next token of the log. */
static void take_token(struct answer *answer, struct answer_choice *choice, struct buf *out) {
    const struct request_spec *spec = answer->spec;
    const struct token_log *log = choice->log;
    uint32_t index = choice->done_count++;
    bool is_last = log->finish && index + 1 == log->count;
    bool is_stop = is_last && log->finish == MSG_FINISH_STOP && log->ids[index] == log->stop_id;
    if (is_stop && !spec->include_stop_string) {
        flush(answer, choice, out);
        end_choice(answer, choice, reason_of(answer, choice), index, index + 1, out);
        return;
    }
    struct buf *text = &answer->scratch->text;
    buf_clear(text);
    token_decoder_add(&choice->decoder, log->ids[index], text);
    bool is_hit = false;
    if (spec->stops.count) {
        struct buf *cut = &answer->scratch->cut;
        buf_clear(cut);
        is_hit = stop_match_feed(&choice->match, text->data, text->bytes,
                                 choice->done_count > spec->sampling.min_tokens,
                                 spec->include_stop_string, cut);
        if (text->failed) cut->failed = text->failed;
        text = cut;
    }
    if (is_hit) {
        choice->stop_string = choice->match.hit;
        bool has_text = text->bytes || text->failed;
        if (has_text) give_text(answer, choice, text, index, index + 1, out);
        end_choice(answer, choice, "stop", has_text ? index + 1 : index, index + 1, out);
        return;
    }
    give_text(answer, choice, text, index, index + 1, out);
    if (!is_last) return;
    flush(answer, choice, out);
    end_choice(answer, choice, reason_of(answer, choice), index + 1, index + 1, out);
}

bool answer_advance(struct answer *answer, struct answer_choice *choice, size_t bytes_max,
                    struct buf *out) {
    if (choice->is_ended) return true;
    if (!choice->is_begun) {
        if (!may_begin(answer, choice)) return true;
        begin(answer, choice, out);
    }
    while (!choice->is_ended && choice->done_count < choice->log->count) {
        if (answer->spec->is_stream && out->bytes >= bytes_max) return false;
        take_token(answer, choice, out);
    }
    if (!choice->is_ended && choice->log->finish) { /* an end without a token */
        flush(answer, choice, out);
        end_choice(answer, choice, reason_of(answer, choice), choice->done_count,
                   choice->done_count, out);
    }
    return true;
}

/* Unread tokens are scanned from the cursor each time; every LOOK_AHEAD_TOKENS keeps that cheap. */
#define LOOK_AHEAD_TOKENS 64u

void answer_look_ahead(const struct answer *answer, struct answer_choice *choice) {
    const struct request_spec *spec = answer->spec;
    if (!spec->stops.count || choice->is_ended || choice->log->is_closed) return;
    if (choice->log->count - choice->scanned_count < LOOK_AHEAD_TOKENS) return;
    choice->scanned_count = choice->log->count;
    uint32_t states[STOP_MATCH_STRINGS_MAX];
    struct token_decoder decoder = choice->decoder;
    struct stop_match match = choice->match;
    match.states = states;
    memcpy(states, choice->match.states, spec->stops.count * sizeof *states);
    bool is_hit = false;
    for (uint32_t i = choice->done_count; i < choice->log->count && !is_hit; i++) {
        struct buf *text = &answer->scratch->text, *cut = &answer->scratch->cut;
        buf_clear(text);
        buf_clear(cut);
        token_decoder_add(&decoder, choice->log->ids[i], text);
        if (buf_error(text)) return;
        is_hit = stop_match_feed(&match, text->data, text->bytes, i + 1 > spec->sampling.min_tokens,
                                 spec->include_stop_string, cut);
    }
    if (is_hit) choice->log->is_closed = true;
}

/* --- totals and bodies ------------------------------------------------------------------- */

bool answer_is_ended(const struct answer *answer) {
    for (uint32_t i = 0; i < answer->choice_count; i++)
        if (!answer->choices[i].is_ended) return false;
    return true;
}

uint32_t answer_completion_tokens(const struct answer *answer) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < answer->choice_count; i++) count += answer->choices[i].done_count;
    return count;
}

uint32_t answer_prompt_tokens(const struct answer *answer) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < answer->spec->prompt_count; i++) count += answer->prompts[i].count;
    return count;
}

uint32_t answer_cached_tokens(const struct answer *answer) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < answer->spec->prompt_count; i++)
        count += answer->prompts[i].cached_tokens;
    return count;
}

void answer_stream_end(struct answer *answer, struct buf *out) {
    const struct request_spec *spec = answer->spec;
    if (spec->include_usage) {
        buf_add(out, "data: ", 6);
        buf_add(out, answer->head, answer->head_bytes);
        buf_add_string(out, "\"choices\":[],");
        add_usage(out, answer_prompt_tokens(answer), answer_completion_tokens(answer),
                  answer_cached_tokens(answer));
        if (spec->wants_timings) {
            buf_add_byte(out, ',');
            add_timings(answer, out);
        }
        buf_add_string(out, "}\n\n");
        answer->event_count++;
    }
    buf_add_string(out, "data: [DONE]\n\n");
    answer->event_count++;
}

void answer_stream_error(const struct api_error *error, struct buf *out) {
    buf_add(out, "data: ", 6);
    api_error_render(error, out);
    buf_add_string(out, "\n\ndata: [DONE]\n\n");
}

static void add_choice(const struct answer *answer, const struct answer_choice *choice,
                       struct buf *out) {
    const struct request_spec *spec = answer->spec;
    bool is_chat = spec->kind == REQUEST_CHAT;
    buf_add_format(out, "{\"index\":%u,%s", choice->index,
                   is_chat ? "\"message\":{\"role\":\"assistant\",\"content\":\"" : "\"text\":\"");
    if (choice->text.failed) out->failed = choice->text.failed;
    answer_add_text(out, (const char *) choice->text.data, choice->text.bytes);
    buf_add_string(out, is_chat ? "\"},\"logprobs\":" : "\",\"logprobs\":");
    uint64_t chars = 0;
    if (spec->logprobs < 0) buf_add_string(out, "null");
    else if (is_chat) add_chat_logprobs(answer, choice->log, 0, choice->done_count, out);
    else
        add_completion_logprobs(answer, choice, spec->sampling.prompt_logprobs >= 0, 0,
                                choice->done_count, &chars, out);
    add_reasons(answer, choice, out);
    buf_add_byte(out, '}');
}

void answer_body(const struct answer *answer, struct buf *out) {
    buf_add(out, answer->head, answer->head_bytes);
    buf_add_string(out, "\"choices\":[");
    for (uint32_t i = 0; i < answer->choice_count; i++) {
        if (i) buf_add_byte(out, ',');
        add_choice(answer, &answer->choices[i], out);
    }
    buf_add_string(out, "],");
    add_usage(out, answer_prompt_tokens(answer), answer_completion_tokens(answer),
              answer_cached_tokens(answer));
    if (answer->spec->wants_timings) {
        buf_add_byte(out, ',');
        add_timings(answer, out);
    }
    buf_add_byte(out, '}');
}
