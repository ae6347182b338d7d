/* cpu_backend - see cpu_backend.h: the CPU body behind the table of backend.h. */
#include "backend/cpu/cpu_backend.h"

#include <string.h>

#include "base/alloc.h"
#include "base/log.h"

static struct cpu_backend *cpu_of(struct backend *backend) {
    return (struct cpu_backend *) (void *) backend;
}

static const struct cpu_backend *cpu_of_const(const struct backend *backend) {
    return (const struct cpu_backend *) (const void *) backend;
}

/* --- open and close ----------------------------------------------------------------------- */

static enum err options_check(const struct backend_options *options, struct err_text *text) {
    uint32_t block = options->block_size;
    if (block < 8 || block > CPU_TILE || (block & (block - 1)))
        return err_set(text, ERR_USAGE, "block-size is %u; it is 8, 16, 32, 64 or 128", block);
    const struct {
        const char *name;
        uint32_t value;
    } counts[] = {
        {"max-num-seqs", options->seat_count},
        {"max-num-batched-tokens", options->batched_tokens_max},
        {"max-model-len", options->model_len_max},
        {"row-tile", options->row_tile},
        {"threads", options->thread_count},
    };
    for (uint32_t i = 0; i < ARRAY_COUNT(counts); i++)
        if (counts[i].value == 0)
            return err_set(text, ERR_USAGE, "%s is 0; it must be at least 1", counts[i].name);
    if (options->thread_count > TEAM_THREADS_MAX)
        return err_set(text, ERR_USAGE, "threads is %u; at most %u", options->thread_count,
                       TEAM_THREADS_MAX);
    return ERR_OK;
}

static enum err spec_check(const struct model_spec *spec, const struct backend_options *options,
                           struct err_text *text) {
    if (options->numerics == NUMERICS_BF16P && spec->weight_type != TENSOR_BF16)
        return err_set(text, ERR_UNSUPPORTED,
                       "numerics is bf16p, which multiplies BF16 weights; this model's are %s: "
                       "set auto or f32a",
                       tensor_type_name(spec->weight_type));
    if (spec->head_dim % 16 || spec->head_dim > CPU_HEAD_DIM_MAX)
        return err_set(text, ERR_UNSUPPORTED,
                       "head_dim is %u; the CPU body computes multiples of 16 up to %u",
                       spec->head_dim, CPU_HEAD_DIM_MAX);
    if (spec->segment_count > CPU_SEGMENTS_MAX)
        return err_set(text, ERR_UNSUPPORTED, "%u segments; the CPU body sums at most %u",
                       spec->segment_count, CPU_SEGMENTS_MAX);
    return ERR_OK;
}

static void cpu_close(struct backend *backend) {
    struct cpu_backend *cpu = cpu_of(backend);
    if (!cpu) return;
    team_destroy(cpu->team);
    for (uint32_t r = 0; cpu->ranks && r < cpu->rank_count; r++) alloc_free(cpu->ranks[r].layers);
    alloc_free(cpu->ranks);
    alloc_free(cpu);
}

static enum err make_ranks(struct cpu_backend *cpu, struct err_text *text) {
    const struct model_spec *spec = &cpu->spec;
    cpu->rank_count = cpu->options.rank_count;
    cpu->ranks = alloc_zero(cpu->rank_count, sizeof *cpu->ranks);
    for (uint32_t r = 0; cpu->ranks && r < cpu->rank_count; r++) {
        struct cpu_rank *rank = &cpu->ranks[r];
        struct tensor_parallel_share heads = tensor_parallel_kv_heads(spec, cpu->rank_count, r);
        cpu_kv_init(&rank->kv, spec, heads.first, heads.end - heads.first, cpu->options.kv_dtype,
                    cpu->options.block_size);
        rank->layers = alloc_zero(spec->layer_count, sizeof *rank->layers);
        if (!rank->layers) return err_set(text, ERR_MEMORY, "no memory for the layers' book");
    }
    return cpu->ranks ? ERR_OK : err_set(text, ERR_MEMORY, "no memory for the ranks' book");
}

static enum err cpu_open(const struct model_spec *spec, const struct backend_options *options,
                         struct err_text *text, struct backend **out) {
    enum err e = options_check(options, text);
    if (!e) e = tensor_parallel_check(spec, options->rank_count, text);
    if (!e) e = spec_check(spec, options, text);
    if (e) return e;
    struct cpu_backend *cpu = alloc_zero(1, sizeof *cpu);
    if (!cpu) return err_set(text, ERR_MEMORY, "no memory for the backend's book");
    cpu->head.ops = &cpu_backend_ops;
    cpu->spec = *spec;
    cpu->options = *options;
    cpu->model = options->model;
    cpu->options.numerics = numerics_resolve(options->numerics, spec->weight_type);
    cpu->options.kv_dtype = kv_dtype_resolve(options->kv_dtype, spec->weight_type);
    cpu->thread_count = cpu->active_count = options->thread_count;
    e = cpu_body_choose(options->cpu_body, text, &cpu->body);
    if (!e) {
        cpu->rows = cpu_rows_of(cpu->body);
        cpu->attention = cpu_attention_of(cpu->body);
        cpu->scan = cpu_scan_of(cpu->body);
        e = make_ranks(cpu, text);
    }
    if (!e) e = cpu_load_shapes(cpu, text);
    if (e) {
        cpu_close((struct backend *) cpu);
        return e;
    }
    *out = (struct backend *) cpu;
    return ERR_OK;
}

