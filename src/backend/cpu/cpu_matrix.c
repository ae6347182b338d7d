/* cpu_matrix - packing a matrix into groups of 16 outputs, and reading a row back.
 *
 * The layouts are told in cpu_matmul_body.h.  Packing goes lane by lane, so it needs one stored
 * row at a time.  Every value survives: scales stay f16 where the format has them; K-quants get
 * d x sub-scale and -(dmin x sub-min) as f32, both exact (11 + 6 bits). */
#include <string.h>

#include "backend/cpu/cpu_matmul.h"
#include "backend/cpu/cpu_matmul_body.h"
#include "base/num.h"

/* One stored 32-block, in the words of the format. */
struct block {
    uint8_t quants[CPU_BLOCK]; /* as stored, before the offset; Q8_0: int8 */
    uint16_t scale, min;       /* f16 */
    float wide_scale, wide_min;
    int8_t subs[2];
};

static uint16_t read_u16(const uint8_t *at) { return (uint16_t) (at[0] | at[1] << 8); }

static uint32_t read_u32(const uint8_t *at) {
    return (uint32_t) read_u16(at) | (uint32_t) read_u16(at + 2) << 16;
}

static void read_nibbles(const uint8_t *at, uint32_t high, struct block *out) {
    for (unsigned j = 0; j < 16; j++) {
        out->quants[j] = (uint8_t) ((at[j] & 15u) | (high >> j & 1u) << 4);
        out->quants[j + 16] = (uint8_t) (at[j] >> 4 | (high >> (j + 16) & 1u) << 4);
    }
}

/* Sub-block `sub` of a K-quant's 12 packed bytes: 6 bits of scale and of min each. */
static void read_sub_scales(const uint8_t *at, unsigned sub, uint32_t *scale, uint32_t *min) {
    if (sub < 4) {
        *scale = at[sub] & 63u;
        *min = at[sub + 4] & 63u;
        return;
    }
    *scale = (at[sub + 4] & 15u) | (uint32_t) (at[sub - 4] >> 6) << 4;
    *min = (uint32_t) (at[sub + 4] >> 4) | (uint32_t) (at[sub] >> 6) << 4;
}

static void read_k_block(enum tensor_type type, const uint8_t *at, unsigned sub,
                         struct block *out) {
    uint32_t scale, min;
    read_sub_scales(at + 4, sub, &scale, &min);
    out->wide_scale = cpu_half_to_f32(read_u16(at)) * (float) scale;
    out->wide_min = -(cpu_half_to_f32(read_u16(at + 2)) * (float) min);
    const uint8_t *high = at + 16;
    const uint8_t *low = (type == TENSOR_Q5_K ? at + 48 : at + 16) + (sub / 2) * 32;
    for (unsigned j = 0; j < CPU_BLOCK; j++) {
        unsigned quant = sub % 2 == 0 ? low[j] & 15u : (unsigned) low[j] >> 4;
        if (type == TENSOR_Q5_K) quant |= (high[j] >> sub & 1u) << 4;
        out->quants[j] = (uint8_t) quant;
    }
}

static void read_q6_block(const uint8_t *at, unsigned sub, struct block *out) {
    unsigned half = sub / 4, quarter = sub % 4;
    const uint8_t *low = at + half * 64 + (quarter % 2) * 32;
    const uint8_t *high = at + 128 + half * 32;
    for (unsigned j = 0; j < CPU_BLOCK; j++) {
        unsigned quant = quarter < 2 ? low[j] & 15u : (unsigned) low[j] >> 4;
        out->quants[j] = (uint8_t) (quant | (high[j] >> (2 * quarter) & 3u) << 4);
    }
    memcpy(out->subs, at + 192 + half * 8 + quarter * 2, 2);
    out->scale = read_u16(at + 208);
}

