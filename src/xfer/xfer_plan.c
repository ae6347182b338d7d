/* xfer_plan - see xfer_plan.h. */
#include "xfer/xfer_plan.h"

#include <string.h>

/* The state of a streamed hash stands on the stack. */
#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "backend/tensor_parallel.h"
#include "base/alloc.h"
#include "base/num.h"

#define LINE_BYTES 64u
#define PAST_CACHE_BYTES 1024u /* shorter runs are half lines, mostly */

static bool is_degree(uint32_t head_total, uint32_t tp) {
    return tp > 0 && tp <= TENSOR_PARALLEL_MAX && (head_total % tp == 0 || tp % head_total == 0);
}

/* How many ranks hold each head. */
static uint32_t copies_of(uint32_t head_total, uint32_t tp) {
    return tp > head_total ? tp / head_total : 1;
}

/* [first, first + count): as tensor_parallel_kv_heads says, from the number of heads alone. */
static void heads_of(uint32_t head_total, uint32_t tp, uint32_t rank, uint32_t *first,
                     uint32_t *count) {
    *count = tp > head_total ? 1 : head_total / tp;
    *first = tp > head_total ? rank / (tp / head_total) : rank * *count;
}

/* The heads that rank p of P sends to rank d of D; count 0: none. */
static void shared_heads(uint32_t head_total, uint32_t p_tp, uint32_t p, uint32_t d_tp, uint32_t d,
                         uint32_t *first, uint32_t *count) {
    uint32_t p_first, p_count, d_first, d_count;
    heads_of(head_total, p_tp, p, &p_first, &p_count);
    heads_of(head_total, d_tp, d, &d_first, &d_count);
    uint32_t p_copies = copies_of(head_total, p_tp);
    *first = p_first > d_first ? p_first : d_first;
    uint32_t p_end = p_first + p_count, d_end = d_first + d_count;
    uint32_t end = p_end < d_end ? p_end : d_end;
    *count = end > *first ? end - *first : 0;
    /* Of several holders the one whose number among them is that of d among its own: so equal
     * degrees pair rank with rank, and no holder serves all. */
    uint32_t d_copy = d % copies_of(head_total, d_tp);
    if (p % p_copies != d_copy % p_copies) *count = 0;
}

static uint64_t run_offset(const struct kv_layout *layout, uint32_t layer, uint32_t value,
                           uint32_t head) {
    return layer * layout->layer_stride + value * layout->value_stride + head * layout->head_stride;
}

/* Writes the pair's runs (when `runs` is given) and returns their number. */
static uint32_t list_runs(const struct kv_layout *layout, const struct xfer_pair *pair,
                          struct xfer_run *runs) {
    uint32_t count = 0;
    uint64_t at = 0, end = UINT64_MAX;
    uint32_t head_first = pair->head_first - layout->head_first;
    for (uint32_t layer = 0; layer < layout->layer_count; layer++)
        for (uint32_t value = 0; value < 2; value++)
            for (uint32_t i = 0; i < pair->head_count; i++) {
                uint64_t offset = run_offset(layout, layer, value, head_first + i);
                if (offset != end) {
                    if (runs) runs[count] = (struct xfer_run){.at = at, .offset = offset};
                    count++;
                }
                if (runs) runs[count - 1].bytes += layout->head_bytes;
                at += layout->head_bytes;
                end = offset + layout->head_bytes;
            }
    return count;
}

static void check_layouts(const struct kv_layout *layouts, uint32_t own_tp) {
    for (uint32_t rank = 0; rank < own_tp; rank++) {
        const struct kv_layout *layout = &layouts[rank];
        uint32_t first, count;
        heads_of(layouts[0].head_total, own_tp, rank, &first, &count);
        CHECK(layout->head_total == layouts[0].head_total);
        CHECK(layout->head_first == first && layout->head_count == count);
        CHECK(layout->layer_count == layouts[0].layer_count && layout->layer_count > 0);
        CHECK(layout->head_bytes == layouts[0].head_bytes && layout->head_bytes > 0);
    }
}

