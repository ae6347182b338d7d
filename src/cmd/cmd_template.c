/* cmd_template - see cmd_template.h. */
#include "cmd/cmd_template.h"

#include <string.h>

static void set(json_t *variables, const char *name, json_t *value) {
    if (json_object_get(variables, name)) json_decref(value);
    else json_object_set_new(variables, name, value);
}

void cmd_template_set_defaults(json_t *variables) {
    set(variables, "tools", json_null());
    set(variables, "documents", json_null());
    set(variables, "add_generation_prompt", json_false());
}

void cmd_template_set_tokens(json_t *variables, const struct model *model) {
    static const char *const names[] = {"bos_token", "eos_token", "unk_token", "pad_token"};
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        const char *token = model_special_token(model, names[i]);
        if (token) set(variables, names[i], json_string(token));
    }
}

void cmd_template_set_ends(json_t *variables, const struct tokenizer *tokenizer) {
    const struct {
        const char *name;
        uint32_t id;
    } ends[] = {{"bos_token", tokenizer_bos(tokenizer)}, {"eos_token", tokenizer_eos(tokenizer)}};
    for (size_t i = 0; i < ARRAY_COUNT(ends); i++) {
        if (ends[i].id == TOKENIZER_NONE) continue;
        size_t bytes;
        bool is_special;
        const char *token = tokenizer_token(tokenizer, ends[i].id, &bytes, &is_special);
        set(variables, ends[i].name, json_stringn(token, bytes));
    }
}
