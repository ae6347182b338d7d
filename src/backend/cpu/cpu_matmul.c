/* cpu_matmul - see cpu_matmul.h: tiles of rows and groups, segments and their tree; a body's sums
 * function does the arithmetic of one tile and segment.
 *
 * The tree over segments is walked as a binary counter: after segment s, as many pairs are joined
 * as s + 1 has trailing zeros, and what is left at the end is joined from the right.  That is the
 * tree of neighbours with an odd last one rising unchanged, and holds log2 planes, not S. */
#include "backend/cpu/cpu_matmul.h"

#include <string.h>

#include "backend/cpu/cpu_matmul_body.h"
#include "base/num.h"

/* Sums of a tile on the stack: 64 KiB.  More rows reuse a group's unpacked weights more often,
 * until their activations leave the L2 cache. */
#define TILE_LANES 1024u /* of 16 floats */
#define TILE_ROWS_MAX 240u
#define TILE_ROWS_STEP 24u /* a multiple of every body's register tile */

struct product {
    const struct cpu_matrix *matrix;
    const struct cpu_activations *activations;
    cpu_matmul_sums_fn sums;
    float *out;
    uint64_t plane, ld;
    bool is_apart; /* segments apart, not summed */
};

struct tile {
    uint32_t group, group_count;
    uint32_t row, row_count;
};

static cpu_matmul_sums_fn choose_pairs(enum cpu_body body) {
#if defined(__x86_64__)
    if (body == CPU_BODY_AVX512)
        return cpu_body_has_bf16() ? cpu_matmul_pairs_avx512bf16_sums
                                   : cpu_matmul_pairs_avx512_sums;
    if (body == CPU_BODY_AVX2) return cpu_matmul_pairs_avx2_sums;
#endif
    CHECK(body == CPU_BODY_SCALAR);
    return cpu_matmul_scalar_pairs;
}

static cpu_matmul_sums_fn choose_sums(enum cpu_body body, enum numerics numerics) {
    if (numerics == NUMERICS_BF16P) return choose_pairs(body);
#if defined(__x86_64__)
    if (body == CPU_BODY_AVX512)
        return cpu_body_has_vnni() ? cpu_matmul_avx512vnni_sums : cpu_matmul_avx512_sums;
    if (body == CPU_BODY_AVX2) return cpu_matmul_avx2_sums;
#endif
    CHECK(body == CPU_BODY_SCALAR);
    return cpu_matmul_scalar_sums;
}

static void write_tile(const struct product *product, const struct tile *tile, const float *sums,
                       float *out) {
    uint32_t n = tile->group * CPU_GROUP;
    uint64_t count = num_min((uint64_t) tile->group_count * CPU_GROUP, product->matrix->rows - n);
    for (uint32_t r = 0; r < tile->row_count; r++)
        memcpy(out + (tile->row + r) * product->ld + n,
               sums + (uint64_t) r * tile->group_count * CPU_GROUP, count * sizeof(float));
}

static void join(float *left, const float *right, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) left[i] += right[i];
}

static void run_tile(const struct product *product, const struct tile *tile, float *planes) {
    const struct cpu_matrix *matrix = product->matrix;
    uint64_t count = (uint64_t) tile->row_count * tile->group_count * CPU_GROUP;
    uint32_t live = 0;
    for (uint32_t s = 0; s < matrix->segment_count; s++) {
        uint32_t k_first = s == 0 ? 0 : matrix->segment_ends[s - 1];
        product->sums(matrix, product->activations, tile->group, tile->group_count, tile->row,
                      tile->row_count, k_first, matrix->segment_ends[s], planes + live * count);
        if (product->is_apart) {
            write_tile(product, tile, planes, product->out + s * product->plane);
            continue;
        }
        live++;
        for (uint32_t done = s + 1; done % 2 == 0; done /= 2, live--)
            join(planes + (live - 2) * count, planes + (live - 1) * count, count);
    }
    if (product->is_apart) return;
    for (; live > 1; live--) join(planes + (live - 2) * count, planes + (live - 1) * count, count);
    write_tile(product, tile, planes, product->out);
}

/* Planes of sums that live at once in the walk above. */
static uint32_t count_planes(const struct product *product) {
    if (product->is_apart) return 1;
    uint32_t most = 1;
    for (uint32_t s = 0; s < product->matrix->segment_count; s++) {
        uint32_t live = (uint32_t) __builtin_popcount(s) + 1;
        if (live > most) most = live;
    }
    return most;
}

static void run_product(const struct product *product, uint32_t first, uint32_t end) {
    _Alignas(64) float planes[TILE_LANES * CPU_GROUP];
    const struct cpu_matrix *matrix = product->matrix;
    uint32_t rows = product->activations->rows;
    CHECK(first <= end && end <= matrix->group_count);
    CHECK(product->activations->numerics == matrix->numerics);
    CHECK(product->activations->columns == matrix->columns);
    if (rows == 0 || first == end) return;
    /* Few rows: many groups in flight hide the latency of one accumulator each. */
    uint32_t tile_groups = rows <= 6 ? 8 : 4;
    uint32_t room = TILE_LANES / (count_planes(product) * tile_groups);
    uint32_t tile_rows = room > TILE_ROWS_MAX ? TILE_ROWS_MAX : room;
    if (tile_rows > TILE_ROWS_STEP) tile_rows -= tile_rows % TILE_ROWS_STEP;
    uint32_t tile_count = (uint32_t) num_div_up(rows, tile_rows);
    uint64_t even = num_round_up(num_div_up(rows, tile_count), TILE_ROWS_STEP);
    if (even < tile_rows) tile_rows = (uint32_t) even;
    struct tile tile;
    for (tile.row = 0; tile.row < rows; tile.row += tile_rows) {
        tile.row_count = (uint32_t) num_min(tile_rows, rows - tile.row);
        for (tile.group = first; tile.group < end; tile.group += tile_groups) {
            tile.group_count = (uint32_t) num_min(tile_groups, end - tile.group);
            run_tile(product, &tile, planes);
        }
    }
}

void cpu_matmul(enum cpu_body body, const struct cpu_matrix *matrix,
                const struct cpu_activations *activations, uint32_t first, uint32_t end, float *out,
                uint64_t ld) {
    const struct product product = {.matrix = matrix,
                                    .activations = activations,
                                    .sums = choose_sums(body, matrix->numerics),
                                    .out = out,
                                    .ld = ld};
    run_product(&product, first, end);
}

void cpu_matmul_segments(enum cpu_body body, const struct cpu_matrix *matrix,
                         const struct cpu_activations *activations, uint32_t first, uint32_t end,
                         float *out, uint64_t plane, uint64_t ld) {
    const struct product product = {.matrix = matrix,
                                    .activations = activations,
                                    .sums = choose_sums(body, matrix->numerics),
                                    .out = out,
                                    .plane = plane,
                                    .ld = ld,
                                    .is_apart = true};
    run_product(&product, first, end);
}
