/* chat_filter - what stands behind | and behind `is`. */
#ifndef GRAMME_CHAT_CHAT_FILTER_H
#define GRAMME_CHAT_CHAT_FILTER_H

#include "chat/chat_eval.h"

#define CHAT_FILTER_PARAMETERS_MAX 6

struct chat_filter_call {
    struct chat_run *run;
    const struct chat_value *in;
    const struct chat_value *p; /* parameters by position; CHAT_MISSING when not given */
    const struct chat_args *args;
    uint8_t variant;
    struct chat_value *out;
};

struct chat_filter_entry {
    const char *name; /* NULL ends a table */
    uint8_t variant;
    uint8_t required;
    bool is_free; /* takes any arguments */
    enum err (*call)(const struct chat_filter_call *call);
    const char *parameters[CHAT_FILTER_PARAMETERS_MAX];
};

extern const struct chat_filter_entry chat_filter_text_table[];
extern const struct chat_filter_entry chat_filter_list_table[];

/* The number of a filter or test, CHAT_NODE_NO_SLOT when there is none. */
uint32_t chat_filter_find(const char *name, uint32_t bytes);
uint32_t chat_filter_find_test(const char *name, uint32_t bytes);
MUST_USE enum err chat_filter_apply(struct chat_run *run, uint32_t filter,
                                    const struct chat_value *in, const struct chat_args *args,
                                    struct chat_value *out);
MUST_USE enum err chat_filter_test(struct chat_run *run, uint32_t test, const struct chat_value *in,
                                   const struct chat_args *args, bool *out);

#endif
