/* sim_kv - see sim_kv.h.
 *
 * Reading all of a long sequence back at each token is most of the sim's cost, so the weights are
 * such that sums of them need additions alone: with a += x; b += a over x of indexes n-1 .. 0,
 * b is the sum of (index + 1) x.  Four slots are added at a time. */
#include "backend/sim/sim_kv.h"

#include <string.h>

/* The state of a streamed hash stands on the stack. */
#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

#include "base/alloc.h"
#include "base/num.h"

#define SLOT_BYTES 4u
#define LANES 4u /* slots of a vector */
#define STEP 2u  /* vectors at a time: the smallest block */
#define PREFETCH_BLOCKS 3u

typedef uint32_t lanes __attribute__((vector_size(16)));

struct sim_run {
    uint8_t *base; /* of block 1; others at sim_kv_block_bytes each */
};

/* Odd, so that no bit of a slot is lost. */
static const uint32_t lane_weights[LANES] = {0x9e3779b1u, 0x85ebca77u, 0xc2b2ae3du, 0x27d4eb2fu};

static struct sim_run *run_of(const struct sim_kv *kv, uint32_t part, uint32_t head,
                              uint32_t copy) {
    return &kv->runs[((uint64_t) part * kv->head_total + head) * kv->copies + copy];
}

static uint32_t *slots_of(const struct sim_kv *kv, const struct sim_run *run, uint32_t block) {
    CHECK(block >= 1 && block <= kv->block_count);
    return (uint32_t *) (void *) (run->base + (block - 1) * sim_kv_block_bytes(kv));
}

enum err sim_kv_init(struct sim_kv *kv, uint32_t head_total, uint32_t rank_count,
                     uint32_t block_size) {
    if (!head_total) head_total = 1;
    *kv = (struct sim_kv){.block_size = block_size,
                          .rank_count = rank_count,
                          .head_total = head_total,
                          .head_count = rank_count > head_total ? 1 : head_total / rank_count,
                          .copies = rank_count > head_total ? rank_count / head_total : 1};
    kv->runs = alloc_zero(2 * (uint64_t) head_total * kv->copies, sizeof *kv->runs);
    return kv->runs ? ERR_OK : ERR_MEMORY;
}

void sim_kv_release(struct sim_kv *kv) { alloc_free(kv->runs); }

static uint64_t run_bytes(const struct sim_kv *kv) {
    return (uint64_t) kv->block_size * SLOT_BYTES;
}

uint64_t sim_kv_block_bytes(const struct sim_kv *kv) { return 2 * kv->head_count * run_bytes(kv); }

static uint32_t head_first(const struct sim_kv *kv, uint32_t rank) {
    return rank / kv->copies * kv->head_count;
}

void sim_kv_place(struct sim_kv *kv, uint32_t rank, uint8_t *base) {
    for (uint32_t part = 0; part < 2; part++)
        for (uint32_t h = 0; h < kv->head_count; h++)
            *run_of(kv, part, head_first(kv, rank) + h, rank % kv->copies) =
                (struct sim_run){base + (part * kv->head_count + h) * run_bytes(kv)};
}

/* --- pieces and sums ------------------------------------------------------------------------ */

uint64_t sim_kv_add(uint64_t sum, uint64_t share) {
    uint64_t high = (sum >> 32) + (share >> 32);
    return high << 32 | (uint32_t) (sum + share);
}

uint64_t sim_kv_share(uint64_t key, uint32_t position) {
    uint32_t weight = (2 * (position / LANES) + 1) * lane_weights[position % LANES];
    uint32_t low = (uint32_t) key * weight, high = (uint32_t) (key >> 32) * weight;
    return (uint64_t) high << 32 | low;
}

void sim_kv_write(const struct sim_kv *kv, const uint32_t *blocks, uint32_t position,
                  uint64_t key) {
    const uint32_t block = blocks[position / kv->block_size], slot = position % kv->block_size;
    uint32_t rest[2] = {(uint32_t) key, (uint32_t) (key >> 32)};
    for (uint32_t head = kv->head_total; head-- > 0;) {
        uint64_t random = (key ^ head) * 0x9e3779b97f4a7c15u;
        random ^= random >> 29;
        const uint32_t drawn[2] = {(uint32_t) random, (uint32_t) (random >> 32)};
        for (uint32_t part = 0; part < 2; part++) {
            uint32_t piece = head ? drawn[part] : rest[part];
            rest[part] -= (2 * head + 1) * piece;
            for (uint32_t copy = 0; copy < kv->copies; copy++)
                slots_of(kv, run_of(kv, part, head, copy), block)[slot] = piece;
        }
    }
}

/* Blocks lie anywhere: without this each one costs a trip to memory. */
static void prefetch_block(const struct sim_kv *kv, uint32_t block) {
    uint64_t bytes = sim_kv_block_bytes(kv);
    for (uint32_t head = 0; head < kv->head_total; head += kv->head_count)
        for (uint32_t copy = 0; copy < kv->copies; copy++) {
            const struct sim_run *first = run_of(kv, 0, head, copy);
            for (uint64_t at = 0; at < bytes; at += 64)
                __builtin_prefetch(first->base + (block - 1) * bytes + at);
        }
}

/* Vector v from there, of which `left` slots are read, the others 0. */
static inline __attribute__((always_inline)) lanes load(const uint8_t *from, uint32_t v,
                                                        uint32_t left) {
    lanes value = {0};
    from += v * sizeof value;
    if (left >= LANES) memcpy(&value, from, sizeof value);
    else memcpy(&value, from, left * SLOT_BYTES);
    return value;
}

/* For each of a part's next STEP vectors, `at` bytes into its runs (whose heads end at run_end):
 * the sum of (2 head + 1) x piece.  count: the slots that are there, STEP x LANES unless the last;
 * it and copies are constants where speed matters. */
