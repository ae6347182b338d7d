/* cpu_vec - sixteen f32 lanes in three forms: the vocabulary of the row kernels.
 *
 * A kernel file is compiled once for each body (CPU_VEC 512, 256 or 0) and is written once, in
 * these words.  Every function here is exactly rounded lane by lane, or a fixed sequence of such
 * steps, so the three objects give the same bits (numerics.md 2).  Everything is static: nothing
 * compiled for a wide target can be picked up by another object.
 *
 * exp, log and silu are our own: the polynomials are minimax fits (Remez exchange, computed for
 * this file); errors are below 2 units in the last place over the stated ranges. */
#ifndef GRAMME_BACKEND_CPU_CPU_VEC_H
#define GRAMME_BACKEND_CPU_CPU_VEC_H

#include <stdint.h>
#include <string.h>

#include "backend/cpu/cpu_half.h"
#include "base/check.h"

#ifndef CPU_VEC
#define CPU_VEC 0
#endif
#if CPU_VEC
#include <immintrin.h>
#endif

#define VEC_INLINE static inline __attribute__((always_inline, unused))
/* A function with constants in its arguments, one instance for each set of them.  The scalar body
 * is content with one instance, and so are builds with sanitizers, where dozens of unrolled and
 * instrumented ones would take a minute to compile. */
#define VEC_IS_SMALL (CHECK_IS_SANITIZED || CPU_VEC == 0)
#if VEC_IS_SMALL
#define VEC_UNROLL
#define VEC_KERNEL static __attribute__((noinline))
#elif defined(__clang__)
#define VEC_UNROLL _Pragma("unroll")
#define VEC_KERNEL VEC_INLINE
#else
#define VEC_UNROLL _Pragma("GCC unroll 16")
#define VEC_KERNEL VEC_INLINE
#endif

/* --- the primitives, by target ------------------------------------------------------------ */

#if CPU_VEC == 512

