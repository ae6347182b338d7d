/* cpu_load - see cpu_backend.h: every buffer of the CPU body with its reason and bytes, and the
 * packing of the weights into them.
 *
 * One list (list_buffers) serves the plan and the boot, so they cannot differ. */
#include "backend/cpu/cpu_backend.h"

#include <string.h>

#include "base/num.h"

#define LINE 64u
#define PAGE 4096u

/* --- the shapes of the matrices ----------------------------------------------------------- */

/* One rank's part of a tensor. */
struct slice {
    struct cpu_matrix *matrix;
    enum tensor_role role;
    uint32_t tensor_rows, tensor_columns;
    uint32_t row_first, rows;
    uint32_t column_first, columns;
    const uint32_t *segment_ends; /* NULL: one segment */
    uint32_t segment_count;
};

static enum err slice_shape(struct cpu_backend *cpu, const struct slice *slice, uint32_t layer,
                            struct err_text *text) {
    enum tensor_type type = cpu->spec.weight_type;
    if (cpu->model) {
        struct model_tensor tensor;
        char name[MODEL_TENSOR_NAME_BYTES];
        model_tensor_name(cpu->model, slice->role, layer, name);
        if (!model_tensor_get(cpu->model, slice->role, layer, &tensor))
            return err_set(text, ERR_NOT_FOUND, "%s: there is no tensor %s", cpu->spec.name, name);
        if (tensor.rows != slice->tensor_rows || tensor.columns != slice->tensor_columns)
            return err_set(text, ERR_FORMAT,
                           "%s: tensor %s is %u x %u, the model's numbers say %u x %u",
                           cpu->spec.name, name, tensor.rows, tensor.columns, slice->tensor_rows,
                           slice->tensor_columns);
        type = tensor.type;
    }
    enum err e = cpu_matrix_init_slice(slice->matrix, cpu->options.numerics, type, slice->rows,
                                       slice->columns, slice->column_first, slice->tensor_columns,
                                       slice->segment_ends, slice->segment_count, text);
    if (e) return e;
    cpu->has_class[cpu_backend_class(slice->matrix)] = true;
    cpu->columns_max = (uint32_t) num_max(cpu->columns_max, slice->columns);
    cpu->stored_columns_max = (uint32_t) num_max(cpu->stored_columns_max, slice->tensor_columns);
    return ERR_OK;
}

#define LAYER_MATRICES 7u

/* Rank `r`'s slices of a layer: q, k, v at heads, gate and up at the columns of down; o by its
 * heads and down at whole 32-blocks, each by segments (numerics.md 3).  ends: the segments' ends,
 * of o and of down. */
static void list_slices(const struct cpu_backend *cpu, uint32_t r, struct cpu_layer *layer,
                        uint32_t ends[2][CPU_SEGMENTS_MAX], struct slice list[LAYER_MATRICES]) {
    const struct model_spec *spec = &cpu->spec;
    const uint32_t ranks = cpu->rank_count, hidden = spec->hidden_size, ffn = spec->ffn_size;
    const uint32_t head_dim = spec->head_dim, q_all = spec->head_count * head_dim,
                   kv_all = spec->kv_head_count * head_dim;
    const struct tensor_parallel_share heads = tensor_parallel_query_heads(spec, ranks, r),
                                       kv_heads = tensor_parallel_kv_heads(spec, ranks, r),
                                       inner = tensor_parallel_ffn(spec, ranks, r);
    const uint32_t q = heads.first * head_dim, q_count = heads.end * head_dim - q;
    const uint32_t kv = kv_heads.first * head_dim, kv_count = kv_heads.end * head_dim - kv;
    const uint32_t f = inner.first, f_count = inner.end - inner.first;
    const uint32_t segments = tensor_parallel_segments(spec, ranks), each = segments / ranks;
    for (uint32_t i = 0; i < each; i++) {
        uint32_t segment = r * each + i + 1; /* its end is where this one begins */
        ends[0][i] = (uint32_t) ((uint64_t) segment * spec->head_count / segments) * head_dim - q;
        ends[1][i] = tensor_parallel_ffn_cut(spec, segments, segment) - f;
    }
    list[0] = (struct slice){&layer->q, ROLE_Q, q_all, hidden, q, q_count, 0, hidden, NULL, 0};
    list[1] = (struct slice){&layer->k, ROLE_K, kv_all, hidden, kv, kv_count, 0, hidden, NULL, 0};
    list[2] = (struct slice){&layer->v, ROLE_V, kv_all, hidden, kv, kv_count, 0, hidden, NULL, 0};
    list[3] =
        (struct slice){&layer->o, ROLE_O, hidden, q_all, 0, hidden, q, q_count, ends[0], each};
    list[4] = (struct slice){&layer->gate, ROLE_GATE, ffn, hidden, f, f_count, 0, hidden, NULL, 0};
    list[5] = (struct slice){&layer->up, ROLE_UP, ffn, hidden, f, f_count, 0, hidden, NULL, 0};
    list[6] =
        (struct slice){&layer->down, ROLE_DOWN, hidden, ffn, 0, hidden, f, f_count, ends[1], each};
}

