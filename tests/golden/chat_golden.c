/* chat_golden - renders a batch of templates, one JSON line in, one out, for chat_golden.py.
 *
 * In: {"template": "...", "variables": {...}, "now": seconds}.  Out: {"text", "ranges"} or
 * {"error", "message"}; "create": true when parsing already failed.  Not installed. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chat/chat_template.h"

static json_t *failure(enum err e, const struct err_text *text, bool in_create) {
    /* A message may be cut inside a character. */
    json_t *message = json_string(text->text);
    if (!message) message = json_string("(not UTF-8)");
    return json_pack("{s:s, s:o, s:b}", "error", err_name(e), "message", message, "create",
                     in_create);
}

static json_t *render(const json_t *request) {
    const json_t *source = json_object_get(request, "template");
    struct chat_template *chat_template;
    struct chat_prompt prompt;
    struct err_text text = {""};
    enum err e = chat_template_create(json_string_value(source), json_string_length(source), &text,
                                      &chat_template);
    if (e) return failure(e, &text, true);
    e = chat_template_render(chat_template, json_object_get(request, "variables"), NULL, NULL,
                             json_integer_value(json_object_get(request, "now")), &text, &prompt);
    chat_template_destroy(chat_template);
    if (e) return failure(e, &text, false);
    json_t *ranges = json_array();
    for (size_t i = 0; i < prompt.range_count; i++)
        json_array_append_new(ranges, json_pack("[I, I]", (json_int_t) prompt.user_ranges[i].first,
                                                (json_int_t) prompt.user_ranges[i].end));
    json_t *rendered = prompt.text.bytes
                           ? json_stringn((const char *) prompt.text.data, prompt.text.bytes)
                           : json_string("");
    chat_template_release_prompt(&prompt);
    if (!rendered) rendered = json_string("(not UTF-8)");
    return json_pack("{s:o, s:o}", "text", rendered, "ranges", ranges);
}

int main(void) {
    char *line = NULL;
    size_t room = 0;
    ssize_t bytes;
    while ((bytes = getline(&line, &room, stdin)) > 0) {
        json_error_t error;
        json_t *request = json_loadb(line, (size_t) bytes, JSON_ALLOW_NUL, &error);
        if (!request) {
            fprintf(stderr, "chat_golden: %s\n", error.text);
            return 1;
        }
        json_t *answer = render(request);
        json_dumpf(answer, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(answer);
        json_decref(request);
    }
    free(line);
    return 0;
}
