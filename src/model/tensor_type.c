/* tensor_type - see tensor_type.h.
 *
 * The layouts are ggml's (the public GGUF format): a block is 32 weights, or 256 for the K formats,
 * with its scales beside the quants.  All multi-byte fields are little endian.  The order of the
 * multiplications below is part of the definition: (d * scale) * q - (dmin * min). */
#include "model/tensor_type.h"

#include <ctype.h>
#include <stddef.h>
#include <string.h>

#include "base/num.h"

struct format {
    const char *name;
    uint32_t block;       /* weights */
    uint32_t block_bytes; /* of one block */
};

static const struct format formats[TENSOR_TYPE_COUNT] = {
    [TENSOR_F32] = {"f32", 1, 4},       [TENSOR_F16] = {"f16", 1, 2},
    [TENSOR_BF16] = {"bf16", 1, 2},     [TENSOR_Q8_0] = {"q8_0", 32, 34},
    [TENSOR_Q4_0] = {"q4_0", 32, 18},   [TENSOR_Q4_1] = {"q4_1", 32, 20},
    [TENSOR_Q5_0] = {"q5_0", 32, 22},   [TENSOR_Q5_1] = {"q5_1", 32, 24},
    [TENSOR_Q4_K] = {"q4_k", 256, 144}, [TENSOR_Q5_K] = {"q5_k", 256, 176},
    [TENSOR_Q6_K] = {"q6_k", 256, 210},
};

uint64_t tensor_type_bytes(enum tensor_type type, uint64_t count) {
    CHECK((unsigned) type < TENSOR_TYPE_COUNT);
    CHECK(count % formats[type].block == 0);
    uint64_t bytes;
    CHECK(num_mul(count / formats[type].block, formats[type].block_bytes, &bytes));
    return bytes;
}

uint32_t tensor_type_block(enum tensor_type type) {
    CHECK((unsigned) type < TENSOR_TYPE_COUNT);
    return formats[type].block;
}

const char *tensor_type_name(enum tensor_type type) {
    CHECK((unsigned) type < TENSOR_TYPE_COUNT);
    return formats[type].name;
}

bool tensor_type_parse(const char *name, enum tensor_type *out) {
    for (int type = 0; type < TENSOR_TYPE_COUNT; type++) {
        const char *known = formats[type].name;
        size_t at = 0;
        while (known[at] && tolower((unsigned char) name[at]) == known[at]) at++;
        if (known[at] || name[at]) continue;
        *out = (enum tensor_type) type;
        return true;
    }
    return false;
}

bool tensor_type_is_quantized(enum tensor_type type) { return tensor_type_block(type) > 1; }

static float f32_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint16_t load_u16(const uint8_t *at) { return (uint16_t) (at[0] | at[1] << 8); }

static uint32_t load_u32(const uint8_t *at) {
    return (uint32_t) load_u16(at) | (uint32_t) load_u16(at + 2) << 16;
}

/* Exact, subnormals, infinities and NaN payloads included. */
static float f32_from_f16(uint16_t half) {
    uint32_t sign = (uint32_t) (half & 0x8000u) << 16;
    uint32_t exponent = (half >> 10) & 0x1fu;
    uint32_t mantissa = half & 0x3ffu;
    if (exponent == 0x1f) return f32_from_bits(sign | 0x7f800000u | mantissa << 13);
    if (exponent) return f32_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
    float tiny = (float) mantissa * 0x1p-24f;
    return sign ? -tiny : tiny;
}

static float load_f16(const uint8_t *at) { return f32_from_f16(load_u16(at)); }

/* --- blocks of 32 ------------------------------------------------------------------------- */

static void block_q8_0(const uint8_t *block, float *out) {
    float d = load_f16(block);
    const int8_t *quants = (const int8_t *) (block + 2);
    for (int i = 0; i < 32; i++) out[i] = d * (float) quants[i];
}

static void block_q4_0(const uint8_t *block, float *out) {
    float d = load_f16(block);
    const uint8_t *quants = block + 2;
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float) ((quants[i] & 15) - 8);
        out[i + 16] = d * (float) ((quants[i] >> 4) - 8);
    }
}

static void block_q4_1(const uint8_t *block, float *out) {
    float d = load_f16(block), min = load_f16(block + 2);
    const uint8_t *quants = block + 4;
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float) (quants[i] & 15) + min;
        out[i + 16] = d * (float) (quants[i] >> 4) + min;
    }
}

static void block_q5_0(const uint8_t *block, float *out) {
    float d = load_f16(block);
    uint32_t high = load_u32(block + 2);
    const uint8_t *quants = block + 6;
    for (int i = 0; i < 16; i++) {
        int low_half = (int) ((quants[i] & 15u) | (high >> i & 1u) << 4);
        int high_half = (int) ((quants[i] >> 4) | (high >> (i + 16) & 1u) << 4);
        out[i] = d * (float) (low_half - 16);
        out[i + 16] = d * (float) (high_half - 16);
    }
}

