/* Goal: tensor parallelism changes no bit.  For every family, weight format and KV format, every
 * degree that divides the model's segments gives the tokens, logits and KV runs of one rank, with
 * any number of threads and on any body; KV runs of a head are the same bytes wherever they lie.
 * Other legal degrees compute the same model; others are refused by name. */
#include <unistd.h>

#include "backend/cpu_rig.h"
#include "base/alloc.h"

#define STREAMS 4
#define OUTPUTS 5
#define VOCAB_MAX 512

struct way {
    uint32_t ranks, threads, chunk;
    const char *body;
};

/* Of all streams: tokens; of the last step: the logits of all rows; the KV of what was computed. */
struct outcome {
    uint32_t ids[STREAMS][OUTPUTS];
    float logits[STREAMS][VOCAB_MAX];
    struct rig rig; /* still open: its KV is compared */
    struct rig_sequence streams[STREAMS];
};

static void run_way(struct model *model, const struct model_spec *spec, enum kv_dtype dtype,
                    enum numerics numerics, const struct way *way, struct outcome *out) {
    struct backend_options options = rig_options();
    options.kv_dtype = dtype;
    options.numerics = numerics;
    options.rank_count = way->ranks;
    options.thread_count = way->threads;
    options.cpu_body = way->body;
    options.may_spin = false;
    options.batched_tokens_max = 256;
    options.seat_count = STREAMS;
    rig_open(&out->rig, model, spec, &options, 20 * STREAMS);
    /* Memory that was never written may hold anything: NaN in every format. */
    for (uint32_t r = 0; r < way->ranks; r++) {
        struct cpu_kv *kv = &rig_cpu(&out->rig)->ranks[r].kv;
        memset(kv->base, 0xff, kv->block_count * kv->block_bytes);
    }
    struct rig_sequence *sequences[STREAMS];
    struct batch_row rows[STREAMS];
    for (uint32_t i = 0; i < STREAMS; i++) {
        uint32_t ids[300], length = i == 1 ? 140 : 3 + 11 * i;
        for (uint32_t k = 0; k < length; k++) ids[k] = (k * 37 + i * 101 + 5) % spec->vocab_size;
        struct rig_sequence *stream = sequences[i] = &out->streams[i];
        sampling_init(&stream->sampling);
        if (i % 2) {
            stream->sampling.temperature = 0.9f;
            stream->sampling.seed = 77 + i;
        }
        rig_sequence(&out->rig, stream, i, ids, length, 1 + i, STREAMS);
    }
    for (bool is_done = false; !is_done;) {
        is_done = true;
        uint32_t room = options.batched_tokens_max, count = 0;
        struct rig_sequence *list[STREAMS];
        for (uint32_t i = 0; i < STREAMS; i++) {
            struct rig_sequence *stream = sequences[i];
            if (stream->count == stream->prompt_count + OUTPUTS) continue;
            rows[count] = rig_row(&out->rig, stream, way->chunk < room ? way->chunk : room);
            if (stream->computed >= stream->prompt_count) rows[count].tokens = NULL;
            room -= rows[count].token_count;
            list[count++] = stream;
            is_done = false;
        }
        if (is_done) break;
        rig_step(&out->rig, rows, list, count);
    }
    for (uint32_t i = 0; i < STREAMS; i++)
        memcpy(out->ids[i], sequences[i]->ids + sequences[i]->prompt_count, sizeof out->ids[i]);
    /* One step of all, for its logits. */
    for (uint32_t i = 0; i < STREAMS; i++) rows[i] = rig_row(&out->rig, sequences[i], 1);
    rig_step(&out->rig, rows, sequences, STREAMS);
    for (uint32_t i = 0; i < STREAMS; i++)
        memcpy(out->logits[i],
               rig_cpu(&out->rig)->logits + i * (uint64_t) rig_cpu(&out->rig)->vocab_ld,
               spec->vocab_size * sizeof(float));
}

