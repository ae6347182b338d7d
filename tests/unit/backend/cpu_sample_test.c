/* Sampling: against a twin that sorts the whole vocabulary, over random settings; penalties, bias,
 * masks, bad words and min_tokens by hand; the distribution by chi-square; logprobs; limits. */
#include <math.h>

#include "backend/cpu/cpu_sample.h"
#include "backend/cpu_bodies.h"

#define VOCAB 700
#define LEN_MAX 64

struct bench {
    struct cpu_seat *seat;
    uint8_t *scratch;
    const struct cpu_scan_ops *scan;
};

static void bench_open(struct bench *bench, enum cpu_body body) {
    uint64_t bytes = cpu_sample_seat_bytes(VOCAB, LEN_MAX);
    bench->seat = aligned_alloc(64, bytes);
    memset(bench->seat, 0, bytes);
    cpu_sample_seat_init(bench->seat, VOCAB, LEN_MAX);
    bench->scratch = aligned_alloc(64, (cpu_sample_scratch_bytes(VOCAB) + 63) / 64 * 64);
    bench->scan = cpu_scan_of(body);
}

static void bench_close(struct bench *bench) {
    free(bench->seat);
    free(bench->scratch);
}

static struct result_row draw(struct bench *bench, const struct batch_row *row,
                              const float *logits) {
    struct result_row out = {.token_id = BACKEND_NO_TOKEN};
    cpu_sample_row(bench->scan, bench->seat, row, logits, bench->scan->top(logits, 0, VOCAB),
                   bench->scratch, &out);
    return out;
}

static void seat(struct bench *bench, const struct sampling *sampling, const uint32_t *prompt,
                 uint32_t prompt_count, const uint32_t *output, uint32_t output_count) {
    struct seat_setup setup = {.prompt_ids = prompt,
                               .prompt_count = prompt_count,
                               .output_ids = output,
                               .output_count = output_count,
                               .sampling = sampling,
                               .choice_index = 3};
    assert_int_equal(cpu_sample_seat_set(bench->seat, &setup), ERR_OK);
}

/* --- the twin ----------------------------------------------------------------------------- */

static const float *sort_values;

static int by_order(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *) a, y = *(const uint32_t *) b;
    if (sort_values[x] != sort_values[y]) return sort_values[x] > sort_values[y] ? -1 : 1;
    return x < y ? -1 : 1;
}

static uint64_t weight_of(float value, float max) {
    return (uint64_t) (int64_t) (cpu_scan_scalar.exp_sum(&value, 0, 1, max) * 0x1p40f);
}

/* The token by the letter of numerics.md 5, from logits after bias, masks and penalties. */
static uint32_t twin(const struct sampling *sampling, const float *changed, uint32_t output_index) {
    float x[VOCAB];
    uint32_t order[VOCAB], count = VOCAB;
    float divisor = sampling->temperature > 0 ? sampling->temperature : 1;
    for (uint32_t i = 0; i < VOCAB; i++) {
        x[i] = changed[i] / divisor;
        order[i] = i;
    }
    sort_values = x;
    qsort(order, VOCAB, sizeof *order, by_order);
    if (sampling->temperature == 0) return order[0];
    float max = x[order[0]];
    if (sampling->min_p > 0) {
        float lowest = max + cpu_scan_scalar.log(sampling->min_p);
        while (count > 1 && x[order[count - 1]] < lowest) count--;
    }
    if (sampling->top_k > 0 && (uint32_t) sampling->top_k < count)
        count = (uint32_t) sampling->top_k;
    if (sampling->top_p < 1) {
        uint64_t total = 0, passed = 0;
        for (uint32_t i = 0; i < count; i++) total += weight_of(x[order[i]], max);
        uint64_t share = (uint64_t) ((double) sampling->top_p * 0x1p40);
        uint64_t wanted = (uint64_t) ((unsigned __int128) total * share >> 40);
        uint32_t kept = 0;
        do passed += weight_of(x[order[kept++]], max);
        while (passed < wanted && kept < count);
        count = kept;
    }
    uint32_t best = order[0];
    float best_value = -INFINITY;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t words[16], id = order[i];
        float noise[16];
        struct cpu_scan_draw how = {sampling->seed, 3, output_index};
        cpu_scan_scalar.noise(how, id, words, noise);
        float value = x[id] + noise[0];
        if (value > best_value || (value == best_value && id < best)) {
            best_value = value;
            best = id;
        }
    }
    return best;
}

