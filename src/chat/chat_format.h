/* chat_format - Python's two ways to format a text: "%s" % x and "{}".format(x). */
#ifndef GRAMME_CHAT_CHAT_FORMAT_H
#define GRAMME_CHAT_CHAT_FORMAT_H

#include "chat/chat_eval.h"

MUST_USE enum err chat_format_percent(struct chat_run *run, const struct chat_value *text,
                                      const struct chat_value *values, struct chat_value *out);
MUST_USE enum err chat_format_braces(struct chat_run *run, const struct chat_value *text,
                                     const struct chat_args *args, struct chat_value *out);

#endif
