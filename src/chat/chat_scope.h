/* chat_scope - which variable a name means, decided once per template as jinja2's compiler does.
 *
 * Loops, macros, call, filter, set and with blocks open a scope; if does not.  A scope starts by
 * loading what it uses (struct chat_scope): from the context, or a copy of the outer variable
 * that it will overwrite for itself.  Unknown filters and tests outside of if are errors here.
 * Reference for the rules: jinja2's idtracking and compiler modules, restated. */
#ifndef GRAMME_CHAT_CHAT_SCOPE_H
#define GRAMME_CHAT_CHAT_SCOPE_H

#include "chat/chat_node.h"

/* Fills slots, scopes and functions of the tree. */
MUST_USE enum err chat_scope_resolve(struct chat_template *chat_template, struct err_text *text);

#endif
