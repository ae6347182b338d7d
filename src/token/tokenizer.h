/* tokenizer - text to token ids and back, exactly as the Hugging Face tokenizers library does.
 *
 * A tokenizer is made once and never changes: any number of threads may use one.  What a call
 * needs to remember (the word cache, scratch) lives in a struct token_scratch, one a thread.
 *
 * Special tokens: an added token that is special, or has the shape of markup (<...>, [...]: such
 * as <tool_call>, which its file may not call special), is matched only where every byte of it is
 * control text.  What a user wrote (a range of user_ranges) is never control; this is the one
 * place where we part from the reference on purpose (behaviour.md 5).  Added tokens that are plain
 * text (runs of spaces, words) are matched anywhere, as the reference does. */
#ifndef GRAMME_TOKEN_TOKENIZER_H
#define GRAMME_TOKEN_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define TOKENIZER_NONE UINT32_MAX /* "no such id" */

struct tokenizer;
struct token_scratch;

/* A vocabulary as a GGUF file holds it (facts/engines.md 8.4); everything is borrowed during
 * tokenizer_open_vocab only.  Strings are (pointer, bytes), not NUL-terminated. */
struct tokenizer_string {
    const char *data;
    size_t bytes;
};
struct tokenizer_vocab {
    struct tokenizer_string model; /* "gpt2" (byte-level BPE) or "llama" (SentencePiece BPE) */
    struct tokenizer_string pre;   /* "smollm", "llama-bpe", "qwen2", ...; may be empty */
    const struct tokenizer_string *tokens;
    uint32_t token_count;
    const float *scores;        /* token_count, or NULL */
    const int32_t *token_types; /* token_count, or NULL; 1 normal 2 unknown 3 control
                                   4 user defined 5 unused 6 byte */
    const struct tokenizer_string *merges;
    uint32_t merge_count;
    uint32_t bos_id, eos_id, unk_id, pad_id; /* TOKENIZER_NONE when absent */
    bool add_bos, add_eos, add_space_prefix;
};

/* tokenizer.json's bytes, with tokenizer_config.json's (NULL when there is none: bos and eos
 * tokens, add_bos_token).  ERR_FORMAT / ERR_UNSUPPORTED name the key. */
MUST_USE enum err tokenizer_open_json(const char *json, size_t json_bytes, const char *config_json,
                                      size_t config_bytes, struct err_text *text,
                                      struct tokenizer **out);
MUST_USE enum err tokenizer_open_vocab(const struct tokenizer_vocab *vocab, struct err_text *text,
                                       struct tokenizer **out);
void tokenizer_close(struct tokenizer *tokenizer);

uint32_t tokenizer_vocab_size(const struct tokenizer *tokenizer); /* highest id + 1 */
uint32_t tokenizer_bos(const struct tokenizer *tokenizer);        /* TOKENIZER_NONE: none */
uint32_t tokenizer_eos(const struct tokenizer *tokenizer);
uint32_t tokenizer_unk(const struct tokenizer *tokenizer);
/* The most bytes of text that one id can stand for: a prompt of n bytes has at least n / this
 * tokens.  UINT32_MAX where there is no such bound (tokens that strip white space, ...). */
uint32_t tokenizer_token_bytes_max(const struct tokenizer *tokenizer);
/* XXH3-64 over everything that decides ids: equal digests tokenize alike. */
uint64_t tokenizer_digest(const struct tokenizer *tokenizer);
/* The id of a token by its text as the vocabulary spells it (an added token's content, else the
 * raw vocabulary entry); TOKENIZER_NONE when there is none. */
uint32_t tokenizer_find(const struct tokenizer *tokenizer, const char *text, size_t bytes);
/* The bytes a token stands for in the middle of a text; *is_special when it is a control token.
 * An id outside the vocabulary gives 0 bytes.  The pointer lives as long as the tokenizer. */
const char *tokenizer_token(const struct tokenizer *tokenizer, uint32_t id, size_t *bytes,
                            bool *is_special);

/* --- text to ids ------------------------------------------------------------------------- */

/* One thread's memory: a warm word cache of at most cache_bytes (0: none). */
MUST_USE enum err token_scratch_create(const struct tokenizer *tokenizer, size_t cache_bytes,
                                       struct token_scratch **out);
void token_scratch_destroy(struct token_scratch *scratch);

/* The byte range [first, end) of the text that a user wrote.  Ranges are sorted, disjoint. */
struct tokenizer_range {
    size_t first;
    size_t end;
};

struct tokenizer_ids {
    uint32_t *ids; /* owned */
    uint32_t count;
    uint32_t room;
};
void tokenizer_ids_release(struct tokenizer_ids *ids);

enum tokenizer_flags {
    TOKENIZER_ADD_SPECIAL = 1,   /* what the post-processor adds (BOS, EOS) */
    TOKENIZER_PARSE_SPECIAL = 2, /* special tokens are recognised in control text; without it
                                    the whole text is as if a user wrote it */
};

/* Appends the ids of text (valid UTF-8, else ERR_FORMAT with the byte offset; a GGUF or JSON
 * tokenizer sees the same bytes) to *ids.  user_ranges may be NULL.  ERR_LIMIT when more than
 * id_count_max ids would come out (0: no limit); ids is then truncated to what stood before.
 * Linear time on any input. */
MUST_USE enum err tokenizer_encode(const struct tokenizer *tokenizer, struct token_scratch *scratch,
                                   const char *text, size_t bytes,
                                   const struct tokenizer_range *user_ranges, size_t range_count,
                                   unsigned flags, uint32_t id_count_max, struct err_text *text_out,
                                   struct tokenizer_ids *ids);

/* --- ids to text ------------------------------------------------------------------------- */

/* The decoder of one stream, small enough to stand in a request.  Each call gives the text that
 * became certain with this id: whole characters only (bytes of an unfinished character are held
 * back; bytes that can never become one come out as U+FFFD, as the reference prints them). */
struct token_decoder {
    const struct tokenizer *tokenizer;
    uint8_t held[8]; /* an unfinished character */
    uint8_t held_count;
    uint8_t strip_left; /* leading spaces that would still be taken off */
    bool is_started;    /* a token has come (rules of the first token) */
    bool skip_special;  /* control tokens give no text */
};
void token_decoder_init(struct token_decoder *decoder, const struct tokenizer *tokenizer,
                        bool skip_special);
struct buf;
/* Appends to *out.  The text of all calls and one token_decoder_finish, joined, equals the
 * reference's decode of all ids, but for one case: a run of byte-fallback tokens (<0xNN>) that
 * holds whole characters and, behind them, broken bytes.  The reference makes the whole run
 * U+FFFD, one a byte; here the whole characters went out before the broken bytes came. */
void token_decoder_add(struct token_decoder *decoder, uint32_t id, struct buf *out);
void token_decoder_finish(struct token_decoder *decoder, struct buf *out);

#endif
