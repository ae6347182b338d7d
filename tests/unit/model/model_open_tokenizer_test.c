/* model_open_tokenizer: the tokenizer of the demo model, with its model and alone; what is said
 * where there is none; nothing leaks when memory runs out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "model/file_maker.h"
#include "model/model.h"

static const char *demo_path(void) {
    const char *path = getenv("GRAMME_MODEL");
    if (!path) path = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
    if (access(path, R_OK) == 0) return path;
    print_message("the demo model is not at %s (set GRAMME_MODEL): skipped\n", path);
    return NULL;
}

static void demo_tokenizer(void **state) {
    const char *path = demo_path();
    if (!path) skip();
    struct err_text text = {""};
    struct model *model = NULL;
    struct tokenizer *tokenizer = NULL, *alone = NULL;
    char *chat_template = NULL;
    if (model_open(path, &(struct model_open_options){0}, &text, &model) ||
        model_open_tokenizer(model, &text, &tokenizer) ||
        model_open_tokenizer_only(path, &text, &alone, &chat_template))
        fail_msg("%s", text.text);
    assert_int_equal(tokenizer_vocab_size(tokenizer), 49152);
    assert_int_equal(tokenizer_eos(tokenizer), 2);
    assert_int_equal(tokenizer_digest(tokenizer), tokenizer_digest(alone));
    assert_string_equal(chat_template, model_chat_template(model));
    alloc_free(chat_template);
    tokenizer_close(tokenizer);
    tokenizer_close(alone);
    model_close(model);
}

static void refuse_only(const char *name, enum err wanted, const char *rest) {
    struct err_text text = {""};
    struct tokenizer *tokenizer = NULL;
    char *chat_template = NULL, whole[1024];
    snprintf(whole, sizeof whole, "%s%s", in_folder(name), rest);
    enum err e = model_open_tokenizer_only(in_folder(name), &text, &tokenizer, &chat_template);
    assert_string_equal(text.text, whole);
    assert_int_equal(e, wanted);
    assert_null(tokenizer);
    assert_null(chat_template);
}

static void none(void **state) {
    put_text_file("m/config.json", "{}");
    put_text_file("m/chat_template.jinja", "x");
    refuse_only("m", ERR_NOT_FOUND,
                ": no tokenizer: looked for tokenizer.json (tokenizer.model and vocab.json are not "
                "read)");
    struct buf file;
    buf_init(&file, 0);
    put_tiny_llama(&file, (struct tiny){0});
    put_file("g.gguf", file.data, file.bytes);
    refuse_only("g.gguf", ERR_NOT_FOUND,
                ": no tokenizer in it: key tokenizer.ggml.model is absent");
    buf_clear(&file);
    put_tiny_llama(&file, (struct tiny){.key = "tokenizer.ggml.model", .value = "gpt2"});
    put_file("h.gguf", file.data, file.bytes);
    refuse_only("h.gguf", ERR_FORMAT, ": key tokenizer.ggml.tokens: expected an array of strings");
    buf_release(&file);
}

/* A shape without files gets a vocabulary: each byte a token and back, words for the other ids. */
static void test_stand_in(void **state) {
    (void) state;
    static const char said[] = "a \x01\n\xc3\xa9\xf0\x9f\x98\x80 ~";
    struct err_text text = {""};
    struct model *model = NULL;
    struct tokenizer *tokenizer = NULL;
    assert_int_equal(model_open("tiny-llama-k-test", &(struct model_open_options){.is_dummy = true},
                                &text, &model),
                     ERR_OK);
    assert_non_null(model_chat_template(model));
    assert_int_equal(model_open_tokenizer(model, &text, &tokenizer), ERR_OK);
    assert_int_equal(tokenizer_vocab_size(tokenizer), 512);
    struct token_scratch *scratch = NULL;
    assert_int_equal(token_scratch_create(tokenizer, 0, &scratch), ERR_OK);
    struct tokenizer_ids ids = {0};
    assert_int_equal(tokenizer_encode(tokenizer, scratch, said, sizeof said - 1, NULL, 0,
                                      TOKENIZER_ADD_SPECIAL, 0, &text, &ids),
                     ERR_OK);
    assert_int_equal(ids.count, sizeof said - 1);
    struct token_decoder decoder;
    struct buf out;
    buf_init(&out, 0);
    token_decoder_init(&decoder, tokenizer, true);
    for (uint32_t i = 0; i < ids.count; i++) {
        assert_int_equal(ids.ids[i], (uint8_t) said[i]);
        token_decoder_add(&decoder, ids.ids[i], &out);
    }
    assert_int_equal(out.bytes, sizeof said - 1);
    assert_memory_equal(out.data, said, out.bytes);
    buf_clear(&out);
    token_decoder_add(&decoder, 256, &out);
    token_decoder_add(&decoder, 511, &out);
    token_decoder_finish(&decoder, &out);
    buf_add(&out, "", 1);
    assert_string_equal((const char *) out.data, " ba tida");
    buf_release(&out);
    tokenizer_ids_release(&ids);
    token_scratch_destroy(scratch);
    tokenizer_close(tokenizer);
    model_close(model);
}

