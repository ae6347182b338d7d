/* chat_pieces - texts cut into lists and put together again, for methods and filters. */
#ifndef GRAMME_CHAT_CHAT_PIECES_H
#define GRAMME_CHAT_CHAT_PIECES_H

#include "chat/chat_run.h"

/* text.split(separator, limit); separator NULL: white space; limit < 0: all. */
MUST_USE enum err chat_pieces_split(struct chat_run *run, const struct chat_value *text,
                                    const struct chat_value *separator, int64_t limit,
                                    bool from_right, struct chat_value *out);
MUST_USE enum err chat_pieces_split_lines(struct chat_run *run, const struct chat_value *text,
                                          bool keeps_ends, struct chat_value *out);
/* Pads a text on both sides to a width in code points. */
MUST_USE enum err chat_pieces_pad(struct chat_run *run, const struct chat_value *text, int64_t left,
                                  int64_t right, const struct chat_value *fill,
                                  struct chat_value *out);
MUST_USE enum err chat_pieces_center(struct chat_run *run, const struct chat_value *text,
                                     int64_t width, const struct chat_value *fill,
                                     struct chat_value *out);
/* separator.join(iterable); any: items become text first, as in the filter. */
MUST_USE enum err chat_pieces_join(struct chat_run *run, const struct chat_value *separator,
                                   const struct chat_value *iterable, bool any,
                                   struct chat_value *out);

#endif
