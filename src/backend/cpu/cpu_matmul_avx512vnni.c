/* cpu_matmul_avx512vnni - AVX-512 with VNNI: vpdpbusd sums four products of u8 and s8 exactly in
 * 32 bits. */
#include "backend/cpu/cpu_matmul_lanes512.h"

#define DOT_CHUNKS_5 8
#define DOT_CHUNKS_6 8
#define DOT_SIGNED_OFFSET 128 /* signed weights go in as w + 128; 128 x total is taken off */

static inline vint dot_step(vint sum, vint weight, vint four) {
    return _mm512_dpbusd_epi32(sum, weight, four);
}
static inline vint dot_flush(vint sum) { return sum; }
static inline vint dot_step_signed(vint sum, vint weight, vint four) {
    return _mm512_dpbusd_epi32(sum, _mm512_xor_si512(weight, _mm512_set1_epi8(-128)), four);
}

#include "backend/cpu/cpu_matmul_lanes.h"

void cpu_matmul_avx512vnni_sums(const struct cpu_matrix *matrix,
                                const struct cpu_activations *activations, uint32_t group,
                                uint32_t group_count, uint32_t row_first, uint32_t row_count,
                                uint32_t k_first, uint32_t k_end, float *sums) {
    run_sums(matrix, activations, group, group_count, row_first, row_count, k_first, k_end, sums);
}
