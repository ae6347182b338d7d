/* cpu_backend - the inside of the CPU body: what its files share.
 *
 *   cpu_backend.c   the table of backend.h: open, seats, submit and collect
 *   cpu_load.c      every buffer with its reason; packing of the weights
 *   cpu_forward.c   one step: the phases of the layers, logits, sampling
 *   cpu_attend.c    attention of a step, cut into tasks
 *   cpu_kv.c        the KV region
 *   cpu_rows.c cpu_attention.c cpu_scan.c   kernels, one object a body; cpu_matmul.h the products
 *
 * A rank is data here (struct cpu_rank): its slices of the matrices, its KV region, its buffers.
 * One team of threads serves all ranks: the work of a phase is laid end to end, rank after rank,
 * and cut over the threads, so that with a thread a rank each has its own, and with fewer a thread
 * does several in turn between barriers (protocol.md 6).  What all ranks would hold alike
 * (residual, norms, logits, seats) stands once and is planned on rank 0.
 *
 * submit computes the whole step on the team's threads and returns when it is done, so
 * in_flight_max is 1.  Owned by the step thread; within team_run the phases share the buffers. */
#ifndef GRAMME_BACKEND_CPU_CPU_BACKEND_H
#define GRAMME_BACKEND_CPU_CPU_BACKEND_H

#include <stdatomic.h>

#include "backend/backend.h"
#include "backend/cpu/cpu_attention.h"
#include "backend/cpu/cpu_kv.h"
#include "backend/cpu/cpu_matmul.h"
#include "backend/cpu/cpu_rows.h"
#include "backend/cpu/cpu_sample.h"
#include "backend/cpu/cpu_scan.h"
#include "backend/tensor_parallel.h"
#include "base/team.h"

#define CPU_ROW_TILE_MAX                                                                           \
    512u                       /* rows of a phase: 512 x ffn in f32 stay near the L2 caches; larger
                                  tiles gained nothing (results do not depend on it) */
#define CPU_LOGIT_ROWS_MAX 64u /* rows of logits at once; the head is read once for each tile */
#define CPU_NARROW_ELEMENTS                                                                        \
    16384u                   /* up to here every thread prepares its own activations: that
                                      is cheaper than one more barrier */
#define CPU_OUT_COLUMNS 128u /* outputs of a product that a thread holds for a whole row tile */
#define CPU_QUERY_ROWS 96u   /* query rows of an attention task: K and V tiles stay in L1/L2 */

enum cpu_class { CPU_CLASS_F32A, CPU_CLASS_Q8A32, CPU_CLASS_BF16P, CPU_CLASS_COUNT };

enum cpu_vector {
    CPU_ATTN_NORM,
    CPU_FFN_NORM,
    CPU_Q_BIAS,
    CPU_K_BIAS,
    CPU_V_BIAS,
    CPU_O_BIAS,
    CPU_GATE_BIAS,
    CPU_UP_BIAS,
    CPU_DOWN_BIAS,
    CPU_Q_NORM,
    CPU_K_NORM,
    CPU_VECTOR_COUNT,
};

struct cpu_layer {
    struct cpu_matrix q, k, v, o, gate, up, down;
    float *vectors[CPU_VECTOR_COUNT]; /* NULL: the family has none */
};

/* What one rank holds. */
struct cpu_rank {
    struct cpu_layer *layers;
    struct cpu_matrix output; /* its ids of the head; also of the embedding when tied */
    struct cpu_kv kv;
    uint32_t vocab_first;
    uint32_t q_columns; /* query heads x head_dim */
    uint32_t kv_columns;
    uint32_t ffn_ld; /* floats a row: a multiple of 16 */