static inline __attribute__((always_inline)) void
sum_heads(const struct sim_run *run, const struct sim_run *run_end, uint64_t at,
          const uint32_t count, const uint32_t copies, lanes *out, lanes *differ) {
    lanes a[STEP] = {0}, b[STEP] = {0};
    while (run_end != run) {
        run_end -= copies;
        for (uint32_t v = 0; v < STEP; v++) {
            uint32_t left = count > v * LANES ? count - v * LANES : 0;
            lanes x = load(run_end->base + at, v, left);
            a[v] += x;
            b[v] += a[v];
            for (uint32_t copy = 1; copy < copies; copy++)
                *differ = *differ * 31 + (x ^ load(run_end[copy].base + at, v, left));
        }
    }
    for (uint32_t v = 0; v < STEP; v++) out[v] = 2 * b[v] - a[v];
}

/* One part of one block's slots [0, count), added to the sums. */
static void sum_block(const struct sim_kv *kv, uint32_t part, uint64_t at, uint32_t count,
                      lanes sums[2], lanes *differ) {
    const struct sim_run *run = run_of(kv, part, 0, 0), *end = run_of(kv, part + 1, 0, 0);
    lanes x[STEP], a = sums[0], b = sums[1];
    for (uint32_t slot = 0; slot < count; slot += STEP * LANES, at += STEP * LANES * SLOT_BYTES) {
        if (kv->copies == 1 && count - slot >= STEP * LANES)
            sum_heads(run, end, at, STEP * LANES, 1, x, differ);
        else
            sum_heads(run, end, at, (uint32_t) num_min(count - slot, STEP * LANES), kv->copies, x,
                      differ);
        for (uint32_t v = 0; v < STEP; v++) {
            a += x[v];
            b += a;
        }
    }
    sums[0] = a;
    sums[1] = b;
}

static uint32_t weigh_lanes(lanes a) {
    uint32_t sum = 0;
    for (uint32_t i = 0; i < LANES; i++) sum += a[i] * lane_weights[i];
    return sum;
}

uint64_t sim_kv_sum(const struct sim_kv *kv, const uint32_t *blocks, uint32_t block_count,
                    uint32_t position_count) {
    lanes parts[2][2] = {{{0}}}, differ = {0};
    const uint64_t block_bytes = sim_kv_block_bytes(kv);
    uint32_t vectors = 0;
    for (uint32_t first = 0, index = 0; first < position_count; first += kv->block_size, index++) {
        if (index + PREFETCH_BLOCKS < block_count)
            prefetch_block(kv, blocks[index + PREFETCH_BLOCKS]);
        CHECK(index < block_count && blocks[index] >= 1 && blocks[index] <= kv->block_count);
        uint64_t at = (blocks[index] - 1) * block_bytes;
        uint32_t count = (uint32_t) num_min(kv->block_size, position_count - first);
        for (uint32_t part = 0; part < 2; part++)
            sum_block(kv, part, at, count, parts[part], &differ);
        vectors += STEP * (uint32_t) num_div_up(count, STEP * LANES);
    }
    /* The second holds the sum of (vectors - index) x: turned into that of (2 index + 1) x. */
    uint64_t sums[2];
    for (uint32_t part = 0; part < 2; part++)
        sums[part] = weigh_lanes((2 * vectors + 1) * parts[part][0] - 2 * parts[part][1]);
    uint64_t sum = sums[1] << 32 | sums[0];
    return differ[0] | differ[1] | differ[2] | differ[3] ? ~sum * 0x9e3779b97f4a7c15u : sum;
}

/* --- the region ----------------------------------------------------------------------------- */

void sim_kv_layout(const struct sim_kv *kv, uint32_t rank, struct kv_layout *out) {
    const struct sim_run *first = run_of(kv, 0, head_first(kv, rank), rank % kv->copies);
    const uint64_t bytes = run_bytes(kv), block_bytes = sim_kv_block_bytes(kv);
    *out = (struct kv_layout){
        /* Block 0 lies elsewhere and is never sent. */
        .base = (uint8_t *) ((uintptr_t) first->base - block_bytes),
        .block_count = kv->block_count + 1,
        .layer_count = 1,
        .head_first = head_first(kv, rank),
        .head_count = kv->head_count,
        .head_total = kv->head_total,
        .block_stride = block_bytes,
        .layer_stride = block_bytes,
        .value_stride = bytes * kv->head_count,
        .head_stride = bytes,
        .head_bytes = bytes,
        .block_bytes = block_bytes,
    };
}

void sim_kv_copy(const struct sim_kv *kv, uint32_t from, uint32_t to, uint32_t slot_count) {
    CHECK(slot_count <= kv->block_size && from != to);
    for (uint64_t i = 0; i < 2 * (uint64_t) kv->head_total * kv->copies; i++)
        memcpy(slots_of(kv, &kv->runs[i], to), slots_of(kv, &kv->runs[i], from),
               slot_count * SLOT_BYTES);
}

uint64_t sim_kv_checksum(const struct sim_kv *kv, uint32_t rank, uint32_t block,
                         uint32_t slot_count) {
    CHECK(slot_count <= kv->block_size);
    XXH3_state_t state;
    XXH3_INITSTATE(&state);
    XXH3_64bits_reset(&state);
    for (uint32_t part = 0; part < 2; part++)
        for (uint32_t h = 0; h < kv->head_count; h++) {
            const struct sim_run *run =
                run_of(kv, part, head_first(kv, rank) + h, rank % kv->copies);
            XXH3_64bits_update(&state, slots_of(kv, run, block), slot_count * SLOT_BYTES);
        }
    return XXH3_64bits_digest(&state);
}
