/* model_open: GGUF files, folders and dummy models; each error of the tensor index is one line
 * naming file, tensor, expected and found; nothing leaks when memory runs out at any place.
 *
 * The demo model is GRAMME_MODEL or models/SmolLM2-135M-Instruct.Q4_1.gguf below the build folder. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/alloc.h"
#include "model/file_maker.h"
#include "model/model.h"
#include "model/model_stand_in.h"

static const char *demo_path(void) {
    const char *path = getenv("GRAMME_MODEL");
    if (!path) path = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
    if (access(path, R_OK) == 0) return path;
    print_message("the demo model is not at %s (set GRAMME_MODEL): skipped\n", path);
    return NULL;
}

static void demo_model(void **state) {
    const char *path = demo_path();
    if (!path) skip();
    struct err_text text = {""};
    struct model *model = NULL;
    enum err e = model_open(path, &(struct model_open_options){0}, &text, &model);
    if (e) fail_msg("%s", text.text);
    const struct model_spec *spec = model_get_spec(model);
    assert_string_equal(spec->name, "SmolLM2-135M-Instruct.Q4_1");
    assert_int_equal(spec->family, MODEL_LLAMA);
    assert_int_equal(spec->layer_count, 30);
    assert_int_equal(spec->hidden_size, 576);
    assert_int_equal(spec->ffn_size, 1536);
    assert_int_equal(spec->head_count, 9);
    assert_int_equal(spec->kv_head_count, 3);
    assert_int_equal(spec->head_dim, 64);
    assert_int_equal(spec->vocab_size, 49152);
    assert_int_equal(spec->context_tokens, 8192);
    assert_int_equal(spec->segment_count, 3);
    assert_int_equal(spec->weight_type, TENSOR_Q4_1);
    assert_true(spec->is_tied && !spec->has_qkv_bias && !spec->has_qk_norm);
    assert_true(spec->rope.theta == 100000.0f && spec->norm_epsilon == 1e-5f);
    assert_int_equal(spec->eos_count, 1);
    assert_int_equal(spec->eos_ids[0], 2);
    assert_string_equal(model_special_token(model, "bos_token"), "<|im_start|>");
    assert_string_equal(model_special_token(model, "eos_token"), "<|im_end|>");
    assert_null(model_special_token(model, "cls_token"));
    assert_non_null(strstr(model_chat_template(model), "You are a helpful AI assistant named"));

    struct model_tensor tensor, head;
    assert_true(model_tensor_get(model, ROLE_EMBEDDING, 0, &tensor));
    assert_int_equal(tensor.type, TENSOR_Q8_0);
    assert_int_equal(tensor.rows, 49152);
    assert_int_equal(tensor.columns, 576);
    assert_int_equal(tensor.row_bytes, 18 * 34);
    assert_true(model_tensor_get(model, ROLE_HEAD, 7, &head));
    assert_ptr_equal(model_tensor_row(model, ROLE_HEAD, 0, 9, NULL),
                     model_tensor_row(model, ROLE_EMBEDDING, 0, 9, NULL));
    assert_false(model_tensor_get(model, ROLE_Q_BIAS, 0, &tensor));
    /* llama's q rows are interleaved in the file: half-split row 1 is stored row 2. */
    assert_true(model_tensor_get(model, ROLE_Q, 3, &tensor));
    const uint8_t *first = model_tensor_row(model, ROLE_Q, 3, 64, NULL);
    assert_ptr_equal(model_tensor_row(model, ROLE_Q, 3, 65, NULL), first + 2 * tensor.row_bytes);
    assert_ptr_equal(model_tensor_row(model, ROLE_Q, 3, 96, NULL), first + tensor.row_bytes);
    float values[576];
    tensor_type_row_to_f32(tensor.type, first, tensor.columns, values);
    for (int i = 0; i < 576; i++) assert_true(isfinite(values[i]) && fabsf(values[i]) < 10);
    assert_true(model_weight_bytes(model) > 96000000 && model_weight_bytes(model) < 98362432);
    model_tensor_drop(model, ROLE_Q, 3);
    model_drop_pages(model);
    float again[576]; /* what is touched later comes back from the file */
    tensor_type_row_to_f32(tensor.type, first, tensor.columns, again);
    assert_memory_equal(again, values, sizeof values);
    model_close(model);
}

