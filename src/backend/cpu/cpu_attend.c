/* cpu_attend - see cpu_backend.h: attention of one step.
 *
 * A task is some query tokens of one sequence, for one KV head, over a range of tiles.  Prompt
 * chunks are cut by query tokens; a decoding sequence with a long past is cut by tiles when there
 * are more threads than work, and then each tile leaves (max, sum, acc) in the partials and the
 * part that ends last folds them.  Both ways do the same operations in the same order. */
#include "backend/cpu/cpu_backend.h"

#include <math.h>
#include <string.h>

#include "base/num.h"

/* --- cutting ------------------------------------------------------------------------------ */

/* The first position that a query at `position` sees. */
static uint32_t seen_first(const struct cpu_backend *cpu, uint32_t position) {
    uint32_t window = cpu->spec.sliding_window;
    return window && position + 1 > window ? position + 1 - window : 0;
}

static void add_task(struct cpu_backend *cpu, struct cpu_step *step, struct cpu_task task) {
    CHECK(step->task_count < cpu->task_room);
    cpu->tasks[step->task_count++] = task;
}

static struct cpu_task task_of(const struct cpu_backend *cpu, const struct batch_row *row,
                               uint32_t batch_row, uint32_t query_first, uint32_t query_count) {
    uint32_t first = row->first_position + query_first, last = first + query_count - 1;
    struct cpu_task task = {
        .batch_row = batch_row,
        .query_first = query_first,
        .query_count = query_count,
        .tile_first = seen_first(cpu, first) / CPU_TILE,
        .tile_end = last / CPU_TILE + 1,
        .part_count = 1,
    };
    task.all_first = task.tile_first;
    task.all_end = task.tile_end;
    return task;
}

/* KV head `head` of all ranks' laid end to end; each rank has as many. */
static void set_head(const struct cpu_backend *cpu, uint32_t head, struct cpu_task *task) {
    uint32_t each = cpu->ranks[0].kv.head_count;
    task->rank = head / each;
    task->kv_head = head % each;
}

/* Query tokens a task: as many as fill CPU_QUERY_ROWS, fewer when threads would go idle; not under
 * two but for a large group, which is what the tasks are planned for (count_shapes). */
static uint32_t query_step(const struct cpu_backend *cpu, const struct batch *batch) {
    uint32_t step = cpu->query_rows / cpu->group;
    while (step > 2) {
        uint64_t tasks = 0;
        for (uint32_t i = 0; i < batch->row_count; i++)
            tasks += num_div_up(batch->rows[i].token_count, step);
        if (tasks * cpu->kv_heads >= 4 * (uint64_t) cpu->active_count) break;
        step = (uint32_t) num_max(2, step / 2);
    }
    return step;
}

void cpu_attend_plan(struct cpu_backend *cpu, struct cpu_step *step) {
    const struct batch *batch = step->batch;
    const uint32_t heads = cpu->kv_heads, query_max = query_step(cpu, batch);
    step->task_count = 0;
    uint64_t tiles = 0;
    for (uint32_t i = 0; i < batch->row_count; i++) {
        const struct batch_row *row = &batch->rows[i];
        if (row->token_count == 1) {
            struct cpu_task task = task_of(cpu, row, i, 0, 1);
            tiles += (uint64_t) (task.tile_end - task.tile_first) * heads;
            continue;
        }
        /* Later queries see more: the longest tasks come first. */
        uint32_t pieces = (uint32_t) num_div_up(row->token_count, query_max);
        for (uint32_t piece = pieces; piece-- > 0;) {
            uint32_t first = piece * query_max;
            uint32_t count = (uint32_t) num_min(query_max, row->token_count - first);
            struct cpu_task task = task_of(cpu, row, i, first, count);
            tiles += (uint64_t) (task.tile_end - task.tile_first) * heads * count;
            for (uint32_t head = 0; head < heads; head++) {
                set_head(cpu, head, &task);
                add_task(cpu, step, task);
            }
        }
    }
    /* Four shares a thread even out what tasks differ by. */
    uint32_t share = (uint32_t) num_div_up(tiles, 4 * (uint64_t) cpu->active_count);
    uint32_t partial = 0;
    for (uint32_t i = 0; i < batch->row_count; i++) {
        if (batch->rows[i].token_count != 1) continue;
        struct cpu_task task = task_of(cpu, &batch->rows[i], i, 0, 1);
        uint32_t count = task.all_end - task.all_first;
        bool is_split = cpu->active_count > 1 && share > 0 && count > share &&
                        (uint64_t) count * heads <= cpu->partial_room - partial;
        uint32_t part_tiles = is_split ? share : count;
        task.part_count = (uint32_t) num_div_up(count, part_tiles);
        for (uint32_t head = 0; head < heads; head++) {
            set_head(cpu, head, &task);
            task.counter = i * heads + head;
            task.partial = partial;
            if (is_split) partial += count;
            for (uint32_t tile = task.all_first; tile < task.all_end; tile += part_tiles) {
                task.tile_first = tile;
                task.tile_end = (uint32_t) num_min((uint64_t) tile + part_tiles, task.all_end);
                add_task(cpu, step, task);
            }
        }
    }
}