/* Every run that any rank of `got` holds is that of `want`, which has one rank. */
static void same_runs(struct outcome *want, struct outcome *got, const char *name) {
    struct kv_layout one, layout;
    rig_ops()->kv_layout(want->rig.backend, 0, &one);
    assert_int_equal(one.head_first, 0);
    assert_int_equal(one.head_count, one.head_total);
    uint32_t seen = 0;
    for (uint32_t r = 0; r < got->rig.options.rank_count; r++) {
        rig_ops()->kv_layout(got->rig.backend, r, &layout);
        assert_int_equal(layout.head_total, one.head_total);
        assert_int_equal(layout.layer_count, one.layer_count);
        assert_true(layout.head_bytes == one.head_bytes);
        assert_true(layout.block_bytes == rig_ops()->block_bytes(got->rig.backend, r));
        for (uint32_t h = 0; h < layout.head_count; h++) seen |= 1u << (layout.head_first + h);
        for (uint32_t block = 1; block < one.block_count; block++)
            for (uint32_t at = 0; at < layout.layer_count * 2 * layout.head_count; at++) {
                uint32_t head = at % layout.head_count, part = at / layout.head_count % 2;
                uint32_t layer = at / layout.head_count / 2;
                const uint8_t *a = one.base + block * one.block_stride + layer * one.layer_stride +
                                   part * one.value_stride +
                                   (layout.head_first + head) * one.head_stride;
                const uint8_t *b = layout.base + block * layout.block_stride +
                                   layer * layout.layer_stride + part * layout.value_stride +
                                   head * layout.head_stride;
                if (memcmp(a, b, one.head_bytes) != 0)
                    fail_msg("%s: rank %u block %u layer %u %s head %u: other bytes", name, r,
                             block, layer, part ? "V" : "K", layout.head_first + head);
            }
    }
    assert_int_equal(seen, (1u << one.head_total) - 1);
}

static void same_outcome(const struct outcome *want, const struct outcome *got,
                         const struct model_spec *spec, const char *name) {
    for (uint32_t i = 0; i < STREAMS; i++) {
        for (uint32_t k = 0; k < OUTPUTS; k++)
            if (want->ids[i][k] != got->ids[i][k])
                fail_msg("%s: stream %u token %u is %u, not %u", name, i, k, got->ids[i][k],
                         want->ids[i][k]);
        if (memcmp(want->logits[i], got->logits[i], spec->vocab_size * sizeof(float)) != 0)
            fail_msg("%s: stream %u: other logits", name, i);
    }
}

static void ranks_agree_as(const char *shape, enum tensor_type type, enum kv_dtype dtype,
                           enum numerics numerics) {
    static const struct way ways[] = {
        {2, 1, 256, NULL},    {2, 2, 17, NULL},   {2, 3, 40, "scalar"},
        {4, 2, 256, NULL},    {4, 4, 33, "avx2"}, {8, 2, 256, NULL},
        {8, 3, 16, "avx512"}, {8, 8, 64, NULL},   {8, 5, 256, NULL}};
    static struct outcome want, got;
    struct model *model = rig_dummy(shape, type);
    const struct model_spec *spec = model_get_spec(model);
    assert_true(spec->vocab_size <= VOCAB_MAX);
    uint32_t compared = 0;
    run_way(model, spec, dtype, numerics, &(struct way){1, 1, 256, NULL}, &want);
    for (size_t i = 0; i < ARRAY_COUNT(ways); i++) {
        if (!rig_has_body(ways[i].body)) continue;
        if (!tensor_parallel_is_exact(spec, ways[i].ranks)) continue;
        char name[160];
        snprintf(name, sizeof name, "%s %s kv %s TP %u, %u threads, chunk %u, %s", shape,
                 tensor_type_name(type), kv_dtype_name(dtype), ways[i].ranks, ways[i].threads,
                 ways[i].chunk, ways[i].body ? ways[i].body : "best");
        run_way(model, spec, dtype, numerics, &ways[i], &got);
        same_outcome(&want, &got, spec, name);
        same_runs(&want, &got, name);
        rig_close(&got.rig);
        compared++;
    }
    assert_true(compared >= 2);
    rig_close(&want.rig);
    model_close(model);
}

static void ranks_agree(const char *shape, enum tensor_type type, enum kv_dtype dtype) {
    ranks_agree_as(shape, type, dtype, NUMERICS_AUTO);
}

/* Tied; 4 heads, 2 KV heads: TP 4 holds each twice. */
static void llama(void **state) {
    ranks_agree("tiny-llama-test", TENSOR_F32, KV_DTYPE_F32);
    ranks_agree("tiny-llama-test", TENSOR_F16, KV_DTYPE_F16);
}

/* Untied, 8 heads, 2 KV heads, K of whole 256-blocks that the cuts go through. */
static void llama_quantized(void **state) {
    ranks_agree("tiny-llama-k-test", TENSOR_Q4_1, KV_DTYPE_F16);
    ranks_agree("tiny-llama-k-test", TENSOR_Q6_K, KV_DTYPE_INT8);
    ranks_agree("tiny-llama-k-test", TENSOR_Q4_K, KV_DTYPE_FP8);
    ranks_agree("tiny-llama-k-test", TENSOR_Q5_K, KV_DTYPE_F16);
    ranks_agree("tiny-llama-k-test", TENSOR_Q5_0, KV_DTYPE_F16);
    ranks_agree_as("tiny-llama-k-test", TENSOR_Q4_K, KV_DTYPE_F32, NUMERICS_F32A);
}