/* --- GGUF --------------------------------------------------------------------------------- */

static void put_gguf(const char *name, struct tiny tiny) {
    struct buf file;
    buf_init(&file, 0);
    put_tiny_llama(&file, tiny);
    put_file(name, file.data, file.bytes);
    buf_release(&file);
}

/* The sentence begins with the file's path. */
static void refuse(const char *name, enum err wanted, const char *sentence) {
    struct model *model = NULL;
    struct err_text text = {""};
    char whole[1024];
    snprintf(whole, sizeof whole, "%s%s", in_folder(name), sentence);
    enum err e = model_open(in_folder(name), &(struct model_open_options){0}, &text, &model);
    assert_string_equal(text.text, whole);
    assert_int_equal(e, wanted);
    assert_null(model);
}

static void tiny_gguf(void **state) {
    put_gguf("good.gguf", (struct tiny){0});
    struct model *model = NULL;
    struct err_text text = {""};
    if (model_open(in_folder("good.gguf"), &(struct model_open_options){0}, &text, &model))
        fail_msg("%s", text.text);
    assert_string_equal(model_get_spec(model)->name, "good");
    assert_string_equal(model_chat_template(model), "{{ messages }}");
    assert_null(model_special_token(model, "bos_token"));
    assert_true(model_get_spec(model)->is_tied);
    model_close(model);
}

static uint64_t digest_of(const char *name) {
    struct model *model = NULL;
    struct err_text text = {""};
    if (model_open(in_folder(name), &(struct model_open_options){0}, &text, &model))
        fail_msg("%s", text.text);
    uint64_t digest = model_digest(model);
    char tensor[MODEL_TENSOR_NAME_BYTES];
    model_tensor_name(model, ROLE_DOWN, 7, tensor);
    assert_string_equal(tensor, "blk.7.ffn_down.weight");
    model_close(model);
    return digest;
}

/* The same file has the same digest wherever it lies; another type, place or content of a tensor
 * gives another. */
static void digests(void **state) {
    struct buf file;
    buf_init(&file, 0);
    put_tiny_llama(&file, (struct tiny){0});
    put_file("a.gguf", file.data, file.bytes);
    put_file("copy.gguf", file.data, file.bytes);
    file.data[file.bytes - 1 - 32 * 31 * 4]++; /* in the first row of ffn_down */
    put_file("tuned.gguf", file.data, file.bytes);
    buf_clear(&file);
    put_tiny_llama(&file, (struct tiny){.key = "general.comment", .value = "moves the data"});
    put_file("moved.gguf", file.data, file.bytes);
    buf_clear(&file);
    put_tiny_llama(&file, (struct tiny){.gate_type = TENSOR_F16}); /* GGUF's number of it, too */
    put_file("f16.gguf", file.data, file.bytes);
    buf_release(&file);
    uint64_t digest = digest_of("a.gguf");
    assert_int_equal(digest_of("copy.gguf"), digest);
    assert_int_not_equal(digest_of("tuned.gguf"), digest);
    assert_int_not_equal(digest_of("moved.gguf"), digest);
    assert_int_not_equal(digest_of("f16.gguf"), digest);
}

