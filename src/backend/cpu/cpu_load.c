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

static enum err matrix_shape(struct cpu_backend *cpu, struct cpu_matrix *matrix,
                             enum tensor_role role, uint32_t layer, uint32_t rows, uint32_t columns,
                             const uint32_t *segment_ends, uint32_t segment_count,
                             struct err_text *text) {
    enum tensor_type type = cpu->spec.weight_type;
    if (cpu->model) {
        struct model_tensor tensor;
        if (!model_tensor_get(cpu->model, role, layer, &tensor))
            return err_set(text, ERR_NOT_FOUND, "layer %u lacks the tensor of role %d", layer,
                           (int) role);
        if (tensor.rows != rows || tensor.columns != columns)
            return err_set(
                text, ERR_FORMAT,
                "layer %u, role %d: the tensor is %u x %u, the model's numbers say %u x %u", layer,
                (int) role, tensor.rows, tensor.columns, rows, columns);
        type = tensor.type;
    }
    enum err e = cpu_matrix_init(matrix, cpu->options.numerics, type, rows, columns, segment_ends,
                                 segment_count, text);
    if (e) return e;
    cpu->has_class[cpu_backend_class(matrix)] = true;
    cpu->columns_max = (uint32_t) num_max(cpu->columns_max, columns);
    return ERR_OK;
}

/* numerics.md 3: o_proj is cut at heads, down_proj at whole 32-blocks.  A cut that would leave a
 * segment empty (toy shapes) is dropped. */
static uint32_t segments_of(uint32_t count, uint32_t units, uint32_t unit, uint32_t columns,
                            uint32_t *ends) {
    uint32_t used = 0, last = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t end = (uint32_t) ((uint64_t) (i + 1) * units / count) * unit;
        if (i + 1 == count) end = columns;
        if (end == last) continue;
        ends[used++] = last = end;
    }
    return used;
}

static enum err layer_shapes(struct cpu_backend *cpu, uint32_t index, struct err_text *text) {
    const struct model_spec *spec = &cpu->spec;
    struct cpu_layer *layer = &cpu->layers[index];
    const uint32_t hidden = spec->hidden_size, ffn = spec->ffn_size;
    uint32_t o_ends[CPU_SEGMENTS_MAX], down_ends[CPU_SEGMENTS_MAX];
    uint32_t o_count =
        segments_of(spec->segment_count, spec->head_count, spec->head_dim, cpu->q_columns, o_ends);
    uint32_t down_count = segments_of(spec->segment_count, ffn / 32, 32, ffn, down_ends);
    const struct {
        struct cpu_matrix *matrix;
        enum tensor_role role;
        uint32_t rows, columns;
        const uint32_t *ends;
        uint32_t end_count;
    } list[] = {
        {&layer->q, ROLE_Q, cpu->q_columns, hidden, NULL, 0},
        {&layer->k, ROLE_K, cpu->kv_columns, hidden, NULL, 0},
        {&layer->v, ROLE_V, cpu->kv_columns, hidden, NULL, 0},
        {&layer->o, ROLE_O, hidden, cpu->q_columns, o_ends, o_count},
        {&layer->gate, ROLE_GATE, ffn, hidden, NULL, 0},
        {&layer->up, ROLE_UP, ffn, hidden, NULL, 0},
        {&layer->down, ROLE_DOWN, hidden, ffn, down_ends, down_count},
    };
    enum err e = ERR_OK;
    for (uint32_t i = 0; !e && i < ARRAY_COUNT(list); i++)
        e = matrix_shape(cpu, list[i].matrix, list[i].role, index, list[i].rows, list[i].columns,
                         list[i].ends, list[i].end_count, text);
    return e;
}