static struct slice head_slice(const struct cpu_backend *cpu, uint32_t r) {
    const struct model_spec *spec = &cpu->spec;
    struct tensor_parallel_share ids =
        tensor_parallel_vocabulary(spec, cpu->rank_count, r, CPU_GROUP);
    return (struct slice){.matrix = &cpu->ranks[r].output,
                          .role = ROLE_HEAD,
                          .tensor_rows = spec->vocab_size,
                          .tensor_columns = spec->hidden_size,
                          .row_first = ids.first,
                          .rows = ids.end - ids.first,
                          .columns = spec->hidden_size};
}

static enum err rank_shapes(struct cpu_backend *cpu, uint32_t r, struct err_text *text) {
    struct cpu_rank *rank = &cpu->ranks[r];
    uint32_t ends[2][CPU_SEGMENTS_MAX];
    struct slice list[LAYER_MATRICES], head = head_slice(cpu, r);
    enum err e = ERR_OK;
    for (uint32_t i = 0; !e && i < cpu->spec.layer_count; i++) {
        list_slices(cpu, r, &rank->layers[i], ends, list);
        for (uint32_t m = 0; !e && m < LAYER_MATRICES; m++) e = slice_shape(cpu, &list[m], i, text);
    }
    if (!e) e = slice_shape(cpu, &head, 0, text);
    if (e) return e;
    rank->vocab_first = head.row_first;
    rank->q_columns = rank->layers[0].q.rows;
    rank->kv_columns = rank->layers[0].k.rows;
    rank->ffn_ld = (uint32_t) num_max(num_round_up(rank->layers[0].gate.rows, 16), 16);
    return ERR_OK;
}

/* Where rank `r`'s part of a vector begins. */
static uint32_t vector_first(const struct cpu_backend *cpu, uint32_t r, enum cpu_vector vector) {
    const struct model_spec *spec = &cpu->spec;
    switch (vector) {
    case CPU_Q_BIAS:
        return tensor_parallel_query_heads(spec, cpu->rank_count, r).first * spec->head_dim;
    case CPU_K_BIAS:
    case CPU_V_BIAS:
        return tensor_parallel_kv_heads(spec, cpu->rank_count, r).first * spec->head_dim;
    case CPU_GATE_BIAS:
    case CPU_UP_BIAS: return tensor_parallel_ffn(spec, cpu->rank_count, r).first;
    default: return 0; /* each rank reads all of it */
    }
}

/* Role, floats and presence of each vector of a layer. */
static uint32_t vector_floats(const struct cpu_backend *cpu, enum cpu_vector vector,
                              enum tensor_role *role) {
    const struct model_spec *spec = &cpu->spec;
    const uint32_t kv_floats = spec->kv_head_count * spec->head_dim;
    const struct {
        enum tensor_role role;
        uint32_t floats;
    } list[CPU_VECTOR_COUNT] = {
        [CPU_ATTN_NORM] = {ROLE_ATTN_NORM, spec->hidden_size},
        [CPU_FFN_NORM] = {ROLE_FFN_NORM, spec->hidden_size},
        [CPU_Q_BIAS] = {ROLE_Q_BIAS, spec->has_qkv_bias ? spec->head_count * spec->head_dim : 0},
        [CPU_K_BIAS] = {ROLE_K_BIAS, spec->has_qkv_bias ? kv_floats : 0},
        [CPU_V_BIAS] = {ROLE_V_BIAS, spec->has_qkv_bias ? kv_floats : 0},
        [CPU_O_BIAS] = {ROLE_O_BIAS, spec->has_o_bias ? spec->hidden_size : 0},
        [CPU_GATE_BIAS] = {ROLE_GATE_BIAS, spec->has_mlp_bias ? spec->ffn_size : 0},
        [CPU_UP_BIAS] = {ROLE_UP_BIAS, spec->has_mlp_bias ? spec->ffn_size : 0},
        [CPU_DOWN_BIAS] = {ROLE_DOWN_BIAS, spec->has_mlp_bias ? spec->hidden_size : 0},
        [CPU_Q_NORM] = {ROLE_Q_NORM, spec->has_qk_norm ? spec->head_dim : 0},
        [CPU_K_NORM] = {ROLE_K_NORM, spec->has_qk_norm ? spec->head_dim : 0},
    };
    *role = list[vector].role;
    return list[vector].floats;
}

/* --- buffers ------------------------------------------------------------------------------ */

static uint64_t product3(uint64_t a, uint64_t b, uint64_t c) {
    uint64_t ab, abc;
    CHECK(num_mul(a, b, &ab) && num_mul(ab, c, &abc));
    return abc;
}

static uint64_t place(uint64_t *at, uint64_t bytes) {
    uint64_t offset = *at;
    *at += num_round_up(bytes, LINE);
    return offset;
}

/* Bytes of the largest stored row that is read through scratch. */
static uint64_t stored_row_bytes(const struct cpu_backend *cpu) {
    uint64_t bytes = (uint64_t) cpu->stored_columns_max * sizeof(float);
    return num_round_up(bytes, LINE);
}