/* --- one task ----------------------------------------------------------------------------- */

void cpu_attend_turn(const struct cpu_backend *cpu, float *head, const float *bias,
                     const float *norm, const float *angles) {
    uint32_t head_dim = cpu->spec.head_dim;
    if (bias) cpu->rows->add(head, bias, head_dim);
    if (norm) cpu->rows->norm(head, norm, head_dim, cpu->spec.norm_epsilon, head);
    cpu->rows->rotate(head, angles, head_dim / 2);
}

void cpu_attend_store(const struct cpu_backend *cpu, const struct cpu_rank *rank, uint32_t layer,
                      uint32_t batch_row, uint32_t position, uint32_t kv_head, const float *key,
                      const float *value) {
    const struct cpu_kv *kv = &rank->kv;
    const struct batch_row *row = &cpu->step.batch->rows[batch_row];
    uint32_t block = row->blocks[position / kv->block_size], slot = position % kv->block_size;
    cpu->attention->store_key(kv->dtype, kv->head_dim, key,
                              cpu_kv_run(kv, block, layer, false, kv_head), kv->block_size, slot);
    cpu->attention->store_value(kv->dtype, kv->head_dim, value,
                                cpu_kv_run(kv, block, layer, true, kv_head), kv->block_size, slot);
}

/* The thread's memory for one task. */
struct desk {
    float *row;
    float *queries, *state, *fresh;
    float *state_max, *state_sum, *fresh_max, *fresh_sum;
    uint32_t *first, *end;
    float *scores;
    float *unpacked;
};

static struct desk desk_of(const struct cpu_backend *cpu, uint8_t *scratch) {
    const struct cpu_scratch_layout *layout = &cpu->scratch_layout;
    float *marks = (float *) (void *) (scratch + layout->marks);
    uint32_t rows = cpu->query_rows;
    return (struct desk){
        .row = (float *) (void *) (scratch + layout->row),
        .queries = (float *) (void *) (scratch + layout->queries),
        .state = (float *) (void *) (scratch + layout->state),
        .fresh = (float *) (void *) (scratch + layout->fresh),
        .state_max = marks,
        .state_sum = marks + rows,
        .fresh_max = marks + 2 * rows,
        .fresh_sum = marks + 3 * rows,
        .first = (uint32_t *) (void *) (marks + 4 * rows),
        .end = (uint32_t *) (void *) (marks + 5 * rows),
        .scores = (float *) (void *) (scratch + layout->scores),
        .unpacked = (float *) (void *) (scratch + layout->unpacked),
    };
}

/* Queries into place order, scaled; in a narrow step bias, norm and rotation come first, and the
 * part that holds the last tile stores the new key and value. */
static void take_queries(struct cpu_backend *cpu, uint32_t layer, const struct cpu_task *task,
                         const struct desk *desk) {
    const uint32_t head_dim = cpu->spec.head_dim, group = cpu->group;
    const struct cpu_rank *rank = &cpu->ranks[task->rank];
    const struct cpu_layer *at = &rank->layers[layer];
    const float scale = 1.0f / sqrtf((float) head_dim);
    uint32_t token_row = cpu->row_first[task->batch_row] + task->query_first;
    float *const *vectors = at->vectors;
    for (uint32_t i = 0; i < task->query_count; i++, token_row++)
        for (uint32_t g = 0; g < group; g++) {
            uint32_t head = task->kv_head * group + g;
            const float *query =
                rank->queries + (uint64_t) token_row * rank->q_columns + head * head_dim;
            if (cpu->step.is_narrow) {
                memcpy(desk->row, query, head_dim * sizeof *query);
                const float *bias = vectors[CPU_Q_BIAS];
                cpu_attend_turn(cpu, desk->row, bias ? bias + head * head_dim : NULL,
                                vectors[CPU_Q_NORM], cpu->angles + (uint64_t) token_row * head_dim);
                query = desk->row;
            }
            cpu->attention->arrange(head_dim, query, scale,
                                    desk->queries + ((uint64_t) i * group + g) * head_dim);
        }
    if (!cpu->step.is_narrow || task->tile_end != task->all_end) return;
    token_row = cpu->row_first[task->batch_row];
    float *key =
        rank->kv_rows + (uint64_t) token_row * 2 * rank->kv_columns + task->kv_head * head_dim;
    float *value = key + rank->kv_columns;
    const float *key_bias = vectors[CPU_K_BIAS], *value_bias = vectors[CPU_V_BIAS];
    cpu_attend_turn(cpu, key, key_bias ? key_bias + task->kv_head * head_dim : NULL,
                    vectors[CPU_K_NORM], cpu->angles + (uint64_t) token_row * head_dim);
    if (value_bias) cpu->rows->add(value, value_bias + task->kv_head * head_dim, head_dim);
    cpu_attend_store(cpu, rank, layer, task->batch_row,
                     cpu->step.batch->rows[task->batch_row].first_position, task->kv_head, key,
                     value);
}

