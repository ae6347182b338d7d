/* chat_grammar - expressions of a template, and the tools that statements are read with. */
#ifndef GRAMME_CHAT_CHAT_GRAMMAR_H
#define GRAMME_CHAT_CHAT_GRAMMAR_H

#include "chat/chat_parser.h"

#define CHAT_GRAMMAR_ARGUMENTS_MAX 64u
#define CHAT_GRAMMAR_CONDITIONS_MAX 16u /* a if b if c ...: each nests the one before */

struct chat_parser {
    struct chat_template *chat_template;
    const struct chat_token *at;
    uint32_t depth;
    struct err_text *text;
};

/* Where a list of expressions stands: what may be in it and what ends it. */
enum chat_tuple {
    CHAT_TUPLE_OUTPUT,     /* {{ a, b }} and the right side of set */
    CHAT_TUPLE_BRACKETS,   /* (a, b) */
    CHAT_TUPLE_TARGET,     /* for a, b in */
    CHAT_TUPLE_SET_TARGET, /* set a, ns.b = */
    CHAT_TUPLE_ITERABLE,   /* in a, b: no inline if */
    CHAT_TUPLE_TEST,       /* if a, b: no inline if */
};

MUST_USE enum err chat_grammar_fail(struct chat_parser *parser, uint32_t line, const char *format,
                                    ...) PRINTF_LIKE(3, 4);
MUST_USE enum err chat_grammar_unexpected(struct chat_parser *parser);
MUST_USE enum err chat_grammar_node(struct chat_parser *parser, enum chat_node_kind kind,
                                    uint32_t line, struct chat_node **out);
MUST_USE enum err chat_grammar_enter(struct chat_parser *parser);
bool chat_grammar_is_op(const struct chat_parser *parser, uint32_t op);
bool chat_grammar_is_name(const struct chat_token *token, const char *name);
bool chat_grammar_skip_op(struct chat_parser *parser, uint32_t op);
bool chat_grammar_skip_name(struct chat_parser *parser, const char *name);
MUST_USE enum err chat_grammar_expect_op(struct chat_parser *parser, uint32_t op);
MUST_USE enum err chat_grammar_expression(struct chat_parser *parser, struct chat_node **out);
MUST_USE enum err chat_grammar_tuple(struct chat_parser *parser, enum chat_tuple how,
                                     struct chat_node **out);
/* The filter behind a | (already read), as a step of *node. */
MUST_USE enum err chat_grammar_filter(struct chat_parser *parser, struct chat_node **node);

#endif
