/* Attention over one tile: against double precision for every KV format, odd ranges and group
 * sizes; a row's bits are its own whatever rows stand beside it; bodies agree; memory outside the
 * ranges may hold NaN; folding; the runs' layout. */
#include <math.h>

#include "backend/cpu/cpu_attention.h"
#include "backend/cpu/cpu_half.h"
#include "backend/cpu/cpu_kv.h"
#include "backend/cpu_bodies.h"

#define ROWS_MAX 13
#define DIM_MAX 128

struct fixture {
    enum kv_dtype dtype;
    uint32_t head_dim, block_size;
    uint8_t *key_runs, *value_runs; /* 128 / block_size runs each */
    uint64_t run_bytes;
    float keys[CPU_TILE][DIM_MAX], values[CPU_TILE][DIM_MAX]; /* as rounded */
    float unpacked[2][CPU_TILE * DIM_MAX];
};

static struct fixture fixture;

static float key_at(const struct fixture *f, const uint8_t *run, uint32_t slot, uint32_t place,
                    bool is_value) {
    uint64_t at = is_value ? (uint64_t) slot * f->head_dim + place
                           : (uint64_t) (slot / 8) * f->head_dim * 8 + place * 8 + slot % 8;
    uint16_t half;
    float scale, x;
    switch (f->dtype) {
    case KV_DTYPE_F32: memcpy(&x, run + at * 4, 4); return x;
    case KV_DTYPE_F16: memcpy(&half, run + at * 2, 2); return half_from_f16(half);
    case KV_DTYPE_BF16: memcpy(&half, run + at * 2, 2); return half_from_bf16(half);
    default:
        memcpy(&scale, run + (uint64_t) f->block_size * f->head_dim + slot * 4, 4);
        return (f->dtype == KV_DTYPE_INT8 ? (float) (int8_t) run[at] : half_from_e4m3(run[at])) *
               scale;
    }
}

/* Writes 128 random slots (those of `holes` are left as NaN bytes) with the scalar body. */
static void fill(struct fixture *f, enum kv_dtype dtype, uint32_t head_dim, uint32_t block_size,
                 uint32_t first_hole, uint64_t *seed) {
    f->dtype = dtype;
    f->head_dim = head_dim;
    f->block_size = block_size;
    f->run_bytes = kv_dtype_run_bytes(dtype, block_size, head_dim);
    uint64_t bytes = f->run_bytes * (CPU_TILE / block_size);
    free(f->key_runs);
    free(f->value_runs);
    f->key_runs = aligned_alloc(64, (bytes + 63) / 64 * 64);
    f->value_runs = aligned_alloc(64, (bytes + 63) / 64 * 64);
    memset(f->key_runs, 0xff, bytes);
    memset(f->value_runs, 0xff, bytes);
    for (uint32_t s = 0; s < first_hole; s++) {
        float key[DIM_MAX], value[DIM_MAX];
        for (uint32_t d = 0; d < head_dim; d++) {
            key[d] = random_float(seed, 2);
            value[d] = random_float(seed, 2);
        }
        uint8_t *key_run = f->key_runs + s / block_size * f->run_bytes;
        uint8_t *value_run = f->value_runs + s / block_size * f->run_bytes;
        cpu_attention_scalar.store_key(dtype, head_dim, key, key_run, block_size, s % block_size);
        cpu_attention_scalar.store_value(dtype, head_dim, value, value_run, block_size,
                                         s % block_size);
        for (uint32_t p = 0; p < head_dim; p++) {
            uint32_t d = cpu_attention_dimension(head_dim, p);
            f->keys[s][d] = key_at(f, key_run, s % block_size, p, false);
            f->values[s][p] = key_at(f, value_run, s % block_size, p, true);
            double margin = dtype == KV_DTYPE_F32    ? 0
                            : dtype == KV_DTYPE_F16  ? 1e-3
                            : dtype == KV_DTYPE_BF16 ? 8e-3
                            : dtype == KV_DTYPE_INT8 ? 8e-3
                                                     : 7.2e-2;
            assert_true(fabs((double) (f->keys[s][d] - key[d])) <= margin);
            assert_true(fabs((double) (f->values[s][p] - value[p])) <= margin);
        }
    }
}

static struct cpu_attention_tile tile_of(struct fixture *f, const struct cpu_attention_ops *ops,
                                         uint32_t slot_end) {
    struct cpu_attention_tile tile = {{NULL}, {NULL}};
    bool is_packed = cpu_kv_has_scales(f->dtype);
    for (uint32_t p = 0; p * 8 < slot_end; p++) {
        uint32_t packet = p * 8 % f->block_size / 8;
        const uint8_t *key_run = f->key_runs + p * 8 / f->block_size * f->run_bytes;
        const uint8_t *value_run = f->value_runs + p * 8 / f->block_size * f->run_bytes;
        uint64_t at = (uint64_t) packet * 8 * f->head_dim * cpu_kv_element_bytes(f->dtype);
        tile.keys[p] = key_run + at;
        tile.values[p] = value_run + at;
        if (!is_packed) continue;
        float *keys = f->unpacked[0] + p * 8 * f->head_dim;
        float *values = f->unpacked[1] + p * 8 * f->head_dim;
        ops->unpack_keys(f->dtype, f->head_dim, key_run, f->block_size, packet, keys);
        ops->unpack_values(f->dtype, f->head_dim, value_run, f->block_size, packet, values);
        tile.keys[p] = (const uint8_t *) keys;
        tile.values[p] = (const uint8_t *) values;
    }
    return tile;
}