/* Where the first `slot_count` slots of a tile lie; quantized ones are unpacked. */
static void find_tile(const struct cpu_backend *cpu, uint32_t layer, const struct cpu_task *task,
                      uint32_t tile, uint32_t slot_first, uint32_t slot_end,
                      const struct desk *desk, struct cpu_attention_tile *out) {
    const struct cpu_kv *kv = &cpu->ranks[task->rank].kv;
    const struct batch_row *row = &cpu->step.batch->rows[task->batch_row];
    const uint32_t shift = (uint32_t) __builtin_ctz(kv->block_size);
    const uint64_t packet_bytes =
        (uint64_t) CPU_PACKET * kv->head_dim * cpu_kv_element_bytes(kv->dtype);
    const bool has_scales = cpu_kv_has_scales(kv->dtype);
    const uint32_t p_first = slot_first / CPU_PACKET;
    for (uint32_t p = p_first; p * CPU_PACKET < slot_end; p++) {
        uint32_t position = tile * CPU_TILE + p * CPU_PACKET;
        uint32_t block = row->blocks[position >> shift];
        uint32_t packet = (position & (kv->block_size - 1)) / CPU_PACKET;
        const uint8_t *keys = cpu_kv_run(kv, block, layer, false, task->kv_head);
        const uint8_t *values = cpu_kv_run(kv, block, layer, true, task->kv_head);
        if (!has_scales) {
            out->keys[p] = keys + packet * packet_bytes;
            out->values[p] = values + packet * packet_bytes;
            continue;
        }
        float *key_out = desk->unpacked + (uint64_t) p * CPU_PACKET * kv->head_dim;
        float *value_out = key_out + (uint64_t) CPU_TILE * kv->head_dim;
        cpu->attention->unpack_keys(kv->dtype, kv->head_dim, keys, kv->block_size, packet, key_out);
        cpu->attention->unpack_values(kv->dtype, kv->head_dim, values, kv->block_size, packet,
                                      value_out);
        out->keys[p] = (const uint8_t *) key_out;
        out->values[p] = (const uint8_t *) value_out;
    }
    /* Scores are computed by 16 slots; the packet before the first may have no block any more
     * (sliding window), and what is computed for it is selected away. */
    if (p_first % 2) out->keys[p_first - 1] = out->keys[p_first];
}

/* The ranges of the task's rows in a tile; the tile's slots that any of them sees. */
static void set_ranges(const struct cpu_backend *cpu, const struct cpu_task *task, uint32_t tile,
                       const struct desk *desk, uint32_t *slot_first, uint32_t *slot_end) {
    const struct batch_row *row = &cpu->step.batch->rows[task->batch_row];
    const uint32_t base = tile * CPU_TILE;
    *slot_first = CPU_TILE;
    *slot_end = 0;
    for (uint32_t i = 0; i < task->query_count; i++) {
        uint32_t position = row->first_position + task->query_first + i;
        uint32_t low = seen_first(cpu, position);
        uint32_t first = low > base ? low - base : 0;
        uint32_t end = position < base ? 0 : (uint32_t) num_min(position - base + 1, CPU_TILE);
        if (first >= end) first = end = 0;
        if (first < end && first < *slot_first) *slot_first = first;
        if (end > *slot_end) *slot_end = end;
        for (uint32_t g = 0; g < cpu->group; g++) {
            desk->first[i * cpu->group + g] = first;
            desk->end[i * cpu->group + g] = end;
        }
    }
}

