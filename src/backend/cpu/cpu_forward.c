/* cpu_forward - see cpu_backend.h: one step on all threads.
 *
 * Every thread runs the same phases; a barrier stands between a phase and the first that reads
 * what it wrote.  Two ways through a layer:
 *
 *   narrow  (decode of few rows)  each thread prepares all activations for itself, takes its share
 *           of each product's outputs, and rotates inside attention: 4 barriers a layer
 *   wide    rows in tiles; activations are prepared once, rows and groups of outputs are dealt
 *
 * Both do the same operations on each row in the same order, so a row's result depends on neither
 * the way nor the tile nor the thread (numerics.md 2).
 *
 * Several ranks: the groups of q, k, v, gate, up and the head are laid end to end over the ranks
 * and shared out as one; o and down leave each rank's partial sums apart, and one more phase sums
 * them by the tree of numerics.md 3, each thread its own columns: 6 barriers a layer. */
#include "backend/cpu/cpu_backend.h"

#include <string.h>

#include "base/core_share.h"
#include "base/num.h"

#define ROWS_DEALT 8u   /* rows a thread takes at a time */
#define GROUPS_DEALT 8u /* groups of outputs likewise: CPU_OUT_COLUMNS */

struct crew {
    struct cpu_backend *cpu;
    struct cpu_step *step;
    uint32_t thread, thread_count;
    uint32_t phase; /* of dealing */
    uint8_t *scratch;
    float *row; /* one row, private */
    float *out; /* outputs of a product, private */
};

/* --- sharing out -------------------------------------------------------------------------- */

static void barrier(struct crew *crew) { team_barrier(crew->cpu->team); }

/* Dealing alternates between two counters: the one not in use was left by all at a barrier, and
 * thread 0 sets it back. */
static void deal_begin(struct crew *crew) {
    crew->phase++;
    if (crew->thread == 0)
        atomic_store_explicit(&crew->step->next[(crew->phase + 1) & 1], 0, memory_order_relaxed);
}

/* The next `size` of `count`; false when all are dealt. */
static bool deal(struct crew *crew, uint32_t size, uint32_t count, uint32_t *first, uint32_t *end) {
    uint32_t index =
        atomic_fetch_add_explicit(&crew->step->next[crew->phase & 1], 1, memory_order_relaxed);
    uint64_t at = (uint64_t) index * size;
    if (at >= count) return false;
    *first = (uint32_t) at;
    *end = (uint32_t) num_min(at + size, count);
    return true;
}

/* A fixed share of `count`. */
static void share(const struct crew *crew, uint32_t count, uint32_t *first, uint32_t *end) {
    *first = (uint32_t) ((uint64_t) count * crew->thread / crew->thread_count);
    *end = (uint32_t) ((uint64_t) count * (crew->thread + 1) / crew->thread_count);
}

/* --- products ----------------------------------------------------------------------------- */

/* Activations in each class that the matrices want. */
struct inputs {
    struct cpu_activations of[CPU_CLASS_COUNT];
    bool wants[CPU_CLASS_COUNT];
};

/* shared: the rank whose room they take; NULL: this thread's own. */
static void inputs_init(struct crew *crew, struct inputs *inputs, const struct cpu_rank *shared,
                        uint32_t row_count, uint32_t columns, const struct cpu_matrix *const *list,
                        uint32_t matrix_count) {
    const struct cpu_backend *cpu = crew->cpu;
    *inputs = (struct inputs){0};
    for (uint32_t i = 0; i < matrix_count; i++) inputs->wants[cpu_backend_class(list[i])] = true;
    for (uint32_t c = 0; c < CPU_CLASS_COUNT; c++) {
        if (!inputs->wants[c]) continue;
        uint8_t *data = shared ? shared->wide[c] : crew->scratch + cpu->scratch_layout.narrow[c];
        inputs->of[c] = (struct cpu_activations){.numerics = cpu_backend_class_numerics(c),
                                                 .rows = row_count,
                                                 .columns = columns,
                                                 .data = data};
    }
}

static void inputs_set(const struct crew *crew, struct inputs *inputs, uint32_t row,
                       const float *x) {
    for (uint32_t c = 0; c < CPU_CLASS_COUNT; c++)
        if (inputs->wants[c])
            cpu_activations_set(crew->cpu->body, &inputs->of[c], row, row + 1, x, 0);
}

/* Row `row` of the inputs is norm(x). */
static void inputs_set_norm(const struct crew *crew, struct inputs *inputs, uint32_t row,
                            const float *x, const float *weight) {
    const struct model_spec *spec = &crew->cpu->spec;
    crew->cpu->rows->norm(x, weight, spec->hidden_size, spec->norm_epsilon, crew->row);
    inputs_set(crew, inputs, row, crew->row);
}

