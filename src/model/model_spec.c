/* model_spec - see model_spec.h.
 *
 * Rope follows transformers' modeling_rope_utils (default, linear, llama3, yarn), each step rounded
 * to f32 as torch rounds it; the power is taken in double and rounded once. */
#include "model/model_spec.h"

#include <math.h>

#define DIMENSION_MAX (1u << 24) /* no published model has a side of 16 million */
#define LAYERS_MAX 4096
#define HEAD_DIM_MAX 1024
#define PI 3.14159265358979323846

static uint32_t common_divisor(uint32_t a, uint32_t b) {
    while (b) {
        uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

uint32_t model_spec_segments(uint32_t head_count, uint32_t kv_head_count) {
    uint32_t segments = common_divisor(head_count, 8);
    return segments > 1 ? segments : kv_head_count;
}

static enum err check_range(const char *name, uint32_t value, uint32_t max, struct err_text *text) {
    if (value >= 1 && value <= max) return ERR_OK;
    return err_set(text, ERR_FORMAT, "%s is %u: expected 1 to %u", name, value, max);
}

static enum err check_rope(const struct model_spec *spec, struct err_text *text) {
    if (!(spec->rope.theta > 1.0f) || !isfinite(spec->rope.theta))
        return err_set(text, ERR_FORMAT, "rope theta is %g: expected a number above 1",
                       (double) spec->rope.theta);
    if (spec->rope.type == ROPE_DEFAULT) return ERR_OK;
    if (!(spec->rope.factor >= 1.0f) || !isfinite(spec->rope.factor))
        return err_set(text, ERR_FORMAT, "rope scaling factor is %g: expected 1 or more",
                       (double) spec->rope.factor);
    if (spec->rope.type == ROPE_LINEAR) return ERR_OK;
    if (!spec->rope.original_context_tokens)
        return err_set(text, ERR_FORMAT,
                       "rope scaling has no original context length: expected 1 or more tokens");
    if (spec->rope.type == ROPE_LLAMA3 &&
        (!(spec->rope.low_freq_factor > 0) || !isfinite(spec->rope.high_freq_factor) ||
         !(spec->rope.high_freq_factor > spec->rope.low_freq_factor)))
        return err_set(text, ERR_FORMAT,
                       "rope low_freq_factor is %g and high_freq_factor %g: expected 0 < low < "
                       "high",
                       (double) spec->rope.low_freq_factor, (double) spec->rope.high_freq_factor);
    if (spec->rope.type == ROPE_YARN &&
        (!(spec->rope.beta_fast > 0) || !(spec->rope.beta_slow > 0) ||
         !isfinite(spec->rope.beta_fast) || !isfinite(spec->rope.beta_slow) ||
         !(spec->rope.attention_factor > 0) || !isfinite(spec->rope.attention_factor)))
        return err_set(text, ERR_FORMAT,
                       "yarn beta_fast is %g, beta_slow %g, attention_factor %g: expected numbers "
                       "above 0",
                       (double) spec->rope.beta_fast, (double) spec->rope.beta_slow,
                       (double) spec->rope.attention_factor);
    return ERR_OK;
}

enum err model_spec_check(const struct model_spec *spec, struct err_text *text) {
    const struct {
        const char *name;
        uint32_t value, max;
    } sizes[] = {
        {"layer count", spec->layer_count, LAYERS_MAX},
        {"hidden size", spec->hidden_size, DIMENSION_MAX},
        {"ffn (intermediate) size", spec->ffn_size, DIMENSION_MAX},
        {"attention head count", spec->head_count, DIMENSION_MAX},
        {"kv head count", spec->kv_head_count, DIMENSION_MAX},
        {"head dimension", spec->head_dim, HEAD_DIM_MAX},
        {"vocabulary size", spec->vocab_size, DIMENSION_MAX},
        {"context length", spec->context_tokens, 1u << 30},
    };
    for (uint32_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        enum err e = check_range(sizes[i].name, sizes[i].value, sizes[i].max, text);
        if (e) return e;
    }
    if (spec->head_dim % 2)
        return err_set(text, ERR_FORMAT, "head dimension is %u: expected an even number",
                       spec->head_dim);
    if (spec->head_count % spec->kv_head_count)
        return err_set(text, ERR_FORMAT,
                       "attention head count is %u: expected a multiple of the kv head count %u",
                       spec->head_count, spec->kv_head_count);
    if ((uint64_t) spec->head_count * spec->head_dim > DIMENSION_MAX)
        return err_set(text, ERR_FORMAT, "%u heads of %u: expected at most %u in all",
                       spec->head_count, spec->head_dim, DIMENSION_MAX);
    if (!(spec->norm_epsilon > 0) || spec->norm_epsilon > 1)
        return err_set(text, ERR_FORMAT, "norm epsilon is %g: expected a number in (0, 1]",
                       (double) spec->norm_epsilon);
    if (spec->eos_count > MODEL_EOS_MAX)
        return err_set(text, ERR_FORMAT, "%u end tokens: expected at most %u", spec->eos_count,
                       MODEL_EOS_MAX);
    return check_rope(spec, text);
}

static void rope_llama3(const struct model_spec *spec, float *inv_freq) {
    double original = spec->rope.original_context_tokens;
    double low_wavelen = original / (double) spec->rope.low_freq_factor;
    double high_wavelen = original / (double) spec->rope.high_freq_factor;
    float factor = spec->rope.factor;
    float span = spec->rope.high_freq_factor - spec->rope.low_freq_factor;
    for (uint32_t i = 0; i < spec->head_dim / 2; i++) {
        float freq = inv_freq[i];
        float wavelen = 1.0f / freq * (float) (2 * PI); /* torch divides a number by a tensor so */
        if (wavelen > (float) low_wavelen) {
            inv_freq[i] = freq / factor;
        } else if (!(wavelen < (float) high_wavelen)) {
            float turns = 1.0f / wavelen * (float) original;
            float smooth = (turns - spec->rope.low_freq_factor) / span;
            inv_freq[i] = (1.0f - smooth) * freq / factor + smooth * freq;
        }
    }
}

/* The dimension at which a wave turns `rotations` times over the original context (YaRN, arXiv
 * 2309.00071, section 3.2). */
static double yarn_dimension(const struct model_spec *spec, double rotations) {
    return spec->head_dim * log(spec->rope.original_context_tokens / (rotations * 2 * PI)) /
           (2 * log((double) spec->rope.theta));
}

static void rope_yarn(const struct model_spec *spec, float *inv_freq) {
    double low = floor(yarn_dimension(spec, (double) spec->rope.beta_fast));
    double high = ceil(yarn_dimension(spec, (double) spec->rope.beta_slow));
    if (low < 0) low = 0;
    if (high > spec->head_dim - 1) high = spec->head_dim - 1;
    if (low == high) high += 0.001;
    for (uint32_t i = 0; i < spec->head_dim / 2; i++) {
        float pos_freq = (float) pow((double) spec->rope.theta,
                                     (double) ((float) (2 * i) / (float) spec->head_dim));
        float extrapolated = 1.0f / pos_freq;
        float interpolated = 1.0f / (spec->rope.factor * pos_freq);
        float ramp = ((float) i - (float) low) / (float) (high - low);
        ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
        float keep = 1.0f - ramp;
        inv_freq[i] = interpolated * (1.0f - keep) + extrapolated * keep;
    }
}

void model_spec_rope(const struct model_spec *spec, float *inv_freq, float *scale) {
    for (uint32_t i = 0; i < spec->head_dim / 2; i++) {
        float exponent = (float) (2 * i) / (float) spec->head_dim;
        inv_freq[i] = 1.0f / (float) pow((double) spec->rope.theta, (double) exponent);
    }
    *scale = 1.0f;
    switch (spec->rope.type) {
    case ROPE_DEFAULT: break;
    case ROPE_LINEAR:
        for (uint32_t i = 0; i < spec->head_dim / 2; i++) inv_freq[i] /= spec->rope.factor;
        break;
    case ROPE_LLAMA3: rope_llama3(spec, inv_freq); break;
    case ROPE_YARN:
        rope_yarn(spec, inv_freq);
        *scale = spec->rope.attention_factor;
        break;
    }
}
