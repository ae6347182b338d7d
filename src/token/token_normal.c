#include "token/token_normal.h"
enum err token_normal_run(const struct tokenizer *tokenizer, struct token_scratch *scratch,
                          const uint8_t *text, size_t first, size_t end, size_t text_bytes,
                          struct token_added_user *user, struct token_normal_text *out) {
    return ERR_UNSUPPORTED;
}