/* Role, floats and presence of each vector of a layer. */
static uint32_t vector_floats(const struct cpu_backend *cpu, enum cpu_vector vector,
                              enum tensor_role *role) {
    const struct model_spec *spec = &cpu->spec;
    const struct {
        enum tensor_role role;
        uint32_t floats;
    } list[CPU_VECTOR_COUNT] = {
        [CPU_ATTN_NORM] = {ROLE_ATTN_NORM, spec->hidden_size},
        [CPU_FFN_NORM] = {ROLE_FFN_NORM, spec->hidden_size},
        [CPU_Q_BIAS] = {ROLE_Q_BIAS, spec->has_qkv_bias ? cpu->q_columns : 0},
        [CPU_K_BIAS] = {ROLE_K_BIAS, spec->has_qkv_bias ? cpu->kv_columns : 0},
        [CPU_V_BIAS] = {ROLE_V_BIAS, spec->has_qkv_bias ? cpu->kv_columns : 0},
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
    uint64_t bytes = (uint64_t) cpu->columns_max * sizeof(float);
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
    static const enum numerics numerics[] = {NUMERICS_F32A, NUMERICS_Q8A32};
    for (uint32_t c = 0; c < CPU_CLASS_COUNT; c++)
        if (cpu->has_class[c])
            layout->narrow[c] =
                place(&at, cpu_activations_bytes(numerics[c], cpu->narrow_rows, cpu->columns_max));
    uint64_t head_bytes = product3(rows, head_dim, sizeof(float));
    layout->queries = place(&at, head_bytes);
    layout->state = place(&at, head_bytes);
    layout->fresh = place(&at, head_bytes);
    layout->marks = place(&at, (uint64_t) rows * 6 * sizeof(float));
    layout->scores = place(&at, CPU_ATTENTION_SCORES * sizeof(float));
    uint64_t unpacked = cpu_kv_has_scales(cpu->kv.dtype) ? 2u * CPU_TILE * head_dim : 0;
    layout->unpacked = place(&at, unpacked * sizeof(float));
    layout->sampling = place(&at, cpu_sample_scratch_bytes(cpu->spec.vocab_size));
    layout->bytes = num_round_up(at, PAGE);
}

static void count_shapes(struct cpu_backend *cpu) {
    const struct model_spec *spec = &cpu->spec;
    const struct backend_options *options = &cpu->options;
    uint32_t tokens = options->batched_tokens_max, seats = options->seat_count;
    cpu->hidden_ld = (uint32_t) num_round_up(spec->hidden_size, 16);
    cpu->ffn_ld = (uint32_t) num_round_up(spec->ffn_size, 16);
    cpu->vocab_ld = (uint32_t) num_round_up(spec->vocab_size, 16);
    cpu->row_tile = (uint32_t) num_min(num_min(options->row_tile, CPU_ROW_TILE_MAX), tokens);
    cpu->logit_rows = (uint32_t) num_min(seats, CPU_LOGIT_ROWS_MAX);
    uint32_t narrow = (uint32_t) num_max(1, CPU_NARROW_ELEMENTS / cpu->columns_max);
    cpu->narrow_rows = (uint32_t) num_min(num_min(narrow, seats), cpu->row_tile);
    cpu->query_rows = (uint32_t) num_max(CPU_QUERY_ROWS, cpu->group);
    /* Each query task holds at least two tokens (cpu_attend_plan) unless the group is large. */
    uint32_t query_min = (uint32_t) num_min(2, cpu->query_rows / cpu->group);
    uint64_t tiles = num_div_up(options->model_len_max, CPU_TILE);
    CHECK(tiles * spec->kv_head_count < UINT32_MAX / 2);
    cpu->partial_room = cpu->thread_count > 1 ? (uint32_t) tiles * spec->kv_head_count : 0;
    uint64_t tasks =
        (num_div_up(tokens, query_min) + seats) * spec->kv_head_count + cpu->partial_room;
    CHECK(tasks < UINT32_MAX);
    cpu->task_room = (uint32_t) tasks;
    cpu->partial_floats = (uint64_t) (2 + spec->head_dim) * cpu->group;
    cpu->seat_bytes = cpu_sample_seat_bytes(spec->vocab_size, options->model_len_max);
}

enum err cpu_load_shapes(struct cpu_backend *cpu, struct err_text *text) {
    const struct model_spec *spec = &cpu->spec;
    cpu->group = spec->head_count / spec->kv_head_count;
    cpu->q_columns = spec->head_count * spec->head_dim;
    cpu->kv_columns = spec->kv_head_count * spec->head_dim;
    enum err e = ERR_OK;
    for (uint32_t i = 0; !e && i < spec->layer_count; i++) e = layer_shapes(cpu, i, text);
    if (!e)
        e = matrix_shape(cpu, &cpu->output, ROLE_HEAD, 0, spec->vocab_size, spec->hidden_size, NULL,
                         0, text);
    if (e) return e;
    if (!spec->is_tied && cpu->model &&
        !model_tensor_get(cpu->model, ROLE_EMBEDDING, 0, &cpu->embedding))
        return err_set(text, ERR_NOT_FOUND, "the model has no embedding");
    count_shapes(cpu);
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

static uint32_t list_buffers(struct cpu_backend *cpu, struct buffer *list) {
    const struct model_spec *spec = &cpu->spec;
    const uint64_t tokens = cpu->options.batched_tokens_max, seats = cpu->options.seat_count;
    const uint64_t wide_rows = num_max(cpu->row_tile, cpu->logit_rows);
    uint64_t attention = 0, mlp = 0, wide[CPU_CLASS_COUNT] = {0};
    for (uint32_t i = 0; i < spec->layer_count; i++) {
        const struct cpu_layer *layer = &cpu->layers[i];
        attention += matrix_bytes(&layer->q) + matrix_bytes(&layer->k) + matrix_bytes(&layer->v) +
                     matrix_bytes(&layer->o);
        mlp += matrix_bytes(&layer->gate) + matrix_bytes(&layer->up) + matrix_bytes(&layer->down);
    }
    static const enum numerics numerics[] = {NUMERICS_F32A, NUMERICS_Q8A32};
    for (uint32_t c = 0; c < CPU_CLASS_COUNT; c++)
        if (cpu->has_class[c])
            wide[c] = cpu_activations_bytes(numerics[c], (uint32_t) wide_rows, cpu->columns_max);
    const uint64_t f = sizeof(float);
    const struct buffer all[] = {
        {"attention weights", MEM_WEIGHTS, attention, AT(attention_weights)},
        {"mlp weights", MEM_WEIGHTS, mlp, AT(mlp_weights)},
        {spec->is_tied ? "embedding and head" : "head", MEM_WEIGHTS, matrix_bytes(&cpu->output),
         AT(output_weights)},
        {"norms and biases", MEM_WEIGHTS, vector_bytes(cpu), AT(vectors)},
        {"residual", MEM_ACTIVATIONS, product3(tokens, cpu->hidden_ld, f), AT(residual)},
        {"queries and attention output", MEM_ACTIVATIONS, product3(tokens, cpu->q_columns, f),
         AT(queries)},
        {"rotary angles", MEM_ACTIVATIONS, product3(tokens, spec->head_dim, f), AT(angles)},
        {"keys and values of a row tile", MEM_ACTIVATIONS,
         product3(cpu->row_tile, 2 * (uint64_t) cpu->kv_columns, f), AT(kv_rows)},
        {"mlp hidden rows of a row tile", MEM_ACTIVATIONS, product3(cpu->row_tile, cpu->ffn_ld, f),
         AT(hidden)},
        {"product inputs f32a", MEM_ACTIVATIONS, wide[CPU_CLASS_F32A], AT(wide[CPU_CLASS_F32A])},
        {"product inputs q8a32", MEM_ACTIVATIONS, wide[CPU_CLASS_Q8A32], AT(wide[CPU_CLASS_Q8A32])},
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
         product3(seats, spec->kv_head_count, sizeof(uint32_t)), AT(counters)},
        {"step: logit rows", MEM_WORKSPACE,
         product3(tokens + seats, sizeof(struct cpu_logit_row), 1), AT(logit_list)},
        {"step: maxima", MEM_WORKSPACE,
         product3(cpu->thread_count, cpu->logit_rows, sizeof(struct cpu_scan_top)), AT(tops)},
        {"step: draws", MEM_WORKSPACE, product3(cpu->logit_rows, sizeof(struct cpu_sample_draw), 1),
         AT(draws)},
        /* Nothing writes to it on the CPU; it is counted as on every body. */
        {"kv block 0", MEM_WORKSPACE, cpu->kv.block_bytes, NULL},
    };
    uint32_t count = 0;
    for (uint32_t i = 0; i < ARRAY_COUNT(all); i++)
        if (all[i].bytes) list[count++] = all[i];
    return count;
}

void cpu_load_plan(const struct cpu_backend *cpu, struct mem_plan *plan) {
    struct buffer list[BUFFERS_MAX];
    /* Only addresses of fields are taken. */
    uint32_t count = list_buffers((struct cpu_backend *) (uintptr_t) cpu, list);
    for (uint32_t i = 0; i < count; i++)
        mem_plan_add(plan, list[i].kind, list[i].bytes, list[i].reason);
}

enum err cpu_load_buffers(struct cpu_backend *cpu, uint32_t block_count, struct mem *mem,
                          struct err_text *text) {
    struct buffer list[BUFFERS_MAX];
    uint32_t count = list_buffers(cpu, list);
    for (uint32_t i = 0; i < count; i++) {
        void *at;
        enum err e = mem_take(mem, list[i].reason, list[i].bytes, text, &at);
        if (e) return e;
        if (list[i].at) *list[i].at = at;
    }
    void *base;
    enum err e = mem_take(mem, "kv", product3(block_count, cpu->kv.block_bytes, 1), text, &base);
    if (e) return e;
    cpu->kv.base = base;
    cpu->kv.block_count = block_count;
    for (uint32_t i = 0; i < cpu->options.seat_count; i++)
        cpu_sample_seat_init(cpu_backend_seat(cpu, i), cpu->spec.vocab_size,
                             cpu->options.model_len_max);
    return ERR_OK;
}

/* --- packing ------------------------------------------------------------------------------ */

#define PACK_GROUPS 16u /* groups a thread takes at a time */
#define PACK_MATRICES_MAX 7u

struct packing {
    struct cpu_backend *cpu;
    uint32_t layer;
    uint32_t count;
    struct {
        struct cpu_matrix *matrix;
        enum tensor_role role;
    } list[PACK_MATRICES_MAX];
    _Atomic uint32_t next;
};

static void pack_thread(void *ctx, uint32_t thread, uint32_t thread_count) {
    struct packing *packing = ctx;
    struct cpu_backend *cpu = packing->cpu;
    uint8_t *scratch = cpu_backend_scratch(cpu, thread) + cpu->scratch_layout.out;
    for (;;) {
        uint64_t at = (uint64_t) atomic_fetch_add(&packing->next, 1) * PACK_GROUPS;
        uint32_t i = 0;
        for (; i < packing->count; i++) { /* chunks do not span matrices */
            uint64_t room = num_round_up(packing->list[i].matrix->group_count, PACK_GROUPS);
            if (at < room) break;
            at -= room;
        }
        if (i == packing->count) return;
        const struct cpu_matrix *matrix = packing->list[i].matrix;
        uint32_t end = (uint32_t) num_min(at + PACK_GROUPS, matrix->group_count);
        cpu_matrix_pack(matrix, cpu->model, packing->list[i].role, packing->layer, 0, (uint32_t) at,
                        end, scratch, (uint8_t *) (uintptr_t) matrix->data);
    }
}

static void pack(struct packing *packing) {
    atomic_store(&packing->next, 0);
    team_run(packing->cpu->team, pack_thread, packing);
    for (uint32_t i = 0; i < packing->count; i++)
        model_tensor_drop(packing->cpu->model, packing->list[i].role, packing->layer);
}

static enum err read_vector(struct cpu_backend *cpu, enum tensor_role role, uint32_t layer,
                            uint32_t floats, float *out, struct err_text *text) {
    struct model_tensor tensor;
    if (!model_tensor_get(cpu->model, role, layer, &tensor) ||
        (uint64_t) tensor.rows * tensor.columns != floats || tensor.rows != 1)
        return err_set(text, ERR_FORMAT, "layer %u, role %d: no vector of %u numbers", layer,
                       (int) role, floats);
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
            cpu->layers[i].vectors[v] = at;
            e = read_vector(cpu, role, i, floats, at, text);
            at += num_round_up(floats, 16);
        }
    cpu->inv_freq = at;
    if (!e) model_spec_rope(&cpu->spec, cpu->inv_freq, &cpu->rope_scale);
    return e;
}

