/* tensor_parallel - how a model is cut over the ranks of one worker (numerics.md 3).
 *
 * Pure arithmetic on the spec: which degrees are legal, and each rank's share of heads, of the
 * MLP's inner columns and of the vocabulary.  Used by every body, by the plan and by whoever
 * pairs workers of different degree.
 *
 * Query heads and segments are cut evenly; KV heads too, or each is held by several neighbouring
 * ranks when there are more ranks than KV heads. */
#ifndef GRAMME_BACKEND_TENSOR_PARALLEL_H
#define GRAMME_BACKEND_TENSOR_PARALLEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "model/model_spec.h"

#define TENSOR_PARALLEL_MAX 64 /* ranks of a worker */

/* [first, end) */
struct tensor_parallel_share {
    uint32_t first, end;
};

/* Divides the query heads, and divides the KV heads or is a multiple of them. */
bool tensor_parallel_is_legal(const struct model_spec *spec, uint32_t rank_count);
/* ERR_USAGE: one line with the legal degrees. */
MUST_USE enum err tensor_parallel_check(const struct model_spec *spec, uint32_t rank_count,
                                        struct err_text *text);
/* The bits of every answer are those of one rank. */
bool tensor_parallel_is_exact(const struct model_spec *spec, uint32_t rank_count);

/* Segments that the sums of o_proj and down_proj are made of: S where rank_count divides it, else
 * one a rank. */
uint32_t tensor_parallel_segments(const struct model_spec *spec, uint32_t rank_count);
/* Where segment `segment` of `segment_count` begins in down_proj's K, at whole 32-blocks;
 * segment == segment_count: the end. */
uint32_t tensor_parallel_ffn_cut(const struct model_spec *spec, uint32_t segment_count,
                                 uint32_t segment);

struct tensor_parallel_share tensor_parallel_query_heads(const struct model_spec *spec,
                                                         uint32_t rank_count, uint32_t rank);
struct tensor_parallel_share tensor_parallel_kv_heads(const struct model_spec *spec,
                                                      uint32_t rank_count, uint32_t rank);
/* Columns of down_proj, which are rows of gate and up; may be empty in models of few columns. */
struct tensor_parallel_share tensor_parallel_ffn(const struct model_spec *spec, uint32_t rank_count,
                                                 uint32_t rank);
/* Ids of the vocabulary, in whole groups of `group` ids but for the last; may be empty. */
struct tensor_parallel_share tensor_parallel_vocabulary(const struct model_spec *spec,
                                                        uint32_t rank_count, uint32_t rank,
                                                        uint32_t group);

#endif
