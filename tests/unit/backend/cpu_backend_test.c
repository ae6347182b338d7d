/* The CPU body behind its table: plan and boot agree to the byte, every allocation may fail,
 * options are refused by name, prompt logprobs, seats.  And against the reference on the demo
 * model: logits of one prompt within 1e-3 under f32a with f32 KV, and the greedy continuation
 * (transformers 5.23, torch 2.15, F32, weights dequantized from the same file); that one needs
 * the model: GRAMME_MODEL or build/models. */
#include "backend/cpu_rig.h"
#include "base/alloc.h"

static const uint32_t prompt[] = {504, 3575, 282, 4649, 314};
static const struct {
    uint32_t id;
    float logit;
} top8[] = {{7042, 17.3713f}, {260, 14.8886f},  {4528, 13.2450f}, {2250, 13.0095f},
            {1315, 12.9515f}, {5145, 12.9049f}, {216, 12.7133f},  {441, 12.6979f}};
static const uint32_t continuation[] = {7042, 30, 198, 198, 504, 2988, 314, 42,  216, 34, 32, 33,
                                        40,   29, 32,  33,  29,  34,   34,  216, 33,  34, 42, 33};

static void demo_matches_reference(void **state) {
    const char *path = rig_demo_path();
    if (!path) {
        print_message("skipped: set GRAMME_MODEL to the demo model's path\n");
        skip();
    }
    struct model *model = NULL;
    struct err_text text = {""};
    struct model_open_options open_options = {0};
    if (model_open(path, &open_options, &text, &model)) fail_msg("%s", text.text);
    struct backend_options options = rig_options();
    options.numerics = NUMERICS_F32A;
    options.kv_dtype = KV_DTYPE_F32;
    options.thread_count = 2;
    struct rig rig;
    rig_open(&rig, model, NULL, &options, 256);
    static struct rig_sequence sequence;
    sampling_init(&sequence.sampling);
    rig_sequence(&rig, &sequence, 0, prompt, ARRAY_COUNT(prompt), 1, 1);
    struct rig_sequence *sequences[] = {&sequence};
    struct batch_row row = rig_row(&rig, &sequence, 512);
    rig_step(&rig, &row, sequences, 1);
    for (uint32_t i = 0; i < ARRAY_COUNT(top8); i++) {
        float logit = rig_cpu(&rig)->logits[top8[i].id];
        if (!(fabsf(logit - top8[i].logit) < 1e-3f))
            fail_msg("logit of %u: %.5f, the reference has %.4f", top8[i].id, (double) logit,
                     (double) top8[i].logit);
    }
    for (uint32_t i = 1; i < ARRAY_COUNT(continuation); i++) {
        row = rig_row(&rig, &sequence, 512);
        rig_step(&rig, &row, sequences, 1);
    }
    for (uint32_t i = 0; i < ARRAY_COUNT(continuation); i++)
        assert_int_equal(sequence.ids[ARRAY_COUNT(prompt) + i], continuation[i]);
    rig_close(&rig);
    model_close(model);
}

/* --- boot --------------------------------------------------------------------------------- */

static struct mem_plan boot_plan;
static uint32_t progress_count, progress_stop_at; /* the call that says stop; 0: none */
static uint64_t progress_bytes;

static bool boot_progress(void *ctx, const char *stage, uint64_t done_bytes, uint64_t total_bytes) {
    assert_true(done_bytes >= progress_bytes && done_bytes <= total_bytes);
    progress_bytes = done_bytes;
    return ++progress_count != progress_stop_at;
}

static enum err boot(struct model *model, const struct backend_options *options,
                     uint64_t budget_bytes, uint32_t block_count, struct err_text *text) {
    struct backend *backend = NULL;
    struct mem *mem = NULL;
    enum err e = rig_ops()->open(model_get_spec(model), options, text, &backend);
    if (e) return e;
    boot_plan = (struct mem_plan){.line_count = 0};
    rig_ops()->plan(backend, 0, &boot_plan);
    progress_count = 0;
    progress_bytes = 0;
    mem_plan_add(&boot_plan, MEM_KV, block_count * rig_ops()->block_bytes(backend, 0), "kv");
    e = mem_create(&boot_plan, budget_bytes, text, &mem);
    if (!e) e = rig_ops()->load(backend, model, block_count, &mem, boot_progress, NULL, text);
    if (!e) e = mem_seal(mem, text);
    rig_ops()->close(backend);
    mem_destroy(mem);
    return e;
}

