/* api_request_fuzz - a request's JSON on foreign bytes.
 *
 * Our reader and jansson's agree on every text: what one refuses the other refuses, and the trees
 * are equal.  Then the fields are read for both endpoints, which must end in a spec or in an error
 * that is itself valid JSON. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "api/json_read.h"
#include "api/request_parse.h"
#include "api/request_prompt.h"
#include "base/check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* The depth at which ours gives up and jansson goes on; and what jansson counts otherwise. */
static bool is_deep(const uint8_t *data, size_t bytes) {
    size_t open = 0;
    for (size_t i = 0; i < bytes; i++) open += data[i] == '[' || data[i] == '{';
    return open > JSON_READ_DEPTH_MAX;
}

static void compare_readers(const uint8_t *data, size_t bytes) {
    struct json_read_fault fault = {0, NULL};
    json_t *ours = NULL;
    enum err e = json_read(data, bytes, &fault, &ours);
    json_t *theirs = json_loadb((const char *) data, bytes,
                                JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, NULL);
    if (e) CHECK(e == ERR_FORMAT && fault.why && fault.offset <= bytes);
    bool has_nul = bytes && memchr(data, 0, bytes); /* jansson reads over one behind a number */
    if (has_nul) CHECK(!ours);
    if (!is_deep(data, bytes) && !has_nul) {
        CHECK((ours != NULL) == (theirs != NULL));
        if (ours) CHECK(json_equal(ours, theirs));
    }
    json_decref(ours);
    json_decref(theirs);
}

static void read_fields(const uint8_t *data, size_t bytes, enum request_kind kind) {
    static const uint32_t eos[] = {7};
    struct api_options options;
    api_options_init(&options);
    options.served_names[0] = "m";
    options.served_name_count = 1;
    options.model_len_max = 100;
    options.vocab_size = 50;
    options.eos_ids = eos;
    options.eos_count = 1;
    struct request_spec spec;
    struct arena arena;
    struct api_error error = {0};
    arena_init(&arena, 0);
    request_parse_init(&spec, kind, &arena);
    enum err e = request_parse(&spec, &options, data, bytes, &error);
    json_t *messages = NULL;
    if (!e && spec.messages) {
        e = request_prompt_messages(spec.messages, &error, &messages);
        if (!e) CHECK(json_array_size(messages) == json_array_size(spec.messages));
    }
    if (e) {
        struct buf out;
        buf_init(&out, 0);
        CHECK(error.status == 400 || error.status == 404);
        api_error_render(&error, &out);
        json_t *root = json_loadb((const char *) out.data, out.bytes, 0, NULL);
        CHECK(root);
        json_decref(root);
        buf_release(&out);
    } else if (kind != REQUEST_TOKENIZE) {
        struct err_text text;
        spec.sampling.max_tokens = spec.has_max_tokens ? spec.sampling.max_tokens : UINT32_MAX;
        CHECK(sampling_check(&spec.sampling, options.vocab_size, &text) == ERR_OK);
    }
    json_decref(messages);
    request_parse_release(&spec);
    arena_release(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    compare_readers(data, bytes);
    read_fields(data, bytes, REQUEST_CHAT);
    read_fields(data, bytes, REQUEST_COMPLETION);
    read_fields(data, bytes, REQUEST_TOKENIZE);
    return 0;
}
