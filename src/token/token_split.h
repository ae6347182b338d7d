/* token_split - the split patterns of the known model families, written by hand.
 *
 * Each is its regular expression (facts in the .c) as a function of the position: it gives the
 * end of the piece that starts there, alternatives tried in the pattern's order and with its
 * backtracking.  Every pattern here matches at every position, so the pieces cover the text.
 * No state, no memory; a piece costs time in its length and that of the white space behind it. */
#ifndef GRAMME_TOKEN_TOKEN_SPLIT_H
#define GRAMME_TOKEN_TOKEN_SPLIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum token_split_kind {
    TOKEN_SPLIT_NONE, /* the whole text is one piece */
    TOKEN_SPLIT_GPT2,
    TOKEN_SPLIT_LLAMA3,
    TOKEN_SPLIT_QWEN2,
    TOKEN_SPLIT_QWEN35,
    TOKEN_SPLIT_GPT4O,
    TOKEN_SPLIT_TEKKEN,
    TOKEN_SPLIT_DIGIT,     /* one character that is a digit, or a run of others */
    TOKEN_SPLIT_NUMBER,    /* the same with \p{N}: StarCoder, SmolLM in GGUF */
    TOKEN_SPLIT_DIGIT_RUN, /* a run of digits, or a run of others */
};

/* The end of the piece at `at`, at < end; text[at..end) is valid UTF-8 and ends the subject (what
 * lies behind it is not looked at). */
size_t token_split_next(enum token_split_kind kind, const uint8_t *text, size_t at, size_t end);
/* The kind of a pattern as tokenizer.json spells it; TOKEN_SPLIT_NONE when it is not known. */
enum token_split_kind token_split_known(const char *pattern, size_t bytes);
/* The pattern of a kind, NULL for those that are no pattern. */
const char *token_split_pattern(enum token_split_kind kind);

#endif
