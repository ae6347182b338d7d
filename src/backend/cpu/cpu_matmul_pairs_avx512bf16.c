/* cpu_matmul_pairs_avx512bf16 - class bf16p by vdpbf16ps itself, which looks at no MXCSR. */
#include <immintrin.h>

#define HALVES 1
#define PAIR_ROWS_MAX 8
#define PAIR_GROUPS_MAX 8

typedef __m512 vfloat;
typedef __m512bh vpair;

static inline vfloat v_loadf(const void *at) { return _mm512_loadu_ps(at); }
static inline void v_storef(void *at, vfloat v) { _mm512_storeu_ps(at, v); }
static inline vpair pair_load(const void *at) { return (vpair) _mm512_loadu_si512(at); }
static inline vpair pair_broadcast(const void *at) {
    int32_t pair;
    __builtin_memcpy(&pair, at, sizeof pair);
    return (vpair) _mm512_set1_epi32(pair);
}
static inline vfloat pair_step(vfloat sum, vpair weight, vpair x) {
    return _mm512_dpbf16_ps(sum, weight, x);
}

#include "backend/cpu/cpu_matmul_pairs.h"

void cpu_matmul_pairs_avx512bf16_sums(const struct cpu_matrix *matrix,
                                      const struct cpu_activations *activations, uint32_t group,
                                      uint32_t group_count, uint32_t row_first, uint32_t row_count,
                                      uint32_t k_first, uint32_t k_end, float *sums) {
    run_pairs(matrix, activations, group, group_count, row_first, row_count, k_first, k_end, sums);
}