/* Fills pairs, when there are any yet, and counts pairs and runs. */
static void list_pairs(const struct kv_layout *layouts, struct xfer_plan *plan) {
    bool is_source = plan->side == XFER_SOURCE, is_counting = !plan->pairs;
    uint32_t p_tp = is_source ? plan->own_tp : plan->peer_tp;
    uint32_t d_tp = is_source ? plan->peer_tp : plan->own_tp;
    plan->pair_count = plan->run_count = plan->part_count = 0;
    plan->piece_bytes = 0;
    for (uint32_t p = 0; p < p_tp; p++)
        for (uint32_t d = 0; d < d_tp; d++) {
            uint32_t own = is_source ? p : d;
            const struct kv_layout *layout = &layouts[own];
            struct xfer_pair pair = {.own_rank = own, .peer_rank = is_source ? d : p};
            shared_heads(layout->head_total, p_tp, p, d_tp, d, &pair.head_first, &pair.head_count);
            if (!pair.head_count) continue;
            uint64_t run_bytes;
            CHECK(num_mul(2ull * layout->layer_count * pair.head_count, layout->head_bytes,
                          &run_bytes));
            pair.bytes = run_bytes;
            pair.run_first = plan->run_count;
            pair.run_count =
                list_runs(layout, &pair, is_counting ? NULL : plan->runs + plan->run_count);
            pair.part_first = plan->part_count;
            pair.part_count = (uint32_t) num_div_up(pair.bytes, XFER_PART_BYTES);
            plan->run_count += pair.run_count;
            plan->part_count += pair.part_count;
            plan->piece_bytes += pair.bytes;
            if (!is_counting) plan->pairs[plan->pair_count] = pair;
            plan->pair_count++;
        }
}

enum err xfer_plan_create(const struct kv_layout *layouts, uint32_t own_tp, enum xfer_side side,
                          uint32_t peer_tp, struct xfer_plan **out) {
    CHECK(is_degree(layouts[0].head_total, own_tp));
    check_layouts(layouts, own_tp);
    if (!is_degree(layouts[0].head_total, peer_tp)) return ERR_UNSUPPORTED;
    struct xfer_plan *plan = alloc_zero(1, sizeof *plan);
    if (!plan) return ERR_MEMORY;
    plan->side = side;
    plan->own_tp = own_tp;
    plan->peer_tp = peer_tp;
    list_pairs(layouts, plan);
    struct xfer_pair *pairs = alloc_zero(plan->pair_count, sizeof *pairs);
    plan->runs = alloc_zero(plan->run_count, sizeof *plan->runs);
    if (!pairs || !plan->runs) {
        alloc_free(pairs);
        xfer_plan_destroy(plan);
        return ERR_MEMORY;
    }
    plan->pairs = pairs;
    list_pairs(layouts, plan);
    *out = plan;
    return ERR_OK;
}

void xfer_plan_destroy(struct xfer_plan *plan) {
    if (!plan) return;
    alloc_free(plan->pairs);
    alloc_free(plan->runs);
    alloc_free(plan);
}

struct xfer_part xfer_plan_part(const struct xfer_plan *plan, uint32_t part) {
    CHECK(part < plan->part_count);
    uint32_t low = 0, high = plan->pair_count; /* the pair is in [low, high) */
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (plan->pairs[middle].part_first <= part) low = middle;
        else high = middle;
    }
    const struct xfer_pair *pair = &plan->pairs[low];
    uint64_t at = (uint64_t) (part - pair->part_first) * XFER_PART_BYTES;
    return (struct xfer_part){pair, at, num_min(XFER_PART_BYTES, pair->bytes - at)};
}

/* The run of the pair that holds its byte `at`. */
static const struct xfer_run *run_at(const struct xfer_plan *plan, const struct xfer_pair *pair,
                                     uint64_t at) {
    const struct xfer_run *runs = plan->runs + pair->run_first;
    uint32_t low = 0, high = pair->run_count;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (runs[middle].at <= at) low = middle;
        else high = middle;
    }
    return &runs[low];
}

static uint8_t *block_start(const struct kv_layout *layouts, const struct xfer_pair *pair,
                            uint32_t block) {
    const struct kv_layout *layout = &layouts[pair->own_rank];
    CHECK(block > 0 && block < layout->block_count);
    return layout->base + block * layout->block_stride;
}

uint8_t *xfer_plan_contiguous(const struct xfer_plan *plan, const struct kv_layout *layouts,
                              const struct xfer_pair *pair, uint32_t block, uint64_t at,
                              uint64_t bytes) {
    CHECK(at <= pair->bytes && bytes <= pair->bytes - at);
    const struct xfer_run *run = run_at(plan, pair, at);
    if (at + bytes > run->at + run->bytes) return NULL;
    return block_start(layouts, pair, block) + run->offset + (at - run->at);
}

/* For what another core reads next, or none soon.  An ordinary store first reads the line that it
 * is about to fill, and leaves it in this core's own cache, from where another core gets it slowly.
 * Whole lines are stored past the cache.  Measured (2-core Zen 3 guest): copies from core to core
 * through a ring, in and out, 8 to 10 GB/s for 5 to 6; out of it alone, one core, 20 for 10. */
