/* A config.json from anywhere: it is refused with a sentence, or gives a spec that is sound. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "base/check.h"
#include "base/log.h"
#include "model/hf_config.h"
#include "model/json_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    struct err_text text = {""};
    struct model_spec spec;
    json_t *root = NULL;
    log_configure(LOG_ERROR, LOG_HUMAN, NULL);
    enum err e = json_file_parse((const char *) data, bytes, "config.json", &text, &root);
    if (!e) e = hf_config_read(root, "config.json", &text, &spec);
    if (e) {
        CHECK(text.text[0]);
    } else {
        float freq[512], scale;
        CHECK(model_spec_check(&spec, &text) == ERR_OK && spec.head_dim <= 1024);
        model_spec_rope(&spec, freq, &scale);
        for (uint32_t i = 0; i < spec.head_dim / 2; i++) CHECK(isfinite(freq[i]));
    }
    json_decref(root);
    return 0;
}
