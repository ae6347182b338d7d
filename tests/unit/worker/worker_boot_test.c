/* worker_boot: the plan is the allocator.  For hundreds of random legal configurations - models
 * made and from files, weight formats, bodies, degrees, seats, blocks, KV types, what else is in the
 * process, devices of their own or one for all - a budget of exactly the planned bytes boots and
 * serves a maximal step; one byte less is refused, and forced it ends in the stage, at the buffer
 * and with the wanted and free bytes that the plan named.  So does a budget that ends inside a take
 * drawn from each stage in turn; which one that is, this file finds by itself.  Sealed arenas hold
 * the planned bytes, not one more, and a step writes nothing behind a buffer's end.  Whatever the
 * draws are, each kind of each must have been there. */
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
#include "model/file_maker.h"
#include "worker/worker_boot.h"

#define CONFIGURATIONS 520u
#define SEATS_MAX 12u
#define TOKENS_MAX 160u
#define SCALAR_PERIOD 60u /* that body is slow, and plans alike */
#define KV_DTYPES (KV_DTYPE_FP8 + 1u)

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
#define FILES 3u /* GGUF with the head tied and not, safetensors */
static struct model *models[ARRAY_COUNT(shapes) * ARRAY_COUNT(types) + FILES];
static uint32_t model_count;

static void open_file(const char *name) {
    struct err_text text = {""};
    struct model_open_options open = {0};
    struct model **out = &models[model_count++];
    if (model_open(in_folder(name), &open, &text, out)) fail_msg("%s: %s", name, text.text);
}

/* One layer, its head not tied, all bf16: of zeros. */
static void put_safetensors_model(void) {
    static const struct {
        const char *name;
        uint32_t rows, columns;
    } tensors[] = {
        {"model.embed_tokens.weight", 8, 32},
        {"model.norm.weight", 1, 32},
        {"lm_head.weight", 8, 32},
        {"model.layers.0.input_layernorm.weight", 1, 32},
        {"model.layers.0.post_attention_layernorm.weight", 1, 32},
        {"model.layers.0.self_attn.q_proj.weight", 32, 32},
        {"model.layers.0.self_attn.k_proj.weight", 16, 32},
        {"model.layers.0.self_attn.v_proj.weight", 16, 32},
        {"model.layers.0.self_attn.o_proj.weight", 32, 32},
        {"model.layers.0.mlp.gate_proj.weight", 32, 32},
        {"model.layers.0.mlp.up_proj.weight", 32, 32},
        {"model.layers.0.mlp.down_proj.weight", 32, 32},
    };
    static const char config[] =
        "{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"],"
        "\"hidden_size\":32,\"intermediate_size\":32,\"num_hidden_layers\":1,"
        "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"vocab_size\":8,"
        "\"max_position_embeddings\":64,\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,"
        "\"tie_word_embeddings\":false,\"torch_dtype\":\"bfloat16\"}";
    struct buf header, file;
    uint32_t at = 0;
    buf_init(&header, 0);
    buf_init(&file, 0);
    for (size_t i = 0; i < ARRAY_COUNT(tensors); i++) {
        uint32_t bytes = tensors[i].rows * tensors[i].columns * 2;
        buf_add_format(&header, "%c\"%s\":{\"dtype\":\"BF16\",\"shape\":[", i ? ',' : '{',
                       tensors[i].name);
        if (tensors[i].rows > 1) buf_add_format(&header, "%u,", tensors[i].rows);
        buf_add_format(&header, "%u],\"data_offsets\":[%u,%u]}", tensors[i].columns, at,
                       at + bytes);
        at += bytes;
    }
    buf_add_byte(&header, '}');
    put_safetensors(&file, buf_string(&header), at);
    put_file("hf/model.safetensors", file.data, file.bytes);
    put_file("hf/config.json", config, sizeof config - 1);
    buf_release(&header);
    buf_release(&file);
}

static int open_models(void **state_) {
    uint32_t made = 0;
    for (size_t i = 0; i < ARRAY_COUNT(shapes); i++)
        for (size_t k = 0; k < ARRAY_COUNT(types); k++) {
            struct err_text text;
            struct model_open_options open = {
                .is_dummy = true, .dummy_seed = 1, .dummy_type = types[k], .shape = shapes[i]};
            if (!model_open("test", &open, &text, &models[made])) made++;
        }
    assert_true(made >= ARRAY_COUNT(shapes) * (ARRAY_COUNT(types) - 2) + 2); /* K: rows of 256 */
    model_count = made;
    assert_int_equal(folder_make(state_), 0);
    for (int has_head = 0; has_head < 2; has_head++) {
        struct buf file;
        buf_init(&file, 0);
        put_tiny_llama(&file, (struct tiny){.has_head = has_head});
        put_file(has_head ? "head.gguf" : "tied.gguf", file.data, file.bytes);
        buf_release(&file);
        open_file(has_head ? "head.gguf" : "tied.gguf");
    }
    put_safetensors_model();
    open_file("hf");
    return 0;
}

