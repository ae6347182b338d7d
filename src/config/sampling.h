/* sampling - how the tokens of one request are drawn: the request's numbers, in one struct.
 *
 * Made by the API from JSON (ranges: behaviour.md 5), carried by GENERATE, applied by the
 * backend (numerics.md 5) but for stop strings (the frontend) and stop ids, max_tokens (the
 * engine).  The arrays are borrowed from whoever made the struct. */
#ifndef GRAMME_CONFIG_SAMPLING_H
#define GRAMME_CONFIG_SAMPLING_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define SAMPLING_TOP_LOGPROBS_MAX 20 /* behaviour.md 5 */
#define SAMPLING_CHOICES_MAX 128
#define SAMPLING_STOP_IDS_MAX 256 /* of one request, the model's own included */
#define SAMPLING_LOGIT_BIAS_MAX 1024
#define SAMPLING_BAD_WORDS_MAX 256 /* and at most 4,096 ids in all of them */
#define SAMPLING_BAD_WORD_IDS_MAX 4096

struct sampling_bias {
    uint32_t token_id;
    float bias;
};

struct sampling {
    float temperature;        /* 0: greedy */
    float top_p;              /* (0, 1]; 1: off */
    float min_p;              /* [0, 1]; 0: off */
    int32_t top_k;            /* <= 0: off */
    float presence_penalty;   /* 0: off; over generated ids */
    float frequency_penalty;  /* 0: off; over generated ids */
    float repetition_penalty; /* 1: off; over prompt and generated ids */
    uint64_t seed;            /* always set: the frontend draws an absent one */
    uint32_t max_tokens;      /* >= 1, except 0 with echo (prompt logprobs only) */
    uint32_t min_tokens;      /* before that many, stop ids cannot be drawn */
    bool ignore_eos;          /* the model's own stop ids do not stop */
    int32_t logprobs;         /* -1: none; 0..20: of the drawn token and that many best */
    int32_t prompt_logprobs;  /* likewise for the prompt's tokens */
    bool skip_prefix_cache;   /* read no cached prefix */

    const uint32_t *stop_ids; /* the request's own, then (unless ignore_eos) the model's */
    uint32_t stop_id_count;
    const struct sampling_bias *logit_bias;
    uint32_t logit_bias_count;
    const uint32_t *allowed_ids; /* when allowed_id_count > 0 only these can be drawn */
    uint32_t allowed_id_count;
    const uint32_t *bad_word_ids;     /* the ids of all bad words, end to end */
    const uint32_t *bad_word_lengths; /* in ids, one a bad word */
    uint32_t bad_word_count;
};

/* Greedy, 16 tokens, nothing else on. */
void sampling_init(struct sampling *sampling);
/* ERR_USAGE naming the field (as the API spells it) that is out of its range, or an id that is
 * not in the vocabulary. */
MUST_USE enum err sampling_check(const struct sampling *sampling, uint32_t vocab_size,
                                 struct err_text *text);

#endif
