/* cpu_half - f16, bf16 and e4m3 in plain integer arithmetic: to f32 exactly, from f32 to the
 * nearest, ties to even, as the hardware's conversions do it. */
#ifndef GRAMME_BACKEND_CPU_CPU_HALF_H
#define GRAMME_BACKEND_CPU_CPU_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t half_bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
static inline float half_float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline float half_from_f16(uint16_t half) {
    uint32_t sign = (uint32_t) (half & 0x8000u) << 16, rest = half & 0x7fffu;
    if (rest >= 0x7c00u) /* infinite, or NaN made quiet */
        return half_float_of(sign | 0x7f800000u | rest << 13 | (rest > 0x7c00u ? 0x400000u : 0u));
    if (rest >= 0x0400u) return half_float_of(sign | ((rest << 13) + 0x38000000u));
    float small = (float) rest * 0x1p-24f;
    return half_float_of(sign | half_bits_of(small));
}

static inline uint16_t half_to_f16(float x) {
    uint32_t bits = half_bits_of(x), sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
    if (rest > 0x7f800000u) return (uint16_t) (sign | 0x7e00u | (rest >> 13 & 0x3ffu));
    if (rest >= 0x477ff000u) return (uint16_t) (sign | 0x7c00u); /* 65520 and up round to it */
    if (rest >= 0x38800000u)
        return (uint16_t) (sign | ((rest - 0x38000000u + 0xfffu + (rest >> 13 & 1u)) >> 13));
    /* Subnormal: adding 1/2 puts the unit 2^-24 at the end of the f32, which rounds to even. */
    float lifted = half_float_of(rest) + 0.5f;
    return (uint16_t) (sign | (half_bits_of(lifted) - 0x3f000000u));
}

static inline float half_from_bf16(uint16_t half) { return half_float_of((uint32_t) half << 16); }

static inline uint16_t half_to_bf16(float x) {
    uint32_t bits = half_bits_of(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t) (bits >> 16 | 0x40u);
    return (uint16_t) ((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/* e4m3 (the "fn" form of the OCP 8-bit specification: no infinities, largest 448). */
static inline float half_from_e4m3(uint8_t byte) {
    uint32_t sign = (uint32_t) (byte & 0x80u) << 24, rest = byte & 0x7fu;
    if (rest == 0x7fu) return half_float_of(sign | 0x7fc00000u);
    if (rest >= 8u) return half_float_of(sign | ((rest << 20) + 0x3c000000u));
    return half_float_of(sign | half_bits_of((float) rest * 0x1p-9f));
}

/* |x| <= 448, not NaN; larger values saturate. */
static inline uint8_t half_to_e4m3(float x) {
    uint32_t bits = half_bits_of(x), sign = bits >> 24 & 0x80u, rest = bits & 0x7fffffffu;
    if (rest >= 0x43e00000u) return (uint8_t) (sign | 0x7eu);
    if (rest >= 0x3c800000u) /* 2^-6, the smallest normal */
        return (uint8_t) (sign | ((rest - 0x3c000000u + 0x7ffffu + (rest >> 20 & 1u)) >> 20));
    float lifted = half_float_of(rest) + 0x1p14f; /* unit 2^-9 at the end of the f32 */
    return (uint8_t) (sign | (half_bits_of(lifted) - 0x46800000u));
}

#endif
