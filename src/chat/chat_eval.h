/* chat_eval - expressions: what they are worth, with the answers of Python and of jinja2's
 * immutable sandbox (methods that change a list or a dict are undefined). */
#ifndef GRAMME_CHAT_CHAT_EVAL_H
#define GRAMME_CHAT_CHAT_EVAL_H

#include "chat/chat_node.h"
#include "chat/chat_run.h"

#define CHAT_EVAL_ARGS_ROOM 6u

struct chat_named {
    struct chat_value name;
    struct chat_value value;
};

/* Arguments of one call; small ones need no arena. */
struct chat_args {
    uint32_t count;
    uint32_t named_count;
    uint32_t room;
    uint32_t named_room;
    struct chat_value *values;
    struct chat_named *named;
    struct chat_value first_values[CHAT_EVAL_ARGS_ROOM];
    struct chat_named first_named[CHAT_EVAL_ARGS_ROOM];
};

MUST_USE enum err chat_eval(struct chat_run *run, struct chat_frame *frame,
                            const struct chat_node *node, struct chat_value *out);
/* The steps of a chain whose base has the value *value. */
MUST_USE enum err chat_eval_steps(struct chat_run *run, struct chat_frame *frame,
                                  const struct chat_node *step, struct chat_value *value);
/* caller: an argument `caller` more, or NULL. */
MUST_USE enum err chat_eval_args(struct chat_run *run, struct chat_frame *frame,
                                 const struct chat_node *arg, const struct chat_value *caller,
                                 struct chat_args *out);
MUST_USE enum err chat_eval_call(struct chat_run *run, const struct chat_value *callee,
                                 struct chat_args *args, struct chat_value *out);
/* object.name and object[key]; undefined when it is not there. */
MUST_USE enum err chat_eval_attr(struct chat_run *run, const struct chat_value *object,
                                 const struct chat_value *name, uint16_t method,
                                 struct chat_value *out);
MUST_USE enum err chat_eval_item(struct chat_run *run, const struct chat_value *object,
                                 const struct chat_value *key, struct chat_value *out);
MUST_USE enum err chat_eval_arith(struct chat_run *run, uint8_t op, const struct chat_value *a,
                                  const struct chat_value *b, struct chat_value *out);
MUST_USE enum err chat_eval_compare(struct chat_run *run, uint8_t op, const struct chat_value *a,
                                    const struct chat_value *b, bool *out);
/* Gives the parameters their values by position and name.  values[i] stays CHAT_MISSING when
 * optional and absent.  names: "a", "b", ..., NULL. */
MUST_USE enum err chat_eval_bind(struct chat_run *run, const char *what, const char *const *names,
                                 uint32_t required, const struct chat_args *args,
                                 struct chat_value *values);
/* An argument that must be an integer (absent: what a missing one counts as), or a string. */
MUST_USE enum err chat_eval_need_int(struct chat_run *run, const struct chat_value *value,
                                     int64_t absent, int64_t *out);
MUST_USE enum err chat_eval_need_text(struct chat_run *run, const struct chat_value *value);
/* Given, and not None. */
bool chat_eval_is_given(const struct chat_value *value);
/* A position in Python's way: negative from the end; true for an int or bool. */
MUST_USE bool chat_eval_index(const struct chat_value *value, int64_t *out);
/* An activation of a function of the template. */
struct chat_frame *chat_eval_frame(struct chat_run *run, const struct chat_function *function,
                                   struct chat_frame *up);

#endif
