#include "token/token_regex.h"
enum err token_regex_create(const char *pattern, size_t bytes, bool is_literal,
                            struct err_text *text, struct token_regex **out) {
    return ERR_UNSUPPORTED;
}
void token_regex_destroy(struct token_regex *regex) {}
uint64_t token_regex_digest(const struct token_regex *regex) { return 0; }
void *token_regex_match_create(void) { return NULL; }
void token_regex_match_destroy(void *match) {}
enum err token_regex_find(const struct token_regex *regex, void *match, const uint8_t *text,
                          size_t from, size_t end, bool *is_found, size_t *match_first,
                          size_t *match_end) {
    return ERR_UNSUPPORTED;
}
