/* token_decoder - ids to text, one id at a time.
 *
 * Byte-level vocabularies give bytes; a byte-fallback one gives whole characters, and bytes only
 * by its <0xNN> tokens.  Bytes of a character that is not complete are held back.  Bytes that
 * can never become one are U+FFFD: one for each broken character, as the reference prints
 * byte-level text; one for each byte in a run of byte tokens. */
#include <string.h>

#include "base/buf.h"
#include "token/token_unicode.h"
#include "token/tokenizer_inside.h"

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

void token_decoder_init(struct token_decoder *decoder, const struct tokenizer *tokenizer,
                        bool skip_special) {
    *decoder = (struct token_decoder){.tokenizer = tokenizer,
                                      .skip_special = skip_special,
                                      .strip_left = (uint8_t) tokenizer->strip_left};
}

/* Whole characters on their way out, past the spaces that the decoder strips from the front. */
static void emit(struct token_decoder *decoder, const void *data, size_t bytes, struct buf *out) {
    const char *text = data;
    while (decoder->strip_left && bytes) {
        if (text[0] != ' ') {
            decoder->strip_left = 0;
            break;
        }
        decoder->strip_left--;
        text++;
        bytes--;
    }
    buf_add(out, text, bytes);
}

static void emit_broken(struct token_decoder *decoder, uint32_t bytes, struct buf *out) {
    uint32_t count = decoder->tokenizer->decoder == TOKENIZER_DECODE_BYTES ? 1 : bytes;
    for (uint32_t i = 0; i < count; i++) emit(decoder, REPLACEMENT, 3, out);
}

/* Tries to complete the held character with the bytes that came; gives how many it took. */
static size_t complete_held(struct token_decoder *decoder, const uint8_t *data, size_t bytes,
                            struct buf *out) {
    uint8_t joined[8];
    uint32_t held = decoder->held_count;
    size_t more = bytes < 4 ? bytes : 4;
    memcpy(joined, decoder->held, held);
    memcpy(joined + held, data, more);
    uint32_t broken;
    bool may_continue;
    uint32_t length = token_unicode_check(joined, held + more, &broken, &may_continue);
    if (!length && may_continue) {
        memcpy(decoder->held, joined, held + more);
        decoder->held_count = (uint8_t) (held + more);
        return more;
    }
    decoder->held_count = 0;
    if (length) {
        emit(decoder, joined, length, out);
        return length - held;
    }
    emit_broken(decoder, broken, out);
    return broken - held;
}

static void add_bytes(struct token_decoder *decoder, const uint8_t *data, size_t bytes,
                      struct buf *out) {
    size_t at = 0;
    if (decoder->held_count && bytes) at = complete_held(decoder, data, bytes, out);
    while (at < bytes) {
        size_t valid = token_unicode_valid_bytes(data + at, bytes - at);
        emit(decoder, data + at, valid, out);
        at += valid;
        if (at == bytes) break;
        uint32_t broken;
        bool may_continue;
        uint32_t length = token_unicode_check(data + at, bytes - at, &broken, &may_continue);
        CHECK(!length);
        if (may_continue) {
            decoder->held_count = (uint8_t) (bytes - at);
            memcpy(decoder->held, data + at, bytes - at);
            break;
        }
        emit_broken(decoder, broken, out);
        at += broken;
    }
}

void token_decoder_add(struct token_decoder *decoder, uint32_t id, struct buf *out) {
    const struct tokenizer *tokenizer = decoder->tokenizer;
    size_t bytes;
    bool is_special;
    const uint8_t *token = (const uint8_t *) tokenizer_token(tokenizer, id, &bytes, &is_special);
    uint8_t flags = id < tokenizer->vocab.id_count ? tokenizer->vocab.flags[id] : 0;
    if (!(flags & TOKEN_VOCAB_PRESENT) || (is_special && decoder->skip_special)) return;
    bool is_first = !decoder->is_started;
    decoder->is_started = true;
    if (tokenizer->decoder == TOKENIZER_DECODE_BYTES || flags & TOKEN_VOCAB_BYTE) {
        add_bytes(decoder, token, bytes, out);
        return;
    }
    token_decoder_finish(decoder, out); /* a run of byte tokens ends here */
    if (tokenizer->decoder == TOKENIZER_DECODE_JOIN && !is_first) emit(decoder, " ", 1, out);
    if (is_first && tokenizer->is_first_bare) {
        /* All its marks go, wherever they stand; its own spaces stay. */
        size_t raw_bytes;
        const uint8_t *raw = token_vocab_token(&tokenizer->vocab, id, &raw_bytes);
        for (size_t i = 0; i < raw_bytes;) {
            size_t mark_bytes = tokenizer->decode_mark_bytes;
            if (raw_bytes - i >= mark_bytes &&
                !memcmp(raw + i, tokenizer->decode_mark, mark_bytes)) {
                i += mark_bytes;
            } else {
                emit(decoder, raw + i, 1, out);
                i++;
            }
        }
        return;
    }
    emit(decoder, token, bytes, out);
}

void token_decoder_finish(struct token_decoder *decoder, struct buf *out) {
    if (decoder->held_count) emit_broken(decoder, decoder->held_count, out);
    decoder->held_count = 0;
}
