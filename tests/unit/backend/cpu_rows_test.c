/* Row kernels: accuracy of exp, log, silu, sine and cosine against libm in double; conversions of
 * f16, bf16 and e4m3 over all bit patterns; every body bit for bit as scalar, at odd lengths. */
#include <math.h>

#include "backend/cpu/cpu_half.h"
#include "backend/cpu/cpu_rows.h"
#include "backend/cpu_bodies.h"

static double units_off(double got, double want) {
    int exponent;
    frexp(want, &exponent);
    return fabs(got - want) / ldexp(1, exponent - 24);
}

static void exp_is_accurate(void **state) {
    double worst = 0;
    for (uint32_t i = 0; i < 400000; i++) {
        float x[1] = {-87.0f + (float) i * (175.0f / 400000.0f)};
        double want = exp((double) x[0]);
        cpu_rows_scalar.exp(x, 1);
        worst = fmax(worst, units_off((double) x[0], want));
    }
    if (worst > 2) fail_msg("exp: %.2f units in the last place", worst);
    float edges[] = {0.0f, -0.0f, -87.1f, -1e30f, -INFINITY, 88.0f, 1e30f, NAN};
    cpu_rows_scalar.exp(edges, 8);
    assert_true(edges[0] == 1.0f && edges[1] == 1.0f && edges[2] == 0.0f && edges[3] == 0.0f &&
                edges[4] == 0.0f && edges[5] > 1.6e38f && edges[6] == edges[5] && isnan(edges[7]));
}

static void log_is_accurate(void **state) {
    double worst = 0;
    uint64_t seed = 11;
    for (uint32_t i = 0; i < 400000; i++) {
        uint32_t bits = 0x00800000u + (uint32_t) (random_next(&seed) % 0x7f000000u);
        if (i % 4 == 0) bits = 0x3f700000u + (uint32_t) (random_next(&seed) % 0x00180000u); /* ~1 */
        float x[1];
        memcpy(x, &bits, sizeof bits);
        if (x[0] == 1.0f) continue;
        double want = log((double) x[0]);
        cpu_rows_scalar.log(x, 1);
        worst = fmax(worst, units_off((double) x[0], want));
    }
    if (worst > 2.5) fail_msg("log: %.2f units in the last place", worst);
    float one[1] = {1.0f};
    cpu_rows_scalar.log(one, 1);
    assert_true(one[0] == 0.0f);
}

static void silu_is_accurate(void **state) {
    for (float x = -60; x < 60; x += 0.013f) {
        float gate[1] = {x}, up[1] = {1};
        cpu_rows_scalar.silu_mul(gate, up, 1);
        double want = (double) x / (1 + exp(-(double) x));
        assert_true(fabs((double) gate[0] - want) <= 4e-7 * fabs(want) + 1e-38);
    }
}

static void angles_are_accurate(void **state) {
    uint64_t seed = 5;
    for (uint32_t i = 0; i < 100000; i++) {
        uint32_t position = (uint32_t) (random_next(&seed) % 1000000);
        float inv_freq = (float) (random_next(&seed) % 1000001) * 1e-6f, out[2];
        cpu_rows_scalar.angles(position, &inv_freq, 1, 1.0f, out);
        double angle = (double) ((float) position * inv_freq);
        /* Half a unit, and a little for what double itself rounds. */
        assert_true(fabs((double) out[0] - cos(angle)) <= 0x1p-25 + 1e-12);
        assert_true(fabs((double) out[1] - sin(angle)) <= 0x1p-25 + 1e-12);
    }
}

static void norm_is_right(void **state) {
    uint64_t seed = 3;
    const uint32_t counts[] = {1, 15, 16, 17, 64, 576, 1000};
    for (size_t k = 0; k < ARRAY_COUNT(counts); k++) {
        float x[1000], weight[1000], out[1000];
        double squares = 0;
        for (uint32_t i = 0; i < counts[k]; i++) {
            x[i] = random_float(&seed, 3);
            weight[i] = random_float(&seed, 1);
            squares += (double) x[i] * (double) x[i];
        }
        cpu_rows_scalar.norm(x, weight, counts[k], 1e-5f, out);
        double factor = 1 / sqrt(squares / counts[k] + 1e-5);
        for (uint32_t i = 0; i < counts[k]; i++)
            assert_true(fabs((double) out[i] - (double) x[i] * factor * (double) weight[i]) < 2e-6);
    }
}

