/* cpu_matmul - packing keeps every weight; the product is right (against double precision); every
 * body that this processor runs gives the scalar body's bits, at odd sizes, however rows, groups
 * and threads are dealt; segments join as the tree of neighbours; zeros, subnormals and NaN.
 *
 * The AVX-512 tests run where there is AVX-512, and say so where there is not. */
#include "backend/cpu/cpu_matmul.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/cpu/cpu_half.h"
#include "backend/cpu/cpu_matmul_body.h"
#include "base/num.h"
#include "base/team.h"

#define SEED 20261124u

static uint64_t random_state = SEED;

static uint32_t random_u32(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t) (random_state >> 32);
}

static float random_float(void) { return (float) (int32_t) random_u32() * 0x1p-31f; }

static void *take(uint64_t bytes) {
    void *block = aligned_alloc(64, num_round_up(bytes + 1, 64));
    assert_non_null(block);
    memset(block, 0xa5, bytes);
    return block;
}

/* An f16 of magnitude 2^-14 .. 2^0, sometimes 0 or subnormal. */
static uint16_t random_half(void) {
    uint32_t dice = random_u32() % 16;
    uint16_t sign = (uint16_t) (random_u32() % 2 << 15);
    if (dice == 0) return sign;
    if (dice == 1) return (uint16_t) (sign | random_u32() % 1024);
    return (uint16_t) (sign | (1 + random_u32() % 14) << 10 | random_u32() % 1024);
}

/* Offsets of the f16 fields of a stored block; everything else is any byte. */
static unsigned half_offsets(enum tensor_type type, unsigned out[2]) {
    switch (type) {
    case TENSOR_Q6_K: out[0] = 208; return 1;
    case TENSOR_Q8_0:
    case TENSOR_Q4_0:
    case TENSOR_Q5_0: out[0] = 0; return 1;
    default:
        out[0] = 0;
        out[1] = 2;
        return 2;
    }
}

static void make_row(enum tensor_type type, uint32_t columns, uint8_t *row) {
    if (!tensor_type_is_quantized(type)) {
        for (uint32_t k = 0; k < columns; k++) {
            float value = random_float();
            uint16_t half = random_half();
            uint32_t bits;
            memcpy(&bits, &value, 4);
            if (type == TENSOR_BF16) half = (uint16_t) (bits >> 16);
            if (type == TENSOR_F32) memcpy(row + 4 * (uint64_t) k, &value, 4);
            else memcpy(row + 2 * (uint64_t) k, &half, 2);
        }
        return;
    }
    uint64_t bytes = tensor_type_bytes(type, columns);
    uint64_t block_bytes = tensor_type_bytes(type, tensor_type_block(type));
    for (uint64_t i = 0; i < bytes; i++) row[i] = (uint8_t) random_u32();
    unsigned offsets[2], count = half_offsets(type, offsets);
    for (uint64_t at = 0; at < bytes; at += block_bytes)
        for (unsigned i = 0; i < count; i++) {
            uint16_t half = random_half();
            memcpy(row + at + offsets[i], &half, 2);
        }
}

/* A matrix with its stored rows, packed. */
struct fixture {
    struct cpu_matrix matrix;
    uint8_t *stored;
    uint64_t row_bytes;
    uint8_t *data;
};

static void fixture_init(struct fixture *fixture, enum numerics numerics, enum tensor_type type,
                         uint32_t rows, uint32_t columns, const uint32_t *ends, uint32_t count) {
    struct err_text text;
    enum err e =
        cpu_matrix_init(&fixture->matrix, numerics, type, rows, columns, ends, count, &text);
    assert_int_equal(e, ERR_OK);
    fixture->row_bytes = tensor_type_bytes(type, columns);
    fixture->stored = take(rows * fixture->row_bytes);
    fixture->data = take(cpu_matrix_bytes(&fixture->matrix));
    memset(fixture->data, 0, cpu_matrix_bytes(&fixture->matrix));
    for (uint32_t n = 0; n < rows; n++) {
        uint8_t *row = fixture->stored + n * fixture->row_bytes;
        make_row(type, columns, row);
        cpu_matrix_set_lane(&fixture->matrix, n % CPU_GROUP, row,
                            fixture->data + n / CPU_GROUP * fixture->matrix.group_bytes);
    }
    fixture->matrix.data = fixture->data;
}