static void product(const struct crew *crew, const struct cpu_matrix *matrix,
                    const struct inputs *inputs, uint32_t first, uint32_t end, float *out,
                    uint64_t ld) {
    cpu_matmul(crew->cpu->body, matrix, &inputs->of[cpu_backend_class(matrix)], first, end, out,
               ld);
}

/* Outputs of groups [first, end) into private memory: output n of row r stands at
 * crew->out[r x ld + n - first x 16].  The product's pointer is to output 0, which may lie
 * outside. */
static uint64_t product_private(const struct crew *crew, const struct cpu_matrix *matrix,
                                const struct inputs *inputs, uint32_t first, uint32_t end) {
    uint64_t ld = (uint64_t) (end - first) * CPU_GROUP;
    float *origin =
        (float *) ((uintptr_t) crew->out - (uint64_t) first * CPU_GROUP * sizeof(float));
    product(crew, matrix, inputs, first, end, origin, ld);
    return ld;
}

/* Groups whose outputs for row_count rows fit the private memory. */
static uint32_t private_groups(const struct crew *crew, uint32_t row_count) {
    return (uint32_t) num_max(1, crew->cpu->scratch_layout.out_floats / row_count / CPU_GROUP);
}

/* residual rows += product + bias, for groups [first, end). */
static void product_add(struct crew *crew, const struct cpu_matrix *matrix,
                        const struct inputs *inputs, const float *bias, uint32_t first,
                        uint32_t end, float *residual, uint32_t row_count) {
    const struct cpu_backend *cpu = crew->cpu;
    uint32_t at_once = private_groups(crew, row_count);
    for (uint32_t group = first; group < end; group += at_once) {
        uint32_t stop = (uint32_t) num_min((uint64_t) group + at_once, end);
        uint64_t ld = product_private(crew, matrix, inputs, group, stop);
        uint32_t column = group * CPU_GROUP;
        uint32_t count = (uint32_t) num_min(ld, matrix->rows - column);
        for (uint32_t r = 0; r < row_count; r++) {
            float *x = residual + r * (uint64_t) cpu->hidden_ld + column;
            if (bias) cpu->rows->add(crew->out + r * ld, bias + column, count);
            cpu->rows->add(x, crew->out + r * ld, count);
        }
    }
}

/* What of [first, end) falls on a matrix of `count` groups at `base`; false: nothing. */
static bool part_of(uint32_t base, uint32_t count, uint32_t first, uint32_t end, uint32_t *from,
                    uint32_t *to) {
    *from = first > base ? first - base : 0;
    *to = end > base ? (uint32_t) num_min(end - base, count) : 0;
    return *from < *to;
}

/* A rank's hidden rows = silu(gate + bias) x (up + bias), for groups [first, end). */
static void product_gate(struct crew *crew, const struct cpu_rank *rank, uint32_t index,
                         const struct inputs *inputs, uint32_t first, uint32_t end,
                         uint32_t row_count) {
    const struct cpu_backend *cpu = crew->cpu;
    const struct cpu_layer *layer = &rank->layers[index];
    const float *gate_bias = layer->vectors[CPU_GATE_BIAS], *up_bias = layer->vectors[CPU_UP_BIAS];
    uint32_t at_once = private_groups(crew, row_count);
    for (uint32_t group = first; group < end; group += at_once) {
        uint32_t stop = (uint32_t) num_min((uint64_t) group + at_once, end);
        product(crew, &layer->gate, inputs, group, stop, rank->hidden, rank->ffn_ld);
        uint64_t ld = product_private(crew, &layer->up, inputs, group, stop);
        uint32_t column = group * CPU_GROUP;
        uint32_t count = (uint32_t) num_min(ld, layer->gate.rows - column);
        for (uint32_t r = 0; r < row_count; r++) {
            float *gate = rank->hidden + r * (uint64_t) rank->ffn_ld + column;
            if (gate_bias) cpu->rows->add(gate, gate_bias + column, count);
            if (up_bias) cpu->rows->add(crew->out + r * ld, up_bias + column, count);
            cpu->rows->silu_mul(gate, crew->out + r * ld, count);
        }
    }
}

/* Groups [first, end) of gate and up of all ranks laid end to end. */
static void products_gate(struct crew *crew, uint32_t index, const struct inputs *inputs,
                          uint32_t first, uint32_t end, uint32_t row_count) {
    const struct cpu_backend *cpu = crew->cpu;
    uint32_t base = 0, from, to;
    for (uint32_t r = 0; r < cpu->rank_count && base < end; r++) {
        uint32_t count = cpu->ranks[r].layers[index].gate.group_count;
        if (part_of(base, count, first, end, &from, &to))
            product_gate(crew, &cpu->ranks[r], index, inputs, from, to, row_count);
        base += count;
    }
}

