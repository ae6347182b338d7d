/* cuda_estimate - see cuda_estimate.h. */
#include "plan/cuda_estimate.h"

#include <math.h>

#include "backend/tensor_parallel.h"
#include "base/alloc.h"
#include "base/num.h"

/* Context and modules.  A bare context was 526.8 MiB on an H100 and on an H200 (driver 580.159.04);
 * the rest is for the modules of our kernels and of cuBLASLt's few, which load as they are first
 * used.  Smaller cards need less: a context grows with the multiprocessors. */
#define CONTEXT_BYTES ((uint64_t) 576 << 20)
/* A quantized matrix has a few numbers for all of it: its shape, a scale, one of its input. */
#define MATRIX_NOTE_BYTES 32
#define MATRICES 7                                 /* of a layer */
#define GRAPH_BYTES ((uint64_t) 64 << 20)          /* instantiated decode graphs, all batch sizes */
#define GEMM_WORKSPACE_BYTES ((uint64_t) 32 << 20) /* cuBLASLt's own advice for Hopper */
#define STAGING_BYTES ((uint64_t) 32 << 20)        /* handoff: packed runs in flight */

struct cuda_estimate {
    struct backend_head head; /* first */
    struct model_spec spec;
    struct backend_options options;
    struct cuda_estimate_format format;
    enum kv_dtype kv_dtype;
};

static const struct cuda_estimate *estimate_of(const struct backend *backend) {
    return (const struct cuda_estimate *) (const void *) backend;
}

static uint32_t width(struct tensor_parallel_share share) { return share.end - share.first; }

static uint64_t layer_bytes(const struct cuda_estimate *estimate, uint32_t rank) {
    const struct model_spec *spec = &estimate->spec;
    uint32_t ranks = estimate->options.rank_count;
    uint64_t hidden = spec->hidden_size, dim = spec->head_dim;
    uint64_t q = width(tensor_parallel_query_heads(spec, ranks, rank)) * dim;
    uint64_t kv = width(tensor_parallel_kv_heads(spec, ranks, rank)) * dim;
    uint64_t ffn = width(tensor_parallel_ffn(spec, ranks, rank));
    double matrices = (double) (hidden * (2 * q + 2 * kv) + 3 * hidden * ffn);
    uint64_t rows = q + 2 * kv + hidden + 2 * ffn + hidden; /* q, k, v, o, gate, up, down */
    uint64_t columns = hidden + q + hidden + ffn;           /* qkv, o, gate and up, down */
    uint64_t vectors = 2 * hidden;
    if (spec->has_qkv_bias) vectors += q + 2 * kv;
    if (spec->has_o_bias) vectors += hidden;
    if (spec->has_mlp_bias) vectors += 2 * ffn + hidden;
    if (spec->has_qk_norm) vectors += 2 * dim;
    uint64_t notes = estimate->format.weight_bits < 16 ? MATRICES * MATRIX_NOTE_BYTES : 0;
    return (uint64_t) ceil(matrices * estimate->format.weight_bits / 8) + notes +
           rows * estimate->format.row_bytes + columns * estimate->format.column_bytes +
           vectors * (estimate->format.is_fp32 ? 4 : 2);
}

static void plan_weights(const struct cuda_estimate *estimate, uint32_t rank,
                         struct mem_plan *plan) {
    const struct model_spec *spec = &estimate->spec;
    uint64_t width_bytes = estimate->format.is_fp32 ? 4 : 2;
    uint64_t rows = width(tensor_parallel_vocabulary(spec, estimate->options.rank_count, rank, 1));
    uint64_t table = rows * spec->hidden_size * width_bytes;
    mem_plan_add(plan, MEM_WEIGHTS, table, "embedding");
    if (!spec->is_tied) mem_plan_add(plan, MEM_WEIGHTS, table, "head");
    mem_plan_add(plan, MEM_WEIGHTS, layer_bytes(estimate, rank) * spec->layer_count, "layers");
    mem_plan_add(plan, MEM_WEIGHTS, spec->hidden_size * width_bytes, "final norm");
}

static uint64_t block_bytes(const struct backend *backend, uint32_t rank) {
    const struct cuda_estimate *estimate = estimate_of(backend);
    const struct model_spec *spec = &estimate->spec;
    uint64_t heads = width(tensor_parallel_kv_heads(spec, estimate->options.rank_count, rank));
    return (uint64_t) spec->layer_count * 2 * heads *
           kv_dtype_run_bytes(estimate->kv_dtype, estimate->options.block_size, spec->head_dim);
}

