/* backend - what computes: one table of functions, three bodies (cpu, cuda, sim).
 *
 * A backend serves one worker: the rank_count ranks of one tensor-parallel group (who holds what:
 * tensor_parallel.h).  All calls come from the worker's step thread.  The life of one is
 *
 *   open -> plan -> load -> { seat_set, submit, collect, seat_clear, kv_* } -> close
 *
 * Batch and result are all that scheduler and backend share.  Blocks and seats named by a
 * submitted batch stay untouched by the caller until that batch's collect.  At most
 * `in_flight_max` batches are submitted and not collected; they complete in order.
 *
 * Numerics: numerics.md.  A result depends on the sequence's tokens and sampling alone, never on
 * the batch it rode in. */
#ifndef GRAMME_BACKEND_BACKEND_H
#define GRAMME_BACKEND_BACKEND_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/kv_dtype.h"
#include "backend/numerics.h"
#include "base/err.h"
#include "base/mem.h"
#include "config/sampling.h"
#include "model/model.h"
#include "model/model_spec.h"

struct core_share;

struct backend_options {
    uint32_t rank_count;         /* tensor-parallel-size */
    uint32_t block_size;         /* 8, 16, 32, 64, 128 */
    uint32_t seat_count;         /* max-num-seqs */
    uint32_t batched_tokens_max; /* max-num-batched-tokens: token rows of one step */
    uint32_t model_len_max;      /* max-model-len */
    uint32_t row_tile;           /* rows of the MLP computed at once; 4,096 */
    enum numerics numerics;
    enum kv_dtype kv_dtype;
    /* cpu: whose tensors will be packed, so that the plan knows the type of each; borrowed until
     * close (a mapped embedding is read from it).  NULL: shapes only, all of spec's weight_type. */
    const struct model *model;
    bool prefault;         /* cpu: stacks of the threads and mapped weights, too */
    uint32_t thread_count; /* cpu: compute threads, the caller's included */
    bool may_spin;         /* cpu: a core for each thread */
    /* cpu: the node's other workers compute on the same core_count cores; borrowed until close.
     * is_thread_count_fixed: all threads work whatever the others do.  NULL: alone. */
    struct core_share *core_share;
    uint32_t core_count;
    bool is_thread_count_fixed;
    const char *cpu_body;       /* NULL: best; "scalar", "avx2", "avx512" (GRAMME_CPU) */
    double sim_step_us;         /* sim: time of a step, */
    bool sim_is_on_grid;        /* steps end at whole multiples of it on the monotonic clock, */
    double sim_token_us;        /*      and of each token row in it; 0: no waiting */
    uint32_t sim_in_flight_max; /* 1 (also 0) or 2 */
    uint32_t sim_stop_period;   /* a stop id is drawn once in so many tokens; 0: never */
    uint64_t sim_fail_batch;    /* tests: the device is gone at this collect (1: the first) */
};

#define BACKEND_NO_TOKEN UINT32_MAX

/* One sequence's part of a step. */
struct batch_row {
    uint32_t seat;           /* < seat_count */
    uint32_t token_count;    /* >= 1 */
    const uint32_t *tokens;  /* token_count ids; NULL (token_count 1): the one you sampled
                                     last on this seat */
    uint32_t first_position; /* of tokens[0] in the sequence */
    const uint32_t *blocks;  /* the sequence's block table: position p lives in block
                                     blocks[p / block_size], slot p % block_size; covers
                                     first_position + token_count */
    uint32_t block_count;
    bool wants_sample;          /* draw a token after the last one; also takes it into the
                                     seat's counts */
    uint32_t output_index;      /* of the token to be drawn: counts from 0 */
    bool wants_prompt_logprobs; /* for each token t of the row: the logprob of the token that
                                     follows it, next_tokens[t] (BACKEND_NO_TOKEN: none wanted) */
    const uint32_t *next_tokens;
    const uint64_t *allowed_mask; /* vocab bits, 1 = may be drawn; NULL: all */
};

struct batch {
    const struct batch_row *rows;
    uint32_t row_count;   /* <= seat_count */
    uint32_t token_count; /* of all rows, <= batched_tokens_max */
};

/* Natural logarithms of the raw distribution (numerics.md 5). */
struct token_logprob {
    uint32_t token_id;
    float logprob;
    uint32_t rank; /* 1: the most likely */
    uint32_t top_count;
    uint32_t top_ids[SAMPLING_TOP_LOGPROBS_MAX];
    float top_logprobs[SAMPLING_TOP_LOGPROBS_MAX];
};

struct result_row {
    enum err error;               /* this row's own trouble (logits not finite: ERR_FORMAT) */
    uint32_t token_id;            /* drawn; BACKEND_NO_TOKEN when none was wanted */
    struct token_logprob logprob; /* of the drawn token when the seat's sampling asked (logprobs
                                     >= 0); top_count as asked */
    /* token_count entries when wants_prompt_logprobs; lives until the next submit. */
    const struct token_logprob *prompt_logprobs;
};

/* What the seat's next tokens are drawn by; copied into planned bytes (ids and arrays too).
 * prompt and output ids feed the penalties' counts. */