/* Gives each matrix its place. */
static void place_matrices(struct cpu_backend *cpu) {
    uint8_t *attention = cpu->attention_weights, *mlp = cpu->mlp_weights;
    for (uint32_t i = 0; i < cpu->spec.layer_count; i++) {
        struct cpu_layer *layer = &cpu->layers[i];
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
    cpu->output.data = cpu->output_weights;
}

static uint64_t packed_bytes(const struct packing *packing) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < packing->count; i++) bytes += matrix_bytes(packing->list[i].matrix);
    return bytes;
}

enum err cpu_load_weights(struct cpu_backend *cpu, backend_progress_fn progress, void *progress_ctx,
                          struct err_text *text) {
    place_matrices(cpu);
    enum err e = read_vectors(cpu, text);
    if (e) return e;
    struct packing head = {.cpu = cpu, .count = 1, .list = {{&cpu->output, ROLE_HEAD}}};
    uint64_t done = 0, total = packed_bytes(&head);
    for (uint32_t i = 0; i < cpu->spec.layer_count; i++) {
        const struct cpu_layer *layer = &cpu->layers[i];
        total += matrix_bytes(&layer->q) + matrix_bytes(&layer->k) + matrix_bytes(&layer->v) +
                 matrix_bytes(&layer->o) + matrix_bytes(&layer->gate) + matrix_bytes(&layer->up) +
                 matrix_bytes(&layer->down);
    }
    pack(&head);
    done += packed_bytes(&head);
    if (progress) progress(progress_ctx, "head", done, total);
    for (uint32_t i = 0; i < cpu->spec.layer_count; i++) {
        struct cpu_layer *layer = &cpu->layers[i];
        struct packing packing = {
            .cpu = cpu,
            .layer = i,
            .count = PACK_MATRICES_MAX,
            .list = {{&layer->q, ROLE_Q},
                     {&layer->k, ROLE_K},
                     {&layer->v, ROLE_V},
                     {&layer->o, ROLE_O},
                     {&layer->gate, ROLE_GATE},
                     {&layer->up, ROLE_UP},
                     {&layer->down, ROLE_DOWN}},
        };
        pack(&packing);
        done += packed_bytes(&packing);
        if (progress) progress(progress_ctx, "layers", done, total);
    }
    return ERR_OK;
}