struct v16 {
    __m512 f;
};
struct m16 {
    __mmask16 bits;
};
VEC_INLINE struct v16 v16_make(__m512 f) { return (struct v16){f}; }
VEC_INLINE struct v16 v16_zero(void) { return v16_make(_mm512_setzero_ps()); }
VEC_INLINE struct v16 v16_set1(float x) { return v16_make(_mm512_set1_ps(x)); }
VEC_INLINE struct v16 v16_load(const float *x) { return v16_make(_mm512_loadu_ps(x)); }
VEC_INLINE void v16_store(float *x, struct v16 a) { _mm512_storeu_ps(x, a.f); }
VEC_INLINE struct v16 v16_add(struct v16 a, struct v16 b) {
    return v16_make(_mm512_add_ps(a.f, b.f));
}
VEC_INLINE struct v16 v16_sub(struct v16 a, struct v16 b) {
    return v16_make(_mm512_sub_ps(a.f, b.f));
}
VEC_INLINE struct v16 v16_mul(struct v16 a, struct v16 b) {
    return v16_make(_mm512_mul_ps(a.f, b.f));
}
VEC_INLINE struct v16 v16_div(struct v16 a, struct v16 b) {
    return v16_make(_mm512_div_ps(a.f, b.f));
}
VEC_INLINE struct v16 v16_fma(struct v16 a, struct v16 b, struct v16 c) {
    return v16_make(_mm512_fmadd_ps(a.f, b.f, c.f));
}
VEC_INLINE struct v16 v16_max(struct v16 a, struct v16 b) {
    return v16_make(_mm512_max_ps(a.f, b.f));
}
VEC_INLINE struct v16 v16_min(struct v16 a, struct v16 b) {
    return v16_make(_mm512_min_ps(a.f, b.f));
}
VEC_INLINE struct v16 v16_abs(struct v16 a) { return v16_make(_mm512_abs_ps(a.f)); }
VEC_INLINE struct m16 v16_lt(struct v16 a, struct v16 b) {
    return (struct m16){_mm512_cmp_ps_mask(a.f, b.f, _CMP_LT_OQ)};
}
VEC_INLINE struct m16 v16_ge(struct v16 a, struct v16 b) {
    return (struct m16){_mm512_cmp_ps_mask(a.f, b.f, _CMP_GE_OQ)};
}
/* Bit l set: lane l. */
VEC_INLINE uint32_t m16_bits(struct m16 m) { return m.bits; }
VEC_INLINE struct m16 m16_make(uint32_t bits) { return (struct m16){(__mmask16) bits}; }
/* m ? a : b */
VEC_INLINE struct v16 v16_select(struct m16 m, struct v16 a, struct v16 b) {
    return v16_make(_mm512_mask_blend_ps(m.bits, b.f, a.f));
}
/* a x 2^n where `magic` holds n in its low bits (see v16_exp). */
VEC_INLINE struct v16 v16_scale2(struct v16 a, struct v16 magic) {
    return v16_make(_mm512_castsi512_ps(_mm512_add_epi32(
        _mm512_castps_si512(a.f), _mm512_slli_epi32(_mm512_castps_si512(magic.f), 23))));
}
/* x = *f x 2^result, *f in [sqrt(1/2), sqrt(2)); x positive and normal. */
VEC_INLINE struct v16 v16_split(struct v16 x, struct v16 *f) {
    __m512i bits = _mm512_castps_si512(x.f);
    __m512i e = _mm512_srai_epi32(_mm512_sub_epi32(bits, _mm512_set1_epi32(0x3f3504f3)), 23);
    f->f = _mm512_castsi512_ps(_mm512_sub_epi32(bits, _mm512_slli_epi32(e, 23)));
    return v16_make(_mm512_cvtepi32_ps(e));
}
/* The fixed lane tree: l with l + 8, then + 4, + 2, + 1. */
VEC_INLINE float v16_sum(struct v16 a) {
    __m256 x = _mm256_add_ps(_mm512_castps512_ps256(a.f),
                             _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a.f), 1)));
    __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_add_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
}
VEC_INLINE float v16_top(struct v16 a) {
    __m256 x = _mm256_max_ps(_mm512_castps512_ps256(a.f),
                             _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a.f), 1)));
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}
VEC_INLINE struct v16 v16_join(__m256 low, __m256 high) {
    return v16_make(_mm512_castpd_ps(_mm512_insertf64x4(
        _mm512_castpd256_pd512(_mm256_castps_pd(low)), _mm256_castps_pd(high), 1)));
}
/* Eight lanes from each of two places. */
VEC_INLINE struct v16 v16_load2_f32(const void *low, const void *high) {
    return v16_join(_mm256_loadu_ps(low), _mm256_loadu_ps(high));
}
VEC_INLINE struct v16 v16_load2_f16(const void *low, const void *high) {
    return v16_make(_mm512_cvtph_ps(_mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128(low)), _mm_loadu_si128(high), 1)));
}
VEC_INLINE void v16_store_f16(uint16_t *x, struct v16 a) {
    _mm256_storeu_si256((__m256i *) (void *) x, _mm512_cvtps_ph(a.f, _MM_FROUND_TO_NEAREST_INT));
}
/* Towards zero; |a| below 2^31. */
VEC_INLINE void v16_store_int(int32_t *x, struct v16 a) {
    _mm512_storeu_si512(x, _mm512_cvttps_epi32(a.f));
}
VEC_INLINE struct v16 v16_load2_bf16(const void *low, const void *high) {
    __m256i half = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(low)),
                                           _mm_loadu_si128(high), 1);
    return v16_make(_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16)));
}

#elif CPU_VEC == 256

