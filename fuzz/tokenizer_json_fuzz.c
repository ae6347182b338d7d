/* tokenizer_json_fuzz - any bytes as tokenizer.json; when they open, a text through both ways.
 *
 * The bytes behind a line "====" are the text, else the JSON itself is. */
#include <string.h>

#include "base/buf.h"
#include "token/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void round_trip(const struct tokenizer *tokenizer, const char *text, size_t bytes) {
    struct token_scratch *scratch = NULL;
    struct tokenizer_ids ids = {0};
    struct buf out = {0};
    struct err_text why;
    struct tokenizer_range user[] = {{bytes / 4, bytes / 2}};
    if (token_scratch_create(tokenizer, 8192, &scratch)) return;
    for (unsigned flags = 0; flags < 4; flags++) {
        enum err e =
            tokenizer_encode(tokenizer, scratch, text, bytes, user, 1, flags, 0, &why, &ids);
        if (e) break;
    }
    struct token_decoder decoder;
    token_decoder_init(&decoder, tokenizer, bytes & 1);
    for (uint32_t i = 0; i < ids.count; i++) token_decoder_add(&decoder, ids.ids[i], &out);
    token_decoder_finish(&decoder, &out);
    buf_release(&out);
    tokenizer_ids_release(&ids);
    token_scratch_destroy(scratch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    const char *json = (const char *) data;
    const char *text = memmem(json, bytes, "\n====\n", 6);
    size_t json_bytes = text ? (size_t) (text - json) : bytes;
    size_t text_bytes = text ? bytes - json_bytes - 6 : bytes;
    text = text ? text + 6 : json;
    if (text_bytes > 4096) text_bytes = 4096;
    struct tokenizer *tokenizer = NULL;
    struct err_text why;
    if (tokenizer_open_json(json, json_bytes, NULL, 0, &why, &tokenizer)) return 0;
    round_trip(tokenizer, text, text_bytes);
    tokenizer_close(tokenizer);
    return 0;
}
