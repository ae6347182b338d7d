/* engine_request - see engine_request.h. */
#include "engine/engine_request.h"

#include <string.h>

#include "base/alloc.h"
#include "base/num.h"

/* --- checks ----------------------------------------------------------------------------------- */

static enum err check_ids(const char *what, const uint32_t *ids, uint32_t count,
                          uint32_t vocab_size, struct err_text *text) {
    for (uint32_t i = 0; i < count; i++)
        if (ids[i] >= vocab_size)
            return err_set(text, ERR_USAGE, "%s: token id %u is not in the vocabulary of %u", what,
                           ids[i], vocab_size);
    return ERR_OK;
}

static enum err check_choices(const struct engine_options *options,
                              const struct engine_request *from, struct err_text *text) {
    if (from->choice_count < 1 || from->choice_count > SAMPLING_CHOICES_MAX)
        return err_set(text, ERR_USAGE, "n must be between 1 and %d, not %u", SAMPLING_CHOICES_MAX,
                       from->choice_count);
    for (uint32_t i = 0; i < from->choice_count; i++) {
        const struct engine_choice *choice = &from->choices[i];
        if (choice->output_count > options->model_len_max - from->prompt_count)
            return err_set(text, ERR_NO_ROOM,
                           "the prompt's %u tokens and the %u generated ones of choice %u pass "
                           "max-model-len %u",
                           from->prompt_count, choice->output_count, choice->index,
                           options->model_len_max);
        enum err e = check_ids("generated ids", choice->output_ids, choice->output_count,
                               options->vocab_size, text);
        if (e) return e;
        for (uint32_t k = 0; k < i; k++)
            if (from->choices[k].index == choice->index)
                return err_set(text, ERR_USAGE, "choice %u stands there twice", choice->index);
    }
    return ERR_OK;
}

static enum err check_request(const struct engine_options *options,
                              const struct engine_request *from, struct err_text *text) {
    if (from->prompt_count == 0) return err_set(text, ERR_USAGE, "the prompt is empty");
    enum err e = sampling_check(from->sampling, options->vocab_size, text);
    if (!e)
        e = check_ids("prompt", from->prompt_ids, from->prompt_count, options->vocab_size, text);
    if (e) return e;
    uint32_t one = from->sampling->max_tokens > 0;
    if ((uint64_t) from->prompt_count + one > options->model_len_max)
        return err_set(text, ERR_NO_ROOM,
                       "the prompt has %u tokens, max-model-len is %u: nothing can be generated",
                       from->prompt_count, options->model_len_max);
    if (!options->is_chunked_prefill && from->prompt_count > options->batched_tokens_max)
        return err_set(text, ERR_NO_ROOM,
                       "the prompt has %u tokens, without chunked prefill at most "
                       "max-num-batched-tokens %u fit a step",
                       from->prompt_count, options->batched_tokens_max);
    return check_choices(options, from, text);
}

/* --- one block of memory, dealt out --------------------------------------------------------- */

/* Run twice: first only to count, then with base set to hand the pieces out. */
struct deal {
    uint8_t *base;
    uint64_t bytes;
    bool has_overflown;
};

static void *deal_piece(struct deal *deal, uint64_t count, uint64_t size) {
    uint64_t at = num_round_up(deal->bytes, 16), bytes;
    if (!num_mul(count, size, &bytes) || !num_add(at, bytes, &deal->bytes) ||
        deal->bytes > UINT64_MAX / 2) {
        deal->has_overflown = true;
        return NULL;
    }
    return deal->base ? deal->base + at : NULL;
}

static void *deal_copy(struct deal *deal, const void *from, uint64_t count, uint64_t size) {
    void *to = deal_piece(deal, count, size);
    if (to && count) memcpy(to, from, count * size);
    return to;
}

static bool is_among(const uint32_t *ids, uint32_t count, uint32_t id) {
    for (uint32_t i = 0; i < count; i++)
        if (ids[i] == id) return true;
    return false;
}

