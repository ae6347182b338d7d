/* chat_exec - statements: what a template writes. */
#ifndef GRAMME_CHAT_CHAT_EXEC_H
#define GRAMME_CHAT_CHAT_EXEC_H

#include "chat/chat_eval.h"

/* The whole template into run->out. */
MUST_USE enum err chat_exec_template(struct chat_run *run,
                                     const struct chat_template *chat_template);
/* Calls a macro; *out is what it wrote. */
MUST_USE enum err chat_exec_macro(struct chat_run *run, const struct chat_macro *macro,
                                  const struct chat_args *args, struct chat_value *out);

#endif
