/* cpu_activations - rows of x as a class wants them.
 *
 * q8a32, each 32 along k: scale = max |x| / 127; quant = x / scale rounded to nearest even, which
 * is within +-127 because scale is normal; a block whose scale would be subnormal is all zero with
 * scale 0.  A block with a NaN or an infinity has quants 0 and scale NaN, so every output that
 * reads it is NaN, on every body.
 *
 * bf16p: each x rounded to the nearest BF16, ties to even, a NaN made quiet. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_half.h"
#include "backend/cpu/cpu_matmul.h"
#include "backend/cpu/cpu_matmul_body.h"
#include "base/num.h"

uint64_t cpu_activations_stride(enum numerics numerics, uint32_t columns) {
    uint64_t bytes = (uint64_t) columns * sizeof(float);
    if (numerics == NUMERICS_Q8A32)
        bytes = num_div_up(columns, CPU_BLOCK) * sizeof(struct cpu_activation_block);
    if (numerics == NUMERICS_BF16P) bytes = num_round_up(columns, 2) * sizeof(uint16_t);
    return (num_div_up(bytes, 64) | 1) * 64;
}

uint64_t cpu_activations_bytes(enum numerics numerics, uint32_t rows, uint32_t columns) {
    return rows * cpu_activations_stride(numerics, columns);
}

static void quantize_block(const float *x, struct cpu_activation_block *out) {
    uint32_t largest_bits = 0; /* of |x|: NaN above infinity above all else */
    for (unsigned i = 0; i < CPU_BLOCK; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof(bits));
        bits &= 0x7fffffffu;
        if (bits > largest_bits) largest_bits = bits;
    }
    float largest;
    memcpy(&largest, &largest_bits, sizeof(largest));
    *out = (struct cpu_activation_block){0};
    if (largest_bits >= 0x7f800000u) {
        out->scale = out->sum = NAN;
        return;
    }
    float scale = largest / 127.0f;
    if (scale < FLT_MIN) return;
    int32_t halves[2] = {0, 0};
    for (unsigned i = 0; i < CPU_BLOCK; i++) {
        int32_t quant = (int32_t) rintf(x[i] / scale);
        out->quants[i] = (int8_t) quant;
        halves[i / 16] += quant;
    }
    out->halves[0] = (int16_t) halves[0];
    out->halves[1] = (int16_t) halves[1];
    out->total = halves[0] + halves[1];
    out->scale = scale;
    out->sum = scale * (float) out->total;
}

static void quantize(enum cpu_body body, const float *x, uint32_t columns,
                     struct cpu_activation_block *out) {
#if defined(__x86_64__)
    if (body != CPU_BODY_SCALAR) {
        cpu_activations_avx2_quantize(x, columns, out);
        return;
    }
#endif
    for (uint32_t b = 0; b < columns / CPU_BLOCK; b++)
        quantize_block(x + (uint64_t) b * CPU_BLOCK, out + b);
}

static void round_row(const float *x, uint32_t columns, uint16_t *out) {
    for (uint32_t k = 0; k < columns; k++) out[k] = half_to_bf16(x[k]);
    if (columns % 2) out[columns] = 0;
}

void cpu_activations_set(enum cpu_body body, struct cpu_activations *activations, uint32_t first,
                         uint32_t end, const float *x, uint64_t ld) {
    DCHECK(first <= end && end <= activations->rows);
    uint64_t stride = cpu_activations_stride(activations->numerics, activations->columns);
    for (uint32_t r = first; r < end; r++) {
        uint8_t *out = activations->data + r * stride;
        if (activations->numerics == NUMERICS_Q8A32)
            quantize(body, x + r * ld, activations->columns, (struct cpu_activation_block *) out);
        else if (activations->numerics == NUMERICS_BF16P)
            round_row(x + r * ld, activations->columns, (uint16_t *) (void *) out);
        else memcpy(out, x + r * ld, activations->columns * sizeof(float));
    }
}