/* Rows of a step: residual in f32 (partial sums cross ranks so), the rest in the compute type. */
static void plan_rows(const struct cuda_estimate *estimate, uint32_t rank, struct mem_plan *plan) {
    const struct model_spec *spec = &estimate->spec;
    const struct backend_options *options = &estimate->options;
    uint64_t rows = options->batched_tokens_max, hidden = spec->hidden_size;
    uint64_t tile = num_min(options->row_tile, rows);
    uint64_t heads = width(tensor_parallel_query_heads(spec, options->rank_count, rank));
    uint64_t kv_heads = width(tensor_parallel_kv_heads(spec, options->rank_count, rank));
    uint64_t ffn = width(tensor_parallel_ffn(spec, options->rank_count, rank));
    mem_plan_add(plan, MEM_ACTIVATIONS, rows * hidden * 4, "residual");
    mem_plan_add(plan, MEM_ACTIVATIONS, rows * hidden * 2, "normed input");
    mem_plan_add(plan, MEM_ACTIVATIONS, rows * (2 * heads + 2 * kv_heads) * spec->head_dim * 2,
                 "q, k, v and attention output");
    mem_plan_add(plan, MEM_ACTIVATIONS, tile * ffn * 3 * 2, "mlp row tile");
    mem_plan_add(plan, MEM_ACTIVATIONS, rows * 16, "ids and positions");
    uint64_t table = (uint64_t) options->seat_count *
                     num_div_up(options->model_len_max, options->block_size) * 4;
    mem_plan_add(plan, MEM_ACTIVATIONS, table, "block tables");
}

static void plan_sampling(const struct cuda_estimate *estimate, uint32_t rank,
                          struct mem_plan *plan) {
    const struct model_spec *spec = &estimate->spec;
    const struct backend_options *options = &estimate->options;
    uint64_t seats = options->seat_count;
    uint64_t rows = width(tensor_parallel_vocabulary(spec, options->rank_count, rank, 1));
    mem_plan_add(plan, MEM_ACTIVATIONS, seats * rows * 4, "logits tile");
    /* Counts of prompt and output ids (penalties) and the bias of each seat. */
    mem_plan_add(plan, MEM_ACTIVATIONS, seats * rows * 4, "seats");
}

static void plan_estimate(const struct backend *backend, uint32_t rank, struct mem_plan *plan) {
    const struct cuda_estimate *estimate = estimate_of(backend);
    const struct backend_options *options = &estimate->options;
    plan_weights(estimate, rank, plan);
    plan_rows(estimate, rank, plan);
    plan_sampling(estimate, rank, plan);
    uint64_t tile = num_min(options->row_tile, options->batched_tokens_max);
    if (options->rank_count > 1)
        mem_plan_add(plan, MEM_WORKSPACE, tile * estimate->spec.hidden_size * 4, "all-reduce");
    mem_plan_add(plan, MEM_WORKSPACE, GEMM_WORKSPACE_BYTES, "gemm workspace");
    mem_plan_add(plan, MEM_WORKSPACE, STAGING_BYTES, "handoff staging");
    mem_plan_add(plan, MEM_WORKSPACE, GRAPH_BYTES, "cuda graphs");
    plan->lines[plan->line_count - 1].is_estimated = true;
    mem_plan_add(plan, MEM_WORKSPACE, block_bytes(backend, rank), "block 0");
    mem_plan_add(plan, MEM_CONTEXT, CONTEXT_BYTES, "context and modules");
    plan->lines[plan->line_count - 1].is_estimated = true;
}

static const struct backend_ops ops = {
    .name = "cuda", .plan = plan_estimate, .block_bytes = block_bytes};

enum err cuda_estimate_open(const struct model_spec *spec, const struct backend_options *options,
                            const struct cuda_estimate_format *format, struct err_text *text,
                            struct backend **out) {
    enum err e = tensor_parallel_check(spec, options->rank_count, text);
    if (e) return e;
    struct cuda_estimate *estimate = alloc_zero(1, sizeof *estimate);
    if (!estimate) return err_set(text, ERR_MEMORY, "out of memory");
    estimate->head.ops = &ops;
    estimate->spec = *spec;
    estimate->options = *options;
    estimate->format = *format;
    estimate->kv_dtype = options->kv_dtype;
    if (estimate->kv_dtype == KV_DTYPE_AUTO)
        estimate->kv_dtype = format->is_fp32 ? KV_DTYPE_F32 : KV_DTYPE_BF16;
    *out = (struct backend *) (void *) estimate;
    return ERR_OK;
}

void cuda_estimate_close(struct backend *backend) { alloc_free(backend); }
