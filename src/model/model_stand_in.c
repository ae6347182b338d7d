/* model_stand_in - see model_stand_in.h. */
#include "model/model_stand_in.h"

#include <string.h>

#include "base/alloc.h"

#define BYTES 256u
#define TOKEN_BYTES_MAX 16u /* the marker of a space, up to five syllables, NUL */

const char model_stand_in_template[] =
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}";

static size_t put_char(char *out, uint32_t code) {
    if (code < 0x80) {
        out[0] = (char) code;
        return 1;
    }
    out[0] = (char) (0xc0 | code >> 6);
    out[1] = (char) (0x80 | (code & 0x3f));
    return 2;
}

/* Byte-level BPE's letter for a byte: itself where it can be printed, else one from U+0100 on, in
 * order. */
static size_t put_byte(char *out, uint32_t byte) {
    uint32_t unprintable = 0;
    for (uint32_t i = 0; i <= byte; i++) {
        bool is_printable = (i > 0x20 && i < 0x7f) || (i > 0xa0 && i != 0xad);
        if (i == byte) return put_char(out, is_printable ? byte : 0x100 + unprintable);
        unprintable += !is_printable;
    }
    return 0;
}

/* A space and the number in syllables: each number its own word. */
static size_t put_word(char *out, uint32_t number) {
    static const char consonants[] = "bcdfghjklmnpqrstvwxz", vowels[] = "aeiou";
    size_t bytes = put_byte(out, ' ');
    do {
        out[bytes++] = consonants[number % 20];
        out[bytes++] = vowels[number / 20 % 5];
        number /= 100;
    } while (number);
    return bytes;
}

enum err model_stand_in_tokenizer(const struct model_spec *spec, struct err_text *text,
                                  struct tokenizer **out) {
    if (spec->vocab_size < BYTES)
        return err_set(text, ERR_UNSUPPORTED,
                       "%s: no tokenizer: a shape without files needs a vocabulary of at least %u",
                       spec->name, BYTES);
    struct tokenizer_string *tokens = alloc_array(spec->vocab_size, sizeof *tokens);
    char *bytes = alloc_array(spec->vocab_size, TOKEN_BYTES_MAX);
    enum err e = tokens && bytes ? ERR_OK : err_set(text, ERR_MEMORY, "no memory for a vocabulary");
    for (uint32_t id = 0; !e && id < spec->vocab_size; id++) {
        char *token = bytes + (size_t) id * TOKEN_BYTES_MAX;
        tokens[id].data = token;
        tokens[id].bytes = id < BYTES ? put_byte(token, id) : put_word(token, id - BYTES);
    }
    uint32_t eos_id = spec->eos_count ? spec->eos_ids[0] : TOKENIZER_NONE;
    const struct tokenizer_vocab vocab = {
        .model = {"gpt2", 4},
        .pre = {"", 0},
        .tokens = tokens,
        .token_count = spec->vocab_size,
        .bos_id = TOKENIZER_NONE,
        .eos_id = eos_id < spec->vocab_size ? eos_id : TOKENIZER_NONE,
        .unk_id = TOKENIZER_NONE,
        .pad_id = TOKENIZER_NONE,
    };
    if (!e) e = tokenizer_open_vocab(&vocab, text, out);
    alloc_free(tokens);
    alloc_free(bytes);
    return e;
}
