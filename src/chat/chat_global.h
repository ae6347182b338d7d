/* chat_global - the functions every template may call: range, namespace, raise_exception ... */
#ifndef GRAMME_CHAT_CHAT_GLOBAL_H
#define GRAMME_CHAT_CHAT_GLOBAL_H

#include "chat/chat_eval.h"

/* The value of a global of that name, CHAT_MISSING when there is none. */
struct chat_value chat_global_find(const char *name, uint32_t bytes);
MUST_USE enum err chat_global_call(struct chat_run *run, uint8_t function,
                                   const struct chat_args *args, struct chat_value *out);
/* Calls a joiner. */
MUST_USE enum err chat_global_join(struct chat_run *run, const struct chat_value *joiner,
                                   const struct chat_args *args, struct chat_value *out);

#endif