/* Block `index` (of 32) of a stored row. */
static void read_block(enum tensor_type type, const uint8_t *row, uint32_t index,
                       struct block *out) {
    uint32_t width = tensor_type_block(type);
    const uint8_t *at =
        row + tensor_type_bytes(type, width) * (uint64_t) (index / (width / CPU_BLOCK));
    out->scale = read_u16(at);
    switch (type) {
    case TENSOR_Q8_0: memcpy(out->quants, at + 2, CPU_BLOCK); break;
    case TENSOR_Q4_0: read_nibbles(at + 2, 0, out); break;
    case TENSOR_Q4_1:
        out->min = read_u16(at + 2);
        read_nibbles(at + 4, 0, out);
        break;
    case TENSOR_Q5_0: read_nibbles(at + 6, read_u32(at + 2), out); break;
    case TENSOR_Q5_1:
        out->min = read_u16(at + 2);
        read_nibbles(at + 8, read_u32(at + 4), out);
        break;
    case TENSOR_Q4_K:
    case TENSOR_Q5_K: read_k_block(type, at, index % 8, out); break;
    case TENSOR_Q6_K: read_q6_block(at, index % 8, out); break;
    default: CHECK(false); /* not a quantized type */
    }
}

static void write_block(enum tensor_type type, const struct block *block, uint32_t lane,
                        uint8_t *out) {
    const struct cpu_block_layout layout = cpu_block_layout(type);
    if (layout.is_wide) {
        memcpy(out + 4 * lane, &block->wide_scale, 4);
        memcpy(out + layout.mins + 4 * lane, &block->wide_min, 4);
    } else {
        memcpy(out + 2 * lane, &block->scale, 2);
        if (layout.mins != 0) memcpy(out + layout.mins + 2 * lane, &block->min, 2);
    }
    if (layout.subs != 0)
        for (unsigned half = 0; half < 2; half++)
            out[layout.subs + 16 * half + lane] = (uint8_t) block->subs[half];
    uint8_t *quants = out + layout.quants + 4 * lane;
    for (unsigned k = 0; k < CPU_BLOCK; k++) {
        unsigned chunk = k / 4, j = k % 4, quant = block->quants[k];
        if (layout.bits == 8) {
            quants[64 * chunk + j] = (uint8_t) quant;
            continue;
        }
        quants[64 * (chunk % 4) + j] |= (uint8_t) ((quant & 15u) << (chunk < 4 ? 0 : 4));
        uint8_t *high = out + layout.high + 4 * lane + j;
        if (layout.bits == 5) *high |= (uint8_t) ((quant >> 4) << chunk);
        if (layout.bits == 6) high[chunk / 4 * 64] |= (uint8_t) ((quant >> 4) << (2 * (chunk % 4)));
    }
}

/* Q4_1, Q4_0 and Q8_0 lie in the file as chunks of 4 bytes already: most of a model is these, and
 * packing them is most of the time to start. */
static void copy_block(const struct cpu_block_layout *layout, const uint8_t *at, uint32_t lane,
                       uint8_t *out) {
    memcpy(out + 2 * lane, at, 2);
    at += 2;
    if (layout->mins != 0) {
        memcpy(out + layout->mins + 2 * lane, at, 2);
        at += 2;
    }
    uint8_t *quants = out + layout->quants + 4 * lane;
    for (unsigned chunk = 0; chunk < layout->bits; chunk++)
        memcpy(quants + 64 * chunk, at + 4 * chunk, 4);
}

static void set_quantized_lane(const struct cpu_matrix *matrix, uint32_t lane, const uint8_t *row,
                               uint8_t *group) {
    enum tensor_type type = matrix->type;
    const struct cpu_block_layout layout = cpu_block_layout(type);
    uint64_t stored_bytes = tensor_type_bytes(type, tensor_type_block(type));
    bool is_copied = type == TENSOR_Q4_1 || type == TENSOR_Q4_0 || type == TENSOR_Q8_0;
    const uint32_t first = matrix->column_first / CPU_BLOCK;
    if (is_copied) row += first * stored_bytes;
    for (uint32_t b = 0; b < matrix->columns / CPU_BLOCK; b++) {
        uint8_t *out = group + (uint64_t) b * layout.bytes;
        if (is_copied) {
            copy_block(&layout, row + b * stored_bytes, lane, out);
            continue;
        }
        struct block block = {0};
        read_block(type, row, first + b, &block);
        write_block(type, &block, lane, out);
    }
}

/* f32a: 16-bit floats stay as they are, all else is widened to f32. */
static bool is_half(enum tensor_type type) { return type == TENSOR_F16 || type == TENSOR_BF16; }

