/* cpu_activations_avx2 - quantizing activations, for the AVX2 and AVX-512 bodies.
 *
 * The same operations as the scalar twin in cpu_activations.c, each correctly rounded, so the same
 * bits. */
#include <float.h>
#include <immintrin.h>
#include <math.h>

#include "backend/cpu/cpu_matmul_body.h"

static inline int32_t sum_lanes(__m256i v) {
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
    return _mm_cvtsi128_si32(sum);
}

static inline int32_t max_lanes(__m256i v) {
    __m128i most = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    most = _mm_max_epi32(most, _mm_shuffle_epi32(most, 0x4e));
    most = _mm_max_epi32(most, _mm_shuffle_epi32(most, 0xb1));
    return _mm_cvtsi128_si32(most);
}

static inline void set_empty(struct cpu_activation_block *out, float scale) {
    *out = (struct cpu_activation_block){.scale = scale, .sum = scale};
}

void cpu_activations_avx2_quantize(const float *x, uint32_t columns,
                                   struct cpu_activation_block *out) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    for (uint32_t b = 0; b < columns / CPU_BLOCK; b++, x += CPU_BLOCK, out++) {
        __m256 part[4];
        __m256i most = _mm256_setzero_si256();
        for (unsigned i = 0; i < 4; i++) {
            part[i] = _mm256_loadu_ps(x + 8 * i);
            most =
                _mm256_max_epi32(most, _mm256_and_si256(_mm256_castps_si256(part[i]), magnitude));
        }
        int32_t largest_bits = max_lanes(most);
        if (largest_bits >= 0x7f800000) {
            set_empty(out, NAN);
            continue;
        }
        float scale = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(largest_bits))) / 127.0f;
        if (scale < FLT_MIN) {
            set_empty(out, 0);
            continue;
        }
        __m256i quant[4];
        for (unsigned i = 0; i < 4; i++)
            quant[i] = _mm256_cvtps_epi32(_mm256_div_ps(part[i], _mm256_set1_ps(scale)));
        int32_t first = sum_lanes(_mm256_add_epi32(quant[0], quant[1]));
        int32_t second = sum_lanes(_mm256_add_epi32(quant[2], quant[3]));
        /* The packs work within 128-bit lanes: the permutation puts the fours in order again. */
        __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(quant[0], quant[1]),
                                           _mm256_packs_epi32(quant[2], quant[3]));
        bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        _mm256_storeu_si256((__m256i *) out->quants, bytes);
        out->halves[0] = (int16_t) first;
        out->halves[1] = (int16_t) second;
        out->total = first + second;
        out->scale = scale;
        out->sum = scale * (float) out->total;
    }
}
