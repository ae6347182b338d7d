/* A GGUF file from anywhere: it is refused with a sentence, or its spec, rows, texts and keys are
 * read without a step outside its bytes. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "model/model_gguf.h"
#include "model/model_index.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static volatile uint32_t sink; /* keeps the reads */

static void touch_keys(const struct gguf *gguf) {
    for (uint32_t i = 0; i < gguf->key_count; i++) {
        const struct gguf_key *key = &gguf->keys[i];
        char text[64];
        gguf_describe(key, text, sizeof text);
        sink += (uint32_t) strlen(text);
        if (key->type != GGUF_ARRAY) continue;
        uint64_t at = 0;
        for (uint64_t j = 0; j < key->count && j < 1000; j++) {
            if (key->element_type == GGUF_STRING) {
                const char *string;
                size_t length;
                gguf_array_string(key, &at, &string, &length);
                if (length) sink += (uint8_t) string[length - 1];
            } else {
                sink += gguf_array_number(key, j) > 0;
            }
        }
    }
}

static void touch_rows(const struct model *model) {
    uint32_t layers = model->spec.layer_count;
    for (uint32_t layer = 0; layer<layers; layer += layers> 8 ? layers - 1 : 1)
        for (int role = 0; role < ROLE_COUNT; role++) {
            struct model_tensor tensor;
            if (!model_tensor_get(model, (enum tensor_role) role, layer, &tensor)) continue;
            uint8_t *scratch = malloc(tensor.row_bytes);
            float *values = malloc(tensor.columns * sizeof *values);
            const uint32_t rows[] = {0, tensor.rows / 2, tensor.rows - 1};
            for (int i = 0; scratch && values && i < 3; i++) {
                const void *row =
                    model_tensor_row(model, (enum tensor_role) role, layer, rows[i], scratch);
                tensor_type_row_to_f32(tensor.type, row, tensor.columns, values);
                sink += values[tensor.columns - 1] > 0;
            }
            free(scratch);
            free(values);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    struct err_text text = {""};
    struct gguf gguf;
    if (gguf_parse(data, bytes, "fuzz.gguf", &text, &gguf)) {
        CHECK(text.text[0]);
        return 0;
    }
    touch_keys(&gguf);
    char path[] = "fuzz.gguf";
    struct gguf_part part = {.file = {data, bytes, path}, .gguf = gguf};
    struct model *model = alloc_zero(1, sizeof *model);
    CHECK(model);
    model->gguf = (struct gguf_set){&part, 1};
    enum err e = model_gguf_spec(&model->gguf, &text, &model->spec);
    if (!e) e = model_index_create(model, &text);
    if (!e) e = model_gguf_places(model, &text);
    if (!e) e = model_gguf_texts(&model->gguf, &text, &model->chat_template, model->specials);
    if (!e) {
        model_index_finish(model);
        touch_rows(model);
    } else {
        CHECK(text.text[0]);
    }
    model->gguf = (struct gguf_set){0}; /* ours */
    model_close(model);
    gguf_release(&gguf);
    return 0;
}
