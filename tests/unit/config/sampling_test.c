/* Goal: each field is refused just outside its range, by the name the API gives it, and taken at
 * its edges. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "config/sampling.h"

#define VOCAB 1000u

static void refused(const struct sampling *sampling, const char *field) {
    struct err_text text = {""};
    assert_int_equal(sampling_check(sampling, VOCAB, &text), ERR_USAGE);
    if (!strstr(text.text, field)) fail_msg("'%s' does not name %s", text.text, field);
}

static void taken(const struct sampling *sampling) {
    struct err_text text = {""};
    if (sampling_check(sampling, VOCAB, &text)) fail_msg("refused: %s", text.text);
}

#define FLOATS(field, low, high, below, above)                                                     \
    do {                                                                                           \
        struct sampling s;                                                                         \
        sampling_init(&s);                                                                         \
        s.field = (low);                                                                           \
        taken(&s);                                                                                 \
        s.field = (high);                                                                          \
        taken(&s);                                                                                 \
        s.field = (below);                                                                         \
        refused(&s, #field);                                                                       \
        s.field = (above);                                                                         \
        refused(&s, #field);                                                                       \
        s.field = NAN;                                                                             \
        refused(&s, #field);                                                                       \
    } while (0)

static void test_ranges(void **state) {
    FLOATS(temperature, 0.0f, 2.0f, -0.01f, 2.01f);
    FLOATS(top_p, 0.001f, 1.0f, 0.0f, 1.01f);
    FLOATS(min_p, 0.0f, 1.0f, -0.01f, 1.01f);
    FLOATS(presence_penalty, -2.0f, 2.0f, -2.01f, 2.01f);
    FLOATS(frequency_penalty, -2.0f, 2.0f, -2.01f, 2.01f);
    FLOATS(repetition_penalty, 0.01f, 100.0f, 0.0f, INFINITY);
}

static void test_counts_and_ids(void **state) {
    struct sampling s;
    uint32_t ids[2] = {0, VOCAB - 1}, bad[1] = {VOCAB}, length = 1, none = 0;
    sampling_init(&s);
    taken(&s);
    s.top_k = -2;
    refused(&s, "top_k");
    sampling_init(&s);
    s.logprobs = 21;
    refused(&s, "logprobs");
    s.logprobs = 20;
    taken(&s);
    s.prompt_logprobs = 21;
    refused(&s, "prompt_logprobs");
    sampling_init(&s);
    s.min_tokens = 17;
    refused(&s, "min_tokens");
    sampling_init(&s);
    s.stop_ids = ids;
    s.stop_id_count = 2;
    s.allowed_ids = ids;
    s.allowed_id_count = 2;
    taken(&s);
    s.stop_ids = bad;
    s.stop_id_count = 1;
    refused(&s, "stop_token_ids");
    sampling_init(&s);
    s.allowed_ids = bad;
    s.allowed_id_count = 1;
    refused(&s, "allowed_token_ids");
    sampling_init(&s);
    struct sampling_bias bias = {5, 100.0f};
    s.logit_bias = &bias;
    s.logit_bias_count = 1;
    taken(&s);
    bias.bias = 100.5f;
    refused(&s, "logit_bias");
    bias = (struct sampling_bias){VOCAB, 0};
    refused(&s, "logit_bias");
    s.logit_bias_count = SAMPLING_LOGIT_BIAS_MAX + 1;
    refused(&s, "logit_bias");
    sampling_init(&s);
    s.bad_word_ids = ids;
    s.bad_word_lengths = &length;
    s.bad_word_count = 1;
    taken(&s);
    s.bad_word_lengths = &none;
    refused(&s, "bad_words");
    s.bad_word_lengths = &length;
    s.bad_word_ids = bad;
    refused(&s, "bad_words");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_counts_and_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