/* The request's stop ids, then the model's that are not among them. */
static uint32_t join_stop_ids(const struct engine_options *options, const struct sampling *s,
                              uint32_t out[SAMPLING_STOP_IDS_MAX]) {
    uint32_t count = s->stop_id_count;
    if (count) memcpy(out, s->stop_ids, count * sizeof *out);
    for (uint32_t i = 0; !s->ignore_eos && i < options->eos_count; i++)
        if (!is_among(out, count, options->eos_ids[i]) && count < SAMPLING_STOP_IDS_MAX)
            out[count++] = options->eos_ids[i];
    return count;
}

static void deal_sampling(struct deal *deal, const struct engine_options *options,
                          const struct sampling *from, struct sampling *to) {
    uint32_t stop_ids[SAMPLING_STOP_IDS_MAX];
    uint32_t stop_id_count = join_stop_ids(options, from, stop_ids);
    uint64_t bad_id_count = 0;
    for (uint32_t i = 0; i < from->bad_word_count; i++) bad_id_count += from->bad_word_lengths[i];
    struct sampling s = *from;
    s.stop_ids = deal_copy(deal, stop_ids, stop_id_count, sizeof *stop_ids);
    s.stop_id_count = stop_id_count;
    s.logit_bias =
        deal_copy(deal, from->logit_bias, from->logit_bias_count, sizeof *from->logit_bias);
    s.allowed_ids =
        deal_copy(deal, from->allowed_ids, from->allowed_id_count, sizeof *from->allowed_ids);
    s.bad_word_ids = deal_copy(deal, from->bad_word_ids, bad_id_count, sizeof *from->bad_word_ids);
    s.bad_word_lengths = deal_copy(deal, from->bad_word_lengths, from->bad_word_count,
                                   sizeof *from->bad_word_lengths);
    if (to) *to = s;
}

static void deal_sequence(struct deal *deal, const struct engine_options *options,
                          const struct engine_request *from, uint32_t at, uint32_t positions_max,
                          struct sequence *sequence) {
    const struct engine_choice *choice = &from->choices[at];
    uint64_t room = num_max(positions_max, (uint64_t) from->prompt_count + choice->output_count);
    uint32_t block_room = (uint32_t) num_div_up(room, options->block_size);
    uint32_t *tokens = deal_piece(deal, room + 1, sizeof *tokens);
    uint32_t *blocks = deal_piece(deal, block_room, sizeof *blocks);
    if (!sequence) return;
    memcpy(tokens, from->prompt_ids, from->prompt_count * sizeof *tokens);
    if (choice->output_count)
        memcpy(tokens + from->prompt_count, choice->output_ids,
               choice->output_count * sizeof *tokens);
    sequence->token_count = from->prompt_count + choice->output_count;
    tokens[sequence->token_count] = BACKEND_NO_TOKEN;
    sequence->tokens = tokens;
    sequence->choice_index = choice->index;
    kv_table_init(&sequence->table, blocks, block_room);
}

static void deal_request(struct deal *deal, const struct engine_options *options,
                         const struct engine_request *from, uint32_t positions_max) {
    struct request *request = deal_piece(deal, 1, sizeof *request);
    struct sequence *choices = deal_piece(deal, from->choice_count, sizeof *choices);
    if (request) {
        *request = (struct request){.choices = choices};
        memset(choices, 0, from->choice_count * sizeof *choices);
    }
    deal_sampling(deal, options, from->sampling, request ? &request->sampling : NULL);
    for (uint32_t i = 0; i < from->choice_count; i++) {
        if (choices) choices[i].request = request;
        deal_sequence(deal, options, from, i, positions_max, choices ? &choices[i] : NULL);
    }
}

