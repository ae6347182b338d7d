/* token_added - the added tokens of a vocabulary: what is found in a text before it is split.
 *
 * As the reference does it: of the tokens that begin at a place the longest counts, then the
 * search goes on behind it.  Two sets: tokens matched in the text as it came, and tokens matched
 * after the normalizer.  Filled while a tokenizer opens, then read-only.
 *
 * A token is control when it is special, or when it has the shape of markup (<...>, [...]): such
 * a token (<tool_call>, <think>) steers a model as much as the special ones, whatever its file
 * says.  Control tokens are found only where no byte was written by a user; the others (runs of
 * spaces, words) are text and found anywhere. */
#ifndef GRAMME_TOKEN_TOKEN_ADDED_H
#define GRAMME_TOKEN_TOKEN_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "token/tokenizer.h"

#define TOKEN_ADDED_MAX 65536u      /* chosen: fifty times the most seen */
#define TOKEN_ADDED_BYTES_MAX 1024u /* of one token; bounds the search at each place */

enum token_added_flag {
    TOKEN_ADDED_SINGLE_WORD = 1,
    TOKEN_ADDED_LSTRIP = 2,
    TOKEN_ADDED_RSTRIP = 4,
    TOKEN_ADDED_NORMALIZED = 8,
    TOKEN_ADDED_SPECIAL = 16,
    TOKEN_ADDED_CONTROL = 32, /* set by token_added_add */
};

struct token_added_node {
    uint32_t child;   /* first, 0: none (the root is nobody's child) */
    uint32_t sibling; /* next, 0: none */
    uint32_t entry;   /* index + 1 of the token that ends here, 0: none */
    uint8_t byte;
};
struct token_added_trie {
    struct token_added_node *nodes;
    uint32_t node_count;
    uint32_t node_room;
    uint32_t roots[256]; /* by first byte, 0: none */
    uint32_t root_count;
    uint8_t only_root; /* the first byte of all patterns, when root_count is 1 */
};
struct token_added_entry {
    char *content; /* owned, as the file spells it */
    uint32_t bytes;
    char *pattern; /* owned, what is matched; it is also what the token prints as */
    uint32_t pattern_bytes;
    uint32_t id;
    uint8_t flags;
};
struct token_added {
    struct token_added_entry *entries;
    uint32_t entry_count;
    uint32_t entry_room;
    struct token_added_trie plain;      /* matched in the text as it came */
    struct token_added_trie normalized; /* matched after the normalizer */
};

/* What a user wrote, asked with places that never go back. */
struct token_added_user {
    const struct tokenizer_range *ranges;
    size_t range_count;
    size_t next;
    bool is_all;
    bool is_at_start; /* the text's first byte is the first of the whole text */
};

struct token_added_match {
    const struct token_added_entry *entry; /* NULL: nothing more */
    size_t first;
    size_t end;
};

void token_added_release(struct token_added *added);
/* `pattern` is what is matched: the content, or the normalizer's version of it.  A token without
 * bytes is left out, as the reference does. */
MUST_USE enum err token_added_add(struct token_added *added, uint32_t id, const char *content,
                                  size_t bytes, const char *pattern, size_t pattern_bytes,
                                  uint8_t flags);
/* The first match at or behind `from`. */
struct token_added_match token_added_find(const struct token_added *added,
                                          const struct token_added_trie *trie, const uint8_t *text,
                                          size_t from, size_t end, struct token_added_user *user);
bool token_added_touches_user(struct token_added_user *user, size_t first, size_t end);
/* The entry of an id, NULL when it is no added token's. */
const struct token_added_entry *token_added_content(const struct token_added *added,
                                                    const char *content, size_t bytes);

#endif
