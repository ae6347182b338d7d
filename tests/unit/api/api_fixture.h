/* api_fixture - what the tests of this room share: a vocabulary in which every byte is a token
 * (so that characters are cut in every possible way), options around it, small helpers. */
#ifndef GRAMME_TESTS_API_FIXTURE_H
#define GRAMME_TESTS_API_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "api/api.h"
#include "base/alloc.h"
#include "base/arena.h"
#include "base/buf.h"
#include "token/tokenizer.h"

/* Ids 0..255 are the bytes; then the specials and a few longer tokens. */
enum { ID_START = 256, ID_END = 257, ID_EXTRA = 258, FIXTURE_VOCAB = 260 };

/* GPT-2's spelling of a byte as a character. */
static inline size_t fixture_spell_byte(unsigned byte, char *out) {
    unsigned code = byte;
    bool is_plain = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    if (!is_plain) {
        unsigned rank = 0;
        for (unsigned b = 0; b < byte; b++)
            if (!((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174)) rank++;
        code = 256 + rank;
    }
    if (code < 0x80) {
        out[0] = (char) code;
        return 1;
    }
    out[0] = (char) (0xc0 | code >> 6);
    out[1] = (char) (0x80 | (code & 63));
    return 2;
}

static inline struct tokenizer *fixture_tokenizer(void) {
    static char spelled[256][2];
    struct tokenizer_string tokens[FIXTURE_VOCAB];
    int32_t types[FIXTURE_VOCAB];
    for (unsigned b = 0; b < 256; b++) {
        tokens[b] = (struct tokenizer_string){spelled[b], fixture_spell_byte(b, spelled[b])};
        types[b] = 1;
    }
    static const char *const more[] = {"<|im_start|>", "<|im_end|>", "<|extra|>", "he"};
    for (unsigned i = 0; i < 4; i++) {
        tokens[256 + i] = (struct tokenizer_string){more[i], strlen(more[i])};
        types[256 + i] = i < 3 ? 3 : 1;
    }
    struct tokenizer_string merge = {"h e", 3};
    struct tokenizer_vocab vocab = {
        .model = {"gpt2", 4},
        .pre = {"gpt-2", 5},
        .tokens = tokens,
        .token_count = FIXTURE_VOCAB,
        .token_types = types,
        .merges = &merge,
        .merge_count = 1,
        .bos_id = ID_START,
        .eos_id = ID_END,
        .unk_id = TOKENIZER_NONE,
        .pad_id = TOKENIZER_NONE,
    };
    struct err_text text = {""};
    struct tokenizer *tokenizer = NULL;
    if (tokenizer_open_vocab(&vocab, &text, &tokenizer)) fail_msg("vocabulary: %s", text.text);
    return tokenizer;
}

static const uint32_t fixture_eos[] = {ID_END};

static inline struct api_options fixture_options(const struct tokenizer *tokenizer) {
    struct api_options options;
    api_options_init(&options);
    options.served_names[0] = "org/test-model";
    options.served_names[1] = "alias";
    options.served_name_count = 2;
    options.tokenizer = tokenizer;
    options.model_len_max = 200;
    options.vocab_size = FIXTURE_VOCAB;
    options.eos_ids = fixture_eos;
    options.eos_count = 1;
    return options;
}

/* xorshift64; the seed is printed by who draws it. */
static inline uint64_t fixture_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

#endif