static void fixture_release(struct fixture *fixture) {
    free(fixture->stored);
    free(fixture->data);
}

static struct cpu_activations make_activations(enum cpu_body body, const struct cpu_matrix *matrix,
                                               uint32_t rows, const float *x) {
    struct cpu_activations out = {
        .numerics = matrix->numerics, .rows = rows, .columns = matrix->columns};
    out.data = take(cpu_activations_bytes(matrix->numerics, rows, matrix->columns));
    cpu_activations_set(body, &out, 0, rows, x, matrix->columns);
    return out;
}

static float *make_x(uint32_t rows, uint32_t columns) {
    float *x = take((uint64_t) rows * columns * sizeof(float));
    for (uint64_t i = 0; i < (uint64_t) rows * columns; i++)
        x[i] = random_float() * (i / CPU_BLOCK % 7 == 3 ? 0.0f : 4.0f);
    return x;
}

/* Bodies this processor runs; the AVX-512 one also with what can be turned off. */
struct variant {
    enum cpu_body body;
    bool is_vnni, is_bf16;
    const char *name;
};

static void allow(bool vnni, bool bf16) {
    cpu_body_allow_vnni(vnni);
    cpu_body_allow_bf16(bf16);
}

static unsigned list_variants(struct variant out[4]) {
    static const char *const words[] = {"scalar", "avx2", "avx512"};
    unsigned count = 0;
    for (unsigned i = 0; i < 3; i++) {
        enum cpu_body body;
        struct err_text text;
        if (cpu_body_choose(words[i], &text, &body)) {
            printf("not run here: %s\n", text.text);
            continue;
        }
        if (body == CPU_BODY_AVX512) {
            allow(true, true);
            if (cpu_body_has_vnni() || cpu_body_has_bf16())
                out[count++] = (struct variant){body, true, true, "avx512 vnni bf16"};
            if (!cpu_body_has_bf16()) printf("not run here: vdpbf16ps\n");
        }
        out[count++] = (struct variant){body, false, false, words[i]};
    }
    return count;
}

static float *multiply(const struct variant *variant, const struct fixture *fixture,
                       uint32_t row_count, const float *x) {
    allow(variant->is_vnni, variant->is_bf16);
    struct cpu_activations activations =
        make_activations(variant->body, &fixture->matrix, row_count, x);
    float *out = take((uint64_t) row_count * fixture->matrix.rows * sizeof(float));
    cpu_matmul(variant->body, &fixture->matrix, &activations, 0, fixture->matrix.group_count, out,
               fixture->matrix.rows);
    allow(true, true);
    free(activations.data);
    return out;
}

/* The numerics a type is computed in here: its own class, then f32a. */
static const enum numerics classes[] = {NUMERICS_Q8A32, NUMERICS_F32A};

static void test_round_trip(void **state) {
    (void) state;
    for (unsigned c = 0; c < ARRAY_COUNT(classes); c++)
        for (unsigned t = 0; t < TENSOR_TYPE_COUNT; t++) {
            enum tensor_type type = (enum tensor_type) t;
            uint32_t columns = tensor_type_block(type) == 256  ? 768
                               : tensor_type_block(type) == 32 ? 288
                                                               : 77;
            struct fixture fixture;
            fixture_init(&fixture, classes[c], type, 21, columns, NULL, 0);
            float *want = take(columns * sizeof(float)), *got = take(columns * sizeof(float));
            for (uint32_t n = 0; n < 21; n++) {
                tensor_type_row_to_f32(type, fixture.stored + n * fixture.row_bytes, columns, want);
                cpu_matrix_row_to_f32(&fixture.matrix, n, got);
                for (uint32_t k = 0; k < columns; k++) assert_true(want[k] == got[k]);
            }
            free(want);
            free(got);
            fixture_release(&fixture);
        }
}

/* Against double precision on the very operands of the class: each of the fewer than 2 K roundings
 * of a sum is at most 2^-24 of the sum of magnitudes. */
