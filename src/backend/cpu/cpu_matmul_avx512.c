/* cpu_matmul_avx512 - AVX-512 F, BW, VL and DQ without VNNI: the AVX2 steps on 16 lanes. */
#include "backend/cpu/cpu_matmul_lanes512.h"

#define DOT_CHUNKS_5 4
#define DOT_CHUNKS_6 2
#define DOT_SIGNED_OFFSET 0

/* As in the AVX2 body: a chain of sums stays a chain. */
static inline vint pin(vint sum) {
    __asm__("" : "+v"(sum));
    return sum;
}

static inline vint dot_step(vint sum, vint weight, vint four) {
    return pin(_mm512_add_epi16(sum, _mm512_maddubs_epi16(weight, four)));
}
static inline vint dot_flush(vint sum) { return _mm512_madd_epi16(sum, _mm512_set1_epi16(1)); }
/* As in the AVX2 body; there is no vpsignb here, so a is negated under the mask of w's signs
 * (where w is 0, |w| = 0 makes the product 0). */
static inline vint dot_step_signed(vint sum, vint weight, vint four) {
    vint turned =
        _mm512_mask_sub_epi8(four, _mm512_movepi8_mask(weight), _mm512_setzero_si512(), four);
    vint products = _mm512_maddubs_epi16(_mm512_abs_epi8(weight), turned);
    return pin(_mm512_add_epi32(sum, _mm512_madd_epi16(products, _mm512_set1_epi16(1))));
}

#include "backend/cpu/cpu_matmul_lanes.h"

void cpu_matmul_avx512_sums(const struct cpu_matrix *matrix,
                            const struct cpu_activations *activations, uint32_t group,
                            uint32_t group_count, uint32_t row_first, uint32_t row_count,
                            uint32_t k_first, uint32_t k_end, float *sums) {
    run_sums(matrix, activations, group, group_count, row_first, row_count, k_first, k_end, sums);
}