static void set_float_lane(const struct cpu_matrix *matrix, uint32_t lane, const uint8_t *row,
                           uint8_t *group) {
    uint32_t columns = matrix->columns, first = matrix->column_first;
    if (is_half(matrix->type)) row += 2 * (uint64_t) first;
    if (matrix->type == TENSOR_F16) {
        for (uint32_t k = 0; k < columns; k++)
            memcpy(group + 2 * ((uint64_t) k * CPU_GROUP + lane), row + 2 * (uint64_t) k, 2);
        return;
    }
    if (matrix->type == TENSOR_BF16) {
        for (uint32_t k = 0; k < columns; k++)
            memcpy(group + 4 * ((uint64_t) (k / 2) * CPU_GROUP + lane) + 2 * (k % 2),
                   row + 2 * (uint64_t) k, 2);
        return;
    }
    float values[256]; /* a whole block of any type */
    const uint32_t step = ARRAY_COUNT(values), block = tensor_type_block(matrix->type);
    const uint32_t end = first + columns;
    for (uint32_t at = first - first % block; at < end; at += step) { /* stored columns */
        uint32_t count = (uint32_t) num_min(step, num_round_up(end, block) - at);
        tensor_type_row_to_f32(matrix->type, row + tensor_type_bytes(matrix->type, at), count,
                               values);
        for (uint32_t i = 0; i < count; i++)
            if (at + i >= first && at + i < end)
                memcpy(group + 4 * ((uint64_t) (at + i - first) * CPU_GROUP + lane), &values[i], 4);
    }
}

void cpu_matrix_set_lane(const struct cpu_matrix *matrix, uint32_t lane, const void *row,
                         uint8_t *group) {
    DCHECK(lane < CPU_GROUP);
    if (matrix->numerics == NUMERICS_Q8A32) set_quantized_lane(matrix, lane, row, group);
    else set_float_lane(matrix, lane, row, group);
}

enum err cpu_matrix_init(struct cpu_matrix *matrix, enum numerics numerics, enum tensor_type type,
                         uint32_t rows, uint32_t columns, const uint32_t *segment_ends,
                         uint32_t segment_count, struct err_text *text) {
    CHECK(rows > 0 && columns > 0);
    return cpu_matrix_init_slice(matrix, numerics, type, rows, columns, 0, columns, segment_ends,
                                 segment_count, text);
}

enum err cpu_matrix_init_slice(struct cpu_matrix *matrix, enum numerics numerics,
                               enum tensor_type type, uint32_t rows, uint32_t columns,
                               uint32_t column_first, uint32_t stored_columns,
                               const uint32_t *segment_ends, uint32_t segment_count,
                               struct err_text *text) {
    CHECK(numerics != NUMERICS_AUTO && column_first + columns <= stored_columns);
    CHECK(segment_ends == NULL || (segment_count >= 1 && segment_count <= CPU_SEGMENTS_MAX));
    bool is_quantized = tensor_type_is_quantized(type);
    if ((unsigned) type >= TENSOR_TYPE_COUNT || (numerics == NUMERICS_BF16P && is_quantized))
        return err_set(text, ERR_UNSUPPORTED, "the cpu backend has no %s product of %s weights",
                       numerics_name(numerics), tensor_type_name(type));
    struct cpu_matrix made = {.numerics = numerics,
                              .type = type,
                              .rows = rows,
                              .columns = columns,
                              .column_first = column_first};
    bool is_paired = numerics == NUMERICS_BF16P && type == TENSOR_BF16;
    if (!is_quantized && !is_paired) made.numerics = NUMERICS_F32A;
    if (stored_columns % tensor_type_block(type) != 0)
        return err_set(text, ERR_FORMAT, "rows of %u weights are not whole blocks of %s (%u)",
                       stored_columns, tensor_type_name(type), tensor_type_block(type));
    /* BF16 pairs k and k + 1. */
    uint32_t step = made.numerics == NUMERICS_Q8A32 ? CPU_BLOCK : type == TENSOR_BF16 ? 2 : 1;
    bool is_at_end = column_first + columns == stored_columns;
    if (column_first % step || (!is_at_end && columns % step))
        return err_set(text, ERR_FORMAT,
                       "a slice of %s weights is columns %u to %u, which are no multiples of %u",
                       tensor_type_name(type), column_first, column_first + columns, step);
    made.segment_count = segment_ends == NULL ? 1 : segment_count;
    made.segment_ends[0] = columns;
    for (uint32_t i = 0, start = 0; segment_ends != NULL && i < segment_count; i++) {
        uint32_t end = segment_ends[i];
        bool is_last = i + 1 == segment_count;
        CHECK(end >= start && (is_last ? end == columns : end <= columns));
        if (end != columns && end % step != 0)
            return err_set(text, ERR_FORMAT,
                           "a segment of %s weights ends at %u, which is no multiple of %u",
                           tensor_type_name(type), end, step);
        made.segment_ends[i] = start = end;
    }
    made.group_count = (uint32_t) num_div_up(rows, CPU_GROUP);
    uint64_t bytes;
    if (made.numerics == NUMERICS_Q8A32)
        bytes = (uint64_t) (columns / CPU_BLOCK) * cpu_block_layout(type).bytes;
    else if (is_half(type)) bytes = num_round_up(columns, 2) * CPU_GROUP * 2;
    else bytes = (uint64_t) columns * CPU_GROUP * 4;
    made.group_bytes = num_round_up(bytes, 64);
    *matrix = made;
    return ERR_OK;
}