/* min_tokens let it be drawn, and it stops. */
static bool has_stopped(const struct request *request, const struct sequence *sequence) {
    const struct sampling *s = &request->sampling;
    uint32_t output_count = sequence_output_count(sequence);
    return output_count > s->min_tokens &&
           is_among(s->stop_ids, s->stop_id_count, sequence->tokens[sequence->token_count - 1]);
}

static enum err create(const struct engine_options *options, const struct engine_request *from,
                       struct err_text *text, struct request **out) {
    enum err e = check_request(options, from, text);
    if (e) return e;
    uint32_t output_max =
        (uint32_t) num_min(from->sampling->max_tokens, options->model_len_max - from->prompt_count);
    uint32_t positions_max = from->prompt_count + output_max;
    uint64_t block_max = num_div_up(positions_max, options->block_size);
    if (block_max > options->block_count)
        return err_set(
            text, ERR_NO_ROOM, "prompt and max_tokens come to %u tokens, the KV cache holds %llu",
            positions_max, (unsigned long long) options->block_count * options->block_size);
    struct deal deal = {0};
    deal_request(&deal, options, from, positions_max);
    uint64_t bytes = deal.bytes;
    uint8_t *base = deal.has_overflown ? NULL : alloc_bytes(bytes);
    if (!base)
        return err_set(text, ERR_MEMORY, "no memory for a request of %u tokens", positions_max);
    deal = (struct deal){.base = base};
    deal_request(&deal, options, from, positions_max);
    CHECK(deal.bytes == bytes);
    struct request *request = (struct request *) (void *) base;
    request->id = from->id;
    request->kind = from->kind;
    request->prompt_count = from->prompt_count;
    request->output_max = output_max;
    request->positions_max = positions_max;
    request->goes_first = from->goes_first;
    request->deadline_us = from->deadline_us;
    request->prompt_told = from->sampling->prompt_logprobs >= 0 ? 1 : from->prompt_count;
    request->live_count = request->choice_count = from->choice_count;
    for (uint32_t i = 0; i < request->choice_count; i++)
        request->choices[i].came_stopped = has_stopped(request, &request->choices[i]);
    *out = request;
    return ERR_OK;
}

/* The sequence of a PREFILL is the prompt without its last token, and nothing may be drawn. */
static enum err create_prefill(const struct engine_options *options,
                               const struct engine_request *from, struct err_text *text,
                               struct request **out) {
    struct engine_request without_last = *from;
    struct engine_choice choice = {0};
    struct sampling sampling;
    if (from->prompt_count < 2)
        return err_set(text, ERR_USAGE, "a prompt of one token has nothing to prefill");
    sampling_init(&sampling);
    sampling.max_tokens = 0;
    without_last.prompt_count--;
    without_last.choices = &choice;
    without_last.choice_count = 1;
    without_last.sampling = &sampling;
    return create(options, &without_last, text, out);
}

/* Room for all blocks of the sequence, taken now: no step allocates. */
static enum err add_quarantine(struct request *request, struct err_text *text) {
    uint32_t room = request->choices[0].table.block_room;
    struct quarantine *quarantine =
        alloc_bytes(sizeof *quarantine + (size_t) room * sizeof quarantine->blocks[0]);
    if (!quarantine) return err_set(text, ERR_MEMORY, "no memory for a request");
    *quarantine = (struct quarantine){.request_id = request->id};
    request->quarantine = quarantine;
    return ERR_OK;
}

enum err engine_request_create(const struct engine_options *options,
                               const struct engine_request *from, struct err_text *text,
                               struct request **out) {
    CHECK(from->id != 0);
    if (from->kind == ENGINE_PREFILL) return create_prefill(options, from, text, out);
    struct request *request;
    enum err e = create(options, from, text, &request);
    if (e) return e;
    if (from->kind == ENGINE_REMOTE) e = add_quarantine(request, text);
    if (e) engine_request_destroy(request);
    else *out = request;
    return e;
}

void engine_request_destroy(struct request *request) {
    alloc_free(request->quarantine);
    alloc_free(request);
}