/* A byte-level vocabulary of 256 + 1 tokens. */
static void put_byte_level(struct buf *out) {
    put_head(out, 3, 0, 6);
    put_key_text(out, "tokenizer.ggml.model", "gpt2");
    put_key_text(out, "tokenizer.ggml.pre", "smollm");
    put_key_text(out, "tokenizer.chat_template", "{{ x }}");
    put_key_u32(out, "tokenizer.ggml.eos_token_id", 256);
    put_text(out, "tokenizer.ggml.tokens");
    put_u32(out, GGUF_ARRAY);
    put_u32(out, GGUF_STRING);
    put_u64(out, 257);
    uint32_t moved = 256;
    for (uint32_t byte = 0; byte < 256; byte++) {
        bool stays = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
        uint32_t code = stays ? byte : moved++;
        char text[3] = {(char) code, '\0', '\0'};
        if (code >= 128) {
            text[0] = (char) (0xc0 | code >> 6);
            text[1] = (char) (0x80 | (code & 63));
        }
        put_text(out, text);
    }
    put_text(out, "<|end|>");
    put_text(out, "tokenizer.ggml.merges");
    put_u32(out, GGUF_ARRAY);
    put_u32(out, GGUF_STRING);
    put_u64(out, 0);
}

static void memory_runs_out(void **state) {
    struct buf file;
    buf_init(&file, 0);
    put_byte_level(&file);
    put_file("t.gguf", file.data, file.bytes);
    buf_release(&file);
    uint64_t asked = UINT64_MAX;
    for (uint64_t n = 1; n <= asked + 1; n++) {
        struct err_text text = {""};
        struct tokenizer *tokenizer = NULL;
        char *chat_template = NULL;
        alloc_fail_at(n, 0);
        enum err e =
            model_open_tokenizer_only(in_folder("t.gguf"), &text, &tokenizer, &chat_template);
        asked = alloc_count();
        alloc_fail_at(0, 0);
        if (e != (n <= asked ? ERR_MEMORY : ERR_OK))
            fail_msg("allocation %d of %d: %s, %s", (int) n, (int) asked, err_name(e), text.text);
        if (e) continue;
        assert_int_equal(tokenizer_vocab_size(tokenizer), 257);
        assert_string_equal(chat_template, "{{ x }}");
        tokenizer_close(tokenizer);
        alloc_free(chat_template);
        assert_true(n > 5);
        break;
    }
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, folder_make, folder_remove)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stand_in),
        cmocka_unit_test(demo_tokenizer),
        IN_FOLDER(none),
        IN_FOLDER(memory_runs_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