static void scratch_shapes(struct cpu_backend *cpu) {
    struct cpu_scratch_layout *layout = &cpu->scratch_layout;
    const uint32_t head_dim = cpu->spec.head_dim, rows = cpu->query_rows;
    uint64_t at = 0, row = num_max(cpu->hidden_ld, head_dim);
    layout->row = place(&at, row * sizeof(float));
    layout->out_floats = num_max((uint64_t) cpu->row_tile * CPU_OUT_COLUMNS, 8192);
    layout->out_floats = num_max(layout->out_floats, stored_row_bytes(cpu) / sizeof(float));
    layout->out = place(&at, layout->out_floats * sizeof(float));
    for (uint32_t c = 0; c < CPU_CLASS_COUNT; c++)
        if (cpu->has_class[c])
            layout->narrow[c] =
                place(&at, cpu_activations_bytes(cpu_backend_class_numerics(c), cpu->narrow_rows,
                                                 cpu->columns_max));
    uint64_t head_bytes = product3(rows, head_dim, sizeof(float));
    layout->queries = place(&at, head_bytes);
    layout->state = place(&at, head_bytes);
    layout->fresh = place(&at, head_bytes);
    layout->marks = place(&at, (uint64_t) rows * 6 * sizeof(float));
    layout->scores = place(&at, CPU_ATTENTION_SCORES * sizeof(float));
    uint64_t unpacked = cpu_kv_has_scales(cpu->options.kv_dtype) ? 2u * CPU_TILE * head_dim : 0;
    layout->unpacked = place(&at, unpacked * sizeof(float));
    layout->sampling = place(&at, cpu_sample_scratch_bytes(cpu->spec.vocab_size));
    layout->bytes = num_round_up(at, PAGE);
}

static void count_shapes(struct cpu_backend *cpu) {
    const struct model_spec *spec = &cpu->spec;
    const struct backend_options *options = &cpu->options;
    uint32_t tokens = options->batched_tokens_max, seats = options->seat_count;
    cpu->hidden_ld = (uint32_t) num_round_up(spec->hidden_size, 16);
    cpu->vocab_ld = (uint32_t) num_round_up(spec->vocab_size, 16);
    cpu->row_tile = (uint32_t) num_min(num_min(options->row_tile, CPU_ROW_TILE_MAX), tokens);
    cpu->logit_rows = (uint32_t) num_min(seats, CPU_LOGIT_ROWS_MAX);
    uint32_t narrow = (uint32_t) num_max(1, CPU_NARROW_ELEMENTS / cpu->columns_max);
    cpu->narrow_rows = (uint32_t) num_min(num_min(narrow, seats), cpu->row_tile);
    cpu->query_rows = (uint32_t) num_max(CPU_QUERY_ROWS, cpu->group);
    /* Each query task holds at least two tokens (cpu_attend_plan) unless the group is large. */
    uint32_t query_min = (uint32_t) num_min(2, cpu->query_rows / cpu->group);
    uint64_t tiles = num_div_up(options->model_len_max, CPU_TILE);
    CHECK(tiles * cpu->kv_heads < UINT32_MAX / 2);
    cpu->partial_room = cpu->thread_count > 1 ? (uint32_t) tiles * cpu->kv_heads : 0;
    uint64_t tasks = (num_div_up(tokens, query_min) + seats) * cpu->kv_heads + cpu->partial_room;
    CHECK(tasks < UINT32_MAX);
    cpu->task_room = (uint32_t) tasks;
    cpu->partial_floats = (uint64_t) (2 + spec->head_dim) * cpu->group;
    cpu->seat_bytes = cpu_sample_seat_bytes(spec->vocab_size, options->model_len_max);
}

/* Partial sums that a rank leaves: the tree of a power of two of them is its own to walk, as its
 * first segment is a multiple of that power; else the tree crosses ranks and takes them apart. */
static uint32_t count_planes(const struct cpu_backend *cpu) {
    uint32_t each = tensor_parallel_segments(&cpu->spec, cpu->rank_count) / cpu->rank_count;
    return cpu->rank_count == 1 || (each & (each - 1)) == 0 ? 1 : each;
}

enum err cpu_load_shapes(struct cpu_backend *cpu, struct err_text *text) {
    const struct model_spec *spec = &cpu->spec;
    enum err e = ERR_OK;
    for (uint32_t r = 0; !e && r < cpu->rank_count; r++) e = rank_shapes(cpu, r, text);
    if (e) return e;
    if (!spec->is_tied && cpu->model &&
        !model_tensor_get(cpu->model, ROLE_EMBEDDING, 0, &cpu->embedding))
        return err_set(text, ERR_NOT_FOUND, "the model has no embedding");
    cpu->group = cpu->ranks[0].q_columns / cpu->ranks[0].kv_columns;
    cpu->kv_heads = cpu->rank_count * cpu->ranks[0].kv.head_count;
    cpu->output_groups = 0;
    for (uint32_t r = 0; r < cpu->rank_count; r++)
        cpu->output_groups += cpu->ranks[r].output.group_count;
    cpu->plane_count = count_planes(cpu);
    count_shapes(cpu);
    cpu->plane_floats = (uint64_t) cpu->row_tile * cpu->hidden_ld;
    scratch_shapes(cpu);
    return ERR_OK;
}

struct buffer {
    const char *reason;
    enum mem_kind kind;
    uint64_t bytes;
    void **at;
};
#define BUFFERS_MAX 32

