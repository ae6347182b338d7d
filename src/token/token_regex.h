/* token_regex - a split pattern that no hand-written splitter knows, by PCRE2's JIT.
 *
 * Compiled once, then read-only; what a match needs is the caller's.  \s, \p{L} and the other
 * classes that the reference's Unicode version and PCRE2's disagree on are written out from
 * token_unicode's tables before PCRE2 sees the pattern. */
#ifndef GRAMME_TOKEN_TOKEN_REGEX_H
#define GRAMME_TOKEN_TOKEN_REGEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct token_regex;

/* A pattern (is_literal: a plain string).  ERR_UNSUPPORTED when PCRE2 does not take it. */
MUST_USE enum err token_regex_create(const char *pattern, size_t bytes, bool is_literal,
                                     struct err_text *text, struct token_regex **out);
void token_regex_destroy(struct token_regex *regex);
uint64_t token_regex_digest(const struct token_regex *regex);
/* What one thread's matches need; NULL without memory. */
void *token_regex_match_create(void);
void token_regex_match_destroy(void *match);
/* The first match at or behind `from` (<= end), which may be empty; false when there is none.
 * Lookbehinds see the text before `from`.  ERR_UNSUPPORTED when PCRE2 gives up on the text. */
MUST_USE enum err token_regex_find(const struct token_regex *regex, void *match,
                                   const uint8_t *text, size_t from, size_t end, bool *is_found,
                                   size_t *match_first, size_t *match_end);

#endif