static void gguf_errors(void **state) {
    put_gguf("a.gguf", (struct tiny){.skip = "blk.0.attn_k.weight"});
    refuse("a.gguf", ERR_FORMAT, ": tensor blk.0.attn_k.weight is missing: expected (16, 32)");
    put_gguf("b.gguf", (struct tiny){.ffn_rows = 31});
    refuse("b.gguf", ERR_FORMAT,
           ": tensor blk.0.ffn_gate.weight has shape (31, 32) in 2 dimensions: expected (32, 32) "
           "in 2");
    put_gguf("c.gguf", (struct tiny){.extra = "blk.0.attn_sinks.weight"});
    refuse("c.gguf", ERR_UNSUPPORTED,
           ": tensor blk.0.attn_sinks.weight is no part of this architecture as supported here");
    put_gguf("d.gguf", (struct tiny){.gate_type = 17});
    refuse("d.gguf", ERR_UNSUPPORTED,
           ": tensor blk.0.ffn_gate.weight has type IQ2_XS, which is not supported; the nearest "
           "supported one is Q4_K");
    put_gguf("e.gguf", (struct tiny){.key = "llama.rope.scaling.type", .value = "longrope"});
    refuse("e.gguf", ERR_UNSUPPORTED,
           ": key llama.rope.scaling.type is \"longrope\": supported is none, linear or yarn");
    put_gguf("f.gguf", (struct tiny){.key = "llama.new_thing", .value = "x"});
    refuse("f.gguf", ERR_UNSUPPORTED,
           ": key llama.new_thing is \"x\": supported is a file without this key");
    put_gguf("g.gguf", (struct tiny){.key = "llama.expert_count", .value = "x"});
    refuse("g.gguf", ERR_UNSUPPORTED, ": key llama.expert_count is \"x\": supported is 0");
    put_gguf("h.gguf", (struct tiny){.split_count = 2});
    refuse(
        "h.gguf", ERR_FORMAT,
        ": the first of 2 parts (split.count): expected a name that ends in -00001-of-00002.gguf");
    put_gguf("h-00001-of-00002.gguf", (struct tiny){.split_count = 2});
    char sentence[600];
    snprintf(sentence, sizeof sentence, ": part 2 of 2 is missing: expected %s",
             in_folder("h-00002-of-00002.gguf"));
    refuse("h-00001-of-00002.gguf", ERR_NOT_FOUND, sentence);
    put_gguf("h-00002-of-00002.gguf", (struct tiny){.split_count = 2});
    struct err_text text = {""};
    struct model *model = NULL;
    assert_int_equal(model_open(in_folder("h-00001-of-00002.gguf"), &(struct model_open_options){0},
                                &text, &model),
                     ERR_FORMAT);
    if (!strstr(text.text, "says it is part 1 of 2")) fail_msg("%s", text.text);
    put_text_file("i.gguf", "");
    refuse("i.gguf", ERR_FORMAT, ": not a GGUF file: expected the bytes GGUF first");
}

/* --- a folder ----------------------------------------------------------------------------- */

static const char tiny_config[] =
    "{\"model_type\":\"qwen2\",\"architectures\":[\"Qwen2ForCausalLM\"],\"hidden_size\":8,"
    "\"intermediate_size\":4,\"num_hidden_layers\":1,\"num_attention_heads\":2,"
    "\"num_key_value_heads\":1,\"vocab_size\":10,\"rms_norm_eps\":1e-06,"
    "\"max_position_embeddings\":64,\"eos_token_id\":3,\"tie_word_embeddings\":true}";

/* Names and shapes of that model; the second half goes to the second file of a split one. */
static const struct {
    const char *name;
    int rows, columns; /* rows 0: a vector */
} tiny_tensors[] = {
    {"model.embed_tokens.weight", 10, 8},
    {"model.norm.weight", 0, 8},
    {"model.layers.0.input_layernorm.weight", 0, 8},
    {"model.layers.0.post_attention_layernorm.weight", 0, 8},
    {"model.layers.0.self_attn.q_proj.weight", 8, 8},
    {"model.layers.0.self_attn.k_proj.weight", 4, 8},
    {"model.layers.0.self_attn.v_proj.weight", 4, 8},
    {"model.layers.0.self_attn.o_proj.weight", 8, 8},
    {"model.layers.0.self_attn.q_proj.bias", 0, 8},
    {"model.layers.0.self_attn.k_proj.bias", 0, 4},
    {"model.layers.0.self_attn.v_proj.bias", 0, 4},
    {"model.layers.0.mlp.gate_proj.weight", 4, 8},
    {"model.layers.0.mlp.up_proj.weight", 4, 8},
    {"model.layers.0.mlp.down_proj.weight", 8, 4},
    {"lm_head.weight", 10, 8}, /* tied: left aside */
};

