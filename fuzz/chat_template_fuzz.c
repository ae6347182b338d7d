/* chat_template: any bytes as a template, rendered with fixed variables. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/check.h"
#include "chat/chat_template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static const char variables_text[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"be kind\"},{\"role\":\"user\",\"content\":"
    "\"h\xc3\xa9llo <x> \\\"q\\\" \xe2\x80\xa8 \xf0\x9f\x98\x80\"},{\"role\":\"assistant\","
    "\"content\":null,\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"a\":[1,2.5,"
    "true]}}}]}],\"tools\":[{\"type\":\"function\"}],\"bos_token\":\"<s>\",\"n\":-3,\"f\":1e300,"
    "\"add_generation_prompt\":true,\"s\":\" a,b  c\\n\"}";

/* The ranges are what chat_template.h promises, whatever the template. */
static void check_ranges(const struct chat_prompt *prompt) {
    size_t last = 0;
    for (size_t i = 0; i < prompt->range_count; i++) {
        const struct chat_range *range = &prompt->user_ranges[i];
        CHECK(range->first < range->end && range->end <= prompt->text.bytes);
        CHECK(i == 0 || range->first > last);
        last = range->end;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static json_t *variables;
    const struct chat_limits limits = {.steps_max = 20000,
                                       .depth_max = 64,
                                       .output_bytes_max = 1 << 16,
                                       .memory_bytes_max = 1 << 22};
    struct chat_template *chat_template;
    struct chat_prompt prompt;
    struct err_text text;
    if (!variables) variables = json_loads(variables_text, 0, NULL);
    CHECK(variables);
    if (chat_template_create((const char *) data, bytes, &text, &chat_template)) return 0;
    if (!chat_template_render(chat_template, variables, NULL, &limits, 1700000000, &text,
                              &prompt)) {
        check_ranges(&prompt);
        chat_template_release_prompt(&prompt);
    }
    chat_template_destroy(chat_template);
    return 0;
}