static void check_reference(const struct fixture *fixture, uint32_t row_count, const float *x,
                            const float *got) {
    const struct cpu_matrix *matrix = &fixture->matrix;
    struct cpu_activations activations = make_activations(CPU_BODY_SCALAR, matrix, row_count, x);
    uint64_t stride = cpu_activations_stride(matrix->numerics, matrix->columns);
    float *weight = take(matrix->columns * sizeof(float));
    for (uint32_t n = 0; n < matrix->rows; n++) {
        tensor_type_row_to_f32(matrix->type, fixture->stored + n * fixture->row_bytes,
                               matrix->columns, weight);
        for (uint32_t r = 0; r < row_count; r++) {
            double sum = 0, magnitude = 0;
            for (uint32_t k = 0; k < matrix->columns; k++) {
                const uint8_t *row = activations.data + r * stride;
                const struct cpu_activation_block *block =
                    (const struct cpu_activation_block *) row + k / CPU_BLOCK;
                double value = matrix->numerics == NUMERICS_F32A ? ((const float *) row)[k]
                               : matrix->numerics == NUMERICS_BF16P
                                   ? half_from_bf16(((const uint16_t *) (const void *) row)[k])
                                   : (double) block->scale * block->quants[k % CPU_BLOCK];
                sum += value * weight[k];
                magnitude += fabs(value) * fabs(weight[k]);
                /* A weight of "scale x quant + min" is two terms of the sum. */
                if (matrix->numerics == NUMERICS_Q8A32) magnitude += fabs(value) * 40;
            }
            double bound = magnitude * 2 * matrix->columns * 0x1p-24 + 1e-30;
            double error = fabs(got[(uint64_t) r * matrix->rows + n] - sum);
            if (!(error <= bound)) print_error("row %u, output %u: off by %g\n", r, n, error);
            assert_true(error <= bound);
        }
    }
    free(weight);
    free(activations.data);
}

struct shape {
    uint32_t rows, columns;
    uint32_t segment_count;
    uint32_t ends[5]; /* x 32 */
};

/* K is a multiple of 256 where the type wants it (x 8). */
static const struct shape shapes[] = {
    {1, 32, 1, {1}},         {16, 64, 1, {2}},
    {37, 160, 3, {1, 3, 5}}, {100, 544, 5, {1, 6, 7, 16, 17}},
    {150, 1120, 1, {35}},
};

static void check_bodies(enum numerics numerics, enum tensor_type type, const struct shape *shape,
                         const struct variant *variants, unsigned variant_count) {
    uint32_t scale = tensor_type_block(type) == 256 ? 8 : 1;
    uint32_t columns = shape->columns * scale, ends[5];
    if (scale == 8 && columns > 2048) return;
    for (unsigned i = 0; i < shape->segment_count; i++) ends[i] = shape->ends[i] * 32 * scale;
    if (scale == 8 && shape->segment_count > 1) ends[0] += 32; /* not at a whole block of 256 */
    struct fixture fixture;
    fixture_init(&fixture, numerics, type, shape->rows, columns, ends, shape->segment_count);
    uint32_t row_counts[] = {1, 2, 3, 4, 5, 7, 13, 40};
    for (unsigned i = 0; i < ARRAY_COUNT(row_counts); i++) {
        if (shape->rows > 40 && row_counts[i] > 13) continue;
        float *x = make_x(row_counts[i], columns);
        float *want = multiply(&variants[0], &fixture, row_counts[i], x);
        if (i == 3) check_reference(&fixture, row_counts[i], x, want);
        for (unsigned v = 1; v < variant_count; v++) {
            float *got = multiply(&variants[v], &fixture, row_counts[i], x);
            uint64_t bytes = (uint64_t) row_counts[i] * shape->rows * sizeof(float);
            if (memcmp(want, got, bytes) != 0)
                print_error("%s %s: %u rows, N %u, K %u differ in the %s body\n",
                            numerics_name(numerics), tensor_type_name(type), row_counts[i],
                            shape->rows, columns, variants[v].name);
            assert_memory_equal(want, got, bytes);
            free(got);
        }
        free(want);
        free(x);
    }
    fixture_release(&fixture);
}

static void test_bodies(void **state) {
    (void) state;
    struct variant variants[4];
    unsigned variant_count = list_variants(variants);
    for (unsigned c = 0; c < ARRAY_COUNT(classes); c++)
        for (unsigned t = 0; t < TENSOR_TYPE_COUNT; t++)
            for (unsigned s = 0; s < ARRAY_COUNT(shapes); s++)
                check_bodies(classes[c], (enum tensor_type) t, &shapes[s], variants, variant_count);
    for (unsigned s = 0; s < ARRAY_COUNT(shapes); s++)
        check_bodies(NUMERICS_BF16P, TENSOR_BF16, &shapes[s], variants, variant_count);
}

