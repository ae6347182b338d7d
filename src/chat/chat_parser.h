/* chat_parser - tokens to the tree of chat_node.h, by jinja2's grammar.
 *
 * Recursive descent, bounded by CHAT_NODE_DEPTH_MAX. */
#ifndef GRAMME_CHAT_CHAT_PARSER_H
#define GRAMME_CHAT_CHAT_PARSER_H

#include "chat/chat_lexer.h"
#include "chat/chat_node.h"

/* Sets chat_template->body.  ERR_FORMAT, ERR_UNSUPPORTED, ERR_LIMIT: "template line N: reason". */
MUST_USE enum err chat_parser_read(struct chat_template *chat_template,
                                   const struct chat_token *tokens, struct err_text *text);

#endif
