/* model_dummy - see model_dummy.h.
 *
 * A row's key is XXH3-64 of (seed, role, layer, row); its bits are splitmix64 of key + counter
 * (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014), eight bytes at a
 * time and without a chain, so the compiler may make them side by side.  Weights are uniform:
 * quants are random bits and the block's scale sets the deviation. */
#include "model/model_dummy.h"

#include <math.h>
#include <string.h>
#include <xxhash.h>

#include "model/model_index.h"

#define LOGIT_DEVIATION 3.0f /* chosen: probabilities neither flat nor all on one token */

struct stream {
    uint64_t key;
    uint64_t counter;
};

static uint64_t stream_next(struct stream *stream) {
    uint64_t x = stream->key + ++stream->counter * 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static void stream_fill(struct stream *stream, uint8_t *out, size_t bytes) {
    while (bytes >= 8) {
        uint64_t bits = stream_next(stream);
        memcpy(out, &bits, 8);
        out += 8;
        bytes -= 8;
    }
    if (bytes) {
        uint64_t bits = stream_next(stream);
        memcpy(out, &bits, bytes);
    }
}

static uint32_t bits_from_f32(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Round to nearest even; scale factors are normal and far from the ends of the range. */
static uint16_t f16_from_f32(float value) {
    uint32_t bits = bits_from_f32(value);
    uint16_t sign = (uint16_t) (bits >> 16 & 0x8000u);
    float size = fabsf(value);
    if (size < 0x1p-14f) return (uint16_t) (sign | (uint16_t) lrintf(size * 0x1p24f));
    uint32_t rounded = (bits & 0x7fffffffu) + 0xfffu + (bits >> 13 & 1u);
    if (rounded >= 0x47800000u) return (uint16_t) (sign | 0x7bffu); /* above 65504: the largest */
    return (uint16_t) (sign | (uint16_t) ((rounded - 0x38000000u) >> 13));
}

static void store_f16(uint8_t *at, float value) {
    uint16_t half = f16_from_f32(value);
    at[0] = (uint8_t) half;
    at[1] = (uint8_t) (half >> 8);
}

/* Uniform numbers of mean `centre` and half-width `reach`, 16 random bits each. */
static void row_plain(struct stream *stream, enum tensor_type type, uint32_t columns, float centre,
                      float reach, uint8_t *out) {
    uint64_t bits = 0;
    for (uint32_t i = 0; i < columns; i++) {
        if (i % 4 == 0) bits = stream_next(stream);
        int32_t drawn = (int16_t) (uint16_t) (bits >> i % 4 * 16);
        float value = centre + (float) drawn * (reach * 0x1p-15f);
        uint32_t pattern = bits_from_f32(value);
        if (type == TENSOR_F32) memcpy(out + (size_t) i * 4, &pattern, 4);
        else if (type == TENSOR_F16) store_f16(out + (size_t) i * 2, value);
        else {
            pattern = (pattern + 0x7fffu + (pattern >> 16 & 1u)) >> 16;
            out[(size_t) i * 2] = (uint8_t) pattern;
            out[(size_t) i * 2 + 1] = (uint8_t) (pattern >> 8);
        }
    }
}

/* One block of 32.  The deviation of n equally likely steps of d is d * sqrt((n * n - 1) / 12). */
static void block_small(struct stream *stream, enum tensor_type type, float deviation,
                        uint8_t *out) {
    size_t bytes = (size_t) tensor_type_bytes(type, 32);
    stream_fill(stream, out, bytes);
    float step;
    switch (type) {
    case TENSOR_Q8_0:
        for (size_t i = 2; i < bytes; i++)
            if (out[i] == 0x80) out[i] = 0x81; /* quantizers never write -128 */
        store_f16(out, deviation / 73.9f);
        break;
    case TENSOR_Q4_0: store_f16(out, deviation / 4.61f); break;
    case TENSOR_Q5_0: store_f16(out, deviation / 9.23f); break;
    case TENSOR_Q4_1:
        step = deviation / 4.61f;
        store_f16(out, step);
        store_f16(out + 2, -7.5f * step);
        break;
    default: /* TENSOR_Q5_1 */
        step = deviation / 9.23f;
        store_f16(out, step);
        store_f16(out + 2, -15.5f * step);
        break;
    }
}

/* One block of 256: the sub-blocks' scales are random too, and each min is its scale, so that
 * every sub-block stays centred. */
static void block_large(struct stream *stream, enum tensor_type type, float deviation,
                        uint8_t *out) {
    stream_fill(stream, out, (size_t) tensor_type_bytes(type, 256));
    if (type == TENSOR_Q6_K) {
        for (int i = 0; i < 16; i++) out[192 + i] = (uint8_t) (48 + (out[192 + i] & 31)); /* ~64 */
        store_f16(out + 208, deviation / (18.5f * 64));
        return;
    }
    float steps = type == TENSOR_Q4_K ? 4.61f : 9.23f, middle = type == TENSOR_Q4_K ? 7.5f : 15.5f;
    float step = deviation / (steps * 24); /* scales of 16 to 31 */
    store_f16(out, step);
    store_f16(out + 2, step * middle);
    uint8_t scales[8];
    memcpy(scales, out + 4, sizeof scales);
    for (int i = 0; i < 8; i++) scales[i] = (uint8_t) (16 + (scales[i] & 15));
    for (int i = 0; i < 4; i++) {
        out[4 + i] = (uint8_t) (scales[i] | scales[i + 4] >> 4 << 6);
        out[8 + i] = (uint8_t) (scales[i] | scales[i + 4] >> 4 << 6);
        out[12 + i] = (uint8_t) ((scales[i + 4] & 15) | (scales[i + 4] & 15) << 4);
    }
}

/* What a freshly initialised network has: 1 / sqrt(K), and less on the two matrices that write
 * to the residual, so that its size does not grow with depth. */
static float deviation_of(const struct model_spec *spec, enum tensor_role role, uint32_t columns) {
    float base = 1.0f / sqrtf((float) columns);
    if (role == ROLE_O || role == ROLE_DOWN) return base / sqrtf(2.0f * (float) spec->layer_count);
    if (role == ROLE_HEAD) return base * LOGIT_DEVIATION;
    if (role == ROLE_EMBEDDING) return spec->is_tied ? base * LOGIT_DEVIATION : 1.0f;
    return base;
}

void model_dummy_row(const struct model_spec *spec, uint64_t seed, enum tensor_role role,
                     uint32_t layer, uint32_t row, const struct model_tensor *tensor, void *out) {
    if (!role_has_layers(role)) layer = 0;
    uint32_t name[3] = {(uint32_t) role, layer, row};
    struct stream stream = {XXH3_64bits_withSeed(name, sizeof name, seed), 0};
    if (model_index_is_vector(role)) {
        bool is_norm = role == ROLE_FINAL_NORM || role == ROLE_ATTN_NORM || role == ROLE_FFN_NORM ||
                       role == ROLE_Q_NORM || role == ROLE_K_NORM;
        row_plain(&stream, tensor->type, tensor->columns, is_norm ? 1.0f : 0.0f,
                  is_norm ? 0.1f : 0.05f, out);
        return;
    }
    float deviation = deviation_of(spec, role, tensor->columns);
    uint32_t block = tensor_type_block(tensor->type);
    if (block == 1) {
        /* A uniform number's deviation is its reach / sqrt(3). */
        row_plain(&stream, tensor->type, tensor->columns, 0, deviation * 1.7320508f, out);
        return;
    }
    size_t block_bytes = (size_t) tensor_type_bytes(tensor->type, block);
    for (uint32_t i = 0; i < tensor->columns / block; i++) {
        uint8_t *at = (uint8_t *) out + i * block_bytes;
        if (block == 32) block_small(&stream, tensor->type, deviation, at);
        else block_large(&stream, tensor->type, deviation, at);
    }
}

enum err model_dummy_places(struct model *model, enum tensor_type type, struct err_text *text) {
    for (uint32_t layer = 0; layer < model->spec.layer_count; layer++)
        for (int at = 0; at < ROLE_COUNT; at++) {
            enum tensor_role role = (enum tensor_role) at;
            uint32_t rows, columns;
            if ((layer && !role_has_layers(role)) ||
                !model_index_shape(&model->spec, role, &rows, &columns))
                continue;
            enum tensor_type stored = model_index_is_vector(role) ? TENSOR_F32 : type;
            if (columns % tensor_type_block(stored))
                return err_set(text, ERR_UNSUPPORTED,
                               "dummy weights of %s: rows of %u weights are no multiple of %u; use "
                               "%s",
                               tensor_type_name(stored), columns, tensor_type_block(stored),
                               columns % 32 ? "bf16" : "q8_0");
            model->places[(size_t) layer * ROLE_COUNT + (uint32_t) at].tensor =
                (struct model_tensor){stored, rows, columns, tensor_type_bytes(stored, columns)};
        }
    return ERR_OK;
}
