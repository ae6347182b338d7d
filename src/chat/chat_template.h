/* chat_template - a model's Jinja template: messages in, the prompt's bytes out.
 *
 * The subset of Jinja that real templates use (facts/engines.md 8.5), byte for byte as Python
 * jinja2 renders it the way transformers sets it up: trim_blocks, lstrip_blocks, loopcontrols,
 * tojson without HTML escapes, raise_exception, strftime_now.  Bounded in steps, depth and
 * output.  A template is parsed once and never changes: any number of threads may render it.
 *
 * Strings that came out of `messages` (and tools, documents) carry a mark, and the ranges of the
 * output that they became are returned: text of a user can never act as a special token. */
#ifndef GRAMME_CHAT_CHAT_TEMPLATE_H
#define GRAMME_CHAT_CHAT_TEMPLATE_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct chat_template;

struct chat_range {
    size_t first;
    size_t end;
};

struct chat_prompt {
    struct buf text;
    struct chat_range *user_ranges; /* owned; sorted, disjoint, not adjacent */
    size_t range_count;
};

struct chat_limits {
    uint64_t steps_max;      /* statements and expressions evaluated; 0: 10 million */
    uint32_t depth_max;      /* nesting of expressions, blocks, calls; 0: 128 */
    size_t output_bytes_max; /* 0: 64 MiB */
    size_t memory_bytes_max; /* values alive and dead of one rendering; 0: 256 MiB */
};

/* Parses.  ERR_FORMAT / ERR_UNSUPPORTED: "template line N: reason". */
MUST_USE enum err chat_template_create(const char *source, size_t bytes, struct err_text *text,
                                       struct chat_template **out);
void chat_template_destroy(struct chat_template *chat_template);

/* variables: a JSON object with messages, tools, add_generation_prompt, bos_token, ... as the
 * template's globals; transformers always gives tools and documents, null when there are none.
 * Strings below `user_keys` (a NULL-terminated list of names of globals;
 * NULL: messages, tools, documents) are the user's.  now_s is what strftime_now sees (seconds
 * since 1970, local time).  ERR_USAGE: the template's own raise_exception, its message in *text
 * (nothing added); ERR_FORMAT: "template line N: reason"; ERR_LIMIT: a bound. On error *out is
 * untouched. */
MUST_USE enum err chat_template_render(const struct chat_template *chat_template,
                                       const json_t *variables, const char *const *user_keys,
                                       const struct chat_limits *limits, int64_t now_s,
                                       struct err_text *text, struct chat_prompt *out);
void chat_template_release_prompt(struct chat_prompt *prompt);

/* Whether the template's text names this global (the API tells "tools are ignored" from it). */
bool chat_template_uses(const struct chat_template *chat_template, const char *name);

#endif