static uint64_t matrix_bytes(const struct cpu_matrix *matrix) {
    return num_round_up(cpu_matrix_bytes(matrix), LINE);
}

static uint64_t vector_bytes(const struct cpu_backend *cpu) {
    uint64_t floats = 0;
    for (uint32_t v = 0; v < CPU_VECTOR_COUNT; v++) {
        enum tensor_role role;
        floats += num_round_up(vector_floats(cpu, (enum cpu_vector) v, &role), 16);
    }
    floats = floats * cpu->spec.layer_count + cpu->hidden_ld; /* and the final norm */
    return (floats + num_round_up(cpu->spec.head_dim / 2, 16)) * sizeof(float); /* and rope */
}

#define AT(field) ((void **) (void *) &cpu->field)
#define RANK_AT(field) ((void **) (void *) &rank->field)

static uint32_t add_buffers(const struct buffer *all, uint32_t all_count, struct buffer *list) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < all_count; i++)
        if (all[i].bytes) list[count++] = all[i];
    return count;
}

/* What rank `r` holds for itself beside its weights. */
static uint32_t list_rank_buffers(struct cpu_backend *cpu, uint32_t r, struct buffer *list) {
    struct cpu_rank *rank = &cpu->ranks[r];
    const uint64_t tokens = cpu->options.batched_tokens_max, f = sizeof(float);
    uint64_t wide[CPU_CLASS_COUNT] = {0};
    /* Rank 0's take the normed rows, which are the input of all, too. */
    uint32_t columns = (uint32_t) num_max(rank->layers[0].o.columns, rank->layers[0].down.columns);
    uint32_t rows = cpu->row_tile;
    if (r == 0) columns = (uint32_t) num_max(columns, cpu->spec.hidden_size);
    if (r == 0) rows = (uint32_t) num_max(rows, cpu->logit_rows);
    for (uint32_t c = 0; c < CPU_CLASS_COUNT; c++)
        if (cpu->has_class[c])
            wide[c] = cpu_activations_bytes(cpu_backend_class_numerics(c), rows, columns);
    uint64_t planes = cpu->rank_count > 1 ? cpu->plane_count : 0;
    const struct buffer all[] = {
        {"queries and attention output", MEM_ACTIVATIONS, product3(tokens, rank->q_columns, f),
         RANK_AT(queries)},
        {"keys and values of a row tile", MEM_ACTIVATIONS,
         product3(cpu->row_tile, 2 * (uint64_t) rank->kv_columns, f), RANK_AT(kv_rows)},
        {"mlp hidden rows of a row tile", MEM_ACTIVATIONS, product3(cpu->row_tile, rank->ffn_ld, f),
         RANK_AT(hidden)},
        {"product inputs f32a", MEM_ACTIVATIONS, wide[CPU_CLASS_F32A],
         RANK_AT(wide[CPU_CLASS_F32A])},
        {"product inputs q8a32", MEM_ACTIVATIONS, wide[CPU_CLASS_Q8A32],
         RANK_AT(wide[CPU_CLASS_Q8A32])},
        {"product inputs bf16p", MEM_ACTIVATIONS, wide[CPU_CLASS_BF16P],
         RANK_AT(wide[CPU_CLASS_BF16P])},
        {"partial sums of a row tile", MEM_WORKSPACE, product3(planes, cpu->plane_floats, f),
         RANK_AT(sums)},
        /* Nothing writes to it on the CPU; it is counted as on every body. */
        {"kv block 0", MEM_WORKSPACE, rank->kv.block_bytes, NULL},
    };
    return add_buffers(all, ARRAY_COUNT(all), list);
}

/* What stands once for all ranks, on rank 0. */
static uint32_t list_common_buffers(struct cpu_backend *cpu, struct buffer *list) {
    const struct model_spec *spec = &cpu->spec;
    const uint64_t tokens = cpu->options.batched_tokens_max, seats = cpu->options.seat_count;
    const uint64_t f = sizeof(float);
    const struct buffer all[] = {
        {"residual", MEM_ACTIVATIONS, product3(tokens, cpu->hidden_ld, f), AT(residual)},
        {"rotary angles", MEM_ACTIVATIONS, product3(tokens, spec->head_dim, f), AT(angles)},
        {"logits tile", MEM_ACTIVATIONS, product3(cpu->logit_rows, cpu->vocab_ld, f), AT(logits)},
        {"attention partials", MEM_ACTIVATIONS, product3(cpu->partial_room, cpu->partial_floats, f),
         AT(partials)},
        {"seats", MEM_ACTIVATIONS, product3(seats, cpu->seat_bytes, 1), AT(seats)},
        {"results", MEM_ACTIVATIONS, product3(seats, sizeof(struct result_row), 1), AT(results)},
        {"prompt logprobs", MEM_ACTIVATIONS, product3(tokens, sizeof(struct token_logprob), 1),
         AT(prompt_logprobs)},
        {"thread scratch", MEM_WORKSPACE, product3(cpu->thread_count, cpu->scratch_layout.bytes, 1),
         AT(scratch)},
        {"step: rows of the batch", MEM_WORKSPACE, (seats + 1) * sizeof(uint32_t), AT(row_first)},
        {"step: rows of the tokens", MEM_WORKSPACE, tokens * sizeof(uint32_t), AT(row_of)},
        {"step: attention tasks", MEM_WORKSPACE,
         product3(cpu->task_room, sizeof(struct cpu_task), 1), AT(tasks)},
        {"step: attention counters", MEM_WORKSPACE,
         product3(seats, cpu->kv_heads, sizeof(uint32_t)), AT(counters)},
        {"step: logit rows", MEM_WORKSPACE,
         product3(tokens + seats, sizeof(struct cpu_logit_row), 1), AT(logit_list)},
        {"step: maxima", MEM_WORKSPACE,
         product3(cpu->thread_count, cpu->logit_rows, sizeof(struct cpu_scan_top)), AT(tops)},
        {"step: draws", MEM_WORKSPACE, product3(cpu->logit_rows, sizeof(struct cpu_sample_draw), 1),
         AT(draws)},
    };
    return add_buffers(all, ARRAY_COUNT(all), list);
}

