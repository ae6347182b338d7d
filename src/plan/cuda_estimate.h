/* cuda_estimate - what a worker takes of a GPU, from shapes alone: a backend that only plans.
 *
 * Opened like any body, so that plan_make needs to know no other way; load, seats and steps are not
 * there.  Formulas: design.md 4 and 7 (vocabulary sharded, MLP in row tiles, logits only for a tile
 * of seats); what cannot be known before is an upper bound marked estimated. */
#ifndef GRAMME_PLAN_CUDA_ESTIMATE_H
#define GRAMME_PLAN_CUDA_ESTIMATE_H

#include "backend/backend.h"

/* Bits of a stored weight of the layers, scales of groups included; embeddings, head and norms
 * stay 16. */
struct cuda_estimate_format {
    double weight_bits;
    uint32_t row_bytes;    /* besides, for each output of a matrix: its scale */
    uint32_t column_bytes; /* and for each input: the index of its group */
    double head_bits;      /* as stored in a file that is read; 0: 16, or 32 */
    bool is_fp32;
    bool is_fp8; /* 8 bits are floats, not integers: other cards compute with them */
};

MUST_USE enum err cuda_estimate_open(const struct model_spec *spec,
                                     const struct backend_options *options,
                                     const struct cuda_estimate_format *format,
                                     struct err_text *text, struct backend **out);
void cuda_estimate_close(struct backend *backend);

#endif