/* --- plan and load ------------------------------------------------------------------------ */

static void cpu_plan(const struct backend *backend, uint32_t rank, struct mem_plan *plan) {
    cpu_load_plan(cpu_of_const(backend), rank, plan);
}

static void cpu_walk(const struct backend *backend, backend_take_fn fn, void *ctx) {
    cpu_load_walk(cpu_of_const(backend), fn, ctx);
}

static const struct cpu_rank *rank_of(const struct backend *backend, uint32_t rank) {
    const struct cpu_backend *cpu = cpu_of_const(backend);
    CHECK(rank < cpu->rank_count);
    return &cpu->ranks[rank];
}

static uint64_t cpu_block_bytes(const struct backend *backend, uint32_t rank) {
    return rank_of(backend, rank)->kv.block_bytes;
}

static enum err cpu_load(struct backend *backend, const struct model *model, uint32_t block_count,
                         struct mem *const *mems, backend_progress_fn progress, void *progress_ctx,
                         struct err_text *text) {
    struct cpu_backend *cpu = cpu_of(backend);
    CHECK(!cpu->is_loaded && model && block_count > 0);
    if (cpu->model != model) { /* planned from shapes alone: the tensors may differ from them */
        cpu->model = model;
        enum err e = cpu_load_shapes(cpu, text);
        if (e) return e;
    }
    enum err e = team_create(cpu->thread_count, cpu->options.may_spin, &cpu->team);
    if (e) return err_set(text, e, "%u compute threads: %s", cpu->thread_count, err_name(e));
    e = cpu_load_buffers(cpu, mems, text);
    if (!e) e = cpu_load_weights(cpu, mems, progress, progress_ctx, text);
    if (!e) e = cpu_load_kv(cpu, block_count, mems, text);
    if (e) return e;
    if (cpu->options.prefault) cpu_load_prefault(cpu);
    cpu->is_loaded = true;
    return ERR_OK;
}

/* --- seats and steps ---------------------------------------------------------------------- */

static enum err cpu_seat_set(struct backend *backend, uint32_t seat,
                             const struct seat_setup *setup) {
    struct cpu_backend *cpu = cpu_of(backend);
    CHECK(cpu->is_loaded && seat < cpu->options.seat_count);
    return cpu_sample_seat_set(cpu_backend_seat(cpu, seat), setup);
}

static void cpu_seat_clear(struct backend *backend, uint32_t seat) {
    struct cpu_backend *cpu = cpu_of(backend);
    CHECK(cpu->is_loaded && seat < cpu->options.seat_count);
    cpu_sample_seat_clear(cpu_backend_seat(cpu, seat));
}

static void cpu_submit(struct backend *backend, const struct batch *batch) {
    struct cpu_backend *cpu = cpu_of(backend);
    CHECK(cpu->is_loaded && !cpu->has_result);
    cpu_forward_step(cpu, batch);
    cpu->has_result = true;
}

static enum err cpu_collect(struct backend *backend, const struct result_row **rows) {
    struct cpu_backend *cpu = cpu_of(backend);
    CHECK(cpu->has_result);
    cpu->has_result = false;
    *rows = cpu->results;
    return ERR_OK;
}

static uint32_t cpu_in_flight_max(const struct backend *backend) { return 1; }

/* --- the KV region ------------------------------------------------------------------------ */

static void cpu_layout(const struct backend *backend, uint32_t rank, struct kv_layout *out) {
    cpu_kv_layout(&rank_of(backend, rank)->kv, out);
}

static void cpu_copy(struct backend *backend, uint32_t from, uint32_t to, uint32_t slot_count) {
    const struct cpu_backend *cpu = cpu_of(backend);
    for (uint32_t r = 0; r < cpu->rank_count; r++)
        cpu_kv_copy(&cpu->ranks[r].kv, from, to, slot_count);
}

static uint64_t cpu_checksum(const struct backend *backend, uint32_t rank, uint32_t block,
                             uint32_t slot_count) {
    return cpu_kv_checksum(&rank_of(backend, rank)->kv, block, slot_count);
}

static enum numerics cpu_numerics(const struct backend *backend) {
    return cpu_of_const(backend)->options.numerics;
}

static enum kv_dtype cpu_kv_dtype(const struct backend *backend) {
    return cpu_of_const(backend)->options.kv_dtype;
}

const struct backend_ops cpu_backend_ops = {
    .name = "cpu",
    .open = cpu_open,
    .plan = cpu_plan,
    .walk = cpu_walk,
    .block_bytes = cpu_block_bytes,
    .load = cpu_load,
    .close = cpu_close,
    .seat_set = cpu_seat_set,
    .seat_clear = cpu_seat_clear,
    .submit = cpu_submit,
    .collect = cpu_collect,
    .in_flight_max = cpu_in_flight_max,
    .kv_layout = cpu_layout,
    .kv_copy = cpu_copy,
    .kv_checksum = cpu_checksum,
    .numerics = cpu_numerics,
    .kv_dtype = cpu_kv_dtype,
};