static void plan_is_what_boot_takes(void **state) {
    const enum tensor_type types[] = {TENSOR_F32, TENSOR_Q4_1, TENSOR_BF16};
    for (uint32_t i = 0; i < 12; i++) {
        struct model *model =
            rig_dummy(i % 2 ? "tiny-llama-k-test" : "tiny-qwen3-test", types[i % 3]);
        struct backend_options options = rig_options();
        struct err_text text = {""};
        options.thread_count = 1 + i % 3;
        options.seat_count = 1 + i * 3;
        options.batched_tokens_max = 40 + i;
        options.model_len_max = 100 + i * 30;
        options.kv_dtype = i % 5 ? KV_DTYPE_F16 : KV_DTYPE_INT8;
        options.model = i % 4 ? model : NULL; /* shapes alone give the same plan here */
        if (boot(model, &options, UINT64_MAX, 5, &text)) fail_msg("%s", text.text);
        uint64_t total = mem_plan_total(&boot_plan);
        for (uint32_t l = 0; l < boot_plan.line_count; l++) /* dummy weights map no file */
            if (boot_plan.lines[l].is_outside) total -= boot_plan.lines[l].bytes;
        assert_int_equal(boot(model, &options, total, 5, &text), ERR_OK);
        assert_int_equal(boot(model, &options, total - 1, 5, &text), ERR_NO_ROOM);
        model_close(model);
    }
}

static void allocations_may_fail(void **state) {
    struct model *model = rig_dummy("tiny-llama-test", TENSOR_F32);
    struct backend_options options = rig_options();
    struct err_text text;
    options.thread_count = 2;
    options.may_spin = false;
    options.model = model;
    uint32_t failures = 0;
    for (uint64_t n = 1;; n++) {
        text.text[0] = 0;
        alloc_fail_at(n, 0);
        enum err e = boot(model, &options, UINT64_MAX, 3, &text);
        alloc_fail_at(0, 0);
        if (!e) break;
        assert_int_equal(e, ERR_MEMORY);
        assert_true(text.text[0]);
        failures++;
    }
    assert_true(failures >= 4); /* book, layers, arena, team */
    model_close(model);
}

/* Whoever loads may say stop at any word of the progress. */
static void a_load_is_stopped(void **state) {
    struct model *model = rig_dummy("tiny-qwen3-test", TENSOR_Q4_1);
    struct backend_options options = rig_options();
    options.thread_count = 2;
    options.model = model;
    struct err_text text = {""};
    assert_int_equal(boot(model, &options, UINT64_MAX, 5, &text), ERR_OK);
    uint32_t count = progress_count;
    assert_true(count > 4);
    for (progress_stop_at = 1; progress_stop_at <= 4; progress_stop_at++) {
        assert_int_equal(boot(model, &options, UINT64_MAX, 5, &text), ERR_CANCELLED);
        assert_string_equal(text.text, "loading was stopped");
    }
    progress_stop_at = 0;
    model_close(model);
}

static void refused(struct model *model, const struct backend_options *options, enum err want,
                    const char *name) {
    struct err_text text = {""};
    struct backend *backend = NULL;
    assert_int_equal(rig_ops()->open(model_get_spec(model), options, &text, &backend), want);
    assert_null(backend);
    if (!strstr(text.text, name)) fail_msg("'%s' is not in: %s", name, text.text);
}

static void options_are_refused(void **state) {
    struct model *model = rig_dummy("tiny-llama-test", TENSOR_F32);
    const uint32_t blocks[] = {0, 4, 24, 256};
    for (size_t i = 0; i < ARRAY_COUNT(blocks); i++) {
        struct backend_options options = rig_options();
        options.block_size = blocks[i];
        refused(model, &options, ERR_USAGE, "block-size");
    }
    struct backend_options bad = rig_options();
    bad.rank_count = 3;
    refused(model, &bad, ERR_USAGE, "tensor-parallel-size");
    bad = rig_options();
    bad.seat_count = 0;
    refused(model, &bad, ERR_USAGE, "max-num-seqs");
    bad = rig_options();
    bad.batched_tokens_max = 0;
    refused(model, &bad, ERR_USAGE, "max-num-batched-tokens");
    bad = rig_options();
    bad.thread_count = TEAM_THREADS_MAX + 1;
    refused(model, &bad, ERR_USAGE, "threads");
    bad = rig_options();
    bad.cpu_body = "mmx";
    refused(model, &bad, ERR_USAGE, "mmx");
    struct model_spec spec = *model_get_spec(model);
    spec.head_dim = 24;
    struct err_text text = {""};
    struct backend *backend = NULL;
    struct backend_options options = rig_options();
    assert_int_equal(rig_ops()->open(&spec, &options, &text, &backend), ERR_UNSUPPORTED);
    assert_non_null(strstr(text.text, "head_dim"));
    model_close(model);
}