struct results {
    float max[ROWS_MAX], sum[ROWS_MAX], acc[ROWS_MAX * DIM_MAX];
};

static void run(struct fixture *f, const struct cpu_attention_ops *ops, uint32_t row_count,
                const float *raw, const uint32_t *first, const uint32_t *end, struct results *out) {
    static float queries[ROWS_MAX * DIM_MAX], scores[CPU_ATTENTION_SCORES];
    uint32_t slot_end = 0;
    for (uint32_t r = 0; r < row_count; r++) {
        ops->arrange(f->head_dim, raw + r * f->head_dim, 0.3f, queries + r * f->head_dim);
        if (end[r] > slot_end) slot_end = end[r];
    }
    struct cpu_attention_tile tile = tile_of(f, ops, slot_end);
    struct cpu_attention_rows rows = {row_count, f->head_dim, queries,  first,   end,
                                      scores,    out->max,    out->sum, out->acc};
    ops->tile(cpu_kv_has_scales(f->dtype) ? KV_DTYPE_F32 : f->dtype, &tile, &rows);
}

static void check_row(const struct fixture *f, const float *raw, uint32_t first, uint32_t end,
                      float max, float sum, const float *acc) {
    double weights[CPU_TILE], top = -1e30, total = 0;
    for (uint32_t s = first; s < end; s++) {
        weights[s] = 0;
        for (uint32_t d = 0; d < f->head_dim; d++)
            weights[s] += (double) (raw[d] * 0.3f) * (double) f->keys[s][d];
        top = fmax(top, weights[s]);
    }
    assert_true(fabs(top - (double) max) < 1e-5);
    for (uint32_t s = first; s < end; s++) total += weights[s] = exp(weights[s] - (double) max);
    assert_true(fabs(total - (double) sum) < 1e-5 * total);
    for (uint32_t d = 0; d < f->head_dim; d++) {
        double want = 0;
        for (uint32_t s = first; s < end; s++) want += weights[s] * (double) f->values[s][d];
        assert_true(fabs(want - (double) acc[d]) < 1e-4);
    }
}

/* Random ranges, some empty, some equal, as chunks and windows make them. */
static void draw_ranges(uint32_t row_count, uint32_t limit, uint32_t kind, uint64_t *seed,
                        uint32_t *first, uint32_t *end) {
    for (uint32_t r = 0; r < row_count; r++) {
        switch (kind % 4) {
        case 0: /* decode: all rows alike */
            first[r] = 0;
            end[r] = limit;
            break;
        case 1: /* causal chunk */
            first[r] = 0;
            end[r] = limit > r / 2 ? limit - r / 2 : 0;
            break;
        case 2: /* window */
            end[r] = limit > r ? limit - r : 0;
            first[r] = end[r] > 21 ? end[r] - 21 : 0;
            break;
        default:
            first[r] = (uint32_t) (random_next(seed) % (limit + 1));
            end[r] = (uint32_t) (random_next(seed) % (limit + 1));
        }
        if (first[r] >= end[r]) first[r] = end[r] = 0;
    }
}