static void block_q5_1(const uint8_t *block, float *out) {
    float d = load_f16(block), min = load_f16(block + 2);
    uint32_t high = load_u32(block + 4);
    const uint8_t *quants = block + 8;
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float) ((quants[i] & 15u) | (high >> i & 1u) << 4) + min;
        out[i + 16] = d * (float) ((quants[i] >> 4) | (high >> (i + 16) & 1u) << 4) + min;
    }
}

/* --- blocks of 256 ------------------------------------------------------------------------ */

/* Eight 6-bit scales and eight 6-bit mins in 12 bytes. */
static void unpack_scale_min(const uint8_t *packed, uint32_t index, float *scale, float *min) {
    uint32_t s, m;
    if (index < 4) {
        s = packed[index] & 63u;
        m = packed[index + 4] & 63u;
    } else {
        s = (packed[index + 4] & 15u) | (packed[index - 4] >> 6 << 4);
        m = (packed[index + 4] >> 4) | (packed[index] >> 6 << 4);
    }
    *scale = (float) s;
    *min = (float) m;
}

static void block_q4_k(const uint8_t *block, float *out) {
    float d = load_f16(block), dmin = load_f16(block + 2);
    for (uint32_t sub = 0; sub < 8; sub++) {
        float scale, min;
        unpack_scale_min(block + 4, sub, &scale, &min);
        float step = d * scale, offset = dmin * min;
        const uint8_t *quants = block + 16 + sub / 2 * 32;
        uint32_t shift = sub % 2 * 4;
        for (int i = 0; i < 32; i++)
            out[sub * 32 + (uint32_t) i] = step * (float) (quants[i] >> shift & 15) - offset;
    }
}

static void block_q5_k(const uint8_t *block, float *out) {
    float d = load_f16(block), dmin = load_f16(block + 2);
    const uint8_t *high = block + 16;
    for (uint32_t sub = 0; sub < 8; sub++) {
        float scale, min;
        unpack_scale_min(block + 4, sub, &scale, &min);
        float step = d * scale, offset = dmin * min;
        const uint8_t *quants = block + 48 + sub / 2 * 32;
        uint32_t shift = sub % 2 * 4;
        for (int i = 0; i < 32; i++) {
            int quant = (quants[i] >> shift & 15) | (high[i] >> sub & 1) << 4;
            out[sub * 32 + (uint32_t) i] = step * (float) quant - offset;
        }
    }
}

static void block_q6_k(const uint8_t *block, float *out) {
    const uint8_t *low = block, *high = block + 128;
    const int8_t *scales = (const int8_t *) (block + 192);
    float d = load_f16(block + 208);
    for (uint32_t at = 0; at < 256; at++) {
        uint32_t half = at / 128, in_half = at % 128, quarter = in_half / 32, i = in_half % 32;
        int nibble = low[half * 64 + quarter % 2 * 32 + i] >> (quarter / 2 * 4) & 15;
        int top = high[half * 32 + i] >> (quarter * 2) & 3;
        float step = d * (float) scales[at / 16];
        out[at] = step * (float) ((nibble | top << 4) - 32);
    }
}

void tensor_type_row_to_f32(enum tensor_type type, const void *row, uint32_t columns, float *out) {
    CHECK((unsigned) type < TENSOR_TYPE_COUNT);
    CHECK(columns % formats[type].block == 0);
    static void (*const blocks[TENSOR_TYPE_COUNT])(const uint8_t *, float *) = {
        [TENSOR_Q8_0] = block_q8_0, [TENSOR_Q4_0] = block_q4_0, [TENSOR_Q4_1] = block_q4_1,
        [TENSOR_Q5_0] = block_q5_0, [TENSOR_Q5_1] = block_q5_1, [TENSOR_Q4_K] = block_q4_k,
        [TENSOR_Q5_K] = block_q5_k, [TENSOR_Q6_K] = block_q6_k,
    };
    const uint8_t *at = row;
    if (type == TENSOR_F32) {
        memcpy(out, row, (size_t) columns * sizeof *out);
    } else if (type == TENSOR_F16) {
        for (uint32_t i = 0; i < columns; i++) out[i] = load_f16(at + 2 * (size_t) i);
    } else if (type == TENSOR_BF16) {
        for (uint32_t i = 0; i < columns; i++)
            out[i] = f32_from_bits((uint32_t) load_u16(at + 2 * (size_t) i) << 16);
    } else {
        uint32_t block = formats[type].block;
        for (uint32_t i = 0; i < columns; i += block, at += formats[type].block_bytes)
            blocks[type](at, out + i);
    }
}
