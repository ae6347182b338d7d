/* worker_boot: the plan is the allocator.  For hundreds of random legal configurations - models,
 * weight formats, bodies, degrees, seats, blocks, devices of their own or one for all - a budget of
 * exactly the planned bytes boots and serves a maximal step; one byte less is refused, and forced
 * it ends in the stage, at the buffer and with the wanted and free bytes that the plan named; so
 * does any smaller budget.  Sealed arenas hold the planned bytes, not one more, and a step writes
 * nothing behind a buffer's end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/num.h"
#include "worker/worker_boot.h"

#define CONFIGURATIONS 520u
#define SEATS_MAX 12u
#define TOKENS_MAX 160u

static uint64_t state;

static uint32_t draw(uint32_t below) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t) (state >> 33) % below;
}

static const char *const shapes[] = {"tiny-llama-test", "tiny-llama-k-test", "tiny-mistral-test",
                                     "tiny-qwen2-test", "tiny-qwen3-test"};
static const enum tensor_type types[] = {TENSOR_F32,  TENSOR_F16,  TENSOR_BF16,
                                         TENSOR_Q8_0, TENSOR_Q4_0, TENSOR_Q4_1,
                                         TENSOR_Q5_1, TENSOR_Q4_K, TENSOR_Q6_K};
static struct model *models[ARRAY_COUNT(shapes)][ARRAY_COUNT(types)]; /* NULL: no such rows */

static int open_models(void **unused) {
    for (size_t i = 0; i < ARRAY_COUNT(shapes); i++)
        for (size_t k = 0; k < ARRAY_COUNT(types); k++) {
            struct err_text text;
            struct model_open_options open = {
                .is_dummy = true, .dummy_seed = 1, .dummy_type = types[k], .shape = shapes[i]};
            if (model_open("test", &open, &text, &models[i][k])) models[i][k] = NULL;
        }
    return 0;
}

static int close_models(void **unused) {
    for (size_t i = 0; i < ARRAY_COUNT(shapes); i++)
        for (size_t k = 0; k < ARRAY_COUNT(types); k++) model_close(models[i][k]);
    return 0;
}

static const struct model *draw_model(void) {
    const struct model *model = NULL;
    while (!model) model = models[draw(ARRAY_COUNT(shapes))][draw(ARRAY_COUNT(types))];
    return model;
}

/* Legal as far as the options go; open may still refuse what a body cannot do. */
static void draw_options(const struct model_spec *spec, struct worker_boot_options *out) {
    static const enum kv_dtype kv_dtypes[] = {KV_DTYPE_AUTO, KV_DTYPE_F16, KV_DTYPE_F32,
                                              KV_DTYPE_INT8};
    *out = (struct worker_boot_options){.ops = draw(5) ? &cpu_backend_ops : &sim_backend_ops};
    struct backend_options *b = &out->backend;
    b->seat_count = 1 + draw(SEATS_MAX);
    b->batched_tokens_max = b->seat_count + draw(TOKENS_MAX - SEATS_MAX);
    b->block_size = 8u << draw(5);
    b->model_len_max = 1 + draw(spec->context_tokens);
    b->row_tile = 1 + draw(64);
    b->thread_count = 1 + draw(3);
    b->numerics = NUMERICS_AUTO;
    b->kv_dtype = kv_dtypes[draw(ARRAY_COUNT(kv_dtypes))];
    do b->rank_count = 1 + draw(8);
    while (!tensor_parallel_is_legal(spec, b->rank_count));
    out->engine = (struct engine_options){.queue_requests_max = 4,
                                          .queue_prompt_bytes_max = 1 << 20,
                                          .is_chunked_prefill = true,
                                          .prefill_chunk_max = 64,
                                          .has_prefix_cache = true};
    out->budget.is_shared = draw(2);
    out->budget.utilization = draw(2) ? 1 : 0.05 + draw(90) / 100.0;
    out->prefault = draw(8) == 0;
}

/* A device of which the utilization leaves exactly so many bytes. */
static void set_device(struct plan_budget *budget, uint64_t bytes) {
    budget->total_bytes = (uint64_t) ((double) bytes / budget->utilization);
    while ((uint64_t) (budget->utilization * (double) budget->total_bytes) < bytes)
        budget->total_bytes++;
    while ((uint64_t) (budget->utilization * (double) budget->total_bytes) > bytes)
        budget->total_bytes--;
}

