/* tensor_parallel - see tensor_parallel.h. */
#include "backend/tensor_parallel.h"

#include <stdio.h>

#include "base/num.h"

#define FFN_BLOCK 32u /* numerics.md 3: down_proj is cut at whole blocks of 32 */

bool tensor_parallel_is_legal(const struct model_spec *spec, uint32_t rank_count) {
    if (rank_count == 1) return true;
    if (rank_count < 1 || rank_count > TENSOR_PARALLEL_MAX) return false;
    uint32_t heads = spec->head_count, kv_heads = spec->kv_head_count;
    if (!heads || !kv_heads || heads % rank_count) return false;
    return kv_heads % rank_count == 0 || rank_count % kv_heads == 0;
}

enum err tensor_parallel_check(const struct model_spec *spec, uint32_t rank_count,
                               struct err_text *text) {
    if (tensor_parallel_is_legal(spec, rank_count)) return ERR_OK;
    char legal[256] = "1";
    size_t length = 1;
    for (uint32_t n = 2; n <= TENSOR_PARALLEL_MAX; n++)
        if (tensor_parallel_is_legal(spec, n) && length + 8 < sizeof legal)
            length += (size_t) snprintf(legal + length, sizeof legal - length, ", %u", n);
    return err_set(text, ERR_USAGE,
                   "tensor-parallel-size is %u: %u query heads and %u KV heads can be cut for %s "
                   "(it must divide the query heads, and divide the KV heads or be a multiple of "
                   "them)",
                   rank_count, spec->head_count, spec->kv_head_count, legal);
}

bool tensor_parallel_is_exact(const struct model_spec *spec, uint32_t rank_count) {
    return rank_count == 1 ||
           (tensor_parallel_is_legal(spec, rank_count) && spec->segment_count % rank_count == 0);
}

uint32_t tensor_parallel_segments(const struct model_spec *spec, uint32_t rank_count) {
    return spec->segment_count % rank_count == 0 ? spec->segment_count : rank_count;
}

uint32_t tensor_parallel_ffn_cut(const struct model_spec *spec, uint32_t segment_count,
                                 uint32_t segment) {
    if (segment >= segment_count) return spec->ffn_size;
    uint64_t blocks = spec->ffn_size / FFN_BLOCK;
    return (uint32_t) (segment * blocks / segment_count) * FFN_BLOCK;
}

struct tensor_parallel_share tensor_parallel_query_heads(const struct model_spec *spec,
                                                         uint32_t rank_count, uint32_t rank) {
    uint32_t count = spec->head_count / rank_count;
    return (struct tensor_parallel_share){rank * count, (rank + 1) * count};
}

struct tensor_parallel_share tensor_parallel_kv_heads(const struct model_spec *spec,
                                                      uint32_t rank_count, uint32_t rank) {
    uint32_t kv_heads = spec->kv_head_count;
    if (rank_count > 1 && rank_count > kv_heads) {
        uint32_t head = rank / (rank_count / kv_heads);
        return (struct tensor_parallel_share){head, head + 1};
    }
    uint32_t count = kv_heads / rank_count;
    return (struct tensor_parallel_share){rank * count, (rank + 1) * count};
}

struct tensor_parallel_share tensor_parallel_ffn(const struct model_spec *spec, uint32_t rank_count,
                                                 uint32_t rank) {
    uint32_t segments = tensor_parallel_segments(spec, rank_count), each = segments / rank_count;
    return (struct tensor_parallel_share){
        tensor_parallel_ffn_cut(spec, segments, rank * each),
        tensor_parallel_ffn_cut(spec, segments, (rank + 1) * each)};
}

struct tensor_parallel_share tensor_parallel_vocabulary(const struct model_spec *spec,
                                                        uint32_t rank_count, uint32_t rank,
                                                        uint32_t group) {
    uint64_t groups = num_div_up(spec->vocab_size, group);
    return (struct tensor_parallel_share){
        (uint32_t) num_min(rank * groups / rank_count * group, spec->vocab_size),
        (uint32_t) num_min((rank + 1) * groups / rank_count * group, spec->vocab_size)};
}