static void fold_rows(const struct cpu_backend *cpu, const struct desk *desk, uint32_t row_count) {
    const uint32_t head_dim = cpu->spec.head_dim;
    for (uint32_t r = 0; r < row_count; r++) {
        if (desk->first[r] >= desk->end[r]) continue;
        float *state = desk->state + (uint64_t) r * head_dim;
        const float *fresh = desk->fresh + (uint64_t) r * head_dim;
        if (desk->state_sum[r] < 0) { /* nothing yet */
            desk->state_max[r] = desk->fresh_max[r];
            desk->state_sum[r] = desk->fresh_sum[r];
            memcpy(state, fresh, head_dim * sizeof *state);
        } else {
            cpu->attention->fold(head_dim, &desk->state_max[r], &desk->state_sum[r], state,
                                 desk->fresh_max[r], desk->fresh_sum[r], fresh);
        }
    }
}

/* The last part of a split sequence folds all tiles' partials. */
static void fold_partials(struct cpu_backend *cpu, const struct cpu_task *task) {
    const uint32_t head_dim = cpu->spec.head_dim, group = cpu->group;
    float *first = cpu->partials + task->partial * cpu->partial_floats;
    for (uint32_t tile = 1; tile < task->all_end - task->all_first; tile++) {
        const float *next = first + tile * cpu->partial_floats;
        for (uint32_t g = 0; g < group; g++)
            cpu->attention->fold(head_dim, &first[g], &first[group + g],
                                 first + 2 * group + (uint64_t) g * head_dim, next[g],
                                 next[group + g], next + 2 * group + (uint64_t) g * head_dim);
    }
    const struct cpu_rank *rank = &cpu->ranks[task->rank];
    float *out = rank->queries + (uint64_t) cpu->row_first[task->batch_row] * rank->q_columns +
                 (uint64_t) task->kv_head * group * head_dim;
    for (uint32_t g = 0; g < group; g++)
        cpu->attention->finish(head_dim, first[group + g],
                               first + 2 * group + (uint64_t) g * head_dim, out + g * head_dim);
}

void cpu_attend_task(struct cpu_backend *cpu, uint32_t layer, const struct cpu_task *task,
                     uint8_t *scratch) {
    const uint32_t head_dim = cpu->spec.head_dim, group = cpu->group;
    const uint32_t row_count = task->query_count * group;
    const bool is_split = task->part_count > 1;
    const struct cpu_rank *rank = &cpu->ranks[task->rank];
    const enum kv_dtype dtype = cpu_kv_has_scales(rank->kv.dtype) ? KV_DTYPE_F32 : rank->kv.dtype;
    struct desk desk = desk_of(cpu, scratch);
    take_queries(cpu, layer, task, &desk);
    struct cpu_attention_rows rows = {
        .row_count = row_count,
        .head_dim = head_dim,
        .queries = desk.queries,
        .first = desk.first,
        .end = desk.end,
        .scores = desk.scores,
        .max = desk.fresh_max,
        .sum = desk.fresh_sum,
        .acc = desk.fresh,
    };
    for (uint32_t r = 0; r < row_count; r++) desk.state_sum[r] = -1;
    for (uint32_t tile = task->tile_first; tile < task->tile_end; tile++) {
        uint32_t slot_first, slot_end;
        set_ranges(cpu, task, tile, &desk, &slot_first, &slot_end);
        struct cpu_attention_tile where;
        find_tile(cpu, layer, task, tile, slot_first, slot_end, &desk, &where);
        if (is_split) {
            float *partial =
                cpu->partials + (task->partial + tile - task->all_first) * cpu->partial_floats;
            rows.max = partial;
            rows.sum = partial + group;
            rows.acc = partial + 2 * group;
        }
        cpu->attention->tile(dtype, &where, &rows);
        if (!is_split) fold_rows(cpu, &desk, row_count);
    }
    if (is_split) {
        if (atomic_fetch_add(&cpu->counters[task->counter], 1) + 1 < task->part_count) return;
        atomic_store(&cpu->counters[task->counter], 0);
        fold_partials(cpu, task);
        return;
    }
    uint32_t token_row = cpu->row_first[task->batch_row] + task->query_first;
    for (uint32_t r = 0; r < row_count; r++) {
        float *out = rank->queries + (uint64_t) (token_row + r / group) * rank->q_columns +
                     (uint64_t) (task->kv_head * group + r % group) * head_dim;
        cpu->attention->finish(head_dim, desk.state_sum[r], desk.state + (uint64_t) r * head_dim,
                               out);
    }
}
