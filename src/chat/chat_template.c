/* chat_template - see chat_template.h. */
#include "chat/chat_template.h"

#include <string.h>
#include <utf8proc.h>

#include "base/alloc.h"
#include "chat/chat_exec.h"
#include "chat/chat_global.h"
#include "chat/chat_json.h"
#include "chat/chat_lexer.h"
#include "chat/chat_parser.h"
#include "chat/chat_run.h"
#include "chat/chat_scope.h"

#define STEPS_DEFAULT 10000000u
#define DEPTH_DEFAULT 128u
#define OUTPUT_DEFAULT (64u << 20)
#define MEMORY_DEFAULT (256u << 20)

static enum err check_source(const char *source, size_t bytes, struct err_text *text) {
    if (bytes > CHAT_NODE_SOURCE_BYTES_MAX)
        return err_set(text, ERR_LIMIT, "template line 1: %zu bytes are more than %u", bytes,
                       CHAT_NODE_SOURCE_BYTES_MAX);
    uint32_t line = 1;
    for (size_t at = 0; at < bytes;) {
        utf8proc_int32_t code;
        utf8proc_ssize_t width = utf8proc_iterate((const utf8proc_uint8_t *) source + at,
                                                  (utf8proc_ssize_t) (bytes - at), &code);
        if (width < 1) return err_set(text, ERR_FORMAT, "template line %u: invalid UTF-8", line);
        line += source[at] == '\n';
        at += (size_t) width;
    }
    return ERR_OK;
}

enum err chat_template_create(const char *source, size_t bytes, struct err_text *text,
                              struct chat_template **out) {
    struct chat_token *tokens;
    enum err e = check_source(source, bytes, text);
    if (e) return e;
    struct chat_template *chat_template = alloc_zero(1, sizeof *chat_template);
    if (!chat_template) return err_set(text, ERR_MEMORY, "out of memory");
    arena_init(&chat_template->arena, 0);
    e = chat_lexer_read(&chat_template->arena, source, (uint32_t) bytes, text, &tokens);
    if (!e) e = chat_parser_read(chat_template, tokens, text);
    if (!e) e = chat_scope_resolve(chat_template, text);
    alloc_free(chat_template->name_index);
    chat_template->name_index = NULL;
    if (e == ERR_MEMORY) err_set(text, e, "out of memory");
    if (e) chat_template_destroy(chat_template);
    else *out = chat_template;
    return e;
}

void chat_template_destroy(struct chat_template *chat_template) {
    if (!chat_template) return;
    arena_release(&chat_template->arena);
    alloc_free(chat_template->names);
    alloc_free(chat_template);
}

bool chat_template_uses(const struct chat_template *chat_template, const char *name) {
    size_t bytes = strlen(name);
    for (uint32_t i = 0; i < chat_template->name_count; i++) {
        const struct chat_name *known = &chat_template->names[i];
        if (known->is_global && known->bytes == bytes && memcmp(known->text, name, bytes) == 0)
            return true;
    }
    return false;
}

static bool is_user_key(const char *const *user_keys, const struct chat_name *name) {
    static const char *const usual[] = {"messages", "tools", "documents", NULL};
    if (!user_keys) user_keys = usual;
    for (; *user_keys; user_keys++)
        if (strlen(*user_keys) == name->bytes && memcmp(*user_keys, name->text, name->bytes) == 0)
            return true;
    return false;
}

/* The globals and variables that the template names; the others are never looked at. */
static enum err fill_context(struct chat_run *run, const struct chat_template *chat_template,
                             const json_t *variables, const char *const *user_keys) {
    run->context = chat_run_take(run, chat_template->name_count, sizeof *run->context);
    if (!run->context) return run->failed;
    enum err e = ERR_OK;
    for (uint32_t i = 0; !e && i < chat_template->name_count; i++) {
        const struct chat_name *name = &chat_template->names[i];
        const json_t *json = json_object_getn(variables, name->text, name->bytes);
        if (json) e = chat_json_value(run, json, is_user_key(user_keys, name), &run->context[i]);
        else run->context[i] = chat_global_find(name->text, name->bytes);
    }
    return e;
}

enum err chat_template_render(const struct chat_template *chat_template, const json_t *variables,
                              const char *const *user_keys, const struct chat_limits *limits,
                              int64_t now_s, struct err_text *text, struct chat_prompt *out) {
    static const struct chat_limits none;
    if (!limits) limits = &none;
    struct chat_run run = {
        .steps_left = limits->steps_max ? limits->steps_max : STEPS_DEFAULT,
        .depth_max = limits->depth_max ? limits->depth_max : DEPTH_DEFAULT,
        .line = 1,
        .names = chat_template->names,
        .now_s = now_s,
        .text = text,
    };
    arena_init(&run.arena, limits->memory_bytes_max ? limits->memory_bytes_max : MEMORY_DEFAULT);
    buf_init(&run.out, limits->output_bytes_max ? limits->output_bytes_max : OUTPUT_DEFAULT);
    enum err e = fill_context(&run, chat_template, variables, user_keys);
    if (!e) e = chat_exec_template(&run, chat_template);
    arena_release(&run.arena);
    if (e) {
        buf_release(&run.out);
        alloc_free(run.ranges);
        return e;
    }
    out->text = run.out;
    out->user_ranges = run.ranges;
    out->range_count = run.range_count;
    return ERR_OK;
}

void chat_template_release_prompt(struct chat_prompt *prompt) {
    buf_release(&prompt->text);
    alloc_free(prompt->user_ranges);
    *prompt = (struct chat_prompt){0};
}