/* Odd K of the float types, which have no blocks. */
static void test_odd_columns(void **state) {
    (void) state;
    struct variant variants[4];
    unsigned variant_count = list_variants(variants);
    const enum tensor_type types[] = {TENSOR_F32, TENSOR_F16, TENSOR_BF16};
    for (unsigned t = 0; t <= ARRAY_COUNT(types); t++) {
        const bool is_paired = t == ARRAY_COUNT(types);
        struct fixture fixture;
        fixture_init(&fixture, is_paired ? NUMERICS_BF16P : NUMERICS_F32A,
                     is_paired ? TENSOR_BF16 : types[t], 33, 523, (uint32_t[]){258, 523}, 2);
        for (uint32_t rows = 1; rows <= 40; rows++) {
            float *x = make_x(rows, 523);
            float *want = multiply(&variants[0], &fixture, rows, x);
            if (rows == 5) check_reference(&fixture, rows, x, want);
            for (unsigned v = 1; v < variant_count; v++) {
                float *got = multiply(&variants[v], &fixture, rows, x);
                assert_memory_equal(want, got, rows * 33 * sizeof(float));
                free(got);
            }
            free(want);
            free(x);
        }
        fixture_release(&fixture);
    }
}

/* Rows alone, rows together in any number, any range of groups: the same bits. */
static void test_independence(void **state) {
    (void) state;
    struct variant variants[4];
    unsigned variant_count = list_variants(variants);
    const enum tensor_type types[] = {TENSOR_Q4_1, TENSOR_Q8_0, TENSOR_Q6_K, TENSOR_BF16,
                                      TENSOR_BF16};
    for (unsigned t = 0; t < ARRAY_COUNT(types); t++)
        for (unsigned v = 1; v < variant_count; v++) {
            enum { N = 210, K = 768, ROWS = 300 };
            struct fixture fixture;
            fixture_init(&fixture, t == 4 ? NUMERICS_BF16P : NUMERICS_Q8A32, types[t], N, K,
                         (uint32_t[]){256, 512, K}, 3);
            float *x = make_x(ROWS, K);
            float *all = multiply(&variants[v], &fixture, ROWS, x);
            for (unsigned round = 0; round < 30; round++) {
                uint32_t first = random_u32() % ROWS;
                uint32_t count = round < 10 ? 1 : 1 + random_u32() % (ROWS - first);
                uint32_t group = random_u32() % fixture.matrix.group_count;
                uint32_t end = group + 1 + random_u32() % (fixture.matrix.group_count - group);
                allow(variants[v].is_vnni, variants[v].is_bf16);
                struct cpu_activations part = make_activations(variants[v].body, &fixture.matrix,
                                                               count, x + (uint64_t) first * K);
                float *got = take((uint64_t) count * N * sizeof(float));
                memset(got, 0, (uint64_t) count * N * sizeof(float));
                cpu_matmul(variants[v].body, &fixture.matrix, &part, group, end, got, N);
                allow(true, true);
                for (uint32_t r = 0; r < count; r++)
                    for (uint32_t n = 0; n < N; n++) {
                        bool is_in = n >= group * CPU_GROUP && n < end * CPU_GROUP;
                        float want = is_in ? all[(first + r) * N + n] : 0.0f;
                        assert_memory_equal(&want, &got[r * N + n], sizeof(float));
                    }
                free(got);
                free(part.data);
            }
            free(all);
            free(x);
            fixture_release(&fixture);
        }
}

