/* tokenizer_golden - runs the tokenizer over a file of strings, for tokenizer_golden.py.
 *
 * usage: tokenizer_golden encode|encode-special|decode|decode-skip SOURCE IN OUT
 *
 * SOURCE is json:FILE[,CONFIG] or vocab:FILE.  All numbers are 32-bit little endian, a string is
 * its length and its bytes.  encode reads strings and writes for each a count and ids; decode
 * reads counts and ids and writes strings.  A vocab file: model, pre, token count, per token
 * (string, score as float, type), merge count, merge strings, bos, eos, unk, pad, add_bos,
 * add_eos, add_space_prefix. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "token/tokenizer.h"

struct input {
    uint8_t *data;
    size_t bytes;
    size_t at;
};

static void fail(const char *what, const char *why) {
    fprintf(stderr, "tokenizer_golden: %s: %s\n", what, why);
    exit(2);
}

static struct input load(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) fail(path, "cannot open");
    struct input input = {0};
    fseek(file, 0, SEEK_END);
    input.bytes = (size_t) ftell(file);
    rewind(file);
    input.data = malloc(input.bytes + 1);
    if (!input.data || fread(input.data, 1, input.bytes, file) != input.bytes) {
        fail(path, "cannot read");
    }
    fclose(file);
    return input;
}

static uint32_t take_number(struct input *input) {
    if (input->bytes - input->at < 4) fail("input", "too short");
    uint32_t number;
    memcpy(&number, input->data + input->at, 4);
    input->at += 4;
    return number;
}

static struct tokenizer_string take_string(struct input *input) {
    uint32_t bytes = take_number(input);
    if (input->bytes - input->at < bytes) fail("input", "too short");
    struct tokenizer_string string = {(const char *) input->data + input->at, bytes};
    input->at += bytes;
    return string;
}

static void *take_memory(size_t count, size_t size) {
    void *memory = calloc(count + 1, size);
    if (!memory) fail("input", "no memory");
    return memory;
}

static struct tokenizer *open_vocab(const char *path) {
    struct input input = load(path);
    struct tokenizer_vocab vocab = {0};
    vocab.model = take_string(&input);
    vocab.pre = take_string(&input);
    vocab.token_count = take_number(&input);
    struct tokenizer_string *tokens = take_memory(vocab.token_count, sizeof *tokens);
    float *scores = take_memory(vocab.token_count, sizeof *scores);
    int32_t *types = take_memory(vocab.token_count, sizeof *types);
    for (uint32_t i = 0; i < vocab.token_count; i++) {
        tokens[i] = take_string(&input);
        uint32_t bits = take_number(&input);
        memcpy(&scores[i], &bits, 4);
        types[i] = (int32_t) take_number(&input);
    }
    vocab.merge_count = take_number(&input);
    struct tokenizer_string *merges = take_memory(vocab.merge_count, sizeof *merges);
    for (uint32_t i = 0; i < vocab.merge_count; i++) merges[i] = take_string(&input);
    vocab.tokens = tokens;
    vocab.scores = scores;
    vocab.token_types = types;
    vocab.merges = merges;
    vocab.bos_id = take_number(&input);
    vocab.eos_id = take_number(&input);
    vocab.unk_id = take_number(&input);
    vocab.pad_id = take_number(&input);
    vocab.add_bos = take_number(&input);
    vocab.add_eos = take_number(&input);
    vocab.add_space_prefix = take_number(&input);
    struct err_text text = {{0}};
    struct tokenizer *tokenizer = NULL;
    if (tokenizer_open_vocab(&vocab, &text, &tokenizer)) fail(path, text.text);
    free(tokens);
    free(scores);
    free(types);
    free(merges);
    free(input.data);
    return tokenizer;
}

static struct tokenizer *open_json(char *paths) {
    char *comma = strchr(paths, ',');
    struct input config = {0};
    if (comma) {
        *comma = 0;
        config = load(comma + 1);
    }
    struct input json = load(paths);
    struct err_text text = {{0}};
    struct tokenizer *tokenizer = NULL;
    if (tokenizer_open_json((const char *) json.data, json.bytes, (const char *) config.data,
                            config.bytes, &text, &tokenizer)) {
        fail(paths, text.text);
    }
    free(json.data);
    free(config.data);
    return tokenizer;
}

static void put(FILE *out, const void *data, size_t bytes) {
    if (bytes && fwrite(data, 1, bytes, out) != bytes) fail("output", "cannot write");
}

static void put_number(FILE *out, uint32_t number) { put(out, &number, sizeof number); }

static void encode_all(const struct tokenizer *tokenizer, struct input *input, FILE *out,
                       unsigned flags) {
    struct token_scratch *scratch = NULL;
    if (token_scratch_create(tokenizer, 1 << 20, &scratch)) fail("scratch", "no memory");
    struct tokenizer_ids ids = {0};
    struct err_text text = {{0}};
    while (input->at < input->bytes) {
        struct tokenizer_string string = take_string(input);
        ids.count = 0;
        if (tokenizer_encode(tokenizer, scratch, string.data, string.bytes, NULL, 0, flags, 0,
                             &text, &ids)) {
            fail("encode", text.text);
        }
        put_number(out, ids.count);
        put(out, ids.ids, ids.count * sizeof *ids.ids);
    }
    tokenizer_ids_release(&ids);
    token_scratch_destroy(scratch);
}

static void decode_all(const struct tokenizer *tokenizer, struct input *input, FILE *out,
                       bool skip_special) {
    struct buf buf = {0};
    while (input->at < input->bytes) {
        uint32_t count = take_number(input);
        struct token_decoder decoder;
        token_decoder_init(&decoder, tokenizer, skip_special);
        buf_clear(&buf);
        for (uint32_t i = 0; i < count; i++) token_decoder_add(&decoder, take_number(input), &buf);
        token_decoder_finish(&decoder, &buf);
        put_number(out, (uint32_t) buf.bytes);
        put(out, buf.data, buf.bytes);
    }
    buf_release(&buf);
}

int main(int argc, char **argv) {
    if (argc != 5) fail("usage", "encode|encode-special|decode|decode-skip SOURCE IN OUT");
    struct tokenizer *tokenizer = NULL;
    if (!strncmp(argv[2], "json:", 5)) tokenizer = open_json(argv[2] + 5);
    if (!strncmp(argv[2], "vocab:", 6)) tokenizer = open_vocab(argv[2] + 6);
    if (!tokenizer) fail(argv[2], "neither json: nor vocab:");
    struct input input = load(argv[3]);
    FILE *out = fopen(argv[4], "wb");
    if (!out) fail(argv[4], "cannot open");
    unsigned flags = TOKENIZER_PARSE_SPECIAL;
    if (!strcmp(argv[1], "encode-special")) flags |= TOKENIZER_ADD_SPECIAL;
    if (!strncmp(argv[1], "encode", 6)) {
        encode_all(tokenizer, &input, out, flags);
    } else {
        decode_all(tokenizer, &input, out, !strcmp(argv[1], "decode-skip"));
    }
    if (fclose(out)) fail(argv[4], "cannot write");
    free(input.data);
    tokenizer_close(tokenizer);
    return 0;
}