    /* planned buffers */
    uint8_t *attention_weights, *mlp_weights, *output_weights;
    float *queries; /* (tokens, q_columns); the attention output takes their place */
    float *kv_rows; /* (row_tile, 2 x kv_columns) */
    float *hidden;  /* (row_tile, ffn_ld) */
    uint8_t *wide[CPU_CLASS_COUNT]; /* activations of a row tile */
    float *sums; /* (planes, row_tile, hidden_ld) of o_proj or down_proj; more than one rank */
};

/* One piece of attention work: query rows of one sequence and KV head over a range of tiles. */
struct cpu_task {
    uint32_t batch_row;
    uint32_t rank;
    uint32_t kv_head;                  /* of the rank */
    uint32_t query_first, query_count; /* tokens of the batch row */
    uint32_t tile_first, tile_end;     /* absolute */
    uint32_t all_first, all_end;       /* of the whole, when it is split */
    uint32_t part_count;               /* tasks the whole is split into; 1: not split */
    uint32_t partial;                  /* entry of tile all_first in the partials */
    uint32_t counter;                  /* of finished parts */
};

#define CPU_LOGIT_SAMPLE UINT32_MAX
struct cpu_logit_row {
    uint32_t token_row;
    uint32_t batch_row;
    uint32_t token; /* of the batch row, for prompt logprobs; or CPU_LOGIT_SAMPLE */
};

/* Offsets into a thread's scratch. */
struct cpu_scratch_layout {
    uint64_t row; /* floats of one row */
    uint64_t out; /* outputs of a product */
    uint64_t out_floats;
    uint64_t narrow[CPU_CLASS_COUNT];
    uint64_t queries, state, fresh; /* (query rows, head_dim) */
    uint64_t marks;                 /* max, sum (state and fresh), first, end of query rows */
    uint64_t scores;
    uint64_t unpacked; /* a tile's keys, values in f32 */
    uint64_t sampling;
    uint64_t bytes;
};

struct cpu_step {
    const struct batch *batch;
    uint32_t token_count;
    bool is_narrow; /* decode rows only, few: activations per thread, rope inside attention */
    uint32_t task_count;
    uint32_t logit_count;
    uint64_t prompt_logprob_count;
    _Alignas(64) _Atomic uint32_t next[2]; /* dealing; by parity of the phase */
};

struct cpu_backend {
    struct backend_head head;
    struct model_spec spec;
    struct backend_options options; /* resolved */
    const struct model *model;      /* borrowed; NULL: shapes only */
    enum cpu_body body;
    const struct cpu_rows_ops *rows;
    const struct cpu_attention_ops *attention;
    const struct cpu_scan_ops *scan;
    struct team *team;

    uint32_t rank_count;
    struct cpu_rank *ranks;
    uint32_t plane_count;  /* of a rank's partial sums: those that its own tree leaves */
    uint64_t plane_floats; /* row_tile x hidden_ld */
    struct model_tensor embedding;
    float *final_norm, *inv_freq;
    float rope_scale;

    uint32_t thread_count;
    uint32_t active_count;  /* threads of this step, at most thread_count */
    uint32_t group;         /* query heads a KV head, within a rank */
    uint32_t kv_heads;      /* of all ranks together, copies counted */
    uint32_t output_groups; /* of all ranks together */
    uint32_t hidden_ld;     /* floats a row: multiples of 16 */
    uint32_t vocab_ld;
    uint32_t columns_max;        /* largest K of a product */
    uint32_t stored_columns_max; /* largest row of a tensor that is packed */
    uint32_t row_tile;
    uint32_t logit_rows;
    uint32_t narrow_rows;
    uint32_t query_rows;
    uint32_t task_room;
    uint32_t partial_room;
    uint64_t partial_floats; /* of one entry: (2 + head_dim) x group */
    uint64_t seat_bytes;
    bool has_class[CPU_CLASS_COUNT];
    struct cpu_scratch_layout scratch_layout;

