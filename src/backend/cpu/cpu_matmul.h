/* cpu_matmul - packed weight matrices and the products with them: the hot half of the CPU body.
 *
 * y (rows, N) = x (rows, K) times w (N, K) transposed.  One packed layout serves decode and
 * prefill: lanes along N in groups of CPU_GROUP outputs, one f32 accumulator per output and
 * segment, ascending k (numerics.md 2).  A row's result depends on neither the number of rows nor
 * the range of groups asked for, nor on the body (scalar, AVX2, AVX-512) within a class.
 * A product keeps up to 90 KiB on the stack.
 *
 * Nothing here starts threads: cpu_forward deals ranges of groups to the team. */
#ifndef GRAMME_BACKEND_CPU_CPU_MATMUL_H
#define GRAMME_BACKEND_CPU_CPU_MATMUL_H

#include <stdint.h>

#include "backend/numerics.h"
#include "base/err.h"
#include "model/model.h"

#define CPU_GROUP 16        /* outputs (lanes along N) of a group */
#define CPU_SEGMENTS_MAX 64 /* numerics.md 3 gives at most 8, or the KV heads */

enum cpu_body { CPU_BODY_SCALAR, CPU_BODY_AVX2, CPU_BODY_AVX512 };

/* The best body this processor runs, or the one named (NULL: best).  ERR_UNSUPPORTED names what
 * the processor lacks; ERR_USAGE for an unknown word. */
MUST_USE enum err cpu_body_choose(const char *name, struct err_text *text, enum cpu_body *out);
const char *cpu_body_name(enum cpu_body body);

/* A packed matrix.  Its memory is the caller's (planned) and lives as long as the backend. */
struct cpu_matrix {
    enum numerics numerics;
    enum tensor_type type;
    uint32_t rows;        /* N */
    uint32_t columns;     /* K */
    uint32_t group_count; /* ceil(N / CPU_GROUP); lanes past N hold zero weights */
    uint32_t segment_count;
    uint32_t segment_ends[CPU_SEGMENTS_MAX]; /* in k, ascending, may repeat; the last is K */
    uint32_t column_first;                   /* k = 0 is this column of the stored rows */
    uint64_t group_bytes;
    const uint8_t *data; /* group g at data + g x group_bytes, 64-aligned */
};

/* Fills all but data.  segment_ends NULL: one segment.  ERR_UNSUPPORTED names class and type
 * (bf16p of quantized weights); ERR_FORMAT when K is not whole blocks of the type, or an inner
 * segment end is no multiple of 32 (q8a32; BF16: of 2).
 *
 * matrix->numerics is the class of this matrix: q8a32 for quantized types only, so that F32, F16
 * and BF16 matrices of a quantized model are f32a, and want activations in f32; likewise bf16p for
 * BF16 alone.  A quantized type
 * under f32a is stored as f32 (exactly tensor_type_row_to_f32).  Min term of q8a32 (formats with a
 * min): acc = fma(min, sum, acc), sum = activation scale x (float) sum of the 32 int8; Q6_K's
 * 16-wide sub-scales multiply within the exact integer sum. */
MUST_USE enum err cpu_matrix_init(struct cpu_matrix *matrix, enum numerics numerics,
                                  enum tensor_type type, uint32_t rows, uint32_t columns,
                                  const uint32_t *segment_ends, uint32_t segment_count,
                                  struct err_text *text);
/* A rank's slice: columns [column_first, column_first + columns) of stored rows of stored_columns
 * weights.  rows or columns may be 0 (a model of few columns): nothing is packed, and a product
 * without columns is +0.  column_first is a multiple of 32. */
MUST_USE enum err cpu_matrix_init_slice(struct cpu_matrix *matrix, enum numerics numerics,
                                        enum tensor_type type, uint32_t rows, uint32_t columns,
                                        uint32_t column_first, uint32_t stored_columns,
                                        const uint32_t *segment_ends, uint32_t segment_count,
                                        struct err_text *text);
uint64_t cpu_matrix_bytes(const struct cpu_matrix *matrix); /* group_count x group_bytes */

/* Packs groups [first, end) from the model's rows into `data` (= where matrix->data will point).
 * Any thread; distinct ranges in parallel.  scratch: CPU_GROUP x row_bytes, 64-aligned (dummy
 * rows are made there; one row at a time, so row_bytes suffice).  row_first: matrix row 0 is this
 * row of the tensor. */
void cpu_matrix_pack(const struct cpu_matrix *matrix, const struct model *model,
                     enum tensor_role role, uint32_t layer, uint32_t row_first, uint32_t first,
                     uint32_t end, uint8_t *scratch, uint8_t *data);
/* Row n of the packed matrix, exactly as tensor_type_row_to_f32 of the stored row (embedding
 * lookup of a tied model). */
void cpu_matrix_row_to_f32(const struct cpu_matrix *matrix, uint32_t n, float *out);

/* Rows of x in the form the class wants: f32, BF16, or int8 with scales and sums per 32 (a block
 * of 32 with a NaN or an infinity makes every output of its row NaN). */
struct cpu_activations {
    enum numerics numerics; /* matrix->numerics, which may differ from the model's class */
    uint32_t rows;
    uint32_t columns; /* K */
    uint8_t *data;    /* cpu_activations_bytes(numerics, rows, columns), 64-aligned, planned */
};
uint64_t cpu_activations_bytes(enum numerics numerics, uint32_t rows, uint32_t columns);
/* Prepares rows [first, end) from x (rows, K), ld floats a row.  Any thread; distinct ranges in
 * parallel. */
void cpu_activations_set(enum cpu_body body, struct cpu_activations *activations, uint32_t first,
                         uint32_t end, const float *x, uint64_t ld);

/* out[r x ld + n] for all rows r and the outputs n of groups [first, end): the fixed tree over
 * the segments' sums (numerics.md 3).  Distinct ranges in parallel. */
void cpu_matmul(enum cpu_body body, const struct cpu_matrix *matrix,
                const struct cpu_activations *activations, uint32_t first, uint32_t end, float *out,
                uint64_t ld);
/* As cpu_matmul, but for each segment s apart: out[s x plane + r x ld + n] (tensor parallelism:
 * the partial sums cross ranks in f32). */
void cpu_matmul_segments(enum cpu_body body, const struct cpu_matrix *matrix,
                         const struct cpu_activations *activations, uint32_t first, uint32_t end,
                         float *out, uint64_t plane, uint64_t ld);

#endif
