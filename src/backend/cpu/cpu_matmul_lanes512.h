/* cpu_matmul_lanes512 - the vector operations of the two AVX-512 bodies: a group is one vector of
 * 16 lanes.  The int8 steps (dot_*) are each body's own. */
#ifndef GRAMME_BACKEND_CPU_CPU_MATMUL_LANES512_H
#define GRAMME_BACKEND_CPU_CPU_MATMUL_LANES512_H

#include <immintrin.h>
#include <stdint.h>

#define HALVES 1
#define ROWS_MAX 8      /* 8 sums in f32 and 8 in int of 32 registers */
#define ROWS_MAX_F32 12 /* latency 4 x 2 a cycle = 8, and each weight is used 12 times */
#define GROUPS_MAX 8
#define PREFETCH_BYTES 2048

typedef __m512i vint;
typedef __m512 vfloat;

static inline vint v_load(const void *at) { return _mm512_loadu_si512(at); }
static inline vfloat v_loadf(const void *at) { return _mm512_loadu_ps(at); }
static inline void v_storef(void *at, vfloat v) { _mm512_storeu_ps(at, v); }
static inline vfloat v_load_half(const void *at) { return _mm512_cvtph_ps(_mm256_loadu_si256(at)); }
static inline vint v_load_int8(const void *at) { return _mm512_cvtepi8_epi32(_mm_loadu_si128(at)); }
static inline vint v_broadcast32(const void *at) {
    int32_t value;
    __builtin_memcpy(&value, at, sizeof(value));
    return _mm512_set1_epi32(value);
}
static inline vfloat v_broadcastf(const float *at) { return _mm512_set1_ps(*at); }
static inline vint v_zero(void) { return _mm512_setzero_si512(); }
static inline vint v_set8(char value) { return _mm512_set1_epi8(value); }
static inline vint v_set32(int32_t value) { return _mm512_set1_epi32(value); }
static inline vint v_and(vint a, vint b) { return _mm512_and_si512(a, b); }
static inline vint v_or(vint a, vint b) { return _mm512_or_si512(a, b); }
static inline vint v_srl16(vint v, int count) { return _mm512_srli_epi16(v, (unsigned) count); }
static inline vint v_sll16(vint v, int count) { return _mm512_slli_epi16(v, (unsigned) count); }
static inline vint v_sll32(vint v, int count) { return _mm512_slli_epi32(v, (unsigned) count); }
static inline vint v_sra32(vint v, int count) { return _mm512_srai_epi32(v, (unsigned) count); }
static inline vint v_add32(vint a, vint b) { return _mm512_add_epi32(a, b); }
static inline vint v_sub32(vint a, vint b) { return _mm512_sub_epi32(a, b); }
static inline vint v_mul32(vint a, vint b) { return _mm512_mullo_epi32(a, b); }
static inline vfloat v_as_float(vint v) { return _mm512_castsi512_ps(v); }
static inline vfloat v_to_float(vint v) { return _mm512_cvtepi32_ps(v); }
static inline vfloat v_mul(vfloat a, vfloat b) { return _mm512_mul_ps(a, b); }
static inline vfloat v_fma(vfloat a, vfloat b, vfloat c) { return _mm512_fmadd_ps(a, b, c); }

#endif