/* Groups [first, end) of q, k and v of all ranks laid end to end. */
static void products_qkv(struct crew *crew, uint32_t index, const struct inputs *inputs,
                         uint32_t first, uint32_t end, uint32_t row_first) {
    const struct cpu_backend *cpu = crew->cpu;
    uint32_t base = 0, from, to;
    for (uint32_t r = 0; r < cpu->rank_count && base < end; r++) {
        const struct cpu_rank *rank = &cpu->ranks[r];
        const struct cpu_layer *layer = &rank->layers[index];
        const struct cpu_matrix *matrices[] = {&layer->q, &layer->k, &layer->v};
        float *outs[] = {rank->queries + (uint64_t) row_first * rank->q_columns, rank->kv_rows,
                         rank->kv_rows + rank->kv_columns};
        const uint64_t lds[] = {rank->q_columns, 2 * rank->kv_columns, 2 * rank->kv_columns};
        for (uint32_t i = 0; i < 3; i++) {
            uint32_t count = matrices[i]->group_count;
            if (part_of(base, count, first, end, &from, &to))
                product(crew, matrices[i], inputs, from, to, outs[i], lds[i]);
            base += count;
        }
    }
}

static uint32_t qkv_groups(const struct cpu_backend *cpu, uint32_t index) {
    const struct cpu_layer *layer = &cpu->ranks[0].layers[index]; /* all ranks have as many */
    return cpu->rank_count * (layer->q.group_count + layer->k.group_count + layer->v.group_count);
}

static uint32_t gate_groups(const struct cpu_backend *cpu, uint32_t index) {
    uint32_t count = 0;
    for (uint32_t r = 0; r < cpu->rank_count; r++)
        count += cpu->ranks[r].layers[index].gate.group_count;
    return count;
}

/* --- row-parallel products: o_proj and down_proj ------------------------------------------ */

/* What is multiplied, of one rank. */
struct back {
    const struct cpu_matrix *matrix;
    const float *x; /* its rows of the tile */
    uint64_t ld;
    const float *bias; /* on the sum of all ranks */
};

static struct back back_of(const struct cpu_rank *rank, uint32_t index, bool is_down,
                           uint32_t row_first) {
    const struct cpu_layer *layer = &rank->layers[index];
    if (is_down)
        return (struct back){&layer->down, rank->hidden, rank->ffn_ld,
                             layer->vectors[CPU_DOWN_BIAS]};
    return (struct back){&layer->o, rank->queries + row_first * (uint64_t) rank->q_columns,
                         rank->q_columns, layer->vectors[CPU_O_BIAS]};
}

/* Groups [first, end) of one rank: with one rank onto the residual, else its partial sums. */
static void product_back(struct crew *crew, const struct cpu_rank *rank, const struct back *back,
                         const struct inputs *inputs, uint32_t first, uint32_t end, float *residual,
                         uint32_t row_count) {
    const struct cpu_backend *cpu = crew->cpu;
    const struct cpu_activations *x = &inputs->of[cpu_backend_class(back->matrix)];
    if (cpu->rank_count == 1)
        product_add(crew, back->matrix, inputs, back->bias, first, end, residual, row_count);
    else if (cpu->plane_count == 1)
        cpu_matmul(cpu->body, back->matrix, x, first, end, rank->sums, cpu->hidden_ld);
    else
        cpu_matmul_segments(cpu->body, back->matrix, x, first, end, rank->sums, cpu->plane_floats,
                            cpu->hidden_ld);
}

static float *plane_of(const struct cpu_backend *cpu, uint32_t plane) {
    return cpu->ranks[plane / cpu->plane_count].sums + plane % cpu->plane_count * cpu->plane_floats;
}

/* Rows of the residual += tree over all partial sums, + bias: each thread its columns.  The tree
 * (neighbours pair, an odd last one rises) is walked in place. */
static void reduce_back(struct crew *crew, const float *bias, float *residual, uint32_t row_count) {
    const struct cpu_backend *cpu = crew->cpu;
    const uint32_t plane_count = cpu->rank_count * cpu->plane_count;
    uint32_t first, end;
    share(crew, cpu->hidden_ld / 16, &first, &end);
    first *= 16;
    end = (uint32_t) num_min(end * 16, cpu->spec.hidden_size);
    for (uint32_t r = 0; r < row_count && first < end; r++) {
        const uint64_t at = r * (uint64_t) cpu->hidden_ld + first;
        for (uint32_t step = 1; step < plane_count; step *= 2)
            for (uint32_t p = 0; p + step < plane_count; p += 2 * step)
                cpu->rows->add(plane_of(cpu, p) + at, plane_of(cpu, p + step) + at, end - first);
        float *sum = plane_of(cpu, 0) + at;
        if (bias) cpu->rows->add(sum, bias + first, end - first);
        cpu->rows->add(residual + at, sum, end - first);
    }
}

/* After the products of all ranks. */
static void finish_back(struct crew *crew, const float *bias, float *residual, uint32_t row_count) {
    barrier(crew);
    if (crew->cpu->rank_count == 1) return;
    reduce_back(crew, bias, residual, row_count);
    barrier(crew);
}