struct seat_setup {
    const uint32_t *prompt_ids;
    uint32_t prompt_count;
    const uint32_t *output_ids; /* a resumed sequence's tokens so far */
    uint32_t output_count;
    const struct sampling *sampling; /* stop_ids here are those that min_tokens forbids */
    uint32_t choice_index;
};

/* Called on the loading thread, many times a second.  false: stop; load gives ERR_CANCELLED. */
typedef bool (*backend_progress_fn)(void *ctx, const char *stage, uint64_t done_bytes,
                                    uint64_t total_bytes);

#define BACKEND_NO_LAYER UINT32_MAX

/* One step of load: held against the plan and the budget before its bytes are read. */
struct backend_take {
    const char *stage;  /* "buffers", "embeddings", "layers", "head"; "kv" comes last */
    const char *reason; /* the plan's line */
    enum mem_kind kind;
    uint32_t rank;
    uint32_t layer; /* BACKEND_NO_LAYER: of none */
    uint64_t bytes;
    bool is_outside; /* a mapped file (mem_line) */
};
/* false: no more. */
typedef bool (*backend_take_fn)(void *ctx, const struct backend_take *take);

struct backend; /* each body's own; begins with struct backend_head */

/* The strides of a KV region in bytes: element (block, layer, K|V, head) starts at
 * base + sum of index x stride and is one run of head_bytes (slots x head_dim). */
struct kv_layout {
    uint8_t *base;
    uint32_t block_count; /* block 0, "none", included */
    uint32_t layer_count;
    uint32_t head_first; /* the model's index of this rank's first KV head; more ranks than KV
                            heads: neighbouring ranks hold copies of one head */
    uint32_t head_count; /* KV heads of this rank */
    uint32_t head_total; /* KV heads of the model */
    uint64_t block_stride, layer_stride, value_stride, head_stride;
    uint64_t head_bytes;
    uint64_t block_bytes;
};

struct backend_ops {
    const char *name; /* "cpu", "sim", "cuda" */

    /* Checks spec and options against what this body can do; takes no model memory.
     * ERR_UNSUPPORTED / ERR_USAGE name the key and what is supported.  The options are copied,
     * with numerics and kv_dtype resolved. */
    MUST_USE enum err (*open)(const struct model_spec *spec, const struct backend_options *options,
                              struct err_text *text, struct backend **out);
    /* Adds every buffer of one rank but the KV region to *plan, by reason; block 0's bytes count
     * as workspace. */
    void (*plan)(const struct backend *backend, uint32_t rank, struct mem_plan *plan);
    /* Everything that load takes but the KV region, which comes last, in its order: what is planned
     * or refused, and what fails when forced, come from this one list.  NULL: the lines of plan,
     * rank by rank. */
    void (*walk)(const struct backend *backend, backend_take_fn fn, void *ctx);
    /* Bytes of KV of one block on one rank, all layers. */
    uint64_t (*block_bytes)(const struct backend *backend, uint32_t rank);
    /* Takes every planned buffer of every rank from mems[rank] (reason "kv" for block_count
     * blocks beside block 0), packs the weights stage by stage, starts the threads.  ERR_NO_ROOM
     * names stage, buffer, wanted and free bytes: nothing of that stage was read. */
    MUST_USE enum err (*load)(struct backend *backend, const struct model *model,
                              uint32_t block_count, struct mem *const *mems,
                              backend_progress_fn progress, void *progress_ctx,
                              struct err_text *text);
    void (*close)(struct backend *backend);

    MUST_USE enum err (*seat_set)(struct backend *backend, uint32_t seat,
                                  const struct seat_setup *setup);
    void (*seat_clear)(struct backend *backend, uint32_t seat);

    /* The batch's arrays are borrowed until collect.  Cannot fail but by CHECK. */
    void (*submit)(struct backend *backend, const struct batch *batch);
    /* Waits for the oldest submitted batch; *rows (row_count of it, in its order) live until the
     * next collect.  An error here means that the device is gone. */
    MUST_USE enum err (*collect)(struct backend *backend, const struct result_row **rows);
    uint32_t (*in_flight_max)(const struct backend *backend);

    void (*kv_layout)(const struct backend *backend, uint32_t rank, struct kv_layout *out);
    /* Copies the first slot_count slots of block `from` to block `to`, all layers and ranks. */
    void (*kv_copy)(struct backend *backend, uint32_t from, uint32_t to, uint32_t slot_count);
    /* XXH3-64 over the block image (design.md 5) of the first slot_count slots. */
    uint64_t (*kv_checksum)(const struct backend *backend, uint32_t rank, uint32_t block,
                            uint32_t slot_count);
    /* What was resolved: for HELLO, plan and logs. */
    enum numerics (*numerics)(const struct backend *backend);
    enum kv_dtype (*kv_dtype)(const struct backend *backend);
};

struct backend_head {
    const struct backend_ops *ops;
};

static inline const struct backend_ops *backend_ops_of(const struct backend *backend) {
    return ((const struct backend_head *) (const void *) backend)->ops;
}

extern const struct backend_ops cpu_backend_ops; /* backend/cpu/cpu_backend.c */
extern const struct backend_ops sim_backend_ops; /* backend/sim/sim_backend.c */

#endif