/* 6 heads: S is 2, and the 5 blocks of down_proj are shared 2 and 3. */
static void mistral_unequal(void **state) {
    ranks_agree("tiny-mistral-test", TENSOR_Q8_0, KV_DTYPE_F16);
    ranks_agree("tiny-mistral-test", TENSOR_F32, KV_DTYPE_F32);
}

/* Biases on q, k, v; one KV head for all ranks. */
static void qwen2_bias(void **state) {
    ranks_agree("tiny-qwen2-test", TENSOR_BF16, KV_DTYPE_BF16);
    ranks_agree("tiny-qwen2-test", TENSOR_F32, KV_DTYPE_F16);
}

/* Norms of q and k; 8 heads, 4 KV heads. */
static void qwen3_norms(void **state) {
    ranks_agree("tiny-qwen3-test", TENSOR_BF16, KV_DTYPE_BF16);
    ranks_agree("tiny-qwen3-test", TENSOR_Q8_0, KV_DTYPE_F16);
    ranks_agree_as("tiny-qwen3-test", TENSOR_BF16, KV_DTYPE_BF16, NUMERICS_BF16P);
}

/* Fewer blocks of down_proj than segments: some ranks hold none of the MLP. */
static void few_columns(void **state) {
    struct model *model = rig_dummy("tiny-mistral-test", TENSOR_F32);
    struct model_spec spec = *model_get_spec(model);
    static struct outcome want, got, again;
    run_way(model, &spec, KV_DTYPE_F32, NUMERICS_AUTO, &(struct way){1, 1, 256, NULL}, &want);
    /* 6 ranks: legal, not exact (S is 2), and 6 do not get a block of 5. */
    run_way(model, &spec, KV_DTYPE_F32, NUMERICS_AUTO, &(struct way){6, 2, 256, NULL}, &got);
    run_way(model, &spec, KV_DTYPE_F32, NUMERICS_AUTO, &(struct way){6, 3, 20, "scalar"}, &again);
    assert_int_equal(rig_cpu(&got.rig)->ranks[0].layers[0].down.columns, 0);
    same_outcome(&got, &again, &spec, "TP 6"); /* the bits of a degree are its own, and fixed */
    for (uint32_t i = 0; i < STREAMS; i++)
        for (uint32_t k = 0; k < spec.vocab_size; k++)
            if (!(fabsf(want.logits[i][k] - got.logits[i][k]) < 1e-3f))
                fail_msg("TP 6: logit %u is %.6f, not %.6f", k, (double) got.logits[i][k],
                         (double) want.logits[i][k]);
    rig_close(&want.rig);
    rig_close(&got.rig);
    rig_close(&again.rig);
    model_close(model);
}

/* More segments than blocks of down_proj, so some are empty (8 of 6 blocks), and a bias on every
 * matrix. */
static void empty_segments_and_biases(void **state) {
    char path[] = "/tmp/gramme-ranks-XXXXXX.json";
    int fd = mkstemps(path, 5);
    assert_true(fd >= 0);
    dprintf(fd, "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\","
                "\"num_hidden_layers\":2,\"hidden_size\":64,\"intermediate_size\":192,"
                "\"num_attention_heads\":8,\"num_key_value_heads\":4,\"head_dim\":32,"
                "\"vocab_size\":100,\"max_position_embeddings\":512,\"rms_norm_eps\":1e-5,"
                "\"attention_bias\":true,\"mlp_bias\":true,\"hidden_act\":\"silu\"}");
    close(fd);
    struct model *model = rig_dummy(path, TENSOR_Q8_0);
    unlink(path);
    const struct model_spec *spec = model_get_spec(model);
    assert_true(spec->has_o_bias && spec->has_mlp_bias && spec->segment_count == 8);
    static struct outcome want, got;
    run_way(model, spec, KV_DTYPE_F16, NUMERICS_AUTO, &(struct way){1, 1, 256, "scalar"}, &want);
    for (uint32_t ranks = 1; ranks <= 8; ranks *= 2) {
        run_way(model, spec, KV_DTYPE_F16, NUMERICS_AUTO, &(struct way){ranks, 2, 19, NULL}, &got);
        same_outcome(&want, &got, spec, "empty segments");
        same_runs(&want, &got, "empty segments");
        rig_close(&got.rig);
    }
    rig_close(&want.rig);
    model_close(model);
}

/* --- plan and boot ------------------------------------------------------------------------ */

static struct mem_plan plans[RIG_RANKS_MAX];