/* --- before the layers -------------------------------------------------------------------- */

static void embed_row(struct crew *crew, uint32_t token_row) {
    struct cpu_backend *cpu = crew->cpu;
    uint32_t batch_row = cpu->row_of[token_row];
    const struct batch_row *row = &crew->step->batch->rows[batch_row];
    uint32_t index = token_row - cpu->row_first[batch_row];
    uint32_t token =
        row->tokens ? row->tokens[index] : cpu_sample_seat_last(cpu_backend_seat(cpu, row->seat));
    CHECK(token < cpu->spec.vocab_size);
    float *out = cpu->residual + (uint64_t) token_row * cpu->hidden_ld;
    if (cpu->spec.is_tied) {
        const struct cpu_rank *rank = cpu->ranks; /* that holds the id */
        while (token - rank->vocab_first >= rank->output.rows) rank++;
        cpu_matrix_row_to_f32(&rank->output, token - rank->vocab_first, out);
    } else {
        const void *stored = model_tensor_row(cpu->model, ROLE_EMBEDDING, 0, token, crew->out);
        tensor_type_row_to_f32(cpu->embedding.type, stored, cpu->spec.hidden_size, out);
    }
    cpu->rows->angles(row->first_position + index, cpu->inv_freq, cpu->spec.head_dim / 2,
                      cpu->rope_scale, cpu->angles + (uint64_t) token_row * cpu->spec.head_dim);
}

/* --- narrow ------------------------------------------------------------------------------- */

static void attend(struct crew *crew, uint32_t layer) {
    uint32_t first, end;
    deal_begin(crew);
    while (deal(crew, 1, crew->step->task_count, &first, &end))
        cpu_attend_task(crew->cpu, layer, &crew->cpu->tasks[first], crew->scratch);
}

/* o_proj or down_proj on the few rows, which each thread prepares of the ranks it works for. */
static void back_narrow(struct crew *crew, uint32_t index, bool is_down) {
    struct cpu_backend *cpu = crew->cpu;
    const uint32_t rows = crew->step->token_count,
                   groups = cpu->ranks[0].layers[index].o.group_count;
    uint32_t first, end, from, to;
    share(crew, cpu->rank_count * groups, &first, &end);
    for (uint32_t i = 0; i < cpu->rank_count; i++) {
        if (!part_of(i * groups, groups, first, end, &from, &to)) continue;
        const struct cpu_rank *rank = &cpu->ranks[i];
        const struct back back = back_of(rank, index, is_down, 0);
        struct inputs inputs;
        inputs_init(crew, &inputs, NULL, rows, back.matrix->columns, &back.matrix, 1);
        for (uint32_t r = 0; r < rows; r++) inputs_set(crew, &inputs, r, back.x + r * back.ld);
        product_back(crew, rank, &back, &inputs, from, to, cpu->residual, rows);
    }
    finish_back(crew, back_of(&cpu->ranks[0], index, is_down, 0).bias, cpu->residual, rows);
}

static void layer_narrow(struct crew *crew, uint32_t index) {
    struct cpu_backend *cpu = crew->cpu;
    const struct cpu_layer *layer = &cpu->ranks[0].layers[index];
    const uint32_t rows = crew->step->token_count;
    struct inputs inputs;
    uint32_t first, end;

    const struct cpu_matrix *qkv[] = {&layer->q, &layer->k, &layer->v};
    inputs_init(crew, &inputs, NULL, rows, cpu->spec.hidden_size, qkv, 3);
    for (uint32_t r = 0; r < rows; r++)
        inputs_set_norm(crew, &inputs, r, cpu->residual + r * (uint64_t) cpu->hidden_ld,
                        layer->vectors[CPU_ATTN_NORM]);
    share(crew, qkv_groups(cpu, index), &first, &end);
    products_qkv(crew, index, &inputs, first, end, 0);
    barrier(crew);

    attend(crew, index);
    barrier(crew);

    back_narrow(crew, index, false);

    const struct cpu_matrix *gate_up[] = {&layer->gate, &layer->up};
    inputs_init(crew, &inputs, NULL, rows, cpu->spec.hidden_size, gate_up, 2);
    for (uint32_t r = 0; r < rows; r++)
        inputs_set_norm(crew, &inputs, r, cpu->residual + r * (uint64_t) cpu->hidden_ld,
                        layer->vectors[CPU_FFN_NORM]);
    share(crew, gate_groups(cpu, index), &first, &end);
    products_gate(crew, index, &inputs, first, end, rows);
    barrier(crew);

    back_narrow(crew, index, true);
}

/* --- wide --------------------------------------------------------------------------------- */