struct v16 {
    __m256 a, b;
};
struct m16 {
    __m256 a, b;
};
VEC_INLINE struct v16 v16_make(__m256 a, __m256 b) { return (struct v16){a, b}; }
VEC_INLINE struct v16 v16_zero(void) { return v16_make(_mm256_setzero_ps(), _mm256_setzero_ps()); }
VEC_INLINE struct v16 v16_set1(float x) { return v16_make(_mm256_set1_ps(x), _mm256_set1_ps(x)); }
VEC_INLINE struct v16 v16_load(const float *x) {
    return v16_make(_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8));
}
VEC_INLINE void v16_store(float *x, struct v16 v) {
    _mm256_storeu_ps(x, v.a);
    _mm256_storeu_ps(x + 8, v.b);
}
VEC_INLINE struct v16 v16_add(struct v16 x, struct v16 y) {
    return v16_make(_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b));
}
VEC_INLINE struct v16 v16_sub(struct v16 x, struct v16 y) {
    return v16_make(_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b));
}
VEC_INLINE struct v16 v16_mul(struct v16 x, struct v16 y) {
    return v16_make(_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b));
}
VEC_INLINE struct v16 v16_div(struct v16 x, struct v16 y) {
    return v16_make(_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b));
}
VEC_INLINE struct v16 v16_fma(struct v16 x, struct v16 y, struct v16 z) {
    return v16_make(_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b));
}
VEC_INLINE struct v16 v16_max(struct v16 x, struct v16 y) {
    return v16_make(_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b));
}
VEC_INLINE struct v16 v16_min(struct v16 x, struct v16 y) {
    return v16_make(_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b));
}
VEC_INLINE struct v16 v16_abs(struct v16 x) {
    __m256 sign = _mm256_set1_ps(-0.0f);
    return v16_make(_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b));
}
VEC_INLINE struct m16 v16_lt(struct v16 x, struct v16 y) {
    return (struct m16){_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ)};
}
VEC_INLINE struct m16 v16_ge(struct v16 x, struct v16 y) {
    return (struct m16){_mm256_cmp_ps(x.a, y.a, _CMP_GE_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_GE_OQ)};
}
VEC_INLINE uint32_t m16_bits(struct m16 m) {
    return (uint32_t) _mm256_movemask_ps(m.a) | (uint32_t) _mm256_movemask_ps(m.b) << 8;
}
VEC_INLINE struct m16 m16_make(uint32_t bits) {
    __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i low = _mm256_set1_epi32((int) (bits & 255)),
            high = _mm256_set1_epi32((int) (bits >> 8));
    return (struct m16){
        _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(low, lane), lane)),
        _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(high, lane), lane))};
}
VEC_INLINE struct v16 v16_select(struct m16 m, struct v16 x, struct v16 y) {
    return v16_make(_mm256_blendv_ps(y.a, x.a, m.a), _mm256_blendv_ps(y.b, x.b, m.b));
}
VEC_INLINE __m256 vec_scale2(__m256 x, __m256 magic) {
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x),
                                                _mm256_slli_epi32(_mm256_castps_si256(magic), 23)));
}
VEC_INLINE struct v16 v16_scale2(struct v16 x, struct v16 magic) {
    return v16_make(vec_scale2(x.a, magic.a), vec_scale2(x.b, magic.b));
}
VEC_INLINE __m256 vec_split(__m256 x, __m256 *f) {
    __m256i bits = _mm256_castps_si256(x);
    __m256i e = _mm256_srai_epi32(_mm256_sub_epi32(bits, _mm256_set1_epi32(0x3f3504f3)), 23);
    *f = _mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32(e, 23)));
    return _mm256_cvtepi32_ps(e);
}
VEC_INLINE struct v16 v16_split(struct v16 x, struct v16 *f) {
    struct v16 e;
    e.a = vec_split(x.a, &f->a);
    e.b = vec_split(x.b, &f->b);
    return e;
}
VEC_INLINE float v16_sum(struct v16 v) {
    __m256 x = _mm256_add_ps(v.a, v.b);
    __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_add_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
}
VEC_INLINE float v16_top(struct v16 v) {
    __m256 x = _mm256_max_ps(v.a, v.b);
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}
VEC_INLINE struct v16 v16_load2_f32(const void *low, const void *high) {
    return v16_make(_mm256_loadu_ps(low), _mm256_loadu_ps(high));
}
VEC_INLINE struct v16 v16_load2_f16(const void *low, const void *high) {
    return v16_make(_mm256_cvtph_ps(_mm_loadu_si128(low)), _mm256_cvtph_ps(_mm_loadu_si128(high)));
}
VEC_INLINE void v16_store_f16(uint16_t *x, struct v16 v) {
    __m128i *out = (__m128i *) (void *) x;
    _mm_storeu_si128(out, _mm256_cvtps_ph(v.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(out + 1, _mm256_cvtps_ph(v.b, _MM_FROUND_TO_NEAREST_INT));
}
VEC_INLINE void v16_store_int(int32_t *x, struct v16 v) {
    __m256i *out = (__m256i *) (void *) x;
    _mm256_storeu_si256(out, _mm256_cvttps_epi32(v.a));
    _mm256_storeu_si256(out + 1, _mm256_cvttps_epi32(v.b));
}
VEC_INLINE __m256 vec_load_bf16(const void *x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(x)), 16));
}
VEC_INLINE struct v16 v16_load2_bf16(const void *low, const void *high) {
    return v16_make(vec_load_bf16(low), vec_load_bf16(high));
}