/* --- rows --------------------------------------------------------------------------------- */

/* The logprobs of a prompt, computed at once, in chunks and beside others, are those of stepping
 * through it with each token's own logits. */
static void prompt_logprobs(void **state) {
    struct model *model = rig_dummy("tiny-llama-k-test", TENSOR_Q8_0);
    uint32_t vocab = model_get_spec(model)->vocab_size;
    struct token_logprob want[40];
    const uint32_t chunks[] = {1, 40, 7, 40};
    for (uint32_t way = 0; way < 4; way++) {
        struct backend_options options = rig_options();
        options.thread_count = 1 + way % 2 * 2;
        options.seat_count = way == 3 ? 3 : 16; /* logits in tiles of 3 rows */
        options.rank_count = 1u << way;
        struct rig rig;
        rig_open(&rig, model, NULL, &options, 300);
        static struct rig_sequence a, b;
        uint32_t ids[41];
        for (uint32_t i = 0; i < 41; i++) ids[i] = (i * 97 + 5) % vocab;
        sampling_init(&a.sampling);
        sampling_init(&b.sampling);
        a.sampling.prompt_logprobs = 5;
        rig_sequence(&rig, &a, 0, ids, 41, 1, 1);
        rig_sequence(&rig, &b, 1, ids, 3, 130, 1);
        while (a.computed < 40) {
            struct rig_sequence *sequences[] = {&a, &b};
            struct batch_row rows[2] = {rig_row(&rig, &a, chunks[way]), rig_row(&rig, &b, 40)};
            if (a.computed + rows[0].token_count > 40) rows[0].token_count--;
            uint32_t first = a.computed, count = rows[0].token_count;
            rows[0].wants_sample = false;
            rows[0].wants_prompt_logprobs = true;
            rows[0].next_tokens = ids + first + 1;
            const struct result_row *results = rig_step(&rig, rows, sequences, way == 2 ? 2 : 1);
            assert_int_equal(results[0].token_id, BACKEND_NO_TOKEN);
            for (uint32_t t = 0; t < count; t++) {
                const struct token_logprob *got = &results[0].prompt_logprobs[t];
                assert_int_equal(got->token_id, ids[first + t + 1]);
                assert_int_equal(got->top_count, 5);
                assert_true(got->rank >= 1 && got->rank <= vocab && got->logprob <= 0);
                if (got->rank <= 5) assert_int_equal(got->top_ids[got->rank - 1], got->token_id);
                if (way == 0) want[first + t] = *got;
                assert_memory_equal(&want[first + t], got, offsetof(struct token_logprob, top_ids));
                assert_memory_equal(want[first + t].top_ids, got->top_ids, 5 * 4);
                assert_memory_equal(want[first + t].top_logprobs, got->top_logprobs, 5 * 4);
            }
        }
        rig_close(&rig);
    }
    model_close(model);
}