static int close_models(void **state_) {
    for (uint32_t i = 0; i < model_count; i++) model_close(models[i]);
    return folder_remove(state_);
}

/* Legal as far as the options go; open may still refuse what a body cannot do. */
static void draw_options(const struct model_spec *spec, struct worker_boot_options *out) {
    static const enum kv_dtype kv_dtypes[] = {KV_DTYPE_AUTO, KV_DTYPE_F16,  KV_DTYPE_F32,
                                              KV_DTYPE_BF16, KV_DTYPE_INT8, KV_DTYPE_FP8};
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
    out->budget.process = (struct plan_process){
        .library_bytes = draw(1u << 26), .has_frontend = draw(2), .has_transfer = draw(2)};
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
        sampling.logprobs = (int32_t) (seat % 3) * 10 - (seat % 3 == 0);
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

/* --- where it must end ------------------------------------------------------------------- */

enum { PROCESS, BUFFERS, EMBEDDINGS, LAYERS, HEAD, KV, STAGES };
static const char *const stages[STAGES] = {PLAN_PROCESS, "buffers", "embeddings",
                                           "layers",     "head",    "kv"};

/* Everything that loading takes, in its order. */
#define TAKES_MAX 4096u
struct takes {
    struct backend_take items[TAKES_MAX];
    uint32_t count;
};

static bool add_take(void *ctx, const struct backend_take *take) {
    struct takes *takes = ctx;
    assert_true(takes->count < TAKES_MAX);
    if (take->bytes) takes->items[takes->count++] = *take;
    return true;
}

/* `boot` is planned, and lives as long as the takes. */
static void list_takes(const struct worker_boot_options *options, const struct worker_boot *boot,
                       struct takes *out) {
    const struct plan *plan = &boot->plan;
    out->count = 0;
    for (uint32_t pass = 0; pass < 3; pass++) { /* process, the backend's, KV */
        if (pass == 1 && options->ops->walk) {
            options->ops->walk(boot->backend, add_take, out);
            continue;
        }
        for (uint32_t rank = 0; rank < plan->rank_count; rank++)
            for (uint32_t i = 0; i < plan->ranks[rank].line_count; i++) {
                const struct mem_line *line = &plan->ranks[rank].lines[i];
                bool is_process = strcmp(line->reason, PLAN_PROCESS) == 0;
                if (pass != (is_process ? 0 : line->kind == MEM_KV ? 2 : 1)) continue;
                struct backend_take take = {stages[pass == 0   ? PROCESS
                                                   : pass == 1 ? BUFFERS
                                                               : KV],
                                            line->reason,
                                            line->kind,
                                            rank,
                                            BACKEND_NO_LAYER,
                                            line->bytes,
                                            false};
                if (pass == 2)
                    take.bytes =
                        num_div_up(options->backend.model_len_max, options->backend.block_size) *
                        options->ops->block_bytes(boot->backend, rank);
                add_take(out, &take);
            }
    }
}

/* A budget that ends inside a take of this stage, and the take that passes it first; 0: the stage
 * has none here. */
static uint64_t draw_budget(const struct worker_boot_options *options, const struct takes *takes,
                            uint32_t stage, const struct backend_take **out) {
    uint32_t found = 0, chosen = 0;
    for (uint32_t i = 0; i < takes->count; i++)
        if (strcmp(takes->items[i].stage, stages[stage]) == 0 && draw(++found) == 0) chosen = i;
    if (!found) return 0;
    uint64_t used[PLAN_RANKS_MAX] = {0};
    const struct backend_take *take = &takes->items[chosen];
#define DEVICE(item) (options->budget.is_shared ? 0 : (item)->rank)
    for (uint32_t i = 0; i < chosen; i++) used[DEVICE(&takes->items[i])] += takes->items[i].bytes;
    uint64_t budget = used[DEVICE(take)] + draw((uint32_t) num_min(take->bytes, INT32_MAX));
    if (!budget) budget = 1;
    memset(used, 0, sizeof used);
    for (uint32_t i = 0;; i++) { /* another rank may pass it before */
        const struct backend_take *at = &takes->items[i];
        used[DEVICE(at)] += at->bytes;
        *out = at;
        if (used[DEVICE(at)] > budget) return budget;
    }
#undef DEVICE
}

/* Refused by the plan; forced, ended by the loader where the plan said; expected: where that is,
 * NULL: wherever.  The index of the stage. */
static uint32_t must_fail(const struct worker_boot_options *options, const struct model *model,
                          const struct backend_take *expected) {
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
    if (expected) {
        assert_string_equal(refusal.stage, expected->stage);
        assert_string_equal(refusal.reason, expected->reason);
        assert_int_equal(refusal.rank, expected->rank);
        assert_int_equal(refusal.layer, expected->layer);
        assert_int_equal(refusal.wanted_bytes, expected->bytes);
        assert_true(refusal.free_bytes < refusal.wanted_bytes);
    }
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
    uint32_t stage = 0;
    while (strcmp(stages[stage], refusal.stage) != 0) assert_true(++stage < STAGES);
    return stage;
}

/* --- the property ------------------------------------------------------------------------ */

/* What came about: a test that never drew a thing says nothing of it. */
struct seen {
    uint32_t stage[STAGES], ranks[9], kv_dtypes[KV_DTYPES], blocks[5], bodies[3];
    uint32_t shared[2], whole[2], prefault[2], frontend[2], transfer[2];
};

static void count_options(const struct worker_boot_options *options, struct seen *seen) {
    const struct backend_options *b = &options->backend;
    seen->ranks[b->rank_count]++;
    seen->kv_dtypes[b->kv_dtype]++;
    seen->blocks[__builtin_ctz(b->block_size) - 3]++;
    seen->bodies[options->ops == &sim_backend_ops ? 2 : b->cpu_body != NULL]++;
    seen->shared[options->budget.is_shared]++;
    seen->whole[options->budget.utilization >= 1]++;
    seen->prefault[options->prefault]++;
    seen->frontend[options->budget.process.has_frontend]++;
    seen->transfer[options->budget.process.has_transfer]++;
}

static void check_seen(const struct seen *seen) {
    for (uint32_t i = 0; i < STAGES; i++) assert_true(seen->stage[i] > 0);
    for (uint32_t i = 1; i <= 8; i *= 2) assert_true(seen->ranks[i] > 0);
    for (uint32_t i = 0; i < KV_DTYPES; i++) assert_true(seen->kv_dtypes[i] > 0);
    for (uint32_t i = 0; i < 5; i++) assert_true(seen->blocks[i] > 0);
    for (uint32_t i = 0; i < 3; i++) assert_true(seen->bodies[i] > 0);
    for (uint32_t i = 0; i < 2; i++)
        assert_true(seen->shared[i] && seen->whole[i] && seen->prefault[i] && seen->frontend[i] &&
                    seen->transfer[i]);
}

/* A budget that ends in the stage whose turn it is. */
static uint32_t must_fail_within(struct worker_boot_options *options, const struct model *model,
                                 uint32_t turn) {
    static struct takes takes;
    struct err_text text = {""};
    struct worker_boot boot;
    struct worker_boot_options wide = *options;
    const struct backend_take *expected = NULL;
    wide.budget.total_bytes = (uint64_t) 1 << 40;
    wide.backend.model = model;
    assert_int_equal(worker_boot_plan(&wide, model_get_spec(model), &text, &boot), ERR_OK);
    list_takes(options, &boot, &takes);
    uint64_t budget = 0;
    while (!budget) budget = draw_budget(options, &takes, turn++ % STAGES, &expected);
    set_device(&options->budget, budget);
    uint32_t stage = must_fail(options, model, expected);
    worker_boot_close(&boot);
    return stage;
}

static void exact_budgets(void **unused) {
    state = (uint64_t) time(NULL);
    const char *written = getenv("GRAMME_TEST_SEED");
    if (written) state = strtoull(written, NULL, 10);
    print_message("seed %llu\n", (unsigned long long) state);
    struct seen seen = {{0}};
    uint32_t turn = 0;
    for (uint32_t done = 0; done < CONFIGURATIONS;) {
        const struct model *model = models[done % model_count];
        struct worker_boot_options options;
        draw_options(model_get_spec(model), &options);
        if (!(done % SCALAR_PERIOD)) options.backend.cpu_body = "scalar";
        uint64_t least = least_bytes(&options, model);
        if (!least) continue; /* a body that cannot do this */
        uint64_t at = state;
        count_options(&options, &seen);
        set_device(&options.budget, least);
        must_serve(&options, model);
        set_device(&options.budget, least - 1);
        seen.stage[must_fail(&options, model, NULL)]++;
        seen.stage[must_fail_within(&options, model, turn++)]++;
        done++;
        if (!(done % 130)) print_message("%u done, at %llu\n", done, (unsigned long long) at);
    }
    check_seen(&seen);
    for (uint32_t i = 0; i < STAGES; i++) print_message("%s %u  ", stages[i], seen.stage[i]);
    print_message("\n");
}

/* Whatever allocation fails, nothing is left and the reason is told. */
static void allocations_may_fail(void **unused) {
    struct worker_boot_options options = {.ops = &cpu_backend_ops};
    const struct model *model = models[0];
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
