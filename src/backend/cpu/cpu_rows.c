/* cpu_rows - see cpu_rows.h.  Compiled once for each body: CPU_VEC and CPU_ROWS_NAME come from
 * meson.build. */
#include "backend/cpu/cpu_rows.h"

#include "backend/cpu/cpu_vec.h"

#ifndef CPU_ROWS_NAME
#define CPU_ROWS_NAME cpu_rows_scalar
#endif

static void norm(const float *x, const float *weight, uint32_t count, float epsilon, float *out) {
    struct v16 squares = v16_zero();
    for (uint32_t i = 0; i < count; i += 16) {
        struct v16 v = v16_load_part(x + i, count - i);
        squares = v16_fma(v, v, squares);
    }
    float mean = v16_sum(squares) / (float) count;
    struct v16 factor = v16_set1(1.0f / __builtin_sqrtf(mean + epsilon));
    for (uint32_t i = 0; i < count; i += 16) {
        struct v16 v = v16_mul(v16_load_part(x + i, count - i), factor);
        v16_store_part(out + i, v16_mul(v, v16_load_part(weight + i, count - i)), count - i);
    }
}

/* Sine and cosine by quadrant: x = k pi/2 + r with pi/2 in two doubles, then the series to r^17,
 * whose first omitted term is below 2^-60 at pi/4.  In double, so the f32 results are those of
 * exact arithmetic but for ties that no f32 angle below 2^30 comes near. */
static void sine_cosine(float angle, float *sine, float *cosine) {
    double x = (double) angle;
    const double round = 0x1.8p52;
    double k = __builtin_fma(x, 0x1.45f306dc9c883p-1, round) - round;
    double r = __builtin_fma(-k, 0x1.921fb54442d18p+0, x);
    r = __builtin_fma(-k, 0x1.1a62633145c07p-54, r);
    double z = r * r;
    double s = __builtin_fma(z, 1.0 / 355687428096000.0, -1.0 / 1307674368000.0);
    s = __builtin_fma(s, z, 1.0 / 6227020800.0);
    s = __builtin_fma(s, z, -1.0 / 39916800.0);
    s = __builtin_fma(s, z, 1.0 / 362880.0);
    s = __builtin_fma(s, z, -1.0 / 5040.0);
    s = __builtin_fma(s, z, 1.0 / 120.0);
    s = __builtin_fma(s, z, -1.0 / 6.0);
    s = __builtin_fma(s * z, r, r);
    double c = __builtin_fma(z, 1.0 / 20922789888000.0, -1.0 / 87178291200.0);
    c = __builtin_fma(c, z, 1.0 / 479001600.0);
    c = __builtin_fma(c, z, -1.0 / 3628800.0);
    c = __builtin_fma(c, z, 1.0 / 40320.0);
    c = __builtin_fma(c, z, -1.0 / 720.0);
    c = __builtin_fma(c, z, 1.0 / 24.0);
    c = __builtin_fma(c, z, -0.5);
    c = __builtin_fma(c, z, 1.0);
    unsigned quadrant = (unsigned) ((int64_t) k & 3);
    double sin_out = quadrant & 1 ? c : s, cos_out = quadrant & 1 ? s : c;
    *sine = (float) (quadrant & 2 ? -sin_out : sin_out);
    *cosine = (float) (quadrant == 1 || quadrant == 2 ? -cos_out : cos_out);
}

static void angles(uint32_t position, const float *inv_freq, uint32_t pair_count, float scale,
                   float *cos_sin) {
    for (uint32_t i = 0; i < pair_count; i++) {
        float sine, cosine;
        sine_cosine((float) position * inv_freq[i], &sine, &cosine);
        cos_sin[i] = cosine * scale;
        cos_sin[pair_count + i] = sine * scale;
    }
}

static void rotate(float *head, const float *cos_sin, uint32_t pair_count) {
    for (uint32_t i = 0; i < pair_count; i += 16) {
        uint32_t count = pair_count - i;
        struct v16 cosine = v16_load_part(cos_sin + i, count);
        struct v16 sine = v16_load_part(cos_sin + pair_count + i, count);
        struct v16 a = v16_load_part(head + i, count);
        struct v16 b = v16_load_part(head + pair_count + i, count);
        v16_store_part(head + i, v16_sub(v16_mul(a, cosine), v16_mul(b, sine)), count);
        v16_store_part(head + pair_count + i, v16_add(v16_mul(b, cosine), v16_mul(a, sine)), count);
    }
}

static void silu_mul(float *gate, const float *up, uint32_t count) {
    for (uint32_t i = 0; i < count; i += 16) {
        struct v16 g = v16_load_part(gate + i, count - i), u = v16_load_part(up + i, count - i);
        v16_store_part(gate + i, v16_mul(v16_silu(g), u), count - i);
    }
}

static void add(float *x, const float *y, uint32_t count) {
    for (uint32_t i = 0; i < count; i += 16) {
        struct v16 v = v16_add(v16_load_part(x + i, count - i), v16_load_part(y + i, count - i));
        v16_store_part(x + i, v, count - i);
    }
}

static void exp_rows(float *x, uint32_t count) {
    for (uint32_t i = 0; i < count; i += 16)
        v16_store_part(x + i, v16_exp(v16_load_part(x + i, count - i)), count - i);
}

static void log_rows(float *x, uint32_t count) {
    for (uint32_t i = 0; i < count; i += 16)
        v16_store_part(x + i, v16_log(v16_load_part(x + i, count - i)), count - i);
}

const struct cpu_rows_ops CPU_ROWS_NAME = {
    .norm = norm,
    .angles = angles,
    .rotate = rotate,
    .silu_mul = silu_mul,
    .add = add,
    .exp = exp_rows,
    .log = log_rows,
};