/* Norm and activations of rows x (row_count, ld), dealt. */
static void prepare(struct crew *crew, struct inputs *inputs, uint32_t row_count, const float *x,
                    uint64_t ld, const float *weight) {
    uint32_t first, end;
    deal_begin(crew);
    while (deal(crew, ROWS_DEALT, row_count, &first, &end))
        for (uint32_t r = first; r < end; r++) inputs_set_norm(crew, inputs, r, x + r * ld, weight);
    barrier(crew);
}

/* Keys and values of a rank's row into the cache, queries turned in place. */
static void turn_row(struct crew *crew, const struct cpu_rank *rank, uint32_t index,
                     uint32_t token_row, uint32_t tile_row) {
    struct cpu_backend *cpu = crew->cpu;
    const struct cpu_layer *layer = &rank->layers[index];
    const uint32_t head_dim = cpu->spec.head_dim, batch_row = cpu->row_of[token_row];
    const float *q_bias = layer->vectors[CPU_Q_BIAS], *k_bias = layer->vectors[CPU_K_BIAS];
    const float *v_bias = layer->vectors[CPU_V_BIAS];
    uint32_t position =
        crew->step->batch->rows[batch_row].first_position + token_row - cpu->row_first[batch_row];
    const float *angles = cpu->angles + (uint64_t) token_row * head_dim;
    float *query = rank->queries + (uint64_t) token_row * rank->q_columns;
    float *key = rank->kv_rows + (uint64_t) tile_row * 2 * rank->kv_columns;
    float *value = key + rank->kv_columns;
    for (uint32_t at = 0; at < rank->q_columns; at += head_dim)
        cpu_attend_turn(cpu, query + at, q_bias ? q_bias + at : NULL, layer->vectors[CPU_Q_NORM],
                        angles);
    if (v_bias) cpu->rows->add(value, v_bias, rank->kv_columns);
    for (uint32_t h = 0; h < rank->kv.head_count; h++) {
        cpu_attend_turn(cpu, key + h * head_dim, k_bias ? k_bias + h * head_dim : NULL,
                        layer->vectors[CPU_K_NORM], angles);
        cpu_attend_store(cpu, rank, index, batch_row, position, h, key + h * head_dim,
                         value + h * head_dim);
    }
}

static void turn_rows(struct crew *crew, uint32_t index, uint32_t row_first, uint32_t row_count) {
    const struct cpu_backend *cpu = crew->cpu;
    uint32_t first, end;
    deal_begin(crew);
    while (deal(crew, ROWS_DEALT, row_count, &first, &end))
        for (uint32_t i = 0; i < cpu->rank_count; i++)
            for (uint32_t r = first; r < end; r++)
                turn_row(crew, &cpu->ranks[i], index, row_first + r, r);
}

static void tile_qkv(struct crew *crew, uint32_t index, uint32_t row_first, uint32_t row_count) {
    struct cpu_backend *cpu = crew->cpu;
    const struct cpu_layer *layer = &cpu->ranks[0].layers[index];
    struct inputs inputs;
    uint32_t first, end;
    const struct cpu_matrix *qkv[] = {&layer->q, &layer->k, &layer->v};
    inputs_init(crew, &inputs, &cpu->ranks[0], row_count, cpu->spec.hidden_size, qkv, 3);
    prepare(crew, &inputs, row_count, cpu->residual + row_first * (uint64_t) cpu->hidden_ld,
            cpu->hidden_ld, layer->vectors[CPU_ATTN_NORM]);
    deal_begin(crew);
    while (deal(crew, GROUPS_DEALT, qkv_groups(cpu, index), &first, &end))
        products_qkv(crew, index, &inputs, first, end, row_first);
    barrier(crew);
    turn_rows(crew, index, row_first, row_count);
    barrier(crew);
}

/* o_proj or down_proj on a row tile. */
static void back_tile(struct crew *crew, uint32_t index, bool is_down, uint32_t row_first,
                      uint32_t row_count) {
    struct cpu_backend *cpu = crew->cpu;
    float *residual = cpu->residual + row_first * (uint64_t) cpu->hidden_ld;
    const uint32_t groups = cpu->ranks[0].layers[index].o.group_count;
    uint32_t first, end, from, to;
    struct inputs inputs;
    deal_begin(crew);
    while (deal(crew, ROWS_DEALT, row_count, &first, &end))
        for (uint32_t i = 0; i < cpu->rank_count; i++) {
            const struct back back = back_of(&cpu->ranks[i], index, is_down, row_first);
            inputs_init(crew, &inputs, &cpu->ranks[i], row_count, back.matrix->columns,
                        &back.matrix, 1);
            for (uint32_t r = first; r < end; r++)
                inputs_set(crew, &inputs, r, back.x + r * back.ld);
        }
    barrier(crew);
    deal_begin(crew);
    while (deal(crew, GROUPS_DEALT, cpu->rank_count * groups, &first, &end))
        for (uint32_t i = first / groups; i < cpu->rank_count; i++) {
            if (!part_of(i * groups, groups, first, end, &from, &to)) break;
            const struct back back = back_of(&cpu->ranks[i], index, is_down, row_first);
            inputs_init(crew, &inputs, &cpu->ranks[i], row_count, back.matrix->columns,
                        &back.matrix, 1);
            product_back(crew, &cpu->ranks[i], &back, &inputs, from, to, residual, row_count);
        }
    finish_back(crew, back_of(&cpu->ranks[0], index, is_down, row_first).bias, residual, row_count);
}