/* The tree of numerics.md 3, level by level as it is written there. */
static void test_segments(void **state) {
    (void) state;
    enum cpu_body body;
    assert_int_equal(cpu_body_choose(NULL, NULL, &body), ERR_OK);
    for (uint32_t segment_count = 1; segment_count <= 11; segment_count++) {
        enum { N = 50, ROWS = 6 };
        uint32_t ends[11], columns = 0;
        for (uint32_t s = 0; s < segment_count; s++) ends[s] = columns += 32 * (1 + s % 3);
        struct fixture fixture;
        fixture_init(&fixture, NUMERICS_Q8A32, TENSOR_Q5_1, N, columns, ends, segment_count);
        float *x = make_x(ROWS, columns);
        struct cpu_activations activations = make_activations(body, &fixture.matrix, ROWS, x);
        float *planes = take((uint64_t) segment_count * ROWS * N * sizeof(float));
        float *got = take((uint64_t) ROWS * N * sizeof(float));
        cpu_matmul_segments(body, &fixture.matrix, &activations, 0, fixture.matrix.group_count,
                            planes, (uint64_t) ROWS * N, N);
        cpu_matmul(body, &fixture.matrix, &activations, 0, fixture.matrix.group_count, got, N);
        for (uint32_t i = 0; i < ROWS * N; i++) {
            float level[11];
            uint32_t live = segment_count;
            for (uint32_t s = 0; s < live; s++) level[s] = planes[s * ROWS * N + i];
            while (live > 1) {
                for (uint32_t s = 0; s + 1 < live; s += 2) level[s / 2] = level[s] + level[s + 1];
                if (live % 2 == 1) level[live / 2] = level[live - 1];
                live = (live + 1) / 2;
            }
            assert_memory_equal(&level[0], &got[i], sizeof(float));
        }
        free(planes);
        free(got);
        free(x);
        free(activations.data);
        fixture_release(&fixture);
    }
}

static void test_activations(void **state) {
    (void) state;
    struct variant variants[4];
    unsigned variant_count = list_variants(variants);
    enum { K = 32 * 64 };
    const float tricky[] = {0.0f,  -0.0f, 0x1p-149f, 0x1p-126f, 0x1.fp-120f, 1.0f, -1.0f,
                            127.f, 0.5f,  3e38f,     -3e38f,    1e-38f,      2.5f, -3.5f};
    for (unsigned round = 0; round < 50; round++) {
        float x[K];
        for (unsigned k = 0; k < K; k++) {
            x[k] = round % 2 == 0 ? random_float() * ldexpf(1, (int) (random_u32() % 40) - 20)
                                  : tricky[random_u32() % ARRAY_COUNT(tricky)];
            if (k / 32 % 5 == 2) x[k] = ldexpf(random_float(), -140); /* subnormal scales */
            if (k / 32 % 5 == 3) x[k] = tricky[k % 3];
        }
        if (round == 7) x[40] = NAN;
        if (round == 7) x[1000] = -INFINITY;
        struct cpu_matrix matrix = {.numerics = NUMERICS_Q8A32, .columns = K};
        struct cpu_activations want = make_activations(CPU_BODY_SCALAR, &matrix, 1, x);
        const struct cpu_activation_block *blocks = (const void *) want.data;
        for (unsigned b = 0; b < K / 32; b++) {
            int32_t total = 0;
            for (unsigned i = 0; i < 32; i++) {
                total += blocks[b].quants[i];
                assert_true(blocks[b].quants[i] >= -127);
                if (isnan(blocks[b].scale)) continue;
                double error =
                    fabs((double) x[b * 32 + i] - (double) blocks[b].scale * blocks[b].quants[i]);
                assert_true(error <= blocks[b].scale * 0.50001 + 127 * 0x1p-126);
            }
            assert_int_equal(total, blocks[b].total);
            assert_int_equal(total, blocks[b].halves[0] + blocks[b].halves[1]);
        }
        if (round == 7) assert_true(isnan(blocks[1].scale) && isnan(blocks[31].sum));
        for (unsigned v = 1; v < variant_count; v++) {
            struct cpu_activations got = make_activations(variants[v].body, &matrix, 1, x);
            assert_memory_equal(want.data, got.data, K / 32 * sizeof(*blocks));
            free(got.data);
        }
        free(want.data);
    }
}