static uint32_t list_buffers(struct cpu_backend *cpu, uint32_t rank, struct buffer *list) {
    uint32_t count = list_rank_buffers(cpu, rank, list);
    return rank == 0 ? count + list_common_buffers(cpu, list + count) : count;
}

/* --- what is taken, in the order of loading ------------------------------------------------- */

/* The list that plan, refusal and load share.  Buffers come first, as packing needs the threads'
 * scratch; then weights, stage by stage. */
static bool walk_buffers(const struct cpu_backend *cpu, backend_take_fn fn, void *ctx) {
    for (uint32_t r = 0; r < cpu->rank_count; r++) {
        struct buffer list[BUFFERS_MAX];
        /* Only addresses of fields are taken. */
        uint32_t count = list_buffers((struct cpu_backend *) (uintptr_t) cpu, r, list);
        for (uint32_t i = 0; i < count; i++) {
            const struct backend_take take = {"buffers",        list[i].reason, list[i].kind, r,
                                              BACKEND_NO_LAYER, list[i].bytes,  false};
            if (!fn(ctx, &take)) return false;
        }
    }
    return true;
}

#define VECTORS_REASON "norms and biases"
#define ATTENTION_REASON "attention weights"
#define MLP_REASON "mlp weights"

static const char *output_reason(const struct cpu_backend *cpu) {
    return cpu->spec.is_tied ? "embedding and head" : "head";
}

/* Where a rank's share of a small model is empty it has a line of cache, so that its pointers are
 * some. */
static bool walk_output(const struct cpu_backend *cpu, const char *stage, backend_take_fn fn,
                        void *ctx) {
    for (uint32_t r = 0; r < cpu->rank_count; r++) {
        const struct backend_take take = {
            stage, output_reason(cpu), MEM_WEIGHTS,
            r,     BACKEND_NO_LAYER,   num_max(matrix_bytes(&cpu->ranks[r].output), LINE),
            false};
        if (!fn(ctx, &take)) return false;
    }
    return true;
}

/* Of an embedding that is no head only the rows of a step's tokens are looked at: it stays where
 * the file has it.  Dummy rows are made when they are asked for. */
static uint64_t mapped_embedding_bytes(const struct cpu_backend *cpu) {
    const struct model_spec *spec = &cpu->spec;
    const void *base;
    uint64_t bytes;
    if (spec->is_tied) return 0;
    if (!cpu->model)
        return spec->vocab_size * tensor_type_bytes(spec->weight_type, spec->hidden_size);
    return model_tensor_mapping(cpu->model, ROLE_EMBEDDING, 0, &base, &bytes) ? bytes : 0;
}

static bool walk_embeddings(const struct cpu_backend *cpu, backend_take_fn fn, void *ctx) {
    const char *stage = "embeddings";
    const struct backend_take vectors = {
        stage, VECTORS_REASON, MEM_WEIGHTS, 0, BACKEND_NO_LAYER, vector_bytes(cpu), false};
    if (!fn(ctx, &vectors)) return false;
    if (cpu->spec.is_tied) return walk_output(cpu, stage, fn, ctx);
    const struct backend_take mapped = {stage, "embedding (mapped)", MEM_WEIGHTS,
                                        0,     BACKEND_NO_LAYER,     mapped_embedding_bytes(cpu),
                                        true};
    return !mapped.bytes || fn(ctx, &mapped);
}

static bool walk_layer(const struct cpu_backend *cpu, uint32_t i, backend_take_fn fn, void *ctx) {
    for (uint32_t r = 0; r < cpu->rank_count; r++) {
        const struct cpu_layer *layer = &cpu->ranks[r].layers[i];
        uint64_t attention = matrix_bytes(&layer->q) + matrix_bytes(&layer->k) +
                             matrix_bytes(&layer->v) + matrix_bytes(&layer->o);
        uint64_t mlp =
            matrix_bytes(&layer->gate) + matrix_bytes(&layer->up) + matrix_bytes(&layer->down);
        if (i == 0) mlp = num_max(mlp, LINE); /* as in walk_output */
        const struct backend_take takes[] = {
            {"layers", ATTENTION_REASON, MEM_WEIGHTS, r, i, attention, false},
            {"layers", MLP_REASON, MEM_WEIGHTS, r, i, mlp, false}};
        for (uint32_t k = 0; k < ARRAY_COUNT(takes); k++)
            if (takes[k].bytes && !fn(ctx, &takes[k])) return false;
    }
    return true;
}