/* What one request of full length needs beside everything else: the least that fits. */
static uint64_t least_bytes(const struct worker_boot_options *options, const struct model *model) {
    struct err_text text = {""};
    struct worker_boot boot;
    struct worker_boot_options wide = *options;
    wide.budget.total_bytes = (uint64_t) 1 << 40;
    wide.backend.model = model;
    if (worker_boot_plan(&wide, model_get_spec(model), &text, &boot)) return 0;
    const struct plan *plan = &boot.plan;
    uint64_t blocks = num_div_up(options->backend.model_len_max, options->backend.block_size);
    uint64_t sum = 0, widest = 0;
    for (uint32_t rank = 0; rank < plan->rank_count; rank++) {
        const struct mem_plan *lines = &plan->ranks[rank];
        uint64_t all = mem_plan_total(lines) - mem_plan_kind_total(lines, MEM_KV) +
                       blocks * options->ops->block_bytes(boot.backend, rank);
        sum += all;
        widest = num_max(widest, all);
    }
    worker_boot_close(&boot);
    return options->budget.is_shared ? sum : widest;
}

/* Every seat, as many tokens as a step may have and KV holds; all sampled, some with logprobs. */
static void step(const struct worker_boot *boot, const struct backend_options *b,
                 const struct model_spec *spec) {
    const struct backend_ops *ops = backend_ops_of(boot->backend);
    static uint32_t tokens[TOKENS_MAX], blocks[1u << 16];
    struct batch_row rows[SEATS_MAX];
    struct batch batch = {.rows = rows};
    struct sampling sampling;
    uint32_t free_blocks = boot->plan.block_count, taken = 0;
    for (uint32_t i = 0; i < TOKENS_MAX; i++) tokens[i] = draw(spec->vocab_size);
    for (uint32_t i = 0; i < free_blocks && i < ARRAY_COUNT(blocks); i++) blocks[i] = i + 1;
    for (uint32_t seat = 0; seat < b->seat_count && taken < free_blocks; seat++) {
        uint32_t others = b->seat_count - seat - 1;
        uint32_t count = b->batched_tokens_max - batch.token_count - others;
        count = (uint32_t) num_min(count, b->model_len_max);
        uint32_t room = free_blocks - taken > others ? free_blocks - taken - others : 1;
        count = (uint32_t) num_min(count, (uint64_t) room * b->block_size);
        uint32_t used = (uint32_t) num_div_up(count, b->block_size);
        sampling_init(&sampling);
        sampling.temperature = seat % 2 ? 0 : 1;
        sampling.seed = seat;
        sampling.logprobs = (int32_t) (seat % 3) - 1;
        struct seat_setup setup = {
            .prompt_ids = tokens, .prompt_count = count, .sampling = &sampling};
        assert_int_equal(ops->seat_set(boot->backend, seat, &setup), ERR_OK);
        rows[batch.row_count++] = (struct batch_row){.seat = seat,
                                                     .token_count = count,
                                                     .tokens = tokens,
                                                     .blocks = blocks + taken,
                                                     .block_count = used,
                                                     .wants_sample = true,
                                                     .wants_prompt_logprobs = seat % 4 == 3,
                                                     .next_tokens = tokens};
        batch.token_count += count;
        taken += used;
    }
    const struct result_row *results;
    ops->submit(boot->backend, &batch);
    assert_int_equal(ops->collect(boot->backend, &results), ERR_OK);
    for (uint32_t i = 0; i < batch.row_count; i++) {
        assert_int_equal(results[i].error, ERR_OK);
        assert_true(results[i].token_id < spec->vocab_size);
        ops->seat_clear(boot->backend, rows[i].seat);
    }
}

/* What the arenas hold is what was planned, to the byte. */
static void check_drift(const struct worker_boot *boot) {
    uint64_t sum = 0;
    for (uint32_t rank = 0; rank < boot->plan.rank_count; rank++) {
        uint64_t taken = mem_taken_bytes(boot->mems[rank]);
        assert_int_equal(taken, mem_plan_total(&boot->plan.ranks[rank]));
        sum = boot->plan.is_shared ? sum + taken : num_max(sum, taken);
    }
    assert_int_equal(sum, boot->plan.total_bytes);
}

static void must_serve(const struct worker_boot_options *options, const struct model *model) {
    struct err_text text = {""};
    struct worker_boot boot;
    if (worker_boot_open(options, model, NULL, NULL, &text, &boot)) fail_msg("%s", text.text);
    assert_int_equal(boot.plan.headroom_bytes, 0);
    check_drift(&boot);
    step(&boot, &options->backend, model_get_spec(model));
    for (uint32_t rank = 0; rank < boot.plan.rank_count; rank++) mem_check(boot.mems[rank]);
    worker_boot_close(&boot);
}

