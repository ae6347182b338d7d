/* sampling - see sampling.h. */
#include "config/sampling.h"

#include <math.h>

void sampling_init(struct sampling *sampling) {
    *sampling = (struct sampling){
        .temperature = 0.0f,
        .top_p = 1.0f,
        .repetition_penalty = 1.0f,
        .max_tokens = 16,
        .logprobs = -1,
        .prompt_logprobs = -1,
    };
}

/* NaN is in no range, so each test is written as "not inside". */
static bool is_inside(float value, float low, float high) { return value >= low && value <= high; }

static enum err check_ranges(const struct sampling *s, struct err_text *text) {
    if (!is_inside(s->temperature, 0.0f, 2.0f))
        return err_set(text, ERR_USAGE, "temperature must be between 0 and 2, not %g",
                       (double) s->temperature);
    if (!(s->top_p > 0.0f && s->top_p <= 1.0f))
        return err_set(text, ERR_USAGE, "top_p must be above 0 and at most 1, not %g",
                       (double) s->top_p);
    if (!is_inside(s->min_p, 0.0f, 1.0f))
        return err_set(text, ERR_USAGE, "min_p must be between 0 and 1, not %g", (double) s->min_p);
    if (s->top_k < -1)
        return err_set(text, ERR_USAGE, "top_k must be -1, 0 or at least 1, not %d", s->top_k);
    if (!is_inside(s->presence_penalty, -2.0f, 2.0f))
        return err_set(text, ERR_USAGE, "presence_penalty must be between -2 and 2, not %g",
                       (double) s->presence_penalty);
    if (!is_inside(s->frequency_penalty, -2.0f, 2.0f))
        return err_set(text, ERR_USAGE, "frequency_penalty must be between -2 and 2, not %g",
                       (double) s->frequency_penalty);
    if (!(s->repetition_penalty > 0.0f) || !isfinite(s->repetition_penalty))
        return err_set(text, ERR_USAGE, "repetition_penalty must be above 0, not %g",
                       (double) s->repetition_penalty);
    if (s->logprobs < -1 || s->logprobs > SAMPLING_TOP_LOGPROBS_MAX)
        return err_set(text, ERR_USAGE, "top_logprobs must be between 0 and %d, not %d",
                       SAMPLING_TOP_LOGPROBS_MAX, s->logprobs);
    if (s->prompt_logprobs < -1 || s->prompt_logprobs > SAMPLING_TOP_LOGPROBS_MAX)
        return err_set(text, ERR_USAGE, "prompt_logprobs must be between 0 and %d, not %d",
                       SAMPLING_TOP_LOGPROBS_MAX, s->prompt_logprobs);
    if (s->min_tokens > s->max_tokens)
        return err_set(text, ERR_USAGE, "min_tokens (%u) must not pass max_tokens (%u)",
                       s->min_tokens, s->max_tokens);
    return ERR_OK;
}

static enum err check_ids(const char *field, const uint32_t *ids, uint32_t count,
                          uint32_t vocab_size, struct err_text *text) {
    for (uint32_t i = 0; i < count; i++)
        if (ids[i] >= vocab_size)
            return err_set(text, ERR_USAGE, "%s: token id %u is not in the vocabulary of %u", field,
                           ids[i], vocab_size);
    return ERR_OK;
}

static enum err check_bad_words(const struct sampling *s, uint32_t vocab_size,
                                struct err_text *text) {
    if (s->bad_word_count > SAMPLING_BAD_WORDS_MAX)
        return err_set(text, ERR_USAGE, "bad_words holds %u words, at most %d are allowed",
                       s->bad_word_count, SAMPLING_BAD_WORDS_MAX);
    uint64_t total = 0;
    for (uint32_t i = 0; i < s->bad_word_count; i++) {
        if (s->bad_word_lengths[i] == 0)
            return err_set(text, ERR_USAGE, "bad_words: word %u is empty", i);
        total += s->bad_word_lengths[i];
    }
    if (total > SAMPLING_BAD_WORD_IDS_MAX)
        return err_set(text, ERR_USAGE, "bad_words come to %llu tokens, at most %d are allowed",
                       (unsigned long long) total, SAMPLING_BAD_WORD_IDS_MAX);
    return check_ids("bad_words", s->bad_word_ids, (uint32_t) total, vocab_size, text);
}

enum err sampling_check(const struct sampling *sampling, uint32_t vocab_size,
                        struct err_text *text) {
    enum err e = check_ranges(sampling, text);
    if (e) return e;
    if (sampling->stop_id_count > SAMPLING_STOP_IDS_MAX)
        return err_set(text, ERR_USAGE, "stop_token_ids holds %u ids, at most %d are allowed",
                       sampling->stop_id_count, SAMPLING_STOP_IDS_MAX);
    e = check_ids("stop_token_ids", sampling->stop_ids, sampling->stop_id_count, vocab_size, text);
    if (e) return e;
    if (sampling->logit_bias_count > SAMPLING_LOGIT_BIAS_MAX)
        return err_set(text, ERR_USAGE, "logit_bias holds %u ids, at most %d are allowed",
                       sampling->logit_bias_count, SAMPLING_LOGIT_BIAS_MAX);
    for (uint32_t i = 0; i < sampling->logit_bias_count; i++) {
        const struct sampling_bias *bias = &sampling->logit_bias[i];
        e = check_ids("logit_bias", &bias->token_id, 1, vocab_size, text);
        if (e) return e;
        if (!is_inside(bias->bias, -100.0f, 100.0f))
            return err_set(text, ERR_USAGE, "logit_bias of %u must be between -100 and 100, not %g",
                           bias->token_id, (double) bias->bias);
    }
    if (sampling->allowed_id_count > vocab_size)
        return err_set(text, ERR_USAGE, "allowed_token_ids holds %u ids, the vocabulary only %u",
                       sampling->allowed_id_count, vocab_size);
    e = check_ids("allowed_token_ids", sampling->allowed_ids, sampling->allowed_id_count,
                  vocab_size, text);
    if (e) return e;
    return check_bad_words(sampling, vocab_size, text);
}
