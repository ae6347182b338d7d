/* cpu_matmul_avx2 - AVX2, FMA and F16C: a group is two vectors of 8 lanes. */
#include <immintrin.h>

#define HALVES 2
#define ROWS_MAX 4     /* 8 accumulators of 16 bits, two of weights, the rest for the rows */
#define ROWS_MAX_F32 5 /* 10 sums; with 12 the compiler's spills cost more than they bring */
#define GROUPS_MAX 4   /* 8 accumulators: 2 FMA a cycle, 4 cycles each */
#define PREFETCH_BYTES 1024
#define DOT_CHUNKS_5 4
#define DOT_CHUNKS_6 2
#define DOT_SIGNED_OFFSET 0

typedef __m256i vint;
typedef __m256 vfloat;

static inline vint v_load(const void *at) { return _mm256_loadu_si256(at); }
static inline vfloat v_loadf(const void *at) { return _mm256_loadu_ps(at); }
static inline void v_storef(void *at, vfloat v) { _mm256_storeu_ps(at, v); }
static inline vfloat v_load_half(const void *at) { return _mm256_cvtph_ps(_mm_loadu_si128(at)); }
static inline vint v_load_int8(const void *at) { return _mm256_cvtepi8_epi32(_mm_loadl_epi64(at)); }
static inline vint v_broadcast32(const void *at) {
    int32_t value;
    __builtin_memcpy(&value, at, sizeof(value));
    return _mm256_set1_epi32(value);
}
static inline vfloat v_broadcastf(const float *at) { return _mm256_broadcast_ss(at); }
static inline vint v_zero(void) { return _mm256_setzero_si256(); }
static inline vint v_set8(char value) { return _mm256_set1_epi8(value); }
static inline vint v_set32(int32_t value) { return _mm256_set1_epi32(value); }
static inline vint v_and(vint a, vint b) { return _mm256_and_si256(a, b); }
static inline vint v_or(vint a, vint b) { return _mm256_or_si256(a, b); }
static inline vint v_srl16(vint v, int count) { return _mm256_srli_epi16(v, count); }
static inline vint v_sll16(vint v, int count) { return _mm256_slli_epi16(v, count); }
static inline vint v_sll32(vint v, int count) { return _mm256_slli_epi32(v, count); }
static inline vint v_sra32(vint v, int count) { return _mm256_srai_epi32(v, count); }
static inline vint v_add32(vint a, vint b) { return _mm256_add_epi32(a, b); }
static inline vint v_sub32(vint a, vint b) { return _mm256_sub_epi32(a, b); }
static inline vint v_mul32(vint a, vint b) { return _mm256_mullo_epi32(a, b); }
static inline vfloat v_as_float(vint v) { return _mm256_castsi256_ps(v); }
static inline vfloat v_to_float(vint v) { return _mm256_cvtepi32_ps(v); }
static inline vfloat v_mul(vfloat a, vfloat b) { return _mm256_mul_ps(a, b); }
static inline vfloat v_fma(vfloat a, vfloat b, vfloat c) { return _mm256_fmadd_ps(a, b, c); }

/* Keeps a chain of sums a chain: integer sums may be reassociated, and compilers make a tree of
 * them that needs every product at once, in registers that are not there. */
static inline vint pin(vint sum) {
    __asm__("" : "+x"(sum));
    return sum;
}

/* Unsigned weights: two products in each 16 bits, summed; widened by dot_flush. */
static inline vint dot_step(vint sum, vint weight, vint four) {
    return pin(_mm256_add_epi16(sum, _mm256_maddubs_epi16(weight, four)));
}
static inline vint dot_flush(vint sum) { return _mm256_madd_epi16(sum, _mm256_set1_epi16(1)); }
/* Signed weights: |w| x (a with w's sign).  |-128| is 128 as an unsigned byte, -a fits as
 * |a| <= 127, and two products reach 2 x 128 x 127 = 32512. */
static inline vint dot_step_signed(vint sum, vint weight, vint four) {
    vint products = _mm256_maddubs_epi16(_mm256_abs_epi8(weight), _mm256_sign_epi8(four, weight));
    return pin(_mm256_add_epi32(sum, _mm256_madd_epi16(products, _mm256_set1_epi16(1))));
}

#include "backend/cpu/cpu_matmul_lanes.h"

void cpu_matmul_avx2_sums(const struct cpu_matrix *matrix,
                          const struct cpu_activations *activations, uint32_t group,
                          uint32_t group_count, uint32_t row_first, uint32_t row_count,
                          uint32_t k_first, uint32_t k_end, float *sums) {
    run_sums(matrix, activations, group, group_count, row_first, row_count, k_first, k_end, sums);
}