/* Refused by the plan; forced, ended by the loader where the plan said. */
static void must_fail(const struct worker_boot_options *options, const struct model *model) {
    struct err_text text = {""};
    struct worker_boot boot;
    struct worker_boot_options forced = *options;
    assert_int_equal(worker_boot_open(options, model, NULL, NULL, &text, &boot), ERR_NO_ROOM);
    assert_null(boot.backend);
    forced.backend.model = model;
    assert_int_equal(worker_boot_plan(&forced, model_get_spec(model), &text, &boot), ERR_OK);
    assert_false(boot.plan.fits);
    const struct plan_refusal refusal = boot.plan.refusal;
    worker_boot_close(&boot);
    forced.is_forced = true;
    assert_int_equal(worker_boot_open(&forced, model, NULL, NULL, &text, &boot), ERR_NO_ROOM);
    assert_null(boot.backend);
    char wanted[256];
    snprintf(wanted, sizeof wanted, "stage %s", refusal.stage);
    if (!strstr(text.text, wanted)) fail_msg("no '%s' in: %s", wanted, text.text);
    if (refusal.layer != BACKEND_NO_LAYER) {
        snprintf(wanted, sizeof wanted, ", layer %u of", refusal.layer + 1);
        if (!strstr(text.text, wanted)) fail_msg("no '%s' in: %s", wanted, text.text);
    }
    snprintf(wanted, sizeof wanted, "%s needs %s and %s of the budget of ", refusal.reason,
             mem_size(refusal.wanted_bytes).text, mem_size(refusal.free_bytes).text);
    if (!strstr(text.text, wanted)) fail_msg("no '%s' in: %s", wanted, text.text);
}

static void exact_budgets(void **unused) {
    state = (uint64_t) time(NULL);
    const char *written = getenv("GRAMME_TEST_SEED");
    if (written) state = strtoull(written, NULL, 10);
    print_message("seed %llu\n", (unsigned long long) state);
    uint32_t by_stage[2] = {0};
    for (uint32_t done = 0; done < CONFIGURATIONS;) {
        const struct model *model = draw_model();
        struct worker_boot_options options;
        draw_options(model_get_spec(model), &options);
        uint64_t least = least_bytes(&options, model);
        if (!least) continue; /* a body that cannot do this */
        uint64_t at = state;
        set_device(&options.budget, least);
        must_serve(&options, model);
        set_device(&options.budget, least - 1);
        must_fail(&options, model);
        uint64_t rest = least - (uint64_t) draw((uint32_t) num_min(least, INT32_MAX));
        uint64_t process = least > 1u << 20 ? draw(3) : 0; /* most often past the process line */
        set_device(&options.budget, process ? least - draw((uint32_t) (least / 64)) - 1 : rest);
        must_fail(&options, model);
        by_stage[process != 0]++;
        done++;
        if (!(done % 130)) print_message("%u done, at %llu\n", done, (unsigned long long) at);
    }
}

/* Whatever allocation fails, nothing is left and the reason is told. */
static void allocations_may_fail(void **unused) {
    struct worker_boot_options options = {.ops = &cpu_backend_ops};
    const struct model *model = models[0][0];
    options.backend = (struct backend_options){.rank_count = 2,
                                               .block_size = 16,
                                               .seat_count = 2,
                                               .batched_tokens_max = 16,
                                               .model_len_max = 32,
                                               .row_tile = 16,
                                               .thread_count = 1};
    options.engine.queue_requests_max = 4;
    options.engine.queue_prompt_bytes_max = 1 << 20;
    options.budget = (struct plan_budget){
        .total_bytes = (uint64_t) 1 << 34, .utilization = 0.02, .is_shared = true};
    uint32_t failures = 0;
    for (uint64_t n = 1;; n++) {
        struct err_text text = {""};
        struct worker_boot boot;
        alloc_fail_at(n, 0);
        enum err e = worker_boot_open(&options, model, NULL, NULL, &text, &boot);
        alloc_fail_at(0, 0);
        if (!e) {
            worker_boot_close(&boot);
            break;
        }
        assert_int_equal(e, ERR_MEMORY);
        assert_true(text.text[0]);
        failures++;
    }
    assert_true(failures > 6);
}

int main(void) {
    log_configure(LOG_ERROR, LOG_HUMAN, NULL); /* not "forced: ..." a thousand times */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exact_budgets),
        cmocka_unit_test(allocations_may_fail),
    };
    return cmocka_run_group_tests(tests, open_models, close_models);
}