static void tiles(void **state) {
    const enum kv_dtype dtypes[] = {KV_DTYPE_F32, KV_DTYPE_F16, KV_DTYPE_BF16, KV_DTYPE_INT8,
                                    KV_DTYPE_FP8};
    const uint32_t dims[] = {16, 48, 64, 128}, blocks[] = {8, 16, 128};
    enum cpu_body list[3];
    uint32_t body_count = bodies(list);
    uint64_t seed = 99;
    for (uint32_t round = 0; round < 240; round++) {
        uint32_t limit = round % 5 == 0 ? CPU_TILE : 1 + (uint32_t) (random_next(&seed) % CPU_TILE);
        fill(&fixture, dtypes[round % 5], dims[round / 5 % 4], blocks[round / 20 % 3], limit,
             &seed);
        uint32_t row_count = 1 + round % ROWS_MAX, head_dim = fixture.head_dim;
        static float raw[ROWS_MAX * DIM_MAX];
        for (uint32_t i = 0; i < row_count * head_dim; i++) raw[i] = random_float(&seed, 3);
        uint32_t first[ROWS_MAX], end[ROWS_MAX];
        draw_ranges(row_count, limit, round / 3, &seed, first, end);
        static struct results results[3], single;
        for (uint32_t b = 0; b < body_count; b++) {
            memset(&results[b], 0, sizeof results[b]);
            run(&fixture, cpu_attention_of(list[b]), row_count, raw, first, end, &results[b]);
            if (memcmp(&results[0], &results[b], sizeof results[0]) != 0)
                fail_msg("round %u: %s is not as scalar", round, cpu_body_name(list[b]));
        }
        for (uint32_t r = 0; r < row_count; r++) {
            if (first[r] >= end[r]) {
                assert_true(results[0].sum[r] == 0); /* left alone */
                continue;
            }
            check_row(&fixture, raw + r * head_dim, first[r], end[r], results[0].max[r],
                      results[0].sum[r], results[0].acc + r * head_dim);
            for (uint32_t b = 0; b < body_count; b++) {
                run(&fixture, cpu_attention_of(list[b]), 1, raw + r * head_dim, first + r, end + r,
                    &single);
                bool is_same =
                    single.max[0] == results[b].max[r] && single.sum[0] == results[b].sum[r] &&
                    memcmp(single.acc, results[b].acc + r * head_dim, head_dim * sizeof(float)) ==
                        0;
                if (!is_same) fail_msg("round %u: row %u alone gives other bits", round, r);
            }
        }
    }
}

static void stores_agree(void **state) {
    const enum kv_dtype dtypes[] = {KV_DTYPE_F32, KV_DTYPE_F16, KV_DTYPE_BF16, KV_DTYPE_INT8,
                                    KV_DTYPE_FP8};
    enum cpu_body list[3];
    uint32_t body_count = bodies(list);
    uint64_t seed = 4;
    for (uint32_t i = 0; i < 200; i++) {
        enum kv_dtype dtype = dtypes[i % 5];
        static uint8_t runs[3][2][16 * 64 * 4 + 64];
        float x[64];
        float reach = i % 3 == 0 ? 1e-40f : i % 3 == 1 ? 1e6f : 1;
        for (uint32_t d = 0; d < 64; d++) x[d] = random_float(&seed, reach);
        if (i % 10 == 9) x[7] = i % 20 == 9 ? INFINITY : NAN;
        memset(runs, 0, sizeof runs);
        for (uint32_t b = 0; b < body_count; b++) {
            const struct cpu_attention_ops *ops = cpu_attention_of(list[b]);
            ops->store_key(dtype, 64, x, runs[b][0], 16, i % 16);
            ops->store_value(dtype, 64, x, runs[b][1], 16, i % 16);
            if (memcmp(runs[0], runs[b], sizeof runs[0]) != 0)
                fail_msg("%s of %s is not as scalar", cpu_body_name(list[b]), kv_dtype_name(dtype));
        }
    }
}

static void folding(void **state) {
    enum cpu_body list[3];
    uint32_t body_count = bodies(list);
    uint64_t seed = 8;
    for (uint32_t i = 0; i < 100; i++) {
        float acc[64], other[64], max = random_float(&seed, 50),
                                  fresh_max = random_float(&seed, 50);
        float sum = 1 + fabsf(random_float(&seed, 5)),
              fresh_sum = 1 + fabsf(random_float(&seed, 5));
        for (uint32_t d = 0; d < 64; d++) {
            acc[d] = random_float(&seed, 2);
            other[d] = random_float(&seed, 2);
        }
        float out[3][66];
        for (uint32_t b = 0; b < body_count; b++) {
            const struct cpu_attention_ops *ops = cpu_attention_of(list[b]);
            out[b][64] = max;
            out[b][65] = sum;
            memcpy(out[b], acc, sizeof acc);
            ops->fold(64, &out[b][64], &out[b][65], out[b], fresh_max, fresh_sum, other);
            assert_memory_equal(out[0], out[b], sizeof out[0]);
        }
        double top = fmax((double) max, (double) fresh_max);
        double a = exp((double) max - top), c = exp((double) fresh_max - top);
        assert_true(fabs((double) out[0][65] - ((double) sum * a + (double) fresh_sum * c)) < 1e-5);
        for (uint32_t d = 0; d < 64; d++)
            assert_true(fabs((double) out[0][d] - ((double) acc[d] * a + (double) other[d] * c)) <
                        1e-5);
    }
}

static void places_are_a_permutation(void **state) {
    for (uint32_t head_dim = 16; head_dim <= CPU_HEAD_DIM_MAX; head_dim += 16) {
        uint8_t seen[CPU_HEAD_DIM_MAX] = {0};
        for (uint32_t p = 0; p < head_dim; p++) {
            uint32_t d = cpu_attention_dimension(head_dim, p);
            assert_true(d < head_dim && !seen[d]);
            seen[d] = 1;
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiles),
        cmocka_unit_test(stores_agree),
        cmocka_unit_test(folding),
        cmocka_unit_test(places_are_a_permutation),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(fixture.key_runs);
    free(fixture.value_runs);
    return failed;
}