#else

struct v16 {
    float f[16];
};
struct m16 {
    uint32_t bits;
};
#define VEC_EACH for (uint32_t l = 0; l < 16; l++)
VEC_INLINE struct v16 v16_set1(float x) {
    struct v16 v;
    VEC_EACH v.f[l] = x;
    return v;
}
VEC_INLINE struct v16 v16_zero(void) { return v16_set1(0.0f); }
VEC_INLINE struct v16 v16_load(const float *x) {
    struct v16 v;
    memcpy(v.f, x, sizeof v.f);
    return v;
}
VEC_INLINE void v16_store(float *x, struct v16 v) { memcpy(x, v.f, sizeof v.f); }
VEC_INLINE struct v16 v16_add(struct v16 x, struct v16 y) {
    VEC_EACH x.f[l] += y.f[l];
    return x;
}
VEC_INLINE struct v16 v16_sub(struct v16 x, struct v16 y) {
    VEC_EACH x.f[l] -= y.f[l];
    return x;
}
VEC_INLINE struct v16 v16_mul(struct v16 x, struct v16 y) {
    VEC_EACH x.f[l] *= y.f[l];
    return x;
}
VEC_INLINE struct v16 v16_div(struct v16 x, struct v16 y) {
    VEC_EACH x.f[l] /= y.f[l];
    return x;
}
VEC_INLINE struct v16 v16_fma(struct v16 x, struct v16 y, struct v16 z) {
    VEC_EACH z.f[l] = __builtin_fmaf(x.f[l], y.f[l], z.f[l]);
    return z;
}
VEC_INLINE struct v16 v16_max(struct v16 x, struct v16 y) {
    VEC_EACH x.f[l] = x.f[l] > y.f[l] ? x.f[l] : y.f[l];
    return x;
}
VEC_INLINE struct v16 v16_min(struct v16 x, struct v16 y) {
    VEC_EACH x.f[l] = x.f[l] < y.f[l] ? x.f[l] : y.f[l];
    return x;
}
VEC_INLINE struct v16 v16_abs(struct v16 x) {
    VEC_EACH x.f[l] = __builtin_fabsf(x.f[l]);
    return x;
}
VEC_INLINE struct m16 v16_lt(struct v16 x, struct v16 y) {
    struct m16 m = {0};
    VEC_EACH m.bits |= (uint32_t) (x.f[l] < y.f[l]) << l;
    return m;
}
VEC_INLINE struct m16 v16_ge(struct v16 x, struct v16 y) {
    struct m16 m = {0};
    VEC_EACH m.bits |= (uint32_t) (x.f[l] >= y.f[l]) << l;
    return m;
}
VEC_INLINE uint32_t m16_bits(struct m16 m) { return m.bits; }
VEC_INLINE struct m16 m16_make(uint32_t bits) { return (struct m16){bits}; }
VEC_INLINE struct v16 v16_select(struct m16 m, struct v16 x, struct v16 y) {
    VEC_EACH x.f[l] = m.bits >> l & 1 ? x.f[l] : y.f[l];
    return x;
}
VEC_INLINE struct v16 v16_scale2(struct v16 x, struct v16 magic) {
    VEC_EACH x.f[l] = half_float_of(half_bits_of(x.f[l]) + (half_bits_of(magic.f[l]) << 23));
    return x;
}
VEC_INLINE struct v16 v16_split(struct v16 x, struct v16 *f) {
    struct v16 e;
    VEC_EACH {
        uint32_t bits = half_bits_of(x.f[l]);
        int32_t exponent = (int32_t) (bits - 0x3f3504f3u) >> 23;
        f->f[l] = half_float_of(bits - ((uint32_t) exponent << 23));
        e.f[l] = (float) exponent;
    }
    return e;
}
VEC_INLINE float v16_sum(struct v16 v) {
    for (uint32_t step = 8; step; step /= 2)
        for (uint32_t l = 0; l < step; l++) v.f[l] += v.f[l + step];
    return v.f[0];
}
VEC_INLINE float v16_top(struct v16 v) {
    for (uint32_t step = 8; step; step /= 2)
        for (uint32_t l = 0; l < step; l++)
            v.f[l] = v.f[l] > v.f[l + step] ? v.f[l] : v.f[l + step];
    return v.f[0];
}
VEC_INLINE struct v16 v16_load2_f32(const void *low, const void *high) {
    struct v16 v;
    memcpy(v.f, low, 32);
    memcpy(v.f + 8, high, 32);
    return v;
}
VEC_INLINE struct v16 v16_load2_f16(const void *low, const void *high) {
    uint16_t x[16];
    struct v16 v;
    memcpy(x, low, 16);
    memcpy(x + 8, high, 16);
    VEC_EACH v.f[l] = half_from_f16(x[l]);
    return v;
}
VEC_INLINE void v16_store_f16(uint16_t *x, struct v16 v) { VEC_EACH x[l] = half_to_f16(v.f[l]); }
VEC_INLINE void v16_store_int(int32_t *x, struct v16 v) { VEC_EACH x[l] = (int32_t) v.f[l]; }
VEC_INLINE struct v16 v16_load2_bf16(const void *low, const void *high) {
    uint16_t x[16];
    struct v16 v;
    memcpy(x, low, 16);
    memcpy(x + 8, high, 16);
    VEC_EACH v.f[l] = half_from_bf16(x[l]);
    return v;
}

