/* bad_words - see bad_words.h. */
#include "api/bad_words.h"

#include "base/buf.h"

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static enum err add_spaced(struct bad_words *words, const struct tokenizer *tokenizer,
                           struct token_scratch *scratch, const char *word, size_t bytes,
                           struct err_text *text) {
    struct buf spaced;
    buf_init(&spaced, 0);
    buf_add_byte(&spaced, ' ');
    buf_add(&spaced, word, bytes);
    enum err e = buf_error(&spaced);
    if (!e)
        e = tokenizer_encode(tokenizer, scratch, (const char *) spaced.data, spaced.bytes, NULL, 0,
                             0, 0, text, &words->ids);
    buf_release(&spaced);
    return e;
}

enum err bad_words_add(struct bad_words *words, const struct tokenizer *tokenizer,
                       struct token_scratch *scratch, const char *word, size_t bytes,
                       struct err_text *text) {
    CHECK(words->count + 2 <= SAMPLING_BAD_WORDS_MAX);
    while (bytes && is_space(*word)) word++, bytes--;
    uint32_t plain_at = words->ids.count;
    enum err e =
        tokenizer_encode(tokenizer, scratch, word, bytes, NULL, 0, 0, 0, text, &words->ids);
    if (e) return e;
    uint32_t plain = words->ids.count - plain_at, spaced_at = words->ids.count;
    if (plain) words->lengths[words->count++] = plain;
    e = add_spaced(words, tokenizer, scratch, word, bytes, text);
    if (e) return e;
    if (words->ids.count - spaced_at == plain && plain &&
        words->ids.ids[spaced_at] != words->ids.ids[plain_at])
        words->lengths[words->count++] = plain;
    else words->ids.count = spaced_at;
    if (words->ids.count > SAMPLING_BAD_WORD_IDS_MAX)
        return err_set(text, ERR_LIMIT, "may have at most %d tokens in all",
                       SAMPLING_BAD_WORD_IDS_MAX);
    return ERR_OK;
}

void bad_words_release(struct bad_words *words) {
    tokenizer_ids_release(&words->ids);
    words->count = 0;
}
