/* cpu_matrix_pack - from a model's rows into groups. */
#include <string.h>

#include "backend/cpu/cpu_matmul.h"
#include "backend/cpu/cpu_matmul_body.h"
#include "base/num.h"

void cpu_matrix_pack(const struct cpu_matrix *matrix, const struct model *model,
                     enum tensor_role role, uint32_t layer, uint32_t row_first, uint32_t first,
                     uint32_t end, uint8_t *scratch, uint8_t *data) {
    CHECK(first <= end && end <= matrix->group_count);
    for (uint32_t group = first; group < end; group++) {
        uint8_t *out = data + group * matrix->group_bytes;
        memset(out, 0, matrix->group_bytes);
        uint32_t n = group * CPU_GROUP;
        uint32_t lane_count = (uint32_t) num_min(CPU_GROUP, matrix->rows - n);
        for (uint32_t lane = 0; lane < lane_count; lane++)
            cpu_matrix_set_lane(matrix, lane,
                                model_tensor_row(model, role, layer, row_first + n + lane, scratch),
                                out);
    }
}