static void halves(void **state) {
    for (uint32_t bits = 0; bits < 0x10000u; bits++) {
        float x = half_from_f16((uint16_t) bits);
        uint32_t exponent = bits >> 10 & 31, fraction = bits & 1023;
        if (exponent == 31) {
            assert_true(fraction ? isnan(x) : isinf(x));
            if (!fraction) assert_int_equal(half_to_f16(x), bits);
            continue;
        }
        double want = exponent ? ldexp(1024 + fraction, (int) exponent - 25) : ldexp(fraction, -24);
        assert_true((double) x == (bits & 0x8000u ? -want : want));
        assert_int_equal(half_to_f16(x), bits);
        /* A hair below and above the middle to the next, and the middle itself. */
        if (exponent == 30 && fraction == 1023) continue;
        float next = half_from_f16((uint16_t) (bits + 1)), middle = (x + next) / 2;
        uint16_t even = (uint16_t) (bits & 1 ? bits + 1 : bits);
        assert_int_equal(half_to_f16(middle), even);
        assert_int_equal(half_to_f16(nextafterf(middle, x)), bits);
        assert_int_equal(half_to_f16(nextafterf(middle, next)), bits + 1);
    }
    assert_int_equal(half_to_f16(65520.0f), 0x7c00);
    assert_int_equal(half_to_f16(65519.99f), 0x7bff);
    assert_int_equal(half_to_bf16(1.00390625f), 0x3f80); /* tie to even */
    assert_int_equal(half_to_bf16(1.01171875f), 0x3f82);
    assert_true(isnan(half_from_bf16(half_to_bf16(NAN))));
}

static void eighths(void **state) {
    for (uint32_t bits = 0; bits < 256; bits++) {
        float x = half_from_e4m3((uint8_t) bits);
        uint32_t exponent = bits >> 3 & 15, fraction = bits & 7;
        if ((bits & 0x7f) == 0x7f) {
            assert_true(isnan(x));
            continue;
        }
        double want = exponent ? ldexp(8 + fraction, (int) exponent - 10) : ldexp(fraction, -9);
        assert_true((double) x == (bits & 0x80 ? -want : want));
        assert_int_equal(half_to_e4m3(x), bits);
        if ((bits & 0x7f) == 0x7e) continue;
        float next = half_from_e4m3((uint8_t) (bits + 1)), middle = (x + next) / 2;
        assert_int_equal(half_to_e4m3(middle), bits & 1 ? bits + 1 : bits);
        assert_int_equal(half_to_e4m3(nextafterf(middle, x)), bits);
        assert_int_equal(half_to_e4m3(nextafterf(middle, next)), bits + 1);
    }
    assert_int_equal(half_to_e4m3(1e9f), 0x7e);
}

static void bodies_agree(void **state) {
    enum cpu_body list[3];
    uint32_t count = bodies(list);
    uint64_t seed = 21;
    for (uint32_t length = 1; length < 100; length += length % 7 + 1) {
        float x[128], y[128], w[128], out[3][6][128];
        for (uint32_t i = 0; i < 128; i++) {
            x[i] = random_float(&seed, 40);
            y[i] = random_float(&seed, 2);
            w[i] = random_float(&seed, 1);
        }
        memset(out, 0, sizeof out);
        for (uint32_t b = 0; b < count; b++) {
            const struct cpu_rows_ops *ops = cpu_rows_of(list[b]);
            ops->norm(x, w, length, 1e-6f, out[b][0]);
            memcpy(out[b][1], x, sizeof x);
            ops->silu_mul(out[b][1], y, length);
            memcpy(out[b][2], x, sizeof x);
            ops->add(out[b][2], y, length);
            memcpy(out[b][3], x, sizeof x);
            ops->exp(out[b][3], length);
            for (uint32_t i = 0; i < 128; i++) out[b][4][i] = fabsf(x[i]) + 1e-9f;
            ops->log(out[b][4], length);
            float cos_sin[128], freq[64];
            for (uint32_t i = 0; i < 64; i++) freq[i] = fabsf(w[i]);
            ops->angles(12345, freq, length / 2, 1.1f, cos_sin);
            memcpy(out[b][5], x, sizeof x);
            ops->rotate(out[b][5], cos_sin, length / 2);
            for (uint32_t k = 0; k < 6; k++)
                if (memcmp(out[0][k], out[b][k], sizeof out[0][k]) != 0)
                    fail_msg("%s: kernel %u at length %u is not as scalar", cpu_body_name(list[b]),
                             k, length);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_is_accurate),  cmocka_unit_test(log_is_accurate),
        cmocka_unit_test(silu_is_accurate), cmocka_unit_test(angles_are_accurate),
        cmocka_unit_test(norm_is_right),    cmocka_unit_test(halves),
        cmocka_unit_test(eighths),          cmocka_unit_test(bodies_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