uint64_t cpu_matrix_bytes(const struct cpu_matrix *matrix) {
    return matrix->group_count * matrix->group_bytes;
}

/* The packed block's weights of one lane, by the format's definition.  Each formula rounds once
 * (the products are exact in f32), so it equals tensor_type_row_to_f32 to the bit. */
static void lane_to_f32(enum tensor_type type, const uint8_t *block, uint32_t lane, float *out) {
    const struct cpu_block_layout layout = cpu_block_layout(type);
    float scale, min = 0;
    if (layout.is_wide) {
        memcpy(&scale, block + 4 * lane, 4);
        memcpy(&min, block + layout.mins + 4 * lane, 4);
    } else {
        scale = cpu_half_to_f32(read_u16(block + 2 * lane));
        if (layout.mins != 0) min = cpu_half_to_f32(read_u16(block + layout.mins + 2 * lane));
    }
    for (unsigned k = 0; k < CPU_BLOCK; k++) {
        unsigned chunk = k / 4, byte = 4 * lane + k % 4;
        if (layout.bits == 8) {
            out[k] = scale * (float) (int8_t) block[layout.quants + 64 * chunk + byte];
            continue;
        }
        unsigned nibbles = block[layout.quants + 64 * (chunk % 4) + byte];
        int quant = (int) (chunk < 4 ? nibbles & 15u : nibbles >> 4);
        const uint8_t *high = block + layout.high + byte;
        if (layout.bits == 5) quant |= (high[0] >> chunk & 1) << 4;
        if (layout.bits == 6) quant |= (high[chunk / 4 * 64] >> (2 * (chunk % 4)) & 3) << 4;
        if (layout.has_offset) quant -= 1 << layout.offset_shift;
        if (layout.subs != 0) quant *= (int8_t) block[layout.subs + 16 * (k / 16) + lane];
        out[k] = layout.mins != 0 ? scale * (float) quant + min : scale * (float) quant;
    }
}

void cpu_matrix_row_to_f32(const struct cpu_matrix *matrix, uint32_t n, float *out) {
    CHECK(n < matrix->rows);
    const uint8_t *group = matrix->data + n / CPU_GROUP * matrix->group_bytes;
    uint32_t lane = n % CPU_GROUP, columns = matrix->columns;
    if (matrix->numerics == NUMERICS_Q8A32) {
        uint32_t block_bytes = cpu_block_layout(matrix->type).bytes;
        for (uint32_t b = 0; b < columns / CPU_BLOCK; b++)
            lane_to_f32(matrix->type, group + (uint64_t) b * block_bytes, lane,
                        out + (uint64_t) b * CPU_BLOCK);
        return;
    }
    for (uint32_t k = 0; k < columns; k++) {
        uint64_t at = (uint64_t) k * CPU_GROUP + lane;
        if (matrix->type == TENSOR_F16) {
            out[k] = cpu_half_to_f32(read_u16(group + 2 * at));
        } else if (matrix->type == TENSOR_BF16) {
            at = 4 * ((uint64_t) (k / 2) * CPU_GROUP + lane) + 2 * (k % 2);
            uint32_t bits = (uint32_t) read_u16(group + at) << 16;
            memcpy(&out[k], &bits, 4);
        } else {
            memcpy(&out[k], group + 4 * at, 4);
        }
    }
}