    /* planned buffers, on rank 0 */
    float *vectors;
    float *residual; /* (tokens, hidden_ld) */
    float *angles;   /* (tokens, head_dim): cosines, sines */
    float *logits;   /* (logit_rows, vocab_ld) */
    float *partials;
    uint8_t *scratch; /* (threads, scratch bytes) */
    uint8_t *seats;
    uint32_t *row_first; /* (seats + 1) token row of each batch row */
    uint32_t *row_of;    /* (tokens) batch row of each token row */
    struct cpu_task *tasks;
    _Atomic uint32_t *counters; /* (seats x kv heads), 0 between layers */
    struct cpu_logit_row *logit_list;
    struct cpu_scan_top *tops;     /* (threads, logit_rows) */
    struct cpu_sample_draw *draws; /* (logit_rows) */
    struct result_row *results;
    struct token_logprob *prompt_logprobs; /* (tokens) */

    bool is_loaded;
    bool has_result; /* submitted, not collected */
    struct cpu_step step;
};

static inline uint8_t *cpu_backend_scratch(const struct cpu_backend *cpu, uint32_t thread) {
    return cpu->scratch + thread * cpu->scratch_layout.bytes;
}
static inline struct cpu_seat *cpu_backend_seat(const struct cpu_backend *cpu, uint32_t seat) {
    return (struct cpu_seat *) (void *) (cpu->seats + seat * cpu->seat_bytes);
}
static inline enum cpu_class cpu_backend_class(const struct cpu_matrix *matrix) {
    if (matrix->numerics == NUMERICS_BF16P) return CPU_CLASS_BF16P;
    return matrix->numerics == NUMERICS_F32A ? CPU_CLASS_F32A : CPU_CLASS_Q8A32;
}
static inline enum numerics cpu_backend_class_numerics(enum cpu_class class) {
    if (class == CPU_CLASS_BF16P) return NUMERICS_BF16P;
    return class == CPU_CLASS_F32A ? NUMERICS_F32A : NUMERICS_Q8A32;
}

/* cpu_load.c */

/* Shapes of every matrix and buffer; fills all counts above.  Needs spec, options, model, and
 * the ranks' books. */
MUST_USE enum err cpu_load_shapes(struct cpu_backend *cpu, struct err_text *text);
void cpu_load_plan(const struct cpu_backend *cpu, uint32_t rank, struct mem_plan *plan);
void cpu_load_walk(const struct cpu_backend *cpu, backend_take_fn fn, void *ctx);
MUST_USE enum err cpu_load_buffers(struct cpu_backend *cpu, struct mem *const *mems,
                                   struct err_text *text);
/* On the team's threads, stage by stage. */
MUST_USE enum err cpu_load_weights(struct cpu_backend *cpu, struct mem *const *mems,
                                   backend_progress_fn progress, void *progress_ctx,
                                   struct err_text *text);
MUST_USE enum err cpu_load_kv(struct cpu_backend *cpu, uint32_t block_count,
                              struct mem *const *mems, struct err_text *text);
/* Stacks of the compute threads and weights used as stored become resident. */
void cpu_load_prefault(struct cpu_backend *cpu);

/* cpu_attend.c */

/* Cuts the step's attention into tasks, the same for every layer. */
void cpu_attend_plan(struct cpu_backend *cpu, struct cpu_step *step);
/* Bias, head norm and rotation of one head of a token row, in place. */
void cpu_attend_turn(const struct cpu_backend *cpu, float *head, const float *bias,
                     const float *norm, const float *angles);
/* Rounds token row `row` of the tile's keys and values (rotated already) into the cache. */
void cpu_attend_store(const struct cpu_backend *cpu, const struct cpu_rank *rank, uint32_t layer,
                      uint32_t batch_row, uint32_t position, uint32_t kv_head, const float *key,
                      const float *value);
void cpu_attend_task(struct cpu_backend *cpu, uint32_t layer, const struct cpu_task *task,
                     uint8_t *scratch);

/* cpu_forward.c */
void cpu_forward_step(struct cpu_backend *cpu, const struct batch *batch);

#endif