struct wrong {
    const char *skip;
    const char *rename, *to;
    const char *dtype_of, *dtype; /* a 16-bit one */
    int wider;                    /* columns added to the first tensor */
};

static void put_weights(const char *name, size_t first, size_t end, struct wrong wrong) {
    struct buf header, file;
    buf_init(&header, 0);
    buf_init(&file, 0);
    size_t at = 0;
    buf_add_byte(&header, '{');
    for (size_t i = first; i < end; i++) {
        const char *tensor = tiny_tensors[i].name, *dtype = "BF16";
        if (wrong.skip && strcmp(wrong.skip, tensor) == 0) continue;
        if (wrong.dtype_of && strcmp(wrong.dtype_of, tensor) == 0) dtype = wrong.dtype;
        if (wrong.rename && strcmp(wrong.rename, tensor) == 0) tensor = wrong.to;
        int rows = tiny_tensors[i].rows, columns = tiny_tensors[i].columns + (i ? 0 : wrong.wider);
        size_t bytes = (size_t) (rows ? rows : 1) * (size_t) columns * 2;
        buf_add_format(&header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", at ? "," : "", tensor,
                       dtype);
        if (rows) buf_add_format(&header, "%d,", rows);
        buf_add_format(&header, "%d],\"data_offsets\":[%zu,%zu]}", columns, at, at + bytes);
        at += bytes;
    }
    buf_add_byte(&header, '}');
    put_safetensors(&file, buf_string(&header), at);
    put_file(name, file.data, file.bytes);
    buf_release(&header);
    buf_release(&file);
}

#define TENSORS (sizeof tiny_tensors / sizeof *tiny_tensors)

static void put_texts(void) {
    put_text_file("m/config.json", tiny_config);
    put_text_file("m/generation_config.json",
                  "{\"eos_token_id\":[4,3],\"temperature\":0.6,\"top_k\":20,\"top_p\":null,"
                  "\"do_sample\":true,\"max_new_tokens\":99}");
    put_text_file("m/tokenizer_config.json",
                  "{\"model_max_length\":1000000000000000019884624838656,\"bos_token\":null,"
                  "\"eos_token\":{\"content\":\"<|end|>\",\"lstrip\":false},"
                  "\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"T\"},"
                  "{\"name\":\"default\",\"template\":\"D\"}]}");
    put_text_file("m/special_tokens_map.json", "{\"unk_token\":\"<unk>\",\"eos_token\":\"no\"}");
}

static struct model *open_good(const char *name) {
    struct model *model = NULL;
    struct err_text text = {""};
    if (model_open(in_folder(name), &(struct model_open_options){0}, &text, &model))
        fail_msg("%s", text.text);
    return model;
}

static void hf_folder(void **state) {
    put_texts();
    put_weights("m/model.safetensors", 0, TENSORS, (struct wrong){0});
    struct model *model = open_good("m");
    const struct model_spec *spec = model_get_spec(model);
    assert_string_equal(spec->name, "m");
    assert_int_equal(spec->weight_type, TENSOR_BF16);
    assert_int_equal(spec->eos_count, 2);
    assert_int_equal(spec->eos_ids[1], 4);
    assert_string_equal(model_chat_template(model), "D");
    assert_string_equal(model_special_token(model, "eos_token"), "<|end|>");
    assert_string_equal(model_special_token(model, "unk_token"), "<unk>");
    assert_null(model_special_token(model, "bos_token"));
    const struct model_generation *generation = model_generation_defaults(model);
    assert_true(generation->has_temperature && generation->temperature == 0.6f);
    assert_true(generation->has_top_k && generation->top_k == 20 && !generation->has_top_p);
    assert_true(generation->has_max_new_tokens && generation->max_new_tokens == 99);
    assert_true(generation->do_sample && !generation->has_min_p);
    model_close(model);
    put_text_file("m/chat_template.jinja", "J"); /* the newer place wins */
    model = open_good("m");
    assert_string_equal(model_chat_template(model), "J");
    model_close(model);
}