/* A row whose logits are not finite has its error; its neighbours do not notice. */
static void poisoned_rows(void **state) {
    struct model *model = rig_dummy("tiny-llama-test", TENSOR_F32);
    struct backend_options options = rig_options();
    options.kv_dtype = KV_DTYPE_F32;
    struct rig rig;
    rig_open(&rig, model, NULL, &options, 300);
    static struct rig_sequence a, b;
    const uint32_t ids[] = {1, 2, 3, 4, 5};
    uint32_t clean = 0;
    for (uint32_t way = 0; way < 2; way++) {
        sampling_init(&a.sampling);
        sampling_init(&b.sampling);
        rig_sequence(&rig, &a, 0, ids, 5, 1, 1);
        rig_sequence(&rig, &b, 1, ids + 1, 4, 130, 1);
        struct rig_sequence *sequences[] = {&a, &b};
        struct batch_row rows[2] = {rig_row(&rig, &a, 3), rig_row(&rig, &b, 2)};
        rig_step(&rig, rows, sequences, 2);
        if (way == 1) { /* NaN among b's cached values */
            struct cpu_kv *kv = &rig_cpu(&rig)->ranks[0].kv;
            memset(cpu_kv_run(kv, 130, 0, true, 0), 0xff, 4 * kv->head_dim);
        }
        rows[0] = rig_row(&rig, &a, 9);
        rows[1] = rig_row(&rig, &b, 9);
        struct batch batch = {rows, 2, rows[0].token_count + rows[1].token_count};
        const struct result_row *results;
        rig_ops()->submit(rig.backend, &batch);
        assert_int_equal(rig_ops()->collect(rig.backend, &results), ERR_OK);
        assert_int_equal(results[0].error, ERR_OK);
        assert_int_equal(results[1].error, way ? ERR_FORMAT : ERR_OK);
        if (way) assert_int_equal(results[0].token_id, clean);
        clean = results[0].token_id;
    }
    rig_close(&rig);
    model_close(model);
}

/* The same tokens with a block's KV copied elsewhere, and after the seat was set anew (as after
 * preemption) with everything computed again in one chunk. */
static void moves_on(uint32_t rank_count) {
    struct model *model = rig_dummy("tiny-llama-k-test", TENSOR_Q4_1);
    struct backend_options options = rig_options();
    options.rank_count = rank_count;
    struct rig rig;
    rig_open(&rig, model, NULL, &options, 300);
    static struct rig_sequence a, b;
    struct rig_sequence *sequences[] = {&a};
    uint32_t ids[20], all[60];
    for (uint32_t i = 0; i < 20; i++) ids[i] = (i * 31 + 7) % 500;
    sampling_init(&a.sampling);
    a.sampling.temperature = 1;
    a.sampling.seed = 5;
    a.sampling.repetition_penalty = 1.2f;
    rig_sequence(&rig, &a, 0, ids, 20, 1, 1);
    while (a.count < 60) {
        if (a.count == 40) { /* 39 computed: two full blocks of 16 and a tail of 7 */
            for (uint32_t i = 0; i < 3; i++) {
                rig_ops()->kv_copy(rig.backend, 1 + i, 200 + i, i == 2 ? 7 : 16);
                for (uint32_t r = 0; r < rank_count; r++)
                    assert_true(rig_ops()->kv_checksum(rig.backend, r, 1 + i, i == 2 ? 7 : 16) ==
                                rig_ops()->kv_checksum(rig.backend, r, 200 + i, i == 2 ? 7 : 16));
                a.blocks[i] = 200 + i;
            }
        }
        struct batch_row row = rig_row(&rig, &a, 11);
        rig_step(&rig, &row, sequences, 1);
    }
    memcpy(all, a.ids, sizeof all);
    b.sampling = a.sampling;
    rig_sequence(&rig, &b, 3, all, 60, 20, 1);
    rig_ops()->seat_clear(rig.backend, 0);
    struct seat_setup setup = {.prompt_ids = all,
                               .prompt_count = 20,
                               .output_ids = all + 20,
                               .output_count = 39,
                               .sampling = &b.sampling};
    assert_int_equal(rig_ops()->seat_set(rig.backend, 3, &setup), ERR_OK);
    b.prompt_count = 20;
    b.count = 59;
    struct batch_row row = rig_row(&rig, &b, 512);
    assert_int_equal(row.output_index, 39);
    struct rig_sequence *other[] = {&b};
    rig_step(&rig, &row, other, 1);
    assert_int_equal(b.ids[59], all[59]);
    rig_close(&rig);
    model_close(model);
}

static void moves(void **state) {
    moves_on(1);
    moves_on(4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plan_is_what_boot_takes),
        cmocka_unit_test(allocations_may_fail),
        cmocka_unit_test(a_load_is_stopped),
        cmocka_unit_test(options_are_refused),
        cmocka_unit_test(prompt_logprobs),
        cmocka_unit_test(poisoned_rows),
        cmocka_unit_test(moves),
        cmocka_unit_test(demo_matches_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
