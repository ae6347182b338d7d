/* chat_method - the methods of str, list, tuple, dict, loop and cycler. */
#ifndef GRAMME_CHAT_CHAT_METHOD_H
#define GRAMME_CHAT_CHAT_METHOD_H

#include "chat/chat_eval.h"

/* The number of a method's name, whatever has it; 0: nothing has. */
uint16_t chat_method_find(const char *name, uint32_t bytes);
/* Whether an object of this kind has it. */
bool chat_method_has(uint16_t method, const struct chat_value *object);
/* Whether it would change the object: the sandbox refuses. */
bool chat_method_is_unsafe(uint16_t method, const struct chat_value *object);
MUST_USE enum err chat_method_call(struct chat_run *run, uint16_t method,
                                   const struct chat_value *object, struct chat_args *args,
                                   struct chat_value *out);
#endif
