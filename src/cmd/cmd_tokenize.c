/* cmd_tokenize - gramme tokenize: text to ids, ids to text.
 *
 * Text comes on standard input: whole, or with --jsonl one JSON string a line (a JSON array of ids
 * a line out).  --ids goes the other way.  Needs only the tokenizer's files. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "cmd/cmd.h"
#include "cmd/cmd_ids.h"
#include "model/model.h"

#define TEXT_BYTES_MAX (1u << 30) /* of standard input */
#define LINE_BYTES_MAX (64u << 20)
#define CACHE_BYTES (8u << 20)

struct job {
    struct tokenizer *tokenizer;
    struct token_scratch *scratch;
    struct tokenizer_ids ids;
    unsigned flags;
};

static enum err encode(struct job *job, const char *text, size_t bytes, struct err_text *error) {
    job->ids.count = 0;
    return tokenizer_encode(job->tokenizer, job->scratch, text, bytes, NULL, 0, job->flags, 0,
                            error, &job->ids);
}

static void print_ids(const struct job *job, const char *separator) {
    for (uint32_t i = 0; i < job->ids.count; i++)
        printf("%s%u", i ? separator : "", job->ids.ids[i]);
}

static enum err encode_lines(struct job *job, struct err_text *error) {
    char *line = NULL;
    size_t room = 0;
    enum err e = ERR_OK;
    for (unsigned long number = 1; !e; number++) {
        ssize_t bytes = getline(&line, &room, stdin);
        if (bytes < 0) break;
        json_error_t where;
        json_t *string =
            (size_t) bytes > LINE_BYTES_MAX
                ? NULL
                : json_loadb(line, (size_t) bytes, JSON_DECODE_ANY | JSON_ALLOW_NUL, &where);
        if (!json_is_string(string)) {
            e = err_set(error, ERR_FORMAT, "standard input, line %lu: not a JSON string", number);
        } else {
            e = encode(job, json_string_value(string), json_string_length(string), error);
            if (e) err_prefix(error, "standard input, line %lu", number);
        }
        if (!e) {
            putchar('[');
            print_ids(job, ",");
            puts("]");
        }
        json_decref(string);
    }
    free(line);
    return e;
}

static enum err encode_text(struct job *job, struct err_text *error) {
    struct buf text;
    buf_init(&text, 0);
    enum err e = cmd_read_all("-", TEXT_BYTES_MAX, error, &text);
    if (!e) e = encode(job, text.data ? (const char *) text.data : "", text.bytes, error);
    if (!e) {
        print_ids(job, " ");
        putchar('\n');
    }
    buf_release(&text);
    return e;
}

static enum err decode_ids(struct job *job, const char *list, struct err_text *error) {
    uint32_t *ids = NULL, count = 0;
    enum err e =
        cmd_ids_parse("ids", list, tokenizer_vocab_size(job->tokenizer), error, &ids, &count);
    if (e) return e;
    struct token_decoder decoder;
    struct buf out;
    buf_init(&out, 0);
    token_decoder_init(&decoder, job->tokenizer, false);
    for (uint32_t i = 0; i < count; i++) token_decoder_add(&decoder, ids[i], &out);
    token_decoder_finish(&decoder, &out);
    fwrite(out.data ? out.data : (const uint8_t *) "", 1, out.bytes, stdout);
    putchar('\n');
    e = buf_error(&out);
    buf_release(&out);
    alloc_free(ids);
    return e;
}

int cmd_tokenize(int argc, char **argv) {
    struct options *options = NULL;
    const char *positional[CMD_POSITIONAL_MAX];
    uint32_t positional_count = 0;
    int status = cmd_options(OPTION_TOKENIZE, argc, argv, &options, positional, &positional_count);
    if (status) return status;
    struct err_text text = {0};
    struct job job = {0};
    const char *name = options_text(options, OPT_MODEL);
    if (!name && positional_count) name = positional[0];
    enum err e = name ? ERR_OK : err_set(&text, ERR_USAGE, "tokenize needs a model: -m MODEL");
    if (!e) e = model_open_tokenizer_only(name, &text, &job.tokenizer, NULL);
    if (!e) e = token_scratch_create(job.tokenizer, CACHE_BYTES, &job.scratch);
    if (!e) {
        if (options_bool(options, OPT_SPECIAL)) job.flags |= TOKENIZER_PARSE_SPECIAL;
        if (options_bool(options, OPT_ADD_SPECIAL)) job.flags |= TOKENIZER_ADD_SPECIAL;
        if (options_is_set(options, OPT_IDS))
            e = decode_ids(&job, options_text(options, OPT_IDS), &text);
        else if (options_bool(options, OPT_JSONL)) e = encode_lines(&job, &text);
        else e = encode_text(&job, &text);
    }
    tokenizer_ids_release(&job.ids);
    token_scratch_destroy(job.scratch);
    tokenizer_close(job.tokenizer);
    options_destroy(options);
    return e ? cmd_fail(e, &text) : CMD_DONE;
}
