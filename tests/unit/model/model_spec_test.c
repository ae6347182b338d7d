/* model_spec: segments, bounds, and rope at values worked out elsewhere (double arithmetic of the
 * papers' formulas); tests/golden compares with numpy step by step. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "model/model_catalog.h"
#include "model/model_spec.h"

static void segments(void **state) {
    assert_int_equal(model_spec_segments(32, 8), 8);
    assert_int_equal(model_spec_segments(40, 8), 8);
    assert_int_equal(model_spec_segments(28, 4), 4);
    assert_int_equal(model_spec_segments(14, 2), 2);
    assert_int_equal(model_spec_segments(9, 3), 3);
    assert_int_equal(model_spec_segments(15, 5), 5);
}

static struct model_spec sound(void) {
    struct model_spec spec;
    assert_true(model_catalog_find("llama-3.1-8b", &spec));
    return spec;
}

static void bounds(void **state) {
    struct err_text text = {""};
    struct model_spec spec = sound();
    assert_int_equal(model_spec_check(&spec, &text), ERR_OK);
#define BAD(change, sentence)                                                                      \
    spec = sound();                                                                                \
    change;                                                                                        \
    assert_int_equal(model_spec_check(&spec, &text), ERR_FORMAT);                                  \
    assert_string_equal(text.text, sentence);
    BAD(spec.vocab_size = 0, "vocabulary size is 0: expected 1 to 16777216")
    BAD(spec.hidden_size = UINT32_MAX, "hidden size is 4294967295: expected 1 to 16777216")
    BAD(spec.head_dim = 63, "head dimension is 63: expected an even number")
    BAD(spec.kv_head_count = 5,
        "attention head count is 32: expected a multiple of the kv head count 5")
    BAD((spec.head_count = 1u << 20, spec.kv_head_count = 1, spec.head_dim = 1024),
        "1048576 heads of 1024: expected at most 16777216 in all")
    BAD(spec.norm_epsilon = NAN, "norm epsilon is nan: expected a number in (0, 1]")
    BAD(spec.rope.theta = 0, "rope theta is 0: expected a number above 1")
    BAD(spec.rope.factor = 0.5f, "rope scaling factor is 0.5: expected 1 or more")
    BAD(spec.rope.original_context_tokens = 0,
        "rope scaling has no original context length: expected 1 or more tokens")
}

static void close_to(float found, double wanted) {
    if (!(fabs((double) found - wanted) <= 4e-7 * fabs(wanted)))
        fail_msg("found %.9g, wanted %.9g", (double) found, wanted);
}

static void ropes(void **state) {
    float freq[512], scale;
    struct model_spec spec = sound(); /* llama3, factor 8, original 8192, head_dim 128 */
    model_spec_rope(&spec, freq, &scale);
    assert_true(scale == 1.0f && freq[0] == 1.0f);
    for (int i = 0; i < 64; i++) {
        double plain = pow(500000, -2.0 * i / 128), turns = 8192 * plain / 6.283185307179586;
        double smooth = fmin(fmax((turns - 1) / 3, 0), 1);
        double wanted = (1 - smooth) * plain / 8 + smooth * plain;
        if (fabs((double) freq[i] - wanted) > 2e-6 * wanted) /* the edge is an f32 comparison */
            fail_msg("llama3 %d: found %.9g, wanted %.9g", i, (double) freq[i], wanted);
    }
    spec.rope.type = ROPE_DEFAULT;
    model_spec_rope(&spec, freq, &scale);
    for (int i = 0; i < 64; i++) close_to(freq[i], pow(500000, -2.0 * i / 128));
    spec.rope.type = ROPE_LINEAR;
    spec.rope.factor = 4;
    model_spec_rope(&spec, freq, &scale);
    for (int i = 0; i < 64; i++) close_to(freq[i], pow(500000, -2.0 * i / 128) / 4);
    spec.rope.type = ROPE_YARN;
    spec.rope.beta_fast = 32;
    spec.rope.beta_slow = 1;
    spec.rope.attention_factor = 1.25f;
    model_spec_rope(&spec, freq, &scale);
    assert_true(scale == 1.25f);
    assert_true(freq[0] == 1.0f); /* fast dimensions stay, slow ones are divided */
    close_to(freq[63], pow(500000, -126.0 / 128) / 4);
    for (int i = 1; i < 64; i++) assert_true(freq[i] < freq[i - 1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(segments),
        cmocka_unit_test(bounds),
        cmocka_unit_test(ropes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