static void hf_index(void **state) {
    put_texts();
    put_weights("m/a.safetensors", 0, 7, (struct wrong){0});
    put_weights("m/b.safetensors", 7, TENSORS, (struct wrong){0});
    put_text_file("m/consolidated.safetensors", "whatever");
    struct buf index;
    buf_init(&index, 0);
    for (size_t i = 0; i < TENSORS; i++)
        buf_add_format(&index, "%s\"%s\":\"%s.safetensors\"", i ? "," : "{\"weight_map\":{",
                       tiny_tensors[i].name, i < 7 ? "a" : "b");
    buf_add_string(&index, "}}");
    put_text_file("m/model.safetensors.index.json", buf_string(&index));
    model_close(open_good("m"));
    unlink(in_folder("m/b.safetensors"));
    refuse("m", ERR_NOT_FOUND, ": 1 of 2 weight files are missing: b.safetensors");
    unlink(in_folder("m/a.safetensors"));
    refuse("m", ERR_NOT_FOUND, ": 2 of 2 weight files are missing: a.safetensors, b.safetensors");
    put_text_file("m/model.safetensors.index.json",
                  "{\"weight_map\":{\"x\":\"../a.safetensors\"}}");
    refuse("m", ERR_FORMAT,
           "/model.safetensors.index.json: tensor x: expected the name of a file beside it");
    buf_release(&index);
}

static void hf_errors(void **state) {
    put_text_file("m/readme.md", "");
    refuse("m", ERR_NOT_FOUND, ": no config.json and no GGUF in it: not a model's folder");
    put_text_file("m/config.json", "{\"model_type\":");
    refuse("m", ERR_FORMAT, "/config.json:1:14: unexpected token near end of file");
    put_text_file("m/config.json", tiny_config);
    refuse("m", ERR_NOT_FOUND,
           ": no weights: looked for model.safetensors and model.safetensors.index.json");
    put_text_file("m/pytorch_model.bin", "");
    refuse("m", ERR_UNSUPPORTED,
           ": holds a PyTorch .bin file: supported is model.safetensors, or "
           "its parts with model.safetensors.index.json");
#define W "m/model.safetensors"
    put_weights(W, 0, TENSORS, (struct wrong){.skip = "model.layers.0.self_attn.k_proj.bias"});
    refuse("m", ERR_FORMAT,
           "/model.safetensors: tensor model.layers.0.self_attn.k_proj.bias is "
           "missing: expected (1, 4)");
    put_weights(W, 0, TENSORS, (struct wrong){.wider = 1});
    refuse("m", ERR_FORMAT,
           "/model.safetensors: tensor model.embed_tokens.weight has shape (10, "
           "9): expected (10, 8)");
    put_weights(W, 0, TENSORS, (struct wrong){.dtype_of = "model.norm.weight", .dtype = "I16"});
    refuse("m", ERR_UNSUPPORTED,
           "/model.safetensors: tensor model.norm.weight has dtype I16: "
           "supported are F32, F16 and BF16; the nearest is a GGUF in Q8_0");
    put_weights(W, 0, TENSORS,
                (struct wrong){.rename = "lm_head.weight", .to = "model.layers.0.self_attn.sinks"});
    refuse("m", ERR_UNSUPPORTED,
           "/model.safetensors: tensor model.layers.0.self_attn.sinks is no "
           "part of this family as supported here");
    put_weights(W, 0, TENSORS,
                (struct wrong){.rename = "model.layers.0.mlp.up_proj.weight",
                               .to = "model.layers.0.mlp.up_proj.qweight"});
    refuse("m", ERR_UNSUPPORTED,
           "/model.safetensors: tensor model.layers.0.mlp.up_proj.qweight: "
           "AWQ and GPTQ weights are not supported; the nearest is a GGUF in "
           "Q4_K_M");
}

/* --- memory ------------------------------------------------------------------------------- */

/* jansson drops a byte of a string, and goes on, when memory runs out inside it (2.14): after such
 * a failure any outcome is right that neither crashes nor leaks. */
static bool json_failed;

