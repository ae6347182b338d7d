/* cpu_matmul_pairs_avx512 - class bf16p on AVX-512 without BF16: the AVX2 steps on 16 lanes. */
#include <immintrin.h>

#define HALVES 1
#define PAIR_ROWS_MAX 8
#define PAIR_GROUPS_MAX 8

typedef __m512 vfloat;
typedef struct {
    __m512 odd, even;
} vpair;

static inline vfloat v_loadf(const void *at) { return _mm512_loadu_ps(at); }
static inline void v_storef(void *at, vfloat v) { _mm512_storeu_ps(at, v); }
static inline vpair split(__m512i pair) {
    return (vpair){
        _mm512_castsi512_ps(_mm512_and_si512(pair, _mm512_set1_epi32((int32_t) 0xffff0000))),
        _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16))};
}
static inline vpair pair_load(const void *at) { return split(_mm512_loadu_si512(at)); }
static inline vpair pair_broadcast(const void *at) {
    int32_t pair;
    __builtin_memcpy(&pair, at, sizeof pair);
    return split(_mm512_set1_epi32(pair));
}
static inline vfloat pair_step(vfloat sum, vpair weight, vpair x) {
    return _mm512_fmadd_ps(weight.even, x.even, _mm512_fmadd_ps(weight.odd, x.odd, sum));
}

#include "backend/cpu/cpu_matmul_pairs.h"

void cpu_matmul_pairs_avx512_sums(const struct cpu_matrix *matrix,
                                  const struct cpu_activations *activations, uint32_t group,
                                  uint32_t group_count, uint32_t row_first, uint32_t row_count,
                                  uint32_t k_first, uint32_t k_end, float *sums) {
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | CPU_MXCSR_FLUSH);
    run_pairs(matrix, activations, group, group_count, row_first, row_count, k_first, k_end, sums);
    _mm_setcsr(before);
}
