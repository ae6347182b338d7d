/* Passes over logits: known answers of Philox, gumbels against libm, every pass against a plain
 * loop, the same answer from every body and however the range is split. */
#include <math.h>

#include "backend/cpu/cpu_scan.h"
#include "backend/cpu_bodies.h"

#define COUNT_MAX 3000

static float row[COUNT_MAX];

/* Rows with ties, masked tokens, and all values equal. */
static uint32_t draw_row(uint32_t round, uint64_t *seed) {
    uint32_t count = round % 4 == 0 ? 1 + (uint32_t) (random_next(seed) % 40)
                                    : 1 + (uint32_t) (random_next(seed) % COUNT_MAX);
    for (uint32_t i = 0; i < count; i++) {
        row[i] = random_float(seed, 20);
        if (round % 3 == 0) row[i] = floorf(row[i]);
        if (round % 7 == 0) row[i] = 1.5f;
        if (round % 5 == 0 && i > 0 && random_next(seed) % 3 == 0) row[i] = -INFINITY;
    }
    if (round % 2) row[random_next(seed) % count] = 25;
    return count;
}

static void philox_known_answers(void **state) {
    /* Random123's kat_vectors for philox4x32-10: counter 0, key 0. */
    enum cpu_body list[3];
    uint32_t body_count = bodies(list);
    for (uint32_t b = 0; b < body_count; b++) {
        uint32_t words[16];
        float gumbels[16];
        struct cpu_scan_draw how = {0, 0, 0};
        cpu_scan_of(list[b])->noise(how, 0, words, gumbels);
        assert_int_equal(words[0], 0x6627e8d5u);
    }
}

static void gumbels(void **state) {
    enum cpu_body list[3];
    uint32_t body_count = bodies(list);
    double sum = 0;
    for (uint32_t i = 0; i < 4000; i++) {
        uint32_t words[3][16];
        float values[3][16];
        struct cpu_scan_draw how = {i * 77777777777u, i % 5, i};
        for (uint32_t b = 0; b < body_count; b++) {
            cpu_scan_of(list[b])->noise(how, i * 16, words[b], values[b]);
            assert_memory_equal(words[0], words[b], sizeof words[0]);
            assert_memory_equal(values[0], values[b], sizeof values[0]);
        }
        for (uint32_t l = 0; l < 16; l++) {
            float v = fmaf((float) words[0][l], 0x1p-32f, 0x1p-33f);
            if (v > 1 - 0x1p-24f) v = 1 - 0x1p-24f;
            double want = -log(-log1p(-(double) v));
            assert_true(fabs((double) values[0][l] - want) < 2e-6 * (1 + fabs(want)));
            sum += want;
        }
    }
    /* The mean of the Gumbel distribution is Euler's constant; deviation pi / sqrt 6. */
    assert_true(fabs(sum / 64000 - 0.5772156649) < 4 * 1.2825 / sqrt(64000));
}

static void tops(void **state) {
    enum cpu_body list[3];
    uint32_t body_count = bodies(list);
    uint64_t seed = 1;
    for (uint32_t round = 1; round < 200; round++) {
        uint32_t count = draw_row(round % 5 ? round : round + 1, &seed), want = 0;
        for (uint32_t i = 1; i < count; i++)
            if (row[i] > row[want]) want = i;
        for (uint32_t b = 0; b < body_count; b++) {
            struct cpu_scan_top top = cpu_scan_of(list[b])->top(row, 0, count);
            assert_int_equal(top.id, want);
            assert_true(top.value == row[want] && top.is_finite);
            float kept = row[count / 2];
            const float odd[] = {NAN, INFINITY, -INFINITY};
            row[count / 2] = odd[round % 3];
            assert_false(cpu_scan_of(list[b])->top(row, 0, count).is_finite);
            row[count / 2] = kept;
        }
    }
}

static bool is_before(uint32_t a, uint32_t b) {
    return row[a] > row[b] || (row[a] == row[b] && a < b);
}

static void orders(void **state) {
    enum cpu_body list[3];
    uint32_t body_count = bodies(list);
    uint64_t seed = 2;
    for (uint32_t round = 1; round < 150; round++) {
        uint32_t count = draw_row(round, &seed), id = (uint32_t) (random_next(&seed) % count);
        uint32_t want = 0;
        for (uint32_t i = 0; i < count; i++) want += is_before(i, id);
        uint32_t n = 1 + round % 20, wanted = n < count ? n : count;
        for (uint32_t b = 0; b < body_count; b++) {
            const struct cpu_scan_ops *ops = cpu_scan_of(list[b]);
            assert_int_equal(ops->before(row, count, row[id], id), want);
            uint32_t ids[32];
            float values[32];
            assert_int_equal(ops->best(row, count, n, ids, values), wanted);
            for (uint32_t k = 0; k < wanted; k++) {
                uint32_t place = 0;
                for (uint32_t i = 0; i < count; i++) place += is_before(i, ids[k]);
                assert_int_equal(place, k);
                assert_true(values[k] == row[ids[k]]);
            }
        }
    }
}

static bool is_within(uint32_t i, struct cpu_scan_cut cut) {
    return row[i] > cut.value || (row[i] == cut.value && i <= cut.id);
}

