/* A safetensors file from anywhere: it is refused with a sentence, or its tensors fill the bytes
 * behind the header exactly. */
#include <stddef.h>
#include <stdint.h>

#include "base/check.h"
#include "model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static volatile uint32_t sink; /* keeps the reads */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    struct err_text text = {""};
    struct safetensors table;
    if (safetensors_parse(data, bytes, "fuzz.safetensors", &text, &table)) {
        CHECK(text.text[0]);
        return 0;
    }
    uint64_t sum = 0;
    for (uint32_t i = 0; i < table.tensor_count; i++) {
        const struct safetensors_tensor *tensor = &table.tensors[i];
        CHECK(safetensors_find(&table, tensor->name) == tensor);
        sum += tensor->bytes;
        if (!tensor->bytes) continue;
        CHECK(tensor->data > data && tensor->data + tensor->bytes <= data + bytes);
        sink += tensor->data[0] + tensor->data[tensor->bytes - 1];
    }
    CHECK(sum < bytes);
    safetensors_release(&table);
    return 0;
}