/* The largest products: nothing saturates. */
static void test_extremes(void **state) {
    (void) state;
    struct variant variants[4];
    unsigned variant_count = list_variants(variants);
    enum { N = 16, K = 256, ROWS = 5 };
    float x[ROWS * K];
    for (unsigned i = 0; i < ROWS * K; i++) x[i] = i / K % 2 == 0 ? 127.0f : -127.0f;
    for (unsigned t = TENSOR_Q8_0; t < TENSOR_TYPE_COUNT; t++)
        for (unsigned fill = 0; fill < 4; fill++) {
            enum tensor_type type = (enum tensor_type) t;
            struct fixture fixture;
            fixture_init(&fixture, NUMERICS_Q8A32, type, N, K, NULL, 0);
            memset(fixture.data, 0, cpu_matrix_bytes(&fixture.matrix));
            uint64_t block_bytes = tensor_type_bytes(type, tensor_type_block(type));
            for (uint32_t n = 0; n < N; n++) {
                uint8_t *row = fixture.stored + n * fixture.row_bytes;
                memset(row, (int[]){0xff, 0x80, 0x7f, 0x00}[fill], fixture.row_bytes);
                unsigned offsets[2], count = half_offsets(type, offsets);
                for (uint64_t at = 0; at < fixture.row_bytes; at += block_bytes)
                    for (unsigned i = 0; i < count; i++)
                        memcpy(row + at + offsets[i], &(uint16_t){0x3c00}, 2);
                cpu_matrix_set_lane(&fixture.matrix, n, row, fixture.data);
            }
            float *want = multiply(&variants[0], &fixture, ROWS, x);
            check_reference(&fixture, ROWS, x, want);
            for (unsigned v = 1; v < variant_count; v++) {
                float *got = multiply(&variants[v], &fixture, ROWS, x);
                assert_memory_equal(want, got, ROWS * N * sizeof(float));
                float *alone = multiply(&variants[v], &fixture, 1, x);
                assert_memory_equal(want, alone, N * sizeof(float));
                free(alone);
                free(got);
            }
            free(want);
            fixture_release(&fixture);
        }
}

/* --- bf16p -------------------------------------------------------------------------------- */

/* One output of K = `count` products w x, on each body. */
static void expect_pairs(const float *w, const float *x, uint32_t count, float want) {
    struct variant variants[4];
    unsigned variant_count = list_variants(variants);
    struct fixture fixture;
    fixture_init(&fixture, NUMERICS_BF16P, TENSOR_BF16, 1, count, NULL, 0);
    for (uint32_t k = 0; k < count; k++)
        memcpy(fixture.stored + 2 * (uint64_t) k, &(uint16_t){half_to_bf16(w[k])}, 2);
    memset(fixture.data, 0, cpu_matrix_bytes(&fixture.matrix));
    cpu_matrix_set_lane(&fixture.matrix, 0, fixture.stored, fixture.data);
    for (unsigned v = 0; v < variant_count; v++) {
        float *got = multiply(&variants[v], &fixture, 1, x);
        if (memcmp(got, &want, sizeof want) != 0)
            fail_msg("%s: %a, not %a", variants[v].name, (double) *got, (double) want);
        free(got);
    }
    fixture_release(&fixture);
}

/* What the Intel SDM says of VDPBF16PS, where it differs from plainer arithmetic. */
static void test_pair_steps(void **state) {
    (void) state;
    /* The two products are not summed before: 2^24 + 1 is 2^24, twice. */
    expect_pairs((float[]){0x1p24f, 0, 1, 1}, (float[]){1, 1, 1, 1}, 4, 0x1p24f);
    /* The odd one comes first: 2^24 + 1 - 2^24 is 0, where 2^24 - 2^24 + 1 would be 1. */
    expect_pairs((float[]){0x1p24f, 0, -0x1p24f, 1}, (float[]){1, 1, 1, 1}, 4, 0);
    /* Fused: 2^24 + 1.00390625^2 is above the tie of 2^24 and 2^24 + 2. */
    expect_pairs((float[]){0x1p24f, 0, 0, 1.0078125f}, (float[]){1, 1, 0, 1.0078125f}, 4,
                 0x1p24f + 2);
    /* x is rounded to BF16, ties to even: 1 + 2^-8 is 1, 1 + 3 x 2^-8 is 1 + 2^-6. */
    expect_pairs((float[]){1, 1}, (float[]){1.00390625f, 0}, 2, 1);
    expect_pairs((float[]){1, 1}, (float[]){1.01171875f, 0}, 2, 1.015625f);
    /* Subnormal operands are zeros, and so is a subnormal result, with its sign kept. */
    expect_pairs((float[]){0x1p-127f, 0}, (float[]){0x1p100f, 0}, 2, 0);
    expect_pairs((float[]){0x1p-64f, 0}, (float[]){0x1p-62f, 0}, 2, 0x1p-126f);
    expect_pairs((float[]){0x1p-64f, 0}, (float[]){0x1p-63f, 0}, 2, 0);
    expect_pairs((float[]){-0x1p-64f, 0}, (float[]){0x1p-63f, 0}, 2, -0.0f);
    /* The result between the steps is flushed as well. */
    expect_pairs((float[]){0x1p-64f, 0x1p-64f}, (float[]){0x1p-63f, 0x1p-63f}, 2, 0);
    /* Tininess is looked for after rounding: 2^-126 - 0.5 x 2^-150 rounds up to 2^-126, and
     * 2^-126 - 0.75 x 2^-150 down to a number that is flushed. */
    expect_pairs((float[]){0, 0x1p-63f, -0x1p-75f, 0}, (float[]){0, 0x1p-63f, 0x1p-76f, 0}, 4,
                 0x1p-126f);
    expect_pairs((float[]){0, 0x1p-63f, -1.5f * 0x1p-75f, 0}, (float[]){0, 0x1p-63f, 0x1p-76f, 0},
                 4, 0);
    expect_pairs((float[]){0x1p100f, 0}, (float[]){0x1p30f, 0}, 2, INFINITY);
}