static void cuts_and_draws(void **state) {
    enum cpu_body list[3];
    uint32_t body_count = bodies(list);
    uint64_t seed = 3;
    for (uint32_t round = 1; round < 150; round++) {
        uint32_t count = draw_row(round, &seed), id = (uint32_t) (random_next(&seed) % count);
        struct cpu_scan_cut cut = {row[id], id};
        float max = row[0];
        for (uint32_t i = 0; i < count; i++) max = row[i] > max ? row[i] : max;
        struct cpu_scan_draw how = {round, 2, round * 3};
        struct cpu_scan_top want = {.value = -INFINITY, .id = UINT32_MAX};
        for (uint32_t i = 0; i < count; i++) {
            uint32_t words[16];
            float noise[16];
            cpu_scan_scalar.noise(how, i, words, noise);
            if (is_within(i, cut) && row[i] + noise[0] > want.value)
                want = (struct cpu_scan_top){row[i] + noise[0], i, true};
        }
        for (uint32_t b = 0; b < body_count; b++) {
            const struct cpu_scan_ops *ops = cpu_scan_of(list[b]);
            struct cpu_scan_top none = {.value = -INFINITY, .id = UINT32_MAX};
            struct cpu_scan_top whole = ops->draw(row, 0, count, cut, how, none);
            assert_int_equal(whole.id, want.id);
            uint32_t middle = (uint32_t) (random_next(&seed) % (count + 1));
            struct cpu_scan_top part = ops->draw(row, 0, middle, cut, how, none);
            part = ops->draw(row, middle, count, cut, how, part);
            assert_true(part.id == whole.id && part.value == whole.value);
            if (max == -INFINITY) continue;
            static uint32_t counts[CPU_SCAN_BINS];
            static uint64_t weights[CPU_SCAN_BINS], keys[COUNT_MAX];
            memset(counts, 0, sizeof counts);
            memset(weights, 0, sizeof weights);
            ops->bins(row, count, max, cut, counts, weights);
            uint32_t total = 0, expected = 0;
            uint64_t weight = 0, expected_weight = 0;
            for (uint32_t i = 0; i < count; i++) {
                if (!is_within(i, cut)) continue;
                expected++;
                expected_weight +=
                    (uint64_t) (int64_t) (cpu_scan_scalar.exp_sum(&row[i], 0, 1, max) * 0x1p40f);
            }
            for (uint32_t bin = 0; bin < CPU_SCAN_BINS; bin++) {
                total += counts[bin];
                weight += weights[bin];
                if (!counts[bin]) continue;
                uint32_t found = ops->gather(row, count, max, cut, bin, keys);
                assert_int_equal(found, counts[bin]);
                for (uint32_t k = 0; k < found; k++) {
                    struct cpu_scan_cut token = cpu_scan_cut_of(keys[k]);
                    assert_true(row[token.id] == token.value && is_within(token.id, cut));
                }
            }
            assert_int_equal(total, expected);
            assert_true(weight == expected_weight);
        }
    }
}

static void keys_keep_the_order(void **state) {
    const float values[] = {INFINITY, 3e38f,   2.0f,  1.0f,   1e-40f,
                            0.0f,     -1e-40f, -1.0f, -3e38f, -INFINITY};
    for (size_t i = 0; i + 1 < ARRAY_COUNT(values); i++) {
        assert_true(cpu_scan_key(values[i], 100) < cpu_scan_key(values[i + 1], 5));
        assert_true(cpu_scan_key(values[i], 5) < cpu_scan_key(values[i], 6));
        assert_true(cpu_scan_cut_of(cpu_scan_key(values[i], 7)).value == values[i]);
        assert_int_equal(cpu_scan_cut_of(cpu_scan_key(values[i], 7)).id, 7);
    }
    assert_true(cpu_scan_key(0.0f, 1) == cpu_scan_key(-0.0f, 1));
}

static void sums(void **state) {
    enum cpu_body list[3];
    uint32_t body_count = bodies(list);
    uint64_t seed = 6;
    for (uint32_t round = 1; round < 60; round++) {
        uint32_t count = draw_row(round, &seed), first = (uint32_t) (random_next(&seed) % count);
        double want = 0;
        for (uint32_t i = first; i < count; i++) want += exp((double) row[i] - 25);
        float got = cpu_scan_scalar.exp_sum(row, first, count, 25);
        assert_true(fabs((double) got - want) <= 5e-6 * want + 1e-37);
        for (uint32_t b = 0; b < body_count; b++) {
            assert_true(cpu_scan_of(list[b])->exp_sum(row, first, count, 25) == got);
            static float out[3][COUNT_MAX];
            cpu_scan_of(list[b])->divide(row, count, 0.7f, out[b]);
            for (uint32_t i = 0; i < count; i++) assert_true(out[b][i] == row[i] / 0.7f);
            assert_true(cpu_scan_of(list[b])->log(0.05f) == cpu_scan_scalar.log(0.05f));
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_known_answers),
        cmocka_unit_test(gumbels),
        cmocka_unit_test(tops),
        cmocka_unit_test(orders),
        cmocka_unit_test(cuts_and_draws),
        cmocka_unit_test(keys_keep_the_order),
        cmocka_unit_test(sums),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