static bool walk_head(const struct cpu_backend *cpu, backend_take_fn fn, void *ctx) {
    return cpu->spec.is_tied || walk_output(cpu, "head", fn, ctx);
}

static bool walk_weights(const struct cpu_backend *cpu, backend_take_fn fn, void *ctx) {
    bool goes_on = walk_embeddings(cpu, fn, ctx);
    for (uint32_t i = 0; goes_on && i < cpu->spec.layer_count; i++)
        goes_on = walk_layer(cpu, i, fn, ctx);
    return goes_on && walk_head(cpu, fn, ctx);
}

void cpu_load_walk(const struct cpu_backend *cpu, backend_take_fn fn, void *ctx) {
    if (walk_buffers(cpu, fn, ctx)) (void) walk_weights(cpu, fn, ctx);
}

struct adding {
    struct mem_plan *plan;
    uint32_t rank;
};

static bool add_take(void *ctx, const struct backend_take *take) {
    struct adding *adding = ctx;
    if (take->rank != adding->rank) return true;
    mem_plan_add(adding->plan, take->kind, take->bytes, take->reason);
    if (take->is_outside) adding->plan->lines[adding->plan->line_count - 1].is_outside = true;
    return true;
}

void cpu_load_plan(const struct cpu_backend *cpu, uint32_t rank, struct mem_plan *plan) {
    CHECK(rank < cpu->rank_count);
    struct adding adding = {plan, rank};
    (void) walk_weights(cpu, add_take, &adding); /* a reader looks for the weights first */
    (void) walk_buffers(cpu, add_take, &adding);
}

/* --- taking ------------------------------------------------------------------------------- */

struct claiming {
    const struct cpu_backend *cpu;
    struct mem *const *mems;
    struct err_text *text;
    enum err e;
};

static bool claim(void *ctx, const struct backend_take *take) {
    struct claiming *claiming = ctx;
    claiming->e = mem_claim(claiming->mems[take->rank], take->reason, take->bytes, claiming->text);
    if (!claiming->e) return true;
    if (claiming->cpu->rank_count > 1) err_prefix(claiming->text, "rank %u", take->rank);
    if (take->layer == BACKEND_NO_LAYER) err_prefix(claiming->text, "stage %s", take->stage);
    else
        err_prefix(claiming->text, "stage %s, layer %u of %u", take->stage, take->layer + 1,
                   claiming->cpu->spec.layer_count);
    return false;
}

enum err cpu_load_buffers(struct cpu_backend *cpu, struct mem *const *mems, struct err_text *text) {
    struct claiming claiming = {.cpu = cpu, .mems = mems, .text = text};
    if (!walk_buffers(cpu, claim, &claiming)) return claiming.e;
    for (uint32_t r = 0; r < cpu->rank_count; r++) {
        struct buffer list[BUFFERS_MAX];
        uint32_t count = list_buffers(cpu, r, list);
        for (uint32_t i = 0; i < count; i++) {
            void *at;
            enum err e = mem_map(mems[r], list[i].reason, text, &at);
            if (e) return e;
            if (list[i].at) *list[i].at = at;
        }
    }
    for (uint32_t i = 0; i < cpu->options.seat_count; i++)
        cpu_sample_seat_init(cpu_backend_seat(cpu, i), cpu->spec.vocab_size,
                             cpu->options.model_len_max);
    return ERR_OK;
}

/* Address space for the weights: each stage claims its part before it writes there. */
static enum err map_weights(struct cpu_backend *cpu, struct mem *const *mems,
                            struct err_text *text) {
    void *at;
    enum err e = mem_map(mems[0], VECTORS_REASON, text, &at);
    if (e) return e;
    cpu->vectors = at;
    for (uint32_t r = 0; r < cpu->rank_count; r++) {
        struct cpu_rank *rank = &cpu->ranks[r];
        const struct {
            const char *reason;
            uint8_t **at;
        } list[] = {{ATTENTION_REASON, &rank->attention_weights},
                    {MLP_REASON, &rank->mlp_weights},
                    {output_reason(cpu), &rank->output_weights}};
        for (uint32_t i = 0; i < ARRAY_COUNT(list); i++) {
            e = mem_map(mems[r], list[i].reason, text, &at);
            if (e) return e;
            *list[i].at = at;
        }
    }
    return ERR_OK;
}

enum err cpu_load_kv(struct cpu_backend *cpu, uint32_t block_count, struct mem *const *mems,
                     struct err_text *text) {
    for (uint32_t r = 0; r < cpu->rank_count; r++) {
        struct cpu_kv *kv = &cpu->ranks[r].kv;
        void *base;
        enum err e =
            mem_take(mems[r], "kv", product3(block_count, kv->block_bytes, 1), text, &base);
        if (e && cpu->rank_count > 1) err_prefix(text, "rank %u", r);
        if (e) err_prefix(text, "stage kv");
        if (e) return e;
        kv->base = base;
        kv->block_count = block_count;
    }
    return ERR_OK;
}

static void prefault_stack(void *ctx, uint32_t thread, uint32_t thread_count) {
    (void) ctx;
    (void) thread_count;
    if (thread) team_prefault_stack(); /* thread 0 is the caller: its stack is not ours */
}