static void *json_alloc(size_t bytes) {
    void *block = alloc_bytes(bytes);
    json_failed = json_failed || !block;
    return block;
}

static void fail_each(const char *name, const struct model_open_options *options) {
    uint64_t asked = UINT64_MAX;
    for (uint64_t n = 1; n <= asked; n++) {
        struct model *model = NULL;
        struct err_text text = {""};
        json_failed = false;
        alloc_fail_at(n, 0);
        enum err e = model_open(name, options, &text, &model);
        asked = alloc_count();
        alloc_fail_at(0, 0);
        bool is_failed = n <= asked;
        if (!json_failed && (e != (is_failed ? ERR_MEMORY : ERR_OK) || (e && !text.text[0])))
            fail_msg("%s: allocation %d of %d: %s, \"%s\"", name, (int) n, (int) asked, err_name(e),
                     text.text);
        if (!e) model_close(model);
        else assert_null(model);
        if (json_failed) asked = UINT64_MAX; /* it may have ended early */
    }
}

static void memory_runs_out(void **state) {
    json_set_alloc_funcs(json_alloc, alloc_free);
    put_texts();
    put_weights("m/model.safetensors", 0, TENSORS, (struct wrong){0});
    put_gguf("good.gguf", (struct tiny){0});
    fail_each(in_folder("m"), &(struct model_open_options){0});
    fail_each(in_folder("good.gguf"), &(struct model_open_options){0});
    fail_each("tiny-llama-test", &(struct model_open_options){.is_dummy = true});
    fail_each(in_folder("m"), &(struct model_open_options){.is_dummy = true});
    json_set_alloc_funcs(malloc, free);
}

/* --- dummy weights of what is here -------------------------------------------------------- */

static void dummy_shapes(void **state) {
    struct model *model = NULL;
    struct err_text text = {""};
    put_texts(); /* no weights */
    struct model_open_options options = {.is_dummy = true, .dummy_type = TENSOR_BF16};
    if (model_open(in_folder("m"), &options, &text, &model)) fail_msg("%s", text.text);
    assert_int_equal(model_get_spec(model)->hidden_size, 8);
    assert_int_equal(model_get_spec(model)->eos_count, 2);
    assert_string_equal(model_chat_template(model), "D");
    model_close(model);
    /* Texts and end tokens of one, shape of another. */
    options.shape = "tiny-llama-test";
    if (model_open(in_folder("m"), &options, &text, &model)) fail_msg("%s", text.text);
    assert_int_equal(model_get_spec(model)->hidden_size, 64);
    assert_int_equal(model_get_spec(model)->eos_ids[0], 3);
    assert_string_equal(model_get_spec(model)->name, "m");
    model_close(model);
    options.shape = in_folder("m/config.json");
    if (model_open("not here", &options, &text, &model)) fail_msg("%s", text.text);
    assert_int_equal(model_get_spec(model)->hidden_size, 8);
    assert_string_equal(model_get_spec(model)->name, "not here");
    assert_string_equal(model_chat_template(model), model_stand_in_template);
    model_close(model);
    put_gguf("good.gguf", (struct tiny){0});
    options.shape = NULL;
    options.dummy_type = TENSOR_Q8_0;
    if (model_open(in_folder("good.gguf"), &options, &text, &model)) fail_msg("%s", text.text);
    assert_int_equal(model_get_spec(model)->weight_type, TENSOR_Q8_0);
    assert_string_equal(model_chat_template(model), "{{ messages }}");
    model_close(model);
    assert_int_equal(model_open("no/such-shape", &options, &text, &model), ERR_NOT_FOUND);
    assert_string_equal(text.text,
                        "no/such-shape: no such file or folder, and no shape of that name in the "
                        "catalogue: name a config.json, or a model as published");
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, folder_make, folder_remove)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(demo_model), IN_FOLDER(tiny_gguf),       IN_FOLDER(digests),
        IN_FOLDER(gguf_errors),       IN_FOLDER(hf_folder),       IN_FOLDER(hf_index),
        IN_FOLDER(hf_errors),         IN_FOLDER(memory_runs_out), IN_FOLDER(dummy_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
