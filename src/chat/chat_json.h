/* chat_json - JSON in and out of templates: the variables, |tojson, |from_json. */
#ifndef GRAMME_CHAT_CHAT_JSON_H
#define GRAMME_CHAT_CHAT_JSON_H

#include <jansson.h>

#include "chat/chat_run.h"

/* Python's json.dumps, as transformers calls it. */
struct chat_json_style {
    struct chat_value indent; /* a text; CHAT_MISSING: all on one line */
    struct chat_value item_separator;
    struct chat_value key_separator;
    bool ensure_ascii;
    bool sort_keys;
};

/* From the parameters ensure_ascii, indent, separators, sort_keys. */
MUST_USE enum err chat_json_style(struct chat_run *run, const struct chat_value parameters[4],
                                  struct chat_json_style *out);
MUST_USE enum err chat_json_print(struct chat_run *run, const struct chat_value *value,
                                  const struct chat_json_style *style, struct chat_value *out);
MUST_USE enum err chat_json_parse(struct chat_run *run, const struct chat_value *text,
                                  struct chat_value *out);
/* The value of JSON that outlives the rendering; its strings are marked when is_user. */
MUST_USE enum err chat_json_value(struct chat_run *run, const json_t *json, bool is_user,
                                  struct chat_value *out);

#endif