static void random_logits(float *logits, uint32_t round, uint64_t *seed) {
    for (uint32_t i = 0; i < VOCAB; i++) {
        logits[i] = random_float(seed, round % 3 == 0 ? 2 : 12);
        if (round % 4 == 0) logits[i] = floorf(logits[i]);
        if (round % 11 == 0) logits[i] = 0.25f;
    }
}

static void filters_match_the_twin(void **state) {
    enum cpu_body list[3];
    uint32_t body_count = bodies(list);
    struct bench benches[3];
    for (uint32_t b = 0; b < body_count; b++) bench_open(&benches[b], list[b]);
    uint64_t seed = 42;
    const int32_t top_ks[] = {0, -1, 1, 2, 40, 400, VOCAB, VOCAB + 5};
    const float top_ps[] = {1, 0.95f, 0.5f, 0.1f, 1e-6f, 0.999999f};
    const float min_ps[] = {0, 0.05f, 0.5f, 1};
    const float temperatures[] = {0, 1, 0.7f, 1.9f, 0.05f};
    const uint32_t prompt[] = {1, 2};
    for (uint32_t round = 0; round < 2000; round++) {
        float logits[VOCAB];
        random_logits(logits, round, &seed);
        struct sampling sampling;
        sampling_init(&sampling);
        sampling.seed = random_next(&seed);
        sampling.temperature = temperatures[random_next(&seed) % ARRAY_COUNT(temperatures)];
        sampling.top_k = top_ks[random_next(&seed) % ARRAY_COUNT(top_ks)];
        sampling.top_p = top_ps[random_next(&seed) % ARRAY_COUNT(top_ps)];
        sampling.min_p = min_ps[random_next(&seed) % ARRAY_COUNT(min_ps)];
        struct batch_row row = {.wants_sample = true, .output_index = round % 17};
        uint32_t want = twin(&sampling, logits, row.output_index);
        for (uint32_t b = 0; b < body_count; b++) {
            seat(&benches[b], &sampling, prompt, 2, NULL, 0);
            struct result_row out = draw(&benches[b], &row, logits);
            if (out.error || out.token_id != want)
                fail_msg("round %u, %s: token %u, not %u (T %g, top_k %d, top_p %g, min_p %g)",
                         round, cpu_body_name(list[b]), out.token_id, want,
                         (double) sampling.temperature, sampling.top_k, (double) sampling.top_p,
                         (double) sampling.min_p);
        }
    }
    for (uint32_t b = 0; b < body_count; b++) bench_close(&benches[b]);
}

/* --- what changes the logits -------------------------------------------------------------- */