static void copy_past_cache(uint8_t *to, const uint8_t *from, uint64_t bytes) {
#ifdef __SSE2__
    uint64_t head = num_min(-(uintptr_t) to % LINE_BYTES, bytes);
    memcpy(to, from, head);
    to += head;
    from += head;
    bytes -= head;
    for (; bytes >= LINE_BYTES; bytes -= LINE_BYTES) {
        const __m128i *source = (const __m128i *) (const void *) from;
        __m128i *target = (__m128i *) (void *) to;
        __m128i a = _mm_loadu_si128(source), b = _mm_loadu_si128(source + 1);
        __m128i c = _mm_loadu_si128(source + 2), d = _mm_loadu_si128(source + 3);
        _mm_stream_si128(target, a);
        _mm_stream_si128(target + 1, b);
        _mm_stream_si128(target + 2, c);
        _mm_stream_si128(target + 3, d);
        to += LINE_BYTES;
        from += LINE_BYTES;
    }
    _mm_sfence(); /* before anyone is told */
#endif
    memcpy(to, from, bytes);
}

static void copy_run(uint8_t *to, const uint8_t *from, uint64_t bytes) {
    if (bytes >= PAST_CACHE_BYTES) copy_past_cache(to, from, bytes);
    else memcpy(to, from, bytes);
}

void xfer_plan_gather(const struct xfer_plan *plan, const struct kv_layout *layouts,
                      const struct xfer_pair *pair, uint32_t block, uint64_t at, uint64_t bytes,
                      uint8_t *to) {
    CHECK(at <= pair->bytes && bytes <= pair->bytes - at);
    const uint8_t *start = block_start(layouts, pair, block);
    for (const struct xfer_run *run = run_at(plan, pair, at); bytes > 0; run++) {
        uint64_t skipped = at - run->at, share = num_min(bytes, run->bytes - skipped);
        copy_run(to, start + run->offset + skipped, share);
        to += share;
        at += share;
        bytes -= share;
    }
}

void xfer_plan_scatter(const struct xfer_plan *plan, const struct kv_layout *layouts,
                       const struct xfer_pair *pair, uint32_t block, uint64_t at, uint64_t bytes,
                       const uint8_t *from) {
    CHECK(at <= pair->bytes && bytes <= pair->bytes - at);
    uint8_t *start = block_start(layouts, pair, block);
    for (const struct xfer_run *run = run_at(plan, pair, at); bytes > 0; run++) {
        uint64_t skipped = at - run->at, share = num_min(bytes, run->bytes - skipped);
        copy_run(start + run->offset + skipped, from, share);
        from += share;
        at += share;
        bytes -= share;
    }
}

void xfer_plan_copy(const struct xfer_plan *source, const struct kv_layout *source_layouts,
                    uint32_t source_block, const struct xfer_plan *target,
                    const struct kv_layout *target_layouts, uint32_t target_block, uint32_t pair) {
    const struct xfer_pair *from = &source->pairs[pair];
    const struct xfer_pair *to = &target->pairs[pair];
    CHECK(source->pair_count == target->pair_count && from->bytes == to->bytes);
    CHECK(from->own_rank == to->peer_rank && from->peer_rank == to->own_rank);
    const uint8_t *start = block_start(source_layouts, from, source_block);
    const struct xfer_run *runs = source->runs + from->run_first;
    for (uint32_t i = 0; i < from->run_count; i++)
        xfer_plan_scatter(target, target_layouts, to, target_block, runs[i].at, runs[i].bytes,
                          start + runs[i].offset);
}

uint64_t xfer_plan_hash_part(const struct xfer_plan *plan, const struct kv_layout *layouts,
                             const struct xfer_pair *pair, uint32_t block, uint64_t at,
                             uint64_t bytes) {
    CHECK(at <= pair->bytes && bytes <= pair->bytes - at);
    const uint8_t *start = block_start(layouts, pair, block);
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    for (const struct xfer_run *run = run_at(plan, pair, at); bytes > 0; run++) {
        uint64_t skipped = at - run->at, share = num_min(bytes, run->bytes - skipped);
        XXH3_64bits_update(&state, start + run->offset + skipped, share);
        at += share;
        bytes -= share;
    }
    return XXH3_64bits_digest(&state);
}

uint64_t xfer_plan_hash(const struct xfer_plan *plan, const struct kv_layout *layouts,
                        uint32_t block) {
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    for (uint32_t i = 0; i < plan->pair_count; i++) {
        const struct xfer_pair *pair = &plan->pairs[i];
        const uint8_t *start = block_start(layouts, pair, block);
        for (uint32_t k = 0; k < pair->run_count; k++) {
            const struct xfer_run *run = &plan->runs[pair->run_first + k];
            XXH3_64bits_update(&state, start + run->offset, run->bytes);
        }
    }
    return XXH3_64bits_digest(&state);
}
