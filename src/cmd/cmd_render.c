/* cmd_render - gramme render: messages to the prompt's bytes, as the model's template makes them.
 *
 * The input is a JSON object {messages, tools, add_generation_prompt, other variables}.  With -m,
 * what it leaves out is as transformers gives it: the model's bos_token and eos_token, tools and
 * documents null.  A template's own raise_exception exits 1 with its message. */
#include <jansson.h>
#include <stdio.h>
#include <time.h>

#include "base/alloc.h"
#include "chat/chat_template.h"
#include "cmd/cmd.h"
#include "cmd/cmd_template.h"
#include "model/model.h"

#define FILE_BYTES_MAX (64u << 20)

static enum err load_input(const char *path, struct err_text *text, json_t **out) {
    struct buf bytes;
    buf_init(&bytes, 0);
    enum err e = cmd_read_all(path, FILE_BYTES_MAX, text, &bytes);
    if (!e) {
        json_error_t where;
        json_t *input = json_loadb(bytes.data ? (const char *) bytes.data : "", bytes.bytes,
                                   JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &where);
        if (!input)
            e = err_set(text, ERR_FORMAT, "%s:%d:%d: %s", path, where.line, where.column,
                        where.text);
        else if (!json_is_object(input)) {
            json_decref(input);
            e = err_set(text, ERR_FORMAT, "%s: a JSON object is wanted", path);
        } else *out = input;
    }
    buf_release(&bytes);
    return e;
}

static enum err render(const char *source, size_t bytes, json_t *input, struct err_text *text) {
    struct chat_template *chat_template = NULL;
    struct chat_prompt prompt = {0};
    enum err e = chat_template_create(source, bytes, text, &chat_template);
    if (!e)
        e = chat_template_render(chat_template, input, NULL, NULL, (int64_t) time(NULL), text,
                                 &prompt);
    if (!e) {
        fwrite(prompt.text.data ? prompt.text.data : (const uint8_t *) "", 1, prompt.text.bytes,
               stdout);
        chat_template_release_prompt(&prompt);
    }
    chat_template_destroy(chat_template);
    return e;
}

int cmd_render(int argc, char **argv) {
    struct options *options = NULL;
    const char *positional[CMD_POSITIONAL_MAX];
    uint32_t positional_count = 0;
    int status = cmd_options(OPTION_RENDER, argc, argv, &options, positional, &positional_count);
    if (status) return status;
    struct err_text text = {0};
    struct buf file;
    buf_init(&file, 0);
    struct tokenizer *tokenizer = NULL;
    char *model_template = NULL;
    json_t *input = NULL;
    const char *model = options_text(options, OPT_MODEL),
               *path = options_text(options, OPT_TEMPLATE);
    const char *input_path = options_text(options, OPT_INPUT);
    enum err e = ERR_OK;
    if (!model && !path) e = err_set(&text, ERR_USAGE, "render needs -m MODEL or --template FILE");
    if (!e) e = load_input(input_path ? input_path : "-", &text, &input);
    if (!e && path) e = cmd_read_all(path, FILE_BYTES_MAX, &text, &file);
    if (!e && model && !path)
        e = model_open_tokenizer_only(model, &text, &tokenizer, &model_template);
    if (!e && tokenizer) { /* a template alone sees the input's variables and no others */
        cmd_template_set_defaults(input);
        cmd_template_set_ends(input, tokenizer);
        if (!model_template) e = err_set(&text, ERR_NOT_FOUND, "%s has no chat template", model);
        else buf_add_string(&file, model_template);
    }
    if (!e) e = buf_error(&file);
    if (!e) e = render(file.data ? (const char *) file.data : "", file.bytes, input, &text);
    json_decref(input);
    alloc_free(model_template);
    tokenizer_close(tokenizer);
    buf_release(&file);
    options_destroy(options);
    if (!e) return CMD_DONE;
    cmd_fail(e, &text);
    /* raise_exception is ERR_USAGE too: the template refuses these messages (exit 1, issue's word);
     * only a missing flag is a usage error of ours. */
    return input_path || model || path ? CMD_FAILED : CMD_USAGE;
}