static void tile_rest(struct crew *crew, uint32_t index, uint32_t row_first, uint32_t row_count) {
    struct cpu_backend *cpu = crew->cpu;
    const struct cpu_layer *layer = &cpu->ranks[0].layers[index];
    struct inputs inputs;
    uint32_t first, end;

    back_tile(crew, index, false, row_first, row_count);

    const struct cpu_matrix *gate_up[] = {&layer->gate, &layer->up};
    inputs_init(crew, &inputs, &cpu->ranks[0], row_count, cpu->spec.hidden_size, gate_up, 2);
    prepare(crew, &inputs, row_count, cpu->residual + row_first * (uint64_t) cpu->hidden_ld,
            cpu->hidden_ld, layer->vectors[CPU_FFN_NORM]);
    deal_begin(crew);
    while (deal(crew, GROUPS_DEALT, gate_groups(cpu, index), &first, &end))
        products_gate(crew, index, &inputs, first, end, row_count);
    barrier(crew);

    back_tile(crew, index, true, row_first, row_count);
}

static void layer_wide(struct crew *crew, uint32_t index) {
    const uint32_t rows = crew->step->token_count, tile = crew->cpu->row_tile;
    for (uint32_t row = 0; row < rows; row += tile)
        tile_qkv(crew, index, row, (uint32_t) num_min(tile, rows - row));
    attend(crew, index);
    barrier(crew);
    for (uint32_t row = 0; row < rows; row += tile)
        tile_rest(crew, index, row, (uint32_t) num_min(tile, rows - row));
}

/* --- logits and tokens -------------------------------------------------------------------- */

/* A fixed share of the vocabulary in whole groups; both ends. */
static void share_ids(const struct crew *crew, uint32_t thread, uint32_t *first, uint32_t *end) {
    const struct cpu_backend *cpu = crew->cpu;
    struct crew other = *crew;
    other.thread = thread;
    share(&other, cpu->output_groups, first, end);
    *first *= CPU_GROUP;
    *end = (uint32_t) num_min((uint64_t) *end * CPU_GROUP, cpu->spec.vocab_size);
}

/* The best of a logits row from the threads' parts; parts ascend, so ties keep the lowest id. */
static struct cpu_scan_top join_tops(const struct crew *crew, uint32_t at) {
    const struct cpu_backend *cpu = crew->cpu;
    struct cpu_scan_top best = {.value = -__builtin_inff(), .is_finite = true};
    for (uint32_t t = 0; t < crew->thread_count; t++) {
        uint32_t first, end;
        share_ids(crew, t, &first, &end);
        if (first >= end) continue;
        const struct cpu_scan_top *part = &cpu->tops[t * cpu->logit_rows + at];
        if (part->value > best.value) {
            best.value = part->value;
            best.id = part->id;
        }
        best.is_finite &= part->is_finite;
    }
    return best;
}

/* Groups [first, end) of the head of all ranks laid end to end, which is the vocabulary's order. */
static void products_head(struct crew *crew, const struct inputs *inputs, uint32_t first,
                          uint32_t end) {
    const struct cpu_backend *cpu = crew->cpu;
    for (uint32_t i = 0; i < cpu->rank_count; i++) {
        const struct cpu_rank *rank = &cpu->ranks[i];
        uint32_t from, to;
        if (part_of(rank->vocab_first / CPU_GROUP, rank->output.group_count, first, end, &from,
                    &to))
            product(crew, &rank->output, inputs, from, to, cpu->logits + rank->vocab_first,
                    cpu->vocab_ld);
    }
}

static void finish_prompt(struct crew *crew, const struct cpu_logit_row *entry, uint32_t at) {
    struct cpu_backend *cpu = crew->cpu;
    const struct batch_row *row = &crew->step->batch->rows[entry->batch_row];
    struct result_row *result = &cpu->results[entry->batch_row];
    struct cpu_scan_top top = join_tops(crew, at);
    struct token_logprob *out =
        (struct token_logprob *) (uintptr_t) &result->prompt_logprobs[entry->token];
    if (top.is_finite)
        cpu_sample_logprob(cpu->scan, cpu->logits + at * (uint64_t) cpu->vocab_ld,
                           cpu->spec.vocab_size, top.value, row->next_tokens[entry->token],
                           cpu_sample_prompt_top(cpu_backend_seat(cpu, row->seat)), out);
    else result->error = ERR_FORMAT; /* any thread may write it: always the same value */
}

