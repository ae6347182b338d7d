/* cpu_matmul_pairs_avx2 - class bf16p on AVX2 and FMA: the two steps of vdpbf16ps, with MXCSR set
 * to flush as it does. */
#include <immintrin.h>

#define HALVES 2
#define PAIR_ROWS_MAX 4   /* 8 sums, 4 halves of weights, 2 of x: of 16 registers */
#define PAIR_GROUPS_MAX 4 /* 8 sums: 2 FMA a cycle, 4 cycles each */

typedef __m256 vfloat;
typedef struct {
    __m256 odd, even;
} vpair;

static inline vfloat v_loadf(const void *at) { return _mm256_loadu_ps(at); }
static inline void v_storef(void *at, vfloat v) { _mm256_storeu_ps(at, v); }
static inline vpair split(__m256i pair) {
    return (vpair){
        _mm256_castsi256_ps(_mm256_and_si256(pair, _mm256_set1_epi32((int32_t) 0xffff0000))),
        _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16))};
}
static inline vpair pair_load(const void *at) { return split(_mm256_loadu_si256(at)); }
static inline vpair pair_broadcast(const void *at) {
    return split(_mm256_castps_si256(_mm256_broadcast_ss(at)));
}
static inline vfloat pair_step(vfloat sum, vpair weight, vpair x) {
    return _mm256_fmadd_ps(weight.even, x.even, _mm256_fmadd_ps(weight.odd, x.odd, sum));
}

#include "backend/cpu/cpu_matmul_pairs.h"

void cpu_matmul_pairs_avx2_sums(const struct cpu_matrix *matrix,
                                const struct cpu_activations *activations, uint32_t group,
                                uint32_t group_count, uint32_t row_first, uint32_t row_count,
                                uint32_t k_first, uint32_t k_end, float *sums) {
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | CPU_MXCSR_FLUSH);
    run_pairs(matrix, activations, group, group_count, row_first, row_count, k_first, k_end, sums);
    _mm_setcsr(before);
}
