/* model_rows - prints what the loader makes of a model, for model_files.py to compare.
 *
 * Standard output: one JSON line (the spec, rope's frequencies), then for each tensor a line
 * "ROLE LAYER ROWS COLUMNS TYPE" and its rows, dequantized, as raw f32.  An error is one line on
 * standard error and exit 1. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/model.h"

static void print_spec(const struct model *model) {
    const struct model_spec *spec = model_get_spec(model);
    printf("{\"name\":\"%s\",\"family\":%d,\"layers\":%u,\"hidden\":%u,\"ffn\":%u,\"heads\":%u,"
           "\"kv_heads\":%u,\"head_dim\":%u,\"vocab\":%u,\"context\":%u,\"window\":%u,"
           "\"epsilon\":%.9g,\"tied\":%d,\"qkv_bias\":%d,\"o_bias\":%d,\"mlp_bias\":%d,"
           "\"qk_norm\":%d,\"rope\":%d,\"weight_type\":\"%s\",\"segments\":%u,\"eos\":[",
           spec->name, spec->family, spec->layer_count, spec->hidden_size, spec->ffn_size,
           spec->head_count, spec->kv_head_count, spec->head_dim, spec->vocab_size,
           spec->context_tokens, spec->sliding_window, (double) spec->norm_epsilon, spec->is_tied,
           spec->has_qkv_bias, spec->has_o_bias, spec->has_mlp_bias, spec->has_qk_norm,
           spec->rope.type, tensor_type_name(spec->weight_type), spec->segment_count);
    for (uint32_t i = 0; i < spec->eos_count; i++) printf("%s%u", i ? "," : "", spec->eos_ids[i]);
    float scale, inv_freq[512];
    model_spec_rope(spec, inv_freq, &scale);
    printf("],\"rope_scale\":%.9g,\"inv_freq\":[", (double) scale);
    for (uint32_t i = 0; i < spec->head_dim / 2; i++)
        printf("%s%.9g", i ? "," : "", (double) inv_freq[i]);
    printf("],\"digest\":\"%016" PRIx64 "\",\"bytes\":%" PRIu64 "}\n", model_digest(model),
           model_weight_bytes(model));
}

static int print_tensor(const struct model *model, enum tensor_role role, uint32_t layer) {
    struct model_tensor tensor;
    if (!model_tensor_get(model, role, layer, &tensor)) return 0;
    void *scratch = aligned_alloc(64, (size_t) (tensor.row_bytes + 63) / 64 * 64);
    float *values = malloc(tensor.columns * sizeof *values);
    if (!scratch || !values) return 1;
    printf("%d %u %u %u %s\n", role, layer, tensor.rows, tensor.columns,
           tensor_type_name(tensor.type));
    for (uint32_t row = 0; row < tensor.rows; row++) {
        const void *bytes = model_tensor_row(model, role, layer, row, scratch);
        tensor_type_row_to_f32(tensor.type, bytes, tensor.columns, values);
        fwrite(values, sizeof *values, tensor.columns, stdout);
    }
    free(scratch);
    free(values);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    struct err_text text = {""};
    struct model *model = NULL;
    if (model_open(argv[1], &(struct model_open_options){0}, &text, &model)) {
        fprintf(stderr, "%s\n", text.text);
        return 1;
    }
    print_spec(model);
    int failed = 0;
    for (uint32_t layer = 0; layer < model_get_spec(model)->layer_count; layer++)
        for (int role = 0; role < ROLE_COUNT; role++) {
            if (layer && role <= ROLE_HEAD) continue;
            failed |= print_tensor(model, (enum tensor_role) role, layer);
            model_tensor_drop(model, (enum tensor_role) role, layer);
        }
    model_close(model);
    return failed;
}