static void changes_match_the_twin(void **state) {
    struct bench bench;
    bench_open(&bench, CPU_BODY_SCALAR);
    uint64_t seed = 7;
    for (uint32_t round = 0; round < 600; round++) {
        float logits[VOCAB], changed[VOCAB];
        random_logits(logits, round, &seed);
        memcpy(changed, logits, sizeof changed);
        uint32_t prompt[20], output[30], prompt_count = 20, output_count = round % 31;
        for (uint32_t i = 0; i < 20; i++) prompt[i] = (uint32_t) (random_next(&seed) % 50);
        for (uint32_t i = 0; i < 30; i++) output[i] = (uint32_t) (random_next(&seed) % 50);
        struct sampling sampling;
        sampling_init(&sampling);
        sampling.seed = round;
        sampling.temperature = round % 2 ? 0.8f : 0;
        if (round % 3 == 0) sampling.presence_penalty = 1.5f;
        if (round % 5 == 0) sampling.frequency_penalty = -0.5f;
        if (round % 2 == 0) sampling.repetition_penalty = 1.3f;
        struct sampling_bias bias[] = {{3, 4.0f}, {690, -100.0f}, {17, 100.0f}};
        if (round % 4 == 0) {
            sampling.logit_bias = bias;
            sampling.logit_bias_count = ARRAY_COUNT(bias);
            for (size_t i = 0; i < ARRAY_COUNT(bias); i++)
                changed[bias[i].token_id] += bias[i].bias;
        }
        uint32_t allowed[200];
        for (uint32_t i = 0; i < 200; i++) allowed[i] = (i * 31) % VOCAB;
        uint8_t may[VOCAB];
        memset(may, round % 6 == 0 ? 0 : 1, sizeof may);
        if (round % 6 == 0) {
            sampling.allowed_ids = allowed;
            sampling.allowed_id_count = 200;
            for (uint32_t i = 0; i < 200; i++) may[allowed[i]] = 1;
        }
        uint64_t mask[(VOCAB + 63) / 64];
        memset(mask, 0xff, sizeof mask);
        if (round % 7 == 0)
            for (uint32_t i = 0; i < VOCAB; i += 3) {
                mask[i / 64] &= ~((uint64_t) 1 << i % 64);
                may[i] = 0;
            }
        /* One word that is begun when the last output is output[..-1], one of a single id. */
        uint32_t word_ids[] = {output_count ? output[output_count - 1] : 0, 11, 23, 49, 48, 47};
        uint32_t word_lengths[] = {2, 1, 3};
        if (round % 8 == 0) {
            sampling.bad_word_ids = word_ids;
            sampling.bad_word_lengths = word_lengths;
            sampling.bad_word_count = 3;
            if (output_count) may[11] = 0;
            may[23] = 0;
            if (output_count >= 2 && output[output_count - 2] == 49 &&
                output[output_count - 1] == 48)
                may[47] = 0;
        }
        uint32_t stops[] = {5, 6};
        struct batch_row row = {.wants_sample = true, .output_index = output_count};
        sampling.stop_ids = stops;
        sampling.stop_id_count = 2;
        sampling.min_tokens = 12;
        if (output_count < 12) may[5] = may[6] = 0;
        if (round % 7 == 0) row.allowed_mask = mask;
        for (uint32_t i = 0; i < VOCAB; i++)
            if (!may[i]) changed[i] = -INFINITY;
        for (uint32_t i = 0; i < VOCAB; i++) {
            uint32_t in_prompt = 0, in_output = 0;
            for (uint32_t k = 0; k < prompt_count; k++) in_prompt += prompt[k] == i;
            for (uint32_t k = 0; k < output_count; k++) in_output += output[k] == i;
            if (in_prompt + in_output && sampling.repetition_penalty != 1)
                changed[i] = changed[i] > 0 ? changed[i] / sampling.repetition_penalty
                                            : changed[i] * sampling.repetition_penalty;
            if (!in_output) continue;
            changed[i] -= sampling.frequency_penalty * (float) in_output;
            changed[i] -= sampling.presence_penalty;
        }
        seat(&bench, &sampling, prompt, prompt_count, output, output_count);
        if (output_count)
            assert_int_equal(cpu_sample_seat_last(bench.seat), output[output_count - 1]);
        struct result_row out = draw(&bench, &row, logits);
        assert_int_equal(out.error, ERR_OK);
        if (out.token_id != twin(&sampling, changed, output_count))
            fail_msg("round %u: token %u, not %u", round, out.token_id,
                     twin(&sampling, changed, output_count));
        assert_int_equal(cpu_sample_seat_last(bench.seat), out.token_id);
    }
    bench_close(&bench);
}

/* Drawing counts what it drew: a seat that goes on gives the tokens of one that is set anew. */
static void counts_go_on(void **state) {
    struct bench a, b;
    bench_open(&a, CPU_BODY_SCALAR);
    bench_open(&b, CPU_BODY_SCALAR);
    uint64_t seed = 13;
    struct sampling sampling;
    sampling_init(&sampling);
    sampling.temperature = 1;
    sampling.frequency_penalty = 0.7f;
    sampling.repetition_penalty = 1.1f;
    const uint32_t prompt[] = {4, 4, 9};
    uint32_t output[LEN_MAX];
    float logits[VOCAB];
    random_logits(logits, 1, &seed);
    seat(&a, &sampling, prompt, 3, NULL, 0);
    for (uint32_t i = 0; i < 40; i++) {
        struct batch_row row = {.wants_sample = true, .output_index = i};
        output[i] = draw(&a, &row, logits).token_id;
        seat(&b, &sampling, prompt, 3, output, i);
        assert_int_equal(draw(&b, &row, logits).token_id, output[i]);
    }
    bench_close(&a);
    bench_close(&b);
}

static void distribution(void **state) {
    struct bench bench;
    bench_open(&bench, CPU_BODY_SCALAR);
    struct sampling sampling;
    sampling_init(&sampling);
    sampling.temperature = 1;
    sampling.seed = 2024;
    const uint32_t prompt[] = {1};
    float logits[VOCAB];
    for (uint32_t i = 0; i < VOCAB; i++) logits[i] = -60;
    const double shares[] = {0.4, 0.2, 0.15, 0.1, 0.08, 0.05, 0.02};
    for (uint32_t i = 0; i < 7; i++) logits[i * 97] = (float) log(shares[i]);
    const uint32_t draws = 20000;
    uint32_t counts[7] = {0};
    seat(&bench, &sampling, prompt, 1, NULL, 0);
    for (uint32_t n = 0; n < draws; n++) {
        struct batch_row row = {.wants_sample = true, .output_index = n};
        uint32_t id = draw(&bench, &row, logits).token_id;
        assert_int_equal(id % 97, 0);
        counts[id / 97]++;
    }
    double chi = 0;
    for (uint32_t i = 0; i < 7; i++) {
        double want = shares[i] * draws;
        chi += (counts[i] - want) * (counts[i] - want) / want;
    }
    if (chi > 22.46) fail_msg("chi-square %.2f over 6 degrees (0.1 %%: 22.46)", chi);
    bench_close(&bench);
}