static enum err boot(struct model *model, const struct backend_options *options,
                     struct err_text *text) {
    struct backend *backend = NULL;
    struct mem *mems[RIG_RANKS_MAX] = {0};
    enum err e = rig_ops()->open(model_get_spec(model), options, text, &backend);
    if (e) return e;
    for (uint32_t r = 0; !e && r < options->rank_count; r++) {
        plans[r] = (struct mem_plan){.line_count = 0};
        rig_ops()->plan(backend, r, &plans[r]);
        mem_plan_add(&plans[r], MEM_KV, 3 * rig_ops()->block_bytes(backend, r), "kv");
        e = mem_create(&plans[r], mem_plan_total(&plans[r]), text, &mems[r]);
    }
    if (!e) e = rig_ops()->load(backend, model, 3, mems, NULL, NULL, text);
    for (uint32_t r = 0; !e && r < options->rank_count; r++) e = mem_seal(mems[r], text);
    rig_ops()->close(backend);
    for (uint32_t r = 0; r < options->rank_count; r++) mem_destroy(mems[r]);
    return e;
}

static uint64_t line_bytes(const struct mem_plan *plan, const char *reason) {
    for (uint32_t i = 0; i < plan->line_count; i++)
        if (strcmp(plan->lines[i].reason, reason) == 0) return plan->lines[i].bytes;
    return 0;
}

/* Each rank takes exactly what its plan says; together the slices are the model. */
static void plans_of_ranks(void **state) {
    const enum tensor_type types[] = {TENSOR_F32, TENSOR_Q4_K};
    for (uint32_t i = 0; i < 2; i++) {
        struct model *model = rig_dummy("tiny-llama-k-test", types[i]);
        uint64_t whole_mlp = 0, whole_head = 0, kv_bytes = 0;
        for (uint32_t ranks = 1; ranks <= 8; ranks *= 2) {
            struct backend_options options = rig_options();
            struct err_text text = {""};
            options.model = model;
            options.rank_count = ranks;
            if (boot(model, &options, &text)) fail_msg("TP %u: %s", ranks, text.text);
            uint64_t mlp = 0, head = 0;
            if (ranks == 1) kv_bytes = line_bytes(&plans[0], "kv") / 3;
            for (uint32_t r = 0; r < ranks; r++) {
                mlp += line_bytes(&plans[r], "mlp weights");
                head += line_bytes(&plans[r], "head");
                assert_int_equal(line_bytes(&plans[r], "mlp weights"),
                                 line_bytes(&plans[0], "mlp weights"));
                assert_int_equal(line_bytes(&plans[r], "kv") * (ranks > 1 ? 2 : 1),
                                 3 * kv_bytes); /* two KV heads, or one */
                assert_int_equal(line_bytes(&plans[r], "residual") != 0, r == 0);
                assert_int_equal(line_bytes(&plans[r], "partial sums of a row tile") != 0,
                                 ranks > 1);
            }
            if (ranks == 1) whole_mlp = mlp, whole_head = head;
            assert_int_equal(mlp, whole_mlp);
            assert_int_equal(head, whole_head);
        }
        model_close(model);
    }
}

static void allocations_may_fail(void **state) {
    struct model *model = rig_dummy("tiny-llama-test", TENSOR_F32);
    struct backend_options options = rig_options();
    struct err_text text;
    options.rank_count = 4;
    options.thread_count = 2;
    options.may_spin = false;
    options.model = model;
    uint32_t failures = 0;
    for (uint64_t n = 1;; n++) {
        text.text[0] = 0;
        alloc_fail_at(n, 0);
        enum err e = boot(model, &options, &text);
        alloc_fail_at(0, 0);
        if (!e) break;
        assert_int_equal(e, ERR_MEMORY);
        assert_true(text.text[0]);
        failures++;
    }
    assert_true(failures >= 4 * 3); /* layers, arena and its pieces of each rank */
    model_close(model);
}

static void illegal_degrees(void **state) {
    struct model *model = rig_dummy("tiny-mistral-test", TENSOR_F32);
    const uint32_t bad[] = {0, 3, 4, 5, 7, 8, 12, 65};
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct backend_options options = rig_options();
        struct backend *backend = NULL;
        struct err_text text = {""};
        options.rank_count = bad[i];
        assert_int_equal(rig_ops()->open(model_get_spec(model), &options, &text, &backend),
                         ERR_USAGE);
        assert_null(backend);
        assert_non_null(strstr(text.text, "tensor-parallel-size"));
        assert_non_null(strstr(text.text, "1, 2, 6"));
        assert_null(strchr(text.text, '\n'));
    }
    model_close(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama),
        cmocka_unit_test(llama_quantized),
        cmocka_unit_test(mistral_unequal),
        cmocka_unit_test(qwen2_bias),
        cmocka_unit_test(qwen3_norms),
        cmocka_unit_test(few_columns),
        cmocka_unit_test(empty_segments_and_biases),
        cmocka_unit_test(plans_of_ranks),
        cmocka_unit_test(allocations_may_fail),
        cmocka_unit_test(illegal_degrees),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
