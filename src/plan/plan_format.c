/* plan_format - see plan_format.h.
 *
 * As the formats store a matrix of `rows` outputs and `columns` inputs, and engines keep it:
 *   awq, gptq            4 or 8 bits, and for each group of a row a 16-bit scale and a zero as wide
 *                        as a weight; gptq besides a 32-bit group index for each column (and, with
 *                        desc_act, the order the kernels want)
 *   fp8, int8            8 bits and one f32 scale a row, or one for each 128 x 128 block; one scale
 *                        for all is less
 *   compressed-tensors   any of these, by its config_groups; symmetric ones have no zeros
 *   4-bit floats         a scale of 8 bits for each 16 (nvfp4) or 32 (mxfp4)
 *   bitsandbytes         4 bits and one f32 for each 64, or 8 bits and one f32 a row
 * Embeddings, head, norms and biases stay as they were. */
#include "plan/plan_format.h"

#include <string.h>
#include <strings.h>

#define ROW_SCALE_BYTES 4 /* f32 */
#define BLOCK_SIDE 128.0
#define GROUP_USUAL 128
#define INDEX_BYTES 8 /* the group of a column, and its place in their order */

struct layout {
    double bits;
    json_int_t group; /* weights of a scale; 0: a whole row */
    double scale_bits;
    bool has_zeros, has_index, is_fp8, is_block;
};

static json_int_t integer_of(const json_t *object, const char *key, json_int_t usual) {
    const json_t *value = json_object_get(object, key);
    return json_is_integer(value) ? json_integer_value(value) : usual;
}

static void set(const struct layout *layout, struct cuda_estimate_format *out) {
    struct cuda_estimate_format format = {.weight_bits = layout->bits, .is_fp8 = layout->is_fp8};
    double zeros = layout->has_zeros ? layout->bits : 0;
    if (layout->is_block) format.weight_bits += 32 / (BLOCK_SIDE * BLOCK_SIDE);
    else if (layout->group > 0)
        format.weight_bits += (layout->scale_bits + zeros) / (double) layout->group;
    else format.row_bytes = ROW_SCALE_BYTES;
    if (layout->has_index) format.column_bytes = INDEX_BYTES;
    *out = format;
}

/* config_groups: {"group_0": {"weights": {"num_bits": 4, "group_size": 128, ...}}} */
static bool of_groups(const json_t *quantization, struct layout *out) {
    const json_t *groups = json_object_get(quantization, "config_groups");
    const json_t *group = json_object_iter_value(json_object_iter((json_t *) groups));
    const json_t *weights = json_object_get(group, "weights");
    const char *type = json_string_value(json_object_get(weights, "type"));
    const char *strategy = json_string_value(json_object_get(weights, "strategy"));
    if (!json_is_object(weights)) return false;
    bool is_float = type && strcmp(type, "float") == 0;
    out->bits = (double) integer_of(weights, "num_bits", 8);
    out->group = integer_of(weights, "group_size", 0);
    out->has_zeros = json_is_false(json_object_get(weights, "symmetric"));
    out->is_fp8 = is_float && out->bits == 8;
    out->is_block = strategy && strcmp(strategy, "block") == 0;
    if (is_float && out->bits == 4) out->scale_bits = 8; /* nvfp4 */
    return true;
}

bool plan_format_of_config(const json_t *quantization, struct cuda_estimate_format *out) {
    const char *method = json_string_value(json_object_get(quantization, "quant_method"));
    const char *algorithm = json_string_value(json_object_get(quantization, "quant_algo"));
    struct layout layout = {.bits = 4, .scale_bits = 16};
    bool is_fp4 = algorithm && strcasestr(algorithm, "fp4");
    if (!method) method = algorithm ? "modelopt" : "";
    if (strcasecmp(method, "awq") == 0 || strcasecmp(method, "gptq") == 0) {
        layout.bits = (double) integer_of(quantization, "bits", 4);
        layout.group = integer_of(quantization, "group_size", GROUP_USUAL);
        layout.has_zeros = true;
        layout.has_index = strcasecmp(method, "gptq") == 0;
        if (layout.group <= 0) layout.group = GROUP_USUAL; /* one a row: less */
    } else if (strcasecmp(method, "compressed-tensors") == 0) {
        if (!of_groups(quantization, &layout)) return false;
    } else if (strcasecmp(method, "mxfp4") == 0 || is_fp4) {
        layout.group = is_fp4 ? 16 : 32;
        layout.scale_bits = 8;
    } else if (strcasecmp(method, "fp8") == 0 || strcasecmp(method, "fbgemm_fp8") == 0 ||
               strcasecmp(method, "modelopt") == 0) {
        const json_t *block = json_object_get(quantization, "weight_block_size");
        layout = (struct layout){.bits = 8, .is_fp8 = true, .is_block = json_is_array(block)};
    } else if (strcasecmp(method, "bitsandbytes") == 0) {
        bool is_four = json_is_true(json_object_get(quantization, "load_in_4bit"));
        layout =
            (struct layout){.bits = is_four ? 4 : 8, .group = is_four ? 64 : 0, .scale_bits = 32};
    } else {
        return false;
    }
    if (!(layout.bits >= 1 && layout.bits <= 16)) return false;
    set(&layout, out);
    return true;
}

void plan_format_add_scales(const char *format, struct cuda_estimate_format *out) {
    if (out->weight_bits == 8) out->row_bytes = ROW_SCALE_BYTES;
    if (strcmp(format, "gptq") == 0) out->column_bytes = INDEX_BYTES;
}