/* Any finite bits as weights and x: subnormals, products of any size, cancellation. */
static void test_pair_bits(void **state) {
    (void) state;
    struct variant variants[4];
    unsigned variant_count = list_variants(variants);
    for (unsigned round = 0; round < 300; round++) {
        enum { N = 33, ROWS = 3 };
        uint32_t columns = 2 + random_u32() % 40;
        uint32_t span = 1 + random_u32() % 120; /* of exponents */
        uint32_t low = round % 3 == 0 ? 0 : random_u32() % (254 - span);
        if (round % 3 == 1) low = 50 + random_u32() % 20; /* products near 2^-126 */
        struct fixture fixture;
        fixture_init(&fixture, NUMERICS_BF16P, TENSOR_BF16, N, columns, NULL, 0);
        memset(fixture.data, 0, cpu_matrix_bytes(&fixture.matrix));
        for (uint32_t n = 0; n < N; n++) {
            uint8_t *row = fixture.stored + n * fixture.row_bytes;
            for (uint32_t k = 0; k < columns; k++) {
                uint32_t bits =
                    (low + random_u32() % span) << 7 | random_u32() % 128 | random_u32() % 2 << 15;
                memcpy(row + 2 * (uint64_t) k, &(uint16_t){(uint16_t) bits}, 2);
            }
            cpu_matrix_set_lane(&fixture.matrix, n % CPU_GROUP, row,
                                fixture.data + n / CPU_GROUP * fixture.matrix.group_bytes);
        }
        float x[ROWS * 64];
        for (uint32_t i = 0; i < ROWS * columns; i++) {
            uint32_t bits = (low + random_u32() % span) << 23 | random_u32() % (1u << 23) |
                            random_u32() % 2 << 31;
            memcpy(&x[i], &bits, sizeof bits);
        }
        float *want = multiply(&variants[0], &fixture, ROWS, x);
        for (unsigned v = 1; v < variant_count; v++) {
            float *got = multiply(&variants[v], &fixture, ROWS, x);
            for (uint32_t i = 0; i < ROWS * N; i++) {
                if (isnan(want[i]) && isnan(got[i])) continue; /* infinity less infinity */
                if (memcmp(&want[i], &got[i], sizeof(float)) != 0)
                    fail_msg("round %u, %s, output %u: %a, the scalar body says %a", round,
                             variants[v].name, i, (double) got[i], (double) want[i]);
            }
            free(got);
        }
        free(want);
        fixture_release(&fixture);
    }
}

/* NaN goes to the rows that hold it and no other; outputs past N are not written. */
static void test_nan(void **state) {
    (void) state;
    struct variant variants[4];
    unsigned variant_count = list_variants(variants);
    for (unsigned t = 0; t <= TENSOR_TYPE_COUNT; t++)
        for (unsigned v = 0; v < variant_count; v++) {
            enum { N = 19, K = 256, ROWS = 9 };
            struct fixture fixture;
            if (t == TENSOR_TYPE_COUNT)
                fixture_init(&fixture, NUMERICS_BF16P, TENSOR_BF16, N, K, NULL, 0);
            else fixture_init(&fixture, NUMERICS_Q8A32, (enum tensor_type) t, N, K, NULL, 0);
            float *x = make_x(ROWS, K);
            x[4 * K + 100] = NAN;
            float *out = multiply(&variants[v], &fixture, ROWS, x);
            for (uint32_t i = 0; i < ROWS * N; i++)
                assert_int_equal(isnan(out[i]) != 0, i / N == 4);
            free(out);
            free(x);
            fixture_release(&fixture);
        }
}