static void logprobs(void **state) {
    struct bench bench;
    bench_open(&bench, CPU_BODY_SCALAR);
    uint64_t seed = 31;
    const uint32_t prompt[] = {1};
    for (uint32_t round = 0; round < 50; round++) {
        float logits[VOCAB];
        random_logits(logits, round, &seed);
        struct sampling sampling;
        sampling_init(&sampling);
        sampling.temperature = 1.4f;
        sampling.seed = round;
        sampling.logprobs = (int32_t) (round % 21);
        struct sampling_bias bias = {44, 50.0f}; /* drawn, though unlikely in the raw logits */
        sampling.logit_bias = &bias;
        sampling.logit_bias_count = round % 2;
        seat(&bench, &sampling, prompt, 1, NULL, 0);
        struct batch_row row = {.wants_sample = true};
        struct result_row out = draw(&bench, &row, logits);
        double sum = 0;
        uint32_t order[VOCAB];
        for (uint32_t i = 0; i < VOCAB; i++) {
            sum += exp((double) logits[i]);
            order[i] = i;
        }
        sort_values = logits;
        qsort(order, VOCAB, sizeof *order, by_order);
        if (round % 2) assert_int_equal(out.token_id, 44);
        assert_int_equal(out.logprob.token_id, out.token_id);
        assert_true(fabs((double) logits[out.token_id] - log(sum) - (double) out.logprob.logprob) <
                    1e-4);
        assert_int_equal(order[out.logprob.rank - 1], out.token_id);
        assert_int_equal(out.logprob.top_count, round % 21);
        for (uint32_t i = 0; i < out.logprob.top_count; i++) {
            assert_int_equal(out.logprob.top_ids[i], order[i]);
            assert_true(fabs((double) logits[order[i]] - log(sum) -
                             (double) out.logprob.top_logprobs[i]) < 1e-4);
        }
    }
    bench_close(&bench);
}

static void errors(void **state) {
    struct bench bench;
    bench_open(&bench, CPU_BODY_SCALAR);
    float logits[VOCAB] = {0};
    struct batch_row row = {.wants_sample = true};
    struct sampling sampling;
    sampling_init(&sampling);
    const uint32_t prompt[] = {1};
    seat(&bench, &sampling, prompt, 1, NULL, 0);
    assert_false(cpu_sample_seat_is_random(bench.seat));
    logits[3] = NAN;
    assert_int_equal(draw(&bench, &row, logits).error, ERR_FORMAT);
    logits[3] = INFINITY;
    assert_int_equal(draw(&bench, &row, logits).error, ERR_FORMAT);
    logits[3] = 0;
    uint64_t nothing[(VOCAB + 63) / 64] = {0};
    row.allowed_mask = nothing;
    struct result_row out = draw(&bench, &row, logits);
    assert_int_equal(out.error, ERR_USAGE);
    assert_int_equal(out.token_id, BACKEND_NO_TOKEN);

    uint32_t outside[] = {VOCAB};
    struct seat_setup setup = {.prompt_ids = outside, .prompt_count = 1, .sampling = &sampling};
    assert_int_equal(cpu_sample_seat_set(bench.seat, &setup), ERR_USAGE);
    setup.prompt_ids = prompt;
    sampling.allowed_ids = outside;
    sampling.allowed_id_count = 1;
    assert_int_equal(cpu_sample_seat_set(bench.seat, &setup), ERR_USAGE);
    sampling_init(&sampling);
    sampling.stop_id_count = SAMPLING_STOP_IDS_MAX + 1;
    assert_int_equal(cpu_sample_seat_set(bench.seat, &setup), ERR_LIMIT);
    sampling_init(&sampling);
    uint32_t lengths[] = {SAMPLING_BAD_WORD_IDS_MAX, 1};
    sampling.bad_word_count = 2;
    sampling.bad_word_lengths = lengths;
    assert_int_equal(cpu_sample_seat_set(bench.seat, &setup), ERR_LIMIT);
    bench_close(&bench);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(filters_match_the_twin),
        cmocka_unit_test(changes_match_the_twin),
        cmocka_unit_test(counts_go_on),
        cmocka_unit_test(distribution),
        cmocka_unit_test(logprobs),
        cmocka_unit_test(errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