#endif

/* --- what is built of them ---------------------------------------------------------------- */

/* The first `count` lanes, the rest zero; count <= 16. */
VEC_INLINE struct v16 v16_load_part(const float *x, uint32_t count) {
    if (count >= 16) return v16_load(x);
    float padded[16] = {0};
    memcpy(padded, x, count * sizeof *x);
    return v16_load(padded);
}
VEC_INLINE void v16_store_part(float *x, struct v16 v, uint32_t count) {
    if (count >= 16) {
        v16_store(x, v);
        return;
    }
    float padded[16];
    v16_store(padded, v);
    memcpy(x, padded, count * sizeof *x);
}

/* e^x for x <= 88 (larger x give e^88); 0 below -87, where f32 is near its smallest normal. */
VEC_INLINE struct v16 v16_exp(struct v16 x) {
    const struct v16 round = v16_set1(12582912.0f); /* 1.5 x 2^23: adding it rounds to integers */
    x = v16_min(v16_set1(88.0f), x);
    struct v16 magic = v16_fma(x, v16_set1(0x1.715476p+0f), round);
    struct v16 n = v16_sub(magic, round);
    struct v16 r = v16_fma(n, v16_set1(-0x1.62e430p-1f), x);
    r = v16_fma(n, v16_set1(0x1.05c610p-29f), r);
    struct v16 p = v16_set1(0x1.6dbc68p-10f);
    p = v16_fma(p, r, v16_set1(0x1.124148p-7f));
    p = v16_fma(p, r, v16_set1(0x1.555454p-5f));
    p = v16_fma(p, r, v16_set1(0x1.555486p-3f));
    p = v16_fma(p, r, v16_set1(0.5f));
    p = v16_fma(p, v16_mul(r, r), r);
    struct v16 y = v16_scale2(v16_add(p, v16_set1(1.0f)), magic);
    return v16_select(v16_lt(x, v16_set1(-87.0f)), v16_zero(), y);
}

/* ln x, x positive, normal and finite. */
VEC_INLINE struct v16 v16_log(struct v16 x) {
    struct v16 f, e = v16_split(x, &f);
    struct v16 t = v16_sub(f, v16_set1(1.0f));
    struct v16 s = v16_div(t, v16_add(t, v16_set1(2.0f))); /* ln f = 2 atanh s */
    struct v16 z = v16_mul(s, s);
    struct v16 q = v16_set1(0x1.e38bbap-3f);
    q = v16_fma(q, z, v16_set1(0x1.24351cp-2f));
    q = v16_fma(q, z, v16_set1(0x1.999a88p-2f));
    q = v16_fma(q, z, v16_set1(0x1.555554p-1f));
    struct v16 y = v16_fma(v16_mul(s, z), q, v16_add(s, s));
    y = v16_fma(e, v16_set1(0x1.7f7d1cp-20f), y);
    return v16_fma(e, v16_set1(0x1.62e400p-1f), y);
}

/* x / (1 + e^-x) */
VEC_INLINE struct v16 v16_silu(struct v16 x) {
    struct v16 one = v16_set1(1.0f);
    return v16_div(x, v16_add(one, v16_exp(v16_sub(v16_zero(), x))));
}

#endif