/* The row's thread prepares (is_begin), or ends, what it does not share with others. */
static void finish_sample(struct crew *crew, const struct cpu_logit_row *entry, uint32_t at,
                          bool is_begin) {
    struct cpu_backend *cpu = crew->cpu;
    const struct batch_row *row = &crew->step->batch->rows[entry->batch_row];
    struct cpu_seat *seat = cpu_backend_seat(cpu, row->seat);
    struct result_row *result = &cpu->results[entry->batch_row];
    struct cpu_sample_draw *draw = &cpu->draws[at];
    const float *logits = cpu->logits + at * (uint64_t) cpu->vocab_ld;
    if (is_begin) {
        cpu_sample_begin(cpu->scan, seat, row, logits, join_tops(crew, at),
                         crew->scratch + cpu->scratch_layout.sampling, draw, result);
        return;
    }
    if (draw->is_open) draw->best = join_tops(crew, at);
    cpu_sample_end(cpu->scan, seat, logits, draw, result);
}

/* Fewer rows than threads: row r is thread r's, and all draw over their shares of the ids. */
static void finish_shared(struct crew *crew, const struct cpu_logit_row *list, uint32_t row_count) {
    struct cpu_backend *cpu = crew->cpu;
    const uint32_t own = crew->thread;
    const bool has_sample = own < row_count && list[own].token == CPU_LOGIT_SAMPLE;
    if (has_sample) finish_sample(crew, &list[own], own, true);
    else if (own < row_count) finish_prompt(crew, &list[own], own);
    barrier(crew);
    uint32_t first, end;
    share_ids(crew, own, &first, &end);
    for (uint32_t r = 0; r < row_count && first < end; r++) {
        const struct cpu_sample_draw *draw = &cpu->draws[r];
        if (list[r].token != CPU_LOGIT_SAMPLE || !draw->is_open) continue;
        cpu->tops[own * cpu->logit_rows + r] =
            cpu->scan->draw(draw->x, first, end, draw->cut, draw->how, draw->best);
    }
    barrier(crew);
    if (has_sample) finish_sample(crew, &list[own], own, false);
}

static void finish_row(struct crew *crew, const struct cpu_logit_row *entry, uint32_t at) {
    struct cpu_backend *cpu = crew->cpu;
    if (entry->token != CPU_LOGIT_SAMPLE) {
        finish_prompt(crew, entry, at);
        return;
    }
    const struct batch_row *row = &crew->step->batch->rows[entry->batch_row];
    cpu_sample_row(cpu->scan, cpu_backend_seat(cpu, row->seat), row,
                   cpu->logits + at * (uint64_t) cpu->vocab_ld, join_tops(crew, at),
                   crew->scratch + cpu->scratch_layout.sampling, &cpu->results[entry->batch_row]);
}

static bool has_random(const struct crew *crew, const struct cpu_logit_row *list,
                       uint32_t row_count) {
    const struct cpu_backend *cpu = crew->cpu;
    for (uint32_t r = 0; r < row_count; r++) {
        const struct batch_row *row = &crew->step->batch->rows[list[r].batch_row];
        if (list[r].token == CPU_LOGIT_SAMPLE &&
            cpu_sample_seat_is_random(cpu_backend_seat(cpu, row->seat)))
            return true;
    }
    return false;
}

static void logits_tile(struct crew *crew, uint32_t entry_first, uint32_t row_count) {
    struct cpu_backend *cpu = crew->cpu;
    const struct cpu_logit_row *list = cpu->logit_list + entry_first;
    const bool is_private = row_count <= cpu->narrow_rows;
    const struct cpu_matrix *output[] = {&cpu->ranks[0].output};
    struct inputs inputs;
    uint32_t first, end;
    inputs_init(crew, &inputs, is_private ? NULL : &cpu->ranks[0], row_count, cpu->spec.hidden_size,
                output, 1);
    for (uint32_t r = 0; r < row_count; r++) {
        if (!is_private && r % crew->thread_count != crew->thread) continue;
        inputs_set_norm(crew, &inputs, r,
                        cpu->residual + list[r].token_row * (uint64_t) cpu->hidden_ld,
                        cpu->final_norm);
    }
    if (!is_private) barrier(crew);

    share(crew, cpu->output_groups, &first, &end);
    if (first < end) {
        products_head(crew, &inputs, first, end);
        uint32_t id_first, id_end;
        share_ids(crew, crew->thread, &id_first, &id_end);
        for (uint32_t r = 0; r < row_count; r++)
            cpu->tops[crew->thread * cpu->logit_rows + r] =
                cpu->scan->top(cpu->logits + r * (uint64_t) cpu->vocab_ld, id_first, id_end);
    }
    barrier(crew);
    if (row_count < crew->thread_count && has_random(crew, list, row_count)) {
        finish_shared(crew, list, row_count);
    } else {
        deal_begin(crew);
        while (deal(crew, 1, row_count, &first, &end)) finish_row(crew, &list[first], first);
    }
    barrier(crew);
}