struct job {
    enum cpu_body body;
    struct team *team;
    const struct fixture *fixture;
    struct cpu_activations *activations;
    const float *x;
    float *out;
};

static void run_job(void *ctx, uint32_t thread, uint32_t thread_count) {
    struct job *job = ctx;
    const struct cpu_matrix *matrix = &job->fixture->matrix;
    uint32_t rows = job->activations->rows;
    cpu_activations_set(job->body, job->activations, rows * thread / thread_count,
                        rows * (thread + 1) / thread_count, job->x, matrix->columns);
    team_barrier(job->team);
    for (uint32_t i; (i = team_deal(job->team)) * 3 < matrix->group_count;) {
        uint32_t end = (uint32_t) num_min(i * 3 + 3, matrix->group_count);
        cpu_matmul(job->body, matrix, job->activations, i * 3, end, job->out, matrix->rows);
    }
}

static void test_threads(void **state) {
    (void) state;
    struct variant variants[4];
    enum { N = 330, K = 320, ROWS = 21 };
    const struct variant *last = &variants[list_variants(variants) - 1];
    struct fixture fixture;
    fixture_init(&fixture, NUMERICS_Q8A32, TENSOR_Q4_1, N, K, NULL, 0);
    float *x = make_x(ROWS, K);
    float *want = multiply(last, &fixture, ROWS, x);
    allow(last->is_vnni, last->is_bf16);
    for (uint32_t thread_count = 1; thread_count <= 5; thread_count++) {
        struct cpu_activations activations = make_activations(last->body, &fixture.matrix, ROWS, x);
        memset(activations.data, 0, 64);
        float *got = take(ROWS * N * sizeof(float));
        struct job job = {last->body, NULL, &fixture, &activations, x, got};
        assert_int_equal(team_create(thread_count, false, &job.team), ERR_OK);
        team_run(job.team, run_job, &job);
        team_destroy(job.team);
        assert_memory_equal(want, got, ROWS * N * sizeof(float));
        free(got);
        free(activations.data);
    }
    allow(true, true);
    free(want);
    free(x);
    fixture_release(&fixture);
}

static void test_refusals(void **state) {
    (void) state;
    struct cpu_matrix matrix = {.rows = 7};
    struct err_text text;
    assert_int_equal(cpu_matrix_init(&matrix, NUMERICS_BF16P, TENSOR_Q8_0, 4, 64, NULL, 0, &text),
                     ERR_UNSUPPORTED);
    assert_non_null(strstr(text.text, "bf16p"));
    assert_int_equal(cpu_matrix_init(&matrix, NUMERICS_Q8A32, TENSOR_Q4_1, 4, 40, NULL, 0, &text),
                     ERR_FORMAT);
    assert_int_equal(cpu_matrix_init(&matrix, NUMERICS_Q8A32, TENSOR_Q4_1, 4, 64,
                                     (uint32_t[]){16, 64}, 2, &text),
                     ERR_FORMAT);
    assert_int_equal(matrix.rows, 7);
    /* A float matrix in a quantized model is f32a, and its segments may end at any even k. */
    assert_int_equal(cpu_matrix_init(&matrix, NUMERICS_Q8A32, TENSOR_BF16, 4, 64,
                                     (uint32_t[]){16, 64}, 2, &text),
                     ERR_OK);
    assert_int_equal(matrix.numerics, NUMERICS_F32A);
    enum cpu_body body = CPU_BODY_SCALAR;
    assert_int_equal(cpu_body_choose("sse9", &text, &body), ERR_USAGE);
    assert_non_null(strstr(text.text, "sse9"));
    assert_string_equal(cpu_body_name(CPU_BODY_AVX2), "avx2");
}

int main(void) {
    printf("seed %u\n", SEED);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),   cmocka_unit_test(test_activations),
        cmocka_unit_test(test_bodies),       cmocka_unit_test(test_odd_columns),
        cmocka_unit_test(test_independence), cmocka_unit_test(test_segments),
        cmocka_unit_test(test_extremes),     cmocka_unit_test(test_nan),
        cmocka_unit_test(test_threads),      cmocka_unit_test(test_pair_steps),
        cmocka_unit_test(test_pair_bits),    cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