void cpu_load_prefault(struct cpu_backend *cpu) {
    const void *base;
    uint64_t bytes;
    team_run(cpu->team, prefault_stack, NULL);
    if (!cpu->spec.is_tied && model_tensor_mapping(cpu->model, ROLE_EMBEDDING, 0, &base, &bytes))
        mem_prefault_file(base, bytes);
}

/* --- packing ------------------------------------------------------------------------------ */

#define PACK_GROUPS 16u /* groups a thread takes at a time */

struct packing {
    struct cpu_backend *cpu;
    backend_progress_fn progress; /* may be NULL; called by thread 0, the loading one */
    void *progress_ctx;
    const char *stage;
    uint64_t done_bytes, total_bytes; /* packed before this list; of the model */
    uint32_t layer;
    uint32_t count;
    struct slice list[LAYER_MATRICES];
    uint64_t list_bytes;
    uint32_t chunk_count; /* of the list */
    _Atomic uint32_t next;
    _Atomic bool must_stop;
};

static void tell_progress(struct packing *packing) {
    if (!packing->progress) return;
    uint64_t chunks = num_min(atomic_load(&packing->next), packing->chunk_count);
    uint64_t bytes =
        packing->done_bytes +
        (packing->chunk_count ? packing->list_bytes / packing->chunk_count * chunks : 0);
    if (!packing->progress(packing->progress_ctx, packing->stage, bytes, packing->total_bytes))
        atomic_store(&packing->must_stop, true);
}

/* What was packed need not stay mapped beside its packed form: at most a chunk a thread does, and
 * that is less than what the plan holds for the time after loading (KV, heap).  The page cache
 * keeps it for the node's other workers. */
static void drop_rows(const struct packing *packing, const struct slice *slice, uint32_t first,
                      uint32_t end) {
    end = (uint32_t) num_min(end, slice->rows);
    model_tensor_drop_rows(packing->cpu->model, slice->role, packing->layer,
                           slice->row_first + first, end - first);
}

static void pack_thread(void *ctx, uint32_t thread, uint32_t thread_count) {
    struct packing *packing = ctx;
    struct cpu_backend *cpu = packing->cpu;
    uint8_t *scratch = cpu_backend_scratch(cpu, thread) + cpu->scratch_layout.out;
    while (!atomic_load(&packing->must_stop)) {
        if (thread == 0) tell_progress(packing);
        uint64_t at = (uint64_t) atomic_fetch_add(&packing->next, 1) * PACK_GROUPS;
        uint32_t i = 0;
        for (; i < packing->count; i++) { /* chunks do not span matrices */
            uint64_t room = num_round_up(packing->list[i].matrix->group_count, PACK_GROUPS);
            if (at < room) break;
            at -= room;
        }
        if (i == packing->count) return;
        const struct slice *slice = &packing->list[i];
        const struct cpu_matrix *matrix = slice->matrix;
        uint32_t end = (uint32_t) num_min(at + PACK_GROUPS, matrix->group_count);
        cpu_matrix_pack(matrix, cpu->model, slice->role, packing->layer, slice->row_first,
                        (uint32_t) at, end, scratch, (uint8_t *) (uintptr_t) matrix->data);
        drop_rows(packing, slice, (uint32_t) at * CPU_GROUP, end * CPU_GROUP);
    }
}

/* Packs the list. */
static void pack(struct packing *packing) {
    packing->list_bytes = packing->chunk_count = 0;
    for (uint32_t i = 0; i < packing->count; i++) {
        const struct cpu_matrix *matrix = packing->list[i].matrix;
        packing->list_bytes += matrix_bytes(matrix);
        packing->chunk_count += (uint32_t) num_div_up(matrix->group_count, PACK_GROUPS);
    }
    atomic_store(&packing->next, 0);
    team_run(packing->cpu->team, pack_thread, packing);
    packing->done_bytes += packing->list_bytes;
}

static enum err read_vector(struct cpu_backend *cpu, enum tensor_role role, uint32_t layer,
                            uint32_t floats, float *out, struct err_text *text) {
    struct model_tensor tensor;
    if (!model_tensor_get(cpu->model, role, layer, &tensor) ||
        (uint64_t) tensor.rows * tensor.columns != floats || tensor.rows != 1) {
        char name[MODEL_TENSOR_NAME_BYTES];
        model_tensor_name(cpu->model, role, layer, name);
        return err_set(text, ERR_FORMAT, "%s: tensor %s is no vector of %u numbers", cpu->spec.name,
                       name, floats);
    }
    void *scratch = cpu_backend_scratch(cpu, 0) + cpu->scratch_layout.out;
    const void *row = model_tensor_row(cpu->model, role, layer, 0, scratch);
    tensor_type_row_to_f32(tensor.type, row, floats, out);
    return ERR_OK;
}