/* --- the step ----------------------------------------------------------------------------- */

static void step_thread(void *ctx, uint32_t thread, uint32_t thread_count) {
    struct cpu_backend *cpu = ctx;
    struct cpu_step *step = &cpu->step;
    uint8_t *scratch = cpu_backend_scratch(cpu, thread);
    struct crew crew = {
        .cpu = cpu,
        .step = step,
        .thread = thread,
        .thread_count = thread_count,
        .scratch = scratch,
        .row = (float *) (void *) (scratch + cpu->scratch_layout.row),
        .out = (float *) (void *) (scratch + cpu->scratch_layout.out),
    };
    uint32_t first, end;
    share(&crew, step->token_count, &first, &end);
    for (uint32_t r = first; r < end; r++) embed_row(&crew, r);
    barrier(&crew);
    for (uint32_t layer = 0; layer < cpu->spec.layer_count; layer++) {
        if (step->is_narrow) layer_narrow(&crew, layer);
        else layer_wide(&crew, layer);
    }
    for (uint32_t at = 0; at < step->logit_count; at += cpu->logit_rows)
        logits_tile(&crew, at, (uint32_t) num_min(cpu->logit_rows, step->logit_count - at));
}

/* Which rows want logits; where prompt logprobs go. */
static void list_logits(struct cpu_backend *cpu, struct cpu_step *step) {
    const struct batch *batch = step->batch;
    uint64_t prompt_count = 0;
    step->logit_count = 0;
    for (uint32_t i = 0; i < batch->row_count; i++) {
        const struct batch_row *row = &batch->rows[i];
        uint32_t token_row = cpu->row_first[i];
        if (row->wants_prompt_logprobs) {
            struct token_logprob *out = cpu->prompt_logprobs + prompt_count;
            cpu->results[i].prompt_logprobs = out;
            prompt_count += row->token_count;
            memset(out, 0, row->token_count * sizeof *out);
            for (uint32_t t = 0; t < row->token_count; t++) {
                out[t].token_id = row->next_tokens[t];
                if (row->next_tokens[t] == BACKEND_NO_TOKEN) continue;
                CHECK(row->next_tokens[t] < cpu->spec.vocab_size);
                cpu->logit_list[step->logit_count++] = (struct cpu_logit_row){token_row + t, i, t};
            }
        }
        if (row->wants_sample)
            cpu->logit_list[step->logit_count++] =
                (struct cpu_logit_row){token_row + row->token_count - 1, i, CPU_LOGIT_SAMPLE};
    }
}

/* The cores are shared out anew each step, among the workers of this node that compute now. */
static void begin_share(struct cpu_backend *cpu) {
    const struct backend_options *options = &cpu->options;
    if (!options->core_share) return;
    uint32_t busy = core_share_begin(options->core_share);
    if (!options->is_thread_count_fixed)
        cpu->active_count = core_share_threads(cpu->thread_count, options->core_count, busy);
    bool may_spin = options->may_spin && (uint64_t) cpu->active_count * busy <= options->core_count;
    team_set_active(cpu->team, cpu->active_count, may_spin);
}

void cpu_forward_step(struct cpu_backend *cpu, const struct batch *batch) {
    struct cpu_step *step = &cpu->step;
    step->batch = batch;
    step->token_count = 0;
    step->is_narrow = true;
    CHECK(batch->row_count <= cpu->options.seat_count);
    for (uint32_t i = 0; i < batch->row_count; i++) {
        const struct batch_row *row = &batch->rows[i];
        CHECK(row->seat < cpu->options.seat_count && row->token_count >= 1);
        CHECK(row->token_count <= cpu->options.batched_tokens_max - step->token_count);
        CHECK(row->tokens || row->token_count == 1);
        uint64_t slots = (uint64_t) row->block_count * cpu->options.block_size;
        CHECK((uint64_t) row->first_position + row->token_count <= slots);
        cpu->row_first[i] = step->token_count;
        for (uint32_t t = 0; t < row->token_count; t++) cpu->row_of[step->token_count++] = i;
        if (row->token_count > 1) step->is_narrow = false;
        cpu->results[i] = (struct result_row){.token_id = BACKEND_NO_TOKEN};
    }
    CHECK(step->token_count == batch->token_count && step->token_count > 0);
    if (step->token_count > cpu->narrow_rows) step->is_narrow = false;
    list_logits(cpu, step);
    begin_share(cpu);
    cpu_attend_plan(cpu, step);
    atomic_store(&step->next[0], 0);
    atomic_store(&step->next[1], 0);
    team_run(cpu->team, step_thread, cpu);
    if (cpu->options.core_share) core_share_end(cpu->options.core_share);
}