static enum err read_vectors(struct cpu_backend *cpu, struct err_text *text) {
    float *at = cpu->vectors;
    cpu->final_norm = at;
    enum err e = read_vector(cpu, ROLE_FINAL_NORM, 0, cpu->spec.hidden_size, at, text);
    at += cpu->hidden_ld;
    for (uint32_t i = 0; !e && i < cpu->spec.layer_count; i++)
        for (uint32_t v = 0; !e && v < CPU_VECTOR_COUNT; v++) {
            enum tensor_role role;
            uint32_t floats = vector_floats(cpu, (enum cpu_vector) v, &role);
            if (!floats) continue;
            for (uint32_t r = 0; r < cpu->rank_count; r++)
                cpu->ranks[r].layers[i].vectors[v] = at + vector_first(cpu, r, (enum cpu_vector) v);
            e = read_vector(cpu, role, i, floats, at, text);
            at += num_round_up(floats, 16);
        }
    cpu->inv_freq = at;
    if (!e) model_spec_rope(&cpu->spec, cpu->inv_freq, &cpu->rope_scale);
    return e;
}

/* Gives each matrix its place. */
static void place_matrices(const struct cpu_backend *cpu, struct cpu_rank *rank) {
    uint8_t *attention = rank->attention_weights, *mlp = rank->mlp_weights;
    for (uint32_t i = 0; i < cpu->spec.layer_count; i++) {
        struct cpu_layer *layer = &rank->layers[i];
        struct cpu_matrix *of_attention[] = {&layer->q, &layer->k, &layer->v, &layer->o};
        struct cpu_matrix *of_mlp[] = {&layer->gate, &layer->up, &layer->down};
        for (uint32_t k = 0; k < ARRAY_COUNT(of_attention); k++) {
            of_attention[k]->data = attention;
            attention += matrix_bytes(of_attention[k]);
        }
        for (uint32_t k = 0; k < ARRAY_COUNT(of_mlp); k++) {
            of_mlp[k]->data = mlp;
            mlp += matrix_bytes(of_mlp[k]);
        }
    }
    rank->output.data = rank->output_weights;
}

static void pack_outputs(struct packing *packing, const char *stage) {
    packing->stage = stage;
    packing->layer = 0;
    packing->count = 1;
    for (uint32_t r = 0; r < packing->cpu->rank_count; r++) {
        packing->list[0] = head_slice(packing->cpu, r);
        pack(packing);
    }
}

static void fetch_layer(const struct cpu_backend *cpu, uint32_t layer) {
    static const enum tensor_role roles[] = {ROLE_Q,    ROLE_K,  ROLE_V,   ROLE_O,
                                             ROLE_GATE, ROLE_UP, ROLE_DOWN};
    if (layer >= cpu->spec.layer_count) return;
    for (uint32_t i = 0; i < ARRAY_COUNT(roles); i++)
        model_tensor_will_need(cpu->model, roles[i], layer);
}

static enum err pack_layers(struct packing *packing, struct claiming *claiming) {
    struct cpu_backend *cpu = packing->cpu;
    packing->stage = "layers";
    packing->count = LAYER_MATRICES;
    for (uint32_t i = 0; i < cpu->spec.layer_count && !atomic_load(&packing->must_stop); i++) {
        if (!walk_layer(cpu, i, claim, claiming)) return claiming->e;
        packing->layer = i;
        fetch_layer(cpu, i + 1);
        uint32_t ends[2][CPU_SEGMENTS_MAX];
        for (uint32_t r = 0; r < cpu->rank_count; r++) {
            list_slices(cpu, r, &cpu->ranks[r].layers[i], ends, packing->list);
            pack(packing);
        }
        for (uint32_t m = 0; m < LAYER_MATRICES; m++)
            model_tensor_drop(cpu->model, packing->list[m].role, i);
    }
    return ERR_OK;
}

static bool add_bytes(void *ctx, const struct backend_take *take) {
    if (!take->is_outside && strcmp(take->reason, VECTORS_REASON) != 0)
        *(uint64_t *) ctx += take->bytes;
    return true;
}

enum err cpu_load_weights(struct cpu_backend *cpu, struct mem *const *mems,
                          backend_progress_fn progress, void *progress_ctx, struct err_text *text) {
    struct claiming claiming = {.cpu = cpu, .mems = mems, .text = text};
    struct packing packing = {.cpu = cpu, .progress = progress, .progress_ctx = progress_ctx};
    (void) walk_weights(cpu, add_bytes, &packing.total_bytes);
    enum err e = map_weights(cpu, mems, text);
    if (e) return e;
    if (!walk_embeddings(cpu, claim, &claiming)) return claiming.e;
    e = read_vectors(cpu, text);
    if (e) return e;
    for (uint32_t r = 0; r < cpu->rank_count; r++) place_matrices(cpu, &cpu->ranks[r]);
    fetch_layer(cpu, 0);
    if (cpu->spec.is_tied) pack_outputs(&packing, "embeddings");
    e = pack_layers(&packing, &claiming);
    if (e) return e;
    if (!cpu->spec.is_tied) {
        if (!walk_head(cpu, claim, &claiming)) return claiming.e;
        pack_outputs(&packing, "head");
    }
    model_drop_pages(cpu->model); /* the pages between tensors, and those of the vectors */
    packing.done_bytes = packing.total_bytes;
    packing.chunk_count = 0; /* the last word: all of it */
    tell_progress(&packing);
    if (atomic_load(&packing.must_stop)) return err_set(text, ERR_CANCELLED, "loading was stopped");
    return ERR_OK;
}
